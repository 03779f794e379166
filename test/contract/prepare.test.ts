import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startCockroach } from '../../rehearsal/cockroach/server.ts'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { Preflight } from '../../src/checks/preflight.ts'
import {
  DEFERRED_KINDS,
  deferAgain,
  deferObjects,
  deferralProblems,
  forgetDeferred,
  listDeferred,
  rebuildDeferred,
  restoreDeferred,
  validateDeferred,
} from '../../src/destination/deferral.ts'
import { createLedger, type Entry, readEntry } from '../../src/ledger/ledger.ts'
import { schemaChanges } from '../../src/ledger/schema-changes.ts'
import { describeChange, fingerprint } from '../../src/model/fingerprint.ts'
import { sequenceProblems } from '../../src/model/structure.ts'
import { connect, type Database, unhurried } from '../../src/runtime/database.ts'
import { readSchema } from '../../src/sql/schema.ts'
import { setSequences } from '../../src/sql/sequences.ts'
import { readSequenceStates } from '../../src/sql/structure.ts'
import { inProcess } from '../support/in-process.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { runBundle } from './bundle.ts'
import { query, type World, world } from './checks-helpers.ts'

const SHOP = `CREATE TYPE mood AS ENUM ('good', 'bad');
  CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL, mood mood);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, total numeric(10,2) NOT NULL)`
const repo = process.cwd()
let pair: Servers
let folder: string

beforeAll(async () => {
  pair = await startServers()
  folder = mkdtempSync(join(tmpdir(), 'prepare-test-'))
}, 120_000)

