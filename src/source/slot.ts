import { type Database, sqlState } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { publicationProblems } from './publication.ts'

/**
 * A replication slot on the source. LSNs are strings such as `0/2E02140`; `walBytes` is the WAL that the slot retains.
 */
export interface Slot {
  plugin: string
  database: string
  active: boolean
  activePid: number | null
  restartLsn: string | null
  confirmedFlushLsn: string | null
  /** null before PostgreSQL 13, because older versions do not limit the retained WAL. */
  walStatus: string | null
  walBytes: number
}

/** Reads a slot of this database. A slot of another database or of a standby never belongs to this migration. */
export async function readSlot(db: Database, name: string): Promise<Slot | undefined> {
  const { rows } = await db.query(
    `SELECT plugin, database, active, active_pid AS "activePid", restart_lsn::text AS "restartLsn",
            confirmed_flush_lsn::text AS "confirmedFlushLsn", to_jsonb(s) ->> 'wal_status' AS "walStatus",
            pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::float8 AS "walBytes"
       FROM pg_catalog.pg_replication_slots s WHERE slot_name = $1 AND database = current_database()`,
    [name],
  )
  return rows[0]
}

/** @throws UserError `slot.foreign` if a slot of this name belongs to another database or to a standby */
export async function requireNoForeignSlot(db: Database, name: string): Promise<void> {
  const { rows } = await db.query(
    `SELECT database FROM pg_catalog.pg_replication_slots
      WHERE slot_name = $1 AND database IS DISTINCT FROM current_database()`,
    [name],
  )
  if (rows[0])
    throw new UserError(
      'slot.foreign',
      `the slot ${name} already exists and belongs to ${slotOwner(rows[0].database)}. Slot names are unique on a server. Run \`abort\`, then \`prepare\` with a different \`slot\``,
    )
}

/**
 * Describes who owns a slot.
 * @param database null for a physical slot
 */
export function slotOwner(database: string | null): string {
  return database === null ? 'a standby or a backup' : `the database ${database}`
}

/** Name of a migration's second slot, for the change log. Shortened, because PostgreSQL limits names to 63 bytes. */
export function logSlotOf(slot: string): string {
  return `${slot.slice(0, 56)}_verify`
}

/** Creates the slot for the change log. Waits until all running transactions have ended. */
export async function createLogSlot(db: Database, slot: string): Promise<void> {
  await db.query("SELECT pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')", [slot])
}

export async function dropSlot(db: Database, name: string): Promise<void> {
  await db.query(
    'SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND database = current_database()',
    [name],
  )
}

/**
 * Drops a slot, even if another process is reading it. A replicator reconnects within 0.1 s after its session is ended,
 * so each attempt ends the reader and immediately drops the slot.
 * @throws the database's error if the reader reconnected in time in every attempt
 */
export async function seizeAndDrop(db: Database, name: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await db.query(
        'SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots WHERE slot_name = $1 AND database = current_database() AND active',
        [name],
      )
      // The server needs a moment to notice that the reader is gone, but the reader needs longer to reconnect.
      for (let look = 0; look < 50 && (await readSlot(db, name))?.active; look++)
        await db.query('SELECT pg_catalog.pg_sleep(0.002)')
      return await dropSlot(db, name)
    } catch (error) {
      if (sqlState(error) !== '55006' || attempt >= 50) throw error
    }
  }
}

/**
 * Facts for supervising a stream: its slot, reader and publication, and the server. Read with one query. LSNs are
 * strings such as `0/2E02140`.
 */
export interface SlotFacts {
  active: boolean
  restartLsn: string | null
  confirmedFlushLsn: string | null
  /** The source's current WAL position. */
  lsn: string
  walStatus: string | null
  /** Bytes of WAL that the slot can still retain before it is invalidated; null without a limit. */
  safeWalSize: number | null
  /** WAL in bytes: how much the slot retains on the source's disk, and how much the stream has not acknowledged yet. */
  walBytes: number
  behindBytes: number
  /** WAL that the slot of the change log keeps while nothing reads it, in bytes; null with a reader or without a slot. */
  idleLogBytes: number | null
  /** The current reader. */
  reader: Reader | null
  /** Whether the decoding process is working rather than waiting. */
  decoding: boolean
  /** Changes when the server restarts, or when a crash discards its statistics. */
  serverStart: string
  /** Transactions decoded since the slot was created (PostgreSQL 14 and later); null after a reset. */
  decoded: number | null
  /** The publication's oid, which changes if it is recreated; null if it does not exist. */
  publication: number | null
  /** The oldest transaction that keeps the slot from advancing: it has written, or it is prepared. */
  oldest: { pid: number | null; ageMs: number; application: string | null } | null
}

interface Reader {
  pid: number
  application: string
  user: string
  address: string | null
  /** Time at which the reader connected, as the source formats it. */
  since: string
}

