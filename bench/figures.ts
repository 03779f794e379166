import { appendFileSync } from 'node:fs'

/** What one bench has measured, each value beside its reference of the same round. */
export interface Figure {
  name: string
  unit: string
  values: readonly number[]
  /** What it is held against, measured in the same run; one value a round. */
  reference?: { name: string; values: readonly number[] }
  /** Of the median, or of the ratio to the reference's where there is one. */
  goal?: { most: number } | { least: number }
  /** How much there was to do, such as rows: figures of one name are fitted over it. */
  work?: { of: string; amount: number }
}

/** Where `npm run bench` collects the figures; undefined when a bench runs alone. */
const COLLECTED = process.env.MOLT_ACTIONS_BENCH
export const isCollected = Boolean(COLLECTED)

export function collect(...figures: readonly Figure[]): void {
  if (COLLECTED) appendFileSync(COLLECTED, figures.map((each) => `${JSON.stringify(each)}\n`).join(''))
}
