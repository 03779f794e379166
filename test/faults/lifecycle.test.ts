import pg from 'pg'
import { afterEach, expect, test } from 'vitest'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'
import { stoppedChild } from '../support/stopped.ts'

/* The operations after a failed or completed migration: abort, rollback, finalize, cleanup and status. */

const CUTOVER = { decision: 'commit', 'quiet-period': '300ms', 'final-verify': 'counts', 'switch-command': '["true"]' }

let rehearsal: Rehearsal
afterEach(() => rehearsal?.stop())

const ours = async () => {
  const source = await rehearsal.query(
    'source',
    `SELECT (SELECT count(*) FROM pg_replication_slots) AS slots, (SELECT count(*) FROM pg_publication) AS publications,
            (SELECT count(*) FROM pg_trigger WHERE tgname = 'molt_actions_fence') AS triggers,
            to_regnamespace('molt_actions')::text AS schema`,
  )
  return source[0]
}
/** The slot of a change log, as an earlier run leaves it. */
const leaveLog = () =>
  rehearsal.query('source', "SELECT pg_create_logical_replication_slot('molt_slot_verify', 'pgoutput')")
const NOTHING = { slots: '0', publications: '0', triggers: '0', schema: null }

const writable = () =>
  rehearsal.query('source', 'UPDATE categories SET name = name').then(
    () => true,
    () => false,
  )

test('abort frees the source in any phase, even without the target', { timeout: 120_000 }, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  await leaveLog()
  requireSuccess('fence', await rehearsal.run('fence', { do: 'raise', lease: '10m', keep: 'true' }))
  expect(await writable()).toBe(false)
  const status = await rehearsal.run('status')
  requireSuccess('status', status)
  expect(status.outputs).toMatchObject({ phase: 'caught-up', fence: 'armed', 'slot-active': 'false' })
  await rehearsal.pair.target.kill()
  const aborted = await rehearsal.run('abort')
  requireSuccess('abort', aborted)
  expect(aborted.outputs['target-reached']).toBe('false')
  expect(await writable()).toBe(true)
  expect(await ours()).toEqual(NOTHING)
  await rehearsal.pair.target.start()
  requireSuccess('abort', await rehearsal.run('abort'))
  expect(await rehearsal.query('target', 'SELECT * FROM molt_actions.migrations')).toEqual([])
  expect(
    await rehearsal.query('target', "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'molt_staging%'"),
  ).toEqual([])
})

test('abort during a cutover that is about to commit: one of them wins, and the other fails', {
  timeout: 180_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  const env = { MOLT_ACTIONS_STOP_AT: 'committing' }
  const running = rehearsal.run('cutover', { ...CUTOVER, lease: '60s', 'max-pause': '120s' }, { env })
  const pid = await stoppedChild(running)
  const reader = new pg.Client(rehearsal.pair.source.url)
  await reader.connect()
  await reader.query('BEGIN; SELECT count(*) FROM addresses')
  const aborting = rehearsal.run('abort')
  const waits = () =>
    rehearsal.query(
      'source',
      "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP TRIG%'",
    )
  for (let look = 0; look < 400 && !(await waits()).length; look++) await new Promise((go) => setTimeout(go, 50))
  expect(await writable()).toBe(true)
  process.kill(pid, 'SIGCONT')
  const cutover = await running
  await reader.query('ROLLBACK')
  await reader.end()
  expect(cutover.conclusion, words(cutover)).toBe('failure')
  expect(cutover.outputs['error-code'], words(cutover)).toBe('ledger.moved')
  requireSuccess('abort', await aborting)
  expect(await writable()).toBe(true)
  expect(await ours()).toEqual(NOTHING)
})

