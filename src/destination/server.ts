import type { Database } from '../runtime/database.ts'

/** What every `version()` of the rehearsals' CockroachDB-like server has, and no cluster's. */
export const LIKE_SERVER = 'molt-actions like-server'

export interface TargetFacts {
  version: string
  isCockroach: boolean
  /** The server of `npm run rehearse`, which only answers like CockroachDB; it names itself in `version()`. */
  isLikeServer: boolean
  database: string
}

export async function readTarget(db: Database): Promise<TargetFacts> {
  const { rows } = await db.query('SELECT version() AS version, current_database() AS database')
  const { version, database } = rows[0]
  return {
    version,
    database,
    isCockroach: version.startsWith('CockroachDB'),
    isLikeServer: version.includes(LIKE_SERVER),
  }
}
