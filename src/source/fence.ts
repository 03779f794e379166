import { randomUUID } from 'node:crypto'
import type { Table } from '../model/tables.ts'
import { type Database, isConnectionLost, qualified, relationExists, sqlState } from '../runtime/database.ts'
import { UserError, VerdictError } from '../runtime/errors.ts'
import { TIMING } from '../runtime/timing.ts'
import { HEARTBEAT, OUR_SCHEMA } from './heartbeat.ts'

/*
 * The fence is a statement trigger on every expected table, which is installed disarmed. One number arms it: the lease,
 * which is the time, by the source's clock, until which the triggers refuse writes. The lease is the value of a
 * sequence, because sequences are read outside any snapshot. Even an old REPEATABLE READ transaction sees the current
 * value; if the lease were in a row, it would not. A second sequence counts the writes that the fence let through, and
 * a third sequence counts the writes that the permanent fence refused. A rollback does not undo these counts.
 */

export const LEASE = `${OUR_SCHEMA}.fence_lease`
const PASSED = `${OUR_SCHEMA}.fence_passed`
/** Counts the writes that the permanent fence refused. They come from clients that were not switched to the target. */
const REFUSALS = `${OUR_SCHEMA}.fence_refusals`
const SEQUENCES = [LEASE, PASSED, REFUSALS]
/** Setting of a session that only tests the fence, so that its writes are not counted. */
const PROBE = 'molt_actions.probe'
/**
 * With a cache, a session takes its next values from memory, so a write that got past the fence might not be counted.
 * With CYCLE, the count could return to an earlier value.
 */
const PLAIN = 'INCREMENT BY 1 MINVALUE 1 NO MAXVALUE CACHE 1 NO CYCLE'
const TRIGGER = 'molt_actions_fence'
/** Value of pg_trigger.tgtype for a trigger BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE, FOR EACH STATEMENT. */
const EVERY_WRITE = 2 + 4 + 8 + 16 + 32
/** Condition on a row of pg_trigger: the trigger fires on every write and calls our function. */
const WHOLE = `tgtype = ${EVERY_WRITE} AND tgqual IS NULL AND tgattr::text = ''
  AND tgfoid = pg_catalog.to_regprocedure('${OUR_SCHEMA}.fence()')`

/** SQLSTATE read_only_sql_transaction, which applications already treat as "no writes for now". */
const REFUSED = '25006'

/** The lease after a commit, which never expires. */
const PERMANENT = '9223372036854775807'
const LIFTED = '1'
const NOW_MS = '(extract(epoch FROM clock_timestamp()) * 1000)::bigint'

export type FenceState = 'absent' | 'lifted' | 'lapsed' | 'armed' | 'permanent'

export interface Fence {
  /** Part of the fence's error message, so that a probe can distinguish the fence from any other error. */
  id: string
  /** Expected tables and all of their partitions, each with its own schema and bare name. */
  tables: { schema: string; name: string; oid: number }[]
}

/** A transaction that held a write lock when the fence was armed. `pid` is null for a prepared transaction. */
export interface WriteHolder {
  transaction: string
  pid: number | null
}

const LOCK_ATTEMPTS = 30

/**
 * Installs the fence, disarmed. Uses a short transaction per table, with a lock timeout and retries. In a single
 * transaction, the waits for other locks would add up, and a deadlock could abort a transaction of the application.
 */
export async function installFence(db: Database, tables: readonly Table[]): Promise<Fence> {
  await db.query(`CREATE SCHEMA IF NOT EXISTS ${OUR_SCHEMA}`)
  for (const sequence of SEQUENCES) await db.query(`CREATE SEQUENCE IF NOT EXISTS ${sequence} ${PLAIN}`)
  // Alters a sequence only if needed, because every transaction that has written holds a lock on the counter until it
  // ends.
  for (const { name, unlogged } of await oddSequences(db))
    await withShortLock(db, async () => {
      await db.query(`ALTER SEQUENCE ${name} AS bigint ${PLAIN}`)
      if (unlogged) await db.query(`ALTER SEQUENCE ${name} SET LOGGED`)
    })
  const id = (await readFenceId(db)) ?? randomUUID()
  await db.query(fenceFunction(id))
  const fence = { id, tables: await withPartitions(db, tables) }
  for (const table of fence.tables) await installTrigger(db, table)
  return fence
}

