import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { argumentList, boolean, choice, duration, integer, list, pattern, text } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

const uuid = pattern(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/, 'the id that molt printed')

export const spec = defineAction({
  name: 'fetch',
  title: 'MOLT fetch',
  description:
    'Loads every expected table in one snapshot, and creates the slot and the publication. Succeeds only when every row is accounted for.',
  icon: 'download',
  inputs: {
    ...migration,
    mode: defaulted(
      choice('import', 'use-copy', 'direct-copy'),
      'import',
      'How rows are loaded: `import` (IMPORT INTO through files; takes each target table offline while its rows arrive), `use-copy` (COPY through files; tables stay online), `direct-copy` (COPY without files; tables stay online, but an interrupted load cannot be resumed).',
    ),
    'bucket-path': optional(
      pattern(
        /^(s3|gs|azure-blob):\/\/(?!BUCKET(\/|$))./,
        's3://…, gs://… or azure-blob://…, with the name of your bucket',
      ),
      'Bucket for intermediate files.',
    ),
    'use-implicit-auth': defaulted(
      boolean,
      'false',
      "Uses the environment's credentials (OIDC, instance role) for the bucket instead of keys in its URL. CockroachDB needs its own credentials.",
    ),
    'assume-role': optional(text, 'Role or service account that accesses the bucket.'),
    'import-region': optional(text, 'Region of the bucket.'),
    'local-path': optional(text, 'Folder for intermediate files, instead of a bucket.'),
    'local-path-listen-addr': optional(text, 'Address that serves the folder to CockroachDB.'),
    'local-path-crdb-access-addr': optional(text, 'Address at which CockroachDB reaches that server.'),
    'delete-files': defaulted(boolean, 'false', 'Deletes the intermediate files afterwards.'),
    compression: optional(choice('gzip', 'none'), "Compression of the intermediate files. Default: molt's."),
    'table-handling': defaulted(
      choice('none', 'truncate-if-exists', 'drop-on-target-and-recreate'),
      'none',
      'What to do with existing rows or tables on the target. `none` refuses a table that has rows. `drop-on-target-and-recreate` is refused while another role has privileges on a table, because MOLT does not restore them.',
    ),
    'allow-truncate': optional(
      list,
      'Tables whose rows on the target `table-handling` may delete, by their bare names.',
    ),
    'on-interrupted': defaulted(
      choice('fail', 'resume', 'restart'),
      'fail',
      'What to do about an earlier load that did not finish. `fail` changes nothing. `resume` continues it, except with `direct-copy`, and keeps the slot if this load fails too. `restart` drops its slot and loads again.',
    ),
    'fetch-id': optional(
      uuid,
      "With `resume`: MOLT's id of the load to continue. Default: the id in the ledger or on the target.",
    ),
    'continuation-token': optional(uuid, 'With `resume`: continuation token of the one table to continue.'),
    'continuation-file-name': optional(text, 'With `resume`: name of the file to start from.'),
    'table-concurrency': optional(integer(1, 64), "Tables at a time. Default: molt's."),
    'export-concurrency': optional(integer(1, 64), "Readers per table. Default: molt's."),
    'row-batch-size': optional(integer(1, 10_000_000), "Rows per read. Default: molt's."),
    'extra-args': optional(argumentList, 'Further flags of `molt fetch`. Flags that have their own input are refused.'),
    'stall-after': optional(
      duration,
      'Stops the load when molt has printed nothing and no row has moved for this long. Default: never, because IMPORT INTO of a large table can run for a long time without output. A stall is reported after 5 minutes, then at growing intervals.',
    ),
    'progress-every': defaulted(duration, '5s', 'How often a progress line is written.'),
  },
  outputs: {
    cursor: 'LSN at which the stream starts.',
    tables: 'How many tables were loaded.',
    rows: 'How many rows were loaded.',
    'fetch-id': "MOLT's id of the load. Also set when the load failed and can be resumed.",
    'duration-ms': 'How long the load took, in milliseconds.',
  },
})
