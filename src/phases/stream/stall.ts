import { warning } from '@actions/core'
import { minutes } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'

export interface StallOptions {
  /** The tool's name, such as `molt fetch`. */
  name: string
  /** What is known about it, in words, without a full stop at the end. */
  known(): string
  /** Why the stall may be harmless, and where to look, in sentences. */
  advice: string
  /** Milliseconds of stall after which `end` is called once; without it, stalls are only reported. */
  stallAfter: number | undefined
  end(): void
}

/**
 * A tool that is frozen, or waits for a lock, would silently hold a job until its timeout. StallWatch proves nothing,
 * because a large table's IMPORT INTO is one statement: it warns, and fails only if asked to.
 */
export class StallWatch {
  readonly #options: StallOptions
  readonly #timer: NodeJS.Timeout
  #since = performance.now()
  #tellAt = TIMING.stallFirst
  #reason: string | undefined

  constructor(options: StallOptions) {
    this.#options = options
    this.#timer = setInterval(() => this.#look(), TIMING.stallLook)
  }

  /** It has printed something, or moved a row. */
  heard(): void {
    this.#since = performance.now()
    this.#tellAt = TIMING.stallFirst
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Why it was ended, in a sentence; undefined when it was not, or for another reason. */
  get reason(): string | undefined {
    return this.#reason
  }

  #look(): void {
    const { name, known, advice, stallAfter, end } = this.#options
    const silent = performance.now() - this.#since
    if (this.#reason) return
    if (stallAfter !== undefined && silent >= stallAfter) {
      // What is known is collected before its end.
      this.#reason = `It was ended because it printed nothing for ${minutes(silent)} (\`stall-after\`): ${known()}. ${advice}.`
      end()
    }
    if (silent < this.#tellAt) return
    this.#tellAt += Math.min(this.#tellAt, TIMING.stallLongest)
    warning(`${name} has printed nothing for ${minutes(silent)}: ${known()}. ${advice}. Cancel the run to end it`)
  }
}
