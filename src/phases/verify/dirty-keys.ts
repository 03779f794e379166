import type { ChangedKey } from '../../source/change-log.ts'
import type { Lsn } from '../../source/pgoutput.ts'

/** A chunk of a table that holds so many open keys that it is compared again as a whole. `at` is its newest change. */
export interface DirtyChunk {
  table: string
  chunk: string
  /** The oldest change that nobody has compared since: as long as it stands, the log is not confirmed past it. */
  first: Lsn
  at: Lsn
  /** The newest transaction that changed it. */
  xid: number
}

interface Mark {
  change: ChangedKey
  /** Compared and found equal; open again if the stream's reader changes before it has confirmed `change.at`. */
  provisional: boolean
}

/**
 * Keys that changed on the source and are not proved equal, each with its newest change alone, so that a row that is
 * written all the time does not hold the log. Memory is bounded: past `budget` keys, the chunk with most of them becomes
 * dirty in their place.
 *
 * A restarted replicator applies old values again from its last confirmed position on, over newer ones. So a key that
 * was found equal stays known until the stream has confirmed its change, and {@link reopen} makes it open again.
 */
export class DirtyKeys {
  readonly #marks = new Map<string, Mark>()
  readonly #chunks = new Map<string, DirtyChunk>()
  readonly #members = new Map<string, Set<string>>()
  readonly #budget: number
  readonly #chunkOf: (change: ChangedKey) => string

  constructor(budget: number, chunkOf: (change: ChangedKey) => string) {
    this.#budget = budget
    this.#chunkOf = chunkOf
  }

  /** Keys that must be compared again. */
  get open(): ChangedKey[] {
    return [...this.#marks.values()].flatMap(({ change, provisional }) => (provisional ? [] : [change]))
  }

  get chunks(): DirtyChunk[] {
    return [...this.#chunks.values()].map((chunk) => ({ ...chunk }))
  }

  /** Keys held in memory, provisional ones too. */
  get size(): number {
    return this.#marks.size
  }

  /**
   * How far the log may be confirmed: to the begin of the oldest transaction that a crash must not forget.
   * @param read what has been read of the log
   */
  confirmable(read: Lsn): Lsn {
    let oldest = read
    for (const { change } of this.#marks.values()) if (change.at < oldest) oldest = change.at
    for (const { first } of this.#chunks.values()) if (first < oldest) oldest = first
    return oldest
  }

  /** Takes in a change, in commit order. */
  mark(change: ChangedKey): void {
    const chunk = this.#chunks.get(this.#nameOf(change))
    if (chunk) {
      chunk.at = change.at
      chunk.xid = change.xid
      return
    }
    const id = idOf(change)
    this.#marks.set(id, { change, provisional: false })
    const name = this.#nameOf(change)
    this.#members.set(name, (this.#members.get(name) ?? new Set()).add(id))
    if (this.#marks.size > this.#budget) this.#giveUpKeys()
  }

  /**
   * Notes keys that were read on both sides and found equal. One that has changed since it was taken stays open.
   * @param compared as {@link open} gave them; read on the target behind a marker that was written after their changes,
   * while the stream had the same reader, or a restart could still apply older values over them
   */
  equal(compared: readonly ChangedKey[]): void {
    for (const change of compared) {
      const mark = this.#marks.get(idOf(change))
      if (mark && mark.change.at === change.at) mark.provisional = true
    }
  }

  /**
   * Notes a chunk whose rows were compared as a whole and found equal. One that has changed since it was taken stays, and
   * so does one that a restarted replicator could still write to.
   * @param chunk as {@link chunks} gave it
   * @param confirmed what the stream had confirmed before the target was read
   */
  equalChunk(chunk: DirtyChunk, confirmed: Lsn): void {
    const name = chunkName(chunk.table, chunk.chunk)
    if (this.#chunks.get(name)?.at === chunk.at && chunk.at < confirmed) this.#chunks.delete(name)
  }

  /** Forgets what the stream has confirmed: no restart applies anything older over it. */
  confirmed(lsn: Lsn): void {
    for (const [id, { change, provisional }] of this.#marks)
      if (provisional && change.at < lsn) this.#forget(id, change)
  }

  /** The stream has another reader: what it may apply again is open. */
  reopen(): void {
    for (const mark of this.#marks.values()) mark.provisional = false
  }

  #nameOf(change: ChangedKey): string {
    return chunkName(change.table, this.#chunkOf(change))
  }

  #forget(id: string, change: ChangedKey): void {
    this.#marks.delete(id)
    const name = this.#nameOf(change)
    const members = this.#members.get(name)
    members?.delete(id)
    if (!members?.size) this.#members.delete(name)
  }

  #giveUpKeys(): void {
    const [name, members] = [...this.#members].reduce((most, each) => (each[1].size > most[1].size ? each : most))
    const changes = [...members].map((id) => (this.#marks.get(id) as Mark).change)
    const by = (a: ChangedKey, b: ChangedKey) => (a.at < b.at ? -1 : 1)
    const [first, last] = [changes.toSorted(by)[0], changes.toSorted(by).at(-1)] as [ChangedKey, ChangedKey]
    this.#chunks.set(name, {
      table: last.table,
      chunk: this.#chunkOf(last),
      first: first.at,
      at: last.at,
      xid: last.xid,
    })
    for (const id of members) this.#marks.delete(id)
    this.#members.delete(name)
  }
}

/** No name and no text of PostgreSQL holds a NUL. */
function idOf({ table, key }: ChangedKey): string {
  return `${table}\0${key.join('\0')}`
}

function chunkName(table: string, chunk: string): string {
  return `${table}\0${chunk}`
}
