import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type Database, ident, literal, qualified, sqlState } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { addSecretUrl } from '../runtime/secrets.ts'
import { TIMING } from '../runtime/timing.ts'
import { withLogin } from '../runtime/url.ts'
import { readTarget } from './server.ts'

/*
 * Each leg of the stream writes to the target under a login of its own. A replicator whose machine was paused still
 * holds changes in its socket buffer and applies them when it thaws, over what its successor has written, and it dials
 * again when its session is ended. Only taking its login away stops it.
 */

/** A role that may write to the expected tables and nowhere else, and the target's URL for it. */
export interface StreamLogin {
  role: string
  url: string
  /** What the grant on its tables has taken, in milliseconds: a schema change on CockroachDB. */
  grantMs?: number
}

const PREFIX = 'molt_leg_'

export function newLoginName(): string {
  return `${PREFIX}${randomBytes(6).toString('hex')}`
}

export function isStreamLogin(role: string): boolean {
  return role.startsWith(PREFIX)
}

/** What a leg's login is given on each table. */
export const LOGIN_RIGHTS = ['SELECT', 'INSERT', 'UPDATE', 'DELETE']

/** Whether the migration role may create logins on the target. */
export async function mayCreateLogins(db: Database): Promise<boolean> {
  const { isCockroach } = await readTarget(db)
  if (isCockroach) return mayOnCockroach(db)
  const { rows } = await db.query(
    'SELECT coalesce(bool_or(rolcreaterole OR rolsuper), false) AS may FROM pg_catalog.pg_roles WHERE rolname = current_user',
  )
  return rows[0].may
}

/**
 * No catalog tells of CREATELOGIN, which a password and LOGIN ask for beside CREATEROLE. Both are asked for before the role
 * is looked up, so that altering one that does not exist tells without changing anything (pkg/sql/alter_role.go).
 */
async function mayOnCockroach(db: Database): Promise<boolean> {
  try {
    await db.query(`ALTER ROLE IF EXISTS ${ident(newLoginName())} WITH LOGIN`)
    return true
  } catch (error) {
    if (sqlState(error) === '42501') return false
    throw error
  }
}

/**
 * Creates the login of one leg with the rights that a replicator needs, and connects with it once.
 * @param tables bare names, the heartbeat among them
 * @throws the database's error when it may not be created, may not be given the rights, or cannot log in
 */
export async function createStreamLogin(
  db: Database,
  targetUrl: string,
  role: string,
  schema: string,
  tables: readonly string[],
): Promise<StreamLogin> {
  const password = randomBytes(24).toString('hex')
  const url = withLogin(targetUrl, role, password)
  addSecretUrl(url)
  await db.query(`CREATE ROLE IF NOT EXISTS ${ident(role)} LOGIN PASSWORD ${literal(password)}`)
  const { rows } = await db.query('SELECT has_schema_privilege($1, $2, $3) AS used', [role, schema, 'USAGE'])
  if (!rows[0].used) await db.query(`GRANT USAGE ON SCHEMA ${ident(schema)} TO ${ident(role)}`)
  const names = tables.map((table) => qualified(schema, table)).join(', ')
  const began = performance.now()
  await db.query(`GRANT ${LOGIN_RIGHTS.join(', ')} ON TABLE ${names} TO ${ident(role)}`)
  const grantMs = performance.now() - began
  await (await connect(url, 'target')).end()
  return { role, url, grantMs }
}

/**
 * Takes a login away and ends its sessions, so that nothing of that leg can write any more. Repeatable, also for a role
 * that does not exist. A new password lets this run log in as the role: ending other roles' sessions needs rights that
 * a migration role rarely has.
 * @param leg a session of the role that was opened before, so that none has to be opened now
 * @throws VerdictError `stream.login-alive` when it still may log in, or a session of it does not end
 */
export async function retireStreamLogin(db: Database, targetUrl: string, role: string, leg?: Leg): Promise<void> {
  if (leg) return retireBy(db, role, leg)
  if ((await canLogIn(db, role)) === undefined) return
  const password = randomBytes(24).toString('hex')
  const url = withLogin(targetUrl, role, password)
  addSecretUrl(url)
  await db.query(`ALTER ROLE ${ident(role)} LOGIN PASSWORD ${literal(password)}`)
  const own = await connect(url, 'target')
  try {
    await retireBy(db, role, await legOf(own))
  } finally {
    await own.end().catch(() => {})
  }
}

async function retireBy(db: Database, role: string, leg: Leg): Promise<void> {
  await db.query(`ALTER ROLE ${ident(role)} NOLOGIN`)
  await endOtherSessions(leg, role)
  if (await canLogIn(db, role)) throw alive(role, 'it may still log in')
}

/** A session of a leg's role, which may end the others of that role. */
export interface Leg {
  db: Database
  isCockroach: boolean
  /** Its number on CockroachDB. */
  session: string
}

/** Opens another session of a leg's login. The caller ends it. */
export async function openLeg({ url }: StreamLogin): Promise<Leg> {
  return legOf(await connect(url, 'target'))
}

async function legOf(db: Database): Promise<Leg> {
  const { isCockroach } = await readTarget(db)
  return { db, isCockroach, session: isCockroach ? (await db.query('SHOW session_id')).rows[0].session_id : '' }
}

