// Runs `mask` as a workflow does: refusals, a complete run with canaries, subsets, proposals, and failing proofs.
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type EmbeddedPair, startPair } from '../../rehearsal/postgres/postgres.ts'
import { type JobResult, runAction } from '../../rehearsal/runner/runner.ts'
import {
  CANARIES,
  createGrownShop,
  GROWN_TABLES,
  MASK_RULES,
  searchDatabase,
  searchFiles,
  searchTexts,
} from '../../rehearsal/shop/masked-shop.ts'
import { fromItem, readMaskTables } from '../../src/masking/catalog.ts'
import { copyTables, exportSnapshot } from '../../src/masking/copy.ts'
import { maskedSelect } from '../../src/masking/decisions.ts'
import { makePlan } from '../../src/masking/plan.ts'
import { prove } from '../../src/masking/proof.ts'
import { readRules } from '../../src/masking/rules.ts'
import { openSession } from '../../src/masking/session.ts'
import { close, lostMost, subsetPredicates } from '../../src/masking/subset.ts'
import { discardTables, takeOver } from '../../src/masking/target.ts'

const KEY = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'
const REPO = resolve(import.meta.dirname, '../..')

let pair: EmbeddedPair
let folder: string
let made = 0

beforeAll(async () => {
  pair = await startPair()
  folder = mkdtempSync(join(tmpdir(), 'mask-test-'))
}, 60_000)
afterAll(async () => {
  await pair?.stop()
  rmSync(folder, { recursive: true, force: true })
})

async function query(url: string, sql: string, values: unknown[] = []) {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query(sql, values)).rows
  } finally {
    await client.end()
  }
}

/** Creates an empty database on each side. */
async function databases(ddl = ''): Promise<{ from: string; to: string; name: string }> {
  const name = `mask${++made}`
  const urls = [pair.source, pair.target].map((server) => server.urlOf(name))
  await query(pair.source.url, `CREATE DATABASE ${name}`)
  await query(pair.target.url, `CREATE DATABASE ${name}`)
  if (ddl) await query(urls[0] as string, ddl)
  return { from: urls[0] as string, to: urls[1] as string, name }
}

function rulesFile(yaml: string): string {
  const path = join(folder, `rules${++made}.yml`)
  writeFileSync(path, `version: 1\nkey: env:MOLT_MASK_KEY\n${yaml}`)
  return path
}

interface Run extends JobResult {
  log: string
  evidence: string
}

async function run(
  { from, to, name }: { from: string; to: string; name: string },
  rules: string,
  { inputs = {}, env = {} }: { inputs?: Record<string, string>; env?: Record<string, string> } = {},
): Promise<Run> {
  const evidence = join(folder, `evidence${++made}.json`)
  let log = ''
  const result = await runAction({
    dir: join(REPO, 'actions/mask'),
    repo: REPO,
    inputs: { from, to, rules, 'allow-target': name, evidence, 'allow-insecure': 'true', ...inputs },
    env: { MOLT_MASK_KEY: KEY, ...env },
    secrets: [KEY, ...CANARIES],
    onLine: ({ text }) => {
      log += `${text}\n`
    },
  })
  return { ...result, log, evidence }
}

const TINY = `CREATE TABLE t (id bigserial PRIMARY KEY, v text); INSERT INTO t (v) SELECT 'Person number ' || n FROM generate_series(1, 50) n;`
const TINY_RULES = 'safe: { surrogate-keys: true }\ntables: { t: { v: { use: name } } }'

function filesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .map((name) => join(path, name))
    .filter((file) => statSync(file, { throwIfNoEntry: false })?.isFile())
}

