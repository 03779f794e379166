// Every single grant that is printed, revoked: `prepare` is red, and names what is missing.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { blockers, type GrantBench, removals, startGrantBench, takeEach } from '../support/printed-grants.ts'

let bench: GrantBench

beforeAll(async () => {
  bench = await startGrantBench()
})

afterAll(async () => {
  await bench?.stop()
})

it('is red without any one of the printed grants', { timeout: 600_000 }, async () => {
  // This one is needed for some places of the load's files only.
  const asked = removals(bench.granted).filter(({ right }) => right !== 'SYSTEM EXTERNALIOIMPLICITACCESS')
  expect(asked.length).toBeGreaterThanOrEqual(40)
  const { expected, found } = await takeEach(bench.granted, asked)
  expect(found).toEqual(expected)
  expect(await blockers(bench.granted)).toEqual([])
})
