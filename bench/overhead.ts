/**
 * Measures the time that `fetch` and `verify` add to the molt command that they run: `npx tsx bench/overhead.ts [rows]
 * [rounds]`. Nothing writes meanwhile, so both do the same work in each round.
 */
import { number } from '../src/runtime/progress.ts'
import { requireSuccess, startRehearsal } from '../test/support/migration.ts'
import { collect, medianOf } from './figures.ts'
import { watchProcesses } from './processes.ts'

const rows = Number(process.argv[2] ?? 300_000)
const rounds = Number(process.argv[3] ?? 3)
const STEPS = [
  ['prepare', {}],
  ['fetch', { mode: 'direct-copy' }],
  ['replicate', { until: 'caught-up', 'quiet-period': '500ms' }],
  ['verify', {}],
] as const

/** Milliseconds taken by the whole action, and by the molt command within it. */
const times: Record<string, { action: number[]; molt: number[] }> = {
  fetch: { action: [], molt: [] },
  verify: { action: [], molt: [] },
}

async function measure(): Promise<void> {
  const rehearsal = await startRehearsal({ rows })
  try {
    await rehearsal.load.stop()
    requireSuccess('setup', await rehearsal.run('setup', { embedded: 'true' }))
    for (const [name, inputs] of STEPS) {
      const began = performance.now()
      const command = new RegExp(`molt\\S* ${name} `)
      const { result, seen } = await watchProcesses(command, () => rehearsal.run(name, { ...inputs }))
      const took = performance.now() - began
      requireSuccess(name, result)
      times[name]?.action.push(took)
      times[name]?.molt.push(seen.reduce((sum, { ms }) => sum + ms, 0))
    }
  } finally {
    await rehearsal.stop()
  }
}

for (let round = 0; round < rounds; round++) await measure()
for (const [name, { action, molt }] of Object.entries(times)) {
  const added = action.map((ms, i) => ms - (molt[i] as number))
  console.log(`${name}: ${action.map(Math.round)} ms, of it molt ${molt.map(Math.round)} ms`)
  collect({
    name: `what \`${name}\` adds to \`molt ${name}\` (${number(Math.round(medianOf(molt)))} ms)`,
    unit: 'ms',
    values: added,
    goal: { most: Math.round(300 + medianOf(molt) / 100) },
    missed:
      'The action starts Node, opens both connections, and reads both catalogs and the ledger before and after molt. This time does not grow with the rows.',
    work: { of: 'rows', amount: rows },
  })
}
