import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
// @ts-expect-error: has no types
import S3rver from '@20minutes/s3rver'
import { Bucket } from './bucket.ts'

/** An S3-compatible server with one bucket. It accepts only its own keys. */
export interface S3Server {
  readonly endpoint: string
  readonly bucket: Bucket
  /** Credentials for a process, as the environment variables that the AWS tools read. */
  readonly env: Record<string, string>
  /** An object's URL with keys and endpoint, as MOLT writes it into IMPORT INTO. */
  importUrl(key: string, access?: { accessKeyId?: string; secretAccessKey?: string }): string
  stop(): Promise<void>
}

const KEY = 'S3RVER'

/** @param parent folder that holds the objects until {@link S3Server.stop} */
export async function startS3(name = 'loads', parent = tmpdir()): Promise<S3Server> {
  const directory = await mkdtemp(join(parent, 'molt-actions-s3-'))
  const server = new S3rver({
    address: '127.0.0.1',
    port: 0,
    silent: true,
    directory,
    vhostBuckets: false,
    configureBuckets: [{ name }],
  })
  const { port } = (await server.run()) as AddressInfo
  const endpoint = `http://127.0.0.1:${port}`
  return {
    endpoint,
    bucket: new Bucket({ bucket: name, accessKeyId: KEY, secretAccessKey: KEY, endpoint }),
    env: {
      AWS_ACCESS_KEY_ID: KEY,
      AWS_SECRET_ACCESS_KEY: KEY,
      AWS_ENDPOINT_URL: endpoint,
      AWS_REGION: 'us-east-1',
    },
    importUrl(key, { accessKeyId = KEY, secretAccessKey = KEY } = {}) {
      const query = new URLSearchParams({
        AWS_ACCESS_KEY_ID: accessKeyId,
        AWS_SECRET_ACCESS_KEY: secretAccessKey,
        AWS_ENDPOINT: endpoint,
      })
      return `s3://${name}/${key}?${query}`
    },
    async stop() {
      server.httpServer?.closeAllConnections()
      await server.close()
      await rm(directory, { recursive: true, force: true })
    },
  }
}
