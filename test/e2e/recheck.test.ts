/** Classifies rows that differ during streaming: lagging, lost, or still changing. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { Plan } from '../../src/model/plan.ts'
import { parseSnapshot } from '../../src/model/snapshot.ts'
import { recheckRows } from '../../src/phases/verify/recheck.ts'
import { runVerify } from '../../src/phases/verify/verify.ts'
import { createHeartbeat, createTargetHeartbeat } from '../../src/source/heartbeat.ts'
import { readTables } from '../../src/sql/tables.ts'
import type { RowDifference } from '../../src/tools/molt-verify.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder } from '../support/stand-in.ts'

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

test('ignores a heartbeat that another source left on the target', async () => {
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
 * Runs `before` once on the target, and then streams only heartbeats.
 * @returns a function that ends the stream
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

test('a row that arrives before the marker is late, and one that does not arrive is lost', async () => {
  for (const a of [1, 2]) await source.query(COPY, row(a))
  const end = stream(() => target.query(COPY, row(1)))
  expect(await recheck([missing(1), missing(2)])).toEqual({ lag: 1, loss: 1, changing: 0, unlike: 0, unchecked: 0 })
  await end()
})

test('a change that never arrived is lost, and so is an extra row on the target', async () => {
  await source.query(COPY, row(1, 2))
  for (const a of [1, 5]) await target.query(COPY, row(a, 1))
  const end = stream()
  const rows: RowDifference[] = [
    { kind: 'mismatch', key: key(1), columns: ['n'] },
    { kind: 'extraneous', key: key(5), columns: [] },
  ]
  expect(await recheck(rows)).toEqual({ lag: 0, loss: 2, changing: 0, unlike: 0, unchecked: 0 })
  await end()
})

test('a column that each side computes differently is not lag', async () => {
  for (const [side, db] of [source, target].entries())
    await db.query(`
      CREATE TABLE computed (a int PRIMARY KEY, b int GENERATED ALWAYS AS (abs(a) + ${side}) STORED);
      INSERT INTO computed (a) VALUES (1)`)
  const end = stream()
  const found = await recheck([{ kind: 'mismatch', key: ['1'], columns: ['b'] }], { table: 'computed' })
  expect(found).toEqual({ lag: 0, loss: 1, changing: 0, unlike: 0, unchecked: 0 })
  await end()
})

test('a row deleted on both sides in the meantime is late', async () => {
  await target.query(COPY, row(5))
  const end = stream(() => target.query('DELETE FROM items'))
  const found = await recheck([{ kind: 'extraneous', key: key(5), columns: [] }])
  expect(found).toEqual({ lag: 1, loss: 0, changing: 0, unlike: 0, unchecked: 0 })
  await end()
})

test('a row that changes constantly is neither late nor lost', async () => {
  await source.query(COPY, row(1))
  let writing = true
  const writes = (async () => {
    while (writing) {
      await other.query('UPDATE items SET n = n + 1')
      await sleep(1)
    }
  })()
  const end = stream()
  expect(await recheck([missing(1)])).toEqual({ lag: 0, loss: 0, changing: 1, unlike: 0, unchecked: 0 })
  writing = false
  await writes
  await end()
})

test('rows that molt does not list stay unchecked', async () => {
  for (const db of [source, target]) await db.query(COPY, row(1))
  const end = stream()
  expect(await recheck([missing(1)], { total: 7 })).toEqual({ lag: 1, loss: 0, changing: 0, unlike: 0, unchecked: 6 })
  await end()
})

test('a key that the database and molt format differently does not count as deleted on both sides', async () => {
  await source.query("INSERT INTO odd VALUES ('\\x0a', 'x')")
  const end = stream()
  const found = await recheck([{ kind: 'missing', key: ['\\x0A'], columns: [] }], { table: 'odd' })
  expect(found).toEqual({ lag: 0, loss: 0, changing: 0, unlike: 0, unchecked: 1 })
  const plain = await recheck([{ kind: 'missing', key: ['\\x0a'], columns: [] }], { table: 'odd' })
  expect(plain).toEqual({ lag: 0, loss: 1, changing: 0, unlike: 0, unchecked: 0 })
  await end()
})

test('proves nothing without a stream', async () => {
  await source.query(COPY, row(1))
  const found = await recheck([missing(1)], { markerTimeout: 100 })
  expect(found).toMatchObject({ lag: 0, loss: 0, changing: 0, unchecked: 1 })
  expect(found.problem).toContain('Check that the stream is running')
})

/** Type on the source and on the target, a value, and whether molt reports the two values as different. */
const PAIRS: [here: string, there: string, value: string, apart: boolean][] = [
  ['real', 'float8', '0.1', true],
  ['char(5)', 'text', 'ab', true],
  ['char(5)', 'char(9)', 'ab', true],
  ['real[]', 'float8[]', '{0.1}', true],
  ['numeric(10,2)', 'numeric(14,4)', '1.50', false],
  ['numeric(10,2)', 'numeric', '1.50', false],
  ['timestamp(0)', 'timestamp(6)', '2026-01-01 00:00:00', false],
  ['timestamptz(3)', 'timestamptz', '2026-01-01 00:00:00.5+02', false],
  ['varchar(5)', 'text', 'ab', false],
  ['int', 'bigint', '7', false],
  ['json', 'jsonb', '{"b": 1.0,"a":[null]}', false],
  ['interval', 'interval', '1 day 2 hours', false],
  ['bytea', 'bytea', '\\x00ff', false],
  ['varchar(9)[]', 'text[]', '{a,NULL,""}', false],
]

