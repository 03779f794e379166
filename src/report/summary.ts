import type { VerifyReport } from '../steps/verifying.ts'
import { differences, type TableVerdict } from '../tools/molt-verify.ts'

/** The verdict on every table, differences first and the clean ones folded, for an approver's ten seconds. */
export function verifyTable(report: VerifyReport): string {
  const bad = report.tables.filter((table) => differences(table) > 0)
  const clean = report.tables.filter((table) => differences(table) === 0)
  const head = report.problems.length
    ? `### ❌ Verify: ${report.problems.length} problems\n\n${report.problems
        .slice(0, 30)
        .map((problem) => `- ${markdownText(problem)}`)
        .join('\n')}`
    : `### ✅ Verify: ${clean.length} tables equal`
  const parts = [head]
  if (bad.length) parts.push(rows(bad))
  if (clean.length) parts.push(`<details><summary>${clean.length} clean tables</summary>\n\n${rows(clean)}\n</details>`)
  return parts.join('\n\n')
}

function rows(tables: readonly TableVerdict[]): string {
  const lines = tables.map(
    (table) =>
      `| ${markdownText(table.name)} | ${table.rows.toLocaleString('en-US')} | ${table.missing} | ${table.mismatch} | ${table.extraneous} | ${table.columnMismatch} |`,
  )
  return [
    '| table | rows | missing | different | extraneous | other columns |',
    '| --- | ---: | ---: | ---: | ---: | ---: |',
    ...lines,
  ].join('\n')
}

/** Names from a database are text: they must not become Markdown or HTML. */
function markdownText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('|', '\\|').replaceAll('\n', ' ')
}

/** What was loaded, with the rows of each table folded. */
export function loadedTable(loaded: {
  arrived: Record<string, number>
  rows: number
  cursor: string
  durationMs: number
  insecure: readonly string[]
  mode: string
}): string {
  const tables = Object.entries(loaded.arrived)
  const lines = tables.map(([table, count]) => `| ${markdownText(table)} | ${count.toLocaleString('en-US')} |`)
  return [
    `### ✅ Loaded: ${tables.length} of ${tables.length} expected tables, ${loaded.rows.toLocaleString('en-US')} rows`,
    ...loaded.insecure.map((each) => `> [!WARNING]\n> \`allow-insecure\`: ${markdownText(each)}`),
    `In ${(loaded.durationMs / 1000).toFixed(1)} s, by ${loaded.mode}. The stream begins at \`${loaded.cursor}\`.`,
    `<details><summary>Rows by table</summary>\n\n| table | rows |\n| --- | ---: |\n${lines.join('\n')}\n</details>`,
  ].join('\n\n')
}
