import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { info, warning } from '@actions/core'
import { type Database, qualified } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readMarker, writeMarker } from '../../source/heartbeat.ts'
import { readSlot } from '../../source/slot.ts'
import type { StreamMetrics } from '../../tools/replicator.ts'
import type { Stream } from './supervisor.ts'

/** What was observed at each step of a proved drain. Times are in milliseconds since the drain began. */
export interface DrainEvidence {
  marker: string
  /** Number of the heartbeat that carried the marker. */
  beat: number
  /** The source's WAL position just before the marker was written. */
  lsn: string
  confirmedFlushLsn: string
  walsender: number
  markerSeenMs: number
  positionConfirmedMs: number
  doneMs: number
  /** How often the replicator retried, reconnected and restarted during the drain. All three must be zero. */
  retriesDuring: number
  dialsDuring: number
  restartsDuring: number
  /**
   * Number of changes applied after the marker had arrived and was acknowledged; null if the replicator's metrics do
   * not count changes.
   */
  changesAfter: number | null
  /** Number of rows in the replicator's dead-letter table, `deadLetterTable`. */
  deadLetters: number
  deadLetterTable: string
}

/**
 * Proves that everything committed on the source before now has been applied on the target. The caller must hold the
 * fence: the proof is only valid while nothing can write to the source.
 *
 * Neither the apply rate nor the slot's position can prove this: the rate of a stuck stream is zero, and the position
 * never reaches the end of the WAL. A marker row can, because changes arrive in order: once the marker has arrived,
 * everything before it has arrived too.
 * @param deadline milliseconds from now for the whole drain
 * @throws VerdictError that names the step that did not complete
 */
export async function proveDrain(stream: Stream, deadline: number): Promise<DrainEvidence> {
  await stream.pauseHeartbeat(true)
  try {
    return await stream.source.use((source) =>
      stream.target.use((target) => proveAgain(stream, source, target, deadline)),
    )
  } finally {
    await stream.pauseHeartbeat(false)
  }
}

/** Maximum number of attempts. If the replicator retries, the attempt is invalid. */
const PROOFS = 3

/** The replicator retried a transaction, which is normal on CockroachDB. Another marker can still prove the drain. */
class Retried extends VerdictError {}

/** Proves the drain. If the replicator retries, which invalidates the attempt, tries again with a new marker. */
async function proveAgain(
  stream: Stream,
  source: Database,
  target: Database,
  deadline: number,
): Promise<DrainEvidence> {
  const began = performance.now()
  for (let proof = 1; ; proof++)
    try {
      return await prove(stream, source, target, began, deadline)
    } catch (error) {
      if (!(error instanceof Retried) || proof >= PROOFS || performance.now() - began > deadline) throw error
      info(`the replicator retried during the drain (attempt ${proof} of ${PROOFS}); trying again with a new marker`)
    }
}

/** Waits until a step of the proof is complete. Throws as soon as the proof is invalid. */
type Until = <T>(step: string, look: () => Promise<T | undefined>) => Promise<T>

function stepsOf(stream: Stream, began: number, deadline: number): Until {
  const { restarts, retries } = stream.status
  return async (step, look) => {
    for (;;) {
      const found = await look()
      if (found !== undefined) return found
      stream.check()
      const { status } = stream
      const unproved = (why: string) =>
        `the drain is not proved: the replicator ${why} while the drain was waiting for ${step}. Nothing was committed. Run \`cutover\` again.${lastError(stream)}`
      // Fail immediately: this drain can no longer be proved, and writes are paused.
      if (status.restarts > restarts)
        throw new VerdictError('drain.replicator-ended', unproved(`${status.lastEnd} and was restarted`))
      if (status.retries > retries) throw new Retried('drain.not-proved', unproved('started retrying'))
      if (performance.now() - began > deadline)
        throw stream.stuck(`the drain waited longer than ${seconds(deadline)} for ${step}`)
      await sleep(TIMING.drainLook)
    }
  }
}

