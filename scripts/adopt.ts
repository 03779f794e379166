/**
 * Copies the example files to your repository with their placeholders filled in: see `npm run adopt -- --help`. Never
 * overwrites a file.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'

const EXAMPLES = resolve(import.meta.dirname, '../examples')
const HELP = `npm run adopt -- [OWNER/REPO[@COMMIT]] --out DIR [options]

Writes the workflows and the config file into DIR, with repository and commit filled in.

  OWNER/REPO@COMMIT        repository of these actions, and the full commit (40 hex digits) to pin (default: those of
                           this clone)
  --out DIR                root of your repository; existing files are never overwritten
  --caller                 for a repository in the organization of OWNER/REPO: call its migrate.yml
                           instead of copying the jobs
  --plan-hash              for a GitHub plan without required reviewers: a second person types the hash
  --runner LABEL           label of a runner that reaches both databases (default: ubuntu-24.04)
  --bucket URL             bucket for the load, such as s3://acme-molt/shop
  --postgres-image IMAGE   such as postgres:16@sha256:…, for the rehearsal
  --cockroach-image IMAGE  such as cockroachdb/cockroach:v25.2.6@sha256:…
`
const IMAGE = /^[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}$/
const ZEROS = '0'.repeat(64)

export interface Adoption {
  /** Repository of the actions: `OWNER/REPO`. */
  repository: string
  /** Full commit, 40 hex digits. */
  commit: string
  caller?: boolean
  planHash?: boolean
  runner?: string
  bucket?: string
  postgresImage?: string
  cockroachImage?: string
}

/** The files to write: path in the adopting repository → content. */
export function adoptedFiles(adoption: Adoption): Map<string, string> {
  const { caller = false } = adoption
  const copied: Record<string, string> = {
    '.github/workflows/migrate.yml': caller ? 'migrate-caller.yml' : 'migrate-jobs.yml',
    '.github/workflows/molt-operations.yml': 'operations.yml',
    '.github/workflows/rehearse.yml': 'rehearse.yml',
    'molt-actions.yml': 'molt-actions.yml',
  }
  for (const name of readdirSync(join(EXAMPLES, 'rehearsal'))) copied[`rehearsal/${name}`] = join('rehearsal', name)
  return new Map(
    Object.entries(copied).map(([path, name]) => [path, fill(readFileSync(join(EXAMPLES, name), 'utf8'), adoption)]),
  )
}

function fill(text: string, adoption: Adoption): string {
  const { repository, commit, planHash, runner, bucket, postgresImage, cockroachImage } = adoption
  const filled = text
    .replace(/^# (Copy|Generated from)[^\n]*\n(# [^\n]*\n)*/, `# From ${repository} at ${commit}.\n`)
    .replaceAll('OWNER/REPO', repository)
    .replaceAll(/(?<![0-9a-f])0{40}(?![0-9a-f])/g, commit)
    .replace('s3://BUCKET/molt', bucket ?? 's3://BUCKET/molt')
    .replace(/POSTGRES_IMAGE: .*/, (line) => (postgresImage ? `POSTGRES_IMAGE: ${postgresImage}` : line))
    .replace(/COCKROACH_IMAGE: .*/, (line) => (cockroachImage ? `COCKROACH_IMAGE: ${cockroachImage}` : line))
  const labelled = runner ? filled.replaceAll(/(?<=^ +(?:runs-on|runner): )ubuntu-24\.04/gm, runner) : filled
  // Changes the gate of the cutover in either file, but not that of the cleanup.
  return planHash
    ? labelled.replace(/gate: environment(?= # plan-hash|\n +environment: cutover\n)/, 'gate: plan-hash')
    : labelled
}

/** @throws Error for invalid arguments, or if a file already exists */
export function adopt(args: string[]): void {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      out: { type: 'string' },
      caller: { type: 'boolean' },
      'plan-hash': { type: 'boolean' },
      runner: { type: 'string' },
      bucket: { type: 'string' },
      'postgres-image': { type: 'string' },
      'cockroach-image': { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(HELP)
    return
  }
  const { repository, commit } = whereFrom(positionals[0])
  if (!values.out) throw new Error('--out is missing. Set it to the root of your repository')
  const images = { postgresImage: values['postgres-image'], cockroachImage: values['cockroach-image'] }
  for (const image of Object.values(images))
    if (image && !IMAGE.test(image)) throw new Error(`${image} is not pinned. Write NAME:TAG@sha256:DIGEST`)
  const { out, caller, runner, bucket } = values
  const files = adoptedFiles({ repository, commit, caller, planHash: values['plan-hash'], runner, bucket, ...images })
  const taken = [...files.keys()].filter((path) => existsSync(join(out, path)))
  if (taken.length) throw new Error(`these files already exist: ${taken.join(', ')}. Move them, or set another --out`)
  for (const [path, content] of files) {
    mkdirSync(dirname(join(out, path)), { recursive: true })
    writeFileSync(join(out, path), content)
    console.log(`wrote ${join(out, path)}`)
  }
  console.log(next([...files.values()].join('\n')))
}

/** @throws Error if the repository or the commit is not given and cannot be read from this clone */
function whereFrom(given = ''): { repository: string; commit: string } {
  const own = ownSource()
  const [name, at] = given.split('@')
  const repository = name || own.repository
  const commit = at || own.commit
  if (!repository || !/^[\w.-]+\/[\w.-]+$/.test(repository))
    throw new Error(
      name
        ? `${name} is not a repository. Write OWNER/REPO`
        : 'the origin of this clone is not on GitHub. Write the OWNER/REPO of these actions',
    )
  if (!commit || !/^[0-9a-f]{40}$/.test(commit))
    throw new Error(`${at ?? 'the commit'} is not a full commit. Write the 40 hex digits that git rev-parse prints`)
  return { repository, commit }
}

/**
 * Repository and commit of this clone. The repository is undefined unless the origin is a URL. Without git, both are
 * undefined.
 */
export function ownSource(): { repository?: string; commit?: string } {
  const git = (...args: string[]) => {
    try {
      return execFileSync('git', args, {
        cwd: import.meta.dirname,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      })
    } catch {
      return ''
    }
  }
  const origin = git('remote', 'get-url', 'origin').trim()
  const [, repository] =
    /^(?:https?:\/\/|ssh:\/\/|[\w.-]+@)[^/:]+(?::\d+)?[/:]([\w.-]+\/[\w.-]+?)(?:\.git)?\/?$/.exec(origin) ?? []
  return { repository, commit: git('rev-parse', 'HEAD').trim() || undefined }
}

/** The command that adopts this clone, which was just rehearsed. */
export function adoptCommand(): string {
  const { repository, commit = 'COMMIT' } = ownSource()
  return `npm run adopt -- ${repository ? '' : `OWNER/REPO@${commit} `}--out ../my-repository`
}

/** Lists what only the adopting team can fill in. */
function next(text: string): string {
  const left = [
    text.includes('s3://BUCKET') && '- molt-actions.yml: the bucket (`--bucket`), or `mode: direct-copy`',
    text.includes(ZEROS) && '- rehearse.yml: the digests of the images (`--postgres-image`, `--cockroach-image`)',
    '- molt-actions.yml: npm run check-config -- FILE lists every mistake',
    '- rehearsal/: your own schema, rows and masking rules',
    '- environments, reviewers and secrets: docs/environments.md',
  ]
  return `\nLeft to do:\n${left.filter(Boolean).join('\n')}`
}

if (process.argv[1] === import.meta.filename) {
  try {
    adopt(process.argv.slice(2))
  } catch (error) {
    console.error((error as Error).message)
    process.exitCode = 1
  }
}
