import { createHash } from 'node:crypto'
import { partIndex } from '../../model/operations.ts'
import type { Plan } from '../../model/plan.ts'
import { decidedText } from '../../model/structure.ts'
import { clock, minutes, number, plural, seconds } from '../../runtime/progress.ts'
import { type Chart, CLIENT, chartData, chartFigure, type Mark } from './charts.ts'
import { type Bar, bars, details, facts, html, list, prose, table } from './html.ts'
import { STYLE } from './style.ts'
import { script as uplot, style as uplotStyle } from './uplot.ts'

/** A record that a step left in the ledger. */
export interface DossierStep {
  action: string
  at: Date
  body: Record<string, unknown> & { origin?: { run: string; actor: string; commit: string; runner: string } }
}

export interface DossierSide {
  /** Host and port. */
  host: string
  database: string
  version: string
}

/** The contents of a dossier. Contains no row values. */
export interface DossierFacts {
  migration: string
  /** The phase in the ledger; undefined after the cleanup. */
  phase: string | undefined
  since: Date | undefined
  plan: Plan | undefined
  /** Undefined if the side could not be reached. */
  source: DossierSide | undefined
  target: DossierSide | undefined
  /** Whether the target is the like-server, which only imitates CockroachDB. */
  likeServer: boolean
  /** The migration's records, oldest first. */
  steps: readonly DossierStep[]
  /** All current differences between the two sides' definitions; undefined if they could not be compared. */
  remaining: readonly string[] | undefined
  /** What the user must decide, such as whether to create a trigger that the target lacks. */
  toDecide: readonly string[]
  /** HTML to append at the end of the page. */
  appendix?: { title: string; body: string }
  /** The next command, and what to do before running it; undefined if the migration is finished. */
  next: { before?: string | undefined; command: string } | undefined
  written: Date
}

/** Bodies of the records that steps write. In a ledger from an older version, any field can be missing. */
interface Bodies {
  prepare: {
    tools: Record<string, { version: string; sha256: string } | null>
    findings: { block: number; warn: number; info: number; waived: number }
    warnings: string[]
    plan: Plan
  }
  fetch: { arrived: Record<string, number>; durationMs: number; mode: string; cursor: string; problems: string[] }
  replicate: { samples: Sample[]; status: { lagMs: number; changes: number; retries: number }; endedBy: string }
  verify: Verify
  definitions: Pick<Verify, 'problems'>
  brief: { problems: string[]; planHash: string; actor: string }
  gate: { by: string; gate: string; planHash: string; startedBy: string }
  cutover: {
    decision: string
    phase: string
    pauseMs: number
    estimate: { totalMs: number; parts: Record<string, number> }
    unwatchedMs: number
    parts: Record<string, number>
    samples: Sample[]
    before: { lagMs: number }
    drain: { markerSeenMs: number; positionConfirmedMs: number }
    verify: Verify
  }
  finalize: { sequences: unknown[] }
  'switched-by-hand': { applicationPauseMs: number }
  'after-commit': { verdict: string; rows: number; tables: number; asOf: string }
  observe: { verdict: string; coverage: number; worst: Pair[] }
  rollback: { lost: string[] }
  abort: { phase: string }
  error: { action: string; code: string; message: string }
  application: { samples: { at: number; total: number }[]; marks: Mark[]; pauseMs: number | null }
  masking: { searches: { place: string; looked: string; found: unknown[] }[]; needles: number }
}

interface Sample {
  at: number
  lagMs: number
  walBytes: number
}

interface Verify {
  verdict: string
  level: string
  problems: string[]
  notes: string[]
  durationMs: number
  tables: { name: string; rows: number; missing: number; mismatch: number; extraneous: number }[]
}

interface Pair {
  statement: string
  ratio: number
  source: { meanMs: number; calls: number }
  target: { meanMs: number; calls: number }
}

/** Steps that end an attempt. The next attempt begins with `prepare`. */
const ENDS = ['abort', 'rollback']

