import { info } from '@actions/core'
import type { Action } from '../../runtime/action.ts'
import { type Database, ident, unhurried } from '../../runtime/database.ts'
import { refuse, UserError } from '../../runtime/errors.ts'
import { dropSlot, readSlot } from '../../source/slot.ts'
import { setSequences } from '../../sql/sequences.ts'
import { acceptTargetSchema } from '../../steps/schema-changes.ts'
import { type DeferredKind, deferralProblems, rebuildDeferred, validateForeignKeys } from '../../target/deferral.ts'
import { addEvidence, advance, type Entry, requireEntry } from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context.inputs, async (source, target) => {
      let entry = await requireEntry(target, context.inputs.migration, [
        'loaded',
        'caught-up',
        'approved',
        'committing',
        'committed',
        'switched',
        'finalized',
      ])
      await requireSameSource(source, entry)
      const { set, problems } = await setSequences(
        { db: source, schema: entry.plan.sourceSchema },
        { db: target, schema: entry.plan.targetSchema },
        entry.plan.tables,
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
      if (entry.phase === 'committed' && context.inputs.switchedByHand) entry = await advance(target, entry, 'switched')
      if (entry.phase !== 'finalized') entry = await unhurried(target, () => rebuild(target, entry))
      if (entry.phase === 'switched') {
        await endReplication(source, entry)
        entry = await advance(target, entry, 'finalized')
      }
      context.output('phase', entry.phase)
    }),
}

/**
 * Builds what was taken off the target for the load: before the switch only what cannot be in the stream's way, after
 * it all that is left, every foreign key validated.
 */
async function rebuild(target: Database, entry: Entry): Promise<Entry> {
  const switched = entry.phase === 'switched'
  const kinds: readonly DeferredKind[] = switched ? ['index', 'unique', 'check', 'foreign-key'] : ['index']
  const built: string[] = []
  for (const kind of kinds) built.push(...(await rebuildDeferred(target, entry.id, kind)))
  if (built.length) info(`${built.length} indexes and constraints are back on the target`)
  if (!switched) return built.length ? acceptTargetSchema(target, entry) : entry
  const valid = await validateForeignKeys(target, entry.id)
  if (valid.length) info(`${valid.length} foreign keys are validated`)
  const problems = await deferralProblems(target, entry.id)
  if (problems.length)
    refuse('the target is not what it was before the load', problems, 'Put these right and run `finalize` again.')
  return entry
}

/** After the switch nobody reads the slot any more, and the WAL that it keeps would fill the source's disk. */
async function endReplication(source: Database, entry: Entry): Promise<void> {
  const { slot, publication } = entry.plan
  const reader = (await readSlot(source, slot))?.activePid
  if (reader) throw new UserError(`the slot ${slot} is still read by PID ${reader}; end that replicator first`)
  await dropSlot(source, slot)
  await source.query(`DROP PUBLICATION IF EXISTS ${ident(publication)}`)
  info(`slot ${slot} and publication ${publication} are dropped; the source stays fenced until \`cleanup\``)
}
