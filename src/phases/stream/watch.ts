import { readLockHolders } from '../../destination/activity.ts'
import { type OfflineTable, offlineText, readOffline } from '../../destination/jobs.ts'
import { newTables } from '../../ledger/schema-changes.ts'
import type { Plan } from '../../model/plan.ts'
import { compareTables, type Table } from '../../model/tables.ts'
import { type Database, type Side, sqlState } from '../../runtime/database.ts'
import { seconds } from '../../runtime/progress.ts'
import {
  compareFiles,
  compareSourceStates,
  createdTable,
  filesAfter,
  type Observation,
  publicationObservations,
  readSourceState,
  type SchemaChange,
  type SourceState,
  type TableFiles,
} from '../../source/changes.ts'
import { HEARTBEAT, OUR_SCHEMA } from '../../source/heartbeat.ts'
import type { PublicationMark } from '../../source/publication.ts'
import type { SlotFacts } from '../../source/slot.ts'
import { readSchema } from '../../sql/schema.ts'
import { readTables } from '../../sql/tables.ts'
import { withTriggers } from '../../sql/triggers.ts'
import { STREAM_APPLICATION } from '../../tools/replicator.ts'

/** Lists how one side's tables changed between two readings, column by column. */
export function tableChanges(before: readonly Table[], after: readonly Table[], side: Side): Observation[] {
  const change = (kind: SchemaChange, what: string): Observation => ({
    kind,
    severity: 'ddl',
    what: `${what} on the ${side}`,
  })
  const now = new Map(after.map((table) => [table.name, table]))
  return before.flatMap((table) => {
    const other = now.get(table.name)
    const name = `${table.schema}.${table.name}`
    if (!other) return [change('table-gone', `${name} was dropped or renamed`)]
    const found: Observation[] = []
    const columns = new Map(other.columns.map((column) => [column.name, column]))
    for (const column of table.columns) {
      const changed = columns.get(column.name)
      if (!changed) found.push(change('column-changed', `the column ${column.name} of ${name} was dropped or renamed`))
      else if (JSON.stringify(changed) !== JSON.stringify(column))
        found.push(
          change(
            'column-changed',
            changed.type === column.type
              ? `the column ${column.name} of ${name} was changed`
              : `the column ${column.name} of ${name} was changed from ${column.type} to ${changed.type}`,
          ),
        )
    }
    const known = new Set(table.columns.map((column) => column.name))
    for (const column of other.columns)
      if (!known.has(column.name))
        found.push(change('column-changed', `the column ${column.name} was added to ${name}`))
    if (table.key.join() !== other.key.join())
      found.push(change('key-changed', `the primary key of ${name} was changed to (${other.key.join(', ')})`))
    return found
  })
}

/** Triggers of these tables on the target, as `table.trigger`. */
async function triggersOf(db: Database, { targetSchema, tables }: Plan): Promise<string[]> {
  const { actions = [] } = await withTriggers(db, await readSchema(db, 'target', targetSchema), tables)
  return actions.flatMap(({ kind, table, name }) =>
    kind === 'trigger' && tables.includes(table) ? `${table}.${name}` : [],
  )
}

/** Other sessions that are writing to a PostgreSQL target, such as `billing (user app)`. */
export async function writersOnPostgres(db: Database): Promise<string[]> {
  const { rows } = await db.query(
    `SELECT pid, application_name AS application, usename AS user FROM pg_catalog.pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()
        AND application_name NOT IN ('molt-actions', $1, 'replicator')
        -- Locking rows takes RowShareLock, and a transaction id just like a write.
        AND EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = pg_stat_activity.pid AND l.granted
                       AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock')`,
    [STREAM_APPLICATION],
  )
  return rows.map(({ application, user }) => `${application || 'an unnamed application'} (user ${user})`)
}

/**
 * Other sessions that are writing to a CockroachDB target, from SHOW CLUSTER SESSIONS [doc], which requires
 * VIEWACTIVITY. Not yet tested on a cluster.
 */
