import type { TableName } from '../model/filter.ts'
import { type Database, qualified } from '../runtime/database.ts'

/** Lists the user tables of all schemas, including partitions. */
export async function readTableNames(db: Database): Promise<TableName[]> {
  const { rows } = await db.query(
    `SELECT n.nspname AS schema, c.relname AS name
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p')
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'crdb_internal', 'pg_extension')
        AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'
      ORDER BY 1, 2`,
  )
  return rows
}

/** Whether a table has at least one row. */
export async function holdsRows(db: Database, schema: string, table: string): Promise<boolean> {
  const { rows } = await db.query(`SELECT 1 FROM ${qualified(schema, table)} LIMIT 1`)
  return rows.length > 0
}

/**
 * Estimates the rows and bytes of the tables with their partitions, from the server's statistics. Only for progress and
 * other estimates.
 */
export async function estimateSize(
  db: Database,
  schema: string,
  tables: readonly string[],
): Promise<{ rows: number; bytes: number }> {
  const { rows } = await db.query(
    `SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8 AS rows,
            coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::float8 AS bytes
       FROM pg_catalog.pg_class p
       JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
       CROSS JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(p.oid) WHERE isleaf
                           UNION SELECT p.oid WHERE p.relkind = 'r') AS leaf(relid)
       JOIN pg_catalog.pg_class c ON c.oid = leaf.relid
      WHERE n.nspname = $1 AND p.relname = ANY($2) AND p.relkind IN ('r', 'p')`,
    [schema, tables],
  )
  return rows[0]
}
