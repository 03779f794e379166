import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { describeChange } from '../../migration/fingerprint.ts'
import { VERIFY_LEVELS, type VerifyLevel } from '../../migration/plan.ts'
import { verifyTable } from '../../report/summary.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import { connect, type Database, Link, withDatabase } from '../../runtime/database.ts'
import { CancelledError, InputError, messageOf, refuse, UserError, VerdictError } from '../../runtime/errors.ts'
import { number, plural, seconds, workFolder } from '../../runtime/progress.ts'
import { fenceProblems, probeFence, readFence } from '../../source/fence.ts'
import { setSequences } from '../../sql/sequences.ts'
import { type DrainEvidence, proveDrain } from '../../steps/drain.ts'
import { HeldFence, planFence, requireStillFenced } from '../../steps/fencing.ts'
import { buildIndexes } from '../../steps/indexes.ts'
import { withStream } from '../../steps/open-stream.ts'
import { requirePlannedTools } from '../../steps/planned-tools.ts'
import { passMarker } from '../../steps/recheck.ts'
import { schemaChanges } from '../../steps/schema-changes.ts'
import { type Stream, type StreamStatus, untilCaughtUp } from '../../steps/stream.ts'
import { runVerify, type VerifyReport } from '../../steps/verifying.ts'
import { type Deferred, deferAgain, listDeferred, lostDefinitions, rebuildDeferred } from '../../target/deferral.ts'
import { openGate, readWriteGrants } from '../../target/gate.ts'
import {
  addEvidence,
  advance,
  type Entry,
  keepingHold,
  obtainSlot,
  type Phase,
  type Plan,
  readEntry,
  readEvidence,
  requireEntry,
  thisRun,
} from '../../target/ledger.ts'
import { toolHelp } from '../../tools/versions.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { requireClean } from '../verify/run.ts'
import { endSessions, readOnlyUrl, requireEndable, runCommand } from './commands.ts'
import { deadlineSignal, estimatePause, type Limit, type Parts, PauseClock, partsText, renewing } from './pause.ts'
import { spec } from './spec.ts'

type Cutover = Context<typeof spec>

/** Phases from which a cutover begins, or goes on. */
const OPEN: readonly Phase[] = ['caught-up', 'approved', 'committing', 'committed']
/** Phases in which the target has taken over, so that a second cutover has nothing to do. */
const DONE: readonly Phase[] = ['switched', 'finalized', 'cleaned']

/** What the fenced section leaves behind. */
interface Outcome {
  entry: Entry
  before: StreamStatus
  after: StreamStatus
  drain: DrainEvidence
  verify: VerifyReport
  clock: PauseClock
  /** What the pause was expected to be, in milliseconds. */
  estimate: number
}

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireSwitch(inputs)
    const first = await withBoth(inputs, (source, target) => lookFirst(context, source, target), context.signal)
    if (isOver(context, first)) return
    await holding(context, first, async (signal) => {
      const entry = await withBoth(inputs, (source, target) => settle(context, source, target), signal)
      if (isOver(context, entry)) return
      if (entry.phase === 'committed') await carryOn(context, entry, signal)
      else await cutOver(context, entry, signal)
    })
    context.output('verdict', 'go')
  },
}

/** Everything up to the decision, and the switch after it; the evidence is left whatever the switch comes to. */
async function cutOver(context: Cutover, entry: Entry, signal: AbortSignal): Promise<void> {
  const { inputs } = context
  const outcome = await withStream(inputs, entry, signal, (stream) => throughTheFence(context, entry, stream, signal))
  await withDatabase(inputs.target, 'target', async (target) => {
    let switched = false
    try {
      if (outcome.entry.phase === 'committed') outcome.entry = await switchOver(context, target, outcome.entry, signal)
      switched = true
    } finally {
      report(context, outcome, switched)
      await addEvidence(target, entry.id, 'cutover', evidence(context, outcome))
    }
  })
}

