/**
 * Observes a committed migration to the like-server with the committed bundles: without problems, with a client left on the
 * source, with a query that lost its index, and with many retries.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { CockroachServer } from '../../rehearsal/cockroach/server.ts'
import type { JobResult } from '../../rehearsal/runner/runner.ts'
import { query, type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'

const CUTOVER = { decision: 'commit', 'quiet-period': '300ms', 'final-verify': 'counts', 'switch-command': '["true"]' }
/** Counts a product's items. Takes one or two milliseconds with the index, and a tenth of a second without it. */
const LOOK = `SELECT count(*) FROM orders o WHERE o.id <= $1
  AND (SELECT count(*) FROM order_items i WHERE i.product_id = o.id % 50 + 1) > $2`
const FINGERPRINT =
  'select count * from orders o where id <= _ and select count * from order_items i where product_id = id % _ + _ > _'
/** Thresholds above the overhead of a proxy on a busy machine. */
const LIMITS = { 'latency-floor': '60ms', 'latency-ratio': '8', 'min-calls': '5', 'min-coverage': '50' }

let rehearsal: Rehearsal
let app: pg.Client
let cluster: CockroachServer

const run = (name: string, inputs: Record<string, string> = {}): Promise<JobResult> =>
  rehearsal.run(name, name === 'setup' ? inputs : { target: cluster.urlOf('shop'), ...inputs })
const onTarget = (sql: string) => query(cluster.urlOf('shop'), sql)

beforeAll(async () => {
  rehearsal = await startRehearsal({
    rate: 60,
    rows: 40_000,
    settings: { shared_preload_libraries: 'pg_stat_statements' },
  })
  await rehearsal.query('source', 'CREATE SCHEMA monitoring')
  await rehearsal.query('source', 'CREATE EXTENSION pg_stat_statements SCHEMA monitoring')
  cluster = rehearsal.pair.cluster
  requireSuccess('setup', await run('setup', { embedded: 'true' }))
  requireSuccess('prepare', await run('prepare'))
  requireSuccess('fetch', await run('fetch', { mode: 'direct-copy' }))
  requireSuccess('replicate', await run('replicate', { until: 'caught-up', 'quiet-period': '500ms' }))
  app = await client('source')
  const first = await run('observe', { mode: 'baseline' })
  requireSuccess('baseline', first)
  expect(first.outputs.snapshots).toBe('1')
  await work()
  const second = await run('observe', { mode: 'baseline' })
  requireSuccess('baseline', second)
  expect(second.outputs.snapshots).toBe('2')
  await app.end()
  requireSuccess('cutover', await run('cutover', CUTOVER))
  await rehearsal.load.switchTo(cluster.urlOf('shop'))
  const finalized = await run('finalize')
  requireSuccess('finalize', finalized)
  expect(finalized.outputs).toMatchObject({ compared: 'equal', differences: '[]' })
  await onTarget('CREATE INDEX by_product ON order_items (product_id)')
  await rehearsal.query('target', 'ANALYZE order_items')
  app = await client('target')
}, 400_000)

afterAll(async () => {
  await app?.end()
  await rehearsal?.stop()
})

async function client(side: 'source' | 'target', application = 'reports'): Promise<pg.Client> {
  const connectionString = side === 'target' ? cluster.urlOf('shop') : rehearsal.pair.source.url
  const db = new pg.Client({ connectionString, application_name: application })
  await db.connect()
  return db
}

/** Runs the application's query often enough for a verdict. */
async function work(times = 15): Promise<void> {
  for (let look = 0; look < times; look++) await app.query(LOOK, [250, 0])
}

async function observed(
  inputs: Record<string, string> = {},
  meanwhile: () => Promise<void> = work,
): Promise<JobResult> {
  const watching = run('observe', { duration: '8s', every: '2s', ...LIMITS, ...inputs })
  await new Promise((go) => setTimeout(go, 3_000))
  await meanwhile()
  return watching
}

