/**
 * What the rolling proof must find: one prepared pair, a replicator with faults on demand, and a verdict for each case.
 * More cases are in rolling.test.ts, change-log.test.ts, stream-login.test.ts and proof-model.test.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Mutation, Transaction } from '../../rehearsal/molt/apply.ts'
import type { DeferredName } from '../../src/destination/deferral.ts'
import { createStreamLogin, newLoginName, retireStreamLogin } from '../../src/destination/stream-login.ts'
import type { Entry } from '../../src/ledger/ledger.ts'
import { readProof } from '../../src/ledger/proof.ts'
import { RollingProof } from '../../src/phases/rolling/proof.ts'
import type { ProofOptions } from '../../src/phases/rolling/session.ts'
import { SlotGuard } from '../../src/phases/stream/slot-guard.ts'
import { connectForReplication, Link } from '../../src/runtime/database.ts'
import { ChangeLog } from '../../src/source/change-log.ts'
import { HEARTBEAT } from '../../src/source/heartbeat.ts'
import { withTables } from '../support/faulty-replicator.ts'
import type { Proof } from '../support/proofs.ts'
import { ProvingGround, type Verdict } from '../support/proving-ground.ts'

const NIGHT = Boolean(process.env.MOLT_ACTIONS_NIGHTLY)
const rare = test.runIf(NIGHT)
const TABLES = ['items', 'texts', 'moments']
const DDL = `
  CREATE TABLE items (id int PRIMARY KEY, v text, n numeric(12,2), j jsonb, at timestamptz);
  CREATE TABLE texts (a text, b int, v text, PRIMARY KEY (b, a));
  CREATE TABLE moments (t timestamptz PRIMARY KEY, v text);`

/** Returns all cases in nightly runs, otherwise only the first. */
const often = <T>(cases: T[]) => (NIGHT ? cases : cases.slice(0, 1))

let ground: ProvingGround
beforeAll(async () => {
  ground = await ProvingGround.start(DDL, TABLES)
}, 60_000)
afterAll(() => ground?.stop())

const ROWS = `
  INSERT INTO items SELECT g, 'item ' || g, g / 7.0, jsonb_build_object('n', g), '2026-01-01' FROM generate_series(1, 300) g;
  INSERT INTO texts SELECT 'a' || g, g % 7, NULL FROM generate_series(1, 100) g;`
beforeEach(() => ground.begin(ROWS), 60_000)

const CLEAN: Verdict = { red: undefined, full: {}, late: [], truth: [] }
const LOST = { red: expect.stringMatching(/^verify\.(differences|rows-lost)$/), full: {} }
/** Small chunks, so that each table has several. */
const chunks = { chunk: 40 }
const s = (sql: string) => ground.s.query(sql)
const t = (sql: string) => ground.t.query(sql)

async function proved(options: Parameters<ProvingGround['prove']>[0] = chunks): Promise<Proof> {
  const proof = await ground.prove(options)
  await ground.complete(proof)
  return proof
}

/** Makes the replicator apply changes of one table wrongly from now on. */
function err(fault: (mutation: Mutation, tx: Transaction) => Mutation[], table = 'items'): void {
  ground.replicator.alter = (tx) => [withTables(tx, (each, name) => (name === table ? fault(each, tx) : [each]))]
}
const values = ({ values: all }: Mutation, at: number, value: string) => all.map((each, i) => (i === at ? value : each))
const of = (key: string, fault: (mutation: Mutation) => Mutation[]) => (each: Mutation) =>
  each.key[0] === key ? fault(each) : [each]

