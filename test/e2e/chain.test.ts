/**
 * Runs the whole chain of the root action.yml with the committed bundles, under a live load. If the data is damaged between
 * two steps, the step that should notice must fail. With MOLT_BIN_DIR, the chain uses the real programs.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type CockroachServer, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type JobResult, type RunOptions, runAction } from '../../rehearsal/runner/runner.ts'
import { type LoadHandle, startLoad } from '../../rehearsal/shop/load.ts'
import { createShop, SHOP_TABLES, SOURCE_CONSTRAINTS } from '../../rehearsal/shop/shop.ts'
import { operationsOf } from '../../src/model/operations.ts'
import { toolVersion } from '../../src/tools/versions.ts'
import { query, REPO, words } from '../support/migration.ts'
import { requireRules, type Servers, startServers } from '../support/servers.ts'
import { certificateFor, requireTlsOf, verifyingTls } from '../support/tls.ts'

const BIN = process.env.MOLT_BIN_DIR
/** Whether to leave out the values that molt versions before 1.0 corrupt. */
const plain = BIN ? /^0\./.test(await toolVersion(join(BIN, 'molt'), 'molt')) : false
const RATE = 50
/** Runs a case through the whole chain at night. Cheaper tests cover the same cases step by step. */
const nightly = test.runIf(process.env.MOLT_ACTIONS_NIGHTLY)
const TIMEOUT = BIN ? 300_000 : 120_000
/** Must not be a well-known password, because those are not masked. */
const PASSWORD = 'hunter2/s3cr3t@42%'
const FORMS = [PASSWORD, encodeURIComponent(PASSWORD)]

let folder: string
let pair: Servers
let secure: CockroachServer | undefined
let source: string
let target: string
let load: LoadHandle
let log: string

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-chain-'))
  log = ''
  pair = await startServers()
  await Promise.all([
    createShop(pair.source.url, { rows: 2_000, plain }),
    createShop(pair.behind.url, { schemaOnly: true }),
  ])
  ;[source, target] = [await withPassword(pair.source.url), await mover()]
  load = await startLoad({ url: source, rate: RATE, connections: 3, plain })
}, 120_000)

afterEach(async () => {
  await load?.stop()
  await secure?.stop()
  await pair?.stop()
  if (secure) requireRules(secure)
  secure = undefined
  rmSync(folder, { recursive: true, force: true })
})

async function withPassword(url: string): Promise<string> {
  await query(url, `ALTER USER postgres PASSWORD '${PASSWORD}'`)
  const changed = new URL(url)
  changed.password = encodeURIComponent(PASSWORD)
  return changed.href
}

/** Creates another administrator, because the like-server itself uses the default one. @returns the target's URL for it */
async function mover(): Promise<string> {
  await query(pair.behind.url, `CREATE ROLE mover LOGIN SUPERUSER PASSWORD '${PASSWORD}'`)
  const url = new URL(pair.target.url)
  url.username = 'mover'
  url.password = encodeURIComponent(PASSWORD)
  return url.href
}

async function runChain(inputs: Record<string, string> = {}, options: Partial<RunOptions> = {}): Promise<JobResult> {
  const config = join(folder, 'config.yml')
  writeFileSync(
    config,
    'common:\n  quiet-period: 1s\n  stuck-after: 15s\n  progress-every: 1s\nverify:\n  structure: report\n',
  )
  const result = await runAction({
    dir: REPO,
    repo: REPO,
    inputs: {
      source,
      target,
      config,
      mode: 'direct-copy',
      'allow-insecure': 'true',
      ...(BIN ? { 'bin-dir': BIN } : { embedded: 'true' }),
      ...inputs,
    },
    // Masks the URLs like GitHub secrets. The passwords inside them must be masked by the actions.
    secrets: [source, target],
    workDir: join(folder, 'work'),
    // Fails on deprecations, which a dependency's next version could turn into errors.
    env: { NODE_OPTIONS: '--throw-deprecation' },
    onLine: (line) => {
      log += `${line.text}\n`
    },
    ...options,
  })
  expectNoSecret(result)
  expect(result.orphans).toEqual([])
  return result
}

