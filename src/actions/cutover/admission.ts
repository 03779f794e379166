import { info } from '@actions/core'
import { deferAgain, lostDefinitions } from '../../destination/deferral.ts'
import { requireClosed } from '../../destination/write-access.ts'
import { readStreamNote } from '../../ledger/hold.ts'
import { advance, CAUGHT_UP, type Entry, type Phase } from '../../ledger/ledger.ts'
import { schemaChanges } from '../../ledger/schema-changes.ts'
import { describeChange } from '../../model/fingerprint.ts'
import { FINAL_VERIFIES } from '../../model/plan.ts'
import { advanceToCommitted } from '../../phases/after-commit/commit-time.ts'
import { planFence } from '../../phases/cutover/held-fence.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { seconds } from '../../runtime/progress.ts'
import { fenceProblems, readFence } from '../../source/fence.ts'
import { findTool, isStandIn, toolVersion } from '../../tools/versions.ts'
import { requireMigration } from '../shared.ts'
import { requireEndable } from './commands.ts'
import { finalVerifyOf } from './compare.ts'
import type { Cutover } from './spec.ts'

/** Phases from which a cutover begins, or goes on. */
const OPEN: readonly Phase[] = [...CAUGHT_UP, 'committing', 'committed']
/** Phases in which the target has taken over, so that a second cutover has nothing to do. */
export const DONE: readonly Phase[] = ['switched', 'finalized', 'cleaned']

/** Checks that need no slot, while another run streams: a run that is refused does not disturb it. */
export async function lookFirst(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const entry = await requireMigration(source, target, context.inputs.migration, [...OPEN, ...DONE])
  const { state } = await readFence(source)
  if (DONE.includes(entry.phase) || state === 'permanent') return entry
  requireApproved(context, entry)
  await requirePlannedTools(entry.plan, context.inputs, 'molt', 'replicator')
  await requireCluster(context, entry)
  await requireEndable(source, context.inputs.endSessions)
  await requireUnchanged(source, target, entry)
  await requireClosed(target, entry.plan, entry.facts, (await readStreamNote(target, entry.id))?.login)
  const lost = await lostDefinitions(target, entry.id, entry.facts.deferred)
  if (lost.length)
    refuse(
      'deferral.not-restored',
      'the target could not be made whole again',
      lost,
      'Unique indexes and constraints must be there before anyone writes to it.',
    )
  await requireFence(source, entry)
  return entry
}

/** A commit fences the source for good: for a server that only answers like CockroachDB that is the stand-in's alone. */
async function requireCluster({ inputs }: Cutover, { plan }: Entry): Promise<void> {
  if (!plan.likeServer || inputs.decision !== 'commit') return
  const molt = findTool('molt')
  if (molt && isStandIn(await toolVersion(molt, 'molt'))) return
  throw new VerdictError(
    'cutover.like-server',
    'the target only answers like CockroachDB, so nothing is committed to it. Set `target` to the cluster, or `decision: rehearse`',
  )
}

/** An approval is of one plan; what compares less than that says was approved by nobody. */
function requireApproved(context: Cutover, { id, phase, plan, facts }: Entry): void {
  const { approval } = facts
  if (phase !== 'approved' && !approval) return
  if (approval?.planHash !== plan.hash)
    throw new VerdictError(
      'approval.plan-changed',
      `the approval of migration \`${id}\` is of the plan ${approval?.planHash ?? 'none'}, and the ledger has ${plan.hash}; have this one approved`,
    )
  const planned = plan.finalVerify ?? 'auto'
  const given = finalVerifyOf(context, plan)
  if (FINAL_VERIFIES.indexOf(given) > FINAL_VERIFIES.indexOf(planned))
    throw new VerdictError(
      'approval.weaker-verify',
      `input \`final-verify\`: \`${given}\` compares less than the plan that was approved says (\`${planned}\`); leave it out, or \`prepare\` with \`final-verify: ${given}\` and have that approved`,
    )
}

export async function requireUnchanged(source: Database, target: Database, entry: Entry): Promise<void> {
  const changes = (await schemaChanges(source, target, entry)).map(describeChange)
  if (changes.length)
    refuse(
      'schema.changed',
      'the schema has changed since `prepare`',
      changes,
      'DDL is frozen from the load to the cutover: take it back, or prepare and load again.',
    )
}

async function requireFence(source: Database, entry: Entry): Promise<void> {
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse(
      'fence.damaged',
      'the fence is not as it must be',
      problems,
      'Run `prepare` again; a new table or partition counts as a change of the plan.',
    )
}

/**
 * Where things really stand, once nobody else acts. The decision lives on the source, beside the fence: permanent there
 * means that the target has taken over, whatever the ledger says; anything else means that nothing was decided.
 */
export async function settle(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const entry = await requireMigration(source, target, context.inputs.migration, [...OPEN, ...DONE])
  const { state, remainingMs } = await readFence(source)
  if (DONE.includes(entry.phase)) return entry
  if (state === 'permanent') {
    if (entry.phase !== 'committing' && entry.phase !== 'committed')
      throw new VerdictError(
        'fence.permanent-without-commit',
        `the source is fenced for good, and the ledger says that migration \`${entry.id}\` is ${entry.phase}: no cutover of it has decided that. Find out who did; \`rollback\` makes the source writable again. Nothing was done`,
      )
    info(
      'the source is fenced for good: this migration was committed by an earlier run, which is carried on from there',
    )
    return entry.phase === 'committed' ? entry : advanceToCommitted(target, entry)
  }
  if (entry.phase === 'committed')
    throw new VerdictError(
      'fence.removed-after-commit',
      'the ledger says committed, but the source is not fenced for good; someone has removed the fence. Nothing was done',
    )
  if (state === 'armed')
    throw new VerdictError(
      'fence.armed-by-other',
      `the fence is armed, by a run that does not hold this migration or by hand; it falls by itself in ${seconds(remainingMs)}, or lift it with \`fence\``,
    )
  const again = await deferAgain(target, entry.id)
  if (again.length)
    info(`${again.length} unique indexes and constraints, rebuilt by a cutover that came to no decision, are off again`)
  await requireUnchanged(source, target, entry)
  await requireFence(source, entry)
  if (entry.phase !== 'committing') return entry
  return advance(target, entry, entry.facts.approval?.planHash === entry.plan.hash ? 'approved' : 'caught-up')
}
