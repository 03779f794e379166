import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseEntries } from '../../rehearsal/runner/commands.ts'

export const REPO = resolve(import.meta.dirname, '../..')

export interface BundleRun {
  code: number | null
  /** Standard output and standard error, in order of arrival. */
  log: string
  /** The log as GitHub shows it, without the workflow commands that set masks. */
  shown: string
  errors: string[]
  outputs: Record<string, string>
  state: Record<string, string>
  summary: string
  /** Files left in RUNNER_TEMP. */
  left: string[]
}

export interface BundleOptions {
  node?: string
  inputs?: Record<string, string>
  env?: Record<string, string>
}

/** Runs `dist/<name>.cjs` in its own process with only the variables of GitHub's runner. */
export async function runBundle(name: string, options: BundleOptions = {}): Promise<BundleRun> {
  const folder = mkdtempSync(join(tmpdir(), 'molt-actions-bundle-'))
  const temp = join(folder, 'temp')
  mkdirSync(temp)
  const files = { GITHUB_OUTPUT: '', GITHUB_STATE: '', GITHUB_ENV: '', GITHUB_PATH: '', GITHUB_STEP_SUMMARY: '' }
  for (const file of Object.keys(files) as (keyof typeof files)[]) {
    files[file] = join(folder, file)
    writeFileSync(files[file], '')
  }
  const given = Object.entries(options.inputs ?? {}).map(([input, value]) => [`INPUT_${input.toUpperCase()}`, value])
  try {
    const child = spawn(
      options.node ?? process.env.MOLT_ACTIONS_NODE ?? process.execPath,
      [join(REPO, 'dist', `${name}.cjs`)],
      {
        cwd: folder,
        env: {
          PATH: process.env.PATH,
          HOME: process.env.HOME,
          GITHUB_ACTIONS: 'true',
          NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE,
          MOLT_ACTIONS_TEST_TIMING: process.env.MOLT_ACTIONS_TEST_TIMING,
          RUNNER_TEMP: temp,
          ...files,
          ...Object.fromEntries(given),
          ...options.env,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      },
    )
    let log = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        log += text
      })
    const code = await new Promise<number | null>((done, reject) => {
      child.on('error', reject)
      child.on('close', done)
    })
    const lines = log.split('\n')
    return {
      code,
      log,
      shown: lines.filter((line) => !line.startsWith('::add-mask::')).join('\n'),
      errors: lines.filter((line) => line.startsWith('::error::')).map(messageOf),
      outputs: Object.fromEntries(parseEntries(readFileSync(files.GITHUB_OUTPUT, 'utf8'))),
      state: Object.fromEntries(parseEntries(readFileSync(files.GITHUB_STATE, 'utf8'))),
      summary: readFileSync(files.GITHUB_STEP_SUMMARY, 'utf8'),
      left: readdirSync(temp),
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The message of an `::error::` line, with GitHub's escapes decoded. */
function messageOf(line: string): string {
  return line.slice('::error::'.length).replaceAll('%0A', '\n').replaceAll('%0D', '\r').replaceAll('%25', '%')
}

/** Starts a listener that counts connections and never answers, in place of a database that must not be contacted. */
export async function startSilentServer(): Promise<{
  port: number
  connections(): number
  stop(): Promise<void>
}> {
  const sockets = new Set<Socket>()
  let connections = 0
  const server = createServer((socket) => {
    connections++
    sockets.add(socket)
    socket.on('error', () => {})
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  return {
    port: (server.address() as AddressInfo).port,
    connections: () => connections,
    stop: async () => {
      for (const socket of sockets) socket.destroy()
      await new Promise((done) => server.close(done))
    },
  }
}
