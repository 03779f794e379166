import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isVisible, parseSnapshot } from '../../src/model/snapshot.ts'
import { DirtyKeys, type OpenKey } from '../../src/phases/rolling/dirty-keys.ts'
import type { ChangedKey } from '../../src/source/change-log.ts'

/** Number of histories to try for each property. */
const RUNS = process.env.MOLT_ACTIONS_NIGHTLY ? 5_000 : 500

const change = (key: number, at: number, table = 'items'): ChangedKey => ({
  schema: 'public',
  table,
  key: [String(key)],
  columns: ['id'],
  present: true,
  xid: at,
  at: BigInt(at),
})
const keys = (budget = 100, giveUp: (table: string) => void = () => {}) => new DirtyKeys(budget, giveUp)
const names = (dirty: DirtyKeys) =>
  dirty
    .take()
    .map(({ key, at }) => `${key[0]}@${at}`)
    .sort()
const equal = (dirty: DirtyKeys, taken = dirty.take()) => {
  for (const each of taken) dirty.equal(each)
}

describe('changed keys that are not proved yet', () => {
  it('keeps only the newest change of a key, so the log can advance', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    dirty.mark(change(2, 20))
    dirty.mark(change(1, 30))
    expect(names(dirty)).toEqual(['1@30', '2@20'])
    expect(dirty.confirmable(40n)).toBe(20n)
  })

  it('does not count a key as proved if it changed after it was taken', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    const taken = dirty.take()
    dirty.mark(change(1, 20))
    equal(dirty, taken)
    expect(names(dirty)).toEqual(['1@20'])
    expect(taken.map((each) => dirty.differs(each))).toEqual([false])
  })

  it('reopens a proved key if the reader is replaced before the change is confirmed', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    dirty.mark(change(2, 20))
    equal(dirty)
    expect([dirty.open, dirty.size]).toEqual([0, 2])
    expect(dirty.confirmable(30n)).toBe(10n)
    dirty.confirmed(20n)
    expect(dirty.confirmable(30n)).toBe(20n)
    dirty.reopen()
    expect(names(dirty)).toEqual(['2@20'])
  })

  it('reports a row as lost if it differs twice without a newer change, unless the reader was replaced', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    const differs = () => dirty.take().map((each) => dirty.differs(each))
    expect(differs()).toEqual([false])
    dirty.mark(change(1, 20))
    expect(differs()).toEqual([false])
    dirty.reopen()
    expect(differs()).toEqual([false])
    expect(differs()).toEqual([true])
  })

  it('takes the keys that have waited longest first', () => {
    const dirty = keys()
    for (const key of [1, 2, 3]) dirty.mark(change(key, 10 + key))
    dirty.later(dirty.take(1)[0] as OpenKey)
    expect(dirty.take(2).map(({ key }) => key[0])).toEqual(['2', '3'])
  })

  it('keeps a key that differed in the first pass, and its chunk, until it changes or is proved', () => {
    const dirty = keys()
    for (const key of ['1', '2', '3']) dirty.suspect('items', [key], 50n, Number(key))
    expect(dirty.suspectChunks('items')).toEqual(new Set([1, 2, 3]))
    dirty.mark(change(1, 60))
    equal(dirty, dirty.take().slice(0, 1))
    expect(dirty.suspectChunks('items')).toEqual(new Set([2, 3]))
    dirty.confirmed(51n)
    expect(dirty.suspectChunks('items')).toEqual(new Set([3]))
    // The log already has a change of this key, so the key stays.
    dirty.mark(change(4, 70))
    equal(dirty)
    dirty.suspect('items', ['4'], 90n, 4)
    expect(names(dirty)).toEqual(['4@70'])
  })

  it('drops the table with the most keys when it is over budget, and keeps tracking new changes', () => {
    const given: string[] = []
    const dirty = keys(5, (table) => given.push(table))
    dirty.mark(change(1, 10, 'a'))
    for (let key = 0; key < 5; key++) dirty.mark(change(key, 20 + key, 'b'))
    expect(given).toEqual(['b'])
    expect([dirty.open, dirty.size, dirty.confirmable(99n)]).toEqual([1, 1, 10n])
    dirty.mark(change(9, 40, 'b'))
    expect(names(dirty)).toEqual(['1@10', '9@40'])
  })

  it('counts a long key several times', () => {
    const given: string[] = []
    const dirty = keys(5, (table) => given.push(table))
    const long = (n: number) => ({ ...change(n, n), key: [`${n}`.padEnd(250, 'x')] })
    dirty.mark(long(1))
    dirty.confirmed(99n)
    dirty.mark(change(2, 2))
    dirty.mark(change(3, 3))
    expect([given, dirty.size]).toEqual([[], 3])
    equal(dirty)
    dirty.confirmed(99n)
    dirty.mark(long(4))
    expect([given, dirty.size]).toEqual([[], 1])
    dirty.mark(long(5))
    expect([given, dirty.size]).toEqual([['items'], 0])
  })

  it('distinguishes tables with equal keys', () => {
    const dirty = keys()
    dirty.mark(change(1, 10, 'a'))
    dirty.mark(change(1, 20, 'b'))
    equal(dirty, [{ table: 'b', key: ['1'], at: 20n, xid: 20, present: true }])
    expect(names(dirty)).toEqual(['1@10'])
    dirty.drop('a')
    expect([dirty.open, dirty.size]).toEqual([0, 1])
  })

  it('needs less than 256 MiB for a million keys', () => {
    const dirty = keys(1_000_000)
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 1_000_000; i++) dirty.mark(change(i, i))
    expect(dirty.size).toBe(1_000_000)
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(256 << 20)
  })
})

