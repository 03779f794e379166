import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import type { Plan } from '../../src/model/plan.ts'
import { Stream, type StreamOptions } from '../../src/phases/stream/supervisor.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import { createHeartbeat, createTargetHeartbeat, HEARTBEAT, OUR_SCHEMA } from '../../src/source/heartbeat.ts'
import { createPublication } from '../../src/source/publication.ts'
import type { Bench, Databases } from '../contract/standin-helpers.ts'
import { launcher } from '../support/stand-in.ts'

export const TABLES = ['items', 'notes']

/** Creates the streamed tables. `code` is unique on both sides; `body` is wide enough to be TOASTed. */
export const DDL = `
  CREATE TABLE items (id int PRIMARY KEY, code int UNIQUE, label text NOT NULL, amount numeric(12,2), at timestamptz DEFAULT now());
  CREATE TABLE notes (id int PRIMARY KEY, item int, body text);
  ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;`

/** Two databases in the state after a load: equal rows, a publication, a slot and a heartbeat. */
export class Scene {
  readonly bench: Bench
  readonly db: Databases
  readonly plan: Plan
  readonly #streams: Stream[] = []
  readonly #writers: Writer[] = []

  private constructor(bench: Bench, db: Databases, tables: readonly string[]) {
    this.bench = bench
    this.db = db
    this.plan = {
      sourceSchema: 'public',
      targetSchema: 'public',
      tables: [...tables],
      slot: `s_${db.name}`,
      publication: `p_${db.name}`,
    }
  }

  static async create(
    bench: Bench,
    options: { truncate?: boolean; more?: string; tables?: readonly string[] } = {},
  ): Promise<Scene> {
    const db = await bench.databases(DDL + (options.more ?? ''))
    const tables = [...TABLES, ...(options.tables ?? [])]
    const scene = new Scene(bench, db, tables)
    const rows = `INSERT INTO items SELECT g, g * 10, 'item ' || g, g, '2026-01-01' FROM generate_series(1, 200) g;
      INSERT INTO notes SELECT g, g, repeat('x', 5000) FROM generate_series(1, 20) g`
    const { sourceId } = await createHeartbeat(db.s, 'test')
    await createTargetHeartbeat(await bench.client(db.target), 'public', sourceId)
    await createPublication(db.s, scene.plan.publication, 'public', tables)
    if (options.truncate)
      await db.s.query(`ALTER PUBLICATION ${scene.plan.publication} SET (publish = 'insert, update, delete, truncate')`)
    await db.s.query(rows)
    await db.t.query(rows)
    await db.t.query('CREATE SCHEMA IF NOT EXISTS _replicator')
    await scene.createSlot()
    const heartbeat = `${OUR_SCHEMA}.${HEARTBEAT}`
    const { rows: beat } = await db.s.query(`SELECT * FROM ${heartbeat}`)
    await db.t.query(`INSERT INTO ${HEARTBEAT} VALUES (1, $1, $2, 0, '')`, [beat[0].migration, beat[0].source_id])
    return scene
  }

  async createSlot(): Promise<void> {
    await this.db.s.query(`SELECT pg_create_logical_replication_slot($1, 'pgoutput')`, [this.plan.slot])
  }

  /** Starts the stream, and waits until heartbeats arrive and the source has been read once: later changes are new to it. */
  async stream(options: Partial<StreamOptions> = {}): Promise<Stream> {
    const stream = new Stream({
      sourceUrl: this.db.source,
      targetUrl: this.db.target,
      targetDatabase: this.db.name,
      isCockroach: true,
      plan: this.plan,
      stagingSchema: '_replicator',
      program: replicatorProgram(this.bench),
      logFile: this.bench.file(`${this.db.name}.log`),
      extraArgs: [],
      stuckAfter: 5_000,
      watch: { onDdl: 'warn', walBudget: 2 ** 40, onWalBudget: 'fail' },
      signal: new AbortController().signal,
      ...options,
    })
    this.#streams.push(stream)
    await stream.start()
    const looked = () => Object.keys(stream.files).length > 0
    await during(stream, () => stream.status.lagMs < 1_000 && looked(), 25_000)
    return stream
  }

