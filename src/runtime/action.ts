import { appendFileSync } from 'node:fs'
import * as core from '@actions/core'
import type { ErrorCode, NextStep } from './codes.ts'
import { CancelledError, errorCode, errorKind, ListedError, messageOf, UserError } from './errors.ts'
import { loadInputs } from './inputs.ts'
import { nextAfter, nextByLedger, nextMarkdown, nextText, nextToTell, resetNext } from './next.ts'
import { notified, notifyTo } from './notify.ts'
import { guardOutput, shown } from './output.ts'
import { type PasswordLasts, setPasswordCommand, withJobPassword } from './password-command.ts'
import { explain } from './refusals.ts'
import { holdsSecret, redact } from './secrets.ts'
import { type ActionSpec, camel, type InputsOf, type OutputsOf } from './spec.ts'

/** What an action's code receives: its inputs, and the functions to write outputs, summary and state. */
export interface Context<S extends ActionSpec> {
  inputs: InputsOf<S>
  /** Aborts when the runner cancels the job. The process then has 7.5 s, and 2.5 s after a second signal. */
  signal: AbortSignal
  /** Sets an output. Throws if the value contains a secret, because GitHub would silently drop it. */
  output(name: OutputsOf<S>, value: string | number | boolean): void
  /** Appends Markdown to the job's summary. */
  summary(markdown: string): void
  /** Saves a value for the post step. Must not be a secret. */
  save(name: string, value: string): void
}

export interface Action<S extends ActionSpec = ActionSpec> {
  spec: S
  run(context: Context<S>): Promise<void>
  post?(context: Context<S> & { saved(name: string): string }): Promise<void>
}

export type Phase = 'run' | 'post'

/** Outputs that every action has. They are empty unless the action fails. */
export const COMMON_OUTPUTS = {
  'error-kind': 'When the action fails: `input`, `user`, `tool`, `verdict` (a check failed), `cancelled`, or `bug`.',
  'error-code':
    'When the action fails: a stable code such as `fence.write-passed`. docs/troubleshooting.md explains all codes.',
} as const

/**
 * Bytes. GitHub drops a step summary over 1 MiB entirely. This limit is much lower, because all steps share one page.
 */
const SUMMARY_LIMIT = 256 * 1024

/** A failed action, as the ledger records it. */
export interface Failure {
  action: string
  code: ErrorCode
  /** First line of the error message. */
  message: string
}

/**
 * Runs an action's main or post step. Never throws; the exit code reports the outcome.
 * @param keep records a failure in the ledger on `target`; never throws
 */
export async function runAction<S extends ActionSpec>(
  action: Action<S>,
  phase: Phase,
  all: readonly ActionSpec[],
  keep?: (target: string, migration: string, failure: Failure) => Promise<void>,
): Promise<void> {
  const controller = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    core.info(`received ${signal}: stopping`)
    controller.abort(new CancelledError('cancelled.run', `the run was cancelled (${signal})`))
  }
  const abandoned = () =>
    controller.abort(new CancelledError('cancelled.runner-gone', 'the runner has died: nothing is reading the output'))
  const summary = summaryOf()
  const unguard = guardOutput()
  process.stdout.on('error', abandoned)
  process.on('SIGINT', cancel)
  process.on('SIGTERM', cancel)
  let known: { notifyUrl?: string; migration?: string; target?: string } = {}
  try {
    resetNext(action.spec)
    const inputs = await withPasswords(action.spec, loadInputs(action.spec, all), controller.signal)
    const context = contextOf<S>(inputs, controller.signal, summary)
    known = context.inputs
    notifyTo(known.notifyUrl, known.migration ?? '')
    if (phase === 'run') await action.run(context)
    else await action.post?.({ ...context, saved: core.getState })
    controller.signal.throwIfAborted()
    if (phase === 'run') tellNext(summary)
  } catch (error) {
    const ours = error instanceof UserError || error instanceof CancelledError
    const cause = controller.signal.aborted && !ours ? controller.signal.reason : error
    const failure = fail(action.spec.name, cause, phase, summary)
    const { target, migration } = known
    // A cancelled job does not have enough time left for this.
    if (target && migration && nextByLedger() && !controller.signal.aborted) await keep?.(target, migration, failure)
  } finally {
    await notified()
    unguard()
    process.stdout.off('error', abandoned)
    process.off('SIGINT', cancel)
    process.off('SIGTERM', cancel)
  }
}

