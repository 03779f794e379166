import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { constants } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { readLines } from '../../src/tools/lines.ts'

export interface ProcessOptions {
  file: string
  args: string[]
  cwd: string
  env: Record<string, string>
  onLine(line: string): void
  /** Stops the process: sends SIGINT, then SIGTERM, then SIGKILL. */
  cancel: AbortSignal
  /** Kills the process immediately. */
  kill: AbortSignal
  /** Milliseconds to wait after SIGINT and after SIGTERM. */
  grace: readonly [sigint: number, sigterm: number]
}

/** Milliseconds to wait for output of descendants that hold a pipe open after the process has ended. */
const STREAM_GRACE = 5000

/**
 * Runs one step's process to its end. Like GitHub's runner, signals only the process and not its descendants; {@link
 * killOrphans} ends those at the end of the job.
 * @returns the exit code; 128 + n for a process ended by signal n
 * @throws if the process cannot be started, or if `onLine` throws (the process is then killed)
 */
export async function runProcess(options: ProcessOptions): Promise<number> {
  const { file, args, cwd, env } = options
  // In its own session, the process gets Ctrl-C only from this runner and only once, as on GitHub.
  const child = spawn(file, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true })
  const killGroup = () => signalTo(-(child.pid ?? 0), 'SIGKILL')
  let resolve: (code: number) => void = () => {}
  let reject: (error: unknown) => void = () => {}
  const ended = new Promise<number>((yes, no) => {
    resolve = yes
    reject = no
  })
  const fault = (error: unknown) => {
    signalTo(child.pid ?? 0, 'SIGKILL')
    reject(error)
  }
  // An exception in `onLine` would otherwise be lost in the stream's event handler.
  const onLine = (line: string) => {
    try {
      options.onLine(line)
    } catch (error) {
      fault(error)
    }
  }
  child.on('error', (error) => reject(new Error(`cannot start ${file}: ${error.message}`)))
  const open = Promise.all([readLines(child.stdout, onLine), readLines(child.stderr, onLine)])
  const patience = new AbortController()
  child.on('exit', async (code, signal) => {
    await Promise.race([open, sleep(STREAM_GRACE, undefined, { signal: patience.signal }).catch(() => {})])
    patience.abort()
    child.stdout.destroy()
    child.stderr.destroy()
    resolve(code ?? 128 + (signal ? constants.signals[signal] : 0))
  })
  const settled = ended.then(
    () => {},
    () => {},
  )
  const onKill = () => signalTo(child.pid ?? 0, 'SIGKILL')
  let cancelling: Promise<void> | undefined
  const onCancel = () => {
    cancelling = stopStepwise(child.pid ?? 0, settled, options.grace)
  }
  process.on('exit', killGroup)
  options.cancel.addEventListener('abort', onCancel, { once: true })
  options.kill.addEventListener('abort', onKill, { once: true })
  if (options.cancel.aborted) onCancel()
  try {
    return await ended
  } finally {
    await cancelling
    process.off('exit', killGroup)
    options.cancel.removeEventListener('abort', onCancel)
    options.kill.removeEventListener('abort', onKill)
  }
}

async function stopStepwise(pid: number, ended: Promise<void>, grace: readonly [number, number]): Promise<void> {
  const steps = [
    ['SIGINT', grace[0]],
    ['SIGTERM', grace[1]],
  ] as const
  for (const [signal, ms] of steps) {
    if (!signalTo(pid, signal)) continue
    const timer = new AbortController()
    const late = sleep(ms, true, { signal: timer.signal }).catch(() => false)
    const stillThere = await Promise.race([ended.then(() => false), late])
    timer.abort()
    if (!stillThere) return
  }
  signalTo(pid, 'SIGKILL')
}

/** Sends a signal. @returns false if the process no longer exists */
function signalTo(pid: number, signal: NodeJS.Signals): boolean {
  if (pid === 0) return false
  try {
    return process.kill(pid, signal)
  } catch {
    return false
  }
}

export interface Orphan {
  pid: number
  cmd: string
}

/** Kills and reports processes that a job left behind, recognized by RUNNER_TRACKING_ID in their environment. */
export async function killOrphans(trackingId: string): Promise<Orphan[]> {
  const killed = new Map<number, Orphan>()
  // Repeats, because a process may have started another one meanwhile.
  for (let round = 0; round < 40; round++) {
    const found = killOrphansNow(trackingId)
    if (found.length === 0) break
    for (const orphan of found) killed.set(orphan.pid, orphan)
    await sleep(25)
  }
  return [...killed.values()]
}

/** Like {@link killOrphans}, but in one pass without waiting, for a process that is about to exit. */
export function killOrphansNow(trackingId: string): Orphan[] {
  const needle = `RUNNER_TRACKING_ID=${trackingId}`
  const found = process.platform === 'linux' ? fromProc(needle) : fromPs(needle)
  const orphans = found.filter(({ pid }) => pid !== process.pid)
  for (const { pid } of orphans) signalTo(pid, 'SIGKILL')
  return orphans
}

function fromProc(needle: string): Orphan[] {
  const found: Orphan[] = []
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    try {
      if (!readFileSync(`/proc/${entry}/environ`, 'latin1').split('\0').includes(needle)) continue
      const cmd = readFileSync(`/proc/${entry}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
      found.push({ pid: Number(entry), cmd })
    } catch {
      // The process has ended, or belongs to another user.
    }
  }
  return found
}

/** Fallback without /proc (macOS): `ps` prints the environment after the command. */
function fromPs(needle: string): Orphan[] {
  const text = execFileSync('ps', ['-A', '-E', '-ww', '-o', 'pid=,command='], { encoding: 'utf8', maxBuffer: 1 << 28 })
  return text
    .split('\n')
    .filter((line) => line.split(' ').includes(needle))
    .map((line) => /^\s*(\d+)\s+(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map((match) => ({ pid: Number(match[1]), cmd: (match[2] as string).split(/ [A-Za-z_]\w*=/)[0] as string }))
}
