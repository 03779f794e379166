import type { ChangedKey } from '../../source/change-log.ts'
import type { Lsn } from '../../source/pgoutput.ts'

/** A key to compare again, with what was known about it when it was taken. */
export interface OpenKey {
  table: string
  /** The key's values as text, in the order of the table's columns. */
  key: string[]
  /** Position of its newest change. */
  at: Lsn
  /** The transaction that must be visible on the source first; undefined when no change is known. */
  xid: number | undefined
  /** Whether the source must have the row; undefined when no change is known. */
  present: boolean | undefined
}

interface Mark {
  at: Lsn
  xid: number | undefined
  present: boolean | undefined
  /** Compared and equal. Opened again if the stream's reader changes before it has confirmed `at`. */
  provisional: boolean
  /** Rounds in which the row differed although no newer change was known. */
  differed: number
  /** The chunk of the first pass in which the row differed, without a known change. */
  chunk: number | undefined
}

/** Rounds in which a row must differ, without a newer change, before it counts as lost. */
const LOSS_AFTER = 2
/** For each so many characters, a key counts once more against the budget. */
const LONG = 100

/**
 * Keys that changed on the source, or differed in the first pass, and are not proved equal. Only the newest change of a
 * key is kept, so that a constantly written row does not hold back the change log. Memory is limited: past `budget`
 * keys, the table with most of them is given up, and must be compared again. A long key counts several times.
 *
 * A restarted replicator applies old values again from its last confirmed position, over newer ones. A key that was
 * found equal is therefore kept until the stream has confirmed its change, and {@link reopen} opens it again.
 */
export class DirtyKeys {
  readonly #tables = new Map<string, Map<string, Mark>>()
  readonly #budget: number
  readonly #giveUp: (table: string) => void
  #size = 0
  /** What the keys in memory count against the budget. */
  #weight = 0
  #open = 0

  /** @param giveUp called for each table whose keys were dropped to save memory; marks after that call are kept */
  constructor(budget: number, giveUp: (table: string) => void) {
    this.#budget = budget
    this.#giveUp = giveUp
  }

  /** Keys that must be compared again. */
  get open(): number {
    return this.#open
  }

  /** Keys in memory, including equal ones that a restart may open again. */
  get size(): number {
    return this.#size
  }

