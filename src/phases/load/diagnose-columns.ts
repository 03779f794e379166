import type { Plan } from '../../model/plan.ts'
import { type Database, ident, qualified, withDatabase } from '../../runtime/database.ts'
import { number, someOf } from '../../runtime/progress.ts'
import { TIMING } from '../../runtime/timing.ts'
import { countRows, readTables } from '../../sql/tables.ts'

const SHOWN = 10

/**
 * Finds the columns that molt's last output is about, if it names none. The molt of March 2024 panics with
 * `pgtype.InfinityModifier` on an infinite timestamp, and with `Cannot create a Decimal from NaN` on a NaN float. For
 * an unsupported type, it prints only the OID or the type's name [run].
 * @param said molt's last output
 * @returns a sentence for the error; undefined if the output is about another problem or no such column is found
 */
export async function explainColumns(sourceUrl: string, plan: Plan, said: string): Promise<string | undefined> {
  const look = DIAGNOSES.find(([regex]) => regex.test(said))
  if (!look) return undefined
  const [regex, find, words] = look
  const found = await withDatabase(sourceUrl, 'source', (db) => find(db, plan, regex.exec(said)?.[1] ?? '')).catch(
    () => [],
  )
  if (!found.length) return undefined
  return words(someOf(found, SHOWN))
}

/** Matches output about a value that molt or the target rejects. */
const NAMELESS = /SQLSTATE 22\w{3}|unmarshal|encode|scan|Decimal|InfinityModifier/

/**
 * Names the tables that were incomplete when a value made the load fail: the value is in one of them.
 * @returns a sentence; undefined if the output is about another problem or names a table, or if counting takes too long
 */
export async function explainUnfinished(source: Database, target: Database, plan: Plan, said: string) {
  if (!NAMELESS.test(said) || /relation "/.test(said)) return undefined
  const until = performance.now() + TIMING.columnLook
  const part: string[] = []
  for (const table of plan.tables) {
    if (performance.now() > until) return undefined
    const [here, there] = [
      await countRows(source, plan.sourceSchema, table),
      await countRows(target, plan.targetSchema, table),
    ]
    if (there < here) part.push(`${plan.sourceSchema}.${table} (${number(there)} of ${number(here)} rows)`)
  }
  return part.length
    ? `The value is in one of the tables that are not fully loaded: ${someOf(part, SHOWN)}. Look for an extreme value in these tables, exclude the table, or use a newer molt.`
    : undefined
}

type Find = (db: Database, plan: Plan, detail: string) => Promise<string[]>

const DIAGNOSES: [RegExp, Find, (columns: string) => string][] = [
  [
    /InfinityModifier/,
    (db, plan) =>
      columnsWith(db, plan, /^(date|timestamp)(?!.*\[\])/, (column) => `NOT pg_catalog.isfinite(${column})`),
    (columns) =>
      `This version of molt cannot move infinite values, and ${columns} on the source has some. Where \`isfinite\` is false, write NULL or a date in the far future, or use molt 1.1.3 or newer.`,
  ],
  [
    /Cannot create a Decimal from/,
    (db, plan) =>
      columnsWith(db, plan, /^(double precision|real)$/, (column) => `${column}::text ~ '^(NaN|-?Infinity)$'`),
    (columns) =>
      `This version of molt cannot move NaN or infinity, and ${columns} on the source has such values. Replace them with NULL or a number, or use a newer molt.`,
  ],
  [/type OID (\d+)/, (db, plan, oid) => columnsOfType(db, plan, 't.oid = $3::oid', oid), ofType],
  [
    /error loading type (.+?): array element OID/,
    (db, plan, name) => columnsOfType(db, plan, 'pg_catalog.format_type(t.oid, NULL) = $3', name),
    ofType,
  ],
]

function ofType(columns: string): string {
  return `Columns of that type: ${columns}.`
}

/**
 * Columns with a value for which `test` is true, as `schema.table.column`. Skips a table that takes too long to read.
 */
async function columnsWith(
  db: Database,
  plan: Plan,
  type: RegExp,
  test: (column: string) => string,
): Promise<string[]> {
  const until = performance.now() + TIMING.columnLook
  const found: string[] = []
  for (const { name, columns } of await readTables(db, plan.sourceSchema)) {
    const asked = columns.filter((column) => type.test(column.type))
    const left = Math.round(until - performance.now())
    if (!plan.tables.includes(name) || !asked.length || left <= 0) continue
    const tests = asked.map((column) => `coalesce(bool_or(${test(ident(column.name))}), false)`)
    const text = `SELECT ${tests.join(', ')} FROM ${qualified(plan.sourceSchema, name)}`
    await db.query(`SET statement_timeout = ${left}`)
    const { rows } = await db.query<boolean[]>({ text, rowMode: 'array' }).catch(() => ({ rows: [] }))
    found.push(...asked.filter((_, at) => rows[0]?.[at]).map((column) => `${plan.sourceSchema}.${name}.${column.name}`))
  }
  return found
}

/** The plan's columns whose type, or element type, matches, as `schema.table.column (type)`. */
async function columnsOfType(db: Database, plan: Plan, which: string, detail: string): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT n.nspname || '.' || c.relname || '.' || a.attname || ' (' || pg_catalog.format_type(a.atttypid, a.atttypmod) || ')' AS what
       FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       JOIN pg_catalog.pg_type own ON own.oid = a.atttypid
       JOIN pg_catalog.pg_type t ON t.oid = own.oid OR t.oid = own.typelem
      WHERE n.nspname = $1 AND c.relname = ANY($2) AND a.attnum > 0 AND NOT a.attisdropped AND ${which}
      ORDER BY c.relname, a.attnum`,
    [plan.sourceSchema, plan.tables, detail],
  )
  return rows.map(({ what }) => what)
}
