// Checks what the actions change on the target: privileges, deferred objects, sequences and jobs.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  type DeferredKind,
  deferObjects,
  deferralProblems,
  forgetDeferred,
  rebuildDeferred,
  validateDeferred,
} from '../../src/destination/deferral.ts'
import { cancelImports, readImportJobs } from '../../src/destination/jobs.ts'
import { lockTables, unlockTables } from '../../src/destination/schema-lock.ts'
import { closeWriteAccess, openWriteAccess, readAccess, readWriteGrants } from '../../src/destination/write-access.ts'
import { fingerprint } from '../../src/model/fingerprint.ts'
import { ident } from '../../src/runtime/database.ts'
import { readSchema } from '../../src/sql/schema.ts'
import { setSequences } from '../../src/sql/sequences.ts'
import { type Bench, IMPORTED } from './bench.ts'
import { CHILDREN, PARENTS } from './catalogs.ts'
import { CannotRun, codeOf, type Item, type Seen } from './item.ts'

export const CHANGE_ITEMS: Item[] = [
  {
    id: 'rights.grant-option',
    says: 'GRANT and REVOKE without the grant option are errors with SQLSTATE 01007 and 01006.',
    source: 'docs: grant.md, revoke.md; pkg/sql/grant_revoke.go',
    async look(bench) {
      const mover = await bench.role('mover')
      const app = await bench.role('other')
      const tables = `TABLE ${bench.at(PARENTS)}`
      await bench.db.query(`GRANT SELECT ON ${tables} TO ${ident(mover.name)} WITH GRANT OPTION`)
      await bench.db.query(`GRANT INSERT ON ${tables} TO ${ident(mover.name)}`)
      const db = await bench.connect(mover.url)
      const as = (sql: string) => codeOf(db.query(sql))
      return [
        {
          what: 'GRANT of a privilege held with grant option',
          expected: 'none',
          seen: await as(`GRANT SELECT ON ${tables} TO ${ident(app.name)}`),
        },
        {
          what: 'GRANT of a privilege held without it',
          expected: '01007',
          seen: await as(`GRANT INSERT ON ${tables} TO ${ident(app.name)}`),
        },
        {
          what: 'REVOKE of a privilege held without it',
          expected: '01006',
          seen: await as(`REVOKE DELETE ON ${tables} FROM ${ident(app.name)}`),
        },
      ]
    },
  },
  {
    id: 'rights.write-access',
    says: 'Write access, including TRUNCATE, is revoked and restored exactly.',
    source: 'docs: truncate.md, grant.md, security-reference/authorization.md',
    look: lookAtWriteAccess,
  },
  {
    id: 'rights.owners',
    says: "A table's owner and its members are found, because they can write despite every REVOKE.",
    source: 'docs: security-reference/authorization.md, alter-table.md (OWNER TO), pg-catalog.md (pg_auth_members)',
    async look(bench) {
      const { db, name } = bench
      const owner = await bench.role('table_owner')
      const member = await bench.role('member')
      const owned = bench.at('owned')
      const [{ me } = { me: '' }] = (await db.query('SELECT current_user AS me')).rows
      await db.query(`CREATE TABLE ${owned} (id INT8 PRIMARY KEY)`)
      await db.query(`GRANT CREATE ON SCHEMA ${ident(name)} TO ${ident(owner.name)}`)
      // Only a member of the new owner may change the owner.
      await db.query(`GRANT ${ident(owner.name)} TO ${ident(member.name)}, ${ident(me)}`)
      await db.query(`ALTER TABLE ${owned} OWNER TO ${ident(owner.name)}`)
      const { unrevocable } = await readAccess(db, name, ['owned'])
      const asMember = await bench.connect(member.url)
      const written = await codeOf(asMember.query(`INSERT INTO ${owned} (id) VALUES (1)`))
      await db.query(`ALTER TABLE ${owned} OWNER TO ${ident(me)}`)
      await db.query(`DROP TABLE ${owned}`)
      await db.query(`REVOKE CREATE ON SCHEMA ${ident(name)} FROM ${ident(owner.name)}`)
      return [
        {
          what: 'logins that can write despite every REVOKE',
          expected: [owner, member].map((each) => `${each.name} through ${owner.name}`).sort(),
          seen: unrevocable
            .filter(({ administrator }) => !administrator)
            .map(({ role, through }) => `${role} through ${through}`)
            .sort(),
        },
        { what: 'INSERT by the member', expected: 'none', seen: written },
      ]
    },
  },
  {
    id: 'deferral',
    says: 'Indexes, checks and foreign keys are dropped, rebuilt unchanged and validated. This includes hash-sharded and unique indexes, and two with the same name.',
    source: 'docs: create-index.md, hash-sharded-indexes.md, drop-index.md, add-constraint.md, validate-constraint.md',
    look: lookAtDeferral,
  },
  {
    id: 'deferral.row-values',
    says: 'A unique index on duplicate values is refused with 23505. The actions report the error without the values.',
    source: 'docs: unique.md, common-errors.md',
    async look(bench) {
      const { db } = bench
      await forgetDeferred(db, bench.name)
      await db.query(`INSERT INTO ${bench.at(PARENTS)} (id, code) VALUES (901, 'conformance-secret'), (902, 'another')`)
      await deferObjects(db, bench.name, planOf(bench), { indexes: true, constraints: false }, true)
      await db.query(`UPDATE ${bench.at(PARENTS)} SET code = 'conformance-secret' WHERE id = 902`)
      const error = await rebuildDeferred(db, bench.name, ['unique']).then(
        () => ({ code: 'none', message: '' }),
        (thrown: { code: string; message: string }) => thrown,
      )
      await db.query(`DELETE FROM ${bench.at(PARENTS)} WHERE id IN (901, 902)`)
      await rebuildDeferred(db, bench.name, ['unique', 'index', 'foreign-key'])
      return [
        { what: "the actions' error code", expected: 'deferral.rows-break-definition', seen: error.code },
        { what: 'row values in the message', expected: false, seen: error.message.includes('conformance-secret') },
      ]
    },
  },
  {
    id: 'deferral.schema-lock',
    says: 'A locked table refuses a new constraint until it is unlocked. It can then be locked again.',
    source: 'docs: v26.2 alter-table.md, online-schema-changes.md',
    async look(bench) {
      const { db, name } = bench
      const locked = bench.at('locked')
      await db.query(`CREATE TABLE ${locked} (id INT8 PRIMARY KEY) WITH (schema_locked = true)`)
      const add = () => codeOf(db.query(`ALTER TABLE ${locked} ADD CONSTRAINT positive CHECK (id > 0) NOT VALID`))
      const whileLocked = await add()
      await unlockTables(db, name, [{ schema: name, table: 'locked' }])
      const unlocked = await add()
      await lockTables(db, name)
      const again = await codeOf(db.query(`ALTER TABLE ${locked} DROP CONSTRAINT positive`))
      await db.query(`DROP TABLE ${locked}`)
      return [
        { what: 'ADD CONSTRAINT while the table is locked', expected: '57000', seen: whileLocked },
        { what: 'ADD CONSTRAINT while the table is unlocked', expected: 'none', seen: unlocked },
        { what: 'DROP CONSTRAINT when it is locked again', expected: '57000', seen: again },
      ]
    },
  },
  {
    id: 'sequences',
    says: 'A sequence that is set beyond the used values returns that value, with or without CACHE.',
    source: 'docs: create-sequence.md, functions-and-operators.md (setval)',
    look: lookAtSequences,
  },
  {
    id: 'jobs.descriptions',
    says: 'SHOW JOBS cuts descriptions to 100 characters; SHOW JOB does not.',
    source: 'docs: show-jobs.md; pkg/sql/delegate/show_jobs.go',
    async look(bench) {
      const long = `long_${'x'.repeat(50)}`
      const { db } = bench
      await db.query(`CREATE INDEX ${long} ON ${bench.at(PARENTS)} (seen) WHERE code <> '${'z'.repeat(80)}'`)
      const { rows } = await db.query(
        `SELECT job_id::STRING AS id, length(description) AS length FROM [SHOW JOBS]
          WHERE description LIKE 'CREATE INDEX %' || $1 || '%' ORDER BY created DESC LIMIT 1`,
        [long.slice(0, 40)],
      )
      const whole = rows[0] ? await db.query(`SELECT description FROM [SHOW JOB ${BigInt(rows[0].id)}]`) : { rows: [] }
      await db.query(`DROP INDEX ${bench.at(PARENTS)}@${long}`)
      return [
        { what: 'characters in SHOW JOBS', expected: 100, seen: Number(rows[0]?.length) },
        { what: 'end of the description in SHOW JOB', expected: /z{80}/, seen: whole.rows[0]?.description },
      ]
    },
  },
  {
    id: 'jobs.import',
    says: 'An import takes its table offline (55000) and hides it from the catalogs. Cancelling the job brings it back.',
    source: 'docs: import-into.md, cancel-job.md',
    look: lookAtImport,
  },
]

