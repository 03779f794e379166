import { markdownText } from '../report/markdown.ts'
import { number, plural } from '../runtime/progress.ts'
import type { ColumnProof, Proof } from './proof.ts'
import type { Rules } from './rules.ts'

/** The proof as Markdown: the verdict, what an approver must check, and every column before and after. */
export function maskSummary(
  evidence: Proof & { rows: number; durationMs: number; allowed: NonNullable<Rules['proof']> },
): string {
  const { problems, tables, columns, hits, canaries, keptPersonal, references } = evidence
  const masked = columns.filter(({ what }) => what === 'masked')
  const head = problems.length
    ? `### ❌ Mask: ${plural(problems.length, 'problem')}\n\n${problems
        .slice(0, 30)
        .map((each) => `- ${markdownText(each)}`)
        .join('\n')}`
    : `### ✅ Masked and proved: ${plural(evidence.rows, 'row')} in ${plural(tables.length, 'table')}`
  const checks = [
    `- ${plural(masked.length, 'masked column')}, with ${plural(
      columns.reduce((sum, { survivors = 0 }) => sum + survivors, 0),
      'original',
    )} among the masked values`,
    `- ${plural(evidence.scannedColumns, 'free-text column')} scanned, ${plural(
      hits.reduce((sum, each) => sum + each.hits, 0),
      'hit',
    )}`,
    canaries.planted
      ? `- ${plural(canaries.planted, 'canary', 'canaries')}: in ${plural(canaries.rowsBefore, 'row')} before, in ${number(canaries.rowsAfter)} after`
      : '- no canaries were planted',
    `- ${plural(evidence.constraints, 'valid constraint or index', 'valid constraints and indexes')}, ${plural(references.length, 'undeclared reference')} compared`,
  ]
  const kept = keptPersonal.map(
    ({ table, column, looksLike, reason }) =>
      `| ${markdownText(table)}.${markdownText(column)} | ${looksLike} | ${markdownText(reason)} |`,
  )
  const parts = [head, checks.join('\n')]
  const allowed = allowances(evidence.allowed)
  if (allowed.length) parts.push(`#### Exemptions from the proof\n\n${allowed.join('\n')}`)
  if (kept.length)
    parts.push(
      `#### Kept, although the name suggests personal data\n\n| column | looks like | why it is kept |\n| --- | --- | --- |\n${kept.join('\n')}`,
    )
  const vouched = columns.filter(({ use }) => use === 'sql')
  if (vouched.length) parts.push(`#### Computed by a reviewed expression\n\n${reasons(vouched)}`)
  parts.push(
    fold('Kept columns, and why', reasons(columns.filter(({ what }) => what === 'kept'))),
    fold(`Tables before and after`, tableRows(evidence)),
    fold('Columns before and after', columnRows(columns)),
  )
  return parts.join('\n\n')
}

/** Maximum number of lines per list in the summary. `mask.json` has the complete lists. */
const MOST = 400

function reasons(columns: readonly ColumnProof[]): string {
  const lines = columns
    .slice(0, MOST)
    .map(({ table, column, why }) => `| ${markdownText(table)}.${markdownText(column)} | ${markdownText(why)} |`)
  const more = columns.length > MOST ? `\n\nThe evidence has ${number(columns.length - MOST)} more.` : ''
  return `| column | why |\n| --- | --- |\n${lines.join('\n')}${more}`
}

function allowances(proof: NonNullable<Rules['proof']>): string[] {
  const lines = Object.entries(proof).flatMap(([setting, value]) =>
    typeof value === 'object'
      ? Object.entries(value).map(
          ([column, reason]) => `\`${setting}\` ${markdownText(column)}: ${markdownText(reason)}`,
        )
      : [`\`${setting}\`: ${markdownText(String(value))}`],
  )
  return lines.map((line) => `- ${line}`)
}

function tableRows({ tables }: Proof): string {
  const lines = tables.map(
    (each) =>
      `| ${markdownText(each.table)} | ${number(each.rowsBefore)} | ${number(each.rowsAfter)} | ${optional(each.keyGapsBefore)} | ${optional(each.keyGapsAfter)} |`,
  )
  return `| table | rows before | after | key gaps before | after |\n| --- | ---: | ---: | ---: | ---: |\n${lines.join('\n')}`
}

function columnRows(columns: readonly ColumnProof[]): string {
  const changed = columns.filter(({ what }) => what === 'masked' || what === 'moved').slice(0, MOST)
  const both = (each: ColumnProof, value: (shape: ColumnProof['before']) => string) =>
    `${value(each.before)} → ${value(each.after)}`
  const lines = changed.map(
    (each) =>
      `| ${markdownText(each.table)}.${markdownText(each.column)} | ${each.use} | ${both(each, ({ nullShare }) => `${(100 * nullShare).toFixed(1)}%`)} | ${both(each, ({ averageLength }) => averageLength?.toFixed(1) ?? '·')} | ${both(each, ({ distinct }) => optional(distinct))} | ${both(each, ({ top }) => optional(top))} | ${optional(each.survivors)} |`,
  )
  return `| column | rule | NULL | length | different values | most frequent | originals left |\n| --- | --- | --- | --- | --- | --- | ---: |\n${lines.join('\n')}`
}

function fold(title: string, body: string): string {
  return `<details><summary>${title}</summary>\n\n${body}\n\n</details>`
}

function optional(value: number | undefined): string {
  return value === undefined ? '·' : number(value)
}
