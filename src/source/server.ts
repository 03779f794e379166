import type { Database } from '../runtime/database.ts'

/** What decides whether this server can be a source, from one query. */
export interface ServerFacts {
  version: number
  inRecovery: boolean
  walLevel: string
  slotsFree: number
  sendersFree: number
  database: string
  encoding: string
  /** Identifies the server and database, not a clone of it: compared together with the random id in the heartbeat. */
  systemIdentifier: string
  databaseOid: string
  timeline: number
}

export async function readServer(db: Database): Promise<ServerFacts> {
  const { rows } = await db.query(`
    SELECT current_setting('server_version_num')::int AS version,
           pg_catalog.pg_is_in_recovery() AS "inRecovery",
           current_setting('wal_level') AS "walLevel",
           current_setting('max_replication_slots')::int
             - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int AS "slotsFree",
           current_setting('max_wal_senders')::int
             - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int AS "sendersFree",
           current_database() AS database,
           current_setting('server_encoding') AS encoding,
           (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS "systemIdentifier",
           (SELECT oid::text FROM pg_catalog.pg_database WHERE datname = current_database()) AS "databaseOid",
           (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline`)
  return rows[0] as ServerFacts
}
