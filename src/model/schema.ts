import type { Column, Table } from './tables.ts'

/** A column, with details that only the checks and the fingerprint need. */
export interface SchemaColumn extends Column {
  /** The default, or the expression of a generated column, as the database prints it; null if there is none. */
  default: string | null
  identity: boolean
  /**
   * CockroachDB's name for the column's explicit collation; null if the column has none, or CockroachDB does not have
   * it.
   */
  collation: string | null
  /** Details of the type; only for the source. */
  detail?: ColumnDetail
}

export interface ColumnDetail {
  /** pg_type.typtype of the type or array element: `b` base, `d` domain, `e` enum, `c` composite. */
  kind: string
  typeName: string
  typeSchema: string
  array: boolean
  /** The column's collation; null if it is the default of the column's type. */
  collation: string | null
}

export interface SchemaTable extends Table {
  columns: SchemaColumn[]
}

interface Reference {
  schema: string
  table: string
  columns: string[]
  /** Letters as in pg_constraint: a no action, r restrict, c cascade, n set null, d set default. */
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
  /** The condition of a check; null for other kinds, and if the catalog has two checks with this name. */
  condition: string | null
  /** The part after `ADD CONSTRAINT name`, as the server prints it. */
  definition: string
  deferrable: boolean
  validated: boolean
  references: Reference | null
  /** The index that enforces the constraint. */
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
  /** Key columns; an empty string stands for an expression. */
  columns: string[]
  /** btree, gin, gist … */
  method: string
  /** The CREATE INDEX statement, as the database prints it. */
  definition: string
}

interface SchemaSequence {
  name: string
  increment: string
  min: string
  max: string
  cycle: boolean
  cache: string
  /** The table and column that own the sequence. */
  table: string | null
  column: string | null
}

/** One schema on one side. The constraints include foreign keys in other schemas that reference this one. */
export interface Schema {
  name: string
  tables: SchemaTable[]
  constraints: Constraint[]
  indexes: Index[]
  sequences: SchemaSequence[]
  /** Only for the source: every partition, with its topmost table. */
  partitions?: { root: string; name: string }[]
  /** Only for the target: triggers and rules of its tables. */
  actions?: { kind: 'trigger' | 'rule'; table: string; name: string; definition: string }[]
}

/** Columns that CockroachDB adds (hash shards, hidden row ids, regions). Every comparison ignores them. */
export const OWN_COLUMN = /^(rowid|crdb_region|crdb_internal_.*)$/

/**
 * Shard column of a hash-sharded index. Since 24.2, the catalog lists it as a key column
 * (cockroachdb/cockroach#126397).
 */
export const SHARD_COLUMN = /^crdb_internal_.*_shard_\d+(_\d+)?$/
/** Hidden column with the value of an indexed expression. */
export const EXPRESSION_COLUMN = /^crdb_internal_idx_expr/

/** Whether CockroachDB created this check for a hash-sharded index. It is dropped with the index. */
export function isShardCheck(constraint: Constraint): boolean {
  return constraint.kind === 'c' && /crdb_internal_/.test(`${constraint.name} ${constraint.condition ?? ''}`)
}
