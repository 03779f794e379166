import { type Database, ident, literal, qualified, queryAll, unhurried } from '../runtime/database.ts'

/** A sequence in the schema, with the column that it feeds, if any. Values can exceed 2^53. */
export interface Sequence {
  name: string
  /**
   * The last generated value; null if there is none. For an unused sequence on the source: its next value minus its
   * increment, if that is within its bounds.
   */
  lastValue: bigint | null
  increment: bigint
  min: bigint
  max: bigint
  cycle: boolean
  cache: bigint
  table: string | null
  column: string | null
  /** Range of the column's type; null if there is no column or its type is not an integer. */
  holds: { min: bigint; max: bigint } | null
}

const WHOLE: Record<string, bigint> = { smallint: 2n ** 15n, integer: 2n ** 31n, bigint: 2n ** 63n }

/** Range of a column type; null if it is not an integer. */
function rangeOf(type: string): { min: bigint; max: bigint } | null {
  const end = WHOLE[type]
  return end === undefined ? null : { min: -end, max: end - 1n }
}

/**
 * Selects the sequences `s` of the schema $1 by name, with the table `t` and the column `a` that each feeds, if any.
 */
export const SEQUENCES_OF_SCHEMA = `
  FROM pg_catalog.pg_sequences s
  JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
  LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
  LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE s.schemaname = $1 ORDER BY 1`

/** Reads all sequences of a schema, including standalone ones. */
export async function readSequences(db: Database, schema: string): Promise<Sequence[]> {
  return (await readRows(db, schema)).map(({ sequence }) => sequence)
}

/**
 * Reads the sequences of a source. pg_sequences shows no value for an unused sequence, for example after `RESTART
 * WITH`, so all numbers before its next value count as used.
 */
export async function readSourceSequences(db: Database, schema: string): Promise<Sequence[]> {
  const rows = await readRows(db, schema)
  const unused = rows.flatMap(({ sequence, readable }) =>
    readable && sequence.lastValue === null ? sequence.name : [],
  )
  const firstOf = await readLast({ db, schema }, unused)
  return rows.map(({ sequence }) => {
    const { name, increment, min, max } = sequence
    const first = firstOf.get(name)
    const before = first === undefined ? undefined : first - increment
    return before !== undefined && before >= min && before <= max ? { ...sequence, lastValue: before } : sequence
  })
}

async function readRows(db: Database, schema: string): Promise<{ sequence: Sequence; readable: boolean }[]> {
  const { rows } = await db.query(
    `SELECT s.sequencename AS name, s.last_value AS last, s.increment_by AS increment, s.min_value AS min,
            s.max_value AS max, s.cycle, s.cache_size AS cache, t.relname AS table, a.attname AS column,
            pg_catalog.format_type(a.atttypid, NULL) AS type,
            has_table_privilege(c.oid, 'SELECT') AS readable
       ${SEQUENCES_OF_SCHEMA}`,
    [schema],
  )
  return rows.map(({ last, type, readable, ...row }) => ({
    readable,
    sequence: {
      ...row,
      holds: rangeOf(type ?? ''),
      lastValue: last === null ? null : BigInt(last),
      increment: BigInt(row.increment),
      min: BigInt(row.min),
      max: BigInt(row.max),
      cache: BigInt(row.cache),
    },
  }))
}

/** One side of a migration, with the schema that is moved. */
export interface Side {
  db: Database
  schema: string
}

/**
 * Lists the source's sequences that the target must have. These are all except the sequences of tables that are not
 * moved, and of columns whose numbers the target generates without a sequence. `there` is the target's sequence with
 * the same name.
 */
export async function wantedSequences(
  source: Side,
  target: Side,
  tables: readonly string[],
): Promise<{ sequence: Sequence; there: Sequence | undefined }[]> {
  const byName = new Map((await readSequences(target.db, target.schema)).map((sequence) => [sequence.name, sequence]))
  const found = []
  for (const sequence of await readSourceSequences(source.db, source.schema)) {
    const { name, table, column } = sequence
    const there = byName.get(name)
    if (table && !tables.includes(table)) continue
    if (!there && table && column && (await numbersItself(target, table, column))) continue
    found.push({ sequence, there })
  }
  return found
}

