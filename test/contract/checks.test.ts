import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EmbeddedPair, type EmbeddedServer, startPair, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { runChecks } from '../../src/checks/check.ts'
import type { Facts, Settings } from '../../src/checks/facts/facts.ts'
import { urlFacts } from '../../src/checks/facts/gather.ts'
import { readConnection } from '../../src/checks/facts/source.ts'
import { sourceGrants, targetGrants } from '../../src/checks/grants.ts'
import { CHECKS } from '../../src/checks/index.ts'
import { summaryOf } from '../../src/checks/report.ts'
import { retentionOf } from '../../src/destination/retention.ts'
import { fingerprint } from '../../src/model/fingerprint.ts'
import { connect } from '../../src/runtime/database.ts'
import type { Sequence } from '../../src/sql/sequences.ts'
import { asCockroach, changed, factsOf, objectsOf, query, type World, world } from './checks-helpers.ts'

const CLEAN = `CREATE TABLE orders (id uuid PRIMARY KEY, total numeric(10,2) NOT NULL DEFAULT 0, note text);
  INSERT INTO orders SELECT gen_random_uuid(), n, 'n' FROM generate_series(1, 10) n`
const CLEAN_TARGET = 'CREATE TABLE orders (id uuid PRIMARY KEY, total numeric(10,2) NOT NULL DEFAULT 0, note text)'

let pair: EmbeddedPair
let clean: Facts
const fired = new Set<string>()

beforeAll(async () => {
  pair = await startPair({
    settings: {
      shared_preload_libraries: 'pg_stat_statements',
      max_slot_wal_keep_size: '10GB',
      max_prepared_transactions: 5,
    },
  })
  clean = await factsOf(await world(pair, [CLEAN, 'CREATE EXTENSION pg_stat_statements'], CLEAN_TARGET))
}, 120_000)

afterAll(async () => {
  await pair?.stop()
})

/** Expects the check to report exactly these objects, and nothing for the databases without problems. */
function expectFires(facts: Facts, id: string, objects: string[], quiet: Facts = clean) {
  expect(objectsOf(facts, id), id).toEqual(objects)
  expect(objectsOf(quiet, id), `${id} without problems`).toEqual([])
  for (const found of runChecks(
    CHECKS.filter((check) => check.id === id),
    facts,
  )) {
    expect(found.what, id).not.toBe('')
    expect(found.fix, id).not.toMatch(/\{\w+\}|undefined|NaN|…/)
  }
  fired.add(id)
}

const tools = (molt: string, replicator: string) => ({
  molt: { version: molt, sha256: 'a'.repeat(64) },
  replicator: { version: replicator, sha256: 'b'.repeat(64), stopsOnToast: replicator.startsWith('1.0.') },
})

describe('the source server', () => {
  let poor: EmbeddedServer
  let facts: Facts
  let open: pg.Client

  beforeAll(async () => {
    poor = await startPostgres({
      name: 'poor',
      settings: {
        wal_level: 'replica',
        max_replication_slots: 1,
        max_wal_senders: 0,
        max_connections: 12,
        max_prepared_transactions: 3,
        wal_sender_timeout: '10s',
        max_slot_wal_keep_size: '1MB',
      },
    })
    await query(poor.urlOf('postgres'), "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0")
    const url = poor.urlOf('ascii')
    await query(
      url,
      CLEAN,
      'ALTER ROLE postgres SET statement_timeout = 45000',
      'ALTER ROLE postgres SET idle_in_transaction_session_timeout = 60000',
      "SELECT pg_create_physical_replication_slot('standby', true)",
      "BEGIN; UPDATE orders SET note = 'x'; PREPARE TRANSACTION 'left''over'",
    )
    open = new pg.Client({ connectionString: url, application_name: 'nightly' })
    await open.connect()
    await open.query('BEGIN; SELECT 1')
    await new Promise((done) => setTimeout(done, 1200))
    const target = (await world(pair, CLEAN_TARGET)).target
    const writer = new pg.Client({ connectionString: url })
    await writer.connect()
    let writing = true
    const writes = (async () => {
      while (writing) await writer.query("SELECT pg_logical_emit_message(false, 'test', repeat('x', 500))")
    })()
    facts = await factsOf({ source: url, target }, { longTransaction: 1000 }, { walWindowMs: 500 }).finally(
      async () => {
        writing = false
        await writes
        await writer.end()
      },
    )
  }, 120_000)

  afterAll(async () => {
    await open?.end()
    await poor?.stop()
  })

  it('reports unsuitable server settings', () => {
    for (const id of [
      'src.wal-level',
      'src.slots',
      'src.senders',
      'src.sender-timeout',
      'src.encoding',
      'src.connections',
    ])
      expectFires(facts, id, ['source'])
    expectFires(facts, 'src.statement-timeout', ['postgres'])
    // The server keeps 1 MiB of WAL for slots: less than an hour at the current rate.
    expect(facts.source.server.walBytesPerSecond).toBeGreaterThan(1000)
    expectFires(facts, 'src.slot-lost', ['source'])
    expectFires(facts, 'src.idle-timeout', ['postgres'])
    expectFires(facts, 'src.prepared-transaction', ["left'over"])
    const [found] = runChecks(
      CHECKS.filter((check) => check.id === 'src.prepared-transaction'),
      facts,
    )
    expect(found?.fix).toContain("ROLLBACK PREPARED 'left''over'")
    expectFires(facts, 'src.long-transaction', [expect.stringMatching(/^PID \d+$/)] as unknown as string[])
  })

  it('reports an unsuitable version, recovery mode, too few slots or senders, and WAL limits', () => {
    const server = (change: Partial<Facts['source']['server']>) =>
      changed(clean, (copy) => {
        Object.assign(copy.source.server, change)
      })
    for (const version of [110022, 100000, 170001]) expectFires(server({ version }), 'src.version', ['source'])
    expectFires(server({ inRecovery: true }), 'src.primary', ['source'])
    expectFires(server({ slotsFree: 2 }), 'src.slots-reserve', ['source'])
    expectFires(server({ slotsFree: 1 }), 'src.slots-verify', ['source'])
    expectFires(server({ sendersFree: 1 }), 'src.senders-reserve', ['source'])
    expectFires(server({ slotKeepMiB: -1, walBytesPerSecond: 1e6 }), 'src.slot-disk', ['source'])
    expectFires(server({ slotKeepMiB: 100, walBytesPerSecond: 1e6 }), 'src.slot-lost', ['source'])
  })

  it('reports two connections that reach different servers', async () => {
    const [one, two, elsewhere] = await Promise.all([
      connect(pair.source.url, 'source'),
      connect(pair.source.url, 'source'),
      connect(pair.target.url, 'source'),
    ])
    try {
      expect((await readConnection(one, two, pair.source.url)).doubts).toEqual([])
      const { doubts } = await readConnection(one, elsewhere, pair.source.url)
      expect(doubts).toEqual(['two connections reached two different servers'])
      expectFires(
        changed(clean, (copy) => {
          copy.source.connection.doubts = doubts
        }),
        'src.pooler',
        ['source'],
      )
      // No connection is left inside a transaction.
      expect((await one.query('SELECT pg_current_xact_id_if_assigned() AS id')).rows).toEqual([{ id: null }])
    } finally {
      await Promise.all([one, two, elsewhere].map((db) => db.end()))
    }
  })
})

