/*
 * Escapes names and text from a database, so that they are not rendered as Markdown or HTML, and fit into a table cell.
 */

/** Escapes text for Markdown. Text between backticks stays code. */
export function markdownText(text: string): string {
  return text
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? markdownCode(part) : plainText(part)))
    .join('')
}

function plainText(text: string): string {
  return text
    .replace(/\s+/g, ' ')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replace(/[\\`*[\]|]|(?<![a-z0-9])_|_(?![a-z0-9])/gi, '\\$&')
}

/** Formats text as inline code on one line, with as many backticks as needed. */
export function markdownCode(text: string): string {
  const line = text.replace(/\s+/g, ' ').replaceAll('|', '\\|')
  const runs = [...line.matchAll(/`+/g)].map(([ticks]) => ticks.length)
  const fence = '`'.repeat(Math.max(0, ...runs) + 1)
  const padded = fence.length > 1 ? ` ${line} ` : line
  return `${fence}${padded}${fence}`
}
