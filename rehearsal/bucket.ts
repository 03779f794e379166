import { AwsClient } from 'aws4fetch'

/** A bucket's location and the credentials of its reader, named as in the AWS tools. */
export interface BucketAccess {
  bucket: string
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string
  region?: string
  /** Base URL of a server other than Amazon's. Its buckets are addressed by path. */
  endpoint?: string
}

/** An unsuccessful response from the bucket's server. */
export class BucketError extends Error {
  override name = 'BucketError'
  /** `NoSuchKey`, `InvalidAccessKeyId`, …; `RequestError` if no server answered. */
  readonly code: string
  /** HTTP status; 0 if no server answered. */
  readonly status: number

  constructor(code: string, message: string, status: number) {
    super(message ? `${code}: ${message}` : code)
    this.code = code
    this.status = status
  }
}

/** The few operations on an S3-compatible bucket that MOLT and CockroachDB use. All throw {@link BucketError}. */
export class Bucket {
  readonly access: BucketAccess
  readonly #client: AwsClient

  constructor(access: BucketAccess) {
    this.access = access
    this.#client = new AwsClient({
      accessKeyId: access.accessKeyId,
      secretAccessKey: access.secretAccessKey,
      sessionToken: access.sessionToken,
      region: access.region ?? 'us-east-1',
      service: 's3',
      retries: 0,
    })
  }

  async put(key: string, body: Uint8Array, metadata: Record<string, string> = {}): Promise<void> {
    const headers = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`x-amz-meta-${name}`, value]))
    await this.#send(key, { method: 'PUT', headers, body: body as Uint8Array<ArrayBuffer> })
  }

  async get(key: string, headers: Record<string, string> = {}): Promise<Response> {
    return this.#send(key, { method: 'GET', headers })
  }

  /** An object's custom metadata, keyed by lower-case name. */
  async metadata(key: string): Promise<Record<string, string>> {
    const { headers } = await this.#send(key, { method: 'HEAD' })
    return Object.fromEntries(
      [...headers].flatMap(([name, value]) =>
        name.startsWith('x-amz-meta-') ? [[name.slice('x-amz-meta-'.length), value]] : [],
      ),
    )
  }

  async remove(key: string): Promise<void> {
    await this.#send(key, { method: 'DELETE' })
  }

  /** Keys that begin with `prefix`, in lexicographic order. */
  async list(prefix: string): Promise<string[]> {
    const keys: string[] = []
    for (let token: string | undefined, first = true; first || token; first = false) {
      const query = new URLSearchParams({ 'list-type': '2', prefix, ...(token ? { 'continuation-token': token } : {}) })
      const xml = await (await this.#send('', { method: 'GET' }, query)).text()
      keys.push(...tags(xml, 'Key'))
      token = tags(xml, 'NextContinuationToken')[0]
    }
    return keys
  }

  /** The object's URL for messages, without credentials. */
  urlOf(key: string): string {
    const { bucket, endpoint, region = 'us-east-1' } = this.access
    const base = endpoint ? `${endpoint.replace(/\/$/, '')}/${bucket}` : `https://${bucket}.s3.${region}.amazonaws.com`
    return key ? `${base}/${key.split('/').map(encodeURIComponent).join('/')}` : base
  }

  async #send(key: string, init: RequestInit, query?: URLSearchParams): Promise<Response> {
    const url = `${this.urlOf(key)}${query ? `?${query}` : ''}`
    let response: Response
    try {
      response = await this.#client.fetch(url, init)
    } catch (error) {
      const cause = (error as Error).cause ?? error
      throw new BucketError('RequestError', `send request failed\ncaused by: ${(cause as Error).message}`, 0)
    }
    if (response.ok) return response
    const xml = await response.text()
    const [code] = tags(xml, 'Code')
    throw new BucketError(code ?? response.statusText, tags(xml, 'Message')[0] ?? '', response.status)
  }
}

const ENTITIES: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

/** Text of each XML element with this name. S3 responses have no attributes and never nest equal names. */
function tags(xml: string, name: string): string[] {
  return [...xml.matchAll(new RegExp(`<${name}>([^<]*)</${name}>`, 'g'))].map(([, text]) =>
    (text as string).replace(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (all, decimal, hex, named) =>
      named ? (ENTITIES[named] ?? all) : String.fromCodePoint(decimal ? Number(decimal) : Number.parseInt(hex, 16)),
    ),
  )
}
