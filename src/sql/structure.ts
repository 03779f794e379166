import { isShardCheck } from '../model/schema.ts'
import type { Constraint, Index, SequenceState } from '../model/structure.ts'
import type { Database, Side as DatabaseSide } from '../runtime/database.ts'
import { readSchema } from './schema.ts'
import {
  lastUsed,
  readSequences,
  type Sequence,
  type Side,
  unfitSequence,
  unfitText,
  wantedSequences,
} from './sequences.ts'

/** Indexes beside the primary key, checks and foreign keys of a schema's tables, in what both servers tell of them. */
export async function readStructure(
  db: Database,
  side: DatabaseSide,
  name: string,
): Promise<{ indexes: Index[]; constraints: Constraint[] }> {
  const schema = await readSchema(db, side, name)
  return {
    indexes: schema.indexes
      .filter(({ primary }) => !primary)
      .map(({ columns, table, name, unique, valid, partial }) => ({
        table,
        name,
        unique,
        valid,
        partial,
        columns: columns.map((column) => column || '(expression)'),
      })),
    constraints: schema.constraints
      .filter((each) => each.schema === name && /[cf]/.test(each.kind) && !isShardCheck(each))
      .map(({ table, name, kind, validated, columns, references }) => ({
        table,
        name,
        kind: kind === 'f' ? 'foreign key' : 'check',
        validated,
        columns: columns.toSorted(),
        references: references?.table ?? null,
      })),
  }
}

/** What the next number of every sequence of the source would be on the target, and what is used up already. */
export async function readSequenceStates(
  source: Side,
  target: Side,
  tables: readonly string[],
): Promise<SequenceState[]> {
  const states: SequenceState[] = []
  const wanted = await wantedSequences(source, target, tables)
  const usedOf = await lastUsed(
    wanted.map(({ sequence }) => sequence),
    ...[source, target],
  )
  // After the numbers in use: an application that writes to the target draws from its sequences all the time.
  const now = new Map((await readSequences(target.db, target.schema)).map((each) => [each.name, each]))
  for (const { sequence, there: other } of wanted) {
    const { name, increment, table } = sequence
    const used = usedOf.get(name) ?? null
    const unfit = other && unfitSequence(sequence, other, target.schema, used)
    states.push({
      name,
      table,
      increment,
      // One that cycles goes back at its end: nothing is behind.
      used: sequence.cycle ? undefined : (used ?? undefined),
      next: other && (await nextValue(target.db, target.schema, now.get(other.name) ?? other)),
      unfit: unfit && unfitText(unfit),
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
