import { readFileSync } from 'node:fs'
import { parseDocument } from 'yaml'
import * as z from 'zod'
import type { Catalog, Index } from '../model/catalog.ts'
import { readIndex } from '../model/expression.ts'
import { own } from '../model/records.ts'

const sql = z.string().min(1)
const reason = z.string().min(3).describe('Why; shown in the report.')
const buckets = z.int().min(2).max(2048)

const column = z.strictObject({
  type: sql.optional().describe('CockroachDB type, such as DECIMAL(19,4).'),
  collation: z.string().optional().describe('Locale, such as de-u-ks-level2. An empty string means no collation.'),
  default: z.union([sql, z.null()]).optional().describe('CockroachDB expression; null removes the default.'),
  generated: z
    .union([sql, z.null()])
    .optional()
    .describe('CockroachDB expression for a generated column; null makes it a plain column.'),
  serial: z
    .enum(['sequence', 'unique-rowid', 'uuid'])
    .optional()
    .describe(
      'How new values are generated for a serial column. `unique-rowid` requires an 8-byte column, `uuid` a uuid column.',
    ),
})

const index = z.strictObject({
  drop: reason.optional(),
  name: z.string().min(1).optional(),
  hash: z.union([z.boolean(), buckets]).optional().describe('Hash sharding; a number sets the number of buckets.'),
  storing: z.array(z.string()).optional().describe('Columns for the STORING clause.'),
  sql: sql.optional().describe('The full CREATE INDEX in CockroachDB’s syntax.'),
})

const constraint = z.strictObject({
  drop: reason.optional(),
  name: z.string().min(1).optional(),
  check: sql.optional().describe('The condition of a CHECK in CockroachDB’s syntax.'),
})

const table = z.strictObject({
  key: z.array(z.string()).min(1).optional().describe('Primary key columns. MOLT requires the same key on the source.'),
  hash: z
    .union([z.boolean(), buckets])
    .optional()
    .describe('Hash sharding of the primary key; a number sets the number of buckets.'),
  columns: z.record(z.string(), column).optional(),
  indexes: z.record(z.string(), index).optional(),
  constraints: z.record(z.string(), constraint).optional(),
})

/** convert.yml: a team's decisions that override the rules. */
export const decisions = z.strictObject({
  version: z.literal(1),
  types: z
    .record(z.string(), sql)
    .optional()
    .describe('Maps the name of a source type to a CockroachDB type, such as money: DECIMAL(19,4).'),
  rules: z
    .strictObject({
      'key.hotspot': z.enum(['keep', 'hash']).optional().describe('`hash` shards every sequential primary key.'),
      'key.serial': z
        .enum(['sequence', 'unique-rowid'])
        .optional()
        .describe('`unique-rowid` replaces the sequence of every 8-byte serial column.'),
      'index.brin': z.enum(['drop', 'btree']).optional(),
    })
    .optional()
    .describe('Settings that apply a rule to the whole schema.'),
  tables: z.record(z.string(), table).optional(),
})

export type Decisions = z.infer<typeof decisions>
export type TableDecision = z.infer<typeof table>

export function tableDecision({ tables }: Decisions, name: string): TableDecision {
  return own(tables, name) ?? {}
}

const PARTS = { columns: 'column', indexes: 'index', constraints: 'constraint' }

/** Mistakes in convert.yml, one per line. */
export type Problems = string[]

/** Returns text that suggests a known name for a misspelled one, or an empty string. */
export type Suggest = (name: string, known: readonly string[]) => string

/** Reads convert.yml. The file must exist. */
export function readDecisions(path: string, suggest: Suggest): { decisions: Decisions; problems: Problems } {
  const document = parseDocument(readFileSync(path, 'utf8'))
  if (document.errors[0])
    return { decisions: { version: 1 }, problems: [document.errors[0].message.split('\n')[0] as string] }
  const parsed = decisions.safeParse(document.toJS() ?? {})
  if (parsed.success) return { decisions: parsed.data, problems: [] }
  return { decisions: { version: 1 }, problems: parsed.error.issues.flatMap((issue) => explain(issue, suggest)) }
}

function explain(issue: z.core.$ZodIssue, suggest: Suggest): Problems {
  const at = issue.path.join('.')
  if (issue.code !== 'unrecognized_keys') return [`${at || 'the file'}: ${issue.message}`]
  const known = keysAt(issue.path)
  return issue.keys.map((key) => `${at ? `${at}.` : ''}${key} is not a known key${suggest(key, known)}`)
}

/** The keys allowed at a path. A record accepts any key, so the path continues with the schema of its values. */
function keysAt(path: readonly PropertyKey[]): string[] {
  let schema: unknown = decisions
  for (const key of path) {
    const inner = unwrap(schema)
    schema =
      inner instanceof z.ZodRecord
        ? inner.valueType
        : inner instanceof z.ZodObject
          ? inner.shape[String(key)]
          : undefined
  }
  const found = unwrap(schema)
  return found instanceof z.ZodObject ? Object.keys(found.shape) : []
}

function unwrap(schema: unknown): unknown {
  return schema instanceof z.ZodOptional ? unwrap(schema.unwrap()) : schema
}

