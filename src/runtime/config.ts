import { closest, distance } from 'fastest-levenshtein'
import { type Document, isAlias, isMap, isScalar, LineCounter, type Node, type Pair, parseDocument } from 'yaml'
import type { ErrorCode } from './codes.ts'
import type { ActionSpec, InputSpec } from './spec.ts'

/** An error in a config file, with its position. */
export interface ConfigProblem {
  code: ErrorCode
  /** From 1. */
  line: number
  /** From 1. */
  column: number
  /** What is wrong and how to fix it, without any secret. */
  what: string
}

/** Section → input → value, as in the YAML file. */
type Sections = Record<string, Record<string, unknown> | null>

export interface Config {
  sections: Sections
  /** Sorted by position in the file. */
  problems: ConfigProblem[]
}

/** Name of the section that applies to all actions. */
export const COMMON = 'common'
const SECRET = /^env:([A-Za-z_]\w*)$/

/** The variable name in a value such as `env:NAME`; undefined for any other value. */
export function variableOf(value: unknown): string | undefined {
  return SECRET.exec(String(value))?.[1]
}

/** Converts a value from the config file to the text of a workflow input. */
export function textOf(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value)
}

/** Parses a config file and finds every error. Reads no environment variables and opens no connections. */
export function parseConfig(text: string, specs: readonly ActionSpec[]): Config {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset)
    return { line, column: col }
  }
  const errors = document.errors.map(({ message, pos }) => ({
    code: 'config.unreadable' as const,
    ...at(pos[0]),
    what: `This is not YAML: ${message.split('\n')[0]}`,
  }))
  if (errors.length) return { sections: {}, problems: errors }
  const problems = new Check(document, specs, at).run()
  problems.sort((a, b) => a.line - b.line || a.column - b.column)
  return { sections: isMap(document.contents) ? document.toJS() : {}, problems }
}

type Position = Pick<ConfigProblem, 'line' | 'column'>

class Check {
  readonly #document: Document.Parsed
  readonly #specs: readonly ActionSpec[]
  readonly #at: (offset: number) => Position
  readonly #problems: ConfigProblem[] = []

  constructor(document: Document.Parsed, specs: readonly ActionSpec[], at: (offset: number) => Position) {
    this.#document = document
    this.#specs = specs
    this.#at = at
  }

  run(): ConfigProblem[] {
    const { contents } = this.#document
    if (contents === null || (isScalar(contents) && contents.value === null)) return []
    if (!isMap(contents)) this.#add('config.invalid', contents, 'The file must be a map of sections to settings.')
    else for (const pair of contents.items) this.#section(pair as Pair<Node, Node | null>)
    return this.#problems
  }

  #section({ key, value }: Pair<Node, Node | null>): void {
    const name = nameOf(key)
    const known = [COMMON, ...this.#specs.map((spec) => spec.name)]
    if (!known.includes(name)) {
      this.#unknown(key, `The section \`${name}\``, name, known)
      return
    }
    const node = isAlias(value) ? value.resolve(this.#document) : value
    // A section is empty if all of its settings are commented out.
    if (node?.toJS(this.#document) == null) return
    if (!isMap(node)) {
      this.#add('config.invalid', value as Node, `The section \`${name}\` must be a map of input names to values.`)
      return
    }
    for (const pair of node.items) this.#setting(name, pair as Pair<Node, Node | null>)
  }

  #setting(section: string, { key, value }: Pair<Node, Node | null>): void {
    const name = nameOf(key)
    const specs = section === COMMON ? this.#specs : this.#specs.filter((spec) => spec.name === section)
    const having = specs.filter((spec) => name !== 'config' && spec.inputs[name])
    if (!having.length) {
      const known = [...new Set(specs.flatMap((spec) => Object.keys(spec.inputs)))].filter((each) => each !== 'config')
      this.#unknown(key, `\`${section}.${name}\``, name, known)
      return
    }
    const given = value?.toJS(this.#document)
    if (given === null || given === undefined) return
    // The action's own section overrides the common section.
    const reading = having.filter((spec) => section !== COMMON || !this.#document.hasIn([spec.name, name]))
    for (const spec of reading) {
      const found = problemOf(`${section}.${name}`, spec.inputs[name] as InputSpec<unknown>, given)
      if (!found) continue
      const where = section === COMMON ? ` It is read by \`${spec.name}\`.` : ''
      this.#add(found.code, value as Node, `${found.what}${where}`)
      return
    }
  }

  #unknown(key: Node, what: string, name: string, known: readonly string[]): void {
    const near = closest(name, [...known])
    // Suggests a name only if at most a third of the letters differ. Any other suggestion would mislead.
    const meant = distance(name, near) <= Math.max(1, name.length / 3)
    const fix = meant ? `Did you mean \`${near}\`?` : 'docs/config.schema.json lists all sections and their inputs.'
    this.#add('config.unknown-name', key, `${what} is unknown. ${fix}`)
  }

  #add(code: ErrorCode, node: Node, what: string): void {
    this.#problems.push({ code, ...this.#at(node.range?.[0] ?? 0), what })
  }
}

function nameOf(key: Node): string {
  return isScalar(key) ? String(key.value) : String(key)
}

/** Checks one value. Never quotes a secret, which someone may have written into the file by mistake. */
function problemOf(
  name: string,
  { type }: InputSpec<unknown>,
  given: unknown,
): { code: ErrorCode; what: string } | undefined {
  if (type.secret)
    return variableOf(given)
      ? undefined
      : {
          code: 'config.secret-in-file',
          what: `\`${name}\` is a secret. Write env:NAME, the environment variable that holds it.`,
        }
  const text = textOf(given)
  if (type.schema.safeParse(text).success) return undefined
  return { code: 'config.invalid', what: `\`${name}\`: ${JSON.stringify(text)} is not valid. Write ${type.hint}.` }
}
