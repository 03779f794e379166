/** A rolling proof in a test: started, awaited and ended. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Entry } from '../../src/ledger/ledger.ts'
import { type ProofOptions, ProofSession } from '../../src/phases/rolling/session.ts'

export interface Proof {
  session: ProofSession
  failure(): Error | undefined
  ended: Promise<Error | undefined>
}

/** What a test sets for its proof; the rest is default. */
type Wanted = Pick<ProofOptions, 'sourceUrl' | 'targetUrl' | 'plan' | 'stream'> & Partial<ProofOptions>

export async function beginProof(wanted: Wanted): Promise<Proof> {
  const session = await ProofSession.open({
    signal: new AbortController().signal,
    entry: { id: 'test', plan: wanted.plan, facts: { stagingSchema: '_replicator' } } as unknown as Entry,
    concurrency: 2,
    maxLag: 2_000,
    walBudget: 2 ** 40,
    ...wanted,
  })
  let failure: Error | undefined
  const ended = session.run().then(
    () => undefined,
    (error) => {
      failure = error
      return error
    },
  )
  return { session, ended, failure: () => failure }
}

/** Waits for a condition while the proof has not failed. */
export async function untilProof(
  { session, failure }: Proof,
  probe: () => unknown,
  what: string,
  ms: number,
): Promise<void> {
  for (const end = performance.now() + ms; !(await probe()); await sleep(10)) {
    const error = failure()
    if (error) throw error
    if (performance.now() > end) throw new Error(`not ${what}: ${JSON.stringify(session.state)}`)
  }
}

/** Every row is compared once, and rows that changed before are compared again. */
export function isComplete({ session }: Proof): boolean {
  const oldest = session.proofs.dirty.oldestOpen
  return session.provedAt !== undefined && (oldest === undefined || oldest > session.provedAt)
}

/** No changed row waits for its comparison, or for the stream to confirm it. */
export function isQuiet({ session }: Proof): boolean {
  return session.proofs.dirty.size === 0
}

/** Ends like a run that is not killed. */
export async function endProof({ session }: Proof): Promise<void> {
  await session.halt()
  await session.save()
  await session.close()
}
