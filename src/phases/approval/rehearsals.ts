import { createHash, verify, X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { getExecOutput } from '@actions/exec'
import * as z from 'zod'
import { messageOf, UserError } from '../../runtime/errors.ts'
import type { Github } from '../../runtime/github.ts'

/*
 * The rehearsals of a plan, as GitHub knows them: artifacts of successful runs on the default branch. Anyone with write
 * access can upload an artifact of any name from a branch, or from the default branch by another workflow. So each one
 * counts only with an attestation whose certificate names the workflow, the branch and the run.
 */

export interface Wanted {
  github: Github
  /** For `gh`. */
  token: string
  /** File name of the workflow that rehearses. */
  workflow: string
  /** Name of the artifact. */
  artifact: string
  since: Date
  /** `gh`: `gh attestation verify` must accept each as well. `read`: what is read here is all. */
  attestation: 'gh' | 'read'
}

/** URLs of the runs that count, and for each other run with such an artifact why it does not. */
export interface Rehearsals {
  green: string[]
  rejected: string[]
}

/** Newest artifacts that are looked at; each costs a few requests and a download. */
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
const certificate = z.object({ rawBytes: z.string() })
const bundle = z.object({
  verificationMaterial: z.object({
    certificate: certificate.optional(),
    x509CertificateChain: z.object({ certificates: z.array(certificate) }).optional(),
  }),
  dsseEnvelope: z.object({
    payload: z.string(),
    payloadType: z.string(),
    signatures: z.array(z.object({ sig: z.string() })),
  }),
})
const attestations = z.object({ attestations: z.array(z.object({ bundle: z.unknown().optional() })) })
const statement = z.object({
  predicateType: z.string(),
  subject: z.array(z.object({ name: z.string(), digest: z.object({ sha256: z.string() }) })),
})

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
    // A run that was repeated leaves an artifact of each attempt, and counts once.
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

/** Artifacts of other branches and forks cost no request each, so a flood of them hides nothing. */
function placeProblem({ workflow_run: by }: Listed, branch: string): string | undefined {
  if (by?.head_repository_id !== by?.repository_id) return 'it ran for a fork'
  return by?.head_branch === branch ? undefined : `it ran on the branch ${by?.head_branch}, not on ${branch}`
}

/** Why a run does not count. */
function runProblem(run: Run, branch: string, { workflow, since }: Wanted): string | undefined {
  if (run.conclusion !== 'success') return `it ended with ${run.conclusion}`
  if (run.head_repository?.full_name.toLowerCase() !== process.env.GITHUB_REPOSITORY?.toLowerCase())
    return 'it ran for a fork'
  if (run.head_branch !== branch) return `it ran on the branch ${run.head_branch}, not on ${branch}`
  if (!EVENTS.includes(run.event)) return `it was started by ${run.event}`
  if (run.path.split('@')[0] !== `.github/workflows/${workflow}`) return `it is of the workflow ${run.path}`
  if (!(Date.parse(run.created_at) >= since.getTime())) return `it is of ${run.created_at}`
  return undefined
}

async function artifactProblem(
  { digest, ...artifact }: Listed,
  run: Run,
  branch: string,
  wanted: Wanted,
): Promise<string | undefined> {
  if (artifact.expired) return 'its artifact has expired'
  if (!digest) return 'GitHub tells no digest of its artifact'
  const answer = await wanted.github.read(`attestations/${digest}?per_page=100`, attestations)
  if (!answer?.body.attestations.length) return 'its artifact has no attestation'
  const problems = answer.body.attestations.map((each) =>
    bundleProblem(each.bundle, { ...artifact, digest }, run, branch, wanted),
  )
  if (!problems.includes(undefined)) return problems.join('; ')
  return wanted.attestation === 'gh' ? await signatureProblem({ ...artifact, digest }, branch, wanted) : undefined
}

/**
 * Reads an attestation: signed by the key of its certificate, about this artifact, and made by this workflow in this
 * run. That the certificate is Fulcio's own, and the signature is in the log, only {@link signatureProblem} tells.
 */
function bundleProblem(
  value: unknown,
  artifact: Artifact,
  run: Run,
  branch: string,
  { workflow, attestation }: Wanted,
): string | undefined {
  // Later versions of this REST endpoint leave the bundle out, and `gh` fetches it by itself.
  if (value === null || value === undefined)
    return attestation === 'gh' ? undefined : 'GitHub tells only that there is an attestation, not what it says'
  try {
    const { verificationMaterial: material, dsseEnvelope: envelope } = bundle.parse(value)
    const raw = (material.certificate ?? material.x509CertificateChain?.certificates[0])?.rawBytes
    if (!raw) return 'the attestation has no certificate'
    const signer = new X509Certificate(Buffer.from(raw, 'base64'))
    const payload = Buffer.from(envelope.payload, 'base64')
    const signed = Buffer.concat([
      Buffer.from(`DSSEv1 ${envelope.payloadType.length} ${envelope.payloadType} ${payload.length} `),
      payload,
    ])
    const isSigned = envelope.signatures.some(({ sig }) =>
      verify('sha256', signed, signer.publicKey, Buffer.from(sig, 'base64')),
    )
    if (!isSigned) return "the attestation's signature is not by the key of its certificate"
    const { predicateType, subject } = statement.parse(JSON.parse(payload.toString()))
    if (predicateType !== PREDICATE) return `the attestation is of the type ${predicateType}`
    const subjects = subject.map((each) => `${each.name} sha256:${each.digest.sha256}`)
    if (!subjects.includes(`${artifact.name}.zip ${artifact.digest}`)) return 'the attestation is about something else'
    return identityProblem(signer.raw, run, branch, workflow)
  } catch (error) {
    return `the attestation cannot be read: ${messageOf(error).split('\n')[0]}`
  }
}

/** What the certificate must say, by the last number of Fulcio's extension. */
function identityProblem(raw: Buffer, run: Run, branch: string, workflow: string): string | undefined {
  const { GITHUB_SERVER_URL = 'https://github.com', GITHUB_REPOSITORY } = process.env
  const home = `${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}`
  const ref = `refs/heads/${branch}`
  const is = (number: number, name: string, wanted: string) => {
    const found = extension(raw, number)
    return found === wanted ? undefined : `the attestation's ${name} is ${found ?? 'missing'}, not ${wanted}`
  }
  const invocation = extension(raw, 21) ?? 'missing'
  return (
    is(8, 'issuer', 'https://token.actions.githubusercontent.com') ??
    is(12, 'repository', home) ??
    is(14, 'ref', ref) ??
    is(18, 'workflow', `${home}/.github/workflows/${workflow}@${ref}`) ??
    (invocation.startsWith(`${home}/actions/runs/${run.id}/attempts/`)
      ? undefined
      : `the attestation is of the run ${invocation}`)
  )
}

/** 1.3.6.1.4.1.57264.1, in DER and without its tag and length. */
const FULCIO = Buffer.from([0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01])

/** The text of an extension: OID, critical or not, an OCTET STRING and in it a UTF8String; undefined unless there is just one. */
function extension(raw: Buffer, number: number): string | undefined {
  const oid = Buffer.concat([FULCIO, Buffer.from([number])])
  const at = raw.indexOf(oid)
  if (at < 0 || raw.indexOf(oid, at + 1) >= 0) return undefined
  let rest = raw.subarray(at + oid.length)
  if (rest[0] === 0x01) rest = rest.subarray(3)
  const octets = content(rest, 0x04)
  return octets && content(octets, 0x0c)?.toString()
}

function content(der: Buffer, tag: number): Buffer | undefined {
  const [first, length = 0] = der
  if (first !== tag) return undefined
  if (length < 0x80) return der.subarray(2, 2 + length)
  const size = length & 0x7f
  const start = 2 + size
  return der.subarray(start, start + der.readUIntBE(2, size))
}

/** Has GitHub's own program check the artifact itself: the certificate's chain, the log, and the identity once more. */
async function signatureProblem(artifact: Artifact, branch: string, wanted: Wanted): Promise<string | undefined> {
  const { GITHUB_REPOSITORY = '', PATH = '', HOME = '', RUNNER_TEMP = '.' } = process.env
  const bytes = await wanted.github.download(`actions/artifacts/${artifact.id}/zip`)
  if (`sha256:${createHash('sha256').update(bytes).digest('hex')}` !== artifact.digest)
    return 'its artifact is not what GitHub says that it is'
  const folder = mkdtempSync(join(RUNNER_TEMP, 'rehearsal-'))
  const file = join(folder, `${artifact.name}.zip`)
  try {
    writeFileSync(file, bytes)
    const { exitCode, stderr } = await getExecOutput(
      'gh',
      [
        ...['attestation', 'verify', file, '--repo', GITHUB_REPOSITORY, '--predicate-type', PREDICATE],
        ...['--signer-workflow', `${GITHUB_REPOSITORY}/.github/workflows/${wanted.workflow}`],
        ...['--source-ref', `refs/heads/${branch}`],
      ],
      { env: { PATH, HOME, GH_TOKEN: wanted.token, NO_COLOR: '1' }, ignoreReturnCode: true, silent: true },
    )
    return exitCode ? `gh attestation verify refuses it: ${stderr.trim().split('\n').at(-1)}` : undefined
  } catch (error) {
    throw new UserError(
      'approval.gh-missing',
      `gh cannot be run (${messageOf(error)}); it checks the signatures of rehearsals. Install it on this runner, or say \`attestation: read\``,
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
