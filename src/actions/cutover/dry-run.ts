import { info, warning } from '@actions/core'
import { type Entry, readEvidence } from '../../ledger/ledger.ts'
import { type Operation, operationsOf } from '../../model/operations.ts'
import type { Parts } from '../../phases/cutover/pause.ts'
import { markdownText } from '../../report/markdown.ts'
import type { VerifyReport } from '../../report/verify-report.ts'
import type { Database } from '../../runtime/database.ts'
import { number, seconds } from '../../runtime/progress.ts'
import { expectPause, type Verified } from './estimate.ts'
import { expectedChoice } from './rolling.ts'
import type { Cutover } from './spec.ts'

/**
 * Prints what a cutover would do while writes are paused, and how long each part should take. Changes nothing, does not
 * request the slot, and runs no user commands. Assumes a lag of `max-lag`, the most that a cutover accepts.
 */
export async function dryRun(context: Cutover, entry: Entry, source: Database, target: Database): Promise<void> {
  const { inputs } = context
  const { decision, maxPause } = inputs
  const [verified] = await readEvidence<VerifyReport>(target, entry.id, 'verify', 1)
  const { parts, total, unknown } = await expectPause(context, {
    entry,
    source,
    target,
    before: { lagMs: inputs.maxLag },
    verified: known(verified?.body),
    choice: expectedChoice(context, entry, known(verified?.body)),
    smokeMs: undefined,
    grantMs: undefined,
  })
  const operations = operationsOf(decision, inputs)
  for (const operation of operations)
    info(`${operation.name}: ${estimateText(operation, parts)}. ${operation.does} Proves: ${operation.proves}`)
  context.output('estimated-pause-ms', total)
  context.output('operations', JSON.stringify(operations.map((each) => listed(each, parts))))
  context.output('phase', entry.phase)
  context.summary(summaryOf(context, operations, parts, total))
  if (unknown.length) warning(`the estimate leaves out what has never been measured: ${unknown.join(', ')}`)
  if (total > maxPause)
    warning(
      `the write pause is expected to take about ${seconds(total)}, more than \`max-pause\` (${seconds(maxPause)}): a cutover would fail before it pauses writes`,
    )
}

function known({ level, durationMs, tables }: Partial<VerifyReport> = {}): Verified | undefined {
  if (!level || durationMs === undefined || !tables) return undefined
  return { level, durationMs, tables }
}

function estimateOf({ name }: Operation, parts: Parts): number | null {
  return parts[name] ?? null
}

function estimateText(operation: Operation, parts: Parts): string {
  const estimate = estimateOf(operation, parts)
  return estimate === null ? 'not estimated' : `about ${number(estimate)} ms`
}

function listed(operation: Operation, parts: Parts) {
  const { name, inputs, does, proves } = operation
  return {
    name,
    inputs,
    does,
    proves,
    estimateMs: estimateOf(operation, parts),
  }
}

function summaryOf({ inputs }: Cutover, operations: readonly Operation[], parts: Parts, total: number): string {
  const rows = operations.map((each, index) => {
    const set = each.inputs.map((name) => `\`${name}\``).join(', ')
    return `| ${index + 1} | ${each.name} | ${markdownText(each.does)} | ${markdownText(each.proves)} | ${set} | ${estimateText(each, parts)} |`
  })
  return `### Dry run: \`decision: ${inputs.decision}\`

Writes would be paused for about **${seconds(total)}**. Nothing was changed.

| | part | does | proves | inputs | estimate |
| ---: | --- | --- | --- | --- | ---: |
${rows.join('\n')}`
}
