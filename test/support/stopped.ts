import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobResult } from '../../rehearsal/runner/runner.ts'
import { words } from './migration.ts'

/** Pid of the child process that stopped itself at a checkpoint. */
export async function stoppedChild(running: Promise<JobResult>): Promise<number> {
  let over = false
  void running.finally(() => {
    over = true
  })
  while (!over) {
    const pid = children(process.pid).find((child) => stateOf(child) === 'T')
    if (pid) return pid
    await sleep(20)
  }
  throw new Error(`the action ended before the checkpoint:\n${words(await running)}`)
}

export function children(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

/** Process state from /proc, such as `S`, `T` or `Z`; undefined if the process does not exist. */
export function stateOf(pid: number): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.[0]
  } catch {
    return undefined
  }
}

/** Pid of an action that this process is running, found by the path of its bundle. */
export function actionProcess(name: string): number {
  const found = runningAction(name)
  if (!found) throw new Error(`${name} is not running`)
  return found
}

function runningAction(name: string): number | undefined {
  return children(process.pid).find((pid) => new RegExp(`dist/.*${name}`).test(commandLine(pid)))
}

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

/** Kills the running action as soon as `moment` resolves. */
export async function killOnce(
  running: Promise<JobResult>,
  name: string,
  moment: () => Promise<unknown>,
): Promise<void> {
  let over = false
  void running.finally(() => {
    over = true
  })
  for (let pid: number | undefined; !over; await sleep(5)) {
    pid = runningAction(name)
    if (pid && (await moment())) return void process.kill(pid, 'SIGKILL')
  }
  throw new Error(`it ended before it was to be killed:\n${words(await running)}`)
}
