import type { Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { formatLsn, type Lsn } from '../../src/source/pgoutput.ts'
import {
  ApplyError,
  merged,
  parseSchemaName,
  proposals,
  quotedTable,
  readTargetSchema,
  type SchemaName,
  statementsFor,
  type TargetSchema,
  TargetWriter,
  type Transaction,
} from './apply.ts'
import { type FlagSpec, type Flags, flagUsages, parseFlags } from './flags.ts'
import { Memo } from './memo.ts'
import { listenError, Metrics, REPLICATOR_VERSION, serveMetrics } from './molt-log.ts'
import { type Endpoint, errorText, ident, open, parseEndpoint, rows, sqlState } from './pg.ts'
import { goDuration, type LogFields, ReplicatorLog } from './replicator-log.ts'
import { Decoder, SourceStream } from './stream.ts'

const GLOBAL_FLAGS: readonly FlagSpec[] = [
  ['gracePeriod', 'duration', '30s', 'allow background processes to exit'],
  ['logDestination', 'string', '', 'write logs to a file, instead of stdout'],
  ['logFormat', 'string', 'text', 'choose log output format [ fluent, text ]'],
  ['verbose', 'count', '0', 'increase logging verbosity to debug; repeat for trace'],
]

/** Flags of `replicator pglogical`, from the real build that we ran and from the current documentation. */
export const PGLOGICAL_FLAGS: readonly FlagSpec[] = [
  ['sourceConn', 'string', '', "the source database's connection string"],
  ['targetConn', 'string', '', "the target database's connection string"],
  ['targetSchema', 'string', '', 'the SQL database schema in the target cluster to update'],
  ['stagingConn', 'string', '', "the staging database's connection string (default: the target's)"],
  ['stagingSchema', 'string', '_replicator.public', 'a SQL database schema to store metadata in'],
  ['stagingCreateSchema', 'bool', 'false', 'automatically create the staging schema if it does not exist'],
  ['slotName', 'string', 'replicator', 'the replication slot in the source database'],
  ['publicationName', 'string', '', 'the publication within the source database to replicate'],
  ['standbyTimeout', 'duration', '5s', 'how often to report WAL progress to the source server'],
  ['metricsAddr', 'string', '', 'a host:port on which to serve metrics and diagnostics'],
  ['schemaRefresh', 'duration', '1m0s', 'how often to scan for schema changes; zero disables'],
  ['enableToastedColumns', 'bool', 'false', 'Enable support for toasted columns'],
  ['userscript', 'string', '', 'the path to a configuration script; not supported by the stand-in'],
  [
    'dlqTableName',
    'string',
    'replicator_dlq',
    'the name of a table in the target schema for storing dead-letter entries',
  ],
  ...[
    'flushSize=1000',
    'parallelism=16',
    'scanSize=10000',
    'timestampLimit=1000',
    'targetStatementCacheSize=128',
    'stagingMaxPoolSize=128',
    'targetMaxPoolSize=128',
    'maxRetries=10',
    'retryMultiplier=2',
    'targetApplyQueueSize=1000',
    'stageMarkAppliedLimit=100000',
  ].map((text) => unused(text, 'int')),
  ...[
    'flushPeriod=1s',
    'applyTimeout=30s',
    'quiescentPeriod=10s',
    'retireOffset=24h0m0s',
    'taskGracePeriod=1m0s',
    'stagingIdleTime=1m0s',
    'stagingJitterTime=15s',
    'stagingMaxLifetime=5m0s',
    'targetIdleTime=1m0s',
    'targetJitterTime=15s',
    'targetMaxLifetime=5m0s',
    'retryInitialBackoff=25ms',
    'retryMaxBackoff=2s',
    'stageSanityCheckPeriod=10m0s',
    'stageSanityCheckWindow=1h0m0s',
    'stageUnappliedPeriod=1m0s',
    'metricsSnapshotPeriod=0s',
    'metricsSnapshotRetentionTime=168h0m0s',
  ].map((text) => unused(text, 'duration')),
  ...['enableParallelApplies=false', 'collapseMutations=true', 'stageDisableCreateTableReaderIndex=false'].map((text) =>
    unused(text, 'bool'),
  ),
  ...['dataDir=replicator-data', 'metricsSnapshotCompression=gzip', 'metricsSnapshotRetentionSize='].map((text) =>
    unused(text, 'string'),
  ),
]

/** A flag of the real tool that has no effect in the stand-in. */
function unused(text: string, kind: FlagSpec[1]): FlagSpec {
  const [name, def] = text.split('=') as [string, string]
  return [name, kind, def, 'accepted without effect; the stand-in uses one connection and one transaction at a time']
}

const ROOT_HELP = `Usage:
  replicator [command]

Available Commands:
  pglogical   start a pg logical replication feed
  version     print the build's bill-of-materials

The embedded stand-in for rehearsals: PostgreSQL to PostgreSQL.
`

/**
 * Runs the embedded stand-in for `replicator` until SIGTERM or SIGINT. The log goes to standard error.
 * @param argv arguments after the program's name
 * @returns the exit code
 */
export async function replicatorMain(argv: string[]): Promise<number> {
  const at = argv.findIndex((arg) => !arg.startsWith('-'))
  const name = at < 0 ? undefined : argv[at]
  if (name === 'version') return version()
  if (name === undefined && argv.length > 0 && !argv.includes('--help') && !argv.includes('-h'))
    return exited(new ReplicatorLog(0, 'text', ''), new Error(`unknown flag: ${argv[0]}`))
  if (name === undefined || name === 'help') {
    process.stdout.write(ROOT_HELP)
    return 0
  }
  if (name !== 'pglogical')
    return exited(
      new ReplicatorLog(0, 'text', ''),
      new Error(`unknown command ${JSON.stringify(name)} for "replicator"`),
    )
  return pglogical([...argv.slice(0, at), ...argv.slice(at + 1)])
}

function version(): number {
  const log = new ReplicatorLog(0, 'text', '')
  log.line('info', 'replicator', buildFields())
  log.flush()
  return 0
}

function buildFields(): LogFields {
  return {
    arch: process.arch,
    build: `v${REPLICATOR_VERSION}`,
    os: process.platform,
    runtime: `node${process.version}`,
  }
}

async function pglogical(argv: string[]): Promise<number> {
  let log = new ReplicatorLog(0, 'text', '')
  try {
    const { flags, args, help } = parseFlags(argv, [...PGLOGICAL_FLAGS, ...GLOBAL_FLAGS])
    if (help) {
      const text = `Usage:\n  replicator pglogical [flags]\n\nFlags:\n${flagUsages(PGLOGICAL_FLAGS)}\n\nGlobal Flags:\n${flagUsages(GLOBAL_FLAGS)}\n`
      process.stdout.write(`start a pg logical replication feed (embedded stand-in)\n\n${text}`)
      return 0
    }
    if (args.length) throw new Error(`unknown command ${JSON.stringify(args[0])} for "replicator pglogical"`)
    log = new ReplicatorLog(flags.int('verbose'), flags.str('logFormat'), flags.str('logDestination'))
    log.line('info', 'Replicator starting', buildFields())
    const replicator = new Replicator(flags, log)
    await replicator.run()
    log.flush()
    return 0
  } catch (error) {
    return exited(log, error)
  }
}

function exited(log: ReplicatorLog, error: unknown): number {
  log.line('error', 'exited', { detail: errorText(error), error: errorText(error) })
  log.flush()
  return 1
}

/** Pause between retries. Their number is unlimited. */
const RETRY_MS = 100
class Replicator {
  private readonly flags: Flags
  private readonly log: ReplicatorLog
  private readonly metrics = declareMetrics()
  private readonly source: Endpoint
  private readonly target: Endpoint
  private readonly targetSchema: SchemaName
  private readonly writer: TargetWriter
  private readonly memo: Memo
  private schema: TargetSchema = { tables: new Map(), order: [] }
  /** Commit record of the last applied transaction; this position is acknowledged. */
  private offset: Lsn = 0n
  private stopping = false
  private readonly stopped = new AbortController()
  private stream: SourceStream | undefined

  constructor(flags: Flags, log: ReplicatorLog) {
    this.flags = flags
    this.log = log
    const need = (name: string, message: string) => {
      if (!flags.str(name)) throw new Error(message)
      return flags.str(name)
    }
    this.target = parseEndpoint(need('targetConn', 'targetConn must be set'), 'replicator')
    need('publicationName', 'no publication name was configured')
    need('slotName', 'no replication slot name was configured')
    this.source = parseEndpoint(need('sourceConn', 'no source connection was configured'), 'replicator')
    this.targetSchema = parseSchemaName(need('targetSchema', 'no target schema specified'))
    if (flags.str('userscript')) throw new Error('the embedded stand-in does not support --userscript')
    const staging = parseSchemaName(flags.str('stagingSchema'))
    const stagingConn = flags.str('stagingConn') || flags.str('targetConn')
    this.memo = new Memo(log, parseEndpoint(stagingConn, 'replicator'), staging, this.targetSchema)
    this.writer = new TargetWriter(this.target, this.targetSchema)
  }

  /** Resolves after SIGTERM or SIGINT. Throws if it cannot start. */
  async run(): Promise<void> {
    const interrupt = () => this.stop()
    process.once('SIGTERM', interrupt)
    process.once('SIGINT', interrupt)
    let server: Server | undefined
    let refresh: NodeJS.Timeout | undefined
    try {
      await this.prepare()
      server = await this.serve()
      const every = this.flags.duration('schemaRefresh')
      if (every > 0) refresh = setInterval(() => void this.refreshSchema(), every)
      await this.retryForEver()
    } finally {
      clearInterval(refresh)
      process.off('SIGTERM', interrupt)
      process.off('SIGINT', interrupt)
      server?.close()
      server?.closeAllConnections()
      await this.memo.close(this.offset)
      await this.writer.close()
    }
  }

  private stop(): void {
    this.log.line('info', 'Interrupted')
    this.stopping = true
    this.stopped.abort()
    this.stream?.close()
    // Does not wait for a transaction that is being applied.
    setTimeout(() => void this.writer.close(), 100)
  }

  /** Makes the checks that the real tool makes before it starts. Each failure ends the process with exit code 1. */
  private async prepare(): Promise<void> {
    await this.loadSchema().catch((error) => {
      throw new Error(`could not determine cluster version: ${errorText(error)}`)
    })
    await this.memo.prepare(this.flags.bool('stagingCreateSchema'))
    const source = await open(this.source).catch((error) => {
      throw new Error(`could not connect to source database: ${errorText(error)}`)
    })
    try {
      const count = async (sql: string, name: string) => (await rows(source, sql, [name])).length
      const publication = this.flags.str('publicationName')
      if (!(await count('SELECT 1 FROM pg_publication WHERE pubname = $1', publication)))
        throw new Error(`run CREATE PUBLICATION ${publication} FOR ALL TABLES; in source database`)
      const slot = this.flags.str('slotName')
      if (!(await count('SELECT 1 FROM pg_replication_slots WHERE slot_name = $1', slot)))
        throw new Error(
          `run SELECT pg_create_logical_replication_slot('${slot}', 'pgoutput'); in source database, then perform bulk data copy`,
        )
    } finally {
      await source.end().catch(() => {})
    }
    this.offset = await this.memo.get()
  }

  private async serve(): Promise<Server | undefined> {
    const address = this.flags.str('metricsAddr')
    if (!address) return undefined
    try {
      const server = await serveMetrics(address, '/_/varz', '/_/healthz', () => this.metricsText())
      const bound = server.address()
      const text = bound && typeof bound === 'object' ? `${bound.address}:${bound.port}` : address
      this.log.line('info', `metrics server bound to ${text}`)
      return server
    } catch (error) {
      throw new Error(listenError(address, error))
    }
  }

  private metricsText(): string {
    for (const [level, count] of this.log.counts) this.metrics.set('log_message_count', count, { level })
    return this.metrics.text()
  }

  private async loadSchema(): Promise<void> {
    const client = await open(this.target)
    try {
      this.schema = await readTargetSchema(client, this.targetSchema.schema)
    } finally {
      await client.end().catch(() => {})
    }
  }

  private async refreshSchema(): Promise<void> {
    try {
      await this.loadSchema()
    } catch (error) {
      const target = [this.targetSchema.database, this.targetSchema.schema].map(ident).join('.')
      this.log.line('warning', 'schema refresh failed', { error: errorText(error), target })
    }
  }

  private async retryForEver(): Promise<void> {
    while (!this.stopping) {
      try {
        await this.copyMessages()
      } catch (error) {
        if (this.stopping) break
        this.reportRetry(error)
        await sleep(RETRY_MS, undefined, { signal: this.stopped.signal }).catch(() => {})
      }
    }
  }

  private reportRetry(error: unknown): void {
    const cause = error instanceof ApplyError ? error.cause : error
    const text = error instanceof ApplyError ? error.message : errorText(error)
    const fields: LogFields = { detail: text, error: text }
    if (cause instanceof pg.DatabaseError) fields.sql = sqlDetail(cause)
    this.log.line('warning', 'error while copying messages; will retry', fields)
  }

  /** Opens the stream and applies its changes until it fails (throws) or the process gets a signal. */
  private async copyMessages(): Promise<void> {
    const client = await open(this.source, true)
    const stream = new SourceStream(client, this.log)
    this.stream = stream
    if (this.stopping) stream.close()
    let standby: NodeJS.Timeout | undefined
    // Created before the start, because the first data can arrive in the same packet as the confirmation.
    const decoder = new Decoder(stream, this.metrics, this.targetSchema, this.flags.bool('enableToastedColumns'))
    stream.onData = (data) => decoder.data(data)
    stream.onReplyWanted = () => stream.acknowledge(this.offset)
    try {
      await stream.start(this.flags.str('slotName'), this.flags.str('publicationName'), this.offset).catch((error) => {
        this.metrics.add('pglogical_dial_failure_total', 1)
        throw error
      })
      this.metrics.add('pglogical_dial_success_total', 1)
      standby = setInterval(() => stream.acknowledge(this.offset), Math.max(1, this.flags.duration('standbyTimeout')))
      await this.applyAll(stream)
    } finally {
      clearInterval(standby)
      this.stream = undefined
      stream.close()
    }
  }

  private async applyAll(stream: SourceStream): Promise<void> {
    for (;;) {
      const round = stream.take()
      this.metrics.set('target_apply_queue_size', stream.waiting)
      if (round.length) await this.applyRound(round)
      else if (stream.failure) throw stream.failure
      else if (this.stopping || stream.closed) return
      else await stream.arrival.wait()
      if (this.stopping) return
    }
  }

  /**
   * Applies the whole round in one target transaction. If that fails, applies the transactions one at a time, so that
   * those before the faulty one succeed. If the cause was only a conflict (40001), gives up the round, reconnects and
   * streams everything again, like the real tool.
   */
  private async applyRound(round: Transaction[]): Promise<void> {
    try {
      await this.applyTogether(round)
    } catch (error) {
      // Never skip an abandoned transaction: acknowledging a later one would lose it.
      if (this.stopping) throw error
      if (round.length === 1 || (error instanceof ApplyError && sqlState(error.cause) === '40001')) {
        if (error instanceof ApplyError) this.metrics.add('apply_errors_total', 1, this.labels(error.table))
        throw error
      }
      for (const tx of round) await this.applyRound([tx])
    }
  }

  private async applyTogether(round: Transaction[]): Promise<void> {
    const fresh = round.filter((tx) => tx.commitLsn > this.offset)
    if (fresh.some((tx) => tx.tables.size)) this.checkTargetSchema()
    for (const tx of fresh) this.announceTables(tx)
    const statements = fresh.length ? statementsFor(merged(fresh), this.schema, this.targetSchema) : []
    const started = performance.now()
    const applied = statements.length ? await this.writer.write(statements) : []
    const duration = goDuration(performance.now() - started)
    const counted = fresh.length > 1 ? fresh.flatMap((tx) => proposals(tx, this.schema)) : applied
    for (const done of counted) this.count(done, duration)
    const last = fresh.at(-1)
    if (!last) return
    this.offset = last.commitLsn
    this.memo.put(this.offset)
    this.log.line('debug', `progressed to LSN: ${formatLsn(this.offset)}`)
    const lag = Math.max(0, Date.now() - last.commitTime) / 1000
    for (const name of [
      'core_source_lag_seconds',
      'source_commit_to_apply_lag_seconds',
      'target_apply_transaction_lag_seconds',
    ])
      this.metrics.set(name, lag)
  }

  /** Like the real tool, checks this at the first change instead of at the start. */
  private checkTargetSchema(): void {
    const { database, schema } = this.targetSchema
    if (!this.flags.str('targetSchema').includes('.'))
      throw new Error(`expecting a schema with 2 parts, got [${database}]`)
    if (database !== this.target.database) throw new Error(`unknown schema: ${ident(database)}.${ident(schema)}`)
  }

  /** Creates a table's counters at its first change, even if that is not applied. */
  private announceTables(tx: Transaction): void {
    for (const id of tx.tables.keys()) {
      const table = this.schema.tables.get(id)
      if (table) for (const metric of APPLY_COUNTERS) this.metrics.add(metric, 0, this.labels(table.name))
    }
  }

  private count(
    done: { table: string; kind: 'upserted' | 'deleted'; proposed: number; affected: number },
    duration: string,
  ): void {
    const metric = done.kind === 'upserted' ? 'apply_upserts_total' : 'apply_deletes_total'
    this.metrics.add(metric, done.affected, this.labels(done.table))
    if (!this.log.enabled('debug')) return
    const target = quotedTable(this.targetSchema, done.table)
    if (done.kind === 'deleted')
      this.log.line('debug', 'deleted rows', { applied: done.affected, proposed: done.proposed, target })
    else
      this.log.line('debug', 'upserted rows', {
        conflicts: done.proposed - done.affected,
        duration,
        proposed: done.proposed,
        target,
        upserted: done.affected,
      })
  }

  private labels(table: string): Record<string, string> {
    return { schema: `${this.targetSchema.database}.${this.targetSchema.schema}`, table }
  }
}

const APPLY_COUNTERS = [
  'apply_upserts_total',
  'apply_deletes_total',
  'apply_errors_total',
  'apply_conflicts_total',
  'apply_resolves_total',
]

/** Declares the metric names of both generations, unless `MOLT_STANDIN_METRICS` is `old` or `new`. */
function declareMetrics(): Metrics {
  const metrics = new Metrics()
  const wanted = process.env.MOLT_STANDIN_METRICS
  for (const name of APPLY_COUNTERS) metrics.declare(name, 'counter', true)
  metrics.declare('log_message_count', 'counter', true)
  metrics.declare('pglogical_dial_success_total', 'counter')
  metrics.declare('pglogical_dial_failure_total', 'counter')
  metrics.declare('pglogical_empty_transactions', 'counter')
  metrics.declare('pglogical_unchanged_toasted_columns', 'counter')
  if (wanted !== 'new') metrics.declare('cdc_sink_start_seconds', 'gauge')
  if (wanted !== 'old')
    for (const name of [
      'target_apply_queue_size',
      'core_source_lag_seconds',
      'source_commit_to_apply_lag_seconds',
      'target_apply_transaction_lag_seconds',
    ])
      metrics.declare(name, 'gauge')
  metrics.set('cdc_sink_start_seconds', Date.now() / 1000)
  return metrics
}

/** Fields of a server error that the real log also prints. They can contain customer data. */
function sqlDetail(error: pg.DatabaseError): string {
  const { severity, code, message, detail, hint, where, schema, table, column, constraint, file, line, routine } = error
  const fields = {
    severity,
    code,
    message,
    detail,
    hint,
    where,
    schemaName: schema,
    tableName: table,
    columnName: column,
  }
  const more = { constraintName: constraint, file, line: line === undefined ? undefined : Number(line), routine }
  return `${JSON.stringify({ ...fields, ...more }, null, 1)}\n`
}
