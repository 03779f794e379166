import { Socket } from 'node:net'
import pg from 'pg'
import { parseIntoClientConfig } from 'pg-connection-string'
import type { ErrorCode } from './codes.ts'
import { messageOf, ToolError, UserError } from './errors.ts'
import { loginOf, passwordFor } from './password-command.ts'
import { redact } from './secrets.ts'
import { poolerError, requireOwnSession, type SessionSettings, sessionSettings } from './session.ts'
import { TargetClient } from './target-client.ts'
import { TIMING } from './timing.ts'
import { withLibpqTls } from './url.ts'

export type Side = 'source' | 'target'

export type Database = pg.Client

/** A connection could not be opened. The cause may be temporary. */
export class ConnectError extends UserError {
  override name = 'ConnectError'
}

/** Quotes an identifier. */
export const ident = pg.escapeIdentifier

/** Quotes a string as an SQL literal. */
export const literal = pg.escapeLiteral

/** `"schema"."name"` */
export function qualified(schema: string, name: string): string {
  return `${ident(schema)}.${ident(name)}`
}

/** Whether a relation exists. `name` must be quoted and qualified as in a statement. */
export async function relationExists(db: Database, name: string): Promise<boolean> {
  return (await db.query('SELECT pg_catalog.to_regclass($1) IS NOT NULL AS there', [name])).rows[0].there
}

/** Runs a query and returns its rows; none if the table does not exist. */
export async function rowsIfAny<Row extends pg.QueryResultRow>(
  db: Database,
  sql: string,
  values: unknown[],
): Promise<Row[]> {
  try {
    return (await db.query<Row>(sql, values)).rows
  } catch (error) {
    if (isMissingTable(error)) return []
    throw error
  }
}

/**
 * Runs statements without parameters in one round trip.
 * @returns the rows of each statement, in order
 */
export async function queryAll(db: Database, statements: readonly string[]): Promise<pg.QueryResultRow[][]> {
  if (!statements.length) return []
  const results = (await db.query(statements.join(';\n'))) as unknown as pg.QueryResult | pg.QueryResult[]
  return [results].flat().map(({ rows }) => rows)
}

/** Session settings that forbid writes. */
export const READ_ONLY = { default_transaction_read_only: 'on' } as const

export interface ConnectOptions {
  /** Driver options, which override the URL. */
  config?: pg.ClientConfig
  /** Session settings, which override our defaults. */
  settings?: Readonly<Record<string, string>>
  /** Opens the session as the MOLT tools do: only with the settings of the role, the database and the URL. */
  asTools?: boolean
}

/**
 * Opens one connection. Keeps libpq's meaning of `sslmode`, and passes on the user's own `options`.
 * @param statementTimeout milliseconds; 0 for no timeout
 * @param signal cancels the attempt, but does not close an open connection
 * @throws UserError that names the side and the likely cause; the signal's reason if the signal aborts
 */
export async function connect(
  url: string,
  side: Side,
  statementTimeout = TIMING.statementTimeout,
  signal?: AbortSignal,
  { config, settings, asTools }: ConnectOptions = {},
): Promise<Database> {
  signal?.throwIfAborted()
  const given = configOf(url, side)
  const password = given.password ? undefined : await passwordFor(loginOf(given), signal)
  const timeout = { statement_timeout: String(statementTimeout) }
  const session = asTools ? undefined : sessionSettings(side, { ...timeout, ...settings }, given.options)
  // The driver cannot cancel a connection attempt that hangs, so cancelling destroys the socket.
  const socket = new Socket()
  const cancel = () => socket.destroy(new Error('cancelled'))
  signal?.addEventListener('abort', cancel, { once: true })
  const client = new (side === 'target' ? TargetClient : pg.Client)({
    stream: () => socket,
    ...given,
    ...(password !== undefined && { password }),
    application_name: 'molt-actions',
    connectionTimeoutMillis: Math.min(TIMING.connectTimeout, statementTimeout || TIMING.connectTimeout),
    // A second timeout in the driver, because the server's response to its own timeout can be lost.
    query_timeout: statementTimeout ? statementTimeout + TIMING.statementGrace : undefined,
    keepAlive: true,
    ...(session && { options: session.options }),
    ...config,
  })
  // Without a listener, losing an idle connection would crash the process. The next query reports the loss anyway.
  client.on('error', () => {})
  const end = client.end.bind(client) as () => Promise<void>
  client.end = (() => within(TIMING.hangUp, end(), () => socket.destroy())) as typeof client.end
  try {
    await client.connect()
    if (session) await requireOwnSession(client, side, session)
    return client
  } catch (error) {
    await client.end().catch(() => {})
    signal?.throwIfAborted()
    throw connectError(error, side, session)
  } finally {
    signal?.removeEventListener('abort', cancel)
  }
}

/**
 * Waits until the connection is closed, and calls `destroy` after `ms`. The server's reply can get lost, and in the
 * middle of a COPY the server does not reply at all.
 */
async function within(ms: number, ended: Promise<void>, destroy: () => void): Promise<void> {
  const timer = setTimeout(destroy, ms)
  try {
    await ended
  } finally {
    clearTimeout(timer)
  }
}

/** SQLSTATEs that poolers and gateways return when they reject `options`. */
const OPTIONS_REFUSED = /^(08P01|0A000)$/

function connectError(error: unknown, side: Side, session: SessionSettings | undefined): UserError {
  if (error instanceof UserError) return error
  if (session && OPTIONS_REFUSED.test(sqlState(error) ?? '')) return poolerError(side, 'refuses', error)
  const { code, advice } = explainConnect(error)
  return new ConnectError(code, `cannot connect to the ${side}: ${redact(messageOf(error))}. ${advice}`)
}

