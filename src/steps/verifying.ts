import { compareTables } from '../migration/tables.ts'
import type { Database } from '../runtime/database.ts'
import { countRows, readTables } from '../sql/tables.ts'
import type { Plan } from '../target/ledger.ts'
import { parseEvent } from '../tools/events.ts'
import {
  accountForVerify,
  emptyVerifyAccount,
  type TableVerdict,
  verifyArgs,
  verifyProblems,
} from '../tools/molt-verify.ts'
import { Child, freeAddress } from '../tools/process.ts'
import { moltScrubber } from '../tools/scrub.ts'
import { toolHelp } from '../tools/versions.ts'

/** `full` compares every row by molt, `counts` only the numbers of rows, `tables` only the definitions. */
export type VerifyLevel = 'full' | 'counts' | 'tables'

/** What was compared and found; green only when `problems` is empty. */
export interface VerifyReport {
  level: VerifyLevel
  tables: TableVerdict[]
  problems: string[]
  durationMs: number
}

export interface VerifyOptions {
  program: string
  sourceUrl: string
  targetUrl: string
  plan: Plan
  level: VerifyLevel
  logFile: string
  signal: AbortSignal
  concurrency?: number
  onLine?(verdict: TableVerdict): void
}

/** Compares both sides for the expected tables, by what MOLT sees and by what it does not. */
export async function runVerify(source: Database, target: Database, options: VerifyOptions): Promise<VerifyReport> {
  const began = performance.now()
  const { plan, level } = options
  const definitions = await definitionProblems(source, target, plan)
  const missing = new Set(definitions.filter((found) => found.what.includes('is missing')).map((found) => found.table))
  const comparable = plan.tables.filter((table) => !missing.has(`${plan.sourceSchema}.${table}`))
  const problems = definitions.map((found) => `${found.what}; ${found.fix}`)
  const tables = level === 'tables' ? [] : await compareCounts(source, target, plan, comparable)
  problems.push(...tables.flatMap(countProblem))
  if (level !== 'full') return { level, tables, problems, durationMs: since(began) }
  const molt = await runMoltVerify(options)
  problems.push(...molt.problems)
  for (const verdict of molt.tables) {
    const counted = tables.find((table) => table.name === verdict.name)
    if (counted && counted.rows !== verdict.rows)
      problems.push(`${verdict.name}: molt verify saw ${verdict.rows} rows, but the source has ${counted.rows}`)
  }
  return { level, tables: molt.tables, problems: [...new Set(problems)], durationMs: since(began) }
}

/** Definitions that differ between the expected tables of both sides now. */
export async function definitionProblems(source: Database, target: Database, plan: Plan) {
  const [here, there] = await Promise.all([
    readTables(source, plan.sourceSchema),
    readTables(target, plan.targetSchema),
  ])
  const byName = new Map(here.map((table) => [table.name, table]))
  const gone = plan.tables
    .filter((name) => !byName.has(name))
    .map((name) => ({
      table: `${plan.sourceSchema}.${name}`,
      what: `${plan.sourceSchema}.${name} is missing on the source`,
      fix: 'it was an expected table; start a new migration if that is meant',
    }))
  const expected = plan.tables.flatMap((name) => byName.get(name) ?? [])
  return [...gone, ...compareTables(expected, there)]
}

async function compareCounts(
  source: Database,
  target: Database,
  plan: Plan,
  names: readonly string[],
): Promise<TableVerdict[]> {
  const verdicts: TableVerdict[] = []
  for (const name of names) {
    const [here, there] = await Promise.all([
      countRows(source, plan.sourceSchema, name),
      countRows(target, plan.targetSchema, name),
    ])
    const verdict = { name, rows: here, missing: Math.max(0, here - there), extraneous: Math.max(0, there - here) }
    verdicts.push({ ...verdict, mismatch: 0, columnMismatch: 0, shardsFinished: 0, shardsTotal: 0 })
  }
  return verdicts
}

function countProblem(verdict: TableVerdict): string[] {
  const { name, rows, missing, extraneous } = verdict
  if (!missing && !extraneous) return []
  return [`${name}: the source has ${rows} rows and the target ${rows - missing + extraneous}`]
}

async function runMoltVerify(options: VerifyOptions): Promise<{ tables: TableVerdict[]; problems: string[] }> {
  const { plan } = options
  const account = emptyVerifyAccount()
  const request = {
    source: options.sourceUrl,
    target: options.targetUrl,
    schema: plan.sourceSchema,
    tables: plan.tables,
    concurrency: options.concurrency,
    metricsAddr: await freeAddress(),
  }
  const child = new Child({
    program: options.program,
    args: verifyArgs(request, await toolHelp(options.program, 'verify')),
    logFile: options.logFile,
    scrub: moltScrubber(),
    hidePasswords: true,
    onLine(line) {
      const event = parseEvent(line)
      if (event) accountForVerify(account, event)
    },
  })
  const cancel = () => void child.stop(1_000)
  options.signal.addEventListener('abort', cancel, { once: true })
  const exit = await child.exited
  options.signal.removeEventListener('abort', cancel)
  options.signal.throwIfAborted()
  if (exit.code !== 0) throw child.failure(child.lastError)
  return { tables: [...account.tables.values()], problems: verifyProblems(account, plan.tables) }
}

function since(began: number): number {
  return Math.round(performance.now() - began)
}
