// Runs a workflow's jobs one by one in the local runner. Each job becomes a composite action with the job's steps.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { data, Evaluator, Lexer, Parser } from '@actions/expressions'
import { truthy } from '@actions/expressions/result'
import { parse, stringify } from 'yaml'
import { type JobResult, type RunOptions, runAction } from './runner.ts'

const REPO = resolve(import.meta.dirname, '../..')

export interface Step {
  shell?: string
  id?: string
  name?: string
  uses?: string
  run?: string
  if?: string
  env?: Record<string, string>
  with?: Record<string, unknown>
}
export interface Job {
  name?: string
  needs?: string | string[]
  if?: string
  uses?: string
  with?: Record<string, unknown>
  outputs?: Record<string, string>
  steps?: Step[]
  environment?: string
  strategy?: Record<string, unknown>
  secrets?: unknown
  'runs-on'?: string
  permissions?: Record<string, string>
  'timeout-minutes'?: number
}
export type Inputs = Record<string, { required?: boolean; type?: string; default?: unknown; options?: string[] }>
export interface Workflow {
  on: { workflow_dispatch?: { inputs: Inputs }; workflow_call?: { inputs: Inputs } }
  env?: Record<string, string>
  concurrency?: unknown
  permissions?: unknown
  jobs: Record<string, Job>
}

export function readWorkflow(path: string): Workflow {
  return parse(readFileSync(path, 'utf8')) as Workflow
}

export const needsOf = (job: Job): string[] => [job.needs ?? []].flat()

/** Whether a job's `if` holds. */
export function holds(condition: string, contexts: Record<string, unknown>, cancelled = false): boolean {
  return truthy(value(condition.replace(/^\$\{\{|\}\}$/g, ''), contexts, cancelled))
}

/** Replaces the expressions in a text with their values. */
export function evaluate(text: string, contexts: Record<string, unknown>): string {
  return text.replace(/\$\{\{(.*?)\}\}/g, (_, expression: string) => value(expression, contexts).coerceString())
}

function value(expression: string, contexts: Record<string, unknown>, cancelled = false): data.ExpressionData {
  const info = { name: 'cancelled', description: '', minArgs: 0, maxArgs: 0 }
  const call = () => new data.BooleanData(cancelled)
  const ast = new Parser(new Lexer(expression).lex().tokens, Object.keys(contexts), [info]).parse()
  const functions = new Map([['cancelled', { ...info, call }]])
  return new Evaluator(ast, toData(contexts) as data.Dictionary, functions).evaluate()
}

function toData(value: unknown): data.ExpressionData {
  if (typeof value === 'string') return new data.StringData(value)
  if (typeof value === 'boolean') return new data.BooleanData(value)
  const pairs = Object.entries(value as object).map(([key, each]) => ({ key, value: toData(each) }))
  return new data.Dictionary(...pairs)
}

/** Repository → replacement for steps that use its actions; undefined leaves such a step out. */
type Replacements = Record<string, ((step: Step) => Pick<Step, 'run' | 'env'>) | undefined>

/** Replaces actions/upload-artifact: a missing file is an error, and the digest becomes an output. */
export const upload = ({ with: given = {} }: Step): Pick<Step, 'run' | 'env'> => ({
  env: { NAME: String(given.name), FILES: String(given.path) },
  run: 'ls $FILES && echo "$NAME" > "$RUNNER_TEMP/artifact" && echo "artifact-digest=$(cat $FILES | sha256sum | cut -c1-64)" >> "$GITHUB_OUTPUT"',
})

export interface JobOptions {
  inputs?: Record<string, string>
  secrets?: Record<string, string>
  vars?: Record<string, string>
  /** Outputs of the jobs in `needs`. */
  needs?: Record<string, Record<string, string>>
  matrix?: Record<string, string>
  strategy?: Record<string, string>
  replace?: Replacements
  /** Folder for the job's files, which are kept. Use one per job, because every job has its own runner. */
  workDir: string
  run?: Partial<RunOptions>
}

