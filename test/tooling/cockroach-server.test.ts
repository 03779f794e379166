// The CockroachDB-like server alone. Expected results come from the source that each rule cites.
import { finished } from 'node:stream/promises'
import pg from 'pg'
import { from } from 'pg-copy-streams'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { translate } from '../../rehearsal/cockroach/dialect.ts'
import { split } from '../../rehearsal/cockroach/lexer.ts'
import { type CockroachServer, startCockroach } from '../../rehearsal/cockroach/server.ts'
import type { Statement } from '../../rehearsal/cockroach/types.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { readLockHolders } from '../../src/destination/activity.ts'
import { certificateFor } from '../support/tls.ts'

let behind: EmbeddedServer
let server: CockroachServer
let db: pg.Client

beforeAll(async () => {
  behind = await startPostgres({ name: 'target' })
  server = await startCockroach(behind)
  db = await open()
  await db.query(`CREATE TABLE parents (id INT PRIMARY KEY, name STRING NOT NULL);
    CREATE TABLE children (id INT PRIMARY KEY, parent_id INT, total DECIMAL CHECK (total >= 0), email STRING UNIQUE)`)
  await db.query(`INSERT INTO parents VALUES (1, 'one'); INSERT INTO children VALUES (1, 1, 5, 'a@example.com')`)
})
afterAll(async () => {
  await db?.end()
  await server?.stop()
  await behind?.stop()
})

async function open(user?: string, url = server.urlOf('shop')): Promise<pg.Client> {
  const at = new URL(url)
  if (user) {
    at.username = user
    at.password = user
  }
  const client = new pg.Client({ connectionString: at.href })
  client.on('error', () => {})
  await client.connect()
  return client
}

async function rows(sql: string, values?: unknown[], client = db): Promise<Record<string, unknown>[]> {
  return (await client.query(sql, values)).rows
}

async function refused(sql: string, client = db): Promise<{ code: string; message: string }> {
  try {
    await client.query(sql)
  } catch (error) {
    const { code, message } = error as { code: string; message: string }
    return { code, message }
  }
  throw new Error(`not refused: ${sql}`)
}

test('creates a view over a join', async () => {
  await db.query('CREATE VIEW totals AS SELECT c.id, p.name FROM children c JOIN parents p ON p.id = c.parent_id')
  expect(await rows('SELECT * FROM totals')).toEqual([{ id: '1', name: 'one' }])
  await db.query('DROP VIEW totals')
})

test('refuses COPY FROM without the admin role, and the client gets the error', async () => {
  await db.query("CREATE USER copier WITH PASSWORD 'copier'; GRANT INSERT ON TABLE parents TO copier")
  const copier = await open('copier')
  const copied = finished(copier.query(from('COPY parents FROM STDIN')))
  await expect(copied).rejects.toMatchObject({ code: '42501' })
  await copier.end()
})

