// Attacks and accidents by anyone with write access to a branch, against the workflows that teams copy. Each must fail.
// The last tests compare docs/threat-model.md with the files.
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { type FakeGithub, limited, REPOSITORY, reviewed, startGithub, TOKEN } from '../../rehearsal/runner/github.ts'
import { type JobResult, runAction } from '../../rehearsal/runner/runner.ts'
import { evaluate, holds, type Job, readWorkflow, type Workflow } from '../../rehearsal/runner/workflow.ts'
import { exampleComposite } from '../../scripts/example-jobs.ts'
import { specs } from '../../src/actions/specs.ts'
import { inProcess } from '../support/in-process.ts'
import { REPO, words } from '../support/migration.ts'

const read = (path: string) => readFileSync(join(REPO, path), 'utf8')
const own = readdirSync(join(REPO, '.github/workflows')).map((name) => `.github/workflows/${name}`)
const copied = ['migrate-caller', 'migrate-jobs', 'operations', 'rehearse'].map((name) => `examples/${name}.yml`)
const workflows = [...own, ...copied].map((path) => [path, readWorkflow(join(REPO, path))] as const)
const triggers = ({ on }: Workflow) => Object.keys(on)

let github: FakeGithub
const folder = mkdtempSync(join(tmpdir(), 'attacks-'))
beforeAll(async () => {
  github = await startGithub()
})
beforeEach(() => {
  github.environment = reviewed(2)
  github.others = new Map([['migration', limited(['main'])]])
})
afterAll(() => {
  github?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Runs the gate with `do: require`, as the first job of migrate.yml does. */
function gate(inputs: Record<string, string>): Promise<JobResult> {
  const asked = { do: 'require', environment: 'cutover', 'secrets-environment': 'migration', token: TOKEN }
  return runAction({
    dir: join(REPO, 'actions/gate'),
    repo: REPO,
    inputs: { ...asked, ...inputs },
    workDir: folder,
    start: inProcess,
    github: { api_url: github.url, repository: REPOSITORY },
  })
}

function expectRefused(ended: JobResult, code: string, named = ''): void {
  expect(ended.outputs['error-code'], words(ended)).toBe(code)
  expect(words(ended)).toContain(named)
  expect(ended.conclusion).toBe('failure')
}

describe('1. whoever starts a run turns the gate off', () => {
  /** All fields of each workflow's form. None of them can weaken an approval. */
  const FORM: Record<string, string[]> = {
    'examples/migrate-caller.yml': [
      'migration',
      'phase',
      'decision',
      'on-interrupted',
      'switched-by-hand',
      'approved-hash',
    ],
    'examples/migrate-jobs.yml': [
      'migration',
      'phase',
      'decision',
      'on-interrupted',
      'switched-by-hand',
      'approved-hash',
    ],
    'examples/operations.yml': ['operation', 'migration', 'accept-data-loss', 'dry-run'],
    'examples/rehearse.yml': [],
    '.github/workflows/rehearse.yml': ['variant'],
    '.github/workflows/ci.yml': [],
    '.github/workflows/cockroachdb.yml': [],
    '.github/workflows/release.yml': ['version'],
  }
  const forms = workflows.filter(([, workflow]) => triggers(workflow).includes('workflow_dispatch'))

  test.each(forms)('%s has no field that weakens an approval', (path, { on }) => {
    expect(Object.keys(on.workflow_dispatch?.inputs ?? {})).toEqual(FORM[path])
  })

  const POLICY = [
    'gate',
    'environment',
    'secrets-environment',
    'config',
    'rehearsals',
    'max-approval-wait',
    'on-declined',
    'runner',
    'token',
  ]
  test.each(forms)('%s sets environment and approval as literals', (_, workflow) => {
    for (const job of Object.values(workflow.jobs)) {
      const places = [job.environment, job['runs-on'], ...[job, ...(job.steps ?? [])].flatMap(policyOf)]
      for (const place of places.filter((each) => each !== undefined))
        expect(String(place)).not.toMatch(/\b(inputs|vars|github\.event\.inputs)\b/)
    }
  })
  const policyOf = ({ with: given = {} }: { with?: Record<string, unknown> }) => POLICY.map((name) => given[name])

  test('the called workflow has no form', () => {
    expect(triggers(readWorkflow(join(REPO, '.github/workflows/migrate.yml')))).toEqual(['workflow_call'])
  })

  test.each([
    ['gate: none, to commit', { gate: 'none', decision: 'commit' }, 'approval.required'],
    [
      'an environment that does not exist',
      { environment: 'made-up', decision: 'commit' },
      'approval.environment-missing',
    ],
    ['both together', { gate: 'none', environment: 'made-up', decision: 'commit' }, 'approval.required'],
  ])('refuses %s', async (_, inputs, code) => {
    expectRefused(await gate(inputs), code)
  })

  test('skipping the first check does not help, because the approved job checks again', async () => {
    expectRefused(await gate({ do: 'approve', gate: 'none', decision: 'commit' }), 'approval.required')
  })
})

describe('2. an operation outside the organization has no secrets', () => {
  test.each(copied.filter((path) => path !== 'examples/migrate-caller.yml'))('%s reads its secrets itself', (path) => {
    expect(read(path)).not.toMatch(/secrets: inherit|uses: \S+\/\.github\/workflows\//)
  })

  test('reports an empty secret by name', async () => {
    expectRefused(await gate({ secrets: 'MOLT_SOURCE=true, MOLT_TARGET=false' }), 'input.secret-missing', 'MOLT_TARGET')
  })
})

describe('3. a branch reads the production URLs', () => {
  const secretJobs = workflows.flatMap(([path, { jobs }]) =>
    Object.entries(jobs)
      .filter(([, job]) => JSON.stringify(job.steps ?? []).includes('secrets.'))
      .map(([id, job]) => [path, id, job] as const),
  )
  test('some jobs have secrets', () => expect(secretJobs.length).toBeGreaterThan(15))
  test.each(secretJobs)('%s: %s gets its secrets from an environment', (_, __, job) => {
    expect(job.environment).toMatch(
      /^(migration|cutover|cutover-cleanup|rehearsal|\$\{\{ inputs\.(secrets-)?environment \}\})$/,
    )
  })

  const anyBranch = { id: 1, name: 'migration', protection_rules: [], deployment_branch_policy: null }
  test.each<[string, object]>([
    ['any branch', anyBranch],
    ['the pattern *', limited(['main', '*'])],
    ['the pattern **/*', limited(['**/*'])],
  ])('rejects an environment that allows %s', async (_, environment) => {
    github.others.set('migration', environment)
    expectRefused(await gate({}), 'approval.any-branch', '`migration`')
  })

  test('rejects an approval environment that other branches can use too', async () => {
    github.environment = { ...reviewed(2), deployment_branch_policy: null }
    expectRefused(await gate({}), 'approval.any-branch', '`cutover`')
  })

  test('accepts an environment that allows only the default branch', async () => {
    expect((await gate({})).conclusion).toBe('success')
  })

  test('the workflows check their environments before they use a secret', () => {
    const asks = (path: string, id: string) =>
      (readWorkflow(join(REPO, path)).jobs[id] as Job).steps?.find(({ uses }) => uses?.includes('actions/gate'))?.with
    expect(asks('examples/migrate-jobs.yml', 'prepare')).toMatchObject({
      do: 'require',
      'secrets-environment': 'migration',
    })
    expect(asks('examples/rehearse.yml', 'real')).toMatchObject({ do: 'require', 'secrets-environment': 'rehearsal' })
  })
})

describe('4. a pull request reads a secret', () => {
  test.each(workflows)('%s', (path, workflow) => {
    expect(triggers(workflow)).not.toContain('pull_request_target')
    expect(triggers(workflow)).not.toContain('workflow_run')
    if (triggers(workflow).includes('pull_request')) expect(read(path)).not.toContain('secrets.')
  })

  test.each(['.github/workflows/rehearse.yml', 'examples/rehearse.yml'])(
    '%s masks only on the default branch',
    (path) => {
      const { real } = readWorkflow(join(REPO, path)).jobs
      const on = (ref_name: string) => ({
        github: { event_name: 'workflow_dispatch', ref_name, event: { repository: { default_branch: 'main' } } },
        inputs: { variant: 'both' },
      })
      expect(holds(real?.if as string, on('main'))).toBe(true)
      expect(holds(real?.if as string, on('feature'))).toBe(false)
    },
  )
})

describe('5. a default commits, or an administrator bypasses the reviewers unnoticed', () => {
  test('every decision defaults to `rehearse`', () => {
    for (const [, { on }] of workflows)
      for (const form of [on.workflow_dispatch, on.workflow_call]) {
        const { decision } = form?.inputs ?? {}
        if (decision) expect(decision.default).toBe('rehearse')
      }
    for (const { inputs } of specs) expect(inputs.decision?.fallback ?? 'rehearse').toBe('rehearse')
  })

  test('shows administrators who can bypass the reviewers, and rejects them if so configured', async () => {
    for (const can_admins_bypass of [true, undefined]) {
      github.environment = { ...reviewed(2), can_admins_bypass }
      const shown = await gate({})
      expect(words(shown)).toMatch(/##\[warning\]administrators can bypass the reviewers of `cutover`/)
      expect(shown.summary).toMatch(/administrators can bypass them[\s\S]*(\*\*yes\*\*|unknown)/)
      expect(shown.conclusion).toBe('success')
      expect((await gate({ 'admins-can-bypass': 'refuse' })).conclusion).toBe('failure')
    }
    github.environment = reviewed(2)
    expect((await gate({ 'admins-can-bypass': 'refuse' })).conclusion).toBe('success')
  })
})

describe('6. GitHub fails once or limits the request rate', () => {
  test('right after an approval, with the shipped action', async () => {
    github.failures = [{ status: 502 }, 'reset']
    expect((await gate({})).conclusion).toBe('success')
  })
  test('a follower polls once a minute', () => {
    const { inputs } = specs.find(({ name }) => name === 'replicate') ?? { inputs: {} }
    expect(inputs).toMatchObject({ 'approval-poll': { fallback: '60s' } })
  })
})

describe('7. an output vanishes because a secret has a common value', () => {
  const { jobs } = readWorkflow(join(REPO, '.github/workflows/migrate.yml'))
  const all = workflows.flatMap(([path, { jobs }]) => Object.entries(jobs).map(([id, job]) => [path, id, job] as const))

  test.each(all.filter(([, , job]) => job.if))('%s: %s compares outputs only with `!=`', (_, __, job) => {
    expect(job.if).not.toMatch(/\.outputs\.[\w-]+ ==|==\s*needs\.[\w-]+\.outputs/)
  })

  test('if the output is missing, a follower runs and a cutover waits for its reviewers', () => {
    const needs = { prepare: { result: 'success', outputs: {} }, brief: { result: 'success', outputs: {} } }
    const inputs = { decision: 'commit', phase: 'prepare', 'approved-hash': '' }
    expect(holds(jobs.follow?.if as string, { needs, inputs })).toBe(true)
    expect(holds(jobs.cutover?.if as string, { needs, inputs })).toBe(true)
  })

  test('outputs that conditions and matrices read contain no common words', async () => {
    const { outputs } = await gate({ 'max-approval-wait': '20h' })
    const brief = ['follower-needed', 'no-follower-needed']
    for (const value of [outputs.legs, outputs.gate, ...brief])
      expect(value).not.toMatch(/true|false|\d|yes|prod|main|admin|root/)
    expect(JSON.parse(outputs.legs as string)).toHaveLength(20)
  })
})

describe('9. a push cancels the nightly run', () => {
  const concurrency = readWorkflow(join(REPO, '.github/workflows/ci.yml')).concurrency as { group: string }
  const group = (event_name: string, ref: string, run_id: string) =>
    evaluate(concurrency.group, { github: { event_name, ref, run_id } })
  test('only a newer commit of the same pull request cancels a run', () => {
    expect(group('schedule', 'refs/heads/main', '1')).not.toBe(group('push', 'refs/heads/main', '2'))
    expect(group('push', 'refs/heads/main', '1')).not.toBe(group('push', 'refs/heads/main', '2'))
    expect(group('pull_request', 'refs/pull/1/merge', '1')).toBe(group('pull_request', 'refs/pull/1/merge', '2'))
  })
})

describe('10. a runner does not support `$/`', () => {
  test('the root action refers to each action by repository and commit', () => {
    const text = read('examples/action.yml')
    expect(text).toBe(exampleComposite(read('action.yml')))
    expect(text.replace(/^#.*$/gm, '')).not.toContain('$/')
    const parts = [...text.matchAll(/uses: OWNER\/REPO\/actions\/([a-z]+)@0{40}$/gm)].map(([, name]) => name)
    expect(parts).toEqual([...read('action.yml').matchAll(/uses: \$\/actions\/([a-z]+)$/gm)].map(([, name]) => name))
  })
  test.each(copied)('%s uses no action through `$/`', (path) => {
    expect(read(path).replace(/^ *#.*$/gm, '')).not.toMatch(/uses: \$\//)
  })
})

test.each(workflows)('%s pins images by digest', (_, workflow) => {
  const images = Object.entries(workflow.env ?? {}).filter(([name]) => name.endsWith('_IMAGE'))
  for (const [, image] of images) expect(image).toMatch(/^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$/)
  const names = images.map(([name]) => name)
  for (const job of Object.values(workflow.jobs)) {
    expect(job).not.toHaveProperty('container')
    expect(job).not.toHaveProperty('services')
    // For images from repository variables, a step of the job rejects an image without a digest.
    if (job.steps?.some(({ run }) => run?.includes('@sha256:[0-9a-f]{64}$ ]] ||')))
      names.push('POSTGRES_IMAGE', 'COCKROACH_IMAGE')
    for (const { run = '' } of job.steps ?? [])
      for (const [command] of run.matchAll(/docker run(?:[^\n]*\\\n)*[^\n]*/g)) {
        const [, name = ''] = /"\$(\w+_IMAGE)"/.exec(command) ?? []
        expect(names, command).toContain(name)
      }
  }
})

describe('docs/threat-model.md', () => {
  const text = read('docs/threat-model.md')
  const cells = (line: string) =>
    line
      .split('|')
      .slice(1, -1)
      .map((cell) => cell.trim())
  const rows = text.slice(text.indexOf('| file to copy')).split('\n\n')[0]?.split('\n').slice(2).map(cells) ?? []

  test('describes every copied file', () => {
    expect(rows.map(([file]) => `examples/${file?.replaceAll('`', '')}`)).toEqual(copied)
  })
  test.each(rows)('%s', (file = '', everywhere, secrets, environments, started) => {
    const path = `examples/${file.replaceAll('`', '')}`
    const workflow = readWorkflow(join(REPO, path))
    const jobs = Object.values(workflow.jobs)
    const inherits = jobs.some((job) => job.secrets === 'inherit')
    expect(everywhere).toBe(inherits ? 'no' : 'yes')
    expect(secrets).toBe(inherits ? '`secrets: inherit`' : "the job's environment")
    const named = [...new Set(jobs.map((job) => job.environment).filter(Boolean))].sort()
    expect(environments).toBe(named.map((name) => `\`${name}\``).join(', ') || 'in the called workflow')
    expect(started).toBe(triggers(workflow).sort().join(', '))
  })
  test('lists the third-party actions that run in the jobs', () => {
    const uses = [...own, ...copied].flatMap((path) => [...read(path).matchAll(/uses: actions\/([\w-]+)@/g)])
    const [, listed = ''] = /only (checkout[^|]*) \|/.exec(text) ?? []
    for (const name of new Set(uses.map(([, name = '']) => name))) expect(listed.split(/, | and /)).toContain(name)
  })
  test('the guide names the environments that the files use', () => {
    const guide = read('docs/environments.md')
    for (const name of ['migration', 'cutover', 'cutover-cleanup', 'rehearsal'])
      expect(guide).toContain(`| \`${name}\` |`)
    expect(guide).toMatch(/required reviewers need GitHub Enterprise/)
  })
})

test('the copied files have no other placeholders to fill in', () => {
  for (const path of [...copied, 'examples/action.yml']) {
    expect(existsSync(join(REPO, path))).toBe(true)
    for (const [, uses = ''] of read(path).matchAll(/^ +(?:- )?uses: (OWNER\S+)/gm)) expect(uses).toMatch(/@0{40}$/)
  }
})