const SEARCH_PATH = 'pg_catalog, pg_temp'

/**
 * The trigger function. It is SECURITY DEFINER, because otherwise every write by a role without privileges on our
 * schema would fail, even while the fence is lifted.
 */
function fenceFunction(id: string): string {
  return `
    CREATE OR REPLACE FUNCTION ${OUR_SCHEMA}.fence() RETURNS trigger LANGUAGE plpgsql
      SECURITY DEFINER SET search_path = ${SEARCH_PATH} AS $fence$
    DECLARE lease_ms bigint;
    BEGIN
      SELECT last_value INTO lease_ms FROM ${LEASE};
      IF lease_ms > extract(epoch FROM clock_timestamp()) * 1000 THEN
        IF lease_ms = ${PERMANENT} AND current_setting('${PROBE}', true) IS DISTINCT FROM '${id}' THEN
          PERFORM nextval('${REFUSALS}');
        END IF;
        IF lease_ms = ${PERMANENT} THEN
          RAISE EXCEPTION USING ERRCODE = '${REFUSED}',
            MESSAGE = 'this database has moved to CockroachDB and takes no more writes',
            DETAIL = 'molt-actions fence ${id}',
            HINT = 'Connect to the new database.';
        END IF;
        RAISE EXCEPTION USING ERRCODE = '${REFUSED}',
          MESSAGE = 'writes are paused: this database is being moved',
          DETAIL = 'molt-actions fence ${id}',
          HINT = 'Retry in a few seconds.';
      END IF;
      PERFORM nextval('${PASSED}');
      RETURN NULL;
    END $fence$`
}

/** Lists the fence's sequences that are missing, or have been changed since the installation. */
async function oddSequences(db: Database): Promise<{ name: string; unlogged: boolean }[]> {
  const { rows } = await db.query(
    `SELECT name, (SELECT relpersistence = 'u' FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(name)) AS unlogged
       FROM unnest($1::text[]) AS name WHERE NOT EXISTS (
       SELECT FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
        WHERE s.seqrelid = pg_catalog.to_regclass(name) AND c.relpersistence = 'p' AND s.seqtypid = 'pg_catalog.int8'::regtype
          AND s.seqincrement = 1 AND s.seqmin = 1 AND s.seqmax = ${PERMANENT} AND s.seqcache = 1 AND NOT s.seqcycle)`,
    [SEQUENCES],
  )
  return rows
}

/** Reads the installed fence: its id, and every table that has its trigger. Undefined if no fence is installed. */
export async function installedFence(db: Database): Promise<Fence | undefined> {
  const id = await readFenceId(db)
  return id ? { id, tables: await fencedTables(db) } : undefined
}

/**
 * Reads which tables should have the fence, from the source alone: the tables that have its trigger, and all tables in
 * the heartbeat's publication, with their partitions.
 */
export async function expectedFence(db: Database): Promise<Fence | undefined> {
  const installed = await installedFence(db)
  if (!installed) return undefined
  const { rows } = await db.query(
    `SELECT DISTINCT r.prrelid AS oid FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication_rel h USING (prpubid)
      WHERE h.prrelid = pg_catalog.to_regclass($1) AND r.prrelid <> h.prrelid`,
    [`${OUR_SCHEMA}.${HEARTBEAT}`],
  )
  const published = await withPartitions(db, rows)
  const all = new Map([...installed.tables, ...published].map((table) => [table.oid, table]))
  return { id: installed.id, tables: [...all.values()] }
}

/** Describes the fence that `tables` and their partitions should have now, for {@link fenceProblems}. */
export async function plannedFence(db: Database, tables: readonly Table[]): Promise<Fence> {
  return { id: (await readFenceId(db)) ?? 'none', tables: await withPartitions(db, tables) }
}

async function readFenceId(db: Database): Promise<string | undefined> {
  const { rows } = await db.query(
    `SELECT prosrc FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = $1 AND p.proname = 'fence'`,
    [OUR_SCHEMA],
  )
  return /molt-actions fence ([0-9a-f-]{36})/.exec(rows[0]?.prosrc ?? '')?.[1]
}

