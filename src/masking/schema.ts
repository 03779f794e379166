import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { type Database, ident, literal, qualified } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { TIMING } from '../runtime/timing.ts'
import { noteMade } from './target.ts'

/** A schema as SQL, by the time at which each part runs. */
export interface SchemaSql {
  /** Types, sequences, tables: before the rows. */
  before: string[]
  /** Keys, checks and indexes: after the rows. */
  after: string[]
  foreignKeys: string[]
  /** `pg_dump 16` or `catalog`, and why. */
  madeBy: string
}

/** The table and its server, without the password: how pg_dump is started. */
export interface SchemaSource {
  url: string
  schema: string
  tables: readonly { name: string; oid: number }[]
  snapshot: string
  /** Program to use; `none` to read the catalog ourselves. */
  pgDump: string
}

/**
 * The source's schema for the rehearsal: by pg_dump if one supports this server, otherwise from the catalog. Triggers, rules,
 * policies, comments, grants and views are left out; functions too, except those that a default, a check or an index
 * needs.
 * @throws UserError when a part of it would reach outside the database
 */
export async function readSchema(db: Database, source: SchemaSource): Promise<SchemaSql> {
  const needed = await neededByTables(db, source)
  const made = await noteMade(
    db,
    source.schema,
    needed.functions.map(({ oid }) => oid),
    needed.types.oids,
  )
  const sql = await readParts(db, source, needed)
  requireInside([...sql.before, ...sql.after, ...sql.foreignKeys])
  return { ...sql, before: [made, ...prelude(source, needed), ...sql.before] }
}

async function readParts(db: Database, source: SchemaSource, needed: Needed): Promise<SchemaSql> {
  const server = Number((await db.query('SHOW server_version_num')).rows[0].server_version_num)
  const dump = await pgDumpVersion(source.pgDump)
  const major = Math.floor(server / 10_000)
  if (dump === undefined) {
    const why = source.pgDump === 'none' ? 'as configured' : 'no pg_dump here'
    return { ...(await fromCatalog(db, source, needed)), madeBy: `catalog (${why})` }
  }
  const [elsewhere] = needed.partitions
  if (elsewhere)
    return {
      ...(await fromCatalog(db, source, needed)),
      madeBy: `catalog (the partition ${elsewhere.name} is in another schema, which pg_dump would dump entirely)`,
    }
  if (dump < major) {
    const advice = `pg_dump ${dump} cannot read PostgreSQL ${major}; it needs ${major} or newer`
    if (source.pgDump !== 'auto')
      throw new UserError('mask.pg-dump-needed', `${advice}. Install it, or set \`pg-dump: none\``)
    return { ...(await fromCatalog(db, source, needed)), madeBy: `catalog (${advice})` }
  }
  return { ...(await fromPgDump(db, source, needed)), madeBy: `pg_dump ${dump}` }
}

interface Needed {
  extensions: { name: string; schema: string }[]
  functions: NeededFunction[]
  /** Types of other schemas, as statements, and the partitions in them. */
  types: OtherTypes
  partitions: Relation[]
}

interface OtherTypes {
  oids: number[]
  schemas: string[]
  sql: string[]
}

interface NeededFunction {
  oid: number
  schema: string
  /** As pg_dump writes it: the name and the argument types. */
  signature: string
  sql: string
}

/** Calls that reach outside the database, or into its server's files. */
const CALLS_OUT =
  /\b(dblink\w*|http(_(get|post|put|patch|delete|head))?|pg_read_(binary_)?file|pg_stat_file|pg_ls_\w+|pg_file_\w+|lo_(import|export)|pg_notify|pg_logical_emit_message)"?\s*\(/i

