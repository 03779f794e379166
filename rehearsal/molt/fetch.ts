import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import pg from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import {
  type CommonTable,
  compareDefinitions,
  type DatabaseTables,
  databaseTables,
  type Filters,
  safeName,
  sqlName,
  type TableName,
} from './catalog.ts'
import type { FlagSpec, Flags } from './flags.ts'
import {
  type ExceptionRow,
  exceptionsToContinue,
  exportTable,
  forgetException,
  importParts,
  partsToContinue,
} from './load-files.ts'
import { clockText, form, Metrics, MOLT_VERSION, type MoltLog, moltLog, moltMetricsServer } from './molt-log.ts'
import { type Endpoint, errorText, ident, open, parseEndpoint, rows, sqlState } from './pg.ts'
import { openStore, type Store } from './store.ts'

/** Flags of `molt fetch`, from the real build that we ran and from the current documentation. */
export const FETCH_FLAGS: readonly FlagSpec[] = [
  ['source', 'string', '', 'Connection string of the source database.'],
  ['target', 'string', '', 'Connection string of the target database.'],
  ['source-cdb', 'string', '', 'Not used for PostgreSQL.'],
  ['schema-filter', 'string', '.*', 'POSIX regexp filter for schemas to action on.'],
  ['table-filter', 'string', '.*', 'POSIX regexp filter for tables to action on.'],
  ['table-exclusion-filter', 'string', '', 'POSIX regexp filter for tables to leave out.'],
  ['case-sensitive', 'bool', 'false', 'Compare names case-sensitively.'],
  [
    'table-handling',
    'string',
    'none',
    'How target tables are prepared: none, drop-on-target-and-recreate or truncate-if-exists.',
  ],
  ['direct-copy', 'bool', 'false', 'Copy from source to target without an intermediate store.'],
  ['use-copy', 'bool', 'false', 'Use COPY FROM instead of IMPORT INTO.'],
  ['mode', 'string', 'data-load', 'data-load, export-only or import-only.'],
  ['bucket-path', 'string', '', 'Bucket for intermediate files: s3://bucket/path; query parameters are ignored.'],
  ['local-path', 'string', '', 'Local store for intermediate files.'],
  ['local-path-listen-addr', 'string', '', 'Address on which the local store is served.'],
  ['local-path-crdb-access-addr', 'string', '', 'Address of the local store as the target sees it.'],
  ['import-region', 'string', '', 'Region of the bucket.'],
  ['import-batch-size', 'int', '1000', 'Files imported at a time.'],
  ['compression', 'string', '', 'gzip or none.'],
  ['cleanup', 'bool', 'false', 'Delete intermediate files.'],
  ['flush-size', 'int', '0', 'Bytes before a flush to intermediate files.'],
  ['flush-rows', 'int', '0', 'Rows before a flush to intermediate files.'],
  ['row-batch-size', 'int', '100000', 'Number of rows to select at a time.'],
  ['table-concurrency', 'int', '4', 'Number of tables to move at a time.'],
  ['export-concurrency', 'int', '4', 'Number of threads to use for data export.'],
  ['export-retry-max-attempts', 'int', '3', 'Retries of an export query.'],
  ['export-retry-max-duration', 'duration', '5m0s', 'Total time for retries of an export query.'],
  ['use-stats-based-sharding', 'bool', 'false', 'Shard by statistics.'],
  ['filter-path', 'string', '', 'JSON file of row filters; not supported by the stand-in.'],
  ['transformations-file', 'string', '', 'JSON file of transformations; not supported by the stand-in.'],
  ['type-map-file', 'string', '', 'JSON file of type mappings; not supported by the stand-in.'],
  ['skip-pk-check', 'bool', 'false', 'Load tables whose primary keys are missing or differ.'],
  ['fetch-id', 'string', '', 'Continue the fetch of this ID.'],
  ['continuation-token', 'string', '', 'Continue from this token.'],
  ['continuation-file-name', 'string', '', 'Continue from this file.'],
  ['non-interactive', 'bool', 'false', 'Do not prompt.'],
  ['ignore-replication-check', 'bool', 'false', 'Do not query for replication positions.'],
  ['pglogical-replication-slot-name', 'string', '', 'Replication slot to create before the snapshot.'],
  ['pglogical-replication-slot-plugin', 'string', 'pgoutput', 'Output plugin of the slot.'],
  ['pglogical-replication-slot-drop-if-exists', 'bool', 'false', 'Drop the slot if it exists.'],
  [
    'pglogical-publication-and-slot-drop-and-recreate',
    'bool',
    'false',
    'Drop and recreate publication molt_fetch and the slot.',
  ],
  ['allow-tls-mode-disable', 'bool', 'false', 'Allow connections without TLS.'],
  ['use-implicit-auth', 'bool', 'false', 'Implicit authentication for buckets.'],
  ['assume-role', 'string', '', 'Service account for buckets.'],
  ['crdb-pts-duration', 'duration', '24h0m0s', 'Not used for PostgreSQL.'],
  ['crdb-pts-refresh-interval', 'duration', '10m0s', 'Not used for PostgreSQL.'],
  ['opt-out-telemetry', 'bool', 'false', 'The stand-in sends none.'],
  ['log-file', 'string', '', 'Write the log to this file too.'],
  ['logging', 'string', 'info', 'Level to log at.'],
  ['use-console-writer', 'bool', 'false', 'Not used by the stand-in: always JSON.'],
  ['metrics-listen-addr', 'string', '127.0.0.1:3030', 'Address of the metrics endpoint.'],
  ['pprof-listen-addr', 'string', '127.0.0.1:3031', 'Not used by the stand-in.'],
]

