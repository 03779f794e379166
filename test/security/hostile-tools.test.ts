/** Hostile tool output, names and archives, none of which may be trusted, interpreted or executed. */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { arch, platform, tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type JobResult, runAction } from '../../rehearsal/runner/runner.ts'
import { FaultGround } from '../support/fault-ground.ts'
import { inProcess } from '../support/in-process.ts'
import { query, REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder, trickedFolder } from '../support/stand-in.ts'

const folder = mkdtempSync(join(tmpdir(), 'hostile-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))
/** A file that exists only if hostile text was executed. */
const PWNED = join(folder, 'pwned')
const RUN = `$(touch ${PWNED}) \`touch ${PWNED}\``

/** Expects that no hostile text was executed or acted as a workflow command, an escape sequence or an output. */
function expectHarmless(result: JobResult): void {
  expect(existsSync(PWNED), 'hostile text was executed').toBe(false)
  const shown = [words(result), result.summary, ...result.annotations.map(({ message }) => message)]
  for (const text of shown) for (const char of ['\u001b', '\u009b', '\u202e']) expect(text).not.toContain(char)
  expect(result.annotations.filter(({ message }) => /^pwned/.test(message))).toEqual([])
  const set = [result, ...result.steps].flatMap(({ outputs, state }) => [
    ...Object.entries(outputs),
    ...Object.entries(state),
  ])
  expect(set.filter((entry) => entry.includes('pwned'))).toEqual([])
  expect(result.path).not.toContain('/pwned')
}

describe('tool output', () => {
  const COMMANDS = [
    '::error::pwned',
    '::set-output name=verdict::pwned',
    '::save-state name=pwned::pwned',
    '::add-path::/pwned',
    '::stop-commands::pwned',
    '##[error]pwned',
    '\r::warning::pwned',
    '\u001b[2J\u001b]0;pwned\u0007\u009b31m',
  ]
  const said = COMMANDS.join('\n')
  const complete = JSON.stringify({
    level: 'info',
    type: 'summary',
    message: 'fetch complete',
    cdc_cursor: '0/1',
    tables: ['public.orders'],
  })
  const LINES = [
    ...COMMANDS,
    RUN,
    JSON.stringify({ level: 'warn', message: said, table: said, reason: RUN }),
    JSON.stringify({ level: 'info', message: 'row', source_values: { note: complete } }),
    JSON.stringify({ level: 'info', message: `seen: ${complete}` }),
    `seen: ${complete}`,
    ` ${complete}`,
    complete.slice(0, -1),
    `[${complete}]`,
    JSON.stringify(complete),
  ]

  let ground: FaultGround
  beforeAll(async () => {
    ground = await FaultGround.start('prepared')
  }, 300_000)
  afterAll(() => ground?.stop())

  test('inside a value is not taken for a completion record, a command or an escape sequence', {
    timeout: 180_000,
  }, async () => {
    await ground.restore('prepared')
    const tools = trickedFolder({ says: LINES, drop: '"message":"fetch complete"' })
    const { red, result, log } = await ground.run('fetch', { tools })
    expect(red, log).toBe('load.incomplete')
    expectHarmless(result)
  })

  test('from the replicator is not taken for progress, a command or an escape sequence', {
    timeout: 180_000,
  }, async () => {
    await ground.restore('prepared')
    expect((await ground.run('prepare', { inputs: { waive: 'tool.version=*' } })).red).toBeUndefined()
    expect((await ground.run('fetch')).red).toBeUndefined()
    const upserted = 'time="2026-01-01T00:00:00Z" level=debug msg="upserted rows" proposed=1 target="x" upserted=1'
    const replicatorSays = [
      ...LINES,
      `time="x" level=warning msg=${JSON.stringify(`${said} ${RUN}`)} error=${JSON.stringify(said)}`,
      `ERROR  [2025-08-25T14:40:02-05:00] ${COMMANDS.join(' ')}`,
      `time="x" level=debug msg=${JSON.stringify(upserted)}`,
    ]
    const { red, result, log } = await ground.run('replicate', { tools: trickedFolder({ replicatorSays }) })
    expect(red, log).toBeUndefined()
    expectHarmless(result)
  })

  test('inside an error is shown as text', { timeout: 180_000 }, async () => {
    await ground.restore('prepared')
    const tools = trickedFolder({ says: [JSON.stringify({ level: 'error', message: `${said} ${RUN}`, error: said })] })
    const { result } = await ground.run('fetch', { tools })
    expectHarmless(result)
  })

  test('of 100 MB without a line break is truncated, and the load continues', { timeout: 300_000 }, async () => {
    await ground.restore('prepared')
    const before = process.memoryUsage().rss
    const { red, result, log } = await ground.run('fetch', { tools: trickedFolder({ flood: 100 }) })
    expect(red, log).toBeUndefined()
    expect(words(result).length).toBeLessThan(1 << 20)
    expect(process.memoryUsage().rss - before).toBeLessThan(300 << 20)
  })

  test('inside a value is not taken for a finished table', { timeout: 180_000 }, async () => {
    await ground.restore('prepared')
    await ground.stopApplication()
    expect((await ground.run('fetch')).red).toBeUndefined()
    const finished = JSON.stringify({
      ...{ level: 'info', type: 'summary', message: 'finished row verification on public.reviews (shard 1/1)' },
      ...{ table_schema: 'public', table_name: 'reviews', num_truth_rows: 100, num_success: 100 },
    })
    const says = [
      `seen: ${finished}`,
      JSON.stringify({ level: 'info', message: 'row', source_values: { note: finished } }),
    ]
    const tools = trickedFolder({ says, drop: 'finished row verification on public.reviews' })
    const { red, result, log } = await ground.run('verify', { tools })
    expect(red, log).toBe('verify.inconclusive')
    expectHarmless(result)
  })
})

describe('names', () => {
  const NAMES = [
    'two words',
    'quo"te',
    "apo'strophe",
    'back\\slash',
    `$(touch ${PWNED})`.slice(0, 63),
    '::set-output name=verdict::pwned',
    'line\nbreak',
    'right\u202eleft',
    'escape\u001b[31m',
    'semi; DROP TABLE x; --',
    'percent%41%s',
    'x.y',
    '__proto__',
    'constructor',
    'toString',
    // The longest possible name, in bytes.
    '東'.repeat(21),
    'ordinary',
  ]
  let pair: Servers
  beforeAll(async () => {
    pair = await startServers()
    for (const [side, rows] of [
      ['source', true],
      ['behind', false],
    ] as const)
      for (const name of NAMES) {
        const [table, column] = [pg.escapeIdentifier(name), pg.escapeIdentifier(`c ${name}`.slice(0, 40))]
        await query(pair[side].url, `CREATE TABLE ${table} (id bigint PRIMARY KEY, ${column} text)`)
        if (rows) await query(pair[side].url, `INSERT INTO ${table} SELECT g, 'v' || g FROM generate_series(1, 5) g`)
      }
    await query(pair.source.url, UNIQUE)
    await query(pair.behind.url, `${UNIQUE}; ${OBJECTS}`)
  }, 300_000)
  afterAll(() => pair?.stop())
  /** On both sides: `prepare` refuses a target that is stricter than the source. */
  const UNIQUE = `CREATE UNIQUE INDEX "index '\u001b[2J; --" ON ordinary ("c ordinary")`
  /** Creates a role and a constraint with hostile names. */
  const OBJECTS = `
    CREATE ROLE ${pg.escapeIdentifier(`role ::error::pwned ${RUN}`.slice(0, 60))};
    GRANT INSERT ON ordinary TO ${pg.escapeIdentifier(`role ::error::pwned ${RUN}`.slice(0, 60))};
    ALTER TABLE ordinary ADD CONSTRAINT "check ::add-path::/pwned" CHECK (id > 0)`

  const run = (action: string, inputs: Record<string, string> = {}) =>
    runAction({
      dir: join(REPO, 'actions', action),
      repo: REPO,
      inputs: { source: pair.source.url, target: pair.target.url, 'allow-insecure': 'true', ...inputs },
      workDir: join(folder, `names-${action}`),
      start: inProcess,
      env: { PATH: `${standInFolder()}:${process.env.PATH}` },
    })

  test('are treated as names: each such table is either moved completely or reported', {
    timeout: 300_000,
  }, async () => {
    const defer = 'indexes,constraints'
    const first = await run('prepare', { defer })
    expectHarmless(first)
    expect(first.outputs['error-code'], words(first)).toBe('preflight.blocked')
    const { findings } = JSON.parse(readFileSync(first.outputs.preflight as string, 'utf8')) as {
      findings: { check: string; severity: string; object: string }[]
    }
    const blocking = findings.filter(({ severity }) => severity === 'block')
    const exclude = NAMES.filter((name) => /["{}\p{Cc}\p{Cf}]|^::/u.test(name))
    expect(blocking.map(({ check, object }) => `${check} ${object}`).sort()).toEqual(
      exclude.map((name) => `tbl.odd-name public.${name}`).sort(),
    )
    const prepared = await run('prepare', { defer, 'exclude-tables': JSON.stringify(exclude) })
    expect(prepared.conclusion, words(prepared)).toBe('success')
    for (const [action, inputs] of [
      ['fetch', { mode: 'direct-copy' }],
      ['replicate', { until: 'caught-up', 'quiet-period': '200ms' }],
      ['verify', {}],
      ['status', {}],
      ['brief', {}],
      ['cutover', { decision: 'commit', 'switch-command': '["true"]', 'quiet-period': '200ms' }],
      ['finalize', {}],
      ['report', {}],
    ] as const) {
      const result = await run(action, inputs)
      expect(result.conclusion, words(result)).toBe('success')
      expectHarmless(result)
    }
    for (const name of NAMES.filter((each) => !exclude.includes(each))) {
      const rows = await query(pair.behind.url, `SELECT count(*)::int AS n FROM ${pg.escapeIdentifier(name)}`)
      expect(rows, name).toEqual([{ n: 5 }])
    }
  })
})

describe('archives for setup', () => {
  let server: Server
  let archive: Buffer = Buffer.alloc(0)
  beforeAll(async () => {
    server = createServer((_, response) => response.end(archive)).listen(0, '127.0.0.1')
    await new Promise((done) => server.once('listening', done))
  })
  afterAll(() => server?.close())

  const MOLT = '#!/bin/sh\necho molt version 1.4.1\n'
  /** A file in an archive. With `to`, it is a symbolic link. */
  type Entry = { name: string; text?: string; to?: string }
  function tarOf(entries: readonly Entry[], ...more: string[]): Buffer {
    const from = mkdtempSync(join(folder, 'tar-'))
    for (const { name, text, to } of entries)
      if (to) symlinkSync(to, join(from, name))
      else writeFileSync(join(from, name), text ?? '', { mode: 0o755 })
    const path = join(folder, 'made.tgz')
    execFileSync('tar', ['-czPf', path, '-C', from, ...more, ...entries.map(({ name }) => name)])
    return readFileSync(path)
  }

  async function setup(sent: Buffer, pinned = sent): Promise<JobResult> {
    archive = sent
    return runAction({
      dir: join(REPO, 'actions/setup'),
      repo: REPO,
      inputs: {
        'download-url': `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
        checksum: createHash('sha256').update(pinned).digest('hex'),
      },
      workDir: mkdtempSync(join(folder, 'work-')),
      start: inProcess,
      env: { PATH: process.env.PATH as string },
    })
  }
  const programs = (text = MOLT): Entry[] => ['molt', 'replicator'].map((name) => ({ name, text }))

  test.runIf(platform() === 'linux' && arch() === 'x64')('installs a valid archive', async () => {
    const result = await setup(tarOf(programs()))
    expect(result.conclusion, words(result)).toBe('success')
  })

  test.each<[string, () => [Buffer, Buffer?], string | undefined]>([
    [
      'an archive that differs from the pinned one',
      () => [tarOf(programs(`#!/bin/sh\ntouch ${PWNED}\n`)), tarOf(programs())],
      'setup.digest-mismatch',
    ],
    ['no archive', () => [Buffer.from('<html>pwned</html>')], 'setup.archive-damaged'],
    ['a truncated one', () => [tarOf(programs()).subarray(0, 60)], 'setup.archive-damaged'],
    ['an archive without programs', () => [tarOf([{ name: 'README', text: 'x' }])], 'setup.programs-missing'],
    ['an empty answer', () => [Buffer.alloc(0)], undefined],
  ])('rejects %s, and runs nothing from it', async (_, made, code) => {
    const result = await setup(...made())
    expect(result.conclusion, words(result)).toBe('failure')
    if (code) expect(result.outputs['error-code'], words(result)).toBe(code)
    expectHarmless(result)
  })

  test('writes nothing outside the folder if a path points outside', async () => {
    const outside = join(folder, 'outside')
    mkdirSync(outside)
    const climbing = tarOf(
      [...programs(), { name: 'evil', text: 'x' }],
      '--transform',
      `s,^evil$,../../../../../../../../${outside.slice(1)}/evil,`,
    )
    const absolute = tarOf([...programs(), { name: 'evil', text: 'x' }], '--transform', `s,^evil$,${outside}/evil,`)
    for (const each of [climbing, absolute]) {
      expectHarmless(await setup(each))
      expect(readdirSync(outside)).toEqual([])
    }
    const through = tarOf(
      [...programs(), { name: 'link', to: outside }, { name: 'evil', text: 'x' }],
      '--transform',
      's,^evil$,link/evil,',
    )
    expectHarmless(await setup(through))
    expect(readdirSync(outside)).toEqual([])
  })
})
