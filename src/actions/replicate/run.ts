import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'
import { keepingHold, readApproval, runText, setApproval, slotRequest, takeHold, thisRun } from '../../ledger/hold.ts'
import { addEvidence, advance, type Entry, readEntry, readEvidence, STREAMING } from '../../ledger/ledger.ts'
import { namingAbort } from '../../phases/aborted.ts'
import { lookAtApproval } from '../../phases/approval/approval.ts'
import { planFence } from '../../phases/cutover/held-fence.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import type { RollingProof } from '../../phases/rolling/proof.ts'
import { type Coverage, reportCoverage } from '../../phases/rolling/report.ts'
import { startProof } from '../../phases/rolling/start.ts'
import { buildIndexes } from '../../phases/stream/build-indexes.ts'
import { type DrainEvidence, proveDrain } from '../../phases/stream/drain.ts'
import { withStream } from '../../phases/stream/open.ts'
import type { Sample } from '../../phases/stream/samples.ts'
import { type Stream, type StreamStatus, untilCaughtUp } from '../../phases/stream/supervisor.ts'
import { requireClean } from '../../phases/verify/verdict.ts'
import { runVerify } from '../../phases/verify/verify.ts'
import { verifyTable } from '../../report/summary.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, Link, withDatabase } from '../../runtime/database.ts'
import { messageOf, refuse, throwIfCancelled, VerdictError } from '../../runtime/errors.ts'
import { connectGithub, ONE_TRY } from '../../runtime/github.ts'
import { notify } from '../../runtime/notify.ts'
import { number, plural, seconds, workFolder } from '../../runtime/progress.ts'
import { redact } from '../../runtime/secrets.ts'
import { TIMING } from '../../runtime/timing.ts'
import { fenceProblems, fenceVersion, readFence, writesPassed } from '../../source/fence.ts'
import { logSlotOf, readSlot, seizeAndDrop, slotLoss, slotProblems } from '../../source/slot.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { spec } from './spec.ts'

type Replicate = Context<typeof spec>
/** GitHub's runners end a job after 6 hours. */
const LONGEST_LEG = 5 * 3_600_000
type Ending = 'request' | 'approved' | 'over' | 'declined' | 'expired' | 'leg-limit'

/** What one run records as evidence: how it ended, its positions, lag and counts. */
interface Account {
  until: string
  endedBy: string
  began: string
  status: StreamStatus
  startLsn: string | null
  endLsn: string | null
  drain?: DrainEvidence
  diagnoses: Record<string, number>
  observations: readonly string[]
  samples: readonly Sample[]
  failure?: string
}

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    const holder = thisRun(`replicate, until ${inputs.until}`)
    const entry = await withBoth(context, async (source, target) => {
      const entry = await requireMigration(source, target, inputs.migration, STREAMING)
      await requirePlannedTools(
        entry.plan,
        inputs,
        'replicator',
        ...(inputs.verify === 'none' ? [] : ['molt' as const]),
      )
      const problems = await slotProblems(source, { ...entry.plan, schema: entry.plan.sourceSchema })
      if (problems.length)
        refuse(
          slotLoss(await readSlot(source, entry.plan.slot)) ?? 'publication.unfit',
          'the stream cannot start',
          problems,
          'Fix these. If the stream has missed changes, load again.',
        )
      if (inputs.until === 'drained') await requireFenced(source, entry)
      await takeHold(target, entry.id, holder, TIMING.hold)
      return entry
    })
    const stop = new AbortController()
    const signal = AbortSignal.any([context.signal, stop.signal])
    let lost: unknown
    const onLost = (error: unknown) => {
      lost = error
      stop.abort()
    }
    await namingAbort(context, entry.id, () =>
      keepingHold(new Link(inputs.target, 'target'), entry.id, holder, TIMING.hold, onLost, async () => {
        try {
          const endedBy = await withStream(inputs, entry, signal, (stream) => accounted(context, entry, stream, signal))
          if (endedBy === 'declined' || endedBy === 'expired') await endUnapproved(context, entry, endedBy)
        } catch (error) {
          throw lost ?? error
        }
      }),
    )
  },
}

/**
 * Notifies, and drops the slot if `on-declined` says so.
 * @throws VerdictError always, because someone must decide how to continue
 */
