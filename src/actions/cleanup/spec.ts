import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, list } from '../../runtime/types.ts'
import { migration, wayBack } from '../shared.ts'

export const spec = defineAction({
  name: 'cleanup',
  title: 'Cleanup',
  description:
    'Takes away what the suite left on both sides: slot first, then publication, fence, heartbeat, staging schema and ledger entry.',
  icon: 'trash-2',
  inputs: {
    ...migration,
    ...wayBack,
    waive: optional(
      list,
      '`observe`: closes the way back although the last observation after the commit is degraded or missing. `compare`: the same although rows differ as of the commit, or were not compared. Waivers of `prepare` in the same place are passed over.',
    ),
    restore: defaulted(
      boolean,
      'false',
      'Builds the indexes and constraints again that `prepare` took off the target for the load, where they are not back.',
    ),
    'dry-run': defaulted(boolean, 'false', 'Only lists what would be dropped.'),
  },
  outputs: {
    'files-left': 'JSON array of the folders below the bucket path or local path in which files of loads may be left.',
    dropped: 'JSON array of what was dropped.',
    'would-drop': 'With `dry-run`: JSON array of what would be dropped.',
  },
})
