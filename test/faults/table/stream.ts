import { type Fault, session, sql } from './fault.ts'

const source = (name: string, text: string, ...codes: string[]): Fault => ({
  topic: 'The source during streaming',
  name,
  from: 'caught-up',
  happens: sql('source', text),
  expect: codes.length ? ['cutover', ...codes] : 'go',
})
const target = (name: string, text: string, ...codes: string[]): Fault => ({
  topic: 'The target during streaming',
  name,
  from: 'caught-up',
  happens: sql('target', text),
  expect: ['cutover', ...codes],
})
const slot = (name: string, text: string, ...codes: string[]): Fault => ({
  topic: 'Slot, publication and heartbeat',
  name,
  from: 'caught-up',
  happens: sql('source', text),
  expect: ['cutover', ...codes],
})

/** Changes during streaming: to the source, to the target, and to the slot, publication and heartbeat. */
export const STREAM_FAULTS: readonly Fault[] = [
  { ...source('a table is truncated', 'TRUNCATE cart_items', 'source.truncated'), short: true },
  source('a column is added', "ALTER TABLE reviews ADD COLUMN mood text DEFAULT 'x'", 'schema.changed'),
  source('a column is dropped', 'ALTER TABLE reviews DROP COLUMN votes', 'schema.changed'),
  source('a column is renamed', 'ALTER TABLE reviews RENAME COLUMN title TO headline', 'schema.changed'),
  source("a column's type is changed", 'ALTER TABLE products ALTER price TYPE numeric(13,2)', 'schema.changed'),
  source(
    'a table is added',
    'CREATE TABLE loyalty (id int PRIMARY KEY); INSERT INTO loyalty VALUES (1)',
    'schema.changed',
  ),
  source('a table is dropped', 'DROP TABLE "OrderNotes"', 'schema.changed'),
  source('an enum label is renamed', "ALTER TYPE order_status RENAME VALUE 'paid' TO 'settled'", 'schema.changed'),
  source(
    'a table is set to REPLICA IDENTITY FULL',
    'ALTER TABLE reviews REPLICA IDENTITY FULL; DELETE FROM reviews WHERE id = 5',
    'schema.changed',
    'stream.stuck.identity',
  ),
  source(
    'an update leaves a TOASTed value unchanged',
    `ALTER TABLE reviews ALTER body SET STORAGE EXTERNAL; UPDATE reviews SET body = repeat('x', 9000) WHERE id = 3;
     UPDATE reviews SET rating = 6 - rating WHERE id = 3`,
    'stream.stuck.toast',
  ),
  source(
    'a primary key is updated',
    "UPDATE inventory SET warehouse = 'moved' WHERE product_id = 1 AND warehouse = 'Antwerpen'",
    'verify.differences',
  ),
  source(
    'a transaction updates the unique column of two rows',
    `BEGIN; UPDATE customers SET email = 'swap' WHERE id = 1; UPDATE customers SET email = 'other' WHERE id = 2;
     UPDATE customers SET email = 'swapped' WHERE id = 1; COMMIT`,
  ),
  source(
    'a transaction inserts 20,000 rows',
    `INSERT INTO cart_items (session, product_id) SELECT gen_random_uuid(), 1 FROM generate_series(1, 20000)`,
  ),
  source('VACUUM FULL rewrites a table', 'VACUUM FULL reviews'),
  {
    ...source('a transaction with uncommitted writes stays open', ''),
    before: session('source', 'BEGIN; UPDATE categories SET name = name WHERE id = 2'),
    happens: async () => {},
    expect: ['cutover', 'fence.writers-remain'],
  },
  {
    ...source('a prepared transaction stays open', ''),
    before: session('source', "BEGIN; UPDATE categories SET name = name WHERE id = 2; PREPARE TRANSACTION 'p'"),
    happens: async () => {},
    after: sql('source', "ROLLBACK PREPARED 'p'"),
    expect: ['cutover', 'fence.writers-remain'],
  },
  target('a column is added', "ALTER TABLE reviews ADD COLUMN mood text DEFAULT 'x'", 'schema.changed'),
  target('a column is dropped', 'ALTER TABLE reviews DROP COLUMN votes', 'schema.changed'),
  target("a column's type is changed", 'ALTER TABLE products ALTER price TYPE numeric(13,2)', 'schema.changed'),
  target('a table is renamed', 'ALTER TABLE reviews RENAME TO away', 'schema.changed'),
  target(
    "a primary key's columns are reordered",
    'ALTER TABLE cart_items DROP CONSTRAINT cart_items_pkey, ADD PRIMARY KEY (product_id, session)',
    'schema.changed',
  ),
  target(
    'a key column becomes GENERATED ALWAYS',
    'ALTER TABLE reviews ALTER id DROP DEFAULT; ALTER TABLE reviews ALTER id ADD GENERATED ALWAYS AS IDENTITY',
    'schema.changed',
    'stream.stuck.identity-always',
  ),
  target(
    'a trigger discards inserted rows',
    `CREATE FUNCTION nowhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
     CREATE TRIGGER nowhere BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION nowhere()`,
    'schema.changed',
  ),
  target(
    'a role is granted INSERT on a table',
    'CREATE ROLE late; GRANT INSERT ON orders TO late',
    'write-access.not-closed',
    'write-access.granted-early',
  ),
  target(
    'the stored definition of a deferred index is deleted',
    "DELETE FROM molt_actions.deferred WHERE name = 'customers_email_key'",
    'deferral.not-captured',
    'deferral.not-restored',
    'ledger.changed-by-hand',
  ),
  target(
    'the plan in the ledger is changed',
    `UPDATE molt_actions.migrations SET plan = plan || '{"finalVerify": "tables"}'`,
    'ledger.changed-by-hand',
  ),
  target("the migration's ledger entry is deleted", 'DELETE FROM molt_actions.migrations', 'ledger.no-migration'),
  slot('the slot is dropped', "SELECT pg_drop_replication_slot('molt_slot')", 'slot.missing'),
  slot(
    'the slot is dropped and recreated',
    "SELECT pg_drop_replication_slot('molt_slot'); SELECT pg_create_logical_replication_slot('molt_slot', 'pgoutput')",
    'stream.not-continuous',
    'slot.recreated',
  ),
  {
    ...slot('the slot is advanced past unread changes', '', 'stream.not-continuous'),
    happens: sql(
      'source',
      "UPDATE categories SET name = name || '!'; SELECT pg_replication_slot_advance('molt_slot', pg_current_wal_lsn())",
    ),
    short: true,
  },
  slot('the publication is dropped', 'DROP PUBLICATION molt_fetch', 'publication.unfit'),
  slot(
    'the publication is dropped and recreated',
    `DROP PUBLICATION molt_fetch; UPDATE categories SET name = name || '!' WHERE id = 2;
     CREATE PUBLICATION molt_fetch FOR ALL TABLES`,
    'publication.changed',
    'publication.unfit',
    'publication.dropped',
    'stream.stuck.publication',
  ),
  slot(
    'a table is removed from the publication',
    'ALTER PUBLICATION molt_fetch DROP TABLE reviews; UPDATE reviews SET rating = 1 WHERE id = 3',
    'publication.changed',
    'publication.unfit',
  ),
  slot(
    'the publication stops sending deletes',
    "ALTER PUBLICATION molt_fetch SET (publish = 'insert, update'); DELETE FROM reviews WHERE id = 4",
    'publication.changed',
    'publication.unfit',
  ),
  slot('the heartbeat row is deleted', 'DELETE FROM molt_actions.molt_actions_heartbeat', 'heartbeat.missing'),
  slot(
    "the source's heartbeat is set back",
    'UPDATE molt_actions.molt_actions_heartbeat SET beat = 0',
    'heartbeat.changed',
  ),
  slot(
    'the heartbeat table is removed from the publication',
    'ALTER PUBLICATION molt_fetch DROP TABLE molt_actions.molt_actions_heartbeat',
    'publication.changed',
    'publication.unfit',
  ),
  {
    ...slot("the target's heartbeat is set ahead", '', 'heartbeat.changed'),
    happens: sql('target', 'UPDATE molt_actions_heartbeat SET beat = 1000000000'),
  },
  {
    ...slot('another process is reading the slot', '', 'slot.in-use'),
    before: async (ground) => {
      const client = await ground.client('source', 'postgres', '&replication=database&application_name=thief')
      client
        .query(`START_REPLICATION SLOT molt_slot LOGICAL 0/0 (proto_version '1', publication_names 'molt_fetch')`)
        .catch(() => {})
      return client
    },
    happens: async () => {},
  },
]
