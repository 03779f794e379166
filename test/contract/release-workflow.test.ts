// Runs both jobs of release.yml in the local runner. Only GitHub, `npm ci` and the build are replaced.
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import packageJson from '../../package.json' with { type: 'json' }
import { holds, readWorkflow, runJob } from '../../rehearsal/runner/workflow.ts'
import { REPO, words } from '../support/migration.ts'

interface Release {
  draft: boolean
  immutable: boolean
  target_commitish: string
  body: string
  assets: { name: string; digest: string }[]
}

const RELEASE = readWorkflow(join(REPO, '.github/workflows/release.yml'))
const SHA = 'c0ffee'.padEnd(40, '1')
const folder = mkdtempSync(join(tmpdir(), 'release-workflow-'))
const file = join(folder, 'github.json')
let state: { greenRuns: string[]; immutableReleases: boolean; tags?: Record<string, string>; releases: Release[] }

beforeAll(() => {
  mkdirSync(join(folder, 'bin'))
  const program = (name: string, script: string) => {
    writeFileSync(join(folder, 'bin', name), `#!/bin/sh\n${script}\n`)
    chmodSync(join(folder, 'bin', name), 0o755)
  }
  const node = `exec '${process.execPath}'`
  program('gh', `${node} '${join(REPO, 'test/support/gh.mjs')}' "$@"`)
  const script = `${node} --import '${import.meta.resolve('tsx')}' '${join(REPO, 'scripts/release.ts')}' "$@"`
  program('npm', `echo "npm $*" >> '${folder}/npm.txt'\n[ "$2" = release ] || exit 0\nshift 3\n${script}`)
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

beforeEach(() => {
  state = { greenRuns: [SHA], immutableReleases: true, releases: [] }
  save()
  writeFileSync(join(folder, 'npm.txt'), '')
})

const save = () => writeFileSync(file, JSON.stringify(state))
const only = () => {
  state = JSON.parse(readFileSync(file, 'utf8'))
  expect(state.releases).toHaveLength(1)
  return state.releases[0] as Release
}

function job(id: 'draft' | 'publish') {
  const attest = { env: {}, run: 'test -s release/files-to-copy.tar.gz' }
  return runJob(RELEASE, id, {
    inputs: { version: packageJson.version },
    replace: { 'actions/checkout': undefined, 'actions/setup-node': undefined, 'actions/attest': () => attest },
    workDir: mkdtempSync(join(folder, `${id}-`)),
    run: {
      github: { token: 'token', sha: SHA, repository: 'acme/molt-actions' },
      env: { GH_STATE: file, PATH: `${join(folder, 'bin')}${delimiter}${process.env.PATH}` },
    },
  })
}

let draftedState: string | undefined

/** Returns the draft that the first job creates. The job runs only once, because the draft is always the same. */
async function drafted(): Promise<Release> {
  if (draftedState) writeFileSync(file, draftedState)
  else {
    const result = await job('draft')
    expect(result.conclusion, words(result)).toBe('success')
    draftedState = readFileSync(file, 'utf8')
  }
  return only()
}

test('builds and drafts from the default branch, and publishes the draft unchanged', async () => {
  const draft = await drafted()
  expect(draft).toMatchObject({ draft: true, target_commitish: SHA })
  expect(draft.assets.map(({ name }) => name).sort()).toEqual([
    'SHA256SUMS',
    'files-to-copy-same-organization.tar.gz',
    'files-to-copy.tar.gz',
  ])
  expect(draft.body).toContain(`acme/molt-actions@${SHA}`)
  const result = await job('publish')
  expect(result.conclusion, words(result)).toBe('success')
  expect(words(result)).toContain(`draft v${packageJson.version} belongs to ${SHA}`)
  expect(only()).toMatchObject({ draft: false, immutable: true })
  const built = readFileSync(join(folder, 'npm.txt'), 'utf8').match(/^npm (ci|run check:dist)$/gm)
  expect(built).toEqual(['npm ci', 'npm run check:dist', 'npm ci', 'npm run check:dist'])
})

test('drafts nothing for a commit whose CI has not passed', async () => {
  state.greenRuns = []
  save()
  expect((await job('draft')).conclusion).toBe('failure')
  expect(JSON.parse(readFileSync(file, 'utf8')).releases).toEqual([])
})

test.each([
  [
    'a replaced asset',
    (draft: Release) => Object.assign(draft.assets[0] as object, { digest: `sha256:${'1'.repeat(64)}` }),
  ],
  ['another commit', (draft: Release) => Object.assign(draft, { target_commitish: 'main' })],
])('does not publish a draft with %s', async (_, change) => {
  change(await drafted())
  save()
  const result = await job('publish')
  expect(result.conclusion).toBe('failure')
  expect(words(result)).toMatch(/must not be published/)
  expect(only().draft).toBe(true)
})

test.each([
  ['the tag is at another commit', { tags: { [`v${packageJson.version}`]: '0'.repeat(40) } }],
  ['immutable releases are off', { immutableReleases: false }],
])('fails to publish if %s', async (_, changed) => {
  await drafted()
  Object.assign(state, changed)
  save()
  expect((await job('publish')).conclusion).toBe('failure')
})

test('runs only on the default branch, and publishes only in the reviewed environment', () => {
  const { draft, publish } = RELEASE.jobs
  const on = (ref: string) =>
    holds(String(draft?.if), { github: { ref_name: ref, event: { repository: { default_branch: 'main' } } } })
  expect([on('main'), on('other')]).toEqual([true, false])
  expect(publish).toMatchObject({ needs: ['draft'], environment: 'release' })
})
