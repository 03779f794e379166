import { addEvidence } from '../ledger/ledger.ts'
import type { Failure } from '../runtime/action.ts'
import { withDatabase } from '../runtime/database.ts'
import { TIMING } from '../runtime/timing.ts'

/**
 * Records a step's failure in the ledger, for `status` and the dossier. Call it only once the step has read the ledger,
 * so that an unreachable target does not cost a second timeout. Ignores its own errors.
 */
export async function keepFailure(target: string, migration: string, failure: Failure): Promise<void> {
  const signal = AbortSignal.timeout(TIMING.failureKept)
  await withDatabase(target, 'target', (db) => addEvidence(db, migration, 'error', failure), signal).catch(() => {})
}
