import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PackedFingerprint } from '../migration/fingerprint.ts'
import { type Plan, planHash } from '../migration/plan.ts'
import { type Database, isConnectionLost, isMissingTable, sqlState } from '../runtime/database.ts'
import { CancelledError, UserError, VerdictError } from '../runtime/errors.ts'
import type { PublicationMark } from '../source/slot.ts'
import type { DeferredName } from './deferral.ts'
import type { WriteGrant } from './gate.ts'

/** The order of a migration's life; `aborted` and `rolled-back` end it from the side. */
export const PHASES = [
  'planned',
  'prepared',
  'loaded',
  'caught-up',
  'approved',
  'committing',
  'committed',
  'switched',
  'finalized',
  'cleaned',
  'aborted',
  'rolled-back',
] as const
export type Phase = (typeof PHASES)[number]

/** The load is complete, and no cutover has set about its commit: a replicator may read the slot. */
export const STREAMING: readonly Phase[] = ['loaded', 'caught-up', 'approved']
/** Of {@link STREAMING} those from which a cutover begins. */
export const CAUGHT_UP: readonly Phase[] = ['caught-up', 'approved']
/** The target has taken over, and the source must stand still. */
export const COMMITTED: readonly Phase[] = ['committed', 'switched', 'finalized']
/** As {@link COMMITTED}, or on the way: a cutover has set about the commit, and only the source tells what came of it. */
export const DECIDED: readonly Phase[] = ['committing', ...COMMITTED]

/** Rows that a load has read to their end: of each table where the tool tells them apart, and of all. */
export interface Exported {
  tables: Record<string, number>
  total: number
}

/** Facts that later phases need: each phase adds its own. */
export interface Facts {
  /** system identifier, timeline and database oid of the source, and the random id kept in its heartbeat row */
  source?: { systemIdentifier: string; databaseOid: string; sourceId: string }
  cursor?: string
  /** A load that was begun and has not been proved complete: what is needed to go on with it. */
  load?: { cursor: string; mode: string; fetchId?: string; exported?: Exported } | null
  /**
   * Where the replicator keeps its progress on the target. One for each load: a position that it finds there, from an
   * earlier slot, would win over the slot's own, and the changes between would be skipped without a word.
   */
  stagingSchema?: string
  /** The publication as the load left it. */
  publication?: PublicationMark
  /** The files of the source's tables as they were before the load. */
  files?: TableFiles
  tools?: { molt: string; replicator: string }
  verified?: { at: string; clean: boolean; level: string }
  fenceId?: string
  /** A rollback that was begun: the tables whose writes on the target are given up. */
  goingBack?: string[]
  /** Rights to write that were taken from roles on the target until the commit. */
  gate?: WriteGrant[]
  /** How many writes had passed the fence when the decision was taken, as the source counts them; none may since. */
  writesPassed?: string
  /** What was taken off the target for the load. Its definitions stand elsewhere, and could be lost without a word. */
  deferred?: DeferredName[]
  /** Who approved the cutover of which plan; `by` is empty when nobody was asked, null when it was forgotten. */
  approval?: { by: string; gate: string; planHash: string; startedBy: string; run: string } | null
  /** The schemas of both sides as `prepare` left them; later phases are held to them. */
  fingerprints?: { source: PackedFingerprint; target: PackedFingerprint }
}

export interface Entry {
  id: string
  phase: Phase
  nonce: string
  plan: Plan
  facts: Facts
  updatedAt: Date
  /** Since `updatedAt`, by the database's clock; milliseconds. */
  ageMs: number
}

const MIGRATIONS = 'molt_actions.migrations'
const EVIDENCE = 'molt_actions.evidence'
const DIGESTS = 'molt_actions.digests'
const HOLDS = 'molt_actions.holds'

/** Creates the ledger's tables. Each statement can be repeated: on CockroachDB schema changes are not one transaction. */
export async function createLedger(db: Database): Promise<void> {
  await db.query('CREATE SCHEMA IF NOT EXISTS molt_actions')
  await db.query(`CREATE TABLE IF NOT EXISTS ${MIGRATIONS} (
    id TEXT PRIMARY KEY, phase TEXT NOT NULL, nonce TEXT NOT NULL, plan JSONB NOT NULL, facts JSONB NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ NOT NULL DEFAULT now())`)
  await db.query(`CREATE TABLE IF NOT EXISTS ${EVIDENCE} (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), migration TEXT NOT NULL, action TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT now(), body JSONB NOT NULL)`)
  await db.query(`CREATE TABLE IF NOT EXISTS ${DIGESTS} (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, at TIMESTAMPTZ NOT NULL DEFAULT now())`)
  await createHolds(db)
}