async function writersOnCockroach(db: Database): Promise<string[]> {
  const { rows } = await db.query('SELECT application_name, user_name, active_queries FROM [SHOW CLUSTER SESSIONS]')
  return rows
    .filter(({ active_queries }) => /^\s*(INSERT|UPSERT|UPDATE|DELETE|TRUNCATE)/i.test(active_queries ?? ''))
    .filter(({ application_name }) => !['molt-actions', STREAM_APPLICATION, 'replicator'].includes(application_name))
    .filter(({ application_name }) => !/^\$ internal/.test(application_name))
    .map(({ application_name, user_name }) => `${application_name || 'an unnamed application'} (user ${user_name})`)
}

/**
 * What blocks the stream's session on CockroachDB; null if nothing does or this role cannot see locks. `busy` is always
 * false.
 */
export async function applyingOnCockroach(db: Database): Promise<{ busy: boolean; blocked: string | null }> {
  try {
    return { busy: false, blocked: (await readLockHolders(db, [STREAM_APPLICATION, 'replicator'])).join(', ') || null }
  } catch (error) {
    if (!/^(42501|42P01)$/.test(sqlState(error) ?? '')) throw error
    return { busy: false, blocked: null }
  }
}

/** Whether the stream's session is currently writing to PostgreSQL, and what blocks it. */
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
  /** Maximum WAL that the slot may keep on the source, in bytes. */
  walBudget: number
  onWalBudget: 'fail' | 'drop-slot'
}

const LONG_TRANSACTION = 5 * 60_000

/** Returns observations about the WAL that the slot keeps on the source's disk. */
export function walObservations(slot: SlotFacts, limits: WatchLimits): Observation[] {
  const found: Observation[] = []
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20).toLocaleString('en-US')} MiB`
  if (slot.walStatus === 'lost')
    found.push({
      kind: 'wal-lost',
      severity: 'fatal',
      what: 'the source has removed WAL that the stream still needs (wal_status lost). Repeat the load',
    })
  else if (slot.walStatus === 'unreserved')
    found.push({
      kind: 'wal-unreserved',
      severity: 'warning',
      what: 'at its next checkpoint, the source may remove WAL that the stream still needs (wal_status unreserved). Raise max_slot_wal_keep_size now',
    })
  if (slot.walBytes > limits.walBudget / 2 && slot.walBytes <= limits.walBudget)
    found.push({
      kind: 'wal-budget-half-used',
      severity: 'warning',
      what: `the WAL that the slot keeps on the source's disk exceeds half of \`wal-budget\` (${mib(limits.walBudget)})`,
    })
  if (slot.safeWalSize !== null && slot.safeWalSize < slot.walBytes && slot.walStatus !== 'lost')
    found.push({
      kind: 'wal-limit-half-used',
      severity: 'warning',
      what: 'the slot has used more than half of the WAL that the source will keep for it (safe_wal_size). At the limit, the source invalidates the slot. Raise max_slot_wal_keep_size',
    })
  if (slot.oldest && slot.oldest.ageMs > LONG_TRANSACTION)
    found.push({
      kind: 'long-transaction',
      severity: 'warning',
      what: `${slot.oldest.pid === null ? 'a prepared transaction' : `the transaction of PID ${slot.oldest.pid} (${slot.oldest.application || 'unnamed'})`} on the source has been writing for more than ${seconds(LONG_TRANSACTION)}. Until it ends, the slot cannot release WAL`,
    })
  return found
}

