import pg from 'pg'
import { expect, it } from 'vitest'
import { refused } from '../../src/masking/copy.ts'
import { errorCode, errorKind } from '../../src/runtime/errors.ts'
import { codeOf, explain, explainWords } from '../../src/runtime/refusals.ts'

/** Codes from every class of PostgreSQL's errors, CockroachDB's additions, and codes that user functions can raise. */
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
  ['53300', 'connect.no-free-slot'],
  ['53100', 'database.out-of-resources'],
  ['53400', 'database.out-of-resources'],
  ['54000', 'database.out-of-resources'],
  ['57000', 'database.schema-locked'],
  ['57014', 'database.statement-ended'],
  ['58030', 'database.server-fault'],
  ['XX000', 'database.server-fault'],
  ['XXUUU', 'database.uncategorized'],
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

it.each([
  ['ERROR: canceling statement due to statement timeout (SQLSTATE 57014)', 'database.statement-ended'],
  ['FATAL: terminating connection due to idle-in-transaction timeout (SQLSTATE 25P03)', 'database.session-timeout'],
  ['FATAL: too many connections for role "mover" (SQLSTATE 53300)', 'connect.no-free-slot'],
  ['ERROR: could not write block 7: No space left on device (SQLSTATE 53100)', 'database.out-of-resources'],
  ['ERROR: cannot execute INSERT in a read-only transaction (SQLSTATE 25006)', 'database.read-only'],
])("explains a tool's failure %j with a code, a cause and a fix", (said, code) => {
  expect(explainWords(said)).toEqual({
    code,
    advice: expect.stringMatching(/^[A-Z].*\. [A-Z].*\.$/),
  })
})

it.each([
  'exit status 1',
  'ERROR: syntax error at or near "SELCT" (SQLSTATE 42601)',
  'ERROR: invalid input syntax for type numeric: … (SQLSTATE 22P02)',
])('does not explain %j', (said) => {
  expect(explainWords(said)).toBeUndefined()
})

it.each([
  ['53100', 'database.out-of-resources'],
  ['57014', 'database.statement-ended'],
  ['25P03', 'database.session-timeout'],
  ['53300', 'connect.no-free-slot'],
  ['23505', 'mask.copy-failed'],
  ['42601', 'mask.copy-failed'],
])('masking reports the cause and fix of SQLSTATE %s without row values', (state, code) => {
  const error = Object.assign(new pg.DatabaseError('for email=ann@example.org', 0, 'error'), { code: state })
  const found = refused(error, 'mask.copy-failed', 'copying t')
  expect(errorCode(found)).toBe(code)
  expect(found.message).toContain(`copying t failed: SQLSTATE ${state}`)
  expect(found.message).not.toContain('ann@')
})
