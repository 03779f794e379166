import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, choice, duration } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'fence',
  title: 'Write fence',
  description:
    'Stops writes on the source under a lease, or lets them through again. For chains of your own and for a person in need.',
  icon: 'shield',
  post: true,
  inputs: {
    ...migration,
    do: defaulted(
      choice('raise', 'lift', 'status'),
      'status',
      '`raise`: refuse writes for `lease`. `lift`: let them through. `status`: only look.',
    ),
    lease: defaulted(duration, '5m', 'After this time the fence falls by itself, whatever happens to the job.'),
    'holders-timeout': defaulted(duration, '10s', 'How long transactions that are writing may take to end.'),
    keep: defaulted(boolean, 'false', 'Leaves the fence to its lease at the end of the job, instead of lifting it.'),
  },
  outputs: {
    state: '`absent`, `lifted`, `lapsed`, `armed` or `permanent`.',
    'remaining-ms': 'What is left of the lease, in milliseconds.',
  },
})
