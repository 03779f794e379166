import { type Database, literal } from '../runtime/database.ts'
import type { WriteGrant } from './write-access.ts'

/**
 * Every privilege of other roles on these tables, with ownership as `OWNER`. Dropping and recreating a table loses them
 * all. Leaves out administrators, which need no privileges.
 */
export async function readOtherRights(db: Database, schema: string, tables: readonly string[]): Promise<WriteGrant[]> {
  if (!tables.length) return []
  const named = `IN (${tables.map(literal).join(', ')})`
  const { rows } = await db.query(`
    SELECT g.table_name AS table, g.grantee AS role, g.privilege_type AS privilege, g.is_grantable = 'YES' AS grantable
      FROM information_schema.table_privileges g
      JOIN pg_catalog.pg_tables t ON t.schemaname = g.table_schema AND t.tablename = g.table_name
     WHERE g.table_schema = ${literal(schema)} AND g.table_name ${named}
       AND g.grantee NOT IN (current_user, 'root', 'admin', 'node') AND g.grantee IS DISTINCT FROM t.tableowner
     UNION ALL
    SELECT t.tablename, t.tableowner, 'OWNER', false
      FROM pg_catalog.pg_tables t JOIN pg_catalog.pg_roles o ON o.rolname = t.tableowner
     WHERE t.schemaname = ${literal(schema)} AND t.tablename ${named}
       AND t.tableowner NOT IN (current_user, 'root', 'admin', 'node') AND o.rolsuper IS NOT TRUE
     ORDER BY 1, 2, 3`)
  return rows
}
