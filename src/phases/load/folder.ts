import { randomBytes } from 'node:crypto'
import { mkdir, symlink } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { UserError } from '../../runtime/errors.ts'
import type { FetchMode } from '../../tools/molt-fetch.ts'

/** Where a load keeps its files, taken from the inputs of `fetch`. */
export interface LoadFiles {
  mode: FetchMode
  bucketPath?: string
  localPath?: string
  localPathListenAddr?: string
  localPathCrdbAccessAddr?: string
}

/** Returns a unique folder name. Every file's URL contains it, and therefore every import job's description too. */
export function newFolder(migration: string): string {
  return `load-${migration}-${randomBytes(8).toString('hex')}`
}

/**
 * Adds the load's folder to the bucket path or the local path.
 * @param folder undefined for a load that an older version of these actions started
 */
export function withFolder<T extends LoadFiles>(files: T, folder: string | undefined): T {
  const { bucketPath, localPath, localPathListenAddr: listen, mode } = files
  if (!folder || mode === 'direct-copy') return files
  if (bucketPath) {
    const [path = '', ...query] = bucketPath.split('?')
    return { ...files, bucketPath: [`${path.replace(/\/+$/, '')}/${folder}`, ...query].join('?') }
  }
  if (!localPath) return files
  const served = listen && mode === 'import'
  return {
    ...files,
    localPath: join(localPath, folder),
    ...(served && { localPathCrdbAccessAddr: `${files.localPathCrdbAccessAddr ?? ownAddress(listen)}/${folder}` }),
  }
}

/**
 * Creates the folder of a load that uses local files. MOLT serves the folder as the root of its file server, and
 * prefixes each file's path with the access address (`fetch/datablobstorage/local.go`). The address ends in the
 * folder's name, so a symbolic link with that name points back to the root.
 */
export async function makeFolder(
  { bucketPath, localPath, localPathListenAddr, mode }: LoadFiles,
  folder: string | undefined,
): Promise<void> {
  if (!folder || bucketPath || !localPath || !localPathListenAddr || mode !== 'import') return
  await mkdir(localPath, { recursive: true })
  await symlink('.', join(localPath, folder)).catch((error) => {
    if (error.code !== 'EEXIST') throw error
  })
}

/** MOLT's default access address: this machine's first non-loopback IPv4 address, with the port. */
function ownAddress(listen: string): string {
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((each) => each && !each.internal && each.family === 'IPv4')
  if (!outside)
    throw new UserError(
      'load.no-address',
      'This machine has no network address for the file server. Set `local-path-crdb-access-addr`.',
    )
  return `${outside.address}:${listen.split(':').at(-1)}`
}
