/**
 * `npm run bench -- [--smallest] [bench …]`: runs the named benches, or all of them. Each figure has a reference from
 * the same run. Writes `.bench/figures.json` and docs/performance.md, which keep the last figures of the other benches.
 * `--smallest` only tests that the benches work, and writes to `.bench/smallest`.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { number } from '../src/runtime/progress.ts'
import { type Figure, medianOf } from './figures.ts'

/** Arguments of each bench: for a full run, and for the smallest run that works. */
const BENCHES: Record<string, { whole: string[][]; smallest: string[] }> = {
  startup: { whole: [[]], smallest: ['--rounds', '1'] },
  pause: {
    whole: [
      ['10000', '100000'],
      ['1000000', '--rounds', '3'],
      ['10000000', '--rounds', '1'],
      ['10000', '--latency', '20'],
      ['13700', '--latency', '20', '--ddl', '300', '--defer'],
      ...['0', '250', '1000'].map((rate) => ['10000', '--rate', rate, '--rounds', '3']),
    ],
    smallest: ['1000', '--rounds', '1'],
  },
  proof: { whole: [[]], smallest: ['1000', '1'] },
  mask: { whole: [[]], smallest: ['1000', '1'] },
  prepare: { whole: [['10'], ['1000'], ['10000']], smallest: ['10'] },
  convert: { whole: [[]], smallest: ['20', '1'] },
  overhead: { whole: [['1000'], ['300000']], smallest: ['1000', '1'] },
  stream: { whole: [[]], smallest: ['1000', '1'] },
  reader: { whole: [[]], smallest: ['2'] },
}

const { values: options, positionals } = parseArgs({
  options: { smallest: { type: 'boolean', default: false } },
  allowPositionals: true,
})
const FOLDER = options.smallest ? '.bench/smallest' : '.bench'
const PAGE = options.smallest ? join(FOLDER, 'performance.md') : 'docs/performance.md'

/** A bench appends its figures to this file. */
const collectedBy = (name: string) => join(FOLDER, `${name}.jsonl`)

function runBench(name: string, args: readonly string[]): void {
  console.log(`== bench/${name}.ts ${args.join(' ')}`)
  const { status } = spawnSync(process.execPath, ['--import', 'tsx', `bench/${name}.ts`, ...args], {
    stdio: 'inherit',
    env: { ...process.env, MOLT_ACTIONS_BENCH: collectedBy(name) },
  })
  // Exit code 1 means a missed goal, which the page shows.
  if (status === null || status > 1) throw new Error(`bench/${name}.ts ended with ${status}`)
}

function collected(): Figure[] {
  const files = Object.keys(BENCHES).map(collectedBy).filter(existsSync)
  const lines = files.flatMap((file) => readFileSync(file, 'utf8').split('\n').filter(Boolean))
  return lines.map((line) => JSON.parse(line))
}

function sizeOfDist(): Figure {
  const bytes = readdirSync('dist').reduce((sum, name) => sum + statSync(join('dist', name)).size, 0)
  return { name: 'size of dist', unit: 'MB', values: [bytes / 1e6], goal: { most: 1.6 } }
}

/** Ratio of a figure to its reference for each round, if both were measured in every round. */
function ratiosOf({ values, reference }: Figure): number[] {
  if (!reference) return []
  if (reference.values.length !== values.length) return [medianOf(values) / medianOf(reference.values)]
  return values.map((value, i) => value / (reference.values[i] as number))
}

function shown(values: readonly number[]): string {
  const text = (value: number) => (Math.abs(value) < 100 ? value.toFixed(2) : number(Math.round(value)))
  const [low, high] = [Math.min(...values), Math.max(...values)]
  return values.length > 1 ? `${text(medianOf(values))} (${text(low)} to ${text(high)})` : text(values[0] as number)
}

function isMet({ goal, ...figure }: Figure): boolean {
  const ratios = ratiosOf(figure)
  const judged = medianOf(ratios.length ? ratios : figure.values)
  if (!goal) return true
  return 'most' in goal ? judged <= goal.most : judged >= goal.least
}

