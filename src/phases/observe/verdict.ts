import { type Counters, deviationMs, meanMs, type Statements } from './counters.ts'

/** `inconclusive`: too little is known to judge the application, so the step fails. */
const VERDICTS = ['healthy', 'degraded', 'inconclusive'] as const
export type Verdict = (typeof VERDICTS)[number]

export interface Limits {
  /** Mean on the target divided by the mean on the source. */
  latencyRatio: number
  /** Milliseconds. A mean below this is never too slow, whatever it was on the source. */
  latencyFloorMs: number
  /** A statement with fewer calls than this on either side is not compared. */
  minCalls: number
  /** Maximum failures, as a percentage of a statement's executions. */
  maxFailures: number
  /** Maximum retries, as a percentage of a statement's executions. */
  maxRetries: number
  /** Maximum connections in use, as a percentage of those that the target allows. */
  maxConnections: number
  /** Maximum simultaneous sessions of the application on the source. */
  maxStragglers: number
  /** Maximum number of writes that the permanent fence has refused. */
  maxRefusedWrites: number
  /** Maximum number of failed jobs on the target. */
  maxFailedJobs: number
  /** Minimum percentage of the baseline's calls that must come from statements that ran often enough on both sides. */
  minCoverage: number
}

/** A client that is still connected to the source after the commit. */
export interface Straggler {
  role: string
  application: string
  /** Empty for a local socket. */
  address: string
  /** Highest number of simultaneous sessions. */
  sessions: number
  /** Whether the last statement of one of its sessions was a write. */
  writes: boolean
}

export interface SessionCount {
  application: string
  role: string
  sessions: number
}

interface FailedJob {
  id: string
  type: string
  status: string
}

/** Why statistics are missing. */
export type Missing = 'right' | 'not-installed' | 'one-snapshot' | 'no-snapshot'

/** What was observed during a watch. */
export interface Seen {
  /** The migration role on each side. */
  roles: Record<'source' | 'target', string>
  /** Counted between the first and the last reading of the target. */
  statements: Statements | { missing: Missing }
  /** Sessions by application and role, at the moment when the target had the most; undefined if they cannot be read. */
  sessions: SessionCount[] | undefined
  /** Maximum number of connections that the target allows; undefined if there is no limit or it is unknown. */
  connectionLimit: number | undefined
  failedJobs: FailedJob[] | undefined
  /** Undefined if other users' sessions on the source are hidden. */
  stragglers: Straggler[] | undefined
  /**
   * Writes refused since the last watch, or since the start of the first one; undefined if the fence does not count
   * them.
   */
  refusedWrites: number | undefined
}

export type ReasonCode =
  | 'observe.slow'
  | 'observe.failures'
  | 'observe.retries'
  | 'observe.connections'
  | 'observe.stragglers'
  | 'observe.refused-writes'
  | 'observe.failed-jobs'

export type GapCode =
  | 'observe.no-baseline'
  | 'observe.no-target-statistics'
  | 'observe.few-calls'
  | 'observe.no-sessions'
  | 'observe.no-jobs'
  | 'observe.no-refusals'
  | 'observe.no-source-sessions'

export type HintCode = 'full-scan' | 'contention' | 'round-trips' | 'retry' | 'failure' | 'pool' | 'straggler' | 'job'

/** A threshold that was exceeded. */
export interface Reason {
  code: ReasonCode
  /** The statement, application or client. */
  subject: string
  measured: number
  limit: number
  hint: HintCode
}

/** Missing data that rules out the verdict `healthy`. */
export interface Gap {
  code: GapCode
  missing?: Missing
  /** The role that lacks a privilege. */
  role?: string
  measured?: number
  limit?: number
}

/** One statement on both sides. Times are in milliseconds. */
export interface Pair {
  statement: string
  source: { calls: number; meanMs: number; deviationMs: number }
  target: { calls: number; meanMs: number; deviationMs: number }
  /** Mean on the target divided by the mean on the source. */
  ratio: number
  failures: number
  retries: number
  fullScan: boolean
  contentionMs: number
  lastError?: string
  applications: string[]
}

export interface Judgement {
  verdict: Verdict
  reasons: Reason[]
  gaps: Gap[]
  /** The ten worst statements. Those over a threshold come first. */
  worst: Pair[]
  /** Statements seen on one side only, most frequent first. */
  unpaired: { source: string[]; target: string[] }
  /** Percentage of the baseline's calls from statements that ran often enough on both sides. */
  coverage: number
}