/** Installs the trigger on a table. Replaces a trigger of the same name that differs from ours. */
async function installTrigger(db: Database, table: { schema: string; name: string; oid: number }): Promise<void> {
  const { rows } = await db.query(
    `SELECT tgenabled = 'A' AS always, ${WHOLE} AS whole FROM pg_catalog.pg_trigger WHERE tgrelid = $1 AND tgname = $2`,
    [table.oid, TRIGGER],
  )
  const there = rows[0]
  if (there?.always && there.whole) return
  const name = qualified(table.schema, table.name)
  await withShortLock(db, async () => {
    if (there && !there.whole) await db.query(`DROP TRIGGER ${TRIGGER} ON ${name}`)
    if (!there?.whole)
      await db.query(
        `CREATE TRIGGER ${TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ${name}
           FOR EACH STATEMENT EXECUTE FUNCTION ${OUR_SCHEMA}.fence()`,
      )
    await db.query(`ALTER TABLE ${name} ENABLE ALWAYS TRIGGER ${TRIGGER}`)
  })
}

/**
 * Drops the triggers and the function.
 * @param decided true if even a permanent fence may be dropped: only in the cleanup long after a cutover
 * @throws VerdictError if the fence is permanent and must stay
 */
export async function removeFence(
  db: Database,
  tables: readonly { schema: string; name: string }[],
  decided: boolean,
): Promise<void> {
  for (const table of tables) {
    if (!decided && (await readFence(db)).state === 'permanent')
      throw new VerdictError(
        'fence.permanent',
        'a cutover has been committed in the meantime, so the fence on the source is permanent and was not removed',
      )
    const name = qualified(table.schema, table.name)
    await withShortLock(db, () => db.query(`DROP TRIGGER IF EXISTS ${TRIGGER} ON ${name}`))
  }
  await db.query(`DROP FUNCTION IF EXISTS ${OUR_SCHEMA}.fence()`)
  await db.query(`DROP SEQUENCE IF EXISTS ${SEQUENCES.join(', ')}`)
}

/** Lists all tables that have the fence's trigger now, whether or not the plan contains them. */
async function fencedTables(db: Database): Promise<{ schema: string; name: string; oid: number }[]> {
  const { rows } = await db.query(
    `SELECT n.nspname AS schema, c.relname AS name, c.oid FROM pg_catalog.pg_trigger t
       JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE t.tgname = $1 ORDER BY 1, 2`,
    [TRIGGER],
  )
  return rows
}

async function withShortLock(db: Database, work: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await db.query('BEGIN')
      await db.query(`SET LOCAL lock_timeout = ${TIMING.fenceLock}`)
      await work()
      await db.query('COMMIT')
      return
    } catch (error) {
      await db.query('ROLLBACK')
      const busy = ['55P03', '40P01'].includes(sqlState(error) ?? '')
      if (!busy || attempt >= LOCK_ATTEMPTS) throw error
    }
  }
}

async function withPartitions(db: Database, tables: readonly Pick<Table, 'oid'>[]): Promise<Fence['tables']> {
  const { rows } = await db.query(
    `WITH RECURSIVE tree AS (
       SELECT unnest($1::oid[]) AS oid UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent)
     SELECT n.nspname AS schema, c.relname AS name, c.oid FROM tree
       JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2`,
    [tables.map((table) => table.oid)],
  )
  return rows
}

/**
 * Reads the fence's current state, by the source's clock.
 * @param there whether the sequence of the lease exists, if the caller knows
 */
export async function readFence(db: Database, there?: boolean): Promise<{ state: FenceState; remainingMs: number }> {
  if (!(there ?? (await relationExists(db, LEASE)))) return { state: 'absent', remainingMs: 0 }
  const { rows } = await db.query(
    `SELECT last_value::text AS lease, last_value - (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS remaining FROM ${LEASE}`,
  )
  const { lease, remaining } = rows[0]
  if (lease === PERMANENT) return { state: 'permanent', remainingMs: Number.POSITIVE_INFINITY }
  if (lease === LIFTED) return { state: 'lifted', remainingMs: 0 }
  return Number(remaining) > 0
    ? { state: 'armed', remainingMs: Number(remaining) }
    : { state: 'lapsed', remainingMs: 0 }
}

