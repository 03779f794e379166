import type { readTarget } from '../../destination/server.ts'
import { LIKE_SERVER } from '../../destination/server.ts'
import { DECIDED, type Entry, type Evidence } from '../../ledger/ledger.ts'
import type { ProofState } from '../../ledger/proof.ts'
import type { FinalVerify, Plan, ReportLevel } from '../../model/plan.ts'
import { proofText } from '../../phases/rolling/text.ts'
import { markdownCode, markdownText } from '../../report/markdown.ts'
import { folded } from '../../report/summary.ts'
import type { Context } from '../../runtime/action.ts'
import { loadInputs } from '../../runtime/inputs.ts'
import { clock, minutes, number, plural, seconds } from '../../runtime/progress.ts'
import { hostOf } from '../../runtime/url.ts'
import type { readServer } from '../../source/server.ts'
import type { readSlot } from '../../source/slot.ts'
import { isStandIn } from '../../tools/versions.ts'
import { spec as cutover } from '../cutover/spec.ts'
import { specs } from '../specs.ts'
import type { spec } from './spec.ts'

export type Brief = Context<typeof spec>

export interface Verified {
  problems?: string[]
  tables?: { rows: number }[]
  level?: ReportLevel
  partial?: boolean
  durationMs?: number
}

/** The last of each, as the ledger has them. */
export interface Facts {
  prepare?: Evidence<{
    tools?: Record<string, { version: string; sha256: string } | null>
    findings?: { warn: number; waived: number }
    warnings?: string[]
  }>
  /** Of rows. */
  verify?: Evidence<Verified>
  definitions?: Evidence<Verified>
  fetch?: Evidence<{ insecure?: string[]; mode?: string }>
  replicate?: Evidence<{ status?: { lagMs?: number } }>
  rehearsal?: Evidence<{ pauseMs?: number; decision?: string }>
  slot?: Awaited<ReturnType<typeof readSlot>>
  proof?: ProofState
  from: Awaited<ReturnType<typeof readServer>>
  to: Awaited<ReturnType<typeof readTarget>>
}

/** Digits of the hash that a person compares; the whole one stands below. */
const HASH_SHOWN = 12

/** A label and what is known of it; lists wrap on a phone, tables do not. */
type Line = [label: string, text: string] | undefined

/**
 * What an approver reads: the verdict and the decision first, then what was proved, what the pause will be, and what was
 * accepted.
 */
export function page(context: Brief, entry: Entry, facts: Facts, problems: readonly string[]): string {
  const { plan } = entry
  return [
    heading(entry, problems),
    ...problems.slice(0, 20).map((each) => `- ${markdownText(each)}`),
    ...(problems.length > 20 ? [`- and ${problems.length - 20} more`] : []),
    '',
    ...(problems.length ? ['#### What was asked for', ''] : []),
    lines(decisionLines(context, entry, facts)),
    '',
    '#### Proved so far',
    '',
    lines(proofLines(entry, facts)),
    '',
    '#### The write pause',
    '',
    lines(pauseLines(entry, facts)),
    '',
    '#### Accepted',
    '',
    accepted(entry, facts),
    '',
    planDetails(entry, facts),
    '',
    `Plan: \`${plan.hash}\``,
  ].join('\n')
}

function heading({ id, phase }: Entry, problems: readonly string[]): string {
  if (DECIDED.includes(phase))
    return `## ➡️ Migration \`${id}\` is ${phase}: the decision is taken, and the switch continues`
  return problems.length ? `## ❌ Migration \`${id}\`: not ready` : `## ✅ Migration \`${id}\`: ready for the cutover`
}

function lines(all: readonly Line[]): string {
  return all
    .filter((line) => line !== undefined)
    .map(([label, text]) => `- **${label}:** ${text}`)
    .join('\n')
}

