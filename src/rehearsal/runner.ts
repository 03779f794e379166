import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { arch, platform, tmpdir } from 'node:os'
import { basename, join, relative, resolve } from 'node:path'
import { messageOf } from '../runtime/errors.ts'
import { type Annotation, type CommandTarget, commandReader, Masker, parseEntries, setEnv } from './commands.ts'
import {
  evaluateBoolean,
  evaluateCondition,
  evaluateMapping,
  evaluateString,
  isLocal,
  loadManifest,
  type Manifest,
  type NodeRuns,
  requireShell,
  type Scope,
  type Status,
  type Step,
} from './manifest.ts'
import { killOrphans, killOrphansNow, type Orphan, runProcess } from './process.ts'

export type { Annotation } from './commands.ts'
export type { Status } from './manifest.ts'
export type { Orphan } from './process.ts'

export type Phase = 'pre' | 'main' | 'post'
export type Outcome = Status | 'skipped'

export interface StepInfo {
  phase: Phase
  /** 0 for the action that was asked for, 1 for the steps of a composite one, and so on. */
  depth: number
  id?: string
  name: string
  /** What `uses` says; `run` for a script. */
  action: string
}

export interface StepResult extends StepInfo {
  outcome: Outcome
  /** The outcome after `continue-on-error`. */
  conclusion: Outcome
  /** All that the step has set, masked values included: steps see each other's outputs as they are. */
  outputs: Record<string, string>
  /** What it has saved for its post step, earlier phases included. */
  state: Record<string, string>
  annotations: Annotation[]
  /** Masked; empty when there is none, or when it was dropped for being over 1 MiB. */
  summary: string
  /** 128 + n when signal n has ended the process; null when there was no process. */
  exitCode: number | null
  /** Masked; of a longer log the last {@link LOG_LIMIT} characters. */
  log: string
  durationMs: number
}

export interface JobResult {
  conclusion: Status
  /** In the order in which they began; a composite step stands before its own steps. */
  steps: StepResult[]
  /** The action's outputs as another job would get them: empty ones and those that hold a masked value are left out. */
  outputs: Record<string, string>
  /** What GitHub would show for the action: at most 10 of each level. */
  annotations: Annotation[]
  summary: string
  /** What the action itself has saved (not the steps of a composite one). */
  state: Record<string, string>
  /** What GITHUB_PATH has added by the end. */
  path: string[]
  /** Processes that were still there at the end, and were killed. */
  orphans: Orphan[]
  /** Hides what the job has masked; outputs and state of steps hold it as it is. */
  mask(text: string): string
}

export interface LogLine {
  /** Undefined for lines that belong to the job. */
  step?: StepInfo
  kind: 'output' | 'group' | 'endgroup' | 'debug' | Annotation['level']
  /** Masked. */
  text: string
  /** The title of the group that the line stands in. */
  group?: string
}

export interface RunOptions {
  /** The folder with the action.yml. */
  dir: string
  /** The repository that `$/` means. */
  repo: string
  /** What `with:` would say. */
  inputs: Record<string, string>
  /** The job's `env:`. Of the caller's own environment only {@link PASS_THROUGH} reaches the steps. */
  env?: Record<string, string>
  /** What earlier steps of the job have added by GITHUB_PATH; the last one is searched first. */
  path?: string[]
  /** Masked from the first line on, as the secrets of a workflow are. */
  secrets?: string[]
  /** The node that runs JavaScript actions, whatever `using` says; by default the one that runs this. */
  node?: string
  /** GITHUB_WORKSPACE; by default an empty folder in `workDir`. */
  workspace?: string
  /** Holds RUNNER_TEMP (emptied first, unless `previous` is given) and the like, and is kept; by default a temporary folder that is removed. */
  workDir?: string
  /** RUNNER_TOOL_CACHE; by default a folder in `workDir`. */
  toolCache?: string
  /** Values of the `github` context, and so of GITHUB_* variables, such as `run_id`, `repository`, `sha`. */
  github?: Record<string, string>
  /** All by default. With `post` alone the post step runs as after the run that `previous` tells of. */
  phases?: Phase[]
  previous?: { state: Record<string, string>; conclusion: Status }
  /** Cancels the job. */
  signal?: AbortSignal
  /** Milliseconds that SIGINT and then SIGTERM are given; GitHub's by default. */
  grace?: readonly [sigint: number, sigterm: number]
  /** Milliseconds after a cancellation when everything is killed; GitHub's by default. */
  cancelTimeout?: number
  /** Shows debug lines, and sets RUNNER_DEBUG. */
  debug?: boolean
  onLine?: (line: LogLine) => void
  /** Awaited before a step that is going to run, and after one that ran. An error ends the job and is passed on. */
  beforeStep?: (step: StepInfo) => Promise<void> | void
  afterStep?: (step: StepResult) => Promise<void> | void
}

