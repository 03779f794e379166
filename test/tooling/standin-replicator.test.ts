import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { Bench, type Databases, freePort, type Running, until } from '../contract/standin-helpers.ts'

let bench: Bench
const running: Running[] = []
beforeAll(async () => {
  bench = await Bench.start()
})
afterEach(async () => {
  await Promise.all(running.splice(0).map((r) => r.stop('SIGKILL')))
})
afterAll(() => bench?.stop())

interface Stream extends Databases {
  r: Running
  metrics(): Promise<string>
  /** One metric's value; undefined if it is not exposed. */
  metric(name: string): Promise<number | undefined>
}

/** Creates databases with `ddl` on both sides, and starts a replicator between them. */
async function stream(ddl: string, more: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Stream> {
  const db = await bench.databases(`${ddl}; CREATE TABLE marker (id int PRIMARY KEY, nonce text)`)
  return attach(db, more, env)
}

async function attach(db: Databases, more: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Stream> {
  const port = await freePort()
  const r = await bench.replicate(db, ['--metricsAddr', `127.0.0.1:${port}`, ...more], env)
  running.push(r)
  const metrics = () => fetch(`http://127.0.0.1:${port}/_/varz`).then((response) => response.text())
  const metric = async (name: string) => {
    const line = (await metrics()).split('\n').find((l) => l.startsWith(`${name} `))
    return line === undefined ? undefined : Number(line.split(' ').at(-1))
  }
  await until(() => r.log().includes('metrics server bound to'))
  return { ...db, r, metrics, metric }
}

const all = async (client: Databases['s'], table: string) =>
  (await client.query(`SELECT to_jsonb(x)::text AS v FROM ${table} x ORDER BY 1`)).rows.map((row) => row.v)

/** Expects both sides to have the same rows in these tables. */
const same = (db: Databases, ...tables: string[]) =>
  until(async () => {
    for (const table of tables) if (`${await all(db.s, table)}` !== `${await all(db.t, table)}`) return false
    return true
  })

/** Writes a marker on the source. @returns whether it reaches the target in time */
async function marked(db: Databases, ms = 5000): Promise<boolean> {
  const nonce = String(Math.random())
  await db.s.query(`INSERT INTO marker VALUES (1, '${nonce}') ON CONFLICT (id) DO UPDATE SET nonce = excluded.nonce`)
  const seen = async () => (await db.t.query('SELECT 1 FROM marker WHERE nonce = $1', [nonce])).rowCount === 1
  return until(seen, ms).then(
    () => true,
    () => false,
  )
}

const retries = (r: Running) =>
  r
    .log()
    .split('\n')
    .filter((l) => l.includes('error while copying messages; will retry'))
/** The `error` field of the last retry. */
const lastError = (r: Running) => {
  const quoted = / error=("(?:[^"\\]|\\.)*")/.exec(retries(r).at(-1) ?? '')?.[1]
  return quoted ? (JSON.parse(quoted) as string) : undefined
}
/** Waits until the stream is stuck, and checks that it keeps retrying. @returns the reason */
async function stuck(db: Stream): Promise<string> {
  await until(() => retries(db.r).length >= 3)
  const before = retries(db.r).length
  const from = performance.now()
  expect(await marked(db, 600)).toBe(false)
  const perSecond = ((retries(db.r).length - before) * 1000) / (performance.now() - from)
  expect(perSecond).toBeGreaterThan(1.5)
  expect(perSecond).toBeLessThan(12)
  return lastError(db.r) as string
}

async function endsCalmly(r: Running): Promise<void> {
  const end = await r.stop()
  expect(end.code).toBe(0)
  expect(end.ms).toBeLessThan(1500)
  expect(r.log()).toContain('msg=Interrupted')
}

const T = 'CREATE TABLE t (id bigint PRIMARY KEY, v text)'

describe('replicator, the command line', () => {
  it('prints its version on standard error', async () => {
    const run = await bench.run('replicator', ['version'])
    expect(run).toMatchObject({ code: 0, stdout: '' })
    expect(run.stderr).toMatch(
      /^time="[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d" level=info msg=replicator .*build="v1\.3\.4 \(embedded stand-in\)"/,
    )
  })

  it('refuses unknown flags and invalid values with exit code 1', async () => {
    const unknown = await bench.run('replicator', ['pglogical', '--frobnicate'])
    expect(unknown.code).toBe(1)
    expect(unknown.stderr).toMatch(/level=error msg=exited .*error="unknown flag: --frobnicate"/)
    const bad = await bench.run('replicator', ['pglogical', '--standbyTimeout', 'soon'])
    expect(bad.code).toBe(1)
    expect(bad.stderr).toContain('time: invalid duration')
    const nothing = await bench.run('replicator', ['pglogical'])
    expect(nothing.code).toBe(1)
    expect(nothing.stderr).toContain('error="targetConn must be set"')
  })

  it('lists its flags on standard output', async () => {
    const help = await bench.run('replicator', ['pglogical', '--help'])
    expect(help.code).toBe(0)
    for (const flag of ['enableToastedColumns', 'standbyTimeout duration', 'logFormat string'])
      expect(help.stdout).toContain(`--${flag}`)
  })

  it('does not start without publication, slot, staging schema and a free metrics port', async () => {
    const db = await bench.databases(T)
    const start = (...more: string[]) => bench.run('replicator', [...bench.replicatorArgs(db), ...more])
    const noPublication = await start()
    expect(noPublication.stderr).toContain('error="run CREATE PUBLICATION p FOR ALL TABLES; in source database"')
    await db.s.query('CREATE PUBLICATION p FOR ALL TABLES')
    const noSlot = await start()
    expect(noSlot.stderr).toContain(
      `run SELECT pg_create_logical_replication_slot('s_${db.name}', 'pgoutput'); in source database`,
    )
    await db.s.query(`SELECT pg_create_logical_replication_slot('s_${db.name}', 'pgoutput')`)
    const busy = createServer()
    await new Promise<void>((resolve) => busy.listen(0, '127.0.0.1', resolve))
    const port = (busy.address() as AddressInfo).port
    const taken = await start('--metricsAddr', `127.0.0.1:${port}`)
    await new Promise((resolve) => busy.close(resolve))
    expect(taken.stderr).toContain(`error="listen tcp 127.0.0.1:${port}: bind: address already in use"`)
    await db.t.query('DROP SCHEMA _replicator CASCADE')
    const noStaging = await start('--stagingCreateSchema=false')
    expect(noStaging.stderr).toContain('schema \\"_replicator\\" does not exist (SQLSTATE 3F000)')
    expect([noPublication, noSlot, taken, noStaging].map((run) => run.code)).toEqual([1, 1, 1, 1])
  })
})

describe('replicator pglogical', () => {
  it('applies every kind of change with unchanged values, and counts them', async () => {
    const db = await stream(`
      CREATE TYPE mood AS ENUM ('sad', 'ok');
      CREATE TABLE "Mixed" ("Id" bigint PRIMARY KEY, "order" text, n numeric, f float8, at timestamptz, ts timestamp,
        j json, b jsonb, tags text[], m mood, raw bytea, i interval, big int8);
      CREATE TABLE pairs (b text, a int, note text, PRIMARY KEY (a, b));
      CREATE TABLE keys (id uuid PRIMARY KEY)`)
    await db.s.query(`
      INSERT INTO "Mixed" VALUES
        (1, E'a\\tb\\nc\\\\d ''q'' "é☃', 1.500, 0.1, '2024-03-10 02:30:00.000001+05:30', '0044-01-01 00:00:00 BC',
         '{"z":1,  "a":1.50}', '{"z": 1.50, "a": 1}', ARRAY['', NULL, 'NULL', 'a,b'], 'ok', '\\x00ff', '1 mon 2 days 03:04:05.5', -9223372036854775808),
        (2, '', -99999999999999999999.5, 'NaN', 'infinity', NULL, NULL, NULL, '{}', NULL, '', '-1 days', NULL),
        (3, NULL, 'NaN', 0.3333333333333333, NULL, NULL, 'null', 'null', NULL, 'sad', NULL, NULL, 9223372036854775807)`)
    await db.s.query(
      `INSERT INTO pairs SELECT 'k' || i, i, 'n' FROM generate_series(1, 3000) i; INSERT INTO keys VALUES (gen_random_uuid())`,
    )
    await db.s.query(
      `UPDATE pairs SET note = NULL WHERE a % 2 = 0; DELETE FROM pairs WHERE a % 3 = 0; UPDATE "Mixed" SET "order" = '\\N' WHERE "Id" = 3; INSERT INTO keys SELECT * FROM keys ON CONFLICT DO NOTHING`,
    )
    await db.s.query(
      `BEGIN; INSERT INTO pairs VALUES ('k', 0, 'x'); DELETE FROM pairs WHERE a IN (0, 1); INSERT INTO pairs VALUES ('k1', 1, 'y'); COMMIT`,
    )
    await same(db, '"Mixed"', 'pairs', 'keys')
    expect((await all(db.t, '"Mixed"')).join()).toContain('2024-03-09T21:00:00.000001+00:00')
    expect(await db.metric(`apply_upserts_total{schema="${db.name}.public",table="pairs"}`)).toBeGreaterThanOrEqual(
      4000,
    )
    expect(await db.metric(`apply_deletes_total{schema="${db.name}.public",table="pairs"}`)).toBe(1000)
    expect(await db.metric(`apply_upserts_total{schema="${db.name}.public",table="Mixed"}`)).toBe(4)
    expect(await db.metric(`apply_upserts_total{schema="${db.name}.public",table="marker"}`)).toBeUndefined()
    expect(await db.metric('pglogical_dial_success_total')).toBe(1)
    await endsCalmly(db.r)
  })

  it('keeps order across tables, and applies one source transaction as one on the target', async () => {
    const db = await stream('CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, n int)')
    await db.s.query('INSERT INTO a VALUES (1, 0); INSERT INTO b VALUES (1, 0)')
    await same(db, 'a', 'b')
    let stop = false
    const torn: unknown[] = []
    const reader = (async () => {
      while (!stop) {
        const { rows } = await db.t.query('SELECT a.n AS a, b.n AS b FROM a, b')
        if (rows[0].a !== rows[0].b) torn.push(rows[0])
      }
    })()
    for (let i = 1; i <= 300; i++) await db.s.query(`BEGIN; UPDATE a SET n = ${i}; UPDATE b SET n = ${i}; COMMIT`)
    await same(db, 'a', 'b')
    stop = true
    await reader
    expect(torn).toEqual([])
    expect(db.r.log()).not.toContain('will retry')
  })

  it('acknowledges the start of the last applied commit record, and nothing beyond it', async () => {
    const db = await stream(`${T}; CREATE TABLE elsewhere (id int)`)
    const lsn = async (sql: string) => (await db.s.query(`SELECT ${sql} AS lsn`)).rows[0].lsn as string
    const confirmed = () =>
      lsn(`(SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database())`)
    await db.s.query(
      'ALTER PUBLICATION p OWNER TO postgres; DROP PUBLICATION p; CREATE PUBLICATION p FOR TABLE t, marker',
    )
    expect(await marked(db)).toBe(true)
    const before = await lsn('pg_current_wal_insert_lsn()')
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    const after = await lsn('pg_current_wal_lsn()')
    await until(
      async () => (await db.s.query('SELECT $1::pg_lsn >= $2::pg_lsn AS yes', [await confirmed(), before])).rows[0].yes,
      3000,
    )
    const at = await confirmed()
    await db.s.query('INSERT INTO elsewhere SELECT generate_series(1, 1000)')
    await sleep(600)
    expect(await confirmed()).toBe(at)
    expect((await db.s.query('SELECT $1::pg_lsn < $2::pg_lsn AS behind', [at, after])).rows[0].behind).toBe(true)
    const memo = await db.t.query(
      `SELECT convert_from(value, 'UTF8') AS lsn FROM _replicator.memo WHERE key = 'pglogical-wal-offset-${db.name}.public'`,
    )
    expect(memo.rows).toEqual([{ lsn: at }])
  })

  it('writes the older log format, with several lines per change under -v, or one of the two other formats', async () => {
    const db = await stream(T, ['-v'])
    await db.s.query(`INSERT INTO t VALUES (1, 'x'), (2, 'y')`)
    await db.s.query('DELETE FROM t')
    await until(() => db.r.log().includes('deleted rows'))
    const log = db.r.log()
    expect(log.split('\n')[0]).toMatch(/^time="[^"]+" level=info msg="Replicator starting" .*\(embedded stand-in\)/)
    const target = `"\\"${db.name}\\".\\"public\\".\\"t\\""`
    expect(log).toMatch(
      new RegExp(
        `^time="[^"]+" level=debug msg="upserted rows" conflicts=0 duration=[\\d.]+m?s proposed=2 target=${target.replaceAll('\\', '\\\\')} upserted=2$`,
        'm',
      ),
    )
    expect(log).toMatch(/level=debug msg="deleted rows" applied=2 proposed=2 target=/)
    for (const kind of ['Begin', 'Relation', 'Insert', 'Commit', 'Delete'])
      expect(log).toContain(`level=debug msg="xlog data" logicalMsg=${kind}`)
    expect(log).toMatch(/level=debug msg="progressed to LSN: 0\/[0-9A-F]+"/)
    await db.r.stop()

    const padded = await attach(db, ['-v'], { MOLT_STANDIN_FORM: 'doc' })
    await db.s.query(`INSERT INTO t VALUES (3, 'z')`)
    await until(() =>
      /^DEBUG {2}\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\] upserted rows {33}conflicts=0 duration=/m.test(padded.r.log()),
    )
    expect(padded.r.log()).toMatch(/^INFO {3}\[[^\]]+\] Replicator starting {26}/m)
    await padded.r.stop()

    const file = bench.file('fluent.log')
    const fluent = await bench.replicate(db, ['--logFormat', 'fluent', '--logDestination', file])
    running.push(fluent)
    await until(async () => (await readFile(file, 'utf8').catch(() => '')).includes('Replicator starting'))
    expect(JSON.parse((await readFile(file, 'utf8')).split('\n')[0] as string)).toMatchObject({
      message: 'Replicator starting',
      severity: 'INFO',
    })
    expect(fluent.log()).toBe('')
  })

  it('loses nothing to kill -9 under load or to a target that goes down', async () => {
    const db = await stream(`CREATE TABLE t (id int PRIMARY KEY, n int, at timestamptz DEFAULT clock_timestamp())`)
    await db.s.query('INSERT INTO t SELECT i, 0 FROM generate_series(1, 200) i')
    let stop = false
    let written = 0
    const writer = (async () => {
      for (let i = 1; !stop; i++) {
        await db.s.query(
          `BEGIN; UPDATE t SET n = ${i} WHERE id % 50 = ${i % 50}; INSERT INTO t VALUES (${i + 1000}, ${i}); DELETE FROM t WHERE id = ${i + 990}; COMMIT`,
        )
        written++
      }
    })()
    let current: Stream = db
    for (let round = 0; round < 3; round++) {
      const from = written
      await until(() => written > from + 60, 20_000)
      await current.r.stop('SIGKILL')
      current = await attach(db)
    }
    await bench.servers.target.shutdown('immediate')
    await until(() => retries(current.r).length > 2)
    expect(lastError(current.r)).toMatch(/connect|terminat|starting up/i)
    await bench.servers.target.start()
    stop = true
    await writer
    const target = await bench.client(db.target)
    await same({ ...db, t: target }, 't')
    await endsCalmly(current.r)
  }, 60_000)

  it('loses nothing if every fifth commit on the target fails with 40001, even with kill -9', async () => {
    const db = await stream('CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE u (id int PRIMARY KEY, t int)')
    const { options } = bench.servers.cluster
    options.retryRate = 0.2
    try {
      const write = async (from: number, to: number) => {
        for (let i = from; i < to; i++)
          await db.s.query(
            `BEGIN; INSERT INTO t VALUES (${i}, 0); UPDATE t SET n = ${i} WHERE id % 20 = ${i % 20}; COMMIT;
             BEGIN; INSERT INTO u VALUES (${i}, ${i}); COMMIT; BEGIN; DELETE FROM u WHERE id = ${i - 7}; COMMIT`,
          )
      }
      await write(0, 300)
      await db.r.stop('SIGKILL')
      const again = await attach(db)
      // Waiting changes are applied together, so the number of commits depends on the machine.
      for (let from = 300; from < 600 || retries(again.r).length <= 2; from += 20) await write(from, from + 20)
      await same(db, 't', 'u')
      expect(lastError(again.r)).toContain('SQLSTATE 40001')
      await endsCalmly(again.r)
    } finally {
      options.retryRate = 0
    }
  }, 60_000)

  it('skips nothing if it ends while it applies one transaction after another', async () => {
    const db = await stream(`${T}; CREATE TABLE late (id int PRIMARY KEY)`)
    await db.r.stop()
    await db.t.query('DROP TABLE late')
    for (let i = 0; i < 20; i++) await db.s.query('INSERT INTO t VALUES ($1)', [i])
    // The last waiting change cannot be applied, so each transaction is retried on its own.
    await db.s.query('INSERT INTO late VALUES (1)')
    const { options } = bench.servers.cluster
    options.latency = 150
    try {
      const slow = await attach(db)
      await until(async () => (await all(db.t, 't')).length > 1)
      await endsCalmly(slow.r)
      expect((await all(db.t, 't')).length).toBeLessThan(20)
    } finally {
      options.latency = 0
    }
    await db.t.query('CREATE TABLE late (id int PRIMARY KEY)')
    await attach(db)
    await same(db, 't', 'late')
  })

  it('keeps up with thousands of changes per second, and applies a large transaction as one', async () => {
    const db = await stream('CREATE TABLE t (id int PRIMARY KEY, v text, n numeric(12,2), at timestamptz)')
    const from = performance.now()
    await db.s.query(
      `INSERT INTO t SELECT i, repeat('x', 50), i / 7.0, clock_timestamp() FROM generate_series(1, 30000) i`,
    )
    await until(async () => (await db.t.query('SELECT count(*)::int AS n FROM t')).rows[0].n > 0, 20_000)
    expect((await db.t.query('SELECT count(*)::int AS n FROM t')).rows[0].n).toBe(30_000)
    expect(performance.now() - from).toBeLessThan(10_000)
    const small = performance.now()
    for (let i = 0; i < 1500; i++) await db.s.query(`UPDATE t SET v = '${i}' WHERE id BETWEEN ${i} AND ${i + 4}`)
    const wrote = performance.now()
    expect(await marked(db)).toBe(true)
    expect(performance.now() - wrote).toBeLessThan(2000)
    expect(wrote - small).toBeLessThan(60_000)
    await same(db, 't')
  }, 60_000)

  it('stops immediately in the middle of a large transaction, and applies none of it', async () => {
    const db = await stream('CREATE TABLE t (id int PRIMARY KEY, v text)')
    await db.t.query('BEGIN; LOCK TABLE t IN SHARE MODE')
    await db.s.query(`INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i`)
    await until(
      async () =>
        (await db.t.query(`SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 't'::regclass`)).rowCount === 1,
    )
    await endsCalmly(db.r)
    await db.t.query('COMMIT')
    await sleep(300)
    expect((await db.t.query('SELECT count(*)::int AS n FROM t')).rows[0].n).toBe(0)
    await attach(db)
    await same(db, 't')
  })
})