function decisionLines({ inputs }: Brief, { plan, phase }: Entry, facts: Facts): Line[] {
  const decided = DECIDED.includes(phase)
  const actor = process.env.GITHUB_TRIGGERING_ACTOR || process.env.GITHUB_ACTOR
  const standIn = [
    ...(facts.to.isLikeServer ? ['the target only answers like CockroachDB'] : []),
    ...(isStandIn(facts.prepare?.body.tools?.molt?.version ?? '') ? ['molt is the embedded stand-in'] : []),
  ]
  return [
    decided ? undefined : ['Decision', decisionText(inputs.decision)],
    ['Plan', `\`${plan.hash?.slice(0, HASH_SHOWN)}\``],
    [
      'From',
      sideText(
        `PostgreSQL ${Math.floor(facts.from.version / 10_000)}`,
        facts.from.database,
        plan.sourceSchema,
        inputs.source,
      ),
    ],
    ['To', sideText(targetText(facts), facts.to.database, plan.targetSchema, inputs.target)],
    standIn.length ? ['Not the real thing', standIn.join(', and ')] : undefined,
    ['Started by', actor ? markdownText(actor) : 'someone outside GitHub'],
    decided ? undefined : ['Approval possible until', untilText(inputs.maxApprovalWait)],
    ['Switches the application', switchText()],
  ]
}

const DECISIONS = {
  commit: '**commit**: the source is fenced for good and the target takes over',
  rehearse: '**rehearse**: everything but the decision; the fence is lifted again',
}

function decisionText(decision: Brief['inputs']['decision']): string {
  return decision ? DECISIONS[decision] : 'unknown: set the input `decision` of `brief`'
}

function untilText(wait: number | undefined): string {
  if (wait === undefined) return 'unknown: set the input `max-approval-wait` of `brief`'
  return `${clock(new Date(Date.now() + wait))}, ${minutes(wait)} after this page`
}

/** As `cutover` will read it: from the same config file, in its own section. */
function cutoverInputs() {
  const { 'max-pause': maxPause, switch: how, 'switch-command': command } = cutover.inputs
  return loadInputs({ ...cutover, inputs: { 'max-pause': maxPause, switch: how, 'switch-command': command } }, specs)
}

function switchText(): string {
  const [program] = cutoverInputs().switchCommand ?? []
  return program
    ? `the command ${markdownCode(program)}, right after the commit`
    : 'a person, after the commit; then start Migrate with `phase: finalize` and tick `switched-by-hand`'
}

/** A host that is a registered secret is hidden like every other. */
function sideText(server: string, database: string, schema: string, url: string): string {
  return `${markdownText(server)}, ${markdownCode(`${database}.${schema}`)} on ${markdownCode(hostOf(url))}`
}

function targetText({ to }: Facts): string {
  const version = to.version.split(' (')[0]?.split(' on ')[0] ?? ''
  return to.isLikeServer ? `${version} (${LIKE_SERVER})` : version
}

function proofLines(entry: Entry, facts: Facts): Line[] {
  const { replicate, slot, proof, prepare } = facts
  const lagMs = replicate?.body.status?.lagMs
  const names = prepare?.body.warnings ?? []
  return [
    ['Preflight', preflightText(facts)],
    names.length ? ['Warnings', markdownText(names.join(', '))] : undefined,
    ['Verify', verifyText(entry, facts)],
    proof ? ['Rolling proof', markdownText(proofText(proof))] : undefined,
    ['Lag', lagMs === undefined ? 'never measured' : `${seconds(lagMs)}, measured ${when(replicate)}`],
    ['WAL kept on the source', slot ? `${number(slot.walBytes / 2 ** 20)} MiB` : 'no slot'],
  ]
}

function preflightText({ prepare }: Facts): string {
  const { findings } = prepare?.body ?? {}
  if (!prepare) return 'never'
  const counts = findings ? `${plural(findings.warn, 'warning')}, ${number(findings.waived)} waived` : 'passed'
  return `${counts}, ${when(prepare)}`
}

function pauseLines({ plan }: Entry, { rehearsal, verify }: Facts): Line[] {
  const pause =
    rehearsal?.body.pauseMs !== undefined
      ? `${seconds(rehearsal.body.pauseMs)}, measured ${when(rehearsal)} (${rehearsal.body.decision})`
      : verify?.body.durationMs === undefined
        ? 'unknown: nothing was verified or rehearsed yet'
        : `about ${seconds(verify.body.durationMs + 2_000)}: the last verify, and 2 s for the rest; never measured`
  const { maxPause } = cutoverInputs()
  return [
    ['Estimate', pause],
    ['Longest', `${seconds(maxPause)} (\`max-pause\`); then the fence is lifted, and nothing is decided`],
    ['Compared meanwhile', finalText(plan)],
    ['A rollback later would lose', 'every write on the target since the commit: nothing carries them back'],
  ]
}

