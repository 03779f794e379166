import { expect, it } from 'vitest'
import { plannedDeferral } from '../../src/destination/deferral.ts'
import type { Database } from '../../src/runtime/database.ts'
import { readSchema, referredColumns } from '../../src/sql/schema.ts'
import { hidesTriggers } from '../../src/sql/triggers.ts'

/*
 * Catalog contents that differ between CockroachDB and PostgreSQL, from docs/cockroachdb.md. The table `orders (id,
 * customer, total, code)` went through an ALTER COLUMN TYPE: its column `customer` has attribute number 2 and column
 * id 5.
 */
const CUSTOMERS = { oid: 101, table: 'customers', kind: 'r', columns: JSON.stringify(['1 20 -1 0 true   id']) }
const ORDERS = {
  oid: 102,
  table: 'orders',
  kind: 'r',
  columns: JSON.stringify([
    '1 20 -1 0 true   id',
    '2 20 -1 0 false   customer',
    '3 20 -1 0 false   total',
    '4 20 -1 0 false   code',
    '6 20 -1 0 true v  crdb_internal_code_shard_16',
  ]),
}
const index = (change: object) => ({
  ...{ schema: 'public', table: 'orders', oid: 102, unique: false, primary: false, valid: true, partial: false },
  ...change,
})
const constraint = (change: object) => ({
  ...{ schema: 'public', table: 'orders', oid: 102, condition: null, deferrable: false, validated: true },
  ...{ refSchema: null, refTable: null, refOid: null, refKey: null, onUpdate: ' ', onDelete: ' ', match: ' ' },
  ...change,
})
const FOREIGN_KEY = constraint({
  ...{ name: 'to_customer', kind: 'f', key: [5], refSchema: 'public', refTable: 'customers', refOid: 101, refKey: [9] },
  ...{ onUpdate: 'a', onDelete: 'c', match: 's', index: null },
  definition: 'FOREIGN KEY (customer) REFERENCES customers(id) ON DELETE CASCADE',
})
const KEY_COLUMN = { schema: 'public', table: 'orders', name: 'to_customer', column: 'customer' }

/** Returns a database that picks its answer by a text in the statement. `change` replaces answers. */
function cluster(change: Record<string, object[]> = {}): Database {
  const answers: Record<string, object[]> = {
    'json_agg(': [CUSTOMERS, ORDERS],
    'AS "keyCount"': [
      index({ oid: 101, table: 'customers', index: 201, unique: true, primary: true, key: '1', keyCount: 1 }),
      index({ index: 202, unique: true, primary: true, key: '1', keyCount: 1 }),
      index({ index: 203, key: '6 4', keyCount: 2 }),
      index({ index: 204, unique: true, valid: false, key: '3', keyCount: 1 }),
    ],
    'FROM pg_catalog.pg_constraint': [FOREIGN_KEY],
    "i.relkind IN ('i', 'I')": [
      { oid: 201, name: 'customers_pkey', method: 'prefix' },
      { oid: 202, name: 'orders_pkey', method: 'prefix' },
      { oid: 203, name: 'by_code', method: 'prefix' },
      { oid: 204, name: 'orders_total_key', method: 'prefix' },
    ],
    'FROM pg_catalog.pg_indexes': [
      {
        table: 'orders',
        name: 'by_code',
        definition: 'CREATE INDEX by_code ON shop.public.orders USING btree (code ASC)',
      },
    ],
    'information_schema.key_column_usage': [KEY_COLUMN],
    'VALUES (': [{ key: '20 -1 0', type: 'bigint' }],
    ...change,
  }
  const rowsOf = (sql: string) => Object.entries(answers).find(([asked]) => sql.includes(asked))?.[1] ?? []
  const query = async (sql: string) => {
    const results = sql.split(';\n').map((each) => ({ rows: rowsOf(each) }))
    return results.length > 1 ? results : results[0]
  }
  return { query } as unknown as Database
}

it('reads keys, foreign keys and hash-sharded indexes correctly after an ALTER COLUMN TYPE', async () => {
  const schema = await readSchema(cluster(), 'target', 'public')
  expect(schema.tables.map(({ name, key }) => [name, key])).toEqual([
    ['customers', ['id']],
    ['orders', ['id']],
  ])
  expect(schema.constraints[0]).toMatchObject({ columns: ['customer'], references: { columns: ['id'] } })
  expect(schema.indexes.find(({ name }) => name === 'by_code')?.columns).toEqual(['code'])
})

it('does not drop anything on the target that it cannot rebuild', async () => {
  const both = { indexes: true, constraints: true }
  const planned = async (db: Database) =>
    plannedDeferral(await readSchema(db, 'target', 'public'), ['orders', 'customers'], both, true)
  const building = await planned(cluster())
  expect(building.unwritable).toHaveLength(1)
  expect(building.unwritable[0]).toContain('orders_total_key')
  const hidden = await planned(cluster({ 'information_schema.key_column_usage': [] }))
  expect(hidden.unwritable.some((each) => each.includes('to_customer'))).toBe(true)
  expect(building.objects.find(({ name }) => name === 'to_customer')?.create).toBe(
    'ALTER TABLE "public"."orders" ADD CONSTRAINT "to_customer" FOREIGN KEY (customer) REFERENCES "public"."customers"(id) ON DELETE CASCADE NOT VALID',
  )
})

it('never negates a boolean column, which could be NULL', async () => {
  const asked: string[] = []
  const db = cluster()
  const query = (sql: string) => {
    asked.push(sql)
    return db.query(sql)
  }
  const listening = { query } as unknown as Database
  await readSchema(listening, 'target', 'public')
  expect(asked.join('\n')).not.toMatch(/\bNOT \w+\.\w+\b/)
})

it.each([
  ['FOREIGN KEY (a) REFERENCES t(x)', ['x']],
  ['FOREIGN KEY ("A b", b) REFERENCES far."T t" ("X ""y""", y) MATCH FULL ON DELETE CASCADE NOT VALID', ['X "y"', 'y']],
  ['FOREIGN KEY (a) REFERENCES shop.public.t (x, y, z)', ['x', 'y', 'z']],
  ['CHECK ((a > 0))', []],
])('reads the referenced columns of %s', (definition, columns) => {
  expect(referredColumns(definition)).toEqual(columns)
})

it.each([
  ['CockroachDB CCL v24.2.1 (x86_64)', false],
  ['CockroachDB CCL v24.3.0 (x86_64)', true],
  ['CockroachDB CCL v25.2.4 (x86_64)', true],
  ['CockroachDB CCL v25.3.0 (x86_64)', false],
  ['PostgreSQL 24.3 on x86_64', false],
])('knows whether %s lists its triggers', (version, hides) => {
  expect(hidesTriggers(version)).toBe(hides)
})
