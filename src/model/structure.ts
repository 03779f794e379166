import { ident, qualified } from '../runtime/database.ts'
import type { Difference, Table } from './tables.ts'

/** A definition, in a form that is comparable between the servers and as the server prints it. */
interface Definition {
  form: string
  text: string
  /**
   * Set if `convert.yml` decides what the target's definition is. In that case, `text` is the definition for
   * CockroachDB.
   */
  decided?: true
}

/** A secondary index. `columns` are in key order; `(expression)` stands for an expression. */
interface Index extends Definition {
  table: string
  name: string
  unique: boolean
  valid: boolean
  columns: string[]
}

/**
 * A check or foreign key. `columns` are in alphabetical order; `references` is the table that a foreign key references.
 */
interface Constraint extends Definition {
  table: string
  name: string
  kind: 'check' | 'foreign key'
  validated: boolean
  columns: string[]
  references: string | null
}

/** One part of a column's definition, except its type, which is compared elsewhere. */
interface ColumnPart extends Definition {
  table: string
  column: string
  part: 'default' | 'generated value' | 'NOT NULL' | 'collation'
}

export interface SequenceState {
  name: string
  /** The table that the sequence feeds; null if it feeds none. */
  table: string | null
  /** The last number that the sequence or its column has used on either side; undefined if none was used. */
  used: bigint | undefined
  /** The target sequence's next value; undefined if the target lacks the sequence. */
  next: bigint | undefined
  increment: bigint
  /** A message about why the target's sequence cannot be set past `used`. */
  unfit?: string
}

/**
 * A definition that the target lacks (`missing`), does not enforce (`invalid`) or defines differently (`different`).
 */
export interface StructureProblem {
  kind: 'missing' | 'invalid' | 'different'
  what: string
}

/** All definitions that are compared, except primary keys. */
export interface Structure {
  indexes: Index[]
  constraints: Constraint[]
  columnParts: ColumnPart[]
}

/** A decision in `convert.yml` about one definition on the source. */
export interface Decision {
  of: 'index' | 'constraint' | 'type' | ColumnPart['part']
  table: string
  /** Name of the index, constraint or column. */
  name: string
  /** What differs on the target; null if the definition is omitted there. */
  target: Partial<Pick<Index, 'name' | 'unique' | 'columns' | 'form' | 'text'>> | null
}

/**
 * A decision with the form of the source's definition. If the source's definition changes, the decision no longer
 * applies.
 */
export interface Decided extends Decision {
  source: string
}

/** Adds the form of the source's definition to each decision. Drops decisions about definitions that do not exist. */
export function pinDecisions(decisions: readonly Decision[], source: Structure, tables: readonly Table[]): Decided[] {
  const forms = new Map<string, string>()
  const note = (of: Decision['of'], table: string, name: string, form: string) =>
    forms.set(keyOf({ of, table, name }), form)
  for (const { table, name, form } of source.indexes) note('index', table, name, form)
  for (const { table, name, form } of source.constraints) note('constraint', table, name, form)
  for (const { part, table, column, form } of source.columnParts) note(part, table, column, form)
  for (const { name: table, columns } of tables) for (const { name, type } of columns) note('type', table, name, type)
  // The last decision wins, because a check may be renamed and then get another condition.
  const last = new Map(decisions.map((each) => [keyOf(each), each]))
  return [...last.values()].flatMap((each) => {
    const form = forms.get(keyOf(each))
    return form === undefined ? [] : { ...each, source: form }
  })
}

const keyOf = ({ of, table, name }: Pick<Decision, 'of' | 'table' | 'name'>) => JSON.stringify([of, table, name])

/** Describes a decision in words: `orders: index by_state is left out`. */
export function decidedText({ of, table, name, target }: Decision): string {
  const what = `${table}: ${of} ${of === 'index' || of === 'constraint' ? name : `of ${name}`}`
  if (!target) return `${what} is left out`
  return target.text ? `${what} becomes ${target.text}` : `${what} becomes ${target.name}`
}

/**
 * The definitions that the target must have: the source's, with the decisions applied. Ignores a decision if the
 * source's definition has changed since.
 */
