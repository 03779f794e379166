import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, choice, duration } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'fence',
  title: 'Write fence',
  description:
    'Stops writes on the source for the duration of a lease, or allows them again. For your own workflows and for emergencies.',
  icon: 'shield',
  post: true,
  inputs: {
    ...migration,
    do: defaulted(
      choice('raise', 'lift', 'status'),
      'status',
      '`raise` refuses writes for `lease`. `lift` allows them. `status` only reports.',
    ),
    lease: defaulted(duration, '5m', 'Time after which the fence lapses, even if the job hangs or dies.'),
    'holders-timeout': defaulted(duration, '10s', 'How long writing transactions may take to end.'),
    keep: defaulted(
      boolean,
      'false',
      'Keeps the fence until its lease ends, instead of lifting it at the end of the job.',
    ),
  },
  outputs: {
    state: '`absent`, `lifted`, `lapsed`, `armed` or `permanent`.',
    'remaining-ms': 'Remaining lease, in milliseconds.',
  },
})
