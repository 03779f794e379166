import { setTimeout as sleep } from 'node:timers/promises'
import { type Constraint, type Index, isShardCheck, type Schema } from '../model/schema.ts'
import {
  type Database,
  ident,
  isMissingTable,
  literal,
  qualified,
  queryAll,
  rowsIfAny,
  sqlState,
  unhurried,
} from '../runtime/database.ts'
import { allEnded, messageOf, refuse, VerdictError } from '../runtime/errors.ts'
import { seconds } from '../runtime/progress.ts'
import { TIMING } from '../runtime/timing.ts'
import { readSchema } from '../sql/schema.ts'
import { unlockTables } from './schema-lock.ts'

/*
 * Objects that slow down the load or could stop the stream are dropped on the target before the load, and rebuilt
 * later. Each object's DDL is written to the ledger before the drop, and the drop itself afterwards. Whether an object
 * exists is always read from the catalog, so every step can be repeated.
 */

/** Objects are dropped in this order, and rebuilt in reverse order. */
export const DEFERRED_KINDS = ['foreign-key', 'check', 'unique', 'index'] as const
export type DeferredKind = (typeof DEFERRED_KINDS)[number]

export interface Deferral {
  indexes: boolean
  constraints: boolean
  /**
   * The user's assurance that no unique value ever moves from one row to another, so unique indexes do not block the
   * stream.
   */
  uniqueAfterLoad?: boolean
}

/**
 * An object of the target whose definition has been captured. `kind` decides when it is rebuilt; for unique indexes,
 * see {@link Deferral}.
 */
export interface Deferred {
  kind: DeferredKind
  schema: string
  table: string
  name: string
  /**
   * The statement that rebuilds it. Foreign keys and checks are added as NOT VALID, so that nothing waits for a scan.
   */
  create: string
  drop: string
  dropped: boolean
  rebuilt: boolean
  /** False for a constraint that was NOT VALID when it was captured. It stays NOT VALID. */
  valid: boolean
  /** Statements that restore its comments. */
  comments: string[]
}

/** An object as it is stored in the ledger. */
export type Captured = Omit<Deferred, 'dropped' | 'rebuilt'>

/** What identifies a captured object. */
export type DeferredName = Pick<Deferred, 'kind' | 'schema' | 'table' | 'name'>

const placeOf = ({ schema, table, name }: Omit<DeferredName, 'kind'>) => JSON.stringify([schema, table, name])

/** Includes the kind, because a foreign key or check can have the same name as an index of its table. */
const keyOf = (each: DeferredName) => `${isIndex(each) ? 'index' : 'constraint'} ${placeOf(each)}`
/** The columns of the same key in the ledger. */
const KEY = `schema_name, table_name, name, kind IN ('index', 'unique')`
const keyValues = (each: DeferredName) =>
  `(${[each.schema, each.table, each.name].map(literal).join(', ')}, ${isIndex(each)})`

const DEFERRED = 'molt_actions.deferred'

async function createTable(db: Database): Promise<void> {
  await db.query(`CREATE TABLE IF NOT EXISTS ${DEFERRED} (
    migration TEXT NOT NULL, kind TEXT NOT NULL, schema_name TEXT NOT NULL, table_name TEXT NOT NULL, name TEXT NOT NULL,
    create_ddl TEXT NOT NULL, drop_ddl TEXT NOT NULL, captured_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    dropped_at TIMESTAMPTZ, rebuilt_at TIMESTAMPTZ, was_valid BOOLEAN NOT NULL DEFAULT true, comments TEXT,
    PRIMARY KEY (migration, schema_name, table_name, name, kind))`)
}

/** Lists every object captured for a migration. */
export async function listDeferred(db: Database, migration: string): Promise<Deferred[]> {
  const rows = await rowsIfAny(
    db,
    `SELECT d.*, dropped_at IS NOT NULL AS dropped, rebuilt_at IS NOT NULL AS rebuilt
       FROM ${DEFERRED} d WHERE migration = $1 ORDER BY schema_name, table_name, name`,
    [migration],
  )
  return rows.map((row) => ({
    kind: row.kind,
    schema: row.schema_name,
    table: row.table_name,
    name: row.name,
    create: row.create_ddl,
    drop: row.drop_ddl,
    dropped: row.dropped,
    rebuilt: row.rebuilt,
    valid: row.was_valid ?? true,
    comments: JSON.parse(row.comments ?? '[]'),
  }))
}

