import { VERIFY_LEVELS } from '../../model/plan.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, integer, list } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'verify',
  title: 'MOLT verify',
  description:
    'Compares both sides with molt verify, and checks what it misses. Succeeds only when every expected table is equal.',
  icon: 'eye',
  inputs: {
    ...migration,
    level: defaulted(
      choice(...VERIFY_LEVELS),
      'full',
      '`full`: every row, by molt and by hashes that both databases compute. `molt`: every row, only by molt, which does not notice a value that `molt fetch` misread. `counts`: row counts. `tables`: only definitions.',
    ),
    dry: defaulted(boolean, 'false', 'Compares only definitions, within seconds; the same as `level: tables`.'),
    while: defaulted(
      choice('streaming', 'drained'),
      'drained',
      '`drained`: every difference is an error. `streaming`: changes are still arriving, so rows that differ are checked again after a later heartbeat, which distinguishes lag from loss and from rows that are still changing. Requires a running stream.',
    ),
    'recheck-limit': defaulted(
      integer(0, 10_000),
      '10000',
      'With `streaming`: maximum number of rows per table that are checked again.',
    ),
    'recheck-timeout': defaulted(
      duration,
      '30s',
      'With `streaming`: how long the heartbeat may take to reach the target.',
    ),
    tables: optional(list, 'Compares only these expected tables, given as unqualified names.'),
    concurrency: optional(integer(1, 128), "Number of shards compared at once. Default: molt's."),
    count: defaulted(
      choice('exact', 'estimated'),
      'exact',
      'How rows are counted at the levels `molt` and `counts` (`full` always counts): `estimated` uses statistics, for tables too large to count, and is labelled as an estimate.',
    ),
    structure: defaulted(
      choice('auto', 'require', 'report'),
      'auto',
      'What to do when indexes, constraints, defaults or sequences are missing or different on the target: `require` fails, `report` only lists them. `auto` requires them at the level `tables` and once the migration is finalized, but accepts deferred definitions until they are built, and sequences until the commit.',
    ),
    'stall-after': optional(
      duration,
      'Stops the run when molt has printed nothing for this long. Default: never. A stall is reported after 5 minutes, then at growing intervals.',
    ),
    show: defaulted(
      choice('none', 'keys', 'values'),
      'none',
      'Writes the keys of rows that differ, or the keys and values, to a file with mode 600 in the work folder. They never reach the log.',
    ),
  },
  outputs: {
    verdict: '`clean`, `different`, or `unsettled` (no known loss, but equality is not proved).',
    tables: 'JSON array, one object per table; see `docs/verify.schema.json`.',
    report: 'Path of the full report as JSON (`docs/verify.schema.json`). It contains no keys or values of rows.',
    'rows-file': 'Path of the file with rows that differ, when `show` is set.',
    'duration-ms': 'How long the comparison took, in milliseconds.',
  },
})
