import { setTimeout as sleep } from 'node:timers/promises'
import type { Entry } from '../../ledger/ledger.ts'
import { type ProofState, type TableProof, writeProof } from '../../ledger/proof.ts'
import { connect, type Database, sqlState } from '../../runtime/database.ts'
import { UserError, VerdictError } from '../../runtime/errors.ts'
import { number, plural } from '../../runtime/progress.ts'
import { type ChangedKey, ChangeLog } from '../../source/change-log.ts'
import { HEARTBEAT, OUR_SCHEMA, readMarker, writeMarker } from '../../source/heartbeat.ts'
import { formatLsn, type Lsn, parseLsn } from '../../source/pgoutput.ts'
import { logSlotOf, seizeAndDrop } from '../../source/slot.ts'
import type { Stream } from '../stream/supervisor.ts'
import { writtenOtherwise } from '../verify/row-digests.ts'
import { DirtyKeys } from './dirty-keys.ts'
import { type OpenedLog, openLogSlot } from './log-slot.ts'
import { comparePieces, TablePass } from './pass.ts'
import { compareKeys, type Judged, recheck } from './round.ts'
import { oddOf } from './rows.ts'
import { type Endpoints, openSessions, type Sessions } from './sessions.ts'
import { type ProvableTable, readProvable } from './tables.ts'

export interface ProofOptions extends Endpoints {
  entry: Entry
  stream: Pick<Stream, 'status'>
  /** Chunks that are compared at a time. */
  concurrency: number
  /** Rows per second. */
  rate?: number
  /** Milliseconds; a table that was compared longer ago than half of it is compared again. */
  age?: number
  /** Milliseconds of the stream's lag from which the first pass waits. */
  maxLag: number
  /** Bytes of WAL that the log's slot may keep on the source. */
  walBudget: number
}

/** Keys that are held in memory: 200 MiB at most. */
const BUDGET = 1_000_000
/** Keys of one round, and milliseconds between two. */
const ROUND = 20_000
const ROUND_EVERY = 200
const SAVE_EVERY = 5_000
const MARKER_TIMEOUT = 10_000
const LOG_TIMEOUT = 30_000
const LOOK_EVERY = 10

/** A round that came to nothing, and is tried again. */
class Skipped extends Error {}

/** What the source says of both slots and of its transactions. */
interface Look {
  lsn: Lsn
  /** Every transaction with a lower id has ended and is visible. */
  xmin: bigint
  /** What the stream has confirmed. */
  confirmed: Lsn
  /** Who reads the stream's slot; empty when nobody does. */
  reader: string
  /** WAL that the log's slot keeps, in bytes. */
  walBytes: number
}

/** Tables that wait for a transaction from before it, and for the stream, before their first pass may begin. */
interface Baseline {
  tables: Set<string>
  lsn: Lsn
  xid: bigint
  beat: number
}

/**
 * The proof while its connections last: reads the log, compares chunks, compares changed keys again. When it fails
 * another session goes on from what the ledger has.
 */
export class ProofSession {
  readonly options: ProofOptions
  readonly dirty: DirtyKeys
  /** What is proved while it is streamed, and what is not, and why. */
  readonly tables = new Map<string, ProvableTable>()
  readonly others = new Map<string, string>()
  readonly proved = new Map<string, { began: string; rows: number }>()
  readonly passes = new Map<string, TablePass>()
  /** Rows that passes of this session have compared. */
  comparedRows = 0
  comparedMs = 0
  /** The source's position when every table was first proved. */
  provedAt: Lsn | undefined
  readonly #source: Database
  readonly #target: Database
  readonly #sessions: Sessions
  readonly #opened: OpenedLog
  readonly #stop = new AbortController()
  readonly #sticky = new Map<string, string>()
  readonly #waiting = new Set<string>()
  #log: ChangeLog | undefined
  #logEnd: Error | undefined
  #baseline: Baseline | undefined
  #look: Look = { lsn: 0n, xmin: 0n, confirmed: 0n, reader: '', walBytes: 0 }
  #reader = ''
  #position: Lsn
  #confirmed: Lsn
  #halted = false
  #busy: Promise<unknown> = Promise.resolve()
  #fencedAt: Lsn | undefined
  readonly #passed = new Set<string>()