describe('the grown shop', () => {
  it('is masked and proved, with no canaries left anywhere', { timeout: 180_000 }, async () => {
    const at = await databases()
    await createGrownShop(at.from, 4000)
    // From now on, the rehearsal server logs every statement.
    await query(pair.target.url, `ALTER SYSTEM SET log_statement = 'all'`)
    await query(pair.target.url, 'SELECT pg_reload_conf()')
    const result = await run(at, MASK_RULES, { env: { MOLT_MASK_CANARIES: CANARIES.join('\n') } })
    await query(pair.target.url, 'ALTER SYSTEM RESET log_statement')
    await query(pair.target.url, 'SELECT pg_reload_conf()')
    expect(result.log).not.toContain('##[error]')
    expect(result.conclusion).toBe('success')
    expect(result.outputs).toMatchObject({ verdict: 'proved', tables: '20' })

    const evidence = JSON.parse(readFileSync(result.evidence, 'utf8'))
    expect(evidence).toMatchObject({ proved: true, problems: [], hits: [], canaries: { planted: 6, rowsAfter: 0 } })
    expect(evidence.canaries.rowsBefore).toBeGreaterThan(15)
    expect(evidence.constraints).toBeGreaterThan(70)
    expect(evidence.keptPersonal).toContainEqual(expect.objectContaining({ table: 'products', column: 'description' }))
    expect(result.summary).toMatch(/kept, and why<\/summary>[\s\S]*\| payments\.method \| three methods \|/)
    expect(result.summary).toMatch(/\| products\.description \| free text.* \| the catalogue is public \|/)
    expect(evidence.keeps.email).toMatchObject({ unique: 'yes, with 29 or more characters', order: 'no' })
    for (const table of evidence.tables) expect(table.rowsAfter, table.table).toBe(table.rowsBefore)
    for (const column of evidence.columns)
      expect(column.after.nullShare, `${column.table}.${column.column}`).toBeCloseTo(column.before.nullShare, 10)
    expect(evidence.tables.map(({ table }: { table: string }) => table).sort()).toEqual([...GROWN_TABLES].sort())

    // A person gets the same masked value in the unique key, in an undeclared reference, in a document, and under another
    // name.
    const [same] = await query(
      at.to,
      `SELECT count(*)::int AS tickets, count(c.id)::int AS met FROM tickets t LEFT JOIN customers c ON c.email = t.customer_email`,
    )
    expect(same.met).toBe(
      same.tickets -
        (
          await query(
            at.from,
            `SELECT count(*)::int AS n FROM tickets t WHERE NOT EXISTS (SELECT FROM customers c WHERE c.email = t.customer_email)`,
          )
        )[0].n,
    )
    const [profile] = await query(
      at.to,
      `SELECT count(*)::int AS n FROM profiles p JOIN customers c ON c.id = p.customer_id AND c.email = p.profile ->> 'email'`,
    )
    expect(profile.n).toBe((await query(at.from, 'SELECT count(*)::int AS n FROM profiles'))[0].n)
    const [next] = await query(
      at.to,
      `SELECT nextval('invoice_numbers')::int AS a, (SELECT max(invoice)::int FROM orders) AS b`,
    )
    expect(next.a).toBe(next.b + 1)

    await query(at.to, 'CHECKPOINT')
    const places: Record<string, string> = {
      log: result.log,
      summary: result.summary,
      outputs: JSON.stringify(result.outputs),
      evidence: readFileSync(result.evidence, 'utf8'),
    }
    for (const file of [pair.target.logFile, ...filesBelow(pair.target.dataDir)])
      places[file] = readFileSync(file, 'latin1')
    expect(Object.keys(places).some((file) => file.includes('pg_wal'))).toBe(true)
    for (const [place, text] of Object.entries(places))
      for (const needle of [...CANARIES, KEY, 'Janssens', 'friend1@mail.be'])
        expect(text.includes(needle), `${needle} in ${place}`).toBe(false)
    expect(readFileSync(pair.source.logFile, 'latin1')).not.toContain(KEY)

    // The search does find the canaries in the source's own files, so it would also find them elsewhere.
    const there = filesBelow(pair.source.dataDir).map((file) => readFileSync(file, 'latin1'))
    for (const needle of CANARIES)
      expect(
        there.some((text) => text.includes(needle)),
        needle,
      ).toBe(true)
  })

  it('replaces its earlier copy, with equal results for an equal key', { timeout: 120_000 }, async () => {
    const at = await databases(TINY)
    const rules = rulesFile(TINY_RULES)
    const read = () => query(at.to, 'SELECT v FROM t ORDER BY id')
    expect((await run(at, rules)).conclusion).toBe('success')
    const first = await read()
    expect((await run(at, rules)).conclusion).toBe('success')
    expect(await read()).toEqual(first)
    expect((await run(at, rules, { env: { MOLT_MASK_KEY: KEY.replaceAll('9', '7') } })).conclusion).toBe('success')
    expect(await read()).not.toEqual(first)
  })

  it('removes what it created, including types and functions, and nothing else', { timeout: 120_000 }, async () => {
    const at =
      await databases(`${TINY} CREATE TYPE mood AS ENUM ('a'); CREATE DOMAIN dm AS mood; ALTER TABLE t ADD m dm;
      CREATE FUNCTION norm(dm) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1::text)'; CREATE INDEX ON t (norm(m))`)
    const rules = rulesFile('safe: { surrogate-keys: true, enums: true }\ntables: { t: { v: { use: name } } }')
    expect((await run(at, rules)).conclusion).toBe('success')
    await query(
      at.to,
      `CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE SEQUENCE my_seq; CREATE TYPE my_t AS ENUM ('x')`,
    )
    const mine = () => query(at.to, `SELECT 'my_seq'::regclass::text, 'my_t'::regtype::text, mine()`)
    const before = await mine()
    expect((await run(at, rules)).log).not.toMatch(/##\[error\]/)
    expect(await mine()).toEqual(before)
    await query(at.to, `CREATE FUNCTION uses(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'`)
    expect((await run(at, rules)).log).toMatch(
      /an object in `to` that no earlier `mask` created depends on the TYPE public\.mood/,
    )
    await query(at.to, 'DROP FUNCTION uses(mood); CREATE VIEW looks AS SELECT 1 AS one')
    expect((await run(at, rules)).log).toMatch(/public\.looks.*\[mask\.target-not-empty\]/)
  })
})

describe('refusals', () => {
  it('happen before anything is written', { timeout: 180_000 }, async () => {
    const at = await databases(TINY)
    const rules = rulesFile(TINY_RULES)
    const cases: [string, RegExp, Parameters<typeof run>[2], Partial<typeof at>?][] = [
      ['the same database', /\[mask\.same-database\]/, {}, { to: at.from.replace('127.0.0.1', 'localhost') }],
      ['no mark', /\[input\.missing\]/, { inputs: { 'allow-target': '' } }],
      ['another mark', /\[mask\.target-not-allowed\]/, { inputs: { 'allow-target': 'shop' } }],
      ['no key', /\[mask\.key-invalid\]/, { env: { MOLT_MASK_KEY: '' } }],
      ['a weak key', /\[mask\.key-invalid\]/, { env: { MOLT_MASK_KEY: 'rehearsal' } }],
      ['no TLS', /\[input\.insecure-url\]/, { inputs: { 'allow-insecure': 'false' } }],
      ['no target', /\[input\.missing\]/, { inputs: { to: '' } }],
    ]
    for (const [what, message, options, other] of cases) {
      const result = await run({ ...at, ...other }, rules, options)
      expect(result.conclusion, what).toBe('failure')
      expect(result.log, what).toMatch(message)
    }
    expect(await query(at.to, `SELECT count(*)::int AS n FROM pg_tables WHERE schemaname = 'public'`)).toEqual([
      { n: 0 },
    ])
    expect(await query(at.from, 'SELECT count(*)::int AS n FROM t')).toEqual([{ n: 50 }])
  })

  it('protect a target that has other tables, a subscription, or a migration into it', {
    timeout: 120_000,
  }, async () => {
    const at = await databases(TINY)
    const rules = rulesFile(TINY_RULES)
    await query(at.to, 'CREATE TABLE mine (id int)')
    expect((await run(at, rules)).log).toMatch(/public\.mine.*\[mask\.target-not-empty\]/)
    await query(at.to, `DROP TABLE mine`)
    await query(at.to, `CREATE SUBSCRIPTION feed CONNECTION 'dbname=none' PUBLICATION p WITH (connect = false)`)
    expect((await run(at, rules)).log).toMatch(/subscription feed.*\[mask\.target-fed\]/)
    await query(at.to, `ALTER SUBSCRIPTION feed SET (slot_name = NONE)`)
    await query(at.to, `DROP SUBSCRIPTION feed`)
    await query(
      at.to,
      `CREATE SCHEMA molt_actions; CREATE TABLE molt_actions.migrations (id text, phase text); INSERT INTO molt_actions.migrations VALUES ('main', 'caught-up')`,
    )
    expect((await run(at, rules)).log).toMatch(/migration main.*\[mask\.target-fed\]/)
  })

  it('stop an expression that reveals the row, a number left unchanged, and an expression that reads the key', {
    timeout: 120_000,
  }, async () => {
    const at = await databases(
      `${TINY} ALTER TABLE t ADD w text DEFAULT 'nothing', ADD n int; UPDATE t SET w = CASE id WHEN 7 THEN 'ask PERSON-number 7!' ELSE 'nothing' END, n = 1 + id % 5`,
    )
    const columns = (v: string, n: string) =>
      rulesFile(`safe: { surrogate-keys: true }\ntables: { t: { v: ${v}, w: { use: text }, n: ${n} } }`)
    const keep = '{ keep: true, reason: a number }'
    const sql = (expression: string) => `{ use: sql, expression: '${expression}', reviewed-by: nobody }`
    const cases: [string, RegExp][] = [
      [columns(sql('t.v'), keep), /t\.v: in 50 rows, the expression reveals an original text of the row/],
      [columns(sql("upper(''x'' || t.v)"), keep), /t\.v: in 50 rows, the expression reveals/],
      [columns(sql('t.w'), keep), /t\.v: in 50 rows, the expression reveals/],
      [columns('{ use: name }', sql('t.n + 0.00')), /t\.n: 50 numbers, more than half of them, stay unchanged/],
      [
        rulesFile(
          `safe: { surrogate-keys: true }\ntables: { t: { v: { use: name }, w: { keep: true, reason: a remark }, n: ${keep} } }`,
        ),
        /t\.w: in 1 row, the kept value reveals an original text of the row/,
      ],
      [
        columns('{ use: name }', '{ use: number, noise: 0.01 }'),
        /t\.n: 50 numbers, more than half of them, stay unchanged/,
      ],
      [
        columns(sql("current_setting(''molt_actions.k0'')"), keep),
        /t\.v: the expression reads settings, and the masking key/,
      ],
    ]
    for (const [rules, message] of cases) expect((await run(at, rules)).log).toMatch(message)
    expect(await query(at.to, `SELECT count(*)::int AS n FROM pg_tables WHERE schemaname = 'public'`)).toEqual([
      { n: 0 },
    ])
    const good = await run(at, columns(sql("''Person '' || t.id * 7"), '{ use: number, noise: 1 }'))
    expect(good.conclusion).toBe('success')
    expect(good.summary).toMatch(/reviewed expression[^#]*\| t\.v \| its rule, reviewed by nobody \|/)
  })

  it('copies as a read-only role, but rejects a table with rows hidden by a policy', async () => {
    const at = await databases(
      `${TINY} CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader`,
    )
    const asReader = { ...at, from: at.from.replace('postgres:postgres', 'reader:reader') }
    const rules = rulesFile(TINY_RULES)
    expect((await run(asReader, rules)).conclusion).toBe('success')
    await query(at.from, 'ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id < 5)')
    const result = await run(asReader, rules)
    expect(result.conclusion).toBe('failure')
    expect(result.log).toMatch(/SQLSTATE 42501/)
  })

  it('prints the rule to paste for a column without one', async () => {
    const at = await databases(`${TINY} ALTER TABLE t ADD phone text, ADD notes text`)
    const result = await run(at, rulesFile(TINY_RULES))
    expect(result.outputs['error-kind']).toBe('verdict')
    expect(result.outputs['error-code']).toBe('mask.unlisted-columns')
    expect(result.log).toMatch(/ {4}phone: \{ use: phone \}/)
  })
})

/** Returns the proof's output after a temporary change to the rehearsal source. */
async function proofAfter(at: { from: string; to: string }, path: string, harm: string): Promise<string> {
  const [source, target] = [await openSession(at.from, 'source'), await openSession(at.to, 'target')]
  try {
    await exportSnapshot(source)
    const rules = readRules(path)
    const plan = makePlan(await readMaskTables(source, 'public'), rules, 'public')
    await target.query('BEGIN; SET LOCAL search_path = public')
    if (harm) await target.query(harm)
    await target.query("SET LOCAL search_path = ''")
    const sides = { source, target, where: new Map(), signal: new AbortController().signal }
    return (await prove(sides, plan, rules, new Map(), [])).problems.join('\n')
  } finally {
    await target.query('ROLLBACK')
    await source.end()
    await target.end()
  }
}

describe('a proof that fails', () => {
  const cases: [string, string, string, RegExp, string?, string?][] = [
    [
      'an original survives in another row',
      '{ use: sql, expression: \'(SELECT u.v FROM public.t u WHERE u.id = t."id" % 50 + 1)\', reviewed-by: nobody }',
      TINY,
      /t\.v: found 50 original values/,
    ],
    [
      'an e-mail address in kept text',
      '{ keep: true, reason: an oversight }',
      `${TINY} UPDATE t SET v = 'ask anna@mail.be' WHERE id = 3`,
      /t\.v: possible e-mail in 1 row\b/,
    ],
    [
      'a telephone number',
      '{ keep: true, reason: an oversight }',
      `${TINY} UPDATE t SET v = 'call +32 470 12 34 56!' WHERE id = 3`,
      /possible phone in/,
    ],
    [
      'a card',
      '{ keep: true, reason: an oversight }',
      `${TINY} UPDATE t SET v = 'paid by 4111 1111 1111 1111' WHERE id = 3`,
      /possible card in/,
    ],
    [
      'a national id',
      '{ keep: true, reason: an oversight }',
      `${TINY} UPDATE t SET v = 'ssn 078-05-1120.' WHERE id = 3`,
      /possible national id in/,
    ],
    [
      'a remaining canary',
      '{ keep: true, reason: an oversight }',
      `${TINY} UPDATE t SET v = 'CANARY-7f3a91c2' WHERE id = 3`,
      /planted canaries in 1 row /,
      'canaries: [CANARY-7f3a91c2]',
    ],
    [
      'a canary that is not on the source',
      '{ use: name }',
      TINY,
      /canary 1 is nowhere on the source/,
      'canaries: [CANARY-7f3a91c2]',
    ],
    [
      'a canary in the schema itself',
      '{ use: name }',
      `${TINY} UPDATE t SET v = 'CANARY-7f3a91c2' WHERE id = 3; CREATE INDEX ON t (id) WHERE v <> 'CANARY-7f3a91c2'`,
      /a planted canary is in the schema itself/,
      'canaries: [CANARY-7f3a91c2]',
    ],
    [
      'a canary in quotes in the schema',
      '{ use: name }',
      `${TINY} UPDATE t SET v = 'O''Brien Canary 7f3a' WHERE id = 3; ALTER TABLE t ALTER v SET DEFAULT 'O''Brien Canary 7f3a'`,
      /a planted canary is in the schema itself/,
      `canaries: ["O'Brien Canary 7f3a"]`,
    ],
    [
      'a person in the schema',
      '{ use: name }',
      `${TINY} ALTER TABLE t ALTER v SET DEFAULT 'anna.peeters@mail.be'`,
      /the schema: possible e-mail in 1 text,/,
    ],
    [
      'an original in the schema',
      '{ use: name }',
      `${TINY} ALTER TABLE t ADD CHECK (v <> 'Person number 51'); UPDATE t SET v = 'Person number 60' WHERE id = 3; ALTER TABLE t ALTER v SET DEFAULT 'Person number 60'`,
      /t: found 1 original value in the schema/,
    ],
    [
      'an original within a longer text of the schema, after an apostrophe that starts no literal',
      '{ use: name }',
      `${TINY} UPDATE t SET v = 'Person number 60' WHERE id = 3; CREATE FUNCTION f(x text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
        SELECT x -- don't tell
          || 'for Person number 60 only' $$; CREATE INDEX ON t (f(v))`,
      /t: found 1 original value in the schema/,
    ],
    [
      'an original in another spelling, in another row',
      '{ use: sql, expression: \'(SELECT upper(replace(u.v, $$ $$, $$-$$)) FROM public.t u WHERE u.id = t."id" % 50 + 1)\', reviewed-by: nobody }',
      TINY,
      /t\.v: found 50 original values of t among the masked values/,
    ],
    [
      'a field of a composite value that an expression does not change',
      '{ use: name }',
      `CREATE TYPE place AS (street text, nr int); ${TINY} ALTER TABLE t ADD p place, ADD i inet; UPDATE t SET p = row('Oak Lane ' || id, id)`,
      /t\.p: found \d+ original values?/,
      '',
      `p: { use: sql, expression: '(SELECT row((u.p).street, 0)::public.place FROM public.t u WHERE u.id = t.id % 50 + 1)', reviewed-by: nobody }, i: { use: 'null' }`,
    ],
    [
      'an e-mail address that an expression puts into a non-text value',
      '{ use: name }',
      `${TINY} ALTER TABLE t ADD b bytea; UPDATE t SET b = 'x'`,
      /t\.b: possible e-mail in 50 rows/,
      '',
      `b: { use: sql, expression: "convert_to('anna@mail.be', 'UTF8')", reviewed-by: nobody }`,
    ],
    [
      'a card number in a kept number',
      '{ use: name }',
      `${TINY} ALTER TABLE t ADD n numeric DEFAULT 1; UPDATE t SET n = 4111111111111111 WHERE id = 3`,
      /t\.n: possible card in 1 row\b/,
      '',
      'n: { keep: true, reason: an oversight }',
    ],
    [
      'people in kept values that are not text',
      '{ use: name }',
      `${TINY} ALTER TABLE t ADD s tsvector, ADD b bytea; UPDATE t SET s = to_tsvector('simple', 'ask anna@mail.be'), b = 'ask anna@mail.be' WHERE id = 3`,
      /t\.s: possible e-mail in 1 row[\s\S]*t\.b: possible e-mail in 1 row\b/,
      '',
      's: { keep: true, reason: an oversight }, b: { keep: true, reason: an oversight }',
    ],
    [
      'a canary in another case, escaped, or as a number',
      '{ use: name }',
      `${TINY} ALTER TABLE t ADD j jsonb, ADD n bigint; UPDATE t SET j = '["ZOë \\"canary\\" 7F3A"]' WHERE id = 3; UPDATE t SET n = 9024007103939509 WHERE id = 4`,
      /planted canaries in 2 rows/,
      `canaries: ['Zoë "Canary" 7f3a', '9024007103939509']`,
      'j: { keep: true, reason: an oversight }, n: { keep: true, reason: an oversight }',
    ],
    [
      'unchanged short values',
      `{ use: sql, expression: 'substr("substring"(t.v || t.v, 1, 1), 1)', reviewed-by: nobody }`,
      `${TINY} UPDATE t SET v = CASE WHEN id % 3 = 0 THEN 'f' ELSE 'm' END`,
      /t\.v: 50 of 50 short values are as frequent as before, so they look unmasked/,
    ],
  ]
  it.each(cases)('reports %s, and leaves no rows behind', async (_, rule, ddl, message, more = '', others = '') => {
    const at = await databases(ddl)
    const tables = `tables: { t: { v: ${rule}${others && `, ${others}`} } }`
    const result = await run(at, rulesFile(`safe: { surrogate-keys: true }\n${tables}\n${more}`))
    expect(result.conclusion).toBe('failure')
    expect(result.log).toMatch(message)
    expect(JSON.parse(readFileSync(result.evidence, 'utf8')).proved).toBe(false)
    expect(result.outputs['error-code']).toBe('mask.not-proved')
    expect(result.log).toMatch(/new tables on the rehearsal source were dropped/)
    expect(await query(at.to, `SELECT to_regclass('t') AS there`)).toEqual([{ there: null }])
    expect(await query(at.to, 'SELECT state FROM molt_actions_mask.run')).toEqual([{ state: 'refused' }])
    expect(await query(at.to, `SELECT tablename FROM pg_stats WHERE schemaname = 'public'`)).toEqual([])
  })

  it('reports rows that it could not remove', async () => {
    const at = await databases()
    await query(at.to, 'CREATE TABLE t (id int); CREATE TABLE u (id int)')
    const reader = new pg.Client({ connectionString: at.to })
    await reader.connect()
    await reader.query('BEGIN; SELECT * FROM t')
    const session = await openSession(at.to, 'target')
    await takeOver(session, 'public', ['t', 'u'])
    await session.end()
    expect(await discardTables(at.to, 'public', ['t', 'u'])).toEqual(['t'])
    await reader.end()
    expect(await discardTables(at.to, 'public', ['t', 'u'])).toEqual([])
  })

  it('reports an invalid expression or predicate before an earlier copy is dropped', async () => {
    const at = await databases(TINY)
    expect((await run(at, rulesFile(TINY_RULES))).outputs.verdict).toBe('proved')
    const bad = await run(at, rulesFile(`${TINY_RULES}\nsubset: { t: { where: t.idd > 3 } }`))
    expect(bad.log).toMatch(/subset\.t .*SQLSTATE 42703: column t\.idd does not exist.*\[mask\.rule-failed\]/)
    const open = await run(at, rulesFile(`${TINY_RULES}\nsubset: { t: { where: "t.id > 3) OR (true" } }`))
    expect(open.conclusion).toBe('failure')
    const sql =
      'safe: { surrogate-keys: true }\ntables: { t: { v: { use: sql, expression: uper(t.v), reviewed-by: nobody } } }'
    expect((await run(at, rulesFile(sql))).log).toMatch(
      /the rule of t\.v fails: SQLSTATE 42883: function uper\(text\) does not/,
    )
    expect(await query(at.to, 'SELECT count(*)::int AS n FROM t')).toEqual([{ n: 50 }])
  })

  it('creates the folders for its files, and fails immediately if it cannot', async () => {
    const at = await databases(TINY)
    writeFileSync(join(folder, 'file'), '')
    const inside = join(folder, 'file', 'mask.json')
    const result = await run(at, rulesFile(TINY_RULES), { inputs: { evidence: inside } })
    expect(result.log).toMatch(/`evidence`.*\[mask\.file-unwritable\]/)
    expect(result.log).not.toMatch(/bug|copied/)
    const proposed = await run(at, join(folder, 'file', 'a.yml'), { inputs: { propose: 'true' } })
    expect(proposed.log).toMatch(/`rules`.*\[mask\.file-unwritable\]/)
    const made = await run(at, rulesFile(TINY_RULES), {
      inputs: { evidence: join(folder, 'new', 'deep', 'mask.json') },
    })
    expect(made.outputs.verdict).toBe('proved')
  })

  it('reveals no value when an expression fails on it', async () => {
    const at = await databases(TINY)
    const rule = (expression: string) =>
      rulesFile(
        `safe: { surrogate-keys: true }\ntables: { t: { v: { use: sql, expression: "${expression}", reviewed-by: nobody } } }`,
      )
    for (const expression of ['(t.v::int + 1)::text', `to_date(t.v, 'YYYY')::text`]) {
      const result = await run(at, rule(expression))
      expect(result.conclusion).toBe('failure')
      expect(result.log + result.summary).toMatch(/the rule of t\.v fails: SQLSTATE 22/)
      expect(result.log + result.summary).not.toMatch(/Person|bug/)
    }
  })

  it('recognizes identifiers in all common spellings', async () => {
    const at = await databases(`CREATE TABLE t (id bigserial PRIMARY KEY, v text)`)
    const personal = [
      'pay 4111 1111 1111 1111 12/27',
      '4111111111111111 123',
      '4111.1111.1111.1111',
      '(415) 555-2671',
      '1-800-555-2671',
      '0032 470 12 34 56',
      '0470123456',
      'anna@bücher.de',
      'anna@mail.рф',
      'anna@example.com.be',
      '529.982.247-25',
      '12345678-Z',
      'RSSMRA85T10A562S',
      '912-34-5678',
    ]
    const none = [
      'order 2026-11-25',
      '4111111111111112',
      'u1@example.com, u2@mail.example.',
      '+999123456',
      '0999123456',
      'v1.2.3@sha',
    ]
    for (const v of [...personal, ...none]) await query(at.from, 'INSERT INTO t (v) VALUES ($1)', [v])
    const result = await run(
      at,
      rulesFile('safe: { surrogate-keys: true }\ntables: { t: { v: { keep: true, reason: all of it } } }'),
    )
    const { hits } = JSON.parse(readFileSync(result.evidence, 'utf8'))
    expect(hits.reduce((sum: number, each: { hits: number }) => sum + each.hits, 0)).toBe(personal.length)
  })

  it('reports changed rows, constraints, references and values', { timeout: 60_000 }, async () => {
    const at = await databases(`
      CREATE TABLE p (id bigserial PRIMARY KEY, mail text UNIQUE, n int CHECK (n > 0));
      CREATE TABLE c (id bigserial PRIMARY KEY, mail text, p bigint REFERENCES p);
      CREATE INDEX c_mail ON c (mail);
      INSERT INTO p (mail, n) SELECT 'anna' || n || '@mail.be', n FROM generate_series(1, 20) n;
      INSERT INTO c (mail, p) SELECT mail, id FROM p`)
    const yaml = `safe: { surrogate-keys: true, foreign-keys: true }
tables: { p: { mail: { use: email }, n: { keep: true, reason: a number } }, c: {} }
references: [{ from: c.mail, to: p.mail }]`
    const path = rulesFile(yaml)
    expect((await run(at, path)).conclusion).toBe('success')
    const found = await proofAfter(at, path, '')
    expect(found).toBe('')
    expect(await proofAfter(at, path, 'DELETE FROM c WHERE id = 3')).toMatch(/c has 19 rows, but 20 were planned/)
    expect(await proofAfter(at, path, `UPDATE c SET mail = 'nobody' WHERE id = 4`)).toMatch(
      /c\.mail → p\.mail: 1 orphaned row instead of 0/,
    )
    expect(await proofAfter(at, path, 'UPDATE c SET mail = NULL WHERE id = 5')).toMatch(
      /c\.mail has 19 non-NULL values, but 20 on the source/,
    )
    expect(await proofAfter(at, path, 'ALTER TABLE p DROP CONSTRAINT p_n_check')).toMatch(/p\.p_n_check is missing/)
    expect(await proofAfter(at, path, 'DROP INDEX c_mail')).toMatch(/c index c_mail is missing/)
    const invalid = 'ALTER TABLE c DROP CONSTRAINT c_p_fkey; ALTER TABLE c ADD FOREIGN KEY (p) REFERENCES p NOT VALID'
    expect(await proofAfter(at, path, invalid)).toMatch(/c\.c_p_fkey is not valid/)
    const doubled =
      'ALTER TABLE p DROP CONSTRAINT p_mail_key; UPDATE p SET mail = (SELECT min(mail) FROM p) WHERE id = 5'
    expect(await proofAfter(at, path, doubled)).toMatch(/p\.mail has 1\d different values, but 20 on the source/)
    const brought = `UPDATE p SET mail = 'anna7@mail.be' WHERE id = 7`
    expect(await proofAfter(at, path, brought)).toMatch(/p\.mail: found 1 original value/)
  })

  it('searches for a sample of the originals on request, and accepts exceptions that have a reason', {
    timeout: 60_000,
  }, async () => {
    const at = await databases(`${TINY} UPDATE t SET v = 'call +32 470 12 34 5' || id WHERE id < 3`)
    const rules = (proof: string) =>
      rulesFile(`safe: { surrogate-keys: true }\ntables: { t: { v: { use: sql, expression: '(SELECT u.v FROM public.t u WHERE u.id = t.id % 50 + 1)', reviewed-by: nobody } } }
proof: { ${proof} }`)
    // Such a small share of such a small table would contain no rows.
    const sampled = await run(at, rules('sample: 0.000001, max-hits: 2'))
    expect(sampled.log).toMatch(/t\.v: found \d+ original values?/)
    expect(sampled.log).not.toMatch(/possible phone in/)
    expect((await run(at, rules('allow-survivors: { t.v: shuffled on purpose }'))).log).toMatch(
      /possible phone in 2 rows/,
    )
    const allowed = 'allow-survivors: { t.v: shuffled on purpose }, allow-hits: { t.v: a made-up number }'
    expect((await run(at, rules(allowed))).conclusion).toBe('success')
  })

  it("finds originals of one column in another column, and of one table in another table's `sql` column", {
    timeout: 60_000,
  }, async () => {
    const at = await databases(`${TINY}
      CREATE TABLE a (id bigserial PRIMARY KEY, x text, y text); INSERT INTO a (x, y) SELECT 'left ' || n, 'right ' || n FROM generate_series(1, 9) n`)
    const rules = (a: string) =>
      rulesFile(`safe: { surrogate-keys: true }\ntables: { t: { v: { use: name } }, a: { x: { use: hash }, y: ${a} } }`)
    const taken = `{ use: sql, expression: '(SELECT u.v FROM public.t u WHERE u.id = t.id)', reviewed-by: nobody }`
    expect((await run(at, rules(taken))).log).toMatch(/a\.y: found 9 original values of t among the masked values/)
    const beside = `{ use: sql, expression: '(SELECT u.x FROM public.a u WHERE u.id = t.id % 9 + 1)', reviewed-by: nobody }`
    expect((await run(at, rules(beside))).log).toMatch(/a\.y: found 9 original values/)
  })

  it('finds originals that are kept elsewhere, through an unlisted reference or in a document', {
    timeout: 60_000,
  }, async () => {
    const at = await databases(`${TINY} CREATE TABLE a (id bigserial PRIMARY KEY, who text, doc jsonb, u uuid);
      ALTER TABLE t ADD u uuid; UPDATE t SET u = md5(id::text)::uuid; INSERT INTO a (who, u) SELECT v, u FROM t WHERE id < 8;
      INSERT INTO a (doc) VALUES ('{"name": "Eve Adams", "title": "to Eve Adams"}')`)
    const rules = (a: string) =>
      rulesFile(`safe: { surrogate-keys: true }\ntables: { t: { v: { use: name }, u: { use: uuid } }, a: { ${a} } }`)
    const keep = '{ keep: true, reason: an oversight }'
    const doc = (title: string) =>
      `doc: { use: json, paths: { name: { use: name }, title: ${title} } }, who: ${keep}, u: ${keep}`
    expect((await run(at, rules(doc(keep)))).log).toMatch(/a\.doc: in 1 row, the kept value reveals an original text/)
    const { log } = await run(at, rules(doc('{ use: text }')))
    expect(log).toMatch(/a\.who is kept, but contains 7 original values of masked columns of t/)
    expect(log).toMatch(/a\.u is kept, but contains 7 original values of masked columns of t/)
  })

  it('does not mistake a 16-digit number for a card, or a masked value for a person', async () => {
    const at = await databases(
      `${TINY} UPDATE t SET v = 'parcel 4111111111111112, mail u1@example.com, +999123456789' WHERE id = 3`,
    )
    const result = await run(
      at,
      rulesFile('safe: { surrogate-keys: true }\ntables: { t: { v: { keep: true, reason: none of these is real } } }'),
    )
    expect(result.log).not.toMatch(/##\[error\]/)
    expect(result.conclusion).toBe('success')
  })
})

describe('copy', () => {
  it('reads all tables in one snapshot, despite concurrent writes', async () => {
    const at = await databases(`${TINY} CREATE TABLE u (id bigserial PRIMARY KEY, v text)`)
    await query(at.to, 'CREATE TABLE t (id bigint, v text); CREATE TABLE u (id bigint, v text)')
    const source = await openSession(at.from, 'source')
    const snapshot = await exportSnapshot(source)
    await query(
      at.from,
      `INSERT INTO t (v) VALUES ('late'); INSERT INTO u (v) SELECT v FROM t; DELETE FROM t WHERE id < 10`,
    )
    const job = (table: string) => ({
      schema: 'public',
      table,
      select: `SELECT * FROM public.${table}`,
      columns: ['id', 'v'],
      size: 1,
    })
    const ends = { ...at, snapshot, parameters: new Map(), atOnce: 2, signal: new AbortController().signal }
    const copied = await copyTables([job('t'), job('u')], ends)
    await source.end()
    expect([...copied].sort()).toEqual([
      ['t', 50],
      ['u', 0],
    ])
  })

  it('waits for a slow target without using much memory', { timeout: 60_000 }, async () => {
    const at = await databases(`CREATE TABLE t (id bigint, v text);
      INSERT INTO t SELECT n, repeat(md5(n::text), 64) FROM generate_series(1, 100000) n`)
    await query(at.to, 'CREATE TABLE t (id bigint, v text)')
    const [source, locker] = [await openSession(at.from, 'source'), await openSession(at.to, 'target')]
    await locker.query('BEGIN; LOCK TABLE public.t')
    const job = { schema: 'public', table: 't', select: 'SELECT * FROM public.t', columns: ['id', 'v'], size: 1 }
    const used = () => {
      const { heapUsed, external } = process.memoryUsage()
      return Math.round((heapUsed + external) / 2 ** 20)
    }
    const ends = { ...at, snapshot: await exportSnapshot(source), parameters: new Map(), atOnce: 1 }
    const before = used()
    let peak = 0
    const look = setInterval(() => {
      peak = Math.max(peak, used() - before)
    }, 10)
    const copying = copyTables([job], { ...ends, signal: new AbortController().signal })
    await sleep(1_000)
    await locker.query('COMMIT')
    expect([...(await copying)]).toEqual([['t', 100_000]])
    clearInterval(look)
    // The copy is 200 MiB in total.
    expect(peak).toBeLessThan(64)
    await Promise.all([source.end(), locker.end()])
  })
})

describe('schema', () => {
  it('copies partitions, domains, expressions and generated columns, but nothing that runs code', {
    timeout: 60_000,
  }, async () => {
    const at = await databases(`
      CREATE SCHEMA other; CREATE TYPE other.mood AS ENUM ('a'); CREATE DOMAIN other.moods AS other.mood[]; CREATE COLLATION plain (locale = 'C');
      CREATE DOMAIN mail AS varchar(60) COLLATE plain CHECK (value ~ '@'); CREATE TYPE pair AS (a int, b text);
      CREATE FUNCTION norm(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
      CREATE FUNCTION noisy() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called''; END';
      CREATE TABLE ev (id bigint GENERATED ALWAYS AS IDENTITY, at date NOT NULL, who mail, p pair, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
      CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
      CREATE TABLE other.ev_2 PARTITION OF ev FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
      CREATE UNIQUE INDEX ON ev (norm(who::text), at);
      CREATE TABLE left_out (id int PRIMARY KEY, secret text); CREATE TABLE left_out_2 (id serial PRIMARY KEY);
      CREATE TABLE noise (id int PRIMARY KEY, v text DEFAULT 'x', g text GENERATED ALWAYS AS (upper(v)) STORED, m other.moods, w text COLLATE plain);
      ALTER TABLE noise REPLICA IDENTITY FULL; CREATE VIEW v AS SELECT * FROM noise;
      INSERT INTO ev (at, who, p) SELECT date '2020-01-01' + n % 700, 'p' || n || '@x.org', row(n, 'x')::pair FROM generate_series(1, 1000) n;
      INSERT INTO noise (id, v) VALUES (1, 'abcdef'); CREATE TRIGGER act BEFORE INSERT ON noise FOR EACH ROW EXECUTE FUNCTION noisy();`)
    const keep = '{ keep: true, reason: a number }'
    const rules = rulesFile(`safe: { surrogate-keys: true }\nexclude: { left_out: not needed }
tables: { ev: { at: ${keep}, who: { use: email }, p: ${keep} }, noise: { id: ${keep}, v: { use: text }, m: ${keep}, w: { use: 'null' } }, left_out_2: {} }`)
    // The second run removes what the first created, in the other schema too.
    for (let again = 0; again < 2; again++) expect((await run(at, rules)).log).not.toMatch(/##\[error\]/)
    const collations = `SELECT a.attname::text, l.collname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
      JOIN pg_collation l ON l.oid = a.attcollation WHERE attrelid IN ('noise'::regclass, 'ev'::regclass) ORDER BY 1`
    expect(await query(at.to, collations)).toEqual(await query(at.from, collations))
    expect(await query(at.to, 'SELECT count(*)::int AS n FROM other.ev_2')).toEqual([{ n: 334 }])
    const facts = (url: string) =>
      query(
        url,
        `SELECT relname::text, relkind::text, relreplident::text, relispartition FROM pg_class
          WHERE relnamespace = 'public'::regnamespace AND relname NOT IN ('v', 'left_out', 'left_out_pkey') ORDER BY 1`,
      )
    expect(await facts(at.to)).toEqual(await facts(at.from))
    expect(await query(at.to, `SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace`)).toEqual(
      [{ proname: 'norm' }],
    )
    expect(await query(at.to, 'SELECT count(*)::int AS n FROM pg_trigger WHERE NOT tgisinternal')).toEqual([{ n: 0 }])
    expect(await query(at.to, 'SELECT count(*)::int AS n FROM ev_1')).toEqual(
      await query(at.from, 'SELECT count(*)::int AS n FROM ev_1'),
    )
    const [row] = await query(at.to, 'SELECT v, g FROM noise')
    expect(row.g).toBe(row.v.toUpperCase())
    expect(row.v).toHaveLength(6)
    expect(row.v).not.toBe('abcdef')
  })

  it('does not copy a function that reaches outside the database', async () => {
    const at =
      await databases(`CREATE FUNCTION far(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM pg_notify(''x'', t); RETURN t; END';
      CREATE TABLE t (id serial PRIMARY KEY, v text DEFAULT far('x'))`)
    const result = await run(at, rulesFile(TINY_RULES))
    expect(result.log).toMatch(/function far\b.*\[mask\.reaches-out\]/)
  })
})

describe('functions that a schema calls', () => {
  it('copies each called function by its signature, with the functions that it calls', async () => {
    const at =
      await databases(`SET check_function_bodies = off; CREATE FUNCTION norm(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(public.helper($1))';
      CREATE FUNCTION norm(i int) RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM pg_notify(''x'', ''y''); RETURN i; END';
      CREATE FUNCTION proper(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN length(t) > 1; END';
      CREATE FUNCTION helper(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
      CREATE DOMAIN word AS text CHECK (proper(value)); CREATE UNLOGGED TABLE t (id serial PRIMARY KEY, v word);
      CREATE TABLE left_out (id serial PRIMARY KEY); CREATE INDEX ON t (norm(v)); INSERT INTO t (v) VALUES ('Anna Peeters')`)
    const result = await run(at, rulesFile(`${TINY_RULES}\nexclude: { left_out: not needed }`))
    expect(result.log).not.toMatch(/##\[error\]/)
    const functions = ['helper(text)', 'norm(text)', 'proper(text)']
    expect(
      await query(
        at.to,
        `SELECT oid::regprocedure::text AS f FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1`,
      ),
    ).toEqual(functions.map((f) => ({ f })))
    expect(
      await query(
        at.to,
        `SELECT relpersistence::text AS kept, to_regclass('left_out_id_seq') AS seq FROM pg_class WHERE relname = 't'`,
      ),
    ).toEqual([{ kept: 'u', seq: null }])
    await expect(query(at.to, `INSERT INTO t (v) VALUES ('x')`)).rejects.toThrow(/word_check/)
  })

  const table = (v: string) => `CREATE TABLE t (id serial PRIMARY KEY, v ${v})`
  it.each([
    ['a default', table(`text DEFAULT pg_read_file('x')`), /public\.t calls pg_read_file.*\[mask\.reaches-out\]/],
    [
      'a domain',
      `CREATE DOMAIN d AS text CHECK (value <> pg_read_file('x')); ${table('d')}`,
      /public\.d calls pg_read_file.*\[mask\.reaches-out\]/,
    ],
    ['a check', table('text CHECK (lo_import(v) > 0)'), /t calls lo_import.*\[mask\.reaches-out\]/],
    [
      'an extension',
      `CREATE EXTENSION dblink; ${table(`text DEFAULT dblink_exec('x', 'y')`)}`,
      /public\.t needs the extension dblink.*\[mask\.reaches-out\]/,
    ],
    [
      'a function that another one calls',
      `CREATE FUNCTION far() RETURNS text LANGUAGE plpgsql AS 'BEGIN COPY t TO PROGRAM ''cat''; RETURN NULL; END';
      CREATE FUNCTION near() RETURNS text LANGUAGE sql AS 'SELECT public.far()'; ${table('text DEFAULT near()')}`,
      /function far\b.*\[mask\.reaches-out\]/,
    ],
  ])('does not reach outside the database through %s', async (_, ddl, message) => {
    const at = await databases(ddl)
    expect((await run(at, rulesFile(TINY_RULES))).log).toMatch(message)
    expect(await query(at.to, `SELECT extname FROM pg_extension WHERE extname = 'dblink'`)).toEqual([])
  })
})

describe('subset', () => {
  it('takes a sample without dangling references, despite cycles, self-references and undeclared references', {
    timeout: 60_000,
  }, async () => {
    const at = await databases(`
      CREATE TABLE people (id bigint PRIMARY KEY, boss bigint, team bigint);
      CREATE TABLE teams (id bigint PRIMARY KEY, lead bigint);
      CREATE TABLE visits (id bigint PRIMARY KEY, person bigint);
      CREATE TABLE notes (id bigint PRIMARY KEY, visit bigint NOT NULL REFERENCES visits);
      INSERT INTO teams SELECT n, n * 20 FROM generate_series(1, 50) n;
      INSERT INTO people SELECT n, CASE WHEN n > 10 THEN n / 2 END, 1 + n % 50 FROM generate_series(1, 1000) n;
      INSERT INTO visits SELECT n, CASE WHEN n % 7 > 0 THEN 1 + n % 1000 END FROM generate_series(1, 3000) n;
      INSERT INTO notes SELECT n, n FROM generate_series(1, 3000) n;
      ALTER TABLE people ADD FOREIGN KEY (boss) REFERENCES people, ADD FOREIGN KEY (team) REFERENCES teams;
      ALTER TABLE teams ADD FOREIGN KEY (lead) REFERENCES people;`)
    const number = '{ keep: true, reason: a number }'
    const rules = rulesFile(`safe: { foreign-keys: true }
tables: { people: { id: ${number} }, teams: { id: ${number} }, visits: { id: ${number} }, notes: { id: ${number} } }
references: [{ from: visits.person, to: people.id }]
subset: { people: { where: 't."id" <= 990' }, visits: { percent: 50 } }`)
    const result = await run(at, rules)
    expect(result.log).not.toMatch(/##\[error\]/)
    expect(result.conclusion).toBe('success')
    const count = async (sql: string) => Number((await query(at.to, `SELECT count(*) AS n FROM ${sql}`))[0].n)
    const people = await count('people')
    expect(people).toBeGreaterThan(50)
    // Team 50 is removed with its lead, and its members are removed with the team.
    expect(people).toBeLessThan(980)
    const visits = await count('visits')
    expect(visits).toBeGreaterThan(200)
    expect(visits).toBeLessThan(1700)
    expect(await count('notes')).toBe(visits)
    expect(await count('people WHERE id > 990')).toBe(0)
    expect(
      await count('visits v WHERE person IS NOT NULL AND NOT EXISTS (SELECT FROM people p WHERE p.id = v.person)'),
    ).toBe(0)
    expect(
      await count('people p WHERE boss IS NOT NULL AND NOT EXISTS (SELECT FROM people b WHERE b.id = p.boss)'),
    ).toBe(0)
  })

  /**
   * Copies the rows that a subset selects to the other side, and then removes rows with dangling references.
   * @returns the numbers of rows copied, removed and left
   */
  async function subsetOf(ddl: string, yaml: string) {
    const at = await databases(ddl)
    const [source, target] = [await openSession(at.from, 'source'), await openSession(at.to, 'target')]
    try {
      const rules = readRules(rulesFile(yaml))
      const plan = makePlan(await readMaskTables(source, 'public'), rules, 'public')
      expect([plan.problems, plan.unlisted]).toEqual([[], []])
      const where = subsetPredicates(plan, rules.subset ?? {})
      // Without constraints, which `mask` creates only after it has removed such rows.
      await query(at.to, ddl.replaceAll(/ REFERENCES \w+|INSERT INTO [^;]*;|ALTER [^;]*;/g, ''))
      const taken = new Map<string, number>()
      for (const planned of plan.tables) {
        const { name } = planned.table
        const { rows } = await source.query(maskedSelect(planned, where.get(name)))
        taken.set(name, rows.length)
        await target.query(
          `INSERT INTO public.${name} SELECT * FROM jsonb_populate_recordset(NULL::public.${name}, $1)`,
          [JSON.stringify(rows)],
        )
      }
      const gone = await close(target, plan)
      const left: Record<string, number> = {}
      for (const { table } of plan.tables)
        left[table.name] = (await target.query(`SELECT FROM ${fromItem(table)}`)).rowCount ?? 0
      return { where, taken, gone, left }
    } finally {
      await source.end()
      await target.end()
    }
  }

  const kept = '{ keep: true, reason: a number }'

  it('keeps rows in inheriting tables, but does not count them as parents', async () => {
    const { taken, left } = await subsetOf(
      `CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE q (w int) INHERITS (p);
       CREATE TABLE t (id int PRIMARY KEY, p int, up int); CREATE TABLE child (w int) INHERITS (t);
       INSERT INTO p SELECT generate_series(1, 10); INSERT INTO q SELECT 0, 0;
       INSERT INTO t SELECT n, n, n - 1 FROM generate_series(1, 10) n; INSERT INTO child SELECT 0, n, 77, n FROM generate_series(1, 10) n;`,
      `tables: { p: { id: ${kept} }, q: { id: ${kept}, w: ${kept} }, t: { id: ${kept}, p: ${kept}, up: ${kept} }, child: { id: ${kept}, p: ${kept}, up: ${kept}, w: ${kept} } }
references: [{ from: t.p, to: p.id }, { from: t.up, to: t.id }]
subset: { p: { where: 't.id < 6' } }`,
    )
    expect(Object.fromEntries(taken)).toEqual({ p: 5, q: 1, t: 5, child: 10 })
    // Row 1 refers to 0, which exists only in an inheriting table. Every other row refers to its predecessor.
    expect(left).toEqual({ p: 5, q: 1, t: 0, child: 10 })
  })

  it('names each table once in a predicate, even if many references lead to it', { timeout: 60_000 }, async () => {
    const names = Array.from({ length: 16 }, (_, n) => `d${n}`)
    const ddl = names.map((name, n) => {
      const columns = names.slice(0, n).map((to) => `, ${to} int REFERENCES ${to}`)
      return `CREATE TABLE ${name} (id int PRIMARY KEY${columns.join('')}); INSERT INTO ${name} SELECT i${', i'.repeat(n)} FROM generate_series(1, 50) i;`
    })
    const { where, taken, gone } = await subsetOf(
      ddl.join(' '),
      `safe: { foreign-keys: true }\ntables: { ${names.map((name) => `${name}: { id: ${kept} }`).join(', ')} }
subset: { d0: { where: 't.id <= 20' }, d3: { where: 't.id > 10' } }`,
    )
    expect(Math.max(...[...where.values()].map((each) => each.length))).toBeLessThan(60_000)
    expect(names.map((name) => taken.get(name))).toEqual([20, 20, 20, ...Array(13).fill(10)])
    expect(gone.size).toBe(0)
  })

  it('removes a chain of dangling references, but keeps a row that has another parent', {
    timeout: 60_000,
  }, async () => {
    const { left, gone } = await subsetOf(
      `CREATE TABLE c (id int PRIMARY KEY, up text, kind text); INSERT INTO c SELECT n, nullif(n - 1, 0), 'c' FROM generate_series(1, 3000) n;
       INSERT INTO c VALUES (5001, '1', 'other');
       CREATE TABLE d (id int PRIMARY KEY, name text, up text);
       INSERT INTO d VALUES (1, 'a', NULL), (2, 'a', NULL), (3, 'b', 'a'), (4, 'c', 'b'), (5, 'x', 'none'), (6, 'y', 'x'), (7, 'a', NULL);`,
      `tables: { c: { id: ${kept}, kind: ${kept} }, d: { id: ${kept}, name: ${kept}, up: ${kept} } }
references: [{ from: c.up, to: c.id, when: { column: kind, is: c } }, { from: d.up, to: d.name }]
subset: { c: { where: 't.id > 1' }, d: { where: 't.id > 1' } }`,
    )
    expect(left).toEqual({ c: 1, d: 4 })
    expect(Object.fromEntries(gone)).toEqual({ c: 2999, d: 2 })
  })

  it('removes a chain of rows in one pass, and reports a table that has lost most of its rows', {
    timeout: 60_000,
  }, async () => {
    let deletes = 0
    const original = pg.Client.prototype.query
    pg.Client.prototype.query = function (this: pg.Client, ...given: unknown[]) {
      if (String(given[0]).startsWith('DELETE')) deletes++
      return (original as (...args: unknown[]) => unknown).apply(this, given)
    } as typeof original
    const { taken, gone, left } = await subsetOf(
      `CREATE TABLE c (id int PRIMARY KEY, up int); INSERT INTO c SELECT n, nullif(n - 1, 0) FROM generate_series(1, 4000) n;
       INSERT INTO c VALUES (5001, NULL), (5002, 5003), (5003, 5002); ALTER TABLE c ADD FOREIGN KEY (up) REFERENCES c;`,
      `safe: { foreign-keys: true }\ntables: { c: { id: ${kept} } }\nsubset: { c: { where: 't.id > 1' } }`,
    ).finally(() => {
      pg.Client.prototype.query = original
    })
    expect(left).toEqual({ c: 3 })
    expect(deletes).toBe(2)
    expect(lostMost(taken, gone)).toEqual([
      expect.stringMatching(/^c: 3,999 of the 4,002 selected rows .* only 3 were copied/),
    ])
    expect(lostMost(new Map([['c', 10]]), new Map([['c', 5]]))).toEqual([])
  })
})

describe('the search for canaries', () => {
  it('finds them in rows, documents, bytes, files and texts, even across file chunks, and counts what it read', async () => {
    const at = await databases(`${TINY} CREATE SCHEMA other; CREATE TABLE other.t (j jsonb, b bytea);
      INSERT INTO other.t VALUES ('{"a": ["needle one"]}', convert_to('x needle two', 'UTF8'))`)
    const needles = ['needle one', 'needle two', 'needle three', 'Person number 50']
    const inRows = await searchDatabase('rows', at.from, needles)
    expect(inRows).toEqual({ place: 'rows', looked: '51 rows in 2 tables', found: [0, 1, 3] })
    const below = join(folder, 'searched', 'deep')
    mkdirSync(below, { recursive: true })
    writeFileSync(join(below, 'a'), Buffer.concat([Buffer.alloc((8 << 20) - 4), Buffer.from('needle three')]))
    writeFileSync(join(folder, 'searched', 'b'), 'nothing here')
    expect(await searchFiles('files', [join(folder, 'searched')], needles)).toMatchObject({
      found: [2],
      looked: '2 files, 8 MiB',
    })
    expect(await searchFiles('files', [join(folder, 'searched', 'b'), '/not/there'], needles)).toMatchObject({
      found: [],
    })
    expect(searchTexts('texts', ['a needle', ' two', 'needle two'], needles).found).toEqual([1])
  })
})

describe('npm run rehearse -- --mask', () => {
  const rehearse = (args: string[], onText: (text: string, child: ChildProcess) => void = () => {}) =>
    new Promise<{ code: number | null; stdout: string; said: string }>((done, reject) => {
      const child = spawn(process.execPath, ['--import', 'tsx', 'rehearsal/cli/rehearse.ts', '--mask', ...args], {
        cwd: REPO,
        env: { ...process.env, TMPDIR: folder },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      let [stdout, said] = ['', '']
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        stdout += text
      })
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        said += text
        onText(said, child)
      })
      child.on('error', reject)
      child.on('close', (code) => done({ code, stdout, said }))
    })
  const leftovers = () => readdirSync(folder).filter((name) => name.startsWith('molt-actions'))

  it('masks, moves the masked rows under load, and finds no canaries anywhere', { timeout: 300_000 }, async () => {
    const before = leftovers()
    const { code, stdout, said } = await rehearse(['--rows', '3000', '--rate', '30', '--json'])
    expect(code, said).toBe(0)
    const account = JSON.parse(stdout)
    expect(account).toMatchObject({ verdict: 'go', masking: { tables: 20, maskedColumns: 57, needles: 10 } })
    expect(account.tables).toHaveLength(20)
    expect(account.changesStreamed).toBeGreaterThan(0)
    const [control, ...searches] = account.masking.searches as { place: string; looked: string; found: number[] }[]
    expect(control?.found).toHaveLength(10)
    expect(searches.map(({ place }) => place)).toEqual([
      'server logs',
      'rows of the source',
      'rows of the target',
      'WAL of the source, all of it',
      'WAL of the target, all of it',
      'all other files of both',
      'logs, summaries, outputs',
      'evidence, artifacts, work files',
    ])
    for (const { place, looked, found } of searches) {
      expect(found, place).toEqual([])
      expect(looked, place).toMatch(/[1-9]/)
    }
    expect(JSON.parse(readFileSync(account.masking.evidence, 'utf8')).proved).toBe(true)
    expect(readFileSync(account.summary, 'utf8')).toMatch(/Masked and proved/)
    expect(said).toMatch(/\[1\/(\d+)\][\s\S]*\[2\/\1\] Mask[\s\S]*proved \w+: 20 of 20[\s\S]*\[\1\/\1\] Search/)
    expect(leftovers()).toEqual(before)
  })

  it.each([
    ['while production data is being created', /\[1\/\d+\]/, '60000'],
    ['during masking', /molt-actions \S+: mask/, '3000'],
  ])('Ctrl-C %s leaves nothing behind', { timeout: 120_000 }, async (_, moment, rows) => {
    const before = leftovers()
    let interrupted = 0
    const { code, said } = await rehearse(['--rows', rows, '--json'], (text, child) => {
      if (!interrupted && moment.test(text)) interrupted = Number(child.kill('SIGINT'))
    })
    expect(interrupted).toBe(1)
    expect(said).toMatch(/interrupted; nothing is left behind/)
    expect(code).toBe(130)
    expect(leftovers()).toEqual(before)
  })
})

describe('propose', () => {
  it('writes a reason for each rule but no values, and the rules work once they are completed', {
    timeout: 120_000,
  }, async () => {
    const at = await databases()
    await createGrownShop(at.from, 4000)
    const rules = join(folder, 'proposed.yml')
    const result = await run(at, rules, { inputs: { propose: 'true', to: '', 'allow-target': '' } })
    expect(result.log).not.toMatch(/##\[error\]/)
    expect(result.outputs).toMatchObject({ verdict: 'proposed', rules })
    const yaml = readFileSync(rules, 'utf8')
    expect(yaml).toMatch(/^ {4}email: \{ use: email, domain: email \} # text: /m)
    expect(yaml).toMatch(/^ {4}birthday: \{ use: date, days: 60, by: id \}/m)
    expect(yaml).toMatch(/from: login_history\.customer_id, to: customers\.id/)
    expect(yaml).toMatch(/from: comments\.subject_id/)
    expect(yaml).toMatch(/TODO/)
    for (const needle of [...CANARIES, 'Janssens', '@mail.be', 'Belgium']) expect(yaml).not.toContain(needle)
    const again = await run(at, rules, { inputs: { propose: 'true' } })
    expect(again.outputs['error-code']).toBe('mask.file-exists')
    // Only the TODOs keep the proposed rules from working. The plan has no other problems.
    expect((await run(at, rules)).log).toMatch(/tables\.orders\.invoice\.reason: .*TODO/)
    writeFileSync(rules, yaml.replaceAll('TODO', 'decided'))
    const masked = await run(at, rules)
    expect(masked.log).not.toMatch(/columns are not covered by any rule|do not fit the source|rules do not cover/)
    expect(masked.log).toMatch(/ copied in |proved /)
  })
})
