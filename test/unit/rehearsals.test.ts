// The policy that a plan was rehearsed: what GitHub tells of runs, artifacts and attestations, and what of it counts.
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { findRehearsals } from '../../src/phases/approval/rehearsals.ts'
import { connectGithub } from '../../src/runtime/github.ts'
import { type FakeGithub, type FakeRehearsal, REPOSITORY, startGithub, TOKEN } from '../support/github.ts'
import { REPO, words } from '../support/migration.ts'

const HASH = 'a'.repeat(64)
const NAME = `molt-rehearsal-${HASH}`
const HOME = `https://github.com/${REPOSITORY}`
const FULCIO = {
  8: 'https://token.actions.githubusercontent.com',
  12: HOME,
  14: 'refs/heads/main',
  18: `${HOME}/.github/workflows/rehearse.yml@refs/heads/main`,
}

const der = (tag: number, ...parts: Buffer[]): Buffer => {
  const body = Buffer.concat(parts)
  const length = body.length < 0x80 ? [body.length] : [0x82, body.length >> 8, body.length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), body])
}

/** A certificate as Fulcio issues them, but signed by its own key; the extensions' texts by number. */
function certificate(keys: { publicKey: KeyObject; privateKey: KeyObject }, texts: Record<number, string>): Buffer {
  const algorithm = der(0x30, Buffer.from('06082a8648ce3d040302', 'hex'))
  const time = (text: string) => der(0x17, Buffer.from(text))
  const extensions = Object.entries(texts).map(([number, text]) => {
    const oid = der(0x06, Buffer.from([...Buffer.from('2b0601040183bf3001', 'hex'), Number(number)]))
    return der(0x30, oid, der(0x04, der(0x0c, Buffer.from(text))))
  })
  const toSign = der(
    0x30,
    ...[der(0xa0, der(0x02, Buffer.from([2]))), der(0x02, Buffer.from([1])), algorithm, der(0x30)],
    ...[der(0x30, time('260101000000Z'), time('260101001000Z')), der(0x30)],
    keys.publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, der(0x30, ...extensions)),
  )
  const signature = sign('sha256', toSign, keys.privateKey)
  return der(0x30, toSign, algorithm, der(0x03, Buffer.from([0]), signature))
}

interface Attested {
  texts?: Record<number, string>
  predicateType?: string
  subject?: { name: string; digest: { sha256: string } }
  forged?: boolean
}

/** A bundle in the shape of GitHub's answers, by a key of its own. */
function bundle(id: number, digest: string, { texts, predicateType, subject, forged }: Attested): object {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const statement = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [subject ?? { name: `${NAME}.zip`, digest: { sha256: digest } }],
    predicateType: predicateType ?? 'https://slsa.dev/provenance/v1',
    predicate: {},
  }
  const payload = Buffer.from(JSON.stringify(statement))
  const type = 'application/vnd.in-toto+json'
  const signed = Buffer.concat([Buffer.from(`DSSEv1 ${type.length} ${type} ${payload.length} `), payload])
  const sent = forged ? Buffer.from(JSON.stringify({ ...statement, predicate: { forged } })) : payload
  const raw = certificate(keys, { ...FULCIO, 21: `${HOME}/actions/runs/${id}/attempts/1`, ...texts })
  return {
    mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
    verificationMaterial: { tlogEntries: [], certificate: { rawBytes: raw.toString('base64') } },
    dsseEnvelope: {
      payload: sent.toString('base64'),
      payloadType: type,
      signatures: [{ sig: sign('sha256', signed, keys.privateKey).toString('base64') }],
    },
  }
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
    bundles: attested ? [bundle(id, digest, attested)] : [],
  }
}

let github: FakeGithub
const folder = mkdtempSync(join(tmpdir(), 'rehearsals-test-'))
beforeAll(async () => {
  github = await startGithub()
  mkdirSync(join(folder, 'bin'))
  const gh = join(folder, 'bin/gh')
  // Refuses the artifact whose number stands in the file.
  writeFileSync(
    gh,
    `#!/bin/sh
cd ${folder} && echo "$@" >> gh.txt
if grep -q "$(cat refused.txt)" "$3"; then echo "Error: verifying with issuer failed" >&2; exit 1; fi
`,
  )
  chmodSync(gh, 0o755)
})
beforeEach(() => {
  writeFileSync(join(folder, 'gh.txt'), '')
  writeFileSync(join(folder, 'refused.txt'), 'nothing')
})
afterAll(() => {
  github?.close()
  rmSync(folder, { recursive: true, force: true })
})

