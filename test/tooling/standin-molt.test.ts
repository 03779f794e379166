import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Bench, type Databases, type Finished, until } from '../contract/standin-helpers.ts'

let bench: Bench
beforeAll(async () => {
  bench = await Bench.start()
})
afterAll(() => bench?.stop())

const messages = (run: Finished) => run.events.map((e) => e.message as string)
const event = (run: Finished, message: string) => run.events.find((e) => e.message === message)
/** The tables in `fetch complete`, sorted. */
const loaded = (run: Finished) => [...((event(run, 'fetch complete')?.tables ?? []) as string[])].sort()
const slots = async (db: Databases) =>
  (await db.s.query('SELECT slot_name FROM pg_replication_slots WHERE database = $1', [db.name])).rows.map(
    (r) => r.slot_name,
  )

/** True once the slot waits only for this transaction. */
const SLOT_WAITS_FOR_SECOND = `
  SELECT FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
   WHERE l.locktype = 'transactionid' AND NOT l.granted AND a.query LIKE '%pg_create_logical%'
     AND 1 = (SELECT count(*) FROM pg_locks h WHERE h.locktype = 'transactionid' AND h.granted AND h.pid <> l.pid)`

const TWO_TABLES = `
  CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, at timestamptz);
  CREATE TABLE orders (id bigint PRIMARY KEY, note text)`

describe('molt, the command line', () => {
  it('prints its version', async () => {
    const run = await bench.run('molt', ['--version'])
    expect(run).toMatchObject({ code: 0, stdout: 'molt version 1.4.1 (embedded stand-in)\n' })
  })

  it('refuses an unknown flag, with the usage, on standard error', async () => {
    const run = await bench.run('molt', ['fetch', '--source', 'x', '--target', 'y', '--frobnicate'])
    expect(run.code).toBe(1)
    expect(run.stdout).toBe('')
    expect(run.stderr).toMatch(/^Error: unknown flag: --frobnicate\nUsage:\n {2}molt fetch \[flags\]\n/)
    expect(run.stderr).toMatch(/\nunknown flag: --frobnicate\n$/)
  })

  it('requires source and target', async () => {
    const run = await bench.run('molt', ['verify'])
    expect(run.code).toBe(1)
    expect(run.stderr).toContain('Error: required flag(s) "source", "target" not set')
  })

  it('prints neither password nor URL when it cannot connect or parse', async () => {
    const refused = await bench.run('molt', [
      'fetch',
      '--direct-copy',
      '--metrics-listen-addr',
      '127.0.0.1:0',
      '--source',
      'postgres://u:s3cret@127.0.0.1:1/db',
      '--target',
      'postgres://u:s3cret@127.0.0.1:1/db',
    ])
    expect(refused.code).toBe(1)
    expect(refused.stderr).toContain('Error: error connect: failed to connect to `host=127.0.0.1 user=u database=db`')
    const garbled = await bench.run('molt', [
      'verify',
      '--metrics-listen-addr',
      '127.0.0.1:0',
      '--source',
      'postgres://u:s3c/ret@h/db',
      '--target',
      'postgres://u:100%@h/db',
    ])
    expect(garbled.code).toBe(1)
    expect(refused.stderr + garbled.stderr).not.toMatch(/s3c|100%/)
  })
})

