import { createWriteStream } from 'node:fs'
import { offlineText, readOffline } from '../../destination/jobs.ts'
import type { Plan, VerifyLevel } from '../../model/plan.ts'
import { byName } from '../../model/records.ts'
import { asDecided, decidedText, narrowColumns, sequenceProblems, structureProblems } from '../../model/structure.ts'
import { compareTables, type Difference, type DifferenceKind, type Table } from '../../model/tables.ts'
import type { VerifyFinding, VerifyReport } from '../../report/verify-report.ts'
import type { ErrorCode } from '../../runtime/codes.ts'
import { type Database, ident, qualified, unhurried } from '../../runtime/database.ts'
import { messageOf } from '../../runtime/errors.ts'
import { explainWords } from '../../runtime/refusals.ts'
import { TIMING } from '../../runtime/timing.ts'
import { tlsProblem } from '../../runtime/url.ts'
import { readHeartbeatOwner } from '../../source/heartbeat.ts'
import { readSequenceStates, readStructure } from '../../sql/structure.ts'
import { countRows, readFilteredTables, readTables } from '../../sql/tables.ts'
import { missingTriggers } from '../../sql/triggers.ts'
import { viewProblems } from '../../sql/views.ts'
import { countChatter, type MoltEvent, parseEvent, type Unknowns } from '../../tools/events.ts'
import {
  accountForVerify,
  addSamples,
  diagnose,
  differences,
  emptyVerifyAccount,
  newVerdict,
  type TableVerdict,
  type VerifyAccount,
  verifyArgs,
  verifyProblems,
} from '../../tools/molt-verify.ts'
import { freeAddress } from '../../tools/ports.ts'
import { Child } from '../../tools/process.ts'
import { keyHash, moltScrubber, scrubText } from '../../tools/scrub.ts'
import { toolHelp } from '../../tools/versions.ts'
import { explainColumns } from '../load/diagnose-columns.ts'
import { NOT_COCKROACH } from '../load/run-fetch.ts'
import { StallWatch } from '../stream/stall.ts'
import { arrivedSnapshot, passMarker, type RecheckOptions, recheckRows } from './recheck.ts'
import { digestTables, type TableDigest } from './row-digests.ts'

export interface VerifyOptions {
  /** Default: the `molt` on the PATH. */
  program?: string
  sourceUrl: string
  targetUrl: string
  plan: Plan
  level: VerifyLevel
  logFile: string
  signal: AbortSignal
  /**
   * Output of `molt verify --help`, if the caller has already read it. Running the program for it would cost time in
   * the write pause.
   */
  help?: string
  concurrency?: number
  /** Tables of the plan to compare. Default: all. */
  tables?: readonly string[]
  /** Default: `drained`. */
  while?: 'streaming' | 'drained'
  /** Default: `exact`. While changes stream, rows are not counted. */
  count?: 'exact' | 'estimated'
  /**
   * Whether a difference in an index, constraint or sequence is a problem or only a note. Default: they are not
   * compared.
   */
  structure?: 'require' | 'report'
  /** Definitions that the cutover or `finalize` builds later, so that they may still be missing on the target. */
  deferred?: readonly { table: string; name: string }[]
  /**
   * Whether the commit is still to come. Until then, the source's sequences keep advancing, and the cutover has yet to
   * set the target's.
   */
  uncommitted?: boolean
  /** Writes the key of each differing row, or also its values, to a file with mode 600. */
  show?: { what: 'keys' | 'values'; file: string }
  /** Milliseconds without output after which molt is killed; undefined means no limit. */
  stallAfter?: number
  recheck?: { limit: number; markerTimeout: number; rounds: number }
}

const RECHECK = { limit: 10_000, markerTimeout: 30_000, rounds: 5 }

/** Findings collected for the report. */
interface Findings {
  problems: VerifyFinding[]
  /** Findings that neither prove equality nor show a loss. */
  unsettled: VerifyFinding[]
  notes: string[]
  decisions: string[]
  tables: TableVerdict[]
  counted: VerifyReport['counted']
  unknown?: Unknowns
}

