// Write access to the target: revoked by `prepare`, restored after the commit or when a migration ends.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { Preflight } from '../../src/checks/preflight.ts'
import { type Entry, readEntry } from '../../src/ledger/ledger.ts'
import { openTarget } from '../../src/phases/after-commit/open-target.ts'
import { connect, type Database } from '../../src/runtime/database.ts'
import type { ListedError } from '../../src/runtime/errors.ts'
import { leaseFor, makePermanent, setLease } from '../../src/source/fence.ts'
import { inProcess } from '../support/in-process.ts'
import { REPO, words } from '../support/migration.ts'
import { type Servers, startServers } from '../support/servers.ts'
import { standInFolder } from '../support/stand-in.ts'
import { query, type World, world } from './checks-helpers.ts'

const SHOP = `CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL);
  CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint NOT NULL, total numeric(10,2) NOT NULL)`
const INPUTS: Record<string, Record<string, string>> = {
  prepare: { decision: 'rehearse' },
  fetch: { mode: 'direct-copy' },
}
const nightly = it.runIf(process.env.MOLT_ACTIONS_NIGHTLY)
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
  /** The application's role, which can write to `orders` before `prepare`. Each shop has its own. */
  app: string
  /** Runs SQL as an administrator, bypassing the CockroachDB-like server. */
  admin(sql: string): Promise<Record<string, unknown>[]>
  run(action: string, inputs?: Record<string, string>): ReturnType<typeof runAction>
  onTarget<T>(work: (db: Database) => Promise<T>, statementTimeout?: number): Promise<T>
  entry(): Promise<Entry | undefined>
  /** Returns the privileges of the application's role on `orders`. */
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
        inputs: { source: urls.source, target: urls.target, 'allow-insecure': 'true', ...INPUTS[action], ...inputs },
        env: { PATH: `${standInFolder()}:${process.env.PATH}` },
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

async function prepared(inputs: Record<string, string> = {}): Promise<Shop> {
  const made = await shop()
  const result = await made.run('prepare', inputs)
  expect(result.outputs['error-code'], words(result)).toBeUndefined()
  expect(await made.rights()).toEqual(['SELECT'])
  return made
}

/** Returns a fix's statements without the trailing comment. */
const inFix = (fix: string) =>
  fix
    .replace(/ --.*/, '')
    .split(';')
    .filter((sql) => sql.trim())

/** Makes every GRANT to the application's role fail with this SQLSTATE. @returns a function that stops it */
async function refuseGrants({ admin, app }: Shop, state: string): Promise<() => Promise<unknown>> {
  await admin(`
    CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
      IF current_query() LIKE '%"${app}"%' THEN RAISE EXCEPTION 'no grants now' USING ERRCODE = '${state}'; END IF; END $$;
    CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION refuse()`)
  return () => admin('DROP EVENT TRIGGER refuse; DROP FUNCTION refuse()')
}

const statementOf = ({ app }: Shop) => `GRANT DELETE, INSERT, UPDATE ON TABLE "public"."orders" TO "${app}";`

describe('restoring write access after the commit', () => {
  let made: Shop
  let entry: Entry
  const open = (statementTimeout?: number) => made.onTarget((db) => openTarget(db, entry), statementTimeout)
  beforeAll(async () => {
    made = await prepared()
    entry = (await made.entry()) as Entry
  })

  it.each(['57014', '53200', '25006', '42501'])('names the statements and how to retry after %s', async (state) => {
    const allow = await refuseGrants(made, state)
    const refused: ListedError = await open().catch((error) => error)
    await allow()
    expect(refused).toMatchObject({ code: 'write-access.missing', problems: [statementOf(made)] })
    expect(refused.what).toContain(`SQLSTATE ${state}`)
    expect(refused.next).toMatch(/rerun `cutover`.*`rollback`/)
    expect(await made.rights()).toEqual(['SELECT'])
  })

  it('names the statements when the target cannot be reached', async () => {
    const refused = made.onTarget(async (db) => {
      await db.end()
      await openTarget(db, entry)
    })
    await expect(refused).rejects.toMatchObject({ code: 'write-access.missing', problems: [statementOf(made)] })
  })

  it('waits for a GRANT that takes longer than the time limit of other statements', async () => {
    servers.cluster.options.ddlTime = 1_500
    await open(300).finally(() => {
      servers.cluster.options.ddlTime = 0
    })
    expect(await made.rights()).toEqual([...WRITES, 'SELECT'].sort())
  })
})

