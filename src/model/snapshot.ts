/** A PostgreSQL snapshot: which transactions a statement sees. Its text form is `xmin:xmax:xip,xip`. */
export interface Snapshot {
  /** Every older transaction has ended. */
  xmin: bigint
  /** Transactions from this one on are invisible. */
  xmax: bigint
  /** Transactions between the two that had not ended, and so are invisible. */
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
 * Whether a snapshot includes a committed transaction. The WAL contains a commit before any snapshot does; with
 * synchronous replication, minutes can pass in between.
 * @param xid the transaction's id without its epoch, as in the WAL
 */
export function isVisible({ xmin, xmax, running }: Snapshot, xid: number): boolean {
  const id = withEpoch(xid, xmax)
  return id < xmin || (id < xmax && !running.has(id))
}

/** Adds the epoch that puts the id closest to `near`: ids in use are never more than half the range apart. */
function withEpoch(xid: number, near: bigint): bigint {
  const id = (near & ~0xffffffffn) | BigInt(xid)
  if (id - near > 0x80000000n) return id - 0x100000000n
  return near - id > 0x80000000n ? id + 0x100000000n : id
}
