import { randomUUID } from 'node:crypto'
import pg from 'pg'
import {
  decodeMessage,
  formatLsn,
  type Lsn,
  type Message,
  type Relation,
  UNCHANGED,
  type Value,
} from '../../src/source/pgoutput.ts'
import { type Mutation, quotedTable, type SchemaName, type Transaction } from './apply.ts'
import type { Metrics } from './molt-log.ts'
import { errorText, ident } from './pg.ts'
import type { ReplicatorLog } from './replicator-log.ts'

/**
 * Maximum changes and transactions per round trip to the target. Only a stream that is catching up combines several
 * transactions.
 */
const ROUND_CHANGES = 2000
const ROUND_TRANSACTIONS = 500
/** Number of changes waiting for the target at which reading from the source pauses. */
const QUEUE_CHANGES = 20_000

/** Waits for the next event. */
class Signal {
  private wake: (() => void) | undefined

  set(): void {
    this.wake?.()
    this.wake = undefined
  }

  wait(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve
    })
  }
}

/** Members of pg's connection that a replication stream uses but that are missing from pg's types. */
interface ReplicationConnection {
  stream: { pause(): void; resume(): void; destroy(): void }
  on(event: string, listener: (message: { chunk: Buffer }) => void): void
  once(event: string, listener: () => void): void
  sendCopyFromChunk(chunk: Buffer): void
}

/** The replication stream of one connection. Passes data to a decoder and queues the results. */
export class SourceStream {
  onData: (data: Buffer) => void = () => {}
  onReplyWanted: () => void = () => {}
  readonly arrival = new Signal()
  /** Why the stream ended. Data received before that still has to be applied. */
  failure: unknown
  closed = false
  private readonly queue: { tx: Transaction; changes: number }[] = []
  private queued = 0
  private paused = false
  private begun = false
  private readonly client: pg.Client
  private readonly connection: ReplicationConnection
  private readonly log: ReplicatorLog

  constructor(client: pg.Client, log: ReplicatorLog) {
    this.client = client
    this.connection = (client as unknown as { connection: ReplicationConnection }).connection
    this.log = log
  }

  get waiting(): number {
    return this.queue.length
  }

  /** Resolves when streaming has started. Rejects with the server's error. */
  async start(slot: string, publication: string, from: Lsn): Promise<void> {
    this.connection.on('copyData', ({ chunk }) => this.received(chunk))
    const begun = new Promise<void>((resolve) => this.connection.once('replicationStart', resolve)).then(() => {
      this.begun = true
    })
    const options = `proto_version '1', publication_names '${publication.replaceAll("'", "''")}'`
    const ended = this.client
      .query(`START_REPLICATION SLOT ${ident(slot)} LOGICAL ${formatLsn(from)} (${options})`)
      .then(
        () => this.fail(new Error('the source ended the replication stream')),
        (error) => this.fail(this.begun ? this.streamError(error) : error),
      )
    this.client.on('end', () => this.fail(new Error('unexpected EOF')))
    await Promise.race([begun, ended])
    if (this.failure) throw this.failure
  }

  /** Logs the cause on a separate line, like the real tool, unless the connection is lost too. */
  private streamError(error: unknown): Error {
    if (!(error instanceof pg.DatabaseError)) return new Error(errorText(error))
    if (error.severity !== 'ERROR') return new Error(`receive message failed: ${errorText(error)}`)
    const { severity, code, message, where } = error
    const logicalMsg = `&{${severity} ${severity} ${code} ${message}   0 0  ${where ?? ''}      map[]}`
    this.log.line('error', 'error received from source database', { logicalMsg })
    return new Error('error received from source database')
  }

  fail(error: unknown): void {
    this.failure ??= error
    this.arrival.set()
  }

  push(tx: Transaction, changes: number): void {
    this.queue.push({ tx, changes })
    this.queued += changes
    this.arrival.set()
    if (this.queued > QUEUE_CHANGES && !this.paused) {
      this.paused = true
      this.connection.stream.pause()
    }
  }

  /** The next transactions for one round trip. */
  take(): Transaction[] {
    const round: Transaction[] = []
    let changes = 0
    while (this.queue.length && round.length < ROUND_TRANSACTIONS) {
      const next = this.queue[0] as { tx: Transaction; changes: number }
      if (round.length && changes + next.changes > ROUND_CHANGES) break
      this.queue.shift()
      round.push(next.tx)
      changes += next.changes
    }
    this.queued -= changes
    if (this.paused && this.queued < QUEUE_CHANGES / 2) {
      this.paused = false
      this.connection.stream.resume()
    }
    return round
  }

  /** Reports a position to the source, for all three of written, flushed and applied. */
  acknowledge(lsn: Lsn): void {
    if (this.closed || this.failure) return
    const message = Buffer.alloc(34)
    message[0] = 0x72
    for (const at of [1, 9, 17]) message.writeBigUInt64BE(lsn, at)
    message.writeBigInt64BE(BigInt(Date.now() - 946_684_800_000) * 1000n, 25)
    this.connection.sendCopyFromChunk(message)
    this.log.line('trace', 'sent Standby status message', { WALWritePosition: formatLsn(lsn) })
  }

