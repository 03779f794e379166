import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
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
import { type StatisticsProxy, startStatisticsProxy } from '../support/statistics-proxy.ts'

/* The statements by which CockroachDB is asked, answered in its columns and JSON. */

const OWN = ['molt-actions']
let server: EmbeddedServer
let proxy: StatisticsProxy
let db: pg.Client
let app: pg.Client

async function client(application: string, url = proxy.url): Promise<pg.Client> {
  const opened = new pg.Client({ connectionString: url, application_name: application })
  await opened.connect()
  return opened
}

beforeAll(async () => {
  server = await startPostgres({ name: 'observe-target' })
  proxy = await startStatisticsProxy(server.url)
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
  await proxy?.stop()
  await server?.stop()
})

const INSERT = 'insert into orders values _'

it('counts calls, rows, failures and time of each statement', async () => {
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

it('leaves out statements and sessions of this suite', async () => {
  await db.query('SELECT count(*) FROM orders')
  const since = await readClock(db)
  expect((await readTargetStatements(db, since, OWN)).map(({ application }) => application)).not.toContain(
    'molt-actions',
  )
  expect(await readTargetSessions(db, OWN)).toEqual([{ application: 'shop', role: 'postgres', sessions: 1 }])
})

it('tells a right that is missing from statistics that are empty', async () => {
  expect(await readSight(db)).toEqual({ activity: true, jobs: true })
  await app.query(`CREATE ROLE blind LOGIN PASSWORD 'blind'; GRANT USAGE ON SCHEMA crdb TO blind`)
  const url = new URL(proxy.url)
  ;[url.username, url.password] = ['blind', 'blind']
  const blind = await client('molt-actions', url.href)
  expect((await readSight(blind)).activity).toBe(false)
  await blind.end()
})

it('finds jobs that failed since, and those being undone', async () => {
  await app.query(`INSERT INTO crdb.jobs VALUES (1, 'IMPORT', 'failed', now() - interval '1 hour'),
    (2, 'BACKUP', 'failed', now()), (3, 'SCHEMA CHANGE', 'reverting', NULL), (4, 'IMPORT', 'succeeded', now())`)
  const since = new Date((await readClock(db)).getTime() - 60_000)
  expect(await readFailedJobs(db, since)).toEqual([
    { id: '2', type: 'BACKUP', status: 'failed' },
    { id: '3', type: 'SCHEMA CHANGE', status: 'reverting' },
  ])
})

it('knows no limit of connections where none is set', async () => {
  expect(await readConnectionLimit(db)).toBeUndefined()
})

it('adds up transactions by application', async () => {
  await app.query(`INSERT INTO crdb.transaction_statistics
    SELECT date_trunc('hour', now()), 'shop', '{}', jsonb_build_object('statistics', jsonb_build_object(
      'cnt', n, 'maxRetries', n, 'svcLat', jsonb_build_object('mean', 0.5, 'sqDiff', 0))) FROM generate_series(1, 2) n`)
  expect(await readTargetTransactions(db, await readClock(db), OWN)).toEqual([
    { application: 'shop', count: 3, totalMs: 1500, squaresMs: 750_000, maxRetries: 2 },
  ])
})
