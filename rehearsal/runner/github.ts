// A local server for the part of GitHub's REST API that the gate reads. Its responses follow GitHub's documentation.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface FakeJob {
  name: string
  status: string
  conclusion: string | null
  steps: object[]
  created_at: string
}

/** One run of migrate.yml: its jobs, and the approvals so far. */
export interface FakeRun {
  jobs: FakeJob[]
  approvals: object[]
}

/** One rehearsal run with its only artifact, and the result of `gh attestation verify` for that artifact. */
export interface FakeRehearsal {
  run: Record<string, unknown> & { id: number }
  artifact: Record<string, unknown> & { id: number; name: string; digest?: string }
  zip: Buffer
  /** JSON output of the verification; undefined if the artifact is refused. */
  verified: string | undefined
}

export interface FakeGithub {
  url: string
  /** Delay before every response. */
  status: number
  /** Responses to the next requests, instead of the usual ones. `reset` drops the connection. */
  failures: ({ status: number; headers?: Record<string, string>; message?: string } | 'reset')[]
  environment: object | undefined
  /** The environment `cutover-cleanup`. */
  cleanup: object | undefined
  /** The other environments by name. `migration` holds the secrets of jobs that need no approval. */
  others: Map<string, object>
  runs: Map<string, FakeRun>
  rehearsals: FakeRehearsal[]
  /** Requested paths with their queries, in order. */
  asked: string[]
  close(): void
}

export const TOKEN = 'ghs_token'
export const REPOSITORY = 'acme/shop'

export async function startGithub(): Promise<FakeGithub> {
  const github: FakeGithub = {
    url: '',
    status: 200,
    failures: [],
    environment: undefined,
    cleanup: undefined,
    others: new Map([['migration', limited(['main'])]]),
    runs: new Map(),
    rehearsals: [],
    asked: [],
    close: () => server.close(),
  }
  const server = createServer((request, response) => {
    github.asked.push(request.url ?? '')
    const failure = github.failures.shift()
    if (failure === 'reset') return request.socket.destroy()
    if (failure) {
      response.writeHead(failure.status, { 'content-type': 'application/json', ...failure.headers })
      return response.end(JSON.stringify({ message: failure.message ?? 'Failure' }))
    }
    const blob = /^\/blob\/(\d+)$/.exec(request.url ?? '')?.[1]
    const zip = /\/actions\/artifacts\/(\d+)\/zip$/.exec(request.url ?? '')?.[1]
    if (zip) return response.writeHead(302, { location: `/blob/${zip}` }).end()
    if (blob) response.setHeader('content-type', 'application/zip')
    if (blob) return response.end(github.rehearsals.find(({ artifact }) => String(artifact.id) === blob)?.zip)
    const known = request.headers.authorization?.replace(/^(bearer|token) /i, '') === TOKEN
    const body = known ? answer(github, request.url ?? '') : undefined
    const status = github.status === 200 && !body ? 404 : github.status
    response.writeHead(status, { 'content-type': 'application/json; charset=utf-8', date: new Date().toUTCString() })
    response.end(JSON.stringify(status === 200 ? body : { message: 'Not Found', status: String(status) }))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  github.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return github
}

function answer(github: FakeGithub, url: string): object | undefined {
  const { pathname, searchParams } = new URL(url, 'http://x')
  const path = decodeURIComponent(pathname).replace(`/repos/${REPOSITORY}`, '')
  if (path === '') return { id: 4, full_name: REPOSITORY, default_branch: 'main' }
  const [, name = '', policies] = /^\/environments\/([^/]+)(\/deployment-branch-policies)?$/.exec(path) ?? []
  const named = { cutover: github.environment, 'cutover-cleanup': github.cleanup, ...Object.fromEntries(github.others) }
  const environment = named[name as keyof typeof named]
  if (name) return environment && (policies ? branchPolicies(environment) : environment)
  const [, runId = '', rest] = /^\/actions\/runs\/(\d+)\/(.*)$/.exec(path) ?? []
  const run = github.runs.get(runId)
  if (run && rest === 'approvals') return run.approvals
  if (run && rest === 'attempts/1/jobs')
    return { total_count: run.jobs.length, jobs: run.jobs.map((job, id) => ({ id, run_id: Number(runId), ...job })) }
  if (path === '/actions/artifacts') {
    const found = github.rehearsals.filter(({ artifact }) => artifact.name === searchParams.get('name'))
    const listed = searchParams.get('page') === '1' ? found : []
    return {
      total_count: found.length,
      artifacts: listed.map(({ run, artifact }) => ({
        ...artifact,
        workflow_run: { id: run.id, head_branch: run.head_branch, repository_id: 4, head_repository_id: headOf(run) },
      })),
    }
  }
  const rehearsed = /^\/actions\/runs\/(\d+)$/.exec(path)?.[1]
  if (rehearsed) return github.rehearsals.find(({ run }) => String(run.id) === rehearsed)?.run
  return undefined
}

const headOf = (run: FakeRehearsal['run']) => (run.head_repository as { id?: number } | null)?.id ?? 0

/** The branches that {@link limited} allows in an environment. */
function branchPolicies(environment: object): object {
  const { names = [] } = environment as { names?: string[] }
  return { total_count: names.length, branch_policies: names.map((name, id) => ({ id, name, type: 'branch' })) }
}

/** An environment without reviewers, limited to these branches. */
export function limited(names: string[]): object {
  return {
    id: 2,
    name: 'migration',
    can_admins_bypass: true,
    protection_rules: [{ id: 3757, type: 'branch_policy' }],
    deployment_branch_policy: { protected_branches: false, custom_branch_policies: true },
    names,
  }
}

/** An environment with this many required reviewers. */
export function reviewed(reviewers: number): object {
  return {
    id: 1,
    name: 'cutover',
    can_admins_bypass: false,
    protection_rules: [
      { id: 3736, type: 'wait_timer', wait_timer: 30 },
      {
        id: 3755,
        type: 'required_reviewers',
        prevent_self_review: false,
        reviewers: Array.from({ length: reviewers }, (_, id) => ({ type: 'User', reviewer: { login: 'bea', id } })),
      },
      { id: 3756, type: 'branch_policy' },
    ],
    deployment_branch_policy: { protected_branches: true, custom_branch_policies: false },
  }
}

/** A reviewer's decision on an environment. */
export function review(login: string, state = 'approved', environment = 'cutover'): object {
  return {
    state,
    comment: '',
    environments: [{ id: 1, node_id: 'MDExOkVudmlyb25tZW50MQ==', name: environment, url: '', html_url: '' }],
    user: { login, id: 7, type: 'User', site_admin: false },
  }
}

/** A run of `migrate-caller.yml` whose cutover has just started to wait for approval. */
export function waitingRun(): FakeRun {
  const job = (name: string, status: string): FakeJob => ({
    name: `migrate / ${name}`,
    status,
    conclusion: null,
    steps: [],
    created_at: new Date().toISOString(),
  })
  return { jobs: [job('cutover', 'waiting'), job('follow (1)', 'in_progress')], approvals: [] }
}

export function jobOf(run: FakeRun, name: string): FakeJob {
  const job = run.jobs.find((each) => each.name.startsWith(`migrate / ${name}`))
  if (!job) throw new Error(`the fake run has no job ${name}`)
  return job
}
