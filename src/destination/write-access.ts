import { type Database, ident, literal, qualified, queryAll, sqlState } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'

/*
 * Write access: until the cutover commits, only the tools can write to the target's tables. The write rights of the
 * application's roles are recorded and revoked, and restored at the commit.
 */

/** One right of one role before write access was revoked. */
export interface WriteGrant {
  table: string
  role: string
  privilege: string
  grantable: boolean
}

/** TRUNCATE is a right only on PostgreSQL; CockroachDB requires DROP for it. */
const WRITES = ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'DROP', 'ALL']

const grantsSql = (schema: string, tables: readonly string[]) => `
  SELECT g.table_name AS table, g.grantee AS role, g.privilege_type AS privilege, g.is_grantable = 'YES' AS grantable
    FROM information_schema.table_privileges g
    JOIN pg_catalog.pg_tables t ON t.schemaname = g.table_schema AND t.tablename = g.table_name
   WHERE g.table_schema = ${literal(schema)} AND g.table_name IN (${listed(tables)})
     AND g.privilege_type IN (${listed(WRITES)})
     AND g.grantee NOT IN (current_user, 'root', 'admin', 'node') AND g.grantee IS DISTINCT FROM t.tableowner
   ORDER BY 1, 2, 3`

/** Reads all write rights on these tables, except those of our role, the owner and administrators. */
export async function readWriteGrants(db: Database, schema: string, tables: readonly string[]): Promise<WriteGrant[]> {
  if (!tables.length) return []
  return (await queryAll(db, [grantsSql(schema, tables)]))[0] as WriteGrant[]
}

/** Selects what this session can grant: a right on a table, or ANY if it owns the table or is an administrator. */
const optionsSql = (schema: string, tables: readonly string[]) => `
  SELECT g.table_name AS table, g.privilege_type AS privilege
    FROM information_schema.table_privileges g
   WHERE g.table_schema = ${literal(schema)} AND g.table_name IN (${listed(tables)}) AND g.is_grantable = 'YES'
     AND g.privilege_type IN (${listed(WRITES)})
     AND (g.grantee = current_user OR g.grantee IN (SELECT role_name FROM information_schema.applicable_roles))
   GROUP BY 1, 2
   UNION ALL
  SELECT c.relname, 'ANY'
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = ${literal(schema)} AND c.relname IN (${listed(tables)}) AND c.relkind IN ('r', 'p')
     AND (pg_has_role(c.relowner, 'USAGE') OR EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolsuper AND (
            r.rolname = current_user OR r.rolname IN (SELECT role_name FROM information_schema.applicable_roles))))`

const tablesSql = (schema: string, tables: readonly string[]) =>
  `SELECT table_name AS table FROM information_schema.tables WHERE table_schema = ${literal(schema)} AND table_name IN (${listed(tables)})`

const ROLES = 'SELECT rolname AS name, rolname = current_user AS me FROM pg_catalog.pg_roles'

/** The current write access. */
export interface Access {
  /** Write rights that roles have now. */
  open: WriteGrant[]
  /** Open and revoked rights that this session could not restore, on tables that exist. */
  ungrantable: WriteGrant[]
  /** The user that this session runs as. */
  user: string
}

/**
 * Reads write access in one round trip. On CockroachDB, a role can grant a right only if it has it WITH GRANT OPTION,
 * owns the table or is admin. ALL requires ALL WITH GRANT OPTION.
 * @param taken revoked rights that must be restored later
 */
