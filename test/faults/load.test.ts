// What IMPORT INTO leaves behind on a CockroachDB-like target, and which imports belong to the migration.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { foreignImport, LoadBench, until } from '../support/load-bench.ts'
import { requireSuccess, words } from '../support/migration.ts'

let bench: LoadBench
beforeAll(async () => {
  bench = await LoadBench.start()
})
afterAll(() => bench?.stop())

test('each load has its own folder, recorded in the ledger before an import uses it', async () => {
  const migration = await bench.prepared()
  requireSuccess('fetch', await migration.fetch())
  const facts = await migration.facts()
  const [folder = ''] = (facts?.loadFolders ?? []) as string[]
  expect(folder).toMatch(/^load-main-[0-9a-f]{16}$/)
  expect(facts).toMatchObject({ load: null, filesLeft: [folder] })
  const imports = bench.imports()
  expect(imports.length).toBe(2)
  for (const { description, status } of imports) {
    expect(status).toBe('succeeded')
    expect(description).toContain(`s3://loads/some/${folder}/public.`)
  }
  // IMPORT INTO checks neither foreign keys nor CHECK constraints. `finalize` validates them.
  const left = await migration.onTarget(
    "SELECT conname FROM pg_constraint WHERE NOT convalidated AND contype IN ('c', 'f') ORDER BY 1",
  )
  expect(left.map(({ conname }) => conname)).toEqual(['orders_customer_fkey', 'orders_qty_check'])
  const cleaned = await migration.run('cleanup')
  requireSuccess('cleanup', cleaned)
  expect(cleaned.outputs['files-left']).toBe(JSON.stringify([folder]))
})

test('`abort` kills molt before it cancels the imports, and leaves nothing behind', async () => {
  const migration = await bench.prepared()
  const before = bench.imports().length
  bench.holdImports()
  const loading = migration.fetch()
  await until(() => bench.imports().length === before + 2, loading)
  const aborted = await migration.run('abort')
  requireSuccess('abort', aborted)
  expect((await loading).outputs['error-code']).toMatch(/^(load\.aborted|hold\.lost|tool\.killed)$/)
  // If molt had kept running, it would have started smaller imports.
  expect(
    bench
      .imports()
      .slice(before)
      .map(({ status }) => status),
  ).toEqual(['canceled', 'canceled'])
  expect(await migration.onTarget('SELECT id FROM orders')).toEqual([])
  expect(await migration.slots()).toBe(0)
  expect(aborted.outputs.undone).toBe('[]')
  expect(words(await loading)).not.toContain('pg_drop_replication_slot')
})

test("names the owner of another role's import, and does not cancel it", async () => {
  const migration = await bench.prepared()
  const { open } = bench.holdImports()
  const before = bench.imports().length
  await bench.s3.bucket.put('theirs.csv', Buffer.from('900,1,theirs,1\n'))
  const theirs = await foreignImport(migration.target, bench.s3.importUrl('theirs.csv'))
  try {
    await until(() => bench.imports().length > before)
    const job = bench.imports()[before]
    const fetched = await migration.fetch()
    expect(fetched.outputs['error-code']).toBe('load.foreign-import')
    expect(words(fetched)).toContain(`import job ${job?.id} of the role postgres into public.orders is running`)
    const aborted = await migration.run('abort')
    expect(aborted.outputs).toMatchObject({ 'error-code': 'abort.incomplete', undone: '["load.foreign-import"]' })
    expect(job?.status).toBe('running')
    // The abort has already undone everything that does not depend on that import.
    expect(await migration.source("SELECT 1 FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
    open()
    await until(() => job?.status === 'succeeded')
    requireSuccess('abort', await migration.run('abort'))
  } finally {
    open()
    await theirs.end()
  }
})

test('reports a statement timeout that was set on the source after `prepare`', async () => {
  const migration = await bench.prepared()
  const [{ name } = {}] = await migration.source('SELECT current_database() AS name')
  await migration.source(`ALTER DATABASE ${name} SET statement_timeout = 1`)
  const result = await migration.fetch({ mode: 'direct-copy' })
  expect(result.outputs['error-code']).toBe('database.statement-ended')
  expect(words(result)).toContain('statement_timeout = 0')
  expect(words(result)).not.toContain('This is a bug')
})

test('`abort` refuses a migration that the ledger says is committed, even if its fence is gone', async () => {
  const migration = await bench.prepared()
  await migration.onTarget("UPDATE molt_actions.migrations SET phase = 'switched' WHERE id = 'main'")
  const refused = await migration.run('abort')
  expect(refused.outputs['error-code'], words(refused)).toBe('abort.committed')
  expect(await migration.source("SELECT 1 FROM pg_namespace WHERE nspname = 'molt_actions'")).toHaveLength(1)
  expect(await migration.onTarget('SELECT phase FROM molt_actions.migrations')).toEqual([{ phase: 'switched' }])
})

test('`abort` frees the source although it cannot read the ledger, and says so', async () => {
  const migration = await bench.prepared()
  requireSuccess('fence', await migration.run('fence', { do: 'raise', lease: '10m', keep: 'true' }))
  await migration.onTarget('ALTER TABLE molt_actions.migrations RENAME COLUMN nonce TO gone')
  const aborted = await migration.run('abort', { slot: 'none' })
  expect(aborted.outputs['error-code'], words(aborted)).toBe('abort.incomplete')
  expect(JSON.parse(aborted.outputs.undone as string)).toContain('database.object-missing')
  await migration.source('UPDATE orders SET note = note')
  expect(await migration.source("SELECT 1 FROM pg_namespace WHERE nspname = 'molt_actions'")).toEqual([])
  await migration.onTarget('ALTER TABLE molt_actions.migrations RENAME COLUMN gone TO nonce')
  requireSuccess('abort', await migration.run('abort'))
})
