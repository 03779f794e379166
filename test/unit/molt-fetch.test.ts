import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { describe, expect, test } from 'vitest'
import { FETCH_FLAGS } from '../../rehearsal/molt/fetch.ts'
import { flagUsages } from '../../rehearsal/molt/flags.ts'
import { progressLine } from '../../src/actions/fetch/run.ts'
import { stopsOnToast } from '../../src/checks/facts/gather.ts'
import { cancelImports, concerns, namedTables, readImportJobs } from '../../src/destination/jobs.ts'
import { filterProblems } from '../../src/model/filter.ts'
import type { Database } from '../../src/runtime/database.ts'
import { argumentList } from '../../src/runtime/types.ts'
import { tlsProblem } from '../../src/runtime/url.ts'
import {
  accountFor,
  EXTRA_FLAGS,
  emptyAccount,
  extraArgsProblem,
  fetchArgs,
  fetchedRows,
  fetchFeatures,
  fetchProblems,
  implicitAccess,
  unknownFlags,
} from '../../src/tools/molt-fetch.ts'
import { toolHelp } from '../../src/tools/versions.ts'

test.each(['ERROR', 'critical', 50])('treats a record with the level %s as an error', (level) => {
  const account = emptyAccount()
  accountFor(account, { level, message: 'lost the connection' } as never)
  expect(fetchProblems(account, [])).toContain('lost the connection')
})

test.each(['constructor', '__proto__', 'toString'])('counts the rows of a table named %s', (table) => {
  const account = emptyAccount()
  const told = { table: `public.${table}`, num_rows: 7 }
  accountFor(account, { message: 'data extraction from source complete', ...told })
  accountFor(account, { message: 'data extraction from source complete', ...told })
  expect(Object.entries(account.tables)).toEqual([[table, { exported: 14 }]])
  accountFor(account, { message: table })
  expect(Object.entries(account.unknown.messages)).toEqual([[table, 1]])
})

describe('extra-args', () => {
  test.each([
    [['--flush-rows', '1000']],
    [['--flush-rows=1000', '--opt-out-telemetry', '--type-map-file', '/f.json']],
    [['--export-retry-max-attempts', '-1']],
  ])('accepts %j', (args) => expect(extraArgsProblem(args)).toBeUndefined())

  test.each([
    [['--source', 'x'], '--source is not allowed: use the input `source`'],
    [['--source=x'], '--source is not allowed: use the input `source`'],
    [['--direct-copy=false'], '--direct-copy is not allowed: use the input `mode`'],
    [['--filter-path', '/f.json'], '--filter-path is not allowed: `verify` would report the filtered rows as missing'],
    [['--flush-rows', '--target'], '--target is not allowed: use the input `target`'],
    [['-source', 'x'], '-source is not a flag of molt fetch: flags have two hyphens'],
    [['-h'], '-h is not a flag of molt fetch: flags have two hyphens'],
    [['--help'], '--help is not allowed: it would only print the help'],
    [['--flush-rows 1000'], '"--flush-rows 1000" is two arguments. Write two items, or --flag=value'],
    [['tokens', 'list'], '"tokens" is a value without a flag'],
    [['--opt-out-telemetry', 'tokens'], '"tokens" is a value without a flag'],
    [['--flush-rows=1', 'tokens'], '"tokens" is a value without a flag'],
    [['--'], 'a bare -- would end the flags'],
  ])('rejects %j', (args, problem) => expect(extraArgsProblem(args)).toBe(problem))

  test('only documented flags without an input are accepted', () => {
    for (const [flag] of FETCH_FLAGS) {
      const taken = extraArgsProblem([`--${flag}=1`]) === undefined
      expect(taken, flag).toBe((EXTRA_FLAGS as readonly string[]).includes(flag))
    }
  })

  test('accepts only a YAML list, because a comma can be part of an argument', () => {
    expect(argumentList.schema.parse('- --a=b,c\n- --rows\n- 5')).toEqual(['--a=b,c', '--rows', '5'])
    expect(argumentList.schema.parse('["--a", "b"]')).toEqual(['--a', 'b'])
    for (const text of ['--a,b', 'a: b', '- [', '- {a: 1}'])
      expect(argumentList.schema.safeParse(text).success, text).toBe(false)
  })
})