export async function readAccess(
  db: Database,
  schema: string,
  tables: readonly string[],
  taken: readonly WriteGrant[] = [],
): Promise<Access> {
  const all = [...new Set([...tables, ...taken.map(({ table }) => table)])]
  if (!all.length) return { open: [], ungrantable: [], user: '' }
  const [open = [], options = [], roles = [], existing = []] = await queryAll(db, [
    grantsSql(schema, all),
    optionsSql(schema, all),
    ROLES,
    tablesSql(schema, all),
  ])
  const exists = new Set(existing.map(({ table }) => table))
  const may = new Set(options.map(({ table, privilege }) => JSON.stringify([table, privilege])))
  const known = new Set(roles.map(({ name }) => name))
  const canGive = ({ table, role, privilege }: WriteGrant) =>
    (isPublic(role) || known.has(role)) &&
    ['ANY', 'ALL', privilege].some((each) => may.has(JSON.stringify([table, each])))
  const found = open as WriteGrant[]
  return {
    open: found,
    ungrantable: mergeWriteGrants(taken, found).filter((grant) => exists.has(grant.table) && !canGive(grant)),
    user: roles.find(({ me }) => me)?.name ?? '',
  }
}

/**
 * Revokes these rights. Uses few statements, because each is a schema change on CockroachDB. Repeatable.
 */
export async function closeWriteAccess(db: Database, schema: string, grants: readonly WriteGrant[]): Promise<void> {
  const each = grants.flatMap((grant) =>
    grant.privilege === 'ALL'
      ? ['INSERT', 'UPDATE', 'DELETE', 'DROP'].map((privilege) => ({ ...grant, privilege }))
      : [grant],
  )
  for (const { privileges, tables, roles } of bundles(each.map((grant) => ({ ...grant, grantable: false }))))
    await db.query(
      `REVOKE ${privileges.join(', ')} ON TABLE ${named(schema, tables)} FROM ${roles.map(grantee).join(', ')}`,
    )
}

/** The statements that restore these rights, as few as possible. */
export function grantStatements(schema: string, grants: readonly WriteGrant[]): string[] {
  return bundles(grants).map((bundle) => grantStatement(schema, bundle))
}

function grantStatement(schema: string, { privileges, tables, roles, grantable }: Bundle): string {
  return `GRANT ${privileges.join(', ')} ON TABLE ${named(schema, tables)} TO ${roles.map(grantee).join(', ')}${grantable ? ' WITH GRANT OPTION' : ''}`
}

/** Runs a GRANT; false if it was refused. The caller reads back what is missing. */
async function give(db: Database, statement: string): Promise<boolean> {
  try {
    await db.query(statement)
    return true
  } catch (error) {
    // A right is missing, or a role or table no longer exists.
    if (/^(0100[67]|42|0LP)/.test(sqlState(error) ?? '')) return false
    throw error
  }
}

/**
 * Restores exactly these rights. If one is refused, the others are still granted.
 * @returns the rights that are still missing; only an empty list is a success
 */
export async function openWriteAccess(
  db: Database,
  schema: string,
  grants: readonly WriteGrant[],
): Promise<WriteGrant[]> {
  if (!grants.length) return []
  // A missing role or table fails only its own part of a statement.
  const giveSingly = async ({ privileges, tables, roles, grantable }: Bundle) => {
    for (const role of roles)
      for (const table of tables)
        await give(db, grantStatement(schema, { privileges, tables: [table], roles: [role], grantable }))
  }
  for (const bundle of bundles(grants)) if (!(await give(db, grantStatement(schema, bundle)))) await giveSingly(bundle)
  return missingGrants(db, schema, grants)
}

/** Lists which of these rights are missing now. */
export async function missingGrants(
  db: Database,
  schema: string,
  grants: readonly WriteGrant[],
): Promise<WriteGrant[]> {
  const tables = [...new Set(grants.map((grant) => grant.table))]
  const there = new Set((await readWriteGrants(db, schema, tables)).map(nameOf))
  const has = (grant: WriteGrant) => there.has(nameOf(grant)) || there.has(nameOf({ ...grant, privilege: 'ALL' }))
  return grants.filter((grant) => !has(grant))
}

/**
 * Requires that no application role can write to the target, and that the revoked rights can be restored after the
 * commit.
 * @param login the role under which the stream writes
 * @throws VerdictError if one of the two is not the case, or `prepare` has neither revoked nor waived write access
 */
