// Past states for AS OF SYSTEM TIME. PostgreSQL cannot read the past, but an open transaction holds a snapshot that
// other transactions can use.
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { SqlError } from './types.ts'

/** `<nanoseconds>.<ten digits of the logical clock>`, as returned by `cluster_logical_timestamp()`. */
type Moment = string

interface Snapshot {
  /** First time for which the state is valid. */
  from: Moment
  /** Last time for which it is valid. */
  to: Moment
  /** PostgreSQL's id for SET TRANSACTION SNAPSHOT. */
  id: string
  /** Table name → file. A table that was rewritten later has a new file, and would look empty in this snapshot. */
  files: Map<string, string>
  holder: pg.Client
}

/** Nanoseconds by which the clocks of two nodes can differ (`--max-offset`). */
const MAX_OFFSET = 500_000_000n
/** Number of states to keep. Each takes a connection. */
const KEPT = 12

const FILES = `SELECT relname AS name, oid || ':' || relfilenode AS file FROM pg_catalog.pg_class
  WHERE relkind = 'r' AND oid >= 16384`

const CLOCK = 'SELECT trunc(extract(epoch FROM clock_timestamp()) * 1000000)::int8 * 1000 AS time'

/** Past states of one database that AS OF SYSTEM TIME can read. */
export class Past {
  readonly #connect: () => Promise<pg.Client>
  readonly #snapshots: Snapshot[] = []
  readonly #closed = new AbortController()
  #logical = 0

  /** @param connect opens a superuser connection to the database */
  constructor(connect: () => Promise<pg.Client>) {
    this.#connect = connect
  }

  /**
   * Keeps the current state, and the state half a second later. The second one covers commits on a node whose clock is
   * ahead by up to the maximum offset.
   * @returns the state's time and its snapshot
   */
  async keep(): Promise<{ time: Moment; snapshot: string }> {
    const { to, id } = await this.#hold()
    const later = plus(to, MAX_OFFSET)
    void this.#holdLater(later).catch(() => {})
    return { time: to, snapshot: id }
  }

  /**
   * Finds the snapshot for a time.
   * @param names all names in the statement, including tables
   * @throws SqlError if no state was kept for that time
   */
  async at(time: Moment, names: ReadonlySet<string>): Promise<string> {
    const found = this.#snapshots.find(({ from, to }) => compare(from, time) <= 0 && compare(time, to) <= 0)
    if (!found) {
      const [oldest] = this.#snapshots
      if (oldest && compare(time, oldest.from) < 0)
        throw new SqlError('XXUUU', `batch timestamp ${time} must be after replica GC threshold ${oldest.from}`)
      throw new SqlError(
        '0A000',
        `this server has no state as of ${time}: it keeps one at each call of cluster_logical_timestamp()`,
      )
    }
    const now = await this.#connect()
    const { rows } = await now.query(FILES).finally(() => now.end())
    const files = new Map(rows.map(({ name, file }) => [name, file]))
    for (const [name, file] of found.files)
      if (names.has(name) && files.get(name) !== file)
        throw new SqlError(
          '0A000',
          `this server has no past state of "${name}": the table was rewritten or dropped since`,
        )
    return found.id
  }

  async close(): Promise<void> {
    this.#closed.abort()
    await Promise.all(this.#snapshots.splice(0).map(({ holder }) => holder.end().catch(() => {})))
  }

  #forget(snapshot: Snapshot): void {
    const index = this.#snapshots.indexOf(snapshot)
    if (index >= 0) this.#snapshots.splice(index, 1)
  }

  async #holdLater(time: Moment): Promise<void> {
    await sleep(Number(MAX_OFFSET / 1_000_000n), undefined, { signal: this.#closed.signal, ref: false })
    await this.#hold(time)
  }

  /** @param from first time of this state; default: the time it is taken */
  async #hold(from?: Moment): Promise<Snapshot> {
    const holder = await this.#connect()
    await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY')
    const { rows } = await holder.query('SELECT pg_catalog.pg_export_snapshot() AS id')
    const { rows: tables } = await holder.query(FILES)
    const { rows: clock } = await holder.query(CLOCK)
    const to: Moment = `${clock[0].time}.${String(++this.#logical).padStart(10, '0')}`
    const files = new Map(tables.map(({ name, file }) => [name, file]))
    const snapshot: Snapshot = { from: from ?? to, to, id: rows[0].id, files, holder }
    if (this.#closed.signal.aborted) await holder.end()
    this.#snapshots.push(snapshot)
    // A crash of the server ends the transaction, and with it the state.
    holder.on('end', () => this.#forget(snapshot))
    for (const old of this.#snapshots.splice(0, this.#snapshots.length - KEPT)) await old.holder.end().catch(() => {})
    return snapshot
  }
}

function plus(time: Moment, nanoseconds: bigint): Moment {
  return `${BigInt(time.split('.')[0] as string) + nanoseconds}.0000000000`
}

function compare(a: Moment, b: Moment): number {
  const [[x, y], [n = '', m = '']] = [
    [a, b].map((each) => BigInt(each.split('.')[0] as string)) as [bigint, bigint],
    [a, b].map((each) => (each.split('.')[1] ?? '').padEnd(10, '0')),
  ]
  return x === y ? n.localeCompare(m) : x < y ? -1 : 1
}
