import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterEach, expect, it, vi } from 'vitest'
import { isRepeatable, TargetClient } from '../../src/runtime/target-client.ts'

vi.mock('node:timers/promises', () => ({ setTimeout: async () => {} }))
afterEach(() => {
  vi.restoreAllMocks()
})

/** Returns a client on which each statement fails with the next of these SQLSTATEs. Later statements return a row. */
function answering(...codes: string[]) {
  const asked: string[] = []
  vi.spyOn(pg.Client.prototype, 'query').mockImplementation((async (text: string) => {
    asked.push(text)
    const code = codes.shift()
    if (code) throw Object.assign(new pg.DatabaseError('restart transaction', 1, 'error'), { code })
    return { rows: [{ done: true }], rowCount: 1 }
  }) as never)
  const client = new TargetClient({})
  const run = (text: string) => client.query(text).catch((error: { code: string }) => error.code)
  return { asked, run, client }
}

it.each([
  'CREATE TABLE t (id INT8)',
  'REVOKE INSERT ON TABLE t FROM app',
  "SELECT setval('s', 5)",
  'UPDATE t SET a = 1',
])('retries %s on 40001', async (text) => {
  const { asked, run } = answering('40001', '40001')
  expect(await run(text)).toMatchObject({ rowCount: 1 })
  expect(asked).toEqual([text, text, text])
})

it('gives up on a statement that fails every time', async () => {
  const { asked, run } = answering(...Array(50).fill('40001'))
  expect(await run('SELECT 1')).toBe('40001')
  expect(asked).toHaveLength(12)
})

it('retries neither other errors nor statements inside a transaction', async () => {
  const { asked, run, client } = answering('23505', '40001')
  expect(await run('SELECT 1')).toBe('23505')
  vi.spyOn(client, 'getTransactionStatus').mockReturnValue('T' as never)
  expect(await run('SELECT 2')).toBe('40001')
  expect(asked).toEqual(['SELECT 1', 'SELECT 2'])
})

it('on 40003, retries only statements that may safely run twice', async () => {
  const grant = 'GRANT INSERT ON TABLE t TO app'
  expect(await answering('40003').run(grant)).toMatchObject({ rowCount: 1 })
  vi.restoreAllMocks()
  const index = answering('40003')
  expect(await index.run('CREATE INDEX i ON t (a)')).toBe('40003')
  expect(index.asked).toHaveLength(1)
})

it.each([
  ['INSERT INTO t VALUES (1) ON CONFLICT (id) DO NOTHING', true],
  ['INSERT INTO t VALUES (1)', false],
  ['CREATE TABLE IF NOT EXISTS t (id INT8)', true],
  ['CREATE UNIQUE INDEX i ON t (a)', false],
  ['ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID', false],
  ['ALTER TABLE t VALIDATE CONSTRAINT c', true],
  ['ALTER TABLE t ADD COLUMN IF NOT EXISTS c TEXT', true],
  ['ALTER TABLE t ADD COLUMN c TEXT', false],
  ['ALTER ROLE r NOLOGIN', true],
  ['CREATE ROLE IF NOT EXISTS r LOGIN', true],
  ['CREATE ROLE r LOGIN', false],
  ["COMMENT ON INDEX t@i IS 'x'", true],
  ['ALTER TABLE t DROP CONSTRAINT IF EXISTS c', true],
  ["SELECT nextval('s')", false],
  ['CANCEL JOB 12', false],
] as const)('knows whether %s may safely run twice', (text, repeatable) => {
  expect(isRepeatable(text)).toBe(repeatable)
})

it("is the suite's only way to reach a database", () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.ts'))
  const own = files.filter((file) => /\bnew (\w+\.)?(Client|Pool)\(/.test(readFileSync(join('src', file), 'utf8')))
  expect(own).toEqual([])
  const connect = readFileSync('src/runtime/database.ts', 'utf8')
  expect(connect).toContain("new (side === 'target' ? TargetClient : pg.Client)(")
})
