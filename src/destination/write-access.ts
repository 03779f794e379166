import { type Database, ident, qualified } from '../runtime/database.ts'

/*
 * Write access: until the cutover is committed, nobody but the tools writes to the target's tables. The
 * application's roles lose their rights to, recorded exactly, and the commit gives them back.
 */

/** One right of one role, as it was before write access was revoked. */
export interface WriteGrant {
  table: string
  role: string
  privilege: string
  grantable: boolean
}

const WRITES = ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'ALL']

/** Every right to write to these tables that a role other than ours, the owner and the administrators has. */
export async function readWriteGrants(db: Database, schema: string, tables: readonly string[]): Promise<WriteGrant[]> {
  const { rows } = await db.query(
    `SELECT g.table_name AS table, g.grantee AS role, g.privilege_type AS privilege, g.is_grantable = 'YES' AS grantable
       FROM information_schema.table_privileges g
       JOIN pg_catalog.pg_tables t ON t.schemaname = g.table_schema AND t.tablename = g.table_name
      WHERE g.table_schema = $1 AND g.table_name = ANY($2) AND g.privilege_type = ANY($3)
        AND g.grantee NOT IN (current_user, 'root', 'admin', t.tableowner)
      ORDER BY 1, 2, 3`,
    [schema, tables, WRITES],
  )
  return rows
}

/** Takes these rights away. Repeatable; each statement stands by itself. */
export async function closeWriteAccess(db: Database, schema: string, grants: readonly WriteGrant[]): Promise<void> {
  for (const { table, role, privilege } of grants) {
    const lost = privilege === 'ALL' ? 'INSERT, UPDATE, DELETE' : privilege
    await db.query(`REVOKE ${lost} ON TABLE ${qualified(schema, table)} FROM ${grantee(role)}`)
  }
}

/**
 * Gives them back, exactly.
 * @returns those that are not there afterwards; empty is the only green
 */
export async function openWriteAccess(
  db: Database,
  schema: string,
  grants: readonly WriteGrant[],
): Promise<WriteGrant[]> {
  for (const { table, role, privilege, grantable } of grants)
    await db.query(
      `GRANT ${privilege} ON TABLE ${qualified(schema, table)} TO ${grantee(role)}${grantable ? ' WITH GRANT OPTION' : ''}`,
    )
  const tables = [...new Set(grants.map((grant) => grant.table))]
  const there = new Set((await readWriteGrants(db, schema, tables)).map(nameOf))
  return grants.filter((grant) => !there.has(nameOf(grant)))
}

/** Both lists, each right once: write access that was half revoked when the run died is read in two parts. */
export function mergeWriteGrants(kept: readonly WriteGrant[], found: readonly WriteGrant[]): WriteGrant[] {
  return [...new Map([...kept, ...found].map((grant) => [nameOf(grant), grant])).values()]
}

function nameOf({ table, role, privilege }: WriteGrant): string {
  return JSON.stringify([table, role, privilege])
}

/** `public` is everyone, not a role of that name; catalogs write it in either case. */
function grantee(role: string): string {
  return role.toLowerCase() === 'public' ? 'PUBLIC' : ident(role)
}
