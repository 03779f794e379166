import { warning } from '@actions/core'
import { readShortestRetention } from '../../destination/retention.ts'
import { readTarget } from '../../destination/server.ts'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import { readCommitTime } from '../../phases/after-commit/commit-time.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import { type Database, ident, qualified } from '../../runtime/database.ts'
import { messageOf, VerdictError } from '../../runtime/errors.ts'
import { minutes } from '../../runtime/progress.ts'
import type { Cutover } from './spec.ts'

/** Milliseconds allowed before `finalize` starts: time for a manual switch and for queued runners. */
const UNTIL_FINALIZE = 15 * 60_000
/** The comparison may take this many times as long as the last verify, because the application is running. */
const SLOWER = 3

/** Seconds for which the target must keep the history of its rows after the commit. */
export function retentionNeeded(comparisonMs: number): number {
  return Math.ceil((UNTIL_FINALIZE + SLOWER * comparisonMs) / 1000)
}

/**
 * Checks before a commit that `finalize` will be able to compare rows as they were at the commit.
 * @throws VerdictError when the target drops its history too soon, or does not report its clock. A rehearsal only warns
 */
export async function requirePast(
  { inputs }: Cutover,
  { entry, target, verified }: { entry: Entry; target: Database; verified: VerifyReport | undefined },
): Promise<void> {
  if (!(await readTarget(target)).isCockroach) return
  const refused = (error: VerdictError) => {
    if (inputs.decision === 'commit') throw error
    warning(error.message)
  }
  const { targetSchema, tables } = entry.plan
  await readCommitTime(target, targetSchema, undefined).catch((error) =>
    refused(
      new VerdictError(
        'commit.no-timestamp',
        `the target does not report its clock (${messageOf(error)}), so \`finalize\` could not compare rows as they were at the commit. If the role's transactions are not serializable, run \`ALTER ROLE ${ident(target.user ?? '')} SET default_transaction_isolation = 'serializable';\` on the target`,
      ),
    ),
  )
  const shortest = await readShortestRetention(target, targetSchema, tables)
  if (!shortest)
    return warning(
      'The migration role cannot read `gc.ttlseconds` on the target, so it is unknown how long `finalize` can compare rows as they were at the commit.',
    )
  const needed = retentionNeeded(verified?.durationMs ?? (await lastVerifyMs(target, entry)))
  if (shortest.seconds >= needed) return
  const table = qualified(targetSchema, shortest.table)
  refused(
    new VerdictError(
      'commit.retention-short',
      `the target keeps the history of ${shortest.table} for ${minutes(shortest.seconds * 1000)}, but the comparison after the commit may need ${minutes(needed * 1000)}. Run \`ALTER TABLE ${table} CONFIGURE ZONE USING gc.ttlseconds = ${needed}\`, or set the same for its database, and keep it until the migration is finalized`,
    ),
  )
}

async function lastVerifyMs(target: Database, { id }: Entry): Promise<number> {
  const [last] = await readEvidence<VerifyReport>(target, id, 'verify', 1)
  return last?.body.durationMs ?? 0
}