function accepted({ plan, facts: { deferred = [] } }: Entry, { fetch }: Facts): string {
  const risks = [
    ...(plan.waivers ?? []).map((each) => `waived: ${each}`),
    ...(fetch?.body.insecure ?? []).map((each) => `\`allow-insecure\`: ${each}`),
  ]
  const names = deferred.map(({ table, name }) => `${table}.${name}`)
  return [
    ...(risks.length ? risks.map((each) => `- ${markdownText(each)}`) : ['- No waivers.']),
    names.length
      ? `- Deferred for the load (\`defer: ${plan.defer}\`), built again by the stream, the cutover and \`finalize\`: ${markdownText(names.slice(0, 20).join(', '))}${names.length > 20 ? ` and ${names.length - 20} more` : ''}`
      : '- Nothing is deferred.',
  ].join('\n')
}

/** What the approver agrees to. */
const FINAL: Record<FinalVerify, string> = {
  full: 'every row, by molt and by both databases',
  auto: 'every row where that takes at most 2 s; else the rows that changed last, where all others are proved by then. What an administrator changes on the target alone is not seen by that',
  changed:
    'the rows that changed last; all others are proved before. What an administrator changes on the target alone is not seen by that',
  molt: 'every row, by molt alone',
  counts: 'only numbers of rows',
  tables: 'only definitions',
}

/** Without a login of its own no leg of the stream can be shut out, so `auto` compares every row in the pause. */
function finalText({ finalVerify = 'auto', waivers = [] }: Plan): string {
  const withoutLogin = waivers.some((each) => each.startsWith(`${LOGIN_CHECK}=`))
  return withoutLogin && finalVerify === 'auto'
    ? `${FINAL.full}, however long that takes: \`${LOGIN_CHECK}\` was waived, so no row is proved before`
    : FINAL[finalVerify]
}

const LOGIN_CHECK = 'right.target-logins'

const LEVELS: Record<ReportLevel, string> = {
  full: 'compared twice',
  changed: 'compared, and again when they changed',
  molt: 'compared by molt alone',
  counts: 'only counted',
  tables: 'not compared, only the definitions',
}

function verifyText({ plan }: Entry, { verify }: Facts): string {
  if (!verify) return 'never'
  const { problems = [], tables = [], level, partial } = verify.body
  const rows = tables.reduce((sum, table) => sum + table.rows, 0)
  const how = `${plural(rows, 'row')}${level ? ` ${LEVELS[level]}` : ''}, ${when(verify)}`
  if (problems.length) return `${plural(problems.length, 'problem')} in ${plural(tables.length, 'table')}, ${how}`
  const matched =
    partial || tables.length < plan.tables.length
      ? `${number(tables.length)} of ${plural(plan.tables.length, 'table')}`
      : `All ${plural(tables.length, 'table')}`
  return `${matched} match, ${how}`
}

/** As an approver reads it, who may come a day later. */
function when(each: Evidence<unknown> | undefined): string {
  return each ? clock(each.at) : 'never'
}

/** What the hash stands for, for whoever wants to compare it. */
function planDetails({ plan }: Entry, facts: Facts): string {
  const title = `The plan: ${plural(plan.tables.length, 'table')}, ${markdownText(plan.sourceSchema)} → ${markdownText(plan.targetSchema)}, slot ${plan.slot}`
  const tools = Object.entries(plan.tools ?? {}).map(
    ([name, sha]) => `- ${name} ${markdownText(versionOf(name, sha, facts))}: sha256 \`${sha}\``,
  )
  const tables = plan.tables.slice(0, 500).map((table) => `- ${markdownText(table)}`)
  return folded(title, [...tools, ...tables].join('\n'))
}

/** What the program of this digest said of its version when the plan was made. */
function versionOf(name: string, sha256: string, { prepare }: Facts): string {
  const tool = prepare?.body.tools?.[name]
  return tool?.sha256 === sha256 ? tool.version : 'of unknown version'
}
