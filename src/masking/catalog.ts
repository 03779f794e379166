import type { Database } from '../runtime/database.ts'
import { ident, qualified } from '../runtime/database.ts'

/** The type families that rules distinguish. A domain belongs to the family of its base type. */
export type Family =
  | 'text'
  | 'integer'
  | 'numeric'
  | 'float'
  | 'boolean'
  | 'date'
  | 'timestamp'
  | 'uuid'
  | 'bytea'
  | 'json'
  | 'enum'
  | 'other'

export interface MaskColumn {
  name: string
  /** As `format_type` writes it. */
  type: string
  family: Family
  array: boolean
  /** Maximum length in characters; null without a limit. */
  maxLength: number | null
  notNull: boolean
  /** Computed by the database. Not copied, because its inputs are masked. */
  generated: boolean
  /** Values come from the database: an identity, a sequence or a uuid function. */
  surrogate: boolean
  /** The database compares values without regard to case (citext). */
  ignoresCase?: boolean
  /** Part of the partition key of a table in which some rows may fit no partition. */
  placesRow?: boolean
  /** Part of a unique index or constraint, even within an expression. */
  unique: boolean
  /** The type is a domain, which can have its own checks. */
  domain?: boolean
  /** A check lists all allowed values, so they are part of the schema, like an enum's labels. */
  labels?: boolean
}

interface ForeignKey {
  name: string
  columns: string[]
  toTable: string
  toSchema: string
  toColumns: string[]
}

/** A validated CHECK constraint. */
interface RowCheck {
  name: string
  columns: string[]
  /** An SQL expression over the bare column names. */
  expression: string
}

export interface MaskTable {
  schema: string
  name: string
  oid: number
  /** A partitioned table. Its partitions are not listed separately. */
  partitioned: boolean
  columns: MaskColumn[]
  key: string[]
  foreignKeys: ForeignKey[]
  checks: RowCheck[]
}

/** Reads every table of a schema, sorted by name. A partitioned table counts as one. */
export async function readMaskTables(db: Database, schema: string): Promise<MaskTable[]> {
  const columns = await db.query(
    `SELECT c.oid, c.relname AS table, c.relkind = 'p' AS partitioned, a.attname AS name,
            pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
            pg_catalog.format_type(b.oid, b.typmod) AS base, t.typtype = 'e' AS enum,
            a.attnotnull OR b.required AS "notNull", a.attgenerated <> '' AS generated,
            a.attidentity <> '' OR coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid)
              ~ '^(nextval\\(|gen_random_uuid\\(|([a-z_]+\\.)?uuid_generate_v|unique_rowid\\()', false) AS surrogate,
            EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)
              AND (a.attnum = ANY (i.indkey::int2[]) AND array_position(i.indkey::int2[], a.attnum) < i.indnkeyatts
                OR i.indexprs IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_depend p
                  WHERE p.classid = 'pg_class'::regclass AND p.objid = i.indexrelid
                    AND p.refobjid = c.oid AND p.refobjsubid = a.attnum))) AS unique,
            c.relkind = 'p' AND EXISTS (SELECT FROM pg_catalog.pg_partition_tree(c.oid) l
              JOIN pg_catalog.pg_partitioned_table r ON r.partrelid = l.relid AND r.partstrat <> 'h' AND r.partdefid = 0
              JOIN pg_catalog.pg_attribute k ON k.attrelid = l.relid AND k.attname = a.attname
             WHERE k.attnum = ANY (r.partattrs::int2[]) OR r.partexprs IS NOT NULL AND EXISTS (SELECT FROM pg_catalog.pg_depend p
                   WHERE p.classid = 'pg_class'::regclass AND p.objid = l.relid AND p.objsubid = k.attnum
                     AND p.refclassid = 'pg_class'::regclass AND p.refobjid = l.relid AND p.refobjsubid = 0)) AS "placesRow"
       FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
       CROSS JOIN LATERAL (WITH RECURSIVE made_of (oid, typmod, required, depth) AS (
           SELECT a.atttypid, a.atttypmod, false, 0
           UNION ALL SELECT d.typbasetype, d.typtypmod, m.required OR d.typnotnull, m.depth + 1
             FROM made_of m JOIN pg_catalog.pg_type d ON d.oid = m.oid AND d.typtype = 'd')
         SELECT * FROM made_of ORDER BY depth DESC LIMIT 1) b
       JOIN pg_catalog.pg_type t ON t.oid = b.oid
       LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
      WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      ORDER BY c.relname, a.attnum`,
    [schema],
  )
  const constraints = await db.query(
    `SELECT k.conrelid AS oid, k.conname AS name, k.contype AS kind, fn.nspname AS "toSchema", f.relname AS "toTable",
            ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, o)
              JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY o) AS columns,
            ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, o)
              JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY o) AS "toColumns",
            pg_catalog.pg_get_expr(k.conbin, k.conrelid) AS expression
       FROM pg_catalog.pg_constraint k
       JOIN pg_catalog.pg_class c ON c.oid = k.conrelid AND NOT c.relispartition
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
       LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
      WHERE n.nspname = $1 AND (k.contype = 'p' OR k.contype = 'f' AND k.conparentid = 0
         OR k.contype = 'c' AND k.convalidated AND 0 <> ALL (k.conkey))
      ORDER BY k.conname`,
    [schema],
  )
  const tables = new Map<number, MaskTable>()
  for (const row of columns.rows) {
    const table: MaskTable = tables.get(row.oid) ?? {
      schema,
      name: row.table,
      oid: row.oid,
      partitioned: row.partitioned,
      columns: [],
      key: [],
      foreignKeys: [],
      checks: [],
    }
    table.columns.push(toColumn(row))
    tables.set(row.oid, table)
  }
  for (const { oid, kind, name, columns, expression, toSchema, toTable, toColumns } of constraints.rows) {
    const table = tables.get(oid)
    if (kind === 'p') (table as MaskTable).key = columns
    else if (kind === 'f') table?.foreignKeys.push({ name, columns, toSchema, toTable, toColumns })
    else table?.checks.push({ name, columns, expression })
    const labelled = table?.columns.find((column) => columns.length === 1 && column.name === columns[0])
    if (kind === 'c' && labelled && LISTS_VALUES.test(expression)) labelled.labels = true
  }
  return [...tables.values()]
}

