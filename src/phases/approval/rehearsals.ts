import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ExecOutput, getExecOutput } from '@actions/exec'
import * as z from 'zod'
import { messageOf, UserError } from '../../runtime/errors.ts'
import type { Github } from '../../runtime/github.ts'

/*
 * Finds the rehearsals of a plan on GitHub: artifacts of successful runs on the default branch. Anyone with write
 * access can upload an artifact of any name from another branch or workflow. An artifact therefore counts only if `gh
 * attestation verify` accepts its attestation, which names the workflow, the branch and the run.
 */

export interface Wanted {
  github: Github
  /** For `gh`. */
  token: string
  /** File name of the rehearsal workflow. */
  workflow: string
  /** Name of the artifact that proves a rehearsal. */
  artifact: string
  since: Date
}

/** URLs of the runs that count, and why each other run with such an artifact does not. */
export interface Rehearsals {
  green: string[]
  rejected: string[]
}

/** Number of artifacts to check, newest first. Each one costs a few requests and a download. */
export const MOST_REHEARSALS = 20
const MOST_PAGES = 5

const repository = z.object({ default_branch: z.string() })
const run = z.object({
  id: z.number(),
  html_url: z.string(),
  event: z.string(),
  conclusion: z.string().nullable(),
  head_branch: z.string().nullable(),
  path: z.string(),
  created_at: z.string(),
  head_repository: z.object({ full_name: z.string() }).nullable(),
})
const artifacts = z.object({
  artifacts: z.array(
    z.object({
      id: z.number(),
      name: z.string(),
      expired: z.boolean(),
      digest: z.string().nullish(),
      workflow_run: z
        .object({
          id: z.number(),
          head_branch: z.string().nullish(),
          repository_id: z.number().optional(),
          head_repository_id: z.number().optional(),
        })
        .nullish(),
    }),
  ),
})
/** The fields used from the output of `gh attestation verify --format json`, which prints accepted attestations. */
const verified = z.array(
  z.object({
    verificationResult: z.object({
      signature: z.object({ certificate: z.object({ runInvocationURI: z.string() }) }),
      statement: z.object({
        subject: z.array(z.object({ name: z.string(), digest: z.object({ sha256: z.string() }) })),
      }),
    }),
  }),
)

type Run = z.infer<typeof run>
type Listed = z.infer<typeof artifacts>['artifacts'][number]
type Artifact = Listed & { digest: string }

const PREDICATE = 'https://slsa.dev/provenance/v1'
const EVENTS = ['workflow_dispatch', 'schedule', 'push']

/** @throws GithubError */
export async function findRehearsals(wanted: Wanted): Promise<Rehearsals> {
  const { github } = wanted
  const branch = (await github.read('', repository))?.body.default_branch ?? 'main'
  const result: Rehearsals = { green: [], rejected: [] }
  let looked = 0
  for (const artifact of await listArtifacts(wanted)) {
    const elsewhere = placeProblem(artifact, branch)
    if (elsewhere) {
      result.rejected.push(`run ${artifact.workflow_run?.id}: ${elsewhere}`)
      continue
    }
    if (looked++ === MOST_REHEARSALS) break
    const found = (await github.read(`actions/runs/${artifact.workflow_run?.id}`, run))?.body
    // A rerun leaves one artifact per attempt, but the run counts once.
    if (!found || result.green.includes(found.html_url)) continue
    const problem = runProblem(found, branch, wanted) ?? (await artifactProblem(artifact, found, branch, wanted))
    if (problem) result.rejected.push(`${found.html_url}: ${problem}`)
    else result.green.push(found.html_url)
  }
  return result
}

/** Newest first. */
async function listArtifacts({ github, artifact: name }: Wanted): Promise<Listed[]> {
  const all: Listed[] = []
  for (let page = 1; page <= MOST_PAGES; page++) {
    const query = new URLSearchParams({ name, per_page: '100', page: String(page) })
    const list = (await github.read(`actions/artifacts?${query}`, artifacts))?.body.artifacts ?? []
    all.push(...list.filter((each) => each.name === name))
    if (list.length < 100) break
  }
  return all
}

/**
 * Rejects artifacts from other branches and forks without a request, so that a flood of them cannot use up the limit.
 */
