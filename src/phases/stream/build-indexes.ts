import { info } from '@actions/core'
import { listDeferred, rebuildDeferred } from '../../destination/deferral.ts'
import type { Entry } from '../../ledger/ledger.ts'
import { acceptTargetSchema, schemaChanges } from '../../ledger/schema-changes.ts'
import { describeChange } from '../../model/fingerprint.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'

/**
 * Rebuilds the non-unique indexes that were dropped for the load, while changes stream: they do not block the stream,
 * and the application needs them. Records the new schema in the ledger, so that these indexes do not count as schema
 * changes.
 * @returns the updated entry, or `entry` itself if there was nothing to build
 */
export async function buildIndexes(source: Database, target: Database, entry: Entry): Promise<Entry> {
  const waiting = (await listDeferred(target, entry.id)).filter(({ kind, rebuilt }) => kind === 'index' && !rebuilt)
  if (!waiting.length) return entry
  const changes = (await schemaChanges(source, target, entry)).map(describeChange)
  if (changes.length)
    refuse(
      'schema.changed',
      'the schema has changed since `prepare`',
      changes,
      'Revert the change, or prepare and load again.',
    )
  const built = await rebuildDeferred(target, entry.id, ['index'], {
    onBuilt: (name) => info(`rebuilt index ${name}`),
  })
  return built.length ? acceptTargetSchema(target, entry) : entry
}
