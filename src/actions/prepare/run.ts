import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info } from '@actions/core'
import { type Finding, requireWaiversMatch, runChecks, type Waiver, waiverText } from '../../checks/check.ts'
import type { Facts } from '../../checks/facts.ts'
import { CHECKS } from '../../checks/index.ts'
import { annotate, blocking, preflightOf, summaryOf } from '../../checks/report.ts'
import { fingerprint, packFingerprint } from '../../migration/fingerprint.ts'
import { planHash } from '../../migration/plan.ts'
import type { Schema } from '../../migration/schema.ts'
import { exactFilter } from '../../migration/tables.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse, UserError } from '../../runtime/errors.ts'
import { number, workFolder } from '../../runtime/progress.ts'
import { installFence } from '../../source/fence.ts'
import { createHeartbeat, createTargetHeartbeat, HEARTBEAT } from '../../source/heartbeat.ts'
import { assess } from '../../steps/assess.ts'
import {
  addEvidence,
  advance,
  createEntry,
  createLedger,
  type Entry,
  type Plan,
  readEntryIfAny,
} from '../../target/ledger.ts'
import { PUBLICATION } from '../../tools/molt-fetch.ts'
import { withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Prepare = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) => withBoth(context.inputs, (source, target) => prepare(context, source, target)),
}

/** How long a transaction may be open before it is worth a warning. */
const LONG_TRANSACTION_MS = 5 * 60_000

async function prepare(context: Prepare, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const before = await readEntryIfAny(target, inputs.migration)
  const facts = await gather(inputs, before)
  const waivers = inputs.waive ?? []
  const findings = runChecks(CHECKS, facts, waivers)
  requireWaiversMatch(CHECKS, waivers, findings)
  const plan = planOf(facts, waivers)
  publish(context, facts, findings, plan)
  const blocked = blocking(findings)
  if (blocked.length)
    refuse(
      `${number(blocked.length)} findings block`,
      blocked.map((each) => `${each.check}: ${each.what}; ${each.fix}`),
      'Nothing was changed on either side. Put these right, or waive them by name, and run `prepare` again.',
    )
  const entry = await install(source, target, facts, plan)
  info(`${number(plan.tables.length)} expected tables are ${entry.phase}; plan ${plan.hash}`)
  context.output('phase', entry.phase)
}

function gather(inputs: Prepare['inputs'], entry: Entry | undefined): Promise<Facts> {
  return assess({
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    choose: (schema) => {
      const tables = expectedTables(inputs, schema)
      return { tables, filter: exactFilter(tables) }
    },
    settings: {
      migration: inputs.migration,
      phase: entry?.phase,
      schema: inputs.schema,
      targetSchema: inputs.targetSchema ?? inputs.schema,
      asked: inputs.tables,
      slot: inputs.slot,
      publication: PUBLICATION,
      rehearsalTarget: inputs.rehearsalTarget,
      defer: { indexes: false, constraints: false },
      tableHandling: inputs.tableHandling,
      bucketPath: inputs.bucketPath,
      tableConcurrency: inputs.tableConcurrency,
      exportConcurrency: inputs.exportConcurrency,
      rowBatchSize: inputs.rowBatchSize,
      loadRate: inputs.loadRate,
      jobLimit: inputs.jobLimit,
      sessionLimit: inputs.sessionLimit,
      longTransaction: LONG_TRANSACTION_MS,
    },
  })
}

/** The tables to move, resolved on the source: whatever the target lacks is a problem, not a reason to move less. */
function expectedTables(inputs: Prepare['inputs'], { tables: all }: Schema): string[] {
  const names = new Set(all.map((table) => table.name))
  for (const name of [...(inputs.tables ?? []), ...(inputs.excludeTables ?? [])])
    if (!names.has(name))
      throw new UserError(
        `the schema ${inputs.schema} of the source has no table ${name}; names are case-sensitive, and without the schema`,
      )
  const asked = inputs.tables && new Set(inputs.tables)
  const excluded = new Set([...(inputs.excludeTables ?? []), HEARTBEAT])
  const chosen = all.map(({ name }) => name).filter((name) => (asked?.has(name) ?? true) && !excluded.has(name))
  if (!chosen.length)
    throw new UserError(
      `no table to move: the schema ${inputs.schema} of the source has ${all.length} tables, and none is selected`,
    )
  return chosen
}

