import type { QueryResultRow } from 'pg'
import {
  type ColumnDetail,
  type Constraint,
  type Index,
  OWN_COLUMN,
  type Schema,
  type SchemaColumn,
  type SchemaTable,
} from '../migration/schema.ts'
import type { Database, Side } from '../runtime/database.ts'
import { readEnums } from './tables.ts'

/*
 * One schema in six queries (and one more when foreign keys come from another schema), however many tables there are. What goes to the target is CockroachDB's SQL and uses only
 * catalogs and functions of its documentation: definitions come from information_schema and pg_indexes there, where
 * PostgreSQL's own functions would be handier.
 */

/** Everything about the tables of one schema that can be compared. */
export async function readSchema(db: Database, side: Side, name: string): Promise<Schema> {
  const columns = await db.query({ text: side === 'source' ? SOURCE_COLUMNS : TARGET_COLUMNS, values: [name] })
  const labels = await readEnums(db)
  const constraints = await db.query(constraintsSql(side), [name])
  const conditions = side === 'target' ? (await db.query(TARGET_CHECKS, [name])).rows : []
  const indexes = await db.query(INDEXES, [name])
  const sequences = await db.query(SEQUENCES, [name])
  const { tables, nameOf } = assemble(name, columns.rows, constraints.rows, labels)
  const outside = constraints.rows.filter((row) => row.schema !== name).map((row) => row.oid)
  const others = outside.length ? (await db.query(OUTSIDE_COLUMNS, [outside])).rows : []
  for (const { oid, attnum, name: column } of others) {
    const names = nameOf.get(oid) ?? []
    names[attnum] = column
    nameOf.set(oid, names)
  }
  const conditionOf = conditionsOf(conditions)
  return {
    name,
    tables,
    constraints: constraints.rows.map((row) => toConstraint(row, nameOf, conditionOf)),
    indexes: indexes.rows.map((row) => toIndex(row, nameOf)),
    sequences: sequences.rows,
  }
}

const TABLE_OF_SCHEMA = `
       FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped`
const ONLY_TABLES = `n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition`

// A table's columns come as one JSON text: ten thousand rows to read, where there would be a hundred thousand.
const COLUMN = `
  SELECT c.oid, c.relname AS table, c.relkind AS kind, json_agg(json_build_array(a.attnum, a.attname,
           pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '', a.attidentity = 'a',
           a.atttypid`
const GROUPED = 'GROUP BY c.oid, c.relname, c.relkind ORDER BY c.relname'

const SOURCE_COLUMNS = `${COLUMN}, pg_catalog.pg_get_expr(d.adbin, d.adrelid), coalesce(e.typtype, t.typtype),
           coalesce(e.typname, t.typname), tn.nspname, e.oid IS NOT NULL, a.attlen = -1 AND a.attstorage <> 'p',
           CASE WHEN a.attcollation <> t.typcollation THEN co.collname END))::text AS columns ${TABLE_OF_SCHEMA}
       JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
       JOIN pg_catalog.pg_namespace tn ON tn.oid = coalesce(e.typnamespace, t.typnamespace)
       LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
       LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
      WHERE ${ONLY_TABLES} ${GROUPED}`

const TARGET_COLUMNS = `${COLUMN}, i.column_default))::text AS columns ${TABLE_OF_SCHEMA}
       LEFT JOIN information_schema.columns i
         ON i.table_schema = n.nspname AND i.table_name = c.relname AND i.column_name = a.attname
      WHERE ${ONLY_TABLES} ${GROUPED}`

const constraintsSql = (side: Side) => `
  SELECT ${side === 'source' ? `pg_catalog.pg_get_expr(k.conbin, k.conrelid)` : 'NULL'} AS condition, k.conname AS name, k.contype AS kind, n.nspname AS schema, c.relname AS table, k.conrelid AS oid,
         k.conkey AS key, k.condeferrable AS deferrable, k.convalidated AS validated,
         rn.nspname AS "refSchema", r.relname AS "refTable", k.confrelid AS "refOid", k.confkey AS "refKey",
         k.confupdtype AS "onUpdate", k.confdeltype AS "onDelete", k.confmatchtype AS match, i.relname AS index
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_class r ON r.oid = k.confrelid AND k.contype = 'f'
    LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
    LEFT JOIN pg_catalog.pg_class i ON i.oid = k.conindid
   WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND NOT c.relispartition AND (n.nspname = $1 OR rn.nspname = $1)
   ORDER BY n.nspname, c.relname, k.conname`

const OUTSIDE_COLUMNS = `
  SELECT attrelid AS oid, attnum, attname AS name FROM pg_catalog.pg_attribute WHERE attrelid = ANY($1::oid[])`

const PARTITIONS = `
  WITH RECURSIVE tree AS (
    SELECT c.oid, c.relname AS root FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relkind = 'p' AND NOT c.relispartition
    UNION ALL SELECT i.inhrelid, tree.root FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
  SELECT tree.root, n.nspname || '.' || c.relname AS name FROM tree
    JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relispartition ORDER BY 1, 2`

/** Every partition below a table of the schema, on the source. */
export async function readPartitions(db: Database, schema: string): Promise<{ root: string; name: string }[]> {
  return (await db.query(PARTITIONS, [schema])).rows
}

const TARGET_CHECKS = `
  SELECT constraint_name AS name, check_clause AS condition
    FROM information_schema.check_constraints WHERE constraint_schema = $1`

