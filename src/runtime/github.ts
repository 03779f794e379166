import { info } from '@actions/core'
import type { Octokit } from '@octokit/core'
import { RequestError } from '@octokit/request-error'
import * as z from 'zod'
import { messageOf, UserError } from './errors.ts'
import { onGithub } from './next.ts'
import { seconds } from './progress.ts'
import { TIMING } from './timing.ts'

/*
 * Read-only access to the parts of GitHub's REST API that approvals need.
 * Limits: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
 */

const MINUTE = 60_000

/** Link to this run, built from the runner's environment; empty outside GitHub. */
export function runUrl(): string {
  const { GITHUB_SERVER_URL = 'https://github.com', GITHUB_REPOSITORY, GITHUB_RUN_ID, GITHUB_RUN_ATTEMPT } = process.env
  if (!onGithub()) return ''
  const attempt = GITHUB_RUN_ATTEMPT && GITHUB_RUN_ATTEMPT !== '1' ? `/attempts/${GITHUB_RUN_ATTEMPT}` : ''
  return `${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}/actions/runs/${GITHUB_RUN_ID}${attempt}`
}

/** How long to keep retrying. A short outage must not cost an approval. */
export interface Patience {
  /** Number of retries if GitHub fails or is unreachable, with delays of 1, 4, 9, 16 … s. */
  retries: number
  /** Longest wait for a rate limit, in milliseconds. */
  rateLimit: number
}
const PATIENT: Patience = { retries: 8, rateLimit: 15 * MINUTE }
/** Makes a single attempt, for callers with their own retries. */
export const ONE_TRY: Patience = { retries: 0, rateLimit: 0 }
/**
 * Retries for longer, in the approved job. That job can wait, because it blocks no other run, and its approval can be
 * used only once.
 */
export const APPROVED: Patience = { retries: 8, rateLimit: 60 * MINUTE }

/** GitHub returned no usable response. */
export class GithubError extends UserError {
  override name = 'GithubError'
}

/** A response, and its time by GitHub's clock. */
export interface Answer<T> {
  body: T
  /** Milliseconds since 1970. */
  at: number
}

/** Read access to this run's repository. */
export interface Github {
  /**
   * @param path below the repository, such as `environments/cutover`
   * @returns undefined when GitHub returns 404
   * @throws GithubError
   */
  read<T>(path: string, schema: z.ZodType<T>): Promise<Answer<T> | undefined>
  /** Downloads a file. Does not send the token when it follows GitHub's redirect. @throws GithubError */
  download(path: string): Promise<Buffer>
}

/** Loads Octokit on demand, because most actions do not call GitHub. */
async function openClient(token: string, patience: Patience): Promise<Octokit> {
  const [{ Octokit }, { retry }, { throttling }] = await Promise.all([
    import('@octokit/core'),
    import('@octokit/plugin-retry'),
    import('@octokit/plugin-throttling'),
  ])
  const { GITHUB_API_URL = 'https://api.github.com' } = process.env
  const wait = (retryAfter: number, _: unknown, __: unknown, retries: number) => {
    const waits = retries < 3 && retryAfter * 1_000 <= patience.rateLimit
    if (waits) info(`GitHub's rate limit is used up; retrying in ${seconds(retryAfter * 1_000)}`)
    return waits
  }
  const RestClient = Octokit.plugin(neverRepeatLimited, retry, throttling)
  return new RestClient({
    auth: token,
    baseUrl: GITHUB_API_URL,
    userAgent: 'molt-actions',
    request: {
      // Limits each attempt. Octokit's own `signal` would limit all attempts together.
      fetch: (url: string, options: RequestInit) =>
        fetch(url, { ...options, signal: AbortSignal.timeout(TIMING.githubTimeout) }),
    },
    retry: { retries: patience.retries, retryAfterBaseValue: TIMING.githubBackoff },
    throttle: { onRateLimit: wait, onSecondaryRateLimit: wait, retryAfterBaseValue: TIMING.githubBackoff },
    log: { debug() {}, info() {}, warn: info, error() {} },
  })
}

export function connectGithub(token: string, patience: Patience = PATIENT): Github {
  let opened: Promise<Octokit> | undefined
  const ask = async (path: string) => {
    try {
      // Octokit would replace `:name` with a parameter.
      const escaped = `${process.env.GITHUB_REPOSITORY}${path && `/${path}`}`.replaceAll(':', '%3A')
      opened ??= openClient(token, patience)
      const client = await opened
      return await client.request(`GET /repos/${escaped}`, {
        headers: { 'x-github-api-version': '2022-11-28' },
      })
    } catch (error) {
      if (error instanceof RequestError && error.status === 404) return undefined
      throw failure(error, path)
    }
  }
  return {
    async read(path, schema) {
      const answer = await ask(path)
      if (!answer) return undefined
      const parsed = schema.safeParse(answer.data)
      if (!parsed.success)
        throw new GithubError(
          'github.unexpected-answer',
          `GitHub's response for ${subject(path)} has an unknown format`,
        )
      return { body: parsed.data, at: Date.parse(answer.headers.date ?? '') || Date.now() }
    },
    async download(path) {
      const answer = await ask(path)
      if (!answer) throw new GithubError('github.not-found', `GitHub returned 404 for ${subject(path)}`)
      return Buffer.from(answer.data as ArrayBuffer)
    },
  }
}

/** Leaves rate limits to the throttling plugin, which waits for the reset. The retry plugin would retry immediately. */
function neverRepeatLimited(octokit: Octokit): void {
  octokit.hook.before('request', ({ request }) => {
    delete request?.retries
  })
  octokit.hook.error('request', (error, { request }) => {
    if (request && isRateLimit(error)) request.retries = 0
    throw error
  })
}

