import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'
import { cancelImports, type ImportJob, jobText, readImportJobs } from '../../destination/jobs.ts'
import { readTarget } from '../../destination/server.ts'
import type { Entry, Exported } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import { type Database, ident, qualified, rowsIfAny, sqlState } from '../../runtime/database.ts'
import { messageOf, throwIfCancelled, UserError } from '../../runtime/errors.ts'
import { plural, someOf } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readPublication } from '../../source/publication.ts'
import { dropSlot, readSlot, requireNoForeignSlot } from '../../source/slot.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'
import { type Arrived, arrivedProblems, countArrived, partTables } from './arrived.ts'

/**
 * A load to resume: the LSN at which its slot starts, and the number of rows that it has read. On a resume, MOLT skips
 * every table without a recorded failure, even one that was never loaded. So only the row counts can prove that a load
 * is complete.
 */
export interface Resumed {
  /** MOLT's ID of the load; undefined if every table was imported completely and MOLT has nothing left to do. */
  fetchId: string | undefined
  folder: string | undefined
  cursor: string
  exported: Exported
}

interface Request {
  policy: 'fail' | 'resume' | 'restart'
  mode: FetchMode
  fetchId?: string
  continuationToken?: string
  continuationFileName?: string
  signal: AbortSignal
}

/**
 * Finds what an interrupted load has left behind, and applies `policy` to it: a slot that fills the source's disk, a
 * publication, and import jobs that keep tables offline.
 * @returns the load to resume, or undefined to load from the start
 * @throws UserError if a load was interrupted and `policy` is `fail` or cannot be applied
 */
export async function settleInterrupted(
  source: Database,
  target: Database,
  entry: Entry,
  request: Request,
): Promise<Resumed | undefined> {
  const { plan } = entry
  await requireNoForeignImports(target, entry)
  await requireNoForeignSlot(source, plan.slot)
  const slot = await readSlot(source, plan.slot)
  const begun = entry.facts.load ?? undefined
  if (!slot) {
    if (begun?.cursor && request.policy === 'resume')
      throw new UserError(
        'slot.missing',
        `the slot ${plan.slot} of the interrupted load is gone, and all changes since then are lost. Set \`on-interrupted: restart\``,
      )
    await endImports(target, entry)
    return undefined
  }
  if (slot.active)
    throw new UserError(
      'slot.in-use',
      `PID ${slot.activePid} is reading the slot ${plan.slot}, so a load or a replicator is running. Stop that process first`,
    )
  const canGoOn = request.mode !== 'direct-copy' && begun?.exported !== undefined
  if (request.policy === 'fail')
    throw new UserError('load.interrupted', leftBehind(plan, slot.walBytes, canGoOn, begun?.fetchId))
  if (request.policy === 'resume') return resumed(target, entry, slot.confirmedFlushLsn, request)
  await endImports(target, entry)
  await dropLoad(source, plan)
  info(`an earlier load did not finish: dropping its slot ${plan.slot} and reloading every table`)
  return undefined
}

function leftBehind(plan: Plan, walBytes: number, canGoOn: boolean, fetchId: string | undefined): string {
  const resume = canGoOn
    ? `Set \`on-interrupted: resume\` to resume it${fetchId ? ` (fetch ID ${fetchId})` : ''}, or`
    : 'It cannot be resumed. Set'
  return `the slot ${plan.slot} already exists and keeps ${Math.round(walBytes / 2 ** 20)} MiB of WAL: an earlier load did not finish. ${resume} \`on-interrupted: restart\` to drop the slot and reload every table`
}

