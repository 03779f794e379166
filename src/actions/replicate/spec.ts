import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { argumentList, boolean, choice, duration, integer, secretText, size, text } from '../../runtime/types.ts'
import { metrics, migration, notifying } from '../shared.ts'

/** How every action that runs the replicator is told to do so. */
export const streaming = {
  'max-lag': defaulted(duration, '2s', 'Caught up means: the end-to-end lag, by the heartbeat, is at most this …'),
  'quiet-period': defaulted(duration, '3s', '… for this long.'),
  'catch-up-timeout': defaulted(duration, '1h', 'How long catching up may take.'),
  'drain-timeout': defaulted(duration, '30s', 'How long the drain may take once writes have stopped.'),
  'stuck-after': defaulted(
    duration,
    '30s',
    'How long no heartbeat may arrive, while nothing else moves either, before the stream is called stuck.',
  ),
  'on-ddl': defaulted(
    choice('fail', 'warn'),
    'fail',
    'What a change of a table on either side does while the stream runs. A TRUNCATE, or a table taken out of the publication, always fails it.',
  ),
  'wal-budget': defaulted(
    size,
    '64GiB',
    "WAL that the slot may keep on the source's disk. At half of it there is a warning.",
  ),
  'on-wal-budget': defaulted(
    choice('fail', 'drop-slot'),
    'fail',
    '`fail`: red, and the slot keeps its WAL. `drop-slot`: red, and the slot is dropped to save the disk; the load must then be repeated.',
  ),
  'replicator-args': optional(argumentList, 'Further flags of `replicator pglogical`, as a YAML list.'),
  'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
  'verify-rate': optional(
    integer(1, 1_000_000_000),
    'Rows a second that the rolling proof compares at most. It also waits while the lag is over `max-lag`.',
  ),
  ...metrics,
}

export const spec = defineAction({
  name: 'replicate',
  title: 'MOLT replicate',
  description:
    'Runs the replicator from the slot of the load: until the target has caught up, until the slot is asked for, or until a drain is proved.',
  icon: 'repeat',
  inputs: {
    ...migration,
    ...notifying,
    until: defaulted(
      choice('caught-up', 'handover', 'drained'),
      'caught-up',
      '`caught-up`: the lag is small. `handover`: streams until `cutover` asks for the slot, the approval is declined or expires, or `leg-limit` is over. `drained`: everything is on the target; needs the fence to be armed.',
    ),
    ...streaming,
    verify: defaulted(
      choice('none', 'full', 'rolling'),
      'none',
      'With `caught-up`: `full` compares every row while the stream runs on, as `verify` with `while: streaming` does. `rolling` compares every row once, and each row that changes again, so that `cutover` compares only what changed last while writes are paused; with `handover` it keeps that proof current. See docs/how-it-works.md.',
    ),
    'verify-age': defaulted(
      duration,
      '24h',
      'With `handover` and `verify: rolling`: how old the comparison of a row may get before all are compared once more. Changes that were made on the target alone are found by that.',
    ),
    'build-indexes': defaulted(
      boolean,
      'true',
      'With `caught-up`: builds the plain indexes that `prepare` took off the target, while the stream runs on. `false` leaves them to `finalize`, or to `cutover` before it pauses writes.',
    ),
    'leg-limit': defaulted(
      duration,
      '5h',
      'With `handover`: how long this run streams at most; a job has an end. The slot stays for the next one.',
    ),
    legs: optional(
      integer(1, 20),
      'With `handover`: how many legs share `max-approval-wait`, such as `strategy.job-total`. Each streams for its part of it, 5 h at most, and `leg-limit` does not count.',
    ),
    'last-leg': defaulted(
      boolean,
      'false',
      'With `handover`: no leg comes after this one. When it is over, the approval counts as expired.',
    ),
    token: optional(
      secretText,
      'With `handover`: the `github.token` of the job, to watch what becomes of the approval. Needs `permissions: actions: read`.',
    ),
    'gate-job': defaulted(text, 'cutover', 'The job that waits for the approval.'),
    environment: defaulted(text, 'cutover', 'The environment that it waits for.'),
    'max-approval-wait': defaulted(duration, '24h', 'How long it may wait; then the approval counts as expired.'),
    'on-declined': defaulted(
      choice('keep-slot', 'drop-slot'),
      'keep-slot',
      'When the approval is declined or expires, this action is red. `keep-slot`: the slot goes on keeping WAL on the source. `drop-slot`: it is dropped, and the load must be repeated.',
    ),
    poll: defaulted(duration, '5s', 'With `handover`: how often the ledger is asked.'),
    'approval-poll': defaulted(duration, '60s', 'With `handover`: how often GitHub is asked about the approval.'),
  },
  outputs: {
    'lag-ms': 'End-to-end lag at the end, in milliseconds.',
    changes: 'Rows applied to the target, heartbeats included.',
    'start-lsn': "The slot's position when the stream began, such as `0/2E02140`.",
    'end-lsn': "The slot's position when it ended.",
    'ended-by':
      'With `handover`: `request` (the slot is asked for), `approved` (the cutover waits for a runner), `over` (the cutover has ended), `declined`, `expired` or `leg-limit`. Else the same as `until`.',
    'marker-ms': 'With `drained`: how long the marker took to the target, in milliseconds.',
    retries: 'How often the replicator retried.',
    restarts: 'How often it had to be started again.',
    interruptions: 'How often one of our own connections was lost and made again.',
    evidence: 'Path of a JSON file with what was checked and seen.',
  },
})
