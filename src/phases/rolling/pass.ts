import { setTimeout as sleep } from 'node:timers/promises'
import type { Progress } from '../../ledger/proof.ts'
import { writtenOtherwise } from '../verify/row-digests.ts'
import type { DirtyKeys } from './dirty-keys.ts'
import { nextBound, oddOf, type Piece, type Row, readPiece, readSums, type Sums, sameRow } from './rows.ts'
import { type Endpoints, openSessions, type Sessions } from './sessions.ts'
import type { ProvableTable } from './tables.ts'
import { sourceLsn } from './vantage.ts'

/** Default number of rows per chunk, and the maximum number of rows to fetch at once from differing parts. */
const CHUNK = 10_000
const FETCHED = 100_000
/**
 * If the two servers sort a table's keys differently, the table is split by the first hexadecimal digits of each key's
 * hash. These are the maximum number of digits, and the approximate number of rows in a part.
 */
const MOST_DIGITS = 4
const ROWS_A_PART = 500

/** One pass over a table, which compares each chunk once, in key order. */
export class TablePass {
  readonly table: ProvableTable
  /** ISO 8601 time at which the pass began. */
  readonly began: string
  #after: string[] | undefined
  #rows: number
  #last: number | undefined
  #next = 0
  #front = 0
  readonly #bounds = new Map<number, string[] | undefined>()
  readonly #compared = new Map<number, { upTo: string[] | undefined; rows: number }>()
  #bounding: Promise<unknown> = Promise.resolve()
  #from: string[] | undefined

  constructor(table: ProvableTable, progress?: Progress) {
    this.table = table
    this.began = progress?.began ?? new Date().toISOString()
    this.#after = progress?.after
    this.#from = progress?.after
    this.#rows = progress?.rows ?? 0
  }

  /** Whether every chunk has been taken. Some may not have been compared yet. */
  get exhausted(): boolean {
    return this.#last !== undefined
  }

  /** Takes the next chunk. Returns undefined if none is left. */
  take(sessions: Sessions, size = CHUNK): Promise<{ chunk: number; piece: Piece } | undefined> {
    const taken = this.#bounding.then(() => this.#take(sessions, size))
    this.#bounding = taken.catch(() => {})
    return taken
  }

