// A server that answers like CockroachDB: a wire protocol proxy in front of an embedded PostgreSQL.
import { connect as connectTcp, createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createSecureContext, TLSSocket } from 'node:tls'
import pg from 'pg'
import { LIKE_SERVER } from '../../src/destination/server.ts'
import type { EmbeddedServer } from '../postgres/postgres.ts'
import { Connection, type ConnectionHost, type Fault } from './connection.ts'
import { wording } from './errors.ts'
import { type ImportOptions, importEngine } from './import.ts'
import { fillColumns, installSql, ROLES_SQL } from './install.ts'
import { Jobs } from './jobs.ts'
import { Past } from './past.ts'
import type { Plan, RuleContext } from './rule.ts'
import { OWN_VARIABLES } from './rules/settings.ts'
import { planFor } from './rules/statements.ts'
import { type EndedTransaction, type Execution, type PlanNode, Statistics } from './statistics.ts'
import { SqlError, type Statement, type Version } from './types.ts'
import * as wire from './wire.ts'

export interface CockroachOptions {
  /** `24.3`, `25.2`, `26.1`, … Default: 25.2. */
  version?: string
  /** Duration of a schema change or grant, in milliseconds. Default: 0. */
  ddlTime?: number
  /** Extra milliseconds for each round trip. Default: 0. */
  latency?: number
  /**
   * Share of statements that fail with 40001, from 0 to 1. For molt and the replicator, only statements in transactions
   * count. Default: 0.
   */
  retryRate?: number
  /**
   * Makes each distinct statement of this application fail once: with 40001, or, if it writes, with 40003 after it was
   * executed. With `only`, only the statement with this number fails, counted from 1 in the order of first use.
   */
  failEach?: { code: '40001' | '40003'; application: string; only?: number } | undefined
  /** Share of writes, schema changes and commits that are executed but return 40003. Default: 0. */
  ambiguousRate?: number
  /** Simulates a full disk: every write and schema change fails with 53100. Default: false. */
  diskFull?: boolean
  /** Seed of the faults. The same seed gives the same faults for the same statements. */
  seed?: number
  /** Called before an import reads each file. Can delay its job. */
  beforeFile?: ImportOptions['beforeFile']
  /** PEM texts. If set, the server accepts only TLS connections; otherwise, only plain ones. */
  tls?: { key: string; cert: string }
}

export interface CockroachServer {
  readonly version: Version
  readonly port: number
  /** `postgresql://postgres:postgres@127.0.0.1:PORT/DATABASE?sslmode=disable` */
  urlOf(database: string): string
  /** Statements that no rule covers, as received. The server refused them. */
  readonly unknown: string[]
  /** Application name → its statements. Statements that differ only in literals count once. */
  readonly sent: ReadonlyMap<string, ReadonlySet<string>>
  /** Statements that `failEach` made fail: application name and statement, with `?` for literals. */
  readonly failed: ReadonlySet<string>
  /** Faults and delays, which can be changed at any time. */
  readonly options: Required<Omit<CockroachOptions, 'version' | 'tls' | 'seed' | 'beforeFile' | 'failEach'>> &
    Pick<CockroachOptions, 'failEach'>
  readonly jobs: Jobs
  /** Closes all connections. The PostgreSQL server behind this one keeps running. */
  stop(): Promise<void>
}

interface Shared {
  behind: Behind
  version: Version
  options: CockroachServer['options']
  random: () => number
  jobs: Jobs
  runImport: ReturnType<typeof importEngine>
  /** Database → offline tables, as `schema.name`. */
  offline: Map<string, Set<string>>
  /** Database → pool of a single connection, so that statements queue for it. */
  installed: Map<string, Promise<pg.Pool>>
  /** Database → superuser sessions that statements borrow. */
  lent: Map<string, pg.Pool>
  statistics: Statistics
  /** Database → its past states. */
  pasts: Map<string, Past>
  unknown: string[]
  sent: Map<string, Set<string>>
  /** Keys of `sent`: application name and statement without literals. */
  shapes: Set<string>
  /** Members of `shapes` that `failEach` has counted. */
  counted: Set<string>
  /** Members of `shapes` that `failEach` has made fail once. */
  failed: Set<string>
  tls: CockroachOptions['tls']
}