describe.each(['source', 'target'] as const)('reports settings that the tools inherit on the %s', (side) => {
  const prefix = side === 'source' ? 'src' : 'tgt'
  const inherited = (name: string, value: string, byUrl = false) =>
    changed(clean, (copy) => {
      copy[side].tools.settings[name] = { value, byUrl }
    })

  it.each([
    ['session-settings', 'datestyle', 'German, DMY'],
    ['session-settings', 'intervalstyle', 'iso_8601'],
    ['session-settings', 'bytea_output', 'escape'],
    ['session-settings', 'extra_float_digits', '0'],
    ['session-settings', 'standard_conforming_strings', 'off'],
    ['session-settings', 'client_encoding', 'LATIN1'],
    ['session-settings', 'array_nulls', 'off'],
    ['time-zone', 'timezone', 'Europe/Amsterdam'],
    ['read-only', 'default_transaction_read_only', 'on'],
    ['session-timeouts', 'lock_timeout', '5000'],
    ['session-timeouts', 'idle_session_timeout', '60000'],
    ['session-timeouts', 'transaction_timeout', '60000'],
  ])('%s: %s is %s', (id, name, value) => {
    const quiet = inherited('timezone', 'UTC')
    expectFires(inherited(name, value), `${prefix}.${id}`, ['postgres'], quiet)
    const [found] = runChecks(CHECKS, inherited(name, value)).filter((each) => each.check === `${prefix}.${id}`)
    expect(found?.apply?.sql).toMatch(new RegExp(`^ALTER ROLE "postgres" IN DATABASE "w\\w+" SET ${name} = `))
    const [url] = runChecks(CHECKS, inherited(name, value, true)).filter((each) => each.check === `${prefix}.${id}`)
    expect(url).toMatchObject({ fix: expect.stringContaining('options') })
    expect(url).not.toHaveProperty('apply')
  })

  it('search-path without an existing schema', () => {
    const lost = changed(clean, (copy) => {
      copy[side].tools.schema = null
    })
    expectFires(lost, `${prefix}.search-path`, ['postgres'])
  })
})

it('finds child tables that are not moved, rows over 16 MiB, and constraints that only the target enforces', async () => {
  const source = [
    CLEAN,
    'CREATE TABLE places (id int PRIMARY KEY); CREATE SCHEMA far; CREATE TABLE far.cities () INHERITS (places)',
    'CREATE TABLE towns () INHERITS (places)',
    'CREATE TABLE files (id int PRIMARY KEY, body text); ALTER TABLE files ALTER body SET STORAGE EXTERNAL',
    "INSERT INTO files VALUES (1, repeat('x', 17 * 1024 * 1024))",
    'CREATE TABLE small (id int PRIMARY KEY, body text, n int, p int); ALTER TABLE small ALTER body SET STORAGE EXTERNAL',
    "INSERT INTO small VALUES (1, repeat('x', 3 * 1024 * 1024), 1, 1)",
    'ALTER TABLE small ADD CONSTRAINT positive CHECK (n > 5) NOT VALID',
    'ALTER TABLE small ADD CONSTRAINT placed FOREIGN KEY (p) REFERENCES places NOT VALID',
    'ALTER TABLE small ADD CONSTRAINT loose CHECK (n > 7) NOT VALID',
  ]
  const target = [
    `${CLEAN_TARGET}; CREATE TABLE places (id int PRIMARY KEY); CREATE TABLE files (id int PRIMARY KEY, body text)`,
    'CREATE TABLE small (id int PRIMARY KEY, body text, n int CONSTRAINT positive CHECK (n > 5), p int CONSTRAINT placed REFERENCES places)',
    'ALTER TABLE small ADD CONSTRAINT loose CHECK (n > 7) NOT VALID',
  ]
  const facts = await factsOf(await world(pair, source, target), { tables: ['orders', 'places', 'files', 'small'] })
  expectFires(facts, 'tbl.parent', ['public.places', 'public.places'])
  expectFires(facts, 'dat.large-row', ['public.files'])
  expectFires(facts, 'tbl.not-valid', ['public.small.placed', 'public.small.positive'])
  // These tables have no recorded updates, as on a freshly cloned server.
  expect(objectsOf(facts, 'tbl.toast-unproven')).toEqual(['public.files', 'public.small'])
})

it('finds types that are rounded or compare differently', async () => {
  const facts = await factsOf(
    await world(
      pair,
      'CREATE TABLE shaped (id int PRIMARY KEY, a timestamp(6), b real, c char(5), d time, e timestamptz, f float8, g text, h char(5), i bit(3), j bit(3), k bit varying(9), l real[])',
      'CREATE TABLE shaped (id int PRIMARY KEY, a timestamp(0), b float8, c text, d time(3), e timestamptz(6), f real, g char(9), h char(9), i bit(5), j bit varying(5), k bit(9), l float8[])',
    ),
  )
  expectFires(
    facts,
    'tgt.same-text',
    ['b', 'c', 'f', 'g', 'h', 'l'].map((name) => `public.shaped.${name}`),
  )
  expect(objectsOf(facts, 'tgt.length')).toEqual(['a', 'd', 'g', 'i', 'k'].map((name) => `public.shaped.${name}`))
})

it.each([
  ['server', 'max_connections'],
  ['role', 'ALTER ROLE "postgres" CONNECTION LIMIT'],
  ['database', 'ALTER DATABASE "w'],
] as const)('reports that the %s limit leaves too few connections', (limit, fix) => {
  const few = changed(clean, (copy) => {
    copy.source.server.connectionsFree[limit] = 3
  })
  expectFires(few, 'src.connections', ['source'])
  expect(runChecks(CHECKS, few).find((each) => each.check === 'src.connections')?.fix).toContain(fix)
})

it('reports definitions that are dropped without a test rebuild', async () => {
  const urls = await world(pair, CLEAN, [CLEAN_TARGET, 'CREATE INDEX ON orders (note)'])
  const defer = { indexes: true, constraints: false }
  const quiet = await factsOf(urls, { defer })
  expectFires({ ...quiet, settings: { ...quiet.settings, trial: 'none' } }, 'tgt.trial', ['target'], quiet)
})

it('finds sequences with different definitions, and sequences that are or soon will be exhausted', () => {
  const sequence = {
    ...{ name: 'numbers', lastValue: 100n, increment: 1n, min: 1n, max: 32_767n, cycle: false, cache: 1n },
    ...{ table: null, column: null, holds: null },
  }
  const facts = (used: bigint, here: Partial<Sequence>, there: Partial<Sequence>) =>
    changed(clean, (copy) => {
      copy.source.sequences = [{ sequence: { ...sequence, ...here }, used }]
      copy.target.sequences = [{ ...sequence, ...there }]
    })
  const roomy = { max: 2n ** 63n - 1n }
  const quiet = facts(100n, roomy, roomy)
  const object = ['public.numbers']
  expectFires(facts(100n, { ...roomy, increment: 50n }, roomy), 'tgt.sequence-definition', object, quiet)
  expectFires(facts(100n, { cycle: true }, { cycle: true, max: 99n }), 'tgt.sequence-definition', object, quiet)
  expectFires(facts(100n, roomy, { ...roomy, cycle: true }), 'tgt.sequence-definition', object, quiet)
  const cycling = asCockroach(facts(100n, { cycle: true }, {}))
  const [found] = runChecks(CHECKS, cycling).filter((each) => each.check === 'tgt.sequence-definition')
  expect(found).not.toHaveProperty('apply')
  expectFires(facts(32_767n, roomy, {}), 'tgt.sequence-end', object, quiet)
  expectFires(facts(32_767n, roomy, { ...roomy, holds: { min: 0n, max: 32_767n } }), 'tgt.sequence-end', object, quiet)
  expectFires(facts(30_000n, {}, {}), 'tgt.sequence-margin', object, quiet)
  expect(objectsOf(facts(32_767n, { cycle: true }, { cycle: true }), 'tgt.sequence-end')).toEqual([])
})

it('blocks a source whose masking is not proved', async () => {
  const run = `CREATE SCHEMA molt_actions_mask; CREATE TABLE molt_actions_mask.run (state text); INSERT INTO molt_actions_mask.run VALUES ('refused')`
  const urls = await world(pair, [CLEAN, run], CLEAN_TARGET)
  const set = async (sql: string) => {
    await query(urls.source, sql)
    return factsOf(urls)
  }
  const proved = await set("UPDATE molt_actions_mask.run SET state = 'proved'")
  for (const state of ['refused', 'loading'])
    expectFires(await set(`UPDATE molt_actions_mask.run SET state = '${state}'`), 'src.masked', ['source'], proved)
  expect(objectsOf(clean, 'src.masked')).toEqual([])
  await query(urls.source, "CREATE ROLE blind LOGIN PASSWORD 'blind'")
  const blind = { ...urls, source: urls.source.replace('postgres:postgres', 'blind:blind') }
  expect((await factsOf(blind)).source.masked).toBe('unknown')
  expectFires(await factsOf(blind), 'src.masked', ['source'], proved)
})

