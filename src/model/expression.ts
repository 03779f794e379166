import { own } from './records.ts'
import { tokens } from './tokens.ts'

/**
 * Converts SQL expressions from both servers' catalogs to a comparable form. PostgreSQL parenthesizes everything and
 * adds casts (`(lower((email)::text) = ANY (ARRAY['a'::text]))`). CockroachDB annotates literals (`lower(email) IN
 * ('a':::STRING,)`). The comparable form is in prefix notation. It omits the original parentheses, widening casts, the
 * schemas of functions, and letter case outside quotes.
 */

interface Piece {
  kind: 'string' | 'name' | 'number' | 'cast' | 'operator' | 'mark' | 'end'
  text: string
}

/** Operator precedence. An operator that is not listed has the precedence of `||` ({@link OTHER}). */
const BINDING: Record<string, number> = {
  or: 1,
  and: 2,
  '=': 5,
  '<>': 5,
  '<': 5,
  '>': 5,
  '<=': 5,
  '>=': 5,
  like: 6,
  ilike: 6,
  'not like': 6,
  'not ilike': 6,
  similar: 6,
  'not similar': 6,
  '+': 8,
  '-': 8,
  '*': 9,
  '/': 9,
  '%': 9,
  '^': 10,
}
const NOT = 3
const IS = 4
const IN = 6
const OTHER = 7
const UNARY = 11

/** Operators with different spellings. PostgreSQL prints LIKE as `~~`. */
const SAME_OPERATOR: Record<string, string> = {
  '!=': '<>',
  '~~': 'like',
  '!~~': 'not like',
  '~~*': 'ilike',
  '!~~*': 'not ilike',
}
/** Functions with different names on the two servers. */
const SAME_FUNCTION: Record<string, string> = {
  current_timestamp: 'now',
  transaction_timestamp: 'now',
  char_length: 'length',
  character_length: 'length',
  date_part: 'extract',
}
const BARE_FUNCTIONS = new Set(['current_timestamp', 'current_date', 'current_time', 'current_user', 'session_user'])
/** Types to which a cast loses nothing. PostgreSQL adds such casts where CockroachDB needs none. */
const WIDENING =
  /^(text|character varying|varchar|string|citext|name|numeric|decimal|bigint|int8|int|float8|double precision|anyarray|regclass)$/
const LONG_TYPE = /^(timestamp|time)(\(\d\))? with(out)? time zone|^character varying|^double precision|^bit varying/
const SAME_TYPE: Record<string, string> = {
  'timestamp with time zone': 'timestamptz',
  'timestamp without time zone': 'timestamp',
  boolean: 'bool',
  integer: 'int4',
  smallint: 'int2',
  bpchar: 'char',
  character: 'char',
  bytes: 'bytea',
}

/**
 * The comparable form of an expression.
 * @returns undefined if the text cannot be parsed
 */
export function expressionForm(sql: string): string | undefined {
  try {
    const reader = new Reader(sql)
    const form = reader.expression(0)
    reader.expect('end', '')
    return form
  } catch (error) {
    if (error instanceof NoExpression) return undefined
    throw error
  }
}

export interface IndexStatement {
  /** The index's name; undefined if the server chooses it. */
  name: string | undefined
  table: string
  unique: boolean
  /** Key columns in order; `(expression)` stands for an expression. */
  columns: string[]
  /** Comparable forms of the keys, without directions. */
  keys: string[]
  /** Comparable form of the condition. */
  where: string | undefined
  /**
   * Comparable form: keys with direction, stored columns and condition. Omits the name, the method (except inverted),
   * sharding, operator classes, key collations and the order of NULLs, because the conversion changes them.
   */
  form: string
}

/**
 * Parses CREATE INDEX.
 * @param sql as `convert`, pg_get_indexdef or pg_indexes prints it, or as written by hand for CockroachDB
 */
export function readIndex(sql: string): IndexStatement | undefined {
  try {
    return new Reader(sql).index()
  } catch (error) {
    if (error instanceof NoExpression) return undefined
    throw error
  }
}

class NoExpression extends Error {}

/** Reads tokens one after another, without white space. */
class Tokens {
  protected readonly tokens: Piece[]
  protected at = 0

