import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { HeldFence } from '../../src/phases/cutover/held-fence.ts'
import {
  type Fence,
  fenceProblems,
  installFence,
  leaseFor,
  liftFence,
  plannedFence,
  probeFence,
  readFence,
  removeFence,
  setLease,
  writesPassed,
  writesRefused,
} from '../../src/source/fence.ts'
import { writeMarker } from '../../src/source/heartbeat.ts'
import { readTables } from '../../src/sql/tables.ts'

/* Every known way to write past the fence, tried on a real server. */

const signal = new AbortController().signal
let server: EmbeddedServer
let db: pg.Client
let held: HeldFence
let fence: Fence
const clients: pg.Client[] = []

async function client(role?: string): Promise<pg.Client> {
  const url = new URL(server.url)
  if (role) [url.username, url.password] = [role, 'secret-of-role']
  const opened = new pg.Client({ connectionString: url.href })
  opened.on('error', () => {})
  await opened.connect()
  clients.push(opened)
  return opened
}

beforeAll(async () => {
  server = await startPostgres({ name: 'fence', settings: { max_prepared_transactions: 5 } })
})
afterAll(() => server.stop())

beforeEach(async () => {
  db = await client()
  await db.query(`
    DROP SCHEMA IF EXISTS molt_actions CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public;
    CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
    CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE outside (id int PRIMARY KEY, parent int);
    INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1, 1); INSERT INTO parts VALUES (1, 'a');`)
  await db.query(`DO $$ BEGIN
      IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'app') THEN CREATE ROLE app LOGIN PASSWORD 'secret-of-role'; END IF;
    END $$; GRANT USAGE ON SCHEMA public TO app; GRANT ALL ON ALL TABLES IN SCHEMA public TO app`)
  const tables = (await readTables(db, 'public')).filter((table) => table.name !== 'outside')
  fence = await installFence(db, tables)
  held = new HeldFence(await client(), fence, 10_000)
})
afterEach(async () => {
  for (const each of clients.splice(0)) await each.end().catch(() => {})
})

const REFUSED = { code: '25006', detail: expect.stringContaining('molt-actions fence') }

test("when disarmed, it lets every role write, even a role without privileges on the fence's schema", async () => {
  const app = await client('app')
  await app.query("UPDATE parent SET v = 'c'")
  await app.query("INSERT INTO parts VALUES (2, 'x')")
  await app.query("INSERT INTO parts_1 VALUES (3, 'x')")
})

test('when armed, it rejects every kind of write by the owner, a superuser and the application', async () => {
  await held.arm(2_000, signal)
  const writes = [
    "INSERT INTO parent VALUES (3, 'c')",
    "UPDATE parent SET v = 'z'",
    'DELETE FROM child',
    'TRUNCATE child',
    'TRUNCATE parent CASCADE',
    "INSERT INTO parts VALUES (5, 'x')",
    "INSERT INTO parts_1 VALUES (5, 'x')",
    'DELETE FROM parts_1',
    "MERGE INTO parent USING (VALUES (1)) AS x(id) ON parent.id = x.id WHEN MATCHED THEN UPDATE SET v = 'm'",
    'WITH gone AS (DELETE FROM parent RETURNING id) SELECT * FROM gone',
    'COPY parent FROM PROGRAM \'printf "9\\tx\\n"\'',
    "INSERT INTO parent VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'u'",
  ]
  const app = await client('app')
  for (const sql of writes) {
    await expect(db.query(sql), sql).rejects.toMatchObject(REFUSED)
    if (!/TRUNCATE|COPY/.test(sql)) await expect(app.query(sql), sql).rejects.toMatchObject(REFUSED)
  }
  await db.query('INSERT INTO outside VALUES (1, 1)')
  await held.requireRefused()
})

test('session_replication_role = replica does not bypass it', async () => {
  await held.arm(2_000, signal)
  const replica = await client()
  await replica.query('SET session_replication_role = replica')
  await expect(replica.query("UPDATE parent SET v = 'r'")).rejects.toMatchObject(REFUSED)
})

test('BEGIN READ WRITE in a read-only session does not bypass it', async () => {
  await held.arm(2_000, signal)
  const other = await client()
  await other.query('SET default_transaction_read_only = on')
  await other.query('BEGIN READ WRITE')
  await expect(other.query("UPDATE parent SET v = 'r'")).rejects.toMatchObject(REFUSED)
})

