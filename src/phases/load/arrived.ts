import type { Exported } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import { byName } from '../../model/records.ts'
import { type Database, unhurried } from '../../runtime/database.ts'
import { number } from '../../runtime/progress.ts'
import { holdsStandingRow } from '../../source/standing.ts'
import { readTableNames } from '../../sql/names.ts'
import { countRows } from '../../sql/tables.ts'
import type { FetchAccount } from '../../tools/molt-fetch.ts'

/** Table → rows on the target. */
export type Arrived = Record<string, number>

/** The rows that molt reports as read so far. */
export function readSoFar(account: FetchAccount): Exported {
  const named = Object.entries(account.tables).filter(([, { exported }]) => exported !== undefined)
  return {
    tables: Object.fromEntries(named.map(([table, { exported }]) => [table, exported as number])),
    total: account.exportedRows,
  }
}

/** The rows that were read, once every table is read completely; undefined before that. */
export function everythingRead(account: FetchAccount, plan: Plan): Exported | undefined {
  return account.exportsFinished < plan.tables.length ? undefined : readSoFar(account)
}

/** Counts the rows on the target, because molt's own numbers prove nothing. */
export async function countArrived(target: Database, plan: Plan): Promise<Arrived> {
  const arrived: Arrived = byName()
  const there = new Set((await readTableNames(target)).map(({ schema, name }) => `${schema}.${name}`))
  await unhurried(target, async () => {
    for (const table of plan.tables)
      if (there.has(`${plan.targetSchema}.${table}`)) arrived[table] = await countRows(target, plan.targetSchema, table)
  })
  return arrived
}

/** Finds empty tables that had rows on the source before the load, in case molt has read nothing and reports so. */
export async function unreadProblems(source: Database, plan: Plan, arrived: Arrived, since: string): Promise<string[]> {
  const problems: string[] = []
  for (const table of plan.tables)
    if (arrived[table] === 0 && (await holdsStandingRow(source, plan.sourceSchema, table, since)))
      problems.push(`${table}: no row was moved, although the source had rows before the load`)
  return problems
}

/** Tables with more or fewer rows than molt has read, where molt reports that by table. */
export function partTables(plan: Plan, read: Exported, arrived: Arrived): string[] {
  return plan.tables.filter((table) => read.tables[table] !== undefined && read.tables[table] !== arrived[table])
}

/** Compares arrived rows with the rows read from the source: by table where molt reports that, else in total. */
export function arrivedProblems(plan: Plan, read: Exported, arrived: Arrived): string[] {
  const problems = partTables(plan, read, arrived).map(
    (table) =>
      `${table}: exported ${number(read.tables[table] ?? 0)}, but the target holds ${number(arrived[table] ?? 0)} rows`,
  )
  const sum = (of: Record<string, number>, tables: readonly string[]) =>
    tables.reduce((total, table) => total + (of[table] ?? 0), 0)
  const rest = read.total - sum(read.tables, plan.tables)
  const unnamed = sum(
    arrived,
    plan.tables.filter((table) => read.tables[table] === undefined),
  )
  if (unnamed !== rest) problems.push(`exported ${number(rest)}, but the target's tables hold ${number(unnamed)} rows`)
  return problems
}
