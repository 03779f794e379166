import type { Database } from '../runtime/database.ts'

export interface TargetFacts {
  version: string
  isCockroach: boolean
  database: string
}

export async function readTarget(db: Database): Promise<TargetFacts> {
  const { rows } = await db.query('SELECT version() AS version, current_database() AS database')
  const { version, database } = rows[0]
  return { version, database, isCockroach: version.startsWith('CockroachDB') }
}