const SHOWN = 10

/**
 * Compares what was observed during a watch with the baseline. The verdict is `degraded` if a threshold is exceeded,
 * even if other data is missing, and `inconclusive` if only data is missing.
 */
export function judge(baseline: Statements | { missing: Missing }, seen: Seen, limits: Limits): Judgement {
  const before = known(baseline)
  const after = known(seen.statements)
  const pairs = pairsOf(before ?? {}, after ?? {})
  const reasons = [
    ...Object.entries(after ?? {}).flatMap(([statement, now]) =>
      statementReasons(statement, before?.[statement], now, limits),
    ),
    ...connectionReasons(seen, limits),
    ...clientReasons(seen, limits),
  ]
  const coverage = coverageOf(before ?? {}, pairs, limits.minCalls)
  const gaps = gapsOf(baseline, seen, coverage, limits)
  return {
    verdict: reasons.length ? 'degraded' : gaps.length ? 'inconclusive' : 'healthy',
    reasons,
    gaps,
    worst: worstFirst(pairs, reasons).slice(0, SHOWN),
    unpaired: { source: alone(before, after), target: alone(after, before) },
    coverage,
  }
}

function known(statements: Statements | { missing: Missing }): Statements | undefined {
  return isMissing(statements) ? undefined : statements
}

export function isMissing(statements: Statements | { missing: Missing }): statements is { missing: Missing } {
  return typeof (statements as { missing?: unknown }).missing === 'string'
}

function statementReasons(subject: string, before: Counters | undefined, now: Counters, limits: Limits): Reason[] {
  const slow = slowReason(subject, before, now, limits)
  if (now.calls < limits.minCalls) return slow
  const found: Reason[] = []
  const add = (code: ReasonCode, measured: number, limit: number, hint: HintCode) => {
    if (measured > limit) found.push({ code, subject, measured, limit, hint })
  }
  // If the client retries the transaction itself, the server counts failures with 40001, not retries.
  const repeats = now.lastError?.startsWith('40')
  const failed = share(now.failures, now.calls)
  add('observe.retries', share(now.retries, now.calls) + (repeats ? failed : 0), limits.maxRetries, 'retry')
  if (!repeats) add('observe.failures', failed, limits.maxFailures, 'failure')
  return [...found, ...slow]
}

/**
 * Reports a statement that is too slow. Counts calls short of `minCalls` as taking no time, so that a statement with
 * few calls is reported only if its mean would exceed the limit anyway.
 */
function slowReason(subject: string, before: Counters | undefined, now: Counters, limits: Limits): Reason[] {
  if (!before || before.calls < limits.minCalls) return []
  const least = now.totalMs / Math.max(now.calls, limits.minCalls)
  if (least < limits.latencyFloorMs || least / Math.max(meanMs(before), 0.001) <= limits.latencyRatio) return []
  return [
    {
      code: 'observe.slow',
      subject,
      measured: ratioOf(before, now),
      limit: limits.latencyRatio,
      hint: slowHint(now),
    },
  ]
}

const share = (some: number | undefined, all: number) => (100 * (some ?? 0)) / all

function ratioOf(before: Counters, now: Counters): number {
  return meanMs(now) / Math.max(meanMs(before), 0.001)
}

function slowHint(now: Counters): HintCode {
  if (now.fullScan) return 'full-scan'
  return (now.contentionMs ?? 0) > meanMs(now) / 2 ? 'contention' : 'round-trips'
}

function connectionReasons({ sessions = [], connectionLimit }: Seen, { maxConnections }: Limits): Reason[] {
  if (!connectionLimit) return []
  const measured = share(
    sessions.reduce((all, each) => all + each.sessions, 0),
    connectionLimit,
  )
  if (measured <= maxConnections) return []
  const most = sessions.toSorted((a, b) => b.sessions - a.sessions)[0]
  const subject = most ? `${most.application || 'unnamed'} (user ${most.role})` : ''
  return [{ code: 'observe.connections', subject, measured, limit: maxConnections, hint: 'pool' }]
}

/** `billing (user app, 10.0.0.7)` */
function clientName({ application, role, address }: Pick<Straggler, 'application' | 'role' | 'address'>): string {
  return `${application || 'unnamed'} (user ${role}${address ? `, ${address}` : ''})`
}