/**
 * Captures and drops what `deferral` names on the target's expected tables. A repeated run resumes: it keeps earlier
 * captures, and records objects that no longer exist as dropped.
 * @returns how many objects this run dropped, and the checks that were kept because the catalog does not show their
 * condition
 */
export async function deferObjects(
  db: Database,
  migration: string,
  plan: { targetSchema: string; tables: readonly string[] },
  deferral: Deferral,
  cockroach: boolean,
): Promise<{ dropped: number; kept: string[] }> {
  await createTable(db)
  const schema = await readSchema(db, 'target', plan.targetSchema)
  const { objects, kept, unwritable } = plannedDeferral(schema, plan.tables, deferral, cockroach)
  if (unwritable.length)
    refuse(
      'deferral.not-captured',
      'indexes or constraints on the target cannot be captured, so nothing was dropped',
      unwritable,
      'Wait until the schema changes on the target have ended (SHOW JOBS), then run `prepare` again.',
    )
  const commentsOf = objects.length ? await readComments(db, cockroach) : () => []
  for (const object of objects) await capture(db, migration, { ...object, comments: commentsOf(object) })
  let dropped = 0
  const captured = await listDeferred(db, migration)
  if (cockroach && captured.length) await unlockTables(db, migration, changedTables(schema, plan.tables, captured))
  for (const kind of DEFERRED_KINDS)
    for (const object of captured) {
      if (object.kind !== kind || object.dropped || object.rebuilt) continue
      await db.query(object.drop)
      await mark(db, migration, [object], 'dropped_at')
      dropped++
    }
  return { dropped, kept }
}

/** The tables that the drops change: the expected tables, and both tables of each captured foreign key. */
function changedTables({ name, constraints }: Schema, tables: readonly string[], captured: readonly DeferredName[]) {
  const ours = new Set(captured.map(placeOf))
  const ends = constraints.flatMap((each) =>
    each.references && ours.has(placeOf(each))
      ? [each, each.references].map(({ schema, table }) => ({ schema, table }))
      : [],
  )
  return [...tables.map((table) => ({ schema: name, table })), ...ends]
}

/** Records objects that never existed on the target as if they had been captured and dropped. */
export async function recordDeferred(db: Database, migration: string, objects: readonly Captured[]): Promise<void> {
  await createTable(db)
  for (const object of objects) await capture(db, migration, object)
  const known = (await listDeferred(db, migration)).filter(({ dropped, rebuilt }) => !dropped && !rebuilt)
  const ours = new Set(objects.map(keyOf))
  await mark(
    db,
    migration,
    known.filter((each) => ours.has(keyOf(each))),
    'dropped_at',
  )
}

/**
 * Lists the objects to capture, without changing anything.
 * @returns `kept`: checks that stay because the catalog does not show their condition. `unwritable`: messages about
 * objects that could not be rebuilt. If there are any, nothing may be dropped
 */
