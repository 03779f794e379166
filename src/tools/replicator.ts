import { Child, type Exit, httpText } from './process.ts'
import { scrubReplicator, scrubText } from './scrub.ts'

export interface ReplicatorRequest {
  program: string
  source: string
  target: string
  slot: string
  publication: string
  /** `database.schema` on the target */
  targetSchema: string
  stagingSchema: string
  metricsAddr: string
  logFile: string
  extraArgs: readonly string[]
}

/**
 * How often it acknowledges its position. The default of 5 s would be the larger part of a write pause; at 200 ms
 * the drain's marker was acknowledged after 0.2 s.
 */
const STANDBY_TIMEOUT = '200ms'

export function replicatorArgs(request: ReplicatorRequest): string[] {
  return [
    'pglogical',
    ...['--sourceConn', request.source],
    ...['--targetConn', request.target],
    ...['--slotName', request.slot],
    ...['--publicationName', request.publication],
    ...['--targetSchema', request.targetSchema],
    ...['--stagingSchema', request.stagingSchema],
    '--stagingCreateSchema',
    ...['--metricsAddr', request.metricsAddr],
    ...['--standbyTimeout', STANDBY_TIMEOUT],
    ...request.extraArgs,
  ]
}

/** One line of the replicator's log, from either of its two text forms. */
export interface LogLine {
  level: string
  message: string
  /** The text of the `error` field, when there is one. */
  error?: string
}

const LOGFMT = /^time="[^"]*" level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S+)(.*)$/
const TEXT = /^([A-Z]{4,7})\s+\[[^\]]*\]\s+(.*)$/

export function parseLogLine(line: string): LogLine | undefined {
  const logfmt = LOGFMT.exec(line)
  if (logfmt) {
    const [, level, message, rest] = logfmt as unknown as [string, string, string, string]
    const error = /\berror=("(?:[^"\\]|\\.)*"|\S+)/.exec(rest)?.[1]
    return { level, message: unquote(message), ...(error && { error: unquote(error) }) }
  }
  const text = TEXT.exec(line)
  if (!text) return undefined
  const error = /\berror=("(?:[^"\\]|\\.)*"|.*$)/.exec(text[2] as string)?.[1]
  return {
    level: (text[1] as string).toLowerCase(),
    message: text[2] as string,
    ...(error && { error: unquote(error) }),
  }
}

function unquote(text: string): string {
  if (!text.startsWith('"')) return text
  try {
    return JSON.parse(text)
  } catch {
    return text.slice(1, -1)
  }
}

/** What the stream has done, by its own metrics: counters since the process began. */
export interface StreamMetrics {
  upserts: number
  deletes: number
  errors: number
  dials: number
  dialFailures: number
}

const METRICS: Record<string, keyof StreamMetrics> = {
  apply_upserts_total: 'upserts',
  apply_deletes_total: 'deletes',
  apply_errors_total: 'errors',
  target_apply_upserts_total: 'upserts',
  target_apply_deletes_total: 'deletes',
  target_apply_errors_total: 'errors',
  pglogical_dial_success_total: 'dials',
  pglogical_dial_failure_total: 'dialFailures',
}

/** Reads Prometheus text; a table's counters appear only once it has had a change, so nothing there means zero. */
export function parseMetrics(text: string): StreamMetrics {
  const found: StreamMetrics = { upserts: 0, deletes: 0, errors: 0, dials: 0, dialFailures: 0 }
  for (const line of text.split('\n')) {
    const sample = /^(\w+)(?:\{[^}]*\})?\s+(\S+)/.exec(line)
    const name = sample && METRICS[sample[1] as string]
    if (name) found[name] += Number(sample[2])
  }
  return found
}

/** A running replicator: what it says, and whether it is going round in circles. */
export class Replicator {
  readonly child: Child
  readonly request: ReplicatorRequest
  /** How often it has said that it will retry, since it was started. */
  retries = 0
  /** When it last said so, in milliseconds of this runner's monotonic clock. */
  lastRetryAt = Number.NEGATIVE_INFINITY
  /** The reason that it gave with its last retry or error. */
  lastTrouble: string | undefined

  constructor(request: ReplicatorRequest) {
    this.request = request
    this.child = new Child({
      program: request.program,
      args: replicatorArgs(request),
      logFile: request.logFile,
      scrub: scrubReplicator,
      hidePasswords: true,
      onLine: (line) => this.#hear(line),
    })
  }

  /** Undefined while its metrics cannot be read, as in the first moments. */
  async metrics(): Promise<StreamMetrics | undefined> {
    return httpText(`http://${this.request.metricsAddr}/_/varz`).then(parseMetrics, () => undefined)
  }

  async stop(): Promise<Exit> {
    return this.child.stop()
  }

  #hear(line: string): void {
    if (!/warn|error|fatal|retry/i.test(line)) return
    const parsed = parseLogLine(line)
    if (!parsed || !/^(warn|error|fatal|panic)/.test(parsed.level)) return
    this.lastTrouble = scrubText(parsed.error ?? parsed.message)
    if (!/will retry/.test(parsed.message)) return
    this.retries++
    this.lastRetryAt = performance.now()
  }
}

const TROUBLES: [RegExp, string][] = [
  [/TRUNCATE/i, 'a TRUNCATE was run on the source, which the replicator cannot carry'],
  [/toast/i, 'an UPDATE left a large (TOASTed) value unchanged, which this replicator cannot carry'],
  [
    /inconsistent number of key columns|key column/i,
    'a table has another key or REPLICA IDENTITY than its target; set REPLICA IDENTITY DEFAULT',
  ],
  [
    /schema drift|unexpected column|unknown column|inconsistent number of columns|expected.*columns/i,
    'a column was added or dropped on one side only',
  ],
  [
    /publication .* does not exist/i,
    'the publication is gone; one that is dropped and recreated under a live slot does not heal: start over with a new slot',
  ],
  [/replication slot .* is active for PID/i, 'another process holds the slot; end it'],
  [/replication slot .* does not exist/i, 'the slot is gone, and with it the changes since: the load must be repeated'],
  [
    /23505|duplicate key value/i,
    'a unique value moved between rows, which a unique index on the target refuses; drop that index until after the drain',
  ],
  [
    /428C9|GENERATED ALWAYS|non-DEFAULT value into column/i,
    'a target column is GENERATED ALWAYS AS IDENTITY; make it BY DEFAULT',
  ],
  [/23\d{3}|violates/i, 'the target refuses a row by one of its constraints'],
  [
    /unknown destination|does not exist|could not find table|no such table|unknown table/i,
    'a table or column of the stream is missing on the target',
  ],
  [/connect|dial|refused|reset|EOF|closed|terminating/i, 'a database cannot be reached'],
]

/** The replicator's last words, translated; undefined when it has not complained. */
export function explainTrouble(said: string | undefined): string | undefined {
  if (!said) return undefined
  return TROUBLES.find(([regex]) => regex.test(said))?.[1] ?? 'the replicator is retrying the same change for ever'
}
