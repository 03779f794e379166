// Linters do not know `$/`, nor what our actions take: that the workflows fit them is held here, and when a job runs.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { exampleJobs, exampleRehearsal } from '../../scripts/example-jobs.ts'
import { specs } from '../../src/actions/specs.ts'
import { COMMON_OUTPUTS } from '../../src/runtime/action.ts'
import { holds, type Inputs, type Job, needsOf, readWorkflow, type Workflow } from '../support/workflow.ts'

const REPO = resolve(import.meta.dirname, '../..')
const FOLDER = join(REPO, '.github/workflows')

const examples = ['migrate-caller.yml', 'operations-caller.yml', 'migrate-jobs.yml', 'rehearse.yml']
const files = [
  ...readdirSync(FOLDER).map((name) => join(FOLDER, name)),
  ...examples.map((name) => join(REPO, 'examples', name)),
]
const ours = ['migrate', 'cleanup', 'abort', 'rollback', 'status'].map((name) => join(FOLDER, `${name}.yml`))
const root = parse(readFileSync(join(REPO, 'action.yml'), 'utf8')) as {
  inputs: Inputs
  outputs: Record<string, unknown>
}

/** Inputs (and which are required) and outputs of the action that a step uses; undefined for those of others. */
function actionOf(uses: string): { inputs: Record<string, boolean>; outputs: string[] } | undefined {
  if (uses === './' || /^OWNER\/REPO@0{40}$/.test(uses))
    return {
      inputs: Object.fromEntries(Object.entries(root.inputs).map(([name, { required }]) => [name, required === true])),
      outputs: Object.keys(root.outputs),
    }
  const name = /^(?:\$|OWNER\/REPO)\/actions\/([a-z]+)(?:@0{40})?$/.exec(uses)?.[1]
  if (!name) {
    expect(uses, 'actions of others are pinned to a commit').toMatch(/^[\w-]+\/[\w-]+@[0-9a-f]{40}$/)
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

      test(`${id}: every step fits the action that it uses`, () => {
        for (const step of job.steps ?? []) {
          if (step.run) expect(step.run, 'nothing untrusted reaches a shell by interpolation').not.toContain('${{')
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

      test(`${id}: needs what it names, and names only what is there`, () => {
        for (const [, needed = '', kind, output = ''] of text.matchAll(
          /needs\.([\w-]+)\.(result|outputs\.([\w-]+))/g,
        )) {
          expect(needsOf(job)).toContain(needed)
          if (kind?.startsWith('outputs')) expect(Object.keys(workflow.jobs[needed]?.outputs ?? {})).toContain(output)
        }
        for (const needed of needsOf(job)) expect(Object.keys(workflow.jobs)).toContain(needed)
      })

      test(`${id}: has a timeout, least permissions, and takes inputs that exist`, () => {
        if (!job.uses) expect(job['timeout-minutes']).toBeGreaterThan(0)
        const signs = /rehearse\.yml$/.test(name) && id === 'attest'
        for (const right of Object.values(job.permissions ?? {})) expect(right).toBe(signs ? 'write' : 'read')
        const known = Object.keys({
          ...workflow.on.workflow_dispatch?.inputs,
          ...workflow.on.workflow_call?.inputs,
        })
        for (const [, input = ''] of text.matchAll(/inputs\.([\w-]+)/g)) expect(known).toContain(input)
        const called = /^OWNER\/REPO\/\.github\/workflows\/([a-z]+\.yml)@0{40}$/.exec(job.uses ?? '')?.[1]
        if (job.uses) expect(called).toBeDefined()
        if (!called) return
        const { inputs } = readWorkflow(join(FOLDER, called)).on.workflow_call as { inputs: Inputs }
        for (const input of Object.keys(job.with ?? {})) expect(Object.keys(inputs)).toContain(input)
      })
    }

    test('has no rights by default', () => {
      expect(workflow.permissions).toEqual({})
      if (!name.endsWith('ci.yml')) expect(workflow.concurrency).toBeUndefined()
    })
  },
)

test.each(ours)('%s takes the same inputs by hand and by call', (path) => {
  const { workflow_dispatch: hand, workflow_call: call } = readWorkflow(path).on
  expect(Object.keys(call?.inputs ?? {})).toEqual(Object.keys(hand?.inputs ?? {}))
  for (const [input, { default: value }] of Object.entries(hand?.inputs ?? {}))
    expect(call?.inputs[input]?.default, input).toEqual(value)
})

test('the example of the jobs is the workflow, with the actions by repository and commit', () => {
  const migrate = readFileSync(join(FOLDER, 'migrate.yml'), 'utf8')
  expect(readFileSync(join(REPO, 'examples/migrate-jobs.yml'), 'utf8')).toBe(exampleJobs(migrate))
})

test('the example of the rehearsal is ours without the embedded variant, and rehearses the settings of the migration', () => {
  const text = readFileSync(join(REPO, 'examples/rehearse.yml'), 'utf8')
  expect(text).toBe(exampleRehearsal(readFileSync(join(FOLDER, 'rehearse.yml'), 'utf8')))
  const { jobs, env = {} } = parse(text) as Workflow
  expect(Object.keys(jobs)).toEqual(['real', 'attest'])
  expect(text).not.toMatch(/\$\/|variant|examples\//)
  expect(env).toMatchObject({ CONFIG: 'molt-actions.yml', FOLDER: 'rehearsal' })
  for (const file of ['source.sql', 'target.sql', 'mask.yml'])
    expect(existsSync(join(REPO, 'examples/rehearsal', file))).toBe(true)
})

describe('migrate.yml', () => {
  const { jobs } = readWorkflow(join(FOLDER, 'migrate.yml'))

  test('only the cutover stands behind the gate, and no follower holds it up', () => {
    const gated = Object.keys(jobs).filter((id) => jobs[id]?.environment)
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
      Object.entries(results).map(([name, result]) => [name, { result, outputs: { follow: 'true' } }]),
    )
    const contexts = { needs, inputs: { ...base, ...inputs } }
    expect(holds(job.if as string, contexts, false)).toBe(runs)
    expect(holds(job.if as string, contexts, true), 'never in a cancelled run').toBe(false)
  })

  test('finalize waits for whoever switches the application by hand', () => {
    const contexts = (phase: string) => ({
      needs: { prepare: { result: 'success' }, cutover: { result: 'success', outputs: { phase } } },
      inputs: base,
    })
    expect(holds(jobs.finalize?.if as string, contexts('committed'))).toBe(false)
    expect(holds(jobs.finalize?.if as string, contexts('switched'))).toBe(true)
  })

  test('nobody follows a migration that is past its decision', () => {
    const needs = { prepare: { result: 'success' }, brief: { result: 'success', outputs: { follow: 'false' } } }
    expect(holds(jobs.follow?.if as string, { needs, inputs: base }, false)).toBe(false)
  })
})

describe('status.yml', () => {
  const { status } = readWorkflow(join(FOLDER, 'status.yml')).jobs
  test.each([
    ['workflow_dispatch', 'main', '', true],
    ['schedule', '', '', false],
    ['schedule', '', 'shop', true],
    // Called on the schedule of the caller, which gives the migration.
    ['schedule', 'main', '', true],
  ])('on %s with migration %j and the variable %j: %s', (event_name, migration, MOLT_MIGRATION, runs) => {
    const contexts = { github: { event_name }, inputs: { migration }, vars: { MOLT_MIGRATION } }
    expect(holds(status?.if as string, contexts)).toBe(runs)
  })

  test('leaves the budget of WAL to the config file unless somebody gives one', () => {
    const { inputs } = readWorkflow(join(FOLDER, 'status.yml')).on.workflow_call as { inputs: Inputs }
    expect(inputs['wal-budget']?.default).toBe('')
    expect(status?.steps?.at(-1)?.with?.['wal-budget']).toMatch(/^\$\{\{ inputs\.wal-budget \}\}$/)
  })

  test('the caller names a migration on its schedule, too', () => {
    const { jobs } = readWorkflow(join(REPO, 'examples/operations-caller.yml'))
    expect(jobs.status?.with?.migration).toContain("{ inputs.migration || vars.MOLT_MIGRATION || 'main' }")
  })
})

describe('cleanup.yml', () => {
  test('asks whether its environment has reviewers before it does anything, and every caller lets it', () => {
    const job = readWorkflow(join(FOLDER, 'cleanup.yml')).jobs.cleanup as Job
    const { uses, with: given } = job.steps?.[0] ?? {}
    expect(uses).toBe('$/actions/gate')
    expect(given).toMatchObject({
      do: 'require',
      environment: job.environment,
      token: expect.stringContaining('github.token'),
    })
    const caller = readWorkflow(join(REPO, 'examples/operations-caller.yml')).jobs.cleanup as Job
    expect(caller.permissions).toEqual(job.permissions)
  })
})

describe('rehearse.yml', () => {
  const { jobs } = readWorkflow(join(FOLDER, 'rehearse.yml'))
  const github = (event_name: string, from = 'acme/shop') => ({
    event_name,
    repository: 'acme/shop',
    event: { pull_request: { head: { repo: { full_name: from } } } },
  })
  test.each([
    ['workflow_dispatch', 'both', 'acme/shop', ['embedded', 'real']],
    ['workflow_dispatch', 'embedded', 'acme/shop', ['embedded']],
    ['workflow_dispatch', 'real', 'acme/shop', ['real']],
    ['schedule', '', 'acme/shop', ['embedded', 'real']],
    ['pull_request', '', 'acme/shop', ['embedded', 'real']],
    ['pull_request', '', 'mallory/shop', ['embedded']],
  ])('on %s (%s) from %s: %j', (event, variant, from, expected) => {
    const contexts = { github: github(event, from), inputs: { variant } }
    const ran = ['embedded', 'real'].filter((id) => holds(jobs[id]?.if as string, contexts))
    expect(ran).toEqual(expected)
  })
  test.each([
    ['schedule', 'success', '', true],
    ['schedule', 'success', 'false', false],
    ['schedule', 'failure', '', false],
    ['pull_request', 'success', '', false],
  ])('attests on %s after %s (MOLT_ATTEST=%s): %s', (event, result, MOLT_ATTEST, runs) => {
    const contexts = { github: github(event), needs: { real: { result } }, vars: { MOLT_ATTEST } }
    expect(holds(jobs.attest?.if as string, contexts)).toBe(runs)
  })
  test('nothing of a fork meets a secret', () => {
    expect(readFileSync(join(FOLDER, 'rehearse.yml'), 'utf8')).not.toContain('pull_request_target')
    expect(JSON.stringify(jobs.embedded)).not.toContain('secrets.')
  })
})

const onPath = (tool: string) => (process.env.PATH ?? '').split(':').some((folder) => existsSync(join(folder, tool)))

test.skipIf(!onPath('actionlint'))('actionlint finds nothing', () => {
  execFileSync('actionlint', ['-no-color', ...files], { cwd: REPO, stdio: 'pipe' })
})

test.skipIf(!onPath('zizmor'))('zizmor finds nothing', () => {
  execFileSync('zizmor', ['--offline', '--pedantic', '--no-progress', ...files], { cwd: REPO, stdio: 'pipe' })
})
