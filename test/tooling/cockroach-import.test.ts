import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type ImportOptions, importEngine } from '../../rehearsal/cockroach/import.ts'
import { split } from '../../rehearsal/cockroach/lexer.ts'
import type { ImportContext, ImportResult, Job, JobStatus, Statement } from '../../rehearsal/cockroach/types.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { type S3Server, startS3 } from '../../rehearsal/s3.ts'

let server: EmbeddedServer
let s3: S3Server
let db: pg.Client

beforeAll(async () => {
  server = await startPostgres({ name: 'import' })
  s3 = await startS3()
  db = new pg.Client({ connectionString: server.url })
  await db.connect()
})
afterAll(async () => {
  await db?.end()
  await s3?.stop()
  await server?.stop()
})
beforeEach(async () => {
  await db.query(`
    DROP TABLE IF EXISTS orders, customers;
    CREATE TABLE customers (id bigint PRIMARY KEY);
    CREATE TABLE orders (
      id bigint PRIMARY KEY, customer bigint REFERENCES customers, note text, qty int NOT NULL CHECK (qty > 0))`)
})

interface Cluster {
  context: ImportContext
  jobs: Job[]
  offline: Set<string>
  run(sql: string): Promise<ImportResult>
}

/** The server around the engine: its jobs, offline tables and privileges. */
function cluster(options: ImportOptions & { without?: string[]; signal?: AbortSignal } = {}): Cluster {
  const jobs: Job[] = []
  const cancels = new Map<string, (() => void) | undefined>()
  const offline = new Set<string>()
  const may = async (privilege: string) => !options.without?.includes(privilege)
  const context: ImportContext = {
    session: { user: 'mig', database: 'shop', signal: options.signal ?? new AbortController().signal },
    version: [25, 2],
    jobs: {
      create({ onCancel, ...job }) {
        const made: Job = {
          ...job,
          id: `${10n ** 18n + BigInt(jobs.length)}`,
          created: new Date(),
          status: 'running',
          fractionCompleted: 0,
        }
        jobs.push(made)
        cancels.set(made.id, onCancel)
        return made
      },
      async update(job, change) {
        Object.assign(job, change)
      },
      get: (id) => jobs.find((job) => job.id === id),
      list: () => jobs,
      async cancel(id) {
        const job = jobs.find((each) => each.id === id) as Job
        job.status = 'cancel-requested'
        cancels.get(id)?.()
      },
    },
    async connect() {
      const client = new pg.Client({ connectionString: server.url })
      client.on('error', () => {})
      await client.connect()
      return client
    },
    hasPrivilege: (_schema, _table, privilege) => may(privilege),
    hasSystemPrivilege: may,
    async takeOffline(schema, table) {
      offline.add(`${schema}.${table}`)
    },
    async bringOnline(schema, table) {
      offline.delete(`${schema}.${table}`)
    },
  }
  const engine = importEngine(options)
  return { context, jobs, offline, run: (sql) => engine(split(sql)[0] as Statement, context) }
}

const COLUMNS = 'id, customer, note, qty'

async function put(key: string, csv: string): Promise<string> {
  await s3.bucket.put(key, gzipSync(csv))
  return s3.importUrl(key)
}

function importInto(urls: string[], more = ''): string {
  return `IMPORT INTO public.orders(${COLUMNS}) CSV DATA (${urls.map((url) => `'${url}'`).join(', ')}) WITH decompress = 'gzip'${more}`
}

async function orders(): Promise<unknown[]> {
  return (await db.query({ text: `SELECT ${COLUMNS} FROM orders ORDER BY id`, rowMode: 'array' })).rows
}

/** A promise that the test resolves. */
function gateOf(): { promise: Promise<void>; resolve(): void } {
  let resolve = () => {}
  const promise = new Promise<void>((open) => {
    resolve = open
  })
  return { promise, resolve }
}

async function status(job: Job | undefined, wanted: JobStatus): Promise<void> {
  while (job?.status !== wanted) await sleep(5)
}

