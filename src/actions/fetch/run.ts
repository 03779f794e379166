import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { readOtherRights } from '../../destination/recreate.ts'
import { grantsText, mergeWriteGrants, requireClosed } from '../../destination/write-access.ts'
import { addEvidence, advance, type Entry, type Facts } from '../../ledger/ledger.ts'
import { acceptTargetSchema, schemaChanges } from '../../ledger/schema-changes.ts'
import { filterProblems } from '../../model/filter.ts'
import { describeChange } from '../../model/fingerprint.ts'
import type { Plan } from '../../model/plan.ts'
import { exactFilter } from '../../model/tables.ts'
import {
  type Arrived,
  arrivedProblems,
  countArrived,
  everythingRead,
  readSoFar,
  unreadProblems,
} from '../../phases/load/arrived.ts'
import { explainColumns, explainUnfinished } from '../../phases/load/diagnose-columns.ts'
import { makeFolder, newFolder, withFolder } from '../../phases/load/folder.ts'
import { holdingLoad } from '../../phases/load/held-load.ts'
import { dropLoad, endImports, foreignTables, type Resumed, settleInterrupted } from '../../phases/load/resume.ts'
import { type LoadProgress, type LoadResult, runLoad } from '../../phases/load/run-fetch.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import { definitionProblems } from '../../phases/verify/verify.ts'
import { loadedTable } from '../../report/summary.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { InputError, messageOf, refuse, UserError } from '../../runtime/errors.ts'
import { didYouMean } from '../../runtime/inputs.ts'
import { number, plural, progress, seconds, someOf, workFolder } from '../../runtime/progress.ts'
import { compareFiles, filesAfter, readSourceState, type TableFiles } from '../../source/changes.ts'
import { readHeartbeatOwner } from '../../source/heartbeat.ts'
import {
  completePublication,
  createPublication,
  readPublication,
  readPublicationMark,
} from '../../source/publication.ts'
import { readSlot, slotProblems } from '../../source/slot.ts'
import { oldestRunning } from '../../source/standing.ts'
import { estimateSize, holdsRows, readTableNames } from '../../sql/names.ts'
import {
  emptyAccount,
  extraArgsProblem,
  type FetchAccount,
  fetchArgs,
  fetchFeatures,
  fetchProblems,
  filesProblem,
  MODES,
  unknownFlags,
} from '../../tools/molt-fetch.ts'
import { freeAddress } from '../../tools/ports.ts'
import { toolHelp } from '../../tools/versions.ts'
import { requireMigration, requireTls, withBoth } from '../shared.ts'
import { spec } from './spec.ts'

type Fetch = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: async (context) => {
    checkInputs(context.inputs)
    await withBoth(context, (source, target) => fetchTables(context, source, target))
  },
}

function checkInputs(inputs: Fetch['inputs']): void {
  const extra = extraArgsProblem(inputs.extraArgs ?? [])
  if (extra) throw new InputError('input.reserved-argument', `input \`extra-args\`: ${extra}`)
  const files = filesProblem(inputs)
  if (files) throw new InputError('input.conflict', files)
  if (inputs.mode !== 'import' && inputs.compression === 'gzip')
    throw new InputError('input.conflict', `input \`compression\`: \`${inputs.mode}\` cannot read compressed files`)
  if (inputs.allowTruncate?.length && inputs.tableHandling === 'none')
    throw new InputError('input.conflict', 'input `allow-truncate` has no effect while `table-handling` is `none`')
  const continued = inputs.fetchId ?? inputs.continuationToken ?? inputs.continuationFileName
  if (continued && inputs.onInterrupted !== 'resume')
    throw new InputError('input.conflict', 'input `fetch-id`: to continue this load, set `on-interrupted: resume`')
}

async function fetchTables(context: Fetch, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const entry = await requireMigration(source, target, inputs.migration, ['prepared'])
  await requirePlannedTools(entry.plan, inputs, 'molt')
  await requireClosed(target, entry.plan, entry.facts)
  await requireAlone(source, entry.plan, inputs.migration)
  await holdingLoad(
    target,
    { url: inputs.target, migration: inputs.migration, signal: context.signal },
    async (signal) => {
      // The entry may have changed while this run waited for a killed load.
      const held = await requireMigration(source, target, inputs.migration, ['prepared'])
      await loadTables({ context, source, target, signal }, held)
    },
  )
}

