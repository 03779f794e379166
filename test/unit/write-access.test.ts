import pg from 'pg'
import { expect, it } from 'vitest'
import { ownershipStatements, unrevocableOf, unrevocableText } from '../../src/destination/unrevocable.ts'
import {
  closeWriteAccess,
  grantStatements,
  openWriteAccess,
  readAccess,
  requireClosed,
  type WriteGrant,
} from '../../src/destination/write-access.ts'
import type { Database } from '../../src/runtime/database.ts'

const grant = (role: string, privilege: string, table = 'orders', grantable = false): WriteGrant => ({
  ...{ role, privilege, table, grantable },
})
const FIFTEEN = ['orders', 'customers', 'items', 'notes', 'prices'].flatMap((table) =>
  ['INSERT', 'UPDATE', 'DELETE'].map((privilege) => grant('app', privilege, table)),
)
const TABLES = '"s"."customers", "s"."items", "s"."notes", "s"."orders", "s"."prices"'

/**
 * Returns a target with these privileges. Its session can grant `options` (each a table and a privilege). Like CockroachDB,
 * the target rejects any other GRANT with 01007.
 */
function target(has: WriteGrant[], options: string[] = [], roles = ['app', 'mig']) {
  const asked: string[] = []
  const query = async (sql: string) => {
    asked.push(sql)
    const given = /^GRANT (.*) ON TABLE (.*) TO (.*?)( WITH GRANT OPTION)?$/.exec(sql)
    if (given) {
      const [, privileges = '', tables = '', to = ''] = given
      for (const privilege of privileges.split(', '))
        for (const table of tables.match(/(?<=\.")[^"]+/g) ?? [])
          for (const role of to.replaceAll('"', '').split(', ')) {
            if (!roles.includes(role)) throw refusal('42704')
            if (!options.some((each) => each === `${table} ANY` || each === `${table} ${privilege}`))
              throw refusal('01007')
            has.push(grant(role, privilege, table))
          }
      return { rows: [] }
    }
    const results = sql.split(';\n').map((each) => ({
      rows: each.includes('pg_tables')
        ? has.map((each) => ({ ...each }))
        : each.includes("'ANY'")
          ? options.map((option) => ({ table: option.split(' ')[0], privilege: option.split(' ')[1] }))
          : each.includes('information_schema.tables')
            ? FIFTEEN.map(({ table }) => ({ table }))
            : each.includes('AS owner') || each.includes('rolcanlogin')
              ? []
              : roles.map((name) => ({ name, me: name === 'mig' })),
    }))
    return results.length > 1 ? results : results[0]
  }
  return { asked, db: { query, connectionParameters: {} } as unknown as Database }
}
const refusal = (code: string) => Object.assign(new pg.DatabaseError('refused', 1, 'error'), { code })

it('revokes and grants fifteen privileges on five tables with one statement each', async () => {
  const { asked, db } = target(
    [],
    FIFTEEN.map(({ table }) => `${table} ANY`),
  )
  await closeWriteAccess(db, 's', FIFTEEN)
  expect(asked).toEqual([`REVOKE DELETE, INSERT, UPDATE ON TABLE ${TABLES} FROM "app"`])
  expect(await openWriteAccess(db, 's', FIFTEEN)).toEqual({ missing: [], gone: [], causes: [] })
  expect(asked.filter((sql) => sql.startsWith('GRANT'))).toEqual([
    `GRANT DELETE, INSERT, UPDATE ON TABLE ${TABLES} TO "app"`,
  ])
})

it('also revokes DROP, which allows TRUNCATE on CockroachDB, and all write privileges that ALL includes', async () => {
  const { asked, db } = target([])
  await closeWriteAccess(db, 's', [grant('app', 'ALL'), grant('etl', 'DROP')])
  expect(asked).toEqual([
    'REVOKE DELETE, DROP, INSERT, UPDATE ON TABLE "s"."orders" FROM "app"',
    'REVOKE DROP ON TABLE "s"."orders" FROM "etl"',
  ])
})

it('restores each privilege exactly, including its grant option, ALL, and PUBLIC', () => {
  expect(
    grantStatements('s', [grant('app', 'ALL'), grant('app', 'INSERT', 'orders', true), grant('PUBLIC', 'DELETE')]),
  ).toEqual([
    'GRANT ALL ON TABLE "s"."orders" TO "app"',
    'GRANT INSERT ON TABLE "s"."orders" TO "app" WITH GRANT OPTION',
    'GRANT DELETE ON TABLE "s"."orders" TO PUBLIC',
  ])
})