describe('molt fetch', () => {
  it('moves every value unchanged, several tables at once, and reports like the real tool', async () => {
    const db = await bench.databases(`
      CREATE TYPE mood AS ENUM ('sad', 'ok');
      CREATE TABLE "Mixed" ("Id" bigint PRIMARY KEY, "order" text, n numeric, f float8, at timestamptz, ts timestamp,
        j json, b jsonb, tags text[], m mood, raw bytea, u uuid, i interval);
      CREATE TABLE pairs (a int, b text, PRIMARY KEY (a, b));
      CREATE TABLE empty (id int PRIMARY KEY)`)
    await db.s.query(`
      INSERT INTO "Mixed" VALUES
        (1, E'a\\tb\\nc\\\\d ''q'' "é☃', 1.500, 0.1, '2024-03-10 02:30:00.000001+05:30', '0044-01-01 00:00:00 BC',
         '{"z":1,  "a":1.50}', '{"z": 1.50, "a": 1}', ARRAY['', NULL, 'NULL', 'a,b'], 'ok', '\\x00ff', gen_random_uuid(), '1 mon 2 days 03:04:05.5'),
        (2, '', -99999999999999999999.5, 'NaN', 'infinity', NULL, NULL, NULL, '{}', NULL, '', NULL, '-1 days'),
        (3, NULL, 'NaN', 0.3333333333333333, NULL, NULL, 'null', 'null', NULL, 'sad', NULL, NULL, NULL),
        (4, '\\N', 0, 1e-300, NULL, NULL, '""', '""', NULL, NULL, NULL, NULL, NULL);
      INSERT INTO pairs SELECT i, 'k' || i FROM generate_series(1, 5000) i`)
    const run = await bench.fetch(db, '--pglogical-replication-slot-name', `f_${db.name}`)
    expect(run).toMatchObject({ code: 0, stderr: '' })

    const all = `SELECT jsonb_agg(to_jsonb(m.*)::text || j::text ORDER BY "Id")::text AS v FROM "Mixed" m`
    expect((await db.t.query(all)).rows).toEqual((await db.s.query(all)).rows)
    expect((await db.t.query('SELECT count(*)::int AS n FROM pairs')).rows[0].n).toBe(5000)

    expect(messages(run)[0]).toBe('molt version 1.4.1 (embedded stand-in): for rehearsals, PostgreSQL to PostgreSQL')
    expect(event(run, 'found matching table')).toMatchObject({
      source_table: 'public.empty',
      target_table: 'public.empty',
    })
    const started = event(run, 'starting fetch')
    expect(started).toMatchObject({ level: 'info', type: 'summary', num_tables: 3 })
    const done = run.events.at(-1)
    expect(done).toMatchObject({
      message: 'fetch complete',
      type: 'summary',
      num_tables: 3,
      skipped_unmigratable_tables: [],
    })
    expect(loaded(run)).toEqual(['public.Mixed', 'public.empty', 'public.pairs'])
    expect(done?.fetch_id).toMatch(/^[0-9a-f-]{36}$/)
    const slot = (
      await db.s.query('SELECT confirmed_flush_lsn::text AS at FROM pg_replication_slots WHERE slot_name = $1', [
        `f_${db.name}`,
      ])
    ).rows[0]
    expect([started?.cdc_cursor, done?.cdc_cursor]).toEqual([slot.at, slot.at])
    const rows = run.events.filter((e) => e.message === 'data extraction from source complete')
    expect(rows.map((e) => [e.table, e.num_rows]).sort()).toEqual([
      ['public.Mixed', 4],
      ['public.empty', 0],
      ['public.pairs', 5000],
    ])
    expect(rows[0]).toHaveProperty('export_duration_ms')
    expect(messages(run).filter((m) => m === 'data import on target for table complete')).toHaveLength(3)
  })

  it('reads every table in one snapshot that it takes after creating the slot', async () => {
    const db = await bench.databases('CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)')
    let stop = false
    const writer = (async () => {
      for (let i = 1; !stop; i++)
        await db.s.query(`BEGIN; INSERT INTO a VALUES (${i}); INSERT INTO b VALUES (${i}); COMMIT`)
    })()
    const run = await bench.fetch(db, '--pglogical-replication-slot-name', `f_${db.name}`, '--table-concurrency', '1')
    stop = true
    await writer
    expect(run.code).toBe(0)
    const { rows } = await db.t.query('SELECT (SELECT count(*) FROM a)::int AS a, (SELECT count(*) FROM b)::int AS b')
    expect(rows[0].a).toBeGreaterThan(0)
    expect(rows[0].a).toBe(rows[0].b)
  })

  it('misses a commit that waits for a standby while the slot is created, like the real tool', async () => {
    const db = await bench.databases('CREATE TABLE t (id int PRIMARY KEY)')
    const [first, second, waiting] = await Promise.all([0, 1, 2].map(() => bench.client(db.source)))
    const begin = 'BEGIN; SET LOCAL synchronous_commit = local; INSERT INTO t VALUES'
    await db.s.query('SET synchronous_commit = local')
    await db.s.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await db.s.query('CREATE PUBLICATION p FOR TABLE t; SELECT pg_reload_conf()')
    const waits = (event: string) => async () =>
      (await db.s.query('SELECT 1 FROM pg_stat_activity WHERE wait_event = $1', [event])).rowCount === 1
    try {
      // The slot is created in two steps, and each waits for a transaction.
      await first?.query(`${begin} (1)`)
      const loading = bench.fetch(db, '--schema-filter', 'public', '--pglogical-replication-slot-name', `s_${db.name}`)
      await until(waits('transactionid'))
      await second?.query(`${begin} (2)`)
      await first?.query('COMMIT')
      await until(async () => (await db.s.query(SLOT_WAITS_FOR_SECOND)).rowCount === 1)
      const inserted = waiting?.query('INSERT INTO t VALUES (3)')
      await until(waits('SyncRep'))
      await second?.query('COMMIT')
      expect((await loading).code).toBe(0)
      await db.s.query("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
      await inserted
    } finally {
      await db.s.query('ALTER SYSTEM RESET synchronous_standby_names')
      await db.s.query('SELECT pg_reload_conf()')
    }
    expect((await db.s.query('SELECT array_agg(id ORDER BY id) AS ids FROM t')).rows[0].ids).toEqual([1, 2, 3])
    expect((await db.t.query('SELECT array_agg(id ORDER BY id) AS ids FROM t')).rows[0].ids).toEqual([1, 2])
    const changes = `SELECT 1 FROM pg_logical_slot_get_binary_changes('s_${db.name}', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')`
    expect((await db.s.query(changes)).rowCount).toBe(0)
  })

  it('reports fetch complete and exits with 0 although tables and columns were skipped', async () => {
    const db = await bench.databases(TWO_TABLES)
    await db.s.query(`
      CREATE TABLE only_source (id int PRIMARY KEY);
      ALTER TABLE customers ADD COLUMN extra text, ADD COLUMN kind int;
      INSERT INTO customers VALUES (1, 'one', now(), 'x', 7);
      INSERT INTO orders VALUES (1, 'x')`)
    await db.t.query(`
      CREATE TABLE only_target (id int PRIMARY KEY);
      ALTER TABLE customers ADD COLUMN kind uuid;
      ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, note)`)
    const run = await bench.fetch(db)
    expect(run.code).toBe(0)
    expect(run.events).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        message: 'ignoring table as it is missing a definition on the target',
        table: 'public.only_source',
      }),
    )
    expect(run.events).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        message: 'ignoring table as it is missing a definition on the source',
        table: 'public.only_target',
      }),
    )
    expect(run.events).toContainEqual(
      expect.objectContaining({
        level: 'error',
        message: 'table public.orders do not have matching primary keys, cannot migrate',
      }),
    )
    const columns = run.events.filter((e) => e.message === 'not migrating column {public customers} as it mismatches')
    expect(columns.map((e) => e.reason).sort()).toEqual([
      'column type mismatch on kind: int4 vs uuid',
      'missing column extra',
    ])
    expect(loaded(run)).toEqual(['public.customers', 'public.orders'])
    expect((await db.t.query('SELECT id, name, kind FROM customers')).rows).toEqual([
      { id: '1', name: 'one', kind: null },
    ])
    expect((await db.t.query('SELECT * FROM orders')).rows).toEqual([])

    const documented = await bench.run(
      'molt',
      [
        'fetch',
        '--source',
        db.source,
        '--target',
        db.target,
        '--direct-copy',
        '--allow-tls-mode-disable',
        '--non-interactive',
        '--table-filter',
        'orders',
        '--metrics-listen-addr',
        '127.0.0.1:0',
      ],
      { MOLT_STANDIN_FORM: 'doc' },
    )
    expect(event(documented, 'fetch complete')).toMatchObject({
      tables: [],
      skipped_unmigratable_tables: ['public.orders'],
    })
    expect(documented.events).toContainEqual(
      expect.objectContaining({ mismatch_tag: 'primary_key_mismatch', failable_mismatch: true }),
    )
  })

  it('selects tables by unanchored, case-sensitive POSIX expressions, and accepts an empty result', async () => {
    const db = await bench.databases(`${TWO_TABLES}; CREATE TABLE orders_archive (id int PRIMARY KEY)`)
    const tables = async (filter: string) => loaded(await bench.fetch(db, '--table-filter', filter))
    expect(await tables('orders')).toEqual(['public.orders', 'public.orders_archive'])
    expect(await tables('^(orders|customers)$')).toEqual(['public.customers', 'public.orders'])
    expect(await tables('_[[:alpha:]]+$')).toEqual(['public.orders_archive'])
    expect(await tables('Orders')).toEqual([])
    const bad = await bench.fetch(db, '--table-filter', '(')
    expect(bad.code).toBe(1)
    expect(bad.stderr).toContain('Error: error parsing regexp: missing closing ): `(`')
  })

  it('fails if the slot exists, and replaces it on request', async () => {
    const db = await bench.databases(TWO_TABLES)
    const slot = `f_${db.name}`
    expect((await bench.fetch(db, '--pglogical-replication-slot-name', slot)).code).toBe(0)
    const again = await bench.fetch(db, '--pglogical-replication-slot-name', slot)
    expect(again.code).toBe(1)
    expect(again.stderr).toContain(
      `Error: error creating replication slot: ERROR: replication slot "${slot}" already exists (SQLSTATE 42710)`,
    )
    expect(event(again, 'fetch complete')).toBeUndefined()
    expect(
      (await bench.fetch(db, '--pglogical-replication-slot-name', slot, '--pglogical-replication-slot-drop-if-exists'))
        .code,
    ).toBe(0)
    const recreated = await bench.fetch(
      db,
      '--pglogical-replication-slot-name',
      slot,
      '--pglogical-publication-and-slot-drop-and-recreate',
    )
    expect(recreated.code).toBe(0)
    expect(messages(recreated)).toContain('dropping and recreating publication molt_fetch')
    const published = await db.s.query(
      `SELECT tablename FROM pg_publication_tables WHERE pubname = 'molt_fetch' ORDER BY 1`,
    )
    expect(published.rows.map((r) => r.tablename)).toEqual(['customers', 'orders'])
    expect(await slots(db)).toEqual([slot])
  })

  it('fails with an ID to resume from, and keeps the slot, if rows are refused', async () => {
    const db = await bench.databases(TWO_TABLES)
    await db.s.query(`INSERT INTO customers VALUES (1, 'a', NULL)`)
    await db.t.query(`INSERT INTO customers VALUES (1, 'b', NULL)`)
    const run = await bench.fetch(db, '--pglogical-replication-slot-name', `f_${db.name}`)
    expect(run.code).toBe(1)
    expect(run.events.at(-1)).toMatchObject({ message: 'continue from this fetch ID', fetch_id: expect.any(String) })
    expect(run.stderr).toMatch(
      /^Error: .*duplicate key value violates unique constraint "customers_pkey" \(SQLSTATE 23505\)\nUsage:/,
    )
    expect(await slots(db)).toEqual([`f_${db.name}`])
    const truncated = await bench.fetch(db, '--table-handling', 'truncate-if-exists')
    expect(truncated.code).toBe(0)
    expect((await db.t.query('SELECT name FROM customers')).rows).toEqual([{ name: 'a' }])
    const continued = await bench.fetch(db, '--fetch-id', '00000000-0000-0000-0000-000000000000')
    expect(continued.code).toBe(1)
    expect(continued.stderr).toContain('Error: no exception logs that correspond to fetch-id of 00000000')
  })

  it('recreates target tables from the source', async () => {
    const db = await bench.databases(TWO_TABLES)
    await db.s.query(
      `CREATE TABLE third (id int PRIMARY KEY, v varchar(5) NOT NULL); INSERT INTO third VALUES (1, 'x')`,
    )
    const run = await bench.fetch(db, '--table-handling', 'drop-on-target-and-recreate')
    expect(run.code).toBe(0)
    expect((await db.t.query('SELECT * FROM third')).rows).toEqual([{ id: 1, v: 'x' }])
  })

  it('asks before it clears tokens, and treats a missing answer as no', async () => {
    const db = await bench.databases(TWO_TABLES)
    const args = [
      'fetch',
      '--source',
      db.source,
      '--target',
      db.target,
      '--allow-tls-mode-disable',
      '--direct-copy',
      '--metrics-listen-addr',
      '127.0.0.1:0',
    ]
    const silent = await bench.run('molt', args)
    expect(silent.code).toBe(1)
    expect(silent.stdout).toContain('Clearing all continuation tokens. Confirm (y/n)?\n')
    expect(silent.stderr).toContain('Error: clearing continuation tokens was not confirmed, exiting early')
    expect((await bench.run('molt', args, {}, 'y\n')).code).toBe(0)
  })

  it('refuses sslmode=disable, compression with copy, and a missing store', async () => {
    const db = await bench.databases(TWO_TABLES)
    const base = [
      'fetch',
      '--source',
      db.source,
      '--target',
      db.target,
      '--non-interactive',
      '--metrics-listen-addr',
      '127.0.0.1:0',
    ]
    const insecure = await bench.run('molt', [...base, '--direct-copy'])
    expect(insecure.code).toBe(1)
    expect(insecure.stderr).toContain('--allow-tls-mode-disable')
    const storeless = await bench.run('molt', [...base, '--allow-tls-mode-disable'])
    expect(storeless.stderr).toContain(
      'Error: data source must be configured (--bucket-path, --direct-copy, --local-path)',
    )
    const squeezed = await bench.run('molt', [
      ...base,
      '--allow-tls-mode-disable',
      '--direct-copy',
      '--compression',
      'gzip',
    ])
    expect(squeezed.stderr).toContain('Error: cannot run copy mode with compression')
    expect([storeless.code, squeezed.code]).toEqual([1, 1])
  })

  it('serves metrics while it runs, and continues without them if their port is taken', async () => {
    const db = await bench.databases(TWO_TABLES)
    const busy = createServer()
    await new Promise<void>((resolve) => busy.listen(0, '127.0.0.1', resolve))
    const address = `127.0.0.1:${(busy.address() as AddressInfo).port}`
    const run = await bench.fetch(db, '--metrics-listen-addr', address)
    await new Promise((resolve) => busy.close(resolve))
    expect(run.code).toBe(0)
    expect(event(run, 'error exposing metrics endpoints')).toMatchObject({
      level: 'error',
      error: `listen tcp ${address}: bind: address already in use`,
    })

    await db.s.query(`INSERT INTO customers VALUES (1, 'a', NULL)`)
    await db.t.query('BEGIN; LOCK TABLE customers')
    const running = bench.fetch(db, '--metrics-listen-addr', address)
    const metrics = await until(async () => {
      const text = await fetch(`http://${address}/metrics`).then(
        (r) => r.text(),
        () => '',
      )
      return (
        text.includes('molt_fetch_num_tables 2') &&
        text.includes('molt_fetch_rows_exported{table="public.customers"}') &&
        text
      )
    })
    expect(metrics).toMatch(/^molt_fetch_num_task_errors 0$/m)
    expect(metrics).toMatch(/^molt_fetch_rows_imported\{table="public.customers"\} 0$/m)
    await db.t.query('COMMIT')
    expect((await running).code).toBe(0)
  })

  it('reads passwords from a password file, and other settings from a service file', async () => {
    const db = await bench.databases(TWO_TABLES)
    // The test servers do not require a password for `postgres`.
    for (const side of [db.s, db.t]) await side.query("CREATE ROLE reader SUPERUSER LOGIN PASSWORD 'postgres'")
    const [source, target] = [new URL(db.source), new URL(db.target)]
    const line = (url: URL, password: string) => `127.0.0.1:${url.port}:*:reader:${password}\n`
    await writeFile(bench.file('pgpass'), line(source, 'postgres') + line(target, 'postgres'))
    await writeFile(bench.file('wrong'), line(source, 'nope') + line(target, 'nope'))
    await writeFile(
      bench.file('services'),
      `[s]\nhost=127.0.0.1\nport=${source.port}\nuser=reader\ndbname=${db.name}\n`,
    )
    const args = [
      'verify',
      '--source',
      'postgres:///?service=s',
      '--target',
      `postgres://reader@127.0.0.1:${target.port}/${db.name}`,
      '--metrics-listen-addr',
      '127.0.0.1:0',
    ]
    const env = { PGPASSFILE: bench.file('pgpass'), PGSERVICEFILE: bench.file('services') }
    expect(await bench.run('molt', args, env)).toMatchObject({ code: 0, stderr: '' })
    const wrong = await bench.run('molt', args, { ...env, PGPASSFILE: bench.file('wrong') })
    expect(wrong.code).toBe(1)
    expect(wrong.stderr).toContain('password authentication failed for user "reader" (SQLSTATE 28P01)')
  })
})

