import { appendFileSync } from 'node:fs'

/** What one bench measured. Each value has its reference from the same round. */
export interface Figure {
  name: string
  unit: string
  values: readonly number[]
  /** What the figure is compared with, measured in the same run; one value per round. */
  reference?: { name: string; values: readonly number[] }
  /** Limit for the median or, with a reference, for the ratio to it. */
  goal?: { most: number } | { least: number }
  /** Why the goal is missed where it is, for the page. */
  missed?: string
  /** Amount of work, such as rows. Growth is fitted over the figures of the same name. */
  work?: { of: string; amount: number }
}

/** File where `npm run bench` collects the figures; undefined when a bench runs alone. */
const COLLECTED = process.env.MOLT_ACTIONS_BENCH

export function collect(...figures: readonly Figure[]): void {
  if (COLLECTED) appendFileSync(COLLECTED, figures.map((each) => `${JSON.stringify(each)}\n`).join(''))
}
