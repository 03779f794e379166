/**
 * A random workload, a replicator with random faults, and random kills: the proof's verdict must match reality. A seed
 * that fails is printed. `MOLT_ACTIONS_SEED=<seed>` runs only that one, `MOLT_ACTIONS_SEEDS=<first>-<last>` a range.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import type pg from 'pg'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { Mutation, Transaction } from '../../rehearsal/molt/apply.ts'
import { DirtyKeys } from '../../src/phases/rolling/dirty-keys.ts'
import { withTables } from '../support/faulty-replicator.ts'
import { ofPart } from '../support/part.ts'
import type { Proof } from '../support/proofs.ts'
import { ProvingGround } from '../support/proving-ground.ts'

const { MOLT_ACTIONS_SEED: one, MOLT_ACTIONS_SEEDS: many, MOLT_ACTIONS_NIGHTLY: night } = process.env
const [first = 1, last = 1] = (many ?? (night ? '1-300' : '1-4')).split('-').map(Number)
const SEEDS = one ? [Number(one)] : ofPart(Array.from({ length: last - first + 1 }, (_, i) => first + i))

const KEYS = 60
const DDL = `
  CREATE TABLE items (id int PRIMARY KEY, v text, n numeric(12,2), j jsonb);
  CREATE TABLE texts (a text PRIMARY KEY, v text);
  CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
  CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (30); CREATE TABLE parts_2 PARTITION OF parts DEFAULT;`
const TABLES = ['items', 'texts', 'parts'] as const
type Table = (typeof TABLES)[number]
const ROWS = `
  INSERT INTO items SELECT g, 'i' || g, g / 3.0, jsonb_build_object('bb', g, 'a', 1) FROM generate_series(1, ${KEYS}, 2) g;
  INSERT INTO texts SELECT 'k' || g, 't' || g FROM generate_series(1, ${KEYS}, 2) g;
  INSERT INTO parts SELECT g, 'p' || g FROM generate_series(1, ${KEYS}, 2) g;`

const keyName = (table: Table) => (table === 'texts' ? 'a' : 'id')
const keyOf = (table: Table, n: number) => (table === 'texts' ? `'k${n}'` : String(n))

/** One statement on a row. */
interface Write {
  table: Table
  how: 'put' | 'delete' | 'move' | 'again'
  key: number
  other: number
  value: number
}

type Fault = 'drop' | 'wrong' | 'delete' | 'stale' | 'other key' | 'twice'

type Step =
  | { do: 'commit' | 'roll back' | 'subtransaction' | 'prepare'; writes: Write[] }
  | { do: 'begin' | 'end'; writes: Write[] }
  /** The replicator misapplies a change. */
  | { do: 'err'; fault: Fault; skip: number }
  /** An administrator changes the target. */
  | { do: 'tamper'; write: Write }
  | { do: 'hold back' | 'restart' | 'hand over' | 'kill' | 'kill while saving' | 'rewrite' | 'crash of the log' }
  | { do: 'wait'; ms: number }