/** Statements with the same effect, which can only be in a function's body. */
const ACTS_OUT = /\b(notify\s|net\.http|dblink|postgres_fdw|copy\s+[^;]*\s(from|to)\s+(program|'))/i

/** Extensions that provide such calls, or languages to write them in. */
const REACHES_OUT =
  /^(dblink|.*_fdw|plpython.*|plperl.*|pltcl.*|plsh|plv8|pljava|plr|http|pg_?http.*|pgsql.?http|pg_net|pg_cron|aws_.*|azure_.*|adminpack|wrappers)$/i

/**
 * What the tables and the types beside them depend on, and the functions and extensions that these need in turn. No catalog
 * lists the calls of a text body, so every function whose name is called counts.
 */
const NEEDS = `
  WITH RECURSIVE own AS (
    SELECT 'pg_class'::regclass::oid AS classid, unnest($1::oid[]) AS objid
    UNION SELECT 'pg_class'::regclass, indexrelid FROM pg_catalog.pg_index WHERE indrelid = ANY ($1)
    UNION SELECT 'pg_constraint'::regclass, oid FROM pg_catalog.pg_constraint WHERE conrelid = ANY ($1)
    UNION SELECT 'pg_attrdef'::regclass, oid FROM pg_catalog.pg_attrdef WHERE adrelid = ANY ($1)
    UNION SELECT u.classid, u.objid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      CROSS JOIN LATERAL (SELECT 'pg_type'::regclass::oid AS classid, t.oid AS objid WHERE t.typtype IN ('d', 'r')
        UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_catalog.pg_class WHERE oid = t.typrelid AND relkind = 'c'
        UNION ALL SELECT 'pg_constraint'::regclass, oid FROM pg_catalog.pg_constraint WHERE contypid = t.oid) u
      WHERE n.nspname = $2 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x
        WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')),
  member AS (
    SELECT classid, objid, refobjid AS extension FROM pg_catalog.pg_depend WHERE deptype = 'e'),
  called AS (
    SELECT d.refobjid AS oid, own.classid AS by_class, own.objid AS by FROM own
      JOIN pg_catalog.pg_depend d ON d.classid = own.classid AND d.objid = own.objid AND d.refclassid = 'pg_proc'::regclass
    UNION SELECT u.oid, 'pg_proc'::regclass, p.oid FROM called JOIN pg_catalog.pg_proc p ON p.oid = called.oid
      CROSS JOIN LATERAL (
        SELECT d.refobjid AS oid FROM pg_catalog.pg_depend d
         WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_proc'::regclass
        UNION SELECT q.oid FROM pg_catalog.pg_proc q JOIN pg_catalog.pg_namespace n ON n.oid = q.pronamespace
         WHERE q.oid >= 16384 AND p.prosrc ~* ('\\m' || regexp_replace(q.proname, '(\\W)', '\\\\\\1', 'g') || '"?\\s*\\(')
           AND (n.oid = p.pronamespace OR n.nspname = $2 OR strpos(p.prosrc, n.nspname || '.' || q.proname) > 0
             OR EXISTS (SELECT FROM member WHERE classid = 'pg_proc'::regclass AND objid = q.oid))) u
      WHERE p.oid >= 16384 AND u.oid <> p.oid
        AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_proc'::regclass AND objid = p.oid))`

async function neededByTables(db: Database, source: SchemaSource): Promise<Needed> {
  const all = await relations(db, source)
  const oids = all.map(({ oid }) => oid)
  const about = [oids, source.schema]
  const extensions = await db.query(
    `${NEEDS}
     SELECT e.extname AS name, n.nspname AS schema, min(pg_catalog.pg_describe_object(used.classid, used.objid, 0)) AS by
       FROM (SELECT own.classid, own.objid, d.refclassid, d.refobjid FROM own
               JOIN pg_catalog.pg_depend d ON d.classid = own.classid AND d.objid = own.objid
             UNION ALL SELECT by_class, by, 'pg_proc'::regclass, oid FROM called) used
       JOIN member m ON m.classid = used.refclassid AND m.objid = used.refobjid
       JOIN pg_catalog.pg_extension e ON e.oid = m.extension JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
      GROUP BY 1, 2 ORDER BY 1`,
    about,
  )
  for (const { name, by } of extensions.rows)
    if (REACHES_OUT.test(name))
      throw new UserError(
        'mask.reaches-out',
        `${by} needs the extension ${name}, which reaches outside the database. A rehearsal must not do that. Exclude its table, or remove the dependency on the clone`,
      )
  const functions = await db.query(
    `${NEEDS}
     SELECT p.oid::int, n.nspname AS schema, p.proname AS name, l.lanname AS language, p.prosrc AS body,
            pg_catalog.pg_get_functiondef(p.oid) AS sql, p.proname || '(' || array_to_string(ARRAY(
              SELECT pg_catalog.format_type(type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY u(type, at) ORDER BY at), ', ') || ')' AS signature
       FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE p.oid IN (SELECT oid FROM called) AND p.prokind = 'f' AND p.oid >= 16384
        AND NOT EXISTS (SELECT FROM member WHERE classid = 'pg_proc'::regclass AND objid = p.oid)
      ORDER BY p.oid`,
    about,
  )
  for (const { name, language, body, sql } of functions.rows)
    if (!['sql', 'plpgsql'].includes(language) || CALLS_OUT.test(sql) || ACTS_OUT.test(body))
      throw new UserError(
        'mask.reaches-out',
        `a default, check or index needs the function ${name}, which is in ${language} or reaches outside the database. A rehearsal must not do that. Exclude its table, or create a harmless ${name} in its place on the clone`,
      )
  return {
    extensions: extensions.rows,
    functions: functions.rows,
    types: await otherTypes(db, source.schema, oids),
    partitions: all.filter(({ schema }) => schema !== source.schema),
  }
}

/** Types of other schemas that columns use, or that these types use; extensions provide their own. */
async function otherTypes(db: Database, schema: string, tables: readonly number[]): Promise<OtherTypes> {
  const { rows } = await db.query(
    `WITH RECURSIVE used AS (
       SELECT atttypid AS oid FROM pg_catalog.pg_attribute WHERE attrelid = ANY ($2) AND attnum > 0 AND NOT attisdropped
       UNION SELECT p.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid CROSS JOIN LATERAL (
         SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped) p WHERE p.oid <> 0)
     SELECT t.oid::int, n.nspname AS schema FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid
       JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      WHERE n.nspname <> $1 AND n.nspname !~ '^(pg_|information_schema$)' AND t.typtype IN ('e', 'd', 'c', 'r')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')`,
    [schema, tables],
  )
  const oids = rows.map(({ oid }) => oid as number)
  const { create, alter } = await typeSql(db, '', oids)
  return { oids, schemas: rows.map((row) => row.schema as string), sql: [...create, ...alter] }
}

/** A default, a check or an index expression can itself reach outside. */
function requireInside(statements: readonly string[]): void {
  for (const sql of statements) {
    const call = CALLS_OUT.exec(sql)?.[1]
    const object = /\b(?:TABLE(?: ONLY)?|DOMAIN|TYPE|INDEX|FUNCTION)\s+((?:"(?:[^"]|"")+"|[^\s("])+)/.exec(sql)?.[1]
    if (call)
      throw new UserError(
        'mask.reaches-out',
        `${object ?? 'a part of the schema'} calls ${call}, which reaches outside the database. A rehearsal must not do that. Exclude its table, or remove the call on the clone`,
      )
  }
}

