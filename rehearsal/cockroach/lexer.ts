// Splits SQL into statements and tokens, so that no rule matches inside a literal, a quoted name or a comment.
import type { Statement, Token, TokenKind } from './types.ts'

const WORD = /[\p{L}_][\p{L}\p{N}_$]*/uy
const NUMBER = /(?:0x[0-9a-f]+|\d+(?:\.(?!\.)\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)/iy
const PARAM = /\$\d+/y
const DOLLAR_TAG = /\$(?:[\p{L}_][\p{L}\p{N}_]*)?\$/uy
const SYMBOL = /:::|::|->>|->|#>>|#>|<=|>=|<>|!=|\|\||&&|@>|<@|\?\||\?&|!~\*|!~|~\*|\.\.|[^\s]/uy
const SPACE = /\s+/y

/** Splits a query text into statements, without empty ones. */
export function split(sql: string): Statement[] {
  const statements: Statement[] = []
  let tokens: Token[] = []
  let from = 0
  const end = (at: number) => {
    if (tokens.length) {
      const start = tokens[0]?.start ?? from
      const shifted = tokens.map((token) => ({ ...token, start: token.start - start, end: token.end - start }))
      statements.push({ sql: sql.slice(start, tokens.at(-1)?.end), tokens: shifted })
    }
    tokens = []
    from = at
  }
  for (const token of tokenize(sql)) {
    if (token.kind === 'symbol' && token.text === ';') end(token.end)
    else tokens.push(token)
  }
  end(sql.length)
  return statements
}

/**
 * Yields a text's tokens in order.
 * @throws SyntaxError for an unterminated literal, quoted name or comment
 */
export function* tokenize(sql: string): Generator<Token> {
  let at = 0
  while (at < sql.length) {
    const blank = match(SPACE, sql, at)?.length ?? commentLength(sql, at)
    if (blank) {
      at += blank
      continue
    }
    const token = tokenAt(sql, at)
    yield token
    at = token.end
  }
}

function tokenAt(sql: string, at: number): Token {
  const make = (kind: TokenKind, text: string, value = text): Token => ({
    kind,
    text,
    value,
    start: at,
    end: at + text.length,
  })
  const char = sql[at] as string
  if (char === "'") return make('string', ...quoted(sql, at, "'", false))
  if (char === '"') return make('quoted', ...quoted(sql, at, '"', false))
  if (/[ebxn]/i.test(char) && sql[at + 1] === "'") {
    const escaped = /[eb]/i.test(char)
    const [text, value] = quoted(sql, at + 1, "'", escaped)
    return make('string', char + text, value)
  }
  const param = match(PARAM, sql, at)
  if (param) return make('param', param)
  const tag = match(DOLLAR_TAG, sql, at)
  if (tag) {
    const end = sql.indexOf(tag, at + tag.length)
    if (end < 0) throw new SyntaxError('unterminated dollar-quoted string')
    return make('string', sql.slice(at, end + tag.length), sql.slice(at + tag.length, end))
  }
  const word = match(WORD, sql, at)
  if (word) return make('word', word, word.toLowerCase())
  const number = match(NUMBER, sql, at)
  if (number) return make('number', number)
  return make('symbol', match(SYMBOL, sql, at) ?? char)
}

function match(pattern: RegExp, sql: string, at: number): string | undefined {
  pattern.lastIndex = at
  return pattern.exec(sql)?.[0]
}

/** The length of the comment that starts here; 0 if none does. Block comments nest. */
function commentLength(sql: string, at: number): number {
  if (sql.startsWith('--', at)) {
    const end = sql.indexOf('\n', at)
    return (end < 0 ? sql.length : end + 1) - at
  }
  if (!sql.startsWith('/*', at)) return 0
  let depth = 0
  for (let here = at; here < sql.length; ) {
    if (sql.startsWith('/*', here)) {
      depth++
      here += 2
    } else if (sql.startsWith('*/', here)) {
      depth--
      here += 2
      if (!depth) return here - at
    } else here++
  }
  throw new SyntaxError('unterminated comment')
}

const ESCAPES: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }

/** The literal or quoted name that starts here: as written, and decoded. */
function quoted(sql: string, at: number, quote: string, escapes: boolean): [text: string, value: string] {
  let value = ''
  for (let here = at + 1; here < sql.length; here++) {
    const char = sql[here] as string
    if (escapes && char === '\\') {
      const next = sql[++here] ?? ''
      value += ESCAPES[next] ?? next
    } else if (char !== quote) value += char
    else if (sql[here + 1] === quote) {
      value += quote
      here++
    } else return [sql.slice(at, here + 1), value]
  }
  throw new SyntaxError(quote === '"' ? 'unterminated quoted identifier' : 'unterminated string')
}

/** Index of the parenthesis that closes the one at `open`; the last token if none does. */
export function closing(tokens: readonly Token[], open: number): number {
  let depth = 0
  for (let at = open; at < tokens.length; at++) {
    if (tokens[at]?.text === '(') depth++
    if (tokens[at]?.text === ')' && --depth === 0) return at
  }
  return tokens.length - 1
}
