import { readFileSync, writeFileSync } from 'node:fs'
import { number } from '../src/runtime/progress.ts'
import { isCollected } from './figures.ts'

const DOC = 'docs/how-it-works.md'

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

/**
 * Writes a bench's table into docs/how-it-works.md, between the two comments that name the bench. Does nothing when the
 * bench runs as part of `npm run bench`.
 */
export function writeTable(bench: string, table: string): void {
  if (isCollected) return
  const [begin, end] = [`<!-- ${bench} -->`, `<!-- end of ${bench} -->`]
  const page = readFileSync(DOC, 'utf8')
  const [before, after] = [page.indexOf(begin), page.indexOf(end)]
  if (before < 0 || after < 0) throw new Error(`${DOC} has no place for the table of ${bench}`)
  writeFileSync(DOC, `${page.slice(0, before + begin.length)}\n${table}\n${page.slice(after)}`)
}
