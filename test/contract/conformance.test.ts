// The conformance run against the CockroachDB-like server: passes as shipped, fails where the server deviates.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startCockroach } from '../../rehearsal/cockroach/server.ts'
import { exitCodeOf, ITEMS, runConformance } from '../../rehearsal/conformance/run.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { query, type World, world } from './checks-helpers.ts'

let servers: Servers

beforeAll(async () => {
  servers = await startServers()
}, 120_000)

afterAll(async () => {
  await servers?.stop()
})

/** Creates a database on each side. `behind` is its URL on the PostgreSQL server behind the like-server. */
async function databases(server = servers.cluster): Promise<World & { behind: string }> {
  const { source, target } = await world(servers, 'SELECT 1')
  const name = new URL(target).pathname.slice(1)
  return { source, behind: servers.behind.urlOf(name), target: server.urlOf(name) }
}

const cli = (...args: string[]) =>
  spawn(process.execPath, ['--import', 'tsx', 'rehearsal/cli/conformance.ts', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })

async function output(child: ReturnType<typeof cli>) {
  const texts = ['', '']
  child.stdout.on('data', (chunk) => (texts[0] += chunk))
  child.stderr.on('data', (chunk) => (texts[1] += chunk))
  const [code] = await once(child, 'close')
  return { code, stdout: texts[0] as string, stderr: texts[1] as string }
}

/** Returns the schemas and roles that a run left behind. */
async function leftovers({ behind, source }: { behind: string; source: string }): Promise<unknown[]> {
  const schemas = `SELECT nspname AS name FROM pg_namespace WHERE nspname LIKE 'molt\\_%'`
  const roles = `SELECT rolname AS name FROM pg_roles WHERE rolname LIKE 'molt\\_conformance\\_%'`
  return [...(await query(behind, schemas)), ...(await query(behind, roles)), ...(await query(source, schemas))]
}

it.each(['24.3', '25.2', '26.3'])(
  'matches the documentation on every item, and leaves nothing behind (%s)',
  async (version) => {
    const server = await startCockroach(servers.behind, { version })
    const urls = await databases(server)
    const found = await runConformance(urls, new AbortController().signal).finally(() => server.stop())
    expect(found.items.filter(({ result }) => result !== 'as-documented')).toEqual([])
    expect(found.items.map(({ id }) => id)).toEqual(ITEMS.map(({ id }) => id))
    // 24.3 has no row-level security.
    const unseen = found.items.filter(({ looks }) => !looks.length).map(({ id }) => id)
    expect(unseen).toEqual(version === '24.3' ? ['catalogs.bypassrls'] : [])
    expect(found.left).toEqual([])
    expect(exitCodeOf(found)).toBe(0)
    expect(server.unknown).toEqual([])
    expect(await leftovers(urls)).toEqual([])
  },
)

it('exits with 1 if the server deviates from CockroachDB, and skips items that need a source', async () => {
  const urls = await databases()
  await query(urls.target, 'SELECT 1')
  await query(
    urls.behind,
    'DROP VIEW _crdb.pg_class CASCADE; CREATE VIEW _crdb.pg_class AS SELECT * FROM pg_catalog.pg_class; GRANT SELECT ON _crdb.pg_class TO PUBLIC',
  )
  const { code, stdout } = await output(cli('--target', urls.target, '--json'))
  const { items, exitCode } = JSON.parse(stdout)
  expect([code, exitCode]).toEqual([1, 1])
  const different = items.find(({ id }: { id: string }) => id === 'catalogs.nulls')
  expect(different).toMatchObject({ result: 'different', looks: [{ expected: '0', same: false }, {}, { same: true }] })
  expect(
    items.filter(({ result }: { result: string }) => result === 'skipped').map(({ id }: { id: string }) => id),
  ).toEqual(['rows.hashes', 'abort'])
  expect(await leftovers(urls)).toEqual([])
})

it('leaves nothing behind when it is interrupted', async () => {
  const urls = await databases()
  const child = cli('--target', urls.target, '--source', urls.source)
  const ended = output(child)
  child.stdout.once('data', () => child.kill('SIGINT'))
  const { code, stdout } = await ended
  expect(code).toBe(130)
  expect(stdout).toContain('NOT RUN')
  expect(await leftovers(urls)).toEqual([])
})

it('exits with 2 when the target is not a cluster', async () => {
  const { source } = await databases()
  const { code, stderr } = await output(cli('--target', source))
  expect(code).toBe(2)
  expect(stderr).toContain('the target is not CockroachDB')
})
