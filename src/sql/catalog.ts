import type { Catalog, Definitions, Type } from '../model/catalog.ts'
import type { Database } from '../runtime/database.ts'
import { readObjects } from './catalog-objects.ts'
import { createComposite, createDomain, createEnum, createRange } from './ddl.ts'

/*
 * Reads a complete PostgreSQL schema in a fixed number of queries. The search path is empty, so the server qualifies
 * every name outside pg_catalog, and every user gets the same text. Catalog columns that only newer servers have are
 * read through `to_jsonb`, which gives NULL for a missing column.
 */

const TYPE_NAME = `jsonb_build_object('text', pg_catalog.format_type(%t, %m), 'name', e.typname, 'schema', en.nspname,
  'kind', e.typtype, 'array', b.typelem <> 0 AND b.typlen = -1 AND b.typcategory = 'A', 'modifier', substring(
    pg_catalog.format_type(%t, %m) FROM '\\((?:[^()"]|"[^"]*")*\\)'), 'extension', CASE WHEN e.oid >= 16384 THEN (SELECT x.extname FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid WHERE d.classid = 'pg_catalog.pg_type'::regclass
     AND d.objid = e.oid AND d.refclassid = 'pg_catalog.pg_extension'::regclass AND d.deptype = 'e' LIMIT 1) END)`

const TYPE_JOIN = `JOIN pg_catalog.pg_type b ON b.oid = %t
  JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN b.typelem <> 0 AND b.typlen = -1 AND b.typcategory = 'A' THEN b.typelem ELSE b.oid END
  JOIN pg_catalog.pg_namespace en ON en.oid = e.typnamespace`

const typeName = (type: string, modifier: string) => TYPE_NAME.replaceAll('%t', type).replaceAll('%m', modifier)
const typeJoin = (type: string) => TYPE_JOIN.replaceAll('%t', type)

const collation = (oid: string) => `(SELECT jsonb_build_object('schema', n.nspname, 'name', l.collname,
    'provider', CASE to_jsonb(l)->>'collprovider' WHEN 'i' THEN 'icu' WHEN 'c' THEN 'libc' WHEN 'b' THEN 'builtin' ELSE 'default' END,
    'locale', coalesce(to_jsonb(l)->>'colllocale', to_jsonb(l)->>'colliculocale', l.collcollate, ''),
    'deterministic', coalesce((to_jsonb(l)->>'collisdeterministic')::bool, true))
  FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace WHERE l.oid = ${oid})`

const TABLES = `
  SELECT c.oid::int8::float8 AS oid, c.relname AS name, CASE c.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' ELSE 'table' END AS kind,
         c.relpersistence = 'u' AS unlogged, CASE WHEN c.reloftype <> 0 THEN c.reloftype::regtype::text END AS "ofType",
         CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END AS "partitionKey",
         ARRAY(SELECT inhparent::regclass::text FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno) AS parents,
         c.relispartition AS "isPartition", pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound,
         coalesce(c.reloptions, '{}') AS options, pg_catalog.pg_get_userbyid(c.relowner) AS owner, c.relrowsecurity AS "rowSecurity",
         array_remove(ARRAY[
           (SELECT 'access method ' || amname FROM pg_catalog.pg_am WHERE oid = c.relam AND amname <> 'heap'),
           (SELECT 'tablespace ' || spcname FROM pg_catalog.pg_tablespace WHERE oid = c.reltablespace),
           CASE c.relreplident WHEN 'f' THEN 'REPLICA IDENTITY FULL' WHEN 'n' THEN 'REPLICA IDENTITY NOTHING'
             WHEN 'i' THEN 'REPLICA IDENTITY USING INDEX ' || (SELECT quote_ident(x.relname) FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident) END], NULL) AS settings,
         coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', ${typeName('a.atttypid', 'a.atttypmod')},
             'dimensions', a.attndims, 'notNull', a.attnotnull, 'expression', pg_catalog.pg_get_expr(x.adbin, x.adrelid),
             'generated', CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END,
             'identity', CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END,
             'collation', CASE WHEN a.attcollation <> b.typcollation THEN ${collation('a.attcollation')} END,
             'settings', array_remove(ARRAY[CASE WHEN a.attstorage <> b.typstorage THEN 'STORAGE ' || CASE a.attstorage
                 WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
               CASE WHEN to_jsonb(a)->>'attcompression' <> '' THEN 'COMPRESSION ' || CASE to_jsonb(a)->>'attcompression' WHEN 'l' THEN 'lz4' ELSE 'pglz' END END,
               CASE WHEN a.attstattarget > 0 THEN 'STATISTICS ' || a.attstattarget END], NULL)) ORDER BY a.attnum)
           FROM pg_catalog.pg_attribute a ${typeJoin('a.atttypid')}
           LEFT JOIN pg_catalog.pg_attrdef x ON x.adrelid = a.attrelid AND x.adnum = a.attnum
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS columns
    FROM pg_catalog.pg_class c
   WHERE c.relnamespace = $1::oid AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = 'pg_catalog.pg_class'::regclass AND m.objid = c.oid AND m.deptype = 'e')
   ORDER BY c.relname COLLATE "C"`