async function prove(
  stream: Stream,
  source: Database,
  target: Database,
  began: number,
  deadline: number,
): Promise<DrainEvidence> {
  const { plan } = stream.options
  const since = () => Math.round(performance.now() - began)
  const until = stepsOf(stream, began, deadline)
  const walsender = await until(
    'a replicator to read the slot',
    async () => (await readSlot(source, plan.slot))?.activePid ?? undefined,
  )
  const metricsRead = () => until("an answer from the replicator's metrics", () => stream.metrics())
  const atStart = { status: stream.status, metrics: await metricsRead() }
  const { rows } = await source.query('SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn')
  const lsn: string = rows[0].lsn
  const marker = randomUUID()
  const beat = await writeMarker(source, marker)
  await until(`the marker ${marker} to reach the target`, async () => {
    const seen = await readMarker(target, plan.targetSchema)
    return seen?.marker === marker || undefined
  })
  const markerSeenMs = since()
  const confirmedFlushLsn = await until(`the slot's position to pass ${lsn}`, () =>
    confirmedPast(source, plan.slot, lsn),
  )
  const positionConfirmedMs = since()
  const before = await metricsRead()
  await sleep(TIMING.drainStill)
  const after = await metricsRead()
  const slot = await readSlot(source, plan.slot)
  const deadLetterTable = deadLetterName(stream.options.extraArgs)
  const { status } = stream
  const evidence: DrainEvidence = {
    marker,
    beat,
    lsn,
    confirmedFlushLsn,
    walsender,
    markerSeenMs,
    positionConfirmedMs,
    doneMs: since(),
    retriesDuring: status.retries - atStart.status.retries,
    dialsDuring: dials(after) - dials(atStart.metrics),
    restartsDuring: status.restarts - atStart.status.restarts,
    changesAfter: counting(before) ? Math.abs(after.upserts + after.deletes - before.upserts - before.deletes) : null,
    deadLetters: await countDeadLetters(target, plan.targetSchema, deadLetterTable),
    deadLetterTable,
  }
  const problems = drainProblems(evidence, slot?.activePid, stream.status.lastEnd)
  if (problems.length) {
    const { retriesDuring, restartsDuring, deadLetters } = evidence
    const spoilt = retriesDuring > 0 && !restartsDuring && !deadLetters
    const code = restartsDuring ? 'drain.replicator-ended' : 'drain.not-proved'
    throw new (spoilt ? Retried : VerdictError)(code, `the drain is not proved: ${problems.join('; ')}`)
  }
  if (evidence.changesAfter === null) warning(MUTE)
  return evidence
}

/** The replicator's last error, as a sentence to append; empty if it has reported none. */
function lastError({ diagnoses }: Stream): string {
  const said = [...diagnoses.keys()].at(-1)
  return said ? ` The replicator's last error: ${said.slice(0, 400)}` : ''
}

const MUTE =
  "the replicator's metrics show no changes, although the marker has arrived: this version probably names its metrics differently. So it is unknown whether changes were still being applied after the marker. Run a full verify after the drain to find out"

/**
 * Whether the replicator's metrics count changes. The marker is a change too, so they must have counted at least one.
 */
function counting({ upserts }: StreamMetrics): boolean {
  return upserts > 0
}

/** Lists what invalidates a drain even though its marker has arrived. */
function drainProblems(evidence: DrainEvidence, reader: number | null | undefined, end: string): string[] {
  const { walsender, restartsDuring, retriesDuring, dialsDuring, changesAfter, deadLetters, deadLetterTable } = evidence
  return [
    reader !== walsender && `the slot's reader changed from PID ${walsender} to ${reader ?? 'none'} during the drain`,
    restartsDuring && `the replicator ${end} and was restarted during the drain`,
    retriesDuring && `the replicator retried ${plural(retriesDuring, 'time')} during the drain`,
    !restartsDuring && dialsDuring && 'the replicator reconnected to the source during the drain',
    changesAfter && 'changes were still being applied after the marker had arrived',
    deadLetters &&
      `${deadLetters} changes went to the dead-letter table ${deadLetterTable} instead of their own tables`,
  ].filter((problem) => typeof problem === 'string')
}

function dials({ dials, dialFailures }: StreamMetrics): number {
  return dials + dialFailures
}

async function confirmedPast(db: Database, slot: string, lsn: string): Promise<string | undefined> {
  const { rows } = await db.query(
    `SELECT confirmed_flush_lsn::text AS lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn >= $2::pg_lsn`,
    [slot, lsn],
  )
  return rows[0]?.lsn
}

/** The unqualified name of the replicator's dead-letter table, which `--dlqTableName` can change. */
export function deadLetterName(args: readonly string[]): string {
  const at = args.findLastIndex((argument) => /^--dlqTableName(=|$)/.test(argument))
  const value = at < 0 ? '' : args[at]?.includes('=') ? args[at].slice(args[at].indexOf('=') + 1) : args[at + 1]
  return value?.split('.').at(-1)?.replaceAll('"', '') || 'replicator_dlq'
}

/** Counts the rows in the dead-letter table. The replicator creates this table only if it is configured or needed. */
async function countDeadLetters(db: Database, schema: string, table: string): Promise<number> {
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND lower(c.relname) = lower($2) AND c.relkind = 'r'`,
    [schema, table],
  )
  let found = 0
  for (const { name } of rows) {
    const count = await db.query(`SELECT count(*) AS rows FROM ${qualified(schema, name)}`)
    found += Number(count.rows[0].rows)
  }
  return found
}
