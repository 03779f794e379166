import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { choice, integer } from '../../runtime/types.ts'
import { migration } from '../common.ts'

export const spec = defineAction({
  name: 'verify',
  title: 'MOLT verify',
  description:
    'Compares both sides by molt verify, and by what it does not see; green only when every expected table is equal.',
  icon: 'eye',
  inputs: {
    ...migration,
    level: defaulted(
      choice('full', 'counts', 'tables'),
      'full',
      '`full`: every row by molt. `counts`: numbers of rows. `tables`: definitions only.',
    ),
    concurrency: optional(integer(1, 128), "Tables at a time. Default: molt's."),
  },
  outputs: {
    verdict: '`clean` or `different`.',
    tables: 'JSON array: per table `name`, `rows`, `missing`, `mismatch`, `extraneous`, `columnMismatch`.',
    'duration-ms': 'How long it took, in milliseconds.',
  },
})
