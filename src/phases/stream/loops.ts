import { setTimeout as sleep } from 'node:timers/promises'
import { isConnectionLost } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'

/** Runs loops in parallel until they are stopped, and keeps the first error. */
export class Loops {
  readonly #stopped = new AbortController()
  readonly #onLost: (error: unknown) => void
  #running: Promise<void>[] = []
  #failure: Error | undefined

  /** @param onLost called when a loop loses its connection. The loop continues */
  constructor(onLost: (error: unknown) => void) {
    this.#onLost = onLost
  }

  /** Aborts when the loops must stop. */
  get signal(): AbortSignal {
    return this.#stopped.signal
  }

  get stopped(): boolean {
    return this.signal.aborted
  }

  /** The first error that ended a loop. */
  get failure(): Error | undefined {
    return this.#failure
  }

  run(loop: () => Promise<void>): void {
    this.#running.push(
      loop().catch((error) => {
        // Ignore errors caused by stopping.
        if (!this.stopped || error instanceof VerdictError) this.#failure ??= error
      }),
    )
  }

  /** Runs all `works` in turn, then waits `ms` milliseconds, and repeats this until stopped. */
  every(ms: number, ...works: (() => Promise<void>)[]): void {
    this.run(async () => {
      while (!this.stopped) {
        for (const work of works) await this.#surviving(work)
        await this.pause(ms)
      }
    })
  }

  /** Waits `ms` milliseconds, or until the loops are stopped. */
  async pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.signal }).catch(() => {})
  }

  stop(): void {
    this.#stopped.abort()
  }

  /** Resolves when every loop has ended. */
  async ended(): Promise<void> {
    await Promise.all(this.#running)
  }

  /**
   * Runs `work`, and continues if the database is unreachable. If the outage lasts too long, the missing heartbeats
   * reveal it.
   */
  async #surviving(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (this.stopped && !(error instanceof VerdictError)) return
      if (!isConnectionLost(error)) throw error
      this.#onLost(error)
      await this.pause(TIMING.reconnect)
    }
  }
}
