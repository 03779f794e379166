import { setTimeout as sleep } from 'node:timers/promises'
import { info, warning } from '@actions/core'
import { isConnectionLost, withDatabase } from '../../runtime/database.ts'
import { CancelledError, messageOf, UserError, VerdictError } from '../../runtime/errors.ts'
import { number, plural, progress, seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { logSlotOf, readSlot, seizeAndDrop } from '../../source/slot.ts'
import { estimateSize } from '../../sql/names.ts'
import { scrubText } from '../../tools/scrub.ts'
import type { Coverage } from './report.ts'
import { type ProofOptions, ProofSession } from './session.ts'

/** Maximum number of sessions that may fail in a row. */
const MOST_VAIN = 30
/** Maximum work that may remain when writes are paused: bytes of WAL to read from the change log, and open keys. */
const NEAR = { bytes: 4 << 20, keys: 20_000 }

/** Assumed speeds until measured, per millisecond: keys compared, and bytes of WAL decoded. */
const KEYS_A_MS = 20
const DECODED_A_MS = 40_000

/**
 * Proves that source and target are equal, and maintains the proof while changes stream: compares every row once, and
 * compares each row again after it changes. Without the proof, the write pause is only longer, so a failure is logged
 * but does not stop the stream. If rows are lost, {@link check} throws.
 */
export class RollingProof {
  readonly #options: ProofOptions
  readonly #closing = new AbortController()
  readonly #done: Promise<void>
  readonly #ticker: { stop(): void }
  #session: ProofSession | undefined
  #halted = false
  #lost: VerdictError | undefined
  #reason: string | undefined
  #expected = 0

  /**
   * @param progressEvery milliseconds between progress lines
   * @param refused why nothing can be proved; undefined if the proof can start
   */
  constructor(options: ProofOptions, progressEvery: number, refused?: string) {
    this.#options = { ...options, signal: AbortSignal.any([options.signal, this.#closing.signal]) }
    this.#done = refused === undefined ? this.#keep() : this.#giveUp(new UserError('verify.inconclusive', refused))
    this.#ticker = progress(progressEvery, () => this.line)
  }

  /** Why nothing is proved while changes stream; undefined as long as the proof is maintained. */
  get reason(): string | undefined {
    return this.#reason
  }

  /** @throws VerdictError if rows are lost */
  check(): void {
    if (this.#lost) throw this.#lost
  }

  /** Whether every provable table is proved, except for rows that have just changed. */
  get proved(): boolean {
    const { provedAt, proofs } = this.#session ?? {}
    if (provedAt === undefined || !proofs?.complete) return false
    const oldest = proofs.dirty.oldestOpen
    return oldest === undefined || oldest > provedAt
  }

  /** Time to compare every row once, in milliseconds, as measured by this run; undefined without a measurement. */
  get fullMs(): number | undefined {
    const { compared, proofs } = this.#session ?? {}
    if (!compared?.rows || !proofs) return undefined
    const rows = [...proofs.proved.values()].reduce((sum, each) => sum + each.rows, 0)
    return (rows / compared.rows) * compared.ms
  }

  /**
   * Estimated time that the proof needs in the write pause, in milliseconds: to read the rest of the change log, and to
   * compare every key that is open or may be reopened, at the speed measured so far.
   */
  get restMs(): number {
    const { behind = 0, proofs, rechecked } = this.#session ?? {}
    const keysAMs = rechecked?.ms ? rechecked.keys / rechecked.ms : KEYS_A_MS
    return behind / DECODED_A_MS + (proofs?.dirty.size ?? 0) / keysAMs
  }

  get coverage(): Coverage {
    const { proved = new Map(), others = new Map() } = this.#session?.proofs ?? {}
    return { proved, others, compared: this.open }
  }

  get open(): number {
    return this.#session?.proofs.dirty.open ?? 0
  }

  /**
   * Waits until everything provable is proved.
   * @returns false if nothing can be proved, for the {@link reason}
   */
  async untilProved(signal: AbortSignal, healthy: () => void): Promise<boolean> {
    for (;;) {
      if (signal.aborted) throw new CancelledError()
      healthy()
      this.check()
      if (this.#reason) return false
      if (this.proved) return true
      await sleep(TIMING.proofLook)
    }
  }

  /**
   * Waits until so little remains to be proved that the write pause will be short.
   * @returns false if nothing can be proved, or the wait takes too long
   */
  async untilNear(signal: AbortSignal): Promise<boolean> {
    for (const end = performance.now() + TIMING.proofNear; performance.now() < end; await sleep(TIMING.proofLook)) {
      if (signal.aborted) throw new CancelledError()
      this.check()
      if (this.#reason) return false
      if (this.proved && (this.#session?.behind ?? 0) < NEAR.bytes && this.open < NEAR.keys) return true
    }
    return false
  }

  /**
   * Stops comparing rows and sending markers, before writes are paused. The session continues to read the change log.
   * @returns undefined if nothing is proved any longer
   * @throws VerdictError if rows are lost
   */
  async halt(): Promise<ProofSession | undefined> {
    this.#halted = true
    const session = this.#session
    await session?.halt()
    // Wait, because only then is it known how the session ended.
    if (session) await this.#done
    else this.#reason ??= 'its connection was lost'
    this.check()
    return this.#reason === undefined ? this.#session : undefined
  }

  /** Saves the proof's progress and ends the proof. */
  async close(): Promise<void> {
    this.#ticker.stop()
    const session = this.#session
    await session?.halt()
    if (!this.#reason && !this.#lost)
      await session?.save().catch((error) => info(`the proof could not be saved: ${messageOf(error)}`))
    this.#closing.abort()
    await this.#done
    // The last one, which may have been opened in the meantime.
    await this.#session?.close()
    await this.#dropStray()
  }

  async #keep(): Promise<void> {
    for (let vain = 0; !this.#halted && !this.#options.signal.aborted; vain++) {
      let session: ProofSession | undefined
      try {
        await this.#count()
        session = await ProofSession.open(this.#options)
        this.#session = session
        const began = performance.now()
        await session.run().finally(() => {
          if (performance.now() - began > 10 * TIMING.proofAgain) vain = 0
        })
        return
      } catch (error) {
        if (this.#options.signal.aborted) return
        await session?.close()
        this.#session = undefined
        if (error instanceof VerdictError && error.code === 'verify.differences') {
          this.#lost = error
          return
        }
        if (!isTemporary(error) || vain >= MOST_VAIN || this.#halted) return this.#giveUp(error)
        info(`the rolling proof was interrupted and will resume from its saved state: ${scrubText(messageOf(error))}`)
        await sleep(TIMING.proofAgain, undefined, { signal: this.#options.signal }).catch(() => {})
      }
    }
  }

  async #giveUp(error: unknown): Promise<void> {
    this.#reason = scrubText(messageOf(error))
    warning(`rows cannot be proved while changes stream: ${this.#reason}. They will be compared in the write pause`)
    await this.#drop()
  }

  async #count(): Promise<void> {
    if (this.#expected) return
    const { sourceUrl, plan, signal } = this.#options
    const size = withDatabase(sourceUrl, 'source', (db) => estimateSize(db, plan.sourceSchema, plan.tables), signal)
    this.#expected = (await size).rows
  }

  /** `verifying: 3 of 11 tables, 120,000 of about 300,000 rows, 24,000 rows/s, about 8 s left, 212 keys open` */
  get line(): string {
    const session = this.#session
    if (!session) return `rolling proof: ${this.#reason ?? 'starting'}`
    const { proofs, compared } = session
    const { passes, proved, tables } = proofs
    const keys = `${plural(proofs.dirty.open, 'key')} open`
    if (proofs.complete) return `every row proved, ${keys}`
    const rows = [...proved.values(), ...passes.values()].reduce((sum, each) => sum + each.rows, 0)
    const rate = compared.ms ? compared.rows / (compared.ms / 1000) : 0
    const left = rate && this.#expected > rows ? `, about ${seconds(((this.#expected - rows) / rate) * 1000)} left` : ''
    return `verifying: ${proved.size} of ${plural(tables.size, 'table')}, ${number(rows)} of about ${number(this.#expected)} rows${rate ? `, ${number(rate)} rows/s` : ''}${left}, ${keys}`
  }

  /** Drops the change log's slot if the stream's slot is gone, because it would only fill the disk. */
  async #dropStray(): Promise<void> {
    const { sourceUrl, plan } = this.#options
    await withDatabase(sourceUrl, 'source', async (source) => {
      if (!(await readSlot(source, plan.slot))) await seizeAndDrop(source, logSlotOf(plan.slot))
    }).catch((error) => info(`the slot of the change log could not be read: ${messageOf(error)}`))
  }

  async #drop(): Promise<void> {
    const { sourceUrl, plan } = this.#options
    await withDatabase(sourceUrl, 'source', (source) => seizeAndDrop(source, logSlotOf(plan.slot))).catch((error) =>
      warning(`the slot ${logSlotOf(plan.slot)} may still exist: ${messageOf(error)}`),
    )
  }
}

/** Whether to retry: yes after a lost connection or a moved slot, no after any other server error. */
function isTemporary(error: unknown): boolean {
  if (isConnectionLost(error)) return true
  return !(error instanceof UserError) && !(error as { severity?: string }).severity
}
