import { type Database, isMissingTable, literal, qualified, rowsIfAny } from '../runtime/database.ts'

/*
 * Since CockroachDB 26.1, new tables have `schema_locked = true`. Such a table refuses ADD and DROP CONSTRAINT and, if
 * `sql.schema.auto_unlock.enabled` is off, every schema change (SQLSTATE 57000). Tables are unlocked for the migration,
 * so that schema changes in the write pause are neither refused nor slow. Source: cockroachdb/docs v26.2,
 * `alter-table.md` and `online-schema-changes.md`.
 */

const UNLOCKED = 'molt_actions.unlocked'

export interface TableName {
  schema: string
  table: string
}

/** Lists the locked tables among these; none on PostgreSQL. */
async function readLocked(db: Database, tables: readonly TableName[]): Promise<TableName[]> {
  const names = tables.map(({ schema, table }) => `(${literal(schema)}, ${literal(table)})`).join(', ')
  const { rows } = await db.query<TableName>(
    `SELECT n.nspname AS schema, c.relname AS table
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE (n.nspname, c.relname) IN (${names})
        AND coalesce(array_to_string(c.reloptions, ','), '') ~ 'schema_locked=''?(true|on)' ORDER BY 1, 2`,
  )
  return rows
}

/** Records which of these tables are locked, and unlocks them. Repeatable. */
export async function unlockTables(db: Database, migration: string, tables: readonly TableName[]): Promise<void> {
  if (!tables.length) return
  const locked = await readLocked(db, tables)
  if (!locked.length) return
  await db.query(`CREATE TABLE IF NOT EXISTS ${UNLOCKED} (
    migration TEXT NOT NULL, schema_name TEXT NOT NULL, table_name TEXT NOT NULL,
    PRIMARY KEY (migration, schema_name, table_name))`)
  for (const each of locked) {
    await db.query(`INSERT INTO ${UNLOCKED} VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, [
      ...[migration, each.schema, each.table],
    ])
    await setLock(db, each, false)
  }
}

/** Unlocks tables that another user has locked again since. */
export async function keepUnlocked(db: Database, migration: string): Promise<void> {
  await unlockTables(db, migration, await listUnlocked(db, migration))
}

/** Locks the tables again that {@link unlockTables} has unlocked, unless they were dropped. Repeatable. */
export async function lockTables(db: Database, migration: string): Promise<void> {
  for (const each of await listUnlocked(db, migration)) {
    await setLock(db, each, true).catch((error) => {
      if (!isMissingTable(error)) throw error
    })
    await db.query(`DELETE FROM ${UNLOCKED} WHERE migration = $1 AND schema_name = $2 AND table_name = $3`, [
      ...[migration, each.schema, each.table],
    ])
  }
}

function listUnlocked(db: Database, migration: string): Promise<TableName[]> {
  const sql = `SELECT schema_name AS schema, table_name AS table FROM ${UNLOCKED} WHERE migration = $1 ORDER BY 1, 2`
  return rowsIfAny(db, sql, [migration])
}

async function setLock(db: Database, { schema, table }: TableName, locked: boolean): Promise<void> {
  await db.query(`ALTER TABLE ${qualified(schema, table)} SET (schema_locked = ${locked})`)
}
