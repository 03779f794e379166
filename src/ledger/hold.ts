import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Database, isConnectionLost, isMissingTable, sqlState } from '../runtime/database.ts'
import { CancelledError, VerdictError } from '../runtime/errors.ts'
import { runUrl } from '../runtime/github.ts'
import { TIMING } from '../runtime/timing.ts'
import type { TableFiles } from '../source/changes.ts'
import type { PublicationMark } from '../source/publication.ts'

/*
 * The hold: which run streams a migration now. It keeps two runs apart. A workflow's concurrency group cannot, because a
 * run that waits for an approval keeps it for days. A hold lasts until it is released, or not renewed in time by the
 * database's clock. A request asks the holder to hand over the slot; meanwhile no other run gets the hold.
 */

const HOLDS = 'molt_actions.holds'

/** A run that holds a migration, or requests it. */
export interface Holder {
  action: string
  /** A link to the run for people; empty outside GitHub. */
  url: string
  /** Random; distinguishes this run from every other, including its own earlier attempt. */
  nonce: string
}

/** What another run requests from the holder. */
export interface SlotRequest extends Holder {
  at: Date
}

/** The outcome of the approval that a stream waits for, as another run has recorded it. */
export type ApprovalOutcome = 'declined' | 'expired'

/** What a stream leaves for the next one to compare with the slot. LSNs as text. */
export interface StreamNote {
  stagingSchema: string
  /** We ended the stream, and the slot's position is final. */
  ended: boolean
  confirmedFlushLsn: string | null
  decoded: number | null
  serverStart: string
  /** The publication when it was last checked. */
  publication?: PublicationMark
  /** The files of the source's tables when they were last read. */
  files?: TableFiles
  /** The role by which the stream writes to the target, until it is revoked. */
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

/** Repeatable; `createLedger` creates the schema first. */
export async function createHolds(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${HOLDS} (
    migration TEXT PRIMARY KEY, nonce TEXT, holder JSONB, expires_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    request_nonce TEXT, request JSONB, requested_at TIMESTAMPTZ, request_expires_at TIMESTAMPTZ,
    approval TEXT, stream JSONB)`)
}

/** A holder for this run. */
export function thisRun(action: string): Holder {
  return { action, url: runUrl(), nonce: randomUUID() }
}

/** Who holds or requests it, in words. */
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

/** Repeatable: creates the row if it is missing. Completes ledgers from before this table. */
async function ensureHold(db: Database, id: string): Promise<void> {
  const insert = () => db.query(`INSERT INTO ${HOLDS} (migration) VALUES ($1) ON CONFLICT (migration) DO NOTHING`, [id])
  await insert().catch(async (error) => {
    if (!isMissingTable(error)) throw error
    await createHolds(db)
    await insert()
  })
}

/** True when the statement took effect. After a lost answer, the caller reads back. */
async function changed(db: Database, sql: string, values: unknown[]): Promise<boolean> {
  try {
    return (await db.query(sql, values)).rowCount === 1
  } catch (error) {
    if (sqlState(error) === '40003') return false
    throw error
  }
}

/**
 * Takes the hold of a migration if it is free or was not renewed in time. A run from which another has requested the slot
 * must not take it.
 * @param ttl milliseconds after which it lapses unless renewed
 * @throws VerdictError that names the run that holds or requests it
 */
export async function takeHold(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  const row = await tryHold(db, id, holder, ttl)
  if (row) throw refusal(id, row)
}

/** Undefined when it was taken, otherwise the reason why not. */
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
      `migration \`${id}\` is held by ${runText(row.holder)}. Only one run can act at a time. Wait for that run, or cancel it: its hold ends at ${row.expiresAt.toISOString()} unless it is renewed`,
    )
  if (row.request)
    return new VerdictError(
      'hold.handover-pending',
      `migration \`${id}\` is being handed over to ${runText(row.request)}, so this run leaves the slot free`,
    )
  return new VerdictError('hold.taken', `another run took migration \`${id}\` first. Check \`status\` and try again`)
}

/**
 * Renews a hold, even an expired one that no other run has taken. Returns at once what it is asked for.
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
    `the hold of migration \`${id}\` was lost${row?.holder ? ` to ${runText(row.holder)}` : ''}, because it was not renewed in time. This run stops so that only one acts`,
  )
}

/** Releases a hold; does nothing when another run has it by now. */
export async function releaseHold(db: Database, id: string, holder: Holder): Promise<void> {
  await db.query(`UPDATE ${HOLDS} SET nonce = NULL, expires_at = now() WHERE migration = $1 AND nonce = $2`, [
    id,
    holder.nonce,
  ])
}