/** What the functions of one `fetch` run share. */
interface Run {
  context: Fetch
  source: Database
  target: Database
  /** Aborts when the run is cancelled, and when `abort` or another load has taken over. */
  signal: AbortSignal
}

async function loadTables(run: Run, entry: Entry): Promise<void> {
  const { context, source, target } = run
  const { inputs } = context
  const { plan } = entry
  const resume = await settleInterrupted(source, target, entry, {
    ...inputs,
    policy: inputs.onInterrupted,
    signal: run.signal,
  })
  const files = resume ? (entry.facts.files ?? {}) : filesAfter(await readSourceState(source, plan))
  if (resume) await requireStillStreamable(source, target, entry, resume.cursor, files)
  else await requireLoadable(source, target, entry, inputs)
  const since = resume ? undefined : await oldestRunning(source)
  const began = performance.now()
  const note = new LoadNote(target, entry)
  const { account, failure } = await load(run, note, resume, files)
  if (account.fetchId) context.output('fetch-id', account.fetchId)
  // Report the error of the load rather than a failed ledger write, which may be only a consequence.
  if (failure) {
    await note.settled.catch(() => {})
    throw await giveUp(run, note.entry, { account, failure }, resume)
  }
  await note.settled
  const arrived = await requireComplete(source, target, note.entry, account, { resume, since })
  await completePublication(source, plan.publication)
  const publication = await readPublicationMark(source, plan.publication)
  const cursor = resume?.cursor ?? (account.cursor as string)
  await requireStreamable(source, target, note.entry, cursor, files)
  const filesLeft = filesAfterLoad(note.entry.facts, inputs.deleteFiles && !resume)
  const loaded = await advance(target, note.entry, 'loaded', {
    facts: { cursor, load: null, stagingSchema: stagingSchema(entry, cursor), publication, filesLeft },
  })
  if (filesLeft.length)
    info(`these folders below the bucket path or local path still hold every loaded row: ${filesLeft.join(', ')}`)
  const recreated = inputs.tableHandling === 'drop-on-target-and-recreate' && !resume
  const redefined = recreated ? await acceptRecreated(source, target, loaded) : []
  const durationMs = Math.round(performance.now() - began)
  const insecure = requireTls(inputs)
  await addEvidence(target, entry.id, 'fetch', {
    account,
    arrived,
    cursor,
    durationMs,
    insecure,
    mode: inputs.mode,
    redefined,
    resumed: resume !== undefined,
    // molt takes its own snapshot and does not expose it.
    countInSnapshot: 'not possible; exported rows are compared with arrived rows, and verify compares every row',
  })
  report(context, { plan, account, arrived, cursor, durationMs })
}

const REDEFINED_SHOWN = 20

/**
 * Accepts the definitions of tables that MOLT has created again. They lack what MOLT does not create, such as defaults.
 * @returns what differs from the tables that `prepare` checked
 */
async function acceptRecreated(source: Database, target: Database, loaded: Entry): Promise<string[]> {
  const found = (await schemaChanges(source, target, loaded))
    .filter(({ side }) => side === 'target')
    .map(describeChange)
  for (const what of found.slice(0, REDEFINED_SHOWN)) warning(`MOLT has recreated the tables: ${what}`)
  if (found.length)
    warning(
      `${plural(found.length, 'definition')} on the target changed when MOLT recreated the tables. Restore these before the cutover, or the application gets other defaults and constraints than on the source`,
    )
  await acceptTargetSchema(target, loaded)
  return found
}

/** The folders that still contain files. MOLT deletes only the files of tables that it imported in this run. */
function filesAfterLoad({ load, filesLeft = [] }: Facts, deleted: boolean): string[] {
  return deleted ? filesLeft.filter((folder) => folder !== load?.folder) : filesLeft
}

/** The ledger's record of a running load. Writes changes one at a time, in order. */
class LoadNote {
  readonly #target: Database
  #entry: Entry
  #settled: Promise<void> = Promise.resolve()

  constructor(target: Database, entry: Entry) {
    this.#target = target
    this.#entry = entry
  }

  /** The entry as last written. */
  get entry(): Entry {
    return this.#entry
  }

  /** Resolves when every change is written; rejects with the error of the first one that failed. */
  get settled(): Promise<void> {
    return this.#settled
  }