/** Compares the expected tables of both sides, with molt and with checks that do not depend on molt. */
export async function runVerify(source: Database, target: Database, given: VerifyOptions): Promise<VerifyReport> {
  const began = performance.now()
  const options = given.tables ? { ...given, plan: { ...given.plan, tables: [...given.tables] } } : given
  const { plan, level } = options
  const found: Findings = { problems: [], unsettled: [], notes: [], decisions: [], tables: [], counted: 'no' }
  const [here, there] = await tablesOfBoth(source, target, plan)
  const definitions = await tellOffline(target, plan, compareDefinitions(here, there, plan))
  const bare = (table: string) => table.slice(plan.sourceSchema.length + 1)
  found.problems.push(...definitions.map(({ table, what, fix }) => ({ table: bare(table), what: `${what}; ${fix}` })))
  // `prepare` has checked the source's policies. Molt, the hashes and every count would all miss hidden rows.
  for (const name of await readFilteredTables(target, plan.targetSchema, plan.tables))
    found.problems.push({
      table: name,
      what: `${name}: row-level security on the target hides some rows from this role, so a comparison proves nothing. Run \`ALTER ROLE ${ident(target.user ?? '')} BYPASSRLS;\` on the target`,
    })
  const gone = new Set(definitions.filter(({ kind }) => ABSENT.includes(kind)).map(({ table }) => table))
  const comparable = plan.tables.filter((table) => !gone.has(`${plan.sourceSchema}.${table}`))
  if (level === 'counts') await compareCounts(source, target, comparable, options, found)
  if (level === 'full' || level === 'molt')
    await compareRows(source, target, { comparable, here, there }, options, found)
  if (options.structure || options.while === 'streaming') await compareStructure(source, target, options, found)
  const { problems, unsettled, notes, ...more } = found
  const findings = [...problems, ...unsettled]
  return {
    level,
    while: options.while ?? 'drained',
    insecure: insecureSides(options),
    ...more,
    problems: [...new Set(findings.map(({ what }) => what))],
    findings,
    notes: [...new Set(notes)],
    verdict: problems.length ? 'different' : unsettled.length ? 'unsettled' : 'clean',
    durationMs: Math.round(performance.now() - began),
  }
}

/** Compares only row counts. While changes stream, different counts prove nothing. */
async function compareCounts(
  source: Database,
  target: Database,
  tables: readonly string[],
  options: VerifyOptions,
  found: Findings,
): Promise<void> {
  found.counted = options.count ?? 'exact'
  found.tables = await countTables(source, target, options.plan, tables, found.counted)
  found[options.while === 'streaming' ? 'unsettled' : 'problems'].push(...found.tables.flatMap(countProblem))
}

