import { join } from 'node:path'
import { info, warning } from '@actions/core'
import { withDatabase } from '../runtime/database.ts'
import { InputError } from '../runtime/errors.ts'
import { number, progress, seconds, workFolder } from '../runtime/progress.ts'
import { readTarget } from '../target/catalog.ts'
import type { Entry } from '../target/ledger.ts'
import { explainTrouble } from '../tools/replicator.ts'
import { Stream } from './stream.ts'

export interface StreamInputs {
  source: string
  target: string
  migration: string
  stuckAfter: number
  progressEvery: number
  replicatorArgs?: string[]
}

/** What the supervision rests on; and a script could drop rows that the proof would not miss. */
const OWNED =
  /^--(sourceConn|targetConn|slotName|publicationName|targetSchema|stagingSchema|metricsAddr|standbyTimeout|logFormat|logDestination|enableParallelApplies|userscript|verbose)(=|$)/

/** Starts the stream of a migration, runs `work` with it, and ends it whatever happens. The slot stays. */
export async function withStream<T>(
  inputs: StreamInputs,
  entry: Entry,
  signal: AbortSignal,
  work: (stream: Stream) => Promise<T>,
): Promise<T> {
  const owned = inputs.replicatorArgs?.find((argument) => OWNED.test(argument))
  if (owned)
    throw new InputError(
      `input \`replicator-args\`: ${owned.split('=')[0]} is set by this action itself, or would break the proof of the drain`,
    )
  const { stagingSchema } = entry.facts
  if (!stagingSchema) throw new Error(`the ledger has no staging schema for migration ${entry.id}`)
  const { database } = await withDatabase(inputs.target, 'target', readTarget)
  const stream = new Stream({
    sourceUrl: inputs.source,
    targetUrl: inputs.target,
    targetDatabase: database,
    plan: entry.plan,
    stagingSchema,
    program: 'replicator',
    logFile: join(workFolder(inputs.migration), 'replicator.log'),
    extraArgs: inputs.replicatorArgs ?? [],
    stuckAfter: inputs.stuckAfter,
    signal,
  })
  await stream.start()
  let before = stream.status
  const ticker = progress(inputs.progressEvery, () => {
    const status = stream.status
    const rate = ((status.changes - before.changes) * 1000) / inputs.progressEvery
    before = status
    return `streaming: lag ${seconds(status.lagMs)}, ${number(status.changes)} changes, ${number(rate)} rows/s, ${number(status.walBytes / 2 ** 10)} KiB of WAL kept`
  })
  try {
    return await work(stream)
  } finally {
    ticker.stop()
    await stream.close()
    reportTroubles(stream)
  }
}

function reportTroubles(stream: Stream): void {
  const { retries, restarts, interruptions } = stream.status
  if (retries + restarts + interruptions === 0) return
  info(
    `the replicator retried ${retries} times and was started again ${restarts} times; our own connections were lost ${interruptions} times`,
  )
  for (const [said, times] of stream.troubles)
    warning(`the replicator said (${times} retries): ${explainTrouble(said)}: ${said.slice(0, 300)}`)
}