export function plannedDeferral(
  schema: Schema,
  tables: readonly string[],
  deferral: Deferral,
  cockroach: boolean,
): { objects: Deferred[]; kept: string[]; unwritable: string[] } {
  const unwritable: string[] = []
  const expected = new Set(tables)
  const kept: string[] = []
  const objects: Deferred[] = []
  const isOurs = (each: { schema: string; table: string }) => each.schema === schema.name && expected.has(each.table)
  const uniques = new Set<string>()
  if (deferral.indexes)
    for (const index of schema.indexes.filter((each) => isOurs(each) && !each.primary)) {
      const constraint = schema.constraints.find(
        (each) => isOurs(each) && each.kind === 'u' && each.table === index.table && each.index === index.name,
      )
      // An index of an exclusion constraint, which only PostgreSQL has, cannot be dropped by itself.
      if (schema.constraints.some((each) => each.kind === 'x' && isOurs(each) && each.index === index.name)) continue
      if (!index.definition || !index.name)
        unwritable.push(
          `the catalog has no definition of the index ${index.name || '(unnamed)'} of ${index.schema}.${index.table}: it is being built or dropped`,
        )
      if (index.unique) uniques.add(`${index.table}.${index.columns.slice().sort().join('\n')}`)
      const captured = deferredIndex(index, constraint, cockroach)
      objects.push(deferral.uniqueAfterLoad ? { ...captured, kind: 'index' } : captured)
    }
  for (const each of schema.constraints) {
    const to = each.references
    const inbound = to !== null && to.schema === schema.name && expected.has(to.table)
    const unnamed = each.columns.includes('') || to?.columns.includes('')
    // Dropping a unique index on CockroachDB silently drops the foreign keys that depend on it.
    const rests =
      inbound && uniques.size > 0 && (unnamed || uniques.has(`${to.table}.${to.columns.slice().sort().join('\n')}`))
    if (each.kind === 'f' && (rests || (deferral.constraints && (isOurs(each) || inbound)))) {
      if (unnamed)
        unwritable.push(
          `the catalog does not name every column of the foreign key ${each.name} of ${each.schema}.${each.table}`,
        )
      objects.push(deferredConstraint(each, notValid(withSchema(each) || foreignKey(each))))
    }
    if (each.kind !== 'c' || !deferral.constraints || !isOurs(each) || isShardCheck(each)) continue
    const definition = each.definition || (each.condition === null ? '' : `CHECK (${each.condition})`)
    if (definition) objects.push(deferredConstraint(each, notValid(definition)))
    else kept.push(`${each.schema}.${each.table}.${each.name}`)
  }
  return { objects, kept, unwritable }
}

function deferredIndex(index: Index, constraint: Constraint | undefined, cockroach: boolean): Deferred {
  const table = qualified(index.schema, index.table)
  const same = { schema: index.schema, table: index.table, name: index.name, ...NEW }
  const kind = index.unique ? 'unique' : 'index'
  if (constraint && !cockroach)
    return {
      ...same,
      kind,
      create: `ALTER TABLE ${table} ADD CONSTRAINT ${ident(constraint.name)} ${constraint.definition}`,
      drop: dropConstraint({ ...same, name: constraint.name }),
    }
  return {
    ...same,
    kind,
    create: index.definition,
    drop: cockroach
      ? dropOnCockroach({ ...same, kind })
      : `DROP INDEX IF EXISTS ${qualified(index.schema, index.name)}`,
  }
}

/**
 * The statement that drops an object on CockroachDB, where an index is named `table@index`, and an index that backs a
 * UNIQUE constraint requires CASCADE.
 */
export function dropOnCockroach(object: DeferredName): string {
  if (isConstraint(object)) return dropConstraint(object)
  const { kind, schema, table, name } = object
  return `DROP INDEX IF EXISTS ${qualified(schema, table)}@${ident(name)}${kind === 'unique' ? ' CASCADE' : ''}`
}

function dropConstraint({ schema, table, name }: Omit<DeferredName, 'kind'>): string {
  return `ALTER TABLE ${qualified(schema, table)} DROP CONSTRAINT IF EXISTS ${ident(name)}`
}

function deferredConstraint(each: Constraint, definition: string): Deferred {
  const table = qualified(each.schema, each.table)
  return {
    kind: each.kind === 'f' ? 'foreign-key' : 'check',
    schema: each.schema,
    table: each.table,
    name: each.name,
    create: `ALTER TABLE ${table} ADD CONSTRAINT ${ident(each.name)} ${definition}`,
    drop: dropConstraint(each),
    ...NEW,
    valid: each.validated,
  }
}

const NEW = { dropped: false, rebuilt: false, valid: true, comments: [] }

/** Adds NOT VALID at the end, where the server also prints it, so that nothing waits for a scan. */
function notValid(definition: string): string {
  return /\bNOT VALID$/.test(definition) ? definition : `${definition} NOT VALID`
}

