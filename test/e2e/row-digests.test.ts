/** Row hashes computed by each database: equal if and only if the values mean the same, whatever their notation. */
import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import type { Plan } from '../../src/model/plan.ts'
import { digestTables } from '../../src/phases/verify/row-digests.ts'
import { runVerify } from '../../src/phases/verify/verify.ts'
import { readTables } from '../../src/sql/tables.ts'
import { type Servers, startServers } from '../support/servers.ts'

/** Type on the source and on the target, one value in each side's notation, and a different value. */
const COLUMNS: Record<string, [here: string, there: string, value: string, same: string, other: string | null]> = {
  n: ['numeric', 'numeric', '1.50', '1.5', '1.51'],
  long: ['numeric', 'numeric', '123567890123567890.5', '123567890123567890.50', '123567890123567891.5'],
  money: ['numeric(12,2)', 'numeric(12,2)', '9.90', '9.90', '9.91'],
  loose: ['numeric(12,2)', 'numeric', '9.90', '9.9', '9.91'],
  f: ['double precision', 'double precision', '0.1', '1e-1', '0.10000000000000002'],
  t: ['text', 'character varying(300)', 'é☃\n\\', 'é☃\n\\', 'é☃\n'],
  padded: ['character(6)', 'text', 'ab', 'ab    ', 'abc'],
  b: ['boolean', 'boolean', 'true', 'true', 'false'],
  u: ['uuid', 'uuid', '0a000000-0000-0000-0000-000000000001', '0a000000-0000-0000-0000-000000000001', null],
  by: ['bytea', 'bytea', '\\x00ff', '\\x00ff', '\\x00fe'],
  d: ['date', 'date', '2024-02-29', '2024-02-29', '2024-03-01'],
  ts: ['timestamp', 'timestamp', '2026-01-01 00:00:00.000001', '2026-01-01 00:00:00.000001', '2026-01-01 00:00:00'],
  tz: ['timestamptz', 'timestamptz', '2026-01-01 02:00+02', '2026-01-01 00:00Z', '2026-01-01 00:00:00.000001Z'],
  ti: ['time', 'time', '23:59:59.5', '23:59:59.5', '23:59:59'],
  j: ['jsonb', 'jsonb', '{"b": 1.10, "a": [null]}', '{"a": [null], "b": 1.1}', '{"a": [null], "b": 1.2}'],
  js: ['json', 'json', '{"b":1,"a":2}', '{"a": 2, "b": 1}', '{"a": 2, "b": 2}'],
  ta: ['text[]', 'text[]', '{a,NULL,""}', '{"a",NULL,""}', '{a,"NULL",""}'],
  na: ['numeric[]', 'numeric[]', '{1.0,2}', '{1,2.00}', '{1,2.01}'],
  iv: ['interval', 'interval', '1 day', '1 day', '24 hours'],
  ip: ['inet', 'inet', '10.0.0.1', '10.0.0.1/32', '10.0.0.0/8'],
  tt: ['timetz', 'timetz', '12:00:00+02', '12:00+02:00', '12:00-02'],
  nil: ['text', 'text', '', '', null],
  wide: ['text', 'text', 'w'.repeat(400), 'w'.repeat(400), `${'w'.repeat(399)}v`],
}
const NAMES = Object.keys(COLUMNS)

let pair: Servers
let source: pg.Client
let target: pg.Client

beforeAll(async () => {
  pair = await startServers()
  source = new pg.Client(pair.source.url)
  target = new pg.Client(pair.target.url)
  await Promise.all([source.connect(), target.connect()])
  for (const [side, db] of [source, target].entries())
    await db.query(`
      CREATE TABLE items (id bigint, part text, ${NAMES.map((name) => `${name} ${COLUMNS[name]?.[side]}`).join(', ')},
                          PRIMARY KEY (id, part));
      CREATE TABLE texts (id int PRIMARY KEY, a text, b text);
      CREATE TABLE numbered (k numeric PRIMARY KEY, j jsonb, v text);
      CREATE TABLE odd (k tsvector PRIMARY KEY, i tsvector, v text);
      CREATE TABLE busy (id int PRIMARY KEY, v text)`)
  // The result must not depend on a role's settings.
  await source.query("ALTER DATABASE shop SET DateStyle = 'German'; ALTER DATABASE shop SET TimeZone = 'Asia/Tokyo'")
}, 60_000)