const write: fc.Arbitrary<Write> = fc.record({
  table: fc.constantFrom(...TABLES),
  how: fc.constantFrom('put', 'put', 'put', 'delete', 'move', 'again'),
  key: fc.integer({ min: 1, max: KEYS }),
  other: fc.integer({ min: 1, max: KEYS }),
  value: fc.nat(999),
})
const writes = fc.array(write, { minLength: 1, maxLength: 6 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ do: fc.constant('commit' as const), writes }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'roll back' as const,
        'subtransaction' as const,
        'prepare' as const,
        'begin' as const,
        'end' as const,
      ),
      writes,
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constantFrom(
        'hold back' as const,
        'restart' as const,
        'hand over' as const,
        'kill' as const,
        'kill while saving' as const,
        'rewrite' as const,
        'crash of the log' as const,
      ),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.nat(150) }) },
)
const FAULTS: Fault[] = ['drop', 'wrong', 'delete', 'stale', 'other key', 'twice']
const corruption: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('err' as const), fault: fc.constantFrom(...FAULTS), skip: fc.nat(2) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('tamper' as const), write }) },
)
const often = { steps: fc.array(step, { minLength: 12, maxLength: 30 }) }
/** Small budgets and chunks, and those of a real migration. */
const sizes = { budget: fc.constantFrom(8, 40, 1_000_000), chunk: fc.constantFrom(5, 11, 10_000) }
/** Whether the first pass is finished when the run starts. */
const early = fc.boolean()
/** Corruptions after every row has been proved and saved. From then on, only the log can reveal a wrong row. */
const late = fc.record({
  fault: fc.constantFrom<Fault>('drop', 'wrong', 'delete'),
  writes,
  after: fc.array(
    fc.oneof(
      fc.record({ do: fc.constantFrom('hand over' as const, 'kill' as const, 'restart' as const) }),
      fc.record({ do: fc.constant('wait' as const), ms: fc.nat(150) }),
    ),
    { maxLength: 2 },
  ),
})
const none = fc.constant([])
/** Runs without corruption, which must succeed. */
const calm = fc.record({ ...often, ...sizes, early, corruptions: none, late: none })
const corrupted = fc.record({
  ...often,
  ...sizes,
  early,
  corruptions: fc.array(fc.record({ at: fc.nat(29), step: corruption }), { minLength: 1, maxLength: 3 }),
  late: none,
})
const corruptedLate = fc.record({
  ...sizes,
  budget: fc.constantFrom(40, 1_000_000),
  early: fc.constant(true),
  steps: fc.array(step, { maxLength: 8 }),
  corruptions: none,
  late: fc.array(late, { minLength: 1, maxLength: 3 }),
})
const run = fc.oneof(
  { weight: 4, arbitrary: calm },
  { weight: 3, arbitrary: corrupted },
  { weight: 3, arbitrary: corruptedLate },
)
type Run = typeof run extends fc.Arbitrary<infer T> ? T : never

let ground: ProvingGround
beforeAll(async () => {
  ground = await ProvingGround.start(DDL, TABLES)
}, 60_000)
afterAll(() => ground?.stop())

function statement({ table, how, key, other, value }: Write): string {
  const [name, k] = [keyName(table), keyOf(table, key)]
  const put = `INSERT INTO ${table} (${name}, v) VALUES (${k}, 'v${value}') ON CONFLICT (${name}) DO UPDATE SET v = excluded.v`
  if (how === 'put') return put
  const gone = `DELETE FROM ${table} WHERE ${name} = ${k}`
  if (how === 'delete') return gone
  if (how === 'again') return `${gone}; ${put}`
  const to = keyOf(table, other)
  return `UPDATE ${table} SET ${name} = ${to} WHERE ${name} = ${k} AND NOT EXISTS (SELECT FROM ${table} WHERE ${name} = ${to})`
}

/** One run of the model. Tracks separately what can be found only after the commit. */
class World {
  readonly #options: { budget: number; chunk: number }
  /** Rows written on the target without a change on the source, and unchanged on the source since then. */
  readonly unseen = new Set<string>()
  corrupted = 0
  #proof!: Proof
  #open: pg.Client | undefined
  readonly #applied: Transaction[] = []
  #fault: { fault: Fault; skip: number } | undefined

  constructor(options: { budget: number; chunk: number }) {
    this.#options = options
  }

  async begin(): Promise<void> {
    await ground.begin(ROWS)
    ground.replicator.alter = (tx) => this.#apply(tx)
    this.#proof = await ground.prove(this.#options)
  }

  get failure(): Error | undefined {
    return this.#proof.failure()
  }

