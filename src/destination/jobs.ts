import { setTimeout as sleep } from 'node:timers/promises'
import { type Database, qualified, sqlState } from '../runtime/database.ts'
import { TIMING } from '../runtime/timing.ts'

/** An unfinished IMPORT INTO job. Its table is offline until the job ends. */
export interface ImportJob {
  id: string
  /** `schema.table`, or as much of it as the job's description shows. */
  table: string
  status: string
  /** The role that started the job. */
  owner: string
  /** Progress, from 0 to 1. */
  fraction: number
  /** Whether the job reads files of this migration's loads. Only such a job may be cancelled. */
  ours: boolean
}

/** A table that the catalogs hide during an import. */
export interface OfflineTable {
  /** The name, as `schema.table`. */
  table: string
  /** The import job; undefined when this role cannot see it. */
  job?: ImportJob
}

const ENDED = ['succeeded', 'failed', 'canceled']
/** Status of a job that failed to undo its work. It has ended, but its table stays offline. */
const DEAD = 'revert-failed'
/** States in which CANCEL JOB works. A reverting job can only be awaited. */
const CANCELLABLE = /^(pending|running|retry-running|paused|pause-requested)$/

/**
 * Reads the unfinished import jobs of these tables. A load that is killed leaves its job on the cluster. Source of the
 * columns: cockroachdb/docs, `show-jobs.md`.
 * @param folders folders of this migration's loads: a job that reads a file below one of them belongs to this migration
 * @param dead whether to include jobs that failed to undo their work
 */
export async function readImportJobs(
  db: Database,
  schema: string,
  tables: readonly string[],
  folders: readonly string[] = [],
  dead = false,
): Promise<ImportJob[]> {
  const ended = dead ? ENDED : [...ENDED, DEAD]
  const { rows } = await db.query(
    `SELECT job_id::STRING AS id, description, status, user_name AS owner, fraction_completed AS fraction,
            current_database() AS database
       FROM [SHOW JOBS] WHERE job_type = 'IMPORT'`,
  )
  const jobs: ImportJob[] = []
  for (const { id, status, owner, database, ...row } of rows.filter((each) => !ended.includes(each.status))) {
    const description = await fullDescription(db, id, row.description)
    if (!concerns(description, { database, schema, tables })) continue
    const table = namedTables(description)[0]?.slice(-2).join('.') ?? ''
    const ours = folders.some((folder) => description.includes(`/${folder}/`))
    jobs.push({ id, table, status, owner, fraction: Number(row.fraction ?? 0), ours })
  }
  return jobs
}

/**
 * Reads the description from SHOW JOB. Since v24.1, SHOW JOBS truncates it to 100 characters, which loses the file
 * names.
 */
async function fullDescription(db: Database, id: string, shown: string): Promise<string> {
  const { rows } = await db.query(`SELECT description FROM [SHOW JOB ${BigInt(id)}]`)
  return rows[0]?.description ?? shown
}

const NAME = String.raw`(?:"(?:[^"]|"")*"|[^\s"(),.]+)(?:\.(?:"(?:[^"]|"")*"|[^\s"(),.]+))*`
const NAMED = new RegExp(
  `(?:\\bIMPORT INTO|\\bCHANGEFEED FOR(?: TABLE)?) (?!DATABASE )(${NAME}(?:, (?:TABLE )?${NAME})*)`,
  'i',
)

/**
 * Parses the tables in the description of an import or a changefeed, such as `IMPORT INTO shop.public."Orders"(id,
 * name) CSV DATA (…)`. Each table is split into database, schema and table name, as far as they are given.
 */
export function namedTables(description: string): string[][] {
  const list = NAMED.exec(description)?.[1] ?? ''
  return [...list.matchAll(new RegExp(`(?:TABLE )?(${NAME})`, 'gi'))].map(([, name]) =>
    [...(name as string).matchAll(/"((?:[^"]|"")*)"|([^."]+)/g)].map(
      ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? (plain as string),
    ),
  )
}

/** Whether a job may read or write one of these tables: it names one of them, or it names no table at all. */
export function concerns(
  description: string,
  { database, schema, tables }: { database: string; schema: string; tables: readonly string[] },
): boolean {
  const named = namedTables(description)
  if (!named.length) return true
  return named.some((parts) => {
    const [table = '', within = schema, where = database] = parts.slice().reverse()
    return tables.includes(table) && within === schema && where === database
  })
}