const REFERRED = /(\) REFERENCES )(?:(?:"(?:[^"]|"")*"|[^\s".(]+)\.?)+/

/** Adds the schema of the referenced table, which the server omits if that table is on this session's search path. */
function withSchema({ definition, references: to }: Constraint): string {
  return to
    ? definition.replace(REFERRED, (_, before: string) => `${before}${qualified(to.schema, to.table)}`)
    : definition
}

const ACTIONS: Record<string, string> = { r: 'RESTRICT', c: 'CASCADE', n: 'SET NULL', d: 'SET DEFAULT' }

function foreignKey({ columns, references: to }: Constraint): string {
  if (!to)
    throw new VerdictError(
      'deferral.not-captured',
      'the catalog of the target does not show what a foreign key references',
    )
  const list = (names: readonly string[]) => names.map(ident).join(', ')
  const action = (on: string, letter: string) => (ACTIONS[letter] ? ` ON ${on} ${ACTIONS[letter]}` : '')
  return `FOREIGN KEY (${list(columns)}) REFERENCES ${qualified(to.schema, to.table)} (${list(to.columns)})${
    to.match === 'f' ? ' MATCH FULL' : ''
  }${action('DELETE', to.onDelete)}${action('UPDATE', to.onUpdate)}`
}

/** Returns a function that lists the statements to restore an object's comments. */
async function readComments(db: Database, cockroach: boolean): Promise<(object: Deferred) => string[]> {
  const [constraints = [], indexes = []] = await queryAll(db, [CONSTRAINT_COMMENTS, INDEX_COMMENTS])
  return (object) => {
    const table = qualified(object.schema, object.table)
    const index = cockroach ? `${table}@${ident(object.name)}` : qualified(object.schema, object.name)
    const of = (rows: typeof indexes, what: string) =>
      rows.flatMap((row) =>
        placeOf(row as DeferredName) === placeOf(object) ? `COMMENT ON ${what} IS ${literal(row.comment)}` : [],
      )
    return [...of(constraints, `CONSTRAINT ${ident(object.name)} ON ${table}`), ...of(indexes, `INDEX ${index}`)]
  }
}

const CONSTRAINT_COMMENTS = `
  SELECT n.nspname AS schema, c.relname AS table, k.conname AS name, d.description AS comment
    FROM pg_catalog.pg_description d JOIN pg_catalog.pg_constraint k ON k.oid = d.objoid
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE d.classoid = 'pg_catalog.pg_constraint'::regclass AND d.objsubid = 0`

const INDEX_COMMENTS = `
  SELECT n.nspname AS schema, c.relname AS table, i.relname AS name, d.description AS comment
    FROM pg_catalog.pg_description d JOIN pg_catalog.pg_class i ON i.oid = d.objoid
    JOIN pg_catalog.pg_index x ON x.indexrelid = i.oid JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
   WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid = 0`

/**
 * Stores an object, but never overwrites an earlier capture, because a second run may see an object that is only partly
 * dropped.
 */
async function capture(db: Database, migration: string, object: Captured): Promise<void> {
  const { kind, schema, table, name, create, drop, valid, comments } = object
  await db.query(
    `INSERT INTO ${DEFERRED} (migration, kind, schema_name, table_name, name, create_ddl, drop_ddl, was_valid, comments)
       SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
        WHERE NOT EXISTS (SELECT 1 FROM ${DEFERRED} WHERE migration = $1 AND (${KEY}) = ${keyValues(object)})
       ON CONFLICT DO NOTHING`,
    [migration, kind, schema, table, name, create, drop, valid, JSON.stringify(comments)],
  )
}

/** Marks objects as dropped or rebuilt, in one round trip. */
async function mark(
  db: Database,
  migration: string,
  objects: readonly DeferredName[],
  column: 'dropped_at' | 'rebuilt_at',
  at: 'now()' | 'NULL' = 'now()',
): Promise<void> {
  if (!objects.length) return
  await db.query(
    `UPDATE ${DEFERRED} SET ${column} = ${at} WHERE migration = $1 AND (${KEY}) IN (${objects.map(keyValues).join(', ')})`,
    [migration],
  )
}

