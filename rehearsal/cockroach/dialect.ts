// Translates CockroachDB's SQL to PostgreSQL's, token by token.
import { FUNCTIONS, INFORMATION_SCHEMA, PG_CATALOGS } from './install.ts'
import { closing } from './lexer.ts'
import { showSql } from './rules/show.ts'
import type { Statement, Token, Version } from './types.ts'

interface Edit {
  start: number
  end: number
  text: string
}

const TYPES: Record<string, string> = { string: 'text', bytes: 'bytea', int: 'int8', integer: 'int8', int64: 'int8' }
const CATALOGS = new Set<string>(PG_CATALOGS)
const INFORMATION = new Set<string>(INFORMATION_SCHEMA)
const CALLED = new Set<string>(FUNCTIONS)

/** Translates a statement that both servers support. With `ddl`, types can appear anywhere and catalogs cannot. */
export function translate({ sql, tokens }: Statement, version: Version, ddl = false): string {
  const edits: Edit[] = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as Token
    const previous = tokens[at - 1]
    const show = ddl ? undefined : bracketedShow(tokens, at, sql, version)
    if (show) {
      edits.push({ start: token.start, end: (tokens[show.last] as Token).end, text: `(${show.sql})` })
      at = show.last
    } else if (token.text === ':::') edits.push({ ...token, text: '::' })
    else if (isAsOf(tokens, at)) {
      // rules/past.ts selects the snapshot.
      edits.push({ start: token.start, end: (tokens[at + 4] as Token).end, text: '' })
      at += 4
    } else if (token.text === '@' && isName(previous) && isName(tokens[at + 1])) {
      edits.push({ start: token.start, end: (tokens[at + 1] as Token).end, text: '' })
      at++
    } else if (!ddl && token.text === '(' && isWord(previous, 'from')) {
      const close = usedOften(tokens, at)
      if (close) edits.push({ start: close.start, end: close.start, text: ' OFFSET 0' })
    } else if (isCallOfKeyword(tokens, at)) {
      edits.push({ start: token.end, end: (tokens[at + 2] as Token).end, text: '' })
      at += 2
    } else if (token.kind === 'word') {
      const edit = wordEdit(tokens, at, ddl)
      if (edit) edits.push(edit)
    }
  }
  // Edits can be nested.
  return applyEdits(
    sql,
    edits.sort((a, b) => a.start - b.start),
  )
}

/**
 * Finds the end of a derived table that computes a column used more than once. CockroachDB computes it once
 * (pkg/sql/opt/norm/rules/inline.opt); without a barrier, PostgreSQL would compute it for each use.
 */
function usedOften(tokens: readonly Token[], open: number): Token | undefined {
  if (!isWord(tokens[open + 1], 'select')) return undefined
  const close = closing(tokens, open)
  const inside = tokens.slice(open, close)
  const computed = inside.flatMap((token, at) =>
    isWord(inside[at - 1], 'as') && inside[at - 2]?.text === ')' ? [token.value] : [],
  )
  const uses = (name: string) =>
    [...tokens.slice(0, open), ...tokens.slice(close)].filter(({ value }) => value === name).length
  return computed.some((name) => uses(name) > 1) ? tokens[close] : undefined
}

function applyEdits(sql: string, edits: readonly Edit[]): string {
  let out = ''
  let from = 0
  for (const { start, end, text } of edits) {
    out += sql.slice(from, start) + text
    from = end
  }
  return out + sql.slice(from)
}

export function isWord(token: Token | undefined, value: string): boolean {
  return token?.kind === 'word' && token.value === value
}

function isName(token: Token | undefined): boolean {
  return token?.kind === 'word' || token?.kind === 'quoted'
}

/** Whether a call such as `current_user()` starts here, which PostgreSQL accepts only without parentheses. */
function isCallOfKeyword(tokens: readonly Token[], at: number): boolean {
  const [word, open, close] = tokens.slice(at, at + 3)
  return (isWord(word, 'current_user') || isWord(word, 'session_user')) && open?.text === '(' && close?.text === ')'
}

/** Translates `[SHOW …]`, and `(SHOW …)` in a WITH clause. */
function bracketedShow(tokens: readonly Token[], at: number, sql: string, version: Version) {
  const open = tokens[at]?.text
  if ((open !== '[' && open !== '(') || !isWord(tokens[at + 1], 'show')) return undefined
  const last = tokens.findIndex((token, index) => index > at && token.text === (open === '[' ? ']' : ')'))
  const answer = last < 0 ? undefined : showSql(tokens.slice(at + 1, last), sql, version)
  return answer === undefined ? undefined : { last, sql: answer }
}

/** Whether `AS OF SYSTEM TIME` starts here, followed by another token. */
export function isAsOf(tokens: readonly Token[], at: number): boolean {
  return (
    ['as', 'of', 'system', 'time'].every((word, index) => isWord(tokens[at + index], word)) && at + 4 < tokens.length
  )
}

function wordEdit(tokens: readonly Token[], at: number, ddl: boolean): Edit | undefined {
  const token = tokens[at] as Token
  const previous = tokens[at - 1]
  const qualifier = previous?.text === '.' ? tokens[at - 2] : undefined
  const inCast = previous?.text === '::' || previous?.text === ':::' || isWord(previous, 'as')
  const type = TYPES[token.value]
  if (type && (ddl || (inCast && tokens[at + 1]?.text !== '.'))) return { ...token, text: type }
  if (!ddl && token.value === 'crdb_internal_mvcc_timestamp') {
    const table = qualifier ? `${qualifier.text}.` : ''
    return {
      start: (qualifier ?? token).start,
      end: token.end,
      text: `_crdb.crdb_internal_mvcc_timestamp(${table}xmin)`,
    }
  }
  if (ddl && token.value === 'storing') return { ...token, text: 'INCLUDE' }
  const called = tokens[at + 1]?.text === '('
  const ours = called ? CALLED.has(token.value) : !ddl && CATALOGS.has(token.value)
  const replacement = { start: (qualifier ?? token).start, end: token.end, text: `_crdb.${token.value}` }
  if (qualifier ? isWord(qualifier, 'pg_catalog') && ours : ours && previous?.text !== '.') return replacement
  if (!ddl && qualifier && isWord(qualifier, 'information_schema') && INFORMATION.has(token.value)) return replacement
  return undefined
}
