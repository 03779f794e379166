import type { Catalog, Comment, SchemaObject } from '../model/catalog.ts'
import { convertConstraints } from './constraints.ts'
import type { Decisions } from './decisions.ts'
import { convertIndexes } from './indexes.ts'
import type { Version } from './rules.ts'
import { convertTables } from './tables.ts'
import { type Conversion, Work } from './work.ts'

/** The rule for each kind of object that needs manual work. Other kinds get the rule `object.unknown`. */
const RULE_OF_KIND: Record<string, string> = {
  view: 'view',
  'materialized view': 'materialized-view',
  function: 'function',
  procedure: 'procedure',
  aggregate: 'aggregate',
  'window function': 'aggregate',
  trigger: 'trigger',
  'event trigger': 'event-trigger',
  rule: 'rule',
  policy: 'policy',
  extension: 'extension',
  statistics: 'statistics',
  collation: 'collation',
  grant: 'grant',
  'default privileges': 'grant',
  cast: 'cast',
  publication: 'replication',
  subscription: 'replication',
  setting: 'setting',
}

/**
 * An object's name in the report. Database-level objects have no schema, and names of unknown kinds already include it.
 */
function objectName(work: Work, { kind, name, table }: Pick<SchemaObject, 'kind' | 'name' | 'table'>): string {
  if (kind === 'grant') return `grant on ${name}`
  if (
    /^(extension|event trigger|default privileges|cast|publication|subscription|setting)$/.test(kind) ||
    !RULE_OF_KIND[kind]
  )
    return `${kind} ${name}`
  return work.name(kind, ...(table ? [table] : []), name)
}

/** Whether a comment is lost because its object is not created on the target. The only types created are enums. */
function isLost(work: Work, { on, name, of }: Comment, tables: ReadonlySet<string>): boolean {
  if (on === 'type') return work.types.get(`${work.schema}.${name}`)?.kind !== 'enum'
  if (on === 'table' || on === 'column') return !tables.has(name)
  if (on === 'index' || on === 'constraint') return of !== null && !tables.has(of)
  return on !== 'schema'
}

/** Converts a schema to CockroachDB's syntax, with a finding for every object. The result is deterministic. */
export function convert(catalog: Catalog, target: Version, decisions: Decisions = { version: 1 }): Conversion {
  const work = new Work(catalog, target, decisions)
  convertTables(work)
  const tables = new Set(
    catalog.tables.filter((each) => each.kind !== 'foreign' && !each.isPartition).map((each) => each.name),
  )
  convertIndexes(work, tables)
  convertConstraints(work, tables)
  for (const { kind, name, table, definition } of catalog.objects)
    work.leave(RULE_OF_KIND[kind] ?? 'object.unknown', objectName(work, { kind, name, table }), definition)
  for (const owner of new Set(catalog.tables.map((each) => each.owner))) work.found('owner', `owner ${owner}`)
  for (const each of catalog.comments)
    if (isLost(work, each, tables))
      work.found('comment.lost', work.name(each.on, each.name, ...(each.on === 'column' && each.of ? [each.of] : [])))
  if (!/^(C|POSIX)(\.|$)/i.test(catalog.collation)) work.found('text.order', `database collation ${catalog.collation}`)
  return work.result
}
