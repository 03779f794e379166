import { isIP } from 'node:net'
import { parse } from 'postgres-array'

/** Types whose values both servers print identically, in the text form that `row-digests.ts` reads. */
const EXACT =
  /^(smallint|integer|bigint|boolean|text|character varying.*|character.*|"char"|name|string|uuid|bytea|date|time(\(\d\))?( without time zone)?|timestamp.*|bit.*|oid|(\w+\.)?(citext|ltree))$/
/** Numbers with at most 6 decimals. With more, CockroachDB prints a zero as `0E-7`. */
const NUMERIC = /^numeric\(\d+(,[0-6])?\)$/

/**
 * Whether equal values of this type always have the same text on both servers.
 * @param type as `format_type` prints it
 */
export function writtenAlike(type: string, isEnum = false): boolean {
  return isEnum || EXACT.test(type) || NUMERIC.test(type)
}

/**
 * Normalizes a value's text. The servers differ in JSON key order and white space, trailing zeros, exponents, and
 * quotes in arrays.
 * @returns undefined for a type with unknown text forms, where only equal texts prove equal values
 */
export function plainForm(type: string, text: string, isEnum = false): string | undefined {
  if (type.endsWith('[]')) return plainArray(type.slice(0, -2), text)
  if (/^jsonb?$/.test(type)) return JSON.stringify(sorted(JSON.parse(text.replace(JSON_TOKEN, plainToken))))
  if (/^(numeric|decimal)/.test(type)) return plainNumber(text)
  if (type === 'double precision') return String(Number(text))
  if (type === 'real') return String(Math.fround(Number(text)))
  if (/^character\(/.test(type)) return text.replace(/ +$/, '')
  if (type.startsWith('interval')) return plainInterval(text)
  if (/^(inet|cidr)$/.test(type)) return plainAddress(text)
  if (/^time(\(\d\))? with time zone$/.test(type)) return plainTime(text)
  return writtenAlike(type, isEnum) ? text : undefined
}

function plainArray(type: string, text: string): string | undefined {
  let known = true
  const plain = (item: unknown): unknown => {
    if (Array.isArray(item)) return item.map(plain)
    const form = item === null ? null : plainForm(type, item as string)
    if (form === undefined) known = false
    return form
  }
  const items = plain(parse(text, (item) => item))
  // Arrays with the same items can begin at another index: `[2:3]={1,2}`.
  return known ? JSON.stringify([/^\[.*?\]=/.exec(text)?.[0], items]) : undefined
}

const JSON_TOKEN = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g

/**
 * Turns a number into a string, because JSON.parse would round a long number. A prefix tells strings and numbers apart.
 */
function plainToken(token: string): string {
  return token.startsWith('"') ? `"t${token.slice(1)}` : `"n${plainNumber(token)}"`
}

/** Normalizes a number: `-1.50` and `-150E-2` become `-15e-1`. */
function plainNumber(text: string): string {
  const [, sign, whole = '', decimals = '', exponent = '0'] = /^([+-]?)(\d*)\.?(\d*)(?:e([+-]?\d+))?$/i.exec(text) ?? []
  if (sign === undefined || !(whole + decimals)) return text.toLowerCase()
  const digits = (whole + decimals).replace(/^0+/, '')
  const short = digits.replace(/0+$/, '')
  if (!short) return '0'
  const places = Number(exponent) - decimals.length + digits.length - short.length
  return `${sign === '-' ? '-' : ''}${short}e${places}`
}

const INTERVAL =
  /^(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?$/

/**
 * Normalizes an interval to months, days and microseconds.
 * @param text in the style `postgres`
 */
function plainInterval(text: string): string | undefined {
  const found = text === '' ? null : INTERVAL.exec(text)
  if (!found) return undefined
  const [, years = 0, months = 0, days = 0, sign, hours = 0, minutes = 0, seconds = 0, fraction = ''] = found
  const time = (BigInt(hours) * 60n + BigInt(minutes)) * 60n + BigInt(seconds)
  const micros = time * 1_000_000n + BigInt(fraction.padEnd(6, '0'))
  return `${Number(years) * 12 + Number(months)} ${Number(days)} ${sign === '-' ? -micros : micros}`
}

/** Normalizes an address: the prefix length of a single host is optional, and IPv6 addresses have several forms. */
function plainAddress(text: string): string | undefined {
  const [address = '', bits] = text.split('/')
  const family = isIP(address)
  if (!family) return undefined
  const plain = family === 4 ? address : new URL(`http://[${address}]`).hostname
  return `${plain}/${bits ?? (family === 4 ? 32 : 128)}`
}

/** Normalizes a time with zone: `12:00:00.5+02` equals `12:00:00.500+02:00:00`. */
function plainTime(text: string): string | undefined {
  const found = /^(\d\d:\d\d:\d\d)(?:\.(\d+))?([+-]\d\d)(?::(\d\d))?(?::(\d\d))?$/.exec(text)
  if (!found) return undefined
  const [, time, fraction = '', hours, minutes = '00', seconds = '00'] = found
  return `${time}.${fraction.replace(/0+$/, '')}${hours}:${minutes}:${seconds}`
}

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, each]) => [name, sorted(each)]),
  )
}
