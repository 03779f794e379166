import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { getInput } from '@actions/core'
import { CODES, type ErrorCode, type Explanation, type NextStep } from './codes.ts'
import { holdsSecret } from './secrets.ts'
import type { ActionSpec } from './spec.ts'
import { argumentList } from './types.ts'

/*
 * Builds the next command, ready to paste. On GitHub, the command starts a workflow; elsewhere, an action. The ledger
 * decides which step is next.
 */

/** A workflow that `npm run adopt` creates, and the values for its form. */
interface Form {
  file: string
  fields: Record<string, string>
}

const migrate = (phase: string): Form => ({ file: 'migrate.yml', fields: { phase } })
const operation = (name: string): Form => ({ file: 'molt-operations.yml', fields: { operation: name } })

/** Action → the form that runs it. For all other actions, the next command repeats the current workflow. */
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

/** Remembers the next action according to the ledger. It is printed at the end of the log and the summary. */
export function noteNext(step: NextStep | undefined): void {
  standing = step
}

/** Inputs that are command lines, which may contain a password. */
const PROGRAM = /-command$|^smoke-test$/

/** The running action, and those of its inputs that are safe to print. */
let current: { action: string; inputs: readonly string[] } = { action: '', inputs: [] }

/** Clears the state that an earlier action in this process has left. */
export function resetNext({ name, inputs }: ActionSpec): void {
  standing = undefined
  told = false
  const shown = Object.entries(inputs).filter(
    ([input, { type }]) => !(type.secret || type === argumentList || PROGRAM.test(input)),
  )
  current = { action: name, inputs: shown.map(([input]) => input) }
}

/** Marks the next command as shown, for an action that prints it itself. */
export function nextTold(): void {
  told = true
}

/**
 * The next action according to the ledger. Undefined if it was already shown, or if a single command runs all actions.
 */
export function nextToTell(): NextStep | undefined {
  return told || process.env.MOLT_ACTIONS_AGAIN ? undefined : standing
}

/** The next action according to the ledger, if this process has read it. */
export function nextByLedger(): NextStep | undefined {
  return standing
}

/**
 * What to run after `action` failed: the step that the explanation of the code names; the next step according to the
 * ledger, if `action` was the wrong step; otherwise the same action again.
 */
export function nextAfter(code: ErrorCode, action: string): NextStep | undefined {
  const explained = EXPLAINED[code]?.next
  const next = explained ?? (WRONG_STEP.has(code) ? standing : { action })
  return next && next.action === standing?.action ? { ...standing, ...next } : next
}

/** Partial, because the bundles contain only the explanations that are printed. */
const EXPLAINED: Partial<Record<ErrorCode, Explanation>> = CODES

/** Codes after which only the ledger knows the next step. */
const WRONG_STEP: ReadonlySet<ErrorCode> = new Set(['ledger.wrong-phase', 'ledger.no-migration'])

/** Formats a step as plain text: what to do first, if anything, and the command. */
export function nextText(step: NextStep): string {
  return [step.before, nextCommand(step)].filter(Boolean).join(' ')
}

/** Formats a step as Markdown, with the command in a code block, which has a copy button on GitHub. */
export function nextMarkdown(step: NextStep): string {
  return `**Next:** ${step.before ?? ''}\n\n\`\`\`sh\n${nextCommand(step)}\n\`\`\``
}

/** The command that runs `step`. Uses variables for the connections, so that no URL is printed. */
export function nextCommand(step: NextStep): string {
  const { MOLT_ACTIONS_AGAIN: command } = process.env
  if (command) return command
  const complete = step.action === 'cutover' ? { ...step, inputs: { decision: decision(), ...step.inputs } } : step
  return onGithub() ? workflowCommand(complete) : localCommand(complete)
}

/** The decision to suggest. It is a commit only if this run was started with `decision: commit`. */
function decision(): string {
  return getInput('decision') || 'rehearse'
}

/** Whether this process runs on GitHub. The local runner sets GitHub's variables too. */
export function onGithub(): boolean {
  return Boolean(process.env.GITHUB_RUN_ID) && process.env.MOLT_ACTIONS_RUNNER !== 'local'
}

function workflowCommand({ action, inputs = {} }: NextStep): string {
  const { GITHUB_REPOSITORY } = process.env
  const form = FORMS[action]
  const migration = getInput('migration') || 'main'
  const fields = form ? { migration, ...form.fields, ...inputs } : dispatched()
  const file = form?.file ?? ownWorkflow()
  // Folder of the copied workflows, when `npm run workflow` runs them on this machine.
  const { MOLT_ACTIONS_WORKFLOWS: here } = process.env
  const flag = here ? '--field' : '-f'
  const given = Object.entries(fields).map(([name, value]) => `${flag} ${shellWord(`${name}=${value}`)}`)
  const start = here ? `npm run workflow -- ${here}/${file}` : `gh workflow run ${file} --repo ${GITHUB_REPOSITORY}`
  return [start, ...given].join(' ')
}

/** File name of this run's workflow. */
function ownWorkflow(): string {
  const { GITHUB_WORKFLOW_REF = '', GITHUB_WORKFLOW = '' } = process.env
  return basename(GITHUB_WORKFLOW_REF.split('@')[0] as string) || GITHUB_WORKFLOW
}

/** The form values that this run was started with. */
function dispatched(): Record<string, string> {
  try {
    const event = JSON.parse(readFileSync(process.env.GITHUB_EVENT_PATH as string, 'utf8'))
    const given = Object.entries<unknown>(event.inputs ?? {}).filter(([, value]) => value !== '' && value !== null)
    return Object.fromEntries(given.map(([name, value]) => [name, String(value)]))
  } catch {
    return {}
  }
}

/** Inputs that apply to a single run, and are not repeated in the next command. */
const ONCE = new Set(['grants', 'dry-run', 'fetch-id', 'continuation-token', 'continuation-file-name', 'approved-hash'])

/** Inputs of every action. */
const COMMON = ['migration', 'config', 'allow-insecure']

/**
 * The command for the local runner. For the same action, repeats all inputs of this run; for another action, only the
 * common inputs.
 */
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

/** Whether a value is a secret, or a URL that may contain one, such as a bucket URL with keys. */
function isPrivate(value: string): boolean {
  return holdsSecret(value) || /:\/\/\S*[?@]/.test(value)
}

/** Connection options of actions that do not use both the source and the target. */
const CONNECTIONS: Readonly<Record<string, string>> = {
  setup: '--target "$MOLT_TARGET"',
  gate: '--target "$MOLT_TARGET"',
  convert: '--source "$MOLT_SOURCE"',
  mask: '--from "$MOLT_CLONE" --to "$MOLT_SOURCE"',
}

/** Quotes a string as one word for the shell. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`
}
