import { warning } from '@actions/core'
import { advance, type Entry } from '../../ledger/ledger.ts'
import { type Database, isConnectionLost, qualified, sqlState } from '../../runtime/database.ts'
import { messageOf } from '../../runtime/errors.ts'
import { HEARTBEAT } from '../../source/heartbeat.ts'

/** A timestamp of the target between the final verification and the application's first write. */
export interface CommitTime {
  /** `<nanoseconds>.<logical>` of the target's hybrid clock, the form that AS OF SYSTEM TIME accepts. */
  asOf: string
  /** Whether the target already had the drain's heartbeat, which means that everything the stream applied is older. */
  drained: boolean
}

/**
 * Reads the target's clock together with the heartbeat's row, because a transaction's timestamp is never earlier than
 * the rows it reads. Source: cockroachdb/docs, `functions-and-operators.md`, `as-of-system-time.md`.
 * @param beat the drain's heartbeat
 * @returns undefined if the target keeps no history
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

/** PostgreSQL lacks the MVCC timestamp column (42703) and the clock function (42883). */
const NOT_COCKROACH = /^(42703|42883)$/

/**
 * Advances a migration to `committed`, and records the target's timestamp. Nothing may write to the target before this,
 * so that every write by the application has a later timestamp.
 */
export async function advanceToCommitted(target: Database, committing: Entry): Promise<Entry> {
  const { plan, facts } = committing
  const commitTime = await readCommitTime(target, plan.targetSchema, facts.drainBeat).catch((error) => {
    if (isConnectionLost(error)) throw error
    // The migration is committed, so only warn. `finalize` fails without this timestamp.
    warning(`The commit timestamp could not be read from the target: ${messageOf(error)}`)
    return undefined
  })
  return advance(target, committing, 'committed', commitTime ? { facts: { commitTime } } : {})
}

/** Maximum difference between two nodes' clocks that CockroachDB supports (`--max-offset`), in nanoseconds. */
const MAX_OFFSET = 500_000_000n

/** The latest timestamp that a version written before `time` can have. */
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
