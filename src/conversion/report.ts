import * as z from 'zod'
import { markdownCode, markdownText } from '../report/markdown.ts'
import { OUTCOMES, type Outcome, RULES, ruleOf } from './rules.ts'
import type { Conversion, Finding, Statement } from './work.ts'

const finding = z.strictObject({
  rule: z.string().describe('Id of the rule; docs/conversion-rules.md has all of them.'),
  outcome: z.enum(OUTCOMES),
  object: z.string().describe('Kind and name, as in `column public.orders.total`.'),
  from: z.string().nullable().describe('On the source, where that tells more than the name.'),
  to: z.string().nullable().describe('On the target; null when nothing was written.'),
})

const report = z.strictObject({
  version: z.literal(1),
  schema: z.string(),
  target: z.string().describe('CockroachDB version, as in 25.2.'),
  counts: z
    .strictObject({ same: z.int(), adapted: z.int(), lossy: z.int(), manual: z.int() })
    .describe('Findings by outcome.'),
  statements: z
    .strictObject({ tables: z.int(), indexes: z.int(), constraints: z.int() })
    .describe('Statements of each file.'),
  findings: z.array(finding),
})

export type Report = z.infer<typeof report>

export function reportOf(conversion: Conversion): Report {
  const { findings, tables, indexes, constraints } = conversion
  return {
    version: 1,
    schema: conversion.schema,
    target: conversion.target.join('.'),
    counts: countsOf(findings),
    statements: { tables: tables.length, indexes: indexes.length, constraints: constraints.length },
    findings: [...findings].sort(
      (a, b) => order(a) - order(b) || compare(a.rule, b.rule) || compare(a.object, b.object),
    ),
  }
}

const compare = (a: string, b: string) => (a < b ? -1 : a > b ? 1 : 0)
/** The worst first. */
const order = ({ outcome }: Finding) => -OUTCOMES.indexOf(outcome)

function countsOf(findings: readonly Finding[]): Record<Outcome, number> {
  const counts = { same: 0, adapted: 0, lossy: 0, manual: 0 }
  for (const { outcome } of findings) counts[outcome]++
  return counts
}

/** Every file of a conversion by its name. */
export function filesOf(conversion: Conversion): Map<string, string> {
  const found = reportOf(conversion)
  return new Map([
    [
      '1-tables.sql',
      sqlFile(`Types, sequences and tables of ${conversion.schema}`, [...unlocked(conversion), ...conversion.tables]),
    ],
    ['2-indexes.sql', sqlFile(`Indexes of ${conversion.schema}, after the load`, conversion.indexes)],
    [
      '3-constraints.sql',
      sqlFile(`CHECK and foreign keys of ${conversion.schema}, after the load`, conversion.constraints),
    ],
    ['4-manual.sql', manualFile(conversion)],
    ['report.md', markdown(found)],
    ['report.json', `${JSON.stringify(found, null, 2)}\n`],
  ])
}

/** A table that is created locked, as from 26.1 on, refuses the constraints of 3-constraints.sql. Source: cockroachdb/docs, v26.2 `alter-table.md`. */
function unlocked({ target, tables }: Conversion): Pick<Statement, 'sql'>[] {
  return tables.length && target[0] >= 26 ? [{ sql: 'SET create_table_with_schema_locked = off' }] : []
}

function sqlFile(title: string, statements: readonly Pick<Statement, 'sql'>[]): string {
  const all = statements.map(({ sql }) => `${sql};\n`).join('\n')
  return `-- ${title}. Written by molt-actions convert: change convert.yml, not this file.\n\n${all || '-- Nothing.\n'}`
}

function manualFile({ schema, manual }: Conversion): string {
  const parts = manual.map(({ rule, object, original }) => {
    const { title, todo } = ruleOf(rule)
    const lines = [`${object} (${rule}: ${title})`, ...(todo ? [todo] : []), '', ...original.split('\n')]
    return lines.map((line) => (line ? `-- ${line}` : '--')).join('\n')
  })
  return `-- What a person must port from ${schema}. Nothing here runs by itself.\n\n${parts.join('\n\n') || '-- Nothing.'}\n`
}

const TITLES: Record<Outcome, string> = {
  manual: 'Left for you',
  lossy: 'Converted with a loss',
  adapted: 'Converted to another form',
  same: 'The same on both sides',
}

/** Objects named of one rule; report.json has all. */
const SHOWN = 20

