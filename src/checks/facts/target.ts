import { readSight, readSystemPrivileges, type Sight } from '../../destination/activity.ts'
import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { type OfflineTable, readOffline } from '../../destination/jobs.ts'
import { readOtherRights } from '../../destination/recreate.ts'
import { readRetention } from '../../destination/retention.ts'
import { readTarget, type TargetFacts as TargetServer } from '../../destination/server.ts'
import { isStreamLogin, LOGIN_RIGHTS, mayCreateLogins } from '../../destination/stream-login.ts'
import type { Unrevocable } from '../../destination/unrevocable.ts'
import { readAccess, type WriteGrant } from '../../destination/write-access.ts'
import type { Schema } from '../../model/schema.ts'
import { type Database, literal, qualified, sqlState } from '../../runtime/database.ts'
import { readSchema } from '../../sql/schema.ts'
import type { Sequence } from '../../sql/sequences.ts'
import { readFilteredTables, readSecuredTables } from '../../sql/tables.ts'
import { withTriggers } from '../../sql/triggers.ts'
import type { ToolSession } from './session.ts'
import { certificateEnd } from './source.ts'

/**
 * Everything that the checks read about the target, from at most 20 catalog queries in CockroachDB's documented SQL.
 */
export interface TargetFacts {
  server: TargetServer & { major: number; minor: number }
  schema: Schema
  relations: TargetRelation[]
  /** Views of the schema, including materialized ones. */
  views: string[]
  /** Expected tables that the catalogs hide because an import has taken them offline. */
  offline: OfflineTable[]
  role: TargetRole
  /** Definitions that `convert` or an earlier `prepare` deferred and that have not been rebuilt yet. */
  awaited: Pick<Deferred, 'kind' | 'table' | 'name'>[]
  /** Expected tables that hold at least one row. */
  filled: string[]
  /** Expected tables with row-level security. */
  secured: string[]
  /** Those whose rows it hides from this role. */
  rowsHidden: string[]
  triggers: { table: string; name: string }[]
  /** Other roles that can write to an expected table, with the tables. */
  writers: { role: string; tables: string[] }[]
  /** The individual write privileges of these roles. */
  writeGrants: WriteGrant[]
  /** Every privilege of other roles on expected tables; see {@link readOtherRights}. */
  otherRights: WriteGrant[]
  /** Logins whose write access to expected tables cannot be revoked. */
  unrevocable: Unrevocable[]
  /** Schemas in which a replicator keeps or kept its progress. */
  stagingSchemas: string[]
  /** CockroachDB only: unfinished imports and changefeeds; null when SHOW JOBS fails. */
  jobs: { id: string; type: string; status: string; description: string; owner: string }[] | null
  /** CockroachDB's session settings that decide what INT and SERIAL mean. */
  intSize: string | null
  serial: string | null
  /** CockroachDB only: how far back the database can be read, in seconds; null when unknown. */
  gcTtlSeconds: number | null
  certificateUntil: Date | null
  /** Which activity of other users this role can see; null on PostgreSQL. */
  sight: Sight | null
  /** The session that molt and the replicator would get. */
  tools: ToolSession
  sequences: Sequence[]
}

interface TargetRelation {
  name: string
  options: string[]
  owner: string
  /** Whether this role owns it, directly or as a member of the owner. */
  owned: boolean
  select: boolean
  insert: boolean
  update: boolean
  delete: boolean
}

interface TargetRole {
  name: string
  /** Whether the ledger's schema exists. Another role may have created it. */
  ledger: boolean
  createOnDatabase: boolean
  createOnSchema: boolean
  usageOnSchema: boolean
  /** Whether it can grant a login USAGE on the schema; always true for `public`, which every role can use. */
  usageGrantable: boolean
  /** Privileges on the schema `public`, where molt keeps its own tables. */
  createOnPublic: boolean
  usageOnPublic: boolean
  /** Whether it can create logins. */
  createRole: boolean
  /** Expected tables, with the privileges that a stream's login needs and this role cannot grant. */
  ungivenToLogins: { table: string; rights: string[] }[]
  /** Sequences of the schema that it cannot read or set. */
  lockedSequences: string[]
  /** Whether it is a member of admin on CockroachDB. */
  admin: boolean
  /** Expected tables that it cannot alter: it is not the owner and, on CockroachDB, has no CREATE. */
  withoutCreate: string[]
  /** Write privileges of other roles on expected tables that this role could not restore after revoking them. */
  ungrantable: WriteGrant[]
  /** Tables on either end of a foreign key that touches an expected table, in any schema. */
  onForeignKeys: TableRights[]
  /** Expected tables on which it lacks DROP, which IMPORT INTO requires; empty on PostgreSQL. */
  withoutDrop: string[]
  /** CockroachDB only: cluster-wide privileges, such as CONTROLJOB; `ALL` stands for all of them. */
  system: string[]
}