/** Compares every row with molt. In parallel and independently of molt, compares row hashes, or at least row counts. */
async function compareRows(
  source: Database,
  target: Database,
  { comparable, here, there }: { comparable: readonly string[]; here: readonly Table[]; there: readonly Table[] },
  options: VerifyOptions,
  found: Findings,
): Promise<void> {
  const { plan } = options
  const streaming = options.while === 'streaming'
  const hashed = options.level === 'full'
  found.counted = streaming ? 'no' : hashed ? 'exact' : (options.count ?? 'exact')
  const [onSource, onTarget] = [here, there].map((tables) => new Map(tables.map((table) => [table.name, table])))
  const pairs = comparable.flatMap((name) => {
    const [a, b] = [onSource?.get(name), onTarget?.get(name)]
    return a && b ? [[a, b] as const] : []
  })
  // If molt fails, stop computing hashes, which takes long for large tables.
  const failed = new AbortController()
  const signal = AbortSignal.any([options.signal, failed.signal])
  const arrived = streaming ? await arrivedSnapshot(source, target, arrivalLimits(options)) : undefined
  const [account, digests] = await Promise.all([
    runMoltVerify(source, options).catch((error) => {
      failed.abort(error)
      throw error
    }),
    hashed ? rowDigests([source, target], pairs, { ...options, signal }, found) : undefined,
  ])
  for (const digest of digests ?? []) addDigest(account, digest, found)
  const counts =
    digests?.map(({ name, sourceRows, targetRows }) => countedRows(name, sourceRows, targetRows)) ??
    (await countTables(source, target, plan, comparable, found.counted))
  const partitions = await partitionsOfMissing(source, account, here, plan.sourceSchema)
  found.tables = order([...account.tables.values()], plan)
  found.unknown = account.unknown
  found.notes.push(...account.notes.map(({ table, reason }) => `${table}: ${reason}`))
  for (const verdict of found.tables) verdict.diagnosis = partitions.get(verdict.name) ?? verdict.diagnosis
  if (streaming) found.unsettled.push(...(await settle(source, target, account, here, { ...options, arrived })))
  for (const { kind, table, what } of verifyProblems(account, plan.tables)) {
    const verdict = kind === 'difference' ? found.tables.find(({ name }) => name === table) : undefined
    const outcome = verdict ? outcomeOf(verdict) : kind === 'incomplete' || kind === 'unfinished' ? 'cut' : 'loss'
    if (outcome === 'lag') found.notes.push(`${what}: lag, no loss`)
    else if (outcome !== 'loss') found.unsettled.push({ table, what: `${what}; ${INCONCLUSIVE[outcome]}` })
    else found.problems.push({ table, what })
  }
  if (found.counted === 'exact') found.problems.push(...seenProblems(counts, found.tables))
}

/** Number of connections to each side. Only one while changes stream, because the stream has priority. */
const DIGEST_CONNECTIONS = { streaming: 1, drained: 4 }

/**
 * Compares row hashes.
 * @returns undefined if the databases could not compute them, which makes the verify inconclusive
 */
async function rowDigests(
  [source, target]: readonly [Database, Database],
  pairs: readonly (readonly [Table, Table])[],
  options: VerifyOptions,
  found: Findings,
): Promise<TableDigest[] | undefined> {
  const { sourceUrl, targetUrl, signal, plan } = options
  const { targetSchema } = plan
  const limits = { targetSchema, signal, markerTimeout: options.recheck?.markerTimeout ?? RECHECK.markerTimeout }
  try {
    return await digestTables(pairs, {
      sourceUrl,
      targetUrl,
      signal,
      sourceSchema: plan.sourceSchema,
      targetSchema,
      ...(options.while === 'streaming' && { catchUp: () => passMarker(source, target, limits) }),
      concurrency: DIGEST_CONNECTIONS[options.while ?? 'drained'],
    })
  } catch (error) {
    signal.throwIfAborted()
    found.unsettled.push({
      what: `the databases could not compute hashes of their rows (${scrubText(messageOf(error))}), so only molt verify has compared them. To accept that, set the level to \`molt\``,
    })
    return undefined
  }
}

/** Merges the result of the databases' own hashes into molt's. Uses the larger row count of each kind. */
function addDigest(account: VerifyAccount, digest: TableDigest, found: Findings): void {
  found.notes.push(...digest.unproved.map((what) => `${digest.name}: ${what}`))
  const verdict = account.tables.get(digest.name)
  if (!verdict) return
  const before = differences(verdict)
  if (before && !digest.unproved.length && !digest.missing && !digest.mismatch && !digest.extraneous)
    verdict.unlike = true
  for (const kind of ['missing', 'mismatch', 'extraneous'] as const)
    verdict[kind] = Math.max(verdict[kind], digest[kind])
  const unseen = differences(verdict) - before
  if (!unseen) return
  verdict.unseen = unseen
  const columns = Object.entries(digest.columns).sort(([, a], [, b]) => b - a)
  if (columns.length) verdict.columns = [...new Set([...(verdict.columns ?? []), ...columns.map(([column]) => column)])]
  const known = account.rows.get(digest.name) ?? { rows: [], told: 0, columns: byName(), classes: {} }
  const told = new Set(known.rows.map(({ key }) => JSON.stringify(key)))
  known.rows.push(...digest.rows.filter(({ key }) => !told.has(JSON.stringify(key))))
  account.rows.set(digest.name, known)
  verdict.diagnosis ??= diagnose(verdict, { ...known, columns: digest.columns, classes: digest.classes })
}