/** Matches a check that consists only of `IN (…)`. */
const LISTS_VALUES = /^\(+[^=<>~]+ = ANY \(+ARRAY\[(?!.* (OR|AND) )/s

function toColumn(
  row: Omit<MaskColumn, 'family' | 'array' | 'maxLength' | 'ignoresCase'> & { base: string; enum: boolean },
): MaskColumn {
  const { base, enum: isEnum, name, type, notNull, generated, surrogate, unique, placesRow } = row
  const array = base.endsWith('[]')
  const element = array ? base.slice(0, -2) : base
  const limit = /^character(?: varying)?\((\d+)\)$/.exec(element)?.[1]
  const family: Family = isEnum ? 'enum' : familyOf(element)
  const maxLength = limit ? Number(limit) : null
  const more = {
    ...(CITEXT.test(element) && { ignoresCase: true }),
    ...(placesRow && { placesRow }),
    ...(base !== type && { domain: true }),
  }
  return { name, type, family, array, maxLength, notNull, generated, surrogate, unique, ...more }
}

const CITEXT = /(^|\.)"?citext"?$/

const FAMILIES: [RegExp, Family][] = [
  [/^(text|character|bpchar$|name$)/, 'text'],
  [CITEXT, 'text'],
  [/^(smallint|integer|bigint)$/, 'integer'],
  [/^numeric/, 'numeric'],
  [/^(real|double precision)$/, 'float'],
  [/^boolean$/, 'boolean'],
  [/^date$/, 'date'],
  [/^timestamp/, 'timestamp'],
  [/^uuid$/, 'uuid'],
  [/^bytea$/, 'bytea'],
  [/^jsonb?$/, 'json'],
]

function familyOf(type: string): Family {
  return FAMILIES.find(([regex]) => regex.test(type))?.[1] ?? 'other'
}

/** `FROM` item for a table's own rows, without those of tables that inherit from it. */
export function fromItem(table: { schema: string; name: string; partitioned: boolean }): string {
  return `${table.partitioned ? '' : 'ONLY '}${qualified(table.schema, table.name)}`
}

/** `t."name"` */
export function columnOf(name: string): string {
  return `t.${ident(name)}`
}
