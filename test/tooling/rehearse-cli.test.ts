// `npm run rehearse` as run from a shell: its output, its exit status, and that it leaves nothing behind.
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { execa } from 'execa'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { createShop, SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { query, REPO } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { stateOf } from '../support/stopped.ts'

const TIMEOUT = 150_000
/** Tests that run only nightly. The others take half a minute. */
const nightly = test.runIf(process.env.MOLT_ACTIONS_NIGHTLY)

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rehearse-cli-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

interface Run {
  /** As in a shell: 128 + n after signal n. npm kills itself with the signal that killed its script. */
  code: number | null
  stdout: string
  stderr: string
  /** The JSON object on the last line of standard output. */
  json(): Record<string, unknown>
}

/**
 * Everything in a side's catalog that the actions could have created. The user's tables and functions are parameters.
 */
const OURS = `
  SELECT 'slot ' || slot_name AS what FROM pg_replication_slots
  UNION ALL SELECT 'publication ' || pubname FROM pg_publication
  UNION ALL SELECT 'trigger on ' || tgrelid::regclass FROM pg_trigger WHERE tgname LIKE '%molt%'
  UNION ALL SELECT 'schema ' || nspname FROM pg_namespace
    WHERE nspname NOT IN ('public', 'information_schema', '_crdb', 'crdb_internal') AND nspname NOT LIKE 'pg\\_%'
  UNION ALL SELECT 'table ' || relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> ALL ($1)
  UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname <> ALL ($2)`

/** Runs a rehearsal in its own process group, as a shell would, with its own temporary folder. */
function rehearse(args: string[], onText?: (text: string, interrupt: () => void) => void): Promise<Run> {
  const child: ChildProcess = spawn('npm', ['run', '--silent', 'rehearse', '--', ...args], {
    cwd: REPO,
    detached: true,
    env: { ...process.env, TMPDIR: folder },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const)
    child[name]?.setEncoding('utf8').on('data', (text: string) => {
      said[name] += text
      onText?.(said.stdout + said.stderr, () => process.kill(-(child.pid as number), 'SIGINT'))
    })
  return new Promise((done, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) =>
      done({
        code: signal ? 128 + constants.signals[signal] : code,
        ...said,
        json: () => JSON.parse(said.stdout.trimEnd().split('\n').at(-1) as string),
      }),
    )
  })
}

/** Expects that none of its processes and folders is left. (tsx keeps a cache there.) */
async function expectNothingLeft(): Promise<void> {
  const { stdout } = await execa('ps', ['-axww', '-o', 'pid=,command='])
  expect(stdout.split('\n').filter((line) => line.includes(folder))).toEqual([])
  expect(readdirSync(folder).filter((name) => name.startsWith('molt-actions'))).toEqual([])
}

