// CockroachDB's indexes, emulated on PostgreSQL, where index names must be unique within a schema and hash sharding
// does not exist.
import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { isWord, translate } from '../dialect.ts'
import { closing, split } from '../lexer.ts'
import { type Fact, quoteName, type RuleContext } from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'
import { type FoundTable, firstSchema, resolveTable } from './grants.ts'
import { nameAt, nameBeforeAt, OF_TABLE, skipWords } from './names.ts'

/** Facts about indexes, implemented by the rules for schema changes and by the catalogs. */
export const INDEX_FACTS: readonly Fact[] = [
  {
    id: 'indexes.names',
    says: 'An index name is unique only within its table. Without the table, an ambiguous name is refused (42P08).',
    source: 'docs: drop-index.md; pkg/sql/resolver.go',
  },
  {
    id: 'indexes.hash-sharded',
    says: "USING HASH adds a check, and a hidden column as the first column of the index. The index's definition shows neither, and both are dropped with the index.",
    source: 'docs: hash-sharded-indexes.md; pkg/sql/catalog/catformat/index.go; cockroachdb/cockroach#126397',
  },
  {
    id: 'indexes.hash-sharded-key',
    says: 'USING HASH is accepted for a primary key in CREATE TABLE. This server does not shard the key.',
    source: 'docs: hash-sharded-indexes.md',
  },
  {
    id: 'indexes.building',
    says: 'pg_indexes does not list an index that is being built. From 26.1, pg_class and pg_index list it as invalid.',
    source: 'pkg/sql/pg_catalog.go',
  },
]

/** Default number of shards. */
const SHARDS = 16

interface NewIndex {
  table: FoundTable
  /** Token of the index's name; undefined if the server chooses the name. */
  name: Token | undefined
  /** Position of the parenthesis before the keys. */
  open: number
  close: number
}

/** Parses `CREATE [UNIQUE] INDEX … ON table (…)`; undefined for any other statement. */
async function newIndex({ tokens, sql }: Statement, context: RuleContext): Promise<NewIndex | undefined> {
  const at = isWord(tokens[1], 'unique') ? 2 : 1
  if (!isWord(tokens[0], 'create') || !isWord(tokens[at], 'index')) return undefined
  const on = tokens.findIndex((token) => isWord(token, 'on'))
  const open = tokens.findIndex(({ text }, index) => index > on && text === '(')
  const written = on < 0 ? undefined : nameAt(tokens, sql, skipWords(tokens, on + 1))
  if (!written || open < 0) return undefined
  const named = skipWords(tokens, at + 1)
  return {
    table: await resolveTable(written, context),
    name: named < on ? tokens[named] : undefined,
    open,
    close: closing(tokens, open),
  }
}

/** Translates CREATE INDEX; undefined for any other statement. */
export async function createIndex(statement: Statement, context: RuleContext): Promise<string | undefined> {
  const index = await newIndex(statement, context)
  if (!index) return undefined
  const { sql, tokens } = statement
  const { table, name, open, close } = index
  const sharded = isWord(tokens[close + 1], 'using') && isWord(tokens[close + 2], 'hash')
  const own = name && (await nameBehind(name.value, table, context))
  const before = sql.slice(0, name?.start ?? tokens[open]?.start)
  const between = name ? sql.slice(name.end, tokens[open]?.start) : ''
  const start = `${before}${own ? quoteName(own) : ''}${between}`
  const keys = sql.slice(tokens[open]?.end, tokens[close]?.start)
  if (!sharded) return translateAll(`${start}(${keys}${sql.slice(tokens[close]?.start)}`, context)
  const count = bucketCount(tokens)
  const columns = tokens
    .slice(open + 1, close)
    .filter(({ kind, value }) => kind !== 'symbol' && !/^(asc|desc)$/.test(value))
  const shard = `crdb_internal_${columns.map(({ value }) => value).join('_')}_shard_${count}`
  const place = `${quoteName(table.schema)}.${quoteName(table.name)}`
  const shards = Array.from({ length: count }, (_, at) => at).join(', ')
  const known = await context.admin('SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attname = $2', [
    table.oid,
    shard,
  ])
  const of = columns.map(({ value }) => `_crdb.hashed(${quoteName(value)})`).join(', ')
  const column = `ALTER TABLE ${place} ADD COLUMN ${quoteName(shard)} int4 NOT NULL GENERATED ALWAYS AS (_crdb.shard(${count}, ${of})) STORED;
    ALTER TABLE ${place} ADD CONSTRAINT ${quoteName(`check_${shard}`)} CHECK (${quoteName(shard)} IN (${shards}));`
  const rest = translateAll(`${start}(${quoteName(shard)}, ${keys})${afterHash({ tokens, sql }, close + 3)}`, context)
  return `${known.length ? '' : column}${rest}`
}

/** The clauses after USING HASH, such as STORING and WHERE, but without the number of buckets. */
function afterHash({ tokens, sql }: Pick<Statement, 'tokens' | 'sql'>, from: number): string {
  const last = tokens.at(-1)?.end
  const at = tokens.findIndex((token, index) => index >= from && isWord(token, 'with'))
  if (from >= tokens.length) return ''
  if (at < 0) return ` ${sql.slice(tokens[from]?.start, last)}`
  const end = tokens[closing(tokens, at + 1)]?.end ?? last
  return ` ${sql.slice(tokens[from]?.start, tokens[at]?.start)}${sql.slice(end, last)}`
}

function bucketCount(tokens: readonly Token[]): number {
  const at = tokens.findIndex((token) => isWord(token, 'bucket_count'))
  return at < 0 ? SHARDS : Number(tokens[at + 2]?.value)
}

