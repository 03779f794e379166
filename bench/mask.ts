/**
 * Compares the masked copy's speed with the same COPY to COPY without masking: `npx tsx bench/mask.ts [rows] [rounds]
 * [tables at once]`. Both copies use the same engine, schema, snapshot and number of workers. They run in alternating
 * rounds, and the result is the median ratio. The source gets one CPU, and the target shares another with this process,
 * as if the clone and the rehearsal database were on separate servers (Linux with taskset). With `--shared`, all
 * processes share all CPUs.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { startPair } from '../rehearsal/postgres/postgres.ts'
import { createGrownShop, MASK_RULES } from '../rehearsal/shop/masked-shop.ts'
import { readMaskTables } from '../src/masking/catalog.ts'
import { type CopyJob, copyTables, exportSnapshot } from '../src/masking/copy.ts'
import { maskedSelect } from '../src/masking/decisions.ts'
import { makePlan } from '../src/masking/plan.ts'
import { readRules } from '../src/masking/rules.ts'
import { readSchema } from '../src/masking/schema.ts'
import { domainKeys, openSession } from '../src/masking/session.ts'
import { takeOver } from '../src/masking/target.ts'
import { collect, medianOf } from './figures.ts'

const rows = Number(process.argv[2] ?? 1_000_000)
const rounds = Number(process.argv[3] ?? 5)
const atOnce = Number(process.argv[4] ?? 4) || 4
const apart = process.platform === 'linux' && !process.argv.includes('--shared')
const pair = await startPair()
try {
  if (apart)
    for (const [cpu, pid] of [pair.source.pid, pair.target.pid, process.pid].entries())
      execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', String(Math.min(cpu, 1)), String(pid)])
  await createGrownShop(pair.source.url, rows)
  const source = await openSession(pair.source.url, 'source')
  const target = await openSession(pair.target.url, 'target')
  const snapshot = await exportSnapshot(source)
  const plan = makePlan(await readMaskTables(source, 'public'), readRules(MASK_RULES), 'public')
  const tables = plan.tables.map(({ table }) => table)
  const schema = await readSchema(source, { schema: 'public', tables })
  await takeOver(
    target,
    'public',
    tables.map(({ name }) => name),
  )
  for (const sql of schema.before) await target.query(sql)
  const ends = {
    from: pair.source.url,
    to: pair.target.url,
    snapshot,
    parameters: domainKeys('a key for measurements only', plan.domains),
    atOnce,
    signal: new AbortController().signal,
  }
  const { rows: bySize } = await source.query(
    'SELECT oid::int, pg_relation_size(oid)::float8 AS size FROM pg_class WHERE oid = ANY ($1)',
    [tables.map(({ oid }) => oid)],
  )
  const sizes = new Map<number, number>(bySize.map(({ oid, size }) => [oid, size]))
  const names = tables.map(({ name }) => `public.${pg.escapeIdentifier(name)}`).join(', ')
  const jobs = (masked: boolean): CopyJob[] =>
    plan.tables.map((planned) => ({
      schema: 'public',
      table: planned.table.name,
      columns: planned.columns,
      select: masked
        ? maskedSelect(planned)
        : `SELECT ${planned.columns.map(pg.escapeIdentifier).join(', ')} FROM public.${pg.escapeIdentifier(planned.table.name)}`,
      size: sizes.get(planned.table.oid) ?? 0,
    }))
  const measure = async (masked: boolean) => {
    await target.query(`TRUNCATE ${names}`)
    await target.query('CHECKPOINT')
    const [started, cpu] = [performance.now(), cpuSeconds()]
    const copied = await copyTables(jobs(masked), ends)
    const seconds = (performance.now() - started) / 1000
    // A backend's CPU time is counted only after the backend has been reaped.
    await sleep(500)
    return { seconds, cpu: cpuSeconds() - cpu, rows: [...copied.values()].reduce((sum, each) => sum + each, 0) }
  }
  if (process.argv.includes('--tables')) await byTable()
  const best = { plain: Number.POSITIVE_INFINITY, masked: Number.POSITIVE_INFINITY }
  const cpu = { ...best }
  let copied = 0
  const shares: number[] = []
  const rates: Record<'plain' | 'masked', number[]> = { plain: [], masked: [] }
  for (let round = 1; round <= rounds; round++) {
    const plain = await measure(false)
    const masked = await measure(true)
    copied = masked.rows
    shares.push(plain.seconds / masked.seconds)
    rates.plain.push(plain.rows / plain.seconds)
    rates.masked.push(masked.rows / masked.seconds)
    best.plain = Math.min(best.plain, plain.seconds)
    best.masked = Math.min(best.masked, masked.seconds)
    console.log(
      `round ${round}: plain ${plain.seconds.toFixed(2)} s (CPU ${plain.cpu.toFixed(1)} s), masked ${masked.seconds.toFixed(2)} s (CPU ${masked.cpu.toFixed(1)} s)`,
    )
    cpu.plain = Math.min(cpu.plain, plain.cpu)
    cpu.masked = Math.min(cpu.masked, masked.cpu)
  }
  const share = medianOf(shares)
  const rate = (seconds: number) => `${Math.round(copied / seconds).toLocaleString('en-US')} rows/s`
  console.log(
    `${copied.toLocaleString('en-US')} rows in ${tables.length} tables, ${apart ? 'source and target on separate CPUs' : 'all processes on all CPUs'}: plain ${rate(best.plain)}, masked ${rate(best.masked)} at best; median over the rounds ${(100 * share).toFixed(0)}% of the plain speed (goal 70%)`,
  )
  // Elapsed time says little on a busy machine, so also print the CPU time of both servers and this process.
  console.log(
    `CPU: plain ${cpu.plain.toFixed(1)} s, masked ${cpu.masked.toFixed(1)} s, ${((100 * cpu.plain) / cpu.masked).toFixed(0)}%`,
  )
  process.exitCode = share >= 0.7 ? 0 : 1
  const bare = { name: 'the same copy without masking', values: rates.plain }
  collect({ name: 'masked copy', unit: 'rows/s', values: rates.masked, reference: bare, goal: { least: 0.85 } })
  await target.end()
  await source.end()

  /** Seconds of CPU time used so far by this process and the servers' exited backends. Linux only; 0 elsewhere. */
  function cpuSeconds(): number {
    const { user, system } = process.cpuUsage()
    const ended = [pair.source.pid, pair.target.pid].map((pid) => {
      const path = `/proc/${pid}/stat`
      const fields = existsSync(path) ? readFileSync(path, 'utf8').split(') ')[1]?.split(' ') : undefined
      return fields ? (Number(fields[13]) + Number(fields[14])) / 100 : 0
    })
    return ended.reduce((sum, each) => sum + each, (user + system) / 1e6)
  }

  /** Prints the cost of masking each table, for `--tables`. */
  async function byTable() {
    for (const planned of plan.tables) {
      const times: number[] = []
      for (const masked of [false, true, false, true]) {
        await target.query(`TRUNCATE ${names}`)
        const started = performance.now()
        await copyTables(
          jobs(masked).filter(({ table }) => table === planned.table.name),
          ends,
        )
        times.push(performance.now() - started)
      }
      const [p1, m1, p2, m2] = times as [number, number, number, number]
      console.log(
        planned.table.name.padEnd(16),
        `plain ${Math.min(p1, p2).toFixed(0)} ms, masked ${Math.min(m1, m2).toFixed(0)} ms`,
      )
    }
  }
} finally {
  await pair.stop()
}
