// SHOW of jobs, sessions, statistics, triggers and grants: as a statement, in brackets, and in WITH.
import { quoteText, type StatementRule } from '../rule.ts'
import type { Statement, Token, Version } from '../types.ts'

const JOB_COLUMNS =
  'job_type, %s AS description, user_name, status, running_status, created, started, finished, modified, fraction_completed, error, coordinator_id'

export const SHOW_RULES: StatementRule[] = [
  {
    id: 'show.jobs',
    says: 'SHOW JOBS cuts the description to 100 characters; SHOW JOB does not. Without VIEWJOB, both show only your own jobs.',
    source: 'docs: show-jobs.md; pkg/sql/delegate/show_jobs.go',
    since: [24, 1],
    plan: (statement, { version }) => whole(statement, version),
  },
  {
    id: 'show.sessions',
    says: 'Without VIEWACTIVITY or VIEWACTIVITYREDACTED, SHOW CLUSTER SESSIONS shows only your own sessions and returns no error.',
    source: 'docs: show-sessions.md',
    plan: () => undefined,
  },
  {
    id: 'show.statistics',
    says: 'SHOW STATISTICS lists column statistics. Partial statistics have a predicate.',
    source: 'docs: show-statistics.md; cockroachdb/cockroach#133988',
    plan: () => undefined,
  },
  {
    id: 'show.tables',
    says: "SHOW TABLES lists a schema's tables, views and sequences with their types and owners.",
    source: 'docs: show-tables.md',
    plan: () => undefined,
  },
  {
    id: 'show.triggers',
    says: 'SHOW TRIGGERS FROM t lists triggers even where pg_trigger is empty.',
    source: 'cockroachdb/cockroach#147248',
    since: [24, 3],
    plan: () => undefined,
  },
]

function whole(statement: Statement, version: Version) {
  const sql = statement.tokens[0]?.value === 'show' ? showSql(statement.tokens, statement.sql, version) : undefined
  return sql ? { sql, retryable: true } : undefined
}

/** The SELECT that replaces `SHOW …`; undefined if this server does not support that form. */
export function showSql(tokens: readonly Token[], sql: string, version: Version): string | undefined {
  const words = tokens.map(({ value }) => value)
  const rest = (from: number) => sql.slice(tokens[from]?.start, tokens.at(-1)?.end)
  const opens = (...expected: string[]) => expected.every((word, at) => words[at] === word)
  const jobs = (description: string, where = '') =>
    `SELECT job_id, ${JOB_COLUMNS.replace('%s', description)} FROM _crdb.visible_jobs${where} ORDER BY created DESC`
  if (opens('show', 'jobs') && words.length === 2) return jobs('left(description, 100)')
  if (opens('show', 'job')) return jobs('description', ` WHERE job_id = ${rest(2)}::int8`)
  const cluster = words[1] === 'cluster' ? 2 : 1
  if (words[0] === 'show' && words[cluster] === 'sessions') return 'SELECT * FROM _crdb.visible_sessions()'
  if (opens('show', 'triggers', 'from'))
    return `SELECT tgname AS trigger_name, tgenabled <> 'D' AS enabled FROM pg_catalog.pg_trigger
      WHERE tgrelid = ${quoteText(rest(3))}::pg_catalog.regclass AND NOT tgisinternal ORDER BY 1`
  if (opens('show', 'tables')) return tablesSql(tokens.slice(3))
  if (opens('show', 'statistics')) return statisticsSql(tokens, rest, version)
  if (opens('show', 'grants')) return grantsSql(tokens)
  if (opens('show', 'system', 'grants'))
    return `SELECT grantee, privilege AS privilege_type, false AS is_grantable FROM _crdb.system_grants ORDER BY 1, 2`
  if (opens('show', 'databases')) return `SELECT datname AS database_name FROM pg_catalog.pg_database ORDER BY 1`
  if (opens('show', 'roles') || opens('show', 'users'))
    return `SELECT rolname AS username, concat_ws(', ', CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
        CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN NOT rolcanlogin THEN 'NOLOGIN' END) AS options
      FROM pg_catalog.pg_roles WHERE rolname NOT LIKE 'pg\\_%' ORDER BY 1`
  if (opens('show', 'zone', 'configuration', 'from')) return zoneSql(tokens.slice(4), rest(4))
  return undefined
}

