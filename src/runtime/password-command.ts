import { execFile } from 'node:child_process'
import { parseIntoClientConfig } from 'pg-connection-string'
import { childEnvironment } from './environment.ts'
import { UserError } from './errors.ts'
import { addSecret, redact } from './secrets.ts'
import { TIMING } from './timing.ts'
import { withLibpqTls, withLogin } from './url.ts'

/*
 * Passwords from a program, such as cloud IAM tokens, for URLs without a password.
 */

/** How long the server accepts a password: for a connection within minutes, or until the job ends. */
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

/** Sets the program for this action; undefined for none. */
export function setPasswordCommand(words: readonly string[] | undefined, how: PasswordLasts = 'connection'): void {
  command = words?.length ? words : undefined
  lasts = how
  kept = new Map()
}

/**
 * Adds the program's password to a URL without one, if that password lasts for the job; otherwise returns the URL
 * unchanged.
 * @throws UserError when the program fails
 */
export async function withJobPassword(url: string, signal: AbortSignal): Promise<string> {
  if (!command || lasts !== 'job' || hasPassword(url)) return url
  const login = loginOf(parseIntoClientConfig(withLibpqTls(url)))
  return withLogin(url, login.user, (await passwordFor(login, signal)) as string)
}

/**
 * Requires passwords that outlast molt and replicator, because both open new connections until they end.
 * @throws UserError when the password for a URL may expire earlier
 */
export function requireToolPasswords(urls: readonly string[]): void {
  if (!command || lasts === 'job' || urls.every(hasPassword)) return
  throw new UserError(
    'password.not-for-tools',
    'molt and replicator open new connections until they end, and the password from `password-command` may expire earlier. Use a login with a password in the URL. If the password lasts as long as the job, set `password-lasts: job`',
  )
}

/**
 * The password that the program prints; undefined without a program. A password is reused for a minute.
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
      // Even if the program failed, its output may be a password.
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
  if (error.killed) return `did not end within ${TIMING.passwordCommand / 1000} s`
  return typeof error.code === 'number' ? `ended with exit code ${error.code}` : `cannot be run: ${String(error.code)}`
}

/** @param said text on standard error. Cloud CLIs print the reason last */
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
