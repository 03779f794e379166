import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { COMMITTED, type Entry, STREAMING } from '../../ledger/ledger.ts'
import { type Baseline, keepSnapshot, readBaseline, takeSnapshot } from '../../phases/observe/baseline.ts'
import { keepObservation, lastObservation, observationOf } from '../../phases/observe/observation.ts'
import { baselineText, gapText, judgementText, reasonText } from '../../phases/observe/summary.ts'
import { isMissing, type Judgement, judge, type Limits, type Verdict } from '../../phases/observe/verdict.ts'
import { type Watched, watch } from '../../phases/observe/watch.ts'
import { readRollback } from '../../phases/observe/way-back.ts'
import { writeMetrics } from '../../report/metrics.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { ident, Link } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'
import { notify } from '../../runtime/notify.ts'
import { minutes, plural, seconds, workFolder } from '../../runtime/progress.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { spec } from './spec.ts'

type Observe = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  run: (context) => (context.inputs.mode === 'baseline' ? baseline(context) : observe(context)),
}

/**
 * Saves a snapshot of the source's statistics. If they are missing, only warns, because the load and the cutover do not
 * need them.
 */
async function baseline(context: Observe): Promise<void> {
  const { migration } = context.inputs
  await withBoth(context, async (source, target) => {
    const { plan } = await requireMigration(source, target, migration, ['prepared', ...STREAMING])
    const snapshot = await takeSnapshot(source, plan)
    await keepSnapshot(target, migration, snapshot)
    const kept = await readBaseline(target, migration)
    context.output('snapshots', kept.snapshots)
    if (isMissing(snapshot.statements))
      warning(
        snapshot.statements.missing === 'right'
          ? `The migration role cannot read the text of statements on the source. Run \`GRANT pg_read_all_stats TO ${ident(source.user ?? '')};\` on the source. Otherwise \`observe\` is inconclusive after the commit.`
          : 'pg_stat_statements is not installed on the source. Install it. Otherwise `observe` is inconclusive after the commit.',
      )
    else info(`saved a snapshot of ${plural(Object.keys(snapshot.statements).length, 'statement')} on the source`)
    context.summary(`### Observe: snapshot of the source\n\n${baselineText(kept)}`)
  })
}

async function observe(context: Observe): Promise<void> {
  const { migration } = context.inputs
  const { entry, known, previous } = await withBoth(context, async (source, target) => {
    const found = await requireMigration(source, target, migration, COMMITTED)
    return {
      entry: found,
      known: await readBaseline(target, migration),
      previous: await lastObservation(target, found),
    }
  })
  const links = { source: new Link(context.inputs.source, 'source'), target: new Link(context.inputs.target, 'target') }
  try {
    const refusedBefore = previous?.refusedTotal
    const jobsForMs = previous?.ageMs ?? entry.ageMs
    const watched = await look(context, { entry, known, links, refusedBefore, jobsForMs })
    const judged = judge(known.statements, watched.seen, limitsOf(context))
    const rollback = await links.target.use(async (db) => {
      await keepObservation(db, entry, judged, watched)
      return readRollback(db, entry, context.inputs.rollbackWindow)
    })
    tell(context, judged, known, watched, rollback?.lines ?? [])
  } finally {
    await Promise.all([links.source.close(), links.target.close()])
  }
}

function look(
  context: Observe,
  from: {
    entry: Entry
    known: Baseline
    links: { source: Link; target: Link }
    refusedBefore: number | undefined
    jobsForMs: number
  },
): Promise<Watched> {
  const { inputs, signal } = context
  const begun = performance.now()
  return watch({
    ...from.links,
    plan: from.entry.plan,
    baseline: from.known,
    durationMs: inputs.duration,
    everyMs: inputs.every,
    ignore: inputs.ignore ?? [],
    refusedBefore: from.refusedBefore,
    jobsForMs: from.jobsForMs,
    signal,
    onLook(seen) {
      const { verdict, coverage, reasons } = judge(from.known.statements, seen, limitsOf(context))
      writeMetrics(inputs.metricsFile, {
        migration: from.entry.id,
        phase: from.entry.phase,
        verdict,
        thresholdsPassed: reasons.length,
      })
      const passed = reasons.length ? `, ${plural(reasons.length, 'threshold')} exceeded` : ''
      info(
        `${seconds(performance.now() - begun)} of ${minutes(inputs.duration)}: ${verdict}${passed}, ${coverage.toFixed(0)} % of the baseline seen`,
      )
    },
  })
}

function limitsOf({ inputs }: Observe): Limits {
  return {
    latencyRatio: inputs.latencyRatio,
    latencyFloorMs: inputs.latencyFloor,
    minCalls: inputs.minCalls,
    maxFailures: inputs.maxFailures,
    maxRetries: inputs.maxRetries,
    maxConnections: inputs.maxConnections,
    maxStragglers: inputs.maxStragglers,
    maxRefusedWrites: inputs.maxRefusedWrites,
    maxFailedJobs: inputs.maxFailedJobs,
    minCoverage: inputs.minCoverage,
  }
}

function tell(
  context: Observe,
  judged: Judgement,
  known: Baseline,
  watched: Watched,
  rollback: readonly string[],
): void {
  const path = join(workFolder(context.inputs.migration), 'observe.json')
  writeFileSync(path, `${JSON.stringify(observationOf(judged, watched), null, 2)}\n`, { mode: 0o600 })
  context.output('report', path)
  context.output('verdict', judged.verdict)
  context.output('reasons', JSON.stringify(judged.reasons.slice(0, 50)))
  context.summary([judgementText(judged, known), ...refusedText(watched), ...rollback].join('\n\n'))
  if (judged.verdict === 'degraded') notify('degraded', { what: judged.reasons.slice(0, 3).map(reasonText).join('; ') })
  requireHealthy(judged)
}

function refusedText({ refusedTotal }: Watched): string[] {
  if (!refusedTotal) return []
  return [
    `The source refused ${plural(refusedTotal, 'write')} since the commit. This is expected until the application has switched.`,
  ]
}

const NEXT: Record<Exclude<Verdict, 'healthy'>, string> = {
  degraded: 'Fix the causes, or roll back while the window is open. Then run `observe` again.',
  inconclusive: 'Close these gaps, then run `observe` again.',
}

/** @throws VerdictError unless the verdict is healthy */
function requireHealthy({ verdict, reasons, gaps }: Judgement): void {
  if (verdict === 'healthy') return
  const what = verdict === 'degraded' ? reasons.map(reasonText) : gaps.map(gapText)
  refuse(
    verdict === 'degraded' ? 'observe.degraded' : 'observe.inconclusive',
    `the application is ${verdict === 'degraded' ? 'degraded' : 'not known to be healthy'}`,
    what,
    NEXT[verdict],
  )
}
