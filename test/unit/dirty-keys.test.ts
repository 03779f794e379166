import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type DirtyChunk, DirtyKeys } from '../../src/phases/verify/dirty-keys.ts'
import type { ChangedKey } from '../../src/source/change-log.ts'

const change = (key: number, at: number, table = 'items'): ChangedKey => ({
  schema: 'public',
  table,
  key: [String(key)],
  present: true,
  xid: at,
  at: BigInt(at),
})
const keys = (budget = 100) => new DirtyKeys(budget, ({ key }) => String(Number(key[0]) % 4))
const names = (dirty: DirtyKeys) => dirty.open.map(({ key, at }) => `${key[0]}@${at}`).sort()

describe('keys that changed and are not proved', () => {
  it('keeps only the newest change of a key, so that the log moves on', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    dirty.mark(change(2, 20))
    dirty.mark(change(1, 30))
    expect(names(dirty)).toEqual(['1@30', '2@20'])
    expect(dirty.confirmable(40n)).toBe(20n)
  })

  it('does not take a key for proved that changed after it was taken', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    const taken = dirty.open
    dirty.mark(change(1, 20))
    dirty.equal(taken)
    expect(names(dirty)).toEqual(['1@20'])
  })

  it('opens what was equal again when the reader changes before it has confirmed', () => {
    const dirty = keys()
    dirty.mark(change(1, 10))
    dirty.mark(change(2, 20))
    dirty.equal(dirty.open)
    expect(names(dirty)).toEqual([])
    expect(dirty.confirmable(30n)).toBe(10n)
    dirty.confirmed(20n)
    expect(dirty.confirmable(30n)).toBe(20n)
    dirty.reopen()
    expect(names(dirty)).toEqual(['2@20'])
  })

  it('gives up the chunk with most keys past its budget, which then holds the log', () => {
    const dirty = keys(5)
    for (const [i, key] of [0, 4, 8, 1, 2, 12].entries()) dirty.mark(change(key, 10 + i))
    expect(dirty.size).toBe(2)
    const [chunk] = dirty.chunks
    expect(chunk).toEqual({ table: 'items', chunk: '0', first: 10n, at: 15n, xid: 15 })
    expect(dirty.confirmable(99n)).toBe(10n)
    dirty.mark(change(16, 30))
    dirty.equalChunk(chunk as never, 99n)
    expect(dirty.chunks).toEqual([{ table: 'items', chunk: '0', first: 10n, at: 30n, xid: 30 }])
    dirty.equalChunk(dirty.chunks[0] as never, 30n)
    expect(dirty.chunks).toHaveLength(1)
    dirty.equalChunk(dirty.chunks[0] as never, 31n)
    expect(dirty.chunks).toEqual([])
    expect(dirty.confirmable(99n)).toBe(13n)
  })

  it('tells tables with equal keys apart', () => {
    const dirty = keys()
    dirty.mark(change(1, 10, 'a'))
    dirty.mark(change(1, 20, 'b'))
    dirty.equal([change(1, 20, 'b')])
    expect(names(dirty)).toEqual(['1@10'])
  })

  it('hundreds of thousands of keys hold no more than the budget', () => {
    const dirty = new DirtyKeys(20_000, ({ key }) => String(Number(key[0]) % 64))
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 200_000; i++) dirty.mark(change(i, i))
    expect(dirty.size).toBeLessThanOrEqual(20_000)
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 << 20)
  })
})

/*
 * A source, its log, and a target that a replicator fills in order; the replicator may lose a change, and may be
 * restarted, which applies again what it had not confirmed. What the keys say must agree with what is so.
 */
type Step =
  | { do: 'write'; key: number }
  | { do: 'read'; count: number }
  | { do: 'apply'; count: number; lost: boolean }
  | { do: 'confirm' | 'restart' | 'look' | 'note' }

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
    arbitrary: fc.record({
      do: fc.constantFrom(
        'confirm' as const,
        'restart' as const,
        'look' as const,
        'look' as const,
        'note' as const,
        'note' as const,
      ),
    }),
  },
)

