import { info } from '@actions/core'
import { markdownText } from '../../report/summary.ts'
import type { Action } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'
import { number, seconds } from '../../runtime/progress.ts'
import { readSlot } from '../../source/slot.ts'
import {
  addEvidence,
  advance,
  type Entry,
  type Evidence,
  type Phase,
  readEvidence,
  requireEntry,
  setGate,
  thisRun,
} from '../../target/ledger.ts'
import { requireSameSource, withBoth } from '../common.ts'
import { spec } from './spec.ts'

const READY: readonly Phase[] = ['caught-up', 'approved']
const DECIDED: readonly Phase[] = ['committing', 'committed', 'switched', 'finalized']

interface Verified {
  problems?: string[]
  tables?: { rows: number }[]
  level?: string
  partial?: boolean
  durationMs?: number
}

/** The last of each, as the ledger has them. */
interface Facts {
  prepare?: Evidence<{ tools?: Record<string, { version: string; sha256: string } | null> }>
  verify?: Evidence<Verified>
  fetch?: Evidence<{ insecure?: string[]; mode?: string }>
  replicate?: Evidence<{ status?: { lagMs?: number } }>
  rehearsal?: Evidence<{ pauseMs?: number; decision?: string }>
  slot?: Awaited<ReturnType<typeof readSlot>>
}

export const action: Action<typeof spec> = {
  spec,
  run: (context) =>
    withBoth(
      context.inputs,
      async (source, target) => {
        let entry = await requireEntry(target, context.inputs.migration, ['loaded', ...READY, ...DECIDED])
        await requireSameSource(source, entry)
        const facts = await gather(source, target, entry)
        const problems = READY.includes(entry.phase) || entry.phase === 'loaded' ? problemsOf(entry, facts) : []
        const { url } = thisRun('brief')
        await addEvidence(target, entry.id, 'brief', {
          actor: process.env.GITHUB_TRIGGERING_ACTOR ?? '',
          runId: process.env.GITHUB_RUN_ID ?? '',
          run: url,
          planHash: entry.plan.hash,
          problems,
        })
        // What became of an earlier approval says nothing of the one that is asked for now.
        await setGate(target, entry.id, null)
        // Nor does an approval that no cutover has used: what is shown now must be approved now.
        if (entry.phase === 'approved') {
          entry = await advance(target, entry, 'caught-up', { facts: { approval: null } })
          info('an earlier approval, which no cutover has used, is forgotten')
        }
        context.output('verdict', problems.length ? 'no-go' : 'go')
        context.output('plan-hash', entry.plan.hash ?? '')
        context.output('phase', entry.phase)
        context.output('follow', READY.includes(entry.phase))
        context.summary(page(entry, facts, problems))
        if (problems.length)
          refuse(
            'this migration is not ready for its cutover',
            problems,
            !facts.slot || facts.slot.walStatus === 'lost'
              ? 'Take away what is left with `abort`, and start again with `phase: prepare`.'
              : 'Start again with `phase: stream`.',
          )
      },
      context.signal,
    ),
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

function page(entry: Entry, facts: Facts, problems: readonly string[]): string {
  const { plan } = entry
  const { verify, fetch, replicate, rehearsal, slot } = facts
  const rows = (verify?.body.tables ?? []).reduce((sum, table) => sum + table.rows, 0)
  const age = (each: Evidence<unknown> | undefined) => (each ? `${seconds(each.ageMs)} ago` : 'never')
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
      ? `${seconds(rehearsal.body.pauseMs)}, as measured ${age(rehearsal)} (${rehearsal.body.decision})`
      : `about ${seconds((verify?.body.durationMs ?? 0) + 2_000)}: the last verify, and 2 s for the rest; never measured`
  return [
    head,
    ...problems.slice(0, 20).map((each) => `- ${markdownText(each)}`),
    '',
    '| | |',
    '| --- | --- |',
    `| Lag | ${replicate?.body.status?.lagMs === undefined ? 'unknown' : seconds(replicate.body.status.lagMs)}, ${age(replicate)} |`,
    `| Verify | ${(verify?.body.problems ?? []).length} problems, ${number(rows)} rows in ${verify?.body.tables?.length ?? 0} of ${plan.tables.length} tables, level ${verify?.body.level ?? 'none'}, ${age(verify)} |`,
    `| Estimated write pause | ${pause} |`,
    `| WAL kept on the source | ${slot ? `${number(slot.walBytes / 2 ** 20)} MiB` : 'no slot'} |`,
    '| A rollback later would lose | every write on the target since the commit: nothing carries them back |',
    `| Tools | ${markdownText(
      Object.entries(plan.tools ?? {})
        .map(([name, sha]) => `${name} ${versionOf(name, sha, facts)} (sha256 ${sha})`)
        .join(', ') || 'none recorded',
    )} |`,
    `| Plan | \`${plan.hash}\` |`,
    '',
    risks.length ? `**Accepted risks**\n\n${risks.map((each) => `- ${markdownText(each)}`).join('\n')}` : 'No waivers.',
    '',
    `<details><summary>The plan: ${plan.tables.length} tables, ${markdownText(plan.sourceSchema)} → ${markdownText(plan.targetSchema)}, slot ${plan.slot}</summary>\n\n${plan.tables
      .slice(0, 500)
      .map((table) => `- ${markdownText(table)}`)
      .join('\n')}\n</details>`,
  ].join('\n')
}

/** What the program of this digest said of its version when the plan was made. */
function versionOf(name: string, sha256: string, { prepare }: Facts): string {
  const tool = prepare?.body.tools?.[name]
  return tool?.sha256 === sha256 ? tool.version : 'of unknown version'
}
