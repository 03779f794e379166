import type { ErrorCode } from './codes.ts'

/** Values of an action's `error-kind` output. */
export type ErrorKind = 'input' | 'user' | 'tool' | 'verdict' | 'cancelled' | 'bug'

/** Something a person can fix: what is wrong and what to do about it. */
export class UserError extends Error {
  override name = 'UserError'
  readonly kind: ErrorKind = 'user'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** A setting that was refused before anything was changed. */
export class InputError extends UserError {
  override name = 'InputError'
  override readonly kind = 'input'
}

/** The check completed, and it is not safe to continue. */
export class VerdictError extends UserError {
  override name = 'VerdictError'
  override readonly kind = 'verdict'
}

/** The run was asked to stop (SIGINT or SIGTERM). */
export class CancelledError extends Error {
  override name = 'CancelledError'
  readonly kind = 'cancelled'
  readonly code: ErrorCode

  constructor(code: ErrorCode = 'cancelled.run', message = 'the run was cancelled') {
    super(message)
    this.code = code
  }
}

/** A program that we started failed. `args` must already be redacted. */
export class ToolError extends Error {
  override name = 'ToolError'
  readonly kind = 'tool'
  readonly code: ErrorCode
  readonly program: string
  readonly args: readonly string[]
  readonly ending: string

  constructor(facts: {
    code: ErrorCode
    program: string
    args: readonly string[]
    ending: string
    said?: string
    advice?: string
  }) {
    const said = facts.said ? `. Last line: ${facts.said}` : ''
    const advice = facts.advice ? `. ${facts.advice}` : ''
    super(`${facts.program} ${facts.ending}${said}${advice}`)
    this.code = facts.code
    this.program = facts.program
    this.args = facts.args
    this.ending = facts.ending
  }
}

export function errorKind(error: unknown): ErrorKind {
  return isOurs(error) ? error.kind : 'bug'
}

export function errorCode(error: unknown): ErrorCode {
  return isOurs(error) ? error.code : 'internal.bug'
}

function isOurs(error: unknown): error is UserError | ToolError | CancelledError {
  return error instanceof UserError || error instanceof ToolError || error instanceof CancelledError
}

/** Throws {@link CancelledError} once the run has been asked to stop. */
export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new CancelledError()
}

/** The message of anything thrown. Node's AggregateError (a refused connection on two addresses) hides its own. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  const violation = violationText(error)
  if (violation) return violation
  return error instanceof Error ? error.message : String(error)
}

/** The objects that a database's error names apart from its message. */
interface DatabaseFields {
  code?: unknown
  severity?: unknown
  schema?: string
  table?: string
  column?: string
  constraint?: string
}

/** Data errors, violated constraints, and what a user's own function raises; 22023 is about a setting. */
const QUOTES_ROWS = /^(22(?!023)|23|P0001)/

/**
 * What a database's error says, without the row that it quotes: CockroachDB writes values into the message itself
 * (`failed on row: id=7, …`). Undefined for any other error.
 */
function violationText(error: unknown): string | undefined {
  const { code, severity, schema, table, column, constraint } = (error ?? {}) as DatabaseFields
  if (typeof code !== 'string' || severity === undefined || !QUOTES_ROWS.test(code)) return undefined
  const at = table && `${schema ? `${schema}.` : ''}${table}${column ? `.${column}` : ''}`
  const what = code.startsWith('23') ? 'a row violates' : 'a value is refused by'
  return `${what} ${[constraint && `the constraint ${constraint}`, at].filter(Boolean).join(' of ') || 'the database'} (SQLSTATE ${code})`
}

/** A verdict with its reasons, one per line. GitHub cuts an annotation at 4,096 characters, so it shows only some. */
export class ListedError extends VerdictError {
  readonly what: string
  readonly problems: readonly string[]
  readonly next: string
  /** The step has written the problems to its summary, so the error leaves them out there. */
  readonly summarized: boolean

  constructor(code: ErrorCode, what: string, problems: readonly string[], next: string, summarized = false) {
    super(code, `${what}:\n${problems.map((problem) => `  - ${problem}`).join('\n')}\n${next}`)
    this.what = what
    this.problems = problems
    this.next = next
    this.summarized = summarized
  }

  /** As many problems as fit into `limit` characters, and always the advice. */
  short(limit: number): string {
    const shown: string[] = []
    let length = this.what.length + this.next.length
    for (const problem of this.problems) {
      length += problem.length + 5
      if (length > limit) break
      shown.push(`  - ${problem}`)
    }
    const left = this.problems.length - shown.length
    if (left) shown.push(`  - and ${left} more, in the log and the summary`)
    return `${this.what}:\n${shown.join('\n')}\n${this.next}`
  }
}

/** Several failures as one error, with one line for each. */
export function refuse(
  code: ErrorCode,
  what: string,
  problems: readonly string[],
  next: string,
  { summarized = false } = {},
): never {
  throw new ListedError(code, what, problems, next, summarized)
}

/** Waits until all have ended, then throws the first failure, in their order. */
export async function allEnded(works: readonly Promise<unknown>[]): Promise<void> {
  const ended = await Promise.allSettled(works)
  const failed = ended.find((each) => each.status === 'rejected')
  if (failed) throw failed.reason
}
