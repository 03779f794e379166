// Checks every function that reads the target's catalogs, on test tables created here.
import { readTargetFacts } from '../../src/checks/facts/target.ts'
import {
  readClock,
  readConnectionLimit,
  readFailedJobs,
  readLockHolders,
  readSight,
  readTargetSessions,
  readTargetStatements,
  readTargetTransactions,
} from '../../src/destination/activity.ts'
import type { Schema } from '../../src/model/schema.ts'
import { ident, literal } from '../../src/runtime/database.ts'
import { readSchema } from '../../src/sql/schema.ts'
import { readSequences } from '../../src/sql/sequences.ts'
import { readFilteredTables, readTables } from '../../src/sql/tables.ts'
import { withTriggers } from '../../src/sql/triggers.ts'
import type { Bench } from './bench.ts'
import { codeOf, type Item, type Seen } from './item.ts'

export const PARENTS = 'parents'
export const CHILDREN = 'children'

/** Creates the tables that most items use. */
export async function createTables(bench: Bench): Promise<void> {
  const { db, at } = { db: bench.db, at: (name: string) => bench.at(name) }
  await db.query(`CREATE TYPE ${at('mood')} AS ENUM ('good', 'bad')`)
  await db.query(`CREATE SEQUENCE ${at('numbers')} INCREMENT BY 5 START WITH 5`)
  await db.query(`CREATE TABLE ${at(PARENTS)} (id INT8 PRIMARY KEY, code STRING NOT NULL, mood ${at('mood')},
    amount DECIMAL(10,2), seen TIMESTAMPTZ, tags STRING[], CONSTRAINT positive CHECK (amount >= 0))`)
  await db.query(`CREATE TABLE ${at(CHILDREN)} (id INT8 PRIMARY KEY, parent_id INT8, note VARCHAR(40), size INT8,
    CONSTRAINT of_parent FOREIGN KEY (parent_id) REFERENCES ${at(PARENTS)} (id) ON DELETE CASCADE)`)
  await db.query(`CREATE UNIQUE INDEX one_code ON ${at(PARENTS)} (code)`)
  await db.query(`CREATE INDEX by_parent ON ${at(CHILDREN)} (parent_id DESC)`)
  // An index name is unique only within its table.
  await db.query(`CREATE INDEX by_parent ON ${at(PARENTS)} (amount)`)
  await db.query(`CREATE INDEX by_seen ON ${at(PARENTS)} (seen) USING HASH WITH (bucket_count = 8)`)
}

const columnsOf = (schema: Schema, table: string) =>
  schema.tables.find(({ name }) => name === table)?.columns.map(({ name, type, notNull }) => [name, type, notNull])