  constructor(sql: string) {
    this.tokens = tokens(sql).flatMap(({ kind, text }) => {
      if (kind === 'space') return []
      if (kind === 'word' || kind === 'quoted') return { kind: 'name', text }
      return { kind: kind === 'other' ? 'mark' : kind, text }
    })
  }

  protected peek(ahead = 0): Piece {
    return this.tokens[this.at + ahead] ?? { kind: 'end', text: '' }
  }

  protected is(...words: string[]): boolean {
    return words.every((word, ahead) => {
      const { kind, text } = this.peek(ahead)
      return kind !== 'string' && text.toLowerCase() === word
    })
  }

  /** Consumes these words or symbols if they come next. */
  protected take(...words: string[]): boolean {
    if (!this.is(...words)) return false
    this.at += words.length
    return true
  }

  expect(kind: Piece['kind'], text: string): void {
    const token = this.peek()
    if (token.kind !== kind || token.text.toLowerCase() !== text) throw new NoExpression()
    this.at++
  }

  protected name(): string {
    const { kind, text } = this.peek()
    if (kind !== 'name') throw new NoExpression()
    this.at++
    return text.startsWith('"') ? text.slice(1, -1).replaceAll('""', '"') : text.toLowerCase()
  }

  protected qualifiedName(): string {
    let name = this.name()
    while (this.take('.')) name = this.name()
    return name
  }
}

class Reader extends Tokens {
  expression(least: number): string {
    let left = this.take('not') ? `(not ${this.expression(NOT)})` : this.#unary()
    for (;;) {
      const next = this.#operatorAfter(left, least)
      if (next === undefined) return left
      left = next
    }
  }