/** The decision was taken by an earlier run; what is left is to let the application write, and to point it there. */
async function carryOn(context: Cutover, entry: Entry, signal: AbortSignal): Promise<void> {
  await withDatabase(context.inputs.source, 'source', (source) => requireStillFenced(source, entry))
  await withDatabase(context.inputs.target, 'target', async (target) => {
    await openTarget(target, entry)
    const { phase } = await switchOver(context, target, entry, signal)
    context.summary(`### ✅ Cutover ${DECIDED[phase] ?? phase}\n\nThe decision was taken by an earlier run.`)
    if (phase === 'committed') context.summary(BY_HAND)
    await addEvidence(target, entry.id, 'cutover', { decision: 'commit', carriedOn: true, phase })
  })
}

/** @throws InputError when the inputs contradict each other */
function requireSwitch({ switch: how, switchCommand }: Cutover['inputs']): void {
  if (how === 'command' && !switchCommand?.length)
    throw new InputError('input `switch`: `command` needs `switch-command`; give it, or write `manual`')
  if (how === 'manual' && switchCommand?.length)
    throw new InputError('inputs `switch: manual` and `switch-command` contradict each other; write one of them')
}

function isOver(context: Cutover, { id, phase, updatedAt }: Entry): boolean {
  if (!DONE.includes(phase)) return false
  info(`nothing to do: migration ${id} is ${phase} since ${updatedAt.toISOString()}`)
  context.output('phase', phase)
  context.output('verdict', 'go')
  return true
}

function evidence(context: Cutover, { before, after, drain, verify, clock, entry, estimate }: Outcome) {
  const { decision } = context.inputs
  const { phase, plan } = entry
  return {
    ...{ decision, finalVerify: levelOf(context, plan), planHash: plan.hash, before, after, drain, verify },
    ...{ pauseMs: clock.total, parts: clock.parts, estimate, phase },
  }
}

/** Asks whoever streams now for the slot, and keeps others off until `work` is done. */
async function holding<T>(context: Cutover, entry: Entry, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { inputs } = context
  const holder = thisRun('cutover')
  const ttl = 2 * inputs.lease
  const lost = new AbortController()
  const signal = AbortSignal.any([context.signal, lost.signal])
  await withDatabase(
    inputs.target,
    'target',
    (target) => obtainSlot(target, entry.id, holder, inputs.handoverTimeout, ttl, context.signal),
    context.signal,
  )
  return keepingHold(
    new Link(inputs.target, 'target'),
    entry.id,
    holder,
    ttl,
    (error) => lost.abort(error),
    () => work(signal),
  ).catch((error) => {
    throw lost.signal.aborted ? lost.signal.reason : error
  })
}

/** All that can be told without the slot, while somebody else streams: whoever must be refused leaves them alone. */
async function lookFirst(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const entry = await requireEntry(target, context.inputs.migration, [...OPEN, ...DONE])
  await requireSameSource(source, entry)
  const { state } = await readFence(source)
  if (DONE.includes(entry.phase) || state === 'permanent') return entry
  requireApproved(context, entry)
  await requirePlannedTools(entry.plan, 'molt', 'replicator')
  await requireEndable(source, context.inputs.endSessions)
  await requireUnchanged(source, target, entry)
  await requireShut(target, entry)
  const lost = await lostDefinitions(target, entry.id, entry.facts.deferred)
  if (lost.length)
    refuse(
      'the target could not be made whole again',
      lost,
      'Unique indexes and constraints must be there before anyone writes to it.',
    )
  await requireFence(source, entry)
  return entry
}

/** Rights that were granted after `prepare` has closed the gate: whoever has them can write what nobody compares. */
async function requireShut(target: Database, { plan, facts }: Entry): Promise<void> {
  if (!facts.gate) return
  const open = await readWriteGrants(target, plan.targetSchema, plan.tables)
  if (open.length)
    refuse(
      'roles may write to the target that may not before the commit',
      open.map(({ role, privilege, table }) => `${role} has ${privilege} on ${table}`),
      'Somebody has granted these since `prepare`: revoke them, and verify again.',
    )
}