/** Describes a job in words, with the statement that ends it. */
export function jobText({ id, table, status, owner }: ImportJob): string {
  return `import job ${id} of the role ${owner} into ${table} is ${status}. ${jobFix({ id, status })}`
}

/** How to bring the table of a job online again. */
export function jobFix({ id, status }: Pick<ImportJob, 'id' | 'status'>): string {
  return status === DEAD
    ? "It could not undo its work, so the table stays offline. Ask Cockroach Labs' support, or use another database as the target"
    : `Wait until it ends, or run: CANCEL JOB ${id}`
}

/** The result of cancelling the import jobs of a load. */
export interface Cancelled {
  ended: ImportJob[]
  /** Jobs still running at the deadline. */
  left: ImportJob[]
  /** Jobs that this role is not allowed to cancel. Up to v24.3, CANCEL JOB requires admin or CONTROLJOB. */
  refused: ImportJob[]
}

/**
 * Cancels the import jobs of this migration's loads until none are left, so that their tables are online again. MOLT
 * must have exited before, because it starts smaller imports when one is cancelled.
 * @param timeout milliseconds for all jobs together
 */
export async function cancelImports(
  db: Database,
  schema: string,
  tables: readonly string[],
  folders: readonly string[],
  timeout = TIMING.jobsEnd,
): Promise<Cancelled> {
  const seen = new Map<string, ImportJob>()
  const refused = new Map<string, ImportJob>()
  const deadline = performance.now() + timeout
  for (let quiet = 0; ; ) {
    const left = (await readImportJobs(db, schema, tables, folders)).filter(({ ours }) => ours)
    const waiting = left.filter(({ id }) => !refused.has(id))
    // A statement that was running when molt exited may start its job a moment later.
    quiet = waiting.length ? 0 : quiet + 1
    const over = performance.now() > deadline
    if (over || quiet > (seen.size ? 1 : 0)) {
      const running = new Set(left.map(({ id }) => id))
      return {
        ended: [...seen.values()].filter(({ id }) => !running.has(id)),
        left: waiting,
        refused: left.filter(({ id }) => refused.has(id)),
      }
    }
    for (const job of waiting) {
      seen.set(job.id, job)
      if (CANCELLABLE.test(job.status) && !(await cancelled(db, job))) refused.set(job.id, job)
    }
    await sleep(TIMING.jobsLook)
  }
}

/**
 * Cancels a job. Returns false if this role lacks the privilege. Ignores other refusals, because the job may have ended
 * meanwhile.
 */
async function cancelled(db: Database, { id }: ImportJob): Promise<boolean> {
  try {
    await db.query(`CANCEL JOB ${BigInt(id)}`)
    return true
  } catch (error) {
    if (!sqlState(error)) throw error
    return sqlState(error) !== '42501'
  }
}

/** SQLSTATE of an object in the wrong state: `relation "orders" is offline: importing`. */
const NOT_IN_STATE = '55000'

/** Lists the hidden tables that an import keeps offline. The remaining ones do not exist. */
export async function readOffline(
  db: Database,
  schema: string,
  hidden: readonly string[],
  folders: readonly string[] = [],
): Promise<OfflineTable[]> {
  const offline: string[] = []
  for (const name of hidden) if (await isOffline(db, schema, name)) offline.push(name)
  if (!offline.length) return []
  const jobs = await readImportJobs(db, schema, offline, folders, true)
  return offline.map((name) => ({
    table: `${schema}.${name}`,
    job: jobs.find(({ table }) => table === `${schema}.${name}` || table === name),
  }))
}

async function isOffline(db: Database, schema: string, name: string): Promise<boolean> {
  return db.query(`SELECT 1 FROM ${qualified(schema, name)} LIMIT 0`).then(
    () => false,
    (error) => {
      if (sqlState(error) === NOT_IN_STATE) return true
      // The table is missing, or this role cannot read it.
      if (sqlState(error)) return false
      throw error
    },
  )
}

/** Describes an offline table: `public.orders is offline: importing (import job 7 of the role mig …)`. */
export function offlineText({ table, job }: OfflineTable): string {
  return job
    ? `${table} is offline: importing (${jobText(job)})`
    : `${table} is offline: importing, by a job that this role cannot see. Grant SYSTEM VIEWJOB to this role`
}
