// Rules for transactions, rows, COPY, jobs and imports.
import { setTimeout as sleep } from 'node:timers/promises'
import { isWord, translate } from '../dialect.ts'
import { split } from '../lexer.ts'
import {
  applies,
  CHANGE,
  type Fact,
  opening,
  opensWith,
  type Plan,
  quoteName,
  quoteText,
  type RuleContext,
  raising,
  raisingForCopy,
  type StatementRule,
} from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'
import { DDL_RULES } from './ddl.ts'
import { FULL_SCAN_RULES } from './full-scans.ts'
import { firstSchema, GRANT_RULES, resolveTable } from './grants.ts'
import { INDEX_FACTS } from './indexes.ts'
import { PAST_RULES } from './past.ts'
import { REFUSAL_RULES } from './refusals.ts'
import { ROLE_RULES } from './roles.ts'
import { isOn, SETTING_RULES } from './settings.ts'
import { SHOW_RULES } from './show.ts'

const TRANSACTIONS = /^(begin|start|commit|end|rollback|abort|savepoint|release)$/
const ROWS = /^(select|insert|update|delete|values|table|explain|declare|fetch|move|close)$/
const PASSED = /^(prepare|execute|deallocate|discard|analyze|call|do)$/

const STATEMENT_RULES: StatementRule[] = [
  {
    id: 'transactions',
    says: 'BEGIN accepts PRIORITY. A COMMIT can fail with 40001.',
    source: 'docs: transactions.md, transaction-retry-error-reference.md',
    plan: ({ tokens, sql }) => {
      if (!TRANSACTIONS.test(tokens[0]?.value ?? '')) return undefined
      const commits = /^(commit|end)$/.test(tokens[0]?.value ?? '')
      const modes = tokens.findIndex(({ value }) => value === 'priority')
      return { sql: modes < 0 ? sql : sql.slice(0, tokens[modes]?.start), commits, retryable: commits }
    },
  },
  {
    id: 'internals.restricted',
    says: 'Reading system.* and most of crdb_internal fails with 42501 unless allow_unsafe_internals is on. It is off by default.',
    source: 'docs: crdb-internal.md, v26.1 release notes',
    since: [26, 1],
    plan: ({ tokens }, context) => {
      if (isOn('allow_unsafe_internals', context)) return undefined
      const at = tokens.findIndex(
        ({ kind, value }, index) =>
          kind === 'word' &&
          tokens[index + 1]?.text === '.' &&
          (value === 'system' || (value === 'crdb_internal' && !OPEN_INTERNALS.test(tokens[index + 2]?.value ?? ''))),
      )
      return at < 0
        ? undefined
        : { sql: raising(new SqlError('42501', 'Access to crdb_internal and system is restricted.')) }
    },
  },
  {
    id: 'statistics',
    says: "crdb_internal.statement_statistics and transaction_statistics count clients' statements by application and hour, with `_` for constants. This server never retries statements and does not sample contention. A plan counts as a full scan when PostgreSQL has no index for it.",
    source: 'docs: crdb-internal.md',
    plan: (statement, context) => {
      const { tokens } = statement
      const asked = tokens.some(
        ({ value }, at) =>
          value === 'crdb_internal' && /^(statement|transaction)_statistics$/.test(tokens[at + 2]?.value ?? ''),
      )
      if (!asked || !/^(select|with)$/.test(tokens[0]?.value ?? '')) return undefined
      const plans = tokens.some(({ value, text }) => value === 'metadata' || text === '*')
      return {
        sql: translate(statement, context.version),
        before: () => context.publishStatistics(plans),
        retryable: true,
      }
    },
  },
  {
    id: 'rows.recursive',
    says: "The recursive part of WITH RECURSIVE can aggregate, as the replicator does to order tables by foreign keys. This server supports only the replicator's statement.",
    source: 'cockroachdb/replicator: internal/target/schemawatch; docs: common-table-expressions.md',
    plan: tableOrder,
  },
  {
    id: 'rows.upsert',
    says: 'UPSERT inserts a row, or replaces the row with the same primary key.',
    source: 'docs: upsert.md',
    plan: upsert,
  },
  {
    id: 'copy.admin',
    says: 'COPY FROM requires the role admin.',
    source: 'docs: molt-fetch.md',
    plan: async (statement, context) => {
      if (!opensWith(statement, 'copy')) return undefined
      // `COPY (SELECT … FROM …) TO` reads no rows from the client.
      const reads = statement.tokens[1]?.text !== '(' && statement.tokens.some((token) => isWord(token, 'from'))
      if (reads && !(await context.isAdmin()))
        return { sql: raisingForCopy(new SqlError('42501', 'only users with the admin role are allowed to COPY FROM')) }
      return { sql: translate(statement, context.version) }
    },
  },
  {
    id: 'import.into',
    says: 'IMPORT INTO is a job that reads CSV from a bucket or web server, and takes its table offline.',
    source: 'docs: import-into.md',
    plan: (statement, context) => {
      if (!opensWith(statement, 'import into')) return undefined
      const nonce = `import_${Math.random().toString(36).slice(2)}`
      return {
        sql: `SELECT * FROM _crdb.import_result('${nonce}')`,
        before: async () => {
          await context.commitOpen()
          const result = await context.runImport(statement)
          await context.admin('INSERT INTO _crdb.results VALUES ($1, $2)', [nonce, result])
        },
      }
    },
  },
  {
    id: 'jobs.control',
    says: 'Up to 24.3, CANCEL JOB requires admin or CONTROLJOB. From 25.1, owners can also cancel their own jobs.',
    source: 'docs: cancel-job.md, v25.1 release notes',
    plan: cancelJob,
  },
  {
    id: 'sessions.cancel',
    says: "CANCEL SESSION requires admin or CANCELQUERY to end another role's session.",
    source: 'docs: cancel-session.md',
    plan: cancelSessions,
  },
  {
    id: 'sequences.cache',
    says: 'setval on a sequence with CACHE is a schema change, which runs as a job and takes time.',
    source: 'pkg/sql/sequence.go',
    plan: setCached,
  },
  {
    id: 'rows',
    says: 'SELECT, INSERT, UPDATE, DELETE, VALUES and cursors work as in PostgreSQL, with CockroachDB’s types, catalogs and index hints.',
    source: 'docs: sql-statements.md',
    plan: (statement, context) => {
      const first = statement.tokens[0]
      const opens = first?.kind === 'word' ? first.value : first?.text === '(' ? 'select' : ''
      if (ROWS.test(opens) || opens === 'with') return { sql: translate(statement, context.version), retryable: true }
      const changes =
        /^(grant|revoke|reassign)$/.test(opens) || /^(create|alter|drop) (role|user)$/.test(opening(statement, 2))
      if (changes) return { sql: statement.sql, ...CHANGE }
      return PASSED.test(opens) ? { sql: statement.sql } : undefined
    },
  },
]

