import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { createLedger } from '../../src/ledger/ledger.ts'
import type { Plan } from '../../src/model/plan.ts'
import { keepSnapshot, readBaseline, takeSnapshot } from '../../src/phases/observe/baseline.ts'
import { meanMs, type Statements } from '../../src/phases/observe/counters.ts'
import { isMissing } from '../../src/phases/observe/verdict.ts'
import type { Database } from '../../src/runtime/database.ts'
import { readSourceSessions, readStatements } from '../../src/source/activity.ts'

/* Reads PostgreSQL's statistics about an application and keeps snapshots of them in the ledger. */

const PLAN: Plan = { sourceSchema: 'public', targetSchema: 'public', tables: ['orders'], slot: 's', publication: 'p' }
const READ = 'select total from orders where id = _'
const WRITE = 'insert into orders id , email , total values _'

let server: EmbeddedServer
const open: pg.Client[] = []

async function client(user = 'postgres', application = ''): Promise<pg.Client> {
  const url = new URL(server.url)
  if (user !== 'postgres') [url.username, url.password] = [user, 'secret']
  const db = new pg.Client({ connectionString: url.href, application_name: application })
  await db.connect()
  open.push(db)
  return db
}

beforeAll(async () => {
  server = await startPostgres({ name: 'observe', settings: { shared_preload_libraries: 'pg_stat_statements' } })
  const db = await client()
  await db.query(`CREATE EXTENSION pg_stat_statements;
    CREATE TABLE orders (id int PRIMARY KEY, email text, total numeric);
    CREATE ROLE app LOGIN PASSWORD 'secret'; CREATE ROLE reader LOGIN PASSWORD 'secret'; CREATE ROLE mover LOGIN PASSWORD 'secret';
    GRANT SELECT, INSERT, UPDATE ON orders TO app; GRANT SELECT ON orders TO reader, mover; GRANT pg_read_all_stats TO mover`)
  await createLedger(db)
})
afterAll(() => server.stop())

let db: Database
let app: pg.Client
beforeEach(async () => {
  db = await client('mover', 'molt-actions')
  app = await client('app', 'shop')
  const admin = await client()
  await admin.query('TRUNCATE orders; SELECT pg_stat_statements_reset(); DELETE FROM molt_actions.evidence')
})
afterEach(async () => {
  for (const each of open.splice(0)) await each.end().catch(() => {})
})

async function work(times: number, from = 0): Promise<void> {
  for (let id = from; id < from + times; id++) {
    await app.query('INSERT INTO orders (id, email, total) VALUES ($1, $2, $3)', [id, `x${id}@example.com`, id])
    await app.query(`SELECT total FROM orders WHERE id = ${id}`)
  }
}

const known = (statements: Parameters<typeof isMissing>[0]): Statements => {
  if (isMissing(statements)) throw new Error(`missing: ${statements.missing}`)
  return statements
}

describe('takeSnapshot', () => {
  it('counts statements by fingerprint, with their mean duration', async () => {
    await work(5)
    const statements = known((await takeSnapshot(db, PLAN)).statements)
    expect(Object.keys(statements).sort()).toEqual([WRITE, READ].sort())
    expect(statements[READ]).toMatchObject({ calls: 5, rows: 5 })
    expect(meanMs(statements[READ] as never)).toBeGreaterThan(0)
  })

  it('keeps no literal values', async () => {
    await app.query("SELECT total FROM orders WHERE email = 'someone@example.com'")
    await app.query('SELECT 4711, total FROM orders')
    expect(JSON.stringify((await takeSnapshot(db, PLAN)).statements)).not.toMatch(/someone|4711/)
  })

  it("counts sessions by role, application and address, without the suite's own sessions", async () => {
    await client('app', 'shop')
    await client('reader', 'report')
    const { sessions } = await takeSnapshot(db, PLAN)
    expect(sessions?.filter(({ role }) => role !== 'postgres')).toMatchObject([
      { role: 'app', application: 'shop', address: '127.0.0.1', sessions: 2, mayWrite: true },
      { role: 'reader', application: 'report', address: '127.0.0.1', sessions: 1, mayWrite: false },
    ])
  })

  it("reports that other users' query texts and sessions are hidden", async () => {
    await work(1)
    const snapshot = await takeSnapshot(await client('reader', 'molt-actions'), PLAN)
    expect(snapshot).toMatchObject({ statements: { missing: 'right' }, sessions: null })
  })

  it('reports a missing extension', async () => {
    const admin = await client()
    await admin.query('BEGIN; DROP EXTENSION pg_stat_statements')
    expect(await readStatements(admin)).toEqual({ missing: 'not-installed' })
    await admin.query('ROLLBACK')
  })

  it('resets nothing', async () => {
    const reset = async () => (await db.query('SELECT stats_reset::text FROM pg_stat_statements_info')).rows
    const before = await reset()
    await takeSnapshot(db, PLAN)
    expect(await reset()).toEqual(before)
  })
})

describe('readSourceSessions', () => {
  it('recognizes a session whose last statement was a write', async () => {
    await app.query('UPDATE orders SET total = 1')
    const sessions = await readSourceSessions(db, 'public', ['orders'], ['molt-actions'])
    expect(sessions?.find(({ role }) => role === 'app')).toMatchObject({ writes: true })
    await app.query('SELECT 1')
    const later = await readSourceSessions(db, 'public', ['orders'], ['molt-actions'])
    expect(later?.find(({ role }) => role === 'app')).toMatchObject({ writes: false })
  })

  it("does not count a superuser as one of the application's writers", async () => {
    await client('postgres', 'psql')
    const sessions = await readSourceSessions(db, 'public', ['orders'], ['molt-actions'])
    expect(sessions?.find(({ application }) => application === 'psql')).toMatchObject({ mayWrite: false })
  })
})

describe('readBaseline', () => {
  const ledger = () => client('postgres', 'molt-actions')

  it('returns the difference between the first and the last snapshot', async () => {
    const target = await ledger()
    for (const [times, from] of [
      [3, 0],
      [4, 10],
      [5, 20],
    ] as const) {
      await work(times, from)
      await keepSnapshot(target, 'main', await takeSnapshot(db, PLAN))
    }
    const baseline = await readBaseline(target, 'main')
    expect(baseline.snapshots).toBe(3)
    expect(known(baseline.statements)[READ]?.calls).toBe(9)
    expect(baseline.clients).toContainEqual({ role: 'app', application: 'shop' })
    expect(baseline.database?.commits).toBeGreaterThanOrEqual(0)
  })

  it('needs two snapshots', async () => {
    const target = await ledger()
    expect((await readBaseline(target, 'main')).statements).toEqual({ missing: 'no-snapshot' })
    await keepSnapshot(target, 'main', await takeSnapshot(db, PLAN))
    expect((await readBaseline(target, 'main')).statements).toEqual({ missing: 'one-snapshot' })
  })

  it('starts counting again after a statistics reset', async () => {
    const target = await ledger()
    await work(5)
    await keepSnapshot(target, 'main', await takeSnapshot(db, PLAN))
    await (await client()).query('SELECT pg_stat_statements_reset()')
    await work(2, 10)
    await keepSnapshot(target, 'main', await takeSnapshot(db, PLAN))
    expect(known((await readBaseline(target, 'main')).statements)[READ]?.calls).toBe(2)
  })
})