  close(): void {
    if (this.closed) return
    this.closed = true
    this.onData = () => {}
    this.arrival.set()
    this.connection.stream.destroy()
  }

  private received(chunk: Buffer): void {
    if (this.closed || this.failure) return
    if (chunk[0] === 0x77) {
      if (this.log.enabled('debug')) this.logData(chunk)
      this.onData(chunk.subarray(25))
    } else if (chunk[0] === 0x6b) this.keepalive(chunk)
  }

  private logData(chunk: Buffer): void {
    this.log.line('debug', 'xlog data', {
      ByteCount: chunk.length - 25,
      ServerTime: serverTime(chunk.readBigUInt64BE(17)),
      ServerWALEnd: formatLsn(chunk.readBigUInt64BE(9)),
      WALStart: formatLsn(chunk.readBigUInt64BE(1)),
    })
    this.log.line('debug', 'xlog data', {
      logicalMsg: MESSAGE_NAMES[String.fromCharCode(chunk[25] as number)] ?? 'Unknown',
    })
  }

  private keepalive(chunk: Buffer): void {
    const wanted = chunk[17] === 1
    if (this.log.enabled('debug'))
      this.log.line('debug', 'primary keepalive received', {
        ReplyRequested: wanted,
        ServerTime: serverTime(chunk.readBigUInt64BE(9)),
        ServerWALEnd: formatLsn(chunk.readBigUInt64BE(1)),
      })
    if (wanted) this.onReplyWanted()
  }
}

const MESSAGE_NAMES: Record<string, string> = {
  B: 'Begin',
  C: 'Commit',
  R: 'Relation',
  I: 'Insert',
  U: 'Update',
  D: 'Delete',
  T: 'Truncate',
  Y: 'Type',
  O: 'Origin',
}

function serverTime(microseconds: bigint): string {
  const date = new Date(Number(microseconds / 1000n) + 946_684_800_000)
  const fraction = String(microseconds % 1_000_000n).padStart(6, '0')
  return `${date.toISOString().slice(0, 19).replace('T', ' ')}.${fraction} +0000 UTC`
}

/** Collects messages into transactions, each of which is held in memory. */
export class Decoder {
  private readonly relations = new Map<number, Relation>()
  private current: Transaction | undefined
  private changes = 0
  private readonly stream: SourceStream
  private readonly metrics: Metrics
  private readonly target: SchemaName
  private readonly toasted: boolean

  constructor(stream: SourceStream, metrics: Metrics, target: SchemaName, toasted: boolean) {
    this.stream = stream
    this.metrics = metrics
    this.target = target
    this.toasted = toasted
  }

  data(data: Buffer): void {
    try {
      this.message(decodeMessage(data))
    } catch (error) {
      this.stream.fail(error)
    }
  }

  private message(message: Message): void {
    switch (message.kind) {
      case 'relation':
        this.relations.set(message.relation.id, message.relation)
        return
      case 'begin':
        this.current = { commitLsn: 0n, commitTime: message.commitTime, tables: new Map() }
        this.changes = 0
        return
      case 'commit':
        this.commit(message.commitLsn)
        return
      case 'truncate':
        throw new Error(`the TRUNCATE operation cannot be supported on table ${message.relations}`)
      case 'insert':
      case 'update':
      case 'delete':
        this.change(message.relation, message.values, message.kind === 'delete')
    }
  }

  private commit(lsn: Lsn): void {
    const tx = this.current
    this.current = undefined
    if (!tx) return
    if (this.changes === 0) this.metrics.add('pglogical_empty_transactions', 1)
    tx.commitLsn = lsn
    this.stream.push(tx, this.changes)
  }

  private change(relationId: number, values: Value[], isDelete: boolean): void {
    if (!this.current) return
    const relation = this.relations.get(relationId)
    if (!relation) throw new Error(`unknown relation id ${relationId}`)
    const key: string[] = []
    for (const [i, column] of relation.columns.entries()) {
      const value = values[i]
      if (value === UNCHANGED) this.unchanged(relation, column.name)
      else if (column.key && value !== null && value !== undefined) key.push(value)
    }
    const mutation: Mutation = { delete: isDelete, key: key.length ? key : [randomUUID()], values, relation }
    const table = relation.name.toLowerCase()
    const mutations = this.current.tables.get(table)
    if (mutations) mutations.push(mutation)
    else this.current.tables.set(table, [mutation])
    this.changes++
  }

  /** Throws: the source does not send a large unchanged value, so there is no correct value to write. */
  private unchanged(relation: Relation, column: string): never {
    this.metrics.add('pglogical_unchanged_toasted_columns', this.toasted ? 1 : 0)
    if (this.toasted) throw new Error('template toasted.tmpl not found')
    throw new Error(`TOASTed columns are not supported in ${quotedTable(this.target, relation.name)}.${ident(column)}`)
  }
}
