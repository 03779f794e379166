// Revokes each printed grant in turn. `prepare` must fail and name the missing privilege.
import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  blockers,
  type GrantBench,
  type Removal,
  removals,
  startGrantBench,
  takeEach,
} from '../support/printed-grants.ts'

let bench: GrantBench

beforeAll(async () => {
  bench = await startGrantBench()
})

afterAll(async () => {
  await bench?.stop()
})

it('fails if any printed grant is missing', { timeout: 600_000 }, async () => {
  const asked = removals(bench.granted)
  expect(asked.length).toBeGreaterThanOrEqual(42)
  const { expected, found } = await takeEach(bench.granted, asked)
  expect(found).toEqual(expected)
  expect(await blockers(bench.granted)).toEqual([])
})

it('fails without a privilege that only CockroachDB 24.3 requires', { timeout: 600_000 }, async () => {
  const older = await startGrantBench('24.3')
  try {
    expect(await blockers(older.granted)).toEqual([])
    // Leaves out the database name, which differs between the two setups.
    const rightOf = ({ side, right }: Removal) => `${side} ${right.replace(/ ON DATABASE .*/, ' ON DATABASE')}`
    const known = new Set(removals(bench.granted).map(rightOf))
    const asked = removals(older.granted).filter((each) => !known.has(rightOf(each)))
    expect(asked.map(({ right }) => right)).toEqual(['SYSTEM CONTROLJOB'])
    const { expected, found } = await takeEach(older.granted, asked)
    expect(found).toEqual(expected)
  } finally {
    await older.stop()
  }
})