/**
 * Computes the lease that expires `leaseMs` from now, by the source's clock. It is computed before it is set, so that
 * the caller knows it even if the server's answer to setting it is lost.
 */
export async function leaseFor(db: Database, leaseMs: number): Promise<string> {
  return (await db.query(`SELECT (${NOW_MS} + $1::bigint)::text AS lease`, [leaseMs])).rows[0].lease
}

/**
 * Arms the fence or renews its lease: writes are refused from now until `lease`. Does not lock any table.
 * @param own the lease to renew. A fence that was lifted since then is not armed again
 * @returns false if nothing was changed, because the fence is permanent or its lease is not `own`
 */
export async function setLease(db: Database, lease: string, own?: string): Promise<boolean> {
  return (
    (await changeLease(db, bigint(lease), own === undefined ? '' : `AND last_value = ${bigint(own)}`)) !== undefined
  )
}

/**
 * Lifts the fence, so that writes are possible again immediately. Never lifts a permanent fence.
 * @param lease the only lease to lift, so that another run's fence stays armed
 * @returns false when nothing was changed
 */
export async function liftFence(db: Database, lease?: string): Promise<boolean> {
  const ours = lease === undefined ? '' : `AND last_value = ${bigint(lease)}`
  return (await changeLease(db, LIFTED, ours)) !== undefined
}

/**
 * Makes the fence permanent. This commits the cutover. The change is durable on the source before the function returns.
 * Requires that `lease`, for which the fence was checked for gaps, is still set and has not expired. Checks that and
 * changes the lease in a single statement, so that no write can get through in between.
 * @returns false, with nothing changed, if the lease was lost
 */
export async function makePermanent(db: Database, lease: string): Promise<boolean> {
  const ours = `AND last_value = ${bigint(lease)} AND last_value > ${NOW_MS}`
  return (await changeLease(db, PERMANENT, ours, `${EXACT}${FROM_ZERO}`)) !== undefined
}

/**
 * Lifts the permanent fence, so that writes to the source are possible again. Only for a rollback, once nothing writes
 * to the target.
 */
export async function revokePermanent(db: Database): Promise<void> {
  await db.query(`SELECT setval('${LEASE}', ${LIFTED}) FROM ${LEASE} WHERE last_value = ${PERMANENT}`)
}

const bigint = (text: string) => BigInt(text).toString()

/**
 * Writes the exact count to the WAL. PostgreSQL logs sequence values before it uses them, so after a crash or on a
 * standby the count would include writes that never happened.
 */
const EXACT = `, (SELECT setval('${PASSED}', last_value, is_called) FROM ${PASSED})`

/** Resets the count of refused writes, because it starts at the commit. */
const FROM_ZERO = `, (SELECT setval('${REFUSALS}', 1, false))`

/**
 * Changes the lease while holding an advisory lock. Without the lock, a session that is about to lift the fence could
 * undo a commit that happens between its check and its change. Sends all statements in one message. Otherwise, if the
 * connection broke in between, the open transaction would keep the lock, and no run could lift the fence.
 */
async function changeLease(db: Database, value: string, condition: string, also = ''): Promise<string | undefined> {
  try {
    const results = (await db.query(
      `BEGIN; SET LOCAL synchronous_commit = on; SELECT pg_catalog.pg_advisory_xact_lock(hashtext('${LEASE}'));
       SELECT setval('${LEASE}', ${value})::text AS lease${also} FROM ${LEASE} WHERE last_value <> ${PERMANENT} ${condition}; COMMIT`,
    )) as unknown as { command: string; rows: { lease?: string }[] }[]
    return results.at(-2)?.rows[0]?.lease
  } catch (error) {
    await db.query('ROLLBACK').catch(() => {})
    throw error
  }
}

/** Reads the count of writes that the fence let through. If it changes between two readings, the fence had a gap. */
export async function writesPassed(db: Database): Promise<string> {
  const { rows } = await db.query(`SELECT last_value::text || is_called::text AS passed FROM ${PASSED}`)
  return rows[0].passed
}

/**
 * Reads how many writes the permanent fence has refused since the commit; undefined if the fence does not count them. A
 * rollback of the client does not undo the count. As with any sequence, the count can be up to 32 too high after a
 * crash of the source.
 */
