import { setTimeout as sleep } from 'node:timers/promises'
import { isConnectionLost } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'

/** Loops that run in parallel until they are stopped; the first error is kept. */
export class Loops {
  readonly #stopped = new AbortController()
  readonly #onLost: (error: unknown) => void
  #running: Promise<void>[] = []
  #failure: Error | undefined

  /** @param onLost called for a lost connection, which a loop survives */
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
        // An error that stopping has caused is not a failure.
        if (!this.stopped || error instanceof VerdictError) this.#failure ??= error
      }),
    )
  }

  /** Runs each of `works` in turn, again and again, with `ms` in between. */
  every(ms: number, ...works: (() => Promise<void>)[]): void {
    this.run(async () => {
      while (!this.stopped) {
        for (const work of works) await this.#surviving(work)
        await this.pause(ms)
      }
    })
  }

  /** Ends early when the loops are stopped. */
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

  /** Survives an unreachable database. If it stays away too long, the missing heartbeats show it. */
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
