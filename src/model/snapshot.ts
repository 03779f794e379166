/** A PostgreSQL snapshot, which decides what transactions a statement sees. Its text form is `xmin:xmax:xip,xip`. */
export interface Snapshot {
  /** Oldest running transaction: every transaction before it has ended. */
  xmin: bigint
  /** First invisible transaction: it and all later ones are invisible. */
  xmax: bigint
  /** Transactions between `xmin` and `xmax` that were still running, so they are invisible too. */
  running: ReadonlySet<bigint>
}

/** Parses the result of `txid_current_snapshot()::text`. */
export function parseSnapshot(text: string): Snapshot {
  const [xmin, xmax, running] = text.split(':')
  if (!xmin || !xmax || running === undefined) throw new Error(`not a snapshot: ${text}`)
  const ids = running.split(',').filter(Boolean).map(BigInt)
  return { xmin: BigInt(xmin), xmax: BigInt(xmax), running: new Set(ids) }
}

/**
 * Whether a committed transaction is visible in a snapshot. A commit is in the WAL before snapshots show it; with
 * synchronous replication, minutes can pass in between.
 * @param xid the transaction's id without its epoch, as in the WAL
 */
export function isVisible({ xmin, xmax, running }: Snapshot, xid: number): boolean {
  const id = withEpoch(xid, xmax)
  return id < xmin || (id < xmax && !running.has(id))
}

/** Adds the epoch with which the id is closest to `near`. Ids in use are never more than half the range apart. */
function withEpoch(xid: number, near: bigint): bigint {
  const id = (near & ~0xffffffffn) | BigInt(xid)
  if (id - near > 0x80000000n) return id - 0x100000000n
  return near - id > 0x80000000n ? id + 0x100000000n : id
}