const OPEN_INTERNALS =
  /^(statement_statistics|transaction_statistics|cluster_sessions|cluster_queries|cluster_transactions|cluster_locks|cluster_contention_events|cluster_contended_tables|cluster_contended_indexes|cluster_contended_keys|index_usage_statistics)$/

/** Length of the longest chain of foreign keys from each table of a schema; -1 in a cycle. */
function tableOrder(statement: Statement): Plan | undefined {
  const { tokens } = statement
  const shown = tokens.findIndex(
    (token, at) => token.text === '[' && isWord(tokens[at + 1], 'show') && isWord(tokens[at + 2], 'tables'),
  )
  const aggregates = tokens.some((token, at) => isWord(token, 'max') && tokens[at + 2]?.value === 'depths')
  if (!opensWith(statement, 'with recursive') || shown < 0 || !aggregates) return undefined
  const end = tokens.findIndex(({ text }, at) => at > shown && text === ']')
  const schema = quoteText(tokens[end - 1]?.value ?? '')
  return {
    sql: `WITH RECURSIVE
      tables AS (SELECT c.oid, c.relname AS tbl FROM _crdb.pg_class c JOIN _crdb.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = ${schema} AND c.relkind IN ('r', 'p')),
      refs AS (SELECT DISTINCT conrelid AS child, confrelid AS parent FROM _crdb.pg_constraint
        WHERE contype = 'f' AND conrelid <> confrelid),
      depths AS (SELECT oid, tbl, 0 AS depth FROM tables WHERE oid NOT IN (SELECT child FROM refs)
        UNION SELECT t.oid, t.tbl, d.depth + 1 FROM depths d JOIN refs r ON r.parent = d.oid JOIN tables t ON t.oid = r.child
         WHERE d.depth < (SELECT count(*) FROM tables))
      SELECT tbl::text AS tbl, max(depth)::int8 AS max FROM (
        SELECT tbl, -1 AS depth FROM tables UNION ALL SELECT tbl, depth FROM depths) all_of GROUP BY 1 ORDER BY 2, 1`,
    retryable: true,
  }
}

