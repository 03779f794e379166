/** A migration whose write pause compares what changed last, and rests on the rolling proof for all else. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'

const CUTOVER = { 'quiet-period': '300ms', 'final-verify': 'changed', 'first-verify': 'none' }
const TIMEOUT = { timeout: 240_000 }

let rehearsal: Rehearsal
beforeAll(async () => {
  rehearsal = await startRehearsal({ rows: 3000, rate: 60 })
  await rehearsal.bringToLoaded()
}, 240_000)
afterAll(() => rehearsal?.stop())

const slots = async () =>
  (await rehearsal.query('source', 'SELECT slot_name AS name FROM pg_replication_slots ORDER BY 1')).map(
    ({ name }) => name,
  )

test('every row is proved while it is streamed, table by table', TIMEOUT, async () => {
  const result = await rehearsal.run('replicate', { until: 'caught-up', verify: 'rolling', 'quiet-period': '300ms' })
  requireSuccess('replicate', result)
  expect(words(result)).toMatch(/every row proved, \d+ keys? open/)
  expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
  const brief = await rehearsal.run('brief', { decision: 'rehearse' })
  requireSuccess('brief', brief)
  expect(brief.summary).toMatch(
    /\| Rolling proof \| every row of \d+ tables proved as of [\d: -]+ UTC, \d+ keys? open, 0 lost/,
  )
  expect((await rehearsal.run('status', {})).summary).toContain('`molt_slot_verify`')
})

test('the write pause compares the rows that changed last', TIMEOUT, async () => {
  const result = await rehearsal.run('cutover', CUTOVER)
  requireSuccess('cutover', result)
  expect(words(result)).toMatch(/rows of \d+ tables proved, \d+ keys? open, 0 lost/)
  expect(result.summary).toContain('every row compared while it was streamed, and again when it changed')
  console.log(result.outputs['pause-parts'], result.outputs['pause-ms'], result.outputs['estimated-pause-ms'])
})

test('a row that is lost after its comparison is found before the pause, or in it', TIMEOUT, async () => {
  await rehearsal.query('target', 'DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)')
  const result = await rehearsal.run('cutover', { ...CUTOVER, 'final-verify': 'full' })
  expect(result.conclusion).toBe('failure')
})

test('the decision is taken on the proof, and the slot of the log is dropped', TIMEOUT, async () => {
  await rehearsal.query('target', 'SELECT 1')
  expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
})
