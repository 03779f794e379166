// The CockroachDB-like server by itself. What is expected comes from the source that each rule names.
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CockroachServer, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'

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

describe('the protocol', () => {
  test('names itself', async () => {
    expect((await rows('SELECT version()'))[0]?.version).toMatch(
      /^CockroachDB CCL v25\.2\.0 \(molt-actions like-server/,
    )
  })

  test('takes parameters, named statements, several statements, and errors in between', async () => {
    expect(await rows('SELECT $1::INT + 1 AS n', [41])).toEqual([{ n: '42' }])
    const named = { name: 'one', text: 'SELECT name FROM parents WHERE id = $1' }
    expect((await db.query({ ...named, values: [1] })).rows).toEqual([{ name: 'one' }])
    expect((await db.query({ ...named, values: [2] })).rows).toEqual([])
    expect((await refused('SELECT 1; SELECT broken; SELECT 2')).code).toBe('42703')
    expect(await rows('SELECT 1 AS one')).toEqual([{ one: 1 }])
  })

  test('refuses what no rule knows, and keeps it', async () => {
    expect((await refused('FROBNICATE everything')).message).toMatch(/no rule knows this statement/)
    expect(server.unknown).toContain('FROBNICATE everything')
  })

  test('matches nothing inside literals and quoted names', async () => {
    expect(await rows(`SELECT 'LOCK TABLE pg_class :: x' AS "pg_class ctid", $tag$ UPSERT $tag$ AS b`)).toEqual([
      { 'pg_class ctid': 'LOCK TABLE pg_class :: x', b: ' UPSERT ' },
    ])
  })
})

describe('catalogs', () => {
  test('relispartition is NULL, so that NOT of it drops every row', async () => {
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

  test('a check has typed literals', async () => {
    const [found] = await rows(
      `SELECT pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE conrelid = 'children'::regclass AND contype = 'c'`,
    )
    expect(found?.def).toMatch(/total >= 0:::DECIMAL/)
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
  test('commit by themselves, and are jobs', async () => {
    await db.query('BEGIN')
    await db.query(`INSERT INTO parents VALUES (2, 'two')`)
    await db.query('CREATE INDEX by_name ON parents (name) STORING (id)')
    await db.query('ROLLBACK')
    expect(await rows('SELECT id FROM parents ORDER BY id')).toEqual([{ id: '1' }, { id: '2' }])
    const jobs = await rows(`SELECT job_type, status FROM [SHOW JOBS] WHERE description LIKE 'CREATE INDEX by_name%'`)
    expect(jobs).toEqual([{ job_type: 'NEW SCHEMA CHANGE', status: 'succeeded' }])
  })

  test('SHOW JOBS cuts descriptions to 100 characters, SHOW JOB does not', async () => {
    const name = `long_${'x'.repeat(50)}`
    await db.query(`CREATE INDEX ${name} ON parents (name) WHERE name <> '${'z'.repeat(80)}'`)
    const [job] = await rows(
      `SELECT job_id::STRING AS id, description FROM [SHOW JOBS] WHERE status = 'succeeded' AND description LIKE 'CREATE INDEX long%'`,
    )
    expect(job?.description).toHaveLength(100)
    expect((await rows(`SHOW JOB ${job?.id}`))[0]?.description).toMatch(/z{80}'$/)
  })

  test('validation errors hold row values', async () => {
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

  test('DROP INDEX CASCADE drops a unique constraint, and nothing else does', async () => {
    expect((await refused('DROP INDEX children@children_email_key')).code).toBe('2BP01')
    await db.query('DROP INDEX children@children_email_key CASCADE')
    expect(await rows(`SELECT 1 FROM pg_constraint WHERE conname = 'children_email_key'`)).toEqual([])
  })
})

describe('rights', () => {
  test('a grant needs the grant option, and the refusal is an error with 01007', async () => {
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

  test('ALL is a privilege of its own, and is expanded when a part is revoked', async () => {
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
  test('40001 and 40003 come at the rates that were set', async () => {
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

describe('the past', () => {
  const NOW = 'SELECT cluster_logical_timestamp()::STRING AS time'
  const names = async (time: unknown) =>
    (await rows(`SELECT name FROM past AS OF SYSTEM TIME '${time}' WHERE id > $1 ORDER BY id`, [0])).map(
      ({ name }) => name,
    )

  test('is read as of each call of cluster_logical_timestamp(), by either protocol', async () => {
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

  test('is the state half a second after a call, too', async () => {
    const [now] = await rows(NOW)
    await db.query(`INSERT INTO past VALUES (5, 'five')`)
    const later = `${BigInt(String(now?.time).replace(/\..*/, '')) + 500_000_000n}.0000000000`
    await expect.poll(() => names(later).catch(({ code }) => code), { timeout: 5_000 }).toContain('five')
    expect(await names(now?.time)).not.toContain('five')
  })

  test('is refused at other times, in transactions, and for a rewritten table', async () => {
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
