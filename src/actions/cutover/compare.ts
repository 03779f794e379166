import { join } from 'node:path'
import { info } from '@actions/core'
import { addEvidence, type Entry } from '../../ledger/ledger.ts'
import type { FinalVerify, Plan } from '../../model/plan.ts'
import { reportCoverage } from '../../phases/rolling/report.ts'
import type { DrainEvidence } from '../../phases/stream/drain.ts'
import { requireClean } from '../../phases/verify/verdict.ts'
import { runVerify } from '../../phases/verify/verify.ts'
import { verifyTable } from '../../report/summary.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import { seconds, workFolder } from '../../runtime/progress.ts'
import { parseLsn } from '../../source/pgoutput.ts'
import type { Section } from './section.ts'
import type { Cutover } from './spec.ts'

/** The final verify that the input or the plan sets. {@link chooseLevel} later resolves `auto`. */
export function finalVerifyOf({ inputs }: Cutover, plan: Plan): FinalVerify {
  return inputs.finalVerify ?? plan.finalVerify ?? 'auto'
}

/**
 * Runs the first verify while changes are streaming. The last verify may be a day old, and this one finds lost rows
 * before writes are paused.
 * @throws VerdictError when a difference is not lag
 */
export async function firstVerify(
  context: Cutover,
  { entry, source, target, signal, help }: Pick<Section, 'entry' | 'source' | 'target' | 'signal' | 'help'>,
): Promise<VerifyReport | undefined> {
  const { firstVerify: level } = context.inputs
  if (level === 'none') return undefined
  const options = { ...verifyOptions(context, entry, signal), help, level, while: 'streaming' as const }
  const report = await runVerify(source, target, options)
  info(
    `first verify, while changes are streamed: ${report.problems.length ? 'not clean' : 'clean'} after ${seconds(report.durationMs)}`,
  )
  if (level === 'full') await addEvidence(target, entry.id, 'verify', { ...report, partial: false })
  if (report.problems.length) context.summary(verifyTable(report))
  requireClean(report)
  return report
}

export async function finalVerify(
  context: Cutover,
  section: Section,
  drain: DrainEvidence,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const report = await compare(context, section, drain, signal)
  context.output(
    'tables',
    JSON.stringify(
      report.tables.map(({ name, rows, missing, mismatch, extraneous }) => ({
        name,
        rows,
        missing,
        mismatch,
        extraneous,
      })),
    ),
  )
  return report
}

async function compare(
  context: Cutover,
  { entry, source, target, help, level, proof }: Section,
  drain: DrainEvidence,
  signal: AbortSignal,
): Promise<VerifyReport> {
  const options = { ...verifyOptions(context, entry, signal), help }
  if (level !== 'changed') return runVerify(source, target, { ...options, level })
  if (!proof) throw new Error('the level `changed` requires a rolling proof')
  const { compared, unproved } = await proof.compareRest(parseLsn(drain.lsn), signal)
  return reportCoverage(source, target, { proved: proof.proofs.proved, others: unproved, compared }, options)
}

function verifyOptions(context: Cutover, { plan }: Entry, signal: AbortSignal) {
  const { inputs } = context
  const logFile = join(workFolder(inputs.migration), 'molt-verify.log')
  return { sourceUrl: inputs.source, targetUrl: inputs.target, plan, logFile, signal }
}