async function lookAtWriteAccess(bench: Bench): Promise<Seen[]> {
  const { db, name } = bench
  const app = await bench.role('app')
  const batch = await bench.role('batch')
  const tables = [PARENTS, CHILDREN]
  await db.query(
    `GRANT SELECT, INSERT, UPDATE, DELETE, DROP ON TABLE ${bench.at(PARENTS)}, ${bench.at(CHILDREN)} TO ${ident(app.name)}`,
  )
  await db.query(`GRANT ALL ON TABLE ${bench.at(CHILDREN)} TO ${ident(batch.name)}`)
  const rights = async () =>
    (await readWriteGrants(db, name, tables))
      .filter(({ role }) => role === app.name || role === batch.name)
      .map(({ role, table, privilege }) => `${role.slice(name.length + 1)} ${privilege} ${table}`)
      .sort()
  const [asApp, asBatch] = [await bench.connect(app.url), await bench.connect(batch.url)]
  const insert = `INSERT INTO ${bench.at(CHILDREN)} (id) VALUES (1)`
  const before = await rights()
  const taken = await readWriteGrants(db, name, tables)
  await closeWriteAccess(db, name, taken)
  const closed: Seen[] = [
    { what: 'write privileges after revoking', expected: [], seen: await rights() },
    { what: 'INSERT by the application', expected: '42501', seen: await codeOf(asApp.query(insert)) },
    {
      what: 'TRUNCATE by the application',
      expected: '42501',
      seen: await codeOf(asApp.query(`TRUNCATE ${bench.at(CHILDREN)}`)),
    },
    { what: 'INSERT by a role that had ALL', expected: '42501', seen: await codeOf(asBatch.query(insert)) },
    {
      what: 'SELECT by the application',
      expected: 'none',
      seen: await codeOf(asApp.query(`SELECT 1 FROM ${bench.at(CHILDREN)}`)),
    },
  ]
  const { missing } = await openWriteAccess(db, name, taken)
  const expected = [
    ...['DELETE', 'DROP', 'INSERT', 'UPDATE'].flatMap((right) => tables.map((table) => `app ${right} ${table}`)),
    `batch ALL ${CHILDREN}`,
  ].sort()
  return [
    { what: 'write privileges before', expected, seen: before },
    ...closed,
    { what: 'privileges that could not be restored', expected: [], seen: missing },
    { what: 'write privileges after', expected, seen: await rights() },
    { what: 'INSERT by the application again', expected: 'none', seen: await codeOf(asApp.query(insert)) },
    {
      what: 'DELETE by the role whose ALL was restored',
      expected: 'none',
      seen: await codeOf(asBatch.query(`DELETE FROM ${bench.at(CHILDREN)}`)),
    },
  ]
}

