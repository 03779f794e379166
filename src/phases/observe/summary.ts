import { markdownText } from '../../report/markdown.ts'
import { folded } from '../../report/summary.ts'
import { ident } from '../../runtime/database.ts'
import { number, plural } from '../../runtime/progress.ts'
import type { Baseline } from './baseline.ts'
import type { Gap, GapCode, HintCode, Judgement, Missing, Pair, Reason, ReasonCode } from './verdict.ts'

const HINTS: Record<HintCode, string> = {
  'full-scan':
    'The statement reads a whole table or index. Run `finalize` to compare the indexes, then look at `EXPLAIN`, and create the missing index.',
  contention:
    'The statement has to wait for other transactions. Shorten the transactions that write these rows, or lock the rows with `SELECT FOR UPDATE` first.',
  'round-trips':
    'Look at `EXPLAIN ANALYZE`. Check the indexes, refresh statistics with `ANALYZE`, and send several rows in one statement: each round trip to CockroachDB costs more.',
  retry:
    'Transactions collide. Retry on 40001 with an increasing delay, shorten the transactions, lock rows with `SELECT FOR UPDATE`, and spread writes to one row or to neighbouring keys.',
  failure: "Look up the SQLSTATE in the application's logs, and adapt the statement to CockroachDB.",
  pool: "Limit this application's connection pool, or raise `server.max_connections_per_gateway`.",
  straggler:
    'Point this client at the target, or stop it. The source has refused its writes since the commit, so they are on neither side.',
  job: 'Run `SHOW JOB <id>` on the target to see the cause.',
}

const REASONS: Record<ReasonCode, (reason: Reason) => string> = {
  'observe.slow': ({ subject, measured, limit }) =>
    `${ratio(measured)} times as slow as on the source (limit ${ratio(limit)}): ${subject}`,
  'observe.failures': ({ subject, measured, limit }) =>
    `${percent(measured)} of executions failed (limit ${percent(limit)}): ${subject}`,
  'observe.retries': ({ subject, measured, limit }) =>
    `${percent(measured)} of executions were retries (limit ${percent(limit)}): ${subject}`,
  'observe.connections': ({ subject, measured, limit }) =>
    `${percent(measured)} of the target's connections are in use (limit ${percent(limit)}), most of them by ${subject}`,
  'observe.stragglers': ({ subject, measured }) => `${subject} still has ${plural(measured, 'session')} on the source`,
  'observe.refused-writes': ({ subject, measured }) =>
    `the source refused ${plural(measured, 'write')} since the last check${subject ? `, probably by ${subject}` : ', but no client was seen'}`,
  'observe.failed-jobs': ({ subject, measured }) => `${plural(measured, 'job')} failed on the target: ${subject}`,
}

const MISSING: Record<Missing, string> = {
  right: 'the migration user lacks the privilege to see them',
  'not-installed': 'pg_stat_statements is not installed',
  'one-snapshot': 'the ledger has one snapshot of the source, but two are needed',
  'no-snapshot': 'the ledger has no snapshot of the source',
}

const GAPS: Record<GapCode, (gap: Gap) => string> = {
  'observe.no-baseline': ({ missing }) =>
    `There is no baseline: ${MISSING[missing ?? 'no-snapshot']}. Run \`observe\` with \`mode: baseline\` twice before the commit.`,
  'observe.no-target-statistics': ({ missing, role }) =>
    `The target shows no statement statistics: ${MISSING[missing ?? 'right']}. ${run('GRANT SYSTEM VIEWACTIVITYREDACTED', role)}`,
  'observe.few-calls': ({ measured = 0, limit = 0 }) =>
    `Only ${percent(measured)} of the baseline's calls are from statements that ran often enough on both sides, but ${percent(limit)} is required. Watch longer, or lower \`min-calls\` or \`min-coverage\`.`,
  'observe.no-sessions': ({ role }) =>
    `Sessions on the target are hidden. ${run('GRANT SYSTEM VIEWACTIVITYREDACTED', role)}`,
  'observe.no-jobs': ({ role }) => `Jobs of other users on the target are hidden. ${run('GRANT SYSTEM VIEWJOB', role)}`,
  'observe.no-refusals': () =>
    "The fence on the source does not count the writes that it refuses, because an older version installed the fence. Look for refused writes in the application's logs.",
  'observe.no-source-sessions': ({ role }) =>
    `Sessions on the source are hidden. ${run('GRANT pg_read_all_stats', role)}`,
}

