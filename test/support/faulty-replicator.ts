import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import {
  type Mutation,
  readTargetSchema,
  type SchemaName,
  statementsFor,
  type TargetSchema,
  TargetWriter,
  type Transaction,
} from '../../rehearsal/molt/apply.ts'
import { open, parseEndpoint } from '../../rehearsal/molt/pg.ts'
import type { ReplicatorLog } from '../../rehearsal/molt/replicator-log.ts'
import { SourceStream } from '../../rehearsal/molt/stream.ts'
import {
  decodeMessage,
  type Lsn,
  type Message,
  type Relation,
  UNCHANGED,
  type Value,
} from '../../src/source/pgoutput.ts'

export interface ReplicatorOptions {
  sourceUrl: string
  /** The target's URL, with the login that writes. */
  targetUrl: string
  database: string
  slot: string
  publication: string
}

const SILENT = { enabled: () => false, line() {} } as unknown as ReplicatorLog

/**
 * A replicator in this process, built from the stand-in's parts, with faults on demand. It has no memo, so it starts at
 * the slot's confirmed position.
 */
export class FaultyReplicator {
  /** The stream's status, as the proof reads it. */
  readonly status = { lagMs: 0, restarts: 0 }
  /** Replaces a transaction. Returns the transactions to apply instead. */
  alter: (tx: Transaction) => Transaction[] = (tx) => [tx]
  /** Whether to withhold acknowledgements, so that whatever is applied now is applied again after a restart. */
  holdsBack = false
  /** Errors from the target, and other reasons for a lost connection. */
  readonly errors: unknown[] = []
  applied: Lsn = 0n
  readonly #options: ReplicatorOptions
  readonly #schema: TargetSchema
  readonly #name: SchemaName
  #stream: SourceStream | undefined
  #writer: TargetWriter | undefined
  #running: Promise<void> = Promise.resolve()
  #frozen: { promise: Promise<void>; resolve(): void } | undefined
  #over = false

  static async start(options: ReplicatorOptions): Promise<FaultyReplicator> {
    const client = await open(parseEndpoint(options.targetUrl, 'replicator'))
    const schema = await readTargetSchema(client, 'public').finally(() => client.end())
    const replicator = new FaultyReplicator(options, schema)
    await replicator.#dial()
    return replicator
  }

  private constructor(options: ReplicatorOptions, schema: TargetSchema) {
    this.#options = options
    this.#schema = schema
    this.#name = { database: options.database, schema: 'public' }
  }

  /** Keeps reading, but applies nothing until {@link thaw}. Its connections stay open. */
  freeze(): void {
    if (this.#frozen) return
    let resolve = () => {}
    const promise = new Promise<void>((done) => {
      resolve = done
    })
    this.#frozen = { promise, resolve }
  }

  thaw(): void {
    this.#frozen?.resolve()
    this.#frozen = undefined
  }

  /** Restarts as if killed with `kill -9`: changes that were not acknowledged arrive again. */
  async restart(): Promise<void> {
    await this.#hangUp()
    this.status.restarts++
    await this.#dial()
  }

  async stop(): Promise<void> {
    this.#over = true
    this.thaw()
    await this.#hangUp()
  }

  /** Drops the connection to the source, as if its host was unreachable. Changes already received are kept. */
  async cutOff(source: pg.Client): Promise<void> {
    await source.query(
      'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active',
      [this.#options.slot],
    )
  }

  async #hangUp(): Promise<void> {
    this.#stream?.close()
    await this.#writer?.close()
    this.thaw()
    await this.#running
  }

  async #dial(): Promise<void> {
    const { sourceUrl, targetUrl, slot, publication } = this.#options
    const writer = new TargetWriter(parseEndpoint(targetUrl, 'replicator'), this.#name)
    for (let attempt = 0; ; attempt++) {
      const stream = new SourceStream(await open(parseEndpoint(sourceUrl, 'replicator'), true), SILENT)
      const gathered = new Gathered((tx, changes) => stream.push(tx, changes))
      stream.onData = (data) => gathered.take(decodeMessage(data))
      stream.onReplyWanted = () => this.#acknowledge(stream)
      try {
        await stream.start(slot, publication, 0n)
        this.#stream = stream
        this.#writer = writer
        this.applied = 0n
        this.#running = this.#applyAll(stream, writer)
        return
      } catch (error) {
        stream.close()
        // The server takes a moment to notice that the previous reader is gone.
        if ((error as { code?: string }).code !== '55006' || attempt > 200) throw error
        await sleep(20)
      }
    }
  }

  #acknowledge(stream: SourceStream): void {
    if (!this.holdsBack && this.applied) stream.acknowledge(this.applied)
  }

  async #applyAll(stream: SourceStream, writer: TargetWriter): Promise<void> {
    for (;;) {
      const round = stream.take()
      if (!round.length && (stream.failure || stream.closed)) return void this.errors.push(stream.failure)
      if (!round.length) await stream.arrival.wait()
      for (const tx of round) {
        await this.#frozen?.promise
        if (stream.closed) return
        try {
          for (const each of this.alter(tx)) await writer.write(statementsFor(each, this.#schema, this.#name))
        } catch (error) {
          this.errors.push(error)
          if (!this.#over && !stream.closed) stream.close()
          return
        }
        this.applied = tx.commitLsn
        this.#acknowledge(stream)
      }
    }
  }
}

/**
 * Collects messages into transactions. Unlike in replicator 1.0.4, an update that changes a key deletes the old row.
 */
class Gathered {
  readonly #relations = new Map<number, Relation>()
  readonly #push: (tx: Transaction, changes: number) => void
  #tx: Transaction | undefined

  constructor(push: (tx: Transaction, changes: number) => void) {
    this.#push = push
  }

  take(message: Message): void {
    const { kind } = message
    if (kind === 'relation') this.#relations.set(message.relation.id, message.relation)
    else if (kind === 'begin') this.#tx = { commitLsn: 0n, commitTime: message.commitTime, tables: new Map() }
    else if (kind === 'commit' && this.#tx) {
      const changes = [...this.#tx.tables.values()].reduce((sum, each) => sum + each.length, 0)
      this.#push({ ...this.#tx, commitLsn: message.commitLsn }, changes)
    } else if (kind === 'delete') this.#change(message.relation, message.values, true)
    else if (kind === 'insert' || kind === 'update') {
      if (kind === 'update' && message.old) this.#change(message.relation, message.old, true)
      this.#change(message.relation, message.values, false)
    } else if (kind === 'truncate') throw new Error('no TRUNCATE is expected')
  }

  #change(id: number, values: Value[], gone: boolean): void {
    const relation = this.#relations.get(id) as Relation
    if (!gone && values.includes(UNCHANGED)) throw new Error('no TOASTed value is expected')
    const key = relation.columns.flatMap(({ key }, i) => (key ? [values[i] as string] : []))
    const tables = (this.#tx as Transaction).tables
    const table = relation.name.toLowerCase()
    const mutation = { delete: gone, key, values, relation }
    const mutations = tables.get(table)
    if (mutations) mutations.push(mutation)
    else tables.set(table, [mutation])
  }
}

/** A transaction in which the changes of these tables are replaced. */
export function withTables(
  tx: Transaction,
  change: (mutation: Mutation, table: string) => readonly Mutation[],
): Transaction {
  const tables = [...tx.tables].map(
    ([name, mutations]) => [name, mutations.flatMap((each) => change(each, name))] as const,
  )
  return { ...tx, tables: new Map(tables.map(([name, mutations]) => [name, [...mutations]])) }
}
