import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type LogLine, runAction } from '../../rehearsal/runner/runner.ts'
import { FIXTURE, messages, phaseOf, repository, runJs } from './runner-helpers.ts'

const show = (expression: string) => `output('json', JSON.stringify(${expression}))`

async function shown(expression: string, more: Parameters<typeof runJs>[1] = {}, inputs = {}) {
  const result = await runJs({ main: show(expression), ...inputs }, more)
  expect(messages(result)).toEqual([])
  return JSON.parse(result.outputs.json as string)
}

describe('a JavaScript action', () => {
  test('gets inputs as variables: given values, evaluated defaults, and empty values', async () => {
    const env = await shown('Object.fromEntries(Object.entries(env).filter(([k]) => k.startsWith("INPUT_")))', {
      github: { repository: 'o/r' },
    })
    expect(env).toEqual({
      INPUT_MAIN: expect.stringContaining('json'),
      INPUT_PRE: '',
      INPUT_POST: '',
      INPUT_TWO_WORDS: 'a o/r b',
      INPUT_OLD: '',
    })
  })

  test('passes on unknown and deprecated inputs with a warning, and ignores case', async () => {
    const result = await runJs({ MAIN: show('env["INPUT_NO-SUCH"] + env.INPUT_OLD'), 'no-such': '1', old: '2' })
    expect(JSON.parse(result.outputs.json as string)).toBe('12')
    expect(messages(phaseOf(result))).toEqual([
      "warning: Input 'old' has been deprecated with message: use main",
      "warning: Unexpected input(s) 'no-such', valid inputs are ['main', 'pre', 'post', 'two words', 'old']",
    ])
  })

  test('does not check for missing required inputs', async () => {
    const result = await runAction({ dir: join(FIXTURE, 'actions/plain'), repo: FIXTURE, inputs: {} })
    expect(result.conclusion).toBe('success')
    expect(result.steps[0]?.outputs).toEqual({ text: '' })
  })

  test("has a clean environment with GitHub's variables and the job's", async () => {
    process.env.RUNNER_TEST_LEAK = 'x'
    onTestFinished(() => {
      delete process.env.RUNNER_TEST_LEAK
    })
    const env = await shown('{ ...env, INPUT_MAIN: "", cwd: process.cwd() }', { env: { OWN: '1', CI: 'no' } })
    expect(env).toMatchObject({
      OWN: '1',
      CI: 'no',
      GITHUB_ACTIONS: 'true',
      GITHUB_REPOSITORY: 'local/runner',
      GITHUB_ACTION_REPOSITORY: 'local/runner',
      GITHUB_SERVER_URL: 'https://github.com',
      GITHUB_JOB: 'rehearsal',
      GITHUB_RUN_ID: expect.stringMatching(/^\d+$/),
      RUNNER_OS: process.platform === 'darwin' ? 'macOS' : 'Linux',
      RUNNER_ARCH: expect.stringMatching(/^(X64|ARM64)$/),
      RUNNER_TEMP: expect.stringContaining('_temp'),
      RUNNER_TOOL_CACHE: expect.stringContaining('_tool'),
      RUNNER_TRACKING_ID: expect.stringMatching(/^github_/),
      PATH: process.env.PATH,
    })
    expect(env.cwd).toBe(env.GITHUB_WORKSPACE)
    for (const name of ['RUNNER_TEST_LEAK', 'VITEST', 'NODE_ENV', 'RUNNER_DEBUG', 'GITHUB_ACTION_PATH'])
      expect(env).not.toHaveProperty(name)
  })

  test('passes state from pre to main to post, each phase in its own process', async () => {
    const script =
      'append("GITHUB_STATE", phase + "=" + process.pid); say(Object.keys(env).filter((k) => /^STATE_/.test(k)).join())'
    const result = await runJs({ pre: script, main: script, post: script })
    expect(result.steps.map(({ phase, name, outcome }) => [phase, name, outcome])).toEqual([
      ['pre', 'Pre JS', 'success'],
      ['main', 'JS', 'success'],
      ['post', 'Post JS', 'success'],
    ])
    expect(phaseOf(result, 'post').log).toBe('Post job cleanup.\nSTATE_pre,STATE_main\n')
    expect(new Set([result.state.pre, result.state.main, result.state.post]).size).toBe(3)
  })

  test('a failed pre skips main but not post, and a failed main does not skip post', async () => {
    const early = await runJs({ pre: 'process.exit(7)', post: 'say("cleaned")' })
    expect(early.steps.map(({ outcome, exitCode }) => [outcome, exitCode])).toEqual([
      ['failure', 7],
      ['skipped', null],
      ['success', 0],
    ])
    const late = await runJs({ main: 'throw new Error("no")', post: 'say("cleaned")' })
    expect(late.conclusion).toBe('failure')
    expect(late.steps.at(-1)).toMatchObject({ phase: 'post', outcome: 'success', log: 'Post job cleanup.\ncleaned\n' })
    expect(phaseOf(late).log).toContain('Error: no')
  })

  test('post alone continues with the state and conclusion of the previous run', async () => {
    const first = await runJs({ main: 'append("GITHUB_STATE", "id=42")' }, { phases: ['pre', 'main'] })
    expect(first.steps.map(({ phase }) => phase)).toEqual(['pre', 'main'])
    const { state, conclusion } = first
    const second = await runJs({ post: 'say(env.STATE_id)' }, { phases: ['post'], previous: { state, conclusion } })
    expect(second.steps.map(({ phase, log }) => [phase, log])).toEqual([['post', 'Post job cleanup.\n42\n']])
  })

  test('fails the step if its main file or Node is missing', async () => {
    const repo = repository({
      'actions/gone/action.yml': 'name: x\ndescription: x\nruns:\n  using: node24\n  main: no.cjs\n',
    })
    const gone = await runAction({ dir: join(repo, 'actions/gone'), repo, inputs: {} })
    expect(messages(gone)).toEqual([`error: File not found: '${join(repo, 'actions/gone/no.cjs')}'`])
    const nowhere = await runJs({}, { node: '/no/such/node' })
    expect(nowhere.conclusion).toBe('failure')
    expect(messages(nowhere)[0]).toMatch(/cannot start \/no\/such\/node/)
  })

  test('reports exit code 128 + n for a process ended by signal n', async () => {
    const result = await runJs({ main: 'process.kill(process.pid, "SIGTERM"); setInterval(() => {}, 1000)' })
    expect(phaseOf(result)).toMatchObject({ exitCode: 143, outcome: 'failure' })
  })

  test('splits output into lines: no newline at the end, carriage returns, split characters, standard error', async () => {
    const main = `
      process.stdout.write('a\\r\\nb\\rc\\n\\n')
      const bytes = Buffer.from('ü end')
      process.stdout.write(bytes.subarray(0, 1))
      setTimeout(() => process.stdout.write(bytes.subarray(1)), 60)
      process.stderr.write('::warning::from stderr\\n')`
    const result = await runJs({ main })
    const log = phaseOf(result).log.split('##[endgroup]\n')[1]?.split('\n')
    expect(log?.filter((line) => !line.startsWith('##'))).toEqual(['a', 'b', 'c', '', 'ü end', ''])
    expect(messages(result)).toEqual(['warning: from stderr'])
  })
})