test('reports healthy if nothing is wrong, and how long a rollback stays possible', { timeout: 60_000 }, async () => {
  const metrics = join(rehearsal.pair.source.folder, '..', `observe-${process.pid}.prom`)
  const calm = await observed({ 'metrics-file': metrics })
  requireSuccess('observe', calm)
  expect(calm.outputs).toMatchObject({ verdict: 'healthy', reasons: '[]' })
  expect(calm.summary).toMatch(
    /A rollback is possible until \S+Z\. It would lose every write .* rows were written per minute/,
  )
  const report = JSON.parse(readFileSync(calm.outputs.report as string, 'utf8'))
  expect(report.worst.length).toBeGreaterThan(3)
  expect(report.coverage).toBeGreaterThan(50)
  expect(readFileSync(metrics, 'utf8')).toContain('verdict="healthy"} 1\n')
  expect((await run('status')).outputs).toMatchObject({ observed: 'healthy' })
  requireSuccess('cleanup', await run('cleanup', { 'rollback-window': '0s', 'dry-run': 'true' }))
})

test('is degraded by a client that still writes to the source, and names the client', { timeout: 60_000 }, async () => {
  const forgotten = await client('source', 'molt-actions rehearsal load')
  try {
    const red = await observed({}, async () => {
      for (let write = 0; write < 7; write++)
        await forgotten
          .query('UPDATE categories SET name = name')
          .catch((error) => expect(error).toMatchObject({ code: '25006' }))
      await work()
    })
    expect(red.conclusion).toBe('failure')
    expect(red.outputs).toMatchObject({ verdict: 'degraded', 'error-kind': 'verdict' })
    expect(JSON.parse(red.outputs.reasons as string)).toMatchObject([
      { code: 'observe.stragglers', subject: 'molt-actions rehearsal load (user postgres, 127.0.0.1)', measured: 1 },
      { code: 'observe.refused-writes', measured: 7 },
    ])
    const open = await run('cleanup', { 'rollback-window': '0s', 'dry-run': 'true' })
    expect(open.outputs['error-code']).toBe('cleanup.degraded')
    requireSuccess('cleanup', await run('cleanup', { 'rollback-window': '0s', 'dry-run': 'true', waive: 'observe' }))
  } finally {
    await forgotten.end()
  }
})

test('does not count rejected writes again that an earlier watch has counted', { timeout: 60_000 }, async () => {
  requireSuccess('observe', await observed())
})

test('is degraded by a query that lost its index, and lists the query first', { timeout: 60_000 }, async () => {
  await onTarget('DROP INDEX order_items@by_product')
  const red = await observed()
  expect(red.outputs.verdict).toBe('degraded')
  expect(JSON.parse(red.outputs.reasons as string)).toMatchObject([
    { code: 'observe.slow', subject: FINGERPRINT, hint: 'full-scan' },
  ])
  expect(JSON.parse(readFileSync(red.outputs.report as string, 'utf8')).worst[0].statement).toBe(FINGERPRINT)
})

test('is degraded by many retries, and names the statement', { timeout: 60_000 }, async () => {
  await onTarget('CREATE INDEX by_product ON order_items (product_id)')
  const rivals = [await client('target'), await client('target')]
  const HOT = 'UPDATE categories SET name = name WHERE id = $1'
  /** Makes two transactions read the same row, so that the second one to write must fail. */
  const collide = async () => {
    for (const each of rivals)
      await each.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM categories')
    const [first, second] = rivals as [pg.Client, pg.Client]
    await first.query(HOT, [1])
    await first.query('COMMIT')
    await expect(second.query(HOT, [1])).rejects.toMatchObject({ code: '40001' })
    await second.query('ROLLBACK')
  }
  try {
    const red = await observed({}, async () => {
      for (let time = 0; time < 40; time++) await collide()
      await work()
    })
    expect(red.outputs.verdict).toBe('degraded')
    expect(JSON.parse(red.outputs.reasons as string)).toMatchObject([
      {
        code: 'observe.retries',
        subject: 'update categories set name = name where id = _',
        measured: expect.closeTo(50, -1),
        hint: 'retry',
      },
    ])
  } finally {
    for (const each of rivals) await each.end()
  }
})

test('is inconclusive while no application uses the target', { timeout: 60_000 }, async () => {
  await rehearsal.load.stop()
  const none = await observed({ duration: '2s' }, async () => {})
  expect(none.conclusion).toBe('failure')
  expect(none.outputs.verdict).toBe('inconclusive')
  const warned = await run('cleanup', { 'rollback-window': '0s', 'dry-run': 'true' })
  requireSuccess('cleanup', warned)
  expect(words(warned)).toContain('inconclusive')
})
