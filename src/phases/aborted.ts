import { readEntry } from '../ledger/ledger.ts'
import { withDatabase } from '../runtime/database.ts'
import { errorCode, messageOf, VerdictError } from '../runtime/errors.ts'
import { TIMING } from '../runtime/timing.ts'

/**
 * Runs a step. If it fails after `abort` or `cleanup` has ended its migration, names that as the cause. The lost hold,
 * missing slot or changed schema that stopped the step is only a consequence.
 * @throws VerdictError `ledger.moved` in that case, otherwise the step's own error
 */
export async function namingAbort<T>(
  { inputs, signal }: { inputs: { target: string }; signal: AbortSignal },
  migration: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (signal.aborted || errorCode(error) === 'ledger.moved' || !(await isAborted(inputs.target, migration)))
      throw error
    throw new VerdictError(
      'ledger.moved',
      `\`abort\` or \`cleanup\` has ended migration \`${migration}\` while this step ran. What stopped this step: ${messageOf(error)}`,
    )
  }
}

/** Whether the migration is aborted or gone; false if the target cannot be read. */
async function isAborted(target: string, migration: string): Promise<boolean> {
  const read = withDatabase(target, 'target', (db) => readEntry(db, migration), AbortSignal.timeout(TIMING.failureKept))
  return read.then(
    (entry) => !entry || entry.phase === 'aborted',
    () => false,
  )
}