function planOf({ settings, machine }: Facts, waivers: readonly Waiver[]): Plan {
  const { schema, targetSchema, slot, publication } = settings
  const tools = Object.entries(machine.tools).flatMap(([name, found]) => (found ? [[name, found.sha256]] : []))
  const plan = {
    sourceSchema: schema,
    targetSchema,
    tables: [...settings.tables],
    slot,
    publication,
    waivers: waivers.map(waiverText),
    tools: Object.fromEntries(tools) as Record<string, string>,
  }
  return { ...plan, hash: planHash(plan) }
}

/** Tells everybody what was found: annotations, summary, preflight.json and outputs. */
function publish(context: Prepare, facts: Facts, findings: readonly Finding[], plan: Plan): void {
  const hash = plan.hash as string
  const kept = { hash, defer: plan.defer ?? 'none', slot: plan.slot, publication: plan.publication }
  const preflight = preflightOf(facts, findings, kept, plan.waivers ?? [])
  const path = join(workFolder(facts.settings.migration), 'preflight.json')
  writeFileSync(path, `${JSON.stringify(preflight, null, 2)}\n`)
  annotate(findings)
  context.summary(summaryOf(facts, findings, hash))
  const { block, warn, info, waived } = preflight.counts
  context.output('preflight', path)
  context.output('findings', JSON.stringify({ block, warn, info, waived }))
  context.output('plan-hash', hash)
  context.output('tables', JSON.stringify(plan.tables))
  context.output('table-count', plan.tables.length)
}

/** Puts ledger, heartbeat and fence in place; the entry then holds the plan and both schemas' fingerprints. */
async function install(source: Database, target: Database, facts: Facts, plan: Plan): Promise<Entry> {
  const { migration, tables } = facts.settings
  const { systemIdentifier, databaseOid } = facts.source.server
  await createLedger(target)
  const owner = await createHeartbeat(source, migration)
  if (owner.migration !== migration)
    throw new UserError(
      `the source belongs to migration \`${owner.migration}\` since a moment ago; run \`cleanup\` for it first`,
    )
  await createTargetHeartbeat(target, plan.targetSchema)
  const identity = { systemIdentifier, databaseOid, sourceId: owner.sourceId }
  let entry = await createEntry(target, migration, plan, { source: identity })
  requireSamePlan(entry, plan)
  const expected = new Set(tables)
  const fence = await installFence(
    source,
    facts.source.schema.tables.filter((table) => expected.has(table.name)),
  )
  if (entry.phase === 'planned' || entry.phase === 'prepared') {
    const fingerprints = {
      source: packFingerprint(fingerprint(facts.source.schema, tables)),
      target: packFingerprint(fingerprint(facts.target.schema, tables)),
    }
    const more = { fenceId: fence.id, source: identity, fingerprints }
    entry = await advance(target, entry, 'prepared', { facts: more, plan })
  }
  const { server, connection } = facts.source
  await addEvidence(target, migration, 'prepare', { server, connection, plan, fenceId: fence.id })
  return entry
}

function requireSamePlan(entry: Entry, plan: Plan): void {
  if (JSON.stringify(sorted(entry.plan)) === JSON.stringify(sorted(plan))) return
  throw new UserError(
    `migration \`${entry.id}\` was prepared with another plan (tables, schemas or slot); give this one another \`migration\` name, or \`cleanup\` the first`,
  )
}

/** What must not change between two runs; waivers, deferral and tools may, as long as nothing is loaded. */
function sorted({ sourceSchema, targetSchema, tables, slot, publication }: Plan): unknown[] {
  return [sourceSchema, targetSchema, [...tables].sort(), slot, publication]
}
