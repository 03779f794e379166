import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type CockroachServer, seenThrough, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type EmbeddedPair, startPair } from '../../rehearsal/postgres/postgres.ts'
import { runAction } from '../../rehearsal/runner/runner.ts'
import {
  DEFERRED_KINDS,
  type Deferred,
  deferObjects,
  deferralProblems,
  plannedDeferral,
  rebuildDeferred,
  validateDeferred,
} from '../../src/destination/deferral.ts'
import { trialSchema, tryDefinitions } from '../../src/destination/trial.ts'
import { createLedger } from '../../src/ledger/ledger.ts'
import { sequenceProblems } from '../../src/model/structure.ts'
import { awaitOldWriters } from '../../src/phases/cutover/held-fence.ts'
import { writersOnPostgres } from '../../src/phases/stream/watch.ts'
import { connect, connectForReplication, READ_ONLY } from '../../src/runtime/database.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import { installFence } from '../../src/source/fence.ts'
import { readSchema } from '../../src/sql/schema.ts'
import { setSequences } from '../../src/sql/sequences.ts'
import { readSequenceStates } from '../../src/sql/structure.ts'
import { readTables } from '../../src/sql/tables.ts'
import { factsOf, objectsOf, query, type World, world } from '../contract/checks-helpers.ts'
import { inProcess } from '../support/in-process.ts'
import { REPO, words } from '../support/migration.ts'
import { stoppedChild } from '../support/stopped.ts'

const TABLE = 'CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz, note text)'

let pair: EmbeddedPair
let cluster: CockroachServer
let folder: string

beforeAll(async () => {
  pair = await startPair()
  cluster = await startCockroach(pair.target)
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-databases-'))
})