describe("the replicator's faults: it retries forever and reports no failure", () => {
  it('TRUNCATE', async () => {
    const db = await stream(T)
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    await same(db, 't')
    const dials = await db.metric('pglogical_dial_success_total')
    await db.s.query('TRUNCATE t')
    expect(await stuck(db)).toBe('the TRUNCATE operation cannot be supported on table 1')
    await vi.waitFor(
      async () => {
        expect(await db.metric('pglogical_dial_success_total')).toBeGreaterThan((dials as number) + 2)
        expect(await db.metric('log_message_count{level="warning"}')).toBeGreaterThan(2)
      },
      { timeout: 15_000, interval: 100 },
    )
    expect(await db.metric(`apply_errors_total{schema="${db.name}.public",table="t"}`)).toBe(0)
    expect(await db.metric(`apply_upserts_total{schema="${db.name}.public",table="t"}`)).toBe(1)
    await endsCalmly(db.r)
  })

  it('an unchanged TOASTed value, even with --enableToastedColumns', async () => {
    const db = await stream(`${T}; ALTER TABLE t ALTER v SET STORAGE EXTERNAL`)
    await db.s.query(`INSERT INTO t VALUES (1, repeat('x', 9000)); ALTER TABLE t ADD COLUMN n int`)
    await db.t.query('ALTER TABLE t ADD COLUMN n int')
    await db.s.query('UPDATE t SET n = 1')
    expect(await stuck(db)).toBe(`TOASTed columns are not supported in "${db.name}"."public"."t"."v"`)
    await endsCalmly(db.r)
    const again = await attach(db, ['--enableToastedColumns'])
    expect(await stuck(again)).toBe('template toasted.tmpl not found')
  })

  it('a column added on the source, until the target has it and the schema is read again', async () => {
    const db = await stream(T, ['--schemaRefresh', '200ms'])
    await db.s.query(`ALTER TABLE t ADD COLUMN extra text; INSERT INTO t VALUES (1, 'x', 'y')`)
    const table = `"${db.name}"."public"."t"`
    expect(await stuck(db)).toBe(
      `${table}: schema drift detected in ${table} at payload object offset 0: unexpected columns: extra`,
    )
    await db.t.query('ALTER TABLE t ADD COLUMN extra text')
    expect(await marked(db)).toBe(true)
    await same(db, 't')
  })

  it('a table that the target lacks, until it exists, although earlier changes are applied', async () => {
    const db = await stream(T, ['--schemaRefresh', '200ms'])
    await db.s.query(`CREATE TABLE later (id int PRIMARY KEY)`)
    await db.s.query(`INSERT INTO t VALUES (1, 'before')`)
    await db.s.query('INSERT INTO later VALUES (1)')
    expect(await stuck(db)).toBe(`update sent to unknown tables: ${db.name}.public.later`)
    await same(db, 't')
    await db.t.query('CREATE TABLE later (id int PRIMARY KEY)')
    expect(await marked(db)).toBe(true)
    await same(db, 'later')
  })

  it('REPLICA IDENTITY FULL, at the first DELETE', async () => {
    const db = await stream(
      'CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); ALTER TABLE t REPLICA IDENTITY FULL',
    )
    await db.s.query('INSERT INTO t VALUES (1, 2, 3, 4)')
    await db.s.query('UPDATE t SET c = 5')
    await same(db, 't')
    await db.s.query('DELETE FROM t')
    expect(await stuck(db)).toMatch(
      /: schema drift detected in .*: inconsistent number of key columns: received 4 expect 1: key \["1","2","3","5"\]/,
    )
  })

  it('a unique value swapped between two rows in one transaction', async () => {
    const db = await stream('CREATE TABLE t (id int PRIMARY KEY, u text)')
    await db.t.query('ALTER TABLE t ADD UNIQUE (u)')
    await db.s.query(`INSERT INTO t VALUES (1, 'a'), (2, 'b')`)
    await same(db, 't')
    await db.s.query(
      `BEGIN; UPDATE t SET u = 'c' WHERE id = 1; UPDATE t SET u = 'a' WHERE id = 2; UPDATE t SET u = 'b' WHERE id = 1; COMMIT`,
    )
    expect(await stuck(db)).toContain('duplicate key value violates unique constraint "t_u_key" (SQLSTATE 23505)')
    expect(db.r.log()).toMatch(/Key \(u\)=\([ab]\) already exists\./)
    expect(await db.metric(`apply_errors_total{schema="${db.name}.public",table="t"}`)).toBeGreaterThan(2)
    await db.t.query('ALTER TABLE t DROP CONSTRAINT t_u_key')
    expect(await marked(db)).toBe(true)
    await same(db, 't')
  })

  it('a target column that is GENERATED ALWAYS AS IDENTITY, or a table without a primary key', async () => {
    const db = await stream(T)
    await db.t.query('ALTER TABLE t ALTER id ADD GENERATED ALWAYS AS IDENTITY')
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    expect(await stuck(db)).toContain('cannot insert a non-DEFAULT value into column "id" (SQLSTATE 428C9)')
    const keyless = await stream(T)
    await keyless.t.query('ALTER TABLE t DROP CONSTRAINT t_pkey')
    await keyless.r.stop()
    const again = await attach(keyless)
    await keyless.s.query(`INSERT INTO t VALUES (1, 'x')`)
    expect(await stuck(again)).toContain('missing PK columns: rowid')
  })

  it('a publication dropped under a live slot, even after it is recreated', async () => {
    const db = await stream(T)
    expect(await marked(db)).toBe(true)
    await db.s.query('DROP PUBLICATION p')
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    expect(await stuck(db)).toBe('error received from source database')
    expect(db.r.log()).toMatch(
      /level=error msg="error received from source database" logicalMsg="&\{ERROR ERROR 42704 publication \\"p\\" does not exist/,
    )
    await db.s.query('CREATE PUBLICATION p FOR ALL TABLES')
    expect(await stuck(db)).toBe('error received from source database')
    await endsCalmly(db.r)
  })

  it('a busy slot: the second process runs, retries and counts its retries', async () => {
    const db = await stream(T)
    expect(await marked(db)).toBe(true)
    const second = await attach(db)
    await until(() => retries(second.r).length > 2)
    expect(lastError(second.r)).toMatch(
      new RegExp(`^ERROR: replication slot "s_${db.name}" is active for PID \\d+ \\(SQLSTATE 55006\\)$`),
    )
    expect(await second.metric('pglogical_dial_failure_total')).toBeGreaterThan(2)
    await db.r.stop()
    expect(await marked(second)).toBe(true)
    await endsCalmly(second.r)
  })

  it('a missing target schema, at the first change', async () => {
    const db = await stream(T, ['--targetSchema', 'nodb.public'])
    await sleep(300)
    expect(retries(db.r)).toEqual([])
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    expect(await stuck(db)).toBe('unknown schema: "nodb"."public"')
  })

  it('silently keeps the old row of a changed key, and ignores schemas and case', async () => {
    const db = await stream(`${T}; CREATE SCHEMA other; CREATE TABLE other.t (id bigint PRIMARY KEY, v text)`)
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    await db.s.query('UPDATE t SET id = 2')
    await db.s.query(`INSERT INTO other.t VALUES (3, 'other')`)
    await db.s.query(`CREATE TABLE "T" (id bigint PRIMARY KEY, v text)`)
    await db.s.query(`INSERT INTO "T" VALUES (4, 'case')`)
    expect(await marked(db)).toBe(true)
    const ids = async (table: string) =>
      (await db.t.query(`SELECT id::int FROM ${table} ORDER BY 1`)).rows.map((r) => r.id)
    expect(await ids('t')).toEqual([1, 2, 3, 4])
    expect(await ids('other.t')).toEqual([])
    expect(db.r.log()).not.toContain('will retry')
  })

  it('keeps the defaults of columns that only the target has', async () => {
    const db = await stream(T)
    await db.t.query(
      `ALTER TABLE t ADD COLUMN n int DEFAULT 9, ADD COLUMN g text GENERATED ALWAYS AS (v || '!') STORED`,
    )
    await db.s.query(`INSERT INTO t VALUES (1, 'x')`)
    await db.s.query(`UPDATE t SET v = 'y'`)
    expect(await marked(db)).toBe(true)
    expect((await db.t.query('SELECT v, n, g FROM t')).rows).toEqual([{ v: 'y', n: 9, g: 'y!' }])
  })
})
