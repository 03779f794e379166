// Runs rehearse.yml in the local runner, nightly. Two things in the job `real` are replaced: `docker` starts embedded
// servers, and the config file names the stand-in for MOLT.
import { execFileSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type FakeGithub, limited, REPOSITORY, startGithub, TOKEN } from '../../rehearsal/runner/github.ts'
import { readWorkflow, runJob, temporaryFolder, upload } from '../../rehearsal/runner/workflow.ts'
import { query, REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'

const REHEARSE = readWorkflow(join(REPO, '.github/workflows/rehearse.yml'))
const SETTINGS = readFileSync(join(REPO, 'examples/molt-actions.yml'), 'utf8')
const folder = temporaryFolder()
let pair: Servers
let github: FakeGithub
beforeAll(async () => {
  pair = await startServers()
  github = await startGithub()
})
afterAll(async () => {
  github?.close()
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

function withDatabase(url: string, name: string): string {
  const other = new URL(url)
  other.pathname = `/${name}`
  return other.href
}

test('real: masks rows, runs the whole chain between servers in Docker under live writes, and names the evidence after the plan', async () => {
  const bin = join(folder, 'bin')
  const state = join(folder, 'containers')
  for (const each of [bin, state]) mkdirSync(each)
  writeFileSync(
    join(bin, 'docker'),
    `#!/bin/sh\nexec '${process.execPath}' '${join(REPO, 'test/support/docker.mjs')}' "$@"\n`,
  )
  chmodSync(join(bin, 'docker'), 0o755)
  const config = join(folder, 'molt-actions.yml')
  const embedded = SETTINGS.replace('setup:\n', 'setup:\n  embedded: true\n')
  writeFileSync(config, embedded)
  github.others.set('rehearsal', limited(['main']))
  const result = await runJob(REHEARSE, 'real', {
    replace: { 'actions/checkout': undefined, 'actions/upload-artifact': upload },
    secrets: { MOLT_CLONE: '', MOLT_MASK_KEY: '' },
    workDir: join(folder, 'real'),
    run: {
      workspace: REPO,
      github: { token: TOKEN, api_url: github.url, repository: REPOSITORY },
      env: {
        CONFIG: config,
        POSTGRES_IMAGE: `postgres:16@sha256:${'ab'.repeat(32)}`,
        COCKROACH_IMAGE: `cockroachdb/cockroach:latest-v25.2@sha256:${'cd'.repeat(32)}`,
        ORIGINAL_URL: withDatabase(pair.source.url, 'original'),
        SOURCE_URL: withDatabase(pair.source.url, 'shop'),
        TARGET_URL: pair.target.url,
        DOCKER_STATE: state,
        DOCKER_SOURCE: pair.source.url,
        DOCKER_TARGET: pair.target.url,
        PATH: `${bin}${delimiter}${process.env.PATH}`,
      },
    },
  })
  expect(result.conclusion, words(result)).toBe('success')
  const hash = result.outputs['plan-hash'] as string
  expect(hash).toMatch(/^[0-9a-f]{64}$/)
  expect(result.outputs.digest).toMatch(/^[0-9a-f]{64}$/)
  const temp = join(folder, 'real/_temp')
  expect(readFileSync(join(temp, 'artifact'), 'utf8').trim()).toBe(`molt-rehearsal-${hash}`)
  expect(readdirSync(join(temp, 'molt-actions/rehearsal'))).toContain('preflight.json')
  // Both sides have all customers, all of them masked, and no server or process keeps running.
  const original = await query(withDatabase(pair.source.url, 'original'), 'SELECT count(*)::text AS n FROM customers')
  for (const url of [withDatabase(pair.source.url, 'shop'), pair.target.url]) {
    const sql = `SELECT count(*)::text AS n, (count(*) FILTER (WHERE email LIKE '%@shop.test'))::text AS found FROM customers`
    expect(await query(url, sql)).toEqual([{ n: original[0]?.n, found: '0' }])
  }
  expect(readdirSync(state).filter((name) => !name.endsWith('-asked'))).toEqual([])
  expect(result.orphans).toEqual([])
}, 300_000)

test("embedded: succeeds from a fresh clone with the workflow's commands", async () => {
  const clone = join(folder, 'clone')
  execFileSync('git', ['clone', '--quiet', '--depth=1', `file://${REPO}`, clone])
  const result = await runJob(REHEARSE, 'embedded', {
    replace: { 'actions/checkout': undefined, 'actions/setup-node': undefined, 'actions/upload-artifact': upload },
    workDir: join(folder, 'embedded'),
    run: { workspace: clone },
  })
  expect(result.conclusion, words(result)).toBe('success')
  expect(words(result)).toMatch(/"verdict": ?"go"/)
}, 600_000)

const act = (process.env.PATH ?? '').split(delimiter).find((each) => existsSync(join(each, 'act')))

test.skipIf(!act)(
  'embedded: in act, on a copy without `$/`',
  async () => {
    const copy = join(folder, 'act')
    execFileSync('git', ['clone', '--quiet', '--depth=1', `file://${REPO}`, copy])
    const workflow = join(copy, '.github/workflows/rehearse.yml')
    const text = readFileSync(workflow, 'utf8').replaceAll('uses: $/', 'uses: ./')
    // Leaves out the setup of Node, for which act would have to download an action.
    writeFileSync(workflow, text.replace(/ {6}- name: Set up Node\n[\s\S]*?(?= {6}- name: Install)/g, ''))
    const args = [
      'workflow_dispatch',
      '-W',
      '.github/workflows/rehearse.yml',
      '-j',
      'embedded',
      '--input',
      'variant=embedded',
    ]
    const { all } = await execa(
      join(act as string, 'act'),
      [...args, '-P', 'ubuntu-24.04=-self-hosted', '--env', `HOME=${process.env.HOME}`],
      { cwd: copy, all: true, reject: false, timeout: 500_000 },
    )
    expect(all?.slice(-5_000)).toMatch(/Job succeeded/)
  },
  600_000,
)