/** What this role can do with a table's definition. */
interface TableRights {
  schema: string
  table: string
  /** Whether this role owns it, directly or as a member of the owner. */
  owned: boolean
  create: boolean
  references: boolean
}

export interface TargetQuestion {
  migration: string
  schema: string
  /** Resolves to the expected tables once they are known from the source. */
  tables: Promise<readonly string[]>
}

/** Reads {@link TargetFacts}; changes nothing. */
export async function readTargetFacts(
  db: Database,
  question: TargetQuestion,
): Promise<Omit<TargetFacts, 'tools' | 'sequences'>> {
  const server = await readTarget(db)
  const cockroach = server.isCockroach
  const [, major, minor] = /\bv?(\d+)\.(\d+)/.exec(server.version) ?? []
  const read = await readSchema(db, 'target', question.schema)
  const role = (await db.query(ROLE, [question.schema])).rows[0]
  const admin = cockroach ? (await db.query(ADMIN)).rows[0].admin : false
  const relations = await db.query(RELATIONS, [question.schema])
  const grants = await db.query(GRANTS, [question.schema])
  const staging = await db.query(
    `SELECT nspname AS name FROM pg_catalog.pg_namespace WHERE nspname LIKE 'molt\\_staging\\_%' OR nspname = '_replicator' ORDER BY 1`,
  )
  const there = new Set(read.tables.map((table) => table.name))
  const asked = await question.tables
  const expected = asked.filter((name) => there.has(name))
  const hidden = cockroach ? asked.filter((name) => !there.has(name)) : []
  // SHOW TRIGGERS needs USAGE on the schema. Another check reports it if missing.
  const schema = role.usageOnSchema ? await withTriggers(db, read, expected) : read
  const isExpected = new Set(expected)
  const owned = new Set(relations.rows.flatMap((each) => (each.owned ? [each.name] : [])))
  const access = await readAccess(db, question.schema, expected)
  const isForeign = (table: string) => !owned.has(table)
  const awaited = (await listDeferred(db, question.migration)).filter(({ rebuilt }) => !rebuilt)
  const secured = await readSecuredTables(db, question.schema, expected)
  // An expected table can be at either end of a deferred foreign key.
  const ends = awaited.some(({ kind }) => kind === 'foreign-key') ? expected : []
  return {
    server: { ...server, major: Number(major ?? 0), minor: Number(minor ?? 0) },
    schema,
    relations: relations.rows.filter(({ view }) => !view),
    views: relations.rows.flatMap((each) => (each.view ? [each.name] : [])),
    offline: await readOffline(db, question.schema, hidden),
    role: {
      ...role,
      admin,
      ungrantable: access.ungrantable,
      onForeignKeys: await readTableRights(db, [
        ...tablesOnForeignKeys(schema, isExpected),
        ...ends.map((table) => ({ schema: question.schema, table })),
      ]),
      createRole: await mayCreateLogins(db),
      ungivenToLogins: admin ? [] : ungivenToLogins(grants.rows, expected.filter(isForeign)),
      withoutDrop: cockroach && !admin ? lacking(grants.rows, 'DROP', expected) : [],
      system: cockroach ? await readSystemPrivileges(db) : [],
      withoutCreate: admin ? [] : lacking(cockroach ? grants.rows : [], 'CREATE', expected).filter(isForeign),
    },
    awaited,
    filled: await filledTables(db, question.schema, expected),
    secured,
    rowsHidden: secured.length ? await readFilteredTables(db, question.schema, expected) : [],
    triggers: (schema.actions ?? []).filter(({ kind, table }) => kind === 'trigger' && isExpected.has(table)),
    writers: writers(grants.rows, isExpected),
    writeGrants: access.open,
    otherRights: await readOtherRights(db, question.schema, expected),
    unrevocable: access.unrevocable,
    stagingSchemas: staging.rows.map((row) => row.name),
    jobs: cockroach ? await readJobs(db) : null,
    intSize: cockroach ? await readSetting(db, 'default_int_size') : null,
    serial: cockroach ? await readSetting(db, 'serial_normalization') : null,
    gcTtlSeconds: cockroach ? await readRetention(db, server.database) : null,
    certificateUntil: certificateEnd(db),
    sight: cockroach ? await readSight(db) : null,
  }
}

