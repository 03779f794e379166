/** The comparison after the commit, which reads the target as of the commit time, with skewed clocks. */
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { retentionNeeded } from '../../src/actions/cutover/retention.ts'
import { requireCompared } from '../../src/actions/finalize/after-commit.ts'
import { readRetention, readShortestRetention } from '../../src/destination/retention.ts'
import type { Entry } from '../../src/ledger/ledger.ts'
import { plusMaxOffset, readCommitTime } from '../../src/phases/after-commit/commit-time.ts'
import { compareAfterCommit, inBoth } from '../../src/phases/after-commit/compare.ts'
import type { AfterCommit } from '../../src/phases/after-commit/result.ts'
import { digestTables, type TableDigest } from '../../src/phases/verify/row-digests.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import { installFence, leaseFor, makePermanent, setLease } from '../../src/source/fence.ts'
import { createTargetHeartbeat, HEARTBEAT } from '../../src/source/heartbeat.ts'
import { readTables } from '../../src/sql/tables.ts'
import { type Servers, startServers } from '../support/servers.ts'

let servers: Servers
let source: pg.Client
let target: pg.Client
/** Connection to the PostgreSQL server behind the like-server, which bypasses the like-server's rules. */
let behind: pg.Client

beforeAll(async () => {
  servers = await startServers()
  const clients = [servers.source, servers.target, servers.behind].map(({ url }) => new pg.Client(url))
  ;[source, target, behind] = clients as [pg.Client, pg.Client, pg.Client]
  for (const each of clients) await each.connect()
  for (const each of [source, target]) await each.query('CREATE TABLE orders (id INT8 PRIMARY KEY, total NUMERIC)')
  await createTargetHeartbeat(target, 'public', 'source')
  await target.query(`INSERT INTO ${HEARTBEAT} VALUES (1, 'main', 'source', 7, '')`)
})
afterAll(async () => {
  for (const each of [source, target, behind]) await each?.end()
  await servers?.stop()
})

async function digestAsOf(asOf: string): Promise<TableDigest> {
  const pairs = (await readTables(source, 'public')).map((table) => [table, table] as const)
  const [digest] = await digestTables(pairs, {
    sourceUrl: servers.source.url,
    targetUrl: servers.target.url,
    sourceSchema: 'public',
    targetSchema: 'public',
    asOf,
    concurrency: 1,
    signal: new AbortController().signal,
  })
  return digest as TableDigest
}

test('finds rows that were lost before the commit, and ignores later writes', async () => {
  for (const each of [source, behind])
    await each.query('TRUNCATE orders; INSERT INTO orders SELECT id, id * 1.5 FROM generate_series(1, 5000) id')
  await behind.query('DELETE FROM orders WHERE id = 17; UPDATE orders SET total = 0 WHERE id = 18')
  const { asOf } = (await readCommitTime(target, 'public', 7)) ?? { asOf: '' }
  await target.query('DELETE FROM orders WHERE id > 4000')
  await target.query('UPDATE orders SET total = 1 WHERE id <= 100')
  await target.query('INSERT INTO orders VALUES (17, 25.5), (9000, 1)')
  expect(await digestAsOf(asOf)).toMatchObject({
    sourceRows: 5000,
    targetRows: 4999,
    missing: 1,
    mismatch: 1,
    extraneous: 0,
    rows: [
      { kind: 'missing', key: ['17'] },
      { kind: 'mismatch', key: ['18'], columns: ['total'] },
    ],
  })
})

test('proves from the heartbeat that the drain was applied before the commit time', async () => {
  expect(await readCommitTime(target, 'public', 7)).toMatchObject({ drained: true })
  expect(await readCommitTime(target, 'public', 8)).toMatchObject({ drained: false })
  await target.query(`UPDATE ${HEARTBEAT} SET beat = 8`)
  const { rows } = await target.query(`SELECT crdb_internal_mvcc_timestamp::TEXT AS written FROM ${HEARTBEAT}`)
  const { asOf } = (await readCommitTime(target, 'public', 8)) ?? { asOf: '0.0' }
  expect(BigInt(asOf.split('.')[0] as string)).toBeGreaterThanOrEqual(BigInt(rows[0].written.split('.')[0]))
  expect(await readCommitTime(behind, 'public', 8)).toBeUndefined()
})