test('rejects a cascade from a table outside the plan', async () => {
  await db.query('ALTER TABLE child ADD COLUMN outside int REFERENCES outside ON DELETE CASCADE')
  await db.query('INSERT INTO outside VALUES (7, 1); UPDATE child SET outside = 7')
  await held.arm(2_000, signal)
  await expect(db.query('DELETE FROM outside WHERE id = 7')).rejects.toMatchObject(REFUSED)
})

test('an old REPEATABLE READ transaction sees the fence despite its older snapshot', async () => {
  const old = await client()
  await old.query('BEGIN ISOLATION LEVEL REPEATABLE READ')
  await old.query('SELECT count(*) FROM parent')
  await held.arm(2_000, signal)
  await expect(old.query("UPDATE parent SET v = 'old'")).rejects.toMatchObject(REFUSED)
})

test('waits for a transaction that wrote earlier, and counts its write as before the fence', async () => {
  const writer = await client()
  await writer.query('BEGIN')
  await writer.query("UPDATE parent SET v = 'late' WHERE id = 1")
  const arming = held.arm(5_000, signal)
  await sleep(150)
  await writer.query('COMMIT')
  expect((await arming).holders).toBe(1)
  expect((await db.query('SELECT v FROM parent WHERE id = 1')).rows[0].v).toBe('late')
})

test('fails to arm if a transaction does not end, and names its PID', async () => {
  const writer = await client()
  const { rows } = await writer.query('SELECT pg_backend_pid() AS pid')
  await writer.query('BEGIN')
  await writer.query("UPDATE parent SET v = 'never' WHERE id = 1")
  await expect(held.arm(200, signal)).rejects.toMatchObject({
    code: 'fence.writers-remain',
    message: expect.stringContaining(`PID ${rows[0].pid}`),
  })
})

test('also waits for a prepared transaction, and names it', async () => {
  const writer = await client()
  await writer.query('BEGIN')
  await writer.query("UPDATE parent SET v = 'prepared' WHERE id = 1")
  await writer.query("PREPARE TRANSACTION 'held-by-nobody'")
  await expect(held.arm(200, signal)).rejects.toMatchObject({ code: 'fence.writers-remain' })
  await held.lift()
  const arming = held.arm(5_000, signal)
  await sleep(100)
  await db.query("COMMIT PREPARED 'held-by-nobody'")
  expect((await arming).holders).toBe(1)
})

test('includes a write with synchronous_commit = off that was made before the fence was armed', async () => {
  const writer = await client()
  await writer.query('SET synchronous_commit = off')
  await writer.query("UPDATE parent SET v = 'async' WHERE id = 1")
  await held.arm(2_000, signal)
  await expect(writer.query("UPDATE parent SET v = 'async2'")).rejects.toMatchObject(REFUSED)
  expect((await db.query('SELECT v FROM parent WHERE id = 1')).rows[0].v).toBe('async')
})

test('an expired lease lets writes pass, and such a write forbids the commit', async () => {
  const short = new HeldFence(await client(), fence, 300)
  await short.arm(2_000, signal)
  await sleep(450)
  expect((await readFence(db)).state).toBe('lapsed')
  await db.query("UPDATE parent SET v = 'in the gap' WHERE id = 1")
  await expect(short.renew(2_000, signal)).rejects.toMatchObject({ code: 'fence.write-passed' })
  await expect(short.commit(2_000, signal)).rejects.toMatchObject({ code: 'fence.write-passed' })
  expect((await readFence(db)).state).not.toBe('permanent')
})

test('a write after the lease expired forbids the commit even if it is rolled back', async () => {
  const short = new HeldFence(await client(), fence, 300)
  await short.arm(2_000, signal)
  await sleep(450)
  await db.query("BEGIN; UPDATE parent SET v = 'gap'; ROLLBACK")
  await expect(short.commit(2_000, signal)).rejects.toMatchObject({ code: 'fence.write-passed' })
})

test('detects a write that began after the lease expired and ended after its renewal', async () => {
  const short = new HeldFence(await client(), fence, 300)
  await short.arm(2_000, signal)
  await sleep(450)
  const writer = await client()
  await writer.query('BEGIN')
  await writer.query("UPDATE parent SET v = 'gap' WHERE id = 1")
  const renewal = short.renew(2_000, signal)
  renewal.catch(() => {})
  await sleep(100)
  await writer.query('COMMIT')
  await expect(renewal).rejects.toMatchObject({ code: 'fence.write-passed' })
})

test('an expired lease can be renewed and committed if nothing was written', async () => {
  const short = new HeldFence(await client(), fence, 300)
  await short.arm(2_000, signal)
  await sleep(450)
  await short.commit(2_000, signal)
  expect((await readFence(db)).state).toBe('permanent')
})

