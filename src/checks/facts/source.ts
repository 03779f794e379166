import { setTimeout as sleep } from 'node:timers/promises'
import type { TLSSocket } from 'node:tls'
import { OURS as MASK, type MaskState } from '../../masking/target.ts'
import type { Schema } from '../../model/schema.ts'
import { connectForReplication, type Database, ident, sqlState } from '../../runtime/database.ts'
import { messageOf, UserError } from '../../runtime/errors.ts'
import { type FenceState, LEASE, readFence } from '../../source/fence.ts'
import { HEARTBEAT, OUR_SCHEMA, readHeartbeatOwner } from '../../source/heartbeat.ts'
import type { ServerFacts } from '../../source/server.ts'
import { readSchema } from '../../sql/schema.ts'
import { lastUsed, readSourceSequences, type Sequence } from '../../sql/sequences.ts'
import type { ToolSession } from './session.ts'

/** Everything that the checks read about the source, from at most 20 catalog queries. */
export interface SourceFacts {
  server: SourceServer
  role: SourceRole
  schema: Schema
  relations: Relation[]
  /** Transactions open for more than 1 s. `kind` is `transaction` or `prepared`; `who` names the owner. */
  transactions: { kind: string; who: string; ageMs: number }[]
  publication: PublicationFacts | null
  /**
   * `kind` is `trigger`, `rule` or `routine`. `uses` says whether a routine sends notifications or takes advisory
   * locks.
   */
  programs: { kind: string; table: string | null; name: string; uses: string | null }[]
  features: { extensions: { name: string; version: string }[]; largeObjects: number; advisoryLocks: number }
  /** From pg_stat_statements; null when it cannot be read. */
  statements: { listens: boolean; advisoryLocks: boolean; largestRows: number } | null
  /** The schema of pg_stat_statements, and whether this role can use it; null when it is not installed. */
  statementsSchema: { name: string; usable: boolean } | null
  /** Columns whose ANALYZE statistics hold infinity or a BC date, as `table.column`. */
  oddDates: { column: string; infinity: boolean; bc: boolean }[]
  /** The migration that owns the heartbeat, if any. */
  owner: string | undefined
  fence: FenceState
  /** The state that the last run of `mask` recorded on the source, if any; `unknown` if this role cannot read it. */
  masked: MaskState | 'unknown' | null
  connection: ConnectionFacts
  /** The session that molt and the replicator would get. */
  tools: ToolSession
  /**
   * The schema's sequences. `used` is the highest number that the sequence or its column has used; null if none or
   * unknown.
   */
  sequences: { sequence: Sequence; used: bigint | null }[]
  samples: SampleFacts
}

interface SourceServer extends ServerFacts {
  /** Whether the server sees this connection as encrypted. */
  encrypted: boolean
  slotsMax: number
  sendersMax: number
  /** max_slot_wal_keep_size in MiB; -1 without limit, null before PostgreSQL 13. */
  slotKeepMiB: number | null
  senderTimeoutMs: number
  /** How many connections this role can still open, for each limit that applies to it. */
  connectionsMax: number
  connectionsFree: Record<'server' | 'role' | 'database', number>
  /** Measured over {@link SourceQuestion.walWindowMs}. */
  walBytesPerSecond: number
  slot: { plugin: string; database: string | null; active: boolean; active_pid: number | null } | null
}

interface SourceRole {
  name: string
  superuser: boolean
  replication: boolean
  createOnDatabase: boolean
  schemaUsage: boolean
  /** Whether it can see other users' statements and session states. */
  seesOthers: boolean
  /** Roles through which a cloud provider grants replication: the existing ones, and those that this role has. */
  providerRoles: string[]
  providerGranted: string[]
}

