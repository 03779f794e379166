import type { CollationFacts } from './collation.ts'

/* A PostgreSQL schema, as sql/catalog.ts reads it. */

/** The type of a column, a domain, a field or an array element. */
export interface TypeName {
  /** As `format_type` prints it, with its modifier: `character varying(20)`, `public.mood[]`. */
  text: string
  /** pg_type.typname of the type, or of an array's element. */
  name: string
  schema: string
  /** pg_type.typtype of that type: `b` base, `c` composite, `d` domain, `e` enum, `m` multirange, `r` range. */
  kind: string
  array: boolean
  /** The extension that provides the type, or null. */
  extension: string | null
  /** Modifier as in `(20)` or `(10,2)`, without the type's name; null when the type has none. */
  modifier: string | null
}

export interface Column {
  name: string
  type: TypeName
  /** Dimensions of an array as declared; PostgreSQL does not enforce them. */
  dimensions: number
  notNull: boolean
  /** The default, or the expression of a generated column. */
  expression: string | null
  generated: 'stored' | 'virtual' | null
  identity: 'always' | 'by default' | null
  /** The column's collation, such as `pg_catalog."de-x-icu"`; null if it is the default of the column's type. */
  collation: Collation | null
  /** Storage, compression and statistics settings that differ from the defaults of the type. */
  settings: string[]
}

interface Collation extends CollationFacts {
  schema: string
  name: string
}

export interface Table {
  oid: number
  name: string
  kind: 'table' | 'partitioned' | 'foreign'
  columns: Column[]
  unlogged: boolean
  /** The composite type of a typed table. */
  ofType: string | null
  /** The partition key, as in PARTITION BY. */
  partitionKey: string | null
  /** Tables that this one inherits from; for a partition, its parent. */
  parents: string[]
  isPartition: boolean
  /** `FOR VALUES …` of a partition. */
  bound: string | null
  options: string[]
  /** Table access method, tablespace and replica identity that are not the defaults. */
  settings: string[]
  owner: string
  rowSecurity: boolean
}

export interface IndexColumn {
  /** The column's name; null for an expression. */
  column: string | null
  /** The column's quoted name or the expression, as the server prints it. */
  expression: string
  descending: boolean
  nullsFirst: boolean
  /** The operator class; null if it is the type's default. */
  opclass: string | null
  collation: Collation | null
}

export interface Index {
  table: string
  name: string
  method: string
  unique: boolean
  valid: boolean
  nullsNotDistinct: boolean
  columns: IndexColumn[]
  include: string[]
  predicate: string | null
  options: string[]
  /** The constraint that the index enforces. */
  constraint: string | null
  definition: string
  /** Whether this is the index of one partition, attached to a partitioned index. */
  isPartition: boolean
}

export interface Constraint {
  schema: string
  table: string
  name: string
  kind: 'primary key' | 'unique' | 'check' | 'foreign key' | 'exclude' | 'not null' | 'trigger' | 'other'
  columns: string[]
  /** The condition of a check. */
  expression: string | null
  deferrable: boolean
  validated: boolean
  noInherit: boolean
  /** Whether it is inherited from a parent table or, in a partition, from the partitioned table. */
  inherited: boolean
  index: string | null
  references: Reference | null
  definition: string
}

interface Reference {
  schema: string
  table: string
  columns: string[]
  onUpdate: Action
  onDelete: Action
  match: 'simple' | 'full' | 'partial'
  /** Columns listed in ON DELETE SET NULL or SET DEFAULT; empty means all. */
  setColumns: string[]
}

export type Action = 'NO ACTION' | 'RESTRICT' | 'CASCADE' | 'SET NULL' | 'SET DEFAULT'

export interface Type {
  oid: number
  schema: string
  name: string
  kind: 'enum' | 'domain' | 'composite' | 'range'
  labels: string[]
  /** The base type, if this is a domain. */
  base: TypeName | null
  /** The domain's collation; null if it is that of the base type. */
  collation: Collation | null
  notNull: boolean
  default: string | null
  checks: { name: string; expression: string }[]
  /** The fields, if this is a composite type. */
  fields: { name: string; type: TypeName; collation: Collation | null }[]
  /** The parameters, if this is a range type, such as `subtype = integer`. */
  range: string[]
  /** CREATE statement for PostgreSQL. */
  definition: string
}

export interface Sequence {
  name: string
  type: string
  start: string
  increment: string
  min: string
  max: string
  cache: string
  cycle: boolean
  table: string | null
  column: string | null
  /** Whether a column's GENERATED … AS IDENTITY created it. */
  identity: boolean
}

/**
 * An object that is not part of a table's definition, such as a function or a policy. `table` is null if it belongs to
 * no table.
 */
export interface SchemaObject {
  kind: string
  name: string
  table: string | null
  definition: string
}

export interface Comment {
  on: 'table' | 'column' | 'index' | 'constraint' | 'type' | 'schema' | 'sequence' | 'view' | 'other'
  name: string
  /** For a column, its name. For a constraint or an index, its table. */
  of: string | null
  text: string
}

/** The tables of a schema and everything they consist of. */
export interface Definitions {
  schema: string
  /** The server's `server_version_num`. */
  version: number
  /** The database's collation, such as `en_US.UTF-8`. */
  collation: string
  tables: Table[]
  types: Type[]
  sequences: Sequence[]
  indexes: Index[]
  constraints: Constraint[]
}

export interface Catalog extends Definitions {
  /** Views, functions, triggers, rules, policies, grants, extensions and others, by kind and name. */
  objects: SchemaObject[]
  comments: Comment[]
}