describe('a replicator that misapplies a changed row', () => {
  const FAULTS: [string, (mutation: Mutation) => Mutation[]][] = [
    ['drops a change', of('10', () => [])],
    ['writes a wrong value to one column', of('10', (each) => [{ ...each, values: values(each, 1, 'wrong') }])],
    ['keeps the old value of one column', of('10', (each) => [{ ...each, values: values(each, 3, '{"n": 10}') }])],
    ['deletes instead', of('10', (each) => [{ ...each, delete: true }])],
    [
      'swaps the values of two rows',
      (each) => {
        const key = each.key[0] === '10' ? '20' : '10'
        return [{ ...each, key: [key], values: values(each, 0, key) }]
      },
    ],
  ]
  const UPDATE = `UPDATE items SET v = v || '!', j = '{"n": 0}', n = n + id WHERE id IN (10, 20)`

  test.each(often(FAULTS))('%s', async (_, fault) => {
    const proof = await proved()
    err(fault)
    await s(UPDATE)
    expect(await ground.decide(proof)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test('swaps two transactions', async () => {
    const proof = await proved()
    let held: Transaction | undefined
    ground.replicator.alter = (tx) => {
      if (!tx.tables.has('items')) return [tx]
      if (!held) {
        held = tx
        return []
      }
      return [tx, held]
    }
    await s("UPDATE items SET v = 'first' WHERE id = 10")
    await s("UPDATE items SET v = 'second' WHERE id = 10")
    expect(await ground.decide(proof)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test('leaves the old row behind when a key is updated', async () => {
    const proof = await proved()
    err((each) => (each.delete ? [] : [each]))
    await s('UPDATE items SET id = 1000 WHERE id = 10')
    expect(await ground.decide(proof)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  rare('applies a change twice, which does no harm', async () => {
    const proof = await proved()
    ground.replicator.alter = (tx) => [tx, tx]
    await s(UPDATE)
    await s('DELETE FROM items WHERE id = 30')
    expect(await ground.decide(proof)).toEqual(CLEAN)
  })

  test(`drops one change in ${NIGHT ? '100,000' : '4,000'}`, { timeout: 600_000 }, async () => {
    const count = NIGHT ? 100_000 : 4_000
    await ground.begin(`${ROWS} INSERT INTO items SELECT g, 'more' FROM generate_series(1000, ${999 + count}) g`)
    const proof = await proved({})
    err((each) => (each.key[0] === '2345' ? [] : [each]))
    await s("UPDATE items SET v = v || '!' WHERE id >= 1000")
    expect(await ground.decide(proof)).toMatchObject({ ...LOST, truth: ['items'] })
  })
})

describe('finds only after the commit', () => {
  test.each(
    often([
      ['changed', "UPDATE items SET v = 'other' WHERE id = 7"],
      ['deleted', 'DELETE FROM items WHERE id = 7'],
      ['added', "INSERT INTO items VALUES (100000, 'x')"],
    ]),
  )('a row that was %s by hand on the target after it was compared', async (_, sql) => {
    const proof = await proved()
    expect(await ground.decide(proof, async () => void (await t(sql)))).toEqual({
      ...CLEAN,
      late: ['items'],
      truth: ['items'],
    })
  })

  test('a row that the replicator changed although its key is not in the log', async () => {
    const proof = await proved()
    err(of('10', (each) => [each, { ...each, key: ['11'], values: values(each, 0, '11') }]))
    await s("UPDATE items SET v = 'x' WHERE id = 10")
    expect(await ground.decide(proof)).toEqual({ ...CLEAN, late: ['items'], truth: ['items'] })
  })

  rare('finds such a row before the commit if `verify-age` requires another pass', async () => {
    const proof = await proved({ ...chunks, age: 1_000 })
    await t("UPDATE items SET v = 'other' WHERE id = 7")
    expect(await proof.ended).toMatchObject({ code: 'verify.differences' })
  })
})

describe('a replicator that restarts', () => {
  /** Makes two changes to a row that are applied and proved but not acknowledged. */
  async function behind(): Promise<Proof> {
    const proof = await proved()
    ground.replicator.holdsBack = true
    await s("UPDATE items SET v = 'one' WHERE id = 10")
    await s("UPDATE items SET v = 'two' WHERE id = 10")
    await ground.arrived()
    await ground.until(proof, () => proof.session.proofs.dirty.open === 0, 'proved again')
    expect(proof.session.proofs.dirty.size).toBeGreaterThan(0)
    return proof
  }
  /** Makes the replicator drop the newer change when it reapplies both. */
  const losesTheNewer = () => err(of('10', (each) => (each.values[1] === 'two' ? [] : [each])))

  rare('passes once a replicator that restarted from an old checkpoint has caught up', async () => {
    const proof = await behind()
    ground.replicator.holdsBack = false
    await ground.replicator.restart()
    expect(await ground.decide(proof)).toEqual(CLEAN)
  })

  test('fails if a restart loses a change that was already proved', async () => {
    const proof = await behind()
    ground.replicator.holdsBack = false
    losesTheNewer()
    await ground.replicator.restart()
    expect(await ground.decide(proof)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  rare('fails if a restart loses a change while no run is proving', async () => {
    const first = await behind()
    await ground.handOver(first)
    ground.replicator.holdsBack = false
    losesTheNewer()
    await ground.replicator.restart()
    expect(await ground.decide(await ground.prove(chunks))).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test.each(often(['after the commit', 'after the takeover']))(
    'a frozen replicator that thaws %s cannot write',
    async (when) => {
      const { target } = ground.servers
      const tables = [...TABLES, HEARTBEAT]
      // Logins need CockroachDB's statements, which PostgreSQL lacks.
      const admin = await ground.client(target.url)
      const leg = () => createStreamLogin(admin, target.url, newLoginName(), 'public', tables)
      await ground.replicator.stop()
      const old = await leg()
      const frozen = await ground.replicate(old.url)
      ground.replicator = frozen
      const first = await proved()
      frozen.freeze()
      await s("UPDATE items SET v = 'stale' WHERE id = 10")
      // By now, the frozen replicator has received the change and holds it back.
      await sleep(300)
      await frozen.cutOff(ground.s)
      await ground.kill(first)
      await retireStreamLogin(admin, target.url, old.role)
      const next = await leg()
      ground.replicator = await ground.replicate(next.url)
      await s("UPDATE items SET v = 'new' WHERE id = 10")
      await ground.arrived()
      const thaw = async () => {
        frozen.thaw()
        await vi.waitFor(() => expect(frozen.errors.length).toBeGreaterThan(0), 10_000)
      }
      if (when === 'after the takeover') await thaw()
      const second = await proved()
      expect(await ground.decide(second)).toEqual(CLEAN)
      await retireStreamLogin(admin, target.url, next.role)
      if (when === 'after the commit') await thaw()
      await t("UPDATE items SET v = 'the application' WHERE id = 10")
      await sleep(200)
      expect((await t('SELECT v FROM items WHERE id = 10')).rows).toEqual([{ v: 'the application' }])
      await frozen.stop()
    },
  )
})

describe('transactions on the source', () => {
  /** After each change, both sides must be equal. If the replicator drops the change, the proof must fail. */
  const CHANGES: [string, string[]][] = [
    [
      'key changes in a chain',
      [
        'BEGIN; UPDATE items SET id = 1000 WHERE id = 10; UPDATE items SET id = 10 WHERE id = 11; UPDATE items SET id = 11 WHERE id = 1000; COMMIT',
      ],
    ],
    [
      'a delete and an insert of the same key',
      ["BEGIN; DELETE FROM items WHERE id = 10; INSERT INTO items VALUES (10, 'again'); COMMIT"],
    ],
    [
      'a rolled-back subtransaction',
      [
        "BEGIN; UPDATE items SET v = 'in' WHERE id = 10; SAVEPOINT a; UPDATE items SET v = 'out'; DELETE FROM texts; ROLLBACK TO a; COMMIT",
      ],
    ],
    [
      'a prepared transaction',
      ["BEGIN; UPDATE items SET v = 'prepared' WHERE id = 10; PREPARE TRANSACTION 'two'", "COMMIT PREPARED 'two'"],
    ],
  ]
  test.each(often(CHANGES))('%s', async (_, statements) => {
    for (const drops of [false, true]) {
      if (drops) await ground.begin(ROWS)
      const proof = await proved()
      if (drops) err((each) => (['10', '11'].includes(each.key[0] as string) ? [] : [each]))
      for (const sql of statements) {
        await s(sql)
        await sleep(100)
        if (!drops) expect(proof.failure()).toBeUndefined()
      }
      expect(await ground.decide(proof)).toMatchObject(drops ? { ...LOST, truth: ['items'] } : CLEAN)
    }
  })

  rare.each(['open', 'prepared'])('the log waits for a transaction that was %s before the log began', async (how) => {
    const other = await ground.client(ground.servers.source.url)
    await other.query("BEGIN; UPDATE items SET v = 'old' WHERE id = 10")
    if (how === 'prepared') await other.query("PREPARE TRANSACTION 'before'")
    const opening = ground.prove(chunks)
    expect(await Promise.race([opening, sleep(800)])).toBeUndefined()
    await other.query(how === 'prepared' ? "COMMIT PREPARED 'before'" : 'COMMIT')
    const proof = await opening
    await ground.complete(proof)
    expect(await ground.decide(proof)).toEqual(CLEAN)
    await other.end()
  })

  rare.each([false, true])(
    'a transaction that began before the log and writes once the log has begun (dropped: %s)',
    async (drops) => {
      const other = await ground.client(ground.servers.source.url)
      await other.query('BEGIN; SELECT count(*) FROM items')
      const proof = await ground.prove(chunks)
      if (drops) err(of('10', () => []))
      await other.query("UPDATE items SET v = 'late' WHERE id = 10")
      await sleep(300)
      await other.query('COMMIT')
      await other.end()
      await ground.complete(proof).catch(() => {})
      expect(await ground.decide(proof)).toMatchObject(drops ? { ...LOST, truth: ['items'] } : CLEAN)
    },
  )

  test(`a transaction of ${NIGHT ? '500,000' : '5,000'} rows right before the fence`, {
    timeout: 600_000,
  }, async () => {
    const count = NIGHT ? 500_000 : 5_000
    await ground.begin(`${ROWS} INSERT INTO items SELECT g, 'more' FROM generate_series(1000, ${999 + count}) g`)
    const proof = await proved({})
    await s("UPDATE items SET v = v || '!' WHERE id >= 1000")
    expect(await ground.decide(proof)).toEqual(CLEAN)
  })
})

describe('an attempt that fails', () => {
  const entry = (deferred: DeferredName[] = []) => ({
    entry: { id: 'test', plan: ground.plan, facts: { stagingSchema: '_replicator', deferred } } as unknown as Entry,
  })

  test('forgets no change of a table that its pause compared in full', async () => {
    const first = await proved()
    err(of('10', () => []))
    await s("UPDATE items SET v = 'lost' WHERE id = 10")
    // A hazard that only this attempt sees.
    const verdict = await ground.decide(first, async () => {
      await t(`CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
               CREATE TRIGGER keep BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION keep()`)
    })
    expect(verdict.full).toEqual({ items: expect.stringContaining('trigger') })
    await t('DROP FUNCTION keep CASCADE')
    await ground.handOver(first)
    await ground.resume()
    const second = await ground.prove(chunks)
    await ground.complete(second).catch(() => {})
    expect(await ground.decide(second)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test('a foreign key that the pause rebuilds is no hazard, and any other is', async () => {
    const rebuild = async () => {
      await t('ALTER TABLE texts ADD CONSTRAINT ours FOREIGN KEY (b) REFERENCES items ON DELETE CASCADE NOT VALID')
    }
    const ours = { kind: 'foreign-key' as const, schema: 'public', table: 'texts', name: 'ours' }
    for (const deferred of often([[ours], []])) {
      await ground.begin(ROWS)
      const proof = await proved({ ...chunks, ...entry(deferred) })
      const verdict = await ground.decide(proof, rebuild)
      await t('ALTER TABLE texts DROP CONSTRAINT ours')
      const full = deferred.length ? {} : { texts: expect.stringContaining('cascade') }
      expect(verdict).toEqual({ ...CLEAN, full })
    }
  })

  test('keeps a doubt about a row that no log shows', async () => {
    await ground.handOver(await proved())
    await t("UPDATE items SET v = 'other' WHERE id = 7")
    const again = await ground.prove({ ...chunks, age: 1 })
    expect(await again.ended).toMatchObject({ code: 'verify.differences' })
    await ground.kill(again)
    expect(await readProof(ground.t, 'test', '_replicator')).toMatchObject({ lost: 1 })
    expect(await readProof(ground.t, 'test', 'another load')).toBeUndefined()
    const last = await ground.prove(chunks)
    await ground.complete(last).catch(() => {})
    expect(await ground.decide(last)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test('is red with its own code if the log ends in the pause', async () => {
    const verdict = await ground.decide(await proved(), async () => {
      await s(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ground_verify'`)
    })
    expect(verdict.red).toBe('verify.inconclusive')
  })

  const rolling = (refused?: string) => {
    const { source, target } = ground.servers
    const options = {
      ...{ sourceUrl: source.url, targetUrl: target.url, plan: ground.plan, concurrency: 1, ...entry() },
      ...{ maxLag: 2_000, walBudget: 2 ** 40, signal: new AbortController().signal },
      stream: ground.replicator as unknown as ProofOptions['stream'],
    }
    return new RollingProof(options, 60_000, refused)
  }

  test('lets a cutover compare in full if nothing can be proved', async () => {
    const proof = rolling('there is no login')
    expect(await proof.halt()).toBeUndefined()
    await proof.close()
  })

  test('does not begin a pause with a session that has ended', async () => {
    const proof = rolling()
    try {
      await proof.untilProved(new AbortController().signal, () => {})
      await s(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ground_verify'`)
      await vi.waitFor(() => expect(proof.proved).toBe(false), { interval: 10, timeout: 10_000 })
      expect(await proof.halt()).toBeUndefined()
    } finally {
      await proof.close()
    }
  })
})

describe('the change log', () => {
  rare('names keys at infinity and before the common era', async () => {
    await ground.begin(
      "INSERT INTO moments VALUES ('-infinity', 'a'), ('0044-03-15 12:00:00.5+00 BC', 'b'), ('2026-01-01', 'c'), ('infinity', 'd')",
    )
    const proof = await proved({ chunk: 1 })
    await s("UPDATE moments SET v = v || '!'")
    expect(await ground.decide(proof)).toEqual(CLEAN)
    expect([...proof.session.proofs.others]).toEqual([])
  })

  rare('is dropped if nothing reads it and it keeps more than the WAL budget', async () => {
    const proof = await proved()
    const link = new Link(ground.servers.source.url, 'source')
    const limits = { onDdl: 'warn', walBudget: 1, onWalBudget: 'fail' } as const
    const guard = new SlotGuard(link, ground.plan, limits)
    const look = async () => {
      await guard.keepToBudget({ ...(await guard.read()), walBytes: 0 }, async () => {})
      return (await s("SELECT FROM pg_replication_slots WHERE slot_name = 'ground_verify'")).rowCount
    }
    expect(await look()).toBe(1)
    await ground.handOver(proof)
    await s('SELECT pg_switch_wal()')
    await vi.waitFor(async () => expect(await look()).toBe(0), 10_000)
    await link.close()
  })

  rare('is not read if another client advances it just before', async () => {
    await ground.handOver(await proved())
    await s("UPDATE items SET v = 'missed' WHERE id = 10")
    const { attach } = ChangeLog
    vi.spyOn(ChangeLog, 'attach').mockImplementationOnce(async (options) => {
      await s("SELECT pg_replication_slot_advance('ground_verify', pg_current_wal_lsn())")
      return attach.call(ChangeLog, options)
    })
    await expect(ground.prove(chunks)).rejects.toThrow('advanced by another client')
    const second = await ground.prove(chunks)
    expect(second.session.proofs.proved.size).toBe(0)
  })

  test('proves nothing after another client has read the log', async () => {
    const first = await proved()
    await s(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ground_verify'`)
    expect(await first.ended).toBeInstanceOf(Error)
    await s("UPDATE items SET v = 'missed' WHERE id = 10")
    await s(
      `SELECT count(*) FROM pg_logical_slot_get_binary_changes('ground_verify', NULL, NULL, 'proto_version', '1', 'publication_names', 'ground')`,
    )
    const second = await ground.prove(chunks)
    expect(second.session.proofs.proved.size).toBe(0)
    await ground.complete(second)
    expect(await ground.decide(second)).toEqual(CLEAN)
  })

  rare('proves nothing after the log was dropped', async () => {
    await ground.handOver(await proved())
    await s("SELECT pg_drop_replication_slot('ground_verify'); UPDATE items SET v = 'missed' WHERE id = 10")
    const second = await ground.prove(chunks)
    expect(second.session.proofs.proved.size).toBe(0)
    await ground.complete(second)
    expect(await ground.decide(second)).toEqual(CLEAN)
  })

  rare('is given up if it keeps more than the WAL budget', async () => {
    const proof = await ground.prove({ ...chunks, walBudget: 1 })
    expect(await proof.ended).toMatchObject({ code: 'slot.wal-budget' })
    expect((await s("SELECT FROM pg_replication_slots WHERE slot_name = 'ground_verify'")).rowCount).toBe(0)
  })

  rare('rejects a log that another session is reading', async () => {
    await ground.handOver(await proved())
    const reader = await connectForReplication(ground.servers.source.url, 'another')
    const reading = reader.query(
      `START_REPLICATION SLOT ground_verify LOGICAL 0/0 (proto_version '1', publication_names 'ground')`,
    )
    reading.catch(() => {})
    await vi.waitFor(async () =>
      expect((await s(`SELECT active FROM pg_replication_slots WHERE slot_name = 'ground_verify'`)).rows).toEqual([
        { active: true },
      ]),
    )
    await expect(ground.prove(chunks)).rejects.toMatchObject({ code: '55006' })
    ;(reader as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy()
    await reader.end().catch(() => {})
  })

  test('proves nothing about a table that was briefly missing from the publication', async () => {
    const proof = await proved()
    await s(
      "ALTER PUBLICATION ground DROP TABLE items; UPDATE items SET v = 'missed' WHERE id = 10; ALTER PUBLICATION ground ADD TABLE items",
    )
    const verdict = await ground.decide(proof)
    expect(verdict).toMatchObject({ red: expect.stringMatching(/^verify\./), truth: ['items'] })
  })

  test('proves nothing about a table with a column that was dropped and added again between two runs', async () => {
    await ground.handOver(await proved())
    // No row is rewritten or logged, and both sides still have the same columns.
    await s('ALTER TABLE items DROP COLUMN at; ALTER TABLE items ADD COLUMN at timestamptz')
    const second = await ground.prove(chunks)
    expect([...second.session.proofs.proved.keys()].sort()).toEqual(['moments', 'texts'])
    await ground.complete(second).catch(() => {})
    expect(await ground.decide(second)).toMatchObject({ ...LOST, truth: ['items'] })
  })

  test('proves nothing about a table whose replica identity was briefly changed', async () => {
    const proof = await proved()
    const identity = (how: string) => s(`ALTER TABLE items REPLICA IDENTITY ${how}`)
    await s('ALTER TABLE items ALTER n SET NOT NULL; CREATE UNIQUE INDEX items_n ON items (n)')
    await identity('USING INDEX items_n')
    // The old key is not sent, so the replicator cannot delete its row.
    await s('UPDATE items SET id = 1000 WHERE id = 10')
    await identity('DEFAULT')
    expect(await ground.decide(proof)).toMatchObject({ red: expect.stringMatching(/^verify\./), truth: ['items'] })
    await s('DROP INDEX items_n; ALTER TABLE items ALTER n DROP NOT NULL')
  })
})

describe('an interrupted proof', () => {
  const pass = ({ session }: Proof) => session.proofs.passes.get('items')
  const midway = async (): Promise<Proof> => {
    const proof = await ground.prove({ chunk: 20, rate: 200, concurrency: 1 })
    await ground.until(proof, () => (pass(proof)?.progress.rows ?? 0) >= 60, 'under way')
    return proof
  }

  test.each(often([true, false]))('resumes a first pass that ended partway (a change lost: %s)', async (drops) => {
    const first = await midway()
    await ground.handOver(first)
    if (drops) err(of('10', () => []))
    await s("UPDATE items SET v = 'between' WHERE id IN (10, 250)")
    const second = await ground.prove(chunks)
    expect(pass(second)?.progress.rows).toBeGreaterThanOrEqual(60)
    await ground.complete(second).catch(() => {})
    expect(second.session.compared.rows).toBeLessThan(400 - 60)
    expect(await ground.decide(second)).toMatchObject(drops ? { ...LOST, truth: ['items'] } : CLEAN)
  })

  rare.each([
    [250, 'not yet compared', { ...LOST, truth: ['items'] }],
    [5, 'already compared', { ...CLEAN, late: ['items'], truth: ['items'] }],
  ])('finds that row %i was changed on the target in the middle of the first pass, %s', async (id, _, verdict) => {
    const proof = await midway()
    await t(`UPDATE items SET v = 'other' WHERE id = ${id}`)
    await ground.complete(proof).catch(() => {})
    expect(await ground.decide(proof)).toMatchObject(verdict)
  })

  rare.each(['before it is saved', 'between the ledger and the log'])(
    'loses no progress when it is killed %s',
    async (when) => {
      const first = await proved()
      await first.session.save()
      err(of('10', () => []))
      await s("UPDATE items SET v = 'lost' WHERE id = 10")
      await ground.arrived()
      if (when !== 'before it is saved') {
        await s(`SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ground_verify'`)
        await first.session.save().catch(() => {})
      }
      await ground.kill(first)
      expect(await ground.decide(await ground.prove(chunks))).toMatchObject({ ...LOST, truth: ['items'] })
    },
  )
})

describe('the source', () => {
  const again = async () => {
    ground.s = await ground.client(ground.servers.source.url)
    await ground.replicator.restart()
  }

  rare.each([false, true])(
    'rereads changes that were not on disk before a crash (a change lost: %s)',
    async (drops) => {
      const first = await proved()
      if (drops) err(of('10', () => []))
      await s("UPDATE items SET v = 'before' WHERE id = 10")
      await ground.servers.source.kill()
      expect(await first.ended).toBeInstanceOf(Error)
      await first.session.close()
      await ground.servers.source.start()
      await again()
      const second = await ground.prove(chunks)
      const verdict = await ground.decide(second)
      // If the stream's slot moved back to before the proof, nothing counts as proved, and every row is compared in full.
      expect(verdict).toMatchObject({ late: drops ? ['items'] : [], truth: drops ? ['items'] : [] })
      if (drops) expect(verdict.red).toMatch(/^verify\./)
      else expect(verdict.red).toBeUndefined()
    },
  )

  rare('proves nothing on another timeline after a failover', async () => {
    await ground.handOver(await proved())
    await ground.servers.source.failOver()
    await again()
    const second = await ground.prove(chunks)
    expect(second.session.proofs.proved.size).toBe(0)
    await ground.complete(second)
    expect(await ground.decide(second)).toEqual(CLEAN)
  })
})
