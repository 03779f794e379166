import { TIMING } from '../../runtime/timing.ts'
import { type Diagnosis, translate } from '../../tools/diagnoses.ts'
import { freeAddress } from '../../tools/ports.ts'
import { describeExit, type Exit } from '../../tools/process.ts'
import { noMetrics, Replicator, type ReplicatorRequest, type StreamMetrics } from '../../tools/replicator.ts'

const MOST_DIAGNOSES = 50

/** Tracks the replicator's process across restarts, with its counters and errors. */
export class ReplicatorRuns {
  readonly #request: Omit<ReplicatorRequest, 'metricsAddr'>
  #current: Replicator | undefined
  /** Total metrics of the ended processes, then the metrics of the current one. */
  #past: StreamMetrics = noMetrics()
  #metrics: StreamMetrics = noMetrics()
  #movedAt = performance.now()
  #restarts = 0
  #lastEnd = 'is still running'
  /** Total retries of the ended processes, then the current process's dials at the last reading. */
  #retriesBefore = 0
  #dialsBefore = 0
  /**
   * Time of the last retry, then of the first retry in the current series. In a series, gaps are at most `retryGap`.
   */
  #retryAt = Number.NEGATIVE_INFINITY
  #circlingSince = 0
  readonly #diagnoses = new Map<string, number>()

  constructor(request: Omit<ReplicatorRequest, 'metricsAddr'>) {
    this.#request = request
  }

  async launch(): Promise<void> {
    this.#current = new Replicator({ ...this.#request, metricsAddr: await freeAddress() })
  }

  async stop(): Promise<void> {
    await this.#current?.stop()
  }

  get current(): Replicator | undefined {
    return this.#current
  }

  get restarts(): number {
    return this.#restarts
  }

  /** How the previous process ended, such as `was killed by SIGKILL`. */
  get lastEnd(): string {
    return this.#lastEnd
  }

  /** Number of rows upserted and deleted since the first process started. */
  get changes(): number {
    return applied(this.#past) + applied(this.#metrics)
  }

  /** When the number of changes last increased, by the monotonic clock. */
  get movedAt(): number {
    return this.#movedAt
  }

  /** Number of retries, counted from log lines, or from reconnects if the log format is unknown. */
  get retries(): number {
    const now = Math.max(this.#current?.retries ?? 0, dials(this.#metrics) - 1)
    return this.#retriesBefore + Math.max(0, now)
  }

  /** How long the replicator has been retrying without a break, in milliseconds; undefined if it is not retrying. */
  get circlingMs(): number | undefined {
    const now = performance.now()
    return now - this.#retryAt < TIMING.retryGap ? now - this.#circlingSince : undefined
  }

  /** The replicator's distinct errors, and how often each occurred. The replicator may have recovered. */
  get diagnoses(): ReadonlyMap<string, number> {
    return this.#diagnoses
  }

  /** The replicator's last error, verbatim. */
  get said(): string | undefined {
    return this.#current?.lastDiagnosis ?? [...this.#diagnoses.keys()].at(-1)
  }

  get diagnosis(): Diagnosis | undefined {
    return translate(this.said)
  }

  note(said: string, times: number): void {
    if (this.#diagnoses.has(said) || this.#diagnoses.size < MOST_DIAGNOSES) this.#diagnoses.set(said, times)
  }

  /** Reads the current process's metrics; undefined if they cannot be read. */
  async metrics(): Promise<StreamMetrics | undefined> {
    return this.#current?.metrics()
  }

  async measure(): Promise<void> {
    const metrics = await this.metrics()
    if (metrics) {
      if (applied(metrics) !== applied(this.#metrics)) this.#movedAt = performance.now()
      this.#metrics = metrics
    }
    this.#noteRetries()
    this.#noteLast()
  }

  /** Adds an ended process to the totals before another is launched. */
  bury(exit: Exit): void {
    this.#restarts++
    this.#lastEnd = describeExit(exit)
    this.#retriesBefore = this.retries
    for (const key of Object.keys(this.#past) as (keyof StreamMetrics)[]) this.#past[key] += this.#metrics[key]
    this.#metrics = noMetrics()
    this.#dialsBefore = 0
    this.#noteLast()
  }

  #noteLast(): void {
    const { lastDiagnosis, retries } = this.#current ?? {}
    if (lastDiagnosis) this.note(lastDiagnosis, retries ?? 0)
  }

  #noteRetries(): void {
    const dialled = dials(this.#metrics)
    const last = Math.max(
      this.#current?.lastRetryAt ?? Number.NEGATIVE_INFINITY,
      dialled > Math.max(1, this.#dialsBefore) ? performance.now() : Number.NEGATIVE_INFINITY,
    )
    this.#dialsBefore = dialled
    if (last <= this.#retryAt) return
    if (last - this.#retryAt > TIMING.retryGap) this.#circlingSince = last
    this.#retryAt = last
  }
}

function applied({ upserts, deletes }: StreamMetrics): number {
  return upserts + deletes
}

function dials({ dials, dialFailures }: StreamMetrics): number {
  return dials + dialFailures
}