/** Options of {@link rebuildDeferred}. */
export interface Rebuild {
  /** Called with each name once the object exists. */
  onBuilt?: (name: string) => void
  /**
   * More connections to the target, to build objects in parallel, because each build waits for its own schema change.
   */
  lanes?: readonly Database[]
}

/**
 * Rebuilds missing objects of these kinds. Safe to repeat. Foreign keys and checks are added as NOT VALID: validate
 * them with {@link validateDeferred}. On CockroachDB, each statement waits for its schema change, so the constraints of
 * a table share a statement.
 * @returns the names of the objects that were built now
 * @throws VerdictError at the first object that rows violate; objects that are already built stay
 */
export async function rebuildDeferred(
  db: Database,
  migration: string,
  kinds: readonly DeferredKind[],
  { onBuilt = () => {}, lanes = [] }: Rebuild = {},
): Promise<string[]> {
  const objects = (await listDeferred(db, migration)).filter(({ kind }) => kinds.includes(kind))
  const stateOf = await readStates(db, objects)
  const missing = objects.filter((each) => stateOf(each) === 'absent' || (isIndex(each) && stateOf(each) === 'invalid'))
  const built: Deferred[] = []
  const build = async () => {
    // Foreign keys depend on unique indexes.
    for (const units of [missing.filter(isIndex).map((each) => [each]), byTable(missing.filter(isConstraint))])
      await sideBySide([db, ...lanes], units, async (lane, unit) => {
        await buildUnit(lane, unit, (each) => stateOf(each) === 'absent')
        built.push(...unit)
      })
  }
  try {
    if (missing.length) await unhurried(db, build)
  } finally {
    await mark(db, migration, [...objects.filter((each) => !missing.includes(each)), ...built], 'rebuilt_at')
  }
  const names = built.map(({ schema, table, name }) => `${schema}.${table}.${name}`)
  names.forEach(onBuilt)
  return names
}

/** Processes units in parallel, one per lane at a time. After a failure, waits for running units and starts no more. */
async function sideBySide<T>(
  lanes: readonly Database[],
  units: readonly T[],
  work: (lane: Database, unit: T) => Promise<void>,
): Promise<void> {
  const waiting = [...units]
  await allEnded(
    lanes.map(async (lane) => {
      for (let unit = waiting.shift(); unit !== undefined; unit = waiting.shift())
        await work(lane, unit).catch((error) => {
          waiting.length = 0
          throw error
        })
    }),
  )
}

function byTable(objects: readonly Deferred[]): Deferred[][] {
  const found = new Map<string, Deferred[]>()
  for (const object of objects) found.set(tableOf(object), [...(found.get(tableOf(object)) ?? []), object])
  return [...found.values()]
}

const tableOf = ({ schema, table }: DeferredName) => `ALTER TABLE ${qualified(schema, table)} `

/** Constraints of one table share one ALTER TABLE statement if they can. */
async function buildUnit(
  db: Database,
  unit: readonly Deferred[],
  isAbsent: (object: Deferred) => boolean,
): Promise<void> {
  const [first] = unit as [Deferred, ...Deferred[]]
  const prefix = tableOf(first)
  const together = unit.length > 1 && unit.every(({ create }) => create.startsWith(prefix))
  if (together)
    try {
      const clauses = unit.map(({ create }) => create.slice(prefix.length))
      await db.query(`${prefix}${clauses.join(', ')}`)
      return
    } catch {
      // Build them one by one below, so that the error names the constraint.
    }
  for (const object of unit) await buildOne(db, object, !together && isAbsent(object))
}

/**
 * How often to try to build an object. CREATE INDEX can spuriously fail with 23505, even if not unique
 * (cockroachdb/cockroach#142861).
 */
const INDEX_ATTEMPTS = 3

/**
 * Builds one object, unless it exists.
 * @param absent whether the object is known to be missing, so that the catalog need not be read
 */
