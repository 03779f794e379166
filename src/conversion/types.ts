import type { Column, Type, TypeName } from '../model/catalog.ts'
import { localeOf } from '../model/collation.ts'
import { own } from '../model/records.ts'
import { qualified } from '../runtime/database.ts'
import { NO_ARRAYS, type Translation, translate } from './expressions.ts'
import type { Version } from './rules.ts'
import type { Work } from './work.ts'

/** A type on the target, and the rule that chose it. */
export interface TypeChoice {
  type: string
  rule: string
}

interface Mapping {
  /** The type's name; `%m` stands for the source's type modifier, such as `(10,2)`. */
  type: string
  rule: string
  since?: Version
  /** Type for targets older than `since`. Default: STRING. */
  before?: string
}

const plain = (type: string, rule = 'type.basic'): Mapping => ({ type, rule })

/** Built-in PostgreSQL types, by pg_type.typname. */
const BUILT_IN: Record<string, Mapping> = {
  int2: plain('INT2', 'type.integer'),
  int4: plain('INT4', 'type.integer'),
  int8: plain('INT8', 'type.integer'),
  float4: plain('FLOAT4'),
  float8: plain('FLOAT8'),
  numeric: plain('DECIMAL%m'),
  bool: plain('BOOL'),
  text: plain('STRING'),
  varchar: plain('VARCHAR%m'),
  bpchar: plain('CHAR%m', 'type.char'),
  bytea: plain('BYTES'),
  uuid: plain('UUID'),
  date: plain('DATE'),
  time: plain('TIME%m', 'type.timestamp'),
  timetz: plain('TIMETZ%m', 'type.timestamp'),
  timestamp: plain('TIMESTAMP%m', 'type.timestamp'),
  timestamptz: plain('TIMESTAMPTZ%m', 'type.timestamp'),
  interval: plain('INTERVAL', 'type.interval'),
  jsonb: plain('JSONB'),
  json: plain('JSONB', 'type.json'),
  inet: plain('INET'),
  cidr: plain('INET', 'type.network'),
  macaddr: plain('STRING', 'type.mac-address'),
  macaddr8: plain('STRING', 'type.mac-address'),
  bit: plain('BIT%m', 'type.bit'),
  varbit: plain('VARBIT%m', 'type.bit'),
  money: plain('DECIMAL(19,2)', 'type.money'),
  xml: plain('STRING', 'type.xml'),
  tsvector: plain('TSVECTOR', 'type.full-text'),
  tsquery: plain('TSQUERY', 'type.full-text'),
  char: plain('"char"', 'type.system'),
  name: plain('NAME', 'type.system'),
  oid: plain('OID', 'type.system'),
  jsonpath: { type: 'JSONPATH', rule: 'type.jsonpath', since: [25, 2] },
}

const GEOMETRIC = /^(point|line|lseg|box|path|polygon|circle)$/
const INTERNAL = /^(xid8?|cid|tid|txid_snapshot|pg_snapshot|pg_lsn|aclitem|refcursor|reg\w+|int2vector|oidvector)$/

/** Extension types, by name. */
const EXTENSIONS: Record<string, Mapping> = {
  citext: { type: 'CITEXT', rule: 'type.citext', since: [25, 3] },
  ltree: { type: 'LTREE', rule: 'type.ltree', since: [25, 4] },
  lquery: plain('STRING', 'type.extension'),
  vector: { type: 'VECTOR%m', rule: 'type.vector', since: [24, 2] },
  hstore: plain('JSONB', 'type.hstore'),
  geometry: plain('GEOMETRY%m', 'type.postgis'),
  geography: plain('GEOGRAPHY%m', 'type.postgis'),
  box2d: plain('BOX2D', 'type.postgis'),
}

function mapping({ name, schema, kind, extension }: TypeName): Mapping {
  if (kind === 'r' || kind === 'm') return plain('STRING', 'type.range')
  if (kind === 'c') return plain('JSONB', 'type.composite')
  if (schema === 'pg_catalog') {
    const found = own(BUILT_IN, name)
    if (found) return found
    if (GEOMETRIC.test(name)) return plain('STRING', 'type.geometric')
    if (INTERNAL.test(name)) return plain('STRING', 'type.internal')
    return plain('STRING', 'type.unknown')
  }
  return own(EXTENSIONS, name) ?? plain('STRING', extension ? 'type.extension' : 'type.unknown')
}

/** The target's type for a column or a domain's base type. The caller converts the domain's constraints. */
export function chooseType(work: Work, type: TypeName, dimensions = 0): TypeChoice {
  const decided = work.decisions.types?.[type.text] ?? work.decisions.types?.[type.name]
  const found = decided ? { type: decided, rule: 'override' } : scalar(work, type)
  if (!type.array) return found
  if (found.type.startsWith('JSONB')) return { type: 'JSONB', rule: 'type.array-element' }
  if (NO_ARRAYS.test(found.type)) return { type: 'STRING[]', rule: 'type.array-element' }
  // An array of a domain over arrays has two dimensions.
  if (found.type.endsWith('[]')) return { type: found.type, rule: 'type.array-dimensions' }
  const rule = dimensions > 1 ? 'type.array-dimensions' : PLAIN.has(found.rule) ? 'type.array' : found.rule
  return { type: `${found.type}[]`, rule }
}