/** A relation of the schema, or a partition below one of its tables. */
export interface Relation {
  schema: string
  name: string
  /** pg_class.relkind: r table, p partitioned, f foreign, v view, m materialised view, S sequence. */
  kind: string
  /** p permanent, u unlogged, t temporary */
  persistence: string
  /** d default, n nothing, f full, i index */
  identity: string
  partition: boolean
  /** For a partition, its topmost table, as `schema.name`. */
  root: string | null
  inherits: boolean
  /** Tables that inherit from this table but are not partitions, as `schema.name`. */
  children: string[]
  /** Whether an extension created it. */
  extension: boolean
  owner: string
  ownerIsSuperuser: boolean
  owned: boolean
  readable: boolean
  /** Whether row-level security hides rows from this role. */
  rowsHidden: boolean
  /** Whether row-level security also hides rows from the owner, unless the owner has BYPASSRLS. */
  rowsHiddenFromOwner: boolean
  /** Planner estimates; -1 when there are none. */
  rows: number
  bytes: number
  toastBytes: number
  updates: number
  /** Whether a logical subscription writes to it. */
  subscribed: boolean
  /** Whether the filter passed to MOLT matches it. */
  matched: boolean
  /** Other schemas that have a table of this name. */
  namesakes: string[]
}

interface PublicationFacts {
  allTables: boolean
  truncate: boolean
  owner: string
  tables: { schema: string; table: string; filtered: boolean; listed: boolean }[]
}

export interface ConnectionFacts {
  /** Signs of a pooler or a load balancer in front of the server; empty if there are none. */
  doubts: string[]
  /** Expiry of the server's certificate, where it could be read. */
  certificateUntil: Date | null
}

/** What was found in a limited sample of rows. Other rows may still have such values. */
export interface SampleFacts {
  rowsPerTable: number
  tables: number
  /** Tables skipped for lack of time. */
  skipped: number
  found: { table: string; column: string; what: 'multi-dimensional' | 'infinity' | 'bc' | 'nul' }[]
  /** The largest row of each table that may have large rows, unless time ran out. */
  largest: { table: string; bytes: number }[]
}

const PROVIDER_ROLES = ['rds_replication', 'rds_superuser', 'cloudsqlreplica', 'alloydbreplica', 'azure_pg_admin']

export interface SourceQuestion {
  schema: string
  slot: string
  publication: string
  /** Selects the expected tables from the schema, and builds the regular expression for MOLT. */
  choose(schema: Schema): { tables: readonly string[]; filter: string }
  /** How long the WAL rate is measured, in milliseconds. */
  walWindowMs: number
  sampleRows: number
  sampleMs: number
}

/**
 * Reads the catalog part of {@link SourceFacts} with at most 20 statements. Changes nothing.
 * @param second a second connection for the table sizes, which take as long as everything else
 * @param onSchema called as soon as the schema is known, so that the caller does not have to wait for the rest
 */
export async function readSourceCatalog(
  db: Database,
  second: Database,
  question: SourceQuestion,
  onSchema: (schema: Schema) => void,
): Promise<Omit<SourceFacts, 'connection' | 'samples' | 'tools' | 'sequences'>> {
  const server = (await db.query(SERVER, [question.slot])).rows[0]
  requireKnownCatalog(server.version)
  const began = performance.now()
  const [schema, { rows }] = await Promise.all([
    readSchema(db, 'source', question.schema).then((found) => {
      onSchema(found)
      return found
    }),
    second.query<Omit<Relation, 'matched'>>(RELATIONS, [question.schema]),
  ])
  const role = (await db.query(ROLE, [question.schema, PROVIDER_ROLES])).rows[0]
  const matches = matcher(question.choose(schema))
  const relations = rows.map((each) =>
    Object.assign(each, { matched: each.schema === question.schema && matches(each.name) }),
  )
  const transactions = await db.query(TRANSACTIONS)
  const publication = await db.query(PUBLICATION, [question.publication])
  const programs = await db.query(PROGRAMS, [question.schema])
  const features = (await db.query(FEATURES)).rows[0]
  const statements = features.statements ? await readStatements(db, features.statements.name) : null
  const odd = await db.query(ODD_DATES, [question.schema])
  const owner = (await readHeartbeatOwner(db, features.heartbeat))?.migration
  const fence = (await readFence(db, features.lease)).state
  await sleep(Math.max(0, question.walWindowMs - (performance.now() - began)))
  const bytes = (await db.query(WAL_SINCE, [server.lsn])).rows[0].bytes
  const walBytesPerSecond = Number(bytes) / ((performance.now() - began) / 1000)
  return {
    server: { ...server, walBytesPerSecond },
    role,
    schema: { ...schema, partitions: partitionsOf(relations, question.schema) },
    relations,
    transactions: transactions.rows,
    publication: publication.rows[0] ?? null,
    programs: programs.rows,
    features,
    statements,
    statementsSchema: features.statements,
    oddDates: odd.rows,
    owner,
    fence,
    masked: features.masked,
  }
}

