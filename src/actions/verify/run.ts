import { join } from 'node:path'
import { info } from '@actions/core'
import { verifyTable } from '../../report/summary.ts'
import type { Action } from '../../runtime/action.ts'
import { refuse } from '../../runtime/errors.ts'
import { number, workFolder } from '../../runtime/progress.ts'
import { runVerify, type VerifyReport } from '../../steps/verifying.ts'
import { addEvidence, requireEntry } from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    const report = await withBoth(inputs, async (source, target) => {
      const entry = await requireEntry(target, inputs.migration, [
        'loaded',
        'caught-up',
        'approved',
        'committed',
        'switched',
        'finalized',
      ])
      await requireSameSource(source, entry)
      const found = await runVerify(source, target, {
        program: 'molt',
        sourceUrl: inputs.source,
        targetUrl: inputs.target,
        plan: entry.plan,
        level: inputs.level,
        concurrency: inputs.concurrency,
        logFile: join(workFolder(inputs.migration), 'molt-verify.log'),
        signal: context.signal,
      })
      await addEvidence(target, entry.id, 'verify', found)
      return found
    })
    context.output('verdict', report.problems.length ? 'different' : 'clean')
    context.output(
      'tables',
      JSON.stringify(report.tables.map(({ shardsFinished: _, shardsTotal: __, ...table }) => table)),
    )
    context.output('duration-ms', report.durationMs)
    context.summary(verifyTable(report))
    requireClean(report)
    info(
      `${report.tables.length} tables are equal, ${number(report.tables.reduce((sum, table) => sum + table.rows, 0))} rows`,
    )
  },
}

/** @throws VerdictError with every problem */
export function requireClean(report: VerifyReport): void {
  if (report.problems.length)
    refuse(
      'source and target differ',
      report.problems,
      'While changes are streamed a difference can be lag: verify again after the drain. After the drain it is loss: do not cut over.',
    )
}
