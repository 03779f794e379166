import type { Exported } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import { byName } from '../../model/records.ts'
import { type Database, unhurried } from '../../runtime/database.ts'
import { number } from '../../runtime/progress.ts'
import { holdsStandingRow } from '../../source/standing.ts'
import { readTableNames } from '../../sql/names.ts'
import { countRows } from '../../sql/tables.ts'
import type { FetchAccount } from '../../tools/molt-fetch.ts'

/** Table → number of rows on the target. */
export type Arrived = Record<string, number>

/** The number of rows that molt has reported as read so far. */
export function readSoFar(account: FetchAccount): Exported {
  const named = Object.entries(account.tables).filter(([, { exported }]) => exported !== undefined)
  return {
    tables: Object.fromEntries(named.map(([table, { exported }]) => [table, exported as number])),
    total: account.exportedRows,
  }
}

/** The number of rows read, once every table is completely read; undefined before that. */
export function everythingRead(account: FetchAccount, plan: Plan): Exported | undefined {
  return account.exportsFinished < plan.tables.length ? undefined : readSoFar(account)
}

/** Counts the rows on the target. Molt's own numbers are not proof. */
export async function countArrived(target: Database, plan: Plan): Promise<Arrived> {
  const arrived: Arrived = byName()
  const there = new Set((await readTableNames(target)).map(({ schema, name }) => `${schema}.${name}`))
  await unhurried(target, async () => {
    for (const table of plan.tables)
      if (there.has(`${plan.targetSchema}.${table}`)) arrived[table] = await countRows(target, plan.targetSchema, table)
  })
  return arrived
}

/**
 * Finds empty tables that had rows on the source before the load. Molt's numbers alone would not show a table that molt
 * never read.
 */
export async function unreadProblems(source: Database, plan: Plan, arrived: Arrived, since: string): Promise<string[]> {
  const problems: string[] = []
  for (const table of plan.tables)
    if (arrived[table] === 0 && (await holdsStandingRow(source, plan.sourceSchema, table, since)))
      problems.push(`${table}: no rows were loaded, although the source had rows before the load`)
  return problems
}

/** Tables with more or fewer rows than molt has read. Skips tables for which molt reports no number. */
export function partTables(plan: Plan, read: Exported, arrived: Arrived): string[] {
  return plan.tables.filter((table) => read.tables[table] !== undefined && read.tables[table] !== arrived[table])
}

/**
 * Compares the number of rows on the target with the number read from the source. Compares per table if molt reports a
 * number for it, and the total for all other tables.
 */
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
