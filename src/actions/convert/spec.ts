import { defaulted, defineAction, optional, required } from '../../runtime/spec.ts'
import { boolean, connectionUrl, pattern, text } from '../../runtime/types.ts'
import { config, migration, passwords } from '../shared.ts'

export const spec = defineAction({
  name: 'convert',
  title: 'Convert a schema',
  description:
    "Converts a live PostgreSQL schema to CockroachDB DDL, and reports everything that changes. Reads only the source's catalog.",
  icon: 'edit-3',
  inputs: {
    source: required(connectionUrl, 'PostgreSQL database with the schema to convert. Only its catalog is read.'),
    schema: defaulted(text, 'public', 'Schema to convert; it has the same name on the target.'),
    out: defaulted(text, 'schema', 'Folder for the SQL files and the report. Existing files are overwritten.'),
    'target-version': defaulted(
      pattern(/^v?\d{2}\.\d(\.\d+)?$/, 'a CockroachDB version such as 25.2'),
      '25.2',
      'CockroachDB version that the DDL is for.',
    ),
    decisions: optional(
      text,
      'YAML file with decisions that override the rules, such as `convert.yml` (docs/convert.schema.json).',
    ),
    apply: defaulted(
      boolean,
      'false',
      'Creates the tables from `1-tables.sql` on an empty `target`, and records indexes and constraints in the ledger: `cutover` builds UNIQUE, CHECK and foreign keys, `finalize` the rest.',
    ),
    target: optional(connectionUrl, 'With `apply`: the CockroachDB cluster that gets the tables.'),
    migration: migration.migration,
    'allow-insecure': migration['allow-insecure'],
    ...passwords,
    ...config,
  },
  outputs: {
    out: 'Folder with `1-tables.sql`, `2-indexes.sql`, `3-constraints.sql`, `4-manual.sql`, `report.md` and `report.json`.',
    created: 'With `apply`: how many statements this run executed.',
    deferred: 'With `apply`: how many indexes and constraints are recorded in the ledger.',
    changed: '`true` when this run changed a file in the folder.',
    manual: 'How many objects need manual work.',
    lossy: 'How many objects are converted with some loss.',
  },
})
