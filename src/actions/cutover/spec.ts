import { FINAL_VERIFIES, VERIFY_LEVELS } from '../../model/plan.ts'
import type { Context } from '../../runtime/action.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, integer, list } from '../../runtime/types.ts'
import { streaming } from '../replicate/spec.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'cutover',
  title: 'Cutover',
  description: 'The minutes that matter, in one process: caught up, fence, drain, verify, sequences, decision, switch.',
  icon: 'git-merge',
  inputs: {
    ...migration,
    ...notifying,
    decision: defaulted(
      choice('rehearse', 'commit'),
      'rehearse',
      '`rehearse`: everything up to the decision, then the fence is lifted. `commit`: the source stays fenced for good, and the target takes over.',
    ),
    'dry-run': defaulted(
      boolean,
      'false',
      'Only lists what would be done while writes are paused, what each part proves, and how long it is expected to take. Changes nothing.',
    ),
    ...streaming,
    'first-verify': defaulted(
      choice(...VERIFY_LEVELS, 'none'),
      'full',
      'Where no rolling proof is complete: what is compared before writes are paused, while changes are streamed: what differs is looked at again until it is known to be lag or loss.',
    ),
    'final-verify': optional(
      choice(...FINAL_VERIFIES),
      'What is compared while writes are paused: as `level` of `verify` says it, or `changed`: the rows that changed last, while the rolling proof stands for all others. `auto`: `full` where that takes at most 2 s, else `changed` where a proof is complete. Default: what `prepare` has written into the plan (`auto`, unless it was told otherwise); once it is approved, less than that is refused.',
    ),
    'smoke-test': optional(
      list,
      'Program and arguments, one an item, that try the target by reading: once before writes are paused, and again after the drain. Finds a read-only URL in `MOLT_SMOKE_TEST_TARGET`. Anything but exit code 0 stops the cutover.',
    ),
    'smoke-test-timeout': defaulted(duration, '30s', 'How long the smoke test may take each time.'),
    'max-pause': defaulted(
      duration,
      '60s',
      'How long writes may be paused in all; then the fence is lifted and the run fails.',
    ),
    lease: defaulted(
      duration,
      '15s',
      'After this time without renewal the fence falls by itself, whatever happens to this job.',
    ),
    'handover-timeout': defaulted(duration, '2m', 'How long the run that streams now may take to hand the slot over.'),
    'holders-timeout': defaulted(duration, '10s', 'How long transactions that are writing may take to end.'),
    'sequence-margin': defaulted(
      integer(0, 1_000_000_000),
      '1000',
      'How far beyond the last value used each sequence is set on the target.',
    ),
    switch: optional(
      choice('command', 'manual'),
      '`command`: `switch-command` points the application at the target. `manual`: the summary says what to do, and `finalize` gets `switched-by-hand` afterwards. Default: `command` where there is one.',
    ),
    'switch-command': optional(
      list,
      'Program and arguments, one an item, that point the application at the target after the commit. Run without a shell, with the migration in `MOLT_ACTIONS_…` and your own `MOLT_SWITCH_…` in its environment.',
    ),
    'switch-timeout': defaulted(duration, '60s', 'How long the switch command may take.'),
    'end-sessions': optional(
      list,
      "The application's roles whose sessions on the source are ended after the switch, so that pools reconnect.",
    ),
  },
  outputs: {
    verdict: '`go` when everything was proved.',
    'pause-ms':
      'From the first refused write to the moment writes were possible again on either side, in milliseconds.',
    'pause-parts': 'JSON: milliseconds of the pause by part.',
    'lag-ms': 'End-to-end lag just before the fence, in milliseconds.',
    changes: 'Rows applied to the target by the stream.',
    tables: 'JSON array of the final verify: per table `name`, `rows`, `missing`, `mismatch`, `extraneous`.',
    'estimated-pause-ms': 'What the write pause was expected to be, in milliseconds, before it began.',
    'estimated-parts': 'JSON: the same by part, under the names of `pause-parts`.',
    operations:
      'With `dry-run`: JSON array of the parts of the pause, in order: `name`, `inputs`, `does`, `proves`, `estimateMs` (null where nothing is known).',
    phase: "The migration's phase afterwards.",
  },
})

export type Cutover = Context<typeof spec>
