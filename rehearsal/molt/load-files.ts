// The load through intermediate files, as in the real tool's fetch/export_table.go, import_table.go and copy.go: writes
// all rows of a table, then imports the files in batches, and halves a failing batch.
import { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createGunzip } from 'node:zlib'
import pg from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { type CommonTable, ident0, safeName, sqlName } from './catalog.ts'
import type { Flags } from './flags.ts'
import { form, type Metrics, type MoltLog } from './molt-log.ts'
import { errorText, ident, literal, rows, sqlState } from './pg.ts'
import type { Part, Store } from './store.ts'

/** Context shared by all parts of one load. */
export interface FileLoad {
  flags: Flags
  log: MoltLog
  metrics: Metrics
  store: Store
  fetchId: string
  /** Whether to load files by IMPORT INTO; otherwise by COPY. */
  importing: boolean
}

/** An earlier failure to load a table, from `_molt_fetch_exceptions`. Its id is the continuation token. */
export interface ExceptionRow {
  id: string
  file: string
}

/** Writes a table's rows to files, from the snapshot of `source`. */
export async function exportTable(load: FileLoad, source: pg.Client, table: CommonTable): Promise<Part[]> {
  const { flags, metrics, store } = load
  const name = safeName(table)
  const extension = load.importing && compresses(load) ? 'tar.gz' : 'csv'
  const [flushSize, flushRows] = [flags.int('flush-size') || store.flushSize, flags.int('flush-rows')]
  const parts: Part[] = []
  let chunks: Buffer[] = []
  let [size, count] = [0, 0]
  let failure: unknown
  const flush = async () => {
    if (!count) return
    const file = `shard_01_part_${String(parts.length + 1).padStart(8, '0')}.${extension}`
    const stored = store.put(name, file, Buffer.concat(chunks), count, extension === 'tar.gz')
    // The pipeline below reports this failure.
    stored.catch((error) => {
      failure ??= error
    })
    parts.push(await stored)
    chunks = []
    size = count = 0
  }
  const split = new RecordSplitter()
  await pipeline(source.query(copyTo(exportQuery(table))), split, async (records: AsyncIterable<Buffer>) => {
    for await (const record of records) {
      chunks.push(record)
      size += record.length
      count++
      metrics.add('molt_fetch_rows_exported', 1, { table: name })
      if (size > flushSize || (flushRows > 0 && count >= flushRows)) await flush()
    }
    await flush()
  }).catch((error) => {
    throw failure ?? error
  })
  return parts
}

const TEXT_TYPES = new Set(['text', 'varchar', 'bpchar', 'name', 'char'])

/** Older builds write an empty string as NULL, as observed. */
function exportQuery(table: CommonTable): string {
  const columns = table.columns.map((column) =>
    form() === 'run' && TEXT_TYPES.has(table.types.source.get(column) ?? '')
      ? `nullif(${ident(column)}, '')`
      : ident(column),
  )
  const order = table.primaryKey.map(ident).join(', ')
  return `COPY (SELECT ${columns.join(', ')} FROM ${sqlName(table)}${order ? ` ORDER BY ${order}` : ''}) TO STDOUT (FORMAT csv)`
}

/** Splits CSV into one chunk per record. A line break in quotes does not end a record. */
class RecordSplitter extends Transform {
  #rest: Buffer[] = []
  #quoted = false

