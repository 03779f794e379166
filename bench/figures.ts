import { appendFileSync } from 'node:fs'
import { number } from '../src/runtime/progress.ts'

/** A figure measured by a bench, with one value per round. */
export interface Figure {
  name: string
  unit: string
  values: readonly number[]
  /** Baseline measured in the same run, with one value per round. */
  reference?: { name: string; values: readonly number[] }
  /** Limit for the median or, with a reference, for the ratio to it. */
  goal?: { most: number } | { least: number }
  /** Reason to show on the page if the goal is missed. */
  missed?: string
  /** Amount of work, such as a number of rows. Figures of the same name and different amounts show the growth. */
  work?: { of: string; amount: number }
}

/** File where `npm run bench` collects the figures; undefined when a bench runs alone. */
const COLLECTED = process.env.MOLT_ACTIONS_BENCH

export function collect(...figures: readonly Figure[]): void {
  if (COLLECTED) appendFileSync(COLLECTED, figures.map((each) => `${JSON.stringify(each)}\n`).join(''))
}

export function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2
    ? (sorted[middle] as number)
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2
}

/** Formats the range of values: `812 to 1,034`. */
export function spreadOf(values: readonly number[]): string {
  return `${number(Math.min(...values))} to ${number(Math.max(...values))}`
}
