import { info, warning } from '@actions/core'
import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { readTarget } from '../../destination/server.ts'
import { grantStatements } from '../../destination/write-access.ts'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import { lanesFor } from '../../phases/cutover/lanes.ts'
import { type Parts, partsText } from '../../phases/cutover/pause.ts'
import type { StreamStatus } from '../../phases/stream/supervisor.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import type { Choice } from './rolling.ts'
import type { Cutover } from './spec.ts'

/** What the first verify, or an earlier one, has taken. */
export type Verified = Pick<VerifyReport, 'level' | 'durationMs' | 'tables'>

interface Looked {
  entry: Entry
  target: Database
  before: Pick<StreamStatus, 'lagMs'>
  verified: Verified | undefined
  choice: Choice
  smokeMs: number | undefined
}

/** What the pause will take, by what this run and its rehearsals have measured; `of` names the parts. */
export async function expectPause(looked: Looked): Promise<Estimate & { of: string }> {
  const { entry, target, before, verified, smokeMs, choice } = looked
  const { level } = choice
  const past = await readEvidence<{ planHash: string; finalVerify: string; parts: Parts }>(
    target,
    entry.id,
    'cutover',
    10,
  )
  const rehearsals = past
    .filter(({ body }) => body.planHash === entry.plan.hash && body.parts)
    .slice(0, 3)
    .map(({ body: { parts = {}, finalVerify } }) => {
      const { verify, ...others } = parts
      return finalVerify === level && verify !== undefined ? { ...others, verify } : others
    })
  const own = verified?.level === level ? verified.durationMs : /full|molt/.test(level) ? undefined : 1_000
  const verifyMs = choice.verifyMs ?? own
  const pace = await readPace(target)
  const rebuildMs = rebuildTime(await listDeferred(target, entry.id), verified, pace)
  const grants = grantStatements(entry.plan.targetSchema, entry.facts.writeAccess ?? []).length
  const estimate = estimatePause({
    lagMs: before.lagMs,
    verifyMs,
    smokeMs,
    rebuildMs,
    latencyMs: pace.latencyMs,
    accessMs: grants * (pace.latencyMs + pace.changeMs),
    rehearsals,
  })
  const of = `${partsText(estimate.parts)}${rehearsals.length ? `; with the figures of ${plural(rehearsals.length, 'earlier cutover')}` : ''}`
  return { ...estimate, of }
}

/** @throws VerdictError when the pause would exceed `max-pause` */
export async function requireShort(context: Cutover, looked: Looked): Promise<number> {
  const { inputs } = context
  const { total, unknown, of } = await expectPause(looked)
  context.output('estimated-pause-ms', total)
  info(`the write pause is expected to take about ${seconds(total)} (${of})`)
  if (unknown.length)
    warning(`nobody has measured the final verify; \`max-pause\` (${seconds(inputs.maxPause)}) ends it if need be`)
  if (total > inputs.maxPause)
    throw new VerdictError(
      'pause.estimate-too-long',
      `the write pause would take about ${seconds(total)} (${of}), more than \`max-pause\` (${seconds(inputs.maxPause)}); allow more, or compare less in it (\`final-verify: counts\`). Nothing was paused`,
    )
  return total
}

const INDEX_AT_LEAST = 50
const INDEXED_ROWS_A_MS = 100

/** How fast the target answers, in milliseconds: a statement, and what a schema change or grant takes beside it. */
interface Pace {
  latencyMs: number
  changeMs: number
}

/** A schema change and a grant are jobs on CockroachDB. */
const CHANGE_ON_COCKROACH = 300

async function readPace(target: Database): Promise<Pace> {
  const took: number[] = []
  let isCockroach = false
  for (let look = 0; look < 3; look++) {
    const began = performance.now()
    isCockroach = (await readTarget(target)).isCockroach
    took.push(performance.now() - began)
  }
  return { latencyMs: Math.round(Math.min(...took)), changeMs: isCockroach ? CHANGE_ON_COCKROACH : 0 }
}

