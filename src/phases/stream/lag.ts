import type { Link } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import { HEARTBEAT, readBeat, readMarker, writeMarker } from '../../source/heartbeat.ts'
import { lsnNumber } from '../../source/slot.ts'

const MOST_OWED = 10_000

/** A heartbeat that has not arrived: when it was written, and how often the replicator had retried by then. */
interface Underway {
  beat: number
  at: number
  retries: number
}

/**
 * Writes heartbeats on the source, and reads them on the target after they have passed through the stream. Only
 * heartbeats measure the lag, because the metrics of a stuck replicator look normal. Times are in milliseconds, by this
 * runner's monotonic clock.
 */
export class Heartbeats {
  readonly #source: Link
  readonly #target: Link
  readonly #targetSchema: string
  #beating = true
  /** The last heartbeat written and when; then the last one read on the target and how long it took to arrive. */
  #written = 0
  #writtenAt = performance.now()
  #seen = 0
  #latency: number | undefined
  /** Heartbeats written but not yet arrived, oldest first. */
  #underway: Underway[] = []
  /** Source positions, each with the last heartbeat written before it. */
  #owed: { lsn: bigint; beat: number }[] = []

  constructor(source: Link, target: Link, targetSchema: string) {
    this.#source = source
    this.#target = target
    this.#targetSchema = targetSchema
  }

  /** False while a drain stops the heartbeats. */
  get beating(): boolean {
    return this.#beating
  }

  get written(): number {
    return this.#written
  }

  get seen(): number {
    return this.#seen
  }

  get oldest(): Underway | undefined {
    return this.#underway[0]
  }

  /** Milliseconds since the source accepted a heartbeat; 0 while a drain stops the heartbeats. */
  get unwrittenMs(): number {
    return this.#beating ? this.sinceWrittenMs : 0
  }

  get sinceWrittenMs(): number {
    return performance.now() - this.#writtenAt
  }

  /**
   * Lag in milliseconds: the age of the oldest heartbeat that has not arrived, or the time that the last one took,
   * whichever is longer.
   */
  get lagMs(): number {
    const waiting = this.oldest ? performance.now() - this.oldest.at : 0
    // While the source accepts no heartbeats, the lag is unknown, so count the time since the last one.
    const unwritten = this.unwrittenMs > 4 * TIMING.heartbeat ? this.unwrittenMs : 0
    return Math.round(Math.max(this.#latency ?? Number.POSITIVE_INFINITY, waiting, unwritten))
  }

  /** Stops writing heartbeats, so that a marker remains the last write. */
  async pause(): Promise<void> {
    this.#beating = false
    // Wait for a heartbeat that is being written. The connection runs queries in order.
    await this.#source.use((db) => db.query('SELECT 1')).catch(() => {})
  }

  resume(): void {
    this.#beating = true
    this.#writtenAt = performance.now()
  }

  async write(retries: number): Promise<void> {
    if (!this.#beating) return
    const at = performance.now()
    this.#written = await this.#source.use((db) => writeMarker(db, ''))
    this.#writtenAt = performance.now()
    this.#underway.push({ beat: this.#written, at, retries })
  }

  /**
   * Reads the latest heartbeat on the target.
   * @param confirmed the slot's position, as text
   * @returns the number of heartbeats that the target lacks although the slot's position is past them. If not 0,
   * changes are lost
   * @throws VerdictError if the target has a heartbeat that was never written
   */
  async look(confirmed: string | null | undefined): Promise<number> {
    const owed = this.#owedBy(confirmed)
    const found = await this.#target.use((db) => readMarker(db, this.#targetSchema))
    const now = performance.now()
    if (!found) return 0
    if (found.beat > this.#written && this.#written) await this.#requireWritten(found.beat)
    this.#seen = found.beat
    while (this.oldest && this.oldest.beat <= found.beat) {
      this.#latency = now - this.oldest.at
      this.#underway.shift()
    }
    return Math.max(0, owed - found.beat)
  }

  /** Records that `beat` was written before the source's position `lsn`. */
  owe(lsn: string, beat: number): void {
    if (beat > (this.#owed.at(-1)?.beat ?? 0) && this.#owed.length < MOST_OWED)
      this.#owed.push({ lsn: lsnNumber(lsn), beat })
  }

  /** The last heartbeat that the target must have, according to the slot's position. */
  #owedBy(confirmed: string | null | undefined): number {
    if (!confirmed) return 0
    const position = lsnNumber(confirmed)
    let beat = 0
    for (let first = this.#owed[0]; first && first.lsn <= position; first = this.#owed[0]) {
      beat = first.beat
      this.#owed.shift()
    }
    return beat
  }

  /**
   * Checks on the source that this heartbeat was written, because the reply to our own write may not have arrived yet.
   * A heartbeat that was never written would make a stalled stream look caught up.
   */
  async #requireWritten(seen: number): Promise<void> {
    const written = await this.#source.use(readBeat)
    if (seen > written)
      throw new VerdictError(
        'heartbeat.changed',
        `the heartbeat on the target is ${seen}, but the source has only written ${written}: someone has changed the heartbeat on the target, or another stream writes to it, so the lag is unknown. Run UPDATE ${this.#targetSchema}.${HEARTBEAT} SET beat = 0 on the target, and find out what else writes to that table`,
      )
  }
}
