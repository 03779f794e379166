import { error, info, notice, warning } from '@actions/core'
import { markdownCode, markdownText } from '../report/markdown.ts'
import { onGithub } from '../runtime/next.ts'
import { number, plural, someOf } from '../runtime/progress.ts'
import { anchorOf, DOCS, type Finding, SEVERITIES, type Severity } from './check.ts'
import type { Facts } from './facts/facts.ts'
import { CHECKS, GROUPS } from './index.ts'
import { fetchMemory } from './load.ts'
import type { Preflight } from './preflight.ts'
import { expectedRelations } from './rights.ts'
import { loadBytes, loadSeconds } from './server.ts'

const OBJECTS_SHOWN = 10
const HEADINGS: Record<Severity, string> = { block: '⛔ Blocked', warn: '⚠️ Warnings', info: 'ℹ️ Good to know' }

const VERBS: Record<Severity, string> = { block: 'block', warn: 'warn', info: 'inform' }

const open = (findings: readonly Finding[], severity: Severity) =>
  findings.filter((each) => each.severity === severity && !each.waivedBy)

/** Blocking findings without a waiver. */
export function blocking(findings: readonly Finding[]): Finding[] {
  return open(findings, 'block')
}

/** Groups findings by check, in the order of the checks. */
function byCheck(findings: readonly Finding[]): [string, Finding[]][] {
  const groups = new Map<string, Finding[]>()
  for (const each of findings) {
    const group = groups.get(each.check)
    if (group) group.push(each)
    else groups.set(each.check, [each])
  }
  return [...groups]
}

/** Writes one annotation per check: GitHub shows ten of each severity and drops the rest. */
export function annotate(findings: readonly Finding[]): void {
  const say = { block: error, warn: warning, info: notice }
  for (const severity of SEVERITIES)
    for (const [check, some] of byCheck(open(findings, severity))) {
      const [first] = some as [Finding]
      const more = some.length > 1 ? ` (and ${some.length - 1} more)` : ''
      say[severity](`${first.what}${more}; ${first.fix} [${check}]`, { title: check })
    }
  for (const each of findings) if (each.waivedBy) info(`waived by ${each.waivedBy}: ${each.what}`)
}

/** The job summary: the verdict, then findings that block, waived findings, and all others, each with its fix. */
export function summaryOf(facts: Facts, findings: readonly Finding[], hash: string): string {
  const of = (severity: Severity) => open(findings, severity)
  const waived = findings.filter((each) => each.waivedBy)
  const blocked = of('block').length
  const head = [
    `### ${blocked ? '⛔' : '✅'} Preflight: ${blocked ? `${plural(blocked, 'finding')} ${blocked === 1 ? 'blocks' : 'block'}` : 'no findings block'}`,
    `${plural(of('warn').length, 'warning')}, ${number(of('info').length)} informational, ${number(waived.length)} waived, from ${number(CHECKS.length)} checks. Plan \`${hash.slice(0, 12)}\`.`,
    moved(facts),
  ]
  const parts = [
    section(HEADINGS.block, of('block'), false),
    waivedSection(waived),
    section(HEADINGS.warn, of('warn'), false),
    section(HEADINGS.info, of('info'), true),
  ]
  const tables = expectedRelations(facts).filter((each) => !each.partition)
  return [...head, ...parts, sampleNote(facts), tableList(tables.map(({ name }) => name))].filter(Boolean).join('\n\n')
}

/** One line with the number of tables, their size, both sides, and the estimated time. */
function moved(facts: Facts): string {
  const { source, target, settings } = facts
  const minutes = Math.max(1, Math.ceil(loadSeconds(facts) / 60))
  return `${plural(settings.tables.length, 'expected table')}, ${mib(loadBytes(facts))}, from PostgreSQL ${Math.floor(source.server.version / 10_000)} (${markdownCode(`${source.server.database}.${settings.schema}`)}) to ${markdownCode(target.server.version.split(' (')[0] as string)} (${markdownCode(`${target.server.database}.${settings.targetSchema}`)}); the load takes about ${number(minutes)} min at ${mib(settings.loadRate)}/s.`
}

function section(heading: string, findings: readonly Finding[], folded: boolean): string {
  if (!findings.length) return ''
  const body = GROUPS.map((group) => {
    const some = findings.filter((each) => group.prefixes.includes(each.check.split('.')[0] as string))
    return some.length ? `##### ${group.title}\n\n${byCheck(some).map(checkTable).join('\n\n')}` : ''
  })
    .filter(Boolean)
    .join('\n\n')
  const title = `${heading} (${number(findings.length)})`
  return folded ? `<details><summary>${title}</summary>\n\n${body}\n</details>` : `#### ${title}\n\n${body}`
}