it('reports an existing slot, publication, heartbeat and fence', async () => {
  const urls = await world(
    pair,
    [
      CLEAN,
      'CREATE SCHEMA other; CREATE TABLE other.orders (id int PRIMARY KEY); CREATE TABLE listed (id int PRIMARY KEY, a int)',
      'CREATE PUBLICATION molt_fetch FOR TABLE orders WHERE (total > 1), other.orders, listed (id)',
      'CREATE SCHEMA molt_actions',
      'CREATE TABLE molt_actions.molt_actions_heartbeat (id int PRIMARY KEY, migration text, source_id text, beat int8, marker text)',
      "INSERT INTO molt_actions.molt_actions_heartbeat VALUES (1, 'earlier', 'x', 0, '')",
      'CREATE SEQUENCE molt_actions.fence_lease MINVALUE 1',
      "SELECT setval('molt_actions.fence_lease', 9223372036854775807)",
    ],
    [CLEAN_TARGET, 'CREATE TABLE listed (id int PRIMARY KEY, a int)'],
  )
  await query(urls.source, "SELECT pg_create_logical_replication_slot('taken', 'pgoutput')")
  const facts = await factsOf(urls, { slot: 'taken' })
  await query(urls.source, "SELECT pg_drop_replication_slot('taken')")
  expectFires(facts, 'src.slot-exists', ['taken'])
  await query(pair.source.url, "SELECT pg_create_logical_replication_slot('other_taken', 'pgoutput')")
  const elsewhere = await factsOf(urls, { slot: 'other_taken' })
  await query(pair.source.url, "SELECT pg_drop_replication_slot('other_taken')")
  expectFires(elsewhere, 'src.slot-name', ['other_taken'])
  expect(objectsOf(elsewhere, 'src.slot-exists')).toEqual([])
  expect(objectsOf({ ...facts, settings: { ...facts.settings, phase: 'loaded' } }, 'src.slot-exists')).toEqual([])
  expectFires(facts, 'src.publication-exists', ['molt_fetch'])
  expectFires(facts, 'src.publication-truncate', ['molt_fetch'])
  expectFires(facts, 'src.publication-partial', ['public.listed', 'public.orders'])
  expectFires(facts, 'tbl.same-name', ['other.orders'])
  expectFires(facts, 'tbl.namesake', ['public.orders'])
  expectFires(facts, 'src.owner', ['source'])
  expectFires(facts, 'src.cut-over', ['source'])
  expect(objectsOf(facts, 'src.fence')).toEqual([])
  expectFires({ ...facts, source: { ...facts.source, fence: 'armed' } }, 'src.fence', ['source'])
  const all = await factsOf(await world(pair, [CLEAN, 'CREATE PUBLICATION molt_fetch FOR ALL TABLES'], CLEAN_TARGET))
  expectFires(all, 'src.publication-all', ['molt_fetch'])
})

it("reports the migration user's missing privileges on both sides", async () => {
  const urls = await world(
    pair,
    [
      CLEAN,
      'CREATE SEQUENCE numbers',
      'ALTER TABLE orders ENABLE ROW LEVEL SECURITY',
      'CREATE SCHEMA hidden; CREATE TABLE hidden.secret (id int PRIMARY KEY)',
    ],
    CLEAN_TARGET,
  )
  await query(pair.source.url, "CREATE ROLE weak LOGIN PASSWORD 'weak-password'")
  await query(
    pair.target.url,
    "CREATE ROLE weak LOGIN PASSWORD 'weak-password'",
    "CREATE ROLE app LOGIN PASSWORD 'app-password'",
  )
  await query(urls.target, 'GRANT SELECT, DELETE ON orders TO weak', 'GRANT INSERT, UPDATE ON orders TO app')
  const weak = (url: string) => url.replace('postgres:postgres@', 'weak:weak-password@')
  const facts = await factsOf({ source: weak(urls.source), target: weak(urls.target) })
  expectFires(facts, 'right.read', ['public.orders', 'public.numbers'])
  expectFires(facts, 'right.replication', ['weak'])
  expectFires(facts, 'right.create', ['weak'])
  expectFires(facts, 'right.owner', ['public.orders'])
  expectFires(facts, 'right.statistics', ['weak'])
  const elsewhere = (usable: boolean) =>
    changed(facts, (copy) => {
      copy.source.role.seesOthers = true
      copy.source.statementsSchema = { name: 'monitoring', usable }
    })
  expect(objectsOf(elsewhere(false), 'right.statistics')).toEqual(['monitoring'])
  expect(objectsOf(elsewhere(true), 'right.statistics')).toEqual([])
  expect(sourceGrants(elsewhere(true), 'mig')).toContain('GRANT USAGE ON SCHEMA "monitoring" TO "mig";')
  const blind = changed(asCockroach(facts), (copy) => {
    copy.target.sight = { activity: false, jobs: true, settings: true }
  })
  expectFires(blind, 'right.target-activity', ['weak'])
  const closed = changed(asCockroach(clean), (copy) => {
    copy.target.sight = { activity: true, jobs: true, settings: false }
    copy.target.role.lockedSequences = ['numbers']
    copy.target.role.usageGrantable = false
  })
  expectFires(closed, 'right.target-settings', [closed.target.role.name], asCockroach(clean))
  expectFires(closed, 'right.target-sequences', ['public.numbers'])
  expectFires(closed, 'right.target-logins', ['public'])
  expectFires(facts, 'right.target-tables', ['public.orders'])
  expectFires(facts, 'right.target-create', ['weak', 'weak'])
  expectFires(facts, 'right.target-logins', ['weak', 'public.orders'])
  expectFires(await factsOf(urls), 'tgt.writer', ['app', 'weak'])
  await query(urls.source, 'GRANT SELECT ON orders TO weak')
  expectFires(await factsOf({ ...urls, source: weak(urls.source) }), 'right.row-security', ['public.orders'])
  const hidden = await factsOf({ ...urls, source: weak(urls.source) }, { schema: 'hidden', tables: ['secret'] })
  expectFires(hidden, 'right.schema', ['weak'])
  const deferring = { defer: { indexes: true, constraints: false } }
  const unowned = await factsOf({ source: weak(urls.source), target: weak(urls.target) }, deferring)
  expectFires(unowned, 'right.target-defer', ['public.orders'], await factsOf(urls, deferring))
  const cockroach = runChecks(
    CHECKS.filter((check) => check.id === 'right.target-defer'),
    asCockroach(unowned),
  )
  expect(cockroach[0]?.fix).toContain('GRANT CREATE ON TABLE "public"."orders" TO "weak";')
  // Objects that `convert` has recorded in the ledger and that later steps build.
  const keep = { defer: { indexes: false, constraints: false } }
  const [bare, unable] = [await factsOf(urls, keep), await factsOf({ ...urls, target: weak(urls.target) }, keep)]
  const left = (facts: Facts) =>
    changed(asCockroach(facts), (copy) => {
      copy.target.awaited = [{ kind: 'foreign-key', table: 'orders', name: 'orders_self' }]
    })
  expect(objectsOf(unable, 'right.target-defer')).toEqual([])
  expectFires(left(unable), 'right.target-defer', ['public.orders'], asCockroach(bare))
  expect(objectsOf(left(unable), 'right.target-foreign-key')).toEqual(['public.orders'])
  expect(targetGrants(asCockroach(bare), 'mig')).not.toContain('GRANT DROP, CREATE')
  expect(targetGrants(left(bare), 'mig')).toContain('GRANT DROP, CREATE ON TABLE "public"."orders" TO "mig";')
  // No fix adds the user to a target role that owns objects, because that role may be a superuser.
  const memberships = runChecks(CHECKS, unowned).filter(({ fix }) => /GRANT "[^"]*" TO/.test(fix))
  expect(memberships.filter(({ check }) => check.startsWith('right.target') || check === 'right.write-access')).toEqual(
    [],
  )
  expect(targetGrants(clean, 'mig')).not.toContain('molt_actions')
  const found = changed(clean, (copy) => {
    copy.target.role.ledger = true
  })
  expect(targetGrants(found, 'mig')).toContain(
    'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA molt_actions TO "mig";',
  )
  const lacking = changed(clean, (copy) => {
    copy.target.role.withoutDrop = ['orders']
  })
  expectFires(lacking, 'right.target-import', ['public.orders'])
  // The application has ALL, but this user has the grant option on only three of its privileges. Revoked privileges
  // could not be restored.
  const all = changed(asCockroach(clean), (copy) => {
    const grant = { table: 'orders', role: 'app', privilege: 'ALL', grantable: false }
    copy.target.role.ungrantable = [grant]
    copy.target.writeGrants = [grant]
  })
  expectFires(all, 'right.write-access', ['public.orders'], asCockroach(clean))
  const option = 'GRANT ALL ON TABLE "public"."orders" TO'
  const [advice] = runChecks(
    CHECKS.filter((check) => check.id === 'right.write-access'),
    all,
  )
  expect(advice?.fix).toContain(`${option} "${all.target.role.name}" WITH GRANT OPTION;`)
  expect(targetGrants(all, 'mig')).toContain(`${option} "mig" WITH GRANT OPTION;`)
  const waived = { ...all, settings: { ...all.settings, writeAccess: 'waive' as const } }
  expect(objectsOf(waived, 'right.write-access')).toEqual([])
  // No REVOKE keeps an owner or an administrator from writing, and a recreated table has no privileges.
  const held = changed(asCockroach(clean), (copy) => {
    copy.settings.tableHandling = 'drop-on-target-and-recreate'
    copy.target.otherRights = [{ table: 'orders', role: 'app', privilege: 'SELECT', grantable: false }]
    const login = { role: 'batch', through: 'app', parent: 'app', administrator: false, tables: ['orders'] }
    const ops = { role: 'ops', through: 'admin', parent: 'dbas', administrator: true, tables: ['orders'] }
    copy.target.unrevocable = [login, ops]
  })
  expectFires(held, 'tgt.table-owner', ['batch'])
  expectFires(held, 'tgt.administrator', ['ops'])
  expectFires(held, 'load.recreate', ['app'])
  expect(targetGrants(held, 'mig')).toContain(
    'ALTER TABLE "public"."orders" OWNER TO "mig";\nGRANT SELECT, INSERT, UPDATE, DELETE ON TABLE "public"."orders" TO "app";',
  )
  // A foreign key from a table outside the migration needs privileges on both tables.
  const inbound = (major: number, minor: number) =>
    changed(asCockroach(clean, major, minor), (copy) => {
      copy.settings.defer = { indexes: false, constraints: true }
      copy.target.role.admin = false
      copy.target.schema.constraints.push({
        ...{
          schema: 'far',
          table: 'away',
          name: 'to_orders',
          kind: 'f',
          columns: ['order_id'],
          definition: '',
          condition: null,
        },
        ...{ deferrable: false, validated: true, index: null },
        references: {
          ...{ schema: 'public', table: 'orders', columns: ['id'], onUpdate: 'a', onDelete: 'a', match: 's' },
        },
      })
      copy.target.role.onForeignKeys = [
        { schema: 'far', table: 'away', owned: false, create: false, references: false },
        { schema: 'public', table: 'orders', owned: false, create: true, references: false },
      ]
    })
  expectFires(inbound(25, 2), 'right.target-foreign-key', ['far.away'])
  expectFires(inbound(26, 3), 'right.target-foreign-key', ['far.away', 'public.orders'])
  expect(targetGrants(inbound(26, 3), 'mig')).toContain('GRANT REFERENCES ON TABLE "public"."orders" TO "mig";')
  expect(targetGrants(inbound(25, 2), 'mig')).toContain('GRANT CREATE ON TABLE "far"."away" TO "mig";')
  // On a managed database, the provider's role replaces REPLICATION.
  await query(pair.source.url, 'CREATE ROLE rds_replication', 'GRANT rds_replication TO weak')
  expect(objectsOf(await factsOf({ ...urls, source: weak(urls.source) }), 'right.replication')).toEqual([])
})

