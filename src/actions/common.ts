import { connect, type Database, withDatabase } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { defaulted, optional, required } from '../runtime/spec.ts'
import { connectionUrl, pattern, text } from '../runtime/types.ts'
import { readServer } from '../source/catalog.ts'
import { readHeartbeatOwner } from '../source/heartbeat.ts'
import type { Entry } from '../target/ledger.ts'

export const config = {
  config: optional(
    text,
    'YAML file with settings: one section per action, with the same names as its inputs, and `common` for all. An input wins over the file.',
  ),
}

/** Inputs of every action that works on a migration. */
export const migration = {
  source: required(
    connectionUrl,
    'PostgreSQL to move, as the migration user. The primary itself: not a replica, pooler or balancer.',
  ),
  target: required(connectionUrl, 'CockroachDB to move to.'),
  migration: defaulted(
    pattern(/^[a-z][a-z0-9-]{0,39}$/, 'lower-case letters, digits and hyphens, 40 at most'),
    'main',
    'Name of this migration in the ledger.',
  ),
  ...config,
}

/** Opens both sides and closes them whatever happens. */
export async function withBoth<T>(
  inputs: { source: string; target: string },
  work: (source: Database, target: Database) => Promise<T>,
): Promise<T> {
  return withDatabase(inputs.source, 'source', async (source) => {
    const target = await connect(inputs.target, 'target')
    try {
      return await work(source, target)
    } finally {
      await target.end().catch(() => {})
    }
  })
}

/** @throws VerdictError unless this is the very database that `prepare` saw: not a clone, a replica or another one */
export async function requireSameSource(source: Database, entry: Entry): Promise<void> {
  const planned = entry.facts.source
  const [server, owner] = [await readServer(source), await readHeartbeatOwner(source)]
  const same =
    planned?.systemIdentifier === server.systemIdentifier &&
    planned.databaseOid === server.databaseOid &&
    planned.sourceId === owner?.sourceId
  if (same && !server.inRecovery) return
  throw new VerdictError(
    `the source is not the database that \`prepare\` saw for migration \`${entry.id}\`${server.inRecovery ? ' (it is a replica now)' : ''}; check the URL, or prepare a new migration`,
  )
}
