/** The rolling proof alongside a real stream: what it proves, finds and rejects. */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { createLedger } from '../../src/ledger/ledger.ts'
import { readProof } from '../../src/ledger/proof.ts'
import type { Stream } from '../../src/phases/stream/supervisor.ts'
import { isConnectionLost } from '../../src/runtime/database.ts'
import { parseLsn } from '../../src/source/pgoutput.ts'
import { Bench } from '../contract/standin-helpers.ts'
import { beginProof, endProof, isComplete, isQuiet, type Proof, untilProof } from '../support/proofs.ts'
import { query, Scene } from './stream-helpers.ts'

/** Runs only at night. proof.test.ts and proof-model.test.ts cover most of these cases without a process for each stream. */
const rare = test.runIf(process.env.MOLT_ACTIONS_NIGHTLY)

let bench: Bench
let scene: Scene
let stream: Stream
let proofs: Proof[] = []
beforeAll(async () => {
  bench = await Bench.start()
}, 60_000)
afterAll(() => bench?.stop())
afterEach(async () => {
  await Promise.all(proofs.map(({ session }) => session.close()))
  proofs = []
  await scene?.end()
  const drop = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${scene?.plan.slot}_verify'`
  if (scene) await vi.waitFor(() => query(scene.db.source, drop), 10_000)
})

async function begin(options: Parameters<typeof Scene.create>[1] = {}): Promise<void> {
  scene = await Scene.create(bench, options)
  await createLedger(scene.db.t)
  stream = await scene.stream()
}

async function prove(): Promise<Proof> {
  const { plan, db } = scene
  const proof = await beginProof({ sourceUrl: db.source, targetUrl: db.target, plan, stream })
  proofs.push(proof)
  return proof
}

const until = (proof: Proof, probe: () => unknown, what: string) => untilProof(proof, probe, what, 40_000)
const complete = (proof: Proof) => until(proof, () => isComplete(proof), 'proved')
const quiet = (proof: Proof) => until(proof, () => isQuiet(proof), 'quiet')
const lsn = async () => parseLsn((await scene.db.s.query('SELECT pg_current_wal_insert_lsn()::text AS l')).rows[0].l)
const noSignal = new AbortController().signal

test('proves every row under live load, and proves changed rows again', async () => {
  await begin()
  const load = scene.load()
  const proof = await prove()
  await complete(proof)
  expect([...proof.session.proofs.proved.keys()].sort()).toEqual(['items', 'notes'])
  await sleep(1_000)
  await load.stop()
  await quiet(proof)
  await proof.session.save()
  const rows = (await scene.db.s.query('SELECT count(*)::int AS n FROM items')).rows[0].n
  const state = await readProof(scene.db.t, 'test', '_replicator')
  expect(state).toMatchObject({ open: 0, others: {} })
  expect(state?.tables.items?.proved?.rows).toBeGreaterThan(rows / 3)
})

describe('a lost row', () => {
  rare.each([
    ['changed', "UPDATE items SET label = 'other' WHERE id = 7", '1 different'],
    ['deleted', 'DELETE FROM items WHERE id = 7', '1 missing'],
    ['added', "INSERT INTO items VALUES (100000, 5, 'x')", '1 extraneous'],
  ])('is found if it was %s on the target before the first pass', async (_, sql, found) => {
    await begin()
    await scene.db.t.query(sql)
    const error = await (await prove()).ended
    expect(error).toMatchObject({ code: 'verify.differences', message: expect.stringContaining(`items: ${found}`) })
  })

  rare('is found if the replicator skips it after the first pass', async () => {
    await begin()
    const proof = await prove()
    await complete(proof)
    // The trigger skips the row, as if the replicator had lost one change.
    await scene.db.t.query(`CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
      CREATE TRIGGER skip BEFORE UPDATE OR INSERT ON items FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION skip()`)
    await scene.db.s.query("UPDATE items SET label = 'new' WHERE id IN (6, 7, 8)")
    // Either the trigger makes the proof compare the table in full, or the loss is found first. In both cases, the
    // table is not proved.
    await until(proof, () => proof.failure() || proof.session.proofs.others.has('items'), 'seen').catch((error) =>
      expect(error).toMatchObject({ code: 'verify.differences' }),
    )
  })

  rare('is found by its key during the write pause', async () => {
    await begin()
    const proof = await prove()
    await complete(proof)
    await proof.session.halt()
    const at = await lsn()
    await scene.db.s.query("UPDATE items SET label = 'last' WHERE id = 9")
    await vi.waitFor(async () =>
      expect((await scene.db.t.query('SELECT 1 FROM items WHERE id = 9 AND label = $1', ['last'])).rowCount).toBe(1),
    )
    await stream.finish()
    await scene.db.t.query("UPDATE items SET label = 'wrong' WHERE id = 9")
    const fenced = await lsn()
    expect(fenced).toBeGreaterThan(at)
    await expect(proof.session.compareRest(fenced, noSignal)).rejects.toMatchObject({ code: 'verify.rows-lost' })
    await scene.db.t.query("UPDATE items SET label = 'last' WHERE id = 9")
    const rest = await proof.session.compareRest(fenced, noSignal)
    expect(rest.compared).toBeGreaterThanOrEqual(1)
    expect([...rest.unproved]).toEqual([])
    // Only the log contains this change.
    await scene.db.s.query("UPDATE items SET label = 'late' WHERE id = 10")
    await expect(proof.session.readToDecision()).rejects.toMatchObject({ code: 'fence.write-passed' })
  })
})

