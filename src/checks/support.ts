import type { ColumnDetail } from '../model/schema.ts'

/*
 * PostgreSQL's types and features in CockroachDB, from its documentation. `since` is the first version with the type or
 * feature (major, minor), or null. Each type is a check, `typ.<name>`, which reports its columns when the target is an
 * older CockroachDB.
 */

export type Since = readonly [major: number, minor: number] | null

export interface TypeSupport {
  name: string
  title: string
  /** Matches pg_type.typname; `kinds` matches pg_type.typtype instead. */
  types?: RegExp
  kinds?: string
  since: Since
  /** Set if CockroachDB has the type but, according to its documentation, MOLT does not move it. */
  unmoved?: true
  consequence: string
  /** What to use on the target instead, and how to change to it. */
  instead: string
}

/** Whether an entry covers this type. */
export function isOf({ types, kinds }: TypeSupport, { typeName, kind }: ColumnDetail): boolean {
  return (types?.test(typeName) || kinds?.includes(kind)) ?? false
}

export const TYPE_SUPPORT: readonly TypeSupport[] = [
  {
    name: 'domain',
    title: 'Domains',
    kinds: 'd',
    since: null,
    consequence: 'CockroachDB has no domains. MOLT does not know the type and fails on the table.',
    instead:
      'ALTER TABLE {table} ALTER COLUMN {column} TYPE <base type>; -- and repeat the domain’s CHECK on the column',
  },
  {
    name: 'range',
    title: 'Range types',
    kinds: 'r',
    since: null,
    consequence: 'CockroachDB has no range types, so the column cannot be created.',
    instead: 'Split {column} of {table} into two columns for the lower and upper bound, on both sides.',
  },
  {
    name: 'multirange',
    title: 'Multirange types',
    kinds: 'm',
    since: null,
    consequence: 'CockroachDB has no multirange types, so the column cannot be created.',
    instead: 'Move {column} of {table} into a separate table, one row per range.',
  },
  {
    name: 'composite',
    title: 'Composite types',
    kinds: 'c',
    since: [23, 1],
    unmoved: true,
    consequence:
      'CockroachDB has had composite types since 23.1; MOLT does not translate their values and fails on the table.',
    instead: 'Split {column} of {table} into one column per field, or use jsonb: to_jsonb({column})',
  },
  {
    name: 'xml',
    title: 'xml',
    types: /^xml$/,
    since: null,
    consequence: 'CockroachDB has no xml type and no XML functions.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text;',
  },
  {
    name: 'money',
    title: 'money',
    types: /^money$/,
    since: null,
    consequence: 'CockroachDB has no money type, and the text form of money depends on lc_monetary.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE numeric(19,2) USING {column}::numeric;',
  },
  {
    name: 'geometric',
    title: 'Geometric types (point, line, box, circle …)',
    types: /^(point|line|lseg|box|path|polygon|circle)$/,
    since: null,
    consequence: "CockroachDB has spatial types (GEOMETRY), but none of PostgreSQL's geometric types.",
    instead: 'Split {column} of {table} into numbers, such as point into x and y double precision.',
  },
  {
    name: 'network',
    title: 'Network types other than inet (cidr, macaddr)',
    types: /^(cidr|macaddr|macaddr8)$/,
    since: null,
    consequence: 'Of the network types, CockroachDB has only inet.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text; -- cidr also fits inet',
  },
  {
    name: 'hstore',
    title: 'hstore',
    types: /^hstore$/,
    since: null,
    consequence: 'CockroachDB has no hstore.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE jsonb USING to_jsonb({column});',
  },
  {
    name: 'postgis',
    title: 'PostGIS geometry and geography',
    types: /^(geometry|geography)$/,
    since: [20, 2],
    unmoved: true,
    consequence: "CockroachDB has both types; MOLT's load and stream do not support them.",
    instead: 'Move {table} by other means, or move {column} as text (ST_AsEWKT) and rebuild it on the target.',
  },
  {
    name: 'postgis-other',
    title: 'PostGIS types that CockroachDB lacks (box3d, raster …)',
    types: /^(box3d|raster|topogeometry|geometry_dump|rastbandarg)$/,
    since: null,
    consequence: 'CockroachDB has only GEOMETRY, GEOGRAPHY and BOX2D.',
    instead: 'Convert {column} of {table} to geometry, or leave it out.',
  },
  {
    name: 'citext',
    title: 'citext',
    types: /^citext$/,
    since: [25, 3],
    consequence: 'CockroachDB has had citext since 25.3; before that, comparisons would become case-sensitive.',
    instead: 'Upgrade the target to 25.3, or use text for {column} of {table} with a unique index on lower({column}).',
  },
  {
    name: 'ltree',
    title: 'ltree',
    types: /^l(tree|query|txtquery)$/,
    since: [25, 4],
    consequence: 'CockroachDB has had ltree since 25.4.',
    instead:
      'Upgrade the target to 25.4, or: ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text;',
  },
  {
    name: 'vector',
    title: 'vector (pgvector)',
    types: /^vector$/,
    since: [24, 2],
    consequence: 'CockroachDB has had vector since 24.2.',
    instead: 'Upgrade the target to 24.2 or newer for {column} of {table}.',
  },
  {
    name: 'full-text',
    title: 'tsvector and tsquery',
    types: /^ts(vector|query)$/,
    since: [23, 1],
    consequence: 'CockroachDB has had full-text search since 23.1.',
    instead: 'Let the target compute {column} of {table}, as a stored generated column that calls to_tsvector',
  },
  {
    name: 'jsonpath',
    title: 'jsonpath',
    types: /^jsonpath$/,
    since: [25, 2],
    consequence: 'CockroachDB has had jsonpath since 25.2.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text;',
  },
  {
    name: 'internal',
    title: "PostgreSQL's internal types (pg_lsn, xid, tid, txid_snapshot …)",
    types: /^(xid|xid8|cid|tid|txid_snapshot|pg_snapshot|aclitem|pg_ndistinct|refcursor|pg_lsn)$/,
    since: null,
    consequence: 'Their values have a meaning only within one PostgreSQL server.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text;',
  },
  {
    name: 'extension-type',
    title: 'Other extension types',
    types: /^(cube|seg|isbn13?|ean13|ismn13?|issn13?|upc|earth|bloom|intbig_gkey|gtrgm|roaringbitmap|semver)$/,
    since: null,
    consequence: 'CockroachDB does not load PostgreSQL extensions.',
    instead: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text USING {column}::text;',
  },
]

