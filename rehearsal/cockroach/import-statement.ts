import { SqlError, type Statement, type Token } from './types.ts'

/** A parsed `IMPORT INTO schema.table (columns) CSV DATA ('url', …) WITH option = 'value', flag`. */
export interface ImportCommand {
  schema: string | undefined
  table: string
  /** Empty if the statement names no columns. */
  columns: string[]
  files: string[]
  /** Lower-case name → value; undefined for an option without a value. */
  options: Map<string, string | undefined>
}

/** IMPORT INTO's options for CSV. True if the option requires a value (import_planning.go). */
const OPTIONS: Record<string, boolean> = {
  allow_quoted_null: false,
  comment: true,
  decompress: true,
  delimiter: true,
  detached: false,
  disable_glob_matching: false,
  nullif: true,
  row_limit: true,
  skip: true,
  strict_quotes: false,
}
/** Options of CockroachDB that this engine does not support. */
const UNSUPPORTED = ['comment', 'row_limit', 'strict_quotes']

/** @throws SqlError 42601 for any other statement, 0A000 for anything this engine does not support */
export function parseImport({ sql, tokens }: Statement): ImportCommand {
  const reader = new Reader(sql, tokens)
  reader.words('import', 'into')
  const names = [reader.name()]
  while (reader.take('.')) names.push(reader.name())
  const columns = reader.peek('(') ? reader.list(() => reader.name()) : []
  const format = reader.name()
  if (format !== 'csv') throw new SqlError('0A000', `unsupported import format: "${format.toUpperCase()}"`)
  reader.words('data')
  const files = reader.list(() => reader.string())
  const options = reader.atEnd() ? new Map<string, string | undefined>() : readOptions(reader)
  reader.end()
  return { schema: names.at(-2), table: names.at(-1) as string, columns, files, options }
}

function readOptions(reader: Reader): Map<string, string | undefined> {
  reader.words('with')
  const options = new Map<string, string | undefined>()
  const option = () => {
    const name = reader.name()
    if (!(name in OPTIONS)) throw new SqlError('42601', `invalid option "${name}"`)
    if (UNSUPPORTED.includes(name)) throw new SqlError('0A000', `this server does not support the option "${name}"`)
    const value = reader.take('=') ? reader.string() : undefined
    if ((value !== undefined) !== OPTIONS[name])
      throw new SqlError('22023', `option "${name}" ${OPTIONS[name] ? 'requires a value' : 'does not take a value'}`)
    options.set(name, value)
  }
  if (reader.takeWord('options')) reader.list(option)
  else {
    option()
    while (reader.take(',')) option()
  }
  return options
}

/** Steps through one statement's tokens. An unexpected token is a syntax error. */
class Reader {
  readonly #sql: string
  readonly #tokens: readonly Token[]
  #at = 0

  constructor(sql: string, tokens: readonly Token[]) {
    this.#sql = sql
    this.#tokens = tokens
  }

  atEnd(): boolean {
    return this.#at >= this.#tokens.length
  }

  end(): void {
    if (!this.atEnd()) this.#fail()
  }

  peek(symbol: string): boolean {
    const token = this.#tokens[this.#at]
    return token?.kind === 'symbol' && token.value === symbol
  }

  take(symbol: string): boolean {
    if (!this.peek(symbol)) return false
    this.#at++
    return true
  }

  takeWord(word: string): boolean {
    const token = this.#tokens[this.#at]
    if (token?.kind !== 'word' || token.value !== word) return false
    this.#at++
    return true
  }

  words(...words: string[]): void {
    for (const word of words) if (!this.takeWord(word)) this.#fail()
  }

  name(): string {
    const token = this.#tokens[this.#at++]
    return token?.kind === 'word' || token?.kind === 'quoted' ? token.value : this.#fail()
  }

  string(): string {
    const token = this.#tokens[this.#at++]
    return token?.kind === 'string' ? token.value : this.#fail()
  }

  list<T>(item: () => T): T[] {
    if (!this.take('(')) this.#fail()
    const items = [item()]
    while (this.take(',')) items.push(item())
    if (!this.take(')')) this.#fail()
    return items
  }

  #fail(): never {
    const token = this.#tokens[Math.min(this.#at, this.#tokens.length - 1)]
    throw new SqlError('42601', `at or near "${token?.text ?? 'EOF'}": syntax error`, {
      detail: `source SQL:\n${this.#sql}`,
    })
  }
}
