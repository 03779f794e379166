import { randomInt } from 'node:crypto'
import type pg from 'pg'
import { messageOf, UserError } from './errors.ts'

/*
 * Settings of all our sessions. They override the settings of the role, the database and the server. They are sent as
 * start-up parameters, because a SET would stay in effect when a pooler gives the session to other clients.
 */

/** Settings that give values, names and errors the same format on both sides. */
const PINNED: Readonly<Record<string, string>> = {
  search_path: 'public',
  TimeZone: 'UTC',
  DateStyle: 'ISO,MDY',
  IntervalStyle: 'postgres',
  bytea_output: 'hex',
  extra_float_digits: '3',
  standard_conforming_strings: 'on',
  default_transaction_read_only: 'off',
  idle_in_transaction_session_timeout: '0',
  // Makes a query fail if a policy would hide rows. Otherwise, the comparison would miss those rows.
  row_security: 'off',
}

/** Settings that CockroachDB does not support. */
const PINNED_ON_SOURCE: Readonly<Record<string, string>> = {
  quote_all_identifiers: 'off',
  transform_null_equals: 'off',
  array_nulls: 'on',
  xmlbinary: 'base64',
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
}

/**
 * Timeouts that only newer versions have. An older version would reject a connection with them as start-up parameters.
 */
const NEWER_TIMEOUTS = ['idle_session_timeout', 'transaction_timeout']

/**
 * Range of `lock_timeout`, in milliseconds. More than 10 days is as good as no limit, and the random value identifies
 * our session.
 */
const TOKENS = [900_000_000, 1_800_000_000] as const

export interface SessionSettings {
  /** Value of the start-up parameter `options`. */
  options: string
  token: string
}

/**
 * Builds the start-up parameters of a session.
 * @param settings added to the pinned settings
 * @param own the user's `options`, which cannot override any of ours
 */
export function sessionSettings(
  side: 'source' | 'target',
  settings: Readonly<Record<string, string>>,
  own: string | undefined,
): SessionSettings {
  const token = String(randomInt(...TOKENS))
  const all = { ...PINNED, ...(side === 'source' && PINNED_ON_SOURCE), ...settings, lock_timeout: token }
  const options = Object.entries(all).map(([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`)
  return { options: [own, ...options].filter(Boolean).join(' '), token }
}

/**
 * CockroachDB only. Can be on for a role, but comparisons need full table scans, and must not read a state from a few
 * seconds ago.
 */
const TURNED_OFF = ['disallow_full_table_scans', 'default_transaction_use_follower_reads']

/**
 * Checks that the server received the start-up parameters, and turns off limits that only some servers have. Uses a
 * single statement, so that it cannot lift the timeouts of another client's session.
 * @throws UserError `connect.pooler` if the server did not receive the parameters
 */
export async function requireOwnSession(client: pg.Client, side: string, { token }: SessionSettings): Promise<void> {
  const [timeouts, off] = [NEWER_TIMEOUTS, TURNED_OFF].map((names) => names.map((name) => `'${name}'`).join(', '))
  const { rows } = await client.query(
    `WITH own AS (
            SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('lock_timeout', ${off}, ${timeouts}))
     SELECT name, setting, CASE WHEN name IN (${timeouts})
              AND (SELECT setting FROM own WHERE name = 'lock_timeout') = '${token}'
            THEN set_config(name, '0', false)
            WHEN name IN (${off}) THEN set_config(name, 'off', false) END AS lifted FROM own`,
  )
  if (rows.find(({ name }) => name === 'lock_timeout')?.setting !== token) throw poolerError(side, 'drops')
}

export function poolerError(side: string, what: 'drops' | 'refuses', error?: unknown): UserError {
  const words = error === undefined ? '' : ` (${messageOf(error)})`
  return new UserError(
    'connect.pooler',
    `the connection to the ${side} goes through a pooler that ${what} start-up parameters${words}. Use the host and port of the server itself in the URL`,
  )
}