test('refuses to commit on a lease that was lifted or replaced', async () => {
  await held.arm(2_000, signal)
  await liftFence(db)
  await setLease(db, await leaseFor(db, 60_000))
  const lease = held.tried[0] as string
  const { makePermanent } = await import('../../src/source/fence.ts')
  expect(await makePermanent(db, lease)).toBe(false)
  expect((await readFence(db)).state).toBe('armed')
})

test('does not rearm a fence that another session lifted', async () => {
  await held.arm(2_000, signal)
  await liftFence(db)
  await expect(held.renew(2_000, signal)).rejects.toMatchObject({ code: 'fence.changed-by-other' })
  await db.query("UPDATE parent SET v = 'lifted'")
  expect((await readFence(db)).state).toBe('lifted')
})

test('lifts the lease if the reply to arming is lost, and holds no lock', async () => {
  const deaf = await client()
  const own = new HeldFence(deaf, fence, 60_000)
  const query = deaf.query.bind(deaf)
  // The server executes the statement, but its reply is lost.
  deaf.query = (async (...all: [string]) => {
    const answer = await query(...all)
    if (/setval/.test(String(all[0]))) throw new Error('timeout')
    return answer
  }) as typeof deaf.query
  await expect(own.arm(2_000, signal)).rejects.toThrow('timeout')
  expect((await readFence(db)).state).toBe('armed')
  expect(await own.lift(db)).toBe(true)
  await db.query("UPDATE parent SET v = 'free'")
})

test('reports a subscription that feeds a table', async () => {
  await db.query(`CREATE SUBSCRIPTION feed CONNECTION 'host=localhost' PUBLICATION p WITH (connect = false, slot_name = NONE);
    SET allow_system_table_mods = on;
    INSERT INTO pg_subscription_rel SELECT oid, 'parent'::regclass, 'r', NULL FROM pg_subscription;
    UPDATE pg_subscription SET subenabled = true; RESET allow_system_table_mods`)
  expect(await fenceProblems(db, fence)).toEqual([
    expect.stringMatching(/the subscription feed writes to public\.parent/),
  ])
  await db.query('ALTER SUBSCRIPTION feed DISABLE')
  expect(await fenceProblems(db, fence)).toEqual([])
  await db.query('DROP SUBSCRIPTION feed')
})

test('removes a permanent fence only if explicitly allowed', async () => {
  await held.arm(2_000, signal)
  await held.commit(2_000, signal)
  await expect(removeFence(db, fence.tables, false)).rejects.toMatchObject({ code: 'fence.permanent' })
  await expect(db.query("UPDATE parent SET v = 'x'")).rejects.toMatchObject(REFUSED)
})

test('a trigger that was disabled for one write and reenabled forbids the commit', async () => {
  await held.arm(2_000, signal)
  await db.query(`BEGIN; ALTER TABLE parent DISABLE TRIGGER molt_actions_fence; UPDATE parent SET v = 'past';
    ALTER TABLE parent ENABLE ALWAYS TRIGGER molt_actions_fence; COMMIT`)
  await expect(held.commit(2_000, signal)).rejects.toMatchObject({ code: 'fence.damaged' })
  expect((await readFence(db)).state).not.toBe('permanent')
})

test('asks clients to retry during the pause, and to connect to the new database after the commit', async () => {
  const refused = () => db.query("UPDATE parent SET v = 'x'").catch((error) => error)
  await held.arm(2_000, signal)
  expect(await refused()).toMatchObject({ ...REFUSED, hint: 'Retry in a few seconds.' })
  await held.commit(2_000, signal)
  expect(await refused()).toMatchObject({ ...REFUSED, hint: 'Connect to the new database.' })
})

test('when permanent, nothing lifts, renews or shortens it', async () => {
  await held.arm(2_000, signal)
  await held.commit(2_000, signal)
  expect(await held.lift()).toBe(false)
  expect(await liftFence(db)).toBe(false)
  expect(await setLease(db, await leaseFor(db, 1))).toBe(false)
  await expect(db.query("UPDATE parent SET v = 'x'")).rejects.toMatchObject(REFUSED)
})

test('after a crash that follows the commit, still counts only real writes', async () => {
  await db.query("UPDATE parent SET v = 'counted'")
  await held.arm(2_000, signal)
  await held.commit(2_000, signal)
  expect(await writesPassed(db)).toBe(held.passed)
  await server.kill()
  await server.start()
  const after = await client()
  expect((await readFence(after)).state).toBe('permanent')
  expect(await writesPassed(after)).toBe(held.passed)
})

