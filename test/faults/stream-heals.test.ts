import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { deadLetterName, proveDrain } from '../../src/phases/stream/drain.ts'
import { untilCaughtUp } from '../../src/phases/stream/supervisor.ts'
import { errorCode } from '../../src/runtime/errors.ts'
import { Bench, until } from '../contract/standin-helpers.ts'
import { startProxy } from '../support/proxy.ts'
import { during, red, Scene } from './stream-helpers.ts'

const NIGHTLY = Boolean(process.env.MOLT_ACTIONS_NIGHTLY)
const KILLS = NIGHTLY ? 50 : 5
/** Milliseconds for which the target or the network is down. */
const AWAY = NIGHTLY ? 20_000 : 3_000

let bench: Bench
let scene: Scene
beforeAll(async () => {
  bench = await Bench.start()
})
afterEach(() => scene?.end())
afterAll(() => bench?.stop())

async function streaming(more: Parameters<Scene['stream']>[0] = {}) {
  scene = await Scene.create(bench)
  const load = scene.load()
  const stream = await scene.stream(more)
  await until(() => load.committed > 10)
  return { stream, load }
}

/** Ends the load, proves the drain, and compares both sides row by row. */
async function nothingLost({ stream, load }: Awaited<ReturnType<typeof streaming>>): Promise<void> {
  await during(stream, () => stream.status.lagMs < 500, 60_000)
  await load.stop()
  const proof = await proveDrain(stream, 30_000)
  expect(proof).toMatchObject({ retriesDuring: 0, dialsDuring: 0, restartsDuring: 0, changesAfter: 0, deadLetters: 0 })
  expect(await scene.different()).toEqual([])
}

