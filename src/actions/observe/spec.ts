import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { choice, decimal, duration, integer, list } from '../../runtime/types.ts'
import { metrics, migration, notifying, wayBack } from '../shared.ts'

const percent = integer(0, 100)

export const spec = defineAction({
  name: 'observe',
  title: 'Observe',
  description:
    'Watches the application after the commit: latency, failures, retries and connections on the target, and clients that still use the source.',
  icon: 'activity',
  inputs: {
    ...migration,
    ...notifying,
    ...metrics,
    ...wayBack,
    mode: defaulted(
      choice('watch', 'baseline'),
      'watch',
      "`baseline`: saves a snapshot of the source's counters within seconds; run it at least twice before the commit. `watch`: compares the target with the baseline after the commit, and gives a verdict.",
    ),
    duration: defaulted(duration, '10m', 'With `watch`: how long to watch.'),
    every: defaulted(duration, '1m', 'With `watch`: time between two reports in the log and in the metrics file.'),
    'latency-ratio': defaulted(
      decimal(1, 1000),
      '3',
      "Degraded when a statement's mean time on the target is more than this many times its mean time on the source.",
    ),
    'latency-floor': defaulted(
      duration,
      '20ms',
      'A statement whose mean time on the target is below this is never too slow, whatever the ratio.',
    ),
    'min-calls': defaulted(
      integer(1, 1_000_000),
      '50',
      'Minimum calls of a statement. With fewer on the source, its latency is not judged. With fewer on the target, its failures and retries are not judged, and it counts as slow only if it would be slow even if the missing calls took no time.',
    ),
    'max-failures': defaulted(
      percent,
      '1',
      "Degraded when more than this percentage of a statement's executions fail.",
    ),
    'max-retries': defaulted(
      percent,
      '5',
      "Degraded when more than this percentage of a statement's executions are retries or fail with 40001.",
    ),
    'max-connections': defaulted(
      percent,
      '80',
      "Degraded when more than this percentage of the target's connections are in use. CockroachDB limits them only if `server.max_connections_per_gateway` is set.",
    ),
    'max-stragglers': defaulted(
      integer(0, 10_000),
      '0',
      'Degraded when the application ever has more sessions than this on the source.',
    ),
    'max-refused-writes': defaulted(
      integer(0, 1_000_000),
      '0',
      'Degraded when the source refused more writes than this since the last watch. The first watch counts from its own start, because refusals are expected until the application has switched.',
    ),
    'max-failed-jobs': defaulted(
      integer(0, 1000),
      '0',
      'Degraded when more jobs than this failed on the target since the commit, or since the last watch.',
    ),
    'min-coverage': defaulted(
      percent,
      '50',
      "Inconclusive when the statements with enough calls on both sides cover less than this percentage of the baseline's calls.",
    ),
    ignore: optional(list, 'Applications and roles whose sessions on the source are ignored, such as a monitor.'),
  },
  outputs: {
    verdict: 'With `watch`: `healthy`, `degraded`, or `inconclusive` (too little is known, which fails the step too).',
    reasons: 'JSON array of the thresholds that were exceeded: `code`, `subject`, `measured`, `limit`.',
    snapshots: 'With `baseline`: how many snapshots the ledger now has.',
    report: 'Path of the full report as JSON. It contains no literal values of statements.',
  },
})
