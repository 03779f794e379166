import { defineAction, optional } from '../../runtime/spec.ts'
import { choice, duration } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'brief',
  title: 'Brief',
  description:
    'What an approver reads before the cutover, from the ledger: what is decided, on which hosts, by when and by whom; verdict, preflight, lag, rows, differences, waivers, risks, the plan and its hash. Red when it is not ready.',
  icon: 'file-text',
  inputs: {
    ...migration,
    ...notifying,
    decision: optional(
      choice('commit', 'rehearse'),
      '`decision` of the cutover that is to be approved, for the page to show.',
    ),
    'max-approval-wait': optional(
      duration,
      'How long the target is kept up to date while the approval is pending. Shown on the page.',
    ),
  },
  outputs: {
    verdict: '`go` or `no-go`.',
    'plan-hash': 'The plan that is shown.',
    phase: "The migration's phase.",
    follow: '`follower-needed` when a job must stream until the cutover, else `no-follower-needed`.',
  },
})