/** Expects that the password is in none of the logs, outputs and files. */
function expectNoSecret(result: JobResult): void {
  const places: Record<string, string> = { log, summary: result.summary, outputs: JSON.stringify(result.outputs) }
  for (const step of result.steps)
    places[`outputs and state of ${step.name}`] = JSON.stringify([step.outputs, step.state])
  for (const entry of readdirSync(join(folder, 'work'), { recursive: true, withFileTypes: true }))
    if (entry.isFile()) places[entry.name] = readFileSync(join(entry.parentPath, entry.name), 'latin1')
  for (const [place, text] of Object.entries(places))
    for (const form of FORMS) expect(text.includes(form), `the password is in ${place}`).toBe(false)
}

const sql = (side: 'source' | 'target', text: string) => query(side === 'source' ? source : pair.behind.url, text)

/** Runs `work` just before the step with this id. */
function justBefore(id: string, work: () => Promise<unknown>): Partial<RunOptions> {
  return {
    beforeStep: async (step) => {
      if (step.id === id && step.phase === 'main') await work()
    },
  }
}

function stepOf(result: JobResult, id: string) {
  const step = result.steps.find((each) => each.id === id && each.phase === 'main')
  if (!step) throw new Error(`there was no step ${id}\n${words(result)}`)
  return step
}

function expectRedAt(result: JobResult, id: string, ...said: RegExp[]): void {
  const red = result.steps.filter((step) => step.depth === 1 && step.outcome === 'failure')
  expect(
    red.map((step) => step.id),
    words(result),
  ).toEqual([id])
  expect(result.conclusion).toBe('failure')
  const { annotations, outputs } = stepOf(result, id)
  const errors = annotations.filter(({ level }) => level === 'error').map(({ message }) => message)
  for (const each of said) expect(errors.join('\n')).toMatch(each)
  expect(['verdict', 'user', 'tool']).toContain(outputs['error-kind'])
  expect(result.outputs.verdict).toBeUndefined()
}

/** Expects that the application can write to the source. */
async function expectWritable(): Promise<void> {
  await sql('source', 'UPDATE categories SET name = name')
}

async function tablesEqual(): Promise<void> {
  for (const table of SHOP_TABLES) {
    const digest = `SELECT count(*)::text AS rows, md5(string_agg(t::text, '|' ORDER BY t::text)) AS digest FROM "${table}" t`
    expect(await sql('target', digest), table).toEqual(await sql('source', digest))
  }
}

test('moves the shop under load, and refuses to repeat finished steps', { timeout: TIMEOUT }, async () => {
  const result = await runChain({ decision: 'commit', 'switch-command': '["true"]' })
  expect(result.conclusion, words(result)).toBe('success')
  expect(result.outputs).toMatchObject({ verdict: 'go', phase: 'switched' })
  expect(Number(result.outputs.rows)).toBeGreaterThanOrEqual(2_000)
  expect(Number(result.outputs.changes) + Number(result.outputs['changes-caught-up'])).toBeGreaterThan(RATE)
  expect(Number(result.outputs['pause-ms'])).toBeGreaterThan(0)
  const parts = Object.keys(JSON.parse(result.outputs['pause-parts'] as string))
  expect(parts).toEqual(operationsOf('commit', {}).map(({ name }) => name))
  const tables = JSON.parse(result.outputs.tables as string)
  expect(tables.map(({ name }: { name: string }) => name).sort()).toEqual([...SHOP_TABLES].sort())
  for (const table of tables) expect(table).toMatchObject({ missing: 0, mismatch: 0, extraneous: 0 })
  expect(load.counters.errors).toBe(0)
  await load.stop()
  await tablesEqual()
  await expect(sql('source', 'UPDATE categories SET name = name')).rejects.toThrow()

  const again = await runChain({ decision: 'commit' })
  expectRedAt(again, 'prepare', /switched|committed|permanent/)
})

/** Patterns of statements that must be retried on both SQLSTATEs. */
const CHANGES = [
  /CREATE TABLE IF NOT EXISTS molt_actions/,
  /CREATE (UNIQUE )?INDEX/,
  /REVOKE .* FROM "app"/,
  /GRANT .* TO "app"/,
  /UPDATE molt_actions . migrations/,
  /ALTER ROLE|CREATE ROLE|CREATE USER/,
]