it('finds tables that the load or the stream cannot move', async () => {
  const urls = await world(
    pair,
    [
      CLEAN,
      `CREATE TABLE audit_log (at timestamptz);
       CREATE TABLE full_row (id int PRIMARY KEY); ALTER TABLE full_row REPLICA IDENTITY FULL;
       CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
       CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
       CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
       CREATE FOREIGN TABLE remote (id int) SERVER far;
       CREATE VIEW big AS SELECT * FROM orders; CREATE MATERIALIZED VIEW sums AS SELECT 1 AS n;
       CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
       CREATE TABLE events (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
       CREATE TABLE events_24 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
       ALTER TABLE events_24 REPLICA IDENTITY FULL;
       CREATE TABLE computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
       CREATE TABLE notes (id int PRIMARY KEY, body text, "Body" text); CREATE TABLE "Notes" (id int PRIMARY KEY);
       CREATE TABLE files (id int PRIMARY KEY, content oid); SELECT lo_from_bytea(0, 'bytes');
       CREATE TABLE lines (id int PRIMARY KEY, order_id uuid);
       ALTER TABLE lines ADD CONSTRAINT lines_order FOREIGN KEY (order_id) REFERENCES orders NOT VALID;
       CREATE TABLE orders_archive (id int PRIMARY KEY); CREATE TABLE _molt_fetch_status (id uuid PRIMARY KEY);
       CREATE TABLE "brace{d" (id int PRIMARY KEY);
       CREATE TABLE letters (id int PRIMARY KEY, body text, read boolean);
       ALTER TABLE letters ALTER body SET STORAGE EXTERNAL;
       INSERT INTO letters SELECT n, repeat('long', 3000) FROM generate_series(1, 5) n`,
      'UPDATE letters SET read = true',
      'SELECT pg_stat_force_next_flush()',
    ],
    [CLEAN_TARGET, 'CREATE PUBLICATION feed FOR TABLE orders'],
  )
  const feed = urls.target.replace('?sslmode=disable', '')
  await query(
    urls.source,
    `CREATE SUBSCRIPTION feed_${Date.now()} CONNECTION '${feed}' PUBLICATION feed
       WITH (copy_data = false, create_slot = false, enabled = false, slot_name = NONE)`,
  )
  const facts = await factsOf(urls)
  expectFires(facts, 'tbl.no-key', ['public.audit_log'])
  expectFires(facts, 'tbl.replica-identity', ['public.events_24', 'public.full_row', 'public.nothing'])
  expectFires(facts, 'tbl.unlogged', ['public.scratch'])
  expectFires(facts, 'tbl.foreign', ['public.remote'])
  expectFires(facts, 'tbl.view', ['public.big', 'public.sums'])
  expectFires(facts, 'tbl.inherited', ['public.child'])
  expectFires(facts, 'tbl.partitioned', ['public.events'])
  expectFires(facts, 'tbl.generated', ['public.computed.twice'])
  expectFires(facts, 'tbl.reserved', ['public._molt_fetch_status'])
  expectFires(facts, 'tbl.odd-name', ['public.brace{d'])
  expectFires(await factsOf(urls, { targetSchema: 'elsewhere' }), 'tgt.schema-name', ['elsewhere'])
  const long = await factsOf(urls, { tables: ['orders'], filter: `^(orders|${'x'.repeat(131_080)})$` })
  expectFires(long, 'tbl.filter-length', ['source'])
  expectFires(facts, 'tbl.case', ['public.Notes', 'public.notes.body'])
  expectFires(facts, 'tbl.large-objects', ['public.files.content'])
  expectFires(facts, 'tbl.foreign-key-invalid', ['public.lines.lines_order'])
  expectFires(facts, 'tbl.subscription', ['public.orders'])
  const loose = await factsOf(urls, { tables: ['orders'], asked: ['orders'], filter: 'orders' })
  expectFires(loose, 'tbl.filter', ['public.orders_archive'])
  expectFires(loose, 'tbl.filter-loose', ['public.orders'])
  expect(objectsOf(await factsOf(urls, { tables: ['orders'], filter: '^Orders$' }), 'tbl.filter')).toEqual([
    'public.orders',
  ])
  const old = changed(facts, (copy) => {
    copy.machine.tools = tools('1.4.1', '1.0.4')
  })
  expectFires(old, 'tbl.toast', ['public.letters'])
  expectFires(facts, 'tbl.toast-unproven', ['public.letters'], old)
})

