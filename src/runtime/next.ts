import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { getInput } from '@actions/core'
import { CODES, type ErrorCode, type Explanation, type NextStep } from './codes.ts'
import { holdsSecret } from './secrets.ts'
import type { ActionSpec } from './spec.ts'
import { argumentList } from './types.ts'

/*
 * The next command, ready to paste: on GitHub the workflow to start, elsewhere the action to run. The ledger says which
 * step comes next; this says how a person runs it.
 */

/** A workflow as `npm run adopt` writes it, and the fields of its form. */
interface Form {
  file: string
  fields: Record<string, string>
}

const migrate = (phase: string): Form => ({ file: 'migrate.yml', fields: { phase } })
const operation = (name: string): Form => ({ file: 'molt-operations.yml', fields: { operation: name } })

/** Action → the form that runs it. Those that are missing belong to the current workflow. */
const FORMS: Readonly<Record<string, Form>> = {
  prepare: migrate('prepare'),
  fetch: migrate('load'),
  replicate: migrate('stream'),
  verify: migrate('stream'),
  gate: migrate('cutover'),
  brief: migrate('cutover'),
  cutover: migrate('cutover'),
  finalize: migrate('finalize'),
  observe: operation('observe'),
  status: operation('status'),
  abort: operation('abort'),
  rollback: operation('rollback'),
  cleanup: operation('cleanup'),
}

let standing: NextStep | undefined
let told = false

/** Remembers the next action according to the ledger, for the end of the log and the summary. */
export function noteNext(step: NextStep | undefined): void {
  standing = step
}

/** A program with its arguments, which may hold a password. */
const PROGRAM = /-command$|^smoke-test$/

/** The action that runs, and its inputs that may be shown. */
let current: { action: string; inputs: readonly string[] } = { action: '', inputs: [] }

/** Forgets what an earlier action of this process remembered. */
export function resetNext({ name, inputs }: ActionSpec): void {
  standing = undefined
  told = false
  const shown = Object.entries(inputs).filter(
    ([input, { type }]) => !(type.secret || type === argumentList || PROGRAM.test(input)),
  )
  current = { action: name, inputs: shown.map(([input]) => input) }
}

/** For an action that has shown the next command itself. */
export function nextTold(): void {
  told = true
}

/** The next action according to the ledger, unless it was already shown or one command runs the whole chain. */
export function nextToTell(): NextStep | undefined {
  return told || process.env.MOLT_ACTIONS_AGAIN ? undefined : standing
}

/** The next action according to the ledger, if this process knows it. */
export function nextByLedger(): NextStep | undefined {
  return standing
}

/**
 * What to run after an error of `action`: what its code says, what the ledger says if the step was the wrong one,
 * otherwise the same action again.
 */
export function nextAfter(code: ErrorCode, action: string): NextStep | undefined {
  const explained = EXPLAINED[code]?.next
  const next = explained ?? (WRONG_STEP.has(code) ? standing : { action })
  // With the inputs that the ledger asks for.
  return next && next.action === standing?.action ? { ...standing, ...next } : next
}

/** The bundle contains only codes with text to print. */
const EXPLAINED: Partial<Record<ErrorCode, Explanation>> = CODES

/** Only the ledger knows what comes next. */
const WRONG_STEP: ReadonlySet<ErrorCode> = new Set(['ledger.wrong-phase', 'ledger.no-migration'])

/** What to do first, if anything, and the command; as plain text. */
export function nextText(step: NextStep): string {
  return [step.before, nextCommand(step)].filter(Boolean).join(' ')
}

/** As Markdown, with the command in a separate block that GitHub offers to copy. */
export function nextMarkdown(step: NextStep): string {
  return `**Next:** ${step.before ?? ''}\n\n\`\`\`sh\n${nextCommand(step)}\n\`\`\``
}

