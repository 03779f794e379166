import { createInterface } from 'node:readline'
import { PassThrough, type Readable, Transform, type TransformCallback } from 'node:stream'
import { createGunzip } from 'node:zlib'

/** Counts the bytes that pass through. */
export class ByteCounter extends PassThrough {
  bytes = 0

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.bytes += chunk.length
    done(null, chunk)
  }
}

/** Drops the first `count` lines of a text. */
export function skipLines(count: number): Transform {
  let left = count
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      let from = 0
      while (left > 0 && from < chunk.length) {
        const newline = chunk.indexOf(10, from)
        from = newline < 0 ? chunk.length : newline + 1
        if (newline >= 0) left--
      }
      done(null, chunk.subarray(from))
    },
  })
}

/**
 * Reads the line with this number, counted from 1. If a value contains a line break, the line is only part of the row.
 */
export async function readRow(file: Readable, compressed: boolean, number: number): Promise<string> {
  const text = compressed ? file.pipe(createGunzip()) : file
  let at = 0
  try {
    for await (const line of createInterface({ input: text, crlfDelay: Number.POSITIVE_INFINITY }))
      if (++at === number) return line
    return ''
  } finally {
    file.destroy()
  }
}