it('`abort` and `cleanup` keep the record of revoked privileges until they are restored', async () => {
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

nightly('`abort` forgets the privileges of a role that no longer exists, and restores the others', async () => {
  const made = await prepared()
  await made.admin(`DROP OWNED BY ${made.app}; DROP ROLE ${made.app}`)
  const aborted = await made.run('abort')
  expect(aborted.conclusion, words(aborted)).toBe('success')
  expect(words(aborted)).toContain(`${made.app} had DELETE, INSERT, UPDATE on orders`)
  expect(await made.entry()).toBeUndefined()
})

it('`fetch` refuses unless write access is revoked, can be restored, and survives the load', async () => {
  const made = await prepared()
  const recreate = { 'table-handling': 'drop-on-target-and-recreate' }
  const refused = async (inputs?: Record<string, string>) => {
    const result = await made.run('fetch', inputs)
    return `${result.outputs['error-code']} ${words(result)}`
  }
  const lost = await refused(recreate)
  expect(lost).toMatch(/^load\.recreate-loses-rights /)
  expect(lost).toContain(`${made.app} would lose DELETE, INSERT, SELECT, UPDATE on orders`)
  await query(made.target, `GRANT INSERT ON TABLE orders TO ${made.app}`)
  expect(await refused()).toMatch(/^write-access\.granted-early /)
  await query(made.target, `REVOKE INSERT ON TABLE orders FROM ${made.app}`)
  await made.admin(`ALTER ROLE ${made.app} LOGIN; ALTER TABLE customers OWNER TO ${made.app}`)
  const owned = await refused()
  expect(owned).toMatch(/^write-access\.not-revocable /)
  expect(owned).toContain('ALTER TABLE "public"."customers" OWNER TO "postgres"')
  await made.admin('ALTER TABLE customers OWNER TO postgres')
  await query(made.target, "UPDATE molt_actions.migrations SET facts = facts - 'writeAccess'")
  expect(await refused()).toMatch(/^write-access\.not-closed /)
})

nightly('`prepare` refuses to recreate tables on which other roles have privileges', async () => {
  const made = await shop()
  const blocked = await made.run('prepare', { 'table-handling': 'drop-on-target-and-recreate' })
  expect(blocked.outputs['error-code']).toBe('preflight.blocked')
  const errors = blocked.annotations.flatMap(({ level, title }) => (level === 'error' && title ? [title] : []))
  expect(errors).toEqual(['load.recreate'])
})

nightly('`prepare` fails if a revoked privilege is immediately granted again', async () => {
  const made = await shop()
  await made.admin(`
    CREATE FUNCTION again() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN GRANT INSERT ON orders TO ${made.app}; END';
    CREATE EVENT TRIGGER again ON ddl_command_end WHEN TAG IN ('REVOKE') EXECUTE FUNCTION again()`)
  const refused = await made.run('prepare')
  expect(refused.outputs['error-code'], words(refused)).toBe('write-access.not-revoked')
})

nightly('`prepare` forgets a role that was dropped since its last run', async () => {
  const made = await prepared()
  await made.admin(`DROP OWNED BY ${made.app}; DROP ROLE ${made.app}`)
  const codeOf = async (action: string) => (await made.run(action)).outputs['error-code']
  expect(await codeOf('fetch')).toBe('write-access.role-gone')
  expect(await codeOf('prepare')).toBeUndefined()
  expect((await made.entry())?.facts.writeAccess).toEqual([])
})

it('finds logins that no REVOKE keeps from writing, and prints statements that do', async () => {
  const made = await shop()
  const { admin, app } = made
  const [team, batch, ops] = [`${app}_team`, `${app}_batch`, `${app}_ops`]
  await admin(`ALTER ROLE ${app} LOGIN; ALTER TABLE orders OWNER TO ${app};
    CREATE ROLE ${team}; CREATE ROLE ${batch} LOGIN IN ROLE ${team}; ALTER TABLE customers OWNER TO ${team};
    CREATE ROLE ${ops} LOGIN IN ROLE admin`)
  const find = async () => {
    const { outputs } = await made.run('prepare')
    const { findings } = Preflight.parse(JSON.parse(readFileSync(outputs.preflight as string, 'utf8')))
    return findings.filter(({ check }) => /^tgt\.(table-owner|administrator)$/.test(check))
  }
  const found = await find()
  expect(found.map(({ check, severity, object }) => [check, severity, object])).toEqual([
    ['tgt.table-owner', 'block', app],
    ['tgt.table-owner', 'block', batch],
    ['tgt.administrator', 'warn', ops],
  ])
  for (const { check, fix } of found) if (check === 'tgt.table-owner') for (const sql of inFix(fix)) await admin(sql)
  expect((await find()).map(({ object }) => object)).toEqual([ops])
  for (const [role, table] of [
    [app, 'orders'],
    [batch, 'customers'],
  ])
    await expect(admin(`SET ROLE ${role}; UPDATE ${table} SET id = id`), role).rejects.toMatchObject({ code: '42501' })
})

/** Creates a migration whose cutover has committed, with the same row on both sides. */
async function switched(inputs: Record<string, string> = {}): Promise<Shop> {
  const made = await prepared(inputs)
  for (const url of [made.source, made.target]) await query(url, "INSERT INTO customers VALUES (1, 'a')")
  const db = await connect(made.source, 'source')
  const lease = await leaseFor(db, 60_000)
  expect([await setLease(db, lease), await makePermanent(db, lease)]).toEqual([true, true])
  await db.end()
  await query(made.target, "UPDATE molt_actions.migrations SET phase = 'switched'")
  await made.onTarget(async (target) => openTarget(target, (await readEntry(target, 'main')) as Entry))
  return made
}

it('`rollback` also revokes privileges that a role was granted after the commit', async () => {
  const made = await switched()
  const etl = `${made.app}_etl`
  await query(made.target, `CREATE ROLE ${etl}`)
  await query(made.target, `GRANT SELECT, INSERT ON TABLE orders TO ${etl}`)
  const rolled = await made.run('rollback')
  expect(rolled.conclusion, words(rolled)).toBe('success')
  const may = await made.admin(
    `SELECT rolname AS name FROM pg_roles WHERE rolname LIKE '${made.app}%' AND has_table_privilege(oid, 'orders', 'INSERT, UPDATE, DELETE')`,
  )
  expect(may).toEqual([])
  // The ledger keeps these privileges, so that `cleanup` can restore them.
  const { writeAccess = [], revokedAgain } = (await made.entry())?.facts ?? {}
  expect(writeAccess.filter(({ role }) => role === etl).map(({ privilege }) => privilege)).toEqual(['INSERT'])
  expect(revokedAgain).toBeNull()
})

nightly('`rollback` names a role that it cannot stop from writing, and changes nothing', async () => {
  const made = await switched()
  await made.admin(`ALTER ROLE ${made.app} LOGIN; ALTER TABLE customers OWNER TO ${made.app}`)
  const refused = await made.run('rollback')
  expect(refused.outputs['error-code'], words(refused)).toBe('rollback.writers')
  expect(words(refused)).toContain('ALTER TABLE "public"."customers" OWNER TO "postgres";')
  expect(await made.rights()).toEqual(expect.arrayContaining(WRITES))
})

it('a refused `rollback` names the privileges that it cannot restore, and the next one restores them', async () => {
  const made = await switched()
  // A write that arrives before the privilege is revoked.
  await made.admin(`
    CREATE FUNCTION late() RETURNS event_trigger LANGUAGE plpgsql AS
      'BEGIN UPDATE public.customers SET email = email || ''!''; END';
    CREATE EVENT TRIGGER late ON ddl_command_end WHEN TAG IN ('REVOKE') EXECUTE FUNCTION late()`)
  const allow = await refuseGrants(made, '53200')
  const refused = await made.run('rollback')
  expect(refused.outputs['error-code'], words(refused)).toBe('write-access.not-restored')
  expect(words(refused)).toContain(statementOf(made))
  expect(words(refused)).toContain('rollback.target-written')
  expect(await made.rights()).toEqual(['SELECT'])
  await allow()
  expect((await made.run('rollback')).outputs['error-code']).toBe('rollback.target-written')
  expect(await made.rights()).toEqual([...WRITES, 'SELECT'].sort())
})
