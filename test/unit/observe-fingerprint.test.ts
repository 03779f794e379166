import { describe, expect, it } from 'vitest'
import { isDml, isWrite, statementFingerprint } from '../../src/phases/observe/fingerprint.ts'

/** The same statements as shown by pg_stat_statements and by CockroachDB's statistics. */
const PAIRS: readonly [name: string, postgres: string, cockroach: string][] = [
  ['placeholders', 'SELECT total FROM orders WHERE id = $1', 'SELECT total FROM orders WHERE id = _'],
  ['case and whitespace', 'select  total\n\tfrom Orders\twhere ID=$1', 'SELECT total FROM orders WHERE id = _'],
  [
    'parentheses around comparisons',
    'SELECT 1 FROM orders WHERE a = $1 AND (b > $2 OR c IS NULL)',
    'SELECT _ FROM orders WHERE (a = _) AND ((b > _) OR (c IS NULL))',
  ],
  ['IN lists', 'SELECT a FROM t WHERE id IN ($1, $2, $3)', 'SELECT a FROM t WHERE id IN (_, __more__)'],
  [
    'IN lists as printed by earlier versions',
    'SELECT a FROM t WHERE id IN ($1, $2)',
    'SELECT a FROM t WHERE id IN (_, __more1_10__)',
  ],
  ['arrays', 'SELECT a FROM t WHERE id = ANY(ARRAY[$1, $2])', 'SELECT a FROM t WHERE id = ANY (ARRAY[_, __more__])'],
  [
    'rows of INSERT',
    'INSERT INTO orders (id, at, total) VALUES ($1, now(), $2), ($3, now(), $4)',
    'INSERT INTO orders(id, at, total) VALUES (_, now(), _), (__more__)',
  ],
  [
    'quoted names',
    'SELECT "noteId" FROM "OrderNotes" WHERE "order" = $1',
    'SELECT "noteId" FROM "OrderNotes" WHERE "order" = _',
  ],
  ['needless quotes', 'SELECT "total" FROM "orders"', 'SELECT total FROM orders'],
  ['qualified names', 'SELECT o.total FROM public.orders o', 'SELECT o.total FROM shop.public.orders AS o'],
  [
    'casts',
    "SELECT a FROM t WHERE id = $1::bigint AND b = '5'::character varying(10)",
    'SELECT a FROM t WHERE (id = _::INT8) AND (b = _)',
  ],
  ['CAST', 'SELECT CAST(a AS double precision) FROM t', 'SELECT a::FLOAT8 FROM t'],
  ['time zones in casts', 'SELECT a FROM t WHERE at > $1::timestamp with time zone', 'SELECT a FROM t WHERE at > _'],
  ['array types', 'SELECT a FROM t WHERE id = ANY($1::uuid[])', 'SELECT a FROM t WHERE id = ANY _'],
  ['typed constants', 'SELECT a FROM t WHERE at > now() - interval $1', 'SELECT a FROM t WHERE at > (now() - _)'],
  ['signs', 'UPDATE t SET a = -$1 WHERE b = - 5', 'UPDATE t SET a = _ WHERE b = _'],
  ['subtraction', 'UPDATE t SET a = a - $1', 'UPDATE t SET a = a - _'],
  [
    'constants by name',
    'UPDATE t SET a = NULL, b = true WHERE c IS NOT NULL',
    'UPDATE t SET a = _, b = _ WHERE c IS NOT NULL',
  ],
  ['inequality', 'SELECT a FROM t WHERE b <> $1', 'SELECT a FROM t WHERE b != _'],
  [
    'joins',
    'SELECT a FROM t INNER JOIN u ON t.x = u.x LEFT OUTER JOIN v USING (y)',
    'SELECT a FROM t JOIN u ON t.x = u.x LEFT JOIN v USING (y)',
  ],
  ['order', 'SELECT a FROM t ORDER BY a ASC, b DESC LIMIT $1', 'SELECT a FROM t ORDER BY a, b DESC LIMIT _'],
  ['functions without parentheses', 'SELECT current_timestamp FROM t', 'SELECT current_timestamp() FROM t'],
  ['comments', '/* route:orders#show */ SELECT a FROM t -- 42\nWHERE b = $1', 'SELECT a FROM t WHERE b = _'],
  [
    'upserts',
    'INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = EXCLUDED.b RETURNING a',
    'INSERT INTO t(a, b) VALUES (_, __more__) ON CONFLICT (a) DO UPDATE SET b = excluded.b RETURNING a',
  ],
]

