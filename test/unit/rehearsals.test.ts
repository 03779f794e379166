// The policy that requires a rehearsal of the plan: which of GitHub's runs, artifacts and attestations count.
import { createHash } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { type FakeGithub, type FakeRehearsal, REPOSITORY, startGithub, TOKEN } from '../../rehearsal/runner/github.ts'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { findRehearsals } from '../../src/phases/approval/rehearsals.ts'
import { connectGithub } from '../../src/runtime/github.ts'
import { inProcess } from '../support/in-process.ts'
import { REPO, words } from '../support/migration.ts'

const HASH = 'a'.repeat(64)
const NAME = `molt-rehearsal-${HASH}`
const HOME = `https://github.com/${REPOSITORY}`

interface Attested {
  run?: string
  subject?: { name: string; digest: { sha256: string } }
}

/** Returns output of `gh attestation verify --format json`. */
function verified(id: number, digest: string, { run, subject }: Attested): string {
  const statement = { subject: [subject ?? { name: `${NAME}.zip`, digest: { sha256: digest } }] }
  const certificate = { runInvocationURI: run ?? `${HOME}/actions/runs/${id}/attempts/1` }
  return JSON.stringify([{ attestation: {}, verificationResult: { signature: { certificate }, statement } }])
}

let ids = 100
function rehearsal(run: object = {}, artifact: object = {}, attested: Attested | undefined = {}): FakeRehearsal {
  const id = ++ids
  const zip = Buffer.from(`zip of ${id}`)
  const digest = createHash('sha256').update(zip).digest('hex')
  return {
    run: {
      ...{ id, html_url: `${HOME}/actions/runs/${id}`, event: 'schedule', conclusion: 'success', head_branch: 'main' },
      ...{ path: '.github/workflows/rehearse.yml', created_at: new Date().toISOString() },
      ...{ head_repository: { id: 4, full_name: REPOSITORY }, ...run },
    },
    artifact: { id, name: NAME, expired: false, digest: `sha256:${digest}`, size_in_bytes: zip.length, ...artifact },
    zip,
    verified: attested && verified(id, digest, attested),
  }
}