async function buildOne(db: Database, object: Deferred, absent = false): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    if ((attempt > 1 || !absent) && (await isBuilt(db, object))) return
    try {
      return void (await unhurried(db, () => db.query(object.create)))
    } catch (error) {
      const code = sqlState(error)
      const spurious = code === '23505' && isIndex(object) && !UNIQUE.test(object.create)
      // The object exists already, or its state is unknown. The next attempt reads the catalog first.
      const unknown = code === '40003' || code === '42P07' || code === '42710'
      if ((!spurious && !unknown) || attempt >= INDEX_ATTEMPTS) throw unbuildable(object, error)
    }
  }
}

const UNIQUE = /^CREATE UNIQUE|\bADD CONSTRAINT .* UNIQUE\b/s

/** Whether the object exists. Waits for an index that is still being built. */
async function isBuilt(db: Database, object: Deferred): Promise<boolean> {
  for (const end = performance.now() + TIMING.indexBuild; ; await sleep(TIMING.indexLook)) {
    const state = (await readStates(db, [object]))(object)
    if (state === 'absent') return false
    if (state === 'valid' || !isIndex(object)) return true
    if (performance.now() > end)
      throw new VerdictError(
        'deferral.not-restored',
        `${object.kind} ${object.name} of ${object.schema}.${object.table} is still being built on the target after ${seconds(TIMING.indexBuild)}. Wait for its job (SHOW JOBS), then rerun the step`,
      )
  }
}

/**
 * The error to throw when rows violate a definition. Omits the server's message, because CockroachDB quotes the row in
 * it.
 */
function unbuildable(object: Deferred, error: unknown, done: 'built' | 'validated' = 'built'): unknown {
  const code = sqlState(error)
  if (!code?.startsWith('23')) return error
  const { kind, schema, table, name } = object
  return new VerdictError(
    'deferral.rows-break-definition',
    `${kind} ${name} of ${schema}.${table} cannot be ${done} on the target: rows on the target violate its definition (${object.create}; SQLSTATE ${code}). List them with \`${offendingRows(object, error)}\`, fix them ${done === 'validated' ? 'on the side that the application uses' : 'on the source'}, then rerun the step`,
  )
}

/**
 * A query that lists the first rows that violate a definition. Users run it themselves, because row values must not
 * reach a log.
 */
export function offendingRows({ kind, schema, table, create }: Deferred, error: unknown): string {
  const from = qualified(schema, table)
  const [, condition] = /\bCHECK \((.*)\)(?: NO INHERIT)?(?: NOT VALID)?$/s.exec(create) ?? []
  if (kind === 'check' && condition) return `SELECT * FROM ${from} WHERE NOT (${condition}) LIMIT 20`
  const [, columns, referred, others] = /\bFOREIGN KEY \(([^)]*)\) REFERENCES (.*?) ?\(([^)]*)\)/s.exec(create) ?? []
  if (columns && referred)
    return `SELECT ${columns} FROM ${from} WHERE (${columns}) NOT IN (SELECT ${others} FROM ${referred} WHERE (${others}) IS NOT NULL) LIMIT 20`
  // The error's detail begins with the columns or expressions, as the server prints them.
  const [, key] = /^Key \((.*?)\)=\(/s.exec((error as { detail?: string }).detail ?? '') ?? []
  const [, where] = /\) WHERE (.*)$/s.exec(create) ?? []
  if (/^(unique|index)$/.test(kind) && key)
    return `SELECT ${key}, count(*) FROM ${from}${where ? ` WHERE ${where}` : ''} GROUP BY ${key} HAVING count(*) > 1 LIMIT 20`
  return create
}

/** Kinds of objects that can block the stream, because they may refuse the order in which it applies rows. */
const IN_THE_WAY: readonly DeferredKind[] = ['foreign-key', 'check', 'unique']

/**
 * Drops the objects that an uncommitted cutover has rebuilt and that could block the stream. Safe to repeat.
 * @returns the names of the dropped objects
 */
