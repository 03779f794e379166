import { PassThrough } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { isNarrower, sequenceProblems } from '../../src/model/structure.ts'
import { requireClean } from '../../src/phases/verify/verdict.ts'
import { verifyTable } from '../../src/report/summary.ts'
import { verifyJson, verifyReport } from '../../src/report/verify-json.ts'
import type { VerifyReport } from '../../src/report/verify-report.ts'
import { countChatter, type MoltEvent, noUnknowns, parseEvent } from '../../src/tools/events.ts'
import { readLines } from '../../src/tools/lines.ts'
import { accountFor, emptyAccount, fetchProblems } from '../../src/tools/molt-fetch.ts'
import {
  accountForVerify,
  addSamples,
  classify,
  emptyVerifyAccount,
  newVerdict,
  type TableRows,
  verifyProblems,
} from '../../src/tools/molt-verify.ts'
import { moltScrubber } from '../../src/tools/scrub.ts'

test.each([
  ['', 'NULL', 'empty-null'],
  ['NULL', '', 'empty-null'],
  ['2026-01-01 00:00:00.123456+00', '2026-01-01 00:00:00.123+00', 'time-digits'],
  ['2026-01-01 00:00:00.123456+00', '2026-01-01 00:00:00.123457+00', 'time-digits'],
  ['2026-01-01 00:00:00+00', '2026-01-01 00:00:01+00', 'value'],
  ['0.3333333333333333', '0.333333333333333', 'number-digits'],
  ['1.25', '1.3', 'number-digits'],
  ['100.00', '100.01', 'value'],
  ['ab   ', 'ab', 'padding'],
  ['Ab', 'aB', 'case'],
  ['a', 'b', 'value'],
  ['', '0', 'value'],
])('%j against %j: %s', (source, target, kind) => expect(classify(source, target)).toBe(kind))

test('rejects a negative count, and recognizes an error level in any notation', () => {
  const counts = { num_truth_rows: 2, num_success: 2, num_missing: 1, num_mismatch: 0, num_extraneous: -1 }
  const finished = {
    message: 'finished row verification on public.a (shard 1/1)',
    table_schema: 'public',
    table_name: 'a',
  }
  const problems = (...events: Record<string, unknown>[]) => {
    const account = emptyVerifyAccount()
    for (const event of [...events, { message: 'verification complete' }]) accountForVerify(account, event)
    return verifyProblems(account, ['a']).map(({ what }) => what)
  }
  expect(problems({ ...finished, ...counts })).toContain("a: a shard's result has an invalid num_extraneous -1")
  const clean = { ...finished, ...counts, num_missing: 0, num_extraneous: 0 }
  expect(problems(clean)).toEqual([])
  expect(problems({ ...clean, num_column_mismatch: '1' })).toContain(
    "a: a shard's result has an invalid num_column_mismatch 1",
  )
  for (const level of ['ERROR', 'critical', 'DPANIC', 50])
    expect(problems(clean, { level, message: 'lost the connection' })).toEqual(['lost the connection'])
  for (const level of ['INFO', 'Warning', undefined])
    expect(problems(clean, { level, message: 'took a while' })).toEqual([])
})

test.each([
  ['bigint', 'integer', true],
  ['integer', 'bigint', false],
  ['integer', 'integer', false],
  ['double precision', 'real', true],
  ['numeric', 'numeric(12,2)', true],
  ['numeric(12,2)', 'numeric', false],
  ['numeric(12,2)', 'numeric(12,4)', true],
  ['numeric(12,2)', 'numeric(14,4)', false],
  ['text', 'character varying(10)', true],
  ['character varying(10)', 'text', false],
  ['character varying(10)', 'character varying(20)', false],
  ['timestamp with time zone', 'timestamp(3) with time zone', true],
  ['timestamp(3) with time zone', 'timestamp with time zone', false],
  ['timestamp(3) without time zone', 'timestamp(3) without time zone', false],
  ['text[]', 'character varying(5)[]', true],
  ['jsonb', 'jsonb', false],
  ['uuid', 'uuid', false],
])('%s to %s is narrower: %s', (source, target, less) => expect(isNarrower(source, target)).toBe(less))

