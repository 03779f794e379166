import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'
import { getExecOutput } from '@actions/exec'
import { keepingHold, liveHolder, obtainSlot, runText, thisRun } from '../../ledger/hold.ts'
import { readEntryIfAny } from '../../ledger/ledger.ts'
import { type Database, isConnectionLost, Link } from '../../runtime/database.ts'
import { UserError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'

/**
 * Holds the migration during its load, so that no second load can run at the same time, and `abort` knows when the load
 * has ended. If an earlier load was killed, waits until its hold lapses.
 * @param work receives a signal that also aborts if `abort` has ended the migration or another run has taken the hold
 * @throws VerdictError if another run is loading
 */
export async function holdingLoad<T>(
  target: Database,
  { url, migration, signal }: { url: string; migration: string; signal: AbortSignal },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const holder = thisRun('fetch')
  await obtainSlot(target, migration, holder, TIMING.loadHold + TIMING.holdGrace, TIMING.loadHold, signal)
  const stopped = new AbortController()
  const over = new AbortController()
  const lost = (error: unknown) => stopped.abort(error)
  return keepingHold(new Link(url, 'target'), migration, holder, TIMING.loadHold, lost, async () => {
    const watch = watchForAbort(new Link(url, 'target'), migration, over.signal, lost)
    try {
      return await work(AbortSignal.any([signal, stopped.signal]))
    } finally {
      over.abort()
      await watch
    }
  })
}

async function watchForAbort(link: Link, migration: string, over: AbortSignal, aborted: (error: UserError) => void) {
  while (!over.aborted) {
    await sleep(TIMING.abortLook, undefined, { signal: over }).catch(() => {})
    if (over.aborted) break
    const looked = link.use((db) => readEntryIfAny(db, migration))
    const entry = await looked.then(
      (found) => ({ phase: found?.phase }),
      (error) => {
        if (isConnectionLost(error)) return undefined
        throw error
      },
    )
    if (!entry || (entry.phase && entry.phase !== 'aborted')) continue
    aborted(
      new UserError(
        'load.aborted',
        `The load was stopped because \`abort\` has run: migration \`${migration}\` is ${entry.phase ?? 'no longer in the ledger'}.`,
      ),
    )
    break
  }
  await link.close()
}

/**
 * Stops the load of an aborted migration. Kills its `molt fetch` processes on this machine, then waits until the run
 * that holds the migration releases its hold or lets it lapse.
 * @throws UserError if that run continues
 */
export async function stopLoad(target: Database, migration: string, folders: readonly string[]): Promise<void> {
  const ended = await endMolt(folders)
  if (ended.length) info(`stopped this migration's \`molt fetch\` on this machine (PID ${ended.join(', ')})`)
  const deadline = performance.now() + TIMING.loadHold + TIMING.holdGrace
  for (let told = false; ; told = true) {
    const holder = await liveHolder(target, migration)
    if (holder?.action !== 'fetch') return
    if (!told) info(`waiting for ${runText(holder)} to stop its load`)
    if (performance.now() > deadline)
      throw new UserError(
        'load.still-running',
        `${runText(holder)} is still loading, although the migration is aborted. Cancel that run, then rerun \`abort\`.`,
      )
    await sleep(TIMING.loadEndLook)
  }
}

/**
 * Terminates every `molt fetch` whose command line contains one of these folders.
 * @returns their process groups
 */
async function endMolt(folders: readonly string[]): Promise<number[]> {
  const groups = await moltGroups(folders)
  for (const group of groups) signalGroup(group, 'SIGTERM')
  const deadline = performance.now() + TIMING.toolGrace
  while (groups.some((group) => signalGroup(group, 0)) && performance.now() < deadline) await sleep(TIMING.toolLook)
  for (const group of groups) signalGroup(group, 'SIGKILL')
  return groups
}

async function moltGroups(folders: readonly string[]): Promise<number[]> {
  if (!folders.length) return []
  const options = { silent: true, ignoreReturnCode: true }
  // If `ps` is missing, rely on the hold to show that the load has ended.
  const { stdout } = await getExecOutput('ps', ['-axww', '-o', 'pgid=,args='], options).catch(() => ({ stdout: '' }))
  const found = stdout.split('\n').flatMap((line) => {
    const [, group, command = ''] = /^\s*(\d+)\s+(.*)$/.exec(line) ?? []
    const ours = / fetch /.test(command) && folders.some((folder) => command.includes(`/${folder}`))
    return group && ours ? [Number(group)] : []
  })
  return [...new Set(found)]
}

/**
 * Signals a process group.
 * @returns whether the group still has a process
 */
function signalGroup(group: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(-group, signal)
  } catch {
    return false
  }
}
