// Roles and their options. PostgreSQL lacks CockroachDB's option CREATELOGIN, so _crdb.role_options keeps it.
import { CHANGE, type Plan, quoteName, quoteText, type RuleContext, raising, type StatementRule } from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'
import { OWN_VARIABLES } from './settings.ts'

export const ROLE_RULES: StatementRule[] = [
  {
    id: 'roles.login',
    says: "Setting a role's password or LOGIN requires CREATELOGIN in addition to CREATEROLE. This is checked before the role is looked up, even with IF EXISTS and a missing role.",
    source: 'docs: create-role.md, alter-role.md; pkg/sql/alter_role.go',
    plan: changeRole,
  },
  {
    id: 'roles.admin',
    says: 'A member of `admin` can do everything that `root` can.',
    source: 'docs: security-reference/authorization.md#admin-role',
    plan: changeAdmins,
  },
]

/** Options that require CREATELOGIN; a new NOLOGIN role does not. */
const OF_LOGIN = new Set(['login', 'nologin', 'password', 'valid', 'createlogin', 'nocreatelogin'])

async function changeRole({ tokens, sql }: Statement, context: RuleContext): Promise<Plan | undefined> {
  const [verb, kind] = tokens.map(({ value, kind: of }) => (of === 'word' ? value : ''))
  if (!/^(create|alter)$/.test(verb ?? '') || !/^(role|user)$/.test(kind ?? '')) return undefined
  const creates = verb === 'create'
  const lenient = isWord(tokens[2], 'if')
  const at = lenient ? (creates ? 5 : 4) : 2
  const role = tokens[at]
  if (!role) return undefined
  const options = tokens.slice(at + 1)
  if (isWord(options[0], 'set') || isWord(options[0], 'reset')) return variable(sql, options)
  const refused = await refusal(creates, kind === 'user', options, context)
  if (refused) return { sql: raising(refused) }
  const tag = `${verb} role`.toUpperCase()
  const [there] = await context.admin('SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1', [role.value])
  if (lenient && Boolean(there) === creates) return { sql: 'SET _crdb.done = 1', tag, ...CHANGE }
  const login = options.find((token) => isWord(token, 'createlogin') || isWord(token, 'nocreatelogin'))
  const kept = options.filter((token) => token !== login)
  const rest = kept.map(({ text }) => text).join(' ')
  return {
    sql: rest || creates ? `${verb} ${kind} ${quoteName(role.value)} ${rest}` : 'SET _crdb.done = 1',
    before: async () => {
      if (login)
        await context.admin(
          isWord(login, 'createlogin')
            ? `INSERT INTO _crdb.role_options VALUES ($1, 'CREATELOGIN') ON CONFLICT DO NOTHING`
            : `DELETE FROM _crdb.role_options WHERE role = $1`,
          [role.value],
        )
    },
    tag,
    ...CHANGE,
  }
}

/**
 * Makes new members of `admin` superusers and removes the attribute from former members, because SUPERUSER is not
 * inherited.
 */
function changeAdmins({ tokens, sql }: Statement): Plan | undefined {
  const grants = isWord(tokens[0], 'grant')
  const ends = tokens.findIndex((token) => isWord(token, grants ? 'to' : 'from'))
  if (!(grants || isWord(tokens[0], 'revoke')) || ends < 0 || tokens.some((token) => isWord(token, 'on')))
    return undefined
  if (!tokens.slice(1, ends).some((token) => token.value === 'admin')) return undefined
  const members = tokens.slice(ends + 1).filter(({ kind }) => kind !== 'symbol')
  const option = members.findIndex((token) => isWord(token, 'with'))
  const changes = members
    .slice(0, option < 0 ? undefined : option)
    .map(({ value }) => `ALTER ROLE ${quoteName(value)} ${grants ? '' : 'NO'}SUPERUSER`)
  return {
    sql: `DO ${quoteText(`BEGIN ${[sql, ...changes].join('; ')}; END`)}`,
    tag: grants ? 'GRANT' : 'REVOKE',
    ...CHANGE,
  }
}

async function refusal(
  creates: boolean,
  logsIn: boolean,
  options: readonly Token[],
  { session, admin, isAdmin }: RuleContext,
): Promise<SqlError | undefined> {
  if (await isAdmin()) return undefined
  const [held] = await admin(
    `SELECT rolcreaterole AS roles, EXISTS (SELECT 1 FROM _crdb.role_options o WHERE o.role = rolname) AS logins
       FROM pg_catalog.pg_roles WHERE rolname = $1`,
    [session.user],
  )
  const lacks = (option: string) => new SqlError('42501', `user ${session.user} does not have ${option} privilege`)
  if (!held?.roles) return lacks('CREATEROLE')
  const named = new Set(options.filter(({ kind }) => kind === 'word').map(({ value }) => value))
  const touches = [...named].some((name) => OF_LOGIN.has(name) && !(creates && name === 'nologin'))
  return (touches || (creates && logsIn && !named.has('nologin'))) && !held.logins ? lacks('CREATELOGIN') : undefined
}

/** Renames CockroachDB's variables to `crdb.name`, because custom variables in PostgreSQL need a dot in their names. */
function variable(sql: string, options: readonly Token[]): Plan {
  const name = options[1]
  return {
    sql: name && OWN_VARIABLES.has(name.value) ? `${sql.slice(0, name.start)}crdb.${sql.slice(name.start)}` : sql,
    ...CHANGE,
  }
}

function isWord(token: Token | undefined, word: string): boolean {
  return token?.kind === 'word' && token.value === word
}