function checkTable([id, findings]: [string, Finding[]]): string {
  const check = CHECKS.find((each) => each.id === id)
  const rows = findings
    .slice(0, OBJECTS_SHOWN)
    .map((each) => `| ${markdownText(clip(each.what))} | ${fixCell(each.fix)} |`)
  const left = findings.length - OBJECTS_SHOWN
  if (left > 0) rows.push(`| and ${number(left)} more | All are in preflight.json. |`)
  return `${checkName(id)} ${markdownText(check?.protects ?? '')}\n\n| Found | Fix |\n| --- | --- |\n${rows.join('\n')}`
}

function waivedSection(findings: readonly Finding[]): string {
  if (!findings.length) return ''
  const groups = byCheck(findings).map(([id, some]) => {
    const check = CHECKS.find((each) => each.id === id)
    const rows = some
      .slice(0, OBJECTS_SHOWN)
      .map((each) => `| ${markdownText(clip(each.what))} | ${markdownCode(each.waivedBy as string)} |`)
    if (some.length > OBJECTS_SHOWN) rows.push(`| and ${number(some.length - OBJECTS_SHOWN)} more | |`)
    return `${checkName(id)} would ${VERBS[some[0]?.severity as Severity]}: ${markdownText(check?.protects ?? '')}\n\n| Accepted | By |\n| --- | --- |\n${rows.join('\n')}`
  })
  return `#### 🖊 Waived (${number(findings.length)})\n\n${groups.join('\n\n')}`
}

function sampleNote({ source: { samples } }: Facts): string {
  if (!samples.tables && !samples.skipped) return ''
  const left = samples.skipped ? `; ${plural(samples.skipped, 'table')} skipped for lack of time` : ''
  return `Rows were sampled: up to the first ${number(samples.rowsPerTable)} of ${plural(samples.tables, 'table')}${left}. Other rows may still have such values.`
}

function tableList(names: readonly string[]): string {
  return `<details><summary>${plural(names.length, 'expected table')}</summary>\n\n${someOf(names.map(markdownCode), 50)}\n</details>`
}

/** The content of preflight.json. */
export function preflightOf(
  facts: Facts,
  findings: readonly Finding[],
  plan: Preflight['plan'],
  waivers: readonly string[],
): Preflight {
  const { settings, source, target } = facts
  const count = (severity: Severity) => open(findings, severity).length
  return {
    version: 1,
    at: facts.machine.now.toISOString(),
    migration: settings.migration,
    verdict: count('block') ? 'blocked' : 'pass',
    counts: {
      checks: CHECKS.length,
      block: count('block'),
      warn: count('warn'),
      info: count('info'),
      waived: findings.filter((each) => each.waivedBy).length,
    },
    source: {
      version: source.server.version,
      database: source.server.database,
      schema: settings.schema,
      walBytesPerSecond: Math.round(source.server.walBytesPerSecond),
    },
    target: { version: target.server.version, database: target.server.database, schema: settings.targetSchema },
    tables: expectedRelations(facts)
      .filter((each) => !each.partition)
      .map(({ name, rows, bytes }) => ({ name, rows, bytes })),
    samples: {
      rowsPerTable: source.samples.rowsPerTable,
      tables: source.samples.tables,
      skipped: source.samples.skipped,
    },
    estimate: {
      loadBytes: loadBytes(facts),
      loadSeconds: Math.round(loadSeconds(facts)),
      memoryBytes: Math.round(fetchMemory(facts).bytes),
    },
    plan,
    waivers: [...waivers],
    findings: findings.map(({ apply: _, ...finding }) => finding),
  }
}

/** The check's id. Linked to its documentation on GitHub only, because a local repository may not be published. */
function checkName(id: string): string {
  const { GITHUB_SERVER_URL: server, GITHUB_ACTION_REPOSITORY: repository, GITHUB_ACTION_REF: ref } = process.env
  if (!onGithub() || !repository) return `\`${id}\``
  return `[\`${id}\`](${server}/${repository}/blob/${ref || 'main'}/${DOCS}#${anchorOf(id)})`
}

/** The fix as code on one line, so that it can be copied. */
function fixCell(fix: string): string {
  return fix.length > LONGEST ? 'Too long for this table: see preflight.json.' : markdownCode(fix)
}

const LONGEST = 1000

function clip(text: string): string {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text
}

function mib(bytes: number): string {
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`
}
