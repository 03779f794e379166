import type { FaultGround, Side } from '../../support/fault-ground.ts'
import { type Fault, type Point, sql } from './fault.ts'

const server = (name: string, at: Point, happens: NonNullable<Fault['happens']>, ...codes: string[]): Fault => ({
  topic: 'Servers',
  name,
  from: 'caught-up',
  at,
  happens,
  expect: codes.length ? ['cutover', ...codes] : 'go',
})

const LOST = ['database.connection-lost', 'connect.failed', 'connect.not-ready']
const STREAM_LOST = [...LOST, 'drain.not-proved', 'stream.stuck.connection', 'hold.lost']
const FULL = ['database.out-of-resources', 'stream.stuck.other', 'drain.not-proved', 'hold.lost']

/** Takes all connections, including those that a server reserves for superusers. */
async function takeAllConnections(ground: FaultGround, side: Side): Promise<void> {
  for (;;)
    try {
      await ground.client(side)
    } catch (error) {
      if ((error as { code?: string }).code === '53300') return
      throw error
    }
}

const freeConnections = (ground: FaultGround) => ground.endClients()

async function fillDisk(ground: FaultGround): Promise<void> {
  ground.cluster.options.diskFull = true
}

async function freeDisk(ground: FaultGround): Promise<void> {
  ground.cluster.options.diskFull = false
}