/** Defaults that generate keys on CockroachDB without a sequence. */
export const SELF_NUMBERING = /\b(unique_rowid|unordered_unique_rowid|gen_random_uuid|uuid_generate_v4)\(/

async function numbersItself({ db, schema }: Side, table: string, column: string): Promise<boolean> {
  const { rows } = await db.query(
    `SELECT column_default AS text FROM information_schema.columns
      WHERE table_schema = $1 AND table_name = $2 AND column_name = $3`,
    [schema, table, column],
  )
  return SELF_NUMBERING.test(rows[0]?.text ?? '')
}

/** A sequence that was set on the target. `value` counts as used, so the next number comes after it. */
export interface SequenceSet {
  name: string
  sourceValue: string | null
  value: string
}

/**
 * Sets the target's sequences of `tables`, and those that feed no table, to `margin` past the last value that the
 * source's sequence or the column has used, and reads each back. The fence stops writes but not `nextval`, so the
 * margin covers numbers that are generated meanwhile.
 * @param live whether the application already uses the target. If so, leaves alone sequences that are past all used
 * values, because setting one could move it back to numbers in use
 * @returns sequences that were set or were past all used values, and messages about those that could not be set
 */
export function setSequences(
  source: Side,
  target: Side,
  tables: readonly string[],
  margin: bigint,
  live = false,
): Promise<{ set: SequenceSet[]; problems: string[] }> {
  // No time limit, because without an index, reading the highest value scans the table.
  return unhurried(source.db, () => unhurried(target.db, () => setAll(source, target, tables, margin, live)))
}

async function setAll(
  source: Side,
  target: Side,
  tables: readonly string[],
  margin: bigint,
  live: boolean,
): Promise<{ set: SequenceSet[]; problems: string[] }> {
  const set: SequenceSet[] = []
  const problems: string[] = []
  const wanted = await wantedSequences(source, target, tables)
  const usedOf = await lastUsed(
    wanted.flatMap(({ sequence, there }) => (there ? sequence : [])),
    ...[source, target],
  )
  // Read these after the rows, so that they are past all numbers in the rows.
  const drawing = live ? wanted.flatMap(({ there }) => (there && there.lastValue !== null ? there.name : [])) : []
  const drawnOf = await readLast(target, drawing)
  const waiting: { sequence: Sequence; value: bigint }[] = []
  for (const { sequence, there: other } of wanted) {
    const { name } = sequence
    if (!other) {
      problems.push(`the sequence ${name} is missing on the target. Create it there`)
      continue
    }
    const used = usedOf.get(name) ?? null
    const drawn = drawnOf.get(name) ?? null
    if (drawn !== null && used !== null && (sequence.cycle || furthest(sequence, drawn, used) === drawn)) {
      const unfit = unfitSequence(sequence, { ...other, lastValue: drawn }, target.schema, used)
      if (unfit) problems.push(unfitText(unfit))
      else set.push({ name, sourceValue: textOf(sequence.lastValue), value: drawn.toString() })
      continue
    }
    const steps = margin > sequence.cache ? margin : sequence.cache
    const value = used === null ? null : standing(sequence, other, used, steps)
    // If the sequence ends earlier on the target than on the source, it must have room for the whole margin.
    const shorter = used !== null && numbersLeft(other, used) < numbersLeft(sequence, used)
    const wanted = shorter && !sequence.cycle ? used + steps * sequence.increment : value
    const unfit = unfitSequence(sequence, other, target.schema, used, wanted)
    if (unfit) problems.push(unfitText(unfit))
    else if (value !== null) waiting.push({ sequence, value })
  }
  await queryAll(
    target.db,
    waiting.map(({ sequence: { name }, value }) => {
      const regclass = `${literal(qualified(target.schema, name))}::regclass`
      return `SELECT setval(${regclass}, ${value}, true)`
    }),
  )
  const backOf = await readLast(
    target,
    waiting.map(({ sequence }) => sequence.name),
  )
  for (const { sequence, value } of waiting) {
    const back = backOf.get(sequence.name) as bigint
    if (sequence.cycle ? back !== value : furthest(sequence, back, value) !== back)
      problems.push(`the sequence ${sequence.name} was set to ${value} on the target, but its value reads ${back}`)
    set.push({ name: sequence.name, sourceValue: textOf(sequence.lastValue), value: value.toString() })
  }
  return { set, problems }
}

/** The new value of the target's sequence: up to `steps` numbers past `used`, with at least one number left. */
function standing(sequence: Sequence, other: Sequence, used: bigint, steps: bigint): bigint {
  const { increment } = other
  const left = numbersLeft(other, used)
  const fits = left > steps ? steps : left > 0n ? left - 1n : 0n
  // A sequence that cycles starts from the source's value, because rows with numbers past it are from an earlier cycle.
  if (sequence.cycle) return clamp(used + (left > steps ? steps : 0n) * increment, other)
  return furthest(sequence, used + fits * increment, other.lastValue)
}

/** How many numbers past `used` a sequence and its column have left. */
export function numbersLeft({ increment, min, max, holds }: Sequence, used: bigint): bigint {
  const [top, bottom] = [holds && holds.max < max ? holds.max : max, holds && holds.min > min ? holds.min : min]
  const left = increment > 0n ? (top - used) / increment : (used - bottom) / -increment
  return left > 0n ? left : 0n
}

const textOf = (value: bigint | null) => value?.toString() ?? null

/** A problem and its fix, which is an imperative sentence. */
export interface Unfit {
  what: string
  fix: string
}

export const unfitText = ({ what, fix }: Unfit) => `${what}. ${fix}`

/**
 * Checks whether the target's sequence can continue after the source's last number. If not, the next INSERT on the
 * target would fail or get a number that is already in use.
 * @param used the last used value
 * @param value the new value of the target's sequence
 * @returns undefined if it can continue
 */
export function unfitSequence(
  sequence: Sequence,
  other: Sequence,
  schema: string,
  used: bigint | null,
  value = used,
): Unfit | undefined {
  const name = `${schema}.${sequence.name}`
  const alter = `ALTER SEQUENCE ${qualified(schema, sequence.name)}`
  const { increment, min, max } = sequence
  if (increment > 0n !== other.increment > 0n)
    return {
      what: `the sequence ${name} counts by ${other.increment} on the target, but by ${increment} on the source`,
      fix: `Run \`${alter} INCREMENT BY ${increment} MINVALUE ${min} MAXVALUE ${max}\` on the target.`,
    }
  if (used === null || value === null) return undefined
  if (numbersLeft(other, furthest(sequence, value, sequence.cycle ? null : other.lastValue)) > 0n) return undefined
  if (sequence.cycle && other.cycle && used >= other.min && used <= other.max) return undefined
  const up = increment > 0n
  if (numbersLeft({ ...other, holds: null }, value) > 0n)
    return {
      what: `the column ${other.table}.${other.column} cannot store ${value + other.increment}, and ${used} is already used`,
      fix: `Before the load, run \`ALTER TABLE ${qualified(schema, other.table ?? '')} ALTER COLUMN ${ident(other.column ?? '')} TYPE bigint\` on both sides.`,
    }
  const [end, bound, word] = up ? [other.max, max, 'MAXVALUE'] : [other.min, min, 'MINVALUE']
  const next = value + other.increment
  const roomy = up ? next <= bound : next >= bound
  return {
    what: `the sequence ${name} ends at ${end} on the target, but ${used} is already used and ${next} would be next`,
    fix: `Run \`${alter} ${roomy ? `${word} ${bound}` : `AS bigint NO ${word}`}\` on the target.`,
  }
}

/**
 * Finds the last number that each sequence or its column has used, on the given sides. Takes two round trips per side,
 * however many sequences there are.
 * @returns the numbers by sequence name
 */
export async function lastUsed(sequences: readonly Sequence[], ...sides: Side[]): Promise<Map<string, bigint | null>> {
  const found = await Promise.all(sides.map((side) => extremes(side, sequences)))
  return new Map(
    sequences.map((sequence) => {
      // A sequence that cycles may have started over, so rows with numbers past its value may be from an earlier cycle.
      if (sequence.cycle && sequence.lastValue !== null) return [sequence.name, sequence.lastValue]
      const values = [sequence.lastValue, ...found.map((of) => of.get(sequence.name) ?? null)]
      const known = values.filter((value) => value !== null)
      return [sequence.name, known.reduce<bigint | null>((a, b) => (a === null ? b : furthest(sequence, a, b)), null)]
    }),
  )
}

/**
 * Reads the largest number in each sequence's column, or the smallest for a descending sequence. Skips missing tables
 * and columns, which other checks report, and text columns, whose values are customer data.
 */
async function extremes({ db, schema }: Side, sequences: readonly Sequence[]): Promise<Map<string, bigint>> {
  const fed = sequences.filter(({ table, column }) => table && column)
  const found = new Map<string, bigint>()
  if (!fed.length) return found
  const { rows: numbers } = await db.query(
    `SELECT c.relname AS table, a.attname AS column
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p') AND t.typcategory = 'N'`,
    [schema, fed.map(({ table }) => table)],
  )
  const numeric = new Set(numbers.map(({ table, column }) => JSON.stringify([table, column])))
  const asked = fed.filter(({ table, column }) => numeric.has(JSON.stringify([table, column])))
  const results = await queryAll(
    db,
    asked.map(({ table, column, increment }) => {
      const end = increment > 0n ? 'max' : 'min'
      return `SELECT ${end}(${ident(column as string)})::text AS value FROM ${qualified(schema, table as string)}`
    }),
  )
  for (const [at, { name }] of asked.entries()) {
    // A numeric value may have decimals or be NaN.
    const whole = /^-?\d+(?=\.|$)/.exec(results[at]?.[0]?.value ?? '')?.[0]
    if (whole !== undefined) found.set(name, BigInt(whole))
  }
  return found
}

/** The value that is further along in the sequence's direction. */
function furthest(sequence: Sequence, a: bigint, b: bigint | null): bigint {
  if (b === null) return a
  return a > b === sequence.increment > 0n ? a : b
}

function clamp(value: bigint, sequence: Sequence): bigint {
  if (value > sequence.max) return sequence.max
  return value < sequence.min ? sequence.min : value
}

/** Reads the last values of these sequences, in one round trip. */
async function readLast({ db, schema }: Side, names: readonly string[]): Promise<Map<string, bigint>> {
  const results = await queryAll(
    db,
    names.map((name) => `SELECT last_value::text AS value FROM ${qualified(schema, name)}`),
  )
  return new Map(names.map((name, at) => [name, BigInt(results[at]?.[0]?.value)]))
}
