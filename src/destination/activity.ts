import { type Database, sqlState } from '../runtime/database.ts'

/*
 * Reads what CockroachDB reports about its clients: statement and transaction statistics, sessions and jobs. The
 * columns and JSON are documented in cockroachdb/docs, `crdb-internal.md`, v24.1 to v26.3, and can be read even if
 * `allow_unsafe_internals` is off. Each part requires a privilege. Without it, some queries fail, and others silently
 * show only this user's own data.
 */

/** Statistics of one statement and application. Times are in milliseconds. */
export interface TargetStatement {
  /** The statement's text, with `_` for constants and placeholders. */
  query: string
  application: string
  calls: number
  rows: number
  totalMs: number
  /** Sum of the squared durations of the calls. */
  squaresMs: number
  failures: number
  /** Number of attempts after the first. */
  retries: number
  /** SQLSTATE of a failure; empty if there was none. */
  lastError: string
  fullScan: boolean
  /** Mean contention time of the sampled executions. */
  contentionMs: number
}

/** Statistics of one application's transactions. Times are in milliseconds. */
export interface TargetTransactions {
  application: string
  count: number
  totalMs: number
  squaresMs: number
  /** Highest number of retries of any one transaction. */
  maxRetries: number
}

export interface TargetSession {
  application: string
  role: string
  sessions: number
}

export interface TargetJob {
  id: string
  type: string
  status: string
}

/** What the migration user can see of other users' activity. */
export interface Sight {
  /** Statements, transactions and sessions: VIEWACTIVITY or VIEWACTIVITYREDACTED. */
  activity: boolean
  /** Jobs: VIEWJOB or CONTROLJOB. */
  jobs: boolean
  /** Cluster settings: VIEWCLUSTERSETTING or MODIFYCLUSTERSETTING. */
  settings: boolean
}

const STATEMENTS = 2000
const CONNECTION_LIMIT = 'SHOW CLUSTER SETTING server.max_connections_per_gateway'

/** Finds out what this role can see. */
export async function readSight(db: Database): Promise<Sight> {
  return { activity: await seesActivity(db), jobs: await seesJobs(db), settings: await seesSettings(db) }
}

async function seesSettings(db: Database): Promise<boolean> {
  try {
    await db.query(CONNECTION_LIMIT)
    return true
  } catch (error) {
    if (sqlState(error) === '42501') return false
    throw error
  }
}

/** Tries to read statistics instead of looking up privileges, because role options allow it too. Refused with 42501. */
async function seesActivity(db: Database): Promise<boolean> {
  try {
    await db.query('SELECT 1 FROM crdb_internal.statement_statistics LIMIT 1')
    return true
  } catch (error) {
    if (sqlState(error) === '42501') return false
    throw error
  }
}

/** Looks up the privilege instead of trying, because SHOW JOBS is never refused. */
async function seesJobs(db: Database): Promise<boolean> {
  const privileges = await readSystemPrivileges(db)
  return ['VIEWJOB', 'CONTROLJOB', 'ALL'].some((each) => privileges.includes(each))
}

