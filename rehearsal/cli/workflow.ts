// `npm run workflow -- FILE`: runs the jobs of an adopted workflow on this machine, and stands in for GitHub's
// environments, secrets and reviewers.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline/promises'
import { parseArgs } from 'node:util'
import { parse, stringify } from 'yaml'
import { InputError, messageOf } from '../../src/runtime/errors.ts'
import { shellWord } from '../../src/runtime/next.ts'
import { freeAddress } from '../../src/tools/ports.ts'
import {
  type FakeGithub,
  type FakeJob,
  limited,
  REPOSITORY,
  review,
  reviewed,
  startGithub,
  TOKEN,
} from '../runner/github.ts'
import type { JobResult } from '../runner/runner.ts'
import { holds, type Job, needsOf, readWorkflow, runJob, type Step, upload, type Workflow } from '../runner/workflow.ts'

const HELP = `npm run workflow -- FILE [--field NAME=VALUE]... [options]

Runs the jobs of a workflow that \`npm run adopt\` wrote, on this machine and without GitHub. All environments
accept the branch main. For those with reviewers, the terminal asks who approves.

  FILE                such as ../shop/.github/workflows/migrate.yml
  --field NAME=VALUE  a field of the workflow's form, such as decision=commit
  --embedded          moves the rows with the embedded stand-in and its own files, and accepts connections
                      without TLS; everything else comes from the config file
  --actor NAME        who starts the workflow (default: starter)
  --approve-as NAME   approves every waiting job as NAME, without a prompt; \`nobody\` rejects

Secrets are read from variables of the same names: export MOLT_SOURCE and MOLT_TARGET.
.rehearsal/workflow/ keeps the dossier and the summaries, such as the approver's brief.
Exit status: 0 when no job failed, 1 otherwise, 2 for wrong usage.`

const OUT = resolve(import.meta.dirname, '../../.rehearsal/workflow')
/** Environments that have reviewers, according to docs/environments.md. */
const REVIEWED = ['cutover', 'cutover-cleanup']

interface Options {
  workflow: Workflow
  /** Root of the repository that contains the workflow. */
  workspace: string
  fields: Record<string, string>
  embedded: boolean
  actor: string
  approveAs: string | undefined
  /** Arguments of `npm run workflow` before the file name, for printed commands that run another workflow. */
  again: string
}

