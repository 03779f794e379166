import { randomInt } from 'node:crypto'
import { type Database, ident, literal, qualified, relationExists, sqlState } from '../runtime/database.ts'
import { UserError, VerdictError } from '../runtime/errors.ts'
import { someOf } from '../runtime/progress.ts'
import { TIMING } from '../runtime/timing.ts'
import { openSession } from './session.ts'
import { MEETS_CHECKS } from './source-checks.ts'

/** Records on the rehearsal source what this suite created, so that a second run replaces only that. */
export const OURS = 'molt_actions_mask'
const RUN = `${OURS}.run`

export type MaskState = 'loading' | 'refused' | 'proved'

/**
 * @throws VerdictError unless `to` is a different database from `from`, confirmed by its exact name, and contains nothing
 * but what an earlier run has put there
 */
export async function requireRehearsal(source: Database, target: Database, allowed: string): Promise<void> {
  const { rows } = await target.query(
    'SELECT current_database() AS name, pg_catalog.pg_is_in_recovery() AS replica, current_setting($1) AS version',
    ['server_version_num'],
  )
  const [{ name, replica }] = rows
  if (await isSameDatabase(source, target))
    throw new VerdictError(
      'mask.same-database',
      '`from` and `to` are the same database: masking would overwrite what it reads',
    )
  if (name !== allowed)
    throw new VerdictError(
      'mask.target-not-allowed',
      `\`to\` is the database ${name}, and \`allow-target\` allows ${allowed || 'none'}. Set it to the exact name of a database for rehearsals`,
    )
  if (replica)
    throw new VerdictError('mask.target-replica', '`to` is a replica: its content comes from its primary, unmasked')
  await requireUnfed(target)
  await requireNothingElse(target)
}

/** Two names can mean one server; only a lock that both see shows it. */
async function isSameDatabase(source: Database, target: Database): Promise<boolean> {
  const lock = [randomInt(2 ** 31), randomInt(2 ** 31)]
  await source.query('SELECT pg_catalog.pg_advisory_lock($1, $2)', lock)
  try {
    const { rows } = await target.query('SELECT pg_catalog.pg_try_advisory_lock($1, $2) AS free', lock)
    if (rows[0].free) await target.query('SELECT pg_catalog.pg_advisory_unlock($1, $2)', lock)
    return !rows[0].free
  } finally {
    await source.query('SELECT pg_catalog.pg_advisory_unlock($1, $2)', lock)
  }
}

/** Masked rows are worthless if unmasked changes stream in after them. */
async function requireUnfed(target: Database): Promise<void> {
  const { rows } = await target.query(
    `SELECT 'the subscription ' || subname AS feed FROM pg_catalog.pg_subscription s
       JOIN pg_catalog.pg_database d ON d.oid = s.subdbid AND d.datname = current_database()`,
  )
  if (await relationExists(target, 'molt_actions.migrations')) {
    const migrations = await target.query(
      `SELECT 'the migration ' || id AS feed FROM molt_actions.migrations WHERE phase NOT IN ('cleaned', 'aborted')`,
    )
    rows.push(...migrations.rows)
  }
  if (rows[0])
    throw new VerdictError(
      'mask.target-fed',
      `\`to\` is fed by ${rows[0].feed}: its changes are not masked, and would leak personal data into the rehearsal. Drop the feed first, and rehearse streaming with generated load on the masked source`,
    )
}

async function requireNothingElse(target: Database): Promise<void> {
  const ours = new Set(await ownTables(target))
  const { rows } = await target.query(
    `SELECT n.nspname AS schema, c.relname AS name FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'm', 'f', 'v') AND NOT c.relispartition AND n.nspname <> $1
        AND n.nspname !~ '^(pg_|information_schema$)' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x
          WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid AND x.deptype = 'e')
      ORDER BY 1, 2`,
    [OURS],
  )
  const others = rows.map(({ schema, name }) => `${schema}.${name}`).filter((name) => !ours.has(name))
  if (others.length)
    throw new VerdictError(
      'mask.target-not-empty',
      `\`to\` has ${others.length} tables that no earlier \`mask\` created (${someOf(others, 5)}). Use an empty database`,
    )
}

async function ownTables(target: Database): Promise<string[]> {
  if (!(await relationExists(target, RUN))) return []
  const run = await target.query(`SELECT schema_name AS schema, tables FROM ${RUN}`)
  return run.rows.flatMap(({ schema, tables }) => (tables as string[]).map((name) => `${schema}.${name}`))
}

/** Removes what an earlier run has created, and records what this one will create. */
export async function takeOver(target: Database, schema: string, tables: readonly string[]): Promise<void> {
  await dropOurs(target)
  await target.query(`CREATE SCHEMA IF NOT EXISTS ${OURS}`)
  await target.query(
    `CREATE TABLE IF NOT EXISTS ${RUN} (one boolean PRIMARY KEY DEFAULT true CHECK (one), schema_name text NOT NULL,
       tables text[] NOT NULL, state text NOT NULL, at timestamptz NOT NULL DEFAULT now(), made text[] NOT NULL DEFAULT '{}')`,
  )
  await target.query(
    `INSERT INTO ${RUN} (schema_name, tables, state) VALUES ($1, $2, 'loading')
     ON CONFLICT (one) DO UPDATE SET schema_name = $1, tables = $2, state = 'loading', at = now(), made = DEFAULT`,
    [schema, tables],
  )
}

/**
 * Collations, sequences, types and functions of the schema `$1` by name: `$2` are the functions, `$3` types of other schemas,
 * each null for all.
 */
