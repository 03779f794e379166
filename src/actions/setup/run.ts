import { accessSync, chmodSync, constants, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { arch, platform } from 'node:os'
import { join, resolve } from 'node:path'
import { addPath, info, warning } from '@actions/core'
import { createLedger, knownDigest, rememberDigest } from '../../ledger/ledger.ts'
import { STAND_IN } from '../../model/stand-in.ts'
import type { Action, Context } from '../../runtime/action.ts'
import { withDatabase } from '../../runtime/database.ts'
import { InputError, messageOf, UserError } from '../../runtime/errors.ts'
import { refuseDenied, sha256, toolVersion } from '../../tools/versions.ts'
import { requireTls } from '../shared.ts'
import { spec } from './spec.ts'

type Setup = Context<typeof spec>

export const action: Action<typeof spec> = {
  spec,
  async run(context) {
    const { inputs } = context
    if (inputs.embedded && inputs.binDir)
      throw new InputError('input.conflict', 'inputs `embedded` and `bin-dir` cannot be combined. Set only one')
    const folder = inputs.embedded ? installStandIn() : inputs.binDir ? resolve(inputs.binDir) : await download(context)
    for (const tool of ['molt', 'replicator'] as const) requireProgram(join(folder, tool))
    addPath(folder)
    const molt = await toolVersion(join(folder, 'molt'), 'molt')
    refuseDenied(molt.split(' ')[0] as string, inputs.allowDeniedVersion)
    const replicator = await toolVersion(join(folder, 'replicator'), 'replicator')
    const engine = inputs.embedded ? STAND_IN : 'molt'
    if (inputs.embedded) warning('the embedded stand-in is installed, not MOLT: for rehearsals only')
    info(`molt ${molt}, replicator ${replicator}`)
    context.output('molt-version', molt)
    context.output('replicator-version', replicator)
    context.output('molt-sha256', await sha256(join(folder, 'molt')))
    context.output('replicator-sha256', await sha256(join(folder, 'replicator')))
    context.output('engine', engine)
  },
}

function requireProgram(path: string): void {
  try {
    accessSync(path, constants.X_OK)
  } catch {
    throw new UserError(
      'setup.programs-missing',
      `${path} does not exist or is not executable. The folder must contain molt and replicator for this platform`,
    )
  }
}

/** Writes two scripts that run the bundled stand-in with this Node.js, and with its compile cache if there is one. */
function installStandIn(): string {
  const folder = join(process.env.RUNNER_TEMP ?? '.', 'molt-actions', 'stand-in')
  mkdirSync(folder, { recursive: true })
  const cache = process.env.NODE_COMPILE_CACHE
  const environment = cache ? `NODE_COMPILE_CACHE='${cache}' ` : ''
  for (const tool of ['molt', 'replicator']) {
    const bundle = join(__dirname, `stand-in-${tool}.cjs`)
    if (!existsSync(bundle)) throw new Error(`${bundle} is missing from dist`)
    writeFileSync(join(folder, tool), `#!/bin/sh\n${environment}exec '${process.execPath}' '${bundle}' "$@"\n`)
    chmodSync(join(folder, tool), 0o755)
  }
  return folder
}

const PLATFORMS: Record<string, string> = { linux: 'linux', darwin: 'darwin', win32: 'windows' }
const ARCHITECTURES: Record<string, string> = { x64: 'amd64', arm64: 'arm64' }

async function download(context: Setup): Promise<string> {
  const { version, checksum, allowDeniedVersion, downloadUrl } = context.inputs
  refuseDenied(version, allowDeniedVersion)
  // Require the ledger before the download, because the archive could not be checked without it.
  if (checksum === 'trust-on-first-use') requireLedger(context)
  const [os, cpu] = [PLATFORMS[platform()], ARCHITECTURES[arch()]]
  if (!os || !cpu) throw new UserError('setup.platform', `MOLT is not built for ${platform()} on ${arch()}`)
  const name = `molt-${version}.${os}-${cpu}.tgz`
  const { cacheDir, downloadTool, extractTar, find } = await import('@actions/tool-cache')
  // The digest is part of the key, so that an entry cached from another archive is never used.
  const keyOf = (digest: string) => `${version}-${digest.slice(0, 12)}`
  const pinned = checksum === 'trust-on-first-use' ? await firstDigest(context, name) : checksum
  const kept = pinned && find('molt', keyOf(pinned), cpu)
  if (kept) {
    context.output('archive-sha256', pinned)
    info(`molt ${version} is in the tool cache; nothing is downloaded`)
    return kept
  }
  const archive = await downloadTool(`${downloadUrl}/${name}`).catch((error) => {
    throw new UserError(
      'setup.download-failed',
      `${name} could not be downloaded from ${downloadUrl}: ${messageOf(error)}. Check the version, and check that this runner can reach that host. Otherwise, set \`bin-dir\``,
    )
  })
  const digest = await sha256(archive)
  context.output('archive-sha256', digest)
  await requireDigest(context, name, digest, checksum)
  const cached = find('molt', keyOf(digest), cpu)
  if (cached) return cached
  const extracted = await extractTar(archive).catch((error) => {
    throw new UserError(
      'setup.archive-damaged',
      `${name} is not a valid archive (${messageOf(error)}). The download may have been truncated`,
    )
  })
  return cacheDir(extracted, 'molt', keyOf(digest), cpu)
}

async function requireDigest(context: Setup, name: string, digest: string, wanted: string | undefined): Promise<void> {
  if (wanted === digest) return
  if (wanted === 'trust-on-first-use') return trustOnFirstUse(context, name, digest)
  if (wanted)
    throw new UserError(
      'setup.digest-mismatch',
      `${name} has the sha256 ${digest}, not the pinned ${wanted}. Do not use it until you know why`,
    )
  throw new UserError(
    'setup.digest-unknown',
    `no sha256 is pinned for ${name}, which has ${digest}. Verify that archive, then pin it: \`checksum: ${digest}\``,
  )
}

/** Requires the target's URL, because the digest is kept in its ledger. */
function requireLedger({ inputs }: Setup): string {
  if (!inputs.target)
    throw new InputError(
      'input.missing',
      'input `target` is missing. Set it, because `trust-on-first-use` keeps the digest in its ledger',
    )
  requireTls(inputs)
  return inputs.target
}

/** The digest recorded on first use; undefined if there was none yet. */
async function firstDigest(context: Setup, name: string): Promise<string | undefined> {
  return withDatabase(requireLedger(context), 'target', async (db) => {
    await createLedger(db)
    return knownDigest(db, name)
  })
}

async function trustOnFirstUse(context: Setup, name: string, digest: string): Promise<void> {
  const first = await withDatabase(requireLedger(context), 'target', async (db) => {
    await createLedger(db)
    return rememberDigest(db, name, digest)
  })
  if (first !== digest)
    throw new UserError(
      'setup.digest-mismatch',
      `${name} has the sha256 ${digest}, but had ${first} at its first use. Do not use it until you know why`,
    )
}
