/**
 * `npm run bench:proof -- [rows] [rounds]`: compares the rolling proof's speed with a hash scan of all rows inside each
 * database, and measures the memory used by a million changed keys. Both PostgreSQL servers and the CockroachDB-like
 * server run on this machine.
 */
import { pipeline } from 'node:stream/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import pg from 'pg'
import { from, to } from 'pg-copy-streams'
import { createShop, SHOP_TABLES } from '../rehearsal/shop/shop.ts'
import { DirtyKeys, type OpenKey } from '../src/phases/rolling/dirty-keys.ts'
import { comparePieces, TablePass } from '../src/phases/rolling/pass.ts'
import { compareKeys } from '../src/phases/rolling/round.ts'
import { readSums } from '../src/phases/rolling/rows.ts'
import { openSessions, type Sessions } from '../src/phases/rolling/sessions.ts'
import { BUDGET } from '../src/phases/rolling/table-proofs.ts'
import { type ProvableTable, readProvable } from '../src/phases/rolling/tables.ts'
import { ident } from '../src/runtime/database.ts'
import { number } from '../src/runtime/progress.ts'
import { type Servers, startServers } from '../test/support/servers.ts'
import { collect, medianOf, spreadOf } from './figures.ts'

/** Same concurrency as in one leg of the stream. */
const CONCURRENCY = 2
const KEYS = 100_000

async function copyShop({ source, behind }: Servers): Promise<void> {
  const [here, there] = await Promise.all([source.url, behind.url].map(opened))
  for (const table of SHOP_TABLES)
    await pipeline(
      (here as pg.Client).query(to(`COPY ${ident(table)} TO STDOUT`)),
      (there as pg.Client).query(from(`COPY ${ident(table)} FROM STDIN`)),
    )
  for (const db of [here, there]) {
    await db?.query('ANALYZE')
    await db?.end()
  }
}

async function opened(url: string): Promise<pg.Client> {
  const client = new pg.Client(url)
  await client.connect()
  return client
}

const seconds = async (work: () => Promise<unknown>) => {
  const began = performance.now()
  await work()
  return (performance.now() - began) / 1000
}

/** Sums the hashes of all rows inside each database, in parallel. Takes as long as the slower one. */
async function scanAll(sessions: Sessions, tables: readonly ProvableTable[]): Promise<void> {
  const scan = async (side: Sessions['source']) => {
    for (const table of tables) await readSums(side, table, { digits: 0 })
  }
  await Promise.all([scan(sessions.source), scan(sessions.target)])
}

async function passOver(pair: Servers, tables: readonly ProvableTable[], plan: Parameters<typeof readProvable>[2]) {
  const waiting = tables.map((table) => new TablePass(table))
  const dirty = new DirtyKeys(BUDGET, () => {})
  let rows = 0
  await comparePieces({
    sourceUrl: pair.source.url,
    targetUrl: pair.target.url,
    plan,
    dirty,
    concurrency: CONCURRENCY,
    signal: new AbortController().signal,
    next: () => waiting.find((pass) => !pass.exhausted),
    yield: async () => {},
    onUnknown: ({ name }, reason) => {
      throw new Error(`${name}: ${reason}`)
    },
    isCurrent: () => true,
    onCompared: (more) => {
      rows += more
    },
  })
  if (dirty.size) throw new Error(`${dirty.size} rows differ`)
  return rows
}

async function changedKeys(sessions: Sessions, table: ProvableTable): Promise<OpenKey[]> {
  const names = table.key.map(({ name }) => `${ident(name)}::text`).join(', ')
  const { rows } = await sessions.source.db.query({
    text: `SELECT ${names} FROM ${ident(table.name)} ORDER BY random() LIMIT ${KEYS}`,
    rowMode: 'array',
  })
  return rows.map((key: string[]) => ({ table: table.name, key, at: 1n, xid: undefined, present: undefined }))
}

/** Heap in MiB that a million changed bigint keys take. */
function memoryOfKeys(): number {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const before = process.memoryUsage().heapUsed
  const dirty = new DirtyKeys(BUDGET, () => {})
  for (let key = 0; key < BUDGET; key++)
    dirty.mark({
      schema: 'public',
      table: 'orders',
      columns: ['id'],
      key: [String(10_000_000 + key)],
      present: true,
      xid: key,
      at: BigInt(key) + 2n ** 33n,
    })
  collect()
  const used = process.memoryUsage().heapUsed - before
  if (dirty.size !== BUDGET) throw new Error('keys are missing')
  return used / 2 ** 20
}