  /** Starts an application that writes until it is stopped, and reconnects when the source restarts. */
  load(): Writer {
    const writer = new Writer(this.db.source)
    this.#writers.push(writer)
    return writer
  }

  async log(): Promise<string> {
    return readFileSync(this.bench.file(`${this.db.name}.log`), 'utf8')
  }

  /** Tables whose rows differ between the sides, compared row by row. */
  async different(): Promise<string[]> {
    const found: string[] = []
    for (const table of TABLES) {
      const [left, right] = await Promise.all(
        [this.db.source, this.db.behind].map((url) =>
          query(url, `SELECT to_jsonb(t)::text AS row FROM ${table} t ORDER BY id`),
        ),
      )
      if (JSON.stringify(left) !== JSON.stringify(right)) found.push(table)
    }
    return found
  }

  async end(): Promise<void> {
    await Promise.all(this.#writers.map((writer) => writer.stop()))
    await Promise.all(this.#streams.map((stream) => stream.close()))
    await query(
      this.db.source,
      `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${this.plan.slot}' AND NOT active`,
    )
  }
}

function replicatorProgram(bench: Bench): string {
  const path = bench.file('replicator')
  writeFileSync(path, `#!/bin/sh\n${launcher(bench.file('replicator.mjs'))}\n`, { mode: 0o755 })
  return path
}

/** Runs small transactions of inserts, updates and deletes, one after another, with short breaks. */
class Writer {
  readonly #url: string
  readonly #done: Promise<void>
  #stopped = false
  #next = 1_000
  committed = 0

  constructor(url: string) {
    this.#url = url
    this.#done = this.#run()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }

  async #run(): Promise<void> {
    let client: pg.Client | undefined
    while (!this.#stopped) {
      try {
        client ??= await open(this.#url)
        await this.#write(client)
        this.committed++
      } catch {
        // A fault caused by the test. Like an application, the writer reconnects and continues.
        await client?.end().catch(() => {})
        client = undefined
        await sleep(100)
      }
      await sleep(10)
    }
    await client?.end().catch(() => {})
  }

  async #write(client: pg.Client): Promise<void> {
    const id = this.#next++
    await client.query('BEGIN')
    await client.query('INSERT INTO items VALUES ($1, $2, $3, $4)', [id, id * 10, `new ${id}`, id / 3])
    await client.query('UPDATE items SET label = $1, amount = amount + 1 WHERE id = $2', [`u${id}`, 1 + (id % 100)])
    if (id % 3 === 0) await client.query('DELETE FROM items WHERE id = $1', [id - 50])
    if (id % 5 === 0) await client.query('INSERT INTO notes VALUES ($1, $1, $2)', [id, 'n'.repeat(id % 300)])
    await client.query('COMMIT')
  }
}

async function open(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 3_000 })
  client.on('error', () => {})
  await client.connect()
  return client
}

export async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = await open(url)
  try {
    const result = await client.query(sql)
    return Array.isArray(result) ? (result.at(-1)?.rows ?? []) : result.rows
  } finally {
    await client.end()
  }
}

/** Waits until `probe` returns a truthy value. Throws the stream's error if the stream fails first. */
export async function during(stream: Stream, probe: () => unknown, ms: number): Promise<void> {
  const end = performance.now() + ms
  while (!(await probe())) {
    stream.check()
    if (performance.now() > end) throw new Error(`nothing after ${ms} ms; ${JSON.stringify(stream.status)}`)
    await sleep(50)
  }
}

/** Waits until the stream fails. @returns its error and code, and the milliseconds until then */
export async function red(stream: Stream, ms: number): Promise<{ said: string; code: string; after: number }> {
  const began = performance.now()
  while (performance.now() - began < ms) {
    try {
      stream.check()
    } catch (error) {
      return { said: (error as Error).message, code: errorCode(error), after: performance.now() - began }
    }
    await sleep(50)
  }
  throw new Error(`still green after ${ms} ms: ${JSON.stringify(stream.status)}, ${[...stream.diagnoses.keys()]}`)
}