async function endUnapproved({ inputs }: Replicate, entry: Entry, ending: 'declined' | 'expired'): Promise<void> {
  const dropped = inputs.onDeclined === 'drop-slot'
  notify('declined', { ending, slot: dropped ? 'dropped' : 'kept' })
  const slots = [entry.plan.slot, logSlotOf(entry.plan.slot)]
  const onSource = <T>(work: (source: Database) => Promise<T>) => withDatabase(inputs.source, 'source', work)
  if (dropped)
    await onSource(async (source) => {
      for (const slot of slots) await seizeAndDrop(source, slot)
    })
  // A cutover without a rolling proof has no change log.
  const kept = dropped ? [] : await onSource((source) => present(source, slots)).catch(() => [entry.plan.slot])
  throw new VerdictError(
    'approval.declined',
    kept.length
      ? `the cutover was ${ending}; ${kept.map((slot) => `the slot ${slot}`).join(' and ')} ${kept.length > 1 ? 'are' : 'is'} kept. No stream reads now, so WAL accumulates on the source. Start again with \`phase: cutover\`, or give the migration up with \`abort\``
      : `the cutover was ${ending}; the slot ${entry.plan.slot} ${dropped ? 'was dropped, as set by `on-declined`' : 'is gone'}. To try again, remove what is left with \`abort\`, then start with \`phase: prepare\``,
  )
}

/** Which of these slots exist. */
async function present(source: Database, slots: readonly string[]): Promise<string[]> {
  const found: string[] = []
  for (const slot of slots) if (await readSlot(source, slot)) found.push(slot)
  return found
}

/**
 * Requires an armed fence. If writes continued, a drained stream would no longer be drained by the time it is reported.
 */
async function requireFenced(source: Database, entry: Entry): Promise<void> {
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (!['armed', 'permanent'].includes((await readFence(source)).state))
    problems.push('the fence is not armed. Arm it first (`fence` with `do: raise`)')
  if (problems.length)
    refuse(
      'fence.not-holding',
      'writes to the source are not fenced, so nothing can be drained',
      problems,
      'If triggers are missing, run `prepare` again.',
    )
}

/** Follows the stream, and writes evidence and outputs even if it fails. */
async function accounted(context: Replicate, entry: Entry, stream: Stream, signal: AbortSignal): Promise<string> {
  const { until } = context.inputs
  const account: Account = {
    until,
    endedBy: until,
    began: new Date().toISOString(),
    status: stream.status,
    startLsn: null,
    endLsn: null,
    diagnoses: {},
    observations: [],
    samples: [],
  }
  try {
    await follow(context, entry, stream, account, signal)
    // Report the lag at which the target caught up, or the current lag if lower.
    account.status = { ...stream.status, lagMs: Math.min(account.status.lagMs, stream.status.lagMs) }
  } catch (error) {
    account.status = stream.status
    account.failure = redact(messageOf(error))
    throw error
  } finally {
    account.startLsn = stream.startLsn
    account.endLsn = stream.slot?.confirmedFlushLsn ?? null
    account.diagnoses = Object.fromEntries(stream.diagnoses)
    account.observations = stream.observations.map(({ what }) => what)
    account.samples = stream.samples
    report(context, entry, account)
  }
  await withDatabase(context.inputs.target, 'target', async (target) => {
    await addEvidence(target, entry.id, 'replicate', account)
    const [verify] = await readEvidence<{ problems?: unknown[]; partial?: boolean }>(target, entry.id, 'verify', 1)
    const found = verify?.body.problems?.length ? 'not clean' : 'clean'
    const clean = verify?.body.partial ? `${found}, in some tables` : found
    context.summary(verify ? `Last verify: ${clean}, ${seconds(verify.ageMs)} ago.` : 'Nothing has been verified yet.')
  })
  return account.endedBy
}

