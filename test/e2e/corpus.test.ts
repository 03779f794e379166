// Moves each schema of the corpus through the whole chain: convert, load, stream under writes, verify, cut over, finalize.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import type { Table } from '../../src/model/tables.ts'
import { readTables } from '../../src/sql/tables.ts'
import { type Case, corpus } from '../corpus/corpus.ts'
import { query, REPO, requireSuccess } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'

const TIMING = { walWindow: 50, recheckPause: 50, observeSample: 200 }

let folder: string
let pair: Servers

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-corpus-'))
  pair = await startServers({ settings: { max_replication_slots: 40, max_wal_senders: 40, max_connections: 200 } })
  requireSuccess('setup', await run('setup', 'setup', { embedded: 'true' }))
})

afterAll(async () => {
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

function run(name: string, workDir: string, inputs: Record<string, string>) {
  return runAction({
    ...{ dir: join(REPO, 'actions', name), repo: REPO, inputs, workDir: join(folder, workDir) },
    env: {
      PATH: `${join(folder, 'setup/_temp/molt-actions/stand-in')}:${process.env.PATH}`,
      MOLT_ACTIONS_TEST_TIMING: JSON.stringify(TIMING),
    },
  })
}

/** Creates the source with the schema after its owner's fixes, and the target with the converted schema. */
async function databases({ schema, ...each }: Case) {
  const name = `corpus_${schema}`
  for (const server of [pair.source, pair.behind]) await query(server.urlOf('postgres'), `CREATE DATABASE ${name}`)
  const [source, target] = [pair.source.urlOf(name), pair.target.urlOf(name)]
  await query(source, `CREATE SCHEMA ${schema}`)
  for (const sql of [each.source, each.rows, each.fixes, 'ANALYZE'])
    await query(source, `SET search_path = ${schema}, pg_catalog; ${sql}`)
  const out = join(folder, `${schema}-ddl`)
  requireSuccess('convert', await run('convert', schema, { source, schema, out, 'allow-insecure': 'true' }))
  for (const file of ['1-tables.sql', '2-indexes.sql', '3-constraints.sql'])
    await query(target, readFileSync(join(out, file), 'utf8'))
  return { source, target, behind: pair.behind.urlOf(name) }
}

/** Repeats the case's statements until the fence rejects one. @returns the number of rounds */
async function write(url: string, { schema, load }: Case, signal: AbortSignal): Promise<number> {
  const db = new pg.Client(url)
  await db.connect()
  let n = 0
  try {
    await db.query(`SET search_path = ${schema}, pg_catalog`)
    while (!signal.aborted) {
      n++
      for (const statement of load) await db.query(statement.replaceAll('{n}', String(n)))
      // A row that changes constantly can be compared only after the drain.
      await sleep(200)
    }
  } catch (error) {
    if ((error as pg.DatabaseError).code !== '25006') throw error
  } finally {
    await db.end()
  }
  return n
}

/** Returns every row of a schema as text, in the same order on both sides. */
async function dump(url: string, schema: string, tables: readonly Table[]): Promise<Record<string, string[]>> {
  const rows: Record<string, string[]> = {}
  for (const { name, columns } of tables) {
    const text = (column: Table['columns'][number]) =>
      `${pg.escapeIdentifier(column.name)}::${column.type === 'json' ? 'jsonb::' : ''}text`
    const list = columns.map(text).join(', ')
    const found = await query(
      url,
      `SELECT ROW(${list})::text AS row FROM ${schema}.${pg.escapeIdentifier(name)} ORDER BY 1`,
    )
    rows[name] = found.map(({ row }) => row as string).sort()
  }
  return rows
}

async function movedTables(url: string, { schema, exclude }: Case): Promise<Table[]> {
  const db = new pg.Client(url)
  await db.connect()
  try {
    return (await readTables(db, schema)).filter(({ name }) => !exclude.includes(name))
  } finally {
    await db.end()
  }
}

test.each(corpus.map((each) => [each.name, each] as const))('%s', { timeout: 600_000 }, async (_, each) => {
  const { source, target, behind } = await databases(each)
  const { schema, exclude, waive } = each
  const both = { source, target, 'allow-insecure': 'true' }
  const step = async (name: string, inputs: Record<string, string> = {}) =>
    requireSuccess(name, await run(name, schema, { ...both, ...inputs }))
  await step('prepare', {
    schema,
    slot: schema,
    defer: 'indexes,constraints',
    decision: 'commit',
    'exclude-tables': exclude.join(', '),
    waive: waive.join('; '),
  })
  const stop = new AbortController()
  const writing = write(source, each, stop.signal)
  writing.catch(() => {})
  try {
    await step('fetch', { mode: 'direct-copy' })
    await step('replicate', { until: 'caught-up', 'quiet-period': '300ms' })
    await step('cutover', { decision: 'commit', 'final-verify': 'full', 'quiet-period': '300ms', switch: 'manual' })
  } finally {
    stop.abort()
  }
  expect(await writing).toBeGreaterThan(1)
  const tables = await movedTables(source, each)
  expect(await dump(behind, schema, tables)).toEqual(await dump(source, schema, tables))
  await step('finalize', { 'switched-by-hand': 'true' })
  await step('cleanup', { 'rollback-window': '0s', waive: 'observe' })
})
