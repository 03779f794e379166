import { existsSync, readFileSync } from 'node:fs'
import { homedir, userInfo } from 'node:os'
import { join } from 'node:path'
import type { ConnectionOptions } from 'node:tls'
import pg from 'pg'

/** Side of a connection, as named in error messages. */
export type Side = 'source' | 'target'

/** A URL's settings in the form that `pg` accepts. */
export interface Endpoint {
  config: pg.ClientConfig
  /** TLS settings to try in order: `prefer` means TLS, then plain. */
  tls: (ConnectionOptions | false)[]
  sslmode: string
  database: string
}

/** URL parameters for the client. All others are server settings, as in the real tools. */
const CLIENT_PARAMS = new Set([
  'sslmode',
  'sslrootcert',
  'sslcert',
  'sslkey',
  'options',
  'application_name',
  'connect_timeout',
  'host',
  'port',
  'user',
  'password',
  'dbname',
  'replication',
  'service',
  'passfile',
  'target_session_attrs',
  'sslnegotiation',
  'sslsni',
  'channel_binding',
])

/** Settings that affect the text form of values. Both sides get the same, so texts pass through unchanged. */
const TEXT_SETTINGS = [
  'DateStyle=ISO',
  'IntervalStyle=postgres',
  'extra_float_digits=3',
  'TimeZone=UTC',
  'bytea_output=hex',
]

/**
 * Splits a `postgres://` URL. As in libpq and the real tools' driver, missing parts come from a service file, then from
 * variables such as `PGHOST` and `PGUSER`, and the password from a password file. Throws an Error that does not contain
 * the password.
 */
export function parseEndpoint(connString: string, applicationName: string): Endpoint {
  const url = parseUrl(connString)
  const service = readService(url.searchParams.get('service') ?? process.env.PGSERVICE)
  const param = (name: string) => url.searchParams.get(name) ?? service.get(name)
  const setting = (fromUrl: string, name: string, variable: string) =>
    fromUrl || param(name) || process.env[variable] || undefined
  const server = [...url.searchParams].filter(([name]) => !CLIENT_PARAMS.has(name)).map(([k, v]) => `${k}=${v}`)
  const options = [param('options'), ...[...TEXT_SETTINGS, ...server].map((s) => `-c ${escapeOption(s)}`)]
  const user = setting(decode(url.username), 'user', 'PGUSER') ?? userInfo().username
  const database = setting(decode(url.pathname.slice(1)), 'dbname', 'PGDATABASE') ?? user
  const host = decode(setting(url.hostname.replace(/^\[|\]$/g, ''), 'host', 'PGHOST') ?? 'localhost')
  const port = setting(url.port, 'port', 'PGPORT') ?? '5432'
  const password = setting(decode(url.password), 'password', 'PGPASSWORD')
  const sslmode = setting('', 'sslmode', 'PGSSLMODE') ?? 'prefer'
  return {
    config: {
      host,
      port: Number(port),
      user,
      password: password ?? passfilePassword(param('passfile'), [host, port, database, user]),
      database,
      application_name: param('application_name') ?? applicationName,
      options: options.filter(Boolean).join(' '),
      connectionTimeoutMillis: Number(param('connect_timeout') ?? 0) * 1000,
      keepAlive: true,
      // Keep text as text: parsing would lose microseconds, numeric scale and the order of jsonb keys.
      types: { getTypeParser: () => (text: unknown) => text } as unknown as pg.ClientConfig['types'],
    },
    tls: host.startsWith('/') ? [false] : tlsAttempts(sslmode, param),
    sslmode,
    database,
  }
}

function parseUrl(connString: string): URL {
  try {
    const url = new URL(connString)
    if (!/^postgres(ql)?:$/.test(url.protocol)) throw new Error(`unsupported scheme ${url.protocol}`)
    decode(url.password)
    decode(url.username)
    return url
  } catch {
    const shown = connString.replace(/\/\/.*@/, '//xxxxxx@')
    throw new Error(`cannot parse \`${shown}\`: failed to parse as URL`)
  }
}

