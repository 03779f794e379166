import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import {
  continuityProblems,
  diagnosesText,
  flushArguments,
  progressLine,
  refusedArgument,
} from '../../src/phases/stream/open.ts'
import { sideText } from '../../src/phases/stream/stuck.ts'
import { tableChanges, walObservations } from '../../src/phases/stream/watch.ts'
import { compareFiles, compareSourceStates, filesAfter, type SourceState } from '../../src/source/changes.ts'
import { explainDiagnosis, translate } from '../../src/tools/diagnoses.ts'
import { httpText } from '../../src/tools/process.ts'
import { boundedScrubber, parseLogLine, parseMetrics } from '../../src/tools/replicator.ts'
import { scrubText } from '../../src/tools/scrub.ts'

const retry = (error: string) =>
  `time="Nov 22 19:14:46" level=warning msg="error while copying messages; will retry" detail="a\\n\\tb c" error=${JSON.stringify(error)}`

/** Returns a line's diagnosis as the supervisor receives it: parsed, and without row values. */
const heard = (error: string) => translate(scrubText(parseLogLine(retry(error))?.error ?? ''))

describe('the log', () => {
  it('is parsed in each of its formats', () => {
    const error = 'the TRUNCATE operation cannot be supported on table 1'
    expect(parseLogLine(retry(error))).toEqual({
      level: 'warning',
      message: 'error while copying messages; will retry',
      error,
    })
    expect(
      parseLogLine(`WARNING [2025-08-25T14:40:02-05:00] error while copying messages; will retry   error="${error}"`),
    ).toEqual({ level: 'warning', message: 'error while copying messages; will retry', error })
    expect(
      parseLogLine(
        'WARN   [2025-08-25T14:40:02-05:00] warning during tryCommit   error=ERROR: restart transaction (SQLSTATE 40001) target=x',
      ),
    ).toEqual({
      level: 'warn',
      message: 'warning during tryCommit',
      error: 'ERROR: restart transaction (SQLSTATE 40001)',
    })
    expect(
      parseLogLine(JSON.stringify({ severity: 'WARNING', message: 'error while copying messages; will retry', error })),
    ).toEqual({ level: 'warning', message: 'error while copying messages; will retry', error })
    expect(parseLogLine('panic: runtime error')).toBeUndefined()
    expect(parseLogLine('{"severity": "WARN')).toBeUndefined()
  })

  it('keeps the error but not the statement, which for a batch can exceed the length limit', () => {
    const rows = Array.from({ length: 400 }, (_, i) => `($${3 * i + 1}::TEXT COLLATE C,$${3 * i + 2}::INT4,$3::UUID)`)
    const statement = `INSERT INTO "d"."public"."comp" (\n"b","a","c"\n) VALUES\n${rows.join(',\n')}\nON CONFLICT ( "b","a" )\nDO UPDATE SET ("c") = ROW(excluded."c")`
    expect(statement.length).toBeGreaterThan(16 * 1024)
    const said = `"d"."public"."comp": ERROR: null value in column "c" of relation "comp" violates not-null constraint (SQLSTATE 23502)`
    const line = retry(said.replace('ERROR: ', `${statement}: ERROR: `))
    expect(parseLogLine(line)?.error).toBe(said)
    expect(translate(scrubText(parseLogLine(line)?.error ?? ''))?.why).toMatch(/value in the column c of public\.comp/)
    const json = JSON.stringify({
      severity: 'WARNING',
      message: 'x; will retry',
      error: JSON.parse(`"${said.replaceAll('"', '\\"')}"`),
    })
    expect(parseLogLine(json)?.error).toBe(said)
    const collation = '"d"."public"."comp": ERROR: collation "c" for encoding "UTF8" does not exist (SQLSTATE 42704)'
    expect(scrubText(parseLogLine(retry(collation))?.error ?? '')).toContain('collation "c"')
  })

  it('takes the cause of a source error from the preceding line', () => {
    const line = String.raw`time="Nov 22 19:15:12" level=error msg="error received from source database" logicalMsg="&{ERROR ERROR 42704 publication \"molt_pub\" does not exist   0 0  slot \"molt_slot\", output plugin \"pgoutput\"      pg_publication.c 1043 get_publication_oid map[]}"`
    const parsed = parseLogLine(line)
    expect(parsed).toMatchObject({ level: 'error', message: 'error received from source database' })
    expect(translate(scrubText(parsed?.cause ?? ''))).toMatchObject({
      kind: 'publication',
      why: expect.stringMatching(/^the publication molt_pub no longer exists; .* start over with a new slot$/),
    })
  })
})

