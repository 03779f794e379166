import { warning } from '@actions/core'
import { minutes } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'

export interface StallOptions {
  /** The tool's name, such as `molt fetch`. */
  name: string
  /** What is known about the tool, without a full stop at the end. */
  known(): string
  /** Why the stall may be harmless, and where to look, in sentences. */
  advice: string
  /** Milliseconds after which a stalled tool is ended; undefined to only report stalls. */
  stallAfter: number | undefined
  end(): void
}

/**
 * Reports a tool that prints nothing, because a frozen or blocked tool would silently hold a job until its timeout. A
 * stall proves nothing: the IMPORT INTO of a large table is one statement. So the tool is ended only if `stallAfter` is
 * set.
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

  /** Call when the tool has printed a line or moved a row. */
  heard(): void {
    this.#since = performance.now()
    this.#tellAt = TIMING.stallFirst
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Why the tool was ended, in a sentence; undefined when it was not ended for a stall. */
  get reason(): string | undefined {
    return this.#reason
  }

  #look(): void {
    const { name, known, advice, stallAfter, end } = this.#options
    const silent = performance.now() - this.#since
    if (this.#reason) return
    if (stallAfter !== undefined && silent >= stallAfter) {
      // Collected now: after the end, less is known.
      this.#reason = `It was ended because it printed nothing for ${minutes(silent)} (\`stall-after\`): ${known()}. ${advice}.`
      end()
    }
    if (silent < this.#tellAt) return
    this.#tellAt += Math.min(this.#tellAt, TIMING.stallLongest)
    warning(`${name} has printed nothing for ${minutes(silent)}: ${known()}. ${advice}. Cancel the run to end it`)
  }
}
