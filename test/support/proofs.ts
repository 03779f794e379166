/** Starts, awaits and ends a rolling proof in a test. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Entry } from '../../src/ledger/ledger.ts'
import { type ProofOptions, ProofSession } from '../../src/phases/rolling/session.ts'

export interface Proof {
  session: ProofSession
  failure(): Error | undefined
  ended: Promise<Error | undefined>
}

/** Options that a test must set. All others have defaults. */
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

/** Waits for a condition. Throws if the proof fails first. */
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

/** Whether every row was compared once, and every row that changed before was compared again. */
export function isComplete({ session }: Proof): boolean {
  const oldest = session.proofs.dirty.oldestOpen
  return session.provedAt !== undefined && (oldest === undefined || oldest > session.provedAt)
}

/** Whether every changed row has been compared and confirmed by the stream. */
export function isQuiet({ session }: Proof): boolean {
  return session.proofs.dirty.size === 0
}

/** Ends the proof in an orderly way, unlike a killed run. */
export async function endProof({ session }: Proof): Promise<void> {
  await session.halt()
  await session.save()
  await session.close()
}
