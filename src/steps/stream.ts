import { setTimeout as sleep } from 'node:timers/promises'
import { isConnectionLost, Link } from '../runtime/database.ts'
import { CancelledError, messageOf, UserError, VerdictError } from '../runtime/errors.ts'
import { seconds } from '../runtime/progress.ts'
import { readMarker, writeMarker } from '../source/heartbeat.ts'
import { readSlot, type Slot } from '../source/slot.ts'
import type { Plan } from '../target/ledger.ts'
import { freeAddress } from '../tools/process.ts'
import { explainTrouble, Replicator, type StreamMetrics } from '../tools/replicator.ts'

export interface StreamOptions {
  sourceUrl: string
  targetUrl: string
  /** The target's database, which the replicator wants before the schema's name. */
  targetDatabase: string
  plan: Plan
  stagingSchema: string
  program: string
  logFile: string
  extraArgs: readonly string[]
  /** Milliseconds without a heartbeat on the target after which a stream that does not move is called stuck. */
  stuckAfter: number
  signal: AbortSignal
}

/** How the stream is doing. Times in milliseconds, by this runner's monotonic clock alone. */
export interface StreamStatus {
  /** Age of the oldest heartbeat that has not arrived, or how long the last one took. */
  lagMs: number
  /** Rows upserted and deleted on the target since the stream began, heartbeats included. */
  changes: number
  /** WAL that the slot keeps on the source, in bytes. */
  walBytes: number
  retries: number
  restarts: number
  /** Times that one of our own connections was lost and made again. */
  interruptions: number
}

/** Retries while one heartbeat is on its way, from which a stream counts as going round in circles. */
const CIRCLING = 10
const BEAT_EVERY = 250
const LOOK_EVERY = 50
/** A process that lives this long has started; one that keeps dying sooner is not restarted for ever. */
const SETTLED_AFTER = 10_000
const MAX_QUICK_DEATHS = 5

/**
 * A supervised stream: the replicator as a child process, and a heartbeat that travels through it from the source to
 * the target. The heartbeat is the only thing believed: the replicator looks calm when it is stuck.
 */
export class Stream {
  readonly options: StreamOptions
  readonly source: Link
  readonly target: Link
  #replicator: Replicator | undefined
  #beating = true
  #closing = false
  #loops: Promise<void>[] = []
  #failure: Error | undefined
  #unseen: { beat: number; at: number; retries: number }[] = []
  #latency: number | undefined
  #past: StreamMetrics = { upserts: 0, deletes: 0, errors: 0, dials: 0, dialFailures: 0 }
  #metrics: StreamMetrics = { ...this.#past }
  #movedAt = performance.now()
  #slot: Slot | undefined
  #retriesBefore = 0
  #restarts = 0
  #troubles = new Map<string, number>()

  constructor(options: StreamOptions) {
    this.options = options
    this.source = new Link(options.sourceUrl, 'source')
    this.target = new Link(options.targetUrl, 'target')
  }

