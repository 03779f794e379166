import { columnOf, type MaskColumn, type MaskTable } from './catalog.ts'

/**
 * Collects the domain keys that one masked SELECT needs, and the expressions that it computes once per row.
 *
 * There are two hashes:
 * - For values made *from* the hash (e-mail, name, uuid …), sha256(domain key ‖ value). At most 128 of its bits are
 *   visible. The domain key is HMAC-SHA256(key, domain), computed once by the runner. With a truncated digest, a keyed
 *   prefix is as strong as HMAC, because length extension is impossible, and costs half as much.
 * - For offsets (how far a value moves, where filler text begins), `hashtextextended` with a secret seed. It reveals no
 *   more than the moved value does, and costs a tenth.
 */
export class Hashes {
  /** Domain → position in the session parameters `molt_actions.k<position>` (key) and `molt_actions.s<position>` (seed). */
  readonly domains: Map<string, number>
  /** Values extracted from documents before anything is computed from them; later levels build on earlier ones. */
  readonly values: Map<string, string>[] = []
  /** Expression → its name in the inner SELECT. */
  readonly computed = new Map<string, string>()
  /** Query → its name in the WITH list, for queries that run once per table. */
  readonly tables = new Map<string, string>()
  readonly #prefix: string

  constructor(domains: Map<string, number> = new Map(), prefix = 'h') {
    this.domains = domains
    this.#prefix = prefix
  }

  /** 32 bytes that cannot be computed from the value without the key. */
  strong(domain: string, value: string): string {
    // textsend uses the session's encoding, which is UTF-8. convert_to would look up the encoding for every value.
    return this.strongBytes(domain, `textsend(${value})`)
  }

  strongBytes(domain: string, bytes: string): string {
    const key = `(SELECT decode(current_setting('molt_actions.k${this.#position(domain)}'), 'hex'))`
    return this.#once(`sha256(${key} || ${bytes})`)
  }

  /** Light hash of a text: a bigint of either sign. Computing it twice costs less than another subquery. */
  light(domain: string, value: string): string {
    return `hashtextextended(${value}, ${this.#seed(domain)})`
  }

  /** Light hash of a column. Does not convert the value to text if its type has its own hash function. */
  lightColumn(domain: string, column: HashedColumn): string {
    return hashedWith(column, this.#seed(domain))
  }

  lightNumber(domain: string, value: string): string {
    return `hash_numeric_extended(${value}, ${this.#seed(domain)})`
  }

  /** Light hash of a row's key. Each column's hash seeds that of the next column. */
  lightRow(domain: string, { key, columns }: MaskTable): string {
    return key.reduce(
      (seed, name) => hashedWith(columns.find((each) => each.name === name) ?? { name, type: '' }, seed),
      this.#seed(domain),
    )
  }

  #seed(domain: string): string {
    return `(SELECT current_setting('molt_actions.s${this.#position(domain)}')::bigint)`
  }

  /** Extracts a costly value once per row. The expression can use other such values. */
  value(expression: string): string {
    const level =
      1 + this.values.findLastIndex((each) => [...each.values()].some((name) => expression.includes(`t."${name}"`)))
    const values = this.values[level] ?? new Map<string, string>()
    this.values[level] = values
    const name = values.get(expression) ?? `molt ${this.#prefix}v${level} ${values.size}`
    values.set(expression, name)
    return `t."${name}"`
  }

  /**
   * `SELECT list FROM from AS t`. Expressions that the list uses several times are computed once, in a subquery that
   * OFFSET 0 keeps from being flattened. Those used once are inlined, because a subquery costs more than most hashes.
   */
  select(list: string, from: string): string {
    const levels = [...this.values, this.computed].map((level) =>
      [...level].map(([expression, name]) => ({ expression, name })),
    )
    const all = levels.flat().reverse()
    let asked = list
    for (const each of all) {
      const column = `t."${each.name}"`
      const users = [asked, ...all.filter((user) => user !== each).map(({ expression }) => expression)]
      if (users.reduce((sum, user) => sum + user.split(column).length - 1, 0) !== 1) continue
      asked = asked.replace(column, () => each.expression)
      for (const user of all) user.expression = user.expression.replace(column, () => each.expression)
      each.name = ''
    }
    let rows = from
    for (const level of levels) {
      const columns = level.filter(({ name }) => name).map(({ expression, name }) => `${expression} AS "${name}"`)
      if (columns.length) rows = `(SELECT t.*, ${columns.join(', ')} FROM ${rows} OFFSET 0) AS t`
    }
    return `SELECT ${asked} FROM ${rows}`
  }

  /** Runs a query once, and returns its name for all expressions that use it. */
  once(query: string): string {
    const name = this.tables.get(query) ?? `molt ${this.#prefix}t${this.tables.size}`
    this.tables.set(query, name)
    return `"${name}"`
  }

  /** Hashes for the elements of a list, with separate names. */
  inner(): Hashes {
    return new Hashes(this.domains, `${this.#prefix}e`)
  }

  #position(domain: string): number {
    const position = this.domains.get(domain) ?? this.domains.size
    this.domains.set(domain, position)
    return position
  }

  #once(expression: string): string {
    const name = this.computed.get(expression) ?? `molt ${this.#prefix}${this.computed.size}`
    this.computed.set(expression, name)
    return `t."${name}"`
  }
}

function hashedWith({ name, type, ignoresCase }: HashedColumn, seed: string): string {
  const own = KEY_HASHES.get(type.replace(/\(.*\)$/, ''))
  if (own) return `${own}(${columnOf(name)}, ${seed})`
  const text = `${columnOf(name)}${type === 'text' ? '' : '::text'}`
  return `hashtextextended(${ignoresCase ? `lower(${text})` : text}, ${seed})`
}

type HashedColumn = Pick<MaskColumn, 'name' | 'type' | 'ignoresCase'>

/** Hash functions by type. Equal values have equal hashes in all integer types, and in both float types. */
const KEY_HASHES = new Map(
  Object.entries({
    smallint: 'hashint2extended',
    integer: 'hashint4extended',
    bigint: 'hashint8extended',
    numeric: 'hash_numeric_extended',
    real: 'hashfloat4extended',
    'double precision': 'hashfloat8extended',
    uuid: 'uuid_hash_extended',
  }),
)
