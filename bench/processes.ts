import { readdirSync, readFileSync } from 'node:fs'

/** Milliseconds between two samples of the process list. */
const EVERY = 50

/** A process that appeared in the process list. Linux only. */
export interface Seen {
  parent: number
  /** Milliseconds from the first to the last sample that contained the process; accurate to 100 ms. */
  ms: number
}

const linesOf = (pid: number | string, file: string): string | undefined => {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8')
  } catch {
    // The process has ended.
    return undefined
  }
}

const fieldsOf = (pid: number) => linesOf(pid, 'stat')?.split(') ')[1]?.split(' ')

/** Seconds of CPU time that a process has used. */
export function cpuSeconds(pid: number): number | undefined {
  const fields = fieldsOf(pid)
  return fields && (Number(fields[11]) + Number(fields[12])) / 100
}

/** Peak memory of a process in MiB. */
export function peakMemory(pid: number): number | undefined {
  const peak = linesOf(pid, 'status')?.match(/^VmHWM:\s+(\d+) kB/m)?.[1]
  return peak === undefined ? undefined : Number(peak) / 1024
}

/**
 * Runs `work` and watches for processes whose command line matches. Arguments are separated by spaces.
 * @param work is passed a function that returns the matching processes seen so far
 */
export async function watchProcesses<T>(
  command: RegExp,
  work: (seen: () => Seen[]) => Promise<T>,
): Promise<{ result: T; seen: Seen[] }> {
  const begun = new Map<number, { at: number; seen: Seen }>()
  const look = () => {
    for (const pid of readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number)) {
      const known = begun.get(pid)
      if (!command.test(linesOf(pid, 'cmdline')?.replaceAll('\0', ' ') ?? '')) continue
      const now = performance.now()
      if (known) known.seen.ms = now - known.at
      else begun.set(pid, { at: now, seen: { parent: Number(fieldsOf(pid)?.[1]), ms: 0 } })
    }
  }
  const all = () => [...begun.values()].map(({ seen }) => seen)
  const timer = setInterval(look, EVERY)
  try {
    return { result: await work(all), seen: all() }
  } finally {
    clearInterval(timer)
  }
}