/** Keeps the digest of an archive the first time; returns the one that was kept. */
export async function rememberDigest(db: Database, name: string, sha256: string): Promise<string> {
  await retrying(() =>
    db.query(`INSERT INTO ${DIGESTS} (name, sha256) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, [name, sha256]),
  )
  const { rows } = await db.query(`SELECT sha256 FROM ${DIGESTS} WHERE name = $1`, [name])
  return rows[0].sha256
}

export async function readEntry(db: Database, id: string): Promise<Entry | undefined> {
  const { rows } = await retrying(() =>
    db.query(
      `SELECT id, phase, nonce, plan, facts, updated_at AS "updatedAt",
              (extract(epoch FROM now() - updated_at) * 1000)::float8 AS "ageMs" FROM ${MIGRATIONS} WHERE id = $1`,
      [id],
    ),
  )
  return rows[0]
}

/** Like {@link readEntry}, also where there is no ledger yet. */
export async function readEntryIfAny(db: Database, id: string): Promise<Entry | undefined> {
  return readEntry(db, id).catch((error) => {
    if (isMissingTable(error)) return undefined
    throw error
  })
}

/**
 * The entry that a phase after `prepare` works from.
 * @param early what to do instead, said when the migration has not come as far as `phases`
 * @throws UserError when there is none, or when it stands in none of `phases`; VerdictError when its plan was changed
 */
export async function requireEntry(db: Database, id: string, phases: readonly Phase[], early?: string): Promise<Entry> {
  const entry = await readEntryIfAny(db, id)
  if (!entry) throw new UserError(`the target's ledger has no migration \`${id}\`; run \`prepare\` for it first`)
  // The hash is what was shown, rehearsed and approved; what is done must be that.
  if (planHash(entry.plan) !== entry.plan.hash)
    throw new VerdictError(
      `the plan of migration \`${id}\` in the ledger is not the one of its hash ${entry.plan.hash ?? '(there is none)'}: someone has changed it. Prepare a new migration`,
    )
  if (phases.includes(entry.phase)) return entry
  if (early && isBehind(entry.phase, phases)) throw new UserError(`migration \`${id}\` is ${entry.phase}: ${early}`)
  throw new UserError(
    `migration \`${id}\` is ${entry.phase}; this step needs it to be ${phases.join(' or ')}. ${hint(entry.phase, phases)}`,
  )
}

function isBehind(phase: Phase, phases: readonly Phase[]): boolean {
  return PHASES.indexOf(phase) < PHASES.indexOf(phases[0] as Phase)
}

function hint(phase: Phase, phases: readonly Phase[]): string {
  return isBehind(phase, phases)
    ? 'Run the steps before this one.'
    : 'It is past this step already; start a new one under another `migration` id.'
}

/** Writes the first entry; an entry that is there already keeps its phase and is returned as it is. */
export async function createEntry(db: Database, id: string, plan: Plan, facts: Facts): Promise<Entry> {
  await retrying(() =>
    db.query(
      `INSERT INTO ${MIGRATIONS} (id, phase, nonce, plan, facts) VALUES ($1, 'planned', $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
      [id, randomUUID(), JSON.stringify(plan), JSON.stringify(facts)],
    ),
  )
  return (await readEntry(db, id)) as Entry
}

/**
 * Moves an entry on by compare-and-set in one statement: only one of two runs that read the same entry succeeds.
 * An ambiguous answer (CockroachDB's 40003, or a connection that broke) is settled by reading the nonce back.
 * @throws UserError when another run has moved it since it was read
 */
export async function advance(
  db: Database,
  entry: Entry,
  phase: Phase,
  change: { facts?: Facts; plan?: Plan } = {},
): Promise<Entry> {
  const nonce = randomUUID()
  const facts = { ...entry.facts, ...change.facts }
  const values = [entry.id, entry.nonce, phase, nonce, JSON.stringify(facts), JSON.stringify(change.plan ?? entry.plan)]
  const sql = `UPDATE ${MIGRATIONS} SET phase = $3, nonce = $4, facts = $5, plan = $6, updated_at = now() WHERE id = $1 AND nonce = $2`
  await retrying(() => db.query(sql, values)).catch((error) => {
    if (sqlState(error) !== '40003') throw error
  })
  const now = await readEntry(db, entry.id)
  if (now?.nonce === nonce) return now
  throw new UserError(
    `another run has moved migration \`${entry.id}\` to ${now?.phase ?? 'nowhere'} meanwhile; this run stops so that only one acts`,
  )
}

/** Forgets a migration; its evidence stays. */
export async function dropEntry(db: Database, id: string): Promise<void> {
  await retrying(() => db.query(`DELETE FROM ${MIGRATIONS} WHERE id = $1`, [id]))
  await dropHold(db, id)
}

/** Appends what a phase checked and saw. Never edited afterwards. */
export async function addEvidence(db: Database, id: string, action: string, body: object): Promise<void> {
  await retrying(() =>
    db.query(`INSERT INTO ${EVIDENCE} (migration, action, body) VALUES ($1, $2, $3)`, [
      id,
      action,
      JSON.stringify(body),
    ]),
  )
}

/** What a phase has left. */
export interface Evidence<T> {
  body: Partial<T>
  /** By the database's clock. */
  ageMs: number
}

/** The last `limit` of an action, the newest first. */
export async function readEvidence<T>(db: Database, id: string, action: string, limit: number): Promise<Evidence<T>[]> {
  const { rows } = await retrying(() =>
    db.query(
      `SELECT body, (extract(epoch FROM now() - at) * 1000)::float8 AS "ageMs" FROM ${EVIDENCE}
        WHERE migration = $1 AND action = $2 ORDER BY at DESC LIMIT $3::int8`,
      [id, action, limit],
    ),
  )
  return rows
}

/** CockroachDB asks clients to repeat a statement that lost to another one (40001). */
export async function retrying<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (sqlState(error) !== '40001' || attempt >= 8) throw error
      await sleep(25 * 2 ** attempt)
    }
  }
}

