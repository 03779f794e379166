import { once } from 'node:events'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type S3Server, startS3 } from '../../rehearsal/s3.ts'
import { freeAddress } from '../../src/tools/ports.ts'
import { Bench, type Databases, type Finished } from '../contract/standin-helpers.ts'
import { type ImportGateway, startImportGateway } from '../support/import-gateway.ts'

let bench: Bench
let s3: S3Server
let db: Databases
let target: ImportGateway
let folder: string

beforeAll(async () => {
  bench = await Bench.start()
  s3 = await startS3()
})
afterAll(async () => {
  await s3?.stop()
  await bench?.stop()
})
beforeEach(async () => {
  await target?.stop()
  db = await bench.databases('CREATE TABLE notes (id int PRIMARY KEY, body text, n int)')
  await db.s.query(`INSERT INTO notes SELECT i, CASE i WHEN 1 THEN NULL WHEN 2 THEN '' ELSE E'a "b"\\n,' || i END, i
                      FROM generate_series(1, 40) i`)
  target = await startImportGateway(bench.servers.behind, db.name)
  folder = await mkdtemp(join(tmpdir(), 'molt-actions-files-'))
  return () => rm(folder, { recursive: true, force: true })
})
afterAll(() => target?.stop())

const BUCKET = ['--bucket-path', 's3://loads/some/path?AWS_ACCESS_KEY_ID=ignored']

function fetch(args: string[], env: Record<string, string> = s3.env): Promise<Finished> {
  const own = ['--source', db.source, '--target', target.url, '--allow-tls-mode-disable', '--non-interactive']
  return bench.run('molt', ['fetch', ...own, '--table-filter', '^notes$', ...args], env)
}

async function local(): Promise<string[]> {
  const address = await freeAddress()
  return ['--local-path', folder, '--local-path-listen-addr', address, '--local-path-crdb-access-addr', address]
}

async function same(): Promise<void> {
  const all = 'SELECT id, body, n FROM notes ORDER BY id'
  expect((await db.t.query(all)).rows).toEqual((await db.s.query(all)).rows)
}

const event = (run: Finished, message: string) => run.events.find((each) => String(each.message).startsWith(message))
const exceptions = async () => (await db.t.query('SELECT file_name, sql_state FROM _molt_fetch_exceptions')).rows

describe('a load through files', () => {
  it('imports from a bucket in the order of its parts, and keeps them there', async () => {
    const run = await fetch([...BUCKET, '--flush-rows', '15'])
    expect(run).toMatchObject({ code: 0, stderr: '' })
    await same()
    expect(await s3.bucket.list('some/path/public.notes')).toEqual(
      [1, 2, 3].map((part) => `some/path/public.notes/shard_01_part_0000000${part}.tar.gz`),
    )
    expect(target.jobs.map(({ status }) => status)).toEqual(['succeeded'])
    expect(event(run, 'imported 40 rows for batch for files 1 to 3')).toBeDefined()
    expect(event(run, 'data import on target for table complete')).toMatchObject({ num_rows: 40 })
    expect(run.stdout).not.toContain('S3RVER')
  })

  it('imports from the folder that it serves, and cleans it up on request', async () => {
    const run = await fetch([...(await local()), '--flush-rows', '15', '--cleanup'])
    expect(run).toMatchObject({ code: 0, stderr: '' })
    await same()
    expect(await readdir(join(folder, 'public.notes'))).toEqual([])
    expect(event(run, 'starting file server')).toMatchObject({ 'crdb-access-addr': expect.any(String) })
  })

  it('loads the same files by COPY', async () => {
    expect(await fetch([...(await local()), '--use-copy', '--flush-rows', '15'])).toMatchObject({ code: 0 })
    expect(target.jobs).toEqual([])
    await same()
  })

  it('imports a few files at a time', async () => {
    await fetch([...BUCKET, '--flush-rows', '15', '--import-batch-size', '2'])
    expect(target.jobs.length).toBe(2)
  })

  it('writes NULL for an empty string, as older builds do', async () => {
    const run = await fetch([...BUCKET], { ...s3.env, MOLT_STANDIN_FORM: 'run' })
    expect(run.code).toBe(0)
    expect((await db.t.query('SELECT id FROM notes WHERE body IS NULL ORDER BY 1')).rows).toEqual([
      { id: 1 },
      { id: 2 },
    ])
  })
})

