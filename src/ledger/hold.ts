import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Database, isConnectionLost, isMissingTable, sqlState } from '../runtime/database.ts'
import { CancelledError, VerdictError } from '../runtime/errors.ts'
import { runUrl } from '../runtime/github.ts'
import { TIMING } from '../runtime/timing.ts'
import type { TableFiles } from '../source/changes.ts'
import type { PublicationMark } from '../source/publication.ts'

/*
 * The hold: a lock on a migration that only one run can have at a time. A workflow's concurrency group cannot replace
 * it, because a run that waits for an approval would keep its group for days. A hold ends when its run releases it. If
 * the run stops renewing it, it expires by the database's clock. Another run can request the slot from the holder. As
 * long as that request is pending, no third run can take the hold.
 */

const HOLDS = 'molt_actions.holds'

/** A run that has a migration's hold, or requests its slot. */
export interface Holder {
  action: string
  /** Link to the run's page on GitHub; empty outside GitHub. */
  url: string
  /** Random id. Distinguishes this run from all others, including earlier attempts of the same run. */
  nonce: string
}

/** Another run's request for the slot. */
export interface SlotRequest extends Holder {
  at: Date
}

/** How the approval ended, if no cutover follows. The stream that waits for the approval records it. */
export type ApprovalOutcome = 'declined' | 'expired'

/** What a stream records about the slot, so that the next stream can check it. LSNs are strings. */
export interface StreamNote {
  stagingSchema: string
  /** The stream stopped cleanly, so the slot's position is final. */
  ended: boolean
  confirmedFlushLsn: string | null
  decoded: number | null
  serverStart: string
  /** State of the publication at the last check. */
  publication?: PublicationMark
  /** Storage files of the source's tables at the last check. */
  files?: TableFiles
  /** The role under which the stream writes to the target, until it is revoked. */
  login?: string
}

interface HoldRow {
  nonce: string | null
  holder: Holder | null
  live: boolean
  expiresAt: Date
  request: Holder | null
  requestedAt: Date
  requestLive: boolean
  approval: ApprovalOutcome | null
  stream: StreamNote | null
}

/** Creates the table of holds if it does not exist. The schema must exist. */
export async function createHolds(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${HOLDS} (
    migration TEXT PRIMARY KEY, nonce TEXT, holder JSONB, expires_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    request_nonce TEXT, request JSONB, requested_at TIMESTAMPTZ, request_expires_at TIMESTAMPTZ,
    approval TEXT, stream JSONB)`)
}

/** Identifies this run as a holder, with a new nonce. */
export function thisRun(action: string): Holder {
  return { action, url: runUrl(), nonce: randomUUID() }
}

/** Formats a run for messages: its action, and a link if there is one. */
export function runText({ action, url }: { action: string; url: string }): string {
  return `\`${action}\`${url ? ` (${url})` : ' of a run outside GitHub'}`
}

async function readHold(db: Database, id: string): Promise<HoldRow | undefined> {
  const { rows } = await db.query(
    `SELECT nonce, holder, nonce IS NOT NULL AND expires_at > now() AS live, expires_at AS "expiresAt",
              request, requested_at AS "requestedAt", coalesce(request_expires_at > now(), false) AS "requestLive",
              approval, stream FROM ${HOLDS} WHERE migration = $1`,
    [id],
  )
  return rows[0]
}

/** Creates the migration's row if it is missing. Also creates the table, which older ledgers lack. */
async function ensureHold(db: Database, id: string): Promise<void> {
  const insert = () => db.query(`INSERT INTO ${HOLDS} (migration) VALUES ($1) ON CONFLICT (migration) DO NOTHING`, [id])
  await insert().catch(async (error) => {
    if (!isMissingTable(error)) throw error
    await createHolds(db)
    await insert()
  })
}

/**
 * Runs a statement and returns whether it changed a row. If the outcome is unknown (40003), returns false, and the
 * caller reads the row back.
 */
async function changed(db: Database, sql: string, values: unknown[]): Promise<boolean> {
  try {
    return (await db.query(sql, values)).rowCount === 1
  } catch (error) {
    if (sqlState(error) === '40003') return false
    throw error
  }
}

/**
 * Takes a migration's hold if it is free or has expired. Fails while another run requests the slot.
 * @param ttl milliseconds until the hold expires unless renewed
 * @throws VerdictError that names the run that has the hold or requests the slot
 */
export async function takeHold(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  const row = await tryHold(db, id, holder, ttl)
  if (row) throw refusal(id, row)
}

/**
 * Tries to take the hold. Returns undefined on success, otherwise the row with the hold or the request that prevents
 * it.
 */
