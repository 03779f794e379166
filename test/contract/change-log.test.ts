/** Reads changed keys from a logical slot on PostgreSQL: checks their order, their text form, and where a reader restarts. */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { type ChangedKey, ChangeLog } from '../../src/source/change-log.ts'
import { formatLsn, parseLsn } from '../../src/source/pgoutput.ts'

let server: EmbeddedServer
let db: pg.Client
let logs: ChangeLog[] = []
beforeAll(async () => {
  server = await startPostgres({ name: 'source' })
  db = new pg.Client(server.url)
  await db.connect()
  // The text form of keys must not depend on role settings.
  await db.query(`
    ALTER ROLE CURRENT_USER SET DateStyle = 'German'; ALTER ROLE CURRENT_USER SET extra_float_digits = 0;
    ALTER ROLE CURRENT_USER SET TimeZone = 'Asia/Tokyo';
    CREATE TABLE items (id int PRIMARY KEY, v text);
    CREATE TABLE pairs (a text, b int, v text, PRIMARY KEY (b, a));
    CREATE TABLE typed (f float8, d date, t timestamptz, by bytea, i interval, v text, PRIMARY KEY (f, d, t, by, i));
    CREATE TABLE long (k text PRIMARY KEY, v text); ALTER TABLE long ALTER k SET STORAGE EXTERNAL;
    CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE elsewhere (id int PRIMARY KEY);
    CREATE PUBLICATION "Pub, ""odd""" FOR TABLE items, pairs, typed, long, parts
      WITH (publish = 'insert, update, delete', publish_via_partition_root = true)`)
}, 60_000)
beforeEach(async () => {
  await db.query("SELECT pg_create_logical_replication_slot('log', 'pgoutput')")
})
afterEach(async () => {
  await Promise.all(logs.map((log) => log.close()))
  logs = []
  await vi.waitFor(() => db.query("SELECT pg_drop_replication_slot('log')"), 10_000)
  await db.query('TRUNCATE items, pairs, typed, long, parts')
})
afterAll(async () => {
  await db?.end()
  await server?.stop()
})

async function attach() {
  const changes: ChangedKey[] = []
  const ends: Error[] = []
  const log = await ChangeLog.attach({
    sourceUrl: server.url,
    slot: 'log',
    publication: 'Pub, "odd"',
    onChange: (change) => changes.push(change),
    onEnd: (error) => ends.push(error),
  })
  logs.push(log)
  return { log, changes, ends }
}
const now = async () => parseLsn((await db.query('SELECT pg_current_wal_insert_lsn()::text AS lsn')).rows[0].lsn)
/** Waits until the reader has read everything that was committed so far. */
async function readUp({ log }: Awaited<ReturnType<typeof attach>>) {
  const lsn = await now()
  await vi.waitFor(() => expect(log.position).toBeGreaterThanOrEqual(lsn), { timeout: 20_000, interval: 10 })
}
const told = (changes: ChangedKey[]) => changes.map(({ table, key, present }) => `${table} ${key.join('/')} ${present}`)
const slot = async () =>
  (await db.query("SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = 'log'")).rows[0]
    .lsn

test('reports inserts, updates, deletes and key changes in commit order, without rolled-back changes', async () => {
  const reader = await attach()
  const other = new pg.Client(server.url)
  await other.connect()
  await other.query("BEGIN; INSERT INTO items VALUES (1, 'late')")
  await db.query("INSERT INTO items VALUES (2, 'x')")
  await db.query(
    "BEGIN; SAVEPOINT s; INSERT INTO items VALUES (9, 'x'); ROLLBACK TO s; INSERT INTO pairs VALUES ('a', 7, 'x'); COMMIT",
  )
  await db.query('BEGIN; INSERT INTO items VALUES (8); ROLLBACK')
  await other.query('COMMIT')
  await other.end()
  await db.query("UPDATE items SET v = 'y' WHERE id = 2")
  await db.query('UPDATE items SET id = id + 10 WHERE id = 2')
  await db.query('DELETE FROM items WHERE id = 1')
  await db.query("INSERT INTO parts VALUES (3, 'x'); INSERT INTO elsewhere VALUES (1)")
  await readUp(reader)
  // Key columns follow the order of the table's columns.
  expect(told(reader.changes)).toEqual([
    'items 2 true',
    'pairs a/7 true',
    'items 1 true',
    'items 2 true',
    'items 2 false',
    'items 12 true',
    'items 1 false',
    'parts 3 true',
  ])
  const positions = reader.changes.map(({ at }) => at)
  expect(positions).toEqual([...positions].sort((a, b) => (a < b ? -1 : 1)))
})

