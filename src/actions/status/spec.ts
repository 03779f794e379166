import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { connectionUrl, size } from '../../runtime/types.ts'
import { migration, wayBack } from '../shared.ts'

export const spec = defineAction({
  name: 'status',
  title: 'Status',
  description:
    "Shows a migration's phase, its last step, the run that holds it, and what to run next. Reads either database or both, even while another job is running. Changes nothing. Fails when a given side cannot be read.",
  icon: 'activity',
  inputs: {
    ...migration,
    source: optional(connectionUrl, 'PostgreSQL database to migrate. Without it, only the ledger is read.'),
    target: optional(connectionUrl, 'CockroachDB cluster to migrate to. Without it, only the source is read.'),
    ...wayBack,
    'wal-budget': defaulted(
      size,
      '32GiB',
      'The step fails when the slot keeps more WAL than this on the source. In that case, run `replicate` or drop the slot.',
    ),
  },
  outputs: {
    phase: "The migration's phase according to the ledger; empty if the ledger cannot be read.",
    next: 'Next action to run according to the ledger, such as `replicate`; empty if nothing is left to do.',
    'last-error': 'Code of the last step that failed; empty if none has failed.',
    'rollback-until': 'When the rollback window ends, ISO 8601; empty before a commit.',
    observed: 'Verdict of the last observation after the commit; empty if there is none.',
    compared: 'Result of `finalize` comparing all rows as they were at the commit; empty before that.',
    fence:
      'State of the fence on the source: `absent`, `lifted`, `lapsed`, `armed` or `permanent`. The step fails when the fence is raised but damaged.',
    'slot-active': '`true` when a replicator is reading the slot.',
    'wal-bytes': 'WAL that the slot keeps on the source, in bytes.',
  },
})