describe('files that a step writes', () => {
  test('reads outputs in heredoc form, and fails the step at a faulty entry but keeps the entries before it', async () => {
    const good = await runJs({ main: 'append("GITHUB_OUTPUT", "text<<EOF\\none\\ntwo\\nEOF\\nlast=1")' })
    expect(good.outputs).toEqual({ text: 'one\ntwo', last: '1' })
    const bad = await runJs({ main: 'append("GITHUB_OUTPUT", "a=1\\nfaulty")' })
    expect(bad).toMatchObject({ conclusion: 'failure', outputs: { a: '1' } })
    expect(phaseOf(bad)).toMatchObject({ exitCode: 0, outcome: 'failure' })
    expect(messages(bad)).toEqual([
      "error: Unable to process file command 'output' successfully.",
      "error: Invalid format 'faulty'",
    ])
  })

  test('refuses NODE_OPTIONS in GITHUB_ENV with an error that does not fail the step', async () => {
    const result = await runJs({
      main: 'append("GITHUB_ENV", "NODE_OPTIONS=--no-warnings\\nA=1")',
      post: 'say(env.A + env.NODE_OPTIONS)',
    })
    expect(result.conclusion).toBe('success')
    expect(messages(result)).toEqual([
      "error: Can't set the environment variable NODE_OPTIONS by the file $GITHUB_ENV.",
    ])
    expect(phaseOf(result, 'post').log).toContain('1undefined')
  })

  test('searches the last entry of GITHUB_PATH first', async () => {
    const result = await runJs({ main: 'append("GITHUB_PATH", "/a\\n/b\\n/a")', post: 'say(env.PATH)' })
    expect(phaseOf(result, 'post').log).toContain(`/a:/b:${process.env.PATH}`)
  })

  test('masks a summary, and drops one over 1 MiB with an error that does not fail the step', async () => {
    const small = await runJs({ main: 'say("::add-mask::s3cret"); append("GITHUB_STEP_SUMMARY", "# it is s3cret")' })
    expect(small.summary).toBe('# it is ***\n')
    const big = await runJs({ main: 'append("GITHUB_STEP_SUMMARY", "x".repeat(1024 * 1024))' })
    expect(big).toMatchObject({ conclusion: 'success', summary: '' })
    expect(messages(big)).toEqual([
      'error: $GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of 1024k, got 1024k.',
    ])
    const full = await runJs({ main: 'append("GITHUB_STEP_SUMMARY", "x".repeat(1024 * 1024 - 1))' })
    expect(full.summary.length).toBe(1024 * 1024)
  })
})

