// Runs IMPORT INTO … CSV DATA as CockroachDB does, on the PostgreSQL server behind the CockroachDB-like server. Source
// of behavior and wording: CockroachDB's `pkg/sql/importer` (import_planning.go, import_job.go, import_processor.go,
// read_import_base.go, read_import_csv.go), v24.1 to v25.2, and its documentation of IMPORT INTO.
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import pg from 'pg'
import { from as copyFrom } from 'pg-copy-streams'
import { type ExternalFile, externalFile, UNCATEGORIZED } from './external-storage.ts'
import { ByteCounter, readRow, skipLines } from './import-rows.ts'
import { type ImportCommand, parseImport } from './import-statement.ts'
import { type ImportContext, type ImportEngine, type ImportResult, type Job, SqlError } from './types.ts'

export interface ImportOptions {
  /** Called before each file is read. Can delay the job. `signal` aborts when the job is cancelled. */
  beforeFile?(job: Job, index: number, signal: AbortSignal): Promise<void>
}

/** Facts about the table, read before the job takes the table offline. */
interface ImportTable {
  oid: string
  schema: string
  name: string
  /** Columns in the order of the file's fields. */
  columns: string[]
}

/** One running import. */
interface Run {
  command: ImportCommand
  table: ImportTable
  files: ExternalFile[]
  job: Job
  context: ImportContext
  options: ImportOptions
  signal: AbortSignal
}

/** Tables being imported by this process, as `database/oid`. */
type Busy = Set<string>

/** Creates a server's import engine. A job continues when its client disconnects. */
export function importEngine(options: ImportOptions = {}): ImportEngine {
  const busy: Busy = new Set()
  return async (statement, context) => {
    const command = parseImport(statement)
    const files = command.files.map(externalFile)
    await requireAccess(files, context)
    const table = await resolveTable(command, context)
    const place = `${context.session.database}/${table.oid}`
    if (busy.has(place)) throw new SqlError('55000', `relation "${table.name}" is offline: importing`)
    busy.add(place)
    const cancel = new AbortController()
    const job = context.jobs.create({
      type: 'IMPORT',
      description: describe(command, table, files, context.session.database),
      user: context.session.user,
      onCancel: () => cancel.abort(),
    })
    const ended = runJob({ command, table, files, job, context, options, signal: cancel.signal }).finally(() =>
      busy.delete(place),
    )
    ended.catch(() => {})
    if (command.options.has('detached')) return resultOf(job, 0, 0, 0)
    return Promise.race([ended, leaving(context.session.signal)])
  }
}

/** Rejects when the client disconnects or cancels its statement. */
function leaving(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const leave = () => reject(new SqlError('57014', 'query execution canceled due to user request'))
    if (signal.aborted) leave()
    else signal.addEventListener('abort', leave, { once: true })
  })
}

async function requireAccess(files: ExternalFile[], context: ImportContext): Promise<void> {
  const implicit = files.find((file) => file.implicit)
  if (implicit && !(await context.hasSystemPrivilege('EXTERNALIOIMPLICITACCESS')))
    throw new SqlError(
      '42501',
      `only users with the admin role or the EXTERNALIOIMPLICITACCESS system privilege are allowed to access the specified ${implicit.provider} URI`,
    )
}

const COLUMNS = `
  SELECT attname AS name FROM pg_attribute
   WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum`

async function resolveTable(command: ImportCommand, context: ImportContext): Promise<ImportTable> {
  const schema = command.schema ?? 'public'
  const client = await context.connect()
  try {
    const found = await client.query<{ oid: string }>(
      `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`,
      [schema, command.table],
    )
    const oid = found.rows[0]?.oid
    if (!oid) throw new SqlError('42P01', `relation "${command.table}" does not exist`)
    // DROP too, because the import takes the table offline.
    for (const privilege of ['INSERT', 'DROP'])
      if (!(await context.hasPrivilege(schema, command.table, privilege)))
        throw new SqlError(
          '42501',
          `user ${context.session.user} does not have ${privilege} privilege on relation ${command.table}`,
        )
    const there = (await client.query<{ name: string }>(COLUMNS, [oid])).rows.map(({ name }) => name)
    for (const column of command.columns)
      if (!there.includes(column))
        throw new SqlError('42703', `verifying target columns: column "${column}" does not exist`)
    return { oid, schema, name: command.table, columns: command.columns.length ? command.columns : there }
  } finally {
    await client.end()
  }
}

/** `IMPORT INTO shop.public.orders(id) CSV DATA ('s3://…?AWS_SECRET_ACCESS_KEY=redacted') WITH OPTIONS (skip = '1')` */
function describe(command: ImportCommand, table: ImportTable, files: ExternalFile[], database: string): string {
  const name = [database, table.schema, table.name].map(plainName).join('.')
  const columns = command.columns.length ? `(${command.columns.map(plainName).join(', ')})` : ''
  const options = [...command.options]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => (value === undefined ? key : `${key} = ${quote(value)}`))
  return `IMPORT INTO ${name}${columns} CSV DATA (${files.map(({ sanitized }) => quote(sanitized)).join(', ')})${options.length ? ` WITH OPTIONS (${options.join(', ')})` : ''}`
}