const gate = (
  rehearsals: FakeRehearsal[],
  inputs: Record<string, string> = {},
  path = `${folder}/bin:/usr/bin:/bin`,
) => {
  github.rehearsals = rehearsals
  return runAction({
    dir: join(REPO, 'actions/gate'),
    repo: REPO,
    inputs: { do: 'rehearsed', token: TOKEN, 'plan-hash': HASH, rehearsals: '2', ...inputs },
    github: { api_url: github.url, repository: REPOSITORY },
    env: { PATH: path },
  })
}

test('two attested runs on the default branch are enough, and gh has checked both', async () => {
  const passed = await gate([rehearsal(), rehearsal({ event: 'workflow_dispatch' })])
  expect(words(passed)).toMatch(/rehearsed green 2 times/)
  expect(passed.conclusion).toBe('success')
  const calls = readFileSync(join(folder, 'gh.txt'), 'utf8').trim().split('\n')
  expect(calls).toHaveLength(2)
  for (const call of calls) {
    expect(call).toMatch(/^attestation verify \S+\.zip --repo acme\/shop --predicate-type https:\/\/slsa\.dev/)
    expect(call).toContain('--signer-workflow acme/shop/.github/workflows/rehearse.yml --source-ref refs/heads/main')
  }
})

/** The same without a process of its own. */
function find(rehearsals: FakeRehearsal[], attestation: 'gh' | 'read' = 'gh') {
  github.rehearsals = rehearsals
  vi.stubEnv('GITHUB_API_URL', github.url)
  vi.stubEnv('GITHUB_REPOSITORY', REPOSITORY)
  vi.stubEnv('RUNNER_TEMP', folder)
  vi.stubEnv('PATH', `${folder}/bin:/usr/bin:/bin`)
  const since = new Date(Date.now() - 14 * 86_400_000)
  const wanted = { token: TOKEN, workflow: 'rehearse.yml', artifact: NAME, since, attestation }
  return findRehearsals({ ...wanted, github: connectGithub(TOKEN) })
}
afterEach(() => {
  vi.unstubAllEnvs()
})

const signed = (texts: Record<number, string>) => rehearsal({}, {}, { texts })
test.each<[string, FakeRehearsal, RegExp]>([
  ['of a branch', rehearsal({ head_branch: 'feature' }), /ran on the branch feature/],
  ['of a fork', rehearsal({ head_repository: { full_name: 'mallory/shop' } }), /ran for a fork/],
  ['of a pull request', rehearsal({ event: 'pull_request' }), /started by pull_request/],
  ['of another workflow', rehearsal({ path: '.github/workflows/ci.yml' }), /of the workflow \.github\/workflows\/ci/],
  ['that failed', rehearsal({ conclusion: 'failure' }), /ended with failure/],
  ['that is too old', rehearsal({ created_at: '2020-01-01T00:00:00Z' }), /is of 2020/],
  ['whose artifact has expired', rehearsal({}, { expired: true }), /has expired/],
  ['whose artifact has no digest', rehearsal({}, { digest: null }), /no digest/],
  ['without an attestation', { ...rehearsal(), bundles: [] }, /has no attestation/],
  ['attested by another workflow', signed({ 18: `${HOME}/.github/workflows/x.yml@refs/heads/main` }), /workflow is /],
  ['attested on a branch', signed({ 14: 'refs/heads/feature' }), /ref is refs\/heads\/feature/],
  ['attested in another repository', signed({ 12: 'https://github.com/mallory/shop' }), /repository is /],
  ['attested by another issuer', signed({ 8: 'https://example.com' }), /issuer is /],
  ['attested by another run', signed({ 21: `${HOME}/actions/runs/7/attempts/1` }), /is of the run .*runs\/7/],
  ['with a forged statement', rehearsal({}, {}, { forged: true }), /not by the key of its certificate/],
  ['with an attestation of another kind', rehearsal({}, {}, { predicateType: 'https://x/sbom' }), /of the type/],
  [
    'with an attestation of another artifact',
    rehearsal({}, {}, { subject: { name: 'other.zip', digest: { sha256: 'b'.repeat(64) } } }),
    /about something else/,
  ],
  ['with an answer that nobody can read', { ...rehearsal(), bundles: [{ dsseEnvelope: {} }] }, /cannot be read/],
])('one %s does not count', async (_, other, why) => {
  const { green, rejected } = await find([rehearsal(), other])
  expect(green).toHaveLength(1)
  expect(rejected).toEqual([expect.stringMatching(why)])
})

