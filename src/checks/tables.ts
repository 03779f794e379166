import { ident, qualified } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import { type Check, type Hit, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { ARGUMENT_LIMIT } from './facts/source.ts'
import { expectedRelations, nameOf } from './rights.ts'

/** Tables of the schema on the source that are expected, with columns and key. */
export const expectedTables = once(({ source, settings }: Facts) => {
  const expected = new Set(settings.tables)
  return source.schema.tables.filter((table) => expected.has(table.name))
})

const table = (each: { schema: string; name: string }) => ({ table: qualified(each.schema, each.name) })
const ofSchema = ({ source: { relations }, settings }: Facts) =>
  relations.filter((each) => each.schema === settings.schema && !each.partition)

const IDENTITIES: Record<string, string> = { n: 'NOTHING', f: 'FULL', i: 'USING INDEX' }

/** Each table of the source: whether load and stream can carry it, whole and only it. */
export const tableChecks: readonly Check[] = [
  {
    id: 'tbl.no-key',
    severity: 'block',
    title: 'Every table has a primary key',
    protects: 'Without a key neither load nor stream can tell rows apart: the tools leave the table out, or stop.',
    fix: 'Add a primary key to {table} on both sides, or leave it out: `exclude-tables`.',
    *find(facts) {
      for (const each of expectedTables(facts))
        if (!each.key.length)
          yield { object: nameOf(each), what: `${nameOf(each)} has no primary key`, names: table(each) }
    },
  },
  {
    id: 'tbl.replica-identity',
    severity: 'block',
    title: 'Replica identity is the primary key',
    protects:
      'The stream knows rows by the key that the source sends. FULL stops replicator 1.0 at the first DELETE, for ever (seen with 1.0.4); the public sources of October 2024 carry such a DELETE (seen), but no documentation promises that of a release. Another index sends other columns than the target has as its key; NOTHING refuses the DELETE on the source.',
    fix: 'ALTER TABLE {table} REPLICA IDENTITY DEFAULT;',
    *find(facts) {
      for (const each of expectedRelations(facts)) {
        const identity = IDENTITIES[each.identity]
        if (identity && 'rp'.includes(each.kind))
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} has REPLICA IDENTITY ${identity}`,
            names: table(each),
            apply: {
              side: 'source',
              sql: `ALTER TABLE ${qualified(each.schema, each.name)} REPLICA IDENTITY DEFAULT`,
            },
          }
      }
    },
  },
  {
    id: 'tbl.unlogged',
    severity: 'block',
    waivable: false,
    title: 'Tables are logged',
    protects: 'An unlogged table writes no WAL: the stream never sees its changes, and no publication takes it.',
    fix: 'ALTER TABLE {table} SET LOGGED; -- rewrites the table; or leave it out: `exclude-tables`',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.persistence === 'u')
          yield { object: nameOf(each), what: `${nameOf(each)} is unlogged`, names: table(each) }
    },
  },
  {
    id: 'tbl.foreign',
    severity: 'warn',
    title: 'Foreign tables stay behind',
    protects:
      'A foreign table shows data of another server; it is not moved, and CockroachDB has no foreign data wrappers.',
    fix: 'Move its data from the server that holds it, or copy it into a table by CREATE TABLE AS SELECT * FROM {table}.',
    *find(facts) {
      for (const each of ofSchema(facts))
        if (each.kind === 'f')
          yield { object: nameOf(each), what: `${nameOf(each)} is a foreign table`, names: table(each) }
    },
  },
  {
    id: 'tbl.view',
    severity: 'info',
    title: 'Views are not moved',
    protects: 'Views and materialised views are no data: create them on the target from the converted schema.',
    fix: '{fix}',
    *find(facts) {
      for (const each of ofSchema(facts))
        if ('vm'.includes(each.kind) && !each.extension)
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} is a ${each.kind === 'm' ? 'materialised view' : 'view'}`,
            names: {
              fix: facts.target.views.includes(each.name)
                ? `Compare its definition on the target: it is there already.`
                : `Create ${qualified(facts.settings.targetSchema, each.name)} on the target before the switch.`,
            },
          }
    },
  },
  {
    id: 'tbl.inherited',
    severity: 'block',
    title: 'No table inherits from another',
    protects: 'Reading the parent reads the children too: their rows arrive twice.',
    fix: 'End the inheritance of {table} by ALTER TABLE with NO INHERIT, make it a partition, or leave it out: `exclude-tables`.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.inherits)
          yield { object: nameOf(each), what: `${nameOf(each)} inherits from another table`, names: table(each) }
    },
  },
  {
    id: 'tbl.parent',
    severity: 'block',
    title: 'No table has children that stay behind',
    protects:
      'Reading a parent reads its children too: rows of tables that are not moved arrive in it, and every comparison differs.',
    fix: 'ALTER TABLE {child} NO INHERIT {table};',
    *find(facts) {
      const { schema, tables } = facts.settings
      const expected = new Set(tables.map((name) => `${schema}.${name}`))
      // `tbl.inherited` finds a child that is moved.
      for (const each of expectedRelations(facts))
        for (const child of each.children)
          if (!expected.has(child))
            yield {
              object: nameOf(each),
              what: `${child} inherits from ${nameOf(each)}, and is not moved`,
              names: { ...table(each), child },
            }
    },
  },
  {
    id: 'tbl.partitioned',
    severity: 'block',
    title: 'No table is partitioned',
    protects:
      'molt fetch looks for ordinary tables: it finds the partitions, not the table, moves nothing, and says that it is complete. Newer ones are documented to verify such tables (1.4.0), not to load them.',
    fix: 'Leave {table} out: `exclude-tables`; or make it one table by CREATE TABLE with LIKE {table} INCLUDING ALL, and copy the rows. Waive it only where a rehearsal with the same molt has carried it.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.kind === 'p' && !each.partition)
          yield { object: nameOf(each), what: `${nameOf(each)} is partitioned`, names: table(each) }
    },
  },
  {
    id: 'tbl.generated',
    severity: 'block',
    title: 'No column is generated',
    protects:
      'molt fetch writes every column that both sides have, and the target takes no value for one that it computes (42P10): the load ends there.',
    fix: 'Leave the table out: `exclude-tables`; or ALTER TABLE {table} ALTER COLUMN {name} DROP EXPRESSION; -- and let the application write it until the switch. Waive it only where a rehearsal has loaded it, with `--transformations-file` in `extra-args` of the load that excludes {column}.',
    *find(facts) {
      for (const each of expectedTables(facts))
        for (const column of each.columns)
          if (column.generated)
            yield {
              object: `${nameOf(each)}.${column.name}`,
              what: `${nameOf(each)}.${column.name} is GENERATED ALWAYS AS (${column.default ?? '…'})`,
              names: { ...table(each), name: ident(column.name), column: `${nameOf(each)}.${column.name}` },
            }
    },
  },
  {
    id: 'tbl.reserved',
    severity: 'block',
    waivable: false,
    title: "No table has a name of the tools' own",
    protects:
      'molt fetch keeps its runs in tables of these names on the target, and the heartbeat stands there: rows of yours and theirs would be mixed up.',
    fix: 'Leave {table} out: `exclude-tables`; it is most often left over from an earlier load.',
    *find(facts) {
      for (const each of expectedTables(facts))
        if (/^(_molt_|molt_actions_)/.test(each.name))
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} has a name that the tools use for themselves`,
            names: { table: each.name },
          }
    },
  },
  {
    id: 'tbl.odd-name',
    severity: 'block',
    waivable: false,
    title: "No table's name holds quotes, braces, control characters or a command to the runner",
    protects:
      'The tools write names with quotes, in braces, or plainly: what they say of such a table cannot be told, so that its load is refused in the end. In a log of GitHub `::name::` is a command.',
    fix: 'Rename {table}, or leave it out: `exclude-tables`.',
    *find(facts) {
      for (const each of expectedTables(facts))
        if (/["{}\p{Cc}\p{Cf}]|^\s*::|##\[/u.test(each.name))
          yield {
            object: nameOf(each),
            what: `the name ${nameOf(each)} holds quotes, braces, control characters, or begins with ::`,
            names: table(each),
          }
    },
  },
  {
    id: 'tbl.same-name',
    severity: 'block',
    title: 'The publication sends no two tables of one name',
    protects: 'The stream ignores the schema: both end up in the same table on the target, without a word.',
    fix: 'ALTER PUBLICATION {publication} DROP TABLE {table};',
    *find({ source: { publication }, settings }) {
      const expected = new Set(settings.tables)
      for (const each of publication?.tables ?? [])
        if (each.schema !== settings.schema && expected.has(each.table))
          yield {
            object: `${each.schema}.${each.table}`,
            what: `the publication ${settings.publication} sends ${each.schema}.${each.table} beside ${settings.schema}.${each.table}`,
            names: { publication: settings.publication, table: qualified(each.schema, each.table) },
          }
    },
  },
  {
    id: 'tbl.namesake',
    severity: 'info',
    title: 'Other schemas have tables of the same names',
    protects: 'They are not moved; in one publication with the expected tables they would be mixed up with them.',
    fix: 'Keep {others} out of the publication.',
    *find(facts) {
      const expected = new Set(facts.settings.tables)
      for (const each of ofSchema(facts))
        if (expected.has(each.name) && each.namesakes.length)
          yield {
            object: nameOf(each),
            what: `a table ${each.name} is also in ${each.namesakes.join(', ')}`,
            names: { others: each.namesakes.map((schema) => qualified(schema, each.name)).join(', ') },
          }
    },
  },
  {
    id: 'tbl.case',
    severity: 'block',
    waivable: false,
    title: 'No two names differ only in case',
    protects:
      'The replicator folds case: two such tables become one on the target without a word, two such columns stop the stream.',
    fix: 'Rename one of them, or leave one table out: `exclude-tables`. {names}',
    *find(facts) {
      const tables = expectedTables(facts)
      for (const names of twins(tables.map((each) => each.name)))
        yield {
          object: `${facts.settings.schema}.${names[0]}`,
          what: `the tables ${names.join(' and ')} differ only in case`,
          names: { names: names.join(', ') },
        }
      for (const each of tables)
        for (const names of twins(each.columns.map((column) => column.name)))
          yield {
            object: `${nameOf(each)}.${names[0]}`,
            what: `the columns ${names.join(' and ')} of ${nameOf(each)} differ only in case`,
            names: { names: names.join(', ') },
          }
    },
  },
  {
    id: 'tbl.filter',
    severity: 'block',
    waivable: false,
    title: "MOLT's filter matches exactly the expected tables",
    protects:
      'MOLT takes a regular expression: one that matches more loads more, one that matches less leaves rows behind.',
    fix: 'Name the tables one by one in `tables`; the filter is {filter}',
    *find(facts) {
      const { filter, tables } = facts.settings
      const expected = new Set(tables)
      for (const each of ofSchema(facts)) {
        const wanted = expected.has(each.name)
        if (!'rp'.includes(each.kind) || wanted === each.matched) continue
        yield {
          object: nameOf(each),
          what: wanted
            ? `the filter does not match ${nameOf(each)}, which is an expected table`
            : `the filter matches ${nameOf(each)}, which is none of the expected tables`,
          names: { filter },
        }
      }
    },
  },
  {
    id: 'tbl.filter-length',
    severity: 'block',
    waivable: false,
    title: "MOLT's filter fits into a command line",
    protects: 'Linux takes no argument of 128 KiB or more: molt fetch could not be started.',
    fix: 'Move the {count} tables in several migrations, one after the other: name some of them in `tables`',
    *find({ settings }) {
      const bytes = Buffer.byteLength(settings.filter)
      if (bytes >= ARGUMENT_LIMIT)
        yield {
          object: 'source',
          what: `the filter of ${number(settings.tables.length)} names is ${number(bytes / 1024)} KiB long`,
          names: { count: number(settings.tables.length) },
        }
    },
  },
  {
    id: 'tbl.filter-loose',
    severity: 'info',
    title: 'Names in `tables` would match more as MOLT reads them',
    protects:
      "MOLT's own filters are not anchored: by hand, `orders` also loads orders_archive. This action anchors them.",
    fix: 'In a command line of your own write {filter}',
    *find({ source: { schema }, settings }) {
      for (const asked of settings.asked ?? []) {
        const more = schema.tables.filter((each) => each.name.includes(asked) && !settings.tables.includes(each.name))
        if (more.length)
          yield {
            object: `${settings.schema}.${asked}`,
            what: `${asked}, unanchored, also matches ${more.map((each) => each.name).join(', ')}`,
            names: { filter: `'^${asked}$'` },
          }
      }
    },
  },
  {
    id: 'tbl.toast',
    severity: 'block',
    title: 'The replicator carries long values that an UPDATE leaves alone',
    protects:
      'PostgreSQL does not send a long (TOASTed) value that did not change. Replicator 1.0 stops on the first such UPDATE, for ever (seen with 1.0.4). It is known by its version, or by its flag `--enableToastedColumns` where a build tells none.',
    fix: 'Take a newer replicator; or leave {table} out: `exclude-tables`',
    *find(facts) {
      if (facts.machine.tools.replicator?.stopsOnToast) yield* toasted(facts)
    },
  },
  {
    id: 'tbl.toast-unproven',
    severity: 'warn',
    title: 'Long values that an UPDATE leaves alone, with a replicator newer than 1.0',
    protects:
      'PostgreSQL does not send a long (TOASTed) value that did not change. Replicator 1.0 stops on it. The public sources of October 2024 read it from the target instead (seen: such rows were equal afterwards); no documentation says so of a release.',
    fix: 'Rehearse an UPDATE of {table} that leaves the long column alone, and verify the table in full before the cutover.',
    *find(facts) {
      if (!facts.machine.tools.replicator?.stopsOnToast) yield* toasted(facts)
    },
  },
  {
    id: 'tbl.large-objects',
    severity: 'warn',
    title: 'No large objects',
    protects: 'Large objects live outside the tables: the tools move the number that names one, and not its bytes.',
    fix: 'Move the bytes of {table} into a bytea column first, by lo_get.',
    *find(facts) {
      if (!facts.source.features.largeObjects) return
      const count = facts.source.features.largeObjects
      const many = `${count >= 1000 ? '1,000 or more' : count} large objects`
      const columns = expectedTables(facts).flatMap((each) =>
        each.columns.filter((column) => /^(oid|lo)$/.test(column.type)).map((column) => ({ each, column })),
      )
      for (const { each, column } of columns)
        yield {
          object: `${nameOf(each)}.${column.name}`,
          what: `the database holds ${many}, and ${nameOf(each)}.${column.name} can name them`,
          names: table(each),
        }
      if (!columns.length) yield { object: 'source', what: `the database holds ${many}`, names: { table: '…' } }
    },
  },
  {
    id: 'tbl.foreign-key-invalid',
    severity: 'warn',
    title: 'Foreign keys of the source are valid',
    protects: 'Rows that break a NOT VALID foreign key are moved, and then keep it from being validated on the target.',
    fix: 'ALTER TABLE {table} VALIDATE CONSTRAINT {name};',
    *find({ source: { schema }, settings }) {
      const expected = new Set(settings.tables)
      for (const each of schema.constraints)
        if (each.kind === 'f' && !each.validated && expected.has(each.table) && each.schema === schema.name)
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `the foreign key ${each.name} of ${each.schema}.${each.table} is NOT VALID`,
            names: { table: qualified(each.schema, each.table), name: each.name },
          }
    },
  },
  {
    id: 'tbl.not-valid',
    severity: 'block',
    title: 'A constraint that the source does not enforce for all rows is NOT VALID on the target too',
    protects:
      'Rows of the source may break it: the load fails, or after the commit `finalize` cannot validate it, when the source is fenced for good.',
    fix: 'ALTER TABLE {table} VALIDATE CONSTRAINT {name}; -- on the source, or drop it on the target and add it there NOT VALID',
    *find({ source, target, settings }) {
      const valid = new Set(
        target.schema.constraints.flatMap((each) =>
          each.validated ? [`${each.kind} ${each.table} ${each.name}`] : [],
        ),
      )
      for (const each of source.schema.constraints)
        if (
          /[cf]/.test(each.kind) &&
          !each.validated &&
          each.schema === source.schema.name &&
          settings.tables.includes(each.table) &&
          valid.has(`${each.kind} ${each.table} ${each.name}`)
        )
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `the constraint ${each.name} of ${each.schema}.${each.table} is NOT VALID on the source, and valid on the target`,
            names: { table: qualified(each.schema, each.table), name: ident(each.name) },
          }
    },
  },
  {
    id: 'tbl.subscription',
    severity: 'block',
    title: 'No logical subscription feeds a table',
    protects:
      'What a subscription applies does not fire the fence: its writes go on through the cutover, and are lost.',
    fix: 'Disable the subscription that feeds {table} before the cutover, or leave it out: `exclude-tables`.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.subscribed)
          yield { object: nameOf(each), what: `a logical subscription writes to ${nameOf(each)}`, names: table(each) }
    },
  },
]

/** Tables that hold long values out of line. */
function* toasted(facts: Facts): Iterable<Hit> {
  for (const each of expectedRelations(facts)) {
    // Counters of updates begin at zero on a clone, after a failover and after a reset.
    if (!(each.toastBytes > 0)) continue
    yield {
      object: nameOf(each),
      what: `${nameOf(each)} holds ${number(each.toastBytes / 1024)} KiB of long values out of line, and took ${number(each.updates)} updates since its statistics began`,
      names: table(each),
    }
  }
}

/** Groups of names that are equal without case. */
function twins(names: readonly string[]): string[][] {
  const groups = new Map<string, string[]>()
  for (const name of names) {
    const folded = name.toLowerCase()
    const group = groups.get(folded)
    if (group) group.push(name)
    else groups.set(folded, [name])
  }
  return [...groups.values()].filter((group) => group.length > 1)
}
