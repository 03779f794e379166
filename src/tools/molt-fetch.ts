import { byName } from '../model/records.ts'
import { exactFilter } from '../model/tables.ts'
import { plural } from '../runtime/progress.ts'
import { countUnknown, isError, type MoltEvent, nameWithin, noUnknowns, numberField, type Unknowns } from './events.ts'
import { scrubText } from './scrub.ts'

/** How rows are loaded: with or without files, and with the target tables online or offline. See {@link MODES}. */
export type FetchMode = 'import' | 'use-copy' | 'direct-copy'

/** Describes each mode: how rows are loaded, and whether the target tables stay online. */
export const MODES: Record<FetchMode, string> = {
  import: 'IMPORT INTO through files: each target table is offline while its rows arrive',
  'use-copy': 'COPY through files: the target tables stay online',
  'direct-copy': 'COPY without files: the target tables stay online; an interrupted load cannot be resumed',
}

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
  useImplicitAuth?: boolean
  assumeRole?: string
  importRegion?: string
  compression?: 'gzip' | 'none'
  deleteFiles?: boolean
  tableHandling: 'none' | 'truncate-if-exists' | 'drop-on-target-and-recreate'
  tableConcurrency?: number
  exportConcurrency?: number
  rowBatchSize?: number
  metricsAddr: string
  pprofAddr: string
  /** Allows connections without TLS. */
  insecure: boolean
  /** Resumes an interrupted load and keeps its slot and publication. */
  resume?: { fetchId: string; continuationToken?: string; continuationFileName?: string }
  extraArgs: readonly string[]
}

/** What a build of molt supports. Read from `--help`, because not every build prints a version. */
export interface FetchFeatures {
  /** This build creates the publication `molt_fetch` together with the slot. */
  ownsPublication: boolean
  /** This build rejects `sslmode=disable` without `--allow-tls-mode-disable`. */
  guardsTls: boolean
  /** Every flag in the help, as `--name`. */
  flags: ReadonlySet<string>
}

/**
 * Name of the publication, which is fixed in molt. A second migration from the same source database would drop the
 * publication of the first migration.
 */
export const PUBLICATION = 'molt_fetch'

export function fetchFeatures(help: string): FetchFeatures {
  const flags = new Set(help.match(/--[a-z][a-z0-9-]*/g) ?? [])
  return {
    ownsPublication: flags.has('--pglogical-publication-and-slot-drop-and-recreate'),
    guardsTls: flags.has('--allow-tls-mode-disable'),
    flags,
  }
}

/** Builds the command line of `molt fetch` for exactly these tables. */
export function fetchArgs(request: FetchRequest, features: FetchFeatures): string[] {
  const args = ['fetch', '--source', request.source, '--target', request.target]
  const add = (flag: string, value: string | number | undefined) => {
    if (value !== undefined && value !== '') args.push(flag, String(value))
  }
  const say = (flag: string, when: boolean | undefined) => {
    if (when) args.push(flag)
  }
  add('--schema-filter', exactFilter([request.schema]))
  add('--table-filter', exactFilter(request.tables))
  // Resuming must not empty a table that was loaded before the interruption.
  add('--table-handling', request.resume ? 'none' : request.tableHandling)
  if (!request.resume) add('--pglogical-replication-slot-name', request.slot)
  say('--pglogical-publication-and-slot-drop-and-recreate', features.ownsPublication && !request.resume)
  add('--fetch-id', request.resume?.fetchId)
  add('--continuation-token', request.resume?.continuationToken)
  add('--continuation-file-name', request.resume?.continuationFileName)
  say('--allow-tls-mode-disable', features.guardsTls && request.insecure)
  say('--use-copy', request.mode === 'use-copy')
  say('--direct-copy', request.mode === 'direct-copy')
  // A direct copy does not use files, even if the config file names a bucket for other loads.
  if (request.mode !== 'direct-copy') {
    add('--bucket-path', request.bucketPath)
    say('--use-implicit-auth', request.useImplicitAuth)
    add('--assume-role', request.assumeRole)
    add('--import-region', request.importRegion)
    add('--local-path', request.localPath)
    add('--local-path-listen-addr', request.localPathListenAddr)
    add('--local-path-crdb-access-addr', request.localPathCrdbAccessAddr)
    add('--compression', request.compression)
    say('--cleanup', request.deleteFiles)
  }
  add('--table-concurrency', request.tableConcurrency)
  add('--export-concurrency', request.exportConcurrency)
  add('--row-batch-size', request.rowBatchSize)
  add('--metrics-listen-addr', request.metricsAddr)
  if (features.flags.has('--pprof-listen-addr')) add('--pprof-listen-addr', request.pprofAddr)
  // Without this flag, molt asks "Confirm (y/n)?" on standard output and fails. Some builds do not list the flag in
  // their help.
  args.push('--non-interactive')
  return [...args, ...request.extraArgs]
}

