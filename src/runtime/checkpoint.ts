import { debug } from '@actions/core'

/**
 * Marks a point where a crash must do no harm, and writes its name to the debug log. Fault tests set
 * `MOLT_ACTIONS_STOP_AT` to pause the process at this point, and then kill it or disconnect a database.
 */
export function checkpoint(name: string): void {
  debug(`checkpoint: ${name}`)
  if (process.env.MOLT_ACTIONS_STOP_AT === name) process.kill(process.pid, 'SIGSTOP')
}
