import type { Constraint, Definitions, Table, Type } from '../model/catalog.ts'
import { type Database, ident, qualified } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { readDefinitions } from '../sql/catalog.ts'
import { readCollations } from '../sql/catalog-objects.ts'
import {
  addConstraint,
  type ColumnDefinition,
  completeDomain,
  createComposite,
  createDomain,
  createEnum,
  createPostgresSequence,
  createRange,
  createTable,
  ownSequence,
  postgresSequenceOptions,
} from '../sql/ddl.ts'
import { noteMade } from './target.ts'

/** SQL that creates a schema, grouped by when it runs. */
export interface SchemaSql {
  /** Types, sequences, tables: before the rows. */
  before: string[]
  /** Keys, checks and indexes: after the rows. */
  after: string[]
  foreignKeys: string[]
}

export interface SchemaSource {
  schema: string
  tables: readonly { name: string; oid: number }[]
}

/**
 * Reads the source's schema as SQL for the rehearsal source. Leaves out triggers, rules, policies, comments, grants and
 * views, and functions that no default, check or index needs.
 * @throws UserError when an object would reach outside the database
 */
export async function readSchema(db: Database, source: SchemaSource): Promise<SchemaSql> {
  const tree = await relations(db, source)
  const parts = await readParts(db, source, tree)
  const needed = await neededByTables(db, source, tree, parts[0]?.types ?? [])
  const made = await noteMade(
    db,
    source.schema,
    needed.functions.map(({ oid }) => oid),
    needed.otherTypes,
  )
  const collations = await collationsOf(db, source.schema)
  const sql: SchemaSql = {
    before: [
      ...prelude(source, needed, tree),
      ...collations,
      ...parts.flatMap((each) => sequencesSql(each)),
      ...inOrder(needed.types, needed.functions),
      ...needed.types.filter(({ kind }) => kind === 'domain').flatMap(completeDomain),
      ...byDepth(parts, tree, tableSql),
      ...parts.flatMap(ownersSql),
    ],
    after: [
      ...parts.flatMap((each) => constraintsSql(each, ['primary key', 'unique', 'exclude', 'check', 'not null'])),
      ...parts.flatMap(indexesSql),
      ...byDepth(parts, tree, afterRows),
    ],
    foreignKeys: parts.flatMap((each) => constraintsSql(each, ['foreign key'])),
  }
  requireInside([...sql.before, ...sql.after, ...sql.foreignKeys])
  return { ...sql, before: [made, ...sql.before] }
}

interface Needed {
  extensions: { name: string; schema: string }[]
  functions: NeededFunction[]
  /** The schema's own types, and those of other schemas that its columns use. */
  types: Type[]
  otherTypes: number[]
}

interface NeededFunction {
  oid: number
  schema: string
  sql: string
}

/** Calls that reach outside the database, or into the server's files. */
const CALLS_OUT =
  /\b(dblink\w*|http(_(get|post|put|patch|delete|head))?|pg_read_(binary_)?file|pg_stat_file|pg_ls_\w+|pg_file_\w+|lo_(import|export)|pg_notify|pg_logical_emit_message)"?\s*\(/i

/** Statements with the same effect, which only a function's body can contain. */
const ACTS_OUT = /\b(notify\s|net\.http|dblink|postgres_fdw|copy\s+[^;]*\s(from|to)\s+(program|'))/i

/** Extensions that provide such calls, or languages to write them in. */
const REACHES_OUT =
  /^(dblink|.*_fdw|plpython.*|plperl.*|pltcl.*|plsh|plv8|pljava|plr|http|pg_?http.*|pgsql.?http|pg_net|pg_cron|aws_.*|azure_.*|adminpack|wrappers)$/i

/**
 * WITH clause for what the tables and types depend on, and for the functions and extensions that these need in turn. No
 * catalog lists the calls in a function's text, so every function with a name that the text calls counts.
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

async function neededByTables(
  db: Database,
  source: SchemaSource,
  tree: readonly Relation[],
  all: readonly Type[],
): Promise<Needed> {
  const oids = tree.map(({ oid }) => oid)
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
            pg_catalog.pg_get_functiondef(p.oid) AS sql
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
        `a default, check or index needs the function ${name}, which is in ${language} or reaches outside the database. A rehearsal must not do that. Exclude its table, or replace it with a harmless function ${name} on the clone`,
      )
  const others = new Set(await otherTypes(db, source.schema, oids))
  return {
    extensions: extensions.rows,
    functions: functions.rows,
    types: all.filter((type) => type.schema === source.schema || others.has(type.oid)),
    otherTypes: [...others],
  }
}

/** Types in other schemas that columns use, directly or through other types. Leaves out those of extensions. */
async function otherTypes(db: Database, schema: string, tables: readonly number[]): Promise<number[]> {
  const { rows } = await db.query(
    `WITH RECURSIVE used AS (
       SELECT atttypid AS oid FROM pg_catalog.pg_attribute WHERE attrelid = ANY ($2) AND attnum > 0 AND NOT attisdropped
       UNION SELECT p.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid CROSS JOIN LATERAL (
         SELECT t.typelem AS oid UNION ALL SELECT t.typbasetype UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
          WHERE a.attrelid = t.typrelid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped) p WHERE p.oid <> 0)
     SELECT t.oid::int FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid
       JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      WHERE n.nspname <> $1 AND n.nspname !~ '^(pg_|information_schema$)' AND t.typtype IN ('e', 'd', 'c', 'r')
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')`,
    [schema, tables],
  )
  return rows.map(({ oid }) => oid)
}

/** Requires that no default, check or index expression calls a function that reaches outside the database. */
function requireInside(statements: readonly string[]): void {
  for (const sql of statements) {
    const call = CALLS_OUT.exec(sql)?.[1]
    const object = /\b(?:TABLE(?: ONLY)?|DOMAIN|TYPE|INDEX|FUNCTION)\s+((?:"(?:[^"]|"")+"|[^\s("])+)/.exec(sql)?.[1]
    if (call)
      throw new UserError(
        'mask.reaches-out',
        `${object?.replaceAll('"', '') ?? 'a part of the schema'} calls ${call}, which reaches outside the database. A rehearsal must not do that. Exclude its table, or remove the call on the clone`,
      )
  }
}

