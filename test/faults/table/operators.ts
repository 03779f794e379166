import { setTimeout as sleep } from 'node:timers/promises'
import type { FaultGround, Side } from '../../support/fault-ground.ts'
import { type Fault, type Point, sql } from './fault.ts'

/** Starts another run while the cutover is suspended at `at`. That run's own outcome does not matter. */
const beside = (action: string, at: Point, ...codes: string[]): Fault => ({
  topic: 'Two runs',
  name: `\`${action}\` starts`,
  from: 'caught-up',
  at,
  suiteOnly: true,
  // Long enough for the other run, during which the cutover is suspended.
  inputs: { lease: '40s' },
  happens: (ground: FaultGround) => ground.run(action, { beside: true }),
  expect: codes.length ? ['cutover', ...codes] : 'go',
})

/** Codes of a cutover that misses an object removed by an abort. Timing decides which object is missed first. */
const ABORTED = [
  'fence.changed-by-other',
  'fence.damaged',
  'fence.lapsed',
  'fence.not-holding',
  'fence.not-installed',
  'heartbeat.missing',
  'ledger.moved',
  'ledger.no-migration',
  'schema.changed',
  'slot.missing',
  'stream.stuck.slot-gone',
  'verify.inconclusive',
]

const still = (at: Point, ...codes: string[]): Fault => ({
  topic: 'The fence lease',
  name: 'the runner freezes for longer than the lease',
  from: 'caught-up',
  at,
  suiteOnly: true,
  inputs: { lease: '3s' },
  happens: () => sleep(4_000),
  expect: codes.length ? ['cutover', ...codes] : 'go',
})
const LAPSED = [
  'fence.lapsed',
  'fence.probe-passed',
  'fence.write-passed',
  'fence.not-holding',
  'fence.changed-by-other',
  'hold.lost',
]

const killed = (at: Point): Fault => ({
  topic: 'The runner is killed, and the step is rerun',
  name: 'the runner of `cutover` is killed',
  from: 'caught-up',
  at,
  killed: true,
  inputs: { lease: '4s' },
  expect: 'go',
})
const dies = (step: string, from: Fault['from'], side: Side, once: string, what: string): Fault => ({
  topic: 'The runner is killed, and the step is rerun',
  name: `the runner of \`${step}\` is killed ${what}`,
  from,
  dies: { step, side, once },
  expect: 'go',
})

const stale = (name: string, side: Side, text: string, ...codes: string[]): Fault => ({
  topic: 'Stale evidence',
  name,
  from: 'caught-up',
  happens: sql(side, text),
  suiteOnly: true,
  expect: ['cutover', ...codes],
})

/** Runners that are killed or freeze, concurrent runs, and stale evidence. */
export const OPERATOR_FAULTS: readonly Fault[] = [
  dies(
    'prepare',
    'fresh',
    'source',
    "SELECT 1 FROM pg_trigger WHERE tgname = 'molt_actions_fence'",
    'once the fence exists',
  ),
  dies(
    'prepare',
    'fresh',
    'target',
    "SELECT 1 WHERE to_regclass('molt_actions.deferred') IS NOT NULL",
    'once the ledger exists',
  ),
  {
    ...dies('fetch', 'prepared', 'source', 'SELECT 1 FROM pg_replication_slots', 'once the slot exists'),
    expect: ['fetch', 'load.interrupted'],
  },
  {
    ...dies('fetch', 'prepared', 'target', 'SELECT 1 FROM customers LIMIT 1', 'midway'),
    expect: ['fetch', 'load.interrupted'],
  },
  dies('replicate', 'loaded', 'source', 'SELECT 1 FROM pg_replication_slots WHERE active', 'during streaming'),
  ...(
    [
      'caught up',
      'before arming',
      'armed',
      'drained',
      'stream off',
      'verified',
      'sequences set',
      'unique indexes built',
      'committing',
      'permanent on the source',
      'committed',
      'write access open',
      'switch command done',
      'switched',
    ] as const
  ).map(killed),
  dies(
    'finalize',
    'caught-up',
    'source',
    "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'molt_slot')",
    'once the slot is dropped',
  ),

  still('before arming'),
  still('armed', ...LAPSED, 'drain.not-proved'),
  still('verified', ...LAPSED),
  still('committing', ...LAPSED),
  still('permanent on the source'),

  beside('cutover', 'before arming'),
  beside('replicate', 'caught up'),
  beside('prepare', 'armed'),
  beside('finalize', 'verified'),
  beside('cleanup', 'committing'),
  beside('rollback', 'permanent on the source'),
  beside('rollback', 'committed'),
  // An abort restores the application's privileges on the target.
  ...(['caught up', 'verified', 'committing'] as const).map(
    (at): Fault => ({ ...beside('abort', at, ...ABORTED), open: ['source', 'target'] }),
  ),
  beside('abort', 'permanent on the source'),

  stale(
    'the approval is for another plan',
    'target',
    `UPDATE molt_actions.migrations SET phase = 'approved', facts = facts || '{"approval": {"planHash": "0"}}'`,
    'approval.plan-changed',
    'ledger.changed-by-hand',
  ),
  stale(
    'the ledger says that the migration has committed',
    'target',
    "UPDATE molt_actions.migrations SET phase = 'committed'",
    'fence.removed-after-commit',
    'ledger.changed-by-hand',
  ),
  {
    ...stale(
      'the fence is permanent without a commit',
      'source',
      "SELECT setval('molt_actions.fence_lease', 9223372036854775807)",
      'fence.permanent-without-commit',
    ),
    open: [],
  },
  {
    ...stale(
      "the target's heartbeat row names another source until the next heartbeat",
      'target',
      'UPDATE molt_actions_heartbeat SET source_id = gen_random_uuid()',
    ),
    expect: 'go',
  },
  {
    ...stale('the replicator is not the planned build', 'target', 'SELECT 1', 'tools.not-planned'),
    trick: { replicatorSays: [] },
  },
]