/** An approval is of one plan; what compares less than that says was approved by nobody. */
function requireApproved(context: Cutover, { id, phase, plan, facts }: Entry): void {
  const { approval } = facts
  if (phase !== 'approved' && !approval) return
  if (approval?.planHash !== plan.hash)
    throw new VerdictError(
      `the approval of migration \`${id}\` is of the plan ${approval?.planHash ?? 'none'}, and the ledger has ${plan.hash}; have this one approved`,
    )
  const planned = plan.finalVerify ?? 'full'
  const given = levelOf(context, plan)
  if (VERIFY_LEVELS.indexOf(given) > VERIFY_LEVELS.indexOf(planned))
    throw new VerdictError(
      `input \`final-verify\`: \`${given}\` compares less than the plan that was approved says (\`${planned}\`); leave it out, or \`prepare\` with \`final-verify: ${given}\` and have that approved`,
    )
}

function levelOf({ inputs }: Cutover, plan: Plan): VerifyLevel {
  return inputs.finalVerify ?? plan.finalVerify ?? 'full'
}

async function requireUnchanged(source: Database, target: Database, entry: Entry): Promise<void> {
  const changes = (await schemaChanges(source, target, entry)).map(describeChange)
  if (changes.length)
    refuse(
      'the schema has changed since `prepare`',
      changes,
      'DDL is frozen from the load to the cutover: take it back, or prepare and load again.',
    )
}

async function requireFence(source: Database, entry: Entry): Promise<void> {
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse(
      'the fence is not as it must be',
      problems,
      'Run `prepare` again; a new table or partition counts as a change of the plan.',
    )
}

/**
 * Where things really stand, once nobody else acts. The decision lives on the source, beside the fence: permanent there
 * means that the target has taken over, whatever the ledger says; anything else means that nothing was decided.
 */
async function settle(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const entry = await requireEntry(target, context.inputs.migration, [...OPEN, ...DONE])
  const { state, remainingMs } = await readFence(source)
  if (DONE.includes(entry.phase)) return entry
  if (state === 'permanent') {
    if (entry.phase !== 'committing' && entry.phase !== 'committed')
      throw new VerdictError(
        `the source is fenced for good, and the ledger says that migration \`${entry.id}\` is ${entry.phase}: no cutover of it has decided that. Find out who did; \`rollback\` makes the source writable again. Nothing was done`,
      )
    info(
      'the source is fenced for good: this migration was committed by an earlier run, which is carried on from there',
    )
    return entry.phase === 'committed' ? entry : advance(target, entry, 'committed')
  }
  if (entry.phase === 'committed')
    throw new VerdictError(
      'the ledger says committed, but the source is not fenced for good; someone has removed the fence. Nothing was done',
    )
  if (state === 'armed')
    throw new VerdictError(
      `the fence is armed, by a run that does not hold this migration or by hand; it falls by itself in ${seconds(remainingMs)}, or lift it with \`fence\``,
    )
  const again = await deferAgain(target, entry.id)
  if (again)
    info(`${again} unique indexes and constraints, rebuilt by a cutover that came to no decision, are off again`)
  await requireUnchanged(source, target, entry)
  await requireFence(source, entry)
  if (entry.phase !== 'committing') return entry
  return advance(target, entry, entry.facts.approval?.planHash === entry.plan.hash ? 'approved' : 'caught-up')
}