describe('a snapshot', () => {
  it.each([
    [99, true],
    [100, true],
    [101, false],
    [102, true],
    [105, false],
    [4294967290, false],
  ])('of 100:105:101 shows transaction %i: %s', (xid, visible) => {
    // The last id belongs to the previous epoch and is as old as possible.
    expect(isVisible(parseSnapshot('101:105:101'), xid)).toBe(xid === 4294967290 ? true : visible)
  })

  it('compares ids from this epoch and the previous one', () => {
    const snapshot = parseSnapshot(`${(1n << 32n) + 5n}:${(1n << 32n) + 9n}:${(1n << 32n) + 7n}`)
    expect([4, 5, 7, 8, 9, 4294967295].map((xid) => isVisible(snapshot, xid))).toEqual([
      true,
      true,
      false,
      true,
      false,
      true,
    ])
    expect(isVisible(parseSnapshot('4294967290:4294967295:'), 3)).toBe(false)
  })
})

/*
 * Models a source, its log, and a target to which a replicator applies the log in order. The replicator can lose a change or
 * restart, after which it repeats unconfirmed changes. The verdict on the keys must match reality.
 */
type Step =
  | { do: 'write'; key: number }
  | { do: 'read'; count: number }
  | { do: 'apply'; count: number; lost: boolean }
  | { do: 'confirm' | 'restart' | 'look' | 'note' | 'pass' }

const count = fc.integer({ min: 1, max: 4 })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant('write' as const), key: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('read' as const), count }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('apply' as const), count, lost: fc.nat(2).map((n) => n === 0) }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constantFrom('confirm', 'restart', 'look', 'look', 'note', 'note', 'pass') }),
  },
) as fc.Arbitrary<Step>

class World {
  readonly log: { key: number; value: number }[] = []
  readonly source = new Map<number, number>()
  readonly target = new Map<number, number>()
  readonly dirty: DirtyKeys
  read = 0
  applied = 0
  confirmed = 0
  seen: OpenKey[] = []
  /** Log position where a pass over all rows must start; undefined once the pass is done. */
  passFrom: number | undefined

  constructor(budget: number) {
    this.dirty = keys(budget, () => {
      this.passFrom = this.log.length
    })
  }

