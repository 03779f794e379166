// A rehearsal as one page that stands alone: when the application could write, what the pause was made of, and below it
// what an approver reads on GitHub.
import { setTimeout as sleep } from 'node:timers/promises'
import { Marked } from 'marked'
import markedAlert from 'marked-alert'
import { number, seconds } from '../../src/runtime/progress.ts'
import type { Account } from './account.ts'

/** Often enough to show a pause of a second. */
const SAMPLE_MS = 250

/** When the steps began, and how much the application wrote; in milliseconds since the beginning. */
export class Timeline {
  readonly steps: { name: string; at: number }[] = []
  /** `total`: transactions that the application has committed by then. */
  readonly samples: { at: number; total: number }[] = []
  readonly #began = performance.now()

  step(name: string): void {
    this.steps.push({ name, at: performance.now() - this.#began })
  }

  /** Looks at a counter of transactions until `signal` says that it is over. */
  async follow(total: () => number, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.samples.push({ at: performance.now() - this.#began, total: total() })
      await sleep(SAMPLE_MS, undefined, { signal }).catch(() => {})
    }
  }
}

/** @param summary the job's summary, in which names are escaped already */
export function reportPage(account: Account, timeline: Timeline, summary: string): string {
  const go = account.verdict === 'go'
  const facts = [
    ['rows loaded', number(account.rowsLoaded)],
    ['changes streamed', number(account.changesStreamed)],
    ['lag before the pause', account.lagMs === null ? 'not measured' : `${number(account.lagMs)} ms`],
    ['write pause', account.pauseMs === null ? 'none' : `${number(account.pauseMs)} ms`],
    ['was expected', account.estimatedPauseMs === null ? 'not estimated' : `${number(account.estimatedPauseMs)} ms`],
    ...(account.applicationPauseMs === null
      ? []
      : [['the application could not write for', `${number(account.applicationPauseMs)} ms`]]),
    ['moved by', account.engine],
    ['application after the commit', account.observed ?? 'not watched'],
    ['moved to', account.target],
  ]
  const markdown = new Marked(markedAlert(), { gfm: true, async: false })
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Rehearsal: ${go ? 'go' : 'no-go'}</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>${STYLE}</style></head><body><main>
<h1 class="${account.verdict}">${go ? 'Go' : 'No-go'}</h1><p>${html(account.reason)}</p>
<dl>${facts.map(([what, value]) => `<div><dt>${what}</dt><dd>${html(value as string)}</dd></div>`).join('')}</dl>
${writesChart(timeline)}${pauseChart(account)}${searchTable(account)}
<section>${markdown.parse(summary)}</section></main></body></html>
`
}

const WIDTH = 960
const HEIGHT = 180

/** What the application wrote, second by second, above the steps that ran meanwhile. */
function writesChart({ samples, steps }: Timeline): string {
  const points = samples.slice(1).map(({ at, total }, index) => {
    const before = samples[index] as { at: number; total: number }
    return { at, rate: ((total - before.total) * 1000) / (at - before.at) }
  })
  const [first, last] = [points[0], points.at(-1)]
  if (!first || !last) return ''
  const most = Math.max(1, ...points.map(({ rate }) => rate))
  const begin = steps[0]?.at ?? first.at
  const x = (at: number) => (((at - begin) / (last.at - begin)) * WIDTH).toFixed(1)
  const y = (rate: number) => (HEIGHT - (rate / most) * (HEIGHT - 20)).toFixed(1)
  const line = points.filter(({ at }) => at >= begin).map(({ at, rate }) => `${x(at)},${y(rate)}`)
  const marks = steps.map(({ name, at }, index) => {
    const place = Number(x(at))
    const low = HEIGHT + 16 + (index % 3) * 15
    return `<path class="mark" d="M${place} 0V${low}"/><text x="${place + 4}" y="${low}">${html(name)} · ${seconds(at - begin)}</text>`
  })
  return `<figure><figcaption>Transactions that the application committed, at most ${number(most)} a second, while the steps ran</figcaption>
<svg viewBox="0 0 ${WIDTH + 120} ${HEIGHT + 52}" role="img"><path class="area" d="M${x(first.at)},${HEIGHT} L${line.join(' ')} L${x(last.at)},${HEIGHT}Z"/>${marks.join('')}</svg></figure>`
}

/** The parts of the pause, one after the other, each as long as it took, with what was expected of it. */
function pauseChart({ pauseMs, pauseParts, estimatedParts }: Account): string {
  if (!pauseMs) return ''
  let from = 0
  const bars = Object.entries(pauseParts).map(([part, ms], index) => {
    const [left, width] = [(from / pauseMs) * WIDTH, Math.max(2, (ms / pauseMs) * WIDTH)]
    from += ms
    const top = index * 20
    const label = left > WIDTH / 2 ? `x="${left - 6}" text-anchor="end"` : `x="${left + width + 6}"`
    const inside = width > WIDTH / 2 ? `x="${left + 8}" class="inside"` : label
    const expected = estimatedParts[part] === undefined ? '' : ` (expected ${number(estimatedParts[part])})`
    return `<rect class="bar" x="${left}" y="${top}" width="${width}" height="16"/><text ${inside} y="${top + 12}">${html(part)} ${number(ms)} ms${expected}</text>`
  })
  return `<figure><figcaption>The write pause of ${number(pauseMs)} ms, part by part</figcaption>
<svg viewBox="0 0 ${WIDTH + 120} ${bars.length * 20}" role="img">${bars.join('')}</svg></figure>`
}

/** Where texts of production were looked for; only production itself may have any. */
function searchTable({ masking }: Account): string {
  if (!masking) return ''
  const rows = masking.searches.map(
    ({ place, looked, found }) =>
      `<tr><td>${html(place)}</td><td>${html(looked)}</td><td>${found.length} of ${masking.needles}</td></tr>`,
  )
  return `<figure><figcaption>Texts of production, and where they were looked for</figcaption>
<table><tr><th>place</th><th>searched</th><th>found</th></tr>${rows.join('')}</table></figure>`
}

function html(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')
}

const STYLE = `
:root { color-scheme: light dark; --line: light-dark(#d0d7de, #3d444d); --soft: light-dark(#f6f8fa, #151b23); --write: light-dark(#2da44e, #3fb950); --bad: light-dark(#cf222e, #f85149) }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; background: light-dark(#fff, #0d1117); color: light-dark(#1f2328, #f0f6fc) }
main { max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin: 0 } h1.go { color: var(--write) } h1.no-go { color: var(--bad) }
dl { display: flex; flex-wrap: wrap; gap: .5rem } dl div { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .8rem }
dt { font-size: .8rem; opacity: .75 } dd { margin: 0; font-weight: 600 }
figure { margin: 1.5rem 0 } figcaption { font-weight: 600; margin-bottom: .5rem }
svg { width: 100% } svg text { font-size: 12px; fill: currentColor } svg text.inside { fill: #fff }
.area { fill: var(--write); fill-opacity: .55; stroke: var(--write) } .mark { stroke: currentColor; stroke-opacity: .35 } .bar { fill: light-dark(#0969da, #1f6feb) }
section { border-top: 1px solid var(--line) } table { border-collapse: collapse; display: block; overflow-x: auto } td, th { border: 1px solid var(--line); padding: .3rem .6rem } tr:nth-child(even) { background: var(--soft) }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 4px } details { margin: .8rem 0 } summary { cursor: pointer }
.markdown-alert { border-left: 4px solid var(--bad); padding: .1rem 1rem; margin: 1rem 0 } .markdown-alert svg { width: 16px }`