const planOf = ({ name }: Bench) => ({ targetSchema: name, tables: [PARENTS, CHILDREN] })

async function lookAtDeferral(bench: Bench): Promise<Seen[]> {
  const { db, name } = bench
  const shape = async () => fingerprint(await readSchema(db, 'target', name), [PARENTS, CHILDREN])
  const names = async () => {
    const { indexes, constraints } = await readSchema(db, 'target', name)
    const kept = indexes.filter(({ primary }) => !primary).map((each) => each.name)
    return [...kept, ...constraints.filter(({ kind }) => kind === 'c' || kind === 'f').map((each) => each.name)]
      .filter((each) => OBJECTS.includes(each))
      .sort()
  }
  const before = await shape()
  await deferObjects(db, name, planOf(bench), { indexes: true, constraints: true }, true)
  const seen: Seen[] = [{ what: 'remaining objects', expected: [], seen: await names() }]
  for (const [kind, ...objects] of REBUILT)
    seen.push({
      what: `rebuilt objects of kind ${kind}`,
      expected: objects,
      seen: (await rebuildDeferred(db, name, [kind])).map((each) => each.split('.').at(-1)).sort(),
    })
  const unvalidated = await deferralProblems(db, name)
  await validateDeferred(db, name)
  return [
    ...seen,
    { what: 'restored constraints that are not valid', expected: 2, seen: unvalidated.length },
    { what: 'problems after validation', expected: [], seen: await deferralProblems(db, name) },
    { what: 'the schema is unchanged', expected: before, seen: await shape() },
  ]
}

