import { warning } from '@actions/core'
import { minutes } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'

export interface StallOptions {
  /** What may be silent, such as `molt fetch`. */
  name: string
  /** What is known of it, in words, without a stop at the end. */
  known(): string
  /** Why it may be right all the same, and where to look, in sentences. */
  advice: string
  /** Milliseconds of silence after which `end` is called once; without it silence is only told. */
  stallAfter: number | undefined
  end(): void
}

/**
 * A tool that is frozen, or waits for a lock, would hold a job until its timeout without a word. StallWatch proves
 * nothing, since a large table's IMPORT INTO is one statement: so it is told, and red only when that is asked for.
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

  /** It has said something, or moved a row. */
  heard(): void {
    this.#since = performance.now()
    this.#tellAt = TIMING.stallFirst
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Why it was ended, in a sentence; undefined when it was not, or not for its silence. */
  get reason(): string | undefined {
    return this.#reason
  }

  #look(): void {
    const { name, known, advice, stallAfter, end } = this.#options
    const silent = performance.now() - this.#since
    if (this.#reason) return
    if (stallAfter !== undefined && silent >= stallAfter) {
      // What is known is known before its end.
      this.#reason = `It was ended because nothing was heard of it for ${minutes(silent)} (\`stall-after\`): ${known()}. ${advice}.`
      end()
    }
    if (silent < this.#tellAt) return
    this.#tellAt += Math.min(this.#tellAt, TIMING.stallLongest)
    warning(`nothing was heard of ${name} for ${minutes(silent)}: ${known()}. ${advice}. Cancel the run to end it`)
  }
}