async function throughTheFence(context: Cutover, begun: Entry, stream: Stream, signal: AbortSignal): Promise<Outcome> {
  const { inputs } = context
  // Long before the pause: an application that meets the target without them would not be able to work.
  const entry = await withBoth(inputs, (source, target) => buildIndexes(source, target, begun), signal)
  const limits = { maxLag: inputs.maxLag, quietPeriod: inputs.quietPeriod, deadline: inputs.catchUpTimeout }
  const before = await untilCaughtUp(stream, limits, () => {})
  info(`caught up: lag ${seconds(before.lagMs)}`)
  checkpoint('caught up')
  return withBoth(
    inputs,
    async (source, target) => {
      const help = await toolHelp('molt', 'verify')
      const verified = await firstVerify(context, { entry, source, target, signal, help })
      const smokeMs = inputs.smokeTest && (await smokeTest(context, entry, signal))
      const fence = await planFence(source, entry.plan)
      const { refused } = await probeFence(source, fence)
      if (refused.length)
        throw new VerdictError(`the fence refuses writes to ${refused.join(', ')} although it is not armed`)
      const estimate = await requireShort(context, { entry, target, before, verified, smokeMs })
      await requireMoving(context, { stream, source, target, signal })
      checkpoint('before arming')
      const renewer = await connect(inputs.source, 'source', FENCE_TIMEOUT, signal)
      try {
        const held = new HeldFence(renewer, fence, inputs.lease)
        return await fenced(context, { entry, signal, help, stream, source, target, before, held, estimate })
      } finally {
        await renewer.end().catch(() => {})
      }
    },
    signal,
  )
}

/** The verify has taken its time: a stream that has got stuck since must not pause anybody. */
async function requireMoving(
  { inputs }: Cutover,
  { stream, source, target, signal }: Pick<Section, 'stream' | 'source' | 'target' | 'signal'>,
): Promise<void> {
  const { retries } = stream.status
  await untilCaughtUp(
    stream,
    { maxLag: inputs.maxLag, quietPeriod: MOVING_FOR, deadline: inputs.catchUpTimeout },
    () => {},
  )
  const { targetSchema } = stream.options.plan
  await passMarker(source, target, { targetSchema, markerTimeout: inputs.maxLag + MARKER_GRACE, signal }).catch(
    (error) => {
      stream.check()
      throw error instanceof UserError ? error : stream.stuck(messageOf(error))
    },
  )
  if (stream.status.retries > retries) throw stream.stuck('the replicator is retrying')
}

/** Milliseconds. */
const MOVING_FOR = 100
const MARKER_GRACE = 2_000

/** A statement on the fence that takes longer has met a broken connection; milliseconds. */
const FENCE_TIMEOUT = 3_000

interface Section {
  entry: Entry
  /** What `molt verify --help` says. */
  help: string
  /** Aborted when the run is cancelled, or another run has taken the hold. */
  signal: AbortSignal
  stream: Stream
  source: Database
  target: Database
  before: StreamStatus
  held: HeldFence
  estimate: number
}

/** From arming to the moment when writes are possible again. Whatever fails before the commit lifts the fence at once. */
async function fenced(context: Cutover, section: Section): Promise<Outcome> {
  const { inputs } = context
  const { stream, held, target, before, estimate } = section
  const clock = new PauseClock()
  let verify: VerifyReport | undefined
  const limit = deadlineSignal(section.signal, inputs.maxPause)
  const renewal = renewing(held, inputs.lease, inputs.holdersTimeout, limit)
  try {
    const { holders } = await clock.part('fence', () => held.arm(inputs.holdersTimeout, limit.signal))
    info(`writes are refused; ${plural(holders, 'writing transaction')} had to end first`)
    renewal.start()
    checkpoint('armed')
    const drain = await clock.part('drain', () => limit.race(proveDrain(stream, inputs.drainTimeout)))
    info(
      `drained: marker on the target after ${drain.markerSeenMs} ms, position confirmed after ${drain.positionConfirmedMs} ms`,
    )
    checkpoint('drained')
    // Before the verify, which would find what it has written after all.
    if (inputs.smokeTest)
      await clock.part('smoke test', () => limit.race(smokeTest(context, section.entry, limit.signal)))
    verify = await clock.part('verify', () => limit.race(finalVerify(context, section, limit.signal)))
    requireClean(verify, true)
    checkpoint('verified')
    await clock.part('sequences', () => limit.race(moveSequences(context, section)))
    checkpoint('sequences set')
    await clock.part('unique indexes', () => limit.race(rebuildUnique(section)))
    checkpoint('unique indexes built')
    await renewal.stop()
    limit.signal.throwIfAborted()
    const entry =
      inputs.decision === 'commit'
        ? await clock.part('commit', () => decide(context, section, limit))
        : await limit.race(takeBack(section, clock))
    if (entry.phase === 'committed') await clock.part('gate', () => openTarget(target, entry))
    return { entry, before, after: stream.status, drain, verify, clock, estimate }
  } catch (error) {
    const fence = await clock.part('lift', () => liftAfter(context, section, renewal.stop()))
    info(`writes were paused for ${seconds(clock.total)}: ${clock.text}`)
    context.output('pause-ms', clock.total)
    context.summary(`### ❌ Cutover failed: ${fence}\n\n${pauseText(clock)}`)
    if (verify) context.summary(verifyTable(verify))
    await leaveStreamable(context, section)
    throw limit.signal.aborted && !context.signal.aborted ? limit.signal.reason : error
  } finally {
    limit.clear()
  }
}

