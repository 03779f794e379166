import { byName, own } from '../model/records.ts'
import { OWN_COLUMN } from '../model/schema.ts'
import { exactFilter } from '../model/tables.ts'
import { plural, someOf } from '../runtime/progress.ts'
import { countUnknown, isError, type MoltEvent, noUnknowns, numberField, type Unknowns } from './events.ts'
import { type KeyHash, keyHash, scrubText } from './scrub.ts'

export interface VerifyRequest {
  source: string
  target: string
  schema: string
  tables: readonly string[]
  concurrency?: number
  rowBatchSize?: number
  metricsAddr: string
}

export function verifyArgs(request: VerifyRequest, help: string): string[] {
  const args = ['verify', '--source', request.source, '--target', request.target]
  args.push('--schema-filter', exactFilter([request.schema]), '--table-filter', exactFilter(request.tables))
  if (request.concurrency) args.push('--concurrency', String(request.concurrency))
  if (request.rowBatchSize) args.push('--row-batch-size', String(request.rowBatchSize))
  if (help.includes('--metrics-listen-addr')) args.push('--metrics-listen-addr', request.metricsAddr)
  if (help.includes('--allow-tls-mode-disable') && /sslmode=disable/.test(request.source + request.target))
    args.push('--allow-tls-mode-disable')
  if (help.includes('--non-interactive')) args.push('--non-interactive')
  return args
}

export type RowKind = 'missing' | 'mismatch' | 'extraneous'

/** A differing row, without its values. Its key stays in memory for the recheck, and is never written anywhere. */
export interface RowDifference {
  kind: RowKind
  key: string[]
  columns: string[]
}

/** The outcome of the recheck of differing rows. All counts are rows. */
export interface Recheck {
  /** Equal after a later marker had arrived. */
  lag: number
  /** Still different, although the row has not changed on the source. No change is on its way that could correct it. */
  loss: number
  /** Changed on the source between any two checks. */
  changing: number
  /**
   * Equal by value, and unchanged since before molt read the row. molt compares values of such types in its own way.
   */
  unlike: number
  /** Not rechecked, because there were too many differing rows or the row could not be read. */
  unchecked: number
}

/** The result for one table, summed over its shards. Counts are rows. */
export interface TableVerdict {
  name: string
  rows: number
  missing: number
  mismatch: number
  extraneous: number
  columnMismatch: number
  shardsFinished: number
  shardsTotal: number
  /** Differing rows that molt missed, and that the row hashes of the two databases revealed. */
  unseen?: number
  /** Number of rows that molt reports as equal; undefined if it does not report them. */
  equal?: number
  /** Columns in which the listed rows differ, most frequent first. */
  columns?: string[]
  /** The likely cause, as text. */
  diagnosis?: string
  /** Keyed hashes of the keys of the first differing rows. */
  samples?: { kind: RowKind; columns: string[]; keyHash: string }[]
  /** Set only with `while: streaming`. */
  recheck?: Recheck
  /** The row hashes of the two databases are equal: molt only compares values of such types in its own way. */
  unlike?: boolean
}

/** How two values differ. Determined while the values are in memory, because they are not kept. */
export type ValueClass = 'empty-null' | 'time-digits' | 'number-digits' | 'padding' | 'case' | 'value'

/**
 * Differing rows of one table. `rows` contains the first {@link KEPT_ROWS}; `told` counts all rows that molt listed.
 */
export interface TableRows {
  rows: RowDifference[]
  told: number
  columns: Record<string, number>
  classes: Partial<Record<ValueClass, number>>
}

export interface VerifyAccount {
  schema: string
  complete: boolean
  tables: Map<string, TableVerdict>
  /** Tables that molt could not compare completely: bare name and reason. */
  unverifiable: { table: string; reason: string }[]
  /** Differences in definitions that lose no data. */
  notes: { table: string; reason: string }[]
  rows: Map<string, TableRows>
  errors: string[]
  unknown: Unknowns
  /** Table → shard → counts, so that a shard that is reported twice counts only once. */
  finished: Map<string, Map<string, string>>
}

/** Maximum number of differing rows per table that are kept in memory for the recheck. */
export const KEPT_ROWS = 10_000
const SAMPLES = 10

