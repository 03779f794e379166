import { plannedDeferral } from '../destination/deferral.ts'
import { concerns } from '../destination/jobs.ts'
import { ownershipStatements, unrevocableText } from '../destination/unrevocable.ts'
import { readIndex } from '../model/expression.ts'
import { type Constraint, type Index, isShardCheck, type Schema, type SchemaColumn } from '../model/schema.ts'
import { isStandIn } from '../model/stand-in.ts'
import { ident, literal, qualified } from '../runtime/database.ts'
import { plural, someOf } from '../runtime/progress.ts'
import { SELF_NUMBERING } from '../sql/sequences.ts'
import { referredName } from '../sql/structure.ts'
import { type Check, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { nameOf } from './rights.ts'
import { sequenceChecks } from './sequences.ts'
import { targetSettingChecks } from './settings.ts'
import { shapeChecks } from './shape.ts'
import { expectedTables } from './tables.ts'

/** CockroachDB's default, in seconds. */
const GC_TTL_AT_LEAST = 14_400

/**
 * Whether the load has not started yet. Constraints, indexes and triggers on the target are reported only before the
 * load.
 */
const beforeLoad = ({ settings }: Facts) => [undefined, 'planned', 'prepared'].includes(settings.phase)

/** Checks the target server, and that the expected tables are complete and empty and cannot be written to by others. */
export const targetChecks: readonly Check[] = [
  {
    id: 'tgt.cockroach',
    severity: 'block',
    waivable: false,
    title: 'The target is CockroachDB',
    protects: 'MOLT refuses any other target, and a rehearsal on another database says nothing about CockroachDB.',
    fix: 'Set `target` to the cluster. To rehearse on the CockroachDB-like server, set `embedded: true` in `setup` or `decision: rehearse`.',
    *find({ target: { server }, settings, machine: { tools } }) {
      const rehearsal = server.isLikeServer && (settings.rehearses || isStandIn(tools.molt?.version ?? ''))
      if (!server.isCockroach || (server.isLikeServer && !rehearsal))
        yield { object: 'target', what: `the target is not CockroachDB: its version is ${server.version}` }
    },
  },
  {
    id: 'tgt.version',
    severity: 'warn',
    title: 'The target runs a maintained CockroachDB version',
    protects: 'Versions before 23.1 no longer get fixes, and this suite follows the documentation of 23.1 and newer.',
    fix: 'Upgrade the cluster to CockroachDB 24.3 or newer.',
    *find({ target: { server } }) {
      if (server.isCockroach && server.major < 24)
        yield { object: 'target', what: `the target's version is ${server.version}` }
    },
  },
  {
    id: 'tgt.schema-name',
    severity: 'block',
    title: 'The schema has the same name on both sides',
    protects:
      'molt fetch and verify pair tables by schema and name. If the schema has another name on the target, they find no tables there and still report success.',
    fix: 'ALTER SCHEMA {there} RENAME TO {here}; -- on the target. Waive this only after a rehearsal has loaded the schema, with `--transformations-file` in `extra-args` of the load.',
    *find({ settings: { schema, targetSchema } }) {
      if (schema !== targetSchema)
        yield {
          object: targetSchema,
          what: `the schema is ${schema} on the source but ${targetSchema} on the target`,
          names: { there: ident(targetSchema), here: ident(schema) },
        }
    },
  },
  ...targetSettingChecks,
  ...shapeChecks,
  {
    id: 'tgt.not-empty',
    severity: 'block',
    title: 'The expected tables are empty on the target',
    protects: 'Existing rows collide with loaded rows, or are mistaken for them.',
    fix: 'TRUNCATE TABLE {table}; -- or set `table-handling: truncate-if-exists` for the load',
    *find(facts) {
      if (!beforeLoad(facts) || facts.settings.tableHandling !== 'none') return
      const { targetSchema } = facts.settings
      for (const name of facts.target.filled)
        yield {
          object: `${targetSchema}.${name}`,
          what: `${targetSchema}.${name} already has rows on the target`,
          names: { table: qualified(targetSchema, name) },
        }
    },
  },
  {
    id: 'tgt.definition',
    severity: 'block',
    waivable: false,
    title: 'Every deferred definition can be saved',
    protects: 'An index or constraint whose definition cannot be read in full could not be rebuilt.',
    fix: 'SHOW JOBS; -- wait until the schema changes on the target have ended, or set `defer: none`',
    *find(facts) {
      const { settings, target } = facts
      if (!beforeLoad(facts)) return
      const planned = plannedDeferral(target.schema, settings.tables, settings.defer, target.server.isCockroach)
      for (const what of planned.unwritable) yield { object: 'target', what }
    },
  },
  {
    id: 'tgt.unique',
    severity: 'block',
    title: 'No unique indexes except primary keys during the stream',
    protects:
      'A transaction that swaps a unique value between two rows is valid on the source, but fails on the target (23505) at every retry, so the stream is stuck.',
    fix: '{drop} -- or set `defer: indexes`, which saves and drops unique indexes, and rebuilds them after the drain',
    *find(facts) {
      if (!beforeLoad(facts) || facts.settings.defer.indexes) return
      for (const index of targetIndexes(facts)) {
        const key = facts.target.schema.tables.find((table) => table.name === index.table)?.key ?? []
        // The primary key implies a unique index that contains all its columns.
        if (!index.unique || (key.length && key.every((column) => index.columns.includes(column)))) continue
        yield {
          object: `${index.schema}.${index.table}.${index.name}`,
          what: `${index.name} makes (${index.columns.map((column) => column || 'an expression').join(', ')}) of ${index.schema}.${index.table} unique on the target`,
          names: { drop: `DROP INDEX ${indexName(facts, index)} CASCADE;` },
        }
      }
    },
  },
  {
    id: 'tgt.index',
    severity: 'warn',
    title: 'No secondary indexes during the load',
    protects: 'Every index slows down the load. Building one afterwards takes a single pass.',
    fix: 'Set `defer: indexes`; or DROP INDEX {index} and create it again after the load',
    *find(facts) {
      if (!beforeLoad(facts) || facts.settings.defer.indexes) return
      for (const index of targetIndexes(facts))
        if (!index.unique)
          yield {
            object: `${index.schema}.${index.table}.${index.name}`,
            what: `${index.schema}.${index.table} has the index ${index.name} on the target`,
            names: { index: indexName(facts, index) },
          }
    },
  },
  {
    id: 'tgt.foreign-key',
    severity: 'block',
    title: 'No foreign keys during the load and the stream',
    protects:
      'Tables load in parallel, so a child row may arrive before its parent. The row then fails, and the load with it.',
    fix: 'ALTER TABLE {table} DROP CONSTRAINT {name}; -- or set `defer: constraints`, which saves and drops them, and adds them again after the drain',
    *find(facts) {
      if (!beforeLoad(facts) || facts.settings.defer.constraints) return
      const expected = new Set(facts.settings.tables)
      const { schema } = facts.target
      for (const each of schema.constraints) {
        const ours = each.schema === schema.name && expected.has(each.table)
        const inbound = each.references?.schema === schema.name && expected.has(each.references.table)
        if (each.kind === 'f' && (ours || inbound))
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `${each.schema}.${each.table} has the foreign key ${each.name} to ${each.references?.table} on the target`,
            names: { table: qualified(each.schema, each.table), name: ident(each.name) },
          }
      }
    },
  },
  {
    id: 'tgt.check',
    severity: 'info',
    title: 'CHECK constraints on the target',
    protects:
      'If a check is stricter than on the source, it stops the load or the stream at the first row that violates it.',
    fix: 'Compare {name} of {table} with the source, or set `defer: constraints`',
    *find(facts) {
      if (!beforeLoad(facts) || facts.settings.defer.constraints) return
      const expected = new Set(facts.settings.tables)
      const { schema } = facts.target
      for (const each of schema.constraints)
        if (each.kind === 'c' && each.schema === schema.name && expected.has(each.table) && !isShardCheck(each))
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `${each.schema}.${each.table} has the check ${each.name} on the target`,
            names: { table: qualified(each.schema, each.table), name: ident(each.name) },
          }
    },
  },
  {
    id: 'tgt.stricter',
    severity: 'block',
    title: "The source guarantees what the target's unique indexes and foreign keys require",
    protects:
      'Source rows may violate a unique index or foreign key that only the target has. The cutover, or `finalize` after the commit, could not build it.',
    fix: '{drop} -- or add it to the source too, and validate it',
    *find(facts) {
      if (!beforeLoad(facts)) return
      for (const index of targetIndexes(facts))
        if (index.unique && !guaranteesUnique(facts.source.schema.indexes, index))
          yield {
            object: `${index.schema}.${index.table}.${index.name}`,
            what: `only the target requires (${index.columns.join(', ')}) of ${index.schema}.${index.table} to be unique: ${index.name}`,
            names: { drop: `DROP INDEX ${indexName(facts, index)} CASCADE;` },
          }
      for (const each of ownConstraints(facts, 'f'))
        if (!guaranteesReference(facts.source.schema, facts.target.schema, each))
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `the source has no valid foreign key for ${each.name} of ${each.schema}.${each.table} on the target`,
            names: {
              drop: `ALTER TABLE ${qualified(each.schema, each.table)} DROP CONSTRAINT ${ident(each.name)};`,
            },
          }
    },
  },
  {
    id: 'tgt.stricter-check',
    severity: 'warn',
    title: 'The source has the CHECK constraints of the target',
    protects:
      'Source rows may violate a CHECK that only the target has. With `defer: constraints`, only `finalize` notices, after the commit.',
    fix: 'Add {name} to {table} of the source too, and validate it; or drop it on the target',
    *find(facts) {
      if (!beforeLoad(facts)) return
      for (const each of ownConstraints(facts, 'c'))
        if (!isShardCheck(each) && !guaranteesCheck(facts.source.schema.constraints, each))
          yield {
            object: `${each.schema}.${each.table}.${each.name}`,
            what: `the source has no valid CHECK constraint ${each.name} on ${each.table}`,
            names: { table: qualified(each.schema, each.table), name: ident(each.name) },
          }
    },
  },
  {
    id: 'tgt.trigger',
    severity: 'block',
    title: 'No triggers on the target during the load and the stream',
    protects: 'The stream includes what triggers on the source write. A trigger on the target would write it again.',
    fix: 'DROP TRIGGER {name} ON {table}; -- `finalize` lists it until it is created again',
    *find(facts) {
      if (!beforeLoad(facts)) return
      const { targetSchema } = facts.settings
      for (const { table, name } of facts.target.triggers)
        yield {
          object: `${targetSchema}.${table}.${name}`,
          what: `${targetSchema}.${table} has the trigger ${name} on the target`,
          names: { name: ident(name), table: qualified(targetSchema, table) },
        }
    },
  },
  {
    id: 'tgt.sequence',
    severity: 'block',
    waivable: false,
    title: 'Every sequence of the source exists on the target',
    protects:
      'After the switch, inserts fail because they get no number, or collide with existing rows because numbers start over.',
    fix: 'CREATE SEQUENCE {sequence} INCREMENT {increment} MINVALUE {min} MAXVALUE {max};',
    *find(facts) {
      const { targetSchema, tables } = facts.settings
      const there = new Set(facts.target.schema.sequences.map((each) => each.name))
      const misnamed = new Set(otherFeeds(facts).map(({ name }) => name))
      const byName = new Map(facts.target.schema.tables.map((table) => [table.name, table]))
      const defaultOf = (table: string | null, column: string | null) =>
        byName.get(table ?? '')?.columns.find((each) => each.name === column)?.default ?? ''
      for (const each of facts.source.schema.sequences) {
        if (there.has(each.name) || (each.table && !tables.includes(each.table))) continue
        // `tgt.sequence-name` reports a sequence that exists under another name.
        if (misnamed.has(each.name)) continue
        // Numbers that the target generates itself need no sequence.
        if (SELF_NUMBERING.test(defaultOf(each.table, each.column))) continue
        const name = qualified(targetSchema, each.name)
        const { increment, min, max } = each
        yield {
          object: `${targetSchema}.${each.name}`,
          what: `the sequence ${targetSchema}.${each.name} is missing on the target${each.table ? `; ${each.table}.${each.column} uses it` : ''}`,
          names: { sequence: name, increment, min, max },
          apply: {
            side: 'target',
            sql: `CREATE SEQUENCE IF NOT EXISTS ${name} INCREMENT ${increment} MINVALUE ${min} MAXVALUE ${max}`,
          },
        }
      }
    },
  },
  {
    id: 'tgt.sequence-name',
    severity: 'block',
    waivable: false,
    title: "A column's sequence has the same name on both sides",
    protects:
      'The cutover sets sequences by name. A column that takes its numbers from another one generates numbers after the switch that are already in use.',
    fix: '{change} -- on the target',
    *find(facts) {
      const { schema } = facts.target
      const known = new Set(schema.sequences.map((each) => each.name))
      for (const { table, column, name, there, byDefault } of otherFeeds(facts)) {
        const [wanted, found] = [name, there].map((each) => qualified(schema.name, each)) as [string, string]
        const rename = `ALTER SEQUENCE ${found} RENAME TO ${ident(name)};`
        const change = byDefault
          ? `ALTER TABLE ${qualified(schema.name, table)} ALTER COLUMN ${ident(column)} SET DEFAULT nextval(${literal(wanted)});`
          : `DROP SEQUENCE ${wanted}; ${rename}`
        yield {
          object: `${schema.name}.${name}`,
          what: `${schema.name}.${table}.${column} takes its numbers from ${there} on the target, but from ${name} on the source`,
          names: { change: known.has(name) ? change : rename },
        }
      }
    },
  },
  {
    id: 'tgt.sequence-elsewhere',
    severity: 'block',
    title: "The expected tables' sequences are moved too",
    protects:
      'The cutover sets the sequences of the schema, except those of tables that are not moved. After the switch, a sequence that was not set generates numbers that are already in use.',
    fix: '{change} -- on both sides; if you waive this, set the sequence on the target yourself before the application writes there',
    *find(facts) {
      const { schema } = facts.source
      const known = new Map(schema.sequences.map((each) => [each.name, each]))
      const expected = new Set(facts.settings.tables)
      for (const table of expectedTables(facts))
        for (const column of table.columns) {
          const feed = feedIn(column.default ?? '')
          const here = feed?.schema === schema.name ? known.get(feed.name) : undefined
          if (!feed || (here && (!here.table || expected.has(here.table)))) continue
          const full = qualified(feed.schema, feed.name)
          const free = `ALTER SEQUENCE ${full} OWNED BY NONE;`
          yield {
            object: `${nameOf(table)}.${column.name}`,
            what: `${nameOf(table)}.${column.name} takes its numbers from the sequence ${feed.schema}.${feed.name}, which ${here ? `belongs to the table ${here.table}, which is not moved` : 'is in another schema'}`,
            names: { change: here ? free : `${free} ALTER SEQUENCE ${full} SET SCHEMA ${ident(schema.name)};` },
          }
        }
    },
  },
  {
    id: 'tgt.trial',
    severity: 'warn',
    title: 'Deferred definitions are tried out before they are dropped',
    protects: 'Without a trial, a definition that the target refuses does not fail until the write pause.',
    fix: 'Remove `trial: none`.',
    *find(facts) {
      const { settings, target } = facts
      if (settings.trial !== 'none' || !beforeLoad(facts)) return
      const planned = plannedDeferral(target.schema, settings.tables, settings.defer, target.server.isCockroach)
      if (planned.objects.length)
        yield {
          object: 'target',
          what: `${plural(planned.objects.length, 'definition')} will be dropped without a trial`,
        }
    },
  },
  ...sequenceChecks,
  {
    id: 'tgt.sequence-cache',
    severity: 'warn',
    title: "The target's sequences cache no numbers",
    protects:
      'On CockroachDB, setting a cached sequence is a schema change in the middle of the write pause, and nodes keep using older numbers from their caches.',
    fix: 'ALTER SEQUENCE {sequence} CACHE 1; -- before the cutover; restore it afterwards',
    *find({ source, target: { schema } }) {
      const moved = new Set(source.schema.sequences.map((each) => each.name))
      for (const each of schema.sequences)
        if (Number(each.cache) > 1 && moved.has(each.name))
          yield {
            object: `${schema.name}.${each.name}`,
            what: `${schema.name}.${each.name} has CACHE ${each.cache} on the target`,
            names: { sequence: qualified(schema.name, each.name) },
          }
    },
  },
  {
    id: 'tgt.int-size',
    severity: 'info',
    title: 'What INT and SERIAL mean on the target',
    protects:
      'By default, INT has 8 bytes, which some drivers return as text, and SERIAL generates numbers that are not sequential.',
    fix: "SET default_int_size = 4; SET serial_normalization = 'sql_sequence'; -- in the session that creates the schema",
    *find({ target: { intSize, serial, server } }) {
      if (server.isCockroach && (intSize !== '4' || serial !== 'sql_sequence'))
        yield {
          object: 'target',
          what: `default_int_size is ${intSize ?? 'unknown'} and serial_normalization ${serial ?? 'unknown'}`,
        }
    },
  },
  {
    id: 'tgt.full-scans',
    severity: 'block',
    waivable: false,
    title: 'The migration user can read whole tables on the target',
    protects: "MOLT's sessions read whole tables, which `disallow_full_table_scans` forbids.",
    fix: 'ALTER ROLE {role} SET disallow_full_table_scans = off;',
    *find({ target: { tools, role } }) {
      if (tools.settings.disallow_full_table_scans?.value === 'on')
        yield {
          object: role.name,
          what: `disallow_full_table_scans is on for ${role.name} on the target`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'tgt.gc-ttl',
    severity: 'warn',
    title: 'The target keeps history long enough for long scans',
    protects:
      'A scan that takes longer than gc.ttlseconds fails with `batch timestamp must be after replica GC threshold`, so verify and index builds may fail on large tables.',
    fix: 'ALTER DATABASE {database} CONFIGURE ZONE USING gc.ttlseconds = {seconds}; -- until the migration is finalized',
    *find({ target: { gcTtlSeconds, server } }) {
      if (gcTtlSeconds !== null && gcTtlSeconds < GC_TTL_AT_LEAST)
        yield {
          object: server.database,
          what: `gc.ttlseconds of the database ${server.database} is ${gcTtlSeconds} s on the target`,
          names: { database: ident(server.database), seconds: GC_TTL_AT_LEAST },
        }
    },
  },
  {
    id: 'tgt.job',
    severity: 'block',
    title: 'No import or changefeed uses an expected table',
    protects:
      'An abandoned import keeps its tables offline. A changefeed emits every loaded row, and blocks IMPORT INTO for its tables.',
    fix: 'CANCEL JOB {id}; -- ask {owner} first',
    *find({ settings, target: { jobs, server } }) {
      const ours = { database: server.database, schema: settings.targetSchema, tables: settings.tables }
      for (const { id, type, status, description, owner } of jobs ?? [])
        if (concerns(description, ours))
          yield {
            object: `job ${id}`,
            what: `the ${type} job ${id} of the role ${owner} is ${status}: ${withoutFiles(description)}`,
            names: { id, owner },
          }
    },
  },
  {
    id: 'tgt.jobs-unseen',
    severity: 'block',
    title: 'All jobs on the target are visible',
    protects:
      "Without VIEWJOB, SHOW JOBS shows only this user's jobs: a running import or changefeed goes unnoticed, and `observe` is inconclusive.",
    fix: 'GRANT SYSTEM VIEWJOB TO {role};',
    *find({ target: { jobs, role, server, sight } }) {
      if (server.isCockroach && (jobs === null || sight?.jobs === false))
        yield {
          object: 'target',
          what: `jobs of other users are hidden from ${role.name}`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'tgt.staging',
    severity: 'warn',
    title: 'No old staging schema is left',
    protects:
      'The position that an earlier replicator run stored there takes precedence over the slot. If it is ahead of the slot, changes are silently skipped. This suite uses a new schema for each load, but a replicator that you run yourself may reuse one.',
    fix: 'DROP SCHEMA {schema} CASCADE; -- if no other migration uses it',
    *find(facts) {
      if (!beforeLoad(facts)) return
      for (const schema of facts.target.stagingSchemas)
        yield {
          object: schema,
          what: `the staging schema ${schema} exists on the target`,
          names: { schema: ident(schema) },
        }
    },
  },
  {
    id: 'tgt.ttl',
    severity: 'block',
    title: 'No row-level TTL on the target',
    protects: 'The target deletes rows that the source still has, so `verify` reports them as missing.',
    fix: 'ALTER TABLE {table} SET (ttl_pause = true); -- until the switch; then RESET (ttl_pause)',
    *find({ target: { relations }, settings }) {
      const expected = new Set(settings.tables)
      for (const { name, options } of relations)
        if (
          expected.has(name) &&
          options.some((each) => /^ttl/.test(each)) &&
          !/ttl_pause='?(true|on)/.test(options.join())
        )
          yield {
            object: `${settings.targetSchema}.${name}`,
            what: `${settings.targetSchema}.${name} has a row-level TTL`,
            names: { table: qualified(settings.targetSchema, name) },
          }
    },
  },
  {
    id: 'tgt.table-owner',
    severity: 'block',
    waivable: false,
    title: 'No login except the migration user owns a table on the target',
    protects:
      'Write access cannot be revoked from an owner or its members. A write between the final verification and the commit would go unnoticed until `finalize`.',
    fix: '{sql} -- after `finalize`, change the owner back; or set `write-access: waive`',
    *find(facts) {
      const { target, settings } = facts
      if (settings.writeAccess === 'waive' || !beforeLoad(facts)) return
      const { name } = target.role
      for (const each of target.unrevocable.filter(({ administrator }) => !administrator))
        yield {
          object: each.role,
          what: `${each.role} can write to ${plural(each.tables.length, 'expected table')} on the target, and this cannot be revoked: ${unrevocableText([{ ...each, tables: [someOf(each.tables, 3)] }], name)}`,
          names: { sql: `${ownershipStatements(settings.targetSchema, [each], name).join('; ')};` },
        }
    },
  },
  {
    id: 'tgt.administrator',
    severity: 'warn',
    title: 'No other login is an administrator of the target',
    protects:
      'Write access cannot be revoked from an administrator. Only `finalize` finds writes from before the commit, after it.',
    fix: 'Make sure that {role} writes nothing to the target until the commit{or}',
    *find({ target: { unrevocable } }) {
      for (const { role, through, parent, administrator } of unrevocable)
        if (administrator)
          yield {
            object: role,
            what: `${role} is ${through === role ? 'an administrator' : `a member of ${through}`} on the target`,
            names: {
              role: ident(role),
              or: parent ? `, or run until then: REVOKE ${ident(parent)} FROM ${ident(role)};` : '.',
            },
          }
    },
  },
  {
    id: 'tgt.writer',
    severity: 'warn',
    title: 'No other role can write to the target',
    protects:
      'A write to the target before the switch is overwritten, or makes the sides differ. Nothing then shows which side is right.',
    fix: 'REVOKE INSERT, UPDATE, DELETE ON TABLE {tables} FROM {role}; -- after the switch: GRANT INSERT, UPDATE, DELETE ON TABLE {tables} TO {role};',
    *find({ target: { writers, unrevocable }, settings }) {
      const owns = (role: string) => unrevocable.some((each) => each.role === role)
      for (const { role, tables } of writers) {
        // Its access cannot be revoked, which other checks report.
        if (owns(role) && settings.writeAccess === 'close') continue
        const all = tables.map((table) => qualified(settings.targetSchema, table))
        yield {
          object: role,
          what: `${role} can write to ${plural(tables.length, 'expected table')} on the target (${someOf(tables, 3)})`,
          names: { tables: all.join(', '), role: ident(role) },
        }
      }
    },
  },
]

/** Removes URLs, which may contain keys, from the description of an import or changefeed job. */
function withoutFiles(description: string): string {
  return description.replace(/( \w+ DATA \(| INTO ').*$/s, ' …')
}

interface OtherFeed {
  table: string
  column: string
  /** The sequence of the column on the source, and the one on the target. */
  name: string
  there: string
  /** Whether the target's column has a default of its own, and not an identity's. */
  byDefault: boolean
}

/** Columns that take their numbers from a sequence of one name on the source, and of another one on the target. */
const otherFeeds = once((facts: Facts): OtherFeed[] => {
  const { source, target } = facts
  const [here, there] = [feeds(source.schema), feeds(target.schema)]
  const byName = new Map(target.schema.tables.map((table) => [table.name, table]))
  return expectedTables(facts).flatMap(({ name: table, columns }) =>
    columns.flatMap((column) => {
      const other = byName.get(table)?.columns.find((each) => each.name === column.name)
      const [wanted, found] = [here(table, column), other && there(table, other)]
      if (wanted === undefined || found === undefined || wanted === found) return []
      const byDefault = other?.default != null && !other.identity
      return { table, column: column.name, name: wanted, there: found, byDefault }
    }),
  )
})

/**
 * Returns a lookup of the sequence of this schema, if any, that a column takes its numbers from. A sequence that the
 * column only owns does not count if its default is something else.
 */
function feeds({ name: schema, sequences }: Schema): (table: string, column: SchemaColumn) => string | undefined {
  const owned = new Map(sequences.map((each) => [`${each.table}.${each.column}`, each.name]))
  return (table, column) => {
    if (column.default === null) return owned.get(`${table}.${column.name}`)
    const feed = feedIn(column.default)
    return feed?.schema === schema ? feed.name : undefined
  }
}

/** The sequence in a default such as `nextval('orders_id_seq'::regclass)`. Servers omit the schema on our search path. */
function feedIn(text: string): { schema: string; name: string } | undefined {
  const written = /nextval\('((?:[^']|'')*)'/.exec(text)?.[1]?.replaceAll("''", "'")
  const parts = written
    ?.match(/"(?:[^"]|"")*"|[^."]+/g)
    ?.map((part) => part.replace(/^"(.*)"$/, '$1').replaceAll('""', '"'))
  const name = parts?.at(-1)
  return name === undefined ? undefined : { schema: parts?.at(-2) ?? 'public', name }
}

/** The name of an index for use in a statement. CockroachDB's index names are unique only within their table. */
function indexName({ target: { server } }: Facts, { schema, table, name }: Index): string {
  return server.isCockroach ? `${qualified(schema, table)}@${ident(name)}` : qualified(schema, name)
}

/** Secondary indexes of expected tables. */
function* targetIndexes(facts: Facts) {
  const expected = new Set(facts.settings.tables)
  for (const index of facts.target.schema.indexes) if (!index.primary && expected.has(index.table)) yield index
}

/** Foreign keys (`f`) or checks (`c`) of the expected tables on the target. */
function ownConstraints({ settings, target: { schema } }: Facts, kind: 'f' | 'c'): Constraint[] {
  const expected = new Set(settings.tables)
  return schema.constraints.filter(
    (each) => each.kind === kind && each.schema === schema.name && expected.has(each.table),
  )
}

/** Whether the source's rows satisfy a unique index. */
function guaranteesUnique(indexes: readonly Index[], wanted: Index): boolean {
  const { keys, where } = uniqueness(wanted)
  return indexes.some((each) => {
    if (each.table !== wanted.table || !each.unique || !each.valid) return false
    const own = uniqueness(each)
    return (own.where === undefined || own.where === where) && own.keys.every((key) => keys.includes(key))
  })
}

/** What an index makes unique, in a comparable form. The catalog has no definition of a primary key's index. */
function uniqueness({ definition, columns, partial }: Index): { keys: string[]; where: string | undefined } {
  const read = readIndex(definition)
  if (read) return read
  return { keys: columns.map((column) => JSON.stringify(column)), where: partial ? 'unknown' : undefined }
}

function guaranteesReference(here: Schema, there: Schema, wanted: Constraint): boolean {
  const referred = (schema: Schema, { references }: Constraint) => references && referredName(schema, references)
  const pairs = ({ columns, references }: Constraint) =>
    columns
      .map((column, i) => `${column} ${references?.columns[i]}`)
      .sort()
      .join('\n')
  return here.constraints.some(
    (each) =>
      each.kind === 'f' &&
      isAsValid(each, wanted) &&
      each.table === wanted.table &&
      referred(here, each) === referred(there, wanted) &&
      pairs(each) === pairs(wanted),
  )
}

/**
 * Whether the source has this check, by name. The servers print conditions differently, so comparing those is left to
 * `structure`.
 */
function guaranteesCheck(constraints: readonly Constraint[], wanted: Constraint): boolean {
  return constraints.some(
    (each) => each.kind === 'c' && isAsValid(each, wanted) && each.table === wanted.table && each.name === wanted.name,
  )
}

/**
 * Whether `here` is valid, or need not be: a constraint that is NOT VALID under the same name on both sides is never
 * validated.
 */
function isAsValid(here: Constraint, there: Constraint): boolean {
  return here.validated || (!there.validated && here.name === there.name)
}
