// Runs the release scripts as the workflow does, except for the publishing itself, which needs github.com.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import packageJson from '../../package.json' with { type: 'json' }
import { draftProblems, notesOf, writeFiles } from '../../scripts/release.ts'

const COMMIT = 'c0ffee'.padEnd(40, '1')
const { version } = packageJson
const folder = mkdtempSync(join(tmpdir(), 'release-test-'))
const out = join(folder, 'release')
const adoption = { repository: 'acme/molt-actions', commit: COMMIT }

beforeAll(() => writeFiles(version, adoption, out))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('the archives contain the files to copy, with the commit filled in', () => {
  for (const name of ['files-to-copy.tar.gz', 'files-to-copy-same-organization.tar.gz']) {
    const list = execFileSync('tar', ['--list', '--gzip', '--file', join(out, name)], { encoding: 'utf8' })
    expect(list).toContain('./.github/workflows/migrate.yml\n')
    const read = ['--extract', '--to-stdout', '--gzip', '--file', join(out, name), './.github/workflows/migrate.yml']
    const text = execFileSync('tar', read, { encoding: 'utf8' })
    expect(text).toContain(`acme/molt-actions/`)
    expect(text).toContain(`@${COMMIT}`)
    expect(text).not.toMatch(/OWNER\/REPO|0{40}/)
  }
})

test('the same commit produces the same bytes and matching checksums', () => {
  const again = join(folder, 'again')
  writeFiles(version, adoption, again)
  for (const name of readdirSync(out)) expect(readFileSync(join(again, name))).toEqual(readFileSync(join(out, name)))
  const sums = readFileSync(join(out, 'SHA256SUMS'), 'utf8')
  const own = sums.split('\n').filter((line) => /\.tar\.gz$/.test(line))
  expect(own).toHaveLength(2)
  const checked = execFileSync('sha256sum', ['--check', '-'], { cwd: out, input: own.join('\n'), encoding: 'utf8' })
  expect(checked.match(/: OK$/gm)).toHaveLength(2)
})

test("the notes are only that version's section of the changelog", () => {
  const changelog =
    '# Changelog\n\n## [Unreleased]\n\n- new\n\n## [0.2.0] - 2026-12-01\n\n### Added\n\n- two\n\n## [0.1.0] - 2026-11-01\n\n- one\n'
  expect(notesOf(changelog, '0.2.0')).toBe('### Added\n\n- two')
  expect(notesOf(changelog, '0.1.0')).toBe('- one')
  expect(() => notesOf(changelog, '0.3.0')).toThrow()
  expect(() => notesOf(changelog, '0.2')).toThrow()
})

test("the notes link to the commit's documents, and have no placeholders", () => {
  const notes = readFileSync(join(out, 'notes.md'), 'utf8')
  const links = [...notes.matchAll(/\]\(([^)]+)\)/g)].map(([, link = '']) => link)
  const page = `https://github.com/acme/molt-actions/blob/${COMMIT}/`
  expect(links.filter((link) => link.startsWith(page)).length).toBeGreaterThan(5)
  expect(links.filter((link) => !link.startsWith('https://'))).toEqual([])
  expect(notes).not.toContain('OWNER/REPO')
})

test("rejects a version other than package.json's", () => {
  expect(() => writeFiles('9.9.9', adoption, join(folder, 'other'))).toThrow()
})

/** Returns the draft that the workflow's first job creates, in the format of GitHub's REST API. */
function draft(): Record<string, unknown> & { assets: { name: string; digest: string | null }[] } {
  const names = readdirSync(out).filter((name) => name !== 'notes.md')
  const digest = (name: string) => {
    const [sum] = execFileSync('sha256sum', [name], { cwd: out, encoding: 'utf8' }).split(' ')
    return `sha256:${sum}`
  }
  return {
    tag_name: `v${version}`,
    target_commitish: COMMIT,
    draft: true,
    body: readFileSync(join(out, 'notes.md'), 'utf8'),
    assets: names.map((name) => ({ name, digest: digest(name) })),
  }
}

test('accepts a draft of this commit', () => {
  expect(draftProblems(draft(), version, COMMIT, out)).toEqual([])
})

test.each([
  ['was published', { draft: false }],
  ['has another tag', { tag_name: 'v9.9.9' }],
  ['belongs to a branch', { target_commitish: 'main' }],
  ['has other notes', { body: 'Trust me' }],
  ['lacks its assets', { assets: [] }],
])('rejects a release that %s', (_, changed) => {
  expect(draftProblems({ ...draft(), ...changed }, version, COMMIT, out).length).toBeGreaterThan(0)
})

test('rejects an asset with other bytes, without a digest or with another name', () => {
  for (const digest of [`sha256:${'0'.repeat(64)}`, null]) {
    const changed = draft()
    ;(changed.assets[0] as { digest: string | null }).digest = digest
    expect(draftProblems(changed, version, COMMIT, out)).toHaveLength(1)
  }
  const more = draft()
  more.assets.push({ name: 'molt-actions.exe', digest: `sha256:${'0'.repeat(64)}` })
  expect(draftProblems(more, version, COMMIT, out)).toHaveLength(1)
})

test("action.yml meets the Marketplace's requirements", () => {
  const { name, description, branding } = parse(readFileSync('action.yml', 'utf8'))
  expect(name.length).toBeGreaterThan(0)
  expect(description.length).toBeLessThanOrEqual(125)
  expect(branding).toEqual({ icon: 'database', color: 'blue' })
})

test('checks a draft from standard input', () => {
  const args = ['check-draft', '--version', version, '--commit', COMMIT, '--out', out]
  const run = (input: string) =>
    execFileSync(process.execPath, ['--import', 'tsx', 'scripts/release.ts', ...args], {
      input,
      encoding: 'utf8',
      stdio: 'pipe',
    })
  expect(run(JSON.stringify(draft()))).toContain(COMMIT)
  expect(() => run(JSON.stringify({ ...draft(), draft: false }))).toThrow()
})
