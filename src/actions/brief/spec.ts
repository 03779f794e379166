import { defineAction } from '../../runtime/spec.ts'
import { migration } from '../common.ts'

export const spec = defineAction({
  name: 'brief',
  title: 'Brief',
  description:
    'What an approver reads before the cutover, from the ledger: verdict, lag, rows, differences, waivers, risks, the plan and its hash. Red when it is not ready.',
  icon: 'file-text',
  inputs: { ...migration },
  outputs: {
    verdict: '`go` or `no-go`.',
    'plan-hash': 'The plan that is shown.',
    phase: "The migration's phase.",
    follow: '`true` when somebody must stream until the cutover.',
  },
})