/*
 * The hold: which run streams a migration now. It is what keeps two runs apart, for a workflow's concurrency group is
 * kept for days by a run that waits for an approval. A hold lasts until it is released, or not renewed in time by the
 * database's clock. A request asks the holder to hand the slot over; while it stands nobody else is given the hold.
 */

/** A run that holds a migration, or asks for it. */
export interface Holder {
  action: string
  /** Where a person can see the run; empty outside of GitHub. */
  url: string
  /** Random; tells this run from every other, also from its own earlier attempt. */
  nonce: string
}

/** What another run asks of the holder. */
export interface SlotRequest extends Holder {
  at: Date
}

/** What became of the approval that a stream goes on for, as somebody else has written it down. */
export type Gate = 'declined' | 'expired'

/** What a stream leaves for the next one to compare the slot with. LSNs as text. */
export interface StreamNote {
  stagingSchema: string
  /** The stream was ended by us, and the slot's position is the last one. */
  ended: boolean
  confirmedFlushLsn: string | null
  decoded: number | null
  serverStart: string
  /** The publication when it was last found to be right. */
  publication?: PublicationMark
  /** The files of the source's tables when they were last looked at. */
  files?: TableFiles
}

/** Oid of a table or partition → the file that holds its rows (relfilenode), of which TRUNCATE makes another. */
export type TableFiles = Record<string, number>

interface HoldRow {
  nonce: string | null
  holder: Holder | null
  live: boolean
  expiresAt: Date
  request: Holder | null
  requestedAt: Date
  requestLive: boolean
  gate: Gate | null
  stream: StreamNote | null
}

async function createHolds(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${HOLDS} (
    migration TEXT PRIMARY KEY, nonce TEXT, holder JSONB, expires_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    request_nonce TEXT, request JSONB, requested_at TIMESTAMPTZ, request_expires_at TIMESTAMPTZ,
    gate TEXT, stream JSONB)`)
}

/** A holder for this run: its URL comes from the runner's environment. */
export function thisRun(action: string): Holder {
  const { GITHUB_SERVER_URL, GITHUB_REPOSITORY, GITHUB_RUN_ID, GITHUB_RUN_ATTEMPT } = process.env
  const url = GITHUB_RUN_ID
    ? `${GITHUB_SERVER_URL ?? 'https://github.com'}/${GITHUB_REPOSITORY}/actions/runs/${GITHUB_RUN_ID}${GITHUB_RUN_ATTEMPT && GITHUB_RUN_ATTEMPT !== '1' ? `/attempts/${GITHUB_RUN_ATTEMPT}` : ''}`
    : ''
  return { action, url, nonce: randomUUID() }
}

/** Who holds or asks, in words. */
export function runText({ action, url }: { action: string; url: string }): string {
  return `\`${action}\`${url ? ` (${url})` : ' of a run outside GitHub'}`
}