describe('a failing load through files', () => {
  it('halves a failing batch, keeps the good half, and records the file to resume from', async () => {
    await db.t.query('INSERT INTO notes VALUES (40)')
    const run = await fetch([...BUCKET, '--flush-rows', '10'])
    expect(run.code).toBe(1)
    expect(run.stderr).toContain(
      'Error: error importing data: ERROR: ingested key collides with an existing one: /Table/',
    )
    // Four files: all four fail, the first two pass, the last two fail, the third passes, the fourth fails.
    expect(target.jobs.map(({ status }) => status)).toEqual(['failed', 'succeeded', 'failed', 'succeeded', 'failed'])
    expect(await exceptions()).toEqual([{ file_name: 'part_00000004.tar.gz', sql_state: 'XXUUU' }])
    expect((await db.t.query('SELECT count(*)::int AS n FROM notes')).rows[0].n).toBe(31)
    expect(event(run, 'created continuation token')).toMatchObject({ table: 'public.notes' })
  })

  it('resumes with every file of the table, so the remaining rows collide until the table is emptied', async () => {
    await db.t.query('INSERT INTO notes VALUES (40)')
    const failed = await fetch([...BUCKET, '--flush-rows', '10'])
    const fetchId = event(failed, 'continue from this fetch ID')?.fetch_id as string
    const again = await fetch([...BUCKET, '--fetch-id', fetchId])
    expect(again.code).toBe(1)
    expect(again.stderr).toContain('ingested key collides')
    await db.t.query('TRUNCATE notes')
    const resumed = await fetch([...BUCKET, '--fetch-id', fetchId])
    expect(resumed).toMatchObject({ code: 0, stderr: '' })
    await same()
    expect(await exceptions()).toEqual([])
    expect(event(resumed, 'removing exception log for continuation-token')).toBeDefined()
  })

  it('skips a table without a recorded failure, and reports it as loaded', async () => {
    await db.t.query('INSERT INTO notes VALUES (40)')
    const failed = await fetch([...BUCKET])
    const fetchId = event(failed, 'continue from this fetch ID')?.fetch_id as string
    await db.t.query("UPDATE _molt_fetch_exceptions SET table_name = 'another'")
    const resumed = await fetch([...BUCKET, '--fetch-id', fetchId])
    expect(event(resumed, 'skipping fetch for public.notes')).toBeDefined()
    expect(resumed.events.at(-1)).toMatchObject({ message: 'fetch complete', tables: ['public.notes'] })
  })

  it('retries with smaller imports when its job is cancelled', async () => {
    await target.stop()
    const slow = new Promise<void>(() => {})
    target = await startImportGateway(bench.servers.behind, db.name, {
      beforeFile: (job, _index, signal) =>
        job === target.jobs[0]
          ? Promise.race([slow, once(signal, 'abort').then(() => signal.throwIfAborted())])
          : Promise.resolve(),
    })
    const running = fetch([...BUCKET, '--flush-rows', '20'])
    while (!target.offline.size) await new Promise((resolve) => setTimeout(resolve, 20))
    await target.cancel(target.jobs[0]?.id as string)
    expect((await running).code).toBe(0)
    expect(target.jobs.map(({ status }) => status)).toEqual(['canceled', 'succeeded', 'succeeded'])
  })

  it('fails if the target is not allowed to read the files or cannot reach them', async () => {
    target.without.add('EXTERNALIOIMPLICITACCESS')
    const refused = await fetch(await local())
    expect(refused.stderr).toContain(
      'EXTERNALIOIMPLICITACCESS system privilege are allowed to access the specified http URI',
    )
    target.without.clear()
    const wrong = await local()
    wrong[5] = '127.0.0.1:1'
    expect((await fetch(wrong)).stderr).toContain('error importing data: ERROR: too many retries; giving up')
    const keys = await fetch([...BUCKET], { ...s3.env, AWS_SECRET_ACCESS_KEY: 'wrong' })
    expect(keys.stderr).toContain('Error: SignatureDoesNotMatch')
    expect((await fetch([...BUCKET], {})).stderr).toContain('NoCredentialProviders')
  })

  it('cannot resume without its files', async () => {
    await db.t.query('INSERT INTO notes VALUES (40)')
    const failed = await fetch([...BUCKET])
    const fetchId = event(failed, 'continue from this fetch ID')?.fetch_id as string
    for (const key of await s3.bucket.list('some/path/public.notes')) await s3.bucket.remove(key)
    const resumed = await fetch([...BUCKET, '--fetch-id', fetchId])
    expect(resumed.stderr).toContain('exported resources for table public.notes is empty')
    await s3.bucket.put('some/path/public.notes/shard_01_part_00000001.tar.gz', gzipSync('41,,1\n'))
    expect((await fetch([...BUCKET, '--fetch-id', fetchId])).code).toBe(0)
  })
})
