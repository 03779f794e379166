import { info, warning } from '@actions/core'
import { constraintProblems, indexProblems } from '../../migration/structure.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, ident, sqlState } from '../../runtime/database.ts'
import { messageOf, refuse, UserError } from '../../runtime/errors.ts'
import { dropSlot, readSlot } from '../../source/slot.ts'
import { setSequences } from '../../sql/sequences.ts'
import { readConstraints, readIndexes } from '../../sql/structure.ts'
import { buildIndexes } from '../../steps/indexes.ts'
import {
  type DeferredKind,
  deferralProblems,
  rebuildDeferred,
  validateConstraint,
  validateForeignKeys,
} from '../../target/deferral.ts'
import { addEvidence, advance, type Entry, requireEntry } from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Finalize = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(
      context.inputs,
      async (source, target) => {
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
        if (entry.phase === 'committed' && context.inputs.switchedByHand)
          entry = await advance(target, entry, 'switched')
        if (entry.phase !== 'finalized') entry = await rebuild(source, target, entry)
        if (['switched', 'finalized'].includes(entry.phase)) await requireWhole(context, source, target, entry)
        if (entry.phase === 'switched') {
          await endReplication(source, entry)
          entry = await advance(target, entry, 'finalized')
        }
        context.output('phase', entry.phase)
      },
      context.signal,
    ),
}

/**
 * Builds what was taken off the target for the load: before the switch only what cannot be in the stream's way, after
 * it all that is left, every foreign key validated.
 */
async function rebuild(source: Database, target: Database, entry: Entry): Promise<Entry> {
  if (entry.phase !== 'switched') return buildIndexes(source, target, entry)
  const kinds: readonly DeferredKind[] = ['index', 'unique', 'check', 'foreign-key']
  for (const kind of kinds)
    await rebuildDeferred(target, entry.id, kind, (name) => info(`${kind} ${name} is back on the target`))
  const valid = await validateForeignKeys(target, entry.id)
  if (valid.length) info(`${valid.length} foreign keys are validated`)
  const problems = await deferralProblems(target, entry.id)
  if (problems.length)
    refuse('the target is not what it was before the load', problems, 'Put these right and run `finalize` again.')
  return entry
}

/**
 * Validates whatever is not: IMPORT INTO leaves every foreign key unvalidated, captured or not. Then holds the target's
 * definitions against the source's.
 */
async function requireWhole({ inputs }: Finalize, source: Database, target: Database, { plan }: Entry): Promise<void> {
  const { sourceSchema, targetSchema, tables } = plan
  const constraints = await readConstraints(source, sourceSchema)
  const waiting = (await readConstraints(target, targetSchema)).filter(
    (each) => !each.validated && tables.includes(each.table),
  )
  const invalid: string[] = []
  for (const { table, name, kind } of waiting) {
    // What the source itself has never validated may not hold there either.
    if (constraints.some((each) => each.table === table && each.name === name && !each.validated)) continue
    const problem = await broken(validateConstraint(target, targetSchema, { table, name }))
    if (problem) invalid.push(`${table}: the ${kind} constraint ${name} does not hold: ${problem}`)
    else info(`${kind} ${targetSchema}.${table}.${name} is validated`)
  }
  const missing = [
    ...indexProblems(await readIndexes(source, sourceSchema), await readIndexes(target, targetSchema), tables),
    ...constraintProblems(constraints, await readConstraints(target, targetSchema), tables),
  ]
  const never = missing.filter((each) => / is missing on the target$/.test(each))
  const required = inputs.structure === 'require' ? missing : missing.filter((each) => !never.includes(each))
  const problems = [...new Set([...invalid, ...required])]
  if (problems.length)
    refuse("the target's definitions are not the source's", problems, 'Put these right and run `finalize` again.')
  for (const each of never.slice(0, 20)) warning(each)
}

/** What rows break, by the server's message: it names the constraint and no value, while its detail would. */
async function broken(validation: Promise<void>): Promise<string | undefined> {
  try {
    await validation
    return undefined
  } catch (error) {
    if (!sqlState(error)?.startsWith('23')) throw error
    return messageOf(error)
  }
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
