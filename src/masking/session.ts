import { createHmac } from 'node:crypto'
import { connect, type Database, ident, type Side, sqlState } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'

/**
 * Settings that give a value the same text on every server, and prevent name look-ups through a search path. With
 * `row_security` off, a policy that would hide rows raises an error instead.
 */
const SETTINGS = `
  SET search_path = ''; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres';
  SET extra_float_digits = 1; SET bytea_output = 'hex'; SET client_encoding = 'UTF8'; SET statement_timeout = 0;
  SET row_security = off; SET idle_in_transaction_session_timeout = 0; SET jit = off; SET client_min_messages = warning`

/**
 * Opens a connection for masking: without a statement timeout, and with settings that give a value the same text on
 * both sides.
 */
export async function openSession(url: string, side: Side): Promise<Database> {
  const db = await connect(url, side, 0)
  await db.query(SETTINGS)
  return db
}

/** Session parameters with the keys and seeds of the domains, for `Hashes`. */
export function domainKeys(key: string, domains: ReadonlyMap<string, number>): Map<string, string> {
  const parameters = new Map<string, string>()
  for (const [domain, position] of domains) {
    const derive = (what: string) => createHmac('sha256', key).update(`molt-actions mask 1 ${what}\0${domain}`).digest()
    parameters.set(`molt_actions.k${position}`, derive('key').toString('hex'))
    parameters.set(`molt_actions.s${position}`, derive('seed').readBigInt64BE(0).toString())
  }
  return parameters
}

/** Sets session parameters as bound values, which no statement contains and {@link suppressLogging} keeps out of the log. */
export async function setParameters(db: Database, parameters: ReadonlyMap<string, string>): Promise<void> {
  await db.query('SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS u(name, value)', [
    [...parameters.keys()],
    [...parameters.values()],
  ])
}

/**
 * Keeps bound values of this session out of the server's log.
 * @throws UserError when the server logs them and this role cannot turn that off
 */
export async function suppressLogging(db: Database, side: Side): Promise<void> {
  for (const [setting, quiet] of QUIET) {
    const { rows } = await db.query('SELECT current_setting($1, true) AS value', [setting])
    const value = rows[0].value as string | null
    if (value === null || value === quiet) continue
    try {
      await db.query(`SET ${setting} = ${quiet}`)
    } catch (error) {
      if (sqlState(error) !== '42501') throw error
    }
  }
  const loud = await logsParameters(db)
  if (loud)
    throw new UserError(
      'mask.key-logged',
      `the ${side} would write the masking key to its log, because ${loud} there and this role cannot change it. As an administrator, run \`ALTER ROLE ${ident(db.user ?? '')} SET log_parameter_max_length = 0\` (PostgreSQL 13 or later), or set \`log_statement = 'none'\` and \`log_min_duration_statement = -1\` for that role`,
    )
}

const QUIET: [setting: string, value: string][] = [
  ['log_parameter_max_length', '0'],
  ['log_parameter_max_length_on_error', '0'],
  ['log_statement', 'none'],
  ['log_min_duration_statement', '-1'],
  ['log_min_duration_sample', '-1'],
  ['log_transaction_sample_rate', '0'],
  ['log_duration', 'off'],
  ['pgaudit.log_parameter', 'off'],
  ['auto_explain.log_min_duration', '-1'],
  // A logged plan contains the bound values as lists of bytes.
  ['debug_print_plan', 'off'],
]

/** The setting that would log bound values; undefined when none would. */
async function logsParameters(db: Database): Promise<string | undefined> {
  const { rows } = await db.query(
    `SELECT ${['log_parameter_max_length', ...QUIET.map(([name]) => name)]
      .map((name) => `current_setting('${name}', true) AS "${name}"`)
      .join(', ')}`,
  )
  const [now] = rows
  if (now['pgaudit.log_parameter'] === 'on') return 'pgaudit.log_parameter is on'
  const explains = now['auto_explain.log_min_duration']
  if (explains && explains !== '-1') return `auto_explain.log_min_duration is ${explains}`
  if (now.log_parameter_max_length === '0') return undefined
  if (now.log_statement === 'all') return 'log_statement is all'
  for (const name of ['log_min_duration_statement', 'log_min_duration_sample'])
    if (now[name] && now[name] !== '-1') return `${name} is ${now[name]}`
  if (Number(now.log_transaction_sample_rate ?? 0) > 0) return 'log_transaction_sample_rate is not 0'
  return undefined
}
