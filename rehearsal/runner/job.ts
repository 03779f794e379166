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
  /** 0 for the requested action, 1 for the steps of a composite action, and so on. */
  depth: number
  id?: string
  name: string
  /** The value of `uses`; `run` for a script. */
  action: string
}

export interface StepResult extends StepInfo {
  outcome: Outcome
  /** The outcome after `continue-on-error`. */
  conclusion: Outcome
  /** All outputs of the step, unmasked: steps see each other's outputs unchanged. */
  outputs: Record<string, string>
  /** State saved for the step's post phase, in this phase or earlier ones. */
  state: Record<string, string>
  annotations: Annotation[]
  /** Masked. Empty if there is none, or if GitHub would drop it for exceeding 1 MiB. */
  summary: string
  /** 128 + n if signal n ended the process; null without a process. */
  exitCode: number | null
  /** Masked. Only the last {@link LOG_LIMIT} characters of a longer log. */
  log: string
  durationMs: number
}

/** Maximum number of characters to keep of a step's log. */
export const LOG_LIMIT = 4 << 20

export interface JobResult {
  conclusion: Status
  /** In order of their start. A composite step comes before its own steps. */
  steps: StepResult[]
  /** The action's outputs as other jobs see them: without empty values, and without values that contain a secret. */
  outputs: Record<string, string>
  /** What GitHub would show for the action: at most 10 of each level. */
  annotations: Annotation[]
  summary: string
  /** State that the action itself saved, but not the state of a composite action's steps. */
  state: Record<string, string>
  /** Entries added by GITHUB_PATH. */
  path: string[]
  /** Processes left at the end and then killed. */
  orphans: Orphan[]
  /** Masks the secrets of the job. Apply it to outputs and state of steps, which are unmasked. */
  mask(text: string): string
}

export interface LogLine {
  /** Undefined for the job's own lines. */
  step?: StepInfo
  kind: 'output' | 'group' | 'endgroup' | 'debug' | Annotation['level']
  /** The line, masked. */
  text: string
  /** Title of the group that contains the line. */
  group?: string
}

export interface RunOptions {
  /** The folder that contains the action.yml. */
  dir: string
  /** The repository that `$/` refers to. */
  repo: string
  /** The values of `with:`. */
  inputs: Record<string, string>
  /** The job's `env:`. Of the caller's environment, only PATH, HOME and the like reach the steps. */
  env?: Record<string, string>
  /** Entries that earlier steps of the job added by GITHUB_PATH. The last one is searched first. */
  path?: string[]
  /** Values to mask from the first line on, like a workflow's secrets. */
  secrets?: string[]
  /**
   * The Node.js binary for JavaScript actions, regardless of `using`. Default: MOLT_ACTIONS_NODE, or the current one.
   */
  node?: string
  /** Starts a step's process, instead of the runner's own spawn. */
  start?: (options: ProcessOptions) => Promise<number>
  /** GITHUB_WORKSPACE. Default: an empty folder in `workDir`. */
  workspace?: string
  /**
   * Folder for RUNNER_TEMP (emptied first, unless `previous` is given) and other files; it is kept. Default: a
   * temporary folder that is removed.
   */
  workDir?: string
  /** RUNNER_TOOL_CACHE. Default: a folder in `workDir`. */
  toolCache?: string
  /** Values of the `github` context and therefore of the GITHUB_* variables: `run_id`, `repository`, `sha` … */
  github?: Record<string, string>
  /** Default: all phases. With only `post`, runs the post step as if after the run in `previous`. */
  phases?: Phase[]
  previous?: { state: Record<string, string>; conclusion: Status }
  /** Cancels the job. */
  signal?: AbortSignal
  /** Milliseconds after SIGINT and after SIGTERM. Default: GitHub's. */
  grace?: readonly [sigint: number, sigterm: number]
  /** Milliseconds from a cancellation until everything is killed. Default: GitHub's. */
  cancelTimeout?: number
  /** Shows debug lines, and sets RUNNER_DEBUG. */
  debug?: boolean
  onLine?: (line: LogLine) => void
  /** Awaited before each step that will run and after each step that ran. An error ends the job and is rethrown. */
  beforeStep?: (step: StepInfo) => Promise<void> | void
  afterStep?: (step: StepResult) => Promise<void> | void
}

export type StepContext = Pick<StepResult, 'outputs' | 'outcome' | 'conclusion'>

/** State shared by all steps of one job. */
export interface Job {
  options: RunOptions
  root: Step
  temp: string
  github: Record<string, unknown>
  runner: Record<string, string>
  /** The job's variables, and those that steps added by GITHUB_ENV. */
  env: Record<string, string>
  /** Entries that steps added by GITHUB_PATH. The last one is searched first. */
  path: string[]
  status: Status
  cancelled: boolean
  /** Aborted when the time limit after a cancellation has passed. */
  dead: AbortController
  masker: Masker
  steps: StepResult[]
  /** Started steps that have a post phase. */
  posts: Set<Step>
  states: Map<Step, Record<string, string>>
  /** The `steps` context of each composite step's main phase, for its post phase. */
  contexts: Map<Step, Map<string, StepContext>>
  trackingId: string
}

/** The enclosing scope of a step: the job, or a composite step. */
export interface Frame {
  depth: number
  inputs: Record<string, string> | null
  /** The `steps` context for expressions. A post phase uses the main phase's context. */
  steps: Map<string, StepContext>
  /** Where steps of this phase record their results. Same map as `steps`, except in a post phase. */
  record: Map<string, StepContext>
  /** The `env:` of the enclosing composite steps, which overrides GITHUB_ENV. */
  overrides: Record<string, string>
  github: Record<string, string>
  status(): Status
}

/** One phase of a step while it runs. */
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
