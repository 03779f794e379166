import { own } from '../model/records.ts'
import { ident } from '../runtime/database.ts'
import { number } from '../runtime/progress.ts'
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

/** Rows of a table that are masked as a trial before all are. */
const TRIED = 1000

/** What to do when masked rows violate a check of a table or a domain. */
export const MEETS_CHECKS =
  "take `choice`, which takes the source's own values, `constant` or `sql`, or keep it with a reason"

/** Collects what is counted on the source before anything is copied; every count must be zero. */
export class SourceChecks {
  readonly #checks: Check[]
  readonly #domains: Map<string, number>
  readonly #inheritance: Inheritance
  readonly #placeOf: (table: MaskTable, column: MaskColumn, hashes: Hashes) => Place
  readonly #survivors: Record<string, string> | undefined

  /** @param placeOf where a column's own rule applies */
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

  /** A rule knows nothing of a CHECK, so some masked rows are tested before all are copied, which takes hours. */
  rows(planned: PlannedTable): void {
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
          `${about.join(', ')}: ${count} of the first masked rows (at most ${number(TRIED)}) violate the check ${check.name}; ${MEETS_CHECKS}`,
      })
    }
  }

  /** If every value is too rare to be chosen, the column would come out empty. */
  choice(table: MaskTable, column: MaskColumn, least: number): void {
    const value = columnOf(column.name)
    this.#checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT CASE WHEN coalesce(max(n), 0) < ${least} THEN coalesce(sum(n), 0) ELSE 0 END AS count
              FROM (SELECT count(*) AS n FROM ${fromItem(table)} AS t WHERE ${value} IS NOT NULL GROUP BY ${value}) c`,
      problem: (count) =>
        `${table.name}.${column.name}: no value is seen ${least} times, so \`choice\` would make NULLs of all ${count}. Lower \`min-count\`, or use another rule`,
    })
  }

  /** Finds unlisted members before anything is copied, in the snapshot that is copied. */
  document(table: MaskTable, column: MaskColumn, rule: Extract<UseRule, { use: 'json' }>): void {
    if (rule.others === 'drop') return
    const bad = jsonUnlisted(`${columnOf(column.name)}::jsonb`, jsonTree(rule.paths))
    this.#checks.push({
      column: `${table.name}.${column.name}`,
      sql: `SELECT count(*) FROM ${fromItem(table)} AS t WHERE ${bad}`,
      problem: (count) =>
        `${table.name}.${column.name}: ${count} documents have members that no path lists. List them under \`paths\`, or set \`others: drop\``,
    })
  }

  /** What the values as a set cannot show afterwards: a value within a longer one, and numbers that hardly move. */
  change(table: MaskTable, { column, use }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    const rule = this.#inheritance.ruleOf(table.name, column.name)
    if (own(this.#survivors, id) || !rule || !('use' in rule) || rule.use !== use) return
    const value = columnOf(column.name)
    const fresh = new Hashes(this.#domains)
    const place = this.#placeOf(table, column, fresh)
    if (rule.use === 'sql') {
      const made = textsOf('s.made', column)
      this.#checkTexts(table, id, `(${rule.expression})::${column.type}`, made, decisions, 'the expression gives away')
    }
    // An expression may have written the same number in another way.
    if (rule.use === 'number' || (rule.use === 'sql' && NUMBERS.has(column.family) && !column.array)) {
      // NaN and the infinities have nowhere to move to.
      const moved = `${value} - ${value} = 0${'absolute' in rule ? '' : ` AND ${value} <> 0`}`
      const same = `${fresh.select(`${maskColumn(rule, place)} = ${value} AS same`, `${fromItem(table)} AS t`)} WHERE ${moved}`
      this.#checks.push({
        column: id,
        sql: `SELECT CASE WHEN count(*) FILTER (WHERE same) * 2 > count(*) THEN count(*) FILTER (WHERE same) ELSE 0 END AS count FROM (${same}) s`,
        problem: (count) =>
          `${id}: ${count} numbers, more than half of them, stay unchanged. Add noise, or keep it with a reason`,
      })
    }
  }

  /** A kept column can contain what another column of its row hides, such as a name within a remark. */
  kept(table: MaskTable, { column, what }: Decision, decisions: readonly Decision[]): void {
    const id = `${table.name}.${column.name}`
    if (own(this.#survivors, id)) return
    const texts = this.#keptTexts(table, column, what)
    const hidden = decisions.filter(({ strict, use }) => strict && use !== 'partial')
    if (texts.length) this.#checkTexts(table, id, columnOf(column.name), texts, hidden, 'the kept value gives away', 6)
  }

  /** Texts of a kept column, or of the members of a document that are kept, of a value `s.made`. */
  #keptTexts(table: MaskTable, column: MaskColumn, what: Decision['what']): string[] {
    const rule = this.#inheritance.ruleOf(table.name, column.name)
    const { family, array } = column
    if (what === 'kept' && TEXTS.has(family)) {
      // A person's name can be a member's key; only the document as text includes keys.
      const members = family === 'json' && !array ? ['SELECT s.made::text'] : []
      return [...textsOf('s.made', column), ...members]
    }
    if (what === 'kept' && family === 'bytea' && !array) return [`SELECT encode(s.made, 'escape')`]
    // A telephone number; not what the database counts, nor what refers to that.
    if (what === 'kept' && NUMBERS.has(family) && rule) return textsOf('s.made', column)
    if (what !== 'masked' || !rule || !('use' in rule) || rule.use !== 'json') return []
    return jsonTexts('s.made::jsonb', jsonTree(rule.paths), (leaf) => 'keep' in leaf)
  }

  /** No text in `value` may contain an original text of its row, literally or in another spelling. */
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
        `${id}: in ${count} rows ${verb} an original text of the row. Give it another rule, or set \`allow-survivors\` with a reason`,
    })
  }
}
