import { describe, expect, test } from 'vitest'
import type { OpenKey } from '../../src/phases/rolling/dirty-keys.ts'
import { compareKeys } from '../../src/phases/rolling/round.ts'
import type { Sessions } from '../../src/phases/rolling/sessions.ts'
import type { ProvableTable } from '../../src/phases/rolling/tables.ts'

const ID = { name: 'id', type: 'integer', labels: null } as ProvableTable['key'][number]
const provable = (name: string): ProvableTable => ({
  name,
  key: [ID],
  keyIndex: ['id'],
  parts: [{ columns: [ID], alike: true }],
  ordered: true,
  files: '',
  odd: () => false,
  text: () => '"id"::text',
})
const tables = new Map(['a', 'b'].map((name) => [name, provable(name)]))
const key = (table: string, id: number, more: Partial<OpenKey> = {}): OpenKey => ({
  table,
  key: [String(id)],
  at: 1n,
  xid: 5,
  present: true,
  ...more,
})

/** Creates sessions that return rows by key, or no row for an unknown key, and record which statements ran concurrently. */
function sessions(source: Map<string, string>, target: Map<string, string>) {
  let running = 0
  const together: number[] = []
  const side = (rows: Map<string, string>, isSource: boolean) => ({
    schema: 'public',
    isSource,
    number: (hash: string) => hash,
    db: {
      query: async ({ values: [ids] }: { values: string[][] }) => {
        together.push(++running)
        await new Promise((resolve) => setTimeout(resolve, 5))
        running--
        const row = (id: string) => [true, rows.has(id), isSource ? '10:20:12' : null, rows.get(id) ?? null]
        return { rows: (ids ?? []).map(row) }
      },
    },
  })
  const both = { source: side(source, true), target: side(target, false), close: async () => {} }
  return { sessions: both as unknown as Sessions, together }
}

describe('keys that are compared again', () => {
  test('each get their own result, across several batches and tables', async () => {
    const ids = Array.from({ length: 4_500 }, (_, id) => String(id))
    const here = new Map(ids.map((id) => [id, `h${id}`]))
    const there = new Map(here).set('2500', 'other')
    there.delete('4499')
    here.delete('7')
    const { sessions: both, together } = sessions(here, there)
    const keys = [...ids.map((id) => key('a', Number(id))), key('b', 1), key('b', 7, { present: false }), key('c', 1)]
    const judged = await compareKeys(both, tables, keys, new AbortController().signal)
    expect(judged).toHaveLength(4_502)
    expect(judged.map((each) => each.key)).toEqual(keys.slice(0, -1))
    const odd = judged.filter(({ verdict }) => verdict !== 'equal')
    expect(odd.map(({ key: { table, key: id }, verdict, kind }) => [table, id[0], verdict, kind])).toEqual([
      ['a', '7', 'later', 'extraneous'],
      ['a', '2500', 'differs', 'mismatch'],
      ['a', '4499', 'differs', 'missing'],
      ['b', '7', 'differs', 'extraneous'],
    ])
    // Both sides are read at the same time.
    expect(Math.max(...together)).toBeGreaterThan(1)
  })

  test('wait for a transaction that is not yet visible on the source', async () => {
    const rows = new Map([['1', 'h']])
    const { sessions: both } = sessions(rows, rows)
    const judged = await compareKeys(
      both,
      tables,
      [key('a', 1, { xid: 12 }), key('a', 1)],
      new AbortController().signal,
    )
    expect(judged.map(({ verdict }) => verdict)).toEqual(['later', 'equal'])
  })

  test('fail with the error from a batch that cannot be read', async () => {
    const { sessions: both } = sessions(new Map(), new Map())
    const broken = { ...both, target: { ...both.target, db: { query: async () => Promise.reject(new Error('gone')) } } }
    const work = compareKeys(broken as unknown as Sessions, tables, [key('a', 1)], new AbortController().signal)
    await expect(work).rejects.toThrow('gone')
  })
})
