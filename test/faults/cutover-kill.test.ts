import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'
import { stoppedChild } from '../support/stopped.ts'

/*
 * The cutover is suspended at each point between arming and switching, then killed or cut off from the target. Before the
 * decision, the application must be able to write to the source again within the lease. After it, the source must stay
 * fenced, and the next run must roll forward.
 */
const LEASE_MS = 4_000
const CUTOVER = {
  'first-verify': 'none',
  decision: 'commit',
  lease: `${LEASE_MS}ms`,
  'quiet-period': '300ms',
  'final-verify': 'counts',
  'switch-command': '["true"]',
}

const BEFORE = ['before arming', 'armed', 'drained', 'verified', 'sequences set', 'unique indexes built', 'committing']
const AFTER = [
  ['permanent on the source', 'the target is cut', cutTarget],
  ['switch command done', 'killed', kill],
  ...(process.env.MOLT_ACTIONS_NIGHTLY
    ? ([
        ['permanent on the source', 'killed', kill],
        ['committed', 'killed', kill],
        ['committed', 'the target is cut', cutTarget],
        ['write access open', 'killed', kill],
        ['write access open', 'the target is cut', cutTarget],
        ['switch command done', 'the target is cut', cutTarget],
      ] as const)
    : []),
] as const

let rehearsal: Rehearsal
afterEach(() => rehearsal?.stop())

/** Runs the cutover until it suspends itself at `point`, then applies `fault`. @returns the failed run's log */
async function cutoverWith(point: string, fault: (pid: number) => Promise<void>, how = 'counts'): Promise<string> {
  const inputs = { ...CUTOVER, 'final-verify': how }
  const running = rehearsal.run('cutover', inputs, { env: { MOLT_ACTIONS_STOP_AT: point } })
  const pid = await stoppedChild(running)
  await fault(pid)
  const result = await running
  expect(result.conclusion, words(result)).toBe('failure')
  return words(result)
}

async function kill(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL')
}

/** Shuts the target down for the rest of this run. */
async function cutTarget(pid: number): Promise<void> {
  await rehearsal.pair.target.kill()
  process.kill(pid, 'SIGCONT')
}

/** Retries a write to the source for at most `ms`. @returns whether it succeeded */
async function writableWithin(ms: number): Promise<boolean> {
  const end = performance.now() + ms
  do {
    const done = await rehearsal.query('source', 'UPDATE categories SET name = name WHERE id = 1').then(
      () => true,
      () => false,
    )
    if (done) return true
    await sleep(100)
  } while (performance.now() < end)
  return false
}

async function phase(): Promise<unknown> {
  const rows = await rehearsal.query('target', "SELECT phase FROM molt_actions.migrations WHERE id = 'main'")
  return rows[0]?.phase
}

test.each([
  ['killed', 'counts', kill],
  ['killed', 'changed', kill],
  ['the target is cut', 'counts', cutTarget],
] as const)(
  'before the decision, %s (%s): the application can write again within the lease',
  { timeout: 900_000 },
  async (_, how, fault) => {
    rehearsal = await startRehearsal()
    await rehearsal.bringToCaughtUp()
    for (const point of BEFORE) {
      const log = await cutoverWith(point, fault, how)
      expect(await writableWithin(LEASE_MS + 1_500), `${point}\n${log}`).toBe(true)
      if (fault === cutTarget) await rehearsal.pair.target.start()
      expect(['caught-up', 'committing'], point).toContain(await phase())
    }
    // None of these faults blocks a later cutover.
    const result = await rehearsal.run('cutover', { ...CUTOVER, 'final-verify': how })
    requireSuccess('cutover', result)
    expect(await phase()).toBe('switched')
    expect(await writableWithin(500)).toBe(false)
  },
)

test.each(AFTER)(
  'after the decision, at "%s", %s: the source stays fenced, and a second run rolls forward',
  { timeout: 400_000 },
  async (_point, _what, fault) => {
    rehearsal = await startRehearsal()
    await rehearsal.bringToCaughtUp()
    const log = await cutoverWith(_point, fault)
    expect(await writableWithin(LEASE_MS + 1_500), log).toBe(false)
    if (fault === cutTarget) await rehearsal.pair.target.start()
    const again = await rehearsal.run('cutover', CUTOVER)
    requireSuccess('cutover', again)
    expect(again.outputs.phase).toBe('switched')
    expect(await phase()).toBe('switched')
    expect(await writableWithin(200)).toBe(false)
  },
)

test('a second cutover reports that nothing is left to do', { timeout: 400_000 }, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  requireSuccess('cutover', await rehearsal.run('cutover', CUTOVER))
  const again = await rehearsal.run('cutover', CUTOVER)
  requireSuccess('cutover', again)
  expect(words(again)).toContain('nothing to do')
})