async function tryHold(db: Database, id: string, holder: Holder, ttl: number): Promise<HoldRow | undefined> {
  await ensureHold(db, id)
  const took = await changed(
    db,
    `UPDATE ${HOLDS} SET nonce = $2, holder = $3, expires_at = now() + $4::int8 * interval '1 millisecond',
        request_nonce = CASE WHEN request_nonce = $2 THEN NULL ELSE request_nonce END,
        request = CASE WHEN request_nonce = $2 THEN NULL ELSE request END,
        request_expires_at = CASE WHEN request_nonce = $2 THEN NULL ELSE request_expires_at END
      WHERE migration = $1 AND (nonce IS NULL OR nonce = $2 OR expires_at <= now())
        AND (request_nonce IS NULL OR request_nonce = $2 OR request_expires_at <= now())`,
    [id, holder.nonce, JSON.stringify(holder), Math.round(ttl)],
  )
  if (took) return undefined
  const row = (await readHold(db, id)) as HoldRow
  return row.live && row.nonce === holder.nonce ? undefined : row
}

function refusal(id: string, row: HoldRow): VerdictError {
  if (row.live && row.holder)
    return new VerdictError(
      'hold.taken',
      `migration \`${id}\` is held by ${runText(row.holder)}. Only one run can act at a time. Wait for that run, or cancel it: its hold expires at ${row.expiresAt.toISOString()} unless the run renews it`,
    )
  if (row.request)
    return new VerdictError(
      'hold.handover-pending',
      `migration \`${id}\` is being handed over to ${runText(row.request)}, so this run leaves the slot free`,
    )
  return new VerdictError('hold.taken', `another run took migration \`${id}\` first. Run \`status\`, then try again`)
}

/**
 * Renews a hold, even an expired one that no other run has taken.
 * @throws VerdictError when another run has taken it
 */
export async function renewHold(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  const values = [id, holder.nonce, Math.round(ttl)]
  const sql = `UPDATE ${HOLDS} SET expires_at = now() + $3::int8 * interval '1 millisecond' WHERE migration = $1 AND nonce = $2`
  if (await changed(db, sql, values)) return
  const row = await readHold(db, id)
  if (row?.nonce === holder.nonce) return
  throw new VerdictError(
    'hold.lost',
    `the hold on migration \`${id}\` was lost${row?.holder ? ` to ${runText(row.holder)}` : ''}, because it was not renewed in time. This run stops, because only one run can act at a time`,
  )
}

/** Releases a hold, unless another run has taken it. */
export async function releaseHold(db: Database, id: string, holder: Holder): Promise<void> {
  await db.query(`UPDATE ${HOLDS} SET nonce = NULL, expires_at = now() WHERE migration = $1 AND nonce = $2`, [
    id,
    holder.nonce,
  ])
}

/**
 * Requests the slot from the holder. Repeat the call to keep the request alive.
 * @param ttl milliseconds until the request expires
 * @throws VerdictError when another run has already requested the slot
 */
export async function requestSlot(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  await ensureHold(db, id)
  const asked = await changed(
    db,
    `UPDATE ${HOLDS} SET request_nonce = $2, request = $3,
        requested_at = CASE WHEN request_nonce = $2 THEN requested_at ELSE now() END,
        request_expires_at = now() + $4::int8 * interval '1 millisecond'
      WHERE migration = $1 AND (request_nonce IS NULL OR request_nonce = $2 OR request_expires_at <= now())`,
    [id, holder.nonce, JSON.stringify(holder), Math.round(ttl)],
  )
  if (asked) return
  const row = await readHold(db, id)
  if (row?.request?.nonce === holder.nonce) return
  throw new VerdictError(
    'hold.handover-pending',
    `${row?.request ? runText(row.request) : 'another run'} has already requested the slot of migration \`${id}\`. Wait for that run, or cancel it`,
  )
}

/** Withdraws this run's request if it is still pending. */
export async function withdrawRequest(db: Database, id: string, holder: Holder): Promise<void> {
  await db.query(
    `UPDATE ${HOLDS} SET request_nonce = NULL, request = NULL, request_expires_at = NULL WHERE migration = $1 AND request_nonce = $2`,
    [id, holder.nonce],
  )
}

/** Reads which run is requesting the slot, if any. */
export async function slotRequest(db: Database, id: string): Promise<SlotRequest | undefined> {
  const row = await readHold(db, id)
  return row?.request && row.requestLive ? { ...row.request, at: row.requestedAt } : undefined
}

/** Reads which run has the hold now, if any, and when the hold expires unless it is renewed. */
export async function liveHolder(db: Database, id: string): Promise<(Holder & { expiresAt: Date }) | undefined> {
  const row = await readHold(db, id)
  return row?.live && row.holder ? { ...row.holder, expiresAt: row.expiresAt } : undefined
}

