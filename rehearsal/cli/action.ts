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
  /** Variables of the caller's environment that the action gets, like a workflow's `env:`. */
  env: Record<string, string>
  json: boolean
  post: boolean
  help: boolean
  debug: boolean
  node?: string
  repo: string
}

/** What is kept between a run and its `--post`: the action's saved state, and its conclusion. */
interface Kept {
  state: Record<string, string>
  conclusion: Status
}

const REPO = resolve(fileURLToPath(new URL('../..', import.meta.url)))
/** Options of this command. An input of the same name can be given as `--input-NAME`. */
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
  // From an earlier run; this one may write none.
  for (const each of options.post ? ['post-summary.md'] : ['summary.md', 'post-summary.md'])
    rmSync(join(folder, each), { force: true })
  const result = await run(manifest, options, folder, kept)
  const summaryPath = keep(folder, options, result)
  return report(options, result, summaryPath)
}

/** An action of this repository by its folder's name; `.` is the composite action in the root. */
function load(repo: string, name: string): Manifest {
  const names = actionsOf(repo)
  if (name !== '.' && !names.includes(name)) {
    const all = names.length > 0 ? ` There are: ${names.join(', ')}` : ''
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
      ? `--env ${name}: that variable is empty or not set. Export it first`
      : '--env needs the NAME of a variable that is set here',
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

/** A URL with a password, which GitHub would take from a secret and never show. */
const WITH_PASSWORD = /^[a-z][a-z0-9+.-]*:\/\/(?:[^/@]*:[^@]+@|.*[?&](?:ssl)?password=)/i

/** Values passed by `--env` are secret, so they are masked, except trivial ones such as `1` or `true`. */
function secretsOf({ inputs, env }: Options): string[] {
  return [
    ...Object.values(inputs).filter((value) => WITH_PASSWORD.test(value)),
    ...Object.values(env).filter((value) => value.length >= 8 || WITH_PASSWORD.test(value)),
  ]
}

async function run(manifest: Manifest, options: Options, folder: string, kept: Kept | undefined): Promise<JobResult> {
  const controller = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    // After a second Ctrl-C, the runner's exit handlers kill what still runs.
    if (controller.signal.aborted) process.exit(130)
    process.stderr.write(`${signal}: cancelling. Press again to kill\n`)
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
 * The post step of a JavaScript action waits for `--post`. A composite action runs it at once, because it has the
 * state of many steps.
 */
function phasesOf({ runs }: Manifest, kept: Kept | undefined): RunOptions['phases'] {
  if (runs.kind === 'composite') return kept ? [] : ['pre', 'main', 'post']
  return kept ? ['post'] : ['pre', 'main']
}

/** With `--json`, standard output has only one object, and the log goes to standard error. */
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
      `--post follows a run of \`${name}\`, and there is none: ${file} is missing`,
    )
  return JSON.parse(readFileSync(file, 'utf8')) as Kept
}

/** Shared by all actions: what one adds to PATH is available to the next, as in one job. */
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

/** Keeps the state, without values that the action has masked, and the summary. @returns the summary's path, if any */
function keep(folder: string, options: Options, result: JobResult): string {
  const state = Object.entries(result.state).filter(([, value]) => result.mask(value) === value)
  const lost = Object.keys(result.state).length - state.length
  if (lost > 0) console.error(`Warning: ${lost} state value(s) contain masked values and are not kept for --post`)
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

/** The log has the texts. */
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

/** As set by the action, unlike the job's outputs: someone who debugs an action wants to see empty ones too. */
function outputsOf(result: JobResult): Record<string, string> {
  const own = result.steps.filter((step) => step.depth === 0)
  return (own.find((step) => step.phase === 'main') ?? own.at(-1))?.outputs ?? {}
}

/** Of the phases that ran now: a successful post step is not red because an earlier run was. */
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
  console.log(`Runs one action as GitHub would, and shows what came of it.

  npm run action -- NAME [--INPUT VALUE]... [--env NAME]... [--json] [--post] [--node PATH] [--repo PATH] [--debug] [--help]

  NAME      ${actionsOf(REPO).join(', ') || 'a folder of actions/'}, or . for the whole chain
  --env     a variable of this environment that it gets too, such as MOLT_MASK_KEY; others it does not see
  --post    run its post step, with the state of the run before
  --json    log on standard error, one JSON object on standard output
  --node    the node that runs it, by default this one
  --repo    the repository that holds it, by default this one
  --help    after NAME: its inputs

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
