import { setTimeout as sleep } from 'node:timers/promises'
import { warning } from '@actions/core'
import type { StreamLogin } from '../../destination/stream-login.ts'
import type { Plan } from '../../model/plan.ts'
import type { ErrorCode } from '../../runtime/codes.ts'
import { isConnectionLost, Link } from '../../runtime/database.ts'
import { CancelledError, messageOf, UserError, VerdictError } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { number, plural, seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { isSchemaChange, type Observation, observationCode, type TableFiles } from '../../source/changes.ts'
import { HEARTBEAT, readBeat, readMarker, writeMarker } from '../../source/heartbeat.ts'
import type { PublicationMark } from '../../source/publication.ts'
import { lsnNumber, readerText, readSlotFacts, type SlotFacts, seizeAndDrop } from '../../source/slot.ts'
import { type Diagnosis, translate } from '../../tools/diagnoses.ts'
import { freeAddress } from '../../tools/process.ts'
import { noMetrics, Replicator, type StreamMetrics } from '../../tools/replicator.ts'
import { applying, Watch, type WatchLimits, walObservations } from './watch.ts'

export interface StreamOptions {
  sourceUrl: string
  targetUrl: string
  /** By which the replicator writes to the target; by that of `targetUrl` where there is none of its own. */
  login?: StreamLogin
  /** The target's database, which the replicator wants before the schema's name. */
  targetDatabase: string
  /** Whether the target is CockroachDB; a rehearsal's is PostgreSQL. */
  isCockroach?: boolean
  plan: Plan
  stagingSchema: string
  program: string
  logFile: string
  extraArgs: readonly string[]
  /** Milliseconds without a heartbeat on the target after which a stream that does not move is called stuck. */
  stuckAfter: number
  watch: WatchLimits
  /** The publication as it was when it was found to be right. */
  publication?: PublicationMark
  /** The files of the source's tables before it begins. */
  files?: TableFiles
  signal: AbortSignal
}

/** How the stream is doing. Times in milliseconds, by this runner's monotonic clock alone. */
export interface StreamStatus {
  /** Age of the oldest heartbeat that has not arrived, or how long the last one took. */
  lagMs: number
  /** False while no heartbeat is written, for a drain: `lagMs` is the last that was measured then, and tells nothing of now. */
  beating: boolean
  /** Rows upserted and deleted on the target since the stream began, heartbeats included. */
  changes: number
  /** WAL that the slot keeps on the source, in bytes. */
  walBytes: number
  /** WAL that the stream has not acknowledged, in bytes. */
  behindBytes: number
  retries: number
  restarts: number
  /** Times that one of our own connections was lost and made again. */
  interruptions: number
}

/** Retries from which a stream counts as going round in circles, if the last one was no longer ago than the gap. */
const CIRCLING = 3
/** How often in a row a replicator may die without having brought anything over. */
const MAX_VAIN_LIVES = 5
const MOST_DIAGNOSES = 50

/**
 * A supervised stream: the replicator as a child process, and a heartbeat that travels through it from the source to
 * the target. The heartbeat is the only thing believed: the replicator looks calm when it is stuck.
 */
export class Stream {
  readonly options: StreamOptions
  readonly source: Link
  readonly target: Link
  /** A link carries one call at a time, so each loop has its own. */
  readonly #side: { slot: Link; source: Link; target: Link }
  readonly #watch: Watch
  #replicator: Replicator | undefined
  #beating = true
  #closing = false
  #over = false
  readonly #closed = new AbortController()
  #loops: Promise<void>[] = []
  #failure: Error | undefined
  /** The last heartbeat that was written, and when; the last that was read on the target, and how long it took. */
  #beat = 0
  #beatAt = performance.now()
  #seen = 0
  #latency: number | undefined
  /** Heartbeats that were written and have not arrived, the oldest first. */
  #unseen: { beat: number; at: number; retries: number }[] = []
  /** Positions of the source with the last heartbeat written before each, to hold the slot's position against. */
  #owed: { lsn: bigint; beat: number }[] = []
  /** Of the replicators that have ended, and of this one. */
  #past: StreamMetrics = noMetrics()
  #metrics: StreamMetrics = noMetrics()
  /** When a counter last moved, and when a session last worked on a transaction, which moves none before its end. */
  #movedAt = performance.now()
  #busyAt = Number.NEGATIVE_INFINITY
  /** Who holds the lock on the target for which the stream waits. */
  #blocked: string | null = null
  #slot: SlotFacts | undefined
  #publication: number | null | undefined
  #startLsn: string | null | undefined
  #since14: boolean | undefined
  /** Retries of the replicators that have ended, and dials at the last look at this one's. */
  #retriesBefore = 0
  #dialsBefore = 0
  /** The last retry, and the first of those that have followed each other within `retryGap`. */
  #retryAt = Number.NEGATIVE_INFINITY
  #circlingSince = 0
  #restarts = 0
  #diagnoses = new Map<string, number>()
  #observations: Observation[] = []

  constructor(options: StreamOptions) {
    this.options = options
    // An attempt to connect must not hold up the end of the stream.
    const over = AbortSignal.any([options.signal, this.#closed.signal])
    const source = () => new Link(options.sourceUrl, 'source', over)
    const target = () => new Link(options.targetUrl, 'target', over)
    this.source = source()
    this.target = target()
    this.#side = { slot: source(), source: source(), target: target() }
    this.#watch = new Watch(options.plan, options.watch, options.publication, options.files)
  }

  async start(): Promise<void> {
    await this.#launch()
    const loops = [this.#keepAlive(), this.#beats(), this.#look(), this.#measure(), this.#watchBoth()]
    this.#loops = loops.map((loop) =>
      loop.catch((error) => {
        // What we did to end a stream is not why it failed.
        if (!this.#closing || error instanceof VerdictError) this.#failure ??= error
      }),
    )
  }

  /** Ends a stream whose drain is proved: its work is done, and standing still is what it shall do. */
  async finish(): Promise<void> {
    this.#over = true
    await this.close()
  }

  /** Ends the replicator and every connection. The slot stays, so that a later stream goes on where this one ended. */
  async close(): Promise<void> {
    this.#closing = true
    this.#closed.abort()
    await this.#replicator?.stop()
    // Before the loops: one of them may wait for an answer from a server that never gives one.
    await this.#closeLinks()
    await Promise.all(this.#loops)
    // A loop that was between two calls has connected again.
    await this.#closeLinks()
  }

  get #links(): Link[] {
    return [this.source, this.target, ...Object.values(this.#side)]
  }

  async #closeLinks(): Promise<void> {
    await Promise.all(this.#links.map((link) => link.close()))
  }

  get status(): StreamStatus {
    const now = performance.now()
    const waiting = this.#unseen[0] ? now - this.#unseen[0].at : 0
    // Without a way to the source nobody knows the lag, however calm all else is.
    const silent = this.#beating && now - this.#beatAt > 4 * TIMING.heartbeat ? now - this.#beatAt : 0
    return {
      lagMs: Math.round(Math.max(this.#latency ?? Number.POSITIVE_INFINITY, waiting, silent)),
      beating: this.#beating,
      changes: this.#past.upserts + this.#past.deletes + this.#metrics.upserts + this.#metrics.deletes,
      walBytes: this.#slot?.walBytes ?? 0,
      behindBytes: this.#slot?.behindBytes ?? 0,
      retries: this.#retries,
      restarts: this.#restarts,
      interruptions: this.#links.reduce((sum, link) => sum + link.losses, 0),
    }
  }

  /** The slot as it was last seen, half a second ago at most while the source answers. */
  get slot(): SlotFacts | undefined {
    return this.#slot
  }

  /** The slot's position when this stream first saw it. */
  get startLsn(): string | null {
    return this.#startLsn ?? null
  }

  /** Why the replicator was in diagnosis, and how often; it may have got over it. */
  get diagnoses(): ReadonlyMap<string, number> {
    return this.#diagnoses
  }

  /** What the watches have seen and told so far. */
  get observations(): readonly Observation[] {
    return this.#observations
  }

  /** The files of the source's tables when they were last looked at. */
  get files(): TableFiles {
    return this.#watch.files
  }

  /** The replicator's process; another one after it was started again. */
  get pid(): number | undefined {
    return this.#replicator?.child.pid
  }

  async metrics(): Promise<StreamMetrics | undefined> {
    return this.#replicator?.metrics()
  }

  /** Stops writing heartbeats, so that a marker stays the last thing written, or goes on with them. */
  async pauseHeartbeat(pause: boolean): Promise<void> {
    this.#beating = !pause
    // A beat that is on its way is waited for: the same connection answers in order.
    if (pause) await this.source.use((db) => db.query('SELECT 1')).catch(() => {})
    else this.#beatAt = performance.now()
  }

  /**
   * @throws VerdictError when the stream is stuck, with the reason in words
   * @throws CancelledError when the run was asked to stop
   */
  check(): void {
    if (this.options.signal.aborted) throw new CancelledError()
    if (this.#failure) throw this.#failure
    if (this.#over) return
    const now = performance.now()
    const { stuckAfter } = this.options
    const circling = this.#circling
    // Another process may bring the heartbeats over while ours waits for the slot.
    if (circling && now - this.#circlingSince >= stuckAfter && this.#diagnosis()?.kind === 'slot-busy')
      throw this.stuck(`it has been refused the slot for ${seconds(now - this.#circlingSince)}`)
    if (this.#beating && now - this.#beatAt >= stuckAfter)
      throw this.stuck(`no heartbeat could be written to the source for ${seconds(now - this.#beatAt)}`)
    const oldest = this.#unseen[0]
    if (!oldest || now - oldest.at < stuckAfter) return
    // A stream that still applies changes is behind, not stuck; one that retries may apply the same ones for ever.
    if (!circling || this.#retries - oldest.retries < CIRCLING) {
      if (now - this.#movedAt < stuckAfter) return
      // One large transaction moves no counter until its end.
      if (!circling && now - this.#busyAt < stuckAfter) return
    }
    throw this.stuck(`no heartbeat has reached the target for ${seconds(now - oldest.at)}`)
  }

  /** The error for a stream that does not move: what was seen, why it is so, and what it last said. */
  stuck(seen: string): VerdictError {
    const said = this.#said()
    const diagnosis = this.#diagnosis()
    const parts = [`the stream is stuck: ${seen}`]
    if (diagnosis) parts.push(`because ${diagnosis.why}${this.#more(diagnosis)}`)
    else if (this.#blocked) parts.push(`because its session on the target waits for a lock that ${this.#blocked} holds`)
    else if (this.#publication === null) parts.push(`because the publication ${this.options.plan.publication} is gone`)
    const retried = this.#retries ? `retried ${plural(this.#retries, 'time')} and ` : ''
    if (said) parts.push(`the replicator ${retried}last said: ${said.slice(0, 400)}`)
    else
      parts.push(
        `the replicator said nothing about it${this.#slot?.active === false ? ', and nobody reads the slot' : ''}`,
      )
    notify('stream-stuck', { what: seen })
    return new VerdictError(this.#stuckCode(diagnosis), parts.join('; '))
  }

  #stuckCode(diagnosis: Diagnosis | undefined): ErrorCode {
    if (diagnosis) return `stream.stuck.${diagnosis.kind}`
    if (this.#blocked) return 'stream.stuck.lock'
    return this.#publication === null ? 'stream.stuck.publication' : 'stream.stuck.other'
  }

  /** What the databases know about it that the replicator does not say. */
  #more(diagnosis: Diagnosis): string {
    if (diagnosis.kind === 'connection') return sideText(this.#said(), this.options)
    if (diagnosis.kind === 'slot-busy' && this.#slot?.reader) return `: ${readerText(this.#slot.reader)}`
    if (diagnosis.kind === 'column' || diagnosis.kind === 'identity' || diagnosis.kind === 'missing-table') {
      const seen = this.#observations.filter(({ kind }) => isSchemaChange(kind)).map(({ what }) => what)
      const known = seen.length ? seen : this.#watch.differences
      return known.length ? ` (${known.slice(0, 3).join('; ')})` : ''
    }
    return ''
  }

  #said(): string | undefined {
    return this.#replicator?.lastDiagnosis ?? [...this.#diagnoses.keys()].at(-1)
  }

  #diagnosis(): Diagnosis | undefined {
    return translate(this.#said())
  }

  /** By its words, or by how often it has dialled when its words are in a form that is not known. */
  get #retries(): number {
    const { dials, dialFailures } = this.#metrics
    const now = Math.max(this.#replicator?.retries ?? 0, dials + dialFailures - 1)
    return this.#retriesBefore + Math.max(0, now)
  }

  get #circling(): boolean {
    return performance.now() - this.#retryAt < TIMING.retryGap
  }

  #noteRetries(): void {
    const dials = this.#metrics.dials + this.#metrics.dialFailures
    const last = Math.max(
      this.#replicator?.lastRetryAt ?? Number.NEGATIVE_INFINITY,
      dials > Math.max(1, this.#dialsBefore) ? performance.now() : Number.NEGATIVE_INFINITY,
    )
    this.#dialsBefore = dials
    if (last <= this.#retryAt) return
    if (last - this.#retryAt > TIMING.retryGap) this.#circlingSince = last
    this.#retryAt = last
  }

  async #launch(): Promise<void> {
    const { options } = this
    const { plan } = options
    this.#replicator = new Replicator({
      program: options.program,
      source: options.sourceUrl,
      target: options.login?.url ?? options.targetUrl,
      ...(options.login && { staging: options.targetUrl }),
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
    let vain = 0
    while (!this.#closing) {
      const replicator = this.#replicator as Replicator
      const before = { seen: this.#seen, position: this.#slot?.confirmedFlushLsn }
      await replicator.child.exited
      if (this.#closing) return
      // Not its counters: the last transaction is applied again by each new one.
      const useful = this.#seen > before.seen || this.#slot?.confirmedFlushLsn !== before.position
      vain = useful ? 0 : vain + 1
      const said = replicator.lastDiagnosis ?? replicator.child.lastWords
      const away = translate(said)?.kind === 'connection' && performance.now() - this.#beatAt < this.options.stuckAfter
      if ((vain >= MAX_VAIN_LIVES && !away) || notStarted(replicator)) throw this.#death(replicator, said)
      this.#restarts++
      this.#retriesBefore = this.#retries
      for (const key of Object.keys(this.#past) as (keyof StreamMetrics)[]) this.#past[key] += this.#metrics[key]
      this.#metrics = noMetrics()
      this.#dialsBefore = 0
      if (replicator.lastDiagnosis) this.#noteDiagnosis(replicator.lastDiagnosis, replicator.retries)
      await this.#pause(Math.min(TIMING.restartMost, TIMING.restart * vain))
      if (!this.#closing) await this.#launch()
    }
  }

  #death(replicator: Replicator, said: string): Error {
    const diagnosis = translate(said)
    if (!diagnosis || diagnosis.kind === 'other')
      return replicator.child.failure({ said, advice: 'Its whole log is in the evidence folder.' })
    return replicator.child.failure({
      code: `stream.stuck.${diagnosis.kind}`,
      said,
      advice: `That means: ${diagnosis.why}${this.#more(diagnosis)}.`,
    })
  }

  async #beats(): Promise<void> {
    while (!this.#closing) {
      if (this.#beating)
        await this.#surviving(async () => {
          const at = performance.now()
          this.#beat = await this.source.use((db) => writeMarker(db, ''))
          this.#beatAt = performance.now()
          this.#unseen.push({ beat: this.#beat, at, retries: this.#retries })
        })
      await this.#pause(TIMING.heartbeat)
    }
  }

  async #look(): Promise<void> {
    while (!this.#closing) {
      await this.#surviving(async () => {
        const owed = this.#mustBeThere()
        const seen = await this.target.use((db) => readMarker(db, this.options.plan.targetSchema))
        const now = performance.now()
        if (!seen) return
        if (seen.beat > this.#beat && this.#beat) await this.#requireWritten(seen.beat)
        this.#seen = seen.beat
        while (this.#unseen[0] && this.#unseen[0].beat <= seen.beat) {
          this.#latency = now - (this.#unseen.shift() as { at: number }).at
        }
        if (seen.beat < owed) throw this.#skipped(owed - seen.beat)
      })
      await this.#pause(TIMING.lagLook)
    }
  }

  /**
   * A beat that was never written would be taken for all that are still to come, and a stream that stands still for one
   * that has caught up. Ours may be on its way back to us, so the source is asked.
   */
  async #requireWritten(seen: number): Promise<void> {
    const written = await this.source.use(readBeat)
    if (seen > written)
      throw new VerdictError(
        'heartbeat.changed',
        `the heartbeat on the target says ${seen}, but the source has only written ${written}: somebody has changed it on the target, or another stream writes there, so nothing tells how far this one is. Set it right (UPDATE ${this.options.plan.targetSchema}.${HEARTBEAT} SET beat = 0, on the target), and find out who it was`,
      )
  }

  /** The last heartbeat that the slot's position says has been applied. */
  #mustBeThere(): number {
    const confirmed = this.#slot?.confirmedFlushLsn
    if (!confirmed) return 0
    const position = lsnNumber(confirmed)
    let beat = 0
    while (this.#owed[0] && this.#owed[0].lsn <= position) beat = (this.#owed.shift() as { beat: number }).beat
    return beat
  }

  /** The slot's position is past heartbeats that are not on the target: it was not our replicator that moved it. */
  #skipped(beats: number): VerdictError {
    return new VerdictError(
      'slot.moved',
      `the slot ${this.options.plan.slot} was recreated, moved on or read by somebody else: its position is past ${beats} heartbeats that never reached the target, so changes are lost, and the load must be repeated${this.#slot?.reader ? `. It is read now by ${readerText(this.#slot.reader)}` : ''}`,
    )
  }

  async #measure(): Promise<void> {
    while (!this.#closing) {
      const metrics = await this.#replicator?.metrics()
      if (metrics) {
        if (metrics.upserts + metrics.deletes !== this.#metrics.upserts + this.#metrics.deletes)
          this.#movedAt = performance.now()
        this.#metrics = metrics
      }
      this.#noteRetries()
      const diagnosis = this.#replicator?.lastDiagnosis
      if (diagnosis) this.#noteDiagnosis(diagnosis, this.#replicator?.retries ?? 0)
      await this.#surviving(() => this.#readSlot())
      await this.#pause(TIMING.slotLook)
    }
  }

  #noteDiagnosis(said: string, times: number): void {
    if (this.#diagnoses.has(said) || this.#diagnoses.size < MOST_DIAGNOSES) this.#diagnoses.set(said, times)
  }

  async #readSlot(): Promise<void> {
    const { plan } = this.options
    const beat = this.#beat
    const slot = await this.#side.slot.use(async (db) => {
      this.#since14 ??= Number((await db.query('SHOW server_version_num')).rows[0].server_version_num) >= 140000
      return readSlotFacts(db, plan.slot, plan.publication, this.#since14)
    })
    if (!slot)
      throw new VerdictError(
        'slot.missing',
        `the slot ${plan.slot} is gone: changes since then are lost, and the load must be repeated`,
      )
    const before = this.#slot
    this.#startLsn ??= slot.confirmedFlushLsn
    this.#slot = slot
    if (beat > (this.#owed.at(-1)?.beat ?? 0) && this.#owed.length < 10_000)
      this.#owed.push({ lsn: lsnNumber(slot.lsn), beat })
    if (slot.decoding && slot.active) this.#busyAt = performance.now()
    // A number that only grows while the slot lives.
    if (
      before?.serverStart === slot.serverStart &&
      (slot.decoded ?? 0) < (before.decoded ?? 0) &&
      slot.decoded !== null
    )
      throw new VerdictError(
        'slot.recreated',
        `the slot ${plan.slot} was recreated by somebody else: changes in between are lost, and the load must be repeated`,
      )
    this.#publication ??= slot.publication
    if (this.#publication !== slot.publication) {
      this.#publication = slot.publication
      throw new VerdictError(
        'publication.dropped',
        `the publication ${plan.publication} was dropped${slot.publication === null ? '' : ' and created again'}; under a live slot that does not heal: start over with a new slot`,
      )
    }
    this.#tell(walObservations(slot, this.options.watch))
    if (slot.walBytes > this.options.watch.walBudget / 2) notify('wal-half', { walBytes: String(slot.walBytes) })
    await this.#keepToBudget(slot)
  }

  /** A disk that fills stops the source for everybody, so this is never silent. */
  async #keepToBudget(slot: SlotFacts): Promise<void> {
    const { plan, watch } = this.options
    if (slot.walBytes <= watch.walBudget) return
    const kept = `the slot ${plan.slot} keeps ${number(slot.walBytes / 2 ** 20)} MiB of WAL on the source, more than \`wal-budget\` (${number(watch.walBudget / 2 ** 20)} MiB)`
    if (watch.onWalBudget === 'fail')
      throw new VerdictError(
        'slot.wal-budget',
        `${kept}; it still does. Find out what holds the stream up, raise the budget, or give up and drop the slot (\`abort\`) before the disk is full`,
      )
    this.#closing = true
    this.#closed.abort()
    await this.#replicator?.stop()
    await this.#side.slot.use((db) => seizeAndDrop(db, plan.slot))
    throw new VerdictError(
      'slot.wal-budget',
      `${kept}; \`on-wal-budget: drop-slot\` has dropped it, so the source's disk is safe, and the load must be repeated`,
    )
  }

  async #watchBoth(): Promise<void> {
    while (!this.#closing) {
      await this.#surviving(async () => this.#tell(await this.#side.source.use((db) => this.#watch.lookAtSource(db))))
      await this.#surviving(async () => {
        const { isCockroach = false } = this.options
        this.#tell(await this.#side.target.use((db) => this.#watch.lookAtTarget(db, isCockroach)))
        if (isCockroach || !this.#unseen[0] || performance.now() - this.#unseen[0].at < TIMING.watchLook) return
        const { busy, blocked } = await this.#side.target.use(applying)
        if (busy) this.#busyAt = performance.now()
        this.#blocked = blocked
      })
      await this.#pause(TIMING.watchLook)
    }
  }

  /** @throws VerdictError for what makes the stream's result wrong */
  #tell(found: readonly Observation[]): void {
    for (const observation of found) {
      const { kind, severity, what } = observation
      if (this.#observations.some((known) => known.what === what)) continue
      if (this.#observations.length < MOST_DIAGNOSES) this.#observations.push(observation)
      if (severity === 'fatal') throw new VerdictError(observationCode(kind), what)
      warning(what)
    }
  }

  /** A database that is away for a while is survived; the heartbeat that does not arrive tells when it is too long. */
  async #surviving(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      if (this.#closing && !(error instanceof VerdictError)) return
      if (!isConnectionLost(error)) throw error
      if (error instanceof UserError) this.#noteDiagnosis(messageOf(error), 1)
      await this.#pause(TIMING.reconnect)
    }
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#closed.signal }).catch(() => {})
  }
}

/** Which database the replicator speaks of, where it names the address of one alone. */
export function sideText(said: string | undefined, urls: { sourceUrl: string; targetUrl: string }): string {
  const named = (url: string) => {
    if (!URL.canParse(url)) return false
    const { hostname, port } = new URL(url)
    return hostname !== '' && said?.includes(`${hostname}:${port || 5432}`)
  }
  const [source, target] = [named(urls.sourceUrl), named(urls.targetUrl)]
  if (source === target) return ''
  return source ? ': the source' : ': the target'
}

function notStarted({ child }: Replicator): boolean {
  return child.exit?.code === null && !child.exit.signal
}

/**
 * Waits until the lag has been at most `maxLag` for `quietPeriod`, both in milliseconds.
 * @param deadline milliseconds from now
 * @throws VerdictError when the stream is stuck, or the deadline passes
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
