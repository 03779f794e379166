import { afterEach, expect, test, vi } from 'vitest'
import { StallWatch } from '../../src/phases/stream/stall.ts'

afterEach(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

/** Returns the reports, each with the minute in which it was made. */
function told(stallAfter?: number) {
  vi.useFakeTimers()
  const said: string[] = []
  const began = performance.now()
  const note = (text: string) => said.push(`${Math.round((performance.now() - began) / 60_000)}: ${text}`)
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => Boolean(note(String(text).trim())))
  const options = { name: 'molt fetch', known: () => 'last line: x', advice: 'Look there' }
  return { said, stall: new StallWatch({ ...options, stallAfter, end: () => note('ended') }) }
}

test('reports a stall at growing intervals, and starts over after new output', () => {
  const { said, stall } = told()
  vi.advanceTimersByTime(200 * 60_000)
  stall.heard()
  vi.advanceTimersByTime(6 * 60_000)
  stall.stop()
  vi.advanceTimersByTime(60 * 60_000)
  expect(said.map((each) => Number.parseInt(each, 10))).toEqual([5, 10, 20, 40, 80, 140, 200, 205])
  expect(said[0]).toBe(
    '5: ::warning::molt fetch has printed nothing for 5 min: last line: x. Look there. To stop it, cancel the run',
  )
  expect(stall.reason).toBeUndefined()
})

test('ends the program once, if configured', () => {
  const { said, stall } = told(7 * 60_000)
  vi.advanceTimersByTime(60 * 60_000)
  stall.stop()
  expect(said).toEqual([expect.stringMatching(/^5: ::warning::/), '7: ended'])
  expect(stall.reason).toMatch(/^It was killed because it printed nothing for 7 min \(`stall-after`\): last/)
})
