import { setTimeout as sleep } from 'node:timers/promises'
import { info, warning } from '@actions/core'
import { deferAgain, rebuildDeferred } from '../../destination/deferral.ts'
import { endOwnSessions, grantOwnWrites, retireStreamLogin, revokeOwnWrites } from '../../destination/stream-login.ts'
import { requireClosed } from '../../destination/write-access.ts'
import { advance, type Entry, readEntry } from '../../ledger/ledger.ts'
import { advanceToCommitted } from '../../phases/after-commit/commit-time.ts'
import { openTarget } from '../../phases/after-commit/open-target.ts'
import { type HeldFence, planFence } from '../../phases/cutover/held-fence.ts'
import {
  deadlineSignal,
  type Estimate,
  type Limit,
  PauseClock,
  pauseText,
  renewing,
} from '../../phases/cutover/pause.ts'
import { type DrainEvidence, proveDrain } from '../../phases/stream/drain.ts'
import type { Sample } from '../../phases/stream/samples.ts'
import type { StreamStatus } from '../../phases/stream/supervisor.ts'
import { requireClean } from '../../phases/verify/verdict.ts'
import { verifyTable } from '../../report/summary.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import { connect, withDatabase } from '../../runtime/database.ts'
import { allEnded, errorCode, messageOf, refuse, VerdictError } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { plural, seconds, someOf } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { fenceProblems, readFence } from '../../source/fence.ts'
import { STREAM_APPLICATION } from '../../tools/replicator.ts'
import { moveSequences } from '../shared.ts'
import { requireUnchanged } from './admission.ts'
import { smokeTest } from './commands.ts'
import { finalVerify } from './compare.ts'
import type { Section } from './section.ts'
import type { Cutover } from './spec.ts'

/** The result of the fenced section. */
export interface Outcome {
  entry: Entry
  before: StreamStatus
  after: StreamStatus
  drain: DrainEvidence
  verify: VerifyReport
  clock: PauseClock
  /** The expected pause. */
  estimate: Estimate
  samples: readonly Sample[]
}

/** Runs the write pause, from arming the fence to its end. A failure before the commit lifts the fence at once. */
export async function fenced(context: Cutover, section: Section): Promise<Outcome> {
  const { inputs } = context
  const { stream, held, target, before, estimate } = section
  const clock = new PauseClock()
  let verify: VerifyReport | undefined
  let beside: Promise<void> | undefined
  const limit = deadlineSignal(section.signal, inputs.maxPause, clock)
  const renewal = renewing(held, inputs.lease, inputs.holdersTimeout, limit)
  try {
    const { holders } = await clock.part('fence', () => held.arm(inputs.holdersTimeout, limit.signal))
    notify('fence-up')
    info(`writes are refused, after waiting for ${plural(holders, 'writing transaction')} to end`)
    renewal.start()
    checkpoint('armed')
    const drain = await clock.part('drain', () => limit.race(proveDrain(stream, inputs.drainTimeout)))
    info(
      `drained: marker on the target after ${drain.markerSeenMs} ms, position confirmed after ${drain.positionConfirmedMs} ms`,
    )
    checkpoint('drained')
    await clock.part('stream off', () => limit.race(stopWriting(context, section)))
    checkpoint('stream off')
    // Before the verify, so that the verify also covers rows that a smoke test has written.
    if (inputs.smokeTest)
      await clock.part('smoke test', () => limit.race(smokeTest(context, section.entry, limit.signal)))
    const verifying = clock.part('verify', async () => {
      try {
        verify = await limit.race(finalVerify(context, section, drain, limit.signal))
        requireClean(verify, true)
        return verify
      } catch (error) {
        // Rows also differ if a write passed a damaged fence. Check the fence, to report that cause instead.
        if (error instanceof VerdictError) await limit.race(requireRefusing(section))
        throw error
      }
    })
    beside = besideVerify(context, section, clock)
    const [clean] = await Promise.all([verifying, limit.race(beside)])
    checkpoint('verified')
    await renewal.stop()
    limit.signal.throwIfAborted()
    const entry =
      inputs.decision === 'commit'
        ? await clock.part('commit', () => decide(context, section, limit, drain.beat))
        : await limit.race(takeBack(section, clock))
    if (entry.phase === 'committed') await clock.part('write access', () => openTarget(target, entry))
    return { entry, before, after: stream.status, drain, verify: clean, clock, estimate, samples: stream.samples }
  } catch (error) {
    const fence = await clock.part('lift', () => liftAfter(context, section, renewal.stop()))
    info(`writes were paused for ${seconds(clock.total)}: ${clock.text}`)
    context.output('pause-ms', clock.total)
    context.summary(`### ❌ Cutover failed: ${fence}\n\n${pauseText(clock)}`)
    if (verify) context.summary(verifyTable(verify))
    // Wait for index builds, because an unfinished index cannot be dropped. Writes are already possible.
    await Promise.race([beside?.catch(() => {}), sleep(TIMING.besideEnds, undefined, { ref: false })])
    await leaveStreamable(context, section)
    // Report this error even after a timeout: it has the statements that let the application write again.
    if (errorCode(error) === 'write-access.missing') throw error
    throw limit.signal.aborted && !context.signal.aborted ? limit.signal.reason : error
  } finally {
    limit.clear()
  }
}

