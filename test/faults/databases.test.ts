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
import { connect, connectForReplication, READ_ONLY } from '../../src/runtime/database.ts'
import { factsOf, objectsOf, query, type World, world } from '../contract/checks-helpers.ts'
import { REPO, words } from '../support/migration.ts'

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

/** A source, and a target that answers like CockroachDB. */
async function migration(source: string | string[] = TABLE, target = source): Promise<World> {
  return world({ source: pair.source, target: seenThrough(cluster, pair.target) }, source, target)
}

const nameOf = (url: string) => new URL(url).pathname.slice(1)

/** `ALTER DATABASE … SET` on the PostgreSQL that holds it. */
async function alter(side: 'source' | 'target', { source }: World, ...settings: string[]): Promise<void> {
  for (const setting of settings)
    await query(pair[side].urlOf('postgres'), `ALTER DATABASE ${nameOf(source)} SET ${setting}`)
}

describe('session settings of a role, a database or a server', () => {
  it('do not reach our own sessions', async () => {
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
      // What the user's own options say comes before ours.
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

  it('are findings of `prepare` where the tools inherit them', async () => {
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

/** A PgBouncer in front of the source, as the Debian package installs it; undefined where there is none. */
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

describe('a server that refuses', () => {
  const prepare = ({ source, target }: World, inputs: Record<string, string> = {}) =>
    runAction({
      dir: join(REPO, 'actions/prepare'),
      repo: REPO,
      workDir: mkdtempSync(join(folder, 'prepare-')),
      inputs: { source, target, 'allow-insecure': 'true', 'rehearsal-target': 'true', ...inputs },
    })
  const outcome = async (urls: World, inputs = {}) => {
    const result = await prepare(urls, inputs)
    const log = words(result)
    expect(log).not.toContain('This is a bug')
    const made = await query(urls.target, "SELECT nspname FROM pg_namespace WHERE nspname = 'molt_actions'")
    return { code: result.outputs['error-code'], made: made.length, log }
  }

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
  ] as const)('in %s mode is refused before anything is changed (%s)', async (mode, more) => {
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
      // Both server sessions of the pool, which the application shares.
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
