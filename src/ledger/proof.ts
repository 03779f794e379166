import { type Database, isMissingTable, rowsIfAny } from '../runtime/database.ts'

/** How far a pass over a table has come, so that another run can resume it. */
export interface Progress {
  /** When its first rows were compared, by the runner's clock. */
  began: string
  /** Every row up to this key is compared, and none is in doubt. In the order of the key's index. */
  after?: string[]
  /** Rows up to that key. */
  rows: number
}

/** What is proved about one table. */
export interface TableProof {
  /** Its files when the log started; a different file voids the proof. */
  files: string
  /** The last pass that compared every row: its start, and the number of rows. */
  proved?: { began: string; rows: number }
  /** The current pass. */
  pass?: Progress
}

/** The proof that source and target are equal, at rest. LSNs as text. */
export interface ProofState {
  /** The load that it belongs to; another load starts another proof. */
  load: string
  systemIdentifier: string
  timeline: number
  /** The log was confirmed at most up to here; later changes are read again. */
  position: string
  /** The stream's confirmed position, which must not move back. */
  confirmed: string
  tables: Record<string, TableProof>
  /** Table → why it must be compared in full. */
  others: Record<string, string>
  /** Keys that changed and are not proved again yet. */
  open: number
  /** When this state was saved. */
  at: string
}

const PROOFS = 'molt_actions.proofs'

export async function readProof(db: Database, id: string): Promise<ProofState | undefined> {
  const rows = await rowsIfAny(db, `SELECT state FROM ${PROOFS} WHERE migration = $1`, [id])
  return rows[0]?.state
}

/** Repeatable; `createLedger` makes the schema. */
export async function createProofs(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${PROOFS} (migration TEXT PRIMARY KEY, state JSONB NOT NULL)`)
}

/** Saved before the log is confirmed, so that confirmed changes are never unknown to the next run. */
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
