import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import pg from 'pg'
import { type CockroachServer, installInTemplate, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type EmbeddedPair, type EmbeddedServer, startPair } from '../../rehearsal/postgres/postgres.ts'
import { type JobResult, runAction } from '../../rehearsal/runner/runner.ts'
import { type LoadHandle, startLoad } from '../../rehearsal/shop/load.ts'
import { createShop, SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { inProcess } from './in-process.ts'
import { query, REPO, words } from './migration.ts'
import { startProxy, type TcpProxy } from './proxy.ts'
import { requireRules } from './servers.ts'
import { standInFolder } from './stand-in.ts'
import { killOnce, stoppedChild } from './stopped.ts'

/** How far a migration has come: its last completed step; `fresh` before the first step. */
export type State = 'fresh' | 'prepared' | 'loaded' | 'caught-up'
/** Each state, with the action that leads to it. */
const STEPS: readonly [State, action?: string][] = [
  ['fresh'],
  ['prepared', 'prepare'],
  ['loaded', 'fetch'],
  ['caught-up', 'replicate'],
]

export type Side = 'source' | 'target'

/** The result of one action. */
export interface Came {
  /** The error's code; undefined if the action succeeded. */
  red: string | undefined
  log: string
  result: JobResult
}

/** How an action runs. */
export interface ActionOptions {
  inputs?: Record<string, string> | undefined
  /** Folder with the tools. */
  tools?: string | undefined
  /** Stops the action's process at this checkpoint. `work` then continues or kills the process. */
  at?: { point: string; work: (pid: number) => Promise<void> } | undefined
  /** Kills the action's process as soon as this query returns a row. */
  dies?: { side: Side; once: string } | undefined
  /** Hours by which the process's clock is ahead of the servers' clocks. */
  hours?: number | undefined
  /** Whether another run of the same action is still in progress. */
  beside?: boolean
}

/** The actual state of both sides. */
export interface Truth {
  /** Table → number of rows that exist on only one side. A changed row counts twice. */
  rows: Record<string, number>
  /** Source tables that are missing on the target. */
  absent: string[]
  /** Target sequences whose next value the source has already used. */
  behind: string[]
  /** Whether the application's role can write, on each side. */
  open: Side[]
}

const FINISHED = `
  ALTER TABLE customers ADD CONSTRAINT customers_email_key UNIQUE (email);
  ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers;
  CREATE INDEX orders_customer_id_idx ON orders (customer_id)`
/** The application's role, and the migration's role, whose privileges a fault can revoke. */
const ROLES = `CREATE ROLE app LOGIN PASSWORD 'postgres'; CREATE ROLE mover LOGIN SUPERUSER PASSWORD 'postgres';
  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app`
/** A table on both sides that is not moved, although its name starts like that of an expected table. */
const ARCHIVE = 'CREATE TABLE orders_archive (id bigint PRIMARY KEY, note text)'

/**
 * A pair of servers that can be restored as often as needed to a prepared, loaded or caught-up migration. It copies the
 * data folders, which also restores slots, logins and the ledger.
 */
export class FaultGround {
  readonly #pair: EmbeddedPair
  readonly #folder = mkdtempSync(join(tmpdir(), 'fault-ground-'))
  readonly #clients: pg.Client[] = []
  #cluster: CockroachServer
  #load: LoadHandle | undefined
  #network: Record<Side, TcpProxy> | undefined

  private constructor(pair: EmbeddedPair, cluster: CockroachServer) {
    this.#pair = pair
    this.#cluster = cluster
  }

  /** @param states the states that the tests need */
  static async start(...states: State[]): Promise<FaultGround> {
    const pair = await startPair({
      settings: { max_prepared_transactions: 5, shared_buffers: '32MB' },
      beforeDatabase: async (server) => {
        if (server.name === 'target') await installInTemplate(server)
      },
    })
    const ground = new FaultGround(pair, await startCockroach(pair.target))
    try {
      await ground.#prepare(states)
      return ground
    } catch (error) {
      await ground.stop()
      throw error
    }
  }

  async #prepare(states: readonly State[]): Promise<void> {
    const { source, target } = this.#pair
    await Promise.all([createShop(source.url, { rows: 1000 }), createShop(target.url, { schemaOnly: true })])
    await query(source.url, `${ROLES}; ${ARCHIVE}; INSERT INTO orders_archive VALUES (1, 'x')`)
    await query(target.url, `${ROLES}; ${ARCHIVE}; ${FINISHED}`)
    const left = new Set(states)
    for (const [state, action] of STEPS) {
      if (!left.size) return
      if (action) await this.#green(action)
      if (left.delete(state)) await this.#save(state)
    }
  }

  async #green(action: string): Promise<void> {
    const { red, log } = await this.run(action)
    if (red) throw new Error(`${action}: ${red}\n${log}`)
  }

  async #save(state: State): Promise<void> {
    const { source, target } = this.#pair
    await this.#cluster.stop()
    await Promise.all([source, target].map((server) => server.shutdown()))
    for (const server of [source, target]) await copyAll(server.dataDir, this.#kept(state, server))
    await this.#begin()
  }

  #kept(state: State, server: EmbeddedServer): string {
    return join(this.#folder, `${state}-${server.name}`)
  }

  async #begin(): Promise<void> {
    const { source, target } = this.#pair
    await Promise.all([source.start(), target.start()])
    this.#cluster = await startCockroach(target)
  }

  /**
   * Restores both servers, and starts the writing application.
   * @param rate its transactions per second
   */
  async restore(state: State, rate = 30): Promise<void> {
    await this.#quiet()
    await this.#cluster.stop()
    await Promise.all(
      [this.#pair.source, this.#pair.target].map(async (server) => {
        await server.shutdown('immediate')
        rmSync(server.dataDir, { recursive: true, force: true })
        await copyAll(this.#kept(state, server), server.dataDir)
      }),
    )
    await this.#begin()
    if (rate) this.#load = await startLoad({ url: this.#pair.source.url, rate, connections: 2 })
  }

  async #quiet(): Promise<void> {
    await this.stopApplication()
    await this.endClients()
    await Promise.all(Object.values(this.#network ?? {}).map((proxy) => proxy.stop()))
    this.#network = undefined
  }

  async endClients(): Promise<void> {
    await Promise.all(this.#clients.splice(0).map((client) => client.end().catch(() => {})))
  }

  async stopApplication(): Promise<void> {
    await this.#load?.stop()
    this.#load = undefined
  }

  get source(): EmbeddedServer {
    return this.#pair.source
  }

  /** The PostgreSQL server behind the target, where an administrator reads and damages data. */
  get behind(): EmbeddedServer {
    return this.#pair.target
  }

  get cluster(): CockroachServer {
    return this.#cluster
  }

  /** URLs for the migration's role, through the proxies if there are any. */
  get urls(): Record<Side, string> {
    const network = this.#network
    const url = (side: Side, direct: string) => {
      const own = direct.replace('//postgres:', '//mover:')
      return network ? network[side].url(own) : own
    }
    return { source: url('source', this.source.url), target: url('target', this.#cluster.urlOf('shop')) }
  }

  /** Puts a proxy before each server, until the state is restored. */
  async useNetwork(): Promise<void> {
    this.#network = { source: await startProxy(this.source.port), target: await startProxy(this.#cluster.port) }
  }

  network(side: Side): TcpProxy {
    if (!this.#network) throw new Error('the servers are not behind proxies')
    return this.#network[side]
  }

  /** Runs SQL as an administrator. On the target, bypasses the CockroachDB-like server. */
  sql(side: Side, text: string): Promise<Record<string, unknown>[]> {
    return query(this.#pair[side].url, text)
  }

  /** Like `sql`, but connected to a different database, for statements such as ALTER DATABASE. */
  admin(side: Side, text: string): Promise<Record<string, unknown>[]> {
    return query(this.#pair[side].urlOf('postgres'), text)
  }

  /** Opens a connection that stays open until the state is restored, or {@link endClients}. */
  async client(side: Side, user = 'postgres', parameters = ''): Promise<pg.Client> {
    const client = new pg.Client(this.#pair[side].url.replace('//postgres:', `//${user}:`) + parameters)
    client.on('error', () => {})
    await client.connect()
    this.#clients.push(client)
    return client
  }

  /** Runs one action. It gets its own process only if a fault affects the process. */
  async run(action: string, options: ActionOptions = {}): Promise<Came> {
    const { at, dies, hours, beside, tools = standInFolder() } = options
    const running = runAction({
      dir: join(REPO, 'actions', action),
      repo: REPO,
      inputs: { ...this.urls, 'allow-insecure': 'true', ...INPUTS[action], ...options.inputs },
      workDir: join(this.#folder, beside ? `beside-${action}` : action),
      ...(at || dies || hours ? {} : { start: inProcess }),
      env: {
        PATH: `${tools}:${process.env.PATH}`,
        ...(at && { MOLT_ACTIONS_STOP_AT: at.point }),
        ...(hours && { NODE_OPTIONS: `--require=${this.#clock(hours)}` }),
      },
    })
    if (at) await stoppedChild(running).then(at.work, () => {})
    if (dies) await killOnce(running, action, async () => (await this.sql(dies.side, dies.once)).length)
    const result = await running
    const red = result.conclusion === 'success' ? undefined : (result.outputs['error-code'] ?? result.conclusion)
    return { red, log: words(result), result }
  }

  /** A module that sets the clock of a Node process ahead. */
  #clock(hours: number): string {
    const path = join(this.#folder, `clock-${hours}.cjs`)
    writeFileSync(
      path,
      `const ahead = ${hours * 3_600_000}
       globalThis.Date = new Proxy(Date, {
         construct: (Real, given) => Reflect.construct(Real, given.length ? given : [Real.now() + ahead]),
         get: (Real, name) => (name === 'now' ? () => Real.now() + ahead : Reflect.get(Real, name)),
       })`,
    )
    return path
  }

  /** Stops the application and reads the state. */
  async look(): Promise<Truth> {
    await this.#quiet()
    const truth: Truth = { rows: {}, absent: [], behind: [], open: [] }
    await Promise.all([this.source.start(), this.behind.start()])
    for (const table of await this.#tables()) {
      const [here, there] = await Promise.all(['source', 'target'].map((side) => this.#rows(side as Side, table)))
      if (!there) truth.absent.push(table)
      else if (here) {
        const odd =
          [...here].filter((row) => !there.has(row)).length + [...there].filter((row) => !here.has(row)).length
        if (odd) truth.rows[table] = odd
      }
    }
    truth.behind = await this.#sequencesBehind()
    truth.open = await this.#open()
    return truth
  }

  async #tables(): Promise<string[]> {
    const rows = await this.sql(
      'source',
      `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'orders_archive'`,
    )
    return rows.map(({ relname }) => String(relname))
  }

  async #rows(side: Side, table: string): Promise<Set<string> | undefined> {
    const rows = await this.sql(side, `SELECT to_jsonb(t)::text AS row FROM ${pg.escapeIdentifier(table)} t`).catch(
      () => undefined,
    )
    return rows && new Set(rows.map(({ row }) => String(row)))
  }

  async #sequencesBehind(): Promise<string[]> {
    const read = async (side: Side) =>
      new Map(
        (await this.sql(side, "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'public'")).map(
          ({ sequencename, last_value }) => [String(sequencename), BigInt(String(last_value ?? 0))],
        ),
      )
    const [here, there] = await Promise.all([read('source'), read('target')])
    return [...here].filter(([name, value]) => (there.get(name) ?? 0n) < value).map(([name]) => name)
  }

  /** The sides that are writable in the end. A fence that is never lifted expires with its lease. */
  async #open(): Promise<Side[]> {
    for (const end = performance.now() + LEASE + 5_000; ; await sleep(200)) {
      const [source, target] = [await this.#mayWrite('source'), await this.#mayWrite('target')]
      if (source || target || performance.now() > end) return [...(source ? SOURCE : []), ...(target ? TARGET : [])]
    }
  }

  async #mayWrite(side: Side): Promise<boolean> {
    const client = await this.client(side, 'app')
    return client.query('UPDATE categories SET name = name WHERE id = 1').then(
      () => true,
      () => false,
    )
  }

  async stop(): Promise<void> {
    await this.#quiet()
    await this.#cluster.stop()
    await this.#pair.stop()
    rmSync(this.#folder, { recursive: true, force: true })
    requireRules(this.#cluster)
  }
}

const SOURCE = ['source'] as const
const TARGET = ['target'] as const
/** Lease of the fence, in milliseconds. */
const LEASE = 10_000
const STREAMING = { 'quiet-period': '200ms', 'stuck-after': '20s', 'catch-up-timeout': '60s' }
const INPUTS: Record<string, Record<string, string>> = {
  prepare: {
    // Some faults replace molt with a program that misbehaves and differs from the planned one.
    waive: 'tool.version=molt',
    'exclude-tables': 'orders_archive',
    defer: 'indexes,constraints',
  },
  fetch: {
    mode: 'direct-copy',
    'table-handling': 'truncate-if-exists',
    'allow-truncate': SHOP_TABLES.join(','),
    'stall-after': '10s',
  },
  replicate: { until: 'caught-up', ...STREAMING },
  cutover: {
    decision: 'commit',
    'switch-command': '["true"]',
    lease: `${LEASE}ms`,
    'max-pause': '60s',
    'drain-timeout': '20s',
    'handover-timeout': '5s',
    'holders-timeout': '2s',
    ...STREAMING,
  },
}

/** Copies a data folder, with the owner and mode that the servers require. */
async function copyAll(from: string, to: string): Promise<void> {
  if (process.getuid?.() === 0) await promisify(execFile)('cp', ['-a', from, to])
  else cpSync(from, to, { recursive: true, preserveTimestamps: true })
}
