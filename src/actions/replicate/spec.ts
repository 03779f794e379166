import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { choice, duration, list } from '../../runtime/types.ts'
import { migration } from '../common.ts'

/** How every action that runs the replicator is told to do so. */
export const streaming = {
  'max-lag': defaulted(duration, '2s', 'Caught up means: the end-to-end lag, by the heartbeat, is at most this …'),
  'quiet-period': defaulted(duration, '3s', '… for this long.'),
  'catch-up-timeout': defaulted(duration, '1h', 'How long catching up may take.'),
  'drain-timeout': defaulted(duration, '30s', 'How long the drain may take once writes have stopped.'),
  'stuck-after': defaulted(duration, '30s', 'How long no heartbeat may arrive before the stream is called stuck.'),
  'replicator-args': optional(list, 'Further flags of `replicator pglogical`, as a YAML list.'),
  'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
}

export const spec = defineAction({
  name: 'replicate',
  title: 'MOLT replicate',
  description:
    'Runs the replicator from the slot of the load until the target has caught up, or until a drain is proved.',
  icon: 'repeat',
  inputs: {
    ...migration,
    until: defaulted(
      choice('caught-up', 'drained'),
      'caught-up',
      '`caught-up`: the lag is small. `drained`: everything is on the target; needs the fence to be armed.',
    ),
    ...streaming,
  },
  outputs: {
    'lag-ms': 'End-to-end lag at the end, in milliseconds.',
    changes: 'Rows applied to the target, heartbeats included.',
    'marker-ms': 'With `drained`: how long the marker took to the target, in milliseconds.',
    retries: 'How often the replicator retried.',
    restarts: 'How often it had to be started again.',
  },
})
