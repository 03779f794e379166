import { info, warning } from '@actions/core'
import { advance, type Entry } from '../../ledger/ledger.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { CancelledError, messageOf } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { endSessions, runCommand } from './commands.ts'
import type { Cutover } from './spec.ts'

/**
 * Switches the application after the commit. Safe to repeat. Until it succeeds, the application cannot write anywhere.
 */
export async function switchOver(
  context: Cutover,
  target: Database,
  entry: Entry,
  signal: AbortSignal,
): Promise<Entry> {
  const { inputs } = context
  if (signal.aborted)
    throw new CancelledError(
      'cancelled.after-commit',
      'the run was cancelled, or lost its hold, after the commit: the source is permanently fenced, and the target has taken over. Run `cutover` again to continue with the switch',
    )
  if (!inputs.switchCommand?.length) {
    tellSwitch()
    await endOld(context)
    context.output('phase', entry.phase)
    return entry
  }
  const took = await runCommand(
    entry,
    {
      words: inputs.switchCommand,
      name: 'switch',
      env: {},
      timeout: inputs.switchTimeout,
      advice: 'The migration stays committed. Fix the switch and run `cutover` again, which repeats only the switch.',
    },
    signal,
  )
  checkpoint('switch command done')
  info(`the switch took ${seconds(took)}; writes to the target were already possible`)
  const switched = await advance(target, entry, 'switched')
  checkpoint('switched')
  context.output('phase', switched.phase)
  await endOld(context)
  return switched
}

export const BY_HAND = `### Switch the application now

The source now refuses writes permanently, and the target accepts them. The application still points at the source.

1. Point the application's connection string at the target, and restart the application or its connection pools.
2. Check that it writes to the target.
3. Run \`finalize\` with \`switched-by-hand: true\` (in the workflow: \`phase: finalize\`).

To go back instead, run \`rollback\` before anything is written to the target.`

function tellSwitch(): void {
  warning('`switch: manual`: point the application at the target now. Until then it cannot write')
  info(BY_HAND)
}

/** Ends the application's sessions on the source. A failure is only a warning: the fence refuses their writes. */
async function endOld({ inputs }: Cutover): Promise<void> {
  const { endSessions: roles } = inputs
  if (!roles?.length) return
  try {
    const ended = await withDatabase(inputs.source, 'source', (source) => endSessions(source, roles))
    info(`ended ${plural(ended, 'session')} of ${roles.join(', ')} on the source`)
  } catch (error) {
    warning(`the application's sessions on the source could not be ended: ${messageOf(error)}`)
  }
}