/**
 * Lists the flags that this build's help does not contain. The build would reject them only after it has created the
 * slot.
 */
export function unknownFlags(args: readonly string[], features: FetchFeatures): string[] {
  return args
    .filter((argument) => argument.startsWith('--'))
    .map((argument) => argument.split('=')[0] as string)
    .filter((flag) => flag !== '--non-interactive' && !features.flags.has(flag))
}

/** Flags of `molt fetch` that are not allowed in `extra-args`, each with the reason or the input to use instead. */
const OWNED: Record<string, string> = {
  source: 'use the input `source`',
  'source-cdb': 'it is for Oracle',
  target: 'use the input `target`',
  'schema-filter': 'the plan decides what is moved; use `schema` of `prepare`',
  'table-filter': 'the plan decides what is moved; use `tables` of `prepare`',
  'table-exclusion-filter': 'the plan decides what is moved; use `exclude-tables` of `prepare`',
  'table-handling': 'use the input `table-handling`',
  'filter-path': '`verify` would report the filtered rows as missing',
  'pglogical-replication-slot-name': 'use `slot` of `prepare`',
  'pglogical-replication-slot-plugin': 'the replicator reads pgoutput only',
  'pglogical-replication-slot-drop-if-exists': 'use `on-interrupted: restart`',
  'pglogical-publication-and-slot-drop-and-recreate': 'this action decides when it is safe',
  'ignore-replication-check': 'without a cursor the stream has no starting point',
  mode: 'only a complete load can be checked; the input `mode` sets how rows are moved',
  'direct-copy': 'use the input `mode`',
  'use-copy': 'use the input `mode`',
  'bucket-path': 'use the input `bucket-path`',
  'local-path': 'use the input `local-path`',
  'local-path-listen-addr': 'use the input `local-path-listen-addr`',
  'local-path-crdb-access-addr': 'use the input `local-path-crdb-access-addr`',
  'use-implicit-auth': 'use the input `use-implicit-auth`',
  'assume-role': 'use the input `assume-role`',
  'import-region': 'use the input `import-region`',
  compression: 'use the input `compression`',
  cleanup: 'use the input `delete-files`',
  'table-concurrency': 'use the input `table-concurrency`',
  'export-concurrency': 'use the input `export-concurrency`',
  'row-batch-size': 'use the input `row-batch-size`',
  'fetch-id': 'use `on-interrupted: resume` and the input `fetch-id`',
  'continuation-token': 'use `on-interrupted: resume` and the input `continuation-token`',
  'continuation-file-name': 'use `on-interrupted: resume` and the input `continuation-file-name`',
  'non-interactive': 'it is always set',
  'allow-tls-mode-disable': 'use the input `allow-insecure`',
  'log-file': 'the log is in the work folder',
  logging: 'this action parses the log in its default form',
  'use-console-writer': 'this action parses the log as JSON',
  'metrics-listen-addr': 'this action chooses a free port',
  'pprof-listen-addr': 'this action chooses a free port',
  help: 'it would only print the help',
}

/** All documented flags of `molt fetch` (1.4.1) that are allowed in `extra-args`. */
export const EXTRA_FLAGS = [
  'case-sensitive',
  'crdb-pts-duration',
  'crdb-pts-refresh-interval',
  'export-retry-max-attempts',
  'export-retry-max-duration',
  'flush-rows',
  'flush-size',
  'import-batch-size',
  'opt-out-telemetry',
  'skip-pk-check',
  'transformations-file',
  'type-map-file',
  'use-stats-based-sharding',
] as const
const SWITCHES: ReadonlySet<string> = new Set([
  'case-sensitive',
  'opt-out-telemetry',
  'skip-pk-check',
  'use-stats-based-sharding',
])

