/**
 * Everything that can be wrong between two databases, done to a small shop that was loaded and is equal, and undone
 * again: no test needs another one. Each must be red with its code and numbers, and what is undone must be green again.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { createShop, SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { inProcess } from '../support/in-process.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { NODE, STAND_IN_MOLT, standInFolder } from '../support/stand-in.ts'

const REPO = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

const PREPARE = { 'exclude-tables': 'orders_archive' }

let pair: Servers
let source: pg.Client
let target: pg.Client
let dir: string

/** What is done to the stand-in's command line and output, to make it fail as the real tool can. */
interface Trick {
  /** Values of flags that are given to it in place of the action's. */
  flags?: Record<string, string>
  add?: string[]
  /** Lines of its output that never come. */
  drop?: string
  /** It is killed when it writes such a line. */
  killAt?: string
  /** It is frozen when it writes such a line. */
  freezeAt?: string
  /** It says of this table that it had no row. */
  zero?: string
  /** It compares as a tool does that misreads both sides alike: no row differs. */
  blind?: boolean
}

/** A folder with a `molt` that plays a trick. */
function tricked(trick: Trick): string {
  const folder = join(dir, 'tricked')
  mkdirSync(folder, { recursive: true })
  const program = `#!${NODE}
const trick = ${JSON.stringify(trick)}
const bundle = ${JSON.stringify(STAND_IN_MOLT)}
const args = process.argv.slice(2)
if (/^--(help|version)$/.test(args.at(-1))) require(bundle)
else play()
function play() {
  const { spawn } = require('node:child_process')
  const { createInterface } = require('node:readline')
  for (const [flag, value] of Object.entries(trick.flags ?? {})) args[args.indexOf(flag) + 1] = value
  args.push(...(trick.add ?? []))
  const molt = spawn(process.execPath, [bundle, ...args], { stdio: ['inherit', 'pipe', 'inherit'] })
  createInterface({ input: molt.stdout }).on('line', (line) => {
    if (trick.killAt && new RegExp(trick.killAt).test(line)) {
      molt.kill('SIGKILL')
      process.kill(process.pid, 'SIGKILL')
    }
    if (trick.freezeAt && new RegExp(trick.freezeAt).test(line)) molt.kill('SIGSTOP')
    if (trick.blind && /"(missing|mismatching|extraneous) row/.test(line)) return
    if (trick.blind) line = line.replace(/"num_(missing|mismatch|extraneous)":\\d+/g, '"num_$1":0')
    if (trick.blind) line = line.replace(/("num_truth_rows":)(\\d+)(.*"num_success":)\\d+/, '$1$2$3$2')
    if (trick.zero && line.includes(trick.zero)) line = line.replace(/"num_rows":\\d+/, '"num_rows":0')
    if (!trick.drop || !new RegExp(trick.drop).test(line)) process.stdout.write(line + '\\n')
  })
  process.on('SIGTERM', () => molt.kill('SIGTERM'))
  molt.on('close', (code) => process.exit(code ?? 1))
}
`
  writeFileSync(join(folder, 'molt'), program, { mode: 0o755 })
  return folder
}

async function run(action: string, inputs: Record<string, string> = {}, trick?: Trick) {
  const result = await runAction({
    dir: join(REPO, 'actions', action),
    repo: REPO,
    inputs: { source: pair.source.url, target: pair.target.url, 'allow-insecure': 'true', ...inputs },
    start: inProcess,
    env: { PATH: `${trick ? tricked(trick) : standInFolder()}:${process.env.PATH}` },
  })
  const errors = result.annotations.filter(({ level }) => level === 'error').map(({ message }) => message)
  const warned = result.annotations.filter(({ level }) => level === 'warning').map(({ message }) => message)
  const { conclusion, outputs, orphans, summary } = result
  return { conclusion, outputs, orphans, summary, said: errors.join('\n'), warned: warned.join('\n') }
}

/** Red with this code, of no bug of ours; the message names what is concerned. */
function expectRed(result: Awaited<ReturnType<typeof run>>, code: string, ...names: string[]): void {
  expect(result, result.said).toMatchObject({ conclusion: 'failure', orphans: [], outputs: { 'error-code': code } })
  for (const name of names) expect(result.said).toContain(name)
}