describe('molt verify', () => {
  it('counts and prints every bad row with key and values, and exits with 0', async () => {
    const db = await bench.databases(`CREATE TABLE "Odd" (k text, n int, v text, at timestamptz, PRIMARY KEY (k, n))`)
    for (const client of [db.s, db.t])
      await client.query(
        `INSERT INTO "Odd" SELECT chr(64 + i), i, 'v' || i, '2024-01-01 00:00:00.000001Z' FROM generate_series(1, 20) i`,
      )
    await db.t.query(`
      DELETE FROM "Odd" WHERE n IN (2, 20);
      INSERT INTO "Odd" VALUES ('A', 0, 'x', NULL), (E'A\\tb', 1, 'x', NULL), ('zz', 99, 'x', NULL);
      UPDATE "Odd" SET at = '2024-01-01 00:00:00.000002Z' WHERE n = 3;
      UPDATE "Odd" SET v = '' WHERE n = 4; UPDATE "Odd" SET v = NULL WHERE n = 5`)
    await db.s.query(`UPDATE "Odd" SET v = NULL WHERE n = 4; UPDATE "Odd" SET v = '' WHERE n = 5`)
    const run = await bench.verify(db)
    expect(run.code).toBe(0)
    expect(messages(run)).toContain('starting verify on public.Odd, shard 1/1')
    const bad = (message: string) => run.events.filter((e) => e.message === message)
    expect(bad('missing row').map((e) => e.primary_key)).toEqual([
      ['B', '2'],
      ['T', '20'],
    ])
    expect(bad('extraneous row').map((e) => e.primary_key)).toEqual([
      ['A', '0'],
      ['A\tb', '1'],
      ['zz', '99'],
    ])
    expect(
      bad('mismatching row value').map((e) => [e.table_name, e.primary_key, e.source_values, e.target_values]),
    ).toEqual([
      ['Odd', ['C', '3'], { at: '2024-01-01 00:00:00.000001+00' }, { at: '2024-01-01 00:00:00.000002+00' }],
      ['Odd', ['D', '4'], { v: 'NULL' }, { v: '' }],
      ['Odd', ['E', '5'], { v: '' }, { v: 'NULL' }],
    ])
    expect(event(run, 'finished row verification on public.Odd (shard 1/1)')).toMatchObject({
      type: 'summary',
      table_schema: 'public',
      table_name: '"Odd"',
      num_truth_rows: 20,
      num_success: 15,
      num_conditional_success: 0,
      num_missing: 2,
      num_mismatch: 3,
      num_extraneous: 3,
      num_live_retry: 0,
      num_column_mismatch: 0,
    })
    expect(run.events.at(-1)).toMatchObject({ message: 'verification complete', net_duration_ms: expect.any(Number) })
  })

  it('exits with 0 on missing tables, different columns, incomparable keys, or no tables', async () => {
    const db = await bench.databases(`${TWO_TABLES}; CREATE TABLE nokey (id int)`)
    await db.s.query(
      `CREATE TABLE gone (id int PRIMARY KEY); ALTER TABLE customers ADD COLUMN extra text; INSERT INTO customers VALUES (1, 'a', NULL, 'x')`,
    )
    await db.t.query(
      `CREATE TABLE more (id int PRIMARY KEY); ALTER TABLE orders DROP CONSTRAINT orders_pkey; INSERT INTO customers VALUES (1, 'a', NULL)`,
    )
    const run = await bench.verify(db)
    expect(run.code).toBe(0)
    const warned = run.events.filter((e) => e.level === 'warn').map((e) => [e.message, e.table_name, e.mismatch_info])
    expect(warned).toEqual([
      ['missing table detected', 'gone', undefined],
      ['extraneous table detected', 'more', undefined],
      ['mismatching table definition', 'customers', 'missing column extra'],
      ['mismatching table definition', 'nokey', 'missing a PRIMARY KEY - results cannot be compared'],
      [
        'mismatching table definition',
        'orders',
        'PRIMARY KEY does not match source of truth (columns and types must match)',
      ],
      ['skipping unverifiable table public.nokey', undefined, undefined],
      ['skipping unverifiable table public.orders', undefined, undefined],
    ])
    expect(event(run, 'finished row verification on public.customers (shard 1/1)')).toMatchObject({
      num_success: 1,
      num_mismatch: 0,
    })
    const nothing = await bench.verify(db, '--table-filter', 'nothing_like_it')
    expect(nothing.code).toBe(0)
    expect(messages(nothing).slice(1)).toEqual(['verification in progress', 'verification complete'])
  })

  it('treats equivalent types as equal', async () => {
    const db = await bench.databases('SELECT 1')
    await db.s.query(
      `CREATE TABLE t (id int4 PRIMARY KEY, at timestamptz, u varchar, b int2, j json, c char(5)); INSERT INTO t VALUES (1, '2024-01-01 00:00:00.5+00', 'a0c3ee84-b856-4b39-afb8-04863a86335f', 1, '{"a":1}', 'ab')`,
    )
    await db.t.query(
      `CREATE TABLE t (id int8 PRIMARY KEY, at timestamp, u uuid, b bool, j jsonb, c text); INSERT INTO t VALUES (1, '2024-01-01 00:00:00.5', 'a0c3ee84-b856-4b39-afb8-04863a86335f', true, '{"a": 1}', 'ab   ')`,
    )
    const run = await bench.verify(db)
    expect(event(run, 'finished row verification on public.t (shard 1/1)')).toMatchObject({
      num_success: 1,
      num_mismatch: 0,
    })
    expect(run.events.filter((e) => e.level !== 'info')).toEqual([])
  })

  it('compares numbers by value, a real as its exact number, and char(n) with its padding', async () => {
    const db = await bench.databases('SELECT 1')
    await db.s.query(
      `CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), r real, c char(5)); INSERT INTO t VALUES (1, 1.5, 0.5, 'abcde'), (2, 10, 0.1, 'abcde'), (3, 0, 0.5, 'ab')`,
    )
    await db.t.query(
      `CREATE TABLE t (id int PRIMARY KEY, n numeric(9,4), r float8, c text); INSERT INTO t VALUES (1, 1.5, 0.5, 'abcde'), (2, 10, 0.1, 'abcde'), (3, 0, 0.5, 'ab')`,
    )
    const run = await bench.verify(db)
    const apart = run.events.filter((e) => e.message === 'mismatching row value')
    expect(apart.map((e) => [e.primary_key, Object.keys(e.source_values as object)])).toEqual([
      [['2'], ['r']],
      [['3'], ['c']],
    ])
  })

  it('splits a large table into shards that add up, with progress reports, and stays within its time limit', async () => {
    const db = await bench.databases('CREATE TABLE big (id bigint PRIMARY KEY, u uuid, v text)')
    await db.s.query(`INSERT INTO big SELECT i, md5(i::text)::uuid, repeat('x', 60) FROM generate_series(1, 120000) i`)
    expect((await bench.fetch(db)).code).toBe(0)
    await db.t.query('DELETE FROM big WHERE id = 77777; INSERT INTO big VALUES (0), (999999)')
    const run = await bench.verify(db)
    const finished = run.events.filter((e) =>
      String(e.message).startsWith('finished row verification on public.big (shard '),
    )
    expect(finished.map((e) => e.message).sort()).toEqual(
      [1, 2].map((n) => `finished row verification on public.big (shard ${n}/2)`),
    )
    const sum = (name: string) => finished.reduce((total, e) => total + (e[name] as number), 0)
    expect([sum('num_truth_rows'), sum('num_success'), sum('num_missing'), sum('num_extraneous')]).toEqual([
      120000, 119999, 1, 2,
    ])
    expect(messages(run).filter((m) => m.startsWith('progress on public.big (shard 1/2)')).length).toBeGreaterThan(3)
    expect(event(run, 'verification complete')?.net_duration_ms).toBeLessThan(15_000)
    const forced = await bench.verify(db, '--table-splits', '3')
    expect(messages(forced).filter((m) => m.startsWith('finished'))).toHaveLength(3)
  })

  it('names a table that it could not read, and still exits with 0', async () => {
    const db = await bench.databases(
      `${TWO_TABLES}; CREATE ROLE reader_x LOGIN PASSWORD 'r@:/%# '; GRANT SELECT ON customers TO reader_x`,
    )
    const as = (url: string) => {
      const other = new URL(url)
      other.username = 'reader_x'
      other.password = 'r%40%3A%2F%25%23%20'
      return `${other}&options=-c%20search_path%3Dpg_catalog`
    }
    const run = await bench.run('molt', [
      'verify',
      '--source',
      as(db.source),
      '--target',
      as(db.target),
      '--metrics-listen-addr',
      '127.0.0.1:0',
    ])
    expect(run).toMatchObject({ code: 0, stderr: '' })
    expect(run.events).toContainEqual(
      expect.objectContaining({
        level: 'error',
        message: 'error verifying rows',
        schema: 'public',
        table: 'orders',
        error: expect.stringContaining('permission denied for table orders (SQLSTATE 42501)'),
      }),
    )
    expect(messages(run)).toContain('failed to verify')
    expect(messages(run)).toContain('finished row verification on public.customers (shard 1/1)')
    expect(messages(run)).not.toContain('finished row verification on public.orders (shard 1/1)')
  })
})
