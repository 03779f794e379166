import { connect, type Side } from '../../runtime/database.ts'

/** The session that molt and the replicator get when they connect with the URL. */
export interface ToolSession {
  /** Settings by lower-case name, with their values in `pg_settings`, where times are in milliseconds. */
  settings: Record<string, ToolSetting>
  /** The schema in which unqualified names are created; null when no schema in the search path exists. */
  schema: string | null
}

interface ToolSetting {
  value: string
  /** Whether `options` in the URL sets it, which overrides the role's setting. */
  byUrl: boolean
}

/** Reads the settings of a session like the tools', without the settings that {@link connect} normally applies. */
export async function readToolSession(url: string, side: Side): Promise<ToolSession> {
  const db = await connect(url, side, undefined, undefined, { asTools: true })
  try {
    const { rows } = await db.query(
      `SELECT lower(name) AS name, setting, source, current_schema() AS schema FROM pg_catalog.pg_settings
        WHERE lower(name) IN (${TOOL_SETTINGS.map((name) => `'${name}'`).join(', ')})`,
    )
    const settings = rows.map(({ name, setting, source }) => [name, { value: setting, byUrl: source === 'client' }])
    return { settings: Object.fromEntries(settings), schema: rows[0]?.schema ?? null }
  } finally {
    await db.end().catch(() => {})
  }
}

const TOOL_SETTINGS = [
  'datestyle',
  'intervalstyle',
  'timezone',
  'bytea_output',
  'extra_float_digits',
  'standard_conforming_strings',
  'client_encoding',
  'array_nulls',
  'default_transaction_read_only',
  'statement_timeout',
  'lock_timeout',
  'idle_in_transaction_session_timeout',
  'idle_session_timeout',
  'transaction_timeout',
  'disallow_full_table_scans',
]