test('the first and the final verify treat each pair of types in the same way', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'molt-'))
  const program = join(standInFolder(), 'molt')
  const names = PAIRS.map((_, at) => `pair_${at}`)
  for (const [at, [here, there, value]] of PAIRS.entries())
    for (const [type, db] of [
      [here, source],
      [there, target],
    ] as const) {
      await db.query(`CREATE TABLE ${names[at]} (id int PRIMARY KEY, v ${type})`)
      await db.query(`INSERT INTO ${names[at]} SELECT n, $1::text::${type} FROM generate_series(1, 3) n`, [value])
    }
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: names } as Plan
  const verify = (how: 'streaming' | 'drained') =>
    runVerify(source, target, {
      ...{ program, sourceUrl: pair.source.url, targetUrl: pair.target.url, plan, level: 'full', while: how },
      ...{ logFile: join(folder, 'log'), signal: new AbortController().signal },
    })
  const end = stream()
  try {
    for (const how of ['streaming', 'drained'] as const) {
      const { verdict, findings, tables } = await verify(how)
      const apart = PAIRS.flatMap(([, , , differs], at) => (differs ? names[at] : []))
      expect(['clean', 'different']).not.toContain(verdict)
      expect(findings.map(({ table }) => table)).toEqual(apart)
      expect(tables.flatMap(({ name, recheck, unlike }) => ((recheck ? recheck.unlike : unlike) ? name : []))).toEqual(
        apart,
      )
    }
  } finally {
    await end()
    rmSync(folder, { recursive: true, force: true })
  }
})

test('a row written while molt is reading is late, and not a type difference', async () => {
  await source.query(COPY, row(1))
  const end = stream()
  const { rows } = await source.query('SELECT txid_current_snapshot()::text AS snapshot')
  await source.query(COPY, row(2))
  for (const each of [1, 2]) await target.query(COPY, row(each))
  const definition = (await readTables(source, 'public')).find(({ name }) => name === 'items')
  const { tables } = await recheckRows(
    source,
    target,
    [{ definition: definition as never, rows: [missing(1), missing(2)], total: 2 }],
    {
      ...{ sourceSchema: 'public', targetSchema: 'public', limit: 9, rounds: 4, markerTimeout: 5_000 },
      ...{ arrived: parseSnapshot(rows[0].snapshot), signal: new AbortController().signal },
    },
  )
  expect(tables.get('items')).toEqual({ lag: 1, loss: 0, changing: 0, unlike: 1, unchecked: 0 })
  await end()
})
