import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { metricsText, writeMetrics } from '../../src/report/metrics.ts'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'metrics-'))
})
afterEach(() => {
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true, force: true })
})

describe('metricsText', () => {
  it('returns OpenMetrics text with units and a final EOF', () => {
    expect(
      metricsText({ migration: 'main', phase: 'loaded', lagSeconds: 0.25, walKeptBytes: 1024 }, 1_700_000_000_500),
    ).toBe(
      `# HELP molt_actions_lag_seconds Age of the oldest heartbeat that has not reached the target.
# TYPE molt_actions_lag_seconds gauge
# UNIT molt_actions_lag_seconds seconds
molt_actions_lag_seconds{migration="main"} 0.25
# HELP molt_actions_wal_kept_bytes WAL that the slot retains on the source.
# TYPE molt_actions_wal_kept_bytes gauge
# UNIT molt_actions_wal_kept_bytes bytes
molt_actions_wal_kept_bytes{migration="main"} 1024
# HELP molt_actions_phase Phase of the migration in the ledger.
# TYPE molt_actions_phase gauge
molt_actions_phase{migration="main",phase="loaded"} 1
# HELP molt_actions_updated_timestamp_seconds Time at which this file was written.
# TYPE molt_actions_updated_timestamp_seconds gauge
# UNIT molt_actions_updated_timestamp_seconds seconds
molt_actions_updated_timestamp_seconds{migration="main"} 1700000000.5
# EOF
`,
    )
  })

  it('writes every known metric', () => {
    const text = metricsText(
      {
        migration: 'main',
        phase: 'finalized',
        rowsPerSecond: 12,
        keysOpen: 3,
        verdict: 'degraded',
        thresholdsPassed: 2,
      },
      0,
    )
    for (const sample of [
      'rows_per_second{migration="main"} 12',
      'keys_open{migration="main"} 3',
      'thresholds_passed{migration="main"} 2',
    ])
      expect(text).toContain(`molt_actions_${sample}\n`)
    expect(text).toContain('molt_actions_verdict{migration="main",verdict="degraded"} 1\n')
  })

  it('writes infinity, and escapes labels', () => {
    const text = metricsText({ migration: 'a"\\\n', phase: '', lagSeconds: Number.POSITIVE_INFINITY }, 0)
    expect(text).toContain('molt_actions_lag_seconds{migration="a\\"\\\\\\n"} +Inf\n')
  })
})

describe('writeMetrics', () => {
  it('replaces the file atomically and keeps it readable by other users', () => {
    const path = join(folder, 'molt.prom')
    writeMetrics(path, { migration: 'main', phase: 'loaded' })
    writeMetrics(path, { migration: 'main', phase: 'caught-up' })
    expect(readFileSync(path, 'utf8')).toMatch(/phase="caught-up"[\s\S]*# EOF\n$/)
    expect(statSync(path).mode & 0o444).toBe(0o444)
    expect(readdirSync(folder)).toEqual(['molt.prom'])
  })

  it('warns once when it cannot write, and continues', () => {
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true)
    for (let time = 0; time < 3; time++)
      writeMetrics(join(folder, 'none', 'molt.prom'), { migration: 'main', phase: 'x' })
    const warnings = write.mock.calls.filter(([text]) => String(text).startsWith('::warning::'))
    expect(warnings).toHaveLength(1)
  })
})
