import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import { formatLsn, type Lsn, parseLsn } from '../../src/source/pgoutput.ts'
import type { SchemaName } from './apply.ts'
import { type Endpoint, errorText, ident, literal, open, rows } from './pg.ts'
import type { ReplicatorLog } from './replicator-log.ts'

function checkDatabase(name: SchemaName, endpoint: Endpoint): void {
  if (name.database !== endpoint.database)
    throw new Error(
      `ERROR: cross-database references are not implemented: ${ident(name.database)}.${ident(name.schema)} (SQLSTATE 0A000)`,
    )
}

/** The stream's progress, stored in the staging schema under the target schema's name. */
export class Memo {
  private readonly log: ReplicatorLog
  private readonly endpoint: Endpoint
  private readonly staging: SchemaName
  private readonly key: string
  private client: pg.Client | undefined
  private wanted: Lsn = 0n
  private stored: Lsn = 0n
  private writing: Promise<void> | undefined

  constructor(log: ReplicatorLog, endpoint: Endpoint, staging: SchemaName, target: SchemaName) {
    this.log = log
    this.endpoint = endpoint
    this.staging = staging
    this.key = `pglogical-wal-offset-${target.database}.${target.schema}`
  }

  private get table(): string {
    return `${ident(this.staging.schema)}.memo`
  }

  async prepare(createSchema: boolean): Promise<void> {
    checkDatabase(this.staging, this.endpoint)
    this.client = await open(this.endpoint)
    if (createSchema) await this.client.query(`CREATE SCHEMA IF NOT EXISTS ${ident(this.staging.schema)}`)
    await this.client.query(
      `CREATE TABLE IF NOT EXISTS ${this.table} (key text NOT NULL PRIMARY KEY, value bytea NOT NULL)`,
    )
  }

  async get(): Promise<Lsn> {
    const sql = `SELECT convert_from(value, 'UTF8') AS lsn FROM ${this.table} WHERE key = $1`
    const [found] = await rows(this.client as pg.Client, sql, [this.key])
    this.stored = parseLsn(found?.lsn ?? '')
    return this.stored
  }

  /** Stores the position in the background. If newer ones arrive meanwhile, stores only the latest. */
  put(lsn: Lsn): void {
    this.wanted = lsn
    this.writing ??= this.write().finally(() => {
      this.writing = undefined
    })
  }

  private async write(): Promise<void> {
    while (this.wanted > this.stored) {
      const lsn = this.wanted
      try {
        this.client ??= await open(this.endpoint)
        await this.client.query(
          `INSERT INTO ${this.table} VALUES (${literal(this.key)}, convert_to('${formatLsn(lsn)}', 'UTF8'))
           ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
        )
        this.stored = lsn
      } catch (error) {
        this.log.line('warning', 'could not persist LSN offset', { error: errorText(error) })
        const broken = this.client
        this.client = undefined
        broken?.end().catch(() => {})
        return
      }
      // The position matters only after a restart, and an older one merely repeats some work.
      await sleep(50)
    }
  }

  async close(last: Lsn): Promise<void> {
    if (last > 0n && last > this.stored) {
      this.wanted = last
      await this.writing
      if (this.wanted > this.stored) await this.write()
    }
    await this.client?.end().catch(() => {})
  }
}