function markdown(found: Report): string {
  const { counts } = found
  const groups = groupsOf(found.findings)
  const decide = groups.filter(
    ({ rule, outcome }) => outcome === 'same' && ruleOf(rule).todo !== '' && rule === 'key.hotspot',
  )
  const parts = [
    `# Schema \`${found.schema}\` for CockroachDB ${found.target}`,
    summary(found),
    `| outcome | findings | what it means |\n| --- | ---: | --- |\n| manual | ${counts.manual} | not converted: the original is in \`4-manual.sql\` |\n| lossy | ${counts.lossy} | converted, and something is lost |\n| adapted | ${counts.adapted} | another form with the same effect |\n| same | ${counts.same} | the same on both sides |`,
    ...section('manual', groups),
    ...section('lossy', groups),
    ...(decide.length ? ['## Worth a decision', ...decide.map(ruleSection)] : []),
    ...section('adapted', groups),
    `## ${TITLES.same}\n\n${sameTable(groups)}`,
  ]
  return `${parts.join('\n\n')}\n`
}

function summary({ counts, statements }: Report): string {
  const all = statements.tables + statements.indexes + statements.constraints
  const todo = counts.manual + counts.lossy
  if (!todo) return `${all} statements. Nothing is lost and nothing is left to do by hand.`
  return `${all} statements. **Read ${todo} findings before you continue**: ${counts.manual} left for you, ${counts.lossy} with a loss.`
}

interface Group {
  rule: string
  outcome: Outcome
  findings: Finding[]
}

function groupsOf(findings: readonly Finding[]): Group[] {
  const groups = new Map<string, Group>()
  for (const each of findings) {
    const key = `${each.outcome} ${each.rule}`
    const group = groups.get(key) ?? { rule: each.rule, outcome: each.outcome, findings: [] }
    group.findings.push(each)
    groups.set(key, group)
  }
  return [...groups.values()]
}

function section(outcome: Outcome, groups: readonly Group[]): string[] {
  const own = groups.filter((each) => each.outcome === outcome)
  return own.length ? [`## ${TITLES[outcome]}`, ...own.map(ruleSection)] : []
}

function ruleSection({ rule: id, findings }: Group): string {
  const { title, did, means, todo } = ruleOf(id)
  const shown = findings.slice(0, SHOWN).map(line)
  if (findings.length > SHOWN) shown.push(`- and ${findings.length - SHOWN} more in \`report.json\``)
  return [
    `### ${title} · ${findings.length} (\`${id}\`)`,
    `${did} ${means}${todo ? ` **${todo}**` : ''}`,
    shown.join('\n'),
  ].join('\n\n')
}

function line({ object, from, to }: Finding): string {
  const [kind, ...name] = object.split(' ')
  const change = [from, to].filter((each) => each !== null).map((each) => code(each as string))
  return `- ${kind} ${code(name.join(' '))}${change.length ? `: ${change.join(' → ')}` : ''}`
}

/** The whole text is in report.json. */
function code(text: string): string {
  return markdownCode(text.length > 120 ? `${text.slice(0, 119)}…` : text)
}

function sameTable(groups: readonly Group[]): string {
  const own = groups.filter((each) => each.outcome === 'same')
  if (!own.length) return 'Nothing.'
  const rows = own.map(
    ({ rule, findings }) => `| \`${rule}\` | ${markdownText(ruleOf(rule).title)} | ${findings.length} |`,
  )
  return `| rule | what | findings |\n| --- | --- | ---: |\n${rows.join('\n')}`
}

/** JSON Schema of report.json. */
export function reportSchema(): string {
  const schema = z.toJSONSchema(report, { target: 'draft-2020-12' })
  return `${JSON.stringify({ ...schema, title: 'molt-actions convert report' }, null, 2)}\n`
}

/** docs/conversion-rules.md. */
export function rulesDocs(): string {
  const rows = RULES.map(({ id, title, outcome, since, source, did, means, todo }) => {
    const versions = since ? `${outcome}; same from ${since.join('.')}` : outcome
    return [
      `## ${title}`,
      `\`${id}\` · **${versions}** · source: ${sourceLink(source)}`,
      `${did} ${means}${todo ? ` ${todo}` : ''}`,
    ].join('\n\n')
  })
  return `# Conversion rules\n\n<!-- Generated from src/conversion/rules.ts by \`npm run build\`; edit that. -->\n\nWhat \`convert\` makes of each part of a PostgreSQL schema. **same**: it means the same on CockroachDB. **adapted**: another form with the same effect. **lossy**: converted, and something is lost. **manual**: left for a person, with the original in \`4-manual.sql\`.\n\n${rows.join('\n\n')}\n`
}

function sourceLink(source: string): string {
  if (source.startsWith('#'))
    return `[cockroachdb/cockroach${source}](https://github.com/cockroachdb/cockroach/issues/${source.slice(1)})`
  if (source === 'grammar') return "CockroachDB's grammar, which a test asks"
  if (source === 'none' || source === 'convert.yml' || source.startsWith('MOLT'))
    return source === 'none' ? 'the catalog' : source
  return `[${source}](https://www.cockroachlabs.com/docs/${source.includes('/') ? '' : 'stable/'}${source})`
}
