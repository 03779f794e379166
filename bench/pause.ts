/**
 * `npm run bench:pause -- [rows …] [--latency ms] [--rounds n]`: measures the write pause for databases of several
 * sizes, both with the rolling proof and with a full comparison during the pause. For each size, the committed actions
 * move the database from PostgreSQL to the CockroachDB-like server under live load. Writes the table in
 * docs/how-it-works.md.
 */
import { parseArgs } from 'node:util'
import { number, seconds } from '../src/runtime/progress.ts'
import { type Rehearsal, requireSuccess, startRehearsal } from '../test/support/migration.ts'
import { collect } from './figures.ts'
import { medianOf, spreadOf, writeTable } from './table.ts'

/** Duration of each part in milliseconds. Some parts overlap, so they do not add up to `total`. */
interface Pause {
  total: number
  verify: number
  /** `total` without building unique indexes, which takes longer for larger tables. */
  withoutIndexes: number
  estimated: number
}

interface Figures {
  rows: number
  proofMs: number
  full: Pause[]
  changed: Pause[]
}

const { values: options, positionals } = parseArgs({
  options: { latency: { type: 'string', default: '0' }, rounds: { type: 'string', default: '5' } },
  allowPositionals: true,
})
const latency = Number(options.latency)
const rounds = Number(options.rounds)
const sizes = positionals.length ? positionals.map(Number) : [10_000, 100_000]

async function pauseOf(rehearsal: Rehearsal, how: 'full' | 'changed'): Promise<Pause> {
  const result = await rehearsal.run('cutover', {
    'final-verify': how,
    'first-verify': 'none',
    'quiet-period': '500ms',
    'max-pause': '30m',
    lease: '5m',
    'drain-timeout': '2m',
    'catch-up-timeout': '2h',
  })
  requireSuccess('cutover', result)
  const parts: Record<string, number> = JSON.parse(result.outputs['pause-parts'] as string)
  const total = Number(result.outputs['pause-ms'])
  const { verify = 0, sequences = 0, 'unique indexes': indexes = 0 } = parts
  const withoutIndexes = total - Math.max(verify, sequences + indexes) + Math.max(verify, sequences)
  return { total, verify, withoutIndexes, estimated: Number(result.outputs['estimated-pause-ms']) }
}

async function measure(rows: number): Promise<Figures> {
  const rehearsal = await startRehearsal({ rows, rate: 40, ...(latency && { cluster: { latency } }) })
  try {
    await rehearsal.bringToLoaded()
    const began = performance.now()
    requireSuccess('replicate', await rehearsal.run('replicate', { until: 'caught-up', verify: 'rolling' }))
    const figures: Figures = { rows, proofMs: performance.now() - began, full: [], changed: [] }
    // Alternate between the two methods, so that a busy machine slows both equally.
    for (let round = 0; round < rounds; round++) {
      figures.changed.push(await pauseOf(rehearsal, 'changed'))
      figures.full.push(await pauseOf(rehearsal, 'full'))
    }
    return figures
  } finally {
    await rehearsal.stop()
  }
}

function cell(pauses: readonly Pause[], of: keyof Pause): string {
  const values = pauses.map((each) => each[of])
  return `${number(medianOf(values))} (${spreadOf(values)})`
}

function tableOf(figures: readonly Figures[]): string {
  const line = ({ rows, proofMs, full, changed }: Figures) =>
    `| ${number(rows)} | ${cell(full, 'total')} | ${cell(changed, 'total')} | ${cell(changed, 'verify')} | ${cell(changed, 'withoutIndexes')} | ${seconds(proofMs)} |`
  const flat = figures.map(({ changed }) => medianOf(changed.map((each) => each.withoutIndexes)))
  const ratio = Math.max(...flat) / Math.min(...flat)
  return [
    `| rows | pause with \`full\`, ms | pause with \`changed\`, ms | verify part, ms | without unique indexes, ms | catch up and first pass |`,
    '| ---: | ---: | ---: | ---: | ---: | ---: |',
    ...figures.map(line),
    '',
    `Medians of ${rounds} rehearsed cutovers (lowest to highest) with ${latency} ms of latency per statement; sizes: ${figures.map(({ rows }) => number(rows)).join(', ')} rows. Ratio of the longest to the shortest pause without unique indexes: ${ratio.toFixed(2)}.`,
  ].join('\n')
}

/** Collects the write pauses of both methods and their estimates. */
function collectPauses({ rows, full, changed }: Figures): void {
  const of = (pauses: readonly Pause[], field: keyof Pause) => pauses.map((each) => each[field])
  const work = { of: 'rows', amount: rows }
  const at = latency ? ` at ${latency} ms per statement` : ''
  collect(
    {
      name: `write pause${at}`,
      unit: 'ms',
      values: of(changed, 'total'),
      reference: { name: 'full comparison during the pause', values: of(full, 'total') },
      work,
    },
    {
      name: `write pause without unique indexes${at}`,
      unit: 'ms',
      values: of(changed, 'withoutIndexes'),
      goal: { most: 1_000 },
      work,
    },
    {
      name: `estimate of the pause${at}`,
      unit: 'ms',
      values: of(changed, 'estimated'),
      reference: { name: 'the pause', values: of(changed, 'total') },
      goal: { most: 1.5 },
      work,
    },
  )
}

const figures: Figures[] = []
for (const rows of sizes) {
  figures.push(await measure(rows))
  collectPauses(figures.at(-1) as Figures)
  console.log(tableOf(figures))
}
writeTable(latency ? 'bench/pause.ts with latency' : 'bench/pause.ts', tableOf(figures))