/** The PostgreSQL server behind this one, on this machine. Its URLs log in as a superuser. */
export type Behind = Pick<EmbeddedServer, 'port' | 'urlOf'>

const DEFAULT_VERSION = '25.2'

function versionOf(text: string): Version {
  const [major = 0, minor = 0] = text.split('.').map(Number)
  return [major, minor]
}

export async function startCockroach(behind: Behind, options: CockroachOptions = {}): Promise<CockroachServer> {
  const installed: Shared['installed'] = new Map()
  const shared: Shared = {
    behind,
    version: versionOf(options.version ?? DEFAULT_VERSION),
    options: {
      ddlTime: options.ddlTime ?? 0,
      latency: options.latency ?? 0,
      retryRate: options.retryRate ?? 0,
      failEach: options.failEach,
      ambiguousRate: options.ambiguousRate ?? 0,
      diskFull: options.diskFull ?? false,
    },
    random: seeded(options.seed ?? 1),
    jobs: new Jobs(),
    runImport: importEngine({ beforeFile: options.beforeFile }),
    offline: new Map(),
    installed,
    lent: new Map(),
    statistics: new Statistics(),
    pasts: new Map(),
    unknown: [],
    sent: new Map(),
    shapes: new Set(),
    counted: new Set(),
    failed: new Set(),
    tls: options.tls,
  }
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => open.delete(socket))
    void serve(socket, shared).catch(() => socket.destroy())
  })
  const port = await listen(server)
  return {
    version: shared.version,
    port,
    urlOf: (database) => withPort(behind.urlOf(database), port),
    unknown: shared.unknown,
    sent: shared.sent,
    failed: shared.failed,
    options: shared.options,
    jobs: shared.jobs,
    async stop() {
      for (const socket of open) socket.destroy()
      await new Promise((done) => server.close(done))
      await Promise.all([...shared.pasts.values()].map((past) => past.close()))
      const pools = [...installed.values(), ...shared.lent.values()]
      await Promise.all(pools.map(async (pool) => (await pool).end().catch(() => {})))
    },
  }
}

/** The embedded server as clients see it: reached through the proxy, and stopped together with it. */
export function seenThrough(cluster: CockroachServer, behind: EmbeddedServer, database = 'shop'): EmbeddedServer {
  return Object.create(behind, {
    url: { value: cluster.urlOf(database) },
    port: { value: cluster.port },
    urlOf: { value: cluster.urlOf },
    stop: {
      value: async () => {
        await cluster.stop()
        await behind.stop()
      },
    },
  })
}

function withPort(url: string, port: number): string {
  const changed = new URL(url)
  changed.port = String(port)
  return changed.href
}

function listen(server: Server): Promise<number> {
  return new Promise((done, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => done((server.address() as { port: number }).port))
  })
}

/** mulberry32: a small seeded generator of random numbers, which are the same on every platform. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Returns a superuser connection to a database, after installing the server's additions there. */
function admin(shared: Shared, database: string): Promise<pg.Pool> {
  let pool = shared.installed.get(database)
  if (!pool) {
    pool = install(shared, database)
    shared.installed.set(database, pool)
    pool.catch(() => shared.installed.delete(database))
  }
  return pool
}

function adminConfig({ behind }: Pick<Shared, 'behind'>, database: string): pg.ClientConfig {
  return {
    connectionString: behind.urlOf(database),
    application_name: '_crdb',
    // Defaults set for a role or database are meant for clients, not for the server's own sessions.
    options: '-c default_transaction_read_only=off',
  }
}

