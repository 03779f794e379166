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

/** Number of rows that a load has exported: in total, and per table if the tool reports it. */
export interface Exported {
  tables: Record<string, number>
  total: number
}

/** Facts about a migration that later phases need. Each phase adds its own. */
export interface Facts {
  /** Identifies the source: system identifier, database oid, and the random id in its heartbeat row. */
  source?: { systemIdentifier: string; databaseOid: string; sourceId: string }
  /** LSN from which the stream continues the load. */
  cursor?: string
  /**
   * What a run needs to resume a load that was interrupted or failed. `cursor` is set once the slot exists, and
   * `exported` once every table has been read completely.
   */
  load?: { mode: string; folder?: string; cursor?: string; fetchId?: string; exported?: Exported } | null
  /**
   * Folders below the bucket path or the local path, one per load. An import that reads from one of them belongs to
   * this migration.
   */
  loadFolders?: string[]
  /**
   * Load folders that may still hold files. MOLT deletes the files only with `delete-files`, and only if the load
   * succeeds.
   */
  filesLeft?: string[]
  /**
   * The schema on the target in which the replicator keeps its progress. Every load gets a new schema. In an old one,
   * the saved position of an earlier slot would take precedence over the position of the new slot, and the replicator
   * would silently skip the changes in between.
   */
  stagingSchema?: string
  /** State of the publication at the end of the load. */
  publication?: PublicationMark
  /** Storage files of the source's tables before the load. */
  files?: TableFiles
  /** Tables whose writes on the target the rollback discards. Set when the rollback starts. */
  goingBack?: string[]
  /** Write privileges on the target that are revoked from roles until the commit. */
  writeAccess?: WriteGrant[]
  /** Write privileges that a rollback has revoked. Cleared once the rollback is complete or has restored them. */
  revokedAgain?: WriteGrant[] | null
  /** Set by `write-access: waive`: write access to the target was never revoked. */
  writeAccessWaived?: boolean
  /** The source's count of writes that got past the fence, as of the commit. It must not grow afterwards. */
  writesPassed?: string
  /** Number of the heartbeat that proved, before the commit, that the stream was drained. */
  drainBeat?: number
  /** Time of the commit by the target's clock, at which `finalize` compares rows. CockroachDB only. */
  commitTime?: { asOf: string; drained: boolean }
  /**
   * Names of the objects that were dropped on the target for the load. They show whether a stored definition was lost.
   */
  deferred?: DeferredName[]
  /** Schema with empty table copies, on which `prepare` tests the deferred definitions; null once it is dropped. */
  trialSchema?: string | null
  /** Who approved which plan for the cutover; null once discarded. `by` is empty if no approval was required. */
  approval?: { by: string; gate: string; planHash: string; startedBy: string; run: string } | null
  /** The schemas of both sides at the end of `prepare`. Later phases require them unchanged. */
  fingerprints?: { source: PackedFingerprint; target: PackedFingerprint }
}

export interface Entry {
  id: string
  phase: Phase
  nonce: string
  plan: Plan
  facts: Facts
  updatedAt: Date
  /** Milliseconds since `updatedAt`, by the database's clock. */
  ageMs: number
}

const MIGRATIONS = 'molt_actions.migrations'
const EVIDENCE = 'molt_actions.evidence'
const DIGESTS = 'molt_actions.digests'

/**
 * Creates the ledger's tables that do not exist yet. An interrupted run can leave some of them missing, because
 * CockroachDB does not run schema changes in one transaction.
 */
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

