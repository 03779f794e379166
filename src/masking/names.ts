import type { MaskColumn } from './catalog.ts'
import { cutTo } from './expressions.ts'

/** A suggested rule as YAML, and the reason. Contains `TODO` for each decision that is left to you. */
export interface Suggestion {
  rule: string
  why: string
}

const PERSONAL: [RegExp, string, string][] = [
  [/e_?mail|(^|_)mail(_?addr(ess)?)?$/, '{ use: email, domain: email }', 'an e-mail address'],
  [/^((first|given|fore|middle)_?names?|f_?name)$/, '{ use: name, part: first }', 'a first name'],
  [/^((last|family|sur|maiden)_?names?|l_?name)$|surname/, '{ use: name, part: last }', 'a last name'],
  [
    /^(full_?name|display_?name|contact(_name)?|recipient|holder|author|agent|card_?holder|account_?holder)$|(customer|person|user|owner|billing|shipping|contact|holder|recipient|sender|author|employee|patient|member|client|guest|passenger)_?name$/,
    '{ use: name }',
    'a name',
  ],
  [/phone|mobile|^(tel|fax|msisdn)|_(tel|fax)$|^contact_?(no|num|number)$/, '{ use: phone }', 'a telephone number'],
  [/^(card|pan|cc)(_?(no|num|number))?$|card_?(no|num|number)|credit_?card/, '{ use: card }', 'a card number'],
  [/(^|_)(bic|routing)(_|$)|(iban|account_?(no|num|number))(_|$)/, '{ use: hash, length: 20 }', 'a bank account'],
  [
    /(^|_)(ssn|nino|rrn|vat)(_|$)|(national|tax|vat)_?(id|no|num|number)(_|$)|passport|driver|licen[cs]e/,
    '{ use: hash, length: 16 }',
    'a number that identifies a person',
  ],
  [
    /^(address|street(_?name)?|line_?[12]|address_?(line)?_?[12])$|(home|street|work|mailing|postal|delivery|shipping|billing)_?address/,
    '{ use: address }',
    'a street address',
  ],
  [/(^|_)(city|town|locality)$/, '{ use: address, part: city }', 'a place'],
  [/post(al)?_?code|(^|_)zip(_?code)?$/, '{ use: address, part: postcode }', 'a postal code'],
  [/birth|(^|_)dob$|^born(_|$)/, '{ use: date, days: 60, by: TODO }', 'a date of birth'],
  [/passwo?r?d|(^|_)(pwd|salt|otp|pin)(_|$)|secret|token|api_?key/, '{ use: constant, value: masked }', 'a secret'],
  [/^(user_?name|login|nick(name)?|handle|alias|user)$/, '{ use: hash, length: 16 }', 'an account name'],
  [/(^|_)ip(_?addr(ess)?)?$|user_?agent|fingerprint|device_?id|session|cookie/, '{ use: hash }', 'a device identifier'],
  [/latitude|longitude|^(lat|lon|lng)$/, '{ use: number, absolute: 0.5 }', 'a location'],
  [/salary|income|wage/, '{ use: number, noise: 0.2 }', 'an income'],
  [/gender|^sex$|religion|ethnic|national(ity)?$|marital|health|diagnos/, '{ use: choice }', 'a personal attribute'],
  [
    /^(notes?|comments?|body|message|description|remarks?|bio|about|content|text|reason|subject|title)$|_(notes?|text|comment|message)$/,
    '{ use: text }',
    'free text, which can contain anything',
  ],
]

const PEOPLE =
  /(^|_)(customer|user|person|employee|contact|member|patient|client|subscriber|author)s?$|(^|_)(people|staff)$/

/** The kind of personal data that a name suggests; undefined if none. Reads only names, no values. */
export function looksPersonal(name: string, table?: string): string | undefined {
  if (plain(name) === 'name') return table !== undefined && PEOPLE.test(plain(table)) ? 'a name' : undefined
  return personal(name)?.[2]
}

/** When suggesting rules, takes a column `name` for a person's name, although it may be a product's. */
function personal(name: string): [RegExp, string, string] | undefined {
  if (plain(name) === 'name') return [/^name$/, '{ use: name }', 'a name']
  return PERSONAL.find(([regex]) => regex.test(plain(name)))
}

function plain(name: string): string {
  return name
    .replace(/([a-z0-9])([A-Z])/g, '$1_$2')
    .replace(/[^\p{L}\p{N}]+/gu, '_')
    .toLowerCase()
}

/** Suggests a rule for a column, from its name and type alone. */
export function suggest(column: MaskColumn): Suggestion {
  const { family, name, array } = column
  const known = personal(name)
  if (family === 'boolean') return keep('a boolean does not identify a person')
  if (family === 'enum') return keep('a label of an enum')
  if (column.labels && !known?.[1].includes('choice')) return keep('a label that a check lists')
  if (family === 'json')
    return { rule: '{ use: json, paths: { TODO: { use: text } } }', why: 'a document: list its members' }
  if (family === 'uuid') return { rule: '{ use: uuid }', why: 'an identifier' }
  if (family === 'bytea') return { rule: '{ use: hash }', why: 'bytes of any kind' }
  if (family === 'timestamp') return { rule: '{ use: date, days: 30, by: TODO }', why: 'a timestamp' }
  if (family === 'date') return { rule: '{ use: date, days: 60, by: TODO }', why: known?.[2] ?? 'a date' }
  const numeric = family === 'integer' || family === 'numeric' || family === 'float'
  if (numeric && known?.[1].includes('number')) return { rule: known[1], why: known[2] }
  // With noise, a telephone number would keep its first digits.
  if (numeric && known && ['integer', 'bigint'].includes(column.type)) return { rule: '{ use: hash }', why: known[2] }
  if (numeric && known)
    return keep(`TODO: ${known[2]} as a number; keep it only for a reason, or use null, constant or sql`)
  if (numeric && /(^|_)id$/.test(plain(name)))
    return keep('TODO: an identifier; keep it, or list under `references` what it refers to')
  if (numeric && column.unique) return keep('TODO: a number in a unique index; state why it may be seen, or use sql')
  if (numeric) return keep('TODO: a number; keep it, or { use: number, noise: 0.1 }')
  if (column.unique && known?.[1].includes('email') === false)
    return { rule: '{ use: hash }', why: `${known[2]}, and unique` }
  if (family === 'text' && known?.[1].includes('use: email')) return emailRule(column, known[2])
  if (family === 'text' && known) return { rule: known[1], why: known[2] }
  if (family === 'text')
    return column.unique
      ? { rule: '{ use: hash }', why: 'a unique text' }
      : { rule: array ? '{ use: hash }' : '{ use: text }', why: 'a text' }
  if (column.type === 'tsvector' && !column.notNull)
    return { rule: "{ use: 'null' }", why: 'words of other columns; rebuild it after the copy' }
  const looks = known ? `, looks like ${known[2]}` : ''
  return keep(`TODO: ${column.type}${looks}; state why it may be seen, or use null, constant or sql`)
}

/** Uses the domain of all e-mail addresses, unless the column would truncate them. */
export function emailRule(column: MaskColumn, why: string): Suggestion {
  const whole = cutTo({ use: 'email' }, column.maxLength) === undefined
  return { rule: whole ? '{ use: email, domain: email }' : '{ use: email }', why }
}

function keep(why: string): Suggestion {
  return { rule: `{ keep: true, reason: ${JSON.stringify(why)} }`, why: why.replace(/^TODO: /, '') }
}
