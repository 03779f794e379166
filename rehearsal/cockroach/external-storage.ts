import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { Bucket, BucketError } from '../bucket.ts'
import { SqlError } from './types.ts'

/**
 * A file for IMPORT INTO: `s3://` with keys in the URL and an optional custom endpoint, or `http(s)://`. Source of
 * parameters and wording: CockroachDB's `pkg/cloud/amazon/s3_storage.go`, `pkg/cloud/httpsink/http_storage.go` and
 * `pkg/cloud/cloudprivilege/privileges.go`, v24.1 to v25.2.
 */
export interface ExternalFile {
  /** `s3` or `http`, the provider's name in messages. */
  provider: 's3' | 'http'
  /** Whether reading requires EXTERNALIOIMPLICITACCESS: for HTTP, implicit credentials and custom endpoints. */
  implicit: boolean
  /** The URL with its secrets redacted, for job descriptions. */
  sanitized: string
  /** @throws SqlError if the file cannot be read; the import job fails with this error */
  open(signal: AbortSignal): Promise<Readable>
}

/** SQLSTATE of uncategorized CockroachDB errors. */
export const UNCATEGORIZED = 'XXUUU'

const S3_PARAMS = new Set([
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
  'AWS_ENDPOINT',
  'AWS_REGION',
  'AUTH',
  'ASSUME_ROLE',
  'AWS_SERVER_ENC_MODE',
  'AWS_SERVER_KMS_ID',
  'S3_STORAGE_CLASS',
])
const SECRETS = new Set(['AWS_SECRET_ACCESS_KEY', 'AWS_SESSION_TOKEN'])

/** @throws SqlError if the URL does not name a file that IMPORT INTO can read */
export function externalFile(uri: string): ExternalFile {
  let url: URL
  try {
    url = new URL(uri)
  } catch {
    throw new SqlError(
      UNCATEGORIZED,
      `unsupported storage scheme: "" - refer to docs to find supported storage schemes`,
    )
  }
  if (/^https?:$/.test(url.protocol))
    return { provider: 'http', implicit: true, sanitized: sanitize(url), open: (signal) => openHttp(url, signal) }
  if (url.protocol === 's3:') return s3File(url)
  throw new SqlError(
    UNCATEGORIZED,
    `unsupported storage scheme: "${url.protocol.slice(0, -1)}" - refer to docs to find supported storage schemes`,
  )
}

function sanitize(url: URL): string {
  const clean = new URL(url)
  for (const name of SECRETS) if (clean.searchParams.has(name)) clean.searchParams.set(name, 'redacted')
  if (clean.password) clean.password = 'redacted'
  return clean.href
}

function s3File(url: URL): ExternalFile {
  const param = (name: string) => url.searchParams.get(name) ?? ''
  const unknown = [...url.searchParams.keys()].filter((name) => !S3_PARAMS.has(name))
  if (!url.host) throw new SqlError(UNCATEGORIZED, 'empty host component; s3 URI must specify a target bucket')
  if (unknown.length) throw new SqlError(UNCATEGORIZED, `unknown S3 query parameters: ${unknown.join(', ')}`)
  const implicit = param('AUTH') === 'implicit'
  if (!implicit)
    for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'])
      if (!param(name)) throw new SqlError(UNCATEGORIZED, `AUTH is set to 'specified', but ${name} is not set`)
  const bucket = new Bucket({
    bucket: url.host,
    accessKeyId: param('AWS_ACCESS_KEY_ID'),
    // Decoding the URL turns an unescaped `+` in a secret into a space.
    secretAccessKey: param('AWS_SECRET_ACCESS_KEY').replaceAll(' ', '+'),
    sessionToken: param('AWS_SESSION_TOKEN') || undefined,
    region: param('AWS_REGION') || undefined,
    endpoint: param('AWS_ENDPOINT') || undefined,
  })
  const key = decodeURIComponent(url.pathname.replace(/^\/+/, ''))
  return {
    provider: 's3',
    implicit: implicit || param('AWS_ENDPOINT') !== '',
    sanitized: sanitize(url),
    open: async () => {
      if (implicit)
        throw new SqlError(UNCATEGORIZED, 'failed to get s3 object: NoCredentialProviders: no valid providers in chain')
      return content((headers) => bucket.get(key, headers).catch((error) => fail(s3Words(error))))
    },
  }
}

function s3Words(error: unknown): string {
  if (!(error instanceof BucketError)) return String(error)
  if (error.status === 0) return `failed to get s3 object: ${error.message}`
  const words = `${error.message}\n\tstatus code: ${error.status}`
  return /^NoSuch(Key|Bucket)$/.test(error.code)
    ? `${words}: s3 object does not exist: external_storage: file doesn't exist`
    : `failed to get s3 object: ${words}`
}

/** CockroachDB retries for about a minute, with pauses growing to 2 s. Here the pauses stay short. */
const HTTP_ATTEMPTS = 10
const HTTP_PAUSE_MS = 100

function openHttp(url: URL, signal: AbortSignal): Promise<Readable> {
  return content((headers) => ask(url, headers, signal))
}

async function ask(url: URL, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(url, { headers, signal }).catch(() => undefined)
    signal.throwIfAborted()
    if (response?.ok) return response
    if (response) {
      const said = `error response from server: ${response.status} ${response.statusText} ${JSON.stringify(await response.text())}`
      fail(
        response.status === 404
          ? `${said}: http storage file does not exist: external_storage: file doesn't exist`
          : said,
      )
    }
    if (attempt === HTTP_ATTEMPTS) fail('too many retries; giving up')
    await sleep(HTTP_PAUSE_MS, undefined, { signal })
  }
}

/** Maximum number of lost connections while reading one file. */
const LOST_CONNECTIONS = 10

/**
 * Reads a file. After a lost connection, resumes at the next byte. Source: `pkg/cloud/cloud_io.go`, `ResumingReader`.
 */
async function content(open: (headers: Record<string, string>) => Promise<Response>): Promise<Readable> {
  const first = await open({})
  const size = Number(first.headers.get('content-length') ?? Number.NaN)
  async function* pieces() {
    let response = first
    for (let lost = 0, read = 0; ; ) {
      // A server without range requests sends the whole file again.
      let again = response.status === 206 ? 0 : read
      try {
        for await (const piece of (response.body ?? []) as AsyncIterable<Uint8Array>) {
          const rest = piece.subarray(again)
          again -= piece.length - rest.length
          read += rest.length
          if (rest.length) yield rest
        }
        return
      } catch (error) {
        if (read === size) return
        if (++lost > LOST_CONNECTIONS) throw error
      }
      response = await open({ range: `bytes=${read}-` })
    }
  }
  return Readable.from(pieces(), { objectMode: false })
}

function fail(message: string): never {
  throw new SqlError(UNCATEGORIZED, message)
}
