import { createHash } from 'node:crypto'
import { info } from '@actions/core'
import type { Conversion, Statement } from '../../conversion/work.ts'
import { type Captured, dropOnCockroach, recordDeferred } from '../../destination/deferral.ts'
import { unlockTables } from '../../destination/schema-lock.ts'
import { createLedger, readEntryIfAny } from '../../ledger/ledger.ts'
import { type Database, sqlState, unhurried } from '../../runtime/database.ts'
import { refuse, VerdictError } from '../../runtime/errors.ts'

const APPLIED = 'molt_actions.applied'

/** Statement counts of an {@link applyConversion} run. */
export interface Applied {
  /** Statements that this run has executed. */
  ran: number
  /** Statements that an earlier run had executed. */
  before: number
  /** Indexes and constraints recorded in the ledger, for the cutover and `finalize` to build. */
  deferred: number
}

/**
 * Creates types, sequences and tables on an empty target, and records indexes and constraints in the ledger, as if
 * `prepare` had dropped them. Records each statement before and after it runs, so that a rerun resumes where a killed
 * run stopped. Drops nothing.
 * @throws VerdictError when the schema has other tables, or tables that an earlier run created with other definitions
 */
export async function applyConversion(db: Database, migration: string, conversion: Conversion): Promise<Applied> {
  await createLedger(db)
  await requireEarly(db, migration)
  await db.query(`CREATE TABLE IF NOT EXISTS ${APPLIED} (
    migration TEXT NOT NULL, sha256 TEXT NOT NULL, began_at TIMESTAMPTZ NOT NULL DEFAULT now(), done_at TIMESTAMPTZ,
    PRIMARY KEY (migration, sha256))`)
  const { rows } = await db.query(`SELECT sha256, done_at IS NOT NULL AS done FROM ${APPLIED} WHERE migration = $1`, [
    migration,
  ])
  const known = new Map(rows.map(({ sha256, done }) => [sha256 as string, done as boolean]))
  if (!known.size) await requireEmpty(db, conversion.schema)
  let ran = 0
  for (const { sql } of conversion.tables) {
    const sha256 = createHash('sha256').update(sql).digest('hex')
    if (known.get(sha256)) continue
    await runOnce(db, migration, { sql, sha256, began: known.has(sha256) })
    ran++
  }
  const objects = deferredOf(conversion)
  await recordDeferred(db, migration, objects)
  const { schema } = conversion
  if (objects.length)
    await unlockTables(
      db,
      migration,
      (await tableNames(db, schema)).map((table) => ({ schema, table })),
    )
  return { ran, before: conversion.tables.length - ran, deferred: objects.length }
}

/** Requires that the load has not begun: a table created later would not be part of the plan. */
async function requireEarly(db: Database, migration: string): Promise<void> {
  const entry = await readEntryIfAny(db, migration)
  if (!entry || entry.phase === 'planned' || entry.phase === 'prepared') return
  throw new VerdictError(
    'convert.too-late',
    `migration \`${migration}\` is ${entry.phase}, and tables are created only before the load. Run \`convert\` without \`apply\` to see what has changed`,
  )
}

async function tableNames(db: Database, schema: string): Promise<string[]> {
  const { rows } = await db.query<{ name: string }>(
    `SELECT table_name AS name FROM information_schema.tables
      WHERE table_schema = $1 AND table_type = 'BASE TABLE' ORDER BY table_name`,
    [schema],
  )
  return rows.map(({ name }) => name)
}

async function requireEmpty(db: Database, schema: string): Promise<void> {
  const tables = await tableNames(db, schema)
  if (tables.length)
    refuse(
      'convert.target-not-empty',
      `the schema ${schema} on the target already has tables`,
      tables.map((name) => `${schema}.${name}`),
      'Nothing was created. Point `target` at an empty database, or create the missing objects from `1-tables.sql` by hand.',
    )
}

/** SQLSTATEs of a table, type, schema or other object that already exists. */
const EXISTS = new Set(['42P07', '42710', '42P06'])

async function runOnce(
  db: Database,
  migration: string,
  { sql, sha256, began }: { sql: string; sha256: string; began: boolean },
): Promise<void> {
  info(sql)
  if (!began) await db.query(`INSERT INTO ${APPLIED} (migration, sha256) VALUES ($1, $2)`, [migration, sha256])
  try {
    await unhurried(db, () => db.query(sql))
  } catch (error) {
    const exists = EXISTS.has(sqlState(error) ?? '')
    if (!exists && !began)
      await db.query(`DELETE FROM ${APPLIED} WHERE migration = $1 AND sha256 = $2`, [migration, sha256])
    if (!exists) throw error
    if (!began) await refuseOther(db, migration, sha256, sql)
  }
  await db.query(`UPDATE ${APPLIED} SET done_at = now() WHERE migration = $1 AND sha256 = $2`, [migration, sha256])
}

async function refuseOther(db: Database, migration: string, sha256: string, sql: string): Promise<never> {
  await db.query(`DELETE FROM ${APPLIED} WHERE migration = $1 AND sha256 = $2`, [migration, sha256])
  throw new VerdictError(
    'convert.object-exists',
    `the target already has an object with this name: ${sql.split('\n')[0]}\nEither the source has changed since an earlier \`apply\`, or another user created the object. Nothing was dropped. Change the object by hand, or drop it and run \`convert\` again`,
  )
}

/** The statements from 2-indexes.sql and 3-constraints.sql, each with its COMMENT ON statements. */
function deferredOf({ schema, indexes, constraints }: Conversion): Captured[] {
  const found: Captured[] = []
  for (const { sql, deferred } of [...indexes, ...constraints]) {
    const last = found.at(-1)
    if (deferred) found.push(capturedOf(schema, sql, deferred))
    else if (last && /^COMMENT ON /.test(sql)) last.comments.push(sql)
  }
  return found
}

function capturedOf(schema: string, create: string, deferred: NonNullable<Statement['deferred']>): Captured {
  const { kind, table, name, validate } = deferred
  const drop = dropOnCockroach({ kind, schema, table, name })
  const valid = validate || kind === 'index' || kind === 'unique'
  return { kind, schema, table, name, create, drop, valid, comments: [] }
}
