import { openWriteAccess, requireGiven } from '../../destination/write-access.ts'
import type { Entry } from '../../ledger/ledger.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import type { Database } from '../../runtime/database.ts'

/**
 * Gives the application its write access to the target. Repeatable: a resumed run does it again.
 * @throws VerdictError `write-access.missing` that names the missing rights' statements and the way back, whatever the cause
 */
export async function openTarget(target: Database, { plan, facts }: Entry): Promise<void> {
  const given = await openWriteAccess(target, plan.targetSchema, facts.writeAccess ?? [])
  checkpoint('write access open')
  requireGiven(given, plan.targetSchema, {
    code: 'write-access.missing',
    what: 'the migration is committed, but write access to the target could not be given back: the application can write to neither side',
    next: 'Run these statements on the target as an administrator, then run `cutover` again, which retries this and switches. To go back to the source instead, run `rollback`.',
  })
}