it('finds types that some or all CockroachDB versions lack', async () => {
  const columns: Record<string, string> = {
    domain: 'positive',
    range: 'int4range',
    multirange: 'int4multirange',
    composite: 'pair',
    xml: 'xml',
    money: 'money',
    geometric: 'point',
    network: 'macaddr[]',
    hstore: 'hstore',
    postgis: 'geography',
    'postgis-other': 'raster',
    citext: 'citext',
    ltree: 'ltree',
    vector: 'vector',
    'full-text': 'tsvector',
    jsonpath: 'jsonpath',
    internal: 'pg_lsn',
    'extension-type': 'cube',
  }
  const named = (name: string) => `c_${name.replaceAll('-', '_')}`
  const urls = await world(
    pair,
    [
      `CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION cube;
       CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b text);
       CREATE DOMAIN geography AS text; CREATE DOMAIN raster AS text; CREATE DOMAIN vector AS float8[];
       CREATE TYPE "Mood" AS ENUM ('good', 'bad');
       CREATE COLLATION german (provider = icu, locale = 'de-DE', deterministic = false);
       CREATE TABLE kinds (id text COLLATE german PRIMARY KEY, mood "Mood"[], old json, name text COLLATE "C",
         n bigint GENERATED ALWAYS AS IDENTITY, ${Object.entries(columns)
           .map(([name, type]) => `${named(name)} ${type}`)
           .join(', ')})`,
    ],
    'CREATE TABLE kinds (id text PRIMARY KEY)',
  )
  const facts = await factsOf(urls)
  const cockroach = asCockroach(facts, 23, 2)
  const quiet = asCockroach(clean)
  for (const name of Object.keys(columns)) {
    if (['domain', 'composite', 'full-text'].includes(name)) continue
    expectFires(cockroach, `typ.${name}`, [`public.kinds.${named(name)}`], quiet)
    // The rehearsal's target is PostgreSQL, which has the type.
    expect(objectsOf(facts, `typ.${name}`)).toEqual([])
  }
  const domains = ['domain', 'postgis', 'postgis-other', 'vector'].map((name) => `public.kinds.${named(name)}`)
  expectFires(cockroach, 'typ.domain', domains, quiet)
  expectFires(cockroach, 'typ.composite', ['public.kinds.c_composite'], quiet)
  expectFires(asCockroach(facts, 22, 2), 'typ.full-text', ['public.kinds.c_full_text'], quiet)
  for (const [name, major, minor] of [
    ['citext', 25, 3],
    ['ltree', 25, 4],
    ['vector', 24, 2],
    ['jsonpath', 25, 2],
  ] as const) {
    expect(objectsOf(asCockroach(facts, major, minor), `typ.${name}`), name).toEqual([])
    expect(objectsOf(asCockroach(facts, major, minor - 1), `typ.${name}`), name).toHaveLength(1)
  }
  expectFires(facts, 'typ.mixed-case', ['public.kinds.mood'])
  expectFires(facts, 'typ.enum-array', ['public.kinds.mood'])
  expectFires(cockroach, 'typ.json', ['public.kinds.old'], quiet)
  expectFires(facts, 'typ.collation', ['public.kinds.name'])
  expectFires(facts, 'typ.key-collation', ['public.kinds.id'])
  expectFires(facts, 'typ.identity-always', ['public.kinds.n'])
})

it('finds values that would change or fail, and reports that the sample is limited', async () => {
  const urls = await world(
    pair,
    [
      `CREATE TABLE data (id int PRIMARY KEY, grid int[], until date, since timestamptz, born timestamp, doc json);
       INSERT INTO data SELECT n, '{1}', '2024-01-01', now(), now(), '{"a": 1}' FROM generate_series(1, 50) n;
       INSERT INTO data VALUES (51, '{{1,2},{3,4}}', 'infinity', '-infinity', '0044-03-15 BC', '"a\\u0000b"'),
         (52, NULL, 'infinity', '-infinity', NULL, NULL)`,
    ],
    'CREATE TABLE data (id int PRIMARY KEY)',
  )
  const facts = await factsOf(urls)
  const quiet = asCockroach(clean)
  expectFires(facts, 'dat.array', ['public.data.grid'])
  expectFires(facts, 'dat.infinity', ['public.data.until', 'public.data.since'])
  expectFires(facts, 'dat.bc', ['public.data.born'])
  expectFires(asCockroach(facts), 'dat.nul', ['public.data.doc'], quiet)
  const few = await factsOf(urls, {}, { sampleRows: 10 })
  expect(objectsOf(few, 'dat.array')).toEqual([])
  expect(few.source.samples).toMatchObject({ rowsPerTable: 10, tables: 1, found: [] })
  // ANALYZE's sample includes the last row.
  expect(objectsOf(few, 'dat.infinity').sort()).toEqual(['public.data.since', 'public.data.until'])
  expect((await factsOf(urls, {}, { sampleMs: 0 })).source.samples).toMatchObject({ tables: 0, skipped: 1 })
})

it('finds source features that CockroachDB lacks', async () => {
  const urls = await world(
    pair,
    [
      CLEAN,
      'CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm; CREATE EXTENSION citext; CREATE EXTENSION pg_stat_statements',
      `CREATE TABLE rooms (id bigserial PRIMARY KEY, during tstzrange, room int REFERENCES rooms(id) DEFERRABLE,
         EXCLUDE USING gist (during WITH &&))`,
      `CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('orders', 'new');
         PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$`,
      'CREATE TRIGGER shouting AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION shout()',
      'CREATE RULE quiet AS ON DELETE TO orders DO INSTEAD NOTHING',
      'INSERT INTO rooms SELECT n, NULL, NULL FROM generate_series(1, 150000) n',
      'LISTEN orders',
    ],
    CLEAN_TARGET,
  )
  const lock = new pg.Client({ connectionString: urls.source })
  await lock.connect()
  await lock.query('SELECT pg_advisory_lock(7)')
  const facts = await factsOf(urls)
  await lock.end()
  const cockroach = asCockroach(facts)
  const quiet = asCockroach(clean)
  expectFires(facts, 'use.trigger', ['public.orders.shouting'])
  expectFires(cockroach, 'use.rule', ['public.orders.quiet'], quiet)
  expectFires(cockroach, 'use.listen', ['source', 'public.shout'], quiet)
  expectFires(cockroach, 'use.advisory-lock', ['source'], quiet)
  expectFires(cockroach, 'use.extension', ['btree_gist', 'citext'], quiet)
  expectFires(cockroach, 'use.index-method', ['public.rooms.rooms_during_excl'], quiet)
  expectFires(cockroach, 'use.sequential-key', ['public.rooms'], quiet)
  expectFires(cockroach, 'typ.exclude', ['public.rooms.rooms_during_excl'], quiet)
  expectFires(cockroach, 'typ.deferrable', ['public.rooms.rooms_room_fkey'], quiet)
  expectFires(facts, 'load.transaction', ['source'])
  const unknown = await factsOf(await world(pair, CLEAN, CLEAN_TARGET))
  expectFires(unknown, 'load.transaction-unknown', ['source'])
})

