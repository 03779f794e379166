// All waits are in one table. Tests can shorten them, but workflows cannot.
import { readdirSync, readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'

beforeEach(() => {
  vi.resetModules()
})
afterEach(() => {
  vi.unstubAllEnvs()
})

async function timingWith(given: string | undefined, runner?: string) {
  vi.stubEnv('MOLT_ACTIONS_TEST_TIMING', given)
  vi.stubEnv('RUNNER_NAME', runner)
  return (await import('../../src/runtime/timing.ts')).TIMING
}

test('shortens the given waits on the local runner', async () => {
  const usual = await timingWith(undefined)
  vi.resetModules()
  expect(await timingWith('{"walWindow":50}', 'local')).toEqual({ ...usual, walWindow: 50 })
})

test('keeps every wait on a GitHub runner', async () => {
  const usual = await timingWith(undefined, 'GitHub Actions 12')
  vi.resetModules()
  expect(await timingWith('{"walWindow":50}', 'GitHub Actions 12')).toEqual(usual)
})

test.each(['{"walwindow":50}', '{"walWindow":-1}', '{"walWindow":"50"}', '{'])('rejects %s', async (given) => {
  await expect(timingWith(given)).rejects.toThrow()
})

test('no other file defines a wait', () => {
  const own = [
    /\b(sleep|#pause|stop|AbortSignal\.timeout)\((?!TIMING\b|Math\b)[A-Z1-9]/,
    /\bset(Timeout|Interval)\(.*, (?!TIMING\b)[A-Z1-9]\w+\)/,
    /^(export )?const ([A-Z]+_)*(EVERY|TIMEOUT|WAIT|PAUSE|GAP|GRACE|TTL) = \d/,
  ]
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  const lines = files
    .filter((file) => file.endsWith('.ts') && file !== 'runtime/timing.ts')
    .flatMap((file) =>
      readFileSync(`src/${file}`, 'utf8')
        .split('\n')
        .map((line) => `${file}: ${line.trim()}`),
    )
  expect(lines.length).toBeGreaterThan(10_000)
  expect(lines.filter((line) => own.some((wait) => wait.test(line.slice(line.indexOf(': ') + 2))))).toEqual([])
})
