import { info, warning } from '@actions/core'
import {
  type DeferredKind,
  deferralProblems,
  lostDefinitions,
  rebuildDeferred,
  validateConstraint,
  validateDeferred,
} from '../../destination/deferral.ts'
import { lockTables, unlockTables } from '../../destination/schema-lock.ts'
import { addEvidence, advance, COMMITTED, DECIDED, type Entry, readEvidence, STREAMING } from '../../ledger/ledger.ts'
import { asDecided, structureProblems } from '../../model/structure.ts'
import { openTarget } from '../../phases/after-commit/open-target.ts'
import { type AfterCommit, afterCommitText } from '../../phases/after-commit/result.ts'
import { requireStillFenced } from '../../phases/cutover/held-fence.ts'
import { buildIndexes } from '../../phases/stream/build-indexes.ts'
import { markdownText } from '../../report/markdown.ts'
import type { Action } from '../../runtime/action.ts'
import { type Database, ident, sqlState } from '../../runtime/database.ts'
import { messageOf, refuse, UserError, VerdictError } from '../../runtime/errors.ts'
import { minutes, plural } from '../../runtime/progress.ts'
import { readPublication } from '../../source/publication.ts'
import { dropSlot, logSlotOf, readSlot, seizeAndDrop } from '../../source/slot.ts'
import { readStructure } from '../../sql/structure.ts'
import { missingTriggers } from '../../sql/triggers.ts'
import { viewProblems } from '../../sql/views.ts'
import { moveSequences, requireMigration, withBoth } from '../shared.ts'
import { compareOnce, requireCompared } from './after-commit.ts'
import { type Finalize, spec } from './spec.ts'

/** What this run has done, for its summary. */
interface Done {
  /** Only after a manual switch: how long the application could not write, in milliseconds. */
  applicationPauseMs?: number
  sequences: number
  indexes: number
  constraints: number
  /** Names, so that a rebuilt foreign key that is validated twice counts once. */
  validated: Set<string>
  dropped: string[]
  /** Differences from the source's definitions that no later step removes. */
  left?: string[]
}

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const compared = await compareOnce(context)
    await withBoth(context, (source, target) => finalize(context, source, target, compared))
  },
}

async function finalize(
  context: Finalize,
  source: Database,
  target: Database,
  compared: AfterCommit | undefined,
): Promise<void> {
  let entry = await requireMigration(source, target, context.inputs.migration, [...STREAMING, ...DECIDED])
  if (COMMITTED.includes(entry.phase)) await requireStillFenced(source, entry)
  const { id, plan } = entry
  const moving = { margin: context.inputs.sequenceMargin, live: COMMITTED.includes(entry.phase) }
  const set = await moveSequences({ source, target }, plan, moving, async (sequences, problems) => {
    await addEvidence(target, id, 'finalize', { sequences, problems })
    context.output('sequences', JSON.stringify(sequences))
    for (const { name, value } of sequences) info(`sequence ${name} is past ${value} on the target`)
  })
  const done: Done = { sequences: set.length, indexes: 0, constraints: 0, validated: new Set(), dropped: [] }
  if (entry.phase === 'committed' && context.inputs.switchedByHand) {
    await openTarget(target, entry)
    done.applicationPauseMs = await pauseByHand(target, entry)
    entry = await advance(target, entry, 'switched')
  }
  if (entry.phase !== 'finalized') entry = await rebuild(source, target, entry, done)
  if (['switched', 'finalized'].includes(entry.phase)) {
    await requireWhole(context, source, target, entry, done)
    await lockTables(target, id)
  }
  if (entry.phase === 'switched') done.dropped = await endReplication(source, entry)
  requireCompared(compared, entry)
  if (entry.phase === 'switched') entry = await advance(target, entry, 'finalized')
  context.output('phase', entry.phase)
  tell(context, entry, done, compared)
}

/** Milliseconds from arming the fence until someone confirmed the switch to the target, by the target's clock. */
async function pauseByHand(target: Database, { id, ageMs }: Entry): Promise<number> {
  const [cutover] = await readEvidence<{ pauseMs: number }>(target, id, 'cutover', 1)
  const applicationPauseMs = Math.round((cutover?.body.pauseMs ?? 0) + ageMs)
  await addEvidence(target, id, 'switched-by-hand', { applicationPauseMs })
  return applicationPauseMs
}

/**
 * Writes the summary.
 * @throws VerdictError when the migration is committed, but cannot be finalized yet
 */
function tell(context: Finalize, { id, phase }: Entry, done: Done, compared: AfterCommit | undefined): void {
  const sequences = `${plural(done.sequences, 'sequence is', 'sequences are')} past every value in use`
  if (phase === 'committed')
    throw new VerdictError(
      'finalize.not-switched',
      `Not finalized: migration \`${id}\` is committed, but no one has confirmed that the application uses the target. Start Migrate with \`phase: finalize\` and tick \`switched-by-hand\``,
    )
  if (phase === 'committing')
    throw new VerdictError(
      'finalize.cutover-unfinished',
      `Not finalized: the cutover of migration \`${id}\` has not ended. Run \`cutover\` again to resume it`,
    )
  if (phase !== 'finalized') {
    const nothing = `Nothing was committed. This run only set sequences and built indexes that cannot block the stream.`
    warning(`migration \`${id}\` is ${phase}. ${nothing}`)
    context.summary(`### ⚠️ Not finalized: migration \`${id}\` is ${phase}\n\n${nothing}\n\n- ${sequences}`)
    return
  }
  const { applicationPauseMs } = done
  const lines = [
    ...(applicationPauseMs === undefined
      ? []
      : [
          `the application could not write for up to ${minutes(applicationPauseMs)}, from the start of the fence until \`switched-by-hand\` was set`,
        ]),
    afterCommitText(compared),
    sequences,
    done.indexes || done.constraints
      ? `${plural(done.indexes, 'index', 'indexes')} and ${plural(done.constraints, 'constraint')} dropped for the load were rebuilt`
      : 'there were no indexes or constraints left to rebuild',
    `${plural(done.validated.size, 'constraint was', 'constraints were')} validated`,
    done.dropped.length
      ? `dropped on the source: ${done.dropped.join(', ')}`
      : 'there was nothing left to drop on the source',
    'the source stays fenced until `cleanup`',
    ...(done.left ?? []).map(markdownText),
  ]
  context.summary(`### ✅ Finalized: migration \`${id}\`\n\n${lines.map((line) => `- ${line}`).join('\n')}`)
}