describe('IMPORT INTO', () => {
  it('loads compressed files, with unquoted empty fields as NULL and quoted ones as empty strings', async () => {
    const { run, jobs, offline } = cluster()
    const urls = [await put('a.csv.gz', '1,10,"a ""b"", c",5\n2,,"",6\n'), await put('b.csv.gz', '3,,"two\nlines",7\n')]
    const result = await run(importInto(urls))
    expect(result).toMatchObject({ status: 'succeeded', fractionCompleted: 1, rows: 3 })
    expect(await orders()).toEqual([
      ['1', '10', 'a "b", c', 5],
      ['2', null, '', 6],
      ['3', null, 'two\nlines', 7],
    ])
    expect(offline.size).toBe(0)
    expect(jobs[0]?.description).toContain('IMPORT INTO shop.public.orders(id, customer, note, qty) CSV DATA (')
    expect(jobs[0]?.description).toContain('AWS_SECRET_ACCESS_KEY=redacted')
  })

  it('skips the lines that MOLT writes before the rows', async () => {
    const { run } = cluster()
    await run(importInto([await put('skip.csv.gz', '2\n1,,,5\n2,,,6\n')], ", skip = '1'"))
    expect((await orders()).length).toBe(2)
  })

  it('checks neither foreign keys nor CHECK constraints, and leaves both unvalidated', async () => {
    await cluster().run(importInto([await put('dangling.csv.gz', '1,404,,-5\n')]))
    const { rows } = await db.query(
      "SELECT contype, convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('c', 'f') ORDER BY 1",
    )
    expect(rows).toEqual([
      { contype: 'c', convalidated: false },
      { contype: 'f', convalidated: false },
    ])
    await expect(db.query('ALTER TABLE orders VALIDATE CONSTRAINT orders_customer_fkey')).rejects.toMatchObject({
      code: '23503',
    })
  })

  it('takes the table offline while it runs, and continues when its client disconnects', async () => {
    const client = new AbortController()
    const gate = gateOf()
    const { run, jobs, offline } = cluster({ signal: client.signal, beforeFile: () => gate.promise })
    const url = await put('gone.csv.gz', '1,,,5\n')
    const running = run(importInto([url]))
    running.catch(() => {})
    while (!offline.size) await sleep(5)
    await expect(run(importInto([url]))).rejects.toMatchObject({
      code: '55000',
      message: 'relation "orders" is offline: importing',
    })
    client.abort()
    await expect(running).rejects.toMatchObject({ code: '57014' })
    expect(jobs[0]?.status).toBe('running')
    gate.resolve()
    await status(jobs[0], 'succeeded')
    expect(offline.size).toBe(0)
    expect((await orders()).length).toBe(1)
  })

  it('returns immediately with DETACHED', async () => {
    const { run, jobs } = cluster()
    const result = await run(importInto([await put('d.csv.gz', '1,,,5\n')], ', detached'))
    expect(result.status).toBe('running')
    await status(jobs[0], 'succeeded')
  })

  it('reverts every file when it is cancelled', async () => {
    const reached = gateOf()
    const { run, jobs, offline, context } = cluster({
      async beforeFile(_job, index, signal) {
        if (index === 0) return
        reached.resolve()
        await sleep(60_000, undefined, { signal })
      },
    })
    const running = run(importInto([await put('c1.csv.gz', '1,,,5\n'), await put('c2.csv.gz', '2,,,6\n')]))
    running.catch(() => {})
    await reached.promise
    expect(jobs[0]?.fractionCompleted).toBe(0.5)
    // The running import does not block catalog queries.
    await db.query("SET lock_timeout = '1s'")
    await db.query(`SELECT column_default FROM information_schema.columns WHERE table_name = 'orders'`)
    await db.query(
      "SELECT pg_get_constraintdef(oid), pg_get_expr(conbin, conrelid) FROM pg_constraint WHERE conrelid = 'orders'::regclass",
    )
    context.jobs.cancel(jobs[0]?.id as string)
    await expect(running).rejects.toMatchObject({ message: 'job canceled by user' })
    await status(jobs[0], 'canceled')
    expect(offline.size).toBe(0)
    expect(await orders()).toEqual([])
    const checks = `SELECT convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype IN ('c', 'f')`
    expect((await db.query(checks)).rows).toEqual([{ convalidated: true }, { convalidated: true }])
  })
})

