import { parse as parseYaml } from 'yaml'
import * as z from 'zod'
import { urlProblem } from './url.ts'

/** A type of input value: how to parse it, and how to describe the allowed values. */
export interface InputType<T> {
  schema: z.ZodType<T, string>
  /** Completes "Set it to …" in an error, and describes the allowed values in the documentation. */
  hint: string
  /** Set for secrets. They are registered before anything else happens, and are never printed. */
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

export function decimal(min: number, max: number): InputType<number> {
  return {
    schema: z
      .string()
      .regex(/^\d+(\.\d+)?$/)
      .transform(Number)
      .pipe(z.number().min(min).max(max)),
    hint: `a number from ${min} to ${max}, such as 1.5`,
    json: { type: ['number', 'string'] },
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

/** Arguments for a program, one per item. Only a YAML list, because a comma may be part of an argument. */
export const argumentList: InputType<string[]> = {
  schema: z.string().transform((value, context) => {
    const items = scalars.safeParse(yamlOf(value))
    if (items.success) return items.data.map(String)
    context.addIssue('not a YAML list')
    return z.NEVER
  }),
  hint: 'a YAML list, one argument per item',
  json: { type: ['array', 'string'], items: { type: ['string', 'number', 'boolean'] } },
}

function yamlOf(value: string): unknown {
  try {
    return parseYaml(value)
  } catch {
    return undefined
  }
}

/**
 * A PostgreSQL or CockroachDB connection URL. Kept as written, because the MOLT tools must get the user's parameters
 * unchanged.
 */
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
 * A webhook URL. All of it is secret, because its path contains a token. Plain HTTP is allowed only for this machine.
 */
export const webhookUrl: InputType<string> = {
  schema: z.string().regex(/^(https:\/\/|http:\/\/(localhost|127\.0\.0\.1|\[::1\])[:/])[^\s]+$/),
  hint: 'a URL that begins with https://',
  secret: 'text',
  json: { type: 'string' },
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