/** Creates schemas and extensions. */
function prelude({ schema }: SchemaSource, { extensions, functions, types }: Needed, tree: readonly Relation[]) {
  const schemas = new Set([schema, ...[...extensions, ...functions, ...types, ...tree].map((each) => each.schema)])
  return [
    // A function's body can call a function that is created later.
    'SET check_function_bodies = off',
    ...[...schemas].map((name) => `CREATE SCHEMA IF NOT EXISTS ${ident(name)}`),
    ...extensions.map((each) => `CREATE EXTENSION IF NOT EXISTS ${ident(each.name)} SCHEMA ${ident(each.schema)}`),
  ]
}

async function collationsOf(db: Database, schema: string): Promise<string[]> {
  return readCollations(
    async (sql) => (await db.query(sql.replaceAll('$1::oid', 'pg_catalog.to_regnamespace($1)'), [ident(schema)])).rows,
  )
}

/** Types and functions in order of creation, because each can need the other. The types that a type uses come first. */
function inOrder(types: readonly Type[], functions: readonly NeededFunction[]): string[] {
  const byName = new Map(types.map((type) => [`${type.schema}.${type.name}`, type]))
  const done = new Set<number>()
  const sql: string[] = []
  const add = (type: Type) => {
    if (done.has(type.oid)) return
    done.add(type.oid)
    for (const part of [...(type.base ? [type.base] : []), ...type.fields.map((each) => each.type)]) {
      const needed = byName.get(`${part.schema}.${part.name}`)
      if (needed) add(needed)
    }
    sql.push(typeSql(type))
  }
  const all = [...types.map((type) => ({ oid: type.oid, type })), ...functions]
  for (const each of all.sort((a, b) => a.oid - b.oid))
    if ('type' in each) add(each.type)
    else sql.push(each.sql)
  return sql
}

function typeSql(type: Type): string {
  if (type.kind === 'enum') return createEnum(type.schema, type.name, type.labels)
  if (type.kind === 'range') return createRange(type)
  return type.kind === 'composite' ? createComposite(type) : createDomain(type, true)
}

interface Relation {
  oid: number
  /** A partition can be in a different schema from its table. */
  schema: string
}

/** The tables and the partitions below them, parents first. */
async function relations(db: Database, { tables }: SchemaSource): Promise<Relation[]> {
  const { rows } = await db.query(
    `WITH RECURSIVE tree AS (
       SELECT oid, 0 AS depth FROM pg_catalog.pg_class WHERE oid = ANY ($1)
       UNION ALL SELECT i.inhrelid, depth + 1 FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid
         JOIN pg_catalog.pg_class k ON k.oid = i.inhrelid AND k.relispartition)
     SELECT c.oid, n.nspname AS schema FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY depth, c.oid`,
    [tables.map(({ oid }) => oid)],
  )
  return rows
}

/** The copied objects of one schema. */
interface Part extends Definitions {
  /** Names of `tables`. */
  names: ReadonlySet<string>
}

async function readParts(db: Database, { schema }: SchemaSource, tree: readonly Relation[]): Promise<Part[]> {
  const wanted = new Set(tree.map(({ oid }) => oid))
  const parts: Part[] = []
  for (const name of new Set([schema, ...tree.map((each) => each.schema)])) {
    const found = await readDefinitions(db, name)
    if (!found) continue
    const tables = found.definitions.tables.filter(({ oid }) => wanted.has(oid))
    parts.push({ ...found.definitions, tables, names: new Set(tables.map((each) => each.name)) })
  }
  return parts
}