/** What `verify` counted in a table. */
function tableOf({ outputs }: Awaited<ReturnType<typeof run>>, name: string) {
  return (JSON.parse(outputs.tables ?? '[]') as { name: string }[]).find((table) => table.name === name)
}

async function expectGreen(action: string, inputs: Record<string, string> = {}) {
  const result = await run(action, inputs)
  expect(result, result.said).toMatchObject({ conclusion: 'success', said: '', orphans: [] })
  return result
}

async function slots(): Promise<string[]> {
  return (await source.query('SELECT slot_name FROM pg_replication_slots')).rows.map((row) => row.slot_name)
}

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'sabotage-'))
  pair = await startServers()
  await Promise.all([createShop(pair.source.url, { rows: 1_000 }), createShop(pair.behind.url, { schemaOnly: true })])
  source = new pg.Client(pair.source.url)
  // By the side door: no statement of this test is the suite's.
  target = new pg.Client(pair.behind.url)
  await Promise.all([source.connect(), target.connect()])
  // Of this one the name begins like an expected table's.
  for (const db of [source, target]) await db.query('CREATE TABLE orders_archive (id bigint PRIMARY KEY, note text)')
  await source.query("INSERT INTO orders_archive VALUES (1, 'x')")
  // The tricks are played by other programs than the planned one.
  await expectGreen('prepare', { ...PREPARE, waive: 'tool.version=molt' })
}, 120_000)

afterAll(async () => {
  await Promise.all([source?.end(), target?.end()])
  await pair?.stop()
  rmSync(dir, { recursive: true, force: true })
})

/** What is done, what it is called, how it is undone on the target, and what the message must name. */
const DEFINITIONS: [what: string, done: string, undone: string, names: string[]][] = [
  ['a missing table', 'ALTER TABLE reviews RENAME TO away', 'ALTER TABLE away RENAME TO reviews', ['public.reviews']],
  [
    'a key mismatch',
    'ALTER TABLE cart_items DROP CONSTRAINT cart_items_pkey, ADD PRIMARY KEY (product_id, session)',
    'ALTER TABLE cart_items DROP CONSTRAINT cart_items_pkey, ADD PRIMARY KEY (session, product_id)',
    ['cart_items', '(session, product_id)', '(product_id, session)'],
  ],
  [
    'a missing column',
    'ALTER TABLE reviews RENAME COLUMN title TO headline',
    'ALTER TABLE reviews RENAME COLUMN headline TO title',
    ['reviews', 'title'],
  ],
  [
    'a changed type',
    'ALTER TABLE products ALTER weight_kg TYPE text',
    'ALTER TABLE products ALTER weight_kg TYPE numeric(10,3) USING weight_kg::numeric',
    ['weight_kg', 'numeric(10,3)', 'text'],
  ],
  [
    'a type that holds less',
    'ALTER TABLE products ALTER price TYPE numeric(8,2)',
    'ALTER TABLE products ALTER price TYPE numeric(12,2)',
    ['price', 'numeric(12,2)', 'numeric(8,2)'],
  ],
  [
    'a reordered enum',
    `ALTER TYPE order_status RENAME TO was;
     CREATE TYPE order_status AS ENUM ('paid', 'pending', 'shipped', 'delivered', 'cancelled');
     ALTER TABLE orders ALTER status DROP DEFAULT, ALTER status TYPE order_status USING status::text::order_status`,
    `ALTER TABLE orders ALTER status TYPE was USING status::text::was, ALTER status SET DEFAULT 'pending';
     DROP TYPE order_status; ALTER TYPE was RENAME TO order_status`,
    ['status', 'pending, paid', 'paid, pending'],
  ],
]

/** Runs `work` on a target that was changed, and undoes the change whatever comes of it. */
async function changed<T>(done: string, undone: string, work: () => Promise<T>): Promise<T> {
  await target.query(done)
  try {
    return await work()
  } finally {
    await target.query(undone)
  }
}