/** Drops a login that was retired. */
export async function dropStreamLogin(db: Database, role: string): Promise<void> {
  if ((await canLogIn(db, role)) === undefined) return
  const { rows } = await db.query(
    'SELECT DISTINCT table_schema AS schema, table_name AS name FROM information_schema.table_privileges WHERE grantee = $1',
    [role],
  )
  const tables = rows.map(({ schema, name }) => qualified(schema, name)).join(', ')
  // Not ALL, for which CockroachDB asks for ALL WITH GRANT OPTION.
  if (tables) await db.query(`REVOKE ${LOGIN_RIGHTS.join(', ')} ON TABLE ${tables} FROM ${ident(role)}`)
  for (const schema of new Set<string>(rows.map((row) => row.schema)))
    await db.query(`REVOKE USAGE ON SCHEMA ${ident(schema)} FROM ${ident(role)}`).catch((error) => {
      // Where everybody may use the schema, nothing was given, and this role may have nothing to take.
      if (!isNotGrantable(error)) throw error
    })
  await db.query(`DROP ROLE IF EXISTS ${ident(role)}`)
}

export async function loginExists(db: Database, role: string): Promise<boolean> {
  return (await canLogIn(db, role)) !== undefined
}

/** undefined when there is no such role. */
async function canLogIn(db: Database, role: string): Promise<boolean | undefined> {
  const { rows } = await db.query('SELECT rolcanlogin AS may FROM pg_catalog.pg_roles WHERE rolname = $1', [role])
  return rows[0]?.may
}

/** Ends the sessions of this one's role that go by one of these application names. */
export async function endOwnSessions(own: Database, applications: readonly string[]): Promise<void> {
  const { rows } = await own.query('SELECT current_user AS me')
  await endOtherSessions(
    await legOf(own),
    rows[0].me,
    `AND application_name IN (${applications.map(literal).join(', ')})`,
  )
}

/** Ends every session of this one's role but itself: a role may always end its own. */
async function endOtherSessions(leg: Leg, role: string, which = ''): Promise<void> {
  const end = leg.isCockroach ? endOnCockroach : endOnPostgres
  const deadline = performance.now() + TIMING.sessionsEnd
  // Twice none: a session that was logging in when its login was taken away shows up late.
  for (let none = 0; none < 2; ) {
    none = (await end(leg, which)) ? 0 : none + 1
    if (performance.now() > deadline) throw alive(role, 'its sessions do not end')
    if (!none) await sleep(TIMING.sessionsLook)
  }
}

async function endOnPostgres({ db }: Leg, which: string): Promise<number> {
  const { rowCount } = await db.query(
    `SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
      WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid() ${which}`,
  )
  return rowCount ?? 0
}

/** By its documented statements; not exercised on a cluster. */
async function endOnCockroach({ db, session }: Leg, which: string): Promise<number> {
  const others = `SELECT session_id FROM [SHOW CLUSTER SESSIONS] WHERE user_name = current_user() AND session_id <> ${literal(session)} ${which}`
  const { rowCount } = await db.query(others)
  if (rowCount) await db.query(`CANCEL SESSIONS IF EXISTS (${others})`)
  return rowCount ?? 0
}

function alive(role: string, why: string): VerdictError {
  return new VerdictError(
    'stream.login-alive',
    `an earlier replicator may still write to the target: the login ${role} could not be retired, because ${why}. Run \`ALTER ROLE ${role} NOLOGIN\` on the target, end its sessions, and run this again`,
  )
}

const WRITES = 'INSERT, UPDATE, DELETE'

/**
 * Takes this role's own right to write to these tables away, for want of a login that could be retired. An owner can
 * give it back to itself.
 * @returns the tables to which the role may still write; superusers always may, and owners on CockroachDB
 */
export async function revokeOwnWrites(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  await changeOwnWrites(db, 'REVOKE', 'FROM', schema, await ownedTables(db, schema, tables))
  return ownWrites(db, schema, tables)
}

/**
 * Only an owner can give a right back to itself. On CockroachDB anybody else would lose the grant option with it, and with
 * that the way to give write access to the application after the commit.
 */
async function ownedTables(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p') AND pg_has_role(c.relowner, 'USAGE')
      ORDER BY 1`,
    [schema, tables],
  )
  return rows.map(({ name }) => name)
}

/** Gives it back where it is missing. */
export async function grantOwnWrites(db: Database, schema: string, tables: readonly string[]): Promise<void> {
  const there = new Set(await ownWrites(db, schema, tables, ' AND '))
  await changeOwnWrites(
    db,
    'GRANT',
    'TO',
    schema,
    tables.filter((table) => !there.has(table)),
  )
}

async function changeOwnWrites(
  db: Database,
  verb: 'GRANT' | 'REVOKE',
  preposition: 'TO' | 'FROM',
  schema: string,
  tables: readonly string[],
): Promise<void> {
  if (!tables.length) return
  const { rows } = await db.query('SELECT current_user AS me')
  const names = tables.map((table) => qualified(schema, table)).join(', ')
  await db
    .query(`${verb} ${WRITES} ON TABLE ${names} ${preposition} ${ident(rows[0].me)}`)
    // Without the right to change rights nothing changes, and the caller reads back what is so.
    .catch((error) => {
      if (!isNotGrantable(error)) throw error
    })
}

/** The server lets this role give or take no such right. */
function isNotGrantable(error: unknown): boolean {
  return /^(42501|01006|01007)$/.test(sqlState(error) ?? '')
}

/** Tables to which this role may write in any way, or with ` AND ` in every way. */
async function ownWrites(
  db: Database,
  schema: string,
  tables: readonly string[],
  all: ' AND ' | ' OR ' = ' OR ',
): Promise<string[]> {
  const may = WRITES.split(', ').map((right) => `has_table_privilege(c.oid, '${right}')`)
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p') AND (${may.join(all)}) ORDER BY 1`,
    [schema, tables],
  )
  return rows.map(({ name }) => name)
}