/** Describes what is wrong with extra arguments for `molt fetch`; undefined if they are valid. */
export function extraArgsProblem(args: readonly string[]): string | undefined {
  let value = false
  for (const argument of args) {
    if (/^-(?!-|\d)/.test(argument))
      return `${argument.slice(0, 20)} is not a flag of molt fetch: flags have two hyphens`
    const [, flag, given] = /^--([^=]*)(=[\s\S]*)?$/.exec(argument) ?? []
    if (flag === undefined) {
      if (!value) return `${JSON.stringify(argument)} is a value without a flag`
      value = false
      continue
    }
    if (/\s/.test(flag)) return `${JSON.stringify(argument)} is two arguments. Write two items, or --flag=value`
    if (!flag) return 'a bare -- would end the flags'
    const own = OWNED[flag]
    if (own) return `--${flag} is not allowed: ${own}`
    value = given === undefined && !SWITCHES.has(flag)
  }
  return undefined
}

/** Row counts that molt reported for one table. A count is undefined if molt did not report it. */
interface TableAccount {
  exported?: number
  imported?: number
}

type SkippedKind =
  | 'unmigratable'
  | 'missing-on-target'
  | 'missing-on-source'
  | 'primary-key'
  | 'column-missing'
  | 'column-type'
  | 'harmless'
  | 'other'

/** A table or a column that was not moved. `reason` has the cause and the fix. */
interface Skipped {
  kind: SkippedKind
  table: string
  reason: string
}

/** Sums up what `molt fetch` has reported. Tables are bare names, or `schema.table` if they are in another schema. */
export interface FetchAccount {
  /** The source schema to move. */
  schema: string
  /** The LSN in the completion record. */
  cursor: string | undefined
  /** The LSN in the start record. */
  startCursor: string | undefined
  fetchId: string | undefined
  complete: boolean
  /**
   * Tables in the completion record. The record also lists tables whose primary keys differ, although none of their rows
   * were moved.
   */
  claimed: string[]
  matched: string[]
  skipped: Skipped[]
  /** Differences that lose no data. */
  notes: Skipped[]
  tables: Record<string, TableAccount>
  exportedRows: number
  importedRows: number
  exportsFinished: number
  importsFinished: number
  /** Table → continuation token of its failed import. */
  tokens: Record<string, string>
  errors: string[]
  unknown: Unknowns
}

export function emptyAccount(schema = 'public'): FetchAccount {
  return {
    schema,
    cursor: undefined,
    startCursor: undefined,
    fetchId: undefined,
    complete: false,
    claimed: [],
    matched: [],
    skipped: [],
    notes: [],
    tables: byName(),
    exportedRows: 0,
    importedRows: 0,
    exportsFinished: 0,
    importsFinished: 0,
    tokens: byName(),
    errors: [],
    unknown: noUnknowns(),
  }
}

type Account = (account: FetchAccount, event: MoltEvent) => void

