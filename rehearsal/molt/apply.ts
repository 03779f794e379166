import pg from 'pg'
import type { Lsn, Relation, Value } from '../../src/source/pgoutput.ts'
import { type Endpoint, errorText, ident, literal, open, rows } from './pg.ts'

/** A database and a schema, as `--targetSchema db.schema` gives them. */
export interface SchemaName {
  database: string
  schema: string
}

/** Parses `db.schema` or `"db"."schema"`. `db` alone means its schema `public`. */
export function parseSchemaName(text: string): SchemaName {
  const parts: string[] = []
  const pattern = /(?:"((?:[^"]|"")*)"|([^."]+))(?:\.|$)/gy
  let end = 0
  for (const match of text.matchAll(pattern)) {
    parts.push(match[1] !== undefined ? match[1].replaceAll('""', '"') : (match[2] as string))
    end = (match.index ?? 0) + match[0].length
  }
  if (end !== text.length || parts.length < 1 || parts.length > 2 || text.endsWith('.'))
    throw new Error(`expected 1 or 2 parts, got ${JSON.stringify(text)}`)
  return { database: parts[0] as string, schema: parts[1] ?? 'public' }
}

/** A row to upsert or delete. */
export interface Mutation {
  delete: boolean
  /** Values of the replica identity's columns. Of two mutations with the same key, the later one wins. */
  key: string[]
  values: Value[]
  relation: Relation
}

/** One source transaction. */
export interface Transaction {
  /** Start of the transaction's commit record; this position is acknowledged. */
  commitLsn: Lsn
  commitTime: number
  /** Keyed by the relation's name in lower case: schema and case are ignored. */
  tables: Map<string, Mutation[]>
}

interface TargetTable {
  name: string
  /** Keyed by name in lower case, because names compare case-insensitively. */
  columns: Map<string, { name: string; generated: boolean }>
  primaryKey: string[]
}

/** The target's tables, ordered by foreign keys, parents first. */
export interface TargetSchema {
  tables: Map<string, TargetTable>
  order: string[]
}

const TABLES = `
  SELECT c.relname AS "table", a.attname AS "column", a.attgenerated <> '' AS generated,
         coalesce(array_position(i.indkey::int2[], a.attnum), -1) AS key_position
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
   ORDER BY 1, a.attnum`

const REFERENCES = `
  SELECT child.relname AS child, parent.relname AS parent
    FROM pg_constraint f
    JOIN pg_class child ON child.oid = f.conrelid
    JOIN pg_class parent ON parent.oid = f.confrelid
    JOIN pg_namespace n ON n.oid = child.relnamespace
   WHERE f.contype = 'f' AND n.nspname = $1 AND child.oid <> parent.oid`

/** Reads the target's tables. The caller caches the result until its next refresh. */
export async function readTargetSchema(client: pg.Client, schema: string): Promise<TargetSchema> {
  const tables = new Map<string, TargetTable>()
  const keyed = new Map<string, [position: number, column: string][]>()
  for (const row of await rows(client, TABLES, [schema])) {
    const name = row.table as string
    const id = name.toLowerCase()
    const table = tables.get(id) ?? { name, columns: new Map(), primaryKey: [] }
    tables.set(id, table)
    const column = row.column as string
    table.columns.set(column.toLowerCase(), { name: column, generated: row.generated === 't' })
    if (row.key_position !== '-1') keyed.set(id, [...(keyed.get(id) ?? []), [Number(row.key_position), column]])
  }
  for (const [id, table] of tables)
    table.primaryKey = (keyed.get(id) ?? []).sort((a, b) => a[0] - b[0]).map(([, column]) => column)
  const references = await rows(client, REFERENCES, [schema])
  const parents = new Map<string, string[]>()
  for (const r of references) {
    const child = (r.child as string).toLowerCase()
    parents.set(child, [...(parents.get(child) ?? []), (r.parent as string).toLowerCase()])
  }
  return { tables, order: parentsFirst([...tables.keys()], parents) }
}

function parentsFirst(names: string[], parents: Map<string, string[]>): string[] {
  const order: string[] = []
  const seen = new Set<string>()
  const visit = (name: string) => {
    if (seen.has(name)) return
    seen.add(name)
    for (const parent of parents.get(name) ?? []) visit(parent)
    order.push(name)
  }
  names.forEach(visit)
  return order
}

/** An error that occurred while applying changes to one table. */
export class ApplyError extends Error {
  readonly table: string

  /** @param where the table's name in messages */
  constructor(table: string, where: string, cause: unknown) {
    super(`${where}: ${errorText(cause)}`, { cause })
    this.table = table
  }
}

/** Result of one statement, for counters and the log. */
export interface Applied {
  table: string
  kind: 'upserted' | 'deleted'
  proposed: number
  affected: number
}

