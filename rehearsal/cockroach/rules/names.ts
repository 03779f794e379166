// Finds names in statements.
import type { Token } from '../types.ts'

/** Separates index name and table in PostgreSQL, where two tables of a schema cannot have indexes of the same name. */
export const OF_TABLE = '~crdb'

/** SQL expression for an index's name as CockroachDB shows it. */
export const shownName = (column: string) => `split_part(${column}::text, '${OF_TABLE}', 1)::name`

/** The name that starts at a token, as written, with its qualifiers. */
export function nameAt(tokens: readonly Token[], sql: string, at: number): string | undefined {
  const first = tokens[at]
  if (!first || first.kind === 'symbol') return undefined
  let last = at
  while (tokens[last + 1]?.text === '.') last += 2
  return sql.slice(first.start, tokens[last]?.end)
}

/** Skips `IF NOT EXISTS`, `ONLY` and the like. @returns the position after them */
export function skipWords(tokens: readonly Token[], at: number): number {
  let here = at
  while (/^(if|not|exists|only|concurrently)$/.test(tokens[here]?.value ?? '') && tokens[here]?.kind === 'word') here++
  return here
}

/** The table of `table@index`. */
export function nameBeforeAt(tokens: readonly Token[], sql: string): string | undefined {
  const at = tokens.findIndex(({ text }) => text === '@')
  if (at < 1) return undefined
  let first = at - 1
  while (tokens[first - 1]?.text === '.') first -= 2
  return sql.slice(tokens[first]?.start, tokens[at - 1]?.end)
}
