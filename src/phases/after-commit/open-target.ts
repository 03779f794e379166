import { openWriteAccess, requireGiven } from '../../destination/write-access.ts'
import type { Entry } from '../../ledger/ledger.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import type { Database } from '../../runtime/database.ts'

/**
 * Grants the application write access to the target. A resumed run repeats this.
 * @throws VerdictError `write-access.missing` that lists the GRANT statements still needed, and how to roll back
 */
export async function openTarget(target: Database, { plan, facts }: Entry): Promise<void> {
  const given = await openWriteAccess(target, plan.targetSchema, facts.writeAccess ?? [])
  checkpoint('write access open')
  requireGiven(given, plan.targetSchema, {
    code: 'write-access.missing',
    what: 'the migration is committed, but write access to the target could not be restored: the application can write to neither side',
    next: 'Run these statements on the target as an administrator, then rerun `cutover` to finish the switch. To go back to the source instead, run `rollback`.',
  })
}
