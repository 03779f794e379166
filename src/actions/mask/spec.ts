import { defaulted, defineAction, optional, required } from '../../runtime/spec.ts'
import { boolean, connectionUrl, integer, text } from '../../runtime/types.ts'
import { config, passwords } from '../shared.ts'

export const spec = defineAction({
  name: 'mask',
  title: 'Mask a rehearsal source',
  description:
    'Copies a production clone into a rehearsal source. Masks the data before it leaves the clone, and proves that no personal data is left.',
  icon: 'eye-off',
  inputs: {
    from: required(connectionUrl, 'Production clone or snapshot to read from. Nothing is written to it.'),
    to: optional(connectionUrl, 'Rehearsal source to fill: an empty database, or one that `mask` has filled before.'),
    'allow-target': optional(
      text,
      'Exact name of the database in `to`, to confirm that it is meant for rehearsals. Without it, nothing is written.',
    ),
    rules: required(text, 'Rules file (YAML). With `propose`, the file is written and must not exist yet.'),
    propose: defaulted(
      boolean,
      'false',
      'Only writes a first rules file, from the catalog and from samples that are matched inside the database.',
    ),
    schema: defaulted(text, 'public', 'Schema to copy; it has the same name on both sides.'),
    'tables-at-once': defaulted(integer(1, 32), '4', 'How many tables are copied at once; each uses two connections.'),
    'allow-insecure': defaulted(
      boolean,
      'false',
      'Allows a `from` or `to` URL that does not enforce TLS (`sslmode` other than `require`, `verify-ca`, `verify-full`).',
    ),
    evidence: defaulted(text, 'mask.json', 'File for the evidence: numbers and names, no values.'),
    ...passwords,
    ...config,
  },
  outputs: {
    verdict: '`proved` when every check passed, `proposed` after `propose`.',
    tables: 'How many tables were copied.',
    rows: 'How many rows were copied.',
    'masked-columns': 'How many columns were masked.',
    'duration-ms': 'How long the copy took, in milliseconds.',
    evidence: 'Path of the evidence file.',
    rules: 'Path of the rules file, read or written.',
  },
})