  change(load: NonNullable<Facts['load']>, more: Facts = {}): Promise<void> {
    this.#settled = this.#settled.then(async () => {
      this.#entry = await advance(this.#target, this.#entry, 'prepared', { facts: { ...more, load } })
    })
    this.#settled.catch(() => {})
    return this.#settled
  }
}

/**
 * Refuses a source that another migration uses. MOLT's publication has a fixed name, and a second load would drop it.
 */
async function requireAlone(source: Database, plan: Plan, migration: string): Promise<void> {
  const owner = await readHeartbeatOwner(source)
  if (owner && owner.migration !== migration)
    throw new UserError(
      'source.taken',
      `the source is in use by migration \`${owner.migration}\`. A source database can have only one migration at a time, because MOLT's publication has a fixed name. Run \`cleanup\` for that migration first`,
    )
  const foreign = await foreignTables(source, plan)
  if (foreign.length)
    throw new UserError(
      'publication.foreign',
      `the publication ${plan.publication} already exists and publishes ${someOf(foreign, 5)}, which this migration does not include. Another load of this database uses it, and MOLT would drop it. Finish that load, or drop the publication`,
    )
}

/** Checks for every known reason to fail, before the slot is created or any row is moved. */
async function requireLoadable(
  source: Database,
  target: Database,
  { plan, facts }: Entry,
  inputs: Fetch['inputs'],
): Promise<void> {
  const recreate = inputs.tableHandling === 'drop-on-target-and-recreate'
  if (recreate) await requireNoRights(target, plan, facts)
  const definitions = recreate ? [] : await definitionProblems(source, target, plan)
  if (definitions.length)
    refuse(
      'schema.changed',
      'the tables have changed since `prepare`',
      definitions.map(({ what, fix }) => `${what}; ${fix}`),
      'No row was moved.',
    )
  const filter = (schema: string) => ({ schema: exactFilter([schema]), table: exactFilter(plan.tables) })
  const [here, there] = [await readTableNames(source), await readTableNames(target)]
  const caught = [
    ...filterProblems('source', here, { schema: plan.sourceSchema, tables: plan.tables }, filter(plan.sourceSchema)),
    ...filterProblems('target', there, { schema: plan.targetSchema, tables: plan.tables }, filter(plan.targetSchema)),
  ]
  if (caught.length)
    refuse('load.tables-not-exact', 'the load would not move exactly the expected tables', caught, 'No row was moved.')
  await requireDisposable(target, plan, inputs)
}

/**
 * Refuses to recreate tables on which other roles have privileges, or had them before `prepare`, because MOLT does not
 * restore them.
 */
async function requireNoRights(target: Database, { targetSchema, tables }: Plan, facts: Facts): Promise<void> {
  const now = await readOtherRights(target, targetSchema, tables)
  const lost = mergeWriteGrants(facts.writeAccess ?? [], now)
  if (lost.length)
    refuse(
      'load.recreate-loses-rights',
      "`table-handling: drop-on-target-and-recreate` would drop other roles' privileges, and MOLT does not restore them",
      [grantsText(lost, 'would lose')],
      'Set `table-handling: truncate-if-exists`, which keeps the tables. No row was moved.',
    )
}

/**
 * Refuses tables that already have rows, which would collide with loaded rows or be counted as loaded. Allows those
 * that `allow-truncate` names.
 */
async function requireDisposable(target: Database, plan: Plan, inputs: Fetch['inputs']): Promise<void> {
  const allowed = inputs.allowTruncate ?? []
  for (const name of allowed)
    if (!plan.tables.includes(name))
      throw new InputError(
        'input.unknown-table',
        `input \`allow-truncate\`: ${name} is not an expected table${didYouMean(name, plan.tables)}`,
      )
  const there = new Set((await readTableNames(target)).map(({ schema, name }) => `${schema}.${name}`))
  const full: string[] = []
  for (const table of plan.tables)
    if (!allowed.includes(table) && there.has(`${plan.targetSchema}.${table}`))
      if (await holdsRows(target, plan.targetSchema, table)) full.push(table)
  if (!full.length) return
  const next =
    inputs.tableHandling === 'none'
      ? 'Empty these tables, or set `table-handling: truncate-if-exists` and name them in `allow-truncate`.'
      : `\`table-handling: ${inputs.tableHandling}\` would delete these rows. If you want that, name the tables in \`allow-truncate\`.`
  refuse(
    'load.target-not-empty',
    'the target is not empty',
    full.map((table) => `${plan.targetSchema}.${table} already has rows on the target`),
    next,
  )
}

