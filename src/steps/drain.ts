import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Database, qualified } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { seconds } from '../runtime/progress.ts'
import { readMarker, writeMarker } from '../source/heartbeat.ts'
import { readSlot } from '../source/slot.ts'
import type { Stream } from './stream.ts'

/** What was seen at each step of a proved drain; times in milliseconds since the drain began. */
export interface DrainEvidence {
  marker: string
  /** The source's WAL position just before the marker was written. */
  lsn: string
  confirmedFlushLsn: string
  walsender: number
  markerSeenMs: number
  positionConfirmedMs: number
  doneMs: number
  retriesDuring: number
  deadLetters: number
}

const LOOK_EVERY = 10
const STILL_FOR = 60

/**
 * Proves that everything committed on the source before now has been applied on the target. Only sound while no write
 * is possible on the source: the caller holds the fence.
 *
 * Neither the apply rate nor the slot's position can prove it: the rate of a stuck stream is zero, and the position
 * never reaches the end of the WAL. A marker row can: changes arrive in order, so what came before it has arrived.
 * @param deadline milliseconds from now for all of it
 * @throws VerdictError that names the step which did not come to its end
 */
export async function proveDrain(stream: Stream, deadline: number): Promise<DrainEvidence> {
  await stream.pauseHeartbeat(true)
  try {
    return await stream.source.use((source) => stream.target.use((target) => prove(stream, source, target, deadline)))
  } finally {
    await stream.pauseHeartbeat(false)
  }
}

async function prove(stream: Stream, source: Database, target: Database, deadline: number): Promise<DrainEvidence> {
  const { plan } = stream.options
  const began = performance.now()
  const since = () => Math.round(performance.now() - began)
  const until = async <T>(step: string, look: () => Promise<T | undefined>): Promise<T> => {
    for (;;) {
      const found = await look()
      if (found !== undefined) return found
      stream.check()
      if (performance.now() - began > deadline) throw stream.stuck(`${step} did not happen within ${seconds(deadline)}`)
      await sleep(LOOK_EVERY)
    }
  }
  const walsender = await until(
    'a replicator reading the slot',
    async () => (await readSlot(source, plan.slot))?.activePid ?? undefined,
  )
  const retries = stream.status.retries
  const restarts = stream.status.restarts
  const { rows } = await source.query('SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn')
  const lsn: string = rows[0].lsn
  const marker = randomUUID()
  await writeMarker(source, marker)
  await until(`the marker ${marker} arriving on the target`, async () => {
    const seen = await readMarker(target, plan.targetSchema)
    return seen?.marker === marker || undefined
  })
  const markerSeenMs = since()
  const confirmedFlushLsn = await until(`the slot's position passing ${lsn}`, () =>
    confirmedPast(source, plan.slot, lsn),
  )
  const positionConfirmedMs = since()
  const before = await stream.metrics()
  await sleep(STILL_FOR)
  const after = await stream.metrics()
  const slot = await readSlot(source, plan.slot)
  const status = stream.status
  const deadLetters = await countDeadLetters(target, plan.targetSchema)
  const problems = [
    slot?.activePid !== walsender &&
      `the slot's reader changed from PID ${walsender} to ${slot?.activePid ?? 'none'} meanwhile`,
    status.restarts !== restarts && 'the replicator was restarted meanwhile',
    status.retries !== retries && `the replicator retried ${status.retries - retries} times meanwhile`,
    before &&
      after &&
      before.upserts + before.deletes !== after.upserts + after.deletes &&
      'changes were still being applied after the marker',
    deadLetters > 0 && `${deadLetters} changes lie in the dead-letter table instead of where they belong`,
  ].filter(Boolean)
  if (problems.length) throw new VerdictError(`the drain is not proved: ${problems.join('; ')}`)
  return {
    marker,
    lsn,
    confirmedFlushLsn,
    walsender,
    markerSeenMs,
    positionConfirmedMs,
    doneMs: since(),
    retriesDuring: 0,
    deadLetters,
  }
}

async function confirmedPast(db: Database, slot: string, lsn: string): Promise<string | undefined> {
  const { rows } = await db.query(
    `SELECT confirmed_flush_lsn::text AS lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND confirmed_flush_lsn >= $2::pg_lsn`,
    [slot, lsn],
  )
  return rows[0]?.lsn
}

/** The replicator's dead-letter table exists only once it was configured or needed. */
async function countDeadLetters(db: Database, schema: string): Promise<number> {
  const { rows } = await db.query(
    `SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = 'replicator_dlq'`,
    [schema],
  )
  if (!rows[0]) return 0
  const count = await db.query(`SELECT count(*) AS rows FROM ${qualified(schema, 'replicator_dlq')}`)
  return Number(count.rows[0].rows)
}
