/**
 * Uses secrets that break every kind of quoting, and personal data in rows that cause errors. After each action, everything
 * that was stored or shown is searched for both.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type JobResult, runAction } from '../../rehearsal/runner/runner.ts'
import { inProcess } from '../support/in-process.ts'
import { leaks, type Places } from '../support/leaks.ts'
import { query, REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder } from '../support/stand-in.ts'

const HOSTILE = `:p@/w?#&%25 "'\\\`$(id);|<b>{}[]^~+=,!*()é東`
const SECRETS = {
  "the source's password": `sourcE${HOSTILE}`,
  "the target's password": `targeT${HOSTILE}`,
  "the webhook's token": 'hook-t0ken-8f3a2c',
  'a variable for the switch command': `switcH${HOSTILE}`,
  "the bucket's key": `buckeT${HOSTILE}`,
}
const PEOPLE = {
  'a name': 'Zaphod "the" Beeblebrox\'); --',
  'an e-mail address': 'canary.person@example.org',
  'a card number': '4929123456789012',
  'a city': 'Magrathea (lower)=(x)',
}
const TABLE = 'CREATE TABLE people (id bigint PRIMARY KEY, name text, email text, card text, city text)'

let pair: Servers
let hook: Server
let folder: string
let source: string
let target: string
const bodies: string[] = []
const commandLines = new Set<string>()
let watch: NodeJS.Timeout

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'canaries-'))
  hook = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += chunk
    bodies.push(text)
    response.end()
  }).listen(0, '127.0.0.1')
  pair = await startServers()
  for (const side of ['source', 'behind'] as const) await query(pair[side].url, TABLE)
  source = await login('source', SECRETS["the source's password"], pair.source.url)
  target = await login('behind', SECRETS["the target's password"], pair.target.url)
  watch = setInterval(look, 20)
}, 300_000)
afterAll(async () => {
  clearInterval(watch)
  hook?.close()
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

async function login(side: 'source' | 'behind', password: string, url: string): Promise<string> {
  await query(pair[side].url, `CREATE ROLE mover LOGIN SUPERUSER PASSWORD ${pg.escapeLiteral(password)}`)
  const changed = new URL(url)
  return changed.href.replace('//postgres:postgres@', `//mover:${encodeURIComponent(password)}@`)
}

/** Records the process list that any user of the machine can see. */
function look(): void {
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name)))
    try {
      commandLines.add(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))
    } catch {
      // The process has exited.
    }
}

async function run(action: string, inputs: Record<string, string> = {}): Promise<JobResult> {
  const { port } = hook.address() as AddressInfo
  const takes = readFileSync(join(REPO, 'actions', action, 'action.yml'), 'utf8')
  const usual = {
    'notify-url': `http://127.0.0.1:${port}/hooks/${SECRETS["the webhook's token"]}`,
    'metrics-file': join(folder, 'metrics.prom'),
    source,
    target,
    'allow-insecure': 'true',
  }
  const taken = Object.entries(usual).filter(([name]) => takes.includes(`\n  ${name}:`))
  const result = await runAction({
    dir: join(REPO, 'actions', action),
    repo: REPO,
    inputs: { ...Object.fromEntries(taken), ...inputs },
    workDir: join(folder, action),
    start: inProcess,
    // GitHub masks a workflow's secrets in the same way.
    secrets: [
      source,
      target,
      usual['notify-url'],
      SECRETS['a variable for the switch command'],
      SECRETS["the bucket's key"],
    ],
    env: {
      PATH: `${standInFolder()}:${process.env.PATH}`,
      MOLT_SWITCH_TOKEN: SECRETS['a variable for the switch command'],
      AWS_SECRET_ACCESS_KEY: SECRETS["the bucket's key"],
    },
  })
  await expectNothing(action, result)
  return result
}

async function expectNothing(action: string, result: JobResult): Promise<void> {
  const places: Places = {
    log: words(result),
    summary: result.summary,
    annotations: JSON.stringify(result.annotations),
    outputs: JSON.stringify(result.outputs),
    state: JSON.stringify(result.state),
    webhook: bodies.join('\n'),
    'process list': [...commandLines].join('\n'),
    ledger: await dump(pair.behind.url),
    'source schema': await dump(pair.source.url),
  }
  for (const step of result.steps) places[`state of ${step.name}`] = JSON.stringify([step.outputs, step.state])
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) places[`file ${entry.name}`] = readFileSync(join(entry.parentPath, entry.name), 'utf8')
  expect(leaks(places, { ...SECRETS, ...PEOPLE }), action).toEqual([])
  expect(places.log, action).toMatch(/\w/)
}

/** Returns all rows in the suite's own schema. */
async function dump(url: string): Promise<string> {
  const tables = await query(
    url,
    `SELECT c.oid::regclass::text AS name FROM pg_class c WHERE relnamespace = to_regnamespace('molt_actions') AND relkind = 'r'`,
  )
  const rows = await Promise.all(tables.map(({ name }) => query(url, `SELECT to_jsonb(t)::text AS row FROM ${name} t`)))
  return rows
    .flat()
    .map(({ row }) => row)
    .join('\n')
}

const code = ({ outputs, conclusion }: JobResult) => outputs['error-code'] ?? conclusion
const person = (id: number) =>
  `INSERT INTO people VALUES (${id}, ${Object.values(PEOPLE).map(pg.escapeLiteral).join(', ')})`