const rows = Number(process.argv[2] ?? 300_000)
const rounds = Number(process.argv[3] ?? 5)
const memory = memoryOfKeys()
console.log(`${number(BUDGET)} changed keys: ${memory.toFixed(0)} MiB`)
const pair = await startServers()
try {
  await createShop(pair.source.url, { rows })
  await createShop(pair.behind.url, { schemaOnly: true })
  await copyShop(pair)
  const plan = {
    sourceSchema: 'public',
    targetSchema: 'public',
    tables: [...SHOP_TABLES],
    slot: 'none',
    publication: 'none',
  }
  const ends = { sourceUrl: pair.source.url, targetUrl: pair.target.url, plan }
  const sessions = await openSessions({ ...ends, signal: new AbortController().signal })
  const { tables } = await readProvable(sessions.source.db, sessions.target.db, plan)
  const orders = tables.find(({ name }) => name === 'orders') as ProvableTable
  const keys = await changedKeys(sessions, orders)
  const [scans, passes, checks, direct] = [[], [], [], []] as [number[], number[], number[], number[]]
  const behind = await openSessions({ ...ends, targetUrl: pair.behind.url, signal: new AbortController().signal })
  const checkWith = async (sides: Sessions) => {
    const judged = await compareKeys(sides, new Map([['orders', orders]]), keys, new AbortController().signal)
    if (judged.some(({ verdict }) => verdict !== 'equal')) throw new Error('rows differ')
  }
  let compared = 0
  for (let round = 0; round < rounds; round++) {
    scans.push(await seconds(() => scanAll(sessions, tables)))
    passes.push(
      await seconds(async () => {
        compared = await passOver(pair, tables, plan)
      }),
    )
    checks.push(await seconds(() => checkWith(sessions)))
    direct.push(await seconds(() => checkWith(behind)))
    console.log(
      `round ${round + 1}: scan ${scans.at(-1)?.toFixed(2)} s, first pass ${passes.at(-1)?.toFixed(2)} s, re-check ${checks.at(-1)?.toFixed(2)} s`,
    )
  }
  const rates = (all: number[], count: number) => all.map((each) => count / each)
  const share = scans.map((scan, i) => (100 * scan) / (passes[i] as number))
  const cell = (values: number[]) => `${number(medianOf(values))} (${spreadOf(values)})`
  const table = [
    `| figure, ${number(compared)} rows in ${tables.length} tables | median of ${rounds} (lowest to highest) | goal |`,
    '| --- | ---: | ---: |',
    `| hash scan inside both databases, rows/s | ${cell(rates(scans, compared))} | |`,
    `| first pass, rows/s | ${cell(rates(passes, compared))} | |`,
    `| first pass, % of the scan's speed | ${cell(share)} | 50 |`,
    `| re-check, keys/s | ${cell(rates(checks, keys.length))} | 20,000 |`,
    `| re-check without the CockroachDB-like server, keys/s | ${cell(rates(direct, keys.length))} | 20,000 |`,
    `| memory used by ${number(BUDGET)} changed keys, MiB | ${number(memory)} | 256 |`,
  ].join('\n')
  console.log(table)
  const work = { of: 'rows', amount: compared }
  const scanned = { name: 'hash scan inside the databases', values: rates(scans, compared) }
  collect(
    {
      name: 'first pass',
      unit: 'rows/s',
      values: rates(passes, compared),
      reference: scanned,
      goal: { least: 0.5 },
      work,
    },
    {
      name: 're-check',
      unit: 'keys/s',
      values: rates(checks, keys.length),
      goal: { least: 20_000 },
      missed: 'The CockroachDB-like server copies each row within the measuring process, on the same CPUs.',
    },
    {
      name: 're-check without the CockroachDB-like server',
      unit: 'keys/s',
      values: rates(direct, keys.length),
      goal: { least: 20_000 },
    },
    { name: `memory used by ${number(BUDGET)} changed keys`, unit: 'MiB', values: [memory], goal: { most: 256 } },
  )
  await sessions.close()
  await behind.close()
} finally {
  await pair.stop()
}
