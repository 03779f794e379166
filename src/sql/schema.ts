import type { QueryResultRow } from 'pg'
import {
  type Constraint,
  type Index,
  OWN_COLUMN,
  type Schema,
  type SchemaColumn,
  type SchemaTable,
} from '../model/schema.ts'
import type { Database, Side } from '../runtime/database.ts'
import { SEQUENCES_OF_SCHEMA } from './sequences.ts'
import { readEnums } from './tables.ts'

/*
 * One schema in at most ten queries, however many tables there are. What goes to the target is CockroachDB's SQL and
 * uses only catalogs and functions of its documentation: definitions come from information_schema and pg_indexes
 * there, where PostgreSQL's own functions would be handier.
 */

/** Everything about the tables of one schema that can be compared. */
export async function readSchema(db: Database, side: Side, name: string): Promise<Schema> {
  const read = ((await db.query(columnsSql(side), [name])).rows as TableRow[]).map(separateColumns(interner()))
  const types = await readTypes(db, side, read)
  const defaults = await readDefaults(db, side, name)
  const constraints = await db.query(constraintsSql(side), [name])
  const conditions = side === 'target' ? (await db.query(TARGET_CHECKS, [name])).rows : []
  const indexes = await db.query(indexesSql(side), [name])
  const sequences = await db.query(SEQUENCES, [name])
  const { tables, nameOf } = assemble(name, read, constraints.rows, columnMaker(types), defaults)
  const outside = constraints.rows.filter((row) => row.schema !== name).map((row) => row.oid)
  const others = outside.length ? (await db.query(OUTSIDE_COLUMNS, [outside])).rows : []
  for (const { oid, attnum, name: column } of others) {
    const names = nameOf.get(oid) ?? []
    names[attnum] = column
    nameOf.set(oid, names)
  }
  const conditionOf = conditionsOf(conditions)
  const actions = side === 'target' ? (await db.query(ACTIONS, [name])).rows : []
  return {
    name,
    tables,
    actions,
    constraints: constraints.rows.map((row) => toConstraint(row, nameOf, conditionOf)),
    indexes: indexes.rows.map((row) => toIndex(row, nameOf)),
    sequences: sequences.rows,
  }
}

const ONLY_TABLES = `n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition`

/**
 * A table's columns come as one text, and their types as numbers: ten thousand rows to read, where there would be a
 * hundred thousand, and the few dozen types are asked for once.
 */
const columnsSql = (side: Side) => `
  SELECT c.oid, c.relname AS table, c.relkind AS kind, json_agg(
           a.attnum::text || ' ' || a.atttypid::text || ' ' || a.atttypmod::text || ' '
           || ${side === 'source' ? 'a.attcollation::text' : `'0'`} || ' ' || a.attnotnull::text || ' '
           || coalesce(a.attgenerated::text, '') || ' ' || coalesce(a.attidentity::text, '') || ' '
           || a.attname::text)::text AS columns
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
   WHERE ${ONLY_TABLES} GROUP BY c.oid, c.relname, c.relkind ORDER BY c.relname`

/** Of these types, each with its modifier and, on the source, the collation of the column. */
const typesSql = (side: Side, kinds: string) =>
  side === 'source'
    ? `
  SELECT v.k AS key, pg_catalog.format_type(v.o::oid, v.m) AS type, coalesce(e.typtype, t.typtype) AS kind,
         coalesce(e.typname, t.typname) AS "typeName", tn.nspname AS "typeSchema", e.oid IS NOT NULL AS array,
         CASE WHEN v.c::oid <> t.typcollation THEN co.collname END AS collation
    FROM (VALUES ${kinds}) AS v (k, o, m, c)
    JOIN pg_catalog.pg_type t ON t.oid = v.o::oid
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
    JOIN pg_catalog.pg_namespace tn ON tn.oid = coalesce(e.typnamespace, t.typnamespace)
    LEFT JOIN pg_catalog.pg_collation co ON co.oid = v.c::oid`
    : `SELECT v.k AS key, pg_catalog.format_type(v.o::oid, v.m) AS type FROM (VALUES ${kinds}) AS v (k, o, m, c)`

const SOURCE_DEFAULTS = `
  SELECT c.relname AS table, a.attname AS column, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS default
    FROM pg_catalog.pg_attrdef d
    JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
   WHERE ${ONLY_TABLES}`

const TARGET_DEFAULTS = `
  SELECT table_name AS table, column_name AS column, column_default AS default
    FROM information_schema.columns WHERE table_schema = $1 AND column_default IS NOT NULL`

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

/** The primary key's own index is told by its constraint. */
const indexesSql = (side: Side) => `
  SELECT n.nspname AS schema, c.relname AS table, c.oid, i.relname AS name, x.indisunique AS unique,
         x.indisprimary AS primary, x.indisvalid AS valid, x.indkey::text AS key, x.indnkeyatts AS "keyCount",
         m.amname AS method, ${
           side === 'source'
             ? `CASE WHEN x.indisprimary THEN '' ELSE pg_catalog.pg_get_indexdef(x.indexrelid) END`
             : `coalesce(d.indexdef, '')`
         } AS definition
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = i.relam
    ${
      side === 'source'
        ? ''
        : `LEFT JOIN pg_catalog.pg_indexes d ON NOT x.indisprimary
         AND d.schemaname = n.nspname AND d.tablename = c.relname AND d.indexname = i.relname`
    }
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 2, 4`

