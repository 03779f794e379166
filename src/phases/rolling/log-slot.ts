import { setTimeout as sleep } from 'node:timers/promises'
import type { Entry } from '../../ledger/ledger.ts'
import { type ProofState, readProof } from '../../ledger/proof.ts'
import { connect, type Database } from '../../runtime/database.ts'
import { UserError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import { LOG_APPLICATION } from '../../source/change-log.ts'
import { parseLsn } from '../../source/pgoutput.ts'
import { readServer } from '../../source/server.ts'
import { createLogSlot, logSlotOf, readSlot, requireNoForeignSlot, seizeAndDrop } from '../../source/slot.ts'

export interface OpenedLog {
  slot: string
  /** Identity of the source that the log belongs to. */
  identity: { systemIdentifier: string; timeline: number }
  /** The proof that an earlier run saved; undefined unless this slot still has every change since then. */
  state: ProofState | undefined
}

/**
 * Finds the slot of the change log, or creates it. If the slot may have skipped changes since the proof was saved,
 * drops and recreates it, and the proof starts over.
 */
export async function openLogSlot(
  source: Database,
  target: Database,
  sourceUrl: string,
  entry: Entry,
  signal: AbortSignal,
): Promise<OpenedLog> {
  const name = logSlotOf(entry.plan.slot)
  const server = await readServer(source)
  if (server.inRecovery)
    throw new UserError('source.other-database', 'the source is a replica. Set `source` to the primary')
  const { rows } = await source.query(
    "SELECT ('x' || left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8))::bit(32)::int AS timeline",
  )
  const identity = { systemIdentifier: server.systemIdentifier, timeline: rows[0].timeline as number }
  const state = await readProof(target, entry.id, entry.facts.stagingSchema)
  await requireNoForeignSlot(source, name)
  const slot = await readSlot(source, name)
  const stream = await readSlot(source, entry.plan.slot)
  if (slot?.activePid) await endReader(source, name)
  if (state && slot && continues(state, slot, stream, identity)) return { slot: name, identity, state }
  if (slot) {
    if (slot.plugin !== 'pgoutput')
      throw new UserError(
        'slot.foreign',
        `the slot ${name} already exists and does not belong to this migration. Drop it if nothing uses it`,
      )
    await seizeAndDrop(source, name)
  }
  const own = await connect(sourceUrl, 'source', 0, signal)
  const cancel = () => void own.end().catch(() => {})
  signal.addEventListener('abort', cancel, { once: true })
  try {
    await createLogSlot(own, name)
  } finally {
    signal.removeEventListener('abort', cancel)
    await own.end().catch(() => {})
  }
  return { slot: name, identity, state: undefined }
}

type SlotRow = NonNullable<Awaited<ReturnType<typeof readSlot>>>

function continues(
  state: ProofState,
  slot: SlotRow,
  stream: SlotRow | undefined,
  server: OpenedLog['identity'],
): boolean {
  return (
    state.systemIdentifier === server.systemIdentifier &&
    state.timeline === server.timeline &&
    slot.plugin === 'pgoutput' &&
    slot.walStatus !== 'lost' &&
    hasAllSince(slot, state) &&
    // If this is false, the source has crashed, and the stream may reapply changes that the proof has forgotten.
    parseLsn(stream?.confirmedFlushLsn ?? '') >= parseLsn(state.confirmed)
  )
}

/** Whether the slot still has every change since the proof was saved. */
export async function keepsUp(source: Database, name: string, state: ProofState): Promise<boolean> {
  const slot = await readSlot(source, name)
  return slot !== undefined && hasAllSince(slot, state)
}

/** Returns false if another client has read the slot, or the slot was recreated under the same name. */
function hasAllSince({ confirmedFlushLsn }: SlotRow, { position }: ProofState): boolean {
  return confirmedFlushLsn !== null && parseLsn(confirmedFlushLsn) <= parseLsn(position)
}

/** Disconnects a reader left behind by an earlier run. This run holds the migration, so no other may read the log. */
async function endReader(source: Database, name: string): Promise<void> {
  const { rows } = await source.query(
    `SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a
      JOIN pg_catalog.pg_replication_slots s ON s.active_pid = a.pid
     WHERE s.slot_name = $1 AND a.application_name = $2 AND a.usename = session_user`,
    [name, LOG_APPLICATION],
  )
  for (let look = 0; rows.length && look < 100 && (await readSlot(source, name))?.active; look++)
    await sleep(TIMING.readerLook)
}
