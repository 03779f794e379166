import { info, warning } from '@actions/core'
import { jobText } from '../../destination/jobs.ts'
import { holdTexts } from '../../ledger/hold.ts'
import { type Entry, readEntryIfAny } from '../../ledger/ledger.ts'
import { readProof } from '../../ledger/proof.ts'
import { lookAtFence } from '../../phases/cutover/held-fence.ts'
import { importsInto } from '../../phases/load/resume.ts'
import { readRollback } from '../../phases/observe/way-back.ts'
import { proofText } from '../../phases/rolling/text.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { InputError, messageOf, refuse, VerdictError } from '../../runtime/errors.ts'
import { number, plural } from '../../runtime/progress.ts'
import { readHeartbeatOwner } from '../../source/heartbeat.ts'
import { logSlotOf, readSlot } from '../../source/slot.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Status = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { source, target, migration } = context.inputs
    if (!source && !target)
      throw new InputError('input.missing', 'inputs `source` and `target` are both missing; write at least one')
    requireTls(context.inputs)
    const ledger = target
      ? await attempt(() =>
          withDatabase(target, 'target', async (db) => {
            const entry = await readEntryIfAny(db, migration)
            const rollback = entry && (await readRollback(db, entry, context.inputs.rollbackWindow))
            return {
              entry,
              holds: await holdTexts(db, migration),
              rollback,
              imports: entry ? await importTexts(db, entry) : [],
              proof: await readProof(db, migration),
            }
          }),
        )
      : undefined
    const entry = ledger?.entry
    const facts = source ? await attempt(() => lookAtSource(source, entry)) : undefined
    const rollback = ledger?.rollback
    context.output('rollback-until', rollback?.until.toISOString() ?? '')
    context.output('observed', rollback?.observed ?? '')
    context.output('compared', rollback?.compared ?? '')
    const lines = [
      ...ledgerLines(context, entry),
      ...(rollback?.lines ?? []),
      ...(ledger?.holds ?? []),
      ...(ledger?.imports ?? []),
      ...(ledger?.proof ? [proofText(ledger.proof)] : []),
      ...sourceLines(context, facts),
    ]
    for (const line of lines) info(line)
    context.summary(`### Migration \`${migration}\`\n\n${lines.map((line) => `- ${line}`).join('\n')}`)
    if (!entry && !facts) throw new VerdictError('status.unreadable', 'neither side could be read')
    if (facts?.fence.raised && facts.fence.problems.length)
      refuse(
        'fence.not-holding',
        `the fence is ${facts.fence.state}, and not as it must be`,
        facts.fence.problems,
        'Writes may go past it now, or have done so: nothing that was compared behind it can be relied on.',
      )
    const { walBudget } = context.inputs
    for (const slot of [facts?.slot, facts?.log])
      if (slot && slot.walBytes > walBudget)
        throw new VerdictError(
          'slot.wal-budget',
          `the slot \`${slot.name}\` keeps ${number(slot.walBytes)} bytes of WAL on the source, more than \`wal-budget\`, ${slot.active ? 'although it is read' : 'and nobody reads it'}; follow it with \`replicate\`, or give the migration up with \`abort\`, before the disk is full`,
        )
  },
}

/** One side may be away; the other still has something to tell. */
async function attempt<T>(work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work()
  } catch (error) {
    warning(messageOf(error))
    return undefined
  }
}

/** Imports that hold expected tables offline. */
async function importTexts(db: Database, entry: Entry): Promise<string[]> {
  const jobs = await importsInto(db, entry).catch((error) => {
    warning(`import jobs cannot be read: ${messageOf(error)}`)
    return []
  })
  return jobs.map(
    (job) =>
      `offline: importing ${Math.floor(job.fraction * 100)}%, ${job.ours ? 'a load of this migration' : 'not ours'}: ${jobText(job)}`,
  )
}

function slotName(entry: Entry | undefined): string {
  return entry?.plan.slot ?? 'molt_slot'
}

/** Without a ledger that names it, a slot of another database on the same server is not this migration's. */
async function ownSlot(db: Database, entry: Entry | undefined, name: string) {
  const slot = await readSlot(db, name)
  const { rows } = await db.query('SELECT current_database() AS here')
  return slot && (entry || slot.database === rows[0].here) ? { ...slot, name } : undefined
}

async function lookAtSource(url: string, entry: Entry | undefined) {
  return withDatabase(url, 'source', async (db) => ({
    owner: await readHeartbeatOwner(db),
    fence: await lookAtFence(db, entry),
    slot: await ownSlot(db, entry, slotName(entry)),
    log: await ownSlot(db, entry, logSlotOf(slotName(entry))),
  }))
}

function ledgerLines(context: Status, entry: Entry | undefined): string[] {
  context.output('phase', entry?.phase ?? '')
  if (!entry) return ['the ledger has no such migration, or could not be read']
  return [
    `it is **${entry.phase}** since ${entry.updatedAt.toISOString()}`,
    `${plural(entry.plan.tables.length, 'expected table')} of \`${entry.plan.sourceSchema}\`, slot \`${entry.plan.slot}\``,
  ]
}

function sourceLines(context: Status, facts: Awaited<ReturnType<typeof lookAtSource>> | undefined): string[] {
  if (!facts) return []
  const { owner, fence, slot, log } = facts
  context.output('fence', fence.state)
  context.output('slot-active', slot?.active ?? false)
  context.output('wal-bytes', Math.round(slot?.walBytes ?? 0))
  const remaining = fence.state === 'armed' ? `, and falls by itself in ${Math.round(fence.remainingMs / 1000)} s` : ''
  return [
    owner ? `the source belongs to migration \`${owner.migration}\`` : 'nothing of ours is on the source',
    `the fence is ${fence.state}${remaining}`,
    ...fence.problems.map((problem) => `the fence is not as it must be: ${problem}`),
    slot ? slotText(slot) : 'there is no slot',
    ...(log ? [slotText(log)] : []),
  ]
}

function slotText({ name, database, walBytes, activePid }: NonNullable<Awaited<ReturnType<typeof ownSlot>>>): string {
  const reader = activePid ? `read by PID ${activePid}` : 'read by nobody'
  return `the slot \`${name}\` of the database \`${database}\` keeps ${number(walBytes / 2 ** 20)} MiB of WAL and is ${reader}`
}