describe('a stream survives temporary faults', { timeout: 150_000 }, () => {
  it(`loses nothing when the replicator is killed ${KILLS} times at random moments`, { timeout: 600_000 }, async () => {
    const scenery = await streaming({ stuckAfter: 30_000 })
    const { stream } = scenery
    for (let kill = 1; kill <= KILLS; kill++) {
      // Every other kill hits a replicator that is still starting.
      if (kill % 2) await during(stream, () => stream.status.lagMs < 500, 30_000)
      await sleep(Math.random() * 1_500)
      const pid = stream.pid as number
      process.kill(pid, 'SIGKILL')
      await during(stream, () => stream.pid !== pid && stream.status.restarts === kill, 30_000)
    }
    await nothingLost(scenery)
    expect(stream.status.restarts).toBe(KILLS)
  })

  it('recovers from a crash of either server, and loses nothing', async () => {
    const scenery = await streaming({ stuckAfter: 60_000 })
    const { stream } = scenery
    await bench.servers.source.restart('immediate')
    await during(stream, () => stream.status.lagMs < 500, 60_000)
    await bench.servers.target.restart('immediate')
    await during(stream, () => stream.status.lagMs < 500, 60_000)
    expect(stream.status.retries + stream.status.restarts).toBeGreaterThan(0)
    expect(stream.status.interruptions).toBeGreaterThan(0)
    await nothingLost(scenery)
  })

  it('a planned restart of the source does not wait for the replicator, which resumes afterwards', async () => {
    const scenery = await streaming({ stuckAfter: 60_000 })
    const { stream } = scenery
    const { pid } = stream
    const began = performance.now()
    await bench.servers.source.shutdown('fast')
    // The test server forces a shutdown after 10 s.
    expect(performance.now() - began).toBeLessThan(9_000)
    await sleep(500)
    await bench.servers.source.start()
    await during(stream, () => stream.status.lagMs < 500 && stream.pid !== pid, 60_000)
    await nothingLost(scenery)
  })

  it(`reports growing lag while the target is down for ${AWAY / 1000} s, and loses nothing`, async () => {
    const scenery = await streaming({ stuckAfter: 60_000 })
    const { stream } = scenery
    await bench.servers.target.shutdown('immediate')
    const end = performance.now() + AWAY
    await during(stream, () => performance.now() > end, 30_000)
    expect(stream.status.lagMs).toBeGreaterThan(AWAY - 2_000)
    await bench.servers.target.start()
    await during(stream, () => stream.status.lagMs < 500, 60_000)
    await nothingLost(scenery)
    expect(stream.status.retries).toBeGreaterThan(AWAY / 2_000)
  })

  it.each([
    ['silently', 'cut'],
    ['with every connection reset', 'reset'],
  ] as const)(
    `reports growing lag while the network is cut %s for ${AWAY / 1000} s, and loses nothing`,
    async (_, how) => {
      const both = {
        source: await startProxy(bench.servers.source.port),
        target: await startProxy(bench.servers.target.port),
      }
      try {
        scene = await Scene.create(bench)
        const load = scene.load()
        const options = { sourceUrl: both.source.url(scene.db.source), targetUrl: both.target.url(scene.db.target) }
        const stream = await scene.stream({ ...options, stuckAfter: 60_000 })
        await until(() => load.committed > 10)
        for (const proxy of Object.values(both)) proxy.cut()
        if (how === 'reset') for (const proxy of Object.values(both)) proxy.reset()
        const end = performance.now() + AWAY
        await during(stream, () => performance.now() > end, 30_000)
        expect(stream.status.lagMs).toBeGreaterThan(AWAY - 2_000)
        for (const proxy of Object.values(both)) proxy.heal()
        await nothingLost({ stream, load })
        await scene.end()
      } finally {
        await Promise.all(Object.values(both).map((proxy) => proxy.stop()))
      }
    },
  )

  it('fails if the source is down for longer than stuck-after', async () => {
    const { stream } = await streaming({ stuckAfter: 4_000 })
    bench.servers.source.pause()
    try {
      await until(() => stream.status.lagMs > 2_000)
      expect((await red(stream, 10_000)).said).toMatch(/no heartbeat could be written to the source for/)
      await stream.close()
    } finally {
      bench.servers.source.resume()
    }
  })

  it('fails if the replicator freezes and prints nothing', async () => {
    const { stream } = await streaming({ stuckAfter: 3_000 })
    const pid = stream.pid as number
    process.kill(pid, 'SIGSTOP')
    try {
      expect((await red(stream, 15_000)).said).toMatch(/no heartbeat has reached the target .*printed no error/)
    } finally {
      process.kill(pid, 'SIGCONT')
    }
  })

  it.runIf(NIGHTLY)('treats one transaction that takes longer than stuck-after as slow, not stuck', async () => {
    const { stream, load } = await streaming({ stuckAfter: 2_000 })
    // The target takes 6 ms to insert each row of the transaction.
    await scene.db.t.query(`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.006); RETURN NEW; END $$;
      CREATE TRIGGER slow BEFORE INSERT ON notes FOR EACH ROW WHEN (NEW.id > 1000000) EXECUTE FUNCTION slow()`)
    await scene.db.s.query(`INSERT INTO notes SELECT g, 1, 'large' FROM generate_series(1000001, 1001200) g`)
    let longest = 0
    await during(
      stream,
      async () => {
        longest = Math.max(longest, stream.status.lagMs)
        return (await scene.db.t.query('SELECT 1 FROM notes WHERE id = 1001200')).rowCount === 1
      },
      60_000,
    )
    expect(longest).toBeGreaterThan(4_000)
    await nothingLost({ stream, load })
  })

  it('catches up under load, with a lag that the heartbeat shows', async () => {
    const { stream } = await streaming()
    const status = await untilCaughtUp(stream, { maxLag: 1_000, quietPeriod: 1_000, deadline: 30_000 })
    expect(status.lagMs).toBeLessThanOrEqual(1_000)
    expect(stream.startLsn).toMatch(/^\w+\/\w+$/)
  })
})

