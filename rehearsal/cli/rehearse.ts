// `npm run rehearse`: moves a live PostgreSQL database with the committed actions, while an application writes to it.
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { parse, stringify } from 'yaml'
import { adoptCommand } from '../../scripts/adopt.ts'
import { listDeferred } from '../../src/destination/deferral.ts'
import { gatherDossier } from '../../src/phases/dossier/gather.ts'
import type { DossierFacts } from '../../src/report/dossier/page.ts'
import { ConnectError, connect, type Database, withDatabase } from '../../src/runtime/database.ts'
import { InputError, messageOf, UserError } from '../../src/runtime/errors.ts'
import { number, seconds } from '../../src/runtime/progress.ts'
import { readTables } from '../../src/sql/tables.ts'
import { freeAddress } from '../../src/tools/ports.ts'
import { toolVersion } from '../../src/tools/versions.ts'
import { type CockroachServer, seenThrough, startCockroach } from '../cockroach/server.ts'
import { type EmbeddedServer, startPair, startPostgres } from '../postgres/postgres.ts'
import { type JobResult, type LogLine, runAction } from '../runner/runner.ts'
import { startS3 } from '../s3.ts'
import { type LoadHandle, startGenericLoad, startLoad } from '../shop/load.ts'
import {
  CANARIES,
  createGrownShop,
  createGrownTarget,
  maskShop,
  type Search,
  searchDatabase,
  searchFiles,
  searchTexts,
  WITNESSES,
} from '../shop/masked-shop.ts'
import { createShop } from '../shop/shop.ts'
import { type Account, accountOf, accountText, type Converted, errorsOf, type Masking } from './account.ts'
import { HELP, type Options, readOptions } from './options.ts'
import { rehearsalPage, Timeline } from './page.ts'
import { grantAsPrinted, type Mover } from './printed-grants.ts'
import { Screen } from './screen.ts'

const REPO = resolve(import.meta.dirname, '../..')
/** Position of each step in the progress display. A commit is finalized; a rehearsal is cleaned up. */
const PLACES: Record<string, number> = {
  setup: 1,
  prepare: 2,
  fetch: 3,
  'catch-up': 4,
  cutover: 5,
  finalize: 6,
  definitions: 6,
  observe: 7,
  cleanup: 7,
}
/** With `--mask`, two steps come before the chain (production, mask) and one after it (the search). */
const STEPS = 7 + 3
/** Settings of `observe` for the sample shop: short, and independent of the machine's speed. */
const OBSERVE = { duration: '6s', every: '2s', 'min-calls': 5, 'min-coverage': 20, 'latency-floor': '500ms' }

/** A rehearsal in progress, with the facts that its dossier will show. */
interface Rehearsal extends Options {
  timeline: Timeline
  /** The ledger at the end of the chain, read before cleanup removes it. */
  dossier?: DossierFacts
  onLine?: (text: string) => void
}

async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2))
  if (!options) {
    console.log(HELP)
    return 0
  }
  const cancel = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => cancel.abort(new Error(`interrupted by ${signal}`)))
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-rehearsal-'))
  const screen = new Screen(options.json)
  try {
    const timeline = new Timeline()
    const rehearsal: Rehearsal = { ...options, timeline }
    const account = await rehearse(rehearsal, folder, screen, cancel.signal)
    account.next = account.verdict === 'go' ? adoptCommand() : options.again
    account.remaining = rehearsal.dossier?.remaining ?? null
    account.decisions = rehearsal.dossier?.toDecide ?? []
    const page = rehearsalPage(account, timeline, rehearsal.dossier, readFileSync(account.summary, 'utf8'))
    account.dossier = keepFile(options, folder, 'dossier.html', page)
    screen.end()
    console.log(options.json ? JSON.stringify(account) : accountText(account))
    if (cancel.signal.aborted) return 130
    return account.verdict === 'go' ? 0 : 1
  } catch (error) {
    screen.end()
    if (!cancel.signal.aborted) throw error
    console.error('interrupted; nothing is left behind')
    return 130
  } finally {
    if (!options.keep) rmSync(folder, { recursive: true, force: true })
  }
}

/** In a schema that the migration does not move. */
const STATISTICS = 'CREATE SCHEMA monitoring; CREATE EXTENSION pg_stat_statements SCHEMA monitoring'