/** One section of the service file; empty if none is requested. Throws if the requested section is missing. */
function readService(name: string | undefined): Map<string, string> {
  const found = new Map<string, string>()
  if (!name) return found
  let section = ''
  for (const line of readLines(process.env.PGSERVICEFILE ?? join(homedir(), '.pg_service.conf'))) {
    const header = /^\s*\[(.*)\]\s*$/.exec(line)
    const pair = /^\s*([^#=\s]+)\s*=\s*(.*?)\s*$/.exec(line)
    if (header) section = header[1] as string
    else if (pair && section === name) found.set(pair[1] as string, pair[2] as string)
  }
  if (found.size === 0) throw new Error(`unable to find service: ${name}`)
  return found
}

/** The first line of a password file that matches host, port, database and user. */
function passfilePassword(file: string | undefined, wanted: string[]): string | undefined {
  for (const line of readLines(file ?? process.env.PGPASSFILE ?? join(homedir(), '.pgpass'))) {
    const parts = [...line.matchAll(/((?:\\.|[^:\\])*)(?::|$)/g)].map((m) => (m[1] as string).replace(/\\(.)/g, '$1'))
    if (!line.startsWith('#') && parts.length > 4 && wanted.every((w, i) => parts[i] === '*' || parts[i] === w))
      return parts[4]
  }
  return undefined
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split(/\r?\n/)
  } catch {
    return []
  }
}

function decode(text: string): string {
  return decodeURIComponent(text)
}

function escapeOption(setting: string): string {
  return setting.replace(/[\\ ]/g, '\\$&')
}

function tlsAttempts(sslmode: string, param: (name: string) => string | undefined): (ConnectionOptions | false)[] {
  if (sslmode === 'disable') return [false]
  const file = (name: string) => {
    const path = param(name)
    return path ? readFileSync(path) : undefined
  }
  // Where pgx and libpq look for the root certificate if the URL names none.
  const usual = join(homedir(), '.postgresql/root.crt')
  const ca = file('sslrootcert') ?? (existsSync(usual) ? readFileSync(usual) : undefined)
  const base: ConnectionOptions = { cert: file('sslcert'), key: file('sslkey') }
  switch (sslmode) {
    case 'allow':
      return [false, { ...base, rejectUnauthorized: false }]
    case 'prefer':
      return [{ ...base, rejectUnauthorized: false }, false]
    case 'require':
      return [ca ? { ...base, ca, checkServerIdentity: () => undefined } : { ...base, rejectUnauthorized: false }]
    case 'verify-ca':
      return [{ ...base, ca, checkServerIdentity: () => undefined }]
    case 'verify-full':
      return [{ ...base, ca }]
    default:
      throw new Error('cannot parse connection string: failed to configure TLS (sslmode is invalid)')
  }
}

/** Opens one connection, trying TLS and plain according to `sslmode`. The caller closes it. */
export async function open(endpoint: Endpoint, replication = false): Promise<pg.Client> {
  let failure: unknown
  for (const ssl of endpoint.tls) {
    const client = new pg.Client({
      ...endpoint.config,
      ssl,
      ...(replication ? { replication: 'database' } : {}),
    } as pg.ClientConfig)
    // Without a listener, a connection that breaks while idle would end this process.
    client.on('error', () => {})
    try {
      await client.connect()
      return client
    } catch (error) {
      failure = error
      if (endpoint.tls.length > 1 && !(error instanceof Error && /SSL/.test(error.message))) break
    }
  }
  throw connectError(endpoint, failure)
}

/** Formats a connection error as the real tools' driver does, without the password. */
function connectError(endpoint: Endpoint, cause: unknown): Error {
  const { host, port, user, database } = endpoint.config
  const first = cause instanceof AggregateError ? cause.errors[0] : cause
  const code = (first as NodeJS.ErrnoException)?.code
  const text = code === 'ECONNREFUSED' ? `dial tcp ${host}:${port}: connect: connection refused` : errorText(first)
  const stage = sqlState(first) === '28P01' ? 'failed SASL auth' : sqlState(first) ? 'server error' : 'dial error'
  const error = new Error(`failed to connect to \`host=${host} user=${user} database=${database}\`: ${stage} (${text})`)
  error.cause = first
  return error
}

/** The error's SQLSTATE, if a server sent it. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}

/** Formats an error as pgx does: `ERROR: … (SQLSTATE 23505)`. */
export function errorText(error: unknown): string {
  if (error instanceof pg.DatabaseError) return `${error.severity}: ${error.message} (SQLSTATE ${error.code})`
  return error instanceof Error ? error.message : String(error)
}

/** Quotes an identifier. */
export const ident = pg.escapeIdentifier

/** Quotes a literal without a type, so that the server reads it as the column's type. */
export function literal(value: string | null): string {
  if (value === null) return 'NULL'
  if (value.includes('\\')) return ` E'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
  return `'${value.replaceAll("'", "''")}'`
}

/** A row whose values are texts. */
export type TextRow = Record<string, string | null>

/** Runs a query and returns its values as text. */
export async function rows(client: pg.Client, sql: string, params: unknown[] = []): Promise<TextRow[]> {
  return (await client.query(sql, params)).rows as TextRow[]
}
