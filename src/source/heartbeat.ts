import { randomUUID } from 'node:crypto'
import { type Database, isMissingTable, qualified, relationExists, type Side } from '../runtime/database.ts'
import { VerdictError } from '../runtime/errors.ts'

/** Schema of all our objects on the source. */
export const OUR_SCHEMA = 'molt_actions'

/**
 * Name of the heartbeat's table. On the target, it is in the schema of the migrated tables, because the stream ignores
 * the source's schema.
 */
export const HEARTBEAT = 'molt_actions_heartbeat'

const COLUMNS =
  'id INT PRIMARY KEY, migration TEXT NOT NULL, source_id TEXT NOT NULL, beat INT8 NOT NULL, marker TEXT NOT NULL'

/**
 * Creates the heartbeat on the source, a table with one row, unless it exists.
 * @returns the migration that owns the heartbeat, and the random id that distinguishes this database from a clone
 */
export async function createHeartbeat(
  db: Database,
  migration: string,
): Promise<{ migration: string; sourceId: string }> {
  await db.query(`CREATE SCHEMA IF NOT EXISTS ${OUR_SCHEMA}`)
  await db.query(`CREATE TABLE IF NOT EXISTS ${OUR_SCHEMA}.${HEARTBEAT} (${COLUMNS})`)
  await db.query(`INSERT INTO ${OUR_SCHEMA}.${HEARTBEAT} VALUES (1, $1, $2, 0, '') ON CONFLICT (id) DO NOTHING`, [
    migration,
    randomUUID(),
  ])
  const owner = await readHeartbeatOwner(db)
  if (!owner)
    throw new VerdictError(
      'heartbeat.missing',
      `the row of ${OUR_SCHEMA}.${HEARTBEAT} on the source disappeared right after it was written. Drop the trigger, rule or policy that removes it`,
    )
  return owner
}

/**
 * Reads which migration this source database belongs to; undefined if none.
 * @param there whether the heartbeat exists, if the caller knows
 */
export async function readHeartbeatOwner(
  db: Database,
  there?: boolean,
): Promise<{ migration: string; sourceId: string } | undefined> {
  if (!(there ?? (await relationExists(db, `${OUR_SCHEMA}.${HEARTBEAT}`)))) return undefined
  const { rows } = await db.query(
    `SELECT migration, source_id AS "sourceId" FROM ${OUR_SCHEMA}.${HEARTBEAT} WHERE id = 1`,
  )
  return rows[0]
}

/**
 * Creates the heartbeat's table on the target, which the stream fills. Deletes a row from another source, because its
 * beat could be ahead of ours.
 */
export async function createTargetHeartbeat(db: Database, schema: string, sourceId: string): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${qualified(schema, HEARTBEAT)} (${COLUMNS})`)
  await db.query(`DELETE FROM ${qualified(schema, HEARTBEAT)} WHERE source_id <> $1`, [sourceId])
}

/**
 * Writes the next beat and a marker on the source.
 * @returns the beat's number, which never decreases
 */
export async function writeMarker(db: Database, marker: string): Promise<number> {
  return beatOf(
    db.query(`UPDATE ${OUR_SCHEMA}.${HEARTBEAT} SET beat = beat + 1, marker = $1 WHERE id = 1 RETURNING beat`, [
      marker,
    ]),
  )
}

/** Reads the number of the last beat on the source. */
export async function readBeat(db: Database): Promise<number> {
  return beatOf(db.query(`SELECT beat FROM ${OUR_SCHEMA}.${HEARTBEAT} WHERE id = 1`))
}

async function beatOf(query: Promise<{ rows: { beat: string }[] }>): Promise<number> {
  const { rows } = await query.catch((error) => throwGone(error, 'source'))
  if (!rows[0]) throw heartbeatGone('source')
  return Number(rows[0].beat)
}

/** Reads the last heartbeat that has reached the target. */
export async function readMarker(db: Database, schema: string): Promise<{ beat: number; marker: string } | undefined> {
  const { rows } = await db
    .query(`SELECT beat, marker FROM ${qualified(schema, HEARTBEAT)} WHERE id = 1`)
    .catch((error) => throwGone(error, 'target'))
  return rows[0] && { beat: Number(rows[0].beat), marker: rows[0].marker }
}

function throwGone(error: unknown, side: Side): never {
  throw isMissingTable(error) ? heartbeatGone(side) : error
}

export function heartbeatGone(side: Side): VerdictError {
  return new VerdictError(
    'heartbeat.missing',
    `the heartbeat on the ${side} is missing: \`abort\` or \`cleanup\` has run, or its row was deleted. Without it, there is no proof of what has reached the target. Prepare and load again`,
  )
}