/** The load: each later test needs its rows, and none needs the tests before it. */
let load: Awaited<ReturnType<typeof run>> | undefined
async function loaded(): Promise<void> {
  if (load) return
  const inputs = { 'table-handling': 'truncate-if-exists', 'allow-truncate': SHOP_TABLES.join(',') }
  load = await expectGreen('fetch', { mode: 'direct-copy', ...inputs })
  await target.query('CREATE SCHEMA pristine')
  for (const table of SHOP_TABLES) await target.query(`CREATE TABLE pristine."${table}" AS TABLE "${table}"`)
}
const restored = (table: string) =>
  `TRUNCATE "${table}" CASCADE; INSERT INTO "${table}" SELECT * FROM pristine."${table}"`

describe('before the load', () => {
  test.each(DEFINITIONS)(
    '%s: nothing is moved',
    async (_, done, undone, names) => {
      const result = await changed(done, undone, () => run('fetch', { mode: 'direct-copy' }))
      expectRed(result, 'schema.changed', ...names)
      expect(result.outputs.rows).toBeUndefined()
      expect(await slots()).toEqual([])
    },
    60_000,
  )

  test('another molt than the planned one', async () => {
    await expectGreen('prepare', PREPARE)
    const result = await run('fetch', { mode: 'direct-copy' }, { drop: 'nothing' }).finally(() =>
      expectGreen('prepare', { ...PREPARE, waive: 'tool.version=molt' }),
    )
    expectRed(result, 'tools.not-planned', 'molt')
    expect(await slots()).toEqual([])
  }, 60_000)

  test('a table that the regular expression swallowed', async () => {
    const result = await run('fetch', { mode: 'direct-copy' }, { flags: { '--table-filter': 'orders' } })
    expect(result.warned).toContain('waive: tool.version=molt')
    expectRed(result, 'load.incomplete', 'orders_archive')
    expect(await slots()).toEqual([])
    expect((await target.query('SELECT * FROM orders_archive')).rows).toEqual([])
    await target.query('TRUNCATE orders')
  }, 60_000)

  test('a tool that finds no row, and says so', async () => {
    const lost = `CREATE FUNCTION nowhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER nowhere BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION nowhere()`
    const result = await changed(lost, 'DROP FUNCTION nowhere CASCADE', () =>
      run('fetch', { mode: 'direct-copy' }, { zero: 'reviews' }),
    )
    expectRed(result, 'load.incomplete', 'reviews')
    expect(await slots()).toEqual([])
    await target.query(`TRUNCATE ${SHOP_TABLES.map((table) => `"${table}"`).join(', ')}`)
  }, 60_000)

  test('the tool killed half-way', async () => {
    const result = await run('fetch', { mode: 'direct-copy' }, { killAt: 'data extraction from source complete' })
    expectRed(result, 'tool.killed', 'molt')
    expect(await slots()).toEqual([])
    // Tables that had arrived by then are not loaded a second time.
    expectRed(await run('fetch', { mode: 'direct-copy' }), 'load.target-not-empty', 'allow-truncate')
  }, 60_000)

  test('the tool frozen half-way', async () => {
    const empty = { 'table-handling': 'truncate-if-exists', 'allow-truncate': SHOP_TABLES.join(',') }
    const inputs = { mode: 'direct-copy', 'stall-after': '5s', ...empty }
    const result = await run('fetch', inputs, { freezeAt: 'starting fetch' })
    expectRed(result, 'tool.stalled', 'stall-after')
    expect(await slots()).toEqual([])
  }, 60_000)
})

/** Rows on the target are put back from a copy. */
const ROWS: [what: string, table: string, done: string, found: Record<string, unknown>][] = [
  ['a deleted row', 'reviews', 'DELETE FROM reviews WHERE id = 7', { missing: 1 }],
  ['a changed row', 'reviews', "UPDATE reviews SET rating = 6 - rating, title = 'x' WHERE id = 8", { mismatch: 1 }],
  [
    'an added row',
    'reviews',
    "INSERT INTO reviews (id, product_id, customer_id, rating, body) VALUES (999999, 1, 1, 1, 'x')",
    { extraneous: 1, diagnosis: expect.any(String) },
  ],
  [
    'only the microseconds of a timestamp',
    'reviews',
    "UPDATE reviews SET created_at = date_trunc('milliseconds', created_at) WHERE id < 9",
    { columns: ['created_at'], diagnosis: expect.any(String) },
  ],
  [
    'an empty string that became NULL',
    'orders',
    "UPDATE orders SET coupon = NULL WHERE coupon = ''",
    { columns: ['coupon'], diagnosis: expect.any(String) },
  ],
  [
    'a table that was emptied on the source by TRUNCATE',
    'cart_items',
    'INSERT INTO cart_items SELECT gen_random_uuid(), 1 FROM generate_series(1, 100)',
    { extraneous: 100, diagnosis: expect.any(String) },
  ],
]

