import type { QueryResultRow } from 'pg'
import { localeOf } from '../model/collation.ts'
import {
  type Constraint,
  EXPRESSION_COLUMN,
  type Index,
  OWN_COLUMN,
  type Schema,
  type SchemaColumn,
  type SchemaTable,
  SHARD_COLUMN,
} from '../model/schema.ts'
import { type Database, literal, queryAll, type Side } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { SEQUENCES_OF_SCHEMA } from './sequences.ts'
import { ENUMS, type EnumRow, enumLabels } from './tables.ts'

/*
 * Reads one schema in three round trips, however many tables it has. The queries for the target are written for
 * CockroachDB and also work on PostgreSQL. They avoid two traps (docs/cockroachdb.md). Some booleans are always NULL,
 * so all are tested with `IS NOT TRUE`. After ALTER COLUMN TYPE, the column ids in `conkey` differ from attribute
 * numbers, so the columns of keys and foreign keys are read from elsewhere.
 */

/** Reads everything about a schema's tables that is compared between the sides. */
export async function readSchema(db: Database, side: Side, name: string): Promise<Schema> {
  const of = (sql: string) => sql.replaceAll('$1', literal(name))
  const [columns, defaults, constraints, indexes, sequences, labels, ...more] = await queryAll(
    db,
    [
      columnsSql(side),
      side === 'source' ? SOURCE_DEFAULTS : TARGET_DEFAULTS,
      constraintsSql(side),
      indexesSql(side),
      SEQUENCES,
      ENUMS,
      ...(side === 'target'
        ? [ACTIONS, TARGET_CHECKS, CHECK_COLUMNS, FOREIGN_KEY_COLUMNS, INDEX_NAMES, INDEX_DEFINITIONS]
        : []),
    ].map(of),
  )
  const [actions = [], checks = [], checkColumns = [], foreignKeys = [], indexNames = [], definitions = []] = more
  const read = (columns as TableRow[]).map(separateColumns(interner()))
  const types = await readTypes(db, side, read, enumLabels(labels as EnumRow[]))
  if (side === 'target') nameIndexes(indexes as Row[], indexNames, definitions)
  const outside = (constraints as Row[]).filter((row) => row.schema !== name || row.refSchema !== name)
  const nameOf = new Map([...namesOf(read), ...(await readOutside(db, name, outside))])
  const conditionOf = conditionsOf(checks)
  const shown = (indexes as Row[]).map((row) => toIndex(row, nameOf))
  const keyed = side === 'target' ? targetKeys(shown, { checkColumns, foreignKeys }, nameOf) : undefined
  return {
    name,
    tables: assemble(name, read, shown, columnMaker(types), extrasOf(defaults as Row[])),
    actions: actions as Schema['actions'],
    constraints: (constraints as Row[]).map((row) => toConstraint(row, nameOf, conditionOf, keyed)),
    indexes: shown,
    sequences: sequences as Schema['sequences'],
  }
}

const ONLY_TABLES = `n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relispartition IS NOT TRUE`

/**
 * Returns each table's columns in one row, as texts with type oids, so that 10,000 tables give 10,000 rows instead of
 * 100,000. The few dozen types are read separately.
 */
const columnsSql = (side: Side) => `
  SELECT c.oid, c.relname AS table, c.relkind AS kind, json_agg(
           a.attnum::text || ' ' || a.atttypid::text || ' ' || a.atttypmod::text || ' '
           || ${side === 'source' ? 'a.attcollation::text' : `'0'`} || ' ' || a.attnotnull::text || ' '
           || coalesce(a.attgenerated::text, '') || ' ' || coalesce(a.attidentity::text, '') || ' '
           || a.attname::text)::text AS columns
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped IS NOT TRUE
   WHERE ${ONLY_TABLES} GROUP BY c.oid, c.relname, c.relkind ORDER BY c.relname`

