// Schema changes. Each one is a job, takes some time, and commits on its own, so it runs on the server's own
// connection.
import pg from 'pg'
import { isWord, translate } from '../dialect.ts'
import { closing, split } from '../lexer.ts'
import { CHANGE, type Plan, quoteName, type RuleContext, raising, type StatementRule } from '../rule.ts'
import { SqlError, type Statement, type Token } from '../types.ts'
import { type FoundTable, requirePrivilege, resolveTable } from './grants.ts'
import { buildSlowly, commentOnIndex, createIndex, dropIndex } from './indexes.ts'
import { nameAt, nameBeforeAt, skipWords } from './names.ts'
import { noteLock, requireUnlocked, SCHEMA_LOCK_RULES, withoutLock } from './schema-locks.ts'
import { isOn } from './settings.ts'
import { zoneOf } from './show.ts'

const KINDS =
  /^(table|index|inverted|unique|schema|sequence|type|view|constraint|materialized|function|trigger|domain|or|default)$/

export const DDL_RULES: StatementRule[] = [
  {
    id: 'ddl.create-database',
    says: 'CREATE DATABASE IF NOT EXISTS requires CREATEDB even when the database exists.',
    source: 'pkg/sql/create_database.go; docs: create-database.md',
    plan: createDatabase,
  },
  {
    id: 'ddl.unique-constraint',
    says: 'ALTER TABLE … DROP CONSTRAINT is refused for UNIQUE; DROP INDEX … CASCADE drops it.',
    source: 'cockroachdb/cockroach#42840',
    plan: dropUnique,
  },
  {
    id: 'ddl.zone',
    says: "CONFIGURE ZONE sets gc.ttlseconds for a database or table; a table inherits its database's value. This server stores the value but does not collect garbage.",
    source: 'docs: configure-replication-zones.md',
    plan: configureZone,
  },
  ...SCHEMA_LOCK_RULES,
  {
    id: 'ddl.job',
    says: 'A schema change is a job. Inside a transaction with autocommit_before_ddl on (the default from 25.1), it first commits the open work and then commits on its own.',
    source: 'docs: online-schema-changes.md, session-variables.md, v25.1 release notes',
    plan: schemaChange,
  },
]

function configureZone({ tokens }: Statement, context: RuleContext): Plan | undefined {
  const at = tokens.findIndex(({ value }, index) => value === 'configure' && tokens[index + 1]?.value === 'zone')
  if (tokens[0]?.value !== 'alter' || at < 0) return undefined
  const zone = zoneOf(tokens.slice(1, at))
  const setting = tokens.findIndex(({ value }, index) => value === 'gc' && tokens[index + 2]?.value === 'ttlseconds')
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      if (setting < 0) return
      await context.admin(
        'INSERT INTO _crdb.zones VALUES ($1, $2) ON CONFLICT (target) DO UPDATE SET gc_seconds = $2',
        [zone, tokens[setting + 4]?.value],
      )
    },
    tag: 'CONFIGURE ZONE 1',
    ...CHANGE,
  }
}

async function createDatabase(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const { tokens } = statement
  if (tokens[0]?.value !== 'create' || tokens[1]?.value !== 'database') return undefined
  const ifNotExists = tokens[2]?.value === 'if'
  const name = tokens[ifNotExists ? 5 : 2]?.value ?? ''
  return {
    sql: 'SET _crdb.done = 1',
    before: async () => {
      const [role] = await context.admin('SELECT rolcreatedb AS may FROM pg_catalog.pg_roles WHERE rolname = $1', [
        context.session.user,
      ])
      if (!role?.may && !(await context.isAdmin())) throw new SqlError('42501', 'permission denied to create database')
      const [there] = await context.admin('SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1', [name])
      if (there && !ifNotExists) throw new SqlError('42P04', `database "${name}" already exists`)
      if (!there) await context.admin(`CREATE DATABASE ${quoteName(name)} OWNER ${quoteName(context.session.user)}`)
    },
    tag: 'CREATE DATABASE',
    ...CHANGE,
  }
}

async function dropUnique({ tokens, sql }: Statement, context: RuleContext): Promise<Plan | undefined> {
  if (tokens[0]?.value !== 'alter' || tokens[1]?.value !== 'table') return undefined
  const at = tokens.findIndex(
    ({ value, kind }, index) => kind === 'word' && value === 'drop' && tokens[index + 1]?.value === 'constraint',
  )
  if (at < 0) return undefined
  const name = tokens[tokens[at + 2]?.value === 'if' ? at + 4 : at + 2]?.value ?? ''
  const table = await resolveTable(nameAfter(tokens, sql, 'table') ?? '', context)
  const [found] = await context.admin(
    `SELECT 1 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
      WHERE i.indrelid = $1 AND c.relname = $2 AND i.indisunique AND NOT i.indisprimary`,
    [table.oid, name],
  )
  return found
    ? {
        sql: raising(
          new SqlError(
            '0A000',
            `unimplemented: cannot drop UNIQUE constraint "${name}" using ALTER TABLE DROP CONSTRAINT, use DROP INDEX CASCADE instead`,
          ),
        ),
      }
    : undefined
}

