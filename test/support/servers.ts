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
  /** The PostgreSQL server behind the target, where tests read and damage data as an administrator. */
  behind: EmbeddedServer
  /** Stops both servers. @throws if the target received a statement that no rule covers */
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

/** @throws Error with the statements that no rule covers. Add a rule for each, or stop sending it */
export function requireRules({ unknown }: CockroachServer): void {
  if (unknown.length) throw new Error(`the like-server has no rule for:\n${[...new Set(unknown)].join('\n')}`)
}
