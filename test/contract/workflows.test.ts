// Checks that the workflows match the actions, and when each job runs. Linters know neither `$/` nor the inputs of these
// actions.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { holds, type Inputs, type Job, needsOf, readWorkflow, type Workflow } from '../../rehearsal/runner/workflow.ts'
import { exampleJobs, exampleRehearsal } from '../../scripts/example-jobs.ts'
import { specs } from '../../src/actions/specs.ts'
import { COMMON_OUTPUTS } from '../../src/runtime/action.ts'
import { GROUPS, LONGER_AT_NIGHT, NIGHTLY } from '../../vitest.config.ts'

const REPO = resolve(import.meta.dirname, '../..')
const FOLDER = join(REPO, '.github/workflows')

const examples = ['migrate-caller', 'migrate-jobs', 'operations', 'rehearse'].map((name) => `${name}.yml`)
const files = [
  ...readdirSync(FOLDER).map((name) => join(FOLDER, name)),
  ...examples.map((name) => join(REPO, 'examples', name)),
]
const root = parse(readFileSync(join(REPO, 'action.yml'), 'utf8')) as {
  inputs: Inputs
  outputs: Record<string, unknown>
}

/** File and job → its write permissions. */
const SIGNS = ['id-token', 'attestations']
const WRITES: Record<string, string[]> = {
  '.github/workflows/rehearse.yml attest': SIGNS,
  'examples/rehearse.yml attest': SIGNS,
  '.github/workflows/release.yml draft': ['contents'],
  '.github/workflows/release.yml publish': ['contents', ...SIGNS],
  '.github/workflows/rebuild.yml commit': ['contents', 'actions'],
  '.github/workflows/scorecard.yml scorecard': ['id-token'],
}
/** Workflows that do not move a database. */
const OWN = ['ci', 'release', 'rebuild', 'scorecard', 'cockroachdb'].map((name) => `.github/workflows/${name}.yml`)

/** Inputs (true if required) and outputs of a step's action; undefined for third-party actions. */
function actionOf(uses: string): { inputs: Record<string, boolean>; outputs: string[] } | undefined {
  if (uses === './' || /^OWNER\/REPO@0{40}$/.test(uses))
    return {
      inputs: Object.fromEntries(Object.entries(root.inputs).map(([name, { required }]) => [name, required === true])),
      outputs: Object.keys(root.outputs),
    }
  const name = /^(?:\$|OWNER\/REPO)\/actions\/([a-z]+)(?:@0{40})?$/.exec(uses)?.[1]
  if (!name) {
    expect(uses, 'pins third-party actions to a commit').toMatch(/^[\w-]+\/[\w-]+@[0-9a-f]{40}$/)
    return undefined
  }
  const spec = specs.find((each) => each.name === name)
  if (!spec) throw new Error(`there is no action ${name}`)
  expect(existsSync(join(REPO, 'actions', name, 'action.yml'))).toBe(true)
  return {
    inputs: Object.fromEntries(Object.entries(spec.inputs).map(([key, input]) => [key, input.required])),
    outputs: [...Object.keys(spec.outputs), ...Object.keys(COMMON_OUTPUTS)],
  }
}

