import type { readTarget } from '../../destination/server.ts'
import { LIKE_SERVER } from '../../destination/server.ts'
import { DECIDED, type Entry, type Evidence } from '../../ledger/ledger.ts'
import type { ProofState } from '../../ledger/proof.ts'
import type { FinalVerify, Plan, ReportLevel } from '../../model/plan.ts'
import { isStandIn } from '../../model/stand-in.ts'
import { decidedText } from '../../model/structure.ts'
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

/** What the page shows: the latest evidence of each action, and the state of both servers. */
export interface Facts {
  prepare?: Evidence<{
    tools?: Record<string, { version: string; sha256: string } | null>
    findings?: { warn: number; waived: number }
    warnings?: string[]
  }>
  /** The last row comparison. `definitions` is the last comparison of definitions alone. */
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

/** How many digits of the plan hash are shown near the top, for a quick comparison. The full hash is at the end. */
const HASH_SHOWN = 12

/** A label and its value. The page uses lists, because tables do not wrap on a phone. */
type Line = [label: string, text: string] | undefined

/**
 * The page for an approver: the verdict and the decision first, then what has been proved, the expected pause, and the
 * accepted risks.
 */
export function page(context: Brief, entry: Entry, facts: Facts, problems: readonly string[]): string {
  const { plan } = entry
  return [
    heading(entry, problems),
    ...problems.slice(0, 20).map((each) => `- ${markdownText(each)}`),
    ...(problems.length > 20 ? [`- and ${problems.length - 20} more`] : []),
    '',
    ...(problems.length ? ['#### The requested cutover', ''] : []),
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

/**
 * How to approve: in this run, where the job `cutover` is already waiting, or in a second run with `gate: plan-hash`.
 */
function approveText({ plan, phase }: Entry, problems: readonly string[]): string[] {
  if (!onGithub() || problems.length || DECIDED.includes(phase)) return []
  nextTold()
  const command = nextCommand({ action: 'cutover', inputs: { 'approved-hash': plan.hash ?? '' } })
  const approve = process.env.MOLT_ACTIONS_WORKFLOWS
    ? 'approve `cutover` when `npm run workflow` prompts you'
    : `open [this run](${runUrl()}), choose **Review deployments**, and approve \`cutover\``
  return [
    '',
    `**Next:** ${approve}. With \`gate: plan-hash\`, a second person runs this instead:`,
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
    ...(facts.to.isLikeServer ? ['the target is not CockroachDB, but the like-server'] : []),
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
    decided ? undefined : ['Approve by', untilText(inputs.maxApprovalWait)],
    ['Application switch', switchText()],
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

/** The inputs that `cutover` will read from its own section of the same config file. */
function cutoverInputs() {
  const { 'max-pause': maxPause, switch: how, 'switch-command': command } = cutover.inputs
  return loadInputs({ ...cutover, inputs: { 'max-pause': maxPause, switch: how, 'switch-command': command } }, specs)
}

function switchText(): string {
  const [program] = cutoverInputs().switchCommand ?? []
  return program
    ? `by the command ${markdownCode(program)}, right after the commit`
    : 'by hand, after the commit; then start Migrate with `phase: finalize` and tick `switched-by-hand`'
}

/** Server, database, schema and host of one side. The summary hides a host that is a registered secret. */
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
  if (!prepare) return 'not run'
  const counts = findings ? `${plural(findings.warn, 'warning')}, ${number(findings.waived)} waived` : 'passed'
  return `${counts}, ${when(prepare)}`
}

function pauseLines({ plan }: Entry, { rehearsal, verify }: Facts): Line[] {
  const pause =
    rehearsal?.body.pauseMs !== undefined
      ? `${seconds(rehearsal.body.pauseMs)}, measured ${when(rehearsal)} (${rehearsal.body.decision})`
      : verify?.body.durationMs === undefined
        ? 'unknown: there has been no verify or rehearsal yet'
        : `about ${seconds(verify.body.durationMs + 2_000)}, not measured: the duration of the last verify plus 2 s`
  const { maxPause } = cutoverInputs()
  return [
    ['Estimate', pause],
    ['Limit', `${seconds(maxPause)} (\`max-pause\`); after that, the fence is lifted and nothing is committed`],
    ['Compared during the pause', finalText(plan)],
    ['A later rollback would lose', 'every write on the target since the commit: nothing copies them back'],
  ]
}

function accepted({ plan, facts: { deferred = [] } }: Entry, { fetch }: Facts): string {
  const risks = [
    ...(plan.waivers ?? []).map((each) => `waived: ${each}`),
    ...(plan.decided ?? []).map((each) => `decided in convert.yml: ${decidedText(each)}`),
    ...(fetch?.body.insecure ?? []).map((each) => `\`allow-insecure\`: ${each}`),
  ]
  const names = deferred.map(({ table, name }) => `${table}.${name}`)
  return [
    ...(risks.length ? risks.map((each) => `- ${markdownText(each)}`) : ['- No waivers.']),
    names.length
      ? `- ${plan.defer && plan.defer !== 'none' ? `Deferred for the load (\`defer: ${plan.defer}\`)` : 'Postponed by `convert`'}, built by the stream, the cutover and \`finalize\`: ${markdownText(names.slice(0, 20).join(', '))}${names.length > 20 ? ` and ${names.length - 20} more` : ''}`
      : '- Nothing is deferred.',
  ].join('\n')
}

/** What the approver agrees to. */
const FINAL: Record<FinalVerify, string> = {
  full: 'every row, by molt and by hashes that both databases compute',
  auto: 'every row if that takes at most 2 s; otherwise the last changed rows, because all others have been compared before the pause. This misses changes that an administrator makes only on the target',
  changed:
    'the last changed rows; all others have been compared before the pause. This misses changes that an administrator makes only on the target',
  molt: 'every row, only by molt',
  counts: 'only row counts',
  tables: 'only definitions',
}

/**
 * The final verify that the approver agrees to. Without a separate login for each leg, an earlier leg cannot be locked
 * out of the target, so `auto` compares every row during the pause.
 */
function finalText({ finalVerify = 'auto', waivers = [] }: Plan): string {
  const withoutLogin = waivers.some((each) => each.startsWith(`${LOGIN_CHECK}=`))
  return withoutLogin && finalVerify === 'auto'
    ? `${FINAL.full}, however long that takes: \`${LOGIN_CHECK}\` was waived, so no rows can be compared before the pause`
    : FINAL[finalVerify]
}

const LOGIN_CHECK = 'right.target-logins'

const LEVELS: Record<ReportLevel, string> = {
  full: 'compared twice',
  changed: 'compared once, and again after each change',
  molt: 'compared only by molt',
  counts: 'only counted',
  tables: 'not compared (definitions only)',
}

function verifyText({ plan }: Entry, { verify }: Facts): string {
  if (!verify) return 'not run'
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

/** A date and time, because the approver may read the page a day later. */
function when(each: Evidence<unknown> | undefined): string {
  return each ? clock(each.at) : 'never'
}

/** The tools and tables that the plan hash covers, in a collapsed section. */
function planDetails({ plan }: Entry, facts: Facts): string {
  const title = `The plan: ${plural(plan.tables.length, 'table')}, ${markdownText(plan.sourceSchema)} → ${markdownText(plan.targetSchema)}, slot ${plan.slot}`
  const tools = Object.entries(plan.tools ?? {}).map(
    ([name, sha]) => `- ${name} ${markdownText(versionOf(name, sha, facts))}: sha256 \`${sha}\``,
  )
  const tables = plan.tables.slice(0, 500).map((table) => `- ${markdownText(table)}`)
  return folded(title, [...tools, ...tables].join('\n'))
}

/** The version of the tool with this digest, as recorded by `prepare`. */
function versionOf(name: string, sha256: string, { prepare }: Facts): string {
  const tool = prepare?.body.tools?.[name]
  return tool?.sha256 === sha256 ? tool.version : '(unknown version)'
}
