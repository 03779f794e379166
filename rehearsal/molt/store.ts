import { createReadStream } from 'node:fs'
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { networkInterfaces } from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ReadableStream } from 'node:stream/web'
import { promisify } from 'node:util'
import { gunzip, gzip } from 'node:zlib'
import { Bucket } from '../bucket.ts'
import type { Flags } from './flags.ts'
import { listenError, type MoltLog } from './molt-log.ts'

/** One intermediate file with a table's rows. */
export interface Part {
  /** File name: `shard_01_part_00000001.tar.gz`. */
  name: string
  rows: number
  importUrl(): string
  read(): Promise<Readable>
  remove(): Promise<void>
}

/**
 * The store of intermediate files: a bucket, or a folder that this process serves by HTTP. As in the real tool's
 * `fetch/datablobstorage`, a table's files are `<table>/shard_NN_part_NNNNNNNN.{csv,tar.gz}`.
 */
export interface Store {
  /** Number of lines before the rows of each file. A local file starts with its row count. */
  readonly skip: number
  /** Bytes of rows after which a new file is started. */
  readonly flushSize: number
  put(table: string, name: string, csv: Buffer, rows: number, compress: boolean): Promise<Part>
  /**
   * Files to read when a load is resumed. The recorded name of a failed file lacks its shard and therefore sorts before
   * every file, so an import reads all files of the table again.
   */
  listFrom(table: string, name: string): Promise<Part[]>
  close(): void
}

const PART = /part_\d{8}(\.csv|\.tar\.gz)$/

/** @returns undefined for a direct copy, which writes no files @throws Error in the real tool's wording */
export async function openStore(flags: Flags, log: MoltLog): Promise<Store | undefined> {
  if (flags.bool('direct-copy')) return undefined
  if (flags.str('bucket-path')) return bucketStore(flags)
  if (flags.str('local-path')) return localStore(flags, log)
  throw new Error('data source must be configured (--bucket-path, --direct-copy, --local-path)')
}

/** Uses only the path of `--bucket-path`. Keys, region and endpoint come from the environment, as in the AWS tools. */
function bucketStore(flags: Flags): Store {
  const url = new URL(flags.str('bucket-path'))
  if (!/^s3:$/i.test(url.protocol)) throw new Error(`unsupported datasource scheme: ${url.protocol.slice(0, -1)}`)
  const { env } = process
  const [accessKeyId, secretAccessKey] = [env.AWS_ACCESS_KEY_ID, env.AWS_SECRET_ACCESS_KEY]
  if (!accessKeyId || !secretAccessKey)
    throw new Error('NoCredentialProviders: no valid providers in chain. Deprecated.')
  const bucket = new Bucket({
    bucket: url.host,
    accessKeyId,
    secretAccessKey,
    sessionToken: env.AWS_SESSION_TOKEN,
    region: flags.str('import-region') || env.AWS_REGION || env.AWS_DEFAULT_REGION,
    endpoint: env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL,
  })
  const folder = decodeURIComponent(url.pathname).replace(/^\/+|\/+$/g, '')
  const access = importParameters(bucket, flags.bool('use-implicit-auth'), flags.str('assume-role'))
  const part = (key: string, rows: number): Part => ({
    name: path.posix.basename(key),
    rows,
    importUrl: () => `s3://${url.host}/${key}?${access}`,
    read: async () => Readable.fromWeb((await bucket.get(key)).body as ReadableStream),
    remove: () => bucket.remove(key),
  })
  const prefix = (table: string) => (folder ? `${folder}/${table}` : table)
  return {
    skip: 0,
    flushSize: 256 * 1024 * 1024,
    async put(table, name, csv, rows, compress) {
      const key = `${prefix(table)}/${name}`
      await bucket.put(key, compress ? await promisify(gzip)(csv) : csv, { numrows: String(rows) })
      return part(key, rows)
    },
    async listFrom(table, name) {
      const from = `${prefix(table)}/${name}`
      const keys = (await bucket.list(prefix(table))).filter((key) => key >= from && PART.test(key))
      return Promise.all(keys.map(async (key) => part(key, Number((await bucket.metadata(key)).numrows ?? 0))))
    },
    close() {},
  }
}