async function rehearse(options: Rehearsal, folder: string, screen: Screen, signal: AbortSignal): Promise<Account> {
  if (options.source && options.target)
    return onOwnDatabases(options, options.source, options.target, folder, screen, signal)
  if (options.source) return onOwnSource(options, options.source, folder, screen, signal)
  if (options.mask) return onMaskedShop(options, folder, screen, signal)
  screen.say('starting PostgreSQL 16 and a CockroachDB-like server')
  const pair = await startPair({ signal, settings: { shared_preload_libraries: 'pg_stat_statements' } })
  try {
    const { source, target } = pair
    screen.say(`loading the sample shop: ${number(options.rows)} rows`)
    const plain = await carriesPlainValuesOnly(options, screen)
    await Promise.all([
      createShop(source.url, { rows: options.rows, plain }),
      createShop(target.url, { schemaOnly: true, whole: true }),
    ])
    await withDatabase(source.url, 'source', (db) => db.query(STATISTICS))
    signal.throwIfAborted()
    const account = await likeCockroach(options, target, screen, async (seen, faults) => {
      const admin = { source: source.url, target: seen.url }
      // Without delays and faults, because an administrator creates the roles long before the migration.
      const mover = options.printedGrants
        ? await without(faults, () => grantAsPrinted(admin, folder, signal))
        : undefined
      if (mover) screen.say('migration roles created with exactly the printed grants')
      return underLoad(Object.assign(options, { plain, mover }), { source, target: seen }, folder, screen, signal)
    })
    if (options.keep) await keepServers([source, target], folder, screen)
    return account
  } finally {
    await pair.stop()
  }
}

/** Runs `work` against the target through a server that answers like CockroachDB. */
async function likeCockroach<T>(
  { cluster: options }: Options,
  target: EmbeddedServer,
  screen: Screen,
  work: (seen: EmbeddedServer, faults: CockroachServer['options']) => Promise<T>,
): Promise<T> {
  const cluster = await startCockroach(target, options)
  try {
    const result = await work(seenThrough(cluster, target), cluster.options)
    for (const sql of cluster.unknown) screen.say(`the CockroachDB-like target has no rule for: ${sql}`)
    return result
  } finally {
    await cluster.stop()
  }
}

/** Turns the target's faults and delays off while `work` runs. */
async function without<T>(faults: CockroachServer['options'], work: () => Promise<T>): Promise<T> {
  const set = { ...faults }
  Object.assign(faults, { ddlTime: 0, latency: 0, retryRate: 0, ambiguousRate: 0 })
  try {
    return await work()
  } finally {
    Object.assign(faults, set)
  }
}

async function keepServers(servers: EmbeddedServer[], folder: string, screen: Screen): Promise<void> {
  await Promise.all(servers.map((server) => server.keep()))
  screen.say(`still running: ${servers.map(({ name, url }) => `${name} ${url}`).join(', ')}; files in ${folder}`)
  const folders = servers.map(({ dataDir }) => dirname(dataDir))
  const url = servers.find(({ name }) => name === 'target')?.url
  screen.say(
    `to put the CockroachDB-like server in front of the target again: npm run like-server -- --behind '${url}'`,
  )
  screen.say(
    `to stop them: kill $(cat ${folders.map((each) => `${each}/server.pid`).join(' ')}); afterwards rm -r ${[...folders, folder].join(' ')}`,
  )
}