/** What was rebuilt is off again before the fence is: the stream goes on, and it would be in its way. */
async function takeBack(section: Section, clock: PauseClock): Promise<Entry> {
  const { entry, target, held } = section
  await clock.part('indexes off again', () => deferAgain(target, entry.id))
  await clock.part('lift', async () => {
    await requireHeld(section)
    if (!(await held.lift())) throw new VerdictError('the fence was changed by someone else before it could be lifted')
  })
  return entry
}

/** @throws VerdictError unless the fence has held since it was armed, and still does, and both sides are what was compared */
async function requireHeld({ source, target, stream, entry, held }: Section): Promise<void> {
  stream.check()
  await requireUnchanged(source, target, entry)
  await requireShut(target, entry)
  await held.requireRefused()
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse('the fence is not what it was', problems, 'A write may have gone past it; nothing was decided.')
}

/**
 * The decision. It lives on the source, beside the fence, and the ledger copies it: `committing` before, so that a
 * later run knows that it has to look, and `committed` after.
 */
async function decide(context: Cutover, section: Section, limit: Limit): Promise<Entry> {
  const { entry, target, held } = section
  await limit.race(requireHeld(section))
  const committing = await limit.race(advance(target, entry, 'committing', { facts: { writesPassed: held.passed } }))
  checkpoint('committing')
  // The last look at the target: a decision for a database that is gone would leave the application without any.
  const now = await limit.race(readEntry(target, committing.id))
  if (now?.nonce !== committing.nonce) throw new VerdictError('another run has moved this migration meanwhile')
  await held.commit(context.inputs.holdersTimeout, limit.signal)
  checkpoint('permanent on the source')
  const committed = await advance(target, committing, 'committed')
  checkpoint('committed')
  return committed
}

/** After a failure without a decision; whoever streams next does it where it could not be done here. */
async function leaveStreamable(context: Cutover, { entry }: Section): Promise<void> {
  try {
    const decided = await withDatabase(context.inputs.source, 'source', readFence)
    if (decided.state === 'permanent') return
    await withDatabase(context.inputs.target, 'target', (target) => deferAgain(target, entry.id))
  } catch (error) {
    info(`what was rebuilt on the target is taken off by the next run: ${messageOf(error)}`)
  }
}

/** The application may write to the target from now on. Repeatable: a run that is carried on does it again. */
async function openTarget(target: Database, { plan, facts }: Entry): Promise<void> {
  const missing = await openGate(target, plan.targetSchema, facts.gate ?? [])
  checkpoint('gate open')
  if (missing.length)
    refuse(
      'the migration is committed, but the application cannot write to the target yet',
      missing.map(({ role, privilege, table }) => `${role} lacks ${privilege} on ${table}`),
      'Grant these, and run `cutover` again for the switch.',
    )
}