/**
 * Runs a job's steps with the conditions, ids, inputs and outputs in the file. Contexts that a local action cannot see
 * (`secrets`, `needs`, `vars`, `matrix`, `strategy`) become inputs.
 */
export function runJob(workflow: Workflow, id: string, options: JobOptions): Promise<JobResult> {
  const job = workflow.jobs[id] as Job
  const { secrets = {}, vars = {}, matrix = {}, strategy = {}, needs = {} } = options
  const outside: Record<string, string> = {}
  for (const [context, values] of Object.entries({ secrets, vars, matrix, strategy }))
    for (const [name, value] of Object.entries(values)) outside[`${context}-${name}`] = value
  for (const [needed, outputs] of Object.entries(needs))
    for (const [name, value] of Object.entries(outputs)) outside[`needs-${needed}-${name}`] = value
  const text = JSON.stringify({ steps: stepsOf(job, options.replace ?? {}), outputs: job.outputs ?? {} })
    .replace(/\b(secrets|vars|matrix|strategy)\.([\w-]+)/g, (_, context, name) =>
      declare(outside, `${context}-${name}`),
    )
    .replace(/\bneeds\.([\w-]+)\.outputs\.([\w-]+)/g, (_, job, name) => declare(outside, `needs-${job}-${name}`))
  const { steps, outputs } = JSON.parse(text) as { steps: Step[]; outputs: Record<string, string> }
  const declared = workflow.on.workflow_call?.inputs ?? workflow.on.workflow_dispatch?.inputs ?? {}
  const inputs = Object.fromEntries(Object.entries(declared).map(([name, each]) => [name, String(each.default ?? '')]))
  const given = { ...inputs, ...options.inputs, ...outside }
  const action = {
    name: id,
    description: `The job ${id}`,
    inputs: Object.fromEntries(Object.keys(given).map((name) => [name, { description: name, required: false }])),
    outputs: Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, { description: name, value }])),
    runs: { using: 'composite', steps },
  }
  const dir = join(mkdtempSync(join(mkdirs(options.workDir), 'job-')), id)
  writeFileSync(join(mkdirs(dir), 'action.yml'), stringify(action))
  return runAction({
    dir,
    repo: REPO,
    inputs: given,
    secrets: Object.values(secrets).filter(Boolean),
    workDir: options.workDir,
    ...options.run,
    env: { ...workflow.env, ...options.run?.env },
  })
}

/** Declares an input for a value from an outside context. Unset names are empty, as on GitHub. */
function declare(outside: Record<string, string>, name: string): string {
  outside[name] ??= ''
  return `inputs.${name}`
}

function stepsOf(job: Job, replace: Replacements): Step[] {
  return (job.steps ?? []).flatMap((step) => {
    if (step.run) return [{ ...step, shell: 'bash' }]
    if (/^[$.]\//.test(step.uses ?? '')) return [step]
    const uses = here(step.uses ?? '')
    if (uses) return [{ ...step, uses }]
    const name = step.uses?.split('@')[0] as string
    if (!(name in replace)) throw new Error(`no replacement for ${name}`)
    const { uses: _uses, with: _with, ...kept } = step
    const other = replace[name]
    return other ? [{ ...kept, ...other(step), shell: 'bash' }] : []
  })
}

/** The path in this checkout of an action named by repository and commit; undefined for other people's actions. */
function here(uses: string): string | undefined {
  const [, name] = /^[\w.-]+\/[\w.-]+\/(actions\/[\w-]+)@[0-9a-f]{40}$/.exec(uses) ?? []
  if (name && existsSync(join(REPO, name, 'action.yml'))) return `$/${name}`
  return /^OWNER\/REPO@0{40}$/.test(uses) ? './' : undefined
}

function mkdirs(path: string): string {
  if (!existsSync(path)) mkdirSync(path, { recursive: true })
  return path
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), 'molt-actions-jobs-'))
}
