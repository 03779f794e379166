/**
 * A server's counters of one statement since it started counting: sums, so that two snapshots can be subtracted.
 * Times in milliseconds.
 */
export interface Counters {
  calls: number
  rows: number
  totalMs: number
  /** Sum of the squares of each call's time. */
  squaresMs: number
  /** CockroachDB only: executions that ended in an error. */
  failures?: number
  /** CockroachDB only: executions after a first attempt. */
  retries?: number
  /** CockroachDB only: SQLSTATE of the last failure. */
  lastError?: string
  /** CockroachDB only: one of its plans reads a whole table or index. */
  fullScan?: boolean
  /** CockroachDB only, from sampled executions: mean wait for other transactions. */
  contentionMs?: number
  /** CockroachDB only: `application_name` of its clients. */
  applications?: string[]
}

/** By fingerprint. */
export type Statements = Record<string, Counters>

/** The counters of `calls` executions from their mean and deviation (of the population), as both servers report them. */
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
 * Counts between two snapshots, without statements that were not executed. If a counter fell, the server restarted
 * counting in between: the counts since then are used.
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
