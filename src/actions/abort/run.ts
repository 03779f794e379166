import { info, warning } from '@actions/core'
import { addEvidence, advance, COMMITTED, type Entry, readEntryIfAny } from '../../ledger/ledger.ts'
import {
  type Leftover,
  leftoversOnSource,
  leftoversOnTarget,
  requireGone,
  requireOwner,
  restoreOrTell,
  tellFiles,
} from '../../phases/cleanup/leftovers.ts'
import { stopLoad } from '../../phases/load/held-load.ts'
import { endImports, requireNoForeignImports } from '../../phases/load/resume.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { connect, type Database, withDatabase } from '../../runtime/database.ts'
import { errorCode, messageOf, refuse, UserError, VerdictError } from '../../runtime/errors.ts'
import { explain } from '../../runtime/refusals.ts'
import { liftFence, readFence } from '../../source/fence.ts'
import { readHeartbeatOwner } from '../../source/heartbeat.ts'
import { readSlot, seizeAndDrop } from '../../source/slot.ts'
import { PUBLICATION } from '../../tools/molt-fetch.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Abort = Context<typeof spec>

/** The error of one failed part of the abort: message and code. */
interface Undone {
  what: string
  code: string
}

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireTls(inputs)
    const target = await reachTarget(inputs.target)
    const undone: Undone[] = []
    try {
      const entry = target && (await readFirst(target, inputs.migration, undone))
      await withDatabase(inputs.source, 'source', (source) => setFree(context, source))
      if (target && entry) {
        await trying(undone, () => markAborted(target, inputs.migration))
        await trying(undone, () => stopLoad(target, entry.id, entry.facts.loadFolders ?? []))
      }
      const dropped = await withDatabase(inputs.source, 'source', (source) => onSource(context, source, entry, undone))
      if (target) dropped.push(...(await onTarget(context, target, entry, undone)))
      tell(context, target !== undefined, entry, dropped, undone)
    } finally {
      await target?.end().catch(() => {})
    }
  },
}

/**
 * Reads the ledger's entry. If it cannot be read, for example because a privilege is missing, the abort still frees the source.
 * @throws VerdictError when the migration is committed: the fence may have been removed since, by a cleanup or a restore
 */
async function readFirst(target: Database, migration: string, undone: Undone[]): Promise<Entry | undefined> {
  let entry: Entry | undefined
  await trying(undone, async () => {
    entry = await readEntryIfAny(target, migration)
  })
  if (entry && COMMITTED.includes(entry.phase))
    throw new VerdictError(
      'abort.committed',
      `migration \`${migration}\` is ${entry.phase}: the target has taken over, and may have new rows. \`abort\` works only before the commit. Run \`rollback\``,
    )
  return entry
}

/**
 * Records a failure instead of throwing it, so that the other parts of the abort still run.
 * @returns whether `work` succeeded
 */
async function trying(undone: Undone[], work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work()
    return true
  } catch (thrown) {
    const error = explain(thrown)
    undone.push({ what: messageOf(error), code: errorCode(error) })
    return false
  }
}

/** @throws VerdictError that names each part that failed */
function tell(
  context: Abort,
  reached: boolean,
  entry: Entry | undefined,
  dropped: readonly string[],
  undone: readonly Undone[],
): void {
  context.output('dropped', JSON.stringify(dropped))
  context.output('undone', JSON.stringify(undone.map(({ code }) => code)))
  context.output('target-reached', reached)
  context.output('files-left', JSON.stringify(tellFiles(entry)))
  const left = reached
    ? ''
    : '\n\nThe target could not be reached. When it is back, run `abort` again to remove its staging schema, heartbeat and ledger entry.'
  const list = dropped.map((name) => `\n- dropped ${name}`).join('') || 'There was nothing to drop.'
  context.summary(
    `### ${undone.length ? 'Partly aborted' : 'Aborted'}\n\nWrites to the source are possible. ${list}${left}`,
  )
  if (undone.length)
    refuse(
      'abort.incomplete',
      'the migration is aborted, but parts of it remain',
      undone.map(({ what, code }) => `${what} [${code}]`),
      'Fix these, then run `abort` again. Writes to the source are possible.',
    )
}

