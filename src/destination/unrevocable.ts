import { ident, literal, qualified } from '../runtime/database.ts'

/*
 * Finds write access that REVOKE cannot remove. Owners and administrators have it, and so do members of an owner, an
 * administrator or the migration user.
 */

/** A login whose write access to tables cannot be revoked. */
export interface Unrevocable {
  role: string
  /** The role that the access comes from: an owner, an administrator or the migration user. May be the login itself. */
  through: string
  /** The role through which the login is a member of `through`; null if the login is `through`. */
  parent: string | null
  /** Whether `through` is an administrator. If so, changing the tables' owner does not help. */
  administrator: boolean
  /** The requested tables that the login can write to. */
  tables: string[]
}

const tablesSql = (schema: string, tables: readonly string[], columns: string) => `
  SELECT ${columns} FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
   WHERE n.nspname = ${literal(schema)} AND c.relname IN (${tables.map(literal).join(', ')}) AND c.relkind IN ('r', 'p')`

/**
 * Two queries whose results {@link unrevocableOf} needs. They follow memberships in the catalog, because CockroachDB
 * runs a query for every call of `pg_has_role`.
 * @param tables at least one table
 */
export function unrevocableSql(schema: string, tables: readonly string[]): [owners: string, holders: string] {
  return [
    `${tablesSql(schema, tables, 'c.relname AS table, o.rolname AS owner')} ORDER BY 1`,
    `WITH RECURSIVE holders AS (
  SELECT r.oid AS holder, r.oid AS member, NULL::oid AS parent FROM pg_catalog.pg_roles r
   WHERE r.rolsuper OR r.rolname = current_user OR r.rolname IN (${tablesSql(schema, tables, 'o.rolname')})
   UNION
  SELECT h.holder, m.member, m.roleid FROM holders h JOIN pg_catalog.pg_auth_members m ON m.roleid = h.member)
  SELECT r.rolname AS role, t.rolname AS through, p.rolname AS parent, t.rolsuper AS administrator,
         t.rolname = current_user AS mine
    FROM holders h JOIN pg_catalog.pg_roles r ON r.oid = h.member JOIN pg_catalog.pg_roles t ON t.oid = h.holder
    LEFT JOIN pg_catalog.pg_roles p ON p.oid = h.parent
   WHERE r.rolcanlogin AND r.rolname NOT IN (current_user, 'root', 'admin', 'node') ORDER BY 1, 2, 3`,
  ]
}

interface OwnerRow {
  table: string
  owner: string
}
type HolderRow = Omit<Unrevocable, 'tables'> & { mine: boolean }

/** Lists logins whose write access cannot be revoked, except this session's login and CockroachDB's built-in ones. */
export function unrevocableOf(owners: readonly OwnerRow[], holders: readonly HolderRow[]): Unrevocable[] {
  const administrators = new Set(holders.flatMap(({ role, administrator }) => (administrator ? [role] : [])))
  const found = new Map<string, Unrevocable>()
  for (const { mine, ...each } of holders) {
    // An administrator is listed once, whatever it owns.
    if (!each.administrator && administrators.has(each.role)) continue
    const all = each.administrator || mine
    const tables = owners.filter(({ owner }) => all || owner === each.through).map(({ table }) => table)
    const key = JSON.stringify([each.role, each.administrator || each.through])
    // Prefer the row with a membership, which can be revoked by name. Newer versions of CockroachDB also list a member
    // of admin as a superuser.
    if (tables.length && !found.get(key)?.parent) found.set(key, { ...each, tables })
  }
  return [...found.values()]
}

/**
 * Statements that make this access revocable: the migration user becomes the owner of the tables, and the old owner is
 * granted privileges instead.
 * @param user the migration user
 */
export function ownershipStatements(schema: string, found: readonly Unrevocable[], user: string): string[] {
  const byOwner = new Map<string, Set<string>>()
  const statements: string[] = []
  for (const { role, through, parent, tables } of found)
    if (through === user) statements.push(`REVOKE ${ident(parent ?? user)} FROM ${ident(role)}`)
    else byOwner.set(through, new Set([...(byOwner.get(through) ?? []), ...tables]))
  for (const [owner, tables] of byOwner) {
    const names = [...tables].map((table) => qualified(schema, table))
    for (const name of names) statements.push(`ALTER TABLE ${name} OWNER TO ${ident(user)}`)
    statements.push(`GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE ${names.join(', ')} TO ${ident(owner)}`)
  }
  return statements
}

/** Describes logins in words: `app owns orders; batch is a member of team, which owns orders`. */
export function unrevocableText(found: readonly Unrevocable[], user: string): string {
  return found
    .map(({ role, through, administrator, tables }) => {
      const of = through === role ? role : `${role} is a member of ${through}`
      if (administrator) return through === role ? `${role} is an administrator` : of
      if (through === user) return `${of}, the migration user`
      return `${of}${through === role ? '' : ', which'} owns ${tables.join(', ')}`
    })
    .join('; ')
}