/**
 * Runs `work` without statement timeouts, on the server and in the driver. Counting rows or building an index on a
 * large table can exceed any limit.
 */
export async function unhurried<T>(db: Database, work: () => Promise<T>): Promise<T> {
  const own = (db as unknown as { connectionParameters: { query_timeout: number | false | undefined } })
    .connectionParameters
  const before = own.query_timeout
  // An outer call has already removed the timeouts.
  if (!before) return work()
  await db.query('SET statement_timeout = 0')
  own.query_timeout = false
  try {
    return await work()
  } finally {
    own.query_timeout = before
    await db.query(`SET statement_timeout = ${before - TIMING.statementGrace}`).catch(() => {})
  }
}

/** Opens a connection, runs `work` with it, and closes it. */
export async function withDatabase<T>(
  url: string,
  side: Side,
  work: (db: Database) => Promise<T>,
  signal?: AbortSignal,
): Promise<T> {
  const db = await connect(url, side, TIMING.statementTimeout, signal)
  try {
    return await work(db)
  } finally {
    await db.end().catch(() => {})
  }
}

/** A connection that opens on demand, and reopens after it is lost. */
export class Link {
  readonly url: string
  readonly side: Side
  readonly #signal: AbortSignal | undefined
  #db: Database | undefined
  /** Number of times the connection was lost. */
  losses = 0

  constructor(url: string, side: Side, signal?: AbortSignal) {
    this.url = url
    this.side = side
    this.#signal = signal
  }

  /**
   * Runs `work` with the connection. If the connection is lost, this call throws and the next call reconnects. Calls
   * must not overlap.
   */
  async use<T>(work: (db: Database) => Promise<T>): Promise<T> {
    try {
      this.#db ??= await connect(this.url, this.side, TIMING.statementTimeout, this.#signal)
      return await work(this.#db)
    } catch (error) {
      if (isConnectionLost(error)) {
        this.losses++
        await this.close()
      }
      throw error
    }
  }

  async close(): Promise<void> {
    const db = this.#db
    this.#db = undefined
    await db?.end().catch(() => {})
  }
}

/** The SQLSTATE of a database error, otherwise undefined. */
export function sqlState(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError ? error.code : undefined
}

/** Whether a query failed because its table or schema does not exist. */
export function isMissingTable(error: unknown): boolean {
  return /^(42P01|3F000)$/.test(sqlState(error) ?? '')
}

/** Whether the database or the network is temporarily unavailable, so that a retry may help. */
export function isConnectionLost(error: unknown): boolean {
  if (error instanceof ConnectError) return true
  // The message of such an error may be about another program's connection.
  if (error instanceof UserError || error instanceof ToolError) return false
  const code = sqlState(error)
  if (code) return code.startsWith('08') || code.startsWith('57P')
  return /ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|Connection terminated|not queryable|Client was closed|timeout expired|Query read timeout/.test(
    `${(error as { code?: string })?.code ?? ''} ${messageOf(error)}`,
  )
}

/** Opens a connection to the source in replication mode, which can also read a logical slot. */
export function connectForReplication(url: string, application: string): Promise<Database> {
  return connect(url, 'source', 0, undefined, {
    config: { application_name: application, ...{ replication: 'database' } },
  })
}

/** Parses the URL for the driver. Throws if a certificate file was removed after the inputs were checked. */
function configOf(url: string, side: Side): pg.ClientConfig {
  try {
    return parseIntoClientConfig(withLibpqTls(url))
  } catch (error) {
    throw new UserError('connect.url-unusable', `the URL of the ${side} cannot be used: ${redact(messageOf(error))}`)
  }
}

function explainConnect(error: unknown): { code: ErrorCode; advice: string } {
  const state = sqlState(error)
  if (state === '28P01' || state === '28000')
    return { code: 'connect.login-refused', advice: 'Check the user, the password and pg_hba.conf.' }
  if (state === '42501') return { code: 'connect.not-allowed', advice: 'Grant the user CONNECT on the database.' }
  if (state === '42704' || state === '22023')
    return { code: 'connect.option-refused', advice: 'Remove that parameter from `options` in the URL.' }
  if (state === '3D000') return { code: 'connect.no-database', advice: 'Check the database name in the URL.' }
  if (state === '53300')
    return {
      code: 'connect.no-free-slot',
      advice: 'Raise the limit that the server names.',
    }
  if (state === '57P03')
    return { code: 'connect.not-ready', advice: 'Wait until the server has started, then rerun the step.' }
  const code = (error as { code?: string }).code ?? ''
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return {
      code: 'connect.certificate-host',
      advice: "The server's certificate is for another host. In the URL, use a host name from the certificate.",
    }
  if (/^CERT_(HAS_EXPIRED|NOT_YET_VALID)$/.test(code))
    return {
      code: 'connect.certificate-expired',
      advice: "Renew the server's certificate, or correct this runner's clock.",
    }
  if (/CERT|^UNABLE_TO_VERIFY/.test(code))
    return {
      code: 'connect.certificate-untrusted',
      advice:
        "The server's certificate is not signed by an authority that this runner trusts. Name its CA file in the URL, as in sslrootcert=certs/ca.pem.",
    }
  if (/does not support SSL/.test(messageOf(error)))
    return {
      code: 'connect.no-tls',
      advice: 'Turn on TLS on the server. Without it, rows and passwords would travel unencrypted.',
    }
  return {
    code: 'connect.failed',
    advice: "Check the host and the port, and whether the server's firewall allows this runner.",
  }
}
