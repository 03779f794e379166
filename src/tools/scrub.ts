import { createHmac, randomBytes } from 'node:crypto'
import { redact } from '../runtime/secrets.ts'
import { bareName, type MoltEvent, parseEvent } from './events.ts'

/**
 * Removes row values from the tools' output. Keeps the names of tables, columns and constraints, because messages are
 * useless without them. Hides everything that is not known to be a name, so that unknown messages are safe too.
 */

/** Words that precede a quoted name. Any other quoted text may be a value. */
const NAMES =
  /(?:\b(?:relation|table|column|constraint|index|type|schema|database|collation|publication|slot|plugin|role|user|function|sequence|extension|partition|parameter|trigger|template|name|flag|flag\(s\)|command|for "molt"|shorthand flag:)|--[a-z-]+)[ =:]*$/i

/** Parts of messages that can contain values in any form, with their replacements. */
const CUTS: [RegExp, string][] = [
  // CockroachDB: `validation of CHECK "total >= 0" failed on row: id=7, email='…'`. Must be first, because a value in
  // it can match the other patterns.
  [/(\bfailed on row: )[\s\S]*$/i, '$1…'],
  [/(\bforeign key violation: "[^"]*" row )[\s\S]*?( has no match in "[^"]*")?$/i, '$1…$2'],
  // An import error from CockroachDB contains the file's URL, including keys, and the whole row.
  [/\b(s3|gs|azure-blob|azure|https?):\/\/[^\s'"]*?([^/\s'"?]*)(?:\?[^\s'":]*)?(?=[\s'",:;]|$)/gi, '$1://…/$2'],
  [/ \(row: [\s\S]*$/, ' (row: …)'],
  [/(error parsing row \d+: parse )("[^"]*" as [\w()]+: )[\s\S]*$/, '$1column $2… (row: …)'],
  [/(ingested key collides with an existing one: |duplicate key: )[\s\S]*$/, '$1…'],
  [/(Failing row contains )\([\s\S]*$/, '$1(…)'],
  [/\)=\([\s\S]*\)( already exists| is not present in table| is still referenced from table| conflicts)/, ')=(…)$1'],
  [/\)=\((?!…\))[\s\S]*$/, ')=(…)'],
  [/\bkey \[[\s\S]*\]/, 'key […]'],
  [/\bvalue [\s\S]* (\([\w.*[\]{} ]+\)) of type OID/, 'value … $1 of type OID'],
  [
    /((?:invalid input (?:syntax|value) for|value out of range|out of range for|malformed|could not (?:parse|convert|decode)|failed to (?:parse|decode)|error parsing(?! row \d+: )|invalid byte sequence|invalid value for|parsing as type)[^"':]*:? ?)["':][\s\S]*$/i,
    '$1…',
  ],
  [/\bvalue ["'(][\s\S]*?(is out of range|too long|violates|not found)/, 'value … $1'],
  [/(\bCOPY [^:]*, line \d+(?:, column [^:]*)?: )[\s\S]*$/, '$1…'],
  [/(\bJSON data, line \d+: )[\s\S]*$/, '$1…'],
  // pgx quotes nothing: `unable to encode 4111 into binary format`, `cannot scan alice into *int`.
  [
    /\b((?:unable to|cannot|could not|failed to) (?:encode|scan|convert|assign|write|unmarshal)|parsing time|copying row) [\s\S]*$/i,
    '$1 …',
  ],
  [/\b(row) [\s\S]* (could not be|cannot be|was not|has no match in)/i, '$1 … $2'],
  [/\bToken [\s\S]* is invalid/, 'Token … is invalid'],
]

/** Characters. The tools' own messages are shorter, so a longer message contains rows. */
const LONGEST = 16 * 1024

/**
 * E-mail addresses and card numbers, which occur only in row values. Matches start only at word boundaries, because
 * trying every character of a long value would take seconds.
 */
const PERSONAL =
  /(?<![^\s@<>()[\]"'=:,;])[^\s@<>()[\]"'=:,;]+@[^\s@<>()[\]"'=:,;]+\.[^\s@<>()[\]"'=:,;.]{2,}|\b\d(?:[ -]?\d){11,18}\b/g

/**
 * Removes values from a message: `Key (code)=(…) already exists`, `invalid input syntax for type integer: …`. Also
 * removes our passwords, because the message is written to files and to the ledger, where the runner does not mask
 * secrets.
 */
export function scrubText(said: string): string {
  if (said.length > LONGEST) return `(a text of ${said.length} characters)`
  const text = redact(said)
  const state = /(?<!\s)\s*\(SQLSTATE \w{5}\)\s*$/.exec(text)?.[0] ?? ''
  let out = text.slice(0, text.length - state.length)
  for (const [regex, replacement] of CUTS) out = out.replace(regex, replacement)
  out = out.replace(/"[^"]*"(?:\."[^"]*")+|"(?:[^"\\]|\\.)*(?:"|$)/g, (quoted, at: number) =>
    /^"[^"]*"\./.test(quoted) || NAMES.test(out.slice(0, at)) ? quoted : '"…"',
  )
  out = out.replace(/(?<![\w)])'(?:[^'\\]|\\.)*'/g, (quoted, at: number) =>
    NAMES.test(out.slice(0, at)) ? quoted : "'…'",
  )
  // An exception raised by a user's trigger can quote anything.
  if (/P0001/.test(state)) out = out.replace(/(^|: )[^:]*$/, '$1(an error raised by a function in the database)')
  return out.replace(PERSONAL, '…') + state
}

/** Fields of `molt`'s events that contain names, counts or times. */
const PLAIN = new Set([
  ...[
    'level',
    'type',
    'time',
    'table',
    'schema',
    'source_table',
    'target_table',
    'table_schema',
    'table_name',
    'tables',
  ],
  ...[
    'skipped_unmigratable_tables',
    'fetch_id',
    'cdc_cursor',
    'continuation_token',
    'mismatch_tag',
    'file',
    'file_name',
  ],
  'net_duration',
  'export_duration',
  'import_duration',
  'listen-addr',
  'crdb-access-addr',
  'num_tables',
])
const PROSE = new Set(['message', 'error', 'reason', 'mismatch_info', 'hint', 'detail'])
/**
 * Messages of events about a single row. The `type` of such an event is `data`, but other events have this type too.
 */
const ROW = /^(mismatching row|missing row|extraneous row)/

/** Hashes a row's key. Within a migration, the same key has the same hash, which does not reveal the key. */
export type KeyHash = (table: string, key: readonly unknown[]) => string

/** @param secret key of the HMAC. Random by default, so that the hashes of two runs cannot be compared */
export function keyHash(secret: string | Buffer = randomBytes(32)): KeyHash {
  return (table, key) =>
    createHmac('sha256', secret)
      .update(JSON.stringify([table, ...key.map(String)]))
      .digest('hex')
      .slice(0, 16)
}

/**
 * Makes an event safe to write to a file. Of a row, keeps only the hashed key and the names of the differing columns.
 */
function scrubEvent(event: MoltEvent, hash: KeyHash): MoltEvent {
  const row = ROW.test(event.message ?? '') || 'primary_key' in event
  const out: MoltEvent = {}
  for (const [field, value] of Object.entries(event)) {
    if (PLAIN.has(field)) out[field] = value
    else if (PROSE.has(field)) out[field] = typeof value === 'string' ? scrubText(value) : '…'
    else if (row && ['primary_key', 'source_values', 'target_values'].includes(field)) continue
    else out[field] = (typeof value === 'number' && !row) || typeof value === 'boolean' ? value : '…'
  }
  if (!row) return out
  if (Array.isArray(event.primary_key)) out.key_hash = hash(bareName(`x.${event.table_name}`), event.primary_key)
  const columns = Object.keys((event.source_values ?? event.target_values ?? {}) as object)
  if (columns.length) out.columns = columns
  return out
}

/** Scrubs a line that `molt` printed on either stream. */
export function moltScrubber(hash: KeyHash = keyHash()): (line: string) => string {
  return (line) => {
    const event = parseEvent(line)
    if (event) return JSON.stringify(scrubEvent(event, hash))
    // A fragment of a broken event can start anywhere, so the whole fragment may be a value.
    const error = /^(Error|ERROR|panic|fatal error): /.test(line)
    if (line.startsWith('{') || (!error && /"\s*[:,}\]]|[[{,:]\s*"/.test(line)))
      return `(a broken line of ${line.length} characters)`
    return scrubText(line)
  }
}

const FIELD = /\b([\w.]+)=("(?:[^"\\]|\\.)*(?:"|$)|[^\s"]+)/g
/** The only fields of a JSON database error that are safe to print. */
const ERROR_FIELDS = ['severity', 'code', 'schemaName', 'tableName', 'columnName', 'dataTypeName', 'constraintName']

/** Scrubs a line that `replicator` printed, in any of its formats. */
export function scrubReplicator(line: string): string {
  if (line.startsWith('{')) return scrubJsonLine(line)
  const head = /^[A-Z]{4,7}\s+\[[^\]]*\]\s+/.exec(line)?.[0] ?? ''
  let out = head
  let at = head.length
  for (const match of line.slice(at).matchAll(FIELD)) {
    const start = head.length + match.index
    out += `${scrubText(line.slice(at, start))}${match[1]}=${scrubField(match[1] as string, match[2] as string)}`
    at = start + match[0].length
  }
  return out + scrubText(line.slice(at))
}

