import type { ErrorCode } from './codes.ts'

/** Possible values of an action's `error-kind` output. */
export type ErrorKind = 'input' | 'user' | 'tool' | 'verdict' | 'cancelled' | 'bug'

/** An error that the user can fix. The message says what is wrong and what to do. */
export class UserError extends Error {
  override name = 'UserError'
  readonly kind: ErrorKind = 'user'
  readonly code: ErrorCode

  constructor(code: ErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** An invalid input. Thrown before the action changes anything. */
export class InputError extends UserError {
  override name = 'InputError'
  override readonly kind = 'input'
}

/** A check ran to its end, and found that it is not safe to continue. */
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

/** Throws {@link CancelledError} if the run has been asked to stop. */
export function throwIfCancelled(signal: AbortSignal): void {
  if (signal.aborted) throw new CancelledError()
}

/**
 * The message of any thrown value. Node's AggregateError has no message of its own; it occurs, for example, when two
 * addresses of a host refuse the connection.
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ')
  const violation = violationText(error)
  if (violation) return violation
  return error instanceof Error ? error.message : String(error)
}

/** Fields of a database error other than its message. */
interface DatabaseFields {
  code?: unknown
  severity?: unknown
  schema?: string
  table?: string
  column?: string
  constraint?: string
}

/**
 * SQLSTATEs whose messages can quote a row: data errors (except 22023, an invalid setting), constraint violations, and
 * errors raised by user functions.
 */
const QUOTES_ROWS = /^(22(?!023)|23|P0001)/

/**
 * Describes a database error that can quote a row, but leaves out the values. CockroachDB puts values into the message
 * itself (`failed on row: id=7, …`). Returns undefined for any other error.
 */
function violationText(error: unknown): string | undefined {
  const { code, severity, schema, table, column, constraint } = (error ?? {}) as DatabaseFields
  if (typeof code !== 'string' || severity === undefined || !QUOTES_ROWS.test(code)) return undefined
  const at = table && `${schema ? `${schema}.` : ''}${table}${column ? `.${column}` : ''}`
  const what = code.startsWith('23') ? 'a row violates' : 'a value was rejected by'
  return `${what} ${[constraint && `the constraint ${constraint}`, at].filter(Boolean).join(' of ') || 'the database'} (SQLSTATE ${code})`
}

/** A verdict with a list of problems, one per line. */
export class ListedError extends VerdictError {
  readonly what: string
  readonly problems: readonly string[]
  readonly next: string
  /** Whether the step has already written the problems to the summary. */
  readonly summarized: boolean

  constructor(code: ErrorCode, what: string, problems: readonly string[], next: string, summarized = false) {
    super(code, `${what}:\n${problems.map((problem) => `  - ${problem}`).join('\n')}\n${next}`)
    this.what = what
    this.problems = problems
    this.next = next
    this.summarized = summarized
  }

  /** Shortens the message to as many problems as fit into `limit` characters. Always keeps the advice. */
  short(limit: number): string {
    const shown: string[] = []
    let length = this.what.length + this.next.length
    for (const problem of this.problems) {
      length += problem.length + 5
      if (length > limit) break
      shown.push(`  - ${problem}`)
    }
    const left = this.problems.length - shown.length
    if (left) shown.push(`  - and ${left} more in the log and the summary`)
    return `${this.what}:\n${shown.join('\n')}\n${this.next}`
  }
}

/** Throws one error that lists all problems, one per line. */
export function refuse(
  code: ErrorCode,
  what: string,
  problems: readonly string[],
  next: string,
  { summarized = false } = {},
): never {
  throw new ListedError(code, what, problems, next, summarized)
}

/** Waits until all promises have settled, then throws the first rejection in list order. */
export async function allEnded(works: readonly Promise<unknown>[]): Promise<void> {
  const ended = await Promise.allSettled(works)
  const failed = ended.find((each) => each.status === 'rejected')
  if (failed) throw failed.reason
}
