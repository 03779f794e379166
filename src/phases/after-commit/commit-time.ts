import { warning } from '@actions/core'
import { advance, type Entry } from '../../ledger/ledger.ts'
import { type Database, isConnectionLost, qualified, sqlState } from '../../runtime/database.ts'
import { messageOf } from '../../runtime/errors.ts'
import { HEARTBEAT } from '../../source/heartbeat.ts'

/** The target's time between the final verification and the application's first write. */
export interface CommitTime {
  /** `<nanoseconds>.<logical>` of the target's hybrid clock, as AS OF SYSTEM TIME takes it. */
  asOf: string
  /** The drain's heartbeat was on the target by then, so everything the stream applied is older. */
  drained: boolean
}

/**
 * Reads the target's clock together with the heartbeat's row: a transaction's time is never earlier than what it reads.
 * Source: cockroachdb/docs, `functions-and-operators.md`, `as-of-system-time.md`.
 * @param beat the drain's heartbeat
 * @returns undefined on a target without readable history
 */
export async function readCommitTime(
  target: Database,
  schema: string,
  beat: number | undefined,
): Promise<CommitTime | undefined> {
  const [row] = await target
    .query(
      `SELECT beat, cluster_logical_timestamp()::TEXT AS now, crdb_internal_mvcc_timestamp::TEXT AS written
         FROM ${qualified(schema, HEARTBEAT)} WHERE id = 1`,
    )
    .then(
      ({ rows }) => rows,
      (error) => {
        if (NOT_COCKROACH.test(sqlState(error) ?? '')) return []
        throw error
      },
    )
  if (!row) return undefined
  return { asOf: later(row.now, row.written), drained: beat !== undefined && Number(row.beat) >= beat }
}

/** PostgreSQL has neither the column nor the function. */
const NOT_COCKROACH = /^(42703|42883)$/

/**
 * Advances a migration to `committed`, and records the target's time. Nothing may write to the target before this, so
 * that every write under a later grant is younger than that time.
 */
export async function advanceToCommitted(target: Database, committing: Entry): Promise<Entry> {
  const { plan, facts } = committing
  const commitTime = await readCommitTime(target, plan.targetSchema, facts.drainBeat).catch((error) => {
    if (isConnectionLost(error)) throw error
    // The migration is committed: `finalize` fails if this is missing.
    warning(`The target's time of the commit could not be read: ${messageOf(error)}`)
    return undefined
  })
  return advance(target, committing, 'committed', commitTime ? { facts: { commitTime } } : {})
}

/** Nanoseconds by which two nodes' clocks may differ: the maximum that CockroachDB supports (`--max-offset`). */
const MAX_OFFSET = 500_000_000n

/** The latest time that can be recorded for a version that was written before `time`. */
export function plusMaxOffset(time: string): string {
  return `${wall(time) + MAX_OFFSET}.0000000000`
}

function later(a: string, b: string): string {
  const [x, y] = [wall(a), wall(b)]
  return y > x || (y === x && logical(b) > logical(a)) ? b : a
}

function wall(time: string): bigint {
  return BigInt(time.split('.')[0] as string)
}

function logical(time: string): string {
  return (time.split('.')[1] ?? '').padEnd(10, '0')
}
