/** Rows that differ while changes are streamed: lag, loss and rows that are still changing must be told apart. */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { recheckRows } from '../../src/phases/verify/recheck.ts'
import { createHeartbeat, createTargetHeartbeat } from '../../src/source/heartbeat.ts'
import { readTables } from '../../src/sql/tables.ts'
import type { RowDifference } from '../../src/tools/molt-verify.ts'
import { type Servers, startServers } from '../support/servers.ts'

let pair: Servers
let source: pg.Client
let target: pg.Client
let other: pg.Client

beforeAll(async () => {
  pair = await startServers()
  source = new pg.Client(pair.source.url)
  target = new pg.Client(pair.target.url)
  other = new pg.Client(pair.source.url)
  await Promise.all([source.connect(), target.connect(), other.connect()])
  for (const db of [source, target])
    await db.query(`CREATE TABLE items (a int, b text, n numeric, j jsonb, at timestamptz, PRIMARY KEY (a, b));
                    CREATE TABLE odd (k bytea PRIMARY KEY, v text)`)
  const { sourceId } = await createHeartbeat(source, 'main')
  await createTargetHeartbeat(target, 'public', sourceId)
}, 60_000)

afterAll(async () => {
  await Promise.all([source?.end(), target?.end(), other?.end()])
  await pair?.stop()
})

beforeEach(async () => {
  for (const db of [source, target]) await db.query('TRUNCATE items, odd')
  await target.query('DELETE FROM molt_actions_heartbeat')
})

test("a heartbeat that another source has left on the target is not taken for this one's", async () => {
  await target.query("INSERT INTO molt_actions_heartbeat VALUES (1, 'main', 'this', 5, '')")
  const left = async (sourceId: string) => {
    await createTargetHeartbeat(target, 'public', sourceId)
    return (await target.query('SELECT beat FROM molt_actions_heartbeat')).rows
  }
  expect(await left('this')).toEqual([{ beat: '5' }])
  expect(await left('another')).toEqual([])
})

const COPY = 'INSERT INTO items VALUES ($1, $2, $3, $4, $5) ON CONFLICT (a, b) DO UPDATE SET n = $3, j = $4, at = $5'
const row = (a: number, n = 1) => [a, 'b:"x', n, { z: 1, a: [2] }, '2026-01-01T00:00:00.000001Z']
const key = (a: number) => [String(a), 'b:"x']

/**
 * A stream that carries the heartbeat only, after `before` has been done once on the target.
 * @returns a function that ends it
 */
function stream(before: () => Promise<unknown> = async () => {}): () => Promise<void> {
  let running = true
  const loop = (async () => {
    const here = new pg.Client(pair.source.url)
    const there = new pg.Client(pair.target.url)
    await Promise.all([here.connect(), there.connect()])
    let carried = 0
    while (running) {
      const { rows } = await here.query('SELECT * FROM molt_actions.molt_actions_heartbeat')
      const { id, migration, source_id, beat, marker } = rows[0]
      if (Number(beat) > carried) {
        if (!carried) await before()
        await there.query(
          'INSERT INTO molt_actions_heartbeat VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE SET beat = $4',
          [id, migration, source_id, beat, marker],
        )
        carried = Number(beat)
      }
      await sleep(5)
    }
    await Promise.all([here.end(), there.end()])
  })()
  return async () => {
    running = false
    await loop
  }
}

async function recheck(rows: RowDifference[], more: { table?: string; total?: number; markerTimeout?: number } = {}) {
  const { table = 'items', total = rows.length, markerTimeout = 5_000 } = more
  const definition = (await readTables(source, 'public')).find(({ name }) => name === table)
  if (!definition) throw new Error('no such table')
  const options = { sourceSchema: 'public', targetSchema: 'public', limit: 1_000, rounds: 4, markerTimeout }
  const found = await recheckRows(source, target, [{ definition, rows, total }], {
    ...options,
    signal: new AbortController().signal,
  })
  return { ...found.tables.get(table), problem: found.problem }
}

const missing = (a: number): RowDifference => ({ kind: 'missing', key: key(a), columns: [] })

test('a row that arrives before the marker was late, one that does not is lost', async () => {
  for (const a of [1, 2]) await source.query(COPY, row(a))
  const end = stream(() => target.query(COPY, row(1)))
  expect(await recheck([missing(1), missing(2)])).toEqual({ lag: 1, loss: 1, changing: 0, untold: 0 })
  await end()
})

test('a changed value that was never carried is lost, and so is a row that only the target has', async () => {
  await source.query(COPY, row(1, 2))
  for (const a of [1, 5]) await target.query(COPY, row(a, 1))
  const end = stream()
  const rows: RowDifference[] = [
    { kind: 'mismatch', key: key(1), columns: ['n'] },
    { kind: 'extraneous', key: key(5), columns: [] },
  ]
  expect(await recheck(rows)).toEqual({ lag: 0, loss: 2, changing: 0, untold: 0 })
  await end()
})

test('a column that each side computes by itself, and otherwise, is no lag', async () => {
  for (const [side, db] of [source, target].entries())
    await db.query(`
      CREATE TABLE computed (a int PRIMARY KEY, b int GENERATED ALWAYS AS (abs(a) + ${side}) STORED);
      INSERT INTO computed (a) VALUES (1)`)
  const end = stream()
  const found = await recheck([{ kind: 'mismatch', key: ['1'], columns: ['b'] }], { table: 'computed' })
  expect(found).toEqual({ lag: 0, loss: 1, changing: 0, untold: 0 })
  await end()
})

test('a row that was deleted on both sides meanwhile was late', async () => {
  await target.query(COPY, row(5))
  const end = stream(() => target.query('DELETE FROM items'))
  const found = await recheck([{ kind: 'extraneous', key: key(5), columns: [] }])
  expect(found).toEqual({ lag: 1, loss: 0, changing: 0, untold: 0 })
  await end()
})

test('a row that changes all the time is neither', async () => {
  await source.query(COPY, row(1))
  let writing = true
  const writes = (async () => {
    while (writing) {
      await other.query('UPDATE items SET n = n + 1')
      await sleep(1)
    }
  })()
  const end = stream()
  expect(await recheck([missing(1)])).toEqual({ lag: 0, loss: 0, changing: 1, untold: 0 })
  writing = false
  await writes
  await end()
})

test('rows that were not told one by one stay untold', async () => {
  for (const db of [source, target]) await db.query(COPY, row(1))
  const end = stream()
  expect(await recheck([missing(1)], { total: 7 })).toEqual({ lag: 1, loss: 0, changing: 0, untold: 6 })
  await end()
})

test('a key that the database writes otherwise than molt is not taken for a row that is gone on both sides', async () => {
  await source.query("INSERT INTO odd VALUES ('\\x0a', 'x')")
  const end = stream()
  const found = await recheck([{ kind: 'missing', key: ['\\x0A'], columns: [] }], { table: 'odd' })
  expect(found).toEqual({ lag: 0, loss: 0, changing: 0, untold: 1 })
  const plain = await recheck([{ kind: 'missing', key: ['\\x0a'], columns: [] }], { table: 'odd' })
  expect(plain).toEqual({ lag: 0, loss: 1, changing: 0, untold: 0 })
  await end()
})

test('without a stream nothing is told', async () => {
  await source.query(COPY, row(1))
  const found = await recheck([missing(1)], { markerTimeout: 100 })
  expect(found).toMatchObject({ lag: 0, loss: 0, changing: 0, untold: 1 })
  expect(found.problem).toContain('is the stream running?')
})
