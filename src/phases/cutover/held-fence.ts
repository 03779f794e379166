import { setTimeout as sleep } from 'node:timers/promises'
import { COMMITTED, type Entry } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import type { Database } from '../../runtime/database.ts'
import { CancelledError, refuse, VerdictError } from '../../runtime/errors.ts'
import { TIMING } from '../../runtime/timing.ts'
import {
  expectedFence,
  type Fence,
  type FenceState,
  type FenceVersion,
  fenceProblems,
  fenceVersion,
  leaseFor,
  liftFence,
  makePermanent,
  plannedFence,
  probeFence,
  readFence,
  resetCount,
  rewritten,
  setLease,
  type WriteHolder,
  writeHolders,
  writesPassed,
} from '../../source/fence.ts'
import { readTables } from '../../sql/tables.ts'

/** Reads the fence's state and its problems, by the plan of `entry` if there is one. Changes nothing. */
export async function lookAtFence(db: Database, entry?: Entry) {
  const { state, remainingMs } = await readFence(db)
  const decided = entry !== undefined && COMMITTED.includes(entry.phase)
  const raised = decided || state === 'armed' || state === 'permanent'
  return { state, remainingMs, raised, problems: await problemsOf(db, state, entry) }
}

async function problemsOf(db: Database, state: FenceState, entry: Entry | undefined): Promise<string[]> {
  if (entry && COMMITTED.includes(entry.phase)) return decidedProblems(db, state, entry)
  if (state === 'absent') return []
  const fence = entry ? await planFence(db, entry.plan) : await expectedFence(db)
  const problems = fence ? await fenceProblems(db, fence) : ['the fence function and every trigger are gone']
  if (state === 'permanent' && entry && entry.phase !== 'committing')
    problems.push(
      `it is permanent, but migration ${entry.id} is ${entry.phase} in the ledger: its cutover did not commit`,
    )
  return problems
}

/** Evidence that the source may have changed since the commit. */
async function decidedProblems(db: Database, state: FenceState, { plan, facts }: Entry): Promise<string[]> {
  if (state !== 'permanent') return [`it is ${state}, but must be permanent after the commit, so writes can pass`]
  const problems = await fenceProblems(db, await planFence(db, plan))
  // The counter shows writes even if the fence was restored afterwards.
  if (!problems.length && facts.writesPassed !== undefined && facts.writesPassed !== (await writesPassed(db)))
    problems.push(
      `writes have passed it since the commit, because it was lifted in between. Find these rows and copy them over, then run \`${resetCount(facts.writesPassed)}\` on the source to confirm`,
    )
  return problems
}

/**
 * Requires a fence that has held since the commit: rows written to the source since then would be lost.
 * @throws VerdictError when the fence was changed or lifted, or a write has passed it
 */
export async function requireStillFenced(db: Database, entry: Entry): Promise<void> {
  const problems = await decidedProblems(db, (await readFence(db)).state, entry)
  if (problems.length)
    refuse(
      'fence.damaged-after-commit',
      'the fence on the source was changed or lifted after the commit',
      problems,
      'The source may have new rows that the target lacks. Look for them before you remove the old database.',
    )
}

/** The fence that this plan needs, for the tables and partitions that exist now. */
export async function planFence(db: Database, plan: Plan): Promise<Fence> {
  const tables = await readTables(db, plan.sourceSchema)
  return plannedFence(
    db,
    tables.filter((table) => plan.tables.includes(table.name)),
  )
}

/**
 * Waits for transactions that currently hold a write lock, before any write is refused: one that does not end here
 * would not end in the pause either.
 * @param deadline milliseconds
 * @returns the milliseconds it took
 * @throws VerdictError `fence.writers-remain`
 */
export async function awaitOldWriters(
  db: Database,
  fence: Fence,
  deadline: number,
  signal: AbortSignal,
): Promise<number> {
  const began = performance.now()
  await awaitHolders(db, fence, deadline, signal)
  return performance.now() - began
}

/**
 * Arms the fence and keeps it armed: writes are refused from `arm` until `lift`, `commit` or the end of the lease,
 * which is renewed only by {@link renew}. Times in milliseconds.
 */
export class HeldFence {
  readonly fence: Fence
  readonly #db: Database
  readonly #leaseMs: number
  readonly #onLease: (lease: string) => void
  #lease = ''
  readonly #tried: string[] = []
  #passed = ''
  #version: FenceVersion = { objects: '', files: {} }

  /** @param onLease called with each lease before it is set */
  constructor(db: Database, fence: Fence, leaseMs: number, onLease: (lease: string) => void = () => {}) {
    this.#db = db
    this.#onLease = onLease
    this.fence = fence
    this.#leaseMs = leaseMs
  }