/**
 * Locks the stream out of the target, including a frozen replicator of an earlier leg, so that nothing changes after
 * the comparison.
 */
async function stopWriting({ inputs }: Cutover, { stream, target, entry, lanes }: Section): Promise<void> {
  const { login } = stream.options
  const finished = stream.finish()
  if (login) {
    // Once its login is revoked, the replicator cannot write, even if it takes long to end.
    finished.catch(() => {})
    await retireStreamLogin(target, inputs.target, login.role, lanes.leg)
    return lanes.leg?.db.end()
  }
  await finished
  const writable = await revokeOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
  await endOwnSessions(target, [STREAM_APPLICATION, 'replicator'])
  if (writable.length)
    warning(
      `an earlier replicator of this migration could still write to ${someOf(writable, 3)} on the target: the migration role can neither create logins nor revoke its own privileges there. Grant it CREATEROLE`,
    )
}

/** Ends a rehearsal: drops the rebuilt indexes and constraints, which would block the stream, then lifts the fence. */
async function takeBack(section: Section, clock: PauseClock): Promise<Entry> {
  const { entry, target, held } = section
  await clock.part('indexes off again', () => deferAgain(target, entry.id))
  await clock.part('lift', async () => {
    await requireHeld(section)
    if (!(await held.lift()))
      throw new VerdictError('fence.changed-by-other', 'another user changed the fence before it could be lifted')
  })
  await grantOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
  return entry
}

/** @throws VerdictError unless the fence has held since it was armed, and neither schema has changed */
async function requireHeld(section: Section): Promise<void> {
  section.stream.check()
  await requireUnchanged(section.source, section.target, section.entry)
  await requireRefusing(section)
}

/** @throws VerdictError unless both sides have refused the application's writes since the fence was armed */
async function requireRefusing({ source, target, stream, entry, held }: Section): Promise<void> {
  await requireClosed(target, entry.plan, entry.facts, stream.options.login?.role)
  await held.requireRefused()
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse(
      'fence.not-holding',
      'the fence was changed while it was armed',
      problems,
      'A write may have passed the fence. Nothing was committed. Run `prepare` again.',
    )
}

/**
 * Commits by making the fence on the source permanent. The phase in the ledger is `committing` before this, which tells
 * a later run to check the source, and `committed` after it.
 */
async function decide(context: Cutover, section: Section, limit: Limit, drainBeat: number): Promise<Entry> {
  const { entry, target, held } = section
  await limit.race(requireHeld(section))
  // Check the change log as well: the fence's counters miss writes while a trigger is disabled.
  if (section.proof) await limit.race(section.proof.readToDecision())
  const facts = { writesPassed: held.passed, drainBeat }
  const committing = await limit.race(advance(target, entry, 'committing', { facts }))
  checkpoint('committing')
  // Check the target once more: after a commit to a lost target, the application would have no database.
  const now = await limit.race(readEntry(target, committing.id))
  if (now?.nonce !== committing.nonce)
    throw new VerdictError('ledger.moved', 'another run has changed this migration in the meantime')
  await held.commit(context.inputs.holdersTimeout, limit.signal)
  checkpoint('permanent on the source')
  await section.proof?.readToDecision()
  const committed = await advanceToCommitted(target, committing)
  checkpoint('committed')
  notify('committed')
  return committed
}