async function resumed(target: Database, entry: Entry, slotAt: string | null, request: Request): Promise<Resumed> {
  const { plan, facts } = entry
  const begun = facts.load
  if (request.mode === 'direct-copy')
    throw new UserError(
      'load.cannot-resume',
      'A direct copy cannot be resumed, because it writes no files. Set `on-interrupted: restart`.',
    )
  if (!begun?.exported || !begun.cursor)
    throw new UserError(
      'load.cannot-resume',
      'The interrupted load cannot be resumed: it ended before it had read every table, and MOLT would silently skip the unread tables. Set `on-interrupted: restart`.',
    )
  if (slotAt !== begun.cursor)
    throw new UserError(
      'slot.moved',
      `the slot ${plan.slot} is at ${slotAt}, but the load started at ${begun.cursor}: either another process has read from the slot, or it is not the same slot. Set \`on-interrupted: restart\``,
    )
  await awaitImports(target, entry, request.signal)
  const arrived = await countArrived(target, plan)
  const { cursor, exported, folder } = begun
  if (!arrivedProblems(plan, exported, arrived).length) return { fetchId: undefined, folder, cursor, exported }
  const fetchId = request.fetchId ?? begun.fetchId
  if (!fetchId) throw cannotResume(partTables(plan, exported, arrived))
  const failed = await failedTables(target, plan, fetchId, request.continuationToken)
  const lost = partTables(plan, exported, arrived).filter((table) => !failed.includes(table))
  if (lost.length) throw cannotResume(lost, request.continuationToken)
  // From a named file on, MOLT loads only the rest of a table.
  if (!request.continuationFileName) await emptyTables(target, entry, failed, arrived)
  return { fetchId, folder, cursor, exported }
}

function cannotResume(tables: readonly string[], token?: string): UserError {
  const names = someOf(tables, 5) || 'any table'
  return new UserError(
    'load.cannot-resume',
    token
      ? `The interrupted load cannot be resumed with this \`continuation-token\`: MOLT would skip ${names}. Remove \`continuation-token\`, which resumes every failed table.`
      : `The interrupted load cannot be resumed: MOLT has recorded no failure for ${names}, and would skip the missing rows. Set \`on-interrupted: restart\`.`,
  )
}

/**
 * Tables for which MOLT has recorded a failed import. It loads all of their files again.
 * @param token limits them to the failure of this id
 */
async function failedTables(target: Database, plan: Plan, fetchId: string, token?: string): Promise<string[]> {
  const sql = `SELECT DISTINCT table_name AS name FROM _molt_fetch_exceptions
                WHERE fetch_id = $1 AND schema_name = $2 AND id::text = coalesce($3::text, id::text)`
  const rows = await rowsIfAny<{ name: string }>(target, sql, [fetchId, plan.targetSchema, token ?? null])
  return rows.map(({ name }) => name)
}

/**
 * Empties the tables that MOLT imports again. When a batch of files fails, MOLT splits it and imports the good half, so
 * those rows would now collide. Emptying them is safe: the tables were empty before the load, and no one else has write
 * access.
 */
async function emptyTables(target: Database, entry: Entry, tables: readonly string[], arrived: Arrived): Promise<void> {
  const { targetSchema } = entry.plan
  const partly = tables.filter((table) => (arrived[table] ?? 0) > 0)
  if (!partly.length) return
  const names = partly.map((table) => qualified(targetSchema, table)).join(', ')
  const refusal = (why: string) =>
    new UserError(
      'load.partly-imported',
      `${plural(partly.length, 'table holds', 'tables hold')} rows that MOLT would import again: ${someOf(partly, 5)}. ${why}`,
    )
  if (entry.facts.writeAccessWaived)
    throw refusal(
      `The check of write access was waived, so these tables may contain rows from other writers. Empty them yourself (TRUNCATE TABLE ${names}), then rerun the step`,
    )
  await target.query(`TRUNCATE TABLE ${names}`).catch((error) => {
    // For example, a foreign key in a table that is already loaded prevents this. That table would have to be reloaded
    // too.
    throw sqlState(error)
      ? refusal(
          `These tables could not be emptied: ${messageOf(error)}. Set \`on-interrupted: restart\` to reload every table`,
        )
      : error
  })
  info(`emptied ${partly.join(', ')}, because MOLT imports all of their rows again`)
}

