import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { info, warning } from '@actions/core'
import { deferAgain } from '../../destination/deferral.ts'
import { readTarget } from '../../destination/server.ts'
import {
  createStreamLogin,
  dropStreamLogin,
  grantOwnWrites,
  mayCreateLogins,
  newLoginName,
  retireStreamLogin,
  type StreamLogin,
} from '../../destination/stream-login.ts'
import { noteStream, readStreamNote, type StreamNote } from '../../ledger/hold.ts'
import type { Entry } from '../../ledger/ledger.ts'
import { writeMetrics } from '../../report/metrics.ts'
import { type Database, ident, withDatabase } from '../../runtime/database.ts'
import { InputError, messageOf, refuse, VerdictError } from '../../runtime/errors.ts'
import { number, plural, progress, seconds, workFolder } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { alteredPublication, type TableFiles } from '../../source/changes.ts'
import { HEARTBEAT } from '../../source/heartbeat.ts'
import {
  type PublicationMark,
  publicationChanges,
  publicationProblems,
  readPublicationMark,
} from '../../source/publication.ts'
import { readServer } from '../../source/server.ts'
import { lsnNumber, readerText, readSlotFacts, type SlotFacts } from '../../source/slot.ts'
import { readSecuredTables } from '../../sql/tables.ts'
import { explainDiagnosis } from '../../tools/diagnoses.ts'
import { STREAM_APPLICATION } from '../../tools/replicator.ts'
import { toolHelp } from '../../tools/versions.ts'
import { Stream, type StreamStatus } from './supervisor.ts'
import type { WatchLimits } from './watch.ts'

export interface StreamInputs extends WatchLimits {
  source: string
  target: string
  migration: string
  stuckAfter: number
  progressEvery: number
  metricsFile?: string
  replicatorArgs?: string[]
}

/**
 * Flags that supervision depends on, and user scripts, because a script could drop rows without invalidating the proof.
 */
const OWNED =
  /^(--(sourceConn|targetConn|stagingConn|slotName|publicationName|targetSchema|stagingSchema|stagingCreateSchema|metricsAddr|standbyTimeout|logFormat|logDestination|enableParallelApplies|userscript|verbose)(=|$)|-v)/

/**
 * Returns the first argument that the user may not set, because this action sets it or it would break the proof of the
 * drain.
 */
export function refusedArgument(args: readonly string[]): string | undefined {
  return args.find((argument) => OWNED.test(argument))?.split('=')[0]
}

/**
 * Makes the replicator write its changes quickly. Since 1.3.2 it waits for `--flushPeriod`, 1 s by default [doc], and
 * the drain's marker would have to wait that long during the write pause.
 * @param help output of `replicator pglogical --help`
 */
export function flushArguments(help: string, args: readonly string[]): string[] {
  const given = args.some((argument) => /^--flushPeriod(=|$)/.test(argument))
  return given || !help.includes('--flushPeriod') ? [] : ['--flushPeriod', `${TIMING.flush}ms`]
}