const BESIDE_TABLES = `
  SELECT 'COLLATION' AS kind, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname) AS name
    FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
   WHERE l.collnamespace = to_regnamespace($1) AND l.oid >= 16384
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = l.oid AND x.deptype = 'e')
  UNION ALL SELECT 'SEQUENCE', c.oid::regclass::text FROM pg_catalog.pg_class c
   WHERE c.relkind = 'S' AND c.relnamespace = to_regnamespace($1)
  UNION ALL SELECT CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, t.oid::regtype::text
    FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
   WHERE (t.typnamespace = to_regnamespace($1) OR t.oid = ANY ($3::oid[]) OR $3::oid[] IS NULL AND t.oid >= 16384) AND (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = t.oid AND x.deptype = 'e')
  UNION ALL SELECT 'FUNCTION', p.oid::regprocedure::text FROM pg_catalog.pg_proc p
   WHERE p.pronamespace = to_regnamespace($1) AND p.prokind = 'f' AND ($2::oid[] IS NULL OR p.oid = ANY ($2))
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = p.oid AND x.deptype = 'e')`

/** Records on the rehearsal source what a run creates there beside the tables, before it does. */
export async function noteMade(
  source: Database,
  schema: string,
  functions: readonly number[],
  types: readonly number[],
): Promise<string> {
  const { rows } = await source.query(BESIDE_TABLES, [ident(schema), functions, types])
  const made = rows.map(({ kind, name }) => literal(`${kind} ${name}`))
  return `UPDATE ${RUN} SET made = ARRAY[${made.join(', ')}]::text[]`
}

/** The tables of an earlier run with their sequences, and the types and functions that it created. */
async function dropOurs(target: Database): Promise<void> {
  if (!(await relationExists(target, RUN))) return
  // A run of an earlier version has recorded nothing.
  await target.query(`ALTER TABLE ${RUN} ADD COLUMN IF NOT EXISTS made text[] NOT NULL DEFAULT '{}'`)
  const run = await target.query(`SELECT schema_name AS schema, made FROM ${RUN}`)
  const schema = run.rows[0]?.schema as string | undefined
  if (!schema) return
  for (const name of await ownTables(target)) {
    const bare = name.slice(schema.length + 1)
    await target.query(`DROP TABLE IF EXISTS ${qualified(schema, bare)} CASCADE`)
  }
  const rest = await target.query(BESIDE_TABLES, [ident(schema), null, null])
  const made = new Set(run.rows[0].made as string[])
  await dropAll(
    target,
    rest.rows.map(({ kind, name }) => `${kind} ${name}`).filter((each) => made.has(each)),
  )
}

/** Not by CASCADE, which would drop objects that are not ours; in rounds, because types and functions depend on each other. */
async function dropAll(target: Database, objects: readonly string[]): Promise<void> {
  const stuck: string[] = []
  for (const object of objects)
    try {
      await target.query(`DROP ${object}`)
    } catch (error) {
      if (sqlState(error) !== '2BP01') throw error
      stuck.push(object)
    }
  if (!stuck.length) return
  if (stuck.length === objects.length)
    throw new VerdictError(
      'mask.target-not-empty',
      `an object in \`to\` that no earlier \`mask\` created depends on the ${stuck[0]}, which must be dropped. Drop that object, or use an empty database`,
    )
  await dropAll(target, stuck)
}

export async function setState(target: Database, state: MaskState): Promise<void> {
  await target.query(`UPDATE ${RUN} SET state = $1, at = now()`, [state])
}

/**
 * Rows that were not proved must not stay: they can be personal data. Their tables go too, because even an emptied table
 * keeps the values that ANALYZE has seen. On a separate connection: the other one may have failed.
 * @returns the tables that could not be dropped
 */
export async function discardTables(url: string, schema: string, tables: readonly string[]): Promise<string[]> {
  const left: string[] = []
  const target = await openSession(url, 'target')
  try {
    await target.query(`SET lock_timeout = ${TIMING.discardLock}`)
    for (const name of tables)
      await target.query(`DROP TABLE IF EXISTS ${qualified(schema, name)} CASCADE`).catch(() => left.push(name))
    await setState(target, 'refused')
  } finally {
    await target.end().catch(() => {})
  }
  return left
}

/** An undefined object, function, table, and schema. */
const NOT_THERE = new Set(['42704', '42883', '42P01', '3F000'])

/** Runs a step's statements one by one; an error names the object, up to the first literal. */
export async function runAll(target: Database, statements: readonly string[], what: string): Promise<void> {
  for (const sql of statements)
    try {
      await target.query(sql)
    } catch (error) {
      const { code, constraint, message } = error as { code?: string; constraint?: string; message?: string }
      // For a missing object the server reports the name, and no value.
      const missing = NOT_THERE.has(code ?? '') ? `: ${message}` : ''
      const unmet = code?.startsWith('23') ? '. Masked rows violate it: correct the rules of its columns' : ''
      const advice = code === '23514' ? `; ${MEETS_CHECKS}` : ''
      const first = sql
        .trim()
        .split(/[\n']|\$\w*\$/)[0]
        ?.slice(0, 160)
      throw new UserError(
        'mask.schema-failed',
        `${what} cannot be created on the rehearsal source (SQLSTATE ${code ?? 'none'}${constraint ? `, ${constraint}` : ''}${missing}): ${first}${missing && '. The missing object is in another schema, or of a kind that `mask` does not copy. Exclude the tables that need it, or remove the dependency on the clone'}${unmet}${advice}`,
      )
    }
}