/** Describes a slot's reader in a message. */
export function readerText({ pid, application, user, address, since }: Reader): string {
  const who = `${application ? `${application}, ` : ''}user ${user}`
  return `PID ${pid} (${who}${address ? `, from ${address}` : ''}), connected since ${since}`
}

/** Reads the facts; undefined if the slot does not exist. The migration user's privileges are enough. */
export async function readSlotFacts(
  db: Database,
  slot: string,
  publication: string,
  since14: boolean,
): Promise<SlotFacts | undefined> {
  const { rows } = await db.query(
    `SELECT s.active, s.restart_lsn::text AS "restartLsn", s.confirmed_flush_lsn::text AS "confirmedFlushLsn",
            now.lsn::text AS lsn, to_jsonb(s) ->> 'wal_status' AS "walStatus",
            (to_jsonb(s) ->> 'safe_wal_size')::float8 AS "safeWalSize",
            coalesce(pg_catalog.pg_wal_lsn_diff(now.lsn, s.restart_lsn), 0)::float8 AS "walBytes",
            coalesce(pg_catalog.pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn), 0)::float8 AS "behindBytes",
            (SELECT pg_catalog.pg_wal_lsn_diff(now.lsn, l.restart_lsn)::float8 FROM pg_catalog.pg_replication_slots l
              WHERE l.slot_name = $3 AND l.database = s.database AND NOT l.active) AS "idleLogBytes",
            CASE WHEN s.active THEN jsonb_build_object('pid', s.active_pid, 'application', coalesce(a.application_name, ''),
              'user', coalesce(a.usename, 'unknown'), 'address', host(a.client_addr),
              'since', coalesce(date_trunc('second', a.backend_start)::text, 'unknown')) END AS reader,
            s.active AND a.pid IS NOT NULL AND coalesce(a.wait_event_type, 'CPU') NOT IN ('Activity', 'Client', 'Lock')
              AS decoding,
            concat(pg_catalog.pg_postmaster_start_time(), ' ', (SELECT stats_reset FROM pg_catalog.pg_stat_bgwriter)) AS "serverStart",
            ${since14 ? '(SELECT total_txns FROM pg_catalog.pg_stat_replication_slots t WHERE t.slot_name = s.slot_name AND stats_reset IS NULL)' : 'NULL'}::float8 AS decoded,
            (SELECT oid::int8::float8 FROM pg_catalog.pg_publication WHERE pubname = $2) AS publication,
            (SELECT jsonb_build_object('pid', pid, 'ageMs', age, 'application', application) FROM (
               SELECT pid, extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS age, application_name AS application
                 FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()
               UNION ALL
               SELECT NULL, extract(epoch FROM clock_timestamp() - prepared) * 1000, NULL
                 FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
               ORDER BY 2 DESC LIMIT 1) o) AS oldest
       FROM pg_catalog.pg_replication_slots s
       CROSS JOIN (SELECT pg_catalog.pg_current_wal_lsn() AS lsn) now
       LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
      WHERE s.slot_name = $1 AND s.database = current_database()`,
    [slot, publication, logSlotOf(slot)],
  )
  return rows[0]
}

/** The code that explains why the slot is unusable and the load must be repeated; undefined if the slot is usable. */
export function slotLoss(slot: Pick<Slot, 'walStatus'> | undefined): 'slot.missing' | 'slot.wal-lost' | undefined {
  if (!slot) return 'slot.missing'
  return slot.walStatus === 'lost' ? 'slot.wal-lost' : undefined
}

/** Converts an LSN to a number, for comparisons: `0/A` is before `1/0`. */
export function lsnNumber(lsn: string): bigint {
  const [high, low] = lsn.split('/') as [string, string]
  return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`)
}

/** Lists what is wrong with the slot and the publication for a stream of exactly these tables. */
export async function slotProblems(
  db: Database,
  facts: { slot: string; publication: string; schema: string; tables: readonly string[]; cursor?: string },
): Promise<string[]> {
  const problems: string[] = []
  const slot = await readSlot(db, facts.slot)
  if (!slot) problems.push(`the slot ${facts.slot} does not exist`)
  else {
    if (slot.plugin !== 'pgoutput') problems.push(`the slot ${facts.slot} uses the plugin ${slot.plugin}, not pgoutput`)
    if (slot.walStatus === 'lost')
      problems.push(`the slot ${facts.slot} has lost WAL that the stream needs (wal_status lost)`)
    if (facts.cursor && slot.confirmedFlushLsn !== facts.cursor)
      problems.push(
        `the slot ${facts.slot} starts at ${slot.confirmedFlushLsn}, but the load ended with the cursor ${facts.cursor}`,
      )
  }
  return [...problems, ...(await publicationProblems(db, facts))]
}