/** Variables of the machine that every process gets; all else comes from the job. */
export const PASS_THROUGH = words(`
  PATH HOME USER LOGNAME SHELL LANG LC_ALL LC_CTYPE TZ TMPDIR NODE_EXTRA_CA_CERTS SSL_CERT_FILE SSL_CERT_DIR
  HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy`)

/** How much of a step's log is kept, in characters. */
export const LOG_LIMIT = 4 << 20

const SUMMARY_LIMIT = 1024 * 1024
const MESSAGE_LIMIT = 4096
const ANNOTATION_LIMIT = 10
const GRACE = [7500, 2500] as const
const CANCEL_TIMEOUT = 5 * 60_000

/** Keys of the `github` context that are also GITHUB_* variables. */
const GITHUB_VARIABLES = new Set(
  words(`
  action action_path action_ref action_repository actor actor_id api_url base_ref env event_name event_path
  graphql_url head_ref job output path ref ref_name ref_protected ref_type repository repository_id
  repository_owner repository_owner_id retention_days run_attempt run_id run_number server_url sha state
  step_summary triggering_actor workflow workflow_ref workflow_sha workspace`),
)

function words(text: string): string[] {
  return text.trim().split(/\s+/)
}

type StepContext = Pick<StepResult, 'outputs' | 'outcome' | 'conclusion'>

/** One run of {@link runAction}; what all steps share. */
interface Job {
  options: RunOptions
  root: Step
  temp: string
  github: Record<string, unknown>
  runner: Record<string, string>
  /** The job's variables and those that steps have added by GITHUB_ENV. */
  env: Record<string, string>
  /** What steps have added by GITHUB_PATH; the last one is searched first. */
  path: string[]
  status: Status
  cancelled: boolean
  /** Aborted when the time after a cancellation is over. */
  dead: AbortController
  masker: Masker
  steps: StepResult[]
  /** Steps that have begun and have a post phase. */
  posts: Set<Step>
  states: Map<Step, Record<string, string>>
  /** The `steps` context of each composite step's main phase, which its post phase reads again. */
  contexts: Map<Step, Map<string, StepContext>>
  trackingId: string
}

/** The place that a step runs in: the job, or a composite step. */
interface Frame {
  depth: number
  inputs: Record<string, string> | null
  /** Read by expressions, and written by steps; not the same in a post phase. */
  steps: Map<string, StepContext>
  record: Map<string, StepContext>
  /** The `env:` of the composite steps around, which wins over GITHUB_ENV. */
  overrides: Record<string, string>
  github: Record<string, string>
  status(): Status
}

/** One phase of one step while it runs. */
interface Run {
  job: Job
  frame: Frame
  step: Step
  phase: Phase
  result: StepResult
  env: Record<string, string>
  overrides: Record<string, string>
  github: Record<string, string>
  group: string | undefined
  failed: boolean
  cancelled: boolean
  cancel: AbortController
}

/**
 * Runs an action, pre and post steps included, as GitHub's runner would run it as the only step of a job.
 *
 * Known differences: there is no server (no ACTIONS_RUNTIME_* or ID token variables, no problem matchers, no `hashFiles`), and
 * `secrets`, docker actions and actions of other repositories are errors.
 * @throws UserError when the action.yml, or one that it uses, is faulty or asks for what is not supported; nothing has run then
 */