  async #take({ source }: Sessions, size: number): Promise<{ chunk: number; piece: Piece } | undefined> {
    if (this.exhausted) return undefined
    const { table } = this
    const chunk = this.#next++
    if (!table.ordered) {
      this.#last = chunk
      return { chunk, piece: { digits: 0 } }
    }
    const after = this.#from
    const upTo = await nextBound(source, table, after, size)
    this.#from = upTo
    if (!upTo) this.#last = chunk
    this.#bounds.set(chunk, upTo)
    return { chunk, piece: { range: { after, upTo } } }
  }

  compared(chunk: number, rows: number): void {
    this.#compared.set(chunk, { upTo: this.#bounds.get(chunk), rows })
    this.#bounds.delete(chunk)
  }

  /**
   * Advances past the compared chunks, up to the first one with a row in doubt.
   * @param doubtful chunks with a row in doubt
   * @returns whether every row has been compared and none is in doubt
   */
  advance(doubtful: ReadonlySet<number>): boolean {
    for (let done = this.#compared.get(this.#front); done && !doubtful.has(this.#front); ) {
      this.#rows += done.rows
      this.#after = done.upTo
      this.#compared.delete(this.#front++)
      done = this.#compared.get(this.#front)
    }
    return this.#last !== undefined && this.#front > this.#last
  }

  /** Number of rows compared so far, including those in doubt. */
  get rows(): number {
    let rows = this.#rows
    for (const each of this.#compared.values()) rows += each.rows
    return rows
  }

  get progress(): Progress {
    return { began: this.began, rows: this.#rows, ...(this.#after && { after: this.#after }) }
  }
}

export interface PassOptions extends Endpoints {
  /** Number of chunks to compare in parallel. */
  concurrency: number
  /** Number of rows per chunk. Default: 10,000. */
  chunk?: number
  /** Maximum rows per second. Default: unlimited. */
  rate?: number
  dirty: DirtyKeys
  /** Returns the next pass with chunks to take; undefined if there is none at the moment. */
  next(): TablePass | undefined
  /** Waits while the stream needs priority. */
  yield(): Promise<void>
  /** Called for a table with rows that can be proved neither equal nor different. */
  onUnknown(table: ProvableTable, reason: string): void
  /** Whether this pass is still the table's current one, so that its findings count. */
  isCurrent(pass: TablePass): boolean
  /** Called with the number of rows after each chunk. */
  onCompared(rows: number): void
}

/** Compares one chunk after another until {@link PassOptions.next} returns none. */
export async function comparePieces(given: PassOptions): Promise<void> {
  const failed = new AbortController()
  const options = { ...given, signal: AbortSignal.any([given.signal, failed.signal]) }
  /** When `rate` allows the next chunk. Time spent waiting for the stream is not caught up. */
  let free = performance.now()
  const work = async () => {
    let sessions: Sessions | undefined
    try {
      for (let pass = options.next(); pass; pass = options.next()) {
        options.signal.throwIfAborted()
        await options.yield()
        sessions ??= await openSessions(options)
        const taken = await pass.take(sessions, options.chunk)
        if (!taken) continue
        const began = performance.now()
        const rows = await compareChunk(sessions, pass, taken, options)
        pass.compared(taken.chunk, rows)
        options.onCompared(rows)
        if (!options.rate) continue
        free = Math.max(free, began) + (rows / options.rate) * 1000
        await sleep(Math.max(0, free - performance.now()), undefined, { signal: options.signal })
      }
    } finally {
      await sessions?.close()
    }
  }
  try {
    await Promise.all(Array.from({ length: options.concurrency }, work))
  } finally {
    failed.abort(new Error('the comparison of another chunk failed'))
  }
}

/**
 * Compares a chunk, and records the keys that differ.
 * @returns the number of rows in the chunk on the source
 */
async function compareChunk(
  sessions: Sessions,
  pass: TablePass,
  { chunk, piece }: { chunk: number; piece: Piece },
  options: PassOptions,
): Promise<number> {
  const { table } = pass
  const both = <T>(read: (side: Sessions['source']) => Promise<T>) =>
    Promise.all([read(sessions.source), read(sessions.target)])
  const [here, there] = await both((side) => readSums(side, table, piece))
  const rows = here.reduce((sum, each) => sum + each.rows, 0)
  if (!differing(here, there).length) return rows
  const parts = 'range' in piece ? [piece] : await smaller(both, table, rows)
  for (const part of parts) {
    const [a, b] = await both((side) => readPiece(side, table, part))
    const keys = differingKeys(table, a, b, options)
    if (!keys.length) continue
    const at = await sourceLsn(sessions.source.db)
    if (!options.isCurrent(pass)) return rows
    for (const key of keys) options.dirty.suspect(table.name, key, at, chunk)
  }
  return rows
}

/** Splits a table into small parts, and groups the parts that differ into pieces that are fetched at once. */
async function smaller(
  both: (read: (side: Sessions['source']) => Promise<Sums[]>) => Promise<[Sums[], Sums[]]>,
  table: ProvableTable,
  rows: number,
): Promise<Piece[]> {
  const digits = Math.min(MOST_DIGITS, Math.max(1, Math.ceil(Math.log(rows / ROWS_A_PART) / Math.log(16))))
  const [here, there] = await both((side) => readSums(side, table, { digits }))
  const batches: { rows: number; buckets: string[] }[] = []
  for (const each of differing(here, there)) {
    const batch = batches.at(-1)
    if (batch && batch.rows + each.rows <= FETCHED) {
      batch.buckets.push(each.bucket)
      batch.rows += each.rows
    } else batches.push({ rows: each.rows, buckets: [each.bucket] })
  }
  return batches.map(({ buckets }) => ({ digits, buckets }))
}

function differing(here: readonly Sums[], there: readonly Sums[]): { bucket: string; rows: number }[] {
  const a = new Map(here.map((each) => [each.bucket, each]))
  const b = new Map(there.map((each) => [each.bucket, each]))
  return [...new Set([...a.keys(), ...b.keys()])].flatMap((bucket) => {
    const [x, y] = [a.get(bucket), b.get(bucket)]
    const same = x?.rows === y?.rows && x?.sums.every((sum, i) => sum === y?.sums[i])
    return same ? [] : [{ bucket, rows: Math.max(x?.rows ?? 0, y?.rows ?? 0) }]
  })
}

function differingKeys(
  table: ProvableTable,
  here: ReadonlyMap<string, Row>,
  there: ReadonlyMap<string, Row>,
  options: PassOptions,
): string[][] {
  const keys: string[][] = []
  for (const [id, row] of here) {
    const same = sameRow(table, row, there.get(id))
    if (same === undefined) options.onUnknown(table, oddOf(table).map(writtenOtherwise).join('; '))
    else if (!same) keys.push(row.key)
  }
  for (const [id, row] of there) if (!here.has(id)) keys.push(row.key)
  return keys
}
