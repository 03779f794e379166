import { CODES, type ErrorCode, type Explanation } from './codes.ts'
import { isConnectionLost, sqlState } from './database.ts'
import { messageOf, UserError } from './errors.ts'

/*
 * The one place that interprets a server's refusal. A server can refuse any statement: it is read-only, out of disk,
 * busy, or runs its owner's code. Only errors that show a mistake in our SQL are bugs.
 */

/** Codes whose explanation is part of the error. */
export type RefusalCode = Extract<ErrorCode, `database.${string}` | 'connect.login-refused' | 'connect.no-free-slot'>

/** True for a code whose explanation {@link refusal} prints. */
export function isRefusal(code: string): code is RefusalCode {
  return code.startsWith('database.') || code === 'connect.login-refused' || code === 'connect.no-free-slot'
}

/** By SQLSTATE, the first that matches. Source: PostgreSQL's table of error codes; CockroachDB uses the same. */
const REFUSALS: readonly (readonly [RegExp, RefusalCode])[] = [
  [/^25006$/, 'database.read-only'],
  [/^(25P03|25P04|57P05)$/, 'database.session-timeout'],
  // CockroachDB reports a missing WITH GRANT OPTION as 01006 and 01007.
  [/^(0100[67]|42501|0LP01|0L000|0P000)$/, 'database.missing-right'],
  [/^40/, 'database.contention'],
  [/^55P03$/, 'database.lock-timeout'],
  [/^55/, 'database.object-busy'],
  [/^28/, 'connect.login-refused'],
  [/^53300$/, 'connect.no-free-slot'],
  [/^53|^54/, 'database.out-of-resources'],
  // CockroachDB only.
  [/^57000$/, 'database.schema-locked'],
  [/^57/, 'database.statement-ended'],
  [/^XXUUU$/, 'database.uncategorized'],
  [/^(58|XX|F0)/, 'database.server-fault'],
  [/^0A000$/, 'database.unsupported'],
  [/^2B/, 'database.dependent-objects'],
  [/^(42P0[4567]|42710|42723)$/, 'database.object-exists'],
  // The object existed when it was checked, or `prepare` created it.
  [/^(3F000|42P01|42703|42704|42809|42883)$/, 'database.object-missing'],
  [/^(22(?!023)|23|44)/, 'database.row-refused'],
]

/** These codes mean that our SQL, or its order, is wrong. The owner's code may raise any other. */
const MISTAKES = /^(0[238BF]|2[1456DEF]|22023|3[3456BD]|42)/

/** A database's refusal as an error for the user; anything else unchanged. */
export function explain(error: unknown): unknown {
  if (error instanceof UserError) return error
  const state = sqlState(error)
  const code = state && codeOf(state)
  if (code === 'database.session-timeout') return refusal(code, state as string, error)
  if (isConnectionLost(error))
    return new UserError('database.connection-lost', `the connection to a database was lost: ${messageOf(error)}`)
  return code ? refusal(code, state as string, error) : error
}

/** @param words the server's message; by default SQLSTATE and message, which quotes no row */
export function refusal(code: RefusalCode, state: string, error: unknown, words?: string): UserError {
  const { meaning, cause, fix }: Explanation = CODES[code]
  return new UserError(code, `${meaning} ${words ?? `SQLSTATE ${state}: ${messageOf(error)}`}. ${cause} ${fix}`)
}

/**
 * Explains how a MOLT program failed by the SQLSTATE in its output, which pgx writes as `(SQLSTATE 57014)`. Unlike
 * ours, its sessions run with the role's settings.
 */
export function explainWords(said: string): { code: ErrorCode; advice: string } | undefined {
  const state = /\bSQLSTATE ([0-9A-Z]{5})\b/.exec(said)?.[1]
  const code = state && codeOf(state)
  // The callers know the table and describe the row.
  if (!code || code === 'database.row-refused') return undefined
  return { code, advice: `${CODES[code].cause} ${CODES[code].fix}` }
}

/** The code for a SQLSTATE; undefined when it means a mistake of ours. */
export function codeOf(state: string): RefusalCode | undefined {
  const found = REFUSALS.find(([states]) => states.test(state))?.[1]
  return found ?? (MISTAKES.test(state) ? undefined : 'database.refused-by-code')
}
