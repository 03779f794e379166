// Objects that the server adds to each database of the PostgreSQL server behind it: the schema `_crdb`, hidden from
// clients, with catalogs as CockroachDB shows them, and the CockroachDB functions that the actions call.
import { OF_TABLE, shownName } from './rules/names.ts'
import { lockedByDefault } from './rules/schema-locks.ts'
import { ownVariables } from './rules/settings.ts'
import type { Version } from './types.ts'

/** Catalogs read from `_crdb` instead of `pg_catalog`. */
export const PG_CATALOGS = [
  'pg_class',
  'pg_constraint',
  'pg_index',
  'pg_indexes',
  'pg_locks',
  'pg_namespace',
  'pg_roles',
  'pg_settings',
  'pg_stat_activity',
  'pg_tables',
  'pg_trigger',
] as const

/** Views read from `_crdb` instead of `information_schema`. */
export const INFORMATION_SCHEMA = [
  'check_constraints',
  'columns',
  'referential_constraints',
  'schemata',
  'table_privileges',
  'role_table_grants',
  'tables',
] as const

/** Functions whose calls are redirected to `_crdb`, wherever they appear. */
export const FUNCTIONS = [
  'version',
  'cluster_logical_timestamp',
  'follower_read_timestamp',
  'pg_advisory_lock',
  'pg_advisory_unlock',
  'pg_advisory_unlock_all',
  'pg_advisory_xact_lock',
  'pg_try_advisory_lock',
  'pg_try_advisory_xact_lock',
  'pg_get_constraintdef',
  'pg_has_role',
  'set_config',
  'unique_rowid',
] as const

const since = (version: Version, [major, minor]: Version) =>
  version[0] > major || (version[0] === major && version[1] >= minor)

const SEEN_TABLE = `(pg_catalog.pg_has_role(c.relowner, 'USAGE') OR has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE'))`

const INDEX_KEY = '(i.indkey::int2[])[0:i.indnkeyatts - 1]'
/** A unique index as a row of CockroachDB's pg_constraint. */
const UNIQUE_INDEX = {
  oid: 'i.indexrelid',
  conname: shownName('c.relname'),
  connamespace: 'c.relnamespace',
  contype: `'u'::"char"`,
  condeferrable: 'false',
  condeferred: 'false',
  convalidated: 'i.indisvalid',
  conrelid: 'i.indrelid',
  contypid: '0::oid',
  conindid: 'i.indexrelid',
  conparentid: '0::oid',
  confrelid: '0::oid',
  confupdtype: `' '::"char"`,
  confdeltype: `' '::"char"`,
  confmatchtype: `' '::"char"`,
  conislocal: 'true',
  coninhcount: '0::int2',
  connoinherit: 'true',
  conkey: INDEX_KEY,
  confkey: 'NULL::int2[]',
  conpfeqop: 'NULL::oid[]',
  conppeqop: 'NULL::oid[]',
  conffeqop: 'NULL::oid[]',
  confdelsetcols: 'NULL::int2[]',
  conexclop: 'NULL::oid[]',
  conbin: 'NULL::pg_node_tree',
}

/** A CockroachDB variable as a row of pg_settings. */
const OWN_SETTING = {
  name: 'v.own',
  setting: "coalesce(nullif(current_setting('crdb.' || v.own, true), ''), v.fallback)",
  unit: 'NULL::text',
  category: 'NULL::text',
  short_desc: 'NULL::text',
  extra_desc: 'NULL::text',
  context: "'user'",
  vartype: "'string'",
  source: "'default'",
  min_val: 'NULL::text',
  max_val: 'NULL::text',
  enumvals: 'NULL::text[]',
  boot_val: 'v.fallback',
  reset_val: 'v.fallback',
  sourcefile: 'NULL::text',
  sourceline: 'NULL::int4',
  pending_restart: 'false',
}