/** Starts the stream of a migration, runs `work` with it, and stops the stream afterwards. The slot stays. */
export async function withStream<T>(
  inputs: StreamInputs,
  entry: Entry,
  signal: AbortSignal,
  work: (stream: Stream) => Promise<T>,
): Promise<T> {
  const refused = refusedArgument(inputs.replicatorArgs ?? [])
  if (refused)
    throw new InputError(
      'input.reserved-argument',
      `input \`replicator-args\`: ${refused} is set by this action or would break the proof of the drain. Remove it`,
    )
  const { stagingSchema } = entry.facts
  if (!stagingSchema)
    throw new VerdictError(
      'ledger.changed-by-hand',
      `the ledger has no staging schema for migration ${entry.id}, although the migration is loaded. Run \`abort\`, then prepare and load again`,
    )
  const { database, isCockroach, publication, files, login } = await begin(inputs, entry, stagingSchema)
  const ownArgs = inputs.replicatorArgs ?? []
  const stream = new Stream({
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    ...(login && { login }),
    targetDatabase: database,
    isCockroach,
    plan: entry.plan,
    stagingSchema,
    program: 'replicator',
    logFile: join(workFolder(inputs.migration), 'replicator.log'),
    extraArgs: [...flushArguments(await toolHelp('replicator', 'pglogical'), ownArgs), ...ownArgs],
    stuckAfter: inputs.stuckAfter,
    watch: inputs,
    publication,
    files,
    signal,
  })
  await stream.start()
  let before = { at: performance.now(), ...stream.status }
  const ticker = progress(inputs.progressEvery, () => {
    const now = { at: performance.now(), ...stream.status }
    const line = progressLine(before, now)
    writeMetrics(inputs.metricsFile, { ...streamFigures(entry, before, now), keysOpen: stream.options.keysOpen?.() })
    before = now
    return line
  })
  try {
    return await work(stream)
  } finally {
    ticker.stop()
    await stream.close()
    reportDiagnoses(stream)
    const left = login && (await retire(inputs, login.role))
    await end(inputs, entry, stagingSchema, publication, stream.files, left).catch((error) =>
      info(`the slot's last position could not be recorded: ${messageOf(error)}`),
    )
  }
}

/** Figures for the metrics file. */
function streamFigures(
  { id, phase }: Entry,
  before: StreamStatus & { at: number },
  now: StreamStatus & { at: number },
) {
  const elapsed = Math.max(1, now.at - before.at) / 1000
  return {
    migration: id,
    phase,
    lagSeconds: now.beating ? now.lagMs / 1000 : undefined,
    rowsPerSecond: (now.changes - before.changes) / elapsed,
    walKeptBytes: now.walBytes,
  }
}

/** The progress line for one period: how far the target is behind, and the trend. */
export function progressLine(before: StreamStatus & { at: number }, now: StreamStatus & { at: number }): string {
  const elapsed = Math.max(1, now.at - before.at) / 1000
  const rate = (now.changes - before.changes) / elapsed
  const lag = Number.isFinite(now.lagMs) ? `lag ${seconds(now.lagMs)}` : 'lag unknown until the first heartbeat arrives'
  const retries = now.retries - before.retries
  return `streaming: ${now.beating ? lag : 'lag unknown until the drain marker arrives'}${retries > 0 ? `, retried ${times(retries)}` : ''}, ${number(rate)} rows/s, ${number(now.changes)} changes, ${number(now.behindBytes / 1024)} KiB of WAL behind${outlook(before, now, elapsed)}`
}

/** Normal lag of a busy stream, in milliseconds. */
const KEEPING_UP = 1_000

function outlook(before: StreamStatus, now: StreamStatus, elapsed: number): string {
  if (!now.beating || now.lagMs <= KEEPING_UP || now.changes === 0) return ''
  const gained = (before.behindBytes - now.behindBytes) / elapsed
  if (gained <= 0) return ', falling behind'
  return `, caught up in about ${seconds((now.behindBytes / gained) * 1000)}`
}

/**
 * Checks what a replicator needs and records in the ledger that it starts, so that the next run knows of this stream
 * even if this run is killed.
 */
