import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { generate } from 'selfsigned'
import type { EmbeddedServer } from '../../rehearsal/postgres/postgres.ts'
import { query } from './migration.ts'

/**
 * Creates a key and a self-signed certificate.
 * @param host host that the certificate is for; `localhost` also covers 127.0.0.1
 * @param days days until it expires
 */
export async function certificateFor(host = 'localhost', days = 1): Promise<{ cert: string; key: string }> {
  const end = new Date(Date.now() + days * 86_400_000)
  const names = host === 'localhost' ? [{ type: 7 as const, ip: '127.0.0.1' }] : []
  const { cert, private: key } = await generate([{ name: 'commonName', value: host }], {
    algorithm: 'sha256',
    notBeforeDate: new Date(end.getTime() - 86_400_000 * 10),
    notAfterDate: end,
    extensions: [{ name: 'subjectAltName', altNames: [{ type: 2, value: host }, ...names] }],
  })
  return { cert, key }
}

/**
 * Makes the server accept only TLS connections, from localhost and 127.0.0.1.
 * @param host host that its certificate is for
 * @param days days until the certificate expires
 * @returns path of its self-signed certificate, which clients use as the root
 */
export async function requireTlsOf(
  server: Pick<EmbeddedServer, 'name' | 'url' | 'dataDir'>,
  folder: string,
  { host = 'localhost', days = 1 } = {},
): Promise<string> {
  const { cert, key } = await certificateFor(host, days)
  // The server writes the files, because it refuses a key file that others can read.
  for (const [name, text] of [
    ['server.crt', cert],
    ['server.key', key],
    ['pg_hba.conf', 'hostssl all,replication all all scram-sha-256'],
  ])
    await query(
      server.url,
      `COPY (SELECT unnest(string_to_array('${text}', chr(10)))) TO PROGRAM 'umask 077; cat >"${server.dataDir}/${name}"'`,
    )
  await query(server.url, 'ALTER SYSTEM SET ssl = on')
  await query(server.url, 'SELECT pg_reload_conf()')
  const root = join(folder, `${server.name}-root.crt`)
  writeFileSync(root, cert)
  return root
}

/** The URL with the TLS settings of a production database. */
export function verifyingTls(url: string, root: string): string {
  return url.replace('sslmode=disable', `sslmode=verify-full&sslrootcert=${encodeURIComponent(root)}`)
}