test("when expired or lifted, it lets a role without privileges on the fence's schema write again", async () => {
  const app = await client('app')
  await setLease(db, await leaseFor(db, 200))
  await expect(app.query("UPDATE parent SET v = 'c'")).rejects.toMatchObject(REFUSED)
  await sleep(300)
  await app.query("UPDATE parent SET v = 'lapsed'")
  await setLease(db, await leaseFor(db, 60_000))
  await liftFence(db)
  await app.query("UPDATE parent SET v = 'lifted'")
})

test('finds a partition that was created after the installation and lacks the trigger', async () => {
  await db.query('CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200)')
  const tables = (await readTables(db, 'public')).filter((table) => table.name !== 'outside')
  expect(await fenceProblems(db, await plannedFence(db, tables))).toEqual(['public.parts_2 has no fence trigger'])
})

test('tests a table that has its own trigger or rule with another statement, or reports that it cannot', async () => {
  await db.query(`CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'append only'; END $$;
    CREATE TRIGGER a_never BEFORE DELETE ON parent EXECUTE FUNCTION never();
    CREATE RULE nothing AS ON DELETE TO child DO INSTEAD NOTHING;
    CREATE TRIGGER a_never BEFORE UPDATE ON child EXECUTE FUNCTION never();
    ALTER TABLE child ALTER id ADD GENERATED ALWAYS AS IDENTITY`)
  const all = ['"public"."child"', '"public"."parent"', '"public"."parts"', '"public"."parts_1"']
  expect((await probeFence(db, fence)).passed).toEqual(all)
  await held.arm(2_000, signal)
  expect((await probeFence(db, fence)).refused).toEqual(all)
  await db.query('ALTER TABLE parent DISABLE TRIGGER molt_actions_fence')
  expect((await probeFence(db, fence)).passed).toEqual(['"public"."parent"'])
  await db.query('CREATE TRIGGER a_never_too BEFORE INSERT ON child EXECUTE FUNCTION never()')
  await expect(probeFence(db, fence)).rejects.toMatchObject({
    code: 'fence.cannot-probe',
    message: expect.stringMatching(/"public"\."child".*P0001/),
  })
  await db.query('DROP TABLE child')
  await expect(probeFence(db, fence)).rejects.toMatchObject({
    code: 'fence.table-dropped',
    message: expect.stringContaining('"public"."child"'),
  })
})