export async function deferAgain(db: Database, migration: string): Promise<string[]> {
  const captured = (await listDeferred(db, migration)).filter(
    ({ dropped, kind }) => dropped && IN_THE_WAY.includes(kind),
  )
  const stateOf = await readStates(db, captured)
  const there = captured.filter((each) => stateOf(each) !== 'absent')
  // Mark them first. If this run dies in between, the next run must not mistake the drop for another user's schema
  // change.
  await mark(db, migration, there, 'rebuilt_at', 'NULL')
  for (const kind of IN_THE_WAY) for (const object of there) if (object.kind === kind) await db.query(object.drop)
  return there.map(({ schema, table, name }) => `${schema}.${table}.${name}`)
}

/** Validates every foreign key and check that was valid when captured, and restores all comments. Safe to repeat. */
export async function validateDeferred(db: Database, migration: string): Promise<string[]> {
  const names: string[] = []
  for (const object of await listDeferred(db, migration)) {
    for (const comment of object.comments) await db.query(comment)
    if (!isConstraint(object) || !object.valid) continue
    await validate(db, object)
    names.push(`${object.schema}.${object.table}.${object.name}`)
  }
  return names
}

async function validate(db: Database, object: Deferred): Promise<void> {
  await validateConstraint(db, object.schema, object).catch((error) => {
    throw unbuildable(object, error, 'validated')
  })
}

/** Validates a constraint, which scans the table. Does nothing if it is already valid. */
export async function validateConstraint(
  db: Database,
  schema: string,
  { table, name }: { table: string; name: string },
): Promise<void> {
  const statement = `ALTER TABLE ${qualified(schema, table)} VALIDATE CONSTRAINT ${ident(name)}`
  await unhurried(db, () => db.query(statement))
}

/** Lists what a migration has dropped on the target and not rebuilt yet. */
export async function listAwaited(db: Database, migration: string): Promise<Pick<Deferred, 'table' | 'name'>[]> {
  return (await listDeferred(db, migration)).filter(({ rebuilt }) => !rebuilt)
}

/** Lists the names in `before` and those of all captured objects. */
export async function deferredNames(
  db: Database,
  migration: string,
  before: readonly DeferredName[] = [],
): Promise<DeferredName[]> {
  const captured = await listDeferred(db, migration)
  const names = [...before, ...captured.map(({ kind, schema, table, name }) => ({ kind, schema, table, name }))]
  return [...new Map(names.map((each) => [keyOf(each), each])).values()]
}

/**
 * Lists dropped objects that cannot be rebuilt because their definitions are missing in the ledger. Leaves out objects
 * that were rebuilt by hand.
 * @param taken the names that `prepare` recorded separately from the definitions
 */
export async function lostDefinitions(
  db: Database,
  migration: string,
  taken: readonly DeferredName[] = [],
): Promise<string[]> {
  const captured = new Set((await listDeferred(db, migration)).map(keyOf))
  const problems: string[] = []
  const missing = taken.filter((each) => !captured.has(keyOf(each)))
  const stateOf = await readStates(db, missing)
  for (const each of missing)
    if (stateOf(each) !== 'valid')
      problems.push(
        `${each.kind} ${each.name} of ${each.schema}.${each.table} was dropped for the load, and its definition was deleted from ${DEFERRED}. Rebuild it by hand with this name, as on the source`,
      )
  return problems
}

/** Lists captured objects that are missing or invalid. All is well only if the list is empty. */
export async function deferralProblems(db: Database, migration: string): Promise<string[]> {
  const problems: string[] = []
  const captured = await listDeferred(db, migration)
  const stateOf = await readStates(db, captured)
  for (const object of captured) {
    const name = `${object.kind} ${object.name} of ${object.schema}.${object.table}`
    if (stateOf(object) === 'absent') problems.push(`${name} is missing on the target`)
    else if (stateOf(object) === 'invalid' && object.valid) problems.push(`${name} exists, but is not valid`)
  }
  return problems
}

