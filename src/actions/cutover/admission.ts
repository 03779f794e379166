import { info } from '@actions/core'
import { deferAgain, lostDefinitions } from '../../destination/deferral.ts'
import { keepUnlocked } from '../../destination/schema-lock.ts'
import { requireClosed } from '../../destination/write-access.ts'
import { readStreamNote } from '../../ledger/hold.ts'
import { advance, CAUGHT_UP, type Entry, type Phase } from '../../ledger/ledger.ts'
import { schemaChanges } from '../../ledger/schema-changes.ts'
import { describeChange } from '../../model/fingerprint.ts'
import { FINAL_VERIFIES } from '../../model/plan.ts'
import { isStandIn } from '../../model/stand-in.ts'
import { advanceToCommitted } from '../../phases/after-commit/commit-time.ts'
import { planFence } from '../../phases/cutover/held-fence.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { seconds } from '../../runtime/progress.ts'
import { fenceProblems, readFence } from '../../source/fence.ts'
import { findTool, toolVersion } from '../../tools/versions.ts'
import { requireMigration } from '../shared.ts'
import { requireEndable } from './commands.ts'
import { finalVerifyOf } from './compare.ts'
import type { Cutover } from './spec.ts'

/** Phases from which a cutover starts or continues. */
const OPEN: readonly Phase[] = [...CAUGHT_UP, 'committing', 'committed']
/** Phases in which the target has already taken over, so a cutover has nothing left to do. */
export const DONE: readonly Phase[] = ['switched', 'finalized', 'cleaned']

/**
 * Runs the checks that do not need the slot. Another run keeps streaming meanwhile, so a refused cutover disturbs
 * nothing.
 */
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
      'deferred definitions are lost',
      lost,
      'Unique indexes and constraints must exist before the application writes to the target.',
    )
  await requireFence(source, entry)
  return entry
}

/** Refuses a commit with the real molt on a server that only answers like CockroachDB. */
async function requireCluster({ inputs }: Cutover, { plan }: Entry): Promise<void> {
  if (!plan.likeServer || inputs.decision !== 'commit') return
  const molt = findTool('molt')
  if (molt && isStandIn(await toolVersion(molt, 'molt'))) return
  throw new VerdictError(
    'cutover.like-server',
    'the target only answers like CockroachDB, so a commit is refused. Set `target` to the cluster, or `decision: rehearse`',
  )
}

/** Refuses a plan that was not approved, and a final verify weaker than the approved one. */
function requireApproved(context: Cutover, { id, phase, plan, facts }: Entry): void {
  const { approval } = facts
  if (phase !== 'approved' && !approval) return
  if (approval?.planHash !== plan.hash)
    throw new VerdictError(
      'approval.plan-changed',
      `migration \`${id}\` was approved with the plan ${approval?.planHash ?? 'none'}, but the ledger has ${plan.hash}. Get the plan in the ledger approved`,
    )
  const planned = plan.finalVerify ?? 'auto'
  const given = finalVerifyOf(context, plan)
  if (FINAL_VERIFIES.indexOf(given) > FINAL_VERIFIES.indexOf(planned))
    throw new VerdictError(
      'approval.weaker-verify',
      `input \`final-verify\`: \`${given}\` compares less than the approved plan (\`${planned}\`). Remove the input, or run \`prepare\` with \`final-verify: ${given}\` and get that approved`,
    )
}

export async function requireUnchanged(source: Database, target: Database, entry: Entry): Promise<void> {
  const changes = (await schemaChanges(source, target, entry)).map(describeChange)
  if (changes.length)
    refuse(
      'schema.changed',
      'the schema has changed since `prepare`',
      changes,
      'DDL is frozen from the load to the cutover. Revert the change, or prepare and load again.',
    )
}

async function requireFence(source: Database, entry: Entry): Promise<void> {
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse(
      'fence.damaged',
      'the fence is damaged',
      problems,
      'Run `prepare` again. A new table or partition changes the plan.',
    )
}

/**
 * Resolves the state that earlier runs left behind, once no other run can act. The fence on the source decides: if it
 * is permanent, the target has taken over, whatever the ledger says. In any other state, nothing was committed.
 */
export async function settle(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const entry = await requireMigration(source, target, context.inputs.migration, [...OPEN, ...DONE])
  const { state, remainingMs } = await readFence(source)
  if (DONE.includes(entry.phase)) return entry
  if (state === 'permanent') {
    if (entry.phase !== 'committing' && entry.phase !== 'committed')
      throw new VerdictError(
        'fence.permanent-without-commit',
        `the source is permanently fenced, but migration \`${entry.id}\` is ${entry.phase} in the ledger, so it was not its cutover that committed. Find out who made the fence permanent. \`rollback\` makes the source writable again. Nothing was changed`,
      )
    info(
      'the source is permanently fenced: an earlier run committed this migration, and this run continues with the switch',
    )
    return entry.phase === 'committed' ? entry : advanceToCommitted(target, entry)
  }
  if (entry.phase === 'committed')
    throw new VerdictError(
      'fence.removed-after-commit',
      'the migration is committed in the ledger, but the source is not permanently fenced: someone removed the fence. Find out which database the application uses. Nothing was changed',
    )
  if (state === 'armed')
    throw new VerdictError(
      'fence.armed-by-other',
      `the fence is armed, either by hand or by another run. Wait ${seconds(remainingMs)} until it lapses, or lift it with \`fence\``,
    )
  await keepUnlocked(target, entry.id)
  const again = await deferAgain(target, entry.id)
  if (again.length)
    info(`dropped ${again.length} unique indexes and constraints that an uncommitted cutover had rebuilt`)
  await requireUnchanged(source, target, entry)
  await requireFence(source, entry)
  if (entry.phase !== 'committing') return entry
  return advance(target, entry, entry.facts.approval?.planHash === entry.plan.hash ? 'approved' : 'caught-up')
}