/**
 * Watches both sides while a stream runs, for schema changes, TRUNCATE, a changed publication and other writers. Each
 * look is one small query on each side: on the target, usually for other writers, but every fifth time for its tables.
 * Reports each observation once.
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
  /** Triggers of the planned tables on the target, as `table.trigger`; empty until requested. */
  triggers: readonly string[] = []
  /** Current differences between the two sides' tables, for the error about a stuck stream. */
  differences: string[] = []

  /**
   * @param publication state of the publication when it was checked
   * @param files files of the source's tables before the stream started
   */
  constructor(plan: Plan, limits: WatchLimits, publication?: PublicationMark, files: TableFiles = {}) {
    this.#plan = plan
    this.#limits = limits
    this.#publication = publication
    this.#files = files
  }

  /** Files at the last reading. The next stream compares with them to find later changes. */
  get files(): TableFiles {
    return this.#files
  }

  /**
   * Looks for changes on the source.
   * @returns new observations. For schema changes, `on-ddl` sets the severity
   */
  async lookAtSource(db: Database): Promise<Observation[]> {
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
        ...publicationObservations(this.#publication, state.publication, this.#plan),
      ])
    }
    const found = compareSourceStates(before, state, this.#plan)
    if (found.some(({ severity }) => severity === 'ddl')) {
      const tables = await this.#planned(db, this.#plan.sourceSchema)
      const named = tableChanges(this.#sourceTables, tables, 'source')
      this.#sourceTables = tables
      return this.#news([
        // If the changed columns are known, drop the general "the columns were changed".
        ...found.filter(({ kind }) => !named.length || kind !== 'columns-changed'),
        ...named,
      ])
    }
    return this.#news(found)
  }

  /**
   * Looks for changes and other writers on the target.
   * @param named whether to read the names of triggers
   */
  async lookAtTarget(db: Database, isCockroach: boolean, named = false): Promise<Observation[]> {
    if (named) this.triggers = await triggersOf(db, this.#plan)
    if (this.#looks++ % 5) return this.#news(await this.#writers(db, isCockroach))
    const tables = await this.#planned(db, this.#plan.targetSchema)
    const offline = isCockroach ? await this.#offline(db, tables) : []
    const before = this.#target
    // Keep the definition of an offline table until the table is back.
    const hidden = new Set(offline.map(({ table }) => table))
    this.#target = [...tables, ...(before ?? []).filter(({ schema, name }) => hidden.has(`${schema}.${name}`))]
    this.differences = [
      ...offline.map(offlineText),
      ...compareTables(this.#sourceTables, tables)
        .filter(({ kind, table }) => kind !== 'missing-on-target' || !hidden.has(this.#onTarget(table)))
        .map(({ what }) => what),
    ]
    return this.#news([
      ...offline.map((each): Observation => ({ kind: 'table-offline', severity: 'ddl', what: offlineText(each) })),
      ...(before ? tableChanges(before, this.#target, 'target') : []),
    ])
  }

  async #offline(db: Database, tables: readonly Table[]): Promise<OfflineTable[]> {
    const there = new Set(tables.map(({ name }) => name))
    const hidden = this.#plan.tables.filter((name) => !there.has(name))
    return hidden.length ? readOffline(db, this.#plan.targetSchema, hidden) : []
  }

  /** The target's name for a source table. */
  #onTarget(table: string): string {
    return `${this.#plan.targetSchema}.${table.slice(this.#plan.sourceSchema.length + 1)}`
  }

  /** Reads the plan's tables. On the target, the schema also has the heartbeat, which is left out. */
  async #planned(db: Database, schema: string): Promise<Table[]> {
    return (await readTables(db, schema)).filter(({ name }) => this.#plan.tables.includes(name))
  }

  #outsiders(state: SourceState): Observation[] {
    const own = new Set([
      ...this.#plan.tables.map((table) => `${this.#plan.sourceSchema}.${table}`),
      `${OUR_SCHEMA}.${HEARTBEAT}`,
    ])
    return [...own]
      .filter((name) => !state.published.includes(name))
      .map((name) => ({
        kind: 'table-unpublished',
        severity: 'fatal',
        what: `the publication ${this.#plan.publication} does not send ${name}`,
      }))
  }

  async #writers(db: Database, isCockroach: boolean): Promise<Observation[]> {
    if (!this.#writersKnown) return []
    try {
      const writers = await (isCockroach ? writersOnCockroach(db) : writersOnPostgres(db))
      return writers.map((who) => ({
        kind: 'foreign-writer',
        severity: 'warning',
        what: `${who} is writing to the target while changes stream. Its rows may be overwritten or make the verify fail. Stop it`,
      }))
    } catch (error) {
      // Stop looking if this role lacks the privilege to see other sessions.
      if (!/^(42501|42P01|42601|0A000)$/.test(sqlState(error) ?? '')) throw error
      this.#writersKnown = false
      return []
    }
  }

  #news(found: readonly Observation[]): Observation[] {
    return found.flatMap((observation) => {
      if (this.#told.has(observation.what)) return []
      this.#told.add(observation.what)
      if (observation.severity !== 'ddl') return [observation]
      return [{ ...observation, severity: this.#limits.onDdl === 'fail' ? 'fatal' : 'warning' }]
    })
  }
}
