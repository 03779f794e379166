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
import { findRehearsals, MOST_REHEARSALS } from '../../phases/approval/rehearsals.ts'
import { requirePlannedTool } from '../../phases/planned-tools.ts'
import { markdownText } from '../../report/markdown.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { type Database, withDatabase } from '../../runtime/database.ts'
import { InputError, UserError, VerdictError } from '../../runtime/errors.ts'
import {
  APPROVED,
  connectGithub,
  type Environment,
  isJob,
  readEnvironment,
  readJobs,
  readReviews,
  runUrl,
} from '../../runtime/github.ts'
import { clock, seconds, someOf } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Gate = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    requireSecrets(inputs.secrets ?? [])
    requireGateForCommit(inputs)
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
  if (!value) throw new InputError('input.missing', `input \`${name}\` is missing. The given \`do\` requires it`)
  return value
}

function requireSecrets(items: readonly string[]): void {
  const empty = items.filter((item) => !/=true$/.test(item)).map((item) => item.replace(/=.*$/, ''))
  if (empty.length)
    throw new InputError(
      'input.secret-missing',
      `the secret ${empty.join(', ')} is empty in this job. Set it in the job's environment. A called workflow gets an environment's secrets only through \`secrets: inherit\` within one organization. Elsewhere, copy examples/migrate-jobs.yml`,
    )
}

/**
 * Checks the approval gate. GitHub creates a missing environment without rules, so a typo would let every run through.
 */
async function requireGate(context: Gate): Promise<void> {
  const { inputs } = context
  context.output('gate', inputs.gate)
  context.output('legs', JSON.stringify(legNames(inputs.maxApprovalWait, inputs.leg)))
  if (inputs.secretsEnvironment) await requireBranchRule(context)
  if (inputs.gate === 'none') return info('`gate: none`: this run needs no approval')
  if (inputs.gate === 'plan-hash') return
  await requireReviewers(context)
}

/** Refuses a commit without a gate, because anyone who can start a run could then commit alone. */
function requireGateForCommit({ gate, decision }: Gate['inputs']): void {
  if (gate === 'none' && decision === 'commit')
    throw new InputError(
      'approval.required',
      '`decision: commit` requires approval. Set `gate: environment`, or `gate: plan-hash` if your GitHub plan has no required reviewers',
    )
}

/** Names the legs by letter, because GitHub clears an output that contains a secret, and a secret can be `1`. */
function legNames(wait: number, leg: number): string[] {
  const legs = Math.min(20, Math.max(1, Math.ceil(wait / leg)))
  if (wait / legs > 5 * 3_600_000)
    throw new InputError(
      'input.invalid',
      'input `max-approval-wait` is over the maximum of 20 legs of 5 hours. Set 100h or less',
    )
  return Array.from({ length: legs }, (_, i) => (i === legs - 1 ? 'leg-last' : `leg-${'abcdefghijklmnopqrs'[i]}`))
}

async function requireReviewers(context: Gate): Promise<void> {
  const { environment, adminsCanBypass } = context.inputs
  const found = await readEnvironment(connectGithub(demand(context.inputs.token, 'token')), environment)
  const next =
    "Add required reviewers to it in the repository's settings. If your GitHub plan has none, set `gate: plan-hash`"
  if (!found)
    throw new VerdictError(
      'approval.environment-missing',
      `the environment \`${environment}\` does not exist. GitHub would create it without rules, and run the job unapproved. ${next}`,
    )
  if (!found.reviewers)
    throw new VerdictError(
      'approval.no-reviewers',
      `the environment \`${environment}\` has no required reviewers. ${next}`,
    )
  requireBranches(context, environment, found.branches)
  // GitHub Enterprise Server before 3.10 omits this field. Treat a missing value as a possible bypass.
  if (found.bypass !== false) {
    const text = `administrators can bypass the reviewers of \`${environment}\`. Untick "Allow administrators to bypass configured protection rules"`
    if (adminsCanBypass === 'refuse') throw new VerdictError('approval.bypass-possible', text)
    warning(text)
  }
  if (!found.preventSelfReview) info('the environment does not prevent self-review; `approve` checks who approved')
  const branches = Array.isArray(found.branches) ? found.branches.join(', ') : found.branches
  context.summary(
    [
      `### Gate: environment \`${environment}\``,
      '',
      '| reviewers | branches | administrators can bypass them |',
      '| --- | --- | --- |',
      `| ${found.reviewers} | ${markdownText(branches)} | ${found.bypass === undefined ? 'unknown' : found.bypass ? '**yes**' : 'no'} |`,
    ].join('\n'),
  )
}