/** What comes first either way: schemas, extensions, and the types and functions of other schemas. */
function prelude({ schema }: SchemaSource, { extensions, functions, types, partitions }: Needed): string[] {
  const elsewhere = functions.filter((each) => each.schema !== schema)
  const others = [...extensions, ...elsewhere, ...partitions].map((each) => each.schema)
  const schemas = new Set([schema, ...others, ...types.schemas])
  return [
    // As pg_dump does: a body can call what comes later.
    'SET check_function_bodies = off',
    ...[...schemas].map((name) => `CREATE SCHEMA IF NOT EXISTS ${ident(name)}`),
    ...extensions.map((each) => `CREATE EXTENSION IF NOT EXISTS ${ident(each.name)} SCHEMA ${ident(each.schema)}`),
    ...types.sql,
    ...elsewhere.map(({ sql }) => sql),
  ]
}

async function pgDumpVersion(program: string): Promise<number | undefined> {
  if (program === 'none') return undefined
  try {
    const { stdout } = await run(program === 'auto' ? 'pg_dump' : program, ['--version'], {})
    return Number(/(\d+)(\.\d+|devel|beta\d+|rc\d+)/.exec(stdout)?.[1]) || undefined
  } catch (error) {
    if (program === 'auto') return undefined
    throw error
  }
}

