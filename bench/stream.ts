/**
 * Measures a leg of the stream: `npx tsx bench/stream.ts [rows] [rounds]`. First measures the action's own CPU time and
 * memory at several transaction rates, then the application's latency with and without the rolling proof, in
 * alternating legs.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { startLoad } from '../rehearsal/shop/load.ts'
import { type Rehearsal, requireSuccess, startRehearsal } from '../test/support/migration.ts'
import { collect } from './figures.ts'
import { cpuSeconds, peakMemory, watchProcesses } from './processes.ts'

const rows = Number(process.argv[2] ?? 100_000)
const rounds = Number(process.argv[3] ?? 5)
const RATES = [0, 250, 1_000]
/** Duration of a leg in seconds, and the number of seconds at its start that are not measured. */
const COST_LEG = rounds > 1 ? { length: 45, start: 15 } : { length: 6, start: 3 }
const LATENCY_LEG = rounds > 1 ? { length: 15, start: 3 } : { length: 6, start: 3 }

async function leg(rehearsal: Rehearsal, seconds: number, inputs: Record<string, string> = {}): Promise<void> {
  const limits = { until: 'handover', 'leg-limit': `${seconds}s` }
  requireSuccess('replicate', await rehearsal.run('replicate', { ...limits, ...inputs }))
}

/** Runs a leg and measures the process that started the replicator: the action. */
async function costOf(rehearsal: Rehearsal, rate: number) {
  const load = rate ? await startLoad({ url: rehearsal.pair.source.url, rate }) : undefined
  try {
    const { result } = await watchProcesses(/replicator\S* pglogical /, async (replicator) => {
      const { length, start } = COST_LEG
      const running = leg(rehearsal, length)
      await sleep(start * 1000)
      const action = replicator().at(-1)?.parent
      if (!action) throw new Error('the replicator was not seen')
      const [cpu, transactions, began] = [cpuSeconds(action) ?? 0, load?.counters.transactions ?? 0, performance.now()]
      await sleep((length - start - 1) * 1000)
      const seconds = (performance.now() - began) / 1000
      const cost = {
        cpu: (100 * ((cpuSeconds(action) ?? 0) - cpu)) / seconds,
        memory: peakMemory(action) ?? 0,
        rate: ((load?.counters.transactions ?? 0) - transactions) / seconds,
      }
      await running
      return cost
    })
    return result
  } finally {
    await load?.stop()
  }
}

/** Milliseconds that each of the application's transactions takes while `work` runs, except at its start. */
async function latencies(url: string, work: () => Promise<void>): Promise<number[]> {
  const client = new pg.Client(url)
  await client.connect()
  try {
    const over = new AbortController()
    const running = work().finally(() => over.abort())
    const { length, start } = LATENCY_LEG
    await sleep(start * 1000)
    const times: number[] = []
    for (const until = performance.now() + (length - start - 1) * 1000; performance.now() < until; ) {
      if (over.signal.aborted) break
      const began = performance.now()
      await client.query('BEGIN')
      await client.query('UPDATE orders SET total = total WHERE id = $1', [1 + Math.floor(Math.random() * 100)])
      await client.query('COMMIT')
      times.push(performance.now() - began)
      await sleep(10)
    }
    await running
    return times.sort((a, b) => a - b)
  } finally {
    await client.end()
  }
}

/** Rows per second. */
const THROTTLE = 10_000
// With such a short age, each pass over all rows directly follows the previous one.
const PROOF = { verify: 'rolling', 'verify-age': '1s' }
const LEGS = {
  alone: { verify: 'none' },
  proof: PROOF,
  throttled: { ...PROOF, 'verify-rate': String(THROTTLE) },
}
type Leg = keyof typeof LEGS

const quantile = (sorted: readonly number[], share: number) => sorted[Math.floor(share * sorted.length)] as number

const rehearsal = await startRehearsal({ rows, rate: 40 })
try {
  await rehearsal.load.stop()
  await rehearsal.bringToCaughtUp()
  for (const asked of RATES) {
    const { cpu, memory, rate } = await costOf(rehearsal, asked)
    console.log(`${rate.toFixed(0)} transactions/s: ${cpu.toFixed(1)}% of a core, ${memory.toFixed(0)} MiB at most`)
    const work = { of: 'transactions/s', amount: Math.round(rate) }
    collect(
      {
        name: 'CPU of following',
        unit: '% of a core',
        values: [cpu],
        ...(!asked && { goal: { most: 3 } }),
        missed:
          'The cost is constant: a heartbeat, the positions of both slots, the activity on both sides and the counters of the replicator, each once a second or more often.',
        work,
      },
      { name: 'memory of following', unit: 'MiB', values: [memory], goal: { most: 120 }, work },
    )
  }
  const p50: Record<Leg, number[]> = { alone: [], proof: [], throttled: [] }
  const p99: typeof p50 = { alone: [], proof: [], throttled: [] }
  for (let round = 0; round < rounds; round++)
    for (const [how, inputs] of Object.entries(LEGS) as [Leg, Record<string, string>][]) {
      const times = await latencies(rehearsal.pair.source.url, () => leg(rehearsal, LATENCY_LEG.length, inputs))
      p50[how].push(quantile(times, 0.5))
      p99[how].push(quantile(times, 0.99))
      console.log(`${how}: p50 ${p50[how].at(-1)?.toFixed(2)} ms, p99 ${p99[how].at(-1)?.toFixed(2)} ms`)
    }
  for (const [how, name] of [
    ['proof', "application's latency during the proof"],
    ['throttled', `the same with \`verify-rate: ${THROTTLE}\``],
  ] as const) {
    const alone = (of: typeof p50) => ({ name: 'the stream without proof', values: of.alone })
    collect(
      {
        name: `${name}, p50`,
        unit: 'ms',
        values: p50[how],
        reference: alone(p50),
        goal: { most: 1.1 },
        missed:
          'All servers, the stream and the proof share the CPUs of this machine. `verify-rate` limits what the proof takes.',
      },
      { name: `${name}, p99`, unit: 'ms', values: p99[how], reference: alone(p99) },
    )
  }
} finally {
  await rehearsal.stop()
}
