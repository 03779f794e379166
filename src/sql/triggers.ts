import type { Schema } from '../model/schema.ts'
import { type Database, qualified } from '../runtime/database.ts'

/**
 * The triggers of these tables on the target. `pg_trigger` is empty on CockroachDB 24.3 to 25.2 although triggers exist
 * (cockroachdb/cockroach#147248), so each table is asked there.
 */
export async function readTriggers(
  db: Database,
  version: string,
  schema: Schema,
  tables: readonly string[],
): Promise<{ table: string; name: string }[]> {
  const expected = new Set(tables)
  const found = (schema.actions ?? [])
    .filter(({ kind, table }) => kind === 'trigger' && expected.has(table))
    .map(({ table, name }) => ({ table, name }))
  if (found.length || !hidesTriggers(version)) return found
  for (const table of tables) {
    const { rows: shown } = await db.query(`SHOW TRIGGERS FROM ${qualified(schema.name, table)}`)
    found.push(...shown.map(({ trigger_name: name }) => ({ table, name })))
  }
  return found
}

/** Whether a server of this `version()` has triggers and does not list them in `pg_trigger`. */
export function hidesTriggers(version: string): boolean {
  const [, major = 0, minor = 0] = (/^CockroachDB\b.*? v(\d+)\.(\d+)/.exec(version) ?? []).map(Number)
  return (major === 24 && minor >= 3) || (major === 25 && minor <= 2)
}