test("reports the xid of the change's transaction", async () => {
  const reader = await attach()
  await db.query('BEGIN')
  await db.query("INSERT INTO items VALUES (1, 'x')")
  const { rows } = await db.query('SELECT (pg_current_xact_id()::text::numeric % 4294967296)::text AS xid')
  await db.query('COMMIT')
  await readUp(reader)
  expect(reader.changes.map(({ xid }) => String(xid))).toEqual([rows[0].xid])
})

test("writes keys in the form that a later query expects, regardless of the role's settings", async () => {
  const reader = await attach()
  await db.query(
    "INSERT INTO typed VALUES (0.30000000000000004, '2024-02-29', '2026-01-01 02:00+02', '\\x00ff', '1 day 02:00', 'x')",
  )
  await readUp(reader)
  expect(reader.changes[0]?.key).toEqual([
    '0.30000000000000004',
    '2024-02-29',
    '2026-01-01 00:00:00+00',
    '\\x00ff',
    '1 day 02:00:00',
  ])
})

test('reports a TOASTed key in an update that does not change it', async () => {
  await db.query("INSERT INTO long VALUES (repeat('k', 2500), 'x')")
  const reader = await attach()
  await db.query("UPDATE long SET v = 'y'")
  await readUp(reader)
  expect(reader.changes.map(({ key, present }) => [key[0]?.length, present])).toContainEqual([2500, true])
  expect(reader.changes.every(({ key }) => key[0] === 'k'.repeat(2500))).toBe(true)
})

test('moves the slot only on confirm, to the start of a transaction, which the server then resends in full', async () => {
  const first = await attach()
  const before = await slot()
  await db.query("INSERT INTO items VALUES (1, 'x')")
  await db.query("INSERT INTO items SELECT n, 'x' FROM generate_series(2, 4) n")
  await db.query("INSERT INTO items VALUES (5, 'x')")
  await readUp(first)
  // Neither keepalives that request a reply nor periodic replies move the slot.
  await vi.waitFor(() => expect(first.log.position).toBeGreaterThan(first.changes.at(-1)?.at as bigint))
  expect(await slot()).toBe(before)
  const open = first.changes.find(({ key }) => key[0] === '2') as ChangedKey
  first.log.confirm(open.at)
  await vi.waitFor(async () => expect(await slot()).toBe(formatLsn(open.at)), 10_000)
  await first.log.close()
  const second = await vi.waitFor(attach, 10_000)
  await readUp(second)
  expect(told(second.changes)).toEqual(['items 2 true', 'items 3 true', 'items 4 true', 'items 5 true'])
  // A confirmed position never moves back.
  second.log.confirm(open.at - 8n)
  expect(parseLsn(await slot())).toBeGreaterThanOrEqual(open.at)
})

test('rejects a slot that has another reader, and reports a lost connection once', async () => {
  const first = await attach()
  await expect(attach()).rejects.toMatchObject({ code: '55006' })
  await db.query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'log'")
  await vi.waitFor(() => expect(first.ends).toHaveLength(1), 10_000)
  await db.query("INSERT INTO items VALUES (1, 'x')")
  expect(first.changes).toEqual([])
})

test('overrides session options from the URL', async () => {
  const options = encodeURIComponent('-c DateStyle=German -c extra_float_digits=0')
  const log = await ChangeLog.attach({
    sourceUrl: `${server.url}${server.url.includes('?') ? '&' : '?'}options=${options}`,
    slot: 'log',
    publication: 'Pub, "odd"',
    onChange: ({ key }) => keys.push(key),
    onEnd() {},
  })
  const keys: string[][] = []
  logs.push(log)
  await db.query("INSERT INTO typed VALUES (0.30000000000000004, '2024-02-29', '2026-01-01Z', '', '1 day', 'x')")
  await vi.waitFor(() => expect(keys[0]?.slice(0, 2)).toEqual(['0.30000000000000004', '2024-02-29']), 10_000)
})

test('passes on 100,000 changes from one transaction without buffering them', async () => {
  let seen = 0
  const log = await ChangeLog.attach({
    ...{ sourceUrl: server.url, slot: 'log', publication: 'Pub, "odd"', onEnd() {} },
    onChange: () => seen++,
  })
  logs.push(log)
  const before = process.memoryUsage().rss
  await db.query("INSERT INTO items SELECT n, repeat('x', 300) FROM generate_series(1, 100000) n")
  await vi.waitFor(() => expect(seen).toBe(100_000), { timeout: 60_000, interval: 20 })
  expect(process.memoryUsage().rss - before).toBeLessThan(128 << 20)
})
