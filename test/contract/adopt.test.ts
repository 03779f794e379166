// `npm run adopt`: checks the files generated for each kind of team.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import { type Adoption, adopt, adoptedFiles } from '../../scripts/adopt.ts'
import { REPO } from '../support/migration.ts'

const COMMIT = 'c0ffee'.padEnd(40, '1')
const given: Adoption = {
  repository: 'acme/molt-actions',
  commit: COMMIT,
  bucket: 's3://acme-molt/shop',
  postgresImage: `postgres:16@sha256:${'a'.repeat(64)}`,
  cockroachImage: `cockroachdb/cockroach:v25.2.6@sha256:${'b'.repeat(64)}`,
}
const folder = mkdtempSync(join(tmpdir(), 'adopt-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Returns every `uses` in a workflow's jobs and steps. */
function uses(text: string): string[] {
  const jobs = Object.values(parse(text).jobs) as { uses?: string; steps?: { uses?: string }[] }[]
  return jobs.flatMap((job) => [job.uses, ...(job.steps ?? []).map((step) => step.uses)]).filter((each) => each != null)
}

test.each([
  ['own jobs', given],
  ['a caller', { ...given, caller: true }],
])('given every option, %s need no further edit', (_, adoption) => {
  const files = adoptedFiles(adoption)
  for (const [path, text] of files) expect(text, path).not.toMatch(/OWNER|REPO@|BUCKET|0{40}/)
  const workflows = [...files].filter(([path]) => path.startsWith('.github/workflows/'))
  expect(workflows).toHaveLength(3)
  for (const [path, text] of workflows) {
    const ours = uses(text).filter((each) => each.startsWith('acme/'))
    expect(ours.length, path).toBeGreaterThan(0)
    for (const each of ours) expect(each).toMatch(new RegExp(`^acme/molt-actions(/[\\w./-]+)?@${COMMIT}$`))
    // Local paths would not exist in the team's repository.
    expect(uses(text).filter((each) => /^[.$]\//.test(each))).toEqual([])
  }
  expect(files.get('molt-actions.yml')).toContain('s3://acme-molt/shop')
  // Editors find the schema only if the first line has this form.
  const schema = `https://raw.githubusercontent.com/acme/molt-actions/${COMMIT}/docs/config.schema.json`
  expect(files.get('molt-actions.yml')?.split('\n')[0]).toBe(`# yaml-language-server: $schema=${schema}`)
  expect(files.get('.github/workflows/rehearse.yml')).toContain(given.postgresImage)
  expect(files.get('.github/workflows/rehearse.yml')).toContain(given.cockroachImage)
})

test.each([false, true])(
  'a second person must enter the hash if required reviewers are not available (caller: %s)',
  (caller) => {
    const path = '.github/workflows/migrate.yml'
    const plain = adoptedFiles({ ...given, caller }).get(path) as string
    const typed = adoptedFiles({ ...given, caller, planHash: true }).get(path) as string
    const lines = plain.split('\n')
    const changed = typed.split('\n').filter((line, i) => line !== lines[i])
    expect(changed.map((line) => line.replace(/#.*/, '').trim())).toEqual(['gate: plan-hash'])
  },
)

test('every job that connects to a database runs on the given runner', () => {
  const label = 'databases-reach'
  for (const adoption of [given, { ...given, caller: true }]) {
    const text = adoptedFiles({ ...adoption, runner: label }).get('.github/workflows/migrate.yml') as string
    const { jobs } = parse(text) as { jobs: Record<string, { 'runs-on'?: string; with?: { runner?: string } }> }
    for (const [id, job] of Object.entries(jobs)) expect(job['runs-on'] ?? job.with?.runner, id).toBe(label)
  }
})

test('the command writes what the function returns, and never overwrites a file', async () => {
  const out = join(folder, 'repository')
  const command = (...args: string[]) =>
    execa(process.execPath, ['--import', 'tsx', 'scripts/adopt.ts', ...args], { cwd: REPO, reject: false })
  const first = await command(`acme/molt-actions@${COMMIT}`, '--out', out)
  expect(first.exitCode, first.stderr).toBe(0)
  const files = adoptedFiles({ repository: 'acme/molt-actions', commit: COMMIT })
  for (const [path, text] of files) expect(readFileSync(join(out, path), 'utf8')).toBe(text)
  const second = await command('other/fork@'.concat('d'.repeat(40)), '--out', out)
  expect(second.exitCode).toBe(1)
  for (const [path, text] of files) expect(readFileSync(join(out, path), 'utf8')).toBe(text)
})

test.each([
  ['a tag instead of a commit', ['acme/molt-actions@v1', '--out', 'x']],
  ['no folder', [`acme/molt-actions@${COMMIT}`]],
  ['an image without its digest', [`acme/molt-actions@${COMMIT}`, '--out', 'x', '--postgres-image', 'postgres:16']],
])('rejects %s and writes nothing', (_, args) => {
  const at = args.map((each) => (each === 'x' ? join(folder, 'refused') : each))
  expect(() => adopt(at)).toThrow()
  expect(() => readFileSync(join(folder, 'refused/molt-actions.yml'))).toThrow()
})
