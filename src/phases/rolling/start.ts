import type { Entry } from '../../ledger/ledger.ts'
import type { Stream } from '../stream/supervisor.ts'
import { RollingProof } from './proof.ts'

export interface ProofInputs {
  source: string
  target: string
  maxLag: number
  walBudget: number
  progressEvery: number
  verifyRate?: number
}

/** Number of chunks compared in parallel. Low, because the stream has priority. */
const CONCURRENCY = 2

/**
 * Starts or continues the rolling proof of a migration, in parallel with its stream.
 * @param age milliseconds after which a comparison is repeated
 */
export function startProof(
  inputs: ProofInputs,
  entry: Entry,
  stream: Stream,
  signal: AbortSignal,
  age?: number,
): RollingProof {
  const { source: sourceUrl, target: targetUrl, maxLag, walBudget, verifyRate } = inputs
  const proof = new RollingProof(
    {
      sourceUrl,
      targetUrl,
      plan: entry.plan,
      signal,
      entry,
      stream,
      maxLag,
      walBudget,
      concurrency: CONCURRENCY,
      ...(verifyRate && { rate: verifyRate }),
      ...(age && { age }),
    },
    inputs.progressEvery,
    // Without its own login, a frozen replicator from an earlier run could wake up and overwrite proved rows with old
    // values.
    stream.options.login ? undefined : 'the stream has no login of its own on the target',
  )
  stream.options.keysOpen = () => (proof.reason === undefined ? proof.open : undefined)
  return proof
}
