import type { Plan } from '../../model/plan.ts'
import type { Database } from '../../runtime/database.ts'
import { UserError, VerdictError } from '../../runtime/errors.ts'
import { HEARTBEAT, OUR_SCHEMA, readMarker } from '../../source/heartbeat.ts'
import { type Lsn, parseLsn } from '../../source/pgoutput.ts'
import { logSlotOf } from '../../source/slot.ts'

/** The state of both slots and of the source's transactions. */
export interface Look {
  lsn: Lsn
  /** Every transaction with a lower id has ended and is visible. */
  xmin: bigint
  /** Position up to which the stream has confirmed changes. */
  confirmed: Lsn
  /** PID and start time of the session that is reading the stream's slot; empty if there is none. */
  reader: string
  /** Bytes of WAL that the log's slot keeps. */
  walBytes: number
}

export async function lookAtSource(source: Database, { slot }: Plan): Promise<Look> {
  const { rows } = await source.query(
    `SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn,
            pg_catalog.txid_snapshot_xmin(pg_catalog.txid_current_snapshot())::text AS xmin,
            s.confirmed_flush_lsn::text AS confirmed, s.active_pid || ' ' || a.backend_start AS reader,
            (SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::float8
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $2) AS "walBytes"
       FROM pg_catalog.pg_replication_slots s LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
      WHERE s.slot_name = $1`,
    [slot, logSlotOf(slot)],
  )
  const [row] = rows
  if (!row) throw new UserError('slot.missing', `the slot ${slot} is gone. Repeat the load`)
  return {
    lsn: parseLsn(row.lsn),
    xmin: BigInt(row.xmin),
    confirmed: parseLsn(row.confirmed),
    reader: row.reader ?? '',
    walBytes: row.walBytes ?? 0,
  }
}

export async function sourceLsn(source: Database): Promise<Lsn> {
  const { rows } = await source.query('SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn')
  return parseLsn(rows[0].lsn)
}

/**
 * A marker, and the tables whose first pass waits until everything committed before the marker is visible on both
 * sides.
 */
export interface Baseline {
  tables: string[]
  lsn: Lsn
  xid: bigint
  beat: number
}

/**
 * Writes a heartbeat as a marker. Returns its transaction, and a position that is later than every change committed
 * before it.
 */
export async function markBaseline(source: Database, tables: Iterable<string>): Promise<Baseline> {
  const { rows } = await source.query(
    `UPDATE ${OUR_SCHEMA}.${HEARTBEAT} SET beat = beat + 1, marker = '' WHERE id = 1
     RETURNING beat, pg_catalog.txid_current()::text AS xid, pg_catalog.pg_current_wal_insert_lsn()::text AS lsn`,
  )
  const [row] = rows
  if (!row)
    throw new VerdictError('heartbeat.missing', 'the heartbeat on the source is gone. Run `prepare` and `fetch` again')
  return { tables: [...tables], lsn: parseLsn(row.lsn), xid: BigInt(row.xid), beat: Number(row.beat) }
}

/**
 * Whether everything committed before a baseline's marker is visible on both sides. Commits do not become visible in
 * WAL order, so every transaction that began before the marker must have ended, and the stream must have confirmed
 * everything up to the marker.
 */
export async function baselineHolds(
  { lsn, xid, beat }: Baseline,
  { xmin, confirmed }: Look,
  target: Database,
  { targetSchema }: Plan,
): Promise<boolean> {
  if (xmin <= xid || confirmed < lsn) return false
  return ((await readMarker(target, targetSchema))?.beat ?? 0) >= beat
}
