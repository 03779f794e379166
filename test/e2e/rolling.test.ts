/** A migration that compares only recently changed rows in the write pause, and relies on the rolling proof for the rest. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'

const CUTOVER = { 'quiet-period': '300ms', 'final-verify': 'changed' }
const TIMEOUT = { timeout: 240_000 }

let rehearsal: Rehearsal
let folder: string
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-smoke-'))
  rehearsal = await startRehearsal({ rows: 3000, rate: 60 })
  await rehearsal.bringToLoaded()
}, 240_000)
afterAll(async () => {
  await rehearsal?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const slots = async () =>
  (await rehearsal.query('source', 'SELECT slot_name AS name FROM pg_replication_slots ORDER BY 1')).map(
    ({ name }) => name,
  )
/** Creates a smoke test that does nothing before the pause, and runs `sql` on that side during the pause. */
function inThePause(side: 'source' | 'target', sql: string): string {
  const path = join(folder, 'smoke.mjs')
  const flag = join(folder, 'ran')
  rmSync(flag, { force: true })
  writeFileSync(
    path,
    `#!${process.execPath}
    import { existsSync, writeFileSync } from 'node:fs'
    import { createRequire } from 'node:module'
    const pg = createRequire('${process.cwd()}/package.json')('pg')
    if (!existsSync('${flag}')) { writeFileSync('${flag}', ''); process.exit(0) }
    const client = new pg.Client('${rehearsal.pair[side].url}')
    await client.connect()
    await client.query(${JSON.stringify(sql)})
    await client.end()`,
  )
  chmodSync(path, 0o755)
  return path
}

test('proves every row during streaming, table by table', TIMEOUT, async () => {
  const metrics = join(folder, 'stream.prom')
  const result = await rehearsal.run('replicate', {
    until: 'caught-up',
    verify: 'rolling',
    'quiet-period': '300ms',
    'metrics-file': metrics,
    'progress-every': '100ms',
  })
  requireSuccess('replicate', result)
  expect(readFileSync(metrics, 'utf8')).toMatch(/^molt_actions_keys_open\{migration="main"\} \d+$/m)
  expect(words(result)).toMatch(/every row proved, \d+ keys? open/)
  expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
  const brief = await rehearsal.run('brief', { decision: 'rehearse' })
  requireSuccess('brief', brief)
  expect(brief.summary).toMatch(
    /\*\*Rolling proof:\*\* every row of \d+ tables proved as of [\d: -]+ UTC, \d+ keys? open, 0 lost/,
  )
  expect((await rehearsal.run('status', {})).summary).toContain('`molt_slot_verify`')
})

test('compares recently changed rows during the write pause', TIMEOUT, async () => {
  const result = await rehearsal.run('cutover', CUTOVER)
  requireSuccess('cutover', result)
  expect(words(result)).toMatch(/rows of \d+ tables proved, \d+ keys? open, 0 lost/)
  expect(result.summary).toContain('every row compared during the stream, and again after each change')
  expect(JSON.parse(result.outputs.tables as string).length).toBeGreaterThan(5)
  // After a rehearsal, the stream and the proof can both resume.
  expect(await slots()).toEqual(['molt_slot', 'molt_slot_verify'])
})

test('`auto` uses the proof for a small database if a full comparison took long', TIMEOUT, async () => {
  const took = (ms: number) =>
    rehearsal.query(
      'target',
      `INSERT INTO molt_actions.evidence (migration, action, body)
       VALUES ('main', 'verify', '{"level": "full", "durationMs": ${ms}}')`,
    )
  const level = async () => {
    requireSuccess('cutover', await rehearsal.run('cutover', { ...CUTOVER, 'final-verify': 'auto' }))
    const sql = `SELECT body ->> 'finalVerify' AS level FROM molt_actions.evidence WHERE action = 'cutover' ORDER BY at DESC LIMIT 1`
    return (await rehearsal.query('target', sql))[0]?.level
  }
  await took(900)
  expect(await level()).toBe('full')
  await took(9_000)
  expect(await level()).toBe('changed')
})

test(
  'finds a write that bypasses the fence in the log, and a renamed enum label by the fingerprint',
  TIMEOUT,
  async () => {
    const fence = (how: string) => `ALTER TABLE categories ${how} TRIGGER molt_actions_fence`
    const passed = inThePause(
      'source',
      `BEGIN; ${fence('DISABLE')}; UPDATE categories SET name = name || '!' WHERE id = 1; ${fence('ENABLE ALWAYS')}; COMMIT`,
    )
    const first = await rehearsal.run('cutover', { ...CUTOVER, 'smoke-test': passed })
    expect(first.conclusion).toBe('failure')
    // The row differs as well, but the fence is checked first.
    expect(['fence.write-passed', 'fence.damaged']).toContain(first.outputs['error-code'])
    const relabel = (from: string, to: string) => `ALTER TYPE order_status RENAME VALUE '${from}' TO '${to}'`
    const second = await rehearsal.run('cutover', {
      ...CUTOVER,
      'smoke-test': inThePause('source', relabel('paid', 'settled')),
    })
    await rehearsal.query('source', relabel('settled', 'paid'))
    expect(second.conclusion).toBe('failure')
    // A recently changed row with the renamed label differs as well, and may be compared first.
    expect(['schema.changed', 'verify.rows-lost']).toContain(second.outputs['error-code'])
  },
)

test('fails before the pause if a row is lost', TIMEOUT, async () => {
  await rehearsal.query(
    'target',
    'CREATE TABLE kept AS SELECT * FROM categories WHERE id = 2; DELETE FROM categories WHERE id = 2',
  )
  await rehearsal.query('target', 'DELETE FROM molt_actions.proofs')
  const result = await rehearsal.run('cutover', CUTOVER)
  await rehearsal.query('target', 'INSERT INTO categories SELECT * FROM kept; DROP TABLE kept')
  expect(result.conclusion).toBe('failure')
  expect(result.outputs['error-code']).toBe('verify.differences')
  expect(words(result)).toContain('categories: 1 missing')
  expect(result.outputs['pause-ms'] ?? '').toBe('')
})

test("commits based on the proof, and drops the log's slot", TIMEOUT, async () => {
  const result = await rehearsal.run('cutover', { ...CUTOVER, decision: 'commit' })
  requireSuccess('cutover', result)
  expect(await slots()).toEqual(['molt_slot'])
})