describe.each([
  ['40001', [...CHANGES, /setval/, /SHOW JOBS|crdb_internal/]],
  ['40003', CHANGES],
] as const)('%s', (code, expected) => {
  nightly('retrying each distinct statement on the target does no harm', { timeout: TIMEOUT * 5 }, async () => {
    // The target has indexes and constraints to drop, and a role that can write.
    await sql('target', SOURCE_CONSTRAINTS)
    await sql('target', 'CREATE ROLE app; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app')
    pair.cluster.options.failEach = { code, application: 'molt-actions' }
    const result = await runChain({ decision: 'commit', 'switch-command': '["true"]', defer: 'indexes,constraints' })
    expect(result.conclusion, words(result)).toBe('success')
    const failed = [...pair.cluster.failed]
    for (const each of expected)
      expect(
        failed.some((text) => each.test(text)),
        String(each),
      ).toBe(true)
    expect(failed.length).toBeGreaterThan(code === '40001' ? 80 : 15)
    await load.stop()
    await tablesEqual()
  })
})

test('rehearses over TLS, lifts the fence, and cleans up', { timeout: TIMEOUT }, async () => {
  // The programs in MOLT_BIN_DIR may open connections through a tunnel.
  if (!BIN) {
    const { name, dataDir } = pair.source
    source = verifyingTls(source, await requireTlsOf({ name, dataDir, url: source }, folder))
    const tls = await certificateFor()
    const root = join(folder, 'target-root.crt')
    writeFileSync(root, tls.cert)
    secure = await startCockroach(pair.behind, { tls })
    target = verifyingTls(target.replace(`:${pair.target.port}/`, `:${secure.port}/`), root)
  }
  const result = await runChain({ cleanup: 'true', 'allow-insecure': String(Boolean(BIN)) })
  expect(result.conclusion, words(result)).toBe('success')
  expect(result.outputs.verdict).toBe('go')
  await expectWritable()
  expect(await sql('source', 'SELECT slot_name FROM pg_replication_slots')).toEqual([])
  expect(await sql('source', 'SELECT pubname FROM pg_publication')).toEqual([])
  expect(await sql('source', `SELECT tgname FROM pg_trigger WHERE tgname LIKE 'molt%'`)).toEqual([])
  expect(await sql('source', `SELECT nspname FROM pg_namespace WHERE nspname LIKE '%molt%'`)).toEqual([])
})

describe('detects a manual change on the target', () => {
  nightly('a column dropped before the load', { timeout: TIMEOUT }, async () => {
    const drop = () => sql('target', 'ALTER TABLE reviews DROP COLUMN title')
    const result = await runChain({}, justBefore('fetch', drop))
    expectRedAt(result, 'fetch', /reviews has the column title only on the source/, /No row was moved/)
    expect(await sql('source', 'SELECT slot_name FROM pg_replication_slots')).toEqual([])
    await expectWritable()
  })

  nightly('a table dropped before the load', { timeout: TIMEOUT }, async () => {
    const result = await runChain(
      {},
      justBefore('fetch', () => sql('target', 'DROP TABLE reviews')),
    )
    expectRedAt(result, 'fetch', /reviews is missing on the target/)
    await expectWritable()
  })

  test('a row deleted before the cutover, and refuses to load again', {
    timeout: 2 * TIMEOUT,
  }, async () => {
    const remove = () => sql('target', 'DELETE FROM addresses WHERE id = (SELECT min(id) FROM addresses)')
    const result = await runChain({ decision: 'commit' }, justBefore('cutover', remove))
    expectRedAt(result, 'cutover', /addresses: 1 row missing/)
    // The verify before the fence found the missing row, so writes were never paused.
    expect(stepOf(result, 'cutover').outputs['pause-ms']).toBeUndefined()
    await expectWritable()

    const again = await runChain({ decision: 'commit' })
    const red = again.steps.find((step) => step.depth === 1 && step.outcome === 'failure')
    expect(['prepare', 'fetch']).toContain(red?.id)
    expect(words(again)).toMatch(/caught-up/)
    await expectWritable()
  })

  nightly('a value changed during streaming', { timeout: TIMEOUT }, async () => {
    const change = () =>
      sql('target', `UPDATE addresses SET city = 'Elsewhere' WHERE id = (SELECT max(id) FROM addresses)`)
    const result = await runChain({}, justBefore('catch-up', change))
    expectRedAt(result, 'cutover', /addresses: 1 row different/)
    await expectWritable()
  })

  nightly('a column dropped before the cutover', { timeout: TIMEOUT }, async () => {
    const drop = () => sql('target', 'ALTER TABLE addresses DROP COLUMN line2')
    const result = await runChain({}, justBefore('cutover', drop))
    expectRedAt(result, 'cutover', /addresses/, /line2/)
    await expectWritable()
  })

  nightly('a table dropped before the cutover', { timeout: TIMEOUT }, async () => {
    const result = await runChain(
      {},
      justBefore('cutover', () => sql('target', 'DROP TABLE "OrderNotes" CASCADE')),
    )
    expectRedAt(result, 'cutover', /OrderNotes/)
    await expectWritable()
  })
})

