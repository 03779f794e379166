import { info } from '@actions/core'
import { LIKE_SERVER, readTarget } from '../../destination/server.ts'
import { setApproval } from '../../ledger/hold.ts'
import {
  addEvidence,
  advance,
  CAUGHT_UP,
  DECIDED,
  type Entry,
  type Evidence,
  readEvidence,
  STREAMING,
} from '../../ledger/ledger.ts'
import { type ProofState, readProof } from '../../ledger/proof.ts'
import type { FinalVerify, Plan, ReportLevel } from '../../model/plan.ts'
import { proofText } from '../../phases/rolling/text.ts'
import { markdownCode, markdownText } from '../../report/markdown.ts'
import { folded } from '../../report/summary.ts'
import type { Action, Context } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'
import { runUrl } from '../../runtime/github.ts'
import { loadInputs } from '../../runtime/inputs.ts'
import { notify } from '../../runtime/notify.ts'
import { number, plural, seconds } from '../../runtime/progress.ts'
import { readServer } from '../../source/server.ts'
import { readSlot } from '../../source/slot.ts'
import { spec as cutover } from '../cutover/spec.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { specs } from '../specs.ts'
import { spec } from './spec.ts'

type Brief = Context<typeof spec>

interface Verified {
  problems?: string[]
  tables?: { rows: number }[]
  level?: ReportLevel
  partial?: boolean
  durationMs?: number
}

/** The last of each, as the ledger has them. */
interface Facts {
  prepare?: Evidence<{
    tools?: Record<string, { version: string; sha256: string } | null>
    findings?: { warn: number; waived: number }
  }>
  verify?: Evidence<Verified>
  fetch?: Evidence<{ insecure?: string[]; mode?: string }>
  replicate?: Evidence<{ status?: { lagMs?: number } }>
  rehearsal?: Evidence<{ pauseMs?: number; decision?: string }>
  slot?: Awaited<ReturnType<typeof readSlot>>
  proof?: ProofState
  from: Awaited<ReturnType<typeof readServer>>
  to: Awaited<ReturnType<typeof readTarget>>
}

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(context, async (source, target) => {
      let entry = await requireMigration(source, target, context.inputs.migration, [...STREAMING, ...DECIDED])
      const facts = await gather(source, target, entry)
      const problems = STREAMING.includes(entry.phase) ? problemsOf(entry, facts) : []
      await addEvidence(target, entry.id, 'brief', {
        actor: process.env.GITHUB_TRIGGERING_ACTOR ?? '',
        runId: process.env.GITHUB_RUN_ID ?? '',
        run: runUrl(),
        planHash: entry.plan.hash,
        problems,
      })
      // What became of an earlier approval says nothing of the one that is asked for now.
      await setApproval(target, entry.id, null)
      // Nor does an approval that no cutover has used: what is shown now must be approved now.
      if (entry.phase === 'approved') {
        entry = await advance(target, entry, 'caught-up', { facts: { approval: null } })
        info('an earlier approval, which no cutover has used, is forgotten')
      }
      context.output('verdict', problems.length ? 'no-go' : 'go')
      context.output('plan-hash', entry.plan.hash ?? '')
      context.output('phase', entry.phase)
      // GitHub drops an output with a secret's value in it, and `true` can be one. Without this output, a follower runs.
      context.output('follow', CAUGHT_UP.includes(entry.phase) ? 'follower-needed' : 'no-follower-needed')
      context.summary(page(context, entry, facts, problems))
      if (!problems.length && STREAMING.includes(entry.phase))
        notify('approval-wanted', { decision: context.inputs.decision ?? '', planHash: entry.plan.hash ?? '' })
      if (problems.length)
        refuse(
          'brief.not-ready',
          'this migration is not ready for its cutover',
          problems,
          !facts.slot || facts.slot.walStatus === 'lost'
            ? 'Take away what is left with `abort`, and start again with `phase: prepare`.'
            : 'Start again with `phase: stream`.',
        )
    }),
}

