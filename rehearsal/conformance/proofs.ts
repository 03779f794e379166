// Checks what the verdicts of the actions depend on: the ledger, row hashes, AS OF SYSTEM TIME, and an abort.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { takeHold, thisRun } from '../../src/ledger/hold.ts'
import { advance, createEntry, type Entry, readEntry } from '../../src/ledger/ledger.ts'
import { digestTables, type TableDigest } from '../../src/phases/verify/row-digests.ts'
import { ident, literal } from '../../src/runtime/database.ts'
import { readTables } from '../../src/sql/tables.ts'
import { runAction } from '../runner/runner.ts'
import type { Bench } from './bench.ts'
import { CannotRun, codeOf, type Item, type Seen } from './item.ts'

/** Number of runs that compete for one row. */
const RUNS = 6
const REPO = resolve(import.meta.dirname, '../..')

export const PROOF_ITEMS: Item[] = [
  {
    id: 'ledger',
    says: 'When several runs advance the same ledger entry or take the same hold, exactly one succeeds.',
    source: 'docs: transactions.md (serializable), update.md',
    look: lookAtLedger,
  },
  {
    id: 'rows.hashes',
    says: 'Equal rows of every type have equal hashes on both servers, and a changed value is detected.',
    source: 'docs: data-types.md, functions-and-operators.md',
    needsSource: true,
    look: lookAtHashes,
  },
  {
    id: 'history',
    says: 'AS OF SYSTEM TIME reads past rows, including those deleted since.',
    source: 'docs: as-of-system-time.md',
    look: lookAtHistory,
  },
  {
    id: 'abort',
    says: 'An abort removes what `prepare` created on both sides, and restores write access and deferred objects.',
    source: 'README of the action `abort`',
    needsSource: true,
    look: lookAtAbort,
  },
]

async function lookAtLedger(bench: Bench): Promise<Seen[]> {
  const { db, name } = bench
  const clients = await Promise.all(Array.from({ length: RUNS }, () => bench.connect()))
  const plan = { sourceSchema: name, targetSchema: name, tables: [], slot: name, publication: name }
  const entry = await createEntry(db, name, plan, {})
  const moved = await Promise.all(clients.map((client) => codeOf(advance(client, entry, 'prepared'))))
  const held = await Promise.all(
    clients.map((client) => codeOf(takeHold(client, name, thisRun('conformance'), 60_000))),
  )
  const others = RUNS - 1
  return [
    { what: 'runs that advanced the ledger', expected: 1, seen: moved.filter((code) => code === 'none').length },
    {
      what: 'runs that were refused',
      expected: others,
      seen: moved.filter((code) => code === 'ledger.moved').length,
    },
    { what: 'phase afterwards', expected: 'prepared', seen: ((await readEntry(db, name)) as Entry).phase },
    { what: 'taken holds', expected: 1, seen: held.filter((code) => code === 'none').length },
    { what: 'refused holds', expected: others, seen: held.filter((code) => code === 'hold.taken').length },
  ]
}

/** Type in PostgreSQL, type in CockroachDB, and a value that both can parse. */
const TYPES: Record<string, readonly [here: string, there: string, value: string]> = {
  small: ['smallint', 'INT2', '-32768'],
  whole: ['integer', 'INT4', '2147483647'],
  big: ['bigint', 'INT8', '-9223372036854775808'],
  money: ['numeric(12,2)', 'DECIMAL(12,2)', '9.90'],
  free: ['numeric', 'DECIMAL', '123567890123567890.5'],
  float: ['double precision', 'FLOAT8', '0.1'],
  real: ['real', 'FLOAT4', '0.5'],
  flag: ['boolean', 'BOOL', 'true'],
  word: ['text', 'STRING', 'é☃\n\\ \'"'],
  empty: ['text', 'STRING', ''],
  short: ['varchar(20)', 'VARCHAR(20)', 'short'],
  padded: ['char(6)', 'CHAR(6)', 'ab'],
  bytes: ['bytea', 'BYTES', '\\x00ff'],
  unique_id: ['uuid', 'UUID', '0a000000-0000-0000-0000-000000000001'],
  day: ['date', 'DATE', '2024-02-29'],
  moment: ['timestamp', 'TIMESTAMP', '2026-01-01 00:00:00.000001'],
  zoned: ['timestamptz', 'TIMESTAMPTZ', '2026-01-01 02:00:00+02'],
  hour: ['time', 'TIME', '23:59:59.5'],
  bits: ['bit(4)', 'BIT(4)', '1010'],
  varbits: ['varbit', 'VARBIT', '101'],
  document: ['jsonb', 'JSONB', '{"b": [1, null], "a": "x"}'],
  words: ['text[]', 'STRING[]', '{a,NULL,""}'],
  numbers: ['bigint[]', 'INT8[]', '{1,2}'],
  address: ['inet', 'INET', '10.0.0.1'],
  span: ['interval', 'INTERVAL', '1 day 02:00:00'],
}