export async function runAction(options: RunOptions): Promise<JobResult> {
  const uses = `$/${relative(options.repo, options.dir)}`
  const root: Step = { id: 'action', if: 'success()', uses, action: loadManifest(options.dir, options.repo) }
  const workDir = options.workDir ?? mkdtempSync(join(tmpdir(), 'molt-actions-job-'))
  const job = createJob(options, root, resolve(workDir))
  const onExit = () => killOrphansNow(job.trackingId)
  process.on('exit', onExit)
  const disarm = armCancellation(job)
  let orphans: Orphan[] = []
  try {
    await runPhases(job)
  } finally {
    disarm()
    orphans = await killOrphans(job.trackingId)
    process.off('exit', onExit)
    if (!options.workDir) rmSync(workDir, { recursive: true, force: true })
  }
  return resultOf(job, orphans)
}

function createJob(options: RunOptions, root: Step, workDir: string): Job {
  const temp = join(workDir, '_temp')
  const workspace = options.workspace ? resolve(options.workspace) : join(workDir, 'workspace')
  const toolCache = options.toolCache ? resolve(options.toolCache) : join(workDir, '_tool')
  if (!options.previous) rmSync(temp, { recursive: true, force: true })
  for (const dir of [join(temp, '_runner_file_commands'), workspace, toolCache]) mkdirSync(dir, { recursive: true })
  const eventPath = join(temp, 'event.json')
  writeFileSync(eventPath, '{}\n')
  const masker = new Masker()
  for (const secret of options.secrets ?? []) masker.add(secret)
  return {
    options,
    root,
    temp,
    github: { ...githubContext(options.repo), workspace, event_path: eventPath, event: {}, ...options.github },
    runner: runnerContext(temp, workspace, toolCache, options.debug ?? false),
    env: { ...options.env },
    path: [...(options.path ?? [])],
    status: options.previous?.conclusion ?? 'success',
    cancelled: false,
    dead: new AbortController(),
    masker,
    steps: [],
    posts: new Set(),
    states: new Map([[root, { ...options.previous?.state }]]),
    contexts: new Map(),
    trackingId: `github_${randomUUID()}`,
  }
}

function githubContext(repo: string): Record<string, string> {
  const now = String(Date.now())
  return {
    action: '__self',
    actor: 'local',
    api_url: 'https://api.github.com',
    event_name: 'workflow_dispatch',
    graphql_url: 'https://api.github.com/graphql',
    job: 'rehearsal',
    ref: 'refs/heads/main',
    ref_name: 'main',
    ref_protected: 'false',
    ref_type: 'branch',
    repository: `local/${basename(resolve(repo))}`,
    repository_owner: 'local',
    retention_days: '90',
    run_attempt: '1',
    run_id: now,
    run_number: '1',
    server_url: 'https://github.com',
    sha: '0'.repeat(40),
    triggering_actor: 'local',
    workflow: 'rehearsal',
  }
}

function runnerContext(temp: string, workspace: string, toolCache: string, debug: boolean): Record<string, string> {
  return {
    os: platform() === 'darwin' ? 'macOS' : 'Linux',
    arch: { x64: 'X64', arm64: 'ARM64', arm: 'ARM' }[arch() as string] ?? arch().toUpperCase(),
    name: 'local',
    environment: 'self-hosted',
    temp,
    workspace,
    tool_cache: toolCache,
    ...(debug ? { debug: '1' } : {}),
  }
}

function armCancellation(job: Job): () => void {
  const { signal, cancelTimeout = CANCEL_TIMEOUT } = job.options
  let timer: NodeJS.Timeout | undefined
  const cancel = () => {
    job.cancelled = true
    job.status = 'cancelled'
    timer = setTimeout(() => job.dead.abort(), cancelTimeout)
  }
  if (signal?.aborted) cancel()
  else signal?.addEventListener('abort', cancel, { once: true })
  return () => {
    clearTimeout(timer)
    signal?.removeEventListener('abort', cancel)
  }
}

async function runPhases(job: Job): Promise<void> {
  const { phases = ['pre', 'main', 'post'] } = job.options
  const steps = new Map<string, StepContext>()
  const status = () => job.status
  const frame: Frame = { depth: 0, inputs: null, steps, record: steps, overrides: {}, github: {}, status }
  if (phases.includes('pre') && hasPre(job.root)) await runStep(job, frame, job.root, 'pre')
  if (phases.includes('main')) await runStep(job, frame, job.root, 'main')
  else if (hasPost(job.root)) job.posts.add(job.root)
  if (phases.includes('post') && job.posts.has(job.root)) await runStep(job, frame, job.root, 'post')
}

