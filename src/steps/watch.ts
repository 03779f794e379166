import type { Plan } from '../migration/plan.ts'
import { compareTables, type Table } from '../migration/tables.ts'
import { type Database, ident } from '../runtime/database.ts'
import { seconds } from '../runtime/progress.ts'
import { HEARTBEAT, OUR_SCHEMA } from '../source/heartbeat.ts'
import { type PublicationMark, publicationChanges, publicationMark } from '../source/slot.ts'
import { readTables } from '../sql/tables.ts'
import type { TableFiles } from '../target/ledger.ts'
import { STREAM_APPLICATION } from '../tools/replicator.ts'
import { newTables } from './schema-changes.ts'

/** What the source tells about the slot and those around it, in one query. LSNs are text such as `0/2E02140`. */
export interface SlotFacts {
  active: boolean
  restartLsn: string | null
  confirmedFlushLsn: string | null
  /** The source's position now. */
  lsn: string
  walStatus: string | null
  /** Bytes that the slot may still keep before it is invalidated; null when there is no limit. */
  safeWalSize: number | null
  /** WAL that the slot keeps on the source's disk, and WAL that the stream has not acknowledged, in bytes. */
  walBytes: number
  behindBytes: number
  /** Who reads it now. */
  holder: Holder | null
  /** The process that decodes is at work, rather than waiting for somebody. */
  decoding: boolean
  /** Changes when the server starts again or loses its statistics in a crash. */
  serverStart: string
  /** Transactions decoded since the slot was made (PostgreSQL 14 and later); null when somebody has reset it. */
  decoded: number | null
  /** Its oid, which another publication of the same name does not share; null when it is gone. */
  publication: number | null
  /** The oldest transaction that keeps the slot from moving on: it writes, or is prepared. Age in milliseconds. */
  oldest: { pid: number | null; ageMs: number; application: string | null } | null
}

export interface Holder {
  pid: number
  application: string
  user: string
  address: string | null
  /** As the source writes the time. */
  since: string
}

/** Who holds a slot, in words. */
export function holderText(holder: Holder): string {
  const who = `${holder.application ? `${holder.application}, ` : ''}user ${holder.user}`
  return `PID ${holder.pid} (${who}${holder.address ? `, from ${holder.address}` : ''}), connected since ${holder.since}`
}

/** Undefined when there is no such slot. Needs no privilege beyond those of the migration user. */
export async function readSlotFacts(
  db: Database,
  slot: string,
  publication: string,
  since14: boolean,
): Promise<SlotFacts | undefined> {
  const { rows } = await db.query(
    `SELECT s.active, s.restart_lsn::text AS "restartLsn", s.confirmed_flush_lsn::text AS "confirmedFlushLsn",
            now.lsn::text AS lsn, to_jsonb(s) ->> 'wal_status' AS "walStatus",
            (to_jsonb(s) ->> 'safe_wal_size')::float8 AS "safeWalSize",
            coalesce(pg_catalog.pg_wal_lsn_diff(now.lsn, s.restart_lsn), 0)::float8 AS "walBytes",
            coalesce(pg_catalog.pg_wal_lsn_diff(now.lsn, s.confirmed_flush_lsn), 0)::float8 AS "behindBytes",
            CASE WHEN s.active THEN jsonb_build_object('pid', s.active_pid, 'application', coalesce(a.application_name, ''),
              'user', coalesce(a.usename, 'unknown'), 'address', host(a.client_addr),
              'since', coalesce(date_trunc('second', a.backend_start)::text, 'unknown')) END AS holder,
            s.active AND a.pid IS NOT NULL AND coalesce(a.wait_event_type, 'CPU') NOT IN ('Activity', 'Client', 'Lock')
              AS decoding,
            concat(pg_catalog.pg_postmaster_start_time(), ' ', (SELECT stats_reset FROM pg_catalog.pg_stat_bgwriter)) AS "serverStart",
            ${since14 ? '(SELECT total_txns FROM pg_catalog.pg_stat_replication_slots t WHERE t.slot_name = s.slot_name AND stats_reset IS NULL)' : 'NULL'}::float8 AS decoded,
            (SELECT oid::int8::float8 FROM pg_catalog.pg_publication WHERE pubname = $2) AS publication,
            (SELECT jsonb_build_object('pid', pid, 'ageMs', age, 'application', application) FROM (
               SELECT pid, extract(epoch FROM clock_timestamp() - xact_start) * 1000 AS age, application_name AS application
                 FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL AND datname = current_database()
               UNION ALL
               SELECT NULL, extract(epoch FROM clock_timestamp() - prepared) * 1000, NULL
                 FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()
               ORDER BY 2 DESC LIMIT 1) o) AS oldest
       FROM pg_catalog.pg_replication_slots s
       CROSS JOIN (SELECT pg_catalog.pg_current_wal_lsn() AS lsn) now
       LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
      WHERE s.slot_name = $1`,
    [slot, publication],
  )
  return rows[0]
}

