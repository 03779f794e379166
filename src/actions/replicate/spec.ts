import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { argumentList, boolean, choice, duration, integer, secretText, size, text } from '../../runtime/types.ts'
import { metrics, migration, notifying } from '../shared.ts'

/** Inputs of every action that runs the replicator. */
export const streaming = {
  'max-lag': defaulted(
    duration,
    '2s',
    'Maximum end-to-end lag of the heartbeat at which the target counts as caught up.',
  ),
  'quiet-period': defaulted(
    duration,
    '3s',
    'How long the lag must stay within `max-lag` before the target counts as caught up.',
  ),
  'catch-up-timeout': defaulted(duration, '1h', 'How long catching up may take.'),
  'drain-timeout': defaulted(duration, '30s', 'How long the drain may take once writes have stopped.'),
  'stuck-after': defaulted(
    duration,
    '30s',
    'How long the stream may go without a heartbeat or any other progress before it counts as stuck.',
  ),
  'on-ddl': defaulted(
    choice('fail', 'warn'),
    'fail',
    "What to do when a table's definition changes on either side while the stream runs. A TRUNCATE, or the removal of a table from the publication, always fails.",
  ),
  'wal-budget': defaulted(
    size,
    '64GiB',
    "Maximum amount of WAL that the slot may keep on the source's disk. At half of it, a warning appears.",
  ),
  'on-wal-budget': defaulted(
    choice('fail', 'drop-slot'),
    'fail',
    '`fail`: fails and keeps the slot with its WAL. `drop-slot`: fails and drops the slot to save the disk; the load must then be repeated.',
  ),
  'replicator-args': optional(argumentList, 'Further flags of `replicator pglogical`, as a YAML list.'),
  'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
  'verify-rate': optional(
    integer(1, 1_000_000_000),
    'Maximum rows per second that the rolling proof compares. It also pauses while the lag is over `max-lag`.',
  ),
  ...metrics,
}

export const spec = defineAction({
  name: 'replicate',
  title: 'MOLT replicate',
  description:
    "Streams changes from the load's slot with the replicator, until the target has caught up, the slot is requested, or a drain is proved.",
  icon: 'repeat',
  inputs: {
    ...migration,
    ...notifying,
    until: defaulted(
      choice('caught-up', 'handover', 'drained'),
      'caught-up',
      '`caught-up`: until the lag is small. `handover`: until `cutover` requests the slot, the approval is declined or expires, or `leg-limit` is reached. `drained`: until everything is on the target; requires an armed fence.',
    ),
    ...streaming,
    verify: defaulted(
      choice('none', 'full', 'rolling'),
      'none',
      'With `caught-up`: `full` compares every row while the stream runs, as `verify` with `while: streaming` does. `rolling` compares every row once, and compares changed rows again, so that `cutover` compares only the last changes while writes are paused. With `handover`, it keeps that proof current. See docs/how-it-works.md.',
    ),
    'verify-age': defaulted(
      duration,
      '24h',
      "With `handover` and `verify: rolling`: maximum age of a row's comparison. After that, all rows are compared again, which finds changes made only on the target.",
    ),
    'build-indexes': defaulted(
      boolean,
      'true',
      'With `caught-up`: rebuilds the plain indexes that `prepare` dropped, while the stream runs. `false` leaves that to `cutover`, before it pauses writes, or to `finalize`.',
    ),
    'leg-limit': defaulted(
      duration,
      '5h',
      'With `handover`: maximum time that this run streams, because a job has a time limit. The slot remains for the next run.',
    ),
    legs: optional(
      integer(1, 20),
      'With `handover`: how many legs share `max-approval-wait`, such as `strategy.job-total`. Each streams for its share, 5 h at most, and `leg-limit` is ignored.',
    ),
    'last-leg': defaulted(
      boolean,
      'false',
      'With `handover`: this is the last leg. When it ends, the approval counts as expired.',
    ),
    token: optional(
      secretText,
      'With `handover`: the `github.token` of the job, to watch the approval. Needs `permissions: actions: read`.',
    ),
    'gate-job': defaulted(text, 'cutover', 'Name of the job that waits for the approval.'),
    environment: defaulted(text, 'cutover', 'The environment whose approval the job waits for.'),
    'max-approval-wait': defaulted(duration, '24h', 'How long the job may wait before the approval counts as expired.'),
    'on-declined': defaulted(
      choice('keep-slot', 'drop-slot'),
      'keep-slot',
      'What to do with the slot when the approval is declined or expires, which also fails this action. `keep-slot`: the slot remains and keeps WAL on the source. `drop-slot`: the slot is dropped, and the load must be repeated.',
    ),
    poll: defaulted(duration, '5s', 'With `handover`: how often to read the ledger.'),
    'approval-poll': defaulted(duration, '60s', 'With `handover`: how often to ask GitHub about the approval.'),
  },
  outputs: {
    'lag-ms': 'End-to-end lag at the end, in milliseconds.',
    changes: 'Rows applied to the target, heartbeats included.',
    'start-lsn': "The slot's position when the stream began, such as `0/2E02140`.",
    'end-lsn': "The slot's position when it ended.",
    'ended-by':
      'With `handover`: `request` (the slot was requested), `approved` (the cutover is waiting for a runner), `over` (the cutover job has ended), `declined`, `expired` or `leg-limit`. Otherwise, the value of `until`.',
    'marker-ms': 'With `drained`: how long the marker took to reach the target, in milliseconds.',
    retries: 'Number of times the replicator retried.',
    restarts: 'Number of times the replicator was restarted.',
    interruptions: "Number of times one of the action's own connections was lost and reopened.",
    evidence: 'Path of a JSON file with the evidence of this run.',
  },
})