export async function writesRefused(db: Database): Promise<number | undefined> {
  if (!(await relationExists(db, REFUSALS))) return undefined
  const { rows } = await db.query(`SELECT (last_value - (NOT is_called)::int)::float8 AS refused FROM ${REFUSALS}`)
  return rows[0].refused
}

/**
 * Returns the statement that resets the count to an earlier result of {@link writesPassed}. The user runs it to accept
 * the writes since then.
 */
export function resetCount(passed: string): string {
  const [, value, called] = /^(\d+)(true|false)$/.exec(passed) ?? []
  return `SELECT setval('${PASSED}', ${value}, ${called})`
}

export interface FenceVersion {
  /**
   * Changes whenever someone alters a trigger, the function or a sequence of the fence, even if it is then restored.
   */
  objects: string
  /** `schema.table` → storage file. DDL that rewrites every row does not fire triggers, but replaces the file. */
  files: Record<string, number>
}

export async function fenceVersion(db: Database, fence: Fence): Promise<FenceVersion> {
  const { rows } = await db.query(
    `SELECT concat_ws(';',
              (SELECT string_agg(tgrelid::text || ':' || xmin::text, ',' ORDER BY tgrelid) FROM pg_catalog.pg_trigger WHERE tgname = $1),
              (SELECT string_agg(p.oid::text || ':' || p.xmin::text, ',') FROM pg_catalog.pg_proc p
                 JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $2 AND p.proname = 'fence'),
              (SELECT string_agg(c.oid::text || ':' || c.xmin::text || ':' || s.xmin::text, ',' ORDER BY c.oid) FROM pg_catalog.pg_sequence s
                 JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid WHERE c.oid = ANY(SELECT to_regclass(name) FROM unnest($4::text[]) AS name))) AS objects,
            (SELECT coalesce(jsonb_object_agg(n.nspname || '.' || c.relname, c.relfilenode::int8), '{}') FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($3::oid[])) AS files`,
    [TRIGGER, OUR_SCHEMA, fence.tables.map(({ oid }) => oid), SEQUENCES],
  )
  return rows[0]
}

/** Lists the tables that were rewritten or dropped between two readings. */
export function rewritten(before: FenceVersion, now: FenceVersion): string[] {
  return Object.keys(before.files).filter((table) => before.files[table] !== now.files[table])
}

/** Lists every transaction, including prepared ones, that holds a write lock on a fenced table. */
export async function writeHolders(db: Database, fence: Fence): Promise<WriteHolder[]> {
  const { rows } = await db.query(
    `SELECT DISTINCT virtualtransaction AS transaction, pid FROM pg_catalog.pg_locks
      WHERE locktype = 'relation' AND granted AND relation = ANY($1::oid[])
        AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
        AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid()`,
    [fence.tables.map((table) => table.oid)],
  )
  return rows
}

/**
 * Tests the fence of every table with a write that affects no row. Only an error with this fence's id counts as
 * refused, because a missing privilege or a read-only session causes an error too.
 * @returns the tables that refused the write, and the tables that let it through
 * @throws UserError if a table cannot be tested, because something else rejects or replaces every write; VerdictError
 * if a table was dropped
 */
export async function probeFence(db: Database, fence: Fence): Promise<{ refused: string[]; passed: string[] }> {
  const refused: string[] = []
  const passed: string[] = []
  const probes = await readProbes(db, fence)
  await db.query('SELECT set_config($1, $2, false)', [PROBE, fence.id])
  try {
    for (const table of fence.tables) {
      const name = qualified(table.schema, table.name)
      const statements = probes.get(table.oid)
      if (!statements)
        throw new VerdictError('fence.table-dropped', `${name} has been dropped on the source, together with its fence`)
      if (await isRefused(db, fence, name, statements)) refused.push(name)
      else passed.push(name)
    }
  } finally {
    await db.query('SELECT set_config($1, $2, false)', [PROBE, '']).catch(() => {})
  }
  return { refused, passed }
}

/**
 * Builds the test statements of each table, by oid: a DELETE, an UPDATE and an INSERT that affect no row. Leaves out
 * statements that a rule on the table replaces.
 */