/** LSNs in their order; `0/A` is before `1/0`. */
export function lsnNumber(lsn: string): bigint {
  const [high, low] = lsn.split('/') as [string, string]
  return (BigInt(`0x${high}`) << 32n) + BigInt(`0x${low}`)
}

/** One table of the plan, or a partition below it, as the source's catalog has it at a moment. */
export interface TableState {
  /** As `schema.table`. */
  name: string
  oid: number
  /** The file that holds its rows; TRUNCATE, VACUUM FULL and rewriting DDL give it another one. */
  file: number
  /** -1 (0 before PostgreSQL 14) after a TRUNCATE, until the table is analysed. */
  tuples: number
  /** `d` default, `f` full, `n` nothing, `i` index. */
  identity: string
  /** A digest of its columns and key. */
  digest: string
}

/** The plan's tables with their partitions, the publication's tables, and the schema's tables: one small query. */
export interface SourceState {
  tables: TableState[]
  /** As `schema.table`: what the publication sends. */
  published: string[]
  /** null when it is gone. */
  publication: PublicationMark | null
  /** Bare names of every table of the schema, partitions left out. */
  present: string[]
}

export async function readSourceState(db: Database, plan: Plan): Promise<SourceState> {
  const { rows } = await db.query(
    `WITH RECURSIVE tree AS (
       SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p')
       UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tree ON tree.oid = i.inhparent)
     SELECT (SELECT coalesce(jsonb_agg(jsonb_build_object('name', n.nspname || '.' || c.relname, 'oid', c.oid::int8,
               'file', c.relfilenode::int8, 'tuples', c.reltuples, 'identity', c.relreplident,
               'digest', md5((SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod, attnotnull, attgenerated, attidentity), ',' ORDER BY attnum)
                  FROM pg_catalog.pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
                 || coalesce((SELECT conkey::text FROM pg_catalog.pg_constraint WHERE conrelid = c.oid AND contype = 'p'), '')))
               ORDER BY 1), '[]')
               FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS tables,
            (SELECT coalesce(jsonb_agg(schemaname || '.' || tablename ORDER BY 1), '[]')
               FROM pg_catalog.pg_publication_tables WHERE pubname = $3) AS published,
            ${publicationMark(3)} AS publication,
            (SELECT coalesce(jsonb_agg(c.relname ORDER BY 1), '[]') FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition) AS present`,
    [plan.sourceSchema, plan.tables, plan.publication],
  )
  return rows[0]
}

/** Something that a watch saw. `ddl` is judged by `on-ddl`; `fatal` makes the stream's result wrong whatever is set. */
export interface Sighting {
  kind: 'ddl' | 'fatal' | 'warning'
  what: string
}

/**
 * What happened to the source's tables between two looks. A TRUNCATE is told from VACUUM FULL, CLUSTER and a move to
 * another tablespace by the row estimate: only TRUNCATE and DDL reset it, and DDL changes the digest as well.
 */
