import { appendFileSync } from 'node:fs'
import { form, rfc3339 } from './molt-log.ts'

export type Level = 'trace' | 'debug' | 'info' | 'warning' | 'error'
const LEVELS: Level[] = ['trace', 'debug', 'info', 'warning', 'error']

/** Fields of a line, written in the order of their names. */
export type LogFields = Record<string, string | number | boolean>

/**
 * The replicator's log, on standard error or in a file. Buffers lines briefly, because `-v` writes several for each
 * change.
 */
export class ReplicatorLog {
  private readonly lowest: number
  private readonly fluent: boolean
  private readonly file: string
  /** Number of lines written, by level. */
  readonly counts: Map<Level, number> = new Map(LEVELS.map((level) => [level, 0]))
  private pending = ''
  private timer: NodeJS.Immediate | undefined

  constructor(verbosity: number, format: string, file: string) {
    if (format !== 'text' && format !== 'fluent') throw new Error(`unknown log format: ${JSON.stringify(format)}`)
    this.lowest = verbosity === 0 ? 2 : verbosity === 1 ? 1 : 0
    this.fluent = format === 'fluent'
    this.file = file
    if (file) appendFileSync(file, '')
  }

  enabled(level: Level): boolean {
    return LEVELS.indexOf(level) >= this.lowest
  }

  line(level: Level, message: string, fields: LogFields = {}): void {
    if (!this.enabled(level)) return
    this.counts.set(level, (this.counts.get(level) ?? 0) + 1)
    const text = this.fluent ? fluentLine : form() === 'doc' ? paddedLine : textLine
    this.pending += `${text(level, message, fields)}\n`
    this.timer ??= setImmediate(() => this.flush())
  }

  flush(): void {
    if (this.timer) clearImmediate(this.timer)
    this.timer = undefined
    const text = this.pending
    this.pending = ''
    if (!text) return
    if (this.file) appendFileSync(this.file, text)
    else process.stderr.write(text)
  }
}

/** `time="Nov 22 19:02:38" level=info msg="Replicator starting" key=value` */
function textLine(level: Level, message: string, fields: LogFields): string {
  return `time="${stamp(new Date())}" level=${level} msg=${quoted(message)}${pairs(fields)}`
}

/** `INFO   [2026-02-02T10:20:32-05:00] Replicator starting          key=value` */
function paddedLine(level: Level, message: string, fields: LogFields): string {
  return `${level.toUpperCase().padEnd(7)}[${rfc3339(new Date())}] ${message.padEnd(44)} ${pairs(fields)}`.trimEnd()
}

function fluentLine(level: Level, message: string, fields: LogFields): string {
  const severity = level === 'trace' ? 'DEBUG' : level.toUpperCase()
  return JSON.stringify({ ...fields, message, severity, timestamp: new Date().toISOString() })
}

function pairs(fields: LogFields): string {
  return Object.keys(fields)
    .sort()
    .map((key) => ` ${key}=${quoted(String(fields[key]))}`)
    .join('')
}

/** Quotes unusual values, as the real log does. */
function quoted(text: string): string {
  return text !== '' && /^[a-zA-Z0-9\-._/@^+]*$/.test(text) ? text : JSON.stringify(text)
}

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec']

function stamp(date: Date): string {
  const day = String(date.getDate()).padStart(2, ' ')
  return `${MONTHS[date.getMonth()]} ${day} ${date.toTimeString().slice(0, 8)}`
}

/** A duration in Go's format: `1.9ms`, `2.5s`. */
export function goDuration(ms: number): string {
  if (ms < 1) return `${Number((ms * 1000).toFixed(3))}µs`
  return ms < 1000 ? `${Number(ms.toFixed(6))}ms` : `${Number((ms / 1000).toFixed(6))}s`
}
