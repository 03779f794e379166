import type { Column, Table } from '../model/tables.ts'
import { type Database, ident, literal, queryAll } from '../runtime/database.ts'

/** Columns that CockroachDB adds. They exist on one side only, and contain no user data. */
const OWN_COLUMN = /^(rowid|crdb_region|crdb_internal_.*)$/

const COLUMNS = `
  SELECT c.oid, c.relname AS table, c.relkind AS kind, a.attnum, a.attname AS name,
         pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS "notNull",
         a.attgenerated <> '' AS generated, a.attidentity = 'a' AS "identityAlways", a.atttypid AS "typeOid"
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped IS NOT TRUE
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relispartition IS NOT TRUE
   ORDER BY c.relname, a.attnum`

/** Reads keys from the index rather than the constraint. docs/cockroachdb.md explains why. */
const KEYS = `
  SELECT x.indrelid AS oid, x.indkey::text AS key
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE x.indisprimary IS TRUE AND n.nspname = $1`

/** Selects the labels of every enum, in order. */
export const ENUMS = 'SELECT enumtypid AS type, enumlabel AS label FROM pg_catalog.pg_enum ORDER BY 1, enumsortorder'

export interface EnumRow {
  type: number
  label: string
}

/**
 * Reads the tables of a schema with their columns and keys, in one round trip. A partitioned table counts as one table.
 * Uses only columns that `pg_catalog` has on both PostgreSQL and CockroachDB.
 */
export async function readTables(db: Database, schema: string): Promise<Table[]> {
  const [columns = [], keys = [], enums = []] = await queryAll(
    db,
    [COLUMNS, KEYS, ENUMS].map((sql) => sql.replaceAll('$1', literal(schema))),
  )
  const labels = enumLabels(enums as EnumRow[])
  const keyOf = new Map<number, number[]>(
    keys.map(({ oid, key }) => [
      oid,
      String(key)
        .split(/[ ,{}]+/)
        .filter(Boolean)
        .map(Number),
    ]),
  )
  const rowsOf = new Map<number, typeof columns>()
  for (const row of columns) rowsOf.set(row.oid, [...(rowsOf.get(row.oid) ?? []), row])
  return [...rowsOf].map(([oid, rows]) => {
    const { table, kind } = rows[0] as (typeof rows)[number]
    const nameOf = new Map<number, string>(rows.map((row) => [row.attnum, row.name]))
    const own = rows.filter((row) => !OWN_COLUMN.test(row.name))
    return {
      schema,
      name: table,
      oid,
      kind,
      columns: own.map((row) => toColumn(row as Parameters<typeof toColumn>[0], labels)),
      key: (keyOf.get(oid) ?? []).map((attnum) => nameOf.get(attnum) ?? '').filter((name) => !OWN_COLUMN.test(name)),
    }
  })
}

/** Lists the tables that have row-level security, no matter which roles it applies to. */
export async function readSecuredTables(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relrowsecurity IS TRUE`,
    [schema, tables],
  )
  return rows.map(({ name }) => name)
}

/**
 * Lists the tables with row-level security that applies to this role. Reads the catalog, because `row_security_active`
 * and the setting `row_security` exist only on PostgreSQL.
 */
export async function readFilteredTables(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  const secured = await db.query(
    `SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relrowsecurity IS TRUE`,
    [schema, tables],
  )
  if (!secured.rows.length) return []
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c
      WHERE c.oid = ANY($1) AND (c.relforcerowsecurity IS TRUE OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))
        AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = current_user AND (rolsuper OR rolbypassrls))
      ORDER BY 1`,
    [secured.rows.map(({ oid }) => oid)],
  )
  if (!rows.length || (await bypassesRowSecurity(db))) return []
  return rows.map(({ name }) => name)
}

/**
 * Reads BYPASSRLS from SHOW ROLES: before 25.3, CockroachDB's `pg_roles` never shows it (cockroachdb/cockroach#146228).
 */
async function bypassesRowSecurity(db: Database): Promise<boolean> {
  const { rows: server } = await db.query('SELECT version() AS version')
  const [, major = 0, minor = 0] = (/^CockroachDB\b.*? v(\d+)\.(\d+)/.exec(server[0].version) ?? []).map(Number)
  if (!major || major > 25 || (major === 25 && minor >= 3)) return false
  const { rows } = await db.query('SELECT options::STRING AS options FROM [SHOW ROLES] WHERE username = current_user')
  return /\bBYPASSRLS\b/i.test(rows[0]?.options ?? '')
}

/** Counts the rows of one table. */
export async function countRows(db: Database, schema: string, table: string): Promise<number> {
  const { rows } = await db.query(`SELECT count(*) AS rows FROM ${ident(schema)}.${ident(table)}`)
  return Number(rows[0].rows)
}

function toColumn(row: Omit<Column, 'labels'> & { typeOid: number }, labels: Map<number, string[]>): Column {
  const { name, type, notNull, generated, identityAlways } = row
  return { name, type, notNull, generated, identityAlways, labels: labels.get(row.typeOid) ?? null }
}

/** Groups enum labels by the oid of the type, in order. */
export function enumLabels(rows: readonly EnumRow[]): Map<number, string[]> {
  const labels = new Map<number, string[]>()
  for (const { type, label } of rows) labels.set(type, [...(labels.get(type) ?? []), label])
  return labels
}
