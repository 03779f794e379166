/**
 * An administrator changes rows on the target between the final verification and the commit, too late for any check before
 * the commit. `finalize` compares all rows as of the commit, while the application writes to the target.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { CockroachServer } from '../../rehearsal/cockroach/server.ts'
import type { JobResult } from '../../rehearsal/runner/runner.ts'
import { query, type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'
import { stoppedChild } from '../support/stopped.ts'

const CUTOVER = { decision: 'commit', 'quiet-period': '300ms', 'switch-command': '["true"]' }

let rehearsal: Rehearsal
let cluster: CockroachServer
const run = (name: string, inputs: Record<string, string> = {}, env: Record<string, string> = {}): Promise<JobResult> =>
  rehearsal.run(name, name === 'setup' ? inputs : { target: cluster.urlOf('shop'), ...inputs }, { env })
const onTarget = (sql: string) => query(cluster.urlOf('shop'), sql)
const cleanup = (waive: string) => run('cleanup', { 'rollback-window': '0s', 'dry-run': 'true', waive })

beforeAll(async () => {
  rehearsal = await startRehearsal({ rows: 1500, rate: 40 })
  cluster = rehearsal.pair.cluster
  requireSuccess('setup', await run('setup', { embedded: 'true' }))
  requireSuccess('prepare', await run('prepare'))
  requireSuccess('fetch', await run('fetch', { mode: 'direct-copy' }))
  requireSuccess('replicate', await run('replicate', { until: 'caught-up', 'quiet-period': '500ms' }))
}, 180_000)

afterAll(() => rehearsal?.stop())

test('refuses to commit if the target would garbage-collect its history too soon', async () => {
  await onTarget('ALTER TABLE orders CONFIGURE ZONE USING gc.ttlseconds = 600')
  const red = await run('cutover', CUTOVER)
  expect(red.outputs['error-code'], words(red)).toBe('commit.retention-short')
  await rehearsal.query('source', 'UPDATE categories SET name = name WHERE id = 1')
  await onTarget('ALTER TABLE orders CONFIGURE ZONE USING gc.ttlseconds = 14400')
})

test("finds an administrator's change just before the commit, and nothing else", async () => {
  const committing = run('cutover', CUTOVER, { MOLT_ACTIONS_STOP_AT: 'permanent on the source' })
  const pid = await stoppedChild(committing)
  // As a superuser, which bypasses every rule and privilege.
  const [lost] = await rehearsal.query(
    'target',
    'DELETE FROM order_items WHERE (order_id, product_id) = (SELECT order_id, product_id FROM order_items LIMIT 1) RETURNING 1 AS rows',
  )
  await rehearsal.query('target', "UPDATE categories SET name = 'changed-by-hand' WHERE id = 2")
  process.kill(pid, 'SIGCONT')
  requireSuccess('cutover', await committing)
  expect(lost).toBeDefined()

  // The application inserts, updates and deletes rows on the target.
  await rehearsal.load.switchTo(cluster.urlOf('shop'))
  await onTarget("UPDATE categories SET name = 'by the application' WHERE id = 1")
  await onTarget('DELETE FROM order_items WHERE order_id = (SELECT max(order_id) FROM order_items)')
  await sleep(1_000)
  expect((await cleanup('observe')).outputs['error-code']).toBe('cleanup.not-compared')

  const red = await run('finalize')
  expect(red.outputs, words(red)).toMatchObject({ compared: 'different', 'error-code': 'verify.after-commit' })
  const differences = JSON.parse(red.outputs.differences as string)
  expect(differences).toEqual(
    expect.arrayContaining([
      expect.objectContaining({ table: 'categories', missing: 0, mismatch: 1, extraneous: 0 }),
      expect.objectContaining({ table: 'order_items', mismatch: 0, extraneous: 0 }),
    ]),
  )
  expect(differences).toHaveLength(2)
  expect(words(red)).toContain('run `rollback`')
  expect(words(red)).not.toContain('changed-by-hand')
  expect(words(red)).not.toContain('by the application')

  // `finalize` has still done everything else, and a rollback stays possible.
  expect(await rehearsal.query('source', 'SELECT slot_name FROM pg_replication_slots')).toEqual([])
  expect((await run('status')).outputs).toMatchObject({ phase: 'switched', compared: 'different' })
  expect((await cleanup('observe')).outputs['error-code']).toBe('cleanup.rows-differ')
  requireSuccess('cleanup', await cleanup('observe, compare'))
})

test('fails if the target no longer keeps history back to the commit', async () => {
  for (let later = 0; later < 12; later++) await onTarget('SELECT cluster_logical_timestamp()')
  const red = await run('finalize')
  expect(red.outputs, words(red)).toMatchObject({
    compared: 'inconclusive',
    'error-code': 'verify.after-commit-inconclusive',
  })
  // The result of the earlier run still stands.
  expect((await cleanup('observe')).outputs['error-code']).toBe('cleanup.rows-differ')
})
