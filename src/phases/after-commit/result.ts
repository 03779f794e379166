import { addEvidence, type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import { number, plural } from '../../runtime/progress.ts'

/**
 * `equal`: every row of every table. `inconclusive`: nothing differs as far as was compared. `unavailable`: the target
 * is no CockroachDB, and keeps no past.
 */
export type AfterCommitVerdict = 'equal' | 'different' | 'inconclusive' | 'unavailable'

/** Rows of one table that differ, by their number. `missing` on the target, `extraneous` on the source. */
export interface TableDifference {
  table: string
  missing: number
  mismatch: number
  extraneous: number
}

/** Why something was not compared. */
export type AfterCommitGap =
  | { code: 'no-commit-time' | 'not-drained' }
  | { code: 'past-gone'; what: string }
  | { code: 'failed'; what: string }
  | { code: 'table-gone' | 'rows-hidden'; table: string }
  | { code: 'column'; table: string; what: string }

/** What the comparison after the commit found: the frozen source, and the target as of the commit. */
export interface AfterCommit {
  verdict: AfterCommitVerdict
  /** Of the target's clock. */
  asOf?: string
  differences: TableDifference[]
  gaps: AfterCommitGap[]
  tables: number
  /** On the source. */
  rows: number
  durationMs: number
}

const ACTION = 'after-commit'

export async function keepAfterCommit(target: Database, entry: Entry, result: AfterCommit): Promise<void> {
  await addEvidence(target, entry.id, ACTION, { ...result, cursor: entry.facts.cursor })
}

/**
 * The last result for this commit, where there is one that proves something. A later run that could compare less takes
 * nothing back.
 * @returns undefined when there is none, or all are of attempts that were rolled back
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

/** That are read back. */
const RESULTS = 100

/** For people, a line a table or gap. */
export function afterCommitProblems({ differences, gaps }: AfterCommit): string[] {
  return [...differences.map(differenceText), ...gaps.map(gapText)]
}

/** One line. */
export function afterCommitText(result: AfterCommit | undefined): string {
  switch (result?.verdict) {
    case undefined:
      return 'Rows were not compared since the commit. Run `finalize`.'
    case 'equal':
      return `All ${plural(result.tables, 'table')} matched as of the commit, ${number(result.rows)} rows.`
    case 'different':
      return `**Rows differ as of the commit** in ${result.differences.map(({ table }) => `\`${table}\``).join(', ')}.`
    case 'inconclusive':
      return `Not every row was compared as of the commit: ${result.gaps.slice(0, 3).map(gapText).join('; ')}.`
    case 'unavailable':
      return 'Rows cannot be compared as of the commit: the target is not CockroachDB and keeps no past.'
  }
}

export function differenceText({ table, missing, mismatch, extraneous }: TableDifference): string {
  const counts = [
    missing && `${number(missing)} missing on the target`,
    mismatch && `${number(mismatch)} different`,
    extraneous && `${number(extraneous)} on the target alone`,
  ]
  return `${table}: rows ${counts.filter(Boolean).join(', ')}`
}

function gapText(gap: AfterCommitGap): string {
  switch (gap.code) {
    case 'no-commit-time':
      return 'the ledger has no time of the commit'
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
    case 'column':
      return `${gap.table}: ${gap.what}`
  }
}