  /**
   * Refuses writes at once, waits for every transaction that held a write lock, then proves that writes are refused.
   * @param deadline milliseconds from now for the holders to end
   * @throws VerdictError when a holder does not end, or a write still passes. The caller must then lift the fence
   */
  async arm(deadline: number, signal: AbortSignal): Promise<{ holders: number; waitedMs: number }> {
    const began = performance.now()
    await this.#setLease()
    const holders = await this.#waitForHolders(deadline, signal)
    this.#passed = await writesPassed(this.#db)
    this.#version = await fenceVersion(this.#db, this.fence)
    await this.requireRefused()
    return { holders, waitedMs: Math.round(performance.now() - began) }
  }

  /** Renews the lease, and proves that it never lapsed in between: no write has passed since it was armed. */
  async renew(deadline: number, signal: AbortSignal): Promise<void> {
    await this.#setLease(this.#lease)
    await this.#waitForHolders(deadline, signal)
    await this.#requireNoGap()
  }

  async requireRefused(): Promise<void> {
    const { passed } = await probeFence(this.#db, this.fence)
    if (passed.length)
      throw new VerdictError('fence.probe-passed', `the fence does not hold: a write to ${passed.join(', ')} passed`)
    await this.#requireNoGap()
  }

  /** Commits: makes the fence permanent, but only while the lease that was checked for gaps is still set. */
  async commit(deadline: number, signal: AbortSignal): Promise<void> {
    await this.renew(deadline, signal)
    if (await makePermanent(this.#db, this.#lease)) return
    throw new VerdictError(
      'fence.lapsed',
      'the fence lapsed or was changed just before the commit. Nothing was committed',
    )
  }

  /** The counter of passed writes when the fence was armed, unchanged at every check since. */
  get passed(): string {
    return this.#passed
  }

  /** The last leases that we may have set on the source, even without an answer; newest first. */
  get tried(): readonly string[] {
    return this.#tried
  }

  /** @returns false when there was nothing of ours to lift: the fence is permanent, or another run's */
  async lift(db = this.#db): Promise<boolean> {
    for (const lease of this.#tried) if (await liftFence(db, lease)) return true
    return false
  }

  async #setLease(own?: string): Promise<void> {
    const lease = await leaseFor(this.#db, this.#leaseMs)
    this.#onLease(lease)
    // Keep the current lease, and those that may still take effect.
    this.#tried.unshift(lease)
    this.#tried.splice(3)
    if (await setLease(this.#db, lease, own)) this.#lease = lease
    else
      throw new VerdictError(
        own === undefined ? 'fence.permanent' : 'fence.changed-by-other',
        own === undefined
          ? 'the fence is permanent: this migration is already committed'
          : 'the fence was lifted or armed again by another run while it was held, so a write may have passed',
      )
  }

  async #requireNoGap(): Promise<void> {
    const now = await fenceVersion(this.#db, this.fence)
    if (now.objects !== this.#version.objects)
      throw new VerdictError(
        'fence.damaged',
        'a trigger of the fence, its function or a sequence was changed after it was armed, so a write may have passed it',
      )
    const tables = rewritten(this.#version, now)
    if (tables.length)
      throw new VerdictError(
        'fence.table-rewritten',
        `${tables.join(', ')} was rewritten, renamed or dropped on the source after the fence was armed: DDL bypasses every trigger, so the rows may differ from those compared. VACUUM FULL and CLUSTER do this too, without changing a row. Run none of these until the cutover is over, and run \`cutover\` again`,
      )
    if ((await writesPassed(this.#db)) === this.#passed) return
    throw new VerdictError(
      'fence.write-passed',
      'a write passed the fence after it was armed: its lease lapsed, or someone lifted it',
    )
  }

  /** A transaction that held a write lock when the lease was set may have read the old one. Later ones are refused. */
  #waitForHolders(deadline: number, signal: AbortSignal): Promise<number> {
    return awaitHolders(this.#db, this.fence, deadline, signal)
  }
}

/** @returns how many transactions held a write lock at first; all of them have ended */
async function awaitHolders(db: Database, fence: Fence, deadline: number, signal: AbortSignal): Promise<number> {
  const began = performance.now()
  const first = await writeHolders(db, fence)
  const waitedFor = new Set(first.map((holder) => holder.transaction))
  let left = first
  while (left.length) {
    if (signal.aborted) throw new CancelledError()
    if (performance.now() - began > deadline) throw new VerdictError('fence.writers-remain', holdersText(left))
    await sleep(TIMING.holdersLook)
    left = (await writeHolders(db, fence)).filter((holder) => waitedFor.has(holder.transaction))
  }
  return waitedFor.size
}

function holdersText(holders: readonly WriteHolder[]): string {
  const named = holders.map((holder) => (holder.pid === null ? 'a prepared transaction' : `PID ${holder.pid}`))
  return `transactions with a write lock did not end in time: ${named.join(', ')}. End them (pg_terminate_backend, ROLLBACK PREPARED) and try again`
}