/** By the rows of each table, for a part without a measurement; milliseconds. Constraints of one table are one statement. */
function rebuildTime(deferred: readonly Deferred[], verified: Verified | undefined, pace: Pace): number {
  const rows = new Map(verified?.tables.map((table) => [table.name, table.rows]))
  const wanted = deferred.filter(({ kind }) => kind !== 'index')
  const uniques = wanted.filter(({ kind }) => kind === 'unique')
  const constrained = new Set(
    wanted.filter(({ kind }) => kind !== 'unique').map((each) => `${each.schema}.${each.table}`),
  )
  const lanes = lanesFor(wanted)
  const statements = Math.ceil(uniques.length / lanes) + Math.ceil(constrained.size / lanes)
  const scans = uniques.reduce((sum, { table }) => sum + (rows.get(table) ?? 0) / INDEXED_ROWS_A_MS, 0)
  if (!wanted.length) return 0
  return (
    scans +
    wanted.length * INDEX_AT_LEAST +
    statements * (pace.latencyMs + pace.changeMs) +
    REBUILD_TRIPS * pace.latencyMs
  )
}

/** What this run and its rehearsals have measured. Milliseconds; undefined is a part without a measurement. */
export interface Measured {
  /** The end-to-end lag of this moment. */
  lagMs: number
  /** What the same verify took a moment ago. */
  verifyMs: number | undefined
  smokeMs: number | undefined
  /** What rebuilding takes by the tables' rows; 0 when nothing is to be rebuilt. */
  rebuildMs: number
  /** What one statement on the target takes. */
  latencyMs: number
  /** What giving write access back takes; 0 when nothing was taken. */
  accessMs: number
  /** Of earlier cutovers of this very plan. */
  rehearsals: readonly Parts[]
}

/** Milliseconds; `unknown` names the parts without a measurement. */
interface Estimate {
  parts: Parts
  total: number
  unknown: string[]
}

/** On two embedded servers each of these took less. */
const FENCE = 200
const ACKNOWLEDGE = 500
const SEQUENCES = 200
const STREAM_OFF = 100
const DECISION = 300
/** Statements on the target that wait for one another; a test counts them. */
export const SEQUENCE_TRIPS = 8
export const REBUILD_TRIPS = 5
const DECISION_TRIPS = 12
const STREAM_OFF_TRIPS = 6
const ACCESS_TRIPS = 1

/**
 * What each part of the pause will take: the longest that a rehearsal of this plan has seen, and no less than what this
 * run has measured itself.
 * @returns `unknown` names the parts without a measurement
 */
export function estimatePause(now: Measured): Estimate {
  const seen = (part: string) => now.rehearsals.flatMap((parts) => parts[part] ?? [])
  const longest = (part: string, own: number) => Math.round(Math.max(own, ...seen(part)))
  const verify = now.verifyMs ?? (seen('verify').length ? 0 : undefined)
  const parts: Parts = {
    fence: longest('fence', FENCE),
    drain: longest('drain', now.lagMs + ACKNOWLEDGE),
    'stream off': longest('stream off', STREAM_OFF + STREAM_OFF_TRIPS * now.latencyMs),
    ...(now.smokeMs !== undefined && { 'smoke test': longest('smoke test', now.smokeMs) }),
    ...(verify !== undefined && { verify: longest('verify', verify) }),
    sequences: longest('sequences', SEQUENCES + SEQUENCE_TRIPS * now.latencyMs),
    // A figure from this plan is better than one by the number of rows.
    'unique indexes': now.rebuildMs && seen('unique indexes').length ? longest('unique indexes', 0) : now.rebuildMs,
    decision: DECISION + DECISION_TRIPS * now.latencyMs,
    ...(now.accessMs && { 'write access': longest('write access', now.accessMs + ACCESS_TRIPS * now.latencyMs) }),
  }
  const sum = Object.values(parts).reduce((all, ms) => all + ms, 0)
  // Sequences and unique indexes are done beside the verify.
  const total = sum - Math.min(parts.verify ?? 0, (parts.sequences ?? 0) + (parts['unique indexes'] ?? 0))
  return { parts, total, unknown: verify === undefined ? ['verify'] : [] }
}