/** Kinds of entries that are copied; everything else from pg_dump is left out. */
const BEFORE = new Set([
  'COLLATION',
  'TYPE',
  'SHELL TYPE',
  'DOMAIN',
  'SEQUENCE',
  'SEQUENCE OWNED BY',
  'TABLE',
  'TABLE ATTACH',
  'DEFAULT',
])
const AFTER = new Set(['CONSTRAINT', 'CHECK CONSTRAINT', 'INDEX', 'INDEX ATTACH'])

async function fromPgDump(db: Database, source: SchemaSource, needed: Needed): Promise<Omit<SchemaSql, 'madeBy'>> {
  const url = new URL(source.url)
  const password = url.searchParams.get('password') ?? decodeURIComponent(url.password)
  url.password = ''
  for (const name of ['password', 'uselibpqcompat']) url.searchParams.delete(name)
  const pattern = (name: string) => `"${name.replaceAll('"', '""')}"`
  const excluded = await excludedTables(db, source)
  const { stdout } = await run(
    source.pgDump === 'auto' ? 'pg_dump' : source.pgDump,
    [
      '--schema-only',
      '--no-owner',
      '--no-privileges',
      '--no-comments',
      '--no-publications',
      '--no-subscriptions',
      '--no-security-labels',
      '--no-tablespaces',
      `--schema=${pattern(source.schema)}`,
      ...excluded.map((name) => `--exclude-table=${pattern(source.schema)}.${pattern(name)}`),
      `--snapshot=${source.snapshot}`,
      `--dbname=${url}`,
    ],
    password ? { PGPASSWORD: password } : {},
  )
  const sql = { before: [] as string[], after: [] as string[], foreignKeys: [] as string[] }
  const signatures = new Set(
    needed.functions.filter((each) => each.schema === source.schema).map((each) => each.signature),
  )
  for (const { name, type, body } of dumpEntries(stdout)) {
    // In its place: after the types of a function's arguments, and before what uses it.
    if (BEFORE.has(type) || (type === 'FUNCTION' && signatures.has(name))) sql.before.push(body)
    else if (AFTER.has(type)) sql.after.push(body)
    else if (type === 'FK CONSTRAINT') sql.foreignKeys.push(body)
  }
  return sql
}

/** Tables and partitions of the schema that are not copied, and the sequences that they own. */
async function excludedTables(db: Database, source: SchemaSource): Promise<string[]> {
  const wanted = await relations(db, source)
  const { rows } = await db.query(
    `SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_depend d ON c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid
        AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
      WHERE n.nspname = $1 AND (c.relkind IN ('r', 'p', 'f') AND c.oid <> ALL ($2) OR d.refobjid <> ALL ($2))`,
    [source.schema, wanted.map(({ oid }) => oid)],
  )
  return rows.map(({ name }) => name)
}

/** pg_dump starts each of its entries with a comment that names it. */
export function dumpEntries(dump: string): { name: string; type: string; body: string }[] {
  const plain = dump.replace(/^\\(un)?restrict .*$/gm, '')
  const parts = plain.split(/^--\n-- Name: (.*); Type: ([A-Z ]+); Schema: .*\n--\n/m)
  const entries: { name: string; type: string; body: string }[] = []
  for (let at = 1; at + 2 < parts.length; at += 3)
    entries.push({ name: parts[at] as string, type: parts[at + 1] as string, body: (parts[at + 2] as string).trim() })
  return entries
}

