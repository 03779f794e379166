import { type Database, isMissingTable, rowsIfAny } from '../runtime/database.ts'

/** Progress of a pass over a table. Another run can resume from it. */
export interface Progress {
  /** Time at which the pass compared its first rows, by the runner's clock. */
  began: string
  /** Key up to which every row is proved equal, in index order. */
  after?: string[]
  /** Number of rows up to that key. */
  rows: number
}

/** How far one table is proved equal on both sides. */
export interface TableProof {
  /** Hash of the table's storage files and columns when the change log started. If it changes, the proof is void. */
  files: string
  /** Start time and number of rows of the last pass that compared every row. */
  proved?: { began: string; rows: number }
  /** The current pass. */
  pass?: Progress
}

/** Stored state of the rolling proof that source and target are equal. LSNs are strings. */
export interface ProofState {
  /** The load that the proof belongs to. A new load starts a new proof. */
  load: string
  systemIdentifier: string
  timeline: number
  /** Upper limit of the change log's confirmed position. Later changes are read again. */
  position: string
  /** The stream's confirmed position, which must not move back. */
  confirmed: string
  tables: Record<string, TableProof>
  /** Tables that must be compared in full, and why. */
  others: Record<string, string>
  /** Number of tables whose comparison has not started. */
  waiting: number
  /** Number of changed keys that have not been proved again yet. */
  open: number
  /** Number of rows found lost. */
  lost: number
  /** Time at which this state was saved. */
  at: string
}

const PROOFS = 'molt_actions.proofs'

/** @param load the staging schema of the current load, because the proof of an earlier one says nothing about it */
export async function readProof(db: Database, id: string, load: string | undefined): Promise<ProofState | undefined> {
  const rows = await rowsIfAny(db, `SELECT state FROM ${PROOFS} WHERE migration = $1`, [id])
  const state: ProofState | undefined = rows[0]?.state
  return state?.load === load ? state : undefined
}

/** Creates the table of proofs if it does not exist. The schema must exist. */
export async function createProofs(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${PROOFS} (migration TEXT PRIMARY KEY, state JSONB NOT NULL)`)
}

/** Saves the proof. Call this before you confirm the change log, so that the next run knows every confirmed change. */
export async function writeProof(db: Database, id: string, state: ProofState): Promise<void> {
  await db.query(
    `INSERT INTO ${PROOFS} (migration, state) VALUES ($1, $2) ON CONFLICT (migration) DO UPDATE SET state = excluded.state`,
    [id, JSON.stringify(state)],
  )
}

export async function dropProof(db: Database, id: string): Promise<void> {
  await db.query(`DELETE FROM ${PROOFS} WHERE migration = $1`, [id]).catch((error) => {
    if (!isMissingTable(error)) throw error
  })
}