async function gather(source: Database, target: Database, entry: Entry): Promise<Facts> {
  const last = async <T>(action: string) => (await readEvidence<T>(target, entry.id, action, 1))[0]
  return {
    prepare: await last('prepare'),
    verify: await last<Verified>('verify'),
    fetch: await last('fetch'),
    replicate: await last('replicate'),
    rehearsal: await last('cutover'),
    slot: await readSlot(source, entry.plan.slot),
    proof: await readProof(target, entry.id),
    from: await readServer(source),
    to: await readTarget(target),
  }
}

function problemsOf(entry: Entry, { verify, slot }: Facts): string[] {
  const problems: string[] = []
  if (entry.phase === 'loaded') problems.push('the target has not caught up yet')
  if (!slot) problems.push(`the slot ${entry.plan.slot} is gone from the source; the load must be repeated`)
  if (slot?.walStatus === 'lost') problems.push('the slot has lost WAL; the load must be repeated')
  if (!verify) problems.push('nothing was verified yet')
  else if (verify.body.partial) problems.push('the last verify looked at some tables only')
  else for (const each of verify.body.problems ?? []) problems.push(`verify: ${each}`)
  return problems
}

function page(context: Brief, entry: Entry, facts: Facts, problems: readonly string[]): string {
  const { plan } = entry
  const { verify, fetch, replicate, rehearsal, slot } = facts
  const decided = DECIDED.includes(entry.phase)
  const head = decided
    ? `## ➡️ Migration \`${entry.id}\` is ${entry.phase}: the decision is taken, what is left is carried on`
    : problems.length
      ? `## ❌ Migration \`${entry.id}\`: not ready`
      : `## ✅ Migration \`${entry.id}\`: ready for the cutover`
  const risks = [
    ...(plan.waivers ?? []).map((each) => `waived: ${each}`),
    ...(fetch?.body.insecure ?? []).map((each) => `allow-insecure: ${each}`),
    ...(plan.defer && plan.defer !== 'none'
      ? [`taken off for the load, and built again by the stream, the cutover and \`finalize\`: ${plan.defer}`]
      : []),
  ]
  const pause =
    rehearsal?.body.pauseMs !== undefined
      ? `${seconds(rehearsal.body.pauseMs)}, as measured ${ago(rehearsal)} (${rehearsal.body.decision})`
      : `about ${seconds((verify?.body.durationMs ?? 0) + 2_000)}: the last verify, and 2 s for the rest; never measured`
  const lagMs = replicate?.body.status?.lagMs
  return [
    head,
    ...problems.slice(0, 20).map((each) => `- ${markdownText(each)}`),
    '',
    '| | |',
    '| --- | --- |',
    ...(decided ? [] : [`| Decision | ${decisionText(context.inputs.decision)} |`]),
    `| From, to | ${fromTo(entry, facts)} |`,
    `| Preflight | ${preflightText(facts)} |`,
    `| Verify | ${verifyText(entry, facts)} |`,
    ...(facts.proof ? [`| Rolling proof | ${markdownText(proofText(facts.proof))} |`] : []),
    `| In the write pause | ${finalText(plan)} |`,
    `| Lag | ${lagMs === undefined ? 'never measured' : `${seconds(lagMs)} (measured ${ago(replicate)})`} |`,
    `| Estimated write pause | ${pause} |`,
    `| Longest write pause | ${seconds(maxPause())} (\`max-pause\`): then the fence is lifted, and nothing is decided |`,
    `| WAL kept on the source | ${slot ? `${number(slot.walBytes / 2 ** 20)} MiB` : 'no slot'} |`,
    '| A rollback later would lose | every write on the target since the commit: nothing carries them back |',
    `| Tools | ${markdownText(toolsOf(entry, facts).join(', ') || 'none recorded')} |`,
    `| Plan | \`${plan.hash}\` |`,
    '',
    risks.length ? `**Accepted risks**\n\n${risks.map((each) => `- ${markdownText(each)}`).join('\n')}` : 'No waivers.',
    '',
    planDetails(entry),
  ].join('\n')
}