async function connectAdmin(shared: Pick<Shared, 'behind'>, database: string): Promise<pg.Client> {
  const client = new pg.Client(adminConfig(shared, database))
  client.on('error', () => {})
  await client.connect()
  return client
}

/** Lends a superuser session, and resets it afterwards. Opening a new one takes longer than most schema changes. */
async function lend<T>(shared: Shared, database: string, work: (db: pg.ClientBase) => Promise<T>): Promise<T> {
  const known = shared.lent.get(database)
  const pool = known ?? new pg.Pool({ ...adminConfig(shared, database), max: 20, idleTimeoutMillis: 3_000 })
  // Removes an idle session from the pool if its connection breaks.
  if (!known) pool.on('error', () => {})
  shared.lent.set(database, pool)
  const client = await pool.connect()
  try {
    return await work(client)
  } finally {
    await client.query('DISCARD ALL').then(
      () => client.release(),
      () => client.release(true),
    )
  }
}

/**
 * Publishes the statistics and, with `plans`, the full scans. Sequential scans are disabled in the plans, because
 * PostgreSQL prefers them for small tables and CockroachDB does not.
 */
async function publishStatistics(shared: Shared, database: string, plans: boolean): Promise<void> {
  const db = await admin(shared, database)
  if (!plans) return shared.statistics.publish(db, database)
  await lend(shared, database, async (planner) => {
    await planner.query('SET enable_seqscan = off')
    await shared.statistics.publish(db, database, async (sql) => {
      if (!/^\s*(select|insert|update|delete|with|values)\b/i.test(sql)) return undefined
      const { rows } = await planner
        .query(`EXPLAIN (FORMAT JSON, GENERIC_PLAN) ${sql}`)
        .catch(() => ({ rows: [] as Record<string, [{ Plan: PlanNode }]>[] }))
      return rows[0]?.['QUERY PLAN']?.[0].Plan
    })
  })
}

function pastOf(shared: Shared, database: string): Past {
  const past = shared.pasts.get(database) ?? new Past(() => connectAdmin(shared, database))
  shared.pasts.set(database, past)
  return past
}

async function install(shared: Shared, database: string): Promise<pg.Pool> {
  const pool = new pg.Pool({ ...adminConfig(shared, database), max: 1, idleTimeoutMillis: 0 })
  pool.on('error', () => {
    // The database may have been dropped, and a new one of the same name needs its own installation.
    shared.installed.delete(database)
    void pool.end()
  })
  const client = await pool.connect()
  try {
    await installIn(client, shared.version)
  } catch (error) {
    client.release(true)
    await pool.end()
    throw error
  }
  client.release()
  return pool
}

/**
 * Installs the server's additions in the template database, so that new databases start with them. Use it only on
 * PostgreSQL servers dedicated to this.
 */
export async function installInTemplate(behind: Behind, version = DEFAULT_VERSION): Promise<void> {
  const client = await connectAdmin({ behind }, 'template1')
  try {
    await installIn(client, versionOf(version))
  } finally {
    await client.end()
  }
}

async function installIn(client: pg.ClientBase, version: Version): Promise<void> {
  const [major, minor] = version
  const { rows } = await client.query(
    "SELECT current_setting('server_version') AS behind, to_regproc('_crdb.version') IS NOT NULL AS there",
  )
  const name = `CockroachDB CCL v${major}.${minor}.0 (${LIKE_SERVER} on PostgreSQL ${rows[0].behind})`
  if (rows[0].there && (await client.query('SELECT _crdb.version() AS name')).rows[0].name === name) return
  const columnsOf = async (catalog: string) =>
    (await client.query(`SELECT * FROM ${catalog} LIMIT 0`)).fields.map((field) => field.name)
  // Several databases or connections may be prepared at the same time.
  await client.query('SELECT pg_advisory_lock(4711)')
  await client.query(ROLES_SQL)
  await client.query(await fillColumns(installSql(version, name), columnsOf))
  await client.query('SELECT pg_advisory_unlock(4711)')
}

