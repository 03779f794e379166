import { FINAL_VERIFIES, VERIFY_LEVELS } from '../../model/plan.ts'
import type { Context } from '../../runtime/action.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, integer, list } from '../../runtime/types.ts'
import { streaming } from '../replicate/spec.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'cutover',
  title: 'Cutover',
  description: 'Runs the cutover in one process: catch up, fence, drain, verify, sequences, commit, switch.',
  icon: 'git-merge',
  inputs: {
    ...migration,
    ...notifying,
    decision: defaulted(
      choice('rehearse', 'commit'),
      'rehearse',
      '`rehearse`: everything up to the commit, then the fence is lifted. `commit`: the source stays permanently fenced, and the target takes over.',
    ),
    'dry-run': defaulted(
      boolean,
      'false',
      'Only lists the parts of the write pause, with what each part proves and how long it should take. Changes nothing.',
    ),
    ...streaming,
    'first-verify': defaulted(
      choice(...VERIFY_LEVELS, 'none'),
      'full',
      'What to compare before writes are paused, unless a rolling proof is complete. Rows that differ are checked again until each is known to be lag or loss.',
    ),
    'final-verify': optional(
      choice(...FINAL_VERIFIES),
      'What to compare while writes are paused: a value of the `level` input of `verify`, or `changed`. `changed` compares only the last changed rows and relies on the rolling proof for all others. `auto` means `changed` if `full` would take more than 2 s and a proof is complete, and `full` otherwise. Default: the value in the plan, which is `auto` unless set in `prepare`. After the approval, a weaker comparison than the planned one is refused.',
    ),
    'smoke-test': optional(
      list,
      'Program and arguments, one per item, that test the target without writing. Runs before writes are paused, and again after the drain. `MOLT_SMOKE_TEST_TARGET` holds a read-only URL. Any exit code other than 0 stops the cutover.',
    ),
    'smoke-test-timeout': defaulted(duration, '30s', 'Time limit for each smoke test run.'),
    'max-pause': defaulted(
      duration,
      '60s',
      'How long writes may be paused in total. After that, the fence is lifted and the run fails.',
    ),
    lease: defaulted(
      duration,
      '15s',
      'Time without renewal after which the fence lapses, even if this job hangs or dies.',
    ),
    'handover-timeout': defaulted(duration, '2m', 'How long the streaming run may take to hand over the slot.'),
    'holders-timeout': defaulted(duration, '10s', 'How long writing transactions may take to end.'),
    'sequence-margin': defaulted(
      integer(0, 1_000_000_000),
      '1000',
      'How far past its last used value each sequence on the target is set.',
    ),
    switch: optional(
      choice('command', 'manual'),
      '`command`: `switch-command` points the application at the target. `manual`: the summary says what to do, and you then set `switched-by-hand` for `finalize`. Default: `command` when `switch-command` is set.',
    ),
    'switch-command': optional(
      list,
      'Program and arguments, one per item, that point the application at the target after the commit. Runs without a shell. Gets facts about the migration as environment variables `MOLT_ACTIONS_…`, and your own `MOLT_SWITCH_…`.',
    ),
    'switch-timeout': defaulted(duration, '60s', 'How long the switch command may take.'),
    'end-sessions': optional(
      list,
      "The application's roles. Their sessions on the source are terminated after the switch, so that pools reconnect.",
    ),
  },
  outputs: {
    verdict: '`go` if every check of the cutover passed.',
    'pause-ms': 'Time from the first refused write until writes were possible again on either side, in milliseconds.',
    'pause-parts': 'JSON object with the milliseconds that each part of the pause took.',
    'lag-ms': 'End-to-end lag just before the fence, in milliseconds.',
    changes: 'Rows applied to the target by the stream.',
    tables:
      'JSON array of the final verify with an object per table: `name`, `rows`, `missing`, `mismatch`, `extraneous`.',
    'estimated-pause-ms': 'Expected write pause, in milliseconds.',
    'estimated-parts':
      'JSON object with the expected milliseconds of each part, with the same names as in `pause-parts`.',
    operations:
      'With `dry-run`: JSON array of the parts of the pause, in order: `name`, `inputs`, `does`, `proves`, `estimateMs` (null when unknown).',
    phase: "The migration's phase afterwards.",
  },
})

export type Cutover = Context<typeof spec>
