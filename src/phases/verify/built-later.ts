import { listAwaited } from '../../destination/deferral.ts'
import { COMMITTED, type Entry } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import type { VerifyOptions } from './verify.ts'

/** Definitions that the target may still lack in this phase, because a later step builds them. */
export async function builtLater(
  target: Database,
  { id, phase }: Entry,
): Promise<Pick<VerifyOptions, 'deferred' | 'uncommitted'>> {
  return { deferred: await listAwaited(target, id), uncommitted: !COMMITTED.includes(phase) }
}
