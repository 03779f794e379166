import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import { split } from '../../rehearsal/cockroach/lexer.ts'
import { type CockroachServer, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { withoutConstants } from '../../rehearsal/cockroach/statistics.ts'
import type { Job, Statement } from '../../rehearsal/cockroach/types.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import {
  readClock,
  readConnectionLimit,
  readFailedJobs,
  readSight,
  readTargetSessions,
  readTargetStatements,
  readTargetTransactions,
} from '../../src/destination/activity.ts'
import { difference, meanMs } from '../../src/phases/observe/counters.ts'
import { ofTarget } from '../../src/phases/observe/watch.ts'

/* Queries CockroachDB's statistics. The like-server answers these queries and counts its clients' statements. */

const OWN = ['molt-actions']
let server: EmbeddedServer
let cluster: CockroachServer
let db: pg.Client
let app: pg.Client

async function client(application: string, url = cluster.urlOf('shop')): Promise<pg.Client> {
  const opened = new pg.Client({ connectionString: url, application_name: application })
  await opened.connect()
  return opened
}

beforeAll(async () => {
  server = await startPostgres({ name: 'observe-target' })
  cluster = await startCockroach(server)
  db = await client('molt-actions')
  app = await client('shop')
  await app.query('CREATE TABLE orders (id int PRIMARY KEY, total int)')
})
beforeEach(async () => {
  await app.query('TRUNCATE orders')
})
afterAll(async () => {
  await app?.end()
  await db?.end()
  await cluster?.stop()
  await server?.stop()
})

const INSERT = 'insert into orders values _'

it('counts calls, rows, failures and time per statement', async () => {
  const since = await readClock(db)
  const before = ofTarget(await readTargetStatements(db, since, OWN))
  for (const id of [1, 2, 3]) await app.query('INSERT INTO orders VALUES ($1, $2)', [id, id])
  await expect(app.query('INSERT INTO orders VALUES (1, 4711)')).rejects.toMatchObject({ code: '23505' })
  await app.query('SELECT pg_sleep(0.05), * FROM orders WHERE id = 1')
  const after = ofTarget(await readTargetStatements(db, since, OWN))
  const seen = difference(before, after)
  expect(seen[INSERT]).toMatchObject({
    calls: 4,
    rows: 3,
    failures: 1,
    retries: 0,
    lastError: '23505',
    fullScan: false,
    applications: ['shop'],
  })
  const slept = Object.entries(seen).find(([text]) => text.startsWith('select pg_sleep'))?.[1]
  expect(meanMs(slept as never)).toBeGreaterThanOrEqual(50)
  expect(JSON.stringify(seen)).not.toContain('4711')
})

it("leaves out the suite's own statements and sessions", async () => {
  await db.query('SELECT count(*) FROM orders')
  const since = await readClock(db)
  expect((await readTargetStatements(db, since, OWN)).map(({ application }) => application)).not.toContain(
    'molt-actions',
  )
  expect(await readTargetSessions(db, OWN)).toEqual([{ application: 'shop', role: 'postgres', sessions: 1 }])
})

it('distinguishes a missing privilege from empty statistics', async () => {
  expect(await readSight(db)).toMatchObject({ activity: true, jobs: true })
  await app.query(`CREATE USER blind WITH PASSWORD 'blind'`)
  const url = new URL(cluster.urlOf('shop'))
  ;[url.username, url.password] = ['blind', 'blind']
  const blind = await client('molt-actions', url.href)
  expect(await readSight(blind)).toMatchObject({ activity: false, jobs: false })
  await app.query('GRANT SYSTEM VIEWACTIVITYREDACTED TO blind')
  expect(await readSight(blind)).toMatchObject({ activity: true, jobs: false })
  await blind.end()
})

it('finds jobs that have failed since a given time, and jobs that are being reverted', async () => {
  const jobs = ['IMPORT', 'CREATE STATS', 'IMPORT', 'IMPORT'] as const
  const [old, failed, undone, fine] = jobs.map((type) =>
    cluster.jobs.create({ type, description: 'with a value: 4711', user: 'postgres' }),
  ) as [Job, Job, Job, Job]
  cluster.jobs.update(old, { status: 'failed' })
  await new Promise((done) => setTimeout(done, 50))
  const since = await readClock(db)
  cluster.jobs.update(failed, { status: 'failed', error: 'row with 4711' })
  cluster.jobs.update(undone, { status: 'reverting' })
  cluster.jobs.update(fine, { status: 'succeeded' })
  expect(await readFailedJobs(db, since)).toEqual([
    { id: failed.id, type: 'CREATE STATS', status: 'failed' },
    { id: undone.id, type: 'IMPORT', status: 'reverting' },
  ])
})

it('returns no connection limit if none is set', async () => {
  expect(await readConnectionLimit(db)).toBeUndefined()
})

it('sums transactions by application', async () => {
  const before = await readTargetTransactions(db, await readClock(db), OWN)
  const others = await client('reports')
  await others.query('BEGIN')
  await others.query('INSERT INTO orders VALUES (7, 7)')
  await others.query('SELECT pg_sleep(0.05)')
  await others.query('COMMIT')
  await others.query('SELECT * FROM orders')
  await others.end()
  expect(before.map(({ application }) => application)).not.toContain('reports')
  const [reports] = (await readTargetTransactions(db, await readClock(db), OWN)).filter(
    ({ application }) => application === 'reports',
  )
  expect(reports).toMatchObject({ count: 2, maxRetries: 0 })
  expect(reports?.totalMs).toBeGreaterThanOrEqual(50)
})

it('distinguishes a full scan from an index lookup', async () => {
  await app.query('SELECT total FROM orders WHERE id = $1', [1])
  await app.query('SELECT id FROM orders WHERE total = $1', [1])
  const seen = ofTarget(await readTargetStatements(db, await readClock(db), OWN))
  expect(seen['select total from orders where id = _']).toMatchObject({ fullScan: false })
  expect(seen['select id from orders where total = _']).toMatchObject({ fullScan: true })
})

it('replaces constants in the same way as CockroachDB', () => {
  const text = (sql: string) => withoutConstants(split(sql)[0] as Statement)
  expect(text("SELECT a FROM t WHERE b = 'x' AND c IN (1, 2, 3)")).toBe(
    'SELECT a FROM t WHERE b = _ AND c IN (_, __more__)',
  )
  expect(text('INSERT INTO t VALUES ($1, $2), ($3, $4)')).toBe('INSERT INTO t VALUES (_, __more__), (__more__)')
  expect(text("UPDATE t SET a = a + 1 WHERE b = e'4711'")).toBe('UPDATE t SET a = a + _ WHERE b = _')
})