  /** @returns undefined unless an operator of at least this precedence follows */
  #operatorAfter(left: string, least: number): string | undefined {
    if (least <= IS && this.take('is')) return this.#is_(left)
    if (least <= IN && this.take('between')) return this.#between(left)
    if (least <= IN && this.take('not', 'between')) return `(not ${this.#between(left)})`
    if (least <= IN && this.take('in')) return `(in ${left} ${this.#list()})`
    if (least <= IN && this.take('not', 'in')) return `(not in ${left} ${this.#list()})`
    if (this.take('at', 'time', 'zone')) return `(timezone ${this.expression(UNARY)} ${left})`
    const negated = this.is('not') && /^i?like$|^similar$/i.test(this.peek(1).text)
    const { kind, text } = this.peek(negated ? 1 : 0)
    const word = text.toLowerCase()
    if (kind !== 'operator' && !/^(and|or|like|ilike|similar)$/.test(word)) return undefined
    const name = SAME_OPERATOR[word] ?? (negated ? `not ${word}` : word)
    const binding = BINDING[name] ?? OTHER
    if (binding < least) return undefined
    this.at += negated ? 2 : 1
    if (word === 'similar') this.take('to')
    const quantified = this.#quantified(name, left)
    if (quantified !== undefined) return quantified
    const right = this.expression(binding + 1)
    // `a AND (b AND c)` has the same form as `(a AND b) AND c`.
    if (name === 'and' || name === 'or') return `(${name} ${inner(name, left)} ${inner(name, right)})`
    return `(${name} ${left} ${right})`
  }

  index(): IndexStatement {
    this.expect('name', 'create')
    const unique = this.take('unique')
    let inverted = this.take('inverted')
    this.take('vector')
    this.expect('name', 'index')
    this.take('concurrently')
    this.take('if', 'not', 'exists')
    const name = this.is('on') ? undefined : this.name()
    this.expect('name', 'on')
    this.take('only')
    const table = this.qualifiedName()
    if (this.take('using')) inverted = /^(gin|gist)$/.test(this.name()) || inverted
    this.expect('mark', '(')
    const keys: string[] = []
    while (!this.take(')')) keys.push(this.#key())
    let form = `(index${inverted ? ' inverted' : ''} ${keys.join(' ')}`
    let where: string | undefined
    while (this.peek().kind !== 'end') {
      if (this.take('include') || this.take('storing')) form += ` storing ${this.#list()}`
      else if (this.take('nulls', 'not', 'distinct')) form += ' nulls not distinct'
      else if (this.take('where')) where = this.expression(0)
      else if (this.take('with')) this.#list()
      else if (!this.take('using', 'hash') && !this.take('not', 'visible')) throw new NoExpression()
    }
    const plain = keys.map((key) => key.replace(/^\(desc (.*)\)$/s, '$1'))
    if (where !== undefined) form += ` where ${where}`
    return { name, table, unique, columns: keys.map(keyColumn), keys: plain, where, form: `${form})` }
  }

  #key(): string {
    const of = this.expression(0).replace(/^\(collate \S+ (.*)\)$/s, '$1')
    if (this.peek().kind === 'name' && !this.is('asc') && !this.is('desc') && !this.is('nulls')) {
      this.qualifiedName()
      if (this.take('(')) this.#items(')')
    }
    const descending = !this.take('asc') && this.take('desc')
    if (this.take('nulls')) this.at++
    if (!this.take(',') && !this.is(')')) throw new NoExpression()
    return descending ? `(desc ${of})` : of
  }

  #is_(left: string): string {
    const negated = this.take('not')
    const what = this.take('distinct', 'from') ? `distinct ${this.expression(IS + 1)}` : this.peek().text.toLowerCase()
    if (!what.startsWith('distinct')) this.at++
    return negated ? `(not (is ${what} ${left}))` : `(is ${what} ${left})`
  }

  #between(left: string): string {
    const low = this.expression(IN + 1)
    this.expect('name', 'and')
    const high = this.expression(IN + 1)
    return `(and (>= ${left} ${low}) (<= ${left} ${high}))`
  }

  /** `= ANY (ARRAY[…])` is IN, and `<> ALL (ARRAY[…])` is NOT IN. */
  #quantified(name: string, left: string): string | undefined {
    const any = this.is('any', '(') || this.is('some', '(')
    if (!any && !this.is('all', '(')) return undefined
    this.at += 2
    const of = this.expression(0)
    this.expect('mark', ')')
    const items = /^\(array (.*)\)$/s.exec(of)?.[1]
    if (any && name === '=' && items !== undefined) return `(in ${left} ${items})`
    if (!any && name === '<>' && items !== undefined) return `(not in ${left} ${items})`
    return `(${name} ${any ? 'any' : 'all'} ${left} ${of})`
  }

  #list(): string {
    this.expect('mark', '(')
    return this.#items(')').join(' ')
  }

  /** Reads items up to `close`. CockroachDB writes a comma after the only item of a tuple. */
  #items(close: string): string[] {
    const items: string[] = []
    while (!this.take(close)) {
      items.push(this.expression(0))
      if (!this.take(',') && !this.is(close)) throw new NoExpression()
    }
    return items
  }

  #unary(): string {
    if (this.take('-')) {
      const of = this.expression(UNARY)
      return /^[\d.]/.test(of) ? `-${of}` : `(- ${of})`
    }
    if (this.take('+')) return this.expression(UNARY)
    return this.#casts(this.#primary())
  }

  #casts(of: string): string {
    const { kind, text } = this.peek()
    if (kind === 'cast') {
      this.at++
      const type = this.#type()
      // `:::` only annotates the type of a literal.
      return this.#casts(text === '::' ? cast(of, type) : of)
    }
    if (this.take('[')) {
      const index = this.expression(0)
      this.expect('mark', ']')
      return this.#casts(`(at ${of} ${index})`)
    }
    if (this.take('collate')) return this.#casts(`(collate ${this.name()} ${of})`)
    return of
  }

  #primary(): string {
    const token = this.peek()
    this.at++
    if (token.kind === 'number') return token.text
    if (token.kind === 'string') return plainString(token.text)
    if (token.text === '(') {
      const items = this.#items(')')
      return items.length === 1 ? (items[0] as string) : `(row ${items.join(' ')})`
    }
    if (token.kind !== 'name') throw new NoExpression()
    const word = token.text.toLowerCase()
    if (word === 'case') return this.#case()
    if (word === 'array' && this.take('[')) return arrayForm(this.#items(']'))
    if (word === 'cast' && this.take('(')) return this.#castCall()
    if (/^(interval|date|timestamp|timestamptz|time)$/.test(word) && this.peek().kind === 'string')
      return this.#primary()
    this.at--
    return this.#named()
  }

  #case(): string {
    let form = '(case'
    if (!this.is('when')) form += ` ${this.expression(0)}`
    while (this.take('when')) {
      form += ` when ${this.expression(0)}`
      this.expect('name', 'then')
      form += ` then ${this.expression(0)}`
    }
    if (this.take('else')) form += ` else ${this.expression(0)}`
    this.expect('name', 'end')
    return `${form})`
  }

  #castCall(): string {
    const of = this.expression(0)
    this.expect('name', 'as')
    const type = this.#type()
    this.expect('mark', ')')
    return cast(of, type)
  }

  /** Reads a column or a function call, which can be qualified. */
  #named(): string {
    let name = this.name()
    while (this.take('.')) name = this.name()
    const called = this.take('(')
    if (!called) return BARE_FUNCTIONS.has(name) ? `(${own(SAME_FUNCTION, name) ?? name})` : JSON.stringify(name)
    const same = own(SAME_FUNCTION, name) ?? name
    if (same === 'extract' && this.peek(1).text.toLowerCase() === 'from') {
      const part = this.peek().text.toLowerCase()
      this.at += 2
      return `(extract ${JSON.stringify(part)} ${this.#items(')').join(' ')})`
    }
    const items = this.#items(')')
    if (same === 'extract' && items[0]) items[0] = JSON.stringify(items[0].slice(1, -1))
    return `(${[same, ...items].join(' ')})`
  }

  #type(): string {
    const rest = this.tokens
      .slice(this.at, this.at + 7)
      .map(({ text }) => text.toLowerCase())
      .join(' ')
      .replace(/ \( (\d) \)/, '($1)')
    const long = LONG_TYPE.exec(rest)?.[0]
    let type = long?.replace(/\(\d\)/, '')
    if (long) this.at += long.split(/[ ()]+/).length + (long.includes('(') ? 2 : 0)
    else type = this.qualifiedName()
    // Such a cast rounds or cuts, so it is no widening one.
    const sizes = this.take('(') ? this.#items(')').join(',') : ''
    if (sizes && /^(numeric|decimal)$/.test(type as string)) type = `numeric(${sizes})`
    if (sizes && /^(character varying|varchar)$/.test(type as string)) type = `varchar(${sizes})`
    while (this.take('[', ']')) type = 'anyarray'
    return own(SAME_TYPE, type as string) ?? (type as string)
  }
}

