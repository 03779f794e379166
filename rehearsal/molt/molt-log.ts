import { appendFileSync, mkdirSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import path from 'node:path'
import { STAND_IN } from '../../src/model/stand-in.ts'

/** The imitated version, with a note that this is the stand-in. */
export const MOLT_VERSION = `1.4.1 (${STAND_IN})`
export const REPLICATOR_VERSION = `1.3.4 (${STAND_IN})`

/**
 * What to imitate where the older binaries that we ran and the current documentation differ. The environment variable
 * `MOLT_STANDIN_FORM` is `run`, `doc` or, by default, `both`: the older behavior with the newer fields.
 */
export function form(): 'run' | 'doc' | 'both' {
  const wanted = process.env.MOLT_STANDIN_FORM
  return wanted === 'run' || wanted === 'doc' ? wanted : 'both'
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'panic']

type Fields = Record<string, unknown>

/** Writes JSON lines with level, fields, time and message, in that order. */
export interface MoltLog {
  line(level: string, message: string, fields?: Fields): void
}

/** @param file log file besides standard output; `stdout` or empty for none @param level lowest level to write */
export function moltLog(file: string, level: string): MoltLog {
  const lowest = LEVELS.indexOf(level)
  if (lowest < 0) throw new Error(`Unknown Level String: '${level}', defaulting to NoLevel`)
  const target = file === 'stdout' ? '' : file
  if (target) mkdirSync(path.dirname(target), { recursive: true })
  return {
    line(lineLevel, message, fields = {}) {
      if (LEVELS.indexOf(lineLevel) < lowest) return
      const text = `${JSON.stringify({ level: lineLevel, ...fields, time: rfc3339(new Date()), message })}\n`
      process.stdout.write(text)
      if (target) appendFileSync(target, text)
    },
  }
}

/** RFC 3339 time with seconds and the machine's offset, as Go writes it. */
export function rfc3339(date: Date): string {
  const offset = -date.getTimezoneOffset()
  const local = new Date(date.getTime() + offset * 60_000).toISOString().slice(0, 19)
  if (offset === 0) return `${local}Z`
  const two = (n: number) => String(Math.trunc(Math.abs(n))).padStart(2, '0')
  return `${local}${offset < 0 ? '-' : '+'}${two(offset / 60)}:${two(offset % 60)}`
}

/** Formats a duration as `000h 00m 06s`. */
export function clockText(ms: number): string {
  const s = Math.floor(ms / 1000)
  const pad = (n: number, width: number) => String(n).padStart(width, '0')
  return `${pad(Math.floor(s / 3600), 3)}h ${pad(Math.floor(s / 60) % 60, 2)}m ${pad(s % 60, 2)}s`
}

/** Counters and gauges by name and label set. Writes Prometheus text. */
export class Metrics {
  private readonly series = new Map<string, Map<string, number>>()
  private readonly kinds = new Map<string, string>()

  /** Declares a metric. A metric without labels is exposed immediately, as 0. */
  declare(name: string, kind: 'counter' | 'gauge', labelled = false): void {
    this.kinds.set(name, kind)
    this.series.set(name, new Map(labelled ? [] : [['', 0]]))
  }

  add(name: string, by: number, labels: Record<string, string> = {}): void {
    const series = this.series.get(name)
    const key = labelText(labels)
    series?.set(key, (series.get(key) ?? 0) + by)
  }

  set(name: string, value: number, labels: Record<string, string> = {}): void {
    this.series.get(name)?.set(labelText(labels), value)
  }

  text(): string {
    let out = ''
    for (const [name, series] of this.series) {
      if (series.size === 0) continue
      out += `# HELP ${name} embedded stand-in\n# TYPE ${name} ${this.kinds.get(name)}\n`
      for (const [labels, value] of series) out += `${name}${labels} ${value}\n`
    }
    return out
  }
}

function labelText(labels: Record<string, string>): string {
  const parts = Object.entries(labels).map(([k, v]) => `${k}=${JSON.stringify(v)}`)
  return parts.length ? `{${parts.join(',')}}` : ''
}

/** Serves metrics under one path, and a health page. Rejects if the address is taken. */
export async function serveMetrics(address: string, at: string, health: string, text: () => string): Promise<Server> {
  const server = createServer((request, response) => {
    const url = (request.url ?? '').split('?')[0]
    if (url === at) response.setHeader('content-type', 'text/plain; version=0.0.4; charset=utf-8').end(text())
    else if (url === health) response.end('OK')
    else response.writeHead(404).end('404 page not found\n')
  })
  const colon = address.lastIndexOf(':')
  const host = address.slice(0, colon).replace(/^\[|\]$/g, '')
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port: Number(address.slice(colon + 1)), host: host || undefined }, () => resolve())
  })
  server.unref()
  return server
}

/** Formats a failed listen as Go does. */
export function listenError(address: string, error: unknown): string {
  const code = (error as NodeJS.ErrnoException)?.code
  return `listen tcp ${address}: bind: ${code === 'EADDRINUSE' ? 'address already in use' : String(code ?? error)}`
}

/** Starts molt's metrics endpoint. If the port is taken, logs that and continues without the endpoint. */
export async function moltMetricsServer(log: MoltLog, address: string, metrics: Metrics): Promise<() => void> {
  try {
    const server = await serveMetrics(address, '/metrics', '/healthz', () => metrics.text())
    return () => {
      server.close()
      server.closeAllConnections()
    }
  } catch (error) {
    log.line('error', 'error exposing metrics endpoints', { error: listenError(address, error) })
    return () => {}
  }
}