/** Returns the steps of the last attempt, without earlier attempts of the same migration. */
function lastAttempt(steps: readonly DossierStep[]): readonly DossierStep[] {
  const begins = steps.findLastIndex(({ action }) => action === 'prepare')
  const ends = steps.findLastIndex(({ action }, index) => index < begins && ENDS.includes(action))
  return steps.slice(ends + 1)
}

/** Gives access to the steps of a migration's last attempt by action, and collects the page's charts. */
class Story {
  readonly facts: DossierFacts
  readonly steps: readonly DossierStep[]
  readonly charts: Chart[] = []

  constructor(facts: DossierFacts) {
    this.facts = facts
    this.steps = lastAttempt(facts.steps)
  }

  all<A extends keyof Bodies>(action: A): { at: Date; body: Partial<Bodies[A]> }[] {
    return this.steps.filter((step) => step.action === action) as unknown as {
      at: Date
      body: Partial<Bodies[A]>
    }[]
  }

  last<A extends keyof Bodies>(action: A): Partial<Bodies[A]> | undefined {
    return this.all(action).at(-1)?.body
  }

  chart(chart: Chart): string {
    this.charts.push(chart)
    return chartFigure(chart, this.charts.length - 1)
  }
}

const SECTIONS: readonly [id: string, title: string, body: (story: Story) => string][] = [
  ['steps', 'Timeline and people', stepsSection],
  ['remaining', 'Remaining differences', remainingSection],
  ['plan', 'Plan', planSection],
  ['preflight', 'Preflight', preflightSection],
  ['load', 'Load', loadSection],
  ['stream', 'Lag and WAL', streamSection],
  ['proof', 'Proof', proofSection],
  ['pause', 'Write pause', pauseSection],
  ['approvals', 'Approvals', approvalsSection],
  ['latency', 'Latency before and after', latencySection],
  ['masking', 'Masking', maskingSection],
]

