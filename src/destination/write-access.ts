import { type Database, ident, literal, qualified, queryAll, sqlState, unhurried } from '../runtime/database.ts'
import { messageOf, refuse, VerdictError } from '../runtime/errors.ts'
import { ownershipStatements, type Unrevocable, unrevocableOf, unrevocableSql, unrevocableText } from './unrevocable.ts'

/*
 * Write access: until the cutover commits, only the tools can write to the target's tables. The write privileges of the
 * application's roles are recorded and revoked, and restored at the commit.
 */

/** A privilege that a role had before write access was revoked. */
export interface WriteGrant {
  table: string
  role: string
  privilege: string
  grantable: boolean
}

/** TRUNCATE is a privilege only on PostgreSQL. CockroachDB requires DROP for it. */
const WRITES = ['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'DROP', 'ALL']

const grantsSql = (schema: string, tables: readonly string[]) => `
  SELECT g.table_name AS table, g.grantee AS role, g.privilege_type AS privilege, g.is_grantable = 'YES' AS grantable
    FROM information_schema.table_privileges g
    JOIN pg_catalog.pg_tables t ON t.schemaname = g.table_schema AND t.tablename = g.table_name
   WHERE g.table_schema = ${literal(schema)} AND g.table_name IN (${listed(tables)})
     AND g.privilege_type IN (${listed(WRITES)})
     AND g.grantee NOT IN (current_user, 'root', 'admin', 'node') AND g.grantee IS DISTINCT FROM t.tableowner
   ORDER BY 1, 2, 3`

/**
 * Reads all write privileges on these tables, except those of this session's role, owners and administrators (see
 * {@link Unrevocable}).
 */
export async function readWriteGrants(db: Database, schema: string, tables: readonly string[]): Promise<WriteGrant[]> {
  if (!tables.length) return []
  return (await queryAll(db, [grantsSql(schema, tables)]))[0] as WriteGrant[]
}

/** Selects what this session can grant: a privilege on a table, or ANY if it owns the table or is an administrator. */
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

/** Who can write to the target's tables now. */
export interface Access {
  /** Write privileges that roles have now. */
  open: WriteGrant[]
  /** Current and revoked privileges that this session could not restore, on tables that exist. */
  ungrantable: WriteGrant[]
  /** Revoked privileges of roles that no longer exist. */
  gone: WriteGrant[]
  /** Logins whose write access cannot be revoked. */
  unrevocable: Unrevocable[]
  /** The user that this session runs as. */
  user: string
}

/**
 * Reads write access in one round trip. On CockroachDB, a role can grant a privilege only if it has that privilege WITH
 * GRANT OPTION, owns the table or is an admin. Granting ALL requires ALL WITH GRANT OPTION.
 * @param taken revoked privileges that must be restored later
 */
export async function readAccess(
  db: Database,
  schema: string,
  tables: readonly string[],
  taken: readonly WriteGrant[] = [],
): Promise<Access> {
  const all = [...new Set([...tables, ...taken.map(({ table }) => table)])]
  if (!all.length) return { open: [], ungrantable: [], gone: [], unrevocable: [], user: '' }
  const [open = [], options = [], roles = [], existing = [], owners = [], holders = []] = await queryAll(db, [
    grantsSql(schema, all),
    optionsSql(schema, all),
    ROLES,
    tablesSql(schema, all),
    ...unrevocableSql(schema, all),
  ])
  const exists = new Set(existing.map(({ table }) => table))
  const may = new Set(options.map(({ table, privilege }) => JSON.stringify([table, privilege])))
  const known = new Set(roles.map(({ name }) => name))
  const isThere = ({ role }: WriteGrant) => isPublic(role) || known.has(role)
  const canGive = ({ table, privilege }: WriteGrant) =>
    ['ANY', 'ALL', privilege].some((each) => may.has(JSON.stringify([table, each])))
  const found = open as WriteGrant[]
  return {
    open: found,
    ungrantable: mergeWriteGrants(taken, found).filter(
      (grant) => isThere(grant) && exists.has(grant.table) && !canGive(grant),
    ),
    gone: taken.filter((grant) => !isThere(grant)),
    unrevocable: unrevocableOf(owners as never, holders as never),
    user: roles.find(({ me }) => me)?.name ?? '',
  }
}

/**
 * Revokes these privileges, without a time limit. Uses few statements, because each is a schema change on CockroachDB.
 * Safe to repeat.
 */
export async function closeWriteAccess(db: Database, schema: string, grants: readonly WriteGrant[]): Promise<void> {
  const statements = revokeStatements(schema, grants)
  if (!statements.length) return
  await unhurried(db, async () => {
    for (const statement of statements) await db.query(statement)
  })
}

/** The statements that revoke these privileges, as few as possible. */
export function revokeStatements(schema: string, grants: readonly WriteGrant[]): string[] {
  const each = grants.flatMap((grant) =>
    grant.privilege === 'ALL'
      ? ['INSERT', 'UPDATE', 'DELETE', 'DROP'].map((privilege) => ({ ...grant, privilege }))
      : [grant],
  )
  return bundles(each.map((grant) => ({ ...grant, grantable: false }))).map(
    ({ privileges, tables, roles }) =>
      `REVOKE ${privileges.join(', ')} ON TABLE ${named(schema, tables)} FROM ${roles.map(grantee).join(', ')}`,
  )
}

/** The statements that restore these privileges, as few as possible. */
export function grantStatements(schema: string, grants: readonly WriteGrant[]): string[] {
  return bundles(grants).map((bundle) => grantStatement(schema, bundle))
}

function grantStatement(schema: string, { privileges, tables, roles, grantable }: Bundle): string {
  return `GRANT ${privileges.join(', ')} ON TABLE ${named(schema, tables)} TO ${roles.map(grantee).join(', ')}${grantable ? ' WITH GRANT OPTION' : ''}`
}

/** The result of restoring privileges. */
export interface Given {
  /**
   * The privileges that are still missing; all of them if the target cannot be read. Restoring succeeded only if the
   * list is empty.
   */
  missing: WriteGrant[]
  /** Missing privileges whose role or table no longer exists, so no statement can restore them. */
  gone: WriteGrant[]
  /** The server's messages, each listed once. */
  causes: string[]
}

/** SQLSTATEs of a missing privilege, role or table. Other parts of the statement may still succeed by themselves. */
const REFUSES_PART = /^(0100[67]|42|0LP|3F000|55)/
/** SQLSTATEs of a missing role, table or schema. A table that an import keeps offline has a different SQLSTATE. */
const GONE = /^(42704|42P01|3F000)$/

/**
 * Restores exactly these privileges, without a time limit, because each statement is a schema change. If one is
 * refused, still grants the others. Never throws the target's errors; the caller must report what is missing.
 */
export async function openWriteAccess(db: Database, schema: string, grants: readonly WriteGrant[]): Promise<Given> {
  if (!grants.length) return { missing: [], gone: [], causes: [] }
  const causes = new Set<string>()
  const gone = new Set<string>()
  const give = async (bundle: Bundle): Promise<string | undefined> => {
    try {
      await db.query(grantStatement(schema, bundle))
      return undefined
    } catch (error) {
      const state = sqlState(error)
      if (!state) throw error
      causes.add(causeOf(error))
      return state
    }
  }
  const giveSingly = async (bundle: Bundle) => {
    for (const role of bundle.roles)
      for (const table of bundle.tables)
        if (GONE.test((await give({ ...bundle, tables: [table], roles: [role] })) ?? ''))
          gone.add(pairOf({ role, table }))
  }
  try {
    await unhurried(db, async () => {
      for (const bundle of bundles(grants)) if (REFUSES_PART.test((await give(bundle)) ?? '')) await giveSingly(bundle)
    })
    const missing = await missingGrants(db, schema, grants)
    return { missing, gone: missing.filter((grant) => gone.has(pairOf(grant))), causes: [...causes] }
  } catch (error) {
    return { missing: [...grants], gone: [], causes: [...causes, causeOf(error)] }
  }
}

function causeOf(error: unknown): string {
  const state = sqlState(error)
  return state ? `SQLSTATE ${state}: ${messageOf(error)}` : messageOf(error)
}

/** @throws VerdictError that lists the statements for privileges that could not be restored */
export function requireGiven(
  { missing, causes }: Given,
  schema: string,
  { code, what, next }: { code: 'write-access.missing' | 'write-access.not-restored'; what: string; next: string },
): void {
  if (!missing.length) return
  const statements = grantStatements(schema, missing).map((statement) => `${statement};`)
  refuse(code, [what, ...causes.slice(0, 3)].join('. '), statements, next)
}

/** Lists the privileges among these that are missing now. */
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
 * Requires that no application role can write to the target, and that the revoked privileges can be restored after the
 * commit.
 * @param login the role that the stream uses to write
 * @throws VerdictError if either requirement is not met, or `prepare` has neither revoked nor waived write access
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
      `these roles can write to the target, which must stay read-only until the commit: ${grantsText(open)}. These privileges were granted after \`prepare\`. Revoke them, then run \`verify\` again`,
    )
  const owners = access.unrevocable.filter(({ administrator }) => !administrator)
  if (owners.length)
    throw new VerdictError(
      'write-access.not-revocable',
      `these roles can write to the target, which must stay read-only until the commit, and REVOKE does not change that: ${unrevocableText(owners, access.user)}. Run on the target as an administrator: ${ownershipStatements(targetSchema, owners, access.user).join('; ')}. Then run \`verify\` again`,
    )
  const gone = [...new Set(access.gone.map(({ role }) => role))]
  if (gone.length)
    throw new VerdictError(
      'write-access.role-gone',
      `roles that had write access to the target no longer exist, so their access cannot be restored: ${grantsText(access.gone, 'had')}. Create these roles again: ${gone.map((role) => `CREATE ROLE ${ident(role)} LOGIN`).join('; ')}. Before the load, you can also run \`prepare\` again, which forgets them`,
    )
  if (ungrantable.length)
    throw new VerdictError(
      'write-access.not-grantable',
      `write access could not be restored after the commit: ${grantsText(ungrantable, 'had')}, and this user cannot grant that. Run on the target as an administrator: ${grantOptionStatements(targetSchema, ungrantable, access.user).join('; ')}`,
    )
}

