import { setTimeout as sleep } from 'node:timers/promises'
import type { Database } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { TIMING } from '../runtime/timing.ts'

/** An IMPORT INTO that CockroachDB has not ended; its table is offline until it has. */
export interface ImportJob {
  id: string
  /** `schema.table`, or what of it the job's description tells. */
  table: string
  status: string
}

const ENDED = ['succeeded', 'failed', 'canceled', 'revert-failed']

/**
 * Import jobs into these tables that have not ended. A load that dies leaves its job on the cluster. Written to
 * CockroachDB's documentation of SHOW JOBS; not exercised on a cluster.
 */
export async function readImportJobs(db: Database, schema: string, tables: readonly string[]): Promise<ImportJob[]> {
  const { rows } = await db.query(
    "SELECT job_id::STRING AS id, description, status FROM [SHOW JOBS] WHERE job_type = 'IMPORT'",
  )
  const running = rows.filter(({ status }) => !ENDED.includes(status))
  for (const job of running) if (job.description.length >= CUT_AT) job.description = await fullDescription(db, job)
  return running
    .map(({ id, description, status }) => ({ id, status, table: importedTable(description) }))
    .filter(({ table }) => tables.some((name) => table === name || table === `${schema}.${name}`))
}

/** SHOW JOBS cuts a description to this many characters (since v24.1); SHOW JOB does not. */
const CUT_AT = 100

async function fullDescription(db: Database, job: { id: string; description: string }): Promise<string> {
  const { rows } = await db.query(`SELECT description FROM [SHOW JOB ${BigInt(job.id)}]`)
  return rows[0]?.description ?? job.description
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
  timeout = TIMING.jobsEnd,
): Promise<ImportJob[]> {
  const cancelled = new Map<string, ImportJob>()
  const deadline = performance.now() + timeout
  for (;;) {
    const left = await readImportJobs(db, schema, tables)
    if (!left.length) return [...cancelled.values()]
    for (const job of left) {
      cancelled.set(job.id, job)
      // MOLT starts smaller imports when one is cancelled; a job that is being undone is only waited for.
      if (/^(pending|running|paused|pause-requested)$/.test(job.status)) await db.query(`CANCEL JOB ${BigInt(job.id)}`)
    }
    if (performance.now() > deadline)
      throw new UserError(
        'load.jobs-running',
        `the import jobs ${left.map(({ id, table, status }) => `${id} (${table}, ${status})`).join(', ')} do not end on the target, and hold their tables offline; look at them with SHOW JOBS`,
      )
    await sleep(TIMING.jobsLook)
  }
}
