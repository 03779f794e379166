import { closest } from 'fastest-levenshtein'
import { stringify } from 'yaml'
import { ident, literal } from '../runtime/database.ts'
import { messageOf } from '../runtime/errors.ts'
import { number } from '../runtime/progress.ts'
import { columnOf, type Family, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import {
  bringsBack,
  cutTo,
  Hashes,
  jitter,
  jsonLeaves,
  jsonTexts,
  jsonTree,
  jsonUnlisted,
  MIN_COUNT,
  maskColumn,
  misfit,
  type Place,
} from './expressions.ts'
import { suggest } from './names.ts'
import type { LeafRule, Rule, Rules, UseRule } from './rules.ts'

/** What becomes of one column, and by whose word. */
export interface Decision {
  column: MaskColumn
  what: 'kept' | 'masked' | 'moved' | 'generated'
  /** The rule's name; empty for kept and generated columns. */
  use: UseRule['use'] | 'jitter' | ''
  /** The reason given, the safe class, or the reference that is followed. */
  why: string
  domain: string
  /** What stands in the SELECT. */
  expression: string
  /** One-column SELECTs over a row `t` that yield its values as text, for the proof. */
  values: string[]
  /** No original may be found among the masked values. */
  strict: boolean
  /** Handed out by the database, or a reference by such a type: it numbers a row, whatever its name speaks of. */
  numbersRow?: boolean
}

/** A reference between tables, from a foreign key or from the rules file. */
export interface Edge {
  from: string
  columns: string[]
  to: string
  toColumns: string[]
  /** Of a polymorphic reference. */
  when?: { column: string; is: string }
  /** The two columns are of different types, and meet as text. */
  asText: boolean
  /** To one of the columns two spellings that differ in case are one value. */
  ignoresCase: boolean
  /** Name of the constraint; empty for a reference that none declares. */
  constraint: string
}

export interface PlannedTable {
  table: MaskTable
  decisions: Decision[]
  /** Names of the columns that are copied, in the order of `select`. */
  columns: string[]
  hashes: Hashes
}

/** Rows of a table that are masked once before all are. */
const TRIED = 1000

/** What to do where masked rows do not meet a check of a table or a domain. */
export const MEETS_CHECKS =
  "take `choice`, which takes the source's own values, `constant` or `sql`, or keep it with a reason"

/** A count that must be zero on the source. */
export interface Check {
  /** `table.column` whose rule it is about. */
  column: string
  /** Yields one row with `count`. */
  sql: string
  problem: (count: number) => string
}

export interface Plan {
  schema: string
  tables: PlannedTable[]
  edges: Edge[]
  /** Every domain that needs a key, with the number of its session parameters. */
  domains: Map<string, number>
  problems: string[]
  /** Columns that nothing covers. */
  unlisted: { table: string; column: MaskColumn }[]
  checks: Check[]
}

/** Decides for every column of every table; problems are collected, so that a person sees all of them at once. */
export function makePlan(all: readonly MaskTable[], rules: Rules, schema: string): Plan {
  return new Planner(all, rules, schema).plan
}

type Resolved = { column: MaskColumn; table: MaskTable } & (
  | { keep: true; why: string }
  | { rule: UseRule; why: string; domain: string }
  | { jitter: string; why: string }
)

class Planner {
  readonly plan: Plan
  readonly #rules: Rules
  readonly #byName: Map<string, MaskTable>
  readonly #resolved = new Map<string, Resolved | undefined>()
  /** Domains in which a column ignores case. */
  readonly #caseless = new Set<string>()

  constructor(all: readonly MaskTable[], rules: Rules, schema: string) {
    this.#rules = rules
    const chosen = all.filter(({ name }) => !own(rules.exclude, name))
    this.#byName = new Map(chosen.map((table) => [table.name, table]))
    this.plan = { schema, tables: [], edges: [], domains: new Map(), problems: [], unlisted: [], checks: [] }
    this.#requireKnownNames(all)
    this.plan.edges = this.#edges()
    for (const { name, columns } of chosen)
      for (const column of columns) if (column.ignoresCase) this.#caseless.add(this.#domain(name, column.name))
    for (const table of chosen) this.plan.tables.push(this.#planTable(table))
    this.#requireOneRulePerDomain()
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
        this.#problem(`the table ${name} has rules and is excluded; take one of the two away`)
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
            `${table.name} refers to ${key.toSchema}.${key.toTable} (${key.name}), which is not copied; ${key.toSchema === table.schema ? 'include it, or exclude' : 'one run copies one schema: drop the foreign key on the clone, or exclude'} ${table.name} too`,
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
    this.#problem(`references: ${path} is not among the tables that are copied`)
    return undefined
  }

  #planTable(table: MaskTable): PlannedTable {
    const hashes = new Hashes(this.plan.domains)
    const decisions = table.columns.map((column) => this.#decide(table, column, hashes))
    for (const decision of decisions) {
      this.#checkChange(table, decision, decisions)
      this.#checkKept(table, decision, decisions)
    }
    const columns = decisions.filter(({ what }) => what !== 'generated').map(({ column }) => column.name)
    const planned = { table, decisions, columns, hashes }
    this.#checkRows(planned)
    return planned
  }

  /** A rule knows nothing of a CHECK: some masked rows are held against each before all are copied, which takes hours. */
  #checkRows(planned: PlannedTable): void {
    const { table, decisions, columns } = planned
    const changed = decisions.filter(({ what }) => what === 'masked' || what === 'moved').map(({ column }) => column)
    // Casts, since COPY takes text for a document or a uuid; that to a domain is the domain's own check.
    const typed = (wanted: readonly string[]) =>
      table.columns
        .flatMap(({ name, type }) => (wanted.includes(name) ? [`m.${ident(name)}::${type} AS ${ident(name)}`] : []))
        .join(', ')
    const rows = (wanted: readonly string[]) =>
      `(SELECT ${typed(wanted)} FROM (${maskedSelect(planned)} LIMIT ${TRIED}) m OFFSET 0) s`
    for (const { name, domain } of changed)
      if (domain)
        this.plan.checks.push({
          column: `${table.name}.${name}`,
          sql: `SELECT 0 * count(s.${ident(name)}) AS count FROM ${rows([name])}`,
          problem: () => '',
        })
    for (const check of table.checks) {
      const about = changed
        .filter(({ name }) => check.columns.includes(name))
        .map(({ name }) => `${table.name}.${name}`)
      if (!about.length || !check.columns.every((name) => columns.includes(name))) continue
      this.plan.checks.push({
        column: about.join(', '),
        sql: `SELECT count(*) FROM ${rows(check.columns)} WHERE (${check.expression}) IS FALSE`,
        problem: (count) =>
          `${about.join(', ')}: ${count} of the first masked rows (at most ${number(TRIED)}) do not meet the check ${check.name}; ${MEETS_CHECKS}`,
      })
    }
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
    if (column.generated) return { ...plain, what: 'generated', why: 'computed again on the other side' }
    const polymorphic = this.plan.edges.filter(
      (edge) => edge.from === table.name && edge.columns[0] === column.name && edge.when,
    )
    if (polymorphic.length) return this.#polymorphic(table, column, polymorphic, hashes, plain)
    const found = this.#resolve(table, column, new Set())
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
    // What is chosen from the column's own values has a partition; for an expression its author vouches.
    if (column.placesRow && use !== 'choice' && use !== 'sql')
      this.#problem(
        `${table.name}.${column.name} decides in which partition a row is, and changed by \`${use}\` it may fit none; keep it with a reason, or give ${table.name} a DEFAULT partition`,
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
    const problem = misfit(rule, column) ?? this.#inheritProblem(found, table, column)
    if (problem) {
      this.#problem(`${table.name}.${column.name}: ${problem}`)
      return plain
    }
    try {
      // A child is cut to its parent's limit, or the two would differ where the parent was cut; and spelled as that is.
      const { maxLength, ignoresCase = false, unique } = found.column
      const shaped = { ...column, maxLength: maxLength ?? column.maxLength, ignoresCase, unique }
      const expression = maskColumn(rule, this.#place(table, shaped, domain, hashes))
      const values = this.#values(rule, column)
      if (rule.use === 'json') this.#checkDocument(table, column, rule)
      if (rule.use === 'choice') this.#checkChoice(table, column, rule['min-count'] ?? MIN_COUNT)
      // 31 bits are so few that chance alone brings an original back.
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
    const domainOf = (name: string) => this.#domain(table.name, name)
    return { table, column, domain, domainOf, caseless: (name) => this.#caseless.has(name), hashes }
  }

  #values(rule: UseRule, column: MaskColumn): string[] {
    const value = columnOf(column.name)
    if (rule.use === 'json')
      return jsonTexts(`${value}::jsonb`, jsonTree(rule.paths), (leaf) => !('keep' in leaf || bringsBack(leaf)))
    return textsOf(value, column)
  }

  /** Where every value is too rare to be chosen, the column would come out empty. */
  #checkChoice(table: MaskTable, column: MaskColumn, least: number): void {
    const value = columnOf(column.name)
    this.plan.checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT CASE WHEN coalesce(max(n), 0) < ${least} THEN coalesce(sum(n), 0) ELSE 0 END AS count
              FROM (SELECT count(*) AS n FROM ${fromItem(table)} AS t WHERE ${value} IS NOT NULL GROUP BY ${value}) c`,
      problem: (count) =>
        `${table.name}.${column.name}: no value is seen ${least} times, so \`choice\` would make NULLs of all ${count}; lower \`min-count\`, or take another rule`,
    })
  }

  /** Unlisted members are found before anything is copied, in the snapshot that is copied. */
  #checkDocument(table: MaskTable, column: MaskColumn, rule: Extract<UseRule, { use: 'json' }>): void {
    if (rule.others === 'drop') return
    const bad = jsonUnlisted(`${columnOf(column.name)}::jsonb`, jsonTree(rule.paths))
    this.plan.checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t WHERE ${bad}`,
      problem: (count) =>
        `${table.name}.${column.name}: ${count} documents hold members that no path lists; list them under \`paths\`, or write \`others: drop\``,
    })
  }

  /** What the set of values cannot show afterwards: a value within a longer one, and numbers that hardly move. */
  #checkChange(table: MaskTable, { column, use }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    const rule = this.#ruleOf(table.name, column.name)
    if (own(this.#rules.proof?.['allow-survivors'], id) || !rule || !('use' in rule) || rule.use !== use) return
    const value = columnOf(column.name)
    const fresh = new Hashes(this.plan.domains)
    const place = this.#place(table, column, this.#domain(table.name, column.name), fresh)
    if (rule.use === 'sql') {
      const made = textsOf('s.made', column)
      this.#checkTexts(table, id, `(${rule.expression})::${column.type}`, made, decisions, 'the expression gives away')
    }
    // An expression may have written the same number in another way.
    if (rule.use === 'number' || (rule.use === 'sql' && NUMBERS.has(column.family) && !column.array)) {
      // NaN and the infinities have nowhere to move to.
      const moved = `${value} - ${value} = 0${'absolute' in rule ? '' : ` AND ${value} <> 0`}`
      const same = `${fresh.select(`${maskColumn(rule, place)} = ${value} AS same`, `${fromItem(table)} AS t`)} WHERE ${moved}`
      this.plan.checks.push({
        column: id,
        sql: `SELECT CASE WHEN count(*) FILTER (WHERE same) * 2 > count(*) THEN count(*) FILTER (WHERE same) ELSE 0 END AS count FROM (${same}) s`,
        problem: (count) =>
          `${id}: ${count} numbers, more than half of them, stay as they are; give it more noise, or keep it and say why`,
      })
    }
  }

  /** A column that is kept can hold what another one of its row hides, such as a name within a remark. */
  #checkKept(table: MaskTable, { column, what }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    if (own(this.#rules.proof?.['allow-survivors'], id)) return
    const texts = this.#keptTexts(table, column, what)
    const hidden = decisions.filter(({ strict, use }) => strict && use !== 'partial')
    if (texts.length) this.#checkTexts(table, id, columnOf(column.name), texts, hidden, 'what is kept gives away', 6)
  }

  /** Texts of a kept column, or of the members of a document that are kept, of a value `s.made`. */
  #keptTexts(table: MaskTable, column: MaskColumn, what: Decision['what']): string[] {
    const rule = this.#ruleOf(table.name, column.name)
    const { family, array } = column
    if (what === 'kept' && TEXTS.has(family)) {
      // A name may be a member's; as a text the document has those, too.
      const members = family === 'json' && !array ? ['SELECT s.made::text'] : []
      return [...textsOf('s.made', column), ...members]
    }
    if (what === 'kept' && family === 'bytea' && !array) return [`SELECT encode(s.made, 'escape')`]
    // A telephone number; not what the database counts, nor what refers to that.
    if (what === 'kept' && NUMBERS.has(family) && rule) return textsOf('s.made', column)
    if (what !== 'masked' || !rule || !('use' in rule) || rule.use !== 'json') return []
    return jsonTexts('s.made::jsonb', jsonTree(rule.paths), (leaf) => 'keep' in leaf)
  }

  /** No text that `value` holds may hold an original text of its row, by itself or in another spelling. */
  #checkTexts(
    table: MaskTable,
    id: string,
    value: string,
    made: readonly string[],
    decisions: readonly Decision[],
    verb: string,
    least = 4,
  ): void {
    const originals = decisions.flatMap(({ what, column: { family }, values }) =>
      what === 'masked' && TEXTS.has(family) ? values : [],
    )
    if (!originals.length) return
    const list = (selects: readonly string[], shortest: number) =>
      `(SELECT lower(x.v COLLATE "C") AS v, ${bare('x.v')} AS bare FROM (${selects.join(' UNION ALL ')}) x(v) WHERE octet_length(x.v) >= ${shortest} OFFSET 0)`
    const within = `strpos(m.v, o.v) > 0 OR octet_length(o.bare) >= 6 AND strpos(m.bare, o.bare) > 0`
    this.plan.checks.push({
      column: id,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t, LATERAL (SELECT ${value} OFFSET 0) s(made)
             WHERE EXISTS (SELECT FROM ${list(made, least)} m, ${list(originals, least)} o WHERE ${within})`,
      problem: (count) =>
        `${id}: in ${count} rows ${verb} an original text of the row; give it another rule, or write \`allow-survivors\` and why`,
    })
  }

  #inheritProblem(found: Resolved & { rule: UseRule }, table: MaskTable, column: MaskColumn): string | undefined {
    const parent = found.column
    if (parent === column) return undefined
    const name = `${found.table.name}.${parent.name}`
    if (['sql', 'json', 'choice', 'date'].includes(found.rule.use))
      return `refers to ${name}, and \`${found.rule.use}\` there cannot be repeated here; use hash, uuid or email there`
    if (meets(column, parent)) return undefined
    return `is ${column.type} and refers to ${name}, which is ${parent.type}: masked, they would not meet in ${table.name}`
  }

  /** A column that refers to one table or another, by what a second column says. */
  #polymorphic(table: MaskTable, column: MaskColumn, edges: Edge[], hashes: Hashes, plain: Decision): Decision {
    const by = edges[0]?.when?.column as string
    const label = table.columns.find(({ name }) => name === by)
    const kept = label && this.#resolve(table, label, new Set())
    if (kept && !('keep' in kept))
      this.#problem(
        `${table.name}.${by} says what ${column.name} refers to; keep it, with the reason that it names tables`,
      )
    const cases: string[] = []
    const masked: { is: string; strict: boolean }[] = []
    for (const edge of edges) {
      const target = this.#find(`${edge.to}.${edge.toColumns[0]}`)
      const found = target && this.#resolve(target.table, target.column, new Set())
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
        `${table.name}.${column.name}: ${count} rows have a ${by} that no reference lists; list each under \`references\` with \`when\``,
    })
    const why = `refers to ${edges.map((edge) => edge.to).join(', ')} by ${by}`
    if (!masked.length) return { ...plain, why }
    const labels = masked.map(({ is }) => is).join(', ')
    const values = [`SELECT CASE WHEN ${columnOf(by)}::text IN (${labels}) THEN ${columnOf(column.name)}::text END`]
    const strict = masked.every((each) => each.strict)
    return { ...plain, what: 'masked', use: 'hash', why, expression: `CASE ${cases.join(' ')} END`, values, strict }
  }

  /** The rule that holds for a column: its own, its parent's, or that of a safe class. */
  #resolve(table: MaskTable, column: MaskColumn, seen: Set<string>): Resolved | undefined {
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
          `${id} ${each.why}: it has to have the same rule, and has another one; take its own rule away, or give both the same`,
        )
      else if (!result || !('keep' in result)) result = each
    }
    this.#resolved.set(id, result)
    return result
  }

  #parents(table: string, column: string): Edge[] {
    return this.plan.edges.filter(
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
    const found = this.#resolve(table, parent, seen)
    return found && { ...found, why: `inherits from ${edge.to}.${name}` }
  }

  #ruleOf(table: string, column: string): Rule | undefined {
    return own(own(this.#rules.tables, table), column)
  }

  #own(table: MaskTable, column: MaskColumn): Resolved | undefined {
    const at = { table, column }
    const rule = this.#ruleOf(table.name, column.name)
    if (rule && 'keep' in rule) return { ...at, keep: true, why: rule.reason }
    const why = rule?.use === 'sql' ? `its rule, reviewed by ${rule['reviewed-by']}` : 'its rule'
    if (rule) return { ...at, rule, why, domain: this.#domain(table.name, column.name) }
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

  /** Where a column's values come from: the domain of its rule, or that of the column it refers to, or itself. */
  #domain(table: string, column: string, seen = new Set<string>()): string {
    const rule = this.#ruleOf(table, column)
    if (rule && 'domain' in rule && rule.domain) return rule.domain
    const id = `${table}.${column}`
    const edge = this.plan.edges.find((each) => each.from === table && each.columns.includes(column) && !each.when)
    if (!edge || seen.has(id)) return id
    return this.#domain(edge.to, edge.toColumns[edge.columns.indexOf(column)] as string, seen.add(id))
  }

  /** One domain, one rule and one room for what it makes: else the same person would be two. */
  #requireOneRulePerDomain(): void {
    const first = new Map<string, Shared>()
    for (const each of this.#shared()) {
      const { id, rule, type, cut } = each
      const known = first.get(`${rule.domain} ${rule.use}`) ?? each
      first.set(`${rule.domain} ${rule.use}`, known)
      const both = `${id} and ${known.id} share the domain ${rule.domain}`
      if (JSON.stringify(sorted(known.rule)) !== JSON.stringify(sorted(rule)))
        this.#problem(`${both} with different settings; give both the same`)
      else if (known.cut !== cut)
        this.#problem(
          `${both}, and the masks would differ, since one is ${known.type} and the other ${type}; give each a domain of its own, or a rule of which both hold all`,
        )
    }
  }

  /** Every rule with a domain, those within documents too. */
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
        // Masked by its parent's rule, it has its parent's limit.
        const limit = (this.#resolve(table, column, new Set())?.column ?? column).maxLength ?? column.maxLength
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

/** A column's value as it is compared with the one at the other end. */
export function compared({ asText, ignoresCase }: Pick<Edge, 'asText' | 'ignoresCase'>, value: string): string {
  // Not by citext's own operator: that is in a schema which no search path names.
  if (ignoresCase) return `lower(${value}::text)`
  return asText ? `${value}::text` : value
}

/** Whether a parent's masked values can stand in a column that refers to it. */
export function meets(column: MaskColumn, parent: MaskColumn): boolean {
  const room = column.maxLength === null || (parent.maxLength !== null && parent.maxLength <= column.maxLength)
  return column.type === parent.type || (column.family === 'text' && parent.family === 'text' && room)
}

/** What a record of the rules file says under a name; a table may well be called `constructor`. */
export function own<T>(record: Record<string, T> | undefined, name: string): T | undefined {
  return record && Object.hasOwn(record, name) ? record[name] : undefined
}

function sorted(rule: object): unknown {
  return Object.entries(rule).sort(([a], [b]) => (a < b ? -1 : 1))
}

function sameRule(a: Resolved, b: Resolved): boolean {
  if ('keep' in a || 'keep' in b) return 'keep' in a && 'keep' in b
  if ('jitter' in a || 'jitter' in b) return 'jitter' in a && 'jitter' in b
  return a.domain === b.domain && JSON.stringify(sorted(a.rule)) === JSON.stringify(sorted(b.rule))
}

const NUMBERS = new Set<Family>(['integer', 'numeric', 'float'])

/** Types in which a name can stand: `other` are composite types, ranges, tsvector, inet … */
export const TEXTS = new Set<Family>(['text', 'json', 'other'])

/** SELECTs of every text in a value: itself, the elements of an array, what stands in a document, the fields of a row. */
export function textsOf(value: string, { array, family, type }: MaskColumn): string[] {
  if (family === 'json' && !array) return jsonLeaves(value, type)
  const whole = array ? `SELECT e::text FROM unnest(${value}) e` : `SELECT ${value}::text`
  return family === 'other' ? [whole, ...jsonLeaves(`to_jsonb(${value})`, 'jsonb', array ? 2 : 1)] : [whole]
}

/** Letters and digits alone, so that a telephone number is known without its blanks. By code: "C" knows ASCII letters only. */
export function bare(text: string): string {
  const others = String.raw`[\x01-\x2f\x3a-\x40\x5b-\x60\x7b-\xbf\u2000-\u206f\u3000]`
  return `regexp_replace(lower(${text} COLLATE "C"), ${literal(others)}, '', 'g')`
}

function hint(name: string, known: readonly string[]): string {
  return known.length ? `; did you mean ${closest(name, [...known])}?` : ''
}

/** The SELECT that yields the masked rows; `where` restricts them by the original ones. */
export function maskedSelect(planned: PlannedTable, where?: string): string {
  const { table, decisions, hashes } = planned
  const columns = decisions.filter(({ what }) => what !== 'generated')
  const list = columns.map(({ column, expression }) => `${expression} AS ${columnOf(column.name).slice(2)}`).join(', ')
  const rows = where ? `(SELECT * FROM ${fromItem(table)} AS t WHERE ${where}) AS t` : `${fromItem(table)} AS t`
  const once = [...hashes.tables].map(([query, name]) => `"${name}" AS MATERIALIZED (${query})`)
  const head = once.length ? `WITH ${once.join(', ')} ` : ''
  return head + hashes.select(list, rows)
}

/** The rules to paste for columns that have none, as YAML. */
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

/** For a comment: a type's name may hold anything. */
export function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ')
}

/** A name as a YAML key: quoted in one line where anything in it could be read as more than a name. */
export function key(name: string): string {
  return /^[A-Za-z_][\w.]*$/.test(name) ? stringify(name, { lineWidth: 0 }).trim() : JSON.stringify(name)
}