export function compareSourceStates(before: SourceState, after: SourceState, plan: Plan): Sighting[] {
  const found: Sighting[] = []
  const now = new Map(after.tables.map((table) => [table.oid, table]))
  for (const table of before.tables) {
    const other = now.get(table.oid)
    if (!other) found.push({ kind: 'ddl', what: `${table.name} was dropped, renamed or detached on the source` })
    else found.push(...compareState(table, other))
  }
  const known = new Set(before.tables.map((table) => table.oid))
  for (const table of after.tables)
    if (!known.has(table.oid))
      found.push({
        kind: 'ddl',
        what: `${table.name} was created on the source under a name of this migration, or as a partition below one`,
      })
  for (const name of after.present)
    if (!before.present.includes(name) && !plan.tables.includes(name)) found.push(createdTable(plan, name))
  for (const name of before.published)
    if (!after.published.includes(name))
      found.push({
        kind: 'fatal',
        what: `the publication ${plan.publication} does not send ${name} any more: its changes since then are lost, and the load must be repeated`,
      })
  return [...found, ...publicationSightings(before.publication, after.publication, plan)]
}

function createdTable(plan: Plan, name: string): Sighting {
  const what = `the table ${plan.sourceSchema}.${name} was created on the source; it is not part of this migration`
  return { kind: 'ddl', what }
}

/** A change of what is sent, even one that was undone within a second, may have kept changes back for ever. */
function publicationSightings(
  before: PublicationMark | null | undefined,
  after: PublicationMark | null,
  plan: Plan,
): Sighting[] {
  // One that was dropped is told by the look at the slot, whether or not another one has its name.
  const changes = before && after && before.oid === after.oid ? publicationChanges(before, after) : []
  if (!changes.length) return []
  return [{ kind: 'fatal', what: alteredPublication(plan, changes) }]
}

export function alteredPublication(plan: Plan, changes: readonly string[]): string {
  return `the publication ${plan.publication} was altered on the source (${changes.join('; ')}): changes in between may never have been sent, and the load must be repeated`
}

/** In place of the file of a table that was seen emptied: the next stream tells it again. */
const EMPTIED = -1

/** TRUNCATE and DDL alone reset the estimate of a table's rows, until it is analysed. */
const isReset = ({ tuples }: TableState) => tuples <= 0

/**
 * The files to hold a later look against.
 * @param known the files before this look
 * @param before the look before this one, which tells DDL
 */
export function filesAfter({ tables }: SourceState, known: TableFiles = {}, before?: SourceState): TableFiles {
  const digests = new Map(before?.tables.map(({ oid, digest }) => [oid, digest]))
  const emptied = (table: TableState) =>
    known[table.oid] === EMPTIED ||
    (known[table.oid] !== undefined &&
      known[table.oid] !== table.file &&
      isReset(table) &&
      (digests.get(table.oid) ?? table.digest) === table.digest)
  const stored = tables.filter(({ file }) => file !== 0)
  return Object.fromEntries(stored.map((table) => [table.oid, emptied(table) ? EMPTIED : table.file]))
}

/** What was done to the source's tables since they had these files, while no stream was there to see it. */
export function compareFiles(known: TableFiles, { tables }: SourceState): Sighting[] {
  return tables.flatMap((table): Sighting[] => {
    const file = known[table.oid]
    if (file === undefined || file === table.file) return []
    if (file !== EMPTIED && !isReset(table)) return [rewritten(table)]
    const what = `${table.name} was emptied by TRUNCATE on the source, or rewritten by DDL, since the load began; no stream carries that: the target may still have its rows, and the load must be repeated`
    return [{ kind: 'fatal', what }]
  })
}

function rewritten({ name }: TableState): Sighting {
  const what = `${name} was rewritten on the source (VACUUM FULL, CLUSTER or the like); a TRUNCATE after which it was filled and analysed looks the same, and only a verify tells`
  return { kind: 'warning', what }
}