function placeProblem({ workflow_run: by }: Listed, branch: string): string | undefined {
  if (by?.head_repository_id !== by?.repository_id) return 'it ran for a fork'
  return by?.head_branch === branch ? undefined : `it ran on the branch ${by?.head_branch}, not on ${branch}`
}

/** Why a run does not count; undefined if it does. */
function runProblem(run: Run, branch: string, { workflow, since }: Wanted): string | undefined {
  if (run.conclusion !== 'success') return `it ended with ${run.conclusion}`
  if (run.head_repository?.full_name.toLowerCase() !== process.env.GITHUB_REPOSITORY?.toLowerCase())
    return 'it ran for a fork'
  if (run.head_branch !== branch) return `it ran on the branch ${run.head_branch}, not on ${branch}`
  if (!EVENTS.includes(run.event)) return `it was started by ${run.event}`
  if (run.path.split('@')[0] !== `.github/workflows/${workflow}`) return `it is a run of the workflow ${run.path}`
  if (!(Date.parse(run.created_at) >= since.getTime())) return `it ran on ${run.created_at}`
  return undefined
}

async function artifactProblem(
  { digest, ...artifact }: Listed,
  run: Run,
  branch: string,
  wanted: Wanted,
): Promise<string | undefined> {
  if (artifact.expired) return 'its artifact has expired'
  if (!digest) return 'GitHub reports no digest for its artifact'
  const bytes = await wanted.github.download(`actions/artifacts/${artifact.id}/zip`)
  if (`sha256:${createHash('sha256').update(bytes).digest('hex')}` !== digest)
    return 'its artifact does not match the digest that GitHub reports'
  const { exitCode, stdout, stderr } = await verifyAttestation(artifact.name, bytes, branch, wanted)
  if (exitCode) return `gh attestation verify rejects it: ${stderr.trim().split('\n').at(-1)}`
  return invocationProblem(stdout, { ...artifact, digest }, run)
}

/**
 * Checks the artifact with GitHub's own program: its signature, certificate chain and log entry, and that this workflow
 * signed it on this branch.
 */
async function verifyAttestation(name: string, bytes: Buffer, branch: string, wanted: Wanted): Promise<ExecOutput> {
  const { GITHUB_REPOSITORY = '', PATH = '', HOME = '', RUNNER_TEMP = '.' } = process.env
  const folder = mkdtempSync(join(RUNNER_TEMP, 'rehearsal-'))
  const file = join(folder, `${name}.zip`)
  const flags = {
    '--repo': GITHUB_REPOSITORY,
    '--predicate-type': PREDICATE,
    '--signer-workflow': `${GITHUB_REPOSITORY}/.github/workflows/${wanted.workflow}`,
    '--source-ref': `refs/heads/${branch}`,
    '--format': 'json',
  }
  try {
    writeFileSync(file, bytes)
    return await getExecOutput('gh', ['attestation', 'verify', file, ...Object.entries(flags).flat()], {
      env: { PATH, HOME, GH_TOKEN: wanted.token, NO_COLOR: '1' },
      ignoreReturnCode: true,
      silent: true,
    })
  } catch (error) {
    throw new UserError(
      'approval.gh-missing',
      `gh is needed to check the signatures of rehearsals, but cannot be run (${messageOf(error)}). Install it on this runner`,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * Checks the run and the artifact's name, because `gh` has no flags for them. Returns why the artifact does not count.
 */
function invocationProblem(json: string, artifact: Artifact, run: Run): string | undefined {
  const { GITHUB_SERVER_URL = 'https://github.com', GITHUB_REPOSITORY } = process.env
  const runUrl = `${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}/actions/runs/${run.id}/attempts/`
  const wanted = `${artifact.name}.zip ${artifact.digest}`
  const invocations: string[] = []
  try {
    for (const { verificationResult } of verified.parse(JSON.parse(json))) {
      const { signature, statement } = verificationResult
      const subjects = statement.subject.map(({ name, digest }) => `${name} sha256:${digest.sha256}`)
      if (subjects.includes(wanted)) invocations.push(signature.certificate.runInvocationURI)
    }
  } catch (error) {
    return `the output of gh attestation verify cannot be parsed: ${messageOf(error).split('\n')[0]}`
  }
  if (!invocations.length) return 'the attestation is for another artifact'
  if (invocations.some((uri) => uri.startsWith(runUrl))) return undefined
  return `the attestation is for the run ${invocations.join(', ')}`
}