/** Stores an archive's digest unless one is stored already. Returns the stored digest. */
export async function rememberDigest(db: Database, name: string, sha256: string): Promise<string> {
  await db.query(`INSERT INTO ${DIGESTS} (name, sha256) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, [name, sha256])
  const { rows } = await db.query(`SELECT sha256 FROM ${DIGESTS} WHERE name = $1`, [name])
  return rows[0].sha256
}

/** Reads an entry. Also remembers the migration's next command, which is printed when the action ends. */
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

/** Reads the stored digest of an archive, if any. */
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
 * Reads the entry for a phase after `prepare`.
 * @throws UserError if there is no entry, or its phase is not one of `phases`; VerdictError if its plan was changed
 */
export async function requireEntry(db: Database, id: string, phases: readonly Phase[]): Promise<Entry> {
  const entry = await readEntryIfAny(db, id)
  if (!entry)
    throw new UserError('ledger.no-migration', `the target's ledger has no migration \`${id}\`. Run \`prepare\` first`)
  // This hash identifies the plan that was rehearsed and approved.
  if (planHash(entry.plan) !== entry.plan.hash)
    throw new VerdictError(
      'ledger.changed-by-hand',
      `the plan of migration \`${id}\` in the ledger does not match its hash ${entry.plan.hash ?? '(none)'}, so someone has changed it. Prepare a new migration`,
    )
  if (phases.includes(entry.phase)) return entry
  throw new UserError('ledger.wrong-phase', standingText(entry))
}

/** Describes a migration's phase and its next command. */
export function standingText({ id, phase, facts }: Entry): string {
  const next = nextOf(phase, facts)
  const step = next
    ? `${next.before ? `${next.before} Then run` : 'Run'} \`${next.action}\` next`
    : 'Nothing is left to do'
  return `\`${id}\` is ${STANDS[phase]}. ${step}`
}

/** Creates an entry in the phase `planned`. Returns an existing entry unchanged. */
export async function createEntry(db: Database, id: string, plan: Plan, facts: Facts): Promise<Entry> {
  await db.query(
    `INSERT INTO ${MIGRATIONS} (id, phase, nonce, plan, facts) VALUES ($1, 'planned', $2, $3, $4) ON CONFLICT (id) DO NOTHING`,
    [id, randomUUID(), JSON.stringify(plan), JSON.stringify(facts)],
  )
  return (await readEntry(db, id)) as Entry
}

/**
 * Moves an entry to a phase with a single compare-and-set statement. If two runs have read the same entry, only one of
 * them succeeds. If the outcome is unknown (CockroachDB's 40003), reads the nonce back.
 * @throws UserError if another run has moved the entry since it was read
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
    `another run has ${now ? `moved migration \`${entry.id}\` to \`${now.phase}\`` : `removed migration \`${entry.id}\``}. This run stops, because only one run can act at a time`,
  )
}

/** Deletes a migration, but not its evidence. */
export async function dropEntry(db: Database, id: string): Promise<void> {
  await db.query(`DELETE FROM ${MIGRATIONS} WHERE id = $1`, [id])
  await dropHold(db, id)
  await dropProof(db, id)
  noteNext(undefined)
}

/** The run that recorded the evidence. */
interface Origin {
  /** A link to the run; empty outside GitHub. */
  run: string
  actor: string
  /** Commit of the repository that ran the workflow. */
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

/** Kind of evidence from a verification that compared only definitions, not rows. */
export const DEFINITIONS = 'definitions'

/** Appends evidence of what a phase checked and found, with its {@link Origin}. Evidence is never updated. */
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

/**
 * Reads the last step that recorded evidence, and the last failure.
 * @returns `overcome`: whether the failed action has recorded evidence since then
 */
export async function readLastSteps(
  db: Database,
  id: string,
): Promise<{ last: Trace | undefined; failed: (Trace & Failure & { overcome: boolean }) | undefined }> {
  const { rows } = await db.query<Trace>(
    `SELECT action, at, body -> 'origin' AS origin FROM ${EVIDENCE}
      WHERE migration = $1 AND action <> 'error' ORDER BY at DESC LIMIT 1`,
    [id],
  )
  const { rows: errors } = await db.query(
    `SELECT e.at, e.body, EXISTS (SELECT 1 FROM ${EVIDENCE} s
        WHERE s.migration = $1 AND s.action = e.body ->> 'action' AND s.at > e.at) AS overcome
       FROM ${EVIDENCE} e WHERE e.migration = $1 AND e.action = 'error' ORDER BY e.at DESC LIMIT 1`,
    [id],
  )
  const [error] = errors
  return { last: rows[0], failed: error && { ...error.body, at: error.at, overcome: error.overcome } }
}

/** One piece of evidence, with its content and age. */
export interface Evidence<T> {
  body: Partial<T> & { origin?: Origin }
  at: Date
  /** Age in milliseconds, by the database's clock. */
  ageMs: number
}

/** Reads an action's last `limit` pieces of evidence, newest first. */
export async function readEvidence<T>(db: Database, id: string, action: string, limit: number): Promise<Evidence<T>[]> {
  const { rows } = await db.query(
    `SELECT body, at, (extract(epoch FROM now() - at) * 1000)::float8 AS "ageMs" FROM ${EVIDENCE}
        WHERE migration = $1 AND action = $2 ORDER BY at DESC LIMIT $3::int8`,
    [id, action, limit],
  )
  return rows
}

/** One piece of evidence, as the dossier shows it. */
export interface Step {
  action: string
  at: Date
  body: Record<string, unknown> & { origin?: Origin }
}

/** Reads all evidence of a migration, oldest first. Also works after `cleanup`, which keeps the evidence. */
export async function readSteps(db: Database, id: string): Promise<Step[]> {
  const sql = `SELECT action, at, body FROM ${EVIDENCE} WHERE migration = $1 ORDER BY at`
  return rowsIfAny<Step>(db, sql, [id])
}
