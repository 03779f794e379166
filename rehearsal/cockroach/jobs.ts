import type pg from 'pg'
import { type Job, type JobRegistry, type NewJob, SqlError } from './types.ts'

const ENDED = new Set(['succeeded', 'failed', 'canceled'])

/** One server's jobs. Each database has a table with a copy, which is updated before a statement reads jobs. */
export class Jobs implements JobRegistry {
  readonly #jobs = new Map<string, Job>()
  /** Job id → number of the job's last change. */
  readonly #changed = new Map<string, number>()
  #changes = 0
  /** Number of the last change that each database's copy contains. */
  readonly #published = new WeakMap<pg.Pool, Promise<number>>()
  readonly #cancels = new Map<string, () => void>()
  /** Starts from the current time, like CockroachDB's ids, so that ids keep increasing after a restart. */
  #next = BigInt(Date.now()) * 1_000_000n

  create({ onCancel, ...facts }: NewJob): Job {
    this.#next += 1n
    const job: Job = {
      ...facts,
      id: String(this.#next),
      created: new Date(),
      status: 'running',
      fractionCompleted: 0,
    }
    this.#jobs.set(job.id, job)
    this.#changed.set(job.id, ++this.#changes)
    if (onCancel) this.#cancels.set(job.id, onCancel)
    return job
  }

  update(job: Job, change: Parameters<JobRegistry['update']>[1]): void {
    Object.assign(job, change)
    if (ENDED.has(job.status)) job.finished ??= new Date()
    this.#changed.set(job.id, ++this.#changes)
  }

  get(id: string): Job | undefined {
    return this.#jobs.get(id)
  }

  list(): Job[] {
    return [...this.#jobs.values()]
  }

  cancel(id: string): void {
    const job = this.#jobs.get(id)
    if (!job) throw new SqlError('42704', `job with ID ${id} does not exist`)
    if (ENDED.has(job.status))
      throw new SqlError('55000', `job with status ${job.status} cannot be requested to be canceled`)
    this.update(job, { status: 'cancel-requested' })
    this.#cancels.get(id)?.()
  }

  /** Updates this database's copy of the jobs, which SHOW JOBS reads. */
  async publish(db: pg.Pool): Promise<void> {
    const before = this.#published.get(db) ?? Promise.resolve(0)
    const next = before.then((from) => this.#write(db, from))
    this.#published.set(
      db,
      next.catch(() => before),
    )
    await next
  }

  async #write(db: pg.Pool, from: number): Promise<number> {
    const until = this.#changes
    const jobs = this.list().filter(({ id }) => (this.#changed.get(id) ?? 0) > from)
    if (jobs.length) await db.query(UPSERT, [JSON.stringify(jobs)])
    return until
  }
}

const UPSERT = `
  INSERT INTO _crdb.jobs
  SELECT id, type, description, "user", status, created, finished, "fractionCompleted", error
    FROM jsonb_to_recordset($1::jsonb) j(id int8, type text, description text, "user" text, status text,
      created timestamptz, finished timestamptz, "fractionCompleted" float4, error text)
  ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, finished = EXCLUDED.finished,
    fraction_completed = EXCLUDED.fraction_completed, error = EXCLUDED.error`