it("finds target tables that differ from the source's", async () => {
  const urls = await world(
    pair,
    `CREATE TYPE status AS ENUM ('new', 'paid');
     CREATE SEQUENCE numbers; CREATE SEQUENCE hot;
     CREATE TABLE gone (id int PRIMARY KEY); CREATE TABLE renamed (id serial PRIMARY KEY, "Odd""ly" serial);
     CREATE TABLE keyed (a int, b int, PRIMARY KEY (a, b));
     CREATE TABLE shaped (id bigint PRIMARY KEY, lost int, amount numeric(12,2), name varchar(40), state status,
       twice int GENERATED ALWAYS AS (3) STORED, maybe text, sure text NOT NULL, made timestamptz DEFAULT now(), own bigint)`,
    [
      `CREATE TYPE status AS ENUM ('paid', 'new');
       CREATE SEQUENCE hot CACHE 100; CREATE SEQUENCE "its own";
       CREATE TABLE renamed (id serial PRIMARY KEY, "Odd""ly" int NOT NULL DEFAULT nextval('"its own"'));
       ALTER SEQUENCE renamed_id_seq RENAME TO other_seq;
       CREATE TABLE keyed (a int, b int, PRIMARY KEY (b, a));
       CREATE TABLE shaped (id int PRIMARY KEY, extra text, amount numeric(10,2), name varchar(20), state status, twice text,
         maybe text NOT NULL, sure text, made timestamptz, own bigint GENERATED ALWAYS AS IDENTITY)`,
    ],
  )
  const facts = await factsOf(urls)
  expectFires(facts, 'tgt.table', ['public.gone'])
  expectFires(facts, 'tgt.key', ['public.keyed'])
  expectFires(facts, 'tgt.column-missing', ['public.shaped.lost'])
  expectFires(facts, 'tgt.column-extra', ['public.shaped.extra'])
  expectFires(facts, 'tgt.type', ['public.shaped.twice'])
  expectFires(facts, 'tgt.int-narrow', ['public.shaped.id'])
  expectFires(facts, 'tgt.length', ['public.shaped.amount', 'public.shaped.name'])
  expectFires(facts, 'tgt.enum', ['public.shaped.state'])
  expectFires(facts, 'tgt.generated', ['public.shaped.twice'])
  expectFires(facts, 'tgt.not-null', ['public.shaped.maybe', 'public.shaped.own'])
  expectFires(facts, 'tgt.nullable', ['public.shaped.sure'])
  expectFires(facts, 'tgt.default', ['public.shaped.made'])
  expectFires(facts, 'tgt.identity-always', ['public.shaped.own'])
  expectFires(facts, 'tgt.sequence', ['public.numbers'])
  expectFires(facts, 'tgt.sequence-name', ['public.renamed_Odd"ly_seq', 'public.renamed_id_seq'])
  expectFires(facts, 'tgt.sequence-cache', ['public.hot'])
  const rowid = changed(facts, (copy) => {
    copy.source.schema.sequences = [{ name: 'own_seq', table: 'shaped', column: 'own' } as never]
    for (const table of copy.target.schema.tables)
      for (const column of table.columns) if (column.name === 'own') column.default = 'unique_rowid()'
  })
  expect(objectsOf(rowid, 'tgt.sequence')).toEqual([])
  // Defaults in PostgreSQL's notation. The first sequence is in the moved schema but belongs to a table that is not moved.
  const feeds = ["nextval('left_seq'::regclass)", `nextval('far."Num.bers"'::regclass)`, "nextval('numbers'::regclass)"]
  const apart = changed(facts, (copy) => {
    copy.source.schema.sequences.push({ name: 'left_seq', table: 'left_behind', column: 'id' } as never)
    const [table] = copy.source.schema.tables.filter(({ name }) => name === 'shaped')
    for (const [i, text] of feeds.entries())
      table?.columns.push({ ...(table.columns[0] as object), name: `n${i}`, default: text } as never)
  })
  expectFires(apart, 'tgt.sequence-elsewhere', ['public.shaped.n0', 'public.shaped.n1'])
  const fixes = runChecks(CHECKS, apart, []).filter(({ check }) => check === 'tgt.sequence-elsewhere')
  expect(fixes.map(({ what, fix }) => `${what}; ${fix}`).join('\n')).toMatch(
    /left_seq, which belongs to the table left_behind, which is not moved; ALTER SEQUENCE "left_seq" OWNED BY NONE; --[\s\S]*far\.Num\.bers, which is in another schema; ALTER SEQUENCE "far"\."Num\.bers" OWNED BY NONE; ALTER SEQUENCE "far"\."Num\.bers" SET SCHEMA "public"; -- on both sides/,
  )
})

it('finds a target that is not empty or is in use', async () => {
  const urls = await world(pair, CLEAN, [
    CLEAN,
    `CREATE INDEX by_note ON orders (note); CREATE UNIQUE INDEX one_total ON orders (total);
     CREATE UNIQUE INDEX covered ON orders (total, id);
     ALTER TABLE orders ADD CONSTRAINT positive CHECK (total >= 0);
     CREATE TABLE elsewhere (id int PRIMARY KEY, order_id uuid REFERENCES orders);
     CREATE SCHEMA far; CREATE TABLE far.away (id int PRIMARY KEY, order_id uuid CONSTRAINT away_order REFERENCES orders);
     CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER busy AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION nop();
     CREATE SCHEMA molt_staging_main; CREATE SCHEMA _replicator; CREATE SCHEMA moltXstagingY`,
  ])
  const facts = await factsOf(urls)
  expectFires(facts, 'tgt.not-empty', ['public.orders'])
  expect(objectsOf(await factsOf(urls, { tableHandling: 'truncate-if-exists' }), 'tgt.not-empty')).toEqual([])
  expect(objectsOf(await factsOf(urls, { phase: 'loaded' }), 'tgt.not-empty')).toEqual([])
  expectFires(facts, 'tgt.unique', ['public.orders.one_total'])
  expectFires(facts, 'tgt.index', ['public.orders.by_note'])
  expectFires(facts, 'tgt.foreign-key', ['far.away.away_order', 'public.elsewhere.elsewhere_order_id_fkey'])
  expectFires(facts, 'tgt.check', ['public.orders.positive'])
  expectFires(facts, 'tgt.trigger', ['public.orders.busy'])
  expectFires(facts, 'tgt.staging', ['_replicator', 'molt_staging_main'])
  const deferred = await factsOf(urls, { defer: { indexes: true, constraints: true } })
  for (const id of ['tgt.unique', 'tgt.index', 'tgt.foreign-key', 'tgt.check'])
    expect(objectsOf(deferred, id)).toEqual([])
})

it('finds constraints on the target that the source does not guarantee', async () => {
  const tables = (note: string, fkey: string) => [
    CLEAN,
    `CREATE TABLE shops (code text PRIMARY KEY, town text ${note}, CONSTRAINT named CHECK (town <> ''));
     CREATE TABLE sales (id int PRIMARY KEY, shop text, clerk text, UNIQUE (id, shop));
     ALTER TABLE sales ADD CONSTRAINT ${fkey};
     ALTER TABLE sales ADD CONSTRAINT sales_shop_key UNIQUE (shop, clerk)`,
  ]
  const urls = await world(pair, tables('', 'fk_shop FOREIGN KEY (shop) REFERENCES shops NOT VALID'), [
    ...tables('UNIQUE', 'renamed FOREIGN KEY (shop) REFERENCES shops'),
    'ALTER TABLE sales ADD CONSTRAINT positive CHECK (id > 0)',
  ])
  const facts = await factsOf(urls, { defer: { indexes: true, constraints: true } })
  expectFires(facts, 'tgt.stricter', ['public.shops.shops_town_key', 'public.sales.renamed'])
  expectFires(facts, 'tgt.stricter-check', ['public.sales.positive'])
})

