import { info } from '@actions/core'
import type { ApprovalOutcome } from '../../ledger/hold.ts'
import { type Github, GithubError, isJob, readJobs, readReviews } from '../../runtime/github.ts'

/** The job that is waiting for approval, and how to look it up. */
export interface Watched {
  github: Github
  job: string
  environment: string
  /** Maximum time that the job may wait, in milliseconds. */
  maxWait: number
}

/**
 * `approved`: the job is waiting for a free runner, perhaps the one that runs this process. `over`: the job has
 * finished.
 */
export type Seen = ApprovalOutcome | 'approved' | 'running' | 'over'

/** The outcome of the approval; undefined while it is pending or GitHub is temporarily unreachable. */
export async function lookAtApproval(watched: Watched): Promise<Seen | undefined> {
  try {
    return await look(watched)
  } catch (error) {
    if (!(error instanceof GithubError)) throw error
    info(`${error.message} (will retry)`)
    return undefined
  }
}

/**
 * A job that is `queued` for longer than this many milliseconds is waiting for a runner. While it waits for approval,
 * its status is `waiting`.
 */
const QUEUED_FOR_RUNNER = 60_000

async function look({ github, job: name, environment, maxWait }: Watched): Promise<Seen | undefined> {
  const { body, at } = await readJobs(github)
  const job = body.find((each) => isJob(each, name))
  if (!job) return undefined
  if (job.status === 'in_progress') return 'running'
  const waited = job.created_at ? at - Date.parse(job.created_at) : 0
  const last = (await readReviews(github, environment)).at(-1)
  if (job.status === 'completed')
    return job.steps?.length && last?.state !== 'rejected' && job.conclusion !== 'cancelled' ? 'over' : 'declined'
  if (job.status === 'queued') return last?.state === 'approved' || waited > QUEUED_FOR_RUNNER ? 'approved' : undefined
  return waited > maxWait ? 'expired' : undefined
}
