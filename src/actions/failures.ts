import { addEvidence } from '../ledger/ledger.ts'
import type { Failure } from '../runtime/action.ts'
import { withDatabase } from '../runtime/database.ts'
import { TIMING } from '../runtime/timing.ts'

/**
 * Keeps the failure of a step in the ledger, for `status` and the dossier. Only for a step that has read the ledger, so
 * that an unreachable target does not cost two waits. If this fails too, the step still reports its own failure.
 */
export async function keepFailure(target: string, migration: string, failure: Failure): Promise<void> {
  const signal = AbortSignal.timeout(TIMING.failureKept)
  await withDatabase(target, 'target', (db) => addEvidence(db, migration, 'error', failure), signal).catch(() => {})
}
