import {
  type CockroachOptions,
  type CockroachServer,
  installInTemplate,
  seenThrough,
  startCockroach,
} from '../../rehearsal/cockroach/server.ts'
import {
  type EmbeddedPair,
  type EmbeddedServer,
  type PostgresOptions,
  startPair,
} from '../../rehearsal/postgres/postgres.ts'

/** A PostgreSQL source and a CockroachDB-like target. */
export interface Servers extends EmbeddedPair {
  cluster: CockroachServer
  /** The PostgreSQL behind the target, where tests read and sabotage as an administrator. */
  behind: EmbeddedServer
  /** Ends both. @throws if the target received a statement that no rule covers */
  stop(): Promise<void>
}

export async function startServers(
  options: Omit<PostgresOptions, 'name'> & { cluster?: CockroachOptions } = {},
): Promise<Servers> {
  const { cluster: like, ...both } = options
  const pair = await startPair({
    ...both,
    beforeDatabase: async (server) => {
      if (server.name === 'target') await installInTemplate(server, like?.version)
    },
  })
  const cluster = await startCockroach(pair.target, like).catch(async (error) => {
    await pair.stop()
    throw error
  })
  return {
    source: pair.source,
    target: seenThrough(cluster, pair.target, both.database),
    cluster,
    behind: pair.target,
    async stop() {
      await cluster.stop()
      await pair.stop()
      requireRules(cluster)
    },
  }
}

/** @throws with the statements that no rule covers: each needs a rule, or must not be sent */
export function requireRules({ unknown }: CockroachServer): void {
  if (unknown.length) throw new Error(`the like-server has no rule for:\n${[...new Set(unknown)].join('\n')}`)
}