afterAll(async () => {
  await Promise.all([source?.end(), target?.end()])
  await pair?.stop()
})

const insert = (side: number) =>
  `INSERT INTO items SELECT n, 'p' || n % 3, ${NAMES.map((_, i) => `$${i + 1}::text::${Object.values(COLUMNS)[i]?.[side]}`).join(', ')}
     FROM generate_series(1, 300) n`

beforeEach(async () => {
  for (const [side, db] of [source, target].entries()) {
    await db.query('TRUNCATE items, texts, numbered, odd, busy')
    await db.query(
      insert(side),
      NAMES.map((name) => COLUMNS[name]?.[2 + side]),
    )
  }
})

async function digest(name: string, moving = false, signal = new AbortController().signal) {
  const [here, there] = await Promise.all([readTables(source, 'public'), readTables(target, 'public')])
  const pairs = [here, there].map((tables) => tables.find((table) => table.name === name))
  const [found] = await digestTables([pairs as never], {
    ...{ sourceUrl: pair.source.url, targetUrl: pair.target.url, sourceSchema: 'public', targetSchema: 'public' },
    ...{ concurrency: 1, signal },
    ...(moving && { catchUp: () => sleep(50) }),
  })
  return found
}

test("uses CockroachDB's statements on the target", async () => {
  const db = new pg.Client(pair.target.url)
  await db.connect()
  expect((await db.query('SELECT version()')).rows[0].version).toMatch(/^CockroachDB/)
  await db.end()
})

test.each([false, true])(
  'equal values have equal hashes, whatever their notation (rows change: %s)',
  async (moving) => {
    expect(await digest('items', moving)).toMatchObject({
      ...{ missing: 0, mismatch: 0, extraneous: 0, unproved: [] },
      ...(moving ? {} : { sourceRows: 300, targetRows: 300 }),
    })
  },
)

test.each(NAMES)('finds a single different value in %s', async (name) => {
  const other = COLUMNS[name]?.[4]
  await target.query(`UPDATE items SET ${name} = $1 WHERE id = 123`, [other])
  const found = await digest('items')
  expect(found).toMatchObject({ missing: 0, mismatch: 1, extraneous: 0, columns: { [name]: 1 }, unproved: [] })
  expect(found?.rows).toEqual([{ kind: 'mismatch', key: ['123', 'p0'], columns: [name] }])
})

const [US, RS] = ['\u001f', '\u001e']
test.each<[string, (string | null)[], (string | null)[]]>([
  ['NULL and a record separator', [null, 'x'], [RS, 'x']],
  ['values shifted by a column', [`1${US}2`, '3'], ['1', `2${US}3`]],
  ['NULL and a dash', ['-', 'x'], [null, 'x']],
  ['values that look like their own lengths', ['1:a', ''], ['1', 'a0:']],
  ['a long value and its hash', ['w'.repeat(400), 'x'], [createHash('md5').update('w'.repeat(400)).digest('hex'), 'x']],
])('distinguishes %s', async (_, here, there) => {
  await source.query('INSERT INTO texts VALUES (1, $1, $2)', here)
  await target.query('INSERT INTO texts VALUES (1, $1, $2)', there)
  for (const moving of [false, true])
    expect(await digest('texts', moving)).toMatchObject({ missing: 0, mismatch: 1, extraneous: 0, unproved: [] })
})

/** Swaps a value between two rows, which leaves the column's own sum unchanged. */
async function exchanged(column: string, other: string) {
  for (const db of [source, target]) await db.query(`UPDATE items SET ${column} = $1 WHERE id = 124`, [other])
  expect(await digest('items')).toMatchObject({ mismatch: 0, unproved: [] })
  await target.query(
    `UPDATE items i SET ${column} = o.${column} FROM items o WHERE i.id + o.id = 247 AND i.id IN (123, 124)`,
  )
}