  /** Up to `limit` open keys, those that wait longest first. */
  take(limit = Number.POSITIVE_INFINITY): OpenKey[] {
    const taken: OpenKey[] = []
    for (const [table, marks] of this.#tables)
      for (const [id, mark] of marks) {
        if (taken.length >= limit) return taken
        if (mark.provisional) continue
        const { at, xid, present } = mark
        taken.push({ table, key: id.split('\0'), at, xid, present })
      }
    return taken
  }

  /** Chunks of a table's first pass with a differing row that is not proved yet. */
  suspectChunks(table: string): Set<number> {
    const chunks = new Set<number>()
    for (const { chunk } of this.#marks(table).values()) if (chunk !== undefined) chunks.add(chunk)
    return chunks
  }

  /**
   * The position up to which the change log may be confirmed: the oldest change that must be read again after a crash.
   * @param read the position up to which the log has been read
   */
  confirmable(read: Lsn): Lsn {
    let oldest = read
    for (const marks of this.#tables.values()) for (const { at } of marks.values()) if (at < oldest) oldest = at
    return oldest
  }

  /** The oldest change that must be compared again; undefined when there is none. */
  get oldestOpen(): Lsn | undefined {
    let oldest: Lsn | undefined
    for (const marks of this.#tables.values())
      for (const { at, provisional } of marks.values())
        if (!provisional && (oldest === undefined || at < oldest)) oldest = at
    return oldest
  }

  /** Tables with a row that has changed at this position or later. */
  changedSince(lsn: Lsn): string[] {
    return [...this.#tables].flatMap(([table, marks]) =>
      [...marks.values()].some(({ at, xid }) => xid !== undefined && at >= lsn) ? [table] : [],
    )
  }

  /** Records a change. Changes must come in commit order. */
  mark({ table, key, at, xid, present }: ChangedKey): void {
    this.#put(table, idOf(key), { at, xid, present, provisional: false, differed: 0, chunk: undefined })
  }

  /**
   * Opens a key that differed in the first pass. Keeps what the change log says about it.
   * @param at a position of the source after both sides were read
   */
  suspect(table: string, key: readonly string[], at: Lsn, chunk: number): void {
    const id = idOf(key)
    const mark = this.#marks(table).get(id)
    if (!mark) this.#put(table, id, { at, xid: undefined, present: undefined, provisional: false, differed: 0, chunk })
    else if (mark.provisional) {
      mark.provisional = false
      this.#open++
    }
  }

  /**
   * Records a key that was read on both sides and found equal, unless it has changed since it was taken.
   * @param compared as {@link take} returned it. Its row on the target must have been read after a marker that was
   * written after its change, and under the same reader of the stream: a restart could still apply older values over it
   */
  equal(compared: OpenKey): void {
    const mark = this.#current(compared)
    if (!mark || mark.provisional) return
    mark.provisional = true
    mark.differed = 0
    this.#open--
  }

  /**
   * Records a key that differed.
   * @returns whether its row is lost: it differed before, and the source has not changed it since
   */
  differs(compared: OpenKey): boolean {
    const mark = this.#current(compared)
    if (!mark || mark.provisional) return false
    this.later(compared)
    return ++mark.differed >= LOSS_AFTER
  }

  /** Moves a key that could not be judged behind all others. */
  later({ table, key }: OpenKey): void {
    const marks = this.#marks(table)
    const id = idOf(key)
    const mark = marks.get(id)
    if (!mark) return
    marks.delete(id)
    marks.set(id, mark)
  }

  /** Forgets equal keys whose change the stream has confirmed: no restart applies older values over them. */
  confirmed(lsn: Lsn): void {
    for (const marks of this.#tables.values())
      for (const [id, { provisional, at }] of marks)
        if (provisional && at < lsn) {
          marks.delete(id)
          this.#size--
          this.#weight -= weightOf(id)
        }
  }

  /** Opens every key again, because the stream has a new reader, which may apply old values again. */
  reopen(): void {
    for (const marks of this.#tables.values())
      for (const mark of marks.values()) {
        mark.provisional = false
        mark.differed = 0
      }
    this.#open = this.#size
  }

  /** Forgets every key of a table, which is then compared again or as a whole. */
  drop(table: string): void {
    for (const [id, { provisional }] of this.#marks(table)) {
      if (!provisional) this.#open--
      this.#size--
      this.#weight -= weightOf(id)
    }
    this.#tables.delete(table)
  }

  #put(table: string, id: string, mark: Mark): void {
    const marks = this.#marks(table)
    const before = marks.get(id)
    // The newest goes last, so that the keys that wait longest are taken first.
    if (before) marks.delete(id)
    else {
      this.#size++
      this.#weight += weightOf(id)
    }
    if (!before || before.provisional) this.#open++
    marks.set(id, mark)
    this.#tables.set(table, marks)
    if (this.#weight > this.#budget) this.#forget()
  }

  #forget(): void {
    const [table] = [...this.#tables].reduce((most, each) => (each[1].size > most[1].size ? each : most))
    this.drop(table)
    this.#giveUp(table)
  }

  #marks(table: string): Map<string, Mark> {
    return this.#tables.get(table) ?? new Map()
  }

  #current({ table, key, at }: OpenKey): Mark | undefined {
    const mark = this.#marks(table).get(idOf(key))
    return mark?.at === at ? mark : undefined
  }
}

function weightOf(id: string): number {
  return 1 + Math.floor(id.length / LONG)
}

/** PostgreSQL's text cannot contain a NUL. */
function idOf(key: readonly string[]): string {
  return key.join('\0')
}