/** Reads the client's first messages, connects to PostgreSQL, and forwards both directions. */
async function serve(socket: Socket, shared: Shared): Promise<void> {
  const { stream, code, body } = await firstMessage(socket, shared)
  const backend = connectTcp(shared.behind.port, '127.0.0.1')
  backend.setNoDelay(true)
  await new Promise<void>((done, reject) => {
    backend.once('connect', done)
    backend.once('error', reject)
  })
  if (code === wire.CANCEL_REQUEST) {
    backend.end(Buffer.concat([head(body.length + 8, code), body]))
    stream.end()
    return
  }
  const parameters = startParameters(wire.readStartup(body))
  const client = new Client(shared, parameters)
  backend.write(wire.startup(parameters))
  client.connection = new Connection(stream, backend, client)
  stream.once('close', () => client.leave())
}

function head(length: number, code: number): Buffer {
  const buffer = Buffer.alloc(8)
  buffer.writeInt32BE(length, 0)
  buffer.writeInt32BE(code, 4)
  return buffer
}

async function firstMessage(socket: Socket, { tls }: Shared): Promise<{ stream: Duplex; code: number; body: Buffer }> {
  let stream: Duplex = socket
  for (;;) {
    const start = await take(stream, 8)
    const code = start.readInt32BE(4)
    const body = await take(stream, start.readInt32BE(0) - 8)
    if (code === wire.SSL_REQUEST && tls) {
      socket.write('S')
      stream = new TLSSocket(socket, { isServer: true, secureContext: createSecureContext(tls) })
      stream.on('error', () => socket.destroy())
    } else if (code === wire.SSL_REQUEST || code === wire.GSS_REQUEST) socket.write('N')
    else if (tls && code === wire.PROTOCOL_3 && stream === socket) {
      // pkg/sql/pgwire/server.go: ErrSSLRequired
      const refusal = new SqlError('08P01', 'node is running secure mode, SSL connection required')
      socket.end(wire.errorResponse(wire.errorFields(refusal)))
      throw refusal
    } else return { stream, code, body }
  }
}

/** Reads exactly this many bytes from a stream that has no other reader. */
async function take(stream: Duplex, length: number): Promise<Buffer> {
  if (!length) return Buffer.alloc(0)
  for (;;) {
    const chunk = stream.read(length) as Buffer | null
    if (chunk?.length === length) return chunk
    if (chunk || stream.readableEnded || stream.destroyed) throw new Error('the client left')
    await new Promise<void>((done) => {
      const wake = () => {
        for (const name of ['readable', 'end', 'close']) stream.off(name, wake)
        done()
      }
      for (const name of ['readable', 'end', 'close']) stream.on(name, wake)
    })
  }
}

/** Renames CockroachDB's variables to `crdb.name`, because PostgreSQL lacks them. */
function startParameters(given: Map<string, string>): Map<string, string> {
  const parameters = new Map<string, string>()
  const options: string[] = []
  for (const [name, value] of given)
    if (name === 'options') options.push(...ownOptions(value))
    else if (OWN_VARIABLES.has(name)) options.push(`-c crdb.${name}=${value}`)
    else if (name !== 'crdb_version' && name !== 'results_buffer_size') parameters.set(name, value)
  if (options.length) parameters.set('options', options.join(' '))
  return parameters
}

/** Reads `-c name=value` and `--name=value`, with backslashes before spaces. */
function ownOptions(text: string): string[] {
  const parts = text.match(/(?:\\.|\S)+/g) ?? []
  const settings = parts.flatMap((part, at) =>
    part === '-c' ? (parts[at + 1] ?? []) : parts[at - 1] === '-c' ? [] : part.replace(/^(--|-c)/, ''),
  )
  return settings
    .filter((setting) => !setting.startsWith('cluster='))
    .map((setting) => {
      const name = setting.slice(0, setting.indexOf('=')).replaceAll('-', '_')
      return `-c ${OWN_VARIABLES.has(name) ? 'crdb.' : ''}${name}${setting.slice(setting.indexOf('='))}`
    })
}

