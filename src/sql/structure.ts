import { expressionForm, readIndex } from '../model/expression.ts'
import { isShardCheck, type Schema, type SchemaColumn, type Constraint as SchemaConstraint } from '../model/schema.ts'
import type { SequenceState, Structure } from '../model/structure.ts'
import type { Database, Side as DatabaseSide } from '../runtime/database.ts'
import { readSchema } from './schema.ts'
import {
  lastUsed,
  readSequences,
  type Sequence,
  type Side,
  unfitSequence,
  unfitText,
  wantedSequences,
} from './sequences.ts'

/** The secondary indexes, checks, foreign keys and column parts of a schema. */
export async function readStructure(db: Database, side: DatabaseSide, name: string): Promise<Structure> {
  return structureOf(await readSchema(db, side, name))
}

/** The secondary indexes, checks, foreign keys and column parts of a schema. */
export function structureOf(schema: Schema): Structure {
  return {
    indexes: schema.indexes
      .filter(({ primary }) => !primary)
      .map(({ columns, table, name, unique, valid, definition }) => ({
        table,
        name,
        unique,
        valid,
        columns: columns.map((column) => column || '(expression)'),
        form: readIndex(definition)?.form ?? squeezed(definition),
        text: definition,
      })),
    constraints: schema.constraints
      .filter((each) => each.schema === schema.name && /[cf]/.test(each.kind) && !isShardCheck(each))
      .map((each) => ({
        table: each.table,
        name: each.name,
        kind: each.kind === 'f' ? 'foreign key' : 'check',
        validated: each.validated,
        columns: each.columns.toSorted(),
        references: each.references && referredName(schema, each.references),
        form: constraintForm(each),
        text: each.definition,
      })),
    columnParts: schema.tables.flatMap(({ name: table, columns }) =>
      columns.flatMap((each) => partsOf(each).map((part) => ({ table, column: each.name, ...part }))),
    ),
  }
}

/** Name of a referenced table. Omits the table's own schema, whose name can differ on the other side. */
export function referredName({ name }: Schema, to: NonNullable<SchemaConstraint['references']>): string {
  return to.schema === name ? to.table : `${to.schema}.${to.table}`
}

/**
 * Parts of a column's definition. An identity and a default from a sequence are the same part; the sequence itself is
 * compared elsewhere.
 */
function partsOf({ default: text, generated, identity, notNull, collation }: SchemaColumn) {
  const parts: Omit<Structure['columnParts'][number], 'table' | 'column'>[] = []
  if (generated && text !== null) parts.push({ part: 'generated value', form: formOf(text), text })
  else if (text !== null) parts.push({ part: 'default', form: defaultForm(text), text })
  else if (identity) parts.push({ part: 'default', form: NUMBERED, text: 'GENERATED AS IDENTITY' })
  if (notNull) parts.push({ part: 'NOT NULL', form: '', text: 'NOT NULL' })
  if (collation) parts.push({ part: 'collation', form: collationForm(collation), text: collation })
  return parts
}

export function collationForm(locale: string): string {
  return locale.toLowerCase().replaceAll('_', '-')
}

/**
 * The comparable form of a constraint. Ignores DEFERRABLE, which CockroachDB does not have, and RESTRICT, which means
 * NO ACTION there.
 */
function constraintForm({ kind, columns, condition, definition, references }: SchemaConstraint): string {
  if (kind !== 'f' || !references)
    return formOf(definition.replace(/( NO INHERIT| NOT VALID)*$/, '') || `CHECK (${condition})`)
  const action = (letter: string) => ({ c: 'cascade', n: 'set null', d: 'set default' })[letter] ?? 'no action'
  const full = references.match === 'f' ? ' match full' : ''
  // Sorted, because the order of the pairs does not matter.
  const pairs = columns.map((column, at) => `${column} to ${references.columns[at]}`).toSorted()
  return `(${pairs.join(', ')}) on update ${action(references.onUpdate)} on delete ${action(references.onDelete)}${full}`
}

const NUMBERED = '(numbered)'

/**
 * The comparable form of a default. All defaults that generate numbers count as equal, because sequences are compared
 * separately.
 */
export function defaultForm(text: string): string {
  const form = formOf(text)
  return /^\((nextval|unique_rowid)\b/.test(form) ? NUMBERED : form
}

export function formOf(expression: string): string {
  return expressionForm(expression) ?? squeezed(expression)
}

/** Fallback for expressions that cannot be parsed: drops white space, parentheses and letter case. */
function squeezed(text: string): string {
  return text.toLowerCase().replace(/[\s()]+/g, '')
}

/** Reads the next value on the target, and the furthest used value, of each sequence of the source. */
export async function readSequenceStates(
  source: Side,
  target: Side,
  tables: readonly string[],
): Promise<SequenceState[]> {
  const states: SequenceState[] = []
  const wanted = await wantedSequences(source, target, tables)
  const usedOf = await lastUsed(
    wanted.map(({ sequence }) => sequence),
    ...[source, target],
  )
  // Read these after the used values, because an application that writes to the target keeps advancing its sequences.
  const now = new Map((await readSequences(target.db, target.schema)).map((each) => [each.name, each]))
  for (const { sequence, there: other } of wanted) {
    const { name, increment, table } = sequence
    const used = usedOf.get(name) ?? null
    const unfit = other && unfitSequence(sequence, other, target.schema, used)
    states.push({
      name,
      table,
      increment,
      // A sequence that cycles starts over, so it is never behind.
      used: sequence.cycle ? undefined : (used ?? undefined),
      next: other && (await nextValue(target.db, target.schema, now.get(other.name) ?? other)),
      unfit: unfit && unfitText(unfit),
    })
  }
  return states
}

/** Reads the next value without consuming a number. */
async function nextValue(db: Database, schema: string, sequence: Sequence): Promise<bigint> {
  if (sequence.lastValue !== null) return sequence.lastValue + sequence.increment
  const { rows } = await db.query(
    'SELECT start_value::text AS value FROM pg_catalog.pg_sequences WHERE schemaname = $1 AND sequencename = $2',
    [schema, sequence.name],
  )
  return BigInt(rows[0].value)
}
