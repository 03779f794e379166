import { randomUUID } from 'node:crypto'
import type { DeferredName } from '../destination/deferral.ts'
import type { WriteGrant } from '../destination/write-access.ts'
import type { PackedFingerprint } from '../model/fingerprint.ts'
import { type Plan, planHash } from '../model/plan.ts'
import type { Failure } from '../runtime/action.ts'
import { type Database, isMissingTable, rowsIfAny, sqlState } from '../runtime/database.ts'
import { UserError, VerdictError } from '../runtime/errors.ts'
import { runUrl } from '../runtime/github.ts'
import { noteNext } from '../runtime/next.ts'
import type { TableFiles } from '../source/changes.ts'
import type { PublicationMark } from '../source/publication.ts'
import { createHolds, dropHold } from './hold.ts'
import { nextOf, type Phase, STANDS } from './phases.ts'
import { createProofs, dropProof } from './proof.ts'

export * from './phases.ts'

/** Rows that a load has read completely: per table where the tool reports it, and in total. */
export interface Exported {
  tables: Record<string, number>
  total: number
}

/** Facts that later phases need; each phase adds its own. */
export interface Facts {
  /** system identifier, timeline and database oid of the source, and the random id kept in its heartbeat row */
  source?: { systemIdentifier: string; databaseOid: string; sourceId: string }
  cursor?: string
  /**
   * A load that was started and not proved complete: what is needed to resume it. `cursor` is set once the slot exists,
   * `exported` once every table was read completely.
   */
  load?: { mode: string; folder?: string; cursor?: string; fetchId?: string; exported?: Exported } | null
  /** Folders below the bucket path or local path, one per load: an import that reads files from one of them is ours. */
  loadFolders?: string[]
  /** Those of them that can still hold files: MOLT deletes a load's files only with `delete-files`, and only on success. */
  filesLeft?: string[]
  /**
   * Where the replicator keeps its progress on the target. One per load: a position that it finds there, from an earlier
   * slot, would take precedence over the slot's own, and the changes between would be skipped silently.
   */
  stagingSchema?: string
  /** The publication as the load left it. */
  publication?: PublicationMark
  /** The files of the source's tables as they were before the load. */
  files?: TableFiles
  /** A rollback that was started: the tables whose writes on the target are given up. */
  goingBack?: string[]
  /** Write rights revoked from roles on the target until the commit. */
  writeAccess?: WriteGrant[]
  /** Write rights that a rollback has revoked, until it is complete or has given them back. */
  revokedAgain?: WriteGrant[] | null
  /** `write-access: waive`: roles can write to the target all the time. */
  writeAccessWaived?: boolean
  /** How many writes had passed the fence at the commit, by the source's count; none may pass later. */
  writesPassed?: string
  /** The heartbeat that proved the drain of the committing cutover. */
  drainBeat?: number
  /** The target's time of the commit, for the comparison after it. Only on CockroachDB. */
  commitTime?: { asOf: string; drained: boolean }
  /** What was dropped on the target for the load. Its definitions are stored elsewhere, and could be lost silently. */
  deferred?: DeferredName[]
  /** Holds the empty copies on which `prepare` tries deferred definitions; null once it is dropped. */
  trialSchema?: string | null
  /** Who approved the cutover, and its plan; `by` is empty when no approval was required, null when it was discarded. */
  approval?: { by: string; gate: string; planHash: string; startedBy: string; run: string } | null
  /** The schemas of both sides as `prepare` left them; later phases require them unchanged. */
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

/** Creates the ledger's tables. Each statement is repeatable: on CockroachDB schema changes are not one transaction. */
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
  await createProofs(db)
}

