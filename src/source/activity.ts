import { type Database, ident, sqlState } from '../runtime/database.ts'

/*
 * Reads PostgreSQL's statistics about an application: pg_stat_database, pg_stat_activity, and pg_stat_statements if it
 * is installed. Resets no counters; callers subtract two readings.
 */

/** Counters of one statement and user since the server's last reset. Times are in milliseconds. */
export interface StatementRow {
  /**
   * Constants are replaced by `$1`, `$2` …, except in utility statements and in texts that the server had to parse
   * again.
   */
  query: string
  calls: number
  rows: number
  meanMs: number
  /** Standard deviation of the population. */
  deviationMs: number
}

/** `right` means that the user lacks pg_read_all_stats, without which other users' statements are hidden. */
export type NoStatements = { missing: 'not-installed' | 'right' }

export interface DatabaseCounters {
  /**
   * Includes this suite's own commits. There is no count of rollbacks, because reading a slot adds one rollback for
   * each decoded transaction.
   */
  commits: number
  deadlocks: number
}

/** Sessions with the same role, application and address. */
export interface SourceSession {
  role: string
  application: string
  /** Empty for a local socket. */
  address: string
  sessions: number
  /** Whether the last statement of any of these sessions was a write. */
  writes: boolean
  /** Whether the role can write to one of the requested tables and is not a superuser. */
  mayWrite: boolean
}

/** Maximum number of statements to read, most expensive first. Limited because the ledger stores them. */
const STATEMENTS = 500

/**
 * Reads the statistics of this database's statements. Leaves out catalog queries, statements on our schema, and
 * statements that create or read a slot. Leaves out the migration user's statements too, unless there are no others:
 * then the application uses the same role.
 */
export async function readStatements(db: Database): Promise<StatementRow[] | NoStatements> {
  const { rows } = await db.query(
    `SELECT n.nspname AS schema, string_to_array(x.extversion, '.')::int[] >= '{1,8}' AS planning FROM pg_catalog.pg_extension x
       JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = 'pg_stat_statements'`,
  )
  const [installed] = rows
  if (!installed) return { missing: 'not-installed' }
  const exec = installed.planning ? '_exec_time' : '_time'
  try {
    const found = await db.query<StatementRow & { own: boolean }>(
      `SELECT query, userid = current_user::regrole AS own, calls::float8 AS calls, rows::float8 AS rows, mean${exec}::float8 AS "meanMs", stddev${exec}::float8 AS "deviationMs"
         FROM ${ident(installed.schema)}.pg_stat_statements
        WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
          AND query !~* '(molt_actions|pg_catalog|pg_stat_|pg_publication|pg_replication|pg_logical_|pg_create_|pg_drop_)' ORDER BY calls * mean${exec} DESC LIMIT ${STATEMENTS}`,
    )
    if (!(await seesOthers(db))) return { missing: 'right' }
    const others = found.rows.filter(({ own }) => !own)
    return others.length ? others : found.rows
  } catch (error) {
    // The extension is created, but not in shared_preload_libraries.
    if (sqlState(error) === '55000') return { missing: 'not-installed' }
    if (sqlState(error) === '42501') return { missing: 'right' }
    throw error
  }
}

/** Whether this session can see the texts and states of other users' sessions. */
async function seesOthers(db: Database): Promise<boolean> {
  const { rows } = await db.query(
    `SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') OR rolsuper AS sees
       FROM pg_catalog.pg_roles WHERE rolname = current_user`,
  )
  return rows[0]?.sees ?? false
}

export async function readDatabaseCounters(db: Database): Promise<DatabaseCounters> {
  const { rows } = await db.query(
    `SELECT xact_commit::float8 AS commits, deadlocks::float8 AS deadlocks
       FROM pg_catalog.pg_stat_database WHERE datname = current_database()`,
  )
  return rows[0]
}

/**
 * Lists the clients of this database, except this suite and its tools.
 * @param tables tables in `schema`, to find out which roles can write to them
 * @param own application names of this suite and its tools
 * @returns undefined if other users' sessions are hidden
 */
export async function readSourceSessions(
  db: Database,
  schema: string,
  tables: readonly string[],
  own: readonly string[],
): Promise<SourceSession[] | undefined> {
  if (!(await seesOthers(db))) return undefined
  const { rows } = await db.query<SourceSession>(
    `SELECT a.usename AS role, coalesce(a.application_name, '') AS application, coalesce(host(a.client_addr), '') AS address,
            count(*)::int AS sessions, bool_or(a.query ~* '^\\s*(insert|update|delete|merge|truncate|copy)') AS writes,
            bool_or(NOT r.rolsuper AND EXISTS (
              SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = $1 AND c.relname = ANY($2)
                 AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))) AS "mayWrite"
       FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
      WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.application_name <> ALL($3)
      GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3`,
    [schema, tables, own],
  )
  return rows
}