async function run(program: string, args: string[], env: Record<string, string>): Promise<{ stdout: string }> {
  const { PATH = '', HOME = '' } = process.env
  try {
    const options = { env: { PATH, HOME, ...env }, timeout: TIMING.dumpTimeout, maxBuffer: 2 ** 28 }
    return await promisify(execFile)(program, args, options)
  } catch (error) {
    const { code, stderr = '' } = error as { code?: number | string; stderr?: string }
    const said = stderr.trim().split('\n').at(-1)
    throw new UserError(
      'mask.pg-dump-failed',
      `${program} ${typeof code === 'number' ? `ended with ${code}` : `cannot be run (${code})`}${said ? `: ${said}` : ''}`,
    )
  }
}

/** The same from the catalog, when pg_dump is missing or too old. */
async function fromCatalog(db: Database, source: SchemaSource, needed: Needed): Promise<Omit<SchemaSql, 'madeBy'>> {
  const { schema } = source
  const all = await relations(db, source)
  const inherits = all.find((table) => table.inherits && !table.bound)
  if (inherits)
    throw new UserError(
      'mask.pg-dump-needed',
      `${inherits.name} inherits from another table; its schema needs a pg_dump of the server's version`,
    )
  const oids = all.map(({ oid }) => oid)
  const sequences = await sequenceSql(db, schema, oids)
  const types = await typeSql(db, schema)
  const collations = await collationSql(db, schema)
  const functions = needed.functions.filter((each) => each.schema === schema)
  // A domain's default and checks may need a function, and the function the domain.
  const before = [
    ...collations,
    ...types.create,
    ...sequences.create,
    ...functions.map(({ sql }) => sql),
    ...types.alter,
  ]
  for (const table of all) before.push(await tableSql(db, table))
  before.push(...sequences.own)
  return { before, ...(await constraintSql(db, oids)) }
}

interface Relation {
  /** A partition may be in another one than its table. */
  schema: string
  name: string
  oid: number
  unlogged: boolean
  /** `PARTITION BY`'s argument. */
  partitionKey: string | null
  /** `FOR VALUES …` of a partition, and the table that it is part of. */
  bound: string | null
  parent: string | null
  inherits: boolean
}

/** The tables and the partitions below them, parents first. */
async function relations(db: Database, { tables }: SchemaSource): Promise<Relation[]> {
  const { rows } = await db.query(
    `WITH RECURSIVE tree AS (
       SELECT oid, 0 AS depth, NULL::oid AS parent FROM pg_catalog.pg_class WHERE oid = ANY ($1)
       UNION ALL SELECT i.inhrelid, depth + 1, tree.oid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
         JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid AND k.relispartition)
     SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relpersistence = 'u' AS unlogged, CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS "partitionKey",
            CASE WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END AS bound,
            tree.parent::regclass::text AS parent,
            EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS inherits
       FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      ORDER BY depth, c.oid`,
    [tables.map(({ oid }) => oid)],
  )
  return rows
}

