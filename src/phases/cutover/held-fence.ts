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

/** Reads the fence's state and problems, and changes nothing. With an `entry`, checks the fence against its plan. */
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
  const problems = fence ? await fenceProblems(db, fence) : ['the fence function and all its triggers are gone']
  if (state === 'permanent' && entry && entry.phase !== 'committing')
    problems.push(
      `the fence is permanent, but migration ${entry.id} is ${entry.phase} in the ledger: its cutover did not commit`,
    )
  return problems
}

/** Lists signs that the source may have changed since the commit. */
async function decidedProblems(db: Database, state: FenceState, { plan, facts }: Entry): Promise<string[]> {
  if (state !== 'permanent') return [`the fence is ${state}, so writes can pass. After the commit it must be permanent`]
  const problems = await fenceProblems(db, await planFence(db, plan))
  // The counter shows writes even if the fence was restored afterwards.
  if (!problems.length && facts.writesPassed !== undefined && facts.writesPassed !== (await writesPassed(db)))
    problems.push(
      `writes have passed the fence since the commit, because it was lifted for a time. Find the rows and copy them to the target, then run \`${resetCount(facts.writesPassed)}\` on the source to confirm`,
    )
  return problems
}

/**
 * Requires that the fence has held since the commit. Rows written to the source since then would be lost.
 * @throws VerdictError if the fence was changed or lifted, or a write has passed it
 */
export async function requireStillFenced(db: Database, entry: Entry): Promise<void> {
  const problems = await decidedProblems(db, (await readFence(db)).state, entry)
  if (problems.length)
    refuse(
      'fence.damaged-after-commit',
      'the fence on the source was changed or lifted after the commit',
      problems,
      'The source may have new rows that the target lacks. Look for such rows before you remove the old database.',
    )
}

/** The fence that this plan requires, for the tables and partitions that exist now. */
export async function planFence(db: Database, plan: Plan): Promise<Fence> {
  const tables = await readTables(db, plan.sourceSchema)
  return plannedFence(
    db,
    tables.filter((table) => plan.tables.includes(table.name)),
  )
}

/**
 * Waits for transactions that hold a write lock, before the fence refuses any write. A transaction that outlasts this
 * wait would also block the write pause.
 * @param deadline maximum wait in milliseconds
 * @returns the time it took, in milliseconds
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
 * Arms the fence and keeps it armed. The fence refuses writes from `arm` until `lift` or the end of the lease, and
 * permanently after `commit`. Only {@link renew} extends the lease. Times are in milliseconds.
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
   * Refuses writes immediately, waits for every transaction that already held a write lock, then proves that writes are
   * refused.
   * @param deadline milliseconds from now by which these transactions must end
   * @throws VerdictError if a transaction does not end, or a write still passes. The caller must then lift the fence
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

  /**
   * Renews the lease, and proves that it did not lapse in between: no write has passed the fence since it was armed.
   */
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

  /** Commits by making the fence permanent, but only if its lease is still the one that `renew` checked. */
  async commit(deadline: number, signal: AbortSignal): Promise<void> {
    await this.renew(deadline, signal)
    if (await makePermanent(this.#db, this.#lease)) return
    throw new VerdictError(
      'fence.lapsed',
      'the fence lapsed or was changed just before the commit. Nothing was committed',
    )
  }

  /** The counter of passed writes when the fence was armed. Every check since then has found it unchanged. */
  get passed(): string {
    return this.#passed
  }

  /**
   * The latest leases that this run may have set on the source, newest first. Includes those that the source did not
   * confirm.
   */
  get tried(): readonly string[] {
    return this.#tried
  }

  /**
   * Lifts the fence.
   * @returns false if the fence is permanent or held by another run
   */
  async lift(db = this.#db): Promise<boolean> {
    for (const lease of this.#tried) if (await liftFence(db, lease)) return true
    return false
  }

  async #setLease(own?: string): Promise<void> {
    const lease = await leaseFor(this.#db, this.#leaseMs)
    this.#onLease(lease)
    // Keep the current lease, and earlier ones that may still take effect.
    this.#tried.unshift(lease)
    this.#tried.splice(3)
    if (await setLease(this.#db, lease, own)) this.#lease = lease
    else
      throw new VerdictError(
        own === undefined ? 'fence.permanent' : 'fence.changed-by-other',
        own === undefined
          ? 'the fence is permanent: this migration is already committed'
          : 'another run lifted or rearmed the fence while this run held it, so a write may have passed',
      )
  }

  async #requireNoGap(): Promise<void> {
    const now = await fenceVersion(this.#db, this.fence)
    if (now.objects !== this.#version.objects)
      throw new VerdictError(
        'fence.damaged',
        'a trigger, the function or a sequence of the fence was changed after the fence was armed, so a write may have passed',
      )
    const tables = rewritten(this.#version, now)
    if (tables.length)
      throw new VerdictError(
        'fence.table-rewritten',
        `${tables.join(', ')} was rewritten, renamed or dropped on the source after the fence was armed: DDL bypasses every trigger, so the rows may differ from those compared. VACUUM FULL and CLUSTER do the same without changing a row. Do not run any of these until the cutover is over. Run \`cutover\` again`,
      )
    if ((await writesPassed(this.#db)) === this.#passed) return
    throw new VerdictError(
      'fence.write-passed',
      'a write passed the fence after it was armed: the lease lapsed, or the fence was lifted',
    )
  }

  /**
   * Waits for the transactions that held a write lock when the lease was set: they may have read the old lease. The
   * fence refuses writes of later ones.
   */
  #waitForHolders(deadline: number, signal: AbortSignal): Promise<number> {
    return awaitHolders(this.#db, this.fence, deadline, signal)
  }
}

/**
 * Waits until every transaction that now holds a write lock has ended.
 * @returns the number of these transactions
 */
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
  return `transactions with a write lock did not end in time: ${named.join(', ')}. End them (pg_terminate_backend, ROLLBACK PREPARED) and run \`cutover\` again`
}