async function setCached(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const { tokens, sql } = statement
  const at = tokens.findIndex((token, index) => isWord(token, 'setval') && tokens[index + 2]?.kind === 'string')
  if (at < 0) return undefined
  const name = tokens[at + 2]?.value ?? ''
  const [sequence] = await context.admin<{ cache: string }>(
    'SELECT seqcache AS cache FROM pg_catalog.pg_sequence WHERE seqrelid = to_regclass($1)',
    [name.includes('.') ? name : `${quoteName(firstSchema(context))}.${name}`],
  )
  if (!sequence || Number(sequence.cache) <= 1) return undefined
  return {
    sql: translate(statement, context.version),
    before: async () => {
      const job = context.jobs.create({ type: 'NEW SCHEMA CHANGE', description: sql, user: context.session.user })
      await sleep(context.ddlTime)
      context.jobs.update(job, { status: 'succeeded', fractionCompleted: 1 })
    },
    ...CHANGE,
  }
}

async function upsert(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const { tokens } = statement
  const at = tokens.findIndex(
    ({ kind, value }, index) => kind === 'word' && value === 'upsert' && tokens[index + 1]?.value === 'into',
  )
  if (at < 0 || (at > 0 && tokens[0]?.value !== 'with')) return undefined
  let last = at + 2
  while (tokens[last + 1]?.text === '.') last += 2
  const table = await resolveTable(statement.sql.slice(tokens[at + 2]?.start, tokens[last]?.end), context)
  const all = await context.admin<{ name: string; key: boolean }>(
    `SELECT a.attname AS name, coalesce(a.attnum = ANY(i.indkey), false) AS key FROM pg_catalog.pg_attribute a
       LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
      WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum`,
    [table.oid],
  )
  const listed = tokens[last + 1]?.text === '(' ? columnsIn(tokens, last + 2) : undefined
  const rest = all.filter(({ name, key }) => !key && (!listed || listed.includes(name)))
  const keys = all.filter(({ key }) => key).map(({ name }) => quoteName(name))
  const changes = rest.map(({ name }) => `${quoteName(name)} = EXCLUDED.${quoteName(name)}`).join(', ')
  const [start, end] = [tokens[at]?.start ?? 0, tokens[endOfRows(tokens, at) - 1]?.end ?? 0]
  const { sql } = statement
  const insert = `INSERT${sql.slice(start + 'upsert'.length, end)} ON CONFLICT (${keys.join(', ')}) DO ${changes ? `UPDATE SET ${changes}` : 'NOTHING'}`
  const [rewritten] = split(sql.slice(0, start) + insert + sql.slice(end))
  return { sql: translate(rewritten as Statement, context.version), retryable: true }
}

/** The token after an UPSERT's rows: RETURNING, the parenthesis that closes a WITH clause, or the end. */
function endOfRows(tokens: Statement['tokens'], from: number): number {
  let depth = 0
  for (let at = from; at < tokens.length; at++) {
    const { text } = tokens[at] as Token
    if (text === '(') depth++
    if (text === ')' && --depth < 0) return at
    if (!depth && isWord(tokens[at], 'returning')) return at
  }
  return tokens.length
}

function cancelSessions(statement: Statement, { version }: RuleContext): Plan | undefined {
  if (!opensWith(statement, 'cancel session') && !opensWith(statement, 'cancel sessions')) return undefined
  const { tokens } = statement
  const from = tokens[2]?.value === 'if' ? 4 : 2
  const start = tokens[from]?.start ?? 0
  const list = {
    sql: statement.sql.slice(start),
    tokens: tokens.slice(from).map((token) => ({ ...token, start: token.start - start, end: token.end - start })),
  }
  const ids = translate(list, version)
  const source = tokens[from]?.text === '(' ? ids : `(SELECT ${ids})`
  return {
    sql: `SELECT pg_catalog.pg_terminate_backend(('x' || right(s.id::text, 8))::bit(32)::int4) FROM ${source} s(id)`,
    tag: 'CANCEL SESSIONS 1',
    retryable: true,
  }
}

function columnsIn(tokens: Statement['tokens'], from: number): string[] | undefined {
  if (tokens[from]?.kind === 'word' && /^(select|values|with)$/.test(tokens[from]?.value ?? '')) return undefined
  const end = tokens.findIndex(({ text }, index) => index >= from && text === ')')
  return tokens
    .slice(from, end)
    .filter(({ text }) => text !== ',')
    .map(({ value }) => value)
}

async function cancelJob(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  if (!opensWith(statement, 'cancel job') && !opensWith(statement, 'cancel jobs')) return undefined
  const { tokens, sql } = statement
  const list = sql.slice(tokens[2]?.start)
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      const rows = await context.admin<{ id: string }>(
        /^\(?\s*(select|with)/i.test(list)
          ? `SELECT * FROM (${list.replace(/^\(|\)$/g, '')}) j(id)`
          : `SELECT (${list})::int8::text AS id`,
      )
      for (const { id } of rows) await cancelOne(String(id), context)
    },
    tag: `CANCEL JOBS 1`,
    retryable: true,
  }
}

