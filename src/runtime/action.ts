import { appendFileSync } from 'node:fs'
import * as core from '@actions/core'
import { CancelledError, errorCode, errorKind, messageOf, UserError } from './errors.ts'
import { loadInputs } from './inputs.ts'
import { notified, notifyTo } from './notify.ts'
import { explain } from './refusals.ts'
import { holdsSecret, redact } from './secrets.ts'
import type { ActionSpec, InputsOf, OutputsOf } from './spec.ts'

/** What an action's code is handed; everything it tells the world goes through here. */
export interface Context<S extends ActionSpec> {
  inputs: InputsOf<S>
  /** Aborted when the runner cancels the job; 7.5 s remain then, and 2.5 s after a second signal. */
  signal: AbortSignal
  /** Sets an output; a value that holds a secret would be dropped by GitHub without a word, so it is an error here. */
  output(name: OutputsOf<S>, value: string | number | boolean): void
  /** Adds Markdown to the job's summary. */
  summary(markdown: string): void
  /** Keeps an identifier for the post step. Never a secret. */
  save(name: string, value: string): void
}

export interface Action<S extends ActionSpec = ActionSpec> {
  spec: S
  run(context: Context<S>): Promise<void>
  post?(context: Context<S> & { saved(name: string): string }): Promise<void>
}

export type Phase = 'run' | 'post'

/** Outputs that every action has: what went wrong, empty when nothing did. */
export const COMMON_OUTPUTS = {
  'error-kind': 'When the action fails: `input`, `user`, `tool`, `verdict` (a check said no), `cancelled`, or `bug`.',
  'error-code':
    'When the action fails: what went wrong, as a stable code such as `fence.write-passed`; docs/troubleshooting.md has them all.',
} as const

/** A step summary over 1 MiB is dropped whole by GitHub; ours stops well before, several steps share a page. */
const SUMMARY_LIMIT = 256 * 1024

/** Runs one phase of an action as GitHub's runner expects it. Never throws; the exit code tells the outcome. */
export async function runAction<S extends ActionSpec>(
  action: Action<S>,
  phase: Phase,
  all: readonly ActionSpec[],
): Promise<void> {
  const controller = new AbortController()
  const cancel = (signal: NodeJS.Signals) => {
    core.info(`received ${signal}: stopping`)
    controller.abort(new CancelledError('cancelled.run', `the run was cancelled (${signal})`))
  }
  const abandoned = () =>
    controller.abort(
      new CancelledError('cancelled.runner-gone', 'nobody reads the output any more: the runner is gone'),
    )
  const summary = summaryOf()
  process.stdout.on('error', abandoned)
  process.on('SIGINT', cancel)
  process.on('SIGTERM', cancel)
  try {
    const context = contextOf<S>(loadInputs(action.spec, all), controller.signal, summary)
    const { notifyUrl, migration } = context.inputs as { notifyUrl?: string; migration?: string }
    notifyTo(notifyUrl, migration ?? '')
    if (phase === 'run') await action.run(context)
    else await action.post?.({ ...context, saved: core.getState })
    controller.signal.throwIfAborted()
  } catch (error) {
    const known = error instanceof UserError || error instanceof CancelledError
    fail(controller.signal.aborted && !known ? controller.signal.reason : error, phase, summary)
  } finally {
    await notified()
    process.stdout.off('error', abandoned)
    process.off('SIGINT', cancel)
    process.off('SIGTERM', cancel)
  }
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
          `output \`${name}\` would hold a masked value, and GitHub would drop it; rename what it is made of`,
        )
      core.setOutput(name, text)
    },
    summary,
    save: core.saveState,
  }
}

/** Writes to the job's summary until it is full. */
function summaryOf(): (markdown: string) => void {
  let written = 0
  return (markdown) => {
    const path = process.env.GITHUB_STEP_SUMMARY
    // A blank line after each part: without it the next one belongs to the HTML block that a `</details>` ends, as text.
    const text = `${redact(markdown)}\n\n`
    written += Buffer.byteLength(text)
    if (path && written <= SUMMARY_LIMIT) appendFileSync(path, text)
    else if (path) core.warning('the job summary is full; the rest of it is in the evidence file')
  }
}

/** Where it was thrown. A stack begins with the message, which of a database's error may quote a row. */
function traceOf(error: Error): string {
  const frames = (error.stack ?? '').split('\n').filter((line) => /^ {4}at /.test(line))
  return [messageOf(error), ...frames].join('\n')
}

function fail(thrown: unknown, phase: Phase, summary: (markdown: string) => void): void {
  const error = explain(thrown)
  const kind = errorKind(error)
  const text = redact(kind === 'bug' && error instanceof Error ? traceOf(error) : messageOf(error))
  const told = `${kind === 'bug' ? 'This is a bug in molt-actions: ' : ''}${text} [${errorCode(error)}]`
  core.error(told)
  if (phase === 'run') {
    core.setOutput('error-kind', kind)
    core.setOutput('error-code', errorCode(error))
    // Each line is a paragraph or a list's item of its own: what follows a list would be read as part of its last item.
    summary(`> [!CAUTION]\n> ${told.replaceAll('\n', '\n>\n> ')}`)
  }
  process.exitCode = 1
}
