import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { connect, type Database, ident, literal, qualified, sqlState, unhurried } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'
import { addSecretUrl } from '../runtime/secrets.ts'
import { TIMING } from '../runtime/timing.ts'
import { withLogin } from '../runtime/url.ts'
import { readTarget } from './server.ts'

/*
 * Each leg of the stream writes to the target under its own login. A replicator whose machine was paused still has
 * changes in its socket buffer. When it resumes, it applies them over newer changes, and if its session is ended, it
 * reconnects. Only revoking its login stops it.
 */

/** A role that can write only to the expected tables and the heartbeat, with the target's URL for this role. */
export interface StreamLogin {
  role: string
  url: string
  /** How long granting privileges on the tables took, in milliseconds. On CockroachDB, a grant is a schema change. */
  grantMs?: number
}

const PREFIX = 'molt_leg_'

export function newLoginName(): string {
  return `${PREFIX}${randomBytes(6).toString('hex')}`
}

export function isStreamLogin(role: string): boolean {
  return role.startsWith(PREFIX)
}

/** The privileges of a leg's login on each table. */
export const LOGIN_RIGHTS = ['SELECT', 'INSERT', 'UPDATE', 'DELETE']

/** Whether the migration role can create logins on the target. */
export async function mayCreateLogins(db: Database): Promise<boolean> {
  const { isCockroach } = await readTarget(db)
  if (isCockroach) return mayOnCockroach(db)
  const { rows } = await db.query(
    'SELECT coalesce(bool_or(rolcreaterole OR rolsuper), false) AS may FROM pg_catalog.pg_roles WHERE rolname = current_user',
  )
  return rows[0].may
}

