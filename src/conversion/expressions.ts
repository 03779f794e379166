import { type Token, tokens } from '../model/tokens.ts'
import { ident } from '../runtime/database.ts'

/*
 * Translates PostgreSQL expressions to CockroachDB's syntax. Expects them as the catalog prints them: fully
 * parenthesized, with qualified names. Reports each part that CockroachDB is not known to support; the caller then
 * leaves out the expression.
 */

/** `division`: CockroachDB keeps the fraction when it divides integers. */
type Change = 'division' | 'function' | 'operator' | 'type'

export interface Translation {
  sql: string
  /** What was changed; empty if the text is the same on both sides. */
  changes: Change[]
  /** What CockroachDB lacks. If not empty, the expression cannot be used. */
  unsupported: string[]
}

/** Looks up the names in an expression. */
export interface Names {
  /** The target's name for the type in a cast; undefined if the target has no such type. */
  castType(name: string): string | undefined
  /** Columns that have a collation on the target. */
  collated: ReadonlySet<string>
  /** Whether this sequence is created on the target. The name is in the form that the source's server prints. */
  hasSequence(name: string): boolean
}

/** PostgreSQL prints LIKE as `~~`, which has another meaning in CockroachDB. */
const LIKE: Record<string, string> = { '~~': 'LIKE', '!~~': 'NOT LIKE', '~~*': 'ILIKE', '!~~*': 'NOT ILIKE' }

const OPERATORS = new Set(
  '+ - * / % ^ = <> != < > <= >= || | & # ~ << >> -> ->> #> #>> #- @> <@ ? ?| ?& && !~ ~* !~* @@ |/ ||/'.split(' '),
)

/** Operators that accept a collated string. Functions and patterns do not (cockroachdb/cockroach#20838). */
const COMPARISONS = new Set(['=', '<>', '<', '>', '<=', '>='])

/** Pattern operators of an extension. CockroachDB's CITEXT has none (cockroachdb/cockroach#151244). */
const PATTERN = /^!?~~?\*?$/

/** Functions that accept a precision, such as `CURRENT_TIMESTAMP(3)`. */
const TIME_FUNCTIONS = /^(current_timestamp|current_time|localtimestamp|localtime)$/i

/** Keywords that can precede a parenthesis without being a function. */
const GRAMMAR = new Set(
  'and or not in any some all array row case when then else end between is as cast from for coalesce nullif greatest least extract overlay position substring trim exists values using symmetric collate like ilike similar to distinct null true false at time zone'.split(
    ' ',
  ),
)

/**
 * Functions with the same name in both databases, from CockroachDB's list of built-in functions (docs,
 * functions-and-operators). Any other function is reported as unsupported.
 */
const FUNCTIONS = new Set(
  `abs acos acosd age array_append array_cat array_length array_lower array_position array_positions array_prepend array_remove array_replace
  array_to_string array_upper ascii asin asind atan atan2 atand bit_length btrim cardinality cbrt ceil ceiling char_length character_length chr clock_timestamp
  concat concat_ws cos cosd cot crypt currval current_database current_schema current_setting date_part date_trunc decode degrees digest div encode exp floor
  format gen_random_bytes gen_random_uuid gen_salt get_bit get_byte hmac host hostmask inet_contained_by_or_equals inet_contains_or_equals initcap
  isfinite json_array_length json_build_array json_build_object json_extract_path json_extract_path_text json_object json_typeof jsonb_array_length
  jsonb_build_array jsonb_build_object jsonb_exists_any jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_pretty jsonb_set
  jsonb_strip_nulls jsonb_typeof lastval left length levenshtein ln log lower lpad ltrim make_date make_timestamp make_timestamptz masklen md5 metaphone mod netmask
  nextval now num_nonnulls num_nulls octet_length pg_typeof phraseto_tsquery pi plainto_tsquery pow power quote_ident quote_literal quote_nullable radians random regexp_replace
  regexp_split_to_array repeat replace reverse right round rpad rtrim set_bit set_byte set_masklen setval sha224 sha256 sha384 sha512 sign similarity sin sind soundex
  split_part sqrt statement_timestamp string_to_array strpos substr substring tan tand timeofday timezone to_char to_hex to_json to_jsonb to_timestamp to_tsquery to_tsvector
  transaction_timestamp translate trunc ts_rank unaccent upper uuid_generate_v1 uuid_generate_v1mc uuid_generate_v3 uuid_generate_v4 uuid_generate_v5 uuid_nil
  uuid_ns_dns uuid_ns_oid uuid_ns_url uuid_ns_x500 width_bucket
  st_area st_asgeojson st_astext st_buffer st_centroid st_contains st_distance st_dwithin st_geomfromtext st_intersects st_isvalid st_length st_makepoint
  st_point st_setsrid st_srid st_transform st_within st_x st_y`.split(/\s+/),
)

