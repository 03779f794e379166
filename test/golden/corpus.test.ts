// Each schema of the corpus: its conversion, the findings of `prepare`, and that the target accepts every statement.
import { writeFileSync } from 'node:fs'
import pg from 'pg'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { runChecks } from '../../src/checks/check.ts'
import { CHECKS } from '../../src/checks/index.ts'
import { convert } from '../../src/conversion/convert.ts'
import { filesOf, reportOf } from '../../src/conversion/report.ts'
import type { Conversion } from '../../src/conversion/work.ts'
import type { Catalog } from '../../src/model/catalog.ts'
import { readCatalog } from '../../src/sql/catalog.ts'
import { ANALYZE_TABLES, factsOf } from '../contract/checks-helpers.ts'
import { type Case, corpus } from '../corpus/corpus.ts'
import { type Servers, startServers } from '../support/servers.ts'

const UPDATE = process.env.UPDATE_GOLDEN === '1'

let pair: Servers
let source: pg.Client
let target: pg.Client

beforeAll(async () => {
  pair = await startServers()
  source = new pg.Client(pair.source.url)
  target = new pg.Client(pair.target.url)
  await Promise.all([source.connect(), target.connect()])
})

afterAll(async () => {
  await Promise.all([source?.end(), target?.end()])
  await pair?.stop()
})

function* goldens(conversion: Conversion): Iterable<[string, string]> {
  for (const [file, text] of filesOf(conversion)) {
    // Skips the first line, which is the same in all files.
    const body = text.split('\n').slice(2).join('\n')
    if (file.endsWith('.sql') && !body.startsWith('-- Nothing.')) yield [file, body]
  }
  const { findings } = reportOf(conversion)
  // The statements already show what is the same on both sides.
  const told = findings.filter(({ outcome }) => outcome !== 'same')
  yield [
    'convert',
    told
      .map(({ rule, outcome, object, to }) => `${outcome} ${rule}: ${object}${to === null ? '' : ` → ${to}`}\n`)
      .join(''),
  ]
}

/** The findings of `prepare` about the schema, without those about a server or a tool. */
async function findings({ schema, exclude }: Case, { tables }: Catalog): Promise<string> {
  const moved = tables.filter(({ name, isPartition }) => !isPartition && !exclude.includes(name))
  const facts = await factsOf(
    { source: pair.source.url, target: pair.target.url },
    {
      ...{ schema, targetSchema: schema, tables: moved.map(({ name }) => name) },
      defer: { indexes: true, constraints: true },
    },
  )
  return runChecks(CHECKS, facts)
    .filter(({ check, object }) => /^(tbl|typ|dat|use|tgt)\./.test(check) && !/^(source|target)$/.test(object))
    .map(({ check, severity, object }) => `${severity} ${check}: ${object}\n`)
    .sort()
    .join('')
}

test.each(corpus.map((each) => [each.name, each] as const))('%s', async (_, each) => {
  await source.query(`CREATE SCHEMA ${each.schema}; SET search_path = ${each.schema}; ${each.source}`)
  await source.query(`${each.rows}; ${ANALYZE_TABLES}`)
  const catalog = (await readCatalog(source, each.schema)) as Catalog
  const conversion = convert(catalog, [25, 2])
  for (const { sql } of [...conversion.tables, ...conversion.indexes, ...conversion.constraints])
    await target.query(sql).catch((error) => expect.fail(`${error.message}\n${sql}`))
  const results = new Map([...goldens(conversion), ['prepare', await findings(each, catalog)] as const])
  // Tables left here would be findings of the next schema.
  await source.query(`DROP SCHEMA ${each.schema} CASCADE`)
  if (UPDATE) writeFileSync(each.path, each.head + [...results].map(([key, text]) => `-- ${key} --\n${text}`).join(''))
  else expect(Object.fromEntries(results)).toEqual(Object.fromEntries(each.goldens))
})
