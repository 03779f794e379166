import type { FaultGround } from '../../support/fault-ground.ts'
import { attempt, type Fault, type Point, session, sql } from './fault.ts'

const PAST = "INSERT INTO categories (id, name) VALUES (4712, 'past the fence')"
const OFF = 'ALTER TABLE categories DISABLE TRIGGER molt_actions_fence'
const ON = 'ALTER TABLE categories ENABLE ALWAYS TRIGGER molt_actions_fence'
const LIFT = "SELECT setval('molt_actions.fence_lease', 1)"
const RAISE =
  "SELECT setval('molt_actions.fence_lease', (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 10000)"

const fence = (name: string, at: Point, happens: NonNullable<Fault['happens']>, ...codes: string[]): Fault => ({
  topic: 'Writes past the fence',
  name,
  from: 'caught-up',
  at,
  happens,
  expect: codes.length ? ['cutover', ...codes] : 'go',
})

const rows = (name: string, at: Point, text: string, step: string, ...codes: string[]): Fault => ({
  topic: 'The target during the write pause',
  name,
  from: 'caught-up',
  at,
  happens: sql('target', text),
  expect: [step, ...codes],
})

const each = (code: '40001' | '40003'): Fault => ({
  topic: 'Retryable errors from the target',
  name: `each distinct statement fails once with ${code}`,
  from: 'prepared',
  happens: async (ground: FaultGround) => {
    ground.cluster.options.failEach = { code, application: 'molt-actions' }
  },
  expect: 'go',
})

