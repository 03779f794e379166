import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { operationsOf } from '../../src/model/operations.ts'
import { busyFactor, type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'
import { children, stateOf, stoppedChild } from '../support/stopped.ts'

/*
 * One migration and its cutovers: rehearsals, refusals, cancelled and killed runs, and finally the commit, which none of the
 * earlier runs may block. The tests run in this order.
 */
const NIGHTLY = Boolean(process.env.MOLT_ACTIONS_NIGHTLY)
const CUTOVER = { 'quiet-period': '300ms', lease: '5s', ...(NIGHTLY ? {} : { 'first-verify': 'none' }) }
/** Runs a test only at night. The other tests take a minute. */
const nightly = test.runIf(NIGHTLY)
const TIMEOUT = { timeout: 240_000 }

let rehearsal: Rehearsal
beforeAll(async () => {
  rehearsal = await startRehearsal({ rows: 1000, rate: 30 })
  await rehearsal.query(
    'source',
    `CREATE ROLE app LOGIN PASSWORD 'postgres'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO app`,
  )
  await rehearsal.query(
    'target',
    `ALTER TABLE customers ADD CONSTRAINT customers_email_key UNIQUE (email);
     ALTER TABLE orders ADD CONSTRAINT of_customer FOREIGN KEY (customer_id) REFERENCES customers;
     CREATE INDEX orders_customer_id_idx ON orders (customer_id)`,
  )
  await rehearsal.bringToCaughtUp({ defer: 'indexes,constraints' })
  // Plain indexes are rebuilt once the target has caught up, but not those that would block the stream.
  expect(await indexes()).toEqual(['orders_customer_id_idx'])
  if (!NIGHTLY) return
  await rehearsal.query('target', 'DROP INDEX orders_customer_id_idx')
  await rehearsal.query('target', "UPDATE molt_actions.deferred SET rebuilt_at = NULL WHERE kind = 'index'")
  const gone = await rehearsal.run('cutover', CUTOVER)
  expect(words(gone)).toMatch(/the schema has changed since `prepare`.*orders_customer_id_idx/s)
  await rehearsal.query('target', 'CREATE INDEX orders_customer_id_idx ON orders (customer_id)')
}, 240_000)
afterAll(() => rehearsal?.stop())
const indexes = async () =>
  (
    await rehearsal.query('target', "SELECT relname AS name FROM pg_class WHERE relname = 'orders_customer_id_idx'")
  ).map(({ name }) => name)
/** Deletes an object's definition from the ledger. `REMEMBER` restores it. */
const forget = (name: string) => `CREATE TABLE molt_actions.kept AS SELECT * FROM molt_actions.deferred;
  DELETE FROM molt_actions.deferred WHERE name = '${name}'`
const REMEMBER = `INSERT INTO molt_actions.deferred SELECT * FROM molt_actions.kept ON CONFLICT DO NOTHING;
  DROP TABLE molt_actions.kept`
const clients: pg.Client[] = []
afterEach(async () => {
  await Promise.all(clients.splice(0).map((client) => client.end().catch(() => {})))
})

async function client(url: string): Promise<pg.Client> {
  const opened = new pg.Client({ connectionString: url })
  opened.on('error', () => {})
  await opened.connect()
  clients.push(opened)
  return opened
}
const cutover = (inputs: Record<string, string> = {}, options: Parameters<Rehearsal['run']>[2] = {}) =>
  rehearsal.run('cutover', { ...CUTOVER, ...inputs }, options)
const phase = async () => (await rehearsal.query('target', 'SELECT phase FROM molt_actions.migrations'))[0]?.phase
const write = () =>
  rehearsal.query('source', 'UPDATE categories SET name = name WHERE id = 1').then(
    () => true,
    () => false,
  )
async function writableWithin(ms: number): Promise<boolean> {
  const end = performance.now() + ms
  while (performance.now() < end) if (await write()) return true
  return write()
}
/** Returns the stream's logins on the target and their sessions. */
const legs = () =>
  rehearsal.query(
    'target',
    `SELECT rolcanlogin AS may, (SELECT count(*)::int FROM pg_stat_activity a WHERE a.usename = r.rolname) AS sessions
       FROM pg_roles r WHERE rolname LIKE 'molt\\_leg\\_%'`,
  )
/** Returns the objects that were dropped for the load and have been rebuilt. */
const rebuilt = async () =>
  (
    await rehearsal.query(
      'target',
      // CockroachDB rebuilds a UNIQUE constraint as an index.
      `SELECT relname AS name FROM pg_class WHERE relname = 'customers_email_key'
       UNION SELECT conname FROM pg_constraint WHERE conname = 'of_customer' ORDER BY 1`,
    )
  ).map(({ name }) => name)

test('every rehearsal succeeds with a short pause, and does not change the phase', TIMEOUT, async () => {
  const pauses: number[] = []
  for (let run = 0; run < 2; run++) {
    const result = await cutover(run ? {} : { 'first-verify': 'full' })
    requireSuccess('cutover', result)
    const parts = JSON.parse(result.outputs['pause-parts'] as string)
    expect(Object.keys(parts)).toEqual(operationsOf('rehearse', {}).map(({ name }) => name))
    pauses.push(Number(result.outputs['pause-ms']) - parts.verify)
    expect(Number(result.outputs['estimated-pause-ms'])).toBeGreaterThan(parts.drain)
    if (run) expect(words(result)).toContain('including 1 earlier cutover')
    expect(result.summary).toMatch(/^### ✅ Cutover rehearsed: .*\n\nWrites were paused for .*\n\n### ✅ Verify/)
    expect(await rebuilt()).toEqual([])
    expect(await writableWithin(1_000)).toBe(true)
  }
  expect(Math.min(...pauses), JSON.stringify(pauses)).toBeLessThan(busyFactor() * 1_000)
  expect(await phase()).toBe('caught-up')
  const brief = await rehearsal.run('brief', { decision: 'rehearse' })
  expect(brief.summary).toContain(
    '- **Decision:** **rehearse**: everything except the commit; then the fence is lifted',
  )
  expect(brief.summary).toMatch(/\*\*Estimate:\*\* [\d.]+ s, measured [\d-]+ [\d:]+ UTC \(rehearse\)/)
})

test('a dry run lists the parts with their expected times, and changes nothing', TIMEOUT, async () => {
  const state = `SELECT * FROM (SELECT phase, nonce, facts::text FROM molt_actions.migrations) m,
    (SELECT count(*) AS evidence FROM molt_actions.evidence) e, (SELECT string_agg(rolname, ',' ORDER BY 1) AS roles FROM pg_roles) r`
  const before = await rehearsal.query('target', state)
  const refused = rehearsal.load.counters.refused
  const result = await cutover({ 'dry-run': 'true', decision: 'commit' })
  requireSuccess('cutover', result)
  const operations = JSON.parse(result.outputs.operations as string)
  expect(operations.map(({ name }: { name: string }) => name)).toEqual(
    operationsOf('commit', {}).map(({ name }) => name),
  )
  const estimates = operations.map(({ estimateMs }: { estimateMs: number | null }) => estimateMs)
  expect(estimates.filter((each: number | null) => each !== null && each > 0).length).toBeGreaterThan(4)
  expect(Number(result.outputs['estimated-pause-ms'])).toBeGreaterThan(0)
  expect(result.outputs.verdict).toBeFalsy()
  expect(result.summary).toMatch(/^### Dry run: `decision: commit`/)
  expect(await rehearsal.query('target', state)).toEqual(before)
  expect(rehearsal.load.counters.refused).toBe(refused)
  expect(await write()).toBe(true)
})

test("shows a verify that failed during the pause below the fence's state", TIMEOUT, async () => {
  await rehearsal.query('target', "INSERT INTO categories (id, name) VALUES (4711, 'only here')")
  const result = await cutover({ 'first-verify': 'none', 'final-verify': 'counts' })
  await rehearsal.query('target', 'DELETE FROM categories WHERE id = 4711')
  expect(result.conclusion).toBe('failure')
  expect(result.summary).toMatch(
    /^### ❌ Cutover failed: the fence is lifted\n\nWrites were paused for .*\n\n### ❌ Verify: 1 problem[\s\S]*categories[\s\S]*<\/details>\n\n+> \[!CAUTION\]/,
  )
})

nightly('rejects a pause that would be too long before it pauses anything', TIMEOUT, async () => {
  const refusedBefore = rehearsal.load.counters.refused
  const result = await cutover({ 'max-pause': '900ms' })
  expect(result.conclusion).toBe('failure')
  expect(words(result)).toMatch(/the write pause would take about .* drain .* unique indexes .*Nothing was paused/)
  expect(rehearsal.load.counters.refused).toBe(refusedBefore)
})

nightly(
  'a rehearsal fails on duplicates that a unique index would reject, and names the index but no value',
  TIMEOUT,
  async () => {
    // The source allows duplicates here, so only the stricter index on the target finds them.
    const unique = 'customers_name_key'
    await rehearsal.query(
      'target',
      `INSERT INTO molt_actions.deferred (migration, kind, schema_name, table_name, name, create_ddl, drop_ddl, dropped_at)
     VALUES ('main', 'unique', 'public', 'orders', '${unique}', 'CREATE UNIQUE INDEX ${unique} ON orders (status)', 'DROP INDEX IF EXISTS ${unique}', now())`,
    )
    const result = await cutover()
    await rehearsal.query('target', `DELETE FROM molt_actions.deferred WHERE name = '${unique}'`)
    expect(result.conclusion).toBe('failure')
    expect(words(result)).toContain(`unique ${unique} of public.orders cannot be built on the target`)
    expect(words(result)).not.toMatch(/Key \(|is duplicated/)
    expect(result.outputs['error-kind']).toBe('verdict')
    expect(await rebuilt()).toEqual([])
    expect(await writableWithin(500)).toBe(true)
  },
)

nightly(
  'the fence is lifted if the smoke test fails before or during the pause; a smoke test cannot write',
  TIMEOUT,
  async () => {
    const script = (body: string) => JSON.stringify([process.execPath, '-e', body])
    const before = rehearsal.load.counters.refused
    const first = await cutover({ 'smoke-test': script('process.exit(3)') })
    expect(words(first)).toMatch(/node ended with exit code 3.*Nothing was committed/s)
    expect(first.outputs['pause-ms']).toBeUndefined()
    expect(rehearsal.load.counters.refused).toBe(before)
    const marker = `${process.env.TMPDIR ?? '/tmp'}/molt-actions-smoke-${process.pid}`
    const second = await cutover({
      'smoke-test': script(
        `const fs = require('fs'); if (fs.existsSync('${marker}')) { fs.rmSync('${marker}'); process.exit(1) } fs.writeFileSync('${marker}', '')`,
      ),
    })
    expect(second.conclusion).toBe('failure')
    expect(Number(second.outputs['pause-ms'])).toBeGreaterThan(0)
    expect(words(second)).toContain('the fence is lifted')
    expect(await writableWithin(500)).toBe(true)
    const late = await cutover({ 'smoke-test': script('setTimeout(() => {}, 60000)'), 'smoke-test-timeout': '500ms' })
    expect(words(late)).toMatch(/stopped after 0\.5 s \(`smoke-test-timeout`\)/)
    const pgModule = require.resolve('pg')
    const writes = await cutover({
      'smoke-test': script(
        `const pg = require('${pgModule}'); const db = new pg.Client({ connectionString: process.env.MOLT_SMOKE_TEST_TARGET });
       db.connect().then(() => db.query('SELECT count(*) FROM orders')).then(() => db.query('DELETE FROM orders')).catch((e) => { console.log('said: ' + e.message); process.exitCode = 1 }).finally(() => db.end())`,
      ),
    })
    expect(words(writes)).toMatch(/said: cannot execute DELETE in a read-only transaction/)
  },
)

test('detects changes made since the approval or after the verify, before it decides', TIMEOUT, async () => {
  const { query } = rehearsal
  const refused = async (side: 'source' | 'target', done: string, undone: string, said: RegExp, inputs = {}) => {
    await query(side, done)
    const result = await cutover({ decision: 'commit', ...inputs })
    await query(side, undone)
    expect(result.conclusion, done).toBe('failure')
    expect(result.outputs['error-kind'], words(result)).toBe('verdict')
    expect(words(result)).toMatch(said)
    expect(result.outputs['pause-ms'], done).toBeUndefined()
  }
  await refused(
    'target',
    `CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER swallow BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION nothing()`,
    'DROP TRIGGER swallow ON reviews; DROP FUNCTION nothing()',
    /trigger reviews\.swallow is new on the target/,
  )
  await refused(
    'target',
    'CREATE ROLE late; GRANT INSERT ON orders TO late',
    'REVOKE ALL ON orders FROM late; DROP ROLE late',
    /late has INSERT on orders/,
  )
  await refused(
    'target',
    `UPDATE molt_actions.migrations SET plan = plan || '{"finalVerify": "tables"}'`,
    `UPDATE molt_actions.migrations SET plan = plan || '{"finalVerify": "auto"}'`,
    /the plan of migration `main` in the ledger does not match its hash/,
  )
  await refused(
    'target',
    `ALTER TABLE molt_actions.migrations ADD kept jsonb; UPDATE molt_actions.migrations SET kept = plan, plan = (plan - 'hash') || '{"tables": ["orders"]}'`,
    'UPDATE molt_actions.migrations SET plan = kept; ALTER TABLE molt_actions.migrations DROP kept',
    /the plan of migration `main` in the ledger does not match its hash \(none\)/,
  )
  await refused(
    'source',
    'CREATE TABLE loyalty (id int PRIMARY KEY)',
    'DROP TABLE loyalty',
    /table loyalty is new on the source: it is not part of this migration and would not be moved/,
  )
  await refused(
    'target',
    forget('customers_email_key'),
    REMEMBER,
    /unique customers_email_key of public\.customers was dropped for the load, and its definition was deleted/,
  )
  await refused(
    'source',
    `SELECT setval('molt_actions.fence_lease', 9223372036854775807)`,
    `SELECT setval('molt_actions.fence_lease', 1)`,
    /permanently fenced, but migration `main` is caught-up in the ledger/,
  )
  await rehearsal.query('source', `SELECT setval('molt_actions.fence_lease', 9223372036854775807)`)
  const cleanup = await rehearsal.run('cleanup')
  const state = await rehearsal.run('status')
  await rehearsal.query('source', `SELECT setval('molt_actions.fence_lease', 1)`)
  expect(words(cleanup)).toMatch(
    /is caught-up in the ledger: either its cutover never committed, or the ledger is outdated/,
  )
  expect(words(state)).toMatch(/permanent, but damaged:.*is caught-up in the ledger: its cutover did not commit/s)
  const running = cutover({ decision: 'commit' }, { env: { MOLT_ACTIONS_STOP_AT: 'sequences set' } })
  const pid = await stoppedChild(running)
  await query('source', 'ALTER TABLE products ALTER price TYPE numeric(13,2)')
  process.kill(pid, 'SIGCONT')
  const result = await running
  await query('source', 'ALTER TABLE products ALTER price TYPE numeric(12,2)')
  for (const [side, point, done, undone, said] of [
    [
      'target',
      'sequences set',
      'CREATE ROLE late; GRANT INSERT ON orders TO late',
      'REVOKE ALL ON orders FROM late; DROP ROLE late',
      /late has INSERT on orders/,
    ],
    [
      'target',
      'drained',
      'ALTER TABLE molt_actions.evidence RENAME TO away',
      'ALTER TABLE molt_actions.away RENAME TO evidence',
      /\[database\.object-missing\]/,
    ],
    [
      'source',
      'drained',
      'ALTER TABLE payments RENAME TO away',
      'ALTER TABLE away RENAME TO payments',
      /\[(schema\.changed|fence\.table-(rewritten|dropped)|verify\.(inconclusive|rows-lost))\]/,
    ],
    // The rows differ as well, but the error must be about the fence.
    [
      'source',
      'drained',
      "ALTER TABLE categories DISABLE TRIGGER molt_actions_fence; INSERT INTO categories (id, name) VALUES (4712, 'past the fence')",
      'DELETE FROM categories WHERE id = 4712; ALTER TABLE categories ENABLE ALWAYS TRIGGER molt_actions_fence',
      /\[fence\.(damaged|not-holding|probe-passed)\]/,
    ],
  ] as const) {
    const renamed = cutover({ 'final-verify': 'counts' }, { env: { MOLT_ACTIONS_STOP_AT: point } })
    const child = await stoppedChild(renamed)
    await query(side, done)
    process.kill(child, 'SIGCONT')
    const told = await renamed
    await query(side, undone)
    expect(['user', 'verdict'], words(told)).toContain(told.outputs['error-kind'])
    expect(words(told)).toMatch(said)
    expect(await writableWithin(1_000)).toBe(true)
  }
  expect(result.conclusion).toBe('failure')
  // The comparison runs in parallel with setting the sequences, so it may notice the new type first.
  expect(['schema.changed', 'verify.inconclusive'], words(result)).toContain(result.outputs['error-code'])
  expect(words(result)).toMatch(/\bproducts\b.*\bprice\b/)
  expect(await writableWithin(1_000)).toBe(true)
  expect(await phase()).toBe('caught-up')
})

test('refuses to stream, compare or cut over with programs that differ from the planned ones', TIMEOUT, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-exchanged-'))
  for (const tool of ['molt', 'replicator']) writeFileSync(join(folder, tool), '#!/bin/sh\nexit 1\n', { mode: 0o755 })
  const env = { PATH: `${folder}:${process.env.PATH}` }
  for (const [action, tool] of [
    ['replicate', 'replicator'],
    ['verify', 'molt'],
    ['cutover', 'molt'],
  ] as const) {
    const result = await rehearsal.run(action, {}, { env })
    expect(result.outputs['error-code'], words(result)).toBe('tools.not-planned')
    expect(words(result)).toContain(`${tool} on this runner is not the program in the plan`)
  }
  rmSync(folder, { recursive: true })
})

test('reports an armed fence with a disabled trigger as damaged, and its post step lifts only its own lease', async () => {
  const { query, run } = rehearsal
  const lease = (value: string) => query('source', `SELECT setval('molt_actions.fence_lease', ${value})`)
  const later = '(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 60000'
  const own = await run('fence', { do: 'raise', lease: '60s' })
  requireSuccess('fence', own)
  expect(words(own)).toContain('the fence is lifted: writes to the source are possible again')
  const other = { beforeStep: async (step: { phase: string }) => void (step.phase === 'post' && (await lease(later))) }
  const left = await run('fence', { do: 'raise', lease: '60s' }, other)
  requireSuccess('fence', left)
  expect(words(left)).toContain('the fence is armed, but another run has set it, so it is left alone')
  expect(await write()).toBe(false)

  await query('source', 'ALTER TABLE reviews DISABLE TRIGGER molt_actions_fence')
  for (const action of ['status', 'fence']) {
    const told = await run(action)
    expect(told.outputs['error-kind'], action).toBe('verdict')
    expect(words(told)).toMatch(
      /the fence is armed, but (damaged|it does not hold):.*trigger on public\.reviews is not ENABLE ALWAYS/s,
    )
  }
  await lease('1')
  const lifted = await run('status')
  requireSuccess('status', lifted)
  expect(words(lifted)).toContain('fence problem: the fence trigger on public.reviews is not')
  await query('source', 'ALTER TABLE reviews ENABLE ALWAYS TRIGGER molt_actions_fence')
})

test('lifts the fence on the arming connection if no new connection can be opened', TIMEOUT, async () => {
  const { url } = rehearsal.pair.source
  const admin = await client(url.replace('/shop', '/postgres'))
  const running = cutover(
    { lease: '60s', 'max-pause': '90s', 'final-verify': 'full' },
    { env: { MOLT_ACTIONS_STOP_AT: 'drained' } },
  )
  const pid = await stoppedChild(running)
  await admin.query('ALTER DATABASE shop ALLOW_CONNECTIONS false')
  process.kill(pid, 'SIGCONT')
  const result = await running
  await admin.query('ALTER DATABASE shop ALLOW_CONNECTIONS true')
  expect(result.conclusion).toBe('failure')
  expect(result.summary).toMatch(/^### ❌ Cutover failed: the fence is lifted/)
  expect(await write()).toBe(true)
})

test('rejects a concurrent cutover, and names the first one and its run', TIMEOUT, async () => {
  const first = cutover(
    { 'quiet-period': NIGHTLY ? '9s' : '6s' },
    { github: { repository: 'acme/shop', run_id: '4711' } },
  )
  await sleep(NIGHTLY ? 3_000 : 2_000)
  const second = await cutover({}, { github: { repository: 'acme/shop', run_id: '4712' }, workDir: undefined })
  expect(second.conclusion).toBe('failure')
  expect(words(second)).toMatch(
    /migration `main` is held by `cutover` \(https:\/\/github\.com\/acme\/shop\/actions\/runs\/4711\). Only one run can act/,
  )
  const status = await rehearsal.run('status')
  expect(words(status)).toMatch(/`cutover` \(https:\/\/github\.com\/acme\/shop\/actions\/runs\/4711\) holds it until /)
  requireSuccess('cutover', await first)
})

const CANCELLED = NIGHTLY
  ? [
      'caught up',
      'before arming',
      'armed',
      'drained',
      'verified',
      'sequences set',
      'unique indexes built',
      'committing',
    ]
  : ['verified']
test.each(CANCELLED)('cancelled at "%s": the application can write again immediately', TIMEOUT, async (point) => {
  const controller = new AbortController()
  const env = { MOLT_ACTIONS_STOP_AT: point }
  const running = cutover({ decision: 'commit', 'final-verify': 'full' }, { env, signal: controller.signal })
  const pid = await stoppedChild(running)
  if (point === 'verified') expect(await legs()).toEqual([{ may: false, sessions: 0 }])
  controller.abort()
  process.kill(pid, 'SIGCONT')
  expect(await writableWithin(1_500), point).toBe(true)
  const result = await running
  expect(result.conclusion, words(result)).toBe('cancelled')
  expect(words(result)).toContain('the run was cancelled (SIGINT)')
  if (point === 'verified') expect(result.summary).toMatch(/^### ❌ Cutover failed: the fence is lifted/)
  // The run ended on its own within the runner's time limit, and left no processes behind.
  expect(result.steps.at(-1)?.exitCode).toBe(1)
  expect(result.orphans).toEqual([])
  expect(await rebuilt()).toEqual([])
})

nightly.each(['source', 'behind'] as const)(
  'a planned shutdown of the %s during the pause: fails with a code, and the source is writable again',
  TIMEOUT,
  async (side) => {
    const running = cutover({ 'final-verify': 'full' }, { env: { MOLT_ACTIONS_STOP_AT: 'armed' } })
    const pid = await stoppedChild(running)
    await rehearsal.pair[side].shutdown('fast')
    process.kill(pid, 'SIGCONT')
    await sleep(2_000)
    await rehearsal.pair[side].start()
    const result = await running
    expect(result.conclusion, words(result)).toBe('failure')
    expect(result.outputs['error-code']).toMatch(/^(connect|database|drain|fence|stream)\./)
    expect(words(result)).not.toContain('This is a bug')
    expect(await writableWithin(10_000)).toBe(true)
    requireSuccess('cutover', await cutover())
  },
)

nightly(
  'when the run is killed, its replicator exits too, and the next run waits for the hold and continues',
  TIMEOUT,
  async () => {
    const running = cutover({}, { env: { MOLT_ACTIONS_STOP_AT: 'unique indexes built' } })
    const pid = await stoppedChild(running)
    const replicators = children(pid)
    expect(replicators.length).toBeGreaterThan(1)
    process.kill(pid, 'SIGKILL')
    for (let i = 0; i < 100 && replicators.some((each) => stateOf(each) !== undefined); i++) await sleep(50)
    expect(replicators.map(stateOf).filter((state) => state && state !== 'Z')).toEqual([])
    await running
    expect(await rebuilt()).toEqual(['customers_email_key', 'of_customer'])
    const next = await cutover()
    requireSuccess('cutover', next)
    expect(words(next)).toContain('that an uncommitted cutover had rebuilt')
  },
)

nightly(
  "disconnects an abandoned replicator from the slot, but only names another user's reader",
  TIMEOUT,
  async () => {
    const { source } = rehearsal.pair
    const read = async (application: string) => {
      const reader = await client(
        `${source.url}&replication=database&application_name=${encodeURIComponent(application)}`,
      )
      reader
        .query(`START_REPLICATION SLOT molt_slot LOGICAL 0/0 (proto_version '1', publication_names 'molt_fetch')`)
        .catch(() => {})
      await sleep(300)
      return reader
    }
    const thief = await read('thief')
    const refused = await cutover()
    expect(refused.outputs['error-code']).toBe('slot.in-use')
    expect(words(refused)).toMatch(/PID \d+ \(thief, user postgres, from 127\.0\.0\.1\)/)
    await thief.end().catch(() => {})
    await read('molt-actions replicator')
    const result = await cutover()
    requireSuccess('cutover', result)
    expect(words(result)).toMatch(/disconnected an abandoned replicator from an earlier run: PID \d+/)
  },
)

nightly('rejects contradictory inputs before it changes anything', TIMEOUT, async () => {
  expect(words(await cutover({ switch: 'command' }))).toContain('`command` needs `switch-command`')
  expect(words(await cutover({ switch: 'manual', 'switch-command': '["true"]' }))).toContain('contradict each other')
  expect(words(await cutover({ 'end-sessions': 'nobody_at_all' }))).toMatch(
    /the sessions of nobody_at_all cannot be ended/,
  )
})

nightly(
  'accepts an approval only for the approved plan, not for another plan or a weaker verify',
  TIMEOUT,
  async () => {
    const approve = (hash: string) =>
      rehearsal.query(
        'target',
        `UPDATE molt_actions.migrations SET phase = 'approved', facts = facts || jsonb_build_object('approval', jsonb_build_object('by', 'bea', 'planHash', ${hash}))`,
      )
    await approve("'of another plan'")
    expect(words(await cutover())).toMatch(/migration `main` was approved with the plan of another plan/)
    await approve("plan->>'hash'")
    expect(words(await cutover({ 'final-verify': 'tables' }))).toMatch(
      /compares less than the approved plan \(`full`\)/,
    )
    const brief = await rehearsal.run('brief')
    expect(words(brief)).toContain('discarded an earlier approval that no cutover used')
    expect(await phase()).toBe('caught-up')
    await approve("plan->>'hash'")
  },
)

test('a run cancelled right after the commit is completed by the next run', TIMEOUT, async () => {
  const app = await client(rehearsal.pair.source.url.replace('postgres:', 'app:').replace('//postgres@', '//app@'))
  const controller = new AbortController()
  const env = { MOLT_ACTIONS_STOP_AT: 'permanent on the source' }
  const running = cutover({ decision: 'commit' }, { env, signal: controller.signal })
  const pid = await stoppedChild(running)
  controller.abort()
  process.kill(pid, 'SIGCONT')
  const cancelled = await running
  expect(cancelled.conclusion).toBe('cancelled')
  expect(cancelled.outputs['error-code']).toBe('cancelled.after-commit')
  expect(await write()).toBe(false)
  expect(await phase()).toBe('committed')
  expect(await rebuilt()).toEqual(['customers_email_key', 'of_customer'])

  if (NIGHTLY) {
    const failed = await cutover({ decision: 'commit', 'switch-command': '["false"]' })
    expect(failed.conclusion).toBe('failure')
    expect(words(failed)).toContain('The migration stays committed')
    expect(await write()).toBe(false)
  }

  const byHand = await cutover({ decision: 'commit', switch: 'manual' })
  requireSuccess('cutover', byHand)
  expect(byHand.outputs.phase).toBe('committed')
  expect(byHand.summary).toMatch(/^### ✅ Cutover committed: the source is permanently fenced/)
  expect(byHand.summary).toMatch(/Point the application's connection string at the target.*switched-by-hand: true/s)

  const early = await rehearsal.run('finalize')
  expect(early.conclusion).toBe('failure')
  expect(words(early)).toMatch(/Not finalized: migration `main` is committed.*tick `switched-by-hand`/)
  expect(await phase()).toBe('committed')

  const show = `const e = process.env; console.log(['seen', e.MOLT_ACTIONS_MIGRATION, e.MOLT_ACTIONS_PHASE, e.MOLT_ACTIONS_TARGET_SCHEMA, e.MOLT_SWITCH_TOKEN, e.INPUT_SOURCE, e['INPUT_TARGET']].join(' '))`
  const switched = await cutover(
    { decision: 'commit', 'switch-command': JSON.stringify([process.execPath, '-e', show]), 'end-sessions': 'app' },
    { env: { MOLT_SWITCH_TOKEN: 'very-secret-token' } },
  )
  requireSuccess('cutover', switched)
  expect(words(switched)).toMatch(/seen main committed public \*\*\* *$/m)
  expect(words(switched)).toContain('ended 1 session of app on the source')
  await expect(app.query('SELECT 1')).rejects.toThrow()
  expect(await phase()).toBe('switched')
  expect(await write()).toBe(false)

  // The fence is lifted briefly, and a write reaches the source after the decision.
  const leased = (value: string) => rehearsal.query('source', `SELECT setval('molt_actions.fence_lease', ${value})`)
  await leased('1')
  for (const action of ['status', 'finalize'])
    expect(words(await rehearsal.run(action))).toMatch(/the fence is lifted, so writes can pass/)
  expect(await write()).toBe(true)
  await leased('9223372036854775807')
  for (const action of ['status', 'finalize']) {
    const told = await rehearsal.run(action)
    expect(told.outputs['error-kind']).toBe('verdict')
    expect(words(told)).toContain('writes have passed the fence since the commit')
  }
  const gone = await rehearsal.run('cleanup', { 'rollback-window': '0s', waive: 'observe, compare', 'dry-run': 'true' })
  requireSuccess('cleanup', gone)
  expect(words(gone)).toMatch(
    /the source may have changed since the commit.*writes have passed the fence since the commit/,
  )
  const accept = /copy them to the target, then run `(SELECT setval\(.*?\))` on the source to confirm/.exec(
    words(gone),
  )?.[1] as string
  await rehearsal.query('source', accept)

  await rehearsal.query('target', forget('of_customer'))
  const forgotten = await rehearsal.run('finalize')
  expect(words(forgotten)).toMatch(/foreign-key of_customer of public\.orders was dropped.*definition was deleted/)
  expect(await phase()).toBe('switched')
  await rehearsal.query('target', REMEMBER)

  const finalized = await rehearsal.run('finalize')
  requireSuccess('finalize', finalized)
  expect(finalized.summary).toMatch(
    /✅ Finalized: migration `main`\n\n- All 11 tables matched as of the commit, [\d,]+ rows\.\n- \d+ sequences are past every value in use/,
  )
  expect(finalized.summary).toContain('dropped on the source: slot `molt_slot`, publication `')
  expect(finalized.summary).toMatch(/- 4 constraints were validated/)
})