function resultOf(job: Job, orphans: Orphan[]): JobResult {
  const annotations = job.steps.flatMap((step) => step.annotations)
  const main = job.steps.find((step) => step.depth === 0 && step.phase === 'main')
  const outputs: Record<string, string> = {}
  for (const [name, value] of Object.entries(main?.outputs ?? {})) {
    if (value === '') continue
    if (!job.masker.holds(value)) outputs[name] = value
    else {
      const message = `Skip output '${name}' since it may contain secret.`
      annotations.push({ level: 'warning', message })
      job.options.onLine?.({ kind: 'warning', text: message })
    }
  }
  for (const { pid, cmd } of orphans)
    job.options.onLine?.({ kind: 'output', text: job.masker.mask(`Terminate orphan process: pid (${pid}) (${cmd})`) })
  return {
    conclusion: job.status,
    steps: job.steps,
    outputs,
    annotations: annotations.filter(firstOfEachLevel()),
    summary: job.steps
      .map((step) => step.summary)
      .filter(Boolean)
      .join('\n'),
    state: { ...job.states.get(job.root) },
    path: job.path,
    orphans: orphans.map(({ pid, cmd }) => ({ pid, cmd: job.masker.mask(cmd) })),
    mask: (text) => job.masker.mask(text),
  }
}

function firstOfEachLevel(): (annotation: Annotation) => boolean {
  const counts = { error: 0, warning: 0, notice: 0 }
  return ({ level }) => counts[level]++ < ANNOTATION_LIMIT
}

function hasPre({ action }: Step): boolean {
  if (action?.runs.kind === 'composite') return action.runs.steps.some((step) => !isLocal(step) && hasPre(step))
  return action?.runs.pre !== undefined
}

/** A local action that has not been read yet may have one. */
function hasPost(step: Step): boolean {
  if (!step.uses) return false
  if (!step.action) return isLocal(step)
  if (step.action.runs.kind === 'composite') return step.action.runs.steps.some(hasPost)
  return step.action.runs.post !== undefined
}

/** Runs one phase of a step, or skips it. False: the condition itself is faulty, and no step after this one runs. */
async function runStep(job: Job, frame: Frame, step: Step, phase: Phase): Promise<[Outcome, goOn: boolean]> {
  const run = openRun(job, frame, step, phase)
  const started = performance.now()
  const unwatch = watchCancellation(run)
  let ran = false
  let goOn = true
  try {
    evaluateEnv(run)
    run.result.name = displayName(run)
    // Null: faulty.
    const condition = job.dead.signal.aborted ? false : conditionOf(run)
    goOn = condition !== null
    if (condition) {
      ran = true
      await job.options.beforeStep?.(infoOf(run.result))
      await execute(run)
    }
    conclude(run, condition === false)
  } finally {
    unwatch()
    run.result.durationMs = Math.round(performance.now() - started)
  }
  if (ran) await job.options.afterStep?.(run.result)
  return [run.result.conclusion, goOn]
}

function openRun(job: Job, frame: Frame, step: Step, phase: Phase): Run {
  const state = job.states.get(step) ?? {}
  job.states.set(step, state)
  const result: StepResult = {
    phase,
    depth: frame.depth,
    ...(step.id && frame.depth > 0 ? { id: step.id } : {}),
    name: '',
    action: step.uses ?? 'run',
    outcome: 'success',
    conclusion: 'success',
    outputs: {},
    state,
    annotations: [],
    summary: '',
    exitCode: null,
    log: '',
    durationMs: 0,
  }
  job.steps.push(result)
  const run: Run = {
    job,
    frame,
    step,
    phase,
    result,
    env: { ...job.env, ...frame.overrides },
    overrides: { ...frame.overrides },
    github: { ...frame.github, ...actionOrigin(job, step) },
    group: undefined,
    failed: false,
    cancelled: false,
    cancel: new AbortController(),
  }
  result.name = displayName(run)
  return run
}