/** Records how the approval ended. `null` clears the outcome before a new approval is requested. */
export async function setApproval(db: Database, id: string, approval: ApprovalOutcome | null): Promise<void> {
  await ensureHold(db, id)
  await db.query(`UPDATE ${HOLDS} SET approval = $2 WHERE migration = $1`, [id, approval])
}

export async function readApproval(db: Database, id: string): Promise<ApprovalOutcome | undefined> {
  return (await readHold(db, id))?.approval ?? undefined
}

/** Describes the holder, the pending request and the last approval, for `status`. */
export async function holdTexts(db: Database, id: string): Promise<string[]> {
  const row = await readHold(db, id).catch((error) => {
    if (isMissingTable(error)) return undefined
    throw error
  })
  return [
    ...(row?.live && row.holder
      ? [`${runText(row.holder)} holds it until ${row.expiresAt.toISOString()} and longer if it renews the hold`]
      : []),
    ...(row?.request && row.requestLive ? [`${runText(row.request)} is requesting the slot`] : []),
    ...(row?.approval ? [`the last approval ${row.approval === 'declined' ? 'was declined' : 'has expired'}`] : []),
  ]
}

/**
 * Requests the slot, waits for the handover and takes the hold. If the holder has died, waits until its hold expires.
 * If the holder is a live run of the same action, fails at once, because such a run never hands over the slot.
 * @param deadline milliseconds from now
 * @param ttl milliseconds until the hold expires unless renewed
 * @throws VerdictError when the slot was not handed over in time; the request is then withdrawn
 */
export async function obtainSlot(
  db: Database,
  id: string,
  holder: Holder,
  deadline: number,
  ttl: number,
  signal?: AbortSignal,
): Promise<void> {
  const end = performance.now() + deadline
  await requestSlot(db, id, holder, 5 * TIMING.holdAsk + ttl)
  let first: HoldRow | undefined
  try {
    for (;;) {
      const row = await tryHold(db, id, holder, ttl)
      if (!row) return
      if (signal?.aborted) throw new CancelledError()
      first ??= row
      const renewed = row.nonce === first.nonce && row.expiresAt > first.expiresAt
      if (row.live && row.holder?.action === holder.action && renewed) throw refusal(id, row)
      if (performance.now() > end)
        throw new VerdictError(
          'hold.handover-timeout',
          `the slot was not handed over in time: migration \`${id}\` is still held by ${row.holder ? runText(row.holder) : 'another run'}. Cancel that run, and try again`,
        )
      await sleep(TIMING.holdAsk, undefined, { signal }).catch(() => {})
      await requestSlot(db, id, holder, 5 * TIMING.holdAsk + ttl)
    }
  } catch (error) {
    await withdrawRequest(db, id, holder).catch(() => {})
    throw error
  }
}

/**
 * Keeps a hold while `work` runs, and always releases it afterwards.
 * @param link connection for the renewals only. Reopened if it is lost, and closed at the end
 * @param ttl milliseconds until the hold expires unless renewed. It is renewed six times in that period, so that it
 * survives a short outage of the target
 * @param lost called once if another run has taken the hold
 * @returns what `work` returns
 */
export async function keepingHold<T>(
  link: { use<R>(work: (db: Database) => Promise<R>): Promise<R>; close(): Promise<void> },
  id: string,
  holder: Holder,
  ttl: number,
  lost: (error: unknown) => void,
  work: () => Promise<T>,
): Promise<T> {
  const stopper = new AbortController()
  const renewals = (async () => {
    for (;;) {
      await sleep(ttl / 6, undefined, { signal: stopper.signal }).catch(() => {})
      if (stopper.signal.aborted) return
      await link
        .use((db) => renewHold(db, id, holder, ttl))
        .catch((error) => {
          if (isConnectionLost(error)) return
          stopper.abort()
          lost(error)
        })
    }
  })()
  try {
    return await work()
  } finally {
    stopper.abort()
    await renewals
    await link.use((db) => releaseHold(db, id, holder)).catch(() => {})
    await link.close()
  }
}

/** Records facts about the slot for the next stream. */
export async function noteStream(db: Database, id: string, note: StreamNote): Promise<void> {
  await ensureHold(db, id)
  await db.query(`UPDATE ${HOLDS} SET stream = $2 WHERE migration = $1`, [id, JSON.stringify(note)])
}

export async function readStreamNote(db: Database, id: string): Promise<StreamNote | undefined> {
  await ensureHold(db, id)
  return (await readHold(db, id))?.stream ?? undefined
}

/** Deletes a migration's hold, so that a new migration with the same name starts without a holder. */
export async function dropHold(db: Database, id: string): Promise<void> {
  await db.query(`DELETE FROM ${HOLDS} WHERE migration = $1`, [id]).catch((error) => {
    if (!isMissingTable(error)) throw error
  })
}
