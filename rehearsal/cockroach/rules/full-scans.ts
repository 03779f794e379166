// Statements that scan a whole table, which a session setting can forbid.
import { translate } from '../dialect.ts'
import { type RuleContext, raising, type StatementRule } from '../rule.ts'
import { SqlError } from '../types.ts'
import { isOn } from './settings.ts'

export const FULL_SCAN_RULES: StatementRule[] = [
  {
    id: 'settings.full-scans',
    says: 'With disallow_full_table_scans on, a statement that reads a whole table is refused (P0003). Catalogs stay readable.',
    source: 'docs: session-variables.md; pkg/sql/opt/exec/execbuilder/relational.go',
    plan: async (statement, context) => {
      if (!isOn('disallow_full_table_scans', context)) return undefined
      if (!/^(select|with|table|update|delete)$/.test(statement.tokens[0]?.value ?? '')) return undefined
      if (!(await scansTable(translate(statement, context.version), context))) return undefined
      return {
        sql: raising(
          new SqlError(
            'P0003',
            `query \`${statement.sql}\` contains a full table/index scan which is explicitly disallowed`,
            {
              hint: 'to permit this scan, set disallow_full_table_scans to false or increase the large_full_scan_rows threshold',
            },
          ),
        ),
      }
    },
  },
]

interface PlanNode {
  'Node Type': string
  'Index Cond'?: string
  /** Schema of the scanned table. */
  Schema?: string
  Plans?: PlanNode[]
}

/**
 * Whether the statement scans a whole table. Sequential scans are disabled in the plan, because PostgreSQL prefers them
 * for small tables and CockroachDB does not.
 */
async function scansTable(sql: string, context: RuleContext): Promise<boolean> {
  return context.lend(async (client) => {
    await client.query(`SET enable_seqscan = off; SET search_path = ${context.session.searchPath || "''"}`)
    const { rows } = await client
      .query(`EXPLAIN (FORMAT JSON, VERBOSE, GENERIC_PLAN) ${sql}`)
      .catch(() => ({ rows: [] as Record<string, [{ Plan: PlanNode }]>[] }))
    const plan = rows[0]?.['QUERY PLAN']?.[0].Plan
    return plan !== undefined && readsAll(plan)
  })
}

const OF_SERVER = /^(pg_catalog|information_schema|_crdb|crdb_internal)$/

function readsAll({ 'Node Type': node, 'Index Cond': condition, Schema, Plans = [] }: PlanNode): boolean {
  const unbounded = node === 'Bitmap Heap Scan' ? !Plans.some(isBounded) : !condition
  const whole = node === 'Seq Scan' || (/^(Index Scan|Index Only Scan|Bitmap Heap Scan)$/.test(node) && unbounded)
  return (whole && Schema !== undefined && !OF_SERVER.test(Schema)) || Plans.some(readsAll)
}

/** Whether a bitmap's index scans are limited by a condition. */
function isBounded({ 'Index Cond': condition, Plans = [] }: PlanNode): boolean {
  return condition !== undefined || Plans.some(isBounded)
}