interface Statement {
  table: string
  kind: 'upserted' | 'deleted'
  proposed: number
  sql: string
}

/** Maximum rows and characters of one statement. A table with more changes takes several statements. */
const STATEMENT_ROWS = 1000
const STATEMENT_CHARS = 1_000_000

/**
 * Builds the statements for one source transaction in the real tool's form: table by table, parents first. For each
 * table, they apply only the last change of each key, deletes before upserts, and identify rows by the target's primary
 * key. Throws ApplyError for rows that do not match their table, and any other Error for a missing table.
 */
export function statementsFor(tx: Transaction, schema: TargetSchema, target: SchemaName): Statement[] {
  const statements: Statement[] = []
  const unknown = [...tx.tables.keys()].filter((id) => !schema.tables.has(id))
  if (unknown.length)
    throw new Error(
      `update sent to unknown tables: ${unknown.map((t) => `${target.database}.${target.schema}.${t}`).join(', ')}`,
    )
  for (const id of schema.order) {
    const mutations = tx.tables.get(id)
    if (mutations)
      statements.push(...tableStatements(schema.tables.get(id) as TargetTable, lastByKey(mutations), target))
  }
  return statements
}

/** Merges several source transactions into one with the same result. */
export function merged(round: readonly Transaction[]): Transaction {
  const [first, ...others] = round as [Transaction, ...Transaction[]]
  if (!others.length) return first
  const tables = new Map<string, Mutation[]>()
  for (const tx of round)
    for (const [id, mutations] of tx.tables) {
      const before = tables.get(id)
      if (before) before.push(...mutations)
      else tables.set(id, [...mutations])
    }
  return { ...(others.at(-1) as Transaction), tables }
}

/** Counts for one source transaction that is applied together with others. */
export function proposals(tx: Transaction, schema: TargetSchema): Applied[] {
  return [...tx.tables].flatMap(([id, mutations]) => {
    const last = lastByKey(mutations)
    const deletes = last.filter((m) => m.delete).length
    const table = schema.tables.get(id)?.name ?? id
    const of = (kind: Applied['kind'], rows: number) => ({ table, kind, proposed: rows, affected: rows })
    return [of('deleted', deletes), of('upserted', last.length - deletes)].filter(({ proposed }) => proposed)
  })
}

function lastByKey(mutations: Mutation[]): Mutation[] {
  if (mutations.length === 1) return mutations
  const last = new Map<string, Mutation>()
  for (const mutation of mutations) {
    const key = mutation.key.length ? JSON.stringify(mutation.key) : `none ${last.size}`
    last.delete(key)
    last.set(key, mutation)
  }
  return [...last.values()]
}

function tableStatements(table: TargetTable, mutations: Mutation[], target: SchemaName): Statement[] {
  try {
    const deletes = mutations.filter((m) => m.delete)
    const upserts = mutations.filter((m) => !m.delete)
    return [
      ...inChunks(
        table,
        'deleted',
        deletes.map((m) => deleteTuple(table, m, target)),
        deleteSql(table, target),
      ),
      ...upsertGroups(table, upserts, target),
    ]
  } catch (error) {
    throw new ApplyError(table.name, quotedTable(target, table.name), error)
  }
}

/** `"db"."schema"."table"`, the table's name in messages. */
export function quotedTable(target: SchemaName, table: string): string {
  return [target.database, target.schema, table].map(ident).join('.')
}

function sqlTable(target: SchemaName, table: TargetTable): string {
  return `${ident(target.schema)}.${ident(table.name)}`
}

function deleteTuple(table: TargetTable, mutation: Mutation, target: SchemaName): string {
  const { key, relation } = mutation
  if (key.length !== table.primaryKey.length)
    throw new Error(
      `schema drift detected in ${quotedTable(target, table.name)}: inconsistent number of key columns: ` +
        `received ${key.length} expect ${table.primaryKey.length}: key ${JSON.stringify(key)}@0.0000000000`,
    )
  const names = relation.columns.filter((c) => c.key).map((c) => c.name.toLowerCase())
  const values = table.primaryKey.map((column, i) => key[Math.max(names.indexOf(column.toLowerCase()), 0)] ?? key[i])
  return `(${values.map((v) => literal(v as string)).join(',')})`
}

function deleteSql(table: TargetTable, target: SchemaName) {
  const columns = table.primaryKey.map(ident).join(',')
  return (tuples: string[]) => `DELETE FROM ${sqlTable(target, table)} WHERE (${columns}) IN (${tuples.join(',')})`
}

