import type { Constraint, Index, SequenceState } from '../model/structure.ts'
import type { Database } from '../runtime/database.ts'
import { lastUsed, type Sequence, type Side, unfitSequence, wantedSequences } from './sequences.ts'

/** Columns of a schema's tables by table oid and attribute number. */
async function columnNames(db: Database, schema: string): Promise<Map<string, string>> {
  const { rows } = await db.query(
    `SELECT a.attrelid AS oid, a.attnum AS number, a.attname AS name
       FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND a.attnum > 0`,
    [schema],
  )
  return new Map(rows.map(({ oid, number, name }) => [`${oid}.${number}`, name]))
}

/** Indexes that are not the primary key, in what both servers' catalogs tell of them. */
export async function readIndexes(db: Database, schema: string): Promise<Index[]> {
  const { rows } = await db.query(
    `SELECT t.oid, t.relname AS table, c.relname AS name, i.indisunique AS unique, i.indisvalid AS valid,
            i.indkey::text AS key, i.indnkeyatts AS count, i.indpred IS NOT NULL AS partial
       FROM pg_catalog.pg_index i
       JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
       JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
      WHERE n.nspname = $1 AND NOT i.indisprimary AND t.relkind IN ('r', 'p') AND NOT t.relispartition
      ORDER BY 2, 3`,
    [schema],
  )
  const names = await columnNames(db, schema)
  return rows.map(({ oid, key, count, ...index }) => ({
    ...index,
    columns: String(key)
      .split(' ')
      .filter(Boolean)
      .slice(0, Number(count))
      .map((number) => names.get(`${oid}.${number}`) ?? '(expression)'),
  }))
}

/** CHECK and foreign key constraints. */
export async function readConstraints(db: Database, schema: string): Promise<Constraint[]> {
  const { rows } = await db.query(
    `SELECT t.oid, t.relname AS table, o.conname AS name, o.contype AS kind, o.convalidated AS validated,
            o.conkey AS key, r.relname AS references
       FROM pg_catalog.pg_constraint o
       JOIN pg_catalog.pg_class t ON t.oid = o.conrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
       LEFT JOIN pg_catalog.pg_class r ON r.oid = o.confrelid AND o.contype = 'f'
      WHERE n.nspname = $1 AND o.contype IN ('c', 'f') AND NOT t.relispartition
      ORDER BY 2, 3`,
    [schema],
  )
  const names = await columnNames(db, schema)
  return rows.map(({ oid, key, kind, ...constraint }) => ({
    ...constraint,
    kind: kind === 'f' ? 'foreign key' : 'check',
    columns: ((key ?? []) as number[]).map((number) => names.get(`${oid}.${number}`) ?? '').sort(),
  }))
}

/** What the next number of every sequence of the source would be on the target, and what is used up already. */
export async function readSequenceStates(
  source: Side,
  target: Side,
  tables: readonly string[],
): Promise<SequenceState[]> {
  const states: SequenceState[] = []
  for (const { sequence, there: other } of await wantedSequences(source, target, tables)) {
    const { name, increment, table } = sequence
    const used = await lastUsed(sequence, source, target)
    states.push({
      ...{ name, table, increment },
      used: used ?? undefined,
      next: other && (await nextValue(target.db, target.schema, other)),
      unfit: other && unfitSequence(sequence, other, target.schema, used),
    })
  }
  return states
}

/** Reads it without using a number up. */
async function nextValue(db: Database, schema: string, sequence: Sequence): Promise<bigint> {
  if (sequence.lastValue !== null) return sequence.lastValue + sequence.increment
  const { rows } = await db.query(
    'SELECT start_value::text AS value FROM pg_catalog.pg_sequences WHERE schemaname = $1 AND sequencename = $2',
    [schema, sequence.name],
  )
  return BigInt(rows[0].value)
}
