import { plannedDeferral } from '../destination/deferral.ts'
import { grantOptionStatements, grantsText } from '../destination/write-access.ts'
import type { Constraint } from '../model/schema.ts'
import { ident, qualified } from '../runtime/database.ts'
import { type Check, cockroachSince, once } from './check.ts'
import type { Facts } from './facts/facts.ts'
import type { Relation } from './facts/source.ts'

/** The expected tables and every partition below them. */
export const expectedRelations = once(({ source: { relations }, settings }: Facts): Relation[] => {
  const expected = new Set(settings.tables.map((table) => `${settings.schema}.${table}`))
  return relations.filter((each) => expected.has(each.root ?? `${each.schema}.${each.name}`))
})

export const nameOf = (relation: { schema: string; name: string }) => `${relation.schema}.${relation.name}`

/** The privileges that this user lacks to drop and recreate the deferred foreign keys. */
export function foreignKeyRights(facts: Facts): { schema: string; table: string; right: 'CREATE' | 'REFERENCES' }[] {
  const { target, settings } = facts
  const { role, schema, server } = target
  if (role.admin || !['undefined', 'planned', 'prepared'].includes(String(settings.phase))) return []
  const rights = new Map(role.onForeignKeys.map((each) => [`${each.schema}.${each.table}`, each]))
  const onParent = server.isCockroach && !cockroachSince(facts, 26, 3) ? 'CREATE' : 'REFERENCES'
  const planned = plannedDeferral(schema, settings.tables, settings.defer, server.isCockroach).objects
  const lacking = new Map<string, { schema: string; table: string; right: 'CREATE' | 'REFERENCES' }>()
  const named = (all: readonly Constraint[], { table, name }: { table: string; name: string }, of: string) =>
    all.find((each) => each.schema === of && each.table === table && each.name === name)?.references
  const foreign = [
    ...planned.map((each) => ({ ...each, parent: named(schema.constraints, each, each.schema) })),
    // These have been dropped on the target. Look them up on the source, by the same names.
    ...target.awaited.map((each) => {
      const parent = named(facts.source.schema.constraints, each, settings.schema)
      const there = parent && { ...parent, schema: parent.schema === settings.schema ? schema.name : parent.schema }
      return { ...each, schema: schema.name, parent: there }
    }),
  ].filter(({ kind }) => kind === 'foreign-key')
  for (const { schema: of, table, parent } of foreign) {
    const ends = [
      { schema: of, table, right: 'CREATE' as const },
      ...(parent ? [{ schema: parent.schema, table: parent.table, right: onParent } as const] : []),
    ]
    for (const end of ends) {
      const has = rights.get(`${end.schema}.${end.table}`)
      const granted = end.right === 'CREATE' ? server.isCockroach && has?.create : has?.references
      if (!has?.owned && !granted) lacking.set(JSON.stringify(end), end)
    }
  }
  return [...lacking.values()]
}

/** Whether the load has not started yet. */
function loads({ settings }: Facts): boolean {
  return ['undefined', 'planned', 'prepared'].includes(String(settings.phase))
}

function has(system: readonly string[], privilege: string): boolean {
  return system.includes(privilege) || system.includes('ALL')
}

