import { randomUUID } from 'node:crypto'
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { messageOf } from '../../src/runtime/errors.ts'
import { type Annotation, type CommandTarget, commandReader, parseEntries, setEnv } from './commands.ts'
import { LOG_LIMIT, type LogLine, type Run, type StepInfo, type StepResult } from './job.ts'
import { runProcess } from './process.ts'

/*
 * Input and output of a step's process: its environment, the files that it writes, its workflow commands, and the log,
 * through which all of its output passes.
 */

/** Variables of this machine that are passed to every process. All others come from the job. */
const PASS_THROUGH = words(`
  PATH HOME USER LOGNAME SHELL LANG LC_ALL LC_CTYPE TZ TMPDIR NODE_EXTRA_CA_CERTS SSL_CERT_FILE SSL_CERT_DIR
  HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY http_proxy https_proxy no_proxy all_proxy
  NODE_COMPILE_CACHE MOLT_ACTIONS_TEST_TIMING`)

const SUMMARY_LIMIT = 1024 * 1024
const MESSAGE_LIMIT = 4096
const GRACE = [7500, 2500] as const

/** Keys of the `github` context that also exist as GITHUB_* variables. */
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

export async function runChild(
  run: Run,
  file: string,
  args: string[],
  variables: Record<string, string>,
  folder = '',
): Promise<number> {
  const { job } = run
  // Cancelled while a hook was awaited, so there is no process to interrupt.
  if (run.cancel.signal.aborted || job.dead.signal.aborted) return 130
  const isCommand = commandReader(targetOf(run))
  const code = await (job.options.start ?? runProcess)({
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
  // Tells actions not to link to GitHub or propose a workflow. Tests that set `github` want both.
  if (!job.options.github) env.MOLT_ACTIONS_RUNNER = 'local'
  env.CI ??= 'true'
  env.RUNNER_TRACKING_ID = job.trackingId
  return env
}

/** Handlers for the files that a step writes, in the order of GitHub's runner. */
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

export async function withFiles(run: Run, work: () => Promise<void>): Promise<void> {
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

export function printHeader(
  run: Run,
  title: string,
  inputs: Record<string, string>,
  script?: string,
  shell?: string,
): void {
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

export function infoOf({ phase, depth, id, name, action }: StepResult): StepInfo {
  return { phase, depth, ...(id ? { id } : {}), name, action }
}

export function fail(run: Run, message: string): void {
  annotate(run, { level: 'error', message })
  run.failed = true
}

export function annotate(run: Run, annotation: Annotation): void {
  const message = run.job.masker.mask(annotation.message).slice(0, MESSAGE_LIMIT)
  run.result.annotations.push({ ...annotation, message })
  if (message) write(run, `##[${annotation.level}]${message}`)
}

export function debug(run: Run, text: string): void {
  if (run.job.options.debug) write(run, `##[debug]${text}`)
}

/** Writes a line to the step's log, masked. */
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
