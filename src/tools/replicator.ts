import { TIMING } from '../runtime/timing.ts'
import { Child, type Exit, httpText } from './process.ts'
import { scrubReplicator, scrubText } from './scrub.ts'

export interface ReplicatorRequest {
  program: string
  source: string
  target: string
  /** URL for the staging schema, if it needs a different login. */
  staging?: string
  slot: string
  publication: string
  /** `database.schema` on the target */
  targetSchema: string
  stagingSchema: string
  metricsAddr: string
  logFile: string
  extraArgs: readonly string[]
}

/** The replicator's `application_name` on both sides, unless the URL sets one. */
export const STREAM_APPLICATION = 'molt-actions replicator'

function replicatorArgs(request: ReplicatorRequest): string[] {
  return [
    'pglogical',
    ...['--sourceConn', request.source],
    ...['--targetConn', request.target],
    ...(request.staging ? ['--stagingConn', request.staging] : []),
    ...['--slotName', request.slot],
    ...['--publicationName', request.publication],
    ...['--targetSchema', request.targetSchema],
    ...['--stagingSchema', request.stagingSchema],
    ...['--metricsAddr', request.metricsAddr],
    ...['--standbyTimeout', `${TIMING.standby}ms`],
    ...request.extraArgs,
  ]
}

/** A line of the replicator's log, in any of its formats. */
export interface LogLine {
  level: string
  message: string
  /** The text of the `error` field, if any. */
  error?: string
  /** The message from the source database. The next log line reports the error without repeating this message. */
  cause?: string
}

const LOGFMT = /^time="[^"]*" level=(\w+) msg=("(?:[^"\\]|\\.)*"|\S+)(.*)$/
const PADDED = /^([A-Z]{4,7}):?\s*\[[^\]]*\]\s+(.*)$/

export function parseLogLine(line: string): LogLine | undefined {
  if (line.startsWith('{')) return parseJsonLine(line)
  const logfmt = LOGFMT.exec(line)
  if (logfmt) {
    const [, level, message, rest] = logfmt as unknown as [string, string, string, string]
    return { level, message: unquote(message), ...fieldsOf(rest) }
  }
  const padded = PADDED.exec(line)
  if (!padded) return undefined
  const [, level, rest] = padded as unknown as [string, string, string]
  const message = rest.replace(/\s+[\w.]+=.*$/, '').trimEnd()
  return { level: level.toLowerCase(), message, ...fieldsOf(rest) }
}

/** Reads `error="…"`. In the padded format, the value may have no quotes and then ends before the next field. */
function fieldsOf(rest: string): { error?: string; cause?: string } {
  const field = (name: string) => {
    const found = new RegExp(`(?:^|\\s)${name}=("(?:[^"\\\\]|\\\\.)*"?|.*?(?=\\s+\\w+=|$))`).exec(rest)?.[1]
    return found === undefined ? undefined : unquote(found)
  }
  const [error, cause] = [field('error'), field('logicalMsg')]
  return { ...(error !== undefined && { error: withoutStatement(error) }), ...(cause !== undefined && { cause }) }
}

/**
 * Removes the failed statement before the error. A statement has a parameter for each value of a batch, so it can have
 * tens of KiB [run].
 */
