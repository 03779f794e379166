import { defineAction, optional } from '../../runtime/spec.ts'
import { list } from '../../runtime/types.ts'
import { migration, notifying } from '../shared.ts'

export const spec = defineAction({
  name: 'rollback',
  title: 'Rollback',
  description:
    'Returns to the source after a commit. Refuses if the target has been written to since, unless you name the tables whose writes may be lost.',
  icon: 'rewind',
  inputs: {
    ...migration,
    ...notifying,
    'accept-data-loss': optional(
      list,
      'Tables whose writes on the target since the commit may be lost, as unqualified names. There is no failback: nothing copies these writes to the source.',
    ),
  },
  outputs: {
    lost: 'JSON array of the tables whose writes on the target are lost.',
  },
})
