/**
 * `npx tsx bench/pause.ts [rows …]`: how long writes are paused with every row compared in the pause, and with the rolling
 * proof, by the number of rows. Each size is moved by the committed actions from one embedded server to another
 * under a live load. Writes the table in docs/how-it-works.md.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { number } from '../src/runtime/progress.ts'
import { type Rehearsal, requireSuccess, startRehearsal } from '../test/support/migration.ts'

const DOC = 'docs/how-it-works.md'
const [BEGIN, END] = ['<!-- bench/pause.ts -->', '<!-- end of bench/pause.ts -->']
const ROUNDS = 3

interface Figures {
  rows: number
  proofMs: number
  full: Pause
  changed: Pause
}

interface Pause {
  total: number
  verify: number
}

async function pauseOf(rehearsal: Rehearsal, how: 'full' | 'changed'): Promise<Pause> {
  const pauses: Pause[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const result = await rehearsal.run('cutover', {
      'final-verify': how,
      'first-verify': 'none',
      'quiet-period': '500ms',
      'max-pause': '10m',
      lease: '5m',
      'drain-timeout': '2m',
    })
    requireSuccess('cutover', result)
    const { verify } = JSON.parse(result.outputs['pause-parts'] as string)
    pauses.push({ total: Number(result.outputs['pause-ms']), verify })
  }
  return pauses.sort((a, b) => a.total - b.total)[Math.floor(ROUNDS / 2)] as Pause
}

async function measure(rows: number): Promise<Figures> {
  const rehearsal = await startRehearsal({ rows, rate: 40 })
  try {
    await rehearsal.bringToLoaded()
    const began = performance.now()
    requireSuccess('replicate', await rehearsal.run('replicate', { until: 'caught-up', verify: 'rolling' }))
    const proofMs = performance.now() - began
    const changed = await pauseOf(rehearsal, 'changed')
    return { rows, proofMs, changed, full: await pauseOf(rehearsal, 'full') }
  } finally {
    await rehearsal.stop()
  }
}

function tableOf(figures: readonly Figures[]): string {
  const line = ({ rows, proofMs, full, changed }: Figures) =>
    `| ${number(rows)} | ${number(full.total)} (${number(full.verify)}) | ${number(changed.total)} (${number(changed.verify)}) | ${number(proofMs / 1000)} |`
  return [
    '| rows | pause with `full` (of it verify), ms | pause with `changed` (of it verify), ms | catch up and first pass, s |',
    '| ---: | ---: | ---: | ---: |',
    ...figures.map(line),
  ].join('\n')
}

const sizes = process.argv.slice(2).map(Number)
const figures: Figures[] = []
for (const rows of sizes.length ? sizes : [10_000, 100_000, 1_000_000]) {
  figures.push(await measure(rows))
  console.log(tableOf(figures))
}
const page = readFileSync(DOC, 'utf8')
const [before, after] = [page.indexOf(BEGIN), page.indexOf(END)]
if (before < 0 || after < 0) throw new Error(`${DOC} has no place for the table`)
writeFileSync(DOC, `${page.slice(0, before + BEGIN.length)}\n${tableOf(figures)}\n${page.slice(after)}`)