/** A table's verdict from its row counts alone. */
function countedRows(name: string, rows: number, there: number): TableVerdict {
  return { ...newVerdict(name), rows, missing: Math.max(0, rows - there), extraneous: Math.max(0, there - rows) }
}

/** Lists the differences between both sides' definitions of the expected tables. */
export async function definitionProblems(source: Database, target: Database, plan: Plan) {
  return tellOffline(target, plan, compareDefinitions(...(await tablesOfBoth(source, target, plan)), plan))
}

/** Differences that make a table unreadable on one side. */
const ABSENT: readonly DifferenceKind[] = ['missing-on-source', 'missing-on-target', 'offline-on-target']

/** Tells tables that an import keeps offline from missing tables, because the catalog shows neither. */
async function tellOffline(target: Database, plan: Plan, found: readonly Difference[]): Promise<Difference[]> {
  const bare = (table: string) => table.slice(plan.sourceSchema.length + 1)
  const hidden = found.flatMap(({ kind, table }) => (kind === 'missing-on-target' ? [bare(table)] : []))
  const offline = new Map((await readOffline(target, plan.targetSchema, hidden)).map((each) => [each.table, each]))
  return found.map((difference) => {
    const importing =
      difference.kind === 'missing-on-target' && offline.get(`${plan.targetSchema}.${bare(difference.table)}`)
    if (!importing) return difference
    return {
      ...difference,
      kind: 'offline-on-target',
      what: offlineText(importing),
      fix: 'until then it cannot be compared',
    }
  })
}

function tablesOfBoth(source: Database, target: Database, plan: Plan): Promise<[Table[], Table[]]> {
  return Promise.all([readTables(source, plan.sourceSchema), readTables(target, plan.targetSchema)])
}

function compareDefinitions(here: readonly Table[], there: readonly Table[], plan: Plan): Difference[] {
  const byName = new Map(here.map((table) => [table.name, table]))
  const gone = plan.tables
    .filter((name) => !byName.has(name))
    .map(
      (name): Difference => ({
        kind: 'missing-on-source',
        table: `${plan.sourceSchema}.${name}`,
        what: `${plan.sourceSchema}.${name} is missing on the source`,
        fix: 'the plan expects this table. If you dropped it on purpose, start a new migration',
      }),
    )
  const expected = plan.tables.flatMap((name) => byName.get(name) ?? [])
  const narrow = expected.flatMap((table) =>
    narrowColumns(
      table,
      there.find(({ name }) => name === table.name),
      plan.decided,
    ),
  )
  return [...gone, ...compareTables(expected, there), ...narrow]
}

/**
 * Compares what the load leaves for later: indexes, constraints and sequences. A sequence that cannot be set is always
 * a problem, because otherwise it would only show up in the write pause.
 */
