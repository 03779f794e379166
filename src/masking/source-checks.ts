import { own } from '../model/records.ts'
import { ident } from '../runtime/database.ts'
import { number, plural } from '../runtime/progress.ts'
import { columnOf, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import {
  bare,
  type Check,
  type Decision,
  maskedSelect,
  NUMBERS,
  type PlannedTable,
  TEXTS,
  textsOf,
} from './decisions.ts'
import { maskColumn, type Place } from './expressions.ts'
import { Hashes } from './hashes.ts'
import type { Inheritance } from './inheritance.ts'
import { jsonTexts, jsonTree, jsonUnlisted } from './json-paths.ts'
import type { Rules, UseRule } from './rules.ts'

/** Rows per table that are masked as a trial before the copy. */
const TRIED = 1000

/** The fix when masked rows violate a check of a table or a domain. */
export const MEETS_CHECKS =
  'Use `choice` (which takes values from the source), `constant` or `sql`, or keep the column with a reason'

/** Collects queries for the source whose counts must all be zero before anything is copied. */
export class SourceChecks {
  readonly #checks: Check[]
  readonly #domains: Map<string, number>
  readonly #inheritance: Inheritance
  readonly #placeOf: (table: MaskTable, column: MaskColumn, hashes: Hashes) => Place
  readonly #survivors: Record<string, string> | undefined

  /** @param placeOf returns the place for a column's own rule */
  constructor(
    plan: { checks: Check[]; domains: Map<string, number> },
    { proof }: Rules,
    inheritance: Inheritance,
    placeOf: (table: MaskTable, column: MaskColumn, hashes: Hashes) => Place,
  ) {
    this.#checks = plan.checks
    this.#domains = plan.domains
    this.#inheritance = inheritance
    this.#placeOf = placeOf
    this.#survivors = proof?.['allow-survivors']
  }

  /** Tests some masked rows against CHECK constraints, which rules ignore, before a copy that can take hours. */
  rows(planned: PlannedTable): void {
    const { table, decisions, columns } = planned
    const changed = decisions.filter(({ what }) => what === 'masked' || what === 'moved').map(({ column }) => column)
    // Cast, because a rule produces text for a document or a uuid. A cast to a domain runs the domain's checks.
    const typed = (wanted: readonly string[]) =>
      table.columns
        .flatMap(({ name, type }) => (wanted.includes(name) ? [`m.${ident(name)}::${type} AS ${ident(name)}`] : []))
        .join(', ')
    const rows = (wanted: readonly string[]) =>
      `(SELECT ${typed(wanted)} FROM (${maskedSelect(planned)} LIMIT ${TRIED}) m OFFSET 0) s`
    for (const { name, domain } of changed)
      if (domain)
        this.#checks.push({
          column: `${table.name}.${name}`,
          sql: `SELECT 0 * count(s.${ident(name)}) AS count FROM ${rows([name])}`,
          problem: () => '',
        })
    for (const check of table.checks) {
      const about = changed
        .filter(({ name }) => check.columns.includes(name))
        .map(({ name }) => `${table.name}.${name}`)
      if (!about.length || !check.columns.every((name) => columns.includes(name))) continue
      this.#checks.push({
        column: about.join(', '),
        sql: `SELECT count(*) FROM ${rows(check.columns)} WHERE (${check.expression}) IS FALSE`,
        problem: (count) =>
          `${about.join(', ')}: ${count} of the first masked rows (at most ${number(TRIED)}) violate the check ${check.name}. ${MEETS_CHECKS}`,
      })
    }
  }

  /** Requires a value that is frequent enough for `choice`. Otherwise, every value would become NULL. */
  choice(table: MaskTable, column: MaskColumn, least: number): void {
    const value = columnOf(column.name)
    this.#checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT CASE WHEN coalesce(max(n), 0) < ${least} THEN coalesce(sum(n), 0) ELSE 0 END AS count
              FROM (SELECT count(*) AS n FROM ${fromItem(table)} AS t WHERE ${value} IS NOT NULL GROUP BY ${value}) c`,
      problem: (count) =>
        `${table.name}.${column.name}: no value occurs ${least} times, so \`choice\` would replace ${plural(count, 'value')} with NULL. Lower \`min-count\`, or use another rule`,
    })
  }

  /** Finds unlisted members before the copy, in the same snapshot. */
  document(table: MaskTable, column: MaskColumn, rule: Extract<UseRule, { use: 'json' }>): void {
    if (rule.others === 'drop') return
    const bad = jsonUnlisted(`${columnOf(column.name)}::jsonb`, jsonTree(rule.paths))
    this.#checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t WHERE ${bad}`,
      problem: (count) =>
        `${table.name}.${column.name}: ${plural(count, 'document')} with members that no path lists. List them under \`paths\`, or set \`others: drop\``,
    })
  }

  /** Checks what the proof cannot see afterwards: originals within longer values, and numbers that barely change. */
  change(table: MaskTable, { column, use }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    const rule = this.#inheritance.ruleOf(table.name, column.name)
    if (own(this.#survivors, id) || !rule || !('use' in rule) || rule.use !== use) return
    const value = columnOf(column.name)
    const fresh = new Hashes(this.#domains)
    const place = this.#placeOf(table, column, fresh)
    if (rule.use === 'sql') {
      const made = textsOf('s.made', column)
      this.#checkTexts(table, id, `(${rule.expression})::${column.type}`, made, decisions, 'the expression reveals')
    }
    // An expression can produce the same number in another form, such as 1.0 for 1.
    if (rule.use === 'number' || (rule.use === 'sql' && NUMBERS.has(column.family) && !column.array)) {
      // NaN and infinity cannot move.
      const moved = `${value} - ${value} = 0${'absolute' in rule ? '' : ` AND ${value} <> 0`}`
      const same = `${fresh.select(`${maskColumn(rule, place)} = ${value} AS same`, `${fromItem(table)} AS t`)} WHERE ${moved}`
      this.#checks.push({
        column: id,
        sql: `SELECT CASE WHEN count(*) FILTER (WHERE same) * 2 > count(*) THEN count(*) FILTER (WHERE same) ELSE 0 END AS count FROM (${same}) s`,
        problem: (count) =>
          `${id}: ${count} numbers, more than half of them, stay unchanged. Add noise, or keep the column with a reason`,
      })
    }
  }

  /**
   * Checks that a kept column does not contain what is masked in another column of the row, such as a name in a remark.
   */
  kept(table: MaskTable, { column, what }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    if (own(this.#survivors, id)) return
    const texts = this.#keptTexts(table, column, what)
    const hidden = decisions.filter(({ strict, use }) => strict && use !== 'partial')
    if (texts.length) this.#checkTexts(table, id, columnOf(column.name), texts, hidden, 'the kept value reveals', 6)
  }

  /** SELECTs of the kept texts in a value `s.made`: those of a kept column, or of kept members of a document. */
  #keptTexts(table: MaskTable, column: MaskColumn, what: Decision['what']): string[] {
    const rule = this.#inheritance.ruleOf(table.name, column.name)
    const { family, array } = column
    if (what === 'kept' && TEXTS.has(family)) {
      // A person's name can be the key of a member, and only the document's text includes keys.
      const members = family === 'json' && !array ? ['SELECT s.made::text'] : []
      return [...textsOf('s.made', column), ...members]
    }
    if (what === 'kept' && family === 'bytea' && !array) return [`SELECT encode(s.made, 'escape')`]
    // A number with its own rule can be a telephone number, but one without is a surrogate key or a reference.
    if (what === 'kept' && NUMBERS.has(family) && rule) return textsOf('s.made', column)
    if (what !== 'masked' || !rule || !('use' in rule) || rule.use !== 'json') return []
    return jsonTexts('s.made::jsonb', jsonTree(rule.paths), (leaf) => 'keep' in leaf)
  }

  /** Requires that no text in `value` contains an original text of its row, literally or in another spelling. */
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
    this.#checks.push({
      column: id,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t, LATERAL (SELECT ${value} OFFSET 0) s(made)
             WHERE EXISTS (SELECT FROM ${list(made, least)} m, ${list(originals, least)} o WHERE ${within})`,
      problem: (count) =>
        `${id}: in ${plural(count, 'row')}, ${verb} an original text of the row. Give it another rule, or set \`allow-survivors\` with a reason`,
    })
  }
}
