import { listDeferred } from '../destination/deferral.ts'
import {
  compareFingerprints,
  type Fingerprint,
  fingerprint,
  packFingerprint,
  type SchemaChange,
  unpackFingerprint,
} from '../model/fingerprint.ts'
import type { Plan } from '../model/plan.ts'
import type { Database } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { HEARTBEAT } from '../source/heartbeat.ts'
import { readPartitions, readSchema } from '../sql/schema.ts'
import { withTriggers } from '../sql/triggers.ts'
import { advance, type Entry } from './ledger.ts'

/**
 * Lists the objects that DDL has changed on either side since `prepare`. A deferred object that is not rebuilt yet may
 * be missing on the target or exist again. A deferred object that the ledger lists as rebuilt must exist.
 * @throws VerdictError if the ledger no longer has the schemas to compare with
 */
export async function schemaChanges(source: Database, target: Database, entry: Entry): Promise<SchemaChange[]> {
  const { fingerprints } = entry.facts
  if (!fingerprints)
    throw new VerdictError(
      'ledger.changed-by-hand',
      `the ledger no longer has the schemas that \`prepare\` recorded for migration \`${entry.id}\`. Someone has changed its row. Prepare a new migration`,
    )
  const { sourceSchema, targetSchema, tables } = entry.plan
  const [here, there] = await Promise.all([
    readSchema(source, 'source', sourceSchema),
    readSchema(target, 'target', targetSchema).then((schema) => withTriggers(target, schema, tables)),
  ])
  const partitions = await readPartitions(source, sourceSchema)
  const present = here.tables.map((table) => table.name)
  return [
    ...newTables(entry.plan, present).map((name) => ({
      side: 'source' as const,
      object: `table ${name}`,
      before: null,
      after: 'it is not part of this migration and would not be moved',
    })),
    ...compareFingerprints(
      'source',
      unpackFingerprint(fingerprints.source),
      fingerprint({ ...here, partitions }, tables),
    ),
    ...compareFingerprints(
      'target',
      ...(await withoutDeferred(target, entry, unpackFingerprint(fingerprints.target), fingerprint(there, tables))),
    ),
  ]
}

/** Lists the tables that were created since `prepare`, if the migration moves a whole schema. */
export function newTables({ tables, excluded }: Plan, present: readonly string[]): string[] {
  if (!excluded) return []
  const known = new Set([...tables, ...excluded, HEARTBEAT])
  return present.filter((name) => !known.has(name))
}

/**
 * Removes the deferred constraints and unique indexes from both fingerprints, so that they are not reported as changes.
 * If an object was rebuilt but is missing now, it stays in the first fingerprint, so that it is reported.
 */
async function withoutDeferred(
  target: Database,
  entry: Entry,
  before: Fingerprint,
  after: Fingerprint,
): Promise<[Fingerprint, Fingerprint]> {
  const [was, is] = [{ ...before }, { ...after }]
  for (const { kind, table, name, rebuilt, create } of await listDeferred(target, entry.id)) {
    // Plain indexes need no exception: once they are rebuilt, the target's schema is recorded again.
    if (kind === 'index') continue
    const objects = [`constraint ${table}.${name}`, `index ${table}.${name}`]
    const there = objects.some((object) => object in is)
    for (const object of objects) {
      delete was[object]
      delete is[object]
    }
    if (rebuilt && !there) was[objects[0] as string] = create
  }
  return [was, is]
}

/** Records the target's current schema as the new reference. Call this after a change of our own. */
export async function acceptTargetSchema(target: Database, entry: Entry): Promise<Entry> {
  const { fingerprints } = entry.facts
  if (!fingerprints) return entry
  const { tables, targetSchema } = entry.plan
  const schema = await withTriggers(target, await readSchema(target, 'target', targetSchema), tables)
  const now = { ...fingerprints, target: packFingerprint(fingerprint(schema, tables)) }
  return advance(target, entry, entry.phase, { facts: { fingerprints: now } })
}
