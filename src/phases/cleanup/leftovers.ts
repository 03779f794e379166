import { info, warning } from '@actions/core'
import { deferralProblems, forgetDeferred, listRebuilt, restoreDeferred } from '../../destination/deferral.ts'
import { lockTables } from '../../destination/schema-lock.ts'
import { dropStreamLogin, loginExists } from '../../destination/stream-login.ts'
import { dropTrial } from '../../destination/trial.ts'
import {
  grantsText,
  isSameGrant,
  mergeWriteGrants,
  missingGrants,
  openWriteAccess,
  requireGiven,
  type WriteGrant,
} from '../../destination/write-access.ts'
import { readStreamNote } from '../../ledger/hold.ts'
import { advance, COMMITTED, dropEntry, type Entry, readEntryIfAny } from '../../ledger/ledger.ts'
import { type Database, ident, qualified, relationExists, sqlState } from '../../runtime/database.ts'
import { refuse, UserError } from '../../runtime/errors.ts'
import { plural } from '../../runtime/progress.ts'
import { installedFence, removeFence } from '../../source/fence.ts'
import { HEARTBEAT, OUR_SCHEMA, readHeartbeatOwner } from '../../source/heartbeat.ts'
import { readPublication } from '../../source/publication.ts'
import { logSlotOf, readSlot, seizeAndDrop } from '../../source/slot.ts'

/** An object to remove. */
export interface Leftover {
  name: string
  /**
   * Whether to remove this object only after all others, because the next run needs it if one of them could not be
   * removed.
   */
  last?: true
  drop(): Promise<unknown>
}

interface Names {
  slot: string
  publication: string
}

/**
 * Finds this migration's objects on the source. Lists slots first, because they fill the disk.
 * @param decided whether to remove even a permanent fence, which is right once the rollback window is over
 */
export async function leftoversOnSource(
  source: Database,
  plan: Names | undefined,
  decided = false,
): Promise<Leftover[]> {
  const found: Leftover[] = []
  // Only runs of this migration read the change log, so it is safe to disconnect its reader.
  const log = plan && logSlotOf(plan.slot)
  if (log && (await readSlot(source, log))) found.push({ name: `slot ${log}`, drop: () => seizeAndDrop(source, log) })
  const slot = plan && (await readSlot(source, plan.slot))
  if (slot) found.push({ name: `slot ${plan.slot}`, drop: () => dropIdleSlot(source, plan.slot, slot.activePid) })
  if (plan && (await readPublication(source, plan.publication)))
    found.push({
      name: `publication ${plan.publication}`,
      drop: () => source.query(`DROP PUBLICATION ${ident(plan.publication)}`),
    })
  const fence = await installedFence(source)
  if (fence)
    found.push({
      name: `fence on ${plural(fence.tables.length, 'table')}`,
      drop: () => removeFence(source, fence.tables, decided),
    })
  if (await schemaExists(source, OUR_SCHEMA))
    found.push({ name: `schema ${OUR_SCHEMA} on the source`, drop: () => dropSourceSchema(source) })
  return found.map(orTold)
}

/** Adds to the error the names of other users' objects that block the drop. Such objects are never dropped. */
function orTold({ drop, ...leftover }: Leftover): Leftover {
  const { name } = leftover
  const told = (error: unknown) => {
    if (sqlState(error) !== '2BP01') throw error
    const { detail = '' } = error as { detail?: string }
    throw new UserError(
      'cleanup.foreign-objects',
      `${name} cannot be dropped, because it contains other users' objects, or they depend on it: ${detail.replaceAll('\n', '; ')}. Move or drop these objects, then rerun the step`,
    )
  }
  return { ...leftover, drop: () => drop().catch(told) }
}

async function dropIdleSlot(source: Database, slot: string, reader: number | null): Promise<void> {
  if (reader)
    throw new UserError('slot.in-use', `PID ${reader} is reading the slot ${slot}. Stop that replicator first`)
  await source.query('SELECT pg_catalog.pg_drop_replication_slot($1)', [slot])
}

/**
 * Drops the heartbeat and our schema in one transaction. If the schema has other objects, both remain: the heartbeat
 * shows the next run which migration the schema belongs to.
 */
async function dropSourceSchema(source: Database): Promise<void> {
  await source
    .query(`BEGIN; DROP TABLE IF EXISTS ${OUR_SCHEMA}.${HEARTBEAT}; DROP SCHEMA ${OUR_SCHEMA}; COMMIT`)
    .catch(async (error) => {
      await source.query('ROLLBACK').catch(() => {})
      throw error
    })
}