it('reports problems that only CockroachDB can have', () => {
  const cockroach = asCockroach(clean)
  const target = (change: Partial<Facts['target']>) => ({ ...cockroach, target: { ...cockroach.target, ...change } })
  const server = { ...cockroach.target.server, isLikeServer: true }
  const like = { ...target({ server }), settings: { ...cockroach.settings, rehearses: false } }
  const withMolt = (version: string) => {
    const tools = { ...like.machine.tools, molt: { version, sha256: '' } }
    return { ...like, machine: { ...like.machine, tools } } as Facts
  }
  expectFires(withMolt('1.4.1'), 'tgt.cockroach', ['target'], cockroach)
  expect(objectsOf(withMolt('1.4.1 (embedded stand-in)'), 'tgt.cockroach')).toEqual([])
  expect(objectsOf({ ...withMolt('1.4.1'), settings: cockroach.settings }, 'tgt.cockroach')).toEqual([])
  // Even a rehearsal with the stand-in rejects PostgreSQL as the target.
  const plain = { ...like, target: { ...like.target, server: { ...server, isCockroach: false, isLikeServer: false } } }
  expectFires({ ...plain, settings: cockroach.settings }, 'tgt.cockroach', ['target'], cockroach)
  expectFires(asCockroach(clean, 22, 2), 'tgt.version', ['target'])
  expectFires(target({ intSize: '8' }), 'tgt.int-size', ['target'], cockroach)
  const full = changed(cockroach, (copy) => {
    copy.target.tools.settings.disallow_full_table_scans = { value: 'on', byUrl: false }
  })
  expectFires(full, 'tgt.full-scans', [cockroach.target.role.name], cockroach)
  expectFires(target({ gcTtlSeconds: 4_500 }), 'tgt.gc-ttl', [cockroach.target.server.database], cockroach)
  expect(objectsOf(target({ gcTtlSeconds: 14_400 }), 'tgt.gc-ttl')).toEqual([])
  const zone =
    'ALTER RANGE default CONFIGURE ZONE USING\n\trange_min_bytes = 134217728,\n\tgc.ttlseconds = 4500,\n\tnum_replicas = 3'
  expect([retentionOf(zone), retentionOf('')]).toEqual([4_500, null])
  expectFires(target({ jobs: null }), 'tgt.jobs-unseen', ['target'], cockroach)
  expectFires(
    target({ sight: { activity: true, jobs: false, settings: true } }),
    'tgt.jobs-unseen',
    ['target'],
    cockroach,
  )
  const role = (change: Partial<Facts['target']['role']>) =>
    ({ admin: false, system: [], ...change }) as Partial<Facts['target']['role']>
  const on = (minor: number, change: Partial<Facts['target']['role']>, settings: Partial<Settings> = {}) =>
    changed(asCockroach(clean, minor === 3 ? 24 : 25, minor), (copy) => {
      Object.assign(copy.target.role, role(change))
      Object.assign(copy.settings, settings)
    })
  const { name } = clean.target.role
  expectFires(on(3, {}), 'right.target-control-job', [name], on(3, { system: ['CONTROLJOB'] }))
  expect(objectsOf(on(1, {}), 'right.target-control-job')).toEqual([])
  expect(objectsOf(on(3, {}, { mode: 'use-copy' }), 'right.target-control-job')).toEqual([])
  const http = { implicitAccess: 'the files are read over HTTP' }
  const granted = on(1, { system: ['EXTERNALIOIMPLICITACCESS'] }, http)
  expectFires(on(1, {}, http), 'right.target-implicit-access', [name], granted)
  expect(objectsOf(on(1, {}), 'right.target-implicit-access')).toEqual([])
  for (const mode of ['use-copy', 'direct-copy'] as const)
    expectFires(on(1, {}, { mode }), 'right.target-copy', [name], on(1, { admin: true }, { mode }))
  expect(objectsOf(on(1, {}, { mode: 'import' }), 'right.target-copy')).toEqual([])
  expect(targetGrants(on(3, {}), 'mig')).toContain('GRANT SYSTEM CONTROLJOB TO "mig";')
  expect(targetGrants(on(1, {}), 'mig')).not.toContain('CONTROLJOB')
  const job = { id: '77', type: 'CHANGEFEED', status: 'running', description: 'CREATE CHANGEFEED', owner: 'cdc' }
  expectFires(target({ jobs: [job] }), 'tgt.job', ['job 77'], cockroach)
  const imports = { ...job, type: 'IMPORT', description: "IMPORT INTO orders(id) CSV DATA ('s3://bucket/key')" }
  const [importing] = runChecks(
    CHECKS.filter((check) => check.id === 'tgt.job'),
    target({ jobs: [imports] }),
  )
  expect(importing?.what).toContain('IMPORT INTO orders(id) …')
  const held = { id: '78', table: 'public.orders', status: 'running', owner: 'mig', fraction: 0, ours: false }
  const gone = changed(cockroach, (copy) => {
    copy.target.schema.tables = copy.target.schema.tables.filter(({ name }) => name !== 'orders')
    copy.target.offline = [{ table: 'public.orders', job: held }]
  })
  expectFires(gone, 'tgt.offline', ['public.orders'], cockroach)
  expect(objectsOf(gone, 'tgt.table')).toEqual([])
  const building = changed(clean, (copy) => {
    copy.settings.defer.indexes = true
    copy.target.schema.indexes.push({
      ...(copy.target.schema.indexes[0] as (typeof copy.target.schema.indexes)[number]),
      ...{ table: 'orders', name: 'building', primary: false, definition: '' },
    })
  })
  expectFires(building, 'tgt.definition', ['target'])
  const ttl = (options: string[]) => target({ relations: clean.target.relations.map((each) => ({ ...each, options })) })
  expectFires(ttl(["ttl='on'", "ttl_job_cron='@daily'"]), 'tgt.ttl', ['public.orders'])
  expect(objectsOf(ttl(["ttl='on'", 'ttl_pause=true']), 'tgt.ttl')).toEqual([])
})

it('finds a load that does not fit into memory', () => {
  const settings = (change: Partial<Settings>) => ({ ...clean, settings: { ...clean.settings, ...change } })
  const small = (memoryBytes: number) => ({ ...clean, machine: { ...clean.machine, memoryBytes } })
  expectFires(small(1024), 'load.memory', ['public.orders'])
  const [found] = runChecks(
    CHECKS.filter((check) => check.id === 'load.memory'),
    small(1024),
  )
  expect(found?.what).toContain('1,000 rows per batch × 2 readers × 2 tables')
  expectFires(small(50_000), 'load.memory-tight', ['public.orders'])
  expectFires(settings({ loadRate: 1 }), 'load.time', ['source'])
  expectFires(
    settings({ loadRate: 1, sessionLimit: 60_000 }),
    'load.session',
    ['source'],
    settings({ sessionLimit: 60_000 }),
  )
})

it('checks the network path to both databases, and the tools', () => {
  const machine = (change: Partial<Facts['machine']>) => ({ ...clean, machine: { ...clean.machine, ...change } })
  const urls = (source: string) => machine({ urls: { source: urlFacts(source), target: clean.machine.urls.target } })
  expectFires(urls('postgresql://u:p@db.example.com/shop?sslmode=require'), 'net.tls', ['source'])
  expect(objectsOf(urls('postgresql://u:p@db.example.com/shop?sslmode=verify-full'), 'net.tls')).toEqual([])
  expectFires(urls('postgresql://u:pa^ss@localhost/shop'), 'net.password', ['source'])
  expect(objectsOf(urls('postgresql://u:pa%5Ess!$@localhost/shop'), 'net.password')).toEqual([])
  const ending = changed(clean, (copy) => {
    copy.source.connection.certificateUntil = new Date(Date.now() + 86_400_000)
  })
  expectFires(ending, 'net.certificate', ['source'])
  const bucket = { ...clean, settings: { ...clean.settings, bucketPath: 's3://bucket/x?AWS_SECRET_ACCESS_KEY=hidden' } }
  expectFires(bucket, 'net.bucket', ['target'])
  expect(JSON.stringify(runChecks(CHECKS, bucket))).not.toContain('hidden')
  const with_ = (molt: string) => machine({ tools: tools(molt, '1.3.4') })
  const without = machine({ tools: { molt: null, replicator: null } })
  expectFires(without, 'tool.missing', ['molt', 'replicator'], with_('1.4.1'))
  expectFires(with_('1.4.1'), 'tool.version', ['molt', 'replicator'], without)
  expectFires(with_('1.3.5 (abc)'), 'tool.denied', ['molt'])
})

it('every check fired above, and none fires for databases without problems', () => {
  expect(CHECKS.map((check) => check.id).filter((id) => !fired.has(id))).toEqual([])
  expect(new Set(CHECKS.map((check) => check.id)).size).toBe(CHECKS.length)
})