/** Connects to the target; undefined when it is unreachable, because an abort must work without it. */
async function reachTarget(url: string): Promise<Database | undefined> {
  try {
    return await connect(url, 'target')
  } catch (error) {
    warning(`${messageOf(error)} The fence on the source is lifted anyway.`)
    return undefined
  }
}

const DECIDED =
  'the source is permanently fenced: this migration is committed, and the target may have new rows. `abort` works only before the commit. Run `rollback`'

/** Lifts the fence. Runs first, so that a running cutover fails at its next check instead of committing. */
async function setFree({ inputs: { migration } }: Abort, source: Database): Promise<void> {
  await requireOwner(source, migration)
  const { state } = await readFence(source)
  if (state === 'permanent') throw new VerdictError('abort.committed', DECIDED)
  if (state === 'absent') return
  if (!(await liftFence(source))) throw new VerdictError('abort.committed', DECIDED)
  info('the fence is lifted: writes to the source are possible')
}

/** Stops any other run of this migration before its next phase. */
async function markAborted(target: Database, migration: string): Promise<void> {
  for (let attempt = 1; ; attempt++)
    try {
      const entry = await readEntryIfAny(target, migration)
      if (entry) await advance(target, entry, 'aborted')
      return
    } catch (error) {
      if (!(error instanceof UserError) || attempt >= 5) throw error
    }
}

async function onSource(
  context: Abort,
  source: Database,
  entry: Entry | undefined,
  undone: Undone[],
): Promise<string[]> {
  const { slot } = context.inputs
  const owner = await readHeartbeatOwner(source)
  // Without this suite's heartbeat, a slot or publication with this name may belong to another system.
  if (!owner && !entry) return []
  const names = entry?.plan ?? { slot, publication: PUBLICATION }
  const { activePid } = (await readSlot(source, names.slot)) ?? {}
  const dropped: string[] = []
  if (activePid)
    await trying(undone, async () => {
      // The replicator may run on an unreachable machine, but its connection can be ended from here.
      await seizeAndDrop(source, names.slot)
      info(`disconnected the replicator that read the slot (PID ${activePid}), and dropped the slot ${names.slot}`)
      dropped.push(`slot ${names.slot}`)
    })
  return [...dropped, ...(await dropAll(undone, () => leftoversOnSource(source, names)))]
}

async function onTarget(
  context: Abort,
  target: Database,
  entry: Entry | undefined,
  undone: Undone[],
): Promise<string[]> {
  const { migration, restore } = context.inputs
  if (entry) {
    await trying(undone, () => addEvidence(target, migration, 'abort', { phase: entry.phase }))
    await trying(undone, () => endImports(target, entry))
    await trying(undone, () => requireNoForeignImports(target, entry))
  }
  await trying(undone, () => restoreOrTell(target, migration, restore))
  return dropAll(undone, () => leftoversOnTarget(target, migration, entry))
}

/** Drops what it can. The ledger entry goes last, and only if everything before it succeeded. */
async function dropAll(undone: Undone[], look: () => Promise<Leftover[]>): Promise<string[]> {
  const dropped: string[] = []
  const before = undone.length
  let left: Leftover[] = []
  await trying(undone, async () => {
    left = await look()
  })
  for (const { name, last, drop } of left) {
    if (last && undone.length) continue
    info(`dropping ${name}`)
    if (await trying(undone, drop)) dropped.push(name)
  }
  if (undone.length === before)
    await trying(undone, async () =>
      requireGone(
        (await look()).filter(({ last }) => !last),
        'abort',
      ),
    )
  return dropped
}
