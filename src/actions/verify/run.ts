import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { info } from '@actions/core'
import { addEvidence, COMMITTED, DEFINITIONS, type Entry, type Phase, STREAMING } from '../../ledger/ledger.ts'
import { requirePlannedTools } from '../../phases/planned-tools.ts'
import { builtLater } from '../../phases/verify/built-later.ts'
import { requireClean } from '../../phases/verify/verdict.ts'
import { runVerify, type VerifyOptions } from '../../phases/verify/verify.ts'
import { verifyTable } from '../../report/summary.ts'
import { verifyJson } from '../../report/verify-json.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { InputError } from '../../runtime/errors.ts'
import { didYouMean } from '../../runtime/inputs.ts'
import { number, plural, seconds, workFolder } from '../../runtime/progress.ts'
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
      await requirePlannedTools(entry.plan, inputs, 'molt')
      const found = await runVerify(
        source,
        target,
        options(context, entry, inputs.structure === 'auto' ? await builtLater(target, entry) : {}),
      )
      // Kept apart, so that a comparison of definitions does not replace the last comparison of rows.
      const kind = found.level === 'tables' ? DEFINITIONS : 'verify'
      await addEvidence(target, entry.id, kind, { ...found, partial: inputs.tables !== undefined })
      return found
    })
    tell(context, report)
    requireClean(report)
    const rows = report.tables.reduce((sum, table) => sum + table.rows, 0)
    info(
      report.level === 'tables'
        ? `the definitions of all tables are equal, compared in ${seconds(report.durationMs)}`
        : `${plural(report.tables.length, 'table is', 'tables are')} equal, ${number(rows)} rows`,
    )
  },
}

function options(
  context: Verify,
  { plan, phase }: Entry,
  later: Pick<VerifyOptions, 'deferred' | 'uncommitted'>,
): VerifyOptions {
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
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    plan,
    signal: context.signal,
    while: inputs.while,
    tables: inputs.tables,
    concurrency: inputs.concurrency,
    count: inputs.count,
    show,
    stallAfter: inputs.stallAfter,
    level: inputs.dry ? 'tables' : inputs.level,
    structure: structureOf(inputs, phase),
    ...later,
    recheck: { limit: inputs.recheckLimit, markerTimeout: inputs.recheckTimeout, rounds: 5 },
    logFile: join(folder, 'molt-verify.log'),
  }
}

function structureOf({ structure, level, dry }: Verify['inputs'], phase: Phase): 'require' | 'report' {
  if (structure !== 'auto') return structure
  return phase === 'finalized' || level === 'tables' || dry ? 'require' : 'report'
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
  for (const each of report.decisions) info(each)
  for (const note of report.notes.slice(0, LOGGED_NOTES)) info(note)
  if (report.notes.length > LOGGED_NOTES) info(`and ${report.notes.length - LOGGED_NOTES} more notes in the summary`)
}
