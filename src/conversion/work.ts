import type { Catalog, Comment, Constraint, Sequence, Type, TypeName } from '../model/catalog.ts'
import type { Decision } from '../model/structure.ts'
import { ident } from '../runtime/database.ts'
import { type Decisions, tableDecision } from './decisions.ts'
import { isSince, type Outcome, ruleOf, type Version } from './rules.ts'

/** Result of converting an object or part of an object. */
export interface Finding {
  rule: string
  outcome: Outcome
  /** Kind and name, such as `column public.orders.total`. */
  object: string
  /** Original definition; null if the name says it all. */
  from: string | null
  /** Definition on the target; null if none was written. */
  to: string | null
}

/** One statement and the object it creates. */
export interface Statement {
  sql: string
  /** What `apply` records for the ledger; null for objects in 1-tables.sql. */
  deferred: {
    kind: 'unique' | 'index' | 'check' | 'foreign-key'
    table: string
    name: string
    validate: boolean
  } | null
}

export interface Conversion {
  schema: string
  target: Version
  tables: Statement[]
  indexes: Statement[]
  constraints: Statement[]
  /** Objects to port by hand, with their original definitions. */
  manual: { rule: string; object: string; original: string }[]
  findings: Finding[]
  /** Decisions in `convert.yml` that later comparisons of both sides' definitions must accept. */
  decided: Decision[]
}

/** The state that all parts of the conversion share: catalog, decisions and result. */
export class Work {
  readonly catalog: Catalog
  readonly decisions: Decisions
  readonly result: Conversion
  readonly types: ReadonlyMap<string, Type>
  /** Names of the sequences that are created on the target. */
  sequences: ReadonlySet<string> = new Set()
  readonly #sequences: ReadonlyMap<string, Sequence>
  readonly #keys: ReadonlyMap<string, Constraint>
  readonly #comments: ReadonlyMap<string, Comment[]>
  readonly #collated = new Map<string, ReadonlySet<string>>()

  constructor(catalog: Catalog, target: Version, decisions: Decisions) {
    this.catalog = catalog
    this.decisions = decisions
    this.types = new Map(catalog.types.map((type) => [`${type.schema}.${type.name}`, type]))
    this.#sequences = new Map(catalog.sequences.map((each) => [JSON.stringify([each.table, each.column]), each]))
    const keys = catalog.constraints.filter((each) => each.kind === 'primary key' && each.schema === catalog.schema)
    this.#keys = new Map(keys.map((each) => [each.table, each]))
    const comments = new Map<string, Comment[]>()
    for (const each of catalog.comments) comments.set(each.name, [...(comments.get(each.name) ?? []), each])
    this.#comments = comments
    this.result = {
      schema: catalog.schema,
      target,
      tables: [],
      indexes: [],
      constraints: [],
      manual: [],
      findings: [],
      decided: [],
    }
  }

  get schema(): string {
    return this.catalog.schema
  }

  has(since: Version): boolean {
    return isSince(this.result.target, since)
  }

  /** Adds a finding, with the rule's outcome, or `same` if the target's version has the feature. */
  found(id: string, object: string, from: string | null = null, to: string | null = null): void {
    const { outcome, since } = ruleOf(id)
    this.result.findings.push({ rule: id, outcome: since && this.has(since) ? 'same' : outcome, object, from, to })
  }

  /** Leaves an object for manual work, with its original in 4-manual.sql. */
  leave(id: string, object: string, original: string): void {
    this.found(id, object, original)
    this.result.manual.push({ rule: id, object, original })
  }

  /** Adds a finding for a decision in convert.yml, which overrides the rules. */
  decided(object: string, from: string | null, to: string | null): void {
    this.found('override', object, from, to)
  }

  /** Records what a later comparison of both sides' definitions must expect on the target. */
  expect(of: Decision['of'], table: string, name: string, target: Decision['target']): void {
    this.result.decided.push({ of, table, name, target })
  }

  typeOf(type: TypeName): Type | undefined {
    return this.types.get(`${type.schema}.${type.name}`)
  }

  /**
   * Whether a sequence is created on the target.
   * @param printed its qualified name as the server prints it
   */
  hasSequence(printed: string): boolean {
    const [schema, name] = [...printed.matchAll(/"((?:[^"]|"")*)"|[^."]+/g)].map(
      ([plain, quoted]) => quoted?.replaceAll('""', '"') ?? plain,
    )
    return schema === this.schema && name !== undefined && this.sequences.has(name)
  }

  /**
   * An enum's name on the target. An enum from another schema is created in this schema, and renamed if the name is
   * taken.
   */
  enumName({ schema, name }: Pick<Type, 'schema' | 'name'>): string {
    const isTaken = [...this.types.values()].some((each) => each.name === name && each.schema !== schema)
    return schema === this.schema || !isTaken ? name : `${schema}_${name}`
  }

  /**
   * Returns a table's columns that have a collation on the target. Calls `find` once per table and caches the result.
   */
  collated(table: string, find: () => ReadonlySet<string>): ReadonlySet<string> {
    const known = this.#collated.get(table) ?? find()
    this.#collated.set(table, known)
    return known
  }

  table(name: string) {
    return tableDecision(this.decisions, name)
  }

  /** The sequence that a column takes its values from. */
  sequence(table: string, column: string): Sequence | undefined {
    return this.#sequences.get(JSON.stringify([table, column]))
  }

  key(table: string): Constraint | undefined {
    return this.#keys.get(table)
  }

  /** Comments on all objects with this name. */
  comments(name: string): readonly Comment[] {
    return this.#comments.get(name) ?? []
  }

  /** An object's name in the report, such as `column public.orders.total`. */
  name(kind: string, ...parts: string[]): string {
    return `${kind} ${[this.schema, ...parts].join('.')}`
  }

  qualified(name: string): string {
    return `${ident(this.schema)}.${ident(name)}`
  }
}
