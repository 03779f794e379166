import type { Schema } from '../model/schema.ts'
import { type Database, qualified, queryAll } from '../runtime/database.ts'

/**
 * The target's schema with the triggers of these tables. `pg_trigger` is empty on CockroachDB 24.3 to 25.2 although
 * triggers exist (cockroachdb/cockroach#147248), so each table is asked there, all in one round trip.
 */
export async function withTriggers(db: Database, schema: Schema, tables: readonly string[]): Promise<Schema> {
  const { rows } = await db.query('SELECT version() AS version')
  if (!hidesTriggers(rows[0].version)) return schema
  const expected = new Set(tables)
  const asked = schema.tables.map(({ name }) => name).filter((name) => expected.has(name))
  const shown = await queryAll(
    db,
    asked.map((table) => `SHOW TRIGGERS FROM ${qualified(schema.name, table)}`),
  )
  const triggers = shown.flatMap((rows, at) =>
    rows.map(({ trigger_name: name, enabled }) => ({
      kind: 'trigger' as const,
      table: asked[at] as string,
      name,
      // As `pg_trigger.tgenabled` has it.
      definition: enabled ? 'O' : 'D',
    })),
  )
  return { ...schema, actions: [...(schema.actions ?? []).filter(({ kind }) => kind !== 'trigger'), ...triggers] }
}

/** Whether a server of this `version()` has triggers and does not list them in `pg_trigger`. */
export function hidesTriggers(version: string): boolean {
  const [, major = 0, minor = 0] = (/^CockroachDB\b.*? v(\d+)\.(\d+)/.exec(version) ?? []).map(Number)
  return (major === 24 && minor >= 3) || (major === 25 && minor <= 2)
}
