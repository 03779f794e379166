import pg from 'pg'
import { expect, it } from 'vitest'
import { messageOf } from '../../src/runtime/errors.ts'
import { scrubText } from '../../src/tools/scrub.ts'

const refused = (code: string, message: string, more: object = {}) =>
  Object.assign(new pg.DatabaseError(message, 1, 'error'), { code, severity: 'ERROR', ...more })

/** Messages as worded by both servers, in which `hidden` stands for a row value. */
it.each([
  [
    '23505',
    'duplicate key value violates unique constraint "k"',
    { constraint: 'k', table: 't', detail: "Key (e)=('hidden')" },
  ],
  ['23514', 'validation of CHECK "total >= 0:::DECIMAL" failed on row: id=7, e=\'hidden\'', { constraint: 'k' }],
  ['23503', 'foreign key violation: "t" row e=\'hidden\', id=7 has no match in "c"', { constraint: 'k' }],
  ['23502', 'null value in column "e" of relation "t" violates not-null constraint', { table: 't', column: 'e' }],
  ['22P02', 'invalid input syntax for type integer: "hidden"', {}],
  ['22P02', 'could not parse "hidden" as type int', {}],
  ['P0001', 'customer hidden is blocked', {}],
])('describes a %s with names but without values: %s', (code, message, more) => {
  const told = messageOf(refused(code, message, more))
  expect(told).not.toContain('hidden')
  expect(told).toContain(code)
  for (const name of ['constraint', 'table'] as const)
    if (name in more) expect(told).toContain((more as Record<string, string>)[name])
})

it.each([
  ['42501', 'user mig does not have CREATE privilege on relation t'],
  ['22023', 'invalid value for parameter "session_replication_role": "replica"'],
])('leaves a %s unchanged', (code, message) => {
  expect(messageOf(refused(code, message))).toBe(message)
})

it.each([
  'validation of CHECK "total >= 0:::DECIMAL" failed on row: id=7, email=\'hidden\'',
  'foreign key violation: "orders" row customer_id=hidden, id=7 has no match in "customers"',
])("removes the row from a tool's line: %s", (line) => {
  expect(scrubText(line)).not.toContain('hidden')
})