rare('compares a table in full if it is rewritten, or if a cascade changes it on the target', async () => {
  await begin()
  const proof = await prove()
  await complete(proof)
  await proof.session.halt()
  await stream.finish()
  const unproved = async () => Object.fromEntries((await proof.session.compareRest(await lsn(), noSignal)).unproved)
  expect(await unproved()).toEqual({})
  await scene.db.s.query('VACUUM FULL items')
  await scene.db.t.query('ALTER TABLE notes ADD FOREIGN KEY (item) REFERENCES items ON DELETE CASCADE NOT VALID')
  expect(await unproved()).toEqual({
    items: expect.stringContaining('rewritten'),
    notes: expect.stringContaining('cascade'),
  })
})

rare('restarts the proof of a table that is rewritten during streaming', async () => {
  await begin()
  const proof = await prove()
  await complete(proof)
  await scene.db.s.query('VACUUM FULL items')
  await until(proof, () => !proof.session.proofs.proved.has('items'), 'voided')
  await complete(proof)
})

rare('another run resumes from the ledger and reads the changes made in the meantime', async () => {
  await begin()
  const first = await prove()
  await complete(first)
  await endProof(first)
  await scene.db.s.query("UPDATE items SET label = 'between' WHERE id = 11")
  await scene.db.s.query("INSERT INTO items VALUES (5000, 50000, 'between')")
  const second = await prove()
  expect([...second.session.proofs.proved.keys()].sort()).toEqual(['items', 'notes'])
  expect(second.session.proofs.passes.size).toBe(0)
  await quiet(second)
  await endProof(second)
  await scene.db.s.query("UPDATE items SET label = 'again' WHERE id = 11")
  await vi.waitFor(async () =>
    expect((await scene.db.t.query("SELECT 1 FROM items WHERE label = 'again'")).rowCount).toBe(1),
  )
  await scene.db.t.query('DELETE FROM items WHERE id = 11')
  expect(await (await prove()).ended).toMatchObject({ code: 'verify.differences' })
})

rare('proves nothing with a slot that was advanced or recreated while it had no reader', async () => {
  await begin()
  const log = `${scene.plan.slot}_verify`
  for (const sql of [
    `SELECT pg_replication_slot_advance('${log}', pg_current_wal_lsn())`,
    `SELECT pg_drop_replication_slot('${log}'); SELECT pg_create_logical_replication_slot('${log}', 'pgoutput')`,
  ]) {
    const first = await prove()
    await complete(first)
    await endProof(first)
    await scene.db.s.query("UPDATE items SET label = label || 'x' WHERE id = 12")
    await vi.waitFor(() => scene.db.s.query(sql), 10_000)
    const second = await prove()
    expect(second.session.proofs.proved.size).toBe(0)
    await complete(second)
    await endProof(second)
  }
})

rare('a killed replicator does not affect the proof', async () => {
  await begin()
  const load = scene.load()
  const proof = await prove()
  await complete(proof)
  for (let kill = 0; kill < 3; kill++) {
    process.kill(stream.pid as number, 'SIGKILL')
    await sleep(700)
  }
  await load.stop()
  await quiet(proof)
  expect(await scene.different()).toEqual([])
})

test('a planned restart of the source does not wait for the reader of the change log', async () => {
  await begin()
  const proof = await prove()
  await complete(proof)
  const began = performance.now()
  await bench.servers.source.shutdown('fast')
  expect(performance.now() - began).toBeLessThan(9_000)
  expect(isConnectionLost(await proof.ended)).toBe(true)
  await bench.servers.source.start()
  scene.db.s = await bench.client(scene.db.source)
  await proof.session.close()
  const again = await prove()
  await scene.db.s.query("UPDATE items SET label = 'after' WHERE id = 3")
  await complete(again)
})