const onTarget = (sql: string) => query(pair.behind.url, sql)

/** Constraints that only the target has, each with the statement that removes it. */
const REFUSALS: [what: string, done: string, undone: string][] = [
  [
    'CHECK',
    "ALTER TABLE people ADD CONSTRAINT c CHECK (name NOT LIKE 'Z%') NOT VALID",
    'ALTER TABLE people DROP CONSTRAINT c',
  ],
  ['unique', 'CREATE UNIQUE INDEX u ON people (email)', 'DROP INDEX u'],
  [
    'foreign key',
    'CREATE TABLE cities (name text PRIMARY KEY); ALTER TABLE people ADD CONSTRAINT f FOREIGN KEY (city) REFERENCES cities NOT VALID',
    'ALTER TABLE people DROP CONSTRAINT f; DROP TABLE cities',
  ],
  [
    'not null',
    `CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.card := NULL; RETURN NEW; END';
     CREATE TRIGGER forget BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION forget();
     ALTER TABLE people ADD CONSTRAINT n CHECK (card IS NOT NULL) NOT VALID`,
    'DROP FUNCTION forget CASCADE; ALTER TABLE people DROP CONSTRAINT n',
  ],
  ['a cast', 'ALTER TABLE people ALTER card TYPE int USING 1', 'ALTER TABLE people ALTER card TYPE text'],
  [
    'a function that raises',
    `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE '% is blocked', NEW.name; END $$;
     CREATE TRIGGER refuse BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION refuse()`,
    'DROP FUNCTION refuse CASCADE',
  ],
]
const STREAM = {
  until: 'caught-up',
  'quiet-period': '200ms',
  'stuck-after': '4s',
  'on-ddl': 'warn',
  'catch-up-timeout': '30s',
}
const LOAD = { mode: 'direct-copy', 'table-handling': 'truncate-if-exists', 'allow-truncate': 'people' }

test('`prepare` and a load that fails on a row reveal no secrets and no personal data', {
  timeout: 300_000,
}, async () => {
  await query(pair.source.url, person(1))
  expect(code(await run('prepare'))).toBe('success')
  for (const [what, done, undone] of REFUSALS.filter(([each]) => each !== 'not null' && each !== 'unique')) {
    await onTarget(done)
    expect(code(await run('fetch', LOAD)), what).not.toBe('success')
    await onTarget(undone)
    await query(
      pair.source.url,
      'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active; DROP PUBLICATION IF EXISTS molt_fetch',
    )
  }
  expect(code(await run('fetch', LOAD))).toBe('success')
})

test.each(REFUSALS)(
  'a stream that is stuck on a row reveals no secrets and no personal data: %s',
  { timeout: 300_000 },
  async (what, done, undone) => {
    await onTarget(done)
    const id = 10 + REFUSALS.findIndex(([each]) => each === what)
    await query(pair.source.url, person(id))
    expect(code(await run('replicate', STREAM)), what).not.toBe('success')
    await onTarget(`DELETE FROM people WHERE id >= 10; ${undone}`)
    await query(pair.source.url, `DELETE FROM people WHERE id = ${id}`)
  },
)

test('reports of differing rows reveal no secrets and no personal data', { timeout: 300_000 }, async () => {
  const caughtUp = await run('replicate', { ...STREAM, 'stuck-after': '30s', 'catch-up-timeout': '120s' })
  expect(code(caughtUp), words(caughtUp)).toBe('success')
  await onTarget("UPDATE people SET name = name || '!', card = '1'")
  expect(code(await run('verify'))).toBe('verify.differences')
  expect(code(await run('cutover', { 'quiet-period': '200ms' }))).toBe('verify.differences')
  for (const action of ['status', 'brief', 'report', 'abort']) await run(action)
  expect(bodies.length).toBeGreaterThan(0)
})

/** The index and the constraint exist only on the target, and the source's rows violate both. */
const BROKEN = `
  DELETE FROM people; CREATE UNIQUE INDEX one_email ON people (email);
  ALTER TABLE people ADD CONSTRAINT no_z CHECK (name NOT LIKE 'Z%')`

test('rows that violate rebuilt definitions reveal no secrets and no personal data', { timeout: 300_000 }, async () => {
  await query(pair.source.url, `DELETE FROM people; ${person(1)}; ${person(2)}`)
  await onTarget(BROKEN)
  const prepared = await run('prepare', { defer: 'indexes,constraints', waive: 'tgt.stricter=public.people' })
  expect(code(prepared), words(prepared)).toBe('success')
  expect(code(await run('fetch', LOAD))).toBe('success')
  expect(code(await run('replicate', STREAM))).toBe('success')
  const decided = { 'quiet-period': '200ms', decision: 'commit', 'switch-command': '["true"]' }
  const cutover = await run('cutover', decided)
  expect(code(cutover), words(cutover)).toBe('deferral.rows-break-definition')
  // The check is rebuilt NOT VALID, and is validated after the commit.
  await query(pair.source.url, 'DELETE FROM people WHERE id = 2')
  const again = await run('cutover', decided)
  expect(code(again), words(again)).toBe('success')
  const finalized = await run('finalize')
  expect(code(finalized), words(finalized)).toBe('deferral.rows-break-definition')
})
