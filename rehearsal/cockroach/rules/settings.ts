// SET, SHOW and RESET of session variables and cluster settings.
import {
  applies,
  opensWith,
  type Plan,
  quoteName,
  quoteText,
  type RuleContext,
  raising,
  type StatementRule,
} from '../rule.ts'
import { SqlError, type Statement, type Token, type Version } from '../types.ts'

const SOURCE = 'docs: session-variables.md, cluster-settings.md; pkg/sql/vars.go'

/** Session variables that both databases have. Statements about them go to PostgreSQL. */
const COMMON = new Set(
  `application_name bytea_output client_encoding client_min_messages datestyle default_transaction_isolation
  default_transaction_read_only extra_float_digits idle_in_transaction_session_timeout intervalstyle lock_timeout
  row_security search_path standard_conforming_strings statement_timeout timezone transaction_isolation
  transaction_read_only idle_session_timeout transaction_timeout is_superuser session_authorization server_version
  server_encoding server_version_num integer_datetimes max_index_keys default_tablespace lc_collate lc_ctype lc_messages
  lc_monetary lc_numeric lc_time ssl escape_string_warning check_function_bodies xmloption`
    .split(/\s+/)
    .filter(Boolean),
)

/** Variables in COMMON that PostgreSQL 16 lacks. This server stores them itself. */
const NOT_IN_POSTGRES = new Set(['transaction_timeout'])

interface Variable {
  name: string
  fallback: string
  since?: Version
}

/** Session variables that only CockroachDB has, with their defaults. */
const OWN: Variable[] = [
  { name: 'allow_unsafe_internals', fallback: 'on', since: [25, 4] },
  { name: 'autocommit_before_ddl', fallback: 'on' },
  { name: 'copy_from_atomic_enabled', fallback: 'on' },
  { name: 'copy_from_retries_enabled', fallback: 'on' },
  { name: 'cost_scans_with_default_col_size', fallback: 'off' },
  { name: 'crdb_version', fallback: '' },
  { name: 'create_table_with_schema_locked', fallback: 'off', since: [25, 3] },
  { name: 'default_int_size', fallback: '8' },
  { name: 'default_transaction_use_follower_reads', fallback: 'off' },
  { name: 'disallow_full_table_scans', fallback: 'off' },
  { name: 'distsql', fallback: 'auto' },
  { name: 'enable_implicit_transaction_for_batch_statements', fallback: 'on' },
  { name: 'enable_zigzag_join', fallback: 'off' },
  { name: 'experimental_enable_temp_tables', fallback: 'off' },
  { name: 'large_full_scan_rows', fallback: '0' },
  { name: 'node_id', fallback: '1' },
  { name: 'serial_normalization', fallback: 'rowid' },
  { name: 'sql_safe_updates', fallback: 'off' },
  { name: 'transaction_priority', fallback: 'normal' },
  { name: 'transaction_rows_read_err', fallback: '0' },
  { name: 'transaction_rows_written_err', fallback: '0' },
  { name: 'transaction_status', fallback: 'NoTxn' },
]

export const OWN_VARIABLES: ReadonlySet<string> = new Set([...OWN.map(({ name }) => name), ...NOT_IN_POSTGRES])

/** Defaults of the cluster settings that the actions read. */
const CLUSTER_SETTINGS: Record<string, string> = {
  'kv.rangefeed.enabled': 'false',
  'sql.defaults.serial_normalization': 'rowid',
  'sql.schema.auto_unlock.enabled': 'true',
  'sql.stats.automatic_collection.enabled': 'true',
  'sql.txn_stats.sample_rate': '0.01',
  'server.max_connections_per_gateway': '-1',
}

function defaultOf(name: string, version: Version): string | undefined {
  if (name === 'allow_unsafe_internals' && version[0] >= 26) return 'off'
  if (name === 'create_table_with_schema_locked' && version[0] >= 26) return 'on'
  if (name === 'autocommit_before_ddl') return version[0] >= 25 ? 'on' : 'off'
  const own = OWN.find((each) => each.name === name)
  if (own && !applies(own, version)) return undefined
  return own?.fallback ?? (NOT_IN_POSTGRES.has(name) ? '0' : undefined)
}

/** Whether a session setting is on: as set by the client or its role, otherwise the version's default. */
export function isOn(name: string, { session, version }: RuleContext): boolean {
  return /^(on|true|1|yes)$/i.test(session.variables.get(name) ?? defaultOf(name, version) ?? '')
}

/** Session variables of this version that PostgreSQL lacks, with their defaults. */
export function ownVariables(version: Version): { name: string; value: string }[] {
  return [...OWN_VARIABLES].flatMap((name) => {
    const value = defaultOf(name, version)
    return value === undefined ? [] : [{ name, value }]
  })
}

const unknown = (name: string) => new SqlError('42704', `unrecognized configuration parameter "${name}"`)

export const SETTING_RULES: StatementRule[] = [
  {
    id: 'settings.cluster',
    says: 'SET CLUSTER SETTING requires the role admin or MODIFYCLUSTERSETTING. SHOW CLUSTER SETTING also accepts VIEWCLUSTERSETTING.',
    source: SOURCE,
    plan: setOrShowCluster,
  },
  {
    id: 'settings.set',
    says: 'SET refuses an unknown variable (42704) and session_replication_role = replica (22023).',
    source: SOURCE,
    plan: set,
  },
  {
    id: 'settings.show',
    says: 'SHOW returns a timeout in milliseconds without a unit, and refuses an unknown variable (42704).',
    source: SOURCE,
    plan: show,
  },
]