const REBUILT: readonly (readonly [DeferredKind, ...string[]])[] = [
  ['index', 'by_parent', 'by_parent', 'by_seen'],
  ['unique', 'one_code'],
  ['check', 'positive'],
  ['foreign-key', 'of_parent'],
]
const OBJECTS = REBUILT.flatMap(([, ...objects]) => objects)

async function lookAtSequences(bench: Bench): Promise<Seen[]> {
  const { db, name } = bench
  const from = `${name}_from`
  // The "source" is another schema of the same cluster, because only the target's side matters here.
  await db.query(`CREATE SCHEMA ${ident(from)}`)
  try {
    await db.query(`CREATE SEQUENCE ${ident(from)}.numbers INCREMENT BY 5 START WITH 5`)
    await db.query(`SELECT setval('${from}.numbers', 500)`)
    const { set, problems } = await setSequences({ db, schema: from }, { db, schema: name }, [], 10n)
    const next = await db.query(`SELECT nextval('${name}.numbers')::STRING AS next`)
    await db.query(`CREATE SEQUENCE ${bench.at('cached')} CACHE 10`)
    await db.query(`SELECT setval('${name}.cached', 100)`)
    const cached = await db.query(`SELECT nextval('${name}.cached')::STRING AS next`)
    return [
      { what: 'problems', expected: [], seen: problems },
      { what: 'set to', expected: [{ name: 'numbers', sourceValue: '500', value: '550' }], seen: set },
      { what: 'next value', expected: '555', seen: next.rows[0]?.next },
      { what: 'next value with CACHE 10', expected: '101', seen: cached.rows[0]?.next },
    ]
  } finally {
    await db.query(`DROP SCHEMA ${ident(from)} CASCADE`)
  }
}

/** Watches an import that runs until it is cancelled, because the file server never responds. */
async function lookAtImport(bench: Bench): Promise<Seen[]> {
  const { db, name } = bench
  await db.query(`CREATE TABLE ${bench.at(IMPORTED)} (id INT8 PRIMARY KEY)`)
  const asked = new Promise<void>((done) => server.once('request', () => done()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  try {
    const importing = await bench.connect()
    const ended = codeOf(
      importing.query(`IMPORT INTO ${bench.at(IMPORTED)} (id) CSV DATA ('http://127.0.0.1:${port}/${name}/rows.csv')`),
    )
    const first = await Promise.race([asked.then(() => 'asked'), ended, sleep(REACH, 'no request', { ref: false })])
    if (first !== 'asked')
      throw new CannotRun(`the cluster cannot connect to this machine at 127.0.0.1:${port} (${first})`)
    const jobs = await readImportJobs(db, name, [IMPORTED])
    const whileOffline = await codeOf(db.query(`SELECT 1 FROM ${bench.at(IMPORTED)}`))
    const hidden = await db.query('SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = $2', [
      name,
      IMPORTED,
    ])
    const cancelled = await cancelImports(db, name, [IMPORTED], [name])
    return [
      { what: 'import jobs into the table', expected: [`${name}.${IMPORTED}`], seen: jobs.map(({ table }) => table) },
      { what: 'SELECT while it runs', expected: '55000', seen: whileOffline },
      { what: 'the catalog lists the table', expected: false, seen: hidden.rowCount !== 0 },
      { what: 'cancelled', expected: jobs.map(({ id }) => id), seen: cancelled.ended.map(({ id }) => id) },
      { what: 'remaining jobs', expected: [], seen: await readImportJobs(db, name, [IMPORTED]) },
      {
        what: 'SELECT afterwards',
        expected: 'none',
        seen: await codeOf(db.query(`SELECT 1 FROM ${bench.at(IMPORTED)}`)),
      },
      { what: 'the import itself fails', expected: true, seen: (await ended) !== 'none' },
    ]
  } finally {
    server.closeAllConnections()
    server.close()
  }
}

const server = createServer(() => {})
/** Time limit for the cluster to request the file, in milliseconds. */
const REACH = 20_000
