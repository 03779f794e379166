import { execFile } from 'node:child_process'
import { parseIntoClientConfig } from 'pg-connection-string'
import { childEnvironment } from './environment.ts'
import { UserError } from './errors.ts'
import { addSecret, redact } from './secrets.ts'
import { TIMING } from './timing.ts'
import { withLibpqTls, withLogin } from './url.ts'

/*
 * Gets passwords, such as cloud IAM tokens, from a program, for URLs that have no password.
 */

/** How long a password is valid: only for a connection that is opened within minutes, or until the job ends. */
export type PasswordLasts = 'connection' | 'job'

/** The login that a password is for. */
export interface Login {
  host: string
  port: string
  user: string
  database: string
}

interface Kept {
  password: Promise<string>
  until: number
}

let command: readonly string[] | undefined
let lasts: PasswordLasts = 'connection'
let kept = new Map<string, Kept>()

/** Sets the program for this action; undefined means no program. */
export function setPasswordCommand(words: readonly string[] | undefined, how: PasswordLasts = 'connection'): void {
  command = words?.length ? words : undefined
  lasts = how
  kept = new Map()
}

/**
 * Adds the program's password to a URL that has none, if it lasts as long as the job. Otherwise returns the URL
 * unchanged.
 * @throws UserError when the program fails
 */
export async function withJobPassword(url: string, signal: AbortSignal): Promise<string> {
  if (!command || lasts !== 'job' || hasPassword(url)) return url
  const login = loginOf(parseIntoClientConfig(withLibpqTls(url)))
  return withLogin(url, login.user, (await passwordFor(login, signal)) as string)
}

/**
 * Requires passwords that stay valid until molt or replicator exits, because both keep opening new connections.
 * @throws UserError when the password for a URL may expire earlier
 */
export function requireToolPasswords(urls: readonly string[]): void {
  if (!command || lasts === 'job' || urls.every(hasPassword)) return
  throw new UserError(
    'password.not-for-tools',
    'molt and replicator open new connections until they exit, and the password from `password-command` may expire before then. Use a login with a password in the URL. If the password lasts as long as the job, set `password-lasts: job`',
  )
}

/**
 * Returns the password that the program prints; undefined without a program. Reuses a password for a minute.
 * @throws UserError when the program fails
 */
export function passwordFor(login: Login, signal?: AbortSignal): Promise<string> | undefined {
  if (!command) return undefined
  const key = JSON.stringify(login)
  const known = kept.get(key)
  if (known && known.until > performance.now()) return known.password
  const password = run(command, login, signal)
  kept.set(key, { password, until: performance.now() + TIMING.passwordKept })
  password.catch(() => kept.delete(key))
  return password
}

function run([program, ...args]: readonly string[], login: Login, signal?: AbortSignal): Promise<string> {
  const { host, port, user, database } = login
  const env = childEnvironment({ PGHOST: host, PGPORT: port, PGUSER: user, PGDATABASE: database })
  const options = { env, signal, timeout: TIMING.passwordCommand, maxBuffer: 64 * 1024, encoding: 'utf8' as const }
  return new Promise((resolve, reject) => {
    execFile(program as string, args, options, (error, output, said) => {
      const password = output.replace(/\r?\n$/, '')
      // The output may be a password even if the program failed.
      addSecret(password)
      addSecret(encodeURIComponent(password))
      if (signal?.aborted) reject(signal.reason)
      else if (error) reject(failed(ending(error), said))
      else if (!password || /[\r\n]/.test(password))
        reject(failed(password ? 'printed several lines' : 'printed nothing', said))
      else resolve(password)
    })
  })
}

function ending(error: Error & { code?: unknown; killed?: boolean }): string {
  if (error.killed) return `did not finish within ${TIMING.passwordCommand / 1000} s`
  return typeof error.code === 'number' ? `ended with exit code ${error.code}` : `cannot be run: ${String(error.code)}`
}

/** @param said output on standard error. Cloud CLIs print the reason in the last line */
function failed(how: string, said: string): UserError {
  const last = said.trim().split('\n').at(-1)?.slice(0, 300)
  return new UserError('password.command-failed', `\`password-command\` ${how}${last ? `: ${redact(last)}` : ''}`)
}

function hasPassword(url: string): boolean {
  return Boolean(new URL(url).password) || /[?&](password|passfile|service|sslcert)=./.test(url)
}

type Config = Pick<ReturnType<typeof parseIntoClientConfig>, 'host' | 'port' | 'user' | 'database'>

/** The login in a driver configuration. */
export function loginOf({ host = '', port = 5432, user = '', database = '' }: Config): Login {
  return { host, port: String(port), user, database }
}