/** A cluster setting's value, or its default. */
export async function clusterSetting(name: string, { admin }: RuleContext): Promise<string> {
  const sql = 'SELECT value FROM _crdb.cluster_settings WHERE variable = $1'
  const [found] = await admin<{ value: string }>(sql, [name])
  return found?.value ?? CLUSTER_SETTINGS[name] ?? ''
}

async function setOrShowCluster(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const writes = opensWith(statement, 'set cluster setting')
  if (!writes && !opensWith(statement, 'show cluster setting')) return undefined
  const { tokens, sql } = statement
  const names = tokens.slice(3)
  const end = names.findIndex(({ value }) => value === '=' || value === 'to')
  const name = (end < 0 ? names : names.slice(0, end)).map(({ value }) => value).join('')
  if (!writes && !(await seesSettings(context)))
    return {
      sql: raising(
        new SqlError(
          '42501',
          `only users with MODIFYCLUSTERSETTING, VIEWCLUSTERSETTING or MODIFYSQLCLUSTERSETTING privileges are allowed to show cluster setting '${name}'`,
        ),
      ),
    }
  if (!writes)
    return {
      sql: `SELECT coalesce((SELECT value FROM _crdb.cluster_settings WHERE variable = ${quoteText(name)}), ${quoteText(CLUSTER_SETTINGS[name] ?? '')}) AS ${quoteName(name)}`,
    }
  if (!(await context.hasSystemPrivilege('MODIFYCLUSTERSETTING')))
    return {
      sql: raising(
        new SqlError('42501', 'only users with the MODIFYCLUSTERSETTING privilege are allowed to set cluster setting'),
      ),
    }
  const value = sql.slice(names[end + 1]?.start ?? sql.length)
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      await context.admin(
        `INSERT INTO _crdb.cluster_settings VALUES ($1, $2) ON CONFLICT (variable) DO UPDATE SET value = $2`,
        [name, value.replaceAll("'", '')],
      )
    },
    tag: 'SET CLUSTER SETTING',
  }
}

async function seesSettings({ hasSystemPrivilege }: RuleContext): Promise<boolean> {
  return (await hasSystemPrivilege('VIEWCLUSTERSETTING')) || (await hasSystemPrivilege('MODIFYCLUSTERSETTING'))
}

function set({ tokens, sql }: Statement, context: RuleContext): Plan | undefined {
  const reset = tokens[0]?.value === 'reset'
  if (tokens[0]?.value !== 'set' && !reset) return undefined
  const scoped = /^(session|local)$/.test(tokens[1]?.value ?? '')
  const at = scoped ? 2 : 1
  const name = tokens[at]?.value ?? ''
  if (/^(transaction|time|characteristics|all|authorization|role|names)$/.test(name))
    return { sql: plainMode(sql, tokens) }
  // A name with a dot is a client's custom variable.
  if (tokens[at + 1]?.text === '.') return { sql }
  if (name === 'session_replication_role' && tokens.some(({ value }) => value === 'replica'))
    return {
      sql: raising(
        new SqlError('22023', 'invalid value for parameter "session_replication_role": "replica"', {
          hint: 'Available values: origin',
        }),
      ),
    }
  if (name === 'session_replication_role') return { sql: 'SET _crdb.done = 1' }
  const rest = sql.slice(tokens[at]?.end)
  if (OWN_VARIABLES.has(name) && defaultOf(name, context.version) !== undefined)
    return { sql: `${tokens[0]?.text} ${scoped ? tokens[1]?.text : ''} crdb.${name}${reset ? '' : rest}` }
  return { sql: COMMON.has(name) ? sql : raising(unknown(name)) }
}

/** Removes PRIORITY from SET TRANSACTION, which PostgreSQL lacks. */
function plainMode(sql: string, tokens: readonly Token[]): string {
  const at = tokens.findIndex(({ value }) => value === 'priority')
  return at < 0 ? sql : 'SET _crdb.done = 1'
}

const TIMEOUTS = /^(statement_timeout|lock_timeout|idle_in_transaction_session_timeout|idle_session_timeout)$/

function show({ tokens, sql }: Statement, context: RuleContext): Plan | undefined {
  if (tokens[0]?.value !== 'show') return undefined
  const name = tokens[1]?.value ?? ''
  if (tokens.length > 2 && !(name === 'transaction' && tokens[2]?.value === 'isolation')) return undefined
  if (TIMEOUTS.test(name))
    return { sql: `SELECT setting AS ${name} FROM pg_catalog.pg_settings WHERE name = '${name}'` }
  if (name === 'session_id') return { sql: "SELECT lpad(to_hex(pg_backend_pid()), 32, '0') AS session_id" }
  if (name === 'database') return { sql: 'SELECT current_database() AS database' }
  const fallback = OWN_VARIABLES.has(name) ? defaultOf(name, context.version) : undefined
  if (fallback !== undefined)
    return {
      sql: `SELECT coalesce(nullif(current_setting('crdb.${name}', true), ''), ${quoteText(fallback)}) AS ${quoteName(name)}`,
    }
  if (COMMON.has(name) || name === 'transaction') return { sql }
  return tokens.length === 2 &&
    !/^(jobs|sessions|queries|users|roles|databases|schemas|tables|grants|regions)$/.test(name)
    ? { sql: raising(unknown(name)) }
    : undefined
}