function infoOf({ phase, depth, id, name, action }: StepResult): StepInfo {
  return { phase, depth, ...(id ? { id } : {}), name, action }
}

function actionOrigin({ github }: Job, step: Step): Record<string, string> {
  const own = step.uses !== undefined && !isLocal(step)
  return { action_repository: own ? String(github.repository) : '', action_ref: own ? String(github.sha) : '' }
}

/** Best effort: a name whose expression fails stays as it is written. */
function displayName(run: Run): string {
  const { step, job, frame } = run
  const prefix = { pre: 'Pre ', main: '', post: 'Post ' }[run.phase]
  if (frame.depth === 0) return `${prefix}${step.action?.name}`
  const token = step.name ?? step.run?.script
  try {
    const text = token ? evaluateString(token, scopeOf(run)) : (step.uses ?? '')
    const line = job.masker.mask(firstLine(text))
    return `${prefix}${step.name ? '' : 'Run '}${line}`
  } catch {
    return String(token)
  }
}

function firstLine(text: string): string {
  return text.trimStart().split(/[\r\n]/)[0] as string
}

function scopeOf(run: Run, status: Status = run.frame.status()): Scope {
  const { job, frame, env, github } = run
  return {
    contexts: {
      github: { ...job.github, ...github, action_status: status },
      inputs: frame.inputs,
      steps: Object.fromEntries(frame.steps),
      env,
      runner: job.runner,
      job: { status: job.status },
      strategy: { 'fail-fast': true, 'job-index': 0, 'job-total': 1, 'max-parallel': 1 },
      matrix: null,
    },
    status,
    cancelled: job.cancelled,
  }
}

/** An `env:` that cannot be evaluated makes the step red, and yet does not keep it from running: so it is on GitHub. */
function evaluateEnv(run: Run): void {
  try {
    const own = evaluateMapping(run.step.env, scopeOf(run))
    Object.assign(run.env, own)
    Object.assign(run.overrides, own)
  } catch (error) {
    fail(run, messageOf(error))
  }
}

function conditionText({ step, phase, frame }: Run): string {
  if (phase === 'main') return frame.depth === 0 ? 'success()' : step.if
  const runs = step.action?.runs
  if (runs?.kind !== 'node') return 'always()'
  return phase === 'pre' ? runs.preIf : runs.postIf
}

function conditionOf(run: Run): boolean | null {
  try {
    return evaluateCondition(conditionText(run), scopeOf(run))
  } catch (error) {
    fail(run, messageOf(error))
    return null
  }
}

/** A cancellation reaches the running step only if its condition no longer holds then: `always()` goes on undisturbed. */
function watchCancellation(run: Run): () => void {
  const { signal } = run.job.options
  if (!signal || signal.aborted) return () => {}
  const onAbort = () => {
    try {
      if (evaluateCondition(conditionText(run), scopeOf(run, 'cancelled'))) return
    } catch (error) {
      annotate(run, { level: 'error', message: messageOf(error) })
    }
    run.cancel.abort()
  }
  signal.addEventListener('abort', onAbort, { once: true })
  return () => signal.removeEventListener('abort', onAbort)
}

function conclude(run: Run, skipped: boolean): void {
  const { result, step, frame, job } = run
  result.outcome = run.cancelled ? 'cancelled' : run.failed ? 'failure' : 'success'
  if (skipped) result.outcome = job.dead.signal.aborted ? 'cancelled' : 'skipped'
  result.conclusion = result.outcome === 'failure' && mayContinue(run) ? 'success' : result.outcome
  result.log = result.log.slice(-LOG_LIMIT)
  const { outputs, outcome, conclusion } = result
  if (step.id) frame.record.set(step.id, { outputs, outcome, conclusion })
  if (frame.depth === 0 && conclusion === 'failure') job.status = merge(job.status, 'failure')
}

function mayContinue(run: Run): boolean {
  try {
    return evaluateBoolean(run.step.continueOnError, scopeOf(run))
  } catch (error) {
    fail(run, `The step failed, and so did its continue-on-error: ${messageOf(error)}`)
    return false
  }
}

