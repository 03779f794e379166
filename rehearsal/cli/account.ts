import { number, plural, seconds } from '../../src/runtime/progress.ts'
import type { JobResult, StepResult } from '../runner/runner.ts'
import { CANARIES, type Search } from '../shop/masked-shop.ts'

/** The output of `--json`. Times are in milliseconds. */
export interface Account {
  verdict: 'go' | 'no-go'
  reason: string
  /** Error code of the failed step. docs/troubleshooting.md lists all codes. */
  code: string | null
  rowsLoaded: number
  changesStreamed: number
  lagMs: number | null
  pauseMs: number | null
  pauseParts: Record<string, number>
  /** Estimate made before the pause began. */
  estimatedPauseMs: number | null
  estimatedParts: Record<string, number>
  applicationPauseMs: number | null
  tables: { name: string; rows: number; missing: number; mismatch: number; extraneous: number }[]
  engine: string
  /** Verdict of `observe` after the commit; null if nothing was observed. */
  observed: string | null
  /** The target's version string. */
  target: string
  summary: string
  /** Differences that remain between the definitions on both sides; null if they were not compared. */
  remaining: readonly string[] | null
  /** What you have to create or decide, such as a view that is missing on the target. */
  decisions: readonly string[]
  /** The next command. */
  next: string
  /** Path of the dossier, a self-contained page. */
  dossier?: string
  masking?: Masking
  converted?: Converted
}

/** Result of converting the source's schema. The numbers count findings. */
export interface Converted {
  /** Path of report.md, beside the SQL files. */
  report: string
  manual: number
  lossy: number
}

/** Fields that `--mask` adds. */
export interface Masking {
  rows: number
  tables: number
  maskedColumns: number
  /** Duration of the copy alone; `tookMs` is the duration of `mask`, including its proof. */
  copyMs: number
  tookMs: number
  /** Number of texts searched for. `searches` says where they were found. */
  needles: number
  searches: Search[]
  evidence: string
}

/** Summarizes the chain's result, most important fields first. */
export function accountOf(result: JobResult, summary: string): Account {
  const { outputs } = result
  const go = result.conclusion === 'success' && outputs.verdict === 'go'
  const failed = result.steps.find((step) => step.depth === 1 && step.outcome === 'failure')
  return {
    verdict: go ? 'go' : 'no-go',
    reason: go ? 'every step was proved' : reasonOf(result, failed),
    code: failed?.outputs['error-code'] ?? null,
    rowsLoaded: Number(outputs.rows || 0),
    changesStreamed: Number(outputs['changes-caught-up'] || 0) + Number(outputs.changes || 0),
    lagMs: outputs['lag-ms'] ? Number(outputs['lag-ms']) : null,
    pauseMs: outputs['pause-ms'] ? Number(outputs['pause-ms']) : null,
    pauseParts: JSON.parse(outputs['pause-parts'] || '{}'),
    estimatedPauseMs: outputs['estimated-pause-ms'] ? Number(outputs['estimated-pause-ms']) : null,
    estimatedParts: JSON.parse(outputs['estimated-parts'] || '{}'),
    applicationPauseMs: null,
    tables: JSON.parse(outputs.tables || '[]'),
    observed: outputs.observed || null,
    engine: engineOf(outputs),
    target: outputs['target-version'] || 'unknown',
    summary,
    remaining: null,
    decisions: [],
    next: '',
  }
}

/** Adds the engine's name unless the version already contains it, as the stand-in's does. */
function engineOf({ engine, 'molt-version': version }: Record<string, string>): string {
  if (!engine) return 'unknown'
  return version?.includes(engine) ? `molt ${version}` : [engine, version].filter(Boolean).join(' ')
}

function reasonOf({ conclusion }: JobResult, failed: StepResult | undefined): string {
  if (!failed) return `the run was ${conclusion}`
  // The last error is the action's verdict; the earlier ones are its reasons.
  const message = errorsOf(failed).at(-1) ?? `exit status ${failed.exitCode}`
  // The log already contains the list, and the summary adds the fixes.
  const [head = '', ...list] = message.split('\n').filter((line) => !line.startsWith('Next: '))
  return `${failed.name}: ${head}${list.length ? ' (listed above and in the summary)' : ''}`
}

