import { LOGIN_RIGHTS } from '../destination/stream-login.ts'
import { ownershipStatements } from '../destination/unrevocable.ts'
import { grantOptionStatements } from '../destination/write-access.ts'
import { ident, literal, qualified } from '../runtime/database.ts'
import { cockroachSince } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { expectedRelations, foreignKeyRights } from './rights.ts'

/** A placeholder in the printed SQL, which the administrator must replace. */
const PASSWORD = 'WRITE A PASSWORD HERE'

/** SQL that grants the migration user only the privileges that it needs on the source. Safe to run repeatedly. */
export function sourceGrants(facts: Facts, user: string): string {
  const { server, role, relations, statementsSchema } = facts.source
  const schema = ident(facts.settings.schema)
  const name = ident(user)
  const tables = expectedRelations(facts)
  const sequences = relations.filter((each) => each.kind === 'S' && each.schema === facts.settings.schema)
  const replication = role.providerRoles.includes('rds_replication')
    ? `GRANT rds_replication TO ${name};`
    : `ALTER ROLE ${name} REPLICATION;`
  return lines([
    `-- For the source, in the database ${server.database}: the migration user ${user}.`,
    `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ${literal(user)}) THEN CREATE ROLE ${name}; END IF; END $$;`,
    `ALTER ROLE ${name} LOGIN PASSWORD '${PASSWORD}';`,
    replication,
    `ALTER ROLE ${name} SET statement_timeout = 0;`,
    `ALTER ROLE ${name} SET idle_in_transaction_session_timeout = 0;`,
    '-- To see the transactions of other users.',
    `GRANT pg_read_all_stats TO ${name};`,
    // Every role can use `public`.
    ...(statementsSchema && statementsSchema.name !== 'public'
      ? [`GRANT USAGE ON SCHEMA ${ident(statementsSchema.name)} TO ${name};`]
      : []),
    '-- For the publication, the heartbeat and the fence.',
    `GRANT CONNECT, CREATE ON DATABASE ${ident(server.database)} TO ${name};`,
    // If a superuser owns tables, `ownership` grants USAGE to the new owner, and the user inherits it.
    ...(tables.some((each) => each.ownerIsSuperuser) ? [] : [`GRANT USAGE ON SCHEMA ${schema} TO ${name};`]),
    ...sequences.map((each) => `GRANT SELECT ON SEQUENCE ${qualified(each.schema, each.name)} TO ${name};`),
    ...ownership(facts, user),
    ...(tables.some((each) => each.rowsHiddenFromOwner) ? [`ALTER ROLE ${name} BYPASSRLS;`] : []),
  ])
}

/**
 * Statements that make the user a member of each table's owner, because only an owner can publish a table and install a
 * fence on it. A member of a superuser can become that superuser, so tables of superusers get a new owner instead.
 */
function ownership(facts: Facts, user: string): string[] {
  const tables = expectedRelations(facts)
  const owners = new Set(
    tables.filter((each) => !each.ownerIsSuperuser && each.owner !== user).map((each) => each.owner),
  )
  const grants = [...owners].map((owner) => `GRANT ${ident(owner)} TO ${ident(user)};`)
  const orphans = tables.filter((each) => each.ownerIsSuperuser)
  if (orphans.length) {
    const owner = `${user}_owner`
    grants.push(
      '-- These tables belong to a superuser. Membership would make the migration user a superuser too.',
      `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ${literal(owner)}) THEN CREATE ROLE ${ident(owner)} NOLOGIN; END IF; END $$;`,
      `GRANT ${ident(owner)} TO ${ident(user)};`,
      `GRANT USAGE, CREATE ON SCHEMA ${ident(facts.settings.schema)} TO ${ident(owner)};`,
      ...orphans.map((each) => `ALTER TABLE ${qualified(each.schema, each.name)} OWNER TO ${ident(owner)};`),
    )
  }
  return ['-- Only an owner can publish a table and install the fence on it.', ...grants]
}

/**
 * SQL that grants the migration user only the privileges that it needs on the target: CockroachDB, or PostgreSQL in a
 * rehearsal.
 */
