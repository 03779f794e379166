import type { Database } from '../runtime/database.ts'

/** Part of every `version()` of the rehearsals' CockroachDB-like server, and of no cluster's. */
export const LIKE_SERVER = 'molt-actions like-server'

export interface TargetFacts {
  version: string
  isCockroach: boolean
  /** The server of `npm run rehearse`, which only answers like CockroachDB; its `version()` says so. */
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
