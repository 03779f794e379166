// An item of a conformance run: a documented fact, and what the cluster does.
import { isDeepStrictEqual } from 'node:util'
import type { Bench } from './bench.ts'

/** One observation. `expected` can be a regular expression, for texts that differ between versions. */
export interface Seen {
  what: string
  expected: unknown
  seen: unknown
}

export interface Item {
  /** Stable id, dotted: `catalogs.constraints`. */
  id: string
  /** What CockroachDB or the actions do, in one or two sentences. */
  says: string
  /** Source of the expected values: a page of CockroachDB's documentation, or an issue. */
  source: string
  /** Whether the item needs `--source`. Without it, the item is skipped with a notice. */
  needsSource?: true
  look(bench: Bench): Promise<Seen[]>
}

/** Thrown if this cluster cannot show the fact, for example without a privilege or a way back to this machine. */
export class CannotRun extends Error {}

export function matches({ expected, seen }: Seen): boolean {
  return expected instanceof RegExp
    ? typeof seen === 'string' && expected.test(seen)
    : isDeepStrictEqual(seen, expected)
}

/** Formats a value: `/…/` for a regular expression, otherwise JSON. */
export function shown(value: unknown): string {
  return value instanceof RegExp ? String(value) : (JSON.stringify(value) ?? 'undefined')
}

/** SQLSTATE or error code of the error that `work` throws; `none` if it succeeds. */
export async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'none',
    (error: { code?: string; message: string }) => error.code ?? error.message,
  )
}
