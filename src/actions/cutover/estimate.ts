import { info, warning } from '@actions/core'
import { type Deferred, listDeferred } from '../../destination/deferral.ts'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import { type Parts, partsText } from '../../phases/cutover/pause.ts'
import type { StreamStatus } from '../../phases/stream/supervisor.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { VerdictError } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { levelOf } from './compare.ts'
import type { Cutover } from './spec.ts'

interface Looked {
  entry: Entry
  target: Database
  before: StreamStatus
  verified: VerifyReport | undefined
  smokeMs: number | undefined
}

/** @throws VerdictError when the pause would exceed `max-pause`, by what this run and its rehearsals have measured */
export async function requireShort(context: Cutover, looked: Looked): Promise<number> {
  const { inputs } = context
  const { entry, target, before, verified, smokeMs } = looked
  const level = levelOf(context, entry.plan)
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
  const verifyMs = verified?.level === level ? verified.durationMs : /full|molt/.test(level) ? undefined : 1_000
  const rebuildMs = rebuildTime(await listDeferred(target, entry.id), verified)
  const { parts, total, unknown } = estimatePause({ lagMs: before.lagMs, verifyMs, smokeMs, rebuildMs, rehearsals })
  context.output('estimated-pause-ms', total)
  const of = `${partsText(parts)}${rehearsals.length ? `; with the figures of ${plural(rehearsals.length, 'earlier cutover')}` : ''}`
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

/** By the rows of each table, when nobody has measured it; milliseconds. */
function rebuildTime(deferred: readonly Deferred[], verified: VerifyReport | undefined): number {
  const rows = new Map(verified?.tables.map((table) => [table.name, table.rows]))
  return deferred
    .filter(({ kind }) => kind !== 'index')
    .reduce(
      (sum, { kind, table }) =>
        sum + INDEX_AT_LEAST + (kind === 'unique' ? (rows.get(table) ?? 0) / INDEXED_ROWS_A_MS : 0),
      0,
    )
}

/** What this run and its rehearsals have measured. Milliseconds; undefined is what nobody has measured. */
export interface Measured {
  /** The end-to-end lag of this moment. */
  lagMs: number
  /** What the same verify took a moment ago. */
  verifyMs: number | undefined
  smokeMs: number | undefined
  /** What rebuilding takes by the tables' rows; 0 when nothing is to be rebuilt. */
  rebuildMs: number
  /** Of earlier cutovers of this very plan. */
  rehearsals: readonly Parts[]
}

/** On two embedded servers each of these took less. */
const FENCE = 200
const ACKNOWLEDGE = 500
const SEQUENCES = 200
const DECISION = 300

/**
 * What each part of the pause will take: the longest that a rehearsal of this plan has seen, and no less than what this
 * run has measured itself.
 * @returns `unknown` names the parts that nobody has measured
 */
export function estimatePause(now: Measured): { parts: Parts; total: number; unknown: string[] } {
  const seen = (part: string) => now.rehearsals.flatMap((parts) => parts[part] ?? [])
  const longest = (part: string, own: number) => Math.round(Math.max(own, ...seen(part)))
  const verify = now.verifyMs ?? (seen('verify').length ? 0 : undefined)
  const parts: Parts = {
    fence: longest('fence', FENCE),
    drain: longest('drain', now.lagMs + ACKNOWLEDGE),
    ...(now.smokeMs !== undefined && { 'smoke test': longest('smoke test', now.smokeMs) }),
    ...(verify !== undefined && { verify: longest('verify', verify) }),
    sequences: longest('sequences', SEQUENCES),
    // A figure from this plan is better than one by the number of rows.
    'unique indexes': now.rebuildMs && seen('unique indexes').length ? longest('unique indexes', 0) : now.rebuildMs,
    decision: DECISION,
  }
  const total = Object.values(parts).reduce((sum, ms) => sum + ms, 0)
  return { parts, total, unknown: verify === undefined ? ['verify'] : [] }
}