test.each([
  ['postgres://u@h/d?sslmode=verify-full', undefined],
  ['postgres://u@h/d?a=b&sslmode=require', undefined],
  ['postgres://u@h/d?sslmode=prefer', 'its sslmode is prefer'],
  ['postgres://u@h/d?sslmode=allow', 'its sslmode is allow'],
  ['postgres://u@h/d?sslmode=disable', 'its sslmode is disable'],
  ['postgres://u@h/d?sslmode=verify-full&sslmode=disable', 'its sslmode is disable'],
  ['postgres://u@h/d', 'it has no sslmode, so TLS is skipped when the server does not offer it'],
  ['postgres://u@/d?host=/run/postgresql', undefined],
  ['postgres://u@%2Frun%2Fpostgresql/d', undefined],
])('TLS: %s', (url, problem) => expect(tlsProblem(url)).toBe(problem))

describe('filters', () => {
  const expected = { schema: 'public', tables: ['orders', 'a.b+c'] }
  const anchored = { schema: '^(public)$', table: '^(orders|a\\.b\\+c)$' }
  const names = [
    { schema: 'public', name: 'orders' },
    { schema: 'public', name: 'a.b+c' },
    { schema: 'public', name: 'orders_archive' },
    { schema: 'other', name: 'orders' },
  ]
  test('accepts exactly the expected tables', () =>
    expect(filterProblems('source', names, expected, anchored)).toEqual([]))
  test('reports other tables that match, in any schema, and a table that does not match', () => {
    expect(filterProblems('source', names, expected, { schema: 'public', table: 'orders' })).toEqual([
      'the filter also matches public.orders_archive on the source, which is not an expected table',
      'the filter does not match a.b+c',
    ])
    expect(filterProblems('target', names, expected, { schema: '.*', table: anchored.table })).toEqual([
      'the filter also matches other.orders on the target, which is not an expected table',
    ])
  })
  test('reports a name that differs only in case', () => {
    const more = [...names, { schema: 'public', name: 'Orders' }]
    expect(filterProblems('target', more, expected, anchored)).toEqual([
      expect.stringContaining('public.Orders on the target differs from the expected table orders only in case'),
    ])
  })
})

describe('the command line', () => {
  const request = {
    source: 'postgres://s/d',
    target: 'postgres://t/d',
    schema: 'public',
    tables: ['orders', 'Order Notes'],
    slot: 'molt_slot',
    mode: 'import',
    bucketPath: 's3://b/p',
    useImplicitAuth: true,
    assumeRole: 'arn:aws:iam::1:role/r',
    tableHandling: 'truncate-if-exists',
    metricsAddr: '127.0.0.1:1',
    pprofAddr: '127.0.0.1:2',
    insecure: false,
    extraArgs: ['--flush-rows', '5'],
  } as const
  const newest = fetchFeatures(flagUsages(FETCH_FLAGS))
  const older = fetchFeatures('--pglogical-replication-slot-name string\n --metrics-listen-addr string')

  test('has all arguments for a new load', () => {
    expect(fetchArgs(request, newest).join(' ')).toBe(
      'fetch --source postgres://s/d --target postgres://t/d --schema-filter ^(public)$ --table-filter ^(orders|Order Notes)$ --table-handling truncate-if-exists --pglogical-replication-slot-name molt_slot --pglogical-publication-and-slot-drop-and-recreate --bucket-path s3://b/p --use-implicit-auth --assume-role arn:aws:iam::1:role/r --metrics-listen-addr 127.0.0.1:1 --pprof-listen-addr 127.0.0.1:2 --non-interactive --flush-rows 5',
    )
  })
  test('creates and empties nothing for a resumed load', () => {
    const args = fetchArgs({ ...request, resume: { fetchId: 'f', continuationToken: 't' } }, newest).join(' ')
    expect(args).toContain('--table-handling none --fetch-id f --continuation-token t')
    expect(args).not.toMatch(/--pglogical/)
  })
  test('makes TLS optional only if an input says so', () => {
    expect(fetchArgs({ ...request, insecure: true }, newest)).toContain('--allow-tls-mode-disable')
    expect(fetchArgs({ ...request, insecure: true }, older)).not.toContain('--allow-tls-mode-disable')
  })
  test('finds a flag that this build lacks, before it runs', () => {
    expect(unknownFlags(['fetch', '--assume-role', 'x', '--non-interactive', '--flush-rows=5'], older)).toEqual([
      '--assume-role',
      '--flush-rows',
    ])
  })
})