/**
 * Rebuilds what was dropped for the load. Before the switch, rebuilds only what cannot block the stream. After the
 * switch, rebuilds the rest and validates the constraints.
 */
async function rebuild(source: Database, target: Database, entry: Entry, done: Done): Promise<Entry> {
  if (entry.phase !== 'switched') return buildIndexes(source, target, entry)
  const kinds: readonly DeferredKind[] = ['index', 'unique', 'check', 'foreign-key']
  for (const kind of kinds) {
    const onBuilt = (name: string) => info(`rebuilt ${kind} ${name} on the target`)
    const built = await rebuildDeferred(target, entry.id, [kind], { onBuilt })
    done[kind === 'index' || kind === 'unique' ? 'indexes' : 'constraints'] += built.length
  }
  const valid = await validateDeferred(target, entry.id)
  if (valid.length) info(`${plural(valid.length, 'constraint is', 'constraints are')} validated`)
  for (const name of valid) done.validated.add(name)
  const problems = [
    ...(await lostDefinitions(target, entry.id, entry.facts.deferred)),
    ...(await deferralProblems(target, entry.id)),
  ]
  if (problems.length)
    refuse(
      'deferral.not-restored',
      'the target lacks definitions that it had before the load',
      problems,
      'Fix these, then run `finalize` again.',
    )
  return entry
}

/**
 * Validates every unvalidated constraint: IMPORT INTO leaves all foreign keys unvalidated, deferred or not. Then
 * compares the target's definitions with the source's.
 */
async function requireWhole(
  { inputs }: Finalize,
  source: Database,
  target: Database,
  { id, plan }: Entry,
  done: Done,
): Promise<void> {
  const { sourceSchema, targetSchema, tables, decided = [] } = plan
  const here = asDecided(await readStructure(source, 'source', sourceSchema), decided)
  const waiting = (await readStructure(target, 'target', targetSchema)).constraints.filter(
    (each) => !each.validated && tables.includes(each.table),
  )
  const invalid: string[] = []
  await unlockTables(
    target,
    id,
    waiting.map(({ table }) => ({ schema: targetSchema, table })),
  )
  for (const { table, name, kind } of waiting) {
    // The source never validated this constraint, so its rows may violate it.
    if (here.constraints.some((each) => each.table === table && each.name === name && !each.validated)) continue
    const problem = await broken(validateConstraint(target, targetSchema, { table, name }))
    if (problem) invalid.push(`${table}: the ${kind} constraint ${name} does not hold: ${problem}`)
    else {
      done.validated.add(`${targetSchema}.${table}.${name}`)
      info(`${kind} ${targetSchema}.${table}.${name} is validated`)
    }
  }
  const there = await readStructure(target, 'target', targetSchema)
  const found = structureProblems(here, there, tables, targetSchema)
  const never = found.filter(({ kind }) => kind !== 'invalid')
  const required = inputs.structure === 'require' ? found : found.filter(({ kind }) => kind === 'invalid')
  const problems = [...new Set([...invalid, ...required.map(({ what }) => what)])]
  if (problems.length)
    refuse(
      'finalize.definitions-differ',
      "the target's definitions differ from the source's",
      problems,
      'Fix these, then run `finalize` again.',
    )
  const sides = [
    { db: source, schema: sourceSchema },
    { db: target, schema: targetSchema },
  ] as const
  done.left = [
    ...never.map(({ what }) => what),
    ...(await missingTriggers(...sides, tables)),
    ...(await viewProblems(...sides)),
  ]
  for (const what of done.left.slice(0, 20)) warning(what)
}

/** The message of a failed validation, without row values; undefined when it succeeded. */
async function broken(validation: Promise<void>): Promise<string | undefined> {
  try {
    await validation
    return undefined
  } catch (error) {
    if (!sqlState(error)?.startsWith('23')) throw error
    return messageOf(error)
  }
}

/**
 * Drops the slot and the publication. After the switch nothing reads the slot, and its WAL would fill the disk.
 * @returns what was dropped
 */
async function endReplication(source: Database, entry: Entry): Promise<string[]> {
  const { slot, publication } = entry.plan
  // Only a run of this migration reads the change log, so its reader can be disconnected.
  await seizeAndDrop(source, logSlotOf(slot))
  const found = await readSlot(source, slot)
  const reader = found?.activePid
  const dropped = [
    ...(found ? [`slot \`${slot}\``] : []),
    ...((await readPublication(source, publication)) ? [`publication \`${publication}\``] : []),
  ]
  if (reader)
    throw new UserError('slot.in-use', `PID ${reader} is still reading the slot ${slot}. Stop that replicator first`)
  await dropSlot(source, slot)
  await source.query(`DROP PUBLICATION IF EXISTS ${ident(publication)}`)
  info(`dropped: ${dropped.join(', ') || 'nothing'}; the source stays fenced until \`cleanup\``)
  return dropped
}
