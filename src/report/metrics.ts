import { renameSync, writeFileSync } from 'node:fs'
import { warning } from '@actions/core'
import { messageOf } from '../runtime/errors.ts'

/** Figures of a streaming or watching step; undefined ones are left out. */
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

/** Prefix of every metric. Names end in their unit, as OpenMetrics requires. */
const GAUGES: readonly [key: keyof Figures, name: string, unit: string, help: string][] = [
  ['lagSeconds', 'lag_seconds', 'seconds', 'Age of the oldest heartbeat that has not reached the target.'],
  ['rowsPerSecond', 'rows_per_second', '', 'Rows applied to the target per second.'],
  ['walKeptBytes', 'wal_kept_bytes', 'bytes', 'WAL that the slot keeps on the source.'],
  ['keysOpen', 'keys_open', '', 'Changed rows still to be compared.'],
  ['thresholdsPassed', 'thresholds_passed', '', 'Thresholds that the last watch found exceeded.'],
]

/** States: the current one has a sample of 1, so a change of state shows as a change of labels. */
const STATES: readonly [key: 'phase' | 'verdict', help: string][] = [
  ['phase', 'Phase of the migration by the ledger.'],
  ['verdict', 'Verdict of the last watch.'],
]

/**
 * OpenMetrics text. Gauges only, so that a node exporter's textfile collector, which reads Prometheus text, accepts
 * it too.
 * @param at of the runner's clock, in milliseconds
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
  lines.push(...family('updated_timestamp_seconds', 'seconds', 'When this file was written.', [[migration, at / 1000]]))
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
 * Replaces the file atomically, so that no reader sees half of it. World-readable, because a node exporter runs as
 * another user. A file that cannot be written is reported once, and fails nothing.
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
