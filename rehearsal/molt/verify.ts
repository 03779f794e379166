import { availableParallelism } from 'node:os'
import type { Readable } from 'node:stream'
import type pg from 'pg'
import { to as copyTo } from 'pg-copy-streams'
import { type CommonTable, compareDefinitions, databaseTables, ident0, sqlName, type TableName } from './catalog.ts'
import type { FlagSpec, Flags } from './flags.ts'
import { clockText, Metrics, MOLT_VERSION, type MoltLog, moltLog, moltMetricsServer } from './molt-log.ts'
import { type Endpoint, errorText, ident, open, parseEndpoint, rows, type Side } from './pg.ts'

/** Flags of `molt verify`. */
export const VERIFY_FLAGS: readonly FlagSpec[] = [
  ['source', 'string', '', 'Connection string of the source database.'],
  ['target', 'string', '', 'Connection string of the target database.'],
  ['schema-filter', 'string', '.*', 'POSIX regexp filter for schemas to action on.'],
  ['table-filter', 'string', '.*', 'POSIX regexp filter for tables to action on.'],
  ['table-exclusion-filter', 'string', '', 'POSIX regexp filter for tables to leave out.'],
  ['case-sensitive', 'bool', 'false', 'Compare names case-sensitively.'],
  ['concurrency', 'int', '0', 'Number of shards to process at a time (defaults to number of CPUs).'],
  ['table-splits', 'int', '0', 'Number of shards per table (0: the stand-in splits big tables).'],
  ['row-batch-size', 'int', '20000', 'Number of source/target rows to scan at a time.'],
  ['rows-per-second', 'int', '0', 'Not used by the stand-in.'],
  ['rows', 'bool', 'true', 'If false, verify only the schema.'],
  ['filter-path', 'string', '', 'JSON file of row filters; not supported by the stand-in.'],
  ['transformations-file', 'string', '', 'JSON file of transformations; not supported by the stand-in.'],
  ['allow-tls-mode-disable', 'bool', 'false', 'Allow connections without TLS.'],
  ['opt-out-telemetry', 'bool', 'false', 'The stand-in sends none.'],
  ['non-interactive', 'bool', 'false', 'Do not prompt.'],
  ['log-file', 'string', '', 'Write the log to this file too.'],
  ['logging', 'string', 'info', 'Level to log at.'],
  ['use-console-writer', 'bool', 'false', 'Not used by the stand-in: always JSON.'],
  ['metrics-listen-addr', 'string', '127.0.0.1:3030', 'Address of the metrics endpoint.'],
]

/** Minimum row count at which a table is split, and the number of shards. `--table-splits` overrides both. */
const SPLIT_FROM_ROWS = 50_000
const SPLITS = 2
/** Number of rows between two progress lines, as in the real tool. */
const PROGRESS_ROWS = 10_000

interface Shard {
  table: CommonTable
  number: number
  total: number
  /** Condition on the first key column; empty for the whole table. */
  where: string
  range: string
}

/** Runs `molt verify`. Resolves despite differences, as the real tool exits 0. Throws only if it cannot compare. */
export async function verifyCommand(flags: Flags): Promise<void> {
  for (const name of ['filter-path', 'transformations-file'])
    if (flags.str(name)) throw new Error(`the embedded stand-in does not support --${name}`)
  const log = moltLog(flags.str('log-file'), flags.str('logging'))
  log.line('info', `molt version ${MOLT_VERSION}: for rehearsals, PostgreSQL to PostgreSQL`)
  const metrics = new Metrics()
  metrics.declare('molt_verify_rows_read', 'counter', true)
  metrics.declare('molt_verify_row_verification_status', 'counter', true)
  metrics.declare('molt_verify_overall_duration', 'gauge')
  const stopMetrics = await moltMetricsServer(log, flags.str('metrics-listen-addr'), metrics)
  try {
    const source = parseEndpoint(flags.str('source'), 'molt verify')
    const target = parseEndpoint(flags.str('target'), 'molt verify')
    await verify(flags, log, metrics, source, target)
  } finally {
    stopMetrics()
  }
}

async function verify(flags: Flags, log: MoltLog, metrics: Metrics, source: Endpoint, target: Endpoint): Promise<void> {
  const sourceClient = await open(source)
  let targetClient: pg.Client | undefined
  try {
    targetClient = await open(target)
    log.line('info', 'verification in progress')
    const started = performance.now()
    const shards = await compareTables(flags, log, sourceClient, targetClient)
    await compareShards(flags, log, metrics, source, target, shards)
    const duration = performance.now() - started
    metrics.set('molt_verify_overall_duration', duration / 1000)
    log.line('info', 'verification complete', { net_duration_ms: duration, net_duration: clockText(duration) })
  } finally {
    await sourceClient.end().catch(() => {})
    await targetClient?.end().catch(() => {})
  }
}

