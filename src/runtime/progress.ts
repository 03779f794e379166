import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { info } from '@actions/core'

/** Creates the folder for this job's logs and evidence, readable only by its user. */
export function workFolder(migrationId: string): string {
  const folder = join(process.env.RUNNER_TEMP ?? '.', 'molt-actions', migrationId)
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  return folder
}

/** Logs `line()` every `everyMs` milliseconds, until stopped. */
export function progress(everyMs: number, line: () => string): { stop(): void } {
  const stopper = new AbortController()
  void (async () => {
    while (!stopper.signal.aborted) {
      await sleep(everyMs, undefined, { signal: stopper.signal }).catch(() => {})
      if (!stopper.signal.aborted) info(line())
    }
  })()
  return { stop: () => stopper.abort() }
}

/** `1,234,567` */
export function number(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** `1 table`, `2 tables` */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`
}

/** `a, b and 3 more` */
export function someOf(names: readonly string[], shown: number): string {
  const more = names.length > shown ? ` and ${number(names.length - shown)} more` : ''
  return `${names.slice(0, shown).join(', ')}${more}`
}

/** Formats milliseconds as `12 s`; above 2 minutes as `5 min`; above 2 hours as `24 h` or `2 h 29 min`. */
export function minutes(ms: number): string {
  if (ms < 120_000) return seconds(ms)
  const whole = Math.round(ms / 60_000)
  if (whole < 120) return `${number(whole)} min`
  return `${number(Math.floor(whole / 60))} h${whole % 60 ? ` ${whole % 60} min` : ''}`
}

/** Formats milliseconds as `1.2 s`. */
export function seconds(ms: number): string {
  return Number.isFinite(ms) ? `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s` : 'unknown'
}

/** `2026-11-30 10:51 UTC` */
export function clock(at: Date): string {
  return `${at.toISOString().slice(0, 16).replace('T', ' ')} UTC`
}