async function follow(
  context: Replicate,
  entry: Entry,
  stream: Stream,
  account: Account,
  signal: AbortSignal,
): Promise<void> {
  const { inputs } = context
  if (inputs.until === 'handover') {
    await followUntilHandover(context, entry, stream, account, signal)
    return
  }
  const limits = { maxLag: inputs.maxLag, quietPeriod: inputs.quietPeriod, deadline: inputs.catchUpTimeout }
  account.status = await untilCaughtUp(stream, limits)
  await withDatabase(inputs.target, 'target', (target) => markCaughtUp(entry.id, target))
  if (inputs.until === 'caught-up' && inputs.buildIndexes) await completeIndexes(context, entry, signal)
  if (inputs.verify === 'full') await verifyStreaming(context, entry, signal)
  if (inputs.verify === 'rolling') await proveRolling(context, entry, stream, signal)
  if (inputs.until !== 'drained') return
  account.drain = await drainBehindFence(context, entry, stream)
  info(
    `drained: the marker reached the target after ${account.drain.markerSeenMs} ms, and the slot's position passed it after ${account.drain.positionConfirmedMs} ms`,
  )
}

async function followUntilHandover(
  context: Replicate,
  entry: Entry,
  stream: Stream,
  account: Account,
  signal: AbortSignal,
): Promise<void> {
  const { inputs } = context
  const link = new Link(inputs.target, 'target')
  const proof = inputs.verify === 'rolling' ? startProof(inputs, entry, stream, signal, inputs.verifyAge) : undefined
  try {
    account.endedBy = await untilHandover(context, entry, stream, link, signal, proof)
  } finally {
    await proof?.close()
    await link.close()
  }
  account.status = stream.status
}

/** @throws VerdictError unless the fence held throughout, because writes after a lapse would not be drained */
async function drainBehindFence({ inputs }: Replicate, entry: Entry, stream: Stream): Promise<DrainEvidence> {
  const look = () =>
    withDatabase(inputs.source, 'source', async (source) => {
      await requireFenced(source, entry)
      const version = await fenceVersion(source, await planFence(source, entry.plan))
      return JSON.stringify([await writesPassed(source), version])
    })
  const before = await look()
  const drain = await proveDrain(stream, inputs.drainTimeout)
  if ((await look()) !== before)
    throw new VerdictError(
      'fence.write-passed',
      'the fence did not hold while the stream was drained: a write passed it, or it was changed. Raise the fence again, with a longer lease',
    )
  return drain
}

async function completeIndexes({ inputs }: Replicate, { id }: Entry, signal: AbortSignal): Promise<void> {
  const build = async (source: Database, target: Database) =>
    buildIndexes(source, target, (await readEntry(target, id)) as Entry)
  await withBoth({ inputs, signal }, build)
}

/**
 * Compares every row once, and each row again that changes meanwhile. If that is not possible, compares all rows in
 * full.
 */
async function proveRolling(context: Replicate, entry: Entry, stream: Stream, signal: AbortSignal): Promise<void> {
  const proof = startProof(context.inputs, entry, stream, signal)
  try {
    const proved = await proof.untilProved(signal, () => stream.check())
    await verifyStreaming(context, entry, signal, proved ? proof.coverage : undefined)
    proof.check()
    if (proved) info(proof.line)
  } finally {
    await proof.close()
  }
}

/**
 * Compares all rows while the stream runs, which is needed to distinguish its pending changes from lost ones.
 * @param coverage tables that the rolling proof has already covered
 */
async function verifyStreaming(
  { inputs, summary }: Replicate,
  entry: Entry,
  signal: AbortSignal,
  coverage?: Coverage,
): Promise<void> {
  const found = await withBoth({ inputs, signal }, async (source, target) => {
    const options = {
      sourceUrl: inputs.source,
      targetUrl: inputs.target,
      plan: entry.plan,
      signal,
      while: 'streaming' as const,
      structure: 'report' as const,
      logFile: join(workFolder(entry.id), 'molt-verify.log'),
    }
    const report = coverage
      ? await reportCoverage(source, target, coverage, options)
      : await runVerify(source, target, { ...options, level: 'full' })
    await addEvidence(target, entry.id, 'verify', { ...report, partial: false })
    return report
  })
  summary(verifyTable(found))
  requireClean(found)
  info(`${plural(found.tables.length, 'table is', 'tables are')} equal while the stream runs`)
}

async function markCaughtUp(id: string, target: Database): Promise<void> {
  const entry = await readEntry(target, id)
  if (entry?.phase === 'loaded') await advance(target, entry, 'caught-up')
}

/**
 * Streams until the slot is requested, the approval ends or the time limit of the leg is reached. Records that the
 * target has caught up.
 */
