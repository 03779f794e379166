import type { ColumnDetail, Constraint, SchemaColumn, SchemaTable } from '../model/schema.ts'
import { ident, qualified } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import { type Check, cockroachSince, type Hit, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { nameOf } from './rights.ts'
import {
  EXTENSION_SUPPORT,
  INDEX_METHODS,
  isOf,
  type Since,
  TRIGGERS_SINCE,
  TYPE_SUPPORT,
  type TypeSupport,
} from './support.ts'
import { expectedTables } from './tables.ts'

/** Whether the target is a CockroachDB version without this feature. Always false for PostgreSQL in a rehearsal. */
const lacking = (facts: Facts, since: Since) =>
  facts.target.server.isCockroach && !(since && cockroachSince(facts, ...since))

function typeCheck(entry: TypeSupport): Check {
  return {
    id: `typ.${entry.name}`,
    severity: 'block',
    title: entry.title,
    protects: entry.consequence,
    fix: entry.instead,
    *find(facts) {
      if (!facts.target.server.isCockroach || !(entry.unmoved || lacking(facts, entry.since))) return
      for (const { table, column } of details(facts, (detail) => isOf(entry, detail)))
        yield {
          object: `${nameOf(table)}.${column.name}`,
          what: `${nameOf(table)}.${column.name} is ${column.type}`,
          names: { table: qualified(table.schema, table.name), column: ident(column.name) },
        }
    },
  }
}

type Typed = { table: SchemaTable; column: SchemaColumn; detail: ColumnDetail }

/** Columns grouped by type, so that a check looks at a few dozen types instead of 100,000 columns. */
const columnsByType = once((facts: Facts): Typed[][] => {
  // All columns of a type share one detail object.
  const found = new Map<ColumnDetail, Typed[]>()
  for (const table of expectedTables(facts))
    for (const column of table.columns) {
      const { detail } = column
      if (!detail) continue
      const group = found.get(detail)
      const typed = { table, column, detail }
      if (group) group.push(typed)
      else found.set(detail, [typed])
    }
  return [...found.values()]
})

function* details(facts: Facts, ofType: (detail: ColumnDetail) => boolean = () => true): Iterable<Typed> {
  for (const group of columnsByType(facts)) if (group[0] && ofType(group[0].detail)) yield* group
}

function* constraints(facts: Facts, test: (each: Constraint) => boolean): Iterable<Constraint> {
  const expected = new Set(facts.settings.tables)
  for (const each of facts.source.schema.constraints)
    if (each.schema === facts.settings.schema && expected.has(each.table) && test(each)) yield each
}

const constraintHit = (each: Constraint, what: string): Hit => ({
  object: `${each.schema}.${each.table}.${each.name}`,
  what: `${each.name} of ${each.schema}.${each.table} ${what}`,
  names: { table: qualified(each.schema, each.table), name: ident(each.name) },
})

function* sampled(
  facts: Facts,
  what: Facts['source']['samples']['found'][number]['what'],
  words: string,
): Iterable<Hit> {
  const { samples, oddDates, schema } = facts.source
  const expected = new Set(facts.settings.tables)
  const seen = new Map(
    samples.found
      .filter((each) => each.what === what)
      .map((each) => [`${each.table}.${each.column}`, `in the first ${number(samples.rowsPerTable)} rows`]),
  )
  for (const each of oddDates)
    if ((what === 'infinity' && each.infinity) || (what === 'bc' && each.bc))
      if (!seen.has(each.column) && expected.has(each.column.slice(0, each.column.indexOf('.'))))
        seen.set(each.column, "in ANALYZE's sample")
  for (const [column, where] of seen)
    yield {
      object: `${schema.name}.${column}`,
      what: `${schema.name}.${column} contains ${words} (seen ${where}; this is a sample, so other columns may too)`,
      names: { column: `${schema.name}.${column}` },
    }
}

/** Bytes; CockroachDB's default for sql.conn.max_read_buffer_message_size. */
const LARGEST_ROW = 16 * 2 ** 20

/** Checks for types, data and features that CockroachDB lacks or handles differently. */
export const typeChecks: readonly Check[] = [
  ...TYPE_SUPPORT.map(typeCheck),
  {
    id: 'typ.mixed-case',
    severity: 'warn',
    title: 'User-defined types have lower-case names',
    protects: 'MOLT looks up a type by its lower-case name, so it does not find a type whose name needs quotes.',
    fix: 'ALTER TYPE {type} RENAME TO {lower};',
    *find(facts) {
      for (const { table, column, detail } of details(facts))
        if (detail.typeSchema !== 'pg_catalog' && detail.typeName !== detail.typeName.toLowerCase())
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `${nameOf(table)}.${column.name} is of the type ${detail.typeSchema}.${detail.typeName}`,
            names: {
              type: qualified(detail.typeSchema, detail.typeName),
              lower: ident(detail.typeName.toLowerCase()),
            },
          }
    },
  },
  {
    id: 'typ.enum-array',
    severity: 'warn',
    title: 'Arrays of enums',
    protects: 'Builds of molt have failed on arrays of user-defined types ("array element OID not registered").',
    fix: 'Rehearse the load of {column}; if it fails, use text[] on both sides.',
    *find(facts) {
      for (const { table, column, detail } of details(facts))
        if (detail.array && detail.kind === 'e')
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `${nameOf(table)}.${column.name} is ${column.type}`,
            names: { column: `${nameOf(table)}.${column.name}` },
          }
    },
  },
  {
    id: 'typ.json',
    severity: 'info',
    title: 'json becomes jsonb',
    protects: 'CockroachDB stores json as jsonb: white space, key order and duplicate keys are lost.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text; -- where the text itself matters',
    *find(facts) {
      for (const { table, column, detail } of details(facts))
        if (facts.target.server.isCockroach && detail.typeName === 'json')
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `${nameOf(table)}.${column.name} is json`,
            names: { table: qualified(table.schema, table.name), column: ident(column.name) },
          }
    },
  },
  {
    id: 'typ.collation',
    severity: 'warn',
    title: 'Columns with an explicit collation',
    protects:
      'Text sorts and compares differently on the target. CockroachDB names collations differently and has no nondeterministic ones.',
    fix: 'For {column}, use COLLATE with a name that SELECT collname FROM pg_collation lists on the target',
    *find(facts) {
      for (const { table, column, detail } of details(facts))
        if (detail.collation && !table.key.includes(column.name))
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `${nameOf(table)}.${column.name} has the collation ${detail.collation}`,
            names: { column: `${nameOf(table)}.${column.name}` },
          }
    },
  },
  {
    id: 'typ.key-collation',
    severity: 'warn',
    title: 'Key columns with an explicit collation',
    protects:
      'molt verify reads both sides in key order. If the orders differ, it skips the table or wrongly reports rows as missing.',
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} TYPE text COLLATE "C"; -- and the same on the target',
    *find(facts) {
      for (const { table, column, detail } of details(facts))
        if (detail.collation && table.key.includes(column.name))
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `the key column ${nameOf(table)}.${column.name} has the collation ${detail.collation}`,
            names: { table: qualified(table.schema, table.name), column: ident(column.name) },
          }
    },
  },
  {
    id: 'typ.exclude',
    severity: 'warn',
    title: 'EXCLUDE constraints',
    protects:
      'CockroachDB has no EXCLUDE constraints, so after the switch it accepts rows that the constraint forbids.',
    fix: 'Enforce {name} of {table} in the application, or in a trigger on the target.',
    *find(facts) {
      if (!facts.target.server.isCockroach) return
      for (const each of constraints(facts, ({ kind }) => kind === 'x'))
        yield constraintHit(each, 'is an EXCLUDE constraint')
    },
  },
  {
    id: 'typ.deferrable',
    severity: 'warn',
    title: 'Deferrable constraints',
    protects: 'CockroachDB checks every constraint immediately. Transactions that violate one temporarily fail.',
    fix: 'ALTER TABLE {table} ALTER CONSTRAINT {name} NOT DEFERRABLE; -- and order the writes in the application',
    *find(facts) {
      if (!facts.target.server.isCockroach) return
      for (const each of constraints(facts, ({ deferrable }) => deferrable)) yield constraintHit(each, 'is DEFERRABLE')
    },
  },
  {
    id: 'typ.identity-always',
    severity: 'info',
    title: 'GENERATED ALWAYS AS IDENTITY on the source',
    protects:
      "On the target, the column must be BY DEFAULT until the switch, because ALWAYS refuses the stream's values.",
    fix: 'ALTER TABLE {table} ALTER COLUMN {column} SET GENERATED BY DEFAULT; -- on the target',
    *find(facts) {
      const there = new Map(
        facts.target.schema.tables.map(({ name, columns }) => [name, columns.map((each) => each.name)]),
      )
      // `tgt.identity-always` covers columns that exist on the target.
      for (const table of expectedTables(facts))
        for (const column of table.columns)
          if (column.identityAlways && !there.get(table.name)?.includes(column.name))
            yield {
              object: `${nameOf(table)}.${column.name}`,
              what: `${nameOf(table)}.${column.name} is GENERATED ALWAYS AS IDENTITY`,
              names: { table: qualified(facts.settings.targetSchema, table.name), column: ident(column.name) },
            }
    },
  },
  {
    id: 'dat.array',
    severity: 'block',
    title: 'Arrays have one dimension',
    protects: 'CockroachDB has only one-dimensional arrays: {{1,2},{3,4}} silently becomes {1,2,3,4}.',
    fix: 'Store {column} as jsonb, with to_jsonb.',
    find: (facts) => sampled(facts, 'multi-dimensional', 'multidimensional arrays'),
  },
  {
    id: 'dat.infinity',
    severity: 'warn',
    title: 'No infinity in dates',
    protects:
      "CockroachDB turns infinity in a timestamp into its largest value, so queries for 'infinity' find nothing, and molt before 1.1.3 fails on it.",
    fix: 'Replace infinity in {column} with NULL or a date in the far future.',
    find: (facts) => sampled(facts, 'infinity', 'infinity'),
  },
  {
    id: 'dat.bc',
    severity: 'warn',
    title: 'No BC dates',
    protects: 'Programs write BC dates differently, so the year may change during the migration.',
    fix: 'Rehearse with {column} and verify the table in full.',
    find: (facts) => sampled(facts, 'bc', 'dates BC'),
  },
  {
    id: 'dat.nul',
    severity: 'block',
    title: 'No NUL in json',
    protects: 'json allows \\u0000, but jsonb does not, so the row cannot be loaded.',
    fix: "Remove every '\\u0000' from {column}.",
    find: (facts) => (facts.target.server.isCockroach ? sampled(facts, 'nul', '\\u0000') : []),
  },
  {
    id: 'dat.large-row',
    severity: 'block',
    title: 'No row is larger than 16 MiB',
    protects:
      'CockroachDB refuses messages over 16 MiB unless sql.conn.max_read_buffer_message_size is raised. The load or the stream fails at such a row.',
    fix: 'Move the long values of {table} out of the rows, or raise sql.conn.max_read_buffer_message_size on the target and rehearse with these rows.',
    *find({ source: { samples }, settings }) {
      for (const { table, bytes } of samples.largest)
        if (bytes > LARGEST_ROW)
          yield {
            object: `${settings.schema}.${table}`,
            what: `the largest row of ${settings.schema}.${table} is ${number(bytes / 2 ** 20)} MiB`,
            names: { table: `${settings.schema}.${table}` },
          }
    },
  },
  {
    id: 'use.trigger',
    severity: 'warn',
    title: 'Triggers on the source',
    protects:
      'The stream includes what triggers on the source write, so triggers must not run on the target before the switch. After the switch, they are missing unless you create them. CockroachDB has had row triggers since 24.3.',
    fix: 'Create {name} on the target after the switch, or move its logic into the application.',
    *find(facts) {
      for (const each of programs(facts, 'trigger'))
        yield {
          object: `${facts.settings.schema}.${each.table}.${each.name}`,
          what: `${facts.settings.schema}.${each.table} has the trigger ${each.name}${lacking(facts, TRIGGERS_SINCE) ? ', and this CockroachDB version has no triggers' : ''}`,
          names: { name: each.name },
        }
    },
  },
  {
    id: 'use.rule',
    severity: 'warn',
    title: 'Rules on the source',
    protects: 'CockroachDB has no rules, so after the switch, writes are no longer rewritten.',
    fix: 'Move what {name} does into a trigger or the application.',
    *find(facts) {
      for (const each of programs(facts, 'rule'))
        if (facts.target.server.isCockroach)
          yield {
            object: `${facts.settings.schema}.${each.table}.${each.name}`,
            what: `${facts.settings.schema}.${each.table} has the rule ${each.name}`,
            names: { name: each.name },
          }
    },
  },
  {
    id: 'use.listen',
    severity: 'warn',
    title: 'LISTEN and NOTIFY',
    protects: 'CockroachDB has neither, so no notifications arrive after the switch.',
    fix: 'Move {what} to a changefeed or a queue.',
    find: (facts) => uses(facts, facts.source.statements?.listens ?? false, 'LISTEN or NOTIFY', /notify/i),
  },
  {
    id: 'use.advisory-lock',
    severity: 'warn',
    title: 'Advisory locks',
    protects:
      'Advisory locks have no effect in CockroachDB, so work that they serialize on the source runs concurrently after the switch.',
    fix: 'Replace {what} with a row that represents the lock, and read it with SELECT FOR UPDATE.',
    find: (facts) =>
      uses(
        facts,
        (facts.source.statements?.advisoryLocks ?? false) || facts.source.features.advisoryLocks > 0,
        'advisory locks',
        /lock/i,
      ),
  },
  {
    id: 'use.extension',
    severity: 'warn',
    title: 'Extensions without a counterpart in CockroachDB',
    protects: 'Functions, types and operators of the extension are missing after the switch.',
    fix: 'Find what uses {name}, and replace it.',
    *find(facts) {
      for (const { name, version } of facts.source.features.extensions) {
        const known = EXTENSION_SUPPORT[name]
        if (!facts.target.server.isCockroach || (known && !lacking(facts, known.since))) continue
        yield {
          object: name,
          what: `the extension ${name} ${version} is installed${known ? ` (${known.note})` : ''}`,
          names: { name },
        }
      }
    },
  },
  {
    id: 'use.index-method',
    severity: 'info',
    title: 'Indexes other than B-tree and GIN',
    protects: 'These indexes cannot be created unchanged on the target, and queries that depend on them become slow.',
    fix: 'Replace {name}: {instead}.',
    *find(facts) {
      const expected = new Set(facts.settings.tables)
      for (const each of facts.source.schema.indexes) {
        const instead = INDEX_METHODS[each.method]
        if (!facts.target.server.isCockroach || !instead || !expected.has(each.table)) continue
        yield {
          object: `${each.schema}.${each.table}.${each.name}`,
          what: `${each.name} is a ${each.method} index`,
          names: { name: each.name, instead },
        }
      }
    },
  },
  {
    id: 'use.sequential-key',
    severity: 'info',
    title: 'Sequential keys',
    protects: 'All new rows go to the same range, so one node of the cluster handles every insert.',
    fix: 'ALTER TABLE {table} ALTER PRIMARY KEY USING COLUMNS ({columns}) USING HASH; -- on the target, before the load',
    *find(facts) {
      if (!facts.target.server.isCockroach) return
      const fed = new Set(facts.source.schema.sequences.map((each) => `${each.table}.${each.column}`))
      for (const table of expectedTables(facts))
        if (table.key[0] && fed.has(`${table.name}.${table.key[0]}`))
          yield {
            object: nameOf(table),
            what: `the key of ${nameOf(table)} begins with ${table.key[0]}, which is fed by a sequence`,
            names: {
              table: qualified(facts.settings.targetSchema, table.name),
              columns: table.key.map(ident).join(', '),
            },
          }
    },
  },
]

function programs(facts: Facts, kind: string) {
  const expected = new Set(facts.settings.tables)
  return facts.source.programs.filter((each) => each.kind === kind && expected.has(each.table ?? ''))
}

function* uses(facts: Facts, seen: boolean, what: string, names: RegExp): Iterable<Hit> {
  if (!facts.target.server.isCockroach) return
  if (seen) yield { object: 'source', what: `the application uses ${what}`, names: { what } }
  for (const each of facts.source.programs)
    if (each.kind === 'routine' && names.test(each.uses ?? ''))
      yield { object: each.name, what: `the function ${each.name} uses ${what}`, names: { what: each.name } }
}
