import type { VerifyReport } from '../../report/verify-report.ts'
import { refuse } from '../../runtime/errors.ts'
import { differences } from '../../tools/molt-verify.ts'

/** Leaves these problems out of the error's summary, because the caller writes the report to it. */
const SUMMARIZED = { summarized: true }

/**
 * Requires a report without problems.
 * @param drained whether the drain has just been proved, so that nothing is in flight
 * @throws VerdictError that lists every problem
 */
export function requireClean(report: VerifyReport, drained = false): void {
  if (!report.problems.length) return
  const different = report.verdict !== 'unsettled' && report.tables.some((table) => differences(table))
  if (drained)
    refuse(
      different ? 'verify.rows-lost' : 'verify.inconclusive',
      different ? 'source and target differ' : 'source and target could not be proved equal',
      report.problems,
      different
        ? 'The drain is proved, so nothing is in flight: the rows are lost, and waiting does not help. Nothing was committed. Find the cause, run `abort`, then prepare and load again.'
        : 'Nothing was committed. Fix these problems, then run `cutover` again.',
      SUMMARIZED,
    )
  if (report.verdict === 'unsettled')
    refuse(
      'verify.inconclusive',
      'source and target could not be proved equal',
      report.problems,
      'No loss is known. Verify again with less load, or after the drain.',
      SUMMARIZED,
    )
  if (!different)
    refuse(
      'verify.inconclusive',
      'source and target could not be proved equal',
      report.problems,
      'Fix these problems, then verify again.',
      SUMMARIZED,
    )
  refuse(
    'verify.differences',
    'source and target differ',
    report.problems,
    report.while === 'streaming'
      ? 'This is not lag. Do not cut over.'
      : 'While changes stream, a difference can be lag. Set `while: streaming`, or verify after the drain. After the drain, a difference means loss: do not cut over.',
    SUMMARIZED,
  )
}