/** Returns the dossier as one self-contained HTML page, which loads no other files. */
export function dossierPage(given: DossierFacts): string {
  const story = new Story(given)
  const { title, tone, text } = outcome(story)
  const sections = SECTIONS.flatMap(([id, heading, body]) => {
    const content = body(story)
    return content ? [{ id, heading, content }] : []
  })
  const data = chartData(story.charts)
  const scripts = story.charts.length ? [uplot, CLIENT] : []
  const hashes = scripts.map((code) => `'sha256-${createHash('sha256').update(code).digest('base64')}'`)
  const policy = `default-src 'none'; style-src 'unsafe-inline'; script-src ${hashes.join(' ') || "'none'"}`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${html(`Dossier of ${given.migration}: ${title}`)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${html(policy)}">
<style>${STYLE}${story.charts.length ? uplotStyle : ''}</style></head><body><main>
<h1 class="${tone}">${html(title)}</h1>
<p>${prose(text)}</p>
${given.next ? `<h3>Next</h3>${given.next.before ? `<p>${prose(given.next.before)}</p>` : ''}<pre>${html(given.next.command)}</pre>` : ''}
${summary(story)}
<nav>${sections.map(({ id, heading }) => `<a href="#${id}">${html(heading)}</a>`).join('')}</nav>
${sections.map(({ id, heading, content }) => `<h2 id="${id}">${html(heading)}</h2>${content}`).join('\n')}
${given.appendix ? details(given.appendix.title, `<section class="markdown">${given.appendix.body}</section>`) : ''}
<footer>Written ${clock(given.written)} from the target's ledger. Times are UTC. This file contains no row values.</footer>
</main><script type="application/json" id="charts">${data}</script>
${scripts.map((code) => `<script>${code}</script>`).join('\n')}</body></html>
`
}

/** Returns the page's headline, its tone, and a sentence that explains it. */
function outcome(story: Story): { title: string; tone: 'good' | 'warn' | 'bad'; text: string } {
  const { facts } = story
  const all = story.steps
  const cutover = story.last('cutover')
  const ended = all.findLast(({ action }) => !SILENT.has(action))
  if (all.some(({ action }) => action === 'rollback'))
    return { title: 'Rolled back', tone: 'warn', text: 'The source accepts writes again.' }
  if (ended?.action === 'error') {
    const { action, code, message } = ended.body as unknown as Bodies['error']
    return { title: `Stopped in ${action}`, tone: 'bad', text: `${message} [${code}]` }
  }
  if (all.some(({ action }) => action === 'abort'))
    return { title: 'Aborted', tone: 'warn', text: 'Nothing was committed. The source accepts writes.' }
  if (!cutover)
    return { title: `In progress: ${facts.phase ?? 'not started'}`, tone: 'warn', text: 'No cutover has run yet.' }
  const left = facts.remaining?.length ?? 0
  if (cutover.decision === 'rehearse')
    return left
      ? {
          title: 'Rehearsed: no-go',
          tone: 'bad',
          text: `${plural(left, 'difference remains', 'differences remain')} between source and target.`,
        }
      : {
          title: 'Rehearsed: go',
          tone: 'good',
          text: 'Every step was proved. Nothing was committed, and the fence was lifted at the end.',
        }
  return {
    title: `Committed${facts.phase && facts.phase !== 'committed' ? ` and ${facts.phase}` : ''}`,
    tone: left ? 'warn' : 'good',
    text: `The target has taken over.${left ? ` ${plural(left, 'difference remains', 'differences remain')} between source and target.` : ''}`,
  }
}

function summary(story: Story): string {
  const { migration, phase, since, source, target, plan, likeServer } = story.facts
  const [prepare, fetch, cutover] = [story.last('prepare'), story.last('fetch'), story.last('cutover')]
  const rows = Object.values(fetch?.arrived ?? {}).reduce((sum, each) => sum + each, 0)
  const molt = prepare?.tools?.molt?.version
  const commit = story.steps.findLast(({ body }) => /[1-9a-f]/.test(body.origin?.commit ?? ''))?.body.origin?.commit
  const began = story.steps[0]?.at
  return facts([
    ['Migration', html(migration)],
    ['Phase', phase ? `${html(phase)}${since ? `, since ${clock(since)}` : ''}` : 'cleaned up'],
    began && ['Began', clock(began)],
    ['From', sideText(source, plan?.sourceSchema)],
    [
      'To',
      `${sideText(target, plan?.targetSchema)}${likeServer ? '<br><small>like-server, not a CockroachDB cluster</small>' : ''}`,
    ],
    plan && ['Tables', number(plan.tables.length)],
    fetch?.arrived && ['Rows loaded', number(rows)],
    cutover?.pauseMs !== undefined ? ['Write pause', `${number(cutover.pauseMs)} ms`] : undefined,
    cutover?.before && ['Lag before the write pause', seconds(cutover.before.lagMs)],
    plan?.hash ? ['Plan', `<code>${plan.hash.slice(0, 12)}</code>`] : undefined,
    molt ? ['Moved by', html(`molt ${molt}`)] : undefined,
    commit ? ['Workflow commit', `<code>${html(commit.slice(0, 12))}</code>`] : undefined,
  ])
}

function sideText(side: DossierSide | undefined, schema: string | undefined): string {
  if (!side) return 'unreachable'
  return `${html(side.version)}<br><small>${html(`${side.database}${schema ? `.${schema}` : ''} on ${side.host}`)}</small>`
}

/** Records that do not appear in the timeline. */
const SILENT = new Set(['observe-baseline', 'application', 'masking'])

function stepsSection(story: Story): string {
  const rows = story.facts.steps
    .filter(({ action }) => !SILENT.has(action))
    .map(({ action, at, body }) => {
      const { run, actor } = body.origin ?? { run: '', actor: '' }
      const where = /^https:\/\//.test(run) ? `<a href="${html(run)}">run</a>` : ''
      return [
        `<span class="t">${clock(at)}</span>`,
        html(action),
        [html(actor), where].filter(Boolean).join(', '),
        came(action, body),
      ]
    })
  return table(['when', 'step', 'who', 'outcome'], rows, [], 'steps')
}

/** The outcome of a step in one line of HTML. */
function came(action: string, body: object): string {
  const known: { [A in keyof Bodies]?: (body: Partial<Bodies[A]>) => string } = {
    prepare: ({ findings }) =>
      findings ? `${plural(findings.warn, 'warning')}, ${number(findings.waived)} waived` : '',
    fetch: ({ arrived, durationMs, problems }) =>
      problems
        ? `<span class="bad">${plural(problems.length, 'problem')}</span>`
        : `${plural(Object.keys(arrived ?? {}).length, 'table')} loaded in ${seconds(durationMs ?? 0)}`,
    replicate: ({ status, endedBy }) => html(`${endedBy ?? ''}: ${plural(status?.changes ?? 0, 'change')} applied`),
    verify: ({ verdict, tables, problems }) =>
      problems?.length
        ? `<span class="bad">${plural(problems.length, 'problem')}</span>`
        : html(`${verdict ?? ''}: ${plural(tables?.length ?? 0, 'table')}`),
    definitions: ({ problems }) =>
      problems?.length
        ? `<span class="bad">${plural(problems.length, 'difference')}</span>`
        : 'the definitions match; no rows were compared',
    brief: ({ problems }) =>
      problems?.length
        ? `<span class="bad">not ready: ${plural(problems.length, 'problem')}</span>`
        : 'ready for the cutover',
    gate: ({ by, gate }) => html(by ? `approved by ${by} (${gate})` : `no approval was required (${gate})`),
    cutover: ({ decision, pauseMs, phase }) =>
      html(`${decision}, ${phase}: writes paused for ${number(pauseMs ?? 0)} ms`),
    finalize: ({ sequences }) => `${plural(sequences?.length ?? 0, 'sequence')} set past every value in use`,
    'switched-by-hand': ({ applicationPauseMs }) =>
      `the application could not write for up to ${minutes(applicationPauseMs ?? 0)}`,
    'after-commit': ({ verdict, rows }) => html(`${verdict}: ${plural(rows ?? 0, 'row')} as of the commit`),
    observe: ({ verdict }) => html(verdict ?? ''),
    rollback: ({ lost }) =>
      lost?.length ? html(`writes to the target lost in ${lost.join(', ')}`) : 'no writes were lost',
    abort: ({ phase }) => html(`the migration was ${phase}`),
    error: ({ action: step, code, message }) =>
      `<span class="bad">${html(`${step} failed [${code}]`)}</span><br>${prose(message ?? '')}`,
  }
  const tell = known[action as keyof Bodies] as ((body: object) => string) | undefined
  return tell?.(body) ?? ''
}

function remainingSection({ facts: { remaining, toDecide, plan } }: Story): string {
  return `${differencesText(remaining, plan?.decided)}${toDecide.length ? `<h3>For you to decide</h3>${list(toDecide.map(prose))}` : ''}`
}

function differencesText(remaining: readonly string[] | undefined, decided: Plan['decided'] = []): string {
  if (!remaining)
    return '<p class="note warn">The definitions of source and target could not be compared for this page.</p>'
  if (!remaining.length && decided.length)
    return `<p class="note good">None, except for ${plural(decided.length, 'definition')} decided in convert.yml. The plan lists these.</p>`
  if (!remaining.length)
    return '<p class="note good">None: the definitions of all tables, indexes, constraints and sequences match.</p>'
  return `<p class="note bad">${plural(remaining.length, 'difference')}</p>${list(remaining.map(prose))}`
}

function planSection({ facts: { plan } }: Story): string {
  if (!plan) return ''
  const tools = Object.entries(plan.tools ?? {}).map(([name, sha]) => [html(name), `<code>${sha}</code>`])
  return [
    `<p>sha256 <code>${html(plan.hash ?? '')}</code></p>`,
    facts([
      ['Schema', html(`${plan.sourceSchema} → ${plan.targetSchema}`)],
      ['Slot', html(plan.slot)],
      ['Deferred by prepare', html((plan.defer ?? 'none').replaceAll(',', ', '))],
      ['Final verification', html(plan.finalVerify ?? 'auto')],
    ]),
    plan.waivers?.length
      ? `<h3>Waived</h3>${list(plan.waivers.map((each) => `<code>${html(each)}</code>`))}`
      : '<p>Nothing is waived.</p>',
    plan.decided?.length
      ? `<h3>Decided in convert.yml</h3>${list(plan.decided.map((each) => html(decidedText(each))))}`
      : '',
    details(plural(plan.tables.length, 'table'), list(plan.tables.map(html))),
    tools.length ? details('Programs', table(['program', 'sha256'], tools)) : '',
  ].join('')
}

function preflightSection(story: Story): string {
  const { findings, warnings = [] } = story.last('prepare') ?? {}
  if (!findings) return ''
  return `${facts([
    ['Warnings', number(findings.warn)],
    ['Waived', number(findings.waived)],
    ['Notes', number(findings.info)],
  ])}${warnings.length ? list(warnings.map((each) => `<code>${html(each)}</code>`)) : ''}`
}

function loadSection(story: Story): string {
  const { arrived, durationMs = 0, mode = '', cursor = '', problems } = story.last('fetch') ?? {}
  if (problems) return `<p class="note bad">The load is not complete.</p>${list(problems.map(prose))}`
  if (!arrived) return ''
  const rows = Object.entries(arrived).sort((a, b) => b[1] - a[1])
  return `<p>By ${html(mode)} in ${seconds(durationMs)}. The stream begins at <code>${html(cursor)}</code>.</p><h3>Rows by table</h3>${bars(rows.map(([name, count]): Bar => [name, count, number(count)]))}`
}

/** A gap between samples of more than this many milliseconds breaks a chart's line, for example between two streams. */
const BREAK_MS = 30_000

function streamSection(story: Story): string {
  const samples = [...story.all('replicate'), ...story.all('cutover')]
    .flatMap(({ body }) => body.samples ?? [])
    .sort((a, b) => a.at - b.at)
  if (!samples.length) return ''
  const at: number[] = []
  const lag: (number | null)[] = []
  const wal: (number | null)[] = []
  for (const [index, sample] of samples.entries()) {
    const before = samples[index - 1]
    if (before && sample.at - before.at > BREAK_MS) {
      at.push(before.at + 1)
      lag.push(null)
      wal.push(null)
    }
    at.push(sample.at)
    lag.push(sample.lagMs / 1000)
    wal.push(sample.walBytes / 2 ** 20)
  }
  return [
    story.chart({ title: 'End-to-end lag', axis: 'lag, s', at, values: lag }),
    story.chart({ title: 'WAL retained by the slot', axis: 'WAL, MiB', at, values: wal }),
  ].join('')
}

function proofSection(story: Story): string {
  const { drain, verify: final } = story.last('cutover') ?? {}
  const verify = final ?? story.last('verify')
  if (!verify) return ''
  const tables = verify.tables ?? []
  const cells = tables.map(({ name, rows, missing, mismatch, extraneous }) => [
    html(name),
    ...[rows, missing, mismatch, extraneous].map(number),
  ])
  const rows = tables.reduce((sum, each) => sum + each.rows, 0)
  return [
    facts([
      ['Verdict', html(verify.verdict ?? 'unknown')],
      ['Compared', html(`${verify.level ?? 'unknown'}, ${plural(rows, 'row')}`)],
      ['Took', seconds(verify.durationMs ?? 0)],
      drain && ['Marker on the target after', `${number(drain.markerSeenMs)} ms`],
      drain && ['Position confirmed after', `${number(drain.positionConfirmedMs)} ms`],
    ]),
    verify.problems?.length ? `<h3>Problems</h3>${list(verify.problems.map(prose))}` : '',
    table(['table', 'rows', 'missing', 'different', 'extraneous'], cells, [1, 2, 3, 4]),
    verify.notes?.length ? details(plural(verify.notes.length, 'note'), list(verify.notes.map(prose))) : '',
  ].join('')
}

function pauseSection(story: Story): string {
  const cutover = story.last('cutover')
  const application = story.last('application')
  if (cutover?.pauseMs === undefined) return application ? applicationView(story, application) : ''
  const { pauseMs, parts = {}, estimate, unwatchedMs } = cutover
  const byHand = story.last('switched-by-hand')?.applicationPauseMs
  return [
    facts([
      ['Databases refused writes for', `${number(pauseMs)} ms`],
      estimate === undefined ? undefined : ['Estimate', `${number(estimate.totalMs)} ms`],
      byHand === undefined ? undefined : ['Application could not write for up to', minutes(byHand)],
      typeof application?.pauseMs === 'number'
        ? ['Measured in the application', `${number(application.pauseMs)} ms without writes`]
        : undefined,
      !unwatchedMs ? undefined : ['Between verify and commit', `${number(unwatchedMs)} ms`],
    ]),
    '<h3>By part</h3><p>Parts can overlap, so the pause can be shorter than their sum.</p>',
    bars(inOrder(parts).map(([part, ms]): Bar => [partLabel(part, estimate?.parts), ms, `${number(ms)} ms`])),
    application ? applicationView(story, application) : '<p>The pause was not measured in an application.</p>',
  ].join('')
}

/** Sorts the parts in the order in which they run, because jsonb does not keep the order. */
function inOrder(parts: Record<string, number>): [part: string, ms: number][] {
  return Object.entries(parts).sort(([a], [b]) => partIndex(a) - partIndex(b))
}

function partLabel(part: string, expected: Record<string, number> | undefined): string {
  return expected?.[part] === undefined ? part : `${part} (expected ${number(expected[part])} ms)`
}

function applicationView(story: Story, { samples = [], marks }: Partial<Bodies['application']>): string {
  if (samples.length < 2) return ''
  const rates = samples.slice(1).map(({ at, total }, index) => {
    const before = samples[index] as { at: number; total: number }
    return { at, rate: ((total - before.total) * 1000) / Math.max(1, at - before.at) }
  })
  return story.chart({
    title: 'Transactions that the application committed',
    axis: 'transactions per s',
    at: rates.map(({ at }) => at),
    values: rates.map(({ rate }) => rate),
    marks,
  })
}

function approvalsSection(story: Story): string {
  const rows = story
    .all('gate')
    .map(({ at, body }) => [
      `<span class="t">${clock(at)}</span>`,
      html(body.by || 'not required'),
      html(body.gate ?? ''),
      html(body.startedBy ?? ''),
      `<code>${html((body.planHash ?? '').slice(0, 12))}</code>`,
    ])
  return rows.length
    ? table(['when', 'approved by', 'gate', 'started by', 'plan'], rows)
    : '<p>No approval was required.</p>'
}

function latencySection(story: Story): string {
  const { verdict, worst = [], coverage } = story.last('observe') ?? {}
  if (!verdict) return ''
  const ms = (value: number) => (value < 10 ? value.toFixed(2) : number(value))
  const rows = worst.map(({ statement, ratio, source, target }) => [
    `<code>${html(statement.slice(0, 200))}</code>`,
    ms(source.meanMs),
    ms(target.meanMs),
    ratio.toFixed(1),
    number(target.calls),
  ])
  return `${facts([
    ['Verdict', html(verdict)],
    ['Calls compared', coverage === undefined ? 'unknown' : `${coverage.toFixed(0)} %`],
  ])}${rows.length ? table(['statement, without values', 'source, ms', 'target, ms', 'ratio', 'calls'], rows, [1, 2, 3, 4]) : ''}`
}

function maskingSection(story: Story): string {
  const masking = story.last('masking')
  if (!masking?.searches) return ''
  const rows = masking.searches.map(({ place, looked, found }) => [
    html(place),
    html(looked),
    `${found.length} of ${masking.needles}`,
  ])
  return `<p>These places were searched for text from production. Only production itself may contain such text.</p>${table(['place', 'searched', 'found'], rows, [2])}`
}