function withoutStatement(error: string): string {
  return error.replace(/^((?:"(?:[^"]|"")*"\.?)+: )[A-Z]{4}[\s\S]*?: (?=ERROR: )/, '$1')
}

function parseJsonLine(line: string): LogLine | undefined {
  try {
    const { severity, message, error, logicalMsg } = JSON.parse(line)
    return {
      level: String(severity).toLowerCase(),
      message: String(message),
      ...(error !== undefined && {
        error: typeof error === 'string' ? withoutStatement(error) : JSON.stringify(error),
      }),
      ...(logicalMsg !== undefined && { cause: JSON.stringify(logicalMsg) }),
    }
  } catch {
    return undefined
  }
}

function unquote(text: string): string {
  if (!text.startsWith('"')) return text
  try {
    return JSON.parse(text)
  } catch {
    return text.replace(/^"|"$/g, '')
  }
}

/** The replicator's counters since its process started. */
export interface StreamMetrics {
  upserts: number
  deletes: number
  errors: number
  dials: number
  dialFailures: number
}

/** Names of each counter before and since replicator 1.2.0. A build can expose both, with the same count. */
const METRICS: Record<keyof StreamMetrics, readonly string[]> = {
  upserts: ['apply_upserts_total', 'target_apply_upserts_total'],
  deletes: ['apply_deletes_total', 'target_apply_deletes_total'],
  errors: ['apply_errors_total', 'target_apply_errors_total'],
  dials: ['pglogical_dial_success_total'],
  dialFailures: ['pglogical_dial_failure_total'],
}

/** Parses Prometheus text. A missing counter is zero, because a table's counters appear only with its first change. */
export function parseMetrics(text: string): StreamMetrics {
  const sums = new Map<string, number>()
  for (const line of text.split('\n')) {
    const sample = /^(\w+)(?:\{[^}]*\})?\s+(\S+)/.exec(line)
    const value = Number(sample?.[2])
    if (sample && value >= 0 && value < Number.MAX_SAFE_INTEGER)
      sums.set(sample[1] as string, (sums.get(sample[1] as string) ?? 0) + value)
  }
  const found = noMetrics()
  for (const key of Object.keys(METRICS) as (keyof StreamMetrics)[])
    found[key] = Math.max(...METRICS[key].map((name) => sums.get(name) ?? 0))
  return found
}

export function noMetrics(): StreamMetrics {
  return { upserts: 0, deletes: 0, errors: 0, dials: 0, dialFailures: 0 }
}

const CHATTER = /^(?:time="[^"]*" level=(?:debug|trace) |(?:DEBUG|TRACE) )/
/** Scrubbing a line takes a hundred times as long as reading it, and a tool blocks if its output is not read. */
const CHATTER_A_SECOND = 500

/** Keeps all lines except debug lines, which are limited to {@link CHATTER_A_SECOND} per second. */
export function boundedScrubber(now: () => number = () => performance.now()): (line: string) => string | undefined {
  let second = now()
  let kept = 0
  return (line) => {
    if (!CHATTER.test(line)) return scrubReplicator(line)
    if (++kept <= CHATTER_A_SECOND) return scrubReplicator(line)
    if (now() - second < 1_000) return undefined
    second = now()
    kept = 0
    return scrubReplicator(line)
  }
}

/** A running replicator, with its retries and its last error. */
export class Replicator {
  readonly child: Child
  readonly request: ReplicatorRequest
  /** Number of retries that the replicator has logged since it started. */
  retries = 0
  /** Time of the last retry, in milliseconds of this runner's monotonic clock. */
  lastRetryAt = Number.NEGATIVE_INFINITY
  /** The reason for the last retry or error, scrubbed. */
  lastDiagnosis: string | undefined
  #cause: string | undefined

  constructor(request: ReplicatorRequest) {
    this.request = request
    this.child = new Child({
      program: request.program,
      args: replicatorArgs(request),
      // Both databases show this as `application_name`, unless the URL sets a different name.
      env: { PGAPPNAME: STREAM_APPLICATION },
      logFile: request.logFile,
      scrub: boundedScrubber(),
      hidePasswords: true,
      onLine: (line) => this.#hear(line),
    })
  }

  /** Reads the counters; undefined if they cannot be read, for example right after the start. */
  async metrics(): Promise<StreamMetrics | undefined> {
    return httpText(`http://${this.request.metricsAddr}/_/varz`).then(parseMetrics, () => undefined)
  }

  async stop(): Promise<Exit> {
    return this.child.stop()
  }

  #hear(line: string): void {
    if (!ALARM.test(line)) return
    const parsed = parseLogLine(line)
    if (!parsed || !/^(warn|error|fatal|panic)/.test(parsed.level)) return
    if (parsed.cause) this.#cause = scrubText(parsed.cause)
    const said = parsed.error ?? parsed.message
    // For an error from the source, the reason is in the previous line.
    this.lastDiagnosis = FROM_SOURCE.test(said) && this.#cause ? this.#cause : scrubText(said)
    if (!RETRY.test(parsed.message)) return
    this.retries++
    this.lastRetryAt = performance.now()
  }
}

/** Cheap pre-filter, because it runs on every line. */
const ALARM = /warn|error|fatal|panic|retry/i
const FROM_SOURCE = /^error received from source database$/
/**
 * Retry messages of both generations of the replicator: one generation retries the connection; the other retries a
 * batch, and then the apply loop.
 */
const RETRY = /will retry|tryCommit|maximum number of retries|restart\w* .*apply loop/i
