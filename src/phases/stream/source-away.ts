import { info } from '@actions/core'
import { errorCode } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import type { Loops } from './loops.ts'

/**
 * Stops the replicator while the source accepts no connections. A server that is shutting down waits until its slots
 * have no readers, and the replicator does not notice the shutdown.
 */
export class SourceAway {
  readonly #stop: () => Promise<unknown>
  #away = false

  constructor(stop: () => Promise<unknown>) {
    this.#stop = stop
  }

  /** Runs `work` on the source, and records whether the source is available. */
  async seenBy(work: () => Promise<void>): Promise<void> {
    try {
      await work()
      this.#away = false
    } catch (error) {
      if (errorCode(error) === 'connect.not-ready' && !this.#away) {
        this.#away = true
        info('the source is shutting down or starting up: stopped the replicator until the source is back')
        void this.#stop()
      }
      throw error
    }
  }

  /**
   * Waits until the source is available.
   * @returns whether it was unavailable
   */
  async untilBack(loops: Loops): Promise<boolean> {
    const was = this.#away
    while (this.#away && !loops.stopped) await loops.pause(TIMING.restart)
    return was
  }
}
