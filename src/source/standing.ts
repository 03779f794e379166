import { type Database, qualified, unhurried } from '../runtime/database.ts'

/** The oldest transaction that may still run: every snapshot from now on contains what older ones committed. */
export async function oldestRunning(source: Database): Promise<string> {
  const { rows } = await source.query(
    `SELECT (pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot()) % 4294967296)::text AS xid`,
  )
  return rows[0].xid
}

/** Whether a table has an unchanged row older than that, which every later snapshot contains. */
export async function holdsStandingRow(source: Database, schema: string, table: string, since: string) {
  const { rows } = await unhurried(source, () =>
    source.query(
      `SELECT EXISTS (SELECT 1 FROM ${qualified(schema, table)} WHERE pg_catalog.age(xmin) > pg_catalog.age($1::text::xid)) AS found`,
      [since],
    ),
  )
  return rows[0].found as boolean
}
