import { literal } from '../runtime/database.ts'
import { UserError } from '../runtime/errors.ts'
import { columnOf, fromItem, type MaskColumn, type MaskTable } from './catalog.ts'
import type { Hashes } from './hashes.ts'
import { type JsonNode, jsonTree } from './json-paths.ts'
import { jitterMs, type LeafRule, type UseRule } from './rules.ts'
import {
  big,
  card,
  EMAIL_LENGTH,
  email,
  filler,
  hex,
  locality,
  personName,
  phone,
  ROOM,
  streetLine,
  uuidDigits,
} from './words.ts'

/**
 * Whether a rule gives different values different masked values. By the birthday bound, 64 bits suffice for 10⁹ rows.
 */
function keepsUnique(rule: UseRule, column: MaskColumn): boolean {
  if (column.array) return false
  const room = column.maxLength ?? Number.POSITIVE_INFINITY
  switch (rule.use) {
    case 'email':
      return !rule.fold && room >= EMAIL_LENGTH
    case 'uuid':
      return true
    case 'hash': {
      if (rule.fold) return false
      if (column.family === 'text') return Math.min(rule.length ?? 32, room - (rule.prefix ?? '').length) >= 16
      return column.family === 'bytea' || column.family === 'uuid' || column.type === 'bigint'
    }
    case 'sql':
      return rule.unique === true
    default:
      return false
  }
}

/** The length to which a column truncates a rule's result; undefined when everything fits. */
export function cutTo(rule: UseRule | LeafRule, limit: number | null): number | undefined {
  return limit !== null && limit < needs(rule) ? limit : undefined
}

function needs(rule: UseRule | LeafRule): number {
  if ('keep' in rule) return 0
  if (rule.use === 'email') return EMAIL_LENGTH
  if (rule.use === 'hash') return (rule.length ?? 32) + (rule.prefix ?? '').length
  if (rule.use === 'name' || rule.use === 'address') return 'part' in rule && rule.part === 'postcode' ? 3 : ROOM
  return rule.use === 'phone' ? 8 : 0
}

