/**
 * `npm run bench:pause -- [rows …] [--latency ms] [--ddl ms] [--defer] [--rate n] [--rounds n]`: measures the write
 * pause for databases of several sizes, both with the rolling proof and with a full comparison during the pause.
 * `--ddl` is the duration of a schema change, `--defer` defers indexes and constraints, `--rate` is the number of
 * transactions per second. For each size, the committed actions move the database from PostgreSQL to the
 * CockroachDB-like server under live load.
 */
import { parseArgs } from 'node:util'
import { number, seconds } from '../src/runtime/progress.ts'
import { type Rehearsal, requireSuccess, startRehearsal } from '../test/support/migration.ts'
import { collect, medianOf, spreadOf } from './figures.ts'

/** Duration of each part in milliseconds. Some parts overlap, so they do not add up to `total`. */
interface Pause {
  total: number
  verify: number
  /** `total` without building unique indexes, which takes longer for larger tables. */
  withoutIndexes: number
  /** `total` without dropping the rebuilt objects again, which only a rehearsal does. */
  committed: number
  estimated: number
}

interface Figures {
  rows: number
  proofMs: number
  full: Pause[]
  changed: Pause[]
}

const { values: options, positionals } = parseArgs({
  options: {
    latency: { type: 'string', default: '0' },
    ddl: { type: 'string', default: '0' },
    rate: { type: 'string', default: '40' },
    defer: { type: 'boolean', default: false },
    rounds: { type: 'string', default: '5' },
  },
  allowPositionals: true,
})
const [latency, ddlTime, rate, rounds] = [options.latency, options.ddl, options.rate, options.rounds].map(Number) as [
  number,
  number,
  number,
  number,
]
const sizes = positionals.length ? positionals.map(Number) : [10_000, 100_000]
/** Conditions that differ from the plain measurement, for the names of the figures. */
const circumstances = [
  latency && ` at ${latency} ms per statement`,
  ddlTime && ` and ${ddlTime} ms per schema change`,
  options.defer && ' with deferred objects',
]
  .filter(Boolean)
  .join('')

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
  const committed = total - (parts['indexes off again'] ?? 0)
  if (options.defer) console.log(`${how}: ${result.outputs['pause-parts']}`)
  return { total, verify, withoutIndexes, committed, estimated: Number(result.outputs['estimated-pause-ms']) }
}

async function measure(rows: number): Promise<Figures> {
  const rehearsal = await startRehearsal({
    rows,
    rate: rate || 1,
    whole: options.defer,
    cluster: { latency, ddlTime },
  })
  try {
    if (!rate) await rehearsal.load.stop()
    await rehearsal.bringToLoaded(options.defer ? { defer: 'indexes,constraints' } : {})
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
    `Medians of ${rounds} rehearsed cutovers (lowest to highest) with ${latency} ms of latency per statement and ${rate} transactions per second; sizes: ${figures.map(({ rows }) => number(rows)).join(', ')} rows. Ratio of the longest to the shortest pause without unique indexes: ${ratio.toFixed(2)}.`,
  ].join('\n')
}

/** Collects the write pauses of both methods and their estimates. */
function collectPauses({ rows, full, changed }: Figures): void {
  const of = (pauses: readonly Pause[], field: keyof Pause) => pauses.map((each) => each[field])
  if (options.rate !== '40') {
    const work = { of: 'transactions/s', amount: rate }
    collect({ name: `write pause at ${number(rows)} rows`, unit: 'ms', values: of(changed, 'total'), work })
    return
  }
  const work = { of: 'rows', amount: rows }
  collect(
    {
      name: `write pause${circumstances}`,
      unit: 'ms',
      values: of(changed, 'total'),
      reference: { name: 'full comparison during the pause', values: of(full, 'total') },
      ...(rows >= 1e6 && { goal: { most: 0.1 } }),
      work,
    },
    {
      name: `write pause ${options.defer ? 'of a commit' : 'without unique indexes'}${circumstances}`,
      unit: 'ms',
      values: of(changed, options.defer ? 'committed' : 'withoutIndexes'),
      goal: { most: latency ? 2_000 : 1_000 },
      work,
    },
    {
      name: `estimate of the pause${circumstances}`,
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
