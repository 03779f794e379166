import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { closest } from 'fastest-levenshtein'
import { specs } from '../../src/actions/specs.ts'
import { messageOf, UserError } from '../../src/runtime/errors.ts'
import { didYouMean } from '../../src/runtime/inputs.ts'
import { plural } from '../../src/runtime/progress.ts'
import { type Input, loadManifest, type Manifest, type Status } from '../runner/manifest.ts'
import { type JobResult, type LogLine, type RunOptions, runAction } from '../runner/runner.ts'

interface Options {
  inputs: Record<string, string>
  /** Variables of the caller's environment to pass to the action, like a workflow's `env:`. */
  env: Record<string, string>
  json: boolean
  post: boolean
  help: boolean
  debug: boolean
  node?: string
  repo: string
}

/** What a run saves for a later `--post`: the action's state and conclusion. */
interface Kept {
  state: Record<string, string>
  conclusion: Status
}

const REPO = resolve(fileURLToPath(new URL('../..', import.meta.url)))
/** This command's own options. To set an input of the same name, use `--input-NAME`. */
const OWN = ['json', 'post', 'help', 'debug', 'node', 'repo', 'env']

async function main(args: string[]): Promise<number> {
  const [name, ...rest] = args
  if (!name || name === '--help') return usage(name ? 0 : 2)
  const at = rest.indexOf('--repo')
  const repo = resolve(at < 0 ? REPO : (rest[at + 1] ?? REPO))
  const manifest = load(repo, name)
  const options = parse(manifest, repo, rest)
  if (options.help) return help(name, manifest)
  const folder = join(repo, '.rehearsal', 'actions', name === '.' ? 'root' : name)
  const kept = options.post ? readKept(name, folder) : undefined
  // Files from an earlier run, which would be misleading if this run writes none.
  for (const each of options.post ? ['post-summary.md'] : ['summary.md', 'post-summary.md'])
    rmSync(join(folder, each), { force: true })
  const result = await run(manifest, options, folder, kept)
  const summaryPath = keep(folder, options, result)
  return report(options, result, summaryPath)
}

/** Loads an action of this repository by folder name; `.` is the composite action in the root. */
function load(repo: string, name: string): Manifest {
  const names = actionsOf(repo)
  if (name !== '.' && !names.includes(name)) {
    const all = names.length > 0 ? ` Known actions: ${names.join(', ')}` : ''
    throw new UserError('cli.unknown-action', `there is no action \`${name}\`${didYouMean(name, names)}${all}`)
  }
  return loadManifest(name === '.' ? repo : join(repo, 'actions', name), repo)
}

function actionsOf(repo: string): string[] {
  return existsSync(join(repo, 'actions')) ? readdirSync(join(repo, 'actions')) : []
}

function parse({ inputs }: Manifest, repo: string, args: string[]): Options {
  const options: Options = { inputs: {}, env: {}, json: false, post: false, help: false, debug: false, repo }
  for (let i = 0; i < args.length; i++) {
    const [, name, inline] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i] as string) ?? []
    if (!name) throw new UserError('cli.invalid-option', `\`${args[i]}\` is not an option. Write --NAME VALUE`)
    const next = args[i + 1]
    const value = inline ?? (next === undefined || next.startsWith('--') ? undefined : next)
    if (name === 'node' || name === 'repo') {
      if (!value) throw new UserError('cli.invalid-option', `--${name} needs a path`)
      options[name] = value
    } else if (name === 'env') {
      options.env[value ?? ''] = variable(value)
    } else if (OWN.includes(name)) {
      options[name as 'json'] = true
      continue
    } else {
      options.inputs[inputNamed(name, inputs)] = value ?? 'true'
    }
    if (inline === undefined && value !== undefined) i++
  }
  return options
}

function variable(name: string | undefined): string {
  const value = name && process.env[name]
  if (value) return value
  throw new UserError(
    'cli.invalid-option',
    name
      ? `--env ${name}: the variable is empty or not set. Export it first`
      : '--env needs the name of an exported variable',
  )
}

function inputNamed(option: string, inputs: Input[]): string {
  const names = inputs.map(({ id }) => id)
  const name = option.replace(/^input-/, '')
  const known = names.find((each) => each === option) ?? names.find((each) => each === name)
  if (known) return known
  throw new UserError(
    'cli.invalid-option',
    `the action has no input \`${option}\`; did you mean --${closest(option, [...names, ...OWN])}?`,
  )
}