const DECISIONS = {
  commit: '**commit**: the source is fenced for good and the target takes over',
  rehearse: '**rehearse**: everything but the decision; the fence is lifted again',
}

function decisionText(decision: Brief['inputs']['decision']): string {
  return decision ? DECISIONS[decision] : 'not known here: `brief` was not told (input `decision`)'
}

/** Names and versions only: an address could hold what is masked. */
function fromTo({ plan }: Entry, { from, to }: Facts): string {
  const version = to.version.split(' (')[0]?.split(' on ')[0] ?? ''
  const target = to.isLikeServer ? `${version} (${LIKE_SERVER})` : version
  const place = (database: string, schema: string) => markdownCode(`${database}.${schema}`)
  return `PostgreSQL ${Math.floor(from.version / 10_000)} ${place(from.database, plan.sourceSchema)} → ${markdownText(target)} ${place(to.database, plan.targetSchema)}`
}

function preflightText({ prepare }: Facts): string {
  const { findings } = prepare?.body ?? {}
  if (!prepare) return 'never'
  const counts = findings ? `${plural(findings.warn, 'warning')}, ${number(findings.waived)} waived` : 'passed'
  return `${counts}, ${ago(prepare)}`
}

/** What the approver agrees to. */
const FINAL: Record<FinalVerify, string> = {
  full: 'every row is compared, by molt and by both databases',
  auto: 'every row is compared where that takes at most 2 s; else the rows that changed last, where all others are proved by then. What an administrator changes on the target alone is not seen by that',
  changed:
    'the rows that changed last are compared; all others are proved before. What an administrator changes on the target alone is not seen by that',
  molt: 'every row is compared, by molt alone',
  counts: 'only numbers of rows are compared',
  tables: 'only definitions are compared',
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
  full: 'every row, by molt and by both databases',
  changed: 'every row, by both databases, and again when it changed',
  molt: 'every row, by molt alone',
  counts: 'only the numbers of rows',
  tables: 'only the definitions',
}

function verifyText({ plan }: Entry, { verify }: Facts): string {
  if (!verify) return 'never'
  const { problems = [], tables = [], level } = verify.body
  const rows = tables.reduce((sum, table) => sum + table.rows, 0)
  const how = level ? `; ${LEVELS[level]}` : ''
  return `${plural(problems.length, 'problem')} in ${number(tables.length)} of ${plural(plan.tables.length, 'table')}, ${plural(rows, 'row')}${how} (${ago(verify)})`
}

/** As an approver reads it, who may come a day later. */
function ago(each: Evidence<unknown> | undefined): string {
  if (!each) return 'never'
  const minutes = each.ageMs / 60_000
  if (minutes < 3) return `${Math.round(minutes * 60)} s ago`
  if (minutes < 180) return `${Math.round(minutes)} min ago`
  return minutes < 48 * 60 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`
}

/** As `cutover` will read it: from the same config file, in its own section. */
function maxPause(): number {
  const inputs = { 'max-pause': cutover.inputs['max-pause'] }
  return loadInputs({ ...cutover, inputs }, specs).maxPause
}

function toolsOf({ plan }: Entry, facts: Facts): string[] {
  return Object.entries(plan.tools ?? {}).map(([name, sha]) => `${name} ${versionOf(name, sha, facts)}`)
}

/** What the hash stands for, for whoever wants to compare it. */
function planDetails({ plan }: Entry): string {
  const title = `The plan: ${plural(plan.tables.length, 'table')}, ${markdownText(plan.sourceSchema)} → ${markdownText(plan.targetSchema)}, slot ${plan.slot}`
  const tools = Object.entries(plan.tools ?? {}).map(([name, sha]) => `- ${name}: sha256 \`${sha}\``)
  const tables = plan.tables.slice(0, 500).map((table) => `- ${markdownText(table)}`)
  return folded(title, [...tools, ...tables].join('\n'))
}

/** What the program of this digest said of its version when the plan was made. */
function versionOf(name: string, sha256: string, { prepare }: Facts): string {
  const tool = prepare?.body.tools?.[name]
  return tool?.sha256 === sha256 ? tool.version : 'of unknown version'
}