const SEQUENCES = `
  SELECT s.sequencename AS name, s.increment_by::text AS increment, s.min_value::text AS min, s.max_value::text AS max,
         s.cycle, s.cache_size::text AS cache, t.relname AS table, a.attname AS column
    ${SEQUENCES_OF_SCHEMA}`

/** What acts on a write beside the write itself. The source's do so there, and what they did is moved. */
const ACTIONS = `
  SELECT 'trigger' AS kind, c.relname AS table, t.tgname AS name, t.tgenabled::text AS definition
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND NOT t.tgisinternal
  UNION ALL
  SELECT 'rule', c.relname, r.rulename, r.ev_enabled::text
    FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
  ORDER BY 2, 3`

type Row = QueryResultRow
/** Column names by number, by table. */
type Names = Map<number, string[]>

interface TableRow {
  oid: number
  table: string
  kind: string
  /** As `columnsSql` lists them: a JSON array of texts. */
  columns: string
}

/** `columns` are by number what COLUMN describes; a hundred thousand of them are a few thousand different texts. */
type ReadTable = Omit<TableRow, 'columns'> & { attnums: number[]; columns: string[] }
type ReadType = Pick<SchemaColumn, 'type' | 'labels' | 'detail'>

/** Type with modifier and collation, NOT NULL, generated, identity, name. */
const COLUMN = /^(\d+ -?\d+ \d+) (\w+) (\w*) (\w*) (.*)$/s

/** By table and column. */
type Defaults = Map<string, Map<string, string>>

function separateColumns(intern: (text: string) => string): (row: TableRow) => ReadTable {
  return ({ columns, ...table }) => {
    const texts = (JSON.parse(columns) as string[]).sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10))
    return {
      ...table,
      attnums: texts.map((text) => Number.parseInt(text, 10)),
      columns: texts.map((text) => intern(text.slice(text.indexOf(' ') + 1))),
    }
  }
}

async function readTypes(db: Database, side: Side, tables: readonly ReadTable[]): Promise<Map<string, ReadType>> {
  const texts = new Set(tables.flatMap((table) => table.columns))
  const keys = new Set([...texts].map((text) => text.split(' ', 3).join(' ')))
  if (!keys.size) return new Map()
  // Numbers that the catalog told, made numbers again: nothing else can get into this statement.
  const kinds = [...keys].map((key) => `('${key}', ${key.split(' ').map(Number).join(', ')})`)
  const { rows } = await db.query(typesSql(side, kinds.join(', ')))
  const labels = await readEnums(db)
  return new Map(
    rows.map(({ key, type, ...detail }) => [
      key,
      { type, labels: labels.get(Number(key.split(' ')[0])) ?? null, ...(side === 'source' && { detail }) },
    ]),
  )
}

/** Makes columns; those that are alike in all are one object. */
function columnMaker(types: Map<string, ReadType>): (text: string, default_: string | null) => SchemaColumn {
  const known = new Map<string, SchemaColumn>()
  return (text, default_) => {
    const key = default_ === null ? text : `${text}\n${default_}`
    const seen = known.get(key)
    if (seen) return seen
    const [, type = '', notNull, generated, identity, name = ''] = COLUMN.exec(text) ?? []
    const found = types.get(type)
    if (!found) throw new Error(`the catalog names a type of the column ${name} that it does not know`)
    const column = {
      ...{ name, notNull: notNull === 'true', generated: generated !== '', identityAlways: identity === 'a' },
      ...{ ...found, default: default_ },
    }
    known.set(key, column)
    return column
  }
}

async function readDefaults(db: Database, side: Side, schema: string): Promise<Defaults> {
  const intern = interner()
  const found: Defaults = new Map()
  const { rows } = await db.query<string[]>({
    text: side === 'source' ? SOURCE_DEFAULTS : TARGET_DEFAULTS,
    values: [schema],
    rowMode: 'array',
  })
  for (const [table, column, text] of rows as [string, string, string][]) {
    const of = found.get(table) ?? new Map()
    found.set(table, of.set(column, intern(text)))
  }
  return found
}

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
  rows: readonly ReadTable[],
  constraints: Row[],
  toColumn: (text: string, default_: string | null) => SchemaColumn,
  defaults: Defaults,
): { tables: SchemaTable[]; nameOf: Names } {
  const keys = new Map(constraints.filter((row) => row.kind === 'p').map((row) => [row.oid, row.key as number[]]))
  const nameOf: Names = new Map()
  const tables = rows.map(({ oid, table, kind, attnums, columns }): SchemaTable => {
    const names: string[] = []
    const of = defaults.get(table)
    const all = columns.map((text, at) => {
      const name = text.split(' ').slice(6).join(' ')
      const column = toColumn(text, of?.get(name) ?? null)
      names[attnums[at] as number] = column.name
      return column
    })
    nameOf.set(oid, names)
    return {
      schema,
      name: table,
      oid,
      kind,
      columns: all.filter(({ name }) => isUsers(name)),
      key: (keys.get(oid) ?? []).map((attnum) => names[attnum] ?? '').filter(isUsers),
    }
  })
  return { tables, nameOf }
}

function isUsers(column: string): boolean {
  return !OWN_COLUMN.test(column)
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