/** Two hexadecimal 32-bit numbers. 0/0 is not a valid position. */
const LSN = /^(?!0+\/0+$)[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/i

/** Handlers, selected by the start of the message, because molt appends details. */
const EVENTS: [string, Account][] = [
  ['found matching table', (account, event) => account.matched.push(nameWithin(account.schema, event.source_table))],
  [
    'starting fetch',
    (account, event) => {
      const cursor = String(event.cdc_cursor)
      account.startCursor = LSN.test(cursor) ? cursor : undefined
    },
  ],
  ['data extraction from source complete', (account, event) => countRows(account, event, 'exported')],
  ['data import on target for table complete', (account, event) => countRows(account, event, 'imported')],
  ['fetch complete', complete],
  [
    'continue from this fetch ID',
    (account, event) => {
      account.fetchId = String(event.fetch_id)
    },
  ],
  [
    'created continuation token',
    (account, event) => {
      account.tokens[nameWithin(account.schema, event.table)] = String(event.continuation_token)
    },
  ],
]

/** Known messages that do not affect completeness. */
const QUIET =
  /^(default compression|checking database details|verifying common tables|establishing snapshot|clearing all continuation|data extraction phase|starting data import|row copy status|table COPY complete|starting file server|truncating table|finished truncating|creating (or updating token|new table|schema)|dropping and recreating|skipping (fetch|export|cleanup)|cleaning up resources|imported \d+ rows for batch|row import status|progress$|updated continuation token|user set compression|truncate is skipped|removing exception|molt version|the embedded stand-in)/

/** Records what an event reports about the load. */
export function accountFor(account: FetchAccount, event: MoltEvent): void {
  const message = event.message ?? ''
  const known = EVENTS.find(([beginning]) => message.startsWith(beginning))
  if (known) known[1](account, event)
  else if (event.failable_mismatch || event.mismatch_tag || isMismatch(message)) countMismatch(account, event)
  else if (isError(event)) account.errors.push(errorText(event))
  else if (!QUIET.test(message)) countUnknown(account.unknown, scrubText(message))
}

function countRows(account: FetchAccount, event: MoltEvent, what: 'exported' | 'imported'): void {
  const rows = numberField(event, 'num_rows')
  account[`${what}Rows`] += rows
  account[what === 'exported' ? 'exportsFinished' : 'importsFinished']++
  if (event.table === undefined) return
  const name = nameWithin(account.schema, event.table)
  account.tables[name] ??= {}
  const table = account.tables[name]
  table[what] = (table[what] ?? 0) + rows
}

function complete(account: FetchAccount, event: MoltEvent): void {
  account.complete = true
  account.fetchId = event.fetch_id ? String(event.fetch_id) : account.fetchId
  account.cursor = event.cdc_cursor ? String(event.cdc_cursor) : undefined
  account.claimed = asList(event.tables).map((table) => nameWithin(account.schema, table))
  for (const table of asList(event.skipped_unmigratable_tables))
    account.skipped.push({
      kind: 'unmigratable',
      table: nameWithin(account.schema, table),
      reason:
        'molt reports the table as unmigratable and moved none of its rows. The log lines for this table contain the reason',
    })
}

function isMismatch(message: string): boolean {
  return /missing a definition|do not have matching primary keys|not migrating column|cannot migrate|missing a primary key/i.test(
    message,
  )
}

const REASONS: [RegExp, SkippedKind, (match: RegExpExecArray) => string][] = [
  [
    /missing a definition on the target/,
    'missing-on-target',
    () => 'the table is missing on the target, so none of its rows were moved. Create it from the converted schema',
  ],
  [
    /missing a definition on the source/,
    'missing-on-source',
    () =>
      'molt does not find the table on the source: it was dropped or renamed, or it is partitioned and this build does not support that. Use a newer molt, or prepare again without the table',
  ],
  [
    /do not have matching primary keys|PRIMARY KEY does not match|missing a primary key/i,
    'primary-key',
    () =>
      'its primary keys differ, so none of its rows were moved. Give both sides the same key columns in the same order',
  ],
  [
    /missing column (\S+)/,
    'column-missing',
    ([, column]) =>
      `the target has no column ${column}, so its rows were moved without it. Add the column and load again`,
  ],
  [
    /column type mismatch on (\S+): (.*)$/,
    'column-type',
    ([, column, types]) =>
      `the column ${column} has a different type on the target (${types}) and was skipped. Give both sides the same type and load again`,
  ],
]
/** Harmless differences: all rows and columns are moved anyway. */
const HARMLESS = /extraneous column \S+ found|NOT NULL mismatch/

function countMismatch(account: FetchAccount, event: MoltEvent): void {
  const message = scrubText(event.message ?? '')
  const named = /table (\S+?\.\S+) /.exec(message)?.[1] ?? /(\{[^}]*\})/.exec(message)?.[1]
  const table = nameWithin(account.schema, event.table ?? event.source_table ?? named)
  const detail = scrubText(String(event.reason ?? event.mismatch_info ?? ''))
  const said = detail ? `${message}: ${detail}` : message
  if (!event.failable_mismatch && HARMLESS.test(detail)) {
    account.notes.push({ kind: 'harmless', table, reason: detail })
    return
  }
  for (const [regex, kind, words] of REASONS) {
    const match = regex.exec(detail) ?? regex.exec(message)
    if (match) return void account.skipped.push({ kind, table, reason: words(match) })
  }
  account.skipped.push({ kind: 'other', table, reason: said })
}

/** Text of an error. Values are removed, because the error can quote a row. */
function errorText(event: MoltEvent): string {
  return scrubText([event.message, event.error].filter(Boolean).join(': '))
}