/** Checks the secrets' environment. If it accepts any branch, everyone who can push a branch can read its secrets. */
async function requireBranchRule(context: Gate): Promise<void> {
  const { secretsEnvironment: name = '', token } = context.inputs
  const found = await readEnvironment(connectGithub(demand(token, 'token')), name)
  if (found) return requireBranches(context, name, found.branches)
  info(
    `the environment \`${name}\` does not exist; this job uses the repository's secrets, which every branch can read`,
  )
}

function requireBranches({ inputs }: Gate, name: string, branches: Environment['branches']): void {
  const open = branches === 'any' || (Array.isArray(branches) && branches.some((each) => /^[*/?]+$/.test(each)))
  if (!open) return
  const text = `the environment \`${name}\` accepts any branch, so anyone who can push a branch can run an edited workflow with its secrets. Limit its deployment branches to the default branch`
  if (inputs.anyBranch === 'refuse') throw new VerdictError('approval.any-branch', text)
  warning(text)
}

async function requireRehearsals(context: Gate): Promise<void> {
  const { inputs } = context
  const since = new Date(Date.now() - inputs.rehearsedWithin)
  const artifact = `molt-rehearsal-${demand(inputs.planHash, 'plan-hash')}`
  const found = await findIfPossible(context, artifact, since)
  if (!found) return
  const { green, rejected } = found
  for (const each of green) info(`counted: ${each}`)
  for (const each of rejected) info(`not counted: ${each}`)
  const times = `${green.length}${green.length === MOST_REHEARSALS ? ' or more' : ''}`
  const text = `this plan had ${times} green rehearsals on the default branch since ${clock(since)}`
  context.summary(
    [
      `**Rehearsals:** ${text}; ${inputs.rehearsals} required.`,
      ...green.slice(0, 5).map((each) => `- ${markdownText(each)}`),
      ...rejected.slice(0, 5).map((each) => `- not counted: ${markdownText(each)}`),
    ].join('\n'),
  )
  if (green.length < inputs.rehearsals)
    throw new VerdictError(
      'approval.not-rehearsed',
      `${text}, but ${inputs.rehearsals} are required. Run ${inputs.rehearsalWorkflow} on the default branch; it uploads the attested artifact ${artifact}${rejected.length ? `. Not counted: ${someOf(rejected, 5)}` : ''}`,
    )
  info(text)
}

/**
 * Finds rehearsals of this plan. If none are required, their number is only informative, and an error is only a
 * warning.
 */
async function findIfPossible({ inputs, summary }: Gate, artifact: string, since: Date) {
  const token = demand(inputs.token, 'token')
  const { rehearsalWorkflow: workflow } = inputs
  try {
    return await findRehearsals({ github: connectGithub(token), token, workflow, artifact, since })
  } catch (error) {
    if (inputs.rehearsals || !(error instanceof UserError)) throw error
    warning(`the number of rehearsals of this plan is unknown: ${error.message}`)
    summary('**Rehearsals:** unknown; 0 required.')
    return undefined
  }
}

/** Reports whether a follower is needed. A leg that starts after the slot was handed over has nothing to do. */
async function tellNeeded(context: Gate, target: Database): Promise<void> {
  const { migration } = context.inputs
  const entry = await readEntryIfAny(target, migration)
  const why = !entry
    ? 'the ledger has no entry for this migration'
    : !STREAMING.includes(entry.phase)
      ? `the migration is ${entry.phase}`
      : (await slotRequest(target, migration))
        ? 'the slot was requested'
        : ((await overText(context)) ?? (await streamedByOther(context, target)))
  info(why ? `no follower is needed: ${why}` : 'a follower is needed')
  context.output('needed', !why)
}

/**
 * Names the run that is already streaming; undefined if there is none. A hold that is not renewed belongs to a dead
 * run.
 */
async function streamedByOther({ inputs, signal }: Gate, target: Database): Promise<string | undefined> {
  const first = await liveHolder(target, inputs.migration)
  for (let now = first; now; now = await liveHolder(target, inputs.migration)) {
    if (now.expiresAt.getTime() !== first?.expiresAt.getTime()) return `${runText(now)} holds the slot`
    await sleep(TIMING.holderLook, undefined, { signal })
  }
  return undefined
}

/**
 * Says why no more legs are needed; undefined if one is. A declined approval still needs a leg, which acts on
 * `on-declined`.
 */
async function overText({ inputs }: Gate): Promise<string | undefined> {
  const { token, environment, maxApprovalWait: maxWait } = inputs
  if (inputs.gate === 'plan-hash' || !token) return undefined
  const seen = await lookAtApproval({ github: connectGithub(token), job: 'cutover', environment, maxWait })
  if (seen === 'running' || seen === 'over') return `the job cutover is ${seen}`
  return seen === 'approved' ? 'the cutover is approved and waiting for a runner' : undefined
}

