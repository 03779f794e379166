import { expect, it } from 'vitest'
import { REBUILD_TRIPS, SEQUENCE_TRIPS } from '../../src/actions/cutover/estimate.ts'
import { rebuildDeferred } from '../../src/destination/deferral.ts'
import { openWriteAccess } from '../../src/destination/write-access.ts'
import type { Database } from '../../src/runtime/database.ts'
import { readSchema } from '../../src/sql/schema.ts'
import { setSequences } from '../../src/sql/sequences.ts'

/*
 * Counts the sequential statements in the write pause. Each one takes 5 to 30 ms on a regional cluster. The schema is
 * the one behind the figures in docs/cockroachdb.md: 5 tables, 8 deferred objects, 15 grants.
 */
const TABLES = ['customers', 'orders', 'items', 'notes', 'prices']

/** Creates a database that counts round trips. Its answer to a statement is the value of the first key in the statement. */
function counting(answers: Record<string, object[]>) {
  const asked: string[] = []
  const rowsOf = (sql: string) => Object.entries(answers).find(([part]) => sql.includes(part))?.[1] ?? []
  const query = async (given: string) => {
    asked.push(given)
    const results = given.split(';\n').map((sql) => ({ rows: rowsOf(sql), rowCount: 1 }))
    return results.length > 1 ? results : results[0]
  }
  return { asked, db: { query, connectionParameters: { query_timeout: 61_000 } } as unknown as Database }
}

const deferred = (kind: string, table: string, name: string, create: string) => ({
  ...{ kind, schema_name: 'public', table_name: table, name, create_ddl: create, drop_ddl: '' },
  ...{ dropped: true, rebuilt: false },
})
const constraint = (kind: string, table: string, name: string) =>
  deferred(kind, table, name, `ALTER TABLE "public"."${table}" ADD CONSTRAINT "${name}" CHECK (true) NOT VALID`)

it('rebuilds 8 objects with one statement per unique index and per table with constraints', async () => {
  const objects = [
    deferred('unique', 'customers', 'u1', 'CREATE UNIQUE INDEX u1 ON customers (email)'),
    deferred('unique', 'orders', 'u2', 'CREATE UNIQUE INDEX u2 ON orders (code)'),
    ...['c1', 'c2', 'f1'].map((name) => constraint('check', 'orders', name)),
    ...['f2', 'f3', 'c3'].map((name) => constraint('foreign-key', 'items', name)),
  ]
  const { asked, db } = counting({ 'AS rebuilt': objects })
  expect(await rebuildDeferred(db, 'main', ['unique', 'check', 'foreign-key'])).toHaveLength(8)
  const changes = asked.filter((sql) => /^(CREATE|ALTER)/.test(sql))
  expect(changes).toHaveLength(4)
  expect(changes.find((sql) => sql.includes('"orders"'))).toBe(
    'ALTER TABLE "public"."orders" ADD CONSTRAINT "c1" CHECK (true) NOT VALID, ADD CONSTRAINT "c2" CHECK (true) NOT VALID, ADD CONSTRAINT "f1" CHECK (true) NOT VALID',
  )
  expect(asked.length - changes.length).toBe(REBUILD_TRIPS)
})

it('builds unique indexes in parallel, and constraints after all of them', async () => {
  const objects = [
    deferred('unique', 'customers', 'u1', 'CREATE UNIQUE INDEX u1 ON customers (email)'),
    deferred('unique', 'orders', 'u2', 'CREATE UNIQUE INDEX u2 ON orders (code)'),
    constraint('foreign-key', 'items', 'f1'),
  ]
  const begun: string[] = []
  let both = () => {}
  const meeting = new Promise<void>((done) => {
    both = done
  })
  const lane = () => {
    const { db } = counting({ 'AS rebuilt': objects })
    const query = async (sql: string) => {
      if (!/^(CREATE|ALTER)/.test(sql)) return db.query(sql)
      begun.push(sql.slice(0, 6))
      if (begun.length === 2) both()
      // Neither build finishes before the other one has started.
      if (sql.startsWith('CREATE')) await meeting
      return db.query(sql)
    }
    return { ...db, query } as unknown as Database
  }
  const built = await rebuildDeferred(lane(), 'main', ['unique', 'foreign-key'], { lanes: [lane()] })
  expect(built.sort()).toEqual(['public.customers.u1', 'public.items.f1', 'public.orders.u2'])
  expect(begun).toEqual(['CREATE', 'CREATE', 'ALTER '])
})

it('rebuilds constraints one by one if the combined statement fails, so the error names the constraint', async () => {
  const { asked, db } = counting({ 'AS rebuilt': ['c1', 'c2'].map((name) => constraint('check', 'orders', name)) })
  const refusing = {
    ...db,
    query: async (sql: string) => {
      if (sql.includes('c1') && sql.includes('c2') && sql.startsWith('ALTER')) throw new Error('refused')
      return db.query(sql)
    },
  } as unknown as Database
  expect(await rebuildDeferred(refusing, 'main', ['check'])).toHaveLength(2)
  expect(asked.filter((sql) => sql.startsWith('ALTER'))).toHaveLength(2)
})

it('sets any number of sequences in the same number of round trips', async () => {
  const trips = async (count: number) => {
    const sequences = Array.from({ length: count }, (_, at) => ({
      ...{ name: `s${at}`, last: '5', increment: '1', min: '1', max: '1000', cycle: false, cache: '1' },
      ...{ table: TABLES[at % 5], column: `c${at}` },
    }))
    const answers = {
      's.last_value AS last': sequences,
      typcategory: sequences.map(({ table, column }) => ({ table, column })),
      'max(': [{ value: '7' }],
      'SELECT last_value': [{ value: '107' }],
    }
    const [source, target] = [counting(answers), counting(answers)]
    const sides = [source, target].map(({ db }) => ({ db, schema: 'public' }))
    const { set, problems } = await setSequences(sides[0] as never, sides[1] as never, TABLES, 100n)
    expect(problems).toEqual([])
    expect(set.map(({ value }) => value)).toEqual(Array(count).fill('107'))
    return target.asked.length
  }
  expect(await trips(7)).toBe(await trips(40))
  expect(await trips(7)).toBeLessThanOrEqual(SEQUENCE_TRIPS)
})

it('restores 15 privileges in one statement without a time limit, and reads them back in another', async () => {
  const grants = TABLES.flatMap((table) =>
    ['INSERT', 'UPDATE', 'DELETE'].map((privilege) => ({ table, role: 'app', privilege, grantable: false })),
  )
  const { asked, db } = counting({ table_privileges: grants })
  expect((await openWriteAccess(db, 'public', grants)).missing).toEqual([])
  expect(asked.filter((sql) => !sql.startsWith('SET statement_timeout'))).toHaveLength(2)
  expect(asked).toHaveLength(4)
})

it('reads a target schema in two round trips', async () => {
  const { asked, db } = counting({
    'json_agg(': [{ oid: 1, table: 't', kind: 'r', columns: '["1 20 -1 0 true   id"]' }],
    'VALUES (': [{ key: '20 -1 0', type: 'bigint' }],
  })
  await readSchema(db, 'target', 'public')
  expect(asked).toHaveLength(2)
})
