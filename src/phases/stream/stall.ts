import { warning } from '@actions/core'
import { minutes } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'

export interface StallOptions {
  /** The tool's name, such as `molt fetch`. */
  name: string
  /** Describes the tool's state, without a full stop at the end. */
  known(): string
  /** Sentences that say why the stall may be harmless, and where to look. */
  advice: string
  /** Milliseconds after which a stalled tool is killed; undefined to only report stalls. */
  stallAfter: number | undefined
  end(): void
}

/**
 * Reports a tool that prints nothing, because a frozen or blocked tool would silently hold up a job until its timeout.
 * A stall does not prove a failure: IMPORT INTO of a large table is a single statement. The tool is therefore killed
 * only if `stallAfter` is set.
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

  /** Restarts the clock. Call this when the tool has printed a line or moved a row. */
  heard(): void {
    this.#since = performance.now()
    this.#tellAt = TIMING.stallFirst
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** A sentence that says why the tool was killed; undefined if it was not killed for a stall. */
  get reason(): string | undefined {
    return this.#reason
  }

  #look(): void {
    const { name, known, advice, stallAfter, end } = this.#options
    const silent = performance.now() - this.#since
    if (this.#reason) return
    if (stallAfter !== undefined && silent >= stallAfter) {
      // Describe the tool now, because less is known after its end.
      this.#reason = `It was killed because it printed nothing for ${minutes(silent)} (\`stall-after\`): ${known()}. ${advice}.`
      end()
    }
    if (silent < this.#tellAt) return
    this.#tellAt += Math.min(this.#tellAt, TIMING.stallLongest)
    warning(`${name} has printed nothing for ${minutes(silent)}: ${known()}. ${advice}. To stop it, cancel the run`)
  }
}
