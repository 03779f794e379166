import type { Context } from '../../runtime/action.ts'
import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, choice, integer } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'finalize',
  title: 'Finalize',
  description:
    "Sets the target's sequences beyond every value in use and reads them back, and rebuilds what was taken off for the load; after a switch it also validates and drops the slot. Compares all rows once more, as of the commit.",
  icon: 'flag',
  inputs: {
    ...migration,
    ...notifying,
    'sequence-margin': defaulted(
      integer(0, 1_000_000_000),
      '1000',
      'How far beyond the last value used each sequence is set.',
    ),
    'switched-by-hand': defaulted(
      boolean,
      'false',
      'Says that the application uses the target now, after a cutover without a `switch-command`.',
    ),
    structure: defaulted(
      choice('require', 'report'),
      'report',
      'An index, constraint or default that is missing or different on the target: `require` fails, `report` warns. What is not valid, or was taken off for the load and is not back, always fails.',
    ),
  },
  outputs: {
    sequences: 'JSON array: per sequence `name`, `sourceValue`, `value` on the target.',
    phase: "The migration's phase afterwards.",
    compared:
      'All rows as of the commit: `equal`, `different`, `inconclusive`, or `unavailable` on a target that is not CockroachDB. Empty before the commit.',
    differences: 'JSON array: per table with rows that differ `table`, `missing`, `mismatch`, `extraneous`.',
  },
})

export type Finalize = Context<typeof spec>
