import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import pg from 'pg'
import { type Servers, startServers } from '../support/servers.ts'
import { NODE } from '../support/stand-in.ts'

const STANDIN = fileURLToPath(new URL('../../rehearsal/molt/', import.meta.url))

/** Result of a program that has exited. */
export interface Finished {
  code: number | null
  stdout: string
  stderr: string
  /** JSON lines from standard output, parsed. */
  events: Record<string, unknown>[]
}

/** A running program, and how to stop it. */
export interface Running {
  child: ChildProcess
  log(): string
  stop(signal?: NodeJS.Signals): Promise<{ code: number | null; ms: number }>
}

/** One database on each side, with a client for each. */
export interface Databases {
  name: string
  source: string
  target: string
  /** The target database's URL for an administrator, which bypasses the like-server. */
  behind: string
  s: pg.Client
  /** Client connected to `behind`. */
  t: pg.Client
}

/** A pair of servers, and the bundled stand-ins for MOLT's programs. All tests in a file share one. */
export class Bench {
  private readonly pair: Servers
  private readonly folder: string
  private readonly running = new Set<ChildProcess>()
  private readonly clients: pg.Client[] = []
  private count = 0

  private constructor(pair: Servers, folder: string) {
    this.pair = pair
    this.folder = folder
  }

  static async start(): Promise<Bench> {
    const folder = await mkdtemp(path.join(tmpdir(), 'standin-'))
    await bundle(folder)
    return new Bench(await startServers({ settings: { max_replication_slots: 60, max_wal_senders: 60 } }), folder)
  }

  async stop(): Promise<void> {
    for (const child of this.running) child.kill('SIGKILL')
    await Promise.all(this.clients.map((client) => client.end().catch(() => {})))
    await this.pair.stop()
    await rm(this.folder, { recursive: true, force: true })
  }

  get servers(): Servers {
    return this.pair
  }

  file(name: string): string {
    return path.join(this.folder, name)
  }

  /** Creates a database on each side, and runs `ddl` in both. */
  async databases(ddl: string): Promise<Databases> {
    const name = `db${++this.count}`
    for (const server of [this.pair.source, this.pair.behind]) {
      const admin = await this.client(server.url)
      await admin.query(`CREATE DATABASE ${name}`)
      await admin.end()
    }
    const { source: from, target: to, behind: side } = this.pair
    const [source, target, behind] = [from.urlOf(name), to.urlOf(name), side.urlOf(name)]
    const [s, t] = [await this.client(source), await this.client(behind)]
    await s.query(ddl)
    await t.query(ddl)
    return { name, source, target, behind, s, t }
  }

  async client(url: string): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url })
    client.on('error', () => {})
    await client.connect()
    this.clients.push(client)
    return client
  }

  spawn(program: 'molt' | 'replicator', args: string[], env: NodeJS.ProcessEnv = {}): Running {
    const { PATH, NODE_COMPILE_CACHE } = process.env
    const child = spawn(NODE, [this.file(`${program}.mjs`), ...args], {
      env: { PATH, NODE_COMPILE_CACHE, TZ: 'UTC', HOME: this.folder, ...env },
    })
    this.running.add(child)
    const ended = new Promise<number | null>((resolve) => child.once('close', (code) => resolve(code)))
    void ended.then(() => this.running.delete(child))
    let log = ''
    child.stderr.on('data', (chunk) => {
      log += chunk
    })
    const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
      const from = performance.now()
      child.kill(signal)
      return { code: await ended, ms: performance.now() - from }
    }
    return { child, log: () => log, stop }
  }

  async run(
    program: 'molt' | 'replicator',
    args: string[],
    env: NodeJS.ProcessEnv = {},
    input = '',
  ): Promise<Finished> {
    const running = this.spawn(program, args, env)
    let stdout = ''
    running.child.stdout?.on('data', (chunk) => {
      stdout += chunk
    })
    running.child.stdin?.end(input)
    const code = await new Promise<number | null>((resolve) => running.child.once('close', resolve))
    const json = stdout.split('\n').filter((line) => line.startsWith('{'))
    return { code, stdout, stderr: running.log(), events: json.map((line) => JSON.parse(line)) }
  }

  fetch(db: Databases, ...more: string[]): Promise<Finished> {
    const urls = ['--source', db.source, '--target', db.target, '--metrics-listen-addr', '127.0.0.1:0']
    const args = ['fetch', ...urls, '--allow-tls-mode-disable', '--direct-copy', '--non-interactive', ...more]
    return this.run('molt', args)
  }

  verify(db: Databases, ...more: string[]): Promise<Finished> {
    const urls = ['--source', db.source, '--target', db.target, '--metrics-listen-addr', '127.0.0.1:0']
    return this.run('molt', ['verify', ...urls, '--table-exclusion-filter', '^_molt_fetch', ...more])
  }

  /** Creates the publication `p` and the slot `s_<db>` if they are missing, and starts a replicator that reads them. */
  async replicate(db: Databases, more: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Running> {
    const slot = `s_${db.name}`
    const there = await db.s.query('SELECT 1 FROM pg_replication_slots WHERE slot_name = $1', [slot])
    if (there.rowCount === 0) {
      await db.s.query('CREATE PUBLICATION p FOR ALL TABLES')
      await db.s.query(`SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput')`)
    }
    return this.spawn('replicator', [...this.replicatorArgs(db), ...more], env)
  }

  replicatorArgs(db: Databases): string[] {
    const urls = ['--sourceConn', db.source, '--targetConn', db.target, '--targetSchema', `${db.name}.public`]
    const staging = ['--stagingSchema', `${db.name}._replicator`, '--stagingCreateSchema']
    const stream = ['--slotName', `s_${db.name}`, '--publicationName', 'p', '--standbyTimeout', '200ms']
    return ['pglogical', ...urls, ...staging, ...stream]
  }
}

async function bundle(folder: string): Promise<void> {
  for (const name of ['molt', 'replicator']) {
    const from = JSON.stringify(path.join(STANDIN, `${name}.ts`))
    const entry = path.join(folder, `${name}-entry.mts`)
    await writeFile(
      entry,
      `import { ${name}Main } from ${from}\nprocess.exitCode = await ${name}Main(process.argv.slice(2))\n`,
    )
    await build({
      entryPoints: [entry],
      outfile: path.join(folder, `${name}.mjs`),
      bundle: true,
      platform: 'node',
      format: 'esm',
      external: ['pg-native'],
      logLevel: 'error',
      banner: {
        js: `import{createRequire as makeRequire}from'node:module';const require=makeRequire(import.meta.url);`,
      },
    })
  }
}

/** Waits until `probe` returns a truthy value. Throws after `ms`. */
export async function until<T>(probe: () => Promise<T> | T, ms = 30_000): Promise<T> {
  const deadline = Date.now() + ms
  for (;;) {
    const found = await probe()
    if (found) return found
    if (Date.now() > deadline) throw new Error(`nothing after ${ms} ms`)
    await sleep(20)
  }
}

export async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  await new Promise((resolve) => server.close(resolve))
  return port
}
