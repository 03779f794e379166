import { info } from '@actions/core'
import { GithubError, isJob, readJobs, readReviews } from '../runtime/github.ts'
import type { Gate } from '../target/ledger.ts'

/** What a follower watches: the job that waits for the approval. */
export interface Watched {
  token: string
  job: string
  environment: string
  /** Milliseconds since the job began to wait. */
  maxWait: number
}

/**
 * What has become of the approval: `approved` also when the job waits for a free runner, which a follower may be using;
 * `over` when the job has run and ended. Undefined while it is waited for, or when GitHub does not answer for now.
 */
export async function lookAtApproval(watched: Watched): Promise<Gate | 'approved' | 'over' | undefined> {
  try {
    return await look(watched)
  } catch (error) {
    if (!(error instanceof GithubError)) throw error
    info(`${error.message}; asked again later`)
    return undefined
  }
}

async function look({
  token,
  job: name,
  environment,
  maxWait,
}: Watched): Promise<Gate | 'approved' | 'over' | undefined> {
  const { body, at } = await readJobs(token)
  const job = body.find((each) => isJob(each, name))
  if (!job) return undefined
  if (job.status === 'in_progress') return undefined
  const last = (await readReviews(token, environment)).at(-1)
  if (job.status === 'completed')
    return job.steps?.length && last?.state !== 'rejected' && job.conclusion !== 'cancelled' ? 'over' : 'declined'
  if (job.status === 'queued') return last?.state === 'approved' ? 'approved' : undefined
  return job.created_at && at - Date.parse(job.created_at) > maxWait ? 'expired' : undefined
}
