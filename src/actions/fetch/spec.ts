import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { choice, duration, integer, list, text } from '../../runtime/types.ts'
import { migration } from '../common.ts'

export const spec = defineAction({
  name: 'fetch',
  title: 'MOLT fetch',
  description:
    'Loads every expected table in one snapshot, creates slot and publication, and believes nothing but a full account.',
  icon: 'download',
  inputs: {
    ...migration,
    mode: defaulted(
      choice('import', 'use-copy', 'direct-copy'),
      'import',
      'How rows travel: `import` (IMPORT INTO through a bucket; takes the target tables offline), `use-copy` (COPY through a bucket; they stay online), `direct-copy` (COPY without a bucket; cannot be continued).',
    ),
    'bucket-path': optional(text, 'Bucket for intermediate files: `s3://…`, `gs://…` or `azure-blob://…`.'),
    'local-path': optional(text, 'Folder for intermediate files, instead of a bucket.'),
    'local-path-listen-addr': optional(text, 'Address on which the folder is served to CockroachDB.'),
    'local-path-crdb-access-addr': optional(text, 'Address by which CockroachDB reaches that server.'),
    'table-handling': defaulted(
      choice('none', 'truncate-if-exists', 'drop-on-target-and-recreate'),
      'none',
      'What happens to rows or tables that are on the target already.',
    ),
    'table-concurrency': optional(integer(1, 64), "Tables at a time. Default: molt's."),
    'export-concurrency': optional(integer(1, 64), "Readers per table. Default: molt's."),
    'row-batch-size': optional(integer(1, 10_000_000), "Rows per read. Default: molt's."),
    'extra-args': optional(list, 'Further flags of `molt fetch`, as a YAML list.'),
    'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
  },
  outputs: {
    cursor: 'LSN at which the stream begins.',
    tables: 'How many tables were loaded.',
    rows: 'How many rows were loaded.',
    'duration-ms': 'How long the load took, in milliseconds.',
  },
})