/** Formats the GRANT to run. Evidence from an older version does not name the role, so the default name is used. */
function run(grant: string, role = 'molt_migration'): string {
  return `Run \`${grant} TO ${ident(role)};\` there.`
}

/** What happened in one line, without the fix. */
export function reasonText(reason: Reason): string {
  return REASONS[reason.code](reason)
}

export function gapText(gap: Gap): string {
  return GAPS[gap.code](gap)
}

const HEADLINES = {
  healthy: '✅ Observe: the application is healthy on the target',
  degraded: '❌ Observe: the application is degraded on the target',
  inconclusive: '⚠️ Observe: too little data to judge the application',
}

/** The summary as Markdown: first the verdict, then the reasons, then the ten worst statements. */
export function judgementText(judged: Judgement, baseline: Baseline): string {
  const parts = [`### ${HEADLINES[judged.verdict]}`]
  if (judged.reasons.length)
    parts.push(list(judged.reasons.map((each) => `${text(reasonText(each))}. ${HINTS[each.hint]}`)))
  if (judged.gaps.length) parts.push(list(judged.gaps.map(gapText)))
  parts.push(
    `${percent(judged.coverage)} of the baseline's calls are from statements that ran often enough on both sides. ${baselineText(baseline)}`,
  )
  if (judged.worst.length) parts.push(table(judged.worst))
  parts.push(...alone('source', judged.unpaired.source), ...alone('target', judged.unpaired.target))
  return parts.join('\n\n')
}

/** Describes the baseline: what the ledger has recorded about the application on the source. */
export function baselineText({ snapshots, spanMs, database, clients }: Baseline): string {
  if (!database) return `The baseline has ${plural(snapshots, 'snapshot')}.`
  return `The baseline covers ${number(spanMs / 60_000)} min on the source: ${plural(database.commits, 'commit')} by all clients, ${plural(database.deadlocks, 'deadlock')}, ${plural(clients.length, 'client')}.`
}

const text = markdownText
const percent = (value: number) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} %`
const ratio = (value: number) => (value < 10 ? value.toFixed(1) : value.toFixed(0))
const ms = (value: number) => `${value < 10 ? value.toFixed(2) : number(value)}`
const list = (items: readonly string[]) => items.map((item) => `- ${item}`).join('\n')
const SHOWN = 20

function table(pairs: readonly Pair[]): string {
  const lines = pairs.map(
    ({ statement, source, target, ratio: times, failures, retries, fullScan, contentionMs, lastError }) => {
      const notes = [
        fullScan && 'full scan',
        contentionMs >= 1 && `contention ${ms(contentionMs)} ms`,
        lastError && `SQLSTATE ${lastError}`,
      ].filter(Boolean)
      return `| ${ratio(times)} | ${ms(source.meanMs)} ± ${ms(source.deviationMs)} | ${ms(target.meanMs)} ± ${ms(target.deviationMs)} | ${number(target.calls)} | ${number(failures)} | ${number(retries)} | ${text(cut(statement))} | ${notes.join(', ')} |`
    },
  )
  return [
    '| ratio | source, ms | target, ms | calls | failures | retries | statement | |',
    '| ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |',
    ...lines,
  ].join('\n')
}

function alone(side: string, statements: readonly string[]): string[] {
  if (!statements.length) return []
  const shown = statements.slice(0, SHOWN).map((each) => text(cut(each)))
  if (statements.length > shown.length) shown.push(`and ${number(statements.length - shown.length)} more`)
  return [folded(`${plural(statements.length, 'statement')} seen only on the ${side}`, list(shown))]
}

const cut = (statement: string) => (statement.length > 200 ? `${statement.slice(0, 199)}…` : statement)