/** Checks the privileges of the migration user on both sides. */
export const rightChecks: readonly Check[] = [
  {
    id: 'right.schema',
    severity: 'block',
    waivable: false,
    title: 'The migration user can use the schema',
    protects: 'Without USAGE, no table in the schema can be read.',
    fix: 'GRANT USAGE ON SCHEMA {schema} TO {role};',
    *find({ source: { role }, settings }) {
      if (!role.schemaUsage)
        yield {
          object: role.name,
          what: `${role.name} has no USAGE on the source schema ${settings.schema}`,
          names: { schema: ident(settings.schema), role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.read',
    severity: 'block',
    title: 'The migration user can read every table and sequence',
    protects: 'The load fails at the first table that the user cannot read, and sequences cannot be set on the target.',
    fix: 'GRANT SELECT ON {object} TO {role};',
    *find(facts) {
      const { role, relations } = facts.source
      const sequences = relations.filter((each) => each.kind === 'S' && each.schema === facts.settings.schema)
      for (const each of [...expectedRelations(facts), ...sequences])
        if (!each.readable)
          yield {
            object: nameOf(each),
            what: `${role.name} cannot read ${nameOf(each)}`,
            names: { object: qualified(each.schema, each.name), role: ident(role.name) },
          }
    },
  },
  {
    id: 'right.replication',
    severity: 'block',
    waivable: false,
    title: 'The migration user can replicate',
    protects: 'Creating the slot and streaming require the REPLICATION attribute.',
    fix: '{sql}',
    *find({ source: { role } }) {
      if (role.superuser || role.replication || role.providerGranted.length) return
      const provider = role.providerRoles[0]
      const name = ident(role.name)
      yield {
        object: role.name,
        what: `${role.name} has neither REPLICATION nor a provider role that grants it`,
        names: { sql: provider ? `GRANT ${ident(provider)} TO ${name};` : `ALTER ROLE ${name} REPLICATION;` },
      }
    },
  },
  {
    id: 'right.create',
    severity: 'block',
    waivable: false,
    title: 'The migration user can create schemas in the source database',
    protects: 'The publication, the heartbeat and the fence are created there.',
    fix: 'GRANT CREATE ON DATABASE {database} TO {role};',
    *find({ source: { role, server } }) {
      if (!role.createOnDatabase)
        yield {
          object: role.name,
          what: `${role.name} has no CREATE on the source database ${server.database}`,
          names: { database: ident(server.database), role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.owner',
    severity: 'block',
    waivable: false,
    title: 'The migration user owns the tables, directly or as a member of their owner',
    protects: 'Only an owner can add a table to a publication and install the fence on it.',
    fix: '{sql}',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (!each.owned)
          yield {
            object: nameOf(each),
            what: `${nameOf(each)} belongs to ${each.owner}, and ${facts.source.role.name} is not a member of that role`,
            names: { sql: ownerStatements(each, facts.source.role.name).join(' ') },
          }
    },
  },
  {
    id: 'right.row-security',
    severity: 'block',
    title: 'Row-level security hides no rows from the migration user',
    protects: 'Rows that a policy hides are neither loaded nor compared, so both sides look equal to this user.',
    fix: 'ALTER ROLE {role} BYPASSRLS; -- or: ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY;',
    *find(facts) {
      for (const each of expectedRelations(facts))
        if (each.rowsHidden)
          yield {
            object: nameOf(each),
            what: `row-level security on ${nameOf(each)} applies to ${facts.source.role.name}`,
            names: { role: ident(facts.source.role.name), table: qualified(each.schema, each.name) },
          }
    },
  },
  {
    id: 'right.target-row-security',
    severity: 'block',
    waivable: false,
    title: 'Row-level security hides no rows of the target from the migration user',
    protects: 'The load cannot tell whether such a table is empty, and no comparison of it proves anything.',
    fix: 'ALTER ROLE {role} BYPASSRLS; -- on the target',
    *find({ target: { rowsHidden, role }, settings: { targetSchema } }) {
      for (const table of rowsHidden)
        yield {
          object: `${targetSchema}.${table}`,
          what: `row-level security on ${targetSchema}.${table} of the target applies to ${role.name}`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.statistics',
    severity: 'block',
    title: 'The migration user can see the statements and sessions of other users',
    protects: 'Otherwise, `observe` has no baseline and cannot see who still uses the source after the commit.',
    fix: 'GRANT {right} TO {role};',
    *find({ source: { role, statementsSchema } }) {
      const names = { role: ident(role.name) }
      if (!role.seesOthers)
        yield {
          object: role.name,
          what: `${role.name} is not a member of pg_read_all_stats`,
          names: { ...names, right: 'pg_read_all_stats' },
        }
      if (statementsSchema && !statementsSchema.usable)
        yield {
          object: statementsSchema.name,
          what: `${role.name} has no USAGE on the schema ${statementsSchema.name}, which holds pg_stat_statements`,
          names: { ...names, right: `USAGE ON SCHEMA ${ident(statementsSchema.name)}` },
        }
    },
  },
  {
    id: 'right.target-tables',
    severity: 'block',
    title: 'The migration user can write to the tables on the target',
    protects: 'The load or the stream fails at the first table that the user cannot write to.',
    fix: 'GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE {table} TO {role};',
    *find({ target: { relations, role }, settings }) {
      const expected = new Set(settings.tables)
      for (const each of relations) {
        const lacks = (['select', 'insert', 'update', 'delete'] as const).filter((right) => !each[right])
        if (expected.has(each.name) && lacks.length)
          yield {
            object: `${settings.targetSchema}.${each.name}`,
            what: `${role.name} has no ${lacks.join(', ').toUpperCase()} on the target table ${settings.targetSchema}.${each.name}`,
            names: { table: qualified(settings.targetSchema, each.name), role: ident(role.name) },
          }
      }
    },
  },
  {
    id: 'right.target-create',
    severity: 'block',
    waivable: false,
    title: 'The migration user can create objects on the target',
    protects:
      "The ledger and the staging schema are created in the database, the heartbeat in the schema, and molt's own tables in public.",
    fix: 'GRANT {right} TO {role};',
    *find({ target: { role, server }, settings }) {
      const schema = ident(settings.targetSchema)
      const lacks = [
        !role.createOnDatabase && `CREATE ON DATABASE ${ident(server.database)}`,
        !role.createOnSchema && `CREATE ON SCHEMA ${schema}`,
        !role.usageOnSchema && `USAGE ON SCHEMA ${schema}`,
        !role.createOnPublic && settings.targetSchema !== 'public' && 'CREATE ON SCHEMA public',
        !role.usageOnPublic && settings.targetSchema !== 'public' && 'USAGE ON SCHEMA public',
      ].filter((each) => each !== false)
      for (const right of lacks)
        yield {
          object: role.name,
          what: `on the target, ${role.name} has no ${right}`,
          names: { right, role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-logins',
    severity: 'block',
    title: 'The migration user can create logins on the target and grant them privileges on the tables',
    protects:
      'Each leg of the stream writes under its own login, which is revoked when the leg ends, so that a replicator whose machine was paused cannot apply old changes over new ones. Without such logins, the migration user revokes its own write privileges just before the commit, which CockroachDB does not allow for owners and administrators. Also, there is no rolling proof: `final-verify: auto` compares every row during the write pause, and `changed` is refused.',
    fix: '{sql}',
    *find({ target: { role, server }, settings }) {
      const user = ident(role.name)
      if (!role.createRole)
        yield {
          object: role.name,
          what: `${role.name} cannot create logins on the target`,
          names: { sql: `ALTER ROLE ${user} CREATEROLE${server.isCockroach ? ' CREATELOGIN' : ''};` },
        }
      if (!role.usageGrantable)
        yield {
          object: settings.targetSchema,
          what: `${role.name} cannot grant USAGE on the target schema ${settings.targetSchema} to a stream login`,
          names: { sql: `GRANT USAGE ON SCHEMA ${ident(settings.targetSchema)} TO ${user} WITH GRANT OPTION;` },
        }
      for (const { table, rights } of role.ungivenToLogins)
        yield {
          object: `${settings.targetSchema}.${table}`,
          what: `${role.name} cannot grant ${rights.join(', ')} on the target table ${settings.targetSchema}.${table} to a stream login`,
          names: {
            sql: `GRANT ${rights.join(', ')} ON TABLE ${qualified(settings.targetSchema, table)} TO ${user} WITH GRANT OPTION;`,
          },
        }
    },
  },
  {
    id: 'right.target-sequences',
    severity: 'block',
    waivable: false,
    title: 'The migration user can read and set the sequences on the target',
    protects: 'The cutover sets the sequences. Otherwise, they generate numbers that are already in use.',
    fix: 'GRANT SELECT, UPDATE ON SEQUENCE {sequence} TO {role};',
    *find({ target: { role }, settings: { targetSchema } }) {
      for (const sequence of role.lockedSequences)
        yield {
          object: `${targetSchema}.${sequence}`,
          what: `${role.name} cannot read and set the sequence ${targetSchema}.${sequence} on the target`,
          names: { sequence: qualified(targetSchema, sequence), role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-settings',
    severity: 'block',
    title: 'The migration user can see cluster settings on the target',
    protects: 'Otherwise, `observe` cannot compare the number of connections with the limit.',
    fix: 'GRANT SYSTEM VIEWCLUSTERSETTING TO {role};',
    *find({ target: { role, sight } }) {
      if (sight && !sight.settings)
        yield {
          object: role.name,
          what: `${role.name} has neither VIEWCLUSTERSETTING nor MODIFYCLUSTERSETTING on the target`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-defer',
    severity: 'block',
    waivable: false,
    title: 'The migration user can drop indexes and constraints on the target',
    protects: 'Deferral drops and rebuilds indexes and constraints. CockroachDB requires CREATE on the table for that.',
    fix: '{sql}',
    *find({ target, settings }) {
      const { role, server } = target
      const awaited = new Set(target.awaited.map(({ table }) => table))
      const defers = settings.defer.indexes || settings.defer.constraints
      for (const table of role.withoutCreate.filter((each) => defers || awaited.has(each))) {
        const name = qualified(settings.targetSchema, table)
        yield {
          object: `${settings.targetSchema}.${table}`,
          what: `${role.name} cannot alter ${settings.targetSchema}.${table} on the target`,
          names: {
            sql: `${server.isCockroach ? `GRANT CREATE ON TABLE ${name} TO ${ident(role.name)};` : ownTable(name, role.name)}${defers ? OR_KEEP : ''}`,
          },
        }
      }
    },
  },
  {
    id: 'right.target-activity',
    severity: 'block',
    title: 'The migration user can see statements and sessions on the target',
    protects:
      "Otherwise, SHOW CLUSTER SESSIONS shows only this user's sessions: other writers go unnoticed, and `observe` is inconclusive.",
    fix: 'GRANT SYSTEM VIEWACTIVITYREDACTED TO {role};',
    *find({ target: { role, sight } }) {
      if (sight && !sight.activity)
        yield {
          object: role.name,
          what: `${role.name} has neither VIEWACTIVITY nor VIEWACTIVITYREDACTED on the target`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-foreign-key',
    severity: 'block',
    waivable: false,
    title: 'The migration user can drop foreign keys and add them again',
    protects:
      'Otherwise, a foreign key that is dropped for the load cannot be added again. This requires CREATE on its own table, and CREATE (REFERENCES since CockroachDB 26.3) on the referenced table, even if that table is not moved.',
    fix: '{sql}{instead}',
    *find(facts) {
      for (const { schema, table, right } of foreignKeyRights(facts)) {
        const { role, server } = facts.target
        const name = qualified(schema, table)
        yield {
          object: `${schema}.${table}`,
          what: `${role.name} has no ${right} on the target table ${schema}.${table}, which is part of a deferred foreign key`,
          names: {
            instead: facts.settings.defer.constraints ? OR_KEEP : '',
            sql:
              server.isCockroach || right === 'REFERENCES'
                ? `GRANT ${right} ON TABLE ${name} TO ${ident(role.name)};`
                : ownTable(name, role.name),
          },
        }
      }
    },
  },
  {
    id: 'right.write-access',
    severity: 'block',
    waivable: false,
    title: 'The migration user can restore write access after the commit',
    protects:
      'Write access to the target is revoked until the commit. If it could not be restored, the application would be locked out of both sides.',
    fix: '{sql} -- or set `write-access: waive`',
    *find({ target: { role, server }, settings }) {
      if (settings.writeAccess === 'waive' || !['undefined', 'planned', 'prepared'].includes(String(settings.phase)))
        return
      for (const table of new Set(role.ungrantable.map((each) => each.table))) {
        const lost = role.ungrantable.filter((each) => each.table === table)
        const option = grantOptionStatements(settings.targetSchema, lost, role.name)
        yield {
          object: `${settings.targetSchema}.${table}`,
          what: `${role.name} could not restore these privileges on the target: ${grantsText(lost)}`,
          names: {
            sql: server.isCockroach
              ? `${option.join('; ')};`
              : ownTable(qualified(settings.targetSchema, table), role.name),
          },
        }
      }
    },
  },
  {
    id: 'right.target-control-job',
    severity: 'block',
    title: 'The migration user can cancel its own imports',
    protects:
      'Up to v24.3, CANCEL JOB requires admin or CONTROLJOB. A failed or aborted load would leave its tables offline.',
    fix: 'GRANT SYSTEM CONTROLJOB TO {role};',
    *find(facts) {
      const { role, server } = facts.target
      const cancels = role.admin || has(role.system, 'CONTROLJOB') || cockroachSince(facts, 25, 1)
      if (server.isCockroach && !cancels && loads(facts) && (facts.settings.mode ?? 'import') === 'import')
        yield {
          object: role.name,
          what: `${role.name} has no CONTROLJOB on the target`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-implicit-access',
    severity: 'block',
    waivable: false,
    title: "The migration user can import from the load's files",
    protects:
      'IMPORT INTO over HTTP, from a custom endpoint or with implicit credentials requires EXTERNALIOIMPLICITACCESS. Without it, the load fails after exporting every row.',
    fix: 'GRANT SYSTEM EXTERNALIOIMPLICITACCESS TO {role};',
    *find(facts) {
      const { role, server } = facts.target
      const { implicitAccess } = facts.settings
      if (server.isCockroach && implicitAccess && loads(facts) && !has(role.system, 'EXTERNALIOIMPLICITACCESS'))
        yield {
          object: role.name,
          what: `${role.name} has no EXTERNALIOIMPLICITACCESS on the target, and ${implicitAccess}`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-copy',
    severity: 'block',
    title: 'The migration user can load with COPY',
    protects:
      '`mode: use-copy` and `direct-copy` load with COPY FROM, which requires the role admin. Without it, the load fails at its first row.',
    fix: 'Set `mode: import`. To keep the mode, make the migration user an administrator: GRANT admin TO {role};',
    *find(facts) {
      const { role, server } = facts.target
      const { mode } = facts.settings
      if (server.isCockroach && !role.admin && loads(facts) && (mode === 'use-copy' || mode === 'direct-copy'))
        yield {
          object: role.name,
          what: `${role.name} does not have the role admin on the target, and \`mode: ${mode}\` loads with COPY FROM`,
          names: { role: ident(role.name) },
        }
    },
  },
  {
    id: 'right.target-import',
    severity: 'block',
    title: 'The migration user can run IMPORT INTO',
    protects:
      'IMPORT INTO takes a table offline and requires DROP on it. COPY (`mode: use-copy`, `direct-copy`) does not.',
    fix: 'GRANT DROP ON TABLE {table} TO {role};',
    *find({ target: { role }, settings }) {
      for (const table of role.withoutDrop)
        yield {
          object: `${settings.targetSchema}.${table}`,
          what: `${role.name} has no DROP on the target table ${settings.targetSchema}.${table}`,
          names: { table: qualified(settings.targetSchema, table), role: ident(role.name) },
        }
    },
  },
]

/** A fix only for this run's deferral. It does not restore what `convert` or an earlier `prepare` has deferred. */
const OR_KEEP = ' -- or set `defer: none`'

/**
 * For PostgreSQL, where only an owner can alter a table. Changes the owner, because membership in a superuser would
 * make the role a superuser.
 */
function ownTable(table: string, role: string): string {
  return `ALTER TABLE ${table} OWNER TO ${ident(role)};`
}

/**
 * Makes a role a member of a table's owner. A member of a superuser can become that superuser, so a superuser's table
 * gets a new owner instead.
 */
function ownerStatements(
  { schema, name, owner, ownerIsSuperuser }: { schema: string; name: string; owner: string; ownerIsSuperuser: boolean },
  role: string,
): string[] {
  if (!ownerIsSuperuser) return [`GRANT ${ident(owner)} TO ${ident(role)};`]
  const own = ident(`${role}_owner`)
  return [
    `CREATE ROLE ${own} NOLOGIN;`,
    `GRANT ${own} TO ${ident(role)};`,
    `GRANT USAGE, CREATE ON SCHEMA ${ident(schema)} TO ${own};`,
    `ALTER TABLE ${qualified(schema, name)} OWNER TO ${own};`,
  ]
}
