import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { repository } from './runner-helpers.ts'

const PROJECT = fileURLToPath(new URL('../..', import.meta.url))
const CLI = join(PROJECT, 'src/rehearsal/action-cli.ts')

function cli(repo: string, ...args: string[]) {
  const [name, ...rest] = args
  return execa(process.execPath, ['--import', 'tsx', CLI, name as string, '--repo', repo, ...rest], {
    cwd: PROJECT,
    reject: false,
    env: { NODE_OPTIONS: '' },
  })
}

test('shows the log, the outputs and the exit status', async () => {
  const run = await cli(repository({}), 'plain', '--text=a b', '--flag')
  expect(run.exitCode).toBe(0)
  expect(run.stdout).toMatch(/flag is true\n\noutputs:\n {2}text: a b\nstate: none\n/)
  expect(run.stdout).toMatch(/success, exit status 0$/)
})

test('--json leaves standard output to one object, and --post goes on from the run before', async () => {
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

test('what it does not know is an error with a suggestion, and nothing runs', async () => {
  const repo = repository({})
  const [input, action, none] = await Promise.all([
    cli(repo, 'plain', '--txet', 'x'),
    cli(repo, 'plian'),
    cli(repo, 'js', '--post'),
  ])
  expect(input).toMatchObject({ exitCode: 2, stderr: 'Error: the action has no input `txet`; did you mean --text?' })
  expect(action.stderr).toMatch(/no action `plian`; did you mean `plain`\?/)
  expect(none.stderr).toMatch(/--post follows a run of `js`, and there is none/)
})

test('--help lists the inputs', async () => {
  const run = await cli(repository({}), 'plain', '--help')
  expect(run.exitCode).toBe(0)
  expect(run.stdout).toMatch(
    /--text {2}\(required\) Comes back as the output `text`\.\n {2}--flag {2}A switch\. \[false\]/,
  )
})

test('Ctrl-C cancels: the action has its say, and nothing is left', async () => {
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