/** Extensions with a built-in counterpart in CockroachDB, and the first version that has it. */
export const EXTENSION_SUPPORT: Record<string, { since: Since; note: string }> = {
  'uuid-ossp': { since: [20, 1], note: 'its functions are built in' },
  pgcrypto: {
    since: [20, 1],
    note: 'gen_random_uuid, digest and others are built in; check every function that you call',
  },
  fuzzystrmatch: { since: [21, 1], note: 'some of its functions are built in' },
  pg_trgm: { since: [22, 2], note: 'trigram indexes are built in' },
  postgis: { since: [20, 2], note: 'spatial types are built in; MOLT does not move them' },
  citext: { since: [25, 3], note: 'the type has been built in since 25.3' },
  ltree: { since: [25, 4], note: 'the type has been built in since 25.4' },
  vector: { since: [24, 2], note: 'the type has been built in since 24.2' },
  pg_stat_statements: { since: [20, 1], note: 'statement statistics are built in' },
}

/** Index methods that CockroachDB lacks or restricts. */
export const INDEX_METHODS: Record<string, string> = {
  gist: 'CockroachDB has GiST only for spatial and trigram indexes',
  spgist: 'CockroachDB has no SP-GiST',
  brin: 'CockroachDB has no BRIN; it reads ranges in primary key order',
  hash: 'CockroachDB has no hash index; a B-tree takes its place',
}

/** First version with row-level triggers in PL/pgSQL. */
export const TRIGGERS_SINCE: Since = [24, 3]
