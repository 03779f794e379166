import * as z from 'zod'
import type { Waiver } from '../../checks/check.ts'
import { FINAL_VERIFIES } from '../../model/plan.ts'
import { defaulted, defineAction, optional } from '../../runtime/spec.ts'
import { boolean, choice, duration, type InputType, integer, list, pattern, size, text } from '../../runtime/types.ts'
import { migration } from '../shared.ts'

/** `tbl.no-key=audit_log, events; typ.money=*` */
export const waivers: InputType<Waiver[]> = {
  schema: z.string().transform((value, context) => {
    const found: Waiver[] = []
    for (const item of value.split(/[;\n]/).map((each) => each.trim())) {
      if (!item) continue
      const [, check, objects] = /^([a-z]+\.[a-z-]+)\s*=\s*(.+)$/.exec(item) ?? []
      if (!check || !objects) {
        context.addIssue(`${JSON.stringify(item)} names no check and object`)
        return z.NEVER
      }
      for (const object of objects.split(',').map((each) => each.trim())) found.push({ check, object })
    }
    return found
  }),
  hint: 'a check and the objects it may pass over, such as `tbl.no-key=audit_log, events; typ.money=*`',
  json: { type: 'string' },
}

export const spec = defineAction({
  name: 'prepare',
  title: 'MOLT prepare',
  description:
    'Checks both databases before anything is moved, fixes the list of expected tables, and installs heartbeat and disarmed fence.',
  icon: 'check-square',
  inputs: {
    ...migration,
    schema: defaulted(text, 'public', 'Schema to move, on the source.'),
    'target-schema': optional(text, 'Schema on the target. Default: the same name.'),
    tables: optional(list, 'Tables to move, by their bare names. Default: every base table of the schema.'),
    'exclude-tables': optional(list, 'Tables of the schema to leave behind, by their bare names.'),
    slot: defaulted(
      pattern(/^[a-z0-9_]{1,63}$/, 'lower-case letters, digits and underscores'),
      'molt_slot',
      'Replication slot that the load will create.',
    ),
    waive: optional(
      waivers,
      'Findings to accept, by check and object. A waiver that matches nothing is an error; all are shown to whoever approves, and kept in the plan.',
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
      'What is taken off the expected tables on the target for the load: `indexes` (unique ones too) and `constraints` (foreign keys, also those from other tables, and checks). Each is captured in the ledger before it is dropped. Plain indexes are built again while changes are streamed, unique ones after the drain, foreign keys are validated by `finalize`. `unique-after-load` builds unique ones while changes are streamed, too, which shortens the write pause: it is your word that a value never moves from one row to another, which would wedge the stream.',
    ),
    trial: defaulted(
      choice('forms', 'none'),
      'forms',
      '`forms`: before anything is taken off, one definition of each form is built on empty copies in a schema `molt_actions_trial_…` of the target, for at most 60 s. `none` skips this.',
    ),
    'final-verify': defaulted(
      choice(...FINAL_VERIFIES),
      'auto',
      'What `cutover` compares while writes are paused: `full` compares every row, `changed` those that changed last and rests on the rolling proof for all others, `auto` is `full` where that takes at most 2 s, else `changed`. Part of the plan: once that is approved, `cutover` refuses to compare less.',
    ),
    apply: defaulted(
      boolean,
      'false',
      'Runs the fixes that are safe (settings of the migration role, replica identity, missing sequences and the like), and checks again. Never a restart, never a superuser.',
    ),
    grants: defaulted(
      choice('none', 'print'),
      'none',
      "`print` writes the least-privilege SQL for `migration-user` on both sides, and ends there: nothing is installed. Give it an administrator's URLs, and create the target's tables first.",
    ),
    'migration-user': defaulted(text, 'molt_migration', 'The user that `grants` is written for.'),
    'table-handling': defaulted(
      choice('none', 'truncate-if-exists', 'drop-on-target-and-recreate'),
      'none',
      'What the load will do with rows that are on the target already; `none` refuses them here.',
    ),
    'bucket-path': optional(text, 'Bucket that the load will use.'),
    mode: optional(text, 'How the load will move rows; looked at with `check-load` alone.'),
    'check-load': defaulted(
      boolean,
      'false',
      'Refuses settings that `fetch` would refuse (such as a `mode` without the bucket that it needs), its section of the config file included, before anything is installed. For chains whose next step is `fetch`.',
    ),
    'table-concurrency': defaulted(integer(1, 64), '4', 'Tables that the load will read at a time.'),
    'export-concurrency': defaulted(integer(1, 64), '4', 'Readers a table that the load will use.'),
    'row-batch-size': defaulted(integer(1, 10_000_000), '100000', 'Rows a read that the load will use.'),
    'load-rate': defaulted(size, '20MiB', 'What the load is taken to move in a second, for the estimate of its time.'),
    'job-limit': defaulted(duration, '6h', "Time limit of the load's job, held against the estimate."),
    'session-limit': optional(duration, 'Lifetime of the cloud credentials (OIDC), held against the estimate.'),
    decision: optional(
      choice('rehearse', 'commit'),
      'What the cutover of this run will decide. A target that only answers like CockroachDB is refused unless it is `rehearse` or `setup` installed the stand-in.',
    ),
    'write-access': defaulted(
      choice('close', 'waive'),
      'close',
      'Until the commit, takes the rights to write to the target from every role that has them, and records them. `waive` leaves them: a stray write there is found by the final verify, if at all.',
    ),
  },
  outputs: {
    tables: 'The expected tables, as a JSON array of bare names.',
    'table-count': 'How many they are.',
    phase: "The migration's phase afterwards.",
    preflight: 'Path of preflight.json, with all findings; docs/preflight.schema.json describes it.',
    findings: 'How many findings there are, as JSON: `block`, `warn`, `info`, `waived`.',
    'grants-source': 'Path of the SQL for the source, with `grants: print`.',
    'grants-target': 'Path of the SQL for the target, with `grants: print`.',
    'target-version': 'What the target says of its version.',
    deferred: 'How many indexes and constraints are off the target, to be built again by `finalize`.',
    'plan-hash': 'sha256 over all that decides what is moved and how.',
  },
})
