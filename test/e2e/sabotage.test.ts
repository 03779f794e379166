/**
 * Applies every kind of difference to a small loaded shop and undoes it, so that each test starts from the same state. Each
 * one must fail with its code and numbers. Once it is undone, the step must succeed again.
 */
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { createShop, SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { inProcess } from '../support/in-process.ts'
import { DEFINITIONS, ROWS, UNSEEN } from '../support/sabotage.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder, type Trick, trickedFolder } from '../support/stand-in.ts'

const REPO = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '')

const PREPARE = { 'exclude-tables': 'orders_archive' }

let pair: Servers
let source: pg.Client
let target: pg.Client

async function run(action: string, inputs: Record<string, string> = {}, trick?: Trick) {
  const result = await runAction({
    dir: join(REPO, 'actions', action),
    repo: REPO,
    inputs: { source: pair.source.url, target: pair.target.url, 'allow-insecure': 'true', ...inputs },
    start: inProcess,
    env: { PATH: `${trick ? trickedFolder(trick) : standInFolder()}:${process.env.PATH}` },
  })
  const errors = result.annotations.filter(({ level }) => level === 'error').map(({ message }) => message)
  const warned = result.annotations.filter(({ level }) => level === 'warning').map(({ message }) => message)
  const { conclusion, outputs, orphans, summary } = result
  return { conclusion, outputs, orphans, summary, said: errors.join('\n'), warned: warned.join('\n') }
}

/** Expects a failure with this error code and a message that contains these names. */
function expectRed(result: Awaited<ReturnType<typeof run>>, code: string, ...names: string[]): void {
  expect(result, result.said).toMatchObject({ conclusion: 'failure', orphans: [], outputs: { 'error-code': code } })
  for (const name of names) expect(result.said).toContain(name)
}

/** Returns the counts of `verify` for a table. */
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
  pair = await startServers()
  await Promise.all([createShop(pair.source.url, { rows: 1_000 }), createShop(pair.behind.url, { schemaOnly: true })])
  source = new pg.Client(pair.source.url)
  // Connects directly to PostgreSQL, so that the test's own statements do not count as the suite's.
  target = new pg.Client(pair.behind.url)
  await Promise.all([source.connect(), target.connect()])
  // The name of this extra table starts like the name of a migrated table.
  for (const db of [source, target]) await db.query('CREATE TABLE orders_archive (id bigint PRIMARY KEY, note text)')
  await source.query("INSERT INTO orders_archive VALUES (1, 'x')")
  // Some tests replace the planned program with one that misbehaves.
  await expectGreen('prepare', { ...PREPARE, waive: 'tool.version=molt' })
}, 120_000)

afterAll(async () => {
  await Promise.all([source?.end(), target?.end()])
  await pair?.stop()
})

/** Runs `work` while the target is changed, and always undoes the change. */
async function changed<T>(done: string, undone: string, work: () => Promise<T>): Promise<T> {
  await target.query(done)
  try {
    return await work()
  } finally {
    await target.query(undone)
  }
}

/** Result of the load. Later tests need only its rows, not the tests before them. */
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
    '%s: moves nothing',
    async (_, done, undone, names) => {
      const result = await changed(done, undone, () => run('fetch', { mode: 'direct-copy' }))
      expectRed(result, 'schema.changed', ...names)
      expect(result.outputs.rows).toBeUndefined()
      expect(await slots()).toEqual([])
    },
    60_000,
  )

  test('rejects a molt that differs from the planned one', async () => {
    await expectGreen('prepare', PREPARE)
    const result = await run('fetch', { mode: 'direct-copy' }, { drop: 'nothing' }).finally(() =>
      expectGreen('prepare', { ...PREPARE, waive: 'tool.version=molt' }),
    )
    expectRed(result, 'tools.not-planned', 'molt')
    expect(await slots()).toEqual([])
  }, 60_000)

  test('rejects a load that also matched another table', async () => {
    const result = await run('fetch', { mode: 'direct-copy' }, { flags: { '--table-filter': 'orders' } })
    expect(result.warned).toContain('waive: tool.version=molt')
    expectRed(result, 'load.incomplete', 'orders_archive')
    expect(await slots()).toEqual([])
    expect((await target.query('SELECT * FROM orders_archive')).rows).toEqual([])
    await target.query('TRUNCATE orders')
  }, 60_000)

  test('rejects a tool that reports no rows', async () => {
    const lost = `CREATE FUNCTION nowhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER nowhere BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION nowhere()`
    const result = await changed(lost, 'DROP FUNCTION nowhere CASCADE', () =>
      run('fetch', { mode: 'direct-copy' }, { zero: 'reviews' }),
    )
    expectRed(result, 'load.incomplete', 'reviews')
    expect(await slots()).toEqual([])
    await target.query(`TRUNCATE ${SHOP_TABLES.map((table) => `"${table}"`).join(', ')}`)
  }, 60_000)

  test('reports a tool that is killed halfway', async () => {
    const result = await run('fetch', { mode: 'direct-copy' }, { killAt: 'data extraction from source complete' })
    expectRed(result, 'tool.killed', 'molt')
    expect(await slots()).toEqual([])
    // The tables that were already loaded are not loaded again.
    expectRed(await run('fetch', { mode: 'direct-copy' }), 'load.target-not-empty', 'allow-truncate')
  }, 60_000)

  test('reports a tool that freezes halfway', async () => {
    const empty = { 'table-handling': 'truncate-if-exists', 'allow-truncate': SHOP_TABLES.join(',') }
    const inputs = { mode: 'direct-copy', 'stall-after': '5s', ...empty }
    const result = await run('fetch', inputs, { freezeAt: 'starting fetch' })
    expectRed(result, 'tool.stalled', 'stall-after')
    expect(await slots()).toEqual([])
  }, 60_000)
})