  take(step: Step): void {
    if (step.do === 'write') {
      this.source.set(step.key, this.log.length)
      this.log.push({ key: step.key, value: this.log.length })
    } else if (step.do === 'read') this.readLog(step.count)
    else if (step.do === 'apply') this.apply(step.count, step.lost)
    else if (step.do === 'confirm') {
      this.confirmed = this.applied
      this.dirty.confirmed(BigInt(this.confirmed))
    } else if (step.do === 'restart') {
      this.applied = this.confirmed
      // A comparison counts only if the reader does not change in the meantime.
      this.seen = []
      this.dirty.reopen()
    } else if (step.do === 'look') this.look()
    else if (step.do === 'pass') this.pass()
    else this.note()
  }

  readLog(count: number): void {
    for (let i = 0; i < count && this.read < this.log.length; i++, this.read++)
      this.dirty.mark(change(this.log[this.read]?.key as number, this.read))
  }

  /** @param lost whether the replicator loses the last of these changes */
  apply(count: number, lost = false): void {
    for (let i = 0; i < count && this.applied < this.log.length; i++, this.applied++) {
      const { key, value } = this.log[this.applied] as World['log'][number]
      if (!lost || i < count - 1) this.target.set(key, value)
    }
  }

  same(key: number): boolean {
    return this.source.get(key) === this.target.get(key)
  }

  get equal(): boolean {
    return [...this.source.keys()].every((key) => this.same(key))
  }

  /** Compares all rows, but only once the stream has confirmed everything committed before the pass was requested. */
  pass(): void {
    if (this.passFrom === undefined || this.confirmed < this.passFrom) return
    this.passFrom = undefined
    for (const key of this.source.keys())
      if (!this.same(key)) this.dirty.suspect('items', [String(key)], BigInt(this.log.length), 0)
  }

  /** Compares open keys. More steps can happen before `note` records the result. */
  look(): void {
    // Compares only keys whose changes have been applied, because a restarted replicator repeats earlier ones first.
    this.seen = this.dirty.take().filter(({ key, at }) => at < BigInt(this.applied) && this.same(Number(key[0])))
  }

  note(): void {
    for (const each of this.seen) this.dirty.equal(each)
    this.seen = []
  }

  /** Simulates the write pause: writes stop, everything is applied, confirmed and read, and open keys are compared. */
  drain(): boolean {
    this.readLog(this.log.length)
    this.apply(this.log.length)
    this.confirmed = this.applied
    this.pass()
    this.dirty.confirmed(BigInt(this.confirmed))
    const open = this.dirty.take()
    return open.every(({ key }) => this.same(Number(key[0])))
  }
}

describe('keys of a random stream', () => {
  // With a smaller budget, the differences of a pass would not fit, and the pass would never end.
  it.each([4, 5, 100])('are proved if and only if both sides are equal (budget %i)', (budget) => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), (steps) => {
        const world = new World(budget)
        for (const each of steps) {
          world.take(each)
          expect(world.dirty.size).toBeLessThanOrEqual(budget)
        }
        expect(world.drain()).toBe(world.equal)
      }),
      { numRuns: RUNS },
    )
  })

  it.each([1, 2, 3])('are never wrongly proved, even with a small budget (%i)', (budget) => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), (steps) => {
        const world = new World(budget)
        for (const each of steps) world.take(each)
        const proved = world.drain() && world.passFrom === undefined
        if (proved) expect(world.equal).toBe(true)
      }),
      { numRuns: RUNS },
    )
  })

  it('are not lost when a reader restarts at the confirmed position', () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 20, maxLength: 60 }),
        fc.array(step, { minLength: 5, maxLength: 30 }),
        (before, after) => {
          const world = new World(4)
          for (const each of before) world.take(each)
          // The process is killed after it has confirmed as much of the log as it may.
          const again = new World(4)
          Object.assign(again, { log: world.log, source: world.source, target: world.target })
          again.read = Number(world.dirty.confirmable(BigInt(world.read)))
          again.applied = world.confirmed
          again.confirmed = world.confirmed
          if (world.passFrom !== undefined || world.dirty.suspectChunks('items').size) again.passFrom = world.log.length
          for (const each of after) again.take(each)
          expect(again.drain()).toBe(again.equal)
        },
      ),
      { numRuns: RUNS },
    )
  })
})