it('treats `a""b; drop table x` as an ordinary table name', async () => {
  const odd = '"a""b; drop table x"'
  const ddl = `CREATE TABLE x (id uuid PRIMARY KEY); CREATE TABLE ${odd} (id uuid PRIMARY KEY, "c;'d" int[], "e\\f" date)`
  const urls: World = await world(pair, [ddl, `ALTER TABLE ${odd} REPLICA IDENTITY FULL`], ddl)
  const facts = await factsOf(urls)
  expect(objectsOf(facts, 'tbl.replica-identity')).toEqual(['public.a"b; drop table x'])
  expect(objectsOf(facts, 'tbl.odd-name')).toEqual(['public.a"b; drop table x'])
  const [found] = runChecks(
    CHECKS.filter((check) => check.id === 'tbl.replica-identity'),
    facts,
  )
  expect(found?.fix).toContain(`ALTER TABLE "public".${odd} REPLICA IDENTITY DEFAULT`)
  await query(urls.source, found?.fix as string)
  expect(objectsOf(await factsOf(urls), 'tbl.replica-identity')).toEqual([])
  expect(objectsOf(facts, 'tbl.filter')).toEqual([])
  expect(facts.source.samples.tables).toBe(1)
  expect((await factsOf(urls)).source.schema.tables.map((table) => table.name)).toEqual(['a"b; drop table x', 'x'])
})

it('ignores columns that CockroachDB adds itself', async () => {
  const urls = await world(
    pair,
    'CREATE TABLE placed (id int PRIMARY KEY, n int)',
    `CREATE TABLE placed (id int, n int, crdb_internal_id_shard_16 int, crdb_region text, rowid bigint,
       PRIMARY KEY (crdb_internal_id_shard_16, id),
       CONSTRAINT check_crdb_internal_id_shard_16 CHECK (crdb_internal_id_shard_16 IN (0, 1)))`,
  )
  const facts = asCockroach(await factsOf(urls))
  for (const id of ['tgt.column-extra', 'tgt.key', 'tgt.check', 'tgt.not-null'])
    expect(objectsOf(facts, id)).toEqual([])
  expect(Object.keys(fingerprint(facts.target.schema, ['placed'])).join()).not.toMatch(/shard|region|rowid/)
})

it('shows the verdict first, then blocking, waived and other findings, and escapes names', async () => {
  const rows = Array.from({ length: 12 }, (_, n) => `CREATE TABLE "p|${n}<b>" (at timestamptz)`).join(';')
  const facts = await factsOf(await world(pair, [CLEAN, rows], CLEAN_TARGET))
  const findings = runChecks(CHECKS, facts, [
    { check: 'tgt.table', object: '*' },
    { check: 'tbl.no-key', object: 'p|0<b>' },
  ])
  const text = summaryOf(facts, findings, 'f'.repeat(64))
  const order = [
    '### ⛔ Preflight: 24 findings block',
    '1 waived',
    '#### ⛔ Blocked (24)',
    '#### 🖊 Waived (1)',
    '#### ⚠️ Warnings',
  ]
  const at = order.map((each) => text.indexOf(each))
  expect(order.filter((_, index) => (at[index] as number) < 0)).toEqual([])
  expect([...at].sort((a, b) => a - b)).toEqual(at)
  expect(text).toContain(
    '| public.p\\|1&lt;b> has no primary key | `` Add a primary key to "public"."p\\|1<b>" on both sides, or leave it out with `exclude-tables`. `` |',
  )
  expect(text).toContain('| and 1 more | All are in preflight.json. |')
  expect(text).toContain('| public.p\\|0&lt;b> has no primary key | `tbl.no-key=p\\|0<b>` |')
  // GitHub renders the table only if every row has exactly two cells.
  for (const line of text.split('\n').filter((each) => each.startsWith('|')))
    expect(line.replaceAll('\\|', '').split('|'), line).toHaveLength(4)
})

it('runs at most 20 catalog queries per side, and neither changes anything nor could', async () => {
  // A foreign key from another schema, a heartbeat, a fence, pg_stat_statements and an enum each need an extra query.
  const full = [
    'CREATE EXTENSION pg_stat_statements; CREATE TYPE mood AS ENUM ();',
    CLEAN,
    ...Array.from({ length: 30 }, (_, n) => `CREATE TABLE t${n} (id serial PRIMARY KEY, a mood, b int DEFAULT 1)`),
    'CREATE SCHEMA far; CREATE TABLE far.away (id int PRIMARY KEY, order_id uuid REFERENCES orders)',
    'CREATE SCHEMA molt_actions',
    'CREATE TABLE molt_actions.molt_actions_heartbeat (id int PRIMARY KEY, migration text, source_id text)',
    'CREATE SEQUENCE molt_actions.fence_lease MINVALUE 1',
    "CREATE SCHEMA molt_actions_mask; CREATE TABLE molt_actions_mask.run AS SELECT 'proved' AS state",
  ]
  const urls = await world(pair, full)
  const asked = { source: [] as string[], target: [] as string[] }
  const original = pg.Client.prototype.query
  pg.Client.prototype.query = function (this: pg.Client & { port: number }, ...given: unknown[]) {
    const text = typeof given[0] === 'string' ? given[0] : (given[0] as { text: string }).text
    asked[this.port === pair.source.port ? 'source' : 'target'].push(text)
    return (original as (...args: unknown[]) => unknown).apply(this, given)
  } as typeof original
  try {
    await factsOf(urls)
  } finally {
    pg.Client.prototype.query = original
  }
  // Queries that do not read the catalogs: session settings, the server process, snapshots, and samples of the data.
  const other =
    /^(SET|SHOW|BEGIN|ROLLBACK)\b|pg_backend_pid\(\) AS pid|pg_export_snapshot|\(SELECT .* LIMIT \d+\) few$|AS at WHERE|pg_settings\s+WHERE (lower\()?name/
  const catalog = (side: keyof typeof asked) => asked[side].filter((text) => !other.test(text))
  expect(catalog('source')).toHaveLength(19)
  // On CockroachDB, there are more: the admin role, jobs, settings and the zone configuration.
  expect(catalog('target')).toHaveLength(16)
  // Only functions that CockroachDB documents. The server also has undocumented ones, such as pg_get_expr.
  const target = catalog('target').join(' ')
  // The pattern skips SQL keywords, which are upper case here, and single letters, which name columns of a VALUES list.
  const functions = new Set([...target.matchAll(/\b([a-z_]{2,})\(/g)].map(([, name]) => name))
  expect([...functions].sort()).toEqual([
    ...['bool_or', 'coalesce', 'current_database', 'format_type', 'has_database_privilege', 'has_schema_privilege'],
    ...[
      'has_sequence_privilege',
      'has_table_privilege',
      'json_agg',
      'lower',
      'pg_get_constraintdef',
      'pg_has_role',
      'version',
    ],
  ])
  const catalogs = new Set([...target.matchAll(/\b(?:pg_catalog|information_schema)\.(\w+)/g)].map(([, name]) => name))
  expect([...catalogs].sort()).toEqual([
    ...[
      'applicable_roles',
      'check_constraints',
      'columns',
      'constraint_column_usage',
      'format_type',
      'key_column_usage',
      'pg_am',
      'pg_attribute',
      'pg_auth_members',
      'pg_class',
      'pg_constraint',
    ],
    ...[
      'pg_depend',
      'pg_enum',
      'pg_get_constraintdef',
      'pg_index',
      'pg_indexes',
      'pg_namespace',
      'pg_rewrite',
      'pg_roles',
      'pg_sequences',
    ],
    ...['pg_tables', 'pg_trigger', 'referential_constraints'],
    'table_privileges',
    'tables',
  ])
  for (const text of Object.values(asked).flat())
    expect(text).not.toMatch(/^\s*(create|alter|drop|insert|update|delete|truncate|grant)\b/i)
  const db = await connect(urls.source, 'source')
  try {
    await db.query('SET default_transaction_read_only = on')
    await expect(db.query('CREATE TABLE x ()')).rejects.toThrow('read-only')
  } finally {
    await db.end()
  }
})
