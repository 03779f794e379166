import { isVisible } from '../../model/snapshot.ts'
import type { DirtyKeys, OpenKey } from './dirty-keys.ts'
import { type KeyedRow, readKeys, sameRow } from './rows.ts'
import type { Sessions } from './sessions.ts'
import type { ProvableTable } from './tables.ts'

/** Maximum number of keys per statement. */
const BATCH = 2_000

type Verdict =
  | 'equal'
  | 'differs'
  /** The change is not yet visible on the source. */
  | 'later'
  /** A server prints the key differently from the text in the query, so its row cannot be found. */
  | 'unreadable'
  /** The two servers print a value in forms that cannot be compared, so equality is unknown. */
  | 'unknown'

export interface Judged {
  key: OpenKey
  verdict: Verdict
  /** Which side lacks the row; `mismatch` if both have it. */
  kind: 'missing' | 'mismatch' | 'extraneous'
}

/**
 * Reads the rows of these keys on both sides and compares them. A difference alone is not a loss. It is one only if a
 * marker was passed before the rows were read, and the change log, read up to a later position, shows no newer change.
 * @param keys keys of `tables`
 */
export async function compareKeys(
  { source, target }: Sessions,
  tables: ReadonlyMap<string, ProvableTable>,
  keys: readonly OpenKey[],
  signal: AbortSignal,
): Promise<Judged[]> {
  const read = ({ table, batch }: Batch) => {
    const asked = batch.map(({ key }) => key)
    const both = Promise.all([readKeys(source, table, asked), readKeys(target, table, asked)])
    // Read the next batch while this one is judged. If the read fails, the error surfaces when the batch is awaited.
    both.catch(() => {})
    return both
  }
  const batches = batchesOf(tables, keys)
  const judged: Judged[] = []
  let next = batches[0] && read(batches[0])
  for (const [at, { table, batch }] of batches.entries()) {
    signal.throwIfAborted()
    const [here, there] = (await next) as Awaited<ReturnType<typeof read>>
    const following = batches[at + 1]
    next = following && read(following)
    for (const [i, key] of batch.entries()) {
      const [a, b] = [here.rows[i] as KeyedRow, there.rows[i] as KeyedRow]
      const kind = !a.row ? 'extraneous' : b.row ? 'mismatch' : 'missing'
      judged.push({ key, kind, verdict: judge(table, key, a, b, here.snapshot) })
    }
  }
  return judged
}

interface Batch {
  table: ProvableTable
  batch: OpenKey[]
}

function batchesOf(tables: ReadonlyMap<string, ProvableTable>, keys: readonly OpenKey[]): Batch[] {
  const byTable = new Map<string, OpenKey[]>()
  for (const key of keys) {
    const known = byTable.get(key.table)
    if (known) known.push(key)
    else byTable.set(key.table, [key])
  }
  return [...byTable].flatMap(([name, all]) => {
    const table = tables.get(name)
    const count = table ? Math.ceil(all.length / BATCH) : 0
    return Array.from({ length: count }, (_, n) => ({
      table: table as ProvableTable,
      batch: all.slice(n * BATCH, (n + 1) * BATCH),
    }))
  })
}

function judge(
  table: ProvableTable,
  { xid, present }: OpenKey,
  here: KeyedRow,
  there: KeyedRow,
  snapshot: Parameters<typeof isVisible>[0] | undefined,
): Verdict {
  if (xid !== undefined && !(snapshot && isVisible(snapshot, xid))) return 'later'
  // If the text differed, the row would be found on neither side and would seem equal.
  if (!here.readable || !there.readable) return 'unreadable'
  if (present === true && !here.row) return 'later'
  const same = sameRow(table, here.row, there.row)
  return same === undefined ? 'unknown' : same ? 'equal' : 'differs'
}

/** What a round of comparisons needs from its caller. */
export interface Surroundings {
  sessions: Sessions
  tables: ReadonlyMap<string, ProvableTable>
  dirty: DirtyKeys
  /** Returns the session that is reading the stream's slot. A new reader may apply older values again. */
  reader(): Promise<string>
  /** Sends a marker through the stream, and waits until it has arrived. */
  passMarker(): Promise<void>
  /** Waits until the change log has been read up to the source's current position. */
  readLog(): Promise<void>
  /** Called with the number of compared keys and the time taken, in milliseconds. */
  onCompared(keys: number, ms: number): void
  /** Called for a table whose rows cannot be proved. */
  exclude(table: string, verdict: 'unreadable' | 'unknown'): void
  signal: AbortSignal
}

/**
 * Compares open keys again, after a marker has passed through the stream.
 * @returns lost keys, and whether the result is void (`spoilt`) because the stream had no reader or its reader changed
 */
export async function recheck(
  around: Surroundings,
  keys: readonly OpenKey[],
): Promise<{ lost: Judged[]; spoilt: boolean }> {
  const { dirty } = around
  const before = await around.reader()
  await around.passMarker()
  const began = performance.now()
  const judged = await compareKeys(around.sessions, around.tables, keys, around.signal)
  around.onCompared(judged.length, performance.now() - began)
  const spoilt = before === '' || (await around.reader()) !== before
  if (spoilt) return { lost: [], spoilt }
  for (const { key, verdict } of judged) if (verdict === 'equal') dirty.equal(key)
  const rest = judged.filter(({ verdict }) => verdict !== 'equal')
  if (!rest.length) return { lost: [], spoilt }
  // The target may already have a change that the log has not yet reported.
  await around.readLog()
  const lost = rest.filter(({ key, verdict }) => {
    if (verdict === 'differs') return dirty.differs(key)
    if (verdict === 'unreadable' || verdict === 'unknown') around.exclude(key.table, verdict)
    else dirty.later(key)
    return false
  })
  return { lost, spoilt }
}