/**
 * CockroachDB's text search configurations (docs, full-text-search). CockroachDB takes their names as plain strings.
 */
const CONFIGURATIONS = new Set(
  'simple danish dutch english finnish french german hungarian italian norwegian portuguese russian spanish swedish turkish'.split(
    ' ',
  ),
)

/**
 * Words that only CockroachDB reserves, so PostgreSQL prints them unquoted. Source: CockroachDB's grammar
 * (reserved_keyword).
 */
export const UNQUOTED_RESERVED = new Set(['family', 'index', 'nothing'])

/** Types that cannot be array elements in a column (cockroachdb/cockroach#23468, and the grammar). */
export const NO_ARRAYS = /^(JSONB|TSVECTOR|TSQUERY|VECTOR)/

/** Multi-word type names, longest first. */
const LONG_TYPES = [
  'timestamp without time zone',
  'timestamp with time zone',
  'time without time zone',
  'time with time zone',
  'character varying',
  'double precision',
  'bit varying',
]

class Translator {
  readonly changes = new Set<Change>()
  readonly unsupported = new Set<string>()
  readonly #tokens: Token[]
  readonly #names: Names
  #at = 0
  #out = ''

  constructor(sql: string, names: Names) {
    this.#tokens = tokens(sql)
    this.#names = names
  }

  translate(): string {
    while (this.#at < this.#tokens.length) this.#next()
    return this.#out
  }

  #peek(ahead = 0): Token | undefined {
    return this.#tokens[this.#at + ahead]
  }