/** Query parameters of an import's URL, with which CockroachDB accesses the bucket. */
function importParameters({ access }: Bucket, implicit: boolean, role: string): URLSearchParams {
  const query = new URLSearchParams()
  if (implicit) query.set('AUTH', 'implicit')
  else {
    query.set('AWS_ACCESS_KEY_ID', access.accessKeyId)
    query.set('AWS_SECRET_ACCESS_KEY', access.secretAccessKey)
    if (access.sessionToken) query.set('AWS_SESSION_TOKEN', access.sessionToken)
  }
  if (role) query.set('ASSUME_ROLE', role)
  if (access.region) query.set('AWS_REGION', access.region)
  if (access.endpoint) query.set('AWS_ENDPOINT', access.endpoint)
  return query
}

async function localStore(flags: Flags, log: MoltLog): Promise<Store> {
  const folder = flags.str('local-path')
  const listen = flags.str('local-path-listen-addr')
  await mkdir(folder, { recursive: true })
  const access = listen ? accessAddress(listen, flags.str('local-path-crdb-access-addr')) : ''
  const server = listen ? await serveFolder(folder, listen, access, log) : undefined
  const part = (table: string, name: string, rows: number): Part => {
    const file = path.join(folder, table, name)
    return {
      name,
      rows,
      importUrl() {
        if (!access) throw new Error('cannot IMPORT from a local path unless file server is set')
        return `http://${access}/${table}/${name}`
      },
      read: async () => createReadStream(file),
      remove: () => rm(file),
    }
  }
  return {
    skip: 1,
    flushSize: 128 * 1024 * 1024,
    async put(table, name, csv, rows, compress) {
      await mkdir(path.join(folder, table), { recursive: true })
      // The line with the row count is a separate gzip member.
      const members = await Promise.all(
        [Buffer.from(`${rows}\n`), csv].map((text) => (compress ? promisify(gzip)(text) : text)),
      )
      await writeFile(path.join(folder, table, name), Buffer.concat(members))
      return part(table, name, rows)
    },
    async listFrom(table, name) {
      const names = (await readdir(path.join(folder, table))).filter((each) => each >= name && PART.test(each)).sort()
      return Promise.all(
        names.map(async (each) => part(table, each, await numberOfRows(path.join(folder, table, each)))),
      )
    },
    close: () => server?.close().closeAllConnections(),
  }
}

async function numberOfRows(file: string): Promise<number> {
  const content = await readFile(file)
  const text = file.endsWith('.gz') ? await promisify(gunzip)(content) : content
  return Number(text.subarray(0, text.indexOf(10)).toString())
}

/** Defaults to this machine's first non-loopback address. */
function accessAddress(listen: string, access: string): string {
  if (access) return access
  const outside = Object.values(networkInterfaces())
    .flat()
    .find((each) => each && !each.internal && each.family === 'IPv4')
  if (!outside) throw new Error('cannot find IP')
  return `${outside.address}:${listen.split(':').at(-1)}`
}

async function serveFolder(folder: string, listen: string, access: string, log: MoltLog): Promise<Server> {
  const root = path.resolve(folder)
  const server = createServer(async (request, response) => {
    const file = path.join(root, decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname))
    try {
      if (!file.startsWith(root + path.sep)) throw new Error('outside')
      await pipeline(createReadStream(file), response)
    } catch {
      if (!response.headersSent) response.writeHead(404).end('404 page not found\n')
    }
  })
  const colon = listen.lastIndexOf(':')
  log.line('info', 'starting file server', { 'listen-addr': listen, 'crdb-access-addr': access })
  await new Promise<void>((resolve) => {
    // Like the real tool, logs the error and continues. Every import then fails.
    server.once('error', (error) => {
      log.line('error', 'error starting file server', { error: listenError(listen, error) })
      resolve()
    })
    server.listen({ port: Number(listen.slice(colon + 1)), host: listen.slice(0, colon) || undefined }, resolve)
  })
  server.unref()
  return server
}