const onSchema = (name: string, right: string) =>
  `coalesce((SELECT has_schema_privilege(n.oid, '${right}') FROM pg_catalog.pg_namespace n WHERE n.nspname = ${name}), false)`

const ROLE = `
  SELECT current_user AS name, has_database_privilege(current_database(), 'CREATE') AS "createOnDatabase",
         EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'molt_actions') AS ledger,
         ${onSchema('$1', 'CREATE')} AS "createOnSchema", ${onSchema('$1', 'USAGE')} AS "usageOnSchema",
         $1 = 'public' OR ${onSchema('$1', 'USAGE WITH GRANT OPTION')} AS "usageGrantable",
         ${onSchema("'public'", 'CREATE')} AS "createOnPublic", ${onSchema("'public'", 'USAGE')} AS "usageOnPublic",
         ARRAY(SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relkind = 'S' AND NOT (has_sequence_privilege(c.oid, 'SELECT')
                  AND has_sequence_privilege(c.oid, 'UPDATE')) ORDER BY 1) AS "lockedSequences"`

/** Both ends of each foreign key that touches an expected table. */
function tablesOnForeignKeys(
  { name, constraints }: Schema,
  expected: Set<string>,
): { schema: string; table: string }[] {
  const ours = (each: { schema: string; table: string }) => each.schema === name && expected.has(each.table)
  const found = new Map<string, { schema: string; table: string }>()
  for (const { kind, schema, table, references } of constraints)
    if (kind === 'f' && references && (ours({ schema, table }) || ours(references)))
      for (const end of [
        { schema, table },
        { schema: references.schema, table: references.table },
      ])
        found.set(JSON.stringify(end), end)
  return [...found.values()]
}

/** CockroachDB requires CREATE on a table to alter it; PostgreSQL requires ownership. */
async function readTableRights(
  db: Database,
  tables: readonly { schema: string; table: string }[],
): Promise<TableRights[]> {
  if (!tables.length) return []
  const names = tables.map(({ schema, table }) => `(${literal(schema)}, ${literal(table)})`).join(', ')
  const granted = (right: string) => `EXISTS (
    SELECT 1 FROM information_schema.table_privileges p
     WHERE p.table_schema = n.nspname AND p.table_name = c.relname AND p.privilege_type IN ('${right}', 'ALL')
       AND (p.grantee = current_user OR lower(p.grantee) = 'public'
            OR p.grantee IN (SELECT role_name FROM information_schema.applicable_roles)))`
  const { rows } = await db.query(
    `SELECT n.nspname AS schema, c.relname AS table, pg_has_role(c.relowner, 'USAGE') AS owned,
            ${granted('CREATE')} AS create, ${granted('REFERENCES')} AS references
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND (n.nspname, c.relname) IN (${names}) ORDER BY 1, 2`,
  )
  return rows
}

const ADMIN = `SELECT pg_has_role('admin', 'MEMBER') AS admin`

const RELATIONS = `
  SELECT c.relname AS name, c.relkind IN ('v', 'm') AS view, coalesce(c.reloptions, ARRAY[]::text[]) AS options,
         o.rolname AS owner, pg_has_role(c.relowner, 'USAGE') AS owned,
         has_table_privilege(c.oid, 'SELECT') AS select, has_table_privilege(c.oid, 'INSERT') AS insert,
         has_table_privilege(c.oid, 'UPDATE') AS update, has_table_privilege(c.oid, 'DELETE') AS delete
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY 1`