export async function leftoversOnTarget(
  target: Database,
  migration: string,
  entry: Entry | undefined,
): Promise<Leftover[]> {
  if (!entry) return []
  const { targetSchema } = entry.plan
  const { stagingSchema, trialSchema } = entry.facts
  const found: Leftover[] = []
  const known = await readEntryIfAny(target, migration)
  const login = known && (await readStreamNote(target, migration))?.login
  if (login && (await loginExists(target, login)))
    found.push({ name: `login ${login} of the stream`, drop: () => dropLiveLogin(target, login) })
  const taken = known ? await missingGrants(target, targetSchema, owedGrants(known)) : []
  if (taken.length)
    found.push({
      name: `revocation of ${taken.length} write privileges on the target`,
      drop: () => giveBack(target, migration, taken),
    })
  if (trialSchema && (await schemaExists(target, trialSchema)))
    found.push({ name: `trial schema ${trialSchema}`, drop: () => dropTrial(target, trialSchema) })
  if (stagingSchema && (await schemaExists(target, stagingSchema)))
    found.push({
      name: `staging schema ${stagingSchema}`,
      drop: () => target.query(`DROP SCHEMA IF EXISTS ${ident(stagingSchema)} CASCADE`),
    })
  if (await relationExists(target, qualified(targetSchema, HEARTBEAT)))
    found.push({
      name: `heartbeat ${targetSchema}.${HEARTBEAT} on the target`,
      drop: () => target.query(`DROP TABLE IF EXISTS ${qualified(targetSchema, HEARTBEAT)}`),
    })
  const tables = await fetchTables(target, migration)
  if (tables.length)
    found.push({
      name: `molt's own tables ${tables.map(({ schema, name }) => `${schema}.${name}`).join(' and ')}`,
      drop: () =>
        target.query(`DROP TABLE IF EXISTS ${tables.map(({ schema, name }) => qualified(schema, name)).join(', ')}`),
    })
  const back = await listRebuilt(target, migration)
  if (back.length)
    found.push({
      name: `the ledger's record of ${back.length} rebuilt indexes and constraints`,
      drop: () => forgetDeferred(target, migration, back),
    })
  if (known) found.push({ name: `ledger entry ${migration}`, last: true, drop: () => dropEntry(target, migration) })
  return found.map(orTold)
}

/**
 * The privileges that this migration has revoked and not restored. The commit restores those that `prepare` revoked, so
 * after it, only those that a rollback revoked are left.
 */
function owedGrants({ phase, facts }: Entry): WriteGrant[] {
  return mergeWriteGrants(COMMITTED.includes(phase) ? [] : (facts.writeAccess ?? []), facts.revokedAgain ?? [])
}

/**
 * Restores privileges. Those that could not be restored stay in the ledger for the next run, unless their role or table
 * no longer exists.
 * @throws VerdictError `write-access.not-restored`
 */
async function giveBack(target: Database, migration: string, taken: readonly WriteGrant[]): Promise<void> {
  const entry = await readEntryIfAny(target, migration)
  if (!entry) return
  const { targetSchema } = entry.plan
  const given = await openWriteAccess(target, targetSchema, taken)
  if (given.gone.length) {
    warning(`not restored, because the role or table no longer exists: ${grantsText(given.gone, 'had')}`)
    const withoutGone = (all: WriteGrant[] | null | undefined) =>
      all?.filter((each) => !given.gone.some((gone) => isSameGrant(each, gone)))
    const { writeAccess, revokedAgain } = entry.facts
    const facts = { writeAccess: withoutGone(writeAccess), revokedAgain: withoutGone(revokedAgain) }
    await advance(target, entry, entry.phase, { facts })
  }
  const missing = given.missing.filter((each) => !given.gone.includes(each))
  requireGiven({ ...given, missing }, targetSchema, {
    code: 'write-access.not-restored',
    what: 'write access to the target could not be restored for roles that had it before the migration',
    next: 'Run these statements on the target as an administrator, then rerun the step. Until then the ledger keeps the list.',
  })
}

/**
 * Disables and drops the stream's login. No stream is running, so any client that still uses the login is abandoned.
 */