function compareState(before: TableState, after: TableState): Sighting[] {
  const found: Sighting[] = []
  if (before.name !== after.name)
    found.push({ kind: 'ddl', what: `${before.name} was renamed to ${after.name} on the source` })
  if (before.identity !== after.identity)
    found.push({
      kind: 'ddl',
      what: `REPLICA IDENTITY of ${after.name} was changed from ${identityName(before.identity)} to ${identityName(after.identity)} on the source`,
    })
  if (before.digest !== after.digest)
    found.push({ kind: 'ddl', what: `the columns or the key of ${after.name} were changed on the source` })
  else if (before.file !== after.file && isReset(after) && before.file !== 0)
    found.push({
      kind: 'fatal',
      what: `a TRUNCATE was run on ${after.name} on the source, which the stream does not carry: the target still has its rows, and the load must be repeated`,
    })
  else if (before.file !== after.file) found.push(rewritten(after))
  return found
}

function identityName(identity: string): string {
  return ({ d: 'DEFAULT', f: 'FULL', n: 'NOTHING', i: 'USING INDEX' } as Record<string, string>)[identity] ?? identity
}

/** What was changed in tables of one side between two looks, column by column. */
export function schemaChanges(before: readonly Table[], after: readonly Table[], side: string): string[] {
  const now = new Map(after.map((table) => [table.name, table]))
  return before.flatMap((table) => {
    const other = now.get(table.name)
    const name = `${table.schema}.${table.name}`
    if (!other) return [`${name} was dropped or renamed on the ${side}`]
    const found: string[] = []
    const columns = new Map(other.columns.map((column) => [column.name, column]))
    for (const column of table.columns) {
      const changed = columns.get(column.name)
      if (!changed) found.push(`the column ${column.name} of ${name} was dropped or renamed on the ${side}`)
      else if (JSON.stringify(changed) !== JSON.stringify(column))
        found.push(
          changed.type === column.type
            ? `the column ${column.name} of ${name} was changed on the ${side}`
            : `the column ${column.name} of ${name} was changed from ${column.type} to ${changed.type} on the ${side}`,
        )
    }
    const known = new Set(table.columns.map((column) => column.name))
    for (const column of other.columns)
      if (!known.has(column.name)) found.push(`the column ${column.name} was added to ${name} on the ${side}`)
    if (table.key.join() !== other.key.join())
      found.push(`the primary key of ${name} was changed to (${other.key.join(', ')}) on the ${side}`)
    return found
  })
}