it('reports what it could not restore: ALL if only three privileges have the grant option, and grants to a missing role', async () => {
  const three = ['orders INSERT', 'orders UPDATE', 'orders DELETE']
  const all = target([grant('app', 'ALL')], three)
  expect((await readAccess(all.db, 's', ['orders'])).ungrantable).toEqual([grant('app', 'ALL')])
  const taken = [grant('app', 'INSERT'), grant('gone', 'INSERT')]
  const { ungrantable, gone } = await readAccess(target([], three).db, 's', ['orders'], taken)
  expect({ ungrantable, gone }).toEqual({ ungrantable: [], gone: [grant('gone', 'INSERT')] })
  expect((await readAccess(target([grant('app', 'ALL')], ['orders ALL']).db, 's', ['orders'])).ungrantable).toEqual([])
})

it('restores what it can if a GRANT fails, and lists the rest', async () => {
  const { db } = target([], ['orders INSERT', 'items INSERT'])
  const grants = [
    grant('app', 'INSERT'),
    grant('app', 'INSERT', 'items'),
    grant('gone', 'INSERT'),
    grant('app', 'INSERT', 'notes'),
  ]
  const { missing, gone } = await openWriteAccess(db, 's', grants)
  expect(missing).toEqual([grant('gone', 'INSERT'), grant('app', 'INSERT', 'notes')])
  expect(gone).toEqual([grant('gone', 'INSERT')])
})

it('finds each login once, as a member of an owner or of admin, even if the server lists it several times', () => {
  const owners = [
    { table: 'orders', owner: 'team' },
    { table: 'notes', owner: 'mig' },
  ]
  const holder = (role: string, through: string, parent: string | null, more = {}) => ({
    ...{ role, through, parent, administrator: false, mine: false, ...more },
  })
  const found = unrevocableOf(owners, [
    holder('app', 'team', 'squad'),
    // Rows of newer CockroachDB versions for a member of admin who also belongs to an owner.
    holder('ops', 'ops', null, { administrator: true }),
    holder('ops', 'admin', 'dbas', { administrator: true }),
    holder('ops', 'team', 'team'),
    holder('batch', 'mig', 'mig', { mine: true }),
    holder('idle', 'nobody', 'nobody'),
  ])
  expect(found.map(({ role, through, tables }) => [role, through, tables])).toEqual([
    ['app', 'team', ['orders']],
    ['ops', 'admin', ['orders', 'notes']],
    ['batch', 'mig', ['orders', 'notes']],
  ])
  const owned = found.filter(({ administrator }) => !administrator)
  expect(ownershipStatements('s', owned, 'mig')).toEqual([
    'REVOKE "mig" FROM "batch"',
    'ALTER TABLE "s"."orders" OWNER TO "mig"',
    'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE "s"."orders" TO "team"',
  ])
  expect(unrevocableText(found, 'mig')).toBe(
    'app is a member of team, which owns orders; ops is a member of admin; batch is a member of mig, the migration user',
  )
})

it.each([
  ['that was never closed', 'write-access.not-closed', [], {}],
  ['that another user has granted', 'write-access.granted-early', [grant('app', 'INSERT')], { writeAccess: [] }],
  ['that could not be restored', 'write-access.not-grantable', [], { writeAccess: [grant('app', 'ALL')] }],
  ['of a role that was dropped', 'write-access.role-gone', [], { writeAccess: [grant('gone', 'ALL')] }],
])('rejects write access %s', async (_, code, has, facts) => {
  const closed = requireClosed(target(has).db, { targetSchema: 's', tables: ['orders'] }, facts)
  await expect(closed).rejects.toMatchObject({ kind: 'verdict', code })
})

it('accepts write access that is waived, or that was revoked and can be restored', async () => {
  const plan = { targetSchema: 's', tables: ['orders'] }
  await requireClosed(target([grant('app', 'INSERT')]).db, plan, { writeAccessWaived: true })
  await requireClosed(target([], ['orders ANY']).db, plan, { writeAccess: [grant('app', 'ALL')] })
})