function readOptions(args: string[]): Options | undefined {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      field: { type: 'string', multiple: true, default: [] },
      embedded: { type: 'boolean', default: false },
      actor: { type: 'string', default: 'starter' },
      'approve-as': { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return undefined
  const [file] = positionals
  if (!file) throw new InputError('cli.invalid-option', `the workflow's file is missing\n\n${HELP}`)
  const workflow = readWorkflow(file)
  const called = Object.entries(workflow.jobs).find(([, job]) => job.uses)
  if (called)
    throw new InputError(
      'cli.invalid-option',
      `the job ${called[0]} calls another workflow. Run \`npm run adopt\` without --caller, and use the workflow it writes`,
    )
  return {
    workflow,
    workspace: resolve(dirname(file), '../..'),
    fields: fieldsOf(workflow, values.field),
    embedded: values.embedded,
    actor: values.actor,
    approveAs: values['approve-as'],
    again: [...(values.embedded ? ['--embedded'] : []), shellWord(dirname(file))].join(' '),
  }
}

/** Values of the form's fields. An unchecked box is an empty string, because any other string is truthy. */
function fieldsOf({ on }: Workflow, given: readonly string[]): Record<string, string> {
  const form = on.workflow_dispatch?.inputs ?? {}
  const fields = Object.fromEntries(Object.entries(form).map(([name, each]) => [name, String(each.default ?? '')]))
  for (const pair of given) {
    const [name = '', ...value] = pair.split('=')
    if (!(name in form))
      throw new InputError(
        'cli.invalid-option',
        `the form has no field ${name}. Use one of: ${Object.keys(form).join(', ')}`,
      )
    fields[name] = value.join('=')
  }
  for (const [name, { type }] of Object.entries(form))
    if (type === 'boolean' && fields[name] !== 'true') fields[name] = ''
  return fields
}

/** Copies an artifact's files to the folder of the summaries. */
function keep(step: Step): Pick<Step, 'run' | 'env'> {
  const { run, env } = upload(step)
  return { run: `${run} && mkdir -p "$OUT/$NAME" && cp $FILES "$OUT/$NAME"`, env: { ...env, OUT } }
}

/** One run of the workflow. */
class Run {
  readonly #options: Options
  readonly #github: FakeGithub
  readonly #config: string | undefined
  readonly #signal: AbortSignal
  readonly #began = performance.now()
  readonly #outputs: Record<string, Record<string, string>> = {}
  readonly #started = new Map<string, Promise<void>>()
  readonly #shown: Record<string, FakeJob> = {}
  readonly #approvals: object[] = []
  /** An approval is valid for a single run. */
  readonly #id = String(Math.floor(Date.now() / 1000))
  readonly results: Record<string, string> = {}

  constructor(options: Options, github: FakeGithub, config: string | undefined, signal: AbortSignal) {
    this.#options = options
    this.#github = github
    this.#config = config
    this.#signal = signal
    for (const [id, { name = id }] of Object.entries(options.workflow.jobs))
      this.#shown[id] = { name, status: 'queued', conclusion: null, steps: [], created_at: new Date().toISOString() }
    github.runs.set(this.#id, { jobs: Object.values(this.#shown), approvals: this.#approvals })
  }

  async finished(): Promise<void> {
    await Promise.all(Object.keys(this.#options.workflow.jobs).map((id) => this.#start(id)))
  }

  #start(id: string): Promise<void> {
    const started = this.#started.get(id) ?? this.#runInTurn(id)
    this.#started.set(id, started)
    return started
  }

  async #runInTurn(id: string): Promise<void> {
    const job = this.#options.workflow.jobs[id] as Job
    await Promise.all(needsOf(job).map((needed) => this.#start(needed)))
    const result = this.#isDue(job) ? await this.#runApproved(id, job) : 'skipped'
    this.results[id] = result
    Object.assign(this.#shown[id] as FakeJob, { status: 'completed', conclusion: result })
    this.#say(id, result)
  }

  #isDue(job: Job): boolean {
    if (this.#signal.aborted) return false
    const needs = Object.fromEntries(
      needsOf(job).map((id) => [id, { result: this.results[id] ?? 'skipped', outputs: this.#outputs[id] ?? {} }]),
    )
    const succeeded = Object.values(needs).every(({ result }) => result === 'success')
    // As on GitHub, a condition without a status function implies success().
    if (!/\b(always|cancelled|failure|success)\(\)/.test(job.if ?? '') && !succeeded) return false
    if (!job.if) return true
    return holds(job.if, { needs, inputs: this.#options.fields, github: { event_name: 'workflow_dispatch' } })
  }

  async #runApproved(id: string, job: Job): Promise<string> {
    const shown = this.#shown[id] as FakeJob
    if (REVIEWED.includes(job.environment ?? '')) {
      shown.status = 'waiting'
      const approver = await this.#approver(id, job.environment as string)
      if (!approver) return 'failure'
      this.#approvals.push(review(approver, 'approved', job.environment))
    }
    Object.assign(shown, { status: 'in_progress', steps: [{ name: 'Set up job' }] })
    const legs = this.#legsOf(job)
    for (const leg of legs) {
      const result = await this.#runLeg(id, leg, legs.length)
      this.#outputs[id] = result.outputs
      if (result.conclusion !== 'success') return result.conclusion
      // GitHub starts every leg of an approved job, but all after the first end immediately.
      if (this.#approvals.length) break
    }
    return 'success'
  }

  /** @returns undefined if the job is rejected */
  async #approver(id: string, environment: string): Promise<string | undefined> {
    const { approveAs } = this.#options
    this.#say(id, `waiting for approval of the environment ${environment}; brief: ${join(OUT, 'brief.md')}`)
    if (approveAs !== undefined) return approveAs === 'nobody' ? undefined : approveAs
    if (!process.stdin.isTTY)
      throw new InputError(
        'cli.invalid-option',
        'standard input is not a terminal. Set --approve-as to the name of a reviewer',
      )
    const terminal = createInterface({ input: process.stdin, output: process.stdout })
    try {
      return await terminal.question('Who approves? (enter a name, or nothing to reject) ', { signal: this.#signal })
    } finally {
      terminal.close()
    }
  }

  /** The legs of a follower's matrix, which an earlier job outputs. */
  #legsOf(job: Job): string[] {
    const [, needed, name] = /fromJSON\(needs\.([\w-]+)\.outputs\.([\w-]+)\)/.exec(JSON.stringify(job)) ?? []
    return job.strategy && needed && name ? JSON.parse(this.#outputs[needed]?.[name] ?? '[""]') : ['']
  }

  async #runLeg(id: string, leg: string, legs: number): Promise<JobResult> {
    const { workspace, fields, actor } = this.#options
    const secrets = secretsOf(this.#options.workflow)
    const result = await runJob(this.#workflow(), id, {
      inputs: fields,
      secrets,
      needs: this.#outputs,
      matrix: { leg },
      strategy: { 'job-total': String(legs) },
      replace: { 'actions/checkout': undefined, 'actions/upload-artifact': keep },
      workDir: join(OUT, 'jobs', `${id}${leg && `-${leg}`}`),
      run: {
        workspace,
        github: {
          token: TOKEN,
          api_url: this.#github.url,
          repository: REPOSITORY,
          job: id,
          run_id: this.#id,
          run_attempt: '1',
          actor,
          triggering_actor: actor,
        },
        secrets: [TOKEN, ...Object.values(secrets).filter(Boolean)],
        env: { MOLT_ACTIONS_WORKFLOWS: this.#options.again },
        signal: this.#signal,
        onLine: ({ group, kind, text }) => {
          if (group === undefined && kind !== 'debug' && text && !text.startsWith('Run ')) this.#say(id, text)
        },
      },
    })
    if (result.summary) writeFileSync(join(OUT, `${id}.md`), result.summary)
    return result
  }

  /** The workflow as given; with `--embedded`, its steps name a config file derived from the repository's. */
  #workflow(): Workflow {
    if (!this.#config) return this.#options.workflow
    const text = JSON.stringify(this.#options.workflow)
    return JSON.parse(text.replaceAll('"config":"molt-actions.yml"', `"config":${JSON.stringify(this.#config)}`))
  }

  #say(id: string, text: string): void {
    const seconds = ((performance.now() - this.#began) / 1000).toFixed(0).padStart(5)
    for (const line of text.split('\n')) console.log(`${seconds} s  ${id.padEnd(9)} ${line}`)
  }
}

function secretsOf(workflow: Workflow): Record<string, string> {
  const names = [...JSON.stringify(workflow).matchAll(/\bsecrets\.(\w+)/g)].map(([, name]) => name as string)
  return Object.fromEntries(names.map((name) => [name, process.env[name] ?? '']))
}

/** The repository's config file, changed to use the stand-in instead of MOLT. */
async function embeddedConfig(workspace: string): Promise<string> {
  const own = parse(readFileSync(join(workspace, 'molt-actions.yml'), 'utf8')) ?? {}
  const address = await freeAddress()
  const { 'bucket-path': _bucket, 'use-implicit-auth': _auth, mode: _mode, ...fetch } = own.fetch ?? {}
  const config = {
    ...own,
    common: { ...own.common, 'allow-insecure': true },
    setup: { embedded: true },
    fetch: {
      ...fetch,
      'local-path': join(OUT, 'files'),
      'local-path-listen-addr': address,
      'local-path-crdb-access-addr': address,
    },
  }
  const path = join(OUT, 'molt-actions.yml')
  writeFileSync(path, stringify(config))
  return path
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2))
  if (!options) {
    console.log(HELP)
    return 0
  }
  rmSync(OUT, { recursive: true, force: true })
  mkdirSync(OUT, { recursive: true })
  const cancel = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => cancel.abort())
  const github = await startGithub()
  github.environment = reviewed(1)
  github.cleanup = reviewed(1)
  github.others.set('rehearsal', limited(['main']))
  try {
    const config = options.embedded ? await embeddedConfig(options.workspace) : undefined
    const run = new Run(options, github, config, cancel.signal)
    await run.finished()
    const failed = Object.entries(run.results).filter(([, result]) => !['success', 'skipped'].includes(result))
    console.log(failed.length ? `\nfailed: ${failed.map(([id]) => id).join(', ')}` : '\nno job failed')
    console.log(`summaries and dossier: ${OUT}`)
    return failed.length ? 1 : 0
  } finally {
    github.close()
  }
}

main().then(
  (code) => {
    process.exitCode = code
  },
  (error) => {
    console.error(messageOf(error))
    process.exitCode = 2
  },
)