let github: FakeGithub
const folder = mkdtempSync(join(tmpdir(), 'rehearsals-test-'))
beforeAll(async () => {
  github = await startGithub()
  mkdirSync(join(folder, 'bin'))
  const gh = join(folder, 'bin/gh')
  // This `gh` prints the file stored for the artifact's bytes, and fails for unknown bytes.
  writeFileSync(
    gh,
    `#!/bin/sh
cd ${folder} && echo "$@" >> gh.txt
answer="answers/$(tr ' ' '-' < "$3").json"
if [ -f "$answer" ]; then cat "$answer"; else echo "Error: no attestations found" >&2; exit 1; fi
`,
  )
  chmodSync(gh, 0o755)
})
beforeEach(() => {
  writeFileSync(join(folder, 'gh.txt'), '')
  rmSync(join(folder, 'answers'), { recursive: true, force: true })
  mkdirSync(join(folder, 'answers'))
})
afterAll(() => {
  github?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Sets the rehearsals that GitHub and `gh` know. */
function know(rehearsals: FakeRehearsal[]): void {
  github.rehearsals = rehearsals
  for (const { zip, verified } of rehearsals)
    if (verified) writeFileSync(join(folder, 'answers', `${zip.toString().replaceAll(' ', '-')}.json`), verified)
}

const gate = (
  rehearsals: FakeRehearsal[],
  inputs: Record<string, string> = {},
  path = `${folder}/bin:/usr/bin:/bin`,
) => {
  know(rehearsals)
  return runAction({
    dir: join(REPO, 'actions/gate'),
    repo: REPO,
    inputs: { do: 'rehearsed', token: TOKEN, 'plan-hash': HASH, rehearsals: '2', ...inputs },
    github: { api_url: github.url, repository: REPOSITORY },
    env: { PATH: path },
    start: inProcess,
  })
}

test('accepts two attested runs on the default branch, and verifies both with gh', async () => {
  const passed = await gate([rehearsal(), rehearsal({ event: 'workflow_dispatch' })])
  expect(words(passed)).toMatch(/had 2 green rehearsals/)
  expect(passed.conclusion).toBe('success')
  const calls = readFileSync(join(folder, 'gh.txt'), 'utf8').trim().split('\n')
  expect(calls).toHaveLength(2)
  for (const call of calls) {
    expect(call).toMatch(/^attestation verify \S+\.zip --repo acme\/shop --predicate-type https:\/\/slsa\.dev/)
    expect(call).toContain('--signer-workflow acme/shop/.github/workflows/rehearse.yml --source-ref refs/heads/main')
  }
})

/** Finds rehearsals in this process. */
function find(rehearsals: FakeRehearsal[]) {
  know(rehearsals)
  vi.stubEnv('GITHUB_API_URL', github.url)
  vi.stubEnv('GITHUB_REPOSITORY', REPOSITORY)
  vi.stubEnv('RUNNER_TEMP', folder)
  vi.stubEnv('PATH', `${folder}/bin:/usr/bin:/bin`)
  const since = new Date(Date.now() - 14 * 86_400_000)
  const wanted = { token: TOKEN, workflow: 'rehearse.yml', artifact: NAME, since }
  return findRehearsals({ ...wanted, github: connectGithub(TOKEN) })
}
afterEach(() => {
  vi.unstubAllEnvs()
})

const attested = (as: Attested) => rehearsal({}, {}, as)
const elsewhere = () => attested({ run: `${HOME}/actions/runs/7/attempts/1` })
test.each<[string, FakeRehearsal, RegExp]>([
  ['on a branch', rehearsal({ head_branch: 'feature' }), /ran on the branch feature/],
  ['in a fork', rehearsal({ head_repository: { full_name: 'mallory/shop' } }), /ran for a fork/],
  ['from a pull request', rehearsal({ event: 'pull_request' }), /started by pull_request/],
  [
    'by another workflow',
    rehearsal({ path: '.github/workflows/ci.yml' }),
    /run of the workflow \.github\/workflows\/ci/,
  ],
  ['that failed', rehearsal({ conclusion: 'failure' }), /ended with failure/],
  ['that is too old', rehearsal({ created_at: '2020-01-01T00:00:00Z' }), /ran on 2020/],
  ['whose artifact has expired', rehearsal({}, { expired: true }), /has expired/],
  ['whose artifact has no digest', rehearsal({}, { digest: null }), /no digest/],
  ['that gh rejects', { ...rehearsal(), verified: undefined }, /gh attestation verify rejects it: Error: no att/],
  ['attested by another run', elsewhere(), /is for the run .*runs\/7/],
  [
    'with an attestation for another artifact',
    attested({ subject: { name: 'other.zip', digest: { sha256: 'b'.repeat(64) } } }),
    /for another artifact/,
  ],
  ['that gh describes in an unknown format', { ...rehearsal(), verified: '[{}]' }, /cannot be parsed/],
])('does not count a rehearsal %s', async (_, other, why) => {
  const { green, rejected } = await find([rehearsal(), other])
  expect(green).toHaveLength(1)
  expect(rejected).toEqual([expect.stringMatching(why)])
})

test('fails if there are too few rehearsals, and names each run that does not count', async () => {
  const ended = await gate([rehearsal(), elsewhere()])
  expect(words(ended)).toMatch(/had 1 green rehearsals .* but 2 are required.* Not counted: .*runs\/7/)
  expect(ended.conclusion).toBe('failure')
})

test('does not count an artifact whose bytes do not match its digest', async () => {
  const { rejected } = await find([rehearsal(), { ...rehearsal(), zip: Buffer.from('other') }])
  expect(rejected).toEqual([expect.stringMatching(/does not match the digest that GitHub reports/)])
})

test('reports a missing gh', async () => {
  const two = [rehearsal(), rehearsal()]
  const ended = await gate(two, {}, folder)
  expect(ended.outputs['error-code']).toBe('approval.gh-missing')
  expect(ended.conclusion).toBe('failure')
})

test('shows the approver how often the plan was rehearsed, even if no rehearsal is required', async () => {
  const passed = await gate([rehearsal(), rehearsal(), elsewhere()], { rehearsals: '0' })
  expect(passed.conclusion).toBe('success')
  expect(passed.summary).toMatch(/had 2 green rehearsals/)
  expect(passed.summary).toMatch(/not counted: .*runs\/7/)
})

test('ignores a GitHub outage if no rehearsal is required', async () => {
  github.status = 403
  const passed = await gate([], { rehearsals: '0' })
  const red = await gate([])
  github.status = 200
  expect(passed.conclusion).toBe('success')
  expect(passed.summary).toMatch(/Rehearsals:\W+unknown/)
  expect(red.conclusion).toBe('failure')
})

test("requests a plan's artifacts once, instead of one request per run", async () => {
  github.asked.length = 0
  await find([rehearsal(), ...Array.from({ length: 60 }, () => rehearsal({ head_branch: 'feature' }))])
  const paths = github.asked.map((each) => new URL(each, 'http://x').pathname.replace(/\d+|sha256.*/, 'N'))
  expect(paths.filter((each) => each.endsWith('/actions/artifacts'))).toHaveLength(1)
  expect(paths).toHaveLength(5)
})

test('finds rehearsals among many artifacts from branches and forks', async () => {
  const fork = { head_repository: { id: 5, full_name: 'mallory/shop' } }
  const flood = Array.from({ length: 30 }, () => rehearsal(fork))
  expect((await find([...flood, rehearsal()])).green).toHaveLength(1)
})
