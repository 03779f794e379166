import { randomInt } from 'node:crypto'
import { type Database, ident, literal, qualified, relationExists, sqlState } from '../runtime/database.ts'
import { UserError, VerdictError } from '../runtime/errors.ts'
import { plural, someOf } from '../runtime/progress.ts'
import { TIMING } from '../runtime/timing.ts'
import { openSession } from './session.ts'
import { MEETS_CHECKS } from './source-checks.ts'

/** Schema on the rehearsal source. Records what `mask` created, so that the next run replaces nothing else. */
export const OURS = 'molt_actions_mask'
const RUN = `${OURS}.run`

export type MaskState = 'loading' | 'refused' | 'proved'

/**
 * Requires that `to` may be overwritten: it is not the database of `from`, is confirmed by its exact name, and contains
 * only what an earlier run created.
 * @throws VerdictError otherwise
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
      '`from` and `to` are the same database, so masking would overwrite what it reads. Set `to` to an empty database',
    )
  if (name !== allowed)
    throw new VerdictError(
      'mask.target-not-allowed',
      `\`to\` is the database ${name}, but \`allow-target\` ${allowed ? `allows ${allowed}` : 'is not set'}. Set \`allow-target\` to the exact name of a rehearsal database`,
    )
  if (replica)
    throw new VerdictError(
      'mask.target-replica',
      '`to` is a replica, whose rows come unmasked from its primary. Set `to` to a separate primary',
    )
  await requireUnfed(target)
  await requireNothingElse(target)
}

/** Whether both connections lead to one database. Its names can differ, so this tests a lock that both would see. */
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

/** Requires that no subscription or migration writes to the target, because those changes are not masked. */
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
      `${rows[0].feed} writes to \`to\`. Its changes are not masked, and would leak personal data into the rehearsal. Drop it first, and rehearse streaming with generated load on the masked source`,
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
      `\`to\` has ${plural(others.length, 'table')} that no earlier \`mask\` created (${someOf(others, 5)}). Use an empty database`,
    )
}

async function ownTables(target: Database): Promise<string[]> {
  if (!(await relationExists(target, RUN))) return []
  const run = await target.query(`SELECT schema_name AS schema, tables FROM ${RUN}`)
  return run.rows.flatMap(({ schema, tables }) => (tables as string[]).map((name) => `${schema}.${name}`))
}

/** Drops what an earlier run created, and records what this run will create. */
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
 * Query for the names of the collations, sequences, types and functions in the schema `$1`. `$2` restricts the functions,
 * and `$3` adds types of other schemas; NULL means all.
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

/** Statement that records what a run creates on the rehearsal source besides tables. Runs before the creation. */
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

/** Drops the tables of an earlier run with their sequences, and the types and functions that it created. */
async function dropOurs(target: Database): Promise<void> {
  if (!(await relationExists(target, RUN))) return
  // A table created by an earlier version lacks this column.
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

/**
 * Drops objects in rounds, because they depend on each other. CASCADE could drop objects that `mask` did not create.
 */
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
 * Drops the tables of an unproved copy, which can contain personal data. Emptying them is not enough, because ANALYZE has
 * copied values into the statistics. Uses a separate connection, because the other one may have failed.
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

/** SQLSTATEs for an undefined object, function, table and schema. */
const NOT_THERE = new Set(['42704', '42883', '42P01', '3F000'])

/** Runs statements one by one. An error quotes the failed statement up to its first literal. */
export async function runAll(target: Database, statements: readonly string[], what: string): Promise<void> {
  for (const sql of statements)
    try {
      await target.query(sql)
    } catch (error) {
      const { code, constraint, message } = error as { code?: string; constraint?: string; message?: string }
      // The message about a missing object contains its name, but no value.
      const missing = NOT_THERE.has(code ?? '') ? `: ${message}` : ''
      const unmet = code?.startsWith('23') ? '. Masked rows violate it. Correct the rules of its columns' : ''
      const advice = code === '23514' ? `. ${MEETS_CHECKS}` : ''
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