describe('secrets', () => {
  test('masks a value from then on, including in later phases', async () => {
    const lines: LogLine[] = []
    const main =
      'say("before s3cret"); say("::add-mask::s3cret"); say("::error title=t::has s3cret"); say("after s3cret")'
    const result = await runJs({ main, post: 'say("post s3cret")' }, { onLine: (line) => lines.push(line) })
    const texts = lines.filter(({ group }) => group === undefined).map(({ text }) => text)
    expect(texts).toEqual(expect.arrayContaining(['before s3cret', 'has ***', 'after ***', 'post ***']))
    expect(messages(result)).toEqual(['error: has ***'])
    expect(phaseOf(result, 'post').log).not.toContain('s3cret')
  })

  test("the caller's secrets are masked from the first line, including inputs in the header", async () => {
    const url = 'postgres://u:p%40ss@h/db'
    const result = await runJs({ main: 'say(env.INPUT_OLD)', old: url }, { secrets: [url] })
    expect(phaseOf(result).log).toContain('old: ***')
    expect(JSON.stringify(result.steps.map(({ log }) => log))).not.toContain('p%40ss')
  })

  test("drops an output with a secret from the job's outputs with a warning, but keeps it in the step's outputs", async () => {
    const result = await runJs({
      main: 'say("::add-mask::s3cret"); output("url", "x/s3cret"); output("ok", 1); output("none", "")',
    })
    expect(phaseOf(result).outputs).toEqual({ url: 'x/s3cret', ok: '1', none: '' })
    expect(result.outputs).toEqual({ ok: '1' })
    expect(messages(result)).toEqual(["warning: Skip output 'url' since it may contain secret."])
  })
})

test('reports each line with its step and group', async () => {
  const lines: LogLine[] = []
  await runJs(
    { main: 'say("::group::G"); say("in"); say("::endgroup::"); say("out")' },
    { onLine: (line) => lines.push(line) },
  )
  const main = lines.filter(({ step }) => step?.phase === 'main').slice(-4)
  expect(main.map(({ kind, text, group }) => [kind, text, group])).toEqual([
    ['group', 'G', undefined],
    ['output', 'in', 'G'],
    ['endgroup', '', undefined],
    ['output', 'out', undefined],
  ])
})

test('shows debug lines only in debug runs', async () => {
  const main = 'say("::debug::de" + "ep"); say(env.RUNNER_DEBUG)'
  expect(phaseOf(await runJs({ main })).log).not.toContain('deep')
  const debug = await runJs({ main }, { debug: true })
  expect(phaseOf(debug).log).toMatch(/##\[debug\]deep\n1\n/)
})

test('shows at most 10 annotations per level for a job, and all of them for its steps', async () => {
  const result = await runJs({ main: 'for (let i = 0; i < 12; i++) say("::error::" + i); say("::notice::n")' })
  expect(result.annotations.length).toBe(11)
  expect(phaseOf(result).annotations.length).toBe(13)
})

test('runs hooks before and after each executed step, and ends the job at their errors', async () => {
  const seen: string[] = []
  await runJs(
    { pre: 'process.exit(1)', post: '' },
    {
      beforeStep: (step) => void seen.push(`> ${step.name}`),
      afterStep: (step) => void seen.push(`< ${step.name} ${step.outcome}`),
    },
  )
  expect(seen).toEqual(['> Pre JS', '< Pre JS failure', '> Post JS', '< Post JS success'])
  const failing = () => {
    throw new Error('sabotage failed')
  }
  await expect(runJs({}, { beforeStep: failing })).rejects.toThrow('sabotage failed')
})

test('removes the work folder unless the caller names one', async () => {
  const temp = mkdtempSync(join(tmpdir(), 'runner-test-'))
  onTestFinished(() => rmSync(temp, { recursive: true, force: true }))
  const main = 'const f = env.RUNNER_TEMP + "/f"; require("node:fs").writeFileSync(f, "x"); output("f", f)'
  const kept = await runJs({ main }, { workDir: temp })
  expect(readFileSync(kept.outputs.f as string, 'utf8')).toBe('x')
  expect(readdirSync(join(temp, '_temp', '_runner_file_commands'))).toEqual([])
  const gone = await runJs({ main: 'output("dir", env.RUNNER_TEMP)' })
  expect(existsSync(gone.outputs.dir as string)).toBe(false)
})