test('reports only rows that differ both at the commit time and slightly later', () => {
  const digest = (rows: [TableDigest['rows'][number]['kind'], string][]): TableDigest => ({
    name: 'orders',
    sourceRows: 10,
    targetRows: 10,
    missing: rows.filter(([kind]) => kind === 'missing').length,
    mismatch: rows.filter(([kind]) => kind === 'mismatch').length,
    extraneous: rows.filter(([kind]) => kind === 'extraneous').length,
    columns: {},
    classes: {},
    rows: rows.map(([kind, key]) => ({ kind, key: [key], columns: [] })),
    unproved: [],
  })
  const first = digest([
    ['missing', '1'],
    ['mismatch', '2'],
    ['extraneous', '3'],
  ])
  expect(inBoth(first, digest([]))).toBeUndefined()
  expect(inBoth(first, digest([['mismatch', '4']]))).toBeUndefined()
  // The application has rewritten the lost row, which still counts as lost.
  expect(
    inBoth(
      first,
      digest([
        ['mismatch', '1'],
        ['extraneous', '3'],
        ['missing', '9'],
      ]),
    ),
  ).toEqual({ table: 'orders', missing: 1, mismatch: 0, extraneous: 1 })
  const many = { ...digest([]), missing: 20_000 }
  // All unknown rows are of another kind now.
  expect(inBoth(many, { ...digest([]), mismatch: 15_000 })).toMatchObject({ mismatch: 15_000 })
  expect(inBoth(many, { ...many, missing: 15_000 })).toMatchObject({ missing: 15_000 })
  expect(plusMaxOffset('1700000000900000000.0000000012')).toBe('1700000001400000000.0000000000')
})

test("reads each table's history retention", async () => {
  expect(retentionNeeded(0)).toBe(900)
  expect(retentionNeeded(3_600_000)).toBe(900 + 3 * 3600)
  expect(await readRetention(target, 'shop')).toBe(14_400)
  await target.query('ALTER DATABASE shop CONFIGURE ZONE USING gc.ttlseconds = 4500')
  expect(await readRetention(target, 'shop')).toBe(4_500)
  expect(await readShortestRetention(target, 'public', ['orders', HEARTBEAT])).toMatchObject({ seconds: 4_500 })
  await target.query('ALTER TABLE public.orders CONFIGURE ZONE USING gc.ttlseconds = 600')
  expect(await readShortestRetention(target, 'public', [HEARTBEAT, 'orders'])).toEqual({
    table: 'orders',
    seconds: 600,
  })
  expect(await readShortestRetention(source, 'public', ['orders'])).toBeNull()
})

test('is red if the target has lost a column since the commit, or if the commit came later than the comparison', async () => {
  const fence = await installFence(
    source,
    (await readTables(source, 'public')).filter(({ name }) => name === 'orders'),
  )
  const lease = await leaseFor(source, 60_000)
  await setLease(source, lease)
  expect(await makePermanent(source, lease)).toBe(true)
  expect(fence.tables).toHaveLength(1)
  const commitTime = await readCommitTime(target, 'public', 8)
  await target.query('ALTER TABLE orders DROP COLUMN total')
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['orders'] }
  const entry = { id: 'main', phase: 'switched', plan, facts: { commitTime } } as unknown as Entry
  const result = await compareAfterCommit(entry, {
    sourceUrl: servers.source.url,
    targetUrl: servers.target.url,
    signal: new AbortController().signal,
  })
  expect(result.gaps).toContainEqual({ code: 'column-gone', table: 'orders', column: 'total' })
  const codeOf = (found: AfterCommit | undefined, phase: Entry['phase']) => {
    try {
      requireCompared(found, { id: 'main', phase })
      return 'green'
    } catch (error) {
      return errorCode(error)
    }
  }
  const inconclusive = { ...result, verdict: 'inconclusive' as const }
  expect(codeOf(inconclusive, 'switched')).toBe('verify.after-commit-inconclusive')
  const gaps = [{ code: 'column' as const, table: 'orders', what: 'total' }]
  expect(codeOf({ ...inconclusive, gaps }, 'switched')).toBe('green')
  expect(codeOf(undefined, 'switched')).toBe('ledger.moved')
  expect(codeOf(undefined, 'caught-up')).toBe('green')
})
