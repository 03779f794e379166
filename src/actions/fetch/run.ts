import { join } from 'node:path'
import { info } from '@actions/core'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { InputError, refuse, UserError } from '../../runtime/errors.ts'
import { number, progress, workFolder } from '../../runtime/progress.ts'
import {
  completePublication,
  createPublication,
  dropSlot,
  readPublication,
  readSlot,
  slotProblems,
} from '../../source/slot.ts'
import { countRows } from '../../sql/tables.ts'
import { type LoadProgress, runLoad } from '../../steps/load.ts'
import { definitionProblems } from '../../steps/verifying.ts'
import { addEvidence, advance, type Entry, type Plan, requireEntry } from '../../target/ledger.ts'
import { type FetchAccount, fetchArgs, fetchFeatures, fetchProblems } from '../../tools/molt-fetch.ts'
import { freeAddress } from '../../tools/process.ts'
import { toolHelp } from '../../tools/versions.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

type Fetch = Context<typeof spec>

/** Flags that decide what is moved, from where, and whether it can be believed: only the action sets them. */
const OWNED =
  /^--(source|target|schema-filter|table-filter|pglogical-.*|table-handling|direct-copy|use-copy|bucket-path|local-path.*|non-interactive|log-file|logging|use-console-writer|metrics-listen-addr|mode|allow-tls-mode-disable)(=|$)/

export const action: Action<typeof spec> = {
  spec,
  run: async (context) => {
    checkInputs(context.inputs)
    await withBoth(context.inputs, (source, target) => fetchTables(context, source, target))
  },
}

function checkInputs(inputs: Fetch['inputs']): void {
  const owned = inputs.extraArgs?.find((argument) => OWNED.test(argument))
  if (owned)
    throw new InputError(`input \`extra-args\`: ${owned.split('=')[0]} is set by this action itself; use its own input`)
  if (inputs.mode !== 'direct-copy' && !inputs.bucketPath && !inputs.localPath)
    throw new InputError(
      `input \`mode\`: \`${inputs.mode}\` moves rows through files; write \`bucket-path\` or \`local-path\`, or take \`direct-copy\``,
    )
}

async function fetchTables(context: Fetch, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const entry = await requireEntry(target, inputs.migration, ['prepared'])
  const { plan } = entry
  await requireSameSource(source, entry)
  const definitions = await definitionProblems(source, target, plan)
  if (definitions.length)
    refuse(
      'the tables have changed since `prepare`',
      definitions.map(({ what, fix }) => `${what}; ${fix}`),
      'No row was moved.',
    )
  await requireEmptyTarget(target, inputs, plan)
  const args = await commandLine(inputs, plan, source)
  const began = performance.now()
  const account = await load(context, plan, args, source)
  const problems = [...fetchProblems(account, plan.tables), ...(await arrivedProblems(target, plan, account))]
  if (problems.length) {
    await dropSlot(source, plan.slot)
    refuse(
      'the load is not complete, although molt fetch ended with exit code 0',
      problems,
      `The slot ${plan.slot} was dropped, so that it does not fill the source's disk. Put these right, empty the target tables, and load again.`,
    )
  }
  await completePublication(source, plan.publication)
  const stream = await slotProblems(source, { ...plan, schema: plan.sourceSchema, cursor: account.cursor })
  if (stream.length)
    refuse('the load is complete, but the stream cannot begin', stream, 'Put these right before `replicate`.')
  await advance(target, entry, 'loaded', {
    facts: { cursor: account.cursor, stagingSchema: stagingSchema(entry, account) },
  })
  const durationMs = Math.round(performance.now() - began)
  await addEvidence(target, entry.id, 'fetch', { ...account, durationMs })
  report(context, plan, account, durationMs)
}

