import { literal } from '../runtime/database.ts'

/* SQL expressions that turn a hash into text: names, addresses, numbers and filler that belong to no one. */

const EMAIL_HOST = '@example.com'
export const EMAIL_LENGTH = 29

/** 63 bits of a one-way hash, as a bigint. */
export function big(hash: string): string {
  return `(hashtextextended(encode(substring(${hash} FROM 1 FOR 8), 'hex'), 0) & 9223372036854775807)`
}

/** Up to 15 decimal digits of a hash. The first is not 0. */
function digits(hash: string, length: string): string {
  return `left((100000000000000 + ${big(hash)} % 900000000000000)::text, ${length})`
}

/** The first hex digits of a hash. */
export function hex(hash: string, length: number): string {
  const whole = `encode(substring(${hash} FROM 1 FOR ${Math.ceil(length / 2)}), 'hex')`
  return length % 2 ? `left(${whole}, ${length})` : whole
}

/** Picks a word by its index from 0. */
function pick(index: string, words: readonly string[]): string {
  // Elements of type `name` have a fixed size, so PostgreSQL finds one without scanning those before it.
  const list = literal(`[0:${words.length - 1}]={${words.map((word) => `"${word}"`).join(',')}}`)
  return `(${list}::name[])[${index}]::text`
}

/** An address with 64 bits in the local part, at a host that RFC 2606 reserves, so that mail to it reaches no one. */
export function email(hash: string, limit: number | null): string {
  const length = limit === null ? 16 : Math.max(1, Math.min(16, limit - EMAIL_LENGTH + 16))
  const text = `'u' || ${hex(hash, length)} || '${EMAIL_HOST}'`
  return limit === null || limit >= EMAIL_LENGTH ? text : `left(${text}, ${limit})`
}

const syllables = (...lists: string[]) =>
  lists.map((list) => list.split(' ')).reduce((words, ends) => words.flatMap((word) => ends.map((end) => word + end)))

/**
 * Words made of syllables, so that none of them is a real name. The lists are long, so that one slow look-up is enough.
 */
const FIRST = syllables(
  'Alvu Beru Kadu Deno Elpu Faru Gitu Hanu Ilmo Jare Lutu Mabi Nolu Opra Peri Ravu',
  'nak vo nape rak lim solu mip tuk den ris bal ga tof ner mu sil',
)
const LAST = syllables('Bar Cor Dal Ever Fal Gran Hol Ister', 'a e i o ade ena ila oma', 'be da fe ga', 'ck hl lm rt')

/** Maximum length of a name, a street or a place, in characters. */
export const ROOM = 24

/** A first, last or full name, out of 262,144 full names. */
export function personName(hash: string, part: 'full' | 'first' | 'last'): string {
  const first = (after: string) =>
    pick(
      `get_byte(${hash}, 0)`,
      FIRST.map((name) => name + after),
    )
  return part === 'first' ? first('') : `${part === 'full' ? `${first(' ')} || ` : ''}${lastName(hash, '')}`
}

function lastName(hash: string, after: string): string {
  return pick(
    `get_byte(${hash}, 1) * 4 + get_byte(${hash}, 2) % 4`,
    LAST.map((name) => name + after),
  )
}

export function streetLine(hash: string): string {
  const numbers = Array.from({ length: 256 }, (_, at) => `${at + 1} `)
  return `${pick(`get_byte(${hash}, 5)`, numbers)} || ${lastName(hash, ' Street')}`
}

/**
 * A city or a postal code. The light hash is enough, because how often a place occurs reveals more than its masked
 * name.
 */
export function locality(hash: string, part: 'city' | 'postcode', value: string): string {
  if (part === 'city') return pick(`(${hash} & ${LAST.length - 1})::int`, LAST)
  return `left((100000000 + abs(${hash} % 900000000))::text, greatest(3, length(${value})))`
}

/** A telephone number as long as the original, with the unassigned country code +999. */
export function phone(hash: string, value: string): string {
  return `CASE WHEN ${value} LIKE '+%' THEN '+999' ELSE '0999' END || ${digits(hash, `greatest(4, length(${value}) - 4)`)}`
}

/** A card number with as many digits as the original, a valid check digit, and an issuer (90…) of no card network. */
export function card(hash: string, value: string, limit: number | null): string {
  const count = `least(greatest(length(translate(${value}, ' -', '')), 13), ${Math.min(19, limit ?? 19)})`
  const powers = `(ARRAY[${Array.from({ length: 7 }, (_, at) => 10n ** BigInt(10 + at)).join(', ')}])`
  const body = `SELECT 90 * p + ${big(hash)} % p AS b FROM (SELECT ${powers}[${count} - 12] AS p OFFSET 0) y OFFSET 0`
  const doubled = (digit: number) => 2 * digit - (digit > 4 ? 9 : 0)
  // Checksum of each group of four digits, so that one look-up covers the group. Every second digit is doubled.
  const table = Array.from({ length: 10_000 }, (_, four) =>
    [...`${four}`.padStart(4, '0')].reduce((sum, digit, at) => sum + (at % 2 ? doubled(+digit) : +digit), 0),
  )
  const bytes = `'\\x${Buffer.from(table).toString('hex')}'::bytea`
  const sum = Array.from({ length: 5 }, (_, at) => `get_byte(${bytes}, (b / ${10n ** BigInt(4 * at)} % 10000)::int)`)
  return `(SELECT b::text || ((10 - (${sum.join(' + ')}) % 10) % 10)::text FROM (${body}) x)`
}

/**
 * The hex digits of a random (version 4) uuid with 112 bits of the hash. Sets whole bytes, so that the hash expression
 * occurs only once.
 */
export function uuidDigits(hash: string): string {
  return `encode(set_byte(set_byte(substring(${hash} FROM 1 FOR 16), 6, ${0x4a}), 8, ${0x8a}), 'hex')`
}

const LOREM =
  'lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut labore et dolore magna aliqua ut enim ad minim veniam quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat duis aute irure dolor in reprehenderit in voluptate velit esse cillum dolore eu fugiat nulla pariatur excepteur sint occaecat cupidatat non proident sunt in culpa qui officia deserunt mollit anim id est laborum '

/** Longer texts are assembled from copies of the filler; shorter ones are cut from its bytes, which is faster. */
const SHORT = 512
const FILLER = `'\\x${Buffer.from(LOREM.repeat(3).slice(0, 2 * SHORT)).toString('hex')}'::bytea`

export function filler(hash: string, value: string): string {
  const [offset, length] = [`1 + (${hash} & ${SHORT - 1})::int`, `length(${value})`]
  const long = `substr(repeat(${literal(LOREM)}, 3 + ${length} / ${LOREM.length}), ${offset}, ${length})`
  // octet_length is faster than length, and never returns less.
  return `CASE WHEN octet_length(${value}) <= ${SHORT} THEN encode(substring(${FILLER}, ${offset}, ${length}), 'escape') ELSE ${long} END`
}
