import * as z from 'zod'
import { messageOf, UserError } from './errors.ts'

/*
 * The little of GitHub's REST that the gate needs. All of it is read-only.
 */

const TIMEOUT = 20_000

/** Where a person can see this run, by the runner's environment; empty outside of GitHub. */
export function runUrl(): string {
  const { GITHUB_SERVER_URL = 'https://github.com', GITHUB_REPOSITORY, GITHUB_RUN_ID, GITHUB_RUN_ATTEMPT } = process.env
  if (!GITHUB_RUN_ID) return ''
  const attempt = GITHUB_RUN_ATTEMPT && GITHUB_RUN_ATTEMPT !== '1' ? `/attempts/${GITHUB_RUN_ATTEMPT}` : ''
  return `${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}/actions/runs/${GITHUB_RUN_ID}${attempt}`
}

/** One answer, and the time of it by GitHub's own clock; undefined when there is no such thing (404). */
export interface Answer<T> {
  body: T
  at: number
}

/**
 * @param path below the repository, such as `environments/cutover`
 * @throws UserError when GitHub cannot be reached, refuses, or answers in another shape than is known
 */
export async function readGithub<T>(token: string, path: string, schema: z.ZodType<T>): Promise<Answer<T> | undefined> {
  const response = await ask(token, path)
  if (!response) return undefined
  const parsed = schema.safeParse(await response.json().catch(() => undefined))
  if (!parsed.success)
    throw new GithubError(
      'github.unexpected-answer',
      `GitHub's answer for ${subject(path)} has another shape than is known`,
    )
  return { body: parsed.data, at: Date.parse(response.headers.get('date') ?? '') || Date.now() }
}

/** Follows GitHub's redirect, without the token. @throws UserError also when there is no such thing */
export async function downloadGithub(token: string, path: string): Promise<Buffer> {
  const response = await ask(token, path)
  if (!response) throw new GithubError('github.not-found', `GitHub has no ${subject(path)}`)
  return Buffer.from(await response.arrayBuffer())
}

const subject = (path: string) => `${path.split('?')[0]} of ${process.env.GITHUB_REPOSITORY}`

async function ask(token: string, path: string): Promise<Response | undefined> {
  const { GITHUB_API_URL = 'https://api.github.com', GITHUB_REPOSITORY } = process.env
  let response: Response
  try {
    response = await fetch(`${GITHUB_API_URL}/repos/${GITHUB_REPOSITORY}${path && `/${path}`}`, {
      headers: {
        accept: 'application/vnd.github+json',
        authorization: `Bearer ${token}`,
        'user-agent': 'molt-actions',
        'x-github-api-version': '2022-11-28',
      },
      signal: AbortSignal.timeout(TIMEOUT),
    })
  } catch (error) {
    throw new GithubError('github.unreachable', `GitHub cannot be asked for ${subject(path)}: ${messageOf(error)}`)
  }
  if (response.status === 404) return undefined
  if (!response.ok)
    throw new GithubError(
      'github.refused',
      `GitHub refuses to tell ${subject(path)} (${response.status}); the job needs \`permissions: actions: read\`${path.startsWith('attestations') ? ' and `attestations: read`' : ''}, and \`token: \${{ github.token }}\``,
    )
  return response
}

/** GitHub could not be asked, perhaps for now only. */
export class GithubError extends UserError {
  override name = 'GithubError'
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
  deployment_branch_policy: z.object({}).nullish(),
})

/** What guards an environment; undefined when it does not exist. */
export async function readEnvironment(token: string, name: string) {
  const answer = await readGithub(token, `environments/${encodeURIComponent(name)}`, environment)
  if (!answer) return undefined
  const rule = answer.body.protection_rules.find(({ type }) => type === 'required_reviewers')
  return {
    reviewers: rule?.reviewers?.length ?? 0,
    preventSelfReview: rule?.prevent_self_review ?? false,
    branches: Boolean(answer.body.deployment_branch_policy),
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

/** What reviewers have said to this run about an environment. */
export async function readReviews(token: string, name: string) {
  const answer = await readGithub(token, `actions/runs/${process.env.GITHUB_RUN_ID}/approvals`, reviews)
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

/** The jobs of this attempt. In a called workflow a job is named `caller / job`, and a leg of a matrix `job (1)`. */
export async function readJobs(token: string): Promise<Answer<Job[]>> {
  const { GITHUB_RUN_ID, GITHUB_RUN_ATTEMPT = '1' } = process.env
  const all: Job[] = []
  for (let page = 1; ; page++) {
    const path = `actions/runs/${GITHUB_RUN_ID}/attempts/${GITHUB_RUN_ATTEMPT}/jobs?per_page=100&page=${page}`
    const answer = await readGithub(token, path, jobs)
    all.push(...(answer?.body.jobs ?? []))
    if (!answer?.body.jobs.length || all.length >= answer.body.total_count)
      return { body: all, at: answer?.at ?? Date.now() }
  }
}

export function isJob(job: Job, name: string): boolean {
  return (job.name.split(' / ').at(-1) ?? '').replace(/ \(.*\)$/, '') === name
}