describe('the diagnosis of a retry', () => {
  const prefix = '"shop"."public"."b": '
  it.each([
    ['the TRUNCATE operation cannot be supported on table 1', 'truncate', /TRUNCATE was run on the source/],
    ['TOASTed columns are not supported in "shop"."public"."a"."body"', 'toast', /column body of public\.a unchanged/],
    ['"shop"."public"."a": template toasted.tmpl not found', 'toast', /--enableToastedColumns/],
    [
      `${prefix}schema drift detected in "shop"."public"."b" at payload object offset 0: unexpected columns: extra`,
      'column',
      /sends the column extra of public\.b/,
    ],
    [
      `${prefix}schema drift detected in "shop"."public"."b": inconsistent number of key columns: received 2 expect 1: key ["2","v2"]@1795375406493927000.0000000000`,
      'identity',
      /keys of public\.b do not match: the source sends 2 key columns, but the target's primary key has 1/,
    ],
    [
      `${prefix}schema drift detected in "shop"."public"."b" at payload object offset 0: missing PK columns: rowid`,
      'no-key',
      /public\.b has no primary key on the target/,
    ],
    [`${prefix}could not read table metadata: column name collision: "body"`, 'name-collision', /public\.b has two/],
    [
      'ERROR: replication slot "molt_slot" is active for PID 27046 (SQLSTATE 55006)',
      'slot-busy',
      /another process is reading the slot molt_slot \(PID 27046 on the source\)/,
    ],
    [
      'ERROR: replication slot "molt_slot" does not exist (SQLSTATE 42704)',
      'slot-gone',
      /slot molt_slot no longer exists/,
    ],
    ['update sent to unknown tables: shop.public.b', 'missing-table', /the table public\.b is missing/],
    [
      '"shop"."public"."uniq": upsert-"shop"."public"."uniq"-1-2-false-: ERROR: duplicate key value violates unique constraint "uniq_code_key" (SQLSTATE 23505)',
      'unique',
      /row of public\.uniq to another, which the target's uniq_code_key rejects/,
    ],
    [
      `${prefix}upsert-"shop"."public"."b"-1-1-false-: ERROR: new row for relation "b" violates check constraint "short" (SQLSTATE 23514)`,
      'check',
      /CHECK short rejects a row of public\.b/,
    ],
    [
      `${prefix}upsert-"shop"."public"."b"-1-1-false-: ERROR: null value in column "v" of relation "b" violates not-null constraint (SQLSTATE 23502)`,
      'not-null',
      /value in the column v of public\.b/,
    ],
    [
      '"shop"."public"."parent": ERROR: update or delete on table "parent" violates foreign key constraint "child_pid_fkey" on table "child" (SQLSTATE 23503)',
      'foreign-key',
      /foreign key child_pid_fkey rejects a change to public\.parent/,
    ],
    [
      '"shop"."public"."g": INSERT INTO "shop"."public"."g" (\n"id","x"\n) VALUES\n($1::INT4,$2::INT4): ERROR: cannot insert a non-DEFAULT value into column "id" (SQLSTATE 428C9)',
      'identity-always',
      /column id of public\.g is GENERATED ALWAYS/,
    ],
    ['FATAL: terminating connection due to idle-session timeout (SQLSTATE 57P05)', 'timeout', /idle_session_timeout/],
    [
      'FATAL: terminating connection due to idle-in-transaction timeout (SQLSTATE 25P03)',
      'timeout',
      /for its role, set .* to 0/,
    ],
    ['ERROR: canceling statement due to statement timeout (SQLSTATE 57014)', 'timeout', /set statement_timeout/],
    ['FATAL: too many connections for role "mover" (SQLSTATE 53300)', 'connection-limit', /limit of its role/],
    ['unknown schema: "nodb"."public"', 'schema-name', /database or schema does not exist/],
    [
      'failed to connect to `user=postgres database=shop`: 127.0.0.1:55432 (127.0.0.1): dial error: dial tcp 127.0.0.1:55432: connect: connection refused',
      'connection',
      /cannot be reached .* \(127\.0\.0\.1:55432\)/,
    ],
    ['receive message failed: unexpected EOF', 'connection', /cannot be reached/],
    ['something unknown', 'other', /retrying the same change/],
  ] as const)('%s', (error, kind, why) => {
    const diagnosis = heard(error)
    expect(diagnosis?.kind).toBe(kind)
    expect(diagnosis?.why).toMatch(why)
  })

  it('never contains a row value', () => {
    const line = retry(
      '"shop"."public"."u": ERROR: duplicate key value violates unique constraint "u_email" (SQLSTATE 23505): Key (email)=(ann@example.org) already exists.',
    )
    expect(explainDiagnosis(scrubText(parseLogLine(line)?.error ?? ''))).not.toContain('ann@')
    expect(explainDiagnosis(undefined)).toBeUndefined()
  })
})

