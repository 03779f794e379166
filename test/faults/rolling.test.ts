/** The rolling proof beside a real stream: what it proves, what it finds, and what it does not believe. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import type { Entry } from '../../src/ledger/ledger.ts'
import { createLedger } from '../../src/ledger/ledger.ts'
import { readProof } from '../../src/ledger/proof.ts'
import { ProofSession } from '../../src/phases/rolling/session.ts'
import type { Stream } from '../../src/phases/stream/supervisor.ts'
import { Bench } from '../contract/standin-helpers.ts'
import { query, Scene } from './stream-helpers.ts'

let bench: Bench
let scene: Scene
let sessions: ProofSession[] = []
beforeAll(async () => {
  bench = await Bench.start()
}, 60_000)
afterAll(() => bench?.stop())
afterEach(async () => {
  await Promise.all(sessions.map((session) => session.close()))
  sessions = []
  await scene?.end()
  if (scene)
    await vi.waitFor(
      () =>
        query(
          scene.db.source,
          `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${scene.plan.slot}_verify'`,
        ),
      10_000,
    )
})

interface Proof {
  session: ProofSession
  ended: Promise<Error | undefined>
}

async function prove(stream: Stream, more: Partial<Parameters<typeof ProofSession.open>[0]> = {}): Promise<Proof> {
  const session = await ProofSession.open({
    sourceUrl: scene.db.source,
    targetUrl: scene.db.target,
    plan: scene.plan,
    signal: new AbortController().signal,
    entry: { id: 'test', plan: scene.plan, facts: { stagingSchema: '_replicator' } } as unknown as Entry,
    stream,
    concurrency: 2,
    maxLag: 2_000,
    walBudget: 2 ** 40,
    ...more,
  })
  sessions.push(session)
  const ended = session.run().then(
    () => undefined,
    (error) => error,
  )
  return { session, ended }
}
async function begin(more = ''): Promise<Stream> {
  scene = await Scene.create(bench, { more })
  await createLedger(scene.db.t)
  return scene.stream()
}
async function complete({ session, ended }: Proof): Promise<void> {
  let failure: Error | undefined
  void ended.then((error) => {
    failure = error
  })
  for (const end = performance.now() + 30_000; ; await sleep(20)) {
    if (failure) throw failure
    const oldest = session.dirty.oldestOpen
    if (session.provedAt !== undefined && (oldest === undefined || oldest > session.provedAt)) return
    if (performance.now() > end) throw new Error(`not proved: ${JSON.stringify(session.state)}`)
  }
}

test('every row is proved under live load, and what changes is proved again', async () => {
  const stream = await begin()
  const load = scene.load()
  const proof = await prove(stream)
  await complete(proof)
  expect([...proof.session.proved.keys()].sort()).toEqual(['items', 'notes'])
  await sleep(3_000)
  await load.stop()
  await vi.waitFor(() => expect(proof.session.dirty.open).toBe(0), { timeout: 20_000, interval: 50 })
  await vi.waitFor(() => expect(proof.session.dirty.size).toBe(0), { timeout: 20_000, interval: 50 })
  await proof.session.save()
  const state = await readProof(scene.db.t, 'test')
  expect(state).toMatchObject({ open: 0, tables: { items: { proved: { rows: expect.any(Number) } } } })
})

test.each([
  ['changed', "UPDATE items SET label = 'other' WHERE id = 7", '1 different'],
  ['deleted', 'DELETE FROM items WHERE id = 7', '1 missing'],
  ['added', "INSERT INTO items VALUES (100000, 5, 'x')", '1 extraneous'],
])('a row %s on the target before the first pass is lost', async (_, sql, found) => {
  const stream = await begin()
  await scene.db.t.query(sql)
  const { ended } = await prove(stream)
  const error = await ended
  expect(error).toMatchObject({ code: 'verify.differences', message: expect.stringContaining(`items: ${found}`) })
})