export function asDecided(source: Structure, decided: readonly Decided[]): Structure {
  const known = new Map(decided.map((each) => [keyOf(each), each]))
  const change = <T extends Definition & { table: string }>(each: T, of: Decision['of'], name: string): T[] => {
    const found = known.get(keyOf({ of, table: each.table, name }))
    if (found?.source !== each.form) return [each]
    return found.target ? [{ ...each, ...found.target, decided: true }] : []
  }
  return {
    indexes: source.indexes.flatMap((each) => change(each, 'index', each.name)),
    constraints: source.constraints.flatMap((each) => change(each, 'constraint', each.name)),
    columnParts: source.columnParts.flatMap((each) => change(each, each.part, each.column)),
  }
}

/**
 * Lists the source's definitions that are missing, invalid or different on the target. Names may differ, and the target
 * may have additional definitions.
 */
export function structureProblems(
  source: Structure,
  target: Structure,
  tables: readonly string[],
  schema: string,
): StructureProblem[] {
  return [
    ...indexProblems(source.indexes, target.indexes, tables),
    ...constraintProblems(source.constraints, target.constraints, tables, schema),
    ...columnProblems(source.columnParts, target.columnParts, tables),
  ]
}

function indexProblems(
  source: readonly Index[],
  target: readonly Index[],
  tables: readonly string[],
): StructureProblem[] {
  const signature = ({ table, unique, columns }: Index) => JSON.stringify([table, unique, columns])
  return paired(source, target, tables, signature).flatMap(([index, found]): StructureProblem[] => {
    const what = `${index.table}: the ${index.unique ? 'unique ' : ''}index ${index.name} (${index.columns.join(', ')})`
    if (!found) return [{ kind: 'missing', what: `${what} is missing on the target` }]
    if (found.valid) return otherForm(what, index, found)
    const invalid = `${index.table}: the index ${found.name} is not valid on the target. Rebuild it`
    return [{ kind: 'invalid', what: invalid }]
  })
}

function constraintProblems(
  source: readonly Constraint[],
  target: readonly Constraint[],
  tables: readonly string[],
  schema: string,
): StructureProblem[] {
  const signature = ({ table, kind, columns, references }: Constraint) =>
    JSON.stringify([table, kind, columns, references])
  return paired(source, target, tables, signature).flatMap(([constraint, found]): StructureProblem[] => {
    const what = `${constraint.table}: the ${constraint.kind} constraint`
    const named = `${what} ${constraint.name} (${constraint.columns.join(', ')})`
    if (!found) return [{ kind: 'missing', what: `${named} is missing on the target` }]
    if (found.validated || !constraint.validated) return otherForm(named, constraint, found)
    const invalid = `${what} ${found.name} is not validated on the target. Run ALTER TABLE ${qualified(schema, constraint.table)} VALIDATE CONSTRAINT ${ident(found.name)}`
    return [{ kind: 'invalid', what: invalid }]
  })
}

function columnProblems(source: readonly ColumnPart[], target: readonly ColumnPart[], tables: readonly string[]) {
  const signature = ({ table, column, part }: ColumnPart) => JSON.stringify([table, column, part])
  return paired(source, target, tables, signature).flatMap(([wanted, found]): StructureProblem[] => {
    const what = `${wanted.table}: the ${wanted.part} of ${wanted.column}`
    return found ? otherForm(what, wanted, found) : [{ kind: 'missing', what: `${what} is missing on the target` }]
  })
}

function otherForm(what: string, wanted: Definition, found: Definition): StructureProblem[] {
  if (wanted.form === found.form) return []
  const by = wanted.decided ? 'in `convert.yml`' : 'on the source'
  return [{ kind: 'different', what: `${what} differs: ${wanted.text} ${by}, ${found.text} on the target` }]
}

/**
 * Pairs each definition on the source with a definition of the same signature on the target, preferably of the same
 * form.
 */
function paired<T extends { table: string; form: string }>(
  source: readonly T[],
  target: readonly T[],
  tables: readonly string[],
  signatureOf: (each: T) => string,
): [T, T | undefined][] {
  const left = new Map<string, T[]>()
  for (const each of target) left.set(signatureOf(each), [...(left.get(signatureOf(each)) ?? []), each])
  const wanted = source.filter(({ table }) => tables.includes(table))
  const take = (each: T, sameForm: boolean) => {
    const candidates = left.get(signatureOf(each)) ?? []
    const at = candidates.findIndex(({ form }) => !sameForm || form === each.form)
    return at < 0 ? undefined : candidates.splice(at, 1)[0]
  }
  const alike = new Map(wanted.map((each) => [each, take(each, true)]))
  return wanted.map((each) => [each, alike.get(each) ?? take(each, false)])
}

