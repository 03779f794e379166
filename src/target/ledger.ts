import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Database, sqlState } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'

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

/** What was decided, and what must not change underneath a migration. Stored as JSON; later phases are held to it. */
export interface Plan {
  sourceSchema: string
  targetSchema: string
  /** The expected tables, bare names, resolved once on the source. */
  tables: string[]
  slot: string
  publication: string
}

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
  tools?: { molt: string; replicator: string }
  verified?: { at: string; clean: boolean; level: string }
  fenceId?: string
}

export interface Entry {
  id: string
  phase: Phase
  nonce: string
  plan: Plan
  facts: Facts
  updatedAt: Date
}

const MIGRATIONS = 'molt_actions.migrations'
const EVIDENCE = 'molt_actions.evidence'
const DIGESTS = 'molt_actions.digests'

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
    db.query(`SELECT id, phase, nonce, plan, facts, updated_at AS "updatedAt" FROM ${MIGRATIONS} WHERE id = $1`, [id]),
  )
  return rows[0]
}

/** Like {@link readEntry}, also where there is no ledger yet. */
export async function readEntryIfAny(db: Database, id: string): Promise<Entry | undefined> {
  return readEntry(db, id).catch((error) => {
    if (['42P01', '3F000'].includes(sqlState(error) ?? '')) return undefined
    throw error
  })
}

/**
 * The entry that a phase after `prepare` works from.
 * @throws UserError when there is none, or when it stands in none of `phases`
 */
export async function requireEntry(db: Database, id: string, phases: readonly Phase[]): Promise<Entry> {
  const entry = await readEntryIfAny(db, id)
  if (!entry) throw new UserError(`the target's ledger has no migration \`${id}\`; run \`prepare\` for it first`)
  if (phases.includes(entry.phase)) return entry
  throw new UserError(
    `migration \`${id}\` is ${entry.phase}; this step needs it to be ${phases.join(' or ')}. ${hint(entry.phase, phases)}`,
  )
}

function hint(phase: Phase, phases: readonly Phase[]): string {
  const behind = PHASES.indexOf(phase) < PHASES.indexOf(phases[0] as Phase)
  return behind
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

/** CockroachDB asks clients to repeat a statement that lost to another one (40001). */
async function retrying<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work()
    } catch (error) {
      if (sqlState(error) !== '40001' || attempt >= 8) throw error
      await sleep(25 * 2 ** attempt)
    }
  }
}