async function schemaChange(statement: Statement, context: RuleContext): Promise<Plan | undefined> {
  const [first, second] = statement.tokens.map(({ value, kind }) => (kind === 'word' ? value : ''))
  if (
    first !== 'truncate' &&
    first !== 'comment' &&
    !(/^(create|alter|drop)$/.test(first ?? '') && KINDS.test(second ?? ''))
  )
    return undefined
  if (!isOn('autocommit_before_ddl', context) && (await context.inTransaction())) {
    const before = () => requireUnlocked(statement, context, true)
    return {
      sql: await rewrite(withoutLock(statement).statement, context),
      before,
      tag: tagOf(statement),
      retryable: true,
    }
  }
  return {
    sql: 'SET _crdb.done = 1',
    before: () => runSchemaChange(statement, context),
    tag: tagOf(statement),
    ...CHANGE,
  }
}

function tagOf({ tokens }: Statement): string {
  const [first, second, third] = tokens.map(({ value }) => value.toUpperCase())
  if (first === 'TRUNCATE') return 'TRUNCATE'
  if (first === 'COMMENT') return 'COMMENT'
  return `${first} ${second === 'UNIQUE' ? 'INDEX' : second === 'OR' ? third : second}`
}

async function runSchemaChange(given: Statement, context: RuleContext): Promise<void> {
  const { statement, locked } = withoutLock(given)
  await context.commitOpen()
  await requireUnlocked(statement, context, false)
  const elevated = await authorize(statement, context)
  const job = context.jobs.create({
    type: 'NEW SCHEMA CHANGE',
    description: statement.sql,
    user: context.session.user,
  })
  try {
    const sql = await rewrite(statement, context)
    await context
      .lend(async (db) => {
        if (!elevated) await db.query(`SET SESSION AUTHORIZATION ${quoteName(context.session.user)}`)
        await db.query(`SET search_path = ${context.session.searchPath || "''"}`)
        await buildSlowly(db, statement, sql, context)
      })
      .catch(async (error) => {
        throw await wording(error, statement, context)
      })
    await noteColumnIds(statement, context)
    const [first, second] = statement.tokens
    const made = isWord(first, 'create') && isWord(second, 'table')
    if (made) await noteLock(nameAfter(statement.tokens, statement.sql, 'table') ?? '', locked, context)
    context.jobs.update(job, { status: 'succeeded', fractionCompleted: 1 })
  } catch (error) {
    context.jobs.update(job, { status: 'failed', error: (error as Error).message })
    throw error
  }
}

/**
 * Whether to run the statement as a superuser, because the role has a CockroachDB privilege that PostgreSQL lacks.
 * @throws SqlError 42501 if the role lacks the privilege
 */
async function authorize({ tokens, sql }: Statement, context: RuleContext): Promise<boolean> {
  if (await context.isAdmin()) return true
  const first = tokens[0]?.value
  const wanted = first === 'truncate' || (first === 'drop' && tokens[1]?.value === 'table') ? 'DROP' : 'CREATE'
  const names = [
    ...(first === 'truncate' ? namesAfter(tokens, sql, tokens[1]?.value === 'table' ? 2 : 1) : []),
    tokens[1]?.value === 'table' ? nameAfter(tokens, sql, 'table') : undefined,
    // In other statements, `ON` can belong to a join.
    isOnTable(tokens) ? nameAfter(tokens, sql, 'on') : undefined,
    first === 'drop' && tokens[1]?.value === 'index' ? nameBeforeAt(tokens, sql) : undefined,
  ].filter((name) => name !== undefined)
  if (!names.length || (first === 'create' && tokens[1]?.value === 'table')) return false
  for (const name of names) await requirePrivilege(await resolveTable(name, context), wanted, context)
  for (const parent of referenced(tokens, sql)) await requireReferences(await resolveTable(parent, context), context)
  return true
}

/**
 * Whether the statement is `CREATE UNIQUE INDEX … ON t`, `CREATE OR REPLACE TRIGGER … ON t` or `DROP TRIGGER … ON t`.
 */
function isOnTable(tokens: readonly Token[]): boolean {
  return tokens.slice(1, 4).some(({ value }) => value === 'index' || value === 'trigger')
}

/** A foreign key requires CREATE on the parent table; from 26.3, REFERENCES (cockroachdb/cockroach#169080). */
async function requireReferences(parent: FoundTable, context: RuleContext): Promise<void> {
  const [major, minor] = context.version
  await requirePrivilege(parent, major > 26 || (major === 26 && minor >= 3) ? 'REFERENCES' : 'CREATE', context)
}

