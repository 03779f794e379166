import { info, warning } from '@actions/core'
import { keepingHold, obtainSlot, thisRun } from '../../ledger/hold.ts'
import { addEvidence, COMMITTED, type Entry, type Phase } from '../../ledger/ledger.ts'
import { namingAbort } from '../../phases/aborted.ts'
import { openTarget } from '../../phases/after-commit/open-target.ts'
import { awaitOldWriters, HeldFence, planFence, requireStillFenced } from '../../phases/cutover/held-fence.ts'
import { withLanes } from '../../phases/cutover/lanes.ts'
import { type Parts, pauseByHandText, pauseText } from '../../phases/cutover/pause.ts'
import type { RollingProof } from '../../phases/rolling/proof.ts'
import { buildIndexes } from '../../phases/stream/build-indexes.ts'
import { withStream } from '../../phases/stream/open.ts'
import { type Stream, untilCaughtUp } from '../../phases/stream/supervisor.ts'
import { passMarker } from '../../phases/verify/recheck.ts'
import { verifyTable } from '../../report/summary.ts'
import type { Action } from '../../runtime/action.ts'
import { checkpoint } from '../../runtime/checkpoint.ts'
import { connect, Link, withDatabase } from '../../runtime/database.ts'
import { InputError, messageOf, UserError, VerdictError } from '../../runtime/errors.ts'
import { noteNext } from '../../runtime/next.ts'
import { number, seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { probeFence } from '../../source/fence.ts'
import { logSlotOf, seizeAndDrop } from '../../source/slot.ts'
import { toolHelp } from '../../tools/versions.ts'
import { withBoth } from '../shared.ts'
import { DONE, lookFirst, settle } from './admission.ts'
import { smokeTest } from './commands.ts'
import { firstVerify } from './compare.ts'
import { dryRun } from './dry-run.ts'
import { offBy, requireShort } from './estimate.ts'
import { fenced, type Outcome } from './fenced.ts'
import { requirePast } from './retention.ts'
import { beginProof, chooseLevel, notNear } from './rolling.ts'
import type { Section } from './section.ts'
import { type Cutover, spec } from './spec.ts'
import { BY_HAND, switchOver } from './switch.ts'

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireSwitch(inputs)
    const first = await withBoth(context, (source, target) => lookFirst(context, source, target))
    if (isOver(context, first)) return
    if (inputs.dryRun) return withBoth(context, (source, target) => dryRun(context, first, source, target))
    await namingAbort(context, first.id, () =>
      holding(context, first, async (signal) => {
        const entry = await withBoth({ inputs, signal }, (source, target) => settle(context, source, target))
        if (isOver(context, entry)) return
        if (entry.phase === 'committed') await carryOn(context, entry, signal)
        else await cutOver(context, entry, signal)
      }),
    )
    context.output('verdict', 'go')
  },
}

/** Runs everything up to the commit, then the switch. Writes the evidence even if the switch fails. */
async function cutOver(context: Cutover, entry: Entry, signal: AbortSignal): Promise<void> {
  const { inputs } = context
  const outcome = await withStream(inputs, entry, signal, (stream) => throughTheFence(context, entry, stream, signal))
  await withDatabase(inputs.target, 'target', async (target) => {
    let switched = false
    try {
      if (outcome.entry.phase === 'committed') {
        outcome.entry = await switchOver(context, target, outcome.entry, signal)
        await dropLog(context, entry)
      }
      if (inputs.decision === 'rehearse') noteNext({ action: 'cutover', inputs: { decision: 'commit' } })
      switched = true
    } finally {
      report(context, outcome, switched)
      await addEvidence(target, entry.id, 'cutover', evidence(context, outcome))
    }
  })
}

/** Drops the change log's slot, which nothing reads after the cutover. */
async function dropLog({ inputs }: Cutover, { plan }: Entry): Promise<void> {
  const slot = logSlotOf(plan.slot)
  await withDatabase(inputs.source, 'source', (source) => seizeAndDrop(source, slot)).catch((error) =>
    warning(`the slot ${slot} keeps WAL on the source until \`cleanup\` drops it: ${messageOf(error)}`),
  )
}

