import type { Schema } from '../model/schema.ts'
import { type Database, qualified, queryAll } from '../runtime/database.ts'

/**
 * Adds the triggers of these tables to the target's schema. `pg_trigger` is empty on CockroachDB 24.3 to 25.2 although
 * triggers exist (cockroachdb/cockroach#147248), so SHOW TRIGGERS runs for each table, all in one round trip.
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
      // Values of `pg_trigger.tgenabled`.
      definition: enabled ? 'O' : 'D',
    })),
  )
  return { ...schema, actions: [...(schema.actions ?? []).filter(({ kind }) => kind !== 'trigger'), ...triggers] }
}

/** The fence's trigger on each table of the source. */
const OURS = 'molt_actions_fence'

/** Lists triggers of these tables, except the fence's. */
async function readTriggers(
  db: Database,
  schema: string,
  tables: readonly string[],
): Promise<{ table: string; name: string }[]> {
  const { rows } = await db.query('SELECT version() AS version')
  if (hidesTriggers(rows[0].version)) {
    // SHOW fails with 42P01 for a missing table, which other checks report.
    const present = await db.query(
      `SELECT c.relname AS table FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p')`,
      [schema, tables],
    )
    const asked = present.rows.map(({ table }) => table as string)
    const shown = await queryAll(
      db,
      asked.map((table) => `SHOW TRIGGERS FROM ${qualified(schema, table)}`),
    )
    return shown.flatMap((found, at) => found.map(({ trigger_name: name }) => ({ table: asked[at] as string, name })))
  }
  const { rows: found } = await db.query(
    `SELECT c.relname AS table, t.tgname AS name FROM pg_catalog.pg_trigger t
       JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND t.tgisinternal IS NOT TRUE AND t.tgname <> $2 ORDER BY 1, 2`,
    [schema, OURS],
  )
  return found.filter(({ table }) => tables.includes(table))
}

/**
 * Lists the source's triggers that the target does not have yet, because `prepare` does not allow any there before the
 * load.
 */
export async function missingTriggers(
  source: { db: Database; schema: string },
  target: { db: Database; schema: string },
  tables: readonly string[],
): Promise<string[]> {
  const [here, there] = await Promise.all([
    readTriggers(source.db, source.schema, tables),
    readTriggers(target.db, target.schema, tables),
  ])
  const known = new Set(there.map(({ table, name }) => `${table}.${name}`))
  return here
    .filter(({ table, name }) => !known.has(`${table}.${name}`))
    .map(
      ({ table, name }) =>
        `${table}: the trigger ${name} is missing on the target. Create it, or move its work into the application`,
    )
}

/** Whether a server with this `version()` has triggers but does not list them in `pg_trigger`. */
export function hidesTriggers(version: string): boolean {
  const [, major = 0, minor = 0] = (/^CockroachDB\b.*? v(\d+)\.(\d+)/.exec(version) ?? []).map(Number)
  return (major === 24 && minor >= 3) || (major === 25 && minor <= 2)
}