/**
 * Sets sequences and builds unique indexes in parallel with the verify, because neither changes a row that the verify
 * reads. If one fails, still waits for the other to end.
 */
async function besideVerify(context: Cutover, section: Section, clock: PauseClock): Promise<void> {
  const { entry, lanes } = section
  const sides = { source: lanes.source, target: lanes.sequences }
  const sequences = async () => {
    const margin = context.inputs.sequenceMargin
    const set = await clock.part('sequences', () => moveSequences(sides, entry.plan, { margin }))
    info(`${plural(set.length, 'sequence is', 'sequences are')} set on the target and read back`)
    checkpoint('sequences set')
  }
  const indexes = async () => {
    await clock.part('unique indexes', () => rebuildUnique(section))
    checkpoint('unique indexes built')
  }
  await allEnded([sequences(), indexes()])
}

/**
 * Rebuilds what would have blocked the stream: unique indexes, and checks and foreign keys without validating rows. A
 * rehearsal does this too, to measure the time.
 */
async function rebuildUnique({ entry, lanes }: Section): Promise<void> {
  const [first, ...others] = lanes.target
  const built = await rebuildDeferred(first, entry.id, ['unique', 'check', 'foreign-key'], { lanes: others })
  if (built.length) info(`rebuilt ${built.length} unique indexes, checks and foreign keys on the target`)
}

/**
 * Prepares the target for the stream after a failed cutover that did not commit. If this fails too, the next stream
 * does it.
 */
async function leaveStreamable(context: Cutover, { entry }: Section): Promise<void> {
  try {
    const decided = await withDatabase(context.inputs.source, 'source', readFence)
    if (decided.state === 'permanent') return
    await withDatabase(context.inputs.target, 'target', async (target) => {
      await deferAgain(target, entry.id)
      await grantOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
    })
  } catch (error) {
    info(`the rebuilt indexes stay on the target until the next run drops them: ${messageOf(error)}`)
  }
}

/**
 * Lifts this run's fence after a failure, over a new connection, because the old one may be the cause. Leaves a
 * permanent fence in place, because it means that the migration is committed. If the source is unreachable, the fence
 * lapses with its lease.
 * @param renewed settles when the last renewal has ended. The first lift does not wait for it, so the fence is lifted
 * again afterwards.
 * @returns the fence's state, as text
 */
async function liftAfter(context: Cutover, { held }: Section, renewed: Promise<void>): Promise<string> {
  if (!held.tried.length) {
    await renewed
    return 'the fence was not raised'
  }
  try {
    const source = await connect(context.inputs.source, 'source', TIMING.fenceTimeout)
    try {
      if ((await readFence(source)).state === 'absent') return 'another user dropped the fence'
      let lifted = await held.lift(source)
      await renewed
      lifted = (await held.lift(source)) || lifted
      const { state } = await readFence(source)
      if (state === 'permanent')
        warning(
          'the source is permanently fenced: the migration was committed before this failure. Run `cutover` again to resume',
        )
      else if (lifted) info('the fence is lifted: writes to the source are possible again')
      else info(`the fence is ${state}`)
      return state === 'permanent' ? 'the source is permanently fenced; run `cutover` again' : `the fence is ${state}`
    } finally {
      await source.end().catch(() => {})
    }
  } catch (error) {
    if (await liftBy(held, renewed)) return 'the fence is lifted'
    warning(
      `the fence could not be lifted (${messageOf(error)}). It lapses within ${seconds(context.inputs.lease)}, unless the migration was already committed. Run \`status\` to find out`,
    )
    return `the fence lapses within ${seconds(context.inputs.lease)}, unless the migration was committed`
  }
}

/** Lifts the fence over the connection that armed it, in case a blocked application uses up all others. */
async function liftBy(held: HeldFence, renewed: Promise<void>): Promise<boolean> {
  const lift = () => held.lift().catch(() => false)
  const lifted = await lift()
  await renewed
  if (!(await lift()) && !lifted) return false
  info('the fence is lifted: writes to the source are possible again')
  return true
}
