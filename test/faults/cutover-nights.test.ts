import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { SHOP_TABLES } from '../../rehearsal/shop/shop.ts'
import { busyFactor, type Rehearsal, requireSuccess, startRehearsal, words } from '../support/migration.ts'
import { startProxy, type TcpProxy } from '../support/proxy.ts'
import { stoppedChild } from '../support/stopped.ts'

/* Repeats whole migrations, and cuts the network during the pause. Each test takes minutes, so they run nightly. */

let rehearsal: Rehearsal
let proxies: { source?: TcpProxy; target?: TcpProxy } = {}
afterEach(async () => {
  await rehearsal?.stop()
  await Promise.all(Object.values(proxies).map((proxy) => proxy?.stop()))
  proxies = {}
})

/** Returns the tables whose rows differ, according to each server's hash of all rows. */
async function different(): Promise<string[]> {
  const hash = async (side: 'source' | 'target', table: string) =>
    (
      await rehearsal.query(
        side,
        `SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(to_jsonb(t)::text), '' ORDER BY md5(to_jsonb(t)::text))), '') AS hash FROM "${table}" t`,
      )
    )[0]?.hash
  const found: string[] = []
  for (const table of SHOP_TABLES)
    if ((await hash('source', table)) !== (await hash('target', table))) found.push(table)
  return found
}

const RUNS = 20
test(`${RUNS} migrations under load all succeed, from the empty target to the switch`, {
  timeout: 3_600_000,
}, async () => {
  const pauses: number[] = []
  for (let run = 1; run <= RUNS; run++) {
    rehearsal = await startRehearsal({ rows: 1000, rate: 60 })
    await rehearsal.bringToCaughtUp()
    const result = await rehearsal.run('cutover', {
      ...{ decision: 'commit', 'quiet-period': '300ms', 'switch-command': '["true"]' },
    })
    requireSuccess(`cutover ${run}`, result)
    expect(result.outputs).toMatchObject({ verdict: 'go', phase: 'switched' })
    await rehearsal.load.stop()
    expect(await different(), `run ${run}`).toEqual([])
    pauses.push(Number(result.outputs['pause-ms']) - JSON.parse(result.outputs['pause-parts'] as string).verify)
    await rehearsal.stop()
  }
  console.log(`write pauses without the verify, in ms: ${pauses.join(', ')}`)
  pauses.sort((a, b) => a - b)
  expect(pauses[RUNS / 2], pauses.join(', ')).toBeLessThan(busyFactor() * 1_000)
})

describe('the network is cut during the pause', { timeout: 400_000 }, () => {
  const LEASE = 5_000
  const CUTOVER = { decision: 'commit', 'quiet-period': '300ms', lease: `${LEASE}ms`, 'switch-command': '["true"]' }

  async function throughProxies() {
    rehearsal = await startRehearsal({ rows: 1000, rate: 30 })
    const { source, target } = rehearsal.pair
    proxies = { source: await startProxy(source.port), target: await startProxy(target.port) }
    await rehearsal.bringToCaughtUp()
    const [from, to] = [proxies.source as TcpProxy, proxies.target as TcpProxy]
    return { inputs: { ...CUTOVER, source: from.url(source.url), target: to.url(target.url) }, from, to }
  }
  const write = () =>
    rehearsal.query('source', 'UPDATE categories SET name = name WHERE id = 1').then(
      () => true,
      () => false,
    )
  async function untilWritable(): Promise<number> {
    const began = performance.now()
    while (!(await write())) await sleep(100)
    return performance.now() - began
  }

  test.each(['target', 'source'] as const)(
    'silently to the %s: the run fails, writes resume within the lease, and a later run succeeds',
    async (side) => {
      const { inputs, from, to } = await throughProxies()
      const running = rehearsal.run(
        'cutover',
        { ...inputs, 'max-pause': '8s', 'first-verify': 'none' },
        { env: { MOLT_ACTIONS_STOP_AT: 'armed' } },
      )
      const pid = await stoppedChild(running)
      const proxy = side === 'target' ? to : from
      proxy.cut()
      process.kill(pid, 'SIGCONT')
      // Writes resume after `max-pause` if the source is reachable, otherwise when the lease expires.
      expect(await untilWritable()).toBeLessThan(LEASE + 8_000)
      await sleep(5_000)
      proxy.heal()
      const result = await running
      expect(result.conclusion, words(result)).toBe('failure')
      expect(await write()).toBe(true)
      const again = await rehearsal.run('cutover', inputs)
      requireSuccess('cutover', again)
      expect(await write()).toBe(false)
      await rehearsal.load.stop()
      expect(await different()).toEqual([])
    },
  )

  test('to both sides right after the decision: the source accepts no more writes, and a second run rolls forward', async () => {
    const { inputs, from, to } = await throughProxies()
    const running = rehearsal.run(
      'cutover',
      { ...inputs, 'first-verify': 'none' },
      { env: { MOLT_ACTIONS_STOP_AT: 'permanent on the source' } },
    )
    const pid = await stoppedChild(running)
    for (const proxy of [from, to]) {
      proxy.cut()
      proxy.reset()
    }
    process.kill(pid, 'SIGCONT')
    await sleep(LEASE + 3_000)
    expect(await write()).toBe(false)
    for (const proxy of [from, to]) proxy.heal()
    expect((await running).conclusion).toBe('failure')
    const again = await rehearsal.run('cutover', inputs)
    requireSuccess('cutover', again)
    expect(again.outputs.phase).toBe('switched')
    expect(await write()).toBe(false)
    await rehearsal.load.stop()
    expect(await different()).toEqual([])
  })
})