/** Faults shortly before, during and after the write pause. */
export const NIGHT_FAULTS: readonly Fault[] = [
  fence('the application writes', 'armed', attempt('source', PAST, 'app')),
  fence('the owner writes as a superuser', 'armed', attempt('source', PAST)),
  fence('a new role writes', 'armed', async (ground) => {
    await ground.sql('source', "CREATE ROLE batch LOGIN PASSWORD 'postgres'; GRANT INSERT ON categories TO batch")
    await attempt('source', PAST, 'batch')(ground, undefined)
  }),
  fence(
    'a session with session_replication_role = replica writes',
    'armed',
    attempt('source', `SET session_replication_role = replica; ${PAST}`),
  ),
  fence('a table is truncated', 'armed', attempt('source', 'TRUNCATE cart_items')),
  {
    ...fence('a transaction with an old snapshot writes', 'armed', async (_, client) =>
      client?.query(PAST).catch(() => {}),
    ),
    before: session('source', 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM categories'),
  },
  {
    ...fence('a background job keeps writing', 'armed', async () => {}),
    before: async (ground) => {
      const client = await ground.client('source')
      let i = 5_000
      const again = () => {
        i++
        client.query(`INSERT INTO categories (id, name) VALUES (${i}, 'job')`).then(
          () => setTimeout(again, 40),
          (error) => error.code === '25006' && setTimeout(again, 40),
        )
      }
      again()
      return client
    },
  },
  {
    ...fence(
      'a fence trigger is disabled, and a row is written',
      'drained',
      sql('source', `${OFF}; ${PAST}`),
      'fence.damaged',
      'fence.not-holding',
      'fence.probe-passed',
    ),
    short: true,
  },
  fence(
    'a fence trigger is disabled for one write before the verify',
    'drained',
    sql('source', `${OFF}; ${PAST}; ${ON}`),
    'fence.damaged',
    'verify.differences',
    'verify.rows-lost',
  ),
  {
    ...fence(
      'a fence trigger is disabled for one write after the verify',
      'verified',
      sql('source', `${OFF}; ${PAST}; ${ON}`),
    ),
    expect: ['cutover', 'fence.damaged'],
  },
  fence(
    'the fence is lifted for one write, then armed again',
    'verified',
    sql('source', `${LIFT}; ${PAST}; ${RAISE}`),
    'fence.write-passed',
    'fence.changed-by-other',
    'fence.not-holding',
  ),
  fence(
    'the fence is lifted',
    'verified',
    sql('source', LIFT),
    'fence.lapsed',
    'fence.not-holding',
    'fence.changed-by-other',
    'fence.probe-passed',
  ),
  fence(
    "the fence's function is replaced",
    'armed',
    sql(
      'source',
      `CREATE OR REPLACE FUNCTION molt_actions.fence() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; ${PAST}`,
    ),
    'fence.damaged',
    'fence.not-holding',
    'fence.probe-passed',
    'verify.differences',
    'drain.not-proved',
  ),
  fence(
    'a table is replaced with a copy',
    'drained',
    sql(
      'source',
      'ALTER TABLE payments RENAME TO away; CREATE TABLE payments (LIKE away INCLUDING ALL); INSERT INTO payments SELECT * FROM away',
    ),
    'schema.changed',
    'fence.table-rewritten',
    'fence.damaged',
    'fence.not-holding',
    'verify.inconclusive',
  ),
  fence(
    "a column's type is changed on the source",
    'sequences set',
    sql('source', 'ALTER TABLE products ALTER price TYPE numeric(13,2)'),
    'schema.changed',
  ),
  fence(
    'a sequence advances',
    'sequences set',
    sql('source', "SELECT nextval('customers_id_seq') FROM generate_series(1, 200)"),
  ),

  rows(
    'a row is deleted before the first verify',
    'caught up',
    'DELETE FROM categories WHERE id = 2',
    'cutover',
    'verify.differences',
    'verify.rows-lost',
  ),
  rows(
    'a row is changed after the first verify',
    'before arming',
    "UPDATE categories SET name = 'changed here' WHERE id = 2",
    'cutover',
    'verify.differences',
    'verify.rows-lost',
  ),
  rows(
    'a row is added once the fence is armed',
    'armed',
    "INSERT INTO categories (id, name) VALUES (4711, 'only here')",
    'cutover',
    'verify.differences',
    'verify.rows-lost',
  ),
  rows(
    'a row is deleted before the verify',
    'drained',
    'DELETE FROM categories WHERE id = 2',
    'cutover',
    'verify.differences',
    'verify.rows-lost',
  ),
  rows(
    'rows are changed once the stream has stopped',
    'stream off',
    "UPDATE categories SET name = 'changed here' WHERE id IN (2, 3)",
    'cutover',
    'verify.differences',
    'verify.rows-lost',
  ),
  {
    ...rows(
      'a row is deleted after the verify',
      'verified',
      'DELETE FROM categories WHERE id = 2',
      'finalize',
      'verify.after-commit',
    ),
    short: true,
  },
  rows(
    'a row is added once the sequences are set',
    'sequences set',
    "INSERT INTO categories (id, name) VALUES (4711, 'only here')",
    'cutover',
    'verify.rows-lost',
    'finalize: verify.after-commit',
  ),
  rows(
    'a row is changed once the unique indexes are built',
    'unique indexes built',
    "UPDATE categories SET name = 'changed here' WHERE id = 2",
    'cutover',
    'verify.inconclusive',
    'verify.rows-lost',
    'finalize: verify.after-commit',
  ),
  rows(
    'a row is deleted right before the decision',
    'committing',
    'DELETE FROM categories WHERE id = 2',
    'finalize',
    'verify.after-commit',
  ),
  rows(
    'a role is granted INSERT on a table',
    'sequences set',
    'CREATE ROLE late; GRANT INSERT ON orders TO late',
    'cutover',
    'write-access.granted-early',
    'write-access.not-closed',
  ),
  rows(
    'a row is deleted once the source is permanently fenced',
    'permanent on the source',
    'DELETE FROM categories WHERE id = 2',
    'finalize',
    'verify.after-commit',
  ),
  {
    ...rows(
      'the evidence table is renamed',
      'drained',
      'ALTER TABLE molt_actions.evidence RENAME TO away',
      'cutover',
      'database.object-missing',
    ),
    // The record is written after the commit.
    open: ['target'],
  },

  each('40001'),
  each('40003'),
  {
    topic: 'After the switch',
    name: 'the fence is lifted, and the old application writes',
    from: 'caught-up',
    at: 'switched',
    happens: sql('source', `${LIFT}; ${PAST}`),
    expect: ['finalize', 'fence.damaged-after-commit', 'fence.removed-after-commit'],
    open: ['source', 'target'],
  },
  {
    topic: 'After the switch',
    name: 'a fence trigger is disabled for one write by the old application',
    from: 'caught-up',
    at: 'switched',
    happens: sql('source', `${OFF}; ${PAST}; ${ON}`),
    expect: ['finalize', 'verify.after-commit'],
  },
]
