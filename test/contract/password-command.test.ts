// Tests `password-command` on a server that requires passwords, with a program that records each of its runs.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { runAction } from '../../rehearsal/runner/runner.ts'
import { connect, withDatabase } from '../../src/runtime/database.ts'
import { requireToolPasswords, setPasswordCommand, withJobPassword } from '../../src/runtime/password-command.ts'
import { redact } from '../../src/runtime/secrets.ts'
import { TIMING } from '../../src/runtime/timing.ts'
import { inProcess } from '../support/in-process.ts'

const TOKEN = 'token-of-this/minute+1'
let server: EmbeddedServer
let folder: string
/** The server's URL without a password. */
let url: string

beforeAll(async () => {
  server = await startPostgres({ name: 'iam' })
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-password-'))
  await withDatabase(server.url, 'source', (db) =>
    db.query(`CREATE ROLE iam LOGIN PASSWORD '${TOKEN}'; GRANT pg_read_all_stats TO iam`),
  )
  url = `postgresql://iam@127.0.0.1:${server.port}/shop?sslmode=disable`
  vi.spyOn(process.stdout, 'write').mockReturnValue(true)
})
afterEach(() => setPasswordCommand(undefined))
afterAll(async () => {
  vi.restoreAllMocks()
  await server?.stop()
  rmSync(folder, { recursive: true, force: true })
})

const runs = () => readFileSync(join(folder, 'runs'), 'utf8').trim().split('\n')

/** Creates a program that records the login for which it is called. */
function program(body = `echo '${TOKEN}'`): string[] {
  const path = join(folder, 'password.sh')
  writeFileSync(join(folder, 'runs'), '')
  writeFileSync(
    path,
    `#!/bin/sh\necho "$PGUSER@$PGHOST:$PGPORT/$PGDATABASE $SECRET_OF_THE_JOB" >> '${folder}/runs'\n${body}\n`,
  )
  chmodSync(path, 0o700)
  return [path]
}

describe('a password for one connection', () => {
  test('is requested for the login, reused for a minute, and masked', async () => {
    vi.stubEnv('SECRET_OF_THE_JOB', 'hidden')
    setPasswordCommand(program())
    for (const side of ['source', 'source'] as const)
      await withDatabase(url, side, async (db) =>
        expect((await db.query('SELECT current_user AS who')).rows).toEqual([{ who: 'iam' }]),
      )
    expect(runs()).toEqual([`iam@127.0.0.1:${server.port}/shop`])
    expect(redact(`${TOKEN} ${encodeURIComponent(TOKEN)}`)).toBe('*** ***')
    vi.unstubAllEnvs()
  })

  test('is not requested if the URL has a password', async () => {
    setPasswordCommand(program())
    await (await connect(server.url, 'source')).end()
    expect(runs()).toEqual([''])
  })

  test('cannot be used for molt and the replicator, whose URLs need a password', () => {
    setPasswordCommand(program())
    expect(() => requireToolPasswords([url, server.url])).toThrow(
      expect.objectContaining({ code: 'password.not-for-tools' }),
    )
    requireToolPasswords([server.url])
  })
})

test("requests a password that lasts for the whole job only once, and puts it into the tools' URL", async () => {
  setPasswordCommand(program(), 'job')
  const full = await withJobPassword(url, new AbortController().signal)
  expect(full).toBe(url.replace('iam@', `iam:${encodeURIComponent(TOKEN)}@`))
  requireToolPasswords([full])
  await (await connect(full, 'source')).end()
  expect(runs()).toHaveLength(1)
})

test.each([
  [
    'fails',
    'echo half-a-token-99; echo "no credentials, half-a-token-99" >&2; exit 3',
    /exit code 3: no credentials, \*\*\*$/,
  ],
  ['prints nothing', 'true', /printed nothing$/],
  ['prints several lines', 'echo first-line-1; echo second-line-2', /printed several lines$/],
])('reports why a program that %s failed, without its output', async (_, body, message) => {
  setPasswordCommand(program(body))
  const error = await connect(url, 'source').catch((thrown) => thrown)
  expect(error).toMatchObject({ code: 'password.command-failed', message: expect.stringMatching(message) })
  expect(error.message).not.toMatch(/half-a-token|first-line/)
  // The next connection calls the program again.
  setPasswordCommand(program())
  await (await connect(url, 'source')).end()
})

test('reports a program that is missing or hangs', async () => {
  setPasswordCommand([join(folder, 'nope')])
  await expect(connect(url, 'source')).rejects.toMatchObject({ code: 'password.command-failed' })
  vi.spyOn(TIMING, 'passwordCommand', 'get').mockReturnValue(200)
  setPasswordCommand(program('exec sleep 20'))
  await expect(connect(url, 'source')).rejects.toMatchObject({ code: 'password.command-failed' })
})

test('reads the command from the config file, and logs no password', async () => {
  const config = join(folder, 'molt-actions.yml')
  writeFileSync(config, `common:\n  password-command: ${JSON.stringify(program())}\n`)
  const result = await runAction({
    dir: `${process.cwd()}/actions/status`,
    repo: process.cwd(),
    workDir: folder,
    start: inProcess,
    inputs: { source: url, config, 'allow-insecure': 'true' },
  })
  expect(result.outputs.fence).toBe('absent')
  expect(JSON.stringify(result.steps)).not.toContain(TOKEN)
  expect(runs()).toEqual([`iam@127.0.0.1:${server.port}/shop`])
})
