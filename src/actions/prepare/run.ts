import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { type Finding, requireWaiversMatch, runChecks, type Waiver, waiverText } from '../../checks/check.ts'
import type { Facts } from '../../checks/facts/facts.ts'
import { assess } from '../../checks/facts/gather.ts'
import { missingTables, sourceGrants, targetGrants } from '../../checks/grants.ts'
import { CHECKS } from '../../checks/index.ts'
import { annotate, blocking, preflightOf, summaryOf } from '../../checks/report.ts'
import {
  type Deferral,
  deferObjects,
  deferredNames,
  listDeferred,
  plannedDeferral,
} from '../../destination/deferral.ts'
import { dropTrial, trialSchema, tryDefinitions as tryDeferred } from '../../destination/trial.ts'
import {
  closeWriteAccess,
  grantOptionStatements,
  grantsText,
  mergeWriteGrants,
  readAccess,
  readWriteGrants,
} from '../../destination/write-access.ts'
import {
  addEvidence,
  advance,
  createEntry,
  createLedger,
  type Entry,
  type Phase,
  readEntryIfAny,
  standingText,
} from '../../ledger/ledger.ts'
import { fingerprint, packFingerprint } from '../../model/fingerprint.ts'
import { canonicalJson, type Plan, planHash } from '../../model/plan.ts'
import type { Schema } from '../../model/schema.ts'
import { type Decided, decidedText, pinDecisions } from '../../model/structure.ts'
import { exactFilter } from '../../model/tables.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { InputError, messageOf, refuse, UserError } from '../../runtime/errors.ts'
import { loadInputs } from '../../runtime/inputs.ts'
import { requireToolPasswords } from '../../runtime/password-command.ts'
import { number, plural, someOf, workFolder } from '../../runtime/progress.ts'
import { installFence, probeFence } from '../../source/fence.ts'
import { createHeartbeat, createTargetHeartbeat, HEARTBEAT } from '../../source/heartbeat.ts'
import { tryDefinitions } from '../../source/server.ts'
import { readSchema } from '../../sql/schema.ts'
import { structureOf } from '../../sql/structure.ts'
import { withTriggers } from '../../sql/triggers.ts'
import { filesProblem, implicitAccess, PUBLICATION } from '../../tools/molt-fetch.ts'
import { convertSource } from '../decisions.ts'
import { spec as fetch } from '../fetch/spec.ts'
import { withBoth } from '../shared.ts'
import { specs } from '../specs.ts'
import { spec } from './spec.ts'

type Prepare = Context<typeof spec>
/** Number of findings by severity, and of waived ones. */
type Counts = Record<'block' | 'warn' | 'info' | 'waived', number>

export const action: Action<typeof spec> = {
  spec,
  run: async (context) => {
    if (context.inputs.checkLoad) requireLoadSettings()
    await withBoth(context, (source, target) => prepare(context, source, target))
  },
}

/**
 * Checks the settings that `fetch` will get, from inputs with the same names and from its section of the config file.
 */
function requireLoadSettings(): void {
  const problem = filesProblem(loadInputs(fetch, specs))
  if (problem) throw new InputError('input.conflict', problem)
}

/** The settings of the load that the checks need; undefined if `fetch` would refuse them, unless `strict` is set. */
function loadSettings(strict: boolean): Pick<Facts['settings'], 'mode' | 'implicitAccess'> {
  try {
    const inputs = loadInputs(fetch, specs)
    return { mode: inputs.mode, implicitAccess: implicitAccess(inputs, process.env) }
  } catch (error) {
    if (strict || !(error instanceof InputError)) throw error
    return { mode: undefined, implicitAccess: undefined }
  }
}

/** Transactions open for longer than this get a warning. */
const LONG_TRANSACTION_MS = 5 * 60_000