/**
 * Tests for CREATEROLE and CREATELOGIN, which no catalog shows. Alters a role that does not exist, which changes
 * nothing, because the server checks both before it looks up the role (pkg/sql/alter_role.go).
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
 * Creates the login of one leg with the privileges that a replicator needs, and connects with it once as a test.
 * @param tables unqualified names, including the heartbeat
 * @throws the database's error when the login cannot be created, cannot be granted its privileges, or cannot log in
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
  const grantMs = await unhurried(db, async () => {
    const began = performance.now()
    await db.query(`GRANT ${LOGIN_RIGHTS.join(', ')} ON TABLE ${names} TO ${ident(role)}`)
    return performance.now() - began
  })
  await (await connect(url, 'target')).end()
  return { role, url, grantMs }
}

/**
 * Revokes a leg's login and ends its sessions, so that the leg can no longer write. Safe to repeat, even if the role no
 * longer exists. Sets a new password and logs in as the role, because a migration role rarely has the privileges to end
 * another role's sessions.
 * @param leg an open session of the role, if there is one, to avoid logging in
 * @throws VerdictError `stream.login-alive` if the role can still log in, or if one of its sessions does not end
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
  if (await canLogIn(db, role)) throw alive(role, 'it can still log in')
}

/** A session of a leg's role, which can end the role's other sessions. */
export interface Leg {
  db: Database
  isCockroach: boolean
  /** The session's id on CockroachDB; empty on PostgreSQL. */
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

/** Drops a revoked login. */
export async function dropStreamLogin(db: Database, role: string): Promise<void> {
  if ((await canLogIn(db, role)) === undefined) return
  const { rows } = await db.query(
    'SELECT DISTINCT table_schema AS schema, table_name AS name FROM information_schema.table_privileges WHERE grantee = $1',
    [role],
  )
  const tables = rows.map(({ schema, name }) => qualified(schema, name)).join(', ')
  // Do not revoke ALL, because that requires ALL WITH GRANT OPTION on CockroachDB.
  const revoke = `REVOKE ${LOGIN_RIGHTS.join(', ')} ON TABLE ${tables} FROM ${ident(role)}`
  if (tables) await unhurried(db, () => db.query(revoke))
  for (const schema of new Set<string>(rows.map((row) => row.schema)))
    await db.query(`REVOKE USAGE ON SCHEMA ${ident(schema)} FROM ${ident(role)}`).catch((error) => {
      // If every role can use the schema, USAGE was never granted to this one, and the migration role may not be
      // allowed to revoke it.
      if (!isNotGrantable(error)) throw error
    })
  await db.query(`DROP ROLE IF EXISTS ${ident(role)}`)
}

export async function loginExists(db: Database, role: string): Promise<boolean> {
  return (await canLogIn(db, role)) !== undefined
}

/** Whether the role can log in; undefined if it does not exist. */
async function canLogIn(db: Database, role: string): Promise<boolean | undefined> {
  const { rows } = await db.query('SELECT rolcanlogin AS may FROM pg_catalog.pg_roles WHERE rolname = $1', [role])
  return rows[0]?.may
}

/** Ends this role's other sessions that have one of these application names. */
export async function endOwnSessions(own: Database, applications: readonly string[]): Promise<void> {
  const { rows } = await own.query('SELECT current_user AS me')
  await endOtherSessions(
    await legOf(own),
    rows[0].me,
    `AND application_name IN (${applications.map(literal).join(', ')})`,
  )
}

/** Ends every other session of this role, which a role can always do. */
async function endOtherSessions(leg: Leg, role: string, which = ''): Promise<void> {
  const end = leg.isCockroach ? endOnCockroach : endOnPostgres
  const deadline = performance.now() + TIMING.sessionsEnd
  // Look twice, because a session that was logging in during the revocation shows up late.
  for (let none = 0; none < 2; ) {
    none = (await end(leg, which)) ? 0 : none + 1
    if (performance.now() > deadline) throw alive(role, 'its sessions did not end')
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

/** Uses CockroachDB's documented statements. Not tested on a real cluster. */
async function endOnCockroach({ db, session }: Leg, which: string): Promise<number> {
  const others = `SELECT session_id FROM [SHOW CLUSTER SESSIONS] WHERE user_name = current_user() AND session_id <> ${literal(session)} ${which}`
  const { rowCount } = await db.query(others)
  if (rowCount) await db.query(`CANCEL SESSIONS IF EXISTS (${others})`)
  return rowCount ?? 0
}

function alive(role: string, why: string): VerdictError {
  return new VerdictError(
    'stream.login-alive',
    `an earlier replicator can still write to the target: the login ${role} could not be revoked, because ${why}. Run \`ALTER ROLE ${role} NOLOGIN\` on the target, end its sessions, then rerun the step`,
  )
}

const WRITES = 'INSERT, UPDATE, DELETE'

/**
 * Revokes this role's own write privileges on the tables that it owns. A fallback for streams without a separate login.
 * An owner can grant the privileges to itself again.
 * @returns the tables that the role can still write to: superusers always can, and so can owners on CockroachDB
 */
export async function revokeOwnWrites(db: Database, schema: string, tables: readonly string[]): Promise<string[]> {
  await changeOwnWrites(db, 'REVOKE', 'FROM', schema, await ownedTables(db, schema, tables))
  return ownWrites(db, schema, tables)
}

/**
 * Lists the tables that this role owns. Only an owner can restore its own privileges. On CockroachDB, other roles would
 * also lose the grant option, which is needed to restore the application's write access after the commit.
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

/** Restores this role's missing write privileges. */
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
  const change = `${verb} ${WRITES} ON TABLE ${names} ${preposition} ${ident(rows[0].me)}`
  // Ignore a refusal, because it changes nothing, and the caller reads back the result.
  await unhurried(db, () => db.query(change)).catch((error) => {
    if (!isNotGrantable(error)) throw error
  })
}

/** Whether the server refused because this role lacks the privilege to grant or revoke. */
function isNotGrantable(error: unknown): boolean {
  return /^(42501|01006|01007)$/.test(sqlState(error) ?? '')
}

/** Lists the tables on which this role has any write privilege, or with ` AND `, all of them. */
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
