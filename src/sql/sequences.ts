import { type Database, ident, qualified, unhurried } from '../runtime/database.ts'

/** A sequence of the schema, and the column that it feeds, when it feeds one. Values are text: they exceed 2^53. */
export interface Sequence {
  name: string
  /** The value last handed out; null when none was yet. */
  lastValue: bigint | null
  increment: bigint
  min: bigint
  max: bigint
  cycle: boolean
  cache: bigint
  table: string | null
  column: string | null
}

/** Every sequence of a schema, standalone ones too. */
export async function readSequences(db: Database, schema: string): Promise<Sequence[]> {
  const { rows } = await db.query(
    `SELECT s.sequencename AS name, s.last_value AS last, s.increment_by AS increment, s.min_value AS min,
            s.max_value AS max, s.cycle, s.cache_size AS cache, t.relname AS table, a.attname AS column
       FROM pg_catalog.pg_sequences s
       JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
       JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
       LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
       LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
       LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
      WHERE s.schemaname = $1 ORDER BY 1`,
    [schema],
  )
  return rows.map((row) => ({
    ...row,
    lastValue: row.last === null ? null : BigInt(row.last),
    increment: BigInt(row.increment),
    min: BigInt(row.min),
    max: BigInt(row.max),
    cache: BigInt(row.cache),
  }))
}

/** One side of a migration, and the schema that is moved. */
export interface Side {
  db: Database
  schema: string
}

/**
 * The sequences of the source that the target must have: all but those of tables that stay behind, and of columns that
 * number themselves on the target. `there` is the target's sequence of that name.
 */
export async function wantedSequences(
  source: Side,
  target: Side,
  tables: readonly string[],
): Promise<{ sequence: Sequence; there: Sequence | undefined }[]> {
  const byName = new Map((await readSequences(target.db, target.schema)).map((sequence) => [sequence.name, sequence]))
  const found = []
  for (const sequence of await readSequences(source.db, source.schema)) {
    const { name, table, column } = sequence
    const there = byName.get(name)
    if (table && !tables.includes(table)) continue
    if (!there && table && column && (await numbersItself(target, table, column))) continue
    found.push({ sequence, there })
  }
  return found
}

/** CockroachDB's own ways to number rows, for which there is no sequence. */
export const SELF_NUMBERING = /\b(unique_rowid|unordered_unique_rowid|gen_random_uuid|uuid_generate_v4)\(/

async function numbersItself({ db, schema }: Side, table: string, column: string): Promise<boolean> {
  const { rows } = await db.query(
    `SELECT column_default AS text FROM information_schema.columns
      WHERE table_schema = $1 AND table_name = $2 AND column_name = $3`,
    [schema, table, column],
  )
  return SELF_NUMBERING.test(rows[0]?.text ?? '')
}

/** One sequence after it was set on the target: `value` is the last one used up, so the next one is beyond it. */
export interface SequenceSet {
  name: string
  sourceValue: string | null
  value: string
}

/**
 * Sets the target's sequences of `tables`, and those of no table, beyond both the source's value and the highest value
 * in the column, plus `margin`, and reads each back. Writes are fenced, but `nextval` is not: the margin covers numbers
 * handed out meanwhile.
 * @returns what was set, and what could not be, in words
 */
export function setSequences(
  source: Side,
  target: Side,
  tables: readonly string[],
  margin: bigint,
): Promise<{ set: SequenceSet[]; problems: string[] }> {
  // A column without an index is read as a whole.
  return unhurried(source.db, () => unhurried(target.db, () => setAll(source, target, tables, margin)))
}

async function setAll(
  source: Side,
  target: Side,
  tables: readonly string[],
  margin: bigint,
): Promise<{ set: SequenceSet[]; problems: string[] }> {
  const set: SequenceSet[] = []
  const problems: string[] = []
  for (const { sequence, there: other } of await wantedSequences(source, target, tables)) {
    if (!other) {
      problems.push(`sequence ${sequence.name} is missing on the target; create it there`)
      continue
    }
    const used = await lastUsed(sequence, source, target)
    if (used === null) continue
    const step = sequence.increment * (margin > sequence.cache ? margin : sequence.cache)
    const value = furthest(sequence, clamp(used + step, other), other.lastValue)
    const back = await setOne(target.db, qualified(target.schema, sequence.name), value)
    if (back !== value) problems.push(`sequence ${sequence.name} was set to ${value} on the target, but reads ${back}`)
    set.push({ name: sequence.name, sourceValue: sequence.lastValue?.toString() ?? null, value: value.toString() })
  }
  return { set, problems }
}

/** The value furthest along: of the source's sequence, and of the column's rows on both sides. */
async function lastUsed(sequence: Sequence, ...sides: Side[]): Promise<bigint | null> {
  const values = sequence.lastValue === null ? [] : [sequence.lastValue]
  const { table, column } = sequence
  if (table && column)
    for (const { db, schema } of sides) {
      const extreme = sequence.increment > 0n ? 'max' : 'min'
      const { rows } = await db.query(
        `SELECT ${extreme}(${ident(column)})::text AS value FROM ${qualified(schema, table)}`,
      )
      if (rows[0].value !== null) values.push(BigInt(rows[0].value))
    }
  return values.reduce<bigint | null>((a, b) => (a === null ? b : furthest(sequence, a, b)), null)
}

/** The value further along in the sequence's direction; a sequence is never set back. */
function furthest(sequence: Sequence, a: bigint, b: bigint | null): bigint {
  if (b === null) return a
  return a > b === sequence.increment > 0n ? a : b
}

function clamp(value: bigint, sequence: Sequence): bigint {
  if (value > sequence.max) return sequence.max
  return value < sequence.min ? sequence.min : value
}

async function setOne(db: Database, name: string, value: bigint): Promise<bigint> {
  await db.query('SELECT setval($1::regclass, $2, true)', [name, value.toString()])
  const { rows } = await db.query(`SELECT last_value AS value FROM ${name}`)
  return BigInt(rows[0].value)
}