/** Reports differences between tables and their definitions. @returns the tables whose rows to compare */
async function compareTables(flags: Flags, log: MoltLog, source: pg.Client, target: pg.Client): Promise<Shard[]> {
  const found = await databaseTables(source, target, {
    schema: flags.str('schema-filter'),
    table: flags.str('table-filter'),
    exclusion: flags.str('table-exclusion-filter'),
  })
  const warn = (message: string, name: TableName, more = {}) =>
    log.line('warn', message, { type: 'data', table_schema: name.schema, table_name: name.table, ...more })
  for (const table of found.missing) warn('missing table detected', table)
  for (const table of found.extraneous) warn('extraneous table detected', table)
  const tables = await compareDefinitions(source, target, found.common)
  for (const table of tables)
    for (const { info } of table.mismatches) warn('mismatching table definition', table, { mismatch_info: info })
  if (!flags.bool('rows')) {
    log.line('info', 'skipping row based verification')
    return []
  }
  const shards: Shard[] = []
  for (const table of tables) {
    if (table.rowVerifiable) shards.push(...(await shardTable(log, source, table, flags.int('table-splits'))))
    else log.line('warn', `skipping unverifiable table ${table.schema}.${table.table}`)
  }
  return shards
}

const INTEGERS = new Set(['int2', 'int4', 'int8'])

/** Splits a table by ranges of an integer first key column. The outer shards are unbounded, so no row is missed. */
async function shardTable(log: MoltLog, source: pg.Client, table: CommonTable, splits: number): Promise<Shard[]> {
  const whole: Shard[] = [{ table, number: 1, total: 1, where: '', range: '' }]
  const unsplit = () => {
    const name = `${table.schema}.${table.table}`
    if (splits > 1) log.line('info', `unable to identify a split for primary key ${name}, defaulting to a full scan`)
    return whole
  }
  const key = table.primaryKey[0] as string
  if (splits === 1 || !INTEGERS.has(table.types.source.get(key) as string)) return unsplit()
  const column = ident(key)
  if (splits === 0 && !(await isBig(source, table))) return whole
  const [extremes] = await rows(source, `SELECT min(${column}) AS low, max(${column}) AS high FROM ${sqlName(table)}`)
  if (!extremes?.low || !extremes.high) return unsplit()
  const [low, high] = [BigInt(extremes.low), BigInt(extremes.high)]
  const total = splits || SPLITS
  const step = (high - low) / BigInt(total)
  if (step < 1n) return unsplit()
  return Array.from({ length: total }, (_, i) => {
    const from = i === 0 ? undefined : low + step * BigInt(i)
    const to = i === total - 1 ? undefined : low + step * BigInt(i + 1)
    const bounds = [from !== undefined ? `${column} >= ${from}` : '', to !== undefined ? `${column} < ${to}` : '']
    const range = `[${from ?? '<beginning>'} - ${to === undefined ? '<end>]' : `${to})`}`
    return { table, number: i + 1, total, where: bounds.filter(Boolean).join(' AND '), range: `, range: ${range}` }
  })
}

async function isBig(source: pg.Client, table: CommonTable): Promise<boolean> {
  const sql = `SELECT 1 AS big FROM ${sqlName(table)} OFFSET ${SPLIT_FROM_ROWS} LIMIT 1`
  // A table that cannot be read is reported when its rows are compared.
  return (await rows(source, sql).catch(() => [])).length > 0
}

async function compareShards(
  flags: Flags,
  log: MoltLog,
  metrics: Metrics,
  source: Endpoint,
  target: Endpoint,
  shards: Shard[],
): Promise<void> {
  const queue = [...shards]
  const worker = async () => {
    let pair: Pair | undefined
    for (let shard = queue.shift(); shard; shard = queue.shift()) {
      const { schema, table } = shard.table
      log.line('info', `starting verify on ${schema}.${table}, shard ${shard.number}/${shard.total}${shard.range}`)
      try {
        pair ??= await openPair(source, target)
        await compareShard(log, metrics, pair, shard)
      } catch (error) {
        await closePair(pair)
        pair = undefined
        // Like the real tool, logs the error without affecting the exit code.
        log.line('error', 'error verifying rows', { error: errorText(error), schema, table })
        log.line('info', 'failed to verify')
      }
    }
    await closePair(pair)
  }
  const workers = flags.int('concurrency') || availableParallelism()
  await Promise.all(Array.from({ length: workers }, worker))
}

