import { StringDecoder } from 'node:string_decoder'

/** Characters. Longer lines are truncated, because the tools can print whole rows. */
const LINE_LIMIT = 256 * 1024

/**
 * Calls `onLine` for every line, including an unterminated last one. Lines end with LF, CR or CR LF. Lines over {@link
 * LINE_LIMIT} are truncated.
 * @returns when the stream has closed. A destroyed stream emits `close`, but not `end`
 */
export function readLines(stream: NodeJS.ReadableStream, onLine: (line: string) => void): Promise<void> {
  const decoder = new StringDecoder('utf8')
  let pending = ''
  // A CR at the end of a chunk may be the start of a CR LF.
  let half = ''
  const take = (text: string) => {
    if (pending.length < LINE_LIMIT) pending += text.slice(0, LINE_LIMIT - pending.length)
  }
  const read = (text: string) => {
    const parts = text.split(/\r\n|\n|\r(?!$)/)
    const last = parts.pop() as string
    for (const part of parts) {
      take(part)
      onLine(pending)
      pending = ''
    }
    half = last.endsWith('\r') ? '\r' : ''
    take(half ? last.slice(0, -1) : last)
  }
  return new Promise((resolve) => {
    stream.on('data', (chunk: Buffer) => read(half + decoder.write(chunk)))
    stream.on('close', () => {
      read(half + decoder.end())
      if (pending) onLine(pending)
      resolve()
    })
  })
}
