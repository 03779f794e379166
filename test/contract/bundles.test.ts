// Runs every committed bundle as GitHub does: in its own process, on this Node.js and on a real Node 24.
import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { execa } from 'execa'
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest'
import { LIMIT, measureStartup } from '../../bench/startup.ts'
import packageJson from '../../package.json' with { type: 'json' }
import { specs } from '../../src/actions/specs.ts'
import { REPO, runBundle, startSilentServer } from './bundle.ts'

const node24 = inject('node24')
const NODES = [
  { on: `Node ${process.versions.node}`, node: process.execPath, missing: undefined },
  { on: 'Node 24', node: 'path' in node24 ? node24.path : '', missing: 'missing' in node24 ? node24 : undefined },
]
const PASSWORD = 'hunter2-s3cr3t'

let server: Awaited<ReturnType<typeof startSilentServer>>
let folder: string
beforeAll(async () => {
  server = await startSilentServer()
  folder = mkdtempSync(join(tmpdir(), 'molt-actions-contract-'))
})
afterAll(async () => {
  await server.stop()
  rmSync(folder, { recursive: true, force: true })
})

function url(password = PASSWORD): string {
  return `postgresql://app:${password}@127.0.0.1:${server.port}/shop?sslmode=disable`
}

/** Valid values of `source` and `target`, for actions with these inputs. */
function sound(): Record<string, string> {
  return { source: url(), target: url(), from: url(), to: url(), rules: 'tables: {}', 'allow-insecure': 'true' }
}

