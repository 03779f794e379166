import { randomBytes } from 'node:crypto'
import { type Database, qualified } from '../runtime/database.ts'

/** Facts about a server that decide whether it can be a source. Read with one query. */
export interface ServerFacts {
  version: number
  inRecovery: boolean
  walLevel: string
  slotsFree: number
  sendersFree: number
  database: string
  encoding: string
  /**
   * Identifies the server, and with `databaseOid` the database. A clone has the same ids, so the random id in the
   * heartbeat is compared too.
   */
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

/**
 * Tests whether the user can create each kind of object that `prepare` and `molt fetch` create, because an event
 * trigger can forbid it. Rolls back.
 * @throws the server's error
 */
export async function tryDefinitions(db: Database): Promise<void> {
  const name = `molt_actions_try_${randomBytes(8).toString('hex')}`
  const [table, sequence, routine] = ['t', 's', 'f'].map((each) => qualified(name, each))
  const statements = [
    `CREATE SCHEMA ${name}`,
    `CREATE TABLE ${table} (id int PRIMARY KEY)`,
    `CREATE SEQUENCE ${sequence}`,
    `CREATE FUNCTION ${routine}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`,
    `CREATE TRIGGER t BEFORE INSERT ON ${table} FOR EACH STATEMENT EXECUTE FUNCTION ${routine}()`,
    `ALTER TABLE ${table} ENABLE ALWAYS TRIGGER t`,
    `CREATE PUBLICATION ${name} FOR TABLE ${table}`,
    `DROP SCHEMA ${name} CASCADE`,
  ]
  try {
    await db.query(`BEGIN; ${statements.join('; ')}`)
  } finally {
    await db.query('ROLLBACK')
  }
}
