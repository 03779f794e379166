// The dossier shows the facts, escapes text, and makes no requests.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { Account } from '../../rehearsal/cli/account.ts'
import { rehearsalPage, Timeline } from '../../rehearsal/cli/page.ts'
import { type DossierFacts, type DossierStep, dossierPage } from '../../src/report/dossier/page.ts'

const AT = Date.UTC(2026, 10, 29, 1, 30)
const minute = (count: number) => new Date(AT + count * 60_000)

const run = {
  run: 'https://github.com/acme/shop/actions/runs/7',
  actor: 'ada',
  commit: 'c0ffee'.repeat(6),
  runner: 'x',
}
const verify = {
  verdict: 'clean',
  level: 'full',
  problems: [],
  notes: [],
  durationMs: 900,
  tables: [{ name: 'orders', rows: 1200, missing: 0, mismatch: 0, extraneous: 0 }],
}

function step(action: string, minutes: number, body: object): DossierStep {
  return { action, at: minute(minutes), body: { ...body, origin: run } }
}

const night: DossierStep[] = [
  step('prepare', 0, { findings: { block: 0, warn: 1, info: 0, waived: 2 }, warnings: ['tbl.wide (orders)'] }),
  step('fetch', 5, { arrived: { orders: 1200, '<b>': 300 }, durationMs: 2000, mode: 'import', cursor: '0/1' }),
  step('replicate', 9, {
    endedBy: 'caught-up',
    status: { changes: 40, lagMs: 90 },
    samples: [0, 1, 2, 300].map((s) => ({ at: AT + s * 1000, lagMs: 500 - s, walBytes: s * 2 ** 20 })),
  }),
  step('gate', 20, { by: 'bea', gate: 'environment', startedBy: 'ada', planHash: 'f'.repeat(64) }),
  step('cutover', 21, {
    decision: 'commit',
    phase: 'committed',
    pauseMs: 1281,
    estimate: { totalMs: 1500, parts: { verify: 900 } },
    unwatchedMs: 12,
    parts: { drain: 281, verify: 1000 },
    before: { lagMs: 60 },
    drain: { markerSeenMs: 80, positionConfirmedMs: 110 },
    verify,
    samples: [],
  }),
  step('switched-by-hand', 33, { applicationPauseMs: 754_000 }),
]

const facts: DossierFacts = {
  migration: 'main',
  phase: 'switched',
  since: minute(33),
  plan: {
    sourceSchema: 'public',
    targetSchema: 'public',
    tables: ['orders'],
    slot: 'molt_slot',
    publication: 'molt_fetch',
    hash: '0123456789abcdef'.repeat(4),
  },
  source: { host: 'db.acme:5432', database: 'shop', version: 'PostgreSQL 16' },
  target: { host: 'crdb.acme:26257', database: 'shop', version: 'CockroachDB CCL v25.2.0' },
  likeServer: false,
  steps: night,
  remaining: [],
  toDecide: ['orders: the trigger `touch` is missing on the target'],
  next: { before: 'Point the application at `crdb`.', command: 'gh workflow run migrate.yml -f phase=finalize' },
  written: minute(40),
}

/** Returns the data that the page contains for its charts. */
function charts(page: string): { axis: string; data: (number | null)[][]; marks: number[] }[] {
  return JSON.parse(/<script type="application\/json" id="charts">(.*?)<\/script>/s.exec(page)?.[1] as string)
}

