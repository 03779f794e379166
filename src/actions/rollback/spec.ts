import { defineAction, optional } from '../../runtime/spec.ts'
import { list } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'rollback',
  title: 'Rollback',
  description:
    'Returns to the source after a commit. Refuses if the target was written to since, unless you name the tables whose writes you give up.',
  icon: 'rewind',
  inputs: {
    ...migration,
    ...notifying,
    'accept-data-loss': optional(
      list,
      'Tables whose writes on the target since the commit you give up, by their bare names. There is no failback: these writes are lost.',
    ),
  },
  outputs: {
    lost: 'JSON array of the tables whose writes on the target are lost.',
  },
})
