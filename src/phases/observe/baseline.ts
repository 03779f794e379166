import { addEvidence, readEvidence } from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import type { Database } from '../../runtime/database.ts'
import {
  type DatabaseCounters,
  readDatabaseCounters,
  readSourceSessions,
  readStatements,
  type SourceSession,
  type StatementRow,
} from '../../source/activity.ts'
import { STREAM_APPLICATION } from '../../tools/replicator.ts'
import { countersOf, difference, type Statements, sum } from './counters.ts'
import { isDml, statementFingerprint } from './fingerprint.ts'
import { isMissing, type Missing } from './verdict.ts'

/**
 * `application_name` of these actions and their tools. Their sessions and statements do not count as the application's.
 */
export const OWN_APPLICATIONS: readonly string[] = ['molt-actions', STREAM_APPLICATION, 'replicator', 'molt']

const BASELINE = 'observe-baseline'
/** Maximum number of snapshots to read: enough for a load and several cutover attempts. */
const SNAPSHOTS = 20

/** One reading of the source's counters. Statements contain no literal values. */
export interface Snapshot {
  statements: Statements | { missing: Missing }
  database: DatabaseCounters
  /** Null if other users' sessions are hidden. */
  sessions: SourceSession[] | null
}

/** What the application did on the source between the first and the last snapshot. */
export interface Baseline {
  statements: Statements | { missing: Missing }
  /** Undefined if there are fewer than two snapshots. */
  database: DatabaseCounters | undefined
  /** Every client that appears in a snapshot, without duplicates. */
  clients: Pick<SourceSession, 'role' | 'application'>[]
  snapshots: number
  /** Milliseconds between the first and the last snapshot. */
  spanMs: number
}

/** Reads the source's counters. Does not change or reset them. */
export async function takeSnapshot(source: Database, plan: Plan): Promise<Snapshot> {
  const found = await readStatements(source)
  return {
    statements: 'missing' in found ? found : fingerprinted(found),
    database: await readDatabaseCounters(source),
    sessions: (await readSourceSessions(source, plan.sourceSchema, plan.tables, OWN_APPLICATIONS)) ?? null,
  }
}

/** Adds up the rows with the same fingerprint. Leaves out statements that neither read nor write rows. */
export function fingerprinted(rows: readonly StatementRow[]): Statements {
  const found: Statements = {}
  for (const { query, calls, rows: count, meanMs, deviationMs } of rows) {
    const fingerprint = statementFingerprint(query)
    if (!isDml(fingerprint)) continue
    const counters = countersOf(calls, count, meanMs, deviationMs)
    const known = found[fingerprint]
    found[fingerprint] = known ? sum(known, counters) : counters
  }
  return found
}

export async function keepSnapshot(target: Database, migration: string, snapshot: Snapshot): Promise<void> {
  await addEvidence(target, migration, BASELINE, snapshot)
}

/** Computes the baseline from the snapshots in the ledger. */
export async function readBaseline(target: Database, migration: string): Promise<Baseline> {
  const kept = await readEvidence<Snapshot>(target, migration, BASELINE, SNAPSHOTS)
  const [last, first] = [kept[0], kept.at(-1)]
  return {
    ...between(first?.body, kept.length > 1 ? last?.body : undefined),
    clients: clientsOf(kept.map(({ body }) => body)),
    snapshots: kept.length,
    spanMs: first && last ? first.ageMs - last.ageMs : 0,
  }
}

type Half = Partial<Snapshot> | undefined

function between(first: Half, last: Half): Pick<Baseline, 'statements' | 'database'> {
  if (!first?.database) return { statements: { missing: 'no-snapshot' }, database: undefined }
  if (!last?.database) return { statements: { missing: 'one-snapshot' }, database: undefined }
  return {
    statements: statementsBetween(first.statements, last.statements),
    database: {
      commits: last.database.commits - first.database.commits,
      deadlocks: last.database.deadlocks - first.database.deadlocks,
    },
  }
}

/** What a server counted between two readings, or why that is unknown. */
export function statementsBetween(
  first: Snapshot['statements'] | undefined,
  last: Snapshot['statements'] | undefined,
): Snapshot['statements'] {
  if (!last || isMissing(last)) return last ?? { missing: 'no-snapshot' }
  // If pg_stat_statements was installed between the readings, everything it has counted is new.
  return difference(!first || isMissing(first) ? {} : first, last)
}

function clientsOf(snapshots: readonly Partial<Snapshot>[]): Baseline['clients'] {
  const found = new Map<string, Pick<SourceSession, 'role' | 'application'>>()
  for (const { role, application } of snapshots.flatMap(({ sessions }) => sessions ?? []))
    found.set(JSON.stringify([role, application]), { role, application })
  return [...found.values()]
}
