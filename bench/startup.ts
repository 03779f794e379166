/**
 * `npm run bench:startup`: compares the time until each bundle prints its first line with the time that `node -e 0`
 * takes. Runs alternate, so a busy machine slows both equally. Fails if a bundle's median is more than twice as long.
 */
import { spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { specs } from '../src/actions/specs.ts'
import { collect, medianOf } from './figures.ts'

const REPO = resolve(import.meta.dirname, '..')
export const LIMIT = 2

/** Milliseconds to the first output, or to the end if there is no output. Resolves after the process has ended. */
function timeOf(node: string, args: readonly string[]): Promise<number> {
  return new Promise((done, reject) => {
    const began = performance.now()
    let first: number | undefined
    const child = spawn(node, args, { stdio: ['ignore', 'pipe', 'ignore'], env: { PATH: process.env.PATH } })
    child.stdout.once('data', () => {
      first = performance.now() - began
    })
    child.on('error', reject)
    child.on('close', () => done(first ?? performance.now() - began))
  })
}

/**
 * Measures an empty Node.js run, and the time until each action prints its first line. Medians in milliseconds.
 * @param node the Node.js binary to run
 */
export async function measureStartup(
  rounds: number,
  names: readonly string[],
  node = process.execPath,
): Promise<{ empty: number; first: Record<string, number> }> {
  const empty: number[] = []
  const first: Record<string, number[]> = Object.fromEntries(names.map((name) => [name, []]))
  for (let round = 0; round < rounds; round++)
    for (const name of names) {
      empty.push(await timeOf(node, ['-e', '0']))
      first[name]?.push(await timeOf(node, [join(REPO, 'dist', `${name}.cjs`)]))
    }
  return {
    empty: medianOf(empty),
    first: Object.fromEntries(Object.entries(first).map(([name, times]) => [name, medianOf(times)])),
  }
}

async function main(): Promise<void> {
  const names = specs.map((spec) => spec.name)
  const { values } = parseArgs({ options: { rounds: { type: 'string', default: '11' } } })
  const { empty, first } = await measureStartup(Number(values.rounds), names)
  const slowest = Object.entries(first).reduce((a, b) => (b[1] > a[1] ? b : a))
  collect({
    name: `start of an action (the slowest: ${slowest[0]})`,
    unit: 'ms',
    values: [slowest[1]],
    reference: { name: '`node -e 0`', values: [empty] },
    goal: { most: 1 },
  })
  console.log(`node -e 0: ${empty.toFixed(0)} ms (median)`)
  for (const [name, ms] of Object.entries(first)) {
    const factor = ms / empty
    console.log(
      `${name.padEnd(12)} ${ms.toFixed(0).padStart(5)} ms to its first line, ${factor.toFixed(2)} times as long`,
    )
    if (factor > LIMIT) process.exitCode = 1
  }
  if (process.exitCode) console.error(`more than ${LIMIT} times as long. Load less code before the first line`)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