describe.each(files.map((path) => [path.slice(REPO.length + 1), readWorkflow(path)] as const))(
  '%s',
  (name, workflow) => {
    for (const [id, job] of Object.entries(workflow.jobs)) {
      const text = JSON.stringify(job)
      const outputs = new Map<string, string[]>()

      test(`${id}: every step matches its action`, () => {
        for (const step of job.steps ?? []) {
          if (step.run) expect(step.run, 'passes nothing untrusted to a shell by interpolation').not.toContain('${{')
          const action = step.uses ? actionOf(step.uses) : undefined
          if (step.id && step.uses?.startsWith('actions/upload-artifact@')) outputs.set(step.id, ['artifact-digest'])
          if (!action) continue
          const given = Object.keys(step.with ?? {})
          expect(given.filter((input) => !(input in action.inputs))).toEqual([])
          const missing = Object.keys(action.inputs).filter((input) => action.inputs[input] && !given.includes(input))
          expect(missing).toEqual([])
          if (step.id) outputs.set(step.id, action.outputs)
        }
        for (const [, step = '', output = ''] of text.matchAll(/steps\.([\w-]+)\.outputs\.([\w-]+)/g))
          expect(outputs.get(step), `${step}.${output}`).toContain(output)
      })

      test(`${id}: lists the jobs that it refers to in needs, and all of them exist`, () => {
        for (const [, needed = '', kind, output = ''] of text.matchAll(
          /needs\.([\w-]+)\.(result|outputs\.([\w-]+))/g,
        )) {
          expect(needsOf(job)).toContain(needed)
          if (kind?.startsWith('outputs')) expect(Object.keys(workflow.jobs[needed]?.outputs ?? {})).toContain(output)
        }
        for (const needed of needsOf(job)) expect(Object.keys(workflow.jobs)).toContain(needed)
      })

      test(`${id}: has a timeout, least permissions, and existing inputs`, () => {
        if (!job.uses) expect(job['timeout-minutes']).toBeGreaterThan(0)
        const rights = Object.entries(job.permissions ?? {})
        for (const [, right] of rights) expect(right).toMatch(/^(read|write)$/)
        expect(rights.filter(([, right]) => right === 'write').map(([of]) => of)).toEqual(WRITES[`${name} ${id}`] ?? [])
        const known = Object.keys({ ...workflow.on.workflow_dispatch?.inputs, ...workflow.on.workflow_call?.inputs })
        for (const [, input = ''] of text.matchAll(/inputs\.([\w-]+)/g)) expect(known).toContain(input)
        const called = /^OWNER\/REPO\/\.github\/workflows\/([a-z]+\.yml)@0{40}$/.exec(job.uses ?? '')?.[1]
        if (job.uses) expect(called).toBeDefined()
        if (!called) return
        const { inputs } = readWorkflow(join(FOLDER, called)).on.workflow_call as { inputs: Inputs }
        for (const input of Object.keys(job.with ?? {})) expect(Object.keys(inputs)).toContain(input)
      })
    }

    test('grants no permissions by default', () => {
      expect(workflow.permissions).toEqual({})
      // Only the ledger decides whether a migration must wait. A concurrency group could cancel or delay it.
      if (!OWN.includes(name)) expect(workflow.concurrency).toBeUndefined()
    })
  },
)

test("the copied jobs equal the called workflow's jobs, with the caller's form and literals", () => {
  const migrate = readFileSync(join(FOLDER, 'migrate.yml'), 'utf8')
  const caller = readFileSync(join(REPO, 'examples/migrate-caller.yml'), 'utf8')
  const text = readFileSync(join(REPO, 'examples/migrate-jobs.yml'), 'utf8')
  expect(text).toBe(exampleJobs(migrate, caller))
  const copied = parse(text) as Workflow
  const { on } = parse(caller) as Workflow
  expect(copied.on).toEqual(on)
  expect(Object.keys(copied.jobs)).toEqual(Object.keys((parse(migrate) as Workflow).jobs))
})

