import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { CockroachOptions, CockroachServer } from '../../rehearsal/cockroach/server.ts'
import type { Job } from '../../rehearsal/cockroach/types.ts'
import { type JobResult, type RunOptions, runAction } from '../../rehearsal/runner/runner.ts'
import { type S3Server, startS3 } from '../../rehearsal/s3.ts'
import { query, REPO, requireSuccess } from './migration.ts'
import { type Servers, startServers } from './servers.ts'

const ROWS = 40
const TABLES = `
  CREATE TABLE customers (id int8 PRIMARY KEY, name text NOT NULL);
  CREATE TABLE orders (id int8 PRIMARY KEY, customer int8 NOT NULL REFERENCES customers, note text NOT NULL,
    qty int4 NOT NULL CHECK (qty > 0));`
const SEED = `
  INSERT INTO customers SELECT i, 'name ' || i FROM generate_series(1, ${ROWS}) i;
  INSERT INTO orders SELECT i, i, 'note ' || i, i FROM generate_series(1, ${ROWS}) i;
  ANALYZE;`

/** A prepared migration with its own databases, and helpers for tests. */
export interface Prepared {
  readonly target: string
  run(name: string, inputs?: Record<string, string>, options?: Partial<RunOptions>): Promise<JobResult>
  /** Runs `fetch` through the bucket, with ten rows per file. */
  fetch(inputs?: Record<string, string>, options?: Partial<RunOptions>): Promise<JobResult>
  source(sql: string): Promise<Record<string, unknown>[]>
  /** Runs SQL through the CockroachDB-like server. */
  onTarget(sql: string): Promise<Record<string, unknown>[]>
  /** The ledger's facts. */
  facts(): Promise<Record<string, unknown> | undefined>
  slots(): Promise<number>
}

/** A source, a CockroachDB-like target and a bucket, for tests of the load. */
export class LoadBench {
  readonly pair: Servers
  readonly cluster: CockroachServer
  readonly s3: S3Server
  /** Called before an import reads a file. Tests use it to make the import wait or fail. */
  beforeFile: NonNullable<CockroachOptions['beforeFile']> = async () => {}
  /** Folder for everything that tests create. Removed at the end. */
  readonly folder = mkdtempSync(join(tmpdir(), 'molt-actions-load-'))
  #count = 0

  private constructor(pair: Servers, s3: S3Server) {
    this.pair = pair
    this.cluster = pair.cluster
    this.s3 = s3
  }

  static async start(options: CockroachOptions = {}): Promise<LoadBench> {
    const hook: { bench?: LoadBench } = {}
    const beforeFile: CockroachOptions['beforeFile'] = async (...given) => hook.bench?.beforeFile(...given)
    const pair = await startServers({ cluster: { ...options, beforeFile } })
    hook.bench = new LoadBench(pair, await startS3())
    requireSuccess('setup', await hook.bench.#run('setup', { embedded: 'true' }))
    return hook.bench
  }

  async stop(): Promise<void> {
    await this.s3.stop()
    await this.pair.stop()
    rmSync(this.folder, { recursive: true, force: true })
  }

  /** Creates databases with rows on the source, and runs `prepare`. */
  async prepared(inputs: Record<string, string> = {}): Promise<Prepared> {
    this.beforeFile = async () => {}
    const name = `load${++this.#count}`
    for (const side of ['source', 'behind'] as const) {
      await query(this.pair[side].urlOf('postgres'), `CREATE DATABASE ${name}`)
      await query(this.pair[side].urlOf(name), side === 'source' ? TABLES + SEED : TABLES)
    }
    const [source, target] = [this.pair.source.urlOf(name), this.cluster.urlOf(name)]
    const run: Prepared['run'] = (action, more = {}, options = {}) =>
      this.#run(action, { source, target, 'allow-insecure': 'true', ...more }, options)
    const fetch: Prepared['fetch'] = (more = {}, options = {}) =>
      run(
        'fetch',
        { mode: 'import', 'bucket-path': 's3://loads/some', 'extra-args': '["--flush-rows", "10"]', ...more },
        options,
      )
    // The foreign key stays on the target, to show that an import leaves it unvalidated.
    const own = { slot: name, waive: 'tgt.foreign-key=*' }
    requireSuccess('prepare', await run('prepare', { ...own, ...inputs }))
    return {
      target,
      run,
      fetch,
      source: (sql) => query(source, sql),
      onTarget: (sql) => query(target, sql),
      facts: async () => {
        const [entry] = await query(target, 'SELECT facts FROM molt_actions.migrations')
        return entry?.facts as Record<string, unknown> | undefined
      },
      slots: async () => {
        const sql = 'SELECT count(*)::int AS n FROM pg_replication_slots WHERE database = current_database()'
        return (await query(source, sql))[0]?.n as number
      },
    }
  }

  #run(action: string, inputs: Record<string, string>, options: Partial<RunOptions> = {}): Promise<JobResult> {
    const tools = join(this.folder, 'setup/_temp/molt-actions/stand-in')
    return runAction({
      dir: join(REPO, 'actions', action),
      repo: REPO,
      inputs,
      workDir: join(this.folder, action),
      ...options,
      env: { ...this.s3.env, PATH: `${tools}:${process.env.PATH}`, ...options.env },
    })
  }

  /** Import jobs in the order of their start. */
  imports(): Job[] {
    return this.cluster.jobs.list().filter(({ type }) => type === 'IMPORT')
  }

  /** Makes every import wait until it is cancelled or `open` is called. */
  holdImports(): { open(): void } {
    let open = () => {}
    const opened = new Promise<void>((done) => {
      open = done
    })
    this.beforeFile = (_job, _index, signal) =>
      Promise.race([opened, new Promise<void>((done) => signal.addEventListener('abort', () => done()))])
    return { open: () => open() }
  }
}

/** Waits for a condition. Fails with the log if `running` ends first. */
export async function until(so: () => unknown, running?: Promise<JobResult>): Promise<void> {
  let ended: JobResult | undefined
  void running?.then((result) => {
    ended = result
  })
  while (!(await so())) {
    if (ended) throw new Error(`it ended before:\n${ended.steps.map(({ log }) => log).join('\n')}`)
    await sleep(20)
  }
}

/** Starts another client's import into `orders`. It runs until it is cancelled. */
export async function foreignImport(target: string, url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: target })
  client.on('error', () => {})
  await client.connect()
  client.query(`IMPORT INTO orders (id, customer, note, qty) CSV DATA ('${url}')`).catch(() => {})
  return client
}