/**
 * Lifts our fence after a failure, on a new connection: the old one may be what has failed. A fence that is permanent
 * by now stays, since then the decision was taken; what cannot be reached falls with its lease.
 * @param renewed settles when the last renewal has ended; one that hangs does not keep the application waiting, and one
 * that went through after all is lifted again
 * @returns in words, how the fence stands
 */
async function liftAfter(context: Cutover, { held }: Section, renewed: Promise<void>): Promise<string> {
  if (!held.tried.length) {
    await renewed
    return 'the fence was not raised'
  }
  try {
    const source = await connect(context.inputs.source, 'source', FENCE_TIMEOUT)
    try {
      if ((await readFence(source)).state === 'absent') return 'the fence was dropped by someone else'
      let lifted = await held.lift(source)
      await renewed
      lifted = (await held.lift(source)) || lifted
      const { state } = await readFence(source)
      if (state === 'permanent')
        warning(
          'the source is fenced for good: the decision for the target was taken before this failure. Run `cutover` again, which carries on from there',
        )
      else if (lifted) info('the fence is lifted: writes to the source are possible again')
      else info(`the fence is ${state}`)
      return state === 'permanent' ? 'the source is fenced for good; run `cutover` again' : `the fence is ${state}`
    } finally {
      await source.end().catch(() => {})
    }
  } catch (error) {
    if (await liftBy(held, renewed)) return 'the fence is lifted'
    warning(
      `the fence could not be lifted (${messageOf(error)}); it falls by itself within ${seconds(context.inputs.lease)}, unless the decision had been taken already: \`status\` tells`,
    )
    return `the fence falls by itself within ${seconds(context.inputs.lease)}, unless the decision had been taken`
  }
}

/** On the connection that has armed it, where no new one is to be had: an application that cannot write may hold all of them. */
async function liftBy(held: HeldFence, renewed: Promise<void>): Promise<boolean> {
  const lift = () => held.lift().catch(() => false)
  const lifted = await lift()
  await renewed
  if (!(await lift()) && !lifted) return false
  info('the fence is lifted: writes to the source are possible again')
  return true
}

/**
 * The first verify, while changes are streamed: what is lost already needs no write pause to be found, and what was
 * verified before the approval may be a day old.
 * @throws VerdictError when something differs that is no lag
 */
async function firstVerify(
  context: Cutover,
  { entry, source, target, signal, help }: Pick<Section, 'entry' | 'source' | 'target' | 'signal' | 'help'>,
): Promise<VerifyReport | undefined> {
  const { firstVerify: level } = context.inputs
  if (level === 'none') return undefined
  const options = { ...verifyOptions(context, entry, signal), help, level, while: 'streaming' as const }
  const report = await runVerify(source, target, options)
  info(
    `first verify, while changes are streamed: ${report.problems.length ? 'not clean' : 'clean'} after ${seconds(report.durationMs)}`,
  )
  if (level === 'full') await addEvidence(target, entry.id, 'verify', { ...report, partial: false })
  if (report.problems.length) context.summary(verifyTable(report))
  requireClean(report)
  return report
}

/** Once before writes are paused, so that a script that does not work pauses none, and once after the drain. */
function smokeTest({ inputs }: Cutover, entry: Entry, signal: AbortSignal): Promise<number> {
  return runCommand(
    entry,
    {
      ...{ words: inputs.smokeTest ?? [], name: 'smoke-test', timeout: inputs.smokeTestTimeout },
      env: { MOLT_SMOKE_TEST_TARGET: readOnlyUrl(inputs.target) },
      advice: 'The target was not taken over; put right what it has found, and run `cutover` again.',
    },
    signal,
  )
}

interface Looked {
  entry: Entry
  target: Database
  before: StreamStatus
  verified: VerifyReport | undefined
  smokeMs: number | undefined
}

