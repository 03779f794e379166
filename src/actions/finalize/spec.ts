import type { Context } from '../../runtime/action.ts'
import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, choice, integer } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'finalize',
  title: 'Finalize',
  description:
    "Sets the target's sequences past every value in use and reads them back, and rebuilds what was dropped for the load. After a switch, it also validates constraints, drops the slot, and compares all rows once more, as they were at the commit.",
  icon: 'flag',
  inputs: {
    ...migration,
    ...notifying,
    'sequence-margin': defaulted(
      integer(0, 1_000_000_000),
      '1000',
      'How far past the last used value each sequence is set.',
    ),
    'switched-by-hand': defaulted(
      boolean,
      'false',
      'Confirms that the application now uses the target, after a cutover without a `switch-command`.',
    ),
    structure: defaulted(
      choice('require', 'report'),
      'report',
      'When an index, constraint or default is missing or different on the target: `require` fails, `report` warns. An invalid definition, or one that was dropped for the load and not rebuilt, always fails.',
    ),
  },
  outputs: {
    sequences: 'JSON array with an object per sequence: `name`, `sourceValue`, and `value` on the target.',
    phase: "The migration's phase afterwards.",
    compared:
      'Result of comparing all rows as they were at the commit: `equal`, `different`, `inconclusive`, or `unavailable` on a target that is not CockroachDB. Empty before the commit.',
    differences: 'JSON array with an object per table whose rows differ: `table`, `missing`, `mismatch`, `extraneous`.',
  },
})

export type Finalize = Context<typeof spec>