function isRateLimit(error: unknown): error is RequestError {
  if (!(error instanceof RequestError) || ![403, 429].includes(error.status)) return false
  return error.response?.headers['x-ratelimit-remaining'] === '0' || /\bsecondary rate\b/i.test(error.message)
}

const subject = (path: string) => `${path.split('?')[0] || 'the repository'} of ${process.env.GITHUB_REPOSITORY}`

function failure(error: unknown, path: string): GithubError {
  const what = subject(path)
  if (!(error instanceof RequestError) || !error.response)
    return new GithubError('github.unreachable', `GitHub cannot be reached for ${what}: ${messageOf(error)}`)
  const { status } = error
  const { headers } = error.response
  if (isRateLimit(error) || status === 429) {
    const reset = Number(headers['x-ratelimit-reset'])
    const when = reset ? `after ${new Date(reset * 1_000).toISOString()}` : 'in an hour'
    return new GithubError(
      'github.rate-limited',
      `GitHub returned ${status} for ${what}: the rate limit of this token is used up. Rerun the job ${when}`,
    )
  }
  if (status < 500) {
    const right = String(headers['x-accepted-github-permissions'] ?? rightFor(path)).replaceAll('=', ': ')
    return new GithubError(
      'github.refused',
      `GitHub returned ${status} for ${what}. Grant the job \`permissions: ${right}\`, and pass \`token: \${{ github.token }}\``,
    )
  }
  return new GithubError(
    'github.unavailable',
    `GitHub returned ${status} for ${what} repeatedly. Check githubstatus.com, then rerun the job`,
  )
}

/** The permission that GitHub documents for a path. Used if GitHub does not name it in a response header. */
function rightFor(path: string): string {
  return path === '' || path.startsWith('branches') ? 'contents=read' : 'actions=read'
}

const environment = z.object({
  protection_rules: z
    .array(
      z.object({
        type: z.string(),
        prevent_self_review: z.boolean().optional(),
        reviewers: z.array(z.unknown()).optional(),
      }),
    )
    .default([]),
  deployment_branch_policy: z.object({ custom_branch_policies: z.boolean() }).nullish(),
  can_admins_bypass: z.boolean().optional(),
})
const branchPolicies = z.object({ branch_policies: z.array(z.object({ name: z.string() })) })

export interface Environment {
  /** Number of required reviewers. */
  reviewers: number
  preventSelfReview: boolean
  /** Branches that can deploy: `any`, only `protected` branches, or a list of patterns. */
  branches: 'any' | 'protected' | string[]
  /** Whether administrators can bypass the rules; undefined if GitHub does not report it. */
  bypass: boolean | undefined
}

/** Reads the protection rules of an environment; undefined if it does not exist. */
export async function readEnvironment(github: Github, name: string): Promise<Environment | undefined> {
  const path = `environments/${encodeURIComponent(name)}`
  const answer = await github.read(path, environment)
  if (!answer) return undefined
  const { protection_rules: rules, deployment_branch_policy: policy, can_admins_bypass: bypass } = answer.body
  const rule = rules.find(({ type }) => type === 'required_reviewers')
  const custom = policy?.custom_branch_policies
    ? await github.read(`${path}/deployment-branch-policies?per_page=100`, branchPolicies)
    : undefined
  return {
    reviewers: rule?.reviewers?.length ?? 0,
    preventSelfReview: rule?.prevent_self_review ?? false,
    branches: custom?.body.branch_policies.map((each) => each.name) ?? (policy ? 'protected' : 'any'),
    bypass,
  }
}

const reviews = z.array(
  z.object({
    state: z.string(),
    comment: z.string().nullish(),
    environments: z.array(z.object({ name: z.string() })),
    user: z.object({ login: z.string() }),
  }),
)

/** Reads this run's reviews for an environment, oldest first. */
export async function readReviews(github: Github, name: string) {
  const answer = await github.read(`actions/runs/${process.env.GITHUB_RUN_ID}/approvals`, reviews)
  const same = (other: string) => other.toLowerCase() === name.toLowerCase()
  return (answer?.body ?? []).filter(({ environments }) => environments.some((each) => same(each.name)))
}

const jobs = z.object({
  total_count: z.number(),
  jobs: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      conclusion: z.string().nullable(),
      created_at: z.string().nullish(),
      steps: z.array(z.unknown()).nullish(),
    }),
  ),
})
export type Job = z.infer<typeof jobs>['jobs'][number]

/** Reads the jobs of this attempt. A job of a called workflow is named `caller / job`, and a matrix job `job (1)`. */
export async function readJobs(github: Github): Promise<Answer<Job[]>> {
  const { GITHUB_RUN_ID, GITHUB_RUN_ATTEMPT = '1' } = process.env
  const all: Job[] = []
  for (let page = 1; ; page++) {
    const path = `actions/runs/${GITHUB_RUN_ID}/attempts/${GITHUB_RUN_ATTEMPT}/jobs?per_page=100&page=${page}`
    const answer = await github.read(path, jobs)
    all.push(...(answer?.body.jobs ?? []))
    if (!answer?.body.jobs.length || all.length >= answer.body.total_count)
      return { body: all, at: answer?.at ?? Date.now() }
  }
}

export function isJob(job: Job, name: string): boolean {
  return (job.name.split(' / ').at(-1) ?? '').replace(/ \(.*\)$/, '') === name
}
