import { warning } from '@actions/core'
import type { Plan } from '../../model/plan.ts'
import { type Database, type Link, sqlState } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { number } from '../../runtime/progress.ts'
import { dropSlot, logSlotOf, readSlotFacts, type SlotFacts, seizeAndDrop } from '../../source/slot.ts'
import type { WatchLimits } from './watch.ts'

const MIB = 2 ** 20

/** Watches the stream's slot and publication on the source, and enforces the slot's WAL budget. */
export class SlotGuard {
  readonly #link: Link
  readonly #plan: Plan
  readonly #limits: WatchLimits
  #slot: SlotFacts | undefined
  #confirmedAt = Number.NEGATIVE_INFINITY
  /** The publication's oid; null if it was dropped. */
  #publication: number | null | undefined
  #startLsn: string | null | undefined
  #since14: boolean | undefined

  constructor(link: Link, plan: Plan, limits: WatchLimits) {
    this.#link = link
    this.#plan = plan
    this.#limits = limits
  }

  /** The slot as last read. */
  get slot(): SlotFacts | undefined {
    return this.#slot
  }

  /** The slot's position when it was first read. */
  get startLsn(): string | null {
    return this.#startLsn ?? null
  }

  /** When the slot's confirmed position last moved, by this process's monotonic clock. */
  get confirmedAt(): number {
    return this.#confirmedAt
  }

  get publicationGone(): boolean {
    return this.#publication === null
  }

  /**
   * Reads the slot.
   * @throws VerdictError if the slot or the publication was dropped or recreated
   */
  async read(): Promise<SlotFacts> {
    const { slot: name, publication } = this.#plan
    const slot = await this.#link.use(async (db) => {
      this.#since14 ??= await isSince14(db)
      return readSlotFacts(db, name, publication, this.#since14)
    })
    if (!slot)
      throw new VerdictError(
        'slot.missing',
        `the slot ${name} is gone, and all changes since then are lost. Repeat the load`,
      )
    const before = this.#slot
    this.#startLsn ??= slot.confirmedFlushLsn
    if (before && before.confirmedFlushLsn !== slot.confirmedFlushLsn) this.#confirmedAt = performance.now()
    this.#slot = slot
    if (before && wasRecreated(before, slot))
      throw new VerdictError(
        'slot.recreated',
        `the slot ${name} was recreated, and the changes in between are lost. Repeat the load`,
      )
    this.#requirePublication(slot)
    return slot
  }

  #requirePublication(slot: SlotFacts): void {
    this.#publication ??= slot.publication
    if (this.#publication === slot.publication) return
    this.#publication = slot.publication
    throw new VerdictError(
      'publication.dropped',
      `the publication ${this.#plan.publication} was dropped${slot.publication === null ? '' : ' and recreated'}. An active slot cannot recover from this. Run \`abort\`, then prepare and load again`,
    )
  }

  /**
   * Limits the WAL that the slot keeps, and that of a change log without a reader, because a full disk would stop the
   * source for everyone.
   * @param stopReading stops the stream before its slot is dropped
   * @throws VerdictError if the slot keeps more than the budget. With `on-wal-budget: drop-slot`, drops the slot first
   */
  async keepToBudget({ walBytes, idleLogBytes }: SlotFacts, stopReading: () => Promise<void>): Promise<void> {
    const { walBudget, onWalBudget } = this.#limits
    if ((idleLogBytes ?? 0) > walBudget) await this.#dropIdleLog()
    if (walBytes > walBudget / 2) notify('wal-half', { walBytes: String(walBytes) })
    if (walBytes <= walBudget) return
    const kept = `the slot ${this.#plan.slot} keeps ${number(walBytes / MIB)} MiB of WAL on the source, more than \`wal-budget\` (${number(walBudget / MIB)} MiB)`
    if (onWalBudget === 'fail')
      throw new VerdictError(
        'slot.wal-budget',
        `${kept}. The slot was not dropped. Find out what is delaying the stream, raise the budget, or run \`abort\` to drop the slot before the disk is full`,
      )
    await stopReading()
    await this.#link.use((db) => seizeAndDrop(db, this.#plan.slot))
    throw new VerdictError(
      'slot.wal-budget',
      `${kept}. The slot was dropped to protect the source's disk (\`on-wal-budget: drop-slot\`). Repeat the load`,
    )
  }

  async #dropIdleLog(): Promise<void> {
    const log = logSlotOf(this.#plan.slot)
    try {
      await this.#link.use((db) => dropSlot(db, log))
      warning(
        `the slot ${log} of the change log had no reader and kept more WAL than \`wal-budget\`, so it was dropped`,
      )
    } catch (error) {
      // A proof has started to read the log, and enforces the budget itself.
      if (sqlState(error) !== '55006') throw error
    }
  }
}

/** Whether the slot was recreated. As long as a slot exists, its number of decoded transactions only grows. */
function wasRecreated(before: SlotFacts, slot: SlotFacts): boolean {
  return before.serverStart === slot.serverStart && slot.decoded !== null && slot.decoded < (before.decoded ?? 0)
}

async function isSince14(db: Database): Promise<boolean> {
  return Number((await db.query('SHOW server_version_num')).rows[0].server_version_num) >= 140000
}