describe('after the load', () => {
  beforeAll(loaded, 60_000)

  test('succeeds after a complete load without defects', async () => {
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

  test.each(UNSEEN)(
    '%s, although molt verify does not detect it',
    async (_, table, done, found) => {
      const result = await changed(done, restored(table), () => run('verify', {}, { blind: true }))
      expectRed(result, 'verify.differences', table)
      expect(tableOf(result, table)).toMatchObject({ equal: false, ...found })
      expect(result.outputs.verdict).toBe('different')
    },
    60_000,
  )

  test('detects that a row-level security policy hides rows from the role', async () => {
    await source.query(`CREATE ROLE reader LOGIN PASSWORD 'postgres'; GRANT pg_read_all_data TO reader;
      ALTER TABLE reviews ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON reviews USING (id % 2 = 0)`)
    const reader = pair.source.url.replace('//postgres:', '//reader:')
    const result = await run('verify', { source: reader }).finally(() =>
      source.query('DROP POLICY half ON reviews; ALTER TABLE reviews DISABLE ROW LEVEL SECURITY'),
    )
    expectRed(result, 'source.row-level-security', 'reviews')
  }, 60_000)

  test('rejects a comparison with a shard that never finished', async () => {
    const trick = { add: ['--table-splits', '3'], drop: 'finished .* public.customers \\(shard 2/3\\)' }
    expectRed(await run('verify', {}, trick), 'verify.inconclusive', 'customers', '2 of 3')
  }, 60_000)

  test('rejects a comparison that matched no tables', async () => {
    const result = await run('verify', {}, { flags: { '--table-filter': '^nothing$' } })
    expectRed(result, 'verify.inconclusive')
  }, 60_000)

  test('rejects a comparison that also matched another table', async () => {
    const result = await run('verify', { tables: 'orders' }, { flags: { '--table-filter': 'orders' } })
    expectRed(result, 'verify.differences', 'orders_archive')
  }, 60_000)

  test('reports a tool that is killed halfway', async () => {
    const result = await run('verify', {}, { killAt: 'finished row verification' })
    expectRed(result, 'tool.killed', 'molt')
  }, 60_000)

  test('reports a tool that freezes halfway', async () => {
    const result = await run('verify', { 'stall-after': '2s' }, { freezeAt: 'starting verify' })
    expectRed(result, 'tool.stalled', 'stall-after', 'starting verify')
  }, 60_000)

  test('succeeds again once everything is undone', async () => {
    const { outputs } = await expectGreen('verify')
    expect(outputs.verdict).toBe('clean')
  }, 60_000)
})

describe('objects completed after the load', () => {
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
      'a standalone sequence that is behind',
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
      'a unique index that is not unique',
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
      'a missing check constraint',
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

  test('reports long before the cutover that a sequence cannot be set', async () => {
    const result = await changed(
      'ALTER SEQUENCE orders_id_seq INCREMENT BY -1 MINVALUE -1000',
      'ALTER SEQUENCE orders_id_seq INCREMENT BY 1 MINVALUE 1',
      () => run('verify', { structure: 'report', dry: 'true' }),
    )
    expectRed(result, 'verify.inconclusive', 'public.orders_id_seq', '-1')
  }, 60_000)

  test('succeeds again once everything is undone', async () => {
    await expectGreen('verify', { structure: 'require' })
  }, 60_000)
})
