import { info, warning } from '@actions/core'
import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { readTarget } from '../../destination/server.ts'
import { grantStatements } from '../../destination/write-access.ts'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { PartName } from '../../model/operations.ts'
import { lanesFor } from '../../phases/cutover/lanes.ts'
import { type Estimate, type Parts, partsText } from '../../phases/cutover/pause.ts'
import type { StreamStatus } from '../../phases/stream/supervisor.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import type { Choice } from './rolling.ts'
import type { Cutover } from './spec.ts'

/** Level, duration and tables of a verify: this run's first verify, or that of an earlier run. */
export type Verified = Pick<VerifyReport, 'level' | 'durationMs' | 'tables'>

interface Looked {
  entry: Entry
  source: Database
  target: Database
  before: Pick<StreamStatus, 'lagMs'>
  verified: Verified | undefined
  choice: Choice
  smokeMs: number | undefined
  /** Duration of this run's grant on the target; undefined when it made none. */
  grantMs: number | undefined
}

/** Estimates the pause from the measurements of this run and its rehearsals; `of` lists the parts. */
export async function expectPause({ inputs }: Cutover, looked: Looked): Promise<Estimate & { of: string }> {
  const { entry, source, target, before, verified, smokeMs, choice, grantMs } = looked
  const { level } = choice
  const past = await readEvidence<{ planHash: string; finalVerify: string; parts: Parts }>(
    target,
    entry.id,
    'cutover',
    10,
  )
  const ofPlan = past.flatMap(({ body }) =>
    body.planHash === entry.plan.hash && body.parts ? { finalVerify: body.finalVerify, parts: body.parts } : [],
  )
  const alike = ofPlan.filter(({ finalVerify }) => finalVerify === level)
  // A different level compares a different number of rows, which also affects the parts that run in parallel.
  const rehearsals = alike.length
    ? alike.slice(0, 3).map(({ parts }) => parts)
    : ofPlan.slice(0, 3).map(({ parts: { verify: _, ...others } }) => others)
  const own = verified?.level === level ? verified.durationMs : /full|molt/.test(level) ? undefined : OTHER_LEVELS
  const pace = await readPace(source, target, grantMs)
  const verifyMs = choice.verifyMs ?? own
  const deferred = await listDeferred(target, entry.id)
  const grants = grantStatements(entry.plan.targetSchema, entry.facts.writeAccess ?? []).length
  const estimate = estimatePause({
    decision: inputs.decision,
    lagMs: before.lagMs,
    verifyMs:
      verifyMs === undefined ? undefined : verifyMs + (level === 'changed' ? CHANGED_TRIPS * pace.latencyMs : 0),
    smokeMs,
    rebuildMs: rebuildTime(deferred, verified, pace),
    takeOffMs: takeOffTime(deferred, pace),
    latencyMs: pace.latencyMs,
    sourceMs: pace.sourceMs,
    accessMs: grants * pace.changeMs,
    rehearsals,
  })
  const of = `${partsText(estimate.parts)}${rehearsals.length ? `; including ${plural(rehearsals.length, 'earlier cutover')}` : ''}`
  return { ...estimate, of }
}

/** @throws VerdictError when the pause would exceed `max-pause` */
export async function requireShort(context: Cutover, looked: Looked): Promise<Estimate> {
  const { inputs } = context
  const { of, ...estimate } = await expectPause(context, looked)
  const { total, unknown } = estimate
  context.output('estimated-pause-ms', total)
  context.output('estimated-parts', JSON.stringify(estimate.parts))
  info(`the write pause is expected to take about ${seconds(total)} (${of})`)
  if (unknown.length)
    warning(`the final verify has never been measured; \`max-pause\` (${seconds(inputs.maxPause)}) limits it`)
  if (total > inputs.maxPause)
    throw new VerdictError(
      'pause.estimate-too-long',
      `the write pause would take about ${seconds(total)} (${of}), more than \`max-pause\` (${seconds(inputs.maxPause)}). Nothing was paused. Raise \`max-pause\`, or set \`final-verify: counts\` to compare less`,
    )
  return estimate
}

/** Milliseconds to compare definitions or row counts. */
const OTHER_LEVELS = 300
/** Fixed milliseconds per index, on top of its rows and its statement. */
const INDEX_AT_LEAST = 10
const INDEXED_ROWS_A_MS = 100

/** Milliseconds per statement on each side; `changeMs` is the extra time of a schema change or grant on the target. */
interface Pace {
  latencyMs: number
  sourceMs: number
  changeMs: number
}

/** Milliseconds of a schema change on CockroachDB, where it is a job. Used without a measurement. */
const CHANGE_ON_COCKROACH = 300

async function readPace(source: Database, target: Database, grantMs: number | undefined): Promise<Pace> {
  const fastest = async (db: Database) => {
    const took: number[] = []
    for (let look = 0; look < 3; look++) {
      const began = performance.now()
      await db.query('SELECT 1')
      took.push(performance.now() - began)
    }
    return Math.round(Math.min(...took))
  }
  const [sourceMs, latencyMs] = [await fastest(source), await fastest(target)]
  const changeMs = grantMs ?? ((await readTarget(target)).isCockroach ? CHANGE_ON_COCKROACH : 0)
  return { latencyMs, sourceMs, changeMs: Math.max(0, Math.round(changeMs) - latencyMs) }
}