describe('after the load', () => {
  beforeAll(loaded, 60_000)

  test('the whole of it, once nothing is wrong', async () => {
    expect(load?.outputs.tables).toBe(String(SHOP_TABLES.length))
    await expectGreen('verify')
  }, 60_000)

  test.each(ROWS)(
    '%s',
    async (_, table, done, found) => {
      const result = await changed(done, restored(table), () => run('verify'))
      expectRed(result, 'verify.differences', table)
      expect(tableOf(result, table)).toMatchObject({ equal: false, ...found })
      expect(result.outputs.verdict).toBe('different')
    },
    60_000,
  )

  test.each(DEFINITIONS)(
    '%s',
    async (_, done, undone, names) => {
      const [dry, full] = await changed(
        done,
        undone,
        async () => [await run('verify', { dry: 'true' }), await run('verify')] as const,
      )
      expectRed(dry, 'verify.inconclusive', ...names)
      expectRed(full, 'verify.inconclusive', ...names)
    },
    60_000,
  )

  const UNSEEN: [what: string, table: string, done: string, found: Record<string, unknown>][] = [
    [
      'a number that was cut',
      'payments',
      'UPDATE payments SET fee = round(fee, 10) WHERE scale(fee) > 10',
      { columns: ['fee'], unseen: expect.any(Number), diagnosis: expect.any(String) },
    ],
    [
      'a number inside JSON',
      'customers',
      'UPDATE customers SET settings = settings || \'{"ratio": 1.2}\' WHERE id = 3',
      { mismatch: 1, columns: ['settings'], unseen: 1 },
    ],
    ['a row that is not there', 'reviews', 'DELETE FROM reviews WHERE id = 7', { missing: 1, unseen: 1 }],
    [
      'one row in place of another',
      'reviews',
      'UPDATE reviews SET id = 888888 WHERE id = 9',
      { missing: 1, extraneous: 1, unseen: 2 },
    ],
  ]
  test.each(UNSEEN)(
    '%s, which molt verify does not see',
    async (_, table, done, found) => {
      const result = await changed(done, restored(table), () => run('verify', {}, { blind: true }))
      expectRed(result, 'verify.differences', table)
      expect(tableOf(result, table)).toMatchObject({ equal: false, ...found })
      expect(result.outputs.verdict).toBe('different')
    },
    60_000,
  )

  test('rows that a policy hides from the role that reads', async () => {
    await source.query(`CREATE ROLE reader LOGIN PASSWORD 'postgres'; GRANT pg_read_all_data TO reader;
      ALTER TABLE reviews ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON reviews USING (id % 2 = 0)`)
    const reader = pair.source.url.replace('//postgres:', '//reader:')
    const result = await run('verify', { source: reader }).finally(() =>
      source.query('DROP POLICY half ON reviews; ALTER TABLE reviews DISABLE ROW LEVEL SECURITY'),
    )
    expectRed(result, 'source.row-level-security', 'reviews')
  }, 60_000)

  test('a shard that never finished', async () => {
    const trick = { add: ['--table-splits', '3'], drop: 'finished .* public.customers \\(shard 2/3\\)' }
    expectRed(await run('verify', {}, trick), 'verify.inconclusive', 'customers', '2 of 3')
  }, 60_000)

  test('a verify that matched nothing', async () => {
    const result = await run('verify', {}, { flags: { '--table-filter': '^nothing$' } })
    expectRed(result, 'verify.inconclusive')
  }, 60_000)

  test('a table that the regular expression swallowed', async () => {
    const result = await run('verify', { tables: 'orders' }, { flags: { '--table-filter': 'orders' } })
    expectRed(result, 'verify.differences', 'orders_archive')
  }, 60_000)

  test('the tool killed half-way', async () => {
    const result = await run('verify', {}, { killAt: 'finished row verification' })
    expectRed(result, 'tool.killed', 'molt')
  }, 60_000)

  test('the tool frozen half-way', async () => {
    const result = await run('verify', { 'stall-after': '2s' }, { freezeAt: 'starting verify' })
    expectRed(result, 'tool.stalled', 'stall-after', 'starting verify')
  }, 60_000)

  test('all of it undone is green again', async () => {
    const { outputs } = await expectGreen('verify')
    expect(outputs.verdict).toBe('clean')
  }, 60_000)
})

