import { renameSync, writeFileSync } from 'node:fs'
import { warning } from '@actions/core'
import { messageOf } from '../runtime/errors.ts'

/** Figures to export from a step that streams or watches. Undefined figures are left out. */
export interface Figures {
  migration: string
  phase: string
  lagSeconds?: number
  rowsPerSecond?: number
  walKeptBytes?: number
  keysOpen?: number
  verdict?: string
  thresholdsPassed?: number
}

/** Gauges to export. Their names end in the unit, as OpenMetrics requires. */
const GAUGES: readonly [key: keyof Figures, name: string, unit: string, help: string][] = [
  ['lagSeconds', 'lag_seconds', 'seconds', 'Age of the oldest heartbeat that has not reached the target.'],
  ['rowsPerSecond', 'rows_per_second', '', 'Rows applied to the target per second.'],
  ['walKeptBytes', 'wal_kept_bytes', 'bytes', 'WAL that the slot retains on the source.'],
  ['keysOpen', 'keys_open', '', 'Changed rows still to be compared.'],
  ['thresholdsPassed', 'thresholds_passed', '', 'Thresholds exceeded in the last watch.'],
]

/** States to export. The current state is the label of a sample whose value is 1. */
const STATES: readonly [key: 'phase' | 'verdict', help: string][] = [
  ['phase', 'Phase of the migration in the ledger.'],
  ['verdict', 'Verdict of the last watch.'],
]

/**
 * Formats figures as OpenMetrics text. Uses only gauges, so that the node exporter's textfile collector, which reads
 * Prometheus text, accepts it too.
 * @param at milliseconds since 1970, by the runner's clock
 */
export function metricsText(figures: Figures, at: number): string {
  const migration = `migration="${label(figures.migration)}"`
  const lines = GAUGES.flatMap(([key, name, unit, help]) => {
    const value = figures[key]
    return typeof value === 'number' ? family(name, unit, help, [[migration, value]]) : []
  })
  for (const [key, help] of STATES) {
    const value = figures[key]
    if (value) lines.push(...family(key, '', help, [[`${migration},${key}="${label(value)}"`, 1]]))
  }
  lines.push(
    ...family('updated_timestamp_seconds', 'seconds', 'Time at which this file was written.', [[migration, at / 1000]]),
  )
  return `${lines.join('\n')}\n# EOF\n`
}

function family(name: string, unit: string, help: string, samples: readonly [labels: string, value: number][]) {
  const full = `molt_actions_${name}`
  return [
    `# HELP ${full} ${help}`,
    `# TYPE ${full} gauge`,
    ...(unit ? [`# UNIT ${full} ${unit}`] : []),
    ...samples.map(([labels, value]) => `${full}{${labels}} ${number(value)}`),
  ]
}

function number(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  return Number.isFinite(value) ? String(value) : value > 0 ? '+Inf' : '-Inf'
}

function label(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}

let warned = false

/**
 * Replaces the metrics file atomically. The file is world-readable, because the node exporter runs as another user. If
 * the file cannot be written, warns once, but does not fail the step.
 */
export function writeMetrics(path: string | undefined, figures: Figures): void {
  if (!path) return
  const unfinished = `${path}.${process.pid}.tmp`
  try {
    writeFileSync(unfinished, metricsText(figures, Date.now()), { mode: 0o644 })
    renameSync(unfinished, path)
  } catch (error) {
    if (!warned) warning(`\`metrics-file\` cannot be written: ${messageOf(error)}`)
    warned = true
  }
}
