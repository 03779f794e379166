import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import type { Annotation } from './commands.ts'
import { createJob, type Frame, type Job, type JobResult, type RunOptions, type StepContext } from './job.ts'
import { hasPost, hasPre, loadManifest, type Step } from './manifest.ts'
import { killOrphans, killOrphansNow, type Orphan } from './process.ts'
import { runStep } from './step.ts'

export type { JobResult, LogLine, Phase, RunOptions, StepResult } from './job.ts'

const ANNOTATION_LIMIT = 10
const CANCEL_TIMEOUT = 5 * 60_000

/**
 * Runs an action with its pre and post steps, as GitHub's runner would run it as the only step of a job.
 *
 * Known differences: there is no server (no ACTIONS_RUNTIME_* or ID token variables, no problem matchers, no
 * `hashFiles`). `secrets`, docker actions and actions of other repositories are errors.
 * @throws UserError if an action.yml is faulty or uses an unsupported feature; nothing has run then
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
