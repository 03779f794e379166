import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { hidePasswords, splitPassword } from '../../src/tools/passwords.ts'
import { Child } from '../../src/tools/process.ts'
import { toolHelp } from '../../src/tools/versions.ts'

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'passwords-test-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

describe('splitPassword', () => {
  test.each([
    ['postgres://u:pw@h:5/db?sslmode=require', 'postgres://u@h:5/db?sslmode=require', ['h:5:db:u:pw']],
    ['postgresql://u:p%3Aw%5C%40@h/db', 'postgresql://u@h/db', ['h:5432:db:u:p\\:w\\\\@']],
    ['postgres://u:pw@h1:1,h2/db', 'postgres://u@h1:1,h2/db', ['h1:1:db:u:pw', 'h2:5432:db:u:pw']],
    ['postgres://u:pw@[::1]:7/d%20b', 'postgres://u@[::1]:7/d%20b', ['\\:\\:1:7:d b:u:pw']],
    ['postgres://u@h/db?a=1&password=p%26w&b=%20', 'postgres://u@h/db?a=1&b=%20', ['h:5432:db:u:p&w']],
    ['postgres://u:pw@/db?host=/run/pg&port=6', 'postgres://u@/db?host=/run/pg&port=6', ['localhost:6:db:u:pw']],
    ['postgres://h/db?user=u&password=pw', 'postgres://h/db?user=u', ['h:5432:db:u:pw']],
    ['postgres://u:pw@h/db?options=-c%20a%3Db', 'postgres://u@h/db?options=-c%20a%3Db', ['h:5432:db:u:pw']],
  ])('%s', (url, without, lines) => expect(splitPassword(url)).toEqual({ url: without, lines }))

  test.each([
    ['no password', 'postgres://u@h/db'],
    ['its own file', 'postgres://u:pw@h/db?passfile=/x'],
    ['a service', 'postgres://u:pw@h/db?service=x'],
    ['whitespace that would be lost in a password file', 'postgres://u:pw%20@h/db'],
    ['a line break', 'postgres://u:p%0Aw@h/db'],
    ['not percent-encoded', 'postgres://u:p%w@h/db'],
  ])('leaves the URL unchanged: %s', (_, url) => expect(splitPassword(url)).toBeUndefined())
})

test('passes passwords to the program in a private file, which is removed after the program exits', async () => {
  const dir = folder()
  const lines: string[] = []
  const script =
    'console.log(process.env.PGPASSFILE); console.log(process.argv.slice(1).join(" ")); console.log(require("fs").readFileSync(process.env.PGPASSFILE, "utf8"), require("fs").statSync(process.env.PGPASSFILE).mode & 0o777)'
  const child = new Child({
    program: process.execPath,
    args: ['-e', script, 'postgres://u:hunter22@h/db', '--target=postgres://v:hunter33@i:26257/db'],
    logFile: join(dir, 'log'),
    hidePasswords: true,
    onLine: (line) => lines.push(line),
  })
  await child.exited
  expect(lines.slice(1)).toEqual([
    'postgres://u@h/db --target=postgres://v@i:26257/db',
    'h:5432:db:u:hunter22',
    'i:26257:db:v:hunter33',
    '*:*:db:u:hunter22',
    '*:*:db:v:hunter33',
    ` ${0o600}`,
  ])
  expect(existsSync(lines[0] as string)).toBe(false)
})

test('creates no file without a password', () => {
  expect(hidePasswords(['--source', 'postgres://u@h/db'], '/nowhere')).toMatchObject({
    args: ['--source', 'postgres://u@h/db'],
    env: {},
  })
})

test.each(['molt', 'replicator'])('reports that %s is not on the PATH, whichever way it is run', async (program) => {
  vi.stubEnv('PATH', '/nowhere')
  const told = `\`${program}\` is not on the PATH. Run \`setup\` before this step in the same job`
  const child = new Child({ program, args: [], logFile: join(folder(), 'log'), onLine() {} })
  await child.exited
  expect(child.failure({ said: 'said', advice: 'advice' })).toMatchObject({ code: 'tool.not-installed', message: told })
  await expect(toolHelp(program, 'verify')).rejects.toThrow(told)
  vi.unstubAllEnvs()
})

test('treats a missing program like one that fails, and leaves nothing behind', async () => {
  const dir = folder()
  const child = new Child({
    program: join(dir, 'absent'),
    args: ['postgres://u:hunter22@h/db'],
    logFile: join(dir, 'log'),
    hidePasswords: true,
    onLine() {},
  })
  expect(await child.exited).toEqual({ code: null, signal: null })
  expect(child.failure().message).toContain('could not be started')
  expect(statSync(join(dir, 'log')).mode & 0o777).toBe(0o600)
  expect(readFileSync(join(dir, 'log'), 'utf8')).not.toContain('hunter22')
})
