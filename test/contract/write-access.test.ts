// Write access to the target: revoked by `prepare`, given back after the commit or when a migration ends.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { type Entry, readEntry } from '../../src/ledger/ledger.ts'
import { openTarget } from '../../src/phases/after-commit/open-target.ts'
import { connect, type Database } from '../../src/runtime/database.ts'
import type { ListedError } from '../../src/runtime/errors.ts'
import { inProcess } from '../support/in-process.ts'
import { REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { query, type World, world } from './checks-helpers.ts'

const SHOP = `CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, total numeric(10,2) NOT NULL)`
const WRITES = ['DELETE', 'INSERT', 'UPDATE']

let servers: Servers
let folder: string
let count = 0

beforeAll(async () => {
  servers = await startServers()
  folder = mkdtempSync(join(tmpdir(), 'write-access-'))
})

afterAll(async () => {
  await servers?.stop()
  rmSync(folder, { recursive: true, force: true })
})

interface Shop extends World {
  /** A role of its own that can write to `orders` before `prepare`. */
  app: string
  /** As an administrator, behind the CockroachDB-like server. */
  admin(sql: string): Promise<Record<string, unknown>[]>
  run(action: string, inputs?: Record<string, string>): ReturnType<typeof runAction>
  onTarget<T>(work: (db: Database) => Promise<T>, statementTimeout?: number): Promise<T>
  entry(): Promise<Entry | undefined>
  /** The rights on `orders` of the application's role. */
  rights(): Promise<unknown[]>
}

async function shop(): Promise<Shop> {
  const app = `app${++count}`
  const urls = await world(servers, SHOP)
  const behind = servers.behind.urlOf(new URL(urls.target).pathname.slice(1))
  const admin = (sql: string) => query(behind, sql)
  const made: Shop = {
    ...urls,
    app,
    admin,
    run: (action, inputs = {}) =>
      runAction({
        dir: join(REPO, 'actions', action),
        repo: REPO,
        workDir: folder,
        start: inProcess,
        inputs: { source: urls.source, target: urls.target, 'allow-insecure': 'true', ...inputs },
      }),
    async onTarget(work, statementTimeout) {
      const db = await connect(urls.target, 'target', statementTimeout)
      return work(db).finally(() => db.end().catch(() => {}))
    },
    entry: () => made.onTarget((db) => readEntry(db, 'main')),
    rights: async () =>
      (
        await admin(
          `SELECT privilege_type AS name FROM information_schema.table_privileges WHERE grantee = '${app}' ORDER BY 1`,
        )
      ).map(({ name }) => name),
  }
  await query(urls.target, `CREATE ROLE ${app}`)
  await query(urls.target, `GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE orders TO ${app}`)
  return made
}

async function prepared(): Promise<Shop> {
  const made = await shop()
  const result = await made.run('prepare', { decision: 'rehearse' })
  expect(result.outputs['error-code'], words(result)).toBeUndefined()
  expect(await made.rights()).toEqual(['SELECT'])
  return made
}

/** Makes the server end every GRANT to the application's role. */
async function refuseGrants({ admin, app }: Shop, state: string): Promise<() => Promise<unknown>> {
  await admin(`
    CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
      IF current_query() LIKE '%"${app}"%' THEN RAISE EXCEPTION 'no grants now' USING ERRCODE = '${state}'; END IF; END $$;
    CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION refuse()`)
  return () => admin('DROP EVENT TRIGGER refuse; DROP FUNCTION refuse()')
}

const statementOf = ({ app }: Shop) => `GRANT DELETE, INSERT, UPDATE ON TABLE "public"."orders" TO "${app}";`

it.each(['57014', '53200', '25006', '42501'])(
  'after the commit, names the statements and the way back when the server refuses with %s',
  async (state) => {
    const made = await prepared()
    const allow = await refuseGrants(made, state)
    const entry = (await made.entry()) as Entry
    const open = () => made.onTarget((db) => openTarget(db, entry))
    const refused: ListedError = await open().then(expect.unreachable, (error) => error)
    expect(refused).toMatchObject({ code: 'write-access.missing', problems: [statementOf(made)] })
    expect(refused.what).toContain(`SQLSTATE ${state}`)
    expect(refused.next).toMatch(/`cutover` again.*`rollback`/)
    await allow()
    await open()
    expect(await made.rights()).toEqual([...WRITES, 'SELECT'].sort())
  },
)

it('after the commit, names the statements when the target cannot be reached', async () => {
  const made = await prepared()
  const entry = (await made.entry()) as Entry
  const refused = made.onTarget(async (db) => {
    await db.end()
    await openTarget(db, entry)
  })
  await expect(refused).rejects.toMatchObject({ code: 'write-access.missing', problems: [statementOf(made)] })
})

it('waits for a GRANT that takes longer than the time limit of other statements', async () => {
  const made = await prepared()
  const entry = (await made.entry()) as Entry
  servers.cluster.options.ddlTime = 1_500
  try {
    await made.onTarget((db) => openTarget(db, entry), 300)
  } finally {
    servers.cluster.options.ddlTime = 0
  }
  expect(await made.rights()).toEqual([...WRITES, 'SELECT'].sort())
})

it('`abort` and `cleanup` keep the record of revoked rights until they are back', async () => {
  const made = await prepared()
  const allow = await refuseGrants(made, '53200')
  for (let time = 0; time < 2; time++) {
    const aborted = await made.run('abort')
    expect(aborted.outputs).toMatchObject({
      'error-code': 'abort.incomplete',
      undone: '["write-access.not-restored"]',
    })
    expect(words(aborted)).toContain(statementOf(made))
  }
  const cleaned = await made.run('cleanup')
  expect(cleaned.outputs['error-code'], words(cleaned)).toBe('write-access.not-restored')
  expect((await made.entry())?.facts.writeAccess).toHaveLength(WRITES.length)
  await allow()
  await query(made.target, statementOf(made))
  const aborted = await made.run('abort')
  expect(aborted.conclusion, words(aborted)).toBe('success')
  expect(await made.entry()).toBeUndefined()
  expect(await made.rights()).toEqual([...WRITES, 'SELECT'].sort())
})

it('`abort` forgets the rights of a role that no longer exists, and gives the others back', async () => {
  const made = await prepared()
  await made.admin(`DROP OWNED BY ${made.app}; DROP ROLE ${made.app}`)
  const aborted = await made.run('abort')
  expect(aborted.conclusion, words(aborted)).toBe('success')
  expect(words(aborted)).toContain(`${made.app} had DELETE, INSERT, UPDATE on orders`)
  expect(await made.entry()).toBeUndefined()
})

it('`fetch` refuses when write access was never revoked, or was granted again', async () => {
  const made = await prepared()
  const codeOf = async () => (await made.run('fetch')).outputs['error-code']
  await query(made.target, `GRANT INSERT ON TABLE orders TO ${made.app}`)
  expect(await codeOf()).toBe('write-access.granted-early')
  await query(made.target, "UPDATE molt_actions.migrations SET facts = facts - 'writeAccess'")
  expect(await codeOf()).toBe('write-access.not-closed')
})

it('`prepare` refuses when a revoked right is granted again at once', async () => {
  const made = await shop()
  await made.admin(`
    CREATE FUNCTION again() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN GRANT INSERT ON orders TO ${made.app}; END';
    CREATE EVENT TRIGGER again ON ddl_command_end WHEN TAG IN ('REVOKE') EXECUTE FUNCTION again()`)
  const refused = await made.run('prepare', { decision: 'rehearse' })
  expect(refused.outputs['error-code'], words(refused)).toBe('write-access.not-revoked')
})

it('`prepare` forgets a role that was dropped since its last run', async () => {
  const made = await prepared()
  await made.admin(`DROP OWNED BY ${made.app}; DROP ROLE ${made.app}`)
  const codeOf = async (action: string, inputs?: Record<string, string>) =>
    (await made.run(action, inputs)).outputs['error-code']
  expect(await codeOf('fetch')).toBe('write-access.role-gone')
  expect(await codeOf('prepare', { decision: 'rehearse' })).toBeUndefined()
  expect((await made.entry())?.facts.writeAccess).toEqual([])
})
