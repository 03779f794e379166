import type pg from 'pg'
import { ident, rows, type Side, type TextRow } from './pg.ts'

export interface TableName {
  schema: string
  table: string
}

interface Column {
  name: string
  type: string
  notNull: boolean
  /** `e` for an enum, `A` for an array, anything else otherwise. */
  kind: string
  collation: string
}

/** A table that exists on both sides, with the columns that can be compared or moved. */
export interface CommonTable extends TableName {
  /** Columns that exist on both sides with comparable types, key columns first. */
  columns: string[]
  /** Types of these columns by name, for each side. */
  types: Record<Side, Map<string, string>>
  primaryKey: string[]
  /** Whether both sides have the same key. Otherwise no row is moved or compared. */
  rowVerifiable: boolean
  mismatches: { info: string; tag: string; failable: boolean }[]
}

/** Tables on either side that pass the filters. */
export interface DatabaseTables {
  common: [source: TableName, target: TableName][]
  missing: TableName[]
  extraneous: TableName[]
}

export interface Filters {
  schema: string
  table: string
  exclusion: string
}

export function safeName(name: TableName): string {
  return `${name.schema}.${name.table}`
}

/** The table's name, quoted and qualified. */
export function sqlName(name: TableName): string {
  return `${ident(name.schema)}.${ident(name.table)}`
}

const TABLES = `
  SELECT n.nspname AS schema, c.relname AS "table"
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'crdb_internal', 'pg_extension')
     AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
   ORDER BY 1, 2`

/** Pairs the ordinary tables of both sides by case-insensitive name. */
export async function databaseTables(source: pg.Client, target: pg.Client, filters: Filters): Promise<DatabaseTables> {
  const keep = tableFilter(filters)
  const list = async (client: pg.Client) =>
    (await rows(client, TABLES)).map((r) => ({ schema: r.schema as string, table: r.table as string })).filter(keep)
  const [sourceTables, targetTables] = [await list(source), await list(target)]
  const fold = (name: TableName) => safeName(name).toLowerCase()
  for (const tables of [sourceTables, targetTables]) tables.sort((a, b) => (fold(a) < fold(b) ? -1 : 1))
  const targets = new Map(targetTables.map((t) => [fold(t), t]))
  const sources = new Set(sourceTables.map(fold))
  const result: DatabaseTables = { common: [], missing: [], extraneous: [] }
  for (const table of sourceTables) {
    const twin = targets.get(fold(table))
    if (twin) result.common.push([table, twin])
    else result.missing.push(table)
  }
  result.extraneous = targetTables.filter((t) => !sources.has(fold(t)))
  return result
}

/** Compiles POSIX regular expressions on the bare name: unanchored, case-sensitive. Throws if one is invalid. */
export function tableFilter(filters: Filters): (name: TableName) => boolean {
  const schema = posixRegExp(filters.schema)
  const table = posixRegExp(filters.table)
  const exclusion = filters.exclusion ? posixRegExp(filters.exclusion) : undefined
  return (name) => schema.test(name.schema) && table.test(name.table) && !exclusion?.test(name.table)
}

const POSIX_CLASSES: Record<string, string> = {
  alnum: 'a-zA-Z0-9',
  alpha: 'a-zA-Z',
  ascii: '\\x00-\\x7F',
  blank: '\\t ',
  cntrl: '\\x00-\\x1F\\x7F',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`{-~',
  space: '\\t\\n\\v\\f\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
}

function posixRegExp(pattern: string): RegExp {
  const source = pattern.replace(/\[:(\^?)([a-z]+):\]/g, (all, _not, name: string) => POSIX_CLASSES[name] ?? all)
  // POSIX syntax has neither these escapes nor lookaround.
  const alien = [...pattern.matchAll(/\\.|\(\?/gs)].find(([found]) => /^(\\[a-zA-Z0-9]|\(\?)$/.test(found))
  if (alien) throw new Error(`error parsing regexp: invalid escape sequence: \`${alien[0]}\``)
  try {
    return new RegExp(source)
  } catch (error) {
    const reason =
      GO_REASONS.find(([words]) => (error as Error).message.includes(words))?.[1] ?? (error as Error).message
    throw new Error(`error parsing regexp: ${reason}: \`${pattern}\``)
  }
}

const GO_REASONS: [words: string, reason: string][] = [
  ['Unterminated group', 'missing closing )'],
  ['Unmatched', 'unexpected )'],
  ['Unterminated character class', 'missing closing ]'],
  ['Nothing to repeat', 'missing argument to repetition operator'],
]

const COLUMNS = `
  SELECT a.attname AS name, t.typname AS type, a.attnotnull AS not_null, t.typtype AS typtype, t.typcategory AS category,
         coalesce(e.typtype::text, '') AS element,
         CASE WHEN co.collname IS NULL THEN '' WHEN co.collname = 'default' THEN d.datcollate ELSE co.collname END AS collation
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
    LEFT JOIN pg_catalog.pg_collation co ON co.oid = a.attcollation
    JOIN pg_catalog.pg_database d ON d.datname = current_database()
   WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped
   ORDER BY a.attnum`

const PRIMARY_KEY = `
  SELECT a.attname AS name
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ord)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
   WHERE i.indrelid = $1::regclass AND i.indisprimary AND k.ord <= i.indnkeyatts
   ORDER BY k.ord`

