import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, list } from '../../runtime/types.ts'
import { migration, wayBack } from '../shared.ts'

export const spec = defineAction({
  name: 'cleanup',
  title: 'Cleanup',
  description:
    'Removes what the suite left on both sides: the slot first, then publication, fence, heartbeat, staging schema and ledger entry.',
  icon: 'trash-2',
  inputs: {
    ...migration,
    ...wayBack,
    waive: optional(
      list,
      '`observe` allows the cleanup even if the last observation after the commit is degraded or missing. `compare` allows it even if rows differed at the commit or have not been compared since. After the cleanup, no rollback is possible. If `prepare` shares this input, its waivers are ignored here.',
    ),
    restore: defaulted(
      boolean,
      'false',
      'Rebuilds the indexes and constraints that `prepare` dropped on the target for the load, where they are still missing.',
    ),
    'dry-run': defaulted(boolean, 'false', 'Only lists what would be dropped.'),
  },
  outputs: {
    'files-left': 'JSON array of the folders, below the bucket path or local path, that may still hold files of loads.',
    dropped: 'JSON array of what was dropped.',
    'would-drop': 'With `dry-run`: JSON array of what would be dropped.',
  },
})
