import { setTimeout as sleep } from 'node:timers/promises'
import type { FaultGround, Side } from '../../support/fault-ground.ts'
import { type Fault, type Point, sql } from './fault.ts'

/** Another run starts while the cutover stands at a point; what becomes of it does not matter. */
const beside = (action: string, at: Point, ...codes: string[]): Fault => ({
  topic: 'Two runs',
  name: `\`${action}\` starts`,
  from: 'caught-up',
  at,
  suiteOnly: true,
  // The cutover stands still meanwhile.
  inputs: { lease: '40s' },
  happens: (ground: FaultGround) => ground.run(action, { beside: true }),
  expect: codes.length ? ['cutover', ...codes] : 'go',
})

/** Whichever of what an abort removes is missed first. */
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
  topic: 'The lease of the fence',
  name: 'the runner stands still for longer than the lease',
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
  topic: 'The runner is killed, and the step is run again',
  name: 'the runner of `cutover` is killed',
  from: 'caught-up',
  at,
  killed: true,
  inputs: { lease: '4s' },
  expect: 'go',
})
const dies = (step: string, from: Fault['from'], side: Side, once: string, what: string): Fault => ({
  topic: 'The runner is killed, and the step is run again',
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

/** What people and runners do: die, stand still, act at once, or trust an old piece of evidence. */
export const OPERATOR_FAULTS: readonly Fault[] = [
  dies('prepare', 'fresh', 'source', "SELECT 1 FROM pg_trigger WHERE tgname = 'molt_actions_fence'", 'at the fence'),
  dies(
    'prepare',
    'fresh',
    'target',
    "SELECT 1 WHERE to_regclass('molt_actions.deferred') IS NOT NULL",
    'at the ledger',
  ),
  {
    ...dies('fetch', 'prepared', 'source', 'SELECT 1 FROM pg_replication_slots', 'when the slot is made'),
    expect: ['fetch', 'load.interrupted'],
  },
  {
    ...dies('fetch', 'prepared', 'target', 'SELECT 1 FROM customers LIMIT 1', 'half-way'),
    expect: ['fetch', 'load.interrupted'],
  },
  dies('replicate', 'loaded', 'source', 'SELECT 1 FROM pg_replication_slots WHERE active', 'while it streams'),
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
    'when the slot is dropped',
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
  // An abort gives the application its rights on the target back.
  ...(['caught up', 'verified', 'committing'] as const).map(
    (at): Fault => ({ ...beside('abort', at, ...ABORTED), open: ['source', 'target'] }),
  ),
  beside('abort', 'permanent on the source'),

  stale(
    'the approval is of another plan',
    'target',
    `UPDATE molt_actions.migrations SET phase = 'approved', facts = facts || '{"approval": {"planHash": "0"}}'`,
    'approval.plan-changed',
    'ledger.changed-by-hand',
  ),
  stale(
    'the ledger says that the migration is committed',
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
      'the heartbeat of the target is that of another source, until the next one comes',
      'target',
      'UPDATE molt_actions_heartbeat SET source_id = gen_random_uuid()',
    ),
    expect: 'go',
  },
  {
    ...stale('the replicator is not that of the plan', 'target', 'SELECT 1', 'tools.not-planned'),
    trick: { replicatorSays: [] },
  },
]