afterAll(async () => {
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const prepare = (urls: World, inputs: Record<string, string> = {}) =>
  run('prepare', urls, { decision: 'rehearse', ...inputs })

async function run(name: string, urls: World, inputs: Record<string, string> = {}) {
  const result = await runAction({
    dir: `${repo}/actions/${name}`,
    repo,
    workDir: folder,
    start: inProcess,
    inputs: { ...urls, 'allow-insecure': 'true', ...inputs },
  })
  const log = result.steps.map((step) => step.log).join('\n')
  return { ...result, log }
}

type Result = Awaited<ReturnType<typeof run>>

/** The error's code, or the log if there is none. */
function codeOf({ outputs, log }: Result): string {
  return outputs['error-code'] ?? log
}

async function withTarget<T>(url: string, work: (db: Database) => Promise<T>): Promise<T> {
  const db = await connect(url, 'target')
  try {
    return await work(db)
  } finally {
    await db.end()
  }
}

const entryOf = (urls: World) => withTarget(urls.target, (db) => readEntry(db, 'main')) as Promise<Entry>

it('reports blocking findings and their fixes before it changes anything', async () => {
  const urls = await world(pair, [SHOP, 'CREATE TABLE "a""b; drop table x" (n money)'], SHOP)
  const result = await prepare(urls)
  expect(result.conclusion).toBe('failure')
  expect(result.outputs['error-kind']).toBe('verdict')
  const preflight = Preflight.parse(JSON.parse(readFileSync(result.outputs.preflight as string, 'utf8')))
  expect(preflight.verdict).toBe('blocked')
  expect(preflight.counts).toMatchObject({ block: 4 })
  expect(JSON.parse(result.outputs.findings as string)).toMatchObject({ block: 4, waived: 0 })
  expect(preflight.findings).toContainEqual({
    check: 'tbl.no-key',
    severity: 'block',
    object: 'public.a"b; drop table x',
    what: 'public.a"b; drop table x has no primary key',
    fix: 'Add a primary key to "public"."a""b; drop table x" on both sides, or leave it out with `exclude-tables`.',
  })
  expect(result.annotations.filter((each) => each.level === 'error').map((each) => each.title)).toContain('tbl.no-key')
  expect(result.summary.indexOf('Blocked')).toBeLessThan(result.summary.indexOf('Warnings'))
  const left = await query(urls.source, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")
  expect(left).toEqual([])
  expect(await query(urls.target, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
})

it('rejects a password that MOLT cannot use before it installs anything', async () => {
  const urls = await world(pair, SHOP, SHOP)
  const { password } = new URL(urls.source)
  const source = Object.assign(new URL(urls.source), { password: '' }).href
  const short = { 'password-command': JSON.stringify(['/bin/echo', password]) }
  expect(codeOf(await prepare({ ...urls, source }, short))).toBe('password.not-for-tools')
  expect(await query(urls.source, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
  expect((await prepare({ ...urls, source }, { ...short, grants: 'print' })).conclusion).toBe('success')
  expect((await prepare({ ...urls, source }, { ...short, 'password-lasts': 'job' })).conclusion).toBe('success')
})

it("the fence's post step prints nothing if the fence was already cleaned up", async () => {
  const { source } = await world(pair, SHOP, SHOP)
  const digest = createHash('sha256').update(source).digest('hex').slice(0, 16)
  const inputs = { source, target: source, 'allow-insecure': 'true' }
  const run = await runBundle('fence-post', { inputs, env: { STATE_lease: '4711', STATE_source: digest } })
  expect(run.errors).toEqual([])
  expect(run.code).toBe(0)
})

it('reports a table on which the fence cannot be tested', async () => {
  const closed = `${SHOP}; CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'closed'; END $$;
    CREATE TRIGGER a_never BEFORE INSERT OR UPDATE OR DELETE ON orders EXECUTE FUNCTION never()`
  const result = await prepare(await world(pair, closed, SHOP))
  expect(codeOf(result)).toBe('fence.cannot-probe')
})

it("without a ledger entry, status reports only this database's slot", async () => {
  const [here, there] = [await world(pair, SHOP, SHOP), await world(pair, SHOP, SHOP)]
  await query(there.source, "SELECT pg_create_logical_replication_slot('molt_slot', 'pgoutput')")
  try {
    const database = new URL(there.source).pathname.slice(1)
    expect((await run('status', there)).log).toContain(`slot \`molt_slot\` of the database \`${database}\`: keeps`)
    const other = await run('status', here, { 'wal-budget': '1B' })
    expect(other.conclusion, other.log).toBe('success')
    expect(other.log).toMatch(/slot `molt_slot`[^\n]*: none/)
  } finally {
    await query(there.source, "SELECT pg_drop_replication_slot('molt_slot')")
  }
})

it('keeps waivers and both schemas in the plan, and lists every change', async () => {
  const urls = await world(pair, [SHOP, 'CREATE TABLE audit_log (n int)'], [SHOP, 'CREATE TABLE audit_log (n int)'])
  expect(codeOf(await prepare(urls, { waive: 'tbl.no-key=audit_lgo' }))).toBe('waiver.unused')
  expect(codeOf(await prepare(urls))).toBe('preflight.blocked')
  const result = await prepare(urls, { waive: 'tbl.no-key=audit_log' })
  expect(result.conclusion, result.log).toBe('success')
  expect(result.outputs).toMatchObject({ phase: 'prepared', 'table-count': '3' })
  expect(result.summary).toMatch(
    /Waived \(1\)[\s\S]*\| public\.audit_log has no primary key \| `tbl\.no-key=audit_log` \|/,
  )
  expect(codeOf(await run('rollback', urls))).toBe('ledger.wrong-phase')
  const entry = await entryOf(urls)
  expect(entry.plan).toMatchObject({ waivers: ['tbl.no-key=audit_log'], hash: result.outputs['plan-hash'] })
  const changes = async () => {
    const [source, target] = [await connect(urls.source, 'source'), await connect(urls.target, 'target')]
    try {
      return (await schemaChanges(source, target, entry)).map(describeChange)
    } finally {
      await Promise.all([source.end(), target.end()])
    }
  }
  expect(await changes()).toEqual([])
  await query(
    urls.source,
    'ALTER TABLE orders ADD COLUMN note text',
    "ALTER TYPE mood ADD VALUE 'ugly'",
    'CREATE INDEX late ON orders (customer)',
    'DROP TABLE audit_log',
    'CREATE TABLE unrelated (id int)',
  )
  await query(
    urls.target,
    'ALTER TABLE orders ALTER total TYPE numeric(12,2)',
    'ALTER TABLE customers ALTER email SET DEFAULT 1',
  )
  expect(await changes()).toEqual([
    'table unrelated is new on the source: it is not part of this migration and would not be moved',
    'column orders.note is new on the source: text',
    'enum mood has changed on the source, from "good, bad" to "good, bad, ugly"',
    'index orders.late is new on the source: CREATE INDEX late ON public.orders USING btree (customer)',
    'table audit_log is gone from the source. Before: table',
    'column customers.email has changed on the target, from "text not null" to "text not null default 1"',
    'column orders.total has changed on the target, from "numeric(10,2) not null" to "numeric(12,2) not null"',
  ])
})

it('keeps the recorded plan after the load, and rejects other settings', async () => {
  const urls = await world(pair, SHOP, SHOP)
  const first = await prepare(urls, { 'final-verify': 'counts' })
  expect(first.conclusion, first.log).toBe('success')
  await query(urls.target, "UPDATE molt_actions.migrations SET phase = 'loaded'")
  const stricter = await prepare(urls)
  expect(codeOf(stricter)).toBe('prepare.plan-fixed')
  expect(stricter.log).toContain('`final-verify` is `counts`')
  // After the load, waivers may still change if their checks matter only before it. The plan stays the same.
  const again = await prepare(urls, { 'final-verify': 'counts', waive: 'src.slot-disk=source' })
  expect(again.conclusion, again.log).toBe('success')
  expect(again.outputs['plan-hash']).toBe(first.outputs['plan-hash'])
  expect(again.log).toContain(`loaded; plan ${first.outputs['plan-hash']}`)
  await query(urls.source, 'CREATE TABLE late (id int PRIMARY KEY)')
  await query(urls.target, 'CREATE TABLE late (id int PRIMARY KEY)')
  expect(codeOf(await prepare(urls, { 'final-verify': 'counts' }))).toBe('prepare.other-plan')
})

it('reports a new partition as a change', async () => {
  const parted = `CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE e1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')`
  const urls = await world(pair, parted, 'CREATE TABLE events (id int, day date, PRIMARY KEY (id, day))')
  expect((await prepare(urls)).conclusion).toBe('failure')
  expect((await prepare(urls, { waive: 'tbl.partitioned=events' })).conclusion).toBe('success')
  const entry = await entryOf(urls)
  await query(urls.source, "CREATE TABLE e2 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')")
  const [source, target] = [await connect(urls.source, 'source'), await connect(urls.target, 'target')]
  const changes = await schemaChanges(source, target, entry)
  await Promise.all([source.end(), target.end()])
  expect(changes.map((each) => each.object)).toEqual(['partition events.public.e2'])
})

it('applies only safe fixes', async () => {
  const urls = await world(
    pair,
    [
      SHOP,
      'ALTER TABLE orders REPLICA IDENTITY FULL',
      'CREATE SEQUENCE numbers INCREMENT 5',
      "CREATE ROLE mover SUPERUSER LOGIN PASSWORD 'mover-password'",
      'ALTER ROLE mover SET statement_timeout = 50000',
    ],
    [
      SHOP,
      'ALTER TABLE orders ALTER id ADD GENERATED ALWAYS AS IDENTITY',
      'ALTER TABLE customers ALTER mood SET NOT NULL',
    ],
  )
  const mine = { ...urls, source: urls.source.replace('postgres:postgres@', 'mover:mover-password@') }
  const first = await prepare(mine)
  expect(JSON.parse(first.outputs.findings as string)).toMatchObject({ block: 5 })
  const applied = await prepare(mine, { apply: 'true' })
  expect(applied.conclusion, applied.log).toBe('success')
  expect(applied.log).toMatch(/ALTER ROLE "mover" IN DATABASE "\w+" SET statement_timeout = '0'/)
  const rows = await query(
    urls.target,
    "SELECT increment_by::text AS step FROM pg_sequences WHERE sequencename = 'numbers'",
  )
  expect(rows).toEqual([{ step: '5' }])
  expect(await query(urls.source, "SELECT relreplident FROM pg_class WHERE relname = 'orders'")).toEqual([
    { relreplident: 'd' },
  ])
})

it('prints all the grants that are needed', async () => {
  const urls = await world(
    pair,
    ['CREATE ROLE shop_owner', SHOP, 'ALTER TABLE orders OWNER TO shop_owner', 'CREATE SEQUENCE "Numbers"'],
    [SHOP, 'CREATE SEQUENCE "Numbers"'],
  )
  const printed = await prepare(urls, { grants: 'print', 'migration-user': 'Molt "User"' })
  expect(printed.conclusion, printed.log).toBe('success')
  expect(printed.outputs.phase).toBeUndefined()
  expect(await query(urls.target, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
  for (const side of ['source', 'target'] as const) {
    const sql = readFileSync(printed.outputs[`grants-${side}`] as string, 'utf8')
    expect(sql.match(/WRITE A PASSWORD HERE/g)).toHaveLength(1)
    // Runs the script twice, because a rerun must be safe.
    for (let time = 0; time < 2; time++)
      await query(urls[side], sql.replace('WRITE A PASSWORD HERE', 'moving-password'))
  }
  const user = (url: string) =>
    url.replace('postgres:postgres@', `${encodeURIComponent('Molt "User"')}:moving-password@`)
  const result = await prepare({ source: user(urls.source), target: user(urls.target) })
  expect(result.conclusion, result.log).toBe('success')
  const preflight = Preflight.parse(JSON.parse(readFileSync(result.outputs.preflight as string, 'utf8')))
  expect(preflight.findings.filter((each) => each.check.startsWith('right.'))).toEqual([])
  const roles = await query(
    urls.source,
    `SELECT rolname FROM pg_roles WHERE rolsuper AND pg_has_role('Molt "User"', oid, 'MEMBER')`,
  )
  expect(roles).toEqual([])
})

const LADEN = `CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL CONSTRAINT one_email UNIQUE, "we;ird" int);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, email text, total numeric(10,2) NOT NULL,
    CONSTRAINT positive CHECK (total > 0 OR (total = 0 AND email IS NULL)));
  ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers ON DELETE CASCADE ON UPDATE SET NULL;
  CREATE UNIQUE INDEX one_lower ON customers (lower(email)) WHERE id > 0;
  CREATE INDEX "by ""weird""" ON customers ("we;ird" DESC);
  CREATE SCHEMA far; CREATE TABLE far.mail (id int PRIMARY KEY, email text REFERENCES customers (email));
  CREATE TABLE aside (id int PRIMARY KEY, n int UNIQUE CHECK (n > 0))`

it('records objects before it drops them, resumes after a crash anywhere, and rebuilds everything', async () => {
  const plan = { targetSchema: 'public', tables: ['customers', 'orders'] }
  const deferral = { indexes: true, constraints: true }
  const { target: url } = await world(pair, 'SELECT 1', LADEN)
  await withTarget(url, async (db) => {
    await createLedger(db)
    const before = await readSchema(db, 'target', 'public')
    const tables = [...plan.tables, 'aside']
    // The process is killed at each DROP and at each write to the ledger, before or after the database executes it.
    for (let at = 0; at < 24; at++) {
      const flaky = dyingAt(db, at >> 1, at % 2 === 1)
      await expect(deferObjects(flaky, 'main', plan, deferral, true), `${at}`).rejects.toThrow('power cut')
      // The ledger has a record of every object that is missing from the catalog.
      const names = new Set((await listDeferred(db, 'main')).map((each) => each.name))
      const now = await readSchema(db, 'target', 'public')
      const there = new Set([...now.indexes, ...now.constraints].map((each) => each.name))
      for (const each of [...before.indexes, ...before.constraints])
        if (!there.has(each.name)) expect(names).toContain(each.name)
      await deferObjects(db, 'main', plan, deferral, true)
      for (const kind of [...DEFERRED_KINDS].reverse()) await rebuildDeferred(db, 'main', [kind])
      await validateDeferred(db, 'main')
      expect(fingerprint(await readSchema(db, 'target', 'public'), tables)).toEqual(fingerprint(before, tables))
      await forgetDeferred(db, 'main')
    }
    await deferObjects(db, 'main', plan, deferral, true)
    const captured = await listDeferred(db, 'main')
    expect(captured.every((each) => each.dropped)).toBe(true)
    expect(captured.map((each) => `${each.kind} ${each.schema}.${each.table}.${each.name}`)).toEqual([
      'foreign-key far.mail.mail_email_fkey',
      'index public.customers.by "weird"',
      'unique public.customers.one_email',
      'unique public.customers.one_lower',
      'foreign-key public.orders.orders_customer_fkey',
      'check public.orders.positive',
    ])
    const bare = await readSchema(db, 'target', 'public')
    expect(bare.indexes.map((each) => each.name)).toEqual([
      'aside_n_key',
      'aside_pkey',
      'customers_pkey',
      'orders_pkey',
    ])
    expect(await deferralProblems(db, 'main')).toHaveLength(6)
    for (const kind of [...DEFERRED_KINDS].reverse()) {
      expect((await rebuildDeferred(db, 'main', [kind])).length, kind).toBeGreaterThan(0)
      expect(await rebuildDeferred(db, 'main', [kind]), `${kind} again`).toEqual([])
    }
    expect(await deferralProblems(db, 'main')).toEqual([
      'foreign-key mail_email_fkey of far.mail exists, but is not valid',
      'foreign-key orders_customer_fkey of public.orders exists, but is not valid',
      'check positive of public.orders exists, but is not valid',
    ])
    expect(await validateDeferred(db, 'main')).toHaveLength(3)
    expect(await deferralProblems(db, 'main')).toEqual([])
    const after = await readSchema(db, 'target', 'public')
    expect(fingerprint(after, ['customers', 'orders', 'aside'])).toEqual(
      fingerprint(before, ['customers', 'orders', 'aside']),
    )
    expect(after.constraints).toEqual(before.constraints)
  })
})

/** Returns a connection that fails at the nth DROP or write to the ledger, after executing it if `done`. */
function dyingAt(db: Database, nth: number, done: boolean): Database {
  let seen = 0
  const send = db.query.bind(db) as unknown as (...args: unknown[]) => unknown
  const query = async (...given: unknown[]) => {
    if (!/^(DROP|ALTER TABLE .* DROP|UPDATE molt_actions)/.test(String(given[0])) || seen++ !== nth)
      return send(...given)
    if (done) await send(...given)
    throw new Error('power cut')
  }
  return new Proxy(db, { get: (of, name) => (name === 'query' ? query : Reflect.get(of, name)) })
}

it('defers as configured, so that nothing blocks and the fingerprint still matches at the load', async () => {
  const { target } = await world(pair, 'SELECT 1', LADEN)
  const { source } = await world(pair, LADEN, 'SELECT 1')
  const urls = { source, target }
  const tables = { tables: 'customers, orders' }
  expect((await prepare(urls, tables)).conclusion).toBe('failure')
  const result = await prepare(urls, { ...tables, defer: 'indexes,constraints' })
  expect(result.conclusion, result.log).toBe('success')
  expect((await prepare(urls, { ...tables, defer: 'indexes,constraints' })).conclusion).toBe('success')
  const entry = await entryOf(urls)
  expect(entry.plan.defer).toBe('indexes,constraints')
  const [here, there] = [await connect(source, 'source'), await connect(target, 'target')]
  expect(await schemaChanges(here, there, entry)).toEqual([])
  await Promise.all([here.end(), there.end()])
  expect(result.outputs.deferred).toBe('6')
})

it('can assume that unique values never move between rows, and then builds all indexes together', async () => {
  const { target } = await world(pair, 'SELECT 1', LADEN)
  const { source } = await world(pair, LADEN, 'SELECT 1')
  const defer = 'indexes,constraints,unique-after-load'
  const result = await prepare({ source, target }, { tables: 'customers, orders', defer })
  expect(result.conclusion, result.log).toBe('success')
  expect((await entryOf({ source, target })).plan.defer).toBe(defer)
  await withTarget(target, async (db) => {
    expect((await listDeferred(db, 'main')).map(({ kind }) => kind)).not.toContain('unique')
    const built = await rebuildDeferred(db, 'main', ['index'])
    expect(built).toContain('public.customers.one_email')
    // A cutover without a commit leaves the unique indexes in place.
    expect(await deferAgain(db, 'main')).not.toContain('public.customers.one_email')
  })
})

it('leaves nothing to clean up if it is blocked, and `cleanup` says so', async () => {
  const urls = await world(pair, 'SELECT 1', 'SELECT 1')
  const cleaned = await run('cleanup', urls, { restore: 'true' })
  expect(cleaned.conclusion, cleaned.log).toBe('success')
  expect(cleaned.outputs.dropped).toBe('[]')
})

it('is undone by `cleanup`, which forgets dropped objects only after it has rebuilt them', async () => {
  const { target } = await world(pair, 'SELECT 1', LADEN)
  const { source } = await world(pair, LADEN, 'SELECT 1')
  const urls = { source, target }
  const inputs = { tables: 'customers, orders', defer: 'indexes,constraints' }
  const schemaNow = () => withTarget(target, (db) => readSchema(db, 'target', 'public'))
  const before = await schemaNow()
  for (const _ of ['once', 'and again under the same name']) {
    expect((await prepare(urls, inputs)).outputs.deferred).toBe('6')
    expect((await schemaNow()).indexes.map((each) => each.name)).not.toContain('one_email')
    const cleaned = await run('cleanup', urls, { restore: 'true' })
    expect(cleaned.conclusion, cleaned.log).toBe('success')
    const after = await schemaNow()
    expect(fingerprint(after, ['customers', 'orders'])).toEqual(fingerprint(before, ['customers', 'orders']))
    expect(after.constraints).toEqual(before.constraints)
    expect(await query(target, 'SELECT * FROM molt_actions.deferred')).toEqual([])
  }
  // A unique index that rows violate stays recorded, and its DDL is shown. Everything else is rebuilt.
  expect((await prepare(urls, inputs)).conclusion).toBe('success')
  await query(
    target,
    "INSERT INTO customers VALUES (1, 'same', NULL), (2, 'same', NULL)",
    'DROP TABLE orders CASCADE',
    'DROP TABLE far.mail',
  )
  const stuck = await run('cleanup', urls, { restore: 'true' })
  expect(stuck.conclusion, stuck.log).toBe('success')
  expect(stuck.log).toMatch(
    /not rebuilt on the target: unique one_email of public.customers cannot be built on the target/,
  )
  const listed = await query(target, /List them with `(SELECT "?email.*?)`/.exec(stuck.log)?.[1] ?? 'SELECT 0')
  expect(listed).toEqual([{ email: 'same', count: '2' }])
  expect(stuck.log).toMatch(/2 indexes and constraints dropped for the load are still missing/)
  expect(stuck.outputs.dropped).toContain('ledger entry main')
  const names = async () =>
    (await query(target, 'SELECT name FROM molt_actions.deferred ORDER BY 1')).map(({ name }) => name)
  expect(await names()).toEqual(['one_email', 'one_lower'])
  await query(target, 'DELETE FROM customers')
  const again = await run('cleanup', urls, { restore: 'true' })
  expect(again.conclusion, again.log).toBe('success')
  expect(await names()).toEqual([])
})

it('cleans up the source before it builds an index, which can outlast a cancelled job', async () => {
  const { target } = await world(pair, 'SELECT 1', LADEN)
  const { source } = await world(pair, LADEN, 'SELECT 1')
  expect(
    (await prepare({ source, target }, { tables: 'customers, orders', defer: 'indexes,constraints' })).conclusion,
  ).toBe('success')
  const left = async () =>
    (await query(source, "SELECT count(*)::int AS n FROM pg_namespace WHERE nspname = 'molt_actions'"))[0]?.n
  expect(await left()).toBe(1)
  let cleaning: ReturnType<typeof run> | undefined
  await withTarget(target, async (db) => {
    // The open transaction blocks the index build until the test ends it.
    await db.query('BEGIN')
    await db.query("INSERT INTO customers VALUES (1, 'held', NULL)")
    cleaning = run('cleanup', { source, target }, { restore: 'true' })
    await expect.poll(left, { timeout: 60_000, interval: 100 }).toBe(0)
    const waits = "SELECT count(*)::int AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'INDEX'"
    const behind = pair.behind.urlOf(new URL(target).pathname.slice(1))
    await expect.poll(async () => (await query(behind, waits))[0]?.n, { timeout: 60_000, interval: 100 }).toBe(1)
    await db.query('ROLLBACK')
  })
  const cleaned = (await cleaning) as Awaited<ReturnType<typeof run>>
  expect(cleaned.conclusion, cleaned.log).toBe('success')
})

it("abort and cleanup keep and name other users' objects in the suite's schema, and continue once they are removed", async () => {
  const urls = await world(pair, SHOP, SHOP)
  expect((await prepare(urls)).conclusion).toBe('success')
  await query(
    urls.source,
    'CREATE VIEW molt_actions.theirs AS SELECT 1',
    'CREATE VIEW beats AS SELECT beat FROM molt_actions.molt_actions_heartbeat',
  )
  for (const [action, left] of [
    ['abort', 'view beats depends on table molt_actions.molt_actions_heartbeat'],
    ['cleanup', 'view molt_actions.theirs depends on schema molt_actions'],
  ] as const) {
    const told = await run(action, urls)
    expect(codeOf(told)).toBe(action === 'abort' ? 'abort.incomplete' : 'cleanup.foreign-objects')
    if (action === 'abort') expect(told.outputs.undone).toBe('["cleanup.foreign-objects"]')
    // The log contains PostgreSQL's own message.
    expect(told.log).toContain(left)
    expect(await query(urls.source, "SELECT 1 FROM pg_trigger WHERE tgname = 'molt_actions_fence'")).toEqual([])
    await query(urls.source, action === 'abort' ? 'DROP VIEW beats' : 'DROP VIEW molt_actions.theirs')
  }
  const done = await run('abort', urls)
  expect(done.conclusion, done.log).toBe('success')
  expect(await query(urls.source, "SELECT 1 FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
})

it('requires only the sequences that the target needs, before and after the load', async () => {
  const source = `CREATE TABLE numbered (id bigserial PRIMARY KEY, n int GENERATED BY DEFAULT AS IDENTITY);
    CREATE TABLE left_behind (id serial PRIMARY KEY); CREATE SEQUENCE alone;
    INSERT INTO numbered SELECT FROM generate_series(1, 7); INSERT INTO left_behind DEFAULT VALUES`
  const target = `CREATE FUNCTION unique_rowid() RETURNS bigint LANGUAGE sql AS 'SELECT 1';
    CREATE TABLE numbered (id bigint PRIMARY KEY DEFAULT unique_rowid(), n int NOT NULL GENERATED BY DEFAULT AS IDENTITY);
    CREATE SEQUENCE alone`
  const urls = await world(pair, source, target)
  const result = await prepare(urls, { tables: 'numbered' })
  expect(result.conclusion, result.log).toBe('success')
  const [here, there] = [await connect(urls.source, 'source'), await connect(urls.target, 'target')]
  try {
    const sides = [
      { db: here, schema: 'public' },
      { db: there, schema: 'public' },
    ] as const
    const before = sequenceProblems(await readSequenceStates(...sides, ['numbered']))
    expect(before).toEqual([expect.stringMatching(/^the sequence numbered_n_seq is behind/)])
    const { set, problems } = await setSequences(...sides, ['numbered'], 10n)
    expect(problems).toEqual([])
    expect(set).toEqual([{ name: 'numbered_n_seq', sourceValue: '7', value: '17' }])
    expect(sequenceProblems(await readSequenceStates(...sides, ['numbered']))).toEqual([])
    const all = await setSequences(...sides, ['numbered', 'left_behind'], 10n)
    expect(all.problems).toEqual([expect.stringContaining('sequence left_behind_id_seq is missing on the target')])
  } finally {
    await Promise.all([here.end(), there.end()])
  }
})

it('does not set a sequence that the application is using, and sets one that is behind', async () => {
  const tables = 'CREATE TABLE live (id bigserial PRIMARY KEY); CREATE TABLE behind (id bigserial PRIMARY KEY)'
  const rows =
    'INSERT INTO live SELECT FROM generate_series(1, 50); INSERT INTO behind SELECT FROM generate_series(1, 50)'
  const urls = await world(
    pair,
    `${tables}; ${rows}`,
    `${tables}; ${rows}; ALTER SEQUENCE behind_id_seq RESTART WITH 9; SELECT nextval('behind_id_seq')`,
  )
  const clients = await Promise.all([
    connect(urls.source, 'source'),
    connect(urls.target, 'target'),
    connect(urls.target, 'target'),
  ])
  const [here, there, application] = clients
  const sides = [
    { db: here, schema: 'public' },
    { db: there, schema: 'public' },
  ] as const
  let over = false
  // Issuing a number twice would violate the primary key.
  const writing = (async () => {
    while (!over) await application.query('INSERT INTO live DEFAULT VALUES')
  })()
  try {
    const first = await setSequences(...sides, ['live', 'behind'], 10n, true)
    expect(first.problems).toEqual([])
    expect(first.set).toContainEqual({ name: 'behind_id_seq', sourceValue: '50', value: '60' })
    for (let round = 0; round < 40; round++)
      expect((await setSequences(...sides, ['live'], 0n, true)).problems).toEqual([])
    over = true
    await writing
    const [last] = (await there.query('SELECT max(id) - count(*) AS gaps, count(*) > 50 AS wrote FROM live')).rows
    expect(last).toEqual({ gaps: '0', wrote: true })
  } finally {
    over = true
    await writing.catch(() => {})
    await Promise.all(clients.map((client) => client.end()))
  }
})

it('reports a target sequence that cannot continue, and does not set it', async () => {
  const tables = `CREATE TABLE a (id bigserial PRIMARY KEY); CREATE TABLE b (id bigserial PRIMARY KEY);
    CREATE TABLE c (id bigserial PRIMARY KEY); CREATE TABLE d (id bigserial PRIMARY KEY);
    CREATE TABLE texts (id text PRIMARY KEY); CREATE SEQUENCE coupons OWNED BY texts.id`
  const rows = ['a', 'b', 'c', 'd'].map((t) => `INSERT INTO ${t} SELECT FROM generate_series(1, 200)`).join(';')
  const urls = await world(
    pair,
    `${tables}; ${rows}; INSERT INTO texts VALUES ('ada@example.org'); SELECT nextval('coupons')`,
    `${tables}; ALTER SEQUENCE a_id_seq MAXVALUE 100; ALTER SEQUENCE b_id_seq INCREMENT BY -1 MINVALUE -1000;
     ALTER SEQUENCE c_id_seq MAXVALUE 205; INSERT INTO texts VALUES ('bob@example.org')`,
  )
  const [here, there] = [await connect(urls.source, 'source'), await connect(urls.target, 'target')]
  const names = ['a', 'b', 'c', 'd', 'texts']
  const sides = [
    { db: here, schema: 'public' },
    { db: there, schema: 'public' },
  ] as const
  try {
    const { set, problems } = await setSequences(...sides, names, 10n)
    expect(set.map(({ name, value }) => [name, value])).toEqual([
      ['coupons', '11'],
      ['d_id_seq', '210'],
    ])
    expect(problems).toEqual([
      'the sequence public.a_id_seq ends at 100 on the target, but 200 is already used and 211 would be next. Run `ALTER SEQUENCE "public"."a_id_seq" MAXVALUE 9223372036854775807` on the target.',
      expect.stringMatching(
        /^the sequence public.b_id_seq counts by -1 on the target, but by 1 on the source\. Run `ALTER/,
      ),
      expect.stringMatching(/^the sequence public.c_id_seq ends at 205 on the target, but 200 is already used and 211/),
    ])
    // Streaming reports the same problems, except those that only concern the margin.
    const streaming = sequenceProblems(await readSequenceStates(...sides, names)).filter((each) => /Run `/.test(each))
    expect(streaming.map((each) => each.split(' ')[2])).toEqual(['public.a_id_seq', 'public.b_id_seq'])
    for (const problem of problems) await there.query(/`(.*)`/.exec(problem)?.[1] as string)
    expect(await setSequences(...sides, names, 10n)).toMatchObject({ problems: [] })
  } finally {
    await Promise.all([here.end(), there.end()])
  }
})

it('lifts the client and server timeouts for a count, and for nothing else', async () => {
  const db = await connect(pair.target.url, 'target', 500)
  try {
    await unhurried(db, () => db.query('SELECT pg_sleep(1.8)'))
    await expect(db.query('SELECT pg_sleep(1.8)')).rejects.toThrow('statement timeout')
  } finally {
    await db.end()
  }
})

it('drops a unique index together with the foreign keys that depend on it, and keeps all others', async () => {
  const { target: url } = await world(pair, 'SELECT 1', LADEN)
  await withTarget(url, async (db) => {
    await createLedger(db)
    const plan = { targetSchema: 'public', tables: ['customers', 'orders'] }
    await deferObjects(db, 'main', plan, { indexes: true, constraints: false }, true)
    const kinds = (await listDeferred(db, 'main'))
      .filter((each) => each.kind === 'foreign-key')
      .map((each) => each.name)
    expect(kinds).toEqual(['mail_email_fkey'])
  })
})

it('records a foreign key that has the same name as an index', async () => {
  const { target: url } = await world(pair, 'SELECT 1', [
    LADEN,
    'CREATE INDEX orders_customer_fkey ON orders (customer)',
  ])
  await withTarget(url, async (db) => {
    await createLedger(db)
    const plan = { targetSchema: 'public', tables: ['customers', 'orders'] }
    await deferObjects(db, 'main', plan, { indexes: true, constraints: true }, true)
    const kinds = async () => {
      const captured = await listDeferred(db, 'main')
      return captured.flatMap(({ kind, name }) => (name === 'orders_customer_fkey' ? kind : [])).sort()
    }
    expect(await kinds()).toEqual(['foreign-key', 'index'])
    await deferObjects(db, 'main', plan, { indexes: true, constraints: true, uniqueAfterLoad: true }, true)
    expect(await kinds()).toEqual(['foreign-key', 'index'])
    expect(await restoreDeferred(db, 'main')).toMatchObject({ problems: [] })
    expect(await deferralProblems(db, 'main')).toEqual([])
    const schema = await readSchema(db, 'target', 'public')
    expect(schema.constraints.map(({ name }) => name)).toContain('orders_customer_fkey')
    expect(schema.indexes.map(({ name }) => name)).toContain('orders_customer_fkey')
  })
})

it('drops nothing during an index build, and waits for that build before it starts another one (26.1)', async () => {
  const { target } = await world(pair, 'SELECT 1', SHOP)
  const fast = await startCockroach(pair.behind, { version: '26.1' })
  const slow = await startCockroach(pair.behind, { version: '26.1', ddlTime: 3_000 })
  const name = new URL(target).pathname.slice(1)
  const indexes = { indexes: true, constraints: false }
  const plan = { targetSchema: 'public', tables: ['customers', 'orders'] }
  try {
    await withTarget(fast.urlOf(name), (db) =>
      withTarget(slow.urlOf(name), async (building) => {
        await createLedger(db)
        const valid = async () =>
          (await readSchema(db, 'target', 'public')).indexes.find(({ name }) => name === 'one_email')?.valid
        const create = 'CREATE UNIQUE INDEX one_email ON public.customers (email)'
        const built = building.query(create)
        await expect.poll(valid, { interval: 20 }).toBe(false)
        await expect(deferObjects(db, 'main', plan, indexes, true)).rejects.toMatchObject({
          code: 'deferral.not-captured',
        })
        await built
        expect(await valid()).toBe(true)
        await deferObjects(db, 'main', plan, indexes, true)
        expect(await valid()).toBeUndefined()
        // Simulates a run that was killed while its schema change job continues.
        const again = building.query(create)
        await expect.poll(valid, { interval: 20 }).toBe(false)
        expect(await deferralProblems(db, 'main')).toEqual([expect.stringContaining('not valid')])
        await rebuildDeferred(db, 'main', ['unique'])
        expect(await valid()).toBe(true)
        expect(await deferralProblems(db, 'main')).toEqual([])
        await again
      }),
    )
  } finally {
    await slow.stop()
    await fast.stop()
  }
})