afterAll(async () => {
  await cluster?.stop()
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

/** Creates databases for a migration from `source` to a CockroachDB-like target. */
async function migration(source: string | string[] = TABLE, target = source): Promise<World> {
  return world({ source: pair.source, target: seenThrough(cluster, pair.target) }, source, target)
}

const nameOf = (url: string) => new URL(url).pathname.slice(1)

/** Runs `ALTER DATABASE … SET` directly on the PostgreSQL server. */
async function alter(side: 'source' | 'target', { source }: World, ...settings: string[]): Promise<void> {
  for (const setting of settings)
    await query(pair[side].urlOf('postgres'), `ALTER DATABASE ${nameOf(source)} SET ${setting}`)
}

describe('session settings from a role, a database or a server', () => {
  it("do not affect the suite's own sessions", async () => {
    const urls = await migration()
    await alter(
      'source',
      urls,
      "datestyle = 'German, DMY'",
      "intervalstyle = 'sql_standard'",
      "timezone = 'Asia/Kolkata'",
      'default_transaction_read_only = on',
      'quote_all_identifiers = on',
      "search_path = ''",
      "bytea_output = 'escape'",
      'extra_float_digits = -15',
      'statement_timeout = 1',
      'lock_timeout = 1',
      'idle_session_timeout = 60000',
      'idle_in_transaction_session_timeout = 1',
      'transform_null_equals = on',
      "default_transaction_isolation = 'serializable'",
    )
    await alter('target', urls, "datestyle = 'SQL, DMY'", 'default_transaction_read_only = on', "search_path = ''")
    for (const open of [
      () => connect(urls.source, 'source'),
      () => connect(urls.target, 'target'),
      () => connectForReplication(urls.source, 'test'),
      // The URL's own options come before the suite's options.
      () => connect(`${urls.source}&options=-c%20datestyle%3DGerman%20-c%20statement_timeout%3D1`, 'source'),
    ]) {
      const db = await open()
      try {
        await sleep(20)
        const { rows } = await db.query(
          `SELECT '2026-02-01 10:00:00.5+00'::timestamptz::text AS at, '1 day 2 hours'::interval::text AS span,
                  'a'::bytea::text AS raw, 0.1::float8::text AS real, current_schema()::text AS schema`,
        )
        expect(rows).toEqual([
          { at: '2026-02-01 10:00:00.5+00', span: '1 day 02:00:00', raw: '\\x61', real: '0.1', schema: 'public' },
        ])
        expect((await db.query('SELECT now() AS now')).rows[0].now).toBeInstanceOf(Date)
        expect((await db.query('SHOW idle_session_timeout')).rows[0].idle_session_timeout).toBe('0')
        await db.query('CREATE TABLE made (id bigint PRIMARY KEY)')
        await db.query('DROP TABLE made')
      } finally {
        await db.end()
      }
    }
    const looking = await connect(urls.target, 'target', undefined, undefined, { settings: READ_ONLY })
    await expect(looking.query('INSERT INTO orders VALUES (1)')).rejects.toMatchObject({ code: '25006' })
    await looking.end()
  })

  it('are reported by `prepare` if the tools inherit them', async () => {
    const urls = await migration()
    const quiet = await factsOf(urls)
    const checks = ['session-settings', 'read-only', 'session-timeouts', 'search-path']
    for (const each of checks)
      for (const prefix of ['src', 'tgt']) expect(objectsOf(quiet, `${prefix}.${each}`), each).toEqual([])
    for (const side of ['source', 'target'] as const)
      await alter(
        side,
        urls,
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'iso_8601'",
        "bytea_output = 'escape'",
        'extra_float_digits = 0',
        'standard_conforming_strings = off',
        "client_encoding = 'LATIN1'",
        "timezone = 'Europe/Amsterdam'",
        'default_transaction_read_only = on',
        'idle_session_timeout = 60000',
        'lock_timeout = 5000',
        "search_path = ''",
      )
    const facts = await factsOf(urls)
    for (const prefix of ['src', 'tgt']) {
      expect(objectsOf(facts, `${prefix}.session-settings`).length).toBeGreaterThanOrEqual(5)
      expect(objectsOf(facts, `${prefix}.time-zone`)).toEqual(['postgres'])
      expect(objectsOf(facts, `${prefix}.read-only`)).toEqual(['postgres'])
      expect(objectsOf(facts, `${prefix}.session-timeouts`)).toEqual(['postgres', 'postgres'])
      expect(objectsOf(facts, `${prefix}.search-path`)).toEqual(['postgres'])
    }
  })
})

/** Starts PgBouncer from the Debian package in front of the source; undefined if it is not installed. */
async function startBouncer(port: number, mode: 'transaction' | 'session', more: string) {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-bouncer-'))
  chmodSync(folder, 0o777)
  const own = await freePort()
  const file = join(folder, 'pgbouncer.ini')
  writeFileSync(
    file,
    `[databases]\n* = host=127.0.0.1 port=${port} user=postgres password=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1
listen_port=${own}\nauth_type=any\nunix_socket_dir=\npool_mode=${mode}\ndefault_pool_size=2\n${more}\n`,
  )
  const child = spawn('pgbouncer', [...(process.getuid?.() === 0 ? ['-u', 'nobody'] : []), file], { stdio: 'ignore' })
  const stop = () => {
    child.kill()
    rmSync(folder, { recursive: true, force: true })
  }
  for (const end = Date.now() + 10_000; ; await sleep(50)) {
    const client = new pg.Client({ host: '127.0.0.1', port: own, user: 'postgres', database: 'postgres' })
    const up = await client.connect().then(
      () => client.end().then(() => true),
      () => false,
    )
    if (up) return { stop, url: (url: string) => url.replace(/:\d+\//, `:${own}/`) }
    if (Date.now() > end) throw new Error('pgbouncer does not start')
  }
}

function freePort(): Promise<number> {
  return new Promise((done) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => done(port))
    })
  })
}

const IGNORED = 'ignore_startup_parameters=options,extra_float_digits'