function nameAfter(tokens: readonly Token[], sql: string, word: string): string | undefined {
  const at = tokens.findIndex(({ kind, value }) => kind === 'word' && value === word)
  return at < 0 ? undefined : nameAt(tokens, sql, skipWords(tokens, at + 1))
}

function namesAfter(tokens: readonly Token[], sql: string, from: number): string[] {
  const names: string[] = []
  for (let at = skipWords(tokens, from); at < tokens.length; at++) {
    const name = nameAt(tokens, sql, at)
    if (!name || /^(cascade|restrict)$/i.test(name)) break
    names.push(name)
    while (tokens[at + 1]?.text === '.') at += 2
    if (tokens[at + 1]?.text !== ',') break
    at++
  }
  return names
}

function referenced(tokens: readonly Token[], sql: string): string[] {
  return tokens.flatMap(({ kind, value }, at) =>
    kind === 'word' && value === 'references' ? (nameAt(tokens, sql, at + 1) ?? []) : [],
  )
}

async function rewrite(statement: Statement, context: RuleContext): Promise<string> {
  const { tokens, sql } = statement
  if (tokens[0]?.value === 'drop' && tokens[1]?.value === 'index') return dropIndex(statement, context)
  if (tokens[0]?.value === 'create' && tokens[1]?.value === 'table') return createTable(statement, context)
  if (tokens[0]?.value === 'comment' && tokens[2]?.value === 'index') return commentOnIndex(statement, context)
  const index = await createIndex(statement, context)
  if (index) return index
  if (tokens[0]?.value === 'create' && isWord(tokens[1], 'inverted')) return invertedIndex(statement, context)
  const name = tokens[0]?.value === 'alter' ? nameAfter(tokens, sql, 'table') : undefined
  // A three-part name starts with the database's name.
  const translated = translate(statement, context.version, true)
  return name && (name.match(/\./g)?.length ?? 0) === 2
    ? translated.replace(name, name.slice(name.indexOf('.') + 1))
    : translated
}

/** Translates `CREATE INVERTED INDEX` to a GIN index. */
function invertedIndex({ tokens, sql, ...more }: Statement, { version }: RuleContext): string {
  const [word, open] = [tokens[1] as Token, tokens.find(({ text }) => text === '(') as Token]
  const plain = `${sql.slice(0, word.start)}${sql.slice(word.end, open.start)}USING gin ${sql.slice(open.start)}`
  return split(plain)
    .map((each) => translate({ ...more, ...each }, version, true))
    .join(';\n')
}

/** Moves the indexes of a CREATE TABLE into separate statements, and translates computed columns. */
function createTable(statement: Statement, { version }: RuleContext): string {
  const { tokens, sql } = statement
  const name = nameAfter(tokens, sql, 'table') ?? ''
  const parts = elements(tokens)
  const isIndex = ([first, second]: readonly Token[]) =>
    isWord(first, 'index') || (isWord(first, 'unique') && isWord(second, 'index'))
  const indexes = parts.filter(isIndex)
  const kept = parts.filter((part) => !isIndex(part)).map((part) => computed(part, sql))
  const last = parts.at(-1)?.at(-1)
  const first = parts[0]?.[0]
  const plain = parts.every((part) => computed(part, sql) === textOf(part, sql))
  if (!first || !last || (plain && !indexes.length)) return translate(statement, version, true)
  const text = `${sql.slice(0, first.start)}${kept.join(', ')}${sql.slice(last.end)}`
  const own = indexes.map((part) => {
    const open = part.findIndex(({ text: each }) => each === '(')
    const columns = part.slice(open + 1).filter(({ kind }) => kind === 'word' || kind === 'quoted')
    const named = part[open - 1]
    const index =
      named && !isWord(named, 'index')
        ? named.value
        : [name.split('.').at(-1)?.replaceAll('"', ''), ...columns.map(({ value }) => value), 'idx'].join('_')
    const unique = isWord(part[0], 'unique') ? 'UNIQUE ' : ''
    return `CREATE ${unique}INDEX IF NOT EXISTS ${quoteName(index)} ON ${name} ${sql.slice(part[open]?.start, part.at(-1)?.end)}`
  })
  return [text, ...own]
    .flatMap(split)
    .map((each) => translate(each, version, true))
    .join(';\n')
}

/** The comma-separated elements between CREATE TABLE's parentheses. */
function elements(tokens: readonly Token[]): Token[][] {
  const open = tokens.findIndex(({ text }) => text === '(')
  if (open < 0) return []
  const parts: Token[][] = [[]]
  let depth = 0
  for (const token of tokens.slice(open + 1)) {
    if (token.text === ')' && depth-- === 0) break
    if (token.text === '(') depth++
    if (token.text === ',' && !depth) parts.push([])
    else parts.at(-1)?.push(token)
  }
  return parts.filter((part) => part.length)
}

