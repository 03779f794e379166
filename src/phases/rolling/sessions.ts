import { readTarget } from '../../destination/server.ts'
import type { Plan } from '../../model/plan.ts'
import { connect, READ_ONLY } from '../../runtime/database.ts'
import { HASHED, watchClient } from '../verify/row-digests.ts'
import type { Side } from './rows.ts'

/** A connection to each side for reading rows. Statements have no time limit. */
export interface Sessions {
  source: Side
  target: Side
  close(): Promise<void>
}

export interface Endpoints {
  sourceUrl: string
  targetUrl: string
  plan: Plan
  signal: AbortSignal
}

export async function openSessions({ sourceUrl, targetUrl, plan, signal }: Endpoints): Promise<Sessions> {
  const source = await connect(sourceUrl, 'source', 0, signal, { settings: READ_ONLY })
  try {
    const target = await connect(targetUrl, 'target', 0, signal, { settings: READ_ONLY })
    // If the run is cancelled, close the connections, which ends a running statement.
    const close = async () => {
      signal.removeEventListener('abort', close)
      await Promise.all([source, target].map((db) => db.end().catch(() => {})))
    }
    signal.addEventListener('abort', close, { once: true })
    try {
      await Promise.all([watchClient(source), watchClient(target)])
      const { isCockroach } = await readTarget(target)
      return {
        source: { db: source, schema: plan.sourceSchema, isSource: true, number: HASHED.postgres },
        target: {
          db: target,
          schema: plan.targetSchema,
          isSource: false,
          number: isCockroach ? HASHED.cockroach : HASHED.postgres,
        },
        close,
      }
    } catch (error) {
      await close()
      throw error
    }
  } catch (error) {
    await source.end().catch(() => {})
    throw error
  }
}