function merge(current: Status, coming: Outcome): Status {
  if (current === 'cancelled' || coming === 'skipped') return current
  return coming === 'success' ? current : coming
}

function fail(run: Run, message: string): void {
  annotate(run, { level: 'error', message })
  run.failed = true
}

async function execute(run: Run): Promise<void> {
  const { step, job, phase } = run
  try {
    if (step.uses && !step.action)
      step.action = loadManifest(resolve(String(job.github.workspace), step.uses), job.options.repo)
    if (phase === 'main' && isLocal(step) && hasPre(step))
      annotate(run, {
        level: 'warning',
        message: `\`pre\` execution is not supported for local action from '${step.uses}'`,
      })
    if (hasPost(step) && phase !== 'post') job.posts.add(step)
    if (step.action?.runs.kind === 'composite') await runComposite(run, step.action, step.action.runs.steps)
    else await withFiles(run, () => (step.action ? runNode(run, step.action) : runScript(run)))
    if (!run.cancel.signal.aborted || step.action?.runs.kind === 'composite') return
    run.cancelled = true
    annotate(run, { level: 'error', message: 'The operation was canceled.' })
  } catch (error) {
    fail(run, messageOf(error))
  }
}

async function runComposite(run: Run, action: Manifest, all: Step[]): Promise<void> {
  const { job, step, phase, frame } = run
  const inputs = evaluateInputs(run, action)
  printHeader(run, `Run ${step.uses}`, inputs)
  const record = new Map<string, StepContext>()
  if (phase === 'main') job.contexts.set(step, record)
  let status: Status = 'success'
  const inner: Frame = {
    depth: frame.depth + 1,
    inputs,
    steps: phase === 'post' ? (job.contexts.get(step) ?? record) : record,
    record,
    overrides: run.overrides,
    github: { ...run.github, action_path: action.dir },
    status: () => (phase === 'main' ? status : job.status),
  }
  const steps = {
    pre: () => all.filter((each) => !isLocal(each) && hasPre(each)),
    main: () => all,
    post: () => all.filter((each) => job.posts.has(each)).reverse(),
  }[phase]()
  for (const each of steps) {
    const [conclusion, goOn] = await runStep(job, inner, each, phase)
    status = merge(status, conclusion)
    if (!goOn) break
  }
  run.failed ||= status === 'failure'
  run.cancelled ||= status === 'cancelled'
  // GitHub evaluates them in pre and post phases too, without the steps; what comes of it reaches nobody, an error does.
  const scope = scopeOf(run)
  Object.assign(scope.contexts, { inputs, steps: Object.fromEntries(record) })
  for (const { id, value } of action.outputs) {
    const text = value ? evaluateString(value, scope) : undefined
    if (text !== undefined && phase === 'main') run.result.outputs[id] = text
  }
}

async function runNode(run: Run, action: Manifest): Promise<void> {
  const { job, phase } = run
  const runs = action.runs as NodeRuns
  const inputs = evaluateInputs(run, action)
  printHeader(run, `Run ${run.step.uses}`, inputs)
  const file = resolve(action.dir, runs[phase] ?? '')
  if (!existsSync(file)) throw new Error(`File not found: '${file}'`)
  const variables: Record<string, string> = {}
  for (const [name, value] of Object.entries(inputs))
    variables[`INPUT_${name.replaceAll(' ', '_').toUpperCase()}`] = value
  const code = await runChild(run, job.options.node ?? process.execPath, [file], variables)
  debug(run, `Node Action run completed with exit code ${code}`)
  if (code !== 0) run.failed = true
}

async function runScript(run: Run): Promise<void> {
  const { job, step } = run
  const { script, shell, workingDirectory } = step.run as NonNullable<Step['run']>
  const scope = scopeOf(run)
  const [contents, name, folder] = [script, shell, workingDirectory].map((token) => evaluateString(token, scope))
  requireShell(name as string)
  const file = join(job.temp, `${randomUUID()}.sh`)
  writeFileSync(file, contents as string)
  const args = name === 'bash' ? ['--noprofile', '--norc', '-e', '-o', 'pipefail', file] : ['-e', file]
  printHeader(
    run,
    `Run ${firstLine(contents as string)}`,
    {},
    contents as string,
    `${name} ${args.slice(0, -1).join(' ')} {0}`,
  )
  const code = await runChild(run, name as string, args, {}, folder)
  if (code !== 0) fail(run, `Process completed with exit code ${code}.`)
}