  /** @throws the database's error, or UserError where the log cannot be read at all */
  static async open(options: ProofOptions): Promise<ProofSession> {
    const { sourceUrl, targetUrl, signal, plan, entry } = options
    const source = await connect(sourceUrl, 'source', undefined, signal)
    const opened: { end(): Promise<unknown> }[] = [source]
    try {
      await source.query('SET synchronous_commit = on')
      const target = await connect(targetUrl, 'target', undefined, signal)
      opened.push(target)
      const log = await openLogSlot(source, target, sourceUrl, entry, signal)
      // Before the log is attached, and before the marker of a baseline: later changes of files are seen.
      const provable = await readProvable(source, target, plan)
      const sessions = await openSessions(options)
      opened.push({ end: sessions.close })
      const session = new ProofSession(options, source, target, sessions, log)
      for (const [name, reason] of Object.entries(provable.others)) session.others.set(name, reason)
      for (const table of provable.tables) session.#begin(table, log.state?.tables[table.name])
      await session.#attach(log.slot)
      return session
    } catch (error) {
      await Promise.all(opened.map((each) => each.end().catch(() => {})))
      throw error
    }
  }

  private constructor(options: ProofOptions, source: Database, target: Database, sessions: Sessions, log: OpenedLog) {
    this.options = options
    this.#source = source
    this.#target = target
    this.#sessions = sessions
    this.#opened = log
    this.#position = parseLsn(log.state?.position ?? '')
    this.#confirmed = parseLsn(log.state?.confirmed ?? '')
    this.dirty = new DirtyKeys(BUDGET, (table) => this.#restart(table))
  }

  /** @param before what an earlier run has proved of it, with every change since in the log */
  #begin(table: ProvableTable, before: TableProof | undefined): void {
    this.tables.set(table.name, table)
    if (before?.files !== table.files) {
      this.#waiting.add(table.name)
      return
    }
    if (before.proved) this.proved.set(table.name, before.proved)
    if (before.pass || !before.proved) this.passes.set(table.name, new TablePass(table, before.pass))
  }