/** Adds the unique index that a foreign key depends on; PostgreSQL lists only constraints. */
const REFERRED = Object.fromEntries(
  [
    ['unique_constraint_schema', 'n.nspname'],
    ['unique_constraint_name', shownName('i.relname')],
  ].map(([column, name]) => [
    column,
    `coalesce(${column}::text, (SELECT ${name}::text FROM pg_catalog.pg_constraint k
       JOIN pg_catalog.pg_namespace own ON own.oid = k.connamespace JOIN pg_catalog.pg_class i ON i.oid = k.conindid
       JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
      WHERE own.nspname = constraint_schema AND k.conname = constraint_name AND k.contype = 'f' LIMIT 1))`,
  ]),
)

/**
 * Calls the function only for the few tables whose column ids differ, because a call per row would slow catalog
 * queries.
 */
const columnIds = (table: string, keys: string) =>
  `CASE WHEN ${table} IN (SELECT relid FROM _crdb.column_ids) THEN _crdb.column_ids(${table}, ${keys}) ELSE ${keys} END`

/** SQL that installs everything. Idempotent; requires a superuser. `name` is what `version()` returns. */
export function installSql(version: Version, name: string): string {
  const triggersShown = !since(version, [24, 3]) || since(version, [25, 3])
  const bypassShown = since(version, [25, 3])
  const numbered = since(version, [26, 3])
  // Whether the catalogs list indexes that are still being built.
  const listed = since(version, [26, 1])
  const ids: Record<string, string> = numbered
    ? {}
    : { conkey: columnIds('conrelid', 'conkey'), confkey: columnIds('confrelid', 'confkey') }
  const options = `CASE WHEN relkind = 'r' AND oid >= 16384
      AND coalesce((SELECT locked FROM _crdb.schema_locks WHERE relid = oid), ${lockedByDefault(version)})
    THEN array_append(coalesce(reloptions, '{}'), 'schema_locked=true') ELSE reloptions END`
  const unique = numbered ? UNIQUE_INDEX : { ...UNIQUE_INDEX, conkey: columnIds('i.indrelid', INDEX_KEY) }
  return `
    CREATE SCHEMA IF NOT EXISTS _crdb;
    GRANT USAGE ON SCHEMA _crdb TO PUBLIC;
    CREATE SCHEMA IF NOT EXISTS crdb_internal;
    GRANT USAGE ON SCHEMA crdb_internal TO PUBLIC;

    CREATE TABLE IF NOT EXISTS _crdb.jobs (id int8 PRIMARY KEY, type text NOT NULL, description text NOT NULL,
      user_name text NOT NULL, status text NOT NULL, created timestamptz NOT NULL, finished timestamptz,
      fraction_completed float4 NOT NULL, error text);
    CREATE TABLE IF NOT EXISTS _crdb.offline (relid oid PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS _crdb.building (indexrelid oid PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS _crdb.column_ids (relid oid, attnum int2, id int2 NOT NULL, PRIMARY KEY (relid, attnum));
    CREATE TABLE IF NOT EXISTS _crdb.table_grants (relid oid, grantee text, privilege text, grantable bool NOT NULL,
      PRIMARY KEY (relid, grantee, privilege));
    CREATE TABLE IF NOT EXISTS _crdb.system_grants (grantee text, privilege text, PRIMARY KEY (grantee, privilege));
    CREATE TABLE IF NOT EXISTS _crdb.role_options (role text, option text, PRIMARY KEY (role, option));
    CREATE TABLE IF NOT EXISTS _crdb.cluster_settings (variable text PRIMARY KEY, value text NOT NULL);
    CREATE TABLE IF NOT EXISTS _crdb.zones (target text PRIMARY KEY, gc_seconds int8 NOT NULL);
    CREATE TABLE IF NOT EXISTS _crdb.schema_locks (relid oid PRIMARY KEY, locked bool NOT NULL);
    CREATE TABLE IF NOT EXISTS _crdb.statement_stats (aggregated_ts timestamptz NOT NULL, app_name text NOT NULL,
      metadata jsonb NOT NULL, statistics jsonb NOT NULL);
    CREATE TABLE IF NOT EXISTS _crdb.transaction_stats (LIKE _crdb.statement_stats);
    CREATE TABLE IF NOT EXISTS _crdb.results (nonce text PRIMARY KEY, result jsonb NOT NULL);
    GRANT SELECT ON ALL TABLES IN SCHEMA _crdb TO PUBLIC;
    CREATE OR REPLACE FUNCTION _crdb.import_result(wanted text) RETURNS TABLE (job_id int8, status text,
      fraction_completed float8, rows int8, index_entries int8, bytes int8) LANGUAGE sql STABLE AS $$
      SELECT r.* FROM _crdb.results, jsonb_to_record(result) r(job_id int8, status text, fraction_completed float8,
        rows int8, index_entries int8, bytes int8) WHERE nonce = wanted $$;

    CREATE OR REPLACE FUNCTION _crdb.raise(code text, message text, detail text, hint text) RETURNS text
      LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message,
        DETAIL = detail, HINT = hint; END $$;
    CREATE OR REPLACE FUNCTION _crdb.version() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '${name}' $$;
    CREATE SEQUENCE IF NOT EXISTS _crdb.logical;
    GRANT USAGE ON SEQUENCE _crdb.logical TO PUBLIC;
    CREATE OR REPLACE FUNCTION _crdb.cluster_logical_timestamp() RETURNS numeric LANGUAGE sql AS $$
      SELECT trunc(extract(epoch FROM clock_timestamp()) * 1000000)::numeric * 1000
             + (nextval('_crdb.logical') % 1000) * 0.0000000001 $$;
    CREATE OR REPLACE FUNCTION _crdb.cluster_logical_timestamp(kept text) RETURNS numeric LANGUAGE sql AS $$
      SELECT kept::numeric $$;
    CREATE OR REPLACE FUNCTION _crdb.crdb_internal_mvcc_timestamp(writer xid) RETURNS numeric LANGUAGE sql AS $$
      SELECT trunc(extract(epoch FROM pg_catalog.pg_xact_commit_timestamp(writer)) * 1000000)::numeric * 1000
             + 0.0000000000 $$;
    CREATE OR REPLACE FUNCTION _crdb.unique_rowid() RETURNS int8 LANGUAGE sql AS $$
      SELECT (extract(epoch FROM clock_timestamp()) * 100000)::int8 << 15 | (nextval('_crdb.logical') & 32767) $$;

    CREATE OR REPLACE FUNCTION _crdb.follower_read_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS $$
      SELECT pg_catalog.statement_timestamp() - interval '4.2 s' $$;
    CREATE OR REPLACE FUNCTION crdb_internal.increment_feature_counter(feature text) RETURNS bool LANGUAGE sql AS $$
      SELECT true $$;
    -- Advisory locks are accepted and have no effect.
    ${advisoryLocks()}

    CREATE OR REPLACE FUNCTION _crdb.is_admin(who text) RETURNS bool LANGUAGE sql STABLE AS $$
      SELECT coalesce((SELECT r.rolsuper OR pg_catalog.pg_has_role(r.oid, a.oid, 'MEMBER')
        FROM pg_catalog.pg_roles r, pg_catalog.pg_roles a WHERE r.rolname = who AND a.rolname = 'admin'), false) $$;
    CREATE OR REPLACE FUNCTION _crdb.pg_has_role(role name, privilege text) RETURNS bool LANGUAGE sql STABLE AS $$
      SELECT pg_catalog.pg_has_role(role, privilege) $$;
    CREATE OR REPLACE FUNCTION _crdb.pg_has_role(role oid, privilege text) RETURNS bool LANGUAGE sql STABLE AS $$
      SELECT pg_catalog.pg_has_role(role, privilege) $$;
    CREATE OR REPLACE FUNCTION _crdb.pg_has_role(who name, role name, privilege text) RETURNS bool LANGUAGE sql STABLE
      AS $$ SELECT pg_catalog.pg_has_role(who, role, privilege) $$;
    CREATE OR REPLACE FUNCTION _crdb.has_system_privilege(who text, wanted text) RETURNS bool LANGUAGE sql STABLE AS $$
      SELECT _crdb.is_admin(who) OR EXISTS (SELECT 1 FROM _crdb.system_grants s JOIN pg_catalog.pg_roles g
          ON g.rolname = s.grantee JOIN pg_catalog.pg_roles w ON w.rolname = who
        WHERE s.privilege IN (wanted, 'ALL') AND pg_catalog.pg_has_role(w.oid, g.oid, 'MEMBER')) $$;

    CREATE OR REPLACE FUNCTION _crdb.shard(shards int4, VARIADIC keys text[]) RETURNS int4 LANGUAGE sql IMMUTABLE AS $$
      SELECT ((hashtextextended(keys::text, 0) % shards + shards) % shards)::int4 $$;
    -- Restores the index's own name in its definition, and hides the column of a hash-sharded index.
    CREATE OR REPLACE FUNCTION _crdb.sharded(definition text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
      SELECT regexp_replace(regexp_replace(definition, '"?([^" ]*)${OF_TABLE}[0-9]+"?', '"\\1"'),
        '\\((crdb_internal_[^,]*_shard_([0-9]+)), (.*?)\\)', '(\\3) USING HASH WITH (bucket_count=\\2)') $$;
    CREATE OR REPLACE FUNCTION _crdb.hashed(key anyelement) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT key::text $$;
    -- A check's stored text has typed literals: total >= 0:::DECIMAL.
    CREATE OR REPLACE FUNCTION _crdb.typed(expression text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
      SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(regexp_replace(expression,
        '\\((-?[0-9]+)\\)::bigint', '\\1:::INT8', 'g'), '\\((-?[0-9.]+)\\)::numeric', '\\1:::DECIMAL', 'g'), '(''(?:[^'']|'''')*'')::text', '\\1:::STRING', 'g'),
        '(''(?:[^'']|'''')*'')::character varying', '\\1:::STRING', 'g'), '([<>=]) ([0-9]+)(?![0-9.:])', '\\1 \\2:::INT8', 'g') $$;
    CREATE OR REPLACE FUNCTION _crdb.pg_get_constraintdef(con oid) RETURNS text LANGUAGE sql STABLE AS $$
      SELECT CASE contype WHEN 'c' THEN _crdb.typed(pg_catalog.pg_get_constraintdef(oid))
        WHEN 'u' THEN regexp_replace(pg_catalog.pg_get_constraintdef(oid), '([a-z0-9_"]+)(?=[,)])', '\\1 ASC', 'g')
        ELSE pg_catalog.pg_get_constraintdef(oid) END FROM pg_catalog.pg_constraint WHERE oid = con
      UNION ALL SELECT CASE WHEN def ~ '^UNIQUE \\([^()]*\\)$' THEN regexp_replace(def, '([a-z0-9_"]+)(?=[,)])', '\\1 ASC', 'g')
          ELSE def END
        FROM pg_catalog.pg_index, regexp_replace(pg_catalog.pg_get_indexdef(indexrelid), '^.*? USING \\w+ ', 'UNIQUE ') def
        WHERE indexrelid = con $$;
    CREATE OR REPLACE FUNCTION _crdb.pg_get_constraintdef(con oid, pretty bool) RETURNS text LANGUAGE sql STABLE AS $$
      SELECT _crdb.pg_get_constraintdef(con) $$;
    CREATE OR REPLACE FUNCTION _crdb.column_ids(rel oid, keys int2[]) RETURNS int2[] LANGUAGE sql STABLE AS $$
      SELECT array_agg(coalesce(c.id, k.key) ORDER BY k.at) FROM unnest(keys) WITH ORDINALITY k(key, at)
        LEFT JOIN _crdb.column_ids c ON c.relid = rel AND c.attnum = k.key $$;

    CREATE OR REPLACE VIEW _crdb.pg_namespace AS SELECT * FROM pg_catalog.pg_namespace
      WHERE nspname <> '_crdb' AND nspname NOT LIKE 'pg_toast%' AND nspname NOT LIKE 'pg_temp%';
    ${view('pg_class', 'pg_catalog.pg_class', { relispartition: 'NULL::bool', relacl: 'NULL::aclitem[]', reltuples: 'NULL::float4', relname: `CASE WHEN relkind = 'i' THEN ${shownName('relname')} ELSE relname END`, reloptions: options })}
      WHERE relnamespace IN (SELECT oid FROM _crdb.pg_namespace) AND oid NOT IN (SELECT relid FROM _crdb.offline)
        AND relkind <> 't'${listed ? '' : ' AND oid NOT IN (SELECT indexrelid FROM _crdb.building)'};
    ${view('pg_constraint', 'pg_catalog.pg_constraint', ids)}
      WHERE connamespace IN (SELECT oid FROM _crdb.pg_namespace) AND conrelid NOT IN (SELECT relid FROM _crdb.offline)
    UNION ALL SELECT {{columns pg_catalog.pg_constraint ${JSON.stringify(unique)}}}
       FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
      WHERE i.indisunique AND c.relnamespace IN (SELECT oid FROM _crdb.pg_namespace)
        AND i.indrelid NOT IN (SELECT relid FROM _crdb.offline)
        AND i.indexrelid NOT IN (SELECT indexrelid FROM _crdb.building)
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid);
    ${view('pg_index', 'pg_catalog.pg_index', listed ? { indisvalid: 'indisvalid AND indexrelid NOT IN (SELECT indexrelid FROM _crdb.building)' } : {})}
      WHERE indrelid NOT IN (SELECT relid FROM _crdb.offline)${listed ? '' : ' AND indexrelid NOT IN (SELECT indexrelid FROM _crdb.building)'};
    ${view('pg_trigger', 'pg_catalog.pg_trigger', {})} WHERE ${triggersShown ? 'NOT tgisinternal' : 'false'};
    ${view('pg_roles', 'pg_catalog.pg_roles', bypassShown ? {} : { rolbypassrls: 'false' })}
      WHERE rolname NOT LIKE 'pg\\_%';
    -- CockroachDB's own variables, which PostgreSQL keeps as crdb.name.
    CREATE OR REPLACE VIEW _crdb.pg_settings AS SELECT * FROM pg_catalog.pg_settings WHERE name NOT LIKE 'crdb.%'
    UNION ALL SELECT {{columns pg_catalog.pg_settings ${JSON.stringify(OWN_SETTING)}}} FROM (VALUES ${ownVariables(
      version,
    )
      .map(({ name, value }) => `('${name}', '${value}')`)
      .join(', ')}) v(own, fallback);
    CREATE OR REPLACE FUNCTION _crdb.set_config(variable text, value text, local bool) RETURNS text LANGUAGE sql AS $$
      SELECT pg_catalog.set_config(CASE WHEN variable IN (${ownVariables(version)
        .map(({ name }) => `'${name}'`)
        .join(', ')}) THEN 'crdb.' || variable ELSE variable END, value, local) $$;
    ${view('pg_stat_activity', 'pg_catalog.pg_stat_activity', {})} WHERE false;
    ${view('pg_locks', 'pg_catalog.pg_locks', {})} WHERE false;
    ${view('pg_tables', 'pg_catalog.pg_tables', {})}
      WHERE schemaname <> '_crdb' AND NOT EXISTS (SELECT 1 FROM _crdb.offline o JOIN pg_catalog.pg_class c ON c.oid = o.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = schemaname AND c.relname = tablename);
    CREATE OR REPLACE VIEW _crdb.pg_indexes AS
      SELECT c.oid AS crdb_oid, i.schemaname, i.tablename, ${shownName('i.indexname')} AS indexname, i.tablespace,
             -- Resets the collation: current_database() has "C", which the view's column would inherit.
             _crdb.sharded(replace(regexp_replace(regexp_replace(i.indexdef, ' ON (ONLY )?', ' ON ' || ${since(version, [26, 3]) ? "''" : "quote_ident(current_database()) || '.'"}),
               ' INCLUDE ', ' STORING '), '::text', '')) COLLATE "default" AS indexdef
        FROM pg_catalog.pg_indexes i JOIN pg_catalog.pg_namespace n ON n.nspname = i.schemaname
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = i.indexname
       WHERE n.nspname <> '_crdb' AND c.oid NOT IN (SELECT indexrelid FROM _crdb.building);
    ${['columns', 'tables']
      .map(
        (name) => `${view(name, `information_schema.${name}`, {})} WHERE table_schema <> '_crdb'
      AND NOT EXISTS (SELECT 1 FROM _crdb.offline o JOIN pg_catalog.pg_class c ON c.oid = o.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = table_schema AND c.relname = table_name);`,
      )
      .join('\n    ')}
    -- A foreign key depends on a unique constraint, and every unique index is one.
    ${view('referential_constraints', 'information_schema.referential_constraints', REFERRED)};
    -- PostgreSQL shows a check only to its table's owner, CockroachDB to every role with a privilege on the table.
    CREATE OR REPLACE VIEW _crdb.check_constraints AS
      SELECT current_database()::text AS constraint_catalog, n.nspname::text AS constraint_schema,
             k.conname::text AS constraint_name,
             _crdb.typed(regexp_replace(substring(pg_catalog.pg_get_constraintdef(k.oid) FROM 7), ' NOT VALID$', '')) AS check_clause
        FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
       WHERE k.contype = 'c' AND n.nspname <> '_crdb' AND ${SEEN_TABLE}
      UNION ALL
      SELECT current_database(), n.nspname, concat(n.oid, '_', c.oid, '_', a.attnum, '_not_null'), a.attname || ' IS NOT NULL'
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND c.relkind IN ('r', 'p') AND n.nspname <> '_crdb'
         AND ${SEEN_TABLE};
    ${view('schemata', 'information_schema.schemata', {})} WHERE schema_name <> '_crdb';
    CREATE OR REPLACE VIEW _crdb.table_privileges AS
      SELECT NULL::text AS grantor, h.grantee::text AS grantee, current_database()::text AS table_catalog,
             h.nspname::text AS table_schema, h.relname::text AS table_name, h.privilege::text AS privilege_type,
             CASE WHEN h.grantable THEN 'YES' ELSE 'NO' END AS is_grantable,
             CASE h.privilege WHEN 'SELECT' THEN 'YES' ELSE 'NO' END AS with_hierarchy
        FROM (
        SELECT c.oid AS relid, n.nspname, c.relname, coalesce(g.rolname, 'public') AS grantee, a.privilege_type AS privilege,
               a.is_grantable AS grantable, c.relowner AS owner, c.relkind AS kind
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
          LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantee
         WHERE c.relkind IN ('r', 'p', 'v', 'm') AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRIGGER')
        UNION
        SELECT c.oid, n.nspname, c.relname, t.grantee, t.privilege, t.grantable, c.relowner, c.relkind
          FROM _crdb.table_grants t JOIN pg_catalog.pg_class c ON c.oid = t.relid
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        UNION
        SELECT c.oid, n.nspname, c.relname, w.rolname, 'ALL', true, c.relowner, c.relkind
          FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          CROSS JOIN LATERAL (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = c.relowner OR rolname IN ('admin', 'root')) w
         WHERE c.relkind IN ('r', 'p', 'v', 'm')) h
       WHERE h.nspname <> '_crdb'
         -- A role with ALL has no other entries.
         AND (h.privilege = 'ALL'
           OR NOT (h.kind IN ('r', 'p', 'v', 'm') AND h.grantee IN (pg_catalog.pg_get_userbyid(h.owner)::text, 'admin', 'root'))
             AND NOT EXISTS (SELECT 1 FROM _crdb.table_grants t
               WHERE t.relid = h.relid AND t.grantee = h.grantee AND t.privilege = 'ALL'));
    CREATE OR REPLACE VIEW _crdb.role_table_grants AS SELECT * FROM _crdb.table_privileges;

    CREATE OR REPLACE FUNCTION _crdb.transaction_id(pid int4) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
      SELECT lpad(to_hex(pid), 32, '0')::uuid $$;
    CREATE OR REPLACE VIEW _crdb.sessions AS
      SELECT 1 AS node_id, lpad(to_hex(pid), 32, '0') AS session_id,
             CASE WHEN state = 'idle' THEN 'IDLE' ELSE 'ACTIVE' END AS status, usename::text AS user_name,
             coalesce(client_addr::text || ':' || client_port, '') AS client_address, application_name,
             CASE WHEN state = 'active' THEN query ELSE '' END AS active_queries,
             query AS last_active_query, backend_start AS session_start, xact_start AS active_query_start,
             CASE WHEN xact_start IS NOT NULL THEN _crdb.transaction_id(pid)::text END AS kv_txn
        FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> '_crdb';
    CREATE OR REPLACE FUNCTION _crdb.visible_sessions() RETURNS SETOF _crdb.sessions LANGUAGE sql STABLE SECURITY DEFINER
      AS $$ SELECT * FROM _crdb.sessions WHERE user_name = session_user
        OR _crdb.has_system_privilege(session_user, 'VIEWACTIVITY')
        OR _crdb.has_system_privilege(session_user, 'VIEWACTIVITYREDACTED') $$;
    CREATE OR REPLACE VIEW crdb_internal.cluster_sessions AS SELECT * FROM _crdb.visible_sessions();
    CREATE OR REPLACE VIEW _crdb.visible_jobs AS
      SELECT id AS job_id, type AS job_type, description, user_name, status, ''::text AS running_status, created,
             created AS started, finished, coalesce(finished, created) AS modified, fraction_completed, error,
             1 AS coordinator_id
        FROM _crdb.jobs WHERE user_name = session_user OR _crdb.has_system_privilege(session_user, 'VIEWJOB')
          OR _crdb.has_system_privilege(session_user, 'CONTROLJOB');
    CREATE OR REPLACE VIEW crdb_internal.jobs AS SELECT * FROM _crdb.visible_jobs;
    -- Reading statistics requires a privilege. The server writes them before each read.
    CREATE OR REPLACE FUNCTION _crdb.require_activity() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
      IF _crdb.has_system_privilege(session_user, 'VIEWACTIVITY') OR _crdb.has_system_privilege(session_user, 'VIEWACTIVITYREDACTED')
      THEN RETURN true; END IF;
      RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = format(
        'user %s does not have VIEWACTIVITY or VIEWACTIVITYREDACTED privilege', session_user); END $$;
    -- Contended locks alone: one row for each transaction that waits, and one for each that it waits for. A range is a table.
    CREATE OR REPLACE FUNCTION _crdb.contended_locks() RETURNS TABLE (range_id int8, table_id int8, database_name text,
        table_name text, lock_key bytea, txn_id uuid, granted bool, contended bool) LANGUAGE plpgsql SECURITY DEFINER AS $$
      DECLARE hidden bool := NOT _crdb.is_admin(session_user)
        AND _crdb.has_system_privilege(session_user, 'VIEWACTIVITYREDACTED');
      BEGIN
      PERFORM _crdb.require_activity();
      RETURN QUERY
        WITH waits AS (
          SELECT l.pid, coalesce(l.relation, (SELECT t.relation FROM pg_catalog.pg_locks t
                   WHERE t.pid = l.pid AND t.locktype = 'tuple' AND t.granted LIMIT 1)) AS relation,
                 concat_ws('/', l.locktype, l.relation, l.page, l.tuple, l.transactionid, l.virtualxid) AS key
            FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
           WHERE NOT l.granted AND a.datname = current_database()),
        seen AS (
          SELECT relation, key, pid, false AS held FROM waits
          UNION SELECT relation, key, unnest(pg_catalog.pg_blocking_pids(pid)), true FROM waits)
        SELECT coalesce(seen.relation, 0)::int8, seen.relation::int8, current_database()::text, c.relname::text,
               convert_to(CASE WHEN hidden THEN '' ELSE seen.key END, 'UTF8'), _crdb.transaction_id(seen.pid), seen.held, true
          FROM seen LEFT JOIN pg_catalog.pg_class c ON c.oid = seen.relation; END $$;
    CREATE OR REPLACE VIEW crdb_internal.cluster_locks AS SELECT * FROM _crdb.contended_locks();
    ${statisticsView('statement_statistics', 'statement_stats')}
    ${statisticsView('transaction_statistics', 'transaction_stats')}
    GRANT SELECT ON ALL TABLES IN SCHEMA _crdb, crdb_internal TO PUBLIC;`
}

