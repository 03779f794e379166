import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { type Leg, openLeg, type StreamLogin } from '../../destination/stream-login.ts'
import { connect, type Database } from '../../runtime/database.ts'

/** Connections for work that runs in parallel with the final verify. They are opened before the write pause. */
export interface Lanes {
  source: Database
  /** An additional connection to the target, for sequences. */
  sequences: Database
  /** Connections for schema changes, which can run in parallel. */
  target: readonly [Database, ...Database[]]
  /** A session of the stream's own login, if the stream has one. */
  leg?: Leg
}

/** Maximum number of parallel schema changes. CockroachDB runs each as a job that mostly waits for other nodes. */
const MOST = 10

/**
 * Number of connections needed to build the unique indexes and constraints: one for each unique index or for each table
 * with constraints, whichever is more.
 */
export function lanesFor(deferred: readonly Pick<Deferred, 'kind' | 'schema' | 'table'>[]): number {
  const uniques = deferred.filter(({ kind }) => kind === 'unique').length
  const constrained = deferred.filter(({ kind }) => kind === 'check' || kind === 'foreign-key')
  const tables = new Set(constrained.map(({ schema, table }) => `${schema}.${table}`)).size
  return Math.min(MOST, Math.max(1, uniques, tables))
}

/** Opens the connections for `work`, and closes them afterwards. Their statements have no time limit. */
export async function withLanes<T>(
  urls: { source: string; target: string },
  given: { target: Database; migration: string; login?: StreamLogin; signal: AbortSignal },
  work: (lanes: Lanes) => Promise<T>,
): Promise<T> {
  const count = lanesFor(await listDeferred(given.target, given.migration))
  const open: Database[] = []
  const one = async (side: 'source' | 'target') => {
    const db = await connect(urls[side], side, 0, given.signal)
    open.push(db)
    return db
  }
  try {
    const source = await one('source')
    const [sequences, first] = [await one('target'), await one('target')]
    const more = await Promise.all(Array.from({ length: count - 1 }, () => one('target')))
    const leg = given.login && (await openLeg(given.login))
    if (leg) open.push(leg.db)
    return await work({ source, sequences, target: [first, ...more], ...(leg && { leg }) })
  } finally {
    await Promise.all(open.map((db) => db.end().catch(() => {})))
  }
}