describe('sequences', () => {
  /** Sets the target's sequences like a cutover, and returns sequence → next value on the target. */
  async function carried(urls: World, tables: string[]) {
    const [source, target] = [await connect(urls.source, 'source'), await connect(urls.target, 'target')]
    try {
      const sides = [
        { db: source, schema: 'public' },
        { db: target, schema: 'public' },
      ] as const
      const { set, problems } = await setSequences(...sides, tables, 1000n)
      const states = await readSequenceStates(...sides, tables)
      return { problems: [...problems, ...sequenceProblems(states)], set }
    } finally {
      await Promise.all([source.end(), target.end()])
    }
  }
  const next = async (urls: World, name: string) =>
    Number((await query(urls.target, `SELECT nextval('${name}') AS value`))[0]?.value)

  it("a cycled sequence continues from the source's value, not from its end", async () => {
    const ddl = `CREATE SEQUENCE ticket MINVALUE 1 MAXVALUE 100000 CYCLE;
      CREATE TABLE tickets (id int PRIMARY KEY DEFAULT nextval('ticket')); ALTER SEQUENCE ticket OWNED BY tickets.id`
    const urls = await migration(
      [ddl, 'INSERT INTO tickets VALUES (99990), (100000)', "SELECT setval('ticket', 7)"],
      ddl,
    )
    expect(await carried(urls, ['tickets'])).toMatchObject({ problems: [] })
    expect(await next(urls, 'ticket')).toBe(1008)
  })

  it.each([
    ['set to its next value', 'CREATE SEQUENCE no', "SELECT setval('no', 5001, false)", 5001],
    ['restarted', 'CREATE SEQUENCE no', 'ALTER SEQUENCE no RESTART WITH 5001', 5001],
    ['unused, with a later start', 'CREATE SEQUENCE no START 5001', 'SELECT 1', 5001],
    ['restarted, and counts down', 'CREATE SEQUENCE no INCREMENT -1', 'ALTER SEQUENCE no RESTART WITH -5001', -5001],
  ])('a sequence that is %s continues there', async (_, create, change, first) => {
    const ddl = `${create}; CREATE TABLE invoices (no bigint PRIMARY KEY DEFAULT nextval('no'))`
    const urls = await migration([ddl, `INSERT INTO invoices VALUES (${first - Math.sign(first)})`, change], ddl)
    expect(await carried(urls, ['invoices'])).toMatchObject({ problems: [] })
    expect(Math.abs(await next(urls, 'no'))).toBeGreaterThanOrEqual(Math.abs(first))
  })

  it.each([
    ['smallint', 32_766],
    ['smallint', 32_000],
  ])('an identity column of type %s at %d can still use its last numbers', async (type, used) => {
    const ddl = `CREATE TABLE small (id ${type} PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY)`
    const urls = await migration(
      [ddl, `INSERT INTO small VALUES (${used})`, `SELECT setval('small_id_seq', ${used})`],
      ddl,
    )
    expect(objectsOf(await factsOf(urls), 'tgt.sequence-margin')).toEqual(['public.small_id_seq'])
    expect(objectsOf(await factsOf(urls), 'tgt.sequence-end')).toEqual([])
    expect(await carried(urls, ['small'])).toMatchObject({ problems: [] })
    await query(urls.target, 'INSERT INTO small DEFAULT VALUES')
  })

  it.each([
    ['a sequence that has ended', `CREATE TABLE small (id smallint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY)`, ''],
    [
      'a column that is full before its sequence ends',
      `CREATE TABLE small (id smallint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY)`,
      'ALTER SEQUENCE small_id_seq AS bigint NO MAXVALUE',
    ],
  ])('`prepare` finds %s', async (_, ddl, more) => {
    const urls = await migration(
      [ddl, 'INSERT INTO small VALUES (32767)', "SELECT setval('small_id_seq', 32767)"],
      [ddl, more].filter(Boolean),
    )
    expect(objectsOf(await factsOf(urls), 'tgt.sequence-end')).toEqual(['public.small_id_seq'])
  })

  it('`prepare` finds an increment, direction or cycle that differs from the source', async () => {
    const urls = await migration(
      [
        'CREATE TABLE t (id int PRIMARY KEY)',
        'CREATE SEQUENCE hilo INCREMENT 50',
        'CREATE SEQUENCE down INCREMENT -1',
        'CREATE SEQUENCE round MAXVALUE 10 CYCLE',
        'CREATE SEQUENCE same INCREMENT 5 CACHE 20',
      ],
      [
        'CREATE TABLE t (id int PRIMARY KEY)',
        'CREATE SEQUENCE hilo',
        'CREATE SEQUENCE down',
        'CREATE SEQUENCE round MAXVALUE 10',
        'CREATE SEQUENCE same INCREMENT 5',
      ],
    )
    const facts = await factsOf(urls)
    expect(objectsOf(facts, 'tgt.sequence-definition')).toEqual(['public.down', 'public.hilo', 'public.round'])
  })
})