it('keeps every important line, but only a sample of the others', () => {
  let now = 0
  const scrub = boundedScrubber(() => now)
  const count = (line: string) => Array.from({ length: 5_000 }, () => scrub(line)).filter((kept) => kept).length
  const chatter = 'time="Nov 22 19:08:30" level=debug msg="upserted rows" upserted=1'
  expect(count(chatter)).toBe(500)
  expect(count(retry('the TRUNCATE operation cannot be supported on table 1'))).toBe(5_000)
  now = 2_000
  expect(count(chatter)).toBeGreaterThan(400)
})

describe('metrics', () => {
  it('count the same under both names, and once if both are present', () => {
    const old = 'apply_upserts_total{schema="s",table="a"} 3\napply_upserts_total{schema="s",table="b"} 4\n'
    const now = 'target_apply_upserts_total{schema="s",table="a"} 7\npglogical_dial_success_total 2\n'
    expect(parseMetrics(old).upserts).toBe(7)
    expect(parseMetrics(now)).toMatchObject({ upserts: 7, dials: 2, deletes: 0 })
    expect(parseMetrics(old + now).upserts).toBe(7)
  })
})

describe('resuming from the slot', () => {
  const slot = { confirmedFlushLsn: '0/500', lsn: '0/900', decoded: 10, serverStart: 'a' }
  const note = { stagingSchema: 'x', ended: true, confirmedFlushLsn: '0/500', decoded: 10, serverStart: 'a' }

  it('is allowed at the position where the last stream ended, after a kill, and after a server crash', () => {
    expect(continuityProblems(slot, undefined, undefined)).toEqual([])
    expect(continuityProblems(slot, '0/510', note)).toEqual([])
    expect(continuityProblems(slot, undefined, undefined, '0/500')).toEqual([])
    const killed = { ...note, ended: false }
    const further = { ...slot, confirmedFlushLsn: '0/700' }
    expect(continuityProblems({ ...further, decoded: 12 }, '0/700', killed)).toEqual([])
    expect(continuityProblems(slot, '0/500', killed)).toEqual([])
    // PostgreSQL before 14 does not count decoded transactions, and a statistics reset or a crash loses the count.
    expect(continuityProblems({ ...further, decoded: null }, '0/700', killed)).toEqual([])
    expect(continuityProblems(further, '0/700', { ...killed, decoded: null })).toEqual([])
    expect(continuityProblems({ ...further, serverStart: 'b' }, '0/700', killed)).toEqual([])
    expect(continuityProblems({ ...slot, confirmedFlushLsn: '0/400', serverStart: 'b' }, '0/510', note)).toEqual([])
  })

  it.each([
    ['another source', slot, '1/0', note, /another source/],
    ['a stale note', slot, '0/800', undefined, /would take precedence over the slot/],
    ['a slot that moved back', { ...slot, confirmedFlushLsn: '0/400' }, '0/500', note, /not the same slot/],
    [
      'a slot that was advanced by another client',
      { ...slot, confirmedFlushLsn: '0/600' },
      '0/500',
      note,
      /recreated, advanced/,
    ],
    ['a recreated slot', { ...slot, decoded: 2 }, '0/500', { ...note, ended: false }, /decoded fewer/],
    ['a slot recreated before the first stream', slot, undefined, undefined, /load ended at 0\/4FF/],
    [
      'a slot recreated after the first stream was killed',
      { ...slot, confirmedFlushLsn: '0/600', decoded: 0 },
      '0/500',
      { ...note, ended: false, decoded: 0 },
      /without decoding a transaction/,
    ],
  ])('is rejected for %s', (_, now, memo, before, said) => {
    expect(continuityProblems(now, memo, before, '0/4FF').join()).toMatch(said)
  })
})