/** Sessions that write to the target and are not the stream's, on PostgreSQL; each as text for a person. */
async function writersOnPostgres(db: Database): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT pid, application_name AS application, usename AS user FROM pg_catalog.pg_stat_activity
      WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()
        AND application_name NOT IN ('molt-actions', $1, 'replicator')`,
    [STREAM_APPLICATION],
  )
  return rows.map(({ application, user }) => `${application || 'an application without a name'} (user ${user})`)
}

/** The same on CockroachDB, by its documented SHOW CLUSTER SESSIONS; needs VIEWACTIVITY. Not exercised on a cluster. */
async function writersOnCockroach(db: Database): Promise<string[]> {
  const { rows } = await db.query('SELECT application_name, user_name, active_queries FROM [SHOW CLUSTER SESSIONS]')
  return rows
    .filter(({ active_queries }) => /^\s*(INSERT|UPSERT|UPDATE|DELETE|TRUNCATE)/i.test(active_queries ?? ''))
    .filter(({ application_name }) => !['molt-actions', STREAM_APPLICATION, 'replicator'].includes(application_name))
    .filter(({ application_name }) => !/^\$ internal/.test(application_name))
    .map(({ application_name, user_name }) => `${application_name || 'an application'} (user ${user_name})`)
}

/** On PostgreSQL: whether the stream's own session is writing right now, and who blocks it if somebody does. */
export async function applying(db: Database): Promise<{ busy: boolean; blocked: string | null }> {
  const { rows } = await db.query(
    `SELECT coalesce(bool_or(a.wait_event_type IS DISTINCT FROM 'Lock' AND (a.state = 'active'
              OR a.backend_xid IS NOT NULL AND a.state_change > clock_timestamp() - interval '2 s')), false) AS busy,
            (SELECT string_agg(DISTINCT format('PID %s (%s)', b.pid, coalesce(nullif(b.application_name, ''), 'unnamed')), ', ')
               FROM pg_catalog.pg_stat_activity w JOIN pg_catalog.pg_stat_activity b ON b.pid = ANY(pg_catalog.pg_blocking_pids(w.pid))
              WHERE w.wait_event_type = 'Lock' AND w.datname = current_database()
                AND w.application_name IN ($1, 'replicator')) AS blocked
       FROM pg_catalog.pg_stat_activity a
      WHERE a.datname = current_database() AND a.application_name IN ($1, 'replicator')`,
    [STREAM_APPLICATION],
  )
  return rows[0]
}

export interface WatchLimits {
  onDdl: 'fail' | 'warn'
  /** Bytes of WAL that the slot may keep on the source. */
  walBudget: number
  onWalBudget: 'fail' | 'drop-slot'
}

const LONG_TRANSACTION = 5 * 60_000

/** What the slot's numbers say about the source's disk. */
export function walSightings(slot: SlotFacts, limits: WatchLimits): Sighting[] {
  const found: Sighting[] = []
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20).toLocaleString('en-US')} MiB`
  if (slot.walStatus === 'lost')
    found.push({
      kind: 'fatal',
      what: 'the slot has lost WAL that the stream needs (wal_status lost); the load must be repeated',
    })
  else if (slot.walStatus === 'unreserved')
    found.push({
      kind: 'warning',
      what: 'the source may throw away WAL that the stream needs at the next checkpoint (wal_status unreserved); raise max_slot_wal_keep_size now',
    })
  if (slot.walBytes > limits.walBudget / 2 && slot.walBytes <= limits.walBudget)
    found.push({
      kind: 'warning',
      what: `the slot keeps more than half of \`wal-budget\` (${mib(limits.walBudget)}) on the source's disk`,
    })
  if (slot.safeWalSize !== null && slot.safeWalSize < slot.walBytes && slot.walStatus !== 'lost')
    found.push({
      kind: 'warning',
      what: 'more than half of what the source keeps for a slot is used up (safe_wal_size); the slot is invalidated at its end',
    })
  if (slot.oldest && slot.oldest.ageMs > LONG_TRANSACTION)
    found.push({
      kind: 'warning',
      what: `${slot.oldest.pid === null ? 'a prepared transaction' : `the transaction of PID ${slot.oldest.pid} (${slot.oldest.application || 'unnamed'})`} on the source has been writing for more than ${seconds(LONG_TRANSACTION)}; the slot cannot release WAL before it ends`,
    })
  return found
}

/**
 * Looks at both sides while a stream runs: schema changes, TRUNCATE, the publication, other writers. One small query
 * on the source each time, and one on the target every fifth time. What was seen is told once.
 */
export class Watch {
  readonly #plan: Plan
  readonly #limits: WatchLimits
  readonly #publication: PublicationMark | undefined
  #files: TableFiles
  #source: SourceState | undefined
  #sourceTables: Table[] = []
  #target: Table[] | undefined
  #told = new Set<string>()
  #looks = 0
  #writersKnown = true
  /** How the two sides' tables differ now, for the error of a stream that is stuck. */
  differences: string[] = []

  /**
   * @param publication as it was when it was found to be right
   * @param files as they were before the stream began
   */
  constructor(plan: Plan, limits: WatchLimits, publication?: PublicationMark, files: TableFiles = {}) {
    this.#plan = plan
    this.#limits = limits
    this.#publication = publication
    this.#files = files
  }

  /** As they were in the last look: what happens after it is for the next stream to find. */
  get files(): TableFiles {
    return this.#files
  }

