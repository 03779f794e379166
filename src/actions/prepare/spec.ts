import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, list, pattern, text } from '../../runtime/types.ts'
import { migration } from '../common.ts'

export const spec = defineAction({
  name: 'prepare',
  title: 'MOLT prepare',
  description:
    'Checks both databases, fixes the list of expected tables, and installs the heartbeat and the disarmed fence.',
  icon: 'check-square',
  inputs: {
    ...migration,
    schema: defaulted(text, 'public', 'Schema to move, on the source.'),
    'target-schema': optional(text, 'Schema on the target. Default: the same name.'),
    tables: optional(list, 'Tables to move, by their bare names. Default: every base table of the schema.'),
    'exclude-tables': optional(list, 'Tables of the schema to leave behind, by their bare names.'),
    slot: defaulted(
      pattern(/^[a-z0-9_]{1,63}$/, 'lower-case letters, digits and underscores'),
      'molt_slot',
      'Replication slot that the load will create.',
    ),
    'rehearsal-target': defaulted(
      boolean,
      'false',
      'Allows a target that is PostgreSQL, for rehearsals with the stand-in. Never for a real migration.',
    ),
  },
  outputs: {
    tables: 'The expected tables, as a JSON array of bare names.',
    'table-count': 'How many they are.',
    phase: "The migration's phase afterwards.",
  },
})
