import { defaulted, defineAction } from '../../runtime/spec.ts'
import { boolean } from '../../runtime/types.ts'
import { migration } from '../common.ts'

export const spec = defineAction({
  name: 'cleanup',
  title: 'Cleanup',
  description:
    'Takes away what the suite left on both sides: slot first, then publication, fence, heartbeat, staging schema and ledger entry.',
  icon: 'trash-2',
  inputs: {
    ...migration,
    'dry-run': defaulted(boolean, 'false', 'Only lists what would be dropped.'),
  },
  outputs: { dropped: 'JSON array of what was dropped.' },
})
