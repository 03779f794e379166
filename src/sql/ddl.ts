import type { Action, Sequence, Type } from '../model/catalog.ts'
import { ident, literal, qualified } from '../runtime/database.ts'

/*
 * Writes DDL for CockroachDB and PostgreSQL. Each statement is one string without a semicolon. Every name is quoted, so
 * reserved words and mixed case need no special handling.
 */

export interface ColumnDefinition {
  name: string
  type: string
  /** SQL name of the collation; null for the type's default. */
  collation: string | null
  notNull: boolean
  default: string | null
  generated: { expression: string; kind: 'stored' | 'virtual' } | null
  /** An identity column. `options` belong to its sequence. */
  identity: { kind: 'always' | 'by default'; options: string } | null
}

/** Hash sharding. If `buckets` is null, the cluster chooses the number. */
export interface HashSharding {
  buckets: number | null
}

interface KeyDefinition {
  name: string
  columns: string[]
  hash: HashSharding | null
}

export interface TableDefinition {
  schema: string
  name: string
  columns: ColumnDefinition[]
  key: KeyDefinition | null
  /** Checks that are enforced from the first row. */
  checks: { name: string; condition: string }[]
  /** Properties that only PostgreSQL has. */
  postgres?: {
    unlogged: boolean
    /** The partition key, as in PARTITION BY. */
    partitionKey: string | null
    /** Storage parameters, each as `name=value`. */
    options: string[]
  }
}

export interface IndexDefinition {
  schema: string
  table: string
  name: string
  unique: boolean
  method: 'btree' | 'inverted' | 'vector'
  /** Key columns and expressions, as written between the parentheses of CREATE INDEX. */
  columns: string[]
  storing: string[]
  where: string | null
  hash: HashSharding | null
}

export interface ForeignKeyDefinition {
  schema: string
  table: string
  name: string
  columns: string[]
  references: { schema: string; table: string; columns: string[] }
  match: 'simple' | 'full'
  onUpdate: Action
  onDelete: Action
  validated: boolean
}

const list = (names: readonly string[]) => names.map(ident).join(', ')

export function createEnum(schema: string, name: string, labels: readonly string[]): string {
  return `CREATE TYPE ${qualified(schema, name)} AS ENUM (${labels.map(literal).join(', ')})`
}

export function createComposite({ schema, name, fields }: Type): string {
  const list = fields.map((each) => `${ident(each.name)} ${each.type.text}${collate(each.collation)}`)
  return `CREATE TYPE ${qualified(schema, name)} AS (${list.join(', ')})`
}

export function createRange({ schema, name, range }: Type): string {
  return `CREATE TYPE ${qualified(schema, name)} AS RANGE (${range.join(', ')})`
}

/**
 * Writes CREATE DOMAIN. `bare` omits the default and the checks, because functions in them may need the domain to
 * exist.
 */
export function createDomain(domain: Type, bare = false): string {
  const { schema, name, base, collation, notNull, checks } = domain
  const parts = [
    `CREATE DOMAIN ${qualified(schema, name)} AS ${base?.text}${collate(collation)}`,
    !bare && domain.default !== null && `DEFAULT ${domain.default}`,
    notNull && 'NOT NULL',
    ...(bare ? [] : checks.map((each) => `CONSTRAINT ${ident(each.name)} CHECK (${each.expression})`)),
  ]
  return parts.filter(Boolean).join(' ')
}

/** Statements that add the default and the checks to a bare domain. */
export function completeDomain({ schema, name, default: fallback, checks }: Type): string[] {
  const alter = `ALTER DOMAIN ${qualified(schema, name)}`
  const added = checks.map((each) => `${alter} ADD CONSTRAINT ${ident(each.name)} CHECK (${each.expression})`)
  return fallback === null ? added : [`${alter} SET DEFAULT ${fallback}`, ...added]
}

function collate(collation: Type['collation']): string {
  return collation ? ` COLLATE ${qualified(collation.schema, collation.name)}` : ''
}

export function createSequence(schema: string, sequence: Sequence): string {
  return `CREATE SEQUENCE ${qualified(schema, sequence.name)} ${sequenceOptions(sequence)}`
}

export function createPostgresSequence(schema: string, sequence: Sequence): string {
  return `CREATE SEQUENCE ${qualified(schema, sequence.name)} AS ${sequence.type} ${postgresSequenceOptions(sequence)}`
}

/**
 * Sequence options for CockroachDB. The bounds replace the sequence's type, and CYCLE is omitted because CockroachDB
 * refuses it.
 */
export function sequenceOptions({ start, increment, min, max, cache }: Sequence): string {
  return `INCREMENT BY ${increment} MINVALUE ${min} MAXVALUE ${max} START WITH ${start} CACHE ${cache}`
}

export function postgresSequenceOptions(sequence: Sequence): string {
  return `${sequenceOptions(sequence)}${sequence.cycle ? ' CYCLE' : ''}`
}