/** Publication that fetch creates on request. The real tool has the same fixed name. */
const PUBLICATION = 'molt_fetch'

interface Run {
  flags: Flags
  log: MoltLog
  metrics: Metrics
  source: Endpoint
  target: Endpoint
  fetchId: string
  /** Undefined for a direct copy. */
  store: Store | undefined
  importing: boolean
}

/** Runs `molt fetch`. Resolves when the load is complete; throws an Error whose message the caller prints. */
export async function fetchCommand(flags: Flags): Promise<void> {
  checkFlags(flags)
  for (const name of ['filter-path', 'transformations-file', 'type-map-file'])
    if (flags.str(name)) throw new Error(`the embedded stand-in does not support --${name}`)
  if (flags.str('mode') !== 'data-load') throw new Error('the embedded stand-in supports --mode data-load only')
  const log = moltLog(flags.str('log-file'), flags.str('logging'))
  log.line('info', `molt version ${MOLT_VERSION}: for rehearsals, PostgreSQL to PostgreSQL`)
  const metrics = declareMetrics()
  const stopMetrics = await moltMetricsServer(log, flags.str('metrics-listen-addr'), metrics)
  let store: Store | undefined
  try {
    const source = parseEndpoint(flags.str('source'), 'molt fetch')
    const target = parseEndpoint(flags.str('target'), 'molt fetch')
    checkTls(flags, source, target)
    checkCompression(flags, log)
    store = await openStore(flags, log)
    await load({ flags, log, metrics, source, target, fetchId: randomUUID(), store, importing: false })
  } catch (error) {
    metrics.add('molt_fetch_num_task_errors', 1)
    throw error
  } finally {
    store?.close()
    stopMetrics()
  }
}

function checkFlags(flags: Flags): void {
  const needs = (dependency: string, flag: string) => {
    if (flags.has(flag) && !flags.has(dependency))
      throw new Error(`Flag "${flag}" set without explicitly setting dependency "${dependency}"`)
  }
  needs('fetch-id', 'continuation-token')
  needs('continuation-token', 'continuation-file-name')
  if (flags.has('bucket-path') && flags.has('local-path'))
    throw new Error(
      'if any flags in the group [bucket-path local-path] are set none of the others can be; [bucket-path local-path] were all set',
    )
  oneOf(flags, 'table-handling', ['none', 'drop-on-target-and-recreate', 'truncate-if-exists'])
  oneOf(flags, 'mode', ['data-load', 'export-only', 'import-only'])
  if (flags.has('compression')) oneOf(flags, 'compression', ['gzip', 'none'])
  if (flags.str('table-exclusion-filter') === '.*') throw new Error('table exclusion filter cannot be ".*"')
}

function oneOf(flags: Flags, name: string, choices: string[]): void {
  if (!choices.includes(flags.str(name).toLowerCase()))
    throw new Error(
      `invalid argument ${JSON.stringify(flags.str(name))} for "--${name}" flag: must be ${choices.map((c) => `'${c}'`).join(', ')}`,
    )
}

function checkTls(flags: Flags, ...endpoints: Endpoint[]): void {
  if (flags.bool('allow-tls-mode-disable')) return
  if (endpoints.some((e) => e.sslmode === 'disable'))
    throw new Error(
      'insecure connection: sslmode=disable is not allowed; use a secure connection, or allow it with --allow-tls-mode-disable',
    )
}

