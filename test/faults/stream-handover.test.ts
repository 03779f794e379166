import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, expect, test } from 'vitest'
import { obtainSlot, releaseHold, setApproval, takeHold, thisRun } from '../../src/ledger/hold.ts'
import { connect } from '../../src/runtime/database.ts'
import { until } from '../contract/standin-helpers.ts'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'

/* Runs of the committed `replicate` action that share a migration through the ledger. */

let rehearsal: Rehearsal
afterEach(() => rehearsal?.stop())

const HANDOVER = { until: 'handover', poll: '300ms', 'quiet-period': '300ms', 'progress-every': '1s' }

const active = async () =>
  (await rehearsal.query('source', `SELECT active FROM pg_replication_slots WHERE slot_name = 'molt_slot'`))[0]?.active

test('streams until the slot is requested, the approval is declined or its leg ends, and rejects a second run', {
  timeout: 180_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  const target = await connect(rehearsal.pair.target.url, 'target')
  try {
    const following = rehearsal.run('replicate', HANDOVER, { github: { run_id: '4711' } })
    await until(active, 20_000)
    const elsewhere = mkdtempSync(join(tmpdir(), 'molt-actions-second-'))
    const second = await rehearsal.run('replicate', { until: 'caught-up' }, { workDir: elsewhere })
    rmSync(elsewhere, { recursive: true })
    expect(second.conclusion).toBe('failure')
    expect(words(second)).toMatch(/migration `main` is held by `replicate, until handover` \(.*\/actions\/runs\/4711\)/)

    const cutover = thisRun('cutover')
    await obtainSlot(target, 'main', cutover, 20_000, 60_000)
    expect(await active()).toBe(false)
    const followed = await following
    requireSuccess('replicate', followed)
    expect(followed.outputs).toMatchObject({ 'ended-by': 'request', restarts: '0' })
    expect(words(followed)).toMatch(/handed the slot over to `cutover` of a run outside GitHub/)
    const evidence = JSON.parse(readFileSync(followed.outputs.evidence as string, 'utf8'))
    expect(evidence).toMatchObject({ migration: 'main', slot: 'molt_slot', endedBy: 'request' })
    expect(evidence.endLsn).toBe(followed.outputs['end-lsn'])

    const kept = await rehearsal.run('replicate', HANDOVER)
    expect(words(kept)).toMatch(/is held by `cutover`/)
    await releaseHold(target, 'main', cutover)

    const leg = await rehearsal.run('replicate', { ...HANDOVER, 'leg-limit': '3s' })
    requireSuccess('replicate', leg)
    expect(words(leg)).toMatch(/streaming: .* rows\/s, .* changes, .* WAL behind/)
    expect(leg.outputs['ended-by']).toBe('leg-limit')

    await setApproval(target, 'main', 'declined')
    const declined = await rehearsal.run('replicate', HANDOVER)
    expect(declined.conclusion).toBe('failure')
    expect(declined.outputs['ended-by']).toBe('declined')
    await takeHold(target, 'main', cutover, 1_000)
  } finally {
    await target.end()
  }
})

test('before the first stream: rejects a publication that omits or has omitted changes, and a slot created after the load', {
  timeout: 120_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToLoaded()
  const refused = async (sql: string, said: RegExp) => {
    await rehearsal.query('source', sql)
    const result = await rehearsal.run('replicate', { until: 'caught-up' })
    expect(result.conclusion).toBe('failure')
    expect(words(result)).toMatch(said)
  }
  const alter = 'ALTER PUBLICATION molt_fetch'
  await refused(`${alter} SET (publish = 'insert, update')`, /the publication molt_fetch does not send DELETE/)
  // DELETEs made in the meantime are never sent.
  await refused(
    `${alter} SET (publish = 'insert, update, delete')`,
    /altered on the source \(its published operations were set\)/,
  )
  await refused(
    `${alter} DROP TABLE reviews; ${alter} ADD TABLE reviews (id, product_id, customer_id, rating, body)`,
    /molt_fetch sends public\.reviews without the columns user, title, votes, created_at/,
  )
  await refused(
    `${alter} DROP TABLE reviews; ${alter} ADD TABLE reviews WHERE (id < 0)`,
    /molt_fetch sends public\.reviews through a row filter/,
  )
  // A slot that starts after the load is rejected too.
  await rehearsal.query('source', `${alter} DROP TABLE reviews; ${alter} ADD TABLE reviews`)
  await rehearsal.query('source', `SELECT pg_drop_replication_slot('molt_slot')`)
  await refused(
    `SELECT pg_create_logical_replication_slot('molt_slot', 'pgoutput')`,
    /the load ended at [0-9A-F/]+, and nothing has been streamed since/,
  )
})

test('between two streams: reports a new table, a TRUNCATE, a slot that another client has read, and a note from the future', {
  timeout: 180_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  const again = async (name = 'replicate') =>
    words(await rehearsal.run(name, name === 'replicate' ? { until: 'caught-up', 'quiet-period': '1200ms' } : {}))
  await rehearsal.query('source', 'CREATE TABLE newcomer (id int PRIMARY KEY)')
  expect(await again()).toMatch(/##\[error\]the table public\.newcomer was created on the source/)
  expect(await again('cutover')).toMatch(/table newcomer is new on the source: it is not part of this migration/)
  await rehearsal.query('source', 'DROP TABLE newcomer')
  await rehearsal.query('source', 'VACUUM FULL reviews')
  const rewritten = await rehearsal.run('replicate', { until: 'caught-up', 'quiet-period': '1200ms' })
  requireSuccess('replicate', rewritten)
  expect(words(rewritten)).toMatch(/##\[warning\]public\.reviews was rewritten on the source/)
  await rehearsal.query('source', 'TRUNCATE cart_items')
  // The next stream still reports the TRUNCATE.
  for (const _ of [1, 2]) expect(await again()).toMatch(/##\[error\]public\.cart_items was emptied by TRUNCATE/)
  await until(async () => !(await active()))
  await sleep(500)
  await rehearsal.query('source', `SELECT pg_replication_slot_advance('molt_slot', pg_current_wal_lsn())`)
  const refused = await rehearsal.run('replicate', { until: 'caught-up' })
  expect(refused.conclusion).toBe('failure')
  expect(words(refused)).toMatch(/since the last stream ended: another client has recreated, advanced or read the slot/)
  const [staging] = await rehearsal.query(
    'target',
    `SELECT facts->>'stagingSchema' AS name FROM molt_actions.migrations WHERE id = 'main'`,
  )
  await rehearsal.query('target', `UPDATE "${staging?.name}".memo SET value = '7F/0' WHERE key LIKE 'pglogical%'`)
  expect(words(await rehearsal.run('replicate', { until: 'caught-up' }))).toMatch(
    /is from another source, or the source was/,
  )
})