test("finds rows by keys of many types, regardless of the role's settings", async () => {
  const tables = ['typed', 'texts', 'parts', 'floats', 'bare', 'c_keys', 'icu_keys', 'loose_keys']
  await begin({
    tables,
    more: `
    CREATE TABLE typed (u uuid, n numeric(10,2), t timestamptz, d date, b boolean, v jsonb, x float8, PRIMARY KEY (u, n, t, d, b));
    CREATE TABLE texts (a text, b varchar(20), v text, w bytea, PRIMARY KEY (b, a));
    CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000); CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
    CREATE TABLE floats (f float8 PRIMARY KEY, v text);
    CREATE TABLE bare (id int UNIQUE, v text);
    CREATE TABLE c_keys (k text COLLATE "C" PRIMARY KEY, v text);
    CREATE TABLE icu_keys (k text COLLATE "en-US-x-icu" PRIMARY KEY, v text);
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE loose_keys (k text COLLATE loose PRIMARY KEY, v text);`,
  })
  await scene.db.s.query(
    "ALTER ROLE CURRENT_USER SET DateStyle = 'German'; ALTER ROLE CURRENT_USER SET extra_float_digits = 0",
  )
  try {
    const proof = await prove()
    await scene.db.s.query(`
      INSERT INTO typed SELECT gen_random_uuid(), g / 3.0, now() + g * interval '1 s', current_date - g, g % 2 = 0,
        jsonb_build_object('b', g, 'a', 1.50), g / 7.0 FROM generate_series(1, 500) g;
      INSERT INTO texts SELECT E'a\\x1f' || g, CASE WHEN g % 2 = 0 THEN 'Z' ELSE 'ä' END || g, NULLIF(E'\\x1e' || g, E'\\x1e7'), '\\x00ff' FROM generate_series(1, 500) g;
      INSERT INTO parts SELECT g, 'v' FROM generate_series(1, 1500) g;
      INSERT INTO floats SELECT g / 7.0, 'v' FROM generate_series(1, 10) g;
      INSERT INTO c_keys SELECT k || g, 'v' FROM generate_series(1, 50) g, unnest('{a,A,ä,Z,z,_,""}'::text[]) k;
      INSERT INTO icu_keys SELECT * FROM c_keys; INSERT INTO loose_keys VALUES ('a', 'v')`)
    await complete(proof)
    expect([...proof.session.proofs.proved.keys()].sort()).toEqual([
      'c_keys',
      'icu_keys',
      'items',
      'notes',
      'parts',
      'texts',
      'typed',
    ])
    expect([...proof.session.proofs.others.keys()].sort()).toEqual(['bare', 'floats', 'loose_keys'])
    await scene.db.s.query(`
      UPDATE typed SET v = '{"c": 1}' WHERE b; DELETE FROM typed WHERE NOT b AND n < 20;
      UPDATE texts SET v = NULL WHERE b LIKE 'Z%'; DELETE FROM texts WHERE b LIKE 'ä1%';
      UPDATE parts SET v = 'w' WHERE id BETWEEN 990 AND 1010;
      UPDATE icu_keys SET v = 'w' WHERE k < 'b'; DELETE FROM c_keys WHERE k < 'b';`)
    // The stream has already applied this change, so it will not rewrite that row.
    const z100 = async () => (await scene.db.t.query("SELECT v FROM texts WHERE b = 'Z100'")).rows
    await vi.waitFor(async () => expect(await z100()).toEqual([{ v: null }]), 15_000)
    await quiet(proof)
    await scene.db.t.query("UPDATE texts SET v = '' WHERE b = 'Z100'")
    await scene.db.s.query("UPDATE texts SET w = 'x' WHERE b = 'Z102'")
    await quiet(proof)
    await proof.session.close()
    await scene.db.t.query('DELETE FROM molt_actions.proofs')
    expect(await (await prove()).ended).toMatchObject({ message: expect.stringContaining('texts: 1 different') })
  } finally {
    await scene.db.s.query('ALTER ROLE CURRENT_USER RESET ALL')
  }
})

rare('a row whose commit waits for a standby counts as neither proved nor lost', async () => {
  await begin()
  await scene.db.s.query("ALTER ROLE CURRENT_USER SET synchronous_commit = 'local'")
  await stream.close()
  stream = await scene.stream()
  const held = await bench.client(scene.db.source)
  await held.query("SET synchronous_commit = 'on'")
  const hold = async () => {
    await scene.db.s.query("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await scene.db.s.query('SELECT pg_reload_conf()')
    await sleep(200)
  }
  const release = async () => {
    await scene.db.s.query('ALTER SYSTEM RESET synchronous_standby_names')
    await scene.db.s.query('SELECT pg_reload_conf()')
  }
  const seen = (label: string) =>
    vi.waitFor(
      async () => expect((await scene.db.t.query('SELECT 1 FROM items WHERE label = $1', [label])).rowCount).toBe(1),
      15_000,
    )
  try {
    // The row is on the target, not yet visible on the source, and missing from any log that starts after the commit.
    await hold()
    const first = held.query("UPDATE items SET label = 'held' WHERE id = 5")
    await seen('held')
    const opening = prove()
    expect(await Promise.race([opening, sleep(2_000)])).toBeUndefined()
    await release()
    await first
    const proof = await opening
    await complete(proof)
    await quiet(proof)
    // The same with a running log: the log shows the key while the source still shows the old row.
    await hold()
    const second = held.query("UPDATE items SET label = 'held again' WHERE id = 5")
    await seen('held again')
    await sleep(2_000)
    expect(proof.failure()).toBeUndefined()
    expect(proof.session.proofs.dirty.open).toBe(1)
    await release()
    await second
    await quiet(proof)
  } finally {
    await release()
    await scene.db.s.query('ALTER ROLE CURRENT_USER RESET ALL')
  }
})