function checkCompression(flags: Flags, log: MoltLog): void {
  const copyMode = flags.bool('direct-copy') || flags.bool('use-copy')
  if (copyMode && flags.str('compression').toLowerCase() === 'gzip')
    throw new Error('cannot run copy mode with compression')
  if (flags.has('compression')) log.line('info', `user set compression to ${flags.str('compression')}`)
  else log.line('info', `default compression to ${copyMode ? 'none' : 'GZIP'}`)
}

function declareMetrics(): Metrics {
  const metrics = new Metrics()
  metrics.declare('molt_fetch_num_tables', 'counter')
  metrics.declare('molt_fetch_num_task_errors', 'counter')
  metrics.declare('molt_fetch_overall_duration', 'gauge')
  for (const name of ['rows_exported', 'rows_imported']) metrics.declare(`molt_fetch_${name}`, 'counter', true)
  for (const name of ['export', 'import', 'overall'])
    metrics.declare(`molt_fetch_table_${name}_duration_ms`, 'gauge', true)
  return metrics
}

async function load(run: Run): Promise<void> {
  const started = performance.now()
  const source = await open(run.source)
  let target: pg.Client | undefined
  try {
    target = await open(run.target)
    run.importing = run.store !== undefined && !run.flags.bool('use-copy') && (await takesImports(run, target))
    await createStatus(run, target)
    const tables = await findTables(run, source, target)
    const snapshot = await establishSnapshot(run, source, tables)
    try {
      await move(run, target, tables, snapshot, started)
    } catch (error) {
      run.log.line('info', 'continue from this fetch ID', { fetch_id: run.fetchId })
      throw error
    }
  } finally {
    await source.end().catch(() => {})
    await target?.end().catch(() => {})
  }
}

/** The real tool accepts only CockroachDB as the target. On PostgreSQL, the stand-in loads the same files by COPY. */
async function takesImports(run: Run, target: pg.Client): Promise<boolean> {
  const [server] = await rows(target, 'SELECT version() AS version')
  if (server?.version?.includes('CockroachDB')) return true
  run.log.line('warn', 'the embedded stand-in loads files by COPY, since the target has no IMPORT INTO')
  return false
}

/** Creates the two tables in the target's default schema where the real tool records its runs. */
async function createStatus(run: Run, target: pg.Client): Promise<void> {
  await target.query(`CREATE TABLE IF NOT EXISTS _molt_fetch_status (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text, started_at timestamp, source_dialect text)`)
  await target.query(`CREATE TABLE IF NOT EXISTS _molt_fetch_exceptions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), fetch_id uuid NOT NULL REFERENCES _molt_fetch_status (id),
    table_name text, schema_name text, message text, sql_state text, file_name text, command text, stage text, time timestamp)`)
  if (run.flags.str('fetch-id')) {
    run.fetchId = run.flags.str('fetch-id')
    return
  }
  const name = `run at ${Math.floor(Date.now() / 1000)}`
  const values = [run.fetchId, name]
  await target.query(`INSERT INTO _molt_fetch_status VALUES ($1, $2, now() AT TIME ZONE 'UTC', 'PostgreSQL')`, values)
}

async function findTables(run: Run, source: pg.Client, target: pg.Client): Promise<CommonTable[]> {
  const { flags, log } = run
  const filters: Filters = {
    schema: flags.str('schema-filter'),
    table: flags.str('table-filter'),
    exclusion: flags.str('table-exclusion-filter'),
  }
  log.line('info', 'checking database details')
  let found = await databaseTables(source, target, filters)
  const recreate = flags.str('table-handling').toLowerCase() === 'drop-on-target-and-recreate'
  for (const table of found.extraneous)
    log.line('warn', 'ignoring table as it is missing a definition on the source', { table: safeName(table) })
  if (!recreate) for (const table of found.missing) warnMissing(log, table)
  for (const [from, to] of found.common)
    log.line('info', 'found matching table', { source_table: safeName(from), target_table: safeName(to) })
  if (recreate) found = await recreateTables(run, source, target, found, filters)
  log.line('info', 'verifying common tables')
  return compareDefinitions(source, target, found.common)
}

function warnMissing(log: MoltLog, table: TableName): void {
  const tag = form() === 'doc' ? { mismatch_tag: 'missing_table', failable_mismatch: false } : {}
  log.line('warn', 'ignoring table as it is missing a definition on the target', { table: safeName(table), ...tag })
}