/** Runs `step`. Connections are named by variables, so that no URL is printed. */
export function nextCommand(step: NextStep): string {
  const { MOLT_ACTIONS_AGAIN: command } = process.env
  if (command) return command
  const complete = step.action === 'cutover' ? { ...step, inputs: { decision: decision(), ...step.inputs } } : step
  return onGithub() ? workflowCommand(complete) : localCommand(complete)
}

/** As in this run. A commit is never proposed to someone who has not asked for one. */
function decision(): string {
  return getInput('decision') || 'rehearse'
}

/** False for the local runner too, which sets GitHub's variables. */
export function onGithub(): boolean {
  return Boolean(process.env.GITHUB_RUN_ID) && process.env.MOLT_ACTIONS_RUNNER !== 'local'
}

function workflowCommand({ action, inputs = {} }: NextStep): string {
  const { GITHUB_REPOSITORY } = process.env
  const form = FORMS[action]
  const migration = getInput('migration') || 'main'
  const fields = form ? { migration, ...form.fields, ...inputs } : dispatched()
  const file = form?.file ?? ownWorkflow()
  // Set where `npm run workflow` runs the copied files on this machine: its options and their folder.
  const { MOLT_ACTIONS_WORKFLOWS: here } = process.env
  const flag = here ? '--field' : '-f'
  const given = Object.entries(fields).map(([name, value]) => `${flag} ${shellWord(`${name}=${value}`)}`)
  const start = here ? `npm run workflow -- ${here}/${file}` : `gh workflow run ${file} --repo ${GITHUB_REPOSITORY}`
  return [start, ...given].join(' ')
}

/** This run's own workflow file. */
function ownWorkflow(): string {
  const { GITHUB_WORKFLOW_REF = '', GITHUB_WORKFLOW = '' } = process.env
  return basename(GITHUB_WORKFLOW_REF.split('@')[0] as string) || GITHUB_WORKFLOW
}

/** The form's values in this run. */
function dispatched(): Record<string, string> {
  try {
    const event = JSON.parse(readFileSync(process.env.GITHUB_EVENT_PATH as string, 'utf8'))
    const given = Object.entries<unknown>(event.inputs ?? {}).filter(([, value]) => value !== '' && value !== null)
    return Object.fromEntries(given.map(([name, value]) => [name, String(value)]))
  } catch {
    return {}
  }
}

/** For one run: what was printed or tried, and what an earlier run left. */
const ONCE = new Set(['grants', 'dry-run', 'fetch-id', 'continuation-token', 'continuation-file-name', 'approved-hash'])

/** What every action takes. */
const COMMON = ['migration', 'config', 'allow-insecure']

/** With the local runner. Repeats the inputs of this run: all of them for the same action, otherwise what every action takes. */
function localCommand({ action, inputs = {} }: NextStep): string {
  const repeated = new Set([
    ...COMMON,
    ...(action === current.action ? current.inputs.filter((name) => !ONCE.has(name)) : []),
  ])
  const same = [...repeated].map((name): [string, string] => [name, getInput(name)])
  const given = Object.fromEntries(same.filter(([, value]) => value && !isPrivate(value)))
  const options = Object.entries({ ...given, ...inputs }).map(([name, value]) => `--${name} ${shellWord(value)}`)
  const connections = CONNECTIONS[action] ?? '--source "$MOLT_SOURCE" --target "$MOLT_TARGET"'
  return [`npm run action -- ${action}`, connections, ...options].join(' ')
}

/** A secret, or a URL that may carry one, such as a bucket's with its keys. */
function isPrivate(value: string): boolean {
  return holdsSecret(value) || /:\/\/\S*[?@]/.test(value)
}

/** For actions that do not connect to both sides. */
const CONNECTIONS: Readonly<Record<string, string>> = {
  setup: '--target "$MOLT_TARGET"',
  gate: '--target "$MOLT_TARGET"',
  convert: '--source "$MOLT_SOURCE"',
  mask: '--from "$MOLT_CLONE" --to "$MOLT_SOURCE"',
}

/** As one word of a shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