/** Types in all schemas, because a column's type or a domain's base type may be in another schema. */
const TYPES = `
  SELECT t.oid::int8::float8 AS oid, n.nspname AS schema, t.typname AS name, CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' ELSE 'range' END AS kind,
         ARRAY(SELECT enumlabel::text FROM pg_catalog.pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder) AS labels,
         CASE WHEN t.typtype = 'd' THEN (SELECT ${typeName('t.typbasetype', 't.typtypmod')} FROM (SELECT) one ${typeJoin('t.typbasetype')}) END AS base,
         CASE WHEN t.typtype = 'd' AND t.typcollation <> (SELECT typcollation FROM pg_catalog.pg_type WHERE oid = t.typbasetype) THEN ${collation('t.typcollation')} END AS collation,
         t.typnotnull AS "notNull", t.typdefault AS "default",
         coalesce((SELECT jsonb_agg(jsonb_build_object('name', k.conname, 'expression', pg_catalog.pg_get_expr(k.conbin, 0)) ORDER BY k.conname COLLATE "C")
            FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '[]') AS checks,
         coalesce((SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', ${typeName('a.atttypid', 'a.atttypmod')},
             'collation', CASE WHEN a.attcollation <> b.typcollation THEN ${collation('a.attcollation')} END) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a ${typeJoin('a.atttypid')} WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS fields,
         coalesce((SELECT array_remove(ARRAY['subtype = ' || pg_catalog.format_type(r.rngsubtype, NULL),
             'subtype_opclass = ' || CASE WHEN NOT o.opcdefault THEN quote_ident(oc.nspname) || '.' || quote_ident(o.opcname) END,
             'collation = ' || CASE WHEN r.rngcollation <> s.typcollation THEN quote_ident(cn.nspname) || '.' || quote_ident(l.collname) END,
             'canonical = ' || CASE WHEN r.rngcanonical::oid <> 0 THEN r.rngcanonical::text END,
             'subtype_diff = ' || CASE WHEN r.rngsubdiff::oid <> 0 THEN r.rngsubdiff::text END,
             'multirange_type_name = ' || (to_jsonb(r)->>'rngmultitypid')::oid::regtype::text], NULL)
            FROM pg_catalog.pg_range r JOIN pg_catalog.pg_type s ON s.oid = r.rngsubtype
            JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc JOIN pg_catalog.pg_namespace oc ON oc.oid = o.opcnamespace
            LEFT JOIN pg_catalog.pg_collation l ON l.oid = r.rngcollation LEFT JOIN pg_catalog.pg_namespace cn ON cn.oid = l.collnamespace
           WHERE r.rngtypid = t.oid), '{}') AS range
    FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
   WHERE n.nspname !~ '^(pg_|information_schema$)' AND (t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND c.relkind = 'c')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = 'pg_catalog.pg_type'::regclass AND m.objid = t.oid AND m.deptype = 'e')
   ORDER BY n.nspname COLLATE "C", t.typname COLLATE "C"`

const SEQUENCES = `
  SELECT c.relname AS name, pg_catalog.format_type(s.seqtypid, NULL) AS type, s.seqstart::text AS start, s.seqincrement::text AS increment,
         s.seqmin::text AS min, s.seqmax::text AS max, s.seqcache::text AS cache, s.seqcycle AS cycle,
         t.relname AS table, a.attname AS column, coalesce(d.deptype = 'i', false) AS identity
    FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
    LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.refobjsubid > 0
      AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
    LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE c.relnamespace = $1::oid AND c.relpersistence <> 't' ORDER BY c.relname COLLATE "C"`