describe('watching', () => {
  const table = { name: 'public.a', oid: 1, file: 10, tuples: 5, identity: 'd', digest: 'x' }
  const state = (change: object = {}, more: object = {}): SourceState => ({
    tables: [{ ...table, ...change }],
    published: ['public.a'],
    publication: { oid: '1', itself: '700', tables: { 'public.a': '2 700' } },
    present: ['a'],
    ...more,
  })
  const plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['a'], slot: 's', publication: 'p' }
  const seen = (after: SourceState) =>
    compareSourceStates(state(), after, plan).map(({ severity, kind }) => `${severity} ${kind}`)

  it('distinguishes TRUNCATE from a rewrite, and DDL from both', () => {
    expect(seen(state())).toEqual([])
    expect(seen(state({ file: 11, tuples: -1 }))).toEqual(['fatal table-truncated'])
    expect(seen(state({ file: 11, tuples: 5 }))).toEqual(['warning table-rewritten'])
    expect(seen(state({ file: 11, tuples: -1, digest: 'y' }))).toEqual(['ddl columns-changed'])
    expect(seen(state({ name: 'public.z' }))).toEqual(['ddl table-renamed'])
    expect(seen(state({ identity: 'f' }))).toEqual(['ddl identity-changed'])
    expect(seen(state({}, { published: [] }))).toEqual(['fatal table-unpublished'])
    expect(seen(state({}, { present: ['a', 'b'] }))).toEqual(['ddl table-created'])
  })

  it('reports a change to the publication, even if it looks unchanged', () => {
    const publication = { oid: '1', itself: '700', tables: { 'public.a': '2 700' } }
    expect(seen(state({}, { publication: { ...publication, itself: '701' } }))).toEqual(['fatal publication-changed'])
    const again = state({}, { publication: { ...publication, tables: { 'public.a': '3 705' } } })
    expect(seen(again)).toEqual(['fatal publication-changed'])
    expect(compareSourceStates(state(), again, plan)[0]?.what).toContain('public.a was removed and added again')
  })

  it('names the changed columns', () => {
    const column = { name: 'x', type: 'integer', notNull: false, generated: false, identityAlways: false, labels: null }
    const before = { schema: 'public', name: 'a', oid: 1, kind: 'r', key: ['x'], columns: [column] }
    const after = {
      ...before,
      key: ['y'],
      columns: [
        { ...column, type: 'bigint' },
        { ...column, name: 'y' },
      ],
    }
    expect(tableChanges([before], [after], 'target')).toMatchObject([
      { kind: 'column-changed', what: expect.stringMatching(/\bx\b.*integer.*bigint/) },
      { kind: 'column-changed', what: expect.stringMatching(/\by\b/) },
      { kind: 'key-changed', what: expect.stringMatching(/\by\b/) },
    ])
    expect(tableChanges([before], [], 'source')).toMatchObject([{ kind: 'table-gone', severity: 'ddl' }])
  })

  it('warns about WAL before the budget is used up', () => {
    const slot = { walBytes: 60, walStatus: 'reserved', safeWalSize: null, oldest: null }
    const limits = { onDdl: 'fail', walBudget: 100, onWalBudget: 'fail' } as const
    const kinds = (change: object) => walObservations({ ...slot, ...change } as never, limits).map(({ kind }) => kind)
    expect(kinds({ walBytes: 40 })).toEqual([])
    expect(kinds({})).toEqual(['wal-budget-half-used'])
    expect(kinds({ walBytes: 10, safeWalSize: 5 })).toEqual(['wal-limit-half-used'])
    expect(kinds({ walBytes: 10, walStatus: 'unreserved' })).toEqual(['wal-unreserved'])
    expect(kinds({ walBytes: 10, walStatus: 'lost' })).toEqual(['wal-lost'])
    expect(kinds({ walBytes: 10, oldest: { pid: null, ageMs: 400_000, application: null } })).toEqual([
      'long-transaction',
    ])
  })
})

it('shows the trend in a progress line', () => {
  const status = {
    lagMs: 9_000,
    beating: true,
    changes: 100,
    walBytes: 0,
    behindBytes: 8 << 20,
    retries: 0,
    restarts: 0,
    lastEnd: 'is still running',
    interruptions: 0,
  }
  const line = (change: object) => progressLine({ at: 0, ...status }, { at: 2_000, ...status, ...change })
  expect(line({ changes: 1_100, behindBytes: 4 << 20 })).toBe(
    'streaming: lag 9.0 s, 500 rows/s, 1,100 changes, 4,096 KiB of WAL behind, caught up in about 2.0 s',
  )
  expect(line({ behindBytes: 9 << 20 })).toMatch(/, falling behind$/)
  expect(line({ lagMs: 80 })).toMatch(/WAL behind$/)
  expect(line({ lagMs: Number.POSITIVE_INFINITY })).toMatch(/lag unknown until the first heartbeat arrives/)
  // The drain does not show the last lag, because that would look harmless even if the drain is stuck.
  expect(line({ lagMs: 8, beating: false, retries: 21 })).toMatch(
    /^streaming: lag unknown until the drain marker arrives, retried 21 times, 0 rows\/s, .* WAL behind$/,
  )
})

