import { readTarget } from '../../destination/server.ts'
import { byName } from '../../model/records.ts'
import type { Column, Table } from '../../model/tables.ts'
import { plainForm, writtenAlike } from '../../model/values.ts'
import { connect, type Database, ident, literal, qualified, READ_ONLY, type Side } from '../../runtime/database.ts'
import { classify, KEPT_ROWS, type RowDifference, type RowKind, type ValueClass } from '../../tools/molt-verify.ts'

/** Result of comparing one table by hashes. `missing`, `mismatch` and `extraneous` are minimum row counts. */
export interface TableDigest {
  name: string
  sourceRows: number
  targetRows: number
  missing: number
  mismatch: number
  extraneous: number
  /** Column → number of rows in which it differs. */
  columns: Record<string, number>
  classes: Partial<Record<ValueClass, number>>
  /** The first differing rows, without their values. */
  rows: RowDifference[]
  /** Sentences that say what the hashes could not prove. */
  unproved: string[]
}

export interface DigestOptions {
  sourceUrl: string
  targetUrl: string
  sourceSchema: string
  targetSchema: string
  /**
   * Waits until everything committed so far is on the target. Set only while changes stream; a part of a table then
   * counts as proved if it was equal once.
   */
  catchUp?: () => Promise<void>
  /** Past timestamp at which to read the target, `<nanoseconds>.<logical>` of its clock. Default: now. */
  asOf?: string
  /** Number of connections to each side. */
  concurrency: number
  signal: AbortSignal
}

/** Maximum rows and characters to fetch and compare one by one: first per table, then per query. */
const FETCHED = { rows: 100_000, size: 256 << 20 }
const BATCH = { rows: 20_000, size: 64 << 20 }
/**
 * Maximum number of times a table is read while changes stream. If only a few parts or rows differ, they are fetched
 * without reading the table again.
 */
const ROUNDS = 5
const FEW = { buckets: 64, rows: 1_000 }
/** Values with more characters than this are fetched as a hash. */
const SHOWN = 100

/**
 * Checks every row a second time, independently of molt: if `molt fetch` misreads a value, `molt verify` misreads it in
 * the same way and reports that it is equal. Each database adds up the hashes of its own rows. If the sums differ, the
 * table is divided into 4096 parts by the hash of the key, the sums are computed for each part, and the rows of the
 * differing parts are fetched and compared.
 * @param tables pairs of tables with the same columns and key, according to both catalogs
 */
export async function digestTables(
  tables: readonly (readonly [source: Table, target: Table])[],
  options: DigestOptions,
): Promise<TableDigest[]> {
  const results: TableDigest[] = []
  const queue = [...tables.entries()]
  const failed = new AbortController()
  const signal = AbortSignal.any([options.signal, failed.signal])
  const worker = () =>
    reading(options.sourceUrl, 'source', signal, (source) =>
      reading(options.targetUrl, 'target', signal, async (target) => {
        await Promise.all([source, target].map(watchClient))
        const { isCockroach } = await readTarget(target)
        const sessions = [
          { db: source, number: HASHED.postgres },
          {
            db: target,
            number: isCockroach ? HASHED.cockroach : HASHED.postgres,
            ...(options.asOf && { asOf: `AS OF SYSTEM TIME ${literal(options.asOf)}` }),
          },
        ] as const
        for (let next = queue.shift(); next; next = queue.shift()) {
          signal.throwIfAborted()
          results[next[0]] = await digestTable(comparison(next[1], sessions, options), { ...options, signal })
        }
      }),
    )
  try {
    await Promise.all(Array.from({ length: Math.min(options.concurrency, tables.length) }, worker))
    return results
  } finally {
    failed.abort(new Error('another table could not be hashed'))
  }
}

/** Opens a connection without a statement time limit for `work`. Aborting `signal` closes the connection. */
async function reading<T>(
  url: string,
  side: Side,
  signal: AbortSignal,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const db = await connect(url, side, 0, signal, { settings: READ_ONLY })
  const end = () => void db.end().catch(() => {})
  signal.addEventListener('abort', end, { once: true })
  try {
    return await work(db)
  } finally {
    signal.removeEventListener('abort', end)
    end()
  }
}

