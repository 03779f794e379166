import { describe, expect, it } from 'vitest'
import { isBehind } from '../../src/phases/stream/supervisor.ts'

const LONG_AGO = Number.NEGATIVE_INFINITY
const now = () => performance.now()
const CALM = { circlingMs: undefined, retries: 0, movedAt: LONG_AGO }
const KNOWN = { retries: 0, busyAt: LONG_AGO, confirmedAt: LONG_AGO, stuckAfter: 5_000 }

describe('a stream with late heartbeats', () => {
  it('is stuck if there is no progress at all', () => {
    expect(isBehind(CALM, KNOWN)).toBe(false)
  })

  it('is behind while it applies changes, or while its session is busy with a large transaction', () => {
    expect(isBehind({ ...CALM, movedAt: now() }, KNOWN)).toBe(true)
    expect(isBehind(CALM, { ...KNOWN, busyAt: now() })).toBe(true)
  })

  it('is stuck if it keeps retrying the same changes', () => {
    const circling = { circlingMs: 9_000, retries: 3, movedAt: now() }
    expect(isBehind(circling, { ...KNOWN, busyAt: now() })).toBe(false)
    expect(isBehind({ ...circling, retries: 2 }, KNOWN)).toBe(true)
  })

  it('is behind if it retries occasionally but confirms what it applies', () => {
    expect(isBehind({ circlingMs: 9_000, retries: 40, movedAt: now() }, { ...KNOWN, confirmedAt: now() })).toBe(true)
    expect(isBehind({ circlingMs: 9_000, retries: 40, movedAt: now() }, { ...KNOWN, confirmedAt: now() - 6_000 })).toBe(
      false,
    )
  })
})