export const CATALOG_ITEMS: Item[] = [
  {
    id: 'catalogs.tables',
    says: 'Columns, types, keys and enum labels are read as they were defined.',
    source: 'docs: pg-catalog.md, data-types.md',
    async look({ db, name }) {
      const schema = await readSchema(db, 'target', name)
      const tables = await readTables(db, name)
      return [
        {
          what: `columns of ${PARENTS}`,
          expected: [
            ['id', 'bigint', true],
            ['code', 'text', true],
            ['mood', expect(schema, PARENTS, 'mood'), false],
            ['amount', 'numeric(10,2)', false],
            ['seen', 'timestamp with time zone', false],
            ['tags', 'text[]', false],
          ],
          seen: columnsOf(schema, PARENTS),
        },
        {
          what: `columns of ${CHILDREN}`,
          expected: [
            ['id', 'bigint', true],
            ['parent_id', 'bigint', false],
            ['note', 'character varying(40)', false],
            ['size', 'bigint', false],
          ],
          seen: columnsOf(schema, CHILDREN),
        },
        {
          what: 'primary keys',
          expected: { [CHILDREN]: ['id'], [PARENTS]: ['id'] },
          seen: Object.fromEntries(tables.map((table) => [table.name, table.key])),
        },
        {
          what: 'labels of the enum',
          expected: ['good', 'bad'],
          seen: tables.find((table) => table.name === PARENTS)?.columns.find((each) => each.name === 'mood')?.labels,
        },
      ]
    },
  },
  {
    id: 'catalogs.constraints',
    says: 'Foreign keys, checks and indexes are read with the names of all their columns, except the hidden columns of hash-sharded indexes.',
    source: 'docs: foreign-key.md, check.md, create-index.md, hash-sharded-indexes.md',
    async look({ db, name }) {
      const { constraints, indexes } = await readSchema(db, 'target', name)
      const key = constraints.find((each) => each.name === 'of_parent')
      const check = constraints.find((each) => each.name === 'positive')
      return [
        {
          what: 'foreign key: columns, parent, ON DELETE, validated',
          expected: [['parent_id'], PARENTS, ['id'], 'c', true],
          seen: [
            key?.columns,
            key?.references?.table,
            key?.references?.columns,
            key?.references?.onDelete,
            key?.validated,
          ],
        },
        { what: 'condition of the check', expected: /amount >= 0:::DECIMAL/, seen: check?.condition },
        {
          what: 'secondary indexes: name, columns, unique, valid, defined',
          expected: [
            ['by_parent', ['amount'], false, true, true],
            ['by_parent', ['parent_id'], false, true, true],
            ['by_seen', ['seen'], false, true, true],
            ['one_code', ['code'], true, true, true],
          ],
          seen: indexes
            .filter(({ primary }) => !primary)
            .map(({ name, columns, unique, valid, definition }) => [name, columns, unique, valid, definition !== ''])
            .sort(),
        },
      ]
    },
  },
  {
    id: 'catalogs.nulls',
    says: 'pg_class.relispartition and relacl are NULL for every relation, and pg_stat_activity is empty.',
    source: 'docs: pg-catalog.md; pkg/sql/pg_catalog.go',
    async look({ db }) {
      const count = async (sql: string) => Number((await db.query(`SELECT count(*) AS n FROM ${sql}`)).rows[0].n)
      return [
        {
          what: 'relations whose relispartition is set',
          expected: 0,
          seen: await count('pg_catalog.pg_class WHERE relispartition IS NOT NULL'),
        },
        {
          what: 'relations whose relacl is set',
          expected: 0,
          seen: await count('pg_catalog.pg_class WHERE relacl IS NOT NULL'),
        },
        { what: 'rows of pg_stat_activity', expected: 0, seen: await count('pg_catalog.pg_stat_activity') },
      ]
    },
  },
  {
    id: 'catalogs.conkey',
    says: "Before 26.3, conkey holds column ids after a rewriting ALTER COLUMN TYPE. The actions still find the column's name.",
    source: 'cockroachdb/cockroach#174715',
    async look(bench) {
      const { db } = bench
      const table = bench.at('retyped')
      await db.query(`CREATE TABLE ${table} (id INT8 PRIMARY KEY, size INT8) WITH (schema_locked = false)`)
      await db.query(`ALTER TABLE ${table} ALTER COLUMN size TYPE STRING USING size::STRING`)
      await db.query(`ALTER TABLE ${table} ADD CONSTRAINT known CHECK (size <> 'unknown')`)
      const { rows } = await db.query(
        `SELECT k.conkey[1] = a.attnum AS same FROM pg_catalog.pg_constraint k
           JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attname = 'size'
          WHERE k.conname = 'known' AND k.conrelid = ${literal(table)}::REGCLASS`,
      )
      const schema = await readSchema(db, 'target', bench.name)
      return [
        { what: 'conkey equals the attribute number', expected: bench.since(26, 3), seen: rows[0]?.same },
        {
          what: 'columns of the check, as the actions read them',
          expected: ['size'],
          seen: schema.constraints.find((each) => each.name === 'known')?.columns,
        },
      ]
    },
  },
  {
    id: 'catalogs.triggers',
    says: 'pg_trigger is empty from 24.3 to 25.2 although triggers exist; SHOW TRIGGERS lists them.',
    source: 'cockroachdb/cockroach#147248; docs: show-triggers.md',
    async look(bench) {
      const { db, name } = bench
      await db.query(
        `CREATE FUNCTION ${bench.at('keep')}() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$`,
      )
      await db.query(
        `CREATE TRIGGER kept BEFORE INSERT ON ${bench.at(CHILDREN)} FOR EACH ROW EXECUTE FUNCTION ${bench.at('keep')}()`,
      )
      const { rows } = await db.query(
        `SELECT tgname FROM pg_catalog.pg_trigger WHERE tgrelid = ${literal(bench.at(CHILDREN))}::REGCLASS AND tgname = 'kept'`,
      )
      const { actions = [] } = await withTriggers(db, await readSchema(db, 'target', name), [CHILDREN])
      const found = actions.filter(({ kind }) => kind === 'trigger').map(({ table, name }) => ({ table, name }))
      await db.query(`DROP TRIGGER kept ON ${bench.at(CHILDREN)}`)
      return [
        { what: 'rows of pg_trigger', expected: bench.since(25, 3) ? 1 : 0, seen: rows.length },
        { what: 'triggers, as the actions read them', expected: [{ table: CHILDREN, name: 'kept' }], seen: found },
      ]
    },
  },
  {
    id: 'catalogs.bypassrls',
    says: 'pg_roles.rolbypassrls is always false before 25.3.',
    source: 'cockroachdb/cockroach#146228',
    async look(bench) {
      if (!bench.since(25, 2)) return []
      const { name } = await bench.role('bypass', 'BYPASSRLS')
      const { rows } = await bench.db.query('SELECT rolbypassrls AS yes FROM pg_catalog.pg_roles WHERE rolname = $1', [
        name,
      ])
      const shown = await bench.db.query('SELECT options::STRING AS options FROM [SHOW ROLES] WHERE username = $1', [
        name,
      ])
      return [
        { what: 'rolbypassrls of a role with BYPASSRLS', expected: bench.since(25, 3), seen: rows[0]?.yes },
        { what: 'options of this role in SHOW ROLES', expected: /BYPASSRLS/, seen: shown.rows[0]?.options },
        {
          what: 'tables whose rows row-level security hides',
          expected: [],
          seen: await readFilteredTables(bench.db, bench.name, [PARENTS, CHILDREN]),
        },
      ]
    },
  },
  {
    id: 'catalogs.preflight',
    says: '`prepare` can read everything it needs from the target.',
    source: 'docs: show-jobs.md, show-zone-configurations.md, information-schema.md',
    async look({ db, name }) {
      const facts = await readTargetFacts(db, {
        migration: 'conformance',
        schema: name,
        tables: Promise.resolve([PARENTS, CHILDREN]),
      })
      const { rows } = await db.query('SELECT current_user AS me')
      const scans = await db.query('SHOW disallow_full_table_scans')
      return [
        { what: 'the server', expected: true, seen: facts.server.isCockroach },
        { what: 'the role', expected: rows[0].me, seen: facts.role.name },
        { what: 'tables with rows', expected: [], seen: facts.filled },
        { what: 'jobs', expected: 'read', seen: facts.jobs === null ? 'unreadable' : 'read' },
        { what: 'gc.ttlseconds', expected: 'number', seen: typeof facts.gcTtlSeconds },
        { what: 'default_int_size', expected: /^[48]$/, seen: facts.intSize },
        { what: 'disallow_full_table_scans', expected: 'off', seen: scans.rows[0]?.disallow_full_table_scans },
      ]
    },
  },
  {
    id: 'catalogs.activity',
    says: 'Statement and transaction statistics, sessions and jobs can be read with VIEWACTIVITY and VIEWJOB.',
    source: 'docs: crdb-internal.md, show-sessions.md, show-jobs.md',
    async look({ db }) {
      const since = await readClock(db)
      const read = async (work: Promise<unknown>) => codeOf(work).then((code) => (code === 'none' ? 'read' : code))
      const what: [string, Promise<unknown>][] = [
        ['privileges', readSight(db)],
        ['statements', readTargetStatements(db, since, [])],
        ['transactions', readTargetTransactions(db, since, [])],
        ['sessions', readTargetSessions(db, [])],
        ['connection limit', readConnectionLimit(db)],
        ['locks', readLockHolders(db, [])],
        ['failed jobs', readFailedJobs(db, since)],
      ]
      const seen: Seen[] = []
      for (const [name, work] of what) seen.push({ what: name, expected: 'read', seen: await read(work) })
      return seen
    },
  },
  {
    id: 'catalogs.internals',
    says: 'From 26.1, system tables are refused with 42501. The statistics stay readable.',
    source: 'docs: v26.1 release notes, crdb-internal.md',
    async look(bench) {
      const refused = async () => ({
        what: 'SELECT from system.jobs',
        expected: '42501',
        seen: await codeOf(bench.db.query('SELECT 1 FROM system.jobs LIMIT 1')),
      })
      return [
        ...(bench.since(26, 1) ? [await refused()] : []),
        {
          what: 'SELECT from crdb_internal.statement_statistics',
          expected: 'none',
          seen: await codeOf(bench.db.query('SELECT 1 FROM crdb_internal.statement_statistics LIMIT 1')),
        },
      ]
    },
  },
  {
    id: 'catalogs.sequences',
    says: 'A sequence is read with its increment, and has no last value until it has produced one.',
    source: 'docs: create-sequence.md',
    async look({ db, name }) {
      const [numbers] = (await readSequences(db, name)).filter((each) => each.name === 'numbers')
      return [
        {
          what: 'increment, last value, cache',
          expected: ['5', null, '1'],
          seen: [String(numbers?.increment), numbers?.lastValue ?? null, String(numbers?.cache)],
        },
      ]
    },
  },
]

