import { describe, expect, it } from 'vitest'
import { type Counters, countersOf, deviationMs, difference, meanMs, sum } from '../../src/phases/observe/counters.ts'
import { judge, type Limits, type Seen, type Straggler } from '../../src/phases/observe/verdict.ts'

const LIMITS: Limits = {
  latencyRatio: 3,
  latencyFloorMs: 20,
  minCalls: 50,
  maxFailures: 1,
  maxRetries: 5,
  maxConnections: 80,
  maxStragglers: 0,
  maxRefusedWrites: 0,
  maxFailedJobs: 0,
  minCoverage: 50,
}

const ORDERS = 'select total from orders where id = _'
const CARTS = 'update carts set quantity = _ where id = _'
const BASELINE = { [ORDERS]: countersOf(1000, 1000, 10, 2), [CARTS]: countersOf(500, 500, 5, 1) }

function calm(more: Record<string, Counters> = {}): Seen {
  return {
    roles: { source: 'mover', target: 'mover' },
    statements: { [ORDERS]: countersOf(900, 900, 12, 2), [CARTS]: countersOf(400, 400, 9, 1), ...more },
    sessions: [{ application: 'shop', role: 'app', sessions: 6 }],
    connectionLimit: 100,
    failedJobs: [],
    stragglers: [],
    refusedWrites: 0,
  }
}

const codes = (seen: Seen, limits = LIMITS, baseline: Parameters<typeof judge>[0] = BASELINE) =>
  judge(baseline, seen, limits).reasons.map(({ code }) => code)
const on = (counters: Partial<Counters>) => ({ [ORDERS]: { ...countersOf(900, 900, 12, 2), ...counters } })
const straggler = (more: Partial<Straggler> = {}): Straggler => ({
  role: 'app',
  application: 'billing',
  address: '10.0.0.7',
  sessions: 1,
  writes: false,
  ...more,
})

