import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type CockroachServer, startCockroach } from '../../rehearsal/cockroach/server.ts'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import {
  type Holder,
  keepingHold,
  noteStream,
  obtainSlot,
  readApproval,
  readStreamNote,
  releaseHold,
  renewHold,
  requestSlot,
  setApproval,
  slotRequest,
  takeHold,
  withdrawRequest,
} from '../../src/ledger/hold.ts'
import { createLedger } from '../../src/ledger/ledger.ts'
import { connect, type Database, Link } from '../../src/runtime/database.ts'
import { startProxy } from '../support/proxy.ts'
import { requireRules } from '../support/servers.ts'

let behind: EmbeddedServer
let server: CockroachServer
let url: string
let a: Database
let b: Database
let id = ''
let count = 0
beforeAll(async () => {
  behind = await startPostgres({ name: 'hold' })
  server = await startCockroach(behind)
  url = server.urlOf('shop')
  a = await connect(url, 'target')
  b = await connect(url, 'target')
  await createLedger(a)
})
beforeEach(() => {
  id = `m${++count}`
})
afterAll(async () => {
  await Promise.all([a, b].map((db) => db?.end()))
  await server?.stop()
  await behind?.stop()
  if (server) requireRules(server)
})

const run = (name: string): Holder => ({
  action: name,
  url: `https://github.com/o/r/actions/runs/${name}`,
  nonce: name,
})
const [first, second, third] = [run('1'), run('2'), run('3')]

it('closes a connection even if the network drops the reply', async () => {
  const proxy = await startProxy(server.port)
  const db = await connect(proxy.url(url), 'target')
  proxy.cut()
  const began = performance.now()
  await db.end()
  expect(performance.now() - began).toBeLessThan(10_000)
  await proxy.stop()
})

describe('the hold of a migration', () => {
  it('belongs to only one run, and reports that run to a second one', async () => {
    await takeHold(a, id, first, 60_000)
    await expect(takeHold(b, id, second, 60_000)).rejects.toMatchObject({
      code: 'hold.taken',
      message: expect.stringMatching(/`1` \(https:\/\/github\.com\/o\/r\/actions\/runs\/1\)/),
    })
    await takeHold(a, id, first, 60_000)
    await releaseHold(b, id, second)
    await expect(takeHold(b, id, second, 60_000)).rejects.toMatchObject({ code: 'hold.taken' })
    await releaseHold(a, id, first)
    await takeHold(b, id, second, 60_000)
    await expect(renewHold(a, id, first, 60_000)).rejects.toMatchObject({
      code: 'hold.lost',
      message: expect.stringContaining('`2`'),
    })
  })

  it('goes to only one of many runs that try at the same time', async () => {
    const links = Array.from({ length: 8 }, () => new Link(url, 'target'))
    const tries = links.map((link, n) => link.use((db) => takeHold(db, id, run(`r${n}`), 60_000)))
    const outcomes = await Promise.allSettled(tries)
    await Promise.all(links.map((link) => link.close()))
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  })

  it("expires by the database's clock unless renewed, and can be renewed until another run takes it", async () => {
    await takeHold(a, id, first, 300)
    await sleep(400)
    await renewHold(a, id, first, 300)
    await sleep(400)
    await takeHold(b, id, second, 60_000)
    await expect(renewHold(a, id, first, 300)).rejects.toMatchObject({ code: 'hold.lost' })
  })

  it('is handed over on request, but not to a third run or back to the first', async () => {
    await takeHold(a, id, first, 60_000)
    expect(await slotRequest(a, id)).toBeUndefined()
    const obtained = obtainSlot(b, id, second, 10_000, 60_000)
    await sleep(300)
    expect(await slotRequest(a, id)).toMatchObject({ ...second, at: expect.any(Date) })
    await expect(requestSlot(a, id, third, 60_000)).rejects.toMatchObject({
      code: 'hold.handover-pending',
      message: expect.stringContaining('`2`'),
    })
    await releaseHold(a, id, first)
    await expect(takeHold(a, id, third, 60_000)).rejects.toMatchObject({
      code: expect.stringMatching(/^hold\.(taken|handover-pending)$/),
      message: expect.stringContaining('`2`'),
    })
    await obtained
    await expect(takeHold(a, id, first, 60_000)).rejects.toMatchObject({
      code: 'hold.taken',
      message: expect.stringContaining('`2`'),
    })
    expect(await slotRequest(a, id)).toBeUndefined()
  })

  it('is awaited no longer than the deadline, after which the request is withdrawn', async () => {
    await takeHold(a, id, first, 60_000)
    await expect(obtainSlot(b, id, second, 1_200, 60_000)).rejects.toMatchObject({
      code: 'hold.handover-timeout',
      message: expect.stringContaining('`1`'),
    })
    expect(await slotRequest(a, id)).toBeUndefined()
    const abort = new AbortController()
    const waiting = obtainSlot(b, id, second, 60_000, 60_000, abort.signal)
    setTimeout(() => abort.abort(), 300)
    await expect(waiting).rejects.toMatchObject({ code: 'cancelled.run' })
    expect(await slotRequest(a, id)).toBeUndefined()
  })

  it('is free once the hold of a killed run has expired', async () => {
    await takeHold(a, id, first, 1_500)
    const began = performance.now()
    await obtainSlot(b, id, second, 10_000, 60_000)
    expect(performance.now() - began).toBeGreaterThan(1_000)
  })

  it('is kept during the work and released afterwards, and its loss is reported', async () => {
    await takeHold(a, id, first, 600)
    let lost: unknown
    const keep = (work: () => Promise<unknown>) =>
      keepingHold(new Link(url, 'target'), id, first, 600, (error) => (lost = error), work)
    await keep(async () => {
      await sleep(1_500)
      await expect(takeHold(b, id, second, 60_000)).rejects.toMatchObject({ code: 'hold.taken' })
    })
    expect(lost).toBeUndefined()
    await takeHold(b, id, second, 60_000)
    await keep(() => sleep(400))
    expect(lost).toMatchObject({ code: 'hold.lost', message: expect.stringContaining('`2`') })
    await expect(takeHold(a, id, first, 600)).rejects.toMatchObject({
      code: 'hold.taken',
      message: expect.stringContaining('`2`'),
    })
  })

  it("stores the approval's outcome and the last stream's note", async () => {
    expect(await readApproval(a, id)).toBeUndefined()
    await setApproval(b, id, 'declined')
    expect(await readApproval(a, id)).toBe('declined')
    await setApproval(b, id, null)
    expect(await readApproval(a, id)).toBeUndefined()
    const note = { stagingSchema: 's', ended: true, confirmedFlushLsn: '0/1', decoded: 3, serverStart: 'x' }
    expect(await readStreamNote(a, id)).toBeUndefined()
    await noteStream(a, id, note)
    expect(await readStreamNote(b, id)).toEqual(note)
  })

  it('adds the missing table to an older ledger', async () => {
    await a.query('DROP TABLE molt_actions.holds')
    await takeHold(a, id, first, 60_000)
    await requestSlot(b, id, second, 60_000)
    await withdrawRequest(b, id, second)
    expect(await slotRequest(a, id)).toBeUndefined()
  })
})