async function commandLine(
  inputs: Fetch['inputs'],
  plan: Plan,
  source: Database,
  metricsAddr: string,
  resume: Resumed | undefined,
): Promise<string[]> {
  const features = fetchFeatures(await toolHelp('molt', 'fetch'))
  const args = fetchArgs(
    {
      ...inputs,
      schema: plan.sourceSchema,
      tables: plan.tables,
      slot: plan.slot,
      metricsAddr,
      pprofAddr: await freeAddress(),
      insecure: requireTls(inputs).length > 0,
      resume: resume?.fetchId ? { ...inputs, fetchId: resume.fetchId } : undefined,
      extraArgs: inputs.extraArgs ?? [],
    },
    features,
  )
  const unknown = unknownFlags(args, features)
  if (unknown.length)
    throw new UserError(
      'molt.unknown-flag',
      `this build of molt does not support ${unknown.join(', ')}. Remove the input that sets it, or use the version that \`setup\` pins by default`,
    )
  // An older molt does not create the publication. It must exist before the slot, or the stream never finds it.
  if (!features.ownsPublication && !(await readPublication(source, plan.publication)))
    await createPublication(source, plan.publication, plan.sourceSchema, plan.tables)
  return args
}

/** Runs `molt fetch`, unless it is resuming a load that has nothing left to import. */
async function load(run: Run, note: LoadNote, resume: Resumed | undefined, before: TableFiles): Promise<LoadResult> {
  const { context, source } = run
  const { mode, migration } = context.inputs
  const { plan } = note.entry
  if (resume && !resume.fetchId) {
    info('every table has been read and imported completely; nothing is left to load')
    return { account: alreadyLoaded(plan, resume.cursor) }
  }
  info(`${MODES[mode]}.`)
  const folder = resume ? resume.folder : mode === 'direct-copy' ? undefined : newFolder(migration)
  const inputs = withFolder(context.inputs, folder)
  const metricsAddr = await freeAddress()
  const args = await commandLine(inputs, plan, source, metricsAddr, resume)
  await makeFolder(inputs, folder)
  // Record the folder before the tool starts, so that its import jobs can be recognized later.
  if (!resume) await note.change({ mode, folder }, { files: before, ...withLoadFolder(note.entry.facts, folder) })
  return runTool(run, note, { args, metricsAddr, resumed: resume !== undefined, folder })
}

function withLoadFolder({ loadFolders = [], filesLeft = [] }: Facts, folder: string | undefined): Facts {
  return folder ? { loadFolders: [...loadFolders, folder], filesLeft: [...filesLeft, folder] } : {}
}

/** The result of a load that was already complete, in the form in which molt would have reported it. */
function alreadyLoaded(plan: Plan, cursor: string): FetchAccount {
  return { ...emptyAccount(plan.sourceSchema), complete: true, cursor, claimed: [...plan.tables] }
}

async function runTool(
  { context, source, target, signal }: Run,
  note: LoadNote,
  tool: { args: string[]; metricsAddr: string; resumed: boolean; folder: string | undefined },
): Promise<LoadResult> {
  const { inputs } = context
  const { plan } = note.entry
  const expected = await estimateSize(source, plan.sourceSchema, plan.tables).catch(() => ({ rows: 0, bytes: 0 }))
  const began = performance.now()
  let latest: LoadProgress = { tablesRead: 0, tablesImported: undefined, rows: 0 }
  const ticker = progress(inputs.progressEvery, () =>
    progressLine(latest, plan.tables.length, expected, performance.now() - began),
  )
  const known = { mode: inputs.mode, folder: tool.folder }
  try {
    return await runLoad({
      args: tool.args,
      metricsAddr: tool.metricsAddr,
      schema: plan.sourceSchema,
      tables: plan.tables,
      logFile: join(workFolder(inputs.migration), 'molt-fetch.log'),
      signal,
      stallAfter: inputs.stallAfter,
      explain: async (said) =>
        (await explainColumns(inputs.source, plan, said)) ??
        (await explainUnfinished(source, target, plan, said).catch(() => undefined)),
      onProgress: (now) => {
        latest = now
      },
      onStarted: (cursor) => {
        if (!tool.resumed) void note.change({ ...known, cursor })
      },
      // From here on, the load can be completed even if the runner dies.
      onRead: (account) => {
        if (!tool.resumed) void note.change({ ...known, cursor: account.startCursor, exported: readSoFar(account) })
      },
    })
  } finally {
    ticker.stop()
  }
}

