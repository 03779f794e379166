import { defineAction, optional } from '../../runtime/spec.ts'
import { list } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'rollback',
  title: 'Rollback',
  description:
    'Goes back to the source after a commit. Refuses when the target was written since, unless the tables whose writes are given up are named.',
  icon: 'rewind',
  inputs: {
    ...migration,
    ...notifying,
    'accept-data-loss': optional(
      list,
      'Tables whose writes on the target since the commit are given up, by their bare names. There is no failback: they are lost.',
    ),
  },
  outputs: {
    lost: 'JSON array of the tables whose writes on the target are lost.',
  },
})