function asList(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

/** Lists unexpected tables that molt is about to load. molt reports its tables before it reads the first row. */
export function strayTables(account: FetchAccount, expected: readonly string[]): string[] {
  return account.matched.filter((table) => !expected.includes(table))
}

/**
 * Lists the reasons why the load may be incomplete; empty if it is proved complete.
 * @param resumed this run resumed a load, so its row counts are partial
 */
export function fetchProblems(account: FetchAccount, expected: readonly string[], resumed = false): string[] {
  // An unexpected table that exists only on the target does not affect this load.
  const skipped = account.skipped.filter(({ kind, table }) => expected.includes(table) || kind !== 'missing-on-source')
  const problems = skipped.map(({ table, reason }) => `${table}: ${reason}`)
  if (!account.complete) problems.push('molt fetch wrote no completion record, so the load is incomplete')
  else if (!account.cursor) problems.push('the completion record has no cursor, so the stream has no starting point')
  else if (!LSN.test(account.cursor))
    problems.push(`the completion record's cursor is not a WAL position: ${scrubText(account.cursor).slice(0, 60)}`)
  if (account.complete && !account.claimed.length && expected.length)
    problems.push('molt fetch moved no tables, because its filter matched none')
  else if (account.complete)
    for (const table of expected)
      if (!account.claimed.includes(table)) problems.push(`${table}: expected, but missing from the completion record`)
  for (const table of new Set([...account.claimed, ...account.matched, ...Object.keys(account.tables)]))
    if (!expected.includes(table)) problems.push(`${table}: loaded, but not an expected table`)
  return [...new Set([...problems, ...(resumed ? [] : rowProblems(account, expected)), ...account.errors])]
}

/** Describes what is wrong with the location of intermediate files; undefined if it is valid. */
export function filesProblem(request: {
  mode: FetchMode
  bucketPath?: string
  localPath?: string
}): string | undefined {
  const files = [request.bucketPath, request.localPath].filter(Boolean).length
  if (request.mode !== 'direct-copy' && !files)
    return `input \`mode\`: \`${request.mode}\` moves rows through files. Set \`bucket-path\` or \`local-path\`, or use \`direct-copy\``
  return files > 1 ? 'inputs `local-path` and `bucket-path` are both set. Set only one' : undefined
}

/**
 * Explains why IMPORT INTO requires EXTERNALIOIMPLICITACCESS; undefined if it does not. Source: cockroachdb/docs,
 * `import-into.md`.
 * @param env molt's environment, which can name the endpoint of an S3-compatible server
 */
export function implicitAccess(
  files: Pick<FetchRequest, 'mode' | 'bucketPath' | 'localPath' | 'useImplicitAuth'>,
  env: NodeJS.ProcessEnv,
): string | undefined {
  if (files.mode !== 'import') return undefined
  if (files.localPath) return 'the files are read over HTTP (`local-path`)'
  if (!files.bucketPath) return undefined
  if (files.useImplicitAuth) return 'the bucket is accessed with implicit credentials (`use-implicit-auth`)'
  const endpoint = env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL || /[?&]AWS_ENDPOINT=/.test(files.bucketPath)
  return endpoint ? 'the bucket has a custom endpoint (`AWS_ENDPOINT_URL`)' : undefined
}

function rowProblems(account: FetchAccount, expected: readonly string[]): string[] {
  const problems: string[] = []
  if (account.complete && account.exportsFinished < expected.length)
    problems.push(`only ${account.exportsFinished} of ${plural(expected.length, 'table')} fully exported`)
  if (account.importsFinished > 0 && account.importsFinished < expected.length)
    problems.push(`only ${account.importsFinished} of ${plural(expected.length, 'table')} fully imported`)
  const apart = Object.entries(account.tables).filter(
    ([, { exported, imported }]) => imported !== undefined && exported !== imported,
  )
  for (const [table, { exported, imported }] of apart)
    problems.push(`${table}: exported ${exported ?? 'an unknown number of'} rows, but imported ${imported}`)
  if (!apart.length && account.importsFinished > 0 && account.importedRows !== account.exportedRows)
    problems.push(`exported ${account.exportedRows} rows, but imported ${account.importedRows}`)
  return problems
}

/**
 * Reads the number of rows exported and imported so far from molt's Prometheus metrics; undefined if they are missing.
 */
export function fetchedRows(metrics: string): { exported: number; imported: number } | undefined {
  const sum = (name: string) => {
    const values = [...metrics.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].map((match) =>
      Number(match[1]),
    )
    return values.length ? values.reduce((a, b) => a + b, 0) : undefined
  }
  const exported = sum('molt_fetch_rows_exported')
  return exported === undefined ? undefined : { exported, imported: sum('molt_fetch_rows_imported') ?? 0 }
}
