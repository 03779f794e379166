import { readFileSync } from 'node:fs'
import { parse as parseYaml } from 'yaml'
import * as z from 'zod'

/** One kind of input value: how its text becomes a value, and what to tell a person whose text does not. */
export interface InputType<T> {
  schema: z.ZodType<T, string>
  /** Completes "write …" in an error, and tells readers of the documentation what is allowed. */
  hint: string
  /** Never echoed, and masked before anything else happens. */
  secret?: 'text' | 'url'
  /** JSON Schema of the value in the config file. */
  json: Record<string, unknown>
}

const UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 }
const SIZES: Record<string, number> = { B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 }

export const text: InputType<string> = { schema: z.string(), hint: 'text', json: { type: 'string' } }

export const secretText: InputType<string> = { ...text, secret: 'text' }

/** Milliseconds. */
export const duration: InputType<number> = scaled(
  /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/,
  UNITS,
  'a duration such as 500ms, 30s, 5m, 2h or 7d',
)

/** Bytes. */
export const size: InputType<number> = scaled(
  /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|TiB)$/,
  SIZES,
  'a size such as 64MiB or 2GiB',
)

export const boolean: InputType<boolean> = {
  schema: z.enum(['true', 'false']).transform((value) => value === 'true'),
  hint: '`true` or `false`',
  json: { type: ['boolean', 'string'] },
}

export function integer(min: number, max: number): InputType<number> {
  return {
    schema: z
      .string()
      .regex(/^-?\d+$/)
      .transform(Number)
      .pipe(z.number().int().min(min).max(max)),
    hint: `a whole number from ${min} to ${max}`,
    json: { type: ['integer', 'string'] },
  }
}

