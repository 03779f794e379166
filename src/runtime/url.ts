import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/**
 * Describes what is wrong with a connection URL, without quoting the URL; undefined if it is valid. Uses a strict
 * pattern, because `new URL` silently repairs a password with a bare `@` or `%`, which the MOLT tools then misread.
 */
export function urlProblem(url: string): string | undefined {
  if (!/^postgres(ql)?:\/\//.test(url)) return 'it does not begin with postgresql://'
  const part = '(?:[^\\s@:/?#%\\[\\]]|%[0-9A-Fa-f]{2})'
  const sound = new RegExp(`^postgres(?:ql)?://(?:${part}+(?::${part}*)?@)?([^\\s@/?#]+)/(${part}+)(?:\\?[^\\s#]*)?$`)
  if (sound.test(url))
    return addressProblem(sound.exec(url)?.[1] as string) ?? parameterProblem(url) ?? parseProblem(url)
  const beforeQuery = url.slice(0, url.includes('@') ? url.lastIndexOf('@') : undefined)
  const userinfo = beforeQuery.replace(/^postgres(ql)?:\/\//, '')
  if (
    url.includes('@') &&
    (userinfo.match(/:/g)?.length ?? 0) + (/[@/?#\s[\]]|%(?![0-9A-Fa-f]{2})/.test(userinfo) ? 2 : 0) > 1
  )
    return 'its user name or password contains a character that must be percent-encoded: "@" is %40, ":" %3A, "/" %2F, "%" %25, "#" %23, "?" %3F'
  if (!/^postgres(ql)?:\/\/[^/]+\/[^/?]+/.test(url)) return 'it names no database. Add /database after the host'
  return 'it does not parse as a URL'
}

/** @param address the part between the login and the database */
function addressProblem(address: string): string | undefined {
  if (address.includes(','))
    return 'it names several hosts. Use only the primary (for CockroachDB, one node or its balancer)'
  const port = /^(?:\[[^\]]*\]|[^:[\]]*):([^:]*)$/.exec(address)?.[1]
  if (port !== undefined && !isPort(port)) return PORT_PROBLEM
  return undefined
}

const PORT_PROBLEM = 'its port must be a number from 1 to 65535'
const isPort = (text: string) => /^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65_535

/** Default certificate files of libpq, and of pgx, the driver in the MOLT tools. */
const CERTIFICATES = {
  sslrootcert: join(homedir(), '.postgresql/root.crt'),
  sslcert: join(homedir(), '.postgresql/postgresql.crt'),
  sslkey: join(homedir(), '.postgresql/postgresql.key'),
}
/** Value of `sslrootcert` that selects this machine's own trust store. */
const SYSTEM_ROOTS = 'system'

/** Rewrites the URL for our driver, so that its TLS settings mean the same as in libpq and MOLT. */
export function withLibpqTls(url: string): string {
  const parameters = new URLSearchParams(url.split(/\?(.*)/s)[1] ?? '')
  const mode = parameters.get('sslmode')
  if (!mode || mode === 'disable' || parameters.has('uselibpqcompat')) return url
  const { sslrootcert, ...own } = CERTIFICATES
  const added = new URLSearchParams({ uselibpqcompat: 'true' })
  if (!parameters.get('sslrootcert') && isReadable(sslrootcert)) added.set('sslrootcert', sslrootcert)
  if (!parameters.get('sslcert') && !parameters.get('sslkey') && Object.values(own).every(isReadable))
    for (const [name, path] of Object.entries(own)) added.set(name, path)
  return `${url.replace(/([?&])sslrootcert=system(?=&|$)/, '$1')}&${added}`
}

const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full']

/**
 * Checks the parameters after the `?`. The driver would ignore an unknown `sslmode`, and throw if a file is missing.
 */
function parameterProblem(url: string): string | undefined {
  const parameters = new URLSearchParams(url.split(/\?(.*)/s)[1] ?? '')
  const modes = parameters.getAll('sslmode')
  if (modes.some((mode) => !SSL_MODES.includes(mode))) return `its sslmode must be one of ${SSL_MODES.join(', ')}`
  if (modes.includes('verify-ca') && !parameters.get('sslrootcert') && !isReadable(CERTIFICATES.sslrootcert))
    return 'its sslmode verify-ca needs sslrootcert, the CA certificate file. Set it, or use verify-full'
  if (parameters.get('sslrootcert') === SYSTEM_ROOTS && modes[0] !== 'verify-full')
    return 'its sslrootcert=system needs sslmode=verify-full, because any host can have a certificate of a public authority'
  if (parameters.getAll('host').some((host) => host.includes(','))) return addressProblem(',')
  if (parameters.getAll('port').some((port) => !isPort(port))) return PORT_PROBLEM
  for (const name of ['sslrootcert', 'sslcert', 'sslkey'])
    for (const path of parameters.getAll(name))
      if (path && path !== SYSTEM_ROOTS && !isReadable(path))
        return `${name} names ${path}, which cannot be read on this runner`
  return undefined
}

function isReadable(path: string): boolean {
  try {
    readFileSync(path)
    return true
  } catch {
    return false
  }
}

/** Parses the URL as the driver does. An error from the driver itself would look like a bug in this suite. */
function parseProblem(url: string): string | undefined {
  try {
    new URL(url)
    decodeURIComponent(url)
    return undefined
  } catch {
    return 'it does not parse as a URL. Write an IPv6 address in brackets, such as [::1]'
  }
}

/** Replaces the login in a URL, and removes the parameters that belong to the old login. */
export function withLogin(url: string, user: string, password: string): string {
  const [base, query = ''] = url.split(/\?(.*)/s, 2) as [string, string?]
  const kept = query
    .split('&')
    .filter((pair) => pair && !/^(user|password|passfile|sslcert|sslkey|sslpassword)=/.test(pair))
  const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
  return `${base.replace(/^([a-z]+:\/\/)(?:[^@/]*@)?/, `$1${login}@`)}${kept.length ? `?${kept.join('&')}` : ''}`
}

/** Host and port of a URL without the login, to identify a server in messages. */
export function hostOf(url: string): string {
  const { host, searchParams } = new URL(url)
  return searchParams.get('host') ?? host
}

/**
 * Explains why a connection with this URL can be unencrypted; undefined if it is encrypted or does not use the network.
 */
export function tlsProblem(url: string): string | undefined {
  const [base, query = ''] = url.split(/\?(.*)/s, 2) as [string, string?]
  const params = query.split('&').map((pair) => pair.split('='))
  const host = params.find(([name]) => name === 'host')?.[1] ?? /^[a-z]+:\/\/(?:[^/]*@)?([^/]*)/.exec(base)?.[1] ?? ''
  if (/^(\/|%2f)/i.test(host)) return undefined
  const modes = params.filter(([name]) => name === 'sslmode').map(([, mode]) => mode ?? '')
  if (!modes.length) return 'it has no sslmode, so TLS is skipped when the server does not offer it'
  const weak = modes.find((mode) => !['require', 'verify-ca', 'verify-full'].includes(mode))
  return weak === undefined ? undefined : `its sslmode is ${weak}`
}
