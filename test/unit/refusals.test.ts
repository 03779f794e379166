import pg from 'pg'
import { expect, it } from 'vitest'
import { errorCode, errorKind } from '../../src/runtime/errors.ts'
import { codeOf, explain } from '../../src/runtime/refusals.ts'

/** Every class of PostgreSQL's table of error codes, by what CockroachDB and owners' code add to it. */
it.each([
  ['25006', 'database.read-only'],
  ['25P03', 'database.session-timeout'],
  ['25P04', 'database.session-timeout'],
  ['57P05', 'database.session-timeout'],
  ['42501', 'database.missing-right'],
  ['01007', 'database.missing-right'],
  ['0LP01', 'database.missing-right'],
  ['40001', 'database.contention'],
  ['40P01', 'database.contention'],
  ['55P03', 'database.lock-timeout'],
  ['55006', 'database.object-busy'],
  ['55000', 'database.object-busy'],
  ['28000', 'connect.login-refused'],
  ['53100', 'database.out-of-resources'],
  ['53400', 'database.out-of-resources'],
  ['54000', 'database.out-of-resources'],
  ['57000', 'database.schema-locked'],
  ['57014', 'database.statement-ended'],
  ['58030', 'database.server-fault'],
  ['XX000', 'database.server-fault'],
  ['XXUUU', 'database.server-fault'],
  ['0A000', 'database.unsupported'],
  ['2BP01', 'database.dependent-objects'],
  ['42P07', 'database.object-exists'],
  ['42710', 'database.object-exists'],
  ['42P01', 'database.object-missing'],
  ['42704', 'database.object-missing'],
  ['23505', 'database.row-refused'],
  ['22003', 'database.row-refused'],
  ['44000', 'database.row-refused'],
  ['P0001', 'database.refused-by-code'],
  ['38001', 'database.refused-by-code'],
  ['DDL01', 'database.refused-by-code'],
  ['42601', undefined],
  ['42804', undefined],
  ['25P02', undefined],
  ['26000', undefined],
])('SQLSTATE %s is %s', (state, code) => {
  expect(codeOf(state)).toBe(code)
  const error = Object.assign(new pg.DatabaseError('for id=7', 0, 'error'), { code: state, severity: 'ERROR' })
  const explained = explain(error)
  expect(errorKind(explained)).toBe(code ? 'user' : 'bug')
  expect(errorCode(explained)).toBe(code ?? 'internal.bug')
})
