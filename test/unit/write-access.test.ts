import pg from 'pg'
import { expect, it } from 'vitest'
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
 * A target with these rights, whose session can grant `options` (`table privilege`). Like CockroachDB, it refuses any
 * other GRANT with 01007.
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
            : roles.map((name) => ({ name, me: name === 'mig' })),
    }))
    return results.length > 1 ? results : results[0]
  }
  return { asked, db: { query } as unknown as Database }
}
const refusal = (code: string) => Object.assign(new pg.DatabaseError('refused', 1, 'error'), { code })

it('revokes and grants fifteen rights on five tables in one statement each', async () => {
  const { asked, db } = target(
    [],
    FIFTEEN.map(({ table }) => `${table} ANY`),
  )
  await closeWriteAccess(db, 's', FIFTEEN)
  expect(asked).toEqual([`REVOKE DELETE, INSERT, UPDATE ON TABLE ${TABLES} FROM "app"`])
  expect(await openWriteAccess(db, 's', FIFTEEN)).toEqual([])
  expect(asked.filter((sql) => sql.startsWith('GRANT'))).toEqual([
    `GRANT DELETE, INSERT, UPDATE ON TABLE ${TABLES} TO "app"`,
  ])
})

it('also revokes DROP, which allows TRUNCATE on CockroachDB, and all write rights that ALL contains', async () => {
  const { asked, db } = target([])
  await closeWriteAccess(db, 's', [grant('app', 'ALL'), grant('etl', 'DROP')])
  expect(asked).toEqual([
    'REVOKE DELETE, DROP, INSERT, UPDATE ON TABLE "s"."orders" FROM "app"',
    'REVOKE DROP ON TABLE "s"."orders" FROM "etl"',
  ])
})

it('restores each right exactly: its grant option, ALL, and PUBLIC', () => {
  expect(
    grantStatements('s', [grant('app', 'ALL'), grant('app', 'INSERT', 'orders', true), grant('PUBLIC', 'DELETE')]),
  ).toEqual([
    'GRANT ALL ON TABLE "s"."orders" TO "app"',
    'GRANT INSERT ON TABLE "s"."orders" TO "app" WITH GRANT OPTION',
    'GRANT DELETE ON TABLE "s"."orders" TO PUBLIC',
  ])
})

it('reports what it could not restore: ALL with the grant option on three rights, and a missing role', async () => {
  const three = ['orders INSERT', 'orders UPDATE', 'orders DELETE']
  const all = target([grant('app', 'ALL')], three)
  expect((await readAccess(all.db, 's', ['orders'])).ungrantable).toEqual([grant('app', 'ALL')])
  const taken = [grant('app', 'INSERT'), grant('gone', 'INSERT')]
  const { ungrantable } = await readAccess(target([], three).db, 's', ['orders'], taken)
  expect(ungrantable).toEqual([grant('gone', 'INSERT')])
  expect((await readAccess(target([grant('app', 'ALL')], ['orders ALL']).db, 's', ['orders'])).ungrantable).toEqual([])
})

it('restores what it can if one right is refused, and names the others', async () => {
  const { db } = target([], ['orders INSERT', 'items INSERT'])
  const grants = [
    grant('app', 'INSERT'),
    grant('app', 'INSERT', 'items'),
    grant('gone', 'INSERT'),
    grant('app', 'INSERT', 'notes'),
  ]
  expect(await openWriteAccess(db, 's', grants)).toEqual([grant('gone', 'INSERT'), grant('app', 'INSERT', 'notes')])
})

it.each([
  ['that was never closed', [], {}],
  ['that another user has granted', [grant('app', 'INSERT')], { writeAccess: [] }],
  ['that could not be restored', [], { writeAccess: [grant('app', 'ALL')] }],
])('refuses write access %s', async (_, has, facts) => {
  await expect(requireClosed(target(has).db, { targetSchema: 's', tables: ['orders'] }, facts)).rejects.toMatchObject({
    kind: 'verdict',
  })
})

it('accepts write access that was waived, or was revoked and can be restored', async () => {
  const plan = { targetSchema: 's', tables: ['orders'] }
  await requireClosed(target([grant('app', 'INSERT')]).db, plan, { writeAccessWaived: true })
  await requireClosed(target([], ['orders ANY']).db, plan, { writeAccess: [grant('app', 'ALL')] })
})
