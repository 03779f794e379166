/** Escapes text for HTML, including attributes. */
export function html(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')
}

/** Escapes a sentence for HTML. Text between backticks becomes code. */
export function prose(text: string): string {
  return text
    .split(/`([^`]+)`/)
    .map((part, index) => (index % 2 ? `<code>${html(part)}</code>` : html(part)))
    .join('')
}

/**
 * Returns an HTML table.
 * @param rows cells as HTML
 * @param numeric indexes of the columns to align right
 * @param kind CSS class
 */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  numeric: readonly number[] = [],
  kind = '',
): string {
  const cell = (tag: string) => (text: string, index: number) =>
    `<${tag}${numeric.includes(index) ? ' class="n"' : ''}>${text}</${tag}>`
  const body = rows.map((cells) => `<tr>${cells.map(cell('td')).join('')}</tr>`)
  return `<div class="scroll"><table class="${kind}"><thead><tr>${head.map(cell('th')).join('')}</tr></thead><tbody>${body.join('')}</tbody></table></div>`
}

/** Label, value, and the value with its unit as text. */
export type Bar = [label: string, value: number, text: string]

/** Returns a bar chart. The longest bar takes the full width. */
export function bars(rows: readonly Bar[]): string {
  const most = Math.max(1, ...rows.map(([, value]) => value))
  const lines = rows.map(
    ([label, value, text]) =>
      `<div class="bar"><span>${html(label)}</span><span class="track"><i style="width:${((value / most) * 100).toFixed(1)}%"></i></span><b>${html(text)}</b></div>`,
  )
  return `<div class="bars">${lines.join('')}</div>`
}

export function details(title: string, body: string): string {
  return `<details><summary>${html(title)}</summary>${body}</details>`
}

export function list(items: readonly string[]): string {
  return `<ul>${items.map((item) => `<li>${item}</li>`).join('')}</ul>`
}

export function facts(pairs: readonly (readonly [label: string, text: string] | undefined)[]): string {
  const lines = pairs.flatMap((pair) => (pair ? [`<div><dt>${html(pair[0])}</dt><dd>${pair[1]}</dd></div>`] : []))
  return `<dl>${lines.join('')}</dl>`
}
