import { ident, qualified } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
import { type Check, type Hit, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { ARGUMENT_LIMIT } from './facts/source.ts'
import { expectedRelations, nameOf } from './rights.ts'

/** Expected tables on the source, with columns and key. */
export const expectedTables = once(({ source, settings }: Facts) => {
  const expected = new Set(settings.tables)
  return source.schema.tables.filter((table) => expected.has(table.name))
})

const table = (each: { schema: string; name: string }) => ({ table: qualified(each.schema, each.name) })
const ofSchema = ({ source: { relations }, settings }: Facts) =>
  relations.filter((each) => each.schema === settings.schema && !each.partition)

const IDENTITIES: Record<string, string> = { n: 'NOTHING', f: 'FULL', i: 'USING INDEX' }

/** Checks whether the load and the stream move each expected table completely, and no other tables. */
export const tableChecks: readonly Check[] = [
  {
    id: 'tbl.no-key',
    severity: 'block',
    title: 'Every table has a primary key',
    protects: 'Without a key, neither the load nor the stream can identify rows, so the tools skip the table or stop.',
    fix: 'Add a primary key to {table} on both sides, or leave it out with `exclude-tables`.',
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
      "The stream identifies rows by the key that the source sends. FULL stops replicator 1.0 permanently at the first DELETE (seen with 1.0.4). The public sources of October 2024 apply such a DELETE (seen), but no documentation says so for a release. USING INDEX sends columns that are not the target's key. With NOTHING, the source refuses UPDATE and DELETE.",
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
    title: 'No table is unlogged',
    protects: 'An unlogged table writes no WAL, so the stream never sees its changes, and no publication accepts it.',
    fix: 'ALTER TABLE {table} SET LOGGED; -- rewrites the table; or leave it out with `exclude-tables`',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.persistence === 'u')
          yield { object: nameOf(each), what: `${nameOf(each)} is unlogged`, names: table(each) }
    },
  },
  {
    id: 'tbl.foreign',
    severity: 'warn',
    title: 'Foreign tables are not moved',
    protects:
      "A foreign table shows another server's data. MOLT does not move it, and CockroachDB has no foreign data wrappers.",
    fix: 'Move the data from the server that holds it, or copy it into an ordinary table: CREATE TABLE {copy} AS SELECT * FROM {table};',
    *find(facts) {
      for (const each of ofSchema(facts))
        if (each.kind === 'f')
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} is a foreign table`,
            names: { ...table(each), copy: qualified(each.schema, `${each.name}_copy`) },
          }
    },
  },
  {
    id: 'tbl.view',
    severity: 'info',
    title: 'Views are not moved',
    protects:
      'The tools move only tables. Create views and materialized views on the target, from the converted schema.',
    fix: '{fix}',
    *find(facts) {
      for (const each of ofSchema(facts))
        if ('vm'.includes(each.kind) && !each.extension)
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} is a ${each.kind === 'm' ? 'materialized view' : 'view'}`,
            names: {
              fix: facts.target.views.includes(each.name)
                ? `The view exists on the target. Compare both definitions${each.kind === 'm' ? ', and after the switch run REFRESH MATERIALIZED VIEW there' : ''}.`
                : `Create ${qualified(facts.settings.targetSchema, each.name)} on the target before the switch.`,
            },
          }
    },
  },
  {
    id: 'tbl.inherited',
    severity: 'block',
    title: 'No table inherits from another',
    protects: "Reading the parent also reads its children, so the children's rows would be loaded twice.",
    fix: 'End the inheritance of {table} (NO INHERIT), make it a partition, or leave it out with `exclude-tables`.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.inherits)
          yield { object: nameOf(each), what: `${nameOf(each)} inherits from another table`, names: table(each) }
    },
  },
  {
    id: 'tbl.parent',
    severity: 'block',
    title: 'No table has children that are not moved',
    protects:
      'Reading a parent also reads its children. Rows of children that are not moved would end up in the parent, and every comparison would fail.',
    fix: 'ALTER TABLE {child} NO INHERIT {table};',
    *find(facts) {
      const { schema, tables } = facts.settings
      const expected = new Set(tables.map((name) => `${schema}.${name}`))
      // `tbl.inherited` reports a child that is moved.
      for (const each of expectedRelations(facts))
        for (const child of each.children)
          if (!expected.has(child))
            yield {
              object: nameOf(each),
              what: `${child} inherits from ${nameOf(each)} and is not moved`,
              names: { ...table(each), child },
            }
    },
  },
  {
    id: 'tbl.partitioned',
    severity: 'block',
    title: 'No table is partitioned',
    protects:
      'molt fetch looks for ordinary tables: it finds the partitions but not the table, moves nothing, and reports success. The documentation says that 1.4.0 verifies such tables, not that it loads them.',
    fix: 'Leave {table} out with `exclude-tables`, or make it an ordinary table: CREATE TABLE {copy} (LIKE {table} INCLUDING ALL), then copy the rows. Waive this only after a rehearsal with the same molt has moved the table.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.kind === 'p' && !each.partition)
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} is partitioned`,
            names: { ...table(each), copy: qualified(each.schema, `${each.name}_copy`) },
          }
    },
  },
  {
    id: 'tbl.generated',
    severity: 'block',
    title: 'No column is generated',
    protects:
      'molt fetch writes every column that both sides have, but the target accepts no value for a generated column (42P10), so the load fails.',
    fix: "Leave the table out with `exclude-tables`, or: ALTER TABLE {table} ALTER COLUMN {name} DROP EXPRESSION; -- and let the application write the column until the switch. Waive this only after a rehearsal has loaded the table, with a `--transformations-file` in the load's `extra-args` that excludes {column}.",
    *find(facts) {
      for (const each of expectedTables(facts))
        for (const column of each.columns)
          if (column.generated)
            yield {
              object: `${nameOf(each)}.${column.name}`,
              what: `${nameOf(each)}.${column.name} is GENERATED ALWAYS AS (${column.default ?? 'an expression'})`,
              names: { ...table(each), name: ident(column.name), column: `${nameOf(each)}.${column.name}` },
            }
    },
  },
  {
    id: 'tbl.reserved',
    severity: 'block',
    waivable: false,
    title: 'No table has a name reserved for the tools',
    protects:
      'molt fetch and the heartbeat use tables with these names on the target. Your rows would be mixed with theirs.',
    fix: 'Leave {table} out with `exclude-tables`. It is usually left over from an earlier load.',
    *find(facts) {
      for (const each of expectedTables(facts))
        if (/^(_molt_|molt_actions_)/.test(each.name))
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} has a name reserved for the tools`,
            names: { table: each.name },
          }
    },
  },
  {
    id: 'tbl.odd-name',
    severity: 'block',
    waivable: false,
    title: "No table's name contains quotes, braces, control characters or a runner command",
    protects:
      'The tools print names in quotes, in braces or unquoted, so messages about such a table are ambiguous, and its load cannot be proved complete. In a GitHub log, `::name::` is a command.',
    fix: 'Rename {table}, or leave it out with `exclude-tables`.',
    *find(facts) {
      for (const each of expectedTables(facts))
        if (/["{}\p{Cc}\p{Cf}]|^\s*::|##\[/u.test(each.name))
          yield {
            object: nameOf(each),
            what: `the name ${nameOf(each)} contains quotes, braces or control characters, or begins with ::`,
            names: table(each),
          }
    },
  },
  {
    id: 'tbl.same-name',
    severity: 'block',
    title: 'No two tables in the publication have the same name',
    protects: 'The stream ignores the schema, so both silently end up in one table on the target.',
    fix: 'ALTER PUBLICATION {publication} DROP TABLE {table};',
    *find({ source: { publication }, settings }) {
      const expected = new Set(settings.tables)
      for (const each of publication?.tables ?? [])
        if (each.schema !== settings.schema && expected.has(each.table))
          yield {
            object: `${each.schema}.${each.table}`,
            what: `the publication ${settings.publication} publishes ${each.schema}.${each.table} in addition to ${settings.schema}.${each.table}`,
            names: { publication: settings.publication, table: qualified(each.schema, each.table) },
          }
    },
  },
  {
    id: 'tbl.namesake',
    severity: 'info',
    title: 'Other schemas have tables with the same names',
    protects:
      'These tables are not moved. If the publication contained them, the stream would mix their rows into the expected tables.',
    fix: 'Keep {others} out of the publication.',
    *find(facts) {
      const expected = new Set(facts.settings.tables)
      for (const each of ofSchema(facts))
        if (expected.has(each.name) && each.namesakes.length)
          yield {
            object: nameOf(each),
            what: `a table ${each.name} also exists in ${each.namesakes.join(', ')}`,
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
      'The replicator folds case: two such tables silently become one on the target, and two such columns stop the stream.',
    fix: 'Rename one of {names}, or move it to another schema.',
    *find(facts) {
      const tables = expectedTables(facts)
      const expected = new Set(tables.map((each) => each.name))
      // MOLT's filter ignores case, so it would also match a table that is not moved.
      for (const names of twins(ofSchema(facts).flatMap(({ kind, name }) => ('rp'.includes(kind) ? name : []))))
        if (names.some((name) => expected.has(name)))
          yield {
            object: `${facts.settings.schema}.${names[0]}`,
            what: `the tables ${names.join(' and ')} differ only in case`,
            names: { names: names.join(', ') },
          }
      const known = new Set(facts.source.schema.tables.map((each) => each.name))
      const added = facts.target.schema.tables.flatMap(({ name }) => (known.has(name) ? [] : name))
      for (const names of twins([...expected, ...added]))
        if (names.some((name) => expected.has(name)) && names.some((name) => !expected.has(name)))
          yield {
            object: `${facts.settings.targetSchema}.${names.find((name) => !expected.has(name))}`,
            what: `on the target, the tables ${names.join(' and ')} differ only in case`,
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
      'MOLT takes a regular expression. If it matches too much, other tables are loaded; if it matches too little, tables are skipped.',
    fix: 'List the tables one by one in `tables`. The current filter is {filter}',
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
            : `the filter matches ${nameOf(each)}, which is not an expected table`,
          names: { filter },
        }
      }
    },
  },
  {
    id: 'tbl.filter-length',
    severity: 'block',
    waivable: false,
    title: "MOLT's filter fits on a command line",
    protects: 'Linux refuses an argument of 128 KiB or more, so molt fetch could not start.',
    fix: 'Split the {count} tables into several migrations, one after the other, each with some of the tables in `tables`.',
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
    title: 'Without anchors, MOLT would match more than the names in `tables`',
    protects:
      'MOLT does not anchor its filters: if you run molt yourself, `orders` also loads orders_archive. This suite anchors them.',
    fix: 'If you run molt yourself, set the filter to {filter}',
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
    title: 'The replicator handles long values that an UPDATE leaves unchanged',
    protects:
      'PostgreSQL does not send a long (TOASTed) value that an UPDATE leaves unchanged. Replicator 1.0 stops permanently on the first such UPDATE (seen with 1.0.4). This check recognizes that replicator by its version or, if a build has none, by its flag `--enableToastedColumns`.',
    fix: 'Use a newer replicator, or leave {table} out with `exclude-tables`',
    *find(facts) {
      if (facts.machine.tools.replicator?.stopsOnToast) yield* toasted(facts)
    },
  },
  {
    id: 'tbl.toast-unproven',
    severity: 'warn',
    title: 'Long values that an UPDATE leaves unchanged, with a newer replicator than 1.0',
    protects:
      'PostgreSQL does not send a long (TOASTed) value that an UPDATE leaves unchanged. Replicator 1.0 stops on such an UPDATE. The public sources of October 2024 read it from the target instead (seen: such rows were equal afterwards); no documentation says so for a release.',
    fix: 'Rehearse an UPDATE of {table} that leaves the long column unchanged, and verify the table in full before the cutover.',
    *find(facts) {
      if (!facts.machine.tools.replicator?.stopsOnToast) yield* toasted(facts)
    },
  },
  {
    id: 'tbl.large-objects',
    severity: 'warn',
    title: 'No large objects',
    protects: "Large objects live outside the tables. The tools move a large object's OID, but not its bytes.",
    fix: 'Before the load, copy the large objects of {table} into a bytea column with lo_get.',
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
          what: `the database holds ${many}, and ${nameOf(each)}.${column.name} may refer to them`,
          names: table(each),
        }
      if (!columns.length)
        yield {
          object: 'source',
          what: `the database holds ${many}`,
          names: { table: 'each table that refers to them' },
        }
    },
  },
  {
    id: 'tbl.foreign-key-invalid',
    severity: 'warn',
    title: 'Foreign keys of the source are valid',
    protects:
      'Rows that violate a NOT VALID foreign key are moved too, and prevent its validation on the target later.',
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
    title: 'A NOT VALID constraint of the source is also NOT VALID on the target',
    protects:
      'Source rows may violate the constraint. In that case, the load fails, or `finalize` cannot validate the constraint after the commit, when the source is permanently fenced.',
    fix: 'ALTER TABLE {table} VALIDATE CONSTRAINT {name}; -- on the source; or recreate it on the target with NOT VALID',
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
            what: `the constraint ${each.name} of ${each.schema}.${each.table} is NOT VALID on the source but valid on the target`,
            names: { table: qualified(each.schema, each.table), name: ident(each.name) },
          }
    },
  },
  {
    id: 'tbl.subscription',
    severity: 'block',
    title: 'No logical subscription feeds a table',
    protects: "The fence does not stop a subscription's writes. They continue during the cutover and are lost.",
    fix: 'Disable the subscription that feeds {table} before the cutover, or leave it out with `exclude-tables`.',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.subscribed)
          yield { object: nameOf(each), what: `a logical subscription writes to ${nameOf(each)}`, names: table(each) }
    },
  },
]

/** Reports tables with TOASTed values. */
function* toasted(facts: Facts): Iterable<Hit> {
  for (const each of expectedRelations(facts)) {
    // Report tables with 0 updates too, because the counter restarts on a clone, after a failover and after a reset.
    if (!(each.toastBytes > 0)) continue
    yield {
      object: nameOf(each),
      what: `${nameOf(each)} holds ${number(each.toastBytes / 1024)} KiB of TOASTed values, and has had ${number(each.updates)} updates since its statistics were reset`,
      names: table(each),
    }
  }
}

/** Groups of names that differ only in case. */
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