function plainName(name: string): string {
  return /^[a-z_][a-z0-9_]*$/.test(name) ? name : pg.escapeIdentifier(name)
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}

/** Loads all files in one transaction, so a failed or cancelled job leaves the table's rows unchanged. */
async function runJob(run: Run): Promise<ImportResult> {
  const { job, context, table } = run
  await context.takeOffline(table.schema, table.name, job)
  try {
    const client = await context.connect()
    try {
      const { rows, bytes, indexes } = await ingest(run, client)
      await context.bringOnline(table.schema, table.name)
      context.jobs.update(job, { status: 'succeeded', fractionCompleted: 1 })
      return resultOf(job, rows, rows * indexes, bytes)
    } finally {
      await client.end().catch(() => {})
    }
  } catch (error) {
    const failure = run.signal.aborted ? new SqlError('57014', 'job canceled by user') : asSqlError(error)
    context.jobs.update(job, { status: 'reverting', error: failure.message })
    await context.bringOnline(table.schema, table.name)
    context.jobs.update(job, { status: run.signal.aborted ? 'canceled' : 'failed' })
    throw failure
  }
}

async function ingest(run: Run, client: pg.Client): Promise<{ rows: number; bytes: number; indexes: number }> {
  const { job, table, options, signal } = run
  // While a job waits for its first file, it holds no lock in PostgreSQL, so the catalogs of an offline table stay
  // readable.
  signal.throwIfAborted()
  await options.beforeFile?.(job, 0, signal)
  const checks = await suspendChecks(client, table)
  const read = await copyFiles(run, client).catch(async (error) => {
    await client.query('ROLLBACK').catch(() => {})
    await restoreChecks(client, table, checks, true)
    throw error
  })
  await restoreChecks(client, table, checks, false)
  const { rows: counted } = await client.query('SELECT count(*)::int AS n FROM pg_index WHERE indrelid = $1', [
    table.oid,
  ])
  return { ...read, indexes: Math.max(0, counted[0].n - 1) }
}

/** Copies all files in one transaction. The transaction's lock does not block catalog queries. */
async function copyFiles(run: Run, client: pg.Client): Promise<{ rows: number; bytes: number }> {
  const { job, context, files, signal } = run
  let [rows, bytes] = [0, 0]
  await client.query('BEGIN')
  // Imported rows fire no triggers, and foreign keys are not checked.
  await client.query('SET LOCAL session_replication_role = replica')
  for (const [index, file] of files.entries()) {
    signal.throwIfAborted()
    if (index) await run.options.beforeFile?.(job, index, signal)
    signal.throwIfAborted()
    const read = await ingestFile(run, client, file, index)
    rows += read.rows
    bytes += read.bytes
    // The fraction reaches 1 only when the table is online again.
    context.jobs.update(job, { fractionCompleted: Math.min(0.99, (index + 1) / files.length) })
  }
  signal.throwIfAborted()
  await client.query('COMMIT')
  return { rows, bytes }
}

interface Check {
  name: string
  definition: string
  validated: boolean
}

/** Drops the table's checks, because imported rows need not satisfy them. The table is offline meanwhile. */
async function suspendChecks(client: pg.Client, table: ImportTable): Promise<Check[]> {
  const name = await currentName(client, table)
  const { rows: checks } = await client.query<Check>(
    `SELECT conname AS name, pg_get_constraintdef(oid) AS definition, convalidated AS validated FROM pg_constraint
      WHERE conrelid = $1 AND contype = 'c'`,
    [table.oid],
  )
  const drops = checks.map((check) => `DROP CONSTRAINT ${pg.escapeIdentifier(check.name)}`)
  if (drops.length) await client.query(`ALTER TABLE ${name} ${drops.join(', ')}`)
  return checks
}

/** Recreates the checks. After an import they are NOT VALID, like the foreign keys. */
async function restoreChecks(
  client: pg.Client,
  table: ImportTable,
  checks: readonly Check[],
  unchanged: boolean,
): Promise<void> {
  const name = await currentName(client, table)
  const adds = checks.map(
    (check) =>
      `ADD CONSTRAINT ${pg.escapeIdentifier(check.name)} ${check.definition.replace(/ NOT VALID$/, '')} NOT VALID`,
  )
  await client.query('BEGIN')
  if (adds.length) await client.query(`ALTER TABLE ${name} ${adds.join(', ')}`)
  await client.query('SET LOCAL allow_system_table_mods = on')
  const valid = unchanged ? checks.filter(({ validated }) => validated).map((check) => check.name) : []
  await client.query(
    unchanged
      ? `UPDATE pg_constraint SET convalidated = true WHERE conrelid = $1 AND contype = 'c' AND conname = ANY($2)`
      : `UPDATE pg_constraint SET convalidated = false WHERE conrelid = $1 AND contype = 'f' AND $2::text[] IS NOT NULL`,
    [table.oid, valid],
  )
  await client.query('COMMIT')
}