const INDEXES = `
  SELECT n.nspname AS schema, c.relname AS table, c.oid, i.relname AS name, x.indisunique AS unique,
         x.indisprimary AS primary, x.indisvalid AS valid, x.indkey::text AS key, x.indnkeyatts AS "keyCount",
         m.amname AS method, d.indexdef AS definition
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = i.relam
    JOIN pg_catalog.pg_indexes d ON d.schemaname = n.nspname AND d.tablename = c.relname AND d.indexname = i.relname
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 2, 4`

const SEQUENCES = `
  SELECT s.sequencename AS name, s.increment_by::text AS increment, s.min_value::text AS min, s.max_value::text AS max,
         s.cycle, s.cache_size::text AS cache, t.relname AS table, a.attname AS column
    FROM pg_catalog.pg_sequences s
    JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
    LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE s.schemaname = $1 ORDER BY 1`

/** One object for all columns of one kind of type. */
function sharer(): (detail: ColumnDetail) => ColumnDetail {
  const seen = new Map<string, ColumnDetail>()
  return (detail) => {
    const key = JSON.stringify(detail)
    const known = seen.get(key) ?? detail
    seen.set(key, known)
    return known
  }
}

type Row = QueryResultRow
/** Column names by number, by table. */
type Names = Map<number, string[]>
/** As `COLUMN` lists them. */
type ColumnRow = [
  attnum: number,
  name: string,
  type: string,
  notNull: boolean,
  generated: boolean,
  identityAlways: boolean,
  typeOid: string | number,
  default_: string | null,
  typeKind?: string,
  typeName?: string,
  typeSchema?: string,
  array?: boolean,
  toastable?: boolean,
  collation?: string | null,
]

/** One text for each distinct text: a hundred thousand columns have a few dozen types between them. */
function interner(): (text: string) => string {
  const seen = new Map<string, string>()
  return (text) => {
    const known = seen.get(text)
    if (known !== undefined) return known
    seen.set(text, text)
    return text
  }
}

function assemble(
  schema: string,
  rows: Row[],
  constraints: Row[],
  labels: Map<number, string[]>,
): { tables: SchemaTable[]; nameOf: Names } {
  const [intern, share] = [interner(), sharer()]
  const keys = new Map(constraints.filter((row) => row.kind === 'p').map((row) => [row.oid, row.key as number[]]))
  const nameOf: Names = new Map()
  const tables = rows.map((row): SchemaTable => {
    const columns = (JSON.parse(row.columns) as ColumnRow[]).sort(([a], [b]) => a - b)
    const names: string[] = []
    for (const [attnum, name] of columns) names[attnum] = intern(name)
    nameOf.set(row.oid, names)
    return {
      schema,
      name: row.table,
      oid: row.oid,
      kind: row.kind,
      columns: columns.filter(([, name]) => isUsers(name)).map((column) => toColumn(column, labels, intern, share)),
      key: (keys.get(row.oid) ?? []).map((attnum) => names[attnum] ?? '').filter(isUsers),
    }
  })
  return { tables, nameOf }
}

function isUsers(column: string): boolean {
  return !OWN_COLUMN.test(column)
}

function toColumn(
  row: ColumnRow,
  labels: Map<number, string[]>,
  intern: (text: string) => string,
  share: (detail: ColumnDetail) => ColumnDetail,
): SchemaColumn {
  const [, name, type, notNull, generated, identityAlways, typeOid, default_, kind, typeName, typeSchema] = row
  const column: SchemaColumn = {
    name: intern(name),
    type: intern(type),
    notNull,
    generated,
    identityAlways,
    labels: labels.get(Number(typeOid)) ?? null,
    default: default_ === null ? null : intern(default_),
  }
  if (kind === undefined || typeName === undefined || typeSchema === undefined) return column
  const [array, toastable, collation] = [row[11] ?? false, row[12] ?? false, row[13] ?? null]
  return { ...column, detail: share({ kind, typeName, typeSchema, array, toastable, collation }) }
}

/** By name, for the schema as a whole: information_schema does not tell the table. null when a name stands for two. */
function conditionsOf(rows: Row[]): Map<string, string | null> {
  const found = new Map<string, string | null>()
  for (const { name, condition } of rows)
    found.set(name, found.has(name) && found.get(name) !== condition ? null : condition)
  return found
}

function toConstraint(row: Row, nameOf: Names, conditions: Map<string, string | null>): Constraint {
  const names = (oid: number, key: number[] | null) => (key ?? []).map((attnum) => nameOf.get(oid)?.[attnum] ?? '')
  return {
    schema: row.schema,
    table: row.table,
    name: row.name,
    kind: row.kind,
    columns: names(row.oid, row.key),
    condition: row.kind === 'c' ? (row.condition ?? conditions.get(row.name) ?? null) : null,
    deferrable: row.deferrable,
    validated: row.validated,
    index: row.index,
    references: row.refTable && {
      schema: row.refSchema,
      table: row.refTable,
      columns: names(row.refOid, row.refKey),
      onUpdate: row.onUpdate,
      onDelete: row.onDelete,
      match: row.match,
    },
  }
}

function toIndex(row: Row, nameOf: Names): Index {
  const key = String(row.key).replace(/[{}]/g, '').split(/[ ,]+/).slice(0, row.keyCount)
  return {
    schema: row.schema,
    table: row.table,
    name: row.name,
    unique: row.unique,
    primary: row.primary,
    valid: row.valid,
    columns: key.map((attnum) => nameOf.get(row.oid)?.[Number(attnum)] ?? ''),
    method: row.method,
    definition: row.definition,
  }
}