/** Reads the given types, with their modifiers and, on the source, the columns' collations. */
const typesSql = (side: Side, kinds: string) =>
  side === 'source'
    ? `
  SELECT v.k AS key, pg_catalog.format_type(v.o::oid, v.m) AS type, coalesce(e.typtype, t.typtype) AS kind,
         coalesce(e.typname, t.typname) AS "typeName", tn.nspname AS "typeSchema", e.oid IS NOT NULL AS array,
         CASE WHEN v.c::oid <> t.typcollation THEN co.collname END AS collation,
         CASE WHEN v.c::oid <> t.typcollation THEN jsonb_build_object(
           'provider', CASE to_jsonb(co)->>'collprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
           'locale', coalesce(to_jsonb(co)->>'colllocale', to_jsonb(co)->>'colliculocale', co.collcollate, ''),
           'deterministic', coalesce((to_jsonb(co)->>'collisdeterministic')::bool, true)) END AS locale
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
  SELECT table_name AS table, column_name AS column, CASE WHEN generation_expression <> '' THEN generation_expression ELSE column_default END AS default,
         collation_name AS collation
    FROM information_schema.columns
   WHERE table_schema = $1 AND (column_default IS NOT NULL OR generation_expression <> '' OR collation_name IS NOT NULL)`

const constraintsSql = (side: Side) => `
  SELECT ${side === 'source' ? `pg_catalog.pg_get_expr(k.conbin, k.conrelid)` : 'NULL'} AS condition,
         pg_catalog.pg_get_constraintdef(k.oid) AS definition, k.conname AS name, k.contype AS kind, n.nspname AS schema, c.relname AS table, k.conrelid AS oid,
         k.conkey AS key, k.condeferrable AS deferrable, k.convalidated AS validated,
         rn.nspname AS "refSchema", r.relname AS "refTable", k.confrelid AS "refOid", k.confkey AS "refKey",
         k.confupdtype AS "onUpdate", k.confdeltype AS "onDelete", k.confmatchtype AS match,
         ${side === 'source' ? 'i.relname' : `CASE WHEN k.contype IN ('p', 'u', 'x') THEN k.conname END`} AS index
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_class r ON r.oid = k.confrelid AND k.contype = 'f'
    LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
    ${side === 'source' ? 'LEFT JOIN pg_catalog.pg_class i ON i.oid = k.conindid' : ''}
   WHERE k.contype IN ('p', 'u', 'f', 'c', 'x') AND c.relispartition IS NOT TRUE AND (n.nspname = $1 OR rn.nspname = $1)
   ORDER BY n.nspname, c.relname, k.conname`

/** The names of a foreign key's own columns, because `conkey` is unreliable on the target. */
const FOREIGN_KEY_COLUMNS = `
  SELECT k.table_schema AS schema, k.table_name AS table, k.constraint_name AS name, k.column_name AS column
    FROM information_schema.key_column_usage k
    JOIN information_schema.referential_constraints r
      ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name
   WHERE k.constraint_schema = $1 OR r.unique_constraint_schema = $1
   GROUP BY 1, 2, 3, 4, k.ordinal_position ORDER BY 1, 2, 3, k.ordinal_position`

/** The columns in a check. */
const CHECK_COLUMNS = `
  SELECT DISTINCT u.table_name AS table, u.constraint_name AS name, u.column_name AS column
    FROM information_schema.constraint_column_usage u
    JOIN information_schema.check_constraints k
      ON k.constraint_schema = u.constraint_schema AND k.constraint_name = u.constraint_name
   WHERE u.constraint_schema = $1 AND u.table_schema = $1`

const OUTSIDE_COLUMNS = `
  SELECT attrelid AS oid, attnum, attname AS name FROM pg_catalog.pg_attribute WHERE attrelid = ANY($1::oid[])`

const PARTITIONS = `
  WITH RECURSIVE tree AS (
    SELECT c.oid, c.relname AS root FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relkind = 'p' AND c.relispartition IS NOT TRUE
    UNION ALL SELECT i.inhrelid, tree.root FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
  SELECT tree.root, n.nspname || '.' || c.relname AS name FROM tree
    JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relispartition ORDER BY 1, 2`

/** Lists every partition of the schema's tables, on the source. */
export async function readPartitions(db: Database, schema: string): Promise<{ root: string; name: string }[]> {
  return (await db.query(PARTITIONS, [schema])).rows
}

const TARGET_CHECKS = `
  SELECT constraint_name AS name, check_clause AS condition
    FROM information_schema.check_constraints WHERE constraint_schema = $1`

/**
 * On the target, index names are read separately: on CockroachDB, joining pg_class by an index's oid is a full scan per
 * row (cockroachdb/cockroach#111047).
 */
