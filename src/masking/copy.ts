import { pipeline } from 'node:stream/promises'
import type { DatabaseError } from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import { type Database, ident, qualified, sqlState } from '../runtime/database.ts'
import { CancelledError, UserError } from '../runtime/errors.ts'
import { codeOf, refusal } from '../runtime/refusals.ts'
import { openSession, setParameters, suppressLogging } from './session.ts'

/** Copies one table: the SELECT on the source, and the columns to fill on the target. */
export interface CopyJob {
  schema: string
  table: string
  select: string
  columns: readonly string[]
  /** Size on the source in bytes. The largest table is copied first. */
  size: number
}

export interface CopyEnds {
  from: string
  to: string
  /** Returned by `pg_export_snapshot`, whose transaction must stay open during the copy. */
  snapshot: string
  /** Session parameters with the keys. */
  parameters: ReadonlyMap<string, string>
  atOnce: number
  signal: AbortSignal
}

/** Opens the transaction whose snapshot all readers share, and returns the snapshot's id. */
export async function exportSnapshot(db: Database): Promise<string> {
  await db.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
  const { rows } = await db.query('SELECT pg_catalog.pg_export_snapshot() AS id')
  return rows[0].id
}

/**
 * Copies tables in parallel, each with one COPY per side and the bytes piped between them.
 * @param onRows called after each table with its number of rows
 * @returns number of rows by table
 * @throws UserError with table and SQLSTATE, but without the database's message, which can quote a value
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
      await Promise.allSettled([source.end(), target.end()])
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

/** Opens a reader in the shared snapshot, with the keys set, and a writer. Neither logs bound values. */
export async function openPair({
  from,
  to,
  snapshot,
  parameters,
}: Omit<CopyEnds, 'atOnce'>): Promise<[Database, Database]> {
  const source = await openSession(from, 'source')
  try {
    // Before BEGIN: a role that cannot turn logging off gets an error, which would abort the transaction.
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

/**
 * Builds the error for a refused statement. The SQLSTATE determines cause and fix, and the database's message is left
 * out.
 * @param code used for refused rows and for mistakes in the rules' SQL
 */
export function refused(error: unknown, code: 'mask.failed' | 'mask.copy-failed', what: string): UserError {
  const state = sqlState(error)
  const known = state && codeOf(state)
  const words = `${what} failed: ${discreet(error)}`
  return known && known !== 'database.row-refused' ? refusal(known, state, error, words) : new UserError(code, words)
}

/**
 * Describes a database error by its SQLSTATE and its objects, without the message, which can quote a value. Shows the
 * message only for an error in the statement itself, such as a missing column.
 */
export function discreet(error: unknown): string {
  const state = sqlState(error)
  if (!state) return error instanceof Error ? error.message : String(error)
  const { constraint, column, dataType, position, message } = error as Partial<DatabaseError>
  // `position` refers to our statement. Errors inside a function, whose text can contain values, have only
  // `internalPosition`.
  if (state.startsWith('42') && position) return `SQLSTATE ${state}: ${message}`
  const where = [constraint && `constraint ${constraint}`, column && `column ${column}`, dataType && `type ${dataType}`]
  const named = where.filter(Boolean).join(', ')
  return `SQLSTATE ${state}${named ? ` (${named})` : ''}; the message can quote a value, so it is only in the server's log`
}