/** @throws VerdictError when the pause would exceed `max-pause`, by what this run and its rehearsals have measured */
async function requireShort(context: Cutover, looked: Looked): Promise<number> {
  const { inputs } = context
  const { entry, target, before, verified, smokeMs } = looked
  const level = levelOf(context, entry.plan)
  const past = await readEvidence<{ planHash: string; finalVerify: string; parts: Parts }>(
    target,
    entry.id,
    'cutover',
    10,
  )
  const rehearsals = past
    .filter(({ body }) => body.planHash === entry.plan.hash && body.parts)
    .slice(0, 3)
    .map(({ body: { parts = {}, finalVerify } }) => {
      const { verify, ...others } = parts
      return finalVerify === level && verify !== undefined ? { ...others, verify } : others
    })
  const verifyMs = verified?.level === level ? verified.durationMs : /full|molt/.test(level) ? undefined : 1_000
  const rebuildMs = rebuildTime(await listDeferred(target, entry.id), verified)
  const { parts, total, unknown } = estimatePause({ lagMs: before.lagMs, verifyMs, smokeMs, rebuildMs, rehearsals })
  context.output('estimated-pause-ms', total)
  const of = `${partsText(parts)}${rehearsals.length ? `; with the figures of ${plural(rehearsals.length, 'earlier cutover')}` : ''}`
  info(`the write pause is expected to take about ${seconds(total)} (${of})`)
  if (unknown.length)
    warning(`nobody has measured the final verify; \`max-pause\` (${seconds(inputs.maxPause)}) ends it if need be`)
  if (total > inputs.maxPause)
    throw new VerdictError(
      `the write pause would take about ${seconds(total)} (${of}), more than \`max-pause\` (${seconds(inputs.maxPause)}); allow more, or compare less in it (\`final-verify: counts\`). Nothing was paused`,
    )
  return total
}

const INDEX_AT_LEAST = 50
const INDEXED_ROWS_A_MS = 100

/** By the rows of each table, when nobody has measured it; milliseconds. */
function rebuildTime(deferred: readonly Deferred[], verified: VerifyReport | undefined): number {
  const rows = new Map(verified?.tables.map((table) => [table.name, table.rows]))
  return deferred
    .filter(({ kind }) => kind !== 'index')
    .reduce(
      (sum, { kind, table }) =>
        sum + INDEX_AT_LEAST + (kind === 'unique' ? (rows.get(table) ?? 0) / INDEXED_ROWS_A_MS : 0),
      0,
    )
}

function verifyOptions(context: Cutover, { plan }: Entry, signal: AbortSignal) {
  const { inputs } = context
  const logFile = join(workFolder(inputs.migration), 'molt-verify.log')
  return { program: 'molt', sourceUrl: inputs.source, targetUrl: inputs.target, plan, logFile, signal }
}

async function finalVerify(context: Cutover, section: Section, signal: AbortSignal): Promise<VerifyReport> {
  const level = levelOf(context, section.entry.plan)
  const report = await runVerify(section.source, section.target, {
    ...verifyOptions(context, section.entry, signal),
    help: section.help,
    level,
  })
  context.output(
    'tables',
    JSON.stringify(
      report.tables.map(({ name, rows, missing, mismatch, extraneous }) => ({
        name,
        rows,
        missing,
        mismatch,
        extraneous,
      })),
    ),
  )
  return report
}

async function moveSequences(context: Cutover, { entry, source, target }: Section): Promise<void> {
  const { set, problems } = await setSequences(
    { db: source, schema: entry.plan.sourceSchema },
    { db: target, schema: entry.plan.targetSchema },
    entry.plan.tables,
    BigInt(context.inputs.sequenceMargin),
  )
  if (problems.length)
    refuse(
      'sequences could not be set',
      problems,
      'The next insert on the target could collide with a row that is there.',
    )
  info(`${plural(set.length, 'sequence is', 'sequences are')} set on the target and read back`)
}