const indexesSql = (side: Side) =>
  side === 'source'
    ? `
  SELECT n.nspname AS schema, c.relname AS table, c.oid, i.relname AS name, x.indisunique AS unique,
         x.indisprimary AS primary, x.indisvalid AS valid, x.indkey::text AS key, x.indnkeyatts AS "keyCount",
         x.indpred IS NOT NULL AS partial,
         m.amname AS method,
         CASE WHEN x.indisprimary THEN '' ELSE pg_catalog.pg_get_indexdef(x.indexrelid) END AS definition
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = i.relam
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relispartition IS NOT TRUE ORDER BY 2, 4`
    : `
  SELECT n.nspname AS schema, c.relname AS table, c.oid, x.indexrelid AS index, x.indisunique AS unique,
         x.indisprimary AS primary, x.indisvalid AS valid, x.indkey::text AS key, x.indnkeyatts AS "keyCount",
         x.indpred IS NOT NULL AS partial
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relispartition IS NOT TRUE ORDER BY 2`

const INDEX_NAMES = `
  SELECT i.oid, i.relname AS name, m.amname AS method
    FROM pg_catalog.pg_class i
    JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
    LEFT JOIN pg_catalog.pg_am m ON m.oid = i.relam
   WHERE n.nspname = $1 AND i.relkind IN ('i', 'I')`

/** Does not include indexes that are being built or dropped, although pg_index does. Their definition stays empty. */
const INDEX_DEFINITIONS = `
  SELECT tablename AS table, indexname AS name, indexdef AS definition FROM pg_catalog.pg_indexes WHERE schemaname = $1`

const SEQUENCES = `
  SELECT s.sequencename AS name, s.increment_by::text AS increment, s.min_value::text AS min, s.max_value::text AS max,
         s.cycle, s.cache_size::text AS cache, t.relname AS table, a.attname AS column
    ${SEQUENCES_OF_SCHEMA}`

/** Triggers and rules on the target. Those on the source are not read, because the stream moves their effects. */
const ACTIONS = `
  SELECT 'trigger' AS kind, c.relname AS table, t.tgname AS name, t.tgenabled::text AS definition
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND t.tgisinternal IS NOT TRUE
  UNION ALL
  SELECT 'rule', c.relname, r.rulename, r.ev_enabled::text
    FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
  ORDER BY 2, 3`

type Row = QueryResultRow
/** Column names, by table oid and column number. */
type Names = Map<number, string[]>

interface TableRow {
  oid: number
  table: string
  kind: string
  /** A JSON array of texts, as `columnsSql` returns it. */
  columns: string
}

/**
 * A table with its column numbers and, for each column, the text that {@link COLUMN} parses. 100,000 columns have a few
 * thousand different texts.
 */
type ReadTable = Omit<TableRow, 'columns'> & { attnums: number[]; columns: string[] }
type ReadType = Pick<SchemaColumn, 'type' | 'labels' | 'detail' | 'collation'>

/** Parses the type with modifier and collation, then NOT NULL, generated, identity and name. */
const COLUMN = /^(\d+ -?\d+ \d+) (\w+) (\w*) (\w*) (.*)$/s

/** Facts about a column that `columnsSql` does not return. */
interface Extra {
  default: string | null
  /** Set only for columns on the target. */
  collation: string | null
}

/** Facts by table name, then by column name. */
type Extras = Map<string, Map<string, Extra>>

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

async function readTypes(
  db: Database,
  side: Side,
  tables: readonly ReadTable[],
  labels: Map<number, string[]>,
): Promise<Map<string, ReadType>> {
  const texts = new Set(tables.flatMap((table) => table.columns))
  const keys = new Set([...texts].map((text) => text.split(' ', 3).join(' ')))
  if (!keys.size) return new Map()
  // Convert to numbers, so that the statement cannot contain anything else.
  const kinds = [...keys].map((key) => `('${key}', ${key.split(' ').map(Number).join(', ')})`)
  const { rows } = await db.query(typesSql(side, kinds.join(', ')))
  return new Map(
    rows.map(({ key, type, locale, ...detail }) => [
      key,
      {
        type,
        labels: labels.get(Number(key.split(' ')[0])) ?? null,
        // The target's catalog has no collation for arrays.
        collation: locale && !detail.array ? (localeOf(locale) ?? null) : null,
        ...(side === 'source' && { detail }),
      },
    ]),
  )
}

