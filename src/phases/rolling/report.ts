import type { Plan } from '../../model/plan.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { newVerdict, type TableVerdict } from '../../tools/molt-verify.ts'
import { runVerify, type VerifyOptions } from '../verify/verify.ts'

/** The tables that a rolling proof covers, and those that it does not. */
export interface Coverage {
  /** Table → number of its rows at the last comparison. */
  proved: ReadonlyMap<string, { rows: number }>
  /** Table → why it must be compared in full. */
  others: ReadonlyMap<string, string>
  /** Number of recently changed rows that were compared again. */
  compared: number
}

/**
 * Reports the tables that the rolling proof covers, compares all other tables in full, and compares the definitions of
 * every table.
 */
export async function reportCoverage(
  source: Database,
  target: Database,
  { proved, others, compared }: Coverage,
  options: Omit<VerifyOptions, 'level'>,
): Promise<VerifyReport> {
  const began = performance.now()
  const { plan } = options
  const definitions = await runVerify(source, target, { ...options, level: 'tables' })
  const rest = plan.tables.filter((name) => others.has(name) || !proved.has(name))
  const full = rest.length
    ? await runVerify(source, target, { ...options, level: 'full', tables: rest, structure: undefined })
    : undefined
  const findings = [...definitions.findings, ...(full?.findings ?? [])]
  const verdicts = [definitions.verdict, full?.verdict ?? 'clean']
  return {
    ...definitions,
    level: 'changed',
    tables: order([...verdictsOf(proved, rest), ...(full?.tables ?? [])], plan),
    findings,
    problems: [...new Set(findings.map(({ what }) => what))],
    notes: [
      ...definitions.notes,
      ...(full?.notes ?? []),
      ...rest.map(
        (name) => `${name}: compared in full, because ${others.get(name) ?? 'its first comparison has not finished'}`,
      ),
      `${compared} recently changed rows were compared again; rows changed only on the target since the first comparison are not detected`,
    ],
    verdict: (['different', 'unsettled'] as const).find((each) => verdicts.includes(each)) ?? 'clean',
    ...(full?.unknown && { unknown: full.unknown }),
    durationMs: Math.round(performance.now() - began),
  }
}

function verdictsOf(proved: Coverage['proved'], rest: readonly string[]): TableVerdict[] {
  return [...proved]
    .filter(([name]) => !rest.includes(name))
    .map(([name, { rows }]) => ({ ...newVerdict(name), rows, shardsFinished: 1, shardsTotal: 1 }))
}

function order(tables: readonly TableVerdict[], { tables: names }: Plan): TableVerdict[] {
  return [...tables].sort((a, b) => names.indexOf(a.name) - names.indexOf(b.name))
}