/** Lists this role's cluster-wide privileges, direct or through membership; `ALL` for admin. */
export async function readSystemPrivileges(db: Database): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT DISTINCT g.privilege_type AS privilege FROM [SHOW SYSTEM GRANTS] g
      WHERE g.grantee = current_user OR g.grantee = 'public'
         OR g.grantee IN (SELECT role_name FROM information_schema.applicable_roles)
     UNION SELECT 'ALL' WHERE pg_has_role('admin', 'MEMBER')`,
  )
  return rows.map(({ privilege }) => privilege)
}

/** The current time by the database's clock. */
export async function readClock(db: Database): Promise<Date> {
  return (await db.query('SELECT clock_timestamp() AS now')).rows[0].now
}

const OTHERS = `aggregated_ts >= $1 AND app_name NOT LIKE '$ internal%' AND app_name <> ALL($2)`

/** One row per plan and aggregation period. Times are in seconds. */
const STATEMENT_STATISTICS = `
  SELECT metadata->>'query' AS query, app_name AS application,
         coalesce((metadata->>'fullScan')::BOOL, false) AS full_scan,
         (statistics->'statistics'->>'cnt')::FLOAT8 AS calls,
         (statistics->'statistics'->>'firstAttemptCnt')::FLOAT8 AS first_attempts,
         coalesce((statistics->'statistics'->>'failureCount')::FLOAT8, 0) AS failures,
         coalesce(statistics->'statistics'->>'lastErrorCode', '') AS last_error,
         (statistics->'statistics'->'numRows'->>'mean')::FLOAT8 AS rows_mean,
         (statistics->'statistics'->'svcLat'->>'mean')::FLOAT8 AS mean,
         (statistics->'statistics'->'svcLat'->>'sqDiff')::FLOAT8 AS squares,
         coalesce((statistics->'execution_statistics'->'contentionTime'->>'mean')::FLOAT8, 0) AS contention
    FROM crdb_internal.statement_statistics
   WHERE ${OTHERS} AND metadata->>'db' = current_database()`

/**
 * Reads the statements of clients other than `own` in this database, the most expensive first.
 * @param since statistics are kept per hour, so the whole hour that contains this time is included
 */
export async function readTargetStatements(
  db: Database,
  since: Date,
  own: readonly string[],
): Promise<TargetStatement[]> {
  const { rows } = await db.query<TargetStatement>(
    `SELECT query, application, bool_or(full_scan) AS "fullScan", sum(calls) AS calls, sum(calls * rows_mean) AS rows,
            sum(calls * mean) * 1000 AS "totalMs", sum(squares + calls * mean * mean) * 1000000 AS "squaresMs",
            sum(failures) AS failures, sum(calls - first_attempts) AS retries, max(last_error) AS "lastError",
            max(contention) * 1000 AS "contentionMs"
       FROM (${STATEMENT_STATISTICS}) s WHERE calls > 0
      GROUP BY query, application ORDER BY sum(calls * mean) DESC LIMIT ${STATEMENTS}`,
    [hourOf(since), own],
  )
  return rows
}

export async function readTargetTransactions(
  db: Database,
  since: Date,
  own: readonly string[],
): Promise<TargetTransactions[]> {
  const { rows } = await db.query<TargetTransactions>(
    `SELECT application, sum(calls) AS count, sum(calls * mean) * 1000 AS "totalMs",
            sum(squares + calls * mean * mean) * 1000000 AS "squaresMs", max(retries) AS "maxRetries"
       FROM (SELECT app_name AS application, (statistics->'statistics'->>'cnt')::FLOAT8 AS calls,
                    (statistics->'statistics'->>'maxRetries')::FLOAT8 AS retries,
                    (statistics->'statistics'->'svcLat'->>'mean')::FLOAT8 AS mean,
                    (statistics->'statistics'->'svcLat'->>'sqDiff')::FLOAT8 AS squares
               FROM crdb_internal.transaction_statistics WHERE ${OTHERS}) t
      WHERE calls > 0 GROUP BY application ORDER BY application`,
    [hourOf(since), own],
  )
  return rows
}

/** The start of the aggregation period that contains this time. A period is an hour by default. */
function hourOf(time: Date): Date {
  return new Date(Math.floor(time.getTime() / 3_600_000) * 3_600_000)
}

/** Counts open sessions by application and user, except internal sessions and applications in `own`. */
export async function readTargetSessions(db: Database, own: readonly string[]): Promise<TargetSession[]> {
  const { rows } = await db.query<TargetSession>(
    `SELECT application_name AS application, user_name AS role, count(*)::FLOAT8 AS sessions
       FROM [SHOW CLUSTER SESSIONS] WHERE application_name NOT LIKE '$ internal%' AND application_name <> ALL($1)
      GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2`,
    [own],
  )
  return rows
}

/**
 * Describes the sessions that block a session of the applications in `waiting` by holding a lock. Queries every node.
 * VIEWACTIVITYREDACTED hides the keys; in that case, lists all holders of contended locks in the same range.
 */
export async function readLockHolders(db: Database, waiting: readonly string[]): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT DISTINCT h.session_id AS session, h.application_name AS application, h.user_name AS role
       FROM crdb_internal.cluster_locks wanted JOIN crdb_internal.cluster_locks held
         ON held.range_id = wanted.range_id AND held.lock_key IS NOT DISTINCT FROM wanted.lock_key
       JOIN crdb_internal.cluster_sessions w ON w.kv_txn = wanted.txn_id::STRING
       JOIN crdb_internal.cluster_sessions h ON h.kv_txn = held.txn_id::STRING
      WHERE wanted.contended AND NOT wanted.granted AND wanted.database_name = current_database()
        AND held.contended AND held.granted AND held.txn_id <> wanted.txn_id
        AND w.application_name = ANY($1) AND h.application_name <> ALL($1) ORDER BY 1`,
    [waiting],
  )
  return rows.map(
    ({ session, application, role }) => `the session ${session} (${application || 'unnamed'}, user ${role})`,
  )
}

/**
 * The number of connections that all nodes together allow; undefined if there is no limit, or if this role cannot read
 * it (VIEWCLUSTERSETTING).
 */
export async function readConnectionLimit(db: Database): Promise<number | undefined> {
  try {
    const { rows } = await db.query(CONNECTION_LIMIT)
    const perNode = Number(Object.values(rows[0] ?? {})[0])
    if (!(perNode > 0)) return undefined
    const nodes = await db.query('SELECT count(DISTINCT node_id)::FLOAT8 AS nodes FROM [SHOW CLUSTER SESSIONS]')
    return perNode * Math.max(1, nodes.rows[0].nodes)
  } catch (error) {
    if (/^(42501|42704|22023|42601)$/.test(sqlState(error) ?? '')) return undefined
    throw error
  }
}

/**
 * Lists jobs that failed since `since` or are being reverted. Omits descriptions and errors, which can contain row
 * values.
 */
export async function readFailedJobs(db: Database, since: Date): Promise<TargetJob[]> {
  const { rows } = await db.query<TargetJob>(
    `SELECT job_id::STRING AS id, job_type AS type, status FROM [SHOW JOBS]
      WHERE status IN ('failed', 'reverting', 'revert-failed') AND (finished IS NULL OR finished >= $1) ORDER BY job_id`,
    [since],
  )
  return rows
}