  /** Marks each changed row as visible in the log, even if an earlier fault had changed it unseen. */
  #apply(tx: Transaction): Transaction[] {
    if (![...tx.tables.keys()].some((name) => TABLES.includes(name as Table))) return [tx]
    for (const [table, mutations] of tx.tables)
      for (const { key } of mutations) this.unseen.delete(`${table} ${key.join()}`)
    const fault = this.#fault
    if (!fault || fault.skip-- > 0) {
      this.#applied.push(tx)
      return [tx]
    }
    this.#fault = undefined
    if (fault.fault === 'twice') return [tx, tx]
    this.corrupted++
    const before = this.#applied[Math.max(0, this.#applied.length - 3)]
    if (fault.fault === 'stale' && before) {
      for (const [table, mutations] of before.tables)
        for (const { key } of mutations)
          if (!tx.tables.get(table)?.some((each) => each.key.join() === key.join()))
            this.unseen.add(`${table} ${key.join()}`)
      return [tx, before]
    }
    let done = false
    return [
      withTables(tx, (each, table) => {
        if (done || !TABLES.includes(table as Table)) return [each]
        done = true
        return this.#err(fault.fault, each, table)
      }),
    ]
  }

  #err(fault: Fault, each: Mutation, table: string): Mutation[] {
    if (fault === 'drop') return []
    if (fault === 'delete') return [{ ...each, delete: !each.delete, values: each.delete ? wrong(each) : each.values }]
    if (fault === 'other key' && !each.delete) {
      const key = table === 'texts' ? 'k7' : '7'
      this.unseen.add(`${table} ${key}`)
      return [each, { ...each, key: [key], values: each.values.map((value, i) => (i ? value : key)) }]
    }
    return [{ ...each, values: wrong(each) }]
  }

  async take(step: Step): Promise<void> {
    if ('writes' in step) await this.#write(step.do, step.writes.map(statement))
    else if (step.do === 'err') this.#fault = { fault: step.fault, skip: step.skip }
    else if (step.do === 'tamper') {
      this.corrupted++
      const { table, key } = step.write
      this.unseen.add(`${table} ${table === 'texts' ? `k${key}` : key}`)
      await ground.t.query(statement({ ...step.write, how: step.write.how === 'delete' ? 'delete' : 'put' }))
    } else if (step.do === 'wait') await sleep(step.ms)
    else if (step.do === 'hold back') ground.replicator.holdsBack = !ground.replicator.holdsBack
    else if (step.do === 'restart') await ground.replicator.restart()
    else if (step.do === 'rewrite') {
      await this.#endOpen()
      await ground.s.query('VACUUM FULL items')
    } else await this.#endProof(step.do)
  }

  async #write(how: string, statements: string[]): Promise<void> {
    const sql = statements.join('; ')
    if (how === 'commit') await ground.s.query(`BEGIN; ${sql}; COMMIT`)
    else if (how === 'roll back') await ground.s.query(`BEGIN; ${sql}; ROLLBACK`)
    else if (how === 'subtransaction')
      await ground.s.query(`BEGIN; ${statements[0]}; SAVEPOINT a; ${sql}; ROLLBACK TO a; COMMIT`)
    else if (how === 'prepare') {
      await ground.s.query(`BEGIN; ${sql}; PREPARE TRANSACTION 'p'`)
      await sleep(60)
      await ground.s.query("COMMIT PREPARED 'p'")
    } else if (how === 'begin' && !this.#open) {
      this.#open = await ground.client(ground.servers.source.url)
      // No other transaction writes these keys. Otherwise the transactions would wait for each other.
      await this.#open.query(
        `BEGIN; INSERT INTO items VALUES (${1_000 + statements.length}, 'o') ON CONFLICT (id) DO UPDATE SET v = items.v || 'o'`,
      )
    } else if (how === 'end') await this.#endOpen()
  }

  async #endOpen(): Promise<void> {
    await this.#open?.query('COMMIT')
    await this.#open?.end()
    this.#open = undefined
  }

  async #endProof(how: string): Promise<void> {
    if (this.failure) return
    if (how === 'hand over') await ground.handOver(this.#proof)
    else if (how !== 'kill') {
      await ground.s.query(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'ground_verify'",
      )
      if (how === 'kill while saving') await this.#proof.session.save().catch(() => {})
    }
    await ground.kill(this.#proof)
    // A slot cannot be created until all older transactions have ended.
    await this.#endOpen()
    if (!isLoss(this.failure)) this.#proof = await ground.prove(this.#options)
  }

  /** Corrupts a change that only the log can reveal, then restarts the proof from the ledger. */
  async corruptLate({ fault, writes, after }: Run['late'][number]): Promise<void> {
    if (isLoss(this.failure)) return
    await this.#endOpen()
    ground.replicator.holdsBack = false
    await this.prove()
    await ground.arrived()
    if (this.failure) return
    await this.#proof.session.save()
    this.#fault = { fault, skip: 0 }
    await this.#write('commit', writes.map(statement))
    await ground.arrived()
    for (const each of after) await this.take(each)
  }

  async decide() {
    await this.#endOpen()
    ground.replicator.holdsBack = false
    if (this.failure && !isLoss(this.failure)) {
      await ground.kill(this.#proof)
      this.#proof = await ground.prove(this.#options)
    }
    await this.prove()
    return ground.decide(this.#proof)
  }

  /** Waits until every row has been compared once. If the replicator prevents that, the tables are compared in full. */
  async prove(): Promise<void> {
    await ground.complete(this.#proof, 10_000).catch(() => {})
  }
}

const isLoss = (error: unknown) => (error as { code?: string } | undefined)?.code === 'verify.differences'

function wrong({ values }: Mutation): Mutation['values'] {
  return values.map((value, i) => (i === 1 ? `${String(value)}?` : value))
}

/** Rows that differ, as `<table> <key>`. */
async function differing(): Promise<string[]> {
  const found: string[] = []
  for (const table of TABLES) {
    const sql = `SELECT ${keyName(table)}::text AS key, to_jsonb(t)::text AS row FROM ${table} t`
    const [left, right] = await Promise.all([ground.s.query(sql), ground.t.query(sql)])
    const rows = (all: { key: string; row: string }[]) => new Map(all.map(({ key, row }) => [key, row]))
    const [a, b] = [rows(left.rows), rows(right.rows)]
    for (const key of new Set([...a.keys(), ...b.keys()])) if (a.get(key) !== b.get(key)) found.push(`${table} ${key}`)
  }
  return found
}

/** Outcome → number of runs. */
const came: Record<string, number> = {}

async function judge({ steps, corruptions, early, late, ...options }: Run): Promise<void> {
  const world = new World(options)
  await world.begin()
  if (early) await world.prove()
  for (const [i, each] of steps.entries()) {
    for (const { at, step: corrupt } of corruptions) if (at % steps.length === i) await world.take(corrupt)
    if (isLoss(world.failure)) break
    await world.take(each)
  }
  for (const each of late) await world.corruptLate(each)
  const verdict = await world.decide()
  const rows = await differing()
  const seen = rows.filter((row) => !world.unseen.has(row))
  const ended = verdict.red ?? (rows.length ? 'after the commit' : 'equal')
  came[ended] = (came[ended] ?? 0) + 1
  const what = JSON.stringify({ verdict, rows, unseen: [...world.unseen], corrupted: world.corrupted })
  expect(verdict.late.length > 0, `after the commit: ${what}`).toBe(rows.length > 0)
  if (seen.length) expect(verdict.red ?? 'none', `before it: ${what}`).toMatch(/^verify\./)
  if (!world.corrupted) expect(verdict.red, `without corruption: ${what}`).toBeUndefined()
}

test('notices if the change log marks nothing', { timeout: 60_000 }, async () => {
  const deaf = vi.spyOn(DirtyKeys.prototype, 'mark').mockImplementation(() => {})
  const found = await fc.check(fc.asyncProperty(corruptedLate, judge), { seed: 1, numRuns: 10, endOnFailure: true })
  deaf.mockRestore()
  expect(String(found.errorInstance)).toContain('before it')
})

test(`the verdict matches reality in ${SEEDS.length} seeds`, { timeout: 60_000 * SEEDS.length }, async () => {
  const failed: string[] = []
  for (const seed of SEEDS)
    await fc.assert(fc.asyncProperty(run, judge), { seed, numRuns: 1, endOnFailure: true }).catch((error) => {
      failed.push(`MOLT_ACTIONS_SEED=${seed}: ${String(error.cause ?? error)}\n${error.message}`)
      console.error(failed.at(-1))
    })
  console.log(`${SEEDS.length} seeds: ${JSON.stringify(came)}`)
  expect(failed).toEqual([])
})