describe('proving the drain', { timeout: 60_000 }, () => {
  it('fails while a lock on the target blocks the marker', async () => {
    const { stream, load } = await streaming({ stuckAfter: 60_000 })
    await load.stop()
    const blocker = await bench.client(`${scene.db.behind}&application_name=nightly-report`)
    await blocker.query('BEGIN; LOCK TABLE molt_actions_heartbeat IN SHARE MODE')
    await sleep(500)
    await expect(proveDrain(stream, 1_500)).rejects.toThrow(
      /waited longer than .* for the marker [0-9a-f-]{36} to reach the target/,
    )
    await blocker.query('ROLLBACK')
    expect(await proveDrain(stream, 30_000)).toMatchObject({ deadLetterTable: 'replicator_dlq' })
  })

  it('fails if the dead-letter table has rows, whatever its name', async () => {
    const { stream, load } = await streaming({ extraArgs: ['--dlqTableName', 'left_over'] })
    await load.stop()
    await scene.db.t.query('CREATE TABLE left_over (event text); INSERT INTO left_over VALUES (1)')
    await expect(proveDrain(stream, 30_000)).rejects.toThrow(/1 changes went to the dead-letter table left_over/)
    await scene.db.t.query('TRUNCATE left_over')
    await proveDrain(stream, 30_000)
    expect(deadLetterName(['--dlqTableName=shop."Odd"'])).toBe('Odd')
  })

  it('warns if the metrics did not count the marker, because they may miss other changes too', async () => {
    const program = bench.file('mute')
    const own = `const at = process.argv.indexOf('--metricsAddr') + 1
      const [host, port] = process.argv[at].split(':')
      createServer((_, response) => response.end('# in other words')).listen(Number(port), host).unref()
      process.argv[at] = '127.0.0.1:0'`
    writeFileSync(
      `${program}.mjs`,
      `import { createServer } from 'node:http'\n${own}\nawait import('./replicator.mjs')\n`,
    )
    writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${program}.mjs' "$@"\n`, { mode: 0o755 })
    const { stream, load } = await streaming({ program })
    await load.stop()
    const said = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    const proof = await proveDrain(stream, 30_000)
    const warned = said.mock.calls.flat().join('')
    said.mockRestore()
    expect(proof.changesAfter).toBeNull()
    expect(warned).toMatch(/::warning::the replicator's metrics show no changes, although the marker has arrived/)
  })

  it('reports a killed replicator, and the next attempt succeeds', async () => {
    const { stream, load } = await streaming({ stuckAfter: 60_000 })
    await load.stop()
    const blocker = await bench.client(scene.db.behind)
    await blocker.query('BEGIN; LOCK TABLE molt_actions_heartbeat IN SHARE MODE')
    const proof = proveDrain(stream, 30_000).catch((error: Error) => error)
    await sleep(300)
    process.kill(stream.pid as number, 'SIGKILL')
    const error = (await proof) as Error
    expect(errorCode(error)).toBe('drain.replicator-ended')
    expect(error.message).toContain('SIGKILL')
    await blocker.query('ROLLBACK')
    await during(stream, () => stream.status.lagMs < 500, 60_000)
    await proveDrain(stream, 30_000)
  })

  it('restarts with a new marker when the replicator reconnects', async () => {
    const { stream, load } = await streaming({ stuckAfter: 60_000 })
    await load.stop()
    const blocker = await bench.client(scene.db.behind)
    await blocker.query('BEGIN; LOCK TABLE molt_actions_heartbeat IN SHARE MODE')
    const proof = proveDrain(stream, 30_000)
    await sleep(500)
    const { rows } = await scene.db.s.query(
      'SELECT active_pid, pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1',
      [scene.plan.slot],
    )
    await sleep(300)
    await blocker.query('ROLLBACK')
    const { walsender, dialsDuring, restartsDuring } = await proof
    expect(walsender).not.toBe(rows[0].active_pid)
    expect([dialsDuring, restartsDuring]).toEqual([0, 0])
  })
})
