import { randomBytes } from 'node:crypto'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** A command line without passwords, and the environment variables that point to the password file. */
export interface Hidden {
  args: string[]
  env: Record<string, string>
  /** Removes the password file. Call this after the program has exited. */
  remove(): void
}

/**
 * Moves passwords from the connection URLs on a command line, which every process on the machine can read, to a libpq
 * password file in `folder`, mode 600. The rest of each URL stays as it is. Skips a password that such a file cannot
 * contain, and a URL that has its own password file or service.
 */
export function hidePasswords(args: readonly string[], folder: string): Hidden {
  const lines = new Set<string>()
  const anywhere = new Map<string, Set<string>>()
  const hidden = args.map((argument) => {
    const url = /^(--?[\w-]+=)?(postgres(?:ql)?:\/\/.*)$/s.exec(argument)
    const found = url && splitPassword(url[2] as string)
    if (!found) return argument
    for (const line of found.lines) {
      lines.add(line)
      const [, login, password] = /^(?:(?:\\.|[^\\:])*:){2}((?:\\.|[^\\:])*:(?:\\.|[^\\:])*):(.*)$/s.exec(
        line,
      ) as string[]
      anywhere.set(login as string, (anywhere.get(login as string) ?? new Set()).add(password as string))
    }
    return (url[1] ?? '') + found.url
  })
  // A wrapper may connect through a tunnel, at a different address. If a login has only one password, also add a line
  // for any host.
  for (const [login, passwords] of anywhere) if (passwords.size === 1) lines.add(`*:*:${login}:${[...passwords][0]}`)
  if (!lines.size) return { args: [...args], env: {}, remove() {} }
  const file = join(folder, `.pgpass-${randomBytes(8).toString('hex')}`)
  writeFileSync(file, `${[...lines].join('\n')}\n`, { mode: 0o600, flag: 'wx' })
  return { args: hidden, env: { PGPASSFILE: file }, remove: () => rmSync(file, { force: true }) }
}

/** Splits a URL into the URL without the password, and the lines of a password file, one for each host. */
export function splitPassword(url: string): { url: string; lines: string[] } | undefined {
  const parts = /^(postgres(?:ql)?:\/\/)(?:([^:@/?]*)(?::([^@/?]*))?@)?([^/?]*)(?:\/([^?]*))?(?:\?(.*))?$/s.exec(url)
  if (!parts) return undefined
  const [, scheme, user = '', inline = '', hosts = '', path = '', query = ''] = parts
  const params = new Map(query.split('&').map((pair) => pair.split(/=(.*)/s, 2) as [string, string]))
  if (params.has('passfile') || params.has('service') || params.has('servicefile')) return undefined
  try {
    const param = (name: string) => (params.has(name) ? decodeURIComponent(params.get(name) ?? '') : undefined)
    const password = param('password') ?? decodeURIComponent(inline)
    // libpq reads a password file line by line, and trims white space.
    if (!password || password !== password.trim() || /[\r\n\0]/.test(password)) return undefined
    const name = param('user') ?? decodeURIComponent(user)
    const database = param('dbname') ?? param('database') ?? (decodeURIComponent(path) || name)
    if (!name) return undefined
    const lines = hostsOf(param('host') ?? decodeURIComponent(hosts), param('port')).map((host) =>
      [...host, database, name, password].map((field) => field.replace(/[\\:]/g, '\\$&')).join(':'),
    )
    const rest = query
      .split('&')
      .filter((pair) => !/^password=/.test(pair))
      .join('&')
    const authority = parts[2] === undefined ? hosts : `${user}@${hosts}`
    const database_ = parts[5] === undefined ? '' : `/${path}`
    return { url: `${scheme}${authority}${database_}${rest ? `?${rest}` : ''}`, lines }
  } catch {
    return undefined
  }
}

/** Parses `a:1,b` into pairs of host and port. For a socket, libpq looks up `localhost`. */
function hostsOf(hosts: string, ports: string | undefined): [string, string][] {
  const given = ports?.split(',') ?? []
  return hosts.split(',').map((each, index) => {
    const parts = /^(?:\[([^\]]*)\]|([^:]*|\/.*?))(?::(\d+))?$/.exec(each)
    const host = parts ? (parts[1] ?? parts[2] ?? '') : each
    const port = parts?.[3]
    return [host === '' || host.startsWith('/') ? 'localhost' : host, given[index] ?? given[0] ?? port ?? '5432']
  })
}