function scrubField(name: string, value: string): string {
  if (!value.startsWith('"')) return value
  if (name === 'time') return value
  const text = unquoteGo(value)
  if (text === undefined || name === 'detail') return '"…"'
  return JSON.stringify(name === 'sql' ? errorFields(text) : scrubText(text))
}

function scrubJsonLine(line: string): string {
  try {
    return JSON.stringify(JSON.parse(line), (key, value) => {
      if (typeof value !== 'string') return value
      if (key === 'severity' || key === 'table' || key === 'schema' || /^\d+$/.test(key)) return value
      return key === 'detail' || key === 'sql' ? '…' : scrubText(value)
    })
  } catch {
    return `(a broken line of ${line.length} characters)`
  }
}

function errorFields(text: string): string {
  try {
    const error = JSON.parse(text) as Record<string, unknown>
    const kept = Object.fromEntries(ERROR_FIELDS.filter((field) => error[field]).map((field) => [field, error[field]]))
    return JSON.stringify({ ...kept, message: scrubText(String(error.message ?? '')) })
  } catch {
    return '…'
  }
}

/** Parses text quoted by Go, which is JSON except for escapes such as `\x` and `\a`; undefined when truncated. */
function unquoteGo(text: string): string | undefined {
  try {
    return JSON.parse(text.replace(/\\(?:x([0-9a-f]{2})|([av']))/gi, (_, hex) => (hex ? `\\u00${hex}` : ' ')))
  } catch {
    return undefined
  }
}
