import { connectForReplication, type Database, ident, literal } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { TIMING } from '../runtime/timing.ts'
import { decodeMessage, type Lsn, POSTGRES_EPOCH_MS, type Relation, UNCHANGED, type Value } from './pgoutput.ts'

/** The key of an inserted, updated or deleted row. An update that changes the key produces two of these. */
export interface ChangedKey {
  schema: string
  table: string
  /** The key's values as text, in the order of the table's columns. */
  key: string[]
  /**
   * Columns of the replica identity at that time, which the log sends as the key. All changes of a relation share the
   * array.
   */
  columns: readonly string[]
  /** Whether a row with this key must exist once the transaction is visible. */
  present: boolean
  /** The transaction id without the epoch. */
  xid: number
  /**
   * Start of the transaction's commit record. A slot that is confirmed up to here sends the whole transaction again.
   */
  at: Lsn
}

export interface ChangeLogOptions {
  sourceUrl: string
  slot: string
  publication: string
  /** Called for each committed change, in commit order. */
  onChange(change: ChangedKey): void
  /** Called once when the log ends, with the reason, unless {@link ChangeLog.close} was called first. */
  onEnd(error: Error): void
}

/** Application name. It shows that a leftover reader belongs to an earlier run of this suite. */
export const LOG_APPLICATION = 'molt-actions change log'

/** pg's connection, with the members that a replication stream needs but the type definitions lack. */
interface ReplicationConnection {
  stream: { destroy(): void }
  on(event: 'copyData', listener: (message: { chunk: Buffer }) => void): void
  once(event: 'replicationStart', listener: () => void): void
  sendCopyFromChunk(chunk: Buffer): void
}

/**
 * Reads the keys of all rows that change on the source, through a logical slot of its own. Does not buffer: each change
 * is passed on as it arrives, and the server waits while this process is busy. Only {@link confirm} advances the slot;
 * the answer to a keepalive repeats the last confirmed position.
 */
export class ChangeLog {
  readonly #client: Database
  readonly #connection: ReplicationConnection
  readonly #options: ChangeLogOptions
  readonly #relations = new Map<number, Relation & { identity: readonly string[] }>()
  #transaction: { xid: number; at: Lsn } | undefined
  #confirmed: Lsn
  #read: Lsn
  #timer: NodeJS.Timeout | undefined
  #over = false

  /**
   * Starts reading at the slot's position.
   * @throws the database's error if another client is reading the slot, or the slot does not exist
   */
  static async attach(options: ChangeLogOptions): Promise<ChangeLog> {
    const client = await connectForReplication(options.sourceUrl, LOG_APPLICATION)
    try {
      const log = new ChangeLog(client, options)
      await log.#start()
      return log
    } catch (error) {
      await client.end().catch(() => {})
      throw error
    }
  }

  private constructor(client: Database, options: ChangeLogOptions) {
    this.#client = client
    this.#connection = (client as unknown as { connection: ReplicationConnection }).connection
    this.#options = options
    this.#confirmed = 0n
    this.#read = 0n
  }

  /** All transactions that were committed before this position have been passed on. */
  get position(): Lsn {
    return this.#read
  }

  /** Confirms `lsn` to the server immediately, so that the source can remove older WAL. */
  confirm(lsn: Lsn): void {
    if (lsn > this.#confirmed) this.#confirmed = lsn
    this.#answer()
  }

  async close(): Promise<void> {
    this.#over = true
    clearInterval(this.#timer)
    this.#connection.stream.destroy()
    await this.#client.end().catch(() => {})
  }

  async #start(): Promise<void> {
    this.#connection.on('copyData', ({ chunk }) => this.#receive(chunk))
    const begun = new Promise<void>((resolve) => this.#connection.once('replicationStart', resolve))
    const { slot, publication } = this.#options
    const names = literal(ident(publication))
    const ended = this.#client
      .query(`START_REPLICATION SLOT ${ident(slot)} LOGICAL 0/0 (proto_version '1', publication_names ${names})`)
      .then(() => Promise.reject(new Error('the source ended the change log')))
    ended.catch((error) => this.#end(error))
    this.#client.once('end', () => this.#end(new Error('the connection of the change log was lost')))
    await Promise.race([begun, ended])
    this.#timer = setInterval(() => this.#answer(), TIMING.changeLogAnswer)
  }

  #receive(chunk: Buffer): void {
    if (this.#over) return
    try {
      if (chunk[0] === 0x77) this.#data(chunk.subarray(25))
      else if (chunk[0] === 0x6b) {
        // The server has decoded the WAL up to this position, and has sent all transactions committed before it.
        if (!this.#transaction) this.#advance(chunk.readBigUInt64BE(1))
        if (chunk[17] === 1) this.#answer()
      }
    } catch (error) {
      this.#end(error as Error)
    }
  }

  #data(data: Buffer): void {
    const message = decodeMessage(data)
    switch (message.kind) {
      case 'begin':
        this.#transaction = { xid: message.xid, at: message.commitLsn }
        return
      case 'commit':
        this.#transaction = undefined
        this.#advance(message.endLsn)
        return
      case 'relation': {
        const { relation } = message
        const identity = relation.columns.filter(({ key }) => key).map(({ name }) => name)
        this.#relations.set(relation.id, { ...relation, identity })
        return
      }
      case 'truncate':
        throw new VerdictError(
          'change-log.truncate',
          'a table was truncated on the source, and the change log contains no keys for that',
        )
      case 'insert':
      case 'update':
      case 'delete':
        this.#change(message)
    }
  }

  #change(message: { kind: 'insert' | 'update' | 'delete'; relation: number; values: Value[]; old?: Value[] }): void {
    const relation = this.#relations.get(message.relation)
    if (!relation || !this.#transaction)
      throw new Error('the change log contains a change without its table or transaction')
    const { schema, name: table, identity: columns } = relation
    const old = message.kind === 'delete' ? message.values : message.old
    const tell = (key: string[], present: boolean) =>
      this.#options.onChange({
        schema,
        table,
        key,
        columns,
        present,
        ...(this.#transaction as { xid: number; at: Lsn }),
      })
    const gone = old && keyOf(relation, old)
    const key = message.kind === 'delete' ? undefined : keyOf(relation, message.values, old)
    if (gone?.some((value, i) => value !== key?.[i])) tell(gone, false)
    if (key) tell(key, true)
  }

  #advance(lsn: Lsn): void {
    if (lsn > this.#read) this.#read = lsn
  }

  /** Reports the confirmed position as written, flushed and applied. */
  #answer(): void {
    if (this.#over) return
    const message = Buffer.alloc(34)
    message[0] = 0x72
    for (const at of [1, 9, 17]) message.writeBigUInt64BE(this.#confirmed, at)
    message.writeBigInt64BE(BigInt(Date.now() - POSTGRES_EPOCH_MS) * 1000n, 25)
    this.#connection.sendCopyFromChunk(message)
  }

  #end(error: Error): void {
    if (this.#over) return
    this.#over = true
    clearInterval(this.#timer)
    this.#connection.stream.destroy()
    this.#options.onEnd(error)
  }
}

/** @param old the old row. It contains a TOASTed key value if the new row does not */
function keyOf({ name, columns }: Relation, values: readonly Value[], old?: readonly Value[]): string[] {
  return columns.flatMap((column, i) => {
    if (!column.key) return []
    const value = values[i] === UNCHANGED ? old?.[i] : values[i]
    if (typeof value === 'string') return [value]
    throw new VerdictError(
      'change-log.key-missing',
      `the change log does not contain the key of a changed row of ${name}`,
    )
  })
}
