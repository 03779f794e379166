// GRANT and REVOKE on tables and on the system. CockroachDB has privileges that PostgreSQL lacks: DROP, CREATE, and ALL
// as a privilege of its own. PostgreSQL's catalogs keep the shared ones, _crdb.table_grants the others.
import { CHANGE, opensWith, type Plan, quoteName, type RuleContext, raising, type StatementRule } from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'

/** Table privileges in the order in which ALL is expanded. */
const PRIVILEGES = [
  'BACKUP',
  'CHANGEFEED',
  'CREATE',
  'DELETE',
  'DROP',
  'INSERT',
  'SELECT',
  'TRIGGER',
  'UPDATE',
  'ZONECONFIG',
]
const OF_POSTGRES = new Set(['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRIGGER'])

interface TableGrant {
  verb: 'GRANT' | 'REVOKE'
  privileges: string[]
  /** Table names as written, including schemas. */
  tables: string[]
  roles: string[]
  /** Whether the statement includes WITH GRANT OPTION or GRANT OPTION FOR. */
  option: boolean
}

export const GRANT_RULES: StatementRule[] = [
  {
    id: 'grants.system',
    says: 'GRANT SYSTEM and REVOKE SYSTEM grant and revoke cluster-wide privileges.',
    source: 'docs: grant.md, security-reference/authorization.md',
    plan: systemGrant,
  },
  {
    id: 'grants.no-truncate',
    says: 'There is no TRUNCATE privilege, and no REFERENCES before 26.3. Both are syntax errors in GRANT and REVOKE.',
    source: 'pkg/sql/privilege/kind.go; cockroachdb/cockroach#169080',
    plan: (statement, { version }) => {
      if (!/^(grant|revoke)$/.test(statement.tokens[0]?.value ?? '')) return undefined
      const on = statement.tokens.findIndex(({ value }) => value === 'on')
      const newer = version[0] > 26 || (version[0] === 26 && version[1] >= 3)
      const missing = statement.tokens
        .slice(1, Math.max(on, 1))
        .find(({ value }) => value === 'truncate' || (value === 'references' && !newer))
      return missing
        ? {
            sql: raising(
              new SqlError(
                '42601',
                `at or near "${missing.value}": syntax error: not a valid privilege: "${missing.value}"`,
              ),
            ),
          }
        : undefined
    },
  },
  {
    id: 'grants.no-cascade',
    says: 'REVOKE accepts neither CASCADE nor RESTRICT: both are syntax errors.',
    source: 'pkg/sql/parser/sql.y: revoke_stmt',
    plan: (statement) => {
      const [before, last] = statement.tokens.slice(-2)
      if (!opensWith(statement, 'revoke') || last?.kind !== 'word' || !/^(cascade|restrict)$/.test(last.value))
        return undefined
      if (before?.kind === 'symbol' || before?.value === 'from') return undefined
      return { sql: raising(new SqlError('42601', `at or near "${last.value}": syntax error`)) }
    },
  },
  {
    id: 'grants.option',
    says: 'GRANT and REVOKE require the privilege WITH GRANT OPTION, the role admin, or ownership. The refusal is an error with code 01007 or 01006. Each statement is one job.',
    source: 'pkg/sql/grant_revoke.go; cockroachdb/cockroach#41930',
    plan: tableGrant,
  },
]

async function systemGrant(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const gives = opensWith(statement, 'grant system')
  if (!gives && !opensWith(statement, 'revoke system')) return undefined
  if (!(await context.isAdmin()))
    return { sql: raising(new SqlError('42501', `user ${context.session.user} does not have ALL system privilege`)) }
  const { tokens } = statement
  const end = tokens.findIndex(({ value }) => value === (gives ? 'to' : 'from'))
  const privileges = namesOf(tokens.slice(2, end)).map((name) => name.toUpperCase())
  const roles = namesOf(tokens.slice(end + 1))
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      for (const role of roles)
        await context.admin(
          gives
            ? 'INSERT INTO _crdb.system_grants SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING'
            : 'DELETE FROM _crdb.system_grants WHERE grantee = $1 AND privilege = ANY($2)',
          [role, privileges],
        )
    },
    tag: gives ? 'GRANT' : 'REVOKE',
    ...CHANGE,
  }
}

