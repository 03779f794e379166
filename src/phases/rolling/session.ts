import { setTimeout as sleep } from 'node:timers/promises'
import type { Entry } from '../../ledger/ledger.ts'
import { type ProofState, writeProof } from '../../ledger/proof.ts'
import { ConnectError, connect, type Database, sqlState } from '../../runtime/database.ts'
import { messageOf, UserError, VerdictError } from '../../runtime/errors.ts'
import { seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { type ChangedKey, ChangeLog } from '../../source/change-log.ts'
import { HEARTBEAT, OUR_SCHEMA, readMarker, writeMarker } from '../../source/heartbeat.ts'
import { formatLsn, type Lsn, parseLsn } from '../../source/pgoutput.ts'
import { logSlotOf, seizeAndDrop } from '../../source/slot.ts'
import { scrubText } from '../../tools/scrub.ts'
import type { Stream } from '../stream/supervisor.ts'
import { keepsUp, type OpenedLog, openLogSlot } from './log-slot.ts'
import { lostRows } from './lost.ts'
import { comparePieces } from './pass.ts'
import { compareKeys, recheck } from './round.ts'
import { type Endpoints, openSessions, type Sessions } from './sessions.ts'
import { BUDGET, TableProofs } from './table-proofs.ts'
import { type Provable, type ProvableTable, readProvable } from './tables.ts'
import { type Baseline, baselineHolds, type Look, lookAtSource, markBaseline, sourceLsn } from './vantage.ts'

export interface ProofOptions extends Endpoints {
  entry: Entry
  stream: Pick<Stream, 'status'>
  /** Chunks compared at once. */
  concurrency: number
  /** Rows per chunk, and maximum number of keys held in memory. */
  chunk?: number
  budget?: number
  /** Maximum rows per second. */
  rate?: number
  /** Maximum age of a comparison in milliseconds. A table is compared again once half of this has passed. */
  age?: number
  /** Passes wait while the stream's lag exceeds this many milliseconds. */
  maxLag: number
  /** Bytes of WAL that the log's slot may keep on the source. */
  walBudget: number
}

/** Number of keys compared in the write pause, and the tables that must be compared in full, with the reason. */
export interface Rest {
  compared: number
  unproved: Map<string, string>
}

/** Maximum number of keys per round, and the minimum number needed to measure the speed. */
const ROUND = 20_000
const SPEED_BY = 500

/** Ends a round without a result. The round is retried. */
class Skipped extends Error {}

/**
 * Maintains the proof as long as its connections last: reads the change log, compares chunks, and compares changed keys
 * again. After a failure, another session resumes from the state in the ledger.
 */
export class ProofSession {
  readonly #options: ProofOptions
  readonly proofs: TableProofs
  /** Number of rows that this session's passes have compared, and the time taken, in milliseconds. */
  readonly compared = { rows: 0, ms: 0 }
  /** Number of keys compared again, and the time taken. Counts only rounds large enough to measure the speed. */
  readonly rechecked = { keys: 0, ms: 0 }
  /** The source's position when every table was first proved; undefined while one is not. */
  provedAt: Lsn | undefined
  readonly #source: Database
  readonly #target: Database
  readonly #sessions: Sessions
  readonly #opened: OpenedLog
  readonly #stop = new AbortController()
  #log: ChangeLog | undefined
  #logEnd: Error | undefined
  #baseline: Baseline | undefined
  #look: Look = { lsn: 0n, xmin: 0n, confirmed: 0n, reader: '', walBytes: 0 }
  #reader = ''
  #position: Lsn
  #confirmed: Lsn
  #busy: Promise<unknown> = Promise.resolve()
  #fencedAt: Lsn | undefined
  #lost = 0
  readonly #passed = new Set<string>()
  /** Caches, for each list of columns in the change log, whether it is the table's primary key. */
  readonly #identities = new WeakMap<readonly string[], boolean>()

  /**
   * Connects to both sides and attaches to the change log.
   * @throws the database's error, or UserError if the change log cannot be read
   */
  static async open(options: ProofOptions): Promise<ProofSession> {
    const { sourceUrl, targetUrl, signal, plan, entry } = options
    const source = await connect(sourceUrl, 'source', undefined, signal)
    const opened: { end(): Promise<unknown> }[] = [source]
    try {
      // A marker appears in the log once it is on the source's disk, so do not wait for a standby as well.
      await source.query('SET synchronous_commit = local')
      const target = await connect(targetUrl, 'target', undefined, signal)
      opened.push(target)
      const log = await openLogSlot(source, target, sourceUrl, entry, signal)
      // Read this before attaching the log and before writing a baseline's marker, so that later changes to files are
      // noticed.
      const provable = await readProvable(source, target, plan)
      const sessions = await openSessions(options)
      opened.push({ end: sessions.close })
      const session = new ProofSession(options, { source, target }, sessions, log, provable)
      await session.#attach(log.slot)
      // No other client can move the slot from here on, but one may have done so since it was checked.
      if (log.state && !(await keepsUp(source, log.slot, log.state)))
        throw new Error('the slot of the change log was advanced by another client')
      return session
    } catch (error) {
      await Promise.all(opened.map((each) => each.end().catch(() => {})))
      throw error
    }
  }

  private constructor(
    options: ProofOptions,
    { source, target }: { source: Database; target: Database },
    sessions: Sessions,
    log: OpenedLog,
    provable: Provable,
  ) {
    this.#options = options
    this.#source = source
    this.#target = target
    this.#sessions = sessions
    this.#opened = log
    this.#position = parseLsn(log.state?.position ?? '')
    this.#confirmed = parseLsn(log.state?.confirmed ?? '')
    this.proofs = new TableProofs(provable, log.state, options.budget)
    // A server that is shutting down waits until its slots have no readers.
    source.once('end', () => {
      this.#logEnd ??= new ConnectError(
        'database.connection-lost',
        'the source has ended the session of the rolling proof',
      )
      void this.#log?.close()
    })
  }

  async #attach(slot: string): Promise<void> {
    const { sourceUrl, plan } = this.#options
    for (let attempt = 0; ; attempt++)
      try {
        this.#log = await ChangeLog.attach({
          sourceUrl,
          slot,
          publication: plan.publication,
          onChange: (change) => this.#change(change),
          onEnd: (error) => {
            this.#logEnd = error
          },
        })
        return
      } catch (error) {
        // The server needs a moment to notice that an earlier reader is gone.
        if (sqlState(error) !== '55006' || attempt >= 50) throw error
        await sleep(TIMING.readerLook)
      }
  }

  #change(change: ChangedKey): void {
    const { schema, table, at } = change
    if (schema === OUR_SCHEMA && table === HEARTBEAT) return
    if (this.#fencedAt !== undefined && at >= this.#fencedAt) this.#passed.add(table)
    const { others } = this.proofs
    const provable = schema === this.#options.plan.sourceSchema ? this.proofs.tables.get(table) : undefined
    if (provable) this.#mark(change, provable)
    else if (!others.has(table))
      throw new Error(`the change log contains rows of ${schema}.${table}, which is not an expected table`)
  }

  /**
   * Records a changed key. If the replica identity is not the primary key, the log may name the wrong row, so the table
   * starts over.
   */
  #mark(change: ChangedKey, table: ProvableTable): void {
    const { columns } = change
    if (!this.#identities.has(columns)) {
      const right = columns.length === table.key.length && table.key.every(({ name }, i) => name === columns[i])
      this.#identities.set(columns, right)
    }
    if (this.#identities.get(columns)) this.proofs.dirty.mark(change)
    else this.proofs.restart(table.name)
  }

  /** Bytes of WAL that have not yet been read from the log. */
  get behind(): number {
    return Number(this.#look.lsn - (this.#log?.position ?? 0n))
  }

  /**
   * Maintains the proof until {@link halt}.
   * @throws VerdictError if rows are lost, or the error that ended the session
   */
  async run(): Promise<void> {
    const loops = [this.#passLoop(), this.#roundLoop()]
    try {
      await Promise.all(loops)
    } finally {
      this.#stop.abort()
      await Promise.allSettled(loops)
    }
  }

  /** Stops comparing at the next safe moment. The session continues to read the log. */
  async halt(): Promise<void> {
    this.#stop.abort()
    await this.#busy.catch(() => {})
  }

  async close(): Promise<void> {
    await this.halt()
    await this.#log?.close()
    await this.#sessions.close()
    await Promise.all([this.#source, this.#target].map((db) => db.end().catch(() => {})))
  }

  get #over(): boolean {
    return this.#stop.signal.aborted
  }

  #pause(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: this.#stop.signal }).catch(() => {})
  }

  async #roundLoop(): Promise<void> {
    let savedAt = performance.now()
    while (!this.#over) {
      const due = performance.now() - savedAt >= TIMING.proofSave
      if (due) savedAt = performance.now()
      this.#busy = this.#round(due).catch((error) => {
        if (!(error instanceof Skipped)) throw error
      })
      await this.#busy
      if (this.proofs.dirty.open < ROUND) await this.#pause(TIMING.proofRound)
    }
  }

  async #round(save: boolean): Promise<void> {
    const { proofs } = this
    const { dirty } = proofs
    if (this.#logEnd) throw this.#logEnd
    await this.#lookAtSource()
    await this.#advanceBaseline()
    dirty.confirmed(this.#confirmed)
    proofs.finishPasses(this.#options.age)
    this.provedAt = proofs.complete ? (this.provedAt ?? this.#look.lsn) : undefined
    if (save) {
      proofs.refresh(await readProvable(this.#source, this.#target, this.#options.plan))
      await this.save()
    }
    const keys = dirty.take(ROUND)
    if (!keys.length || this.#over) return
    const { lost, spoilt } = await recheck(
      {
        sessions: this.#sessions,
        tables: proofs.tables,
        dirty,
        signal: this.#options.signal,
        reader: async () => (await this.#lookAtSource()).reader,
        passMarker: () => this.#passMarker(),
        readLog: () => this.#readLog(true),
        onCompared: (count, ms) => {
          if (count < SPEED_BY) return
          this.rechecked.keys += count
          this.rechecked.ms += ms
        },
        exclude: (name, verdict) => proofs.cannotTell(name, verdict),
      },
      keys,
    )
    if (spoilt) dirty.reopen()
    if (!lost.length) return
    this.#lost = lost.length
    await this.save()
    throw lostRows(lost, false)
  }

  async #lookAtSource(): Promise<Look> {
    const { plan, stream, walBudget } = this.#options
    const look = await lookAtSource(this.#source, plan)
    if (look.confirmed < this.#confirmed)
      throw new Error("the stream's slot has moved back, because the source restarted after a crash")
    this.#confirmed = look.confirmed
    const reader = look.reader && `${look.reader} ${stream.status.restarts}`
    if (reader !== this.#reader) this.proofs.dirty.reopen()
    this.#reader = reader
    this.#look = { ...look, reader }
    if (look.walBytes > walBudget) {
      await this.#log?.close()
      await seizeAndDrop(this.#source, logSlotOf(plan.slot))
      throw new UserError(
        'slot.wal-budget',
        'the slot of the change log kept more WAL than `wal-budget` allows, so it was dropped',
      )
    }
    return this.#look
  }

  async #advanceBaseline(): Promise<void> {
    const { waiting } = this.proofs
    if (!this.#baseline && waiting.size) {
      const names = [...waiting]
      this.#baseline = await markBaseline(this.#source, names)
      for (const name of names) waiting.delete(name)
    }
    if (!this.#baseline) return
    if (!(await baselineHolds(this.#baseline, this.#look, this.#target, this.#options.plan))) return
    this.proofs.beginPasses(this.#baseline.tables)
    this.#baseline = undefined
  }

  async #passLoop(): Promise<void> {
    const { stream, maxLag, signal } = this.#options
    const { proofs } = this
    while (!this.#over) {
      const began = performance.now()
      const before = this.compared.rows
      await comparePieces({
        ...this.#options,
        signal: AbortSignal.any([signal, this.#stop.signal]),
        dirty: proofs.dirty,
        next: () => (this.#over ? undefined : [...proofs.passes.values()].find((pass) => !pass.exhausted)),
        yield: async () => {
          const busy = () => stream.status.lagMs > maxLag || proofs.dirty.open > BUDGET / 4
          while (!this.#over && busy()) await this.#pause(TIMING.caughtUpLook)
        },
        onUnknown: ({ name }) => proofs.cannotTell(name, 'unknown'),
        isCurrent: (pass) => proofs.passes.get(pass.table.name) === pass,
        onCompared: (rows) => {
          this.compared.rows += rows
        },
      }).catch((error) => {
        if (!this.#over) throw error
      })
      if (this.compared.rows > before) this.compared.ms += performance.now() - began
      await this.#pause(TIMING.proofRound)
    }
  }

  async #passMarker(): Promise<void> {
    const beat = await writeMarker(this.#source, '')
    const end = performance.now() + TIMING.proofMarker
    for (;;) {
      const seen = await readMarker(this.#target, this.#options.plan.targetSchema)
      if (seen && seen.beat >= beat) return
      if (this.#over || performance.now() > end) throw new Skipped()
      await sleep(TIMING.markerLook)
    }
  }

  /**
   * Waits until the log has been read up to the source's current position.
   * @param whileStreaming whether a failure can be retried later
   */
  async #readLog(whileStreaming: boolean): Promise<void> {
    const lsn = await sourceLsn(this.#source)
    // The log reports only commits to published tables, so its position may not move without such a commit.
    if (!whileStreaming) await writeMarker(this.#source, '')
    const end = performance.now() + TIMING.proofLog
    while ((this.#log?.position ?? 0n) < lsn) {
      if (this.#logEnd) throw whileStreaming ? this.#logEnd : endedLog(this.#logEnd)
      const late = performance.now() > end
      if (whileStreaming && (this.#over || late)) throw new Skipped()
      if (late)
        throw new VerdictError(
          'verify.inconclusive',
          `the change log could not be read to its end within ${seconds(TIMING.proofLog)} in the write pause. Run \`cutover\` again`,
        )
      await sleep(TIMING.proofLogLook)
    }
  }

  /** Saves what is proved, then lets the source remove WAL that is no longer needed. */
  async save(): Promise<void> {
    const read = this.proofs.dirty.confirmable(this.#log?.position ?? 0n)
    const safe = read < this.#confirmed ? read : this.#confirmed
    if (safe > this.#position) this.#position = safe
    await writeProof(this.#target, this.#options.entry.id, this.state)
    this.#log?.confirm(this.#position)
  }

  get state(): ProofState {
    return {
      load: this.#options.entry.facts.stagingSchema ?? '',
      ...this.#opened.identity,
      position: formatLsn(this.#position),
      confirmed: formatLsn(this.#confirmed),
      ...this.proofs.state,
      lost: this.#lost,
      at: new Date().toISOString(),
    }
  }

  /**
   * Reads the rest of the log and compares the open keys. Called in the write pause, after the drain is proved and the
   * stream has ended, so a row that differs now is lost.
   * @param fencedAt the position before the drain's marker, after which no row may have changed
   */
  async compareRest(fencedAt: Lsn, signal: AbortSignal): Promise<Rest> {
    const { dirty, tables } = this.proofs
    const { entry, plan } = this.#options
    this.#fencedAt = fencedAt
    for (const table of dirty.changedSince(fencedAt)) this.#passed.add(table)
    await this.readToDecision()
    const now = await readProvable(this.#source, this.#target, plan, entry.facts.deferred)
    const unproved = this.proofs.unproved(now)
    await this.#lookAtSource()
    dirty.confirmed(this.#confirmed)
    dirty.reopen()
    // Their changes are forgotten, so a later attempt may not count them as proved.
    for (const name of unproved.keys()) if (tables.has(name)) this.proofs.restart(name)
    const keys = dirty.take()
    const judged = await compareKeys(this.#sessions, tables, keys, signal)
    const lost = judged.filter(({ verdict }) => verdict === 'differs')
    this.#lost = lost.length
    if (lost.length) throw lostRows(lost, true)
    for (const { key, verdict } of judged) {
      if (verdict === 'equal') dirty.equal(key)
      else unproved.set(key.table, 'a recently changed row could not be read by its key')
    }
    return { compared: keys.length, unproved }
  }

  /**
   * Reads the log up to the source's current position.
   * @throws VerdictError if the log contains a write that passed the fence
   */
  async readToDecision(): Promise<void> {
    await this.#readLog(false)
    if (this.#logEnd) throw endedLog(this.#logEnd)
    if (this.#passed.size)
      throw new VerdictError(
        'fence.write-passed',
        `a write passed the fence: the change log shows that rows of ${[...this.#passed].join(', ')} changed after the drain`,
      )
  }
}

/** The error for a change log that has ended in the write pause. */
function endedLog(error: Error): VerdictError {
  return new VerdictError(
    'verify.inconclusive',
    `the change log ended in the write pause (${scrubText(messageOf(error))}), so nothing shows which rows changed last. Run \`cutover\` again`,
  )
}
