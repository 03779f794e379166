import { addEvidence, type Entry, readEvidence } from '../../ledger/ledger.ts'
import type { Database } from '../../runtime/database.ts'
import type { Statements } from './counters.ts'
import { isWrite } from './fingerprint.ts'
import { isMissing, type Judgement } from './verdict.ts'
import type { Watched } from './watch.ts'

const OBSERVE = 'observe'

/** What a watch stores in the ledger. Statements contain no literal values. */
export interface Observation extends Judgement, Pick<Watched, 'transactions' | 'refusedTotal'> {
  sessions: Watched['seen']['sessions']
  stragglers: Watched['seen']['stragglers']
  /** Rows written to the target during the watch, per minute. */
  rowsWrittenPerMinute?: number
  /** LSN at which the stream of this attempt started. Distinguishes this attempt from one that was rolled back. */
  cursor?: string
}

/** Maximum number of statements to keep for each side among those seen only on that side. */
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

/** The last observation; undefined if there is none, or if it belongs to an attempt that was rolled back. */
export async function lastObservation(
  db: Database,
  { id, facts }: Entry,
): Promise<(Partial<Observation> & { ageMs: number }) | undefined> {
  const [last] = await readEvidence<Observation>(db, id, OBSERVE, 1)
  return last && last.body.cursor === facts.cursor ? { ...last.body, ageMs: last.ageMs } : undefined
}