/** Rows that are there already would be counted as loaded, or collide with those that are. */
async function requireEmptyTarget(target: Database, inputs: Fetch['inputs'], plan: Plan): Promise<void> {
  if (inputs.tableHandling !== 'none') return
  const full: string[] = []
  for (const table of plan.tables)
    if ((await countRows(target, plan.targetSchema, table)) > 0)
      full.push(`${plan.targetSchema}.${table} holds rows on the target`)
  if (full.length)
    refuse('the target is not empty', full, 'Empty these tables, or say `table-handling: truncate-if-exists`.')
}

async function commandLine(inputs: Fetch['inputs'], plan: Plan, source: Database): Promise<string[]> {
  const features = fetchFeatures(await toolHelp('molt', 'fetch'))
  const slot = await readSlot(source, plan.slot)
  if (slot)
    throw new UserError(
      `the slot ${plan.slot} exists already: a load was begun before. Drop it (SELECT pg_drop_replication_slot('${plan.slot}')), empty the target tables, and load again`,
    )
  // An older molt leaves the publication to us; it must be there before the slot, or the stream never finds it.
  if (!features.ownsPublication && !(await readPublication(source, plan.publication)))
    await createPublication(source, plan.publication, plan.sourceSchema, plan.tables)
  const request = {
    ...inputs,
    ...plan,
    source: inputs.source,
    target: inputs.target,
    schema: plan.sourceSchema,
    tables: plan.tables,
  }
  return fetchArgs({ ...request, metricsAddr: await freeAddress(), extraArgs: inputs.extraArgs ?? [] }, features)
}

/** Runs the load; the slot of one that failed is not left to fill the source's disk. */
async function load(context: Fetch, plan: Plan, args: string[], source: Database): Promise<FetchAccount> {
  const folder = workFolder(context.inputs.migration)
  const began = performance.now()
  let latest: LoadProgress = { tablesDone: 0, tablesTotal: plan.tables.length, rows: 0 }
  const ticker = progress(context.inputs.progressEvery, () => {
    const rate = latest.rows / ((performance.now() - began) / 1000)
    return `loading: ${latest.tablesDone} of ${latest.tablesTotal} tables, ${number(latest.rows)} rows, ${number(rate)} rows/s`
  })
  try {
    return await runLoad({
      program: 'molt',
      args,
      plan,
      logFile: join(folder, 'molt-fetch.log'),
      signal: context.signal,
      onProgress: (now) => {
        latest = now
      },
    })
  } catch (error) {
    await dropSlot(source, plan.slot).catch(() => {})
    throw error
  } finally {
    ticker.stop()
  }
}

/** The rows are counted where they must have arrived: the tool's own numbers are its opinion. */
async function arrivedProblems(target: Database, plan: Plan, account: FetchAccount): Promise<string[]> {
  let arrived = 0
  for (const table of plan.tables) arrived += await countRows(target, plan.targetSchema, table)
  if (arrived === account.exportedRows) return []
  return [`${number(account.exportedRows)} rows were exported, but the target's tables hold ${number(arrived)}`]
}

function stagingSchema(entry: Entry, account: FetchAccount): string {
  const source = entry.facts.source?.sourceId.slice(0, 8)
  return `molt_staging_${source}_${account.cursor?.replace('/', '_').toLowerCase()}`
}

function report(context: Fetch, plan: Plan, account: FetchAccount, durationMs: number): void {
  info(
    `loaded ${plan.tables.length} tables, ${number(account.exportedRows)} rows in ${(durationMs / 1000).toFixed(1)} s; the stream begins at ${account.cursor}`,
  )
  context.output('cursor', account.cursor as string)
  context.output('tables', plan.tables.length)
  context.output('rows', account.exportedRows)
  context.output('duration-ms', durationMs)
  context.summary(
    `### Loaded\n\n${plan.tables.length} of ${plan.tables.length} expected tables, ${number(account.exportedRows)} rows in ${(durationMs / 1000).toFixed(1)} s. The stream begins at \`${account.cursor}\`.`,
  )
}