/** Looks the name up by oid, because a server may rename an offline table to hide it. */
async function currentName(client: pg.Client, table: ImportTable): Promise<string> {
  const { rows } = await client.query(
    `SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.oid = $1`,
    [table.oid],
  )
  return rows[0].name
}

async function ingestFile(
  run: Run,
  client: pg.Client,
  file: ExternalFile,
  index: number,
): Promise<{ rows: number; bytes: number }> {
  const { command, table, signal } = run
  const skip = Number(command.options.get('skip') ?? 0)
  const raw = await file.open(signal)
  const counted = new ByteCounter()
  const columns = table.columns.map(pg.escapeIdentifier).join(', ')
  const into = client.query(
    copyFrom(`COPY ${await currentName(client, table)} (${columns}) FROM STDIN (${copyOptions(command, columns)})`),
  )
  const compressed = isCompressed(command, file)
  try {
    await pipeline([raw, counted, ...(compressed ? [createGunzip()] : []), skipLines(skip), into], { signal })
  } catch (error) {
    signal.throwIfAborted()
    if (error instanceof pg.DatabaseError) throw await rowError(run, file, index, error)
    if (/^Z_|incorrect header check/.test(`${(error as NodeJS.ErrnoException).code ?? error}`))
      throw new SqlError(UNCATEGORIZED, 'gzip: invalid header')
    throw error
  }
  return { rows: into.rowCount ?? 0, bytes: counted.bytes }
}

function isCompressed(command: ImportCommand, file: ExternalFile): boolean {
  const asked = command.options.get('decompress') ?? 'auto'
  return asked === 'gzip' || (asked === 'auto' && /\.gz(\?|$)/.test(file.sanitized))
}

/** Both CockroachDB and COPY read an unquoted empty field as NULL and a quoted one as an empty string. */
function copyOptions(command: ImportCommand, columns: string): string {
  const options = ['FORMAT csv', `NULL ${quote(command.options.get('nullif') ?? '')}`]
  if (command.options.has('delimiter')) options.push(`DELIMITER ${quote(command.options.get('delimiter') ?? ',')}`)
  if (command.options.has('allow_quoted_null')) options.push(`FORCE_NULL (${columns})`)
  return options.join(', ')
}

/**
 * Builds the error for a row that the table rejects, in CockroachDB's wording. As in CockroachDB, the message contains
 * the whole row, and the file's URL with its secrets.
 */
async function rowError(run: Run, file: ExternalFile, index: number, error: pg.DatabaseError): Promise<SqlError> {
  const { command, table } = run
  if (error.code === '23505') {
    const key = /\)=\((.*)\)/s.exec(error.detail ?? '')?.[1] ?? ''
    const path = key.split(', ').map((part) => (/^-?\d+$/.test(part) ? part : JSON.stringify(part)))
    return new SqlError(
      UNCATEGORIZED,
      `ingested key collides with an existing one: /Table/${table.oid}/1/${path.join('/')}/0`,
    )
  }
  const line = Number(/, line (\d+)/.exec(error.where ?? '')?.[1] ?? 0)
  if (!line) return asSqlError(error)
  const number = line + Number(command.options.get('skip') ?? 0)
  const row = await readRow(await file.open(run.signal), isCompressed(command, file), number)
  const reason = rowReason(error, table, row)
  return new SqlError(
    error.code ?? UNCATEGORIZED,
    `${command.files[index]}: error parsing row ${number}: ${reason} (row: ${row})`,
  )
}

function rowReason(error: pg.DatabaseError, table: ImportTable, row: string): string {
  const column = /, column ([^:]+)/.exec(error.where ?? '')?.[1] ?? error.column ?? ''
  switch (error.code) {
    case '23502':
      return `null value in column "${error.column}" violates not-null constraint`
    case '22P04':
      return `expected ${table.columns.length} fields, got ${row.split(',').length}`
    case '22P02':
    case '22003':
    case '22007':
    case '22008': {
      const value = /, column [^:]+: "([\s\S]*)"$/.exec(error.where ?? '')?.[1] ?? ''
      const type = /type (\w+)/.exec(error.message)?.[1] ?? 'string'
      const short = /^(big|small)?int/.test(type) ? 'int' : type
      const parse = short === 'int' ? `: strconv.ParseInt: parsing "${value}": invalid syntax` : ''
      return `parse "${column}" as ${short === 'int' ? 'INT8' : type.toUpperCase()}: could not parse "${value}" as type ${short}${parse}`
    }
    default:
      return error.message
  }
}

function asSqlError(error: unknown): SqlError {
  if (error instanceof SqlError) return error
  const { code, message } = error as { code?: string; message: string }
  return new SqlError(/^[0-9A-Z]{5}$/.test(code ?? '') ? (code as string) : UNCATEGORIZED, message)
}

function resultOf(job: Job, rows: number, indexEntries: number, bytes: number): ImportResult {
  const { id: jobId, status, fractionCompleted } = job
  return { jobId, status, fractionCompleted, rows, indexEntries, bytes }
}
