/**
 * A server's counters for one statement since it started counting. They are sums, so that two snapshots can be
 * subtracted. Times are in milliseconds.
 */
export interface Counters {
  calls: number
  rows: number
  totalMs: number
  /** Sum of the squares of each call's time. */
  squaresMs: number
  /** CockroachDB only: executions that ended in an error. */
  failures?: number
  /** CockroachDB only: automatic retries. */
  retries?: number
  /** CockroachDB only: SQLSTATE of the last failure. */
  lastError?: string
  /** CockroachDB only: whether one of the statement's plans reads a whole table or index. */
  fullScan?: boolean
  /** CockroachDB only: mean time spent waiting for other transactions, from sampled executions. */
  contentionMs?: number
  /** CockroachDB only: `application_name` of the clients that ran the statement. */
  applications?: string[]
}

/** Counters by the statement's fingerprint. */
export type Statements = Record<string, Counters>

/** Computes the counters from the mean and the population standard deviation, which both servers report. */
export function countersOf(calls: number, rows: number, meanMs: number, deviationMs: number): Counters {
  return { calls, rows, totalMs: calls * meanMs, squaresMs: calls * (meanMs ** 2 + deviationMs ** 2) }
}

export function meanMs({ calls, totalMs }: Counters): number {
  return calls ? totalMs / calls : 0
}

/** Standard deviation of the population. */
export function deviationMs(counters: Counters): number {
  const { calls, squaresMs } = counters
  // Rounding can leave a tiny negative variance.
  return calls ? Math.sqrt(Math.max(0, squaresMs / calls - meanMs(counters) ** 2)) : 0
}

/** Adds up the counters of one statement from two users, applications or plans. */
export function sum(a: Counters, b: Counters): Counters {
  const applications = [...new Set([...(a.applications ?? []), ...(b.applications ?? [])])].sort()
  return {
    calls: a.calls + b.calls,
    rows: a.rows + b.rows,
    totalMs: a.totalMs + b.totalMs,
    squaresMs: a.squaresMs + b.squaresMs,
    ...both(a, b, 'failures', (x, y) => x + y),
    ...both(a, b, 'retries', (x, y) => x + y),
    ...both(a, b, 'contentionMs', Math.max),
    ...(a.lastError || b.lastError ? { lastError: a.lastError || b.lastError } : {}),
    ...(a.fullScan === undefined && b.fullScan === undefined ? {} : { fullScan: Boolean(a.fullScan || b.fullScan) }),
    ...(applications.length ? { applications } : {}),
  }
}

function both(a: Counters, b: Counters, key: keyof Counters, join: (x: number, y: number) => number) {
  const [x, y] = [a[key] as number | undefined, b[key] as number | undefined]
  return x === undefined && y === undefined ? {} : { [key]: join(x ?? 0, y ?? 0) }
}

/**
 * What was counted between two snapshots, without statements that were not executed. If a counter has fallen, the
 * server restarted counting in between, so the result has only the counts since the restart.
 */
export function difference(before: Statements, after: Statements): Statements {
  const found: Statements = {}
  for (const [fingerprint, now] of Object.entries(after)) {
    const then = before[fingerprint]
    const restarted = !then || now.calls < then.calls || now.totalMs < then.totalMs - 0.001
    const counted = restarted ? now : minus(now, then)
    if (counted.calls > 0) found[fingerprint] = counted
  }
  return found
}

function minus(now: Counters, then: Counters): Counters {
  return {
    ...now,
    calls: now.calls - then.calls,
    rows: now.rows - then.rows,
    totalMs: now.totalMs - then.totalMs,
    squaresMs: Math.max(0, now.squaresMs - then.squaresMs),
    ...(now.failures === undefined ? {} : { failures: Math.max(0, now.failures - (then.failures ?? 0)) }),
    ...(now.retries === undefined ? {} : { retries: Math.max(0, now.retries - (then.retries ?? 0)) }),
  }
}