async function readProbes(db: Database, fence: Fence): Promise<Map<number, string[]>> {
  const { rows } = await db.query(
    `SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name,
            (SELECT quote_ident(attname) FROM pg_catalog.pg_attribute
              WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum LIMIT 1) AS column,
            ARRAY(SELECT ev_type::text FROM pg_catalog.pg_rewrite WHERE ev_class = c.oid) AS ruled
       FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($1::oid[])`,
    [fence.tables.map(({ oid }) => oid)],
  )
  const statements = ({ name, column }: { name: string; column: string | null }) => [
    ['4', `DELETE FROM ONLY ${name} WHERE false`],
    ...(column
      ? [
          ['2', `UPDATE ONLY ${name} SET ${column} = DEFAULT WHERE false`],
          [
            '3',
            `INSERT INTO ${name} (${column}) OVERRIDING SYSTEM VALUE SELECT ${column} FROM ONLY ${name} WHERE false`,
          ],
        ]
      : []),
  ]
  return new Map(
    rows.map((row) => [
      row.oid,
      statements(row).flatMap(([event, sql]) => (row.ruled.includes(event) ? [] : [sql as string])),
    ]),
  )
}

/**
 * Runs the statements until the fence refuses one or lets one through. The first may fail for another reason, for
 * example if a trigger forbids deletes.
 */
async function isRefused(db: Database, fence: Fence, name: string, statements: readonly string[]): Promise<boolean> {
  let why = 'rules'
  for (const statement of statements)
    try {
      await db.query(statement)
      return false
    } catch (error) {
      const detail = (error as { detail?: string }).detail ?? ''
      if (sqlState(error) === REFUSED && detail.includes(fence.id)) return true
      if (!sqlState(error) || isConnectionLost(error)) throw error
      why = `SQLSTATE ${sqlState(error)}`
    }
  throw new UserError(
    'fence.cannot-probe',
    `the fence on ${name} cannot be tested (${why}): a privilege is missing, or the table's own triggers or rules reject or replace every DELETE, UPDATE and INSERT that affects no rows before the fence can refuse it. Grant DELETE to the migration user, or let it run one of these statements`,
  )
}

/** Lists what is wrong with the installed fence: triggers, function and sequences that are missing or were changed. */
export async function fenceProblems(db: Database, fence: Fence): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT tgrelid AS oid, tgenabled AS enabled, ${WHOLE} AS whole, prosrc AS body,
            prosecdef AND proconfig = ARRAY['search_path=' || $2] AND provolatile = 'v' AND lanname = 'plpgsql' AS ours
       FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_proc p ON p.oid = tgfoid
       JOIN pg_catalog.pg_language l ON l.oid = prolang
      WHERE tgname = $1`,
    [TRIGGER, SEARCH_PATH],
  )
  const triggers = new Map(rows.map((row) => [row.oid, row]))
  const body = /\$fence\$([\s\S]*)\$fence\$/.exec(fenceFunction(fence.id))?.[1]
  const feeds = await db.query(
    `SELECT r.srrelid AS oid, s.subname AS name FROM pg_catalog.pg_subscription_rel r
       JOIN pg_catalog.pg_subscription s ON s.oid = r.srsubid WHERE s.subenabled AND r.srrelid = ANY($1::oid[])`,
    [fence.tables.map(({ oid }) => oid)],
  )
  const fed = new Map(feeds.rows.map((row) => [row.oid, row.name]))
  const sequences = (await oddSequences(db)).map(
    ({ name }) => `the fence's sequence ${name} was dropped or changed, so its value is not reliable`,
  )
  const tables = fence.tables.flatMap((table) => {
    const trigger = triggers.get(table.oid)
    const name = `${table.schema}.${table.name}`
    if (fed.has(table.oid))
      return [
        `the subscription ${fed.get(table.oid)} writes to ${name}, and statement triggers do not stop it. Disable it`,
      ]
    if (!trigger) return [`${name} has no fence trigger`]
    if (trigger.enabled !== 'A') return [`the fence trigger on ${name} is not ENABLE ALWAYS`]
    if (!trigger.whole)
      return [`the fence trigger on ${name} was replaced by a different trigger, and may let writes through`]
    if (trigger.body !== body || !trigger.ours) return ['the fence function was changed']
    return []
  })
  return [...sequences, ...tables]
}