/** docs: functions-and-operators.md, "Compatibility functions". */
function advisoryLocks(): string {
  const answers = { lock: 'void', xact_lock: 'void', unlock: 'bool' }
  const tries = { lock: 'bool', xact_lock: 'bool' }
  const one = (name: string, type: string, keys: string) =>
    `CREATE OR REPLACE FUNCTION _crdb.${name}(${keys}) RETURNS ${type} LANGUAGE sql AS $$ SELECT ${type === 'bool' ? 'true' : ''} $$;`
  const all = [
    ...Object.entries(answers).map(([name, type]) => [`pg_advisory_${name}`, type] as const),
    ...Object.entries(tries).map(([name, type]) => [`pg_try_advisory_${name}`, type] as const),
  ]
  return [
    ...all.flatMap(([name, type]) => [one(name, type, 'key int8'), one(name, type, 'high int4, low int4')]),
    one('pg_advisory_unlock_all', 'void', ''),
  ].join('\n    ')
}

function statisticsView(name: string, table: string): string {
  return `CREATE OR REPLACE VIEW crdb_internal.${name} AS SELECT aggregated_ts, app_name, metadata, statistics,
      interval '1 hour' AS aggregation_interval FROM _crdb.${table} WHERE _crdb.require_activity();`
}

/** Creates the roles that exist in every cluster. Needed once per server, not per database. */
export const ROLES_SQL = `
  DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'admin') THEN CREATE ROLE admin SUPERUSER; END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'root') THEN CREATE ROLE root SUPERUSER LOGIN; END IF;
  END $$`

/**
 * Builds a view with all columns of a catalog table, some of them replaced. {@link fillColumns} inserts the column
 * list.
 */
function view(name: string, from: string, replaced: Record<string, string>): string {
  const changes = Object.entries(replaced)
  if (!changes.length) return `CREATE OR REPLACE VIEW _crdb.${name} AS SELECT * FROM ${from}`
  return `CREATE OR REPLACE VIEW _crdb.${name} AS SELECT {{columns ${from} ${JSON.stringify(replaced)}}} FROM ${from}`
}

/** Inserts the column lists that `columnsOf` returns. */
export async function fillColumns(sql: string, columnsOf: (catalog: string) => Promise<string[]>): Promise<string> {
  let filled = sql
  for (const [placeholder, catalog, replaced] of sql.matchAll(/\{\{columns (\S+) (\{.*?\})\}\}/g)) {
    const changes: Record<string, string> = JSON.parse(replaced as string)
    const columns = await columnsOf(catalog as string)
    const list = columns.map((column) => (changes[column] ? `${changes[column]} AS ${column}` : column)).join(', ')
    filled = filled.replace(placeholder, () => list)
  }
  return filled
}
