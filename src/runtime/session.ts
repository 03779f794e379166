import { randomInt } from 'node:crypto'
import type pg from 'pg'
import { messageOf, UserError } from './errors.ts'

/*
 * Settings of all our sessions, whatever a role, a database or a server sets. Sent as start-up parameters, so that nothing
 * changes in a session that a pooler lends to others.
 */

/** Settings that make values, names and errors look the same on both sides. */
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
  // A policy that would hide rows is an error: rows that no comparison sees look clean.
  row_security: 'off',
}

/** Those that CockroachDB does not have. */
const PINNED_ON_SOURCE: Readonly<Record<string, string>> = {
  quote_all_identifiers: 'off',
  transform_null_equals: 'off',
  array_nulls: 'on',
  xmlbinary: 'base64',
  default_transaction_isolation: 'read committed',
  default_transaction_deferrable: 'off',
}

/** No limits that only some versions know: an unknown start-up parameter ends the attempt. */
const NEWER_TIMEOUTS = ['idle_session_timeout', 'transaction_timeout']

/** Milliseconds. A lock timeout over 10 days means none, and its exact value identifies this session. */
const TOKENS = [900_000_000, 1_800_000_000] as const

export interface SessionSettings {
  /** For the start-up parameter `options`. */
  options: string
  token: string
}

/** @param settings override the user's `options`, which override none of ours */
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

/** CockroachDB only; a role may have it on, and every comparison reads whole tables. */
const FULL_SCANS = 'disallow_full_table_scans'

/**
 * Proves that the start-up parameters reached the session, then lifts the limits that could not be among them, because one
 * of the servers does not know them. Both in one statement, which changes nothing in a session that is not ours.
 * @throws UserError `connect.pooler` when they did not
 */
export async function requireOwnSession(client: pg.Client, side: string, { token }: SessionSettings): Promise<void> {
  const timeouts = NEWER_TIMEOUTS.map((name) => `'${name}'`).join(', ')
  const { rows } = await client.query(
    `WITH own AS (
            SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('lock_timeout', '${FULL_SCANS}', ${timeouts}))
     SELECT name, setting, CASE WHEN name IN (${timeouts})
              AND (SELECT setting FROM own WHERE name = 'lock_timeout') = '${token}'
            THEN set_config(name, '0', false)
            WHEN name = '${FULL_SCANS}' THEN set_config('${FULL_SCANS}', 'off', false) END AS lifted FROM own`,
  )
  if (rows.find(({ name }) => name === 'lock_timeout')?.setting !== token) throw poolerError(side, 'drops')
}

export function poolerError(side: string, what: 'drops' | 'refuses', error?: unknown): UserError {
  const words = error === undefined ? '' : ` (${messageOf(error)})`
  return new UserError(
    'connect.pooler',
    `the connection to the ${side} goes through a pooler that ${what} start-up parameters${words}. Write the host and port of the server itself into the URL`,
  )
}
