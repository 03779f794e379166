import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { closeWriteAccess, openWriteAccess, readWriteGrants } from '../../destination/write-access.ts'
import { keepingHold, takeHold, thisRun } from '../../ledger/hold.ts'
import { addEvidence, advance, DECIDED, type Entry, PHASES } from '../../ledger/ledger.ts'
import { STANDS } from '../../ledger/phases.ts'
import { lastAfterCommit } from '../../phases/after-commit/result.ts'
import { runVerify } from '../../phases/verify/verify.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, Link } from '../../runtime/database.ts'
import { refuse, throwIfCancelled, UserError, VerdictError } from '../../runtime/errors.ts'
import { noteNext } from '../../runtime/next.ts'
import { notify } from '../../runtime/notify.ts'
import { workFolder } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readFence, revokePermanent } from '../../source/fence.ts'
import { logSlotOf, seizeAndDrop } from '../../source/slot.ts'
import { differences } from '../../tools/molt-verify.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { spec } from './spec.ts'

type Rollback = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context, async (source, target) => {
      const { inputs } = context
      const entry = await requireMigration(source, target, inputs.migration, PHASES)
      requireDecided(entry)
      if (entry.phase === 'rolled-back')
        return info(`nothing to do: migration ${entry.id} was rolled back on ${entry.updatedAt.toISOString()}`)
      // Without the hold, a cutover that is still switching would send the application to the target anyway.
      const holder = thisRun('rollback')
      await takeHold(target, entry.id, holder, TIMING.hold)
      const link = new Link(inputs.target, 'target', context.signal)
      await keepingHold(link, entry.id, holder, TIMING.hold, ignore, () => goBack(context, source, target, entry))
    }),
}

function requireDecided({ id, phase }: Entry): void {
  if (phase === 'rolled-back' || DECIDED.includes(phase)) return
  noteNext({ action: 'abort' })
  throw new UserError(
    'ledger.wrong-phase',
    `\`${id}\` is ${STANDS[phase]}, and nothing was committed. Run \`abort\` next`,
  )
}

/** Ignores a lost hold: no other run takes one that is renewed, and an unreachable target stops the work anyway. */
function ignore(): void {}

async function goBack(context: Rollback, source: Database, target: Database, found: Entry): Promise<void> {
  const { state } = await readFence(source)
  if (state !== 'permanent' && !found.facts.goingBack)
    throw new VerdictError(
      'rollback.not-fenced',
      'the source is not permanently fenced, so both sides may have been written to, and a safe rollback is impossible. Find out which database the application uses',
    )
  let entry = found
  let lost = entry.facts.goingBack ?? []
  if (state === 'permanent') {
    await requireAccepted(context, source, target, entry)
    lost = await closed(context, source, target, entry)
    // Recorded now: after the next step, a run that resumes this one could no longer find out what was lost.
    entry = await advance(target, entry, entry.phase, { facts: { goingBack: lost } })
    throwIfCancelled(context.signal)
    await revokePermanent(source)
  }
  await seizeAndDrop(source, logSlotOf(entry.plan.slot))
  const compared = (await lastAfterCommit(target, found))?.verdict ?? 'missing'
  if (compared === 'missing')
    warning('Rows have not been compared since the commit, and can no longer be: the source accepts writes again.')
  await advance(target, entry, 'rolled-back')
  await addEvidence(target, entry.id, 'rollback', { lost, compared })
  notify('rolled-back', { lost: lost.join(', ') })
  info('the permanent fence is lifted: the source accepts writes again')
  if (lost.length) warning(`writes on the target are lost in: ${lost.join(', ')}`)
  context.output('lost', JSON.stringify(lost))
  context.summary(
    `### Rolled back\n\nThe source accepts writes again. Point the application back to it. ${lost.length ? `Writes on the target were discarded in ${lost.map((table) => `\`${table}\``).join(', ')}.` : 'The target had not been written to.'}`,
  )
}

/**
 * Closes the target to writes; reopens it on an error.
 * @returns the tables written to on the target since the commit, all of them accepted
 */
async function closed(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const { writeAccess = [] } = entry.facts
  const { targetSchema, tables } = entry.plan
  if (!writeAccess.length)
    warning('the ledger has no rights to revoke on the target. Stop the application, or it may write to both sides')
  // If `cutover` could not give access back, nothing is open, and the right to revoke may be missing.
  const open = await readWriteGrants(target, targetSchema, tables)
  const ours = open.filter((each) => writeAccess.some(({ table, role }) => table === each.table && role === each.role))
  await closeWriteAccess(target, targetSchema, ours)
  try {
    return await requireAccepted(context, source, target, entry)
  } catch (error) {
    // The application stays on the target, and must be able to write there.
    await openWriteAccess(target, targetSchema, ours)
    throw error
  }
}

/** @throws VerdictError unless `accept-data-loss` names every table that was written to */
async function requireAccepted(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const lost = await writtenSince(context, source, target, entry)
  const refused = lost.filter((table) => !context.inputs.acceptDataLoss?.includes(table))
  if (refused.length)
    refuse(
      'rollback.target-written',
      'the target was written to since the commit',
      refused.map((table) => `${table} differs from the fenced source`),
      'Going back loses these writes permanently, because nothing copies them to the source. To accept that, stop the application, then name each of these tables in `accept-data-loss`.',
    )
  return lost
}

/** Tables that differ. The source has not changed since the commit, so every difference was written on the target. */
async function writtenSince(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const { inputs } = context
  const report = await runVerify(source, target, {
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    plan: entry.plan,
    level: 'full',
    logFile: join(workFolder(inputs.migration), 'molt-verify.log'),
    signal: context.signal,
  })
  const different = report.tables.filter((table) => differences(table) > 0).map((table) => table.name)
  const about = (table: string) => report.findings.filter((finding) => finding.table === table).map(({ what }) => what)
  // For example a column that only the target has: no comparison covers what was written to it.
  const unchecked = entry.plan.tables.filter((table) => !different.includes(table) && about(table).length)
  const named = unchecked.filter((table) => inputs.acceptDataLoss?.includes(table))
  const open = unchecked.filter((table) => !named.includes(table)).flatMap(about)
  if (open.length || (!different.length && !named.length && report.problems.length))
    refuse(
      'rollback.inconclusive',
      'it is unknown whether the target was written to',
      open.length ? open : report.problems,
      'Fix these first, or compare by hand. Going back loses what was written there. To accept that, stop the application, then name each of these tables in `accept-data-loss`.',
    )
  return entry.plan.tables.filter((table) => different.includes(table) || named.includes(table))
}