/** Linux refuses an argument of this length (MAX_ARG_STRLEN, including the terminating byte). */
export const ARGUMENT_LIMIT = 131_071

/** Matches names in JavaScript, because PostgreSQL's regular expressions fail at 10,000 names. */
function matcher({ filter, tables }: { filter: string; tables: readonly string[] }): (name: string) => boolean {
  const names = new Set(tables)
  if (Buffer.byteLength(filter) >= ARGUMENT_LIMIT) return (name) => names.has(name)
  const expression = new RegExp(filter)
  return (name) => expression.test(name)
}

/**
 * Rejects PostgreSQL before 12, whose catalogs lack columns that the other statements read.
 * @throws UserError `source.version-unsupported`
 */
function requireKnownCatalog(version: number): void {
  if (version < 120_000)
    throw new UserError(
      'source.version-unsupported',
      `the source is PostgreSQL ${Math.floor(version / 10_000)}, but MOLT verifies only 12 to 16. Upgrade it, or migrate from a logical replica`,
    )
}

function partitionsOf(relations: readonly Relation[], schema: string): { root: string; name: string }[] {
  const prefix = `${schema}.`
  return relations.flatMap((each) =>
    each.partition && each.root?.startsWith(prefix)
      ? [{ root: each.root.slice(prefix.length), name: `${each.schema}.${each.name}` }]
      : [],
  )
}

const SERVER = `
  WITH setting AS (SELECT name, setting FROM pg_catalog.pg_settings),
       role AS (SELECT rolname, rolconnlimit, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
  SELECT current_setting('server_version_num')::int AS version,
         pg_catalog.pg_is_in_recovery() AS "inRecovery", current_setting('wal_level') AS "walLevel",
         current_setting('max_replication_slots')::int AS "slotsMax",
         current_setting('max_replication_slots')::int
           - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int AS "slotsFree",
         current_setting('max_wal_senders')::int AS "sendersMax",
         current_setting('max_wal_senders')::int
           - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int AS "sendersFree",
         current_database() AS database, current_setting('server_encoding') AS encoding,
         (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS "systemIdentifier",
         (SELECT oid::text FROM pg_catalog.pg_database WHERE datname = current_database()) AS "databaseOid",
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()) AS timeline,
         (SELECT setting::int FROM setting WHERE name = 'max_slot_wal_keep_size') AS "slotKeepMiB",
         (SELECT setting::int FROM setting WHERE name = 'wal_sender_timeout') AS "senderTimeoutMs",
         current_setting('max_connections')::int AS "connectionsMax",
         jsonb_build_object('server',
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')::int,
           'role', (SELECT CASE WHEN rolconnlimit < 0 OR rolsuper THEN 100000 ELSE rolconnlimit - (SELECT count(*) FROM
             pg_catalog.pg_stat_activity WHERE usename = rolname AND backend_type = 'client backend')::int END FROM role),
           'database', (SELECT CASE WHEN datconnlimit < 0 THEN 100000 ELSE datconnlimit - (SELECT count(*) FROM
             pg_catalog.pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend')::int END
             FROM pg_catalog.pg_database WHERE datname = current_database())) AS "connectionsFree",
         CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
              ELSE pg_catalog.pg_current_wal_lsn() END::text AS lsn,
         coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()), false) AS encrypted,
         (SELECT to_jsonb(s) FROM pg_catalog.pg_replication_slots s WHERE slot_name = $1) AS slot`