test('too few are red, and each that does not count is named', async () => {
  const ended = await gate([rehearsal(), signed({ 14: 'refs/heads/feature' })])
  expect(words(ended)).toMatch(/rehearsed green 1 times .* and 2 are required.* Not counted: .*refs\/heads\/feature/)
  expect(ended.conclusion).toBe('failure')
})

test('one that gh refuses does not count, whatever it reads like', async () => {
  const refused = rehearsal()
  writeFileSync(join(folder, 'refused.txt'), refused.zip)
  expect((await find([rehearsal(), refused])).rejected).toEqual([
    expect.stringMatching(/gh attestation verify refuses it: Error: verifying with issuer failed/),
  ])
})

test('one whose bytes are not those of its digest does not count', async () => {
  const { rejected } = await find([rehearsal(), { ...rehearsal(), zip: Buffer.from('other') }])
  expect(rejected).toEqual([expect.stringMatching(/not what GitHub says that it is/)])
})

test('where GitHub leaves the bundle out, only gh can tell', async () => {
  const bare = { ...rehearsal(), bundles: [null] }
  expect((await find([bare])).green).toHaveLength(1)
  expect(readFileSync(join(folder, 'gh.txt'), 'utf8')).toContain('attestation verify')
  expect((await find([bare], 'read')).rejected).toEqual([expect.stringMatching(/not what it says/)])
})

test('without gh it fails by name, unless reading is said to be enough', async () => {
  const two = [rehearsal(), rehearsal()]
  const ended = await gate(two, {}, folder)
  expect(words(ended)).toMatch(/gh cannot be run/)
  expect(ended.conclusion).toBe('failure')
  const read = await gate(two, { attestation: 'read' }, folder)
  expect(words(read)).toMatch(/was read, but not proved/)
  expect(read.conclusion).toBe('success')
})

test('the approver reads how often it was rehearsed, also where no rehearsal is required', async () => {
  const passed = await gate([rehearsal(), rehearsal(), signed({ 14: 'refs/heads/feature' })], { rehearsals: '0' })
  expect(passed.conclusion).toBe('success')
  expect(passed.summary).toMatch(/rehearsed green 2 times/)
  expect(passed.summary).toMatch(/not counted: .*refs\/heads\/feature/)
})

test('where none is required, a GitHub that tells nothing stops nobody', async () => {
  github.status = 403
  const passed = await gate([], { rehearsals: '0' })
  const red = await gate([])
  github.status = 200
  expect(passed.conclusion).toBe('success')
  expect(passed.summary).toMatch(/Rehearsals:\W+unknown/)
  expect(red.conclusion).toBe('failure')
})

test('asks once for the artifacts of a plan, and not each run for its own', async () => {
  github.asked.length = 0
  await find([rehearsal(), ...Array.from({ length: 60 }, () => rehearsal({ head_branch: 'feature' }))])
  const paths = github.asked.map((each) => new URL(each, 'http://x').pathname.replace(/\d+|sha256.*/, 'N'))
  expect(paths.filter((each) => each.endsWith('/actions/artifacts'))).toHaveLength(1)
  expect(paths).toHaveLength(6)
})

test('a flood of artifacts from branches and forks hides no rehearsal', async () => {
  const fork = { head_repository: { id: 5, full_name: 'mallory/shop' } }
  const flood = Array.from({ length: 30 }, () => rehearsal(fork))
  expect((await find([...flood, rehearsal()])).green).toHaveLength(1)
})
