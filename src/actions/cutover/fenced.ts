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

/** From arming until writes are possible again. Any failure before the commit lifts the fence at once. */
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
    info(`writes are refused; ${plural(holders, 'writing transaction')} had to end first`)
    renewal.start()
    checkpoint('armed')
    const drain = await clock.part('drain', () => limit.race(proveDrain(stream, inputs.drainTimeout)))
    info(
      `drained: marker on the target after ${drain.markerSeenMs} ms, position confirmed after ${drain.positionConfirmedMs} ms`,
    )
    checkpoint('drained')
    await clock.part('stream off', () => limit.race(stopWriting(context, section)))
    checkpoint('stream off')
    // Before the verify, which would otherwise find what this has written.
    if (inputs.smokeTest)
      await clock.part('smoke test', () => limit.race(smokeTest(context, section.entry, limit.signal)))
    const verifying = clock.part('verify', async () => {
      try {
        verify = await limit.race(finalVerify(context, section, drain, limit.signal))
        requireClean(verify, true)
        return verify
      } catch (error) {
        // Rows that differ because a write passed a damaged fence are not lost by the stream. Definitions are being rebuilt now.
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
    // An index that is being built can be dropped only once it exists. Writes are possible meanwhile.
    await Promise.race([beside?.catch(() => {}), sleep(TIMING.besideEnds, undefined, { ref: false })])
    await leaveStreamable(context, section)
    // Whatever the clock says: without its statements the application stays locked out.
    if (errorCode(error) === 'write-access.missing') throw error
    throw limit.signal.aborted && !context.signal.aborted ? limit.signal.reason : error
  } finally {
    limit.clear()
  }
}

/**
 * Shuts the stream out of the target, both its own replicator and any frozen one of an earlier leg: what is compared
 * next is what the application gets.
 */
async function stopWriting({ inputs }: Cutover, { stream, target, entry, lanes }: Section): Promise<void> {
  const { login } = stream.options
  const finished = stream.finish()
  if (login) {
    // Its replicator can no longer write, however long it takes to end.
    finished.catch(() => {})
    await retireStreamLogin(target, inputs.target, login.role, lanes.leg)
    return lanes.leg?.db.end()
  }
  await finished
  const writable = await revokeOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
  await endOwnSessions(target, [STREAM_APPLICATION, 'replicator'])
  if (writable.length)
    warning(
      `an earlier replicator of this migration could still write to ${someOf(writable, 3)} on the target: the migration role can neither create logins nor give up its own rights there. Grant it CREATEROLE`,
    )
}

/** Drops what was rebuilt before the fence is lifted: the stream resumes, and would be blocked by it. */
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

/** @throws VerdictError unless the fence has held since it was armed, and both sides are still what was compared */
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
    refuse('fence.not-holding', 'the fence has changed', problems, 'A write may have passed it. Nothing was committed.')
}

/**
 * The decision. It lives on the source, beside the fence, and the ledger copies it: `committing` before, so that a
 * later run knows where to look, and `committed` after.
 */
async function decide(context: Cutover, section: Section, limit: Limit, drainBeat: number): Promise<Entry> {
  const { entry, target, held } = section
  await limit.race(requireHeld(section))
  // A second witness beside the fence's own counters, which a disabled trigger would freeze.
  if (section.proof) await limit.race(section.proof.readToDecision())
  const facts = { writesPassed: held.passed, drainBeat }
  const committing = await limit.race(advance(target, entry, 'committing', { facts }))
  checkpoint('committing')
  // The last look at the target: a commit to a database that is gone would leave the application without any.
  const now = await limit.race(readEntry(target, committing.id))
  if (now?.nonce !== committing.nonce)
    throw new VerdictError('ledger.moved', 'another run has moved this migration meanwhile')
  await held.commit(context.inputs.holdersTimeout, limit.signal)
  checkpoint('permanent on the source')
  await section.proof?.readToDecision()
  const committed = await advanceToCommitted(target, committing)
  checkpoint('committed')
  notify('committed')
  return committed
}

/**
 * Sequences and unique indexes. Neither changes a row that the verify reads, so all run in parallel, and the pause is as long
 * as the longest. Nothing is committed before all are done; after a failure none of them continues.
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
 * Builds what was dropped for the load and would have blocked the stream: unique indexes before anyone writes there,
 * checks and foreign keys without reading the rows. A rehearsal does it too, to measure the time.
 */
async function rebuildUnique({ entry, lanes }: Section): Promise<void> {
  const [first, ...others] = lanes.target
  const built = await rebuildDeferred(first, entry.id, ['unique', 'check', 'foreign-key'], { lanes: others })
  if (built.length) info(`${built.length} unique indexes, checks and foreign keys are back on the target`)
}

/** After a failure without a commit. Where it fails, the next run that streams does it. */
async function leaveStreamable(context: Cutover, { entry }: Section): Promise<void> {
  try {
    const decided = await withDatabase(context.inputs.source, 'source', readFence)
    if (decided.state === 'permanent') return
    await withDatabase(context.inputs.target, 'target', async (target) => {
      await deferAgain(target, entry.id)
      await grantOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
    })
  } catch (error) {
    info(`the next run drops what was rebuilt on the target: ${messageOf(error)}`)
  }
}

/**
 * Lifts our fence after a failure, on a new connection, because the old one may be the cause. A permanent fence
 * stays: the commit has been made. An unreachable fence lapses with its lease.
 * @param renewed settles when the last renewal has ended. One that hangs does not keep the application waiting, and one
 * that succeeds late is lifted again.
 * @returns the fence's state, in words
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
          'the source is permanently fenced: the migration was committed before this failure. Run `cutover` again, which resumes there',
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
      `the fence could not be lifted (${messageOf(error)}). It lapses within ${seconds(context.inputs.lease)}, unless the migration was already committed. Run \`status\` to see which`,
    )
    return `the fence lapses within ${seconds(context.inputs.lease)}, unless the migration was committed`
  }
}

/** On the connection that armed it, when no new one can be opened: an application that cannot write may hold all of them. */
async function liftBy(held: HeldFence, renewed: Promise<void>): Promise<boolean> {
  const lift = () => held.lift().catch(() => false)
  const lifted = await lift()
  await renewed
  if (!(await lift()) && !lifted) return false
  info('the fence is lifted: writes to the source are possible again')
  return true
}
