import { expect, test } from 'vitest'
import { type Deferred, offendingRows } from '../../src/destination/deferral.ts'

const object = (kind: Deferred['kind'], create: string): Deferred => ({
  ...{ kind, schema: 'public', table: 'a b', name: 'x', create, drop: '', dropped: true, rebuilt: false },
  ...{ valid: true, comments: [] },
})
const T = '"public"."a b"'

test.each([
  [
    'unique',
    `ALTER TABLE ${T} ADD CONSTRAINT "x" UNIQUE ("e", "f")`,
    'Key (e, f)=(me@example.com, 1) is duplicated.',
    `SELECT e, f, count(*) FROM ${T} GROUP BY e, f HAVING count(*) > 1 LIMIT 20`,
  ],
  [
    'unique',
    `CREATE UNIQUE INDEX x ON public."a b" USING btree (lower(e)) WHERE (gone IS NULL)`,
    'Key (lower(e))=(me@example.com) is duplicated.',
    `SELECT lower(e), count(*) FROM ${T} WHERE (gone IS NULL) GROUP BY lower(e) HAVING count(*) > 1 LIMIT 20`,
  ],
  [
    'check',
    `ALTER TABLE ${T} ADD CONSTRAINT "x" CHECK ((n > 0))`,
    'Failing row contains (1, me@example.com).',
    `SELECT * FROM ${T} WHERE NOT ((n > 0)) LIMIT 20`,
  ],
  [
    'foreign-key',
    `ALTER TABLE ${T} ADD CONSTRAINT "x" FOREIGN KEY ("p", "q") REFERENCES "public"."b" ("r", "s") ON DELETE CASCADE NOT VALID`,
    'Key (p, q)=(1, me@example.com) is not present in table "b".',
    `SELECT "p", "q" FROM ${T} WHERE ("p", "q") NOT IN (SELECT "r", "s" FROM "public"."b" WHERE ("r", "s") IS NOT NULL) LIMIT 20`,
  ],
] as const)(
  'for a %s that rows violate, prints a query that lists the rows, without their values',
  (kind, create, detail, sql) => {
    expect(offendingRows(object(kind, create), { detail })).toBe(sql)
  },
)

test.each([
  [
    'check',
    `ALTER TABLE ${T} ADD CONSTRAINT "x" CHECK ((n > 0)) NO INHERIT NOT VALID`,
    `SELECT * FROM ${T} WHERE NOT ((n > 0)) LIMIT 20`,
  ],
  [
    'foreign-key',
    `ALTER TABLE ${T} ADD CONSTRAINT "x" FOREIGN KEY (p, q) REFERENCES b(r, s) ON DELETE SET NULL (q) DEFERRABLE NOT VALID`,
    `SELECT p, q FROM ${T} WHERE (p, q) NOT IN (SELECT r, s FROM b WHERE (r, s) IS NOT NULL) LIMIT 20`,
  ],
] as const)('also prints such a query for a %s that the server has formatted', (kind, create, sql) => {
  expect(offendingRows(object(kind, create), {})).toBe(sql)
})

test('prints the definition if the server sends no detail', () => {
  expect(offendingRows(object('unique', 'CREATE UNIQUE INDEX x ON t (e)'), {})).toBe('CREATE UNIQUE INDEX x ON t (e)')
})