test.each(NAMES.filter((name) => COLUMNS[name]?.[4] != null))(
  'finds two rows whose values of %s were swapped',
  async (name) => {
    await exchanged(name, COLUMNS[name]?.[4] as string)
    const found = { missing: 0, mismatch: 2, extraneous: 0, columns: { [name]: 2 }, unproved: [] }
    expect(await digest('items')).toMatchObject(found)
    expect(await digest('items', true)).toMatchObject(found)
  },
)

test.each([
  ['v', 'a key that both servers may write differently', "('1.50', '{\"a\": 1}', 'x'), ('2.50', '{\"a\": 2}', 'y')"],
  [
    'j',
    'a key and a value that both servers may write differently',
    "('1.50', '{\"a\": 1}', 'x'), ('2.50', '{\"a\": 2}', 'y')",
  ],
])('finds values of %s that were swapped between two rows with %s', async (column, _, rows) => {
  for (const db of [source, target]) await db.query(`INSERT INTO numbered VALUES ${rows}`)
  await target.query("UPDATE numbered SET k = (k::text || '0')::numeric WHERE k < 2")
  expect(await digest('numbered')).toMatchObject({ mismatch: 0, missing: 0, extraneous: 0, unproved: [] })
  await target.query(`UPDATE numbered i SET ${column} = o.${column} FROM numbered o WHERE o.k <> i.k`)
  expect(await digest('numbered')).toMatchObject({ mismatch: 2, columns: { [column]: 2 } })
})

test('does not prove values of rows whose key can only be compared as text', async () => {
  for (const db of [source, target])
    await db.query("INSERT INTO odd VALUES ('key', 'one', 'a'), ('10.0.0.2', '1 hour', 'b')")
  expect(await digest('odd')).toMatchObject({ mismatch: 0, unproved: [] })
  await target.query('UPDATE odd i SET v = o.v FROM odd o WHERE o.k <> i.k')
  expect(await digest('odd')).toMatchObject({
    unproved: [expect.stringMatching(/^k \(tsvector\) is compared only by molt/)],
  })
})

test('while rows change, proves only rows that were equal once if their key can only be compared as text', async () => {
  for (const db of [source, target])
    await db.query("INSERT INTO odd VALUES ('key', 'one', 'a'), ('10.0.0.2', '1 hour', 'b')")
  expect(await digest('odd', true)).toMatchObject({ mismatch: 0, unproved: [] })
  await target.query("UPDATE odd SET v = 'c' WHERE v = 'b'")
  expect(await digest('odd', true)).toMatchObject({
    mismatch: 0,
    unproved: [expect.stringMatching(/^its changing rows are compared only by molt/), expect.stringMatching(/^k /)],
  })
})

test('finds rows that exist on only one side, and two rows whose keys were changed', async () => {
  await target.query('DELETE FROM items WHERE id = 7; UPDATE items SET id = 9007 WHERE id = 8')
  await target.query("UPDATE items SET part = part || 'x' WHERE id IN (10, 11)")
  const found = await digest('items')
  expect(found).toMatchObject({ missing: 4, mismatch: 0, extraneous: 3, targetRows: 299 })
})

test.each([false, true])('reports a column that each side computes differently (rows change: %s)', async (moving) => {
  for (const [side, db] of [source, target].entries())
    await db.query(`
      CREATE TABLE IF NOT EXISTS computed (id int PRIMARY KEY, a int, b int GENERATED ALWAYS AS (abs(a) + ${side}) STORED);
      TRUNCATE computed; INSERT INTO computed (id, a) VALUES (1, 1)`)
  expect(await digest('computed', moving)).toMatchObject({ mismatch: 1, columns: { b: 1 } })
})

test('swapping values between columns changes the hash', async () => {
  await target.query('UPDATE items SET t = nil, nil = t WHERE id = 5; UPDATE items SET nil = NULL WHERE id = 6')
  expect(await digest('items')).toMatchObject({ mismatch: 2 })
})

test('reports values that it cannot compare, and counts those that certainly differ', async () => {
  for (const db of [source, target]) await db.query("INSERT INTO odd VALUES ('key', 'one', 'a')")
  expect(await digest('odd')).toMatchObject({ mismatch: 0, unproved: [] })
  await target.query("UPDATE odd SET i = 'two'")
  expect(await digest('odd')).toMatchObject({
    mismatch: 0,
    unproved: [expect.stringMatching(/^i \(tsvector\) is compared only by molt verify/)],
  })
  await target.query("UPDATE odd SET v = 'b'")
  expect(await digest('odd')).toMatchObject({ mismatch: 1 })
})