/** Lists sequences that are missing on the target, or whose next value is already in use. */
export function sequenceProblems(states: readonly SequenceState[]): string[] {
  return states.flatMap(({ name, used, next, increment, unfit }) => {
    if (unfit) return unfit
    if (next === undefined) return `the sequence ${name} is missing on the target`
    if (used === undefined || (increment > 0n ? next > used : next < used)) return []
    return `the sequence ${name} is behind: the target's next value is ${next}, but ${used} already exists; run \`finalize\` to set it`
  })
}

/**
 * Lists columns whose type on the target belongs to the same family but cannot hold every source value. Omits those
 * that `convert.yml` accepts.
 */
export function narrowColumns(
  source: Table,
  target: Table | undefined,
  decided: readonly Decided[] = [],
): Difference[] {
  const there = new Map(target?.columns.map((column) => [column.name, column.type]))
  const types = new Map(
    decided.flatMap((each) => (each.of === 'type' && each.table === source.name ? [[each.name, each]] : [])),
  )
  return source.columns.flatMap(({ name, type }) => {
    const other = there.get(name)
    if (other === undefined || !isNarrower(type, other)) return []
    const decision = types.get(name)
    if (decision?.source === type && decision.target?.form === typeForm(other)) return []
    const table = `${source.schema}.${source.name}`
    return {
      kind: 'column-narrower',
      table,
      what: `${table} has the column ${name} as ${type} on the source and ${other} on the target, which cannot store every value`,
      fix: `give it the type ${type} on the target`,
    }
  })
}

const TYPE_NAMES: Record<string, string> = {
  smallint: 'int2',
  integer: 'int4',
  int: 'int8',
  bigint: 'int8',
  real: 'float4',
  'double precision': 'float8',
  numeric: 'decimal',
  text: 'string',
  'character varying': 'varchar',
  character: 'char',
  boolean: 'bool',
  'timestamp with time zone': 'timestamptz',
  'timestamp without time zone': 'timestamp',
  'time with time zone': 'timetz',
  'time without time zone': 'time',
  'bit varying': 'varbit',
}

/** Normalizes the name of a CockroachDB type: `NUMERIC(19, 4)` becomes `decimal(19,4)`. */
export function typeForm(sql: string): string {
  const text = sql
    .toLowerCase()
    .replace(/\s+/g, ' ')
    .replace(/ ?([(),]) ?/g, '$1')
    .trim()
  const [, base = text, sizes = '', zone = '', array = ''] =
    /^([^(]*?)(\([\d,]+\))?( ?with(?:out)? time zone)?((?:\[\])*)$/.exec(text) ?? []
  const name = (base + zone.replace(/^ ?/, ' ')).trim()
  return `${TYPE_NAMES[name] ?? name}${sizes}${array}`
}

/** Size in bytes of types without a length or precision. */
const WHOLE: Record<string, number> = { smallint: 2, integer: 4, bigint: 8, real: 4, 'double precision': 8 }
/** Precision of a type that does not specify one. */
const UNSAID: Record<string, number> = { timestamp: 6, time: 6 }

/** Whether `target` keeps fewer digits or characters than `source`, for two types of the same kind. */
export function isNarrower(source: string, target: string): boolean {
  const [a, b] = [source.replace('[]', ''), target.replace('[]', '')]
  const [wide, narrow] = [WHOLE[a], WHOLE[b]]
  if (wide !== undefined || narrow !== undefined) return wide !== undefined && narrow !== undefined && narrow < wide
  const [from, to] = [shape(a), shape(b)]
  if (from.kind !== to.kind) return false
  if (from.kind === 'numeric') {
    if (!to.sizes.length) return false
    if (!from.sizes.length) return true
    const [p1 = 0, s1 = 0] = from.sizes
    const [p2 = 0, s2 = 0] = to.sizes
    return s2 < s1 || p2 - s2 < p1 - s1
  }
  const unsaid = UNSAID[from.kind] ?? Number.POSITIVE_INFINITY
  return (to.sizes[0] ?? unsaid) < (from.sizes[0] ?? unsaid)
}

function shape(type: string): { kind: string; sizes: number[] } {
  const [, base = '', sizes = ''] = /^([a-z" ]+?)(?:\(([\d,]+)\))?(?: with(?:out)? time zone)?$/.exec(type) ?? []
  const kind = base.startsWith('character') || base === 'text' ? 'text' : base.trim()
  return { kind, sizes: sizes.split(',').filter(Boolean).map(Number) }
}
