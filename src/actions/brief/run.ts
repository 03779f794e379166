import { info } from '@actions/core'
import { readTarget } from '../../destination/server.ts'
import { setApproval } from '../../ledger/hold.ts'
import {
  addEvidence,
  advance,
  CAUGHT_UP,
  DECIDED,
  DEFINITIONS,
  type Entry,
  readEvidence,
  STREAMING,
} from '../../ledger/ledger.ts'
import { readProof } from '../../ledger/proof.ts'
import type { Action } from '../../runtime/action.ts'
import type { Database } from '../../runtime/database.ts'
import { refuse } from '../../runtime/errors.ts'
import { runUrl } from '../../runtime/github.ts'
import { notify } from '../../runtime/notify.ts'
import { plural } from '../../runtime/progress.ts'
import { readServer } from '../../source/server.ts'
import { readSlot, slotLoss } from '../../source/slot.ts'
import { requireMigration, withBoth } from '../shared.ts'
import { type Facts, page, type Verified } from './page.ts'
import { spec } from './spec.ts'

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
      // A past approval request says nothing about the one that follows this page.
      await setApproval(target, entry.id, null)
      // An approval that was granted but never used is discarded too: this page needs a new one.
      if (entry.phase === 'approved') {
        entry = await advance(target, entry, 'caught-up', { facts: { approval: null } })
        info('discarded an earlier approval that no cutover used')
      }
      context.output('verdict', problems.length ? 'no-go' : 'go')
      context.output('plan-hash', entry.plan.hash ?? '')
      context.output('phase', entry.phase)
      // Not a boolean: GitHub clears an output that contains a secret, and a secret can be `true`. If cleared, a
      // follower runs.
      context.output('follow', CAUGHT_UP.includes(entry.phase) ? 'follower-needed' : 'no-follower-needed')
      context.summary(page(context, entry, facts, problems))
      if (!problems.length && STREAMING.includes(entry.phase))
        notify('approval-wanted', { decision: context.inputs.decision ?? '', planHash: entry.plan.hash ?? '' })
      const loss = slotLoss(facts.slot)
      if (problems.length)
        refuse(
          loss ?? 'brief.not-ready',
          'this migration is not ready for its cutover',
          problems,
          loss
            ? 'Run `abort` to remove what is left, then start again with `phase: prepare`.'
            : 'Start again with `phase: stream`.',
          { summarized: true },
        )
    }),
}

async function gather(source: Database, target: Database, entry: Entry): Promise<Facts> {
  const last = async <T>(action: string) => (await readEvidence<T>(target, entry.id, action, 1))[0]
  return {
    prepare: await last('prepare'),
    verify: await last<Verified>('verify'),
    definitions: await last<Verified>(DEFINITIONS),
    fetch: await last('fetch'),
    replicate: await last('replicate'),
    rehearsal: await last('cutover'),
    slot: await readSlot(source, entry.plan.slot),
    proof: await readProof(target, entry.id, entry.facts.stagingSchema),
    from: await readServer(source),
    to: await readTarget(target),
  }
}

function problemsOf(entry: Entry, { verify, definitions, slot, proof }: Facts): string[] {
  const problems: string[] = []
  if (entry.phase === 'loaded') problems.push('the target has not caught up yet')
  if (!slot) problems.push(`the slot ${entry.plan.slot} is gone from the source; the load must be repeated`)
  if (slot?.walStatus === 'lost') problems.push('the slot has lost WAL; the load must be repeated')
  if (!verify) problems.push('nothing has been verified yet')
  else if (verify.body.partial) problems.push('the last verify covered only some tables')
  else for (const each of verify.body.problems ?? []) problems.push(`verify: ${each}`)
  if (proof?.lost) problems.push(`rolling proof: ${plural(proof.lost, 'row')} lost`)
  // A verify also compares definitions, so it supersedes an earlier comparison of definitions alone.
  if (definitions && (!verify || definitions.at > verify.at))
    for (const each of definitions.body.problems ?? []) problems.push(`definitions: ${each}`)
  return problems
}