test('after a commit: abort and cleanup refuse, finalize drops the slot, and rollback names the tables that would lose rows', {
  timeout: 180_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  requireSuccess('cutover', await rehearsal.run('cutover', CUTOVER))

  const abort = await rehearsal.run('abort')
  expect(abort.conclusion).toBe('failure')
  expect(words(abort)).toContain('Run `rollback`')
  const early = await rehearsal.run('cleanup')
  expect(early.outputs['error-code'], words(early)).toBe('cleanup.rollback-window')

  await leaveLog()
  const finalized = await rehearsal.run('finalize')
  requireSuccess('finalize', finalized)
  expect(finalized.outputs.phase).toBe('finalized')
  expect(await ours()).toMatchObject({ slots: '0', publications: '0' })
  expect((await rehearsal.run('status')).outputs).toMatchObject({ phase: 'finalized', fence: 'permanent' })

  await rehearsal.query('target', "INSERT INTO categories (id, name) VALUES (4711, 'after the commit')")
  const refused = await rehearsal.run('rollback')
  expect(refused.conclusion).toBe('failure')
  expect(words(refused)).toContain('categories differs from the fenced source')
  expect(await writable()).toBe(false)
  const wrong = await rehearsal.run('rollback', { 'accept-data-loss': 'orders' })
  expect(wrong.conclusion).toBe('failure')
  // The application's next release writes to a column that the source lacks, so no comparison covers it.
  await rehearsal.query('target', "ALTER TABLE orders ADD COLUMN promo text; UPDATE orders SET promo = 'x'")
  const unseen = await rehearsal.run('rollback', { 'accept-data-loss': 'categories' })
  expect(unseen.conclusion).toBe('failure')
  expect(unseen.outputs['error-code'], words(unseen)).toBe('rollback.inconclusive')
  expect(words(unseen)).toContain('public.orders has the column promo')
  expect(await writable()).toBe(false)
  const back = await rehearsal.run('rollback', { 'accept-data-loss': 'categories, orders' })
  requireSuccess('rollback', back)
  expect(JSON.parse(back.outputs.lost as string)).toEqual(['categories', 'orders'])
  expect(await writable()).toBe(true)
  const again = await rehearsal.run('rollback')
  requireSuccess('rollback', again)
  expect(words(again)).toContain('nothing to do: migration main was rolled back on')
  // The state after a rollback that was killed between its two steps.
  await rehearsal.query('target', "UPDATE molt_actions.migrations SET phase = 'switched'")
  const carriedOn = await rehearsal.run('rollback')
  requireSuccess('rollback', carriedOn)
  expect(JSON.parse(carriedOn.outputs.lost as string)).toEqual(['categories', 'orders'])
  requireSuccess('cleanup', await rehearsal.run('cleanup'))
  expect(await ours()).toEqual(NOTHING)
})

test('cleanup after the rollback window removes everything that the suite created on both sides', {
  timeout: 120_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  requireSuccess('cutover', await rehearsal.run('cutover', CUTOVER))
  await leaveLog()
  const uncompared = await rehearsal.run('cleanup', { 'rollback-window': '0s' })
  expect(uncompared.outputs['error-code']).toBe('cleanup.not-compared')
  const unobserved = await rehearsal.run('cleanup', { 'rollback-window': '0s', waive: 'compare' })
  expect(unobserved.outputs['error-code']).toBe('cleanup.not-observed')
  const over = { 'rollback-window': '0s', waive: 'observe, compare' }
  const listed = await rehearsal.run('cleanup', { ...over, 'dry-run': 'true' })
  requireSuccess('cleanup', listed)
  expect(words(listed)).toContain('would drop slot molt_slot')
  expect(words(listed)).toContain('would drop slot molt_slot_verify')
  expect(await ours()).toMatchObject({ slots: '2' })
  const bookkeeping = () =>
    rehearsal.query('target', "SELECT relname FROM pg_class WHERE relname LIKE '\\_molt\\_fetch%' AND relkind = 'r'")
  expect(await bookkeeping()).toHaveLength(2)
  requireSuccess('cleanup', await rehearsal.run('cleanup', over))
  expect(await ours()).toEqual(NOTHING)
  expect(await bookkeeping()).toEqual([])
})

test("abort disconnects a live replicator, keeps other users' objects, and rebuilds the dropped ones", {
  timeout: 240_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.query(
    'target',
    `CREATE UNIQUE INDEX by_email ON customers (email); CREATE INDEX by_name ON customers (created_at);
     ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers`,
  )
  const there = async () =>
    (
      await rehearsal.query(
        'target',
        `SELECT relname AS name FROM pg_class WHERE relname IN ('by_email', 'by_name')
         UNION SELECT conname FROM pg_constraint WHERE conname = 'of_customer' AND convalidated ORDER BY 1`,
      )
    ).map(({ name }) => name)
  await rehearsal.bringToCaughtUp({ defer: 'indexes,constraints' })
  // A plain index does not block the stream.
  expect(await there()).toEqual(['by_name'])
  // Another user's load from before this migration. Its tables must not be dropped.
  await rehearsal.query(
    'target',
    "INSERT INTO _molt_fetch_status VALUES (gen_random_uuid(), 'theirs', '2020-01-01', 'PostgreSQL')",
  )
  const following = rehearsal.run('replicate', { until: 'handover', 'leg-limit': '5m', 'quiet-period': '300ms' })
  for (let i = 0; i < 200; i++) {
    const [slot] = await rehearsal.query('source', 'SELECT active FROM pg_replication_slots')
    if (slot?.active) break
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  const kept = await rehearsal.run('abort', {}, { workDir: undefined })
  requireSuccess('abort', kept)
  expect(words(kept)).toMatch(/disconnected the replicator that was reading the slot/)
  expect(words(kept)).toMatch(/\d+ indexes and constraints dropped for the load are still missing/)
  expect(await ours()).toEqual(NOTHING)
  const ended = await following
  expect(ended.conclusion).toBe('failure')
  expect(words(ended)).toMatch(
    /the (slot|publication) \S+ (is gone|was dropped)|was lost|the heartbeat on the (source|target) is missing: `abort` or `cleanup` has run/,
  )
  expect(ended.steps[0]?.outputs['error-kind']).not.toBe('bug')
  requireSuccess('abort', await rehearsal.run('abort', { restore: 'true' }))
  expect(await there()).toEqual(['by_email', 'by_name', 'of_customer'])
  expect(
    await rehearsal.query('target', 'SELECT name FROM _molt_fetch_status WHERE name = $1', ['theirs']),
  ).toHaveLength(1)
  expect(await rehearsal.query('target', 'SELECT 1 FROM molt_actions.deferred')).toEqual([])
})

test('status works with only one side, and fails when the slot keeps too much WAL', { timeout: 120_000 }, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.bringToCaughtUp()
  const red = await rehearsal.run('status', { 'wal-budget': '1B' })
  expect(red.conclusion).toBe('failure')
  expect(red.outputs['error-code']).toBe('slot.wal-budget')
  await rehearsal.pair.target.kill()
  const half = await rehearsal.run('status')
  expect(half.outputs).toMatchObject({ fence: 'lifted', 'error-code': 'status.unreadable' })
  await rehearsal.pair.target.start()
  const refused = await rehearsal.run('observe')
  expect(refused.outputs['error-code']).toBe('ledger.wrong-phase')
  const whole = await rehearsal.run('status')
  requireSuccess('status', whole)
  expect(whole.outputs).toMatchObject({ phase: 'caught-up', next: 'cutover', 'last-error': 'ledger.wrong-phase' })
})