const WAL_SINCE = `
  SELECT pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
    ELSE pg_catalog.pg_current_wal_lsn() END, $1::pg_lsn)::float8 AS bytes`

const ROLE = `
  SELECT r.rolname AS name, r.rolsuper AS superuser, r.rolreplication AS replication,
         has_database_privilege(current_database(), 'CREATE') AS "createOnDatabase",
         coalesce(has_schema_privilege((SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1), 'USAGE'), false)
           AS "schemaUsage",
         r.rolsuper OR pg_has_role('pg_read_all_stats', 'USAGE') AS "seesOthers",
         ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY($2) ORDER BY 1) AS "providerRoles",
         ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles p WHERE rolname = ANY($2) AND pg_has_role(p.oid, 'USAGE')
                ORDER BY 1) AS "providerGranted"
    FROM pg_catalog.pg_roles r WHERE rolname = current_user`

const RELATIONS = `
  WITH RECURSIVE tree AS (
    SELECT c.oid, NULL::oid AS root FROM pg_catalog.pg_class c
     WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AND NOT c.relispartition
    UNION ALL
    SELECT i.inhrelid, coalesce(tree.root, tree.oid) FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
  SELECT n.nspname AS schema, c.relname AS name, c.relkind AS kind, c.relpersistence AS persistence,
         c.relreplident AS identity, c.relispartition AS partition, rn.nspname || '.' || r.relname AS root,
         NOT c.relispartition AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS inherits,
         ARRAY(SELECT cn.nspname || '.' || k.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid
           JOIN pg_catalog.pg_namespace cn ON cn.oid = k.relnamespace WHERE i.inhparent = c.oid AND NOT k.relispartition
           ORDER BY 1) AS children,
         EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
           AND d.objid = c.oid AND d.deptype = 'e') AS extension,
         pg_catalog.pg_get_userbyid(c.relowner) AS owner, coalesce(w.rolsuper, false) AS "ownerIsSuperuser",
         pg_has_role(c.relowner, 'USAGE') AS owned,
         has_table_privilege(c.oid, 'SELECT') AS readable, row_security_active(c.oid) AS "rowsHidden",
         c.relrowsecurity AND c.relforcerowsecurity AS "rowsHiddenFromOwner",
         c.reltuples::float8 AS rows, (size.main + size.toast)::float8 AS bytes, size.toast::float8 AS "toastBytes",
         coalesce(pg_catalog.pg_stat_get_tuples_updated(c.oid), 0)::float8 AS updates,
         EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed,
         ARRAY(SELECT on2.nspname::text FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace on2
           ON on2.oid = o.relnamespace WHERE o.relname = c.relname AND o.oid <> c.oid AND o.relkind IN ('r', 'p')
           AND o.relpersistence <> 't' AND on2.nspname NOT IN ('pg_catalog', 'information_schema')) AS namesakes
    FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_roles w ON w.oid = c.relowner
    LEFT JOIN pg_catalog.pg_class r ON r.oid = tree.root
    LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
   CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.pg_relation_size(c.oid), 0) AS bytes OFFSET 0) main
   -- An empty table has no TOASTed values, which saves looking at a second file.
   CROSS JOIN LATERAL (SELECT main.bytes AS main, CASE WHEN main.bytes > 0 AND c.reltoastrelid <> 0
     THEN coalesce(pg_catalog.pg_relation_size(c.reltoastrelid), 0) ELSE 0 END AS toast OFFSET 0) size
   WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') ORDER BY 1, 2`

const TRANSACTIONS = `
  SELECT 'transaction' AS kind, 'PID ' || pid || ' (' || concat_ws(', ', usename, nullif(application_name, ''), state) || ')'
           AS who, extract(epoch FROM clock_timestamp() - xact_start)::float8 * 1000 AS "ageMs"
    FROM pg_catalog.pg_stat_activity WHERE xact_start < clock_timestamp() - interval '1 second'
     AND pid <> pg_catalog.pg_backend_pid() AND backend_type = 'client backend'
  UNION ALL
  SELECT 'prepared', gid || ' (' || owner || ', database ' || database || ')',
         extract(epoch FROM clock_timestamp() - prepared)::float8 * 1000 FROM pg_catalog.pg_prepared_xacts
  ORDER BY 3 DESC LIMIT 1000`

