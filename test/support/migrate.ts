// Runs migrate.yml job by job. The test decides the order of the jobs and acts for the people; everything else comes
// from the workflow.
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type FakeGithub,
  type FakeRun,
  jobOf,
  REPOSITORY,
  startGithub,
  TOKEN,
  waitingRun,
} from '../../rehearsal/runner/github.ts'
import type { JobResult } from '../../rehearsal/runner/runner.ts'
import { holds, needsOf, readWorkflow, runJob, temporaryFolder, upload } from '../../rehearsal/runner/workflow.ts'
import { SOURCE_CONSTRAINTS } from '../../rehearsal/shop/shop.ts'
import { REPO, type Rehearsal, startRehearsal } from './migration.ts'

const MIGRATE = readWorkflow(join(REPO, '.github/workflows/migrate.yml'))

/** The caller's repository: the files that it checks out, and the command that switches the application. */
const CONFIG = `
common:
  allow-insecure: true
  quiet-period: 500ms
  poll: 500ms
setup: { embedded: true }
prepare: { defer: 'indexes,constraints' }
fetch: { mode: direct-copy }
cutover: { switch-command: [./switch.sh], max-pause: 90s }
`
const SWITCH = `#!/bin/sh
echo "$MOLT_ACTIONS_MIGRATION $MOLT_SWITCH_TOKEN" >> switched.txt
`

export interface Night {
  github: FakeGithub
  rehearsal: Rehearsal
  /** The caller's repository, checked out. */
  workspace: string
  start(inputs?: Record<string, string>, actor?: string, secrets?: Record<string, string>): Run
  /** Runs a job of the copied operations.yml. */
  operate(operation: 'status' | 'abort' | 'rollback' | 'cleanup', inputs?: Record<string, string>): Promise<JobResult>
  phase(): Promise<unknown>
  /** Waits until a follower reads the slot, even on a busy machine. */
  streaming(): Promise<void>
  stop(): Promise<void>
}

/** One run: its jobs' results, and its state on the fake GitHub. */
export interface Run {
  id: string
  github: FakeRun
  results: Record<string, string>
  /** Runs a job; undefined if its condition does not hold. `leg` is the follower's leg, from 0. */
  job(id: string, options?: { leg?: number; signal?: AbortSignal }): Promise<JobResult | undefined>
  /** Runs these jobs in order. Throws with the log of a job that does not succeed. */
  jobs(...ids: string[]): Promise<void>
}