describe('the dossier', () => {
  test.each([
    [
      'who acted, and when',
      /2026-11-29 01:50 UTC<\/span><\/td><td>gate<\/td><td>ada, <a href="https:\/\/github\.com\/acme\/shop\/actions\/runs\/7">run<\/a><\/td><td>approved by bea/,
    ],
    ['hosts', /shop\.public on db\.acme:5432[\s\S]*shop\.public on crdb\.acme:26257/],
    ["the workflow's commit", /<code>c0ffeec0ffee<\/code>/],
    [
      'the first 12 digits of the hash, and the full hash',
      /<code>0123456789ab<\/code>[\s\S]*sha256 <code>(0123456789abcdef){4}<\/code>/,
    ],
    ['warnings by name', /<code>tbl\.wide \(orders\)<\/code>/],
    ['the write pause and the time without application writes', /1,281 ms<\/dd>[\s\S]*<dd>13 min<\/dd>/],
    [
      'the parts of the pause',
      /<span>verify \(expected 900 ms\)<\/span><span class="track"><i style="width:100\.0%"><\/i><\/span><b>1,000 ms<\/b>/,
    ],
    [
      'the load by table',
      /<span>orders<\/span>[^<]*<span class="track"><i style="width:100\.0%"><\/i><\/span><b>1,200<\/b>/,
    ],
    ['the proof', /<td>orders<\/td><td class="n">1,200<\/td><td class="n">0<\/td>/],
    ['what is left to decide', /<h3>For you to decide<\/h3><ul><li>orders: the trigger <code>touch<\/code> is missing/],
    [
      'the next command',
      /<h3>Next<\/h3><p>Point the application at <code>crdb<\/code>\.<\/p><pre>gh workflow run migrate\.yml -f phase=finalize<\/pre>/,
    ],
  ])('shows %s', (_, expected) => {
    expect(dossierPage(facts)).toMatch(expected)
  })

  test('shows lag and WAL with their units, and a gap while nothing was streamed', () => {
    const [lag, wal] = charts(dossierPage(facts))
    const seconds = AT / 1000
    expect(lag).toEqual({
      axis: 'lag, s',
      data: [
        [seconds, seconds + 1, seconds + 2, seconds + 2.001, seconds + 300],
        [0.5, 0.499, 0.498, null, 0.2],
      ],
      marks: [],
    })
    expect(wal?.data[1]).toEqual([0, 1, 2, null, 300])
  })

  test('shows the verdict of the last attempt, and keeps earlier attempts as history', () => {
    const givenUp = [
      step('prepare', -30, {}),
      step('fetch', -20, { arrived: {} }),
      step('abort', -10, { phase: 'loaded' }),
    ]
    expect(dossierPage({ ...facts, steps: givenUp })).toContain('<h1 class="warn">Aborted</h1>')
    const page = dossierPage({ ...facts, steps: [...givenUp, ...night] })
    expect(page).toContain('<h1 class="good">Committed and switched</h1>')
    expect(page).toContain('<td>the migration was loaded</td>')
    const undone = [...night, step('rollback', 40, { lost: [] })]
    expect(dossierPage({ ...facts, steps: undone })).toContain('<h1 class="warn">Rolled back</h1>')
    expect(dossierPage({ ...facts, steps: [...undone, ...givenUp.slice(0, 2)] })).toContain('In progress')
  })

  test('lists the decisions from convert.yml, and does not call the definitions equal if there are any', () => {
    const decided = [{ of: 'index' as const, table: 'orders', name: 'by_<state>', source: '', target: null }]
    const page = dossierPage({ ...facts, plan: { ...facts.plan, decided } as DossierFacts['plan'] })
    expect(page).toContain('by_&lt;state&gt;')
    expect(page.match(/definitions of all tables/g)).toBeNull()
    expect(dossierPage(facts).match(/definitions of all tables/g)).toHaveLength(1)
  })

  test('lists every remaining difference, and mentions them in its heading', () => {
    const remaining = Array.from({ length: 57 }, (_, index) => `orders: the index i${index} is missing`)
    const page = dossierPage({ ...facts, remaining })
    expect(page.match(/<li>orders: the index i\d+ is missing<\/li>/g)).toHaveLength(57)
    expect(page).toContain('<h1 class="warn">Committed and switched</h1>')
    const rehearsed = night.map((each) =>
      each.action === 'cutover' ? { ...each, body: { ...each.body, decision: 'rehearse' } } : each,
    )
    expect(dossierPage({ ...facts, remaining, steps: rehearsed })).toContain('<h1 class="bad">Rehearsed: no-go</h1>')
    expect(dossierPage({ ...facts, steps: rehearsed })).toContain('<h1 class="good">Rehearsed: go</h1>')
  })

  test('names the last failed step with its code', () => {
    const failed = step('error', 50, {
      action: 'finalize',
      code: 'finalize.definitions-differ',
      message: 'a <b> differs',
    })
    const page = dossierPage({ ...facts, steps: [...night, failed] })
    expect(page).toContain('<h1 class="bad">Stopped in finalize</h1>')
    expect(page).toContain('a &lt;b&gt; differs [finalize.definitions-differ]')
  })

  test('runs only its own scripts, and loads no other resources', () => {
    const page = dossierPage(facts)
    const scripts = [...page.matchAll(/<script>([\s\S]*?)<\/script>/g)].map(([, code]) => code as string)
    const hashes = scripts.map((code) => `'sha256-${createHash('sha256').update(code).digest('base64')}'`)
    expect(page).toContain(`default-src 'none'; style-src 'unsafe-inline'; script-src ${hashes.join(' ')}"`)
    expect(scripts).toHaveLength(2)
    expect(page).not.toMatch(/<(img|link|iframe|script) [^>]*(src|href)=|@import|url\(/)
  })

  test('escapes names', () => {
    expect(dossierPage(facts)).toContain('<span>&lt;b&gt;</span>')
    expect(dossierPage({ ...facts, migration: '</script><img src=x>' })).not.toContain('<img')
  })

  test('links only to web pages', () => {
    const steps = [{ ...night[0], body: { origin: { ...run, run: 'javascript:alert(1)' } } } as DossierStep]
    expect(dossierPage({ ...facts, steps })).not.toContain('href="javascript')
  })
})

const account: Account = {
  verdict: 'go',
  reason: 'every step was proved',
  code: null,
  rowsLoaded: 304_800,
  changesStreamed: 17_617,
  lagMs: 49,
  pauseMs: 1000,
  decisions: [],
  pauseParts: { drain: 250, verify: 750 },
  applicationPauseMs: 1200,
  tables: [],
  engine: 'molt 1.4.1',
  observed: 'healthy',
  estimatedPauseMs: 1_100,
  estimatedParts: { drain: 200, verify: 900 },
  target: 'CockroachDB CCL v25.2.0 (molt-actions like-server)',
  summary: '',
  remaining: [],
  next: 'npm run adopt',
}

/** Samples of 100 transactions per second, except from second 2 to second 3. */
function paused(): Timeline {
  const timeline = new Timeline()
  timeline.steps.push({ label: 'Load', at: AT }, { label: 'Fence <now>', at: AT + 2000 })
  for (let ms = 0; ms <= 4000; ms += 250)
    timeline.samples.push({ at: AT + ms, total: (ms - Math.min(1000, Math.max(0, ms - 2000))) / 10 })
  return timeline
}

describe('the dossier of a rehearsal', () => {
  test('shows when the application could not write, according to its own counter', () => {
    const page = rehearsalPage(account, paused(), { ...facts, steps: night }, '')
    const chart = charts(page).at(-1)
    expect(chart?.axis).toBe('transactions per s')
    expect(chart?.data[1]).toEqual([...Array(8).fill(100), 0, 0, 0, 0, ...Array(4).fill(100)])
    expect(chart?.marks).toEqual([AT / 1000, AT / 1000 + 2])
    expect(page).toContain('<li>Fence &lt;now&gt;</li>')
  })

  test('shows where production data was searched for', () => {
    const search = { place: 'rows of the <source>', looked: '9 rows', found: [3] }
    const masking = { rows: 1, tables: 1, maskedColumns: 1, copyMs: 1, tookMs: 1, needles: 10, evidence: '' }
    const page = rehearsalPage({ ...account, masking: { ...masking, searches: [search] } }, paused(), facts, '')
    expect(page).toContain('<td>rows of the &lt;source&gt;</td><td>9 rows</td><td class="n">1 of 10</td>')
  })

  test('gives the reason for a stop once, even without a ledger', () => {
    const failed = { ...account, verdict: 'no-go', pauseMs: null, applicationPauseMs: null } as const
    const reason = 'Prepare: 3 findings block'
    const page = rehearsalPage({ ...failed, code: 'preflight.blocked', reason }, new Timeline(), undefined, '')
    expect(page).toContain('<h1 class="bad">Stopped in Prepare</h1>')
    expect(page).toContain('3 findings block [preflight.blocked]')
    expect(page).not.toContain('<figure>')
  })

  test("renders the job's summary like GitHub", () => {
    const summary = '### ✅ Verify\n\n> [!WARNING]\n> insecure\n\n| a | b |\n| --- | --- |\n| 1 | 2 |'
    expect(rehearsalPage(account, paused(), facts, summary)).toMatch(
      /<h3>✅ Verify<\/h3>[\s\S]*markdown-alert-warning[\s\S]*<td>1<\/td>/,
    )
  })

  test('samples a counter until it is stopped', async () => {
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
