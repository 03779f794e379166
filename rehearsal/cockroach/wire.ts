// PostgreSQL's wire protocol, version 3: framing, and the few messages that the server writes itself. Source:
// PostgreSQL documentation, "Frontend/Backend Protocol", "Message Formats".
import type { SqlError } from './types.ts'

/** One message with its type byte. */
export interface Frame {
  /** Type byte as a character: `Q`, `P`, `B` … */
  type: string
  /** Body without type and length. */
  body: Buffer
  /** The whole message as received. */
  raw: Buffer
}

/** Request codes, sent in place of a protocol version. */
export const CANCEL_REQUEST = 80_877_102
export const SSL_REQUEST = 80_877_103
export const GSS_REQUEST = 80_877_104
export const PROTOCOL_3 = 196_608

/** Splits a byte stream into typed messages. Joins chunks only when a message is complete: rows can be large. */
export class Framer {
  #chunks: Buffer[] = []
  #size = 0
  /** Bytes needed before the next message is complete. */
  #needed = 5

  push(chunk: Buffer): Frame[] {
    this.#chunks.push(chunk)
    this.#size += chunk.length
    if (this.#size < this.#needed) return []
    let data = this.#chunks.length > 1 ? Buffer.concat(this.#chunks) : chunk
    const frames: Frame[] = []
    this.#needed = 5
    while (data.length >= 5) {
      const end = 1 + data.readInt32BE(1)
      this.#needed = end
      if (data.length < end) break
      frames.push({
        type: String.fromCharCode(data[0] as number),
        body: data.subarray(5, end),
        raw: data.subarray(0, end),
      })
      data = data.subarray(end)
      this.#needed = 5
    }
    this.#chunks = data.length ? [data] : []
    this.#size = data.length
    return frames
  }
}

export function message(type: string, ...parts: (Buffer | string)[]): Buffer {
  const body = Buffer.concat(parts.map((part) => (typeof part === 'string' ? text(part) : part)))
  const head = Buffer.alloc(5)
  head.write(type, 0, 'latin1')
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

/** A text followed by a zero byte. */
function text(value: string): Buffer {
  return Buffer.from(`${value}\0`)
}

export function int16(value: number): Buffer {
  const buffer = Buffer.alloc(2)
  buffer.writeInt16BE(value)
  return buffer
}

export function query(sql: string): Buffer {
  return message('Q', sql)
}

export const FLUSH = message('H')

/** The zero-terminated texts at the start of a body, and the rest of the body. */
export function texts(body: Buffer, count: number): { values: string[]; rest: Buffer } {
  const values: string[] = []
  let at = 0
  for (let n = 0; n < count; n++) {
    const end = body.indexOf(0, at)
    values.push(body.toString('utf8', at, end))
    at = end + 1
  }
  return { values, rest: body.subarray(at) }
}

/** Fields of an ErrorResponse or NoticeResponse, keyed by letter: `C` SQLSTATE, `M` message, `D` detail … */
export function readFields(body: Buffer): Map<string, string> {
  const fields = new Map<string, string>()
  for (let at = 0; at < body.length && body[at] !== 0; ) {
    const end = body.indexOf(0, at + 1)
    fields.set(String.fromCharCode(body[at] as number), body.toString('utf8', at + 1, end))
    at = end + 1
  }
  return fields
}

export function errorResponse(fields: ReadonlyMap<string, string>): Buffer {
  return message('E', ...[...fields].map(([letter, value]) => text(letter + value)), Buffer.alloc(1))
}

export function errorFields(error: SqlError): Map<string, string> {
  const fields = new Map([
    ['S', 'ERROR'],
    ['V', 'ERROR'],
    ['C', error.code],
    ['M', error.message],
  ])
  if (error.detail) fields.set('D', error.detail)
  if (error.hint) fields.set('H', error.hint)
  return fields
}

/** Parameters in a StartupMessage's body, after the version. */
export function readStartup(body: Buffer): Map<string, string> {
  const parts = body.toString('utf8').split('\0')
  const found = new Map<string, string>()
  for (let n = 0; n + 1 < parts.length && parts[n]; n += 2) found.set(parts[n] as string, parts[n + 1] as string)
  return found
}

export function startup(parameters: ReadonlyMap<string, string>): Buffer {
  const body = Buffer.concat([
    ...[...parameters].flatMap(([name, value]) => [text(name), text(value)]),
    Buffer.alloc(1),
  ])
  const head = Buffer.alloc(8)
  head.writeInt32BE(body.length + 8, 0)
  head.writeInt32BE(PROTOCOL_3, 4)
  return Buffer.concat([head, body])
}
