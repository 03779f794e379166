import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'
import { readTarget } from '../../destination/server.ts'
import type { Entry } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import type { Table } from '../../model/tables.ts'
import { type Database, isConnectionLost, sqlState, withDatabase } from '../../runtime/database.ts'
import { messageOf, throwIfCancelled } from '../../runtime/errors.ts'
import { plural, seconds } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { readFilteredTables, readTables } from '../../sql/tables.ts'
import type { RowKind } from '../../tools/molt-verify.ts'
import { scrubText } from '../../tools/scrub.ts'
import { requireStillFenced } from '../cutover/held-fence.ts'
import { digestTables, type TableDigest } from '../verify/row-digests.ts'
import { plusMaxOffset } from './commit-time.ts'
import type { AfterCommit, AfterCommitGap, TableDifference } from './result.ts'

export interface AfterCommitOptions {
  sourceUrl: string
  targetUrl: string
  signal: AbortSignal
}

/** Number of connections to each side. Low, because the application is already using the target. */
const CONNECTIONS = 2

/**
 * Compares all rows once more after the commit, without a write pause. Reads the source, which its permanent fence
 * keeps unchanged, and the target as of the commit, which excludes the application's later writes.
 * @throws VerdictError when the source has changed since the commit
 */
export async function compareAfterCommit(entry: Entry, options: AfterCommitOptions): Promise<AfterCommit> {
  const began = performance.now()
  const { commitTime } = entry.facts
  const nothing = { differences: [], gaps: [], tables: 0, rows: 0, durationMs: 0 }
  const found: AfterCommit = { verdict: 'inconclusive', ...(commitTime && { asOf: commitTime.asOf }), ...nothing }
  const onBoth = <T>(work: (source: Database, target: Database) => Promise<T>) =>
    withDatabase(options.sourceUrl, 'source', (source) =>
      withDatabase(options.targetUrl, 'target', (target) => work(source, target)),
    )
  const pairs = await onBoth(async (source, target) => {
    if (!(await readTarget(target)).isCockroach) return undefined
    await requireStillFenced(source, entry)
    const comparable = await comparablePairs(source, target, entry.plan)
    found.gaps.push(...comparable.gaps)
    return comparable.pairs
  })
  if (!pairs) return { ...found, verdict: 'unavailable' }
  if (!commitTime) return { ...found, gaps: [{ code: 'no-commit-time' }] }
  if (!commitTime.drained) found.gaps.push({ code: 'not-drained' })
  try {
    await comparePairs(pairs, commitTime.asOf, entry.plan, options, found)
  } catch (error) {
    throwIfCancelled(options.signal)
    if (isConnectionLost(error)) throw error
    found.gaps.push({ code: isPastGone(error) ? 'past-gone' : 'failed', what: scrubText(messageOf(error)) })
  }
  // A rollback in the meantime voids the result. The comparison can take hours, so use a new connection.
  await withDatabase(options.sourceUrl, 'source', (source) => requireStillFenced(source, entry))
  found.verdict = found.differences.length ? 'different' : found.gaps.length ? 'inconclusive' : 'equal'
  found.durationMs = Math.round(performance.now() - began)
  return found
}

/**
 * Pairs each expected table on the source with the one on the target, and lists the tables and columns that cannot be
 * compared.
 */
async function comparablePairs(source: Database, target: Database, plan: Plan) {
  const [here, there] = await Promise.all([
    readTables(source, plan.sourceSchema),
    readTables(target, plan.targetSchema),
  ])
  const hidden = await readFilteredTables(target, plan.targetSchema, plan.tables)
  const gaps: AfterCommitGap[] = hidden.map((table) => ({ code: 'rows-hidden', table }))
  const pairs: (readonly [Table, Table])[] = []
  for (const name of plan.tables) {
    const [a, b] = [here, there].map((tables) => tables.find((table) => table.name === name))
    if (!a || !b) {
      gaps.push({ code: 'table-gone', table: name })
      continue
    }
    const gone = a.columns.filter((column) => !b.columns.some((other) => other.name === column.name))
    gaps.push(...gone.map((column) => ({ code: 'column-gone' as const, table: name, column: column.name })))
    pairs.push([a, b])
  }
  return { pairs, gaps }
}

function columnGap(table: string, what: string): AfterCommitGap {
  return { code: 'column', table, what }
}

async function comparePairs(
  pairs: readonly (readonly [Table, Table])[],
  asOf: string,
  { sourceSchema, targetSchema }: Plan,
  { sourceUrl, targetUrl, signal }: AfterCommitOptions,
  found: AfterCommit,
): Promise<void> {
  const digest = (some: typeof pairs, time: string) =>
    digestTables(some, {
      sourceUrl,
      targetUrl,
      sourceSchema,
      targetSchema,
      asOf: time,
      concurrency: CONNECTIONS,
      signal,
    })
  const began = performance.now()
  const digests = await digest(pairs, asOf)
  found.tables = digests.length
  found.rows = digests.reduce((sum, { sourceRows }) => sum + sourceRows, 0)
  info(`compared ${plural(digests.length, 'table')} as of the commit in ${seconds(performance.now() - began)}`)
  found.gaps.push(...digests.flatMap(({ name, unproved }) => unproved.map((what) => columnGap(name, what))))
  const apart = digests.filter((each) => total(each) > 0)
  if (!apart.length) return
  // Node clocks can differ, so a version that the stream wrote before the commit can have a slightly later timestamp.
  await sleep(TIMING.clockOffset, undefined, { signal }).catch(() => {})
  throwIfCancelled(signal)
  const names = new Set(apart.map(({ name }) => name))
  const again = await digest(
    pairs.filter(([{ name }]) => names.has(name)),
    plusMaxOffset(asOf),
  )
  for (const first of apart) {
    const second = again.find(({ name }) => name === first.name)
    const both = second && inBoth(first, second)
    if (both) found.differences.push(both)
  }
}

/**
 * Counts the rows that differ in both comparisons, by their kind in the first. If not all keys are known, uses the
 * smaller of the two counts for each kind.
 */
export function inBoth(first: TableDigest, second: TableDigest): TableDifference | undefined {
  const known = [first, second].every((each) => each.rows.length === total(each))
  const keys = new Set(second.rows.map(({ key }) => JSON.stringify(key)))
  const left = first.rows.filter(({ key }) => keys.has(JSON.stringify(key)))
  const count = (kind: RowKind) =>
    known ? left.filter((row) => row.kind === kind).length : Math.min(first[kind], second[kind])
  const difference = {
    table: first.name,
    missing: count('missing'),
    mismatch: count('mismatch'),
    extraneous: count('extraneous'),
  }
  if (total(difference)) return difference
  // Unknown rows may be of another kind now, such as a missing row that the application has written again.
  const both = known ? 0 : Math.min(total(first), total(second))
  return both ? { ...difference, mismatch: both } : undefined
}

function total({ missing, mismatch, extraneous }: Record<RowKind, number>): number {
  return missing + mismatch + extraneous
}

/** Recognises `batch timestamp … must be after replica GC threshold …`, which has no specific SQLSTATE (XXUUU). */
function isPastGone(error: unknown): boolean {
  return sqlState(error) === 'XXUUU' && /GC threshold/.test(messageOf(error))
}
