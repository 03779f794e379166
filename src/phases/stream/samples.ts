/** State of a stream at one moment. */
export interface Sample {
  /** Milliseconds since 1970, by the runner's clock. */
  at: number
  lagMs: number
  /** WAL that the slot keeps on the source, in bytes. */
  walBytes: number
  /** Number of rows applied since the stream started. */
  changes: number
}

/** Maximum number of samples: enough for a chart, small enough for the ledger. */
const MOST = 240

/** Keeps evenly spaced samples of a stream of any length: drops every other sample whenever there are too many. */
export class Samples {
  #kept: Sample[] = []
  #every = 1
  #seen = 0

  add({ lagMs, walBytes, changes }: Omit<Sample, 'at'>): void {
    if (this.#seen++ % this.#every) return
    this.#kept.push({ at: Date.now(), lagMs, walBytes, changes })
    if (this.#kept.length < MOST) return
    this.#kept = this.#kept.filter((_, index) => index % 2 === 0)
    this.#every *= 2
  }

  /** All samples since the first heartbeat arrived; the lag is unknown before that. */
  get list(): Sample[] {
    return this.#kept.filter(({ lagMs }) => Number.isFinite(lagMs))
  }
}
