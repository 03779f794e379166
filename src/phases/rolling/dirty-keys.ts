import type { ChangedKey } from '../../source/change-log.ts'
import type { Lsn } from '../../source/pgoutput.ts'

/** A key to compare again, with what the change log had said about it when the key was taken. */
export interface OpenKey {
  table: string
  /** The key's values as text, in the order of the table's columns. */
  key: string[]
  /** Position of the key's newest change. */
  at: Lsn
  /** The transaction that must be visible on the source before the comparison; undefined if no change is known. */
  xid: number | undefined
  /** Whether the source must have the row; undefined if no change is known. */
  present: boolean | undefined
}

interface Mark {
  at: Lsn
  xid: number | undefined
  present: boolean | undefined
  /**
   * Whether the row was found equal. Such a key is reopened if the stream's reader changes before it has confirmed
   * `at`.
   */
  provisional: boolean
  /** Number of rounds in which the row differed although no newer change was known. */
  differed: number
  /** Number of the chunk in which the row differed in the first pass without a known change. */
  chunk: number | undefined
}

/** Number of rounds in which a row must differ, without a newer change, before it counts as lost. */
const LOSS_AFTER = 2
/** Number of characters after which a key counts once more against the budget. */
const LONG = 100

/**
 * Keys that changed on the source, or differed in the first pass, and are not yet proved equal. Keeps only the newest
 * change of each key, so that a constantly written row does not hold back the change log. Limits memory: if there are
 * more than `budget` keys, drops those of the table with the most, and this table must then be compared again. A long
 * key counts as several.
 *
 * A restarted replicator applies all changes since its last confirmed position again, so it can overwrite newer values
 * with old ones. A key that was found equal is therefore kept until the stream has confirmed its change, and {@link
 * reopen} opens it again.
 */
export class DirtyKeys {
  readonly #tables = new Map<string, Map<string, Mark>>()
  readonly #budget: number
  readonly #giveUp: (table: string) => void
  #size = 0
  /** What the keys in memory add up to against the budget. */
  #weight = 0
  #open = 0

  /**
   * @param giveUp called for each table whose keys were dropped to save memory. Later changes to the table are recorded
   * again
   */
  constructor(budget: number, giveUp: (table: string) => void) {
    this.#budget = budget
    this.#giveUp = giveUp
  }

  /** Number of keys that must be compared again. */
  get open(): number {
    return this.#open
  }

  /** Number of keys in memory, including equal ones that a restart may reopen. */
  get size(): number {
    return this.#size
  }

  /** Returns up to `limit` open keys, longest waiting first. */
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

  /** Chunks from a table's first pass with a row that differed and has not been proved equal since. */
  suspectChunks(table: string): Set<number> {
    const chunks = new Set<number>()
    for (const { chunk } of this.#marks(table).values()) if (chunk !== undefined) chunks.add(chunk)
    return chunks
  }

  /**
   * The position up to which the change log may be confirmed: that of the oldest change that must be read again after a
   * crash.
   * @param read the position up to which the log has been read
   */
  confirmable(read: Lsn): Lsn {
    let oldest = read
    for (const marks of this.#tables.values()) for (const { at } of marks.values()) if (at < oldest) oldest = at
    return oldest
  }

  /** Position of the oldest change that must be compared again; undefined if there is none. */
  get oldestOpen(): Lsn | undefined {
    let oldest: Lsn | undefined
    for (const marks of this.#tables.values())
      for (const { at, provisional } of marks.values())
        if (!provisional && (oldest === undefined || at < oldest)) oldest = at
    return oldest
  }

  /** Tables with a row that changed at this position or later. */
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
   * @param at the source's position after both sides were read
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
   * @param compared the key as {@link take} returned it. The row must have been read on the target after a marker that
   * was written after the change had arrived. The stream must have had the same reader throughout, because a restarted
   * one can still overwrite the row with older values
   */
  equal(compared: OpenKey): void {
    const mark = this.#current(compared)
    if (!mark || mark.provisional) return
    mark.provisional = true
    mark.differed = 0
    this.#open--
  }

  /**
   * Records that a key's row differed.
   * @returns whether the row is lost: it has differed before, and the source has not changed it since
   */
  differs(compared: OpenKey): boolean {
    const mark = this.#current(compared)
    if (!mark || mark.provisional) return false
    this.later(compared)
    return ++mark.differed >= LOSS_AFTER
  }

  /** Moves a key that could not be judged to the end of its table's queue. */
  later({ table, key }: OpenKey): void {
    const marks = this.#marks(table)
    const id = idOf(key)
    const mark = marks.get(id)
    if (!mark) return
    marks.delete(id)
    marks.set(id, mark)
  }

  /**
   * Forgets equal keys whose change the stream has confirmed, because a restart no longer overwrites them with older
   * values.
   */
  confirmed(lsn: Lsn): void {
    for (const marks of this.#tables.values())
      for (const [id, { provisional, at }] of marks)
        if (provisional && at < lsn) {
          marks.delete(id)
          this.#size--
          this.#weight -= weightOf(id)
        }
  }

  /** Reopens every key, because the stream has a new reader, which may apply old values again. */
  reopen(): void {
    for (const marks of this.#tables.values())
      for (const mark of marks.values()) {
        mark.provisional = false
        mark.differed = 0
      }
    this.#open = this.#size
  }

  /** Forgets every key of a table. The caller then starts the table over or compares it in full. */
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
    // Append the key, so that the longest-waiting keys are taken first.
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

/** What a key counts against the budget. */
function weightOf(id: string): number {
  return 1 + Math.floor(id.length / LONG)
}

/** Joins the key's values with NUL, which PostgreSQL's text cannot contain. */
function idOf(key: readonly string[]): string {
  return key.join('\0')
}
