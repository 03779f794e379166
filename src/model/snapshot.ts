/** The transactions that a statement on the source could see; PostgreSQL writes it as `xmin:xmax:xip,xip`. */
export interface Snapshot {
  /** Every older transaction has ended. */
  xmin: bigint
  /** Every transaction from here on is not visible. */
  xmax: bigint
  /** Transactions between the two that had not ended. */
  running: ReadonlySet<bigint>
}

/** Reads what `txid_current_snapshot()::text` returns. */
export function parseSnapshot(text: string): Snapshot {
  const [xmin, xmax, running] = text.split(':')
  if (!xmin || !xmax || running === undefined) throw new Error(`not a snapshot: ${text}`)
  const ids = running.split(',').filter(Boolean).map(BigInt)
  return { xmin: BigInt(xmin), xmax: BigInt(xmax), running: new Set(ids) }
}

/**
 * Whether a snapshot shows what a committed transaction has written. The log reports a commit before a snapshot shows
 * it; under synchronous replication they can be minutes apart.
 * @param xid the transaction's id without its epoch, as the log writes it
 */
export function isVisible({ xmin, xmax, running }: Snapshot, xid: number): boolean {
  const id = withEpoch(xid, xmax)
  return id < xmin || (id < xmax && !running.has(id))
}

/** No two transactions in use are more than half of all ids apart. */
function withEpoch(xid: number, near: bigint): bigint {
  const id = (near & ~0xffffffffn) | BigInt(xid)
  if (id - near > 0x80000000n) return id - 0x100000000n
  return near - id > 0x80000000n ? id + 0x100000000n : id
}
