import { expect, it } from 'vitest'
import { type Account, accountText } from '../../rehearsal/cli/account.ts'

const ACCOUNT: Account = {
  verdict: 'go',
  reason: 'every step was proved',
  code: null,
  rowsLoaded: 7,
  changesStreamed: 8,
  lagMs: 9,
  pauseMs: 913,
  pauseParts: { fence: 41, drain: 872 },
  estimatedPauseMs: 1_234,
  estimatedParts: {},
  applicationPauseMs: 1_500,
  tables: [],
  engine: 'molt',
  observed: null,
  target: 'CockroachDB',
  summary: 'summary.md',
  remaining: [],
  decisions: [],
  next: 'npm run adopt',
}

it('shows each figure only once, with its own label', () => {
  const lines = accountText(ACCOUNT).split('\n')
  const figures = lines.flatMap((line) => /^ {2}(\S.*?) {2,}(.*)$/.exec(line)?.slice(1, 3).join(': ') ?? [])
  expect(figures).toEqual(
    expect.arrayContaining([
      'lag before pause: 9 ms',
      'write pause: 913 ms  (fence 41, drain 872)',
      'expected pause: 1,234 ms',
      'application saw: 1,500 ms without writes',
    ]),
  )
  const names = figures.map((each) => each.split(':')[0])
  expect(new Set(names).size).toBe(names.length)
})