function file(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

/** The inputs that the config file does not set. */
function from(config: string): Record<string, string> {
  return config.includes('source:') ? {} : { source: url() }
}

/** Creates scripts in place of MOLT's two programs; `molt` prints the given text. */
function programs(moltSays: string): string {
  const dir = mkdtempSync(join(folder, 'bin-'))
  for (const [tool, says] of [
    ['molt', moltSays],
    ['replicator', 'v1.3.4'],
  ] as const) {
    writeFileSync(join(dir, tool), `#!/bin/sh\n${says.startsWith('exit') ? says : `echo '${says}'`}\n`)
    chmodSync(join(dir, tool), 0o755)
  }
  return dir
}

test('finds a Node 24', () => {
  if ('missing' in node24 && node24.required) expect.fail(node24.missing)
})

test('the two Node versions differ', async ({ skip }) => {
  if ('missing' in node24) return skip(node24.missing)
  const { stdout } = await execa(node24.path, ['--version'])
  expect(stdout).toMatch(/^v24\./)
})

const bundles = readdirSync(join(REPO, 'dist')).filter((name) => /\.cjs$/.test(name) && !/^(molt-|stand-in)/.test(name))

test('every action and every post step has a bundle, and no other bundle exists', () => {
  const wanted = specs.flatMap(({ name, post }) => [`${name}.cjs`, ...(post ? [`${name}-post.cjs`] : [])])
  expect(bundles.sort()).toEqual(wanted.sort())
})

describe.each(NODES)('on $on', ({ node, missing }) => {
  beforeEach(({ skip }) => skip(missing !== undefined, missing?.missing))

  test.each(specs)(
    '$name prints its name first, and reports a missing input as the only error before it connects',
    async ({ name, inputs }) => {
      const before = server.connections()
      const required = Object.keys(inputs).find((input) => inputs[input]?.required)
      const strict = Object.keys(inputs).find((input) => !inputs[input]?.type.schema.safeParse('! no').success)
      const run = await runBundle(name, { node, inputs: required ? {} : { [strict as string]: '! no' } })
      expect(run.log.split('\n')[0]).toBe(`molt-actions ${packageJson.version}: ${name}`)
      expect(run.code).toBe(1)
      expect(run.errors).toHaveLength(1)
      expect(run.errors[0]).toContain(
        required ? `input \`${required}\` is missing. Set it to ` : `input \`${strict}\`: `,
      )
      expect(run.outputs).toEqual({ 'error-kind': 'input', 'error-code': required ? 'input.missing' : 'input.invalid' })
      const [message, next] = (run.errors[0] as string).split('\nNext: ')
      expect(run.summary).toContain(message)
      expect(run.summary).toContain(next)
      expect(run.left).toEqual([])
      expect(server.connections()).toBe(before)
    },
  )

  test('a post step without state does nothing and succeeds', async () => {
    const before = server.connections()
    const run = await runBundle('fence-post', { node, inputs: sound() })
    expect(run.log.split('\n')[0]).toBe(`molt-actions ${packageJson.version}: fence (post)`)
    expect(run.code).toBe(0)
    expect(server.connections()).toBe(before)
  })

  test('the stand-in rejects an unknown flag', async () => {
    const { exitCode, all } = await execa(node, [join(REPO, 'dist/stand-in-molt.cjs'), 'fetch', '--fast'], {
      all: true,
      reject: false,
    })
    expect(exitCode).toBe(1)
    expect(all).toContain('unknown flag: --fast')
  })

  test('a bundle prints its first line within the startup limit', async () => {
    // The limit is higher than in `npm run bench:startup`, because other tests run at the same time.
    const { empty, first } = await measureStartup(5, ['fence'], node)
    expect((first.fence as number) / empty).toBeLessThan(1.5 * LIMIT)
  })
})

describe('on any Node version', () => {
  const node = 'path' in node24 ? node24.path : process.execPath

  const choices = specs.flatMap(({ name, inputs }) =>
    Object.entries(inputs)
      .flatMap(([input, { type }]) =>
        Array.isArray(type.json.enum) ? [[name, input, String(type.json.enum[0])] as const] : [],
      )
      .slice(0, 1),
  )
  test.each(choices)('%s: rejects an invalid %s and lists the allowed values', async (name, input, allowed) => {
    const run = await runBundle(name, { node, inputs: { ...sound(), [input]: 'perhaps' } })
    expect(run.errors).toHaveLength(1)
    expect(run.errors[0]).toMatch(`input \`${input}\`: "perhaps" is not valid. Set it to one of \`${allowed}\``)
    expect(run.outputs).toMatchObject({ 'error-kind': 'input', 'error-code': 'input.invalid' })
    expect(run.left).toEqual([])
  })

  test.each([
    ['cutover', 'lease', 'soon', 'a duration such as'],
    ['fetch', 'table-concurrency', '1000', 'a whole number from 1 to 64'],
    ['fetch', 'delete-files', 'yes', '`true` or `false`'],
    ['fetch', 'extra-args', '--compression gzip', 'a YAML list'],
    ['prepare', 'slot', 'My Slot', 'lower-case letters'],
    ['setup', 'checksum', 'abc', 'a sha256'],
  ])('%s rejects %s=%s', async (name, input, value, fix) => {
    const before = server.connections()
    const run = await runBundle(name, { node, inputs: { ...sound(), [input]: value } })
    expect(run.code).toBe(1)
    expect(run.errors).toHaveLength(1)
    expect(run.errors[0]).toContain(`input \`${input}\``)
    expect(run.errors[0]).toContain(JSON.stringify(value))
    expect(run.errors[0]).toContain(fix)
    expect(run.outputs).toEqual({ 'error-kind': 'input', 'error-code': 'input.invalid' })
    expect(server.connections()).toBe(before)
  })

  test.each([
    ['no scheme', 'db.example.org/shop', 'postgresql://'],
    ['another scheme', `mysql://app:${PASSWORD}@db.example.org/shop`, 'postgresql://'],
    ['no database', `postgresql://app:${PASSWORD}@db.example.org`, 'names no database'],
    ['a space', `postgresql://app:${PASSWORD}@db.example.org/my shop`, 'does not parse'],
    ...['@', ':', '/', '%', '#'].map((character) => [
      `a bare ${character} in the password`,
      `postgresql://app:${PASSWORD}${character}tail@db.example.org/shop`,
      `"${character}"`,
    ]),
  ])('reports a URL with %s and the fix in one line, without repeating the URL', async (_, value, fix) => {
    const run = await runBundle('fence', { node, inputs: { ...sound(), source: value as string } })
    expect(run.code).toBe(1)
    expect(run.errors).toHaveLength(1)
    expect(run.errors[0]).toMatch(/^input `source`: /)
    expect(run.errors[0]).toContain(fix)
    expect(run.errors[0]).not.toContain('example.org')
    for (const place of [run.shown, run.summary, JSON.stringify(run.outputs)]) expect(place).not.toContain(PASSWORD)
    expect(run.outputs).toEqual({ 'error-kind': 'input', 'error-code': 'input.invalid' })
  })

  test.each(specs.filter(({ inputs }) => inputs['allow-insecure'] && inputs.source).map(({ name }) => name))(
    '%s refuses to connect without TLS unless it is allowed',
    async (name) => {
      const before = server.connections()
      const load: Record<string, string> = name === 'fetch' ? { mode: 'direct-copy' } : {}
      const run = await runBundle(name, { node, inputs: { ...sound(), ...load, 'allow-insecure': '' } })
      expect(run.errors).toHaveLength(1)
      expect(run.errors[0]).toContain('`source`')
      expect(run.outputs).toEqual({ 'error-kind': 'input', 'error-code': 'input.insecure-url' })
      expect(server.connections()).toBe(before)
    },
  )

  test.each([
    ['setup', { checksum: 'trust-on-first-use' }],
    ['gate', { do: 'needed' }],
  ] as const)('%s refuses a connection to the ledger without TLS unless it is allowed', async (name, inputs) => {
    const before = server.connections()
    const run = await runBundle(name, { node, inputs: { target: url(), ...inputs } })
    expect(run.errors).toHaveLength(1)
    expect(run.errors[0]).toContain('`target`')
    expect(run.outputs['error-code']).toBe('input.insecure-url')
    expect(server.connections()).toBe(before)
  })

  test('setup with `trust-on-first-use` requires a ledger before it downloads anything', async () => {
    const inputs = { checksum: 'trust-on-first-use', 'download-url': `http://127.0.0.1:${server.port}` }
    const before = server.connections()
    const run = await runBundle('setup', { node, inputs })
    expect(run.errors[0]).toMatch(/^input `target` is missing/)
    expect(run.outputs).toMatchObject({ 'error-code': 'input.missing' })
    expect(server.connections()).toBe(before)
  })

  test.each([
    ['fetch: { table-handling: none }', '', /`import` moves rows through files. Set `bucket-path`/],
    ['fetch: { mode: direct-copy }', '', /its sslmode is disable/],
    ['fetch: { mode: direct-copy }', 'use-copy', /`use-copy` moves rows through files/],
    ['fetch: { local-path: /tmp }', '', /its sslmode is disable/],
  ])("prepare checks the load's settings before it changes anything: %s %s", async (text, mode, message) => {
    const inputs = { ...sound(), 'allow-insecure': '', config: file('load.yml', text), 'check-load': 'true', mode }
    const run = await runBundle('prepare', { node, inputs })
    expect(run.errors[0]).toMatch(message)
    expect((await runBundle('prepare', { node, inputs: { ...inputs, 'check-load': '' } })).errors[0]).toMatch(/sslmode/)
  })

  describe('the config file', () => {
    test.each([
      ['an unknown section', 'fences:\n  lease: 5m\n', '1:1', 'config.unknown-name'],
      ['an unknown key', 'fence:\n  leese: 5m\n', '2:3', 'config.unknown-name'],
      ["another action's input", 'fence:\n  bucket-path: s3://b\n', '2:3', 'config.unknown-name'],
      ['a section that is not a map', 'fence: 5m\n', '1:8', 'config.invalid'],
      ['no YAML', 'fence: [5m\n', '2:1', 'config.unreadable'],
      ['a value of the wrong type', 'fence:\n  lease: soon\n', '2:10', 'config.invalid'],
      [
        'a secret in plain text',
        `common:\n  source: postgresql://a:${PASSWORD}@h/d\n`,
        '2:11',
        'config.secret-in-file',
      ],
    ])('reports %s in one line', async (_, text, place, code) => {
      const config = file('wrong.yml', text)
      const run = await runBundle('fence', { node, inputs: { ...from(text), target: url(), config } })
      expect(run.code).toBe(1)
      expect(run.errors).toHaveLength(1)
      expect(run.errors[0]).toContain(`wrong.yml:${place}: `)
      expect(run.shown).not.toContain(PASSWORD)
      expect(run.outputs).toMatchObject({ 'error-kind': 'input', 'error-code': code })
    })

    test('names a variable that is not set', async () => {
      const text = 'common:\n  source: env:NOT_THERE\n'
      const config = file('unset.yml', text)
      const run = await runBundle('fence', { node, inputs: { ...from(text), target: url(), config } })
      expect(run.errors[0]).toContain('NOT_THERE')
      expect(run.outputs['error-kind']).toBe('input')
    })

    test('an input overrides the file', async () => {
      const config = file('both.yml', 'fence:\n  allow-insecure: false\n')
      const closed = url().replace(`:${server.port}`, ':1')
      const codeWith = async (allow: string) => {
        const inputs = { ...sound(), config, source: closed, do: 'status', 'allow-insecure': allow }
        return (await runBundle('fence', { node, inputs })).outputs['error-code']
      }
      expect(await codeWith('')).toBe('input.insecure-url')
      expect(await codeWith('true')).toBe('connect.failed')
    })

    test("an action's section overrides `common`, and secrets come from the environment", async () => {
      const config = file(
        'env.yml',
        'common:\n  source: env:SHOP_URL\n  target: env:SHOP_URL\n  lease: 1ms\nfence:\n  lease: 1m\n',
      )
      const env = { SHOP_URL: url().replace(`:${server.port}`, ':1') }
      const run = await runBundle('fence', { node, inputs: { config, 'allow-insecure': 'true' }, env })
      expect(run.errors[0]).toContain('cannot connect to the source')
      expect(run.log).toContain(`::add-mask::${PASSWORD}`)
      expect(run.shown).not.toContain(PASSWORD)
    })
  })

  describe('the outputs error-kind and error-code', () => {
    test('are `user` and a code for an unreachable database', async () => {
      const source = url().replace(`:${server.port}`, ':1')
      const run = await runBundle('fence', { node, inputs: { ...sound(), source } })
      expect(run.code).toBe(1)
      expect(run.errors).toHaveLength(1)
      expect(run.errors[0]).toMatch(/^cannot connect to the source: .*ECONNREFUSED.* Check the host and the port/)
      expect(run.outputs).toEqual({ 'error-kind': 'user', 'error-code': 'connect.failed' })
    })

    test('are `tool` and a code for a failing program', async () => {
      const run = await runBundle('setup', { node, inputs: { 'bin-dir': programs('exit 3') } })
      expect(run.code).toBe(1)
      expect(run.errors).toHaveLength(1)
      expect(run.errors[0]).toMatch(/molt .*3/)
      expect(run.outputs).toEqual({ 'error-kind': 'tool', 'error-code': 'tool.unusable' })
    })

    test('are not set by a successful run', async () => {
      const run = await runBundle('setup', { node, inputs: { 'bin-dir': programs('molt version 1.4.1') } })
      expect(run.errors).toEqual([])
      expect(run.code).toBe(0)
      expect(run.outputs).toMatchObject({ 'molt-version': '1.4.1', 'replicator-version': 'v1.3.4', engine: 'molt' })
      expect(run.outputs).not.toHaveProperty('error-kind')
    })
  })

  test('rejects an output that would contain a secret', async () => {
    const inputs = { 'bin-dir': programs(`molt version ${PASSWORD}`), target: url() }
    const run = await runBundle('setup', { node, inputs })
    expect(run.code).toBe(1)
    expect(run.errors).toHaveLength(1)
    expect(run.errors[0]).toContain('`molt-version`')
    expect(run.outputs).toMatchObject({ 'error-code': 'output.secret' })
    expect(Object.values(run.outputs).join()).not.toContain(PASSWORD)
  })
})

test('dist is at most 1.6 MB', () => {
  const sizes = readdirSync(join(REPO, 'dist')).map((name) => statSync(join(REPO, 'dist', name)).size)
  expect(sizes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(1_600_000)
})