/** A worker's connections, used for one shard after another. */
interface Pair {
  source: pg.Client
  target: pg.Client
}

async function openPair(source: Endpoint, target: Endpoint): Promise<Pair> {
  const sourceClient = await open(source)
  try {
    return { source: sourceClient, target: await open(target) }
  } catch (error) {
    await sourceClient.end().catch(() => {})
    throw error
  }
}

async function closePair(pair: Pair | undefined): Promise<void> {
  await pair?.source.end().catch(() => {})
  await pair?.target.end().catch(() => {})
}

async function compareShard(log: MoltLog, metrics: Metrics, { source, target }: Pair, shard: Shard): Promise<void> {
  const sourceRows = new LineReader(source.query(copyTo(scanSql(shard, 'source'))))
  const targetRows = new LineReader(target.query(copyTo(scanSql(shard, 'target'))))
  await new Comparison(log, metrics, shard).run(sourceRows, targetRows)
}

/**
 * Selects rows in an order that this program can reproduce: integer keys by value, all other keys by the bytes of their
 * text.
 */
function scanSql({ table, where }: Shard, side: Side): string {
  const order = table.primaryKey.map((key) => {
    const type = table.types.source.get(key) as string
    const native = INTEGERS.has(type) || (type === 'uuid' && table.types.target.get(key) === 'uuid')
    return native ? ident(key) : `${ident(key)}::text COLLATE "C"`
  })
  const columns = table.columns.map((column) => comparable(table, column, side))
  const select = `SELECT ${columns.join(', ')} FROM ${sqlName(table)}`
  return `COPY (${select}${where ? ` WHERE ${where}` : ''} ORDER BY ${order.join(', ')}) TO STDOUT`
}

/** Converts a column to text that is the same for equivalent types. */
function comparable(table: CommonTable, column: string, side: Side): string {
  const name = ident(column)
  const types = [table.types.source.get(column), table.types.target.get(column)] as [string, string]
  if (types[0] === types[1]) return name
  if (types.some((t) => t.startsWith('timestamp'))) return `${name}::timestamp`
  if (types.some((t) => t.startsWith('json'))) return `${name}::jsonb`
  if (types[1] === 'bool') return side === 'target' ? `${name}::int4` : name
  // Like the real tool: the exact value of a `real`, and char(n) with its padding.
  return types.some((t) => /^_?float4$/.test(t)) ? `${name}::float8${types[0].startsWith('_') ? '[]' : ''}` : name
}

/** Compares numerics by value, like the real tool: 1.5 equals 1.50. */
function sameField(type: string | undefined, a: string | null | undefined, b: string | null | undefined): boolean {
  if (a === b) return true
  if (type !== 'numeric' || !a || !b) return false
  const plain = (text: string) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text)
  return plain(a) === plain(b)
}

/** Reads a COPY stream line by line with limited memory: the stream pauses until the next read. */
export class LineReader {
  private readonly chunks: AsyncIterator<Buffer>
  private buffer: Buffer = Buffer.alloc(0)
  private at = 0

  constructor(stream: Readable) {
    this.chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>
    // An error can arrive before the first read. The destroyed stream then passes it to the next reader.
    stream.on('error', (error) => {
      if (!stream.destroyed) stream.destroy(error)
    })
  }

  /** The next line without its newline if it has already arrived; otherwise undefined. */
  take(): Buffer | undefined {
    const end = this.buffer.indexOf(10, this.at)
    if (end < 0) return undefined
    const line = this.buffer.subarray(this.at, end)
    this.at = end + 1
    return line
  }

  /**
   * Reads until another line is available. Joins a long line once instead of per chunk, because a line can be 80 MiB
   * long.
   * @returns false at the end of the stream
   */
  async more(): Promise<boolean> {
    const parts = this.at < this.buffer.length ? [this.buffer.subarray(this.at)] : []
    for (;;) {
      const { done, value } = await this.chunks.next()
      if (!done) parts.push(value)
      if (!done && value.indexOf(10) < 0) continue
      if (done && !parts.length) return false
      this.buffer = parts.length > 1 ? Buffer.concat(parts) : (parts[0] as Buffer)
      this.at = 0
      return !done
    }
  }

  /** The next line; undefined at the end of the stream. */
  async next(): Promise<Buffer | undefined> {
    for (;;) {
      const line = this.take()
      if (line) return line
      if (!(await this.more())) return undefined
    }
  }
}