/** What `with` says, and the defaults of what it does not. Names are not told apart by case. */
function evaluateInputs(run: Run, action: Manifest): Record<string, string> {
  const { job, step } = run
  const scope = scopeOf(run)
  const inputs = step === job.root ? { ...job.options.inputs } : evaluateMapping(step.with, scope)
  const given = new Map(Object.keys(inputs).map((name) => [name.toLowerCase(), name]))
  for (const { id, deprecation, default: fallback } of action.inputs) {
    if (!given.delete(id.toLowerCase())) inputs[id] = evaluateString(fallback, scope)
    else if (deprecation)
      annotate(run, { level: 'warning', message: `Input '${id}' has been deprecated with message: ${deprecation}` })
  }
  if (given.size > 0) {
    const [unexpected, valid] = [[...given.values()], action.inputs.map(({ id }) => id)].map((names) =>
      names.join("', '"),
    )
    annotate(run, { level: 'warning', message: `Unexpected input(s) '${unexpected}', valid inputs are ['${valid}']` })
  }
  return inputs
}

function printHeader(run: Run, title: string, inputs: Record<string, string>, script?: string, shell?: string): void {
  const given = Object.entries(inputs).filter(([, value]) => value !== '')
  const output = (text: string) => write(run, text)
  if (run.phase === 'post') {
    output('Post job cleanup.')
    return
  }
  output(`##[group]${title}`)
  for (const line of script?.replace(/\n+$/, '').split('\n') ?? []) output(line)
  if (shell) output(`shell: ${shell}`)
  if (given.length > 0) output('with:')
  for (const [name, value] of given) output(`  ${name}: ${value}`)
  if (Object.keys(run.env).length > 0) output('env:')
  for (const [name, value] of Object.entries(run.env)) output(`  ${name}: ${value}`)
  output('##[endgroup]')
}

async function runChild(
  run: Run,
  file: string,
  args: string[],
  variables: Record<string, string>,
  folder = '',
): Promise<number> {
  const { job } = run
  // Cancelled while a hook was awaited: there is nothing to interrupt.
  if (run.cancel.signal.aborted || job.dead.signal.aborted) return 130
  const isCommand = commandReader(targetOf(run))
  const code = await runProcess({
    file,
    args,
    cwd: resolve(String(job.github.workspace), folder),
    env: environmentOf(run, variables),
    onLine: (line) => {
      if (!isCommand(line)) write(run, line)
    },
    cancel: run.cancel.signal,
    kill: job.dead.signal,
    grace: job.options.grace ?? GRACE,
  })
  run.result.exitCode = code
  return code
}

function environmentOf(run: Run, variables: Record<string, string>): Record<string, string> {
  const { job } = run
  const env: Record<string, string> = {}
  for (const name of PASS_THROUGH) if (process.env[name] !== undefined) env[name] = process.env[name]
  Object.assign(env, run.env)
  for (const [name, value] of Object.entries(run.result.state)) env[`STATE_${name}`] = value
  Object.assign(env, variables)
  env.PATH = [...job.path.toReversed(), env.PATH ?? ''].filter(Boolean).join(':')
  for (const [key, value] of Object.entries({ ...job.github, ...run.github }))
    if (GITHUB_VARIABLES.has(key)) env[`GITHUB_${key.toUpperCase()}`] = String(value)
  for (const [key, value] of Object.entries(job.runner)) env[`RUNNER_${key.toUpperCase()}`] = value
  env.GITHUB_ACTIONS = 'true'
  env.CI ??= 'true'
  env.RUNNER_TRACKING_ID = job.trackingId
  return env
}