/** The comma-separated items. `value` returns decoded names, `text` names as written. */
function namesOf(tokens: readonly Token[], part: 'value' | 'text' = 'value'): string[] {
  const names: string[] = []
  let current = ''
  for (const token of tokens) {
    if (token.text === ',') {
      names.push(current)
      current = ''
    } else current += token[part]
  }
  return current ? [...names, current] : names
}

async function tableGrant(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const grant = parseTableGrant(statement)
  if (!grant) return undefined
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      await context.commitOpen()
      const job = context.jobs.create({
        type: 'NEW SCHEMA CHANGE',
        description: statement.sql,
        user: context.session.user,
      })
      await runGrant(grant, context)
      await new Promise((done) => setTimeout(done, context.ddlTime))
      context.jobs.update(job, { status: 'succeeded', fractionCompleted: 1 })
    },
    tag: grant.verb,
    ...CHANGE,
  }
}

/**
 * Undefined for other objects (roles, databases, schemas, sequences), for which PostgreSQL behaves like CockroachDB.
 */
function parseTableGrant({ tokens, sql }: Statement): TableGrant | undefined {
  const verb = tokens[0]?.value.toUpperCase()
  if (verb !== 'GRANT' && verb !== 'REVOKE') return undefined
  const on = tokens.findIndex(({ value, kind }) => kind === 'word' && value === 'on')
  if (on < 0) return undefined
  if (/^(database|schema|sequence|function|type|all|external|virtual|procedure)$/.test(tokens[on + 1]?.value ?? ''))
    return undefined
  const optionFor = sql.slice(tokens[1]?.start).toLowerCase().startsWith('grant option for')
  const from = tokens.findIndex(
    ({ value, kind }, at) => at > on && kind === 'word' && value === (verb === 'GRANT' ? 'to' : 'from'),
  )
  const withOption = tokens.findIndex(({ value }, at) => at > from && value === 'with')
  const privileges = namesOf(tokens.slice(optionFor ? 4 : 1, on)).map((name) => name.toUpperCase())
  return {
    verb,
    privileges: privileges.map((name) => (name === 'ALLPRIVILEGES' ? 'ALL' : name)),
    tables: namesOf(tokens.slice(tokens[on + 1]?.value === 'table' ? on + 2 : on + 1, from), 'text'),
    roles: namesOf(tokens.slice(from + 1, withOption < 0 ? tokens.length : withOption)),
    option: optionFor || withOption >= 0,
  }
}

async function runGrant(grant: TableGrant, context: RuleContext): Promise<void> {
  for (const table of grant.tables) {
    const found = await resolveTable(table, context)
    await requireGrantable(grant, found, context)
    for (const role of grant.roles) await change(grant, found, role, context)
  }
}

export interface FoundTable {
  oid: string
  schema: string
  name: string
  owner: string
}

/** @throws SqlError 42P01 when the table does not exist */
export async function resolveTable(written: string, context: RuleContext): Promise<FoundTable> {
  const parts = written.match(/"(?:[^"]|"")*"|[^.]+/g) ?? []
  // A three-part name starts with the database's name.
  const local = (parts.length === 3 ? parts.slice(1) : parts).join('.')
  const rows = await context.admin<FoundTable & Record<string, string>>(
    `SELECT c.oid::text AS oid, n.nspname AS schema, c.relname AS name, o.rolname AS owner FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
      WHERE c.oid = (SELECT to_regclass(CASE WHEN $2 THEN $1 ELSE $3 || '.' || $1 END))`,
    [local, local.includes('.'), quoteName(firstSchema(context))],
  )
  const [found] = rows
  if (!found) throw new SqlError('42P01', `relation "${written.replaceAll('"', '')}" does not exist`)
  return found
}

