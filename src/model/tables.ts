import { ident, qualified } from '../runtime/database.ts'

/** A column as the catalog describes it. */
export interface Column {
  name: string
  /** The type as `format_type` prints it: `numeric(12,2)`, `timestamp with time zone`. */
  type: string
  notNull: boolean
  /** Whether the database computes the column. The tools do not move such a column. */
  generated: boolean
  identityAlways: boolean
  /** An enum's labels in order; null for other types. */
  labels: string[] | null
}

/** The parts of a table that are compared on both sides. */
export interface Table {
  schema: string
  name: string
  oid: number
  /** pg_class.relkind: `r` ordinary, `p` partitioned. */
  kind: string
  columns: Column[]
  /** Key columns in key order; empty when there is no primary key. */
  key: string[]
}

export type DifferenceKind =
  | 'missing-on-source'
  | 'missing-on-target'
  | 'offline-on-target'
  | 'primary-key'
  | 'column-on-source-only'
  | 'column-on-target-only'
  | 'column-type'
  | 'column-narrower'
  | 'enum-labels'
  | 'identity-always'

/** A difference between source and target. `what` and `fix` are messages for the user. */
export interface Difference {
  kind: DifferenceKind
  table: string
  what: string
  fix: string
}

const FAMILIES: [RegExp, string][] = [
  [/^(smallint|integer|bigint)$/, 'integer'],
  [/^(text|character varying|character|"char"|name|string)/, 'text'],
  [/^(real|double precision)$/, 'float'],
  [/^jsonb?$/, 'json'],
  [/^(numeric|decimal)/, 'numeric'],
  [/^timestamp.* with time zone/, 'timestamptz'],
  [/^timestamp/, 'timestamp'],
  [/^time.* with time zone/, 'timetz'],
  [/^time/, 'time'],
  [/^bit/, 'bit'],
]

/**
 * The family of a column's type. Both tools can move values between types of one family, such as `integer` and INT8, or
 * `varchar(40)` and STRING.
 */
export function typeFamily(column: Column): string {
  if (column.labels) return 'enum'
  const array = column.type.endsWith('[]')
  const base = array ? column.type.slice(0, -2) : column.type
  const family = FAMILIES.find(([regex]) => regex.test(base))?.[1] ?? base.replace(/^.*\./, '').replaceAll('"', '')
  return array ? `${family}[]` : family
}

/**
 * A POSIX expression that matches exactly these unqualified names. It is anchored, because the tools do not anchor
 * their filters.
 */
export function exactFilter(names: readonly string[]): string {
  return `^(${names.map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|')})$`
}

/** Lists the differences that keep rows of the expected tables from being moved. */
export function compareTables(expected: readonly Table[], target: readonly Table[]): Difference[] {
  const byName = new Map(target.map((table) => [table.name, table]))
  return expected.flatMap((source) => {
    const other = byName.get(source.name)
    if (other) return compareTable(source, other)
    return [
      difference(
        'missing-on-target',
        source,
        'is missing on the target',
        'create the table there, from the converted schema',
      ),
    ]
  })
}

function compareTable(source: Table, target: Table): Difference[] {
  const found: Difference[] = []
  if (source.key.join() !== target.key.join())
    found.push(
      difference(
        'primary-key',
        source,
        `has the primary key (${source.key.join(', ') || 'none'}) on the source and (${target.key.join(', ') || 'none'}) on the target`,
        "give both the same key columns in the same order, because otherwise MOLT moves none of the table's rows and still exits with code 0",
      ),
    )
  const columns = new Map(target.columns.map((column) => [column.name, column]))
  for (const column of source.columns) found.push(...compareColumn(source, column, columns.get(column.name)))
  const known = new Set(source.columns.map((column) => column.name))
  for (const column of target.columns)
    if (!known.has(column.name))
      found.push(
        difference(
          'column-on-target-only',
          source,
          `has the column ${column.name} only on the target`,
          'drop the column, or add it to the source',
        ),
      )
  return found
}

function compareColumn(table: Table, source: Column, target: Column | undefined): Difference[] {
  if (!target)
    return [
      difference(
        'column-on-source-only',
        table,
        `has the column ${source.name} only on the source`,
        `add ${source.name} ${source.type} to the target`,
      ),
    ]
  const found: Difference[] = []
  if (typeFamily(source) !== typeFamily(target))
    found.push(
      difference(
        'column-type',
        table,
        `has the column ${source.name} as ${source.type} on the source and ${target.type} on the target`,
        'give the column the same type on both sides, because otherwise MOLT skips it',
      ),
    )
  if (source.labels && target.labels && source.labels.join('\n') !== target.labels.join('\n'))
    found.push(
      difference(
        'enum-labels',
        table,
        `has the enum ${source.name} with the labels ${source.labels.join(', ')} on the source and ${target.labels.join(', ')} on the target`,
        'create the target type with the same labels in the same order, which decides how values sort',
      ),
    )
  if (target.identityAlways)
    found.push(
      difference(
        'identity-always',
        table,
        `has the column ${source.name} GENERATED ALWAYS AS IDENTITY on the target`,
        `ALTER TABLE ${qualified(table.schema, table.name)} ALTER COLUMN ${ident(source.name)} SET GENERATED BY DEFAULT; ALWAYS stops the stream (428C9)`,
      ),
    )
  return found
}

function difference(kind: DifferenceKind, table: Table, what: string, fix: string): Difference {
  return { kind, table: `${table.schema}.${table.name}`, what: `${table.schema}.${table.name} ${what}`, fix }
}
