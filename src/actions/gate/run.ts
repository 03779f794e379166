import { setTimeout as sleep } from 'node:timers/promises'
import { info, warning } from '@actions/core'
import { liveHolder, readApproval, runText, slotRequest } from '../../ledger/hold.ts'
import {
  addEvidence,
  advance,
  CAUGHT_UP,
  DECIDED,
  type Entry,
  readEntryIfAny,
  readEvidence,
  requireEntry,
  STREAMING,
} from '../../ledger/ledger.ts'
import type { Plan } from '../../model/plan.ts'
import { lookAtApproval } from '../../phases/approval/approval.ts'
import { findRehearsals } from '../../phases/approval/rehearsals.ts'
import { requirePlannedTool } from '../../phases/planned-tools.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { InputError, VerdictError } from '../../runtime/errors.ts'
import { isJob, readEnvironment, readJobs, readReviews, runUrl } from '../../runtime/github.ts'
import { seconds, someOf } from '../../runtime/progress.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Gate = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireSecrets(inputs.secrets ?? [])
    if (inputs.do === 'require') await requireGate(context)
    else if (inputs.do === 'rehearsed') await requireRehearsals(context)
    else {
      const url = demand(inputs.target, 'target')
      requireTls(inputs)
      await withDatabase(url, 'target', (target) =>
        inputs.do === 'needed' ? tellNeeded(context, target) : approve(context, target),
      )
    }
  },
}

function demand(value: string | undefined, name: string): string {
  if (!value) throw new InputError('input.missing', `input \`${name}\` is missing, and \`do\` needs it here`)
  return value
}

function requireSecrets(items: readonly string[]): void {
  const empty = items.filter((item) => !/=true$/.test(item)).map((item) => item.replace(/=.*$/, ''))
  if (empty.length)
    throw new InputError(
      'input.secret-missing',
      `the secret ${empty.join(', ')} is empty or not set for this job; set it in the repository or the environment, and call this workflow with \`secrets: inherit\``,
    )
}

/** An environment that does not exist is made by GitHub on its first use, without rules: a typo would let all through. */
async function requireGate(context: Gate): Promise<void> {
  const { inputs } = context
  const legs = Math.min(20, Math.max(1, Math.ceil(inputs.maxApprovalWait / inputs.leg)))
  const limit = Math.ceil(inputs.maxApprovalWait / legs / 1000)
  if (limit > 5 * 3600)
    throw new InputError(
      'input.invalid',
      'input `max-approval-wait`: 20 legs of 5 hours are the most; write 100h or less',
    )
  context.output('legs', JSON.stringify(Array.from({ length: legs }, (_, i) => i + 1)))
  context.output('leg-limit', `${limit}s`)
  context.output('last-leg', legs)
  if (inputs.gate === 'none') return warning('`gate: none`: this migration cuts over without anybody approving it')
  if (inputs.gate === 'plan-hash') return
  const found = await readEnvironment(demand(inputs.token, 'token'), inputs.environment)
  const next = `Give it required reviewers in the repository's settings, or say \`gate: none\``
  if (!found)
    throw new VerdictError(
      'approval.environment-missing',
      `there is no environment \`${inputs.environment}\`; GitHub would make it without rules, and the cutover would run unapproved. ${next}`,
    )
  if (!found.reviewers)
    throw new VerdictError(
      'approval.no-reviewers',
      `environment \`${inputs.environment}\` has no required reviewers. ${next}`,
    )
  if (!found.branches)
    warning(
      `environment \`${inputs.environment}\` takes any branch: who can write to the repository can run an edited workflow in it; limit its deployment branches`,
    )
  if (!found.preventSelfReview)
    info('the environment does not prevent self-review; this is looked at again when it was approved')
}