test("the rehearsal example equals rehearse.yml without the embedded variant, and uses the migration's settings", () => {
  const text = readFileSync(join(REPO, 'examples/rehearse.yml'), 'utf8')
  expect(text).toBe(exampleRehearsal(readFileSync(join(FOLDER, 'rehearse.yml'), 'utf8')))
  const { jobs, env = {} } = parse(text) as Workflow
  expect(Object.keys(jobs)).toEqual(['real', 'attest'])
  expect(text).not.toMatch(/\$\/actions|variant|examples\//)
  expect(env).toMatchObject({ CONFIG: 'molt-actions.yml', FOLDER: 'rehearsal' })
  for (const file of ['source.sql', 'target.sql', 'mask.yml'])
    expect(existsSync(join(REPO, 'examples/rehearsal', file))).toBe(true)
})

describe('migrate.yml', () => {
  const { jobs } = readWorkflow(join(FOLDER, 'migrate.yml'))

  test('only the cutover waits for the gate, and followers do not delay it', () => {
    const gated = Object.keys(jobs).filter((id) => jobs[id]?.environment?.includes('inputs.environment '))
    expect(gated).toEqual(['cutover'])
    expect(needsOf(jobs.cutover as Job)).not.toContain('follow')
    expect(needsOf(jobs.finalize as Job)).not.toContain('follow')
    expect(JSON.stringify(jobs)).not.toContain('always()')
  })

  const base = { phase: 'prepare', decision: 'commit', gate: 'environment', 'approved-hash': '' }
  type Row = [job: string, inputs: Partial<typeof base>, results: Record<string, string>, runs: boolean]
  const rows: Row[] = [
    ['load', {}, { prepare: 'success' }, true],
    ['load', {}, { prepare: 'failure' }, false],
    ['load', {}, { prepare: 'skipped' }, false],
    ['load', { phase: 'load' }, { prepare: 'success' }, true],
    ['load', { phase: 'stream' }, { prepare: 'success' }, true],
    ['load', { phase: 'cutover' }, { prepare: 'success' }, false],
    ['load', { phase: 'finalize' }, { prepare: 'success' }, false],
    ['brief', {}, { prepare: 'success', load: 'success' }, true],
    ['brief', {}, { prepare: 'success', load: 'failure' }, false],
    ['brief', {}, { prepare: 'success', load: 'cancelled' }, false],
    ['brief', {}, { prepare: 'success', load: 'skipped' }, false],
    ['brief', { phase: 'cutover' }, { prepare: 'success', load: 'skipped' }, true],
    ['brief', { phase: 'cutover' }, { prepare: 'failure', load: 'skipped' }, false],
    ['brief', { phase: 'finalize' }, { prepare: 'success', load: 'skipped' }, false],
    ['follow', {}, { prepare: 'success', brief: 'success' }, true],
    ['follow', {}, { prepare: 'success', brief: 'failure' }, false],
    ['follow', {}, { prepare: 'success', brief: 'skipped' }, false],
    ['cutover', {}, { prepare: 'success', brief: 'success' }, true],
    ['cutover', {}, { prepare: 'success', brief: 'failure' }, false],
    ['cutover', {}, { prepare: 'success', brief: 'skipped' }, false],
    ['cutover', {}, { prepare: 'success', brief: 'cancelled' }, false],
    ['cutover', {}, { prepare: 'failure', brief: 'success' }, false],
    ['cutover', { gate: 'plan-hash' }, { prepare: 'success', brief: 'success' }, false],
    ['cutover', { gate: 'plan-hash', 'approved-hash': 'ab' }, { prepare: 'success', brief: 'success' }, true],
    ['finalize', {}, { prepare: 'success', cutover: 'success' }, true],
    ['finalize', {}, { prepare: 'success', cutover: 'failure' }, false],
    ['finalize', {}, { prepare: 'success', cutover: 'skipped' }, false],
    ['finalize', { decision: 'rehearse' }, { prepare: 'success', cutover: 'success' }, false],
    ['finalize', { phase: 'finalize' }, { prepare: 'success', cutover: 'skipped' }, true],
    ['finalize', { phase: 'finalize', decision: 'rehearse' }, { prepare: 'success', cutover: 'skipped' }, true],
    ['finalize', { phase: 'finalize' }, { prepare: 'failure', cutover: 'skipped' }, false],
    ['finalize', { phase: 'finalize' }, { prepare: 'success', cutover: 'failure' }, false],
  ]
  test.each(rows)('%s with %j after %j: %s', (id, inputs, results, runs) => {
    const job = jobs[id] as Job
    expect(Object.keys(results).sort()).toEqual([...needsOf(job)].sort())
    const needs = Object.fromEntries(
      Object.entries(results).map(([name, result]) => [
        name,
        { result, outputs: { follow: 'follower-needed', gate: inputs.gate ?? 'environment' } },
      ]),
    )
    const contexts = { needs, inputs: { ...base, ...inputs } }
    expect(holds(job.if as string, contexts, false)).toBe(runs)
    expect(holds(job.if as string, contexts, true), 'never runs in a cancelled run').toBe(false)
  })

  test('finalize waits until a manual switch is confirmed', () => {
    const contexts = (phase: string) => ({
      needs: { prepare: { result: 'success' }, cutover: { result: 'success', outputs: { phase } } },
      inputs: base,
    })
    expect(holds(jobs.finalize?.if as string, contexts('committed'))).toBe(false)
    expect(holds(jobs.finalize?.if as string, contexts('switched'))).toBe(true)
  })

  test('the application is observed after the migration is finalized', () => {
    const contexts = (phase: string) => ({
      inputs: base,
      needs: { prepare: { result: 'success' }, finalize: { result: 'success', outputs: { phase } } },
    })
    expect(holds(jobs.observe?.if as string, contexts('finalized'))).toBe(true)
    expect(holds(jobs.observe?.if as string, contexts('caught-up'))).toBe(false)
    const modes = (id: string) =>
      jobs[id]?.steps?.filter(({ uses }) => uses?.endsWith('/observe')).map((step) => step.with?.mode ?? 'watch')
    expect([modes('load'), modes('cutover'), modes('observe')]).toEqual([['baseline'], ['baseline'], ['watch']])
  })

  test('followers do not run after the commit', () => {
    const follow = 'no-follower-needed'
    const needs = { prepare: { result: 'success' }, brief: { result: 'success', outputs: { follow } } }
    expect(holds(jobs.follow?.if as string, { needs, inputs: base }, false)).toBe(false)
  })
})

describe('operations.yml', () => {
  const { jobs } = readWorkflow(join(REPO, 'examples/operations.yml'))
  test.each([
    ['workflow_dispatch', 'abort', ['abort']],
    ['workflow_dispatch', 'cleanup', ['cleanup']],
    ['workflow_dispatch', 'rollback', ['rollback']],
    ['workflow_dispatch', 'status', ['status']],
    ['workflow_dispatch', 'observe', ['status', 'observe']],
    ['schedule', '', ['status']],
    ['schedule', '', ['status'], 'approved'],
    ['schedule', '', ['status', 'observe'], 'switched'],
    ['schedule', '', ['status', 'observe'], 'finalized'],
    ['schedule', '', ['status'], 'rolled-back'],
  ])('on %s with operation %j: %j, %s', (event_name, operation, expected, phase = '') => {
    const needs = { status: { result: 'success', outputs: { phase } } }
    const contexts = { github: { event_name }, inputs: { operation }, needs }
    expect(Object.keys(jobs).filter((id) => holds(jobs[id]?.if as string, contexts))).toEqual(expected)
  })

  test('cleanup first checks the reviewers of its environment', () => {
    const job = jobs.cleanup as Job
    const [gate, clean] = job.steps?.filter(({ uses }) => uses?.startsWith('OWNER/REPO')) ?? []
    expect(gate?.uses).toMatch(/actions\/gate@/)
    expect(gate?.with).toMatchObject({ do: 'require', gate: 'environment', environment: job.environment })
    expect(clean?.uses).toMatch(/actions\/cleanup@/)
  })
})

describe('rehearse.yml', () => {
  const { jobs } = readWorkflow(join(FOLDER, 'rehearse.yml'))
  const github = (event_name: string, ref_name = 'main') => ({
    event_name,
    ref_name,
    event: event_name === 'schedule' ? {} : { repository: { default_branch: 'main' } },
  })
  test.each([
    ['workflow_dispatch', 'both', 'main', ['embedded', 'real']],
    ['workflow_dispatch', 'embedded', 'main', ['embedded']],
    ['workflow_dispatch', 'real', 'main', ['real']],
    ['workflow_dispatch', 'both', 'feature', ['embedded']],
    ['schedule', '', 'main', ['embedded', 'real']],
  ])('on %s (%s) on %s: %j', (event, variant, ref, expected) => {
    const contexts = { github: github(event, ref), inputs: { variant } }
    const ran = ['embedded', 'real'].filter((id) => holds(jobs[id]?.if as string, contexts))
    expect(ran).toEqual(expected)
  })
  test.each([
    ['success', '', true],
    ['success', 'false', false],
    ['failure', '', false],
  ])('attests after %s (MOLT_ATTEST=%s): %s', (result, MOLT_ATTEST, runs) => {
    const contexts = { needs: { real: { result } }, vars: { MOLT_ATTEST } }
    expect(holds(jobs.attest?.if as string, contexts)).toBe(runs)
  })
})

const onPath = (tool: string) => (process.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, tool)))

