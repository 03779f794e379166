/** What a stream looked like at one moment, by the runner's clock. */
export interface Sample {
  /** Milliseconds since 1970. */
  at: number
  lagMs: number
  /** WAL that the slot keeps on the source. */
  walBytes: number
  /** Rows applied since the stream started. */
  changes: number
}

/** Maximum number of samples: enough for a chart, small enough for the ledger. */
const MOST = 240

/** Evenly spaced samples of a stream of any length: once there are too many, every other one is dropped. */
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