export function emptyVerifyAccount(schema = 'public'): VerifyAccount {
  return {
    schema,
    complete: false,
    tables: new Map(),
    unverifiable: [],
    notes: [],
    rows: new Map(),
    errors: [],
    unknown: noUnknowns(),
    finished: new Map(),
  }
}

const SHARD = /^(starting verify on|finished row verification on) (.+?),? \(?shard (\d+)\/(\d+)/
const DEFINITION =
  /^(missing table detected|extraneous table detected|skipping unverifiable table|mismatching table definition)/
const ROW = /^(mismatching|missing|extraneous) row/
const FAILED = /\b(fail|failed|could not|cannot|unable|giving up|abort)/i
const QUIET =
  /^(verification in progress|progress on|failed to verify|skipping row based|unable to identify a split|molt version|the embedded stand-in)/

/**
 * Records what an event reports about the verification. A `progress` event has the same fields as a `finished` event,
 * but is not a result.
 */
export function accountForVerify(account: VerifyAccount, event: MoltEvent): void {
  const message = event.message ?? ''
  const shard = SHARD.exec(message)
  const row = ROW.exec(message)
  if (shard) countShard(account, event, shard)
  else if (message === 'verification complete') account.complete = true
  else if (DEFINITION.test(message)) countDefinition(account, event)
  else if (row) countRow(account, event, row[1] === 'mismatching' ? 'mismatch' : (row[1] as RowKind))
  else if (isError(event) || (FAILED.test(message) && /^warn/i.test(String(event.level))))
    account.errors.push(errorText(account, event))
  else if (!QUIET.test(message)) countUnknown(account.unknown, scrubText(message))
}

/** The bare table name in an event. Some events quote unusual names. */
function tableOf(account: VerifyAccount, event: MoltEvent, named?: string): string {
  const plain = (value: unknown) => String(value ?? '').replaceAll('"', '')
  const table = plain(event.table_name ?? event.table)
  const schema = plain(event.table_schema ?? event.schema)
  const full = table && !table.includes('.') ? (schema ? `${schema}.${table}` : table) : table || plain(named)
  return full.startsWith(`${account.schema}.`) ? full.slice(account.schema.length + 1) : full
}

/** Text of an error. Values are removed, because the error can quote the row that could not be read. */
function errorText(account: VerifyAccount, event: MoltEvent): string {
  const table = event.table || event.table_name ? `${tableOf(account, event)}: ` : ''
  return `${table}${scrubText([event.message, event.error].filter(Boolean).join(': '))}`
}

/**
 * Explains why a shard's result is invalid; undefined if it is valid. A missing count, for example, must not be taken
 * as zero.
 */
function shardProblem(event: MoltEvent, number: number, total: number, before: string | undefined): string | undefined {
  const unread = COUNTS.filter((field) => typeof event[field] !== 'number')
  if (unread.length) return `a shard's result lacks ${unread.join(', ')}`
  // A negative count would cancel out a differing row.
  const odd = [...COUNTS, 'num_column_mismatch'].filter((field) => field in event && !isCount(event[field]))
  if (odd.length) return `a shard's result has an invalid ${odd.map((field) => `${field} ${event[field]}`).join(', ')}`
  if (number < 1 || number > total) return `molt verify reported an impossible shard ${number} of ${total}`
  const told = COUNTS.map((field) => event[field]).join()
  if (before !== undefined && before !== told) return `shard ${number} has two results with different counts`
  return undefined
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

const COUNTS = ['num_truth_rows', 'num_success', 'num_missing', 'num_mismatch', 'num_extraneous']

function countShard(account: VerifyAccount, event: MoltEvent, shard: RegExpExecArray): void {
  const [, verb, table, number = '', total] = shard
  const name = tableOf(account, event, table)
  const verdict = account.tables.get(name) ?? newVerdict(name)
  account.tables.set(name, verdict)
  verdict.shardsTotal = Math.max(verdict.shardsTotal, Number(total))
  if (verb?.startsWith('starting')) return
  const finished = account.finished.get(name) ?? new Map()
  account.finished.set(name, finished)
  const problem = shardProblem(event, Number(number), Number(total), finished.get(number))
  if (problem) return void account.errors.push(`${name}: ${problem}`)
  if (finished.has(number)) return
  finished.set(number, COUNTS.map((field) => event[field]).join())
  verdict.shardsFinished++
  verdict.rows += numberField(event, 'num_truth_rows')
  verdict.missing += numberField(event, 'num_missing')
  verdict.mismatch += numberField(event, 'num_mismatch')
  verdict.extraneous += numberField(event, 'num_extraneous')
  verdict.columnMismatch += numberField(event, 'num_column_mismatch')
  if (event.num_success !== undefined)
    verdict.equal =
      (verdict.equal ?? 0) + numberField(event, 'num_success') + numberField(event, 'num_conditional_success')
}

export function newVerdict(name: string): TableVerdict {
  return { name, rows: 0, missing: 0, mismatch: 0, extraneous: 0, columnMismatch: 0, shardsFinished: 0, shardsTotal: 0 }
}

const DEFINITIONS: [RegExp, string][] = [
  [/^missing table/, 'the table is missing on the target. Create it from the converted schema'],
  [/^extraneous table/, 'the table exists only on the target'],
  [/missing column (\S+)/, 'the target lacks the column $1, so molt verify compared only the other columns'],
  [/extraneous column (\S+) found/, 'the column $1 exists only on the target'],
  [/column type mismatch on (\S+): (.*)/, 'the column $1 has a different type on the target ($2) and was not compared'],
  [/column (\S+) NOT NULL mismatch: false vs true/, 'the column $1 allows NULL on the source but not on the target'],
  [/missing a PRIMARY KEY/, 'it has no primary key, so molt verify cannot compare its rows'],
  [/PRIMARY KEY does not match/, 'its primary keys differ, so molt verify cannot compare its rows'],
  [/different collation \((.*)\)/, 'its key has a different collation on the target ($1), so rows cannot be compared'],
  [/^skipping unverifiable table/, 'molt verify skipped it'],
]

function countDefinition(account: VerifyAccount, event: MoltEvent): void {
  const message = event.message ?? ''
  const table = tableOf(account, event, /table (\S+\.\S+)$/.exec(message)?.[1])
  const detail = scrubText(String(event.mismatch_info ?? event.reason ?? ''))
  // Harmless: the target allows NULL and the source does not. The opposite can stop the stream later.
  if (/NOT NULL mismatch: true vs false/.test(detail)) return void account.notes.push({ table, reason: detail })
  // CockroachDB adds columns of its own, for example for a hash-sharded index. They contain no data from the source.
  const [, extra] = /extraneous column (\S+) found/.exec(detail) ?? []
  if (extra && OWN_COLUMN.test(extra)) return void account.notes.push({ table, reason: detail })
  const known = DEFINITIONS.find(([regex]) => regex.test(detail || message))
  const said = detail ? `${message}: ${detail}` : message
  const reason = known ? (known[0].exec(detail || message)?.[0] ?? '').replace(...known) : scrubText(said)
  account.unverifiable.push({ table, reason })
}

function countRow(account: VerifyAccount, event: MoltEvent, kind: RowKind): void {
  const name = tableOf(account, event)
  const table: TableRows = account.rows.get(name) ?? { rows: [], told: 0, columns: byName(), classes: {} }
  account.rows.set(name, table)
  table.told++
  const [here, there] = [valuesOf(event.source_values), valuesOf(event.target_values)]
  const columns = kind === 'mismatch' ? Object.keys(here) : []
  for (const column of columns) {
    table.columns[column] = (table.columns[column] ?? 0) + 1
    const difference = classify(here[column], own(there, column))
    table.classes[difference] = (table.classes[difference] ?? 0) + 1
  }
  if (table.rows.length < KEPT_ROWS)
    table.rows.push({ kind, columns, key: Array.isArray(event.primary_key) ? event.primary_key.map(String) : [] })
}

function valuesOf(value: unknown): Record<string, unknown> {
  return value && typeof value === 'object' ? (value as Record<string, unknown>) : {}
}

const TIME = /^(.*\d{2}:\d{2}:\d{2})(?:\.(\d+))?(.*)$/

/** Determines how two values in molt's notation differ. */
export function classify(source: unknown, target: unknown): ValueClass {
  const [a, b] = [String(source), String(target)]
  if ((a === '' && b === 'NULL') || (a === 'NULL' && b === '')) return 'empty-null'
  const [t, u] = [TIME.exec(a), TIME.exec(b)]
  if (t && u && t[3] === u[3]) {
    const apart = Math.abs(Number(`0.${t[2] ?? 0}`) - Number(`0.${u[2] ?? 0}`))
    const fewer = Math.min((t[2] ?? '').length, (u[2] ?? '').length)
    // One side has fewer digits, or both sides have six digits and only the last three differ.
    if (t[1] === u[1] && (fewer < 6 || apart < 0.001)) return 'time-digits'
  }
  if (a !== '' && b !== '' && Number.isFinite(Number(a)) && Number.isFinite(Number(b))) {
    const [x, y] = [Number(a), Number(b)]
    const fewer = Math.min(decimals(a), decimals(b))
    if (decimals(a) !== decimals(b) && Math.abs(x - y) < 10 ** -fewer) return 'number-digits'
    if (Math.abs(x - y) <= 1e-12 * Math.max(Math.abs(x), Math.abs(y))) return 'number-digits'
  }
  if (a.trimEnd() === b.trimEnd()) return 'padding'
  return a.toLowerCase() === b.toLowerCase() ? 'case' : 'value'
}

function decimals(number: string): number {
  return number.split('.')[1]?.length ?? 0
}

/** Whether molt finished a table. An unfinished table does not show differences either. */
export function isFinished({ shardsFinished, shardsTotal }: TableVerdict): boolean {
  return shardsTotal > 0 && shardsFinished === shardsTotal
}

/** Number of differing rows of one table. */
export function differences(verdict: TableVerdict): number {
  return verdict.missing + verdict.mismatch + verdict.extraneous + verdict.columnMismatch
}

/** Adds samples of the differing rows, with hashed keys, to a table's verdict. */
export function addSamples(verdict: TableVerdict, rows: TableRows | undefined, hash: KeyHash = keyHash()): void {
  if (!rows) return
  const columns = Object.entries(rows.columns).sort(([, a], [, b]) => b - a)
  if (columns.length) verdict.columns = columns.map(([column]) => column)
  verdict.samples = rows.rows
    .slice(0, SAMPLES)
    .map(({ kind, columns: differing, key }) => ({ kind, columns: differing, keyHash: hash(verdict.name, key) }))
  const diagnosis = diagnose(verdict, rows)
  if (diagnosis) verdict.diagnosis = diagnosis
}

/** Guesses the cause of a table's differences; undefined if no known cause fits. */
export function diagnose(verdict: TableVerdict, rows: TableRows): string | undefined {
  const { missing, mismatch, extraneous } = verdict
  if (extraneous && !missing && !mismatch) {
    if (extraneous > verdict.rows)
      return 'the target has more extra rows than the source has rows: the source table was probably truncated, and the stream does not replicate a TRUNCATE'
    return 'all differing rows exist only on the target: primary keys were probably updated and the old rows stayed on the target, or rows were deleted while no stream was running'
  }
  if (missing && missing === verdict.rows && !extraneous) return 'the target has none of the rows'
  if (!mismatch || missing || extraneous) return undefined
  const [column, ...others] = Object.keys(rows.columns)
  const [difference, ...mixed] = Object.keys(rows.classes) as ValueClass[]
  const words = difference && !mixed.length ? CLASSES[difference] : undefined
  const where = column && !others.length ? ` in the column ${column}` : ''
  if (words) return `${words}${where}`
  if (column && !others.length && mismatch >= verdict.rows * 0.9 && verdict.rows > 1)
    return `almost every row differs, and only${where}: its type, collation or default is different on the target`
  return undefined
}

const CLASSES: Partial<Record<ValueClass, string>> = {
  'empty-null': 'empty strings on one side are NULL on the other',
  'time-digits': 'only fractions of a second differ (microseconds were rounded or truncated)',
  'number-digits': 'only the last digits of numbers differ (precision of numeric or float)',
  padding: 'only trailing spaces differ (char(n) and text)',
  case: 'only letter case differs',
}

/** Kinds of reasons why molt's report does not prove that both sides are equal. */
type VerifyProblemKind =
  | 'unverifiable'
  | 'incomplete'
  | 'nothing-compared'
  | 'not-compared'
  | 'unfinished'
  | 'difference'
  | 'too-few-equal'
  | 'uncounted'
  | 'unexpected-table'
  | 'error'

export interface VerifyProblem {
  kind: VerifyProblemKind
  table?: string
  what: string
}

/**
 * Lists the reasons why molt's report does not prove that all expected tables are equal on both sides; empty if it
 * does.
 */
export function verifyProblems(account: VerifyAccount, expected: readonly string[]): VerifyProblem[] {
  const problems: VerifyProblem[] = account.unverifiable.map(({ table, reason }) => ({
    kind: 'unverifiable',
    table,
    what: `${table}: ${reason}`,
  }))
  if (!account.complete) problems.push({ kind: 'incomplete', what: 'molt verify did not report completion' })
  if (account.complete && !account.tables.size && expected.length)
    problems.push({
      kind: 'nothing-compared',
      what: 'molt verify compared no tables, because its filter matched none',
    })
  else
    for (const table of expected) {
      const verdict = account.tables.get(table)
      if (!verdict) problems.push({ kind: 'not-compared', table, what: `${table}: not compared by molt verify` })
      else problems.push(...tableProblems(verdict), ...uncounted(verdict, account.rows.get(table)))
    }
  for (const table of account.tables.keys())
    if (!expected.includes(table))
      problems.push({
        kind: 'unexpected-table',
        table,
        what: `${table}: compared, but not an expected table`,
      })
  problems.push(...account.errors.map((what): VerifyProblem => ({ kind: 'error', what })))
  return problems.filter(({ what }, at) => problems.findIndex((each) => each.what === what) === at)
}

/** Finds rows that molt listed but did not count, so that its totals are wrong. */
function uncounted(verdict: TableVerdict, rows: TableRows | undefined): VerifyProblem[] {
  const counted = differences(verdict)
  if (!rows || rows.told <= counted) return []
  const what = `${verdict.name}: molt verify listed ${rows.told} differing rows, but counted ${counted}`
  return [{ kind: 'uncounted', table: verdict.name, what }]
}

function tableProblems(verdict: TableVerdict): VerifyProblem[] {
  const { name: table, rows, missing, mismatch, extraneous, columnMismatch, equal } = verdict
  if (verdict.shardsFinished < verdict.shardsTotal || verdict.shardsFinished === 0) {
    const what = `${table}: molt verify finished only ${verdict.shardsFinished} of ${plural(verdict.shardsTotal, 'shard')}`
    return [{ kind: 'unfinished', table, what }]
  }
  if (differences(verdict) > 0) return [{ kind: 'difference', table, what: differenceText(verdict) }]
  if (equal !== undefined && equal + missing + mismatch < rows) {
    const what = `${table}: molt verify read ${rows} rows, but reports only ${equal} as equal and ${columnMismatch + extraneous} as extraneous or with different columns`
    return [{ kind: 'too-few-equal', table, what }]
  }
  return []
}

/** `orders: 2 rows missing, 1 different in total; only fractions of a second differ` */
function differenceText(verdict: TableVerdict): string {
  const parts = [
    [verdict.missing, 'missing'],
    [verdict.mismatch, `different${verdict.columns?.length ? ` in ${someOf(verdict.columns, 5)}` : ''}`],
    [verdict.extraneous, 'extraneous'],
    [verdict.columnMismatch, 'with different columns'],
  ].filter(([count]) => count)
  const counts = parts.map(([count, what], index) => `${count}${index ? '' : count === 1 ? ' row' : ' rows'} ${what}`)
  const again = verdict.recheck ? `; rechecked after a later marker: ${recheckText(verdict.recheck)}` : ''
  const unseen = verdict.unseen ? `; molt verify missed ${verdict.unseen} of them, found by row hashes` : ''
  return `${verdict.name}: ${counts.join(', ')}${unseen}${verdict.diagnosis ? `; ${verdict.diagnosis}` : ''}${again}`
}

function recheckText({ lag, loss, changing, unlike, unchecked }: Recheck): string {
  const parts = [loss && `${loss} lost`, changing && `${changing} still changing`, lag && `${lag} arrived late`]
  if (unlike) parts.push(`${unlike} equal by value from the start`)
  if (unchecked) parts.push(`${unchecked} unchecked`)
  return parts.filter(Boolean).join(', ')
}