/** Recreates only columns, NOT NULL and the primary key. The real tool leaves out all other constraints too. */
async function recreateTables(run: Run, source: pg.Client, target: pg.Client, found: DatabaseTables, filters: Filters) {
  for (const table of [...found.common.map(([from]) => from), ...found.missing]) {
    const columns = await rows(
      source,
      `SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS not_null
         FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum`,
      [sqlName(table)],
    )
    const key = await rows(
      source,
      `SELECT pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'p'`,
      [sqlName(table)],
    )
    const lines = columns.map(
      (c) => `${ident(c.name as string)} ${typeOnTarget(c.type as string)}${c.not_null === 't' ? ' NOT NULL' : ''}`,
    )
    const create = `CREATE TABLE ${sqlName(table)} (${[...lines, ...key.map((k) => k.def)].join(', ')})`
    run.log.line('info', `creating new table with ${JSON.stringify(create)}`)
    await target.query(`CREATE SCHEMA IF NOT EXISTS ${ident(table.schema)}`)
    await target.query(`DROP TABLE IF EXISTS ${sqlName(table)} CASCADE`)
    await target.query(create)
  }
  return databaseTables(source, target, filters)
}

/** Spells out widths, because CockroachDB's `integer` has 8 bytes (docs: molt-fetch.md, type mapping). */
function typeOnTarget(type: string): string {
  return type.replace(/^(smallint|integer|bigint)\b/, (name) => INTEGERS[name] as string)
}

const INTEGERS: Record<string, string> = { smallint: 'INT2', integer: 'INT4', bigint: 'INT8' }

interface Snapshot {
  id: string
  cursor: string
}

/**
 * Creates the slot before the snapshot. A transaction that commits in between is part of the snapshot and is also
 * streamed.
 */
async function establishSnapshot(run: Run, source: pg.Client, tables: CommonTable[]): Promise<Snapshot> {
  const { flags, log } = run
  log.line('info', 'establishing snapshot')
  const slot = flags.str('pglogical-replication-slot-name')
  const recreate = flags.bool('pglogical-publication-and-slot-drop-and-recreate')
  if (recreate) await recreatePublication(log, source, tables)
  let cursor = ''
  if (slot) {
    if (recreate || flags.bool('pglogical-replication-slot-drop-if-exists')) await dropSlot(source, slot)
    cursor = await createSlot(source, slot, flags.str('pglogical-replication-slot-plugin'))
  } else if (!flags.bool('ignore-replication-check')) {
    cursor = (await rows(source, 'SELECT pg_current_wal_insert_lsn() AS lsn'))[0]?.lsn ?? ''
  }
  await source.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const exported = await rows(source, 'SELECT pg_export_snapshot() AS id')
  return { id: exported[0]?.id as string, cursor }
}

async function recreatePublication(log: MoltLog, source: pg.Client, tables: CommonTable[]): Promise<void> {
  log.line('info', `dropping and recreating publication ${PUBLICATION}`)
  await source.query(`DROP PUBLICATION IF EXISTS ${PUBLICATION}`)
  const list = tables.map(sqlName).join(', ')
  await source.query(`CREATE PUBLICATION ${PUBLICATION}${list ? ` FOR TABLE ${list}` : ''}`)
}

async function dropSlot(source: pg.Client, slot: string): Promise<void> {
  try {
    await source.query('SELECT pg_drop_replication_slot($1)', [slot])
  } catch (error) {
    if (sqlState(error) !== '42704') throw new Error(`error attempting to drop replication slot: ${errorText(error)}`)
  }
}

async function createSlot(source: pg.Client, slot: string, plugin: string): Promise<string> {
  try {
    const made = await rows(source, 'SELECT lsn FROM pg_create_logical_replication_slot($1, $2)', [slot, plugin])
    return made[0]?.lsn as string
  } catch (error) {
    throw new Error(`error creating replication slot: ${errorText(error)}`)
  }
}