async function cancelOne(id: string, context: RuleContext): Promise<void> {
  const job = context.jobs.get(id)
  const [major] = context.version
  const own = major >= 25 && job?.user === context.session.user
  if (job && !own && !(await context.hasSystemPrivilege('CONTROLJOB')))
    throw new SqlError('42501', `user ${context.session.user} does not have privileges for job ${id}`)
  context.jobs.cancel(id)
}

/** All rules, in the order in which they are tried. */
export const RULES: readonly StatementRule[] = [
  ...PAST_RULES,
  ...REFUSAL_RULES,
  ...SETTING_RULES,
  ...SHOW_RULES,
  ...GRANT_RULES,
  ...ROLE_RULES,
  ...DDL_RULES,
  ...FULL_SCAN_RULES,
  ...STATEMENT_RULES,
]

/** Facts about the catalogs, for the documentation; `install.ts` implements them. */
export const CATALOG_FACTS: readonly Fact[] = [
  ...INDEX_FACTS,
  {
    id: 'catalogs.relispartition',
    says: 'pg_class.relispartition is NULL for every table and index.',
    source: 'pkg/sql/pg_catalog.go',
  },
  {
    id: 'catalogs.relacl',
    says: 'pg_class.relacl is NULL, and reltuples is not a row count.',
    source: 'pkg/sql/pg_catalog.go',
  },
  {
    id: 'catalogs.conkey',
    says: 'pg_constraint.conkey and confkey hold column ids, which differ from attnum after a rewriting ALTER COLUMN TYPE.',
    source: 'cockroachdb/cockroach#174715',
    until: [26, 3],
  },
  {
    id: 'catalogs.pg_trigger',
    says: 'pg_trigger is empty although triggers exist.',
    source: 'cockroachdb/cockroach#147248',
    since: [24, 3],
    until: [25, 3],
  },
  {
    id: 'catalogs.rolbypassrls',
    says: 'pg_roles.rolbypassrls is always false.',
    source: 'cockroachdb/cockroach#146228',
    until: [25, 3],
  },
  {
    id: 'catalogs.cluster-locks',
    says: 'pg_locks is empty. crdb_internal.cluster_locks shows who holds a contended lock and who waits for it; cluster_sessions.kv_txn names their sessions. Reading it requires VIEWACTIVITY, or VIEWACTIVITYREDACTED, which hides the keys.',
    source: 'docs: crdb-internal.md; pkg/sql/logictest/testdata/logic_test/cluster_locks; pkg/sql/pg_catalog.go',
  },
  { id: 'catalogs.pg_stat_activity', says: 'pg_stat_activity is empty.', source: 'pkg/sql/pg_catalog.go' },
  {
    id: 'catalogs.indexdef',
    says: "pg_indexes.indexdef puts the database's name before schema and table.",
    source: 'pkg/sql/pg_catalog.go',
    until: [26, 3],
  },
  {
    id: 'catalogs.offline',
    says: 'Catalogs hide a table that is offline for an import. Statements on it fail with 55000.',
    source: 'pkg/sql/catalog/descs; docs: import-into.md',
  },
  {
    id: 'catalogs.unique-index',
    says: 'pg_constraint lists every unique index, however it was created.',
    source: 'pkg/sql/pg_catalog.go; docs: unique.md',
  },
  {
    id: 'retries.single',
    says: "CockroachDB retries a single-statement transaction itself, unless part of the results has been sent (more than sql.defaults.results_buffer.size). So --retry-rate spares such statements of MOLT's tools, whose results are small. It applies to all statements of the actions, because their results can be larger.",
    source: 'docs: transaction-retry-error-reference.md; pkg/sql: sql.defaults.results_buffer.size',
  },
  {
    id: 'functions.advisory-locks',
    says: 'Advisory locks are accepted and have no effect.',
    source: 'docs: functions-and-operators.md',
  },
  {
    id: 'functions.feature-counter',
    says: "crdb_internal.increment_feature_counter() counts a tool's features.",
    source: 'cockroachdb/molt: molttelemetry',
  },
  {
    id: 'catalogs.check-clause',
    says: 'information_schema.check_constraints returns only the condition, even for a check that is not validated.',
    source: 'pkg/sql/information_schema.go',
  },
  {
    id: 'catalogs.check-text',
    says: "A check's stored text has typed literals: total >= 0:::DECIMAL.",
    source: 'pkg/sql/catalog/schemaexpr',
  },
]

/** Plans how to handle a statement; undefined if no rule covers it. */
export async function planFor(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  for (const rule of RULES) {
    if (!applies(rule, context.version)) continue
    const plan = await rule.plan(statement, context)
    if (plan) return plan
  }
  return undefined
}