/**
 * What was taken off the target for the load, and would have been in the stream's way: unique indexes before anyone
 * writes there, checks and foreign keys without looking at the rows. A rehearsal does it too, to know how long it takes.
 */
async function rebuildUnique({ entry, target }: Section): Promise<void> {
  const built: string[] = []
  for (const kind of ['unique', 'check', 'foreign-key'] as const)
    built.push(...(await rebuildDeferred(target, entry.id, kind)))
  if (built.length) info(`${built.length} unique indexes, checks and foreign keys are back on the target`)
}

/** The decision stands; this can fail, and can be run again. Until it is done the application has nowhere to write. */
async function switchOver(context: Cutover, target: Database, entry: Entry, signal: AbortSignal): Promise<Entry> {
  const { inputs } = context
  if (signal.aborted)
    throw new CancelledError(
      'the run was cancelled, or has lost its hold, after the decision: the source is fenced for good, and the target has taken over. Nothing is taken back; run `cutover` again, which carries on with the switch',
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
      ...{ words: inputs.switchCommand, name: 'switch', env: {}, timeout: inputs.switchTimeout },
      advice:
        'The migration is committed and stays so. Put the switch right and run `cutover` again, which repeats only the switch.',
    },
    signal,
  )
  checkpoint('switch command done')
  info(`the switch took ${seconds(took)}; writes to the target were possible already`)
  const switched = await advance(target, entry, 'switched')
  checkpoint('switched')
  context.output('phase', switched.phase)
  await endOld(context)
  return switched
}

const BY_HAND = `### Switch the application now

The source refuses writes for good, and the target takes them. Nothing has pointed the application there.

1. Point the application's connection string at the target, and restart it or its pools where they keep connections.
2. See it write there.
3. Run \`finalize\` with \`switched-by-hand: true\` (in the workflow: \`phase: finalize\`).

To go back instead, run \`rollback\` before anything is written to the target.`

function tellSwitch(): void {
  warning('`switch: manual`: point the application at the target now; until then it cannot write')
  info(BY_HAND)
}

/** Sessions that stay on the source can only be refused there. The decision stands, whatever comes of this. */
async function endOld({ inputs }: Cutover): Promise<void> {
  const { endSessions: roles } = inputs
  if (!roles?.length) return
  try {
    const ended = await withDatabase(inputs.source, 'source', (source) => endSessions(source, roles))
    info(`${plural(ended, 'session')} of ${roles.join(', ')} on the source ended`)
  } catch (error) {
    warning(`the application's sessions on the source could not be ended: ${messageOf(error)}`)
  }
}

const DECIDED: Partial<Record<Phase, string>> = {
  committed: 'committed: the source is fenced for good',
  switched: 'committed and switched: the target has taken over',
}

/** What came of it stands first on the page, with what is to be done now, and the tables after that. */
function report(context: Cutover, outcome: Outcome, switched: boolean): void {
  const { before, after, entry, clock } = outcome
  info(`writes were paused for ${clock.total} ms: ${clock.text}`)
  context.output('pause-ms', clock.total)
  context.output('pause-parts', JSON.stringify(clock.parts))
  context.output('lag-ms', before.lagMs)
  context.output('changes', after.changes)
  context.output('phase', entry.phase)
  const decided = DECIDED[entry.phase] ?? 'rehearsed: the fence is lifted'
  const head = switched ? `### ✅ Cutover ${decided}` : `### ❌ Cutover ${decided}, and the application is not switched`
  context.summary(
    `${head}\n\n${pauseText(clock)} Lag before: ${seconds(before.lagMs)}; ${number(after.changes)} changes streamed.`,
  )
  if (entry.phase === 'committed' && !context.inputs.switchCommand?.length) context.summary(BY_HAND)
  context.summary(verifyTable(outcome.verify))
}

function pauseText(clock: PauseClock): string {
  return `Writes were paused for **${number(clock.total)} ms** (${clock.text}).`
}
