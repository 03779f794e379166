import { addEvidence, type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import type { Statements } from './counters.ts'
import { isWrite } from './fingerprint.ts'
import { isMissing, type Judgement } from './verdict.ts'
import type { Watched } from './watch.ts'

const OBSERVE = 'observe'

/** What a watch stores in the ledger, without any literal value of a statement. */
export interface Observation extends Judgement, Pick<Watched, 'transactions' | 'refusedTotal'> {
  sessions: Watched['seen']['sessions']
  stragglers: Watched['seen']['stragglers']
  /** Rows that statements wrote on the target during the watch. */
  rowsWrittenPerMinute?: number
  /** LSN at which this attempt's stream started. It distinguishes the attempt from one that was rolled back. */
  cursor?: string
}

/** How many statements to keep per side that were seen only there. */
const KEPT = 100

export function observationOf(
  judged: Judgement,
  { transactions, refusedTotal, seen, durationMs }: Watched,
): Observation {
  const { source, target } = judged.unpaired
  return {
    ...judged,
    unpaired: { source: source.slice(0, KEPT), target: target.slice(0, KEPT) },
    transactions,
    refusedTotal,
    ...(isMissing(seen.statements)
      ? {}
      : { rowsWrittenPerMinute: rowsWritten(seen.statements) / (durationMs / 60_000) }),
    sessions: seen.sessions,
    stragglers: seen.stragglers,
  }
}

function rowsWritten(statements: Statements): number {
  return Object.entries(statements).reduce((rows, [text, each]) => rows + (isWrite(text) ? each.rows : 0), 0)
}

export async function keepObservation(db: Database, entry: Entry, judged: Judgement, watched: Watched): Promise<void> {
  await addEvidence(db, entry.id, OBSERVE, { ...observationOf(judged, watched), cursor: entry.facts.cursor })
}

/** The last observation; undefined when there is none, or it belongs to an attempt that was rolled back. */
export async function lastObservation(
  db: Database,
  { id, facts }: Entry,
): Promise<(Partial<Observation> & { ageMs: number }) | undefined> {
  const [last] = await readEvidence<Observation>(db, id, OBSERVE, 1)
  return last && last.body.cursor === facts.cursor ? { ...last.body, ageMs: last.ageMs } : undefined
}