export function choice<const T extends readonly [string, ...string[]]>(...values: T): InputType<T[number]> {
  return {
    schema: z.enum(values) as unknown as z.ZodType<T[number], string>,
    hint: `one of ${values.map((value) => `\`${value}\``).join(', ')}`,
    json: { type: 'string', enum: values },
  }
}

export function pattern(regex: RegExp, hint: string): InputType<string> {
  return { schema: z.string().regex(regex), hint, json: { type: 'string', pattern: regex.source } }
}

const scalars = z.array(z.union([z.string(), z.number(), z.boolean()]))

/** Items separated by commas or new lines, or a YAML list. */
export const list: InputType<string[]> = {
  schema: z.string().transform((value, context) => {
    if (!/^\s*(-\s|\[)/.test(value)) return splitList(value)
    const items = scalars.safeParse(yamlOf(value))
    if (items.success) return items.data.map(String)
    context.addIssue('not a list')
    return z.NEVER
  }),
  hint: 'items separated by commas or new lines, or a YAML list',
  json: { type: ['array', 'string'], items: { type: 'string' } },
}

/** Arguments for a program, one an item. Only a YAML list: a comma may be part of an argument. */
export const argumentList: InputType<string[]> = {
  schema: z.string().transform((value, context) => {
    const items = scalars.safeParse(yamlOf(value))
    if (items.success) return items.data.map(String)
    context.addIssue('not a YAML list')
    return z.NEVER
  }),
  hint: 'a YAML list, one argument an item',
  json: { type: ['array', 'string'], items: { type: ['string', 'number', 'boolean'] } },
}

function yamlOf(value: string): unknown {
  try {
    return parseYaml(value)
  } catch {
    return undefined
  }
}

/** A PostgreSQL or CockroachDB connection URL, kept exactly as written: both tools get the user's own parameters. */
export const connectionUrl: InputType<string> = {
  schema: z.string().superRefine((value, context) => {
    const problem = urlProblem(value)
    if (problem) context.addIssue(problem)
  }),
  hint: 'a URL such as postgresql://user@host:5432/database?sslmode=verify-full',
  secret: 'url',
  json: { type: 'string' },
}

/**
 * What is wrong with a connection URL, without repeating any of it; undefined when it is sound.
 * A strict pattern, because `new URL` quietly repairs a password with a bare `@` or `%`, which the tools then misread.
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
    return 'its user name or password holds a character that must be percent-encoded: "@" is %40, ":" %3A, "/" %2F, "%" %25, "#" %23, "?" %3F'
  if (!/^postgres(ql)?:\/\/[^/]+\/[^/?]+/.test(url)) return 'it names no database: write /database after the host'
  return 'it does not parse as a URL'
}

/** @param address what stands between the login and the database */
function addressProblem(address: string): string | undefined {
  if (address.includes(','))
    return 'it names several hosts; write the primary alone (of CockroachDB one node, or its balancer)'
  const port = /^(?:\[[^\]]*\]|[^:[\]]*):([^:]*)$/.exec(address)?.[1]
  if (port !== undefined && !isPort(port)) return PORT_PROBLEM
  return undefined
}

const PORT_PROBLEM = 'its port must be a number from 1 to 65535'
const isPort = (text: string) => /^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65_535

const SSL_MODES = ['disable', 'allow', 'prefer', 'require', 'verify-ca', 'verify-full']

/** What follows the `?`: the driver reads certificates from files, and takes no mode for one that it does not know. */
function parameterProblem(url: string): string | undefined {
  const parameters = new URLSearchParams(url.split(/\?(.*)/s)[1] ?? '')
  const modes = parameters.getAll('sslmode')
  if (modes.some((mode) => !SSL_MODES.includes(mode))) return `its sslmode must be one of ${SSL_MODES.join(', ')}`
  if (modes.includes('verify-ca') && !parameters.get('sslrootcert'))
    return 'its sslmode verify-ca needs sslrootcert, the file with the certificate of the CA; or write verify-full'
  if (parameters.getAll('host').some((host) => host.includes(','))) return addressProblem(',')
  if (parameters.getAll('port').some((port) => !isPort(port))) return PORT_PROBLEM
  for (const name of ['sslrootcert', 'sslcert', 'sslkey'])
    for (const path of parameters.getAll(name))
      if (path && !isReadable(path)) return `${name} names ${path}, which cannot be read on this runner`
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

/** The driver parses it like this, and its error would be taken for a mistake of ours. */
function parseProblem(url: string): string | undefined {
  try {
    new URL(url)
    decodeURIComponent(url)
    return undefined
  } catch {
    return 'it does not parse as a URL; an IPv6 address is written in brackets, such as [::1]'
  }
}

/** Why a connection by this URL may go over the network in clear; undefined when it cannot, or uses no network. */
export function tlsProblem(url: string): string | undefined {
  const [base, query = ''] = url.split(/\?(.*)/s, 2) as [string, string?]
  const params = query.split('&').map((pair) => pair.split('='))
  const host = params.find(([name]) => name === 'host')?.[1] ?? /^[a-z]+:\/\/(?:[^/]*@)?([^/]*)/.exec(base)?.[1] ?? ''
  if (/^(\/|%2f)/i.test(host)) return undefined
  const modes = params.filter(([name]) => name === 'sslmode').map(([, mode]) => mode ?? '')
  if (!modes.length) return 'it has no sslmode, so TLS is given up when the server does not offer it'
  const weak = modes.find((mode) => !['require', 'verify-ca', 'verify-full'].includes(mode))
  return weak === undefined ? undefined : `its sslmode is ${weak}`
}

function splitList(value: string): string[] {
  return value
    .split(/[,\n]/)
    .map((item) => item.trim())
    .filter(Boolean)
}

function scaled(regex: RegExp, units: Record<string, number>, hint: string): InputType<number> {
  return {
    schema: z
      .string()
      .regex(regex)
      .transform((value) => {
        const [, amount, unit] = regex.exec(value) as unknown as [string, string, string]
        return Math.round(Number(amount) * (units[unit] as number))
      }),
    hint,
    json: { type: 'string', pattern: regex.source },
  }
}
