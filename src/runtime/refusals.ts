import { CODES, type ErrorCode, type Explanation } from './codes.ts'
import { isConnectionLost, sqlState } from './database.ts'
import { messageOf, UserError } from './errors.ts'

/*
 * Translates SQLSTATEs into error codes. A server can reject any statement: it may be read-only, busy or out of disk,
 * or a trigger may have raised an error. An error is a bug only if it shows that our own SQL is wrong.
 */

/** Codes whose explanation becomes part of the error message. */
export type RefusalCode = Extract<ErrorCode, `database.${string}` | 'connect.login-refused' | 'connect.no-free-slot'>

/** Whether {@link refusal} prints the explanation of a code. */
export function isRefusal(code: string): code is RefusalCode {
  return code.startsWith('database.') || code === 'connect.login-refused' || code === 'connect.no-free-slot'
}

/** Codes by SQLSTATE; the first match wins. Source: PostgreSQL's table of error codes, which CockroachDB also uses. */
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
  // Not our mistake: the object existed when we checked it, or `prepare` created it.
  [/^(3F000|42P01|42703|42704|42809|42883)$/, 'database.object-missing'],
  [/^(22(?!023)|23|44)/, 'database.row-refused'],
]

/** SQLSTATEs that show a mistake in our SQL. All other unknown SQLSTATEs may come from code in the database. */
const MISTAKES = /^(0[238BF]|2[1456DEF]|22023|3[3456BD]|42)/

/** Turns a database error that the user can fix into a UserError. Returns anything else unchanged. */
export function explain(error: unknown): unknown {
  if (error instanceof UserError) return error
  const state = sqlState(error)
  const code = state && codeOf(state)
  if (code === 'database.session-timeout') return refusal(code, state as string, error)
  if (isConnectionLost(error))
    return new UserError('database.connection-lost', `the connection to a database was lost: ${messageOf(error)}`)
  return code ? refusal(code, state as string, error) : error
}

/** @param words text to use instead of the SQLSTATE and the message without row values */
export function refusal(code: RefusalCode, state: string, error: unknown, words?: string): UserError {
  const { meaning, cause, fix }: Explanation = CODES[code]
  return new UserError(code, `${meaning} ${words ?? `SQLSTATE ${state}: ${messageOf(error)}`}. ${cause} ${fix}`)
}

/**
 * Explains why a MOLT program failed, by the SQLSTATE in its output. pgx writes it as `(SQLSTATE 57014)`. Unlike our
 * own sessions, the program's sessions use the role's settings.
 */
export function explainWords(said: string): { code: ErrorCode; advice: string } | undefined {
  const state = /\bSQLSTATE ([0-9A-Z]{5})\b/.exec(said)?.[1]
  const code = state && codeOf(state)
  // Callers have a better explanation for a rejected row.
  if (!code || code === 'database.row-refused') return undefined
  return { code, advice: `${CODES[code].cause} ${CODES[code].fix}` }
}

/** The code for a SQLSTATE; undefined for a mistake in our SQL. */
export function codeOf(state: string): RefusalCode | undefined {
  const found = REFUSALS.find(([states]) => states.test(state))?.[1]
  return found ?? (MISTAKES.test(state) ? undefined : 'database.refused-by-code')
}
