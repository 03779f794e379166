// An item of a conformance run: a documented fact, and what the cluster shows.
import { isDeepStrictEqual } from 'node:util'
import type { Bench } from './bench.ts'

/** One observation. A regular expression in `expected` is for texts that versions word differently. */
export interface Seen {
  what: string
  expected: unknown
  seen: unknown
}

export interface Item {
  /** Dotted and stable. */
  id: string
  /** What CockroachDB or this suite does, in one sentence. */
  says: string
  /** Source of the expected values: a page of CockroachDB's documentation, or an issue. */
  source: string
  /** Needs `--source`; skipped with a notice without it. */
  needsSource?: true
  look(bench: Bench): Promise<Seen[]>
}

/** The cluster cannot show this fact here, for example without a right or a connection back to this machine. */
export class CannotRun extends Error {}

export function matches({ expected, seen }: Seen): boolean {
  return expected instanceof RegExp
    ? typeof seen === 'string' && expected.test(seen)
    : isDeepStrictEqual(seen, expected)
}

/** `/…/` for a regular expression, otherwise JSON. */
export function shown(value: unknown): string {
  return value instanceof RegExp ? String(value) : (JSON.stringify(value) ?? 'undefined')
}

/** SQLSTATE or the suite's own code of what `work` throws; `none` when it does not throw. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: { code?: string; message: string }) => error.code ?? error.message,
  )
}