describe('sequences', () => {
  const state = { name: 's', table: null, increment: 1n }
  test.each([
    [{ ...state, used: 41n, next: 42n }, true],
    [{ ...state, used: 41n, next: 41n }, false],
    [{ ...state, used: undefined, next: 1n }, true],
    [{ ...state, used: 41n, next: undefined }, false],
    [{ ...state, increment: -1n, used: -41n, next: -42n }, true],
    [{ ...state, increment: -1n, used: -41n, next: -41n }, false],
    [{ ...state, used: 2n ** 62n, next: 2n ** 62n + 1n }, true],
  ])('%#', (each, safe) => expect(sequenceProblems([each]).length === 0).toBe(safe))
})

function reportOf(more: Partial<VerifyReport> = {}): VerifyReport {
  const clean = { ...newVerdict('customers'), rows: 1_234, shardsFinished: 1, shardsTotal: 1 }
  return {
    ...{ level: 'full', while: 'drained', counted: 'exact', verdict: 'clean', tables: [clean] },
    ...{ problems: [], findings: [], notes: [], decisions: [], insecure: [], durationMs: 5 },
    ...more,
  }
}

describe('the report', () => {
  const rows: TableRows = {
    rows: [{ kind: 'mismatch', key: ['canary'], columns: ['name'] }],
    told: 1,
    columns: { name: 1 },
    classes: { 'empty-null': 1 },
  }
  const bad = { ...newVerdict('a|b<c>'), rows: 9, mismatch: 1, shardsFinished: 1, shardsTotal: 1 }
  addSamples(bad, rows)
  const report = reportOf({ verdict: 'different', tables: [bad, ...reportOf().tables], problems: ['a|b<c>: 1 row'] })

  test('as JSON, matches the published schema and contains no row keys', () => {
    expect(verifyReport.parse(JSON.parse(JSON.stringify(verifyJson(report))))).toEqual(verifyJson(report))
    expect(verifyReport.safeParse({ ...verifyJson(report), key: 'x' }).success).toBe(false)
    expect(JSON.stringify(verifyJson(report))).not.toContain('canary')
  })

  test('as a summary, shows differences first, collapses clean tables, and escapes names', () => {
    const text = verifyTable(report)
    expect(text.indexOf('❌')).toBeLessThan(text.indexOf('a\\|b&lt;c> | 9 | 0 | 1 | 0 | empty strings'))
    expect(text.indexOf('a\\|b&lt;c> | 9')).toBeLessThan(text.indexOf('<details><summary>1 clean table<'))
    expect(text).not.toContain('canary')
  })

  test('lists estimates and inconclusive results first', () => {
    expect(verifyTable(reportOf({ counted: 'estimated' })).split('\n')[0]).toContain(
      'row counts are estimates, except for those from molt',
    )
    expect(verifyTable(reportOf({ verdict: 'unsettled' })).split('\n')[0]).toContain('equality not proved')
    expect(verifyTable(reportOf({ level: 'tables', tables: [] })).split('\n')[0]).toContain('no rows were compared')
  })

  test('limits the length of the summary for a schema with ten thousand tables', () => {
    const tables = Array.from({ length: 10_000 }, (_, n) => ({ ...newVerdict(`table_${n}`), rows: 1, mismatch: n % 2 }))
    const problems = tables.map(({ name }) => `${name}: 1 row different`)
    expect(verifyTable(reportOf({ verdict: 'different', tables, problems })).length).toBeLessThan(128 * 1024)
  })
})

