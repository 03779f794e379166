import type { VerifyReport } from '../../report/verify-report.ts'
import { refuse } from '../../runtime/errors.ts'
import { differences } from '../../tools/molt-verify.ts'

/** The caller writes the report to the summary. */
const SUMMARIZED = { summarized: true }

/**
 * @param drained whether the drain was proved just before, so that nothing is on its way any more
 * @throws VerdictError with every problem
 */
export function requireClean(report: VerifyReport, drained = false): void {
  if (!report.problems.length) return
  const different = report.verdict !== 'unsettled' && report.tables.some((table) => differences(table))
  if (drained)
    refuse(
      different ? 'verify.rows-lost' : 'verify.inconclusive',
      different ? 'source and target differ' : 'source and target are not proved to be equal',
      report.problems,
      different
        ? 'The drain was proved, so nothing is on its way any more: this is loss, and waiting mends nothing. Nothing was decided. Find the cause, then abort, and prepare and load again.'
        : 'Nothing was decided. Put these right, and run `cutover` again.',
      SUMMARIZED,
    )
  if (report.verdict === 'unsettled')
    refuse(
      'verify.inconclusive',
      'source and target are not proved to be equal',
      report.problems,
      'Nothing is known to be lost. Verify again with less going on, or after the drain.',
      SUMMARIZED,
    )
  if (!different)
    refuse(
      'verify.inconclusive',
      'source and target are not proved to be equal',
      report.problems,
      'Put these right, and verify again.',
      SUMMARIZED,
    )
  refuse(
    'verify.differences',
    'source and target differ',
    report.problems,
    report.while === 'streaming'
      ? 'This is no lag: do not cut over.'
      : 'While changes are streamed a difference can be lag: say `while: streaming`, or verify after the drain. After the drain it is loss: do not cut over.',
    SUMMARIZED,
  )
}
