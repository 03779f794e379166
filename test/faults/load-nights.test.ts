// Loads on a CockroachDB-like target that fail, are killed, or run into another role's import.
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { SqlError } from '../../rehearsal/cockroach/types.ts'
import { freeAddress } from '../../src/tools/ports.ts'
import { foreignImport, LoadBench, type Prepared, until } from '../support/load-bench.ts'
import { requireSuccess, words } from '../support/migration.ts'
import { actionProcess } from '../support/stopped.ts'

let bench: LoadBench
beforeAll(async () => {
  bench = await LoadBench.start()
})
afterAll(() => bench?.stop())

async function requireLoaded({ onTarget, facts }: Prepared): Promise<void> {
  expect(
    await onTarget('SELECT (SELECT count(*) FROM customers)::text AS c, (SELECT count(*) FROM orders)::text AS o'),
  ).toEqual([{ c: '40', o: '40' }])
  expect(await facts()).toMatchObject({ load: null })
}

describe('a load that fails', () => {
  /** Makes the third file of `orders` fail, as if a node went down. */
  function failThirdFile(): void {
    bench.beforeFile = async ({ description }) => {
      if (/orders\/[^']*part_00000003/.test(description)) throw new SqlError('58030', 'a disk error')
    }
  }

  test('resumes although MOLT kept half of a failed batch', async () => {
    const migration = await bench.prepared()
    failThirdFile()
    const failed = await migration.fetch({ 'on-interrupted': 'resume' })
    expect(failed.conclusion).toBe('failure')
    const [kept] = await migration.onTarget('SELECT count(*)::text AS n FROM orders')
    expect(kept?.n).toBe('20')
    bench.beforeFile = async () => {}
    const resumed = await migration.fetch({ 'on-interrupted': 'resume' })
    requireSuccess('fetch', resumed)
    expect(words(resumed)).toContain('emptied orders, because MOLT imports all of their rows again')
    await requireLoaded(migration)
  })

  test('names the tables to empty if other clients may have written to them', async () => {
    const migration = await bench.prepared({ 'write-access': 'waive' })
    failThirdFile()
    expect((await migration.fetch({ 'on-interrupted': 'resume' })).conclusion).toBe('failure')
    bench.beforeFile = async () => {}
    const refused = await migration.fetch({ 'on-interrupted': 'resume' })
    expect(refused.outputs['error-code']).toBe('load.partly-imported')
    expect(words(refused)).toContain('TRUNCATE TABLE "public"."orders"')
    await migration.onTarget('TRUNCATE TABLE orders')
    requireSuccess('fetch', await migration.fetch({ 'on-interrupted': 'resume' }))
    await requireLoaded(migration)
  })

  test('reports the column and reason of a rejected NULL, but neither the row nor the dropped slot', async () => {
    const migration = await bench.prepared()
    bench.beforeFile = async ({ description }) => {
      if (!description.includes('public.orders')) return
      const url = bench.s3.importUrl('some/orders/part_00000001.tar.gz')
      const reason = 'null value in column "note" violates not-null constraint (row: 7,7,,7)'
      throw new SqlError('23502', `${url}: error parsing row 7: ${reason}`)
    }
    const failed = await migration.fetch()
    expect(failed.outputs['error-code']).toBe('load.null-refused')
    expect(words(failed)).toContain('error parsing row 7: null value in column "note" violates not-null constraint')
    expect(words(failed)).not.toMatch(/7,7,|pg_drop_replication_slot|AWS_SECRET_ACCESS_KEY=/)
    expect(await migration.slots()).toBe(0)
  })

  test('moves nothing and leaves no slot if the bucket keys are wrong', async () => {
    const migration = await bench.prepared()
    const failed = await migration.fetch({}, { env: { AWS_SECRET_ACCESS_KEY: 'wrong' } })
    expect(failed.outputs['error-code'], words(failed)).toBe('load.bucket-refused')
    expect(words(failed)).not.toContain('pg_drop_replication_slot')
    expect(await migration.slots()).toBe(0)
    requireSuccess('fetch', await migration.fetch())
  })

  test('reports files that the target cannot reach', async () => {
    const migration = await bench.prepared()
    const [listen, elsewhere] = [await freeAddress(), '127.0.0.1:1']
    const failed = await migration.run('fetch', {
      mode: 'import',
      'local-path': `${bench.folder}/files`,
      'local-path-listen-addr': listen,
      'local-path-crdb-access-addr': elsewhere,
    })
    expect(failed.outputs['error-code']).toBe('load.files-unreadable')
    expect(await migration.slots()).toBe(0)
    const served = { 'local-path-listen-addr': listen, 'local-path-crdb-access-addr': listen }
    const files = { mode: 'import', 'local-path': `${bench.folder}/files`, ...served }
    requireSuccess('fetch', await migration.run('fetch', files))
    expect(bench.imports().at(-1)?.description).toMatch(/http:\/\/127\.0\.0\.1:\d+\/load-main-[0-9a-f]{16}\/public\./)
    await requireLoaded(migration)
  })
})

describe('a runner that is killed', () => {
  test('leaves its imports running, and their tables are not loaded again', async () => {
    const migration = await bench.prepared()
    const { open } = bench.holdImports()
    const before = bench.imports().length
    const loading = migration.fetch()
    await until(async () => {
      const load = (await migration.facts())?.load as { exported?: object } | null
      return bench.imports().length === before + 2 && load?.exported
    }, loading)
    process.kill(actionProcess('fetch'), 'SIGKILL')
    await loading
    const resuming = migration.fetch({ 'on-interrupted': 'resume' })
    setTimeout(open, 4_000)
    const resumed = await resuming
    requireSuccess('fetch', resumed)
    expect(words(resumed)).toContain('every table has been read and imported completely')
    expect(
      bench
        .imports()
        .slice(before)
        .map(({ status }) => status),
    ).toEqual(['succeeded', 'succeeded'])
    await requireLoaded(migration)
  })

  test('a load on another machine ends when its migration is aborted', async () => {
    const migration = await bench.prepared()
    bench.holdImports()
    const before = bench.imports().length
    const loading = migration.fetch()
    await until(() => bench.imports().length === before + 2, loading)
    // Without `ps`, the process cannot be found, as if it ran on another machine.
    requireSuccess('abort', await migration.run('abort', {}, { env: { PATH: '/nowhere' } }))
    expect((await loading).outputs['error-code']).toBe('load.aborted')
    expect(
      new Set(
        bench
          .imports()
          .slice(before)
          .map(({ status }) => status),
      ),
    ).toEqual(new Set(['canceled']))
  })
})

test("reports a table in another role's import as offline, not as missing", { timeout: 240_000 }, async () => {
  const migration = await bench.prepared()
  requireSuccess('fetch', await migration.fetch())
  let streams = false
  const streaming = migration.run(
    'replicate',
    { until: 'caught-up', 'quiet-period': '5m', 'progress-every': '500ms' },
    {
      onLine: ({ text }) => {
        streams ||= /^streaming: lag/.test(text)
      },
    },
  )
  await until(() => streams, streaming)
  const { open } = bench.holdImports()
  await bench.s3.bucket.put('empty.csv', Buffer.from(''))
  const before = bench.imports().length
  const theirs = await foreignImport(migration.target, bench.s3.importUrl('empty.csv'))
  try {
    await until(() => bench.imports().length > before)
    const job = bench.imports()[before]
    const offline = new RegExp(
      `public\\.orders is offline: importing \\(import job ${job?.id} of the role postgres.*CANCEL JOB ${job?.id}`,
    )
    const streamed = await streaming
    expect(streamed.outputs['error-code']).toBe('target.table-offline')
    expect(words(streamed)).toMatch(offline)
    const verified = await migration.run('verify')
    expect(verified.conclusion).toBe('failure')
    expect(words(verified)).toMatch(offline)
    expect(words(verified)).not.toContain('orders is missing')
    expect(words(await migration.run('prepare', { slot: 'unused' }))).toMatch(offline)
    expect(words(await migration.run('status'))).toContain(
      `import job ${job?.id} of the role postgres into public.orders`,
    )
  } finally {
    open()
    await sleep(100)
    await theirs.end()
  }
})
