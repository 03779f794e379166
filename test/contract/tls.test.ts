// TLS connections: honors `sslmode`, and reports how to fix an unsuitable certificate.
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type EmbeddedServer, startPostgres } from '../../rehearsal/postgres/postgres.ts'
import { requireTlsOf } from '../support/tls.ts'
import { runBundle } from './bundle.ts'

const servers: Record<string, EmbeddedServer> = {}
let folder: string
let root: string
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-tls-'))
  const kinds = { good: {}, renamed: { host: 'db.example.org' }, expired: { days: -1 } }
  await Promise.all(
    Object.entries(kinds).map(async ([name, kind]) => {
      const server = await startPostgres({ name })
      servers[name] = server
      const path = await requireTlsOf(server, folder, kind)
      if (name === 'good') root = path
    }),
  )
  mkdirSync(join(folder, 'home/.postgresql'), { recursive: true })
  copyFileSync(root, join(folder, 'home/.postgresql/root.crt'))
})
afterAll(async () => {
  await Promise.all(Object.values(servers).map((server) => server.stop()))
  rmSync(folder, { recursive: true, force: true })
})

/** Runs `status` with a source and no target. */
async function status(server: string, parameters: string, env: Record<string, string> = {}) {
  const url = (servers[server] as EmbeddedServer).url.replace('sslmode=disable', parameters)
  return runBundle('status', { inputs: { source: url, 'allow-insecure': 'true' }, env })
}

describe('a source that accepts only TLS', () => {
  test.each([
    ['its certificate in the URL', () => `sslmode=verify-full&sslrootcert=${root}`],
    ['verify-ca', () => `sslmode=verify-ca&sslrootcert=${root}`],
    ['no certificate, and none required', () => 'sslmode=require'],
  ])('accepts the connection: %s', async (_, parameters) => {
    const run = await status('good', parameters())
    expect(run.errors).toEqual([])
    expect(run.code).toBe(0)
  })

  test("connects with the root certificate in libpq's and MOLT's default location", async () => {
    const run = await status('good', 'sslmode=verify-full', { HOME: join(folder, 'home') })
    expect(run.errors).toEqual([])
    // As in libpq, `require` verifies the certificate if there is a root certificate.
    const other = await status('renamed', 'sslmode=require', { HOME: join(folder, 'home') })
    expect(other.shown).toMatch(/Name its CA file/)
  })

  test.each([
    [
      'an unknown authority',
      'good',
      () => 'sslmode=verify-full',
      /not signed by an authority that this runner trusts.* sslrootcert=/,
    ],
    [
      'a private authority',
      'good',
      () => 'sslmode=verify-full&sslrootcert=system',
      /not signed by an authority that this runner trusts/,
    ],
    [
      'a certificate for another host',
      'renamed',
      () => `sslmode=verify-full&sslrootcert=${join(folder, 'renamed-root.crt')}`,
      /is for another host/,
    ],
    [
      'an expired certificate',
      'expired',
      () => `sslmode=verify-full&sslrootcert=${join(folder, 'expired-root.crt')}`,
      /Renew the server/,
    ],
    ['no TLS', 'good', () => 'sslmode=disable', /no encryption/],
  ])('the connection fails and the error names the fix: %s', async (_, server, parameters, message) => {
    const run = await status(server, parameters(), { HOME: folder })
    expect(run.code).toBe(1)
    expect(run.shown).toMatch(message)
    expect(run.outputs['error-kind']).toBe('verdict')
  })

  test.each([
    ['sslmode=verify-full&sslrootcert=/not/there.pem', /sslrootcert names \/not\/there\.pem, which cannot be read/],
    ['sslmode=verify-ca', /verify-ca needs sslrootcert/],
    ['sslmode=require&sslrootcert=system', /sslrootcert=system needs sslmode=verify-full/],
  ])('rejects an unusable URL before connecting: %s', async (parameters, message) => {
    const run = await status('good', parameters, { HOME: folder })
    expect(run.errors[0]).toMatch(message)
    expect(run.outputs['error-kind']).toBe('input')
  })
})
