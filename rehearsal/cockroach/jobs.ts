import { type Job, type JobRegistry, type NewJob, SqlError } from './types.ts'

const ENDED = new Set(['succeeded', 'failed', 'canceled'])

/** The jobs of one server. `save` writes a job where SHOW JOBS of every session reads it. */
export class Jobs implements JobRegistry {
  readonly #save: (job: Job) => Promise<void>
  readonly #jobs = new Map<string, Job>()
  readonly #cancels = new Map<string, () => void>()
  /** Saves run one after the other, so that an older state never overwrites a newer one. */
  #saved: Promise<void> = Promise.resolve()
  /** Like CockroachDB's ids: time first, so that they grow. */
  #next = BigInt(Date.now()) * 1_000_000n

  constructor(save: (job: Job) => Promise<void>) {
    this.#save = save
  }

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
    if (onCancel) this.#cancels.set(job.id, onCancel)
    void this.#queue(job)
    return job
  }

  update(job: Job, change: Parameters<JobRegistry['update']>[1]): Promise<void> {
    Object.assign(job, change)
    if (ENDED.has(job.status)) job.finished ??= new Date()
    return this.#queue(job)
  }

  get(id: string): Job | undefined {
    return this.#jobs.get(id)
  }

  list(): Job[] {
    return [...this.#jobs.values()]
  }

  async cancel(id: string): Promise<void> {
    const job = this.#jobs.get(id)
    if (!job) throw new SqlError('42704', `job with ID ${id} does not exist`)
    if (ENDED.has(job.status))
      throw new SqlError('55000', `job with status ${job.status} cannot be requested to be canceled`)
    await this.update(job, { status: 'cancel-requested' })
    this.#cancels.get(id)?.()
  }

  #queue(job: Job): Promise<void> {
    const copy = { ...job }
    this.#saved = this.#saved.then(() => this.#save(copy)).catch(() => {})
    return this.#saved
  }
}
