// Reports all problems of a config file at once, in a format that editors can read.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { specs } from '../../src/actions/specs.ts'
import { parseConfig } from '../../src/runtime/config.ts'

function problems(text: string): string[] {
  return parseConfig(text, specs).problems.map(({ line, column, code }) => `${line}:${column} ${code}`)
}

test('lists every problem, in file order', () => {
  const text = `cutover: yes
fetsch: {}
common:
  migratoin: x
  wal-budget: 12XB
prepare:
  source: postgresql://u:hidden@h/db
  max-lag: 2s
fetch: { mode: turbo, table-concurrency: 900 }
`
  expect(problems(text)).toEqual([
    '1:10 config.invalid',
    '2:1 config.unknown-name',
    '4:3 config.unknown-name',
    '5:15 config.invalid',
    '7:11 config.secret-in-file',
    '8:3 config.unknown-name',
    '9:16 config.invalid',
    '9:42 config.invalid',
  ])
  expect(JSON.stringify(parseConfig(text, specs).problems)).not.toContain('hidden')
})

test.each([
  [
    'a value of `common` that its only reader overrides',
    'common: { bucket-path: x }\nfetch: { bucket-path: s3://a/b }',
  ],
  ['a section whose settings are all commented out', 'cutover:\n  # max-pause: 60s\n'],
  ['an alias', 'fetch: &a { table-concurrency: 4 }\n'],
  ['a secret named by a variable, even one that is not set', 'common: { source: env:NOT_SET_ANYWHERE }'],
  ['nothing', '# a comment\n'],
])('accepts %s', (_, text) => {
  expect(problems(text)).toEqual([])
})

test.each([
  ['a duplicate key', 'fetch:\n  mode: import\n  mode: import\n', '3:3 config.unreadable'],
  ['no map', '- a\n', '1:1 config.invalid'],
  ['another config file', 'common:\n  config: x.yml\n', '2:3 config.unknown-name'],
])('rejects %s', (_, text, problem) => {
  expect(problems(text)).toEqual([problem])
})

test('accepts the example once a bucket is filled in', () => {
  const example = readFileSync('examples/molt-actions.yml', 'utf8')
  expect(problems(example)).toEqual([expect.stringMatching(/ config\.invalid$/)])
  expect(problems(example.replace('BUCKET', 'acme'))).toEqual([])
})

test("npm run check-config prints problems with the file's name, and fails", () => {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-config-'))
  try {
    const file = join(folder, 'c.yml')
    const valid = join(folder, 'a.yml')
    writeFileSync(file, 'fetch: { mode: turbo }\ncommon: { slto: x }\n')
    writeFileSync(valid, 'fetch: { mode: direct-copy }\n')
    const args = ['--import', 'tsx', 'scripts/check-config.ts', valid, file]
    expect(() => execFileSync(process.execPath, args, { encoding: 'utf8' })).toThrow(
      expect.objectContaining({
        status: 1,
        stdout: expect.stringMatching(/^\S+a\.yml: valid.*\n\S+c\.yml:1:16: .*\[config\.invalid\]\n\S+c\.yml:2:11: /),
      }),
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