test('finds a trigger that was disabled or dropped, or whose function was replaced', async () => {
  const tables = (await readTables(db, 'public')).filter((table) => table.name !== 'outside')
  const problems = async () => fenceProblems(db, await plannedFence(db, tables))
  expect(await problems()).toEqual([])
  await db.query('ALTER TABLE parent DISABLE TRIGGER molt_actions_fence')
  expect(await problems()).toEqual(['the fence trigger on public.parent is not ENABLE ALWAYS'])
  await db.query('ALTER TABLE parent ENABLE TRIGGER molt_actions_fence')
  expect(await problems()).toEqual(['the fence trigger on public.parent is not ENABLE ALWAYS'])
  await installFence(db, tables)
  expect(await problems()).toEqual([])
  await db.query('DROP TRIGGER molt_actions_fence ON child')
  expect(await problems()).toEqual(['public.child has no fence trigger'])
  await installFence(db, tables)
  await db.query(`CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
  for (const other of [
    'BEFORE INSERT ON child EXECUTE FUNCTION molt_actions.fence()',
    "BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON child WHEN (current_user <> 'app') EXECUTE FUNCTION molt_actions.fence()",
    'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON child EXECUTE FUNCTION nothing()',
  ]) {
    await db.query(`DROP TRIGGER molt_actions_fence ON child; CREATE TRIGGER molt_actions_fence ${other};
      ALTER TABLE child ENABLE ALWAYS TRIGGER molt_actions_fence`)
    expect(await problems()).toEqual([expect.stringContaining('public.child was replaced by a different trigger')])
    await installFence(db, tables)
    expect(await problems()).toEqual([])
  }
  const { rows } = await db.query("SELECT pg_get_functiondef('molt_actions.fence'::regproc) AS sql")
  await db.query(rows[0].sql.replace('RAISE EXCEPTION', 'RAISE NOTICE'))
  expect(await problems()).toContain('the fence function was changed')
})

test.each([
  ['ALTER SEQUENCE molt_actions.fence_passed CACHE 10', /fence_passed was dropped or changed/],
  ['ALTER SEQUENCE molt_actions.fence_passed MAXVALUE 100 CYCLE', /fence_passed was dropped or changed/],
  ['ALTER SEQUENCE molt_actions.fence_lease SET UNLOGGED', /fence_lease was dropped or changed/],
  ['DROP SEQUENCE molt_actions.fence_passed', /fence_passed was dropped or changed/],
  ['ALTER FUNCTION molt_actions.fence() RESET search_path', /the fence function was changed/],
  ['ALTER FUNCTION molt_actions.fence() SET search_path = public, pg_catalog', /the fence function was changed/],
  ['ALTER FUNCTION molt_actions.fence() SECURITY INVOKER', /the fence function was changed/],
])('finds %s before and after arming, and the next installation repairs it', async (sql, said) => {
  const tables = (await readTables(db, 'public')).filter((table) => table.name !== 'outside')
  await held.arm(2_000, signal)
  await db.query(sql)
  expect((await fenceProblems(db, fence))[0]).toMatch(said)
  if (!/DROP/.test(sql)) await expect(held.renew(2_000, signal)).rejects.toMatchObject({ code: 'fence.damaged' })
  await installFence(db, tables)
  expect(await fenceProblems(db, fence)).toEqual([])
})

test('forbids the commit after DDL that rewrites rows, but not after ANALYZE and grants', async () => {
  await held.arm(2_000, signal)
  await db.query('ANALYZE parent; GRANT SELECT ON parent TO app; CREATE INDEX ON child (parent)')
  await db.query('VACUUM parent')
  await held.renew(2_000, signal)
  // The column and type stay the same, the values change, and no trigger fires.
  await db.query("ALTER TABLE parent ALTER v TYPE text USING 'forged'")
  await expect(held.commit(2_000, signal)).rejects.toMatchObject({
    code: 'fence.table-rewritten',
    message: expect.stringContaining('public.parent'),
  })
  expect((await readFence(db)).state).not.toBe('permanent')
})

test('the permanent fence counts rejected writes, including those in rolled-back transactions', async () => {
  await held.arm(2_000, signal)
  const app = await client('app')
  const write = () => app.query("UPDATE parent SET v = 'late'").catch((error) => expect(error).toMatchObject(REFUSED))
  await write()
  expect(await writesRefused(db)).toBe(0)
  await held.commit(2_000, signal)
  expect(await writesRefused(db)).toBe(0)
  await write()
  await app.query('BEGIN')
  await write()
  await app.query('ROLLBACK')
  expect(await writesRefused(db)).toBe(2)
  expect((await probeFence(db, fence)).refused).toHaveLength(4)
  expect(await writesRefused(db)).toBe(2)
  expect(await fenceProblems(db, fence)).toEqual([])
})

test('does not report a missing counter of rejected writes as zero', async () => {
  await db.query('DROP SEQUENCE molt_actions.fence_refusals')
  expect(await writesRefused(db)).toBeUndefined()
  expect((await fenceProblems(db, fence))[0]).toMatch(/fence_refusals was dropped or changed/)
})

test('the installation blocks others for no longer than its lock timeout, and continues once the lock is released', async () => {
  await db.query('CREATE TABLE late (id int PRIMARY KEY)')
  const blocker = await client()
  await blocker.query('BEGIN')
  await blocker.query('LOCK TABLE late IN ROW EXCLUSIVE MODE')
  const tables = (await readTables(db, 'public')).filter((table) => table.name === 'late')
  const installing = installFence(db, tables)
  await sleep(1_300)
  const reader = await client()
  await reader.query('SELECT * FROM late')
  await blocker.query('COMMIT')
  await installing
})

test('reports that an abort has removed the heartbeat during streaming', async () => {
  await expect(writeMarker(db, '')).rejects.toMatchObject({ code: 'heartbeat.missing' })
})

test('protects a table whose name looks like SQL', async () => {
  await db.query('CREATE TABLE "a""b; drop table parent" (id int PRIMARY KEY)')
  const tables = (await readTables(db, 'public')).filter((table) => table.name !== 'outside')
  const odd = new HeldFence(await client(), await installFence(db, tables), 5_000)
  await odd.arm(2_000, signal)
  await expect(db.query('INSERT INTO "a""b; drop table parent" VALUES (1)')).rejects.toMatchObject(REFUSED)
  await odd.lift()
  await db.query('INSERT INTO parent VALUES (77)')
})