/** Their columns differ between versions in the catalog. */
async function collationSql(db: Database, schema: string): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT collname AS name, to_jsonb(c) AS facts FROM pg_catalog.pg_collation c
      WHERE collnamespace = to_regnamespace($1) AND oid >= 16384
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = c.oid AND x.deptype = 'e') ORDER BY oid`,
    [ident(schema)],
  )
  return rows.map(({ name, facts }) => {
    const provider = facts.collprovider === 'i' ? 'icu' : facts.collprovider === 'b' ? 'builtin' : 'libc'
    const locale = facts.colllocale ?? facts.colliculocale ?? facts.collcollate
    const where =
      provider === 'libc'
        ? `lc_collate = ${literal(facts.collcollate)}, lc_ctype = ${literal(facts.collctype)}`
        : `locale = ${literal(locale)}`
    const rules = facts.collicurules ? `, rules = ${literal(facts.collicurules)}` : ''
    return `CREATE COLLATION ${qualified(schema, name)} (provider = ${provider}, ${where}, deterministic = ${facts.collisdeterministic}${rules})`
  })
}

/** Types of a schema and those that are named by their oid. */
async function typeSql(
  db: Database,
  schema: string,
  more: readonly number[] = [],
): Promise<{ create: string[]; alter: string[] }> {
  const { rows } = await db.query(
    `SELECT n.nspname AS schema, t.typname AS name, t.typtype AS kind, t.typnotnull AS "notNull", t.typdefault AS "default",
            pg_catalog.format_type(t.typbasetype, t.typtypmod) || coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(s.nspname)
              || '.' || pg_catalog.quote_ident(l.collname) FROM pg_catalog.pg_type b JOIN pg_catalog.pg_collation l ON l.oid = t.typcollation
              JOIN pg_catalog.pg_namespace s ON s.oid = l.collnamespace
              WHERE b.oid = t.typbasetype AND b.typcollation <> t.typcollation), '') AS base,
            ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) AS labels,
            ARRAY(SELECT pg_catalog.quote_ident(conname) || ' ' || pg_catalog.pg_get_constraintdef(oid) FROM pg_catalog.pg_constraint WHERE contypid = t.oid
              AND contype = 'c' ORDER BY conname) AS checks,
            ARRAY(SELECT pg_catalog.quote_ident(attname) || ' ' || pg_catalog.format_type(atttypid, atttypmod)
              FROM pg_catalog.pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS fields
       FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
       LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
      WHERE (n.nspname = $1 OR t.oid = ANY ($2)) AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid
          AND x.deptype = 'e')
      ORDER BY t.oid`,
    [schema, more],
  )
  const range = rows.find(({ kind }) => kind === 'r')
  if (range)
    throw new UserError('mask.pg-dump-needed', `the range type ${range.name} needs a pg_dump of the server's version`)
  return {
    create: rows.map((type) => {
      const name = qualified(type.schema, type.name)
      if (type.kind === 'e') return `CREATE TYPE ${name} AS ENUM (${type.labels.map(literal).join(', ')})`
      if (type.kind === 'c') return `CREATE TYPE ${name} AS (${type.fields.join(', ')})`
      return `CREATE DOMAIN ${name} AS ${type.base}${type.notNull ? ' NOT NULL' : ''}`
    }),
    alter: rows.flatMap((type) => {
      const alter = `ALTER DOMAIN ${qualified(type.schema, type.name)}`
      if (type.kind !== 'd') return []
      const checks = type.checks.map((check: string) => `${alter} ADD CONSTRAINT ${check}`)
      return type.default ? [`${alter} SET DEFAULT ${type.default}`, ...checks] : checks
    }),
  }
}

const SEQUENCE_OPTIONS = `'INCREMENT ' || s.seqincrement || ' MINVALUE ' || s.seqmin || ' MAXVALUE ' || s.seqmax || ' START '
  || s.seqstart || ' CACHE ' || s.seqcache || CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END`

async function sequenceSql(db: Database, schema: string, tables: readonly number[]) {
  const { rows } = await db.query(
    `SELECT c.relname AS name, pg_catalog.format_type(s.seqtypid, NULL) AS type, ${SEQUENCE_OPTIONS} AS options,
            d.refobjid::regclass::text AS table, a.attname AS column
       FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refobjsubid > 0
        AND d.deptype IN ('a', 'i')
       LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
      WHERE n.nspname = $1 AND d.deptype IS DISTINCT FROM 'i' AND (d.refobjid IS NULL OR d.refobjid = ANY ($2))
      ORDER BY 1`,
    [schema, tables],
  )
  return {
    create: rows.map(({ name, type, options }) => `CREATE SEQUENCE ${qualified(schema, name)} AS ${type} ${options}`),
    own: rows
      .filter(({ table }) => table)
      .map(({ name, table, column }) => `ALTER SEQUENCE ${qualified(schema, name)} OWNED BY ${table}.${ident(column)}`),
  }
}