test('reads row counts from metrics', () => {
  const text =
    '# HELP x\nmolt_fetch_rows_exported{table="public.a"} 10\nmolt_fetch_rows_exported{table="public.b"} 5\nmolt_fetch_rows_imported{table="public.a"} 7\n'
  expect(fetchedRows(text)).toEqual({ exported: 15, imported: 7 })
  expect(fetchedRows('molt_fetch_num_tables 2\n')).toBeUndefined()
})

test('shows the remaining work, but no unknown figures', () => {
  const size = { rows: 1000, bytes: 8 * 2 ** 20 }
  const line = progressLine({ tablesRead: 1, tablesImported: 0, rows: 250 }, 4, size, 5_000)
  expect(line).toContain(
    '1 of 4 tables read, 0 imported, 250 of about 1,000 rows (25%, about 2 of 8 MiB), 50 rows/s, about 15 s left',
  )
  const read = progressLine({ tablesRead: 4, tablesImported: 1, rows: 1000 }, 4, size, 5_000)
  expect(read).toMatch(/4 of 4 tables read, 1 imported, .*\(99%.*importing$/)
  // Once every table has been read, no remaining time is shown, even if the row estimate was too high.
  expect(progressLine({ tablesRead: 4, tablesImported: 1, rows: 500 }, 4, size, 5_000)).toMatch(/importing$/)
  const silent = { tablesRead: 0, tablesImported: undefined, rows: 0 }
  expect(progressLine(silent, 4, { rows: 0, bytes: 0 }, 5_000)).toBe('loading: 0 of 4 tables read, 0 rows, 0 rows/s')
})

test.each([
  [{ mode: 'import', localPath: '/files' }, {}, true],
  [{ mode: 'import', bucketPath: 's3://b', useImplicitAuth: true }, {}, true],
  [{ mode: 'import', bucketPath: 's3://b' }, { AWS_ENDPOINT_URL: 'http://minio' }, true],
  [{ mode: 'import', bucketPath: 's3://b?AWS_ENDPOINT=http://minio' }, {}, true],
  [{ mode: 'import', bucketPath: 's3://b' }, {}, false],
  [{ mode: 'use-copy', localPath: '/files' }, {}, false],
] as const)('EXTERNALIOIMPLICITACCESS for %j with %j: %s', (files, env, needed) =>
  expect(implicitAccess(files, env) !== undefined).toBe(needed),
)

describe('import jobs', () => {
  test.each([
    ['IMPORT INTO shop.public.orders(id, name) CSV DATA (…)', [['shop', 'public', 'orders']]],
    ['IMPORT INTO shop.public."Order ""x"" (1)"(id) CSV DATA (…)', [['shop', 'public', 'Order "x" (1)']]],
    ['IMPORT INTO orders CSV DATA (…)', [['orders']]],
    ["CREATE CHANGEFEED FOR TABLE orders INTO 'kafka://x'", [['orders']]],
    ["CREATE CHANGEFEED FOR TABLE d.public.a, TABLE b INTO 's3://x'", [['d', 'public', 'a'], ['b']]],
    ["CREATE CHANGEFEED FOR DATABASE shop INTO 's3://x'", []],
    ["CREATE CHANGEFEED INTO 's3://x' AS SELECT * FROM orders", []],
    ['BACKUP DATABASE x', []],
  ])('%s', (description, tables) => expect(namedTables(description)).toEqual(tables))

  test.each([
    ['IMPORT INTO shop.public.orders(id) CSV DATA (…)', true],
    ['IMPORT INTO other.public.orders(id) CSV DATA (…)', false],
    ['IMPORT INTO shop.far.orders(id) CSV DATA (…)', false],
    ['IMPORT INTO orders(id) CSV DATA (…)', true],
    ["CREATE CHANGEFEED FOR TABLE shop.public.audit, TABLE shop.public.orders INTO 's3://x'", true],
    ["CREATE CHANGEFEED FOR TABLE other.public.orders INTO 's3://x'", false],
    ["CREATE CHANGEFEED FOR DATABASE other INTO 's3://x'", true],
  ])('%s is about shop.public.orders: %s', (description, expected) =>
    expect(concerns(description, { database: 'shop', schema: 'public', tables: ['orders'] })).toBe(expected),
  )

  interface Job {
    id: string
    description: string
    status: string
  }

  const FOLDER = 'load-main-0123456789abcdef'
  const into = (table: string, folder = FOLDER) =>
    `IMPORT INTO d.${table}(a) CSV DATA ('s3://bucket/${'some/long/path/'.repeat(6)}${folder}/${table}/shard_01_part_00000001.tar.gz?AWS_ACCESS_KEY_ID=key')`

  /** Returns a cluster whose SHOW JOBS lists these jobs. CANCEL JOB takes effect at the next SHOW JOBS. */
  function cluster(jobs: Job[]) {
    const cancelled: string[] = []
    const query = async (sql: string) => {
      const one = /\[SHOW JOB (\d+)\]/.exec(sql)?.[1]
      if (one) return { rows: jobs.filter((job) => job.id === one) }
      const id = /^CANCEL JOB (\d+)$/.exec(sql)?.[1]
      if (id) {
        cancelled.push(id)
        for (const job of jobs) if (job.id === id) job.status = 'cancel-requested'
        return { rows: [] }
      }
      const rows = jobs.map((job) => ({
        ...job,
        owner: 'mig',
        database: 'd',
        description: job.description.slice(0, 100),
      }))
      for (const job of jobs) if (job.status === 'cancel-requested') job.status = 'canceled'
      return { rows }
    }
    return { db: { query } as unknown as Database, cancelled, jobs }
  }

  const cancel = (db: Database, timeout?: number) => cancelImports(db, 'public', ['orders'], [FOLDER], timeout)

  test("cancels only unfinished jobs of this migration's loads, each by its ID, and waits for them", async () => {
    const { db, cancelled } = cluster([
      { id: '900000000000000001', description: into('public.orders'), status: 'running' },
      { id: '2', description: into('public.others'), status: 'running' },
      { id: '3', description: into('public.orders'), status: 'succeeded' },
      { id: '4', description: into('other.orders'), status: 'running' },
      { id: '5', description: into('public.orders', 'load-main-fedcba9876543210'), status: 'running' },
    ])
    const { ended, left } = await cancel(db)
    expect(cancelled).toEqual(['900000000000000001'])
    expect(ended).toMatchObject([{ table: 'public.orders', owner: 'mig', ours: true }])
    expect(left).toEqual([])
    expect(await readImportJobs(db, 'public', ['orders'], [FOLDER])).toMatchObject([{ id: '5', ours: false }])
  })

  test('reads the table from a description that SHOW JOBS truncates', async () => {
    const long = 'orders_'.repeat(20)
    const { db } = cluster([{ id: '8', description: into(`public.${long}`), status: 'running' }])
    expect(await readImportJobs(db, 'public', [long])).toMatchObject([{ id: '8', table: `public.${long}` }])
  })

  test('also cancels an import that starts after another one was cancelled', async () => {
    const { db, cancelled, jobs } = cluster([{ id: '1', description: into('public.orders'), status: 'running' }])
    const query = db.query.bind(db) as (sql: string) => Promise<unknown>
    const restarting = async (sql: string) => {
      const answer = await query(sql)
      if (sql === 'CANCEL JOB 1') jobs.push({ ...(jobs[0] as Job), id: '2', status: 'running' })
      return answer
    }
    await cancel({ query: restarting } as unknown as Database)
    expect(cancelled).toEqual(['1', '2'])
  })

  test('gives up on a job that does not end, without a second CANCEL JOB', async () => {
    const { db, cancelled } = cluster([{ id: '7', description: into('public.orders'), status: 'reverting' }])
    expect(await cancel(db, 0)).toMatchObject({ ended: [], left: [{ id: '7', status: 'reverting' }], refused: [] })
    expect(cancelled).toEqual([])
  })

  test('distinguishes a job that this role may not cancel from one that does not end', async () => {
    const { db } = cluster([{ id: '7', description: into('public.orders'), status: 'running' }])
    const query = db.query.bind(db) as (sql: string) => Promise<unknown>
    const refusing = async (sql: string) => {
      if (!sql.startsWith('CANCEL JOB')) return query(sql)
      throw Object.assign(new pg.DatabaseError('no privileges', 0, 'error'), { code: '42501' })
    }
    const found = await cancel({ query: refusing } as unknown as Database)
    expect(found).toMatchObject({ ended: [], left: [], refused: [{ id: '7' }] })
  })
})

describe('the cursor', () => {
  const loaded = (cursor: unknown) => {
    const account = emptyAccount()
    accountFor(account, { message: 'starting fetch', cdc_cursor: cursor })
    accountFor(account, { message: 'data extraction from source complete', num_rows: 1, table: 'a' })
    accountFor(account, { message: 'fetch complete', fetch_id: 'x', tables: ['public.a'], cdc_cursor: cursor })
    return { problems: fetchProblems(account, ['a']), started: account.startCursor }
  }
  test.each(['0/2E02140', 'FFFFFFFF/FFFFFFFF', '1a/0'])('%s is a position', (cursor) =>
    expect(loaded(cursor)).toEqual({ problems: [], started: cursor }),
  )
  test.each(['not an lsn', '0/0', '0/123456789', '1700000000.0', '/1', '0/2E02140 ', { a: 1 }])(
    '%j is not a valid cursor',
    (cursor) => {
      const { problems, started } = loaded(cursor)
      expect(problems).toEqual([expect.stringMatching(/cursor is not a WAL position/)])
      expect(started).toBeUndefined()
    },
  )
})

test('reports a tool that is killed while printing its help', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'killed-'))
  writeFileSync(join(dir, 'molt'), '#!/bin/sh\nkill -9 $$\n', { mode: 0o755 })
  const asked = toolHelp(join(dir, 'molt'), 'fetch').finally(() => rmSync(dir, { recursive: true }))
  await expect(asked).rejects.toThrow(/molt was killed by a signal before it responded.*out of memory/)
})

test.each([
  ['1.0.4', '', true],
  ['1.3.4', '--enableToastedColumns', false],
  ['(devel)', '--enableToastedColumns  Enable support for toasted columns', true],
  ['(devel)', '--slotName string', false],
])('a replicator %s whose help contains %j stops on an unchanged long value: %s', async (version, help, stops) => {
  const dir = mkdtempSync(join(tmpdir(), 'toast-'))
  writeFileSync(join(dir, 'replicator'), `#!/bin/sh\necho '${help}'\n`, { mode: 0o755 })
  expect(await stopsOnToast(join(dir, 'replicator'), version)).toBe(stops)
  rmSync(dir, { recursive: true })
})