async function begin(inputs: StreamInputs, entry: Entry, stagingSchema: string) {
  return withDatabase(inputs.source, 'source', (source) =>
    withDatabase(inputs.target, 'target', async (target) => {
      const { database, isCockroach } = await readTarget(target)
      // The replicator's own flag would also create the database, which requires CREATEDB on CockroachDB.
      await target.query(`CREATE SCHEMA IF NOT EXISTS ${ident(stagingSchema)}`)
      await endOrphan(source, entry)
      // A cutover that did not commit may have been killed before it could restore these privileges.
      await grantOwnWrites(target, entry.plan.targetSchema, entry.plan.tables)
      const again = await deferAgain(target, entry.id)
      if (again.length)
        info(`dropped ${again.length} rebuilt unique indexes and constraints, which would block the stream`)
      const slot = await readSlotNow(source, entry)
      if (!slot)
        refuse(
          'slot.missing',
          'the stream cannot start',
          [`the slot ${entry.plan.slot} does not exist`],
          'Repeat the load.',
        )
      const publication = await requirePublication(source, entry)
      const latest = await readStreamNote(target, entry.id)
      if (latest?.login) {
        await retireStreamLogin(target, inputs.target, latest.login)
        await dropStreamLogin(target, latest.login)
      }
      const note = latest?.stagingSchema === stagingSchema ? latest : undefined
      const memo = await readMemo(target, stagingSchema, `${database}.${entry.plan.targetSchema}`)
      const changes = publicationChanges(note?.publication ?? entry.facts.publication ?? publication, publication)
      const problems = [
        ...continuityProblems(slot, memo, note, entry.facts.cursor),
        ...(changes.length ? [alteredPublication(entry.plan, changes)] : []),
      ]
      if (problems.length)
        refuse(
          'stream.not-continuous',
          'the stream would not resume where the last one ended',
          problems,
          'Changes would be silently lost. Repeat the load.',
        )
      // Use the earlier files, not the current ones, so that the stream's first check finds tables that were rewritten
      // since then.
      const files = note?.files ?? entry.facts.files ?? {}
      const role = (await mayCreateLogins(target)) ? newLoginName() : undefined
      // Record the login before creating it, so that the next run can drop it if this run is killed.
      await noteStream(target, entry.id, {
        ...noteOf(slot, stagingSchema, publication, false),
        files,
        ...(role && { login: role }),
      })
      const login = role ? await openLogin(target, inputs.target, entry, role) : undefined
      return { database, isCockroach, publication, files, login }
    }),
  )
}

/** Creates the stream's own login. Logs the reason and returns undefined if the target does not allow this. */
async function openLogin(
  target: Database,
  url: string,
  { plan }: Entry,
  role: string,
): Promise<StreamLogin | undefined> {
  const tables = [...plan.tables, HEARTBEAT]
  const problem = (await readSecuredTables(target, plan.targetSchema, plan.tables)).length
    ? 'row-level security on the target would hide rows from it'
    : undefined
  try {
    if (!problem) return await createStreamLogin(target, url, role, plan.targetSchema, tables)
  } catch (error) {
    await dropStreamLogin(target, role)
    info(`the stream has no login of its own on the target: ${messageOf(error)}`)
    return undefined
  }
  info(`the stream has no login of its own on the target: ${problem}`)
  return undefined
}

/**
 * Revokes and drops the stream's login.
 * @returns the role if it could not be dropped
 */
async function retire(inputs: StreamInputs, role: string): Promise<string | undefined> {
  try {
    await withDatabase(inputs.target, 'target', async (target) => {
      await retireStreamLogin(target, inputs.target, role)
      await dropStreamLogin(target, role)
    })
    return undefined
  } catch (error) {
    info(`the stream's login ${role} could not be dropped, so the next stream will drop it: ${messageOf(error)}`)
    return role
  }
}

/** Checks the publication. Reads its mark before the check, so that the stream's watch notices any later change. */
async function requirePublication(source: Database, { plan }: Entry): Promise<PublicationMark> {
  const mark = await readPublicationMark(source, plan.publication)
  const problems = await publicationProblems(source, { ...plan, schema: plan.sourceSchema })
  if (!mark || problems.length)
    refuse(
      'publication.unfit',
      'the stream cannot start',
      problems,
      'Fix these problems. If the stream has missed rows, load again.',
    )
  return mark
}

/** Maximum number of times to disconnect a reader that keeps returning. */
const MOST_CUTS = 5

/**
 * Disconnects a replicator left behind by an earlier run. It is recognised by our replicator's name and user, and this
 * run holds the migration, so no other may stream. A replicator normally ends with its run, so one that keeps
 * reconnecting belongs to a run that is still alive elsewhere.
 * @throws VerdictError if another client is reading the slot, or the reader keeps reconnecting
 */
