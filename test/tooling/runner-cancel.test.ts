import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { RunOptions } from '../../rehearsal/runner/runner.ts'
import { messages, phaseOf, ran, runJs, runSteps, stepOf } from './runner-helpers.ts'

/** Cancels the job when a step prints `ready`. */
function cancelWhenReady(): Pick<RunOptions, 'signal' | 'onLine'> {
  const controller = new AbortController()
  return {
    signal: controller.signal,
    onLine: ({ text, group }) => {
      if (text === 'ready' && group === undefined) controller.abort()
    },
  }
}

const WAIT = 'setInterval(() => {}, 1000); say("ready");'
const ON_INT = 'process.on("SIGINT", () => { say("int"); process.exit(0) });'

describe('a cancelled job', () => {
  test('sends SIGINT first, and runs the post of a step that then ends with 0 but counts as cancelled', async () => {
    const main = `${ON_INT} append("GITHUB_STATE", "kept=1"); output("o", 1); ${WAIT}`
    const result = await runJs({ main, post: 'say("post " + env.STATE_kept)' }, cancelWhenReady())
    expect(result.conclusion).toBe('cancelled')
    expect(phaseOf(result)).toMatchObject({ outcome: 'cancelled', exitCode: 0, outputs: { o: '1' } })
    expect(phaseOf(result).log).toContain('ready\nint\n##[error]The operation was canceled.\n')
    expect(phaseOf(result, 'post')).toMatchObject({ outcome: 'success', log: 'Post job cleanup.\npost 1\n' })
  })

  test('then sends SIGTERM and SIGKILL, each after its grace period', async () => {
    const deaf = (signals: string) => `for (const s of ${signals}) process.on(s, () => say(s)); ${WAIT}`
    const grace = [300, 200] as const
    const term = await runJs({ main: deaf('["SIGINT"]') }, { ...cancelWhenReady(), grace })
    expect(phaseOf(term)).toMatchObject({ exitCode: 143, log: expect.stringContaining('ready\nSIGINT\n') })
    const kill = await runJs({ main: deaf('["SIGINT", "SIGTERM"]') }, { ...cancelWhenReady(), grace })
    expect(phaseOf(kill)).toMatchObject({ exitCode: 137, log: expect.stringContaining('ready\nSIGINT\nSIGTERM\n') })
    expect(phaseOf(kill).durationMs).toBeGreaterThanOrEqual(500)
  })

  test('in a composite action, skips steps that need success, and runs always() and cancelled() steps', async () => {
    const result = await runSteps(
      `
- id: long
  uses: $/actions/js
  with: { main: '${WAIT}', post: say('cleaned') }
- id: next
  run: exit 1
  shell: bash
- id: failed
  if: failure()
  run: exit 1
  shell: bash
- id: cancelled
  if: cancelled()
  run: echo "it was \${{ job.status }}"
  shell: bash
- id: always
  if: always()
  run: echo always
  shell: bash`,
      cancelWhenReady(),
    )
    expect(result.conclusion).toBe('cancelled')
    expect(ran(result)).toEqual(['pre long', 'main long', 'main cancelled', 'main always', 'post long'])
    expect(stepOf(result, 'cancelled').log).toContain('it was cancelled')
  })

  test('does not stop a step whose condition still holds', async () => {
    const result = await runSteps(
      `
- id: careful
  if: always()
  run: |
    trap 'echo interrupted; exit 1' INT TERM
    echo ready
    sleep 0.5
    echo done
  shell: bash`,
      { ...cancelWhenReady(), grace: [100, 100] },
    )
    expect(stepOf(result, 'careful')).toMatchObject({ outcome: 'success', exitCode: 0 })
    expect(stepOf(result, 'careful').log).toMatch(/ready\ndone\n$/)
    expect(result.conclusion).toBe('cancelled')
  })

  test('before a step starts, runs only `always()` steps, and not the main phase', async () => {
    const result = await runJs({ pre: '', main: 'output("o", 1)', post: '' }, { signal: AbortSignal.abort() })
    expect(result).toMatchObject({ conclusion: 'cancelled', outputs: {} })
    expect(result.steps.map(({ phase, outcome }) => `${phase} ${outcome}`)).toEqual([
      'pre success',
      'main skipped',
      'post success',
    ])
  })

  test('while a hook is awaited, starts no process', async () => {
    const controller = new AbortController()
    const beforeStep = ({ phase }: { phase: string }) => {
      if (phase === 'main') controller.abort()
    }
    const result = await runJs({ main: 'output("o", 1)' }, { signal: controller.signal, beforeStep })
    expect(phaseOf(result)).toMatchObject({ outcome: 'cancelled', exitCode: null, outputs: {} })
  })

  test('kills everything when the time is up, including post steps', async () => {
    const result = await runJs(
      { main: WAIT, post: 'setInterval(() => {}, 1000)' },
      { ...cancelWhenReady(), grace: [50, 50], cancelTimeout: 700 },
    )
    expect(result.steps.map(({ phase, exitCode }) => [phase, exitCode])).toEqual([
      ['main', 130],
      ['post', 137],
    ])
  })
})

describe('processes left behind', () => {
  const leave = (stdio: string) => `
    const { spawn } = require('node:child_process')
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { detached: true, stdio: '${stdio}' })
    child.unref()
    output('pid', child.pid)`

  test.runIf(process.platform === 'linux')('kills and reports them at the end of the job', async () => {
    const result = await runJs({
      main: leave('ignore'),
      post: 'process.kill(Number(env.INPUT_OLD || 0) || process.pid, 0)',
    })
    const pid = Number(result.outputs.pid)
    expect(result.orphans).toEqual([{ pid, cmd: expect.stringContaining('setInterval') }])
    await gone(pid)
  })

  test.runIf(process.platform === 'linux')(
    'a process that keeps the output open delays its step by at most 5 s',
    async () => {
      const result = await runJs({ main: leave('inherit') })
      const main = phaseOf(result)
      expect(main.outcome).toBe('success')
      expect(main.durationMs).toBeGreaterThanOrEqual(4900)
      expect(main.durationMs).toBeLessThan(9000)
      expect(result.orphans.map(({ pid }) => pid)).toEqual([Number(result.outputs.pid)])
    },
  )

  test('reports no process if none was left behind', async () => {
    expect((await runJs({ main: 'say(1)' })).orphans).toEqual([])
  })
})

/** Waits until the process has ended, even if it has not been reaped. */
async function gone(pid: number): Promise<void> {
  for (let i = 0; i < 40; i++) {
    const stat = `/proc/${pid}/stat`
    if (!existsSync(stat) || / Z /.test(readFileSync(stat, 'utf8'))) return
    await sleep(50)
  }
  throw new Error(`process ${pid} is still there`)
}

test('a cancelled step logs the cancellation only once', async () => {
  const result = await runJs({ main: WAIT }, cancelWhenReady())
  expect(messages(result)).toEqual(['error: The operation was canceled.'])
})