async function lookAtHashes(bench: Bench): Promise<Seen[]> {
  const source = await bench.connectSource()
  const table = bench.at('hashed')
  const names = Object.keys(TYPES)
  for (const [side, db] of [source, bench.db].entries()) {
    const columns = names.map((name) => `${name} ${TYPES[name]?.[side]}`).join(', ')
    await db.query(`CREATE TABLE ${table} (id ${side ? 'INT8' : 'bigint'} PRIMARY KEY, ${columns})`)
    const values = names.map((name) => `${literal(TYPES[name]?.[2] ?? '')}::${TYPES[name]?.[side]}`).join(', ')
    await db.query(`INSERT INTO ${table} SELECT n, ${values} FROM generate_series(1, 50) n`)
    await db.query(`INSERT INTO ${table} (id) VALUES (99)`)
  }
  const equal = await digest(bench, source)
  await bench.db.query(`UPDATE ${table} SET word = 'changed' WHERE id = 7`)
  const changed = await digest(bench, source)
  return [
    { what: 'rows on each side', expected: [51, 51], seen: [equal.sourceRows, equal.targetRows] },
    {
      what: 'missing, different, extraneous',
      expected: [0, 0, 0],
      seen: [equal.missing, equal.mismatch, equal.extraneous],
    },
    { what: 'columns that could not be proved', expected: [], seen: equal.unproved },
    { what: 'columns that differ after one change', expected: { word: 1 }, seen: { ...changed.columns } },
  ]
}

async function digest(bench: Bench, source: Bench['db']): Promise<TableDigest> {
  const find = async (db: Bench['db']) => (await readTables(db, bench.name)).find(({ name }) => name === 'hashed')
  const pair = [await find(source), await find(bench.db)] as never
  const [found] = await digestTables([pair], {
    sourceUrl: bench.source as string,
    targetUrl: bench.target,
    sourceSchema: bench.name,
    targetSchema: bench.name,
    concurrency: 1,
    signal: new AbortController().signal,
  })
  return found as TableDigest
}

async function lookAtHistory(bench: Bench): Promise<Seen[]> {
  const { db } = bench
  const table = bench.at('history')
  await db.query(`CREATE TABLE ${table} (id INT8 PRIMARY KEY, v STRING)`)
  await db.query(`INSERT INTO ${table} VALUES (1, 'then'), (2, 'gone')`)
  const { rows } = await db.query('SELECT cluster_logical_timestamp()::STRING AS at')
  const then = literal(rows[0].at)
  await db.query(`UPDATE ${table} SET v = 'now' WHERE id = 1`)
  await db.query(`DELETE FROM ${table} WHERE id = 2`)
  const read = async (of = '') => (await db.query(`SELECT v FROM ${table} ${of} ORDER BY id`)).rows.map(({ v }) => v)
  const past = await read(`AS OF SYSTEM TIME ${then}`)
  return [
    { what: 'rows then', expected: ['then', 'gone'], seen: past },
    { what: 'rows now', expected: ['now'], seen: await read() },
  ]
}

async function lookAtAbort(bench: Bench): Promise<Seen[]> {
  const source = await bench.connectSource()
  const migration = `${bench.name}_abort`.replaceAll('_', '-')
  const schema = bench.name
  const app = await bench.role('owner')
  await source.query(`CREATE TABLE ${bench.at('moved')} (id bigint PRIMARY KEY, code text UNIQUE)`)
  await bench.db.query(`CREATE TABLE ${bench.at('moved')} (id INT8 PRIMARY KEY, code STRING)`)
  await bench.db.query(`CREATE UNIQUE INDEX moved_code ON ${bench.at('moved')} (code)`)
  await bench.db.query(`GRANT SELECT, INSERT ON TABLE ${bench.at('moved')} TO ${ident(app.name)}`)
  const folder = mkdtempSync(join(tmpdir(), 'molt-conformance-'))
  const run = async (action: string, inputs: Record<string, string>) => {
    const given = { source: bench.source as string, target: bench.target, migration, 'allow-insecure': 'true' }
    const dir = join(REPO, 'actions', action)
    const workDir = join(folder, action)
    const secrets = [given.source, given.target]
    const result = await runAction({ dir, repo: REPO, inputs: { ...given, ...inputs }, workDir, secrets })
    return `${result.conclusion} ${result.outputs['error-code'] ?? ''}`.trim()
  }
  try {
    const prepared = await run('prepare', {
      schema,
      tables: 'moved',
      slot: bench.name,
      defer: 'indexes,constraints',
      decision: 'rehearse',
    })
    if (prepared === 'failure preflight.blocked') throw new CannotRun('`prepare` is blocked on these databases')
    const gone = await objects(bench)
    const aborted = await run('abort', { slot: bench.name, restore: 'true' })
    return [
      { what: 'prepare', expected: 'success', seen: prepared },
      { what: 'unique index and privileges after prepare', expected: [[], []], seen: gone },
      { what: 'abort', expected: 'success', seen: aborted },
      {
        what: 'unique index and privileges after abort',
        expected: [['moved_code'], ['INSERT']],
        seen: await objects(bench),
      },
      { what: 'ledger entry', expected: 'none', seen: (await readEntry(bench.db, migration)) ? 'there' : 'none' },
    ]
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function objects({ db, name }: Bench): Promise<[string[], string[]]> {
  const indexes = await db.query(
    `SELECT indexname AS name FROM pg_catalog.pg_indexes WHERE schemaname = $1 AND indexname = 'moved_code'`,
    [name],
  )
  const rights = await db.query(
    `SELECT privilege_type AS name FROM information_schema.table_privileges
      WHERE table_schema = $1 AND table_name = 'moved' AND grantee = $2 AND privilege_type <> 'SELECT'`,
    [name, `${name}_owner`],
  )
  return [indexes.rows, rights.rows].map((rows) => rows.map((row) => row.name)) as [string[], string[]]
}