async function dropLiveLogin(target: Database, login: string): Promise<void> {
  try {
    await target.query(`ALTER ROLE ${ident(login)} NOLOGIN`)
    await dropStreamLogin(target, login)
  } catch (error) {
    // The streaming run may be dropping the login at the same time.
    if (await loginExists(target, login)) throw error
  }
}

/** The tables in which `molt fetch` records its runs, with their columns. */
const FETCH_TABLES: Record<string, string> = {
  _molt_fetch_exceptions: 'command fetch_id file_name id message schema_name sql_state stage table_name time',
  _molt_fetch_status: 'id name source_dialect started_at',
}

/**
 * Finds the tables in which `molt fetch` records its runs, by name and columns. Returns them only if all their loads
 * started after this migration, and the ledger has no other migration that might need them.
 */
async function fetchTables(target: Database, migration: string): Promise<{ schema: string; name: string }[]> {
  const { rows } = await target.query(
    `SELECT table_schema AS schema, table_name AS name, string_agg(column_name, ' ' ORDER BY column_name) AS columns
       FROM information_schema.columns WHERE table_name = ANY($1) AND table_schema NOT IN ('information_schema', 'pg_catalog')
      GROUP BY 1, 2 ORDER BY 2`,
    [Object.keys(FETCH_TABLES)],
  )
  const found = rows.filter(({ name, columns }) => columns.split(' ').sort().join(' ') === FETCH_TABLES[name])
  const status = found.filter(({ name }) => name === '_molt_fetch_status')
  // If a table has other columns, is missing or is in another schema, another user has changed it.
  if (rows.length !== found.length || status.length !== 1 || found.some(({ schema }) => schema !== status[0].schema))
    return []
  const others = await target.query(
    `SELECT 1 FROM molt_actions.migrations WHERE id <> $1
     UNION ALL SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM molt_actions.migrations WHERE id = $1)
     UNION ALL SELECT 1 FROM ${qualified(status[0].schema, '_molt_fetch_status')} s
       WHERE s.started_at IS NULL OR s.started_at < (SELECT min(m.created_at) AT TIME ZONE 'UTC' FROM molt_actions.migrations m WHERE m.id = $1)
     LIMIT 1`,
    [migration],
  )
  return others.rowCount ? [] : found
}

async function schemaExists(db: Database, name: string): Promise<boolean> {
  const { rowCount } = await db.query('SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1', [name])
  return rowCount === 1
}

/**
 * Warns of files that still contain rows. This action cannot delete them: it has no bucket credentials, and the folder
 * may be on another machine.
 */
export function tellFiles(entry: Entry | undefined): string[] {
  const { filesLeft = [] } = entry?.facts ?? {}
  if (filesLeft.length)
    warning(
      `Files of the load contain rows, and this action does not delete them. Delete these folders below the bucket path or local path of \`fetch\`: ${filesLeft.join(', ')}`,
    )
  return filesLeft
}

/** @throws UserError when the source belongs to another migration */
export async function requireOwner(source: Database, migration: string): Promise<void> {
  const owner = await readHeartbeatOwner(source)
  if (owner && owner.migration !== migration)
    throw new UserError(
      'cleanup.other-migration',
      `the source belongs to migration \`${owner.migration}\`, not to \`${migration}\`. Correct \`migration\` or the source URL`,
    )
}

/** @param action the action that removes them */
export function requireGone(left: readonly Leftover[], action: 'abort' | 'cleanup'): void {
  if (left.length)
    refuse(
      'cleanup.incomplete',
      'not everything was removed',
      left.map(({ name }) => `${name} still exists`),
      `Run \`${action}\` again.`,
    )
}

/**
 * At the end of a migration, rebuilds the indexes and constraints that `prepare` dropped for the load, or warns of
 * those still missing.
 */
export async function restoreOrTell(target: Database, migration: string, restore: boolean): Promise<void> {
  if (restore) {
    const { built, problems } = await restoreDeferred(target, migration)
    for (const problem of problems) warning(`not rebuilt on the target: ${problem}`)
    if (built.length) info(`rebuilt ${built.length} indexes and constraints that were dropped for the load`)
    await forgetDeferred(target, migration, await listRebuilt(target, migration))
  }
  const problems = await deferralProblems(target, migration)
  if (!problems.length) await lockTables(target, migration)
  else
    warning(
      `${problems.length} indexes and constraints dropped for the load are still missing. Their definitions are in the ledger. Set \`restore: true\` to rebuild them, or load again with the same migration ID`,
    )
}