async function requireRehearsals({ inputs }: Gate): Promise<void> {
  if (!inputs.rehearsals) return info('no rehearsal is asked for (`rehearsals: 0`)')
  const name = `molt-rehearsal-${demand(inputs.planHash, 'plan-hash')}`
  const since = new Date(Date.now() - inputs.rehearsedWithin)
  const { rehearsalWorkflow: workflow, attestation } = inputs
  const { green, rejected } = await findRehearsals({
    token: demand(inputs.token, 'token'),
    ...{ workflow, artifact: name, since, attestation },
  })
  const text = `this plan was rehearsed green ${green.length} times on the default branch since ${since.toISOString()}`
  for (const each of green) info(`counts: ${each}`)
  for (const each of rejected) info(`does not count: ${each}`)
  if (attestation === 'read')
    warning('`attestation: read`: who signed the rehearsals was read, but not proved: no chain of certificates, no log')
  if (green.length < inputs.rehearsals)
    throw new VerdictError(
      'approval.not-rehearsed',
      `${text}, and ${inputs.rehearsals} are asked for; run ${workflow} there (it leaves the attested artifact ${name})${rejected.length ? `. Not counted: ${someOf(rejected, 5)}` : ''}`,
    )
  info(text)
}

/** A leg that comes after the slot was handed over has nothing to do. */
async function tellNeeded(context: Gate, target: Database): Promise<void> {
  const { migration } = context.inputs
  const entry = await readEntryIfAny(target, migration)
  const why = !entry
    ? 'the ledger has no such migration'
    : !STREAMING.includes(entry.phase)
      ? `the migration is ${entry.phase}`
      : (await slotRequest(target, migration))
        ? 'the slot is asked for'
        : ((await overText(context)) ?? (await streamedByOther(context, target)))
  info(why ? `no follower is needed: ${why}` : 'a follower is needed')
  context.output('needed', !why)
}

/** A run that streams needs no second one beside it. The hold of one that has died is not renewed, and lapses. */
async function streamedByOther({ inputs, signal }: Gate, target: Database): Promise<string | undefined> {
  const first = await liveHolder(target, inputs.migration)
  for (let now = first; now; now = await liveHolder(target, inputs.migration)) {
    if (now.expiresAt.getTime() !== first?.expiresAt.getTime()) return `${runText(now)} has the slot`
    await sleep(1_000, undefined, { signal })
  }
  return undefined
}

/** A leg begins also when it was declined or expired: the stream says so, in red, and does with the slot what was asked for. */
async function overText({ inputs }: Gate): Promise<string | undefined> {
  const { token, environment, maxApprovalWait: maxWait } = inputs
  if (inputs.gate === 'plan-hash' || !token) return undefined
  const seen = await lookAtApproval({ token, job: 'cutover', environment, maxWait })
  if (seen === 'running' || seen === 'over') return `the job cutover is ${seen}`
  return seen === 'approved' ? 'the cutover is approved and waits for a runner' : undefined
}

/** Who approved what, into the ledger; nothing else sets `approved`. */
async function approve(context: Gate, target: Database): Promise<void> {
  const { inputs } = context
  const entry = await requireEntry(target, inputs.migration, [...CAUGHT_UP, ...DECIDED])
  if (!inputs.planHash || entry.plan.hash !== inputs.planHash)
    throw new VerdictError(
      'approval.plan-changed',
      `the plan is not the one that was approved: ${inputs.planHash ?? 'none'} was shown, and ${entry.plan.hash} is in the ledger. Start again with \`phase: cutover\`, and have this one approved`,
    )
  requireTools(inputs.tools ?? [], entry.plan)
  const waiting = CAUGHT_UP.includes(entry.phase)
  if (waiting) await requireStillWanted(context, target)
  const { by, count } = await approver(context, target, entry)
  const approval = { by, gate: inputs.gate, planHash: inputs.planHash, startedBy: starter(), run: runUrl() }
  await addEvidence(target, entry.id, 'gate', { ...approval, runId: process.env.GITHUB_RUN_ID ?? '', count })
  if (waiting) await advance(target, entry, 'approved', { facts: { approval } })
  context.output('approved-by', by)
  const text = by
    ? `approved by ${by}`
    : inputs.gate === 'environment'
      ? 'passed without an approval'
      : 'nobody was asked'
  info(`plan ${inputs.planHash}: ${text}`)
  context.summary(`### Gate: ${text}\n\nPlan \`${inputs.planHash}\`, started by ${starter()}.`)
}

/** The plan names the programs that it was prepared with; this runner may have been given others. */
function requireTools(items: readonly string[], plan: Plan): void {
  for (const item of items) {
    const [name = '', sha256] = item.split('=')
    if (sha256) requirePlannedTool(plan, name, sha256)
  }
}