export function errorsOf(step: StepResult | undefined): string[] {
  return (step?.annotations ?? []).filter(({ level }) => level === 'error').map(({ message }) => message)
}

export function accountText(account: Account): string {
  const ms = (value: number | null) => (value === null ? 'not measured' : `${number(value)} ms`)
  const parts = (of: Record<string, number>) => {
    const all = Object.entries(of).map(([part, value]) => `${part} ${number(value)}`)
    return all.length ? `  (${all.join(', ')})` : ''
  }
  const lines = [
    '',
    account.verdict === 'go' ? 'GO' : 'NO-GO',
    '',
    `  reason             ${account.reason.replaceAll('\n', '\n                     ')}`,
    `  engine             ${account.engine}`,
    `  target             ${account.target}`,
    `  rows loaded        ${number(account.rowsLoaded)}`,
    `  changes streamed   ${number(account.changesStreamed)}`,
    `  lag before pause   ${ms(account.lagMs)}`,
    `  write pause        ${ms(account.pauseMs)}${parts(account.pauseParts)}`,
    `  expected pause     ${ms(account.estimatedPauseMs)}${parts(account.estimatedParts)}`,
    ...(account.applicationPauseMs === null
      ? []
      : [`  application saw    ${ms(account.applicationPauseMs)} without writes`]),
    ...(account.observed ? [`  application after  ${account.observed}`] : []),
    ...convertedLines(account),
    ...tableLines(account),
    ...maskingLines(account),
    ...remainingLines(account),
    '',
    `  summary            ${account.summary}`,
    ...(account.dossier ? [`  dossier            ${account.dossier}`] : []),
    `  next               ${account.next}`,
  ]
  return lines.join('\n')
}

function convertedLines({ converted }: Account): string[] {
  if (!converted) return []
  const { report, manual, lossy } = converted
  return [`  schema             ${manual} left for you, ${lossy} converted with losses: ${report}`]
}

function maskingLines({ masking }: Account): string[] {
  if (!masking) return []
  const width = Math.max(...masking.searches.map(({ place }) => place.length))
  return [
    '',
    `  masked             ${number(masking.rows)} rows in ${masking.tables} tables, ${masking.maskedColumns} columns; copied in ${seconds(masking.copyMs)}, with proof ${seconds(masking.tookMs)}`,
    `  searched for       ${masking.needles} production texts, ${CANARIES.length} of them canaries`,
    ...masking.searches.map(
      ({ place, looked, found }) => `  ${place.padEnd(width)}  ${String(found.length).padStart(2)} found  (${looked})`,
    ),
    `  evidence           ${masking.evidence}`,
  ]
}

/** Lists every item, because an item left out would come as a surprise during the cutover. */
function remainingLines({ remaining, decisions }: Account): string[] {
  return [
    ...listed(
      'remaining          ',
      plural(remaining?.length ?? 0, 'definition differs', 'definitions differ'),
      remaining ?? [],
    ),
    ...listed('for you            ', `${number(decisions.length)} to create or decide before the switch`, decisions),
  ]
}

function listed(label: string, title: string, items: readonly string[]): string[] {
  return items.length ? ['', `  ${label}${title}`, ...items.map((each) => `    - ${each}`)] : []
}

function tableLines(account: Account): string[] {
  if (!account.tables.length) return []
  const width = Math.max(5, ...account.tables.map((table) => table.name.length))
  const row = (...cells: (string | number)[]) =>
    `  ${String(cells[0]).padEnd(width)}${cells
      .slice(1)
      .map((cell) => (typeof cell === 'number' ? number(cell) : cell).padStart(12))
      .join('')}`
  return [
    '',
    row('table', 'rows', 'missing', 'different', 'extraneous'),
    ...account.tables.map((table) => row(table.name, table.rows, table.missing, table.mismatch, table.extraneous)),
  ]
}
