import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, duration } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'cleanup',
  title: 'Cleanup',
  description:
    'Takes away what the suite left on both sides: slot first, then publication, fence, heartbeat, staging schema and ledger entry.',
  icon: 'trash-2',
  inputs: {
    ...migration,
    'rollback-window': defaulted(duration, '7d', 'How long after a cutover the fenced source is kept as the way back.'),
    restore: defaulted(
      boolean,
      'false',
      'Builds the indexes and constraints again that `prepare` took off the target for the load, where they are not back.',
    ),
    'dry-run': defaulted(boolean, 'false', 'Only lists what would be dropped.'),
  },
  outputs: {
    dropped: 'JSON array of what was dropped.',
    'would-drop': 'With `dry-run`: JSON array of what would be dropped.',
  },
})