describe('judge', () => {
  it('is healthy if there is enough data and every value is within its threshold', () => {
    const judged = judge(BASELINE, calm(), LIMITS)
    expect(judged).toMatchObject({ verdict: 'healthy', reasons: [], gaps: [], coverage: 100 })
    expect(judged.unpaired).toEqual({ source: [], target: [] })
  })

  // For each threshold, one value past it and one exactly on it.
  it.each<[string, string, Seen, Seen]>([
    [
      'latency ratio',
      'observe.slow',
      calm({ [ORDERS]: countersOf(900, 900, 31, 2) }),
      calm({ [ORDERS]: countersOf(900, 900, 30, 2) }),
    ],
    [
      'failures',
      'observe.failures',
      calm(on({ failures: 10, lastError: '23505' })),
      calm(on({ failures: 9, lastError: '23505' })),
    ],
    ['retries', 'observe.retries', calm(on({ retries: 46 })), calm(on({ retries: 45 }))],
    ['connections', 'observe.connections', { ...calm(), connectionLimit: 7 }, { ...calm(), connectionLimit: 8 }],
    ['stragglers', 'observe.stragglers', { ...calm(), stragglers: [straggler()] }, calm()],
    ['refused writes', 'observe.refused-writes', { ...calm(), refusedWrites: 1 }, calm()],
    [
      'failed jobs',
      'observe.failed-jobs',
      { ...calm(), failedJobs: [{ id: '7', type: 'IMPORT', status: 'failed' }] },
      calm(),
    ],
  ])('is degraded past the threshold of %s', (_, code, past, at) => {
    expect(judge(BASELINE, past, LIMITS).verdict).toBe('degraded')
    expect(codes(past)).toEqual([code])
    expect(judge(BASELINE, at, LIMITS).verdict).toBe('healthy')
  })

  it('uses the configured thresholds', () => {
    const busy: Seen = {
      ...calm(on({ ...countersOf(900, 900, 31, 2), retries: 46, failures: 10, lastError: '23505' })),
      connectionLimit: 7,
      stragglers: [straggler()],
      refusedWrites: 1,
      failedJobs: [{ id: '7', type: 'IMPORT', status: 'failed' }],
    }
    expect(codes(busy)).toHaveLength(7)
    const lenient = { ...LIMITS, latencyRatio: 4, maxFailures: 2, maxRetries: 6, maxConnections: 90 }
    expect(codes(busy, { ...lenient, maxStragglers: 1, maxRefusedWrites: 1, maxFailedJobs: 1 })).toEqual([])
  })

  it('does not count a statement as slow if its mean is below the floor', () => {
    const fast = { [ORDERS]: countersOf(1000, 1000, 1, 0.1), [CARTS]: countersOf(500, 500, 5, 1) }
    expect(codes(calm({ [ORDERS]: countersOf(900, 900, 19.9, 1) }), LIMITS, fast)).toEqual([])
    expect(codes(calm({ [ORDERS]: countersOf(900, 900, 20, 1) }), LIMITS, fast)).toEqual(['observe.slow'])
  })

  it('ignores a statement with too few calls', () => {
    const few = (calls: number, ms = 31) => calm({ [ORDERS]: { ...countersOf(calls, calls, ms, 2), failures: calls } })
    expect(codes(few(48))).toEqual([])
    expect(codes(few(50))).toEqual(['observe.failures', 'observe.slow'])
    const rare = { ...BASELINE, [ORDERS]: countersOf(49, 49, 10, 2) }
    expect(codes(calm({ [ORDERS]: countersOf(900, 900, 500, 2) }), LIMITS, rare)).toEqual([])
  })

  it('reports a statement that is so slow that it is rarely called', () => {
    const few = (calls: number, ms: number) => calm({ [ORDERS]: countersOf(calls, calls, ms, 2) })
    expect(judge(BASELINE, few(2, 3_000), LIMITS).reasons).toMatchObject([
      { code: 'observe.slow', subject: ORDERS, measured: 300, limit: 3 },
    ])
    expect(codes(few(2, 700))).toEqual([])
    expect(codes(few(1, 1_501))).toEqual(['observe.slow'])
  })

  it("counts failures with 40001 as the client's retries", () => {
    expect(codes(calm(on({ failures: 46, lastError: '40001' })))).toEqual(['observe.retries'])
    expect(codes(calm(on({ failures: 40, lastError: '40001', retries: 10 })))).toEqual(['observe.retries'])
    expect(codes(calm(on({ failures: 45, lastError: '40001' })))).toEqual([])
  })

  it('counts failures and retries of a statement that the source never saw', () => {
    const unknown = 'select note from notes where id = _'
    const judged = judge(BASELINE, calm({ [unknown]: { ...countersOf(100, 100, 5, 1), retries: 50 } }), LIMITS)
    expect(judged.reasons).toMatchObject([{ code: 'observe.retries', subject: unknown, measured: 50, limit: 5 }])
    expect(judged.unpaired.target).toEqual([unknown])
  })

  it.each<[string, Seen, Parameters<typeof judge>[0], string]>([
    ['there is no baseline', calm(), { missing: 'one-snapshot' }, 'observe.no-baseline'],
    [
      'the target shows no statistics',
      { ...calm(), statements: { missing: 'right' } },
      BASELINE,
      'observe.no-target-statistics',
    ],
    ['no application uses the target', { ...calm(), statements: {} }, BASELINE, 'observe.few-calls'],
    ['the baseline is empty', calm(), {}, 'observe.few-calls'],
    ['sessions cannot be seen', { ...calm(), sessions: undefined }, BASELINE, 'observe.no-sessions'],
    ['jobs cannot be seen', { ...calm(), failedJobs: undefined }, BASELINE, 'observe.no-jobs'],
    [
      'sessions on the source cannot be seen',
      { ...calm(), stragglers: undefined },
      BASELINE,
      'observe.no-source-sessions',
    ],
    ['the fence counts no refusals', { ...calm(), refusedWrites: undefined }, BASELINE, 'observe.no-refusals'],
  ])('is inconclusive when %s', (_, seen, baseline, code) => {
    const judged = judge(baseline, seen, LIMITS)
    expect(judged.verdict).toBe('inconclusive')
    expect(judged.gaps.map((gap) => gap.code)).toEqual([code])
  })

  it("requires that enough of the baseline's statements also run on the target", () => {
    const partly: Seen = { ...calm(), statements: { [CARTS]: countersOf(400, 400, 6, 1) } }
    expect(judge(BASELINE, partly, LIMITS)).toMatchObject({
      verdict: 'inconclusive',
      gaps: [{ code: 'observe.few-calls', limit: 50 }],
      unpaired: { source: [ORDERS], target: [] },
    })
    expect(judge(BASELINE, partly, { ...LIMITS, minCoverage: 33 }).verdict).toBe('healthy')
  })

  it('is degraded rather than inconclusive if both apply', () => {
    expect(judge({ missing: 'not-installed' }, { ...calm(), refusedWrites: 3 }, LIMITS).verdict).toBe('degraded')
  })

  it('names the clients that still write to the source', () => {
    const seen = {
      ...calm(),
      refusedWrites: 12,
      stragglers: [straggler({ application: 'report' }), straggler({ writes: true })],
    }
    const { reasons } = judge(BASELINE, seen, { ...LIMITS, maxStragglers: 5 })
    expect(reasons).toMatchObject([
      { code: 'observe.refused-writes', subject: 'billing (user app, 10.0.0.7)', measured: 12 },
    ])
  })

  it('compares the total of all sessions on the source with the limit', () => {
    const seen = { ...calm(), stragglers: [straggler(), straggler({ application: 'report', sessions: 2 })] }
    expect(codes(seen, { ...LIMITS, maxStragglers: 2 })).toEqual(['observe.stragglers', 'observe.stragglers'])
    expect(codes(seen, { ...LIMITS, maxStragglers: 3 })).toEqual([])
  })

  it('names the application with the most connections', () => {
    const sessions = [
      { application: 'shop', role: 'app', sessions: 6 },
      { application: 'billing', role: 'app', sessions: 90 },
    ]
    expect(judge(BASELINE, { ...calm(), sessions }, LIMITS).reasons[0]?.subject).toBe('billing (user app)')
  })

  it.each([
    ['a full scan', { fullScan: true }, 'full-scan'],
    ['waiting for other transactions', { contentionMs: 60 }, 'contention'],
    ['neither', { contentionMs: 10 }, 'round-trips'],
  ])('hints at %s', (_, more, hint) => {
    const slow = calm({ [ORDERS]: { ...countersOf(900, 900, 100, 2), ...more } })
    expect(judge(BASELINE, slow, LIMITS).reasons).toMatchObject([{ code: 'observe.slow', hint }])
  })

  it('lists the ten worst statements, starting with those past a threshold', () => {
    const many = Object.fromEntries(
      Array.from({ length: 15 }, (_, at) => [`select ${'x'.repeat(at + 1)} from t`, countersOf(1000, 1000, 1 + at, 0)]),
    )
    const later = Object.fromEntries(
      Object.entries(many).map(([name, { calls }]) => [name, countersOf(calls, calls, 18, 0)]),
    )
    const small = 'select small from t'
    const judged = judge(
      { ...many, [small]: countersOf(100, 100, 10, 0) },
      { ...calm(), statements: { ...later, [small]: countersOf(100, 100, 31, 0) } },
      LIMITS,
    )
    expect(judged.worst).toHaveLength(10)
    expect(judged.worst[0]).toMatchObject({ statement: small, ratio: 3.1 })
    expect(judged.worst[1]).toMatchObject({ statement: 'select x from t', ratio: 18 })
  })
})

