// The printed grants are just enough: nothing blocks with all of them, and `prepare` fails if any of them is missing.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { blockers, type GrantBench, removals, SETTINGS, startGrantBench, takeEach } from '../support/printed-grants.ts'
import { factsOf } from './checks-helpers.ts'

/** One grant of each kind. `every-grant.test.ts` covers all of them. */
const SHORT = [
  'source REPLICATION',
  'source MEMBER OF "shop_owner"',
  'source USAGE ON SCHEMA "monitoring"',
  'target CREATELOGIN',
  'target USAGE ON SCHEMA "shop"',
  'target GRANT OPTION FOR INSERT ON TABLE "shop"."orders"',
  'target DROP ON TABLE "shop"."customers"',
  'target CREATE ON TABLE "far"."regions"',
  'target UPDATE ON SEQUENCE "shop"."invoices"',
  'target SYSTEM VIEWJOB',
]

let bench: GrantBench

beforeAll(async () => {
  bench = await startGrantBench()
})

afterAll(async () => {
  await bench?.stop()
})

it('blocks nothing with exactly the printed grants', async () => {
  expect(await blockers(bench.granted)).toEqual([])
})

it('fails and names the missing grant if one grant of any kind is missing', async () => {
  const asked = removals(bench.granted).filter(({ side, right }) => SHORT.includes(`${side} ${right}`))
  expect(asked).toHaveLength(SHORT.length)
  const { expected, found } = await takeEach(bench.granted, asked)
  expect(found).toEqual(expected)
})

it("reads a CHECK constraint's condition without owning its table", async () => {
  const { target } = await factsOf(bench.granted.user, SETTINGS)
  const checks = target.schema.constraints.filter(({ kind }) => kind === 'c')
  expect(checks.map(({ table, condition }) => [table, condition])).toEqual([
    ['orders', expect.stringContaining('total')],
  ])
})