/** What to do with each of the files that a step writes to, in the runner's order. */
const FILE_COMMANDS: Record<string, (run: Run, file: string, target: CommandTarget) => void> = {
  path: (_run, file, target) => {
    for (const line of readFileSync(file, 'utf8').split(/\r\n|\n|\r/)) if (line) target.addPath(line)
  },
  env: (_run, file, target) => {
    for (const [name, value] of entries(file)) setEnv(target, name, value, 'the file $GITHUB_ENV')
  },
  step_summary: readSummary,
  state: (_run, file, target) => {
    for (const [name, value] of entries(file)) target.saveState(name, value)
  },
  output: (_run, file, target) => {
    for (const [name, value] of entries(file)) target.setOutput(name, value)
  },
}

async function withFiles(run: Run, work: () => Promise<void>): Promise<void> {
  const suffix = randomUUID()
  const names = Object.keys(FILE_COMMANDS)
  const fileOf = (name: string) => join(run.job.temp, '_runner_file_commands', `${name}_${suffix}`)
  for (const name of names) {
    writeFileSync(fileOf(name), '')
    run.github[name] = fileOf(name)
  }
  try {
    await work()
  } finally {
    for (const name of names) readFileCommand(run, name, fileOf(name))
  }
}

function readFileCommand(run: Run, name: string, file: string): void {
  try {
    if (!existsSync(file)) debug(run, `File does not exist '${file}'`)
    else FILE_COMMANDS[name]?.(run, file, targetOf(run))
  } catch (error) {
    fail(run, `Unable to process file command '${name}' successfully.`)
    fail(run, messageOf(error))
  }
  rmSync(file, { force: true })
}

function entries(file: string): Iterable<[string, string]> {
  return parseEntries(readFileSync(file, 'utf8'))
}

function readSummary(run: Run, file: string): void {
  const { size } = statSync(file)
  if (size > SUMMARY_LIMIT) {
    const [limit, got] = [SUMMARY_LIMIT, size].map((bytes) => Math.floor(bytes / 1024))
    const message = `$GITHUB_STEP_SUMMARY upload aborted, supports content up to a size of ${limit}k, got ${got}k.`
    annotate(run, { level: 'error', message })
  } else if (size > 0) {
    const lines = readFileSync(file, 'utf8').split(/\r\n|\n|\r/)
    run.result.summary = lines.map((line) => run.job.masker.mask(line)).join('\n')
  }
}

function targetOf(run: Run): CommandTarget {
  const { job, result } = run
  return {
    workspace: String(job.github.workspace),
    env: (name) => run.env[name],
    echo: job.options.debug ?? false,
    output: (text) => write(run, text),
    debug: (text) => debug(run, text),
    annotate: (annotation) => annotate(run, annotation),
    mask: (value) => job.masker.add(value),
    setOutput: (name, value) => {
      result.outputs[requireName(name)] = value
    },
    saveState: (name, value) => {
      result.state[requireName(name)] = value
    },
    setEnv: (name, value) => {
      job.env[requireName(name)] = value
      run.env[name] = value
    },
    addPath: (path) => {
      job.path = [...job.path.filter((each) => each !== path), path]
    },
    fail: () => {
      run.failed = true
    },
  }
}

function requireName(name: string): string {
  if (!name) throw new Error('The name before = must not be empty.')
  return name
}

function annotate(run: Run, annotation: Annotation): void {
  const message = run.job.masker.mask(annotation.message).slice(0, MESSAGE_LIMIT)
  run.result.annotations.push({ ...annotation, message })
  if (message) write(run, `##[${annotation.level}]${message}`)
}

function debug(run: Run, text: string): void {
  if (run.job.options.debug) write(run, `##[debug]${text}`)
}

/** Every line of a step's log comes through here, where it is masked. */
function write(run: Run, raw: string): void {
  const { job, result } = run
  const text = job.masker.mask(raw)
  result.log = `${result.log}${text}\n`
  if (result.log.length > 2 * LOG_LIMIT) result.log = result.log.slice(-LOG_LIMIT)
  const [, marker, rest] = /^##\[(group|endgroup|error|warning|notice|debug)\](.*)$/s.exec(text) ?? []
  const kind = (marker ?? 'output') as LogLine['kind']
  if (kind === 'group') run.group = rest as string
  if (kind === 'endgroup') run.group = undefined
  const group = run.group !== undefined && kind !== 'group' ? { group: run.group } : {}
  job.options.onLine?.({ step: infoOf(result), kind, text: marker ? (rest as string) : text, ...group })
}