/** Waits for the imports that a killed load left running. If all that remain are paused, cancels them. */
async function awaitImports(target: Database, entry: Entry, signal: AbortSignal): Promise<void> {
  for (let waited = 0; ; waited += TIMING.importLook) {
    throwIfCancelled(signal)
    const jobs = await ourImports(target, entry)
    if (!jobs.length) return
    if (jobs.every(({ status }) => /^paus/.test(status))) return endImports(target, entry)
    if (waited % TIMING.importNotice === 0)
      info(
        `waiting for ${plural(jobs.length, 'import')} of the interrupted load: ${jobs.map(({ id, table, fraction }) => `${table} ${Math.floor(fraction * 100)}% (job ${id})`).join(', ')}`,
      )
    await sleep(TIMING.importLook, undefined, { signal }).catch(() => {})
  }
}

/** Unfinished import jobs for the expected tables; none on PostgreSQL. */
export async function importsInto(target: Database, { plan, facts }: Entry): Promise<ImportJob[]> {
  if (!(await readTarget(target)).isCockroach) return []
  return readImportJobs(target, plan.targetSchema, plan.tables, facts.loadFolders)
}

async function ourImports(target: Database, entry: Entry): Promise<ImportJob[]> {
  return (await importsInto(target, entry)).filter(({ ours }) => ours)
}

/** Unfinished import jobs for the expected tables that were not started by a load of this migration. */
async function foreignImports(target: Database, entry: Entry): Promise<ImportJob[]> {
  return (await importsInto(target, entry)).filter(({ ours }) => !ours)
}

/** @throws UserError that names each foreign import and its owner, because only the owner can cancel it */
export async function requireNoForeignImports(target: Database, entry: Entry): Promise<void> {
  const foreign = await foreignImports(target, entry)
  if (foreign.length)
    throw new UserError(
      'load.foreign-import',
      `An import that was not started by this migration keeps ${plural(foreign.length, 'table')} offline: ${foreign.map(jobText).join('; ')}. Ask the owner to cancel it, or wait until it ends.`,
    )
}

/** Drops the slot of an abandoned load. Also drops the publication if it contains only this plan's tables. */
export async function dropLoad(source: Database, plan: Plan): Promise<void> {
  await dropSlot(source, plan.slot)
  if (!(await foreignTables(source, plan)).length)
    await source.query(`DROP PUBLICATION IF EXISTS ${ident(plan.publication)}`)
}

/**
 * Tables that are in the publication but not in this plan, as `schema.table`. MOLT uses one fixed name for its
 * publication.
 */
export async function foreignTables(source: Database, plan: Plan): Promise<string[]> {
  const publication = await readPublication(source, plan.publication)
  const ours = new Set(plan.tables.map((table) => `${plan.sourceSchema}.${table}`))
  return publication?.tables.filter((table) => !ours.has(table) && !table.startsWith('molt_actions.')) ?? []
}

/**
 * Cancels the imports that this migration's loads left running, and waits until their tables are online.
 * @throws UserError if a job does not end or cannot be cancelled
 */
export async function endImports(target: Database, { plan, facts }: Entry): Promise<void> {
  const { targetSchema, tables } = plan
  if (!(await readTarget(target)).isCockroach) return
  const { ended, left, refused } = await cancelImports(target, targetSchema, tables, facts.loadFolders ?? [])
  for (const { id, table } of ended) info(`cancelled import job ${id} of an earlier load into ${table}`)
  if (refused.length)
    throw new UserError(
      'load.cancel-refused',
      `This role cannot cancel the load's imports: ${refused.map(jobText).join('; ')}. Cancel them as an administrator, and grant CONTROLJOB to this role.`,
    )
  if (left.length)
    throw new UserError(
      'load.jobs-running',
      `The load's imports were cancelled but have not ended, so their tables are still offline: ${left.map(jobText).join('; ')}. Check them with SHOW JOBS.`,
    )
}
