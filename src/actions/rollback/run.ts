import { join } from 'node:path'
import { info, warning } from '@actions/core'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'
import { workFolder } from '../../runtime/progress.ts'
import { readFence, revokePermanent } from '../../source/fence.ts'
import { runVerify } from '../../steps/verifying.ts'
import { addEvidence, advance, type Entry, requireEntry } from '../../target/ledger.ts'
import { differences } from '../../tools/molt-verify.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Rollback = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context.inputs, async (source, target) => {
      const entry = await requireEntry(target, context.inputs.migration, [
        'committing',
        'committed',
        'switched',
        'finalized',
      ])
      await requireSameSource(source, entry)
      if ((await readFence(source)).state !== 'permanent')
        throw new VerdictError(
          'the source is not fenced for good, so it may have been written to beside the target; there is nothing that could be rolled back safely',
        )
      const lost = await writtenSince(context, source, target, entry)
      const refused = lost.filter((table) => !context.inputs.acceptDataLoss?.includes(table))
      if (refused.length)
        refuse(
          'the target was written to since the commit',
          refused.map((table) => `${table} differs from the fenced source`),
          'Going back loses these writes for good, since nothing carries them to the source. If that is meant, name each of these tables in `accept-data-loss`; stop the application first.',
        )
      await revokePermanent(source)
      await advance(target, entry, 'rolled-back')
      await addEvidence(target, entry.id, 'rollback', { lost })
      info('the fence is lifted for good: the source takes writes again')
      if (lost.length) warning(`writes on the target are lost in: ${lost.join(', ')}`)
      context.output('lost', JSON.stringify(lost))
      context.summary(
        `### Rolled back\n\nThe source takes writes again; point the application back to it. ${lost.length ? `Writes on the target were given up in ${lost.map((table) => `\`${table}\``).join(', ')}.` : 'The target had not been written to.'}`,
      )
    }),
}

/** The source has stood still since the commit, so whatever differs now was written on the target. */
async function writtenSince(context: Rollback, source: Database, target: Database, entry: Entry): Promise<string[]> {
  const { inputs } = context
  const report = await runVerify(source, target, {
    program: 'molt',
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    plan: entry.plan,
    level: 'full',
    logFile: join(workFolder(inputs.migration), 'molt-verify.log'),
    signal: context.signal,
  })
  const different = report.tables.filter((table) => differences(table) > 0).map((table) => table.name)
  if (!different.length && report.problems.length)
    refuse(
      'it cannot be told whether the target was written to',
      report.problems,
      'Put these right first, or compare by hand.',
    )
  return different
}