/** Each table's statements, parents first. */
function byDepth(parts: readonly Part[], tree: readonly Relation[], sql: (part: Part, table: Table) => string[]) {
  const found = new Map(
    parts.flatMap((part) => part.tables.map((table) => [table.oid, () => sql(part, table)] as const)),
  )
  return tree.flatMap(({ oid }) => found.get(oid)?.() ?? [])
}

/** Sequences to create. Excludes those of identity columns and of tables that are not copied. */
function ownSequences({ sequences, names }: Part) {
  return sequences.filter(({ identity, table }) => !identity && (table === null || names.has(table)))
}

function sequencesSql(part: Part): string[] {
  return ownSequences(part).map((each) => createPostgresSequence(part.schema, each))
}

function ownersSql(part: Part): string[] {
  return ownSequences(part).flatMap(({ name, table, column }) =>
    table && column ? [ownSequence(part.schema, name, table, column)] : [],
  )
}

/** Creates a table. Attaches a partition afterwards, because it can have another column order and other defaults. */
function tableSql(part: Part, table: Table): string[] {
  const { schema } = part
  const name = qualified(schema, table.name)
  const columns = table.columns.map((column): ColumnDefinition => {
    const sequence = part.sequences.find((each) => each.table === table.name && each.column === column.name)
    const { expression, generated, identity, collation } = column
    return {
      name: column.name,
      type: column.type.text,
      collation: collation && qualified(collation.schema, collation.name),
      notNull: column.notNull && !isUnproved(part, table.name, column.name),
      default: generated ? null : expression,
      generated: generated && expression !== null ? { expression, kind: generated } : null,
      // A partition inherits the identity of its table.
      identity:
        identity && sequence && !table.isPartition
          ? {
              kind: identity,
              options: `SEQUENCE NAME ${qualified(schema, sequence.name)} ${postgresSequenceOptions(sequence)}`,
            }
          : null,
    }
  })
  const { unlogged, partitionKey, options } = table
  return [
    createTable({
      schema,
      name: table.name,
      columns,
      key: null,
      checks: [],
      postgres: { unlogged, partitionKey, options },
    }),
    ...table.columns.flatMap((column) =>
      column.settings.map((each) => `ALTER TABLE ${name} ALTER COLUMN ${ident(column.name)} SET ${each}`),
    ),
    ...(table.ofType ? [`ALTER TABLE ${name} OF ${table.ofType}`] : []),
    ...(table.isPartition ? [`ALTER TABLE ${table.parents[0]} ATTACH PARTITION ${name} ${table.bound}`] : []),
  ]
}

/** Whether a NOT NULL is not validated (PostgreSQL 18), so that rows can still contain NULL. */
function isUnproved({ constraints, schema }: Part, table: string, column: string): boolean {
  return constraints.some(
    (each) =>
      each.kind === 'not null' &&
      !each.validated &&
      each.schema === schema &&
      each.table === table &&
      each.columns[0] === column,
  )
}

/**
 * Constraints of tables, and those that only a partition has. For a table that inherits, includes its parents' checks.
 */
function constraintsSql({ constraints, schema, tables }: Part, kinds: Constraint['kind'][]): string[] {
  const isPartition = new Map(tables.map((each) => [each.name, each.isPartition]))
  return kinds.flatMap((kind) =>
    constraints
      .filter((each) => each.kind === kind && each.schema === schema && isPartition.has(each.table))
      .filter((each) => kind !== 'not null' || !each.validated)
      .filter((each) => !each.inherited || (kind === 'check' && !isPartition.get(each.table)))
      .map((each) => addConstraint(schema, each.table, each.name, each.definition)),
  )
}

/** Indexes. Leaves out those of partitions, which an index of the partitioned table creates. */
function indexesSql({ indexes, tables }: Part): string[] {
  const kinds = new Map(tables.map((each) => [each.name, each.kind]))
  return indexes
    .filter((each) => kinds.has(each.table) && each.constraint === null && !each.isPartition)
    .filter((each) => each.valid || kinds.get(each.table) === 'partitioned')
    .map(({ table, valid, definition }) =>
      valid && kinds.get(table) === 'partitioned' ? definition.replace(' ON ONLY ', ' ON ') : definition,
    )
}

/** Statements that need existing indexes and checks. */
function afterRows({ schema }: Part, table: Table): string[] {
  const name = qualified(schema, table.name)
  const identity = table.settings.filter((each) => each.startsWith('REPLICA IDENTITY '))
  return [
    ...identity.map((each) => `ALTER TABLE ${name} ${each}`),
    ...(table.isPartition ? [] : table.parents.map((parent) => `ALTER TABLE ${name} INHERIT ${parent}`)),
  ]
}