/** Makes the server end a statement if its client disappears, if the version and platform support this. */
export async function watchClient(db: Database): Promise<void> {
  await db.query("SET client_connection_check_interval = '2s'").catch(() => {})
}

/**
 * Columns that are hashed together. All columns that both servers print the same way share one hash, and every other
 * column has its own. Each hash includes the key: otherwise, two rows with swapped values would add up to the same sum.
 */
export interface Part {
  columns: Column[]
  /** Whether both servers print the columns the same way, so that different hashes mean different values. */
  alike: boolean
}

/** How a table's rows are hashed, the same way on both servers. */
export interface RowShape {
  name: string
  key: Column[]
  parts: Part[]
  text(column: Column): string
  /** Whether the servers may print the column differently. */
  odd(column: Column): boolean
}

interface Comparison extends RowShape {
  /** Reads both sides in parallel. */
  both<T>(read: (reader: Reader) => Promise<T>): Promise<[T, T]>
}

export interface Session {
  db: Database
  /** SQL to append to the table's name to read a past state. */
  asOf?: string
  /** Returns the SQL that converts a hash to a 48-bit number. */
  number(hash: string): string
}

interface Reader extends Session {
  table: string
}

export const HASHED = {
  postgres: (hash: string) => `('x' || substr(${hash}, 1, 12))::bit(48)::bigint`,
  // CockroachDB cannot parse hexadecimal digits as a number, so decode them and read the bytes.
  cockroach: (hash: string) =>
    [40, 32, 24, 16, 8, 0].map((bits, i) => `(get_byte(decode(${hash}, 'hex'), ${i})::bigint << ${bits})`).join(' | '),
}

function comparison(
  pair: readonly [Table, Table],
  sessions: readonly [Session, Session],
  options: Pick<DigestOptions, 'sourceSchema' | 'targetSchema'>,
): Comparison {
  const shape = rowShape(pair)
  const readers = [
    { ...sessions[0], table: qualified(options.sourceSchema, shape.name) },
    { ...sessions[1], table: qualified(options.targetSchema, shape.name) },
  ] as const
  return { ...shape, both: (read) => Promise.all([read(readers[0]), read(readers[1])]) }
}

/**
 * Decides how to hash a table's rows.
 * @param pair tables with the same columns and key
 */
