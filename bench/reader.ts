// `npx tsx bench/reader.ts [seconds]`: measures how fast a tool's output can be read. Reads a child process's lines,
// with scrubbing and log rotation as in a real run, and prints MiB per second and this process's memory.
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Child } from '../src/tools/process.ts'
import { boundedScrubber } from '../src/tools/replicator.ts'
import { collect } from './figures.ts'

const seconds = Number(process.argv[2] ?? 20)
/** Writes a replicator's log at `-v` as fast as it is read: 1 line in 10,000 is a retry. */
const WRITER = `
const line = 'time="Nov 22 19:08:30" level=debug msg="upserted rows" conflicts=0 duration=1.89233ms proposed=1 target="\\\\"shop\\\\".\\\\"public\\\\".\\\\"orders\\\\"" upserted=1\\n'
const retry = 'time="Nov 22 19:08:30" level=warning msg="error while copying messages; will retry" error="ERROR: duplicate key value violates unique constraint \\\\"u\\\\" (SQLSTATE 23505)"\\n'
const block = Buffer.from(line.repeat(9_999) + retry)
const end = Date.now() + ${seconds * 1000}
const write = () => { while (Date.now() < end) if (!process.stderr.write(block)) return process.stderr.once('drain', write) }
write()`

const folder = mkdtempSync(join(tmpdir(), 'molt-actions-bench-'))
const logFile = join(folder, 'replicator.log')
let bytes = 0
let peak = 0
const began = performance.now()
const child = new Child({
  program: process.execPath,
  args: ['-e', WRITER],
  logFile,
  scrub: boundedScrubber(),
  onLine: (line) => {
    bytes += line.length + 1
  },
})
const sampler = setInterval(() => {
  const { rss, heapUsed } = process.memoryUsage()
  peak = Math.max(peak, rss)
  const rate = bytes / 2 ** 20 / ((performance.now() - began) / 1000)
  console.log(
    `${rate.toFixed(1)} MiB/s, rss ${Math.round(rss / 2 ** 20)} MiB, heap ${Math.round(heapUsed / 2 ** 20)} MiB`,
  )
}, 2_000)
await child.exited
clearInterval(sampler)
const kept = readdirSync(folder).map((name) => `${name} ${Math.round(statSync(join(folder, name)).size / 2 ** 20)} MiB`)
console.log(
  `${Math.round(bytes / 2 ** 20)} MiB read, peak rss ${Math.round(peak / 2 ** 20)} MiB; kept: ${kept.join(', ')}`,
)
const rate = bytes / 2 ** 20 / ((performance.now() - began) / 1000)
collect(
  { name: "reading the replicator's log", unit: 'MiB/s', values: [rate] },
  {
    name: "memory used by reading the replicator's log",
    unit: 'MiB',
    values: [peak / 2 ** 20],
    goal: { most: 120 },
    missed: 'The measuring process also contains the TypeScript loader.',
  },
)
rmSync(folder, { recursive: true })