  async start(): Promise<void> {
    await this.#launch()
    this.#loops = [this.#keepAlive(), this.#beat(), this.#look(), this.#measure()].map((loop) =>
      loop.catch((error) => {
        this.#failure ??= error
      }),
    )
  }

  /** Ends the replicator and every connection. The slot stays, so that a later stream goes on where this one ended. */
  async close(): Promise<void> {
    this.#closing = true
    await this.#replicator?.stop()
    await Promise.all(this.#loops)
    await Promise.all([this.source.close(), this.target.close()])
  }

  get status(): StreamStatus {
    const waiting = this.#unseen[0] ? performance.now() - this.#unseen[0].at : 0
    return {
      lagMs: Math.round(Math.max(this.#latency ?? Number.POSITIVE_INFINITY, waiting)),
      changes: this.#past.upserts + this.#past.deletes + this.#metrics.upserts + this.#metrics.deletes,
      walBytes: this.#slot?.walBytes ?? 0,
      retries: this.#retriesBefore + (this.#replicator?.retries ?? 0),
      restarts: this.#restarts,
      interruptions: this.source.losses + this.target.losses,
    }
  }

  /** Why the replicator was in trouble, and how often; it may have got over it. */
  get troubles(): ReadonlyMap<string, number> {
    return this.#troubles
  }

  async metrics(): Promise<StreamMetrics | undefined> {
    return this.#replicator?.metrics()
  }

  /** Stops writing heartbeats, so that a marker stays the last thing written, or goes on with them. */
  async pauseHeartbeat(pause: boolean): Promise<void> {
    this.#beating = !pause
    if (pause) await sleep(BEAT_EVERY)
  }

  /**
   * @throws VerdictError when the stream is stuck, with the reason in words
   * @throws CancelledError when the run was asked to stop
   */
  check(): void {
    if (this.options.signal.aborted) throw new CancelledError('the run was cancelled')
    if (this.#failure) throw this.#failure
    const oldest = this.#unseen[0]
    if (!oldest || performance.now() - oldest.at < this.options.stuckAfter) return
    // A stream that still applies changes is behind, not stuck; one that retries may apply the same ones for ever.
    const circling = this.status.retries - oldest.retries >= CIRCLING
    if (!circling && performance.now() - this.#movedAt < this.options.stuckAfter) return
    throw this.stuck(`no heartbeat has reached the target for ${seconds(performance.now() - oldest.at)}`)
  }

  /** The error for a stream that does not move: what was seen, why it is so, and what it last said. */
  stuck(seen: string): VerdictError {
    const said = this.#replicator?.lastTrouble ?? [...this.#troubles.keys()].at(-1)
    const why = explainTrouble(said)
    const retries = this.status.retries
    const parts = [`the stream is stuck: ${seen}`]
    if (why) parts.push(`because ${why}`)
    if (said) parts.push(`the replicator retried ${retries} times and last said: ${said.slice(0, 400)}`)
    else
      parts.push(
        `the replicator said nothing about it${this.#slot?.active === false ? ', and nobody reads the slot' : ''}`,
      )
    return new VerdictError(parts.join('; '))
  }

  async #launch(): Promise<void> {
    const { options } = this
    const { plan } = options
    this.#replicator = new Replicator({
      program: options.program,
      source: options.sourceUrl,
      target: options.targetUrl,
      slot: plan.slot,
      publication: plan.publication,
      targetSchema: `${options.targetDatabase}.${plan.targetSchema}`,
      stagingSchema: `${options.targetDatabase}.${options.stagingSchema}`,
      metricsAddr: await freeAddress(),
      logFile: options.logFile,
      extraArgs: options.extraArgs,
    })
  }

  /** Starts the replicator again when it ends unasked: killed, or out of memory. It goes on from the slot. */
  async #keepAlive(): Promise<void> {
    let quickDeaths = 0
    while (!this.#closing) {
      const replicator = this.#replicator as Replicator
      const born = performance.now()
      await replicator.child.exited
      if (this.#closing) return
      quickDeaths = performance.now() - born < SETTLED_AFTER ? quickDeaths + 1 : 0
      if (quickDeaths >= MAX_QUICK_DEATHS || (replicator.child.exit?.code === null && !replicator.child.exit.signal))
        throw replicator.child.failure(
          replicator.lastTrouble ?? replicator.child.lastWords,
          'Its whole log is in the evidence folder.',
        )
      this.#restarts++
      this.#retriesBefore += replicator.retries
      for (const key of Object.keys(this.#past) as (keyof StreamMetrics)[]) this.#past[key] += this.#metrics[key]
      this.#metrics = { upserts: 0, deletes: 0, errors: 0, dials: 0, dialFailures: 0 }
      await sleep(200 * quickDeaths)
      await this.#launch()
    }
  }

  async #beat(): Promise<void> {
    while (!this.#closing) {
      if (this.#beating)
        await this.#surviving(async () => {
          const at = performance.now()
          const beat = await this.source.use((db) => writeMarker(db, ''))
          this.#unseen.push({ beat, at, retries: this.status.retries })
        })
      await sleep(BEAT_EVERY)
    }
  }

  async #look(): Promise<void> {
    while (!this.#closing) {
      await this.#surviving(async () => {
        const seen = await this.target.use((db) => readMarker(db, this.options.plan.targetSchema))
        const now = performance.now()
        while (seen && this.#unseen[0] && this.#unseen[0].beat <= seen.beat) {
          this.#latency = now - (this.#unseen.shift() as { at: number }).at
        }
      })
      await sleep(LOOK_EVERY)
    }
  }

  async #measure(): Promise<void> {
    const link = new Link(this.options.sourceUrl, 'source')
    while (!this.#closing) {
      const metrics = await this.#replicator?.metrics()
      if (metrics) {
        if (metrics.upserts + metrics.deletes !== this.#metrics.upserts + this.#metrics.deletes)
          this.#movedAt = performance.now()
        this.#metrics = metrics
      }
      const trouble = this.#replicator?.lastTrouble
      if (trouble) this.#troubles.set(trouble, this.#replicator?.retries ?? 0)
      await this.#surviving(async () => {
        this.#slot = await link.use((db) => readSlot(db, this.options.plan.slot))
        if (!this.#slot)
          throw new VerdictError(
            `the slot ${this.options.plan.slot} is gone: changes since then are lost, and the load must be repeated`,
          )
        if (this.#slot.walStatus === 'lost')
          throw new VerdictError(
            `the slot ${this.options.plan.slot} has lost WAL that the stream needs; the load must be repeated`,
          )
      })
      await sleep(500)
    }
    await link.close()
  }

  /** A database that is away for a while is survived; the heartbeat that does not arrive tells when it is too long. */
  async #surviving(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (!isConnectionLost(error)) throw error
      if (error instanceof UserError) this.#troubles.set(messageOf(error), 1)
      await sleep(250)
    }
  }
}

/**
 * Waits until the lag has been at most `maxLag` for `quietPeriod`, both in milliseconds.
 * @param deadline milliseconds from now
 * @throws VerdictError when the stream is stuck, or the deadline passes
 */
export async function untilCaughtUp(
  stream: Stream,
  limits: { maxLag: number; quietPeriod: number; deadline: number },
  onStatus: (status: StreamStatus) => void,
): Promise<StreamStatus> {
  const end = performance.now() + limits.deadline
  let quietSince: number | undefined
  for (;;) {
    stream.check()
    const status = stream.status
    onStatus(status)
    const now = performance.now()
    quietSince = status.lagMs <= limits.maxLag ? (quietSince ?? now) : undefined
    if (quietSince !== undefined && now - quietSince >= limits.quietPeriod) return status
    if (now > end) throw stream.stuck(`the lag was still ${seconds(status.lagMs)} after ${seconds(limits.deadline)}`)
    await sleep(100)
  }
}
