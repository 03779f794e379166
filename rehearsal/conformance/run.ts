// Checks the items in turn. Also reports each item that cannot be checked on this cluster or that timed out.
import { messageOf } from '../../src/runtime/errors.ts'
import { redact } from '../../src/runtime/secrets.ts'
import { Bench } from './bench.ts'
import { CATALOG_ITEMS, createTables, REFUSALS } from './catalogs.ts'
import { CHANGE_ITEMS } from './changes.ts'
import { CannotRun, type Item, matches, type Seen, shown } from './item.ts'
import { PROOF_ITEMS } from './proofs.ts'

/** All items. The order matters: later items change what earlier items read. */
export const ITEMS: readonly Item[] = [...CATALOG_ITEMS, REFUSALS, ...CHANGE_ITEMS, ...PROOF_ITEMS]

export interface ItemResult {
  id: string
  says: string
  source: string
  result: 'as-documented' | 'different' | 'skipped' | 'not-run'
  /** Why the item was skipped or could not run. */
  reason?: string
  looks: { what: string; expected: string; seen: string; same: boolean }[]
}

export interface Conformance {
  version: string
  items: ItemResult[]
  /** Sentences about what could not be removed. */
  left: string[]
}

/** Time limit for all items, in milliseconds. */
const TIME = 170_000

/** @param signal ends the run at the next item; what the run created is still removed */
export async function runConformance(
  given: { target: string; source?: string },
  signal: AbortSignal,
  onItem: (item: ItemResult) => void = () => {},
): Promise<Conformance> {
  const bench = await Bench.open(given)
  const over = AbortSignal.any([signal, AbortSignal.timeout(TIME)])
  const results: ItemResult[] = []
  let left: string[] = []
  try {
    await createTables(bench)
    for (const item of ITEMS) {
      const result = await lookAt(item, bench, over)
      results.push(result)
      onItem(result)
    }
  } finally {
    left = await bench.close()
  }
  return { version: bench.version.join('.'), items: results, left }
}

async function lookAt(item: Item, bench: Bench, signal: AbortSignal): Promise<ItemResult> {
  const { id, says, source } = item
  const without = (result: 'skipped' | 'not-run', reason: string): ItemResult => ({
    id,
    says,
    source,
    result,
    reason,
    looks: [],
  })
  if (signal.aborted) return without('not-run', signal.reason?.name === 'TimeoutError' ? 'out of time' : 'interrupted')
  if (item.needsSource && !bench.source) return without('skipped', 'it needs a PostgreSQL source. Set --source')
  try {
    const looks = await beforeEnd(item.look(bench), signal)
    const told = looks.map((look) => ({
      what: look.what,
      expected: shown(look.expected),
      seen: redact(shown(look.seen)),
      same: matches(look),
    }))
    return { id, says, source, result: told.every(({ same }) => same) ? 'as-documented' : 'different', looks: told }
  } catch (error) {
    // Rolls back in case the item failed inside a transaction.
    await bench.db.query('ROLLBACK').catch(() => {})
    if (error instanceof CannotRun || signal.aborted) return without('not-run', messageOf(error))
    return { id, says, source, result: 'different', looks: [failed(error)] }
  }
}

/** Reports an unexpected failure as a difference, with the server's message. */
function failed(error: unknown): ItemResult['looks'][number] {
  const { code = '' } = error as { code?: string }
  return {
    what: 'the check itself',
    expected: 'no error',
    seen: redact(`${code} ${messageOf(error)}`.trim()),
    same: false,
  }
}

function beforeEnd(work: Promise<Seen[]>, signal: AbortSignal): Promise<Seen[]> {
  // After an abort, `work` fails later, when its connection is closed.
  work.catch(() => {})
  return Promise.race([
    work,
    new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(new CannotRun('the run ended first')), { once: true }),
    ),
  ])
}

/** Exit status: 1 for a difference or if something could not be removed, 2 if an item could not run, otherwise 0. */
export function exitCodeOf({ items, left }: Conformance): 0 | 1 | 2 {
  if (left.length || items.some(({ result }) => result === 'different')) return 1
  return items.some(({ result }) => result === 'not-run') ? 2 : 0
}