/** @throws SqlError 42501 */
export async function requirePrivilege(table: FoundTable, privilege: string, context: RuleContext): Promise<void> {
  if (await context.hasPrivilege(table.schema, table.name, privilege)) return
  throw new SqlError(
    '42501',
    privilege === 'DROP'
      ? `user ${context.session.user} does not have DROP privilege on relation ${table.name}`
      : `must be owner of table ${table.name} or have ${privilege} privilege on table ${table.name}`,
  )
}

export function firstSchema({ session }: RuleContext): string {
  const [first = 'public'] = session.searchPath.split(',').map((name) => name.trim().replaceAll('"', ''))
  return first === '$user' || !first ? 'public' : first
}

async function requireGrantable(grant: TableGrant, table: FoundTable, context: RuleContext): Promise<void> {
  const { user } = context.session
  const owned = await context.admin(`SELECT pg_has_role($1, $2, 'USAGE') AS owned`, [user, table.owner])
  if (owned[0]?.owned || (await context.isAdmin())) return
  const held = await context.admin<{ privilege: string }>(
    `SELECT privilege_type AS privilege FROM _crdb.table_privileges p
      WHERE p.table_schema = $1 AND p.table_name = $2 AND p.is_grantable = 'YES'
        AND (p.grantee = 'public' OR pg_has_role($3, p.grantee::name, 'USAGE'))`,
    [table.schema, table.name, user],
  )
  const has = new Set(held.map(({ privilege }) => privilege))
  if (has.has('ALL')) return
  const missing = grant.privileges.filter((name) => !has.has(name))
  if (missing.length)
    throw new SqlError(
      grant.verb === 'GRANT' ? '01007' : '01006',
      `user ${user} missing WITH GRANT OPTION privilege on ${missing.join(', ')}`,
    )
}

/**
 * Changes a role's privileges on a table. As in CockroachDB, ALL is a single privilege until a part of it is revoked,
 * which expands it.
 */
async function change(grant: TableGrant, table: FoundTable, role: string, context: RuleContext): Promise<void> {
  const { verb, privileges, option } = grant
  const place = `${quoteName(table.schema)}.${quoteName(table.name)}`
  const who = role.toLowerCase() === 'public' ? 'PUBLIC' : quoteName(role)
  const all = privileges.includes('ALL')
  const named = all ? PRIVILEGES : privileges
  const own = named.filter((name) => OF_POSTGRES.has(name)).join(', ')
  const run = (sql: string, values?: unknown[]) => context.admin(sql, values)
  if (verb === 'GRANT') {
    if (own) await run(`GRANT ${own} ON ${place} TO ${who}${option ? ' WITH GRANT OPTION' : ''}`)
    const kept = all ? ['ALL'] : named.filter((name) => !OF_POSTGRES.has(name))
    await run(
      `INSERT INTO _crdb.table_grants SELECT $1, $2, unnest($3::text[]), $4 ON CONFLICT (relid, grantee, privilege)
         DO UPDATE SET grantable = EXCLUDED.grantable OR table_grants.grantable`,
      [table.oid, role, kept, option],
    )
    return
  }
  if (own) await run(`REVOKE ${option ? 'GRANT OPTION FOR ' : ''}${own} ON ${place} FROM ${who} CASCADE`)
  const expanded = await run(
    `DELETE FROM _crdb.table_grants WHERE relid = $1 AND grantee = $2 AND privilege = 'ALL' AND NOT $3 RETURNING grantable`,
    [table.oid, role, option && all],
  )
  if (expanded.length && !all)
    await run(`INSERT INTO _crdb.table_grants SELECT $1, $2, unnest($3::text[]), $4 ON CONFLICT DO NOTHING`, [
      table.oid,
      role,
      PRIVILEGES.filter((name) => !OF_POSTGRES.has(name)),
      expanded[0]?.grantable,
    ])
  await run(
    option
      ? `UPDATE _crdb.table_grants SET grantable = false WHERE relid = $1 AND grantee = $2 AND privilege = ANY($3)`
      : `DELETE FROM _crdb.table_grants WHERE relid = $1 AND grantee = $2 AND privilege = ANY($3)`,
    [table.oid, role, all ? [...named, 'ALL'] : named],
  )
}
