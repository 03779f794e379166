import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { Bench, until } from '../contract/standin-helpers.ts'
import { red, Scene } from './stream-helpers.ts'

let bench: Bench
let scene: Scene
beforeAll(async () => {
  bench = await Bench.start()
})
/** On a busy machine, it takes a while to end a stream whose replicator retries without a pause. */
afterEach(() => scene?.end(), 300_000)
afterAll(() => bench?.stop())

/** Creates two databases under live load, with a healthy stream between them. */
async function streaming(options: Parameters<typeof Scene.create>[1] = {}, more: Parameters<Scene['stream']>[0] = {}) {
  scene = await Scene.create(bench, options)
  const load = scene.load()
  const stream = await scene.stream({ stuckAfter: 20_000, ...more })
  await until(() => load.committed > 10)
  // The start gets more time, for busy machines. From here on, each test waits for the stream to fail.
  stream.options.stuckAfter = STUCK_AFTER
  return { stream, source: scene.db.s, target: scene.db.t }
}

const STUCK_AFTER = 2_000
/** Milliseconds within which the stream must fail. Generous, because the machine may be busy. */
const SOON = 15_000

describe('a stream that cannot continue fails and names the cause:', () => {
  it('a TRUNCATE that the publication does not send, but not a VACUUM FULL', async () => {
    const { stream, source } = await streaming()
    await source.query('VACUUM FULL notes')
    await until(() => stream.observations.length)
    expect(stream.observations).toMatchObject([
      { kind: 'table-rewritten', what: expect.stringContaining('public.notes') },
    ])
    stream.check()
    await source.query('TRUNCATE notes')
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('source.truncated')
    expect(said).toContain('public.notes')
  })

  it('a TRUNCATE that the publication sends', async () => {
    const { stream, source } = await streaming({ truncate: true })
    // The watch detects this too, but the replicator's output must be enough.
    await source.query('BEGIN; TRUNCATE notes; INSERT INTO notes SELECT g, g FROM generate_series(1, 5) g; COMMIT')
    expect((await red(stream, SOON)).code).toBe('source.truncated')
    await until(() =>
      [...stream.diagnoses.keys()].some((words) => /TRUNCATE operation cannot be supported/.test(words)),
    )
    expect(stream.stuck('it has stalled').code).toBe('stream.stuck.truncate')
  })

  it('a column added on the source: immediately with `on-ddl: fail`, otherwise once the stream is stuck', async () => {
    const first = await streaming({}, { watch: { onDdl: 'fail', walBudget: 2 ** 40, onWalBudget: 'fail' } })
    await first.source.query('ALTER TABLE items ADD COLUMN extra text')
    expect((await red(first.stream, SOON)).code).toBe('schema.changed')
    expect(first.stream.observations).toMatchObject([{ kind: 'column-changed' }])
    await scene.end()

    const { stream, source } = await streaming()
    await source.query('ALTER TABLE items ADD COLUMN extra text')
    const { code, after } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.column')
    expect(stream.observations).toMatchObject([{ kind: 'column-changed', what: expect.stringContaining('extra') }])
    expect(after).toBeGreaterThan(STUCK_AFTER * 0.8)
  })

  it('an unchanged TOASTed value', async () => {
    const { stream, source } = await streaming()
    await source.query('UPDATE notes SET item = 7 WHERE id = 3')
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.toast')
    expect(said).toContain('column body of public.notes')
  })

  it('REPLICA IDENTITY FULL', async () => {
    const { stream, source } = await streaming()
    await source.query('ALTER TABLE notes REPLICA IDENTITY FULL; DELETE FROM notes WHERE id = 5')
    expect((await red(stream, SOON)).code).toBe('stream.stuck.identity')
    expect(stream.observations).toMatchObject([
      { kind: 'identity-changed', what: expect.stringContaining('public.notes') },
    ])
  })

  it('swapped unique values', async () => {
    const { stream, source } = await streaming()
    await source.query(`BEGIN; UPDATE items SET code = -1 WHERE id = 150; UPDATE items SET code = 1500 WHERE id = 151;
      UPDATE items SET code = 1510 WHERE id = 150; COMMIT`)
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.unique')
    expect(said).toContain('items_code_key')
    // The error must not contain row values.
    expect(said).not.toMatch(/1500|1510/)
  })

  it('a constraint and a type that only the target has', async () => {
    const { stream, source, target } = await streaming()
    await target.query(
      `ALTER TABLE notes ADD CONSTRAINT short CHECK (length(body) < 100000 AND body <> 'secret value')`,
    )
    await source.query(`INSERT INTO notes VALUES (-1, 1, 'secret value')`)
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.check')
    expect(said).toContain('short')
    expect(said).not.toMatch(/secret/)
    await scene.end()

    const second = await streaming()
    await second.target.query('ALTER TABLE notes ALTER COLUMN item TYPE smallint')
    await second.source.query('INSERT INTO notes VALUES (-2, 100000)')
    const narrow = await red(second.stream, SOON)
    expect(narrow.code).toBe('stream.stuck.type')
    expect(narrow.said).not.toMatch(/100000/)
  })

  it('a deferred trigger on the target that rolls transactions back', async () => {
    const { stream, source, target } = await streaming()
    await target.query(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not balanced'; END $$;
      CREATE CONSTRAINT TRIGGER balance AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
    await source.query('INSERT INTO notes VALUES (-1, 1)')
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.trigger')
    expect(said).toContain('notes.balance')
  })

  it('a publication that was dropped and recreated', async () => {
    const { stream, source } = await streaming()
    const { publication } = scene.plan
    await source.query(`DROP PUBLICATION ${publication}`)
    await source.query(`CREATE PUBLICATION ${publication} FOR TABLE items, notes, molt_actions.molt_actions_heartbeat`)
    // The slot reveals this, unless the check of the publication finds it earlier.
    expect(['publication.dropped', 'publication.changed']).toContain((await red(stream, SOON)).code)
  })

  it('a table removed from the publication, although the stream still looks healthy', async () => {
    const { stream, source } = await streaming()
    await source.query(`ALTER PUBLICATION ${scene.plan.publication} DROP TABLE notes`)
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('publication.changed')
    expect(said).toContain('public.notes')
  })

  it.each([
    ['stops sending DELETE', (p: string) => `ALTER PUBLICATION ${p} SET (publish = 'insert, update')`, 'was altered'],
    [
      'briefly omitted a table',
      (p: string) => `ALTER PUBLICATION ${p} DROP TABLE notes; ALTER PUBLICATION ${p} ADD TABLE notes`,
      'public.notes',
    ],
    [
      'starts to filter rows',
      (p: string) =>
        `ALTER PUBLICATION ${p} SET TABLE items WHERE (id < 0), notes, molt_actions.molt_actions_heartbeat`,
      'public.items',
    ],
  ])('a publication that %s', async (_, sql, named) => {
    const { stream, source } = await streaming()
    await source.query(sql(scene.plan.publication))
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('publication.changed')
    expect(said).toContain(named)
  })

  it('a slot that another process took over', async () => {
    const { stream, source } = await streaming()
    const thief = await bench.client(`${scene.db.source}&replication=database&application_name=thief`)
    for (let attempt = 0; ; attempt++) {
      await source.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
        scene.plan.slot,
      ])
      const refused = thief
        .query(
          `START_REPLICATION SLOT ${scene.plan.slot} LOGICAL 0/0 (proto_version '1', publication_names '${scene.plan.publication}')`,
        )
        .then(
          () => true,
          () => true,
        )
      if (!(await Promise.race([refused, sleep(300).then(() => false)]))) break
      if (attempt > 50) throw new Error('the slot could not be stolen')
    }
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.slot-busy')
    expect(said).toContain('thief, user postgres')
    await thief.end().catch(() => {})
  })

  it('a recreated slot', async () => {
    const { stream, source } = await streaming()
    // Only the number of decoded transactions distinguishes it from another slot with the same name.
    await until(() => (stream.slot?.decoded ?? 0) > 150, 20_000)
    const again = `DO $$ BEGIN
      PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '${scene.plan.slot}';
      FOR i IN 1..400 LOOP
        BEGIN PERFORM pg_drop_replication_slot('${scene.plan.slot}'); EXIT; EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.002); END;
      END LOOP; END $$`
    const dropped = async () =>
      (await source.query('SELECT 1 FROM pg_replication_slots WHERE slot_name = $1', [scene.plan.slot])).rowCount === 0
    while (!(await dropped())) await source.query(again).catch(() => {})
    await scene.createSlot()
    expect(['slot.missing', 'slot.recreated', 'slot.moved']).toContain((await red(stream, SOON)).code)
  })

  it('a slot that was advanced past unread changes', async () => {
    const { stream, source } = await streaming()
    // The replicator cannot write its heartbeat, so it does not reconnect to the slot after it is disconnected.
    const blocker = await bench.client(scene.db.behind)
    await blocker.query('BEGIN; LOCK TABLE molt_actions_heartbeat IN SHARE MODE')
    await sleep(600)
    await source.query('SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1', [
      scene.plan.slot,
    ])
    await sleep(300)
    await source.query('SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())', [scene.plan.slot])
    expect((await red(stream, SOON)).code).toBe('slot.moved')
    await blocker.query('ROLLBACK')
  })

  it('a forged heartbeat on the target, which makes a stopped stream look caught up', async () => {
    const { stream, target } = await streaming()
    // Repeats the update, because the replicator soon overwrites the row with the real heartbeat.
    let over = false
    const ahead = (async () => {
      while (!over) await target.query('UPDATE molt_actions_heartbeat SET beat = 1000000000').then(() => sleep(20))
    })()
    const { said, code } = await red(stream, SOON)
    over = true
    await ahead
    expect(code).toBe('heartbeat.changed')
    expect(said).toContain('1000000000')
  })

  it('a lock on the target and the session that holds it', async () => {
    const { stream } = await streaming({}, { isCockroach: true })
    const blocker = await bench.client(`${scene.db.target}&application_name=nightly-report`)
    await blocker.query('BEGIN')
    await blocker.query('SELECT id FROM items FOR UPDATE')
    const { said, code } = await red(stream, SOON)
    expect(code).toBe('stream.stuck.lock')
    expect(said).toContain('nightly-report')
    await blocker.query('ROLLBACK')
  })

  it('too much WAL: warns at half the budget, then fails, and drops the slot if so configured', async () => {
    const watch = { onDdl: 'warn', walBudget: 96 * 2 ** 20, onWalBudget: 'drop-slot' } as const
    const { stream, source } = await streaming({}, { watch })
    const holder = await bench.client(scene.db.source)
    // Only a transaction that has written holds WAL back. Without one, the slot can advance on a busy machine.
    await holder.query(`BEGIN; SELECT pg_logical_emit_message(true, 'holder', 'x')`)
    // Switching to a new segment is cheap and counts as 16 MiB. Waits until the stream has measured each one.
    const fill = async () => {
      const before = stream.status.walBytes
      await source.query(`SELECT pg_logical_emit_message(true, 'fill', 'x'); SELECT pg_switch_wal()`)
      const isRed = () =>
        red(stream, 1).then(
          () => true,
          () => false,
        )
      await until(async () => stream.status.walBytes > before || (await isRed()), 60_000)
    }
    const half = () => stream.observations.some(({ kind }) => kind === 'wal-budget-half-used')
    while (!half() && stream.status.walBytes < 80 * 2 ** 20) await fill()
    await until(half, 60_000)
    for (let segments = 0; segments < 8 && !(await red(stream, 1).catch(() => undefined)); segments++) await fill()
    expect((await red(stream, 60_000)).code).toBe('slot.wal-budget')
    const left = await source.query('SELECT 1 FROM pg_replication_slots WHERE slot_name = $1', [scene.plan.slot])
    expect(left.rowCount).toBe(0)
    await holder.query('ROLLBACK')
  })
})
