import { addEvidence, type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import { number, plural } from '../../runtime/progress.ts'

/**
 * `equal`: every row of every table matched. `inconclusive`: no row differed, but not every row was compared.
 * `unavailable`: the target is not CockroachDB and keeps no history.
 */
export type AfterCommitVerdict = 'equal' | 'different' | 'inconclusive' | 'unavailable'

/**
 * Number of rows that differ in a table: `missing` on the target, `mismatch` in their values, or `extraneous`, which
 * means only on the target.
 */
export interface TableDifference {
  table: string
  missing: number
  mismatch: number
  extraneous: number
}

/** Why rows were not compared or could not be proved equal. */
export type AfterCommitGap =
  | { code: 'no-commit-time' | 'not-drained' }
  | { code: 'past-gone'; what: string }
  | { code: 'failed'; what: string }
  | { code: 'table-gone' | 'rows-hidden'; table: string }
  | { code: 'column-gone'; table: string; column: string }
  | { code: 'column'; table: string; what: string }

/** The result of comparing the fenced source with the target as of the commit. */
export interface AfterCommit {
  verdict: AfterCommitVerdict
  /** Timestamp of the target at which it was read. */
  asOf?: string
  differences: TableDifference[]
  gaps: AfterCommitGap[]
  tables: number
  /** Number of rows on the source. */
  rows: number
  durationMs: number
}

const ACTION = 'after-commit'

export async function keepAfterCommit(target: Database, entry: Entry, result: AfterCommit): Promise<void> {
  await addEvidence(target, entry.id, ACTION, { ...result, cursor: entry.facts.cursor })
}

/**
 * The latest conclusive result for this commit. If there is none, the latest result. An inconclusive later run does not
 * replace a conclusive result.
 * @returns undefined if there is no result, or only results for commits that were rolled back
 */
export async function lastAfterCommit(target: Database, { id, facts }: Entry): Promise<AfterCommit | undefined> {
  const kept = await readEvidence<AfterCommit & { cursor?: string }>(target, id, ACTION, RESULTS)
  const results = kept
    .map(({ body }) => body)
    .filter(({ cursor, asOf }) => cursor === facts.cursor && asOf === facts.commitTime?.asOf)
  return (results.find(({ verdict }) => verdict === 'equal' || verdict === 'different') ?? results[0]) as
    | AfterCommit
    | undefined
}

/** Maximum number of results to read from the ledger. */
const RESULTS = 100

/**
 * Whether nothing is left to compare: every row is equal, only `molt verify` can compare the rest, or the target keeps
 * no history.
 */
export function isCompared({ verdict, gaps }: AfterCommit): boolean {
  if (verdict === 'inconclusive') return gaps.every(({ code }) => code === 'column')
  return verdict !== 'different'
}

/** One line for each table with differences, and for each gap. */
export function afterCommitProblems({ differences, gaps }: AfterCommit): string[] {
  return [...differences.map(differenceText), ...gaps.map(gapText)]
}

/** The result in one line. */
export function afterCommitText(result: AfterCommit | undefined): string {
  switch (result?.verdict) {
    case undefined:
      return 'Rows have not been compared since the commit. Run `finalize`.'
    case 'equal':
      return `All ${plural(result.tables, 'table')} matched as of the commit, ${number(result.rows)} rows.`
    case 'different':
      return `**Rows differ as of the commit** in ${result.differences.map(({ table }) => `\`${table}\``).join(', ')}.`
    case 'inconclusive':
      return `Not every row was compared as of the commit: ${result.gaps.slice(0, 3).map(gapText).join('; ')}.`
    case 'unavailable':
      return 'Rows cannot be compared as of the commit: the target is not CockroachDB and keeps no history.'
  }
}

export function differenceText({ table, missing, mismatch, extraneous }: TableDifference): string {
  const counts = [
    missing && `${number(missing)} missing on the target`,
    mismatch && `${number(mismatch)} different`,
    extraneous && `${number(extraneous)} only on the target`,
  ]
  return `${table}: rows ${counts.filter(Boolean).join(', ')}`
}

function gapText(gap: AfterCommitGap): string {
  switch (gap.code) {
    case 'no-commit-time':
      return 'the ledger does not have the time of the commit'
    case 'not-drained':
      return "the drain's heartbeat was not on the target at the commit"
    case 'past-gone':
      return `the target no longer keeps the state of the commit (${gap.what})`
    case 'failed':
      return `the rows could not be hashed (${gap.what})`
    case 'table-gone':
      return `${gap.table} is missing on one side`
    case 'rows-hidden':
      return `row-level security on the target hides rows of ${gap.table} from this role`
    case 'column-gone':
      return `${gap.table}: the target no longer has the column ${gap.column}`
    case 'column':
      return `${gap.table}: ${gap.what}`
  }
}