describe('a failing IMPORT INTO', () => {
  const failing: [string, string, { code: string; message: RegExp }][] = [
    [
      'a NULL in a NOT NULL column',
      '1,,secret,5\n2,,secret,\n',
      {
        code: '23502',
        message:
          /^s3:.*AWS_SECRET_ACCESS_KEY=S3RVER.*: error parsing row 2: null value in column "qty" violates not-null constraint \(row: 2,,secret,\)$/,
      },
    ],
    [
      'a value that is not a number',
      '1,,secret,many\n',
      {
        code: '22P02',
        message:
          /error parsing row 1: parse "qty" as INT8: could not parse "many" as type int: .*\(row: 1,,secret,many\)$/,
      },
    ],
    [
      'too few fields',
      '1,,secret\n',
      { code: '22P04', message: /row 1: expected 4 fields, got 3 \(row: 1,,secret\)$/ },
    ],
    [
      'a duplicate key',
      '1,,,5\n1,,,6\n',
      { code: 'XXUUU', message: /^ingested key collides with an existing one: \/Table\/\d+\/1\/1\/0$/ },
    ],
  ]
  it.each(failing)('reports %s', async (name, csv, expected) => {
    const { run, jobs, offline } = cluster()
    const url = await put(`${name.replaceAll(' ', '-')}.csv.gz`, csv)
    const failure = await run(importInto([url])).catch((error) => error)
    expect(failure.code).toBe(expected.code)
    expect(failure.message).toMatch(expected.message)
    expect(jobs[0]).toMatchObject({ status: 'failed', error: failure.message })
    expect(offline.size).toBe(0)
    expect(await orders()).toEqual([])
  })

  it('reports a missing file', async () => {
    await expect(cluster().run(importInto([s3.importUrl('nowhere.csv.gz')]))).rejects.toThrow(
      /NoSuchKey.*s3 object does not exist/s,
    )
  })

  it('reports wrong keys', async () => {
    await put('keys.csv.gz', '1,,,5\n')
    const id = s3.importUrl('keys.csv.gz', { accessKeyId: 'NOBODY' })
    await expect(cluster().run(importInto([id]))).rejects.toThrow(/failed to get s3 object: InvalidAccessKeyId.*403/s)
    const secret = s3.importUrl('keys.csv.gz', { secretAccessKey: 'wrong' })
    await expect(cluster().run(importInto([secret]))).rejects.toThrow(/failed to get s3 object: SignatureDoesNotMatch/)
  })

  it('reports servers that do not respond', async () => {
    const bucket = s3
      .importUrl('a.csv.gz')
      .replace(encodeURIComponent(s3.endpoint), encodeURIComponent('http://127.0.0.1:1'))
    await expect(cluster().run(importInto([bucket]))).rejects.toThrow(
      /failed to get s3 object: RequestError: send request failed/,
    )
    await expect(cluster().run(importInto(['http://127.0.0.1:1/a.csv.gz']))).rejects.toThrow(
      'too many retries; giving up',
    )
  })

  it.each([true, false])('resumes where a connection was lost (server with ranges: %s)', async (ranges) => {
    const lines = Array.from({ length: 20_000 }, (_, at) => `${at + 1},,"${randomUUID()}",5\n`)
    const file = gzipSync(lines.join(''))
    let lost = 0
    const server = createServer((request, response) => {
      const from = ranges ? Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1] ?? 0) : 0
      const part = file.subarray(from)
      response.writeHead(from ? 206 : 200, { 'content-length': part.length })
      if (lost === 3) response.end(part)
      else response.write(part.subarray(0, Math.ceil((part.length * ++lost) / 4)), () => response.destroy())
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    try {
      const { port } = server.address() as AddressInfo
      const result = await cluster().run(importInto([`http://127.0.0.1:${port}/a.csv.gz`]))
      expect([result.rows, lost]).toEqual([20_000, 3])
    } finally {
      server.close()
    }
  })

  it('requires EXTERNALIOIMPLICITACCESS for HTTP, custom endpoints and implicit keys, and INSERT and DROP', async () => {
    const { run, jobs } = cluster({ without: ['EXTERNALIOIMPLICITACCESS'] })
    const urls = ['http://127.0.0.1:1/a.csv', s3.importUrl('a.csv.gz'), 's3://loads/a.csv?AUTH=implicit']
    for (const url of urls)
      await expect(run(importInto([url]))).rejects.toMatchObject({
        code: '42501',
        message: expect.stringContaining('EXTERNALIOIMPLICITACCESS system privilege'),
      })
    for (const privilege of ['INSERT', 'DROP'])
      await expect(cluster({ without: [privilege] }).run(importInto([s3.importUrl('a.csv.gz')]))).rejects.toMatchObject(
        {
          code: '42501',
          message: `user mig does not have ${privilege} privilege on relation orders`,
        },
      )
    expect(jobs).toEqual([])
  })

  it.each([
    ["IMPORT INTO orders AVRO DATA ('x')", '0A000'],
    ['IMPORT INTO orders CSV DATA ()', '42601'],
    ["IMPORT INTO orders CSV DATA ('http://127.0.0.1:1/a.csv') WITH colour = 'red'", '42601'],
    ["IMPORT INTO nowhere CSV DATA ('http://127.0.0.1:1/a.csv')", '42P01'],
    ["IMPORT INTO orders (nothing) CSV DATA ('http://127.0.0.1:1/a.csv')", '42703'],
  ])('refuses %s', async (sql, code) => {
    await expect(cluster().run(sql)).rejects.toMatchObject({ code })
  })
})