  /** `kind` is `warning` or `fatal` in what is returned: `on-ddl` has been applied. */
  async lookAtSource(db: Database): Promise<Sighting[]> {
    const state = await readSourceState(db, this.#plan)
    const before = this.#source
    this.#source = state
    const files = this.#files
    this.#files = filesAfter(state, files, before)
    if (!before) {
      const created = newTables(this.#plan, state.present)
      this.#sourceTables = await this.#planned(db, this.#plan.sourceSchema)
      return this.#news([
        ...this.#outsiders(state),
        ...compareFiles(files, state),
        ...created.map((name) => createdTable(this.#plan, name)),
        ...publicationSightings(this.#publication, state.publication, this.#plan),
      ])
    }
    const found = compareSourceStates(before, state, this.#plan)
    if (found.some((sighting) => sighting.kind === 'ddl')) {
      const tables = await this.#planned(db, this.#plan.sourceSchema)
      const named = schemaChanges(this.#sourceTables, tables, 'source')
      this.#sourceTables = tables
      return this.#news([
        // In place of "the columns were changed", which columns.
        ...found.filter(({ what }) => !named.length || !/^the columns or the key of/.test(what)),
        ...named.map((what) => ({ kind: 'ddl' as const, what })),
      ])
    }
    return this.#news(found)
  }

  async lookAtTarget(db: Database, isCockroach: boolean): Promise<Sighting[]> {
    if (this.#looks++ % 5) return this.#news(await this.#writers(db, isCockroach))
    const tables = await this.#planned(db, this.#plan.targetSchema)
    const before = this.#target
    this.#target = tables
    this.differences = compareTables(this.#sourceTables, tables).map(({ what }) => what)
    if (!before) return []
    return this.#news(schemaChanges(before, tables, 'target').map((what) => ({ kind: 'ddl' as const, what })))
  }

  /** Of the schema's tables only those of the plan: the heartbeat stands among them on the target. */
  async #planned(db: Database, schema: string): Promise<Table[]> {
    return (await readTables(db, schema)).filter(({ name }) => this.#plan.tables.includes(name))
  }

  #outsiders(state: SourceState): Sighting[] {
    const own = new Set([
      ...this.#plan.tables.map((table) => `${this.#plan.sourceSchema}.${table}`),
      `${OUR_SCHEMA}.${HEARTBEAT}`,
    ])
    return [...own]
      .filter((name) => !state.published.includes(name))
      .map((name) => ({
        kind: 'fatal',
        what: `the publication ${this.#plan.publication} does not send ${name}`,
      }))
  }

  async #writers(db: Database, isCockroach: boolean): Promise<Sighting[]> {
    if (!this.#writersKnown) return []
    try {
      const writers = await (isCockroach ? writersOnCockroach(db) : writersOnPostgres(db))
      return writers.map((who) => ({
        kind: 'warning',
        what: `${who} writes to the target while it is being filled; such rows can be overwritten, or fail the verify`,
      }))
    } catch (error) {
      // Without the privilege to see other sessions there is nothing to watch.
      if (/^(42501|42P01|42601|0A000)$/.test((error as { code?: string }).code ?? '')) this.#writersKnown = false
      else throw error
      return []
    }
  }

  #news(found: readonly Sighting[]): Sighting[] {
    return found.flatMap((sighting) => {
      if (this.#told.has(sighting.what)) return []
      this.#told.add(sighting.what)
      if (sighting.kind !== 'ddl') return [sighting]
      return [{ ...sighting, kind: this.#limits.onDdl === 'fail' ? 'fatal' : 'warning' }]
    })
  }
}

/** The replicator's own note of how far it came, which wins over the slot. Undefined when it has none yet. */
export async function readMemo(db: Database, stagingSchema: string, targetSchema: string): Promise<string | undefined> {
  const there = await db.query(
    `SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $1 AND c.relname = 'memo'`,
    [stagingSchema],
  )
  if (!there.rows[0]) return undefined
  const { rows } = await db.query(
    `SELECT convert_from(value, 'UTF8') AS lsn FROM ${ident(stagingSchema)}.memo WHERE key = $1`,
    [`pglogical-wal-offset-${targetSchema}`],
  )
  return /^[0-9A-F]+\/[0-9A-F]+$/i.test(rows[0]?.lsn ?? '') ? rows[0].lsn : undefined
}