async function endOrphan(source: Database, entry: Entry): Promise<void> {
  for (let cuts = 0; ; cuts++) {
    const reader = await readerAfter(source, entry, TIMING.readerGone, cuts > 0)
    if (!reader) return
    const { rows } = await source.query('SELECT session_user AS me')
    if (reader.application !== STREAM_APPLICATION || reader.user !== rows[0].me)
      refuse(
        'slot.in-use',
        'the stream cannot start',
        [`another client is reading the slot ${entry.plan.slot}: ${readerText(reader)}`],
        `Stop that process, or end its session (SELECT pg_terminate_backend(${reader.pid})), then rerun the step.`,
      )
    if (cuts >= MOST_CUTS)
      refuse(
        'slot.earlier-replicator',
        'the stream cannot start',
        [
          `a replicator from an earlier run is still alive and keeps reconnecting to the slot ${entry.plan.slot}: ${readerText(reader)}`,
        ],
        'The job or machine that started it is still running. Stop the process there, then rerun the step.',
      )
    await source.query('SELECT pg_catalog.pg_terminate_backend($1)', [reader.pid])
    info(`disconnected an abandoned replicator from an earlier run: ${readerText(reader)}`)
  }
}

/** Waits up to `ms` milliseconds until the slot has no reader. Returns the reader if one remains. */
async function readerAfter(source: Database, entry: Entry, ms: number, cut: boolean) {
  const until = performance.now() + ms
  let away = 0
  for (;;) {
    const reader = (await readSlotNow(source, entry))?.reader
    away = reader ? 0 : away + 1
    // A replicator that has lost its session reconnects within 0.1 s, so one empty reading is not enough.
    if (away >= (cut ? 5 : 1)) return undefined
    if (reader && performance.now() > until) return reader
    await sleep(TIMING.readerLook)
  }
}

/**
 * Reads the replicator's own record of its progress, which takes precedence over the slot; undefined if there is none.
 */
async function readMemo(db: Database, stagingSchema: string, targetSchema: string): Promise<string | undefined> {
  const there = await db.query(
    `SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = 'memo'`,
    [stagingSchema],
  )
  if (!there.rows[0]) return undefined
  const { rows } = await db.query(
    `SELECT convert_from(value, 'UTF8') AS lsn FROM ${ident(stagingSchema)}.memo WHERE key = $1`,
    [`pglogical-wal-offset-${targetSchema}`],
  )
  return /^[0-9A-F]+\/[0-9A-F]+$/i.test(rows[0]?.lsn ?? '') ? rows[0].lsn : undefined
}

async function end(
  inputs: StreamInputs,
  entry: Entry,
  stagingSchema: string,
  publication: PublicationMark,
  files: TableFiles,
  login?: string,
): Promise<void> {
  await withDatabase(inputs.source, 'source', async (source) => {
    let slot = await readSlotNow(source, entry)
    // The server needs a moment to notice that the reader is gone, and still accepts the reader's last message until
    // then.
    for (let attempt = 0; slot?.active && attempt < 20; attempt++) {
      await sleep(TIMING.readerLook / 2)
      slot = await readSlotNow(source, entry)
    }
    const { confirmedFlushLsn } = slot ?? {}
    if (!slot || slot.active || !confirmedFlushLsn) return
    const note = { ...noteOf(slot, stagingSchema, publication, true), files, ...(login && { login }) }
    await withDatabase(inputs.target, 'target', (target) => noteStream(target, entry.id, note))
  })
}

async function readSlotNow(source: Database, { plan }: Entry): Promise<SlotFacts | undefined> {
  const { version } = await readServer(source)
  return readSlotFacts(source, plan.slot, plan.publication, version >= 140000)
}

function noteOf(slot: SlotFacts, stagingSchema: string, publication: PublicationMark, ended: boolean): StreamNote {
  const { confirmedFlushLsn, decoded, serverStart } = slot
  return { stagingSchema, ended, confirmedFlushLsn, decoded, serverStart, publication }
}