const CHANGES_ROWS = /^\s*(insert|update|delete|with\b.*\b(insert|update|delete)\b)/is

/** Application names of molt and the replicator. */
const OF_TOOLS = /^molt[ _-](fetch|verify)|^molt$|replicator/

/** One client: its session, and the context for the rules. */
class Client implements ConnectionHost {
  readonly #shared: Shared
  readonly #user: string
  readonly #database: string
  readonly #application: string
  readonly #left = new AbortController()
  #searchPath: string
  readonly #variables = new Map<string, string>()
  readonly #shapes = new WeakMap<Plan, string>()
  #defaultsRead = false
  connection!: Connection

  constructor(shared: Shared, parameters: ReadonlyMap<string, string>) {
    this.#shared = shared
    this.#user = parameters.get('user') ?? ''
    this.#database = parameters.get('database') ?? this.#user
    this.#application = parameters.get('application_name') ?? ''
    for (const [, name = '', value = ''] of (parameters.get('options') ?? '').matchAll(/crdb\.(\w+)=((?:\\.|\S)*)/g))
      this.#variables.set(name, value)
    const path = /search_path=((?:\\.|\S)*)/.exec(parameters.get('options') ?? '')?.[1]
    this.#searchPath = parameters.get('search_path') ?? path?.replaceAll('\\', '') ?? '"$user", public'
  }

  get latency(): number {
    return this.#shared.options.latency
  }

  leave(): void {
    this.#left.abort()
  }

