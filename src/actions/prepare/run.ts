import { info } from '@actions/core'
import { compareTables, type Table } from '../../migration/tables.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, UserError } from '../../runtime/errors.ts'
import { number } from '../../runtime/progress.ts'
import { readServer, type ServerFacts } from '../../source/catalog.ts'
import { installFence, readFence } from '../../source/fence.ts'
import { createHeartbeat, createTargetHeartbeat, HEARTBEAT } from '../../source/heartbeat.ts'
import { readSlot } from '../../source/slot.ts'
import { readTables } from '../../sql/tables.ts'
import { readTarget } from '../../target/catalog.ts'
import { addEvidence, advance, createEntry, createLedger, type Entry, type Plan } from '../../target/ledger.ts'
import { PUBLICATION } from '../../tools/molt-fetch.ts'
import { withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Prepare = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) => withBoth(context.inputs, (source, target) => prepare(context, source, target)),
}

async function prepare(context: Prepare, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const server = await readServer(source)
  const all = await readTables(source, inputs.schema)
  const tables = expectedTables(inputs, all)
  const there = await readTables(target, inputs.targetSchema ?? inputs.schema)
  const problems = [
    ...serverProblems(server),
    ...(await targetProblems(target, inputs.rehearsalTarget)),
    ...keyProblems(tables),
    ...compareTables(tables, there).map(({ what, fix }) => `${what}; ${fix}`),
  ]
  const before = await fenceBefore(source)
  if (before) problems.push(before)
  const slot = await readSlot(source, inputs.slot)
  const plan: Plan = {
    sourceSchema: inputs.schema,
    targetSchema: inputs.targetSchema ?? inputs.schema,
    tables: tables.map((table) => table.name),
    slot: inputs.slot,
    publication: PUBLICATION,
  }
  if (problems.length)
    refuse(
      `${problems.length} checks do not pass`,
      problems,
      'Nothing was changed on either side. Put these right and run `prepare` again.',
    )
  await createLedger(target)
  const owner = await createHeartbeat(source, inputs.migration)
  if (owner.migration !== inputs.migration)
    throw new UserError(
      `the source belongs to migration \`${owner.migration}\`; one source database carries one migration at a time, since MOLT's publication has a fixed name. Run \`cleanup\` for it first`,
    )
  await createTargetHeartbeat(target, plan.targetSchema)
  const identity = {
    systemIdentifier: server.systemIdentifier,
    databaseOid: server.databaseOid,
    sourceId: owner.sourceId,
  }
  let entry = await createEntry(target, inputs.migration, plan, { source: identity })
  if (slot && entry.phase === 'planned')
    refuse(
      'a slot is in the way',
      [`the slot ${inputs.slot} exists already${slot.active ? ` and is read by PID ${slot.activePid}` : ''}`],
      `Drop it if nobody needs it (SELECT pg_drop_replication_slot('${inputs.slot}')), or name another one in \`slot\`.`,
    )
  requireSamePlan(entry, plan)
  const fence = await installFence(source, tables)
  if (entry.phase === 'planned')
    entry = await advance(target, entry, 'prepared', { facts: { fenceId: fence.id, source: identity } })
  await addEvidence(target, inputs.migration, 'prepare', { server, plan, fenceId: fence.id })
  report(context, server, plan, entry)
}

/** The tables to move, resolved on the source: whatever the target lacks is a problem, not a reason to move less. */
function expectedTables(inputs: Prepare['inputs'], all: readonly Table[]): Table[] {
  const names = new Set(all.map((table) => table.name))
  for (const name of [...(inputs.tables ?? []), ...(inputs.excludeTables ?? [])])
    if (!names.has(name))
      throw new UserError(
        `the schema ${inputs.schema} of the source has no table ${name}; names are case-sensitive, and without the schema`,
      )
  const chosen = all.filter(
    (table) =>
      (inputs.tables?.includes(table.name) ?? true) &&
      !inputs.excludeTables?.includes(table.name) &&
      table.name !== HEARTBEAT,
  )
  if (!chosen.length)
    throw new UserError(
      `no table to move: the schema ${inputs.schema} of the source has ${all.length} tables, and none is selected`,
    )
  return chosen
}

function serverProblems(server: ServerFacts): string[] {
  const major = Math.floor(server.version / 10_000)
  return [
    server.inRecovery && 'the source is a replica; logical replication for MOLT starts on the primary',
    server.walLevel !== 'logical' && `wal_level is ${server.walLevel} on the source; set it to logical and restart it`,
    server.slotsFree < 1 && 'no replication slot is free on the source; raise max_replication_slots and restart it',
    server.sendersFree < 1 && 'no WAL sender is free on the source; raise max_wal_senders and restart it',
    server.encoding !== 'UTF8' && `the source database is encoded in ${server.encoding}; MOLT needs UTF8`,
    (major < 12 || major > 16) && `the source is PostgreSQL ${major}; MOLT loads from 11 to 16 and verifies 12 to 16`,
  ].filter((problem) => problem !== false)
}

function keyProblems(tables: readonly Table[]): string[] {
  return tables
    .filter((table) => !table.key.length)
    .map(
      (table) =>
        `${table.schema}.${table.name} has no primary key: neither load nor stream can carry it; add one, or leave it out with \`exclude-tables\``,
    )
}

async function targetProblems(target: Database, rehearsal: boolean): Promise<string[]> {
  const { isCockroach, version } = await readTarget(target)
  if (isCockroach || rehearsal) return []
  return [
    `the target is not CockroachDB (it says: ${version}); for a rehearsal on PostgreSQL say \`rehearsal-target: true\``,
  ]
}

async function fenceBefore(source: Database): Promise<string | undefined> {
  const fence = await readFence(source)
  if (fence.state === 'permanent')
    return 'the fence on the source is permanent: a migration of this database was committed already'
  if (fence.state === 'armed')
    return 'the fence on the source is armed: another run holds it; wait for it, or lift it with `fence`'
  return undefined
}

function requireSamePlan(entry: Entry, plan: Plan): void {
  if (JSON.stringify(sorted(entry.plan)) === JSON.stringify(sorted(plan))) return
  throw new UserError(
    `migration \`${entry.id}\` was prepared with another plan (tables, schemas or slot); give this one another \`migration\` name, or \`cleanup\` the first`,
  )
}

function sorted(plan: Plan): unknown[] {
  return Object.entries({ ...plan, tables: [...plan.tables].sort() }).sort(([a], [b]) => (a < b ? -1 : 1))
}

function report(context: Prepare, server: ServerFacts, plan: Plan, entry: Entry): void {
  const major = Math.floor(server.version / 10_000)
  info(
    `PostgreSQL ${major}, ${number(plan.tables.length)} expected tables, ${server.slotsFree} slots and ${server.sendersFree} WAL senders free`,
  )
  context.output('tables', JSON.stringify(plan.tables))
  context.output('table-count', plan.tables.length)
  context.output('phase', entry.phase)
  context.summary(
    `### Prepared\n\n${number(plan.tables.length)} expected tables in \`${plan.sourceSchema}\`: ${plan.tables
      .slice(0, 50)
      .map((table) => `\`${table}\``)
      .join(', ')}${plan.tables.length > 50 ? ' …' : ''}. Heartbeat and disarmed fence are in place.`,
  )
}