/** Estimates the rebuild from row counts, in milliseconds. One statement adds all constraints of a table. */
function rebuildTime(deferred: readonly Deferred[], verified: Verified | undefined, pace: Pace): number {
  const rows = new Map(verified?.tables.map((table) => [table.name, table.rows]))
  const wanted = deferred.filter(({ kind }) => kind !== 'index')
  if (!wanted.length) return 0
  const uniques = wanted.filter(({ kind }) => kind === 'unique')
  const lanes = lanesFor(wanted)
  const statements = Math.ceil(uniques.length / lanes) + Math.ceil(constrainedTables(wanted) / lanes)
  const scans = uniques.reduce((sum, { table }) => sum + (rows.get(table) ?? 0) / INDEXED_ROWS_A_MS, 0)
  return (
    scans +
    wanted.length * INDEX_AT_LEAST +
    statements * (pace.latencyMs + pace.changeMs) +
    REBUILD_TRIPS * pace.latencyMs
  )
}

/** Milliseconds that a rehearsal takes to drop the rebuilt objects, one statement at a time. */
function takeOffTime(deferred: readonly Deferred[], pace: Pace): number {
  const wanted = deferred.filter(({ kind }) => kind !== 'index')
  return wanted.length ? wanted.length * (pace.latencyMs + pace.changeMs) + TAKE_OFF_TRIPS * pace.latencyMs : 0
}

function constrainedTables(wanted: readonly Deferred[]): number {
  const constrained = wanted.filter(({ kind }) => kind !== 'unique')
  return new Set(constrained.map(({ schema, table }) => `${schema}.${table}`)).size
}

/** Measurements of this run and its rehearsals, in milliseconds; undefined for a part that was not measured. */
export interface Measured {
  decision: 'rehearse' | 'commit'
  /** The current end-to-end lag. */
  lagMs: number
  /** Duration of the last verify at this level, or of comparing the keys that the rolling proof still has open. */
  verifyMs: number | undefined
  smokeMs: number | undefined
  /** Time to rebuild objects, estimated from row counts, and time to drop them again; 0 when there are none. */
  rebuildMs: number
  takeOffMs: number
  /** Round trip of one statement to the target, and to the source. */
  latencyMs: number
  sourceMs: number
  /** Time to restore write access, without round trips; 0 when nothing was revoked. */
  accessMs: number
  /** Measured parts of earlier cutovers with the same plan. */
  rehearsals: readonly Parts[]
}

/** Milliseconds of each part when both servers answer instantly. */
const FENCE = 30
/** The replicator acknowledges every 200 ms. After that, the stream must be quiet for 60 ms. */
const DRAIN = 180
const SEQUENCES = 40
const STREAM_OFF = 40
const DECISION = 80
const ACCESS = 15
/** Sequential statements on the source and on the target; a test counts some of them. */
const FENCE_TRIPS = 8
const DRAIN_TRIPS = 6
const CHANGED_TRIPS = 14
export const SEQUENCE_TRIPS = 8
export const REBUILD_TRIPS = 5
const TAKE_OFF_TRIPS = 3
const DECISION_TRIPS = 12
const STREAM_OFF_TRIPS = 6
const ACCESS_TRIPS = 6

/**
 * Estimates each part of the pause as its median in the rehearsals of this plan (the longer of two), but at least the
 * time that this run measured.
 * @returns `unknown` names the parts without a measurement
 */
export function estimatePause(now: Measured): Estimate {
  const seen = (part: PartName) => now.rehearsals.flatMap((parts) => parts[part] ?? []).sort((a, b) => a - b)
  // Rehearsals of this plan predict better than the constants above, which come from other databases.
  const by = (part: PartName, guess: number, own = 0) => {
    const times = seen(part)
    return Math.round(Math.max(own, times[times.length >> 1] ?? guess))
  }
  const { latencyMs, sourceMs, smokeMs, rebuildMs } = now
  const verify = now.verifyMs ?? (seen('verify').length ? 0 : undefined)
  const decision = DECISION + DECISION_TRIPS * latencyMs + FENCE_TRIPS * sourceMs
  const parts: Parts = {
    fence: by('fence', FENCE + FENCE_TRIPS * sourceMs),
    drain: by('drain', DRAIN + now.lagMs + DRAIN_TRIPS * latencyMs, now.lagMs),
    'stream off': by('stream off', STREAM_OFF + STREAM_OFF_TRIPS * latencyMs),
    ...(smokeMs !== undefined && { 'smoke test': by('smoke test', smokeMs, smokeMs) }),
    ...(verify !== undefined && { verify: by('verify', verify, verify) }),
    sequences: by('sequences', SEQUENCES + SEQUENCE_TRIPS * latencyMs),
    'unique indexes': rebuildMs ? by('unique indexes', rebuildMs) : 0,
    ...(now.decision === 'rehearse' && {
      'indexes off again': by('indexes off again', now.takeOffMs),
      lift: by('lift', decision),
    }),
    ...(now.decision === 'commit' && {
      commit: by('commit', decision),
      'write access': by('write access', now.accessMs + ACCESS + ACCESS_TRIPS * latencyMs),
    }),
  }
  const sum = Object.values(parts).reduce((all, ms) => all + ms, 0)
  // Sequences and unique indexes run in parallel with the verify.
  const beside = [parts.verify ?? 0, parts.sequences ?? 0, parts['unique indexes'] ?? 0]
  const total = sum - beside.reduce((all, ms) => all + ms, 0) + Math.max(...beside)
  return { parts, total, unknown: verify === undefined ? ['verify'] : [] }
}

/** The factor between an estimate and the measurement, at least 1; undefined without a measurement. */
export function offBy(estimate: number, actual: number): number | undefined {
  return estimate > 0 && actual > 0 ? Math.max(estimate / actual, actual / estimate) : undefined
}
