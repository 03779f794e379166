import { DEFINITIONS, ROWS, UNSEEN } from '../../support/sabotage.ts'
import { type Fault, session, sql } from './fault.ts'

/** Faults before, during and after the load. */
export const LOAD_FAULTS: readonly Fault[] = [
  { topic: 'No fault', name: 'nothing goes wrong', from: 'prepared', expect: 'go' },
  ...DEFINITIONS.map(
    ([name, done]): Fault => ({
      topic: 'The schema before the load',
      name: `${name} on the target`,
      from: 'prepared',
      happens: sql('target', done),
      expect: ['fetch', 'schema.changed'],
    }),
  ),
  {
    topic: 'The schema before the load',
    name: 'a new table on the source',
    from: 'prepared',
    happens: sql('source', 'CREATE TABLE loyalty (id int PRIMARY KEY); INSERT INTO loyalty VALUES (1)'),
    expect: ['replicate', 'schema.changed'],
  },
  {
    topic: 'The load',
    name: "the filter's regular expression matches another table too",
    from: 'prepared',
    trick: { flags: { '--table-filter': 'orders' } },
    expect: ['fetch', 'load.incomplete'],
  },
  {
    topic: 'The load',
    name: 'the filter matches no table',
    from: 'prepared',
    trick: { flags: { '--table-filter': '^nothing$' } },
    expect: ['fetch', 'load.incomplete'],
    short: true,
  },
  {
    topic: 'The load',
    name: 'molt finds no rows in a table and reports zero',
    from: 'prepared',
    happens: sql(
      'target',
      `CREATE FUNCTION nowhere() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
       CREATE TRIGGER nowhere BEFORE INSERT ON reviews FOR EACH ROW EXECUTE FUNCTION nowhere()`,
    ),
    trick: { zero: 'reviews' },
    expect: ['fetch', 'schema.changed', 'load.incomplete'],
  },
  {
    topic: 'The load',
    name: 'molt exits without its completion record',
    from: 'prepared',
    trick: { drop: '"message":"fetch complete"' },
    expect: ['fetch', 'load.incomplete'],
  },
  {
    topic: 'The load',
    name: 'rows left on the target by an earlier attempt',
    from: 'prepared',
    happens: sql('target', "INSERT INTO categories (id, name) VALUES (4711, 'only here')"),
    expect: 'go',
  },
  {
    topic: 'The load',
    name: 'molt is killed midway',
    from: 'prepared',
    trick: { killAt: 'data extraction from source complete' },
    expect: ['fetch', 'tool.killed'],
  },
  {
    topic: 'The load',
    name: 'molt stalls midway',
    from: 'prepared',
    trick: { freezeAt: 'starting fetch' },
    expect: ['fetch', 'tool.stalled'],
  },
  {
    topic: 'The load',
    name: 'a slot with this name already exists',
    from: 'prepared',
    happens: sql('source', "SELECT pg_create_logical_replication_slot('molt_slot', 'pgoutput')"),
    expect: ['fetch', 'load.interrupted'],
  },
  {
    topic: 'The load',
    name: 'row-level security hides half of a table',
    from: 'prepared',
    happens: sql(
      'source',
      'ALTER TABLE reviews ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY half ON reviews USING (id % 2 = 0)',
    ),
    // These runs use superuser roles, which bypass every policy.
    expect: 'go',
  },
  {
    topic: "The target's rows after the load",
    name: 'a deleted row, before streaming starts',
    from: 'loaded',
    happens: sql('target', 'DELETE FROM categories WHERE id = 2'),
    expect: ['cutover', 'verify.differences'],
  },
  ...ROWS.map(
    ([name, , done], i): Fault => ({
      topic: "The target's rows after the load",
      name,
      from: 'caught-up',
      calm: true,
      happens: sql('target', done),
      expect: ['cutover', 'verify.differences'],
      ...(i === 0 && { short: true }),
    }),
  ),
  ...UNSEEN.map(
    ([name, , done]): Fault => ({
      topic: "The target's rows, while molt verify misreads both sides in the same way",
      name,
      from: 'caught-up',
      calm: true,
      happens: sql('target', done),
      trick: { blind: true },
      expect: ['cutover', 'verify.differences'],
    }),
  ),
  {
    topic: 'The verify',
    name: 'molt verify matches no table',
    from: 'caught-up',
    trick: { flags: { '--table-filter': '^nothing$' } },
    happens: sql('target', 'DELETE FROM reviews WHERE id = 7'),
    expect: ['cutover', 'verify.inconclusive', 'verify.differences'],
  },
  {
    topic: 'The verify',
    name: 'molt verify skips a table that it cannot verify',
    from: 'caught-up',
    trick: {
      says: ['{"level":"warn","message":"skipping unverifiable table public.categories"}'],
      drop: 'public.categories|"categories"',
    },
    happens: sql('target', 'DELETE FROM categories WHERE id = 2'),
    expect: ['cutover', 'verify.inconclusive', 'verify.differences'],
  },
  {
    topic: 'The verify',
    name: 'a shard of molt verify never finishes',
    from: 'caught-up',
    trick: { add: ['--table-splits', '3'], drop: 'finished .* public.customers \\(shard 2/3\\)' },
    expect: ['cutover', 'verify.inconclusive'],
  },
  {
    topic: 'The verify',
    name: 'molt verify is killed',
    from: 'caught-up',
    trick: { killAt: 'finished row verification' },
    expect: ['cutover', 'tool.killed'],
  },
  {
    topic: 'The load',
    name: 'a transaction opened before the load commits during it',
    from: 'prepared',
    before: session('source', "BEGIN; UPDATE categories SET name = name || '!' WHERE id = 1"),
    at: 'begin',
    happens: async (_, client) => {
      // The slot cannot be created until this transaction ends.
      setTimeout(() => void client?.query('COMMIT').catch(() => {}), 1_000)
    },
    expect: 'go',
  },
]
