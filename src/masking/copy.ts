import { pipeline } from 'node:stream/promises'
import type { DatabaseError } from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { type Database, ident, qualified, sqlState } from '../runtime/database.ts'
import { CancelledError, UserError } from '../runtime/errors.ts'
import { codeOf, refusal } from '../runtime/refusals.ts'
import { TIMING } from '../runtime/timing.ts'
import { openSession, setParameters, suppressLogging } from './session.ts'

/** One table's copy: a SELECT on one side, columns on the other. */
export interface CopyJob {
  schema: string
  table: string
  select: string
  columns: readonly string[]
  /** Bytes on the source; the largest goes first. */
  size: number
}

export interface CopyEnds {
  from: string
  to: string
  /** As `pg_export_snapshot` returned it; its transaction must stay open meanwhile. */
  snapshot: string
  /** Session parameters with the keys. */
  parameters: ReadonlyMap<string, string>
  atOnce: number
  signal: AbortSignal
}

/** Opens the transaction whose snapshot every reader shares. */
export async function exportSnapshot(db: Database): Promise<string> {
  await db.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const { rows } = await db.query('SELECT pg_catalog.pg_export_snapshot() AS id')
  return rows[0].id
}

/**
 * Copies tables in parallel, each with one COPY per side and the bytes piped between them.
 * @param onRows called with the rows of each table that is done
 * @returns rows by table
 * @throws UserError with table and SQLSTATE but no value, because the database's message can quote one
 */
export async function copyTables(
  jobs: readonly CopyJob[],
  ends: CopyEnds,
  onRows: (table: string, rows: number) => void = () => {},
): Promise<Map<string, number>> {
  const queue = [...jobs].sort((a, b) => b.size - a.size)
  const done = new Map<string, number>()
  const abort = new AbortController()
  const signal = AbortSignal.any([ends.signal, abort.signal])
  const worker = async () => {
    const [source, target] = await openPair(ends)
    try {
      for (let job = queue.shift(); job; job = queue.shift()) {
        const rows = await copyOne(source, target, job, signal)
        done.set(job.table, rows)
        onRows(job.table, rows)
      }
    } finally {
      await Promise.all([hangUp(source), hangUp(target)])
    }
  }
  const workers = Array.from({ length: Math.max(1, Math.min(ends.atOnce, queue.length)) }, worker)
  try {
    await Promise.all(workers)
  } catch (error) {
    abort.abort()
    await Promise.allSettled(workers)
    if (ends.signal.aborted) throw new CancelledError()
    throw error
  }
  return done
}

/** A reader in the shared snapshot, with the keys set, and a writer; bound values are logged for neither. */
export async function openPair({
  from,
  to,
  snapshot,
  parameters,
}: Omit<CopyEnds, 'atOnce'>): Promise<[Database, Database]> {
  const source = await openSession(from, 'source')
  try {
    // First, because a role that cannot turn logging off gets an error, which would end a transaction.
    await suppressLogging(source, 'source')
    await source.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    await source.query(`SET TRANSACTION SNAPSHOT '${snapshot}'`)
    await setParameters(source, parameters)
    const target = await openSession(to, 'target')
    try {
      await suppressLogging(target, 'target')
      await target.query('SET synchronous_commit = off')
      return [source, target]
    } catch (error) {
      await target.end().catch(() => {})
      throw error
    }
  } catch (error) {
    await source.end().catch(() => {})
    throw error
  }
}

async function copyOne(source: Database, target: Database, job: CopyJob, signal: AbortSignal): Promise<number> {
  const columns = job.columns.map(ident).join(', ')
  const reader = source.query(copyTo(`COPY (${job.select}) TO STDOUT`))
  const writer = target.query(copyFrom(`COPY ${qualified(job.schema, job.table)} (${columns}) FROM STDIN`))
  try {
    await pipeline(reader, writer, { signal })
    return writer.rowCount
  } catch (error) {
    throw refused(error, 'mask.copy-failed', `copying ${job.table}`)
  }
}

/** With cause and fix by the SQLSTATE, and without the database's words; `code` where it is about rows or the rules' SQL. */
export function refused(error: unknown, code: 'mask.failed' | 'mask.copy-failed', what: string): UserError {
  const state = sqlState(error)
  const known = state && codeOf(state)
  const words = `${what} failed: ${discreet(error)}`
  return known && known !== 'database.row-refused' ? refusal(known, state, error, words) : new UserError(code, words)
}

/**
 * What can be shown of a database's error: its class and location, not its message, which can quote a value. The exception
 * is an error about the statement itself, such as a missing column.
 */
export function discreet(error: unknown): string {
  const state = sqlState(error)
  if (!state) return error instanceof Error ? error.message : String(error)
  const { constraint, column, dataType, position, message } = error as Partial<DatabaseError>
  // The position is the one in our statement. Within a function, whose text can contain values, there is another.
  if (state.startsWith('42') && position) return `SQLSTATE ${state}: ${message}`
  const where = [constraint && `constraint ${constraint}`, column && `column ${column}`, dataType && `type ${dataType}`]
  const named = where.filter(Boolean).join(', ')
  return `SQLSTATE ${state}${named ? ` (${named})` : ''}; the server's own log has the message, which can quote a value and is not shown here`
}

/** Closes a connection that may be in the middle of a COPY, for which `end` would wait. */
export async function hangUp(db: Database): Promise<void> {
  const raw = (db as unknown as { connection: { stream: { destroy(): void } } }).connection
  const timer = setTimeout(() => raw.stream.destroy(), TIMING.hangUp)
  await db.end().catch(() => {})
  clearTimeout(timer)
}