export async function startNight(options: { rows?: number; rate?: number } = {}): Promise<Night> {
  const [github, rehearsal] = await Promise.all([startGithub(), startRehearsal({ rows: 1000, rate: 20, ...options })])
  // The target as its owner created it, with all indexes and constraints. They are dropped for the load.
  await rehearsal.query('target', SOURCE_CONSTRAINTS)
  const folder = temporaryFolder()
  const workspace = join(folder, 'workspace')
  mkdirSync(workspace)
  writeFileSync(join(workspace, 'molt-actions.yml'), CONFIG)
  writeFileSync(join(workspace, 'lenient.yml'), `${CONFIG}gate: { bypass: warn, self-approval: warn }\n`)
  // After an abort, the rows of the first load are still on the target.
  const names = await rehearsal.query(
    'source',
    `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')`,
  )
  const allowed = `allow-truncate: ${JSON.stringify(names.map((row) => row.relname))}`
  const again = CONFIG.replace('common:', 'common:\n  table-handling: truncate-if-exists')
  writeFileSync(join(workspace, 'again.yml'), again.replace('direct-copy }', `direct-copy, ${allowed} }`))
  writeFileSync(join(workspace, 'switch.sh'), SWITCH)
  chmodSync(join(workspace, 'switch.sh'), 0o755)
  let runs = 41
  return {
    github,
    rehearsal,
    workspace,
    start(inputs = {}, actor = 'anna', secrets = {}) {
      const id = String(++runs)
      const run = startRun({ github, rehearsal, workspace, folder: join(folder, id) }, id, inputs, actor, secrets)
      github.runs.set(id, run.github)
      return run
    },
    operate(name, inputs = {}) {
      const { source, target } = rehearsal.pair
      return runJob(readWorkflow(join(REPO, 'examples/operations.yml')), name, {
        inputs: { operation: name, ...inputs },
        secrets: { MOLT_SOURCE: source.url, MOLT_TARGET: target.url },
        replace: { 'actions/checkout': undefined },
        workDir: join(folder, `${name}-${++runs}`),
        run: {
          workspace,
          github: { token: TOKEN, api_url: github.url, repository: REPOSITORY, job: name },
          secrets: [TOKEN],
        },
      })
    },
    phase: async () => (await rehearsal.query('target', 'SELECT phase FROM molt_actions.migrations'))[0]?.phase,
    async streaming() {
      const sql = 'SELECT 1 FROM pg_replication_slots WHERE active'
      for (const end = Date.now() + 60_000; !(await rehearsal.query('source', sql)).length; await sleep(250))
        if (Date.now() > end) throw new Error('nothing reads the slot')
      await sleep(2_000)
    },
    async stop() {
      await rehearsal.stop()
      github.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

interface Place {
  github: FakeGithub
  rehearsal: Rehearsal
  workspace: string
  folder: string
}

function startRun(
  place: Place,
  id: string,
  given: Record<string, string>,
  actor: string,
  others: Record<string, string>,
): Run {
  const state = waitingRun()
  const results: Record<string, string> = {}
  const outputs: Record<string, Record<string, string>> = {}
  const declared = Object.entries(MIGRATE.on.workflow_call?.inputs ?? {})
  const inputs: Record<string, string> = {
    ...Object.fromEntries(declared.map(([name, { default: value }]) => [name, String(value)])),
    config: 'molt-actions.yml',
    ...given,
  }
  const { source, target } = place.rehearsal.pair
  const secrets = { MOLT_SOURCE: source.url, MOLT_TARGET: target.url, MOLT_SWITCH_TOKEN: 'switch-secret-1', ...others }
  const run: Run = {
    id,
    github: state,
    results,
    async job(name, { leg: index = 0, signal } = {}) {
      const legs = JSON.parse(outputs.prepare?.legs || '["leg-last"]') as string[]
      const leg = legs[index] ?? ''
      const job = MIGRATE.jobs[name]
      if (!job) throw new Error(`migrate.yml has no job ${name}`)
      const needs = Object.fromEntries(
        needsOf(job).map((needed) => [
          needed,
          { result: results[needed] ?? 'skipped', outputs: outputs[needed] ?? {} },
        ]),
      )
      if (job.if && !holds(job.if, { needs, inputs })) {
        results[name] = 'skipped'
        return undefined
      }
      const shown = name === 'cutover' || name === 'follow' ? jobOf(state, name) : undefined
      Object.assign(shown ?? {}, { status: 'in_progress', steps: [{ name: 'Set up job' }] })
      const result = await runJob(MIGRATE, name, {
        inputs,
        // The switch's secret belongs to the environment.
        secrets: name === 'cutover' ? secrets : { ...secrets, MOLT_SWITCH_TOKEN: '' },
        needs: outputs,
        matrix: { leg },
        strategy: { 'job-total': String(legs.length) },
        replace: { 'actions/checkout': undefined, 'actions/upload-artifact': upload },
        workDir: join(place.folder, `${name}-${leg}`),
        run: {
          workspace: place.workspace,
          github: {
            ...{ token: TOKEN, api_url: place.github.url, repository: REPOSITORY, job: name },
            ...{ run_id: id, run_attempt: '1', actor, triggering_actor: actor },
          },
          secrets: [TOKEN, ...Object.values(secrets)],
          ...(signal ? { signal } : {}),
        },
      })
      results[name] = result.conclusion
      outputs[name] = result.outputs
      Object.assign(shown ?? {}, { status: 'completed', conclusion: result.conclusion })
      return result
    },
    async jobs(...ids) {
      for (const each of ids) requireGreen(each, await run.job(each))
    },
  }
  return run
}

export function requireGreen(name: string, result: JobResult | undefined): JobResult {
  if (result?.conclusion === 'success') return result
  const log = result?.steps.map((step) => step.log).join('\n')
  throw new Error(`${name}: ${result?.conclusion ?? 'skipped'}\n${log}`)
}