/** Reads `FROM database.schema`, `FROM schema`, or nothing for all schemas. */
function tablesSql(names: readonly Token[]): string {
  const schema = names.filter(({ text }) => text !== '.').at(-1)?.value
  return `SELECT n.nspname AS schema_name, c.relname AS table_name,
      CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' ELSE 'table' END AS type,
      o.rolname AS owner, 0::int8 AS estimated_row_count, NULL::text AS locality
    FROM _crdb.pg_class c JOIN _crdb.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
   WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'crdb_internal')
     AND ${schema === undefined ? 'true' : `n.nspname = ${quoteText(schema)}`} ORDER BY 1, 2`
}

/** Key of a zone's settings: `table schema.name` or `database name`. */
export function zoneOf(tokens: readonly Token[]): string {
  const [kind, ...names] = tokens.filter(({ text }) => text !== '.').map(({ value }) => value)
  return kind === 'table' ? `table ${names.at(-2) ?? 'public'}.${names.at(-1)}` : `${kind} ${names.at(-1)}`
}

function zoneSql(tokens: readonly Token[], target: string): string {
  return `SELECT ${quoteText(target)} AS target, format('ALTER %s CONFIGURE ZONE USING gc.ttlseconds = %s', target, gc_seconds) AS raw_config_sql
    FROM (SELECT 1 AS rank, target, gc_seconds FROM _crdb.zones WHERE target = ${quoteText(zoneOf(tokens))}
      UNION ALL SELECT 2, target, gc_seconds FROM _crdb.zones WHERE target = 'database ' || current_database()
      UNION ALL SELECT 3, 'RANGE default', 14400) zones ORDER BY rank LIMIT 1`
}

function statisticsSql(tokens: readonly Token[], rest: (from: number) => string, version: Version): string {
  const at = tokens.findIndex(({ value }) => value === 'table')
  const row = (name: string, age: string, rows: string, predicate: string) =>
    `SELECT '${name}'::text AS statistics_name, ARRAY['rowid'] AS column_names, now() - interval '${age}' AS created,
      ${rows}::int8 AS row_count, ${rows}::int8 AS distinct_count, 0::int8 AS null_count,
      0::int8 AS avg_size, '${predicate}'::text AS partial_predicate, NULL::int8 AS histogram_id,
      NULL::int8 AS full_histogram_id
    FROM pg_catalog.pg_class WHERE oid = ${quoteText(rest(at + 1))}::pg_catalog.regclass AND reltuples >= 0`
  const full = row('__auto__', '1 hour', 'greatest(reltuples, 0)', '')
  // Partial statistics are newer, and cover only rows beyond the last full histogram (cockroachdb/cockroach#133988).
  const partial = row('__auto_partial__', '1 minute', '0', '(id IS NULL) OR (id > 0:::INT8)')
  return version[0] >= 25 ? `SELECT * FROM (${full} UNION ALL ${partial}) s ORDER BY created` : full
}

function grantsSql(tokens: readonly Token[]): string {
  const after = (word: string) => {
    const at = tokens.findIndex(({ value }) => value === word)
    return at < 0 ? undefined : tokens.slice(at + 1).filter(({ value }) => value !== 'table')
  }
  const table = after('on')
  const role = after('for')
  const conditions = ['true']
  if (table)
    conditions.push(
      `p.table_name = ${quoteText(
        table
          .filter(({ value }) => value !== '.')
          .filter(({ value }) => value !== 'for')
          .slice(0, 3)
          .at(-1)?.value ?? '',
      )}`,
    )
  if (role) conditions.push(`p.grantee = ${quoteText(role[0]?.value ?? '')}`)
  return `SELECT p.table_catalog AS database_name, p.table_schema AS schema_name, p.table_name, p.grantee,
      p.privilege_type, p.is_grantable = 'YES' AS is_grantable FROM _crdb.table_privileges p
    WHERE ${conditions.join(' AND ')} ORDER BY 1, 2, 3, 4, 5`
}
