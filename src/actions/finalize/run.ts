import { info } from '@actions/core'
import type { Action } from '../../runtime/action.ts'
import { refuse } from '../../runtime/errors.ts'
import { setSequences } from '../../sql/sequences.ts'
import { addEvidence, requireEntry } from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context.inputs, async (source, target) => {
      const entry = await requireEntry(target, context.inputs.migration, [
        'loaded',
        'caught-up',
        'approved',
        'committing',
        'committed',
      ])
      await requireSameSource(source, entry)
      const { set, problems } = await setSequences(
        { db: source, schema: entry.plan.sourceSchema },
        { db: target, schema: entry.plan.targetSchema },
        BigInt(context.inputs.sequenceMargin),
      )
      await addEvidence(target, entry.id, 'finalize', { sequences: set, problems })
      context.output('sequences', JSON.stringify(set))
      for (const { name, value } of set) info(`sequence ${name} is past ${value} on the target`)
      if (problems.length)
        refuse(
          'sequences could not be set',
          problems,
          'The next insert on the target could collide with a row that is there.',
        )
    }),
}
