import { info } from '@actions/core'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { ReportLevel } from '../../model/plan.ts'
import type { RollingProof } from '../../phases/rolling/proof.ts'
import { startProof } from '../../phases/rolling/start.ts'
import type { Stream } from '../../phases/stream/supervisor.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { estimateSize } from '../../sql/names.ts'
import { finalVerifyOf } from './compare.ts'
import type { Cutover } from './spec.ts'

/** The most that comparing every row may add to the write pause with `auto`, in milliseconds. */
const SHORT = 2_000
/**
 * Up to this total table size in bytes, comparing every row is assumed to be that fast, unless an earlier verify took
 * longer.
 */
const SMALL = 24 << 20
/** Cost of comparing every row: milliseconds to start the tools, then rows per millisecond. */
const FULL_AT_LEAST = 600
const FULL_ROWS_A_MS = 115
/** Minimum duration of a `changed` comparison, in milliseconds. */
const CHANGED_AT_LEAST = 300

/** Starts or continues the rolling proof; undefined when the final verify will not use one. */
export async function beginProof(
  context: Cutover,
  entry: Entry,
  { source, target }: { source: Database; target: Database },
  stream: Stream,
  signal: AbortSignal,
): Promise<RollingProof | undefined> {
  const { plan, facts } = entry
  const wanted = finalVerifyOf(context, plan)
  if (wanted !== 'auto' && wanted !== 'changed') return undefined
  const open = facts.writeAccessWaived && !facts.writeAccess
  if (open && wanted === 'changed')
    throw new VerdictError(
      'verify.not-provable',
      '`final-verify: changed` requires that nothing else can write to the target, but `prepare` ran with `write-access: waive`. Set `final-verify: full`',
    )
  if (open) info('every row is compared during the write pause, because revoking write access on the target was waived')
  if (open) return undefined
  const { bytes } = await estimateSize(source, plan.sourceSchema, plan.tables)
  if (wanted === 'auto' && bytes <= SMALL && (await measuredFull(target, entry)) <= SHORT) return undefined
  return startProof(context.inputs, entry, stream, signal)
}

/** Milliseconds that comparing every row last took, including a slow network; 0 without a measurement. */
async function measuredFull(target: Database, { id }: Entry): Promise<number> {
  const verifies = await readEvidence<VerifyReport & { partial?: boolean }>(target, id, 'verify', 20)
  return verifies.find(({ body }) => body.level === 'full' && !body.partial)?.body.durationMs ?? 0
}

/** What the write pause compares, and how many milliseconds that should take; undefined without a measurement. */
export interface Choice {
  level: ReportLevel
  verifyMs: number | undefined
}

/** What {@link chooseLevel} would decide if nothing changed after the last verify. */
export function expectedChoice(
  context: Cutover,
  { plan }: Entry,
  verified: { level: ReportLevel; tables: readonly { rows: number }[] } | undefined,
): Choice {
  const wanted = finalVerifyOf(context, plan)
  if (wanted !== 'auto' && wanted !== 'changed') return { level: wanted, verifyMs: undefined }
  const rows = verified?.tables.reduce((sum, table) => sum + table.rows, 0) ?? 0
  const fullMs = FULL_AT_LEAST + rows / FULL_ROWS_A_MS
  const changed = wanted === 'changed' || (verified?.level === 'changed' && fullMs > SHORT)
  return changed
    ? { level: 'changed', verifyMs: CHANGED_AT_LEAST }
    : { level: 'full', verifyMs: verified?.level === 'changed' ? fullMs : undefined }
}

/** The error when there is no complete proof, or the proof is too far behind to finish in a short pause. */
export function notNear(proof: RollingProof | undefined): VerdictError {
  return new VerdictError(
    'verify.not-provable',
    `the rolling proof for \`final-verify: changed\` is incomplete: ${proof?.reason ?? 'the source changes faster than the change log can be read'}. Nothing was paused. Set \`final-verify: full\` to compare every row during the write pause instead`,
  )
}

/**
 * Decides what the write pause compares, once the rolling proof is as complete as it can be.
 * @throws VerdictError when rows are lost, or when `changed` is set and the proof is incomplete
 */
export async function chooseLevel(
  context: Cutover,
  entry: Entry,
  { source, target }: { source: Database; target: Database },
  stream: Stream,
  proof: RollingProof | undefined,
  signal: AbortSignal,
): Promise<Choice> {
  const wanted = finalVerifyOf(context, entry.plan)
  const full: Choice = { level: wanted === 'auto' || wanted === 'changed' ? 'full' : wanted, verifyMs: undefined }
  if (!proof) return full
  const ready = (await proof.untilProved(signal, () => stream.check())) && (await proof.untilNear(signal))
  if (!ready && wanted === 'changed') throw notNear(proof)
  if (!ready) {
    info(
      `every row is compared during the write pause: ${proof.reason ?? 'the source changes faster than the change log can be read'}`,
    )
    return full
  }
  const { proved, others } = proof.coverage
  const rows = [...proved.values()].reduce((sum, each) => sum + each.rows, 0)
  const rest = [...others.keys()]
  const { rows: restRows } = await estimateSize(source, entry.plan.sourceSchema, rest)
  const guessMs = FULL_AT_LEAST + Math.max((rows + restRows) / FULL_ROWS_A_MS, proof.fullMs ?? 0)
  const fullMs = Math.max(guessMs, await measuredFull(target, entry))
  if (wanted === 'auto' && (fullMs <= SHORT || !proved.size)) {
    info(`every row is compared during the write pause, which takes about ${seconds(fullMs)}`)
    return { level: 'full', verifyMs: fullMs }
  }
  info(`${plural(rows, 'row')} of ${plural(proved.size, 'table')} proved, ${plural(proof.open, 'key')} open, 0 lost`)
  for (const [name, reason] of others) info(`${name} is compared in full: ${reason}`)
  const restMs = rest.length ? FULL_AT_LEAST + restRows / FULL_ROWS_A_MS : 0
  return { level: 'changed', verifyMs: CHANGED_AT_LEAST + proof.restMs + restMs }
}