describe('what is finished after the load', () => {
  const strict = { structure: 'require', dry: 'true' }

  beforeAll(async () => {
    await loaded()
    const { rows: constraints } = await source.query(
      `SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS sql
         FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('u', 'f') ORDER BY contype DESC`,
    )
    const { rows: indexes } = await source.query(
      `SELECT indexdef AS sql FROM pg_indexes i WHERE schemaname = 'public'
          AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = i.indexname)`,
    )
    for (const { sql } of [...constraints, ...indexes]) await target.query(sql)
    const { summary, warned } = await expectGreen('finalize')
    expect(summary).toContain('Not finalized')
    expect(warned).toContain('loaded')
  }, 60_000)

  test('complete', async () => {
    await expectGreen('verify', strict)
  }, 60_000)

  test.each([
    [
      'a sequence behind',
      "SELECT setval('customers_id_seq', 2)",
      "SELECT setval('customers_id_seq', 100000)",
      ['customers_id_seq'],
    ],
    [
      'a sequence that stands alone behind',
      "SELECT setval('invoice_numbers', 100001)",
      "SELECT setval('invoice_numbers', 900000)",
      ['invoice_numbers'],
    ],
    [
      'an index missing',
      'DROP INDEX orders_customer_id_idx',
      'CREATE INDEX orders_customer_id_idx ON orders (customer_id, placed_at DESC)',
      ['orders', 'orders_customer_id_idx'],
    ],
    [
      'a unique index that is none',
      'ALTER TABLE products DROP CONSTRAINT products_sku_key; CREATE INDEX sku ON products (sku)',
      'DROP INDEX sku; ALTER TABLE products ADD CONSTRAINT products_sku_key UNIQUE (sku)',
      ['products', 'products_sku_key'],
    ],
    [
      'a foreign key that is not validated',
      `ALTER TABLE reviews DROP CONSTRAINT reviews_product_id_fkey,
         ADD CONSTRAINT reviews_product_id_fkey FOREIGN KEY (product_id) REFERENCES products NOT VALID`,
      'ALTER TABLE reviews VALIDATE CONSTRAINT reviews_product_id_fkey',
      ['reviews', 'reviews_product_id_fkey'],
    ],
    [
      'a check constraint missing',
      'ALTER TABLE reviews DROP CONSTRAINT reviews_rating_check',
      'ALTER TABLE reviews ADD CONSTRAINT reviews_rating_check CHECK (rating BETWEEN 1 AND 5)',
      ['reviews', 'reviews_rating_check'],
    ],
  ])(
    '%s',
    async (_, done, undone, names) => {
      const result = await changed(done, undone, () => run('verify', strict))
      expectRed(result, 'verify.inconclusive', ...names)
    },
    60_000,
  )

  test('a sequence that cannot be set is a problem long before it is to be set', async () => {
    const result = await changed(
      'ALTER SEQUENCE orders_id_seq INCREMENT BY -1 MINVALUE -1000',
      'ALTER SEQUENCE orders_id_seq INCREMENT BY 1 MINVALUE 1',
      () => run('verify', { structure: 'report', dry: 'true' }),
    )
    expectRed(result, 'verify.inconclusive', 'public.orders_id_seq', '-1')
  }, 60_000)

  test('all of it undone is green again', async () => {
    await expectGreen('verify', { structure: 'require' })
  }, 60_000)
})