/** Runs the whole chain while the application writes. With a commit, the application ends up on the target. */
async function underLoad(
  options: Rehearsal & { plain?: boolean; mover?: Mover },
  { source, target }: { source: EmbeddedServer; target: EmbeddedServer },
  folder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<Account> {
  const load = options.rate ? await startLoad({ url: source.url, rate: options.rate, plain: options.plain }) : undefined
  screen.say(load ? `the application writes: ${options.rate} transactions per second` : 'no application writes')
  const door = await switchDoor(async () => load?.switchTo(target.url))
  const watched = watchWrites(options, load)
  try {
    // The real tools must not commit on a target that only answers like CockroachDB.
    const decision = options.binDir ? 'rehearse' : 'commit'
    const observe = String(Boolean(load) && decision === 'commit' && !options.mask)
    // The target starts with its indexes and constraints, and `defer` drops them for the load.
    const defer = options.chain.defer ?? 'indexes,constraints'
    const inputs = { decision, observe, defer, 'switch-command': door.command }
    const mover = options.mover ?? { source: source.url, target: target.url, inputs: {} }
    const job = { ...mover, inputs: { ...inputs, ...mover.inputs } }
    const result = await runChain(options, job, folder, screen, signal)
    options.dossier = await readDossier({ source: source.url, target: target.url, migration: MIGRATION }, signal)
    const account = accountOf(result, keepSummary(options, folder, result.summary))
    account.applicationPauseMs = applicationPause(load)
    return account
  } finally {
    watched.abort()
    door.server.close()
    await load?.stop()
  }
}

/** Masks production into the source, runs the chain, then searches everything for leaks. */
async function onMaskedShop(options: Rehearsal, folder: string, screen: Screen, signal: AbortSignal): Promise<Account> {
  screen.say('starting two embedded PostgreSQL 16 servers and a CockroachDB-like one')
  // Keeping every WAL segment lets the search see everything ever written.
  const settings = { wal_keep_size: '100GB', log_statement: 'all' }
  const started = await Promise.allSettled([
    startPostgres({ name: 'production', signal }),
    startPostgres({ name: 'source', settings, signal }),
    startPostgres({ name: 'target', settings, signal }),
  ])
  const servers = started.flatMap((each) => (each.status === 'fulfilled' ? [each.value] : []))
  const stop = async () => void (await Promise.all(servers.map((server) => server.stop())))
  try {
    const failed = started.find((each) => each.status === 'rejected')
    const [production, source, target] = servers
    if (failed || !production || !source || !target) throw failed?.reason
    const logs: string[] = []
    const onLine = (text: string) => logs.push(text)
    screen.step(
      1,
      STEPS,
      `Production: a shop of ${number(options.rows)} rows, with ${CANARIES.length} canaries planted`,
    )
    await endingWith(signal, stop, () => grow(production.url, options.rows, screen))
    await createGrownTarget(target.url, true)
    signal.throwIfAborted()
    screen.step(2, STEPS, 'Mask')
    const began = performance.now()
    const { job, evidence } = await maskShop({ from: production.url, to: source.url, folder, signal }, (line) => {
      onLine(line.text)
      show(screen, line)
    })
    const tookMs = Math.round(performance.now() - began)
    signal.throwIfAborted()
    if (job.conclusion !== 'success') return stoppedAt('Mask', options, folder, job)
    const account = await likeCockroach(options, target, screen, (seen) =>
      underLoad(Object.assign(options, { onLine }), { source, target: seen }, folder, screen, signal),
    )
    signal.throwIfAborted()
    screen.step(STEPS, STEPS, 'Search for canaries')
    account.masking = {
      rows: Number(job.outputs.rows),
      tables: Number(job.outputs.tables),
      maskedColumns: Number(job.outputs['masked-columns']),
      copyMs: Number(job.outputs['duration-ms']),
      tookMs,
      needles: CANARIES.length + WITNESSES.length,
      searches: await endingWith(signal, stop, () =>
        searchAll(
          { production, source, target },
          [job.summary, JSON.stringify(job.outputs), ...logs],
          folder,
          account,
          screen,
          signal,
        ),
      ),
      evidence: keepFile(options, folder, 'mask.json', readFileSync(evidence, 'utf8')),
    }
    keepSummary(options, folder, `${job.summary}\n\n${readFileSync(account.summary, 'utf8')}`)
    const problem = searchProblem(account.masking)
    if (problem) Object.assign(account, { verdict: 'no-go', reason: problem })
    if (options.keep) await keepServers(servers, folder, screen)
    return account
  } finally {
    await stop()
  }
}

/** Stops the servers when `signal` aborts, to end long database work. */
async function endingWith<T>(signal: AbortSignal, stop: () => Promise<void>, work: () => Promise<T>): Promise<T> {
  signal.throwIfAborted()
  const end = () => void stop()
  signal.addEventListener('abort', end, { once: true })
  try {
    return await work()
  } finally {
    signal.removeEventListener('abort', end)
  }
}

async function grow(url: string, rows: number, screen: Screen): Promise<void> {
  const timer = setInterval(() => {
    const size = (db: Database) => db.query('SELECT pg_database_size(current_database())::float8 / 1048576 AS mib')
    withDatabase(url, 'source', size)
      .then(({ rows: [{ mib }] }) => screen.line(`growing: ${number(mib)} MiB`))
      .catch(() => {})
  }, 5000)
  try {
    await createGrownShop(url, rows)
  } finally {
    clearInterval(timer)
  }
}

/** Result if a step before the chain failed, so that nothing was moved. */
function stoppedAt(step: 'Convert' | 'Mask', options: Options, folder: string, job: JobResult): Account {
  const account = accountOf(job, keepSummary(options, folder, job.summary))
  const said = job.steps.flatMap(errorsOf)
  const code = job.outputs['error-code'] ?? null
  return {
    ...account,
    verdict: 'no-go',
    code,
    reason: `${step}: ${said.join('; ') || `the run was ${job.conclusion}`}`,
  }
}

async function searchAll(
  { production, source, target }: Record<'production' | 'source' | 'target', EmbeddedServer>,
  texts: readonly string[],
  folder: string,
  account: Account,
  screen: Screen,
  signal: AbortSignal,
): Promise<Search[]> {
  for (const { url } of [production, source, target]) await withDatabase(url, 'source', (db) => db.query('CHECKPOINT'))
  const needles = [...CANARIES, ...WITNESSES]
  const wal = ({ dataDir }: EmbeddedServer) => join(dataDir, 'pg_wal')
  if (!existsSync(join(wal(source), FIRST_SEGMENT)))
    throw new Error('the first WAL segment of the source no longer exists')
  const others = [source, target].flatMap(({ dataDir }) =>
    readdirSync(dataDir)
      .filter((name) => name !== 'pg_wal')
      .map((name) => join(dataDir, name)),
  )
  const searches: Search[] = []
  const note = (search: Search) => {
    searches.push(search)
    screen.line(`${search.place}: ${search.looked}, ${search.found.length} of ${needles.length} texts found`)
  }
  const inFiles = async (place: string, paths: string[], enough = false) =>
    note(await searchFiles(place, paths, needles, { signal, enough }))
  await inFiles(CONTROL, [production.dataDir], true)
  // Before the searches inside the databases, because their statements put the texts into the logs. Production's own
  // log may contain the texts, because it stays in production.
  await inFiles('server logs', [source.logFile, target.logFile])
  const rows = [source, target].map(({ name, url }) => searchDatabase(`rows of the ${name}`, url, needles))
  for (const search of await Promise.all(rows)) note(search)
  await inFiles('WAL of the source, all of it', [wal(source)])
  await inFiles('WAL of the target, all of it', [wal(target)])
  await inFiles('all other files of both', others)
  const told = [...texts, readFileSync(account.summary, 'utf8'), JSON.stringify(account)]
  note(searchTexts('logs, summaries, outputs', told, needles))
  await inFiles('evidence, artifacts, work files', [folder])
  return searches
}

const FIRST_SEGMENT = '000000010000000000000001'

/** Control: production contains every text. If the search misses one there, its other results prove nothing. */
const CONTROL = 'production, as a control'

function searchProblem({ searches, needles }: Masking): string | undefined {
  const control = searches.find(({ place }) => place === CONTROL)
  if (control?.found.length !== needles)
    return `the search found only ${control?.found.length ?? 0} of ${needles} texts in production, which contains them all, so it proves nothing`
  const leaks = searches.filter(({ place, found }) => place !== CONTROL && found.length)
  if (!leaks.length) return undefined
  return leaks.map(({ place, found }) => `${found.length} production texts found in: ${place}`).join('; ')
}

/** Whether molt is older than 1.0, which corrupts some values. The seed then leaves those values out and says so. */
async function carriesPlainValuesOnly(options: Options, screen: Screen): Promise<boolean> {
  if (!options.binDir) return false
  const version = await toolVersion(join(options.binDir, 'molt'), 'molt')
  if (!/^0\./.test(version)) return false
  screen.say(
    `molt ${version} loads empty strings as NULL and CRLF as LF, and fails on negative numbers, so the shop contains none of them. Do not use this build for a real migration`,
  )
  return true
}

/** Moves the user's database to a target that the rehearsal starts, with tables that `convert` creates. */
async function onOwnSource(
  options: Rehearsal,
  source: string,
  folder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<Account> {
  screen.say('starting a CockroachDB-like server')
  const server = await startPostgres({ name: 'target', signal })
  try {
    const account = await likeCockroach(options, server, screen, async ({ url: target }) => {
      const { job, converted } = await convertSource(options, { source, target }, folder, screen, signal)
      signal.throwIfAborted()
      if (job.conclusion !== 'success') return stoppedAt('Convert', options, folder, job)
      const account = await onOwnDatabases(options, source, target, folder, screen, signal)
      return { ...account, converted }
    })
    if (options.keep) await keepServers([server], folder, screen)
    return account
  } finally {
    await server.stop()
  }
}

async function convertSource(
  options: Rehearsal,
  { source, target }: { source: string; target: string },
  folder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<{ job: JobResult; converted: Converted }> {
  screen.say("converting the source's schema")
  options.timeline.step('Convert')
  const { cluster, chain } = options
  const out = join(options.keep ? folder : join(REPO, '.rehearsal'), 'schema')
  const job = await runAction({
    dir: join(REPO, 'actions/convert'),
    repo: REPO,
    inputs: {
      source,
      target,
      out,
      apply: 'true',
      migration: REHEARSAL,
      'allow-insecure': 'true',
      ...(chain.schema && { schema: chain.schema }),
      ...(cluster.version && { 'target-version': cluster.version }),
      ...(chain.decisions && { decisions: chain.decisions }),
    },
    workDir: join(folder, 'convert'),
    secrets: [source, target],
    env: { MOLT_ACTIONS_AGAIN: options.again },
    signal,
    onLine: (line) => show(screen, line),
  })
  const { manual, lossy } = job.outputs
  return { job, converted: { report: join(out, 'report.md'), manual: Number(manual), lossy: Number(lossy) } }
}

async function onOwnDatabases(
  options: Rehearsal,
  source: string,
  target: string,
  folder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<Account> {
  const inputs = {
    decision: 'rehearse',
    migration: REHEARSAL,
    slot: 'molt_rehearsal',
    cleanup: 'true',
    ...options.chain,
  }
  screen.say(
    `near the end, the source refuses writes for a few seconds, ${options.chain['max-pause'] ?? '60s'} at most; nothing is committed`,
  )
  const there = await ifReachable(() => withDatabase(target, 'target', traces))
  const load = options.rate
    ? await ifReachable(() => writeHarmlessly(source, options.chain.schema ?? 'public', Number(options.rate)))
    : undefined
  const watched = watchWrites(options, load)
  let result: JobResult | undefined
  try {
    result = await runChain(options, { source, target, inputs }, folder, screen, signal)
    if (!neverConnected(result)) options.dossier = await readDossier({ source, target, migration: REHEARSAL }, signal)
    return accountOf(result, keepSummary(options, folder, result.summary))
  } finally {
    watched.abort()
    await load?.stop()
    if (result && neverConnected(result)) screen.say('nothing was created, so nothing needs cleanup')
    else {
      await leaveNothing(source, target, folder, screen)
      if (there) await withDatabase(target, 'target', (db) => removeTraces(db, there))
      if (options.target && result?.steps.some(({ id, outcome }) => id === 'fetch' && outcome !== 'skipped'))
        screen.say('the loaded rows stay on the target: empty its tables before the next run')
    }
  }
}

/** Migration names in the ledger: for the sample shop, and for a rehearsal on the user's databases. */
const MIGRATION = 'main'
const REHEARSAL = 'rehearsal'

/** Gathers the dossier's facts; undefined if the target cannot be reached. */
async function readDossier(
  where: { source: string; target: string; migration: string },
  signal: AbortSignal,
): Promise<DossierFacts | undefined> {
  return gatherDossier({ ...where, signal }).catch(() => undefined)
}

/** Returns undefined if a side cannot be reached, and leaves it to `prepare` to report that. */
async function ifReachable<T>(work: () => Promise<T>): Promise<T | undefined> {
  return work().catch((error) => {
    if (error instanceof ConnectError) return undefined
    throw error
  })
}

/**
 * Whether `prepare` failed to connect. If so, there is nothing to clean up, because no earlier step creates anything.
 */
function neverConnected(result: JobResult): boolean {
  const prepare = result.steps.find(({ id }) => id === 'prepare')
  return prepare?.outputs['error-code']?.startsWith('connect.') ?? false
}

/** Objects that `cleanup` and molt leave on the target on purpose, and how a rehearsal removes them. */
const TRACES: Record<string, string> = {
  'molt_actions.migrations': 'DROP SCHEMA molt_actions CASCADE',
  'public._molt_fetch_status': 'DROP TABLE public._molt_fetch_status CASCADE',
  'public._molt_fetch_exceptions': 'DROP TABLE public._molt_fetch_exceptions CASCADE',
}

async function traces(db: Database): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(
    "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables",
  )
  return rows.map(({ name }) => name).filter((name) => name in TRACES)
}

async function removeTraces(db: Database, there: readonly string[]): Promise<void> {
  const brought = (await traces(db)).filter((name) => !there.includes(name))
  for (const name of brought) {
    // A migration that could not be cleaned up still needs the ledger.
    if (name === 'molt_actions.migrations' && (await db.query(`SELECT 1 FROM ${name}`)).rowCount) continue
    // The ledger also keeps the definitions of dropped objects.
    if (name === 'molt_actions.migrations' && (await listDeferred(db, 'rehearsal')).length) continue
    await db.query(TRACES[name] as string)
  }
}

async function writeHarmlessly(source: string, schema: string, rate: number): Promise<LoadHandle> {
  const db = await connect(source, 'source')
  try {
    const tables = (await readTables(db, schema)).map((table) => table.name)
    return await startGenericLoad({ url: source, schema, tables, rate })
  } finally {
    await db.end()
  }
}

/** Cleans up after a chain that was killed before it could do so. */
async function leaveNothing(source: string, target: string, folder: string, screen: Screen): Promise<void> {
  const run = (name: string, inputs: Record<string, string>) =>
    runAction({
      dir: join(REPO, 'actions', name),
      repo: REPO,
      inputs: { source, target, migration: 'rehearsal', 'allow-insecure': 'true', ...inputs },
      workDir: join(folder, 'after'),
      secrets: [source, target],
    })
  const status = await run('cleanup', { 'dry-run': 'true' })
  if (status.outputs['would-drop'] === '[]') return
  if (status.outputs['error-code'] === 'cleanup.other-migration')
    return screen.say(`nothing was changed: ${status.annotations.find(({ level }) => level === 'error')?.message}`)
  screen.say('the chain could not clean up after itself; cleaning up now')
  await run('fence', { do: 'lift' })
  const cleaned = await run('cleanup', {})
  if (cleaned.conclusion === 'success') return
  screen.say(`not everything could be cleaned up: ${cleaned.steps.flatMap(errorsOf).join('; ')}`)
}

/** Raises the retry limit, because `--retry-rate` causes retries of its own. */
function retriesOf({ cluster }: Rehearsal): { 'max-retries'?: number } {
  return cluster.retryRate ? { 'max-retries': 50 } : {}
}

async function runChain(
  options: Rehearsal,
  job: { source: string; target: string; inputs: Record<string, string> },
  folder: string,
  screen: Screen,
  signal: AbortSignal,
): Promise<JobResult> {
  const files = await openFiles(options, folder)
  const own = ownConfig(options.chain.config)
  const config = join(folder, 'rehearsal.yml')
  const { common, fetch, observe } = own.settings
  const settings = {
    common: { 'progress-every': '2s', ...common },
    fetch: { ...fetch, ...files.settings },
    observe: options.source ? observe : { ...OBSERVE, ...retriesOf(options), ...observe },
  }
  writeFileSync(config, stringify({ ...own.settings, ...settings }))
  return runAction({
    dir: REPO,
    repo: REPO,
    inputs: {
      source: job.source,
      target: job.target,
      'allow-insecure': 'true',
      ...(options.mode && { mode: options.mode }),
      ...(options.binDir ? { 'bin-dir': options.binDir } : { embedded: 'true' }),
      ...options.chain,
      ...job.inputs,
      config,
    },
    workDir: join(folder, 'work'),
    // Paths in the config file are relative to this folder.
    ...(options.chain.config && { workspace: process.cwd() }),
    secrets: [job.source, job.target, ...files.secrets, ...Object.values(own.env)],
    env: { ...files.env, ...own.env, MOLT_ACTIONS_AGAIN: options.again },
    signal,
    beforeStep: (step) => {
      const place = PLACES[step.id ?? '']
      if (!place || step.phase !== 'main') return
      options.timeline.step(step.name)
      if (options.mask) screen.step(place + 2, STEPS, step.name)
      else screen.step(place, 7, step.name)
    },
    onLine: (line) => {
      options.onLine?.(line.text)
      show(screen, line)
    },
  }).finally(files.close)
}

type Sections = Record<string, Record<string, unknown> | undefined>

/** The user's config file, and the variables it refers to as `env:NAME`. */
function ownConfig(path: string | undefined): { settings: Sections; env: Record<string, string> } {
  if (!path) return { settings: {}, env: {} }
  const text = readFileSync(path, 'utf8')
  const names = [...text.matchAll(/\benv:([A-Za-z_]\w*)/g)].map(([, name]) => name as string)
  const env = names.map((name) => [name, process.env[name] ?? ''])
  return { settings: parse(text) ?? {}, env: Object.fromEntries(env) }
}

/** Where the load keeps its files: settings of `fetch`, and credentials. */
interface OpenFiles {
  settings: Record<string, string>
  env: Record<string, string>
  secrets: string[]
  close(): Promise<void>
}

async function openFiles({ files }: Options, folder: string): Promise<OpenFiles> {
  const none = { settings: {}, env: {}, secrets: [], close: async () => {} }
  if (files === undefined) return none
  if (files === 'bucket') {
    const s3 = await startS3('loads', folder)
    return { ...none, settings: { 'bucket-path': 's3://loads/rehearsal' }, env: s3.env, close: () => s3.stop() }
  }
  if (files === 'folder') {
    const address = await freeAddress()
    const settings = {
      'local-path': join(folder, 'files'),
      'local-path-listen-addr': address,
      'local-path-crdb-access-addr': address,
    }
    return { ...none, settings }
  }
  const env = Object.entries(process.env).filter(([name]) => name.startsWith('AWS_')) as [string, string][]
  const secrets = env.flatMap(([name, value]) => (/SECRET|TOKEN/.test(name) ? [value] : []))
  return { ...none, settings: { 'bucket-path': files.bucketPath }, env: Object.fromEntries(env), secrets }
}

/** Samples the application's writes. Abort the returned controller to stop. */
function watchWrites({ timeline }: Rehearsal, load: LoadHandle | undefined): AbortController {
  const over = new AbortController()
  if (load) void timeline.follow(() => load.counters.transactions, over.signal)
  return over
}

/** Shows the lines of an action's log that matter to a waiting user. */
function show(screen: Screen, { group, kind, text }: LogLine): void {
  if (group === undefined && kind !== 'debug' && text && !/^Run \$/.test(text)) screen.line(text)
}

function keepSummary(options: Options, folder: string, summary: string): string {
  return keepFile(options, folder, 'summary.md', summary)
}

/** Writes a file that outlives the rehearsal's own folder, which is removed unless `--keep` is set. */
function keepFile(options: Options, folder: string, name: string, text: string): string {
  const path = options.keep ? join(folder, name) : join(REPO, '.rehearsal', name)
  mkdirSync(resolve(path, '..'), { recursive: true })
  writeFileSync(path, text)
  return path
}

function applicationPause(load: LoadHandle | undefined): number | null {
  if (!load) return null
  const longest = Math.max(0, ...load.pausesMs, load.pausedForMs ?? 0)
  return Math.round(longest)
}

/** Starts a loopback server for the switch command to call. On a call, the application switches to the target. */
async function switchDoor(open: () => Promise<unknown>): Promise<{ server: Server; command: string }> {
  const server = createServer((request, response) => {
    request.resume()
    open().then(
      () => response.end('switched\n'),
      (error) => {
        response.statusCode = 500
        response.end(`${messageOf(error)}\n`)
      },
    )
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as AddressInfo
  const script = `require('node:http').get('http://127.0.0.1:${port}/', (r) => { r.pipe(process.stdout); process.exitCode = r.statusCode === 200 ? 0 : 1 })`
  return { server, command: JSON.stringify([process.execPath, '-e', script]) }
}

const began = performance.now()
main().then(
  (code) => {
    process.exitCode = code
    if (code === 0 && !process.argv.includes('--json') && !process.argv.includes('--help'))
      console.log(`  took               ${seconds(performance.now() - began)}`)
  },
  (error) => {
    console.error(error instanceof UserError ? messageOf(error) : error)
    process.exitCode = error instanceof InputError ? 2 : 1
  },
)