test('under writes, reports only rows that really differ', async () => {
  for (const db of [source, target]) await db.query("INSERT INTO busy SELECT n, 'x' FROM generate_series(1, 30000) n")
  await target.query("UPDATE busy SET v = 'damaged' WHERE id = 17; DELETE FROM busy WHERE id = 18")
  let writing = true
  const writes = (async () => {
    for (let n = 0; writing; n++)
      for (const db of [source, target])
        await db.query('UPDATE busy SET v = $1 WHERE id % 50 = $2', [String(n), (n % 10) + 20])
  })()
  const found = await digest('busy', true)
  writing = false
  await writes
  const still = found?.rows.filter(({ key }) => Number(key[0]) % 50 < 20)
  expect(still).toHaveLength(2)
  expect(still).toContainEqual({ kind: 'mismatch', key: ['17'], columns: ['v'] })
  expect(still).toContainEqual({ kind: 'missing', key: ['18'], columns: [] })
})

/** Creates a locked table, so that summing it never finishes. */
async function lockedTable(): Promise<pg.Client> {
  await source.query('CREATE TABLE IF NOT EXISTS slow (id int PRIMARY KEY, v text)')
  await target.query('CREATE TABLE IF NOT EXISTS slow (id int PRIMARY KEY, v text)')
  const locker = new pg.Client(pair.source.url)
  await locker.connect()
  await locker.query('BEGIN; LOCK TABLE slow')
  return locker
}

test('a cancelled run does not wait for the sums of a large table', async () => {
  const locker = await lockedTable()
  const cancel = new AbortController()
  const digesting = digest('slow', false, cancel.signal)
  await sleep(300)
  cancel.abort(new Error('cancelled'))
  await expect(digesting).rejects.toThrow()
  await locker.end()
})

test.each([
  ['hides rows of', '', /busy: row-level security on the target hides some rows from this role/],
  ['does not apply to', 'BYPASSRLS', undefined],
])('a row-level security policy that %s the role on the target', async (_, option, problem) => {
  const role = `reader${option}`.toLowerCase()
  await target.query(`CREATE ROLE ${role} LOGIN PASSWORD 'postgres' ${option}; GRANT SELECT ON ALL TABLES IN SCHEMA public TO ${role};
    ALTER TABLE busy ENABLE ROW LEVEL SECURITY`)
  const reader = new pg.Client(pair.target.url.replace('//postgres:', `//${role}:`))
  await reader.connect()
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['busy'] } as Plan
  const report = await runVerify(source, reader, {
    ...{ sourceUrl: pair.source.url, targetUrl: pair.target.url, plan, level: 'counts', logFile: '/dev/null' },
    signal: new AbortController().signal,
  })
  await reader.end()
  await target.query('ALTER TABLE busy DISABLE ROW LEVEL SECURITY')
  expect(report.problems).toEqual(problem ? [expect.stringMatching(problem)] : [])
})

test('if molt fails, the run ends and the server stops summing', async () => {
  const locker = await lockedTable()
  const dir = await mkdtemp(join(tmpdir(), 'molt-'))
  const program = join(dir, 'molt')
  await writeFile(program, '#!/bin/sh\n[ "$2" = --help ] && exit 0\nsleep 0.5\nexit 3\n', { mode: 0o755 })
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['slow'] } as Plan
  const verifying = runVerify(source, target, {
    ...{ program, sourceUrl: pair.source.url, targetUrl: pair.target.url, plan, level: 'full', help: '' },
    ...{ logFile: join(dir, 'log'), signal: new AbortController().signal },
  })
  await expect(verifying).rejects.toThrow(/exit/)
  const adding = () =>
    source.query("SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'SELECT bucket,%' AND state = 'active'")
  await vi.waitFor(async () => expect((await adding()).rows[0].count).toBe(0), 8_000)
  await locker.end()
  await rm(dir, { recursive: true })
})