/** Resumes after an earlier run's commit: gives the application write access, then switches it. */
async function carryOn(context: Cutover, entry: Entry, signal: AbortSignal): Promise<void> {
  await withDatabase(context.inputs.source, 'source', (source) => requireStillFenced(source, entry))
  await withDatabase(context.inputs.target, 'target', async (target) => {
    await openTarget(target, entry)
    const { phase } = await switchOver(context, target, entry, signal)
    await dropLog(context, entry)
    context.summary(`### ✅ Cutover ${DECIDED[phase] ?? phase}\n\nAn earlier run committed this migration.`)
    if (phase === 'committed') context.summary(BY_HAND)
    await addEvidence(target, entry.id, 'cutover', { decision: 'commit', carriedOn: true, phase })
  })
}

/** @throws InputError when the inputs contradict each other */
function requireSwitch({ switch: how, switchCommand }: Cutover['inputs']): void {
  if (how === 'command' && !switchCommand?.length)
    throw new InputError(
      'input.missing',
      'input `switch`: `command` needs `switch-command`. Set it, or set `switch: manual`',
    )
  if (how === 'manual' && switchCommand?.length)
    throw new InputError(
      'input.conflict',
      'inputs `switch: manual` and `switch-command` contradict each other. Remove one of them',
    )
}

function isOver(context: Cutover, { id, phase, updatedAt }: Entry): boolean {
  if (!DONE.includes(phase)) return false
  info(`nothing to do: migration ${id} has been ${phase} since ${updatedAt.toISOString()}`)
  context.output('phase', phase)
  context.output('verdict', 'go')
  return true
}

function evidence(context: Cutover, { before, after, drain, verify, clock, entry, estimate, samples }: Outcome) {
  const { decision } = context.inputs
  const { phase, plan } = entry
  return {
    decision,
    finalVerify: verify.level,
    planHash: plan.hash,
    before,
    after,
    drain,
    verify,
    pauseMs: clock.total,
    parts: clock.parts,
    estimate: { totalMs: estimate.total, parts: estimate.parts },
    offBy: offBy(estimate.total, clock.total),
    unwatchedMs: unwatchedMs(clock.parts),
    samples,
    phase,
  }
}

/** Milliseconds from the end of the final verification to the commit. */
function unwatchedMs(parts: Parts): number {
  const of = (part: string) => parts[part] ?? 0
  // Sequences and indexes run in parallel with the verify, and may take longer.
  return Math.max(0, of('sequences') + of('unique indexes') - of('verify')) + of('commit')
}

/** Takes over the slot from the streaming run, and keeps the migration locked until `work` finishes. */
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

async function throughTheFence(context: Cutover, begun: Entry, stream: Stream, signal: AbortSignal): Promise<Outcome> {
  const { inputs } = context
  // Build these long before the pause. The application needs them on the target.
  const entry = await withBoth({ inputs, signal }, (source, target) => buildIndexes(source, target, begun))
  const limits = { maxLag: inputs.maxLag, quietPeriod: inputs.quietPeriod, deadline: inputs.catchUpTimeout }
  const before = await untilCaughtUp(stream, limits)
  info(`caught up: lag ${seconds(before.lagMs)}`)
  checkpoint('caught up')
  return withBoth({ inputs, signal }, async (source, target) => {
    const proof = await beginProof(context, entry, { source, target }, stream, signal)
    try {
      return await pauseWrites(context, { entry, stream, signal, source, target, before }, proof)
    } finally {
      await proof?.close()
    }
  })
}

