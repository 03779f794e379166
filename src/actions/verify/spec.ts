import { VERIFY_LEVELS } from '../../model/plan.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, integer, list } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

export const spec = defineAction({
  name: 'verify',
  title: 'MOLT verify',
  description:
    'Compares both sides by molt verify, and by what it does not see; green only when every expected table is equal.',
  icon: 'eye',
  inputs: {
    ...migration,
    level: defaulted(
      choice(...VERIFY_LEVELS),
      'full',
      '`full`: every row, by molt and by hashes that both databases compute. `molt`: every row, by molt alone, which takes a value that its `fetch` has misread for equal. `counts`: numbers of rows. `tables`: definitions only.',
    ),
    dry: defaulted(boolean, 'false', 'Compares definitions only, in seconds; the same as `level: tables`.'),
    while: defaulted(
      choice('streaming', 'drained'),
      'drained',
      '`drained`: no difference is accepted. `streaming`: rows are moving, and those that differ are looked at again after a later heartbeat has arrived, which tells lag, loss and rows that are still changing apart; a stream must be running.',
    ),
    'recheck-limit': defaulted(
      integer(0, 10_000),
      '10000',
      'With `streaming`: rows of one table that are looked at again.',
    ),
    'recheck-timeout': defaulted(duration, '30s', 'With `streaming`: how long the heartbeat may take to the target.'),
    tables: optional(list, 'Compares only these of the expected tables, by their bare names.'),
    concurrency: optional(integer(1, 128), "Shards at a time. Default: molt's."),
    count: defaulted(
      choice('exact', 'estimated'),
      'exact',
      'How rows are counted at the levels `molt` and `counts` (`full` always counts): `estimated` goes by statistics, for tables too large to be counted, and is labelled as such.',
    ),
    structure: defaulted(
      choice('auto', 'require', 'report'),
      'auto',
      'Indexes, constraints, defaults and sequences: all that a definition says. `require` fails on what is missing or different on the target, `report` only lists it. `auto` requires them at the level `tables` and once the migration is finalized. With `auto`, what is deferred is no problem before it is built, nor is a sequence before the commit.',
    ),
    'stall-after': optional(
      duration,
      'Ends it when molt has said nothing for this long. Default: never; silence is told after 5 minutes, and then more and more rarely.',
    ),
    show: defaulted(
      choice('none', 'keys', 'values'),
      'none',
      'Writes the keys of rows that differ, or their values too, to a file of mode 600 in the work folder. They never reach the log, whatever this says.',
    ),
  },
  outputs: {
    verdict: '`clean`, `different`, or `unsettled` (nothing is known to be lost, but equality is not proved).',
    tables: 'JSON array, one object a table; see `docs/verify.schema.json`.',
    report: 'Path of the whole report as JSON (`docs/verify.schema.json`). It holds no key and no value of any row.',
    'rows-file': 'Path of the file that `show` asked for.',
    'duration-ms': 'How long it took, in milliseconds.',
  },
})