// to_jsonb, because the columns for row filters and column lists exist only since PostgreSQL 15.
const PUBLICATION = `
  SELECT p.puballtables AS "allTables", p.pubtruncate AS truncate, pg_catalog.pg_get_userbyid(p.pubowner) AS owner,
         coalesce((SELECT jsonb_agg(jsonb_build_object('schema', t.schemaname, 'table', t.tablename,
           'filtered', to_jsonb(r) ->> 'prqual' IS NOT NULL, 'listed', to_jsonb(r) ->> 'prattrs' IS NOT NULL)
             ORDER BY t.schemaname, t.tablename)
           FROM pg_catalog.pg_publication_tables t
           JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
           LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
          WHERE t.pubname = p.pubname), '[]') AS tables
    FROM pg_catalog.pg_publication p WHERE p.pubname = $1`

const PROGRAMS = `
  SELECT 'trigger' AS kind, c.relname AS table, t.tgname AS name, NULL AS uses
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = $1 AND NOT t.tgisinternal AND t.tgname <> 'molt_actions_fence' AND NOT c.relispartition
  UNION ALL
  SELECT 'rule', c.relname, w.rulename, NULL FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND w.rulename <> '_RETURN'
  UNION ALL
  SELECT 'routine', NULL, n.nspname || '.' || p.proname, substring(p.prosrc FROM '(?i)(notify|advisory_\\w*lock)')
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
   WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prosrc ~* '(\\mnotify\\M|pg_notify|advisory_\\w*lock)'
     AND p.prolang <> (SELECT oid FROM pg_catalog.pg_language WHERE lanname = 'c')
  ORDER BY 1, 2, 3`

const FEATURES = `
  SELECT coalesce((SELECT jsonb_agg(jsonb_build_object('name', extname, 'version', extversion) ORDER BY extname)
           FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'), '[]') AS extensions,
         (SELECT count(*) FROM (SELECT FROM pg_catalog.pg_largeobject_metadata LIMIT 1000) few)::int AS "largeObjects",
         (SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'
           AND pid <> pg_catalog.pg_backend_pid())::int AS "advisoryLocks",
         -- As text, because a statement fails if it names a missing table.
         (SELECT CASE WHEN has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
                 THEN coalesce(substring(pg_catalog.query_to_xml('SELECT state FROM ${MASK}.run', false, true, '')::text
                   FROM '<state>(\\w+)</state>'), 'unknown') ELSE 'unknown' END
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = '${MASK}' AND c.relname = 'run') AS masked,
         to_regclass('${OUR_SCHEMA}.${HEARTBEAT}') IS NOT NULL AS heartbeat, to_regclass('${LEASE}') IS NOT NULL AS lease,
         (SELECT jsonb_build_object('name', n.nspname, 'usable', has_schema_privilege(n.oid, 'USAGE'))
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relname = 'pg_stat_statements' AND c.relkind = 'v' LIMIT 1) AS statements`

/** Reads pg_stat_statements; null when its library is not loaded or this role cannot read it. */
async function readStatements(db: Database, schema: string): Promise<SourceFacts['statements']> {
  const sql = `
    SELECT coalesce(bool_or(query ~* '^\\s*(listen|notify)\\M' OR query ~* 'pg_notify'), false) AS listens,
           coalesce(bool_or(query ~* 'pg_(try_)?advisory'), false) AS "advisoryLocks",
           coalesce(max(rows / greatest(calls, 1)) FILTER (WHERE query ~* '^\\s*(insert|update|delete|copy|merge)\\M'), 0)
             ::float8 AS "largestRows"
      FROM ${ident(schema)}.pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
       AND query !~ 'pg_stat_statements'`
  return db.query(sql).then(
    ({ rows }) => rows[0],
    () => null,
  )
}