const INDEXES = `
  SELECT t.relname AS table, c.relname AS name, m.amname AS method, i.indisunique AS unique, i.indisvalid AS valid,
         coalesce((to_jsonb(i)->>'indnullsnotdistinct')::bool, false) AS "nullsNotDistinct",
         pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS predicate, coalesce(c.reloptions, '{}') AS options, c.relispartition AS "isPartition",
         k.conname AS constraint,
         pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
         ARRAY(SELECT a.attname::text FROM generate_series(i.indnkeyatts + 1, i.indnatts) at JOIN pg_catalog.pg_attribute a
            ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at - 1] ORDER BY at) AS include,
         (SELECT jsonb_agg(jsonb_build_object('column', a.attname, 'expression', pg_catalog.pg_get_indexdef(i.indexrelid, at, false),
             'descending', i.indoption[at - 1] & 1 = 1, 'nullsFirst', i.indoption[at - 1] & 2 = 2,
             'opclass', CASE WHEN NOT o.opcdefault OR m.amname NOT IN ('btree', 'hash') THEN o.opcname END,
             'collation', CASE WHEN i.indcollation[at - 1] <> 0 AND i.indcollation[at - 1] <> coalesce(a.attcollation, 100) THEN ${collation('i.indcollation[at - 1]')} END)
             ORDER BY at)
            FROM generate_series(1, i.indnkeyatts) at
            LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[at - 1] AND a.attnum > 0
            LEFT JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[at - 1]) AS columns
    FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_am m ON m.oid = c.relam
    LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = i.indrelid AND k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
   WHERE t.relnamespace = $1::oid AND t.relkind IN ('r', 'p') AND t.relpersistence <> 't'
   ORDER BY t.relname COLLATE "C", c.relname COLLATE "C"`

const actionOf = (letter: string) =>
  `CASE ${letter} WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' ELSE 'NO ACTION' END`
const namesOf = (table: string, key: string) =>
  `ARRAY(SELECT a.attname::text FROM unnest(${key}) WITH ORDINALITY u(num, at) JOIN pg_catalog.pg_attribute a ON a.attrelid = ${table} AND a.attnum = u.num ORDER BY at)`

/** Constraints, including foreign keys in other schemas that reference this one. */
const CONSTRAINTS = `
  SELECT n.nspname AS schema, t.relname AS table, k.conname AS name,
         CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign key'
           WHEN 'x' THEN 'exclude' WHEN 'n' THEN 'not null' WHEN 't' THEN 'trigger' ELSE 'other' END AS kind,
         ${namesOf('k.conrelid', 'k.conkey')} AS columns,
         CASE WHEN k.contype = 'c' THEN pg_catalog.pg_get_expr(k.conbin, k.conrelid) END AS expression,
         k.condeferrable AS deferrable, k.convalidated AS validated, k.connoinherit AS "noInherit",
         NOT k.conislocal OR k.conparentid <> 0 AS inherited, x.relname AS index, pg_catalog.pg_get_constraintdef(k.oid) AS definition,
         CASE WHEN k.contype = 'f' THEN jsonb_build_object('schema', rn.nspname, 'table', r.relname, 'columns', ${namesOf('k.confrelid', 'k.confkey')},
           'onUpdate', ${actionOf('k.confupdtype')}, 'onDelete', ${actionOf('k.confdeltype')},
           'match', CASE k.confmatchtype WHEN 'f' THEN 'full' WHEN 'p' THEN 'partial' ELSE 'simple' END,
           'setColumns', ${namesOf('k.conrelid', `ARRAY(SELECT jsonb_array_elements_text(nullif(to_jsonb(k)->'confdelsetcols', 'null'))::int2)`)}) END AS references
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    LEFT JOIN pg_catalog.pg_class r ON r.oid = k.confrelid LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
    LEFT JOIN pg_catalog.pg_class x ON x.oid = k.conindid AND k.contype IN ('p', 'u', 'x')
   WHERE (t.relnamespace = $1::oid OR r.relnamespace = $1::oid) AND t.relpersistence <> 't'
   ORDER BY n.nspname COLLATE "C", t.relname COLLATE "C", k.conname COLLATE "C"`

