import { closest } from 'fastest-levenshtein'
import { stringify } from 'yaml'
import { own } from '../model/records.ts'
import { literal } from '../runtime/database.ts'
import { messageOf } from '../runtime/errors.ts'
import { plural } from '../runtime/progress.ts'
import { columnOf, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import { type Decision, type Edge, meets, type Plan, type PlannedTable, type Resolved, textsOf } from './decisions.ts'
import { bringsBack, jitter, MIN_COUNT, maskColumn, misfit, type Place } from './expressions.ts'
import { Hashes } from './hashes.ts'
import { Inheritance } from './inheritance.ts'
import { jsonTexts, jsonTree } from './json-paths.ts'
import { suggest } from './names.ts'
import type { Rules, UseRule } from './rules.ts'
import { SourceChecks } from './source-checks.ts'

/** Decides what happens to every column of every table. Collects all problems, so that you see them all in one run. */
export function makePlan(all: readonly MaskTable[], rules: Rules, schema: string): Plan {
  return new Planner(all, rules, schema).plan
}

/** Builds the plan: first the references, then a decision for each column. */
class Planner {
  readonly plan: Plan
  readonly #rules: Rules
  readonly #byName: Map<string, MaskTable>
  readonly #inheritance: Inheritance
  readonly #checks: SourceChecks
  /** Domains in which a column ignores case. */
  readonly #caseless = new Set<string>()

  constructor(all: readonly MaskTable[], rules: Rules, schema: string) {
    this.#rules = rules
    const chosen = all.filter(({ name }) => !own(rules.exclude, name))
    this.#byName = new Map(chosen.map((table) => [table.name, table]))
    this.plan = { schema, tables: [], edges: [], domains: new Map(), problems: [], unlisted: [], checks: [] }
    this.#requireKnownNames(all)
    this.plan.edges = this.#edges()
    this.#inheritance = new Inheritance(rules, this.#byName, this.plan.edges, (text) => this.#problem(text))
    this.#checks = new SourceChecks(this.plan, rules, this.#inheritance, (table, column, hashes) =>
      this.#place(table, column, this.#inheritance.domain(table.name, column.name), hashes),
    )
    for (const { name, columns } of chosen)
      for (const column of columns)
        if (column.ignoresCase) this.#caseless.add(this.#inheritance.domain(name, column.name))
    for (const table of chosen) this.plan.tables.push(this.#planTable(table))
    this.#inheritance.requireOneRulePerDomain()
  }

  #problem(text: string): void {
    if (!this.plan.problems.includes(text)) this.plan.problems.push(text)
  }

  #requireKnownNames(all: readonly MaskTable[]): void {
    const names = all.map(({ name }) => name)
    const { tables, exclude = {}, subset = {} } = this.#rules
    for (const name of [...Object.keys(tables), ...Object.keys(exclude), ...Object.keys(subset)])
      if (!names.includes(name))
        this.#problem(`the rules name the table ${name}, which is not on the source${hint(name, names)}`)
    for (const [name, columns] of Object.entries(tables)) {
      const table = all.find((each) => each.name === name)
      if (table && own(exclude, name))
        this.#problem(`the table ${name} has rules but is excluded. Remove one of the two`)
      const known = table?.columns.map((column) => column.name)
      for (const column of known ? Object.keys(columns) : [])
        if (!known?.includes(column))
          this.#problem(`the rules name ${name}.${column}, which is not on the source${hint(column, known ?? [])}`)
    }
  }

  #edges(): Edge[] {
    const edges: Edge[] = []
    for (const table of this.#byName.values())
      for (const key of table.foreignKeys) {
        if (key.toSchema !== table.schema || !this.#byName.has(key.toTable))
          this.#problem(
            `${table.name} refers to ${key.toSchema}.${key.toTable} (${key.name}), which is not copied. ${key.toSchema === table.schema ? 'Include it, or exclude' : 'One run copies one schema. Drop the foreign key on the clone, or exclude'} ${table.name} too`,
          )
        else
          edges.push({
            from: table.name,
            columns: key.columns,
            to: key.toTable,
            toColumns: key.toColumns,
            asText: false,
            ignoresCase: table.columns.some(({ name, ignoresCase }) => ignoresCase && key.columns.includes(name)),
            constraint: key.name,
          })
      }
    for (const reference of this.#rules.references ?? []) {
      const [from, to] = [this.#find(reference.from), this.#find(reference.to)]
      if (!from || !to) continue
      const { when } = reference
      if (when && !from.table.columns.some(({ name }) => name === when.column))
        this.#problem(`references: ${from.table.name} has no column ${when.column}`)
      edges.push({
        from: from.table.name,
        columns: [from.column.name],
        to: to.table.name,
        toColumns: [to.column.name],
        asText: from.column.type !== to.column.type,
        ignoresCase: [from, to].some(({ column }) => column.ignoresCase),
        constraint: '',
        ...(when && { when }),
      })
    }
    return edges
  }

  #find(path: string): { table: MaskTable; column: MaskColumn } | undefined {
    const [tableName, columnName] = path.split('.') as [string, string]
    const table = this.#byName.get(tableName)
    const column = table?.columns.find(({ name }) => name === columnName)
    if (table && column) return { table, column }
    this.#problem(`references: ${path} is not a column of a copied table`)
    return undefined
  }

  #planTable(table: MaskTable): PlannedTable {
    const hashes = new Hashes(this.plan.domains)
    const decisions = table.columns.map((column) => this.#decide(table, column, hashes))
    for (const decision of decisions) {
      this.#checks.change(table, decision, decisions)
      this.#checks.kept(table, decision, decisions)
    }
    const columns = decisions.filter(({ what }) => what !== 'generated').map(({ column }) => column.name)
    const planned = { table, decisions, columns, hashes }
    this.#checks.rows(planned)
    return planned
  }

  #decide(table: MaskTable, column: MaskColumn, hashes: Hashes): Decision {
    const value = columnOf(column.name)
    const plain: Decision = {
      column,
      what: 'kept',
      use: '',
      why: '',
      domain: '',
      expression: value,
      values: [],
      strict: false,
    }
    if (column.generated) return { ...plain, what: 'generated', why: 'computed again on the rehearsal source' }
    const polymorphic = this.plan.edges.filter(
      (edge) => edge.from === table.name && edge.columns[0] === column.name && edge.when,
    )
    if (polymorphic.length) return this.#polymorphic(table, column, polymorphic, hashes, plain)
    const found = this.#inheritance.resolve(table, column)
    if (!found) {
      if (!this.plan.unlisted.some((each) => each.table === table.name && each.column === column))
        this.plan.unlisted.push({ table: table.name, column })
      return plain
    }
    if ('keep' in found) {
      const refers = found.column !== column && (column.family === 'integer' || column.family === 'uuid')
      return { ...plain, why: found.why, numbersRow: column.surrogate || refers }
    }
    const use = 'rule' in found ? found.rule.use : 'jitter'
    // `choice` takes an existing value, which has a partition. For `sql`, the author of the expression is responsible.
    if (column.placesRow && use !== 'choice' && use !== 'sql')
      this.#problem(
        `${table.name}.${column.name} determines the partition of a row, and a value from \`${use}\` may fit no partition. Keep the column with a reason, or give ${table.name} a DEFAULT partition`,
      )
    if ('jitter' in found) {
      const expression = jitter(found.jitter, { table, column, hashes })
      return { ...plain, what: 'moved', use: 'jitter', why: found.why, expression }
    }
    return this.#masked(table, column, found, hashes, plain)
  }

  #masked(
    table: MaskTable,
    column: MaskColumn,
    found: Extract<Resolved, { rule: UseRule }>,
    hashes: Hashes,
    plain: Decision,
  ): Decision {
    const { rule, domain, why } = found
    const problem = misfit(rule, column) ?? this.#inheritProblem(found, column)
    if (problem) {
      this.#problem(`${table.name}.${column.name}: ${problem}`)
      return plain
    }
    try {
      // A child gets its parent's limit and case folding. Otherwise, their masked values would differ.
      const { maxLength, ignoresCase = false, unique } = found.column
      const shaped = { ...column, maxLength: maxLength ?? column.maxLength, ignoresCase, unique }
      const expression = maskColumn(rule, this.#place(table, shaped, domain, hashes))
      const values = this.#values(rule, column)
      if (rule.use === 'json') this.#checks.document(table, column, rule)
      if (rule.use === 'choice') this.#checks.choice(table, column, rule['min-count'] ?? MIN_COUNT)
      // With 31 bits, a masked value can equal an original by chance.
      const few = rule.use === 'hash' && column.type === 'integer'
      return {
        ...plain,
        what: 'masked',
        use: rule.use,
        why,
        domain,
        expression,
        values,
        strict: !bringsBack(rule) && !few,
      }
    } catch (error) {
      this.#problem(messageOf(error))
      return plain
    }
  }

  #place(table: MaskTable, column: MaskColumn, domain: string, hashes: Hashes): Place {
    const domainOf = (name: string) => this.#inheritance.domain(table.name, name)
    return { table, column, domain, domainOf, caseless: (name) => this.#caseless.has(name), hashes }
  }

  #values(rule: UseRule, column: MaskColumn): string[] {
    const value = columnOf(column.name)
    if (rule.use === 'json')
      return jsonTexts(`${value}::jsonb`, jsonTree(rule.paths), (leaf) => !('keep' in leaf || bringsBack(leaf)))
    return textsOf(value, column)
  }

  #inheritProblem(found: Resolved & { rule: UseRule }, column: MaskColumn): string | undefined {
    const parent = found.column
    if (parent === column) return undefined
    const name = `${found.table.name}.${parent.name}`
    if (['sql', 'json', 'choice', 'date'].includes(found.rule.use))
      return `refers to ${name}, whose rule \`${found.rule.use}\` cannot apply to this column. Use hash, uuid or email for ${name}`
    if (meets(column, parent)) return undefined
    return `is ${column.type} and refers to ${name}, which is ${parent.type}, so their masked values would not match. Give both the same type on the clone, or use a rule that fits both`
  }

  /** A column that refers to one of several tables, depending on a second column. */
  #polymorphic(table: MaskTable, column: MaskColumn, edges: Edge[], hashes: Hashes, plain: Decision): Decision {
    const by = edges[0]?.when?.column as string
    const label = table.columns.find(({ name }) => name === by)
    const kept = label && this.#inheritance.resolve(table, label)
    if (kept && !('keep' in kept))
      this.#problem(`${table.name}.${by} decides which table ${column.name} refers to. Keep it, with that reason`)
    const cases: string[] = []
    const masked: { is: string; strict: boolean }[] = []
    for (const edge of edges) {
      const target = this.#find(`${edge.to}.${edge.toColumns[0]}`)
      const found = target && this.#inheritance.resolve(target.table, target.column)
      if (!found || 'jitter' in found) continue
      const one = 'keep' in found ? plain : this.#masked(table, column, found, hashes, plain)
      if (one.what === 'masked') masked.push({ is: literal(edge.when?.is as string), strict: one.strict })
      cases.push(`WHEN ${columnOf(by)}::text = ${literal(edge.when?.is as string)} THEN ${one.expression}`)
    }
    const listed = edges.map((edge) => literal(edge.when?.is as string)).join(', ')
    this.plan.checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t WHERE ${columnOf(column.name)} IS NOT NULL AND (${columnOf(by)}::text IN (${listed})) IS NOT TRUE`,
      problem: (count) =>
        `${table.name}.${column.name}: ${plural(count, 'row')} with a ${by} that no reference lists. List each value under \`references\`, in \`when\``,
    })
    const why = `refers to ${edges.map((edge) => edge.to).join(', ')} by ${by}`
    if (!masked.length) return { ...plain, why }
    const labels = masked.map(({ is }) => is).join(', ')
    const values = [`SELECT CASE WHEN ${columnOf(by)}::text IN (${labels}) THEN ${columnOf(column.name)}::text END`]
    const strict = masked.every((each) => each.strict)
    return { ...plain, what: 'masked', use: 'hash', why, expression: `CASE ${cases.join(' ')} END`, values, strict }
  }
}

function hint(name: string, known: readonly string[]): string {
  return known.length ? `; did you mean ${closest(name, [...known])}?` : ''
}

/** YAML to paste into the rules file: suggested rules for the columns without one. */
export function pasteRules(unlisted: Plan['unlisted']): string {
  const tables = new Map<string, string[]>()
  for (const { table, column } of unlisted) {
    const { rule, why } = suggest(column)
    tables.set(table, [
      ...(tables.get(table) ?? []),
      `    ${key(column.name)}: ${rule} # ${oneLine(column.type)}: ${why}`,
    ])
  }
  return ['tables:', ...[...tables].flatMap(([table, lines]) => [`  ${key(table)}:`, ...lines])].join('\n')
}

/** A text for a YAML comment, without line breaks. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ')
}

/** A name as a YAML key, on one line, and quoted unless it is a plain word. */
export function key(name: string): string {
  return /^[A-Za-z_][\w.]*$/.test(name) ? stringify(name, { lineWidth: 0 }).trim() : JSON.stringify(name)
}
