import { readFileSync } from 'node:fs'
import { parseDocument } from 'yaml'
import * as z from 'zod'
import type { Catalog } from '../model/catalog.ts'
import { own } from '../model/records.ts'

const sql = z.string().min(1)
const reason = z.string().min(3).describe('Why; shown in the report.')
const buckets = z.int().min(2).max(2048)

const column = z.strictObject({
  type: sql.optional().describe('CockroachDB type, as in DECIMAL(19,4).'),
  collation: z.string().optional().describe('Locale, as in de-u-ks-level2; empty for none.'),
  default: z.union([sql, z.null()]).optional().describe('CockroachDB expression; null for no default.'),
  generated: z
    .union([sql, z.null()])
    .optional()
    .describe('CockroachDB expression of a generated column; null for a plain one.'),
  serial: z
    .enum(['sequence', 'unique-rowid', 'uuid'])
    .optional()
    .describe('How a column that a sequence feeds is numbered. `unique-rowid` needs 8 bytes, `uuid` a uuid column.'),
})

const index = z.strictObject({
  drop: reason.optional(),
  name: z.string().min(1).optional(),
  hash: z.union([z.boolean(), buckets]).optional().describe('Sharding; a number sets the buckets.'),
  storing: z.array(z.string()).optional().describe('Columns to store beside the key.'),
  sql: sql.optional().describe('The full CREATE INDEX in CockroachDB’s syntax.'),
})

const constraint = z.strictObject({
  drop: reason.optional(),
  name: z.string().min(1).optional(),
  check: sql.optional().describe('The condition of a CHECK in CockroachDB’s syntax.'),
})

const table = z.strictObject({
  key: z.array(z.string()).min(1).optional().describe('Primary key columns; MOLT needs the same key on the source.'),
  hash: z.union([z.boolean(), buckets]).optional().describe('Sharding of the primary key; a number sets the buckets.'),
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
    .describe('CockroachDB types by the source’s type name, as in money: DECIMAL(19,4).'),
  rules: z
    .strictObject({
      'key.hotspot': z.enum(['keep', 'hash']).optional().describe('`hash` shards every sequential key.'),
      'key.serial': z
        .enum(['sequence', 'unique-rowid'])
        .optional()
        .describe('`unique-rowid` numbers every 8-byte serial column without its sequence.'),
      'index.brin': z.enum(['drop', 'btree']).optional(),
    })
    .optional()
    .describe('Settings of a rule for the whole schema.'),
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

/** Suggests a known name for a misspelled one. */
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

/** The keys allowed at a path. In a record, every name leads to the schema of its values. */
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

/** Lists names in convert.yml that do not exist in the database's schema. */
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
    ]
  })
}

/** JSON Schema of convert.yml, for editors. */
export function decisionsSchema(): string {
  const schema = z.toJSONSchema(decisions, { target: 'draft-2020-12' })
  return `${JSON.stringify({ ...schema, title: 'molt-actions convert.yml' }, null, 2)}\n`
}
