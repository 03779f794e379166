import { info, warning } from '@actions/core'
import { jobText } from '../../destination/jobs.ts'
import { holdTexts } from '../../ledger/hold.ts'
import { type Entry, readEntryIfAny, readEvidence, readLastSteps, STREAMING, type Trace } from '../../ledger/ledger.ts'
import { nextOf } from '../../ledger/phases.ts'
import { readProof } from '../../ledger/proof.ts'
import { lookAtFence } from '../../phases/cutover/held-fence.ts'
import { importsInto } from '../../phases/load/resume.ts'
import { readRollback } from '../../phases/observe/way-back.ts'
import { proofText } from '../../phases/rolling/text.ts'
import { markdownText } from '../../report/markdown.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, type Side, withDatabase } from '../../runtime/database.ts'
import { errorCode, InputError, messageOf, refuse, UserError, VerdictError } from '../../runtime/errors.ts'
import { nextByLedger, nextMarkdown, nextText, nextTold, noteNext } from '../../runtime/next.ts'
import { clock, number, plural } from '../../runtime/progress.ts'
import { redact } from '../../runtime/secrets.ts'
import { readHeartbeatOwner } from '../../source/heartbeat.ts'
import { logSlotOf, readSlot, slotLoss } from '../../source/slot.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Status = Context<typeof spec>

/** The facts about one side, or the error that prevented reading them; undefined without a URL. */
type Look<T> = { seen: T } | { failed: unknown } | undefined

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { source, target, migration } = context.inputs
    if (!source && !target)
      throw new InputError('input.missing', 'inputs `source` and `target` are both missing. Set at least one')
    requireTls(context.inputs)
    const ledger = await look(target, 'target', (db) => lookAtLedger(db, context.inputs))
    const known = seenBy(ledger)
    const facts = await look(source, 'source', (db) => lookAtSource(db, known?.entry))
    const seen = seenBy(facts)
    output(context, known, seen)
    if (known?.entry && STREAMING.includes(known.entry.phase) && seen && slotLoss(seen.slot))
      noteNext({ action: 'abort' })
    tell(
      context,
      [...standingLines(migration, ledger), ...slotLines(facts)],
      [...sourceLines(facts), ...(known?.more ?? [])],
      known ? 'nothing' : 'unknown; it is recorded only in the ledger on the target',
    )
    requireReached({ source: facts, target: ledger })
    if (!source && !known?.entry)
      throw new UserError(
        'ledger.no-migration',
        `the target's ledger has no migration \`${migration}\`. Run \`prepare\` first`,
      )
    requireSound(context, seen)
  },
}

/**
 * Prints the most wanted lines first, then the next command, then everything else.
 * @param nothing text in place of the command
 */
function tell({ inputs, summary }: Status, first: readonly string[], more: readonly string[], nothing: string): void {
  const next = nextByLedger()
  const list = (lines: readonly string[]) => lines.map((line) => `- ${line}`).join('\n')
  for (const line of first) info(line.replaceAll('**', ''))
  info(`next: ${next ? nextText(next) : nothing}`)
  for (const line of more) info(line.replaceAll('**', ''))
  summary(`### Migration \`${inputs.migration}\`\n\n${list(first)}`)
  if (next) summary(nextMarkdown(next))
  summary(list(more))
  nextTold()
}

/** Reads one side. If it fails, the other side can still be reported. */
async function look<T>(url: string | undefined, side: Side, work: (db: Database) => Promise<T>): Promise<Look<T>> {
  if (!url) return undefined
  try {
    return { seen: await withDatabase(url, side, work) }
  } catch (failed) {
    return { failed }
  }
}

function seenBy<T>(look: Look<T>): T | undefined {
  return look && 'seen' in look ? look.seen : undefined
}

/** @throws UserError that names each side that could not be read, and why */
function requireReached(sides: Record<Side, Look<unknown>>): void {
  const away = Object.entries(sides).flatMap(([side, found]) =>
    found && 'failed' in found ? [`the ${side}: ${redact(messageOf(found.failed))} [${errorCode(found.failed)}]`] : [],
  )
  if (away.length)
    refuse('status.unreadable', 'at least one side could not be read', away, 'Fix this, then run `status` again.')
}

function requireSound({ inputs }: Status, facts: SourceFacts | undefined): void {
  if (facts?.fence.raised && facts.fence.problems.length)
    refuse(
      'fence.not-holding',
      `the fence is ${facts.fence.state}, but damaged`,
      facts.fence.problems,
      'Writes can pass the fence, and may already have. Run `prepare` again, and repeat every comparison made while the fence was up.',
    )
  for (const slot of [facts?.slot, facts?.log])
    if (slot && slot.walBytes > inputs.walBudget)
      throw new VerdictError(
        'slot.wal-budget',
        `the slot \`${slot.name}\` keeps ${number(slot.walBytes)} bytes of WAL on the source, more than \`wal-budget\`, ${slot.active ? 'although a reader is connected' : 'and has no reader'}. Run \`replicate\`, or abandon the migration with \`abort\`, before the disk is full`,
      )
}

type LedgerFacts = Awaited<ReturnType<typeof lookAtLedger>>