async function untilHandover(
  context: Replicate,
  entry: Entry,
  stream: Stream,
  link: Link,
  signal: AbortSignal,
  proof: RollingProof | undefined,
): Promise<Ending> {
  const { inputs } = context
  const { token, gateJob: job, environment, maxApprovalWait: maxWait } = inputs
  const github = token ? connectGithub(token, ONE_TRY) : undefined
  const limit = inputs.legs ? Math.min(LONGEST_LEG, maxWait / inputs.legs) : inputs.legLimit
  const end = performance.now() + limit
  let caughtUp = entry.phase !== 'loaded'
  let quietSince: number | undefined
  let askAt = 0
  let askGithubAt = 0
  for (;;) {
    throwIfCancelled(signal)
    stream.check()
    proof?.check()
    const now = performance.now()
    quietSince = stream.status.lagMs <= inputs.maxLag ? (quietSince ?? now) : undefined
    if (!caughtUp && quietSince !== undefined && now - quietSince >= inputs.quietPeriod) {
      await link.use((db) => markCaughtUp(entry.id, db))
      info(`caught up: lag ${seconds(stream.status.lagMs)}; streaming until the slot is requested`)
      caughtUp = true
    }
    if (now >= askAt) {
      askAt = now + inputs.poll
      const asked = await askLedger(link, entry.id)
      if (asked) return asked
    }
    if (github && now >= askGithubAt) {
      askGithubAt = now + inputs.approvalPoll
      const seen = await lookAtApproval({ github, job, environment, maxWait })
      if (seen && seen !== 'running') {
        info(`the job \`${job}\` is ${seen}; the stream ends`)
        if (seen === 'declined' || seen === 'expired') await link.use((db) => setApproval(db, entry.id, seen))
        return seen
      }
    }
    if (now >= end && inputs.lastLeg) {
      info('the last leg ended and the slot was not requested: the approval has expired')
      await link.use((db) => setApproval(db, entry.id, 'expired'))
      return 'expired'
    }
    if (now >= end) {
      info(`this leg ends after ${seconds(limit)}; the next leg resumes from the slot`)
      return 'leg-limit'
    }
    await sleep(TIMING.handoverLook)
  }
}

/** Reads from the ledger why the stream should end. Ignores a lost connection, which the stream itself handles. */
async function askLedger(link: Link, id: string): Promise<'request' | 'declined' | 'expired' | undefined> {
  const losses = link.losses
  try {
    return await link.use(async (db) => {
      const request = await slotRequest(db, id)
      if (request) {
        info(`handed the slot over to ${runText(request)}`)
        return 'request' as const
      }
      const approval = await readApproval(db, id)
      if (approval) info(`the approval is ${approval}; the stream ends, and the slot stays until it is dropped`)
      return approval
    })
  } catch (error) {
    if (link.losses > losses) return undefined
    throw error
  }
}

function report(context: Replicate, entry: Entry, account: Account): void {
  const { status } = account
  const path = join(workFolder(entry.id), `replicate-${account.began.replace(/[:.]/g, '-')}.json`)
  const body = { migration: entry.id, slot: entry.plan.slot, ended: new Date().toISOString(), ...account }
  writeFileSync(path, `${JSON.stringify(body, null, 2)}\n`, { mode: 0o600 })
  context.output('evidence', path)
  if (Number.isFinite(status.lagMs)) context.output('lag-ms', status.lagMs)
  context.output('changes', status.changes)
  context.output('start-lsn', account.startLsn ?? '')
  context.output('end-lsn', account.endLsn ?? '')
  context.output('retries', status.retries)
  context.output('restarts', status.restarts)
  context.output('interruptions', status.interruptions)
  if (account.failure) return
  context.output('ended-by', account.endedBy)
  if (account.drain) context.output('marker-ms', account.drain.markerSeenMs)
  info(`${account.endedBy}: lag ${seconds(status.lagMs)}, ${number(status.changes)} changes applied`)
  const title = { drained: 'Drained', 'caught-up': 'Caught up' }[account.endedBy] ?? `Streamed (${account.endedBy})`
  context.summary(
    `### ${title}\n\nLag ${seconds(status.lagMs)}, ${number(status.changes)} changes applied, ${plural(status.retries, 'retry', 'retries')}, ${plural(status.restarts, 'restart')}, ${plural(status.interruptions, 'interruption')}; from ${account.startLsn} to ${account.endLsn}.`,
  )
}
