import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info } from '@actions/core'
import { addEvidence, COMMITTED, type Entry, STREAMING } from '../../ledger/ledger.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import { runVerify, type VerifyOptions, type VerifyReport } from '../../phases/verify/verify.ts'
import { verifyTable } from '../../report/summary.ts'
import { verifyJson } from '../../report/verify-json.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { InputError, refuse } from '../../runtime/errors.ts'
import { didYouMean } from '../../runtime/inputs.ts'
import { number, plural, seconds, workFolder } from '../../runtime/progress.ts'
import { differences } from '../../tools/molt-verify.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { spec } from './spec.ts'

type Verify = Context<typeof spec>

const LOGGED_NOTES = 5

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    const report = await withBoth(context, async (source, target) => {
      const entry = await requireMigration(source, target, inputs.migration, [...STREAMING, ...COMMITTED])
      await requirePlannedTools(entry.plan, 'molt')
      const found = await runVerify(source, target, options(context, entry))
      await addEvidence(target, entry.id, 'verify', { ...found, partial: inputs.tables !== undefined })
      return found
    })
    tell(context, report)
    requireClean(report)
    const rows = report.tables.reduce((sum, table) => sum + table.rows, 0)
    info(
      report.level === 'tables'
        ? `the definitions of all tables are equal, in ${seconds(report.durationMs)}`
        : `${plural(report.tables.length, 'table is', 'tables are')} equal, ${number(rows)} rows`,
    )
  },
}

function options(context: Verify, { plan, phase }: Entry): VerifyOptions {
  const { inputs } = context
  for (const name of inputs.tables ?? [])
    if (!plan.tables.includes(name))
      throw new InputError(
        'input.unknown-table',
        `input \`tables\`: ${name} is not an expected table${didYouMean(name, plan.tables)}`,
      )
  const folder = workFolder(inputs.migration)
  const rowsFile = join(folder, 'verify-rows.jsonl')
  const show = inputs.show === 'none' ? undefined : { what: inputs.show, file: rowsFile }
  if (show) context.output('rows-file', rowsFile)
  return {
    ...{ sourceUrl: inputs.source, targetUrl: inputs.target, plan, signal: context.signal },
    ...{ while: inputs.while, tables: inputs.tables, concurrency: inputs.concurrency, count: inputs.count, show },
    stallAfter: inputs.stallAfter,
    level: inputs.dry ? 'tables' : inputs.level,
    structure: inputs.structure === 'auto' ? (phase === 'finalized' ? 'require' : 'report') : inputs.structure,
    recheck: { limit: inputs.recheckLimit, markerTimeout: inputs.recheckTimeout, rounds: 5 },
    logFile: join(folder, 'molt-verify.log'),
  }
}

function tell(context: Verify, report: VerifyReport): void {
  const file = join(workFolder(context.inputs.migration), 'verify.json')
  const json = verifyJson(report)
  writeFileSync(file, `${JSON.stringify(json, null, 2)}\n`, { mode: 0o600 })
  context.output('verdict', report.verdict)
  context.output('tables', JSON.stringify(json.tables))
  context.output('report', file)
  context.output('duration-ms', report.durationMs)
  context.summary(verifyTable(report))
  for (const note of report.notes.slice(0, LOGGED_NOTES)) info(note)
  if (report.notes.length > LOGGED_NOTES) info(`and ${report.notes.length - LOGGED_NOTES} more notes in the summary`)
}

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
    )
  if (report.verdict === 'unsettled')
    refuse(
      'verify.inconclusive',
      'source and target are not proved to be equal',
      report.problems,
      'Nothing is known to be lost. Verify again with less going on, or after the drain.',
    )
  if (!different)
    refuse(
      'verify.inconclusive',
      'source and target are not proved to be equal',
      report.problems,
      'Put these right, and verify again.',
    )
  refuse(
    'verify.differences',
    'source and target differ',
    report.problems,
    report.while === 'streaming'
      ? 'This is no lag: do not cut over.'
      : 'While changes are streamed a difference can be lag: say `while: streaming`, or verify after the drain. After the drain it is loss: do not cut over.',
  )
}