/** The statements that allow `user` to restore these privileges. */
export function grantOptionStatements(schema: string, grants: readonly WriteGrant[], user: string): string[] {
  return grantStatements(
    schema,
    mergeWriteGrants(
      [],
      grants.map((grant) => ({ ...grant, role: user, grantable: true })),
    ),
  )
}

/** Describes privileges in words: `app has INSERT, UPDATE on orders, customers`. */
export function grantsText(grants: readonly WriteGrant[], verb = 'has'): string {
  return bundles(grants)
    .map(
      ({ roles, privileges, tables }) => `${roles.join(', ')} ${verb} ${privileges.join(', ')} on ${tables.join(', ')}`,
    )
    .join('; ')
}

/** Merges recorded and current privileges. If a run died while it was revoking them, neither list is complete. */
export function mergeWriteGrants(kept: readonly WriteGrant[], found: readonly WriteGrant[]): WriteGrant[] {
  return [...new Map([...kept, ...found].map((grant) => [nameOf(grant), grant])).values()]
}

interface Bundle {
  privileges: string[]
  tables: string[]
  roles: string[]
  grantable: boolean
}

/** Combines privileges, tables and roles, so that few statements are needed. */
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

export function isSameGrant(one: WriteGrant, other: WriteGrant): boolean {
  return nameOf(one) === nameOf(other)
}

function pairOf({ table, role }: Pick<WriteGrant, 'table' | 'role'>): string {
  return JSON.stringify([table, role])
}

function nameOf({ table, role, privilege }: WriteGrant): string {
  return JSON.stringify([table, role, privilege])
}

const isPublic = (role: string) => role.toLowerCase() === 'public'

/** Quotes a role's name, except PUBLIC, which means every role. Catalogs write PUBLIC in upper or lower case. */
function grantee(role: string): string {
  return isPublic(role) ? 'PUBLIC' : ident(role)
}
