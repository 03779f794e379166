import { describe, expect, it } from 'vitest'
import { rollbackFacts, wayBack } from '../../src/phases/observe/way-back.ts'

describe('wayBack', () => {
  it('can close if the application is healthy', () => {
    expect(wayBack({ verdict: 'healthy' })).toEqual({ may: 'close' })
  })

  it('stays open without an observation', () => {
    expect(wayBack(undefined)).toMatchObject({ may: 'stay-open', why: 'missing' })
    expect(wayBack({})).toMatchObject({ may: 'stay-open', why: 'missing' })
  })

  it('stays open with a reason while the application is degraded', () => {
    const reasons = [
      { code: 'observe.slow', subject: 'select 1 from t', measured: 9, limit: 3, hint: 'full-scan' },
    ] as const
    const found = wayBack({ verdict: 'degraded', reasons: [...reasons] })
    expect(found).toMatchObject({ may: 'stay-open', why: 'degraded' })
    expect(found.may === 'stay-open' && found.what[0]).toContain('select 1 from t')
  })

  it('can close with a warning if the observation is inconclusive', () => {
    expect(wayBack({ verdict: 'inconclusive', gaps: [{ code: 'observe.no-jobs' }] })).toMatchObject({
      may: 'close-with-warning',
      what: [expect.any(String)],
    })
  })
})

describe('rollbackFacts', () => {
  const day = 86_400_000
  const entry = { updatedAt: new Date('2026-11-30T02:00:00Z'), ageMs: 2 * day }

  it("reports by the target's clock the deadline and the time since which writes would be lost", () => {
    const { until, lines } = rollbackFacts(entry, 7 * day, 2 * day + 60_000, undefined)
    expect(until.toISOString()).toBe('2026-12-07T02:00:00.000Z')
    expect(lines[0]).toContain('2026-12-07 02:00 UTC')
    expect(lines[0]).toContain('2026-11-30 01:59 UTC')
  })

  it('reports the write rate and the verdict of the last watch', () => {
    const { observed, lines } = rollbackFacts(entry, 7 * day, 2 * day, {
      verdict: 'degraded',
      rowsWrittenPerMinute: 1234.4,
      ageMs: 600_000,
    })
    expect(observed).toBe('degraded')
    expect(lines.join(' ')).toMatch(/1,234 rows.*degraded.*10 min/)
  })

  it('reports that the rollback window is over', () => {
    expect(rollbackFacts(entry, day, 2 * day, undefined).lines[0]).toContain('ended at 2026-12-01 02:00 UTC')
  })
})
