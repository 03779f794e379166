/** `convert` with `apply`: creates tables on an empty target, and records deferred objects in the ledger until `cleanup`. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { listDeferred } from '../../src/destination/deferral.ts'
import { asDecided, type Decided, type Structure, structureProblems } from '../../src/model/structure.ts'
import { withDatabase } from '../../src/runtime/database.ts'
import { readStructure } from '../../src/sql/structure.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { query } from './checks-helpers.ts'

const REPO = process.cwd()
const SOURCE = `
  CREATE TYPE state AS ENUM ('open', 'paid');
  CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL UNIQUE);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint REFERENCES customers, state state DEFAULT 'open',
    total numeric(10,2) CHECK (total >= 0));
  CREATE INDEX by_state ON orders (state) WHERE state = 'open'; COMMENT ON INDEX by_state IS 'asked by the queue'`
const DEFERRED = [
  'unique customers.customers_email_key',
  'index orders.by_state_total',
  'foreign-key orders.orders_customer_fkey',
  'check orders.orders_total_check',
]

const DECISIONS = `
version: 1
tables: { orders: { indexes: { by_state: { name: by_state_total, storing: [total] } } } }`

let pair: Servers
let folder: string
let decisions: string
beforeAll(async () => {
  pair = await startServers()
  folder = mkdtempSync(join(tmpdir(), 'convert-apply-'))
  decisions = join(folder, 'convert.yml')
  writeFileSync(decisions, DECISIONS)
  await query(pair.source.url, SOURCE)
}, 120_000)
afterAll(async () => {
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const target = (sql: string) => query(pair.target.url, sql)
const run = (name: string, inputs: Record<string, string> = {}) =>
  runAction({
    dir: join(REPO, 'actions', name),
    repo: REPO,
    workDir: folder,
    inputs: { source: pair.source.url, target: pair.target.url, 'allow-insecure': 'true', ...inputs },
  })
const apply = () => run('convert', { apply: 'true', decisions, out: join(folder, 'schema') })
const tables = async () =>
  (
    await target("SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1")
  ).map(({ name }) => name)

it('rejects a schema that has other tables, and creates nothing', async () => {
  await target('CREATE TABLE mine (id INT8 PRIMARY KEY)')
  const refused = await apply()
  expect(refused.outputs['error-code']).toBe('convert.target-not-empty')
  expect(await tables()).toEqual(['mine'])
  await target('DROP TABLE mine')
})

it('creates the tables, and records everything else in the ledger', async () => {
  const { conclusion, outputs } = await apply()
  expect([conclusion, outputs.deferred]).toEqual(['success', '4'])
  expect(await tables()).toEqual(['customers', 'orders'])
  const deferred = await withDatabase(pair.target.url, 'target', (db) => listDeferred(db, 'main'))
  expect(deferred.map(({ kind, table, name }) => `${kind} ${table}.${name}`)).toEqual(DEFERRED)
  expect(deferred.every(({ dropped, rebuilt }) => dropped && !rebuilt)).toBe(true)
  expect((await apply()).outputs).toMatchObject({ created: '0', deferred: '4' })
})

it('resumes a run that was killed before or after any statement', async () => {
  await target('DROP TABLE orders; UPDATE molt_actions.applied SET done_at = NULL')
  const { conclusion, outputs } = await apply()
  expect(conclusion).toBe('success')
  expect(Number(outputs.created)).toBeGreaterThan(2)
  expect(await tables()).toEqual(['customers', 'orders'])
})

it('drops nothing if the source has changed', async () => {
  await query(pair.source.url, 'ALTER TABLE customers ADD COLUMN phone text')
  expect((await apply()).outputs['error-code']).toBe('convert.object-exists')
  await query(pair.source.url, 'ALTER TABLE customers DROP COLUMN phone')
  expect((await apply()).conclusion).toBe('success')
})

it('satisfies `prepare`, and `cleanup` can build everything that was recorded', async () => {
  await query(pair.source.url, "INSERT INTO customers VALUES (1, 'a'); INSERT INTO orders VALUES (1, 1, 'open', 5)")
  const prepared = await run('prepare', { decision: 'rehearse', decisions })
  expect([prepared.conclusion, prepared.outputs.deferred]).toEqual(['success', '4'])
  const [planned] = await target("SELECT plan -> 'decided' AS decided FROM molt_actions.migrations")
  const cleaned = await run('cleanup', { restore: 'true' })
  expect(cleaned.conclusion).toBe('success')
  const source = await withDatabase(pair.source.url, 'source', (db) => readStructure(db, 'source', 'public'))
  const there = await withDatabase(pair.target.url, 'target', (db) => readStructure(db, 'target', 'public'))
  const problems = (expected: Structure) => structureProblems(expected, there, ['customers', 'orders'], 'public')
  expect(problems(asDecided(source, planned?.decided as Decided[]))).toEqual([])
  expect(problems(source).map(({ kind }) => kind)).toEqual(['different'])
})
