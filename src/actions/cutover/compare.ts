import { join } from 'node:path'
import { info } from '@actions/core'
import { addEvidence, type Entry } from '../../ledger/ledger.ts'
import type { Plan, VerifyLevel } from '../../model/plan.ts'
import { requireClean } from '../../phases/verify/verdict.ts'
import { runVerify } from '../../phases/verify/verify.ts'
import { verifyTable } from '../../report/summary.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import { seconds, workFolder } from '../../runtime/progress.ts'
import type { Section } from './section.ts'
import type { Cutover } from './spec.ts'

export function levelOf({ inputs }: Cutover, plan: Plan): VerifyLevel {
  return inputs.finalVerify ?? plan.finalVerify ?? 'full'
}

/**
 * The first verify, while changes are streamed: what is lost already needs no write pause to be found, and what was
 * verified before the approval may be a day old.
 * @throws VerdictError when something differs that is no lag
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

export async function finalVerify(context: Cutover, section: Section, signal: AbortSignal): Promise<VerifyReport> {
  const level = levelOf(context, section.entry.plan)
  const report = await runVerify(section.source, section.target, {
    ...verifyOptions(context, section.entry, signal),
    help: section.help,
    level,
  })
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

function verifyOptions(context: Cutover, { plan }: Entry, signal: AbortSignal) {
  const { inputs } = context
  const logFile = join(workFolder(inputs.migration), 'molt-verify.log')
  return { sourceUrl: inputs.source, targetUrl: inputs.target, plan, logFile, signal }
}