describe('lines', () => {
  async function linesOf(chunks: (string | Buffer)[]): Promise<string[]> {
    const stream = new PassThrough()
    const lines: string[] = []
    readLines(stream, (line) => lines.push(line))
    for (const chunk of chunks) if (!stream.write(chunk)) await new Promise((go) => stream.once('drain', go))
    stream.end()
    await new Promise((go) => stream.once('close', go).once('end', () => setImmediate(go)))
    return lines
  }

  test('reads lines that arrive in pieces, even if split inside a character or without a line end', async () => {
    const euro = Buffer.from('€')
    expect(await linesOf(['{"a"', ':1}\r\n\n', 'x', euro.subarray(0, 1), euro.subarray(1), 'y'])).toEqual([
      '{"a":1}',
      '',
      'x€y',
    ])
  })

  test('truncates a line of 200 MB, keeps what follows, and uses little memory', async () => {
    const piece = 'x'.repeat(1 << 20)
    const before = process.memoryUsage().rss
    const lines = await linesOf([
      '{"message":"',
      ...Array.from({ length: 200 }, () => piece),
      '"}\n',
      '{"level":"info"}\n',
    ])
    expect(process.memoryUsage().rss - before).toBeLessThan(120 << 20)
    expect(lines.map((line) => line.length <= 256 * 1024)).toEqual([true, true])
    expect(parseEvent(lines[0] as string)).toBeUndefined()
    expect(parseEvent(lines[1] as string)).toEqual({ level: 'info' })
  })

  test.each(['5', 'null', '["x"]', '{"a":1}'])(
    'continues after an event with %s in place of a text or a number',
    (odd) => {
      const fields = [
        'level',
        'type',
        'error',
        'reason',
        'table',
        'tables',
        'source_table',
        'table_schema',
        'table_name',
      ]
      const more = [
        'num_rows',
        'num_truth_rows',
        'cdc_cursor',
        'fetch_id',
        'primary_key',
        'source_values',
        'mismatch_info',
      ]
      const beginnings = [
        'found matching table',
        'fetch complete',
        'not migrating column',
        'mismatching row value',
        odd,
      ]
      const [fetched, verified] = [emptyAccount('public'), emptyVerifyAccount('public')]
      const scrub = moltScrubber()
      for (const message of [
        ...beginnings,
        'finished row verification on public.t (shard 1/1)',
        'missing table detected',
      ]) {
        const others = [...fields, ...more].map((field) => `"${field}":${odd}`).join()
        const line = `{"message":${message === odd ? odd : JSON.stringify(message)},${others}}`
        scrub(line)
        const event = parseEvent(line) as MoltEvent
        expect(typeof event.message).toBe('string')
        accountFor(fetched, event)
        accountForVerify(verified, event)
      }
      expect(fetchProblems(fetched, ['t'])).not.toEqual([])
      expect(verifyProblems(verified, ['t'])).not.toEqual([])
    },
  )

  test.each([
    ['crdb_internal_note_shard_4', 0],
    ['note', 1],
  ])('counts the extra target column %s as a difference: %i', (column, count) => {
    const account = emptyVerifyAccount('public')
    const event = { message: 'mismatching table definition', table_schema: 'public', table_name: 't' }
    accountForVerify(account, { ...event, level: 'warn', mismatch_info: `extraneous column ${column} found` })
    expect([account.unverifiable.length, account.notes.length]).toEqual([count, 1 - count])
  })

  test('counts other lines by kind', () => {
    const unknown = noUnknowns()
    for (const line of ['{"a":', 'usage', '', '[1]', '{']) countChatter(unknown, line)
    expect(unknown).toEqual({ messages: {}, chatter: 2, broken: 2 })
  })
})

test.each([
  ['different', 1, true, 'verify.rows-lost'],
  ['unsettled', 0, true, 'verify.inconclusive'],
  ['different', 1, false, 'verify.differences'],
] as const)('%s, %i missing, after a proved drain: %s', (verdict, missing, drained, code) => {
  const tables = [{ ...newVerdict('a'), rows: 1, missing }]
  const report = { verdict, tables, problems: ['a: 1 row missing'], while: 'drained' } as unknown as VerifyReport
  expect(() => requireClean(report, drained)).toThrow(expect.objectContaining({ code }))
})
