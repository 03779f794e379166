import { type Database, isMissingTable } from '../runtime/database.ts'

/** How far a pass over a table has come, so that another run goes on from there. */
export interface Progress {
  /** When its first rows were compared, by the runner's clock. */
  began: string
  /** Every row up to this key is compared, and none of them is in doubt. In the order of the key's index. */
  after?: string[]
  /** Rows up to there. */
  rows: number
}

/** What is proved of one table. */
export interface TableProof {
  /** Its files when the log began: another file voids the proof. */
  files: string
  /** The last pass that compared every row: when it began, and how many rows there were. */
  proved?: { began: string; rows: number }
  /** The pass that is under way. */
  pass?: Progress
}

/** The proof that source and target are equal, as it stands when nobody streams. LSNs as text. */
export interface ProofState {
  /** The load that it is about: another load begins another proof. */
  load: string
  systemIdentifier: string
  timeline: number
  /** The log was confirmed up to here at most: what changed later is read again. */
  position: string
  /** What the stream had confirmed: it may not go back behind that. */
  confirmed: string
  tables: Record<string, TableProof>
  /** Table → why it must be compared in full. */
  others: Record<string, string>
  /** Keys that changed and are not proved again yet. */
  open: number
  /** When that was so. */
  at: string
}

const PROOFS = 'molt_actions.proofs'

export async function readProof(db: Database, id: string): Promise<ProofState | undefined> {
  const { rows } = await db.query(`SELECT state FROM ${PROOFS} WHERE migration = $1`, [id]).catch((error) => {
    if (isMissingTable(error)) return { rows: [] }
    throw error
  })
  return rows[0]?.state
}

/** Repeatable; `createLedger` makes the schema. */
export async function createProofs(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${PROOFS} (migration TEXT PRIMARY KEY, state JSONB NOT NULL)`)
}

/** Written before the log is confirmed, so that what is confirmed is never news to the next run. */
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