export function ownSequence(schema: string, sequence: string, table: string, column: string): string {
  return `ALTER SEQUENCE ${qualified(schema, sequence)} OWNED BY ${qualified(schema, table)}.${ident(column)}`
}

export function createTable({ schema, name, columns, key, checks, postgres }: TableDefinition): string {
  const lines = columns.map(columnSql)
  if (key)
    lines.push(
      `CONSTRAINT ${ident(key.name)} PRIMARY KEY (${list(key.columns)})${key.hash ? ' USING HASH' : ''}${bucketsSql(key.hash)}`,
    )
  for (const check of checks) lines.push(`CONSTRAINT ${ident(check.name)} CHECK (${check.condition})`)
  const body = lines.length ? `(\n  ${lines.join(',\n  ')}\n)` : '()'
  const before = postgres?.unlogged ? 'UNLOGGED ' : ''
  return `CREATE ${before}TABLE ${qualified(schema, name)} ${body}${postgres ? storage(postgres) : ''}`
}

function storage({ partitionKey, options }: NonNullable<TableDefinition['postgres']>): string {
  const settings = options.map((each) => each.replace(/=(.*)$/s, (_, value) => `=${literal(value)}`))
  return `${partitionKey ? ` PARTITION BY ${partitionKey}` : ''}${settings.length ? ` WITH (${settings.join(', ')})` : ''}`
}

function columnSql({
  name,
  type,
  collation,
  notNull,
  default: fallback,
  generated,
  identity,
}: ColumnDefinition): string {
  const parts = [
    ident(name),
    type,
    collation && `COLLATE ${collation}`,
    notNull && 'NOT NULL',
    fallback !== null && `DEFAULT ${fallback}`,
    generated && `GENERATED ALWAYS AS (${generated.expression}) ${generated.kind.toUpperCase()}`,
    identity && `GENERATED ${identity.kind.toUpperCase()} AS IDENTITY (${identity.options})`,
  ]
  return parts.filter(Boolean).join(' ')
}

/** The bucket count, separate from USING HASH, because CockroachDB's grammar puts it after STORING. */
function bucketsSql(hash: HashSharding | null): string {
  return hash && hash.buckets !== null ? ` WITH (bucket_count = ${hash.buckets})` : ''
}

export function createIndex(index: IndexDefinition): string {
  const { schema, table, name, unique, method, columns, storing, where, hash } = index
  const kind =
    method === 'inverted' ? 'INVERTED INDEX' : method === 'vector' ? 'VECTOR INDEX' : unique ? 'UNIQUE INDEX' : 'INDEX'
  return [
    `CREATE ${kind} ${ident(name)} ON ${qualified(schema, table)} (${columns.join(', ')})`,
    hash ? ' USING HASH' : '',
    storing.length ? ` STORING (${list(storing)})` : '',
    bucketsSql(hash),
    where === null ? '' : ` WHERE ${where}`,
  ].join('')
}

export function addUnique(
  schema: string,
  table: string,
  name: string,
  columns: readonly string[],
  storing: readonly string[],
): string {
  const extra = storing.length ? ` STORING (${list(storing)})` : ''
  return `ALTER TABLE ${qualified(schema, table)} ADD CONSTRAINT ${ident(name)} UNIQUE (${list(columns)})${extra}`
}

export function addCheck(schema: string, table: string, name: string, condition: string): string {
  return `ALTER TABLE ${qualified(schema, table)} ADD CONSTRAINT ${ident(name)} CHECK (${condition}) NOT VALID`
}

/** Adds a constraint. `definition` is as PostgreSQL's catalog prints it. */
export function addConstraint(schema: string, table: string, name: string, definition: string): string {
  return `ALTER TABLE ${qualified(schema, table)} ADD CONSTRAINT ${ident(name)} ${definition}`
}

/** Adds a foreign key as NOT VALID, so that no lock is held during a scan. It is validated later. */
export function addForeignKey(key: ForeignKeyDefinition): string {
  const { references: to } = key
  const actions = [
    key.match === 'full' && 'MATCH FULL',
    key.onDelete !== 'NO ACTION' && `ON DELETE ${key.onDelete}`,
    key.onUpdate !== 'NO ACTION' && `ON UPDATE ${key.onUpdate}`,
    'NOT VALID',
  ]
  return `ALTER TABLE ${qualified(key.schema, key.table)} ADD CONSTRAINT ${ident(key.name)} FOREIGN KEY (${list(key.columns)}) REFERENCES ${qualified(to.schema, to.table)} (${list(to.columns)}) ${actions.filter(Boolean).join(' ')}`
}

export function validateConstraint(schema: string, table: string, name: string): string {
  return `ALTER TABLE ${qualified(schema, table)} VALIDATE CONSTRAINT ${ident(name)}`
}

export function comment(on: string, text: string): string {
  return `COMMENT ON ${on} IS ${literal(text)}`
}
