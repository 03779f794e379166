import { debug } from '@actions/core'

/**
 * A named moment at which the state left behind matters if the process dies. Written to the debug log. The fault
 * tests stop the process there, by `MOLT_ACTIONS_STOP_AT`, to kill it or to disconnect a database.
 */
export function checkpoint(name: string): void {
  debug(`checkpoint: ${name}`)
  if (process.env.MOLT_ACTIONS_STOP_AT === name) process.kill(process.pid, 'SIGSTOP')
}
