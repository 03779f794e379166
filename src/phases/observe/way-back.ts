import { COMMITTED, type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import { clock, number } from '../../runtime/progress.ts'
import { type AfterCommit, type AfterCommitVerdict, afterCommitText, lastAfterCommit } from '../after-commit/result.ts'
import { lastObservation, type Observation } from './observation.ts'
import { gapText, reasonText } from './summary.ts'
import type { Verdict } from './verdict.ts'

/** Whether `cleanup` may close the rollback window, depending on the application's health. */
export type WayBack =
  | { may: 'close' }
  | { may: 'close-with-warning'; what: string[] }
  | { may: 'stay-open'; why: 'missing' | 'degraded'; what: string[] }

/** Decides from the last observation after the commit. */
export function wayBack(observation: Pick<Partial<Observation>, 'verdict' | 'reasons' | 'gaps'> | undefined): WayBack {
  if (observation?.verdict === 'healthy') return { may: 'close' }
  if (observation?.verdict === 'inconclusive')
    return { may: 'close-with-warning', what: (observation.gaps ?? []).map(gapText) }
  if (observation?.verdict === 'degraded')
    return { may: 'stay-open', why: 'degraded', what: (observation.reasons ?? []).map(reasonText) }
  return { may: 'stay-open', why: 'missing', what: ['the application has not been observed since the commit'] }
}

/** How long a rollback remains possible, and the result of the last watch. */
export interface RollbackFacts {
  /** When the window ends, by the target's clock. */
  until: Date
  observed: Verdict | undefined
  /** The result of comparing all rows as of the commit; undefined if they were not compared. */
  compared: AfterCommitVerdict | undefined
  /** Lines for the summary, of one to three sentences each. */
  lines: string[]
}

/**
 * Reads how long a rollback remains possible.
 * @returns undefined for a migration that is not committed
 */
export async function readRollback(
  target: Database,
  entry: Entry,
  windowMs: number,
): Promise<RollbackFacts | undefined> {
  if (!COMMITTED.includes(entry.phase)) return undefined
  const [cutover] = await readEvidence<object>(target, entry.id, 'cutover', 1)
  const compared = await lastAfterCommit(target, entry)
  return rollbackFacts(entry, windowMs, cutover?.ageMs ?? entry.ageMs, await lastObservation(target, entry), compared)
}

/** @param committedForMs milliseconds since the commit, by the target's clock */
export function rollbackFacts(
  entry: Pick<Entry, 'updatedAt' | 'ageMs'>,
  windowMs: number,
  committedForMs: number,
  observation: (Partial<Observation> & { ageMs: number }) | undefined,
  compared?: AfterCommit,
): RollbackFacts {
  const now = entry.updatedAt.getTime() + entry.ageMs
  const until = new Date(entry.updatedAt.getTime() + windowMs)
  const commit = clock(new Date(now - committedForMs))
  const rate = observation?.rowsWrittenPerMinute
  const seen = rate === undefined ? '' : ` During the last watch, ${number(rate)} rows were written per minute.`
  const possible =
    until.getTime() > now
      ? `A rollback is possible until ${clock(until)}.`
      : `The rollback window ended at ${clock(until)}. A rollback is still possible until \`cleanup\` runs.`
  return {
    until,
    observed: observation?.verdict,
    compared: compared?.verdict,
    lines: [
      `${possible} It would lose every write to the target since the commit at ${commit}.${seen}`,
      afterCommitText(compared),
      observation?.verdict
        ? `Last observation: **${observation.verdict}**, ${number(observation.ageMs / 60_000)} min ago.`
        : 'The application has not been observed since the commit. Run `observe`.',
    ],
  }
}