export function targetGrants(facts: Facts, user: string): string {
  const { server, schema } = facts.target
  const name = ident(user)
  const expected = new Set(facts.settings.tables)
  const tables = schema.tables
    .filter((each) => expected.has(each.name))
    .map((each) => qualified(schema.name, each.name))
  const sequences = schema.sequences.map((each) => qualified(schema.name, each.name))
  const defers = facts.settings.defer.indexes || facts.settings.defer.constraints || facts.target.awaited.length > 0
  const more = server.isCockroach ? ['DROP', ...(defers ? ['CREATE'] : [])] : ['TRUNCATE']
  return lines([
    `-- For the target, in the database ${server.database}: the migration user ${user}.`,
    ...(server.isCockroach
      ? [`CREATE USER IF NOT EXISTS ${name};`, `ALTER USER ${name} WITH PASSWORD '${PASSWORD}';`]
      : [
          `DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ${literal(user)}) THEN CREATE ROLE ${name}; END IF; END $$;`,
          `ALTER ROLE ${name} LOGIN PASSWORD '${PASSWORD}';`,
        ]),
    '-- To create one login for each leg of the stream.',
    `ALTER ROLE ${name} CREATEROLE;`,
    ...(server.isCockroach ? [`ALTER ROLE ${name} CREATELOGIN;`] : []),
    ...(facts.target.secured.length ? [`ALTER ROLE ${name} BYPASSRLS;`] : []),
    "-- For the ledger, the staging schema, the heartbeat, and molt's own tables in public.",
    `GRANT CONNECT, CREATE ON DATABASE ${ident(server.database)} TO ${name};`,
    `GRANT CREATE ON SCHEMA ${ident(schema.name)} TO ${name};`,
    `GRANT USAGE ON SCHEMA ${ident(schema.name)} TO ${name} WITH GRANT OPTION;`,
    ...(schema.name === 'public' ? [] : [`GRANT USAGE, CREATE ON SCHEMA public TO ${name};`]),
    ...onLedger(facts, name),
    ...incomplete(facts),
    ...(tables.length
      ? [
          "-- For the load and the stream. With the grant option, to grant the same to the stream's logins.",
          `GRANT ${LOGIN_RIGHTS.join(', ')} ON TABLE ${tables.join(', ')} TO ${name} WITH GRANT OPTION;`,
          server.isCockroach
            ? '-- DROP is for IMPORT INTO and TRUNCATE, CREATE for deferred indexes and constraints.'
            : '',
          `GRANT ${more.join(', ')} ON TABLE ${tables.join(', ')} TO ${name};`,
        ]
      : []),
    ...onForeignKeys(facts, user),
    ...writeAccess(facts, user),
    ...sequences.map((sequence) => `GRANT SELECT, UPDATE ON SEQUENCE ${sequence} TO ${name};`),
    ...(server.isCockroach
      ? [
          '-- To see the imports and changefeeds of other users.',
          `GRANT SYSTEM VIEWJOB TO ${name};`,
          '-- To see statements without values, sessions and the connection limit: for `observe`, and to find other writers.',
          `GRANT SYSTEM VIEWACTIVITYREDACTED TO ${name};`,
          `GRANT SYSTEM VIEWCLUSTERSETTING TO ${name};`,
          ...(cockroachSince(facts, 25, 1)
            ? []
            : [
                '-- To cancel its own imports, for `abort` and after a failed load.',
                `GRANT SYSTEM CONTROLJOB TO ${name};`,
              ]),
          '-- For IMPORT INTO over HTTP (`local-path`), and from buckets with implicit credentials or a custom endpoint.',
          `GRANT SYSTEM EXTERNALIOIMPLICITACCESS TO ${name};`,
          '-- `mode: use-copy` and `direct-copy` require the role admin, which is not granted here.',
        ]
      : []),
  ])
}

/**
 * Privileges on an existing ledger, which an administrator may have created with `setup`, or with `convert` and
 * `apply`.
 */
function onLedger({ target: { role } }: Facts, name: string): string[] {
  if (!role.ledger) return []
  return [
    '-- For the ledger, which already exists.',
    `GRANT USAGE, CREATE ON SCHEMA molt_actions TO ${name};`,
    `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA molt_actions TO ${name};`,
  ]
}

function incomplete(facts: Facts): string[] {
  const missing = missingTables(facts).map(ident)
  return missing.length
    ? [`-- INCOMPLETE: create these tables on the target, then print the grants again: ${missing.join(', ')}.`]
    : []
}

/** Expected tables that do not exist on the target yet, so privileges on them cannot be granted. */
export function missingTables({ settings, target }: Facts): string[] {
  const there = new Set(target.schema.tables.map(({ name }) => name))
  return settings.tables.filter((name) => !there.has(name))
}

/** Dropping and adding a foreign key requires privileges on both of its tables, even on a table that is not moved. */
function onForeignKeys(facts: Facts, user: string): string[] {
  const asUser = {
    ...facts,
    target: { ...facts.target, role: { ...facts.target.role, admin: false, onForeignKeys: [] } },
  }
  const expected = new Set(facts.settings.tables)
  const { server, schema } = facts.target
  const missing = foreignKeyRights(asUser).filter(
    (each) =>
      !(server.isCockroach && each.right === 'CREATE' && each.schema === schema.name && expected.has(each.table)),
  )
  const grants = missing
    .filter(({ right }) => server.isCockroach || right === 'REFERENCES')
    .map(({ schema, table, right }) => `GRANT ${right} ON TABLE ${qualified(schema, table)} TO ${ident(user)};`)
  return grants.length ? ['-- To drop foreign keys for the load and add them again.', ...grants] : []
}

/** The grant options needed to restore other roles' write privileges, which are revoked until the commit. */
function writeAccess(facts: Facts, user: string): string[] {
  const { target, settings } = facts
  if (settings.writeAccess === 'waive') return []
  const owned = takenOver(facts, user)
  const grants = target.writeGrants.filter(({ role }) => role !== user)
  if (!grants.length) return owned
  const giveBack = "-- To restore the application's write access after the commit."
  if (target.server.isCockroach)
    return [...owned, giveBack, ...grantOptionStatements(settings.targetSchema, grants, user).map((each) => `${each};`)]
  const tables = new Set(grants.map(({ table }) => qualified(settings.targetSchema, table)))
  const taken = [...tables].map((table) => `ALTER TABLE ${table} OWNER TO ${ident(user)};`)
  return [...owned, giveBack, ...taken.filter((each) => !owned.includes(each))]
}

/** Statements that take over tables whose owner could otherwise write to them before the commit. */
function takenOver({ target, settings }: Facts, user: string): string[] {
  if (![undefined, 'planned', 'prepared'].includes(settings.phase)) return []
  const owners = target.unrevocable.filter(
    ({ administrator, role, through }) =>
      !administrator && role !== user && (through === user || through !== target.role.name),
  )
  if (!owners.length) return []
  const statements = ownershipStatements(settings.targetSchema, owners, user)
  return [
    '-- REVOKE cannot stop these roles from writing before the commit. Change the owners back after `finalize`.',
    ...statements.map((each) => `${each};`),
  ]
}

function lines(all: readonly string[]): string {
  return `${all.filter(Boolean).join('\n')}\n`
}