/** `mine` marks privileges that this role has directly or through membership. `tables` is a JSON array. */
const GRANTS = `
  SELECT g.grantee, g.privilege, g.grantable, g.tables, g.grantee = current_user OR lower(g.grantee) = 'public'
           OR g.grantee IN (SELECT role_name FROM information_schema.applicable_roles) AS mine
    FROM (SELECT p.grantee::text AS grantee, p.privilege_type::text AS privilege,
                 p.is_grantable = 'YES' AS grantable, json_agg(p.table_name::text)::text AS tables
            FROM information_schema.table_privileges p
           WHERE p.table_schema = $1 AND p.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'DROP', 'CREATE', 'ALL')
           GROUP BY p.grantee, p.privilege_type, p.is_grantable) g ORDER BY 1, 2`

/** Maximum number of jobs to list. */
const JOBS = `
  WITH jobs AS (SHOW JOBS)
  SELECT job_id::text AS id, job_type AS type, status, description, user_name AS owner FROM jobs
   WHERE job_type IN ('IMPORT', 'CHANGEFEED') AND status IN ('pending', 'running', 'paused', 'pause-requested',
     'retry-running', 'reverting', 'retry-reverting', 'cancel-requested') LIMIT 100`

async function readJobs(db: Database): Promise<TargetFacts['jobs']> {
  return db.query(JOBS).then(
    ({ rows }) => rows,
    () => null,
  )
}

async function readSetting(db: Database, name: string): Promise<string | null> {
  return db.query(`SHOW ${name}`).then(
    ({ rows }) => rows[0]?.[name] ?? null,
    () => null,
  )
}

const TABLES_AT_ONCE = 200

/** Lists the tables that have rows. Looks for a first row in many tables at once; this is not a catalog query. */
async function filledTables(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  const found: string[] = []
  for (let from = 0; from < tables.length; from += TABLES_AT_ONCE) {
    const some = tables.slice(from, from + TABLES_AT_ONCE)
    const asked = some.map((name, at) => `SELECT ${at} AS at WHERE EXISTS (SELECT 1 FROM ${qualified(schema, name)})`)
    const { rows } = await db.query(asked.join(' UNION ALL ')).catch((error) => {
      // Other checks report missing privileges, and tables that an import keeps offline.
      if (!/^(42501|55000)$/.test(sqlState(error) ?? '')) throw error
      return { rows: [] }
    })
    for (const { at } of rows) found.push(some[Number(at)] as string)
  }
  return found
}

type Grant = { grantee: string; privilege: string; grantable: boolean; tables: string; mine: boolean }
const tablesOf = (grant: Grant): string[] => JSON.parse(grant.tables)

function lacking(grants: Grant[], privilege: string, tables: readonly string[]): string[] {
  const has = new Set(
    grants.filter((grant) => grant.mine && [privilege, 'ALL'].includes(grant.privilege)).flatMap(tablesOf),
  )
  return tables.filter((table) => !has.has(table))
}

function ungivenToLogins(grants: Grant[], tables: readonly string[]): TargetRole['ungivenToLogins'] {
  const givable = grants.filter(({ grantable }) => grantable)
  const without = new Map(LOGIN_RIGHTS.map((right) => [right, new Set(lacking(givable, right, tables))]))
  return tables
    .map((table) => ({ table, rights: LOGIN_RIGHTS.filter((right) => without.get(right)?.has(table)) }))
    .filter(({ rights }) => rights.length)
}

function writers(grants: Grant[], expected: Set<string>): TargetFacts['writers'] {
  const found = new Map<string, Set<string>>()
  for (const grant of grants) {
    if (
      grant.mine ||
      ['SELECT', 'DROP', 'CREATE'].includes(grant.privilege) ||
      /^(admin|root|postgres)$/.test(grant.grantee)
    )
      continue
    if (isStreamLogin(grant.grantee)) continue
    const tables = tablesOf(grant).filter((table) => expected.has(table))
    if (tables.length) found.set(grant.grantee, new Set([...(found.get(grant.grantee) ?? []), ...tables]))
  }
  return [...found].map(([role, tables]) => ({ role, tables: [...tables].sort() }))
}