async function compareStructure(source: Database, target: Database, options: VerifyOptions, found: Findings) {
  const { sourceSchema, targetSchema, tables, decided = [] } = options.plan
  const sides = [
    { db: source, schema: sourceSchema },
    { db: target, schema: targetSchema },
  ] as const
  // If a sequence's column has no index, the whole table is read, which takes long.
  const sequences = await unhurried(source, () => unhurried(target, () => readSequenceStates(...sides, tables)))
  found.problems.push(...sequenceProblems(sequences.filter(({ unfit }) => unfit)).map((what) => ({ what })))
  if (!options.structure) return
  const [here, there] = await Promise.all([
    readStructure(source, 'source', sourceSchema),
    readStructure(target, 'target', targetSchema),
  ])
  const { deferred = [], uncommitted } = options
  const awaited = ({ table, name }: { table: string; name: string }) =>
    deferred.some((each) => each.table === table && each.name === name)
  const { indexes, constraints, columnParts } = asDecided(here, decided)
  const wanted = {
    indexes: indexes.filter((each) => !awaited(each)),
    constraints: constraints.filter((each) => !awaited(each)),
    columnParts,
  }
  const structure = structureProblems(wanted, there, tables, targetSchema).map(({ what }) => what)
  const behind = sequenceProblems(sequences.filter(({ unfit }) => !unfit))
  const awaiting = deferred.map(({ table, name }) => `${table}: ${name} is deferred and has not been built yet`)
  const [problems, notes] = uncommitted ? [structure, [...behind, ...awaiting]] : [[...behind, ...structure], awaiting]
  if (options.structure === 'require') found.problems.push(...problems.map((what) => ({ what })))
  else found.notes.push(...problems)
  found.notes.push(...notes, ...decided.map((each) => `decided in \`convert.yml\`: ${decidedText(each)}`))
  found.decisions.push(...(await missingTriggers(...sides, tables)), ...(await viewProblems(...sides)))
}

async function countTables(
  source: Database,
  target: Database,
  plan: Plan,
  names: readonly string[],
  how: VerifyReport['counted'],
): Promise<TableVerdict[]> {
  if (how === 'no') return []
  const count = how === 'exact' ? countRows : estimateRows
  // Counting a large table can take longer than the usual statement timeout.
  return unhurried(source, () =>
    unhurried(target, async () => {
      const verdicts: TableVerdict[] = []
      for (const name of names) {
        const [here, there] = await Promise.all([
          count(source, plan.sourceSchema, name),
          count(target, plan.targetSchema, name),
        ])
        const near = how === 'estimated' && Math.abs(here - there) <= 0.1 * Math.max(here, there, 1_000)
        verdicts.push(countedRows(name, here, near ? here : there))
      }
      return verdicts
    }),
  )
}

/**
 * Estimates a table's rows from the server's statistics. CockroachDB has its own statistics and leaves `reltuples`
 * empty.
 */
async function estimateRows(db: Database, schema: string, table: string): Promise<number> {
  const { rows } = await db.query(
    `SELECT version() AS version, coalesce(sum(greatest(reltuples, 0)), 0)::float8 AS rows FROM pg_catalog.pg_class
      WHERE oid = $1::regclass OR oid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1::regclass)`,
    [qualified(schema, table)],
  )
  if (!rows[0].version.startsWith('CockroachDB')) return rows[0].rows
  const statistics = await db.query(`SHOW STATISTICS FOR TABLE ${qualified(schema, table)}`)
  // The last row may be a partial statistic, which covers only part of the table (cockroachdb/cockroach#133988).
  return Number(statistics.rows.filter((row) => !row.partial_predicate).at(-1)?.row_count ?? 0)
}

function countProblem({ name, rows, missing, extraneous }: TableVerdict): VerifyFinding[] {
  if (!missing && !extraneous) return []
  return [
    { table: name, what: `${name}: the source has ${rows} rows, and the target has ${rows - missing + extraneous}` },
  ]
}

/** Checks that molt saw all rows on both sides. */
function seenProblems(counts: readonly TableVerdict[], tables: readonly TableVerdict[]): VerifyFinding[] {
  return counts.flatMap((counted): VerifyFinding[] => {
    const seen = tables.find(({ name }) => name === counted.name)
    if (!seen?.shardsFinished) return countProblem(counted)
    if (seen.rows !== counted.rows)
      return [
        {
          table: seen.name,
          what: `${seen.name}: molt verify saw ${seen.rows} rows, but the source has ${counted.rows}`,
        },
      ]
    const told = seen.missing - seen.extraneous === counted.missing - counted.extraneous
    return told ? [] : countProblem(counted)
  })
}