  fault(plans: readonly Plan[], inTransaction: boolean): Fault | undefined {
    const { options, random } = this.#shared
    const full = options.diskFull && plans.find(({ writes, sql }) => writes || CHANGES_ROWS.test(sql))
    if (full) return { code: '53100', plan: full }
    const retryable = plans.filter(({ retryable }) => retryable)
    const writing = retryable.filter(
      ({ commits, writes, sql }) => commits || writes || (!inTransaction && CHANGES_ROWS.test(sql)),
    )
    const each = options.failEach
    if (each?.application === this.#application) {
      const [plan] = (each.code === '40001' ? retryable : writing).filter((plan) => this.#failsNow(plan, each.only))
      if (plan) return { code: each.code, plan }
    }
    // See the rule `retries.single`.
    const repeated = OF_TOOLS.test(this.#application) && !inTransaction && !plans.some(({ commits }) => commits)
    const [lost, unknown] = [retryable[0], writing[0]]
    if (lost && !repeated && options.retryRate && random() < options.retryRate) return { code: '40001', plan: lost }
    return unknown && options.ambiguousRate && random() < options.ambiguousRate
      ? { code: '40003', plan: unknown }
      : undefined
  }

  async plan(statement: Statement): Promise<Plan> {
    const { unknown } = this.#shared
    const shape = this.#record(statement)
    await this.#readDefaults()
    this.#notePath(statement)
    this.#noteVariable(statement)
    this.#noteConfig(statement)
    const plan = await planFor(statement, this.#context())
    if (plan) {
      const shown = readsJobs(statement) ? this.#withJobs(plan) : plan
      this.#shapes.set(shown, shape)
      return shown
    }
    unknown.push(statement.sql)
    throw new SqlError('0A000', `${LIKE_SERVER}: there is no rule for this statement: ${statement.sql.slice(0, 200)}`)
  }

  /** Reads the role's defaults for CockroachDB's variables. The client's own settings take precedence. */
  async #readDefaults(): Promise<void> {
    const db = await admin(this.#shared, this.#database)
    if (this.#defaultsRead) return
    this.#defaultsRead = true
    const { rows } = await db.query(ROLE_DEFAULTS, [this.#user])
    for (const { name, value } of rows) if (!this.#variables.has(name)) this.#variables.set(name, value)
  }

  #withJobs(plan: Plan): Plan {
    const { jobs } = this.#shared
    return {
      ...plan,
      before: async () => {
        await jobs.publish(await admin(this.#shared, this.#database))
        await plan.before?.()
      },
    }
  }

  /** Whether this statement is the first of its shape. With `only`, the shape must also have that number. */
  #failsNow(plan: Plan, only: number | undefined): boolean {
    const { counted, failed } = this.#shared
    const shape = this.#shapes.get(plan) ?? ''
    if (counted.has(shape)) return false
    counted.add(shape)
    if (only !== undefined && counted.size !== only) return false
    failed.add(shape)
    return true
  }

  /** Records a statement as sent. @returns its shape: the application's name, and the statement without literals */
  #record({ tokens, sql }: Statement): string {
    const { sent, shapes } = this.#shared
    const texts = tokens.map(({ kind, text }) => (kind === 'string' || kind === 'number' ? '?' : text))
    const shape = [this.#application, ...texts].join(' ')
    if (shapes.has(shape)) return shape
    shapes.add(shape)
    const seen = sent.get(this.#application) ?? new Set()
    sent.set(this.#application, seen.add(sql))
    return shape
  }

  /**
   * Records the search path for schema changes, which run on another connection but must resolve names in the same way.
   */
  #notePath({ tokens, sql }: Statement): void {
    const at = tokens.findIndex(({ value }) => value === 'search_path')
    if (at > 0 && at < 3 && tokens[0]?.value === 'set') this.#searchPath = sql.slice(tokens[at + 2]?.start)
  }

  /**
   * Records a variable immediately, because a rule that depends on it runs before PostgreSQL receives the next
   * statement.
   */
  #noteVariable({ tokens }: Statement): void {
    const at = /^(session|local)$/.test(tokens[1]?.value ?? '') ? 2 : 1
    const name = tokens[at]?.value ?? ''
    if (!OWN_VARIABLES.has(name)) return
    if (tokens[0]?.value === 'set') this.#variables.set(name, tokens[at + 2]?.value ?? '')
    if (tokens[0]?.value === 'reset') this.#variables.delete(name)
  }

  /** Records `set_config('name', 'value', …)` anywhere in a statement. */
  #noteConfig({ tokens }: Statement): void {
    for (const [at, { kind, value }] of tokens.entries()) {
      const [name, setting] = [tokens[at + 2], tokens[at + 4]]
      if (kind !== 'word' || value !== 'set_config' || name?.kind !== 'string' || setting?.kind !== 'string') continue
      if (OWN_VARIABLES.has(name.value)) this.#variables.set(name.value, setting.value)
    }
  }

  requireOnline({ tokens }: Statement): void {
    const tables = this.#shared.offline.get(this.#database)
    if (!tables?.size || tokens[0]?.value === 'import' || tokens[0]?.value === 'show') return
    const names = new Set(tokens.filter(({ kind }) => kind === 'word' || kind === 'quoted').map(({ value }) => value))
    for (const table of tables)
      if (names.has(table)) throw new SqlError('55000', `relation "${table}" is offline: importing`)
  }

  parameterStatus(name: string, value: string): string | undefined {
    return name === 'server_version' ? '13.0.0' : value
  }

  wording(fields: Map<string, string>): Map<string, string> {
    return wording(fields, this.#user)
  }

  backendKey(): void {}

  executed(execution: Omit<Execution, 'application' | 'database'>): void {
    this.#shared.statistics.count({ ...execution, application: this.#application, database: this.#database })
  }

  transactionEnded(ended: Omit<EndedTransaction, 'application'>): void {
    this.#shared.statistics.countTransaction({ ...ended, application: this.#application })
  }

  #context(): RuleContext {
    const { version, jobs, options } = this.#shared
    const one = <Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]> =>
      admin(this.#shared, this.#database).then(async (db) => (await db.query<Row>(sql, values)).rows)
    const session = {
      user: this.#user,
      database: this.#database,
      signal: this.#left.signal,
      searchPath: this.#searchPath,
      variables: this.#variables,
    }
    const context: RuleContext = {
      session,
      version,
      jobs,
      ddlTime: options.ddlTime,
      admin: one,
      connect: () => connectAdmin(this.#shared, this.#database),
      lend: (work) => lend(this.#shared, this.#database, work),
      commitOpen: () => this.connection.commitOpen(),
      inTransaction: () => this.connection.hasOpen(),
      runImport: (statement) => this.#import(statement, context),
      publishStatistics: (plans) => publishStatistics(this.#shared, this.#database, plans),
      past: pastOf(this.#shared, this.#database),
      isAdmin: async () => Boolean((await one('SELECT _crdb.is_admin($1) AS yes', [this.#user]))[0]?.yes),
      hasPrivilege: async (schema, table, privilege) =>
        Boolean((await one(HAS_PRIVILEGE, [schema, table, privilege, this.#user]))[0]?.yes),
      hasSystemPrivilege: async (privilege) =>
        Boolean((await one('SELECT _crdb.has_system_privilege($1, $2) AS yes', [this.#user, privilege]))[0]?.yes),
    }
    return context
  }

  async #import(statement: Statement, context: RuleContext): Promise<string> {
    const mark = async (schema: string, table: string, off: boolean) => {
      const tables = this.#shared.offline.get(this.#database) ?? new Set()
      this.#shared.offline.set(this.#database, tables)
      if (off) tables.add(table)
      else tables.delete(table)
      await context.admin(
        off
          ? `INSERT INTO _crdb.offline VALUES (format('%I.%I', $1::text, $2::text)::regclass) ON CONFLICT DO NOTHING`
          : `DELETE FROM _crdb.offline WHERE relid = format('%I.%I', $1::text, $2::text)::regclass`,
        [schema, table],
      )
    }
    const result = await this.#shared.runImport(statement, {
      session: context.session,
      jobs: context.jobs,
      version: context.version,
      connect: context.connect,
      hasPrivilege: context.hasPrivilege,
      hasSystemPrivilege: context.hasSystemPrivilege,
      takeOffline: (schema, table) => mark(schema, table, true),
      bringOnline: (schema, table) => mark(schema, table, false),
    })
    const { jobId, status, fractionCompleted, rows, indexEntries, bytes } = result
    return JSON.stringify({
      job_id: jobId,
      status,
      fraction_completed: fractionCompleted,
      rows,
      index_entries: indexEntries,
      bytes,
    })
  }
}

/** Whether a statement uses jobs anywhere, as in SHOW JOBS, `crdb_internal.jobs` or CANCEL JOB. */
function readsJobs({ tokens }: Statement): boolean {
  return tokens.some(({ kind, value }) => kind === 'word' && /^jobs?$/.test(value))
}

const ROLE_DEFAULTS = `
  SELECT split_part(c.text, '=', 1) AS name, substr(c.text, strpos(c.text, '=') + 1) AS value
    FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
   CROSS JOIN LATERAL (SELECT substr(each, 6) AS text FROM unnest(s.setconfig) each WHERE each LIKE 'crdb.%') c
   WHERE r.rolname = $1 AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))`

const HAS_PRIVILEGE = `
  SELECT _crdb.is_admin($4) OR EXISTS (SELECT 1 FROM _crdb.table_privileges p
    WHERE p.table_schema = $1 AND p.table_name = $2 AND p.privilege_type IN ($3, 'ALL')
      AND (lower(p.grantee) = 'public' OR pg_catalog.pg_has_role($4, p.grantee::name, 'USAGE'))) AS yes`
