import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { describeChange } from '../../migration/fingerprint.ts'
import { verifyTable } from '../../report/summary.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import { connect, type Database, Link, withDatabase } from '../../runtime/database.ts'
import { CancelledError, messageOf, refuse, VerdictError } from '../../runtime/errors.ts'
import { addSecret } from '../../runtime/masking.ts'
import { number, seconds, workFolder } from '../../runtime/progress.ts'
import { fenceProblems, liftFence, probeFence, readFence } from '../../source/fence.ts'
import { setSequences } from '../../sql/sequences.ts'
import { type DrainEvidence, proveDrain } from '../../steps/drain.ts'
import { HeldFence, planFence } from '../../steps/fencing.ts'
import { withStream } from '../../steps/open-stream.ts'
import { schemaChanges } from '../../steps/schema-changes.ts'
import { type Stream, type StreamStatus, untilCaughtUp } from '../../steps/stream.ts'
import { runVerify, type VerifyReport } from '../../steps/verifying.ts'
import { rebuildDeferred } from '../../target/deferral.ts'
import { openGate } from '../../target/gate.ts'
import {
  addEvidence,
  advance,
  type Entry,
  keepingHold,
  obtainSlot,
  type Phase,
  readEntry,
  requireEntry,
  thisRun,
} from '../../target/ledger.ts'
import { Child } from '../../tools/process.ts'
import { toolHelp } from '../../tools/versions.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { requireClean } from '../verify/run.ts'
import { spec } from './spec.ts'

type Cutover = Context<typeof spec>

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
}

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    const entry = await withBoth(inputs, (source, target) => settle(context, source, target))
    if (DONE.includes(entry.phase)) {
      info(`nothing to do: migration ${entry.id} is ${entry.phase} since ${entry.updatedAt.toISOString()}`)
      context.output('phase', entry.phase)
      context.output('verdict', 'go')
      return
    }
    if (entry.phase === 'committed') {
      const again = new PauseClock()
      await withDatabase(inputs.target, 'target', (target) => switchOver(context, target, entry, again))
      context.output('verdict', 'go')
      return
    }
    const outcome = await holding(context, entry, (signal) =>
      withStream(inputs, entry, signal, (stream) => throughTheFence(context, entry, stream, signal)),
    )
    await withDatabase(inputs.target, 'target', async (target) => {
      try {
        if (outcome.entry.phase === 'committed')
          outcome.entry = await switchOver(context, target, outcome.entry, outcome.clock)
      } finally {
        report(context, outcome)
        await addEvidence(target, entry.id, 'cutover', evidence(context, outcome))
      }
    })
    context.output('verdict', 'go')
  },
}

function evidence(context: Cutover, { before, after, drain, verify, clock, entry }: Outcome) {
  const { decision } = context.inputs
  return { decision, before, after, drain, verify, pauseMs: clock.total, parts: clock.parts, phase: entry.phase }
}