async function runMoltVerify(source: Database, options: VerifyOptions): Promise<VerifyAccount> {
  const { plan, program = 'molt' } = options
  const account = emptyVerifyAccount(plan.sourceSchema)
  const hash = keyHash((await readHeartbeatOwner(source))?.sourceId)
  const request = {
    source: options.sourceUrl,
    target: options.targetUrl,
    schema: plan.sourceSchema,
    tables: plan.tables,
    concurrency: options.concurrency,
    metricsAddr: await freeAddress(),
  }
  const shown = options.show && rowFile(options.show)
  const child = new Child({
    program,
    args: verifyArgs(request, options.help ?? (await toolHelp(program, 'verify'))),
    logFile: options.logFile,
    scrub: moltScrubber(hash),
    hidePasswords: true,
    onLine(line) {
      stall.heard()
      const event = parseEvent(line)
      if (!event) return countChatter(account.unknown, line)
      accountForVerify(account, event)
      shown?.write(event)
    },
  })
  const stall = new StallWatch({
    name: 'molt verify',
    known: () => `last line: ${child.lastWords}`,
    advice: 'Look for locks and long-running statements on both sides, and check whether the runner is out of memory',
    stallAfter: options.stallAfter,
    end: () => void child.stop(TIMING.toolStop),
  })
  const exit = await child.exitedOrStopped(options.signal)
  stall.stop()
  await shown?.close()
  options.signal.throwIfAborted()
  if (stall.reason) throw child.failure({ code: 'tool.stalled', said: child.lastWords, advice: stall.reason })
  if (exit.code !== 0) {
    const said = child.lastError
    const known = explainVerify(said)
    const advice = [await explainColumns(options.sourceUrl, plan, said), known?.advice]
    throw child.failure({ code: known?.code, said, advice: advice.filter(Boolean).join(' ') })
  }
  for (const verdict of account.tables.values()) addSamples(verdict, account.rows.get(verdict.name), hash)
  return account
}

function explainVerify(said: string): { code: ErrorCode; advice: string } | undefined {
  if (/target must be cockroach|must be cockroach/.test(said))
    return { code: 'molt.target-not-cockroach', advice: NOT_COCKROACH }
  if (/array element OID not registered/.test(said))
    return {
      code: 'molt.type-unsupported',
      advice:
        'This build of molt cannot read one of the column types. Exclude the table with `tables`, or use a newer build.',
    }
  return explainWords(said)
}

/** Opens the file for differing rows, which only this user can read. Rows are never logged. */
function rowFile(show: { what: 'keys' | 'values'; file: string }) {
  const stream = createWriteStream(show.file, { mode: 0o600, flags: 'w' })
  return {
    write(event: MoltEvent) {
      if (!Array.isArray(event.primary_key)) return
      const { table_schema: schema, table_name: table, primary_key: key, message: finding } = event
      const values = { source: event.source_values, target: event.target_values }
      stream.write(`${JSON.stringify({ finding, schema, table, key, ...(show.what === 'values' && values) })}\n`)
    },
    close: () => new Promise<void>((resolve) => stream.end(resolve)),
  }
}

/**
 * Rechecks differences, and records for each table whether they are lag or loss.
 * @returns what could not be checked
 */