/** Runs the last checks before the pause, then the pause itself. */
async function pauseWrites(
  context: Cutover,
  {
    entry,
    stream,
    signal,
    source,
    target,
    before,
  }: Pick<Section, 'entry' | 'stream' | 'signal' | 'source' | 'target' | 'before'>,
  proof: RollingProof | undefined,
): Promise<Outcome> {
  const { inputs } = context
  const help = await toolHelp('molt', 'verify')
  const choice = await chooseLevel(context, entry, { source, target }, stream, proof, signal)
  const rolling = choice.level === 'changed'
  // A complete proof covers what the first verify would check.
  const verified = rolling ? undefined : await firstVerify(context, { entry, source, target, signal, help })
  const smokeMs = inputs.smokeTest && (await smokeTest(context, entry, signal))
  const fence = await planFence(source, entry.plan)
  const { refused } = await probeFence(source, fence)
  if (refused.length)
    throw new VerdictError(
      'fence.refuses-unarmed',
      `the fence refuses writes to ${refused.join(', ')} although it is not armed. Run \`prepare\` again`,
    )
  await requirePast(context, { entry, target, verified })
  const grantMs = stream.options.login?.grantMs
  const estimate = await requireShort(context, { entry, source, target, before, verified, choice, smokeMs, grantMs })
  for (let round = 1; ; round++) {
    await requireMoving(context, { stream, source, target, signal })
    if (rolling && !(await proof?.untilNear(signal))) throw notNear(proof)
    const waitedMs = await awaitOldWriters(source, fence, inputs.holdersTimeout, signal)
    if (waitedMs < LARGE_AFTER || round >= LARGE_ROUNDS) break
    info(`a transaction ended after ${seconds(waitedMs)}; waiting for its rows to be streamed`)
  }
  // From here on, only the drain may write a marker.
  const session = await proof?.halt()
  if (rolling && !session) throw notNear(proof)
  checkpoint('before arming')
  const renewer = await connect(inputs.source, 'source', TIMING.fenceTimeout, signal)
  try {
    const held = new HeldFence(renewer, fence, inputs.lease)
    const section = { entry, signal, help, stream, source, target, before, held, estimate, level: choice.level }
    return await withLanes(inputs, { target, migration: entry.id, login: stream.options.login, signal }, (lanes) =>
      fenced(context, { ...section, lanes, proof: rolling ? session : undefined }),
    )
  } finally {
    await renewer.end().catch(() => {})
  }
}

/**
 * A transaction that was open for this many milliseconds may have written many rows, which would lengthen the pause.
 */
const LARGE_AFTER = 500
/** Maximum rounds of checks of the stream and the change log before a pause. */
const LARGE_ROUNDS = 4

/** Checks that the stream is still progressing, so that no pause begins if it got stuck during the verify. */
async function requireMoving(
  { inputs }: Cutover,
  { stream, source, target, signal }: Pick<Section, 'stream' | 'source' | 'target' | 'signal'>,
): Promise<void> {
  const { targetSchema } = stream.options.plan
  for (let round = 1; ; round++) {
    const { retries } = stream.status
    await untilCaughtUp(stream, {
      maxLag: inputs.maxLag,
      quietPeriod: TIMING.movingFor,
      deadline: inputs.catchUpTimeout,
    })
    await passMarker(source, target, { targetSchema, markerTimeout: inputs.maxLag + TIMING.markerGrace, signal }).catch(
      (error) => {
        stream.check()
        throw error instanceof UserError ? error : stream.stuck(messageOf(error))
      },
    )
    if (stream.status.retries === retries) return
    // Occasional retries are normal on CockroachDB. A stream that retries in every round is stuck.
    if (round >= MOVING_ROUNDS) throw stream.stuck('the replicator is retrying')
  }
}

const MOVING_ROUNDS = 3

const DECIDED: Partial<Record<Phase, string>> = {
  committed: 'committed: the source is permanently fenced',
  switched: 'committed and switched: the target has taken over',
}

/** Writes the summary: the outcome and the next step first, then the tables. */
function report(context: Cutover, outcome: Outcome, switched: boolean): void {
  const { before, after, entry, clock } = outcome
  info(`writes were paused for ${clock.total} ms: ${clock.text}`)
  if (COMMITTED.includes(entry.phase))
    info(
      `${entry.facts.writeAccessWaived ? 'every role with write privileges' : 'an administrator'} could write to the target for ${unwatchedMs(clock.parts)} ms between the final verify and the commit; \`finalize\` compares all rows to detect such writes`,
    )
  context.output('pause-ms', clock.total)
  context.output('pause-parts', JSON.stringify(clock.parts))
  context.output('lag-ms', before.lagMs)
  context.output('changes', after.changes)
  context.output('phase', entry.phase)
  const decided = DECIDED[entry.phase] ?? 'rehearsed: the fence is lifted'
  const byHand = entry.phase === 'committed' && !context.inputs.switchCommand?.length
  const head = switched
    ? `### ✅ Cutover ${decided}`
    : `### ❌ Cutover ${decided}, but the application was not switched`
  context.summary(
    `${head}\n\n${byHand ? pauseByHandText(clock) : pauseText(clock)} Lag before: ${seconds(before.lagMs)}; ${number(after.changes)} changes streamed.`,
  )
  if (byHand) context.summary(BY_HAND)
  context.summary(verifyTable(outcome.verify))
}