export async function requireClosed(
  db: Database,
  { targetSchema, tables }: { targetSchema: string; tables: readonly string[] },
  { writeAccess, writeAccessWaived }: { writeAccess?: readonly WriteGrant[]; writeAccessWaived?: boolean },
  login?: string,
): Promise<void> {
  if (!writeAccess && writeAccessWaived) return
  if (!writeAccess)
    throw new VerdictError(
      'write-access.not-closed',
      'write access to the target was never revoked, because `prepare` did not finish. Rerun `prepare`',
    )
  const access = await readAccess(db, targetSchema, tables, writeAccess)
  const open = access.open.filter(({ role }) => role !== login)
  const ungrantable = access.ungrantable.filter(({ role }) => role !== login)
  if (open.length)
    throw new VerdictError(
      'write-access.granted-early',
      `these roles can write to the target, which must stay read-only until the commit: ${grantsText(open)}. They were granted after \`prepare\`. Revoke them, then run \`verify\` again`,
    )
  if (ungrantable.length)
    throw new VerdictError(
      'write-access.not-grantable',
      `write access could not be given back after the commit: ${grantsText(ungrantable, 'had')}, and this user cannot grant it. Run on the target as an administrator: ${grantOptionStatements(targetSchema, ungrantable, access.user).join('; ')}`,
    )
}

/** The statements that allow `user` to restore these rights. */
export function grantOptionStatements(schema: string, grants: readonly WriteGrant[], user: string): string[] {
  return grantStatements(
    schema,
    mergeWriteGrants(
      [],
      grants.map((grant) => ({ ...grant, role: user, grantable: true })),
    ),
  )
}

/** Describes rights for people: `app has INSERT, UPDATE on orders, customers`. */
export function grantsText(grants: readonly WriteGrant[], verb = 'has'): string {
  return bundles(grants)
    .map(
      ({ roles, privileges, tables }) => `${roles.join(', ')} ${verb} ${privileges.join(', ')} on ${tables.join(', ')}`,
    )
    .join('; ')
}

/** Merges both lists. If a run died while it revoked rights, one list has what it recorded, the other what is left. */
export function mergeWriteGrants(kept: readonly WriteGrant[], found: readonly WriteGrant[]): WriteGrant[] {
  return [...new Map([...kept, ...found].map((grant) => [nameOf(grant), grant])).values()]
}

interface Bundle {
  privileges: string[]
  tables: string[]
  roles: string[]
  grantable: boolean
}

/** Combines rights into few statements of privileges, tables and roles. */
function bundles(grants: readonly WriteGrant[]): Bundle[] {
  const merged = (rights: Bundle[], by: (each: Bundle) => unknown, into: 'privileges' | 'tables' | 'roles') => {
    const found = new Map<string, Bundle>()
    for (const each of rights) {
      const key = JSON.stringify(by(each))
      const known = found.get(key)
      found.set(key, known ? { ...known, [into]: [...new Set([...known[into], ...each[into]])].sort() } : each)
    }
    return [...found.values()]
  }
  const all = grants.map(
    ({ privilege, table, role, grantable }): Bundle => ({
      privileges: [privilege],
      tables: [table],
      roles: [role],
      grantable,
    }),
  )
  // ALL cannot be combined with other privileges in a statement.
  const isAll = ({ privileges }: Bundle) => privileges[0] === 'ALL'
  const byTable = merged(all, (each) => [each.tables, each.roles, each.grantable, isAll(each)], 'privileges')
  const byRole = merged(byTable, (each) => [each.privileges, each.roles, each.grantable], 'tables')
  return merged(byRole, (each) => [each.privileges, each.tables, each.grantable], 'roles')
}

function named(schema: string, tables: readonly string[]): string {
  return tables.map((table) => qualified(schema, table)).join(', ')
}

function listed(texts: readonly string[]): string {
  return texts.map(literal).join(', ')
}

function nameOf({ table, role, privilege }: WriteGrant): string {
  return JSON.stringify([table, role, privilege])
}

const isPublic = (role: string) => role.toLowerCase() === 'public'

/** Quotes a role, but not PUBLIC, which means every role. Catalogs write it in upper or lower case. */
function grantee(role: string): string {
  return isPublic(role) ? 'PUBLIC' : ident(role)
}