async function tableSql(db: Database, table: Relation): Promise<string> {
  const name = qualified(table.schema, table.name)
  const partition = table.partitionKey ? ` PARTITION BY ${table.partitionKey}` : ''
  const create = `CREATE ${table.unlogged ? 'UNLOGGED ' : ''}TABLE ${name}`
  if (table.bound) return `${create} PARTITION OF ${table.parent} ${table.bound}${partition}`
  const { rows } = await db.query(
    `SELECT a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS "notNull",
            a.attgenerated AS generated, a.attidentity AS identity, pg_catalog.pg_get_expr(d.adbin, d.adrelid) AS expression,
            CASE WHEN a.attcollation <> t.typcollation THEN (SELECT pg_catalog.quote_ident(s.nspname) || '.'
              || pg_catalog.quote_ident(l.collname) FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace s
              ON s.oid = l.collnamespace WHERE l.oid = a.attcollation) END AS collation,
            (SELECT 'SEQUENCE NAME ' || p.objid::regclass || ' ' || ${SEQUENCE_OPTIONS}
               FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_sequence s ON s.seqrelid = p.objid
              WHERE p.classid = 'pg_class'::regclass AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum
                AND p.deptype = 'i') AS sequence
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
       LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`,
    [table.oid],
  )
  const columns = rows.map((column) =>
    [
      ident(column.name),
      column.type,
      column.collation && `COLLATE ${column.collation}`,
      column.generated && `GENERATED ALWAYS AS (${column.expression}) STORED`,
      !column.generated && column.expression && `DEFAULT ${column.expression}`,
      column.notNull && 'NOT NULL',
      column.identity &&
        `GENERATED ${column.identity === 'a' ? 'ALWAYS' : 'BY DEFAULT'} AS IDENTITY (${column.sequence})`,
    ]
      .filter(Boolean)
      .join(' '),
  )
  return `${create} (${columns.join(', ')})${partition}`
}

/** Constraints and indexes of tables, and those that partitions have themselves. */
async function constraintSql(
  db: Database,
  tables: readonly number[],
): Promise<Pick<SchemaSql, 'after' | 'foreignKeys'>> {
  const constraints = await db.query(
    `SELECT k.contype AS kind, 'ALTER TABLE ' || k.conrelid::regclass || ' ADD CONSTRAINT ' || pg_catalog.quote_ident(k.conname)
              || ' ' || pg_catalog.pg_get_constraintdef(k.oid) AS sql
       FROM pg_catalog.pg_constraint k
      WHERE k.conrelid = ANY ($1) AND k.contype IN ('p', 'u', 'x', 'c', 'f') AND k.conparentid = 0
        AND (k.contype <> 'c' OR k.conislocal) 
      ORDER BY array_position('{p,u,x,c,f}'::"char"[], k.contype), k.conrelid, k.conname`,
    [tables],
  )
  const indexes = await db.query(
    // ON ONLY would leave a partitioned index without those of its partitions, and so not valid.
    `SELECT CASE c.relkind WHEN 'I' THEN regexp_replace(pg_catalog.pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')
                 ELSE pg_catalog.pg_get_indexdef(i.indexrelid) END AS sql
       FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND NOT c.relispartition
      WHERE i.indrelid = ANY ($1)
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x'))
      ORDER BY i.indrelid, c.relname`,
    [tables],
  )
  const identity = await db.query(
    `SELECT 'ALTER TABLE ' || c.oid::regclass || ' REPLICA IDENTITY ' || CASE c.relreplident WHEN 'f' THEN 'FULL'
              WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (SELECT pg_catalog.quote_ident(x.relname)
                FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
               WHERE i.indrelid = c.oid AND i.indisreplident) END AS sql
       FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) AND c.relreplident <> 'd'`,
    [tables],
  )
  const sqlOf = (rows: { sql: string }[]) => rows.map(({ sql }) => sql)
  return {
    after: [
      ...sqlOf(constraints.rows.filter(({ kind }) => kind !== 'f')),
      ...sqlOf(indexes.rows),
      ...sqlOf(identity.rows),
    ],
    foreignKeys: sqlOf(constraints.rows.filter(({ kind }) => kind === 'f')),
  }
}
