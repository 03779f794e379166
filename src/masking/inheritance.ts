import { own } from '../model/records.ts'
import type { MaskColumn, MaskTable } from './catalog.ts'
import type { Edge, Resolved } from './decisions.ts'
import { cutTo } from './expressions.ts'
import type { LeafRule, Rule, Rules } from './rules.ts'

/** Decides which rule applies to a column: its own, that of the column that it refers to, or that of a safe class. */
export class Inheritance {
  readonly #rules: Rules
  readonly #byName: ReadonlyMap<string, MaskTable>
  readonly #edges: readonly Edge[]
  readonly #problem: (text: string) => void
  readonly #resolved = new Map<string, Resolved | undefined>()

  /** @param problem called with each mistake in the rules */
  constructor(
    rules: Rules,
    byName: ReadonlyMap<string, MaskTable>,
    edges: readonly Edge[],
    problem: (text: string) => void,
  ) {
    this.#rules = rules
    this.#byName = byName
    this.#edges = edges
    this.#problem = problem
  }

  /** The rule for a column: its own, its parent's, or that of a safe class. */
  resolve(table: MaskTable, column: MaskColumn, seen = new Set<string>()): Resolved | undefined {
    const id = `${table.name}.${column.name}`
    if (seen.has(id)) return this.#own(table, column)
    if (this.#resolved.has(id)) return this.#resolved.get(id)
    seen.add(id)
    const own = this.#own(table, column)
    const parents = this.#parents(table.name, column.name)
    const inherited = parents.map((edge) => this.#inherit(edge, column.name, seen)).filter((each) => each !== undefined)
    let result = own
    for (const each of inherited) {
      if (result && !sameRule(result, each))
        this.#problem(
          `${id} ${each.why}, so it must have the same rule, but it has a different one. Remove its own rule, or give both the same rule`,
        )
      else if (!result || !('keep' in result)) result = each
    }
    this.#resolved.set(id, result)
    return result
  }

  #parents(table: string, column: string): Edge[] {
    return this.#edges.filter(
      (edge) =>
        edge.from === table &&
        edge.columns.includes(column) &&
        !edge.when &&
        (!edge.constraint || this.#rules.safe?.['foreign-keys']) &&
        !(edge.to === table && edge.toColumns[edge.columns.indexOf(column)] === column),
    )
  }

  #inherit(edge: Edge, column: string, seen: Set<string>): Resolved | undefined {
    const table = this.#byName.get(edge.to) as MaskTable
    const name = edge.toColumns[edge.columns.indexOf(column)]
    const parent = table.columns.find((each) => each.name === name) as MaskColumn
    const found = this.resolve(table, parent, seen)
    return found && { ...found, why: `inherits from ${edge.to}.${name}` }
  }

  ruleOf(table: string, column: string): Rule | undefined {
    return own(own(this.#rules.tables, table), column)
  }

  #own(table: MaskTable, column: MaskColumn): Resolved | undefined {
    const at = { table, column }
    const rule = this.ruleOf(table.name, column.name)
    if (rule && 'keep' in rule) return { ...at, keep: true, why: rule.reason }
    const why = rule?.use === 'sql' ? `its rule, reviewed by ${rule['reviewed-by']}` : 'its rule'
    if (rule) return { ...at, rule, why, domain: this.domain(table.name, column.name) }
    const { safe = {} } = this.#rules
    const { family, array } = column
    const keep = (why: string): Resolved => ({ ...at, keep: true, why })
    if (safe['surrogate-keys'] && column.surrogate && table.key.includes(column.name)) return keep('surrogate key')
    if (safe.booleans && family === 'boolean' && !array) return keep('boolean')
    if (safe.enums && family === 'enum') return keep('enum')
    if (safe.timestamps && family === 'timestamp' && !array && !column.unique)
      return { ...at, jitter: safe.timestamps.jitter, why: 'timestamp' }
    return undefined
  }

  /** The domain of a column: that of its rule, that of the column that it refers to, or its own name. */
  domain(table: string, column: string, seen = new Set<string>()): string {
    const rule = this.ruleOf(table, column)
    if (rule && 'domain' in rule && rule.domain) return rule.domain
    const id = `${table}.${column}`
    const edge = this.#edges.find((each) => each.from === table && each.columns.includes(column) && !each.when)
    if (!edge || seen.has(id)) return id
    return this.domain(edge.to, edge.toColumns[edge.columns.indexOf(column)] as string, seen.add(id))
  }

  /** Requires one rule and one maximum length for each domain. Otherwise, a person's masked values would differ. */
  requireOneRulePerDomain(): void {
    const first = new Map<string, Shared>()
    for (const each of this.#shared()) {
      const { id, rule, type, cut } = each
      const known = first.get(`${rule.domain} ${rule.use}`) ?? each
      first.set(`${rule.domain} ${rule.use}`, known)
      const both = `${id} and ${known.id} share the domain ${rule.domain}`
      if (JSON.stringify(sorted(known.rule)) !== JSON.stringify(sorted(rule)))
        this.#problem(`${both} with different settings. Give both the same`)
      else if (known.cut !== cut)
        this.#problem(
          `${both}, but their masks would differ, because one is ${known.type} and the other ${type}. Give each its own domain, or a rule whose values fit both`,
        )
    }
  }

  /** Every rule with a domain, including those inside documents. */
  #shared(): Shared[] {
    return Object.entries(this.#rules.tables).flatMap(([name, columns]) => {
      const table = this.#byName.get(name)
      return (table?.columns ?? []).flatMap((column): Shared[] => {
        const [id, rule] = [`${name}.${column.name}`, own(columns, column.name)]
        if (!table || !rule || !('use' in rule)) return []
        if (rule.use === 'json')
          return Object.entries(rule.paths).flatMap(([path, leaf]) =>
            hasDomain(leaf)
              ? [{ id: `${id} at ${path}`, rule: leaf, type: 'a text in a document', cut: undefined }]
              : [],
          )
        if (!hasDomain(rule)) return []
        // Its parent's rule masks it, so its parent's limit applies.
        const limit = (this.resolve(table, column)?.column ?? column).maxLength ?? column.maxLength
        return [{ id, rule, type: column.type, cut: cutTo(rule, limit) }]
      })
    })
  }
}

interface Shared {
  id: string
  rule: { use: string; domain: string }
  type: string
  cut: number | undefined
}

function hasDomain<T extends Rule | LeafRule>(rule: T): rule is T & Shared['rule'] {
  return 'domain' in rule && Boolean(rule.domain)
}

function sorted(rule: object): unknown {
  return Object.entries(rule).sort(([a], [b]) => (a < b ? -1 : 1))
}

function sameRule(a: Resolved, b: Resolved): boolean {
  if ('keep' in a || 'keep' in b) return 'keep' in a && 'keep' in b
  if ('jitter' in a || 'jitter' in b) return 'jitter' in a && 'jitter' in b
  return a.domain === b.domain && JSON.stringify(sorted(a.rule)) === JSON.stringify(sorted(b.rule))
}
