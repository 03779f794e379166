/**
 * One file per case: the action's inputs, the tool's arguments and output, and the exact result. `npm run golden`
 * rewrites the sections after `-- argv --`. Read the diff.
 */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { FETCH_FLAGS } from '../../rehearsal/molt/fetch.ts'
import { flagUsages } from '../../rehearsal/molt/flags.ts'
import { VERIFY_FLAGS } from '../../rehearsal/molt/verify.ts'
import { action as fetch } from '../../src/actions/fetch/run.ts'
import { action as prepare } from '../../src/actions/prepare/run.ts'
import { specs } from '../../src/actions/specs.ts'
import { action as verify } from '../../src/actions/verify/run.ts'
import { type Action, runAction } from '../../src/runtime/action.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { launcher } from '../support/stand-in.ts'

const HERE = fileURLToPath(new URL('.', import.meta.url))
const UPDATE = process.env.UPDATE_GOLDEN === '1'
const ACTIONS: Record<string, Action> = { fetch, verify, prepare } as unknown as Record<string, Action>

/** Flags that the older build lacks. Its help lists none of them, and also hides --non-interactive. */
const NEW =
  /--(allow-tls|assume-role|case-sens|crdb|export-retry|filter-path|ignore|import-|mode|non-inter|opt-out|pglogical-publ|skip-pk|table-excl|transf|type-map|use-impl|use-stats|source-cdb)/

/** Row values that must not appear in anything the action writes. */
const CANARY = /canary|4111-1111/

const SCHEMA = `
  CREATE TABLE customers (id bigint PRIMARY KEY, name text, email text);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, total numeric(12,2), placed_at timestamptz);
  CREATE TABLE orders_archive (id bigint PRIMARY KEY);
  CREATE TABLE "OrderNotes" ("noteId" bigint PRIMARY KEY, body text);`
const ROWS = `
  INSERT INTO customers SELECT n, 'n' || n, 'canary' || n FROM generate_series(1, 4) n;
  INSERT INTO orders SELECT n, n, n, '2026-01-01Z' FROM generate_series(1, 3) n;
  INSERT INTO "OrderNotes" VALUES (1, 'canary')`
const EMPTY = 'TRUNCATE customers, orders, "OrderNotes"'

let pair: Servers
let dir: string
const { PATH } = process.env
let source: pg.Client
let target: pg.Client

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'golden-'))
  pair = await startServers()
  source = new pg.Client(pair.source.url)
  target = new pg.Client(pair.behind.url)
  await Promise.all([source.connect(), target.connect()])
  await source.query(`${SCHEMA} ${ROWS}`)
  await target.query(SCHEMA)
  process.env.PATH = `${join(dir, 'bin')}:${PATH}`
  const inputs = { decision: 'rehearse', 'exclude-tables': 'orders_archive', 'allow-insecure': 'true' }
  const prepared = await run('prepare', inputs)
  expect(prepared, prepared.annotations.join('\n')).toMatchObject({ exit: 0 })
})

afterAll(async () => {
  await Promise.all([source?.end(), target?.end()])
  await pair?.stop()
  process.env.PATH = PATH
  rmSync(dir, { recursive: true, force: true })
})