/** A URL with a password. On GitHub it would come from a secret, so it is masked here too. */
const WITH_PASSWORD = /^[a-z][a-z0-9+.-]*:\/\/(?:[^/@]*:[^@]+@|.*[?&](?:ssl)?password=)/i

/** Masks the values passed by `--env`, except trivial ones such as `1` or `true`. */
function secretsOf({ inputs, env }: Options): string[] {
  return [
    ...Object.values(inputs).filter((value) => WITH_PASSWORD.test(value)),
    ...Object.values(env).filter((value) => value.length >= 8 || WITH_PASSWORD.test(value)),
  ]
}

async function run(manifest: Manifest, options: Options, folder: string, kept: Kept | undefined): Promise<JobResult> {
  const controller = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    // On a second Ctrl-C, the runner's exit handlers kill the remaining processes.
    if (controller.signal.aborted) process.exit(130)
    process.stderr.write(`${signal}: cancelling. Press Ctrl-C again to kill\n`)
    controller.abort()
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.on(signal, cancel)
  try {
    const base: RunOptions = {
      dir: manifest.dir,
      repo: resolve(options.repo),
      inputs: options.inputs,
      env: options.env,
      path: keptPath(folder),
      secrets: secretsOf(options),
      workspace: process.cwd(),
      workDir: join(folder, 'job'),
      toolCache: join(folder, '..', '..', 'tool-cache'),
      phases: phasesOf(manifest, kept),
      debug: options.debug,
      signal: controller.signal,
      onLine: (line) => show(line, options.json),
    }
    if (options.node) base.node = options.node
    if (kept) base.previous = kept
    return await runAction(base)
  } finally {
    for (const signal of signals) process.off(signal, cancel)
  }
}

/**
 * Phases to run. A JavaScript action's post step waits for `--post`. A composite action runs its post steps
 * immediately, because they need the state of many steps.
 */
function phasesOf({ runs }: Manifest, kept: Kept | undefined): RunOptions['phases'] {
  if (runs.kind === 'composite') return kept ? [] : ['pre', 'main', 'post']
  return kept ? ['post'] : ['pre', 'main']
}

/** With `--json`, standard output carries only the JSON object, and the log goes to standard error. */
function show({ kind, text, group }: LogLine, json: boolean): void {
  const marks: Record<string, string> = {
    output: '',
    group: '▸ ',
    error: 'Error: ',
    warning: 'Warning: ',
    notice: 'Notice: ',
  }
  if (kind === 'endgroup') return
  const line = `${group === undefined ? '' : '  '}${marks[kind] ?? `${kind}: `}${text}\n`
  if (json) process.stderr.write(line)
  else process.stdout.write(line)
}

function readKept(name: string, folder: string): Kept {
  const file = join(folder, 'state.json')
  if (!existsSync(file))
    throw new UserError(
      'cli.no-earlier-run',
      `\`${name}\` has not run yet: ${file} is missing. Run it without --post first`,
    )
  return JSON.parse(readFileSync(file, 'utf8')) as Kept
}

/** File shared by all actions, so that each action sees what earlier ones added to PATH, as in a job. */
function pathFile(folder: string): string {
  return join(folder, '..', 'path.json')
}

function keptPath(folder: string): string[] {
  const file = pathFile(folder)
  const added = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as string[]) : []
  const there = added.filter((each) => existsSync(each))
  if (there.length) console.error(`PATH begins with ${there.toReversed().join(':')}, from ${file}`)
  return there
}

/** Saves the summary, and the state without masked values. @returns the summary's path; empty if there is none */
function keep(folder: string, options: Options, result: JobResult): string {
  const state = Object.entries(result.state).filter(([, value]) => result.mask(value) === value)
  const lost = Object.keys(result.state).length - state.length
  if (lost > 0) console.error(`Warning: ${lost} state value(s) contain masked values and are not saved for --post`)
  const kept: Kept = { state: Object.fromEntries(state), conclusion: result.conclusion }
  writeFileSync(join(folder, 'state.json'), `${JSON.stringify(kept, null, 2)}\n`, { mode: 0o600 })
  if (result.path.length) writeFileSync(pathFile(folder), `${JSON.stringify(result.path)}\n`)
  if (!result.summary) return ''
  const path = join(folder, options.post ? 'post-summary.md' : 'summary.md')
  writeFileSync(path, result.summary)
  return path
}