/** Records in the ledger who approved which plan. Nothing else sets the phase `approved`. */
async function approve(context: Gate, target: Database): Promise<void> {
  const { inputs } = context
  const entry = await requireEntry(target, inputs.migration, [...CAUGHT_UP, ...DECIDED])
  if (!inputs.planHash || entry.plan.hash !== inputs.planHash)
    throw new VerdictError(
      'approval.plan-changed',
      `the approved plan is not the current one: the approver saw ${inputs.planHash ?? 'none'}, but the ledger has ${entry.plan.hash}. Start again with \`phase: cutover\` and get the new plan approved`,
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
      ? 'passed without approval'
      : 'no approval was required'
  info(`plan ${inputs.planHash}: ${text}`)
  context.summary(`### Gate: ${text}\n\nPlan \`${inputs.planHash}\`, started by ${starter()}.`)
}

/** Refuses tools on this runner that differ from those in the plan. */
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
      `this approval is already ${gate}, and nothing has streamed since. Start again with \`phase: cutover\``,
    )
  if (!inputs.token) return
  const red = (await readJobs(connectGithub(inputs.token, APPROVED))).body.find(
    (job) => isJob(job, 'follow') && job.conclusion === 'failure',
  )
  if (red)
    throw new VerdictError(
      'approval.follower-failed',
      `the job \`${red.name}\` failed, so what it streamed cannot be trusted. Read its log, fix the cause, and start again with \`phase: cutover\``,
    )
}

interface Approver {
  /** Login of the approver; empty if there is none. */
  by: string
  /** Number of approvals of this run so far. GitHub does not tell which attempt an approval is for. */
  count: number
}

async function approver(context: Gate, target: Database, entry: Entry): Promise<Approver> {
  const { gate } = context.inputs
  if (gate === 'environment') return reviewer(context, target)
  return { by: gate === 'plan-hash' ? await typist(context, target, entry) : '', count: 0 }
}

async function reviewer({ inputs }: Gate, target: Database): Promise<Approver> {
  const all = await readReviews(connectGithub(demand(inputs.token, 'token'), APPROVED), inputs.environment)
  const approvals = all.filter(({ state }) => state === 'approved')
  const count = approvals.length
  const earlier = await readEvidence<{ runId?: string; count?: number }>(target, inputs.migration, 'gate', 20)
  const used = earlier.find(({ body }) => body.runId === process.env.GITHUB_RUN_ID)?.body.count ?? 0
  const last = count > used ? approvals.at(-1)?.user.login : undefined
  if (!last) {
    const text = used
      ? 'this attempt of the job was not approved: its approval was for an earlier attempt'
      : `environment \`${inputs.environment}\` let the job pass without approval: an administrator bypassed its rule, or the rule was removed`
    if (inputs.bypass === 'refuse')
      throw new VerdictError(
        'approval.missing',
        `${text}. Start a new run with \`phase: cutover\`, or set \`bypass: warn\``,
      )
    warning(text)
    return { by: '', count }
  }
  if (last.toLowerCase() === starter().toLowerCase()) {
    const text = `${last} both started and approved this run`
    if (inputs.selfApproval === 'refuse')
      throw new VerdictError(
        'approval.same-person',
        `${text}. Have another person start or approve the run, or set \`self-approval: warn\``,
      )
    warning(text)
  }
  return { by: last, count }
}

/**
 * Returns the person who confirmed the plan hash, which another person's run has shown. Stands in for required
 * reviewers.
 */
async function typist({ inputs }: Gate, target: Database, entry: Entry): Promise<string> {
  if (inputs.approvedHash !== entry.plan.hash)
    throw new VerdictError(
      'approval.wrong-hash',
      `input \`approved-hash\` is not the hash of the plan (${entry.plan.hash}). Copy it from the brief of the run that you approve`,
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
        ? `the run that showed this plan is older than \`max-approval-wait\` (${seconds(inputs.maxApprovalWait)}). Start again with \`approved-hash\` empty`
        : 'no earlier run has shown this plan. Start a run with `approved-hash` empty first',
    )
  const own = ({ body }: (typeof shown)[number]) => body.actor?.toLowerCase() === starter().toLowerCase()
  if (shown.every(own) && inputs.selfApproval === 'refuse')
    throw new VerdictError(
      'approval.same-person',
      `${starter()} both started the run that showed this plan and typed its hash. Have another person type the hash`,
    )
  return starter()
}
