import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { argumentList, boolean, choice, duration, integer, list, pattern, text } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

const uuid = pattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'the id that molt printed')

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
      'How rows travel: `import` (IMPORT INTO through files; takes each target table offline while its rows arrive), `use-copy` (COPY through files; they stay online), `direct-copy` (COPY without files; they stay online, and an interrupted load cannot be continued).',
    ),
    'bucket-path': optional(
      pattern(/^(s3|gs|azure-blob):\/\/./, 's3://…, gs://… or azure-blob://…'),
      'Bucket for intermediate files.',
    ),
    'use-implicit-auth': defaulted(
      boolean,
      'false',
      'Reaches the bucket by the credentials of the environment (OIDC, instance role) rather than by keys in its URL. CockroachDB must have its own.',
    ),
    'assume-role': optional(text, 'Role or service account by which the bucket is reached.'),
    'import-region': optional(text, 'Region of the bucket.'),
    'local-path': optional(text, 'Folder for intermediate files, instead of a bucket.'),
    'local-path-listen-addr': optional(text, 'Address on which the folder is served to CockroachDB.'),
    'local-path-crdb-access-addr': optional(text, 'Address by which CockroachDB reaches that server.'),
    'delete-files': defaulted(boolean, 'false', 'Deletes the intermediate files afterwards.'),
    compression: optional(choice('gzip', 'none'), "Of intermediate files. Default: molt's."),
    'table-handling': defaulted(
      choice('none', 'truncate-if-exists', 'drop-on-target-and-recreate'),
      'none',
      'What happens to rows or tables that are on the target already. `none` refuses a table that holds rows.',
    ),
    'allow-truncate': optional(
      list,
      'The tables whose rows on the target may be thrown away by `table-handling`, by their bare names.',
    ),
    'on-interrupted': defaulted(
      choice('fail', 'resume', 'restart'),
      'fail',
      'When a load was begun before and did not end: `fail` changes nothing; `resume` continues it, which `direct-copy` cannot; `restart` drops its slot and loads again. With `resume` the slot of a load that fails is kept.',
    ),
    'fetch-id': optional(uuid, 'With `resume`: the load to continue. Default: the one in the ledger or on the target.'),
    'continuation-token': optional(uuid, 'With `resume`: continue one table only.'),
    'continuation-file-name': optional(text, 'With `resume`: the file to begin with.'),
    'table-concurrency': optional(integer(1, 64), "Tables at a time. Default: molt's."),
    'export-concurrency': optional(integer(1, 64), "Readers per table. Default: molt's."),
    'row-batch-size': optional(integer(1, 10_000_000), "Rows per read. Default: molt's."),
    'extra-args': optional(
      argumentList,
      'Further flags of `molt fetch`. Flags that have an input of their own are refused.',
    ),
    'stall-after': optional(
      duration,
      'Ends the load when molt has printed nothing and no row has moved for this long. Default: never, since IMPORT INTO of a large table can print nothing for long; silence is told after 5 minutes, and then more and more rarely.',
    ),
    'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
  },
  outputs: {
    cursor: 'LSN at which the stream begins.',
    tables: 'How many tables were loaded.',
    rows: 'How many rows were loaded.',
    'fetch-id': "MOLT's id of the load; set when it failed too, and can be continued.",
    'duration-ms': 'How long the load took, in milliseconds.',
  },
})
