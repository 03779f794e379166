import { setTimeout as sleep } from 'node:timers/promises'
import type { StreamLogin } from '../../destination/stream-login.ts'
import type { Plan } from '../../model/plan.ts'
import { Link } from '../../runtime/database.ts'
import { CancelledError, messageOf, UserError, VerdictError } from '../../runtime/errors.ts'
import { seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import type { Observation, TableFiles } from '../../source/changes.ts'
import type { PublicationMark } from '../../source/publication.ts'
import { readerText, type SlotFacts } from '../../source/slot.ts'
import { translate } from '../../tools/diagnoses.ts'
import type { Replicator, ReplicatorRequest, StreamMetrics } from '../../tools/replicator.ts'
import { Heartbeats } from './lag.ts'
import { Loops } from './loops.ts'
import { Observations } from './observations.ts'
import { ReplicatorRuns } from './replicator-runs.ts'
import { type Sample, Samples } from './samples.ts'
import { SlotGuard } from './slot-guard.ts'
import { SourceAway } from './source-away.ts'
import { deathError, lastError, type StuckFacts, stuckError } from './stuck.ts'
import { applying, applyingOnCockroach, Watch, type WatchLimits, walObservations } from './watch.ts'

export interface StreamOptions {
  sourceUrl: string
  targetUrl: string
  /** The replicator's own login on the target. Default: the login of `targetUrl`. */
  login?: StreamLogin
  /** Name of the target's database. The replicator requires it as a prefix of the schema's name. */
  targetDatabase: string
  /** Whether the target is CockroachDB. In a rehearsal it is PostgreSQL. */
  isCockroach?: boolean
  plan: Plan
  stagingSchema: string
  program: string
  logFile: string
  extraArgs: readonly string[]
  /** Milliseconds without a heartbeat on the target after which a stream that makes no progress counts as stuck. */
  stuckAfter: number
  watch: WatchLimits
  /** State of the publication when it was checked. */
  publication?: PublicationMark
  /** Files of the source's tables before the stream starts. */
  files?: TableFiles
  /** Number of changed rows that the rolling proof still has to compare; undefined without a proof. */
  keysOpen?: () => number | undefined
  signal: AbortSignal
}

/** The stream's current state. Times are in milliseconds, by this runner's monotonic clock. */
export interface StreamStatus {
  /** Age of the oldest heartbeat that has not arrived, or the time that the last one took, whichever is longer. */
  lagMs: number
  /** False while a drain has stopped the heartbeats. `lagMs` is then the last measurement, not the current lag. */
  beating: boolean
  /** Number of rows upserted and deleted on the target since the stream began, heartbeats included. */
  changes: number
  /** WAL that the slot keeps on the source, in bytes. */
  walBytes: number
  /** WAL that the stream has not acknowledged, in bytes. */
  behindBytes: number
  retries: number
  restarts: number
  /** How the previous replicator process ended, such as `was killed by SIGKILL`. */
  lastEnd: string
  /** Number of times one of our own connections was lost and reopened. */
  interruptions: number
}

/** Number of retries since a heartbeat was written after which the stream counts as stuck in a loop. */
const CIRCLING = 3
/** Maximum number of times in a row that a replicator may die without applying a change. */
const MAX_VAIN_LIVES = 5

/**
 * A supervised stream: runs the replicator as a child process, and sends a heartbeat through it from the source to the
 * target. Relies only on the heartbeat, because the metrics of a stuck replicator look normal.
 */
export class Stream {
  readonly options: StreamOptions
  readonly source: Link
  readonly target: Link
  /** A link runs one call at a time, so each loop has its own link. */
  readonly #side: { slot: Link; source: Link; target: Link }
  readonly #heartbeats: Heartbeats
  readonly #replicator: ReplicatorRuns
  readonly #guard: SlotGuard
  readonly #watch: Watch
  readonly #observations = new Observations()
  readonly #samples = new Samples()
  readonly #loops = new Loops((error) => this.#noteLost(error))
  readonly #away = new SourceAway(() => this.#replicator.stop())
  #over = false
  /** When the stream was last seen working on a transaction. The counters do not move until a transaction ends. */
  #busyAt = Number.NEGATIVE_INFINITY
  /** The holder of the lock on the target that the stream waits for, as text. */
  #blocked: string | null = null

  constructor(options: StreamOptions) {
    const { plan, watch } = options
    this.options = options
    // Abort connection attempts too, so that they do not delay the end of the stream.
    const over = AbortSignal.any([options.signal, this.#loops.signal])
    const source = () => new Link(options.sourceUrl, 'source', over)
    const target = () => new Link(options.targetUrl, 'target', over)
    this.source = source()
    this.target = target()
    this.#side = { slot: source(), source: source(), target: target() }
    this.#heartbeats = new Heartbeats(this.source, this.target, plan.targetSchema)
    this.#replicator = new ReplicatorRuns(replicatorRequest(options))
    this.#guard = new SlotGuard(this.#side.slot, plan, watch)
    this.#watch = new Watch(plan, watch, options.publication, options.files)
  }

  async start(): Promise<void> {
    await this.#replicator.launch()
    const [replicator, heartbeats, loops] = [this.#replicator, this.#heartbeats, this.#loops]
    loops.run(() => this.#keepAlive())
    loops.every(TIMING.heartbeat, () => this.#away.seenBy(() => heartbeats.write(replicator.retries)))
    loops.every(TIMING.lagLook, () => this.#look())
    loops.every(TIMING.streamSample, async () => this.#samples.add(this.status))
    loops.every(
      TIMING.slotLook,
      () => replicator.measure(),
      () => this.#away.seenBy(() => this.#readSlot()),
    )
    loops.every(
      TIMING.watchLook,
      () => this.#away.seenBy(() => this.#watchSource()),
      () => this.#watchTarget(),
    )
  }

  /** Stops a stream whose drain is proved. From then on, {@link check} no longer requires progress. */
  async finish(): Promise<void> {
    this.#over = true
    await this.close()
  }

  /** Stops the replicator and closes every connection. The slot stays, so that a later stream can resume from it. */
  async close(): Promise<void> {
    await this.#stopReplicator()
    // Close the links before waiting for the loops, because a loop may be waiting for an answer that never comes.
    await this.#closeLinks()
    await this.#loops.ended()
    // A loop may have reconnected in the meantime.
    await this.#closeLinks()
  }

  async #stopReplicator(): Promise<void> {
    this.#loops.stop()
    await this.#replicator.stop()
  }

  get #links(): Link[] {
    return [this.source, this.target, ...Object.values(this.#side)]
  }

  async #closeLinks(): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close()))
  }

  get status(): StreamStatus {
    return {
      lagMs: this.#heartbeats.lagMs,
      beating: this.#heartbeats.beating,
      changes: this.#replicator.changes,
      walBytes: this.slot?.walBytes ?? 0,
      behindBytes: this.slot?.behindBytes ?? 0,
      retries: this.#replicator.retries,
      restarts: this.#replicator.restarts,
      lastEnd: this.#replicator.lastEnd,
      interruptions: this.#links.reduce((sum, link) => sum + link.losses, 0),
    }
  }

  /** Lag and WAL over time, for the dossier. */
  get samples(): readonly Sample[] {
    return this.#samples.list
  }

  /** The slot as last read, at most half a second ago while the source is reachable. */
  get slot(): SlotFacts | undefined {
    return this.#guard.slot
  }

  /** The slot's position when this stream first saw it. */
  get startLsn(): string | null {
    return this.#guard.startLsn
  }

  /** The replicator's distinct errors, and how often each occurred. The replicator may have recovered. */
  get diagnoses(): ReadonlyMap<string, number> {
    return this.#replicator.diagnoses
  }

  /** All observations reported so far. */
  get observations(): readonly Observation[] {
    return this.#observations.list
  }

  /** Files of the source's tables at the last reading. */
  get files(): TableFiles {
    return this.#watch.files
  }

  /** PID of the replicator. Changes when it is restarted. */
  get pid(): number | undefined {
    return this.#replicator.current?.child.pid
  }

  async metrics(): Promise<StreamMetrics | undefined> {
    return this.#replicator.metrics()
  }

  /** Stops the heartbeats, so that a marker remains the last write, or resumes them. */
  async pauseHeartbeat(pause: boolean): Promise<void> {
    if (pause) await this.#heartbeats.pause()
    else this.#heartbeats.resume()
  }

  /**
   * @throws VerdictError if the stream is stuck, or the error that ended one of its loops
   * @throws CancelledError if the run was cancelled
   */
  check(): void {
    if (this.options.signal.aborted) throw new CancelledError()
    if (this.#loops.failure) throw this.#loops.failure
    if (this.#over) return
    const { stuckAfter } = this.options
    const { circlingMs = 0 } = this.#replicator
    // Check this first: another process may be applying the heartbeats while ours is waiting for the slot.
    if (circlingMs >= stuckAfter && this.#replicator.diagnosis?.kind === 'slot-busy')
      throw this.stuck(`the source has refused the slot to the replicator for ${seconds(circlingMs)}`)
    const { unwrittenMs, oldest } = this.#heartbeats
    if (unwrittenMs >= stuckAfter)
      throw this.stuck(`no heartbeat could be written to the source for ${seconds(unwrittenMs)}`)
    if (!oldest) return
    const age = performance.now() - oldest.at
    const known = { ...oldest, busyAt: this.#busyAt, confirmedAt: this.#guard.confirmedAt, stuckAfter }
    if (age >= stuckAfter && !isBehind(this.#replicator, known))
      throw this.stuck(`no heartbeat has reached the target for ${seconds(age)}`)
  }

  /** Returns the error for a stuck stream: what was seen, the cause, and the replicator's last output. */
  stuck(seen: string): VerdictError {
    return stuckError(seen, this.#facts())
  }

  #facts(): StuckFacts {
    const { sourceUrl, targetUrl, plan } = this.options
    const { said, diagnosis, retries } = this.#replicator
    const { schemaChanges } = this.#observations
    return {
      sourceUrl,
      targetUrl,
      publication: plan.publication,
      publicationGone: this.#guard.publicationGone,
      said,
      diagnosis,
      retries,
      blocked: this.#blocked,
      triggers: this.#watch.triggers,
      slot: this.slot,
      schemaChanges: schemaChanges.length ? schemaChanges : this.#watch.differences,
    }
  }

  /** Restarts a replicator that ended unexpectedly, for example out of memory. It resumes from the slot. */
  async #keepAlive(): Promise<void> {
    let vain = 0
    while (!this.#loops.stopped) {
      const replicator = this.#replicator.current as Replicator
      const [seen, position] = [this.#heartbeats.seen, this.slot?.confirmedFlushLsn]
      const exit = await replicator.child.exited
      const away = await this.#away.untilBack(this.#loops)
      if (this.#loops.stopped) return
      // Ignore the process's counters, because each new process applies the last transaction again.
      const useful = this.#heartbeats.seen > seen || this.slot?.confirmedFlushLsn !== position
      vain = useful || away ? 0 : vain + 1
      // If a database is unreachable, keep waiting for it as long as the source accepts heartbeats.
      const mayReturn = lostConnection(replicator) && this.#heartbeats.sinceWrittenMs < this.options.stuckAfter
      if (notStarted(replicator) || (vain >= MAX_VAIN_LIVES && !mayReturn)) throw deathError(replicator, this.#facts())
      this.#replicator.bury(exit)
      await this.#loops.pause(Math.min(TIMING.restartMost, TIMING.restart * vain))
      if (!this.#loops.stopped) await this.#replicator.launch()
    }
  }

  async #look(): Promise<void> {
    const skipped = await this.#heartbeats.look(this.slot?.confirmedFlushLsn)
    if (!skipped) return
    const reader = this.slot?.reader ? `. Its current reader is ${readerText(this.slot.reader)}` : ''
    throw new VerdictError(
      'slot.moved',
      `another client has recreated, advanced or read the slot ${this.options.plan.slot}: its position is past ${skipped} heartbeats that never reached the target, so changes are lost${reader}. Repeat the load`,
    )
  }

  async #readSlot(): Promise<void> {
    const { written } = this.#heartbeats
    const slot = await this.#guard.read()
    this.#heartbeats.owe(slot.lsn, written)
    if (slot.decoding && slot.active) this.#busyAt = performance.now()
    this.#observations.tell(walObservations(slot, this.options.watch))
    await this.#guard.keepToBudget(slot, () => this.#stopReplicator())
  }

  async #watchSource(): Promise<void> {
    this.#observations.tell(await this.#side.source.use((db) => this.#watch.lookAtSource(db)))
  }

  async #watchTarget(): Promise<void> {
    const { isCockroach = false } = this.options
    const triggers = this.#replicator.diagnosis?.kind === 'trigger'
    this.#observations.tell(await this.#side.target.use((db) => this.#watch.lookAtTarget(db, isCockroach, triggers)))
    const { oldest } = this.#heartbeats
    if (!oldest || performance.now() - oldest.at < TIMING.watchLook) return
    const { busy, blocked } = await this.#side.target.use(isCockroach ? applyingOnCockroach : applying)
    if (busy) this.#busyAt = performance.now()
    this.#blocked = blocked
  }

  #noteLost(error: unknown): void {
    if (error instanceof UserError) this.#replicator.note(messageOf(error), 1)
  }
}

function replicatorRequest(options: StreamOptions): Omit<ReplicatorRequest, 'metricsAddr'> {
  const { plan, login, targetDatabase } = options
  return {
    program: options.program,
    source: options.sourceUrl,
    target: login?.url ?? options.targetUrl,
    ...(login && { staging: options.targetUrl }),
    slot: plan.slot,
    publication: plan.publication,
    targetSchema: `${targetDatabase}.${plan.targetSchema}`,
    stagingSchema: `${targetDatabase}.${options.stagingSchema}`,
    logFile: options.logFile,
    extraArgs: options.extraArgs,
  }
}

/**
 * Whether a stream is still applying changes, which means that it is behind but not stuck. A stream that keeps retrying
 * may apply the same changes forever, but confirms none of them.
 * @param known number of retries when the oldest unarrived heartbeat was written; when the stream was last seen
 * working; and when the slot's confirmed position last moved
 */
export function isBehind(
  { circlingMs, retries, movedAt }: Pick<ReplicatorRuns, 'circlingMs' | 'retries' | 'movedAt'>,
  known: { retries: number; busyAt: number; confirmedAt: number; stuckAfter: number },
): boolean {
  const within = (at: number) => performance.now() - at < known.stuckAfter
  if (within(known.confirmedAt)) return true
  const circling = circlingMs !== undefined
  if (circling && retries - known.retries >= CIRCLING) return false
  // During a large transaction, the counters do not move.
  return within(circling ? movedAt : Math.max(movedAt, known.busyAt))
}

function lostConnection(replicator: Replicator): boolean {
  return /^connection(-limit)?$/.test(translate(lastError(replicator))?.kind ?? '')
}

function notStarted({ child }: Replicator): boolean {
  return child.exit?.code === null && !child.exit.signal
}

/**
 * Waits until the lag has been at most `maxLag` for `quietPeriod`, both in milliseconds.
 * @param deadline milliseconds from now
 * @throws VerdictError if the stream is stuck, or the deadline passes
 */
export async function untilCaughtUp(
  stream: Stream,
  limits: { maxLag: number; quietPeriod: number; deadline: number },
): Promise<StreamStatus> {
  const end = performance.now() + limits.deadline
  let quietSince: number | undefined
  for (;;) {
    stream.check()
    const { status } = stream
    const now = performance.now()
    quietSince = status.lagMs <= limits.maxLag ? (quietSince ?? now) : undefined
    if (quietSince !== undefined && now - quietSince >= limits.quietPeriod) return status
    if (now > end) throw stream.stuck(`the lag was still ${seconds(status.lagMs)} after ${seconds(limits.deadline)}`)
    await sleep(TIMING.caughtUpLook)
  }
}