  /** The remaining tokens, without white space. */
  #ahead(): Token[] {
    return this.#tokens.slice(this.#at).filter(({ kind }) => kind !== 'space')
  }

  #next(): void {
    const token = this.#tokens[this.#at++] as Token
    if (token.kind === 'cast') this.#cast()
    else if (token.kind === 'operator') this.#operator(token.text)
    else if (token.kind === 'word' || token.kind === 'quoted') this.#name(token)
    else this.#out += token.text
  }

  #operator(text: string): void {
    const like = LIKE[text]
    if (like) this.changes.add('operator')
    else if (!OPERATORS.has(text)) this.unsupported.add(`the operator ${text}`)
    // When PostgreSQL divides integers, it drops the fraction. CockroachDB keeps it.
    if (text === '/') this.changes.add('division')
    this.#out += like ?? text
  }

  /** Translates a column or function name, which may be qualified, or `OPERATOR` with its argument. */
  #name(token: Token): void {
    const parts = this.#path(token)
    const called = this.#peek()?.text === '('
    const name = unquoted(parts.at(-1) as string)
    if (called && parts.length === 1 && token.kind === 'word' && name.toUpperCase() === 'OPERATOR') {
      this.#qualified()
      return
    }
    const isWord = token.kind === 'word' && parts.length === 1
    const word = isWord ? name.toLowerCase() : ''
    if (word === 'collate') this.#collation()
    else if (called && word === 'extract') this.#extract(parts[0] as string)
    else if (GRAMMAR.has(word) || TIME_FUNCTIONS.test(word)) this.#out += parts[0]
    else if (called) this.#function(parts, token.kind === 'word')
    else this.#column(parts, word)
  }

  /** Reads a name with its qualifiers. */
  #path(first: Token): string[] {
    const parts = [first.text]
    while (this.#peek()?.text === '.' && /word|quoted/.test(this.#peek(1)?.kind ?? '')) {
      parts.push(this.#peek(1)?.text as string)
      this.#at += 2
    }
    return parts
  }

  #column(parts: readonly string[], word: string): void {
    const name = unquoted(parts.at(-1) as string)
    if (this.#names.collated.has(name) && !this.#staysText()) this.unsupported.add(`the collation of ${name}`)
    this.#out += UNQUOTED_RESERVED.has(word) ? ident(word) : parts.join('.')
  }

  /** Whether the collated column is only compared or cast to text here. */
  #staysText(): boolean {
    const [first, second] = this.#ahead()
    if (first?.kind === 'operator') return COMPARISONS.has(first.text)
    return (
      first?.kind === 'cast' || first?.text.toLowerCase() === 'is' || (first?.text === ')' && second?.kind === 'cast')
    )
  }

  #function(parts: readonly string[], plain: boolean): void {
    const name = unquoted(parts.at(-1) as string)
    if (!FUNCTIONS.has(name)) {
      this.unsupported.add(`the function ${parts.join('.')}`)
      this.#out += parts.join('.')
      return
    }
    if (parts.length > 1) this.changes.add('function')
    this.#out += /^[a-z_]\w*$/.test(name) && plain ? name : ident(name)
    if (name !== 'to_tsvector') return
    this.#arguments()
    const next = this.#ahead().find(({ text }) => text !== ')')
    if (next?.text === '||') this.unsupported.add('the operator || of tsvector')
  }

  /** Translates the tokens from a parenthesis to the matching closing one. */
  #arguments(): void {
    let depth = 0
    do {
      const { text } = this.#peek() as Token
      if (text === '(') depth++
      if (text === ')') depth--
      this.#next()
    } while (depth > 0 && this.#at < this.#tokens.length)
  }

  /** The result is numeric in PostgreSQL but a float in CockroachDB, which does not mix the two in arithmetic. */
  #extract(word: string): void {
    this.changes.add('function')
    this.#out += `(${word}`
    this.#arguments()
    this.#out += ')::DECIMAL'
  }

  /**
   * Translates COLLATE. CockroachDB sorts by bytes, and accepts the collation names that mean byte order
   * (cockroachdb/cockroach#96828).
   */
  #collation(): void {
    while (this.#peek()?.kind === 'space') this.#at++
    const first = this.#tokens[this.#at++]
    const name = first ? unquoted(this.#path(first).at(-1) as string) : ''
    if (/^(C|POSIX|ucs_basic)(\.|$)/i.test(name)) this.#out += 'COLLATE "C"'
    else if (name === 'default') this.#out += 'COLLATE "default"'
    else this.unsupported.add(`the collation ${name}`)
  }

  /** Translates an extension's operator, such as `OPERATOR(public.=)`, to CockroachDB's operator of the same name. */
  #qualified(): void {
    let text = ''
    while (this.#peek() && this.#peek()?.text !== ')') text += this.#tokens[this.#at++]?.text
    this.#at++
    const sign = /[^\w("'.]+$/.exec(text)?.[0] ?? text
    this.changes.add('operator')
    if (PATTERN.test(sign) && this.#names.castType('public.citext') === 'CITEXT')
      this.unsupported.add(`the operator ${sign} of an extension`)
    this.#operator(sign)
  }

  #cast(): void {
    const name = this.#typeName()
    const element = name.replace(/(\[\])+$/, '')
    if (element === 'regconfig') {
      this.#configuration()
      return
    }
    const to = this.#names.castType(element)
    const sequence = element === 'regclass' ? /'((?:[^']|'')*)'$/.exec(this.#out)?.[1] : undefined
    if (sequence !== undefined && !this.#names.hasSequence(sequence.replaceAll("''", "'")))
      this.unsupported.add(`the sequence ${sequence}`)
    if (to === undefined || (name.endsWith('[]') && NO_ARRAYS.test(to))) this.unsupported.add(`the type ${name}`)
    else if (to !== element) this.changes.add('type')
    this.#out += `::${to ?? element}${name.endsWith('[]') ? '[]' : ''}`
  }

  /** Translates `'english'::regconfig`. Only a constant is supported. */
  #configuration(): void {
    const name = /'(?:pg_catalog\.)?(\w+)'$/.exec(this.#out)?.[1] ?? ''
    if (CONFIGURATIONS.has(name)) this.changes.add('type')
    else this.unsupported.add(`the text search configuration ${name || 'of a column'}`)
  }

  #typeName(): string {
    const rest = this.#tokens
      .slice(this.#at)
      .map(({ text }) => text)
      .join('')
    const base =
      LONG_TYPES.find((each) => rest.startsWith(each)) ??
      /^(?:\w+|"(?:[^"]|"")*")(?:\.(?:\w+|"(?:[^"]|"")*"))?/.exec(rest)?.[0] ??
      ''
    const modifier = /^\(\d+(?:,-?\d+)?\)(?: with(?:out)? time zone)?/.exec(rest.slice(base.length))?.[0] ?? ''
    const array = /^(?:\[\])+/.exec(rest.slice(base.length + modifier.length))?.[0] ?? ''
    const name = base + modifier + array
    for (let length = 0; length < name.length; ) length += (this.#tokens[this.#at++] as Token).text.length
    return name
  }
}

export function unquoted(name: string): string {
  return name.startsWith('"') ? name.slice(1, -1).replaceAll('""', '"') : name
}

export function translate(sql: string, names: Names): Translation {
  const translator = new Translator(sql, names)
  return {
    sql: translator.translate(),
    changes: [...translator.changes],
    unsupported: [...translator.unsupported],
  }
}

/** Replaces VALUE in a domain's condition with the column. */
export function withColumn(condition: string, column: string): string {
  return tokens(condition)
    .map(({ kind, text }) => (kind === 'word' && text.toUpperCase() === 'VALUE' ? ident(column) : text))
    .join('')
}