/** Stores an archive's digest the first time; returns the stored one. */
export async function rememberDigest(db: Database, name: string, sha256: string): Promise<string> {
  await db.query(`INSERT INTO ${DIGESTS} (name, sha256) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, [name, sha256])
  const { rows } = await db.query(`SELECT sha256 FROM ${DIGESTS} WHERE name = $1`, [name])
  return rows[0].sha256
}

/** Reads an entry and keeps its next command. */
export async function readEntry(db: Database, id: string): Promise<Entry | undefined> {
  const { rows } = await db.query<Entry>(
    `SELECT id, phase, nonce, plan, facts, updated_at AS "updatedAt",
              (extract(epoch FROM now() - updated_at) * 1000)::float8 AS "ageMs" FROM ${MIGRATIONS} WHERE id = $1`,
    [id],
  )
  const [entry] = rows
  noteNext(entry ? nextOf(entry.phase, entry.facts) : { action: 'prepare' })
  return entry
}

/** The stored digest of an archive, if any. */
export async function knownDigest(db: Database, name: string): Promise<string | undefined> {
  const { rows } = await db.query(`SELECT sha256 FROM ${DIGESTS} WHERE name = $1`, [name])
  return rows[0]?.sha256
}

/** Like {@link readEntry}, but also works without a ledger. */
export async function readEntryIfAny(db: Database, id: string): Promise<Entry | undefined> {
  return readEntry(db, id).catch((error) => {
    if (!isMissingTable(error)) throw error
    noteNext({ action: 'prepare' })
    return undefined
  })
}

/**
 * The entry that a phase after `prepare` works from.
 * @throws UserError when there is none, or it is in none of `phases`; VerdictError when its plan was changed
 */
export async function requireEntry(db: Database, id: string, phases: readonly Phase[]): Promise<Entry> {
  const entry = await readEntryIfAny(db, id)
  if (!entry)
    throw new UserError('ledger.no-migration', `the target's ledger has no migration \`${id}\`. Run \`prepare\` first`)
  // The hash is what was shown, rehearsed and approved; the work must match it.
  if (planHash(entry.plan) !== entry.plan.hash)
    throw new VerdictError(
      'ledger.changed-by-hand',
      `the plan of migration \`${id}\` in the ledger does not match its hash ${entry.plan.hash ?? '(none)'}, so it was changed. Prepare a new migration`,
    )
  if (phases.includes(entry.phase)) return entry
  throw new UserError('ledger.wrong-phase', standingText(entry))
}

/** Where a migration stands, and what to run for it. */
export function standingText({ id, phase, facts }: Entry): string {
  const next = nextOf(phase, facts)
  const step = next
    ? `${next.before ? `${next.before} Then run` : 'Run'} \`${next.action}\` next`
    : 'Nothing is left to do'
  return `\`${id}\` is ${STANDS[phase]}. ${step}`
}

/** Writes the first entry; an existing one keeps its phase and is returned unchanged. */
export async function createEntry(db: Database, id: string, plan: Plan, facts: Facts): Promise<Entry> {
  await db.query(
    `INSERT INTO ${MIGRATIONS} (id, phase, nonce, plan, facts) VALUES ($1, 'planned', $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
    [id, randomUUID(), JSON.stringify(plan), JSON.stringify(facts)],
  )
  return (await readEntry(db, id)) as Entry
}

/**
 * Moves an entry on by compare-and-set in one statement: only one of two runs that read the same entry succeeds.
 * An ambiguous answer (CockroachDB's 40003, or a broken connection) is resolved by reading the nonce back.
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
  await db.query(sql, values).catch((error) => {
    if (sqlState(error) !== '40003') throw error
  })
  const now = await readEntry(db, entry.id)
  if (now?.nonce === nonce) return now
  throw new UserError(
    'ledger.moved',
    `another run has moved migration \`${entry.id}\` to ${now?.phase ?? 'nowhere'} . This run stops so that only one acts`,
  )
}

/** Forgets a migration; its evidence stays. */
export async function dropEntry(db: Database, id: string): Promise<void> {
  await db.query(`DELETE FROM ${MIGRATIONS} WHERE id = $1`, [id])
  await dropHold(db, id)
  await dropProof(db, id)
  noteNext(undefined)
}

/** Who left the evidence, with a link to the run. */
interface Origin {
  /** Empty outside GitHub. */
  run: string
  actor: string
  /** Of the repository that ran it. */
  commit: string
  runner: string
}

function origin(): Origin {
  const { GITHUB_TRIGGERING_ACTOR, GITHUB_ACTOR, GITHUB_SHA = '', RUNNER_NAME = '' } = process.env
  return {
    run: runUrl(),
    actor: GITHUB_TRIGGERING_ACTOR || GITHUB_ACTOR || '',
    commit: GITHUB_SHA,
    runner: RUNNER_NAME,
  }
}

/** Evidence of a comparison of definitions without rows. */
export const DEFINITIONS = 'definitions'

/** Appends what a phase checked and saw, with its {@link Origin}. Never edited afterwards. */
export async function addEvidence(db: Database, id: string, action: string, body: object): Promise<void> {
  await db.query(
    `INSERT INTO ${EVIDENCE} (id, migration, action, body) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
    [randomUUID(), id, action, JSON.stringify({ ...body, origin: origin() })],
  )
}

/** One piece of evidence, without its content. */
export interface Trace {
  action: string
  at: Date
  origin: Origin | null
}

/** The last step that left evidence, and the last failure since the migration started; see `failed`. */
export async function readLastSteps(
  db: Database,
  id: string,
): Promise<{ last: Trace | undefined; failed: (Trace & Failure) | undefined }> {
  const { rows } = await db.query<Trace>(
    `SELECT action, at, body -> 'origin' AS origin FROM ${EVIDENCE}
      WHERE migration = $1 AND action <> 'error' ORDER BY at DESC LIMIT 1`,
    [id],
  )
  const { rows: errors } = await db.query(
    `SELECT at, body FROM ${EVIDENCE} WHERE migration = $1 AND action = 'error' ORDER BY at DESC LIMIT 1`,
    [id],
  )
  const [error] = errors
  return { last: rows[0], failed: error && { ...error.body, at: error.at } }
}

/** Evidence of a phase. */
export interface Evidence<T> {
  body: Partial<T> & { origin?: Origin }
  at: Date
  /** By the database's clock. */
  ageMs: number
}

/** The last `limit` of an action, the newest first. */
export async function readEvidence<T>(db: Database, id: string, action: string, limit: number): Promise<Evidence<T>[]> {
  const { rows } = await db.query(
    `SELECT body, at, (extract(epoch FROM now() - at) * 1000)::float8 AS "ageMs" FROM ${EVIDENCE}
        WHERE migration = $1 AND action = $2 ORDER BY at DESC LIMIT $3::int8`,
    [id, action, limit],
  )
  return rows
}

/** One piece of evidence of a step, for the dossier. */
export interface Step {
  action: string
  at: Date
  body: Record<string, unknown> & { origin?: Origin }
}

/** All evidence of a migration, oldest first; also after `cleanup`, which forgets only the migration. */
export async function readSteps(db: Database, id: string): Promise<Step[]> {
  const sql = `SELECT action, at, body FROM ${EVIDENCE} WHERE migration = $1 ORDER BY at`
  return rowsIfAny<Step>(db, sql, [id])
}
