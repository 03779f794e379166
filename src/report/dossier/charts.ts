import { html } from './html.ts'

/** A moment that is marked by a vertical line in a chart. */
export interface Mark {
  /** Milliseconds since 1970. */
  at: number
  label: string
}

/** A chart of values over time. */
export interface Chart {
  title: string
  /** Name and unit of the values. */
  axis: string
  /** Milliseconds since 1970, in ascending order. */
  at: readonly number[]
  /** `null` breaks the line. */
  values: readonly (number | null)[]
  marks?: readonly Mark[]
}

/** Returns the HTML element for a chart, with a description for screen readers. */
export function chartFigure({ title, axis, values, marks = [] }: Chart, index: number): string {
  const known = values.filter((value) => value !== null)
  const summary = `maximum ${format(Math.max(0, ...known))}, last ${format(known.at(-1) ?? 0)}`
  const key = marks.length
    ? `<ol class="marks">${marks.map(({ label }) => `<li>${html(label)}</li>`).join('')}</ol>`
    : ''
  return `<figure><figcaption>${html(title)} <small>${html(axis)}: ${summary}</small></figcaption><div class="chart" data-chart="${index}" role="img" aria-label="${html(`${title}, ${axis}: ${summary}`)}"></div>${key}</figure>`
}

function format(value: number): string {
  return value < 10 ? String(Number(value.toFixed(2))) : Math.round(value).toLocaleString('en-US')
}

/** The charts as data for {@link CLIENT}. */
export function chartData(charts: readonly Chart[]): string {
  const data = charts.map(({ axis, at, values, marks = [] }) => ({
    axis,
    data: [at.map((ms) => ms / 1000), values],
    marks: marks.map((mark) => mark.at / 1000),
  }))
  return JSON.stringify(data).replaceAll('<', '\\u003c')
}

/**
 * Script that draws the charts in the page. Redraws them when the page's width, colour scheme or medium changes, because
 * a canvas does not adapt.
 */
export const CLIENT = `
const charts = JSON.parse(document.getElementById('charts').textContent)
const dark = matchMedia('(prefers-color-scheme: dark)')
const PRINT_WIDTH = 680
let printing = false
let drawn = []
const palette = () => dark.matches && !printing
  ? { ink: '#f0f6fc', grid: '#3d444d', line: '#58a6ff', fill: 'rgba(88,166,255,.25)', mark: '#f0883e' }
  : { ink: '#1f2328', grid: '#d0d7de', line: '#0969da', fill: 'rgba(9,105,218,.18)', mark: '#bc4c00' }
function marks(lines, color) {
  return (u) => {
    const { ctx, bbox } = u
    ctx.save()
    ctx.strokeStyle = ctx.fillStyle = color
    ctx.font = 12 * devicePixelRatio + 'px system-ui, sans-serif'
    ctx.lineWidth = devicePixelRatio
    ctx.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio])
    lines.forEach((at, index) => {
      const x = u.valToPos(at, 'x', true)
      if (x < bbox.left || x > bbox.left + bbox.width) return
      ctx.beginPath()
      ctx.moveTo(x, bbox.top)
      ctx.lineTo(x, bbox.top + bbox.height)
      ctx.stroke()
      ctx.fillText(String(index + 1), x + 3 * devicePixelRatio, bbox.top + (12 + (index % 3) * 13) * devicePixelRatio)
    })
    ctx.restore()
  }
}
function draw() {
  for (const plot of drawn) plot.destroy()
  const { ink, grid, line, fill, mark } = palette()
  const font = '12px system-ui, sans-serif'
  const axis = { stroke: ink, font, labelFont: font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } }
  drawn = [...document.querySelectorAll('.chart')].map((place) => {
    const chart = charts[place.dataset.chart]
    return new uPlot({
      width: printing ? PRINT_WIDTH : place.clientWidth,
      height: 220,
      // Room for the last label of the time axis.
      padding: [null, 28, null, null],
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), 'UTC'),
      fmtDate: uPlot.fmtDate,
      scales: { y: { range: (u, min, max) => [0, max > 0 ? max * 1.05 : 1] } },
      axes: [{ ...axis, space: 70, label: 'time, UTC', labelSize: 20, values: [
        [86400, '{YYYY}-{MM}-{DD}', null, null, null, null, null, null, 1],
        [3600, '{HH}:{mm}', '\\n{YYYY}-{MM}-{DD}', null, null, null, null, null, 1],
        [60, '{HH}:{mm}', '\\n{YYYY}-{MM}-{DD}', null, null, null, null, null, 1],
        [1, '{HH}:{mm}:{ss}', '\\n{YYYY}-{MM}-{DD}', null, null, null, null, null, 1],
        [0.001, '{HH}:{mm}:{ss}.{fff}', '\\n{YYYY}-{MM}-{DD}', null, null, null, null, null, 1],
      ] }, { ...axis, label: chart.axis, labelSize: 20, size: 60 }],
      series: [{ label: 'time, UTC', value: '{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}' }, { label: chart.axis, stroke: line, fill, width: 2, points: { show: chart.data[0].length < 3 } }],
      hooks: { draw: [marks(chart.marks, mark)] },
    }, chart.data, place)
  })
}
draw()
dark.addEventListener('change', draw)
let width = innerWidth
addEventListener('resize', () => { if (innerWidth !== width) { width = innerWidth; draw() } })
addEventListener('beforeprint', () => { printing = true; draw() })
addEventListener('afterprint', () => { printing = false; draw() })
`