const COMMENTS = `
  SELECT CASE WHEN d.classoid = 'pg_catalog.pg_namespace'::regclass THEN 'schema' WHEN d.classoid = 'pg_catalog.pg_type'::regclass THEN 'type'
           WHEN d.classoid = 'pg_catalog.pg_constraint'::regclass THEN 'constraint' WHEN d.classoid <> 'pg_catalog.pg_class'::regclass THEN 'other'
           WHEN d.objsubid > 0 THEN 'column' WHEN c.relkind IN ('i', 'I') THEN 'index' WHEN c.relkind = 'S' THEN 'sequence'
           WHEN c.relkind IN ('v', 'm') THEN 'view' WHEN c.relkind = 'c' THEN 'type' ELSE 'table' END AS on,
         coalesce(c.relname, k.conname, t.typname, (pg_catalog.pg_identify_object(d.classoid, d.objoid, 0)).identity) AS name,
         coalesce(a.attname, kt.relname, it.relname) AS of, d.description AS text
    FROM pg_catalog.pg_description d
    LEFT JOIN pg_catalog.pg_class c ON d.classoid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objoid
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_catalog.pg_class it ON it.oid = i.indrelid
    LEFT JOIN pg_catalog.pg_constraint k ON d.classoid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objoid
    LEFT JOIN pg_catalog.pg_class kt ON kt.oid = k.conrelid
    LEFT JOIN pg_catalog.pg_type t ON d.classoid = 'pg_catalog.pg_type'::regclass AND t.oid = d.objoid
   WHERE (c.relnamespace = $1::oid OR kt.relnamespace = $1::oid OR t.typnamespace = $1::oid
      OR d.classoid = 'pg_catalog.pg_namespace'::regclass AND d.objoid = $1::oid)
     AND NOT (d.classoid = 'pg_catalog.pg_namespace'::regclass AND d.description = 'standard public schema')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend m WHERE m.classid = d.classoid AND m.objid = d.objoid AND m.deptype = 'e')
   ORDER BY 1, 2, 3`

/**
 * Reads one schema from a single snapshot, in a read-only transaction.
 * @returns undefined when `schema` does not exist
 * @throws the database's error
 */
export async function readCatalog(db: Database, schema: string): Promise<Catalog | undefined> {
  await db.query('BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY')
  try {
    await db.query('SET LOCAL search_path = pg_catalog')
    const found = await readDefinitions(db, schema)
    if (!found) return undefined
    const read = async (sql: string) => (await db.query(sql, [found.oid])).rows
    return { ...found.definitions, objects: await readObjects(read), comments: await read(COMMENTS) }
  } finally {
    await db.query('ROLLBACK').catch(() => {})
  }
}

/** Reads the schema's oid and tables, without objects and comments. Requires a session with an empty search path. */
export async function readDefinitions(
  db: Database,
  schema: string,
): Promise<{ oid: number; definitions: Definitions } | undefined> {
  const found = await db.query(
    `SELECT n.oid::int8::float8 AS oid, current_setting('server_version_num')::int AS version,
            CASE WHEN to_jsonb(d)->>'datlocprovider' IN ('i', 'b')
              THEN coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', d.datcollate) ELSE d.datcollate END AS collation
       FROM pg_catalog.pg_namespace n, pg_catalog.pg_database d WHERE n.nspname = $1 AND d.datname = current_database()`,
    [schema],
  )
  const [about] = found.rows
  if (!about) return undefined
  const read = async (sql: string) => (await db.query(sql, [about.oid])).rows
  const { rows: types } = await db.query(TYPES)
  return {
    oid: about.oid,
    definitions: {
      schema,
      version: about.version,
      collation: about.collation,
      tables: await read(TABLES),
      types: types.map((type) => ({ ...type, definition: typeDefinition(type) })),
      sequences: await read(SEQUENCES),
      indexes: await read(INDEXES),
      constraints: await read(CONSTRAINTS),
    },
  }
}

function typeDefinition(type: Type): string {
  if (type.kind === 'range') return createRange(type)
  if (type.kind === 'enum') return createEnum(type.schema, type.name, type.labels)
  return type.kind === 'composite' ? createComposite(type) : createDomain(type)
}