/** Runs an action in this process, like its entry point. */
async function run(name: string, inputs: Record<string, unknown>) {
  const temp = mkdtempSync(join(dir, 'job-'))
  const before = { ...process.env }
  const files = { GITHUB_OUTPUT: join(temp, 'output'), GITHUB_STEP_SUMMARY: join(temp, 'summary') }
  for (const file of Object.values(files)) writeFileSync(file, '')
  Object.assign(process.env, files, { RUNNER_TEMP: temp })
  for (const [key, value] of Object.entries({ source: pair.source.url, target: pair.target.url, ...inputs }))
    process.env[`INPUT_${key.toUpperCase()}`] = typeof value === 'string' ? value : JSON.stringify(value)
  let log = ''
  const write = process.stdout.write
  process.stdout.write = ((text: string) => {
    log += text
    return true
  }) as typeof process.stdout.write
  try {
    await runAction(ACTIONS[name] as Action, 'run', specs)
  } finally {
    process.stdout.write = write
    process.env = before
  }
  const exit = process.exitCode ?? 0
  process.exitCode = undefined
  const output = readFileSync(files.GITHUB_OUTPUT, 'utf8')
  const outputs = Object.fromEntries(
    [...output.matchAll(/^([\w-]+)<<(\S+)\n([\s\S]*?)\n\2$/gm)].map(([, key, , value]) => [key as string, value]),
  ) as Record<string, string>
  const annotations = [...log.matchAll(/^::(error|warning|notice)[^:]*::(.*)$/gm)]
    .map(([, level, text = '']) => `${level}: ${text.replaceAll('%0A', '\n').replaceAll('%25', '%')}`)
    .filter((text) => !text.startsWith('warning: `allow-insecure`'))
  const left = readdirSync(temp, { recursive: true, withFileTypes: true })
    .filter((file) => file.isFile() && file.name !== 'verify-rows.jsonl')
    .map((file) => readFileSync(join(file.parentPath, file.name), 'utf8'))
  return { exit, outputs, annotations, everything: [log.replaceAll(/^::add-mask::.*$/gm, ''), ...left].join('\n') }
}

interface Golden {
  about: string
  action: string
  inputs: Record<string, unknown>
  /** Settings of the fake tool. `before` is SQL that runs on the source before the action. */
  molt: { exit?: number; signal?: string; help?: 'old' | 'new'; slot?: boolean; source?: string; target?: string }
  given: { source?: string; target?: string; facts?: object }
  stdout: string
  stderr: string
}

const RESULTS = ['argv', 'outputs', 'annotations', 'exit']

/** The sections of a case's file. Text before the first one describes the case. */
function sections(text: string): Map<string, string> {
  const parts = text.split(/^-- (\w+) --\n/m)
  return new Map([['about', parts[0] as string], ...pairs(parts.slice(1))])
}

function pairs(flat: string[]): [string, string][] {
  return flat.flatMap((name, i) => (i % 2 ? [] : [[name, flat[i + 1] as string] as [string, string]]))
}

function goldenOf(found: Map<string, string>): Golden {
  const yaml = (name: string) => (parse(found.get(name) ?? '') ?? {}) as never
  return {
    about: (found.get('about') as string).trim(),
    action: (found.get('action') as string).trim(),
    ...{ inputs: yaml('inputs'), molt: yaml('molt'), given: yaml('given') },
    ...{ stdout: found.get('stdout') ?? '', stderr: found.get('stderr') ?? '' },
  }
}

/** Prepares both sides for the case: an empty target for `fetch`, a loaded target for `verify`. */
async function reset({ action, given }: Golden): Promise<void> {
  await source.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots')
  await source.query('DROP PUBLICATION IF EXISTS molt_fetch; DROP SEQUENCE IF EXISTS numbers')
  await target.query('DROP SEQUENCE IF EXISTS numbers')
  await source.query("UPDATE orders SET placed_at = '2026-01-01Z' WHERE NOT isfinite(placed_at)")
  await target.query(action === 'verify' ? `${EMPTY}; ${ROWS}` : EMPTY)
  if (given.source) await source.query(given.source)
  const { rows } = await source.query('SELECT confirmed_flush_lsn::text AS lsn FROM pg_replication_slots')
  const facts = JSON.stringify(given.facts ?? {}).replaceAll('$CURSOR', rows[0]?.lsn)
  await target.query(
    `UPDATE molt_actions.migrations SET phase = $1, facts = (facts - 'load' - 'cursor') || $2 WHERE id = 'main'`,
    [action === 'verify' ? 'loaded' : 'prepared', facts],
  )
  if (given.target) await target.query(given.target)
}