/** Matches SQL that can read a setting, including through escaped names or queries passed as text. */
const SETTINGS = /current_setting|pg_(show_all_)?settings|molt_actions|_to_xml|\bts_(stat|rewrite)\b|\bu&\s*['"]/i

/** The type families that each rule supports. */
const FITS: Record<UseRule['use'], readonly string[] | 'all'> = {
  null: 'all',
  constant: 'all',
  hash: ['text', 'integer', 'bytea'],
  partial: ['text'],
  email: ['text'],
  name: ['text'],
  phone: ['text'],
  address: ['text'],
  text: ['text'],
  number: ['integer', 'numeric', 'float'],
  date: ['date', 'timestamp'],
  uuid: ['uuid', 'text'],
  card: ['text'],
  choice: ['text', 'integer', 'numeric', 'float', 'boolean', 'date', 'timestamp', 'uuid', 'enum'],
  json: ['json'],
  sql: 'all',
}

/** Why a rule cannot apply to a column; undefined when it can. */
export function misfit(rule: UseRule, column: MaskColumn): string | undefined {
  const fits = FITS[rule.use]
  if (fits !== 'all' && !fits.includes(column.family)) return `\`${rule.use}\` does not work on ${column.type}`
  if (column.array && !['null', 'constant', 'sql'].includes(rule.use) && column.family !== 'text')
    return `\`${rule.use}\` does not work on ${column.type}`
  if (rule.use === 'null' && column.notNull) return '`null` does not work on a NOT NULL column'
  if (rule.use === 'card' && column.maxLength !== null && column.maxLength < 13)
    return `\`card\` needs 13 characters, and ${column.type} has ${column.maxLength}`
  if (rule.use === 'uuid' && column.maxLength !== null && column.maxLength < 36)
    return `\`uuid\` needs 36 characters, and ${column.type} has ${column.maxLength}`
  if (rule.use === 'hash' && column.type === 'smallint') return '`hash` needs integer or bigint'
  if (rule.use === 'number' && !rule.noise && !rule.absolute) return '`number` needs `noise` or `absolute`'
  if (rule.use === 'sql' && SETTINGS.test(rule.expression))
    return 'the expression reads settings, and the masking key is one of them. Escapes (`U&`) and functions that take a query as text are refused for the same reason'
  if (rule.use === 'choice' && column.array) return `\`choice\` does not work on ${column.type}`
  if (column.unique && !keepsUnique(rule, column))
    return `the column is part of a unique index, and \`${rule.use}\`${'fold' in rule && rule.fold ? ' with `fold`' : ''} on ${column.type} can give different values the same masked value`
  return undefined
}

/** The column that a rule masks, and its context. */
export interface Place {
  table: MaskTable
  column: MaskColumn
  /** Domain of this column's values, from the rule, the foreign key's parent, or its own name. */
  domain: string
  /** Domain of another column of the table, for `by`. */
  domainOf(column: string): string
  /**
   * Whether any column of the domain ignores case. If so, all of them must, so that a person gets the same masked value
   * everywhere.
   */
  caseless(domain: string): boolean
  hashes: Hashes
}

/** The SQL expression that masks a column. NULL stays NULL. */
export function maskColumn(rule: UseRule, place: Place): string {
  const { column } = place
  const value = columnOf(column.name)
  if (rule.use === 'null') return `NULL::${column.type}`
  if (rule.use === 'constant')
    return `CASE WHEN ${value} IS NOT NULL THEN ${literal(String(rule.value))}::${column.type} END`
  if (rule.use === 'sql') return `(${rule.expression})::${column.type}`
  if (rule.use === 'date') return shift(rule.by, rule.days, place)
  if (rule.use === 'choice') return choose(rule['min-count'] ?? MIN_COUNT, place)
  if (rule.use === 'json') return maskJson(documentOf(column, place), jsonTree(rule.paths), place)
  if (column.array) return elements(rule, value, place)
  // No cast to the column's type, because COPY sends text and the target column has the same limit.
  if (column.family === 'text')
    return maskText(rule, `${value}${column.type === 'text' ? '' : '::text'}`, column, place)
  if (rule.use === 'number') return noise(rule, value, column, place.hashes.lightColumn(place.domain, column))
  return maskTyped(rule, value, place)
}

function documentOf({ name, type }: MaskColumn, { hashes }: Place): string {
  return type === 'jsonb' ? columnOf(name) : hashes.value(`${columnOf(name)}::jsonb`)
}

function maskTyped(rule: UseRule, value: string, { column, domain, hashes }: Place): string {
  if (column.family === 'bytea') return `sha256(${hashes.strongBytes(domain, value)})`
  const hash = hashes.strong(domain, `${value}::text`)
  // COPY sends text, and PostgreSQL accepts a uuid without hyphens.
  if (rule.use === 'uuid') return uuidDigits(hash)
  return column.type === 'integer' ? `(${big(hash)} & 2147483647)::integer` : big(hash)
}

function elements(rule: UseRule, value: string, place: Place): string {
  const inner = place.hashes.inner()
  const masked = maskText(rule, 't.e', place.column, { ...place, hashes: inner })
  return `CASE WHEN cardinality(${value}) > 0 THEN ARRAY(${eachOf(masked, `unnest(${value})::text`, inner)})::${place.column.type} ELSE ${value} END`
}

/**
 * SQL that computes `what` for each element `t.e`, in order. Avoids a set-returning function in FROM, which would
 * materialize all elements.
 */
function eachOf(what: string, elements: string, hashes: Hashes): string {
  return hashes.select(what, `(SELECT ${elements} AS e OFFSET 0) AS t`)
}

/** SQL for rules that turn text into text. An empty string stays empty. */
function maskText(
  rule: UseRule | Exclude<LeafRule, { keep: true }>,
  value: string,
  column: Pick<MaskColumn, 'maxLength' | 'ignoresCase'> & { unique?: boolean },
  { domain, hashes, caseless }: Pick<Place, 'domain' | 'hashes' | 'caseless'>,
): string {
  // A case-sensitive unique column can contain both spellings, so their masked values must differ.
  const spelling = column.ignoresCase || (caseless(domain) && !column.unique) ? `lower(${value})` : value
  const folded = 'fold' in rule && rule.fold ? `lower(btrim(${value}))` : spelling
  // An empty string is hashed as NULL, so that the masked text is NULL and `unlessEmpty` writes an empty string.
  const strong = () => hashes.strong(domain, `nullif(${folded}, '')`)
  const light = () => hashes.light(domain, `nullif(${folded}, '')`)
  const limit = column.maxLength
  const cut = (text: string, room: number) => (limit === null || limit >= room ? text : `left(${text}, ${limit})`)
  // If the masked text is NULL for any other reason, writes an empty string instead, and never the original.
  const unlessEmpty = (text: string) => `coalesce(${text}, left(${folded}, 0))`
  switch (rule.use) {
    case 'hash': {
      const length = Math.min(rule.length ?? 32, Math.max(0, (limit ?? 96) - (rule.prefix ?? '').length))
      const prefix = rule.prefix ? `${literal(rule.prefix)} || ` : ''
      // More than half of a digest would allow length extension. Hashing it again prevents that, as in HMAC.
      return unlessEmpty(`${prefix}${hex(length > 32 ? `sha256(${strong()})` : strong(), length)}`)
    }
    case 'partial': {
      const stars = literal(rule.with ?? '*')
      if (rule.last === 0) return `repeat(${stars}, length(${value}))`
      return `CASE WHEN length(${value}) < ${2 * rule.last} THEN repeat(${stars}, length(${value})) ELSE repeat(${stars}, length(${value}) - ${rule.last}) || right(${value}, ${rule.last}) END`
    }
    case 'email':
      return unlessEmpty(email(strong(), limit))
    case 'name':
      return unlessEmpty(cut(personName(strong(), rule.part ?? 'full'), ROOM))
    case 'address':
      if (rule.part === 'city' || rule.part === 'postcode')
        return unlessEmpty(cut(locality(light(), rule.part, value), rule.part === 'city' ? ROOM : 3))
      return unlessEmpty(cut(streetLine(strong()), ROOM))
    case 'phone':
      // As long as the original, which fits, but at least 8 characters long.
      return unlessEmpty(cut(phone(strong(), value), 8))
    case 'card':
      return unlessEmpty(card(strong(), value, limit))
    case 'uuid':
      return unlessEmpty(`${uuidDigits(strong())}::uuid::text`)
    case 'text':
      return filler(hashes.light(domain, spelling), value)
    default:
      throw new UserError('mask.rules-misfit', `\`${rule.use}\` does not produce text`)
  }
}

type NumberRule = Extract<UseRule, { use: 'number' }>

/** Shifts a number by a percentage of itself or by an amount. Equal numbers are shifted equally. */
function noise(rule: NumberRule, value: string, column: MaskColumn, hash: string): string {
  const type = column.family === 'float' ? 'double precision' : 'numeric'
  // Counted in millionths, because integer multiplication is exact, and faster than division.
  const span = Math.max(1, Math.round((rule.noise ?? 1) * 1_000_000))
  const millionths = `(${hash} % ${span + 1}`
  const moved = rule.absolute
    ? `${value}::${type} + ${millionths})::${type} * ${(rule.absolute / 1_000_000).toFixed(12)}::${type}`
    : `${value}::${type} * ${millionths} + 1000000)::${type} * 0.000001::${type}`
  const [min, max] = range(rule, column)
  // Additional decimals would reveal the noise.
  const bare = column.type === 'numeric' ? `round(${moved}, coalesce(scale(${value}), 0))` : moved
  const rounded = column.family === 'integer' ? `round(${moved})` : bare
  const low = min === undefined ? rounded : `greatest(${rounded}, ${min})`
  const result = max === undefined ? low : `least(${low}, ${max})`
  // `least` treats NaN as greater than any limit.
  const nan = max !== undefined && column.family !== 'integer' ? `WHEN ${value} = 'NaN' THEN ${value} ` : ''
  return `CASE ${nan}WHEN ${value} IS NOT NULL THEN (${result})::${column.type} END`
}

const INTEGER_MAX: Record<string, string> = { smallint: '32767', integer: '2147483647', bigint: '9223372036854775807' }

function range(rule: NumberRule, { type, family }: MaskColumn): [min?: string, max?: string] {
  const [, precision, scale] = /^numeric\((\d+),(-?\d+)\)$/.exec(type) ?? []
  let limit: string | undefined
  if (family === 'integer') limit = INTEGER_MAX[type]
  else if (precision) limit = `(10::numeric ^ ${Number(precision) - Number(scale)} - 10::numeric ^ ${-Number(scale)})`
  return [rule.min?.toString() ?? (limit && `-${limit}`), rule.max?.toString() ?? limit]
}

/** Moves all dates of an entity by the same number of days, and never by 0. */
function shift(by: string, days: number, { table, column, domainOf, hashes }: Place): string {
  if (!table.columns.some(({ name }) => name === by))
    throw new UserError(
      'mask.rules-misfit',
      `${table.name}.${column.name}: \`by\` names ${by}, which is not a column of ${table.name}`,
    )
  const entity = table.columns.find(({ name }) => name === by) as MaskColumn
  const hash = hashes.lightColumn(`${domainOf(by)} date`, entity)
  // From -days to -1, or from 1 to days.
  const amountOf = (from: string) => `(${from} % ${days} + CASE WHEN ${from} < 0 THEN -1 ELSE 1 END)::int`
  const nullable = table.columns.some(({ name, notNull }) => name === by && !notNull)
  // Without an entity, the date's own value decides how far it moves.
  const own = () => hashes.light(`${domainOf(by)} date`, `${columnOf(column.name)}::text`)
  const moved = nullable
    ? `CASE WHEN ${hash} IS NULL THEN ${amountOf(own())} ELSE ${amountOf(hash)} END`
    : amountOf(hash)
  if (column.family === 'date') return `${columnOf(column.name)} + ${moved}`
  return `(${columnOf(column.name)} + ${moved} * interval '24 hours')::${column.type}`
}

/** Moves all timestamps of a row by the same amount, which keeps their order. */
export function jitter(text: string, { table, column, hashes }: Pick<Place, 'table' | 'column' | 'hashes'>): string {
  const ms = jitterMs(text)
  const value = columnOf(column.name)
  const domain = `${table.name} jitter`
  const hash = table.key.length ? hashes.lightRow(domain, table) : hashes.light(domain, `${value}::text`)
  return `(${value} + ${hash} % ${ms + 1} * interval '1 millisecond')::${column.type}`
}

export const MIN_COUNT = 10

/** Picks one of the column's values, weighted by how often each one occurs in the snapshot. */
function choose(minCount: number, { table, column, domain, hashes }: Place): string {
  const value = columnOf(column.name)
  if (!table.key.length)
    throw new UserError(
      'mask.rules-misfit',
      `${table.name}.${column.name}: \`choice\` needs a primary key on ${table.name}`,
    )
  const hash = hashes.lightRow(`${domain} choice`, table)
  const counted = `SELECT ${value} AS v, count(*) AS n FROM ${fromItem(table)} AS t WHERE ${value} IS NOT NULL GROUP BY 1 HAVING count(*) >= ${minCount}`
  const weighed = hashes.once(
    `SELECT array_agg(v ORDER BY n DESC, o) AS v, array_agg(s ORDER BY s) AS s FROM (SELECT v, n, v::text COLLATE "C" AS o,
       (sum(n) OVER (ORDER BY n DESC, v::text COLLATE "C") / sum(n) OVER ())::float8 AS s FROM (${counted}) c) w`,
  )
  const unit = `(${hash} & 9007199254740991)::float8 / 9007199254740992::float8`
  return `CASE WHEN ${value} IS NOT NULL THEN (SELECT v FROM ${weighed})[1 + width_bucket(${unit}, (SELECT s FROM ${weighed}))] END`
}

/**
 * Builds the document from its listed members only, so that no other value gets in. Builds text, which COPY sends anyway,
 * because building a jsonb takes several times as long.
 */
function maskJson(value: string, node: JsonNode, place: Place): string {
  if (node.rule) return maskLeaf(node.rule, value, place)
  if (value.startsWith('(')) return maskJson(place.hashes.value(value), node, place)
  if (node.each) {
    const inner = place.hashes.inner()
    const masked = maskJson('t.e', node.each, { ...place, hashes: inner })
    const elements = eachOf(`string_agg(${masked}, ',')`, `jsonb_array_elements(${value})`, inner)
    const count = place.hashes.value(`CASE WHEN jsonb_typeof(${value}) = 'array' THEN jsonb_array_length(${value}) END`)
    // Most lists in documents are short, and a single element needs no subquery.
    const first = maskJson(`(${value} -> 0)`, node.each, place)
    return `CASE WHEN ${count} = 0 THEN '[]' WHEN ${count} = 1 THEN '[' || ${first} || ']' WHEN ${count} > 1 THEN '[' || (${elements}) || ']' ELSE ${ifThere(value)} END`
  }
  const members = [...(node.members as Map<string, JsonNode>)].map(([name, child]) => {
    const label = `${JSON.stringify(name)}:`
    const member = `(${value} -> ${literal(name)})`
    // NULL when the member is missing; concat_ws then leaves it out.
    return child.rule
      ? maskLeaf(child.rule, member, place, label)
      : `${literal(label)} || ${maskJson(member, child, place)}`
  })
  const groups: string[] = []
  // 90 at a time: a function takes at most 100 arguments.
  for (let at = 0; at < members.length; at += 90)
    groups.push(`concat_ws(',', ${members.slice(at, at + 90).join(', ')})`)
  const all =
    groups.length === 1 ? groups[0] : `concat_ws(',', ${groups.map((group) => `nullif(${group}, '')`).join(', ')})`
  return `CASE WHEN jsonb_typeof(${value}) = 'object' THEN '{' || ${all} || '}' ELSE ${ifThere(value)} END`
}

/** JSON's `null` if the value exists, SQL's NULL if it does not. */
function ifThere(value: string, label = ''): string {
  return `CASE WHEN ${value} IS NOT NULL THEN ${literal(`${label}null`)} END`
}

/** Rules whose results never need JSON escaping. */
const BARE = new Set<string>(['email', 'name', 'phone', 'address', 'text', 'uuid', 'card'])

/** A member's label and masked value as JSON text; NULL if the member does not exist. Text rules produce strings. */
function maskLeaf(rule: LeafRule, value: string, place: Place, label = ''): string {
  const labelled = (text: string) => (label ? `${literal(label)} || ${text}` : text)
  if ('keep' in rule) return labelled(`${value}::text`)
  const member = /^\((.*) -> ('(?:[^']|'')*')\)$/s.exec(value)
  if (rule.use === 'null') return ifThere(value, label)
  if (rule.use === 'constant')
    return `CASE WHEN ${value} IS NOT NULL THEN ${literal(label + JSON.stringify(rule.value))} END`
  if (rule.use === 'number') {
    const column: MaskColumn = { ...place.column, type: 'numeric', family: 'numeric' }
    const there = member ? place.hashes.value(value) : value
    const number = place.hashes.value(`CASE WHEN jsonb_typeof(${there}) = 'number' THEN ${there}::numeric END`)
    const moved = noise(rule, number, column, place.hashes.lightNumber(place.domain, number))
    return `coalesce(${labelled(`${moved}::text`)}, ${ifThere(there, label)})`
  }
  const text = place.hashes.value(member ? `(${member[1]} ->> ${member[2]})` : `(${value} #>> '{}')`)
  const domain = ('domain' in rule && rule.domain) || place.domain
  const masked = maskText(rule, text, { maxLength: null }, { ...place, domain })
  const bare = BARE.has(rule.use) || (rule.use === 'hash' && !rule.prefix)
  const quoted = bare ? `${literal(`${label}"`)} || ${masked} || '"'` : labelled(`to_json((${masked})::text)::text`)
  return `coalesce(${quoted}, ${ifThere(value, label)})`
}

const REUSES = new Set<UseRule['use']>(['null', 'constant', 'number', 'date', 'choice'])

/** Whether a result can equal another original by design: a chosen, shifted or constant value, or a postal code. */
export function bringsBack(rule: Exclude<LeafRule, { keep: true }> | UseRule): boolean {
  return REUSES.has(rule.use) || ('part' in rule && rule.part === 'postcode')
}