/** Groups rows by relation version, because a relation can change within a transaction. */
function upsertGroups(table: TargetTable, upserts: Mutation[], target: SchemaName): Statement[] {
  const statements: Statement[] = []
  for (let at = 0; at < upserts.length; ) {
    const relation = (upserts[at] as Mutation).relation
    let end = at + 1
    while (end < upserts.length && upserts[end]?.relation === relation) end++
    const columns = upsertColumns(table, relation, target)
    const tuples = upserts
      .slice(at, end)
      .map((m) => `(${columns.map((c) => literal(m.values[c.index] as string | null)).join(',')})`)
    statements.push(
      ...inChunks(
        table,
        'upserted',
        tuples,
        upsertSql(
          table,
          columns.map((c) => c.name),
          target,
        ),
      ),
    )
    at = end
  }
  return statements
}

/** Maps the source's columns to the target's names. A column on only one side is drift. */
function upsertColumns(table: TargetTable, relation: Relation, target: SchemaName): { name: string; index: number }[] {
  const drift = `schema drift detected in ${quotedTable(target, table.name)} at payload object offset 0`
  const sent = new Set(relation.columns.map((c) => c.name.toLowerCase()))
  if (!table.primaryKey.length) throw new Error(`${drift}: missing PK columns: rowid`)
  const lost = table.primaryKey.filter((c) => !sent.has(c.toLowerCase()))
  if (lost.length) throw new Error(`${drift}: missing PK columns: ${lost.join(', ')}`)
  const unexpected = relation.columns.filter((c) => !table.columns.has(c.name.toLowerCase()))
  if (unexpected.length) throw new Error(`${drift}: unexpected columns: ${unexpected.map((c) => c.name).join(', ')}`)
  const mapped = relation.columns.map((c, index) => ({
    ...(table.columns.get(c.name.toLowerCase()) as { name: string; generated: boolean }),
    index,
  }))
  return mapped.filter((c) => !c.generated)
}

function upsertSql(table: TargetTable, columns: string[], target: SchemaName) {
  const key = new Set(table.primaryKey)
  const data = columns.filter((c) => !key.has(c))
  const update = data.map((c) => `${ident(c)}=excluded.${ident(c)}`).join(',')
  const conflict = data.length
    ? `ON CONFLICT (${table.primaryKey.map(ident).join(',')}) DO UPDATE SET ${update}`
    : 'ON CONFLICT DO NOTHING'
  const head = `INSERT INTO ${sqlTable(target, table)} (${columns.map(ident).join(',')}) VALUES `
  return (tuples: string[]) => `${head}${tuples.join(',')} ${conflict}`
}

function inChunks(
  table: TargetTable,
  kind: Statement['kind'],
  tuples: string[],
  sql: (tuples: string[]) => string,
): Statement[] {
  const statements: Statement[] = []
  let chunk: string[] = []
  let chars = 0
  const flush = () => {
    if (chunk.length) statements.push({ table: table.name, kind, proposed: chunk.length, sql: sql(chunk) })
    chunk = []
    chars = 0
  }
  for (const tuple of tuples) {
    chunk.push(tuple)
    chars += tuple.length
    if (chunk.length >= STATEMENT_ROWS || chars >= STATEMENT_CHARS) flush()
  }
  flush()
  return statements
}

/** Writes transactions to the target over one connection. Connects when needed, and again after a failure. */
export class TargetWriter {
  private readonly endpoint: Endpoint
  private readonly target: SchemaName
  private client: pg.Client | undefined

  constructor(endpoint: Endpoint, target: SchemaName) {
    this.endpoint = endpoint
    this.target = target
  }

  /**
   * Runs the statements as one target transaction, in two round trips. Sends COMMIT only once everything before it is
   * done: if this process dies, a server still executes what it received, and must not commit after the next process
   * has started. Throws ApplyError if the target refuses a statement, and any other Error if it cannot be reached;
   * nothing is written then.
   */
  async write(statements: Statement[]): Promise<Applied[]> {
    this.client ??= await open(this.endpoint)
    const client = this.client
    try {
      const text = ['BEGIN', ...statements.map((s) => s.sql)].join(';\n')
      const results = (await client.query(text)) as unknown as pg.QueryResult[]
      await client.query('COMMIT')
      return statements.map(({ table, kind, proposed }, i) => ({
        table,
        kind,
        proposed,
        affected: results[i + 1]?.rowCount ?? 0,
      }))
    } catch (error) {
      throw await this.recover(client, error, statements)
    }
  }

  private async recover(client: pg.Client, error: unknown, statements: Statement[]): Promise<unknown> {
    const refused = error instanceof pg.DatabaseError && !/^(57P|08)/.test(error.code ?? '')
    try {
      if (!refused) throw error
      await client.query('ROLLBACK')
    } catch {
      this.client = undefined
      client.end().catch(() => {})
    }
    if (!refused) return error
    const table = (error as pg.DatabaseError).table ?? statements[0]?.table ?? ''
    return new ApplyError(table, quotedTable(this.target, table), error)
  }

  async close(): Promise<void> {
    const client = this.client
    this.client = undefined
    await client?.end().catch(() => {})
  }
}
