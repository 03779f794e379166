import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'

/** An IMPORT INTO that CockroachDB has not ended; its table is offline until it has. */
export interface ImportJob {
  id: string
  /** `schema.table`, or what of it the job's description tells. */
  table: string
  status: string
}

const ENDED = ['succeeded', 'failed', 'canceled', 'revert-failed']
const LOOK_EVERY = 500

/**
 * Import jobs into these tables that have not ended. A load that dies leaves its job on the cluster. Written to
 * CockroachDB's documentation of SHOW JOBS; not exercised on a cluster.
 */
export async function readImportJobs(db: Database, schema: string, tables: readonly string[]): Promise<ImportJob[]> {
  const { rows } = await db.query(
    "SELECT job_id::STRING AS id, description, status FROM [SHOW JOBS] WHERE job_type = 'IMPORT'",
  )
  return rows
    .filter(({ status }) => !ENDED.includes(status))
    .map(({ id, description, status }) => ({ id, status, table: importedTable(description) }))
    .filter(({ table }) => tables.some((name) => table === name || table === `${schema}.${name}`))
}

/** The table in `IMPORT INTO shop.public."Orders"(id, name) CSV DATA (…)`, as `schema.table` where both are told. */
export function importedTable(description: string): string {
  const named = /IMPORT INTO ((?:"(?:[^"]|"")*"|[^\s("])+)/i.exec(description)?.[1] ?? ''
  const parts = [...named.matchAll(/"((?:[^"]|"")*)"|([^."]+)/g)].map(
    ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? (plain as string),
  )
  return parts.slice(-2).join('.')
}

/**
 * Cancels import jobs by their ids and waits until each has ended, so that their tables are online again.
 * @param timeout milliseconds for all of them
 * @returns the jobs that were cancelled
 * @throws UserError when a job does not end
 */
export async function cancelImports(
  db: Database,
  schema: string,
  tables: readonly string[],
  timeout = 60_000,
): Promise<ImportJob[]> {
  const jobs = await readImportJobs(db, schema, tables)
  // A job that is being cancelled, or undone, is only waited for.
  for (const { id } of jobs.filter(({ status }) => /^(pending|running|paused|pause-requested)$/.test(status)))
    await db.query(`CANCEL JOB ${BigInt(id)}`)
  const deadline = performance.now() + timeout
  for (;;) {
    const left = await readImportJobs(db, schema, tables)
    if (!left.length) return jobs
    if (performance.now() > deadline)
      throw new UserError(
        'load.jobs-running',
        `the import jobs ${left.map(({ id, table, status }) => `${id} (${table}, ${status})`).join(', ')} do not end on the target, and hold their tables offline; look at them with SHOW JOBS`,
      )
    await sleep(LOOK_EVERY)
  }
}