/** Lists names in convert.yml that the database's schema does not have, and decisions that cannot be applied. */
export function unknownNames(found: Decisions, catalog: Catalog, suggest: Suggest): Problems {
  const tables = new Map(catalog.tables.map((each) => [each.name, each]))
  return Object.entries(found.tables ?? {}).flatMap(([name, decision]) => {
    const there = tables.get(name)
    if (!there) return [`tables.${name}: the schema has no such table${suggest(name, [...tables.keys()])}`]
    const known = {
      columns: there.columns.map((each) => each.name),
      indexes: catalog.indexes.filter((each) => each.table === name).map((each) => each.name),
      constraints: catalog.constraints.filter((each) => each.table === name).map((each) => each.name),
    }
    const unknown = (['columns', 'indexes', 'constraints'] as const).flatMap((part) =>
      Object.keys(decision[part] ?? {})
        .filter((each) => !known[part].includes(each))
        .map(
          (each) => `tables.${name}.${part}.${each}: the table has no such ${PARTS[part]}${suggest(each, known[part])}`,
        ),
    )
    const key = (decision.key ?? []).filter((each) => !known.columns.includes(each))
    return [
      ...unknown,
      ...key.map((each) => `tables.${name}.key: ${each} is not a column${suggest(each, known.columns)}`),
      ...constraintProblems(name, decision, catalog),
      ...indexProblems(name, found.tables ?? {}, catalog, (each) => suggest(each, known.columns)),
    ]
  })
}

/** Lists decisions that have no effect. */
function constraintProblems(table: string, { indexes, constraints }: TableDecision, catalog: Catalog): Problems {
  return catalog.constraints.flatMap(({ schema, table: of, name, kind }) => {
    if (schema !== catalog.schema || of !== table) return []
    if (kind === 'primary key' && (own(indexes, name) ?? own(constraints, name)))
      return `tables.${table}: ${name} is the primary key. Set the table's \`key\` and \`hash\` instead`
    if (kind !== 'check' && own(constraints, name)?.check !== undefined)
      return `tables.${table}.constraints.${name}.check: it is not a CHECK constraint`
    return []
  })
}

/**
 * Checks decisions about indexes. Indexes are built after the load, when it is too late to correct the file, and the
 * ledger identifies each by its name.
 */
function indexProblems(
  table: string,
  tables: Record<string, TableDecision>,
  catalog: Catalog,
  suggestColumn: (name: string) => string,
): Problems {
  const { indexes = {} } = own(tables, table) ?? {}
  const columns = new Set(catalog.tables.find((each) => each.name === table)?.columns.map((each) => each.name))
  const there = catalog.indexes.filter((each) => each.table === table)
  const found = Object.entries(indexes).flatMap(([index, { sql, storing = [], name = index }]) => {
    const at = `tables.${table}.indexes.${index}`
    const made = sql === undefined ? undefined : readIndex(sql)
    const unknown = storing.filter((each) => !columns.has(each))
    return [
      ...unknown.map((each) => `${at}.storing: ${each} is not a column${suggestColumn(each)}`),
      ...(sql !== undefined && (made?.name !== name || made.table !== table)
        ? [`${at}.sql: must create the index ${name} of ${table}, under this name`]
        : []),
    ]
  })
  const names = there.map((each) => own(indexes, each.name)?.name ?? each.name)
  const twice = [...new Set(names.filter((each, at) => names.indexOf(each) !== at))]
  return [
    ...found,
    ...twice.map((each) => `tables.${table}.indexes: two indexes would be named ${each}`),
    ...there.filter((each) => isDropped(each, tables)).flatMap((each) => neededBy(each, catalog, tables)),
  ]
}

function isDropped({ table, name }: Pick<Index, 'table' | 'name'>, tables: Record<string, TableDecision>): boolean {
  const { indexes, constraints } = own(tables, table) ?? {}
  return (own(indexes, name) ?? own(constraints, name))?.drop !== undefined
}

/** Lists dropped unique indexes that a foreign key needs. */
function neededBy(index: Index, catalog: Catalog, tables: Record<string, TableDecision>): Problems {
  const keyOf = (columns: readonly (string | null)[]) => JSON.stringify(columns.toSorted())
  const keyed = (each: Index) => keyOf(each.columns.map(({ column }) => column))
  const isLeft = catalog.indexes.some(
    (each) => each.table === index.table && each.unique && keyed(each) === keyed(index) && !isDropped(each, tables),
  )
  if (!index.unique || isLeft) return []
  const needing = catalog.constraints.filter(
    (each) =>
      each.references?.schema === catalog.schema &&
      each.references.table === index.table &&
      keyOf(each.references.columns) === keyed(index) &&
      !isDropped(each, tables),
  )
  return needing.map(
    ({ table, name }) =>
      `tables.${index.table}: ${index.name} cannot be dropped: the foreign key ${name} of ${table} needs it`,
  )
}

/** JSON Schema of convert.yml, for editors. */
export function decisionsSchema(): string {
  const schema = z.toJSONSchema(decisions, { target: 'draft-2020-12' })
  return `${JSON.stringify({ ...schema, title: 'molt-actions convert.yml' }, null, 2)}\n`
}
