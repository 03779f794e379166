import { randomUUID } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { messageOf } from '../../src/runtime/errors.ts'
import {
  type Frame,
  type Job,
  LOG_LIMIT,
  type Outcome,
  type Phase,
  type Run,
  type StepContext,
  type StepResult,
} from './job.ts'
import {
  evaluateBoolean,
  evaluateCondition,
  evaluateMapping,
  evaluateString,
  hasPost,
  hasPre,
  isLocal,
  loadManifest,
  type Manifest,
  type NodeRuns,
  requireShell,
  type Scope,
  type Status,
  type Step,
} from './manifest.ts'
import { annotate, debug, fail, infoOf, printHeader, runChild, withFiles } from './step-io.ts'

/**
 * Runs one phase of a step, or skips it.
 * @returns false for `goOn` if the condition itself is faulty, so no later step runs
 */
export async function runStep(job: Job, frame: Frame, step: Step, phase: Phase): Promise<[Outcome, goOn: boolean]> {
  const run = openRun(job, frame, step, phase)
  const started = performance.now()
  const unwatch = watchCancellation(run)
  let ran = false
  let goOn = true
  try {
    evaluateEnv(run)
    run.result.name = displayName(run)
    // Null means that the condition is faulty.
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

function actionOrigin({ github }: Job, step: Step): Record<string, string> {
  const own = step.uses !== undefined && !isLocal(step)
  return { action_repository: own ? String(github.repository) : '', action_ref: own ? String(github.sha) : '' }
}

/** The step's name for the log. A name whose expression fails stays as written. */
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

/** Evaluates `env:`. As on GitHub, an error fails the step, but the step still runs. */
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

/** Cancels a running step only if its condition no longer holds: with `always()` it continues undisturbed. */
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
  // GitHub also evaluates the outputs in pre and post phases, without the `steps` context. Only errors have an effect
  // there.
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
  const code = await runChild(
    run,
    job.options.node ?? process.env.MOLT_ACTIONS_NODE ?? process.execPath,
    [file],
    variables,
  )
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

/** The values of `with`, and defaults for all other inputs. Names are case-insensitive. */
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
