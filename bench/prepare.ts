/**
 * Measures the time and memory that the preflight needs for very many tables: `npx tsx bench/prepare.ts [tables]
 * [columns]`. Fills two embedded servers, then measures a separate process, to exclude this process's memory. That
 * process runs a bundle, like the actions, to exclude a compiler's memory.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import pg from 'pg'
import { startPair } from '../rehearsal/postgres/postgres.ts'
import { runChecks } from '../src/checks/check.ts'
import { assess } from '../src/checks/facts/gather.ts'
import { CHECKS } from '../src/checks/index.ts'
import { fingerprint, packFingerprint } from '../src/model/fingerprint.ts'
import { exactFilter } from '../src/model/tables.ts'
import { collect } from './figures.ts'

const TABLES_AT_ONCE = 250

async function fill(url: string, tables: number, columns: number): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    for (let from = 0; from < tables; from += TABLES_AT_ONCE)
      await client.query(`DO $$ BEGIN FOR n IN ${from}..${Math.min(from + TABLES_AT_ONCE, tables) - 1} LOOP
        EXECUTE format('CREATE TABLE table_%s (id bigint PRIMARY KEY, %s)', n, (SELECT string_agg(format('column_%s %s', c,
          (ARRAY['text NOT NULL', 'numeric(12,2) DEFAULT 0', 'timestamptz', 'integer[]', 'jsonb', 'boolean'])[1 + c % 6]), ', ')
          FROM generate_series(2, ${columns}) c)); END LOOP; END $$`)
  } finally {
    await client.end()
  }
}

/** Records the longest statements, to show where the time goes. */
function timeQueries(): () => string {
  const slow: { ms: number; sql: string }[] = []
  const original = pg.Client.prototype.query
  pg.Client.prototype.query = async function (this: pg.Client, ...given: unknown[]) {
    const began = performance.now()
    const result = await (original as (...args: unknown[]) => Promise<unknown>).apply(this, given)
    const text = typeof given[0] === 'string' ? given[0] : (given[0] as { text: string }).text
    slow.push({ ms: performance.now() - began, sql: text.trim().replace(/\s+/g, ' ').slice(0, 90) })
    return result
  } as unknown as typeof original
  return () =>
    slow
      .sort((a, b) => b.ms - a.ms)
      .slice(0, 8)
      .map((each) => `  ${seconds(each.ms)} ${each.sql}`)
      .join('\n')
}

/** Runs one preflight and prints a line with its cost. */
async function measure(source: string, target: string): Promise<void> {
  const slowest = timeQueries()
  const began = performance.now()
  const facts = await assess({
    sourceUrl: source,
    targetUrl: target,
    choose: ({ tables }) => {
      const names = tables.map((table) => table.name)
      return { tables: names, filter: exactFilter(names) }
    },
    settings: {
      migration: 'bench',
      phase: undefined,
      schema: 'public',
      targetSchema: 'public',
      asked: undefined,
      slot: 'molt_slot',
      publication: 'molt_fetch',
      rehearses: true,
      writeAccess: 'close',
      defer: { indexes: false, constraints: false },
      trial: 'forms',
      tableHandling: 'none',
      bucketPath: undefined,
      mode: undefined,
      implicitAccess: undefined,
      tableConcurrency: 4,
      exportConcurrency: 4,
      rowBatchSize: 100_000,
      loadRate: 20 * 2 ** 20,
      jobLimit: 6 * 3_600_000,
      sessionLimit: undefined,
      longTransaction: 300_000,
    },
    // Sampling always uses up its time limit, which would hide the cost of everything else.
    sampleMs: 0,
  })
  const gathered = performance.now()
  const findings = runChecks(CHECKS, facts)
  const checked = performance.now()
  const kept = packFingerprint(fingerprint(facts.source.schema, facts.settings.tables))
  const columns = facts.source.schema.tables.reduce((sum, table) => sum + table.columns.length, 0)
  console.log(
    `${facts.settings.tables.length} tables, ${columns} columns: ${seconds(gathered - began)} for the facts, ${seconds(
      checked - gathered,
    )} for ${CHECKS.length} checks (${findings.length} findings), ${Math.round(process.resourceUsage().maxRSS / 1024)} MB at most, ${seconds(process.cpuUsage().user / 1000)} of this process's own time, fingerprint ${Math.round(kept.objects.length / 1024)} KiB`,
  )
  console.log(slowest())
  collect({
    name: 'preflight',
    unit: 's',
    values: [(checked - began) / 1000],
    goal: { most: 10 },
    work: { of: 'tables', amount: facts.settings.tables.length },
  })
}

const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`

async function measureBundled(source: string, target: string): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-prepare-'))
  const outfile = join(folder, 'bench.cjs')
  try {
    await build({
      entryPoints: [process.argv[1] as string],
      bundle: true,
      platform: 'node',
      format: 'cjs',
      outfile,
      logLevel: 'error',
      external: ['pg-native', 'esbuild'],
      logOverride: { 'empty-import-meta': 'silent' },
    })
    const run = spawnSync(process.execPath, [outfile, '--measure', source, target], {
      stdio: 'inherit',
      env: { ...process.env, NODE_PATH: 'node_modules' },
    })
    return run.status ?? 1
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function main(): Promise<void> {
  const [first, source = '', target = ''] = process.argv.slice(2)
  if (first === '--measure') return measure(source, target)
  if (first === '--on') {
    process.exitCode = await measureBundled(source, target)
    return
  }
  const [tables = 10_000, columns = 10] = process.argv.slice(2).map(Number)
  const pair = await startPair({ settings: { max_locks_per_transaction: 1024 } })
  try {
    await Promise.all([fill(pair.source.url, tables, columns), fill(pair.target.url, tables, columns)])
    process.exitCode = await measureBundled(pair.source.url, pair.target.url)
  } finally {
    await pair.stop()
  }
}

void main()
