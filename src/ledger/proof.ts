import { type Database, isMissingTable, rowsIfAny } from '../runtime/database.ts'

/** Progress of a pass over a table, from which another run can resume. */
export interface Progress {
  /** When its first rows were compared, by the runner's clock. */
  began: string
  /** The key up to which every row is compared and proved, in the order of the key's index. */
  after?: string[]
  /** Rows up to that key. */
  rows: number
}

/** What is proved about one table. */
export interface TableProof {
  /** Hash of its files and columns when the log started; a different one voids the proof. */
  files: string
  /** The last pass that compared every row: its start, and the number of rows. */
  proved?: { began: string; rows: number }
  /** The current pass. */
  pass?: Progress
}

/** The rolling proof that source and target are equal, as it is stored. LSNs are text. */
export interface ProofState {
  /** The load that the proof belongs to. Another load starts a new proof. */
  load: string
  systemIdentifier: string
  timeline: number
  /** The change log was confirmed at most up to here. Later changes are read again. */
  position: string
  /** The stream's confirmed position, which must not move back. */
  confirmed: string
  tables: Record<string, TableProof>
  /** Tables that must be compared in full, and why. */
  others: Record<string, string>
  /** Number of tables whose comparison has not begun. */
  waiting: number
  /** Number of changed keys that are not proved again yet. */
  open: number
  /** Number of rows found lost. */
  lost: number
  /** When this state was saved. */
  at: string
}

const PROOFS = 'molt_actions.proofs'

/** @param load the staging schema of the current load, because the proof of an earlier one says nothing about it */
export async function readProof(db: Database, id: string, load: string | undefined): Promise<ProofState | undefined> {
  const rows = await rowsIfAny(db, `SELECT state FROM ${PROOFS} WHERE migration = $1`, [id])
  const state: ProofState | undefined = rows[0]?.state
  return state?.load === load ? state : undefined
}

/** Repeatable; `createLedger` makes the schema. */
export async function createProofs(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${PROOFS} (migration TEXT PRIMARY KEY, state JSONB NOT NULL)`)
}

/** Saves the proof. Call it before confirming the change log, so that the next run knows every confirmed change. */
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
