import { createHash } from 'node:crypto'
import { accessSync, constants, createReadStream } from 'node:fs'
import { delimiter, join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { getExecOutput } from '@actions/exec'
import { childEnvironment } from '../runtime/environment.ts'
import { ToolError, UserError } from '../runtime/errors.ts'
import { describeExit, isTool, notOnPath } from './process.ts'

/** Unsafe versions of molt, with the reasons. */
export const DENIED_VERSIONS: Record<string, string> = Object.fromEntries(
  ['1.3.3', '1.3.4', '1.3.5', '1.3.6'].map((version) => [
    version,
    'loses rows when an export query is retried (fixed in 1.3.7)',
  ]),
)

export type ToolName = 'molt' | 'replicator'

/** Finds a tool on the PATH; undefined if it is not there. */
export function findTool(tool: ToolName): string | undefined {
  return (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, tool))
    .find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** @throws UserError when the version is on the deny list and not named in `allowed` */
export function refuseDenied(version: string, allowed: string | undefined): void {
  const reason = DENIED_VERSIONS[version]
  if (reason && allowed !== version)
    throw new UserError(
      'setup.version-denied',
      `molt ${version} ${reason}. Use another version, or name it in \`allow-denied-version\``,
    )
}

/** Reads the version that the tool prints. A build from source prints `(devel)`. */
export async function toolVersion(program: string, tool: ToolName): Promise<string> {
  const said = await ask(program, tool === 'molt' ? ['--version'] : ['version'])
  const line = said.split('\n').find(Boolean) ?? ''
  return (
    /\bversion v?(\d\S*(?: \([^)]*\))?)/i.exec(line)?.[1] ??
    /build="?([^" ]+)/.exec(line)?.[1] ??
    line.trim().slice(0, 80)
  )
}

/** Reads the tool's help, which differs between builds. */
export async function toolHelp(program: string, ...command: string[]): Promise<string> {
  return ask(program, [...command, '--help'])
}

/** SHA-256 digest of a file, in hex. */
export async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}

async function ask(program: string, args: string[]): Promise<string> {
  const result = await getExecOutput(program, args, {
    silent: true,
    ignoreReturnCode: true,
    env: childEnvironment() as Record<string, string>,
  }).catch((error: Error) => {
    if (isTool(program) && /^Unable to locate executable/.test(error.message)) throw notOnPath(program)
    return { exitCode: undefined, stdout: '', stderr: error.message }
  })
  if (result.exitCode === 0) return result.stdout || result.stderr
  const killed = result.exitCode === null
  throw new ToolError({
    code: killed ? 'tool.killed' : 'tool.unusable',
    program: program.split('/').at(-1) as string,
    args,
    // After a kill, `exec` does not report which signal it was.
    ending: killed
      ? 'was killed by a signal before it responded'
      : describeExit({ code: result.exitCode ?? null, signal: null }),
    said: result.stderr.trim().split('\n').at(-1),
    advice: killed
      ? 'No row was moved. The runner may be out of memory. Check what else runs on it, then rerun the step.'
      : 'Run `setup` first, or check that the file is built for this platform.',
  })
}
