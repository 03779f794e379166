import { type ProcessOptions, runProcess } from '../../rehearsal/runner/process.ts'
import { main } from '../../src/main.ts'

let running = false

/**
 * Runs an action in this process, from the sources, for tests of its effects on databases: starting Node would take
 * longer than most of them. The action cannot be cancelled. While another one runs in this process, starts a new
 * process instead.
 */
export async function inProcess(options: ProcessOptions): Promise<number> {
  const [, name, post] = /\/dist\/([a-z]+)(-post)?\.cjs$/.exec(options.args[0] ?? '') ?? []
  if (!name || running) return runProcess(options)
  running = true
  const { env } = process
  const folder = process.cwd()
  const { write } = process.stdout
  let rest = ''
  process.env = { ...options.env }
  process.chdir(options.cwd)
  process.stdout.write = ((text: string | Uint8Array) => {
    const lines = (rest + String(text)).split('\n')
    rest = lines.pop() as string
    for (const line of lines) options.onLine(line)
    return true
  }) as typeof write
  try {
    await main(name, post ? 'post' : 'run')
  } finally {
    process.stdout.write = write
    process.chdir(folder)
    process.env = env
    running = false
  }
  if (rest) options.onLine(rest)
  const code = Number(process.exitCode ?? 0)
  process.exitCode = undefined
  return code
}
