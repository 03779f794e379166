import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { TIMING } from './timing.ts'

/*
 * All statements to the target go through this client. CockroachDB can fail any statement with 40001, even a schema
 * change or a COMMIT. Nothing has been done then, and the client must retry. 40003 means that the result is unknown.
 * The client then retries the statement if it is safe to run twice. Otherwise, the caller must check the result.
 */

const SERIALIZATION_FAILURE = '40001'
const COMPLETION_UNKNOWN = '40003'

/** Attempts per statement. The delays between them add up to about 8 s. */
const ATTEMPTS = 12

/** A connection to the target. Outside transactions, it retries a statement when CockroachDB requires a retry. */
export class TargetClient extends pg.Client {
  // biome-ignore lint/suspicious/noExplicitAny: compatible with all overloads of the driver's method
  override query(...given: any[]): any {
    const [first] = given
    const query = (...args: unknown[]) => (super.query as (...all: unknown[]) => unknown)(...args)
    const text = typeof first === 'string' ? first : first?.text
    // COPY streams and callers with callbacks handle errors themselves.
    const ours = typeof text === 'string' && typeof first?.submit !== 'function' && typeof given.at(-1) !== 'function'
    if (!ours || this.getTransactionStatus() === 'T' || OPENS_TRANSACTION.test(text)) return query(...given)
    return repeating(text, () => query(...given) as Promise<unknown>)
  }
}

const OPENS_TRANSACTION = /^\s*(BEGIN|START\s+TRANSACTION)\b/i

/** Runs a statement until the server accepts it, at most {@link ATTEMPTS} times. */
async function repeating<T>(text: string, run: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await run()
    } catch (error) {
      const { code } = error as { code?: string }
      const again = code === SERIALIZATION_FAILURE || (code === COMPLETION_UNKNOWN && isRepeatable(text))
      if (!again || attempt >= ATTEMPTS) throw error
      // Adds a random factor, so that two runs that have collided do not collide again.
      await sleep(Math.min(TIMING.repeatMost, TIMING.repeatFirst * 2 ** (attempt - 1)) * (0.5 + Math.random()))
    }
}

/**
 * Statements that are safe to run twice. If an UPDATE selects its row by nonce, the second run matches no row, so its
 * caller reads the row back.
 */
const REPEATABLE = [
  /^\s*(SELECT|SHOW|SET|RESET|VALUES|WITH|GRANT|REVOKE|UPDATE|DELETE|TRUNCATE|ANALYZE|VALIDATE)\b/i,
  /^\s*INSERT\b[\s\S]*\bON CONFLICT\b/i,
  /^\s*CREATE\s+(UNIQUE\s+)?\w+\s+IF NOT EXISTS\b/i,
  /^\s*(DROP\s+\w+|ALTER\s+TABLE\s[\s\S]*\sDROP\s+CONSTRAINT)\s+IF EXISTS\b/i,
  /^\s*ALTER\s+TABLE\s[\s\S]*\sVALIDATE\s+CONSTRAINT\b/i,
  /^\s*ALTER\s+(SEQUENCE|ROLE|USER)\b/i,
  /^\s*ALTER\s+TABLE\s[\s\S]*\sADD\s+COLUMN\s+IF NOT EXISTS\b/i,
  /^\s*COMMENT\s+ON\b/i,
]

/** Whether a statement is safe to run again if its result is unknown. */
export function isRepeatable(text: string): boolean {
  return !/\bnextval\s*\(/i.test(text) && REPEATABLE.some((form) => form.test(text))
}