test.skipIf(!onPath('actionlint'))('actionlint reports nothing', () => {
  execFileSync('actionlint', ['-no-color', ...files], { cwd: REPO, stdio: 'pipe' })
})

test.skipIf(!onPath('zizmor'))('zizmor reports nothing', () => {
  execFileSync('zizmor', ['--offline', '--pedantic', '--no-progress', ...files], { cwd: REPO, stdio: 'pipe' })
})

test('the nightly job runs every long test once', () => {
  const { steps, strategy } = readWorkflow(join(FOLDER, 'ci.yml')).jobs.nightly as unknown as {
    steps: { run?: string }[]
    strategy: { matrix: { tests: string[] } }
  }
  expect(steps.at(-1)?.run).toMatch(/npm run \$TESTS$/)
  expect(strategy.matrix.tests).toEqual([
    'test:tooling',
    ...Object.keys(GROUPS).map((group) => `test:${group}`),
    ...[1, 2, 3].map((n) => `test:nightly -- --shard=${n}/3`),
  ])
  const tests = readdirSync(join(REPO, 'test'), { recursive: true, encoding: 'utf8' }).map((name) => `test/${name}`)
  const longer = tests.filter(
    (name) =>
      name.endsWith('.test.ts') && /process\.env\.MOLT_ACTIONS_NIGHTLY/.test(readFileSync(join(REPO, name), 'utf8')),
  )
  const listed = [...NIGHTLY, ...LONGER_AT_NIGHT]
  const grouped = Object.values(GROUPS).flat()
  expect([...listed, ...grouped]).toEqual(expect.arrayContaining(longer))
  expect(tests).toEqual(expect.arrayContaining(grouped))
  expect(tests).toEqual(expect.arrayContaining(listed))
  expect(new Set(listed).size).toBe(listed.length)
})