function report(options: Options, result: JobResult, summaryPath: string): number {
  const { annotations, orphans } = result
  const conclusion = conclusionOf(options, result)
  const exitCode = exitCodeOf(conclusion, result)
  const account = {
    conclusion,
    exitCode,
    outputs: masked(result, outputsOf(result)),
    state: masked(result, result.state),
    annotations,
    summaryPath,
    orphans,
    steps: result.steps.map(({ phase, name, outcome, exitCode, durationMs }) => ({
      phase,
      name,
      outcome,
      exitCode,
      durationMs,
    })),
  }
  if (options.json) {
    console.log(JSON.stringify(account))
    return exitCode
  }
  console.log()
  for (const [title, values] of [['outputs', account.outputs] as const, ['state', account.state] as const]) {
    console.log(`${title}:${Object.keys(values).length === 0 ? ' none' : ''}`)
    for (const [name, value] of Object.entries(values)) console.log(`  ${name}: ${value.replaceAll('\n', '\n    ')}`)
  }
  console.log(`annotations: ${countOf(annotations) || 'none'}`)
  for (const { pid, cmd } of orphans) console.log(`left behind and killed: ${pid} ${cmd}`)
  console.log(`summary: ${summaryPath || 'none'}`)
  console.log(`${conclusion}, exit status ${exitCode}`)
  return exitCode
}

/** Counts annotations by level; the log contains their text. */
function countOf(annotations: JobResult['annotations']): string {
  return ['error', 'warning', 'notice']
    .map((name) => ({ name, count: annotations.filter(({ level }) => level === name).length }))
    .filter(({ count }) => count)
    .map(({ name, count }) => plural(count, name))
    .join(', ')
}

function masked({ mask }: JobResult, values: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, mask(value)]))
}

/** Outputs as the action set them. Unlike a job's outputs they include empty ones, which help when debugging. */
function outputsOf(result: JobResult): Record<string, string> {
  const own = result.steps.filter((step) => step.depth === 0)
  return (own.find((step) => step.phase === 'main') ?? own.at(-1))?.outputs ?? {}
}

/** Conclusion of the phases that just ran: a failed main run does not fail a successful post step. */
function conclusionOf(options: Options, { conclusion, steps }: JobResult): Status {
  if (!options.post || conclusion === 'cancelled') return conclusion
  return steps.some((step) => step.conclusion === 'failure') ? 'failure' : 'success'
}

function exitCodeOf(conclusion: Status, { steps }: JobResult): number {
  if (conclusion === 'cancelled') return 130
  const failed = steps.find((step) => step.conclusion === 'failure' && step.exitCode)
  return conclusion === 'failure' ? (failed?.exitCode ?? 1) : 0
}

function usage(code: number): number {
  console.log(`Runs one action as GitHub would, and shows the result.

  npm run action -- NAME [--INPUT VALUE]... [--env NAME]... [--json] [--post] [--node PATH] [--repo PATH] [--debug] [--help]

  NAME      ${actionsOf(REPO).join(', ') || 'a folder of actions/'}; or . for the whole chain
  --env     passes a variable of this environment, such as MOLT_MASK_KEY; the action sees no others
  --post    runs the post step, with the state of the previous run
  --json    writes the log to standard error and one JSON object to standard output
  --node    the Node.js binary to run it with (default: this one)
  --repo    the repository that contains it (default: this one)
  --help    after NAME, lists the action's inputs

  What an action adds to PATH, such as setup, is kept in .rehearsal/actions/path.json for the next ones.`)
  return code
}

function help(name: string, manifest: Manifest): number {
  console.log(
    `${manifest.name}: ${manifest.description}\n\n  npm run action -- ${name} [--INPUT VALUE]... [--env NAME]...\n`,
  )
  const allowed = specs.find((spec) => spec.name === name)?.inputs
  const width = Math.max(0, ...manifest.inputs.map(({ id }) => id.length))
  for (const { id, required, description, default: fallback } of manifest.inputs) {
    const [first, ...more] = description.trim().split('\n')
    console.log(
      `  --${id.padEnd(width)}  ${required ? '(required) ' : ''}${first}${fallback ? ` [${fallback.toString()}]` : ''}`,
    )
    const hint = allowed?.[id]?.type.hint
    if (hint && hint !== 'text') more.push(`allowed: ${hint}`)
    for (const line of more) console.log(`  ${' '.repeat(width + 2)}  ${line}`)
  }
  return 0
}

// `| head` closes standard output; the exit handlers of a running job end its processes.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 141 : 2))
main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code
  },
  (error: unknown) => {
    console.error(error instanceof UserError ? `Error: ${messageOf(error)}` : error)
    process.exitCode = 2
  },
)
