import { info } from '@actions/core'
import type { Action } from '../../runtime/action.ts'
import { type Database, ident, qualified } from '../../runtime/database.ts'
import { refuse, UserError, VerdictError } from '../../runtime/errors.ts'
import { installedFence, readFence, removeFence } from '../../source/fence.ts'
import { HEARTBEAT, OUR_SCHEMA, readHeartbeatOwner } from '../../source/heartbeat.ts'
import { readPublication, readSlot } from '../../source/slot.ts'
import { dropEntry, type Entry, readEntryIfAny } from '../../target/ledger.ts'
import { withBoth } from '../common.ts'
import { spec } from './spec.ts'

/** One thing of ours: what it is called, and how it goes. */
interface Leftover {
  name: string
  drop(): Promise<unknown>
}

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context.inputs, async (source, target) => {
      const { migration, dryRun } = context.inputs
      const entry = await readEntryIfAny(target, migration)
      await requireOurs(source, migration, entry)
      const found = [...(await onSource(source, entry)), ...(await onTarget(target, migration, entry))]
      for (const { name, drop } of found) {
        info(`${dryRun ? 'would drop' : 'dropping'} ${name}`)
        if (!dryRun) await drop()
      }
      if (!dryRun)
        await requireGone([...(await onSource(source, entry)), ...(await onTarget(target, migration, entry))])
      context.output('dropped', JSON.stringify(dryRun ? [] : found.map(({ name }) => name)))
      context.summary(
        `### Cleanup\n\n${found.map(({ name }) => `- ${dryRun ? 'would drop' : 'dropped'} ${name}`).join('\n') || 'Nothing of this migration is left.'}`,
      )
    }),
}

async function requireOurs(source: Database, migration: string, entry: Entry | undefined): Promise<void> {
  const owner = await readHeartbeatOwner(source)
  if (owner && owner.migration !== migration)
    throw new UserError(`what is on the source belongs to migration \`${owner.migration}\`, not to \`${migration}\``)
  const { state } = await readFence(source)
  if (state === 'permanent' && entry?.phase !== 'finalized' && entry?.phase !== 'rolled-back')
    throw new VerdictError(
      'the source is fenced for good, since the target has taken over; taking the fence away would let writes through on both sides',
    )
  if (state === 'armed')
    throw new VerdictError('the fence is armed: a cutover is under way; wait for it, or lift it with `fence`')
}

/** The slot goes first: it is what fills the disk. */
async function onSource(source: Database, entry: Entry | undefined): Promise<Leftover[]> {
  const found: Leftover[] = []
  const slot = entry && (await readSlot(source, entry.plan.slot))
  if (slot)
    found.push({ name: `slot ${entry.plan.slot}`, drop: () => dropIdleSlot(source, entry.plan.slot, slot.activePid) })
  if (entry && (await readPublication(source, entry.plan.publication)))
    found.push({
      name: `publication ${entry.plan.publication}`,
      drop: () => source.query(`DROP PUBLICATION ${ident(entry.plan.publication)}`),
    })
  const fence = await installedFence(source)
  if (fence)
    found.push({ name: `fence on ${fence.tables.length} tables`, drop: () => removeFence(source, fence.tables) })
  if (await schemaExists(source, OUR_SCHEMA))
    found.push({ name: `schema ${OUR_SCHEMA} on the source`, drop: () => dropSourceSchema(source) })
  return found
}

async function dropIdleSlot(source: Database, slot: string, reader: number | null): Promise<void> {
  if (reader) throw new UserError(`the slot ${slot} is read by PID ${reader}; end that replicator first`)
  await source.query('SELECT pg_catalog.pg_drop_replication_slot($1)', [slot])
}

/** Only what we know to be ours, and the schema itself only when nothing else stands in it. */
async function dropSourceSchema(source: Database): Promise<void> {
  await source.query(`DROP TABLE IF EXISTS ${OUR_SCHEMA}.${HEARTBEAT}`)
  await source.query(`DROP SCHEMA ${OUR_SCHEMA}`)
}

async function onTarget(target: Database, migration: string, entry: Entry | undefined): Promise<Leftover[]> {
  if (!entry) return []
  const { targetSchema } = entry.plan
  const { stagingSchema } = entry.facts
  const found: Leftover[] = []
  if (stagingSchema && (await schemaExists(target, stagingSchema)))
    found.push({
      name: `staging schema ${stagingSchema}`,
      drop: () => target.query(`DROP SCHEMA ${ident(stagingSchema)} CASCADE`),
    })
  if (await tableExists(target, targetSchema, HEARTBEAT))
    found.push({
      name: `heartbeat ${targetSchema}.${HEARTBEAT} on the target`,
      drop: () => target.query(`DROP TABLE ${qualified(targetSchema, HEARTBEAT)}`),
    })
  if (await readEntryIfAny(target, migration))
    found.push({ name: `ledger entry ${migration}`, drop: () => dropEntry(target, migration) })
  return found
}

async function schemaExists(db: Database, name: string): Promise<boolean> {
  const { rowCount } = await db.query('SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1', [name])
  return rowCount === 1
}

async function tableExists(db: Database, schema: string, name: string): Promise<boolean> {
  const { rowCount } = await db.query(
    'SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2',
    [schema, name],
  )
  return rowCount === 1
}

function requireGone(left: readonly Leftover[]): void {
  if (left.length)
    refuse(
      'not everything is gone',
      left.map(({ name }) => `${name} is still there`),
      'Run `cleanup` again.',
    )
}
