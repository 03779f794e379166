import type { readTarget } from '../../destination/server.ts'
import { LIKE_SERVER } from '../../destination/server.ts'
import { DECIDED, type Entry, type Evidence } from '../../ledger/ledger.ts'
import type { ProofState } from '../../ledger/proof.ts'
import type { FinalVerify, Plan, ReportLevel } from '../../model/plan.ts'
import { isStandIn } from '../../model/stand-in.ts'
import { proofText } from '../../phases/rolling/text.ts'
import { markdownCode, markdownText } from '../../report/markdown.ts'
import { folded } from '../../report/summary.ts'
import type { Context } from '../../runtime/action.ts'
import { runUrl } from '../../runtime/github.ts'
import { loadInputs } from '../../runtime/inputs.ts'
import { nextCommand, nextTold, onGithub } from '../../runtime/next.ts'
import { clock, minutes, number, plural, seconds } from '../../runtime/progress.ts'
import { hostOf } from '../../runtime/url.ts'
import type { readServer } from '../../source/server.ts'
import type { readSlot } from '../../source/slot.ts'
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

/** The latest of each, from the ledger. */
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

/** Digits of the hash that a person compares; the full hash is below. */
const HASH_SHOWN = 12

/** A label and its value; lists wrap on a phone, tables do not. */
type Line = [label: string, text: string] | undefined

/**
 * What an approver reads: the verdict and the decision first, then what was proved, the expected pause, and what was
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
    ...approveText(entry, problems),
  ].join('\n')
}

/** The job `cutover` of this run waits already; starting another run is for plans without required reviewers. */
function approveText({ plan, phase }: Entry, problems: readonly string[]): string[] {
  if (!onGithub() || problems.length || DECIDED.includes(phase)) return []
  nextTold()
  const command = nextCommand({ action: 'cutover', inputs: { 'approved-hash': plan.hash ?? '' } })
  const approve = process.env.MOLT_ACTIONS_WORKFLOWS
    ? 'answer `npm run workflow`, which asks who approves `cutover`'
    : `open [this run](${runUrl()}), choose **Review deployments**, and approve \`cutover\``
  return [
    '',
    `**Next:** ${approve}. With \`gate: plan-hash\`, another person starts instead:`,
    '',
    `\`\`\`sh\n${command}\n\`\`\``,
  ]
}

function heading({ id, phase }: Entry, problems: readonly string[]): string {
  if (DECIDED.includes(phase))
    return `## ➡️ Migration \`${id}\` is ${phase}: the decision is made, and the switch continues`
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
    standIn.length ? ['Stand-ins', standIn.join(', and ')] : undefined,
    ['Started by', actor ? markdownText(actor) : 'someone outside GitHub'],
    decided ? undefined : ['Approval possible until', untilText(inputs.maxApprovalWait)],
    ['Switches the application', switchText()],
  ]
}

const DECISIONS = {
  commit: '**commit**: the source is permanently fenced and the target takes over',
  rehearse: '**rehearse**: everything except the commit; then the fence is lifted',
}

function decisionText(decision: Brief['inputs']['decision']): string {
  return decision ? DECISIONS[decision] : 'unknown: set the input `decision` of `brief`'
}

function untilText(wait: number | undefined): string {
  if (wait === undefined) return 'unknown: set the input `max-approval-wait` of `brief`'
  return `${clock(new Date(Date.now() + wait))}, ${minutes(wait)} after this page`
}

/** As `cutover` reads it: from its own section of the same config file. */
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

/** A host that is a registered secret is hidden like any other. */
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
    ['Longest', `${seconds(maxPause)} (\`max-pause\`); past it, the fence is lifted and nothing is committed`],
    ['Compared meanwhile', finalText(plan)],
    ['A rollback later would lose', 'every write on the target since the commit: nothing copies them back'],
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
      ? `- ${plan.defer && plan.defer !== 'none' ? `Deferred for the load (\`defer: ${plan.defer}\`)` : 'Left by `convert` to be built'}, built by the stream, the cutover and \`finalize\`: ${markdownText(names.slice(0, 20).join(', '))}${names.length > 20 ? ` and ${names.length - 20} more` : ''}`
      : '- Nothing is deferred.',
  ].join('\n')
}

/** What the approver agrees to. */
const FINAL: Record<FinalVerify, string> = {
  full: 'every row, by molt and by both databases',
  auto: 'every row if that takes at most 2 s; otherwise the rows that changed last, once all others are proved. This does not notice what an administrator changes only on the target',
  changed:
    'the rows that changed last; all others are proved before. This does not notice what an administrator changes only on the target',
  molt: 'every row, by molt alone',
  counts: 'only row counts',
  tables: 'only definitions',
}

/** Without its own login, no leg of the stream can be shut out, so `auto` compares every row in the pause. */
function finalText({ finalVerify = 'auto', waivers = [] }: Plan): string {
  const withoutLogin = waivers.some((each) => each.startsWith(`${LOGIN_CHECK}=`))
  return withoutLogin && finalVerify === 'auto'
    ? `${FINAL.full}, however long that takes: \`${LOGIN_CHECK}\` was waived, so no row is proved before the pause`
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

/** For an approver, who may read it a day later. */
function when(each: Evidence<unknown> | undefined): string {
  return each ? clock(each.at) : 'never'
}

/** What the hash covers, for anyone who wants to compare it. */
function planDetails({ plan }: Entry, facts: Facts): string {
  const title = `The plan: ${plural(plan.tables.length, 'table')}, ${markdownText(plan.sourceSchema)} → ${markdownText(plan.targetSchema)}, slot ${plan.slot}`
  const tools = Object.entries(plan.tools ?? {}).map(
    ([name, sha]) => `- ${name} ${markdownText(versionOf(name, sha, facts))}: sha256 \`${sha}\``,
  )
  const tables = plan.tables.slice(0, 500).map((table) => `- ${markdownText(table)}`)
  return folded(title, [...tools, ...tables].join('\n'))
}

/** The version that the program with this digest reported when the plan was made. */
function versionOf(name: string, sha256: string, { prepare }: Facts): string {
  const tool = prepare?.body.tools?.[name]
  return tool?.sha256 === sha256 ? tool.version : 'of unknown version'
}