async function columnsOf(client: pg.Client, name: TableName): Promise<Column[]> {
  return (await rows(client, COLUMNS, [sqlName(name)])).map((r) => ({
    name: r.name as string,
    type: r.type as string,
    notNull: r.not_null === 't',
    kind: kindOf(r),
    collation: r.collation as string,
  }))
}

function kindOf(row: TextRow): string {
  if (row.typtype === 'e') return 'enum'
  if (row.category === 'A' && row.element === 'e') return 'enum[]'
  return ''
}

async function primaryKeyOf(client: pg.Client, name: TableName): Promise<string[]> {
  return (await rows(client, PRIMARY_KEY, [sqlName(name)])).map((r) => r.name as string)
}

/** Compares the definitions of each pair of tables. */
export async function compareDefinitions(
  source: pg.Client,
  target: pg.Client,
  pairs: DatabaseTables['common'],
): Promise<CommonTable[]> {
  const result: CommonTable[] = []
  for (const [from, to] of pairs) {
    const sides = {
      source: { columns: await columnsOf(source, from), key: await primaryKeyOf(source, from) },
      target: { columns: await columnsOf(target, to), key: await primaryKeyOf(target, to) },
    }
    result.push(compareTable(from, sides.source, sides.target))
  }
  return result
}

type Report = (info: string, tag: string, failable: boolean) => void

interface Definition {
  columns: Column[]
  key: string[]
}

/** Reports the differences between two definitions of a table, in the real tool's wording. */
function compareTable(name: TableName, source: Definition, target: Definition): CommonTable {
  const mismatches: CommonTable['mismatches'] = []
  const report: Report = (info, tag, failable) => mismatches.push({ info, tag, failable })
  const sourceColumns = new Map(source.columns.map((c) => [c.name, c]))
  const comparable = new Set(sourceColumns.keys())
  const unmatched = new Set(sourceColumns.keys())

  if (source.key.length === 0) report('missing a PRIMARY KEY - results cannot be compared', 'missing_primary_key', true)
  for (const column of target.columns) {
    const truth = sourceColumns.get(column.name)
    if (!truth) {
      report(`extraneous column ${ident0(column.name)} found`, 'extraneous_column', false)
      continue
    }
    unmatched.delete(column.name)
    if (truth.notNull !== column.notNull)
      report(
        `column ${ident0(column.name)} NOT NULL mismatch: ${truth.notNull} vs ${column.notNull}`,
        'not_null_mismatch',
        column.notNull,
      )
    if (!comparableTypes(truth, column)) {
      report(
        `column type mismatch on ${ident0(column.name)}: ${truth.type} vs ${column.type}`,
        'column_type_mismatch',
        true,
      )
      comparable.delete(column.name)
    }
  }
  for (const missing of unmatched) {
    report(`missing column ${ident0(missing)}`, 'missing_column', true)
    comparable.delete(missing)
  }

  const sameKey =
    source.key.length === target.key.length && source.key.every((k, i) => target.key[i] === k && comparable.has(k))
  if (!sameKey && source.key.length > 0)
    report('PRIMARY KEY does not match source of truth (columns and types must match)', 'primary_key_mismatch', true)
  const collated = sameKey && source.key.some((key) => reportCollation(key, source, target, report))
  const rest = source.columns.map((c) => c.name).filter((c) => comparable.has(c) && !source.key.includes(c))
  return {
    ...name,
    columns: [...source.key.filter((k) => comparable.has(k)), ...rest],
    types: { source: typesOf(source), target: typesOf(target) },
    primaryKey: source.key,
    rowVerifiable: sameKey && source.key.length > 0 && !collated,
    mismatches,
  }
}

function typesOf(definition: Definition): Map<string, string> {
  return new Map(definition.columns.map((c) => [c.name, c.type]))
}

/** The real tool cannot compare a text key whose sort order differs between the sides. */
function reportCollation(key: string, source: Definition, target: Definition, report: Report): boolean {
  const [a, b] = [source, target].map((d) => d.columns.find((c) => c.name === key)?.collation ?? '') as [string, string]
  const utf8 = (collation: string) => /utf-?8/i.test(collation.split('.')[1] ?? '')
  if (!a || !b || a.split('.')[0] === b.split('.')[0] || (utf8(a) && utf8(b))) return false
  const info = `PRIMARY KEY has a string field ${ident0(key)} has a different collation (source=${a}, target=${b}) preventing verification`
  report(info, 'primary_key_collation_mismatch', true)
  return true
}

/** Quotes unusual names, as the real tool's messages do. */
export function ident0(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : ident(name)
}

const FAMILIES: Record<string, string> = {
  int2: 'int',
  int4: 'int',
  int8: 'int',
  float4: 'float',
  float8: 'float',
  text: 'string',
  varchar: 'string',
  bpchar: 'string',
  char: 'string',
  name: 'string',
  json: 'json',
  jsonb: 'json',
  bit: 'bit',
  varbit: 'bit',
}

const ALLOWED = new Set(['timestamp>timestamptz', 'timestamptz>timestamp', 'varchar>uuid', 'int2>bool'])

function comparableTypes(source: Column, target: Column): boolean {
  if (source.type === target.type) return true
  if (source.kind && source.kind === target.kind) return true
  if (ALLOWED.has(`${source.type}>${target.type}`)) return true
  const family = (type: string) =>
    type.startsWith('_') ? `_${FAMILIES[type.slice(1)] ?? '?'}` : (FAMILIES[type] ?? '?')
  return !family(source.type).endsWith('?') && family(source.type) === family(target.type)
}