describe('deferred definitions', () => {
  const TABLES = `CREATE TABLE parents (id int8 PRIMARY KEY, code text, region text, UNIQUE (region, id));
    CREATE TABLE children (id int8 PRIMARY KEY, parent int8, region text, a int8, b int8, note text)`
  const DEFINITIONS = [
    'ALTER TABLE parents ADD CONSTRAINT parents_code UNIQUE NULLS NOT DISTINCT (code) INCLUDE (region)',
    'ALTER TABLE children ADD CONSTRAINT children_ab UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED',
    'ALTER TABLE children ADD CONSTRAINT positive CHECK (a > 0) NO INHERIT',
    'ALTER TABLE children ADD CONSTRAINT later CHECK (b > 0) NOT VALID',
    `ALTER TABLE children ADD CONSTRAINT to_parent FOREIGN KEY (region, parent) REFERENCES parents (region, id)
       ON DELETE SET NULL (parent) DEFERRABLE INITIALLY DEFERRED`,
    'ALTER TABLE children ADD CONSTRAINT to_itself FOREIGN KEY (b) REFERENCES children (id) NOT VALID',
    'CREATE INDEX children_note ON children (lower(note) DESC NULLS LAST) INCLUDE (a) WHERE b IS NOT NULL',
    "COMMENT ON CONSTRAINT positive ON children IS 'it''s positive'",
    "COMMENT ON CONSTRAINT to_parent ON children IS 'parent'",
    "COMMENT ON INDEX children_note IS 'search'",
  ]
  const DUMP = `
    SELECT conname AS name, pg_get_constraintdef(oid) AS definition, convalidated AS valid, obj_description(oid, 'pg_constraint') AS comment
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid, obj_description(indexrelid, 'pg_class')
      FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1, 2`
  const plan = { targetSchema: 'public', tables: ['parents', 'children'] }
  /** Compares only names: the like-server prints definitions in CockroachDB's notation, which varies between calls. */
  const NAMES = `
    SELECT conname AS name, convalidated AS valid FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f')
    UNION ALL SELECT indexrelid::regclass::text, indisunique
      FROM pg_index JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1, 2`
  const EVERYTHING = { indexes: true, constraints: true }

  it("are rebuilt from the server's definition, including comments and NOT VALID", async () => {
    const { target: url } = await world(pair, 'SELECT 1', [TABLES, ...DEFINITIONS])
    const before = await query(url, DUMP)
    const db = await connect(url, 'target')
    try {
      await createLedger(db)
      const { dropped } = await deferObjects(db, 'main', plan, EVERYTHING, false)
      expect(dropped).toBe(8)
      await rebuildDeferred(db, 'main', DEFERRED_KINDS)
      await validateDeferred(db, 'main')
      expect(await deferralProblems(db, 'main')).toEqual([])
      expect(await query(url, DUMP)).toEqual(before)
    } finally {
      await db.end()
    }
  })

  it('are tested on empty copies, so a definition that cannot be rebuilt is found before anything is dropped', async () => {
    const { target: url } = await world(pair, 'SELECT 1', [TABLES, ...DEFINITIONS])
    const before = await query(url, DUMP)
    const db = await connect(url, 'target')
    try {
      await createLedger(db)
      const { objects } = plannedDeferral(await readSchema(db, 'target', 'public'), plan.tables, EVERYTHING, false)
      await tryDefinitions(db, trialSchema(), objects)
      for (const [at, create] of [
        [0, 'CREATE UNIQUE INDEX broken ON public.parents USING btree (gone)'],
        [1, 'ALTER TABLE "public"."children" ADD CONSTRAINT broken CHECK (no_such_function(a)) NOT VALID'],
        [2, 'ALTER TABLE "public"."children" ADD CONSTRAINT broken FOREIGN KEY (a) REFERENCES parents(code) NOT VALID'],
      ] as const) {
        const broken = {
          ...(objects[0] as Deferred),
          table: create.includes('children') ? 'children' : 'parents',
          create,
        }
        await expect(tryDefinitions(db, trialSchema(), [broken]), String(at)).rejects.toMatchObject({
          code: 'deferral.trial-failed',
        })
      }
      expect(await query(url, DUMP)).toEqual(before)
      expect(await query(url, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'molt_actions_trial%'")).toEqual([])
    } finally {
      await db.end()
    }
  })

  it('are tested, dropped and rebuilt on CockroachDB', async () => {
    const simple = [
      TABLES,
      'CREATE UNIQUE INDEX parents_code ON parents (code) STORING (region)',
      'ALTER TABLE children ADD CONSTRAINT positive CHECK (a > 0)',
      'ALTER TABLE children ADD CONSTRAINT later CHECK (b > 0) NOT VALID',
      'ALTER TABLE children ADD CONSTRAINT to_parent FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE',
    ]
    const urls = await migration(TABLES, simple)
    const before = await query(urls.target, NAMES)
    const db = await connect(urls.target, 'target')
    try {
      await createLedger(db)
      const { objects } = plannedDeferral(await readSchema(db, 'target', 'public'), plan.tables, EVERYTHING, true)
      await tryDefinitions(db, trialSchema(), objects)
      await deferObjects(db, 'main', plan, EVERYTHING, true)
      await rebuildDeferred(db, 'main', DEFERRED_KINDS)
      await validateDeferred(db, 'main')
      expect(await query(urls.target, NAMES)).toEqual(before)
    } finally {
      await db.end()
    }
  })
})

it('finds a transaction with a write lock before any write is rejected', async () => {
  const { source } = await world(pair, [TABLE, 'INSERT INTO orders VALUES (1)'], 'SELECT 1')
  const [db, holder] = [await connect(source, 'source'), new pg.Client({ connectionString: source })]
  await holder.connect()
  try {
    const fence = await installFence(db, await readTables(db, 'public'))
    const { signal } = new AbortController()
    await holder.query("BEGIN; UPDATE orders SET note = 'held' WHERE id = 1")
    await expect(awaitOldWriters(db, fence, 200, signal)).rejects.toMatchObject({ code: 'fence.writers-remain' })
    await query(source, 'INSERT INTO orders VALUES (2)')
    const waiting = awaitOldWriters(db, fence, 30_000, signal)
    await sleep(100)
    await holder.query('COMMIT')
    // After a long wait, the cutover checks the stream again, because many rows may have been written.
    expect(await waiting).toBeGreaterThan(90)
  } finally {
    await Promise.all([db.end(), holder.end()])
  }
})

it('does not count a session with only a row lock as a writer', async () => {
  const { target } = await migration([TABLE, "INSERT INTO orders VALUES (1, now(), 'a')"])
  const behind = pair.target.urlOf(nameOf(target))
  const begin = async (application: string, sql: string) => {
    const client = new pg.Client({ connectionString: behind, application_name: application })
    await client.connect()
    await client.query(`BEGIN; ${sql}`)
    return client
  }
  const clients = [
    await begin('locker', 'SELECT id FROM orders FOR UPDATE'),
    await begin('writer', 'UPDATE orders SET note = note WHERE id = -1'),
  ]
  const db = await connect(behind, 'target')
  try {
    expect(await writersOnPostgres(db)).toEqual(['writer (user postgres)'])
  } finally {
    await Promise.all([...clients, db].map((each) => each.end()))
  }
})

it("reports a role's connection limit with its own code, and names the role", async () => {
  const { source } = await migration()
  await query(source, "CREATE ROLE limited LOGIN PASSWORD 'limited' CONNECTION LIMIT 1")
  const url = source.replace('postgres:postgres@', 'limited:limited@')
  const first = await connect(url, 'source')
  try {
    const error = await connect(url, 'source').catch((refused) => refused)
    expect(errorCode(error)).toBe('connect.no-free-slot')
    expect(error.message).toMatch(/role "limited"/)
  } finally {
    await first.end()
    await query(source, 'DROP ROLE limited')
  }
})

describe('the schema of the test rebuild', () => {
  const TRIALS = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'molt_actions_trial%'"
  const run = (name: string, { source, target }: World, inputs = {}, env = {}) =>
    runAction({
      dir: join(REPO, 'actions', name),
      repo: REPO,
      workDir: mkdtempSync(join(folder, `${name}-`)),
      inputs: { source, target, 'allow-insecure': 'true', ...inputs },
      env,
    })
  const PREPARE = { decision: 'rehearse', defer: 'indexes' }

  /** Kills a run of `prepare` during its test rebuild. */
  async function killed(): Promise<World> {
    const urls = await migration(TABLE, [TABLE, 'CREATE INDEX orders_note ON orders (note)'])
    const running = run('prepare', urls, PREPARE, { MOLT_ACTIONS_STOP_AT: 'trial schema made' })
    process.kill(await stoppedChild(running), 'SIGKILL')
    await running
    const [left, ...others] = await query(urls.target, TRIALS)
    expect(others).toEqual([])
    const [entry] = await query(urls.target, "SELECT facts->>'trialSchema' AS trial FROM molt_actions.migrations")
    expect(entry).toEqual({ trial: left?.nspname })
    return urls
  }

  it('is removed by the next `prepare`, which repeats the test and then drops the index', async () => {
    const urls = await killed()
    const again = await run('prepare', urls, PREPARE)
    expect(again.outputs, words(again)).toMatchObject({ phase: 'prepared', deferred: '1' })
    expect(await query(urls.target, TRIALS)).toEqual([])
  })

  it.each(['abort', 'cleanup'])('is removed by `%s`', async (name) => {
    const urls = await killed()
    // A killed `abort` leaves the same state.
    if (name === 'cleanup') await query(urls.target, "UPDATE molt_actions.migrations SET phase = 'aborted'")
    const result = await run(name, urls)
    expect(result.conclusion, words(result)).toBe('success')
    expect(await query(urls.target, TRIALS)).toEqual([])
  })
})

describe('a server that rejects a statement', () => {
  const prepare = ({ source, target }: World, inputs: Record<string, string> = {}) =>
    runAction({
      dir: join(REPO, 'actions/prepare'),
      repo: REPO,
      workDir: mkdtempSync(join(folder, 'prepare-')),
      start: inProcess,
      inputs: { source, target, 'allow-insecure': 'true', decision: 'rehearse', ...inputs },
    })
  const outcome = async (urls: World, inputs = {}) => {
    const result = await prepare(urls, inputs)
    const log = words(result)
    expect(log).not.toContain('This is a bug')
    const made = await query(urls.target, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")
    return { code: result.outputs['error-code'], made: made.length, log }
  }

  it('reports a trigger that discards the heartbeat', async () => {
    const urls = await migration()
    await query(
      urls.source,
      'CREATE SCHEMA molt_actions',
      'CREATE TABLE molt_actions.molt_actions_heartbeat (id int PRIMARY KEY, migration text, source_id text, beat bigint, marker text)',
      `CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$`,
      'CREATE TRIGGER swallow BEFORE INSERT ON molt_actions.molt_actions_heartbeat FOR EACH ROW EXECUTE FUNCTION swallow()',
    )
    expect(await outcome(urls)).toMatchObject({ code: 'heartbeat.missing' })
  })

  it.each(['CREATE FUNCTION', 'CREATE PUBLICATION'])(
    'an event trigger that forbids %s leaves nothing behind',
    async (tag) => {
      const urls = await migration(
        [
          TABLE,
          `CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'ask the DBA'; END $$`,
        ],
        TABLE,
      )
      await query(
        urls.source,
        `CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('${tag}') EXECUTE FUNCTION forbid()`,
      )
      expect(await outcome(urls)).toMatchObject({ code: 'database.refused-by-code', made: 0 })
    },
  )
})

describe.skipIf(!hasBouncer())('PgBouncer', () => {
  it.each([
    ['transaction', IGNORED],
    ['transaction', ''],
    ['session', IGNORED],
    ['session', ''],
  ] as const)('in %s mode is rejected before anything is changed (%s)', async (mode, more) => {
    const urls = await migration()
    const bouncer = await startBouncer(pair.source.port, mode, more)
    const application = new pg.Client({ connectionString: bouncer.url(urls.source) })
    await application.connect()
    try {
      const before = (await application.query(STATE)).rows
      await expect(connect(bouncer.url(urls.source), 'source')).rejects.toMatchObject({ code: 'connect.pooler' })
      await expect(factsOf({ ...urls, source: bouncer.url(urls.source) })).rejects.toMatchObject({
        code: 'connect.pooler',
      })
      // Repeats the check, so that both server connections of the pool are used.
      for (let round = 0; round < 4; round++) {
        expect((await application.query(STATE)).rows).toEqual(before)
        await application.query('BEGIN; DELETE FROM orders; COMMIT')
      }
    } finally {
      await application.end()
      bouncer.stop()
    }
  })
})

const STATE = "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name' ORDER BY 1"

function hasBouncer(): boolean {
  try {
    execFileSync('pgbouncer', ['--version'], { stdio: 'ignore' })
    return true
  } catch {
    console.warn('Tests through PgBouncer are skipped: it is not installed')
    return false
  }
}

describe('unusual shapes', () => {
  it('handles a table with 1,600 columns, 200 schemas, and names of 63 bytes', {
    timeout: 300_000,
  }, async () => {
    const columns = Array.from({ length: 1_599 }, (_, n) => `c${n} int`).join(', ')
    const long = 'ü'.repeat(31)
    const tables = [
      `CREATE TABLE wide (id bigint PRIMARY KEY, ${columns})`,
      `CREATE TABLE "${long}" (id bigint PRIMARY KEY, "${long}" text)`,
    ]
    const elsewhere = `DO $$ BEGIN FOR n IN 1..200 LOOP EXECUTE format('CREATE SCHEMA s%1$s; CREATE TABLE s%1$s.wide (id int PRIMARY KEY)', n); END LOOP; END $$`
    const urls = await migration([...tables, elsewhere], tables)
    const facts = await factsOf(urls)
    expect(facts.source.schema.tables.map(({ name, columns: found }) => [name, found.length])).toEqual([
      ['wide', 1_600],
      [long, 2],
    ])
    expect(objectsOf(facts, 'tbl.namesake')).toEqual(['public.wide'])
    expect(objectsOf(facts, 'tgt.column-missing')).toEqual([])
    expect(objectsOf(facts, 'tgt.table')).toEqual([])
  })
})
