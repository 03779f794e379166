import { info } from '@actions/core'
import type { ApprovalOutcome } from '../../ledger/hold.ts'
import { type Github, GithubError, isJob, readJobs, readReviews } from '../../runtime/github.ts'

/** What a follower watches: the job that waits for the approval. */
export interface Watched {
  github: Github
  job: string
  environment: string
  /** Milliseconds since the job began to wait. */
  maxWait: number
}

/** `approved`: the job waits for a free runner, which a follower may be using. `over`: it has run and ended. */
export type Seen = ApprovalOutcome | 'approved' | 'running' | 'over'

/** The outcome of the approval; undefined while it is pending or GitHub is temporarily unreachable. */
export async function lookAtApproval(watched: Watched): Promise<Seen | undefined> {
  try {
    return await look(watched)
  } catch (error) {
    if (!(error instanceof GithubError)) throw error
    info(`${error.message} (asked again later)`)
    return undefined
  }
}

/** A job that waits for approval is `waiting`; one that is `queued` for longer than this waits for a runner. */
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