describe('two embedded servers and the shop', () => {
  test('--json prints one object on the last line, with every promised field', { timeout: TIMEOUT }, async () => {
    const run = await rehearse(['--rows', '2000', '--rate', '50', '--json'])
    expect(run.code, run.stderr).toBe(0)
    expect(run.stdout.trimEnd().split('\n')).toHaveLength(1)
    const account = run.json()
    expect(account).toMatchObject({
      verdict: 'go',
      reason: expect.stringMatching(/\S/),
      rowsLoaded: expect.any(Number),
      changesStreamed: expect.any(Number),
      lagMs: expect.any(Number),
      pauseMs: expect.any(Number),
      engine: expect.stringContaining('embedded stand-in'),
    })
    expect(account.rowsLoaded).toBeGreaterThanOrEqual(2000)
    expect(account.changesStreamed).toBeGreaterThan(50)
    expect(account.pauseMs).toBeGreaterThan(0)
    const tables = account.tables as { name: string; rows: number }[]
    expect(tables.map(({ name }) => name).sort()).toEqual([...SHOP_TABLES].sort())
    for (const table of tables)
      expect(table).toEqual({ name: table.name, rows: expect.any(Number), missing: 0, mismatch: 0, extraneous: 0 })
    expect(existsSync(account.summary as string)).toBe(true)
    expect(account.remaining).toEqual([])
    const page = readFileSync(account.dossier as string, 'utf8')
    expect(page).toMatch(
      /<h1 class="good">Committed and finalized<[\s\S]*None: the definitions[\s\S]*class="bar"[\s\S]*Cutover committed and switched/,
    )
    expect(run.stderr).toContain('IMPORT INTO through files')
    // Progress is shown.
    expect(run.stderr).toMatch(
      /starting PostgreSQL 16 and a CockroachDB-like server[\s\S]*\[1\/\d\][\s\S]*streaming: lag/,
    )
    await expectNothingLeft()
  })

  nightly.each([
    ['--mode use-copy', 'COPY through files'],
    ['--mode direct-copy', 'COPY without files'],
    ['--files folder', 'IMPORT INTO through files'],
  ])('%s is go', { timeout: TIMEOUT }, async (args, said) => {
    const run = await rehearse([...args.split(' '), '--rows', '1000', '--rate', '20', '--json'])
    expect(run.code, run.stderr).toBe(0)
    expect(run.json()).toMatchObject({ verdict: 'go', rowsLoaded: expect.any(Number) })
    expect(run.stderr).toContain(said)
    await expectNothingLeft()
  })

  test('reports wrong usage in one line, with exit status 2', { timeout: 60_000 }, async () => {
    const run = await rehearse(['--fast', '--json'])
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toMatch(/^[^\n]*--fast[^\n]*--help[^\n]*\n$/)
    await expectNothingLeft()
  })

  nightly('--keep prints a command that stops the servers', { timeout: TIMEOUT }, async () => {
    const run = await rehearse(['--rows', '1000', '--rate', '0', '--keep', '--json'])
    expect(run.code, run.stderr).toBe(0)
    const [, kill = '', remove = ''] = /to stop them: (kill .*); afterwards (rm .*)/.exec(run.stderr) ?? []
    const { stdout: pids } = await execa('sh', ['-c', kill.replace('kill', 'echo')])
    const alive = () => pids.split(' ').filter((pid) => stateOf(Number(pid)))
    expect(alive()).toHaveLength(2)
    await execa('sh', ['-c', kill])
    for (let i = 0; i < 100 && alive().length; i++) await sleep(100)
    expect(alive()).toEqual([])
    await execa('sh', ['-c', remove])
    await expectNothingLeft()
  })

  test('--help lists every option', { timeout: 60_000 }, async () => {
    const run = await rehearse(['--help'])
    expect(run.code).toBe(0)
    for (const option of [
      'mask',
      'rows',
      'rate',
      'keep',
      'source',
      'target',
      'allow-source',
      'bin-dir',
      'mode',
      'files',
      'bucket-path',
      'json',
      'help',
    ])
      expect(run.stdout).toContain(`--${option}`)
  })

  test.each([
    ['while servers start', /starting PostgreSQL/],
    ['while rows are loaded', /molt-actions \S+: fetch/],
    ['while writes are paused', /writes are refused/],
  ])('Ctrl-C %s leaves nothing behind', { timeout: TIMEOUT }, async (_, moment) => {
    let interrupted = false
    const run = await rehearse(['--rows', '2000', '--rate', '50'], (text, interrupt) => {
      if (interrupted || !moment.test(text)) return
      interrupted = true
      interrupt()
    })
    expect(interrupted).toBe(true)
    expect(run.code).toBe(130)
    await expectNothingLeft()
  })
})

describe('your own databases', () => {
  let pair: Servers
  const own = () => [
    '--source',
    pair.source.url,
    '--target',
    pair.target.url,
    '--allow-source',
    'shop',
    '--defer',
    'indexes,constraints',
    '--json',
  ]
  beforeEach(async () => {
    pair = await startServers()
    await Promise.all([
      createShop(pair.source.url, { rows: 1500 }),
      createShop(pair.behind.url, { schemaOnly: true, whole: true }),
    ])
  }, 60_000)
  afterEach(() => pair?.stop())

  async function expectAsBefore(): Promise<void> {
    for (const side of ['source', 'behind'] as const)
      expect(await query(pair[side].url, OURS, [[...SHOP_TABLES], []]), side).toEqual([])
    await query(pair.source.url, 'UPDATE categories SET name = name')
  }

  test('the rehearsal never commits, and removes everything that it created', {
    timeout: TIMEOUT,
  }, async () => {
    const run = await rehearse([...own(), '--rate', '20'])
    expect(run.code, run.stderr).toBe(0)
    expect(run.json()).toMatchObject({ verdict: 'go', pauseMs: expect.any(Number) })
    expect(run.stderr).not.toMatch(/switched|permanently fenced/)
    expect(run.stderr).toContain('the loaded rows stay on the target: empty its tables before the next run')
    await expectAsBefore()
    await expectNothingLeft()
  })

  test('a failed check ends with no-go, its reason, and exit status 1', { timeout: TIMEOUT }, async () => {
    await query(pair.behind.url, 'DROP TABLE reviews; ALTER TABLE orders ADD COLUMN extra int')
    const run = await rehearse(own())
    expect(run.code).toBe(1)
    // The reason is one line, because the findings are listed above it and in the summary.
    const reason = expect.stringMatching(/^Prepare: [^\n]+ \(listed above and in the summary\)$/)
    expect(run.json()).toMatchObject({ verdict: 'no-go', reason, code: 'preflight.blocked' })
    expect(run.stderr).not.toContain('the loaded rows stay')
    await expectAsBefore()
    await expectNothingLeft()
  })

  test('an unreachable source leaves nothing behind, and mentions no cleanup', { timeout: TIMEOUT }, async () => {
    await pair.source.shutdown()
    const run = await rehearse(own())
    expect(run.code).toBe(1)
    expect(run.json()).toMatchObject({ verdict: 'no-go', code: expect.stringMatching(/^connect\./) })
    expect(run.stderr).toContain('nothing was created, so nothing needs cleanup')
    expect(run.stderr).not.toMatch(/could not clean up|could be cleaned up/)
    await expectNothingLeft()
  })

  test('a step that fails halfway ends with no-go, and leaves nothing behind', { timeout: TIMEOUT }, async () => {
    let removed: Promise<unknown> | undefined
    const run = await rehearse(own(), (text) => {
      if (/\[4\/\d\]/.test(text)) removed ??= query(pair.behind.url, 'DELETE FROM addresses WHERE id = 1')
    })
    await removed
    expect(run.code).toBe(1)
    expect(run.json()).toMatchObject({ verdict: 'no-go', code: 'verify.differences' })
    await expectAsBefore()
    await expectNothingLeft()
  })

  test('Ctrl-C while writes are paused lifts the fence and cleans up', { timeout: TIMEOUT }, async () => {
    let interrupted = false
    const run = await rehearse(own(), (text, interrupt) => {
      if (interrupted || !/writes are refused/.test(text)) return
      interrupted = true
      interrupt()
    })
    expect(interrupted).toBe(true)
    expect(run.code).toBe(130)
    await expectAsBefore()
    await expectNothingLeft()
  })
})