  constructor() {
    super({ readableObjectMode: true })
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    let from = 0
    for (let at = 0; at < chunk.length; at++) {
      if (chunk[at] === 0x22) this.#quoted = !this.#quoted
      else if (chunk[at] === 0x0a && !this.#quoted) {
        this.push(Buffer.concat([...this.#rest, chunk.subarray(from, at + 1)]))
        this.#rest = []
        from = at + 1
      }
    }
    if (from < chunk.length) this.#rest.push(chunk.subarray(from))
    done()
  }
}

/** Whether files are gzipped: by default yes, except for COPY, which cannot read them. */
function compresses({ flags }: FileLoad): boolean {
  return flags.str('compression').toLowerCase() !== 'none'
}

/** The files from which to resume a table's load; undefined if there is nothing to resume. */
export async function partsToContinue(load: FileLoad, table: CommonTable, failed: ExceptionRow): Promise<Part[]> {
  const name = safeName(table)
  if (!failed.file) throw new Error(`table ${name} not imported because no file name is present in the exception log`)
  load.log.line('warn', `skipping export for table ${name} due to running in import-copy only mode`)
  const parts = await load.store.listFrom(name, failed.file)
  if (parts.length) return parts
  throw new Error(
    `exported resources for table ${name} is empty, please make sure you did not accidentally delete from the intermediate store`,
  )
}

/** Loads a table's files. Records a failing file in `_molt_fetch_exceptions`. */
export async function importParts(
  load: FileLoad,
  target: pg.Client,
  table: CommonTable,
  parts: Part[],
  failed?: ExceptionRow,
): Promise<void> {
  const size = load.importing ? batchSize(load.flags) : 1
  for (let at = 0; at < parts.length; at += size) {
    const batch = parts.slice(at, at + size)
    const failure = load.importing
      ? await bisect(load, target, table, batch)
      : await copyPart(load, target, table, batch)
    if (failure) {
      await noteException(load, target, table, failure, failed)
      throw new Error(`error importing data: ${errorText(failure.error)}`)
    }
    const count = batch.reduce((sum, part) => sum + part.rows, 0)
    load.metrics.add('molt_fetch_rows_imported', count, { table: safeName(table) })
    if (load.importing)
      load.log.line('info', `imported ${count} rows for batch for files ${at + 1} to ${at + batch.length}`)
  }
}

/** Files per import. Older builds import ten at a time. */
function batchSize(flags: Flags): number {
  return form() === 'run' ? 10 : Math.max(1, flags.int('import-batch-size') || 1000)
}

interface Failure {
  part: Part
  error: unknown
}

/** Imports a batch. If it fails, halves it and tries both halves, so the good part stays imported. */
async function bisect(
  load: FileLoad,
  target: pg.Client,
  table: CommonTable,
  batch: Part[],
): Promise<Failure | undefined> {
  const stack = [batch]
  for (let current = stack.pop(); current; current = stack.pop())
    try {
      await target.query(importStatement(load, table, current))
    } catch (error) {
      const [part] = current as [Part, ...Part[]]
      if (current.length === 1) return { part, error }
      const middle = Math.floor(current.length / 2)
      stack.push(current.slice(middle), current.slice(0, middle))
    }
  return undefined
}

function importStatement(load: FileLoad, table: CommonTable, parts: Part[]): string {
  const options = [
    ...(compresses(load) ? ["decompress = 'gzip'"] : []),
    ...(load.store.skip ? [`skip = '${load.store.skip}'`] : []),
  ]
  const files = parts.map((part) => literal(part.importUrl())).join(', ')
  const columns = table.columns.map(ident0).join(', ')
  const name = `${ident0(table.schema)}.${ident0(table.table)}`
  return `IMPORT INTO ${name}(${columns}) CSV DATA (${files})${options.length ? ` WITH ${options.join(', ')}` : ''}`
}

async function copyPart(
  load: FileLoad,
  target: pg.Client,
  table: CommonTable,
  [part]: Part[],
): Promise<Failure | undefined> {
  if (!part) return undefined
  const columns = table.columns.map(ident).join(', ')
  const header = load.store.skip ? ', HEADER' : ''
  const into = target.query(copyFrom(`COPY ${sqlName(table)} (${columns}) FROM STDIN (FORMAT csv${header})`))
  try {
    const unzip = part.name.endsWith('.gz') ? [createGunzip()] : []
    await pipeline([await part.read(), ...unzip, into])
    return undefined
  } catch (error) {
    return { part, error }
  }
}

/** Records only database errors other than missing objects, because nothing else can be resumed. */
async function noteException(
  load: FileLoad,
  target: pg.Client,
  table: CommonTable,
  { part, error }: Failure,
  failed: ExceptionRow | undefined,
): Promise<void> {
  if (!(error instanceof pg.DatabaseError) || sqlState(error) === '42704') return
  const message = `${error.message}; ${error.detail ?? ''}`
  // IMPORT INTO records the file's name from `part_` on, COPY the whole name.
  const file = load.importing ? (/part_\d{8}(\.csv|\.tar\.gz)/.exec(part.name)?.[0] ?? '') : part.name
  const name = safeName(table)
  load.log.line('info', `creating or updating token for ${message}`, { table: name, file_name: file })
  if (failed) {
    await target.query(
      'UPDATE _molt_fetch_exceptions SET message = $2, sql_state = $3, file_name = $4, time = now() WHERE id = $1',
      [failed.id, message, error.code, file],
    )
    load.log.line('info', 'updated continuation token', { table: name, continuation_token: failed.id })
    return
  }
  const [made] = await rows(
    target,
    `INSERT INTO _molt_fetch_exceptions (fetch_id, table_name, schema_name, message, sql_state, file_name, stage, time)
     VALUES ($1, $2, $3, $4, $5, $6, 'data_load', now()) RETURNING id`,
    [load.fetchId, table.table, table.schema, message, error.code, file],
  )
  load.log.line('info', 'created continuation token', { table: name, continuation_token: made?.id })
}

/** Table → the failure to resume from; empty for a new load. @throws Error if there is nothing to resume */
export async function exceptionsToContinue(flags: Flags, target: pg.Client): Promise<Map<string, ExceptionRow>> {
  const [fetchId, token] = [flags.str('fetch-id'), flags.str('continuation-token')]
  if (!fetchId) return new Map()
  const found = await rows(
    target,
    `SELECT DISTINCT ON (schema_name, table_name) id, schema_name, table_name, file_name FROM _molt_fetch_exceptions
      WHERE ${token ? 'id' : 'fetch_id'} = $1 ORDER BY schema_name, table_name, time DESC`,
    [token || fetchId],
  )
  if (!found.length)
    throw new Error(
      `no exception logs that correspond to ${token ? `continuation-token of ${token}` : `fetch-id of ${fetchId}`}`,
    )
  const file = flags.str('continuation-file-name')
  return new Map(
    found.map((row) => [
      `${row.schema_name}.${row.table_name}`,
      { id: row.id as string, file: file || (row.file_name ?? '') },
    ]),
  )
}

/** Deletes the recorded failure of a table whose resumed load is complete. */
export async function forgetException(load: FileLoad, target: pg.Client, table: CommonTable, failed: ExceptionRow) {
  await target.query('DELETE FROM _molt_fetch_exceptions WHERE id = $1', [failed.id])
  load.log.line(
    'info',
    `removing exception log for continuation-token ${failed.id} because fetch was successful on table ${safeName(table)}`,
  )
}
