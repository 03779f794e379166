import { info } from '@actions/core'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'
import { number, seconds } from '../../runtime/progress.ts'
import { fenceProblems, readFence } from '../../source/fence.ts'
import { slotProblems } from '../../source/slot.ts'
import { proveDrain } from '../../steps/drain.ts'
import { planFence } from '../../steps/fencing.ts'
import { withStream } from '../../steps/open-stream.ts'
import { type Stream, type StreamStatus, untilCaughtUp } from '../../steps/stream.ts'
import { addEvidence, advance, type Entry, requireEntry } from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Replicate = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const entry = await withBoth(context.inputs, async (source, target) => {
      const entry = await requireEntry(target, context.inputs.migration, ['loaded', 'caught-up', 'approved'])
      await requireSameSource(source, entry)
      const problems = await slotProblems(source, { ...entry.plan, schema: entry.plan.sourceSchema })
      if (problems.length) refuse('the stream cannot begin', problems, 'The load may have to be repeated.')
      if (context.inputs.until === 'drained') await requireFenced(source, entry)
      return entry
    })
    const status = await withStream(context.inputs, entry, context.signal, (stream) => follow(context, stream))
    await withBoth(context.inputs, (_, target) => keep(context, entry, status, target))
  },
}

/** While writes go on, "drained" would be over before it is said. */
async function requireFenced(source: Database, entry: Entry): Promise<void> {
  const problems = await fenceProblems(source, await planFence(source, entry.plan))
  if (!['armed', 'permanent'].includes((await readFence(source)).state))
    problems.push('the fence is not armed; arm it first (`fence` with `do: raise`)')
  if (problems.length)
    refuse(
      'writes to the source are not fenced, so nothing can be drained',
      problems,
      'Run `prepare` again where triggers are missing.',
    )
}

async function follow(context: Replicate, stream: Stream): Promise<StreamStatus> {
  const { inputs } = context
  const status = await untilCaughtUp(
    stream,
    { maxLag: inputs.maxLag, quietPeriod: inputs.quietPeriod, deadline: inputs.catchUpTimeout },
    () => {},
  )
  if (inputs.until === 'drained') {
    const proof = await proveDrain(stream, inputs.drainTimeout)
    info(
      `drained: the marker was on the target after ${proof.markerSeenMs} ms, and the slot's position past it after ${proof.positionConfirmedMs} ms`,
    )
    context.output('marker-ms', proof.markerSeenMs)
  }
  return stream.status.lagMs < status.lagMs ? stream.status : status
}

async function keep(context: Replicate, entry: Entry, status: StreamStatus, target: Database): Promise<void> {
  if (entry.phase === 'loaded') await advance(target, entry, 'caught-up')
  await addEvidence(target, entry.id, 'replicate', { until: context.inputs.until, ...status })
  info(`${context.inputs.until}: lag ${seconds(status.lagMs)}, ${number(status.changes)} changes applied`)
  context.output('lag-ms', status.lagMs)
  context.output('changes', status.changes)
  context.output('retries', status.retries)
  context.output('restarts', status.restarts)
  context.summary(
    `### ${context.inputs.until === 'drained' ? 'Drained' : 'Caught up'}\n\nLag ${seconds(status.lagMs)}, ${number(status.changes)} changes applied, ${status.retries} retries, ${status.restarts} restarts.`,
  )
}