/** Returns a function that creates columns, sharing one object among identical columns. */
function columnMaker(types: Map<string, ReadType>): (text: string, extra: Extra | undefined) => SchemaColumn {
  const known = new Map<string, SchemaColumn>()
  return (text, extra) => {
    const key = extra ? `${text}\n${extra.default}\n${extra.collation}` : text
    const seen = known.get(key)
    if (seen) return seen
    const [, type = '', notNull, generated, identity, name = ''] = COLUMN.exec(text) ?? []
    const found = types.get(type)
    if (!found)
      throw new UserError(
        'database.contention',
        `the type of the column ${name} was changed while the catalog was read. Rerun the step`,
      )
    const column = {
      name,
      notNull: notNull === 'true',
      generated: generated !== '',
      identityAlways: identity === 'a',
      identity: identity !== '',
      ...found,
      collation: found.collation ?? extra?.collation ?? null,
      default: extra?.default ?? null,
    }
    known.set(key, column)
    return column
  }
}

function extrasOf(rows: readonly Row[]): Extras {
  const intern = interner()
  const found: Extras = new Map()
  for (const { table, column, default: text, collation = null } of rows) {
    const of = found.get(table) ?? new Map()
    found.set(table, of.set(column, { default: text === null ? null : intern(text), collation }))
  }
  return found
}

/** Returns a function that interns strings, because 100,000 columns have only a few thousand different texts. */
function interner(): (text: string) => string {
  const seen = new Map<string, string>()
  return (text) => {
    const known = seen.get(text)
    if (known !== undefined) return known
    seen.set(text, text)
    return text
  }
}

/** The column's name, which comes last in the text from `columnsSql`. */
const columnName = (text: string) => text.split(' ').slice(6).join(' ')

function namesOf(tables: readonly ReadTable[]): Names {
  return new Map(
    tables.map(({ oid, attnums, columns }) => {
      const names: string[] = []
      for (const [at, text] of columns.entries()) names[attnums[at] as number] = columnName(text)
      return [oid, names]
    }),
  )
}

/** Reads the columns of tables in other schemas that a foreign key connects to this schema. */
async function readOutside(db: Database, schema: string, constraints: readonly Row[]): Promise<Names> {
  const oids = constraints.flatMap((row) => [
    ...(row.schema === schema ? [] : [row.oid]),
    ...(row.refOid && row.refSchema !== schema ? [row.refOid] : []),
  ])
  const found: Names = new Map()
  if (!oids.length) return found
  for (const { oid, attnum, name } of (await db.query(OUTSIDE_COLUMNS, [oids])).rows) {
    const names = found.get(oid) ?? []
    names[attnum] = name
    found.set(oid, names)
  }
  return found
}

function assemble(
  schema: string,
  rows: readonly ReadTable[],
  indexes: readonly Index[],
  toColumn: (text: string, extra: Extra | undefined) => SchemaColumn,
  extras: Extras,
): SchemaTable[] {
  const keys = new Map(indexes.filter(({ primary }) => primary).map(({ table, columns }) => [table, columns]))
  return rows.map(({ oid, table, kind, columns }): SchemaTable => {
    const of = extras.get(table)
    const all = columns.map((text) => toColumn(text, of?.get(columnName(text))))
    return {
      schema,
      name: table,
      oid,
      kind,
      columns: all.filter(({ name }) => isUsers(name)),
      key: (keys.get(table) ?? []).filter(isUsers),
    }
  })
}

/** Adds name, method and definition to the target's indexes, and sorts them by table and name. */
function nameIndexes(indexes: Row[], names: readonly Row[], definitions: readonly Row[]): void {
  const byOid = new Map(names.map((row) => [row.oid, row]))
  const defined = new Map(definitions.map(({ table, name, definition }) => [`${table}\n${name}`, definition]))
  for (const index of indexes) {
    const found = byOid.get(index.index)
    index.name = found?.name ?? ''
    index.method = found?.method ?? ''
    index.definition = index.primary ? '' : (defined.get(`${index.table}\n${index.name}`) ?? '')
  }
  indexes.sort((a, b) => compareNames(a.table, b.table) || compareNames(a.name, b.name))
}

function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/** Column names of a target constraint. An empty string stands for a column whose name is unknown. */
interface TargetKeys {
  own(row: Row): string[]
  referred(row: Row): string[]
}

