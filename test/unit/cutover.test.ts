import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { describe, expect, test, vi } from 'vitest'
import { readOnlyUrl, runCommand } from '../../src/actions/cutover/commands.ts'
import { estimatePause } from '../../src/actions/cutover/estimate.ts'
import type { Entry } from '../../src/ledger/ledger.ts'
import { operationsOf } from '../../src/model/operations.ts'
import { deadlineSignal, type Parts, PauseClock } from '../../src/phases/cutover/pause.ts'
import { connect } from '../../src/runtime/database.ts'
import { CancelledError } from '../../src/runtime/errors.ts'
import { Child } from '../../src/tools/process.ts'
import { stateOf } from '../support/stopped.ts'

describe('the estimate of the pause', () => {
  const now = {
    ...{ decision: 'commit' as const, lagMs: 20, verifyMs: 4_000, smokeMs: undefined, rebuildMs: 0, takeOffMs: 0 },
    ...{ latencyMs: 0, sourceMs: 0, accessMs: 0, rehearsals: [] },
  }

  test('uses measurements from this run', () => {
    const { parts, total, unknown } = estimatePause(now)
    expect(parts).toMatchObject({ drain: 200, verify: 4_000, 'unique indexes': 0 })
    expect(parts).not.toHaveProperty('smoke test')
    // Setting sequences and building unique indexes run in parallel with the verify, which takes longer here.
    const { sequences = 0, 'unique indexes': unique = 0 } = parts
    expect(total).toBe(Object.values(parts).reduce((a, b) => a + b) - sequences - unique)
    expect(unknown).toEqual([])
  })

  test.each(['rehearse', 'commit'] as const)('lists the parts of the pause by name (%s)', (decision) => {
    const done = operationsOf(decision, { smokeTest: ['true'] }).map(({ name }) => name)
    expect(Object.keys(estimatePause({ ...now, decision, smokeMs: 5 }).parts)).toEqual(done)
  })

  test("takes each part's median of three rehearsals", () => {
    const rehearsals: Parts[] = [{ fence: 900 }, { fence: 50 }, { fence: 60 }]
    expect(estimatePause({ ...now, rehearsals }).parts.fence).toBe(60)
  })

  test("uses each part's longer time of two rehearsals, or this run's measurement if that is longer", () => {
    const rehearsals: Parts[] = [
      { fence: 900, drain: 100, verify: 9_000, 'unique indexes': 70_000 },
      { fence: 50, drain: 3_000, verify: 1_000, sequences: 5 },
    ]
    expect(estimatePause({ ...now, rebuildMs: 100, rehearsals }).parts).toMatchObject({
      ...{ fence: 900, drain: 3_000, verify: 9_000, sequences: 5 },
      'unique indexes': 70_000,
    })
    // An object that is no longer deferred does not count.
    expect(estimatePause({ ...now, rehearsals }).parts['unique indexes']).toBe(0)
  })

  test('includes the latency of each statement on a remote target, and the time to restore write access', () => {
    const near = estimatePause(now)
    const far = estimatePause({ ...now, latencyMs: 20, accessMs: 320 })
    expect(far.parts['write access']).toBe((near.parts['write access'] as number) + 320 + 120)
    expect(far.parts.sequences).toBe((near.parts.sequences as number) + 160)
    expect(far.total).toBeGreaterThan(near.total + 500)
  })

  test('lists parts without a measurement', () => {
    expect(estimatePause({ ...now, verifyMs: undefined }).unknown).toEqual(['verify'])
    const known = estimatePause({ ...now, verifyMs: undefined, rehearsals: [{ verify: 800 }] })
    expect(known.unknown).toEqual([])
    expect(known.parts.verify).toBe(800)
  })
})

describe('the deadline of the write pause', () => {
  test('a run cancelled before the pause is also cancelled during it', async () => {
    const outer = AbortSignal.abort(new CancelledError('cancelled.run', 'gone'))
    const limit = deadlineSignal(outer, 60_000, new PauseClock())
    await expect(limit.race(sleep(5_000))).rejects.toThrow('gone')
    limit.clear()
  })

  test('max-pause stops work that is still running', async () => {
    const clock = new PauseClock()
    const limit = deadlineSignal(new AbortController().signal, 50, clock)
    const verify = clock.part('verify', () => limit.race(sleep(5_000, undefined, { ref: false })))
    await expect(verify).rejects.toThrow(/longer than `max-pause` \(0\.\d+ s\) during the part `verify`/)
    limit.clear()
  })

  test('also measures the parts of a pause that fails', async () => {
    const clock = new PauseClock()
    await clock.part('fence', () => sleep(20))
    await clock.part('drain', () => Promise.reject(new Error('stuck'))).catch(() => {})
    expect(Object.keys(clock.parts)).toEqual(['fence', 'drain'])
    expect(clock.total).toBeGreaterThanOrEqual(19)
  })
})

test('gives the smoke test a URL with read-only transactions, even if the URL has options', () => {
  const option = '-c%20default_transaction_read_only%3Don'
  expect(readOnlyUrl('postgresql://u@h/d')).toBe(`postgresql://u@h/d?options=${option}`)
  expect(readOnlyUrl('postgresql://u@h/d?sslmode=disable')).toBe(`postgresql://u@h/d?sslmode=disable&options=${option}`)
  expect(readOnlyUrl('postgresql://u@h/d?options=--cluster%3Dx&a=b')).toBe(
    `postgresql://u@h/d?options=--cluster%3Dx%20${option}&a=b`,
  )
})

