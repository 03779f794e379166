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
      // A cutover that is switching the application right now would send it to the target anyway.
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

/** No other run takes a hold that is being renewed; an unreachable target stops the work anyway. */
function ignore(): void {}

async function goBack(context: Rollback, source: Database, target: Database, found: Entry): Promise<void> {
  const { state } = await readFence(source)
  if (state !== 'permanent' && !found.facts.goingBack)
    throw new VerdictError(
      'rollback.not-fenced',
      'the source is not permanently fenced, so both sides may have been written to, and a safe rollback is impossible',
    )
  let entry = found
  let lost = entry.facts.goingBack ?? []
  if (state === 'permanent') {
    await requireAccepted(context, source, target, entry)
    lost = await closed(context, source, target, entry)
    // A run that dies after the next step is resumed by another, which could no longer know what was lost.
    entry = await advance(target, entry, entry.phase, { facts: { goingBack: lost } })
    throwIfCancelled(context.signal)
    await revokePermanent(source)
  }
  await seizeAndDrop(source, logSlotOf(entry.plan.slot))
  const compared = (await lastAfterCommit(target, found))?.verdict ?? 'missing'
  if (compared === 'missing')
    warning('Rows were not compared since the commit, and cannot be once the source takes writes.')
  await advance(target, entry, 'rolled-back')
  await addEvidence(target, entry.id, 'rollback', { lost, compared })
  notify('rolled-back', { lost: lost.join(', ') })
  info('the fence is lifted permanently: the source takes writes again')
  if (lost.length) warning(`writes on the target are lost in: ${lost.join(', ')}`)
  context.output('lost', JSON.stringify(lost))
  context.summary(
    `### Rolled back\n\nThe source takes writes again; point the application back to it. ${lost.length ? `Writes on the target were discarded in ${lost.map((table) => `\`${table}\``).join(', ')}.` : 'The target had not been written to.'}`,
  )
}

/** What was written to the target since the commit, once no one can write there; all of it was accepted. */
async function closed(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const { writeAccess = [] } = entry.facts
  const { targetSchema, tables } = entry.plan
  if (!writeAccess.length)
    warning('no rights on the target are known that could be revoked. Stop the application, or it writes to both sides')
  // Where giving it back failed, nothing is open, and the right to revoke may be missing.
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
      'Going back loses these writes permanently, because nothing copies them to the source. To accept that, stop the application, then name each of these tables in `accept-data-loss`.',
    )
  return lost
}

/** The source has not changed since the commit, so every difference was written on the target. */
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