/** `loading: 3 of 11 tables read, 1 imported, 120,000 of about 300,000 rows (40%, about 36 of 90 MiB), 24,000 rows/s, …` */
export function progressLine(
  now: LoadProgress,
  tables: number,
  expected: { rows: number; bytes: number },
  elapsedMs: number,
): string {
  const rate = now.rows / (elapsedMs / 1000)
  // Never show 100%, because rows that have been read still have to be imported.
  const part = expected.rows > 0 ? Math.min(0.99, now.rows / expected.rows) : 0
  const mib = (bytes: number) => number(bytes / 2 ** 20)
  const of = part
    ? ` of about ${number(expected.rows)} rows (${Math.floor(part * 100)}%, about ${mib(part * expected.bytes)} of ${mib(expected.bytes)} MiB)`
    : ' rows'
  const unread = now.tablesRead < tables ? expected.rows - now.rows : 0
  const left = !part || rate <= 0 ? '' : unread > 0 ? `, about ${seconds((unread / rate) * 1000)} left` : ', importing'
  const imported = now.tablesImported === undefined ? '' : `, ${number(now.tablesImported)} imported`
  const bar = process.stdout.isTTY && part ? `${'█'.repeat(Math.round(part * 20)).padEnd(20, '░')} ` : ''
  return `${bar}loading: ${now.tablesRead} of ${plural(tables, 'table')} read${imported}, ${number(now.rows)}${of}, ${number(rate)} rows/s${left}`
}

/**
 * Cleans up after a failed load. Keeps its slot only if `on-interrupted: resume` is set and the load can be resumed.
 * @returns the failure
 */
async function giveUp(
  { context, source, target, signal }: Run,
  entry: Entry,
  { account, failure }: LoadResult,
  resume: Resumed | undefined,
): Promise<unknown> {
  // Another run has taken over the migration, and cleans up itself.
  if (signal.aborted && !context.signal.aborted) return failure
  const { mode, onInterrupted } = context.inputs
  const cursor = resume?.cursor ?? account.startCursor
  const exported = resume?.exported ?? everythingRead(account, entry.plan)
  // A molt that is killed prints no id.
  const fetchId = account.fetchId ?? resume?.fetchId
  const wanted = onInterrupted === 'resume' && mode !== 'direct-copy'
  try {
    if (!wanted || !cursor || !fetchId || !exported) await abandon(source, target, entry)
    else {
      const folder = entry.facts.load?.folder
      await advance(target, entry, 'prepared', { facts: { load: { mode, folder, cursor, fetchId, exported } } })
      warning(
        `The load failed, and can be resumed. Run \`fetch\` again with \`on-interrupted: resume\`. Until then, the slot ${entry.plan.slot} keeps WAL on the source.`,
      )
    }
  } catch (error) {
    await tellLeft(source, entry.plan, error)
  }
  return failure
}

/** Reports what remains of a failed load. Mentions the slot unless it is known to be gone. */
async function tellLeft(source: Database, { slot }: Plan, error: unknown): Promise<void> {
  const there = await readSlot(source, slot).catch(() => 'unknown' as const)
  warning(
    there
      ? `The slot ${slot} of the failed load ${there === 'unknown' ? 'may still exist' : 'still exists'} and fills the source's disk (${messageOf(error)}). To drop it, run \`SELECT pg_drop_replication_slot('${slot}')\` on the source.`
      : `Parts of the failed load remain: ${messageOf(error)}`,
  )
}

/**
 * Requires a complete load; drops the slot of an incomplete one.
 * @returns table → rows that have arrived on the target
 * @throws VerdictError when rows or tables are missing
 */
