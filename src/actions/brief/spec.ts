import { defineAction, optional } from '../../runtime/spec.ts'
import { choice, duration } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'brief',
  title: 'Brief',
  description:
    'Writes the page that an approver reads before the cutover: verdict, decision, hosts, deadline, preflight, lag, compared rows, waivers, risks, and the plan with its hash. Fails when the migration is not ready.',
  icon: 'file-text',
  inputs: {
    ...migration,
    ...notifying,
    decision: optional(choice('commit', 'rehearse'), '`decision` of the cutover to approve. Shown on the page.'),
    'max-approval-wait': optional(
      duration,
      'How long the stream keeps the target up to date while the approval is pending. Shown on the page.',
    ),
  },
  outputs: {
    verdict: '`go` or `no-go`.',
    'plan-hash': 'Hash of the plan on the page.',
    phase: "The migration's phase.",
    follow: '`follower-needed` when a job must stream until the cutover, else `no-follower-needed`.',
  },
})
