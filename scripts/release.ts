/**
 * Prepares and checks a release. `npm run release -- files` writes the notes and the assets; `npm run release --
 * check-draft` compares a draft with them.
 */
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import packageJson from '../package.json' with { type: 'json' }
import { type Adoption, adoptedFiles } from './adopt.ts'

const ROOT = resolve(import.meta.dirname, '..')
const HELP = `npm run release -- files --version VERSION --commit SHA --repository OWNER/REPO --out DIR
npm run release -- check-draft --version VERSION --commit SHA --out DIR < release.json

files        writes the release notes and assets into a new folder DIR
check-draft  fails unless the release on standard input, as returned by GitHub's REST API, is a draft of this commit
             and has exactly the assets in DIR, byte for byte
`
const NOTES = 'notes.md'

/** A release from `GET /repos/{owner}/{repo}/releases/{id}`. Digests are `sha256:` and 64 hex digits. */
const Release = z.object({
  tag_name: z.string(),
  target_commitish: z.string(),
  draft: z.boolean(),
  body: z.string().nullable(),
  assets: z.array(z.object({ name: z.string(), digest: z.string().nullable() })),
})

/**
 * One version's section of a Keep-a-Changelog file, without its heading and without link definitions.
 * @throws Error if there is no such section
 */
export function notesOf(changelog: string, version: string): string {
  const [, section] = changelog.split(
    new RegExp(`^## \\[${version.replaceAll('.', '\\.')}\\] - \\d{4}-\\d\\d-\\d\\d$`, 'm'),
  )
  const notes = section?.split(/^## |^\[[^\]]+\]: /m)[0]?.trim()
  if (!notes) throw new Error(`CHANGELOG.md has no section \`## [${version}] - YYYY-MM-DD\`. Rename \`Unreleased\``)
  return notes
}

/** Asset name → its files. The second asset is for repositories of the same organization. */
function archives(adoption: Adoption): Record<string, Map<string, string>> {
  return {
    'files-to-copy.tar.gz': adoptedFiles(adoption),
    'files-to-copy-same-organization.tar.gz': adoptedFiles({ ...adoption, caller: true }),
  }
}

/** Writes notes, archives and SHA256SUMS into a new folder. The same commit gives identical files. */
export function writeFiles(version: string, adoption: Adoption, out: string): void {
  if (version !== packageJson.version)
    throw new Error(
      `package.json says ${packageJson.version}. Run \`npm version ${version} --no-git-tag-version\` and \`npm run build\``,
    )
  const notes = notesOf(readFileSync(join(ROOT, 'CHANGELOG.md'), 'utf8'), version)
  mkdirSync(out)
  const { repository, commit } = adoption
  // Relative links do not work on a release's page.
  const linked = notes.replaceAll(/\]\((?!https?:)/g, `](https://github.com/${repository}/blob/${commit}/`)
  const pin = `${repository}@${commit}`
  writeFileSync(join(out, NOTES), `${linked}\n\nPin the commit: \`${pin}\`. The attached files already contain it.\n`)
  for (const [name, files] of Object.entries(archives(adoption))) pack(files, join(out, name))
  const bundle = readFileSync(join(ROOT, 'dist/molt-actions.cjs'))
  const sums = assetsIn(out).map(([name, digest]) => `${digest.slice('sha256:'.length)}  ${name}`)
  writeFileSync(join(out, 'SHA256SUMS'), [...sums, `${sha256(bundle)}  dist/molt-actions.cjs`, ''].join('\n'))
}

function pack(files: Map<string, string>, archive: string): void {
  const folder = mkdtempSync(join(tmpdir(), 'release-'))
  for (const [path, content] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), content, { mode: 0o644 })
  }
  const fixed = ['--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--mode=a+rX,u+w,go-w']
  const tar = execFileSync('tar', [...fixed, '--create', '--directory', folder, '.'])
  writeFileSync(archive, execFileSync('gzip', ['--no-name', '--best'], { input: tar }))
  rmSync(folder, { recursive: true })
}

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex')

/** Name and digest of each asset in a folder. Excludes the notes, which become the release's text. */
function assetsIn(folder: string): [string, string][] {
  const names = readdirSync(folder).filter((name) => name !== NOTES)
  return names.sort().map((name) => [name, `sha256:${sha256(readFileSync(join(folder, name)))}`])
}

/** Reasons not to publish a release; empty if it is the draft of this commit with the assets in `folder`. */
export function draftProblems(release: unknown, version: string, commit: string, folder: string): string[] {
  const { tag_name, target_commitish, draft, body, assets } = Release.parse(release)
  const problems: string[] = []
  if (!draft) problems.push('it is already published')
  if (tag_name !== `v${version}`) problems.push(`its tag is ${tag_name}, not v${version}`)
  if (target_commitish !== commit) problems.push(`its commit is ${target_commitish}, not ${commit}`)
  if (body?.trim() !== readFileSync(join(folder, NOTES), 'utf8').trim())
    problems.push('its text differs from the section in CHANGELOG.md')
  const expected = new Map(assetsIn(folder))
  for (const { name, digest } of assets)
    if (expected.get(name) !== digest) problems.push(`${name} differs from what this commit builds`)
  const names = assets.map(({ name }) => name)
  for (const name of expected.keys()) if (!names.includes(name)) problems.push(`${name} is missing`)
  return problems
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      version: { type: 'string', default: '' },
      commit: { type: 'string', default: '' },
      repository: { type: 'string', default: '' },
      out: { type: 'string', default: '' },
    },
  })
  const { version, commit, repository, out } = values
  const [command] = positionals
  const known = command === 'check-draft' || (command === 'files' && /^[\w.-]+\/[\w.-]+$/.test(repository))
  if (!known || !/^\d+\.\d+\.\d+$/.test(version) || !/^[0-9a-f]{40}$/.test(commit) || !out) throw new Error(HELP)
  if (command === 'files') {
    writeFiles(version, { repository, commit }, out)
    console.log(readFileSync(join(out, 'SHA256SUMS'), 'utf8'))
    return
  }
  const problems = draftProblems(JSON.parse(await text(process.stdin)), version, commit, out)
  if (problems.length)
    throw new Error(`The draft must not be published: ${problems.join('; ')}. Delete it and start again`)
  console.log(`draft v${version} belongs to ${commit} and has exactly the assets that this commit builds`)
}

if (process.argv[1] === import.meta.filename) {
  try {
    await main()
  } catch (error) {
    console.error((error as Error).message)
    process.exitCode = 1
  }
}
