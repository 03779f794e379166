import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, pattern } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'abort',
  title: 'Abort',
  description:
    'Abandons a migration in any phase before the commit, even if the target is unreachable: lifts the fence, disconnects the replicator, and drops the slot and the publication.',
  icon: 'x-circle',
  inputs: {
    ...migration,
    slot: defaulted(
      pattern(/^[a-z0-9_]{1,63}$/, 'lower-case letters, digits and underscores'),
      'molt_slot',
      'Slot to drop when the target and its ledger no longer exist.',
    ),
    restore: defaulted(
      boolean,
      'false',
      'Rebuilds and validates the indexes and constraints that `prepare` dropped on the target for the load.',
    ),
  },
  outputs: {
    'files-left': 'JSON array of the folders, below the bucket path or local path, that may still hold files of loads.',
    dropped: 'JSON array of what was dropped.',
    undone: 'JSON array with the error code of each part that failed. The step fails unless it is empty.',
    'target-reached': '`true` when the target was cleaned up too.',
  },
})
