import { number, plural, someOf } from '../runtime/progress.ts'
import { differences, isFinished, type TableVerdict } from '../tools/molt-verify.ts'
import { markdownText } from './markdown.ts'
import type { VerifyReport } from './verify-report.ts'

/**
 * Formats a report as Markdown that can be read in ten seconds: the verdict, problems and differences, with clean
 * tables collapsed.
 */
export function verifyTable(report: VerifyReport): string {
  const bad = report.tables.filter((table) => differences(table) > 0)
  const same = report.tables.filter((table) => differences(table) === 0)
  const clean = same.filter((table) => wasCompared(report, table))
  const unseen = same.filter((table) => !wasCompared(report, table))
  const rows = report.tables.reduce((sum, table) => sum + table.rows, 0)
  const parts = [headline(report, clean.length, rows)]
  if (report.problems.length) parts.push(list(report.problems))
  if (bad.length) parts.push(tableOf(bad))
  if (report.decisions.length) parts.push(`**For you to decide**\n\n${list(report.decisions)}`)
  if (report.notes.length) parts.push(folded(plural(report.notes.length, 'note'), list(report.notes)))
  if (unseen.length) parts.push(`**Not fully compared:** ${unseen.map(({ name }) => markdownText(name)).join(', ')}`)
  if (clean.length) parts.push(folded(`${plural(clean.length, 'clean table')}`, tableOf(clean)))
  return parts.join('\n\n')
}

/** Whether a table was compared completely at the report's level. Always true for levels that do not compare rows. */
export function wasCompared({ level }: VerifyReport, table: TableVerdict): boolean {
  return level === 'counts' || level === 'tables' || isFinished(table)
}

function headline(report: VerifyReport, clean: number, rows: number): string {
  const how = report.counted === 'estimated' ? ' (row counts are estimates, except for those from molt)' : ''
  const what = {
    full: 'every row compared twice: by molt, and by hashes that both databases computed',
    changed: 'every row compared during the stream, and again after each change',
    molt: 'every row compared by molt',
    counts: 'only row counts compared',
    tables: '',
  }[report.level]
  if (report.verdict === 'clean')
    return report.level === 'tables'
      ? '### ✅ Verify: the definitions match; no rows were compared'
      : `### ✅ Verify: ${plural(clean, 'table')} equal, ${plural(rows, 'row')}, ${what}${how}`
  if (report.verdict === 'unsettled') return `### ⚠️ Verify: equality not proved, no known loss${how}`
  return `### ❌ Verify: ${plural(report.problems.length, 'problem')}${how}`
}

/** Maximum number of items per list, to stay well below GitHub's limit for a summary. */
const LISTED = 500

function list(items: readonly string[]): string {
  const shown = items.slice(0, LISTED).map((item) => `- ${markdownText(item)}`)
  if (items.length > shown.length) shown.push(`- and ${items.length - shown.length} more`)
  return shown.join('\n')
}

/** Returns a collapsed section. It must end in an empty line, or Markdown after it is not rendered. */
export function folded(title: string, body: string): string {
  return `<details><summary>${title}</summary>\n\n${body}\n\n</details>\n`
}

function tableOf(tables: readonly TableVerdict[]): string {
  const lines = tables.slice(0, 500).map(({ name, rows, missing, mismatch, extraneous, columns, diagnosis }) => {
    const note = diagnosis ?? (columns?.length ? `in ${someOf(columns, 5)}` : '')
    return `| ${markdownText(name)} | ${rows.toLocaleString('en-US')} | ${missing} | ${mismatch} | ${extraneous} | ${markdownText(note)} |`
  })
  if (tables.length > lines.length) lines.push(`| and ${tables.length - lines.length} more | | | | | |`)
  return [
    '| table | rows | missing | different | extraneous | |',
    '| --- | ---: | ---: | ---: | ---: | --- |',
    ...lines,
  ].join('\n')
}

/** Formats a completed load as Markdown, with the rows by table collapsed. */
export function loadedTable(loaded: {
  arrived: Record<string, number>
  rows: number
  cursor: string
  durationMs: number
  mode: string
}): string {
  const tables = Object.entries(loaded.arrived)
  const lines = tables.map(([table, count]) => `| ${markdownText(table)} | ${count.toLocaleString('en-US')} |`)
  return [
    `### ✅ Loaded: ${number(tables.length)} of ${plural(tables.length, 'expected table')}, ${plural(loaded.rows, 'row')}`,
    `In ${(loaded.durationMs / 1000).toFixed(1)} s, by ${loaded.mode}. The stream begins at \`${loaded.cursor}\`.`,
    folded('Rows by table', `| table | rows |\n| --- | ---: |\n${lines.join('\n')}`),
  ].join('\n\n')
}