/** The name of an enum type on this server, qualified if its schema is not in the search path. */
function expect(schema: Schema, table: string, column: string): unknown {
  const seen = schema.tables.find(({ name }) => name === table)?.columns.find(({ name }) => name === column)?.type
  return /^("?[\w]+"?\.)?"?mood"?$/.test(seen ?? '') ? seen : 'mood'
}

/** Statements that CockroachDB rejects, each with its SQLSTATE. */
export const REFUSALS: Item = {
  id: 'refusals',
  says: 'Features that only PostgreSQL has are refused with the documented SQLSTATE.',
  source: 'docs: postgresql-compatibility.md, session-variables.md; cockroachdb/cockroach#31632',
  async look({ db, name }) {
    const table = `${ident(name)}.${ident(PARENTS)}`
    const refused: [string, string][] = [
      [`LOCK TABLE ${table}`, '42601'],
      ['LISTEN news', '42601'],
      ['VACUUM', '42601'],
      ['SET CONSTRAINTS ALL DEFERRED', '0A000'],
      [`SELECT ctid FROM ${table}`, '42703'],
      [`SELECT xmin FROM ${table}`, '42703'],
      ['SET synchronous_commit = on', '42704'],
      ['SET session_replication_role = replica', '22023'],
      [`SELECT pg_create_logical_replication_slot('a', 'pgoutput')`, '42883'],
      ['SELECT pg_current_wal_lsn()', '42883'],
      [`GRANT TRUNCATE ON TABLE ${table} TO root`, '42601'],
    ]
    const seen: Seen[] = []
    for (const [sql, expected] of refused) seen.push({ what: sql, expected, seen: await codeOf(db.query(sql)) })
    await db.query('SET statement_timeout = 60000')
    const { rows } = await db.query('SHOW statement_timeout')
    seen.push({ what: 'SHOW statement_timeout after 60 s', expected: '60000', seen: rows[0]?.statement_timeout })
    return seen
  },
}
