import { randomUUID } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { arch, platform } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { type Annotation, Masker } from './commands.ts'
import type { Status, Step } from './manifest.ts'
import type { Orphan, ProcessOptions } from './process.ts'

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

/** How much of a step's log is kept, in characters. */
export const LOG_LIMIT = 4 << 20

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
  /** The job's `env:`. Of the caller's own environment only PATH, HOME and the like reach the steps. */
  env?: Record<string, string>
  /** What earlier steps of the job have added by GITHUB_PATH; the last one is searched first. */
  path?: string[]
  /** Masked from the first line on, as the secrets of a workflow are. */
  secrets?: string[]
  /** The node that runs JavaScript actions, whatever `using` says; by default MOLT_ACTIONS_NODE, or the one that runs this. */
  node?: string
  /** Starts a step's process in place of the runner, which spawns it. */
  start?: (options: ProcessOptions) => Promise<number>
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

export type StepContext = Pick<StepResult, 'outputs' | 'outcome' | 'conclusion'>

/** What all steps of one job share. */
export interface Job {
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
export interface Frame {
  depth: number
  inputs: Record<string, string> | null
  /** The `steps` context that expressions read; in a post phase what the main phase has left. */
  steps: Map<string, StepContext>
  /** Where this phase's steps note what came of them: the same map but for a post phase. */
  record: Map<string, StepContext>
  /** The `env:` of the composite steps around, which wins over GITHUB_ENV. */
  overrides: Record<string, string>
  github: Record<string, string>
  status(): Status
}

/** One phase of one step while it runs. */
export interface Run {
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

export function createJob(options: RunOptions, root: Step, workDir: string): Job {
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
