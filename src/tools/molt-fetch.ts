import { exactFilter } from '../migration/tables.ts'
import { bareName, type MoltEvent, numberField } from './events.ts'
import { scrubText } from './scrub.ts'

/** How the rows travel: which of the target's tables stay online, and what must lie between. */
export type FetchMode = 'import' | 'use-copy' | 'direct-copy'

export interface FetchRequest {
  source: string
  target: string
  schema: string
  tables: readonly string[]
  slot: string
  mode: FetchMode
  bucketPath?: string
  localPath?: string
  localPathListenAddr?: string
  localPathCrdbAccessAddr?: string
  tableHandling: 'none' | 'truncate-if-exists' | 'drop-on-target-and-recreate'
  tableConcurrency?: number
  exportConcurrency?: number
  rowBatchSize?: number
  metricsAddr: string
  extraArgs: readonly string[]
}

/** Flags by which one build of the tool differs from another; found by `--help`, since versions are not always told. */
export interface FetchFeatures {
  /** The tool creates the publication `molt_fetch` and the slot together. */
  ownsPublication: boolean
  /** It refuses `sslmode=disable` unless told otherwise. */
  guardsTls: boolean
}

/** The name that the tool insists on; a second migration on one source database would drop the first one's. */
export const PUBLICATION = 'molt_fetch'

export function fetchFeatures(help: string): FetchFeatures {
  return {
    ownsPublication: help.includes('--pglogical-publication-and-slot-drop-and-recreate'),
    guardsTls: help.includes('--allow-tls-mode-disable'),
  }
}

/** The command line of `molt fetch` for exactly these tables. */
export function fetchArgs(request: FetchRequest, features: FetchFeatures): string[] {
  const args = ['fetch', '--source', request.source, '--target', request.target]
  const add = (flag: string, value: string | number | undefined) => {
    if (value !== undefined && value !== '') args.push(flag, String(value))
  }
  add('--schema-filter', exactFilter([request.schema]))
  add('--table-filter', exactFilter(request.tables))
  add('--table-handling', request.tableHandling)
  add('--pglogical-replication-slot-name', request.slot)
  if (features.ownsPublication) args.push('--pglogical-publication-and-slot-drop-and-recreate')
  if (features.guardsTls && /sslmode=disable/.test(request.source + request.target))
    args.push('--allow-tls-mode-disable')
  if (request.mode === 'use-copy') args.push('--use-copy')
  if (request.mode === 'direct-copy') args.push('--direct-copy')
  add('--bucket-path', request.bucketPath)
  add('--local-path', request.localPath)
  add('--local-path-listen-addr', request.localPathListenAddr)
  add('--local-path-crdb-access-addr', request.localPathCrdbAccessAddr)
  add('--table-concurrency', request.tableConcurrency)
  add('--export-concurrency', request.exportConcurrency)
  add('--row-batch-size', request.rowBatchSize)
  add('--metrics-listen-addr', request.metricsAddr)
  // Without it the tool asks "Confirm (y/n)?" on standard output and fails for want of an answer.
  args.push('--non-interactive')
  return [...args, ...request.extraArgs]
}

/** What the tool said it did. Rows are numbers of rows; `cursor` is an LSN. */
export interface FetchAccount {
  cursor: string | undefined
  fetchId: string | undefined
  complete: boolean
  /** Named in the completion record; a table whose keys differ is named there too, with no row moved. */
  claimed: string[]
  matched: string[]
  skipped: { table: string; reason: string }[]
  exportedRows: number
  importedRows: number
  exportsFinished: number
  errors: string[]
}

export function emptyAccount(): FetchAccount {
  return {
    cursor: undefined,
    fetchId: undefined,
    complete: false,
    claimed: [],
    matched: [],
    skipped: [],
    exportedRows: 0,
    importedRows: 0,
    exportsFinished: 0,
    errors: [],
  }
}

/** Adds one event to the account. Events that say nothing about completeness are left to the log. */
export function accountFor(account: FetchAccount, event: MoltEvent): void {
  const message = event.message ?? ''
  if (message === 'found matching table') account.matched.push(bareName(event.source_table))
  else if (message.startsWith('data extraction from source complete')) {
    account.exportedRows += numberField(event, 'num_rows')
    account.exportsFinished++
  } else if (message.startsWith('data import on target for table complete'))
    account.importedRows += numberField(event, 'num_rows')
  else if (message === 'fetch complete') complete(account, event)
  else if (message === 'continue from this fetch ID') account.fetchId = String(event.fetch_id)
  else if (event.failable_mismatch || event.mismatch_tag || isMismatch(message)) account.skipped.push(skipped(event))
  else if (event.level === 'error' || event.level === 'fatal') account.errors.push(errorText(event))
}

function complete(account: FetchAccount, event: MoltEvent): void {
  account.complete = true
  account.fetchId = event.fetch_id ? String(event.fetch_id) : account.fetchId
  account.cursor = event.cdc_cursor ? String(event.cdc_cursor) : undefined
  account.claimed = asList(event.tables).map(bareName)
  for (const table of asList(event.skipped_unmigratable_tables))
    account.skipped.push({ table: bareName(table), reason: 'MOLT reports it as unmigratable' })
}

function isMismatch(message: string): boolean {
  return /missing a definition|do not have matching primary keys|not migrating column|cannot migrate|missing a primary key/.test(
    message,
  )
}

function skipped(event: MoltEvent): { table: string; reason: string } {
  const message = event.message ?? ''
  const named = /table (\S+?\.\S+) /.exec(message)?.[1] ?? /\{([^}]*)\}/.exec(message)?.[1]
  const reason = event.reason ?? event.mismatch_info
  return {
    table: bareName(event.table ?? event.source_table ?? named),
    reason: reason ? `${message}: ${reason}` : message,
  }
}

/** An error's text may quote a value of the row that could not be moved. */
function errorText(event: MoltEvent): string {
  return scrubText([event.message, event.error].filter(Boolean).join(': '))
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

/** Everything in the account that is not "all of it"; empty is the only green. */
export function fetchProblems(account: FetchAccount, expected: readonly string[]): string[] {
  const problems = account.skipped.map(({ table, reason }) => `${table}: ${reason}`)
  if (!account.complete) problems.push('molt fetch wrote no completion record: the load is not complete')
  else if (!account.cursor) problems.push('the completion record has no cursor, so a stream has nowhere to begin')
  for (const table of expected)
    if (!account.claimed.includes(table))
      problems.push(`${table}: expected, but the completion record does not name it`)
  for (const table of new Set([...account.claimed, ...account.matched]))
    if (!expected.includes(table)) problems.push(`${table}: loaded, although it is not an expected table`)
  if (account.complete && account.exportsFinished < expected.length)
    problems.push(`only ${account.exportsFinished} of ${expected.length} tables were exported to their end`)
  if (account.importedRows > 0 && account.importedRows !== account.exportedRows)
    problems.push(`${account.exportedRows} rows were exported, but ${account.importedRows} imported`)
  return [...problems, ...account.errors]
}
