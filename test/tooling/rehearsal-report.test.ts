// The page of a rehearsal: what it shows, and that what it is given as text stays text.
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../rehearsal/cli/account.ts'
import { reportPage, Timeline } from '../../rehearsal/cli/report.ts'

const account: Account = {
  verdict: 'go',
  reason: 'every step was proved',
  code: null,
  rowsLoaded: 304_800,
  changesStreamed: 17_617,
  lagMs: 49,
  pauseMs: 1000,
  pauseParts: { drain: 250, verify: 750 },
  estimatedPauseMs: 1_100,
  estimatedParts: { drain: 200, verify: 900 },
  applicationPauseMs: 1200,
  tables: [],
  engine: 'molt 1.4.1',
  observed: 'healthy',
  target: 'CockroachDB CCL v25.2.0 (molt-actions like-server)',
  summary: '',
}

/** 100 transactions a second, but for the second from 2 s to 3 s. */
function paused(): Timeline {
  const timeline = new Timeline()
  timeline.steps.push({ name: 'Load', at: 0 }, { name: 'Fence <now>', at: 2000 })
  for (let at = 0; at <= 4000; at += 250)
    timeline.samples.push({ at, total: (at - Math.min(1000, Math.max(0, at - 2000))) / 10 })
  return timeline
}

describe('the page of a rehearsal', () => {
  test('shows when the application could not write, by its own count', () => {
    const page = reportPage(account, paused(), '')
    const area = /class="area" d="M[\d.]+,180 L([^Z]*)Z/.exec(page)?.[1]?.trim().split(/[ L]+/) ?? []
    const still = area.slice(0, -1).filter((point) => point.endsWith(',180.0'))
    // 250 ms are 60 of 960; the pause is from a half to three quarters.
    expect(still.map((point) => Number(point.split(',')[0]))).toEqual([540, 600, 660, 720])
    expect(page).toContain('at most 100 a second')
    expect(page).toContain('Fence &lt;now> · 2.0 s')
  })

  test('shows the parts of the pause one after the other, each as long as it took', () => {
    const page = reportPage(account, paused(), '')
    const bars = [...page.matchAll(/class="bar" x="([\d.]+)" y="\d+" width="([\d.]+)"/g)]
    expect(bars.map(([, x, width]) => [Number(x), Number(width)])).toEqual([
      [0, 240],
      [240, 720],
    ])
    expect(page).toContain('drain 250 ms (expected 200)')
  })

  test('shows where texts of production were looked for', () => {
    const search = { place: 'rows of the <source>', looked: '9 rows', found: [3] }
    const masking = { rows: 1, tables: 1, maskedColumns: 1, copyMs: 1, tookMs: 1, needles: 10, evidence: '' }
    const page = reportPage({ ...account, masking: { ...masking, searches: [search] } }, paused(), '')
    expect(page).toContain('<td>rows of the &lt;source></td><td>9 rows</td><td>1 of 10</td>')
  })

  test('says no-go with its reason, which is text, where nothing was measured', () => {
    const failed = { ...account, verdict: 'no-go', pauseMs: null, lagMs: null, applicationPauseMs: null } as const
    const page = reportPage({ ...failed, reason: 'Load: <img src=x> & more' }, new Timeline(), '')
    expect(page).toContain('<h1 class="no-go">No-go</h1><p>Load: &lt;img src=x> &amp; more</p>')
    expect(page).not.toContain('<figure>')
  })

  test('has the summary as GitHub shows it, and lets nothing in it run or load', () => {
    const page = reportPage(
      account,
      paused(),
      '### ✅ Verify\n\n> [!WARNING]\n> insecure\n\n| a | b |\n| --- | --- |\n| 1 | 2 |',
    )
    expect(page).toMatch(/<h3>✅ Verify<\/h3>[\s\S]*markdown-alert-warning[\s\S]*<td>1<\/td>/)
    expect(page).toContain(`content="default-src 'none'; style-src 'unsafe-inline'"`)
  })

  test('follows a counter until it is over', async () => {
    const timeline = new Timeline()
    const over = new AbortController()
    const following = timeline.follow(() => timeline.samples.length, over.signal)
    await sleep(600)
    over.abort()
    await following
    const seen = timeline.samples.length
    expect(seen).toBeGreaterThanOrEqual(2)
    await sleep(300)
    expect(timeline.samples).toHaveLength(seen)
  })
})
