/**
 * Compares the estimated write pause with the actual one on targets of different speeds. Runs nightly, because a busy
 * machine makes the result meaningless.
 */
import { afterEach, expect, test } from 'vitest'
import type { CockroachOptions } from '../../rehearsal/cockroach/server.ts'
import { offBy } from '../../src/actions/cutover/estimate.ts'
import { type Rehearsal, requireSuccess, startRehearsal } from '../support/migration.ts'

const PACES: [string, CockroachOptions][] = [
  ['no delay', {}],
  ['20 ms per statement', { latency: 20 }],
  ['20 ms per statement, and 300 ms per schema change or grant', { latency: 20, ddlTime: 300 }],
]
/** Rehearsals on each target. The first one has no earlier measurements for its estimate. */
const ROUNDS = 4
const factors: number[] = []

let rehearsal: Rehearsal
afterEach(() => rehearsal?.stop())

test.each(PACES)('%s: estimates and measures every part', { timeout: 600_000 }, async (_, cluster) => {
  rehearsal = await startRehearsal({ rows: 5_000, rate: 40, cluster })
  await rehearsal.bringToCaughtUp()
  for (let round = 0; round < ROUNDS; round++) {
    const how = round % 2 ? 'changed' : 'full'
    const result = await rehearsal.run('cutover', { 'final-verify': how, 'quiet-period': '300ms', 'max-pause': '2m' })
    requireSuccess('cutover', result)
    const [expected, actual] = ['estimated-parts', 'pause-parts'].map((name) =>
      JSON.parse(result.outputs[name] as string),
    )
    expect(Object.keys(expected)).toEqual(Object.keys(actual))
    factors.push(offBy(Number(result.outputs['estimated-pause-ms']), Number(result.outputs['pause-ms'])) as number)
    const [evidence] = await rehearsal.query(
      'target',
      "SELECT body -> 'estimate' -> 'parts' AS expected, body -> 'parts' AS actual FROM molt_actions.evidence WHERE action = 'cutover' ORDER BY at DESC LIMIT 1",
    )
    expect(evidence).toEqual({ expected, actual })
    console.log(`${how}: off by ${factors.at(-1)?.toFixed(2)}: ${JSON.stringify({ expected, actual })}`)
  }
})

test('the estimate is within a factor of 1.5 in 9 of 10 rehearsals', () => {
  const near = factors.filter((factor) => factor <= 1.5).length
  expect(factors.length).toBe(PACES.length * ROUNDS)
  expect(near / factors.length, factors.map((factor) => factor.toFixed(2)).join(', ')).toBeGreaterThanOrEqual(0.9)
})