  /** Nothing that was found out about a table counts any more. */
  #restart(name: string): void {
    this.dirty.drop(name)
    this.proved.delete(name)
    this.passes.delete(name)
    this.#baseline?.tables.delete(name)
    this.#waiting.add(name)
    this.provedAt = undefined
  }

  #exclude(name: string, reason: string): void {
    this.#restart(name)
    this.#waiting.delete(name)
    this.tables.delete(name)
    this.others.set(name, reason)
  }

  async #attach(slot: string): Promise<void> {
    const { sourceUrl, plan } = this.options
    for (let attempt = 0; ; attempt++)
      try {
        this.#log = await ChangeLog.attach({
          ...{ sourceUrl, slot, publication: plan.publication },
          onChange: (change) => this.#change(change),
          onEnd: (error) => {
            this.#logEnd = error
          },
        })
        return
      } catch (error) {
        // The server takes a moment to see that an earlier reader is gone.
        if (sqlState(error) !== '55006' || attempt >= 50) throw error
        await sleep(100)
      }
  }

  #change(change: ChangedKey): void {
    const { schema, table, at } = change
    if (schema === OUR_SCHEMA && table === HEARTBEAT) return
    if (this.#fencedAt !== undefined && at >= this.#fencedAt) this.#passed.add(table)
    if (schema === this.options.plan.sourceSchema && this.tables.has(table)) this.dirty.mark(change)
    else if (!this.others.has(table))
      throw new Error(`the change log tells of the table ${schema}.${table}, which is not expected`)
  }

  /** Whether every table that can be proved is, but for the keys that are open. */
  get complete(): boolean {
    return [...this.tables.keys()].every((name) => this.proved.has(name))
  }

  /** Bytes of WAL that the log has not read. */
  get behind(): number {
    return Number(this.#look.lsn - (this.#log?.position ?? 0n))
  }

  /** Keeps the proof until it is halted. @throws VerdictError when rows are lost, or whatever ended it */
  async run(): Promise<void> {
    const passes = this.#passLoop()
    const rounds = this.#roundLoop()
    try {
      await Promise.race([passes, rounds])
      await rounds
    } finally {
      this.#stop.abort()
      await Promise.allSettled([passes, rounds])
    }
  }

  /** Ends what goes on, at the next moment when nothing is half done. The log is read on. */
  async halt(): Promise<void> {
    this.#halted = true
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
    return this.#halted || this.#stop.signal.aborted
  }

  async #roundLoop(): Promise<void> {
    let savedAt = performance.now()
    while (!this.#over) {
      const due = performance.now() - savedAt >= SAVE_EVERY
      if (due) savedAt = performance.now()
      this.#busy = this.#round(due).catch((error) => {
        if (!(error instanceof Skipped)) throw error
      })
      await this.#busy
      await sleep(this.dirty.open >= ROUND ? 0 : ROUND_EVERY, undefined, { signal: this.#stop.signal }).catch(() => {})
    }
  }

  async #round(save: boolean): Promise<void> {
    if (this.#logEnd) throw this.#logEnd
    await this.#lookAtSource()
    await this.#advanceBaseline()
    this.dirty.confirmed(this.#confirmed)
    this.#finishPasses()
    if (save) {
      await this.#refresh()
      await this.save()
    }
    const keys = this.dirty.take(ROUND)
    if (!keys.length || this.#over) return
    const { lost, spoilt } = await recheck(
      {
        sessions: this.#sessions,
        tables: this.tables,
        dirty: this.dirty,
        reader: async () => (await this.#lookAtSource()).reader,
        passMarker: () => this.#passMarker(),
        readLog: () => this.#readLog(true),
        exclude: (name, verdict) => this.#cannotTell(name, verdict),
        signal: this.options.signal,
      },
      keys,
    )
    if (spoilt) this.dirty.reopen()
    if (lost.length) throw lostRows(lost, false)
  }

  #cannotTell(name: string, verdict: 'unreadable' | 'unknown'): void {
    const table = this.tables.get(name)
    if (!table) return
    const reason =
      verdict === 'unreadable'
        ? 'its keys are written differently by both servers'
        : oddOf(table).map(writtenOtherwise).join('; ')
    this.#sticky.set(name, reason)
    this.#exclude(name, reason)
  }

  async #lookAtSource(): Promise<Look> {
    const { plan, stream, walBudget } = this.options
    const { rows } = await this.#source.query(
      `SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn,
              pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())::text AS xmin,
              s.confirmed_flush_lsn::text AS confirmed, s.active_pid || ' ' || a.backend_start AS reader,
              (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::float8
                 FROM pg_catalog.pg_replication_slots WHERE slot_name = $2) AS "walBytes"
         FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
        WHERE s.slot_name = $1`,
      [plan.slot, logSlotOf(plan.slot)],
    )
    const [row] = rows
    if (!row) throw new UserError('slot.missing', `the slot ${plan.slot} is gone`)
    const confirmed = parseLsn(row.confirmed)
    if (confirmed < this.#confirmed)
      throw new Error('the stream has gone back behind what it had confirmed: the source was restarted after a crash')
    this.#confirmed = confirmed
    const reader = row.reader ? `${row.reader} ${stream.status.restarts}` : ''
    if (reader !== this.#reader) {
      this.#reader = reader
      this.dirty.reopen()
    }
    this.#look = { lsn: parseLsn(row.lsn), xmin: BigInt(row.xmin), confirmed, reader, walBytes: row.walBytes ?? 0 }
    if (this.#look.walBytes > walBudget) {
      await this.#log?.close()
      await seizeAndDrop(this.#source, logSlotOf(plan.slot))
      throw new UserError('slot.wal-budget', 'the slot of the change log kept more than `wal-budget`, and was dropped')
    }
    return this.#look
  }

  /**
   * WAL order is not the order in which commits become visible. So a first pass begins once every transaction from
   * before the marker has ended and is visible, and the stream has confirmed what was committed before it.
   */
  async #advanceBaseline(): Promise<void> {
    const { plan } = this.options
    if (!this.#baseline && this.#waiting.size) {
      const { lsn } = this.#look
      const { rows } = await this.#source.query(
        `UPDATE ${OUR_SCHEMA}.${HEARTBEAT} SET beat = beat + 1, marker = '' WHERE id = 1
         RETURNING beat, pg_catalog.txid_current()::text AS xid`,
      )
      if (!rows[0]) throw new VerdictError('heartbeat.missing', 'the heartbeat on the source is gone')
      this.#baseline = { tables: new Set(this.#waiting), lsn, xid: BigInt(rows[0].xid), beat: Number(rows[0].beat) }
      this.#waiting.clear()
    }
    const baseline = this.#baseline
    if (!baseline) return
    const { xmin, confirmed } = this.#look
    if (xmin <= baseline.xid || confirmed < baseline.lsn) return
    if (((await readMarker(this.#target, plan.targetSchema))?.beat ?? 0) < baseline.beat) return
    this.#baseline = undefined
    for (const name of baseline.tables) {
      const table = this.tables.get(name)
      if (table) this.passes.set(name, new TablePass(table))
    }
  }

  #finishPasses(): void {
    const { age } = this.options
    for (const [name, pass] of this.passes) {
      if (!pass.advance(this.dirty.suspectChunks(name))) continue
      this.proved.set(name, { began: pass.began, rows: pass.progress.rows })
      this.passes.delete(name)
    }
    if (this.complete) this.provedAt ??= this.#look.lsn
    if (!age) return
    for (const [name, { began }] of this.proved) {
      const table = this.tables.get(name)
      if (table && !this.passes.has(name) && Date.now() - Date.parse(began) > age / 2)
        this.passes.set(name, new TablePass(table))
    }
  }

  /** What DDL does to a table, on either side, voids what was proved of it: it begins anew. */
  async #refresh(): Promise<void> {
    const { tables, others } = await readProvable(this.#source, this.#target, this.options.plan)
    for (const [name, reason] of Object.entries(others))
      if (this.others.get(name) !== reason) this.#exclude(name, reason)
    for (const table of tables) {
      const before = this.tables.get(table.name)
      if (this.#sticky.has(table.name) || (before && sameTable(before, table))) continue
      this.others.delete(table.name)
      this.tables.set(table.name, table)
      this.#restart(table.name)
    }
  }

  async #passLoop(): Promise<void> {
    const { stream, maxLag } = this.options
    const pause = (ms: number) => sleep(ms, undefined, { signal: this.#stop.signal }).catch(() => {})
    while (!this.#over) {
      const began = performance.now()
      const before = this.comparedRows
      await comparePieces({
        ...this.options,
        signal: AbortSignal.any([this.options.signal, this.#stop.signal]),
        dirty: this.dirty,
        next: () => (this.#over ? undefined : [...this.passes.values()].find((pass) => !pass.exhausted)),
        yield: async () => {
          while (!this.#over && (stream.status.lagMs > maxLag || this.dirty.open > BUDGET / 4)) await pause(100)
        },
        position: async () => (await this.#sourceLsn()) as Lsn,
        onUnknown: (table) => this.#cannotTell(table.name, 'unknown'),
        isCurrent: (pass) => this.passes.get(pass.table.name) === pass,
        onCompared: (rows) => {
          this.comparedRows += rows
        },
      }).catch((error) => {
        if (!this.#over) throw error
      })
      if (this.comparedRows > before) this.comparedMs += performance.now() - began
      await pause(200)
    }
  }

  async #sourceLsn(): Promise<Lsn> {
    const { rows } = await this.#source.query('SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn')
    return parseLsn(rows[0].lsn)
  }

  async #passMarker(): Promise<void> {
    const beat = await writeMarker(this.#source, '')
    const end = performance.now() + MARKER_TIMEOUT
    for (;;) {
      const seen = await readMarker(this.#target, this.options.plan.targetSchema)
      if (seen && seen.beat >= beat) return
      if (this.#over || performance.now() > end) throw new Skipped()
      await sleep(LOOK_EVERY)
    }
  }

  /** @param whileStreaming whether it may be tried again later */
  async #readLog(whileStreaming: boolean): Promise<void> {
    const lsn = await this.#sourceLsn()
    // Something to read past the position, as the log is told of commits.
    if (!whileStreaming) await writeMarker(this.#source, '')
    const end = performance.now() + LOG_TIMEOUT
    while ((this.#log?.position ?? 0n) < lsn) {
      if (this.#logEnd) throw this.#logEnd
      if (whileStreaming && (this.#over || performance.now() > end)) throw new Skipped()
      if (performance.now() > end)
        throw new VerdictError('verify.inconclusive', 'the change log could not be read to the end in the write pause')
      await sleep(whileStreaming ? LOOK_EVERY : 2)
    }
  }

  /** Writes down what is proved, then lets the source forget what is not needed any more. */
  async save(): Promise<void> {
    const read = this.dirty.confirmable(this.#log?.position ?? 0n)
    const safe = read < this.#confirmed ? read : this.#confirmed
    if (safe > this.#position) this.#position = safe
    await writeProof(this.#target, this.options.entry.id, this.state)
    this.#log?.confirm(this.#position)
  }

  get state(): ProofState {
    const tables: Record<string, TableProof> = {}
    for (const [name, { files }] of this.tables) {
      const [proved, pass] = [this.proved.get(name), this.passes.get(name)]
      if (proved || pass) tables[name] = { files, ...(proved && { proved }), ...(pass && { pass: pass.progress }) }
    }
    return {
      load: this.options.entry.facts.stagingSchema ?? '',
      ...this.#opened.identity,
      position: formatLsn(this.#position),
      confirmed: formatLsn(this.#confirmed),
      tables,
      others: Object.fromEntries(this.others),
      open: this.dirty.open,
      at: new Date().toISOString(),
    }
  }

  /**
   * In the write pause, once the drain is proved and the stream is off: reads the log to its end, and compares what is
   * open. Whatever differs now is lost.
   * @param fencedAt a position from which on no row may change: before the marker of the drain
   */
  async compareRest(fencedAt: Lsn, signal: AbortSignal): Promise<Rest> {
    this.#fencedAt = fencedAt
    for (const table of this.dirty.changedSince(fencedAt)) this.#passed.add(table)
    await this.readToDecision()
    const unproved = new Map(this.others)
    const now = await readProvable(this.#source, this.#target, this.options.plan)
    for (const [name, reason] of Object.entries(now.others)) unproved.set(name, reason)
    for (const table of now.tables) {
      const before = this.tables.get(table.name)
      if (!before || !sameTable(before, table))
        unproved.set(table.name, this.#sticky.get(table.name) ?? 'it was rewritten or changed since it was compared')
      else if (!this.proved.has(table.name)) unproved.set(table.name, 'it is not compared to the end yet')
    }
    await this.#lookAtSource()
    this.dirty.confirmed(this.#confirmed)
    this.dirty.reopen()
    for (const name of unproved.keys()) this.dirty.drop(name)
    const keys = this.dirty.take()
    const judged = await compareKeys(this.#sessions, this.tables, keys, signal)
    const lost = judged.filter(({ verdict }) => verdict === 'differs')
    if (lost.length) throw lostRows(lost, true)
    for (const { key, verdict } of judged) {
      if (verdict === 'equal') this.dirty.equal(key)
      else unproved.set(key.table, 'a row that changed last could not be read by its key')
    }
    return { compared: keys.length, unproved }
  }

  /** Reads the log to the source's position now. @throws VerdictError when it tells of a write behind the fence */
  async readToDecision(): Promise<void> {
    await this.#readLog(false)
    this.requireFenced()
  }

  requireFenced(): void {
    if (this.#logEnd) throw this.#logEnd
    if (this.#passed.size)
      throw new VerdictError(
        'fence.write-passed',
        `a write passed the fence: the change log tells of rows of ${[...this.#passed].join(', ')} that were changed after the drain`,
      )
  }
}

/** What the pause has compared, and the tables that must be compared in full, with the reason for each. */
export interface Rest {
  compared: number
  unproved: Map<string, string>
}

function sameTable(a: ProvableTable, b: ProvableTable): boolean {
  const shape = ({ files, key, keyIndex, parts }: ProvableTable) => JSON.stringify([files, key, keyIndex, parts])
  return shape(a) === shape(b)
}

/** Tables and counts alone: keys are customers' data. */
function lostRows(lost: readonly Judged[], drained: boolean): VerdictError {
  const counts = new Map<string, Record<Judged['kind'], number>>()
  for (const { key, kind } of lost) {
    const of = counts.get(key.table) ?? { missing: 0, mismatch: 0, extraneous: 0 }
    of[kind]++
    counts.set(key.table, of)
  }
  const texts = [...counts].map(([table, { missing, mismatch, extraneous }]) => {
    const parts = [
      missing && `${number(missing)} missing`,
      mismatch && `${number(mismatch)} different`,
      extraneous && `${number(extraneous)} extraneous`,
    ]
    return `${table}: ${parts.filter(Boolean).join(', ')}`
  })
  return new VerdictError(
    drained ? 'verify.rows-lost' : 'verify.differences',
    `source and target differ in ${plural(lost.length, 'row')} at least (${texts.join('; ')}). ${drained ? 'The drain was proved, so this is loss. Nothing was decided.' : 'The source has not changed these rows, and the stream has passed them, so this is no lag.'} Find the cause, then abort, and prepare and load again`,
  )
}