export function rowShape([here, there]: readonly [Table, Table]): RowShape {
  const other = new Map(there.columns.map((column) => [column.name, column]))
  // Include generated columns: each side computes its own values, and no other check compares the expressions.
  const columns = here.columns.filter(({ name }) => other.has(name))
  // A numeric value is printed with the trailing zeros of its column's scale, so the types must be the same too.
  const alike = columns.filter(
    ({ name, type, labels }) =>
      writtenAlike(type, labels !== null) && (!type.startsWith('numeric') || other.get(name)?.type === type),
  )
  const others = columns.filter((column) => !alike.includes(column))
  const key = here.key.flatMap((name) => columns.find((column) => column.name === name) ?? [])
  // If the servers print the key differently, hash all other columns twice: without the key, where different hashes
  // prove a difference, and with the key, where equal hashes prove that each value is in the right row.
  const oddKey = key.filter((column) => others.includes(column))
  const padded = new Set(
    [...here.columns, ...there.columns].filter(({ type }) => /^character\(/.test(type)).map(({ name }) => name),
  )
  return {
    name: here.name,
    key,
    parts: [
      ...(alike.length ? [{ columns: alike, alike: true }] : []),
      ...(oddKey.length ? [{ columns: [...oddKey, ...alike], alike: false }] : []),
      ...others.filter((column) => !oddKey.includes(column)).map((column) => ({ columns: [column], alike: false })),
    ],
    odd: (column) => others.includes(column),
    text: (column) => (padded.has(column.name) ? `rtrim(${textOf(column)})` : textOf(column)),
  }
}

function textOf({ name, type }: Column): string {
  if (type === 'bytea') return `encode(${ident(name)}, 'hex')`
  if (/^timestamp.* with time zone$/.test(type)) return `(${ident(name)} AT TIME ZONE 'UTC')::text`
  return `${ident(name)}::text`
}

async function digestTable(table: Comparison, options: DigestOptions): Promise<TableDigest> {
  const found: TableDigest = {
    name: table.name,
    sourceRows: 0,
    targetRows: 0,
    missing: 0,
    mismatch: 0,
    extraneous: 0,
    columns: byName(),
    classes: {},
    rows: [],
    unproved: [],
  }
  const byKey = table.key.every((column) => known(column)) && table.key.length > 0
  if (options.catchUp) {
    if (byKey) await compareBuckets(table, table.parts, found, options)
    else await withoutKeysMoving(table, found, { ...options, catchUp: options.catchUp })
    return found
  }
  const { here, there, apart } = await compareSums(table, table.parts)
  found.sourceRows = here?.rows ?? 0
  found.targetRows = there?.rows ?? 0
  if (!apart.length && found.sourceRows === found.targetRows) return found
  if (byKey) await compareBuckets(table, apart.length ? apart : table.parts.slice(0, 1), found, options)
  else withoutKeys(table, apart, found)
  return found
}

/** Compares the sums of a whole table, and returns the parts of its columns that differ. */
async function compareSums(table: Comparison, parts: readonly Part[]) {
  const [[here], [there]] = await table.both((reader) => readSums(reader, table, parts, false))
  return { here, there, apart: parts.filter((_, i) => here?.sums[i] !== there?.sums[i]) }
}

function known({ type, labels }: Column): boolean {
  return writtenAlike(type, labels !== null) || plainForm(type, type.endsWith('[]') ? '{}' : '0') !== undefined
}

/**
 * Records the differing sums of a table whose rows cannot be matched, because the servers may print its key
 * differently.
 */
function withoutKeys({ odd }: Comparison, parts: readonly Part[], found: TableDigest): void {
  for (const { columns, alike } of parts)
    if (alike) found.mismatch++
    else found.unproved.push(...columns.filter(odd).map(writtenOtherwise))
}

/**
 * Compares a table whose rows cannot be matched, while changes stream. Sums that were equal once are proof. Sums that
 * were never equal prove nothing.
 */
async function withoutKeysMoving(
  table: Comparison,
  found: TableDigest,
  { catchUp, signal }: Required<Pick<DigestOptions, 'catchUp' | 'signal'>>,
): Promise<void> {
  let { parts } = table
  for (let round = 0; round < ROUNDS && parts.length; round++) {
    if (round) await catchUp()
    signal.throwIfAborted()
    parts = (await compareSums(table, parts)).apart
  }
  if (parts.some(({ alike }) => alike))
    found.unproved.push(
      'its changing rows are compared only by molt verify, because the servers print its key differently',
    )
  withoutKeys(
    table,
    parts.filter(({ alike }) => !alike),
    found,
  )
}

export function writtenOtherwise({ name, type }: Column): string {
  return `${name} (${type}) is compared only by molt verify, because the servers print it differently`
}

interface Sums {
  bucket: string
  rows: number
  size: number
  sums: (string | undefined)[]
}

/** Adds up the hashes of each part's columns, for the whole table or by bucket. */
async function readSums(
  { db, table, number, asOf = '' }: Reader,
  { key, text }: Comparison,
  parts: readonly Part[],
  buckets: boolean,
): Promise<Sums[]> {
  // The size is needed only if rows may have to be fetched.
  const loose = parts.flatMap(({ alike, columns }) => (buckets && !alike ? columns : []))
  const size = loose.map((column) => `coalesce(length(${text(column)}), 0)`).join(' + ') || '0'
  const hashed = ({ columns, alike }: Part) => (alike ? columns : [...new Set([...key, ...columns])])
  const hashes = parts.map((part, i) => `md5(${joined(hashed(part).map(text))}) AS h${i}`)
  const bucket = buckets ? bucketOf(key.map(text)) : "''"
  const { rows } = await db.query({
    text: `SELECT bucket, count(*)::text, coalesce(sum(size), 0)::text${hashes.map((_, i) => `, sum(${number(`h${i}`)})::text`).join('')}
             FROM (SELECT ${[`${bucket} AS bucket`, `${size} AS size`, ...hashes].join(', ')} FROM ${table}) AS hashed ${asOf}
            GROUP BY bucket`,
    rowMode: 'array',
  })
  return rows.map(([name, count, size, ...sums]: (string | null)[]) => ({
    bucket: name as string,
    rows: Number(count),
    size: Number(size),
    sums: sums.map((sum) => (sum === null ? undefined : plainForm('numeric', sum))),
  }))
}

/**
 * SQL that joins strings into one. Prefixes each with its length, so that values cannot run into each other, and no
 * value looks like NULL.
 */
export function joined(texts: readonly string[]): string {
  return texts.map((text) => `coalesce(length(${text})::text || ':' || ${text}, '-')`).join(' || ')
}

function bucketOf(key: readonly string[]): string {
  return `substr(md5(${joined(key)}), 1, 3)`
}

/** A part of a table that differs. */
interface Bucket {
  name: string
  rows: number
  size: number
  /** Whether the difference is certain, because the row counts or columns that both servers print alike differ. */
  certain: boolean
}

async function compareBuckets(table: Comparison, parts: readonly Part[], found: TableDigest, options: DigestOptions) {
  let left: Map<string, Bucket> | undefined
  for (let round = 0; round < (options.catchUp ? ROUNDS : 1); round++) {
    if (round) await options.catchUp?.()
    options.signal.throwIfAborted()
    const now = differing(parts, await table.both((reader) => readSums(reader, table, parts, true)))
    // A part that was equal once is proved: rows that differ now have changed since.
    left = left ? new Map([...now].filter(([name]) => left?.has(name))) : now
    const rows = [...left.values()].reduce((sum, bucket) => sum + bucket.rows, 0)
    if (left.size <= FEW.buckets || rows <= FEW.rows) break
  }
  const buckets = [...(left ?? new Map<string, Bucket>()).values()].sort(
    (a, b) => Number(b.certain) - Number(a.certain),
  )
  const budget = { ...FETCHED }
  const unknown = new Set<Column>()
  while (buckets.length) {
    const batch = takeBatch(buckets, budget)
    if (!batch.length) break
    options.signal.throwIfAborted()
    const apart = await compareRows(
      table,
      parts,
      batch.map(({ name }) => name),
      found,
      unknown,
    )
    // The sums differ but the rows look equal, although nothing is changing them. Count this as a difference.
    if (!options.catchUp && !apart && !table.key.some(table.odd) && batch.some(({ certain }) => certain))
      found.mismatch++
  }
  const uncertain = parts.flatMap(({ columns }) => columns.filter(table.odd))
  if (options.catchUp) {
    if (buckets.length) found.unproved.push('rows that changed too fast are compared only by molt verify')
  } else {
    // The sums of each such part differ, so at least one of its rows does.
    found.mismatch += buckets.filter(({ certain }) => certain).length
    if (buckets.some(({ certain }) => !certain)) for (const column of uncertain) unknown.add(column)
  }
  found.unproved.push(...[...unknown].map(writtenOtherwise))
}

function differing(parts: readonly Part[], [here, there]: [Sums[], Sums[]]): Map<string, Bucket> {
  const byName = new Map(there.map((sums) => [sums.bucket, sums]))
  const none = (bucket: string): Sums => ({ bucket, rows: 0, size: 0, sums: [] })
  const pairs = here.map((sums) => [sums, byName.get(sums.bucket) ?? none(sums.bucket)] as const)
  const seen = new Set(here.map(({ bucket }) => bucket))
  pairs.push(...there.filter(({ bucket }) => !seen.has(bucket)).map((sums) => [none(sums.bucket), sums] as const))
  const found = new Map<string, Bucket>()
  for (const [a, b] of pairs) {
    const apart = parts.filter((_, i) => a.sums[i] !== b.sums[i])
    if (!apart.length && a.rows === b.rows) continue
    const certain = a.rows !== b.rows || apart.some(({ alike }) => alike)
    found.set(a.bucket, { name: a.bucket, rows: Math.max(a.rows, b.rows), size: Math.max(a.size, b.size), certain })
  }
  return found
}

/** Takes the first buckets that fit into one query and into the remaining budget. */
function takeBatch(buckets: Bucket[], budget: { rows: number; size: number }): Bucket[] {
  const batch: Bucket[] = []
  const room = { rows: Math.min(BATCH.rows, budget.rows), size: Math.min(BATCH.size, budget.size) }
  for (let next = buckets[0]; next && next.rows <= room.rows && next.size <= room.size; next = buckets[0]) {
    batch.push(next)
    for (const each of [room, budget]) {
      each.rows -= next.rows
      each.size -= next.size
    }
    buckets.shift()
  }
  return batch
}

/**
 * Fetches and compares the rows of some buckets.
 * @returns the number of rows that differ
 */
async function compareRows(
  table: Comparison,
  parts: readonly Part[],
  buckets: readonly string[],
  found: TableDigest,
  unknown: Set<Column>,
): Promise<number> {
  const before = found.missing + found.mismatch + found.extraneous
  const columns = [...new Set(parts.flatMap((part) => part.columns))]
  const [here, there] = await table.both((reader) => readRows(reader, table, columns, buckets))
  for (const [id, { key, values }] of here) {
    const other = there.get(id)
    if (!other) {
      note(found, 'missing', key, [])
      continue
    }
    const apart = columns.filter((column, i) => {
      const same = sameValue(column, values[i] as string | null, other.values[i] as string | null)
      if (same === undefined) unknown.add(column)
      if (same === false) {
        const difference = classify(values[i] ?? 'NULL', other.values[i] ?? 'NULL')
        found.classes[difference] = (found.classes[difference] ?? 0) + 1
      }
      return same === false
    })
    if (apart.length)
      note(
        found,
        'mismatch',
        key,
        apart.map(({ name }) => name),
      )
  }
  for (const [id, { key }] of there) if (!here.has(id)) note(found, 'extraneous', key, [])
  return found.missing + found.mismatch + found.extraneous - before
}

function note(found: TableDigest, kind: RowKind, key: string[], columns: string[]): void {
  found[kind]++
  for (const column of columns) found.columns[column] = (found.columns[column] ?? 0) + 1
  if (found.rows.length < KEPT_ROWS) found.rows.push({ kind, key, columns })
}

/** Whether two values are equal; undefined if that is unknown. */
export function sameValue({ type, labels }: Column, here: string | null, there: string | null): boolean | undefined {
  if (here === there) return true
  if (here === null || there === null) return false
  const [a, b] = [here, there].map((text) => plainForm(type, text, labels !== null))
  return a === undefined || b === undefined ? undefined : a === b
}

/** Reads the rows of some buckets. The map's keys are the rows' keys in a form that is the same on both servers. */
async function readRows(
  { db, table, asOf = '' }: Reader,
  { key, text }: Comparison,
  columns: readonly Column[],
  buckets: readonly string[],
): Promise<Map<string, { key: string[]; values: (string | null)[] }>> {
  // For a long value that both servers print the same way, its hash is enough. Padding makes it longer than any
  // unhashed value, so that a hash never equals a value.
  const value = (column: Column) =>
    writtenAlike(column.type, column.labels !== null)
      ? `CASE WHEN length(${text(column)}) > ${SHOWN} THEN repeat('.', ${SHOWN}) || md5(${text(column)}) ELSE ${text(column)} END`
      : text(column)
  const list = [...key.map(({ name }) => `${ident(name)}::text`), ...columns.map(value)]
  const { rows } = await db.query({
    text: `SELECT ${list.join(', ')} FROM ${table} ${asOf} WHERE ${bucketOf(key.map(text))} = ANY ($1)`,
    values: [buckets],
    rowMode: 'array',
  })
  return new Map(
    rows.map((row: (string | null)[]) => {
      const written = row.slice(0, key.length) as string[]
      const plain = key.map(({ type, labels }, i) => plainForm(type, written[i] as string, labels !== null))
      return [JSON.stringify(plain), { key: written, values: row.slice(key.length) }]
    }),
  )
}
