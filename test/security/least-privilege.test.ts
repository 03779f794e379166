/** The whole chain, run by roles that have only the privileges printed by `grants: print`, on both sides. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { grantAsPrinted, type Mover } from '../../rehearsal/cli/printed-grants.ts'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { type S3Server, startS3 } from '../../rehearsal/s3.ts'
import { type LoadHandle, startLoad } from '../../rehearsal/shop/load.ts'
import { createShop, SOURCE_CONSTRAINTS } from '../../rehearsal/shop/shop.ts'
import { inProcess } from '../support/in-process.ts'
import { query, REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder } from '../support/stand-in.ts'

const folder = mkdtempSync(join(tmpdir(), 'least-'))
let pair: Servers
let mover: Mover
let load: LoadHandle
let s3: S3Server

beforeAll(async () => {
  pair = await startServers()
  s3 = await startS3()
  await Promise.all([
    createShop(pair.source.url, { rows: 1000 }),
    createShop(pair.behind.url, { schemaOnly: true }).then(() => query(pair.behind.url, SOURCE_CONSTRAINTS)),
  ])
  mover = await grantAsPrinted(
    { source: pair.source.url, target: pair.target.url },
    folder,
    new AbortController().signal,
  )
  load = await startLoad({ url: pair.source.url, rate: 30, connections: 2 })
}, 300_000)
afterAll(async () => {
  await load?.stop()
  await s3?.stop()
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

test('every step from `prepare` to `cleanup` succeeds', { timeout: 300_000 }, async () => {
  const streaming = { 'quiet-period': '200ms' }
  for (const [action, inputs] of [
    ['prepare', mover.inputs],
    // The other modes need the `admin` role on the target.
    ['fetch', { mode: 'import', 'bucket-path': 's3://loads/least' }],
    ['replicate', { until: 'caught-up', ...streaming }],
    ['status', {}],
    ['cutover', { decision: 'commit', 'switch-command': '["true"]', ...streaming }],
    ['finalize', {}],
    ['cleanup', { 'rollback-window': '0s', waive: 'observe' }],
  ] as const) {
    const result = await runAction({
      dir: join(REPO, 'actions', action),
      repo: REPO,
      inputs: { source: mover.source, target: mover.target, 'allow-insecure': 'true', ...inputs },
      workDir: join(folder, action),
      start: inProcess,
      env: { ...s3.env, PATH: `${standInFolder()}:${process.env.PATH}` },
    })
    expect(result.conclusion, words(result)).toBe('success')
  }
})
