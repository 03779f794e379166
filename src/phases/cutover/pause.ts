import type { PartName } from '../../model/operations.ts'
import { CancelledError, VerdictError } from '../../runtime/errors.ts'
import { number, seconds } from '../../runtime/progress.ts'
import type { HeldFence } from './held-fence.ts'

/** Duration of each part of the write pause, in milliseconds. */
export type Parts = Record<string, number>

/** The expected durations of the same parts. `unknown` lists parts that were never measured. */
export interface Estimate {
  parts: Parts
  /** Total in milliseconds. Parts can overlap, so this can be less than their sum. */
  total: number
  unknown: string[]
}

/**
 * Measures the write pause with this runner's monotonic clock, from the start of the first part to the end of the last.
 * Parts can overlap, so the pause can be shorter than their sum.
 */
export class PauseClock {
  readonly parts: Parts = {}
  readonly #running = new Set<string>()
  #began: number | undefined
  #ended = 0

  async part<T>(name: PartName, work: () => Promise<T>): Promise<T> {
    const began = performance.now()
    this.#began ??= began
    this.#running.add(name)
    // Set now, so that the parts are listed in the order in which they begin.
    this.parts[name] = 0
    try {
      return await work()
    } finally {
      this.#ended = performance.now()
      this.parts[name] = Math.round(this.#ended - began)
      this.#running.delete(name)
    }
  }

  /** Names of the running parts; undefined if none is running. */
  get current(): string | undefined {
    return [...this.#running].join(', ') || undefined
  }

  get total(): number {
    return this.#began === undefined ? 0 : Math.round(this.#ended - this.#began)
  }

  get text(): string {
    return partsText(this.parts)
  }
}

export function partsText(parts: Parts): string {
  return Object.entries(parts)
    .map(([part, ms]) => `${part} ${number(ms)} ms`)
    .join(', ')
}

export function pauseText(clock: PauseClock): string {
  return `Writes were paused for **${number(clock.total)} ms** (${clock.text}).`
}

/**
 * Describes the pause of a cutover that does not switch the application: the target is ready, but the application still
 * cannot write.
 */
export function pauseByHandText(clock: PauseClock): string {
  return `The target accepted writes **${number(clock.total)} ms** after the first refused one (${clock.text}). **The application still cannot write** until someone points it at the target; \`finalize\` reports how long the switch took.`
}

export interface Limit {
  signal: AbortSignal
  fail(error: Error): void
  race<T>(work: Promise<T>): Promise<T>
  clear(): void
}

/** Limits the whole pause. Aborts it if the run is cancelled, after `max-pause`, or if the lease cannot be renewed. */
export function deadlineSignal(outer: AbortSignal, maxPause: number, clock: Pick<PauseClock, 'current'>): Limit {
  const controller = new AbortController()
  const cancel = () => controller.abort(outer.reason ?? new CancelledError())
  if (outer.aborted) cancel()
  outer.addEventListener('abort', cancel, { once: true })
  const tooLong = () =>
    controller.abort(
      new VerdictError(
        'pause.too-long',
        `writes were paused for longer than \`max-pause\` (${seconds(maxPause)})${clock.current ? ` during the part \`${clock.current}\`` : ''}. Find out what takes so long, or raise \`max-pause\``,
      ),
    )
  const timer = setTimeout(tooLong, maxPause)
  const aborted = new Promise<never>((_, reject) => {
    if (controller.signal.aborted) reject(controller.signal.reason)
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason), { once: true })
  })
  aborted.catch(() => {})
  return {
    signal: controller.signal,
    fail: (error) => controller.abort(error),
    race(work) {
      // If `aborted` wins the race, `work` may fail later. Ignore that failure.
      work.catch(() => {})
      return Promise.race([work, aborted])
    },
    clear() {
      clearTimeout(timer)
      outer.removeEventListener('abort', cancel)
    },
  }
}

/** Renews the lease each time a third of it has passed. A renewal that fails or finds a gap ends the pause. */
export function renewing(held: HeldFence, lease: number, holdersTimeout: number, limit: Limit) {
  let timer: NodeJS.Timeout | undefined
  let current: Promise<void> = Promise.resolve()
  return {
    start() {
      timer = setInterval(() => {
        current = held.renew(holdersTimeout, limit.signal).catch((error) => limit.fail(error))
      }, lease / 3)
    },
    async stop() {
      clearInterval(timer)
      await current
    },
  }
}