/** Asks whoever streams now for the slot, and keeps others off until `work` is done. */
async function holding<T>(context: Cutover, entry: Entry, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { inputs } = context
  const holder = thisRun('cutover')
  const ttl = 2 * inputs.lease
  const lost = new AbortController()
  const signal = AbortSignal.any([context.signal, lost.signal])
  await withDatabase(inputs.target, 'target', (target) =>
    obtainSlot(target, entry.id, holder, inputs.handoverTimeout, ttl, context.signal),
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

/**
 * Where things really stand. The decision lives on the source, beside the fence: permanent there means that the
 * target has taken over, whatever the ledger says; anything else means that nothing was decided.
 */
async function settle(context: Cutover, source: Database, target: Database): Promise<Entry> {
  const phases = ['caught-up', 'approved', 'committing', 'committed', ...DONE] as const
  const entry = await requireEntry(target, context.inputs.migration, phases)
  await requireSameSource(source, entry)
  const { state } = await readFence(source)
  if (DONE.includes(entry.phase)) return entry
  if (state === 'permanent') {
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
    throw new VerdictError('the fence is armed: another run is cutting over; wait for its lease to end')
  const changes = (await schemaChanges(source, target, entry)).map(describeChange)
  if (changes.length)
    refuse(
      'the schema has changed since `prepare`',
      changes,
      'DDL is frozen from the load to the cutover: take it back, or prepare and load again.',
    )
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse(
      'the fence is not as it must be',
      problems,
      'Run `prepare` again; a new table or partition counts as a change of the plan.',
    )
  return entry.phase === 'committing' ? advance(target, entry, 'caught-up') : entry
}

async function throughTheFence(context: Cutover, entry: Entry, stream: Stream, signal: AbortSignal): Promise<Outcome> {
  const { inputs } = context
  const limits = { maxLag: inputs.maxLag, quietPeriod: inputs.quietPeriod, deadline: inputs.catchUpTimeout }
  const before = await untilCaughtUp(stream, limits, () => {})
  info(`caught up: lag ${seconds(before.lagMs)}`)
  return withBoth(inputs, async (source, target) => {
    const fence = await planFence(source, entry.plan)
    const { refused } = await probeFence(source, fence)
    if (refused.length)
      throw new VerdictError(`the fence refuses writes to ${refused.join(', ')} although it is not armed`)
    const help = await toolHelp('molt', 'verify')
    await firstVerify(context, { entry, source, target, signal, help })
    const renewer = await connect(inputs.source, 'source', FENCE_TIMEOUT)
    try {
      return await fenced(context, {
        entry,
        signal,
        help,
        stream,
        source,
        target,
        before,
        held: new HeldFence(renewer, fence, inputs.lease),
      })
    } finally {
      await renewer.end().catch(() => {})
    }
  })
}

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
}

/** From arming to the decision. Whatever fails before the commit lifts the fence at once. */
async function fenced(context: Cutover, section: Section): Promise<Outcome> {
  const { inputs } = context
  const { stream, held } = section
  const clock = new PauseClock()
  const limit = deadlineSignal(section.signal, inputs.maxPause)
  const renewal = renewing(held, inputs.lease, inputs.holdersTimeout, limit)
  checkpoint('before arming')
  try {
    const { holders } = await clock.part('fence', () => held.arm(inputs.holdersTimeout, limit.signal))
    info(`writes are refused; ${holders} writing transactions had to end first`)
    renewal.start()
    checkpoint('armed')
    const drain = await clock.part('drain', () => limit.race(proveDrain(stream, inputs.drainTimeout)))
    info(
      `drained: marker on the target after ${drain.markerSeenMs} ms, position confirmed after ${drain.positionConfirmedMs} ms`,
    )
    checkpoint('drained')
    const verify = await clock.part('verify', () => limit.race(finalVerify(context, section, limit.signal)))
    requireClean(verify)
    checkpoint('verified')
    await clock.part('sequences', () => limit.race(moveSequences(context, section)))
    checkpoint('sequences set')
    await clock.part('unique indexes', () => limit.race(rebuildUnique(context, section)))
    await renewal.stop()
    limit.signal.throwIfAborted()
    const entry = await clock.part(inputs.decision === 'commit' ? 'commit' : 'lift', () =>
      decide(context, section, limit),
    )
    return { entry, before: section.before, after: stream.status, drain, verify, clock }
  } catch (error) {
    await renewal.stop()
    await clock.part('lift', () => liftAfter(context, section))
    info(`writes were paused for ${seconds(clock.total)}: ${clock.text}`)
    context.output('pause-ms', clock.total)
    throw limit.signal.aborted && !context.signal.aborted ? limit.signal.reason : error
  } finally {
    limit.clear()
  }
}

/**
 * The decision, or its rehearsal. It lives on the source, beside the fence, and the ledger copies it: `committing`
 * before, so that a later run knows that it has to look, and `committed` after.
 */
async function decide(context: Cutover, section: Section, limit: Limit): Promise<Entry> {
  const { inputs } = context
  const { entry, source, target, held } = section
  await held.requireRefused()
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (problems.length)
    refuse('the fence is not what it was', problems, 'A write may have gone past it; nothing was decided.')
  if (inputs.decision === 'rehearse') {
    if (await held.lift()) return entry
    throw new VerdictError('the fence was changed by someone else before it could be lifted')
  }
  const committing = await advance(target, entry, 'committing')
  checkpoint('committing')
  // The last look at the target: a decision for a database that is gone would leave the application without any.
  const now = await readEntry(target, committing.id)
  if (now?.nonce !== committing.nonce) throw new VerdictError('another run has moved this migration meanwhile')
  await held.commit(inputs.holdersTimeout, limit.signal)
  checkpoint('permanent on the source')
  const committed = await advance(target, committing, 'committed')
  checkpoint('committed')
  return committed
}

/** The application may write to the target from now on. Repeatable: a run that is carried on does it again. */
async function openTarget(target: Database, { plan, facts }: Entry): Promise<void> {
  const missing = await openGate(target, plan.targetSchema, facts.gate ?? [])
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
 */
async function liftAfter(context: Cutover, { held }: Section): Promise<void> {
  if (!held.lease) return
  try {
    const source = await connect(context.inputs.source, 'source', FENCE_TIMEOUT)
    try {
      const lifted = await liftFence(source, held.lease)
      const { state } = await readFence(source)
      if (lifted) info('the fence is lifted: writes to the source are possible again')
      else if (state === 'permanent')
        warning(
          'the source is fenced for good: the decision for the target was taken before this failure. Run `cutover` again, which carries on from there',
        )
      else info(`the fence is ${state}`)
    } finally {
      await source.end().catch(() => {})
    }
  } catch (error) {
    warning(
      `the fence could not be lifted (${messageOf(error)}); it falls by itself within ${seconds(context.inputs.lease)}`,
    )
  }
}

/** Beside the verify: fence, drain, sequences and decision took some 0.3 s in all on two embedded servers. */
const PAUSE_BESIDE_VERIFY = 2_000

/**
 * The first verify, while changes are streamed: what is lost already needs no write pause to be found. Its duration
 * tells what the pause will be.
 * @throws VerdictError when something differs that is no lag, or the pause would exceed `max-pause`
 */
async function firstVerify(
  context: Cutover,
  { entry, source, target, signal, help }: Pick<Section, 'entry' | 'source' | 'target' | 'signal' | 'help'>,
): Promise<void> {
  const { inputs } = context
  const { firstVerify: level } = inputs
  if (level === 'none') return
  const options = { ...verifyOptions(context, entry, signal), help, level, while: 'streaming' as const }
  const report = await runVerify(source, target, options)
  info(
    `first verify, while changes are streamed: ${report.problems.length ? 'not clean' : 'clean'} after ${seconds(report.durationMs)}`,
  )
  if (report.problems.length) context.summary(verifyTable(report))
  requireClean(report)
  const verify =
    inputs.finalVerify === level ? report.durationMs : /full|molt/.test(inputs.finalVerify) ? undefined : 1_000
  if (verify === undefined) return
  const estimate = verify + PAUSE_BESIDE_VERIFY
  context.output('estimated-pause-ms', estimate)
  info(`the write pause is expected to take about ${seconds(estimate)}`)
  if (estimate > inputs.maxPause)
    throw new VerdictError(
      `the write pause would take about ${seconds(estimate)}, more than \`max-pause\` (${seconds(inputs.maxPause)}); allow more, or compare less in it (\`final-verify: counts\`). Nothing was paused`,
    )
}

function verifyOptions(context: Cutover, { plan }: Entry, signal: AbortSignal) {
  const { inputs } = context
  const logFile = join(workFolder(inputs.migration), 'molt-verify.log')
  return { program: 'molt', sourceUrl: inputs.source, targetUrl: inputs.target, plan, logFile, signal }
}

async function finalVerify(context: Cutover, section: Section, signal: AbortSignal): Promise<VerifyReport> {
  const level = context.inputs.finalVerify
  const report = await runVerify(section.source, section.target, {
    ...verifyOptions(context, section.entry, signal),
    help: section.help,
    level,
  })
  context.summary(verifyTable(report))
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
  info(`${set.length} sequences are set on the target and read back`)
}

/**
 * What was taken off the target for the load, and would have been in the stream's way: unique indexes before anyone
 * writes there, checks and foreign keys without looking at the rows. A rehearsal leaves them off: it may stream again.
 */
async function rebuildUnique(context: Cutover, { entry, target }: Section): Promise<void> {
  if (context.inputs.decision !== 'commit') return
  const built: string[] = []
  for (const kind of ['unique', 'check', 'foreign-key'] as const)
    built.push(...(await rebuildDeferred(target, entry.id, kind)))
  if (built.length) info(`${built.length} unique indexes, checks and foreign keys are back on the target`)
}

/** The decision stands; this can fail, and can be run again. Until it is done nobody can write on either side. */
async function switchOver(context: Cutover, target: Database, entry: Entry, clock: PauseClock): Promise<Entry> {
  await clock.part('gate', () => openTarget(target, entry))
  const [program, ...args] = context.inputs.switchCommand ?? []
  if (!program) {
    context.summary(
      '### Switch the application now\n\nThe source refuses writes for good, and nobody can write until the application uses the target. Point its connection string there, and run `finalize` with `switched-by-hand: true` afterwards.',
    )
    context.output('phase', entry.phase)
    return entry
  }
  await clock.part('switch', () => runSwitch(context, program, args))
  checkpoint('switch command done')
  const switched = await advance(target, entry, 'switched')
  checkpoint('switched')
  context.output('phase', switched.phase)
  return switched
}

/** What the workflow hands to the switch command alone; no other child process sees it. */
function switchSecrets(): Record<string, string> {
  const given = Object.entries(process.env).filter(([name, value]) => name.startsWith('MOLT_SWITCH_') && value)
  for (const [, value] of given) addSecret(value as string)
  return Object.fromEntries(given) as Record<string, string>
}

async function runSwitch(context: Cutover, program: string, args: string[]): Promise<void> {
  const child = new Child({
    program,
    args,
    env: { ...switchSecrets(), MOLT_ACTIONS_MIGRATION: context.inputs.migration },
    logFile: join(workFolder(context.inputs.migration), 'switch.log'),
    onLine: (line) => info(line),
  })
  const timer = setTimeout(() => void child.stop(), context.inputs.switchTimeout)
  const exit = await child.exited
  clearTimeout(timer)
  if (exit.code !== 0)
    throw child.failure(
      undefined,
      'The migration is committed and stays so. Put the switch right and run `cutover` again, which repeats only the switch.',
    )
}

function report(context: Cutover, outcome: Outcome): void {
  const { before, after, entry, clock } = outcome
  info(`writes were paused for ${clock.total} ms: ${clock.text}`)
  context.output('pause-ms', clock.total)
  context.output('pause-parts', JSON.stringify(clock.parts))
  context.output('lag-ms', before.lagMs)
  context.output('changes', after.changes)
  context.output('phase', entry.phase)
  const decided = {
    committed: 'committed: the source is fenced for good',
    switched: 'committed and switched: the target has taken over',
  }[entry.phase as string]
  context.summary(
    `### Cutover ${decided ?? 'rehearsed: the fence is lifted'}\n\nWrites were paused for **${number(clock.total)} ms** (${clock.text}). Lag before: ${seconds(before.lagMs)}; ${number(after.changes)} changes streamed.`,
  )
}

/** The write pause by part, by this runner's monotonic clock: from the first part's beginning to the last one's end. */
class PauseClock {
  readonly parts: Record<string, number> = {}
  #began: number | undefined
  #ended = 0

  async part<T>(name: string, work: () => Promise<T>): Promise<T> {
    const began = performance.now()
    this.#began ??= began
    try {
      return await work()
    } finally {
      this.#ended = performance.now()
      this.parts[name] = Math.round(this.#ended - began)
    }
  }

  get total(): number {
    return this.#began === undefined ? 0 : Math.round(this.#ended - this.#began)
  }

  get text(): string {
    return Object.entries(this.parts)
      .map(([part, ms]) => `${part} ${number(ms)} ms`)
      .join(', ')
  }
}

interface Limit {
  signal: AbortSignal
  fail(error: Error): void
  race<T>(work: Promise<T>): Promise<T>
  clear(): void
}

/** One deadline for the whole section: cancelled by the run, by `max-pause`, or by a lease that cannot be renewed. */
function deadlineSignal(outer: AbortSignal, maxPause: number): Limit {
  const controller = new AbortController()
  const cancel = () => controller.abort(outer.reason ?? new CancelledError('the run was cancelled'))
  outer.addEventListener('abort', cancel, { once: true })
  const tooLong = () =>
    controller.abort(new VerdictError(`writes were paused for longer than \`max-pause\` (${seconds(maxPause)})`))
  const timer = setTimeout(tooLong, maxPause)
  const aborted = new Promise<never>((_, reject) => {
    controller.signal.addEventListener('abort', () => reject(controller.signal.reason), { once: true })
  })
  aborted.catch(() => {})
  return {
    signal: controller.signal,
    fail: (error) => controller.abort(error),
    race: (work) => Promise.race([work, aborted]),
    clear() {
      clearTimeout(timer)
      outer.removeEventListener('abort', cancel)
    },
  }
}

/** Renews the lease three times in its life; a renewal that fails, or finds a gap, fails the section. */
function renewing(held: HeldFence, lease: number, holdersTimeout: number, limit: Limit) {
  let timer: NodeJS.Timeout | undefined
  let current: Promise<void> = Promise.resolve()
  return {
    start() {
      timer = setInterval(() => {
        current = held.renew(holdersTimeout, limit.signal).catch((error) => limit.fail(error))
      }, lease / 3)
    },
    async stop() {
      clearInterval(timer)
      await current
    },
  }
}