it('names the side of a connection that the replicator cannot open, if its output shows it', () => {
  const urls = { sourceUrl: 'postgresql://u@127.0.0.1:5001/d', targetUrl: 'postgresql://u@db.example.com/d' }
  expect(sideText('dial tcp 127.0.0.1:5001: connect: connection refused', urls)).toBe(': the source')
  expect(sideText('lookup db.example.com:5432: no such host', urls)).toBe(': the target')
  expect(sideText('unexpected EOF', urls)).toBe('')
})

it('rejects flags that would break the proof', () => {
  for (const flag of ['--userscript', '--userscript=x', '--enableParallelApplies', '--stagingConn', '-v', '-vv'])
    expect(refusedArgument(['--flushSize', '9', flag])).toBe(flag.split('=')[0])
  expect(refusedArgument(['--flushSize', '9', '--dlqTableName', 'x'])).toBeUndefined()
})

it('sets --flushPeriod to 100 ms if the replicator has this flag', () => {
  const help = '      --flushPeriod duration   flush queued mutations after this duration (default 1s)'
  expect(flushArguments(help, [])).toEqual(['--flushPeriod', '100ms'])
  expect(flushArguments('      --flushSize int', [])).toEqual([])
  expect(flushArguments(help, ['--flushPeriod=2s'])).toEqual([])
  expect(flushArguments(help, ['--flushPeriod', '2s'])).toEqual([])
})

describe('a metrics response', () => {
  async function ask(answer: RequestListener): Promise<string> {
    const server = createServer(answer)
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
    try {
      return await httpText(`http://127.0.0.1:${(server.address() as AddressInfo).port}/_/varz`)
    } finally {
      server.closeAllConnections()
      server.close()
    }
  }

  it('is read completely', async () => {
    expect(await ask((_, response) => response.end('a 1\nb 2'))).toBe('a 1\nb 2')
  })

  it('causes no delay if it never ends, even while data keeps arriving', async () => {
    const began = performance.now()
    const trickle = ask((_, response) => {
      const timer = setInterval(() => response.write('# slow\n'), 100)
      response.on('close', () => clearInterval(timer))
    })
    await expect(trickle).rejects.toThrow()
    expect(performance.now() - began).toBeLessThan(8_000)
  })

  it('does not fill up memory if it is endless', async () => {
    const flood = ask((_, response) => {
      const write = () => {
        while (!response.destroyed && response.write('#'.repeat(1 << 20)));
      }
      response.on('drain', write)
      write()
    })
    await expect(flood).rejects.toThrow(/too long|aborted/)
  })
})

it.each([
  [{ retries: 1, restarts: 0, interruptions: 0 }, 'the replicator retried once'],
  [
    { retries: 0, restarts: 2, interruptions: 1 },
    'the replicator was restarted 2 times; our own connections were lost once',
  ],
  [{ retries: 3, restarts: 1, interruptions: 0 }, 'the replicator retried 3 times and was restarted once'],
])('%j: %s', (status, words) => expect(diagnosesText(status)).toBe(words))

it('reports a truncated table to every later stream, but not DDL that a stream has already seen', () => {
  const table = { name: 'public.a', oid: 1, file: 10, tuples: 5, identity: 'd', digest: 'x' }
  const state = (more: object): SourceState => ({
    tables: [{ ...table, ...more }],
    published: [],
    publication: null,
    present: [],
  })
  const first = filesAfter(state({}))
  expect(compareFiles(first, state({}))).toEqual([])
  expect(compareFiles(first, state({ file: 11 }))).toMatchObject([{ kind: 'table-rewritten', severity: 'warning' }])
  const emptied = state({ file: 11, tuples: -1 })
  const known = filesAfter(emptied, first, state({}))
  const filled = state({ file: 11, tuples: 7 })
  for (const files of [known, filesAfter(filled, known)])
    expect(compareFiles(files, filled)).toMatchObject([{ kind: 'table-truncated', severity: 'fatal' }])
  const altered = state({ file: 11, tuples: -1, digest: 'y' })
  expect(compareFiles(filesAfter(altered, first, state({})), altered)).toEqual([])
})