test('cancelling the run aborts a connection attempt to a server that does not answer', async () => {
  const server = createServer(() => {})
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const url = `postgresql://u:p@127.0.0.1:${(server.address() as AddressInfo).port}/d?sslmode=disable`
  const controller = new AbortController()
  setTimeout(() => controller.abort(new CancelledError()), 200)
  const began = performance.now()
  await expect(connect(url, 'target', 60_000, controller.signal)).rejects.toMatchObject({ code: 'cancelled.run' })
  expect(performance.now() - began).toBeLessThan(2_000)
  await expect(connect(url, 'target', 60_000, controller.signal)).rejects.toMatchObject({ code: 'cancelled.run' })
  server.close()
})

/** Returns whether a process exits within ten seconds. */
async function ended(pid: number): Promise<boolean> {
  for (let i = 0; i < 200; i++) {
    if ([undefined, 'Z'].includes(stateOf(pid))) return true
    await sleep(50)
  }
  return false
}

/** Starts a shell whose first output line is the PID of a process that it starts. */
async function shell(script: string) {
  const lines: string[] = []
  const child = new Child({
    ...{ program: '/bin/sh', args: ['-c', script] },
    ...{ logFile: join(mkdtempSync(join(tmpdir(), 'molt-actions-shell-')), 'log') },
    onLine: (line) => lines.push(line),
  })
  await vi.waitFor(() => expect(lines).not.toEqual([]))
  return { child, pid: Number(lines[0]) }
}

describe('a program that starts other programs', () => {
  test('is stopped together with the others', async () => {
    const { child, pid } = await shell('sleep 60 & echo $!; wait; true')
    const began = performance.now()
    expect(await child.stop()).toEqual({ code: null, signal: 'SIGTERM' })
    expect(performance.now() - began).toBeLessThan(3_000)
    expect(await ended(pid)).toBe(true)
  })

  test('is stopped even if one of them ignores SIGTERM', async () => {
    const { child, pid } = await shell(`sh -c 'trap "" TERM; echo $$; while :; do sleep 0.1; done'; true`)
    await child.stop(300)
    expect(await ended(pid)).toBe(true)
  })

  test('takes the others down when it is killed from outside', async () => {
    const { child, pid } = await shell('sleep 60 & echo $!; kill -KILL $$')
    expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' })
    expect(await ended(pid)).toBe(true)
  })

  test('can leave the others running when it succeeds, and the action does not wait for them', async () => {
    const { child, pid } = await shell('sleep 60 & echo $!; echo done; exit 0')
    const began = performance.now()
    expect(await child.exited).toEqual({ code: 0, signal: null })
    expect(performance.now() - began).toBeLessThan(5_000)
    expect(child.lastWords).toBe('done')
    await child.stop()
    expect(['S', 'R']).toContain(stateOf(pid))
    process.kill(pid)
  })
})

describe("a user's command", () => {
  const entry = { id: 'm', plan: {}, facts: {} } as Entry
  const command = (script: string, timeout: number) => ({
    ...({ words: ['/bin/sh', '-c', script], name: 'switch', env: {}, timeout, advice: 'Look.' } as const),
  })
  const { signal } = new AbortController()

  test('is killed at its timeout, with everything that it started', async () => {
    const began = performance.now()
    await expect(runCommand(entry, command('sleep 60; true', 300), signal)).rejects.toThrow(/switch-timeout/)
    expect(performance.now() - began).toBeLessThan(5_000)
  })

  test('can exit normally and leave the application running', async () => {
    const took = await runCommand(entry, command('sleep 6 & exit 0', 700), signal)
    expect(took).toBeLessThan(5_000)
  })
})

test('neither a tool nor its password file outlives a killed parent', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-orphan-'))
  const script = join(folder, 'parent.mts')
  // The tool ignores SIGTERM, so only SIGKILL ends it. It writes its PID and the path of its password file to two files.
  writeFileSync(
    script,
    `import { writeFileSync } from 'node:fs'
     import { Child } from '${resolve(import.meta.dirname, '../../src/tools/process.ts')}'
     const child = new Child({
       program: '/bin/sh', args: ['-c', 'trap "" TERM; sleep 1000 & echo $! > ${folder}/child; echo "$PGPASSFILE" > ${folder}/passfile; while :; do sleep 0.2; done', 'x', 'postgresql://u:secret@h/d'],
       logFile: '${folder}/log', hidePasswords: true, onLine() {},
     })
     writeFileSync('${folder}/pid', String(child.pid))
     setInterval(() => {}, 1000)`,
  )
  const parent = execa(process.execPath, ['--import', 'tsx', script], {
    reject: false,
    cwd: resolve(import.meta.dirname, '../..'),
  })
  const read = (name: string) => {
    try {
      return readFileSync(join(folder, name), 'utf8').trim()
    } catch {
      return ''
    }
  }
  for (let i = 0; i < 300 && !(read('pid') && read('passfile')); i++) await sleep(50)
  const [pid, passfile] = [Number(read('pid')), read('passfile')]
  expect(stateOf(pid)).toBeDefined()
  expect(readFileSync(passfile, 'utf8')).toContain('secret')
  parent.kill('SIGKILL')
  await parent
  for (const each of [pid, Number(read('child'))]) expect(await ended(each)).toBe(true)
  expect(() => readFileSync(passfile)).toThrow()
  rmSync(folder, { recursive: true, force: true })
})
