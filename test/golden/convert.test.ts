// Each rule of the conversion: the exact result for a small schema. `UPDATE_GOLDEN=1 npx vitest run
// test/golden/convert.test.ts` rewrites the results.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { convert } from '../../src/conversion/convert.ts'
import { type Decisions, decisions } from '../../src/conversion/decisions.ts'
import { filesOf, reportOf } from '../../src/conversion/report.ts'
import { RULES } from '../../src/conversion/rules.ts'
import type { Catalog } from '../../src/model/catalog.ts'
import type { Database } from '../../src/runtime/database.ts'
import { readCatalog } from '../../src/sql/catalog.ts'

const FOLDER = join(import.meta.dirname, 'convert')
const UPDATE = process.env.UPDATE_GOLDEN === '1'
const nightly = test.runIf(process.env.MOLT_ACTIONS_NIGHTLY)

let server: EmbeddedServer
let db: pg.Client

beforeAll(async () => {
  server = await startPostgres({ name: 'convert' })
  const admin = new pg.Client(server.url)
  await admin.connect()
  await admin.query("CREATE ROLE app_owner; CREATE ROLE tester LOGIN SUPERUSER PASSWORD 'tester'")
  await admin.end()
  db = new pg.Client(server.url.replace('postgres:postgres@', 'tester:tester@'))
  await db.connect()
})

afterAll(async () => {
  await db?.end()
  await server?.stop()
})

/** Catalog of a database that contains only this case, so that one role owns everything in it. */
async function catalogOf(schema: string, sql: string): Promise<Catalog> {
  const clean = [
    'DROP ACCESS METHOD IF EXISTS hnsw CASCADE',
    'DROP OWNED BY app_owner CASCADE',
    'DROP OWNED BY tester CASCADE',
    'ALTER DATABASE shop RESET ALL',
    'ALTER ROLE app_owner IN DATABASE shop RESET ALL',
  ]
  for (const each of [...clean, 'DROP SCHEMA IF EXISTS public', 'CREATE SCHEMA public']) await db.query(each)
  await db.query(sql)
  return (await readCatalog(db, schema)) as Catalog
}

interface Options {
  target?: string
  schema?: string
  decisions?: Decisions
  /** Collation that replaces the database's own. */
  collation?: string
}

const [TABLES, INDEXES, CONSTRAINTS, MANUAL] = ['1-tables.sql', '2-indexes.sql', '3-constraints.sql', '4-manual.sql']

/** Section → result of a case, without empty files. */
async function resultOf(options: Options, sql: string): Promise<Map<string, string>> {
  const catalog = await catalogOf(options.schema ?? 'public', sql)
  const version = (options.target ?? '25.2').split('.').map(Number) as [number, number]
  const own = decisions.parse(options.decisions ?? { version: 1 })
  const conversion = convert({ ...catalog, collation: options.collation ?? catalog.collation }, version, own)
  const files = filesOf(conversion)
  const results = new Map<string, string>()
  for (const file of [TABLES, INDEXES, CONSTRAINTS, MANUAL] as string[]) {
    // Skips the first line, which is the same in all files.
    const text = (files.get(file) as string).split('\n').slice(2).join('\n')
    if (!text.startsWith('-- Nothing.')) results.set(file, text)
  }
  const findings = reportOf(conversion).findings.map(
    ({ rule, outcome, object, to }) => `${outcome} ${rule}: ${object}${to === null ? '' : ` → ${to}`}`,
  )
  return results.set('findings', `${findings.join('\n')}\n`)
}

/** Converts a database with this many typical tables. @returns the number of queries, and milliseconds */
async function convertMany(count: number) {
  await db.query(`CREATE DATABASE many_${count}`)
  const many = new pg.Client(server.urlOf(`many_${count}`))
  await many.connect()
  try {
    // A single transaction could not lock that many tables.
    await many.query(`DO $$ BEGIN FOR n IN 1..${count} LOOP
      EXECUTE format('CREATE TABLE t%1$s (id bigserial PRIMARY KEY, code text NOT NULL UNIQUE, parent bigint REFERENCES t%1$s,
        total numeric(10,2) CHECK (total >= 0), at timestamptz DEFAULT now())', n);
      EXECUTE format('CREATE INDEX ON t%s (at) WHERE total > 0', n);
      COMMIT; END LOOP; END $$`)
    let queries = 0
    const query = (...given: Parameters<pg.Client['query']>) => {
      queries++
      return many.query(...given)
    }
    const began = performance.now()
    const catalog = (await readCatalog({ query } as unknown as Database, 'public')) as Catalog
    const conversion = convert(catalog, [25, 2])
    const files = filesOf(conversion)
    return { conversion, files, queries, ms: performance.now() - began }
  } finally {
    await many.end()
  }
}

function sections(text: string): Map<string, string> {
  const parts = text.split(/^-- ([\w.-]+) --\n/m).slice(1)
  return new Map(parts.flatMap((name, at) => (at % 2 ? [] : [[name, parts[at + 1] as string] as [string, string]])))
}

const files = readdirSync(FOLDER).filter((name) => name.endsWith('.txt'))

describe('conversion', () => {
  test.each(files)('%s', async (file) => {
    const path = join(FOLDER, file)
    const found = sections(readFileSync(path, 'utf8'))
    const result = await resultOf(parse(found.get('options') ?? '') ?? {}, found.get('source') as string)
    // `type.citext-25.3` is a case of the rule `type.citext`.
    expect(result.get('findings')).toContain(` ${file.slice(0, -4).replace(/-\d+\.\d$/, '')}: `)
    const given = ['options', 'source'].map((name) => [name, found.get(name) ?? ''] as const)
    const text = [...given, ...result].map(([name, body]) => `-- ${name} --\n${body}`).join('')
    if (UPDATE) writeFileSync(path, text)
    else expect(text).toBe(readFileSync(path, 'utf8'))
  })

  test('reads any number of tables in the same number of queries', async () => {
    const [few, more] = [await convertMany(1), await convertMany(40)]
    expect(more.queries).toBe(few.queries)
    expect(more.queries).toBeLessThan(30)
    expect(more.conversion.indexes.length).toBe(40 * few.conversion.indexes.length)
  })

  nightly('converts 2,000 tables in under 10 s', { timeout: 600_000 }, async () => {
    const { conversion, files, ms } = await convertMany(2_000)
    const created = conversion.tables.filter(({ sql }) => sql.startsWith('CREATE TABLE'))
    expect([created.length, conversion.indexes.length, conversion.constraints.length]).toEqual([2_000, 4_000, 8_000])
    expect(files.get('1-tables.sql')?.match(/^CREATE TABLE/gm)).toHaveLength(2_000)
    expect(ms).toBeLessThan(10_000)
  })

  test('covers every rule', () => {
    const covered = new Set(files.map((name) => name.slice(0, -4)))
    const UNREACHABLE = ['foreign-key.match-partial']
    expect(RULES.map(({ id }) => id).filter((id) => !covered.has(id) && !UNREACHABLE.includes(id))).toEqual([])
  })
})