/**
 * Finds out why a new replicator would not continue exactly where the last one ended. The replicator's own note on the
 * target (`memo`) takes precedence over the slot, so a note from another source or an earlier slot would make it
 * silently skip changes.
 * @param note the ledger's record of this load's last stream; undefined before the first stream
 * @param cursor the slot's position after the load, which does not move before the first stream
 */
export function continuityProblems(
  slot: Pick<SlotFacts, 'confirmedFlushLsn' | 'lsn' | 'decoded' | 'serverStart'>,
  memo: string | undefined,
  note: StreamNote | undefined,
  cursor?: string,
): string[] {
  const problems: string[] = []
  if (memo && lsnNumber(memo) > lsnNumber(slot.lsn))
    problems.push(
      `the replicator's note on the target is at ${memo}, but the source is only at ${slot.lsn}: the note is from another source, or the source was restored from a backup`,
    )
  else if (memo && !note)
    problems.push(
      `the replicator's note on the target is at ${memo}, but nothing has been streamed since this load: the note is from an earlier stream and would take precedence over the slot`,
    )
  if (!slot.confirmedFlushLsn) return problems
  if (!note && cursor && lsnNumber(slot.confirmedFlushLsn) > lsnNumber(cursor))
    problems.push(
      `the slot is at ${slot.confirmedFlushLsn}, but the load ended at ${cursor}, and nothing has been streamed since: another client has recreated, advanced or read the slot`,
    )
  if (!note?.confirmedFlushLsn) return problems
  const [then, now] = [lsnNumber(note.confirmedFlushLsn), lsnNumber(slot.confirmedFlushLsn)]
  // After a crash, the slot may return to an earlier position. It is harmless to send changes again.
  const restarted = note.serverStart !== slot.serverStart
  if (now < then && !restarted)
    problems.push(
      `the slot is at ${slot.confirmedFlushLsn}, but was already at ${note.confirmedFlushLsn}: it is not the same slot`,
    )
  if (note.ended && now > then)
    problems.push(
      `the slot has moved from ${note.confirmedFlushLsn} to ${slot.confirmedFlushLsn} since the last stream ended: another client has recreated, advanced or read the slot`,
    )
  else if (!restarted && note.decoded !== null && slot.decoded !== null && slot.decoded < note.decoded)
    problems.push('the slot has decoded fewer transactions than before, so it was recreated')
  // A killed stream may be ahead of its record in the ledger, but only by transactions that the slot has decoded.
  else if (!note.ended && !restarted && now > then && slot.decoded !== null && slot.decoded === note.decoded)
    problems.push(
      `the slot has moved from ${note.confirmedFlushLsn} to ${slot.confirmedFlushLsn} without decoding a transaction, so it was recreated or advanced after the last stream was killed`,
    )
  return problems
}

const times = (count: number) => (count === 1 ? 'once' : `${number(count)} times`)

/** `the replicator was restarted once; our own connections were lost 2 times` */
export function diagnosesText(status: Pick<StreamStatus, 'retries' | 'restarts' | 'interruptions'>): string {
  const { retries, restarts, interruptions } = status
  const replicator = [retries && `retried ${times(retries)}`, restarts && `was restarted ${times(restarts)}`].filter(
    Boolean,
  )
  const parts = [
    replicator.length && `the replicator ${replicator.join(' and ')}`,
    interruptions && `our own connections were lost ${times(interruptions)}`,
  ]
  return parts.filter(Boolean).join('; ')
}

function reportDiagnoses(stream: Stream): void {
  const { retries, restarts, interruptions } = stream.status
  if (retries + restarts + interruptions === 0) return
  info(diagnosesText({ retries, restarts, interruptions }))
  for (const [said, times] of stream.diagnoses) {
    const often = times ? ` (${plural(times, 'retry', 'retries')})` : ''
    warning(`the replicator reported${often}: ${explainDiagnosis(said)}: ${said.slice(0, 300)}`)
  }
}