function fake(golden: Golden): string {
  const { molt, stdout, stderr } = golden
  const flags = golden.action === 'fetch' ? FETCH_FLAGS : VERIFY_FLAGS
  const all = `Flags:\n${flagUsages(flags)}\n`
  const help =
    molt.help === 'old'
      ? all
          .split('\n')
          .filter((line) => !NEW.test(line))
          .join('\n')
      : all
  const file = join(dir, 'case.json')
  // A section's last line has a line break; `\c` marks a last line that the tool did not terminate.
  const end = (text: string) => text.replace(/\\c\n$/, '')
  writeFileSync(file, JSON.stringify({ exit: 0, ...molt, stdout: end(stdout), stderr: end(stderr) }))
  mkdirSync(join(dir, 'bin'), { recursive: true })
  writeFileSync(`${file}.help`, help)
  const run = launcher(join(HERE, 'fake-molt.mjs'), `'${file}'`)
  const script = `#!/bin/sh\ncase "$*" in *--help) exec cat '${file}.help' ;; esac\n${run}\n`
  writeFileSync(join(dir, 'bin', 'molt'), script)
  chmodSync(join(dir, 'bin', 'molt'), 0o755)
  rmSync(`${file}.argv`, { force: true })
  return `${file}.argv`
}

/** Replaces everything that differs from run to run. */
function plain(text: string): string {
  return text
    .replaceAll(/postgres(ql)?:\/\/postgres(:postgres)?@127\.0\.0\.1:(\d+)\/shop\?sslmode=disable/g, (url) =>
      url.includes(`:${pair.source.port}/`) ? '$SOURCE' : '$TARGET',
    )
    .replaceAll(/127\.0\.0\.1:\d+/g, '127.0.0.1:$PORT')
    .replaceAll(/\b0\/[0-9A-F]{6,}\b/g, '$CURSOR')
    .replaceAll(/"durationMs":\d+|duration-ms: \d+/g, (all) => all.replace(/\d+/, '$MS'))
    .replaceAll(/(report|rows-file): \S+\/([\w.-]+)$/gm, '$1: $WORK/$2')
    .replaceAll(/"keyHash":"[0-9a-f]{16}"/g, '"keyHash":"$HASH"')
    .replaceAll(/\bload-main-[0-9a-f]{16}\b/g, '$FOLDER')
    .replaceAll(/keeps \d+ MiB/g, 'keeps $N MiB')
}

describe.each(['fetch', 'verify'])('%s', (folder) => {
  const files = readdirSync(join(HERE, folder)).filter((name) => name.endsWith('.txt'))
  test.each(files)('%s', async (name) => {
    const path = join(HERE, folder, name)
    const text = readFileSync(path, 'utf8')
    const found = sections(text)
    const golden = goldenOf(found)
    await reset(golden)
    const argv = fake(golden)
    const result = await run(golden.action, { 'allow-insecure': 'true', ...golden.inputs })
    const asked = readArgv(argv)
    const outputs = Object.entries(result.outputs)
      .map(([key, value]) => `${key}: ${value}`)
      .join('\n')
    const now: Record<string, string> = {
      argv: asked.join('\n'),
      outputs,
      annotations: result.annotations.join('\n'),
      exit: String(result.exit),
    }
    for (const section of RESULTS) now[section] = now[section] ? `${plain(now[section] as string)}\n` : ''
    expect(result.everything).not.toMatch(CANARY)
    expect(asked.join(' ')).not.toContain(':postgres@')
    if (UPDATE) {
      const head = text.split(/^-- argv --\n/m)[0] as string
      writeFileSync(path, `${head}${RESULTS.map((each) => `-- ${each} --\n${now[each]}`).join('')}`)
    } else for (const section of RESULTS) expect(now[section], section).toBe(found.get(section) ?? '')
  })
})

/** The fake tool's arguments; empty if the tool did not run. */
function readArgv(path: string): string[] {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return []
  }
}
