import type { Link } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import { HEARTBEAT, readBeat, readMarker, writeMarker } from '../../source/heartbeat.ts'
import { lsnNumber } from '../../source/slot.ts'

const MOST_OWED = 10_000

/** A heartbeat on its way: when it was written, and the replicator's retries at that time. */
interface Underway {
  beat: number
  at: number
  retries: number
}

/**
 * Heartbeats that travel through the stream from the source to the target. They are the only measure of lag, because
 * the metrics of a stuck replicator look calm. Times are milliseconds of this runner's monotonic clock.
 */
export class Heartbeats {
  readonly #source: Link
  readonly #target: Link
  readonly #targetSchema: string
  #beating = true
  /** The last heartbeat written, and when; the last one read on the target, and how long it took. */
  #written = 0
  #writtenAt = performance.now()
  #seen = 0
  #latency: number | undefined
  /** Written but not arrived, oldest first. */
  #underway: Underway[] = []
  /** Positions of the source with the last heartbeat written before each. */
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

  /** Lag in milliseconds: the age of the oldest heartbeat that has not arrived, or how long the last one took. */
  get lagMs(): number {
    const waiting = this.oldest ? performance.now() - this.oldest.at : 0
    // While the source accepts no heartbeat, the lag is unknown.
    const unwritten = this.unwrittenMs > 4 * TIMING.heartbeat ? this.unwrittenMs : 0
    return Math.round(Math.max(this.#latency ?? Number.POSITIVE_INFINITY, waiting, unwritten))
  }

  /** Stops writing heartbeats, so that a marker stays the last thing written. */
  async pause(): Promise<void> {
    this.#beating = false
    // Wait for a heartbeat that is being written: the same connection answers in order.
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
   * @returns how many heartbeats the target lacks although that position is past them; if any, changes are lost
   * @throws VerdictError when the target has a heartbeat that was never written
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

  /** Notes that `beat` was written before the source's position `lsn`. */
  owe(lsn: string, beat: number): void {
    if (beat > (this.#owed.at(-1)?.beat ?? 0) && this.#owed.length < MOST_OWED)
      this.#owed.push({ lsn: lsnNumber(lsn), beat })
  }

  /** The last heartbeat that must be on the target, by the slot's position. */
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
   * Asks the source whether it has written this heartbeat, because the answer to our own write may still be on its way.
   * One that was never written would make a stalled stream look caught up.
   */
  async #requireWritten(seen: number): Promise<void> {
    const written = await this.#source.use(readBeat)
    if (seen > written)
      throw new VerdictError(
        'heartbeat.changed',
        `the heartbeat on the target is ${seen}, but the source has only written ${written}: it was changed on the target, or another stream writes there, so the lag is unknown. Run UPDATE ${this.#targetSchema}.${HEARTBEAT} SET beat = 0 on the target, and find out what writes there`,
      )
  }
}