async function lookAtLedger(db: Database, { migration, rollbackWindow }: Status['inputs']) {
  const entry = await readEntryIfAny(db, migration)
  if (!entry) return { entry, holds: [], steps: undefined, rollback: undefined, more: [] }
  await noteDecision(db, entry)
  const rollback = await readRollback(db, entry, rollbackWindow)
  const proof = await readProof(db, migration, entry.facts.stagingSchema)
  return {
    entry,
    holds: await holdTexts(db, migration),
    steps: await readLastSteps(db, migration),
    rollback,
    more: [
      ...(rollback?.lines ?? []),
      ...(await importTexts(db, entry)),
      ...(proof ? [proofText(proof)] : []),
      `${plural(entry.plan.tables.length, 'expected table')} of \`${entry.plan.sourceSchema}\``,
    ],
  }
}

/** Proposes the commit as the next step after a rehearsal. */
async function noteDecision(db: Database, { id, phase, facts }: Entry): Promise<void> {
  const next = nextOf(phase, facts)
  if (next?.action !== 'cutover' || next.inputs) return
  const [last] = await readEvidence<{ planHash: string }>(db, id, 'cutover', 1)
  if (last) noteNext({ ...next, inputs: { decision: 'commit' } })
}

/** Describes the import jobs that keep expected tables offline. */
async function importTexts(db: Database, entry: Entry): Promise<string[]> {
  const jobs = await importsInto(db, entry).catch((error) => {
    warning(`the import jobs could not be read: ${messageOf(error)}`)
    return []
  })
  return jobs.map(
    (job) =>
      `offline: importing ${Math.floor(job.fraction * 100)}%, ${job.ours ? 'a load of this migration' : 'not of this migration'}: ${jobText(job)}`,
  )
}

function slotName(entry: Entry | undefined): string {
  return entry?.plan.slot ?? 'molt_slot'
}

async function ownSlot(db: Database, name: string) {
  const slot = await readSlot(db, name)
  return slot && { ...slot, name }
}

type SourceFacts = Awaited<ReturnType<typeof lookAtSource>>

async function lookAtSource(db: Database, entry: Entry | undefined) {
  return {
    owner: await readHeartbeatOwner(db),
    fence: await lookAtFence(db, entry),
    name: slotName(entry),
    slot: await ownSlot(db, slotName(entry)),
    log: await ownSlot(db, logSlotOf(slotName(entry))),
  }
}

function output(context: Status, ledger: LedgerFacts | undefined, facts: SourceFacts | undefined): void {
  context.output('phase', ledger?.entry?.phase ?? '')
  context.output('rollback-until', ledger?.rollback?.until.toISOString() ?? '')
  context.output('observed', ledger?.rollback?.observed ?? '')
  context.output('compared', ledger?.rollback?.compared ?? '')
  const next = ledger && nextByLedger()
  context.output('next', next?.action ?? '')
  context.output('last-error', ledger?.steps?.failed?.code ?? '')
  if (!facts) return
  context.output('fence', facts.fence.state)
  context.output('slot-active', facts.slot?.active ?? false)
  context.output('wal-bytes', Math.round(facts.slot?.walBytes ?? 0))
}

/** Lines for the phase, the last step, the last error, and the runs that hold the migration. */
function standingLines(migration: string, ledger: Look<LedgerFacts>): string[] {
  if (!ledger) return ['phase: unknown, no `target` was given']
  if ('failed' in ledger) return ['phase: **unknown**, the target cannot be read']
  const { entry, steps, holds } = ledger.seen
  if (!entry) return [`phase: none, the ledger has no migration \`${migration}\``]
  return [
    `phase: **${entry.phase}** since ${clock(entry.updatedAt)}`,
    ...(steps?.last ? [`last step: ${traceText(steps.last)}`] : []),
    errorLine(steps?.failed),
    holds.length ? `hold: ${holds.join('; ')}` : 'not held',
  ]
}

function errorLine(failed: NonNullable<LedgerFacts['steps']>['failed']): string {
  if (!failed) return 'last error: none'
  const { action, message, code, overcome } = failed
  const since = overcome ? `. \`${action}\` has made progress since` : ''
  return `last error: ${traceText(failed)}: ${markdownText(message)} [${code}]${since}`
}

function traceText({ action, at, origin }: Trace): string {
  return `\`${action}\` at ${clock(at)}${origin?.run ? `, ${origin.run}` : ''}`
}

/** Lines for the slots of the stream and of the change log. */
function slotLines(facts: Look<SourceFacts>): string[] {
  if (!facts) return ['slots: unknown, no `source` was given']
  if ('failed' in facts) return ['slots: **unknown**, the source cannot be read']
  const { name, slot, log } = facts.seen
  return [slot ? slotText(slot) : `slot \`${name}\`: none`, log ? slotText(log) : `slot \`${logSlotOf(name)}\`: none`]
}

function sourceLines(facts: Look<SourceFacts>): string[] {
  if (!facts || 'failed' in facts) return []
  const { owner, fence } = facts.seen
  const remaining = fence.state === 'armed' ? `, lapses in ${Math.round(fence.remainingMs / 1000)} s` : ''
  return [
    `fence: ${fence.state}${remaining}`,
    ...fence.problems.map((problem) => `fence problem: ${problem}`),
    owner ? `the source is in use by migration \`${owner.migration}\`` : 'no migration is using the source',
  ]
}

function slotText({ name, database, walBytes, activePid }: NonNullable<SourceFacts['slot']>): string {
  const reader = activePid ? `read by PID ${activePid}` : 'no reader'
  return `slot \`${name}\` of the database \`${database}\`: keeps ${number(walBytes / 2 ** 20)} MiB of WAL, ${reader}`
}
