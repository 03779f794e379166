import { literal } from '../runtime/database.ts'
import { columnOf, type Family, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import type { Hashes } from './hashes.ts'
import { jsonLeaves } from './json-paths.ts'
import type { UseRule } from './rules.ts'

/** What happens to one column, and why. */
export interface Decision {
  column: MaskColumn
  what: 'kept' | 'masked' | 'moved' | 'generated'
  /** The rule's name; empty for kept and generated columns. */
  use: UseRule['use'] | 'jitter' | ''
  /** The reason in the rules file, the safe class, or the reference that the rule was inherited through. */
  why: string
  domain: string
  /** SQL expression of the column in the SELECT. */
  expression: string
  /** One-column SELECTs over a row `t` that yield its values as text, for the proof. */
  values: string[]
  /** Whether the proof fails if it finds an original among the masked values. */
  strict: boolean
  /**
   * Whether the column is a surrogate key or a reference to one, which is not personal data, whatever its name
   * suggests.
   */
  numbersRow?: boolean
}

/** A reference between tables, from a foreign key or from the rules file. */
export interface Edge {
  from: string
  columns: string[]
  to: string
  toColumns: string[]
  /** For a polymorphic reference: applies only to rows in which `column` has the value `is`. */
  when?: { column: string; is: string }
  /** Whether the two columns have different types and are compared as text. */
  asText: boolean
  /** Whether one of the columns ignores case. */
  ignoresCase: boolean
  /** Name of the constraint; empty for an undeclared reference. */
  constraint: string
}

export interface PlannedTable {
  table: MaskTable
  decisions: Decision[]
  /** Names of the columns that are copied, in the order of `select`. */
  columns: string[]
  hashes: Hashes
}

/** A query on the source whose count must be zero. */
export interface Check {
  /** `table.column` of the rule. */
  column: string
  /** Yields one row with `count`. */
  sql: string
  problem: (count: number) => string
}

export interface Plan {
  schema: string
  tables: PlannedTable[]
  edges: Edge[]
  /** Domain → number in the names of its session parameters, for every domain that needs a key. */
  domains: Map<string, number>
  problems: string[]
  /** Columns without a rule or safe class. */
  unlisted: { table: string; column: MaskColumn }[]
  checks: Check[]
}

export type Resolved = { column: MaskColumn; table: MaskTable } & (
  | { keep: true; why: string }
  | { rule: UseRule; why: string; domain: string }
  | { jitter: string; why: string }
)

/** SQL for a value in the form in which both ends of the reference are compared. */
export function compared({ asText, ignoresCase }: Pick<Edge, 'asText' | 'ignoresCase'>, value: string): string {
  // citext's own operator is in a schema that is not in the search path.
  if (ignoresCase) return `lower(${value}::text)`
  return asText ? `${value}::text` : value
}

/** Whether a parent's masked values fit a column that refers to it. */
export function meets(column: MaskColumn, parent: MaskColumn): boolean {
  const room = column.maxLength === null || (parent.maxLength !== null && parent.maxLength <= column.maxLength)
  return column.type === parent.type || (column.family === 'text' && parent.family === 'text' && room)
}

export const NUMBERS = new Set<Family>(['integer', 'numeric', 'float'])

/** Type families that can contain a person's name. `other` includes composite types, ranges, tsvector and inet. */
export const TEXTS = new Set<Family>(['text', 'json', 'other'])

/** SELECTs of all texts in a value: the value itself, array elements, document values, row fields. */
export function textsOf(value: string, { array, family, type }: MaskColumn): string[] {
  if (family === 'json' && !array) return jsonLeaves(value, type)
  const whole = array ? `SELECT e::text FROM unnest(${value}) e` : `SELECT ${value}::text`
  return family === 'other' ? [whole, ...jsonLeaves(`to_jsonb(${value})`, 'jsonb', array ? 2 : 1)] : [whole]
}

/** SQL that reduces a text to letters and digits, so that a telephone number matches without its spaces. */
export function bare(text: string): string {
  const others = String.raw`[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\u2000-\u206f\u3000]`
  return `regexp_replace(lower(${text} COLLATE "C"), ${literal(others)}, '', 'g')`
}

/** The SELECT of the masked rows. `where` filters by the original values. */
export function maskedSelect(planned: PlannedTable, where?: string): string {
  const { table, decisions, hashes } = planned
  const columns = decisions.filter(({ what }) => what !== 'generated')
  const list = columns.map(({ column, expression }) => `${expression} AS ${columnOf(column.name).slice(2)}`).join(', ')
  const rows = where ? `(SELECT * FROM ${fromItem(table)} AS t WHERE ${where}) AS t` : `${fromItem(table)} AS t`
  const once = [...hashes.tables].map(([query, name]) => `"${name}" AS MATERIALIZED (${query})`)
  const head = once.length ? `WITH ${once.join(', ')} ` : ''
  return head + hashes.select(list, rows)
}