/** Servers that restart, crash, go down, freeze, or run out of disk or connections, and a runner with a wrong clock. */
export const SERVER_FAULTS: readonly Fault[] = [
  server('the source restarts during streaming', 'caught up', (ground) => ground.source.restart('fast')),
  server('the source crashes during streaming', 'caught up', (ground) => ground.source.restart('immediate')),
  server('the target restarts during streaming', 'caught up', (ground) => ground.behind.restart('fast')),
  server('the target crashes during streaming', 'caught up', (ground) => ground.behind.restart('immediate')),
  server('the source goes down during streaming', 'caught up', (ground) => ground.source.kill(), ...STREAM_LOST),
  server('the target goes down during streaming', 'caught up', (ground) => ground.behind.kill(), ...STREAM_LOST),
  server('the source restarts during the write pause', 'drained', (ground) => ground.source.restart('fast'), ...LOST),
  server(
    'the source crashes during the write pause',
    'drained',
    (ground) => ground.source.restart('immediate'),
    ...LOST,
  ),
  server('the target restarts during the write pause', 'drained', (ground) => ground.behind.restart('fast'), ...LOST),
  server(
    'the target crashes during the write pause',
    'drained',
    (ground) => ground.behind.restart('immediate'),
    ...LOST,
  ),
  server('the source goes down during the write pause', 'drained', (ground) => ground.source.kill(), ...LOST),
  server('the target goes down during the write pause', 'armed', (ground) => ground.behind.kill(), ...STREAM_LOST),
  {
    ...server('the source goes down right after the decision', 'permanent on the source', (ground) =>
      ground.source.kill(),
    ),
    after: (ground) => ground.source.start(),
    again: LOST,
  },
  {
    ...server('the target goes down right after the decision', 'permanent on the source', (ground) =>
      ground.behind.kill(),
    ),
    after: (ground) => ground.behind.start(),
    again: LOST,
  },
  {
    ...server('the target crashes before write access is restored', 'committed', (ground) =>
      ground.behind.restart('immediate'),
    ),
    again: [...LOST, 'verify.after-commit-inconclusive'],
    // The like-server loses its past states in a crash; a cluster keeps them for `gc.ttlseconds`.
    expect: ['finalize', 'verify.after-commit-inconclusive'],
  },
  {
    ...server(
      'the target stops responding during the write pause',
      'drained',
      async (ground) => ground.behind.pause(),
      ...LOST,
      'pause.too-long',
      'database.session-timeout',
      'hold.lost',
    ),
    inputs: { 'max-pause': '15s' },
    after: async (ground) => ground.behind.resume(),
  },
  {
    ...server(
      'the source rejects new connections during the write pause',
      'drained',
      (ground) => ground.admin('source', 'ALTER DATABASE shop ALLOW_CONNECTIONS false'),
      'connect.not-allowed',
      'connect.failed',
      // When molt reports the rejected connection.
      'database.object-busy',
    ),
    after: (ground) => ground.admin('source', 'ALTER DATABASE shop ALLOW_CONNECTIONS true'),
  },
  ...(['source', 'target'] as const).flatMap((side): Fault[] => [
    {
      ...server(
        `the ${side} has no free connections`,
        'begin',
        (ground) => takeAllConnections(ground, side),
        'connect.no-free-slot',
        'connect.failed',
      ),
      after: freeConnections,
    },
    {
      ...server(
        `the ${side} has no free connections during the write pause`,
        'armed',
        (ground) => takeAllConnections(ground, side),
        'connect.no-free-slot',
        'connect.failed',
        'tool.failed',
        'verify.inconclusive',
        'drain.not-proved',
      ),
      after: freeConnections,
    },
  ]),
  { ...server("the target's disk is full", 'begin', fillDisk, ...FULL), after: freeDisk },
  { ...server("the target's disk is full during the write pause", 'drained', fillDisk, ...FULL), after: freeDisk },
  {
    ...server("the target's disk is full right after the decision", 'permanent on the source', fillDisk),
    again: FULL,
    after: freeDisk,
  },
  {
    ...server(
      "the slot's WAL exceeds max_slot_wal_keep_size and is removed",
      'begin',
      async (ground) => {
        await ground.stopApplication()
        await ground.sql('source', "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        await ground.sql('source', 'SELECT pg_reload_conf()')
        const grow = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 9000000)), pg_switch_wal()"
        for (let i = 0; i < 4; i++) await ground.sql('source', grow)
        await ground.sql('source', 'CHECKPOINT')
      },
      'slot.wal-lost',
      'stream.stuck.slot-invalid',
    ),
  },
  server('the source fails over to a standby that has the slot', 'begin', (ground) => ground.source.failOver()),
  ...[-7, 7].map(
    (hours): Fault => ({
      ...server(
        `the runner's clock is ${Math.abs(hours)} h ${hours < 0 ? 'behind' : 'ahead'}`,
        'begin',
        async () => {},
      ),
      from: 'prepared',
      hours,
      suiteOnly: true,
    }),
  ),
  {
    ...server(
      'the migration role loses its privileges on the source during streaming',
      'caught up',
      sql('source', 'ALTER ROLE mover NOSUPERUSER'),
      'database.missing-right',
      'stream.stuck.permission',
      'tool.failed',
    ),
    after: sql('source', 'ALTER ROLE mover SUPERUSER'),
  },
  {
    ...server(
      'the migration role loses its privileges on the source during the write pause',
      'drained',
      sql('source', 'ALTER ROLE mover NOSUPERUSER'),
      'database.missing-right',
      'tool.failed',
    ),
    after: sql('source', 'ALTER ROLE mover SUPERUSER'),
  },
  {
    ...server(
      'the migration role loses its privileges on the target during the write pause',
      'drained',
      sql('target', 'ALTER ROLE mover NOSUPERUSER'),
      'database.missing-right',
      'tool.failed',
    ),
    after: sql('target', 'ALTER ROLE mover SUPERUSER'),
  },
  {
    ...server(
      'the migration role loses its privileges on the target right after the decision',
      'permanent on the source',
      sql('target', 'ALTER ROLE mover NOSUPERUSER'),
    ),
    after: sql('target', 'ALTER ROLE mover SUPERUSER'),
    again: ['write-access.missing', 'database.missing-right'],
  },
  server(
    "the migration's sessions on the source are terminated during streaming",
    'caught up',
    sql('source', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mover'"),
  ),
  server(
    'the connection that reads the slot is terminated during the write pause',
    'armed',
    sql('source', 'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active'),
  ),
  server('the application holds 40 connections to each server', 'begin', async (ground) => {
    for (let i = 0; i < 40; i++) await Promise.all([ground.client('source', 'app'), ground.client('target', 'app')])
  }),
]
