import type { Column, Table } from './tables.ts'

/** A column, with details that only the checks and the fingerprint need. */
export interface SchemaColumn extends Column {
  /** The default, or the expression of a generated column, as the database writes it; null when there is none. */
  default: string | null
  identity: boolean
  /** CockroachDB's name of the column's own locale; null without one, and where CockroachDB has none. */
  collation: string | null
  /** Of the source only: what kind of type it is, and how it is stored. */
  detail?: ColumnDetail
}

export interface ColumnDetail {
  /** pg_type.typtype of the type, or of the element type of an array: `b` base, `d` domain, `e` enum, `c` composite. */
  kind: string
  typeName: string
  typeSchema: string
  array: boolean
  /** Named for this column, other than its type's; else null. */
  collation: string | null
}

export interface SchemaTable extends Table {
  columns: SchemaColumn[]
}

interface Reference {
  schema: string
  table: string
  columns: string[]
  /** pg_constraint's letters: a no action, r restrict, c cascade, n set null, d set default. */
  onUpdate: string
  onDelete: string
  match: string
}

export interface Constraint {
  schema: string
  table: string
  name: string
  /** pg_constraint.contype: p primary key, u unique, f foreign key, c check, x exclusion. */
  kind: string
  columns: string[]
  /** The condition of a check; null for others, and where the catalog has two with one name. */
  condition: string | null
  /** What follows `ADD CONSTRAINT name`, as the server writes it. */
  definition: string
  deferrable: boolean
  validated: boolean
  references: Reference | null
  /** The index that enforces it. */
  index: string | null
}

export interface Index {
  schema: string
  table: string
  name: string
  unique: boolean
  primary: boolean
  valid: boolean
  partial: boolean
  /** Key columns; an expression is the empty string. */
  columns: string[]
  /** btree, gin, gist … */
  method: string
  /** CREATE INDEX as the database writes it. */
  definition: string
}

interface SchemaSequence {
  name: string
  increment: string
  min: string
  max: string
  cycle: boolean
  cache: string
  /** The column that owns it. */
  table: string | null
  column: string | null
}

/** One schema of one side; foreign keys from other schemas into it are among the constraints. */
export interface Schema {
  name: string
  tables: SchemaTable[]
  constraints: Constraint[]
  indexes: Index[]
  sequences: SchemaSequence[]
  /** Of the source only: every partition below a table of the schema, with the table at the top. */
  partitions?: { root: string; name: string }[]
  /** Of the target only: triggers and rules of its tables. */
  actions?: { kind: 'trigger' | 'rule'; table: string; name: string; definition: string }[]
}

/** Columns that CockroachDB adds itself (hash shards, hidden row ids, regions); every comparison ignores them. */
export const OWN_COLUMN = /^(rowid|crdb_region|crdb_internal_.*)$/

/** Holds the shard of a hash-sharded index; such indexes list it from 24.2 on (cockroachdb/cockroach#126397). */
export const SHARD_COLUMN = /^crdb_internal_.*_shard_\d+(_\d+)?$/
/** Holds the value of an expression that is indexed. */
export const EXPRESSION_COLUMN = /^crdb_internal_idx_expr/

/** A check that CockroachDB made for a hash-sharded index: it comes and goes with the index. */
export function isShardCheck(constraint: Constraint): boolean {
  return constraint.kind === 'c' && /crdb_internal_/.test(`${constraint.name} ${constraint.condition ?? ''}`)
}