/** Adds the password from `password-command` to URLs without a password, if it lasts as long as the job. */
async function withPasswords<S extends ActionSpec>(
  { inputs: known }: S,
  given: InputsOf<S>,
  signal: AbortSignal,
): Promise<InputsOf<S>> {
  const inputs: Record<string, unknown> = { ...given }
  setPasswordCommand(inputs.passwordCommand as string[] | undefined, inputs.passwordLasts as PasswordLasts | undefined)
  for (const [name, { type }] of Object.entries(known)) {
    const url = inputs[camel(name)]
    if (type.secret === 'url' && typeof url === 'string') inputs[camel(name)] = await withJobPassword(url, signal)
  }
  return inputs as InputsOf<S>
}

function contextOf<S extends ActionSpec>(
  inputs: InputsOf<S>,
  signal: AbortSignal,
  summary: Context<S>['summary'],
): Context<S> {
  return {
    inputs,
    signal,
    output(name, value) {
      const text = String(value)
      if (holdsSecret(text))
        throw new UserError(
          'output.secret',
          `output \`${name}\` would contain a secret, so GitHub would drop it. Rename the object whose name contains the secret`,
        )
      core.setOutput(name, text)
    },
    summary,
    save: core.saveState,
  }
}

/** Returns a function that appends to the job's summary until the summary is full. */
function summaryOf(): (markdown: string) => void {
  let written = 0
  return (markdown) => {
    const path = process.env.GITHUB_STEP_SUMMARY
    // Without the blank line, GitHub would treat the next part as text in the HTML block that ends with `</details>`.
    const text = `${shown(redact(markdown))}\n\n`
    written += Buffer.byteLength(text)
    if (path && written <= SUMMARY_LIMIT) appendFileSync(path, text)
    else if (path) core.warning('the job summary is full. The rest is in the evidence file')
  }
}

/** The message and the stack frames. Leaves out the raw message at the start of `stack`, which can quote a row. */
function traceOf(error: Error): string {
  const frames = (error.stack ?? '').split('\n').filter((line) => /^ {4}at /.test(line))
  return [messageOf(error), ...frames].join('\n')
}

/** Prints the next command to the log and the summary, if the action has read the ledger. */
function tellNext(summary: (markdown: string) => void): void {
  const next = nextToTell()
  if (!next) return
  core.info(`next: ${nextText(next)}`)
  summary(nextMarkdown(next))
}

/** Characters. GitHub truncates an annotation at 4,096, and ours must keep the code and the next command at its end. */
const ANNOTATION = 3000

function annotation(error: unknown, told: string, code: ErrorCode, next: NextStep | undefined): string {
  const end = next ? `\nNext: ${nextText(next)}` : ''
  if (told.length <= ANNOTATION || !(error instanceof ListedError)) return `${told}${end}`
  for (const problem of error.problems) core.info(`  - ${redact(problem)}`)
  return `${redact(error.short(ANNOTATION))} [${code}]${end}`
}

/** Formats the error for the summary. Leaves out the list of problems if the summary already contains it. */
function inSummary(error: unknown, told: string, code: ErrorCode): string {
  return error instanceof ListedError && error.summarized ? redact(`${error.what}. ${error.next} [${code}]`) : told
}

function fail(name: string, thrown: unknown, phase: Phase, summary: (markdown: string) => void): Failure {
  const error = explain(thrown)
  const kind = errorKind(error)
  const code = errorCode(error)
  const text = redact(kind === 'bug' && error instanceof Error ? traceOf(error) : messageOf(error))
  const told = `${kind === 'bug' ? 'This is a bug in molt-actions: ' : ''}${text} [${code}]`
  const next = phase === 'run' && kind !== 'bug' ? nextAfter(code, name) : undefined
  core.error(annotation(error, told, code, next))
  if (phase === 'run') {
    core.setOutput('error-kind', kind)
    core.setOutput('error-code', code)
    // Makes each line a paragraph. Otherwise, Markdown appends the text after a list to the last item.
    summary(`> [!CAUTION]\n> ${inSummary(error, told, code).replaceAll('\n', '\n>\n> ')}`)
    if (next) summary(nextMarkdown(next))
  }
  process.exitCode = 1
  return { action: name, code, message: (text.split('\n')[0] as string).replace(/:$/, '') }
}