async function prepare(context: Prepare, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const before = await readEntryIfAny(target, inputs.migration)
  if (before && OVER.includes(before.phase)) throw new UserError('ledger.wrong-phase', standingText(before))
  const waivers = inputs.waive ?? []
  let facts = await gather(inputs, before)
  if (inputs.grants === 'print') return printGrants(context, facts)
  // Refuse a short-lived password now, before anything is installed. Later steps would refuse it.
  requireToolPasswords([inputs.source, inputs.target])
  let findings = runChecks(CHECKS, facts, waivers)
  // After the load, a waived finding may have been fixed.
  if (!before || before.phase === 'planned' || before.phase === 'prepared')
    requireWaiversMatch(CHECKS, waivers, findings)
  if (inputs.apply && (await applyFixes(source, target, findings))) {
    // Gather the facts again over new connections: role settings apply only to those, and a check must confirm each
    // fix.
    facts = await gather(inputs, before)
    findings = runChecks(CHECKS, facts, waivers)
  }
  const plan = planOf(facts, waivers, inputs, await decidedOn(context, facts))
  const counts = publish(context, facts, findings, plan)
  const blocked = blocking(findings)
  if (blocked.length)
    refuse(
      'preflight.blocked',
      plural(blocked.length, 'finding blocks', 'findings block'),
      // Names only the checks, because each finding has an annotation with its fix.
      [...new Set(blocked.map(({ check }) => check))],
      inputs.apply
        ? 'The safe fixes were applied; nothing was installed. Fix the findings as shown above, or waive them by name, then run `prepare` again.'
        : 'Nothing was changed on either side. Fix the findings as shown above, or waive them by name, then run `prepare` again.',
      { summarized: true },
    )
  const warnings = findings.filter(isOpenWarning).map(({ check, object }) => `${check} (${object})`)
  const entry = await install(source, target, facts, plan, { findings: counts, warnings })
  const count = plural(plan.tables.length, 'expected table is', 'expected tables are')
  info(`${count} ${entry.phase}; plan ${entry.plan.hash}`)
  // After the load, the plan in the ledger applies, not the inputs.
  context.output('plan-hash', entry.plan.hash as string)
  context.output('phase', entry.phase)
  context.output('deferred', (await listDeferred(target, entry.id)).filter((each) => !each.rebuilt).length)
}

/** Phases in which a migration has ended. What it left behind would block a new load. */
const OVER: readonly Phase[] = ['aborted', 'rolled-back', 'cleaned']

