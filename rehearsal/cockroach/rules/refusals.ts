// Statements that CockroachDB refuses, with its SQLSTATE and wording.
import { type Fact, opensWith, raising, type StatementRule } from '../rule.ts'
import { SqlError, type Statement } from '../types.ts'

interface Refusal extends Fact {
  /** First words of the refused statements. */
  opens: string[]
  error: (statement: Statement) => SqlError
}

const syntaxError = ({ tokens }: Statement, at = 0) =>
  new SqlError('42601', `at or near "${tokens[at]?.value ?? 'EOF'}": syntax error`)

const unimplemented = (what: string, issue?: number) =>
  new SqlError('0A000', `unimplemented: ${what}`, {
    hint: issue
      ? `You have attempted to use a feature that is not yet implemented.\nSee: https://go.crdb.dev/issue-v/${issue}/`
      : 'You have attempted to use a feature that is not yet implemented.',
  })

const GRAMMAR = 'pkg/sql/parser/sql.y'

const REFUSALS: Refusal[] = [
  {
    id: 'refuse.postgres-only',
    says: 'LOCK TABLE, LISTEN, NOTIFY, VACUUM, CLUSTER, REINDEX and replication statements are syntax errors.',
    source: GRAMMAR,
    opens: [
      'lock',
      'listen',
      'notify',
      'vacuum',
      'cluster',
      'reindex',
      'load',
      'checkpoint',
      'security',
      'create publication',
      'alter publication',
      'create subscription',
      'create event',
      'alter system',
      'create rule',
    ],
    error: (statement) => syntaxError(statement, /^(create|alter)$/.test(statement.tokens[0]?.value ?? '') ? 1 : 0),
  },
  {
    id: 'refuse.set-constraints',
    says: 'SET CONSTRAINTS is not implemented, because no constraint can be deferred.',
    source: 'cockroachdb/cockroach#31632',
    opens: ['set constraints'],
    error: () => unimplemented('the SET CONSTRAINTS statement', 31632),
  },
  {
    id: 'refuse.extension',
    says: 'PostgreSQL extensions cannot be installed.',
    source: 'cockroachdb/cockroach#74777',
    opens: ['create extension'],
    error: ({ tokens }) => unimplemented(`extension "${tokens.at(-1)?.value}" is not yet supported`, 74777),
  },
]

export const REFUSAL_RULES: StatementRule[] = [
  ...REFUSALS.map(({ opens, error, ...fact }) => ({
    ...fact,
    plan: (statement: Statement) =>
      opens.some((words) => opensWith(statement, words)) ? { sql: raising(error(statement)) } : undefined,
  })),
  {
    id: 'refuse.deferrable',
    says: 'DEFERRABLE constraints are not implemented.',
    source: 'cockroachdb/cockroach#31632',
    plan: (statement) =>
      /^(create|alter)$/.test(statement.tokens[0]?.value ?? '') && hasDeferrable(statement)
        ? { sql: raising(unimplemented('this syntax', 31632)) }
        : undefined,
  },
  {
    id: 'refuse.json-array',
    says: 'No column can be an array of JSON.',
    source: 'cockroachdb/cockroach#23468',
    plan: (statement) =>
      /^(create|alter)$/.test(statement.tokens[0]?.value ?? '') && hasJsonArray(statement)
        ? { sql: raising(unimplemented('arrays of JSON unsupported as column type', 23468)) }
        : undefined,
  },
  {
    id: 'refuse.functions',
    says: 'Functions for the write-ahead log, replication and file sizes do not exist.',
    source: 'pkg/sql/sem/builtins; docs: functions-and-operators.md',
    plan: (statement) => {
      const called = calledFunctions(statement).find((name) => MISSING_FUNCTIONS.has(name))
      return called ? { sql: raising(new SqlError('42883', `unknown function: ${called}()`)) } : undefined
    },
  },
  {
    id: 'refuse.system-columns',
    says: 'ctid, xmin, xmax, cmin and cmax do not exist.',
    source: 'pkg/sql/catalog/colinfo/system_columns.go',
    plan: (statement) => {
      const word = statement.tokens.find(
        ({ kind, value }, at) =>
          kind === 'word' && /^(ctid|xmin|xmax|cmin|cmax)$/.test(value) && statement.tokens[at + 1]?.text !== '(',
      )
      return word ? { sql: raising(new SqlError('42703', `column "${word.value}" does not exist`)) } : undefined
    },
  },
]

const MISSING_FUNCTIONS = new Set(
  `pg_create_logical_replication_slot pg_drop_replication_slot pg_create_physical_replication_slot pg_current_wal_lsn
  pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_wal_lsn_diff pg_walfile_name pg_switch_wal pg_last_wal_replay_lsn
  pg_relation_size pg_total_relation_size pg_indexes_size pg_database_size pg_control_system pg_control_checkpoint
  pg_current_xact_id pg_current_snapshot pg_snapshot_xmin pg_snapshot_xmax pg_visible_in_snapshot pg_export_snapshot
  txid_current txid_current_snapshot pg_logical_slot_get_changes pg_logical_emit_message pg_ls_dir pg_read_file
  pg_stat_file pg_blocking_pids pg_stat_reset pg_relation_filenode pg_filenode_relation pg_partition_tree
  pg_partition_root`
    .split(/\s+/)
    .filter(Boolean),
)

/** Names before a parenthesis, lower-cased. */
function calledFunctions({ tokens }: Statement): string[] {
  return tokens.flatMap(({ kind, value }, at) => (kind === 'word' && tokens[at + 1]?.text === '(' ? [value] : []))
}

function hasJsonArray({ tokens }: Statement): boolean {
  return tokens.some(
    ({ kind, value }, at) =>
      kind === 'word' &&
      /^jsonb?$/.test(value) &&
      tokens[at + 1]?.text === '[' &&
      !tokens[at - 1]?.text.startsWith('::'),
  )
}

function hasDeferrable({ tokens }: Statement): boolean {
  return tokens.some(
    ({ kind, value }, at) => kind === 'word' && value === 'deferrable' && tokens[at - 1]?.value !== 'not',
  )
}