describe('statementFingerprint', () => {
  it.each(PAIRS)('matches %s', (_, postgres, cockroach) => {
    expect(statementFingerprint(postgres)).toBe(statementFingerprint(cockroach))
  })

  it.each([
    ['tables', 'SELECT a FROM t', 'SELECT a FROM u'],
    ['columns', 'SELECT a FROM t WHERE b = $1', 'SELECT a FROM t WHERE c = $1'],
    ['operators', 'SELECT a FROM t WHERE b < $1', 'SELECT a FROM t WHERE b > $1'],
    ['null tests', 'SELECT a FROM t WHERE b IS NULL', 'SELECT a FROM t WHERE b IS NOT NULL'],
    ['kinds', 'DELETE FROM t WHERE a = $1', 'SELECT a FROM t WHERE a = $1'],
    ['quoted case', 'SELECT "A" FROM t', 'SELECT a FROM t'],
    ['locking', 'SELECT a FROM t FOR UPDATE', 'SELECT a FROM t'],
    ['sort direction', 'SELECT a FROM t ORDER BY a', 'SELECT a FROM t ORDER BY a DESC'],
  ])('distinguishes different %s', (_, one, other) => {
    expect(statementFingerprint(one)).not.toBe(statementFingerprint(other))
  })

  it.each([
    ['a string', "SELECT a FROM t WHERE email = 'secret@example.com'"],
    ['a doubled quote', "SELECT a FROM t WHERE email = 'x''secret@example.com'"],
    ['an escape string', "SELECT a FROM t WHERE email = E'x\\'secret@example.com'"],
    ['a dollar-quoted string', 'SELECT a FROM t WHERE email = $q$secret@example.com$q$'],
    ['a truncated string', "SELECT a FROM t WHERE email = 'secret@exam"],
    ['a truncated dollar-quoted string', 'SELECT a FROM t WHERE email = $$secret'],
    ['a comment', 'SELECT a FROM t /* secret */ WHERE b = 1'],
    ['a bit string', "SELECT a FROM t WHERE b = x'5ec4e7' OR c = 'secret'"],
  ])('contains no part of %s', (_, sql) => {
    expect(statementFingerprint(sql)).not.toMatch(/secret|5ec4e7/)
  })

  it('contains no numbers', () => {
    expect(statementFingerprint('SELECT a FROM t WHERE b = 4711 AND c > 1.5e10 AND d = 0xff AND e = .25')).not.toMatch(
      /\d/,
    )
  })

  it('truncates long texts, but still distinguishes them', () => {
    const long = (last: string) =>
      `SELECT ${Array.from({ length: 600 }, (_, at) => `column_${at}`).join(', ')}, ${last} FROM t`
    expect(statementFingerprint(long('a')).length).toBeLessThanOrEqual(2000)
    expect(statementFingerprint(long('a'))).not.toBe(statementFingerprint(long('b')))
  })

  it('recognizes statements that read or write rows', () => {
    const kinds = [
      'SELECT 1',
      'INSERT INTO t VALUES (1)',
      'WITH x AS (SELECT 1) DELETE FROM t',
      'BEGIN',
      'SET a = 1',
      'CREATE TABLE t (a INT)',
    ]
    expect(kinds.map((sql) => isDml(statementFingerprint(sql)))).toEqual([true, true, true, false, false, false])
    expect(kinds.map((sql) => isWrite(statementFingerprint(sql)))).toEqual([false, true, true, false, false, false])
  })
})