/** Merges both sides by key, and counts the differences. */
class Comparison {
  private readonly stats = {
    num_truth_rows: 0,
    num_success: 0,
    num_conditional_success: 0,
    num_missing: 0,
    num_mismatch: 0,
    num_extraneous: 0,
    num_live_retry: 0,
    num_column_mismatch: 0,
  }
  private readonly log: MoltLog
  private readonly metrics: Metrics
  private readonly shard: Shard
  private readonly table: CommonTable

  constructor(log: MoltLog, metrics: Metrics, shard: Shard) {
    this.log = log
    this.metrics = metrics
    this.shard = shard
    this.table = shard.table
  }

  async run(source: LineReader, target: LineReader): Promise<void> {
    let mine = source.take() ?? (await source.next())
    let theirs = target.take() ?? (await target.next())
    while (mine || theirs) {
      const order = !mine ? 1 : !theirs ? -1 : mine.equals(theirs) ? 0 : this.compareKeys(mine, theirs)
      if (order <= 0) this.scanned()
      if (order === 0) this.pair(mine as Buffer, theirs as Buffer)
      else if (order < 0) this.badRow('missing', mine as Buffer)
      else this.badRow('extraneous', theirs as Buffer)
      if (order <= 0) mine = source.take() ?? (await source.next())
      if (order >= 0) theirs = target.take() ?? (await target.next())
    }
    this.summary('finished row verification')
    const table = `${this.table.schema}.${this.table.table}`
    this.metrics.add('molt_verify_rows_read', this.stats.num_truth_rows, { table })
    for (const status of ['success', 'missing', 'mismatch', 'extraneous'] as const)
      this.metrics.add('molt_verify_row_verification_status', this.stats[`num_${status}`], { status, table })
  }

  private scanned(): void {
    if (this.stats.num_truth_rows > 0 && this.stats.num_truth_rows % PROGRESS_ROWS === 0) this.summary('progress')
    this.stats.num_truth_rows++
  }

  private compareKeys(mine: Buffer, theirs: Buffer): number {
    const [a, b] = [fields(mine), fields(theirs)]
    for (const [i, key] of this.table.primaryKey.entries()) {
      const order = INTEGERS.has(this.table.types.source.get(key) as string)
        ? compareIntegers(a[i] as string, b[i] as string)
        : Buffer.compare(Buffer.from(a[i] as string), Buffer.from(b[i] as string))
      if (order !== 0) return order
    }
    return 0
  }

  private pair(mine: Buffer, theirs: Buffer): void {
    if (mine.equals(theirs)) {
      this.stats.num_success++
      return
    }
    const [a, b] = [fields(mine), fields(theirs)]
    const { columns, types } = this.table
    const differing = columns
      .map((name, i) => ({ name, i }))
      .filter(({ name, i }) => !sameField(types.source.get(name), a[i], b[i]))
    if (!differing.length) return void this.stats.num_success++
    this.stats.num_mismatch++
    const values = (row: (string | null)[]) =>
      Object.fromEntries(differing.map(({ name, i }) => [name, row[i] ?? 'NULL']))
    this.warn('mismatching row value', { source_values: values(a), target_values: values(b), ...this.key(b) })
  }

  private badRow(kind: 'missing' | 'extraneous', line: Buffer): void {
    this.stats[`num_${kind}`]++
    this.warn(`${kind} row`, this.key(fields(line)))
  }

  private key(row: (string | null)[]) {
    return { primary_key: row.slice(0, this.table.primaryKey.length).map((v) => v ?? 'NULL') }
  }

  private warn(message: string, more: Record<string, unknown>): void {
    const { schema, table } = this.table
    this.log.line('warn', message, { type: 'data', table_schema: schema, table_name: table, ...more })
  }

  private summary(what: string): void {
    const { schema, table } = this.table
    const message = `${what} on ${schema}.${table} (shard ${this.shard.number}/${this.shard.total})`
    this.log.line('info', message, {
      type: 'summary',
      table_schema: ident0(schema),
      table_name: ident0(table),
      ...this.stats,
    })
  }
}

function compareIntegers(a: string, b: string): number {
  const [x, y] = [BigInt(a), BigInt(b)]
  return x < y ? -1 : x > y ? 1 : 0
}

const ESCAPES: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t', v: '\v' }

/** Fields of a line of COPY text; null for `\N`. */
function fields(line: Buffer): (string | null)[] {
  return line
    .toString('utf8')
    .split('\t')
    .map((field) => (field === '\\N' ? null : field.replace(/\\(.)/g, (_all, c: string) => ESCAPES[c] ?? c)))
}
