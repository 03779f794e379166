import { warning } from '@actions/core'
import { type Database, ident, qualified, unhurried } from '../runtime/database.ts'
import { refuse, UserError } from '../runtime/errors.ts'
import { installedFence, removeFence } from '../source/fence.ts'
import { HEARTBEAT, OUR_SCHEMA } from '../source/heartbeat.ts'
import { readPublication, readSlot } from '../source/slot.ts'
import { listDeferred, restoreDeferred } from '../target/deferral.ts'
import { mergeGrants, openGate, readWriteGrants, type WriteGrant } from '../target/gate.ts'
import { dropEntry, type Entry, readEntryIfAny } from '../target/ledger.ts'

/** One thing of ours: what it is called, and how it goes. */
export interface Leftover {
  name: string
  drop(): Promise<unknown>
}

interface Names {
  slot: string
  publication: string
}

/** The slot goes first: it is what fills the disk. */
export async function leftoversOnSource(source: Database, plan: Names | undefined): Promise<Leftover[]> {
  const found: Leftover[] = []
  const slot = plan && (await readSlot(source, plan.slot))
  if (slot) found.push({ name: `slot ${plan.slot}`, drop: () => dropIdleSlot(source, plan.slot, slot.activePid) })
  if (plan && (await readPublication(source, plan.publication)))
    found.push({
      name: `publication ${plan.publication}`,
      drop: () => source.query(`DROP PUBLICATION ${ident(plan.publication)}`),
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

export async function leftoversOnTarget(
  target: Database,
  migration: string,
  entry: Entry | undefined,
): Promise<Leftover[]> {
  // Not by the entry: a run that died may have dropped that already.
  const captured = await captures(target, migration)
  if (!entry) return captured
  const found: Leftover[] = []
  const { targetSchema } = entry.plan
  const { stagingSchema } = entry.facts
  const { gate = [] } = entry.facts
  const taken = (await openable(target, targetSchema, gate)) ? gate : []
  if (taken.length)
    found.push({
      name: `the target gate: ${taken.length} rights to write are given back`,
      drop: () => openGate(target, targetSchema, taken),
    })
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
  found.push(...captured)
  if (await readEntryIfAny(target, migration))
    found.push({ name: `ledger entry ${migration}`, drop: () => dropEntry(target, migration) })
  return found
}

async function captures(target: Database, migration: string): Promise<Leftover[]> {
  const { length } = await listDeferred(target, migration)
  if (!length) return []
  const name = `captures of ${length} indexes and constraints, each of which is put back first`
  return [{ name, drop: () => putBack(target, migration) }]
}

/** What cannot be put back stays captured, and what comes after it is taken away all the same. */
async function putBack(target: Database, migration: string): Promise<void> {
  for (const problem of await unhurried(target, () => restoreDeferred(target, migration)))
    warning(`not put back on the target: ${problem}`)
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

export function requireGone(left: readonly Leftover[]): void {
  if (left.length)
    refuse(
      'not everything is gone',
      left.map(({ name }) => `${name} is still there`),
      'Run `cleanup` again.',
    )
}

/** Whether one of these rights is still taken away. */
async function openable(target: Database, schema: string, gate: readonly WriteGrant[]): Promise<boolean> {
  if (!gate.length) return false
  const there = await readWriteGrants(target, schema, [...new Set(gate.map(({ table }) => table))])
  return mergeGrants(there, gate).length > there.length
}
