import { addEvidence } from '../ledger/ledger.ts'
import type { Failure } from '../runtime/action.ts'
import { withDatabase } from '../runtime/database.ts'
import { TIMING } from '../runtime/timing.ts'

/**
 * Keeps the failure of a step in the ledger, for `status` and the dossier. Only of a step that has read the ledger, so
 * that a target out of reach is not waited for twice. A failure to do so hides nothing: the step is red as it is.
 */
export async function keepFailure(target: string, migration: string, failure: Failure): Promise<void> {
  const signal = AbortSignal.timeout(TIMING.failureKept)
  await withDatabase(target, 'target', (db) => addEvidence(db, migration, 'error', failure), signal).catch(() => {})
}