async function requireComplete(
  source: Database,
  target: Database,
  entry: Entry,
  account: FetchAccount,
  { resume, since }: { resume: Resumed | undefined; since: string | undefined },
): Promise<Arrived> {
  const { plan } = entry
  const arrived = account.complete ? await countArrived(target, plan) : {}
  const problems = [
    ...fetchProblems(account, plan.tables, resume !== undefined),
    ...(account.complete ? arrivedProblems(plan, resume?.exported ?? readSoFar(account), arrived) : []),
  ]
  if (!problems.length && since) problems.push(...(await unreadProblems(source, plan, arrived, since)))
  if (!problems.length) return arrived
  await addEvidence(target, entry.id, 'fetch', { problems, account })
  refuse(
    'load.incomplete',
    'the load is not complete, although molt fetch reported no failure',
    problems,
    `${await abandonedText(source, target, entry)} Fix these, empty the target tables, and load again.`,
  )
}

/**
 * Requires that a stream can start from this load. If its slot, publication, definitions or tables have changed,
 * abandons the load.
 */
async function requireStreamable(
  source: Database,
  target: Database,
  entry: Entry,
  cursor: string,
  files: TableFiles,
): Promise<void> {
  const problems = await streamProblems(source, target, entry, cursor, files)
  if (!problems.length) return
  refuse(
    'load.cannot-stream',
    'every row was loaded, but no stream can start from this load',
    problems,
    `${await abandonedText(source, target, entry)} Fix these, empty the target tables, and load again.`,
  )
}

/** Refuses to resume a load from which no stream could start, before more rows are moved. */
async function requireStillStreamable(
  source: Database,
  target: Database,
  entry: Entry,
  cursor: string,
  files: TableFiles,
): Promise<void> {
  // The interrupted load had no time left for this.
  await completePublication(source, entry.plan.publication)
  const problems = await streamProblems(source, target, entry, cursor, files)
  if (problems.length)
    refuse(
      'load.cannot-stream',
      'no stream can start from the interrupted load',
      problems,
      'Fix these, then set `on-interrupted: restart`, which loads everything again. No row was moved.',
    )
}

/** Why no stream can start from this load. */
async function streamProblems(
  source: Database,
  target: Database,
  { plan }: Entry,
  cursor: string,
  files: TableFiles,
): Promise<string[]> {
  return [
    ...(await slotProblems(source, { ...plan, schema: plan.sourceSchema, cursor })),
    ...(await definitionProblems(source, target, plan)).map(({ what, fix }) => `${what}; ${fix}`),
    ...compareFiles(files, await readSourceState(source, plan)).flatMap(({ severity, what }) =>
      severity === 'fatal' ? [what] : [],
    ),
  ]
}

/** Abandons a load, and says what became of its slot. A failure must not hide why the load is abandoned. */
async function abandonedText(source: Database, target: Database, entry: Entry): Promise<string> {
  const { slot } = entry.plan
  try {
    await abandon(source, target, entry)
    return `The slot ${slot} was dropped.`
  } catch (error) {
    await tellLeft(source, entry.plan, error)
    return `Not everything of the load was removed: ${messageOf(error)}.`
  }
}

async function abandon(source: Database, target: Database, entry: Entry): Promise<void> {
  await dropLoad(source, entry.plan)
  await endImports(target, entry)
  if (entry.facts.load) await advance(target, entry, 'prepared', { facts: { load: null } })
}

/**
 * Names the staging schema, one per slot. The replicator stores its progress there, and would apply it to any other
 * slot.
 */
function stagingSchema(entry: Entry, cursor: string): string {
  return `molt_staging_${entry.facts.source?.sourceId.slice(0, 8)}_${cursor.replace('/', '_').toLowerCase()}`
}

interface Loaded {
  plan: Plan
  account: FetchAccount
  arrived: Arrived
  cursor: string
  durationMs: number
}

function report(context: Fetch, loaded: Loaded): void {
  const { plan, account, arrived, cursor, durationMs } = loaded
  const rows = Object.values(arrived).reduce((sum, each) => sum + each, 0)
  info(
    `loaded ${plural(plan.tables.length, 'table')}, ${number(rows)} rows in ${seconds(durationMs)}; the stream begins at ${cursor}`,
  )
  for (const { table, reason } of account.notes) info(`${table}: ${reason}`)
  context.output('cursor', cursor)
  context.output('tables', plan.tables.length)
  context.output('rows', rows)
  context.output('duration-ms', durationMs)
  context.summary(loadedTable({ ...loaded, mode: MODES[context.inputs.mode], rows }))
}