/**
 * Requests the slot from the holder; repeating it keeps the request alive.
 * @param ttl milliseconds after which the request is forgotten
 * @throws VerdictError when another run has already requested it
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
    `${row?.request ? runText(row.request) : 'another run'} has already requested the slot of migration \`${id}\`. Only one run can have it`,
  )
}

/** Withdraws a request; does nothing when it belongs to another run by now. */
export async function withdrawRequest(db: Database, id: string, holder: Holder): Promise<void> {
  await db.query(
    `UPDATE ${HOLDS} SET request_nonce = NULL, request = NULL, request_expires_at = NULL WHERE migration = $1 AND request_nonce = $2`,
    [id, holder.nonce],
  )
}

/** The run that currently requests the slot, if any. */
export async function slotRequest(db: Database, id: string): Promise<SlotRequest | undefined> {
  const row = await readHold(db, id)
  return row?.request && row.requestLive ? { ...row.request, at: row.requestedAt } : undefined
}

/** The run that has the hold now, if any, and until when unless renewed. */
export async function liveHolder(db: Database, id: string): Promise<(Holder & { expiresAt: Date }) | undefined> {
  const row = await readHold(db, id)
  return row?.live && row.holder ? { ...row.holder, expiresAt: row.expiresAt } : undefined
}

/** Records the outcome of the approval; a new stream that waits for one clears it. */
export async function setApproval(db: Database, id: string, approval: ApprovalOutcome | null): Promise<void> {
  await ensureHold(db, id)
  await db.query(`UPDATE ${HOLDS} SET approval = $2 WHERE migration = $1`, [id, approval])
}

export async function readApproval(db: Database, id: string): Promise<ApprovalOutcome | undefined> {
  return (await readHold(db, id))?.approval ?? undefined
}

/** Who has the hold now, and who requests it, for people. */
export async function holdTexts(db: Database, id: string): Promise<string[]> {
  const row = await readHold(db, id).catch((error) => {
    if (isMissingTable(error)) return undefined
    throw error
  })
  return [
    ...(row?.live && row.holder
      ? [`${runText(row.holder)} acts on it, and holds it until ${row.expiresAt.toISOString()} unless it renews`]
      : []),
    ...(row?.request && row.requestLive ? [`${runText(row.request)} requests it`] : []),
    ...(row?.approval ? [`its last approval is ${row.approval}`] : []),
  ]
}

/**
 * For a run that must stream itself: requests the slot, waits for the handover, and takes the hold. Waits for a dead holder
 * until its hold lapses, but not for one of the same action that renews, because that hands nothing over.
 * @param deadline milliseconds from now
 * @param ttl milliseconds after which the hold lapses unless it is renewed
 * @throws VerdictError when it was not handed over in time; the request is then withdrawn
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
          `the slot was not handed over in time: migration \`${id}\` is still held by ${row.holder ? runText(row.holder) : 'another run'}. Cancel that run and try again`,
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
 * Keeps a hold for as long as `work` takes, and always releases it.
 * @param link a separate connection for renewals; a lost one is reopened, and it is closed at the end
 * @param ttl milliseconds; renewed every sixth of it, so that an unreachable target does not lose the hold at once
 * @param lost called once, when another run has taken the hold
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

/** Leaves a note about the slot for the next stream. */
export async function noteStream(db: Database, id: string, note: StreamNote): Promise<void> {
  await ensureHold(db, id)
  await db.query(`UPDATE ${HOLDS} SET stream = $2 WHERE migration = $1`, [id, JSON.stringify(note)])
}

export async function readStreamNote(db: Database, id: string): Promise<StreamNote | undefined> {
  await ensureHold(db, id)
  return (await readHold(db, id))?.stream ?? undefined
}

/** Goes with the migration: a new one under the same name starts without a holder. */
export async function dropHold(db: Database, id: string): Promise<void> {
  await db.query(`DELETE FROM ${HOLDS} WHERE migration = $1`, [id]).catch((error) => {
    if (!isMissingTable(error)) throw error
  })
}
