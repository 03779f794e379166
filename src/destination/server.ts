import type { Database } from '../runtime/database.ts'

/** Part of `version()` on the CockroachDB-like server for rehearsals, but never on a real cluster. */
export const LIKE_SERVER = 'molt-actions like-server'

export interface TargetFacts {
  version: string
  isCockroach: boolean
  /** Whether it is the CockroachDB-like server of `npm run rehearse`. */
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