/** Lists captured objects that are valid on the target, so that the ledger no longer needs their definitions. */
export async function listRebuilt(db: Database, migration: string): Promise<Deferred[]> {
  const captured = await listDeferred(db, migration)
  const stateOf = await readStates(db, captured)
  return captured.filter((each) => stateOf(each) === 'valid' || (!each.valid && stateOf(each) === 'invalid'))
}

/**
 * Deletes captured definitions of objects that are rebuilt or no longer needed. Never pass a missing object that is
 * still needed, because it could not be rebuilt.
 * @param only the objects; by default, all objects of the migration
 */
export async function forgetDeferred(db: Database, migration: string, only?: readonly Deferred[]): Promise<void> {
  for (const each of only ?? (await listDeferred(db, migration)))
    await db.query(`DELETE FROM ${DEFERRED} WHERE migration = $1 AND (${KEY}) = ${keyValues(each)}`, [migration])
}

/**
 * Rebuilds and validates everything that was dropped. Safe to repeat. An object that cannot be built keeps its
 * definition and does not stop the others. Objects of a table that no longer exists are skipped.
 */
export async function restoreDeferred(
  db: Database,
  migration: string,
): Promise<{ built: string[]; problems: string[] }> {
  const built: string[] = []
  const problems: string[] = []
  const captured = await listDeferred(db, migration)
  for (const kind of [...DEFERRED_KINDS].reverse())
    for (const object of captured.filter((each) => each.kind === kind)) {
      const name = `${object.schema}.${object.table}.${object.name}`
      try {
        if (!(await isBuilt(db, object))) {
          await buildOne(db, object, true)
          built.push(name)
        }
        await mark(db, migration, [object], 'rebuilt_at')
        for (const comment of object.comments) await db.query(comment)
        if (isConstraint(object) && object.valid) await validate(db, object)
      } catch (error) {
        if (isMissingTable(error)) await forgetDeferred(db, migration, [object])
        else
          problems.push(
            error instanceof VerdictError ? error.message : `${kind} ${name}: ${messageOf(error)} (${object.create})`,
          )
      }
    }
  return { built, problems }
}

const isConstraint = ({ kind }: DeferredName) => kind === 'foreign-key' || kind === 'check'
const isIndex = ({ kind }: DeferredName) => kind === 'index' || kind === 'unique'

type State = 'absent' | 'invalid' | 'valid'

/** Reads the state of each object from the catalog, in one round trip. */
async function readStates(db: Database, objects: readonly DeferredName[]): Promise<(object: DeferredName) => State> {
  if (!objects.length) return () => 'absent'
  const schemas = [...new Set(objects.map(({ schema }) => schema))].map(literal).join(', ')
  const of = (sql: string) => sql.replaceAll('SCHEMAS', schemas)
  const [indexes = [], names = [], constraints = []] = await queryAll(
    db,
    [INDEX_STATES, INDEX_NAMES, CONSTRAINT_STATES].map(of),
  )
  const nameOf = new Map(names.map(({ oid, name }) => [oid, name]))
  const found = new Map<string, State>()
  const note = (kind: DeferredKind, { schema, table, valid }: (typeof indexes)[number], name: string) =>
    found.set(keyOf({ kind, schema, table, name }), valid ? 'valid' : 'invalid')
  for (const row of indexes) note('index', row, nameOf.get(row.index))
  for (const row of constraints) note('check', row, row.name)
  return (object) => found.get(keyOf(object)) ?? 'absent'
}

const INDEX_STATES = `
  SELECT n.nspname AS schema, c.relname AS table, x.indexrelid AS index, x.indisvalid AS valid
    FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN (SCHEMAS)`

/** Separate, because on CockroachDB a join by index oid is a full scan per row (cockroachdb/cockroach#111047). */
const INDEX_NAMES = `
  SELECT i.oid, i.relname AS name FROM pg_catalog.pg_class i
    JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace
   WHERE n.nspname IN (SCHEMAS) AND i.relkind IN ('i', 'I')`

const CONSTRAINT_STATES = `
  SELECT n.nspname AS schema, c.relname AS table, k.conname AS name, k.convalidated AS valid
    FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN (SCHEMAS) AND k.contype IN ('c', 'f')`