function translateAll(sql: string, { version }: RuleContext): string {
  return split(sql)
    .map((each) => translate(each, version, true))
    .join(';\n')
}

/** An index's name in PostgreSQL, which includes the table's oid if another table already uses the name. */
async function nameBehind(name: string, table: FoundTable, context: RuleContext): Promise<string> {
  const own = `${name}${OF_TABLE}${table.oid}`
  const found = await context.admin<{ own: boolean; other: boolean }>(
    `SELECT c.relname = $2::text AS own, c.relname = $1::text AND i.indrelid IS DISTINCT FROM $4::oid AS other
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
      WHERE n.nspname = $3 AND c.relname IN ($1::text, $2::text)`,
    [name, own, table.schema, table.oid],
  )
  return found.some((each) => each.own || each.other) ? own : name
}

interface FoundIndex {
  schema: string
  table: string
  /** The index's name in PostgreSQL. */
  name: string
  constraint: string | null
  /** The hidden column of a hash-sharded index, if no other index of the table uses it. */
  shard: string | null
}

/** Resolves `table@index` or a bare name. @throws SqlError 42P08 if the name is ambiguous */
async function findIndex(
  name: string,
  table: FoundTable | undefined,
  context: RuleContext,
): Promise<FoundIndex | undefined> {
  const found = await context.admin<FoundIndex & Record<string, string | null>>(
    `SELECT n.nspname AS schema, t.relname AS table, c.relname AS name, k.conname AS constraint,
            (SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.oid AND a.attnum = ANY(i.indkey)
              AND a.attname ~ '^crdb_internal_.*_shard_[0-9]+$' AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_index o
                WHERE o.indrelid = t.oid AND o.indexrelid <> i.indexrelid AND a.attnum = ANY(o.indkey))) AS shard
       FROM pg_catalog.pg_index i
       JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = t.oid AND k.contype IN ('u', 'p', 'x')
      WHERE c.relname::text IN ($1::text, $1::text || '${OF_TABLE}' || t.oid) AND ($2::oid IS NULL OR t.oid = $2::oid)
        AND ($2::oid IS NOT NULL OR n.nspname = $3) ORDER BY 2`,
    [name, table?.oid ?? null, firstSchema(context)],
  )
  if (found.length > 1)
    throw new SqlError(
      '42P08',
      `index name "${name}" is ambiguous (found in ${found.map((each) => each.table).join(' and ')})`,
    )
  return found[0]
}

async function writtenIndex({ tokens, sql }: Statement, from: number, context: RuleContext) {
  const at = tokens.findIndex(({ text }) => text === '@')
  const name = tokens[at < 0 ? skipWords(tokens, from) : at + 1]?.value ?? ''
  const table = at < 0 ? undefined : await resolveTable(nameBeforeAt(tokens, sql) ?? '', context)
  return { name, found: await findIndex(name, table, context), last: at < 0 ? skipWords(tokens, from) : at + 1 }
}

export async function dropIndex(statement: Statement, context: RuleContext): Promise<string> {
  const { tokens } = statement
  const ifExists = tokens.some(({ value }, index) => value === 'if' && tokens[index + 1]?.value === 'exists')
  const cascade = tokens.at(-1)?.value === 'cascade'
  const { name, found } = await writtenIndex(statement, 2, context)
  if (!found && ifExists) return 'SELECT 1'
  if (!found) throw new SqlError('42704', `index "${name}" does not exist`)
  const { schema, table, constraint, shard } = found
  if (constraint && !cascade)
    throw new SqlError('2BP01', `index "${name}" is in use as unique constraint`, {
      hint: 'use CASCADE if you really want to drop it.',
    })
  const place = `${quoteName(schema)}.${quoteName(table)}`
  if (constraint) return `ALTER TABLE ${place} DROP CONSTRAINT ${quoteName(constraint)} CASCADE`
  const drop = `DROP INDEX ${quoteName(schema)}.${quoteName(found.name)} CASCADE`
  return shard ? `${drop}; ALTER TABLE ${place} DROP COLUMN ${quoteName(shard)} CASCADE` : drop
}

/** Translates `COMMENT ON INDEX table@index IS …`. */
export async function commentOnIndex(statement: Statement, context: RuleContext): Promise<string> {
  const { name, found, last } = await writtenIndex(statement, 3, context)
  if (!found) throw new SqlError('42704', `index "${name}" does not exist`)
  const { sql, tokens } = statement
  return `COMMENT ON INDEX ${quoteName(found.schema)}.${quoteName(found.name)}${sql.slice(tokens[last]?.end)}`
}

/** Runs a schema change for its configured duration. A new index is shown as being built during that time. */
export async function buildSlowly(
  client: pg.ClientBase,
  { tokens }: Statement,
  sql: string,
  { ddlTime, admin }: RuleContext,
): Promise<void> {
  const adds = ddlTime > 0 && !isWord(tokens[1], 'table') ? isWord(tokens[0], 'create') : isWord(tokens[0], 'alter')
  if (!ddlTime || !adds) {
    await client.query(sql)
    return sleep(ddlTime)
  }
  await client.query('BEGIN')
  await client.query(sql)
  // Only the server's role can write to its catalogs.
  const { rows } = await client
    .query(`RESET SESSION AUTHORIZATION; INSERT INTO _crdb.building
    SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'i' AND xmin = pg_current_xact_id()::xid RETURNING indexrelid`)
    .then((results) => (results as unknown as pg.QueryResult[]).at(-1) as pg.QueryResult)
  await client.query('COMMIT')
  await sleep(ddlTime)
  await admin('DELETE FROM _crdb.building WHERE indexrelid = ANY($1::oid[])', [
    rows.map(({ indexrelid }) => indexrelid),
  ])
}
