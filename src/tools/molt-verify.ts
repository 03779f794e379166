import { exactFilter } from '../migration/tables.ts'
import { bareName, type MoltEvent, numberField } from './events.ts'
import { scrubText } from './scrub.ts'

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

/** What was found in one table, all its shards added up. Counts are rows. */
export interface TableVerdict {
  name: string
  rows: number
  missing: number
  mismatch: number
  extraneous: number
  columnMismatch: number
  shardsFinished: number
  shardsTotal: number
}

export interface VerifyAccount {
  complete: boolean
  tables: Map<string, TableVerdict>
  /** What the tool could not compare, in its own words, with the table's bare name. */
  unverifiable: { table: string; reason: string }[]
  errors: string[]
}

export function emptyVerifyAccount(): VerifyAccount {
  return { complete: false, tables: new Map(), unverifiable: [], errors: [] }
}

const SHARD = /^(starting verify on|finished row verification on) (.+?),? \(?shard (\d+)\/(\d+)\)?$/
const DEFINITION =
  /missing table detected|extraneous table detected|skipping unverifiable table|mismatching table definition/
/** These carry a row's key and values in clear; the numbers in `finished` count them. */
const ROW = /^(mismatching row|missing row|extraneous row|progress on)/

/** Adds one event to the account. A `progress` line has the same fields as `finished`, but is no result. */
export function accountForVerify(account: VerifyAccount, event: MoltEvent): void {
  const message = event.message ?? ''
  const shard = SHARD.exec(message)
  if (shard) countShard(account, event, shard)
  else if (message === 'verification complete') account.complete = true
  else if (DEFINITION.test(message)) account.unverifiable.push(definitionProblem(event))
  else if (ROW.test(message)) return
  else if (event.level === 'error' || event.level === 'fatal') account.errors.push(errorText(event))
}

/** An error's text may quote a value of the row that could not be read. */
function errorText(event: MoltEvent): string {
  const table = event.table ? `${bareName(`x.${event.table}`)}: ` : ''
  const error = event.error ? `: ${scrubText(String(event.error))}` : ''
  return `${table}${scrubText(event.message ?? '')}${error}`
}

function countShard(account: VerifyAccount, event: MoltEvent, shard: RegExpExecArray): void {
  const [, verb, table, , total] = shard
  const name = event.table_name ? bareName(`x.${event.table_name}`) : bareName(table)
  const verdict = account.tables.get(name) ?? newVerdict(name)
  account.tables.set(name, verdict)
  verdict.shardsTotal = Math.max(verdict.shardsTotal, Number(total))
  if (verb?.startsWith('starting')) return
  verdict.shardsFinished++
  verdict.rows += numberField(event, 'num_truth_rows')
  verdict.missing += numberField(event, 'num_missing')
  verdict.mismatch += numberField(event, 'num_mismatch')
  verdict.extraneous += numberField(event, 'num_extraneous')
  verdict.columnMismatch += numberField(event, 'num_column_mismatch')
}

function newVerdict(name: string): TableVerdict {
  return { name, rows: 0, missing: 0, mismatch: 0, extraneous: 0, columnMismatch: 0, shardsFinished: 0, shardsTotal: 0 }
}

function definitionProblem(event: MoltEvent): { table: string; reason: string } {
  const message = event.message ?? ''
  const named = event.table_name ? `x.${event.table_name}` : (event.table ?? /table (\S+)$/.exec(message)?.[1])
  const info = event.mismatch_info ?? event.reason
  return { table: bareName(named), reason: info ? `${message}: ${info}` : message }
}

/** Differences in rows of one table. */
export function differences(verdict: TableVerdict): number {
  return verdict.missing + verdict.mismatch + verdict.extraneous + verdict.columnMismatch
}

/** Why this account is not positive proof that every expected table is equal on both sides; empty when it is. */
export function verifyProblems(account: VerifyAccount, expected: readonly string[]): string[] {
  const problems = account.unverifiable.map(({ table, reason }) => `${table}: ${reason}`)
  if (!account.complete) problems.push('molt verify did not say that it was complete')
  for (const name of expected) {
    const verdict = account.tables.get(name)
    if (!verdict) problems.push(`${name}: molt verify never looked at it`)
    else if (verdict.shardsFinished < verdict.shardsTotal || verdict.shardsFinished === 0)
      problems.push(`${name}: only ${verdict.shardsFinished} of ${verdict.shardsTotal} shards finished`)
    else if (differences(verdict) > 0)
      problems.push(
        `${name}: ${verdict.missing} rows missing, ${verdict.mismatch} different, ${verdict.extraneous} extraneous, ${verdict.columnMismatch} with other columns`,
      )
  }
  return [...problems, ...account.errors]
}