describe('counters', () => {
  it('return the mean and standard deviation', () => {
    const counters = countersOf(10, 20, 12, 3)
    expect([meanMs(counters), deviationMs(counters)]).toEqual([12, expect.closeTo(3)])
  })

  it('return the mean and standard deviation of the calls between two snapshots', () => {
    // Calls that take 1 and 3 ms, and then calls that take 10, 20 and 30 ms.
    const before = { a: countersOf(2, 2, 2, 1) }
    const all = [1, 3, 10, 20, 30]
    const mean = all.reduce((x, y) => x + y) / 5
    const after = { a: countersOf(5, 5, mean, Math.sqrt(all.reduce((x, y) => x + (y - mean) ** 2, 0) / 5)) }
    const { a } = difference(before, after)
    expect(a && [a.calls, meanMs(a), deviationMs(a)]).toEqual([3, expect.closeTo(20), expect.closeTo(8.1649658)])
  })

  it('leave out statements that were not executed, and count new statements in full', () => {
    const before = { a: countersOf(5, 5, 1, 0) }
    expect(difference(before, { ...before, b: countersOf(3, 3, 1, 0) })).toEqual({ b: countersOf(3, 3, 1, 0) })
  })

  it('start over after a reset', () => {
    const now = countersOf(3, 3, 1, 0)
    expect(difference({ a: countersOf(5, 5, 1, 0) }, { a: now })).toEqual({ a: now })
  })

  it('subtract failures and retries', () => {
    const before = { a: { ...countersOf(5, 5, 1, 0), failures: 1, retries: 2 } }
    const after = { a: { ...countersOf(9, 9, 1, 0), failures: 2, retries: 7, lastError: '40001' } }
    expect(difference(before, after).a).toMatchObject({ calls: 4, failures: 1, retries: 5, lastError: '40001' })
  })

  it('are summed over all applications that run the same statement', () => {
    const both = sum(
      { ...countersOf(10, 10, 2, 0), failures: 1, fullScan: false, applications: ['b'] },
      { ...countersOf(10, 10, 4, 0), failures: 2, fullScan: true, applications: ['a'] },
    )
    expect(both).toMatchObject({ calls: 20, failures: 3, fullScan: true, applications: ['a', 'b'] })
    expect([meanMs(both), deviationMs(both)]).toEqual([3, expect.closeTo(1)])
  })
})
