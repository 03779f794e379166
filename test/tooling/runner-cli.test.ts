import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { repository } from './runner-helpers.ts'

const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
const CLI = join(PROJECT, 'rehearsal/cli/action.ts')

function cli(repo: string, ...args: (string | Record<string, string>)[]) {
  const [name, ...rest] = args.filter((each) => typeof each === 'string')
  const env = Object.assign({}, ...args.filter((each) => typeof each !== 'string'))
  return execa(process.execPath, ['--import', 'tsx', CLI, name as string, '--repo', repo, ...rest], {
    cwd: PROJECT,
    reject: false,
    env: { NODE_OPTIONS: '', ...env },
  })
}

test('shows the log, the outputs and the exit status', async () => {
  const run = await cli(repository({}), 'plain', '--text=a b', '--flag')
  expect(run.exitCode).toBe(0)
  expect(run.stdout).toMatch(/flag is true\n\noutputs:\n {2}text: a b\nstate: none\n/)
  expect(run.stdout).toMatch(/success, exit status 0$/)
})

test('--json prints only one object on standard output, and --post continues the previous run', async () => {
  const repo = repository({})
  const main = `
    say('::add-mask::s3cret'); say('::error title=T::it is s3cret')
    append('GITHUB_STATE', 'id=7\\nurl=s3cret'); append('GITHUB_STEP_SUMMARY', '# done'); output('o', 's3cret')
    process.exit(9)`
  const run = await cli(repo, 'js', '--main', main, '--json')
  expect(run.exitCode).toBe(9)
  expect(run.stderr).toMatch(/Error: it is \*\*\*\n/)
  const account = JSON.parse(run.stdout)
  expect(account).toMatchObject({
    conclusion: 'failure',
    exitCode: 9,
    outputs: { o: '***' },
    state: { id: '7', url: '***' },
    annotations: [{ level: 'error', message: 'it is ***', title: 'T' }, { level: 'warning' }],
  })
  expect(readFileSync(account.summaryPath, 'utf8')).toBe('# done\n')
  expect(readFileSync(join(repo, '.rehearsal/actions/js/state.json'), 'utf8')).not.toContain('s3cret')

  const post = await cli(repo, 'js', '--post', '--json', '--pots', 'x')
  expect(post).toMatchObject({ exitCode: 2, stdout: '' })
  const again = await cli(repo, 'js', '--post', '--json', '--input-post', 'output("seen", env.STATE_id)')
  expect(JSON.parse(again.stdout)).toMatchObject({ conclusion: 'success', exitCode: 0, outputs: { seen: '7' } })
})

test('refuses unknown names with a suggestion, and runs nothing', async () => {
  const repo = repository({})
  const [input, action, none] = await Promise.all([
    cli(repo, 'plain', '--txet', 'x'),
    cli(repo, 'plian'),
    cli(repo, 'js', '--post'),
  ])
  expect(input).toMatchObject({ exitCode: 2, stderr: 'Error: the action has no input `txet`; did you mean --text?' })
  expect(action.stderr).toMatch(/no action `plian`; did you mean `plain`\?/)
  expect(none.stderr).toMatch(/`js` has not run yet/)
})

test('--env passes a variable of the caller to the action, and no other', async () => {
  const repo = repository({})
  const main = `output('seen', [env.MOLT_TEST_A, env.MOLT_TEST_B].join())`
  const set = { MOLT_TEST_A: 'a', MOLT_TEST_B: 'b' }
  const run = await cli(repo, 'js', '--main', main, '--env', 'MOLT_TEST_A', '--json', set)
  expect(JSON.parse(run.stdout).outputs).toEqual({ seen: 'a,' })
  const key = 'a key that nobody shall see'
  const kept = await cli(repo, 'js', '--main', `say(env.MOLT_TEST_A)`, '--env', 'MOLT_TEST_A', { MOLT_TEST_A: key })
  expect(kept.stdout).toMatch(/MOLT_TEST_A: \*\*\*\n(.*\n)*?\*\*\*\n/)
  expect(kept.stdout).not.toContain(key)
  const unset = await cli(repo, 'js', '--main', main, '--env', 'MOLT_TEST_C', set)
  expect(unset).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(/--env MOLT_TEST_C: .*not set/) })
})

test('passes PATH entries of one action to the next, and removes an older summary if a run writes none', async () => {
  const repo = repository({})
  const added = mkdtempSync(join(tmpdir(), 'added-'))
  const first = await cli(
    repo,
    'js',
    '--main',
    `append('GITHUB_PATH', '${added}'); append('GITHUB_STEP_SUMMARY', '# old')`,
  )
  expect(first.stdout).toMatch(/summary: .*summary\.md/)
  const next = await cli(repo, 'js', '--main', `output('path', env.PATH.split(':')[0])`, '--json')
  expect(JSON.parse(next.stdout)).toMatchObject({ outputs: { path: added }, summaryPath: '' })
  expect(next.stderr).toContain(`PATH begins with ${added}`)
  expect(existsSync(join(repo, '.rehearsal/actions/js/summary.md'))).toBe(false)
  rmSync(added, { recursive: true })
})

test('--help shows the allowed values', async () => {
  const run = await execa(process.execPath, ['--import', 'tsx', CLI, 'cutover', '--help'], { cwd: PROJECT })
  expect(run.stdout).toMatch(/--decision .*\n +allowed: one of `rehearse`, `commit`\n/)
  expect(run.stdout).toMatch(/--max-pause .*\n +allowed: a duration such as/)
})

test('--help lists the inputs', async () => {
  const run = await cli(repository({}), 'plain', '--help')
  expect(run.exitCode).toBe(0)
  expect(run.stdout).toMatch(
    /--text {2}\(required\) Comes back as the output `text`\.\n {2}--flag {2}A switch\. \[false\]/,
  )
})

test('Ctrl-C cancels the job: the action can react, and no process is left behind', async () => {
  const main =
    'process.on("SIGINT", () => { say("stopped"); process.exit(0) }); setInterval(() => {}, 1000); say("ready " + process.pid)'
  const child = cli(repository({}), 'js', '--main', main)
  let pid = 0
  child.stdout?.on('data', (chunk) => {
    const found = /^ready (\d+)$/m.exec(String(chunk))
    if (!found || pid) return
    pid = Number(found[1])
    child.kill('SIGINT')
  })
  const run = await child
  expect(run.exitCode).toBe(130)
  expect(run.stdout).toMatch(/stopped\nError: The operation was canceled\.\n[\s\S]*cancelled, exit status 130$/)
  expect(() => process.kill(pid, 0)).toThrow()
})