async function readHold(db: Database, id: string): Promise<HoldRow | undefined> {
  const { rows } = await retrying(() =>
    db.query(
      `SELECT nonce, holder, nonce IS NOT NULL AND expires_at > now() AS live, expires_at AS "expiresAt",
              request, requested_at AS "requestedAt", coalesce(request_expires_at > now(), false) AS "requestLive",
              gate, stream FROM ${HOLDS} WHERE migration = $1`,
      [id],
    ),
  )
  return rows[0]
}

/** Repeatable: the row is there afterwards, as it was or free. Ledgers of before this table are completed. */
async function ensureHold(db: Database, id: string): Promise<void> {
  const insert = () =>
    retrying(() => db.query(`INSERT INTO ${HOLDS} (migration) VALUES ($1) ON CONFLICT (migration) DO NOTHING`, [id]))
  await insert().catch(async (error) => {
    if (!isMissingTable(error)) throw error
    await createHolds(db)
    await insert()
  })
}

/** True when the statement hit. An answer that was lost is settled by the caller's reading back. */
async function changed(db: Database, sql: string, values: unknown[]): Promise<boolean> {
  try {
    return (await retrying(() => db.query(sql, values))).rowCount === 1
  } catch (error) {
    if (sqlState(error) === '40003') return false
    throw error
  }
}

/** Milliseconds after which a stream's hold lapses unless renewed: long enough for a target that is away for a while. */
export const HOLD_TTL = 60_000

/**
 * Takes the hold of a migration: when nobody has it, or it was not renewed in time. A run that was asked for the slot
 * by another one keeps off.
 * @param ttl milliseconds after which it lapses unless renewed
 * @throws VerdictError that names the run which has it, or asks for it
 */
export async function takeHold(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  const row = await tryHold(db, id, holder, ttl)
  if (row) throw refusal(id, row)
}

/** Undefined when it was taken; else what stands in the way. */
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
      `migration \`${id}\` is held by ${runText(row.holder)}; only one run may act at a time. Wait for it, or cancel it: its hold ends at ${row.expiresAt.toISOString()} unless it is renewed`,
    )
  if (row.request)
    return new VerdictError(
      `migration \`${id}\` is being handed over to ${runText(row.request)}; this run keeps off so that the slot is free for it`,
    )
  return new VerdictError(`another run was quicker to take migration \`${id}\`; look at \`status\` and try again`)
}

/**
 * Prolongs a hold, also one that has lapsed and was taken by nobody. Sees at once what it is asked for.
 * @throws VerdictError when another run has taken it
 */
export async function renewHold(db: Database, id: string, holder: Holder, ttl: number): Promise<void> {
  const values = [id, holder.nonce, Math.round(ttl)]
  const sql = `UPDATE ${HOLDS} SET expires_at = now() + $3::int8 * interval '1 millisecond' WHERE migration = $1 AND nonce = $2`
  if (await changed(db, sql, values)) return
  const row = await readHold(db, id)
  if (row?.nonce === holder.nonce) return
  throw new VerdictError(
    `the hold of migration \`${id}\` was lost${row?.holder ? ` to ${runText(row.holder)}` : ''}: it was not renewed in time; this run stops so that only one acts`,
  )
}

/** Gives a hold back; does nothing when it is another's by now. */
export async function releaseHold(db: Database, id: string, holder: Holder): Promise<void> {
  await retrying(() =>
    db.query(`UPDATE ${HOLDS} SET nonce = NULL, expires_at = now() WHERE migration = $1 AND nonce = $2`, [
      id,
      holder.nonce,
    ]),
  )
}

/**
 * Asks the holder for the slot; repeated, it stays asked for.
 * @param ttl milliseconds after which the request is forgotten
 * @throws VerdictError when another run asks for it already
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
    `${row?.request ? runText(row.request) : 'another run'} asks for the slot of migration \`${id}\` already; only one can have it`,
  )
}

/** Takes a request back; does nothing when it is another's by now. */
export async function withdrawRequest(db: Database, id: string, holder: Holder): Promise<void> {
  await retrying(() =>
    db.query(
      `UPDATE ${HOLDS} SET request_nonce = NULL, request = NULL, request_expires_at = NULL WHERE migration = $1 AND request_nonce = $2`,
      [id, holder.nonce],
    ),
  )
}

