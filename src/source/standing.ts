import { type Database, qualified, unhurried } from '../runtime/database.ts'

/**
 * Reads the id of the oldest transaction that may still be running. Every later snapshot includes the commits of all
 * older transactions.
 */
export async function oldestRunning(source: Database): Promise<string> {
  const { rows } = await source.query(
    `SELECT (pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) % 4294967296)::text AS xid`,
  )
  return rows[0].xid
}

/**
 * Whether a table has a row that was last written before transaction `since`. Every later snapshot contains that row.
 */
export async function holdsStandingRow(source: Database, schema: string, table: string, since: string) {
  const { rows } = await unhurried(source, () =>
    source.query(
      `SELECT EXISTS (SELECT 1 FROM ${qualified(schema, table)} WHERE pg_catalog.age(xmin) > pg_catalog.age($1::text::xid)) AS found`,
      [since],
    ),
  )
  return rows[0].found as boolean
}
