import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { type Leg, openLeg, type StreamLogin } from '../../destination/stream-login.ts'
import { connect, type Database } from '../../runtime/database.ts'

/** Connections for work in parallel with the final verify, opened before the write pause. */
export interface Lanes {
  source: Database
  /** A further connection to the target, for sequences. */
  sequences: Database
  /** At least one; more where schema changes can run in parallel. */
  target: readonly [Database, ...Database[]]
  /** A session of the stream's login, if it has one. */
  leg?: Leg
}

/** Maximum number of parallel schema changes. Each is a job that waits for the cluster's nodes, not for processors. */
const MOST = 10

/** Number of connections for the unique indexes, or the tables with constraints, that have to be built. */
export function lanesFor(deferred: readonly Pick<Deferred, 'kind' | 'schema' | 'table'>[]): number {
  const uniques = deferred.filter(({ kind }) => kind === 'unique').length
  const constrained = deferred.filter(({ kind }) => kind === 'check' || kind === 'foreign-key')
  const tables = new Set(constrained.map(({ schema, table }) => `${schema}.${table}`)).size
  return Math.min(MOST, Math.max(1, uniques, tables))
}

/** Opens the connections for `work`, and always closes them. Their statements have no time limit. */
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