async function move(
  run: Run,
  target: pg.Client,
  tables: CommonTable[],
  snapshot: Snapshot,
  started: number,
): Promise<void> {
  const { flags, log, metrics } = run
  const summary = { type: 'summary', num_tables: tables.length, cdc_cursor: snapshot.cursor }
  log.line('info', 'starting fetch', summary)
  metrics.add('molt_fetch_num_tables', tables.length)
  const failures = await exceptionsToContinue(flags, target)
  if (!flags.str('fetch-id')) await clearContinuation(run, target)

  const loaded: string[] = []
  const skipped: string[] = []
  const queue = [...tables]
  const worker = async () => {
    for (let table = queue.shift(); table; table = queue.shift()) {
      const failed = failures.get(safeName(table))
      if (flags.str('fetch-id') && !failed) {
        log.line('warn', `skipping fetch for ${safeName(table)}`)
        loaded.push(safeName(table))
        continue
      }
      const moved = await moveTable(run, table, snapshot, failed)
      // The real build that we ran also lists tables without moved rows.
      if (moved || form() !== 'doc') loaded.push(safeName(table))
      else skipped.push(safeName(table))
    }
  }
  const workers = Array.from({ length: Math.max(1, flags.int('table-concurrency') || 4) }, worker)
  const failed = (await Promise.allSettled(workers)).find((r) => r.status === 'rejected')
  if (failed) throw failed.reason

  const duration = performance.now() - started
  metrics.set('molt_fetch_overall_duration', duration / 1000)
  log.line('info', 'fetch complete', {
    type: 'summary',
    fetch_id: run.fetchId,
    num_tables: loaded.length,
    tables: loaded,
    ...(form() === 'run' ? {} : { skipped_unmigratable_tables: skipped }),
    cdc_cursor: snapshot.cursor,
    net_duration_ms: duration,
    net_duration: clockText(duration),
  })
}

async function clearContinuation({ flags, log }: Run, target: pg.Client): Promise<void> {
  if (flags.bool('non-interactive'))
    log.line('warn', 'clearing all continuation tokens because running in clear continuation mode')
  else if (!(await confirmed('Clearing all continuation tokens. Confirm (y/n)?')))
    throw new Error('clearing continuation tokens was not confirmed, exiting early')
  await target.query('TRUNCATE _molt_fetch_exceptions')
}

async function confirmed(question: string): Promise<boolean> {
  process.stdout.write(`${question}\n`)
  const input = createInterface({ input: process.stdin })
  try {
    for await (const line of input) return line.trim().toLowerCase() === 'y'
    return false
  } finally {
    input.close()
    process.stdin.pause()
  }
}

/** Moves one table. @returns false if its keys differ, so nothing was moved */
async function moveTable(
  run: Run,
  table: CommonTable,
  snapshot: Snapshot,
  failed: ExceptionRow | undefined,
): Promise<boolean> {
  const { flags, log, metrics } = run
  const name = safeName(table)
  const labels = { table: name }
  metrics.add('molt_fetch_rows_exported', 0, labels)
  metrics.add('molt_fetch_rows_imported', 0, labels)
  reportMismatches(log, table)
  if (!table.rowVerifiable && !flags.bool('skip-pk-check')) {
    const message = `table ${name} do not have matching primary keys, cannot migrate`
    log.line('error', message, tableField(name))
    return false
  }

  const started = performance.now()
  const source = await open(run.source)
  let target: pg.Client | undefined
  try {
    target = await open(run.target)
    if (flags.str('table-handling').toLowerCase() === 'truncate-if-exists') await truncate(run, target, table)
    await source.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY')
    await source.query(`SET TRANSACTION SNAPSHOT '${snapshot.id}'`)
    log.line('info', 'data extraction phase starting', tableField(name))
    const move = run.store ? moveByFiles : moveDirectly
    await move(run, { source, target, table, started, cursor: snapshot.cursor, failed })
    return true
  } catch (error) {
    if (!(error instanceof pg.DatabaseError)) throw error
    throw new Error(`error moving table ${name}: ${errorText(error)}`)
  } finally {
    await source.end().catch(() => {})
    await target?.end().catch(() => {})
  }
}

async function truncate({ flags, log }: Run, target: pg.Client, table: CommonTable): Promise<void> {
  if (flags.str('fetch-id')) {
    const why = 'truncate is skipped because you are using a continuation mode and it could result in missing data'
    log.line('warn', why)
    return
  }
  log.line('info', 'truncating table', tableField(safeName(table)))
  await target.query(`TRUNCATE TABLE ${sqlName(table)}`)
  log.line('info', 'finished truncating table', tableField(safeName(table)))
}

/** State of one table's load. If it resumes an earlier load, `failed` is that load's failure. */
interface Move {
  source: pg.Client
  target: pg.Client
  table: CommonTable
  started: number
  cursor: string
  failed: ExceptionRow | undefined
}