/** Who asks for the slot, if anybody still does. */
export async function slotRequest(db: Database, id: string): Promise<SlotRequest | undefined> {
  const row = await readHold(db, id)
  return row?.request && row.requestLive ? { ...row.request, at: row.requestedAt } : undefined
}

/** Which run has the hold now, if any, and until when unless it is renewed. */
export async function liveHolder(db: Database, id: string): Promise<(Holder & { expiresAt: Date }) | undefined> {
  const row = await readHold(db, id)
  return row?.live && row.holder ? { ...row.holder, expiresAt: row.expiresAt } : undefined
}

/** Writes down what became of the approval; a new stream that is to wait for one clears it. */
export async function setGate(db: Database, id: string, gate: Gate | null): Promise<void> {
  await ensureHold(db, id)
  await retrying(() => db.query(`UPDATE ${HOLDS} SET gate = $2 WHERE migration = $1`, [id, gate]))
}

export async function readGate(db: Database, id: string): Promise<Gate | undefined> {
  return (await readHold(db, id))?.gate ?? undefined
}

/** Who has the hold now, and who asks for it, for a person to read. */
export async function holdTexts(db: Database, id: string): Promise<string[]> {
  const row = await readHold(db, id).catch((error) => {
    if (isMissingTable(error)) return undefined
    throw error
  })
  return [
    ...(row?.live && row.holder
      ? [`${runText(row.holder)} acts on it, and holds it until ${row.expiresAt.toISOString()} unless it renews`]
      : []),
    ...(row?.request && row.requestLive ? [`${runText(row.request)} asks for it`] : []),
    ...(row?.gate ? [`its last approval is ${row.gate}`] : []),
  ]
}

const ASK_EVERY = 1_000

/**
 * For a run that must stream itself: asks the holder for the slot, waits until it is handed over, and takes the hold.
 * A holder that is dead is waited for until its hold lapses; one of the same action that renews is not, since it hands
 * nothing over.
 * @param deadline milliseconds from now
 * @param ttl milliseconds after which the hold lapses unless it is renewed
 * @throws VerdictError when it was not handed over in time; the request is withdrawn then
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
  await requestSlot(db, id, holder, 5 * ASK_EVERY + ttl)
  let first: HoldRow | undefined
  try {
    for (;;) {
      const row = await tryHold(db, id, holder, ttl)
      if (!row) return
      if (signal?.aborted) throw new CancelledError('the run was cancelled')
      first ??= row
      const renewed = row.nonce === first.nonce && row.expiresAt > first.expiresAt
      if (row.live && row.holder?.action === holder.action && renewed) throw refusal(id, row)
      if (performance.now() > end)
        throw new VerdictError(
          `the slot was not handed over in time: migration \`${id}\` is still held by ${row.holder ? runText(row.holder) : 'another run'}; cancel that run and try again`,
        )
      await sleep(ASK_EVERY, undefined, { signal }).catch(() => {})
      await requestSlot(db, id, holder, 5 * ASK_EVERY + ttl)
    }
  } catch (error) {
    await withdrawRequest(db, id, holder).catch(() => {})
    throw error
  }
}

/**
 * Keeps a hold that was taken for as long as `work` takes, and gives it back whatever happens.
 * @param open a connection of its own for the renewals; a lost one is made again
 * @param ttl milliseconds; renewed every sixth of it, so that a target that is away for a while does not lose it
 * @returns what `work` returns; `lost` is called once when another run has taken the hold
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

/** Leaves a note of the slot for the stream that comes next. */
export async function noteStream(db: Database, id: string, note: StreamNote): Promise<void> {
  await ensureHold(db, id)
  await retrying(() => db.query(`UPDATE ${HOLDS} SET stream = $2 WHERE migration = $1`, [id, JSON.stringify(note)]))
}

export async function readStreamNote(db: Database, id: string): Promise<StreamNote | undefined> {
  await ensureHold(db, id)
  return (await readHold(db, id))?.stream ?? undefined
}

/** With the migration: a new one under the same name begins with nobody's hold. */
export async function dropHold(db: Database, id: string): Promise<void> {
  await retrying(() => db.query(`DELETE FROM ${HOLDS} WHERE migration = $1`, [id])).catch((error) => {
    if (!isMissingTable(error)) throw error
  })
}