function textOf(part: readonly Token[], sql: string): string {
  return sql.slice(part[0]?.start, part.at(-1)?.end)
}

/** Turns a virtual column, `a INT8 AS (…) VIRTUAL`, into a stored one, and drops USING HASH from a primary key. */
function computed(part: readonly Token[], sql: string): string {
  const text = textOf(part, sql).replace(
    /(\bPRIMARY KEY \(.*\)) USING HASH(?: WITH \(bucket_count ?= ?\d+\))?$/is,
    '$1',
  )
  const as = part.find((token, at) => isWord(token, 'as') && part[at + 1]?.text === '(')
  if (!as || part.some((token) => isWord(token, 'generated'))) return text
  return `${sql.slice(part[0]?.start, as.start)}GENERATED ALWAYS ${sql.slice(as.start, part.at(-1)?.end)}`.replace(
    / virtual$/i,
    ' STORED',
  )
}

/**
 * Gives a column a new id after an ALTER COLUMN TYPE that rewrites the table. Constraints then refer to the new id
 * (#174715).
 */
async function noteColumnIds({ tokens, sql }: Statement, context: RuleContext): Promise<void> {
  const at = tokens.findIndex(({ value, kind }, index) => kind === 'word' && value === 'type' && index > 3)
  if (tokens[0]?.value !== 'alter' || tokens[1]?.value !== 'table' || at < 0) return
  const column = tokens[tokens[at - 1]?.value === 'data' ? at - 3 : at - 1]?.value
  const table = await resolveTable(nameAfter(tokens, sql, 'table') ?? '', context)
  await context.admin(
    `INSERT INTO _crdb.column_ids SELECT $1, attnum, 100 + attnum FROM pg_catalog.pg_attribute
      WHERE attrelid = $1 AND attname = $2 ON CONFLICT DO NOTHING`,
    [table.oid, column],
  )
}

/** Rewords an error as CockroachDB would. An error from validating rows includes the row's values. */
async function wording(error: unknown, { tokens, sql }: Statement, context: RuleContext): Promise<unknown> {
  if (!(error instanceof pg.DatabaseError)) return error
  const code = error.code ?? 'XXUUU'
  if (code === '23505') {
    const detail = error.detail?.replace('is duplicated', 'already exists')
    return new SqlError(code, `duplicate key value violates unique constraint "${error.constraint ?? ''}"`, {
      ...(detail && { detail }),
    })
  }
  if (code === '23503') {
    const [, keys = '', values = '', parent = ''] =
      /Key \((.*?)\)=\((.*)\) is not present in table "(.*)"/.exec(error.detail ?? '') ?? []
    const row = keys.split(', ').map((key, at) => `${key}=${values.split(', ')[at]}`)
    return new SqlError(
      code,
      `foreign key violation: "${error.table ?? ''}" row ${row.join(', ')} has no match in "${parent}"`,
    )
  }
  if (code === '23514') {
    const table = await resolveTable(nameAfter(tokens, sql, 'table') ?? '', context)
    return new SqlError(code, await checkViolation(table, error.constraint ?? '', checkText(tokens, sql), context))
  }
  return new SqlError(code, error.message, { ...(error.detail && { detail: error.detail }) })
}

/** The condition of `CHECK (…)`; undefined if the statement has none. */
function checkText(tokens: readonly Token[], sql: string): string | undefined {
  const at = tokens.findIndex(({ kind, value }) => kind === 'word' && value === 'check')
  if (at < 0) return undefined
  return sql.slice(tokens[at + 1]?.end, tokens[closing(tokens, at + 1)]?.start)
}

async function checkViolation(table: FoundTable, name: string, written: string | undefined, context: RuleContext) {
  const [stored] = await context.admin<{ condition: string }>(
    'SELECT pg_catalog.pg_get_expr(conbin, conrelid) AS condition FROM pg_catalog.pg_constraint WHERE conrelid = $1 AND conname = $2',
    [table.oid, name],
  )
  const condition = (written ?? stored?.condition ?? 'true').replaceAll(':::', '::')
  const [bad] = await context.admin<{ row: Record<string, unknown> }>(
    `SELECT to_json(t) AS row FROM ${quoteName(table.schema)}.${quoteName(table.name)} t WHERE NOT (${condition}) LIMIT 1`,
  )
  const row = Object.entries(bad?.row ?? {}).map(
    ([key, value]) => `${key}=${typeof value === 'string' ? `'${value}'` : value}`,
  )
  return `validation of CHECK "${condition}" failed on row: ${row.join(', ')}`
}
