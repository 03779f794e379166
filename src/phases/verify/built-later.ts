import { listAwaited } from '../../destination/deferral.ts'
import { COMMITTED, type Entry } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import type { VerifyOptions } from './verify.ts'

/**
 * Options for a verify in the migration's current phase: which definitions a later step builds, so that the target may
 * still lack them, and whether the commit is still to come.
 */
export async function builtLater(
  target: Database,
  { id, phase }: Entry,
): Promise<Pick<VerifyOptions, 'deferred' | 'uncommitted'>> {
  return { deferred: await listAwaited(target, id), uncommitted: !COMMITTED.includes(phase) }
}
