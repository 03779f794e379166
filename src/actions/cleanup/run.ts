import { info, warning } from '@actions/core'
import { DECIDED, type Entry, PHASES, readEntryIfAny } from '../../ledger/ledger.ts'
import { afterCommitProblems, afterCommitText, isCompared, lastAfterCommit } from '../../phases/after-commit/result.ts'
import {
  type Leftover,
  leftoversOnSource,
  leftoversOnTarget,
  requireGone,
  requireOwner,
  restoreOrTell,
  tellFiles,
} from '../../phases/cleanup/leftovers.ts'
import { lookAtFence } from '../../phases/cutover/held-fence.ts'
import { lastObservation } from '../../phases/observe/observation.ts'
import { wayBack } from '../../phases/observe/way-back.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { readFence } from '../../source/fence.ts'
import { withBoth } from '../shared.ts'
import { spec } from './spec.ts'

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context, async (source, target) => {
      const { migration, dryRun } = context.inputs
      const entry = await readEntryIfAny(target, migration)
      await requireOurs(source, migration, entry)
      requireWindowOver(entry, context.inputs.rollbackWindow)
      await requireCompared(context, target, entry)
      await requireObserved(context, target, entry)
      await tellWrites(source, entry)
      const onSource = () => leftoversOnSource(source, entry?.plan, true)
      const onTarget = () => leftoversOnTarget(target, migration, entry)
      // Clean the source first: its slot fills the disk, and rebuilding indexes may leave a cancelled job no time for
      // it.
      const found = await takeAway(await onSource(), dryRun)
      if (!dryRun) await restoreOrTell(target, migration, context.inputs.restore)
      found.push(...(await takeAway(await onTarget(), dryRun)))
      if (!dryRun) requireGone([...(await onSource()), ...(await onTarget())], 'cleanup')
      const names = JSON.stringify(found.map(({ name }) => name))
      context.output('dropped', dryRun ? '[]' : names)
      context.output('would-drop', dryRun ? names : '[]')
      context.output('files-left', JSON.stringify(tellFiles(entry)))
      context.summary(
        `### Cleanup\n\n${found.map(({ name }) => `- ${dryRun ? 'would drop' : 'dropped'} ${name}`).join('\n') || 'Nothing remains of this migration.'}`,
      )
    }),
}

async function takeAway(leftovers: Leftover[], dryRun: boolean): Promise<Leftover[]> {
  for (const { name, drop } of leftovers) {
    info(`${dryRun ? 'would drop' : 'dropping'} ${name}`)
    if (!dryRun) await drop()
  }
  return leftovers
}

async function requireOurs(source: Database, migration: string, entry: Entry | undefined): Promise<void> {
  await requireOwner(source, migration)
  const { state } = await readFence(source)
  if (state === 'permanent' && !entry)
    throw new VerdictError(
      'fence.permanent-without-commit',
      'the source is permanently fenced, but the ledger has no entry for this migration. Find out which database the application uses. Without the fence, both sides could accept writes',
    )
  // A ledger from before the commit, such as a restored backup, must not make the old database writable again.
  if (state === 'permanent' && entry && PHASES.indexOf(entry.phase) < PHASES.indexOf('committing'))
    throw new VerdictError(
      'fence.permanent-without-commit',
      `the source is permanently fenced, but migration \`${migration}\` is ${entry.phase} in the ledger: either its cutover never committed, or the ledger is outdated. Find out which database the application uses. Without the fence, both sides could accept writes`,
    )
  if (state === 'armed')
    throw new VerdictError(
      'cleanup.fence-armed',
      'the fence is armed, so a cutover is in progress. Wait until it ends, or lift the fence with `fence`',
    )
}

/**
 * Requires that the rows have been compared since the commit. Once the fence is gone, neither a comparison nor a
 * rollback is possible.
 */
async function requireCompared({ inputs }: Context<typeof spec>, target: Database, entry: Entry | undefined) {
  if (entry?.phase !== 'switched' && entry?.phase !== 'finalized') return
  const last = await lastAfterCommit(target, entry)
  if (last?.verdict === 'equal') return
  const what = last ? afterCommitProblems(last) : ['`finalize` has not compared rows since the commit']
  if (inputs.waive?.includes('compare') || (last && isCompared(last)))
    return warning(
      `${inputs.waive?.includes('compare') ? '`waive: compare`. ' : ''}${afterCommitText(last)} ${what.slice(0, 5).join('; ')}`,
    )
  const differ = last?.verdict === 'different'
  refuse(
    differ ? 'cleanup.rows-differ' : 'cleanup.not-compared',
    differ ? 'rows differed at the commit' : 'not every row has been compared since the commit',
    what,
    differ
      ? 'Roll back, or restore the rows by hand from the fenced source and set `waive: compare`. Nothing was dropped.'
      : 'Run `finalize` to compare them, or set `waive: compare`. Nothing was dropped.',
  )
}

/** Requires that the application is healthy after a commit, because a cleanup rules out a rollback. */
async function requireObserved({ inputs }: Context<typeof spec>, target: Database, entry: Entry | undefined) {
  if (entry?.phase !== 'switched' && entry?.phase !== 'finalized') return
  const found = wayBack(await lastObservation(target, entry))
  if (found.may === 'close') return
  if (inputs.waive?.includes('observe') || found.may === 'close-with-warning')
    return warning(
      `${found.may === 'stay-open' ? '`waive: observe`' : 'The last observation is inconclusive'}: ${found.what.slice(0, 5).join('; ')}`,
    )
  const [code, what] =
    found.why === 'missing'
      ? (['cleanup.not-observed', 'the application has not been observed'] as const)
      : (['cleanup.degraded', 'the application is degraded on the target'] as const)
  refuse(
    code,
    what,
    found.what,
    'Run `observe` until it reports `healthy`, or set `waive: observe`. Nothing was dropped; a rollback is still possible.',
  )
}

/** Warns about writes to the source since the commit. The fence counts them, and this cleanup drops the fence. */
async function tellWrites(source: Database, entry: Entry | undefined): Promise<void> {
  if (entry?.phase !== 'switched' && entry?.phase !== 'finalized') return
  const { problems } = await lookAtFence(source, entry)
  if (problems.length)
    warning(
      `the source may have changed since the commit: ${problems.slice(0, 5).join('; ')}. Before you remove the old database, look for rows written there after the commit`,
    )
}

/** Requires that the rollback window has ended. Until then, a rollback may need the fenced source. */
function requireWindowOver(entry: Entry | undefined, windowMs: number): void {
  if (!entry || !DECIDED.includes(entry.phase)) return
  if (entry.phase === 'committing' || entry.phase === 'committed')
    throw new VerdictError(
      'cleanup.not-over',
      `migration \`${entry.id}\` is ${entry.phase}. Run \`cutover\` again to finish it, or run \`rollback\``,
    )
  if (entry.ageMs >= windowMs) return
  const over = new Date(entry.updatedAt.getTime() + windowMs)
  throw new VerdictError(
    'cleanup.rollback-window',
    `migration \`${entry.id}\` was ${entry.phase} on ${entry.updatedAt.toISOString()}. Its rollback window ends on ${over.toISOString()}; until then, a rollback may need the fenced source. Wait, or set a shorter \`rollback-window\``,
  )
}
