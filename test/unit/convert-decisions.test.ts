import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { readDecisions, unknownNames } from '../../src/conversion/decisions.ts'
import type { Catalog } from '../../src/model/catalog.ts'
import { didYouMean } from '../../src/runtime/inputs.ts'

const dir = mkdtempSync(join(tmpdir(), 'convert-decisions-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

function read(text: string) {
  const path = join(dir, 'convert.yml')
  writeFileSync(path, text)
  return readDecisions(path, didYouMean)
}

test("reads a team's decisions", () => {
  const { decisions, problems } = read(
    'version: 1\ntables: { orders: { hash: 8, columns: { total: { type: INT8 } } } }\n',
  )
  expect(problems).toEqual([])
  expect(decisions.tables?.orders).toEqual({ hash: 8, columns: { total: { type: 'INT8' } } })
})

test.each([
  ['version: 1\ntabels: {}\n', /^tabels .*`tables`/],
  ['version: 1\nrules: { key.hotspots: hash }\n', /^rules\.key\.hotspots .*`key\.hotspot`/],
  ['version: 1\ntables: { orders: { colums: {} } }\n', /^tables\.orders\.colums .*`columns`/],
  [
    'version: 1\ntables: { orders: { columns: { total: { tpe: INT8 } } } }\n',
    /^tables\.orders\.columns\.total\.tpe .*`type`/,
  ],
  [
    'version: 1\ntables: { orders: { indexes: { i: { storin: [a] } } } }\n',
    /^tables\.orders\.indexes\.i\.storin .*`storing`/,
  ],
])('suggests the intended key: %j', (text, problem) => {
  expect(read(text).problems).toEqual([expect.stringMatching(problem)])
})

test.each(['version: 2\n', 'version: 1\ntables: { orders: { hash: 1 } }\n', 'version: [\n'])('refuses %j', (text) => {
  expect(read(text).problems).toHaveLength(1)
})

test('reports decisions about tables, columns, indexes and constraints that do not exist', () => {
  const catalog = {
    tables: [{ name: 'orders', columns: [{ name: 'total' }] }],
    indexes: [{ table: 'orders', name: 'orders_total' }],
    constraints: [],
  } as unknown as Catalog
  const { decisions } = read(
    'version: 1\ntables:\n  order: {}\n  orders: { key: [totl], columns: { totals: {} }, indexes: { orders_totl: {} }, constraints: { c: {} } }\n',
  )
  const at = unknownNames(decisions, catalog, didYouMean).map((each) => each.split(':')[0])
  expect(at).toEqual([
    'tables.order',
    'tables.orders.columns.totals',
    'tables.orders.indexes.orders_totl',
    'tables.orders.constraints.c',
    'tables.orders.key',
  ])
})

test('reports decisions that cannot be built or have no effect', () => {
  const column = (name: string) => ({ column: name })
  const catalog = {
    schema: 'public',
    tables: [
      { name: 'orders', columns: [{ name: 'id' }, { name: 'code' }] },
      { name: 'lines', columns: [{ name: 'code' }] },
    ],
    indexes: [
      { table: 'orders', name: 'orders_pkey', unique: true, columns: [column('id')] },
      { table: 'orders', name: 'orders_code_key', unique: true, columns: [column('code')] },
      { table: 'orders', name: 'by_code', unique: false, columns: [column('code')] },
    ],
    constraints: [
      { schema: 'public', table: 'orders', name: 'orders_pkey', kind: 'primary key', references: null },
      { schema: 'public', table: 'orders', name: 'orders_code_key', kind: 'unique', references: null },
      {
        schema: 'public',
        table: 'lines',
        name: 'lines_code',
        kind: 'foreign key',
        references: { schema: 'public', table: 'orders', columns: ['code'] },
      },
    ],
  } as unknown as Catalog
  const problems = (yaml: string) => unknownNames(read(`version: 1\n${yaml}`).decisions, catalog, didYouMean).length
  const orders = (text: string) => problems(`tables: { orders: { ${text} } }`)
  expect(orders('indexes: { by_code: { sql: CREATE INDEX by_code ON public.orders (code) } }')).toBe(0)
  expect(orders('indexes: { by_code: { storing: [id], name: other } }')).toBe(0)
  expect(orders('indexes: { by_code: { sql: CREATE INDEX other ON orders (code) } }')).toBe(1)
  expect(orders('indexes: { by_code: { sql: CREATE INDEX by_code ON lines (code) } }')).toBe(1)
  expect(orders('indexes: { by_code: { storing: [cod] } }')).toBe(1)
  expect(orders('indexes: { by_code: { name: orders_code_key } }')).toBe(1)
  expect(orders('indexes: { orders_pkey: { hash: true } }')).toBe(1)
  expect(orders('constraints: { orders_code_key: { check: code > 0 } }')).toBe(1)
  expect(orders('constraints: { orders_code_key: { drop: not needed } }')).toBe(1)
  const both =
    'orders: { indexes: { orders_code_key: { drop: not needed } } }, lines: { constraints: { lines_code: { drop: no } } }'
  expect(problems(`tables: { ${both.replace('drop: no ', 'drop: not needed ')} }`)).toBe(0)
})