function isOpenWarning({ severity, waivedBy }: Finding): boolean {
  return severity === 'warn' && waivedBy === undefined
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
      rehearses: inputs.decision === 'rehearse',
      writeAccess: inputs.writeAccess,
      defer: deferralOf(inputs.defer),
      trial: inputs.trial,
      tableHandling: inputs.tableHandling,
      bucketPath: inputs.bucketPath,
      ...loadSettings(inputs.checkLoad),
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

/**
 * The tables to move, resolved on the source, so that a table missing on the target is reported instead of left out.
 */
function expectedTables(inputs: Prepare['inputs'], { tables: all }: Schema): string[] {
  const names = new Set(all.map((table) => table.name))
  for (const name of [...(inputs.tables ?? []), ...(inputs.excludeTables ?? [])])
    if (!names.has(name))
      throw new UserError(
        'input.unknown-table',
        `the schema ${inputs.schema} of the source has no table ${name}. Correct the name, which is case-sensitive and must not include the schema`,
      )
  const asked = inputs.tables && new Set(inputs.tables)
  const excluded = new Set([...(inputs.excludeTables ?? []), HEARTBEAT])
  const chosen = all.map(({ name }) => name).filter((name) => (asked?.has(name) ?? true) && !excluded.has(name))
  if (!chosen.length)
    throw new UserError(
      'prepare.no-tables',
      `no table to move: the schema ${inputs.schema} of the source has ${plural(all.length, 'table')}, but none is selected`,
    )
  return chosen
}

/** The decisions in `convert.yml` that apply to the current definitions of the expected tables. */
async function decidedOn({ inputs, signal }: Prepare, { settings, source, target }: Facts): Promise<Decided[]> {
  if (!inputs.decisions) return []
  const { major, minor } = target.server
  const { conversion } = await convertSource(inputs, [major, minor], signal)
  const expected = new Set(settings.tables)
  const decisions = conversion.decided.filter(({ table }) => expected.has(table))
  const decided = pinDecisions(decisions, structureOf(source.schema), source.schema.tables)
  for (const each of decided) info(`decided in ${inputs.decisions}: ${decidedText(each)}`)
  return decided
}

function planOf(
  { settings, machine, target }: Facts,
  waivers: readonly Waiver[],
  { defer, finalVerify, tables, excludeTables }: Prepare['inputs'],
  decided: readonly Decided[],
): Plan {
  const { schema, targetSchema, slot, publication } = settings
  const tools = Object.entries(machine.tools).flatMap(([name, found]) => (found ? [[name, found.sha256]] : []))
  const plan = {
    sourceSchema: schema,
    targetSchema,
    tables: [...settings.tables],
    ...(!tables && { excluded: [...(excludeTables ?? [])] }),
    slot,
    publication,
    waivers: waivers.map(waiverText),
    defer,
    ...(decided.length && { decided: [...decided] }),
    finalVerify,
    ...(target.server.isLikeServer && { likeServer: true }),
    tools: Object.fromEntries(tools) as Record<string, string>,
  }
  return { ...plan, hash: planHash(plan) }
}

/** Reports the findings: annotations, summary, preflight.json and outputs. */
function publish(context: Prepare, facts: Facts, findings: readonly Finding[], plan: Plan): Counts {
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
  context.output('target-version', facts.target.server.version)
  context.output('tables', JSON.stringify(plan.tables))
  context.output('table-count', plan.tables.length)
  return { block, warn, info, waived }
}

/** Installs ledger, heartbeat and fence, and records the plan and the fingerprints of both schemas in the ledger. */
async function install(
  source: Database,
  target: Database,
  facts: Facts,
  plan: Plan,
  found: { findings: Counts; warnings: string[] },
): Promise<Entry> {
  const { migration, tables } = facts.settings
  const { systemIdentifier, databaseOid } = facts.source.server
  // Test this before creating anything, so that a missing privilege does not stop the installation halfway.
  await tryDefinitions(source)
  await createLedger(target)
  const owner = await createHeartbeat(source, migration)
  if (owner.migration !== migration)
    throw new UserError(
      'source.taken',
      `the source is in use by migration \`${owner.migration}\`, which has just been created. Run \`cleanup\` for that migration first`,
    )
  await createTargetHeartbeat(target, plan.targetSchema, owner.sourceId)
  const identity = { systemIdentifier, databaseOid, sourceId: owner.sourceId }
  let entry = await createEntry(target, migration, plan, { source: identity })
  requireSamePlan(entry, plan)
  await dropTrial(target, entry.facts.trialSchema)
  const expected = new Set(tables)
  const fence = await installFence(
    source,
    facts.source.schema.tables.filter((table) => expected.has(table.name)),
  )
  // Test the fence now, so that a problem does not first show up during the cutover.
  await probeFence(source, fence)
  if (entry.phase === 'planned' || entry.phase === 'prepared') {
    entry = await tryDeferral(target, entry, facts)
    const there = await defer(target, facts, plan)
    const fingerprints = {
      source: packFingerprint(fingerprint(facts.source.schema, tables)),
      target: packFingerprint(fingerprint(there, tables)),
    }
    const deferred = await deferredNames(target, migration, entry.facts.deferred)
    const more = { source: identity, fingerprints, deferred }
    entry = await advance(target, entry, 'prepared', { facts: more, plan })
  } else requireSettled(entry, plan)
  entry = await takeWriteAccess(target, entry, facts.settings.writeAccess)
  const { server, connection } = facts.source
  const { tools } = facts.machine
  await addEvidence(target, migration, 'prepare', { server, connection, plan, fenceId: fence.id, tools, ...found })
  return entry
}

/** Revokes write access on the target. Records it first, so that the revocation can be undone if this run dies. */
async function takeWriteAccess(target: Database, entry: Entry, wanted: 'close' | 'waive'): Promise<Entry> {
  if (!['planned', 'prepared'].includes(entry.phase)) return entry
  if (wanted === 'waive') {
    const { writeAccess, writeAccessWaived } = entry.facts
    if (writeAccess || writeAccessWaived) return entry
    return advance(target, entry, entry.phase, { facts: { writeAccessWaived: true } })
  }
  const { targetSchema, tables } = entry.plan
  const { open, ungrantable, gone, user } = await readAccess(target, targetSchema, tables, entry.facts.writeAccess)
  if (ungrantable.length)
    refuse(
      'write-access.not-grantable',
      'write access to the target could not be restored later, so it was not revoked',
      grantOptionStatements(targetSchema, ungrantable, user),
      'Have an administrator run these statements (`grants: print` prints all missing privileges), then run `prepare` again.',
    )
  if (gone.length) warning(`not restored, because the role no longer exists: ${grantsText(gone, 'had')}`)
  const there = entry.facts.writeAccess?.filter((each) => !gone.includes(each))
  const kept = mergeWriteGrants(there ?? [], open)
  // Record this even if there is nothing to revoke, because later grants are compared with it.
  const changed = open.length > 0 || gone.length > 0 || !entry.facts.writeAccess
  const recorded = changed ? await advance(target, entry, entry.phase, { facts: { writeAccess: kept } }) : entry
  await closeWriteAccess(target, targetSchema, open)
  const left = await readWriteGrants(target, targetSchema, tables)
  if (left.length)
    refuse(
      'write-access.not-revoked',
      'write access on the target could not be revoked',
      [grantsText(left, 'still has')],
      'Another user granted these privileges. Revoke them, or set `write-access: waive`.',
    )
  if (kept.length) info(`revoked ${kept.length} write privileges on the target until the commit`)
  return recorded
}

async function tryDeferral(target: Database, entry: Entry, facts: Facts): Promise<Entry> {
  const { settings } = facts
  const { schema, server } = facts.target
  const { objects } = plannedDeferral(schema, settings.tables, settings.defer, server.isCockroach)
  if (settings.trial === 'none' || !objects.length) return entry
  const name = trialSchema()
  const named = await advance(target, entry, entry.phase, { facts: { trialSchema: name } })
  await tryDeferred(target, name, objects)
  return advance(target, named, named.phase, { facts: { trialSchema: null } })
}

/**
 * Drops what `defer` names.
 * @returns the target's schema as the load will find it
 */
async function defer(target: Database, facts: Facts, plan: Plan): Promise<Schema> {
  const { migration, defer: deferral } = facts.settings
  if (!deferral.indexes && !deferral.constraints) return facts.target.schema
  const { dropped, kept } = await deferObjects(target, migration, plan, deferral, facts.target.server.isCockroach)
  info(`${number(dropped)} indexes and constraints were saved in the ledger and dropped on the target`)
  if (kept.length)
    warning(
      `these checks stay on the target, because its catalog does not show which condition belongs to which check: ${kept.join(', ')}`,
    )
  return withTriggers(target, await readSchema(target, 'target', plan.targetSchema), plan.tables)
}

function deferralOf(defer: string): Deferral {
  const named = defer.split(',')
  return {
    indexes: named.includes('indexes'),
    constraints: named.includes('constraints'),
    uniqueAfterLoad: named.includes('unique-after-load'),
  }
}

/** Runs the fixes that the findings mark as safe; returns whether there were any. */
async function applyFixes(source: Database, target: Database, findings: readonly Finding[]): Promise<boolean> {
  const fixes = findings.filter((each) => each.apply && !each.waivedBy)
  for (const { check, apply } of fixes) {
    if (!apply) continue
    info(`applying on the ${apply.side} for ${check}: ${apply.sql}`)
    await (apply.side === 'source' ? source : target)
      .query(apply.sql)
      .catch((error) => warning(`${apply.sql} failed: ${messageOf(error)}`, { title: check }))
  }
  return fixes.length > 0
}

/** Writes the SQL that grants the migration user its privileges, for an administrator to run. */
function printGrants(context: Prepare, facts: Facts): void {
  const { migrationUser, migration } = context.inputs
  const written = { source: sourceGrants(facts, migrationUser), target: targetGrants(facts, migrationUser) }
  for (const side of ['source', 'target'] as const) {
    const path = join(workFolder(migration), `grants-${side}.sql`)
    writeFileSync(path, written[side])
    context.output(`grants-${side}`, path)
    info(written[side])
    const short = written[side].length < 60_000
    context.summary(
      `### Privileges on the ${side}\n\n${short ? `\`\`\`sql\n${written[side]}\`\`\`` : `See ${path}; too long to show here.`}`,
    )
  }
  info('`grants: print` only writes SQL; nothing was checked or installed')
  const missing = missingTables(facts)
  if (missing.length)
    warning(
      `The grants on the target are incomplete: ${plural(missing.length, 'expected table is', 'expected tables are')} missing there. Create ${someOf(missing, 5)}, then print the grants again.`,
    )
}

function requireSamePlan(entry: Entry, plan: Plan): void {
  if (JSON.stringify(sorted(entry.plan)) === JSON.stringify(sorted(plan))) return
  throw new UserError(
    'prepare.other-plan',
    `migration \`${entry.id}\` was prepared with another plan (tables, schemas or slot). To start over, run \`abort\` first. For another source database, use another \`migration\` name`,
  )
}

/** Refuses inputs that would have no effect, because the plan is fixed once the tables are loaded. */
function requireSettled({ id, phase, plan }: Entry, asked: Plan): void {
  const changed = [
    ['final-verify', plan.finalVerify ?? 'auto', asked.finalVerify ?? 'auto'],
    ['defer', plan.defer ?? 'none', asked.defer ?? 'none'],
  ].flatMap(([name, was, is]) =>
    was === is ? [] : `\`${name}\` is \`${was}\` in the plan, but \`${is}\` in the inputs`,
  )
  if (canonicalJson(plan.decided ?? []) !== canonicalJson(asked.decided ?? []))
    changed.push('`decisions` differs from the plan, or a definition that it names has changed on the source')
  if (changed.length)
    throw new UserError(
      'prepare.plan-fixed',
      `migration \`${id}\` is ${phase}, so its plan can no longer change: ${changed.join('; ')}. Set the planned values. \`cutover\` accepts a stricter \`final-verify\``,
    )
}

/**
 * The parts of a plan that must not change between two runs. The other parts may change until the tables are loaded.
 */
function sorted({ sourceSchema, targetSchema, tables, slot, publication }: Plan): unknown[] {
  return [sourceSchema, targetSchema, [...tables].sort(), slot, publication]
}
