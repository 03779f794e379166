import { createHash } from 'node:crypto'
import { info, warning } from '@actions/core'
import { HeldFence, lookAtFence } from '../../phases/cutover/held-fence.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { plural } from '../../runtime/progress.ts'
import { expectedFence, fenceProblems, liftFence, readFence } from '../../source/fence.ts'
import { splitPassword } from '../../tools/passwords.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type FenceContext = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    // A shared config file may set `target`; this action does not connect to it.
    const { source: url, allowInsecure } = context.inputs
    requireTls({ source: url, allowInsecure })
    await withDatabase(url, 'source', async (source) => {
      if (context.inputs.do === 'raise') await raise(context, source)
      if (context.inputs.do === 'lift') await lift(source)
      const { state, remainingMs, problems, raised } = await lookAtFence(source)
      info(`the fence is ${state}${state === 'armed' ? `; it lapses in ${Math.round(remainingMs / 1000)} s` : ''}`)
      context.output('state', state)
      context.output('remaining-ms', remainingMs)
      if (raised && problems.length)
        refuse(
          'fence.not-holding',
          `the fence is ${state}, but it does not hold`,
          problems,
          'Writes can pass the fence, and may already have. Run `prepare` again, and repeat every comparison made while the fence was up.',
        )
    })
  },
  async post(context) {
    const lease = context.saved('lease')
    if (!lease || context.inputs.keep) return
    if (context.saved('source') !== digest(context.inputs.source)) {
      warning(
        'the source URL differs from the one with which the fence was raised, so the fence stays until its lease ends',
      )
      return
    }
    await withDatabase(context.inputs.source, 'source', async (source) => {
      // A cleanup may have dropped the fence in the meantime.
      const { state } = await readFence(source)
      if (state === 'absent') return
      if (await liftFence(source, lease)) info('the fence is lifted: writes to the source are possible again')
      else info(`the fence is ${state}, but another run has set it, so it is left alone`)
    })
  },
}

async function raise(context: FenceContext, source: Database): Promise<void> {
  const fence = await expectedFence(source)
  if (!fence) throw new VerdictError('fence.not-installed', 'no fence is installed on the source. Run `prepare` first')
  const problems = await fenceProblems(source, fence)
  if (problems.length)
    refuse('fence.damaged', 'the fence is damaged', problems, 'The fence was not raised. Run `prepare` again.')
  context.save('source', digest(context.inputs.source))
  // Saves the lease before setting it, so that the post step lifts exactly this fence even if this process dies.
  const held = new HeldFence(source, fence, context.inputs.lease, (lease) => context.save('lease', lease))
  try {
    const { holders, waitedMs } = await held.arm(context.inputs.holdersTimeout, context.signal)
    info(
      `writes to ${plural(fence.tables.length, 'table')} are refused; ${plural(holders, 'writing transaction')} ended within ${waitedMs} ms`,
    )
  } catch (error) {
    await held.lift()
    throw error
  }
}

async function lift(source: Database): Promise<void> {
  const { state } = await readFence(source)
  if (state === 'absent') return
  if (!(await liftFence(source)))
    throw new VerdictError(
      'fence.permanent',
      'the fence is permanent: the cutover was committed, and the target has taken over. To return to the source, run `rollback`',
    )
}

/** Hash of a URL without its password. The post step compares it with the saved hash, so no secret has to be saved. */
function digest(url: string): string {
  return createHash('sha256')
    .update(splitPassword(url)?.url ?? url)
    .digest('hex')
    .slice(0, 16)
}