function clientReasons({ stragglers = [], refusedWrites = 0, failedJobs = [] }: Seen, limits: Limits): Reason[] {
  const found: Reason[] = []
  const sessions = stragglers.reduce((all, each) => all + each.sessions, 0)
  const writers = stragglers.filter(({ writes }) => writes)
  if (sessions > limits.maxStragglers)
    for (const each of stragglers)
      found.push({
        code: 'observe.stragglers',
        subject: clientName(each),
        measured: each.sessions,
        limit: limits.maxStragglers,
        hint: 'straggler',
      })
  if (refusedWrites > limits.maxRefusedWrites)
    found.push({
      code: 'observe.refused-writes',
      subject: (writers.length ? writers : stragglers).map(clientName).join(', '),
      measured: refusedWrites,
      limit: limits.maxRefusedWrites,
      hint: 'straggler',
    })
  if (failedJobs.length > limits.maxFailedJobs)
    found.push({
      code: 'observe.failed-jobs',
      subject: failedJobs.map(({ id, type, status }) => `${type} ${id} (${status})`).join(', '),
      measured: failedJobs.length,
      limit: limits.maxFailedJobs,
      hint: 'job',
    })
  return found
}

function gapsOf(
  baseline: Statements | { missing: Missing },
  seen: Seen,
  coverage: number,
  { minCoverage }: Limits,
): Gap[] {
  const found: Gap[] = []
  const { roles } = seen
  if (isMissing(baseline)) found.push({ code: 'observe.no-baseline', missing: baseline.missing })
  if (isMissing(seen.statements))
    found.push({ code: 'observe.no-target-statistics', missing: seen.statements.missing, role: roles.target })
  if (!found.length && coverage < minCoverage)
    found.push({ code: 'observe.few-calls', measured: coverage, limit: minCoverage })
  if (!seen.sessions) found.push({ code: 'observe.no-sessions', role: roles.target })
  if (!seen.failedJobs) found.push({ code: 'observe.no-jobs', role: roles.target })
  if (!seen.stragglers) found.push({ code: 'observe.no-source-sessions', role: roles.source })
  if (seen.refusedWrites === undefined) found.push({ code: 'observe.no-refusals' })
  return found
}

function pairsOf(before: Statements, after: Statements): Pair[] {
  return Object.entries(after).flatMap(([statement, now]) => {
    const then = before[statement]
    return then ? [pairOf(statement, then, now)] : []
  })
}

function pairOf(statement: string, then: Counters, now: Counters): Pair {
  const side = (counters: Counters) => ({
    calls: counters.calls,
    meanMs: meanMs(counters),
    deviationMs: deviationMs(counters),
  })
  return {
    statement,
    source: side(then),
    target: side(now),
    ratio: ratioOf(then, now),
    failures: now.failures ?? 0,
    retries: now.retries ?? 0,
    fullScan: now.fullScan ?? false,
    contentionMs: now.contentionMs ?? 0,
    ...(now.lastError ? { lastError: now.lastError } : {}),
    applications: now.applications ?? [],
  }
}

/** Percentage of the baseline's calls that come from statements with enough calls on both sides. */
function coverageOf(before: Statements, pairs: readonly Pair[], minCalls: number): number {
  const all = Object.values(before).reduce((calls, each) => calls + each.calls, 0)
  const paired = pairs.filter(({ source, target }) => source.calls >= minCalls && target.calls >= minCalls)
  return all
    ? share(
        paired.reduce((calls, { source }) => calls + source.calls, 0),
        all,
      )
    : 0
}

/** Sorts statements over a threshold first, then by the total time added compared with the source. */
function worstFirst(pairs: readonly Pair[], reasons: readonly Reason[]): Pair[] {
  const passed = new Set(reasons.map(({ subject }) => subject))
  const cost = ({ source, target }: Pair) => (target.meanMs - source.meanMs) * target.calls
  return pairs.toSorted(
    (a, b) => Number(passed.has(b.statement)) - Number(passed.has(a.statement)) || cost(b) - cost(a),
  )
}

function alone(some: Statements | undefined, others: Statements | undefined): string[] {
  if (!some || !others) return []
  return Object.entries(some)
    .filter(([statement]) => !others[statement])
    .sort(([, a], [, b]) => b.calls - a.calls)
    .map(([statement]) => statement)
}
