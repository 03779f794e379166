/** A WAL position as a number. */
export type Lsn = bigint

/** Formats a position as `16/B374D848`. */
export function formatLsn(lsn: Lsn): string {
  return `${(lsn >> 32n).toString(16).toUpperCase()}/${(lsn & 0xffffffffn).toString(16).toUpperCase()}`
}

/** Parses a position such as `16/B374D848`; 0 for any other text. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]+)\/([0-9A-Fa-f]+)$/.exec(text)
  return match ? (BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`) : 0n
}

interface RelationColumn {
  name: string
  /** Whether the column is part of the replica identity. With REPLICA IDENTITY FULL, every column is. */
  key: boolean
}

export interface Relation {
  id: number
  /** Empty for `pg_catalog`. */
  schema: string
  name: string
  columns: RelationColumn[]
}

/** Text, SQL null, or an unchanged TOASTed value that the source did not send. */
export type Value = string | null | typeof UNCHANGED
export const UNCHANGED = Symbol('unchanged TOASTed value')

/**
 * A message of the `pgoutput` plugin, protocol version 1. Values are in PostgreSQL's text format. The commit record
 * begins at `commitLsn` and ends at `endLsn`. For an update, `old` contains the old key if the key has changed or is
 * TOASTed. For a delete, `values` contains the key.
 */
export type Message =
  | { kind: 'begin'; commitLsn: Lsn; commitTime: number; xid: number }
  | { kind: 'commit'; commitLsn: Lsn; endLsn: Lsn; commitTime: number }
  | { kind: 'relation'; relation: Relation }
  | { kind: 'insert' | 'update' | 'delete'; relation: number; values: Value[]; old?: Value[] }
  | { kind: 'truncate'; relations: number }
  | { kind: 'other'; type: string }

/** Start of the year 2000, from which PostgreSQL counts time. */
export const POSTGRES_EPOCH_MS = 946_684_800_000

/** Decodes one message. Keeps no reference to the buffer, so the caller can reuse it. */
export function decodeMessage(buffer: Buffer): Message {
  const reader = new Reader(buffer)
  const type = reader.char()
  switch (type) {
    case 'B':
      return { kind: 'begin', commitLsn: reader.lsn(), commitTime: reader.time(), xid: reader.uint32() }
    case 'C': {
      reader.byte()
      return { kind: 'commit', commitLsn: reader.lsn(), endLsn: reader.lsn(), commitTime: reader.time() }
    }
    case 'R':
      return { kind: 'relation', relation: readRelation(reader) }
    case 'I':
      return { kind: 'insert', relation: reader.uint32(), values: readTuple(reader) }
    case 'U':
      return { kind: 'update', relation: reader.uint32(), ...readUpdate(reader) }
    case 'D':
      return { kind: 'delete', relation: reader.uint32(), values: readTuple(reader) }
    case 'T':
      return { kind: 'truncate', relations: reader.uint32() }
    default:
      return { kind: 'other', type }
  }
}

function readUpdate(reader: Reader): { values: Value[]; old?: Value[] } {
  const old = reader.peek() === 'N' ? undefined : readTuple(reader)
  return { values: readTuple(reader), ...(old && { old }) }
}

function readRelation(reader: Reader): Relation {
  const id = reader.uint32()
  const schema = reader.string()
  const name = reader.string()
  reader.byte()
  const columns = Array.from({ length: reader.uint16() }, () => {
    const key = reader.byte() === 1
    const column = { name: reader.string(), key }
    reader.uint32()
    reader.uint32()
    return column
  })
  return { id, schema, name, columns }
}

/** Reads a tuple and the type letter before it. */
function readTuple(reader: Reader): Value[] {
  reader.char()
  const count = reader.uint16()
  const values: Value[] = new Array(count)
  for (let i = 0; i < count; i++) {
    const kind = reader.char()
    values[i] = kind === 'n' ? null : kind === 'u' ? UNCHANGED : reader.text(reader.uint32())
  }
  return values
}

class Reader {
  private at = 0
  private readonly buffer: Buffer

  constructor(buffer: Buffer) {
    this.buffer = buffer
  }

  byte(): number {
    return this.buffer[this.at++] as number
  }

  char(): string {
    return String.fromCharCode(this.byte())
  }

  peek(): string {
    return String.fromCharCode(this.buffer[this.at] as number)
  }

  uint16(): number {
    this.at += 2
    return this.buffer.readUInt16BE(this.at - 2)
  }

  uint32(): number {
    this.at += 4
    return this.buffer.readUInt32BE(this.at - 4)
  }

  lsn(): Lsn {
    this.at += 8
    return this.buffer.readBigUInt64BE(this.at - 8)
  }

  /** Milliseconds since the Unix epoch. */
  time(): number {
    return Number(this.lsn()) / 1000 + POSTGRES_EPOCH_MS
  }

  text(length: number): string {
    this.at += length
    return this.buffer.toString('utf8', this.at - length, this.at)
  }

  string(): string {
    const end = this.buffer.indexOf(0, this.at)
    const text = this.buffer.toString('utf8', this.at, end)
    this.at = end + 1
    return text
  }
}