test('write access: roles lose their write privileges until the commit, which restores exactly the same privileges', {
  timeout: 180_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.query(
    'target',
    `CREATE ROLE app_writer; CREATE ROLE app_admin;
     GRANT SELECT, INSERT, UPDATE ON orders TO app_writer; GRANT DELETE ON orders TO app_admin WITH GRANT OPTION`,
  )
  const rights = async () =>
    (
      await rehearsal.query(
        'target',
        `SELECT grantee || ' ' || privilege_type || ' ' || is_grantable AS right FROM information_schema.table_privileges
          WHERE grantee IN ('app_writer', 'app_admin') ORDER BY 1`,
      )
    ).map((row) => row.right)
  const before = await rights()
  await rehearsal.bringToCaughtUp()
  expect(await rights()).toEqual(['app_writer SELECT NO'])
  requireSuccess('abort', await rehearsal.run('abort'))
  expect(await rights()).toEqual(before)

  await rehearsal.query(
    'target',
    'TRUNCATE TABLE addresses, cart_items, categories, customers, inventory, order_items, "OrderNotes", orders, payments, products, reviews',
  )
  await rehearsal.bringToCaughtUp()
  expect(await rights()).toEqual(['app_writer SELECT NO'])
  requireSuccess('cutover', await rehearsal.run('cutover', CUTOVER))
  expect(await rights()).toEqual(before)
  // A rollback must revoke the privileges again. Otherwise the application could write to both sides.
  await rehearsal.query(
    'target',
    `UPDATE molt_actions.holds SET nonce = 'x', holder = '{"action": "cutover", "url": "https://x/runs/9"}', expires_at = now() + interval '1 hour'`,
  )
  expect(words(await rehearsal.run('rollback'))).toMatch(/is held by `cutover` \(https:\/\/x\/runs\/9\)/)
  await rehearsal.query('target', 'UPDATE molt_actions.holds SET nonce = NULL')
  requireSuccess('rollback', await rehearsal.run('rollback'))
  expect(await rights()).toEqual(['app_writer SELECT NO'])
})

test('after a commit, names the GRANTs that failed even past `max-pause`; the next run restores access', {
  timeout: 240_000,
}, async () => {
  rehearsal = await startRehearsal()
  await rehearsal.query('target', 'CREATE ROLE app_writer; GRANT SELECT, INSERT ON orders TO app_writer')
  await rehearsal.bringToCaughtUp()
  const refuse = (seconds: number) => `
    CREATE OR REPLACE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
      IF current_query() LIKE '%"app_writer"%' THEN
        PERFORM pg_sleep(${seconds}); RAISE EXCEPTION 'cancelled' USING ERRCODE = '57014'; END IF; END $$`
  await rehearsal.query(
    'target',
    `${refuse(25)}; CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION refuse()`,
  )
  const statement = 'GRANT INSERT ON TABLE "public"."orders" TO "app_writer";'
  for (const inputs of [{ ...CUTOVER, 'max-pause': '20s' }, CUTOVER]) {
    const red = await rehearsal.run('cutover', inputs)
    expect(red.outputs['error-code'], words(red)).toBe('write-access.missing')
    expect(words(red)).toContain(statement)
    expect(words(red)).toMatch(/To go back to the source instead, run `rollback`/)
    await rehearsal.query('target', refuse(0))
  }
  await rehearsal.query('target', 'DROP EVENT TRIGGER refuse')
  requireSuccess('cutover', await rehearsal.run('cutover', CUTOVER))
  expect((await rehearsal.run('status')).outputs.phase).toBe('switched')
  const [may] = await rehearsal.query('target', "SELECT has_table_privilege('app_writer', 'orders', 'INSERT') AS may")
  expect(may).toEqual({ may: true })
})
