import { type Database, ident, qualified, queryAll } from '../runtime/database.ts'

/*
 * Reads how long the target keeps the history of rows: `gc.ttlseconds` in the zone of a table or database, which may be
 * inherited. Reading older versions of rows fails. Source: cockroachdb/docs, `configure-replication-zones.md`.
 */

/** The database's retention in seconds; null if this role cannot read it. */
export async function readRetention(db: Database, database: string): Promise<number | null> {
  return db.query(`SHOW ZONE CONFIGURATION FROM DATABASE ${ident(database)}`).then(
    ({ rows }) => retentionOf(rows[0]?.raw_config_sql ?? ''),
    () => null,
  )
}

/** The shortest retention of these tables, in seconds; null if this role cannot read one of them. */
export async function readShortestRetention(
  db: Database,
  schema: string,
  tables: readonly string[],
): Promise<{ table: string; seconds: number } | null> {
  let shortest: { table: string; seconds: number } | null = null
  for (let from = 0; from < tables.length; from += AT_ONCE) {
    const some = tables.slice(from, from + AT_ONCE)
    const asked = some.map((table) => `SHOW ZONE CONFIGURATION FROM TABLE ${qualified(schema, table)}`)
    const answers = await queryAll(db, asked).catch(() => null)
    for (const [at, table] of some.entries()) {
      const seconds = retentionOf(answers?.[at]?.[0]?.raw_config_sql ?? '')
      if (seconds === null) return null
      if (!shortest || seconds < shortest.seconds) shortest = { table, seconds }
    }
  }
  return shortest
}

const AT_ONCE = 100

/** Parses the seconds in `ALTER DATABASE shop CONFIGURE ZONE USING … gc.ttlseconds = 14400, …`. */
export function retentionOf(zone: string): number | null {
  const [, seconds] = /\bgc\.ttlseconds = (\d+)/.exec(zone) ?? []
  return seconds === undefined ? null : Number(seconds)
}