function keyColumn(key: string): string {
  const [, column] = /^(?:\(desc )?("(?:[^"\\]|\\.)*")\)?$/s.exec(key) ?? []
  return column ? (JSON.parse(column) as string) : '(expression)'
}

/** Flattens a chain of the same operator into one list of operands. */
function inner(name: string, form: string): string {
  const head = `(${name} `
  return form.startsWith(head) ? form.slice(head.length, -1) : form
}

/**
 * Drops widening casts, and casts of literals, because the context decides their type. `'-1'::integer` becomes a
 * number.
 */
function cast(of: string, type: string): string {
  const literal = /^'(-?\d+(?:\.\d+)?)'$/.exec(of)
  if (literal && /^(int\d?|bigint|numeric|decimal|float8|double precision)$/.test(type)) return literal[1] as string
  if (/^'|^-?[\d.]|^"?(true|false|null)"?$/.test(of) || WIDENING.test(type)) return of
  return `(as ${type} ${of})`
}

/** Rewrites `e'…'` without escapes. */
function plainString(text: string): string {
  if (!/^e'/i.test(text)) return text
  const escapes: Record<string, string> = { n: '\n', t: '\t', r: '\r', b: '\b', f: '\f' }
  return text
    .slice(1)
    .replace(/\\([\s\S])/g, (_, letter: string) => escapes[letter] ?? (letter === "'" ? "''" : letter))
}

function arrayForm(items: readonly string[]): string {
  return items.length ? `(array ${items.join(' ')})` : `'{}'`
}