interface Process {
  pid: number
  parent: number
  command: string
}

/** Finds the replicator among this process's descendants. If wrapper scripts run it, that is the innermost process. */
async function findReplicator(): Promise<number | undefined> {
  const { stdout } = await execa('ps', ['-axww', '-o', 'pid=,ppid=,command='])
  const all = stdout.split('\n').flatMap((line): Process[] => {
    const [, pid, parent, command] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? []
    return command ? [{ pid: Number(pid), parent: Number(parent), command }] : []
  })
  const ours = new Set([process.pid])
  for (let size = 0; size !== ours.size; ) {
    size = ours.size
    for (const { pid, parent } of all) if (ours.has(parent)) ours.add(pid)
  }
  const found = all.filter(({ pid, command }) => ours.has(pid) && / pglogical (?!--help)/.test(command))
  return found.find(({ pid }) => !found.some(({ parent }) => parent === pid))?.pid
}

nightly('survives a SIGKILL of the replicator while it catches up', { timeout: TIMEOUT }, async () => {
  let killed = 0
  const steps: (string | undefined)[] = []
  const result = await runChain(
    {},
    {
      beforeStep: async (step) => {
        steps.push(step.id)
        if (step.id !== 'catch-up' || step.phase !== 'main') return
        // These changes keep the stream busy after it starts.
        await sql('source', 'UPDATE order_items SET quantity = quantity + 1')
        void (async () => {
          while (steps.at(-1) === 'catch-up') {
            const pid = killed ? undefined : await findReplicator()
            if (pid) {
              process.kill(pid, 'SIGKILL')
              killed = pid
            }
            await sleep(50)
          }
        })()
      },
    },
  )
  expect(killed).toBeGreaterThan(0)
  expect(result.conclusion, words(result)).toBe('success')
  expect(stepOf(result, 'catch-up').outputs.restarts).toBe('1')
  expect(result.outputs.verdict).toBe('go')
  for (const table of JSON.parse(result.outputs.tables as string))
    expect(table).toMatchObject({ missing: 0, mismatch: 0, extraneous: 0 })
})

test('a run cancelled during streaming reports that and leaves the source writable', {
  timeout: TIMEOUT,
}, async () => {
  const cancel = new AbortController()
  const result = await runChain(
    {},
    {
      signal: cancel.signal,
      onLine: (line) => {
        log += `${line.text}\n`
        if (line.step?.id === 'catch-up' && /^streaming:/.test(line.text)) cancel.abort()
      },
    },
  )
  expect(result.conclusion).toBe('cancelled')
  expect(stepOf(result, 'catch-up').outputs['error-kind']).toBe('cancelled')
  expect(result.steps.some((step) => step.id === 'cutover' && step.outcome !== 'skipped')).toBe(false)
  await expectWritable()
  expect(await sql('source', 'SELECT pid FROM pg_stat_replication')).toEqual([])
})
