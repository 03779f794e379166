import * as z from 'zod'
import type { Waiver } from '../../checks/check.ts'
import { FINAL_VERIFIES } from '../../model/plan.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, type InputType, integer, list, pattern, size, text } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

/** Waivers in the form `tbl.no-key=audit_log, events; typ.money=*`. */
export const waivers: InputType<Waiver[]> = {
  schema: z.string().transform((value, context) => {
    const found: Waiver[] = []
    for (const item of value.split(/[;\n]/).map((each) => each.trim())) {
      if (!item) continue
      const [, check, objects] = /^([a-z]+\.[a-z-]+)\s*=\s*(.+)$/.exec(item) ?? []
      if (!check || !objects) {
        context.addIssue(`${JSON.stringify(item)} does not have the form check=object`)
        return z.NEVER
      }
      for (const object of objects.split(',').map((each) => each.trim())) found.push({ check, object })
    }
    return found
  }),
  hint: 'a check and the objects it may ignore, such as `tbl.no-key=audit_log, events; typ.money=*`',
  json: { type: 'string' },
}

export const spec = defineAction({
  name: 'prepare',
  title: 'MOLT prepare',
  description:
    'Checks both databases before anything is moved, pins the list of expected tables, and installs the heartbeat and the disarmed fence.',
  icon: 'check-square',
  inputs: {
    ...migration,
    schema: defaulted(text, 'public', 'Schema to move, on the source.'),
    'target-schema': optional(text, 'Schema on the target. Default: the same name.'),
    tables: optional(list, 'Tables to move, as unqualified names. Default: every base table in the schema.'),
    'exclude-tables': optional(list, 'Tables of the schema to leave out, as unqualified names.'),
    slot: defaulted(
      pattern(/^[a-z0-9_]{1,63}$/, 'lower-case letters, digits and underscores'),
      'molt_slot',
      'Replication slot that the load will create.',
    ),
    waive: optional(
      waivers,
      'Findings to accept, by check and object. A waiver that matches nothing is an error. All waivers are part of the plan, and the approver sees them.',
    ),
    defer: defaulted(
      choice(
        'none',
        'indexes',
        'constraints',
        'indexes,constraints',
        'indexes,unique-after-load',
        'indexes,constraints,unique-after-load',
      ),
      'none',
      'What to drop from the expected tables on the target before the load: `indexes` (including unique ones) and `constraints` (checks and foreign keys, including foreign keys of other tables that reference them). Each definition is saved in the ledger before it is dropped. Plain indexes are rebuilt while changes stream, unique indexes after the drain, and `finalize` validates foreign keys. `unique-after-load` builds unique indexes while changes stream, too, which shortens the write pause. Use it only if no unique value ever moves from one row to another, because that would stop the stream.',
    ),
    decisions: optional(
      text,
      'The `convert.yml` that was passed to `convert`. Comparisons of definitions then expect what it decides. Recorded in the plan.',
    ),
    trial: defaulted(
      choice('forms', 'none'),
      'forms',
      '`forms`: before anything is dropped, builds one definition of each form on empty copies of the tables, in a schema `molt_actions_trial_…` on the target, for at most 60 s. `none` skips this.',
    ),
    'final-verify': defaulted(
      choice(...FINAL_VERIFIES),
      'auto',
      'What `cutover` compares while writes are paused: `full` compares every row, `changed` compares only the last changed rows and relies on the rolling proof for all others, and `auto` is `full` if that takes at most 2 s, otherwise `changed`. Part of the plan: after the approval, `cutover` refuses a weaker comparison.',
    ),
    apply: defaulted(
      boolean,
      'false',
      'Runs the fixes that are safe (settings of the migration role, replica identity, missing sequences and the like), then checks again. Never restarts a server or creates a superuser.',
    ),
    grants: defaulted(
      choice('none', 'print'),
      'none',
      "`print` writes the least-privilege SQL for `migration-user` on both sides and installs nothing. Give it an administrator's URLs, and create the target's tables first.",
    ),
    'migration-user': defaulted(text, 'molt_migration', 'User to whom the SQL of `grants` grants privileges.'),
    'table-handling': defaulted(
      choice('none', 'truncate-if-exists', 'drop-on-target-and-recreate'),
      'none',
      'What the load will do with existing rows on the target. With `none`, this step refuses tables with rows.',
    ),
    'bucket-path': optional(text, 'Bucket that the load will use.'),
    mode: optional(text, 'How the load will move rows; checked only with `check-load`.'),
    'check-load': defaulted(
      boolean,
      'false',
      'Refuses settings that `fetch` would refuse, such as a `mode` without its bucket, before anything is installed. Includes the `fetch` section of the config file. For workflows that run `fetch` next.',
    ),
    'table-concurrency': defaulted(integer(1, 64), '4', 'Number of tables that the load will read at once.'),
    'export-concurrency': defaulted(integer(1, 64), '4', 'Number of readers per table during the load.'),
    'row-batch-size': defaulted(integer(1, 10_000_000), '100000', 'Number of rows per read during the load.'),
    'load-rate': defaulted(size, '20MiB', 'Assumed load speed per second, for the time estimate.'),
    'job-limit': defaulted(duration, '6h', "Time limit of the load's job, compared with the estimate."),
    'session-limit': optional(duration, 'Lifetime of the cloud credentials (OIDC), compared with the estimate.'),
    decision: optional(
      choice('rehearse', 'commit'),
      '`decision` of the cutover that follows. A target that only answers like CockroachDB is refused unless this is `rehearse` or `setup` installed the stand-in.',
    ),
    'write-access': defaulted(
      choice('close', 'waive'),
      'close',
      "`close` records every role's write privileges on the target and revokes them until the commit. `waive` leaves them in place, so that only the final verify may notice a stray write.",
    ),
  },
  outputs: {
    tables: 'The expected tables, as a JSON array of unqualified names.',
    'table-count': 'Number of expected tables.',
    phase: "The migration's phase afterwards.",
    preflight: 'Path of preflight.json, with all findings; docs/preflight.schema.json describes it.',
    findings: 'How many findings there are, as JSON: `block`, `warn`, `info`, `waived`.',
    'grants-source': 'Path of the SQL for the source, with `grants: print`.',
    'grants-target': 'Path of the SQL for the target, with `grants: print`.',
    'target-version': 'Version that the target reports.',
    deferred: 'Number of deferred indexes and constraints.',
    'plan-hash': 'sha256 over everything that decides what is moved and how.',
  },
})
