import { number } from '../src/runtime/progress.ts'

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