/** Rules that have nothing to add for arrays of the type, which get the rule `type.array` instead. */
const PLAIN = new Set(['type.basic', 'type.integer', 'type.enum', 'type.timestamp', 'type.interval', 'type.bit'])

function scalar(work: Work, type: TypeName): TypeChoice {
  const own = work.typeOf(type)
  if (type.kind === 'e' && own) {
    // An enum from another schema is created in this schema, because a migration moves only one schema.
    return { type: qualified(work.schema, work.enumName(own)), rule: 'type.enum' }
  }
  if (type.kind === 'd' && own?.base) return { type: chooseType(work, own.base).type, rule: 'type.domain' }
  // Without a length, CHAR holds one character, but `bpchar` holds any number of characters.
  if (type.name === 'bpchar' && type.schema === 'pg_catalog' && type.modifier === null)
    return { type: 'STRING', rule: 'type.char' }
  if (type.name === 'numeric' && type.schema === 'pg_catalog') return numeric(type)
  if (type.name === 'interval' && type.schema === 'pg_catalog')
    return { type: type.text.replace(/\[\]$/, '').toUpperCase(), rule: 'type.interval' }
  const found = mapping(type)
  if (found.since && !work.has(found.since)) return { type: found.before ?? 'STRING', rule: found.rule }
  return { type: found.type.replace('%m', type.modifier ?? ''), rule: found.rule }
}

/** CockroachDB requires 0 <= scale <= precision. */
function numeric({ modifier }: TypeName): TypeChoice {
  if (modifier === null) return { type: 'DECIMAL', rule: 'type.basic' }
  const [precision = 0, scale = 0] = modifier.slice(1, -1).split(',').map(Number)
  const fits = scale >= 0 && scale <= precision
  return fits ? { type: `DECIMAL${modifier}`, rule: 'type.basic' } : { type: 'DECIMAL', rule: 'type.numeric' }
}

const CASTS: Record<string, string> = {
  integer: 'INT4',
  smallint: 'INT2',
  bigint: 'INT8',
  'character varying': 'VARCHAR',
  bpchar: 'STRING',
  character: 'CHAR',
  boolean: 'BOOL',
  'double precision': 'FLOAT8',
  real: 'FLOAT4',
  'timestamp without time zone': 'TIMESTAMP',
  'timestamp with time zone': 'TIMESTAMPTZ',
  'time without time zone': 'TIME',
  'time with time zone': 'TIMETZ',
  'bit varying': 'VARBIT',
  bit: 'VARBIT',
  '"bit"': 'VARBIT',
  '"char"': '"char"',
  regclass: 'regclass',
  json: 'JSONB',
}

/**
 * The target's type for a cast. `text` is the type as PostgreSQL prints it. Undefined if the target has no such type.
 */
function castType(work: Work, text: string): string | undefined {
  const [, base = text, modifier = '', zone = ''] = /^(.*?)(\([\d,-]+\))?( with(?:out)? time zone)?$/.exec(text) ?? []
  const known = CASTS[base + zone]
  if (known) return known + modifier
  const name = base.replaceAll('"', '').split('.')
  const type = name.at(-1) as string
  const own = name.length === 2 ? work.types.get(name.join('.')) : undefined
  if (own?.kind === 'enum') return qualified(work.schema, work.enumName(own))
  if (own?.base) return castType(work, own.base.text)
  if (own) return undefined
  const found = name.length === 1 ? BUILT_IN[type] : EXTENSIONS[type]
  if (!found || /^type\.(money|xml|mac-address|hstore)$/.test(found.rule)) return undefined
  if (found.since && !work.has(found.since)) return 'STRING'
  return found.type.replace('%m', modifier)
}

/** A domain and the domains that it is based on, outermost first. */
export function domainsOf(work: Work, column: Column): Type[] {
  const found: Type[] = []
  if (column.type.array) return found
  for (let type = work.typeOf(column.type); type?.kind === 'domain' && type.base; type = work.typeOf(type.base))
    found.push(type)
  return found
}

/** The collation of the column, or else of its domain. */
export function collationOf(work: Work, column: Column): Column['collation'] {
  return column.collation ?? domainsOf(work, column).find((each) => each.collation)?.collation ?? null
}

function collatedColumns(work: Work, table: string): Set<string> {
  const columns = work.catalog.tables.find((each) => each.name === table)?.columns ?? []
  const collated = columns.filter((column) => {
    const decided = own(work.table(table).columns, column.name)?.collation
    const collation = collationOf(work, column)
    return decided === undefined ? Boolean(collation && localeOf(collation)) : decided !== ''
  })
  return new Set(collated.map((each) => each.name))
}

/** Translates an expression over the columns of `table` to CockroachDB's syntax. */
export function translateIn(work: Work, table: string, expression: string): Translation {
  return translate(expression, {
    castType: (name) => castType(work, name),
    collated: work.collated(table, () => collatedColumns(work, table)),
    hasSequence: (name) => work.hasSequence(name),
  })
}