describe('your own source, without a target', () => {
  const SCHEMA = `
    CREATE TYPE state AS ENUM ('open', 'paid', 'sent');
    CREATE TABLE customers (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, email text NOT NULL UNIQUE);
    CREATE TABLE orders (id serial PRIMARY KEY, customer bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
      state state NOT NULL DEFAULT 'open', total numeric(10,2) CHECK (total >= 0), doc jsonb);
    CREATE INDEX by_state ON orders (state) WHERE state = 'open';
    CREATE TABLE log (id bigserial PRIMARY KEY, order_id int, what text);
    CREATE VIEW open_orders AS SELECT * FROM orders WHERE state = 'open';
    CREATE FUNCTION log_it() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN INSERT INTO log (order_id, what) VALUES (NEW.id, 'changed'); RETURN NEW; END $$;
    CREATE TRIGGER orders_log AFTER UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION log_it();
    INSERT INTO customers (email) SELECT 'c' || g FROM generate_series(1, 300) g;
    INSERT INTO orders (customer, state, total, doc)
      SELECT 1 + g % 300, 'paid', g, jsonb_build_object('n', g) FROM generate_series(1, 2000) g`
  let source: EmbeddedServer
  const own = () => ['--source', source.url, '--allow-source', 'shop', '--json']

  beforeEach(async () => {
    source = await startPostgres({ name: 'own' })
    await query(source.url, SCHEMA)
  })
  afterEach(() => source?.stop())

  async function expectAsBefore(): Promise<void> {
    expect(await query(source.url, OURS, [['customers', 'log', 'orders'], ['log_it']])).toEqual([])
    await query(source.url, 'UPDATE customers SET email = email')
  }

  nightly('is converted and moved under live writes, and stays unchanged', { timeout: TIMEOUT }, async () => {
    const run = await rehearse([...own(), '--rate', '20'])
    expect(run.code, run.stderr).toBe(0)
    const account = run.json()
    expect(account).toMatchObject({ verdict: 'go', converted: { manual: 3, lossy: 0 } })
    expect(account.rowsLoaded).toBeGreaterThanOrEqual(2300)
    expect(account.changesStreamed).toBeGreaterThan(0)
    const tables = account.tables as { name: string; rows: number }[]
    expect(tables.map(({ name }) => name)).toEqual(['customers', 'log', 'orders'])
    const { report } = account.converted as { report: string }
    expect(readFileSync(report, 'utf8')).toContain('`public.orders.orders_log`')
    expect(run.stderr).toContain('4 indexes and constraints in the ledger')
    expect(run.stderr).not.toContain('empty its tables')
    await expectAsBefore()
    await expectNothingLeft()
  })

  test('a missing schema ends the run before anything moves', { timeout: TIMEOUT }, async () => {
    const run = await rehearse([...own(), '--schema', 'sales'])
    expect(run.code).toBe(1)
    expect(run.json()).toMatchObject({ verdict: 'no-go', code: 'convert.schema-missing' })
    expect(run.stderr).not.toContain('[1/7]')
    await expectAsBefore()
    await expectNothingLeft()
  })

  nightly('Ctrl-C while writes are paused lifts the fence and cleans up', { timeout: TIMEOUT }, async () => {
    let interrupted = false
    const run = await rehearse(own(), (text, interrupt) => {
      if (interrupted || !/writes are refused, after/.test(text)) return
      interrupted = true
      interrupt()
    })
    expect([interrupted, run.code]).toEqual([true, 130])
    await expectAsBefore()
    await expectNothingLeft()
  })
})