class World {
  readonly log: { key: number; value: number }[] = []
  readonly source = new Map<number, number>()
  readonly target = new Map<number, number>()
  readonly dirty: DirtyKeys
  read = 0
  applied = 0
  confirmed = 0
  seen: { keys: ChangedKey[]; chunks: [DirtyChunk, bigint][] } = { keys: [], chunks: [] }

  constructor(budget: number) {
    this.dirty = keys(budget)
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
      // A round counts only when the reader is the same from its begin to its end.
      this.seen = { keys: [], chunks: [] }
      this.dirty.reopen()
    } else if (step.do === 'look') this.look()
    else this.note()
  }

  readLog(count: number): void {
    for (let i = 0; i < count && this.read < this.log.length; i++, this.read++)
      this.dirty.mark(change(this.log[this.read]?.key as number, this.read))
  }

  /** @param lost whether the last of them does not reach the target */
  apply(count: number, lost = false): void {
    for (let i = 0; i < count && this.applied < this.log.length; i++, this.applied++) {
      const { key, value } = this.log[this.applied] as World['log'][number]
      if (!lost || i < count - 1) this.target.set(key, value)
    }
  }

  same(key: number): boolean {
    return this.source.get(key) === this.target.get(key)
  }

  /** Reads both sides; more may happen before what was seen is noted. */
  look(): void {
    const whole = (chunk: string) => [...this.source.keys()].filter((key) => key % 4 === Number(chunk))
    this.seen = {
      // Behind a marker: a reader that began again has applied them once more by then.
      keys: this.dirty.open.filter(({ key, at }) => at < BigInt(this.applied) && this.same(Number(key[0]))),
      chunks: this.dirty.chunks
        .filter(({ chunk }) => whole(chunk).every((key) => this.same(key)))
        .map((chunk) => [chunk, BigInt(this.confirmed)]),
    }
  }

  note(): void {
    this.dirty.equal(this.seen.keys)
    for (const [chunk, confirmed] of this.seen.chunks) this.dirty.equalChunk(chunk, confirmed)
    this.seen = { keys: [], chunks: [] }
  }

  /** The pause: nothing is written any more, all is applied, confirmed and read, and what is open is compared. */
  drain(): boolean {
    this.readLog(this.log.length)
    this.apply(this.log.length)
    this.confirmed = this.applied
    this.dirty.confirmed(BigInt(this.confirmed))
    this.look()
    this.note()
    return !this.dirty.open.length && !this.dirty.chunks.length
  }
}

describe('a random stream', () => {
  it.each([1, 2, 100])('is proved exactly when both sides are equal (budget %i)', (budget) => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), (steps) => {
        const world = new World(budget)
        for (const each of steps) {
          world.take(each)
          expect(world.dirty.size).toBeLessThanOrEqual(budget)
        }
        const proved = world.drain()
        expect(proved).toBe([...world.source.keys()].every((key) => world.same(key)))
      }),
      { numRuns: 1500 },
    )
  })

  it('loses nothing when a reader begins again at what was confirmed', () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 20, maxLength: 60 }),
        fc.array(step, { minLength: 5, maxLength: 30 }),
        (before, after) => {
          const world = new World(2)
          for (const each of before) world.take(each)
          // The process is killed; the log was confirmed as far as it said that it may be.
          const again = new World(2)
          Object.assign(again, { log: world.log, source: world.source, target: world.target })
          again.read = Number(world.dirty.confirmable(BigInt(world.read)))
          again.applied = world.confirmed
          again.confirmed = world.confirmed
          for (const each of after) again.take(each)
          expect(again.drain()).toBe([...again.source.keys()].every((key) => again.same(key)))
        },
      ),
      { numRuns: 1500 },
    )
  })
})
