import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { connectionUrl, size } from '../../runtime/types.ts'
import { migration, wayBack } from '../shared.ts'

export const spec = defineAction({
  name: 'status',
  title: 'Status',
  description:
    'Tells where a migration stands, what happened last, who holds it and what to run next, from either database, also while another job works on it. Changes nothing; red when a side that was given cannot be read.',
  icon: 'activity',
  inputs: {
    ...migration,
    source: optional(connectionUrl, 'PostgreSQL that is moved. Without it only the ledger is read.'),
    target: optional(connectionUrl, 'CockroachDB moved to. Without it only the source is looked at.'),
    ...wayBack,
    'wal-budget': defaulted(
      size,
      '32GiB',
      'Fails when the slot keeps more WAL than this on the source: somebody has to follow it, or drop it.',
    ),
  },
  outputs: {
    phase: "The migration's phase by the ledger; empty when that cannot be read.",
    next: 'Action to run next by the ledger, such as `replicate`; empty when nothing is left to do.',
    'last-error': 'Code of the last step that failed; empty without one.',
    'rollback-until': 'When the rollback window ends, ISO 8601; empty before a commit.',
    observed: 'Verdict of the last observation after the commit; empty without one.',
    compared: 'What `finalize` found when it compared all rows as of the commit; empty before that.',
    fence:
      'State of the fence on the source, by its lease. Red when it is raised, but something of it is missing or was changed.',
    'slot-active': '`true` when a replicator reads the slot.',
    'wal-bytes': 'WAL that the slot keeps on the source, in bytes.',
  },
})
