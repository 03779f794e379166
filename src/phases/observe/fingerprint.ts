import { createHash } from 'node:crypto'

/*
 * The two servers normalise statements differently. PostgreSQL's pg_stat_statements replaces constants with `$1`, and
 * keeps the client's spelling. CockroachDB reformats the statement: it writes `_` for constants and placeholders,
 * shortens lists to `(_, __more__)`, removes needless quotes from names, and adds parentheses around every comparison
 * (cockroachdb/cockroach #120507). A fingerprint keeps only what both forms have in common.
 */

const TOKEN = new RegExp(
  [
    /(?<space>\s+|--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))/,
    // An unterminated literal extends to the end: statements can be truncated, and no value may remain in a
    // fingerprint.
    /(?<literal>[eE]'(?:[^'\\]|''|\\[\s\S])*'?|(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*'?|\$(?<tag>[a-z_]\w*|)\$[\s\S]*?(?:\$\k<tag>\$|$)|\$\d+|(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)/,
    /(?<quoted>"(?:[^"]|"")*"?)/,
    /(?<word>[\p{L}_][\p{L}\p{N}_$]*)/u,
    /(?<symbol>:::|::|!=|<>|<=|>=|->>|->|#>>|#>|@>|<@|\|\||.)/u,
  ]
    .map((part) => part.source)
    .join('|'),
  'giu',
)

const VALUE = '_'
const LIMIT = 2000

/** Words after which a plus or minus sign belongs to the constant that follows. */
const BEFORE_OPERAND = new Set(
  'select where and or not values set limit offset then else when between in by returning like having on case any all'.split(
    ' ',
  ),
)
const CONSTANTS = new Set(['true', 'false', 'null'])
/** Optional words that only one server writes. */
const NOISE = new Set(['(', ')', ';', 'as', 'asc', 'inner', 'outer'])
/** Type names that can precede a literal, as in `INTERVAL '1 day'`. */
const TYPED = new Set('interval date time timetz timestamp timestamptz uuid numeric decimal json jsonb inet'.split(' '))
/** Words that can follow the first word of a type, as in `double precision` and `timestamp with time zone`. */
const TYPE_WORDS = new Set('precision varying with without time zone'.split(' '))

/**
 * Reduces a statement to a form that is the same on both servers: each constant or list becomes `_`, and case, white
 * space, quotes, qualifiers, casts and optional words do not matter. The result has at most 2,000 characters; a longer
 * one is cut and ends in a hash.
 */
export function statementFingerprint(sql: string): string {
  const tokens = collapse(spelling(withoutCasts(firstRow(tokenize(sql)))))
  const text = tokens.join(' ')
  if (text.length <= LIMIT) return text
  return `${text.slice(0, LIMIT - 20)} … ${createHash('sha256').update(text).digest('hex').slice(0, 16)}`
}

/** Whether the statement with this fingerprint reads or writes rows. */
export function isDml(fingerprint: string): boolean {
  return /^(select|insert|update|delete|upsert|merge|with|values) /.test(fingerprint)
}

/** Whether the statement with this fingerprint writes rows. */
export function isWrite(fingerprint: string): boolean {
  return /^(?:with .* )?(insert into|update|delete from|upsert into|merge into) /.test(fingerprint)
}

function tokenize(sql: string): string[] {
  const tokens: string[] = []
  for (const { groups = {} } of sql.matchAll(TOKEN)) {
    const { space, literal, quoted, word, symbol } = groups
    if (space !== undefined) continue
    if (literal !== undefined) tokens.push(VALUE)
    else if (quoted !== undefined) tokens.push(quoted.replace(/^"|"$/g, '').replaceAll('""', '"'))
    else if (word !== undefined) tokens.push(word.toLowerCase())
    else tokens.push(symbol === '!=' ? '<>' : (symbol as string))
  }
  return tokens
}

/**
 * Keeps only the first row of VALUES and drops `__more__`, because the number of rows does not make it another
 * statement.
 */
function firstRow(tokens: readonly string[]): string[] {
  const kept: string[] = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as string
    if (/^__more\w*__$/.test(token)) {
      if (kept.at(-1) === ',') kept.pop()
      continue
    }
    kept.push(token)
    if (token !== 'values' || tokens[at + 1] !== '(') continue
    const end = groupEnd(tokens, at + 1)
    kept.push(...firstRow(tokens.slice(at + 1, end)))
    at = end - 1
    while (tokens[at + 1] === ',' && tokens[at + 2] === '(') at = groupEnd(tokens, at + 2) - 1
  }
  return kept
}

/** The index after the parenthesis that closes the one at `from`. */
function groupEnd(tokens: readonly string[], from: number): number {
  let depth = 0
  for (let at = from; at < tokens.length; at++) {
    if (tokens[at] === '(') depth++
    else if (tokens[at] === ')' && --depth === 0) return at + 1
  }
  return tokens.length
}

/** Removes `::type` and the type in `CAST(x AS type)`. */
function withoutCasts(tokens: readonly string[]): string[] {
  const kept: string[] = []
  const casts: boolean[] = []
  for (let at = 0; at < tokens.length; at++) {
    const token = tokens[at] as string
    if (token === '(') casts.push(tokens[at - 1] === 'cast')
    else if (token === ')') casts.pop()
    if (token === '::' || token === ':::' || (token === 'as' && casts.at(-1))) at = typeEnd(tokens, at + 1) - 1
    else if (token !== 'cast' || tokens[at + 1] !== '(') kept.push(token)
  }
  return kept
}

/**
 * The index after the type that begins at `from`. The type can have a qualifier, several words, a modifier such as
 * `(10, 2)`, and `[]`.
 */
function typeEnd(tokens: readonly string[], from: number): number {
  let at = from + 1
  while (tokens[at] === '.') at += 2
  while (TYPE_WORDS.has(tokens[at] ?? '') || tokens[at] === '(') at = tokens[at] === '(' ? groupEnd(tokens, at) : at + 1
  while (tokens[at] === '[') at = tokens.indexOf(']', at) + 1 || tokens.length
  return at
}

/**
 * Unifies the spelling: replaces TRUE, FALSE and NULL with `_`, and drops qualifiers, optional words, and the signs and
 * types of constants.
 */
function spelling(tokens: readonly string[]): string[] {
  const kept: string[] = []
  tokens.forEach((token, at) => {
    const [before = '(', next = ''] = [tokens[at - 1], tokens[at + 1]]
    if (next === '.' || token === '.') return
    const sign = (token === '-' || token === '+') && isValue(next)
    if (sign && (BEFORE_OPERAND.has(before) || /^[^\p{L}\p{N}_)\]"]/u.test(before))) return
    if (NOISE.has(token) || (TYPED.has(token) && next === VALUE)) return
    const constant = CONSTANTS.has(token) && before !== 'is' && before !== 'not'
    kept.push(constant ? VALUE : token)
  })
  return kept
}

const isValue = (token: string) => token === VALUE

/** Shortens `_ , _ , _` to `_`, so that IN lists, rows and arrays of any length look the same. */
function collapse(tokens: readonly string[]): string[] {
  const kept: string[] = []
  tokens.forEach((token, at) => {
    const repeats = kept.at(-1) === VALUE && (token === VALUE || (token === ',' && tokens[at + 1] === VALUE))
    if (!repeats) kept.push(token)
  })
  return kept
}
