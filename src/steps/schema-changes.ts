import {
  compareFingerprints,
  fingerprint,
  packFingerprint,
  type SchemaChange,
  unpackFingerprint,
} from '../migration/fingerprint.ts'
import type { Database } from '../runtime/database.ts'
import { readPartitions, readSchema } from '../sql/schema.ts'
import { advance, type Entry } from '../target/ledger.ts'

/**
 * What DDL has changed on either side since `prepare`, object by object; empty when nothing has. Each one can be told
 * by `describeChange`. An entry without fingerprints (prepared by an older version) has nothing to compare.
 */
export async function schemaChanges(source: Database, target: Database, entry: Entry): Promise<SchemaChange[]> {
  const { fingerprints } = entry.facts
  if (!fingerprints) return []
  const { sourceSchema, targetSchema, tables } = entry.plan
  const [here, there] = await Promise.all([
    readSchema(source, 'source', sourceSchema),
    readSchema(target, 'target', targetSchema),
  ])
  const partitions = await readPartitions(source, sourceSchema)
  return [
    ...compareFingerprints(
      'source',
      unpackFingerprint(fingerprints.source),
      fingerprint({ ...here, partitions }, tables),
    ),
    ...compareFingerprints('target', unpackFingerprint(fingerprints.target), fingerprint(there, tables)),
  ]
}

/** What we changed on the target ourselves is no change of the schema by somebody else. */
export async function acceptTargetSchema(target: Database, entry: Entry): Promise<Entry> {
  const { fingerprints } = entry.facts
  if (!fingerprints) return entry
  const schema = await readSchema(target, 'target', entry.plan.targetSchema)
  const now = { ...fingerprints, target: packFingerprint(fingerprint(schema, entry.plan.tables)) }
  return advance(target, entry, entry.phase, { facts: { fingerprints: now } })
}