const ODD_DATES = `
  SELECT s.tablename || '.' || s.attname AS column, seen ~ 'infinity' AS infinity, seen ~ ' BC' AS bc
    FROM pg_catalog.pg_stats s
    JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname
    CROSS JOIN LATERAL (SELECT concat(s.most_common_vals::text, s.histogram_bounds::text) AS seen) found
   WHERE s.schemaname = $1 AND a.atttypid = ANY('{date,timestamp,timestamptz}'::regtype[]) AND seen ~ 'infinity| BC'
   ORDER BY 1`

/**
 * Checks that two connections reach the same server, each in its own session, and that a snapshot of one can be read on
 * the other, as `molt fetch` needs. A pooler must support replication connections.
 */
export async function readConnection(db: Database, second: Database, url: string): Promise<ConnectionFacts> {
  const doubts: string[] = []
  const who = async (of: Database) => (await of.query(WHO)).rows[0]
  const [one, two, again] = [await who(db), await who(second), await who(db)]
  if (one.pid !== again.pid || one.token !== again.token || one.token === two.token)
    doubts.push('two server sessions answered statements of one connection')
  if (one.since.getTime() !== two.since.getTime()) doubts.push('two connections reached two different servers')
  const doubt = doubts.length ? undefined : await snapshotDoubt(db, second)
  if (doubt) doubts.push(doubt)
  // A pooler reports its own cancel key, with another process id.
  const pooled = (db as unknown as { processID: number }).processID !== one.pid
  if (pooled && !(await replicates(url)))
    doubts.push('a pooler between this runner and the server refuses replication connections')
  return { doubts, certificateUntil: certificateEnd(db) }
}

/** `token` identifies a session, because each of our sessions has a different lock_timeout. */
const WHO = `SELECT pg_catalog.pg_backend_pid() AS pid, pg_catalog.pg_postmaster_start_time() AS since,
                    current_setting('lock_timeout') AS token`

async function replicates(url: string): Promise<boolean> {
  const db = await connectForReplication(url, 'molt-actions').catch(() => undefined)
  const answer = await db?.query('IDENTIFY_SYSTEM').catch(() => undefined)
  await db?.end().catch(() => {})
  return answer?.rows.length === 1
}

async function snapshotDoubt(db: Database, second: Database): Promise<string | undefined> {
  const begin = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY'
  try {
    await db.query(begin)
    const { rows } = await db.query('SELECT pg_catalog.pg_export_snapshot() AS id')
    await second.query(begin)
    await second.query(`SET TRANSACTION SNAPSHOT '${rows[0].id}'`)
    return undefined
  } catch (error) {
    return `a snapshot exported on one connection cannot be read on another (${messageOf(error)})`
  } finally {
    for (const each of [db, second]) await each.query('ROLLBACK').catch(() => {})
  }
}

/**
 * Reads the sequences that are moved, and their highest used numbers. Uses the sequence's own value if this role cannot
 * read its column; another check reports the missing privilege.
 */
export async function readSequenceFacts(
  db: Database,
  schema: string,
  tables: readonly string[],
): Promise<SourceFacts['sequences']> {
  const sequences = await readSourceSequences(db, schema)
  const moved = sequences.filter(({ table }) => !table || tables.includes(table))
  const used = await lastUsed(moved, { db, schema }).catch((error) => {
    if (sqlState(error) !== '42501') throw error
  })
  return moved.map((sequence) => ({ sequence, used: used?.get(sequence.name) ?? sequence.lastValue }))
}

/** Expiry of the server's TLS certificate; null without TLS. */
export function certificateEnd(db: Database): Date | null {
  const { stream } = (db as unknown as { connection: { stream: Partial<TLSSocket> } }).connection
  const until = stream.getPeerCertificate?.()?.valid_to
  return until ? new Date(until) : null
}

