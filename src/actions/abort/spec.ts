import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean, pattern } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'abort',
  title: 'Abort',
  description:
    'Gives a migration up before its commit, whatever its phase, also with the target gone: fence lifted, replicator ended, slot and publication dropped.',
  icon: 'x-circle',
  inputs: {
    ...migration,
    slot: defaulted(
      pattern(/^[a-z0-9_]{1,63}$/, 'lower-case letters, digits and underscores'),
      'molt_slot',
      'Slot to drop when the target, and the ledger with it, is gone.',
    ),
    restore: defaulted(
      boolean,
      'false',
      'Builds the indexes and constraints again that `prepare` took off the target for the load, and validates them.',
    ),
  },
  outputs: {
    'files-left': 'JSON array of the folders below the bucket path or local path in which files of loads may be left.',
    dropped: 'JSON array of what was dropped.',
    undone: 'JSON array of the error codes of what could not be done; the step is red when there is one.',
    'target-reached': '`true` when the target could be cleaned up too.',
  },
})