async function moveDirectly(run: Run, { source, target, table, started, cursor }: Move): Promise<void> {
  if (saysImport(run.flags)) run.log.line('info', 'starting data import on target', tableField(safeName(table)))
  const { count, exportMs } = await copyTable(source, target, table, run.metrics)
  reportExport(run, table, count, exportMs)
  if (saysImport(run.flags)) reportImport(run, table, { count, exportMs, netMs: performance.now() - started, cursor })
}

/** Writes every row to files before it loads the first file. */
async function moveByFiles(run: Run, { source, target, table, started, cursor, failed }: Move): Promise<void> {
  const files = { ...run, store: run.store as Store }
  const parts = failed ? await partsToContinue(files, table, failed) : await exportTable(files, source, table)
  const exportMs = performance.now() - started
  // The real tool does not count the rows of a resumed load.
  const count = failed ? 0 : parts.reduce((sum, part) => sum + part.rows, 0)
  reportExport(run, table, count, exportMs)
  run.log.line('info', 'starting data import on target', tableField(safeName(table)))
  await importParts(files, target, table, parts, failed)
  if (failed) await forgetException(files, target, table, failed)
  reportImport(run, table, { count, exportMs, netMs: performance.now() - started, cursor })
  if (!run.flags.bool('cleanup')) return
  run.log.line('info', 'cleaning up resources created during fetch run')
  for (const part of parts) await part.remove()
}

/** The older binary names no table in these lines, and does not log the imports of a direct copy. */
function tableField(table: string): { table?: string } {
  return form() === 'run' ? {} : { table }
}

function saysImport(flags: Flags): boolean {
  return form() !== 'run' || !flags.bool('direct-copy')
}

function reportMismatches(log: MoltLog, table: CommonTable): void {
  for (const mismatch of table.mismatches) {
    const tag = form() === 'doc' ? { mismatch_tag: mismatch.tag, failable_mismatch: mismatch.failable } : {}
    const message = `not migrating column {${table.schema} ${table.table}} as it mismatches`
    log.line('warn', message, { reason: mismatch.info, ...tag })
  }
}

/** Pipes COPY to COPY as text, one statement each. Backpressure slows the source down to the target's speed. */
async function copyTable(source: pg.Client, target: pg.Client, table: CommonTable, metrics: Metrics) {
  const labels = { table: safeName(table) }
  const started = performance.now()
  const columns = table.columns.map(ident).join(', ')
  let exportMs = 0
  const counter = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      metrics.add('molt_fetch_rows_exported', countLines(chunk), labels)
      done(null, chunk)
    },
    flush(done) {
      exportMs = performance.now() - started
      done()
    },
  })
  const from = source.query(copyTo(`COPY ${sqlName(table)} (${columns}) TO STDOUT`))
  const into = target.query(copyFrom(`COPY ${sqlName(table)} (${columns}) FROM STDIN`))
  await pipeline(from, counter, into)
  metrics.add('molt_fetch_rows_imported', into.rowCount ?? 0, labels)
  return { count: into.rowCount ?? 0, exportMs }
}

/** Counts newlines, which end rows: COPY's text format escapes those inside values. */
function countLines(chunk: Buffer): number {
  let count = 0
  for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) count++
  return count
}

interface Timing {
  count: number
  exportMs: number
  netMs: number
  cursor: string
}

function reportExport({ log, metrics }: Run, table: CommonTable, count: number, exportMs: number): void {
  const name = safeName(table)
  log.line('info', 'data extraction from source complete', {
    ...tableField(name),
    type: 'summary',
    num_rows: count,
    export_duration_ms: exportMs,
    export_duration: clockText(exportMs),
  })
  metrics.set('molt_fetch_table_export_duration_ms', Math.round(exportMs), { table: name })
}

function reportImport({ log, metrics }: Run, table: CommonTable, { count, exportMs, netMs, cursor }: Timing): void {
  const name = safeName(table)
  log.line('info', 'data import on target for table complete', {
    ...tableField(name),
    type: 'summary',
    net_duration_ms: netMs,
    net_duration: clockText(netMs),
    import_duration_ms: netMs,
    import_duration: clockText(netMs),
    export_duration_ms: exportMs,
    export_duration: clockText(exportMs),
    num_rows: count,
    cdc_cursor: cursor,
  })
  for (const kind of ['import', 'overall'])
    metrics.set(`molt_fetch_table_${kind}_duration_ms`, Math.round(netMs), { table: name })
}
