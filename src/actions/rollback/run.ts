import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { isStreamLogin } from '../../destination/stream-login.ts'
import { ownershipStatements, unrevocableText } from '../../destination/unrevocable.ts'
import {
  closeWriteAccess,
  grantsText,
  mergeWriteGrants,
  openWriteAccess,
  readAccess,
  readWriteGrants,
  requireGiven,
  revokeStatements,
} from '../../destination/write-access.ts'
import { keepingHold, takeHold, thisRun } from '../../ledger/hold.ts'
import { addEvidence, advance, DECIDED, type Entry, PHASES } from '../../ledger/ledger.ts'
import { STANDS } from '../../ledger/phases.ts'
import { lastAfterCommit } from '../../phases/after-commit/result.ts'
import { runVerify } from '../../phases/verify/verify.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, Link } from '../../runtime/database.ts'
import { errorCode, messageOf, refuse, throwIfCancelled, UserError, VerdictError } from '../../runtime/errors.ts'
import { noteNext } from '../../runtime/next.ts'
import { notify } from '../../runtime/notify.ts'
import { requireToolPasswords } from '../../runtime/password-command.ts'
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
      requireToolPasswords([inputs.source, inputs.target])
      const entry = await requireMigration(source, target, inputs.migration, PHASES)
      requireDecided(entry)
      if (entry.phase === 'rolled-back')
        return info(`nothing to do: migration ${entry.id} was rolled back on ${entry.updatedAt.toISOString()}`)
      // Take the hold first. Otherwise, a cutover that is still switching could point the application at the target
      // meanwhile.
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

/**
 * Ignores a lost hold. No other run takes a hold while it is renewed, and if the target is unreachable, the rollback
 * fails anyway.
 */
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
    await acceptedLoss(context, source, target, entry)
    entry = await closeTarget(target, entry)
    lost = await acceptedLoss(context, source, target, entry)
    const { writeAccess = [], revokedAgain } = entry.facts
    // Record this now. After the next step, a run that resumes the rollback could no longer find out what was lost.
    const facts = {
      goingBack: lost,
      writeAccess: mergeWriteGrants(writeAccess, revokedAgain ?? []),
      revokedAgain: null,
    }
    entry = await advance(target, entry, entry.phase, { facts })
    throwIfCancelled(context.signal)
    await revokePermanent(source)
  }
  await seizeAndDrop(source, logSlotOf(entry.plan.slot))
  const compared = (await lastAfterCommit(target, found))?.verdict ?? 'missing'
  if (compared === 'missing')
    warning(
      'Rows were not compared after the commit. They can no longer be compared, because the source accepts writes again.',
    )
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
 * Revokes the write access of every role that has it now, including roles that were granted it after the commit.
 * Records the privileges in the ledger first, so that they can be restored if the run dies halfway.
 * @throws VerdictError when a role can still write, because its writes would be lost
 */
async function closeTarget(target: Database, entry: Entry): Promise<Entry> {
  const { targetSchema, tables } = entry.plan
  const access = await readAccess(target, targetSchema, tables)
  const open = access.open.filter(({ role }) => !isStreamLogin(role))
  const owners = access.unrevocable.filter(({ administrator }) => !administrator)
  const administrators = access.unrevocable.filter(({ administrator }) => administrator)
  if (administrators.length)
    warning(
      `administrators can still write to the target, and such writes are lost: ${unrevocableText(administrators, access.user)}`,
    )
  if (!open.length && !owners.length)
    warning('found no write privileges to revoke on the target. Stop the application, or it may write to both sides')
  requireRevoked(entry, unrevocableText(owners, access.user), () =>
    ownershipStatements(targetSchema, owners, access.user),
  )
  const revokedAgain = mergeWriteGrants(entry.facts.revokedAgain ?? [], open)
  const recorded = await advance(target, entry, entry.phase, { facts: { revokedAgain } })
  const failure = await closeWriteAccess(target, targetSchema, open).catch((error) => messageOf(error))
  if (failure) warning(`not all write access to the target was revoked: ${failure}`)
  const left = (await readWriteGrants(target, targetSchema, tables)).filter(({ role }) => !isStreamLogin(role))
  try {
    requireRevoked(entry, grantsText(left), () => revokeStatements(targetSchema, left))
  } catch (error) {
    await openAgain(target, recorded)
    throw error
  }
  return recorded
}

/**
 * Refuses the rollback while roles can still write to the target. If `prepare` waived write access, only warns.
 * @param who those roles, as text; empty if there are none
 */
function requireRevoked({ facts }: Entry, who: string, statements: () => string[]): void {
  if (!who) return
  if (facts.writeAccessWaived) {
    warning(`these roles can still write to the target, and such writes are lost: ${who}. Stop their sessions`)
    return
  }
  refuse(
    'rollback.writers',
    `these roles could still write to the target after the rollback, and such writes would be lost: ${who}`,
    statements().map((statement) => `${statement};`),
    'Run these statements on the target as an administrator, then run `rollback` again. Writes to the source are still refused.',
  )
}

/**
 * Lists the tables that were written to on the target since the commit, if all of them are accepted losses. If not, the
 * application stays on the target, so restores the privileges that this rollback or an earlier one has revoked.
 */
async function acceptedLoss(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  try {
    return await requireAccepted(context, source, target, entry)
  } catch (error) {
    await openAgain(target, entry, error)
    throw error
  }
}

/**
 * Restores the revoked privileges.
 * @throws VerdictError `write-access.not-restored` that names what is missing. The next rollback tries again
 */
async function openAgain(target: Database, entry: Entry, cause?: unknown): Promise<void> {
  const { targetSchema } = entry.plan
  const { revokedAgain } = entry.facts
  if (!revokedAgain?.length) return
  const given = await openWriteAccess(target, targetSchema, revokedAgain)
  requireGiven(given, targetSchema, {
    code: 'write-access.not-restored',
    what: `the rollback was refused${cause === undefined ? '' : ` (${errorCode(cause)}: ${messageOf(cause)})`}, and write access to the target could not be restored: the application cannot write to either side`,
    next: 'Run these statements on the target as an administrator.',
  })
  await advance(target, entry, entry.phase, { facts: { revokedAgain: null } })
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

/**
 * Lists the tables that differ. The source has not changed since the commit, so every difference comes from a write to
 * the target.
 */
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
  // Some writes cannot be compared, such as those to a column that only the target has.
  const unchecked = entry.plan.tables.filter((table) => !different.includes(table) && about(table).length)
  const named = unchecked.filter((table) => inputs.acceptDataLoss?.includes(table))
  const open = unchecked.filter((table) => !named.includes(table)).flatMap(about)
  if (open.length || (!different.length && !named.length && report.problems.length))
    refuse(
      'rollback.inconclusive',
      'it is unknown whether the target was written to',
      open.length ? open : report.problems,
      'Fix these first, or compare by hand. Going back loses all writes to these tables. To accept that, stop the application, then name each of these tables in `accept-data-loss`.',
    )
  return entry.plan.tables.filter((table) => different.includes(table) || named.includes(table))
}