function targetKeys(
  indexes: readonly Index[],
  { checkColumns, foreignKeys }: Record<'checkColumns' | 'foreignKeys', readonly Row[]>,
  nameOf: Names,
): TargetKeys {
  const keyed = new Map(indexes.map((index) => [`${index.table}\n${index.name}`, index.columns]))
  const foreign = columnsBy(foreignKeys, ({ schema, table, name }) => JSON.stringify([schema, table, name]))
  const checks = columnsBy(checkColumns, ({ table, name }) => `${table}\n${name}`)
  const unnamed = (key: number[] | null) => (key ?? ['']).map(() => '')
  return {
    own({ kind, schema, table, name, oid, key }) {
      if (kind === 'f') {
        const columns = foreign.get(JSON.stringify([schema, table, name])) ?? []
        return columns.length === key?.length ? columns : unnamed(key)
      }
      // PostgreSQL shows a check's columns only to the owner of its table.
      if (kind === 'c')
        return (
          checks.get(`${table}\n${name}`) ?? ((key ?? []) as number[]).map((attnum) => nameOf.get(oid)?.[attnum] ?? '')
        )
      return keyed.get(`${table}\n${name}`) ?? unnamed(key)
    },
    // The order may differ from that of the referenced key, and only the definition shows which column is meant.
    referred({ refOid, refKey, definition }) {
      const columns = referredColumns(definition ?? '')
      const known = new Set(nameOf.get(refOid))
      const named = columns.length === refKey?.length && columns.every((column) => known.has(column))
      return named ? columns : unnamed(refKey)
    },
  }
}

function columnsBy(rows: readonly Row[], keyOf: (row: Row) => string): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const row of rows) {
    const key = keyOf(row)
    found.set(key, [...(found.get(key) ?? []), row.column])
  }
  return found
}

/**
 * Parses the referenced columns: `x` and `Y` in `FOREIGN KEY (a, "B") REFERENCES shop.t (x, "Y") ON DELETE CASCADE`.
 */
export function referredColumns(definition: string): string[] {
  const name = String.raw`(?:"(?:[^"]|"")*"|[^\s".,()]+)`
  const list = new RegExp(String.raw`\) REFERENCES ${name}(?:\.${name})*\s*\((${name}(?:\s*,\s*${name})*)\)`).exec(
    definition,
  )?.[1]
  return [...(list ?? '').matchAll(/"((?:[^"]|"")*)"|([^\s",]+)/g)].map(
    ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? (plain as string),
  )
}

function isUsers(column: string): boolean {
  return !OWN_COLUMN.test(column)
}

/**
 * The conditions of checks by name, because information_schema does not show the table. null if checks with the same
 * name differ.
 */
function conditionsOf(rows: Row[]): Map<string, string | null> {
  const found = new Map<string, string | null>()
  for (const { name, condition } of rows)
    found.set(name, found.has(name) && found.get(name) !== condition ? null : condition)
  return found
}

function toConstraint(row: Row, nameOf: Names, conditions: Map<string, string | null>, keyed?: TargetKeys): Constraint {
  const names = (oid: number, key: number[] | null) => (key ?? []).map((attnum) => nameOf.get(oid)?.[attnum] ?? '')
  return {
    schema: row.schema,
    table: row.table,
    name: row.name,
    kind: row.kind,
    columns: keyed?.own(row) ?? names(row.oid, row.key),
    condition: row.kind === 'c' ? (row.condition ?? conditions.get(row.name) ?? null) : null,
    definition: row.definition ?? '',
    deferrable: row.deferrable,
    validated: row.validated,
    index: row.index,
    references: row.refTable && {
      schema: row.refSchema,
      table: row.refTable,
      columns: keyed?.referred(row) ?? names(row.refOid, row.refKey),
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
    partial: row.partial,
    columns: key.map((attnum) => nameOf.get(row.oid)?.[Number(attnum)] ?? '').flatMap(shownColumn),
    method: row.method,
    definition: row.definition,
  }
}

/** Replaces hidden columns of an index: omits the shard column, and shows an expression as an empty string. */
function shownColumn(name: string): string[] {
  if (SHARD_COLUMN.test(name)) return []
  return [EXPRESSION_COLUMN.test(name) ? '' : name]
}