function starter(): string {
  return process.env.GITHUB_TRIGGERING_ACTOR || process.env.GITHUB_ACTOR || 'unknown'
}

async function requireStillWanted({ inputs }: Gate, target: Database): Promise<void> {
  const gate = await readApproval(target, inputs.migration)
  if (gate)
    throw new VerdictError(
      'approval.over',
      `this approval is ${gate} already, and nobody has streamed since; start again with \`phase: cutover\``,
    )
  if (!inputs.token) return
  const red = (await readJobs(inputs.token)).body.find((job) => isJob(job, 'follow') && job.conclusion === 'failure')
  if (red)
    throw new VerdictError(
      'approval.follower-failed',
      `the job \`${red.name}\` is red: what it streamed cannot be trusted. Read its log, put it right, and start again with \`phase: cutover\``,
    )
}

/** Who has approved, empty for nobody, and of how many approvals of this run: GitHub gives them no number of the attempt. */
interface Approver {
  by: string
  count: number
}

async function approver(context: Gate, target: Database, entry: Entry): Promise<Approver> {
  const { gate } = context.inputs
  if (gate === 'environment') return reviewer(context, target)
  return { by: gate === 'plan-hash' ? await typist(context, target, entry) : '', count: 0 }
}

async function reviewer({ inputs }: Gate, target: Database): Promise<Approver> {
  const all = await readReviews(demand(inputs.token, 'token'), inputs.environment)
  const approvals = all.filter(({ state }) => state === 'approved')
  const count = approvals.length
  const earlier = await readEvidence<{ runId?: string; count?: number }>(target, inputs.migration, 'gate', 20)
  const used = earlier.find(({ body }) => body.runId === process.env.GITHUB_RUN_ID)?.body.count ?? 0
  const last = count > used ? approvals.at(-1)?.user.login : undefined
  if (!last) {
    const text = used
      ? 'this attempt of the job was approved by nobody: its only approval is of an earlier attempt'
      : `environment \`${inputs.environment}\` was passed without an approval, by an administrator or because its rule is gone`
    if (inputs.bypass === 'refuse')
      throw new VerdictError(
        'approval.missing',
        `${text}. Start a new run with \`phase: cutover\`, or say \`bypass: warn\``,
      )
    warning(text)
    return { by: '', count }
  }
  if (last.toLowerCase() === starter().toLowerCase()) {
    const text = `${last} has started this run and approved it`
    if (inputs.selfApproval === 'refuse')
      throw new VerdictError(
        'approval.same-person',
        `${text}; another person must do one of the two, or say \`self-approval: warn\``,
      )
    warning(text)
  }
  return { by: last, count }
}

/** For repositories without required reviewers: a second person types the hash that a first one's run has shown. */
async function typist({ inputs }: Gate, target: Database, entry: Entry): Promise<string> {
  if (inputs.approvedHash !== entry.plan.hash)
    throw new VerdictError(
      'approval.wrong-hash',
      `input \`approved-hash\` is not the hash of the plan (${entry.plan.hash}); copy it from the brief of the run that you approve`,
    )
  const briefs = await readEvidence<{ actor?: string; runId?: string; planHash?: string }>(
    target,
    entry.id,
    'brief',
    50,
  )
  const others = briefs.filter(
    ({ body }) => body.runId !== process.env.GITHUB_RUN_ID && body.planHash === entry.plan.hash,
  )
  const shown = others.filter(({ ageMs }) => ageMs <= inputs.maxApprovalWait)
  if (!shown.length)
    throw new VerdictError(
      'approval.plan-not-shown',
      others.length
        ? `the run that showed this plan is older than \`max-approval-wait\` (${seconds(inputs.maxApprovalWait)}); the first dispatch is to be repeated`
        : 'no earlier run has shown this plan; the first dispatch leaves `approved-hash` empty',
    )
  const own = ({ body }: (typeof shown)[number]) => body.actor?.toLowerCase() === starter().toLowerCase()
  if (shown.every(own) && inputs.selfApproval === 'refuse')
    throw new VerdictError(
      'approval.same-person',
      `${starter()} has started the run that showed this plan and typed its hash; another person must do one of the two`,
    )
  return starter()
}