const SAMPLED: { type: RegExp; what: SampleFacts['found'][number]['what']; test(column: string): string }[] = [
  { type: /\[\]$/, what: 'multi-dimensional', test: (column) => `pg_catalog.array_ndims(${column}) > 1` },
  { type: /^(date|timestamp)(?!.*\[\])/, what: 'infinity', test: (column) => `NOT pg_catalog.isfinite(${column})` },
  {
    type: /^(date|timestamp)(?!.*\[\])/,
    what: 'bc',
    test: (column) => `${column} < '0001-01-01' AND pg_catalog.isfinite(${column})`,
  },
  { type: /^json$/, what: 'nul', test: (column) => `strpos(${column}::text, '\\u0000') > 0` },
]

/** Samples the first rows of each table for values that change or fail during the migration. Stops when time is up. */
export async function readSamples(
  db: Database,
  schema: Schema,
  relations: readonly Relation[],
  question: SourceQuestion,
): Promise<SampleFacts> {
  const deadline = performance.now() + question.sampleMs
  const before = (await db.query('SHOW statement_timeout')).rows[0].statement_timeout
  await db.query(`SET statement_timeout = ${question.sampleMs}`)
  const expected = new Set(question.choose(schema).tables)
  const known = new Map<string, typeof SAMPLED>()
  const testsOf = (type: string) => {
    const tests = known.get(type) ?? SAMPLED.filter((each) => each.type.test(type))
    known.set(type, tests)
    return tests
  }
  const samples: SampleFacts = { rowsPerTable: question.sampleRows, tables: 0, skipped: 0, found: [], largest: [] }
  for (const table of schema.tables) {
    if (!expected.has(table.name)) continue
    const tests = table.columns.flatMap((column) =>
      testsOf(column.type).map((each) => ({ ...each, column: column.name })),
    )
    if (!tests.length) continue
    if (performance.now() > deadline) {
      samples.skipped++
      continue
    }
    const from = `${ident(schema.name)}.${ident(table.name)}`
    const picked = [...new Set(tests.map((each) => ident(each.column)))].join(', ')
    const asked = tests.map((each) => `coalesce(bool_or(${each.test(ident(each.column))}), false)`).join(', ')
    const text = `SELECT ${asked} FROM (SELECT ${picked} FROM ${from} LIMIT ${question.sampleRows}) few`
    const row = await db.query<boolean[]>({ text, rowMode: 'array' }).then(
      ({ rows }) => rows[0] ?? [],
      () => undefined,
    )
    if (!row) samples.skipped++
    else samples.tables++
    tests.forEach(({ column, what }, at) => {
      if (row?.[at]) samples.found.push({ table: table.name, column, what })
    })
  }
  for (const table of mayBeLarge(schema, relations, expected)) {
    const bytes = performance.now() < deadline ? await largestRow(db, schema.name, table).catch(() => null) : null
    if (bytes === null) samples.skipped++
    else samples.largest.push({ table: table.name, bytes })
  }
  await db.query(`SET statement_timeout = '${before}'`)
  return samples
}

/** Bytes of TOAST above which a table may have large rows. The limit is low, because values can be compressed. */
const LONG_VALUES = 2 ** 20

function mayBeLarge({ name, tables }: Schema, relations: readonly Relation[], expected: Set<string>) {
  const long = new Set(
    relations.flatMap((each) => (each.toastBytes > LONG_VALUES ? [each.root ?? `${each.schema}.${each.name}`] : [])),
  )
  return tables.filter((table) => expected.has(table.name) && long.has(`${name}.${table.name}`))
}

/** Bytes of the largest row. Reads stored lengths, not values; for json and arrays, the length after compression. */
async function largestRow(db: Database, schema: string, { name, columns }: Schema['tables'][number]): Promise<number> {
  const sizes = columns.map((column) => {
    const known = /^(text|bytea|character)/.test(column.type) && !column.type.endsWith('[]')
    return `coalesce(${known ? 'octet_length' : 'pg_catalog.pg_column_size'}(${ident(column.name)}), 0)`
  })
  const { rows } = await db.query(
    `SELECT coalesce(max(${sizes.join(' + ')}), 0)::float8 AS bytes FROM ${ident(schema)}.${ident(name)}`,
  )
  return rows[0].bytes
}
