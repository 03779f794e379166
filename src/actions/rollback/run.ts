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
        return info(`nothing to do: migration ${entry.id} is rolled back since ${entry.updatedAt.toISOString()}`)
      // A cutover that is switching the application at this moment would send it to the target all the same.
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

/** Nobody takes a hold that is renewed; a target that is away stops the work by itself. */
function ignore(): void {}

async function goBack(context: Rollback, source: Database, target: Database, found: Entry): Promise<void> {
  const { state } = await readFence(source)
  if (state !== 'permanent' && !found.facts.goingBack)
    throw new VerdictError(
      'rollback.not-fenced',
      'the source is not fenced for good, so it may have been written to beside the target; there is nothing that could be rolled back safely',
    )
  let entry = found
  let lost = entry.facts.goingBack ?? []
  if (state === 'permanent') {
    await requireAccepted(context, source, target, entry)
    lost = await closed(context, source, target, entry)
    // A run that dies after the next step is carried on by the next one, which could not tell any more what was lost.
    entry = await advance(target, entry, entry.phase, { facts: { goingBack: lost } })
    throwIfCancelled(context.signal)
    await revokePermanent(source)
  }
  await seizeAndDrop(source, logSlotOf(entry.plan.slot))
  const compared = (await lastAfterCommit(target, found))?.verdict ?? 'missing'
  if (compared === 'missing')
    warning('Rows were not compared since the commit, and cannot be any more once the source takes writes.')
  await advance(target, entry, 'rolled-back')
  await addEvidence(target, entry.id, 'rollback', { lost, compared })
  notify('rolled-back', { lost: lost.join(', ') })
  info('the fence is lifted for good: the source takes writes again')
  if (lost.length) warning(`writes on the target are lost in: ${lost.join(', ')}`)
  context.output('lost', JSON.stringify(lost))
  context.summary(
    `### Rolled back\n\nThe source takes writes again; point the application back to it. ${lost.length ? `Writes on the target were given up in ${lost.map((table) => `\`${table}\``).join(', ')}.` : 'The target had not been written to.'}`,
  )
}

/** What was written to the target since the commit, once nobody can write there any more; all of it was accepted. */
async function closed(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const { writeAccess = [] } = entry.facts
  const { targetSchema, tables } = entry.plan
  if (!writeAccess.length)
    warning(
      'no rights on the target are known that could be taken away: the application must be stopped, or it writes there beside the source',
    )
  // Where giving it back has failed nothing is open, and the right to revoke may be what is missing.
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

/** @throws VerdictError when a table was written to that `accept-data-loss` does not name */
async function requireAccepted(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const lost = await writtenSince(context, source, target, entry)
  const refused = lost.filter((table) => !context.inputs.acceptDataLoss?.includes(table))
  if (refused.length)
    refuse(
      'rollback.target-written',
      'the target was written to since the commit',
      refused.map((table) => `${table} differs from the fenced source`),
      'Going back loses these writes for good, since nothing carries them to the source. If that is meant, name each of these tables in `accept-data-loss`; stop the application first.',
    )
  return lost
}

/** The source has stood still since the commit, so whatever differs now was written on the target. */
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
  // A column that only the target has, say: what was written to it since is in no comparison.
  const untold = entry.plan.tables.filter((table) => !different.includes(table) && about(table).length)
  const named = untold.filter((table) => inputs.acceptDataLoss?.includes(table))
  const open = untold.filter((table) => !named.includes(table)).flatMap(about)
  if (open.length || (!different.length && !named.length && report.problems.length))
    refuse(
      'rollback.inconclusive',
      'it cannot be told whether the target was written to',
      open.length ? open : report.problems,
      'Put these right first, or compare by hand. Going back loses what was written there: if that is meant, name each of these tables in `accept-data-loss`; stop the application first.',
    )
  return entry.plan.tables.filter((table) => different.includes(table) || named.includes(table))
}