describe('the protocol', () => {
  test('names itself', async () => {
    expect((await rows('SELECT version()'))[0]?.version).toMatch(
      /^CockroachDB CCL v25\.2\.0 \(molt-actions like-server/,
    )
  })

  test('handles parameters, named statements, several statements, and errors in between', async () => {
    expect(await rows('SELECT $1::INT + 1 AS n', [41])).toEqual([{ n: '42' }])
    const named = { name: 'one', text: 'SELECT name FROM parents WHERE id = $1' }
    expect((await db.query({ ...named, values: [1] })).rows).toEqual([{ name: 'one' }])
    expect((await db.query({ ...named, values: [2] })).rows).toEqual([])
    expect((await refused('SELECT 1; SELECT broken; SELECT 2')).code).toBe('42703')
    expect(await rows('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  test('refuses and records a statement without a rule', async () => {
    expect((await refused('FROBNICATE everything')).code).toBe('0A000')
    expect(server.unknown).toContain('FROBNICATE everything')
  })

  test('matches nothing inside literals and quoted names', async () => {
    expect(await rows(`SELECT 'LOCK TABLE pg_class :: x' AS "pg_class ctid", $tag$ UPSERT $tag$ AS b`)).toEqual([
      { 'pg_class ctid': 'LOCK TABLE pg_class :: x', b: ' UPSERT ' },
    ])
  })
})

describe('catalogs', () => {
  test.each(['VIEWACTIVITY', 'VIEWACTIVITYREDACTED'])('shows the holder of a lock with only %s', async (privilege) => {
    const role = privilege.toLowerCase()
    await db.query(`CREATE ROLE ${role} LOGIN PASSWORD '${role}'`)
    const looking = await open(role)
    const url = (name: string) => `${server.urlOf('shop')}&application_name=${name}`
    const [holding, waiting] = [await open(undefined, url('nightly')), await open(undefined, url('stream'))]
    await holding.query('BEGIN')
    await holding.query('SELECT id FROM parents FOR UPDATE')
    const update = waiting.query('UPDATE parents SET name = name')
    await expect.poll(() => readLockHolders(db, ['stream'])).toEqual([expect.stringContaining('nightly')])
    expect((await refused('SELECT 1 FROM crdb_internal.cluster_locks', looking)).code).toBe('42501')
    await db.query(`GRANT SYSTEM ${privilege} TO ${role}`)
    expect(await readLockHolders(looking, ['stream'])).toEqual([expect.stringContaining('nightly')])
    expect(await readLockHolders(looking, ['nightly'])).toEqual([])
    expect(await rows('SELECT * FROM pg_locks')).toEqual([])
    await holding.query('ROLLBACK')
    await update
    expect(await readLockHolders(looking, ['stream'])).toEqual([])
    await Promise.all([holding, waiting, looking].map((client) => client.end()))
  })

  test('relispartition is NULL, so NOT relispartition drops every row', async () => {
    const sql = (condition: string) =>
      `SELECT relname FROM pg_class WHERE relkind = 'r' AND ${condition} AND relname = 'parents'`
    expect(await rows(sql('NOT relispartition'))).toEqual([])
    expect(await rows(sql('relispartition IS NOT TRUE'))).toEqual([{ relname: 'parents' }])
    expect(await rows(`SELECT c.relacl FROM pg_catalog.pg_class c WHERE c.oid = 'parents'::regclass`)).toEqual([
      { relacl: null },
    ])
  })

  test('conkey keeps the column id after ALTER COLUMN TYPE', async () => {
    await db.query('CREATE TABLE retyped (id INT PRIMARY KEY, code INT CHECK (code > 0)); ')
    await db.query('ALTER TABLE retyped ALTER COLUMN code TYPE STRING USING code::STRING').catch(() => {})
    await db.query('ALTER TABLE retyped ALTER COLUMN code TYPE DECIMAL')
    const [found] = await rows(
      `SELECT conkey FROM pg_constraint WHERE conrelid = 'retyped'::regclass AND contype = 'c'`,
    )
    expect(found?.conkey).toEqual([102])
  })

  test("a check's text has typed literals", async () => {
    const [found] = await rows(
      `SELECT pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conrelid = 'children'::regclass AND contype = 'c'`,
    )
    expect(found?.def).toMatch(/total >= 0:::DECIMAL/)
  })

  test('a check rebuilt from its definition has the same text', async () => {
    await db.query(
      'CREATE TABLE rated (id INT PRIMARY KEY, stars INT4, CONSTRAINT in_range CHECK (stars >= 1 AND stars <= 5))',
    )
    const definition = async () =>
      (await rows(`SELECT pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conname = 'in_range'`))[0]?.def
    const before = await definition()
    await db.query('ALTER TABLE rated DROP CONSTRAINT in_range')
    await db.query(`ALTER TABLE rated ADD CONSTRAINT in_range ${before}`)
    expect(await definition()).toBe(before)
  })
})

describe('refusals', () => {
  test.each([
    ['LOCK TABLE parents', '42601', 'at or near "lock": syntax error'],
    ['VACUUM', '42601', 'at or near "vacuum": syntax error'],
    ['SET CONSTRAINTS ALL DEFERRED', '0A000', /unimplemented/],
    ['SELECT ctid FROM parents', '42703', 'column "ctid" does not exist'],
    ['SET synchronous_commit = on', '42704', 'unrecognized configuration parameter "synchronous_commit"'],
    ['SET session_replication_role = replica', '22023', /invalid value for parameter/],
    [
      `SELECT pg_create_logical_replication_slot('a', 'b')`,
      '42883',
      'unknown function: pg_create_logical_replication_slot()',
    ],
    ['GRANT TRUNCATE ON parents TO root', '42601', /syntax error/],
    ['CREATE TABLE documents (id INT8 PRIMARY KEY, parts JSONB[])', '0A000', /arrays of JSON/],
    ['ALTER TABLE children DROP CONSTRAINT children_email_key', '0A000', /use DROP INDEX CASCADE instead/],
  ])('%s', async (sql, code, message) => {
    const error = await refused(sql)
    expect(error.code).toBe(code)
    expect(error.message).toEqual(typeof message === 'string' ? message : expect.stringMatching(message))
  })

  test('a timeout is shown in milliseconds without a unit', async () => {
    await db.query('SET statement_timeout = 60000')
    expect(await rows('SHOW statement_timeout')).toEqual([{ statement_timeout: '60000' }])
  })
})

describe('schema changes', () => {
  test('each one is a job and commits on its own', async () => {
    await db.query('BEGIN')
    await db.query(`INSERT INTO parents VALUES (2, 'two')`)
    await db.query('CREATE INDEX by_name ON parents (name) STORING (id)')
    await db.query('ROLLBACK')
    expect(await rows('SELECT id FROM parents ORDER BY id')).toEqual([{ id: '1' }, { id: '2' }])
    const jobs = await rows(`SELECT job_type, status FROM [SHOW JOBS] WHERE description LIKE 'CREATE INDEX by_name%'`)
    expect(jobs).toEqual([{ job_type: 'NEW SCHEMA CHANGE', status: 'succeeded' }])
  })

  test('SHOW JOBS cuts descriptions to 100 characters, and SHOW JOB does not', async () => {
    const name = `long_${'x'.repeat(50)}`
    await db.query(`CREATE INDEX ${name} ON parents (name) WHERE name <> '${'z'.repeat(80)}'`)
    const [job] = await rows(
      `SELECT job_id::STRING AS id, description FROM [SHOW JOBS] WHERE status = 'succeeded' AND description LIKE 'CREATE INDEX long%'`,
    )
    expect(job?.description).toHaveLength(100)
    expect((await rows(`SHOW JOB ${job?.id}`))[0]?.description).toMatch(/z{80}'$/)
  })

  test('validation errors contain row values', async () => {
    await db.query('INSERT INTO children VALUES (7, 42, 5, NULL)')
    const check = await refused('ALTER TABLE children ADD CONSTRAINT big CHECK (total > 100)')
    expect(check.code).toBe('23514')
    expect(check.message).toMatch(
      /^validation of CHECK ".*" failed on row: id=1, parent_id=1, total=5, email='a@example.com'$/,
    )
    await db.query('ALTER TABLE children ADD CONSTRAINT fk FOREIGN KEY (parent_id) REFERENCES parents (id) NOT VALID')
    const foreign = await refused('ALTER TABLE children VALIDATE CONSTRAINT fk')
    expect(foreign.code).toBe('23503')
    expect(foreign.message).toMatch(/row parent_id=42 has no match in "parents"/)
  })

  test('only DROP INDEX CASCADE drops a unique constraint', async () => {
    expect((await refused('DROP INDEX children@children_email_key')).code).toBe('2BP01')
    await db.query('DROP INDEX children@children_email_key CASCADE')
    expect(await rows(`SELECT 1 FROM pg_constraint WHERE conname = 'children_email_key'`)).toEqual([])
  })
})

describe('privileges', () => {
  test('a grant without the grant option is refused with error 01007', async () => {
    await db.query(`CREATE ROLE mig LOGIN PASSWORD 'mig'; CREATE ROLE app`)
    await db.query('GRANT SELECT ON TABLE parents TO mig WITH GRANT OPTION')
    await db.query('GRANT SELECT, INSERT, DROP ON TABLE parents, children TO mig')
    const mig = await open('mig')
    try {
      expect(await refused('GRANT INSERT ON TABLE parents TO app', mig)).toEqual({
        code: '01007',
        message: 'user mig missing WITH GRANT OPTION privilege on INSERT',
      })
      await mig.query('GRANT SELECT ON TABLE parents TO app')
      expect((await refused('REVOKE DELETE ON TABLE parents FROM app', mig)).code).toBe('01006')
      const listed = await rows(
        `SELECT privilege_type FROM information_schema.table_privileges WHERE grantee = 'mig' AND table_name = 'parents' ORDER BY 1`,
      )
      expect(listed.map((row) => row.privilege_type)).toEqual(['DROP', 'INSERT', 'SELECT'])
      expect((await refused('CREATE DATABASE IF NOT EXISTS shop', mig)).code).toBe('42501')
      expect((await refused('ALTER TABLE parents ADD COLUMN x INT', mig)).code).toBe('42501')
      await mig.query('TRUNCATE children')
    } finally {
      await mig.end()
    }
  })

  test('REVOKE accepts neither CASCADE nor RESTRICT', async () => {
    for (const word of ['CASCADE', 'RESTRICT'])
      expect(await refused(`REVOKE SELECT ON TABLE parents FROM app ${word}`)).toEqual({
        code: '42601',
        message: `at or near "${word.toLowerCase()}": syntax error`,
      })
  })

  test('a member of admin can do everything until its membership is revoked', async () => {
    await db.query(`CREATE ROLE operator LOGIN PASSWORD 'operator'; GRANT admin TO operator`)
    const operator = await open('operator')
    try {
      await operator.query('CREATE SCHEMA of_operator')
      await operator.query('GRANT INSERT ON TABLE parents TO operator')
      await db.query('REVOKE admin FROM operator')
      expect((await refused('CREATE DATABASE IF NOT EXISTS shop', operator)).code).toBe('42501')
      expect((await refused('ALTER TABLE parents ADD COLUMN x INT', operator)).code).toBe('42501')
    } finally {
      await operator.end()
      await db.query('DROP SCHEMA of_operator')
    }
  })

  test('ALL is a separate privilege, which is expanded when a part of it is revoked', async () => {
    await db.query('GRANT ALL ON TABLE children TO app')
    const held = () =>
      rows(
        `SELECT privilege_type AS p FROM information_schema.table_privileges WHERE grantee = 'app' AND table_name = 'children' ORDER BY 1`,
      )
    expect(await held()).toEqual([{ p: 'ALL' }])
    await db.query('REVOKE INSERT ON TABLE children FROM app')
    expect((await held()).map(({ p }) => p)).toEqual([
      'BACKUP',
      'CHANGEFEED',
      'CREATE',
      'DELETE',
      'DROP',
      'SELECT',
      'TRIGGER',
      'UPDATE',
      'ZONECONFIG',
    ])
  })
})

describe('faults', () => {
  test('40001 and 40003 occur at the configured rates', async () => {
    const other = await startCockroach(behind, { retryRate: 1 })
    const client = await open(undefined, other.urlOf('shop'))
    try {
      expect((await refused('SELECT 1', client)).code).toBe('40001')
      await client.query('BEGIN')
      expect((await refused('COMMIT', client)).code).toBe('40001')
      other.options.retryRate = 0
      expect(await rows('SELECT 1 AS one', [], client)).toEqual([{ one: 1 }])
      other.options.ambiguousRate = 1
      await expect(client.query(`INSERT INTO parents VALUES ($1, 'maybe')`, [77])).rejects.toMatchObject({
        code: '40003',
      })
      other.options.ambiguousRate = 0
      expect(await rows('SELECT id FROM parents WHERE id = 77', [], client)).toEqual([{ id: '77' }])
    } finally {
      await client.end()
      await other.stop()
    }
  })
})

describe('faults of statements in one message', () => {
  const ofOne = (value: number) =>
    `INSERT INTO parents VALUES (${value}, 'a'); SELECT 1 AS one; INSERT INTO parents VALUES (${value + 1}, 'b')`
  const written = (client: pg.Client, value: number) =>
    rows(`SELECT count(*) AS n FROM parents WHERE id IN (${value}, ${value + 1})`, [], client)

  test('40001 means that none of them was executed, 40003 that all or none were', async () => {
    const other = await startCockroach(behind, { retryRate: 1 })
    const { options } = other
    const client = await open(undefined, other.urlOf('shop'))
    try {
      expect((await refused(ofOne(80), client)).code).toBe('40001')
      const failed = refused('BEGIN; SELECT 1; COMMIT', client)
      expect((await failed).code).toBe('40001')
      await client.query('ROLLBACK')
      options.retryRate = 0
      expect(await written(client, 80)).toEqual([{ n: '0' }])
      options.ambiguousRate = 1
      expect((await refused(ofOne(82), client)).code).toBe('40003')
      options.ambiguousRate = 0
      expect(await written(client, 82)).toEqual([{ n: '2' }])
      await client.query(ofOne(84))
      expect(await written(client, 84)).toEqual([{ n: '2' }])
    } finally {
      await client.end()
      await other.stop()
    }
  })
})

describe('faults of schema changes', () => {
  test('fails each statement once with 40001, without any effect', async () => {
    const other = await startCockroach(behind, { failEach: { code: '40001', application: 'ours' } })
    const client = await open(undefined, `${other.urlOf('shop')}&application_name=ours`)
    try {
      const create = 'CREATE TABLE once (id INT PRIMARY KEY)'
      const grant = 'GRANT INSERT ON TABLE once TO faulty'
      const all = [
        'CREATE ROLE faulty',
        create,
        grant,
        'REVOKE INSERT ON TABLE once FROM faulty',
        'SELECT count(*) FROM once',
      ]
      for (const sql of all) {
        expect((await refused(sql, client)).code, sql).toBe('40001')
        await client.query(sql)
      }
      await client.query('SELECT count(*) FROM once')
      // Statements that differ only in literals count as the same statement.
      await refused('INSERT INTO once VALUES (1)', client)
      await client.query('INSERT INTO once VALUES (2)')
      expect(await rows('SELECT id FROM once', [], db)).toEqual([{ id: '2' }])
    } finally {
      await client.end()
      await other.stop()
    }
  })

  test('fails only the statement with the given number', async () => {
    const other = await startCockroach(behind, { failEach: { code: '40001', application: 'one', only: 2 } })
    const client = await open(undefined, `${other.urlOf('shop')}&application_name=one`)
    try {
      await client.query('SELECT 1 AS one')
      expect((await refused('SELECT 1 AS two', client)).code).toBe('40001')
      for (const again of ['SELECT 1 AS two', 'SELECT 1 AS three', 'SELECT 1 AS one']) await client.query(again)
      expect([...other.failed]).toEqual([expect.stringContaining('two')])
    } finally {
      await client.end()
      await other.stop()
    }
  })

  test('with a full disk, fails every write but no read', async () => {
    const other = await startCockroach(behind, { diskFull: true })
    const client = await open(undefined, other.urlOf('shop'))
    const writes = [
      'CREATE TABLE more (id INT PRIMARY KEY)',
      "INSERT INTO parents VALUES (60, 'a')",
      "WITH a AS (SELECT 60 AS id) INSERT INTO parents SELECT id, 'a' FROM a",
      "UPDATE parents SET name = 'b'",
      'DELETE FROM children',
    ]
    try {
      for (const sql of writes) expect((await refused(sql, client)).code, sql).toBe('53100')
      await client.query('BEGIN')
      expect((await refused("INSERT INTO parents VALUES (60, 'a')", client)).code).toBe('53100')
      await client.query('ROLLBACK')
      expect(
        await rows('WITH a AS (SELECT count(*) AS n FROM parents WHERE id = 60) SELECT n FROM a', [], client),
      ).toEqual([{ n: '0' }])
    } finally {
      await client.end()
      await other.stop()
    }
  })

  test('executes a schema change that returns 40003', async () => {
    const other = await startCockroach(behind, { ambiguousRate: 1 })
    const client = await open(undefined, other.urlOf('shop'))
    try {
      expect((await refused('CREATE TABLE maybe (id INT PRIMARY KEY)', client)).code).toBe('40003')
      expect(await rows('SELECT id FROM maybe')).toEqual([])
    } finally {
      await client.end()
      await other.stop()
    }
  })
})

describe('indexes', () => {
  const names = async (table: string, client = db) =>
    (await rows(`SELECT indexname, indexdef FROM pg_indexes WHERE tablename = '${table}' ORDER BY 1`, [], client)).map(
      ({ indexname, indexdef }) => [indexname, String(indexdef).replace(/^.* USING btree /, '')],
    )

  // docs: drop-index.md
  test('an index name is unique only within its table', async () => {
    for (const table of ['one_side', 'other_side']) {
      await db.query(`CREATE TABLE ${table} (id INT PRIMARY KEY, code STRING)`)
      await db.query(`CREATE UNIQUE INDEX same ON ${table} (code)`)
    }
    expect((await refused('CREATE INDEX same ON other_side (id)')).code).toBe('42P07')
    await db.query('CREATE INDEX IF NOT EXISTS same ON other_side (id)')
    expect(await names('other_side')).toEqual([
      ['other_side_pkey', '(id)'],
      ['same', '(code)'],
    ])
    const shown = `SELECT r.relname AS table, c.relname AS name FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
      JOIN pg_class r ON r.oid = i.indrelid WHERE c.relname = 'same' ORDER BY 1`
    expect((await rows(shown)).map(({ table }) => table)).toEqual(['one_side', 'other_side'])
    await db.query(`INSERT INTO other_side VALUES (1, 'a')`)
    expect((await refused(`INSERT INTO other_side VALUES (2, 'a')`)).message).toContain('constraint "same"')
    expect(await refused('DROP INDEX same')).toEqual({
      code: '42P08',
      message: 'index name "same" is ambiguous (found in one_side and other_side)',
    })
    await db.query(`COMMENT ON INDEX other_side@same IS 'the other'`)
    await db.query('DROP INDEX one_side@same CASCADE')
    expect((await rows(shown)).map(({ table }) => table)).toEqual(['other_side'])
    await db.query('DROP INDEX other_side@same CASCADE')
  })

  // docs: hash-sharded-indexes.md; cockroachdb/cockroach#126397
  test('a hash-sharded index starts with a hidden column that its definition does not show', async () => {
    await db.query('CREATE TABLE events (id INT PRIMARY KEY, at TIMESTAMPTZ)')
    await db.query(
      'CREATE TABLE keyed (id INT8 NOT NULL, CONSTRAINT k PRIMARY KEY (id) USING HASH WITH (bucket_count = 4))',
    )
    await db.query('CREATE INDEX by_time ON events (at) USING HASH WITH (bucket_count = 4)')
    expect(await names('events')).toEqual([
      ['by_time', '(at) USING HASH WITH (bucket_count=4)'],
      ['events_pkey', '(id)'],
    ])
    const columns = `SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
      WHERE i.indrelid = 'events'::regclass AND NOT i.indisprimary ORDER BY 1`
    expect(await rows(columns)).toEqual([{ attname: 'at' }, { attname: 'crdb_internal_at_shard_4' }])
    await db.query(`INSERT INTO events (id, at) SELECT i, now() FROM generate_series(1, 20) i`)
    await db.query('DROP INDEX events@by_time')
    expect(
      await rows(`SELECT 1 FROM pg_attribute WHERE attname = 'crdb_internal_at_shard_4' AND attisdropped IS NOT TRUE`),
    ).toEqual([])
    expect(await rows(`SELECT 1 FROM pg_constraint WHERE conname = 'check_crdb_internal_at_shard_4'`)).toEqual([])
  })

  // pkg/sql/pg_catalog.go
  test.each([
    ['25.2', ['[]']],
    ['26.1', ['[]', '[{"indisvalid":false}]']],
  ] as const)('an index that is being built is shown as in version %s', async (version, expected) => {
    const other = await startCockroach(behind, { version, ddlTime: 500 })
    const [building, looking] = [await open(undefined, other.urlOf('shop')), await open(undefined, other.urlOf('shop'))]
    const name = `slow_${version.replace('.', '_')}`
    try {
      const look = `SELECT i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relname = '${name}'`
      let built = false
      const done = building.query(`CREATE INDEX ${name} ON children (email)`).then(() => {
        built = true
      })
      const seen: string[] = []
      while (!built) seen.push(JSON.stringify(await rows(look, [], looking)))
      await done
      // The last look may see the index valid just before the statement returns.
      const states = seen.filter((state, at) => state !== seen[at - 1] && state !== '[{"indisvalid":true}]')
      expect(states).toEqual(expected)
      expect(await names('children', looking)).toContainEqual([name, '(email)'])
      expect(await rows(look, [], looking)).toEqual([{ indisvalid: true }])
    } finally {
      await building.end()
      await looking.end()
      await other.stop()
    }
  })
})

// pkg/sql/sequence.go
test('setval of a sequence with CACHE is a schema change', async () => {
  const other = await startCockroach(behind, { ddlTime: 300 })
  const client = await open(undefined, other.urlOf('shop'))
  try {
    await db.query('CREATE SEQUENCE plain_numbers; CREATE SEQUENCE cached_numbers CACHE 10')
    const changes = () => other.jobs.list().filter(({ description }) => description.includes('setval')).length
    await client.query(`SELECT setval('plain_numbers', 5)`)
    expect(changes()).toBe(0)
    const began = performance.now()
    expect(await rows(`SELECT setval('"public"."cached_numbers"'::regclass, 50, true) AS value`, [], client)).toEqual([
      { value: '50' },
    ])
    expect(performance.now() - began).toBeGreaterThan(290)
    expect(changes()).toBe(1)
  } finally {
    await client.end()
    await other.stop()
  }
})

describe('full table scans', () => {
  // docs: session-variables.md
  test('refuses a full table scan if the role or the session forbids it', async () => {
    await db.query('CREATE TABLE scanned (id INT PRIMARY KEY, total INT)')
    await db.query('INSERT INTO scanned VALUES (1, 5)')
    await db.query(`CREATE ROLE scanner LOGIN PASSWORD 'scanner'`)
    await db.query('GRANT SELECT, UPDATE ON TABLE scanned TO scanner')
    await db.query('ALTER ROLE scanner SET disallow_full_table_scans = on')
    const client = await open('scanner')
    try {
      expect(await rows('SHOW disallow_full_table_scans', [], client)).toEqual([{ disallow_full_table_scans: 'on' }])
      expect(await refused('SELECT count(*) FROM scanned', client)).toMatchObject({ code: 'P0003' })
      expect(await refused('UPDATE scanned SET total = 6', client)).toMatchObject({ code: 'P0003' })
      expect(await rows('SELECT id FROM scanned WHERE id = 1', [], client)).toEqual([{ id: '1' }])
      expect(await rows(`SELECT relname FROM pg_class WHERE relname = 'scanned'`, [], client)).toHaveLength(1)
      await client.query(`SELECT set_config('disallow_full_table_scans', 'off', false)`)
      expect(await rows('SELECT count(*) AS n FROM scanned', [], client)).toEqual([{ n: '1' }])
      const setting = `SELECT setting FROM pg_settings WHERE name = 'disallow_full_table_scans'`
      expect(await rows(setting, [], client)).toEqual([{ setting: 'off' }])
    } finally {
      await client.end()
    }
  })
})

describe('AS OF SYSTEM TIME', () => {
  const NOW = 'SELECT cluster_logical_timestamp()::STRING AS time'
  const names = async (time: unknown) =>
    (await rows(`SELECT name FROM past AS OF SYSTEM TIME '${time}' WHERE id > $1 ORDER BY id`, [0])).map(
      ({ name }) => name,
    )

  test('reads the state at each call of cluster_logical_timestamp(), with either protocol', async () => {
    await db.query(`CREATE TABLE past (id INT PRIMARY KEY, name STRING)`)
    await db.query(`INSERT INTO past VALUES (1, 'one'), (2, 'two')`)
    const [first] = await rows(NOW)
    await db.query(`DELETE FROM past WHERE id = 1; UPDATE past SET name = 'deux' WHERE id = 2`)
    const [second] = await rows(`${NOW}, (SELECT max(crdb_internal_mvcc_timestamp) FROM past) AS written`)
    expect(Number(second?.time)).toBeGreaterThanOrEqual(Number(second?.written))
    await db.query(`INSERT INTO past VALUES (3, 'three')`)
    expect(await names(first?.time)).toEqual(['one', 'two'])
    expect(await names(second?.time)).toEqual(['deux'])
    expect(await rows(`SELECT count(*) AS rows FROM past AS OF SYSTEM TIME '${first?.time}'`)).toEqual([{ rows: '2' }])
    expect(await rows('SELECT count(*) AS rows FROM past')).toEqual([{ rows: '2' }])
    await db.query('BEGIN')
    await db.query(`INSERT INTO past VALUES (4, 'four')`)
    await db.query('ROLLBACK')
  })

  test('also reads the state half a second after a call', async () => {
    const [now] = await rows(NOW)
    await db.query(`INSERT INTO past VALUES (5, 'five')`)
    const later = `${BigInt(String(now?.time).replace(/\..*/, '')) + 500_000_000n}.0000000000`
    await expect.poll(() => names(later).catch(({ code }) => code), { timeout: 5_000 }).toContain('five')
    expect(await names(now?.time)).not.toContain('five')
  })

  test('is refused for other times, in transactions, and for a rewritten table', async () => {
    const [now] = await rows(NOW)
    const at = (time: string) => `SELECT * FROM past AS OF SYSTEM TIME ${time}`
    expect((await refused(at(`'${Number.parseInt(String(now?.time), 10) + 1}.0'`))).code).toBe('0A000')
    expect((await refused(at(`'1.0'`))).message).toContain('must be after replica GC threshold')
    expect((await refused(at(`'-10s'`))).code).toBe('0A000')
    expect((await refused(`BEGIN AS OF SYSTEM TIME '${now?.time}'`)).code).toBe('0A000')
    await db.query('TRUNCATE past')
    expect((await refused(at(`'${now?.time}'`))).message).toContain('rewritten or dropped')
  })
})

describe('statements of MOLT', () => {
  // cockroachdb/molt of March 2024: fetch/datablobstorage, fetch/status, molttelemetry.
  test('fetch sets its COPY variables, counts its features, and creates its tables with an inline index', async () => {
    await db.query('SET copy_from_retries_enabled = true')
    await db.query('SET copy_from_atomic_enabled = false')
    expect(await rows('SHOW copy_from_atomic_enabled')).toEqual([{ copy_from_atomic_enabled: 'false' }])
    expect(await rows('SELECT crdb_internal.increment_feature_counter($1) AS done', ['a feature'])).toEqual([
      { done: true },
    ])
    const create = `CREATE TABLE IF NOT EXISTS exceptions (id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
      table_name STRING, stage STRING, INDEX(table_name, stage));`
    for (let time = 0; time < 2; time++) await db.query(create)
    expect(await rows(`SELECT indexname FROM pg_indexes WHERE tablename = 'exceptions' ORDER BY 1`)).toEqual([
      { indexname: 'exceptions_pkey' },
      { indexname: 'exceptions_table_name_stage_idx' },
    ])
  })

  // cockroachdb/replicator: internal/target/schemawatch.
  test('replicator orders tables by their foreign keys', async () => {
    await db.query(`CREATE SCHEMA ordered; CREATE TABLE ordered.a (id INT PRIMARY KEY);
      CREATE TABLE ordered.b (id INT PRIMARY KEY, a INT REFERENCES ordered.a);
      CREATE TABLE ordered.c (id INT PRIMARY KEY, b INT REFERENCES ordered.b, a INT REFERENCES ordered.a)`)
    const shown = await rows('SELECT schema_name, table_name, type FROM [SHOW TABLES FROM "shop"."ordered"]')
    expect(shown).toEqual(['a', 'b', 'c'].map((name) => ({ schema_name: 'ordered', table_name: name, type: 'table' })))
    const found = await rows(`WITH RECURSIVE
      tables AS (SELECT schema_name AS sch, table_name AS tbl FROM [SHOW TABLES FROM "shop"."ordered"] WHERE type='table'),
      refs AS (SELECT constraint_schema AS child_sch, table_name AS child_tbl, referenced_table_name AS parent_tbl
        FROM "shop".information_schema.referential_constraints WHERE table_name != referenced_table_name),
      roots AS (SELECT tables.sch, tables.tbl, 0 AS depth FROM tables
        WHERE (tables.sch, tables.tbl) NOT IN (SELECT (child_sch, child_tbl) FROM refs)),
      depths AS (SELECT * FROM roots UNION ALL SELECT refs.child_sch, refs.child_tbl, max(depths.depth) + 1
        FROM depths, refs WHERE refs.parent_tbl = depths.tbl GROUP BY 1, 2)
      SELECT tbl, max(depth) FROM (SELECT *, -1 AS depth FROM tables UNION ALL SELECT * FROM depths) GROUP BY 1 ORDER BY 2, 1`)
    expect(found).toEqual([
      { tbl: 'a', max: '0' },
      { tbl: 'b', max: '1' },
      { tbl: 'c', max: '2' },
    ])
  })

  // cockroachdb/replicator: internal/staging/leases, internal/staging/checkpoint.
  test('replicator takes a lease with UPSERT in a WITH clause, and stores virtual columns', async () => {
    await db.query('CREATE TABLE leases (name STRING PRIMARY KEY, expires TIMESTAMP NOT NULL, nonce UUID NOT NULL)')
    const acquire = `WITH proposed (name, expires, nonce) AS (SELECT unnest($1::STRING[]), $2::TIMESTAMP, gen_random_uuid()),
      acquired AS (UPSERT INTO leases (name, expires, nonce) SELECT name, expires, nonce FROM proposed RETURNING nonce)
      SELECT count(*) AS acquired FROM acquired`
    for (let time = 0; time < 2; time++)
      expect(await rows(acquire, [['a', 'b'], '2026-01-01'])).toEqual([{ acquired: '2' }])
    expect(await rows('SELECT count(*) AS n FROM leases')).toEqual([{ n: '2' }])
    await db.query(`CREATE TABLE checkpoints (name STRING NOT NULL, hlc DECIMAL NOT NULL,
      nanos INT8 AS (floor(hlc)::INT8) VIRTUAL, PRIMARY KEY (name, hlc), INDEX (name))`)
    await db.query(`UPSERT INTO checkpoints (name, hlc) VALUES ('a', 1.5)`)
    expect(await rows('SELECT nanos FROM checkpoints')).toEqual([{ nanos: '1' }])
  })
})

// pkg/sql/opt/norm/rules/inline.opt: a projection is inlined where each of its columns is used at most once.
test('computes a repeatedly used column once', () => {
  const [often, once] = split(
    'SELECT sum(h | (h << 8)) FROM (SELECT length(md5(a)) AS h FROM t) AS hashed; SELECT h FROM (SELECT md5(a) AS h FROM t) AS hashed',
  )
  expect(translate(often as Statement, [25, 2])).toContain('FROM t OFFSET 0) AS hashed')
  expect(translate(once as Statement, [25, 2])).not.toContain('OFFSET')
})

describe('by version', () => {
  async function on<T>(version: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
    const other = await startCockroach(behind, { version })
    await db.query(`CREATE DATABASE IF NOT EXISTS v${version.replace('.', '_')}`)
    const client = await open(undefined, other.urlOf(`v${version.replace('.', '_')}`))
    try {
      return await work(client)
    } finally {
      await client.end()
      await other.stop()
    }
  }

  /** Whether a schema change in a transaction survives its ROLLBACK. */
  async function commitsItself(client: pg.Client, table: string): Promise<boolean> {
    await client.query('BEGIN')
    await client.query(`CREATE TABLE ${table} (id INT PRIMARY KEY)`)
    await client.query('ROLLBACK')
    return (await rows(`SELECT 1 FROM pg_class WHERE relname = '${table}'`, [], client)).length === 1
  }

  // v25.1 release notes: autocommit_before_ddl is on by default.
  test('a schema change commits on its own from 25.1, or with autocommit_before_ddl', async () => {
    await on('24.3', async (client) => {
      expect(await rows('SHOW autocommit_before_ddl', [], client)).toEqual([{ autocommit_before_ddl: 'off' }])
      expect(await commitsItself(client, 'one')).toBe(false)
      await client.query('SET autocommit_before_ddl = on')
      expect(await commitsItself(client, 'two')).toBe(true)
    })
    expect(await rows('SHOW autocommit_before_ddl')).toEqual([{ autocommit_before_ddl: 'on' }])
    expect(await commitsItself(db, 'three')).toBe(true)
  })

  // docs: v26.1.0-alpha.1 release notes; v26.2 alter-table.md and v26.2.0-beta.3 release notes.
  test('tables are locked against schema changes from 26.1, and can be unlocked', async () => {
    const locked = (client: pg.Client, name: string) =>
      rows(`SELECT relname, reloptions::STRING AS options FROM pg_class WHERE relname = '${name}'`, [], client)
    await on('25.2', async (client) => {
      await client.query('CREATE TABLE open (id INT PRIMARY KEY); ALTER TABLE open ADD CONSTRAINT c CHECK (id > 0)')
      expect(await locked(client, 'open')).toEqual([{ relname: 'open', options: null }])
    })
    await on('26.2', async (client) => {
      await client.query('CREATE TABLE shut (id INT PRIMARY KEY)')
      expect(await locked(client, 'shut')).toEqual([{ relname: 'shut', options: '{schema_locked=true}' }])
      const add = 'ALTER TABLE shut ADD CONSTRAINT c CHECK (id > 0)'
      expect(await refused(add, client)).toEqual({
        code: '57000',
        message:
          'this schema change is disallowed because table "shut" is locked and this operation cannot automatically unlock the table',
      })
      await client.query('CREATE INDEX on_id ON shut (id)')
      await client.query('SET CLUSTER SETTING sql.schema.auto_unlock.enabled = false')
      expect((await refused('DROP INDEX shut@on_id', client)).code).toBe('57000')
      await client.query('SET CLUSTER SETTING sql.schema.auto_unlock.enabled = true')
      await client.query('ALTER TABLE shut SET (schema_locked = false)')
      await client.query(add)
      await client.query('ALTER TABLE shut SET (schema_locked = true)')
      expect((await refused('ALTER TABLE shut DROP CONSTRAINT c', client)).code).toBe('57000')
      await client.query('CREATE TABLE made_open (id INT PRIMARY KEY) WITH (schema_locked = false)')
      await client.query('SET create_table_with_schema_locked = off; CREATE TABLE also_open (id INT PRIMARY KEY)')
      for (const name of ['made_open', 'also_open'])
        expect(await locked(client, name)).toEqual([{ relname: name, options: null }])
    })
  })

  // docs: crdb-internal.md; off by default from 26.1.
  test('denies access to internals from 26.1 unless allow_unsafe_internals is on', async () => {
    await on('26.1', async (client) => {
      const sql = 'SELECT count(*) AS jobs FROM crdb_internal.jobs'
      expect((await refused(sql, client)).code).toBe('42501')
      await client.query('SET allow_unsafe_internals = on')
      expect(await rows(sql, [], client)).toHaveLength(1)
    })
  })

  // cockroachdb/cockroach#133988
  test('the last row of SHOW STATISTICS can be partial from 25.1', async () => {
    await behindQuery('ANALYZE parents')
    const shown = await rows('SELECT statistics_name, partial_predicate FROM [SHOW STATISTICS FOR TABLE parents]')
    expect(shown.at(-1)).toMatchObject({
      statistics_name: '__auto_partial__',
      partial_predicate: expect.stringMatching(/./),
    })
    expect(shown.filter((row) => row.partial_predicate === '')).toHaveLength(1)
  })
})

async function behindQuery(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: behind.url })
  await client.connect()
  await client.query(sql)
  await client.end()
}

describe('differences from PostgreSQL', () => {
  // pkg/sql/pg_catalog.go: every unique index is among the constraints.
  test('lists a unique index as a constraint', async () => {
    await db.query('CREATE TABLE unique_one (id INT PRIMARY KEY, code STRING)')
    await db.query('CREATE UNIQUE INDEX by_code ON unique_one (code)')
    expect(
      await rows(
        `SELECT contype, conkey, pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conname = 'by_code'`,
      ),
    ).toEqual([{ contype: 'u', conkey: [2], def: 'UNIQUE (code ASC)' }])
    expect((await refused('ALTER TABLE unique_one DROP CONSTRAINT by_code')).code).toBe('0A000')
    await db.query('DROP INDEX unique_one@by_code CASCADE')
  })

  // docs: functions-and-operators.md, compatibility functions.
  test('advisory locks have no effect', async () => {
    const other = await open()
    try {
      await db.query('SELECT pg_advisory_lock(1)')
      expect(await rows('SELECT pg_try_advisory_lock(1) AS got', [], other)).toEqual([{ got: true }])
    } finally {
      await other.end()
    }
  })

  test('refuses connections without TLS to a server that requires it', async () => {
    const { cert, key } = await certificateFor()
    const secure = await startCockroach(behind, { tls: { cert, key } })
    try {
      await expect(open(undefined, secure.urlOf('shop'))).rejects.toMatchObject({ code: '08P01' })
    } finally {
      await secure.stop()
    }
  })
})