function lineOf(figure: Figure): string {
  const { name, unit, values, reference, goal, work } = figure
  const ratios = ratiosOf(figure)
  const limit = goal && ('most' in goal ? `≤ ${goal.most}` : `≥ ${goal.least}`)
  const met = isMet(figure)
  const cells = [
    work ? `${name}, ${number(work.amount)} ${work.of}` : name,
    `${shown(values)} ${unit}`,
    reference ? `${shown(reference.values)} ${unit} (${reference.name})` : '',
    ratios.length ? `${shown(ratios)} ×` : '',
    limit ? `${limit}${reference ? ' ×' : ` ${unit}`} ${met ? '✅' : '❌'}` : '',
  ]
  return `| ${cells.join(' | ')} |`
}

/** Least squares: `y = intercept + slope · x`. */
function leastSquares(points: readonly (readonly [x: number, y: number])[]): { slope: number; intercept: number } {
  const mean = (at: 0 | 1) => points.reduce((sum, point) => sum + point[at], 0) / points.length
  const [x, y] = [mean(0), mean(1)]
  const slope =
    points.reduce((sum, [a, b]) => sum + (a - x) * (b - y), 0) / points.reduce((sum, [a]) => sum + (a - x) ** 2, 0)
  return { slope, intercept: y - slope * x }
}

/** Fits a straight line instead of a power law, for work that can be zero. */
function lineThrough(figures: readonly Figure[]): string {
  const { slope, intercept } = leastSquares(
    figures.map(({ work, values }) => [work?.amount ?? 0, medianOf(values)] as const),
  )
  const [first] = figures
  return `${intercept.toFixed(0)} ${first?.unit} + ${(1000 * slope).toFixed(0)} ${first?.unit} for each 1,000 ${first?.work?.of}`
}

/** Growth of each figure with the amount of work: the slope of log(figure) over log(work), by least squares. */
function growthOf(figures: readonly Figure[]): string[] {
  const names = new Set(figures.filter(({ work }) => work).map(({ name }) => name))
  return [...names].flatMap((name) => {
    const all = figures.filter((figure) => figure.name === name && figure.work)
    if (new Set(all.map(({ work }) => work?.amount)).size < 2) return []
    if (all.some(({ work }) => !work?.amount)) return [`- ${name}: ${lineThrough(all)}`]
    const points = all.map(
      ({ work, values }) => [Math.log(work?.amount as number), Math.log(medianOf(values))] as const,
    )
    const { slope } = leastSquares(points)
    return `- ${name}: grows with ${all[0]?.work?.of} to the power of ${slope.toFixed(2)}`
  })
}

function pageOf(figures: readonly Figure[]): string {
  const growth = growthOf(figures)
  const missed = figures.filter((figure) => figure.missed && !isMet(figure))
  const reasons = [...new Set(missed.map(({ name, missed }) => `- ${name}: ${missed}`))]
  return [
    '# Performance',
    '',
    'Generated by `npm run bench`. Both servers, the stand-in for MOLT and the CockroachDB-like server run on one machine. References are measured in the same run, in alternating rounds.',
    `A figure is a median with its lowest and highest value. Measured on ${cpus().length} CPUs (${cpus()[0]?.model.trim()}), ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}.`,
    '',
    '| figure | median (lowest to highest) | reference | ratio | goal |',
    '| --- | ---: | ---: | ---: | ---: |',
    ...figures.map(lineOf),
    ...(growth.length ? ['', '## Growth', '', ...growth] : []),
    ...(reasons.length ? ['', '## Missed goals', '', ...reasons] : []),
    '',
  ].join('\n')
}

mkdirSync(FOLDER, { recursive: true })
for (const name of positionals.length ? positionals : Object.keys(BENCHES)) {
  const bench = BENCHES[name]
  if (!bench) throw new Error(`unknown bench ${name}. Use one of: ${Object.keys(BENCHES).join(', ')}`)
  rmSync(collectedBy(name), { force: true })
  for (const args of options.smallest ? [bench.smallest] : bench.whole) runBench(name, args)
}
const figures = [...collected(), sizeOfDist()]
writeFileSync(join(FOLDER, 'figures.json'), `${JSON.stringify(figures, undefined, 2)}\n`)
writeFileSync(PAGE, pageOf(figures))
console.log(pageOf(figures))