async function settle(
  source: Database,
  target: Database,
  account: VerifyAccount,
  here: readonly Table[],
  options: VerifyOptions & Pick<RecheckOptions, 'arrived'>,
): Promise<VerifyFinding[]> {
  const suspects = [...account.tables.values()].flatMap((verdict) => {
    const definition = here.find(({ name }) => name === verdict.name)
    const rows = account.rows.get(verdict.name)?.rows ?? []
    return definition && differences(verdict)
      ? [{ definition, rows, total: Math.max(rows.length, differences(verdict)) }]
      : []
  })
  if (!suspects.length) return []
  const { sourceSchema, targetSchema } = options.plan
  const { arrived, signal } = options
  const limits = { ...RECHECK, ...options.recheck, sourceSchema, targetSchema, arrived, signal }
  const { tables, problem } = await recheckRows(source, target, suspects, limits)
  for (const [name, recheck] of tables) {
    const verdict = account.tables.get(name)
    if (verdict) verdict.recheck = recheck
  }
  return problem ? [{ what: problem }] : []
}

const INCONCLUSIVE = {
  unlike:
    'the hashes of both databases show equal values, so either the rows have changed since, or molt compares these types differently. Give the columns the same type on both sides',
  moving: 'the rows were still changing. Verify again with less load, or after the drain',
  cut: 'molt did not finish, and no difference is known. Verify again',
}

/**
 * Limits for {@link arrivedSnapshot}. The timeout is short, so that a lagging stream does not delay the verify for
 * long.
 */
function arrivalLimits({ plan, signal, recheck }: VerifyOptions) {
  const markerTimeout = Math.min(TIMING.arrival, recheck?.markerTimeout ?? RECHECK.markerTimeout)
  return { targetSchema: plan.targetSchema, signal, markerTimeout }
}

/** The outcome for a table's differing rows. Without a recheck, every difference counts as loss. */
function outcomeOf({ recheck, columnMismatch, unlike }: TableVerdict): 'lag' | 'loss' | keyof typeof INCONCLUSIVE {
  if (columnMismatch) return 'loss'
  // While changes stream, the hashes may be from another moment than molt's reading.
  if (!recheck) return unlike ? 'unlike' : 'loss'
  if (recheck.loss) return 'loss'
  if (recheck.unlike) return 'unlike'
  return recheck.changing || recheck.unchecked ? 'moving' : 'lag'
}

/** For each partitioned table with missing rows, names the partition if all missing rows belong to the same one. */
async function partitionsOfMissing(
  source: Database,
  account: VerifyAccount,
  here: readonly Table[],
  schema: string,
): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  for (const table of here.filter(({ kind }) => kind === 'p')) {
    const rows = account.rows.get(table.name)?.rows ?? []
    const keys = rows.filter(({ kind, key }) => kind === 'missing' && key.length === table.key.length).slice(0, 50)
    if (!keys.length || rows.some(({ kind }) => kind !== 'missing')) continue
    const tuples = keys.map(({ key }, row) => `(${key.map((_, i) => `$${row * key.length + i + 1}`).join(', ')})`)
    const { rows: partitions } = await source
      .query(
        `SELECT DISTINCT tableoid::regclass::text AS name FROM ${qualified(schema, table.name)}
          WHERE (${table.key.map(ident).join(', ')}) IN (${tuples.join(', ')})`,
        keys.flatMap(({ key }) => key),
      )
      .catch(() => ({ rows: [] }))
    const { rows: all } = await source.query(
      'SELECT count(*)::int AS count FROM pg_catalog.pg_partition_tree($1) WHERE isleaf',
      [table.oid],
    )
    if (partitions.length === 1 && all[0].count > 1)
      found.set(table.name, `all missing rows belong to the partition ${partitions[0].name}`)
  }
  return found
}

function insecureSides(options: VerifyOptions): string[] {
  return Object.entries({ source: options.sourceUrl, target: options.targetUrl }).flatMap(([side, url]) => {
    const problem = tlsProblem(url)
    return problem ? [`TLS is not enforced on the ${side} connection: ${problem}`] : []
  })
}

/** Sorts tables in the plan's order. */
function order(tables: readonly TableVerdict[], plan: Plan): TableVerdict[] {
  const at = (name: string) => (plan.tables.indexOf(name) + 1 || Number.POSITIVE_INFINITY) as number
  return [...tables].sort((a, b) => at(a.name) - at(b.name))
}
